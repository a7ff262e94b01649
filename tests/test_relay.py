"""The distance is as strict as a network: no byte early, none more after a cut, and round trips counted exactly.

The two ends are plain sockets here: `Far` is the server's side, `near(relay)` a client's connection.
"""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from harness import PATIENCE
from relay import Relay


class Far:
    """The server's end: takes connections one by one, `with far.taken() as sock`."""

    def __init__(self):
        self._listener = socket.create_server(('127.0.0.1', 0))
        self._listener.settimeout(PATIENCE)
        self.port = self._listener.getsockname()[1]

    def taken(self):
        sock = self._listener.accept()[0]
        sock.settimeout(PATIENCE)
        return sock

    def nobody_came(self):
        self._listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            self._listener.accept()
        self._listener.settimeout(PATIENCE)
        return True

    def close(self):
        self._listener.close()


@pytest.fixture
def far():
    with contextlib.closing(Far()) as far:
        yield far


def near(relay, patience=PATIENCE):
    return socket.create_connection(('127.0.0.1', relay.port), patience)


def joined(relay, far):
    """A connection through the relay: both its ends."""
    client = near(relay)
    return client, far.taken()


def everything(sock):
    """What comes until the end of file; with None at the end where it is a reset."""
    pieces = []
    try:
        while piece := sock.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pieces.append(None)
    return b''.join(piece for piece in pieces if piece), pieces[-1:] == [None]


def whole(sock, count):
    """The next so many bytes."""
    data = b''
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f'ended after {data!r}'
        data += piece
    return data


def silent(sock):
    """Nothing is there to be read, and no end either."""
    sock.setblocking(False)
    try:
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    finally:
        sock.settimeout(PATIENCE)
    return True


@pytest.mark.quick
# --- A distance ---------------------------------------------------------------------------------------------

def test_no_byte_is_earlier_than_the_distance_allows(far):
    with Relay(far, round_trip=0.2) as relay:
        began = time.monotonic()
        client, server = joined(relay, far)
        assert time.monotonic() - began >= 0.3          # the third packet of TCP's handshake is there
        began = time.monotonic()
        client.sendall(b'ping')
        assert server.recv(10) == b'ping' and time.monotonic() - began >= 0.1
        server.sendall(b'pong')
        assert client.recv(10) == b'pong' and time.monotonic() - began >= 0.2
        relay.far(0.4)
        began = time.monotonic()
        server.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b'' and time.monotonic() - began >= 0.2


def test_megabytes_arrive_whole_in_both_directions_and_each_direction_ends_by_itself(far):
    data = os.urandom(12 << 20)
    with Relay(far, round_trip=0.01) as relay:
        client, server = joined(relay, far)

        def send(sock):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        senders = [threading.Thread(target=send, args=(sock,), daemon=True) for sock in (client, server)]
        received = {}
        readers = [threading.Thread(target=lambda sock: received.update({sock: everything(sock)}), args=(sock,))
                   for sock in (client, server)]
        for thread in senders + readers:
            thread.start()
        for thread in readers:
            thread.join(60)
        assert received == {client: (data, False), server: (data, False)}
        assert relay.carried() == [[len(data), len(data)]]


def test_one_direction_may_be_over_while_the_other_goes_on(far):
    with Relay(far) as relay:
        client, server = joined(relay, far)
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b''
        server.sendall(b'late answer')
        server.close()
        assert everything(client) == (b'late answer', False)


def test_a_server_that_is_not_there_resets_the_client():
    with contextlib.closing(Far()) as gone:
        port = gone.port
    with Relay(port) as relay, pytest.raises(ConnectionResetError):
        near(relay).recv(1)


def test_a_reset_by_one_end_arrives_as_a_reset_after_what_was_sent_before(far):
    with Relay(far) as relay:
        client, server = joined(relay, far)
        client.sendall(b'unread')
        server.sendall(b'last words')
        assert client.recv(10) == b'last words'
        server.close()                                  # with something unread, which makes it a reset
        assert everything(client) == (b'', True)


