"""Pythonista as the process that it is: it lives on, and runs scripts again and again.

    app = App(stand_in)
    run = app.run(home, script, 'home')     # as harness.Script: its streams, its end
    app.close()

A run that left something in the process says so among its leftovers.
"""

import json
import secrets
import subprocess
import threading

import embedded
from harness import PATIENCE, Script, _event
from standins import HERE

PROGRAM = HERE / 'standins' / 'pythonista' / '_app.py'


class App:
    """One process of the app. `enter` is a command prefix that leads to where the phone is."""

    def __init__(self, stand_in, enter=()):
        self.stand_in, self.enter = stand_in, tuple(enter)
        self.mark = secrets.token_hex(8)
        environment = {key: value.format(home='/nowhere', PATH='/usr/bin:/bin') for key, value in stand_in.variables.items()}
        self.process = subprocess.Popen(
            [*enter, stand_in.python, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, encoding='utf-8', start_new_session=True, cwd='/',
            env={**environment, embedded.MARK: self.mark, 'PATH': '/usr/bin:/bin', 'LANG': 'C.UTF-8'})
        self.run_now = None
        self.runs = 0
        self.log = ''
        for read in (self._read_answers, self._read_log):
            threading.Thread(target=read, daemon=True).start()

    @property
    def alive(self):
        return self.process.poll() is None

    def run(self, home, script, *arguments, cwd, environment):
        """Start a script; one at a time."""
        assert self.run_now is None or self.run_now.status is not None, 'the app runs one script at a time'
        self.runs += 1
        self.run_now = AppRun(self, script, arguments)
        self.order(script=str(script), arguments=[str(word) for word in arguments], folder=str(cwd), environ=environment)
        return self.run_now

    def order(self, **order):
        print(json.dumps(order), file=self.process.stdin, flush=True)

    def _read_answers(self):
        for line in self.process.stdout:
            self.run_now.hear(json.loads(line))
        if self.run_now:
            self.run_now.gone()

    def _read_log(self):
        for line in self.process.stderr:
            self.log += line

    def close(self):
        embedded.end_marked_processes(self.mark)
        self.process.wait(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()


class _Process:
    """The part of subprocess.Popen that tests use, of a run: it is over when the script has ended."""

    def __init__(self, run):
        self._run, self.pid = run, run.app.process.pid

    @property
    def returncode(self):
        return self.poll()

    def poll(self):
        if self._run.status is None and not self._run.app.alive:
            return self._run.app.process.poll()
        return self._run.status


class AppRun(Script):
    """One run of a script in an App."""

    def __init__(self, app, script, arguments):
        self.made.append(self)
        self.app, self.arguments = app, [str(word) for word in arguments]
        self.mark = app.mark
        self.status, self.left, self.peak, self.counts = None, [], None, None
        self.events = []
        self._streams = {'stdout': bytearray(), 'stderr': bytearray(), 'terminal': bytearray()}
        self._changed = threading.Condition()
        self._next_event = self._next_answer = 0
        self._master = None
        self._pending = ''
        self._over = False
        self._readers = []
        self._stopped = None
        self.process = _Process(self)

    def hear(self, answer):
        with self._changed:
            if 'stream' in answer:
                self._streams[answer['stream']] += answer['text'].encode()
                if answer['stream'] == 'stdout':
                    *lines, self._pending = (self._pending + answer['text']).split('\n')
                    self.events += filter(None, map(_event, lines))
            else:
                self.left, self.peak, self.counts = answer['left'], answer['peak'], answer['counts']
                self.status, self._over = answer['ended'], True
            self._changed.notify_all()

    def gone(self):
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _reading(self):
        return not self._over

    def interrupt(self):
        """The stop button of the console."""
        self.app.order(stop=True)

    def kill(self):
        """iOS ends the app."""
        self.app.process.kill()
        self.app.process.wait(PATIENCE)

    def wait(self, timeout=PATIENCE):
        self._until(lambda: True if self._over else None, 'still running', timeout)
        return self.process.poll()

    def close(self):
        """End what is left of it; the app goes on where the run is over."""
        if self.status is None:
            self.app.close()

    def leftovers(self, patience=5.0):
        """What the run left in the app, and processes that it started."""
        def others():
            return {pid: command for pid, command in embedded.marked_processes(self.mark).items()
                    if pid != self.app.process.pid}
        processes = embedded.eventually(others, patience)
        return [*self.left, *(f'process {pid}: {command}' for pid, command in processes.items())]
