"""How many round trips the script waits for, with ssh beside it, at a real sshd and at the embedded one.

The counts are exact, whatever the machine does meanwhile. What stands here is what is reached today:
a number here may only get smaller.
"""

import contextlib
import functools

import embedded
import pytest
import sshd
from embedded import EmbeddedServer
from harness import Browser, Home, Script
from oracle import Oracle
from oracle import missing as ssh_missing
from relay import Relay
from sshd import Sshd

pytestmark = pytest.mark.skipif(bool(why := sshd.missing() or ssh_missing()), reason=str(why))

LONG = 120.0
"""Seconds: everybody has to sleep for each crossing, and on a busy machine somebody hardly ever does."""

# From start to the address on the screen, and for any other command to its first line.
TO_ADDRESS = 8
# The same at the next login to the same server.
TO_ADDRESS_NEXT = 8
# The same behind a jump host.
TO_ADDRESS_BEYOND = 12
# From the browser's redirect to "signed in".
TO_SIGNED_IN = 7
# From a connection that was reset, and the redirect that came then, to its delivery.
LOST_TO_DELIVERED = 6
# From the start after the app was killed, and its program ended, to the address of a new one.
KILLED_TO_ADDRESS = 11


@pytest.fixture(params=[Sshd, functools.partial(EmbeddedServer, version='SSH-2.0-OpenSSH_9.9')], ids=['sshd', 'embedded'])
def server(request):
    with request.param() as server:
        server.install('codex')
        yield server
        assert server.leftovers() == []


@pytest.fixture
def relay(server):
    with Relay(server, counted=True, watch=[server]) as relay:
        yield relay


@pytest.fixture
def home(tmp_path, server, relay):
    """A person who knows the server where the relay is, and is let in by a key."""
    home = Home(tmp_path / 'home')
    home.known_hosts.write_text(known_at(relay, server))
    home.make_key(server)
    return home


@pytest.fixture
def start(server, relay, home):
    """Starts the script; its address is shown then, and the round trips up to there are returned beside it."""
    with contextlib.ExitStack() as stack:
        def start(*words):
            script = stack.enter_context(Script(home, '-p', relay.port, f'{server.user}@127.0.0.1', *words))
            script.url = script.wait_for('sign-in', LONG)['url']
            trips = relay.trips()
            script.wait_for('opened', LONG)
            relay.settle()
            return script, trips
        yield start


def known_at(relay, server):
    """The server's lines for known_hosts, by the port of the relay."""
    return server.known_hosts().replace(f':{server.port} ', f':{relay.port} ')


def ends_well(script, page):
    assert page(LONG).status == 200 and script.wait(LONG) == 0
    assert script.leftovers() == []


def test_a_login_waits_for_no_more_round_trips_than_this(server, relay, home, start):
    done = Oracle(server, home).ask_ssh('-p', str(relay.port), f'{server.user}@127.0.0.1', 'true', patience=LONG)
    assert done.returncode == 0, done.stderr
    ssh = relay.trips()
    assert 8 <= ssh <= 11       # what is read about ssh: a number beyond it has something wrong with the counting
    relay.settle()
    script, to_address = start()
    browser = Browser(script.url, LONG)
    page = browser.in_background(browser.sign_in)
    script.wait_for('signed-in', LONG)
    to_signed_in = relay.trips()
    ends_well(script, page)
    (server.home / '.codex' / 'auth.json').unlink()
    relay.settle()
    script, to_address_next = start()
    script.interrupt()
    assert script.wait(LONG) == 130
    print(f'start to address {to_address}, next {to_address_next}, redirect to signed in {to_signed_in}, ssh {ssh}')
    assert to_address <= TO_ADDRESS
    assert to_address_next <= TO_ADDRESS_NEXT
    assert to_signed_in <= TO_SIGNED_IN


def test_a_command_waits_for_no_more_round_trips_than_this(server, relay, home):
    with Script(home, '-p', relay.port, f'{server.user}@127.0.0.1', 'echo', 'in', json_events=False) as script:
        script.wait_for_text('^in$', LONG)
        assert relay.trips() <= TO_ADDRESS
        assert script.wait(LONG) == 0


def test_a_lost_connection_costs_no_more_round_trips_than_this(server, relay, start):
    script, _ = start()
    relay.cut('reset')
    browser = Browser(script.url, LONG)
    page = browser.in_background(browser.sign_in)
    script.wait_for('callback', LONG, delivered=True)
    trips = relay.trips()
    ends_well(script, page)
    print(f'lost to delivered {trips}')
    assert trips <= LOST_TO_DELIVERED


def test_a_killed_app_costs_no_more_round_trips_than_this(server, relay, start):
    script, _ = start()
    script.kill()
    embedded.end_marked_processes(server.mark)
    relay.settle()
    script, trips = start()
    browser = Browser(script.url, LONG)
    ends_well(script, browser.in_background(browser.sign_in))
    print(f'killed to address {trips}')
    assert trips <= KILLED_TO_ADDRESS


def test_a_jump_host_costs_no_more_round_trips_than_this(tmp_path):
    with EmbeddedServer(version='SSH-2.0-OpenSSH_9.9') as jump, Sshd() as inner, Relay(jump, counted=True, watch=[jump, inner]) as relay:
        inner.install('codex')
        home = Home(tmp_path / 'home')
        home.known_hosts.write_text(known_at(relay, jump) + inner.known_hosts())
        home.make_key(jump)
        inner.authorize((home.ssh / 'id_ed25519.pub').read_text())
        words = ['-J', f'{jump.user}@127.0.0.1:{relay.port}', '-p', str(inner.port), f'{inner.user}@127.0.0.1']
        done = Oracle(inner, home).ask_ssh(*words, 'true', patience=LONG)
        assert done.returncode == 0, done.stderr
        ssh = relay.trips()
        relay.settle()
        with Script(home, *words) as script:
            script.wait_for('sign-in', LONG)
            trips = relay.trips()
            script.interrupt()
            assert script.wait(LONG) == 130
        print(f'start to address through a jump host {trips}, ssh {ssh}')
        assert trips <= TO_ADDRESS_BEYOND
