"""An SSH server inside the test's own process: real sessions, real forwards, a network that fails at will.

    with EmbeddedServer(password='open sesame') as server:
        …connect to 127.0.0.1, server.port, as server.user…
        server.cut()                       # every connection reset, the commands live on, as with sshd
        server.bad_day = 'silent at exec'  # what goes wrong from now on, and where
        assert server.leftovers() == []    # processes and temporary files of its commands

Three layers. The *front* owns the TCP sockets and carries bytes to and from paramiko; there a test freezes,
cuts or refuses connections. Behind it strict.py speaks SSH as OpenSSH's sshd does, and refuses what that one
refuses. Every `exec` request becomes a real process in a private home, wired as sshd wires one: all three
streams with end of file, the exit status, no terminal, and no signal when the connection is lost.

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
import itertools
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
import weakref

import forkserver
import paramiko
from waiting import PATIENCE, eventually, until
import strict
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

_reserved = collections.deque(maxlen=200)


def _reserve(port):
    """Whether no other test of this machine has been given this port; from now on it is this process's."""
    if sys.platform != 'linux':
        return True
    sign = socket.socket(socket.AF_UNIX)
    try:
        sign.bind(f'\0codex-login-tests-port-{port}')      # a name without a file, gone with its process
    except OSError:
        sign.close()
        return False
    _reserved.append(sign)
    return True


def free_port(wanted=0):
    """A port that is free on 127.0.0.1 and, where the machine has it, on ::1; the wanted one if it can be."""
    # Below what systems hand out by themselves: a port from there may be taken again before it is listened on.
    for candidate in [wanted] * bool(wanted) + random.sample(range(10000, 32000), 100):
        if candidate != wanted and not _reserve(candidate):
            continue
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


@contextlib.contextmanager
def alone_with(port):
    """A port that the tests share, for this test alone among all test processes."""
    until(lambda: _reserve(port), f'port {port} is nobody else\'s', patience=300)
    sign = _reserved.pop()
    try:
        yield port
    finally:
        sign.close()


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

    def cut(self, peer=None):
        self._do(self._cut, peer)

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

    def _do(self, coroutine, *arguments):
        asyncio.run_coroutine_threadsafe(coroutine(*arguments), self._loop).result(10)

    async def _listen(self):
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self.address, self.port, backlog=1024)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self):
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _cut(self, peer=None):
        # A linger time of zero makes the close a reset, as a dead peer's kernel would send it.
        for writer in [writer for writer in self._wires if peer in (None, writer.get_extra_info('peername'))]:
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
        try:
            while data := channel.recv(CHUNK):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except GONE:
            channel.refuse_input()

    def inward():
        with contextlib.suppress(*GONE):
            while data := sock.recv(CHUNK):
                channel.sendall(data)
        # A reset is an end of file to sshd, too.
        with contextlib.suppress(*GONE):
            channel.shutdown_write()

    def hang_up():
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RD)

    channel.when_hung_up(hang_up)
    directions = [_start(outward), _start(inward)]
    for direction in directions:
        direction.join()
    sock.close()
    with contextlib.suppress(*GONE):
        channel.close()


def _run_process(channel, process):
    """Wire a process to its channel as sshd does, until both are done with each other."""
    ended = threading.Event()

    def feed():
        try:
            with process.stdin as pipe:
                while data := channel.recv(CHUNK):
                    pipe.write(data)
                    pipe.flush()
        except GONE:
            channel.refuse_input()

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
        ended.set()

    channel.when_hung_up(ended.set)
    _start(feed)
    outputs = [_start(drain, process.stdout, channel.sendall),
               _start(drain, process.stderr, channel.sendall_stderr)]
    _start(end_output)
    status = process.wait()
    with contextlib.suppress(*GONE):
        channel.send_end(status)
        channel.refuse_input()
        ended.wait()
        channel.close()


# --- One connection -----------------------------------------------------------------------------------------

