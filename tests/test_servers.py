"""Servers of several makers, each asked the same: by plain ssh first, then by the script, which does no worse.

What was seen stands in a table of scripts/README.md: `python3 tests/test_servers.py` prints it anew.
"""

import hashlib
import os
import pathlib
import re
import socket
import subprocess
import sys

if __name__ == '__main__':
    import environment
    environment.ensure()

import lab
import oracle as oracle_module
import pytest
import servers
from embedded import free_port
from harness import PATIENCE, Browser, Home, Script
from oracle import Oracle
from relay import Relay
from waiting import until

pytestmark = pytest.mark.skipif(bool(why := oracle_module.missing()), reason=str(why))
PASSWORD = 'open sesame'
TABLES = pathlib.Path(__file__).resolve().parent.parent / 'scripts' / 'README.md'

# Sums up as much as it is told of first, or all (-1), says the sum and hangs up.
SUMS = '''
import hashlib, socket, sys, threading
def answer(sock):
    with sock, sock.makefile('rb') as stream:
        sock.sendall(hashlib.sha256(stream.read(int(stream.readline() or '0'))).hexdigest().encode())
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print(flush=True)
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
'''


@pytest.fixture(scope='module', params=servers.KINDS, ids=lambda kind: kind.__name__)
def server(request):
    """One server of each kind, which nobody changes."""
    if why := request.param.missing():
        pytest.skip(why)
    with request.param(password=PASSWORD if os.geteuid() == 0 else None) as server:
        server.install('codex')
        yield server


@pytest.fixture
def home(tmp_path, server):
    home = Home(tmp_path / 'home')
    home.trust(server)
    home.make_key(server)
    yield home
    assert server.leftovers() == []


@pytest.fixture
def oracle(server, home):
    return Oracle(server, home)


@pytest.mark.parametrize('kind', ['ed25519', 'ecdsa', 'rsa'])
def test_a_key_of_any_kind(server, home, oracle, kind):
    (home.ssh / 'id_ed25519').unlink()
    path = home.ssh / f'id_{kind}'
    lab.make_key(path, kind)
    server.authorize(path.with_suffix('.pub').read_text())
    both = oracle.run('-o', 'BatchMode=yes', command='echo in')
    assert (both.script.stdout, both.script.status) == (b'in\n', 0)
    # Conch takes an RSA key only with a signature by SHA-1, or where the client does not wait to be told what it knows.
    assert both.ssh.status == (255 if (server.maker, kind) == ('Conch', 'rsa') else 0)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give an account a password')
def test_a_password(server, home, oracle):
    (home.ssh / 'id_ed25519').unlink()
    with Script(home, *oracle.here, 'echo in; exit 3', terminal=True, json_events=False) as script:
        script.answer('[Pp]assword', PASSWORD)
        assert script.wait() == 3
        assert '\nin\r\n' in script.screen and PASSWORD not in script.screen


def test_a_command_its_megabyte_and_its_status(oracle):
    said = oracle.run(command='seq 170000; exit 7').same('stdout', 'status')
    assert len(said.stdout) > 1 << 20 and said.status == 7


def test_three_streams_to_the_byte_and_a_terminal(oracle):
    data = bytes(range(256)) * 2000
    script = oracle.run('-q', command='tee /dev/stderr; exit 7', stdin=data).script
    assert (script.stdout, script.stderr, script.status) == (data, data, 7)
    script = oracle.run_script('-q', '-tt', command='read -r x; echo "<$x>"; tty; exit 5', stdin=b'hello\n')
    assert script.status == 5 and b'<hello>\r\n/dev/' in script.stdout


def test_codex_signs_in(home, oracle):
    with Script(home, *oracle.here) as script:
        assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
        assert script.wait() == 0 and 'signed-in' in [event['event'] for event in script.events]


@pytest.mark.parametrize('how', ['reset', 'end'])
def test_a_login_whose_connection_is_cut(server, home, how):
    with Relay(server) as relay:
        home.known_hosts.write_text(server.known_hosts().replace(f':{server.port} ', f':{relay.port} '))
        with Script(home, '-p', relay.port, f'{server.user}@127.0.0.1', '--again') as script:
            browser = Browser(script.wait_for('sign-in')['url'])
            script.wait_for('opened')
            relay.cut(how)
            assert browser.sign_in().status == 200
            assert script.wait() == 0
            assert {'reconnected', 'signed-in'} <= {event['event'] for event in script.events}


