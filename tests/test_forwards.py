"""The room "Forwards" on real connections: sshd and the embedded server, curl and ssh as strangers."""

import _thread
import contextlib
import errno
import gc
import hashlib
import importlib
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import paramiko
import pytest
from embedded import EmbeddedServer, free_port
from machine_sshd import Sshd
from waiting import let_pass, still, until

HERE = Path(__file__).resolve().parent
MODULE = Path(os.environ.get('CODEX_LOGIN_MODULE') or HERE.parent / 'scripts' / 'codex_login.py')
sys.path.insert(0, str(MODULE.parent))
script = importlib.import_module(MODULE.stem)

PATIENCE = 30       # seconds until something counts as hung; no test measures time
MEBI = 1 << 20

needs_sshd = pytest.mark.skipif(not Sshd.PROGRAM, reason='sshd is missing: apt-get install openssh-server')
needs_ssh = pytest.mark.skipif(not shutil.which('ssh'),
                               reason='ssh is missing: apt-get install openssh-client')
needs_curl = pytest.mark.skipif(not shutil.which('curl'), reason='curl is missing: apt-get install curl')


# --- The parties of a forward -------------------------------------------------------------------------------

def healing_link(port, user, key):
    """The script's own Link to a server on this machine, looked after; a silence alone is no reason to make it anew."""
    folder = tempfile.TemporaryDirectory()
    path = os.path.join(folder.name, 'key')
    key.write_private_key_file(path)
    device = script.Device(alone=True)
    device.ssh_folder = folder.name
    settings = script.find_settings(script.Destination(user, '127.0.0.1', port), device, [
        ('identityfile', path), ('stricthostkeychecking', 'accept-new'), ('serveraliveinterval', '0'),
        ('userknownhostsfile', os.path.join(folder.name, 'known_hosts'))], 'none')
    link = script.Link(settings, device, lambda *event, **fields: None)
    link.connect()
    link.keep(0.05)
    link.folder = folder
    return link


class Tunnels:
    """Forwards over a healing link, and what they told."""

    def __init__(self, port, user, key, **settings):
        self.told = []
        self.link = healing_link(port, user, key)
        self.forwards = script.Forwards(self.link, self._hear, **settings)

    def _hear(self, kind, **fields):
        self.told.append((kind, fields))

    def open(self, mode, text):
        """Add a spec, and return the port that it listens on."""
        self.forwards.add(script.parse_forward(mode, text))
        return self.forwards.bound[-1][2]

    def to(self, mode, port):
        """The same for a forward of that mode, from any free port to a loopback port."""
        return self.open(mode, f'0:127.0.0.1:{port}')

    def heard(self, kind):
        return [fields for told, fields in self.told if told == kind]

    def clients(self):
        return len(self.forwards._clients)

    def close(self):
        self.forwards.close()
        self.link.close()


class Target:
    """A TCP server in the test: each connection is handed to a function, in a thread of its own."""

    def __init__(self, serve, family=socket.AF_INET):
        self.serve, self.connections, self.failures = serve, 0, []
        self._listener = socket.create_server(('::1' if family == socket.AF_INET6 else '127.0.0.1', 0),
                                              family=family, backlog=1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock):
        with sock:
            sock.settimeout(3 * PATIENCE)       # longer than any server here stands still
            try:
                self.serve(sock)
            except Exception as failure:
                self.failures.append(failure)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def read_all(sock):
    """Everything to the end of file."""
    pieces = []
    while piece := sock.recv(MEBI):
        pieces.append(piece)
    return b''.join(pieces)


def connect(port, host='127.0.0.1'):
    sock = socket.create_connection((host, port), PATIENCE)
    sock.settimeout(PATIENCE)
    return sock


def ask(port, question=b'hello', host='127.0.0.1'):
    """What a target answers to a question that ends with its end of file."""
    with connect(port, host) as sock:
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def digest(data):
    return hashlib.sha256(data).hexdigest().encode()


def answer_digest(sock):
    """Read to the end of file, then answer: impossible through a tunnel that knows no half-close."""
    sock.sendall(digest(read_all(sock)))


def echo(sock):
    while piece := sock.recv(MEBI):
        sock.sendall(piece)


