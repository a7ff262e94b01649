"""A tunnel under load, beside the real sshd: thousands of connections, broken ones, new keys, servers that stand still.

The tunnel is the whole script in a process of its own: what it holds is counted from outside. Somebody else uses the same
connection all the time, and must not notice; the connection is the same one at the end.
"""

import contextlib
import signal
import socket
import sys
import time

import pytest
from embedded import free_port
from harms import Objects
from harness import SCRIPT, Home, Script
from load import (MEBI, Bystander, Meter, Target, both_ways, brusque, connect, digest, early_answers, early_leavings, echo, gate, held,
                  part, pour, read_all, resets, say, short_connections, use)
from machine_sshd import Sshd
from relay import Relay
from waiting import let_pass, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Sshd.PROGRAM, reason='sshd is missing: apt-get install openssh-server'),
              pytest.mark.skipif(sys.platform != 'linux', reason='counts in Linux\'s /proc')]
each_mode = pytest.mark.parametrize('mode', ['L', 'R'])


class Tunnel:
    """The script with forwards only, against a real sshd, and what is known of it.

    A forward is 'L', 'R' or 'D', with a Target but for the last; `ports` are theirs, in that order, once all are open.
    """

    def __init__(self, home, sshd, *forwards, port=None, script=SCRIPT, words=()):
        self.ports = [free_port() for _ in forwards]
        specs = [word for (mode, target), port in zip(forwards, self.ports)
                 for word in (f'-{mode}', f'{port}:127.0.0.1:{target.port}' if target else str(port))]
        self.script = Script(home, '-N', '-v', '-i', sshd.key, '-o', 'StrictHostKeyChecking=accept-new', '-p', port or sshd.port,
                             *words, *specs, f'{sshd.user}@127.0.0.1', script=script)
        self.meter = Meter(self.script.process.pid)
        try:
            until(lambda: self._is_ended() or all(map(self._listens, self.ports)), 'all forwards are open')
            until(lambda: self._is_ended() or self.meter.is_still(), 'it waits')
            assert not self._is_ended()
        except AssertionError:
            self.script.close()
            raise

    def _is_ended(self):
        return self.script.process.poll() is not None

    def _listens(self, port):
        return any(event['event'] == 'listening' and event['port'] == port for event in list(self.script.events))

    def again(self):
        """How often its connection was made anew."""
        return sum(event['event'] == 'reconnected' for event in self.script.events)

    def end(self):
        """Ctrl-C; it has been whole until then."""
        assert self.script.process.poll() is None and 'Traceback' not in self.script.stderr, self.script.report()
        self.script.interrupt()
        assert self.script.wait() == 130


@pytest.fixture
def person(tmp_path):
    return Home(tmp_path / 'home')


@pytest.fixture
def tunnel(person):
    """Starts tunnels: tunnel(sshd, ('L', target), …)."""
    tunnels = []

    def start(*words, **how):
        tunnels.append(Tunnel(person, *words, **how))
        return tunnels[-1]
    yield start
    for one in tunnels:
        one.script.close()


@pytest.fixture(scope='module')
def sshd():
    with Sshd(MaxSessions=1000) as sshd:
        yield sshd


# --- Many connections ---------------------------------------------------------------------------------------

def test_ten_thousand_short_connections_are_each_served_and_leave_no_trace(tunnel, sshd):
    with Target(echo) as target:
        one = tunnel(sshd, ('L', target), ('R', target), ('D', None))
        ports = dict(zip('LRD', one.ports))
        to = {'D': target.port}
        for mode, port in ports.items():
            assert short_connections(port, 150, to.get(mode), seed=0) == []         # what is needed once is there
        before, memory = one.meter.state(), one.meter.memory()
        with Bystander(ports['L'], ports['R']) as bystander:
            for mode, count in (('L', 4000), ('R', 4000), ('D', 2000)):
                assert short_connections(ports[mode], count, to.get(mode)) == []
        assert bystander.wrong == [] and one.again() == 0
        assert one.meter.comes_back_to(before) == {}
        assert one.meter.memory() - memory < 24 * MEBI
        one.end()


@each_mode
def test_connections_that_are_over_are_forgotten(tunnel, sshd, tmp_path, mode):
    objects = Objects(tmp_path)
    with Target(echo) as target:
        one = tunnel(sshd, (mode, target), script=objects.script)
        port, = one.ports
        assert short_connections(port, 300) == []
        before = objects.count(one.script)
        assert short_connections(port, 2000) == []
        assert objects.count(one.script) - before < 1000
        one.end()


@each_mode
def test_five_hundred_at_once_are_each_served_and_leave_no_trace(tunnel, sshd, mode):
    with Target(echo) as target:
        one = tunnel(sshd, (mode, target), ('L', target))
        port, beside = one.ports
        with held(port, 30):
            pass
        before, memory = one.meter.state(), one.meter.memory()
        # The bystander has one of the places.
        with Bystander(beside) as bystander, held(port, 499) as socks:
            assert use(socks) == []
        assert bystander.wrong == [] and one.again() == 0
        assert one.meter.comes_back_to(before) == {}
        assert one.meter.memory('VmHWM') - memory < 60 * MEBI and one.meter.memory() - memory < 30 * MEBI
        one.end()


@each_mode
def test_a_connection_has_no_thread_of_its_own(tunnel, sshd, mode):
    with Target(echo) as target:
        one = tunnel(sshd, (mode, target))
        port, = one.ports
        with held(port, 5):
            before = one.meter.threads()
            with held(port, 400):
                assert one.meter.threads() <= before
        one.end()


# --- Broken ones --------------------------------------------------------------------------------------------

