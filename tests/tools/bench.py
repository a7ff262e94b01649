#!/usr/bin/env python3
"""Benchmarks, side by side with others, against one and the same sshd on loopback.

    python3 tests/tools/bench.py forwards     -L beside OpenSSH's client, sshtunnel, asyncssh and naive paramiko
    python3 tests/tools/bench.py login        from start to "address shown" beside ssh
    python3 tests/tools/bench.py latency      the same, and to "all done", with a distance to the server: 1, 60, 150, 300 ms
    python3 tests/tools/bench.py quick        a little of both beside ssh, as ratios: under two minutes

A benchmark, not a test: machines differ, so read the columns of one run against each other.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))
import environment as environment_of_tests

if __name__ == '__main__':
    environment_of_tests.ensure()

from embedded import free_port
from machine_sshd import Sshd, can_connect
from waiting import until

SCRIPT = TESTS.parent / 'scripts' / 'codex_login.py'
PATIENCE = 30
MEBI = 1 << 20


# --- What both halves share ---------------------------------------------------------------------------------

def table(columns, rows, first=''):
    """Print a Markdown table: `columns` are names, `rows` pairs of a name and its cells."""
    lines = [[first, *columns], *([name, *cells] for name, cells in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for number, line in enumerate(lines):
        print('| ' + ' | '.join(cell.ljust(width) for cell, width in zip(line, widths)) + ' |')
        if number == 0:
            print('|' + '|'.join('-' * (width + 2) for width in widths) + '|')


# --- Forwards -----------------------------------------------------------------------------------------------

# Every client is started with: ssh port, user, key, known_hosts, port here, port of the target.
SSHTUNNEL = '''
import sys, threading, sshtunnel
port, user, key, _, here, target = sys.argv[1:]
sshtunnel.SSHTunnelForwarder(('127.0.0.1', int(port)), ssh_username=user, ssh_pkey=key,
                             remote_bind_address=('127.0.0.1', int(target)),
                             local_bind_address=('127.0.0.1', int(here))).start()
threading.Event().wait()
'''
ASYNCSSH = '''
import asyncio, sys, asyncssh
port, user, key, known_hosts, here, target = sys.argv[1:]
async def main():
    async with asyncssh.connect('127.0.0.1', int(port), username=user, client_keys=[key],
                                known_hosts=known_hosts, config=None) as connection:
        await connection.forward_local_port('127.0.0.1', int(here), '127.0.0.1', int(target))
        await connection.wait_closed()
asyncio.run(main())
'''
# What the demonstration that comes with paramiko does, and many scripts after it: a kilobyte at a time, until
# either end has no more.
NAIVE = '''
import select, socketserver, sys, paramiko
port, user, key, known_hosts, here, target = sys.argv[1:]
client = paramiko.SSHClient()
client.load_host_keys(known_hosts)
client.connect('127.0.0.1', int(port), user, key_filename=key, allow_agent=False, look_for_keys=False)
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        channel = client.get_transport().open_channel('direct-tcpip', ('127.0.0.1', int(target)),
                                                      self.request.getpeername())
        other = {self.request: channel, channel: self.request}
        while True:
            for end in select.select(list(other), [], [])[0]:
                data = end.recv(1024)
                if not data:
                    channel.close()
                    return
                other[end].sendall(data)
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
Server(('127.0.0.1', int(here)), Handler).serve_forever()
'''
TARGET = '''
import socket, sys, threading
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=1024)
piece = memoryview(bytes(1 << 20))
def serve(sock):
    with sock, sock.makefile('rb') as stream:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        verb, _, count = stream.readline().strip().partition(b' ')
        count = int(count or 0)
        if verb == b'GET':
            while count:
                count -= sock.send(piece[:count])
        elif verb == b'PUT':
            while count:
                count -= len(stream.read1(min(count, 1 << 20)))
            sock.sendall(b'!')
        elif verb == b'COUNT':
            sock.sendall(b'%d' % len(stream.read()))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
'''
OPENSSH = ['ssh', '-F', 'none', '-N', '-p', '{port}', '-i', '{key}', '-o', 'UserKnownHostsFile={known_hosts}',
           '-o', 'BatchMode=yes', '-L', '{here}:127.0.0.1:{target}', '{user}@127.0.0.1']
PLACES = ['{port}', '{user}', '{key}', '{known_hosts}', '{here}', '{target}']


def forward_clients(also, only):
    """Name and command of each client, or of those in `only`; the command is None where the client is missing."""
    def python(name, program, *packages):
        found = (not only or name in only) and environment_of_tests.aside(f'bench/{name}', *packages)
        return found and [found, '-c', program, *PLACES]

    ssh = shutil.which('ssh')
    clients = {
        'ours': SCRIPT.exists() and [sys.executable, str(SCRIPT), *OPENSSH[1:]] or None,
        'OpenSSH': ssh and OPENSSH,
        'its aes128-gcm': ssh and [*OPENSSH[:-1], '-c', 'aes128-gcm@openssh.com', OPENSSH[-1]],
        'sshtunnel': python('sshtunnel', SSHTUNNEL, 'sshtunnel', 'paramiko<4'),
        'asyncssh': python('asyncssh', ASYNCSSH, 'asyncssh'),
        'paramiko': python('paramiko', NAIVE, 'paramiko'),
    }
    added = (entry.partition('=') for entry in also)
    clients = {**{name: command.split() for name, _, command in added}, **clients}
    return {name: command for name, command in clients.items() if not only or name in only}


class Client:
    """One forwarding client at work, in a process of its own, and everything that is measured on it."""

    def __init__(self, command, sshd, target, ready=None):
        self.port = free_port()
        places = {'port': sshd.port, 'user': sshd.user, 'key': sshd.key, 'known_hosts': sshd.known_hosts,
                  'here': self.port, 'target': target}
        # A program for -c has braces of its own.
        words = [word if '\n' in word else word.format(**places) for word in command]
        started = time.perf_counter()
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        try:
            until(self._has_a_byte if ready is None else lambda: ready(self), 'the client is ready')
        except AssertionError:
            self.close()
            raise
        self.first_byte = (time.perf_counter() - started) * 1000

    def close(self):
        self.process.kill()
        self.process.wait()

    def _has_a_byte(self):
        if self.process.poll() is not None:
            raise AssertionError('the client ended by itself')
        with contextlib.suppress(OSError), self._connect() as sock:
            sock.sendall(b'GET 1\n')
            return sock.recv(1)

    def _connect(self, patience=PATIENCE):
        sock = socket.create_connection(('127.0.0.1', self.port), patience)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def get(self, size, buffer=None, patience=PATIENCE):
        """Fetch so many bytes; seconds to the last of them, and to the end of file."""
        buffer, got = buffer or bytearray(MEBI), 0
        started = time.perf_counter()
        with self._connect(patience) as sock:
            sock.sendall(b'GET %d\n' % size)
            while got < size:
                count = sock.recv_into(buffer)
                if not count:
                    raise ConnectionError(f'{got} bytes instead of {size}')
                got += count
            whole = time.perf_counter() - started
            if sock.recv_into(buffer):
                raise ConnectionError('more than was asked for')
            return whole, time.perf_counter() - started

    def put(self, size):
        """Send so many bytes; seconds until the target has them."""
        started = time.perf_counter()
        with self._connect() as sock:
            sock.sendall(b'PUT %d\n' % size)
            piece = bytes(MEBI)
            for _ in range(size // MEBI):
                sock.sendall(piece)
            if sock.recv(1) != b'!':
                raise ConnectionError('the target did not get everything')
        return time.perf_counter() - started

    def rate(self, move, size):
        """MiB/s of moving so many bytes, and the client's CPU seconds for it."""
        before = self.cpu()
        taken = move(size)
        taken = taken[0] if isinstance(taken, tuple) else taken
        return size / MEBI / taken, self.cpu() - before

    def small_gets(self, count):
        """Milliseconds of each of many new connections with a small GET: to the last byte, to the end."""
        buffer = bytearray(4096)
        times = [self.get(1000, buffer) for _ in range(count)]
        return [whole * 1000 for whole, _ in times], [end * 1000 for _, end in times]

    def at_once(self, count):
        """How many of so many simultaneous GETs are right, and seconds for all."""
        right = []

        def one():
            with contextlib.suppress(OSError):
                self.get(1000, bytearray(4096), patience=5)
                right.append(True)

        threads = [threading.Thread(target=one) for _ in range(count)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(right), time.perf_counter() - started

    def half_close(self):
        """Whether an answer comes that the target gives only after the client's end of file."""
        with contextlib.suppress(OSError), self._connect() as sock:
            sock.sendall(b'COUNT\nhello')
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(10) == b'5'
        return False

    def refused(self):
        """Seconds until a client is let go whose target does not exist."""
        started = time.perf_counter()
        with contextlib.suppress(ConnectionError), self._connect() as sock:
            sock.recv(1)
        return time.perf_counter() - started

    # What /proc knows of the process

    def cpu(self):
        fields = Path(f'/proc/{self.process.pid}/stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def wake_ups(self):
        """How often each of its threads has waked up so far."""
        return {status.parent.name: int(line.split()[1])
                for status in Path(f'/proc/{self.process.pid}/task').glob('*/status')
                for line in status.read_text().splitlines() if line.startswith('voluntary_ctxt')}

    def resident(self):
        pages = int(Path(f'/proc/{self.process.pid}/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / MEBI

    def idle(self, seconds):
        """CPU seconds and wake-ups of doing nothing."""
        time.sleep(1)       # for what the last measurement left to be done
        cpu, wake_ups = self.cpu(), self.wake_ups()
        time.sleep(seconds)
        now = self.wake_ups()
        # A thread that has ended meanwhile, or begun, says nothing of idleness.
        return self.cpu() - cpu, sum(count - wake_ups.get(thread, count) for thread, count in now.items())


def measure_client(command, sshd, target, found, sizes, idle):
    """One round with one client, as name and figure into `found`."""
    def note(name, figure):
        found.setdefault(name, []).append(figure)

    with contextlib.closing(Client(command, sshd, target)) as client:
        note('first byte', client.first_byte)
        for size in sizes:
            note(f'down {size}', client.rate(client.get, size * MEBI))
            note(f'up {size}', client.rate(client.put, size * MEBI))
        whole, end = client.small_gets(200)
        note('get', whole)
        note('end', end)
        note('at once', client.at_once(200))
        note('half-close', client.half_close())
        note('memory', client.resident())
        if 'idle' not in found:
            note('idle', client.idle(idle))
    refusing = Client(command, sshd, free_port(), ready=lambda client: can_connect(client.port))
    with contextlib.closing(refusing) as client:
        client.refused()        # while it is still connecting, perhaps
        note('refused', client.refused() * 1000)


SIZES, IDLE = (64, 256), 10         # MiB, s
QUICK_SIZES, QUICK_IDLE = (64,), 5


def percentile(values, share):
    return sorted(values)[int(share * (len(values) - 1))]


def forward_rows(results, sizes, idle):
    """The table: for each figure its name and a cell for each client."""
    middle = statistics.median

    def rate(pairs):
        return f'{middle(rate for rate, _ in pairs):.0f} ({middle(cpu for _, cpu in pairs):.2f})'

    def times(rounds):
        slow = middle(percentile(times, 0.95) for times in rounds)
        return f'{middle(map(middle, rounds)):.2f} / {slow:.2f}'

    figures = [
        ('start to first byte, ms', 'first byte', lambda found: f'{middle(found):.0f}'),
        *((f'{way} {size} MiB, MiB/s (CPU s)', f'{way} {size}', rate)
          for size in sizes for way in ('down', 'up')),
        ('GET to its last byte, ms, p50 / p95', 'get', times),
        ('GET to its end of file, ms, p50 / p95', 'end', times),
        ('200 at once: right, s', 'at once', lambda found: f'{min(right for right, _ in found)}, '
                                                            f'{middle(taken for _, taken in found):.2f}'),
        ('half-close', 'half-close', lambda found: 'yes' if all(found) else 'no'),
        ('refused, ms', 'refused', lambda found: f'{middle(found):.1f}'),
        (f'{idle} s idle: wake-ups, CPU s', 'idle', lambda found: f'{found[0][1]}, {found[0][0]:.2f}'),
        ('memory, MiB', 'memory', lambda found: f'{middle(found):.0f}'),
    ]
    return [(title, [show(found[name]) if found.get(name) else '-' for found in results.values()])
            for title, name, show in figures]


def forward_ratios(ours, theirs, sizes):
    """Rows of a table: for each figure one client's share of the other's, and which of the two is better at it."""
    middle = statistics.median

    def of(name, figure=lambda values: values, best=min):
        mine, other = figure(ours[name]), figure(theirs[name])
        ratio = mine / other if other else float('inf') if mine else 1.0
        return f'{ratio:.2f}', 'lower is better' if best is min else 'higher is better'
    rates, cpus = (lambda pairs: middle(rate for rate, _ in pairs)), (lambda pairs: middle(cpu for _, cpu in pairs))
    return [
        ('start to first byte', of('first byte', middle)),
        *((f'{way} {size} MiB: rate', of(f'{way} {size}', rates, max)) for size in sizes for way in ('down', 'up')),
        *((f'{way} {size} MiB: CPU', of(f'{way} {size}', cpus)) for size in sizes for way in ('down', 'up')),
        ('GET to its end of file, median', of('end', lambda rounds: middle(map(middle, rounds)))),
        ('200 at once: right', of('at once', lambda found: min(right for right, _ in found), max)),
        ('200 at once: time', of('at once', lambda found: middle(taken for _, taken in found))),
        ('memory', of('memory', middle)),
        ('wake-ups while idle', of('idle', lambda found: found[0][1])),
    ]


def compare_forwards(rounds, only=(), also=(), sizes=SIZES, idle=IDLE):
    """Measure each client a few times, in turns; all of them, and what was found of each."""
    clients = forward_clients(also, only)
    results, target = {name: {} for name in clients}, free_port()
    server = subprocess.Popen([sys.executable, '-c', TARGET, str(target)])
    try:
        until(lambda: can_connect(target), 'the target listens')
        with Sshd() as sshd:
            for number in range(rounds):
                for name, command in clients.items():
                    if command:
                        print(f'round {number + 1} of {rounds}: {name}', file=sys.stderr)
                        try:
                            measure_client(command, sshd, target, results[name], sizes, idle)
                        except (OSError, AssertionError) as error:
                            print(f'    {error}', file=sys.stderr)
    finally:
        server.kill()
        server.wait()
    return clients, results


def show_ratios(results, sizes):
    """Print the ratios of this script to OpenSSH, where both were measured."""
    if results.get('ours', {}).get('idle') and results.get('OpenSSH', {}).get('idle'):
        table(['ratio', ''], forward_ratios(results['ours'], results['OpenSSH'], sizes), 'ours to OpenSSH')


def bench_forwards(options):
    """Measure each client a few times, in turns, and print the table."""
    clients, results = compare_forwards(options.rounds, options.only or (), options.also)
    table(clients, forward_rows(results, SIZES, IDLE))
    print()
    show_ratios(results, SIZES)
    for name, command in clients.items():
        if not command:
            print(f'{name}: missing here')
        elif not results[name]:
            print(f'{name}: did not work')


def bench_quick(options):
    """A little of both halves, beside ssh."""
    _, results = compare_forwards(2, ('ours', 'OpenSSH'), sizes=QUICK_SIZES, idle=QUICK_IDLE)
    show_ratios(results, QUICK_SIZES)
    print()
    import lab
    missing = lab.missing_parts()
    if missing:
        print(f'login: this needs {missing[0][0]}: {missing[0][1]}')
    else:
        options.rounds = 3
        bench_login(options)


# --- Login --------------------------------------------------------------------------------------------------

# Runs the script with its stages timed, up to the moment when the address is shown; says milliseconds per stage.
STAGES = '''
import json, os, sys, time
began = float(sys.argv[1])
sys.path.insert(0, os.path.dirname(sys.argv[2]))
import codex_login as script
spent = {'Python and the script': time.time() - began}

def timed(stage, *names):
    # The first of these names that the script has; a stage whose names it has not is part of the rest.
    for owner, _, name in (dotted.rpartition('.') for dotted in names):
        owner = getattr(script, owner, None) if owner else script
        function = getattr(owner, name, None)
        if function:
            break
    else:
        return
    def run(*args, **kwargs):
        at = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] = spent.get(stage, 0) + time.time() - at
    setattr(owner, name, run)

timed('paramiko, under the TCP connection', 'load_paramiko')
timed('TCP connection, what is left of it', 'Dialling.socket')
timed('key exchange', 'Hop._shake_hands', 'shake_hands')
timed('authentication', 'Credentials.use', 'Authentication.run')
timed('launcher', 'RemoteLogin.start', 'Program.start')

class Report(script.JsonReport):
    def tell(self, event, **fields):
        super().tell(event, **fields)
        if event == 'sign-in':
            spent['altogether'] = time.time() - began
            spent['codex, listener, the rest'] = 2 * spent['altogether'] - sum(spent.values())
            print(json.dumps(spent), file=sys.stderr)
            raise KeyboardInterrupt
script.JsonReport = Report
script.main(sys.argv[3:])
'''


def bench_login(options):
    """From the start to "address shown": this script and ssh by turns, and where the script's time goes."""
    import lab
    for part, how in lab.missing_parts():
        sys.exit(f'This needs {part}: {how}')
    ours, theirs, stages = [], [], []
    with lab.Lab() as place:
        key, known = place.user_key(), place.trust_server()
        arguments = ['--json', '--browser', 'none', '-F', 'none', '-i', key, '-o', f'UserKnownHostsFile={known}',
                     f'{place.user}@{place.host}']
        for _ in range(options.rounds + 1):
            ours.append(_time_to_address(place, [sys.executable, SCRIPT, *arguments], '"sign-in"', signal.SIGINT))
            # ssh leaves codex running, as people who use it know; so it is ended here.
            theirs.append(_time_to_address(place, place.ssh(place.host, 'BROWSER=true codex login', key=key), 'https://',
                                           signal.SIGKILL))
            place.end_at_server('codex')
            staged = place.phone_run([sys.executable, '-c', STAGES, str(time.time()), SCRIPT, *arguments])
            stages.append(json.loads(next(line for line in staged.stderr.splitlines() if line.startswith('{'))))
    ours, theirs, stages = ours[1:], theirs[1:], stages[1:]        # the first round warms caches
    ratio = statistics.median(one / other for one, other in zip(ours, theirs))
    table(['ms'], [('codex_login.py: address shown', [f'{1000 * statistics.median(ours):.0f}']),
                   ('ssh host codex login', [f'{1000 * statistics.median(theirs):.0f}']),
                   ('ratio, median of pairs', [f'{ratio:.2f}'])], f'{options.rounds} rounds')
    print()
    table(['ms'], [(stage, [f'{1000 * statistics.median(found.get(stage, 0) for found in stages):.0f}'])
                   for stage in stages[0]], 'of which')


def _time_to_address(place, command, sign, ending):
    started = time.perf_counter()
    process = place.phone_popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if sign in line:
            break
    else:
        sys.exit('The login showed no address.')
    taken = time.perf_counter() - started
    process.send_signal(ending)
    process.wait(PATIENCE)
    process.stdout.close()
    return taken


# --- Latency ------------------------------------------------------------------------------------------------

DISTANCES = (1, 60, 150, 300)       # ms


def bench_latency(options):
    """A login through a relay with a round trip: this script and ssh by turns, to the address and until all is done."""
    import sshd
    from harness import Browser, Home, Script
    from oracle import Oracle
    from relay import Relay
    rows = []
    with tempfile.TemporaryDirectory() as folder, sshd.Sshd() as server, Relay(server) as relay:
        server.install('codex')
        home = Home(Path(folder) / 'home')
        home.known_hosts.write_text(server.known_hosts().replace(f':{server.port} ', f':{relay.port} '))
        home.make_key(server)
        words = ['-p', str(relay.port), f'{server.user}@127.0.0.1']
        port = server.announced_port
        # Without a terminal nobody ends codex there: it ends by itself once somebody has signed in.
        ssh = Oracle(server, home).ssh_command('-L', f'{port}:127.0.0.1:{port}', *words, 'codex login 2>&1')

        def with_script(note):
            with Script(home, *words, '--again', python=options.python, plain=True) as script:
                browser = Browser(script.wait_for('sign-in')['url'])
                note('address')
                page = browser.in_background(browser.sign_in)
                script.wait_for('signed-in')
                note('said')
                page(), script.wait()

        def with_ssh(note):
            with subprocess.Popen(ssh, env=home.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True) as process:
                url = next(line.strip() for line in process.stdout if line.startswith('https://'))
                note('address')
                Browser(url).sign_in()
                process.wait(PATIENCE)

        for distance in options.distance or DISTANCES:
            relay.far(distance / 1000)
            found = {}
            for _ in range(options.rounds + 1):
                for login in (with_script, with_ssh):
                    began, times = time.perf_counter(), found.setdefault(login, {})

                    def note(what, began=began, times=times):
                        times.setdefault(what, []).append(time.perf_counter() - began)
                    login(note)
                    note('done')
            # The first round warms caches.
            ours, theirs = ({what: taken[1:] for what, taken in found[login].items()} for login in (with_script, with_ssh))
            for title, what, other in (('address', 'address', 'address'), ('"signed in" said', 'said', 'done'), ('all done', 'done', 'done')):
                ratio = statistics.median(one / two for one, two in zip(ours[what], theirs[other]))
                rows.append((f'{distance} ms: start to {title}', [f'{statistics.median(ours[what]):.2f}',
                                                                  f'{statistics.median(theirs[other]):.2f}', f'{ratio:.2f}']))
    table(['ours, s', 'ssh, s', 'ratio, median of pairs'], rows, f'{options.rounds} rounds')


def main():
    """Run the half that is asked for."""
    parser = argparse.ArgumentParser(description='Benchmarks, side by side with others on this machine.')
    halves = parser.add_subparsers(dest='half', required=True)
    forwards = halves.add_parser('forwards', help='-L beside other clients')
    forwards.add_argument('--rounds', type=int, default=5, help='the table shows their medians (default 5)')
    forwards.add_argument('--only', action='append', metavar='NAME', help='leave out the others')
    forwards.add_argument('--also', action='append', default=[], metavar='NAME=COMMAND',
                          help='one more client; its command says ' + ' '.join(PLACES))
    forwards.set_defaults(run=bench_forwards)
    login = halves.add_parser('login', help='from the start to "address shown", beside ssh')
    login.add_argument('--rounds', type=int, default=11, help='the table shows their medians (default 11)')
    login.set_defaults(run=bench_login)
    latency = halves.add_parser('latency', help='the same and to its end, far from the server')
    latency.add_argument('--rounds', type=int, default=7, help='the table shows their medians (default 7)')
    latency.add_argument('--distance', type=int, action='append', metavar='MS', help='a round trip, in place of 1, 60, 150, 300')
    latency.add_argument('--python', default=sys.executable, help="another Python for the script: a stand-in's, say")
    latency.set_defaults(run=bench_latency)
    halves.add_parser('quick', help='a little of both beside ssh, as ratios').set_defaults(run=bench_quick)
    options = parser.parse_args()
    options.run(options)


if __name__ == '__main__':
    main()
