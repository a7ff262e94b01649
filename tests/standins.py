"""Stand-ins for the phones' Pythons, and the paramikos that desktops have.

Each is a virtual environment in a cache folder, made on first use:

    a_shell()               a-Shell: Python 3.13, cryptography 3.4.8, neither bcrypt nor PyNaCl
    a_shell(paramiko=None)  the same before its first run: paramiko is not installed yet
    pythonista()            Pythonista 3.4: Python 3.10, paramiko 1.18, modules of the app
    pythonista('3.13')      Pythonista 3.5 beta
    matrix()                this Python with paramiko 2.12, 3.5, 4.0 and 5.1

`environment(home)` of one gives the variables to run its `python` with; what the scripts did with the
"phone" (what was copied, opened, asked, said) is in `Phone(home)`.
"""

import contextlib
import functools
import glob
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get('CODEX_LOGIN_TEST_CACHE', '~/.cache/codex-login-tests')).expanduser() / 'standins'
SYSTEM_PATH = '/usr/local/bin:/usr/bin:/bin'      # what a developer's PATH adds is no part of a phone
PARAMIKOS = ('2.12.0', '3.5.1', '4.0.0', '5.1.0')


class Missing(Exception):
    """A part this machine lacks: `part` names it, `how` says how to get it."""

    def __init__(self, part, how):
        super().__init__(f'{part} is missing. {how}')
        self.part, self.how = part, how


@dataclass(frozen=True)
class StandIn:
    """A Python to run the script with, as one device has it."""

    name: str
    python: str
    variables: dict = field(default_factory=dict)

    def environment(self, home):
        """The environment variables of a process on this device, whose folder is `home`."""
        Phone(home).prepare()
        environment = {key: os.environ[key] for key in ('LANG', 'TMPDIR') if key in os.environ}
        environment |= {'HOME': str(home), 'STAND_IN_PHONE': str(Phone(home).folder), 'PATH': SYSTEM_PATH}
        for key, value in self.variables.items():
            environment[key] = value.format(home=home, PATH=SYSTEM_PATH)
        return environment


class Phone:
    """What a script did with the phone it runs on, and what the person in front of it will answer."""

    def __init__(self, home):
        self.home = Path(home)
        self.folder = self.home.with_name(self.home.name + '.phone')

    def prepare(self):
        (self.home / 'Documents').mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(exist_ok=True)

    @property
    def calls(self):
        """Every call so far, oldest first: {'call': 'console.alert', 'args': […], 'kwargs': {…}}."""
        return self._lines('calls.jsonl')

    def called(self, name):
        """The calls of one function, such as 'webbrowser.open', or of one command, such as 'open'."""
        return [call for call in self.calls if call['call'] == name]

    def will_answer(self, *answers):
        """Script the person: each is ('console.alert', 1), or ('console.alert', CANCEL) for a tap on Cancel.

        They are given in order; a question that is not the next one, or one too many, ends the script.
        """
        self.prepare()
        (self.folder / 'answers.json').write_text(json.dumps(answers))

    @property
    def unanswered(self):
        """The scripted answers nobody asked for."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / 'answers.json').read_text())
        return []

    @property
    def violations(self):
        """What the app would not have survived, or the phone not allowed."""
        return [f'{line["what"]}\n{"".join(line["way"])}' for line in self._lines('violations.jsonl')]

    @property
    def clipboard(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / 'clipboard').read_text()
        return ''

    @clipboard.setter
    def clipboard(self, text):
        self.prepare()
        (self.folder / 'clipboard').write_text(text)

    @property
    def keychain(self):
        """{'service account': password}."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / 'keychain.json').read_text())
        return {}

    def share(self, *, url=None, urls=(), text=None):
        """Start the script from the share sheet, with this shared."""
        self.prepare()
        (self.folder / 'share.json').write_text(json.dumps({'url': url, 'urls': list(urls), 'text': text}))

    def set(self, *conditions):
        """From now on: 'shortcut' (a Shortcut runs the script in its extension; "Run in App" leaves no mark),
        'no-bridge' (to Objective-C: no class is found), 'no-window' (there is no key window), 'no-sheet', 'no-notifications'
        and 'no-paste' (the person refused them), 'no-background-time', 'no-sound', 'no-old-open' (iOS 18), 'no-browser'."""
        self.prepare()
        for condition in conditions:
            (self.folder / condition).touch()

    def unset(self, condition):
        """It is so no longer. Two more there are: 'person-thinks' (a dialog for a line stays open), and 'elsewhere', which the app sets when it
        opens a page: the person is in the browser until the test takes that away."""
        (self.folder / condition).unlink(missing_ok=True)

    @property
    def planned_notifications(self):
        """What is still to be shown."""
        return [note for note in self._notifications() if note['due'] > time.time()]

    @property
    def shown_notifications(self):
        return [note for note in self._notifications() if note['due'] <= time.time()]

    def show_notifications(self):
        """What is planned is shown now."""
        notes = [{**note, 'due': 0} for note in self._notifications()]
        (self.folder / 'notifications.json').write_text(json.dumps(notes))

    def _notifications(self):
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / 'notifications.json').read_text())
        return []

    def strays(self):
        """What lies in the home folder outside Documents and tmp, where a phone lets nobody write."""
        return sorted(str(path) for path in self.home.iterdir() if path.name not in ('Documents', 'tmp'))

    def _lines(self, name):
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]
        return []


