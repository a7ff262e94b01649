"""Pythonista, the process: it lives on, and runs scripts in threads that are not Python's main one.

It is told what to do by JSON lines on its standard input, and says by JSON lines on its standard output what a script
writes to the console, and how it ended. It goes when its input ends.
"""

import ctypes
import json
import os
import runpy
import sys
import threading
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

import _main_loop
import _remains

_said = threading.Lock()
_orders = os.fdopen(os.dup(0), encoding='utf-8')
_answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')


def say(**fields):
    with _said:
        print(json.dumps(fields), file=_answers, flush=True)


class Output:
    """The console: it has these, and nothing else."""
    __slots__ = ('encoding', '_name')

    def __init__(self, name):
        self.encoding, self._name = 'utf8', name

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError('the console takes text')
        say(stream=self._name, text=text)

    def writelines(self, lines):
        for line in lines:
            self.write(line + '\n')     # the app adds the ends of lines itself

    def flush(self):
        pass


class Input:
    """The console's input line, where nobody types: to wait for it is to wait for ever."""
    __slots__ = ('encoding',)

    def __init__(self):
        self.encoding = 'utf8'

    def read(self, limit=-1):
        from _phone import violation
        violation('the script waits for a line in the console')
        return ''

    def readline(self):
        return self.read()


class Run(threading.Thread):
    """One script, as the run button starts it."""

    def __init__(self, script, arguments):
        super().__init__(name='script', daemon=True)
        self._script, self._arguments = script, arguments

    def run(self):
        sys.argv = [self._script, *self._arguments]
        sys.path[0] = os.path.dirname(self._script)
        try:
            runpy.run_path(self._script, run_name='__main__')
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
            if isinstance(leaving.code, str):
                print(leaving.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            status = 1
        _outcome.append(status)


_outcome = []


def obey():
    """Run scripts as they are ordered; the first one's remains are what the others are measured by."""
    run = None
    while line := _orders.readline():
        order = json.loads(line)
        if 'stop' in order:
            # The stop button, as published: an exception in the script's thread, when it next runs Python.
            if run and run.is_alive():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(run.ident), ctypes.py_object(KeyboardInterrupt))
            continue
        os.environ.clear()
        os.environ.update(order['environ'])
        os.chdir(order['folder'])
        run = Run(order['script'], order['arguments'])
        bare = _count()
        run.start()
        threading.Thread(target=_attend, args=(run, bare), daemon=True, name='attendant').start()


_measure = []


def _own():
    return {thread for thread in threading.enumerate() if _main_loop.is_own(thread) or thread.name in ('orders', 'attendant')}


def _count():
    return _remains.count(_own())


def _attend(run, bare):
    run.join()
    if 'objc_util' in sys.modules:
        sys.modules['objc_util'].end_of_run()
    # Of the first run there remain the modules that it loaded, and what they hold; but no thread and no connection.
    expected = _measure[0] if _measure else {**bare, 'descriptors': 1000, 'logging handlers': 1000}
    left = _remains.settled(_own, {**expected, 'folder': bare['folder']})
    if not _measure:
        _measure.append(left)
    say(ended=_outcome.pop(), left=_remains.more({**expected, 'folder': bare['folder']}, left), counts=left, peak=_peak())


def _peak():
    """The most memory that the process has had, in kB."""
    try:
        with open('/proc/self/status') as status:
            return next(int(line.split()[1]) for line in status if line.startswith('VmHWM'))
    except OSError:
        return None


def main():
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nothing, descriptor)
    sys.stdin, sys.stdout, sys.stderr = Input(), Output('stdout'), Output('stderr')
    orders = threading.Thread(target=lambda: (obey(), os._exit(0)), daemon=True, name='orders')
    orders.start()
    _main_loop.serve()


main()
