"""A distance: a TCP relay on loopback between a client and any server, with a round trip and bad days of its own.

    with Relay(to=server.port, round_trip=0.3) as relay:        # bytes take 0.15 s each way, a connection 0.3 s more
        …connect to 127.0.0.1, relay.port…
        relay.cut('reset', down=1500)                           # once 1,500 bytes came back on a connection
        relay.door('silent')                                    # who connects now hears nothing
        relay.restore()

    with Relay(to=server.port, counted=True, watch=[server]) as relay:
        script = run(to=f'ana@127.0.0.1:{relay.port}')
        script.wait_for('sign-in')
        assert relay.trips() <= 9                               # the same number at any load

**What is counted.** A round trip is waited for when nothing that matters can happen before its answer is here: the
number is what the clock would show, in round trips, if computing took no time and pipes had no limit. So bytes are
held until every process at both ends sleeps and only then cross, all that are held at once. Each side has a depth: 0 in
the beginning, and at least one more than the sender's when bytes arrive. What is asked at the client's side is half its
depth. A message that nobody needs adds nothing, and neither does a timer: who sleeps for a second waits for no answer.
A new connection takes three crossings before its first byte arrives, as TCP's handshake does.

*Every process sleeps* is not guessed from quiet. Two looks in a row at /proc find every task of the concerned processes
asleep, and none of them on a processor in between. Then whatever polls (a loop that looks each 0.1 s whether a file
has changed) gets the time to look once more, and everybody has to sleep again with nothing new to carry.
Concerned are the test's own process, all it started, and whoever has a watched mark in its environment.

The relay is a process of its own: what the test's threads do and wait for is seen as truly as what all others do.
"""

import collections
import contextlib
import errno
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time

CHUNK = 64 * 1024
ROOM = 4 * 1024 * 1024
"""What one direction holds before its sender has to wait."""

UP, DOWN = 'up', 'down'
BOTH = (UP, DOWN)
END, RESET = object(), object()
POLLS = 0.12
"""Who polls here does so each 0.1 s or more often; it gets this long to look again."""


class Relay:
    """Carries connections from its own port to the server's, as a network would that is far away.

    to          the server's port on 127.0.0.1, or what has a `port`
    round_trip  seconds from one end to the other and back
    counted     bytes move when everybody sleeps, and round trips are counted; `round_trip` does not matter then
    watch       what is at work beside this process and its children: a process id with all that it starts, or
                what has a `mark` (a server, a script), or a mark as NAME=VALUE
    polls       seconds between two looks of whoever polls, at most
    """

    def __init__(self, to, round_trip=0.0, counted=False, watch=(), polls=POLLS):
        self.port = None
        self._setting = {'to': getattr(to, 'port', to), 'round_trip': round_trip, 'counted': counted,
                         'watch': [os.getpid(), *map(_watched, watch)], 'polls': polls}
        self._asking = threading.Lock()

    def __enter__(self):
        self._process = subprocess.Popen([sys.executable, '-I', '-S', __file__],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = self._ask('open', **self._setting)
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, what, **how):
        with self._asking:
            self._process.stdin.write(json.dumps({'do': what, **how}).encode() + b'\n')
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or '{"error": "the relay has ended"}')
        if 'error' in answer:
            raise RuntimeError(answer['error'])
        return answer['is']

    # The distance

    def far(self, round_trip):
        """Another round trip, for what is sent from now on."""
        self._ask('far', round_trip=round_trip)

    # Bad days

    def cut(self, how, way='both', up=None, down=None):
        """Lose contact: at once, or when a connection has carried that many bytes up (to the server) or down.

        how     'silence': nothing gets through any more, and nobody is told; what is sent waits for `restore`
                'reset': as from a network that has forgotten the connection; 'end': end of file, then nothing
        way     'both'; 'down': what the client gets from the server's side, 'up': the other direction.
                A reset to one end only leaves the other in silence.
        What was on its way is lost, but for silence. With `up` or `down` it happens once, to the first connection
        that comes so far, which has then carried exactly so many bytes.
        """
        self._ask('cut', how=how, way=way, up=up, down=down)

    def door(self, state):
        """What new connections meet: 'open', 'refused', 'silent' (no answer at all) or 'mute' (taken, then nothing)."""
        self._ask('door', state=state)

    def restore(self):
        """Contact returns: the door is open, no cut is due, and what waited in silence is carried."""
        self._ask('restore')

    # What was

    def carried(self):
        """Bytes that each connection so far has brought to its other end: [up, down] of each, in order."""
        return self._ask('carried')

    def trips(self):
        """Round trips that the client's side has waited for, up to now."""
        return self._ask('trips')

    def crossings(self):
        """Bytes that each crossing since then has brought, up and down, as a text: where something was waited for."""
        return ' '.join(f'{number / 2:g}:' + (f'↑{up}' if up else '') + (f'↓{down}' if down else '')
                        for number, (up, down) in enumerate(self._ask('crossings'), 1))

    def settle(self):
        """Wait until everybody sleeps and nothing is under way, then count anew from 0."""
        self._ask('settle')