@pytest.mark.quick
# --- Contact lost -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('count', [1, 2, 7])
@pytest.mark.parametrize('how', ['silence', 'reset', 'end'])
@pytest.mark.parametrize('side', ['up', 'down'])
def test_contact_is_lost_at_the_very_byte(far, how, side, count):
    with Relay(far) as relay:
        relay.cut(how, **{side: count})
        client, server = joined(relay, far)
        source, target = (client, server) if side == 'up' else (server, client)
        source.sendall(b'1234567')
        if how == 'silence':
            assert whole(target, count) == b'1234567'[:count]
            relay.carried()
            assert silent(client) and silent(server)
        else:
            assert everything(target) == (b'1234567'[:count], how == 'reset')
            assert everything(source) == (b'', how == 'reset')
        carried = [count, 0] if side == 'up' else [0, count]
        assert relay.carried() == [carried]


@pytest.mark.parametrize('side', ['up', 'down'])
def test_contact_may_be_lost_before_the_first_byte(far, side):
    with Relay(far) as relay:
        relay.cut('silence', **{side: 0})
        client, server = joined(relay, far)
        client.sendall(b'x')
        server.sendall(b'x')
        relay.carried()
        assert silent(client) and silent(server) and relay.carried() == [[0, 0]]
        relay.cut('end', **{side: 0})
        client, server = joined(relay, far)
        assert everything(client) == everything(server) == (b'', False)
        relay.cut('reset', **{side: 0})
        with pytest.raises(ConnectionResetError):       # connecting or reading, whichever comes first
            near(relay).recv(1)
        assert everything(far.taken()) == (b'', True)


def test_a_cut_that_was_ordered_happens_once(far):
    with Relay(far) as relay:
        relay.cut('reset', up=3)
        client, server = joined(relay, far)
        client.sendall(b'abcd')
        assert everything(server) == (b'abc', True)
        again, server = joined(relay, far)
        again.sendall(b'abcd')
        assert server.recv(10) == b'abcd'
        assert relay.carried() == [[3, 0], [4, 0]]


@pytest.mark.quick
def test_silence_is_a_black_hole_and_what_was_sent_into_it_arrives_once_contact_is_back(far):
    with Relay(far) as relay:
        client, server = joined(relay, far)
        relay.cut('silence')
        client.sendall(b'is anybody there?')
        server.sendall(b'hello?')
        client.shutdown(socket.SHUT_WR)
        relay.carried()
        assert silent(server) and silent(client)
        relay.restore()
        assert everything(server) == (b'is anybody there?', False)
        assert client.recv(10) == b'hello?'


def test_silence_in_one_direction_leaves_the_other_alone(far):
    with Relay(far) as relay:
        client, server = joined(relay, far)
        relay.cut('silence', way='down')
        server.sendall(b'unheard')
        client.sendall(b'heard')
        assert server.recv(10) == b'heard' and silent(client)


def test_a_reset_to_one_end_only_leaves_the_other_in_silence_for_good(far):
    for way in ('up', 'down'):
        with Relay(far) as relay:
            client, server = joined(relay, far)
            told, untold = (server, client) if way == 'up' else (client, server)
            relay.cut('reset', way=way)
            assert everything(told) == (b'', True)
            untold.sendall(b'nobody hears this')
            relay.restore()
            assert silent(untold)


def test_an_end_of_file_in_one_direction_leaves_the_other_alone(far):
    with Relay(far) as relay:
        client, server = joined(relay, far)
        relay.cut('end', way='down')
        assert everything(client) == (b'', False)
        client.sendall(b'still here')
        assert server.recv(20) == b'still here'


def test_what_was_on_its_way_is_lost_with_a_reset(far):
    with Relay(far, round_trip=0.1) as relay:
        client, server = joined(relay, far)
        relay.far(3600)
        client.sendall(b'never arrives')
        relay.cut('reset')
        assert everything(server) == (b'', True) and everything(client) == (b'', True)


