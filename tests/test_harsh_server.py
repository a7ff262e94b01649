"""The script against a server that refuses what sshd refuses, and has bad days at every step of a connection.

What the script does not yet survive is marked as an expected failure that names the fault. The marks are strict: who
mends the fault finds the test passing, and takes the mark away. Floods, silence and hostile words: test_security.py.
"""

import contextlib
import re
import socket
import threading

import pytest
from accepting import Accepting
from embedded import free_port
from harness import PATIENCE, SCRIPT, Browser
from test_login import eventually, failure, forget_keys, names
from test_tunnels import say

FOREVER = 5     # s: far beyond what was allowed, for what waits without a limit
ALIVE = ('-o', 'ServerAliveInterval=1', '-o', 'ServerAliveCountMax=2')


def fault(name, *values, strict=True):
    """A case that fails today, by the name of the fault; not `strict` where it strikes nearly always, and not for certain."""
    return pytest.param(*values, marks=pytest.mark.xfail(strict=strict, reason=name))


def has_ended(script):
    return script.process.poll() is not None


# --- Before the keys ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('day', ['ends at version', 'reset at version', 'ends at key exchange', 'reset at key exchange',
                                 'goodbye at key exchange'])
def test_a_server_that_breaks_off_before_the_keys_is_named(run, server, day):
    server.bad_day = day
    error = failure(run(command=('true',)))
    assert f'127.0.0.1 port {server.port}' in error['message'] and server.count[day] == 1


@pytest.mark.parametrize('step', ['version', 'key exchange', 'service', 'key', 'session', 'exec'])
def test_a_slow_server_is_waited_for(run, server, step):
    server.bad_day, server.slowness = f'slow at {step} once', 1000
    script = run('-o', 'ServerAliveInterval=0', command=('true',))
    assert eventually(lambda: server.count[f'slow at {step}'])
    server.go_on()
    assert script.wait() == 0 and server.connections == 1


def test_a_server_that_says_two_hundred_lines_first_is_an_ssh_server(run, server):
    server.bad_day = 'many lines at version'
    assert run(command=('true',)).wait() == 0


@pytest.mark.parametrize('keys', [('ed25519', 'ecdsa'), ('ecdsa',)], ids=['of the same type', 'of another type'])
def test_another_host_key_at_the_second_connection_ends_it(run, server, keys):
    script = run('-N', '-L', '0:127.0.0.1:1')
    script.wait_for('listening')
    server.host_keys, server.seed = keys, 2
    server.cut()
    assert 'CHANGED' in failure(script, kind='host-key')['message']


# --- Who one is ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('day', ['ends at service', 'reset at service', 'ends at key', 'reset at key'])
def test_a_connection_that_breaks_while_one_signs_in_to_it_is_no_refusal(run, server, day):
    server.bad_day = day
    error = failure(run(command=('true',)))
    assert 'ended the connection during authentication' in error['message'] and 'denied' not in error['message']


@pytest.mark.parametrize('day', ['ends at version', 'reset at version'] + [
    f'{action} at {step}' for step in ('key exchange', 'service', 'key') for action in ('ends', 'reset', 'goodbye')])
def test_a_login_survives_a_connection_that_breaks_while_it_is_made_anew(run, server, day):
    script = run()
    sign_in = script.wait_for('sign-in')
    server.bad_day = f'{day} once'
    server.cut()
    assert Browser(sign_in['url']).sign_in().status == 200
    assert script.wait() == 0 and server.count[day] == 1


def test_a_servers_last_words_are_shown(run, server):
    server.bad_day = 'goodbye at key'
    assert 'Have a good day.' in failure(run(command=('true',)))['message']


def test_too_many_attempts_are_called_that(run, server, home):
    forget_keys(home)
    server.max_auth_tries = 2
    script = run(json_events=False, terminal=True, command=('true',))
    for _ in range(2):
        script.answer('password:', 'wrong')
    assert script.wait() == 255
    assert 'Too many authentication failures' in script.screen