def test_ctrl_c_ends_all_of_it(home, oracle):
    with Script(home, *oracle.here, '--again') as script:
        script.wait_for('opened')
        script.interrupt()
        assert script.wait() == 130


def through(port, data, first=b'', skip=0, half_close=True):
    """What comes back through a port of this device, after `first` was said and `skip` bytes were heard."""
    with socket.create_connection(('127.0.0.1', port), PATIENCE) as sock, sock.makefile('rb') as stream:
        sock.sendall(first)
        stream.read(skip)
        sock.sendall(b'%d\n' % (-1 if half_close else len(data)) + data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        return stream.read().decode()


def test_tunnels_carry_every_byte(server, oracle):
    here, there, local, dynamic, remote = (free_port() for _ in range(5))
    much = os.urandom(3 << 20)
    python = [sys._base_executable, '-I', '-S', '-c']
    ask = ('import socket, sys; s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60); '
           's.sendall(sys.stdin.buffer.read()); print(s.makefile().read())')
    by_name = b'\x05\x01\x00\x05\x01\x00\x03\x09localhost' + there.to_bytes(2, 'big')

    def all_three():
        until(lambda: remote in {port for _, port in server.listeners()})
        until(lambda: {local, dynamic} <= {port for _, port in lab.listening_sockets('/proc/self/net')})
        asking = server.popen([*python, ask, remote], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        at_server = asking.communicate(b'%d\n' % len(much) + much, PATIENCE)[0].decode().strip()
        half_close = server.maker != 'Conch'            # it knows no end of one way alone, with ssh neither
        return through(local, much, half_close=half_close), through(dynamic, much, by_name, 12, half_close), at_server

    with server.popen([*python, SUMS, there], stdout=subprocess.PIPE) as sums, \
            subprocess.Popen([*python, SUMS, str(here)], stdout=subprocess.PIPE) as sums_here:
        sums.stdout.readline(), sums_here.stdout.readline()
        said = oracle.run('-N', '-L', f'{local}:127.0.0.1:{there}', '-D', dynamic, '-R', f'{remote}:127.0.0.1:{here}',
                          meanwhile=all_three)
        sums.kill(), sums_here.kill()
    assert said.same('meanwhile').meanwhile == (hashlib.sha256(much).hexdigest(),) * 3


def test_a_jump_by_way_of_it(server, home, oracle):
    port = free_port()
    (server.folder / 'behind').touch(mode=0o600)
    (server.folder / 'behind').write_text((server.folder / 'host').read_text())
    options = {'HostKey': '/run/lab/behind', 'AuthorizedKeysFile': server.authorized_keys, 'PermitRootLogin': 'yes',
               'StrictModes': 'no', 'PidFile': 'none', 'UsePAM': 'no', 'ListenAddress': '127.0.0.1', 'Port': port}
    command = [lab.tool('sshd'), '-D', '-f', '/dev/null', *(word for name, value in options.items() for word in ('-o', f'{name}={value}'))]
    home.known_hosts.write_text(server.known_hosts() + server.known_hosts().replace(f':{server.port} ', f':{port} '))
    with server.popen(command, stdin=subprocess.DEVNULL) as behind:
        until(lambda: port in {port for _, port in server.listeners()})
        said = oracle.run('-J', f'{server.user}@127.0.0.1:{server.port}', to=['-p', str(port), f'{server.user}@127.0.0.1'],
                          command='echo in; exit 5').same('stdout', 'status')
        behind.kill()
    assert (said.stdout, said.status) == (b'in\n', 5)


# --- Accounts: what their shells are ------------------------------------------------------------------------

# Where each adds codex to PATH, for a person who logs in.
SHELLS = {
    'bash': {'.profile': 'PATH=/run/lab/elsewhere:$PATH'},
    'rbash': {'.profile': 'PATH=/run/lab/elsewhere:$PATH'},
    'dash': {'.profile': 'PATH=/run/lab/elsewhere:$PATH'},
    'ash': {'.profile': 'PATH=/run/lab/elsewhere:$PATH'},
    'zsh': {'.zprofile': 'PATH=/run/lab/elsewhere:$PATH'},
    'fish': {'.config/fish/config.fish': 'status is-login; and set -x PATH /run/lab/elsewhere $PATH'},
    'tcsh': {'.login': 'setenv PATH /run/lab/elsewhere:$PATH'},
    'rc': {'.rcrc': 'path=(/run/lab/elsewhere $path)'},
}


@pytest.fixture(scope='module', params=SHELLS)
def account(request):
    """A server whose account has that shell, and codex where only those find it who log in."""
    program = lab.SHELLS.get(request.param, request.param)
    if not lab.tool(program):
        pytest.skip(f'no {request.param}: apt-get install {program}')
    if why := servers.OpenSSH.missing():
        pytest.skip(why)
    with servers.OpenSSH(shell=request.param, start=SHELLS[request.param]) as account:
        account.install('codex')
        account.hide('codex')
        yield account


@pytest.fixture
def at_account(tmp_path, account):
    home = Home(tmp_path / 'home')
    home.trust(account)
    home.make_key(account)
    yield Oracle(account, home)
    assert account.leftovers() == []


def test_an_account_whose_login_shell_alone_knows_codex(account, at_account):
    assert at_account.ask_ssh(*at_account.here, 'codex').returncode in (1, 127)
    with Script(at_account.home, *at_account.here, '--again') as script:
        assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
        assert script.wait() == 0


def test_an_account_runs_a_command_in_its_own_language(at_account):
    said = at_account.run(command='echo one two; exit 3').same('stdout', 'status')
    assert (said.stdout, said.status) == (b'one two\n', 3)


def test_an_account_is_left_as_it_was_after_ctrl_c(at_account):
    with Script(at_account.home, *at_account.here, '--again') as script:
        script.wait_for('opened')
        script.interrupt()
        assert script.wait() == 130


# --- What is said of all this -------------------------------------------------------------------------------

COLUMNS = {
    'keys: ed25519, ecdsa, rsa': 'test_a_key_of_any_kind', 'password': 'test_a_password',
    'a command, 1 MB, its status': 'test_a_command_its_megabyte_and_its_status', 'codex signs in': 'test_codex_signs_in',
    'and is cut off meanwhile': 'test_a_login_whose_connection_is_cut', 'Ctrl-C leaves nothing': 'test_ctrl_c_ends_all_of_it',
    '-L, -D, -R, 3 MB each': 'test_tunnels_carry_every_byte', '-J through it': 'test_a_jump_by_way_of_it'}
NOTES = {
    ('Conch', 'keys: ed25519, ecdsa, rsa'): 'yes (to `ssh` it refuses rsa)',
    ('Conch', '-L, -D, -R, 3 MB each'): 'yes, but it ends both ways at once, with `ssh` as well'}


def table():
    """The lines of the table of servers."""
    def row(cells):
        return f'| {" | ".join(cells)} |'

    def cells(kind):
        with kind() as server:
            name = re.sub(r'^\w+?_', f'{kind.maker} ', server.version())
        return [name, *(NOTES.get((kind.maker, column), 'yes') for column in COLUMNS)]
    return [row(['server', *COLUMNS]), row(['---'] * (1 + len(COLUMNS))), *(row(cells(kind)) for kind in servers.KINDS)]


def in_readme(heading):
    """The rows of the table below a heading, cell by cell, without the line that separates its head."""
    section = TABLES.read_text().partition(f'## {heading}\n')[2].partition('\n## ')[0]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in section.splitlines() if line.startswith('|')]
    return [rows[0], *rows[2:]]


def is_passed_by_all(test):
    """Whether a test of that name is there, here or in test_odd_servers, and none is expected to fail."""
    import test_odd_servers
    found = globals().get(test) or getattr(test_odd_servers, test)
    return not [mark for mark in getattr(found, 'pytestmark', ()) if mark.name in ('xfail', 'skip')]


def test_the_table_of_servers_says_what_was_seen():
    head, *rows = in_readme('Servers')
    assert head == ['server', *COLUMNS] and all(map(is_passed_by_all, COLUMNS.values()))
    assert [row[0].split()[0] for row in rows] == [kind.maker for kind in servers.KINDS]
    assert [row[1:] for row in rows] == [[NOTES.get((kind.maker, column), 'yes') for column in COLUMNS] for kind in servers.KINDS]


def test_the_table_of_accounts_names_the_tests_that_show_it():
    head, *rows = in_readme('Accounts')
    assert all(is_passed_by_all(row[2].strip('`')) for row in rows)
    assert set(SHELLS) <= set(re.findall(r'\w+', rows[0][0]))


if __name__ == '__main__':
    print('\n'.join(table()))