def test_new_connections_are_refused_and_taken_again_at_the_same_port(far):
    with Relay(far) as relay:
        client, server = joined(relay, far)
        relay.door('refused')
        with pytest.raises(ConnectionRefusedError):
            near(relay)
        client.sendall(b'old ones live')
        assert server.recv(20) == b'old ones live'
        relay.restore()
        joined(relay, far)


def test_new_connections_may_get_no_answer_at_all_until_contact_is_back(far):
    with Relay(far) as relay:
        relay.door('silent')
        client = socket.socket()
        client.setblocking(False)
        assert client.connect_ex(('127.0.0.1', relay.port)) == errno.EINPROGRESS
        relay.carried()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near(relay, patience=0.2)
        assert far.nobody_came()
        relay.restore()
        client.settimeout(PATIENCE)
        client.connect_ex(('127.0.0.1', relay.port))    # the system knocks again by itself
        server = far.taken()
        client.sendall(b'at last')
        assert server.recv(10) == b'at last'


def test_new_connections_may_be_taken_and_hear_nothing(far):
    with Relay(far) as relay:
        relay.door('mute')
        client = near(relay)
        client.sendall(b'hello?')
        relay.carried()
        assert silent(client) and far.nobody_came()
        relay.restore()
        assert far.taken().recv(10) == b'hello?'


def test_a_wrong_word_is_refused(far):
    with Relay(far) as relay:
        for wrong in (lambda: relay.cut('gently'), lambda: relay.door('ajar'), lambda: relay.cut('end', up=1, down=1)):
            with pytest.raises(RuntimeError):
                wrong()


# --- Round trips that are waited for ------------------------------------------------------------------------

PONG = '''
import socket, sys, threading
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock.makefile('rb') as lines:
        for line in lines:
            sock.sendall(line)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
'''
# Asks N times, each time after the answer; what it does in between costs a child, a file and a poll each 0.1 s.
PING = '''
import os, socket, subprocess, sys, tempfile, threading, time
port, count, style = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sock = socket.create_connection(('127.0.0.1', port))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
lines = sock.makefile('rb')
for number in range(count):
    if style == 'busy':
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
    if style == 'polling':
        with tempfile.TemporaryDirectory() as folder:
            made = os.path.join(folder, 'made')
            subprocess.Popen(['sh', '-c', 'sleep 0.05; : >"$0"', made])
            while not os.path.exists(made):
                time.sleep(0.1)
    if style == 'children':
        subprocess.run(['sh', '-c', 'exit 0'])
    if style == 'chatty':
        sock.sendall(b'nobody waits for this\\n' * 3)
    sock.sendall(b'%d\\n' % number)
    while lines.readline() != b'%d\\n' % number:
        pass
print('done', flush=True)
'''


@pytest.fixture
def pong():
    """The port of a server that sends each line back."""
    with subprocess.Popen([sys.executable, '-I', '-S', '-c', PONG], stdout=subprocess.PIPE, text=True) as process:
        yield int(process.stdout.readline())
        process.kill()


def ping(relay, count, style='plain'):
    """Run the client to its end; the round trips it waited for."""
    done = subprocess.run([sys.executable, '-I', '-S', '-c', PING, str(relay.port), str(count), style],
                          capture_output=True, text=True, timeout=120)
    assert done.stdout == 'done\n', done.stderr
    return relay.trips()


@pytest.mark.parametrize('style', ['plain', 'busy', 'polling', 'children', 'chatty'])
def test_n_questions_are_n_round_trips_and_one_for_the_connection_whatever_the_client_does_meanwhile(pong, style):
    with Relay(pong, counted=True) as relay:
        assert ping(relay, 3, style) == 3 + 1


def test_a_second_count_begins_at_nothing_once_all_is_settled(pong):
    with Relay(pong, counted=True) as relay:
        assert ping(relay, 1) == 2
        relay.settle()
        assert relay.trips() == 0
        assert ping(relay, 2) == 3


def test_what_it_took_to_connect_is_no_part_of_a_second_count(pong):
    with Relay(pong, counted=True) as relay, near(relay) as client:
        for _ in range(2):
            client.sendall(b'x\n')
            assert whole(client, 2) == b'x\n'
            relay.settle()
        client.sendall(b'x\n')
        assert whole(client, 2) == b'x\n' and relay.trips() == 1