def saying(words):
    def say(sock):
        read_all(sock)
        sock.sendall(words)
    return say


def serve_page(sock):
    head = b''
    while b'\r\n\r\n' not in head:
        head += sock.recv(4096)
    sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello')


def sshd_key(sshd):
    return paramiko.ECDSAKey.from_private_key_file(sshd.key)


@pytest.fixture(scope='module')
def sshd():
    with Sshd(GatewayPorts='clientspecified') as sshd:
        yield sshd


@pytest.fixture
def tunnels(sshd):
    tunnels = Tunnels(sshd.port, sshd.user, sshd_key(sshd))
    yield tunnels
    tunnels.close()


@pytest.fixture(params=[pytest.param('sshd', marks=needs_sshd), 'embedded'])
def any_tunnels(request):
    """Tunnels through each kind of server."""
    if request.param == 'sshd':
        yield request.getfixturevalue('tunnels')
        return
    key = paramiko.ECDSAKey.generate()
    with EmbeddedServer() as server:
        server.authorize(key)
        tunnels = Tunnels(server.port, server.user, key)
        yield tunnels
        tunnels.close()


each_mode = pytest.mark.parametrize('mode', ['L', 'R'])


# --- Listening ----------------------------------------------------------------------------------------------

def addresses(listeners):
    found = [listener.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        listener.close()
    return found


@pytest.mark.quick
@pytest.mark.parametrize('bind, hosts', [
    ('', ['127.0.0.1', '::1']), ('localhost', ['127.0.0.1', '::1']), ('*', ['0.0.0.0', '::']),
    ('127.0.0.1', ['127.0.0.1']), ('::1', ['::1']), ('127.0.0.2', ['127.0.0.2']),
])
def test_any_free_port_is_the_same_on_every_address(bind, hosts):
    found = addresses(script.listen(bind, 0))
    assert [host for host, _ in found] == hosts
    assert len({port for _, port in found}) == 1 and found[0][1] > 0


@pytest.mark.quick
@pytest.mark.parametrize('holder', ['127.0.0.1', '::1'])
def test_a_busy_port_is_named_whichever_loopback_has_it_and_nothing_stays_open(holder):
    port = free_port()
    family = socket.AF_INET6 if ':' in holder else socket.AF_INET
    with socket.create_server((holder, port), family=family):
        with pytest.raises(script.Problem) as raised:
            script.listen('', port)
    assert raised.value.kind == 'listen' and raised.value.hint
    assert str(port) in raised.value.message and 'localhost' in raised.value.message
    assert addresses(script.listen('', port)) == [('127.0.0.1', port), ('::1', port)]


def test_a_port_can_be_had_again_at_once_after_it_was_used():
    for _ in range(3):
        listeners = script.listen('', 0)
        port = listeners[0].getsockname()[1]
        with connect(port):
            until(lambda: accepts(listeners[0]), 'a connection arrives')
        addresses(listeners)
        addresses(script.listen('', port))


def accepts(listener):
    try:
        listener.accept()[0].close()      # first to close: this side keeps TIME_WAIT
        return True
    except BlockingIOError:
        return False


@pytest.mark.parametrize('bind', ['192.0.2.77', 'no-such-name.invalid', 'a' * 300])
def test_an_address_that_is_not_ours_is_a_problem_in_words(bind):
    with pytest.raises(script.Problem) as raised:
        script.listen(bind, 0)
    assert raised.value.kind == 'listen' and bind in raised.value.message


@needs_sshd
def test_the_same_port_twice_fails(tunnels):
    for mode in 'LR':
        port = tunnels.to(mode, 9)
        with pytest.raises(script.Problem) as raised:
            tunnels.open(mode, f'{port}:127.0.0.1:9')
        assert raised.value.kind == 'listen' and str(port) in raised.value.message
    assert len(tunnels.forwards._forwards) == 2


@needs_sshd
def test_gateway_ports_opens_what_has_no_bind_address_of_its_own(sshd):
    tunnels = Tunnels(sshd.port, sshd.user, sshd_key(sshd), gateway_ports=True)
    tunnels.open('L', '0:127.0.0.1:9')
    tunnels.open('D', '127.0.0.1:0')
    assert [where[1] for where in tunnels.forwards.bound] == ['0.0.0.0', '::', '127.0.0.1']
    tunnels.close()


@pytest.mark.quick
@needs_sshd
def test_the_servers_refusal_to_listen_is_a_problem_and_the_others_go_on():
    with Sshd(AllowTcpForwarding='local') as sshd, Target(saying(b'hi')) as target:
        tunnels = Tunnels(sshd.port, sshd.user, sshd_key(sshd))
        port = tunnels.to('L', target.port)
        with pytest.raises(script.Problem) as raised:
            tunnels.open('R', '0:127.0.0.1:9')
        assert raised.value.kind == 'listen' and 'AllowTcpForwarding' in raised.value.hint
        assert ask(port) == b'hi' and len(tunnels.forwards._forwards) == 1
        tunnels.close()


# --- Streams ------------------------------------------------------------------------------------------------

@each_mode
def test_megabytes_arrive_whole_and_the_answer_after_the_end_of_file_too(any_tunnels, mode):
    with Target(answer_digest) as target:
        port = any_tunnels.to(mode, target.port)
        for size in (0, 1, 32704, 32705, 5 * MEBI + 77):
            data = random.randbytes(size)
            assert ask(port, data) == digest(data)
        assert not target.failures


@each_mode
def test_the_targets_end_of_file_leaves_the_client_free_to_go_on(any_tunnels, mode):
    got = []

    def speak_first(sock):
        sock.sendall(b'that is all')
        sock.shutdown(socket.SHUT_WR)
        got.append(read_all(sock))

    data = random.randbytes(3 * MEBI)
    with Target(speak_first) as target:
        with connect(any_tunnels.to(mode, target.port)) as sock:
            assert read_all(sock) == b'that is all'
            sock.sendall(data)
        until(lambda: got, 'the target has read to the end')
    assert got == [data]
    until(lambda: any_tunnels.clients() == 0, 'the connection ends')


@each_mode
def test_both_directions_at_once_are_byte_equal(any_tunnels, mode):
    data = random.randbytes(8 * MEBI)
    with Target(echo) as target, connect(any_tunnels.to(mode, target.port)) as sock:
        def send():
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert digest(read_all(sock)) == digest(data)
        sender.join()


@needs_sshd
@each_mode
def test_a_reader_that_stalls_costs_bounded_memory_and_gets_everything_in_the_end(tunnels, mode):
    sent = []

    def pour(sock):
        piece = bytes(MEBI)
        for _ in range(64):
            sock.sendall(piece)
            sent.append(len(piece))

    with Target(pour) as target, connect(tunnels.to(mode, target.port)) as sock:
        until(lambda: len(sent) > 2)
        assert until(still(sent), 'the target is held back') < 32, 'what nobody reads piles up'
        assert len(read_all(sock)) == 64 * MEBI


@needs_sshd
def test_a_target_that_stalls_holds_the_client_back(tunnels):
    may_read, got = threading.Event(), []

    def stall(sock):
        may_read.wait(PATIENCE)
        got.append(len(read_all(sock)))

    sent = []
    with Target(stall) as target, connect(tunnels.to('L', target.port)) as sock:
        def send():
            for _ in range(64):
                sock.sendall(bytes(MEBI))
                sent.append(MEBI)
            sock.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        until(lambda: len(sent) > 2)
        assert until(still(sent), 'the client is held back') < 32
        may_read.set()
        assert read_all(sock) == b'' and got == [64 * MEBI]


@each_mode
def test_a_refused_target_closes_the_client_and_says_which(any_tunnels, mode):
    port = free_port()
    assert ask(any_tunnels.to(mode, port), b'') == b''
    until(lambda: any_tunnels.heard('unreached'), 'it is told')
    assert f'127.0.0.1 port {port}' in any_tunnels.heard('unreached')[0]['message']
    until(lambda: any_tunnels.clients() == 0, 'nothing is left')


@needs_sshd
@each_mode
def test_a_target_that_resets_ends_the_client(tunnels, mode):
    def reset(sock):
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

    with Target(reset) as target, connect(tunnels.to(mode, target.port)) as sock:
        sock.sendall(b'x')
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b''
            until(lambda: not sock.send(b'x'))      # a half that is open still, until the far end is seen to be gone
    until(lambda: tunnels.clients() == 0, 'nothing is left')


@needs_sshd
@each_mode
def test_clients_that_leave_while_their_channel_opens_leak_nothing(tunnels, mode):
    with Target(echo) as target:
        port = tunnels.to(mode, target.port)
        for turn in range(60):
            sock = connect(port)
            if turn % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            elif turn % 3 == 1:
                sock.sendall(b'nobody reads the answer')
            sock.close()
        until(lambda: tunnels.clients() == 0, 'all have ended')
        assert ask(port) == b'hello'
    wait_for_closed_channels(tunnels)


def wait_for_closed_channels(tunnels):
    until(lambda: not tunnels.link.transport()._channels, 'all channels are closed, on both sides')


@each_mode
def test_two_hundred_at_once_are_each_served(any_tunnels, mode):
    with Target(answer_digest) as target:
        port, wrong = any_tunnels.to(mode, target.port), []

        def one():
            data = random.randbytes(20000)
            try:
                if ask(port, data) != digest(data):
                    wrong.append('answer')
            except OSError as error:
                wrong.append(error)

        threads = [threading.Thread(target=one) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert (wrong, target.connections) == ([], 200)
    until(lambda: any_tunnels.clients() == 0, 'all have ended')


def test_several_remote_forwards_each_reach_their_own_target(any_tunnels):
    with contextlib.ExitStack() as stack:
        ports = []
        for name in (b'one', b'two', b'three'):
            target = stack.enter_context(Target(saying(name)))
            ports.append(any_tunnels.to('R', target.port))
        assert [ask(port) for port in ports] == [b'one', b'two', b'three']


@needs_sshd
def test_remote_forwards_of_one_port_on_two_addresses_are_told_apart(tunnels):
    port = free_port()
    with Target(saying(b'four')) as four, Target(saying(b'six')) as six:
        tunnels.open('R', f'127.0.0.1:{port}:127.0.0.1:{four.port}')
        tunnels.open('R', f'[::1]:{port}:127.0.0.1:{six.port}')
        assert (ask(port), ask(port, host='::1')) == (b'four', b'six')


@needs_sshd
def test_names_and_ipv6_targets_are_the_far_sides_business(tunnels):
    with Target(saying(b'six'), socket.AF_INET6) as six, Target(saying(b'four')) as four:
        for mode in 'LR':
            assert ask(tunnels.open(mode, f'0:[::1]:{six.port}')) == b'six'
            assert ask(tunnels.open(mode, f'0:localhost:{four.port}')) == b'four'


@needs_sshd
def test_a_chain_of_forwards_to_and_fro_carries_everything(tunnels):
    with Target(answer_digest) as target:
        port = target.port
        for mode in 'LRLRLR':
            port = tunnels.to(mode, port)
        data = random.randbytes(2 * MEBI)
        assert ask(port, data) == digest(data)


@needs_sshd
@needs_ssh
def test_a_chain_with_openssh_in_the_middle_carries_everything(tunnels, sshd):
    with Target(answer_digest) as target, contextlib.ExitStack() as stack:
        port = target.port
        for mode in 'LRLR':
            port = tunnels.to(mode, port)
            through = free_port()
            client = subprocess.Popen([
                'ssh', '-F', 'none', '-N', '-i', sshd.key, '-o', f'UserKnownHostsFile={sshd.known_hosts}',
                '-o', 'ExitOnForwardFailure=yes', '-p', str(sshd.port), f'{sshd.user}@127.0.0.1',
                f'-{mode}', f'{through}:127.0.0.1:{port}'])
            stack.callback(client.wait)
            stack.callback(client.kill)
            until(lambda: listens(through), 'ssh listens')
            port = through
        data = random.randbytes(2 * MEBI)
        assert ask(port, data) == digest(data)


def listens(port):
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE


def test_close_ends_everything_that_is_open(any_tunnels):
    with Target(lambda sock: sock.recv(1)) as target:
        ports = [any_tunnels.to(mode, target.port) for mode in 'LR'] + [any_tunnels.open('D', '0')]
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(port)) for port in ports]
            until(lambda: any_tunnels.clients() == 3 and target.connections == 2, 'they are connected')
            any_tunnels.forwards.close()
            for sock in socks:
                with contextlib.suppress(ConnectionError):
                    assert sock.recv(1) == b''
    until(lambda: any_tunnels.clients() == 0, 'nothing is left')
    until(lambda: not listens(ports[0]) and not listens(ports[2]), 'nobody listens')


