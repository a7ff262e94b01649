"""Starts processes quickly: one helper has done what every run of the script begins with, and forks.

    child = forkserver.run_script(path, words, env=…, cwd=…, stdin=…, stdout=…, stderr=…)
    child = forkserver.start(command, env=…, …)         # any program, as subprocess.Popen starts it

Half of a short run is Python's start, the compiling of the script and the import of paramiko. The helper has all
that behind it, once for each pytest process. What it forks is a process of its own like one that was started:
session, environment, working folder, streams, arguments (in /proc, too), `__main__`, exit as the interpreter exits.

The helper is also what a system's init is to those processes: it reaps their orphans, at once. (The first process
of a container may take seconds for it, or never do it, and a group of zombies looks alive.)

Only Linux has what this takes; elsewhere, and for another interpreter, both are subprocess.Popen.
"""

import builtins
import ctypes
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import types

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / 'scripts' / 'codex_login.py'
POSSIBLE = sys.platform == 'linux' and hasattr(socket, 'send_fds')
ROOM = 'ROOM_FOR_THE_ENVIRONMENT'       # of a child, where /proc shows the helper's own
PR_SET_CHILD_SUBREAPER = 36
# What the interpreter reads when it starts: with another value of these, a run starts for itself.
READ_AT_START = ('PYTHON', 'LC_', 'LANG')


# --- The caller's side --------------------------------------------------------------------------------------

class Child:
    """A process that the helper has started, with the names that subprocess.Popen has for it."""

    def __init__(self, server, pid, streams):
        self.pid, self.returncode = pid, None
        self.stdin, self.stdout, self.stderr = streams
        self._server = server

    def poll(self):
        """Its exit status, None while it runs."""
        with self._server.changed:
            self.returncode = self._server.ended.get(self.pid)
        return self.returncode

    def wait(self, timeout=None):
        """Its exit status, once it has ended. Raises subprocess.TimeoutExpired."""
        with self._server.changed:
            if not self._server.changed.wait_for(lambda: self.pid in self._server.ended, timeout):
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.poll()

    def send_signal(self, number):
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """End it."""
        self.send_signal(signal.SIGKILL)


class _Server:
    """The helper as its caller sees it."""

    def __init__(self):
        self.changed, self.ended = threading.Condition(), {}
        self._asking, self._answer, self._gone = threading.Lock(), None, False
        self._socket, theirs = socket.socketpair()
        with theirs:
            environment = {'PATH': os.environ.get('PATH', os.defpath), 'LANG': 'C.UTF-8', ROOM: 'x' * 65536}
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), 'x' * 32768], env=environment,
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True)
        threading.Thread(target=self._read, daemon=True).start()

    def start(self, order, descriptors):
        """The pid of what was started. Raises OSError."""
        data = json.dumps(order).encode()
        with self._asking:
            self._answer = None
            socket.send_fds(self._socket, [len(data).to_bytes(4, 'big')], descriptors)
            self._socket.sendall(data)
            with self.changed:
                self.changed.wait_for(lambda: self._answer or self._gone)
                answer = self._answer
        if not answer:
            raise RuntimeError('the process that forks others has ended')
        if 'error' in answer:
            raise OSError(answer['error'], os.strerror(answer['error']))
        return answer['pid']

    def _read(self):
        with self._socket.makefile('r') as lines:
            for line in lines:
                answer = json.loads(line)
                with self.changed:
                    if 'status' in answer:
                        self.ended[answer['pid']] = answer['status']
                    else:
                        self.ended.pop(answer.get('pid'), None)     # the number of one that ended long ago
                        self._answer = answer
                    self.changed.notify_all()
        with self.changed:
            self._gone = True
            self.changed.notify_all()


_server = None


def prepare():
    """Start the helper: from now on this process starts others through it. It gets ready while the caller goes on."""
    global _server
    if POSSIBLE and _server is None:
        _server = _Server()


def run_script(path, words, **how):
    """Run a Python script in a process and a session of its own. A terminal as `stdin` becomes its controlling one."""
    return _start({'script': str(path), 'words': words}, **how)


def start(command, **how):
    """Start any program in a session of its own, with `env`, `cwd` and three streams. Raises OSError."""
    if not _server:
        return subprocess.Popen(command, start_new_session=True, **how)
    return _start({'command': [os.fsdecode(word) for word in command]}, **how)


def can_run(python, environment):
    """Whether a run by this interpreter, in this environment, may be forked."""
    return _server and python == sys.executable and environment.get('LANG') == 'C.UTF-8' and not any(
        name.startswith(READ_AT_START) for name in environment if name != 'LANG')


def _start(order, env, cwd, stdin, stdout, stderr):
    """Streams as subprocess.Popen has them: DEVNULL, PIPE or a descriptor."""
    theirs, ours = [], []
    try:
        for number, stream in enumerate((stdin, stdout, stderr)):
            if stream == subprocess.PIPE:
                reading, writing = os.pipe()
                theirs.append(reading if number == 0 else writing)
                ours.append(os.fdopen(writing, 'wb') if number == 0 else os.fdopen(reading, 'rb'))
            else:
                theirs.append(os.open(os.devnull, os.O_RDWR) if stream == subprocess.DEVNULL else os.dup(stream))
                ours.append(None)
        pid = _server.start({**order, 'env': env, 'cwd': str(cwd), 'umask': _umask()}, theirs)
    except BaseException:
        for stream in filter(None, ours):
            stream.close()
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    return Child(_server, pid, ours)


