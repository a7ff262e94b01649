"""Load on a tunnel: many connections, long ones, broken ones; every byte is compared, and who looks on must notice nothing.

    with Target(echo) as target, Bystander(port_of_an_echo) as bystander:
        short_connections(port, 1000)       # each says something of its own, and hears the same
        early_answers(port_of_a_gate, 300)  # uploads that are cut short
    meter = Meter(script.process.pid)       # threads, descriptors and memory of a process, as the system counts them

All of it is done by threads of this process, so that the process under test can be counted from outside.
"""

import contextlib
import hashlib
import os
import pathlib
import random
import select
import socket
import struct
import threading

from waiting import PATIENCE, comes, eventually, until

MEBI = 1 << 20
WORKERS = 8


# --- Targets ------------------------------------------------------------------------------------------------

class Target:
    """A TCP server in the test: each connection is handed to a function, in a thread of its own."""

    def __init__(self, serve):
        self.serve, self.connections = serve, 0
        self._listener = socket.create_server(('127.0.0.1', 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock):
        with contextlib.suppress(OSError), sock:        # a client that breaks off is the client's business
            sock.settimeout(3 * PATIENCE)
            self.serve(sock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def echo(sock):
    """Say back what is heard, to its end."""
    while piece := sock.recv(65536):
        sock.sendall(piece)


def pour(sock):
    """Send without an end."""
    while True:
        sock.sendall(bytes(65536))


def part(sock):
    """Read without a word, some of it, and leave in the middle: what comes after that is reset."""
    seen = 0
    while seen < 3 * MEBI and (piece := sock.recv(65536)):
        seen += len(piece)


def digest(sock):
    """Read to the end of file, then answer with what it was: its SHA-256."""
    whole = hashlib.sha256()
    while piece := sock.recv(MEBI):
        whole.update(piece)
    sock.sendall(whole.digest())


ANSWER = b'HTTP/1.1 413 Content Too Large\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n' + b'too much! ' * 200


def gate(sock):
    """An upload that is not wanted is answered at its first bytes, and then left, as nginx does: some of it is read still."""
    sock.recv(1000)
    sock.sendall(ANSWER)
    sock.shutdown(socket.SHUT_WR)
    seen = 0
    while seen < 200_000 and (piece := sock.recv(65536)):
        seen += len(piece)


def brusque(sock):
    """The same without the courtesy: what comes after the answer is reset."""
    sock.recv(1000)
    sock.sendall(ANSWER)


# --- Clients ------------------------------------------------------------------------------------------------

def connect(port, host='127.0.0.1'):
    sock = socket.create_connection((host, port), PATIENCE)
    sock.settimeout(PATIENCE)
    return sock


def socks(port, target):
    """A connection to a loopback port through a SOCKS 5 proxy at `port`."""
    sock = connect(port)
    sock.sendall(b'\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01' + target.to_bytes(2, 'big'))
    reply = b''
    while len(reply) < 12:
        piece = sock.recv(12 - len(reply))
        if not piece:
            raise ConnectionError('the proxy has hung up')
        reply += piece
    if reply[3]:
        raise ConnectionError(f'the proxy says {reply!r}')
    return sock


def reset(sock):
    """Close a socket with a reset."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    sock.close()


MOST = 64 * MEBI        # an answer that is longer is a mistake, and must not fill the memory of the machine


def read_all(sock):
    """Everything to the end of file."""
    whole = bytearray()
    while piece := sock.recv(MEBI):
        whole += piece
        assert len(whole) <= MOST, 'an answer without an end'
    return bytes(whole)


def say(port, words=b'hello'):
    """What an echo says back, to its end."""
    with connect(port) as sock:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def together(count, action, workers=WORKERS):
    """Do something for each number below `count`, several at a time; what went wrong, a line for each."""
    numbers, wrong = iter(range(count)), []
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                complaint = action(number)
            except (OSError, AssertionError) as error:
                complaint = repr(error)
            if complaint:
                wrong.append(f'{number}: {complaint}')
    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


def short_connections(port, count, to=None, seed=1):
    """So many connections, each with bytes of its own through an echo and back; what went wrong."""
    def one(number):
        chance = random.Random(f'{seed} {port} {number}')
        words = chance.randbytes(chance.choice((0, 1, 50, 1000, 1000, 40_000)))
        with (socks(port, to) if to else connect(port)) as sock:
            sock.sendall(words)
            sock.shutdown(socket.SHUT_WR)
            heard = read_all(sock)
        return heard != words and f'{len(words)} bytes went, {len(heard)} came back'
    return together(count, one)


def resets(port, count, seed=2):
    """So many clients of an echo that reset their connection: at once, with bytes under way, or with some unread."""
    def one(number):
        chance = random.Random(f'{seed} {port} {number}')
        sock = connect(port)
        with contextlib.suppress(ConnectionError):
            for _ in range(pieces := chance.choice((0, 0, 1, 3))):
                sock.sendall(chance.randbytes(chance.choice((1, 1000, 30_000))))
            if pieces and chance.random() < 0.4:
                sock.recv(1)
        reset(sock)
    return together(count, one)


def early_answers(port, count, answered=True, size=2 * MEBI):
    """So many uploads to a gate() or brusque() that go on until nobody takes them; those that got no whole answer.

    A client as curl is: it sends, and looks all the time whether there is an answer.
    """
    def one(_):
        heard, left = b'', size
        with connect(port) as sock:
            sock.setblocking(False)
            with contextlib.suppress(ConnectionError):
                while True:
                    readable, writable, _ = select.select([sock], [sock] if left else [], [], PATIENCE)
                    if readable:
                        piece = sock.recv(65536)
                        heard += piece
                        if not piece:
                            break
                    elif writable:
                        left -= sock.send(bytes(min(left, 65536)))
                    else:
                        return 'nothing moves'
        return answered and heard != ANSWER and f'{len(heard)} bytes of {len(ANSWER)} came'
    return together(count, one)


def early_leavings(port, count):
    """So many clients of pour() that leave in the middle."""
    def one(number):
        with connect(port) as sock:
            for _ in range(number % 5 + 1):
                if not sock.recv(65536):
                    return 'cut off'
    return together(count, one)


def held(port, count):
    """A context manager: so many connections to an echo at once, each used; the sockets."""
    @contextlib.contextmanager
    def hold():
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(port)) for _ in range(count)]
            wrong = use(socks)
            assert not wrong, wrong[:5]
            yield socks
    return hold()


def use(socks):
    """Say something on each of the connections to an echo, and hear it; what went wrong."""
    def one(number):
        words = b'%d ' % number * 20
        socks[number].sendall(words)
        heard = b''
        while len(heard) < len(words) and (piece := socks[number].recv(len(words) - len(heard))):
            heard += piece
        return heard != words and f'{heard!r}'
    return together(len(socks), one)


def both_ways(up, down, pairs, amount=4 * MEBI):
    """As `iperf3 --bidir -P pairs`: so many streams each way at once; those up to part() are left by the target, the others
    by the client, all about together, with bytes under way. What went wrong."""
    def one(number):
        way, moved = (up, down)[number % 2], 0
        with connect(way) as sock:
            with contextlib.suppress(ConnectionError):
                while way == up or moved < amount:
                    count = sock.send(bytes(65536)) if way == up else len(sock.recv(65536))
                    if not count:
                        break
                    moved += count
            return moved < 3 * MEBI and f'cut off after {moved} bytes'
    return together(2 * pairs, one, 2 * pairs)


class Bystander:
    """Somebody else's connections to an echo through the same tunnel, which nothing that happens beside them may harm."""

    def __init__(self, *ports, size=16_000):
        self.rounds, self.wrong = 0, []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, size), daemon=True) for port in ports]

    def _run(self, port, size):
        chance = random.Random(port)
        try:
            with connect(port) as sock:
                while not self._over.is_set():
                    words, heard = chance.randbytes(size), b''
                    sock.sendall(words)
                    while len(heard) < size and (piece := sock.recv(size - len(heard))):
                        heard += piece
                    if heard != words:
                        raise ConnectionError(f'{len(heard)} of {size} bytes came back' if len(heard) < size else 'other bytes came back')
                    self.rounds += 1
                    self._over.wait(0.005)
        except OSError as error:
            self.wrong.append(f'port {port} after {self.rounds} rounds: {error!r}')

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: self.rounds > len(self._threads) or self.wrong)
        return self

    def __exit__(self, *_):
        self.moves()
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def moves(self):
        """Wait until it has got further."""
        rounds = self.rounds
        until(lambda: self.rounds > rounds + len(self._threads) or self.wrong, 'the bystander goes on')