# --- SOCKS --------------------------------------------------------------------------------------------------

def curl(port, option, url):
    command = ['curl', '-sS', '-g', '--max-time', str(PATIENCE), option, f'127.0.0.1:{port}', url]
    return subprocess.run(command, capture_output=True, text=True)


@needs_sshd
@needs_curl
@pytest.mark.parametrize('mode', ['D', 'R'])
@pytest.mark.parametrize('option, host', [
    ('--socks4', '127.0.0.1'), ('--socks4a', '127.0.0.1'), ('--socks4a', 'localhost'),
    ('--socks5', '127.0.0.1'), ('--socks5', '[::1]'),
    ('--socks5-hostname', 'localhost'), ('--socks5-hostname', '127.0.0.1'),
])
def test_curl_gets_its_page_by_every_kind_of_socks(tunnels, mode, option, host):
    with Target(serve_page, socket.AF_INET6 if host == '[::1]' else socket.AF_INET) as target:
        result = curl(tunnels.open(mode, '0'), option, f'http://{host}:{target.port}/')
        assert (result.stdout, result.stderr) == ('hello', '')


@pytest.mark.parametrize('mode', ['D', 'R'])
def test_a_target_that_refuses_is_a_socks_reply(any_tunnels, mode):
    port = any_tunnels.open(mode, '0')
    nobody = free_port().to_bytes(2, 'big')
    with connect(port) as sock:
        sock.sendall(b'\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01' + nobody)
        assert read_all(sock) == b'\x05\x00\x05\x05\x00\x01' + bytes(6)
    with connect(port) as sock:
        sock.sendall(b'\x04\x01' + nobody + b'\x7f\x00\x00\x01\x00')
        assert read_all(sock) == b'\x00\x5b' + bytes(6)


