"""How many round trips the script waits for, with ssh beside it, at a real sshd and at the embedded one.

The counts are exact, whatever the machine does meanwhile. What stands here is what is reached today:
a number here may only get smaller.
"""

import pytest
import sshd
from embedded import EmbeddedServer
from harness import Browser, Home, Script
from oracle import Oracle
from oracle import missing as ssh_missing
from relay import Relay
from sshd import Sshd

pytestmark = pytest.mark.skipif(bool(why := sshd.missing() or ssh_missing()), reason=str(why))

TO_ADDRESS = {Sshd: 8, EmbeddedServer: 7}
"""From start to the address on the screen, and for any other command to its first line."""
TO_SIGNED_IN = {Sshd: 7, EmbeddedServer: 7}
"""From the browser's redirect to "signed in"."""


@pytest.fixture(params=[Sshd, EmbeddedServer], ids=['sshd', 'embedded'])
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
    home.known_hosts.write_text(server.known_hosts().replace(f':{server.port} ', f':{relay.port} '))
    home.make_key(server)
    return home


def test_a_login_waits_for_no_more_round_trips_than_this(server, relay, home):
    done = Oracle(server, home).ask_ssh('-p', str(relay.port), f'{server.user}@127.0.0.1', 'true')
    assert done.returncode == 0, done.stderr
    ssh = relay.trips()
    assert 8 <= ssh <= 11       # what is read about ssh: a count beyond it has something wrong with the counting
    relay.settle()
    with Script(home, '-p', relay.port, f'{server.user}@127.0.0.1') as script:
        sign_in = script.wait_for('sign-in')
        to_address = relay.trips()
        script.wait_for('opened')
        relay.settle()
        browser = Browser(sign_in['url'])
        page = browser.in_background(browser.sign_in)
        script.wait_for('signed-in')
        to_signed_in = relay.trips()
        assert page().status == 200 and script.wait() == 0
        assert script.leftovers() == []
    print(f'start to address {to_address}, redirect to signed in {to_signed_in}, ssh {ssh}')
    assert to_address <= TO_ADDRESS[type(server)]
    assert to_signed_in <= TO_SIGNED_IN[type(server)]


def test_a_command_waits_for_no_more_round_trips_than_this(server, relay, home):
    with Script(home, '-p', relay.port, f'{server.user}@127.0.0.1', 'echo', 'in', json_events=False) as script:
        script.wait_for_text('^in$')
        assert relay.trips() <= TO_ADDRESS[type(server)]
        assert script.wait() == 0
