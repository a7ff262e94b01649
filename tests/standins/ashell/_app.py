"""a-Shell, the process, around one command: `_app.py SCRIPT ARGUMENT…` runs the script as `python SCRIPT …` does there.

The command's streams are pipes above 2, standard output and error one and the same, which call themselves a terminal;
0 to 2 are the app's own. `termios` makes the terminal interactive, which it stays. Ctrl-C runs Python's handler and
then cancels the thread. What would end the app, or leave the terminal unfit, is a violation: it fails the test.

With STAND_IN_RUNS, a JSON list of lists of arguments, the script runs once for each in this one process; what each run
left is written into remains.jsonl.
"""

import ctypes
import fcntl
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import traceback

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

PHONE = os.environ['STAND_IN_PHONE']


def append(name, value):
    with open(os.path.join(PHONE, name), 'a') as file:
        file.write(json.dumps(value, default=repr) + '\n')


def record(call, *args):
    append('calls.jsonl', {'call': call, 'args': args, 'kwargs': {}})


def violation(text):
    append('violations.jsonl', {'what': text, 'way': traceback.format_stack(limit=8)[:-2]})


def is_set(condition):
    return os.path.exists(os.path.join(PHONE, condition))


# -- the terminal: a process of its own between the person's and the command's streams

class Terminal:
    """What the command sees of it."""

    def __init__(self):
        self.interactive = False
        keys, self.output, screen = (os.dup(number) for number in (0, 1, 2))
        self.stdin, to_command = os.pipe()
        from_command, self.stderr = os.pipe()
        self.stdout = self.stderr if os.isatty(1) else self.output
        self._control, control = socket.socketpair()
        self._leave_terminal()
        if os.fork() == 0:
            for descriptor in (self.stdin, self.stderr, self.output, self._control.fileno()):
                os.close(descriptor)
            _relay(keys, screen, to_command, from_command, control)
            os._exit(0)
        for descriptor in (keys, screen, to_command, from_command):
            os.close(descriptor)
        control.close()
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(os.path.join(PHONE, 'app.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, apps_own in ((0, nothing), (1, log), (2, log)):
            os.dup2(apps_own, descriptor)
        os.close(nothing)
        os.close(log)

    @staticmethod
    def _leave_terminal():
        """iOS has no controlling terminal: /dev/tty cannot be opened."""
        if not os.isatty(0):
            return
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGCONT)}
        fcntl.ioctl(0, termios.TIOCNOTTY)
        for number, handler in before.items():
            signal.signal(number, handler)

    def switch(self, interactive):
        self.interactive = interactive
        self._control.send(b'I' if interactive else b'C')
        self._control.recv(1)

    def streams(self):
        for name, descriptor, mode, tty in (('stdin', self.stdin, 'r', True), ('stderr', self.stderr, 'w', True),
                                            ('stdout', self.stdout, 'w', self.stdout == self.stderr)):
            raw = Pipe(descriptor, mode, closefd=False)
            raw.tty = tty
            buffered = io.BufferedReader(raw) if mode == 'r' else io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(buffered, encoding='utf-8', line_buffering=mode == 'w'))

    def has(self, descriptor):
        return descriptor in (self.stdin, self.stderr)


class Pipe(io.FileIO):
    tty = False

    def isatty(self):
        return self.tty


def _relay(keys, screen, to_command, from_command, control):
    usual = termios.tcgetattr(keys) if os.isatty(keys) else None
    raw, watched = False, [keys, from_command, control]
    while True:
        ready = select.select(watched, [], [])[0]
        if control in ready:
            order = control.recv(1)
            if not order:
                watched.remove(control)
            else:
                raw = order == b'I'
                if usual:
                    _switch(keys, usual, raw)
                control.send(b'.')
        if from_command in ready:
            data = os.read(from_command, 65536)
            if not data:
                return
            try:
                os.write(screen, data)
            except OSError:
                return          # the window is closed
        if keys in ready:
            try:
                data = os.read(keys, 65536)
            except OSError:
                data = b''
            if not data:
                watched.remove(keys)
                os.close(to_command)
                continue
            try:
                os.write(to_command, data.replace(b'\n', b'\r') if raw else data)
            except BrokenPipeError:
                watched.remove(keys)


def _switch(descriptor, usual, raw):
    mode = [list(part) if isinstance(part, list) else part for part in usual]
    if raw:
        mode[0] &= ~termios.ICRNL
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    termios.tcsetattr(descriptor, termios.TCSANOW, mode)