@pytest.mark.quick
@needs_sshd
def test_a_target_that_the_server_forbids_is_a_socks_reply():
    with Sshd(PermitOpen='127.0.0.1:9') as sshd:
        tunnels = Tunnels(sshd.port, sshd.user, sshd_key(sshd))
        with connect(tunnels.open('D', '0')) as sock:
            sock.sendall(b'\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50')
            assert read_all(sock) == b'\x05\x00\x05\x02\x00\x01' + bytes(6)
        tunnels.close()


@needs_sshd
@pytest.mark.parametrize('mode', ['D', 'R'])
def test_what_a_client_sends_without_waiting_for_the_reply_arrives_first(tunnels, mode):
    data = random.randbytes(300000)
    with Target(answer_digest) as target, connect(tunnels.open(mode, '0')) as sock:
        request = b'\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01' + target.port.to_bytes(2, 'big')
        sock.sendall(request + data)
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b'\x05\x00\x05\x00\x00\x01' + bytes(6) + digest(data)


@needs_sshd
def test_clients_that_name_no_target_are_let_go(tunnels, monkeypatch):
    monkeypatch.setattr(script.Client, 'CHOICE_LIMIT', 0.5)
    port = tunnels.open('D', '0')
    with connect(port) as silent, connect(port) as stranger:
        stranger.sendall(b'GET / HTTP/1.1\r\n\r\n')
        for sock in (silent, stranger):
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b''
    until(lambda: tunnels.clients() == 0, 'nothing is left')


