"""Nothing remains of a run in the process that lives on: threads, descriptors, handlers, streams, modules.

In Pythonista and in a-Shell the app runs one script after the other; what one leaves is there for the next.
"""

import itertools
import json
import os

import pytest
from embedded import free_port
from harness import Browser
from test_phones import YES, ashell, pythonista, wait_until  # noqa: F401 - the fixtures are used by their names


def start(phone, server, *words, **how):
    """Start the script; the person agrees to words that do more than name a server, which are asked about once."""
    (server.home / '.codex' / 'auth.json').unlink(missing_ok=True)
    if words not in phone.agreed:
        phone.phone.will_answer(('console.alert', YES))
        phone.agreed.add(words)
    return phone.start(*words, **how)


def signs_in(phone, server, *words, json_events=False):
    script = start(phone, server, *words, 'home', json_events=json_events)
    browser = Browser(phone.sign_in_page(script))
    with browser.idle_connections():        # browsers keep some that say nothing
        assert browser.sign_in().status == 200
        assert script.wait() == 0, script.report()
    return script


def plain(phone, server):
    assert 'Signed in' in signs_in(phone, server).stdout


def with_events(phone, server):
    names = [event['event'] for event in signs_in(phone, server, json_events=True).events]
    assert names[0] == 'connecting' and names[-2:] == ['signed-in', 'done']


def verbose(phone, server):
    script = signs_in(phone, server, '-v')
    assert script.stderr.count('starting thread (client mode)') == 1     # each line once, not once for every run


def with_a_tunnel(phone, server):
    port = free_port()
    script = start(phone, server, '-L', f'{port}:127.0.0.1:{server.port}', 'home')
    browser = Browser(phone.sign_in_page(script))
    assert b'SSH-2.0' in greeting(port)
    assert browser.sign_in().status == 200 and script.wait() == 0


def greeting(port):
    import socket
    with socket.create_connection(('127.0.0.1', port), 10) as sock:
        return sock.recv(100)


def failing(phone, server):
    assert start(phone, server, 'ana@127.0.0.1:1').wait() == 255


def cancelled(phone, server):
    script = start(phone, server, 'home')
    phone.sign_in_page(script)
    script.interrupt()
    assert script.wait() == 130


def timed_out(phone, server):
    assert start(phone, server, '--timeout', '1', 'home').wait() == 124


KINDS = (plain, with_events, verbose, with_a_tunnel, failing, cancelled, timed_out)


@pytest.mark.parametrize('pythonista, times', [
    pytest.param('Pythonista', len(KINDS), marks=pytest.mark.quick), ('Pythonista beta', len(KINDS)),
    pytest.param('Pythonista', 100, marks=pytest.mark.slow), pytest.param('Pythonista beta', 100, marks=pytest.mark.slow)],
    indirect=['pythonista'])
def test_runs_in_one_process_leave_nothing(times, pythonista, server):
    pythonista.know(server)
    pythonista.agreed = {('home',), ('-v', 'home')}
    for kind in itertools.islice(itertools.cycle(KINDS), times):
        kind(pythonista, server)
        assert pythonista.scripts[-1].left == [], kind.__name__


def test_no_thread_waits_for_an_answer_that_nobody_gave(pythonista, server):
    """A one-time code was asked for, and the person cancelled."""
    from standins import CANCEL
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    server.password, server.questions = None, (('One-time code: ', '123456'),)
    for _ in range(2):
        pythonista.phone.will_answer(('console.password_alert', CANCEL))
        script = pythonista.start('home')
        assert script.wait() == 130 and script.left == []


def test_runs_in_a_shells_process_leave_nothing_and_steal_no_line(ashell, server):
    ashell.know(server)
    runs = [['--again', 'home'], ['--again', 'home'], ['--again', '-v', 'home'], ['--again', '--json', 'home'],
            ['ana@127.0.0.1:1'], ['--again', '--timeout', '1', 'home'], ['--again', 'home'], ['--again', 'home']]
    ashell.variables['STAND_IN_RUNS'] = json.dumps(runs)
    script = ashell.start()
    for number, words in enumerate(runs, 1):
        if '--timeout' not in words and 'home' in words:
            address = ashell.sign_in_page(script)
            ashell.opened_before += 1
            if number > 6:
                script.answer(r'Split View[^$]*', 'q')      # a line that an earlier run's reader would have taken
            else:
                assert Browser(address).sign_in().status == 200
        elif '--timeout' in words:
            ashell.sign_in_page(script)
            ashell.opened_before += 1
        wait_until(lambda: len(remains(ashell)) >= number)
    assert script.wait() == 130
    assert [run['status'] for run in remains(ashell)] == [0, 0, 0, 0, 255, 124, 130, 130]
    assert [run['left'] for run in remains(ashell)] == [[]] * len(runs)
    events = [json.loads(line) for line in script.screen.splitlines() if line.startswith('{"event"')]
    assert events[0]['event'] == 'connecting' and events[-1] == {'event': 'done', 'status': 0}


def remains(phone):
    path = phone.phone.folder / 'remains.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if os.path.exists(path) else []
