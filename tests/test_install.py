"""From the code on the server's screen to signed in: what pair_phone.py's first code has each app fetch, check and run."""

import contextlib
import functools
import hashlib
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest
from harness import ROOT, SCRIPT, Browser
from test_pair_phone import needs, needs_zbar, program, scanned
from test_phones import ASHELL_APP, PASSWORD, YES, ashell, bare_ashell, pythonista, wheels  # noqa: F401 (fixtures)
from waiting import until

pytestmark = [needs_zbar, needs('scp', 'openssh-client')]


class AtServer:
    """pair_phone.py, run at the server by its account, and the code that it shows."""

    def __init__(self, server, folder, *words, changes=()):
        self.picture = folder / 'code.png'
        sshd = folder / 'sshd'
        sshd.mkdir(exist_ok=True)
        for key in server.keys():
            (sshd / f'ssh_host_{key.get_name()}_key.pub').write_text(f'{key.get_name()} {key.get_base64()}\n')
        self.process = subprocess.Popen(
            [sys.executable, '-c', program(sshd, *changes), '--host', server.address, '--port', str(server.port), '--user', server.user,
             '--name', 'home', '--png', str(self.picture), *words],
            env=server.base_environment() | {'PYTHONPATH': os.pathsep.join(sys.path)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @functools.cached_property
    def link(self):
        """What a camera reads of it."""
        until(lambda: self.picture.exists() or self.process.poll(), 'the code')
        assert self.picture.exists(), self.process.stderr.read()
        return scanned(self.picture)

    def end(self):
        """(exit status, output, errors)"""
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors


@pytest.fixture
def at_server(server, tmp_path):
    """`at_server(word, …)` runs pair_phone.py at the server."""
    with contextlib.ExitStack() as stack:
        def run(*words, **how):
            shown = AtServer(server, tmp_path, *words, **how)
            stack.callback(shown.process.wait)
            stack.callback(shown.process.kill)
            return shown
        yield run


# --- Pythonista ---------------------------------------------------------------------------------------------

def scan_with_pythonista(handset, link):
    """Start what the app runs for a link, once its person has agreed to run code at all."""
    url = urllib.parse.urlsplit(link)
    assert url.scheme == 'pythonista3' and not url.netloc
    code = urllib.parse.parse_qs(url.query, strict_parsing=True)['exec'][0]
    handset.desk.mkdir(exist_ok=True)
    (handset.desk / 'exec.py').write_text(code)
    with contextlib.suppress(FileNotFoundError):
        (handset.folder / 'codex_login.py').unlink()
    return handset.start(script=handset.desk / 'exec.py')


def test_one_scan_puts_the_script_into_pythonista_and_signs_in(at_server, pythonista, server):
    shown = at_server('--app', 'pythonista')
    pythonista.phone.will_answer(('console.alert', YES), ('console.password_alert', PASSWORD))
    script = scan_with_pythonista(pythonista, shown.link)
    assert Browser(pythonista.sign_in_page(script)).sign_in().status == 200
    assert script.wait() == 0, script.report()
    assert (pythonista.folder / 'codex_login.py').read_bytes() == SCRIPT.read_bytes()
    assert server.count['password'] == 1
    status, said, _ = shown.end()
    assert status == 0 and said.index('fetches codex_login.py from') < said.index('Scan it') < said.index('The phone has it.')


def test_what_is_not_the_file_that_the_code_names_is_not_run(at_server, pythonista, server):
    shown = at_server('--app', 'pythonista', changes=[
        'honest = pair_phone.Door.__init__',
        'pair_phone.Door.__init__ = lambda self, host, data: honest(self, host, data + b" # and more")'])
    script = scan_with_pythonista(pythonista, shown.link)
    assert script.wait() == 1
    assert 'did not come. Nothing was run.' in script.stderr
    assert not (pythonista.folder / 'codex_login.py').exists() and server.connections == 0


def test_a_server_that_pythonista_cannot_reach_is_said(at_server, pythonista, server):
    shown = at_server('--app', 'pythonista')
    link = shown.link
    shown.process.kill()
    shown.end()
    script = scan_with_pythonista(pythonista, link)
    assert script.wait() == 1 and 'did not come. Nothing was run.' in script.stderr


def test_pythonista_fetches_the_script_from_an_address_where_that_is_given(at_server, pythonista, server, tmp_path):
    web = tmp_path / 'web'
    web.mkdir()
    shutil.copy(SCRIPT, web)
    with served(web) as address:
        shown = at_server('--app', 'pythonista', '--from', f'{address}/codex_login.py')
        pythonista.phone.will_answer(('console.alert', YES), ('console.password_alert', PASSWORD))
        script = scan_with_pythonista(pythonista, shown.link)
        assert Browser(pythonista.sign_in_page(script)).sign_in().status == 200
        assert script.wait() == 0, script.report()
    status, said, errors = shown.end()
    assert hashlib.sha256(SCRIPT.read_bytes()).hexdigest() in said
    assert status == 1 and 'columns wide' in errors and '--png' in errors       # no code of it fits a usual window


@contextlib.contextmanager
def served(folder):
    """The address of a web server that has a folder."""
    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=folder)

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Files) as web:
        web.daemon_threads = True
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{web.server_address[1]}'
        web.shutdown()


# --- a-Shell ------------------------------------------------------------------------------------------------

