"""An SSH server inside the test's own process: real sessions, real forwards, a network that fails at will.

    with EmbeddedServer(password='open sesame') as server:
        …connect to 127.0.0.1, server.port, as server.user…
        server.cut()                       # every connection reset, the commands live on, as with sshd
        assert server.leftovers() == []    # processes and temporary files of its commands

Two layers. The *front* owns the TCP sockets and carries bytes to and from paramiko; there a test freezes,
cuts or refuses connections. Behind it paramiko speaks SSH, and every `exec` request becomes a real process in
a private home, wired as OpenSSH's sshd wires one: all three streams with end of file, the exit status, no
terminal, and no signal when the connection is lost.

The server's 127.0.0.1 is the phone's 127.0.0.1 too, so both cannot hold port 1455. The stand-in CLI therefore
listens on a port of the system's choice and notes `HOST ANNOUNCED REAL` in the file that $STAND_IN_MAP names;
a forward to an announced port is led to the real one.

As a program it serves until its standard input ends: `python3 tests/embedded.py --help`.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import ipaddress
import json
import logging
import os
import random
import pathlib
import secrets
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

STAND_IN = pathlib.Path(__file__).resolve().with_name('stand_in_codex.py')
SYSTEM_PATH = '/usr/local/bin:/usr/bin:/bin'
CHUNK = 32 * 1024
MARK = 'STAND_IN_MARK'

log = logging.getLogger('embedded')
log.addHandler(logging.NullHandler())


# --- Keys ---------------------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=None)
def host_key(kind, seed=1):
    """The server's key of a kind (ed25519, ecdsa, rsa). Another seed gives another key: a changed host."""
    if kind == 'ed25519':
        secret = hashlib.sha256(b'host key %d' % seed).digest()
        pem = ed25519.Ed25519PrivateKey.from_private_bytes(secret).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        return paramiko.Ed25519Key.from_private_key(io.StringIO(pem.decode()))
    if kind == 'ecdsa':
        private = ec.derive_private_key(0x5EED << 128 | seed, ec.SECP256R1())
        return paramiko.ECDSAKey(vals=(private, private.public_key()))
    if kind == 'rsa':
        return paramiko.RSAKey(key=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    raise ValueError(f'no host key of kind {kind!r}')


def fingerprint(key):
    """A key's fingerprint as OpenSSH writes it."""
    return 'SHA256:' + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip('=')


# --- Ports and processes ------------------------------------------------------------------------------------

def free_port(wanted=0):
    """A port that is free on 127.0.0.1 and, where the machine has it, on ::1; the wanted one if it can be."""
    # Below what systems hand out by themselves: a port from there may be taken again before it is listened on.
    for candidate in [wanted] * bool(wanted) + random.sample(range(10000, 32000), 100):
        try:
            with socket.create_server(('127.0.0.1', candidate)) as first:
                port = first.getsockname()[1]
                with socket.create_server(('::1', port), family=socket.AF_INET6):
                    return port
        except OSError as error:
            # Without IPv6 the other address itself is missing, and only 127.0.0.1 counts.
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return port
    raise OSError('no port is free on both loopback addresses')


def marked_processes(mark):
    """Process id and command line of every live process that inherited this mark in its environment."""
    if os.path.isdir('/proc/self'):
        return _marked_by_proc(f'{MARK}={mark}'.encode())
    return _marked_by_ps(f'{MARK}={mark}')


def _marked_by_proc(wanted):
    found = {}
    for entry in filter(str.isdigit, os.listdir('/proc')):
        try:
            if wanted not in pathlib.Path('/proc', entry, 'environ').read_bytes().split(b'\0'):
                continue
            command = pathlib.Path('/proc', entry, 'cmdline').read_bytes()
        except OSError:
            continue
        found[int(entry)] = command.replace(b'\0', b' ').decode(errors='replace').strip()
    return found


def _marked_by_ps(wanted):
    listing = subprocess.check_output(['ps', '-axEww', '-o', 'pid=,command='], text=True)
    lines = (line.split(None, 1) for line in listing.splitlines() if wanted in line)
    return {int(pid): command.partition(wanted)[0].strip() for pid, command in lines}


def end_marked_processes(mark):
    """End every process that carries the mark, and nothing else."""
    for pid in marked_processes(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def eventually(question, patience=5.0):
    """Ask until the answer is empty or patience is over; the last answer."""
    deadline = time.monotonic() + patience
    while (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


def _start(target, *args):
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


# --- The front: TCP, and its bad days -----------------------------------------------------------------------

class _Front:
    """Accepts TCP connections and carries their bytes to `welcome(socket, peer, own address)` and back."""

    def __init__(self, address, port, welcome):
        self.address, self.port = address, port
        self.impostor = None
        self.accepted = 0
        self._welcome = welcome
        self._budget = None
        self._wires = set()
        self._listener = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._loop = asyncio.new_event_loop()
        self._thread = _start(self._loop.run_forever)

    def listen(self):
        self._do(self._listen)

    def stop_listening(self):
        self._do(self._stop_listening)

    def freeze(self, frozen):
        async def change():
            self._flowing.clear() if frozen else self._flowing.set()
        self._do(change)

    def cut(self):
        self._do(self._cut)

    def drop_after(self, count):
        async def change():
            self._budget = count
        self._do(change)

    def close(self):
        self._do(self._stop_listening)
        self._do(self._cut)
        self._do(self._finish)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, coroutine):
        asyncio.run_coroutine_threadsafe(coroutine(), self._loop).result(10)

    async def _listen(self):
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self.address, self.port, backlog=1024)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self):
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self):
        # A linger time of zero makes the close a reset, as a dead peer's kernel would send it.
        for writer in list(self._wires):
            with contextlib.suppress(OSError):      # it is closed already
                writer.get_extra_info('socket').setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            writer.transport.abort()

    async def _finish(self):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader, writer):
        self.accepted += 1
        outer = writer.get_extra_info('socket')
        outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.impostor is not None:
            writer.write(self.impostor)
            writer.close()
            return
        self._wires.add(writer)
        near, far = socket.socketpair()
        _start(self._welcome, far, outer.getpeername(), outer.getsockname())
        inner_reader, inner_writer = await asyncio.open_connection(sock=near)
        try:
            await asyncio.gather(self._carry(reader, inner_writer), self._carry(inner_reader, writer))
        finally:
            self._wires.discard(writer)
            inner_writer.close()
            writer.close()

    async def _carry(self, reader, writer):
        try:
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if self._budget is not None:
                    data = data[:self._budget]
                    self._budget -= len(data)
                writer.write(data)
                await writer.drain()
                if self._budget == 0:
                    self._budget = None
                    await self._cut()
        except OSError:
            pass
        # The other side learns of the end; what is frozen learns of nothing.
        await self._flowing.wait()
        if writer.can_write_eof() and not writer.is_closing():
            try:
                writer.write_eof()
            except OSError:
                pass