# --- Bad days -----------------------------------------------------------------------------------------------

@needs_sshd
@each_mode
def test_a_cut_in_mid_transfer_is_no_end_of_file_and_new_clients_are_served_after_it(tunnels, sshd, mode):
    def pour(sock):
        if sock.recv(1) == b'?':
            return sock.sendall(b'!')
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(bytes(MEBI))

    with Target(pour) as target:
        port = tunnels.to(mode, target.port)
        with connect(port) as sock:
            sock.sendall(b'x')
            sock.recv(MEBI)
            sshd.cut()
            if mode == 'L':
                with pytest.raises(ConnectionResetError):
                    read_all(sock)
        if mode == 'R':
            until(lambda: tunnels.heard('listening'), 'the server listens again')
            assert tunnels.heard('listening')[-1]['port'] == port
        with connect(port) as sock:
            sock.sendall(b'?')
            assert sock.recv(1) == b'!'
    until(lambda: tunnels.clients() == 0, 'the old client is gone')


@needs_sshd
def test_a_port_the_old_session_still_holds_is_asked_for_until_it_is_free(tunnels, sshd):
    with Target(saying(b'hi')) as target:
        port = tunnels.open('R', f'127.0.0.1:0:127.0.0.1:{target.port}')
        sshd.stop()
        with until(lambda: hold(port), 'the old session has ended'):
            sshd.start()
            until(lambda: tunnels.heard('waiting'), 'the server was asked again')
            assert not tunnels.heard('listening')
        until(lambda: tunnels.heard('listening'), 'the server listens again')
        assert ask(port) == b'hi' and tunnels.forwards.bound == [('R', '127.0.0.1', port)]