def a_shell_commands(handset, variables=()):
    """Have a-Shell's own scp and python3, and what lies in Documents/bin, as its commands."""
    bin, documents = handset.desk / 'bin', handset.folder / 'bin'
    bin.mkdir(parents=True, exist_ok=True)
    (handset.phone.home / 'tmp').mkdir(exist_ok=True)
    python = f'exec {handset.stand_in.python} {ASHELL_APP}'
    # Its ssh takes $HOME for ~, where a computer's asks the system; its Python says of a file that is missing one line.
    for name, line in (('python3', f'[ -f "$1" ] || {{ echo "python3: cannot open $1"; exit 2; }}\n{python} "$@"'),
                       ('scp', 'for word; do shift; set -- "$@" "$(echo "$word" | sed "s|=~/|=$HOME/|")"; done\nexec scp -O -F none "$@"'),
                       ('codex_login', f'{python} {documents}/codex_login "$@"')):
        (bin / name).write_text(f'#!/bin/sh\nPATH=${{PATH#*:}}\n{line}\n')
        (bin / name).chmod(0o755)
    handset.variables |= {'PATH': f'{bin}:{handset.environment()["PATH"]}', **dict(variables)}


def in_a_shell(handset, text):
    """Run each line as ios_system does: by itself, whatever became of the one before; it knows no other way to join them."""
    lines = handset.desk / 'lines'
    for line in text.splitlines():
        assert not re.search(r'&&|\|\||;|`|\$\(|\\', line), f'a-Shell would not understand {line}'
    quoted = [f'sh -c {shlex.quote(line)}' for line in text.splitlines()]
    lines.write_text('\n'.join(re.sub(r"^sh -c 'setenv (\S+) (\S+)'$", r'export \1=\2', line) for line in quoted) + '\n')
    return handset.start(python='sh', script=lines)


def scan_with_a_shell(handset, link):
    shutil.rmtree(handset.ssh)
    a_shell_commands(handset)
    scheme, _, command = link.partition(':')
    assert scheme == 'ashell'
    return in_a_shell(handset, urllib.parse.unquote(command))


def test_one_scan_puts_the_script_into_a_shell_and_signs_in(at_server, bare_ashell, server):
    shown = at_server('--app', 'a-shell')
    script = scan_with_a_shell(bare_ashell, shown.link)
    script.answer('password:', PASSWORD)        # scp's
    script.answer('yes/no', 'yes')
    script.answer('password:', PASSWORD)
    assert Browser(bare_ashell.sign_in_page(script)).sign_in().status == 200
    assert script.wait() == 0, script.report()
    assert (bare_ashell.folder / 'bin' / 'codex_login').read_bytes() == SCRIPT.read_bytes()
    assert 'continue connecting' not in script.screen
    status, said, _ = shown.end()
    assert status == 0 and said.index('scp, which asks for the password') < said.index('Scan it')
    handed_over = server.home / '.cache' / 'codex-login' / 'phone.py'
    assert not (handed_over.stat().st_mode | handed_over.parent.stat().st_mode) & 0o077
    assert not (bare_ashell.phone.home / 'tmp' / 'first.py').exists()


def test_a_shell_takes_nothing_from_a_server_with_another_key(at_server, bare_ashell, server):
    link = at_server('--app', 'a-shell').link
    server.seed = 2
    script = scan_with_a_shell(bare_ashell, link)
    script.wait()
    assert 'Host key verification failed' in script.screen
    assert not (bare_ashell.folder / 'bin' / 'codex_login').exists() and server.count['password'] == 0


# --- a-Shell's own package manager --------------------------------------------------------------------------

@pytest.fixture
def copy(tmp_path):
    """Somebody's copy of this project: as much of it as an installation needs."""
    for folder in ('pkg', 'scripts'):
        shutil.copytree(ROOT / folder, tmp_path / 'copy' / folder)
    return tmp_path / 'copy'


@needs('curl', 'curl')
def test_a_shells_package_manager_installs_updates_and_removes_it(copy, ashell):
    a_shell_commands(ashell)
    command = ashell.folder / 'bin' / 'codex_login'
    with served(copy) as address:
        script = in_a_shell(ashell, f'setenv PKG_SERVER {address}/pkg\npkg install codex_login\ncodex_login --version\n')
        assert script.wait() == 0 and 'Done' in script.screen and re.search(r'codex_login \d', script.screen)
        assert command.read_bytes() == SCRIPT.read_bytes()
        newer = SCRIPT.read_bytes() + b'# newer\n'
        (copy / 'scripts' / 'codex_login.py').write_bytes(newer)
        script = in_a_shell(ashell, f'setenv PKG_SERVER {address}/pkg\npkg update codex_login\n')
        assert script.wait() == 0 and command.read_bytes() == newer
    assert in_a_shell(ashell, 'pkg remove codex_login\n').wait() == 0
    assert not command.exists() and [*ashell.phone.home.glob('tmp/*'), *ashell.folder.glob('.pkg/*')] == []


@needs('curl', 'curl')
@pytest.mark.parametrize('page', [None, '<!doctype html>\n<title>Sign in to this network</title>\n'])
def test_an_error_page_in_place_of_the_script_changes_nothing(copy, ashell, page):
    a_shell_commands(ashell)
    command = ashell.folder / 'bin' / 'codex_login'
    command.parent.mkdir()
    command.write_text('the one before')
    (copy / 'scripts' / 'codex_login.py').unlink()
    if page:
        (copy / 'scripts' / 'codex_login.py').write_text(page)
    with served(copy) as address:
        script = in_a_shell(ashell, f'setenv PKG_SERVER {address}/pkg\npkg install codex_login\n')
        script.wait()
    assert 'did not come from' in script.screen and 'Nothing was changed.' in script.screen
    assert command.read_text() == 'the one before' and [*ashell.phone.home.glob('tmp/*')] == []