def test_only_one_service_is_asked_for_whatever_is_tried(run, server, home):
    home.make_key(name='id_rsa_of_yore')
    (home.ssh / 'id_ed25519').unlink()
    server.bad_day = 'goodbye at second service'
    script = run('-i', home.ssh / 'id_rsa_of_yore', json_events=False, terminal=True, command=('true',))
    script.answer('password:', 'wrong')
    script.answer('password:', server.password)
    assert script.wait() == 0 and server.count['publickey'] == 1


def test_a_question_may_come_twice_and_text_without_one(run, server, home):
    forget_keys(home)
    server.password = None
    server.questions = (('Password: ', 'a'), 'A code was sent.\x1b[2J', ('Password: ', 'b'), 'Welcome.')
    script = run(json_events=False, terminal=True, command=('true',))
    script.answer('Password:', 'a')
    script.answer('Password:', 'b')
    assert script.wait() == 0 and '\x1b' not in script.screen


def test_a_key_and_a_password_are_given_one_after_the_other(run, server):
    server.demanded = ('publickey', 'password')
    script = run(json_events=False, terminal=True, command=('true',))
    script.answer('password:', server.password)
    assert script.wait() == 0


def test_a_key_that_is_never_enough_comes_to_an_end(run, server):
    server.bad_day = 'partial at key'
    failure(run(command=('true',)), kind='auth')
    assert server.count['partial at key'] < 10


def test_a_password_that_is_never_enough_comes_to_an_end(run, server, home):
    forget_keys(home)
    server.bad_day = 'partial at password'
    script = run(json_events=False, terminal=True, command=('true',))
    for asked in range(10):
        assert eventually(lambda: has_ended(script) or script.screen.count('password:') > asked)
        if has_ended(script):
            break
        script.answer('password:', server.password)
    assert script.wait(FOREVER) == 255


def test_a_banner_is_shown_and_cannot_write_to_the_terminal(run, server):
    server.banner = 'Maintenance\x1b]0;taken\x07 at\x1b[2J ten.\r\nBe quick.\n'
    script = run(json_events=False, terminal=True, command=('true',))
    assert script.wait() == 0
    assert re.search('Maintenance.* at.* ten', script.screen) and 'Be quick.' in script.screen
    assert '\x1b' not in script.screen


# --- Commands -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('day', [
    'ends at session once', 'reset at session once', 'ends at exec once', 'reset at exec once', 'goodbye at exec once',
    're-key at session', 're-key at exec', 're-key at data', 're-key at end of input', 're-key at closing',
    'unanswered at closing', 'unanswered at keep-alive'])
def test_a_sign_in_survives_a_bad_moment(run, server, day):
    server.bad_day = day
    script = run()
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
    assert script.wait() == 0 and server.complaints == []


@pytest.mark.parametrize('day', ['refused at session', 'refused at exec', 'closings at exec'])
def test_an_account_that_runs_nothing_is_not_asked_for_ever(run, server, day):
    server.bad_day = day
    script = run(command=('true',))
    assert eventually(lambda: has_ended(script) or server.count[day] > 20, 3 * PATIENCE)
    assert server.count[day] <= 20
    failure(script)


@pytest.mark.parametrize('day', [fault('before one is let in, --timeout is not heeded', 'unanswered at key'),
                                 'unanswered at session', 'unanswered at exec', 'endless lines at exec'])
def test_what_is_never_answered_is_out_of_time(run, server, day):
    server.bad_day = day
    assert run('--timeout', '1', command=('true',)).wait(FOREVER) == 124


def test_a_server_that_falls_silent_at_a_command_is_noticed(run, server):
    server.bad_day = 'silent at exec once'
    script = run(*ALIVE, command=('true',))
    assert script.wait() == 0 and server.connections > 1


# --- Forwards -----------------------------------------------------------------------------------------------

