"""What tests are given: a server, a home, runs of the script; and the proof that nothing is left behind."""

import itertools
import os

import forkserver
import lab
import pytest
import servers
import standins
from embedded import EmbeddedServer, alone_with
from harness import Browser, Home, Script
from said_elsewhere import SAID_ELSEWHERE, said_in


PASSED = pytest.StashKey[bool]()


def pytest_configure(config):
    config.addinivalue_line('markers', 'quick: part of what run.py runs without arguments')
    config.addinivalue_line('markers', 'may_be_missing: needs what a package registry may not have today; skipped then, in CI too')
    config.addinivalue_line('markers', 'slow: takes tens of seconds; -m "not slow" leaves it out')


def pytest_addoption(parser):
    parser.addoption('--require-all', action='store_true', help='a test that cannot run here is a failure')


def missing_parts():
    """The real parts this machine lacks: (part, how to get it)."""
    return lab.missing_parts() + standins.missing_parts() + servers.missing_parts()


def pytest_collection_modifyitems(items):
    """Beside each other, each worker begins with its share of the slow ones: none is left for the end."""
    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    slow = [item for item in items if item.get_closest_marker('slow')]
    others = iter([item for item in items if not item.get_closest_marker('slow')])
    share = -(-len(items) // workers)
    if workers > 1:
        shares = [[*slow[number::workers], *itertools.islice(others, share - len(slow[number::workers]))] for number in range(workers)]
        items[:] = [item for each in shares for item in each] + list(others)


def pytest_sessionstart(session):
    forkserver.prepare()
    if hasattr(session.config, 'workerinput'):
        return          # whoever started this one has looked
    missing = missing_parts() if session.config.getoption('--require-all') else []
    if missing:
        pytest.exit('required, but missing here:\n' + _listing(missing), returncode=1)


def pytest_terminal_summary(terminalreporter):
    missing = missing_parts() if terminalreporter.getreports('skipped') else []
    if missing:
        terminalreporter.section('Not run here, and how to get it')
        terminalreporter.write_line(_listing(missing))


def _listing(missing):
    return '\n'.join(f'  {part}: {how}' for part, how in missing)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    required = item.config.getoption('--require-all') and not item.get_closest_marker('may_be_missing')
    if report.skipped and required and not hasattr(report, 'wasxfail'):
        report.outcome = 'failed'
        report.longrepr = f'required, but skipped: {report.longrepr[2]}'
    if report.when == 'call':
        item.stash[PASSED] = report.passed
    if report.failed:
        report.sections += [('what the script said', script.report()) for script in Script.made]
        report.sections += [(f'what the server at port {server.port} saw', server.report()) for server in EmbeddedServer.made]
        if Browser.visits:
            report.sections.append(('what the browser asked for', '\n'.join(map('\n    '.join, Browser.visits))))


@pytest.fixture(autouse=True)
def says_what_the_troubleshooting_has(request):
    """A story that said_elsewhere.py names has said the words that it is named for."""
    yield
    here = (request.node.name, getattr(request.node, 'originalname', ''))
    wanted = [words for words, story in SAID_ELSEWHERE.items() if story in here]
    if wanted and request.node.stash.get(PASSED, False):
        said = '\n'.join([*(text for script in Script.made for text in (script.stdout, script.stderr, script.screen)),
                          *(line for visit in Browser.visits for line in visit)])
        assert [words for words in wanted if not said_in(words, said)] == []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    for of_another_test in (Script.made, EmbeddedServer.made, Browser.visits):
        of_another_test.clear()


@pytest.fixture
def server(request):
    """An embedded SSH server with a stand-in codex; a test that passed must have left nothing at it."""
    with EmbeddedServer() as server:
        yield server
        if request.node.stash.get(PASSED, False):
            assert server.leftovers() == []


@pytest.fixture
def codexs_port():
    """The port that codex itself listens on, where a test needs this very one, or nobody at it."""
    with alone_with(1455) as port:
        yield port


@pytest.fixture
def home(tmp_path, server):
    """A person's home that knows the server and is let in by a key."""
    home = Home(tmp_path / 'home')
    home.trust(server)
    home.make_key(server)
    return home


class Runs:
    """Starts the script, by default against the server: `run('-v', command=('wrangler', 'login'))`."""

    def __init__(self, home, server):
        self.home = home
        self.destination = f'{server.user}@{server.address}:{server.port}'
        self.scripts = []

    def __call__(self, *options, to=None, command=(), **how):
        script = Script(self.home, *options, to or self.destination, *command, **how)
        self.scripts.append(script)
        return script


@pytest.fixture
def run(request, home, server):
    """Runs of the script; where the test passed, what ended by itself must have left nothing behind."""
    runs = Runs(home, server)
    yield runs
    ended = [script for script in runs.scripts if script.process.poll() is not None]
    left = []
    if request.node.stash.get(PASSED, False):
        left = [line for script in ended for line in script.leftovers()]
        if all(script in ended and script.process.returncode >= 0 for script in runs.scripts):
            left += home.leftovers()
    for script in runs.scripts:
        script.close()
    assert left == []