def hold(port):
    with contextlib.suppress(OSError):
        return socket.create_server(('127.0.0.1', port))


@pytest.mark.quick
def test_clients_wait_while_the_connection_is_made_anew():
    key = paramiko.ECDSAKey.generate()
    with EmbeddedServer() as server, Target(saying(b'hi')) as target:
        server.authorize(key)
        tunnels = Tunnels(server.port, server.user, key)
        port = tunnels.to('L', target.port)
        server.stop_listening()
        server.cut()
        until(lambda: lost(tunnels.link), 'the loss is noticed')
        with connect(port) as sock:
            sock.shutdown(socket.SHUT_WR)
            until(lambda: tunnels.clients() == 1, 'the client is in')
            server.listen_again()
            assert read_all(sock) == b'hi'
        tunnels.close()


def test_a_client_whose_channel_was_opening_when_the_connection_died_is_served_by_the_next():
    key = paramiko.ECDSAKey.generate()
    with EmbeddedServer() as server, Target(saying(b'hi')) as target:
        server.authorize(key)
        tunnels = Tunnels(server.port, server.user, key)
        port = tunnels.to('L', target.port)
        server.freeze()
        with connect(port) as sock:
            sock.shutdown(socket.SHUT_WR)
            until(lambda: tunnels.clients() == 1, 'the client is in')
            server.cut()
            server.thaw()
            assert read_all(sock) == b'hi'
        tunnels.close()


def test_a_jump_host_that_is_gone_does_not_keep_the_keeper_from_giving_up_what_went_through_it(tunnels, monkeypatch):
    jump, opened = tunnels.link.transport(), script.Box()
    jump.open('session', (), opened.put)
    stream = script.SshStream(opened.take(PATIENCE), tunnels.link.board)

    def broken(message):
        raise EOFError
    with monkeypatch.context() as patch:
        patch.setattr(jump.transport, '_send_message', broken)
        stream.send(b'what is on its way')
        stream.forget_unsent()
        with pytest.raises(EOFError):
            stream.recv(1)


def test_clients_do_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(script.Client, 'LINK_LIMIT', 0.3)
    key = paramiko.ECDSAKey.generate()
    with EmbeddedServer() as server:
        server.authorize(key)
        tunnels = Tunnels(server.port, server.user, key)
        ports = tunnels.to('L', 9), tunnels.open('D', '0')
        server.stop_listening()
        server.cut()
        until(lambda: lost(tunnels.link), 'the loss is noticed')
        assert ask(ports[0], b'') == b''
        request = b'\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50'
        assert ask(ports[1], request) == b'\x05\x00\x05\x01\x00\x01' + bytes(6)
        tunnels.close()


def lost(link):
    try:
        return not link.transport(0)
    except script.Problem:
        return True


