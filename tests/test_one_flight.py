"""The second login to a server begins in one flight: what is to run there leaves together with the proof of the key.

What a server of some kind does not take falls back by itself. Whether it did is told by round trips, which are counted exactly.
"""

import contextlib
import importlib
import json
import sys
import types

import pytest
import servers
from embedded import EmbeddedServer
from harness import SCRIPT, Browser, Home, Script
from relay import Relay
from test_distance import LONG, known_at

sys.path.insert(0, str(SCRIPT.parent))
script = importlib.import_module('codex_login')

AS_SSHD = 'SSH-2.0-OpenSSH_9.9'
STEP_BY_STEP, IN_ONE_FLIGHT = 6, 4
"""Round trips from the start to the address, at most."""


def went_step_by_step(trips):
    """One more where the server's answers to two things come apart."""
    return IN_ONE_FLIGHT < trips <= STEP_BY_STEP + 1


class Phone:
    """A person's home, and a server at some distance from it that knows a key of theirs."""

    def __init__(self, folder, server, relay):
        server.install('codex')
        self.server, self.relay, self.home = server, relay, Home(folder / 'home')
        self.home.known_hosts.write_text(known_at(relay, server))
        self.home.make_key(server)
        self.kept = self.home.folder / '.local' / 'state' / 'codex-login' / 'keys'

    @property
    def flies(self):
        """Whether the server is of a kind that is known to take it."""
        return getattr(self.server, 'maker', 'OpenSSH') in ('OpenSSH', 'dropbear')

    def run(self, *words, **how):
        """The script, under way."""
        self.relay.settle()
        return Script(self.home, *words, '-p', self.relay.port, f'{self.server.user}@127.0.0.1', **how)

    def start(self, *words):
        """Until the address is shown, and how many round trips that took; the login is then cancelled."""
        with self.run(*words) as login:
            login.wait_for('sign-in', LONG)
            trips = self.relay.trips()
            login.interrupt()
            assert login.wait(LONG) == 130
        return trips

    def sign_in(self, *words):
        """The same with a login that is completed."""
        with self.run(*words) as login:
            url = login.wait_for('sign-in', LONG)['url']
            trips = self.relay.trips()
            browser = Browser(url, LONG)
            page = browser.in_background(browser.sign_in)
            assert page(LONG).status == 200 and login.wait(LONG) == 0
        return trips

    def change_key(self):
        """From now on the server takes another key of theirs only."""
        keys = getattr(self.server, '_keys', self.server.home / '.ssh' / 'authorized_keys')
        keys.write_text('')
        self.home.make_key(self.server, name='id_rsa')

    @property
    def remembered(self):
        """What is kept of the key that the server took, a text."""
        kept = json.loads(self.kept.read_text())
        return kept[f'{self.server.user}@[127.0.0.1]:{self.relay.port}']


@contextlib.contextmanager
def a_phone(folder, server):
    with server, Relay(server, counted=True, watch=[server]) as relay:
        yield Phone(folder, server, relay)
        assert server.leftovers() == []


@pytest.fixture(params=servers.KINDS, ids=lambda kind: kind.maker)
def phone(request, tmp_path):
    if why := request.param.missing():
        pytest.skip(str(why))
    with a_phone(tmp_path, request.param()) as phone:
        yield phone


@pytest.fixture
def embedded(tmp_path):
    with a_phone(tmp_path, EmbeddedServer(version=AS_SSHD)) as phone:
        yield phone


@pytest.mark.quick
@pytest.mark.parametrize('words', [(), ('rclone', 'config')], ids=' '.join)
def test_what_is_to_run_is_small_enough_to_leave_before_the_servers_window_is_known(words):
    """dropbear's is the smallest, 24 KiB; what is more than AHEAD waits for it."""
    sent = []

    class Link:
        settings, board = types.SimpleNamespace(alias='server'), None

        def run_soon(self, command, data, then):
            sent.append(data(types.SimpleNamespace(handshake=100.0)))
    script.Program(Link(), script.make_command(words), script.Box(), 900).start()
    assert len(sent[0]) <= script.Channel.AHEAD < 24576


def test_the_second_login_needs_two_round_trips_less(phone):
    first, second = phone.sign_in(), phone.start('--again')
    print(f'{phone.server.maker}: {first}, then {second}')
    if phone.flies:
        assert first <= STEP_BY_STEP and second <= IN_ONE_FLIGHT
    else:
        assert second <= first


def test_a_key_that_was_withdrawn_since_is_followed_by_the_next_one(phone):
    phone.sign_in()
    before = phone.remembered if phone.flies else ''
    phone.change_key()
    trips, remembered = phone.start('--again'), phone.remembered if phone.flies else '-'
    assert remembered != before
    # sshd says of each message that it does not take it, and goes on with the same connection; dropbear ends it.
    assert phone.server.maker != 'OpenSSH' or trips <= 8
    if phone.flies:
        assert phone.start('--again') <= IN_ONE_FLIGHT


def test_a_key_that_was_withdrawn_since_leaves_the_password(embedded):
    embedded.sign_in()
    (embedded.server.home / '.ssh' / 'authorized_keys').write_text('')
    with embedded.run('--again', terminal=True, json_events=False) as login:
        login.answer('password:', embedded.server.password)
        login.wait_for_text('https://', LONG)
        login.interrupt()
        assert login.wait(LONG) == 130
    assert embedded.server.complaints == []


@pytest.mark.parametrize('day', [f'{action} at {step}' for action in ('ends', 'reset', 'goodbye') for step in ('key', 'session')])
def test_a_server_that_ends_the_connection_at_it_is_asked_step_by_step_from_then_on(embedded, day):
    embedded.sign_in()
    embedded.server.bad_day = f'{day} once'
    embedded.start('--again')
    assert embedded.server.count[day] == 1
    assert embedded.remembered.startswith('not ')
    assert went_step_by_step(embedded.start('--again'))


def test_another_version_of_the_server_is_tried_anew(embedded):
    embedded.sign_in()
    embedded.server.bad_day = 'goodbye at session once'
    embedded.start('--again')
    embedded.server.version = AS_SSHD + 'p2'
    assert went_step_by_step(embedded.start('--again'))
    assert embedded.start('--again') <= IN_ONE_FLIGHT


def test_a_server_that_counts_its_channels_otherwise_is_asked_step_by_step_from_then_on(embedded):
    embedded.server.first_channel = 7
    embedded.sign_in()
    embedded.sign_in('--again')
    assert embedded.remembered.startswith('not ')
    assert went_step_by_step(embedded.sign_in('--again'))


@pytest.mark.parametrize('kept', ['', '{', '[]', '{"a": 1}', '\0', '[' * 5000])
def test_a_file_that_is_damaged_costs_two_round_trips_and_nothing_else(embedded, kept):
    embedded.sign_in()
    embedded.kept.write_text(kept)
    assert went_step_by_step(embedded.start('--again'))
    assert embedded.start('--again') <= IN_ONE_FLIGHT


def test_nothing_flies_to_a_server_whose_host_key_has_changed(embedded):
    embedded.sign_in()
    embedded.server.seed = 2
    notes = len(embedded.server.notes)
    with embedded.run('--again') as login:
        assert login.wait_for('error', LONG)['kind'] == 'host-key'
        assert login.wait(LONG) == 255
    assert not [note for note in embedded.server.notes[notes:] if 'publickey' in str(note) or 'exec' in str(note)]
