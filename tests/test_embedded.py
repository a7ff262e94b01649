"""The embedded server is as strict as its source: the same raw words to it and to OpenSSH's sshd bring the same back.

A conversation is held by a client that keeps nothing of SSH but packets and key exchange, and so can say what no client
should. It is held with sshd (`sshd -i` on one end of a socket pair: no port, no account but one's own) and with the
embedded server; then what each said is compared, and with what the sources promise.
"""

import getpass
import os
import queue
import re
import shutil
import socket
import struct
import subprocess
import threading

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import embedded
import strict
from embedded import EmbeddedServer
from strict import (CLOSE, DATA, DISCONNECT, EOF, EXTENDED_DATA, FAILURE, GLOBAL_REQUEST, INFO_RESPONSE, OPEN,
                    OPEN_CONFIRMATION, OPEN_FAILURE, REQUEST, REQUEST_FAILURE, REQUEST_SUCCESS, SERVICE_ACCEPT,
                    SERVICE_REQUEST, SUCCESS, UNIMPLEMENTED, USERAUTH_BANNER, USERAUTH_FAILURE, USERAUTH_REQUEST,
                    WINDOW, WINDOW_ADJUST)

PATIENCE = 20
NAMES = {number: name for name, number in vars(strict).items()
         if name.isupper() and isinstance(number, int) and name not in ('WINDOW', 'PACKET', 'INFO_REQUEST')}
