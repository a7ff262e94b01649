"""Contact is lost at any byte: of the first connection, of a reconnection, of a delivery. It heals, or says what it is.

Where the bytes are is measured at a connection that is left alone; the cuts are spread over all of it.
"""

import time

import pytest
from harness import Browser, Home, Script
from relay import Relay
from waiting import until

PLACES = 6
"""How many cuts are spread over each direction; their distance is no multiple of a packet's length."""


@pytest.fixture
def relay(server):
    with Relay(server) as relay:
        yield relay


@pytest.fixture
def home(tmp_path, server, relay):
    home = Home(tmp_path / 'home')
    home.known_hosts.write_text(server.known_hosts().replace(f':{server.port} ', f':{relay.port} '))
    home.make_key(server)
    return home


@pytest.fixture
def start(server, relay, home):
    """The script against the relay; all of it ended with the test."""
    scripts = []

    def start(*words):
        scripts.append(Script(home, *words, '-p', relay.port, f'{server.user}@127.0.0.1'))
        return scripts[-1]
    yield start
    for script in scripts:
        script.close()


def places(relay, number):
    """Cuts spread over the connection of that number, as words for Relay.cut; no two connections are equally long.

    The last fifth is left out: a shorter one might be over by then, and nothing be cut."""
    return [{side: whole * 4 // 5 * step // PLACES} for side, whole in zip(('up', 'down'), relay.carried()[number])
            for step in range(PLACES + 1)]


@pytest.mark.parametrize('how', ['reset', 'end'])
def test_a_first_connection_that_breaks_off_anywhere_heals_or_is_told_as_what_it_is(server, relay, start, how):
    script = start()
    script.wait_for('opened')
    cuts = places(relay, 0)
    script.interrupt()
    assert script.wait() == 130
    healed = []
    for cut in cuts:
        relay.cut(how, **cut)
        script = start()
        while (event := script.next_event())['event'] not in ('sign-in', 'error'):
            pass
        if event['event'] == 'sign-in':
            healed.append(cut)
            assert Browser(event['url']).sign_in().status == 200 and script.wait() == 0
            (server.home / '.codex' / 'auth.json').unlink()
        else:
            # Nobody refused anything, and the host is whom it claims to be.
            assert event['kind'] in ('connection', 'connect', 'link'), (cut, event)
            assert event['message'] and event['hint'], (cut, event)
            assert script.wait() == 255
        assert 'Traceback' not in script.stderr, (cut, script.stderr)
        relay.restore()
    assert healed           # the last bytes are the program's: by then, the connection is one that heals
    assert server.leftovers() == []


@pytest.mark.parametrize('how', ['reset', 'end', 'silence'])
def test_a_reconnection_that_breaks_off_anywhere_is_followed_by_another(server, relay, start, how):
    hasty = ['-o', 'ConnectTimeout=1', '-o', 'ServerAliveInterval=1', '-o', 'ServerAliveCountMax=1']
    cuts = [None]
    for cut in cuts:                        # the first one only shows how long a reconnection is
        script = start(*hasty * (how == 'silence'))
        url = script.wait_for('sign-in')['url']
        script.wait_for('opened')
        before = len(relay.carried())
        if cut:
            relay.cut(how, **cut)
        relay.cut('reset')
        assert Browser(url).sign_in().status == 200
        assert script.wait() == 0 and 'Traceback' not in script.stderr, cut
        assert len(relay.carried()) >= before + 1 + bool(cut), cut      # one that broke off, and one that held
        if not cut:
            cuts += places(relay, before)[['reset', 'end', 'silence'].index(how)::3]
        (server.home / '.codex' / 'auth.json').unlink()
        relay.restore()


@pytest.mark.parametrize('how', ['reset', 'end'])
def test_a_connection_lost_while_the_redirect_is_on_its_way_delivers_it_once_or_says_so(server, relay, start, how):
    script = start()
    url = script.wait_for('sign-in')['url']
    up, down = relay.carried()[0]
    assert Browser(url).sign_in().status == 200 and script.wait() == 0
    up_end, down_end = relay.carried()[0]
    for side, first, last in (('up', up, up_end), ('down', down, down_end)):
        for step in range(PLACES):
            (server.home / '.codex' / 'auth.json').unlink()
            script = start()
            url = script.wait_for('sign-in')['url']
            script.wait_for('opened')
            relay.cut(how, **{side: first + (last - first) * step // PLACES + 1})
            assert Browser(url).sign_in().status == 200
            assert script.wait() == 0, (side, step)
            assert (server.home / '.codex' / 'auth.json').exists() and 'Traceback' not in script.stderr
            relay.restore()
    assert server.leftovers() == []


def test_who_cancels_while_the_connection_is_lost_leaves_nothing_once_it_is_back(server, relay, start):
    script = start()
    script.wait_for('opened')
    relay.door('refused')
    relay.cut('reset')
    script.interrupt()
    relay.restore()
    assert script.wait() == 130
    assert server.leftovers(patience=2) == []


FROZEN = 4.0
"""Seconds: long enough for the app to know afterwards that it slept."""


@pytest.mark.slow
def test_a_link_that_has_become_slow_survives_that_the_app_was_frozen(relay, start):
    script = start()
    url = script.wait_for('sign-in')['url']
    script.wait_for('opened')
    relay.far(2.0)
    script.stop()
    time.sleep(FROZEN)
    script.resume()
    script.wait_for('suspended')
    assert Browser(url, timeout=60).sign_in().status == 200
    assert script.wait() == 0
    assert 'reconnected' not in [event['event'] for event in script.events]       # nothing was wrong with it


def test_an_app_that_was_frozen_while_it_connected_the_first_time_goes_on(server, relay, start):
    """The handshake's limit counts waking seconds: what the app slept is no part of it."""
    relay.far(0.6)
    script = start('-o', 'ConnectTimeout=5')
    script.wait_for('connecting')
    until(lambda: relay.carried() and relay.carried()[0][1], 'the server has said its first word')
    script.stop()
    script.resume(after=7)
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200 and script.wait() == 0
    assert server.connections == 1 and 'Traceback' not in script.stderr


@pytest.mark.slow
def test_a_server_far_away_that_has_not_heard_of_the_saved_login_yet_waits_for_the_next_connection(server, relay, start):
    """The attendant whose connection is lost before it was told `go` ends the program; but not while the next one is made."""
    relay.far(1.2)
    script = start()
    url = script.wait_for('sign-in', 60)['url']
    relay.cut('reset')
    assert Browser(url, timeout=60).sign_in().status == 200 and script.wait(60) == 0
    assert len([event for event in script.events if event['event'] == 'sign-in']) == 1