# --- Streams ------------------------------------------------------------------------------------------------

GONE = (OSError, EOFError)
"""What a channel raises when its connection is gone."""


def _join_streams(channel, sock):
    """Carry both directions between a channel and a socket; each ends by itself, both close after both."""
    def outward():
        with contextlib.suppress(*GONE):
            while data := channel.recv(CHUNK):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

    def inward():
        with contextlib.suppress(*GONE):
            while data := sock.recv(CHUNK):
                channel.sendall(data)
            channel.shutdown_write()

    directions = [_start(outward), _start(inward)]
    for direction in directions:
        direction.join()
    sock.close()
    with contextlib.suppress(*GONE):
        channel.close()


def _run_process(channel, process):
    """Wire a process to its channel as sshd does, until both are done with each other."""
    def feed():
        with contextlib.suppress(*GONE), process.stdin as pipe:
            while data := channel.recv(CHUNK):
                pipe.write(data)
                pipe.flush()

    def drain(pipe, send):
        # A lost connection closes the pipe: the process gets SIGPIPE if it writes on, nothing else ends it.
        with contextlib.suppress(*GONE), pipe:
            while data := os.read(pipe.fileno(), CHUNK):
                send(data)

    def end_output():
        for thread in outputs:
            thread.join()
        with contextlib.suppress(*GONE):
            channel.shutdown_write()

    _start(feed)
    outputs = [_start(drain, process.stdout, channel.sendall),
               _start(drain, process.stderr, channel.sendall_stderr)]
    ending = _start(end_output)
    status = process.wait()
    with contextlib.suppress(*GONE):
        # A command ended by a signal has no status; sshd's exit-signal is nothing else to paramiko's clients.
        if status >= 0:
            channel.send_exit_status(status)
        ending.join()
        channel.close()