# -- what the app's C library and Objective-C do, as ctypes sees them

class Function:
    """A symbol. Without its types a pointer is cut in two, which ends the app; a word fits whatever is one."""

    def __init__(self, name, count, function):
        self._name, self._count, self._function = name, count, function
        self.restype, self.argtypes = ctypes.c_int, None

    def __call__(self, *args):
        if self._count is not None and len(args) != self._count:
            end_app(f'{self._name} takes {self._count} arguments, not {len(args)}')
        small = all(arg is None or is_small(arg) for arg in args)
        typed = self.argtypes is not None and list(self.argtypes) == [ctypes.c_void_p] * len(args)
        if not typed and not small:
            end_app(f'{self._name}{args} was called with the types {self.argtypes}')
        result = self._function(*(0 if arg is None else arg for arg in args))
        if self.restype is not ctypes.c_void_p and not (result is None or is_small(result)):
            end_app(f'the result of {self._name}{args} was cut in two')
        return None if self.restype is ctypes.c_void_p and not result else result


def is_small(value):
    """Whether it fits into a C int, which ctypes takes everything for."""
    return isinstance(value, int) and -(1 << 31) <= value < 1 << 31


def end_app(why):
    violation(f'the app has ended: {why}')
    os._exit(99)


class Objects:
    """Objective-C: classes, selectors and objects by their addresses; messages by class and selector."""

    def __init__(self):
        self._addresses, self._next = {}, 0x16f000000
        self._tasks = {}
        self.playing = []

    def at(self, thing):
        for address, known in self._addresses.items():
            if known == thing:
                return address
        self._next += 0x100
        self._addresses[self._next] = thing
        return self._next

    def getClass(self, name):
        name = name.decode()
        known = name in {kind for kind, _ in self.MESSAGES} and not is_set('no-bridge')
        return self.at(f'class {name}') if known else 0

    def send(self, receiver, selector, *args):
        if not receiver:
            return 0                    # a message to nil is nothing
        kind, selector = self._addresses[receiver].split()[-1], self._addresses[selector]
        kind = kind.partition('#')[0]
        if (kind, selector) not in self.MESSAGES:
            end_app(f'unrecognized selector {selector} sent to {kind}')
        if selector.count(':') != len(args):
            end_app(f'{selector} was sent with {len(args)} arguments')
        record('objc', f'{kind} {selector}')
        return self.MESSAGES[kind, selector](self, *args)

    def begin_task(self, handler):
        if handler:
            end_app('a block was passed that is none')
        if is_set('no-background-time'):
            return 0
        number = len(self._tasks) + 1
        timer = threading.Timer(30.0, end_app, ['a background task was not ended before its time'])
        timer.daemon = True
        OWN_THREADS.add(timer)
        timer.start()
        self._tasks[number] = timer
        return number

    def end_task(self, number):
        timer = self._tasks.get(number)
        if timer is None or timer.finished.is_set():
            violation(f'a background task was ended that does not run: {number}')
        else:
            timer.cancel()

    def end_of_run(self):
        for timer in self._tasks.values():
            if not timer.finished.is_set():
                timer.cancel()
                violation('a background task was not ended with the command')
        if self.playing:
            violation('sound is still played')

    def play(self):
        self.playing = [] if is_set('no-sound') else ['silence']
        return not is_set('no-sound')

    def stop(self):
        self.playing = []

    MESSAGES = {
        ('UIApplication', 'sharedApplication'): lambda self: self.at('UIApplication#1'),
        ('UIApplication', 'beginBackgroundTaskWithExpirationHandler:'): begin_task,
        ('UIApplication', 'endBackgroundTask:'): end_task,
        ('NSString', 'stringWithUTF8String:'): lambda self, text: self.at('NSString#1'),
        ('NSData', 'dataWithBytes:length:'): lambda self, data, size: self.at('NSData#1'),
        ('AVAudioSession', 'sharedInstance'): lambda self: self.at('AVAudioSession#1'),
        ('AVAudioSession', 'setCategory:withOptions:error:'): lambda self, *_: 1,
        ('AVAudioPlayer', 'alloc'): lambda self: self.at('AVAudioPlayer#1'),
        ('AVAudioPlayer', 'initWithData:error:'): lambda self, *_: self.at('AVAudioPlayer#1'),
        ('AVAudioPlayer', 'setNumberOfLoops:'): lambda self, number: None,
        # Of a truth value only the lowest byte is said.
        ('AVAudioPlayer', 'play'): lambda self: 0xdead00 | self.play(),
        ('AVAudioPlayer', 'stop'): stop,
        ('AVAudioPlayer', 'release'): lambda self: None,
    }