CANCEL = {'cancel': True}


# ---- the environments ------------------------------------------------------------------------------

def a_shell(paramiko='5.1.0'):
    """a-Shell. With paramiko=None it is not installed yet; `pip install` puts it below the home folder."""
    steps = [['cryptography==3.4.8', 'cffi', 'pycryptodome==3.15.0']]
    if paramiko:
        steps.append(['--no-deps', f'paramiko=={paramiko}'])
    folder = _environment(f'a-shell-{paramiko or "bare"}', '3.13', steps)
    packages = '{home}/Documents/site-packages'
    return StandIn('a-Shell', str(folder / 'bin' / 'python'), {
        'PATH': f'{HERE / "standins" / "ashell"}:{folder / "bin"}:{{PATH}}',
        'PYTHONPATH': f'{HERE / "standins" / "ashell"}:{packages}',
        'PIP_TARGET': packages,
        'PIP_DISABLE_PIP_VERSION_CHECK': '1',
        'TERM_PROGRAM': 'a-Shell',
        'APPNAME': 'a-Shell',
        'TERM': 'xterm-256color',
    })


def pythonista(python='3.10'):
    """Pythonista 3.4, or the 3.5 beta with python='3.13'."""
    steps = [['ecdsa==0.13', 'pycryptodome==3.15.0'], ['--no-deps', 'paramiko==1.18.5']]
    # sys.executable tells the app: …/Pythonista3.app/bin/python
    folder = _environment(f'pythonista-{python}/Pythonista3.app', python, steps, _patch_as_pythonista_does)
    return StandIn(f'Pythonista (Python {python})', str(folder / 'bin' / 'python'), {
        'PYTHONPATH': f'{HERE / "standins" / "pythonista"}:{{home}}/Documents/site-packages',
    })


def desktop(paramiko):
    """This Python with that paramiko."""
    version = '{}.{}'.format(*sys.version_info)
    folder = _environment(f'paramiko-{paramiko}-{version}', version, [[f'paramiko=={paramiko}']])
    return StandIn(f'paramiko {paramiko}', str(folder / 'bin' / 'python'))


def matrix():
    """This Python with each paramiko of today."""
    return [desktop(version) for version in PARAMIKOS]


def missing_parts():
    """[(part, how to get it)] of what the stand-ins need and this machine lacks; packages aside."""
    missing = []
    for version in ('3.10', '3.13'):
        try:
            find_python(version)
        except Missing as error:
            missing.append((error.part, error.how))
    return missing


