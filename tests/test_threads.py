"""How many threads a run has, and how many it starts: counted, by the system and by the interpreter's own door."""

import sys

import pytest
from embedded import free_port
from harness import SCRIPT, Browser
from load import Meter, Target, echo, say, short_connections
from waiting import comes

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='counts in Linux\'s /proc')

WRITTEN = """
import _thread, runpy, sys, threading

def _count():
    real = _thread.start_new_thread

    def start_new_thread(function, arguments, *more):
        # A thread of the threading module runs its own beginning; its name says whose it is.
        owner = getattr(function, '__self__', None)
        name = getattr(owner, 'name', '') or getattr(function, '__qualname__', '?')
        if name == '_work' and arguments:
            name = getattr(arguments[0][0], '__qualname__', name)
        with open({file!r}, 'a') as file:
            file.write(f'{{name}}\\n')
        return real(function, arguments, *more)
    _thread.start_new_thread = threading._start_new_thread = start_new_thread
_count()
sys.path.insert(0, {folder!r})
runpy.run_path({script!r}, run_name='__main__')
"""


class Counted:
    """The script with a list of the threads that it starts; paramiko's are among them."""

    def __init__(self, folder):
        self._file = folder / 'threads'
        self._file.touch()
        self.script = folder / 'counted.py'
        self.script.write_text(WRITTEN.format(file=str(self._file), folder=str(SCRIPT.parent), script=str(SCRIPT)))

    def started(self):
        """Names of the threads that were started so far."""
        return self._file.read_text().splitlines()


@pytest.fixture
def counted(tmp_path):
    return Counted(tmp_path)


def few(script, most):
    """Whether it has no more threads than that, once those that were only needed for a moment have ended."""
    return comes(lambda: Meter(script.process.pid).threads() <= most, within=10)


def test_who_waits_for_the_browser_has_five_threads(run):
    script = run(json_events=False, terminal=True)
    script.wait_for_text('Your browser opens it')
    assert few(script, 5), f'{Meter(script.process.pid).threads()} threads'
    script.interrupt()
    assert script.wait() == 130


def test_where_nobody_types_there_are_four(run):
    script = run()
    script.wait_for('opened')
    assert few(script, 4), f'{Meter(script.process.pid).threads()} threads'
    script.interrupt()
    assert script.wait() == 130


def test_a_plain_login_starts_eight_threads(run, counted):
    script = run(json_events=False, terminal=True, script=counted.script)
    url = script.wait_for_text(r'https?://\S*redirect_uri\S*')[0]
    script.wait_for_text('Your browser opens it')
    assert Browser(url).sign_in().status == 200
    assert script.wait() == 0
    assert len(counted.started()) <= 8, counted.started()


def test_the_list_of_started_threads_knows_those_of_the_script_and_of_paramiko(run, counted):
    with Target(echo) as target:
        port = free_port()
        script = run('-N', '-L', f'{port}:127.0.0.1:{target.port}', script=counted.script)
        script.wait_for('listening')
        assert say(port) == b'hello'
        names = ' '.join(counted.started())
        assert 'Thread' in names and len(counted.started()) >= 3
        script.interrupt()
        assert script.wait() == 130


@pytest.mark.parametrize('mode', ['L', 'R', 'D'])
def test_a_tunnel_starts_no_thread_for_a_connection(run, counted, mode):
    with Target(echo) as target:
        port = free_port()
        script = run('-N', f'-{mode}', str(port) if mode == 'D' else f'{port}:127.0.0.1:{target.port}', script=counted.script)
        script.wait_for('listening', mode=mode)
        to = {'D': target.port}.get(mode)
        assert short_connections(port, 1, to) == []             # what is needed once is there
        before = len(counted.started())
        assert short_connections(port, 60, to) == []
        assert counted.started()[before:] == []
        script.interrupt()
        assert script.wait() == 130