@pytest.mark.quick
def test_what_is_asked_at_once_is_waited_for_once(pong):
    with Relay(pong, counted=True) as relay:
        clients = [near(relay) for _ in range(3)]
        for client in clients:
            client.sendall(b'all of us\n' * 2)
        for client in clients:
            assert whole(client, 20) == b'all of us\n' * 2
        assert relay.trips() == 2


def test_connections_one_after_the_other_add_up(pong):
    with Relay(pong, counted=True) as relay:
        for _ in range(3):
            with near(relay) as client:
                client.sendall(b'x\n')
                client.recv(2)
        assert relay.trips() == 3 * 2


def test_what_comes_unasked_is_half_a_round_trip(far):
    with Relay(far, counted=True) as relay:
        client, server = joined(relay, far)
        relay.settle()
        server.sendall(b'news')
        assert client.recv(4) == b'news'
        assert relay.trips() == 0.5


def test_a_sleep_is_no_round_trip_and_what_nobody_waits_for_neither(far):
    with Relay(far, counted=True) as relay:
        client, server = joined(relay, far)
        relay.settle()
        client.sendall(b'read by nobody')
        asleep = threading.Event()
        threading.Timer(0.6, asleep.set).start()
        assert asleep.wait(PATIENCE)
        assert relay.trips() == 0
        assert server.recv(20) == b'read by nobody'


def test_a_process_that_works_holds_back_everything(pong):
    with Relay(pong, counted=True) as relay:
        with near(relay) as client:
            client.sendall(b'x\n')
            end = time.process_time() + 0.1
            while time.process_time() < end:
                pass
            assert silent(client)
            assert client.recv(2) == b'x\n'


# Works for a while, then makes the file that it is given; started so that this process is not its parent.
ORPHAN = '''
import subprocess, sys
WORK = 'import sys, time\\nwhile time.process_time() < 0.3: pass\\nopen(sys.argv[1], "w").close()'
print(subprocess.Popen([sys.executable, '-I', '-S', '-c', WORK, sys.argv[1]], stdout=subprocess.DEVNULL,
                       start_new_session=True).pid, flush=True)
'''


@pytest.mark.quick
@pytest.mark.quick
@pytest.mark.parametrize('how', ['mark', 'pid'])
def test_whoever_is_watched_holds_back_everything_while_it_works(pong, tmp_path, how):
    made = tmp_path / 'made'
    pid = int(subprocess.run([sys.executable, '-I', '-S', '-c', ORPHAN, made], env={'STAND_IN_MARK': 'of-a-test'},
                             stdout=subprocess.PIPE, text=True, check=True).stdout)
    with Relay(pong, counted=True, polls=0.02, watch=['STAND_IN_MARK=of-a-test' if how == 'mark' else pid]) as relay:
        with near(relay) as client:
            client.sendall(b'x\n')
            assert client.recv(2) == b'x\n' and made.exists()


@pytest.mark.slow
def test_counts_beside_four_busy_loops_are_the_same(pong):
    # Bounded in time by themselves, whatever becomes of this test.
    burn = [sys.executable, '-I', '-S', '-c', 'import time\nwhile time.process_time() < 15: pass']
    with Relay(pong, counted=True, polls=0.03) as relay, contextlib.ExitStack() as stack:
        # Grandchildren that nobody here is the parent of: they are not at either end.
        loops = [int(subprocess.run(
            [sys.executable, '-I', '-S', '-c', 'import subprocess, sys\n'
             'print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, start_new_session=True).pid)', *burn],
            capture_output=True, text=True).stdout) for _ in range(4)]
        for pid in loops:
            stack.callback(_end, pid)
        counts = []
        for _ in range(12):
            relay.settle()
            with near(relay) as client:
                subprocess.run(['sh', '-c', 'sleep 0.01'])
                client.sendall(b'x\n')
                client.recv(2)
            counts.append(relay.trips())
        assert counts == [2] * 12


def _end(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