class Library:
    """ctypes.CDLL(None): what the app itself is linked with."""

    def __init__(self, terminal, objects, cancelling):
        def set_cancel_state(state, old):
            if state not in (0, 1):
                return 22
            cancelling.append(state == 1)       # Darwin: PTHREAD_CANCEL_ENABLE is 1, DISABLE 0
            return 0
        self._symbols = {
            'ios_startInteractive': (0, lambda: terminal.switch(True)),
            'ios_stopInteractive': (0, lambda: terminal.switch(False)),
            'pthread_setcancelstate': (2, set_cancel_state),
            'objc_getClass': (1, objects.getClass),
            'sel_registerName': (1, lambda name: objects.at(name.decode())),
            'objc_msgSend': (None, objects.send),
        }

    def __getitem__(self, name):
        if name not in self._symbols:
            raise AttributeError(f'dlsym: symbol not found: {name}')
        return Function(name, *self._symbols[name])

    __getattr__ = __getitem__


OWN_THREADS = {threading.main_thread()}


# -- the command

def patch(terminal):
    """Make this Python the app's; the Objects that it reaches."""
    objects, cancelling = Objects(), [True]

    def tcgetattr(descriptor):
        if not terminal.has(descriptor if isinstance(descriptor, int) else descriptor.fileno()):
            raise termios.error(25, 'Inappropriate ioctl for device')
        terminal.switch(True)
        return [0, 0, 0, 0, 0, 0, [b'\0'] * 20]     # invented

    def tcsetattr(descriptor, when, attributes):
        tcgetattr(descriptor)
    termios.tcgetattr, termios.tcsetattr = tcgetattr, tcsetattr

    class CDLL(ctypes.CDLL):
        def __new__(cls, name=None, *args, **kwargs):
            return Library(terminal, objects, cancelling) if name is None else super().__new__(cls)
    ctypes.CDLL = CDLL

    class Popen(subprocess.Popen):
        def __init__(self, args, *rest, **how):
            for name, descriptor in (('stdin', terminal.stdin), ('stdout', terminal.stdout), ('stderr', terminal.stderr)):
                how.setdefault(name, descriptor)
            for name in ('stdin', 'stdout', 'stderr'):
                if how[name] is None:
                    how[name] = getattr(terminal, name)
            super().__init__(args, *rest, **how)
            if args and args[0] == 'open':
                os.chdir('/')           # the person goes elsewhere: the folder is the whole app's

        def send_signal(self, number):
            violation(f'a command was sent {number!r}: pthread_kill ends the whole app')
            super().send_signal(number)

        def terminate(self):
            self.send_signal(signal.SIGTERM)

        def kill(self):
            self.send_signal(signal.SIGKILL)
    subprocess.Popen = Popen

    def interrupted(number, frame):
        if cancelling[-1]:
            record('thread cancelled')          # no `finally` runs, and what it held stays
            os._exit(98)
        raise KeyboardInterrupt
    signal.signal(signal.SIGINT, interrupted)
    return objects


def run(script, arguments):
    sys.argv, sys.path[0] = [script, *arguments], os.path.dirname(script)
    try:
        runpy.run_path(script, run_name='__main__')
        return 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except Exception:
        traceback.print_exc()
        return 1


def main():
    import _remains
    script, *arguments = sys.argv[1:]
    terminal = Terminal()
    terminal.streams()
    objects = patch(terminal)
    runs = json.loads(os.environ.get('STAND_IN_RUNS', 'null')) or [arguments]
    folder = os.getcwd()
    bare = _remains.count(OWN_THREADS)
    expected = {**bare, 'descriptors': 1000, 'logging handlers': 1000}  # the first one loads modules, with what they hold
    for number, words in enumerate(runs):
        status = run(script, words)
        sys.stdout.flush()
        sys.stderr.flush()
        if terminal.interactive:
            violation('the terminal was left in interactive mode')
            terminal.switch(False)
        objects.end_of_run()
        os.chdir(folder)
        left = _remains.settled(lambda: OWN_THREADS, expected)
        append('remains.jsonl', {'arguments': words, 'status': status, 'left': _remains.more(expected, left)})
        expected = left if number == 0 else expected
    if os.path.getsize(os.path.join(PHONE, 'app.log')):
        violation('something was written to the descriptors of the app')
    os._exit(status)


main()
