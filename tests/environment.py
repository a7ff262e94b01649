"""Gives the calling script a Python that has what the tests need; nothing outside the project is touched.

    import environment
    environment.ensure()        # goes on only where paramiko, qrcode, pyperclip, pytest and xdist can be imported

Where the running Python has them, it is used as it is. Otherwise `.venv-tests` at the project's root is made,
once, and the script starts anew in there.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path.home() / '.cache/codex-login-tests'
REQUIREMENTS = ROOT / 'requirements.txt'
ALSO = ['pytest>=7.2', 'pytest-xdist>=3.2', 'hypothesis>=6.60']
FOLDER = ROOT / '.venv-tests'
MARKER = FOLDER / 'made-for'


def ensure():
    """Return in a Python that has everything; end with a clear message where there is no way to one."""
    if sys.version_info < (3, 10):
        sys.exit('This needs Python 3.10 or newer; {} is {}.'.format(sys.executable, sys.version.split()[0]))
    if not missing_here():
        return
    python = FOLDER / 'bin' / 'python'
    with REQUIREMENTS.open() as lock:
        # Two runs at once must not build the same environment.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (python.exists() and MARKER.exists() and MARKER.read_text() == fingerprint()):
            make(python)
    if pathlib.Path(sys.prefix) == FOLDER:
        sys.exit(f'{FOLDER} lacks {", ".join(missing_here())}. Remove that folder and try again.')
    os.execv(python, [str(python), *sys.orig_argv[1:]])


def requirements():
    """Name and lowest version, as a tuple, of each package that is needed."""
    lines = REQUIREMENTS.read_text().splitlines() + ALSO
    matches = (re.match(r'([\w-]+)\s*(?:>=\s*([\d.]+))?', line) for line in lines)
    return [(match[1], _numbers(match[2] or '0')) for match in matches if match]


def missing_here():
    """The packages that the running Python lacks, or has too old."""
    missing = []
    for name, lowest in requirements():
        try:
            found = _numbers(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            found = ()
        if found < lowest:
            missing.append(name)
    return missing


def _numbers(version):
    return tuple(int(number) for number in re.findall(r'\d+', version)[:2])


def fingerprint():
    """What an environment was made for; when it changes, the environment is made anew."""
    wanted = '\n'.join([sys.version, sys.base_prefix, REQUIREMENTS.read_text(), *ALSO])
    return hashlib.sha256(wanted.encode()).hexdigest()


def make(python):
    """Build the environment, saying so."""
    names = ', '.join(name for name, _ in requirements())
    print(f'Preparing {FOLDER.name} with {names} (once, about a minute) …', file=sys.stderr, flush=True)
    try:
        import ensurepip  # noqa: F401  Debian splits it off, and venv fails half-way without it.
        import venv
    except ImportError:
        sys.exit('This Python cannot make virtual environments. On Debian and Ubuntu: '
                 'apt install python3-venv')
    try:
        venv.create(FOLDER, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f'Could not make {FOLDER}: {error}')
    command = [str(python), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check',
               '-r', str(REQUIREMENTS), *ALSO]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        last_words = '\n  '.join(result.stdout.strip().splitlines()[-3:])
        sys.exit('pip could not install what the tests need; is there a network? '
                 f'It said last:\n  {last_words}')
    MARKER.write_text(fingerprint())


def aside(name, *packages):
    """A Python that has packages which the tests' own has not, in a folder of the cache made once; None where they cannot be had."""
    import venv
    folder = CACHE / name
    python, made_for = folder / 'bin' / 'python', folder / 'made-for'
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f'{folder}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made_for.exists() or made_for.read_text() != repr((packages, sys.version)):
            print(f'Making the environment of {name} …', file=sys.stderr)
            try:
                venv.create(folder, clear=True, with_pip=True)
                subprocess.run([python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', *packages],
                               check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                return None
            made_for.write_text(repr((packages, sys.version)))
    return str(python)
