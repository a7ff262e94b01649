"""The tunnels as a person has them: the whole script with -L, -R, -D, -N and -J against an embedded server."""

import contextlib
import socket
import socketserver
import threading

import pytest
from embedded import EmbeddedServer, free_port
from harness import PATIENCE, Browser
from relay import Relay
from waiting import until


class Echo(socketserver.ThreadingTCPServer):
    """Says back what it hears, until the other side ends."""
    daemon_threads = allow_reuse_address = True
    request_queue_size = 128

    class RequestHandlerClass(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(65536):
                self.request.sendall(data)

    def __init__(self):
        super().__init__(('127.0.0.1', 0), self.RequestHandlerClass)


@pytest.fixture
def echo():
    """The port of an echo server, near both ends: they share this machine."""
    with Echo() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def far(server):
    """A network between this device and the server, which can become slow or silent."""
    with Relay(server) as relay:
        yield relay


def say(port, words=b'hello', limit=PATIENCE):
    """What comes back through a port of this device."""
    with socket.create_connection(('127.0.0.1', port), limit) as sock:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        answer = b''
        while piece := sock.recv(65536):
            answer += piece
        return answer


@contextlib.contextmanager
def held_port():
    """A port that another program has, on both loopbacks."""
    port = free_port()
    with socket.create_server(('127.0.0.1', port)), socket.create_server(('::1', port), family=socket.AF_INET6):
        yield port


def ended(script, status):
    """The last event but one, of a script that ends with `status`."""
    assert script.wait() == status
    assert script.events[-1] == {'event': 'done', 'status': status}
    return script.events[-2]


@pytest.mark.quick
def test_a_port_here_leads_to_the_servers_side_until_ctrl_c(run, echo):
    port = free_port()
    script = run('-N', '-L', f'{port}:127.0.0.1:{echo}')
    assert script.wait_for('listening', mode='L')['port'] == port
    assert say(port) == b'hello'
    with socket.create_connection(('127.0.0.1', port)) as still_open:
        still_open.sendall(b'x')
        assert still_open.recv(1) == b'x'
        script.interrupt()
        assert ended(script, 130)['kind'] == 'cancelled'
    with pytest.raises(OSError):
        say(port)


@pytest.mark.quick
def test_port_0_is_any_free_one_and_is_told(run, echo):
    script = run('-N', '-L', f'0:127.0.0.1:{echo}')
    assert say(script.wait_for('listening', mode='L')['port']) == b'hello'
    script.interrupt()
    ended(script, 130)


@pytest.mark.quick
def test_a_port_at_the_server_leads_here_and_is_told_as_ssh_does(run, echo):
    script = run('-N', '-R', f'0:127.0.0.1:{echo}', json_events=False, terminal=True)
    port = int(script.wait_for_text(r'Allocated port (\d+) for remote forward to 127\.0\.0\.1')[1])
    assert say(port) == b'hello'
    script.interrupt()
    assert script.wait() == 130


@pytest.mark.quick
def test_a_socks_proxy_goes_out_at_the_server(run, echo):
    script = run('-N', '-D', '0')
    port = script.wait_for('listening', mode='D')['port']
    with socket.create_connection(('127.0.0.1', port), timeout=PATIENCE) as sock:
        sock.sendall(b'\x05\x01\x00' + b'\x05\x01\x00\x03\x09localhost' + echo.to_bytes(2, 'big'))
        reply = b''
        while len(reply) < 12:
            reply += sock.recv(12 - len(reply))
        assert reply[:4] == b'\x05\x00\x05\x00'
        sock.sendall(b'through')
        assert sock.recv(7) == b'through'
    script.interrupt()
    ended(script, 130)


@pytest.mark.parametrize('permitted, allowed', [('none', False), ('127.0.0.1:{echo}', True), ('*:{echo}', True), ('127.0.0.1:*', True),
                                                ('localhost:{echo} [::1]:{echo}', False), ('any', True)])
def test_a_client_of_the_server_goes_only_where_permitremoteopen_says(run, echo, permitted, allowed):
    port = free_port()
    script = run('-N', '-R', str(port), '-o', 'PermitRemoteOpen=' + permitted.format(echo=echo))
    script.wait_for('listening', mode='R')
    with socket.create_connection(('127.0.0.1', port), timeout=PATIENCE) as sock, sock.makefile('rb') as stream:
        sock.sendall(b'\x05\x01\x00' + b'\x05\x01\x00\x03\x09127.0.0.1' + echo.to_bytes(2, 'big'))
        assert stream.read(2) == b'\x05\x00'
        assert stream.read(10)[1] == (0 if allowed else 2)      # 2: not allowed by ruleset (RFC 1928)
    assert allowed or until(lambda: 'PermitRemoteOpen does not allow it' in script.stderr)
    script.interrupt()
    ended(script, 130)


SOCKETS = 'RemoteForward /run/user/1000/gnupg/S.gpg-agent /home/ana/.gnupg/S.gpg-agent.extra'


def test_a_forward_that_cannot_be_had_is_named_and_the_others_are_opened(run, home, server, echo):
    port = free_port()
    home.config.write_text(f'Host box\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n {SOCKETS}\n'
                           f' LocalForward {port} 127.0.0.1:{echo}\n')
    script = run('-N', to='box')
    script.wait_for('listening', mode='L')
    assert say(port) == b'hello'
    assert 'Passed over: ' in script.stderr and 'config, line 5' in script.stderr and 'Unix sockets' in script.stderr
    script.interrupt()
    ended(script, 130)


def test_a_forward_that_cannot_be_had_ends_what_was_to_have_them_all(run, home, server):
    home.config.write_text(f'Host box\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n {SOCKETS}\n'
                           ' ExitOnForwardFailure yes\n')
    error = ended(run('-N', to='box'), 255)
    assert error['kind'] == 'listen' and 'line 5' in error['message']


def test_forwards_of_the_configuration_are_no_matter_of_a_sign_in(run, home, server):
    home.config.write_text(f'Host box\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n {SOCKETS}\n LocalForward x y\n'
                           ' ExitOnForwardFailure yes\n')
    script = run(to='box', command=('true',))
    assert script.wait() == 0 and 'orward' not in script.stderr


@pytest.mark.quick
def test_a_busy_port_is_named_and_the_other_tunnels_go_on(run, echo):
    with held_port() as busy:
        script = run('-N', '-L', f'{busy}:127.0.0.1:{echo}', '-L', f'0:127.0.0.1:{echo}')
        assert say(script.wait_for('listening', mode='L')['port']) == b'hello'
        assert f'port {busy}' in script.stderr and 'another program' in script.stderr
        script.interrupt()
        ended(script, 130)


@pytest.mark.quick
def test_exit_on_forward_failure_ends_at_once(run, echo):
    with held_port() as busy:
        script = run('-N', '-o', 'ExitOnForwardFailure=yes', '-L', f'{busy}:127.0.0.1:{echo}')
        error = ended(script, 255)
    assert error['kind'] == 'listen' and str(busy) in error['message'] and error['hint']


def test_a_server_that_forwards_no_port_back_says_so(run, server, echo):
    server.forwarding = 'prohibited'
    error = ended(run('-N', '-o', 'ExitOnForwardFailure=yes', '-R', f'0:127.0.0.1:{echo}'), 255)
    assert error['kind'] == 'listen' and 'server' in error['message'] and 'AllowTcpForwarding' in error['hint']


@pytest.mark.parametrize('options, words', [
    (['-L', '/tmp/sock:host:1'], 'Unix sockets'), (['-L', '80'], 'fields'), (['-D', 'x'], 'port'),
    (['-L', '1:host:99999'], 'port'), (['-L', '::1:80:host:80'], 'brackets')])
def test_a_spec_that_ssh_would_not_take_is_a_usage_error(run, options, words):
    error = ended(run('-N', *options), 2)
    assert error['kind'] == 'usage' and words in error['message'] + error['hint']


def test_forwards_only_and_a_command_exclude_each_other(run):
    assert 'no command' in ended(run('-N', command=('uname',)), 2)['message']


def test_the_configurations_tunnels_are_opened_too_unless_cleared(run, home, server, echo):
    one, two = free_port(), free_port()
    home.config.write_text(f'Host box\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n'
                           f' LocalForward {one} 127.0.0.1:{echo}\n DynamicForward {two}\n DynamicForward 127.0.0.1:0\n')
    script = run('-N', to='box')
    told = [script.wait_for('listening') for _ in range(4)]
    assert ('L', one) in [(event['mode'], event['port']) for event in told]
    assert ('D', two) in [(event['mode'], event['port']) for event in told]
    assert say(one) == b'hello'
    script.interrupt()
    ended(script, 130)
    three = free_port()
    cleared = run('-N', '-o', 'ClearAllForwardings=yes', '-L', f'{three}:127.0.0.1:{echo}', to='box', json_events=False)
    until(lambda: 'No tunnel is open' in cleared.stderr, cleared.report())
    for port in (one, three):       # those of the command line as well, as with ssh
        with pytest.raises(OSError):
            say(port)
    cleared.interrupt()
    assert cleared.wait() == 130


@pytest.mark.quick
def test_a_tunnel_heals_when_its_connection_is_cut(run, server, echo):
    back = free_port()
    script = run('-N', '-L', f'0:127.0.0.1:{echo}', '-R', f'{back}:127.0.0.1:{echo}')
    port = script.wait_for('listening', mode='L')['port']
    script.wait_for('listening', mode='R')
    for _ in range(3):
        server.cut()
        assert say(port) == b'hello'            # a new client waits for the new connection
        script.wait_for('reconnected')
        script.wait_for('listening', mode='R')
        assert say(back) == b'hello'
    script.interrupt()
    ended(script, 130)


def test_two_missed_answers_are_a_dead_connection(run, server, echo, far):
    script = run('-N', '-o', 'ServerAliveInterval=1', '-o', 'ServerAliveCountMax=2', '-o', 'ConnectTimeout=2',
                 '-o', 'StrictHostKeyChecking=accept-new', '-L', f'0:127.0.0.1:{echo}', to=f'{server.user}@127.0.0.1:{far.port}')
    port = script.wait_for('listening', mode='L')['port']
    far.cut('silence')
    script.wait_for('reconnected')
    assert say(port) == b'hello'
    script.interrupt()
    ended(script, 130)


def test_a_slow_network_keeps_its_good_connection_after_a_freeze(run, server, echo, far):
    script = run('-N', '-o', 'ServerAliveInterval=1', '-o', 'StrictHostKeyChecking=accept-new', '-L', f'0:127.0.0.1:{echo}',
                 to=f'{server.user}@127.0.0.1:{far.port}')
    port = script.wait_for('listening', mode='L')['port']
    with socket.create_connection(('127.0.0.1', port), timeout=PATIENCE) as held:
        held.sendall(b'before')
        assert held.recv(6) == b'before'
        far.far(2.0)
        script.stop()
        script.resume(after=4.5)         # longer than a look and a freeze
        script.wait_for('suspended')
        held.sendall(b'after')
        assert held.recv(5) == b'after'
    script.interrupt()
    ended(script, 130)
    assert 'reconnected' not in [event['event'] for event in script.events]


@pytest.mark.slow
def test_a_tunnel_that_slept_for_half_a_minute_works_at_once(run, server, echo):
    script = run('-N', '-L', f'0:127.0.0.1:{echo}')
    port = script.wait_for('listening', mode='L')['port']
    script.stop()
    server.cut()
    script.resume(after=30)
    assert say(port) == b'hello'
    script.wait_for('reconnected')
    script.interrupt()
    ended(script, 130)


def test_a_host_key_that_changes_while_a_tunnel_lives_ends_it(run, server, home, echo):
    script = run('-N', '-L', f'0:127.0.0.1:{echo}')
    script.wait_for('listening', mode='L')
    server.stop_listening()
    server.cut()
    with EmbeddedServer(seed=2, port=server.port) as other:
        other.authorize((home.ssh / 'id_ed25519.pub').read_text())
        error = ended(script, 255)
    assert error['kind'] == 'host-key' and 'CHANGED' in error['message']


@pytest.mark.quick
def test_forwards_accompany_a_login(run, server, echo):
    script = run('-L', f'0:127.0.0.1:{echo}')
    port = script.wait_for('listening', mode='L')['port']
    address = script.wait_for('sign-in')['url']
    assert say(port) == b'hello'
    assert 'Signed in to Codex' in Browser(address).sign_in().text
    assert script.wait() == 0
    with pytest.raises(OSError):
        say(port)


def test_the_old_cure_on_the_command_line_does_not_get_in_the_way(run, server, codexs_port):
    server.environment['STAND_IN_PORT'] = '1455'
    script = run('-L', '1455:localhost:1455')
    assert 'Signed in to Codex' in Browser(script.wait_for('sign-in')['url']).sign_in().text
    assert script.wait() == 0


@pytest.fixture
def bastion(home):
    """A second server, to jump through."""
    with EmbeddedServer(seed=3) as bastion:
        home.trust(bastion)
        bastion.authorize((home.ssh / 'id_ed25519.pub').read_text())
        yield bastion


@pytest.mark.quick
def test_a_login_goes_through_a_jump_host(run, home, server, bastion):
    home.config.write_text(f'Host bastion\n HostName 127.0.0.1\n Port {bastion.port}\n User {bastion.user}\n')
    script = run('-J', 'bastion')
    assert 'Signed in to Codex' in Browser(script.wait_for('sign-in')['url']).sign_in().text
    assert script.wait() == 0 and bastion.connections


def test_a_tunnel_heals_through_its_jump_host(run, home, server, bastion, echo):
    home.config.write_text(f'Host bastion\n HostName 127.0.0.1\n Port {bastion.port}\n User {bastion.user}\n'
                           f'Host inner\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n ProxyJump bastion\n')
    script = run('-N', '-L', f'0:127.0.0.1:{echo}', to='inner')
    port = script.wait_for('listening', mode='L')['port']
    assert say(port) == b'hello'
    bastion.cut()
    assert say(port) == b'hello'
    script.interrupt()
    ended(script, 130)


def test_an_unknown_jump_host_is_refused_by_its_own_name(run, home, server, bastion):
    home.known_hosts.write_text(server.known_hosts())
    error = ended(run('-J', f'{bastion.user}@127.0.0.1:{bastion.port}'), 255)
    assert error['kind'] == 'host-key' and str(bastion.port) in error['message']


def test_a_jump_host_that_does_not_reach_the_server_is_told_from_it(run, home, server, bastion):
    bastion.forwarding = 'failing'
    error = ended(run('-J', f'{bastion.user}@127.0.0.1:{bastion.port}'), 255)
    assert error['kind'] == 'connect' and 'jump host' in error['message'] and error['hint']


@pytest.mark.parametrize('command', [
    'ssh bastion -W %h:%p', 'ssh -q -W [%h]:%p {user}@127.0.0.1 -p {port} 2>/dev/null', 'exec /usr/bin/ssh -A -F {config} -qW %h:%p bastion',
    'ssh bastion nc -w 5 %h %p', 'ssh -o ProxyUseFdpass=yes -o ControlMaster=auto bastion -W %h:%p'])
def test_a_proxycommand_that_is_a_jump_is_followed_as_one(run, home, server, bastion, command):
    command = command.format(user=bastion.user, port=bastion.port, config=home.config)
    home.config.write_text(f'Host bastion\n HostName 127.0.0.1\n Port {bastion.port}\n User {bastion.user}\n'
                           f'Host inner\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n ProxyCommand {command}\n')
    assert run(to='inner', command=('true',)).wait() == 0 and bastion.connections


@pytest.mark.parametrize('words, named', [
    ('-o ProxyFdpass=yes', "'ProxyFdpass=yes' is not an option"), ('-o ProxyUseFdpass', 'no value'), ('-Z', '-Z')])
def test_a_proxycommand_whose_ssh_is_not_understood_says_where_it_stands(run, home, words, named):
    home.config.write_text(f'Host inner\n HostName 127.0.0.1\n ProxyCommand ssh {words} gate -W %h:%p\n')
    message = ended(run(to='inner'), 255)['message']
    assert 'config, line 3: ProxyCommand' in message and named in message


def test_jump_hosts_that_lead_in_a_circle_are_named(run, home):
    home.config.write_text('Host a\n ProxyJump b\nHost b\n ProxyJump a\n')
    assert 'circle' in ended(run(to='a'), 255)['message']


@pytest.mark.quick
def test_q_and_return_ends_a_tunnel(run, echo):
    script = run('-N', '-L', f'0:127.0.0.1:{echo}', json_events=False, terminal=True)
    script.wait_for_text('is open')
    script.answer('Tunnels are open', 'q')
    assert script.wait() == 0
