"""What must heal by itself: ports that are held or taken away, jump hosts that fall silent, clocks that jump by hours."""

import contextlib
import os
import signal
import socket

import pytest
from embedded import EmbeddedServer, free_port
from harms import POSSIBLE, Clocks, Taker
from harness import PATIENCE, Browser, Home, Script
from load import Bystander, Target, connect, echo, say, socks
from machine_sshd import Sshd
from relay import Relay
from waiting import comes, until
from witness import Person, Witness

needs_linux = pytest.mark.skipif(not POSSIBLE, reason='moves the clocks and takes the listeners of Linux')
HOURS = 6 * 3600
FROZEN = 4.2
ALIVE = ('-o', 'ServerAliveInterval=1', '-o', 'ServerAliveCountMax=2', '-o', 'ConnectTimeout=3')


@pytest.fixture
def here():
    """An echo, on this machine."""
    with Target(echo) as target:
        yield target


@pytest.fixture
def witness(server):
    return Witness(server)


def ended(script, status=130):
    script.interrupt()
    assert script.wait() == status and 'Traceback' not in script.stderr


def served(port):
    """Whether the echo at a port answers."""
    with contextlib.suppress(OSError):
        return say(port) == b'hello'


# --- A port at the server that the old session holds -----------------------------------------------------

@pytest.fixture
def machine():
    """A real sshd, and the network before it."""
    if not Sshd.PROGRAM:
        pytest.skip('sshd is missing: apt-get install openssh-server')
    with Sshd() as sshd, Relay(sshd.port) as relay:
        yield sshd, relay


def test_a_port_that_the_old_session_holds_is_said_at_once_and_again_when_it_is_back(tmp_path, machine, here):
    sshd, relay = machine
    port = free_port()
    with Script(Home(tmp_path / 'home'), '-N', '-i', sshd.key, '-o', 'StrictHostKeyChecking=accept-new', *ALIVE, '-p', relay.port,
                '-R', f'{port}:127.0.0.1:{here.port}', f'{sshd.user}@127.0.0.1') as script:
        script.wait_for('listening', mode='R', port=port)
        old = sshd.children()
        relay.cut('silence')                            # the server learns of nothing, and goes on listening
        script.wait_for('reconnected')
        until(lambda: str(port) in script.stderr, 'it is said that the port is held', patience=15)
        assert not any(event['event'] == 'listening' for event in script.events[script._next_event:])
        for pid in old:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        script.wait_for('listening', mode='R', port=port)
        until(lambda: served(port))
        ended(script)


# --- A jump host that falls silent ------------------------------------------------------------------------

@pytest.fixture
def through(home, server):
    """A network before a jump host on the way to `server`, which is called inner."""
    with EmbeddedServer(seed=3) as bastion, Relay(bastion) as relay:
        home.known_hosts.write_text(home.known_hosts.read_text() + bastion.known_hosts().replace(f':{bastion.port} ', f':{relay.port} '))
        bastion.authorize((home.ssh / 'id_ed25519.pub').read_text())
        home.config.write_text(f'Host bastion\n HostName 127.0.0.1\n Port {relay.port}\n User {bastion.user}\n'
                               f'Host inner\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n ProxyJump bastion\n'
                               'Host *\n ServerAliveInterval 1\n ServerAliveCountMax 2\n ConnectTimeout 3\n')
        yield relay


@pytest.mark.slow
def test_a_tunnel_through_a_jump_host_that_falls_silent_heals_eight_times(run, through, here):
    port = free_port()
    script = run('-N', '-L', f'{port}:127.0.0.1:{here.port}', to='inner')
    script.wait_for('listening', mode='L')
    for turn in range(8):
        assert say(port) == b'hello'
        through.cut(('silence', 'reset', 'silence', 'end')[turn % 4])
        script.wait_for('reconnected')
        assert say(port) == b'hello'
    ended(script)


@pytest.mark.slow
@pytest.mark.parametrize('how', ['silence', 'reset', 'end'])
def test_a_login_through_a_jump_host_that_falls_silent_heals(run, server, through, witness, how):
    script = run(to='inner')
    url = script.wait_for('sign-in')['url']
    script.wait_for('opened')
    through.cut(how)
    person = Person(url)
    page = person.see_it_through(person.redirect())
    assert page.status == 200 and 'Signed in' in page.text
    assert script.wait() == 0 and len(witness.callbacks) == 1 and 'Traceback' not in script.stderr


# --- Ports of this device ---------------------------------------------------------------------------------

@pytest.mark.parametrize('holder, other', [('::1', '127.0.0.1'), ('127.0.0.1', '::1')])
@pytest.mark.parametrize('mode', ['L', 'D'])
def test_where_one_loopback_has_the_port_taken_the_other_is_served(run, server, here, mode, holder, other):
    port = free_port()
    with socket.create_server((holder, port), family=socket.AF_INET6 if ':' in holder else socket.AF_INET):
        script = run('-N', f'-{mode}', f'{port}:127.0.0.1:{here.port}' if mode == 'L' else str(port),
                     '-o', 'ExitOnForwardFailure=yes')
        assert script.wait_for('listening', mode=mode, bind=other)['port'] == port
        with connect(port, other) as sock:
            sock.sendall(b'\x05\x01\x00' if mode == 'D' else b'hi')
            assert sock.recv(2) == (b'\x05\x00' if mode == 'D' else b'hi')
        until(lambda: str(port) in script.stderr, 'it is said which one is taken')
        ended(script)