def _watched(thing):
    return thing if isinstance(thing, (int, str)) else f'STAND_IN_MARK={thing.mark}'


# --- The process --------------------------------------------------------------------------------------------

class _Way:
    """One direction of a connection: what was read and has not arrived yet."""

    def __init__(self, name, source, target):
        self.name, self.source, self.target = name, source, target
        self.held = collections.deque()         # (when it is due, depth it was sent at, bytes or END or RESET)
        self.out = bytearray()                  # due, and the system takes no more of it yet
        self.size = self.delivered = 0
        self.silent = self.ended = self.finished = False

    def hold(self, due, depth, piece):
        self.held.append((max(due, self.held[-1][0] if self.held else 0), depth, piece))
        self.size += len(piece) if isinstance(piece, bytes) else 0

    def wants_to_read(self):
        return not self.silent and not self.ended and self.size < ROOM


class _Wire:
    """A connection: the client's socket and the server's."""

    def __init__(self, near, due, depth):
        self.near, self.far = near, None
        self.due, self.depth = due, depth       # of the moment when the server's system has taken it
        self.connecting = self.half_reset = False
        self.ways = {UP: _Way(UP, near, None), DOWN: _Way(DOWN, None, near)}

    def sockets(self):
        return [sock for sock in (self.near, self.far) if sock is not None]

    def is_opening(self):
        return self.far is None and not self.ways[UP].silent

    def way_from(self, sock):
        return self.ways[UP if sock is self.near else DOWN]

    def way_to(self, sock):
        return self.ways[DOWN if sock is self.near else UP]


