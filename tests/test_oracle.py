"""The same words to ssh and to the script, at the same server: what came out, how it ended, what listens, where it led.

What ssh does is what a test here demands.
"""

import contextlib
import re
import socket
import subprocess
import sys

import embedded
import oracle as oracle_module
import pytest
import sshd
from embedded import EmbeddedServer
from harness import PATIENCE, Home
from oracle import Oracle
from sshd import Sshd

pytestmark = pytest.mark.skipif(bool(why := sshd.missing() or oracle_module.missing()), reason=str(why))

# Says its own name to whoever connects, and hangs up.
TARGET = '''
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])),
                                family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
print(flush=True)
while True:
    with listener.accept()[0] as sock:
        sock.sendall(sys.argv[3].encode())
'''


@contextlib.contextmanager
def target(name, port, address='127.0.0.1', start=subprocess.Popen):
    """Something that listens and says its name; at the server with its own way to start programs."""
    command = [sys._base_executable, '-I', '-S', '-c', TARGET, address, str(port), name]
    with start(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.kill()


def name_at(port, host='127.0.0.1', first=b'', skip=0):
    """The name that a connection to a port leads to; after `first` was said and `skip` bytes were heard."""
    with socket.create_connection((host, port), PATIENCE) as sock, sock.makefile('rb') as stream:
        sock.sendall(first)
        stream.read(skip)
        return stream.read().decode()


@pytest.fixture(scope='module')
def at_server():
    """One real server for all: nobody changes it."""
    with Sshd() as server:
        yield server


@pytest.fixture
def home(tmp_path, at_server):
    home = Home(tmp_path / 'home')
    home.trust(at_server)
    home.make_key(at_server)
    return home


@pytest.fixture
def oracle(at_server, home):
    """The two, at a real sshd."""
    return Oracle(at_server, home)


# --- What comes out, and how it ends ------------------------------------------------------------------------

@pytest.mark.parametrize('status', [0, 1, 3, 255])
def test_a_command_ends_with_its_own_status(oracle, status):
    assert oracle.run(command=f'exit {status}').same('stdout', 'status').status == status


@pytest.mark.quick
def test_a_command_that_is_not_there_ends_with_127(oracle):
    assert oracle.run(command='no-such-program-here').same('status').status == 127


@pytest.mark.parametrize('command, printed', [
    (['echo', 'a   b', '*nothing*'], b'a b *nothing*\n'),       # words are joined, and the server's shell parses
    (['echo "$HOME" \'$HOME\''], b'/run/lab/home $HOME\n'),
    (['printf', r'"one\ntwo\n\nfour\n"'], b'one\ntwo\n\nfour\n'),
    (['seq 20000 | tail -n 15000 | sha256sum'], None),
    (['echo äöü €'], 'äöü €\n'.encode()),
    (['exit 0'], b'')])
def test_standard_output_is_what_the_command_wrote(oracle, command, printed):
    said = oracle.run(command=command).same('stdout', 'status')
    assert printed is None or said.stdout == printed


def test_an_embedded_server_can_be_asked_as_well(tmp_path):
    with EmbeddedServer() as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        home.make_key(server)
        oracle, port = Oracle(server, home), embedded.free_port()
        assert oracle.run(command='echo in; exit 4').same('stdout', 'status').stdout == b'in\n'
        with target('the target', there := embedded.free_port()):
            said = oracle.run('-N', '-L', f'{port}:127.0.0.1:{there}', meanwhile=lambda: name_at(port))
            assert said.same('listens', 'meanwhile').meanwhile == 'the target'
        said = oracle.run('-N', '-R', f'{port}:127.0.0.1:9', meanwhile=lambda: None).same('listens')
        assert said.listens == {('there', '127.0.0.1', port)}


def test_standard_output_may_be_any_bytes(oracle):
    oracle.run(command='cat /bin/true').same('stdout', 'status')


def test_a_last_line_may_have_no_end(oracle):
    oracle.run(command='printf x').same('stdout')


def test_what_goes_to_standard_error_comes_from_standard_error(oracle):
    said = oracle.run('-q', command='echo out; echo err >&2; printf "a\\0b\\377" >&2')
    assert said.same('stdout', 'stderr').stderr == b'err\na\0b\377'


@pytest.mark.parametrize('stdin', [b'through a pipe\n', b'', b'no end', bytes(range(256)) * 1000])
def test_a_pipe_reaches_the_command(oracle, stdin):
    assert oracle.run(command='cat', stdin=stdin).same('stdout', 'status').stdout == stdin


# What it writes where, reads, and ends with: bytes, streams and statuses are ssh's, for each of these.
COMMANDS = [
    ('cat /bin/ls', b''), ('true', b''), ('false', b''), ('printf x', b''), ('printf "a\\n\\nb\\r\\n\\r"', b''),
    ('echo out; echo err >&2', b''), ('printf e >&2; printf o', b''), ('head -c 3000000 /dev/zero', b''),
    ('seq 50000; seq 50000 >&2; exit 9', b''), ('cat', b'through a pipe\n'), ('cat', b''), ('cat >&2', bytes(range(256)) * 3000),
    ('wc -c', b'x' * 3000000), ('head -n 1', b'one\ntwo\nthree\n'), ('head -c 5; exit 4', b'y\n' * 1000000),
    ('read -r a; read -r b; echo "$b $a"', b'one\ntwo'), ('exec <&-; echo closed', b'not read'), ('tail -n 1', b'a\nb\n' * 99999),
    ('printf "\\033[31m\\007\\377\\0"', b''), ('umask; pwd; tty; echo "$PATH" | grep -c :', b''), ('no-such-program 2>/dev/null', b''),
    ('kill -TERM $$', b''), ('sort -u; echo done >&2', b'b\na\nb'), ('(sleep 0.2; echo late) & echo soon; wait', b''),
    ('echo one; echo two >/dev/stderr; echo three >/dev/stdout; echo four >&2', b''), ('tee /dev/stderr', b'in and out\n' * 30000),
    ('printf "@0123456789abcdef exit 0\\n"; exit 3', b''), ('sleep 0.3; printf "no end"; sleep 0.3; exit 129', b''),
]


@pytest.mark.parametrize('command, stdin', COMMANDS)
def test_bytes_streams_and_status_are_what_ssh_has(oracle, command, stdin):
    said = oracle.run('-q', command=command, stdin=stdin)
    said.same('stdout', 'stderr', *['status'] * ('kill' not in command))


# The same with a terminal at the server. Its width and height are nobody's here.
ON_TERMINAL = [
    ('tty; echo "$TERM"; exit 7', b''), ('read x; echo "got $x" >&2; exit 3', b'hello\n'),
    ('printf "Continue? [Y/n] "; read -r x; echo "so: $x"', b'y\n'), ('stty -echo; echo ready; read -r x; echo "hidden: $x"', b'secret\n'),
    ('cat', b'one\ntwo\n\x04'), ('echo out; echo err >&2', b''),
]


@pytest.mark.parametrize('command, stdin', ON_TERMINAL)
def test_a_terminal_at_the_server_is_what_ssh_has_there(oracle, command, stdin):
    said = oracle.run('-q', '-tt', command=command, stdin=stdin)
    said.same('stderr', 'status')
    ssh, script = (re.sub(rb'/dev/pts/\d+', b'a terminal', one.stdout) for one in (said.ssh, said.script))
    assert sorted(ssh) == sorted(script), str(said.ssh) + str(said.script)      # what is typed may be echoed between any two words


def test_a_command_that_a_signal_ended_has_the_status_that_a_shell_gives_it(oracle):
    """ssh says 255 and nothing else, which may be anything; this says which signal it was."""
    said = oracle.run('-q', command='kill -9 $$')
    assert (said.ssh.status, said.script.status) == (255, 128 + 9) and said.same('stdout', 'stderr').stderr == b''


# --- Which server, which account ----------------------------------------------------------------------------

def test_the_words_for_a_server_are_the_same(oracle, at_server, home):
    port, user, address = str(at_server.port), at_server.user, at_server.address
    home.config.write_text(f'Host box\n HostName {address}\n Port {port}\n User {user}\n'
                           'Host wrong-*\n HostName 192.0.2.1\n')
    for words in (['-p', port, '-l', user, address], [f'-p{port}', f'{user}@{address}'],
                  ['-l', user, '-o', f'Port={port}', address],
                  ['box'], [f'{user}@box'], ['-p', port, '-l', user, 'box'],
                  ['-o', f'HostName={address}', '-p', port, f'{user}@wrong-name'],
                  [f'ssh://{user}@{address}:{port}']):
        assert oracle.run(to=words, command='echo $LOGNAME').same('stdout', 'status').stdout == b'kim\n'


@pytest.mark.parametrize('trouble', ['nobody listens', 'no such name', 'another key', 'no key of ours'])
def test_what_cannot_be_done_ends_as_with_ssh(oracle, at_server, home, trouble):
    to = None
    if trouble == 'nobody listens':
        to = ['-p', str(embedded.free_port()), 'kim@127.0.0.1']
    elif trouble == 'no such name':
        to = ['kim@no-such-host.invalid']
    elif trouble == 'another key':
        key = embedded.host_key('ed25519')
        home.known_hosts.write_text(f'[127.0.0.1]:{at_server.port} {key.get_name()} {key.get_base64()}\n')
    else:
        home.make_key()
    assert oracle.run('-o', 'BatchMode=yes', to=to, command='echo in').same('stdout', 'status').status == 255


def test_a_configuration_may_have_match_final(oracle, at_server, home):
    home.config.write_text(f'Match final all\n ServerAliveInterval 60\nHost box\n HostName 127.0.0.1\n'
                           f' Port {at_server.port}\n User kim\n')
    oracle.run(to='box', command='echo in').same('stdout', 'status')


def test_a_configuration_may_be_for_one_user_only(oracle, at_server, home):
    home.config.write_text(f'Match Host 127.0.0.1 User git\n HostName 192.0.2.1\n ConnectTimeout 1\n'
                           f'Host *\n Port {at_server.port}\n')
    oracle.run(to='kim@127.0.0.1', command='echo in').same('stdout', 'status')


def test_a_configuration_may_have_comments_after_values(oracle, at_server, home):
    home.config.write_text(f'Host box\n HostName 127.0.0.1 # the box\n Port {at_server.port} # not 22\n User kim\n')
    oracle.run(to='box', command='echo in').same('stdout', 'status')


# --- What listens, and where it leads -----------------------------------------------------------------------

def test_a_local_forward_listens_where_it_is_told_and_leads_to_the_servers_own_loopback(oracle, at_server):
    port, there = embedded.free_port(), embedded.free_port()
    with target('at the server', there, start=at_server.popen), target('on the phone', there):
        for spec, listens in ((f'{port}:127.0.0.1:{there}', {'127.0.0.1', '::1'}),
                              (f'127.0.0.1:{port}:localhost:{there}', {'127.0.0.1'}),
                              (f'[::1]:{port}:localhost:{there}', {'::1'}),
                              (f'*:{port}:127.0.0.1:{there}', {'0.0.0.0', '::'})):
            host = '::1' if listens == {'::1'} else '127.0.0.1'
            said = oracle.run('-N', '-L', spec, meanwhile=lambda: name_at(port, host))
            assert said.same('meanwhile').meanwhile == 'at the server'
            assert said.same('listens').listens == {('here', address, port) for address in listens}


def test_a_remote_forward_listens_at_the_server_and_leads_to_the_phone(oracle, at_server):
    port, here = embedded.free_port(), embedded.free_port()

    def ask_at_the_server():
        ask = f'import socket; print(socket.create_connection(("127.0.0.1", {port}), 10).makefile().read())'
        return at_server.popen([sys._base_executable, '-I', '-c', ask], stdout=subprocess.PIPE).communicate(timeout=20)[0]

    with target('on the phone', here):
        said = oracle.run('-N', '-R', f'{port}:127.0.0.1:{here}', meanwhile=ask_at_the_server)
    assert said.same('meanwhile').meanwhile == b'on the phone\n'
    assert said.same('listens').listens == {('there', '127.0.0.1', port), ('there', '::1', port)}


def test_a_dynamic_forward_speaks_socks_and_resolves_at_the_server(oracle, at_server):
    port, there = embedded.free_port(), embedded.free_port()
    by_name = (b'\x05\x01\x00' + b'\x05\x01\x00\x03' + bytes([len('localhost')]) + b'localhost'
               + there.to_bytes(2, 'big'))
    with target('at the server', there, start=at_server.popen):
        said = oracle.run('-N', '-D', port, meanwhile=lambda: name_at(port, first=by_name, skip=2 + 10))
    assert said.same('meanwhile').meanwhile == 'at the server'
    assert said.same('listens').listens == {('here', '127.0.0.1', port), ('here', '::1', port)}


@pytest.mark.parametrize('permitted', ['none', '127.0.0.1:{}', '*:{}', '127.0.0.1:*', 'localhost:{}', 'any'])
def test_a_client_of_the_server_may_name_what_permitremoteopen_says(oracle, at_server, permitted):
    port, here = embedded.free_port(), embedded.free_port()
    request = b'\x05\x01\x00' + b'\x05\x01\x00\x03\x09127.0.0.1' + here.to_bytes(2, 'big')

    def ask_at_the_server():
        ask = (f'import socket; s = socket.create_connection(("127.0.0.1", {port}), 10); s.sendall({request!r}); '
               'print(s.makefile("rb").read()[12:])')
        return at_server.popen([sys._base_executable, '-I', '-c', ask], stdout=subprocess.PIPE).communicate(timeout=20)[0]

    with target('on the phone', here):
        said = oracle.run('-N', '-o', f'PermitRemoteOpen={permitted.format(here)}', '-R', port, meanwhile=ask_at_the_server)
    said.same('listens')
    assert [b'on the phone' in one.meanwhile for one in (said.ssh, said.script)] \
        == [permitted not in ('none', 'localhost:{}')] * 2, str(said.ssh) + str(said.script)


@pytest.mark.parametrize('words', [['-NT'], ['-nNT'], ['-NTC4'], ['-N', '-o', 'ClearAllForwardings=no']])
def test_options_are_written_together_as_people_write_them(oracle, words):
    port = embedded.free_port()
    said = oracle.run(*words, '-L', f'127.0.0.1:{port}:127.0.0.1:9', meanwhile=lambda: None)
    assert said.same('listens').listens == {('here', '127.0.0.1', port)}


def test_a_port_that_is_taken_is_fatal_where_it_was_asked_to_be(oracle):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        said = oracle.run('-o', 'ExitOnForwardFailure=yes', '-L', f'127.0.0.1:{port}:127.0.0.1:9', command='echo in')
    assert said.same('stdout', 'status').status == 255


# --- The oracle itself --------------------------------------------------------------------------------------

def test_a_difference_is_seen_and_told(oracle):
    both = oracle.run(command='echo in')
    assert both.ssh.stdout == b'in\n' and both.ssh.status == 0 and both.ssh.listens == frozenset()
    other = oracle_module.Both(both.words, both.ssh, oracle_module.Outcome(b'out\n', b'', 0, frozenset(), None))
    other.same('status')
    with pytest.raises(AssertionError, match="stdout not as ssh has it: .* echo in\nssh: exit 0(.|\n)*out"):
        other.same('stdout', 'status')


def test_ssh_lives_in_the_home_it_is_given_and_nowhere_else(oracle, home):
    home.config.write_text('Host *\n ServerAliveInterval 77\n')
    asked = oracle.ask_ssh('-G', 'anywhere').stdout.decode()
    assert 'serveraliveinterval 77\n' in asked and f'userknownhostsfile {home.known_hosts} ' in asked
    assert 'user person\n' in asked and 'identityfile ~/.ssh/id_ed25519\n' in asked