def _umask():
    """This process's, read without setting it: it belongs to all threads."""
    status = pathlib.Path('/proc/self/status').read_text()
    return int(status.partition('Umask:')[2].split()[0], 8)


# --- The helper ---------------------------------------------------------------------------------------------

class _Helper:
    """Waits for orders, forks, and tells how its children ended."""

    def __init__(self, descriptor):
        self.orders = socket.socket(fileno=descriptor)
        self.own = set()            # those that were ordered; the others are their orphans
        self.codes = {}             # by the path

    def get_ready(self):
        """Do what every run of the script does at first."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.codes[str(SCRIPT)] = compiled(str(SCRIPT))
        # What a login imports in the end. Not pyperclip, which looks for a display when it is imported.
        import argparse, base64, contextlib, errno, hashlib, hmac, http, io, ipaddress, itertools, logging  # noqa
        import queue, random, re, secrets, selectors, shlex, shutil, struct, tempfile, typing, unicodedata  # noqa
        import urllib.parse, webbrowser  # noqa
        import paramiko, paramiko.agent, paramiko.config  # noqa
        # What paramiko needs stays; paramiko itself is imported by the script, which has its own ways to do so.
        for name in [name for name in sys.modules if name.partition('.')[0] == 'paramiko']:
            del sys.modules[name]
        import gc
        gc.collect()
        gc.freeze()

    def serve(self):
        """Until the caller has gone; in a child, the function that is the rest of its life."""
        import select
        waking, alarm = os.pipe()
        for end in (waking, alarm):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self.orders, waking], [], [])
            if waking in ready:
                os.read(waking, 65536)
                self.reap()
            if self.orders in ready:
                size, descriptors, _, _ = socket.recv_fds(self.orders, 4, 3)
                if not size:
                    return sys.exit
                order = json.loads(self.read(int.from_bytes(size, 'big')))
                if 'command' in order:
                    self.start(order, descriptors)
                elif self.fork():
                    self.orders.close()
                    os.close(waking)
                    os.close(alarm)
                    return become(order, descriptors, self.told, self.codes)
                for descriptor in descriptors:
                    os.close(descriptor)

    def read(self, size):
        data = b''
        while len(data) < size:
            data += self.orders.recv(size - len(data))
        return data

    def tell(self, **answer):
        self.orders.sendall(json.dumps(answer).encode() + b'\n')

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self.own:
                self.own.remove(pid)
                self.tell(pid=pid, status=os.waitstatus_to_exitcode(status))

    def start(self, order, descriptors):
        try:
            process = subprocess.Popen(order['command'], env=order['env'], cwd=order['cwd'], umask=order['umask'],
                                       start_new_session=True,
                                       **dict(zip(('stdin', 'stdout', 'stderr'), descriptors)))
        except OSError as error:
            return self.tell(error=error.errno)
        process.returncode = 0          # reaped here, with the others
        self.own.add(process.pid)
        self.tell(pid=process.pid)

    def fork(self):
        """Whether this is the child; the caller hears of it when it is what /proc shows."""
        told, tell = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(told)
            self.told = tell
            return True
        os.close(tell)
        self.own.add(pid)
        os.read(told, 1)
        os.close(told)
        self.tell(pid=pid)
        return False


def become(order, descriptors, told, codes):
    """Be the process that was ordered; returns what is left to be run."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if os.isatty(0):
        # Opening a terminal makes it a session leader's controlling one: a password prompt finds it at /dev/tty.
        os.close(os.open(os.ttyname(0), os.O_RDWR))
    os.chdir(order['cwd'])
    os.umask(order['umask'])
    os.environ.clear()
    os.environ.update(order['env'])
    sys.argv = [order['script'], *order['words']]
    sys.orig_argv = [sys.executable, *sys.argv]
    _show_in_proc(sys.orig_argv, order['env'])
    os.write(told, b'!')
    os.close(told)
    sys.path[0] = os.path.dirname(order['script'])
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        old = getattr(sys, name)
        binary = open(number, 'rb' if number == 0 else 'wb', closefd=False)
        new = io.TextIOWrapper(binary, old.encoding, old.errors, newline=None if number == 0 else '\n',
                               line_buffering=number == 2 or os.isatty(number))
        new.mode = 'r' if number == 0 else 'w'
        setattr(sys, name, new)
        setattr(sys, f'__{name}__', new)
    main = sys.modules['__main__'] = types.ModuleType('__main__')
    main.__file__, main.__builtins__ = order['script'], builtins
    code = codes.get(order['script']) or compiled(order['script'])
    return lambda: exec(code, main.__dict__)


def compiled(path):
    """A script's code."""
    return compile(pathlib.Path(path).read_bytes(), path, 'exec')


def _show_in_proc(command, environment):
    """Have /proc show this command line and environment: they stand where the system put the helper's."""
    fields = pathlib.Path('/proc/self/stat').read_text().rsplit(')', 1)[1].split()
    words = b''.join(os.fsencode(word) + b'\0' for word in command)
    variables = b''.join(os.fsencode(f'{name}={value}') + b'\0' for name, value in environment.items())
    for place, data in ((45, words), (47, variables)):
        start, end = map(int, fields[place:place + 2])
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, data, min(len(data), end - start - 1))


def main():
    helper = _Helper(int(sys.argv[1]))
    helper.get_ready()
    rest = helper.serve()
    del helper
    rest()


if __name__ == '__main__':
    main()