SSHD = shutil.which('sshd', path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')


# -- a client that says anything ----------------------------------------------------------------------------

class RawClient(paramiko.Transport):
    """Says what it is told to, in messages, and notes what it hears."""

    def __init__(self, sock, user, key):
        super().__init__(sock)
        self.user, self.key = user, key
        self.heard = queue.Queue()
        kept = {kind: self._handler_table[kind] for kind in (strict.EXT_INFO, strict.KEXINIT, strict.NEWKEYS)}
        self._handler_table = {**dict.fromkeys(range(256), lambda m: None), **kept}
        self._read, self.packetizer.read_message = self.packetizer.read_message, self._note
        self.start_client(timeout=PATIENCE)

    def _note(self):
        try:
            kind, m = self._read()
        except (EOFError, OSError, paramiko.SSHException):
            self.heard.put((None, None))
            raise EOFError from None
        if kind in (DISCONNECT, UNIMPLEMENTED) or kind >= SERVICE_REQUEST and kind not in (7, *range(20, 42)):
            self.heard.put((kind, m.get_remainder()))
        if kind == DISCONNECT:
            self.heard.put((None, None))        # paramiko reads no further
        return kind, m

    def say(self, kind, *fields):
        """A message of numbers, truth values, text and bytes."""
        self._send_message(strict._message(kind, *fields))

    def hear(self):
        """The next message, as what it means; 'end' where the connection is over."""
        kind, rest = self.heard.get(timeout=PATIENCE)
        if kind == OPEN:
            offered = paramiko.Message(rest)
            offered.get_text()
            self.number = offered.get_int()     # the server's, of the channel that it offers
        return 'end' if kind is None else _meaning(kind, paramiko.Message(rest))

    def hear_until(self, *words):
        """What is heard up to the first message whose meaning begins with one of these words, or up to the end."""
        said = []
        while True:
            said.append(self.hear())
            if said[-1] == 'end' or said[-1].startswith(words):
                return said

    def everything(self):
        """What is heard up to the end of the connection, which the server has to bring about."""
        return self.hear_until('end')

    def so_far(self):
        """What was answered to all that was said so far: the server handles one message after the other."""
        self.say(GLOBAL_REQUEST, 'barrier@test', True)
        return self.hear_until('REQUEST_FAILURE')[:-1]

    # Steps on the way

    def ask_service(self, name='ssh-userauth'):
        """Ask for a service."""
        self.say(SERVICE_REQUEST, name)

    def offer(self, method, *fields, user=None):
        """A request to be authenticated."""
        self.say(USERAUTH_REQUEST, user or self.user, 'ssh-connection', method, *fields)

    def offer_key(self, key=None, signed=True):
        """A request by public key."""
        key = key or self.key
        fields = (signed, key.get_name(), key.asbytes())
        proof = ()
        if signed:
            session = paramiko.Message()
            session.add_string(self.session_id)
            request = strict._message(USERAUTH_REQUEST, self.user, 'ssh-connection', 'publickey', *fields)
            proof = (key.sign_ssh_data(session.asbytes() + request.asbytes()).asbytes(),)
        self.offer('publickey', *fields, *proof)

    def log_in(self):
        """Authenticate with the right key, and hear the greetings that follow."""
        self.ask_service()
        self.offer_key()
        assert self.hear_until('USERAUTH_SUCCESS')[-1] == 'USERAUTH_SUCCESS'
        assert self.so_far() == ['GLOBAL_REQUEST hostkeys-00@openssh.com']
        return self

    def open_session(self, number=7):
        """Ask for a session; our number for it. The server's, as it says it, is what follows 'as'."""
        self.say(OPEN, 'session', number, WINDOW, 32768)

    def execute(self, channel, command):
        """Ask for a command."""
        self.say(REQUEST, channel, 'exec', True, command)

    def open_forward(self, port, host='127.0.0.1', number=9):
        """Ask for a connection from the server to a port."""
        self.say(OPEN, 'direct-tcpip', number, WINDOW, 32768, host, port, '127.0.0.1', 0)

    def close(self):
        super().close()
        self.sock.close()


def _meaning(kind, m):
    """A message in words, without what may differ from run to run."""
    name = NAMES.get(kind, str(kind))
    if kind == DISCONNECT:
        return f'DISCONNECT {m.get_int()} {m.get_text()}'
    if kind == USERAUTH_FAILURE:
        methods, partial = m.get_text(), m.get_boolean()
        return f'USERAUTH_FAILURE {"and partly done" if partial else methods}'
    if kind == OPEN_CONFIRMATION:
        ours, theirs, window, packet = (m.get_int() for _ in range(4))
        return f'OPEN_CONFIRMATION {ours} as {theirs}, window {window}, packets of {packet}'
    if kind == OPEN_FAILURE:
        return f'OPEN_FAILURE {m.get_int()}: {m.get_int()} {m.get_text()}'
    if kind == WINDOW_ADJUST:
        return f'WINDOW_ADJUST {m.get_int()} by {m.get_int()}'
    if kind in (DATA, EXTENDED_DATA):
        number = m.get_int()
        if kind == EXTENDED_DATA:
            m.get_int()
        return f'{name} {number}: {m.get_text()}'
    if kind == REQUEST:
        number, what, _ = m.get_int(), m.get_text(), m.get_boolean()
        value = {'exit-status': m.get_int, 'exit-signal': m.get_text}[what]()
        return f'REQUEST {number} {what} {value}'
    if kind == GLOBAL_REQUEST:
        return f'GLOBAL_REQUEST {m.get_text()}'
    if kind in (SUCCESS, FAILURE, EOF, CLOSE):
        return f'{name} {m.get_int()}'
    if kind == OPEN:
        return f'OPEN {m.get_text()}'
    if kind == REQUEST_SUCCESS:
        return 'REQUEST_SUCCESS' + (' with a port' if m.get_remainder() else '')
    if kind in (SERVICE_ACCEPT, USERAUTH_BANNER):
        return f'{name} {m.get_text()}'
    return name


# -- sshd, and the embedded server, as the same account -------------------------------------------------------

class Sshd:
    """OpenSSH's sshd for one connection at a time, with one's own account."""

    CONFIG = """
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
PidFile none
Banner {folder}/banner
LogLevel INFO
"""

    def __init__(self, folder, key, options=''):
        self.folder, self.user = folder, getpass.getuser()
        self.log = folder / 'log'
        private = ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        (folder / 'host_key').write_bytes(private)
        (folder / 'host_key').chmod(0o600)
        (folder / 'authorized_keys').write_text(f'{key.get_name()} {key.get_base64()}\n')
        (folder / 'banner').write_text('Welcome.\n')
        (folder / 'config').write_text(options + self.CONFIG.format(folder=folder))
        self.processes = []

    def connect(self):
        """A socket whose other end is sshd's."""
        ours, theirs = socket.socketpair()
        command = f'exec {SSHD} -i -e -f {self.folder}/config 2>>{self.log}'
        if os.geteuid() == 0:
            # As root it wants a folder that only the system's own start of it makes.
            command = f'mount -t tmpfs none /run && mkdir -m 755 /run/sshd && {command}'
        enter = ['unshare', '-m'] if os.geteuid() == 0 else []
        self.processes.append(subprocess.Popen([*enter, 'sh', '-c', command], stdin=theirs, stdout=theirs,
                                               start_new_session=True))
        theirs.close()
        return ours

    def stop(self):
        """End what is left of it."""
        for process in self.processes:
            process.terminate()
            process.wait(PATIENCE)


class Embedded:
    """The embedded server, set up like that."""

    def __init__(self, key, **options):
        self.server = EmbeddedServer(banner='Welcome.\n', **options).start()
        self.server.authorize(key)
        self.user = self.server.user

    def connect(self):
        """A socket to it."""
        return socket.create_connection(('127.0.0.1', self.server.port), PATIENCE)

    def stop(self):
        """End it."""
        self.server.stop()


@pytest.fixture(scope='module')
def key():
    """A key that both let in."""
    return embedded.host_key('ed25519', 99)


@pytest.fixture(scope='module')
def stranger():
    """A key that neither lets in."""
    return embedded.host_key('ed25519', 98)


@pytest.fixture
def both(tmp_path, key):
    """Holds one conversation with each; what both said, which has to be the same."""
    opened = []

    def hold(conversation, options='', **same_here):
        if SSHD is None:
            pytest.skip('no sshd: apt-get install openssh-server')
        said = []
        for server in (Sshd(tmp_path, key, options), Embedded(key, **same_here)):
            opened.append(server)
            client = RawClient(server.connect(), server.user, key)
            opened.append(client)
            said.append([line.replace(server.user, 'USER') for line in conversation(client)])
        ours, theirs = said[1], said[0]
        assert ours == theirs, f'sshd said {theirs},\nthe embedded server {ours}'
        return ours
    yield hold
    for one in reversed(opened):
        one.stop() if hasattr(one, 'stop') else one.close()


@pytest.fixture
def embedded_client(key):
    """A conversation with the embedded server alone, for what the sshd at hand is too old or too closed to show."""
    server = Embedded(key)
    client = RawClient(server.connect(), server.user, key)
    yield client
    client.close()
    server.stop()


@pytest.fixture
def port():
    """A port that echoes, ends when the client has ended, and is there for the test."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        def echo(sock):
            with sock:
                while data := sock.recv(65536):
                    sock.sendall(data)

        def accept():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(sock,), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


# -- before somebody is let in ------------------------------------------------------------------------------

def test_who_asks_twice_for_the_service_is_answered_twice_and_the_banner_comes_once(both):
    def conversation(client):
        client.ask_service()
        client.offer('none')
        client.ask_service()
        client.offer('none')
        return client.hear_until('USERAUTH_FAILURE') + client.hear_until('USERAUTH_FAILURE')
    assert both(conversation) == [
        'SERVICE_ACCEPT ssh-userauth', 'USERAUTH_BANNER Welcome.\n', 'USERAUTH_FAILURE publickey,password',
        'SERVICE_ACCEPT ssh-userauth', 'USERAUTH_FAILURE publickey,password']


def test_another_service_ends_the_connection(both):
    def conversation(client):
        client.ask_service('ssh-connection')
        return client.everything()
    assert both(conversation) == ['DISCONNECT 2 bad service request ssh-connection', 'end']


def test_the_user_may_not_change(both):
    def conversation(client):
        client.ask_service()
        client.offer('none')
        client.offer('none', user='somebody')
        return client.everything()
    assert both(conversation)[-2:] == [
        'DISCONNECT 2 Change of username or service not allowed: (USER,ssh-connection) -> (somebody,ssh-connection)',
        'end']


def test_six_attempts_fail_and_the_connection_ends_the_question_for_methods_is_free(both, stranger):
    def conversation(client):
        client.ask_service()
        client.offer('none')
        for _ in range(5):
            client.offer_key(stranger)
        client.offer('password', False, 'wrong')
        return client.everything()
    assert both(conversation)[2:] == ['USERAUTH_FAILURE publickey,password'] * 6 + [
        'DISCONNECT 2 Too many authentication failures', 'end']


def test_asking_for_the_methods_again_counts(both):
    def conversation(client):
        client.ask_service()
        for _ in range(3):
            client.offer('none')
        return client.everything()
    assert both(conversation, 'MaxAuthTries 2\n', max_auth_tries=2)[2:] == [
        'USERAUTH_FAILURE publickey,password'] * 2 + ['DISCONNECT 2 Too many authentication failures', 'end']


def test_a_key_that_is_only_shown_is_answered_and_a_wrong_one_counts(both, stranger):
    def conversation(client):
        client.ask_service()
        for _ in range(3):
            client.offer_key(signed=False)
        client.offer_key(stranger, signed=False)
        client.offer_key(stranger, signed=False)
        return client.everything()
    assert both(conversation, 'MaxAuthTries 2\n', max_auth_tries=2)[2:] == ['USERAUTH_PK_OK'] * 3 + [
        'USERAUTH_FAILURE publickey,password', 'DISCONNECT 2 Too many authentication failures', 'end']


def test_a_key_that_is_none_and_a_false_signature_are_refused_and_no_more(both, key):
    def conversation(client):
        client.ask_service()
        client.offer('publickey', True, 'ssh-ed25519', b'no key', b'no signature')
        client.offer('publickey', True, 'ssh-fantasy', key.asbytes(), b'no signature')
        client.offer_key()
        return client.hear_until('USERAUTH_SUCCESS')
    assert both(conversation)[2:] == ['USERAUTH_FAILURE publickey,password'] * 2 + ['USERAUTH_SUCCESS']


def test_what_comes_before_its_time_is_not_implemented_and_the_connection_is_good(both):
    def conversation(client):
        client.offer('none')
        client.open_session()
        client.execute(0, 'true')
        client.say(DATA, 0, b'early')
        client.say(GLOBAL_REQUEST, 'keepalive@openssh.com', True)
        early = [client.hear() for _ in range(5)]
        client.log_in()
        return early
    assert both(conversation) == ['UNIMPLEMENTED'] * 5


def test_once_let_in_authentication_is_not_implemented(both):
    def conversation(client):
        client.log_in()
        client.ask_service()
        client.offer('none')
        client.say(INFO_RESPONSE, 0)
        client.say(150)
        return client.so_far()
    assert both(conversation) == ['UNIMPLEMENTED'] * 4


def test_answers_that_nobody_asked_for_end_the_connection(both):
    def conversation(client):
        client.ask_service()
        client.offer('none')
        client.say(INFO_RESPONSE, 0)
        return client.everything()
    assert both(conversation)[-2:] == ['USERAUTH_FAILURE publickey,password', 'end']


def test_a_message_of_no_possible_kind_ends_the_connection(both):
    def conversation(client):
        client.log_in().say(200)
        return client.everything()
    assert both(conversation) == ['DISCONNECT 2 Invalid ssh2 packet type: 200', 'end']


needs_pam = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists('/etc/pam.d/sshd'),
                               reason='no PAM for sshd: run as root where /etc/pam.d/sshd is (openssh-server has it)')
PAM = 'UsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication no\n'


@needs_pam
@pytest.mark.parametrize('answers, end', [
    (['wrong'], ['USERAUTH_FAILURE publickey,keyboard-interactive']), (['wrong', 'too many'], ['end']), ([], ['end'])])
def test_a_question_of_pam_wants_one_answer(both, answers, end):
    def conversation(client):
        client.ask_service()
        client.offer('keyboard-interactive', '', '')
        said = client.hear_until('USERAUTH_PK_OK')      # 60 is INFO_REQUEST, too
        client.say(INFO_RESPONSE, len(answers), *answers)
        return said + client.hear_until('USERAUTH_FAILURE')
    assert both(conversation, PAM, password=None, questions=(('Password: ', 'right'),))[2:] == ['USERAUTH_PK_OK', *end]


@needs_pam
def test_who_asks_for_something_else_takes_the_question_back(both):
    def conversation(client):
        client.ask_service()
        client.offer('keyboard-interactive', '', '')
        client.offer('none')
        client.say(INFO_RESPONSE, 1, 'late')
        return client.everything()
    assert both(conversation, PAM, password=None, questions=(('Password: ', 'right'),))[2:] == [
        'USERAUTH_PK_OK', 'USERAUTH_FAILURE publickey,keyboard-interactive', 'end']


def test_two_methods_are_wanted_one_after_the_other(both):
    def conversation(client):
        client.ask_service()
        client.offer('none')
        client.offer_key()
        client.offer_key()
        client.offer('none')
        return client.hear_until('USERAUTH_FAILURE password') + client.hear_until('USERAUTH_FAILURE password')
    assert both(conversation, 'AuthenticationMethods publickey,password\n', demanded=('publickey', 'password'))[2:] == [
        'USERAUTH_FAILURE publickey', 'USERAUTH_FAILURE and partly done', 'USERAUTH_FAILURE password',
        'USERAUTH_FAILURE password']


# -- channels -----------------------------------------------------------------------------------------------

def test_a_session_has_no_window_before_its_command(both):
    def conversation(client):
        client.log_in().open_session()
        opened = client.so_far()
        client.execute(0, 'cat; exit 3')
        client.say(DATA, 0, b'hello')
        client.say(EOF, 0)
        said = opened + client.hear_until('CLOSE')
        return said[:4] + sorted(said[4:-1]) + said[-1:]        # how it ended comes before its output's end, or after
    assert both(conversation) == [
        'OPEN_CONFIRMATION 7 as 0, window 0, packets of 32768', 'WINDOW_ADJUST 7 by 2097152', 'SUCCESS 7',
        'DATA 7: hello', 'EOF 7', 'REQUEST 7 exit-status 3', 'CLOSE 7']


def test_data_ahead_of_the_command_is_thrown_away(both):
    def conversation(client):
        client.log_in().open_session()
        client.say(DATA, 0, b'early')
        client.execute(0, 'cat')
        client.say(DATA, 0, b'late')
        return client.hear_until('DATA')
    assert both(conversation)[-1] == 'DATA 7: late'


def test_a_session_runs_one_command(both):
    def conversation(client):
        client.log_in().open_session()
        client.execute(0, 'cat')
        client.execute(0, 'echo second')
        client.say(REQUEST, 0, 'env', True, 'FANTASY', '1')
        client.say(REQUEST, 0, 'exit-status', True, 1)
        client.say(REQUEST, 0, 'fantasy', False)
        return client.so_far()
    assert both(conversation)[2:] == ['SUCCESS 7'] + ['FAILURE 7'] * 3


def test_a_command_that_a_signal_ended_says_which(both):
    def conversation(client):
        client.log_in().open_session()
        client.execute(0, 'kill -TERM $$')
        return sorted(client.hear_until('CLOSE')[-3:])
    assert both(conversation) == ['CLOSE 7', 'EOF 7', 'REQUEST 7 exit-signal TERM']


@pytest.mark.parametrize('kind, words', [
    ((DATA, b'late'), 'data packet referred to nonexistent channel 0'),
    ((EXTENDED_DATA, 1, b'late'), 'extended data packet referred to nonexistent channel 0'),
    ((EOF,), 'ieof packet referred to nonexistent channel 0'),
    ((CLOSE,), 'oclose packet referred to nonexistent channel 0'),
    ((OPEN_CONFIRMATION, 0, 0, 0), 'open confirmation packet referred to nonexistent channel 0'),
    ((OPEN_FAILURE, 1, 'no', ''), 'open failure packet referred to nonexistent channel 0'),
    ((REQUEST, 'exec', True, 'true'), 'server_input_channel_req: unknown channel 0'),
], ids=['data', 'errors', 'end', 'close', 'confirmation', 'failure', 'request'])
def test_what_comes_for_a_channel_that_both_closed_ends_the_connection(both, port, kind, words):
    def conversation(client):
        client.log_in().open_forward(port)
        said = client.hear_until('OPEN_CONFIRMATION')
        client.say(EOF, 0)
        said += client.hear_until('CLOSE')
        client.say(CLOSE, 0)
        said += client.so_far()
        number, *fields = kind
        client.say(number, 0, *fields)
        return said + client.everything()
    assert both(conversation) == ['OPEN_CONFIRMATION 9 as 0, window 2097152, packets of 32768', 'EOF 9', 'CLOSE 9',
                                  f'DISCONNECT 2 {words}', 'end']


def test_a_window_for_a_channel_that_is_gone_is_let_pass_and_so_are_answers(both):
    def conversation(client):
        client.log_in()
        client.say(WINDOW_ADJUST, 0, 1000)
        client.say(SUCCESS, 0)
        client.say(FAILURE, 0)
        client.say(REQUEST_SUCCESS)
        client.say(REQUEST_FAILURE)
        return client.so_far()
    assert both(conversation) == []


def test_data_between_the_two_closes_is_let_pass(both, port):
    """The server has closed, the client not yet: what it has on the way does no harm."""
    def conversation(client):
        client.log_in().open_forward(port)
        client.hear_until('OPEN_CONFIRMATION')
        client.say(EOF, 0)
        client.hear_until('CLOSE')
        client.say(DATA, 0, b'late')
        client.say(EOF, 0)
        client.say(CLOSE, 0)
        return client.so_far()
    assert both(conversation) == []


def test_data_after_ones_own_end_of_file_is_thrown_away_and_on_the_error_stream_it_is_the_end(both, port):
    def conversation(client):
        client.log_in().open_session()
        client.execute(0, 'cat; sleep 1000')
        client.say(DATA, 0, b'in time')
        said = client.hear_until('DATA')
        client.say(EOF, 0)
        client.say(DATA, 0, b'too late')
        said += client.so_far()
        client.say(EXTENDED_DATA, 0, 1, b'too late')
        return said + client.everything()
    assert both(conversation)[3:] == [
        'DATA 7: in time', 'DISCONNECT 2 Received extended_data after EOF on channel 0.', 'end']


def test_data_after_ones_own_close_is_thrown_away_while_the_command_lives(both):
    def conversation(client):
        client.log_in().open_session()
        client.execute(0, 'cat >/dev/null; sleep 1; exit 5')
        client.hear_until('SUCCESS')
        client.say(CLOSE, 0)
        client.say(DATA, 0, b'too late')
        client.say(EXTENDED_DATA, 0, 1, b'too late')
        said = client.so_far()
        return said + client.hear_until('CLOSE')
    assert both(conversation) == ['REQUEST 7 exit-status 5', 'CLOSE 7']


def test_a_session_without_a_command_is_closed_at_once(both):
    def conversation(client):
        client.log_in().open_session()
        client.say(CLOSE, 0)
        return client.hear_until('CLOSE')
    assert both(conversation)[1:] == ['CLOSE 7']


def test_a_forward_that_the_client_closes_is_closed_without_an_end_of_file(both, port):
    def conversation(client):
        client.log_in().open_forward(port)
        client.hear_until('OPEN_CONFIRMATION')
        client.say(CLOSE, 0)
        return client.hear_until('CLOSE')
    assert both(conversation) == ['CLOSE 9']


def test_a_tenth_more_than_the_window_is_forgiven(both):
    def conversation(client):
        client.log_in().open_session()
        client.execute(0, 'sleep 1000')
        client.hear_until('SUCCESS')
        for _ in range(WINDOW // 32768 * 11 // 10):
            client.say(DATA, 0, bytes(32768))
        return [line for line in client.so_far() if 'WINDOW_ADJUST' not in line]
    assert both(conversation) == []


def test_more_than_that_ends_the_connection(embedded_client):
    """As sshd does since 9.6 (channels.c, channel_input_data); before, it took everything."""
    client = embedded_client.log_in()
    client.open_session()
    client.execute(0, 'sleep 1000')
    client.hear_until('SUCCESS')
    for _ in range(WINDOW // 32768 * 12 // 10):
        client.say(DATA, 0, bytes(32768))
    assert client.everything()[-2:] == ['DISCONNECT 2 channel 0: peer ignored channel window', 'end']


def test_a_packet_larger_than_was_agreed_is_thrown_away(both):
    def conversation(client):
        client.log_in().open_session()
        client.execute(0, 'cat')
        client.say(DATA, 0, bytes(32769))
        client.say(DATA, 0, b'small')
        return client.hear_until('DATA')
    assert both(conversation)[-1] == 'DATA 7: small'


def test_what_a_command_does_not_take_any_more_is_thrown_away_and_the_window_stays_open(both):
    def conversation(client):
        client.log_in().open_session()
        client.execute(0, 'exec <&-; echo ready; sleep 1000')
        client.hear_until('DATA')
        sent, allowed = 0, WINDOW
        while sent < 4 * WINDOW:
            while sent < allowed - 32768:
                client.say(DATA, 0, bytes(32768))
                sent += 32768
            more = client.hear()
            assert more.startswith('WINDOW_ADJUST 7 by ')
            allowed += int(more.split()[-1])
        return ['all was taken']
    assert both(conversation) == ['all was taken']


def test_numbers_of_channels_are_used_again(both):
    def conversation(client):
        client.log_in()
        said = []
        for ours in (7, 8, 9):
            client.open_session(ours)
            said += client.hear_until('OPEN_CONFIRMATION')
        client.say(CLOSE, 1)
        said += client.hear_until('CLOSE')
        client.open_session(10)
        return said + client.hear_until('OPEN_CONFIRMATION')
    assert [line.partition(',')[0] for line in both(conversation)] == [
        'OPEN_CONFIRMATION 7 as 0', 'OPEN_CONFIRMATION 8 as 1', 'OPEN_CONFIRMATION 9 as 2', 'CLOSE 8',
        'OPEN_CONFIRMATION 10 as 1']


def test_ten_sessions_and_no_more(both):
    def conversation(client):
        client.log_in()
        for number in range(11):
            client.open_session(number)
        return client.so_far()[10:]
    assert both(conversation) == ['OPEN_FAILURE 10: 2 open failed']


def test_after_no_more_sessions_another_is_an_attack(both):
    def conversation(client):
        client.log_in()
        client.say(GLOBAL_REQUEST, 'no-more-sessions@openssh.com', True)
        client.open_session()
        return client.everything()
    assert both(conversation) == ['REQUEST_SUCCESS', 'DISCONNECT 2 Possible attack: attempt to open a session after '
                                  'additional sessions disabled', 'end']


def test_a_channel_of_an_unknown_kind_fails_like_any_other(both):
    def conversation(client):
        client.log_in().say(OPEN, 'fantasy', 7, WINDOW, 32768)
        return client.so_far()
    assert both(conversation) == ['OPEN_FAILURE 7: 2 open failed']


def test_an_open_confirmation_for_what_is_open_ends_the_connection(both):
    def conversation(client):
        client.log_in().open_session()
        client.say(OPEN_CONFIRMATION, 0, 7, WINDOW, 32768)
        return client.everything()
    assert both(conversation)[1:] == ['DISCONNECT 2 Received open confirmation for non-opening channel 0.', 'end']


# -- forwards -----------------------------------------------------------------------------------------------

def test_a_port_where_nothing_listens_is_code_2_and_a_forbidden_one_code_1(both):
    def conversation(client):
        client.log_in().open_forward(1)
        return client.hear_until('OPEN_FAILURE')
    assert both(conversation) == ['OPEN_FAILURE 9: 2 Connection refused']
    assert both(conversation, 'AllowTcpForwarding no\n', forwarding='prohibited') == ['OPEN_FAILURE 9: 1 open failed']


def test_a_target_that_resets_is_at_its_end_for_the_client(both):
    """And its channel closes as soon as the client has noticed, by sending on or by closing."""
    def conversation(client):
        with socket.create_server(('127.0.0.1', 0)) as listener:
            client.log_in().open_forward(listener.getsockname()[1])
            sock, _ = listener.accept()
            said = client.hear_until('OPEN_CONFIRMATION')[1:]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            sock.close()
            said += client.hear_until('EOF')
            client.say(DATA, 0, b'late')
            return said + client.hear_until('CLOSE')
    assert both(conversation) == ['EOF 9', 'CLOSE 9']


def test_a_port_of_the_servers_is_listened_on_and_its_number_told_only_where_it_was_asked_for(both):
    def conversation(client):
        free = embedded.free_port()
        client.log_in()
        for kind, bind, number in [('tcpip-forward', '127.0.0.1', 0), ('tcpip-forward', '127.0.0.1', free),
                                   ('tcpip-forward', '127.0.0.1', free), ('cancel-tcpip-forward', '127.0.0.1', free),
                                   ('cancel-tcpip-forward', '127.0.0.1', free)]:
            client.say(GLOBAL_REQUEST, kind, True, bind, number)
        client.say(GLOBAL_REQUEST, 'keepalive@openssh.com', True)
        client.say(GLOBAL_REQUEST, 'keepalive@openssh.com', False)
        return [client.hear() for _ in range(6)] + client.so_far()
    assert both(conversation) == ['REQUEST_SUCCESS with a port', 'REQUEST_SUCCESS', 'REQUEST_FAILURE',
                                  'REQUEST_SUCCESS', 'REQUEST_FAILURE', 'REQUEST_FAILURE']


def test_a_client_of_that_port_is_offered_and_a_second_confirmation_ends_the_connection(both):
    def conversation(client):
        free = embedded.free_port()
        client.log_in().say(GLOBAL_REQUEST, 'tcpip-forward', True, '127.0.0.1', free)
        said = client.hear_until('REQUEST_SUCCESS')
        with socket.create_connection(('127.0.0.1', free)) as sock:
            said += client.hear_until('OPEN')
            number = client.number
            client.say(OPEN_CONFIRMATION, number, 5, WINDOW, 32768)
            sock.sendall(b'hello')
            said += client.hear_until('DATA')
            client.say(OPEN_CONFIRMATION, number, 5, WINDOW, 32768)
            return said + [re.sub('[0-9]+[.]$', 'N.', line) for line in client.everything()]
    assert both(conversation) == [
        'REQUEST_SUCCESS', 'OPEN forwarded-tcpip', 'DATA 5: hello',
        'DISCONNECT 2 Received open confirmation for non-opening channel N.', 'end']


# -- bad days -----------------------------------------------------------------------------------------------

@pytest.fixture
def on_a_day(key):
    """A client of an embedded server that has such a day: `client, server = on_a_day('silent at exec')`."""
    opened = []

    def begin(words, **options):
        there = Embedded(key, bad_day=words, **options)
        opened.append(there)
        client = RawClient(there.connect(), there.user, key)
        opened.append(client)
        return client, there.server
    yield begin
    for one in reversed(opened):
        one.stop() if hasattr(one, 'stop') else one.close()


def reach(client, step):
    """Go on up to a step, and ask there for what it is about."""
    if step in ('service', 'authentication', 'key', 'none', 'password', 'second service'):
        client.ask_service()
        if step == 'second service':
            client.ask_service()
            return client.hear_until('SERVICE_ACCEPT')
        asks = {'none': lambda: client.offer('none'),
                'password': lambda: client.offer('password', False, 'open sesame')}
        if step != 'service':
            client.hear_until('SERVICE_ACCEPT')
            asks.get(step, client.offer_key)()
        return []
    client.log_in()
    if step in ('opening', 'session'):
        client.open_session()
    elif step in ('exec', 'data', 'closing'):
        client.open_session()
        client.hear_until('OPEN_CONFIRMATION')
        {'exec': lambda: client.execute(0, 'true'), 'data': lambda: client.say(DATA, 0, b'x'),
         'closing': lambda: client.say(CLOSE, 0)}[step]()
    elif step == 'forward':
        client.open_forward(1)
    elif step == 'listening':
        client.say(GLOBAL_REQUEST, 'tcpip-forward', True, '127.0.0.1', 0)
    elif step in ('global request', 'keep-alive'):
        client.say(GLOBAL_REQUEST, 'keepalive@openssh.com', True)
    return []


EVERYWHERE = ['service', 'authentication', 'key', 'none', 'password', 'opening', 'session', 'forward', 'exec',
              'listening', 'keep-alive', 'data', 'closing']
NO = {'opening': 'OPEN_FAILURE 7: 1 open failed', 'session': 'OPEN_FAILURE 7: 1 open failed',
      'forward': 'OPEN_FAILURE 9: 1 open failed', 'exec': 'FAILURE 7', 'listening': 'REQUEST_FAILURE',
      'keep-alive': 'REQUEST_FAILURE'}


@pytest.mark.parametrize('step', EVERYWHERE)
@pytest.mark.parametrize('action', ['ends', 'reset', 'goodbye'])
def test_a_server_breaks_off_at_any_step(on_a_day, action, step):
    client, server = on_a_day(f'{action} at {step}')
    reach(client, step)
    said = client.everything()
    if action == 'goodbye':
        words = ('7 Unexpected service in service request: ssh-userauth' if step == 'service' else '2 Have a good day.')
        assert said == [f'DISCONNECT {words}', 'end']
    else:
        assert said == ['end']
    assert server.count[f'{action} at {step}'] == 1


@pytest.mark.parametrize('step', EVERYWHERE)
def test_a_server_falls_silent_at_any_step_and_the_connection_stays(on_a_day, step):
    client, server = on_a_day(f'silent at {step}')
    reach(client, step)
    assert not embedded.eventually(lambda: not server.count[f'silent at {step}'])
    client.say(GLOBAL_REQUEST, 'keepalive@openssh.com', True)
    client.say(strict.UNIMPLEMENTED, 0)
    assert client.heard.empty() and client.is_active()
    server.cut()
    assert client.everything() == ['end']


@pytest.mark.parametrize('step', EVERYWHERE[5:])
def test_one_question_goes_unanswered_and_the_rest_is_well(on_a_day, step):
    client, server = on_a_day(f'unanswered at {step} once')
    reach(client, step)
    assert client.so_far() == []
    client.open_forward(1, number=33)
    assert client.hear_until('OPEN_FAILURE 33')[-1] == 'OPEN_FAILURE 33: 2 Connection refused'


@pytest.mark.parametrize('step', EVERYWHERE[:-2])
def test_what_is_slow_waits_until_it_is_let_go(on_a_day, step):
    client, server = on_a_day(f'slow at {step}', slowness=1000)
    reach(client, step)
    assert not embedded.eventually(lambda: not server.count[f'slow at {step}'])
    assert client.heard.empty()
    server.go_on()
    assert client.hear() != 'end'


@pytest.mark.parametrize('step', NO)
def test_a_request_is_refused(on_a_day, step):
    client, _ = on_a_day(f'refused at {step} once')
    reach(client, step)
    assert client.hear() == NO[step]


@pytest.mark.parametrize('words, said', [
    ('refused at key', 'USERAUTH_FAILURE publickey,password'), ('partial at key', 'USERAUTH_FAILURE and partly done'),
    ('partial at authentication', 'USERAUTH_FAILURE and partly done')])
def test_the_right_key_is_refused_or_is_never_enough(on_a_day, words, said):
    client, _ = on_a_day(words)
    reach(client, 'key')
    for _ in range(3):
        client.offer_key()
        assert client.hear() == said
    client.offer('none')
    assert client.hear_until('USERAUTH_FAILURE publickey,password')


def test_a_second_service_request_is_refused_as_asyncssh_does(on_a_day):
    client, _ = on_a_day('goodbye at second service')
    reach(client, 'second service')
    assert client.everything() == ['DISCONNECT 7 Unexpected service in service request: ssh-userauth', 'end']


def test_new_keys_in_the_midst_of_it_and_every_channel_is_closed_under_them(on_a_day, port):
    client, server = on_a_day('closings at new keys once, re-key at exec')
    client.log_in()
    for number in range(3):
        client.open_forward(port, number=number)
        client.hear_until('OPEN_CONFIRMATION')
    server.rekey()
    assert sorted(client.hear() for _ in range(6)) == [f'{what} {n}' for what in ('CLOSE', 'EOF') for n in range(3)]
    for number in range(3):
        client.say(CLOSE, number)
    client.open_session(3)
    client.execute(0, 'echo hello')
    assert 'DATA 3: hello\n' in client.hear_until('CLOSE 3')
    assert server.count['re-key at exec'] == 1 and server.complaints == []


def test_what_wants_an_answer_while_keys_are_exchanged_gets_it_afterwards(on_a_day):
    """paramiko's own reader would wait for itself, and lose the connection after 30 s."""
    client, server = on_a_day('re-key at closing')
    client.log_in().open_session()
    client.hear_until('OPEN_CONFIRMATION')
    client.say(CLOSE, 0)
    # The server's KEXINIT may be here already: then a client must keep back what it wants to say.
    client._send_user_message(strict._message(GLOBAL_REQUEST, 'keepalive@openssh.com', True))
    assert client.hear_until('REQUEST_FAILURE') == ['CLOSE 7', 'REQUEST_FAILURE']


@pytest.mark.parametrize('kind, lines', [('many lines', 200), ('endless lines', 10000), ('endless line', 1)])
def test_a_server_talks_before_its_version(on_a_day, key, kind, lines):
    with EmbeddedServer(bad_day=f'{kind} at version') as server, \
            socket.create_connection(('127.0.0.1', server.port), PATIENCE) as sock:
        text = b''
        while text.count(b'\n') < lines and len(text) < 1 << 20:
            text += sock.recv(65536)
        assert b'SSH-' not in text.split(b'\n')[0] and (kind != 'endless line' or b'\n' not in text)
        while kind == 'many lines' and not re.search(rb'SSH-2.0-.*\n', text):
            text += sock.recv(65536)


@pytest.mark.parametrize('kind', ['endless line', 'endless lines', 'endless stderr'])
def test_a_command_talks_without_an_end(on_a_day, kind):
    client, _ = on_a_day(f'{kind} at exec')
    reach(client, 'exec')
    assert client.hear_until('SUCCESS')
    text = client.hear()
    assert text.startswith('EXTENDED_DATA' if kind == 'endless stderr' else 'DATA') and len(text) > 1000
    assert ('\n' in text) == (kind != 'endless line')


def test_a_word_that_means_nothing_is_an_error_at_once():
    with EmbeddedServer() as server:
        for words in ('silent', 'silent at breakfast', 'angry at exec', 'partial at exec', 'silent at exec thrice',
                      'silent at new keys', 'silent at exec,reset at key'):
            with pytest.raises(ValueError, match='not a bad day'):
                server.bad_day = words


def test_a_day_is_good_again_after_so_many_times(on_a_day):
    client, server = on_a_day('refused at exec twice, unanswered at keep-alive 1 times')
    client.log_in().open_session()
    client.hear_until('OPEN_CONFIRMATION')
    client.say(GLOBAL_REQUEST, 'keepalive@openssh.com', True)
    for _ in range(3):
        client.execute(0, 'cat')
    assert client.hear_until('SUCCESS') == ['FAILURE 7', 'FAILURE 7', 'WINDOW_ADJUST 7 by 2097152', 'SUCCESS 7']


def test_questions_come_in_rounds_and_the_last_one_is_empty(on_a_day):
    client, server = on_a_day('', password=None, questions=(
        ('Password: ', 'a'), 'A code was sent.', [('Code: ', 'b'), ('PIN: ', 'c')]))
    for answers, good in ((('a', 'b', 'wrong'), False), (('a', 'b', 'c'), True)):
        if not good:
            client.ask_service()
        client.offer('keyboard-interactive', '', '')
        client.hear_until('USERAUTH_PK_OK')         # 60, as INFO_REQUEST is
        client.say(INFO_RESPONSE, 1, answers[0])
        client.hear()
        client.say(INFO_RESPONSE, 0)
        client.hear()
        client.say(INFO_RESPONSE, 2, *answers[1:])
        if good:
            assert client.hear() == 'USERAUTH_PK_OK'
            client.say(INFO_RESPONSE, 0)
        assert client.hear_until('USERAUTH_SUCCESS', 'USERAUTH_FAILURE')[-1].startswith('USERAUTH_SUCCESS') == good


@pytest.mark.parametrize('action', ['ends', 'reset'])
def test_a_reset_is_another_thing_than_an_end(action):
    with EmbeddedServer(bad_day=f'{action} at version') as server, \
            socket.create_connection(('127.0.0.1', server.port), PATIENCE) as sock:
        if action == 'ends':
            assert sock.recv(1) == b''
        else:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