# --- The process under test ---------------------------------------------------------------------------------

class Meter:
    """What the system counts of a process."""

    def __init__(self, pid):
        self._folder = pathlib.Path(f'/proc/{pid}')

    def threads(self):
        return len(os.listdir(self._folder / 'task'))

    def descriptors(self):
        return len(os.listdir(self._folder / 'fd'))

    def memory(self, line='VmRSS'):
        """Bytes that it has in memory; with 'VmHWM', the most it ever had."""
        return int((self._folder / 'status').read_text().partition(line + ':')[2].split()[0]) * 1024

    def wake_ups(self):
        """How often its threads have begun to run so far, and have stopped because they wanted to wait."""
        count = 0
        for status in self._folder.glob('task/*/status'):
            with contextlib.suppress(OSError):
                count += int(status.read_text().partition('\nvoluntary_ctxt_switches:')[2].split()[0])
        return count

    def is_still(self):
        """Whether it has begun all that it begins by itself: nobody runs between two looks."""
        before = self.wake_ups()
        return not comes(lambda: self.wake_ups() > before, within=0.3)

    def state(self):
        return {'threads': self.threads(), 'descriptors': self.descriptors()}

    def comes_back_to(self, state, patience=PATIENCE):
        """What there is more of than there was, once it has had its time to end; empty where all is as it was."""
        return eventually(lambda: {name: f'{count}, not {state[name]}' for name, count in self.state().items() if count > state[name]},
                          patience)