# --- One connection -----------------------------------------------------------------------------------------

class _Session(paramiko.ServerInterface):
    """What one client may do: authenticate, run commands, forward ports."""

    def __init__(self, server, transport, peer, own):
        self.server, self.transport = server, transport
        self.about = {'SSH_CONNECTION': f'{peer[0]} {peer[1]} {own[0]} {own[1]}',
                      'SSH_CLIENT': f'{peer[0]} {peer[1]} {own[1]}'}
        self.targets = {}
        self.listeners = {}

    # Authentication

    def get_banner(self):
        return (self.server.banner, 'en') if self.server.banner else (None, None)

    def get_allowed_auths(self, username):
        return ','.join(self.server.methods)

    def check_auth_password(self, username, password):
        return self._judge('password', username, password == self.server.password)

    def check_auth_publickey(self, username, key):
        return self._judge('publickey', username, key.get_base64() in self.server.authorized_keys())

    def check_auth_interactive(self, username, submethods):
        if not self.server.questions:
            return paramiko.AUTH_FAILED
        self.username = username
        query = paramiko.InteractiveQuery(self.server.title, self.server.instruction)
        for prompt, _ in self.server.questions:
            query.add_prompt(prompt, echo=False)
        return query

    def check_auth_interactive_response(self, responses):
        expected = [answer for _, answer in self.server.questions]
        return self._judge('keyboard-interactive', self.username, list(responses) == expected)

    def _judge(self, method, username, good):
        self.server.count[method] += 1
        time.sleep(self.server.auth_delay)
        good = good and method in self.server.methods and username == self.server.user
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    # Sessions

    def check_channel_request(self, kind, chanid):
        self.server.count['channels'] += 1
        if kind != 'session':
            return paramiko.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        self.server.count['commands'] += 1
        environment = {**self.server.base_environment(), **self.about, **self.server.environment}
        try:
            process = subprocess.Popen(
                [self.server.shell, '-c', command], env=environment, cwd=self.server.home,
                start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            log.error('cannot run %r: %s', command, error)
            return False
        _start(_run_process, channel, process)
        return True

    def check_global_request(self, kind, msg):
        # As sshd, which answers a keep-alive with a refusal: an answer is all that a client asks for.
        self.server.count[kind] += 1
        return False

    # Forwards

    def check_channel_direct_tcpip_request(self, chanid, origin, destination):
        self.server.count['channels'] += 1
        if self.server.forwarding == 'prohibited':
            return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        if self.server.forwarding == 'failing':
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        try:
            self.targets[chanid] = self.server.reach(*destination)
        except OSError as error:
            log.info('cannot reach %s: %s', destination, error)
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        return paramiko.OPEN_SUCCEEDED

    def check_port_forward_request(self, address, port):
        if self.server.forwarding == 'prohibited':
            return False
        try:
            # Loopback whatever was asked, as with GatewayPorts no.
            listener = socket.create_server(('127.0.0.1', port), backlog=128)
        except OSError as error:
            log.info('cannot listen on %s: %s', port, error)
            return False
        port = listener.getsockname()[1]
        self.listeners[port] = listener
        _start(self._accept_for_client, listener, (address, port))
        return port

    def cancel_port_forward_request(self, address, port):
        self._close_listener(port)

    def _close_listener(self, port):
        if listener := self.listeners.pop(port, None):
            # Closing alone does not wake a thread that waits in accept.
            try:
                listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            listener.close()

    def _accept_for_client(self, listener, bound):
        while True:
            try:
                sock, origin = listener.accept()
            except OSError:
                return
            _start(self._forward_to_client, sock, origin, bound)

    def _forward_to_client(self, sock, origin, bound):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            channel = self.transport.open_forwarded_tcpip_channel(origin, bound)
        except (paramiko.SSHException, EOFError):
            sock.close()
            return
        _join_streams(channel, sock)

    def serve(self):
        """Connect each opened channel with its target, until the connection is gone."""
        # The list holds what paramiko itself keeps only by weak references.
        channels = []
        while self.transport.is_active():
            channel = self.transport.accept(0.5)
            if channel is None:
                continue
            channels.append(channel)
            if target := self.targets.pop(channel.get_id(), None):
                _start(_join_streams, channel, target)
        for target in self.targets.values():
            target.close()
        for port in list(self.listeners):
            self._close_listener(port)


# --- The server ---------------------------------------------------------------------------------------------

@dataclasses.dataclass
class EmbeddedServer:
    """An SSH server on loopback with one account and a private home; attributes may change while it runs."""

    user: str = 'ana'
    password: str | None = 'open sesame'
    questions: tuple = ()                       # keyboard-interactive: (prompt, answer) pairs
    title: str = ''                             # what it says before its questions
    instruction: str = ''
    host_keys: tuple = ('ed25519', 'ecdsa')
    seed: int = 1                               # of the host keys
    banner: str = ''
    shell: str = '/bin/sh'                      # the account's
    forwarding: str = 'allowed'                 # or 'prohibited', or 'failing'
    auth_delay: float = 0.0
    address: str = '127.0.0.1'
    port: int = 0

    def __post_init__(self):
        self.count = collections.Counter()
        self.environment = {}                   # added to what each command gets
        self.mark = secrets.token_hex(8)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='embedded-'))
        self.home, self.tmp, self.bin = (self.folder / name for name in ('home', 'tmp', 'bin'))
        for folder in (self.home, self.tmp, self.bin):
            folder.mkdir(mode=0o700)
        self.map = self.folder / 'map'
        self.map.touch()
        self.announced_port = free_port()       # by the stand-in CLI
        self.install('codex')
        self._front = _Front(self.address, self.port, self._welcome)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Listen; the port is known afterwards."""
        self._front.listen()
        self.port = self._front.port
        return self

    def stop(self):
        """Close everything, end every command's processes, remove the home."""
        self._front.close()
        end_marked_processes(self.mark)
        eventually(lambda: marked_processes(self.mark))
        shutil.rmtree(self.folder, ignore_errors=True)

    # What the account has

    def install(self, name, folder=None):
        """Put the stand-in CLI of that name (codex, wrangler, …) into a folder, by default one on PATH."""
        path = pathlib.Path(folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        command = shlex.join([sys.executable, '-I', '-S', str(STAND_IN), name])
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)
        return path

    def authorize(self, key):
        """Let a key in: a paramiko key or a line as in id_ed25519.pub."""
        line = key if isinstance(key, str) else f'{key.get_name()} {key.get_base64()}'
        file = self.home / '.ssh' / 'authorized_keys'
        file.parent.mkdir(mode=0o700, exist_ok=True)
        with file.open('a') as lines:
            lines.write(line.strip() + '\n')
        file.chmod(0o600)

    def authorized_keys(self):
        """The key material of ~/.ssh/authorized_keys, as the file is now."""
        try:
            text = (self.home / '.ssh' / 'authorized_keys').read_text()
        except FileNotFoundError:
            return set()
        return {word for line in text.splitlines() for word in line.split() if word.startswith('AAAA')}

    @property
    def methods(self):
        """The authentication methods on offer."""
        offered = {'publickey': True, 'password': self.password is not None,
                   'keyboard-interactive': bool(self.questions)}
        return [method for method, on in offered.items() if on]

    def base_environment(self):
        """What a command finds before `environment` is added."""
        return {'HOME': str(self.home), 'TMPDIR': str(self.tmp), 'PATH': f'{self.bin}:{SYSTEM_PATH}',
                'USER': self.user, 'LOGNAME': self.user, 'SHELL': self.shell, MARK: self.mark,
                'STAND_IN_MAP': str(self.map), 'STAND_IN_PORT': str(self.announced_port)}

    # What a client knows of it

    def keys(self):
        """Its host keys."""
        return [host_key(kind, self.seed) for kind in self.host_keys]

    def known_hosts(self):
        """Its lines for a known_hosts file."""
        name = f'[{self.address}]:{self.port}'
        return ''.join(f'{name} {key.get_name()} {key.get_base64()}\n' for key in self.keys())

    # Bad days

    @property
    def connections(self):
        """How many TCP connections were accepted so far."""
        return self._front.accepted

    def cut(self):
        """Reset every connection."""
        self._front.cut()

    def freeze(self):
        """Carry no byte any more: connections, new ones too, stay open and silent."""
        self._front.freeze(True)

    def thaw(self):
        """Carry on, with what had waited."""
        self._front.freeze(False)

    def stop_listening(self, seconds=None):
        """Refuse new connections, for good or for a while; those that are open stay."""
        self._front.stop_listening()
        if seconds is not None:
            timer = threading.Timer(seconds, self.listen_again)
            timer.daemon = True
            timer.start()

    def listen_again(self):
        """Accept connections again, on the same port."""
        self._front.listen()

    def drop_after(self, count):
        """Reset every connection once that many more bytes, in both directions, went through. None: never."""
        self._front.drop_after(count)

    def pretend(self, words):
        """Be no SSH server: say these bytes to each new connection and hang up. None: be one again."""
        self._front.impostor = words

    # What is left

    def leftovers(self, patience=5.0):
        """Processes and temporary files that its commands left; those that are just ending get patience."""
        return eventually(self._left_now, patience)

    def _left_now(self):
        processes = [f'process {pid}: {command}' for pid, command in marked_processes(self.mark).items()]
        return processes + [f'file {path}' for path in sorted(self.tmp.rglob('*'))]

    # Inside

    def reach(self, host, port):
        """A connection to what a client calls host and port. Nothing beyond this machine is reachable."""
        hosts = ('127.0.0.1', '::1') if host == 'localhost' else (host,)
        try:
            here = all(ipaddress.ip_address(host).is_loopback for host in hosts)
        except ValueError:
            here = False
        if not here:
            raise OSError(f'{host} is not on this machine')
        moved = {}
        for line in self.map.read_text().splitlines():
            moved_host, announced, real = line.split()
            moved[moved_host, int(announced)] = int(real)
        error = OSError('nothing listens there')
        for host in hosts:
            if (host, port) not in moved and any(port == announced for _, announced in moved):
                continue
            try:
                sock = socket.create_connection((host, moved.get((host, port), port)), timeout=5)
            except OSError as problem:
                error = problem
                continue
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        raise error

    def _welcome(self, sock, peer, own):
        try:
            transport = paramiko.Transport(sock)
            transport.set_log_channel('embedded.ssh')
            for key in self.keys():
                transport.add_server_key(key)
            session = _Session(self, transport, peer, own)
            transport.start_server(server=session)
            session.serve()
        except (paramiko.SSHException, EOFError, OSError) as error:
            log.info('connection ended early: %s', error)
        finally:
            sock.close()


def main():
    """Serve until standard input ends, with what a client needs to know on one line of JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--port', type=int, default=0)
    parser.add_argument('--user', default='ana')
    parser.add_argument('--password', default=secrets.token_urlsafe(9))
    parser.add_argument('--shell', default='/bin/sh')
    options = parser.parse_args()
    with EmbeddedServer(**vars(options)) as server:
        print(json.dumps({
            'address': server.address, 'port': server.port, 'user': server.user, 'password': server.password,
            'home': str(server.home), 'known_hosts': server.known_hosts()}), flush=True)
        try:
            sys.stdin.buffer.read()
        except KeyboardInterrupt:
            pass


if __name__ == '__main__':
    main()