@functools.lru_cache(maxsize=None)
def find_python(version):
    """The path of an interpreter of that version, which works and can make environments; else Missing."""
    if version == '{}.{}'.format(*sys.version_info):
        return sys.executable
    name = f'python{version}'
    home = Path.home()
    candidates = [os.path.join(folder, name) for folder in os.environ.get('PATH', '').split(os.pathsep)]
    candidates += glob.glob(f'{home}/.pyenv/versions/{version}*/bin/{name}')
    candidates += glob.glob(f'{home}/.local/share/uv/python/cpython-{version}*/bin/{name}')
    for candidate in candidates:
        # A pyenv shim is there for versions that are not active, too: only running it tells.
        check = 'import ssl, venv, ensurepip, sys; print("%d.%d" % sys.version_info[:2])'
        if os.access(candidate, os.X_OK):
            run = subprocess.run([candidate, '-c', check], capture_output=True, text=True)
            if run.stdout.strip() == version:
                return candidate
    raise Missing(f'Python {version}', f'Install it: `uv python install {version}`, or `pyenv install '
                                       f'{version}`, or your system\'s python{version} and its venv package.')


def _environment(name, version, steps, patch=None):
    """The folder of a virtual environment with these packages, made where it is not there yet."""
    import fcntl
    python = find_python(version)
    recipe = repr((python, steps, patch and inspect.getsource(patch)))
    top, _, inner = name.partition('/')
    top = CACHE / f'{top}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}'
    folder = top / inner if inner else top / 'env'
    ready = top / 'ready'
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f'{top.name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            shutil.rmtree(top, ignore_errors=True)
            _run([python, '-m', 'venv', folder], 'A virtual environment', 'Install the venv module.')
            pip = [folder / 'bin' / 'python', '-m', 'pip', '--disable-pip-version-check', '-q', 'install']
            for step in steps:
                _run([*pip, *step], ' '.join(step), 'pip could not install it; is there a network?')
            if patch:
                patch(folder)
            ready.touch()
    return folder


def _run(command, part, how):
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise Missing(part, how + '\n' + run.stdout[-2000:])


def _patch_as_pythonista_does(folder):
    """What the app's maker changed in the packages so that they run on newer Pythons; pycrypto's ways."""
    [packages] = folder.glob('lib/python3.*/site-packages')

    def change(file, old, new):
        path = packages / file
        text = path.read_text()
        assert old in text, f'{file} is not as expected'
        path.write_text(text.replace(old, new))

    change('paramiko/hostkeys.py', 'from collections import Mut', 'from collections.abc import Mut')
    change('paramiko/py3compat.py', 'collections.Callable', 'collections.abc.Callable')
    change('paramiko/py3compat.py', 'import collections', 'import collections.abc')
    change('ecdsa/numbertheory.py', 'from .six.moves import reduce', 'from functools import reduce')
    # The app's own copy starts no processes while it is imported, neither to look for GMP nor to know the architecture.
    change('Crypto/Util/_raw_api.py', 'cached_architecture = []', 'cached_architecture = ["64bit", ""]')
    change('Crypto/Math/_IntegerGMP.py', 'lib = load_lib("gmp", gmp_defs)', 'raise ImportError("no GMP")')
    # pycrypto takes (and does not use) an IV in CTR mode, and knows no bcrypt.
    with open(packages / 'Crypto' / 'Cipher' / 'AES.py', 'a') as file:
        file.write('\n\n_new = new\n\n\ndef new(key, mode, *args, **kwargs):\n'
                   '    if mode == MODE_CTR and args:\n'
                   '        return _new(key, mode, counter=args[1])\n'
                   '    return _new(key, mode, *args, **kwargs)\n')
    change('Crypto/Protocol/KDF.py', '_bcrypt_hash', '_not_in_pycrypto')