@needs_linux
@pytest.mark.parametrize('how', ['readable', 'gone'])
def test_listeners_of_a_tunnel_that_were_taken_are_bound_again(run, tmp_path, here, how):
    taker = Taker(tmp_path)
    left, proxy = free_port(), free_port()
    script = run('-N', '-L', f'{left}:127.0.0.1:{here.port}', '-D', str(proxy), script=taker.script)
    script.wait_for('listening', port=left)
    script.wait_for('listening', port=proxy)
    assert say(left) == b'hello'
    for _ in range(3 if how == 'readable' else 1):       # nothing tells of the other kind: it is looked at each 15 s
        taker.take(script, how)
        until(lambda: served(left), 'the port is bound again')
        until(lambda: _proxied(proxy, here.port), 'the other one is, too')
    assert taker.accepts() < 200                # nobody turns in circles over it
    ended(script)


def _proxied(port, target):
    with contextlib.suppress(OSError), socks(port, target) as sock:
        sock.sendall(b'x')
        return sock.recv(1) == b'x'


@needs_linux
@pytest.mark.parametrize('how', ['readable', 'gone'])
def test_the_port_of_the_redirect_that_was_taken_while_nobody_slept_is_bound_again(run, server, tmp_path, witness, how):
    taker = Taker(tmp_path)
    script = run(script=taker.script)
    person = Person(script.wait_for('sign-in')['url'])
    script.wait_for('opened')
    taker.take(script, how)
    page = person.see_it_through(person.redirect())
    assert page.status == 200 and script.wait() == 0
    assert len(witness.callbacks) == 1 and taker.accepts() < 200


# --- Clocks -----------------------------------------------------------------------------------------------

@pytest.fixture
def clocks(tmp_path):
    if not POSSIBLE:
        pytest.skip('moves the clocks of Linux')
    return Clocks(tmp_path)


each_way = pytest.mark.parametrize('jump', [HOURS, -HOURS], ids=['forward', 'back'])


def names(script):
    return [event['event'] for event in script.events]


@each_way
def test_a_clock_that_is_set_while_a_login_waits_changes_nothing(run, server, witness, clocks, jump):
    script = run(script=clocks.script)
    person = Person(script.wait_for('sign-in')['url'])
    script.wait_for('opened')
    clocks.move(wall=jump)
    assert not comes(lambda: 'suspended' in names(script) or script.process.poll() is not None, within=4)
    assert person.see_it_through(person.redirect()).status == 200
    assert script.wait() == 0 and len(witness.callbacks) == 1 and 'suspended' not in names(script)


@each_way
@pytest.mark.parametrize('cut', [False, True], ids=['kept', 'cut'])
def test_a_clock_that_is_set_while_the_app_is_frozen_changes_nothing(run, server, witness, clocks, jump, cut):
    script = run(script=clocks.script)
    person = Person(script.wait_for('sign-in')['url'])
    script.wait_for('opened')
    script.stop()
    clocks.move(wall=jump)
    if cut:
        server.cut()
    waiting = person.in_background(person.see_it_through, person.redirect())
    script.resume(after=FROZEN)
    assert waiting().status == 200
    assert script.wait() == 0 and len(witness.callbacks) == 1
    assert [event['seconds'] < 60 for event in script.events if event['event'] == 'suspended'] == [True]


def test_ten_minutes_of_sleep_are_noticed_whatever_the_other_clocks_say(run, server, witness, clocks):
    script = run(script=clocks.script)
    person = Person(script.wait_for('sign-in')['url'])
    script.wait_for('opened')
    script.stop()
    clocks.move(asleep=600, wall=-HOURS)
    server.cut()
    script.resume()
    assert script.wait_for('suspended')['seconds'] >= 590
    assert person.see_it_through(person.redirect()).status == 200
    assert script.wait() == 0 and len(witness.callbacks) == 1


@pytest.mark.parametrize('jump', [
    pytest.param(HOURS, id='forward'), pytest.param(-HOURS, id='back')])
@pytest.mark.parametrize('state', ['waiting', 'delivered'])
def test_a_clock_that_is_set_between_two_runs_forgets_nothing(run, server, witness, clocks, jump, state):
    first = run(script=clocks.script)
    person = Person(first.wait_for('sign-in')['url'])
    first.wait_for('opened')
    if state == 'delivered':
        done = witness.at('callback answered', first.kill)
        person.in_background(person.see_it_through, person.redirect())
        assert done.wait(PATIENCE)
    else:
        first.kill()
    clocks.move(wall=jump)
    second = run(script=clocks.script)
    if state == 'waiting':
        second.wait_for('sign-in')
        assert person.see_it_through(person.redirect()).status == 200
    assert second.wait() == 0 and len(witness.callbacks) == 1


@each_way
def test_a_clock_that_is_set_leaves_a_tunnel_as_it_is(run, here, clocks, jump):
    port = free_port()
    script = run('-N', *ALIVE, '-L', f'{port}:127.0.0.1:{here.port}', script=clocks.script)
    script.wait_for('listening', mode='L')
    with Bystander(port) as bystander:
        clocks.move(wall=jump)
        assert not comes(lambda: 'suspended' in names(script), within=4)
    assert bystander.wrong == [] and served(port)
    assert not {'suspended', 'reconnected'} & set(names(script))
    ended(script)