@each_mode
def test_a_thousand_resets_harm_nobody_and_leave_no_trace(tunnel, sshd, mode):
    with Target(echo) as target:
        one = tunnel(sshd, (mode, target), ('D', None))
        port, _ = one.ports
        assert resets(port, 30, seed=0) == []
        assert say(port) == b'hello'
        before, memory = one.meter.state(), one.meter.memory()
        with Bystander(port) as bystander:
            assert resets(port, 1000) == []
        assert bystander.wrong == [] and one.again() == 0
        assert one.meter.comes_back_to(before) == {}
        assert one.meter.memory() - memory < 12 * MEBI
        one.end()


@each_mode
@pytest.mark.parametrize('how', [gate, brusque])
def test_uploads_that_are_answered_early_harm_nobody(tunnel, sshd, mode, how):
    with Target(how) as target, Target(echo) as other:
        one = tunnel(sshd, (mode, target), ('L', other))
        port, beside = one.ports
        before = one.meter.state()
        with Bystander(beside) as bystander:
            wrong = early_answers(port, 300, answered=how is gate)
        assert bystander.wrong == [] and one.again() == 0
        assert wrong == []
        assert one.meter.comes_back_to(before) == {}
        one.end()


@each_mode
def test_clients_that_leave_in_the_middle_harm_nobody(tunnel, sshd, mode):
    with Target(pour) as target, Target(echo) as other:
        one = tunnel(sshd, (mode, target), ('L', other))
        port, beside = one.ports
        before = one.meter.state()
        with Bystander(beside) as bystander:
            assert early_leavings(port, 300) == []
        assert bystander.wrong == [] and one.again() == 0
        assert one.meter.comes_back_to(before) == {}
        one.end()


@each_mode
def test_eight_streams_each_way_that_all_end_at_once_harm_nobody(tunnel, sshd, mode):
    with Target(part) as sinks, Target(pour) as sources, Target(echo) as other:
        one = tunnel(sshd, (mode, sinks), (mode, sources), ('D', None), ('L', other))
        up, down, _, beside = one.ports
        with Bystander(beside) as bystander:
            for _ in range(5):
                assert both_ways(up, down, 8) == []
        assert bystander.wrong == [] and one.again() == 0
        one.end()


# --- New keys -----------------------------------------------------------------------------------------------

EARLY = f"""
import runpy, sys
import paramiko
paramiko.packet.Packetizer.REKEY_BYTES = 1 << 20
sys.path.insert(0, {str(SCRIPT.parent)!r})
runpy.run_path({str(SCRIPT)!r}, run_name='__main__')
"""
KEYS = {'by the server': ({'RekeyLimit': '1M'}, None), 'by the script': ({}, EARLY), 'by both': ({'RekeyLimit': '1500K'}, EARLY)}


@pytest.mark.parametrize('distance', [0, 0.1])
@pytest.mark.parametrize('who', list(KEYS))
def test_new_keys_under_load_harm_nobody(tunnel, tmp_path, who, distance):
    """Keys are exchanged again and again, while hundreds of channels open and close and bytes go both ways."""
    options, early = KEYS[who]
    script = SCRIPT
    if early:
        script = tmp_path / 'early.py'
        script.write_text(early)
    with Sshd(**options) as sshd, Relay(sshd.port, round_trip=distance) as relay, Target(echo) as target, Target(digest) as deep:
        one = tunnel(sshd, ('L', target), ('R', target), ('L', deep), port=relay.port, script=script)
        left, right, deeper = one.ports
        with Bystander(left, right) as bystander:
            before = len(relay.carried())
            for port in (left, right):
                assert short_connections(port, 400 if not distance else 150) == []
            data = bytes(range(256)) * 4096 * 4         # 4 MiB
            with connect(deeper) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                assert len(read_all(sock)) == 32
        assert bystander.wrong == [] and one.again() == 0 and len(relay.carried()) == before
        moved = sum(map(sum, relay.carried()))
        assert moved > 8 * MEBI                         # so there were keys to exchange
        one.end()


# --- Who stands still ---------------------------------------------------------------------------------------

@each_mode
def test_a_client_that_does_not_read_holds_up_nobody_and_costs_little(tunnel, sshd, mode):
    with Target(pour) as target, Target(echo) as other:
        one = tunnel(sshd, (mode, target), ('L', other))
        port, beside = one.ports
        memory = one.meter.memory()
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                sock = stack.enter_context(connect(port))
                sock.recv(1)
            with Bystander(beside) as bystander:
                assert short_connections(beside, 200) == []
        assert bystander.wrong == [] and one.again() == 0
        # 10 windows of 2 MiB each, if no client is read for.
        assert one.meter.memory('VmHWM') - memory < 48 * MEBI
        one.end()


def test_a_server_that_stands_still_under_load_loses_nothing(tunnel):
    with Sshd() as sshd, Target(echo) as target:
        one = tunnel(sshd, ('L', target), ('R', target))
        left, right = one.ports
        with Bystander(left, right) as bystander:
            for _ in range(3):
                bystander.moves()
                sshd.signal_connections(signal.SIGSTOP)
                let_pass(time.monotonic(), 1.5)
                sshd.signal_connections(signal.SIGCONT)
        assert bystander.wrong == [] and one.again() == 0
        one.end()


def test_an_idle_tunnel_does_not_wake_up(tunnel, sshd):
    with Target(echo) as target:
        one = tunnel(sshd, ('L', target), ('R', target), ('D', None), words=('-o', 'ServerAliveInterval=0'))
        assert short_connections(one.ports[0], 20) == [] and short_connections(one.ports[1], 20) == []
        let_pass(time.monotonic(), 6)           # threads at rest leave
        began = one.meter.wake_ups()
        let_pass(time.monotonic(), 6)
        assert one.meter.wake_ups() - began <= 4        # a look at the listeners and one at the link may fall into it
        one.end()