@needs_sshd
def test_a_listener_that_the_system_took_away_is_opened_again(tunnels):
    with Target(saying(b'hi')) as target:
        port = tunnels.to('L', target.port)
        listener, = [thing for thing in gc.get_objects() if isinstance(thing, socket.socket)
                     and thing.fileno() >= 0 and thing.family == socket.AF_INET
                     and thing.getsockname() == ('127.0.0.1', port)]
        listener.shutdown(socket.SHUT_RDWR)
        until(lambda: not listener.fileno() >= 0, 'the dead listener is put away')
        assert until(lambda: asked(port), 'it listens again') == b'hi'


def asked(port):
    with contextlib.suppress(OSError):
        return ask(port)


@needs_sshd
@pytest.mark.slow
def test_a_server_that_stands_still_for_less_than_two_missed_answers_loses_nothing(tunnels, sshd):
    data = random.randbytes(MEBI // 8)      # what the system keeps for a server that takes nothing
    with Target(echo) as target, connect(tunnels.to('L', target.port)) as sock:
        sock.settimeout(2 * PATIENCE)
        sock.sendall(data)
        sshd.signal_connections(signal.SIGSTOP)
        let_pass(time.monotonic(), 25)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        sshd.signal_connections(signal.SIGCONT)
        assert digest(read_all(sock)) == digest(data + data)


@pytest.mark.slow
def test_a_server_that_is_gone_for_twenty_seconds_finds_the_same_tunnels():
    key = paramiko.ECDSAKey.generate()
    with EmbeddedServer() as server, Target(saying(b'hi')) as target:
        server.authorize(key)
        tunnels = Tunnels(server.port, server.user, key)
        ports = [tunnels.to(mode, target.port) for mode in 'LR']
        server.stop_listening(20)
        server.cut()
        until(lambda: lost(tunnels.link), 'the loss is noticed')
        assert ask(ports[0]) == b'hi'
        until(lambda: tunnels.heard('listening'), 'the server listens again')
        assert ask(ports[1]) == b'hi'
        tunnels.close()


@needs_sshd
@pytest.mark.slow
@each_mode
def test_two_thousand_connections_in_a_row_leave_no_trace(tunnels, mode):
    with Target(answer_digest) as target:
        port = tunnels.to(mode, target.port)
        for _ in range(300):
            ask(port)
        before = usage(tunnels)
        for _ in range(2000):
            assert ask(port) == digest(b'hello')
        after = usage(tunnels)
    assert after['descriptors'] == before['descriptors']
    assert after['threads'] < before['threads'] + 8, 'a few may rest'
    assert after['memory'] < before['memory'] + 4 * MEBI


def usage(tunnels):
    """What the process holds once every client is gone."""
    until(lambda: tunnels.clients() == 0, 'all clients are gone')
    wait_for_closed_channels(tunnels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    return {'threads': _thread._count(), 'descriptors': len(os.listdir('/dev/fd')), 'memory': peak}


@needs_sshd
@pytest.mark.slow
def test_hostile_bytes_on_the_socks_port_harm_nobody():
    chance = random.Random(12)
    # Some of the bytes are proper requests for addresses of chance: they must not leave this machine.
    with Sshd(PermitOpen='127.0.0.1:*') as sshd, Target(saying(b'hi')) as target:
        tunnels = Tunnels(sshd.port, sshd.user, sshd_key(sshd))
        port = tunnels.open('D', '0')
        request = b'\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01' + target.port.to_bytes(2, 'big')
        starts = [b'', b'\x05\x01\x00', b'\x04\x01', b'\x05\xff', b'GET / HTTP/1.1\r\n', b'\x16\x03\x01',
                  b'\x05\x01\x00\x05\x01\x00\x03\xff', b'\x04\x01\x00\x50\x00\x00\x00\x01', request]
        for _ in range(3000):
            with contextlib.suppress(OSError), connect(port) as sock:
                sock.sendall(chance.choice(starts) + chance.randbytes(chance.choice([0, 1, 10, 1000])))
                if chance.random() < 0.3:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                elif chance.random() < 0.5:
                    sock.settimeout(0.05)
                    sock.recv(100)
        assert ask(port, request).endswith(b'hi')
        until(lambda: tunnels.clients() == 0, 'nothing is left')
        tunnels.close()