class _Network:
    """What the process does, in one loop: take, hold, deliver; and obey."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.wires, self.ways = [], []           # those that are, and the two ways of all that were
        self.due_cut = None
        self.door_state = 'open'
        self.fillers = []
        self.depth = {UP: 0, DOWN: 0}           # of the server's side and of the client's
        self.crossings = []                     # bytes that each has brought, up and down
        self.settling = False
        self.asked = bytearray()
        self.crowd = self.listener = None

    # Words from the test

    def do_open(self, to, round_trip, counted, watch, polls):
        self.to, self.round_trip, self.polls = to, round_trip, polls
        self.crowd = _Crowd(watch) if counted else None
        self.slept = None                       # since when, if a look found everybody asleep
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        return self.port

    def do_far(self, round_trip):
        self.round_trip = round_trip

    def do_cut(self, how, way, up, down):
        ways = BOTH if way == 'both' else (way,)
        if how not in ('silence', 'reset', 'end') or not set(ways) <= set(BOTH):
            raise ValueError(f'no such cut: {how} {way}')
        if up is not None and down is not None:
            raise ValueError('a cut is due by bytes of one direction')
        if up is None and down is None:
            for wire in list(self.wires):
                self._cut(wire, how, ways)
        else:
            self.due_cut = (UP if down is None else DOWN, down if up is None else up, how, ways)

    def do_door(self, state):
        if state not in ('open', 'refused', 'silent', 'mute'):
            raise ValueError(f'no such door: {state}')
        if self.door_state == 'refused' and state != 'refused':
            self.listener = _bound_again(self.port)
            self.selector.register(self.listener, selectors.EVENT_READ)
        if self.door_state == 'silent' and state != 'silent':
            self._empty_the_queue()
        if state == 'refused' and self.door_state != 'refused':
            self.selector.unregister(self.listener)
            self.listener.close()
        if state == 'silent' and self.door_state != 'silent':
            self._fill_the_queue()
        self.door_state = state

    def do_restore(self):
        self.due_cut = None
        self.do_door('open')
        for wire in self.wires:
            for way in wire.ways.values():
                way.silent = wire.half_reset
            self._watch(wire)

    def do_carried(self):
        return [[ways[UP].delivered, ways[DOWN].delivered] for ways in self.ways]

    def do_trips(self):
        return self.depth[DOWN] / 2

    def do_crossings(self):
        return self.crossings

    # The door

    def _fill_the_queue(self):
        """A listener whose queue is full is not asked: the system drops what knocks, and the knocking is repeated."""
        self._accept()
        self.selector.unregister(self.listener)
        self.listener.listen(0)
        while True:
            filler = socket.socket()
            filler.settimeout(0.05)
            self.fillers.append(filler)
            try:
                filler.connect(('127.0.0.1', self.port))
            except TimeoutError:
                return

    def _empty_the_queue(self):
        ours = {filler.getsockname() for filler in self.fillers}
        for filler in self.fillers:
            filler.close()
        self.fillers.clear()
        self.listener.listen(128)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self._accept(ours)

    def _accept(self, but=()):
        while True:
            try:
                near, peer = self.listener.accept()
            except BlockingIOError:
                return
            if peer in but:
                near.close()
                continue
            near.setblocking(False)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = _Wire(near, self._due(3), self.depth[DOWN] + 2)
            self.wires.append(wire)
            self.ways.append(wire.ways)
            for way in wire.ways.values():
                way.silent = self.door_state == 'mute'
            self._watch(wire)

    def _due(self, crossings=1):
        """When bytes that leave now arrive; where round trips are counted, after how many crossings from now."""
        return crossings if self.crowd else time.monotonic() + crossings * self.round_trip / 2

    # The bytes

    def _watch(self, wire):
        for sock in wire.sockets():
            way, back = wire.way_from(sock), wire.way_to(sock)
            wanted = (selectors.EVENT_READ * (way.wants_to_read() and not (sock is wire.far and wire.connecting))
                      | selectors.EVENT_WRITE * (bool(back.out) or sock is wire.far and wire.connecting))
            known = self.selector.get_map().get(sock)
            if known and not wanted:
                self.selector.unregister(sock)
            elif known and known.events != wanted:
                self.selector.modify(sock, wanted, wire)
            elif wanted and not known:
                self.selector.register(sock, wanted, wire)

    def _connect(self, wire):
        wire.far = socket.socket()
        wire.far.setblocking(False)
        wire.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.ways[UP].target = wire.ways[DOWN].source = wire.far
        wire.connecting = True
        error = wire.far.connect_ex(('127.0.0.1', self.to))
        if error not in (0, errno.EINPROGRESS):
            return self._refused(wire)
        self._watch(wire)

    def _connected(self, wire):
        wire.connecting = False
        if wire.far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return self._refused(wire)
        self.depth[UP] = max(self.depth[UP], wire.depth + 1)
        self._watch(wire)
        self._look_for_cut(wire)
        self._deliver(wire, wire.ways[UP])

    def _refused(self, wire):
        self.depth[DOWN] = max(self.depth[DOWN], wire.depth)
        self._reset(wire, BOTH)

    def _read(self, wire, sock):
        way = wire.way_from(sock)
        try:
            piece = sock.recv(CHUNK) or END
        except BlockingIOError:
            return
        except OSError:
            piece = RESET
        self._hold(wire, way, piece)

    def _hold(self, wire, way, piece):
        self.slept = None
        way.ended = way.ended or not isinstance(piece, bytes)
        way.hold(self._due(), self.depth[DOWN if way.name == UP else UP], piece)
        self._watch(wire)

    def _deliver(self, wire, way):
        """Bring what is due to the other end."""
        now = 0 if self.crowd else time.monotonic()
        while way.held and way.held[0][0] <= now and not way.silent and not way.out and wire in self.wires:
            _, depth, piece = way.held.popleft()
            self.depth[way.name] = max(self.depth[way.name], depth + 1)
            if piece is RESET:
                return self._reset(wire, BOTH)
            if piece is END:
                way.finished = True
                with contextlib.suppress(OSError):
                    way.target.shutdown(socket.SHUT_WR)
                return self._close_if_over(wire)
            way.size -= len(piece)
            limit = self._bytes_before_cut(way)
            if limit is not None and len(piece) > limit:
                way.held.appendleft((0, depth, piece[limit:]))
                way.size += len(piece) - limit
                piece = piece[:limit]
            way.delivered += len(piece)
            if self.crossings:
                self.crossings[-1][way.name == DOWN] += len(piece)
            way.out += piece
            self._flush(wire, way)

    def _flush(self, wire, way):
        try:
            while way.out:
                del way.out[:way.target.send(way.out)]
        except BlockingIOError:
            pass
        except OSError:
            # Nobody is there any more; the system says so to the sender.
            way.out.clear()
            self._hold(wire, wire.ways[DOWN if way.name == UP else UP], RESET)
            return
        if not way.out:
            self._look_for_cut(wire)
        if wire in self.wires:
            self._watch(wire)

    def _close_if_over(self, wire):
        if all(way.finished for way in wire.ways.values()):
            self._forget(wire)

    def _forget(self, wire):
        if wire in self.wires:
            self.wires.remove(wire)
        for sock in wire.sockets():
            self._drop(sock)

    def _drop(self, sock):
        if sock in self.selector.get_map():
            self.selector.unregister(sock)
        sock.close()

    # Cuts

    def _bytes_before_cut(self, way):
        if self.due_cut and self.due_cut[0] == way.name and self.due_cut[1] >= way.delivered:
            return self.due_cut[1] - way.delivered
        return None

    def _look_for_cut(self, wire):
        if self.due_cut and wire.ways[self.due_cut[0]].delivered == self.due_cut[1]:
            _, _, how, ways = self.due_cut
            self.due_cut = None
            self._cut(wire, how, ways)

    def _cut(self, wire, how, ways):
        if how == 'silence':
            for name in ways:
                wire.ways[name].silent = True
            self._watch(wire)
        elif how == 'reset':
            self._reset(wire, ways)
        else:
            self._end(wire, ways)

    def _reset(self, wire, ways):
        """The ends that these ways lead to are told that the connection is no more; another one is not."""
        for name in ways:
            way = wire.ways[name]
            if way.target is not None:
                with contextlib.suppress(OSError):
                    way.target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                self._drop(way.target)
                if way.target is wire.near:
                    wire.near = None
                else:
                    wire.far = None
        for way in wire.ways.values():
            way.silent = True
            way.held.clear()
            way.out.clear()
        wire.half_reset = True
        if wire.sockets():
            self._watch(wire)
        else:
            self._forget(wire)

    def _end(self, wire, ways):
        for name in ways:
            way = wire.ways[name]
            way.held.clear()
            way.out.clear()
            way.ended = way.finished = True
            if way.target is not None:
                with contextlib.suppress(OSError):
                    way.target.shutdown(socket.SHUT_WR)
        if len(ways) == 2:
            for sock in wire.sockets():
                # Closing with something unread would reset.
                with contextlib.suppress(OSError):
                    while sock.recv(CHUNK):
                        pass
            self._forget(wire)
        else:
            self._watch(wire)

    # The loop

    def run(self):
        self.selector.register(sys.stdin.buffer.raw, selectors.EVENT_READ)
        while True:
            for key, events in self.selector.select(self._patience()):
                if key.data is None and key.fileobj is not self.listener:
                    if not self._obey():
                        return
                elif key.data is None:
                    self.slept = None
                    self._accept()
                else:
                    self._serve(key.data, key.fileobj, events)
            if self.crowd:
                self._step_if_all_sleep()
            else:
                self._deliver_all(time.monotonic())

    def _serve(self, wire, sock, events):
        if events & selectors.EVENT_WRITE and sock in wire.sockets():
            if wire.connecting and sock is wire.far:
                self._connected(wire)
            else:
                self._flush(wire, wire.way_to(sock))
        if events & selectors.EVENT_READ and sock in wire.sockets() and wire in self.wires:
            self._read(wire, sock)

    def _patience(self):
        if self.crowd:
            if not self._waits_for_sleep():
                return None         # whoever sleeps may sleep on
            return 0.008 if self.slept is None else max(0.002, self.slept + self.polls - time.monotonic())
        now = time.monotonic()
        dues = [way.held[0][0] for wire in self.wires if wire.far is not None and not wire.connecting
                for way in wire.ways.values() if way.held and not way.silent and not way.out]
        dues += [wire.due for wire in self.wires if wire.is_opening()]
        return max(0, min(dues) - now) if dues else None

    def _deliver_all(self, now):
        for wire in list(self.wires):
            if wire.is_opening() and wire.due <= now:
                self._connect(wire)
            elif wire.far is not None and not wire.connecting:
                for way in wire.ways.values():
                    self._deliver(wire, way)

    # Counting

    def _waits_for_sleep(self):
        return self.settling or self._holds()

    def _step_if_all_sleep(self):
        if not self._waits_for_sleep() or any(wire.connecting for wire in self.wires):
            self.slept = None
            return
        if self.slept is not None and time.monotonic() < self.slept + self.polls:
            return
        if not self.crowd.sleeps() or self.selector.select(0):
            return
        if self.slept is None:
            self.slept = time.monotonic()
        else:
            self.slept = None
            self._step()

    def _step(self):
        """Everything that is held crosses."""
        over = self.settling and not self._holds()
        self.crossings.append([0, 0])
        for wire in list(self.wires):
            if wire.is_opening():
                wire.due -= 1
                if wire.due == 0:
                    self._connect(wire)
            for way in wire.ways.values():
                # What is sent before the connection stands follows it.
                way.held = collections.deque(
                    (0, max(depth, wire.depth) if way.name == UP else depth, piece) for _, depth, piece in way.held)
        self._deliver_all(float('-inf'))
        if over:
            self.settling = False
            self.depth, self.crossings = {UP: 0, DOWN: 0}, []
            for wire in self.wires:
                wire.depth = 0
            self._answer({'is': None})

    def _holds(self):
        return any(wire.is_opening() or any(way.held and not way.silent for way in wire.ways.values())
                   for wire in self.wires)

    # Control

    def _obey(self):
        data = os.read(0, CHUNK)
        self.asked += data
        while b'\n' in self.asked:
            line, _, self.asked = self.asked.partition(b'\n')
            words = json.loads(line)
            what = words.pop('do')
            if what == 'settle':
                self.settling, self.slept = True, None
                continue
            try:
                self._answer({'is': getattr(self, f'do_{what}')(**words)})
            except Exception as error:
                self._answer({'error': f'{type(error).__name__}: {error}'})
        return bool(data)

    def _answer(self, words):
        os.write(1, json.dumps(words).encode() + b'\n')


def _bound_again(port):
    for _ in range(200):
        try:
            listener = socket.create_server(('127.0.0.1', port), backlog=128)
        except OSError:
            time.sleep(0.01)
        else:
            listener.setblocking(False)
            return listener
    raise OSError(f'port {port} was taken by somebody else')


# --- Who sleeps ---------------------------------------------------------------------------------------------

class _Crowd:
    """The concerned processes, and whether all of them sleep."""

    YOUNG = 5.0
    """A process younger than this may still become a concerned one, by exec."""

    def __init__(self, watch):
        self.marks = [mark.encode() for mark in watch if isinstance(mark, str)]
        self.concerned = {pid for pid in watch if isinstance(pid, int)}
        self.awake = None                       # the task that did not sleep when it was looked at last
        self.seen = {}                          # since when, of those that are not concerned
        self._find()
        # Whoever was there before is what it is.
        self.seen = dict.fromkeys(self.seen, float('-inf'))

    def sleeps(self):
        """Two looks: whoever sleeps in both, and was on no processor in between, slept all the time in between."""
        with contextlib.suppress(OSError):      # it may have ended
            if self.awake and not _is_asleep(self.awake):
                return False                    # most often one look is enough
        first = self._look(states_last=True)
        return first is not None and first == self._look(states_last=False)

    def _look(self, states_last):
        """How often each task was put on a processor so far. None if one of them does not sleep."""
        found = {}
        for pid in self._find():
            try:
                tasks = os.listdir(f'/proc/{pid}/task')
            except OSError:
                continue
            for task in tasks:
                folder = f'/proc/{pid}/task/{task}'
                try:
                    asleep = states_last or _is_asleep(folder)
                    found[task] = _times_run(folder)
                    if not asleep or states_last and not _is_asleep(folder):
                        self.awake = folder
                        return None
                except OSError:
                    return None                 # it has just ended: somebody may hear of it
        return found

    def _find(self):
        listed = {int(name) for name in os.listdir('/proc') if name.isdigit()}
        self.concerned &= listed
        now = time.monotonic()
        self.seen = {pid: since for pid, since in self.seen.items() if pid in listed}
        news = [pid for pid in sorted(listed - self.concerned)
                if pid != os.getpid() and now - self.seen.setdefault(pid, now) < self.YOUNG]
        # Children come after their parents nearly always; where numbers began anew, a second round finds them.
        while found := [pid for pid in news if self._is_concerned(pid)]:
            self.concerned.update(found)
            news = [pid for pid in news if pid not in self.concerned]
        return sorted(self.concerned)

    def _is_concerned(self, pid):
        try:
            if _stat(f'/proc/{pid}')[1] in self.concerned:
                return True
            with open(f'/proc/{pid}/environ', 'rb') as file:
                environment = file.read().split(b'\0')
        except OSError:
            return False
        return any(mark in environment for mark in self.marks)


def _stat(folder):
    """State and parent of a process or task."""
    with open(f'{folder}/stat', 'rb') as file:
        words = file.read().rpartition(b')')[2].split()
    return words[0], int(words[1])


def _is_asleep(folder):
    # S sleeps, T is stopped, t too, Z and X are dead: none of them runs unless somebody else does first.
    return _stat(folder)[0] in b'STtZX'


def _times_run(folder):
    with open(f'{folder}/schedstat', 'rb') as file:
        return int(file.read().split()[2])


if __name__ == '__main__':
    _Network().run()