CLIENTS = 30


class Peer(Accepting):
    """What listens somewhere: it takes all that comes, sends without an end, or says back what it hears."""

    def __init__(self, kind):
        self._kind = kind
        self._listener = socket.create_server(('127.0.0.1', 0), backlog=200)
        self.port = self._listener.getsockname()[1]

    def _serve(self, sock):
        with contextlib.suppress(OSError), sock:
            while data := bytes(65536) if self._kind == 'source' else sock.recv(65536):
                if self._kind != 'sink':
                    sock.sendall(data)


def busy_clients(port, how):
    """So many clients of a port that send or receive without an end, once all of them do."""
    busy = set()

    def use(number):
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), PATIENCE) as sock:
            while sock.send(bytes(65536)) if how == 'send' else sock.recv(65536):
                busy.add(number)
    for number in range(CLIENTS):
        threading.Thread(target=use, args=(number,), daemon=True).start()
    assert eventually(lambda: len(busy) == CLIENTS, PATIENCE)


@pytest.mark.parametrize('mode', ['L', 'R'])
def test_uploads_that_the_server_cuts_short_leave_the_connection_whole(run, server, mode):
    """Data of each waits for the end of a key exchange. The first word after it is CLOSE, for all: some are late.

    sshd ends the connection at that; or a channel has got the number anew, and the data of one client comes to another.
    """
    with Peer('sink' if mode == 'L' else 'source') as peer, Peer('echo') as echo:
        busy, other = free_port(), free_port()
        script = run('-N', f'-{mode}', f'{busy}:127.0.0.1:{peer.port}', '-L', f'{other}:127.0.0.1:{echo.port}')
        for port in (busy, other):
            script.wait_for('listening', port=port)
        busy_clients(busy, 'send' if mode == 'L' else 'receive')
        server.bad_day = 'closings at new keys once'
        server.rekey()
        assert eventually(lambda: server.count['closings at new keys'])
        assert say(other) == b'hello'
        assert server.complaints == [] and server.connections == 1 and 'reconnected' not in names(script)
        script.interrupt()
        assert script.wait() == 130


EARLY = f"""
import runpy, sys
import paramiko
paramiko.packet.Packetizer.REKEY_BYTES = 1 << 20
sys.path.insert(0, {str(SCRIPT.parent)!r})
runpy.run_path({str(SCRIPT)!r}, run_name='__main__')
"""


def test_channels_that_close_while_keys_are_exchanged_leave_the_connection_whole(run, server, tmp_path):
    """The script asks for new keys, here after 1 MiB and not 512; the server closes each channel before it answers."""
    early = tmp_path / 'early.py'
    early.write_text(EARLY)
    with Peer('echo') as echo:
        script = run('-N', '-L', f'0:127.0.0.1:{echo.port}', script=early)
        port = script.wait_for('listening')['port']
        server.bad_day = 'closings at re-key once'
        with contextlib.suppress(OSError):
            for _ in range(10):
                say(port, bytes(1 << 18), FOREVER)
        assert server.count['closings at re-key'] == 1
        assert say(port, limit=FOREVER) == b'hello'
        assert server.complaints == [] and server.connections == 1
        script.interrupt()
        assert script.wait() == 130


def test_a_port_that_the_server_refuses_is_said_and_the_next_client_of_another_is_served(run, server):
    server.bad_day = 'refused at listening, refused at forward once'
    with Peer('echo') as echo:
        assert '-R' in failure(run('-N', '-o', 'ExitOnForwardFailure=yes', '-R', f'0:127.0.0.1:{echo.port}'))['message']
        script = run('-N', '-L', f'0:127.0.0.1:{echo.port}')
        port = script.wait_for('listening')['port']
        with contextlib.suppress(ConnectionResetError):
            assert say(port) == b''
        assert say(port) == b'hello'
        script.interrupt()
        assert script.wait() == 130
