"""What systems do to a running script from within: clocks that are set, listeners that are taken away in odd ways.

    clocks = Clocks(folder)
    script = run(script=clocks.script)          # the script, under clocks that this test moves
    clocks.move(wall=-6 * 3600)                 # somebody has set the clock back; nothing else has changed
    clocks.move(asleep=600)                     # the device slept for ten minutes, in no time

    taker = Taker(folder)
    script = run(script=taker.script)
    taker.take(script, 'readable')              # its listeners say for ever that somebody is there, and nobody is
    taker.accepts()                             # how often those were asked for whoever is there

All start a small program that changes a few functions of Python's, then runs the script as its own main program.
"""

import mmap
import os
import pathlib
import signal
import struct
import sys

from harness import SCRIPT
from waiting import until

RUN = f"""
import runpy, sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
runpy.run_path({str(SCRIPT)!r}, run_name='__main__')
"""

MOVED = """
import mmap, os, struct, time

def _move():
    with open({file!r}, 'rb') as file:
        shared = mmap.mmap(file.fileno(), 16, access=mmap.ACCESS_READ)
    now, monotonic_ns, get, local, greenwich = time.time, time.monotonic, time.clock_gettime, time.localtime, time.gmtime

    def wall():
        return sum(struct.unpack_from('2d', shared))

    def clock_gettime(clock):
        # What a sleep adds is on the clock that counts it, and on the wall's; the one that is monotonic stands still.
        more = wall() if clock == time.CLOCK_REALTIME else 0
        if clock == getattr(time, 'CLOCK_BOOTTIME', None):
            more = struct.unpack_from('d', shared, 8)[0]
        return get(clock) + more
    time.time = lambda: now() + wall()
    time.time_ns = lambda: int(time.time() * 1e9)
    time.clock_gettime = clock_gettime
    time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)
    time.gmtime = lambda seconds=None: greenwich(time.time() if seconds is None else seconds)
_move()
"""

TAKEN = """
import errno, gc, mmap, os, signal, socket, struct

def _taker():
    with open({file!r}, 'r+b') as file:
        shared = mmap.mmap(file.fileno(), 16)
    dead, accept, getsockopt = {{}}, socket.socket.accept, socket.socket.getsockopt

    def accept_(self):
        if dead.get(id(self)) == 'readable':
            struct.pack_into('q', shared, 0, struct.unpack_from('q', shared)[0] + 1)
            raise BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable')
        return accept(self)

    def getsockopt_(self, level, name, *size):
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and dead.get(id(self)) == 'readable':
            return 1
        return getsockopt(self, level, name, *size)

    def close(self):
        dead.pop(id(self), None)
        return real_close(self)
    real_close = socket.socket.close
    socket.socket.accept, socket.socket.getsockopt, socket.socket.close = accept_, getsockopt_, close

    def take(number, _):
        how = 'readable' if number == signal.SIGUSR1 else 'gone'
        taken = 0
        for thing in gc.get_objects():
            if isinstance(thing, socket.socket) and thing.fileno() >= 0 and thing.family != socket.AF_UNIX and getsockopt(
                    thing, socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                if how == 'readable':
                    thing.shutdown(socket.SHUT_RDWR)        # to select, somebody is there from now on
                else:
                    with socket.socket(thing.family) as other:      # as good as none: never readable, never asked
                        os.dup2(other.fileno(), thing.fileno())
                dead[id(thing)] = how
                taken += 1
        struct.pack_into('q', shared, 8, struct.unpack_from('q', shared, 8)[0] + taken)
    signal.signal(signal.SIGUSR1, take)
    signal.signal(signal.SIGUSR2, take)
_taker()
"""


def started_with(path, *harms):
    """The path of a program that runs the script under these harms."""
    path.write_text(''.join(harm.harm for harm in harms) + RUN)
    return path


COUNTED = """
import gc, mmap, signal, struct

def _counter():
    with open({file!r}, 'r+b') as file:
        shared = mmap.mmap(file.fileno(), 16)

    def count(*_):
        struct.pack_into('2q', shared, 0, len(gc.get_objects()), struct.unpack_from('q', shared, 8)[0] + 1)
    signal.signal(signal.SIGUSR1, count)
_counter()
"""


class _Harm:
    """A program that harms the script, and the piece of memory that both look at."""
    TEXT = ''

    def __init__(self, folder):
        name = type(self).__name__.lower()
        file = pathlib.Path(folder) / f'{name}.shared'
        file.write_bytes(bytes(16))
        with file.open('r+b') as shared:
            self._shared = mmap.mmap(shared.fileno(), 16)
        self.harm = self.TEXT.format(file=str(file))
        self.script = started_with(pathlib.Path(folder) / f'with_{name}.py', self)


class Clocks(_Harm):
    """The clocks of a script."""
    TEXT = MOVED

    def __init__(self, folder):
        super().__init__(folder)
        self._wall = self._asleep = 0.0

    def move(self, wall=0.0, asleep=0.0):
        """Set the wall's clock by so many seconds, and let the device have slept for so many."""
        self._wall, self._asleep = self._wall + wall, self._asleep + asleep
        struct.pack_into('2d', self._shared, 0, self._wall, self._asleep)


class Taker(_Harm):
    """Takes away the listeners of a script that goes on meanwhile."""
    TEXT = TAKEN
    HOW = {'readable': signal.SIGUSR1, 'gone': signal.SIGUSR2}

    def take(self, script, how):
        """Take all that it has now: 'readable' (for ever, with nobody to accept), or 'gone' (nothing is ever heard of it)."""
        before = self._count(8)
        self.ask(script, how)
        until(lambda: self._count(8) > before, 'listeners are taken')

    def ask(self, script, how):
        """The same without waiting for it: a script that is stopped loses them when it wakes up."""
        os.kill(script.process.pid, self.HOW[how])

    def accepts(self):
        """How often a listener that is readable for ever was asked to accept."""
        return self._count(0)

    def _count(self, place):
        return struct.unpack_from('q', self._shared, place)[0]


class Objects(_Harm):
    """Does no harm: counts what a script keeps."""
    TEXT = COUNTED

    def count(self, script):
        """How many objects there are that may know others, those of circles that nobody has broken up among them."""
        before = struct.unpack_from('q', self._shared, 8)[0]
        os.kill(script.process.pid, signal.SIGUSR1)
        until(lambda: struct.unpack_from('q', self._shared, 8)[0] > before, 'objects are counted')
        return struct.unpack_from('q', self._shared)[0]


POSSIBLE = sys.platform == 'linux'