class _Session:
    """What one client may do: authenticate, run commands, forward ports. strict.py asks; see StrictTransport."""

    def __init__(self, server, peer, own):
        self.server, self.peer, self.count = server, peer, server.count
        self.about = {'SSH_CONNECTION': f'{peer[0]} {peer[1]} {own[0]} {own[1]}',
                      'SSH_CLIENT': f'{peer[0]} {peer[1]} {own[1]}'}
        self.transport = None
        self.listeners = {}

    def __getattr__(self, name):
        # As the server is now: banner, questions, max_auth_tries, …
        return getattr(self.server, name)

    # Authentication

    def methods(self, passed):
        """The methods on offer to who has passed those."""
        return self.server.demanded[len(passed):][:1] if self.server.demanded else self.server.methods

    def is_enough(self, passed):
        """Whether those let somebody in."""
        return not self.server.demanded or len(passed) >= len(self.server.demanded)

    def judge(self, method, username, proof):
        """Whether it is right: a password, a key, or that the answers were."""
        self.count[method] += 1
        self.server.over.wait(self.server.auth_delay)
        right = {'password': lambda: proof == self.server.password,
                 'publickey': lambda: proof.get_base64() in self.server.authorized_keys(),
                 'keyboard-interactive': lambda: proof}[method]()
        self.server.note(f'{method} of {username}: {"right" if right else "wrong"}')
        return right and username == self.server.user

    # Sessions

    def run(self, channel, command):
        """Start a command; what begins to carry its streams, or None."""
        self.count['commands'] += 1
        self.server.note(f'runs {command!r}')
        environment = {**self.server.base_environment(), **self.about, **self.server.environment}
        try:
            process = forkserver.start(
                [self.server.shell, '-c', command], env=environment, cwd=self.server.home,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            log.error('cannot run %r: %s', command, error)
            return None
        return lambda: _start(_run_process, channel, process)

    def flood(self, channel, kind, unasked):
        """Send what does not end, in place of a command's output: a line, lines, or (on standard error) stderr.

        `unasked`: whether the client's window has room for it or not.
        """
        send = channel.sendall_stderr if kind == 'stderr' else channel.sendall
        if unasked:
            head = [strict.EXTENDED_DATA, channel.remote_chanid, 1] if kind == 'stderr' else [strict.DATA, channel.remote_chanid]

            def send(piece):
                self.transport.send(*head, piece)
                if not self.transport.is_active():
                    raise EOFError
        with contextlib.suppress(*GONE):
            for piece in endless(kind != 'line'):
                send(piece)
            self.count['said all that is endless'] += 1

    # Forwards

    def may_forward(self):
        """Whether ports are forwarded at all."""
        return self.server.forwarding != 'prohibited'

    def reach(self, host, port):
        """A connection to a client's target. Raises OSError."""
        if self.server.forwarding == 'failing':
            raise ConnectionRefusedError(errno.ECONNREFUSED, 'Connection refused')
        self.server.note(f'is asked for a way to {host} port {port}')
        return self.server.reach(host, port)

    def join(self, channel, sock):
        """Carry a channel's bytes to and from a socket."""
        _start(_join_streams, channel, sock)

    def listen(self, address, port):
        """Listen for the client; the port, or None."""
        if not self.may_forward():
            return None
        try:
            # Loopback whatever was asked, as with GatewayPorts no.
            listener = socket.create_server(('127.0.0.1', port), backlog=128)
        except OSError as error:
            log.info('cannot listen on %s: %s', port, error)
            return None
        port = listener.getsockname()[1]
        self.server.note(f'listens on {address} port {port} for the client')
        self.listeners[address, port] = listener
        _start(self._accept_for_client, listener, (address, port))
        return port

    def unlisten(self, address, port):
        """Listen no longer; whether it did."""
        listener = self.listeners.pop((address, port), None)
        if listener is None:
            return False
        # Closing alone does not wake a thread that waits in accept.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        return True

    def _accept_for_client(self, listener, bound):
        while True:
            try:
                sock, origin = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.transport.open_forwarded(sock, origin, bound)

    # The connection

    def reset(self):
        """Reset it."""
        self.server._front.cut(self.peer)

    def serve(self, sock):
        """Speak SSH until the connection is gone."""
        self.transport = transport = strict.StrictTransport(sock, self)
        if self.server.version:
            transport.local_version = self.server.version
        for key in self.server.keys():
            transport.add_server_key(key)
        transport.start_server(event=threading.Event())
        transport.join()
        for where in list(self.listeners):
            self.unlisten(*where)

    def have_a_bad_start(self, sock):
        """What goes wrong before a word of SSH; whether that was all."""
        action = self.day.strikes('version')
        with contextlib.suppress(OSError):
            if action == 'silent':
                while sock.recv(CHUNK):
                    pass
            elif action == 'reset':
                self.reset()
            elif action == 'slow':
                self.slow()
            elif action == 'many lines':
                sock.sendall(b''.join(b'Line %d of what everybody has to read.\r\n' % n for n in range(200)))
            elif action.startswith('endless'):
                for piece in endless(action == 'endless lines'):
                    sock.sendall(piece)
        return action not in ('', 'slow', 'many lines')


def endless(lines):
    """Pieces of a text that does not end, as far as anybody should read it: in lines, or all in one."""
    piece = (b'x' * 79 + b'\n' if lines else b'x' * 80) * (CHUNK // 80)
    return itertools.repeat(piece, strict.MOST_FLOOD // len(piece))


# --- The server ---------------------------------------------------------------------------------------------

@dataclasses.dataclass
class EmbeddedServer:
    """An SSH server on loopback with one account and a private home; attributes may change while it runs.

    It is as strict as sshd, always (strict.py). What else can go wrong is said in words:

        EmbeddedServer(bad_day='silent at key exchange')
        server.bad_day = 'reset at key once'        # from now on, for connections that are open too
        server.bad_day = 'slow at exec, unanswered at keep-alive'
        server.bad_day = ''                         # all is well again

    ACTION at STEP, and how often (once, twice, 3 times; else each time), several with commas between. The tables
    strict.ACTIONS and strict.STEPS say what each means; a word that is in neither is an error. `count['reset at key']`
    is how often it struck; `complaints` are sshd's words to the clients that it threw out. What is "slow" waits for
    `go_on()`, or for `slowness` seconds.

    What is no moment but a property has an attribute: `version` and `banner` may hold anything (escape sequences, …),
    `questions` may be asked in rounds, `demanded` names the methods that are wanted one after the other, `seed` and
    `host_keys` change the key for later connections. What is done to all connections is a method:
    `rekey()`, `cut()`, `freeze()`, `drop_after()`, `stop_listening()`, `pretend()`.
    """

    user: str = 'ana'
    password: str | None = 'open sesame'
    # Keyboard-interactive, a round each: (prompt, answer); a text without a question; or several pairs at once.
    questions: tuple = ()
    title: str = ''                             # what is said with the first of them
    instruction: str = ''
    demanded: tuple = ()                        # methods, in order, as AuthenticationMethods; else any one will do
    opens_to: str = ''                          # 'none': whoever asks is let in, and a key ends the connection; 'a visit': the same, after go_on()
    max_auth_tries: int = 6
    max_sessions: int = 10
    host_keys: tuple = ('ed25519', 'ecdsa')
    seed: int = 1                               # of the host keys
    version: str = ''                           # the server's first line; paramiko's own
    banner: str = ''
    farewell: str = 'Have a good day.'          # the words of its "goodbye"
    refusal: str = 'open failed'                # the words with which it refuses a channel
    first_channel: int = 0                      # the number of its first one
    shell: str = '/bin/sh'                      # the account's
    forwarding: str = 'allowed'                 # or 'prohibited', or 'failing'
    auth_delay: float = 0.0
    bad_day: str = ''
    slowness: float = 2.0                       # seconds, where go_on() does not come first
    address: str = '127.0.0.1'
    port: int = 0

    def __setattr__(self, name, value):
        if name == 'bad_day':
            vars(self).setdefault('count', collections.Counter())
            self.day = strict.BadDay(value, self.count)
            if 'notes' in vars(self):
                self.note(f'bad day: {value or "over"}')
        super().__setattr__(name, value)

    made = []           # not a field: every server, for whoever tells how a test went

    def __post_init__(self):
        self.notes, self._began = [], time.monotonic()
        self.made.append(self)
        self.complaints = []                    # why clients were thrown out
        self._may_go_on = threading.Event()
        self._sessions = weakref.WeakSet()
        self.environment = {}                   # added to what each command gets
        self.over = threading.Event()
        self.mark = secrets.token_hex(8)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='embedded-'))
        self.home, self.tmp, self.bin = (self.folder / name for name in ('home', 'tmp', 'bin'))
        for folder in (self.home, self.tmp, self.bin):
            folder.mkdir(mode=0o700)
        self.map = self.folder / 'map'
        self.map.touch()
        self.port = self.port or free_port()    # it is listened on again and again
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
        self.over.set()
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

    # What it saw

    def note(self, words):
        """Remember what happened, for a failed test."""
        self.notes.append(f'{time.monotonic() - self._began:7.3f} s  {words}')

    def report(self):
        """All that it saw, for a failed test."""
        return '\n'.join(self.notes)

    # Bad days

    @property
    def connections(self):
        """How many TCP connections were accepted so far."""
        return self._front.accepted

    def cut(self):
        """Reset every connection."""
        self.note('cut')
        self._front.cut()

    def freeze(self):
        """Carry no byte any more: connections, new ones too, stay open and silent."""
        self.note('frozen')
        self._front.freeze(True)

    def thaw(self):
        """Carry on, with what had waited."""
        self.note('thawed')
        self._front.freeze(False)

    def stop_listening(self, seconds=None):
        """Refuse new connections, for good or for a while; those that are open stay."""
        self.note('listens no longer')
        self._front.stop_listening()
        if seconds is not None:
            timer = threading.Timer(seconds, self.listen_again)
            timer.daemon = True
            timer.start()

    def listen_again(self):
        """Accept connections again, on the same port."""
        self.note('listens again')
        self._front.listen()

    def drop_after(self, count):
        """Reset every connection once that many more bytes, in both directions, went through. None: never."""
        self.note(f'cuts after {count} more bytes')
        self._front.drop_after(count)

    def pretend(self, words):
        """Be no SSH server: say these bytes to each new connection and hang up. None: be one again."""
        self._front.impostor = words

    def slow(self):
        """Wait until a test says go_on(), or for `slowness` seconds."""
        self._may_go_on.wait(self.slowness)

    def go_on(self):
        """Let go what is slow, now and from now on."""
        self._may_go_on.set()

    def rekey(self):
        """Begin a key exchange on every connection."""
        for session in list(self._sessions):
            if session.transport and session.transport.is_active():
                session.transport.begin_key_exchange()

    # What is left

    def leftovers(self, patience=PATIENCE):
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
        session = _Session(self, peer, own)
        self.note(f'port {peer[1]} has connected')
        try:
            if not session.have_a_bad_start(sock):
                self._sessions.add(session)
                session.serve(sock)
        finally:
            self.note(f'port {peer[1]} has gone')
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
