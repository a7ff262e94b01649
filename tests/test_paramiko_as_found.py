"""The room "Paramiko as found": each paramiko a device may have against a real sshd; the RFCs' vectors."""

import base64
import contextlib
import functools
import getpass
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import standins

MODULE = Path(os.environ.get('CODEX_LOGIN_MODULE') or HERE.parent / 'scripts' / 'codex_login.py')
sys.path.insert(0, str(MODULE.parent))
found = importlib.import_module(MODULE.stem)

SSHD = shutil.which('sshd', path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/local/sbin')
PATIENCE = 120      # seconds until something counts as hung; no test measures time

ENVIRONMENTS = {
    'a-Shell': standins.a_shell,
    'Pythonista 3.4': standins.pythonista,
    'Pythonista 3.5 beta': functools.partial(standins.pythonista, '3.13'),
    **{f'paramiko {version}': functools.partial(standins.desktop, version) for version in standins.PARAMIKOS},
}
OLD = ('Pythonista 3.4', 'Pythonista 3.5 beta')

# What OpenSSH 10 offers; of these an older sshd is given those it knows.
OPENSSH_10_KEX = ('mlkem768x25519-sha256 sntrup761x25519-sha512 sntrup761x25519-sha512@openssh.com '
                  'curve25519-sha256 curve25519-sha256@libssh.org '
                  'ecdh-sha2-nistp256 ecdh-sha2-nistp384 ecdh-sha2-nistp521').split()


# ---- what runs inside an environment ---------------------------------------------------------------

DRIVER = r'''
import contextlib, functools, importlib, json, os, socket, sys, time
sys.path.insert(0, os.path.dirname(sys.argv[1]))
found = importlib.import_module(os.path.splitext(os.path.basename(sys.argv[1]))[0])


class CountingSocket(socket.socket):
    reads = 0

    def recv(self, *args):
        self.reads += 1
        return super().recv(*args)


board = found.Board()


def connect(port, known=(), timeout=60, through=None):
    if through:
        sock = opened(through, 'direct-tcpip', '127.0.0.1', port, '127.0.0.1', 0)
    else:
        sock = CountingSocket()
        sock.connect(('127.0.0.1', port))
    connection = found.Connection(sock, board, through)
    connection.counted = sock
    found.prefer_host_key_types(connection.transport, known)
    found.shake_hands(connection, timeout)
    return connection


def opened(connection, kind, *fields):
    box = found.Box()
    connection.open(kind, fields, box.put)
    return box.take(60)


def authenticated(connection, user, key, certificate=None):
    server, private = found.Authentication(connection.transport, user), found.load_private_key(key)
    blob = found.public_blob(certificate) if certificate else private.asbytes()
    assert server.takes(blob), 'this key is not taken'
    assert server.publickey(blob, functools.partial(found.sign, private)) and server.over
    found.long_poll(connection.transport)
    return connection


def output_of(connection, command):
    channel, pieces = opened(connection, 'session'), []
    channel.execute(command, b'')
    while piece := channel.recv(1000):
        pieces.append(piece)
    return b''.join(pieces).decode()


def closed(connection):
    connection.close()
    connection.transport.join(60)
    return not connection.transport.is_alive()


def login(port, user, key, known=(), certificate=None):
    started = time.perf_counter()
    connection = connect(port, known)
    shaken = time.perf_counter()
    authenticated(connection, user, key, certificate)
    ready = time.perf_counter()
    transport = connection.transport
    blob = transport.get_remote_server_key().asbytes()
    return {
        'output': output_of(connection, 'echo "it works"'),
        'host_key': found.fingerprint(blob), 'host_key_type': found.key_type(blob),
        'agreed': [transport.host_key_type, transport.local_cipher, transport.local_mac],
        'kex_ms': (shaken - started) * 1000, 'auth_ms': (ready - shaken) * 1000, 'ended': closed(connection)}


def shake(port, timeout=60):
    connect(port, timeout=timeout).close()
    return {}


def load(path, passphrase=None):
    key = found.load_private_key(path, passphrase)
    return {'fingerprint': found.fingerprint(key.asbytes()), 'type': found.key_type(key.asbytes())}


def new_key(path, comment):
    private, public = found.new_private_key(comment)
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 'w') as file:
        file.write(private)
    return {'public': public, **load(path)}


def idle(port, user, key):
    connection, answered = authenticated(connect(port), user, key), found.Box()
    connection.request('keepalive@openssh.com', (), lambda *_: answered.put(None))     # after what the server says after the login
    answered.take(60)
    before = connection.counted.reads
    connection.transport.join(1)        # in vain
    return {'reads': connection.counted.reads - before, 'ended': closed(connection)}


def rekey(port, user, key):
    """A key exchange while as much is sent as a channel takes; what is said meanwhile is held back, and arrives."""
    connection = authenticated(connect(port), user, key)
    channel, pieces, sent = opened(connection, 'session'), [], []
    channel.execute('cat', b'')
    exchanged = found.start(connection.transport.renegotiate_keys)
    while exchanged.is_alive() or len(sent) < 4000:
        sent.append(b'%099d\n' % len(sent))
        channel.sendall(sent[-1])
    channel.shutdown_write()
    while piece := channel.recv(100000):
        pieces.append(piece)
    result = {'output': output_of(connection, 'echo "it works"'), 'whole': pieces and b''.join(pieces) == b''.join(sent)}
    connection.close()
    return result


def leave_open(port, user, key):
    """Ends with a connection open, as a script does that is stopped."""
    globals()['kept'] = authenticated(connect(port), user, key)
    return {}


def hop(port, user, key):
    first = authenticated(connect(port), user, key)
    second = authenticated(connect(port, through=first), user, key)
    output = output_of(second, 'echo "it works"')
    return {'output': output, 'ended': closed(second) and closed(first)}


def threads_that_stay():
    import threading
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join(10)
    return [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]


def start():
    import resource
    from concurrent.futures import ThreadPoolExecutor
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:      # as when one brings it up while another wants it already
        loads = [threads.submit(found.load_paramiko) for _ in range(2)]
    ready = time.perf_counter()
    return {'transport': all(hasattr(load.result(), 'Transport') for load in loads),
            'again': found.load_paramiko() is loads[0].result() is loads[1].result(),
            'invoke': 'invoke' in sys.modules,
            'lent': [name for name in ('bcrypt', 'nacl', 'nacl.signing', 'nacl.exceptions')
                     if name in sys.modules and not hasattr(sys.modules[name], '__file__')],
            'import_ms': (ready - started) * 1000,
            'rss_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


board.start()
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        result = globals()[name](**arguments)
    except found.Problem as problem:
        result = {'problem': problem.kind, 'message': problem.message, 'hint': problem.hint}
    except Exception as error:
        result = {'error': repr(error)}
    print(json.dumps(result), flush=True)
'''


class Driver:
    """A process of an environment that does what the DRIVER's functions do."""

    def __init__(self, stand_in, folder):
        self.stderr = Path(folder, 'stderr')
        with open(self.stderr, 'w') as stderr:
            self.process = subprocess.Popen(
                [stand_in.python, '-c', DRIVER, str(MODULE)], env=stand_in.environment(Path(folder, 'home')),
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)

    def __getattr__(self, name):
        def call(**arguments):
            self.process.stdin.write(json.dumps([name, arguments]) + '\n')
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f'{name} ended the process: {self.stderr.read_text()}')
            return json.loads(line)

        return call

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


class Server:
    """A loopback port where `speak(sock)` answers each connection, in a thread of its own."""

    def __init__(self, speak):
        self._speak = speak
        self._sockets = []
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [self._start(self._accept)]

    def _start(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        return thread

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._sockets.append(sock)
                self._threads.append(self._start(self._answer, sock))

    def _answer(self, sock):
        with contextlib.suppress(OSError):
            self._speak(sock)
        shut(sock)

    def close(self):
        # Each is shut down, its thread ended, and only then closed: a thread that still waits on a closed
        # descriptor would take over the connection that gets the same number next.
        for sock in (self._listener, *self._sockets):
            shut(sock)
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in (self._listener, *self._sockets):
            sock.close()


def shut(sock):
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class Sshd(Server):
    """OpenSSH's sshd behind a loopback port of ours: an `sshd -i` for each connection, so no port is lost."""

    def __init__(self, folder, options, host_keys):
        folder = Path(folder)
        config = folder / f'sshd_config_{len(list(folder.iterdir()))}'
        config.write_text('\n'.join([
            *(f'HostKey {key}' for key in host_keys), *options,
            f'AuthorizedKeysFile {folder}/authorized_keys', 'PasswordAuthentication no', 'UsePAM no',
            'StrictModes no', 'PidFile none', 'LogLevel VERBOSE', '']))
        self.log = config.with_suffix('.log')
        self._command = [SSHD, '-i', '-e', '-f', str(config)]
        super().__init__(self._run_sshd)

    def _run_sshd(self, sock):
        with open(self.log, 'a') as log:
            subprocess.run(self._command, stdin=sock, stdout=sock, stderr=log)


def keygen(path, *options, passphrase=''):
    subprocess.run(['ssh-keygen', '-q', '-N', passphrase, '-C', 'a test', '-f', path, *options],
                   check=True, capture_output=True)
    return str(path)


def fingerprint_by_ssh(path):
    return output_of('ssh-keygen', '-lf', path).split()[1]


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class WithSshd(unittest.TestCase):
    """A folder with keys, an sshd where one is asked for, and a driver for each environment."""

    @classmethod
    def setUpClass(cls):
        if not SSHD or not shutil.which('ssh-keygen'):
            raise unittest.SkipTest('OpenSSH\'s server is missing: install openssh-server.')
        if os.geteuid() == 0:
            os.makedirs('/run/sshd', exist_ok=True)     # sshd, started as root, wants it
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)
        cls.user = getpass.getuser()
        cls.host_keys, cls.user_keys = (
            {type: keygen(cls.folder / f'{owner}_{type}', '-t', type) for type in ('rsa', 'ecdsa', 'ed25519')}
            for owner in ('host', 'user'))
        (cls.folder / 'authorized_keys').write_text(
            ''.join(Path(key + '.pub').read_text() for key in cls.user_keys.values()))

    def sshd(self, *options, host_keys=('rsa', 'ecdsa', 'ed25519')):
        server = Sshd(self.folder, options, [self.host_keys[type] for type in host_keys])
        self.addCleanup(server.close)
        return server

    def key(self, name, *options, passphrase=''):
        """The path of a key that is made the first time somebody asks for it."""
        path = self.folder / name
        return str(path) if path.exists() else keygen(path, *options, passphrase=passphrase)


def in_each_environment(test):
    """Call test(self, name, driver) for each environment; one that cannot be made is skipped by name."""
    @functools.wraps(test)
    def each(self):
        for name, make in ENVIRONMENTS.items():
            with self.subTest(environment=name), tempfile.TemporaryDirectory() as folder:
                try:
                    stand_in = make()
                except standins.Missing as error:
                    if os.environ.get('CODEX_LOGIN_REQUIRE_ALL'):
                        raise
                    self.skipTest(str(error))
                driver = Driver(stand_in, folder)
                try:
                    test(self, name, driver)
                finally:
                    driver.close()
    return each


# ---- the mathematics -------------------------------------------------------------------------------

class Vectors(unittest.TestCase):

    def test_x25519_gives_what_rfc_7748_says(self):
        for scalar, point, result in (
            ('a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4',
             'e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c',
             'c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552'),
            ('4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d',
             'e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493',
             '95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957'),
        ):
            self.assertEqual(found.x25519(bytes.fromhex(scalar), bytes.fromhex(point)).hex(), result)

    def test_x25519_repeated_a_thousand_times_gives_what_rfc_7748_says(self):
        scalar = point = (9).to_bytes(32, 'little')
        for _ in range(1000):
            scalar, point = found.x25519(scalar, point), scalar
        self.assertEqual(scalar.hex(), '684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51')

    def test_two_sides_of_a_key_exchange_agree_as_in_rfc_7748(self):
        base = (9).to_bytes(32, 'little')
        alice = bytes.fromhex('8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a')
        bob = bytes.fromhex('5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb')
        self.assertEqual(found.x25519(bob, base).hex(),
                         'de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f')
        self.assertEqual(found.x25519(bob, alice).hex(),
                         '4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742')

    # RFC 8032, 7.1: secret, public, message, signature
    ED25519 = (
        ('9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60',
         'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a', '',
         'e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155'
         '5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b'),
        ('4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
         '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c', '72',
         '92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da'
         '085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00'),
        ('c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7',
         'fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025', 'af82',
         '6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac'
         '18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a'),
        ('833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42',
         'ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf',
         'ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a'
         '2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f',
         'dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589'
         '09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704'),
    )

    def test_ed25519_signs_as_rfc_8032_says(self):
        for secret, public, message, signature in self.ED25519:
            secret, message = bytes.fromhex(secret), bytes.fromhex(message)
            self.assertEqual(found.ed25519_public(secret).hex(), public)
            self.assertEqual(found.ed25519_sign(secret, message).hex(), signature)

    def test_ed25519_accepts_its_signatures_and_no_others(self):
        for _, public, message, signature in self.ED25519:
            public, message, signature = map(bytes.fromhex, (public, message, signature))
            self.assertTrue(found.ed25519_verify(public, message, signature))
            self.assertFalse(found.ed25519_verify(public, message + b'!', signature))
            for place in (0, 31, 32, 63):
                changed = bytearray(signature)
                changed[place] ^= 1
                self.assertFalse(found.ed25519_verify(public, message, bytes(changed)))
            self.assertFalse(found.ed25519_verify(public, message, signature[:63]))
            self.assertFalse(found.ed25519_verify(public, message, signature + b'\0'))
            self.assertFalse(found.ed25519_verify(b'\xff' * 32, message, signature))
            self.assertFalse(found.ed25519_verify(public[:31], message, signature))

    def test_ed25519_refuses_the_second_form_of_a_signature(self):
        # S + L signs the same; RFC 8032 wants S < L, so that nobody can make a second signature of one.
        _, public, message, signature = map(bytes.fromhex, ('', *self.ED25519[0][1:]))
        answer = int.from_bytes(signature[32:], 'little') + found.ORDER
        second = signature[:32] + answer.to_bytes(32, 'little')
        self.assertFalse(found.ed25519_verify(public, message, second))

    def test_a_server_that_sends_a_point_of_small_order_gets_no_shared_secret(self):
        for point in (bytes(32), (1).to_bytes(32, 'little')):
            with self.assertRaises(ValueError):
                found.KexCurve25519.shared(os.urandom(32), point)
        with self.assertRaises(ValueError):
            found.KexCurve25519.shared(os.urandom(32), bytes(31))

    def test_a_fingerprint_is_written_as_ssh_writes_it(self):
        github = base64.b64decode('AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl')
        self.assertEqual(found.fingerprint(github), 'SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU')


# ---- against a real sshd ---------------------------------------------------------------------------

class Handshakes(WithSshd):

    def kex_known_here(self):
        known = output_of('ssh', '-Q', 'kex').split()
        return ','.join(name for name in OPENSSH_10_KEX if name in known)

    @in_each_environment
    def test_every_kind_of_key_signs_in_at_every_kind_of_server(self, environment, driver):
        servers = {
            'OpenSSH 10': self.sshd(f'KexAlgorithms {self.kex_known_here()}', host_keys=('ecdsa', 'ed25519')),
            'only an ed25519 host key': self.sshd(host_keys=('ed25519',)),
            'only curve25519-sha256': self.sshd('KexAlgorithms curve25519-sha256', host_keys=('ecdsa',)),
            'OpenSSH 9': self.sshd(),
            'only ecdh-sha2-nistp256': self.sshd('KexAlgorithms ecdh-sha2-nistp256', host_keys=('ecdsa',)),
            'only an RSA host key': self.sshd(host_keys=('rsa',)),
            'only finite fields': self.sshd('KexAlgorithms diffie-hellman-group-exchange-sha256'),
        }
        fingerprints = [fingerprint_by_ssh(key) for key in self.host_keys.values()]
        for server, sshd in servers.items():
            for type, key in self.user_keys.items():
                with self.subTest(server=server, key=type):
                    result = driver.login(port=sshd.port, user=self.user, key=key)
                    self.assertEqual(result.get('output'), 'it works\n', result)
                    self.assertIn(result['host_key'], fingerprints)
                    self.assertTrue(result['ended'])
                    show(f'{environment:20} {server:26} {type:8} kex {result["kex_ms"]:4.0f} ms, '
                         f'auth {result["auth_ms"]:4.0f} ms, {" ".join(result["agreed"])}')
        self.assertEqual(driver.stderr.read_text(), '')

    @in_each_environment
    def test_a_certificate_for_every_kind_of_key_signs_in(self, environment, driver):
        authority = self.key('authority', '-t', 'ed25519')
        sshd = self.sshd(f'TrustedUserCAKeys {authority}.pub')
        for type in ('rsa', 'ecdsa', 'ed25519'):
            key = self.key(f'certified_{type}', '-t', type)
            output_of('ssh-keygen', '-q', '-s', authority, '-I', 'a test', '-n', self.user, key + '.pub')
            with self.subTest(key=type):
                self.assertIn('not taken', driver.login(port=sshd.port, user=self.user, key=key).get('error', ''))
                result = driver.login(port=sshd.port, user=self.user, key=key, certificate=key + '-cert.pub')
                self.assertEqual(result.get('output'), 'it works\n', result)

    @in_each_environment
    def test_host_keys_already_known_are_asked_for_first(self, environment, driver):
        sshd = self.sshd()
        for known in ('ssh-rsa', 'ecdsa-sha2-nistp256', 'ssh-ed25519'):
            result = driver.login(port=sshd.port, user=self.user, key=self.user_keys['ecdsa'], known=[known])
            self.assertEqual(result.get('host_key_type'), known, result)

    @in_each_environment
    def test_aes_gcm_is_used_where_paramiko_has_it(self, environment, driver):
        cipher = driver.login(port=self.sshd().port, user=self.user, key=self.user_keys['ecdsa'])['agreed'][1]
        without = (*OLD, 'paramiko 2.12.0')
        self.assertEqual(cipher, 'aes128-ctr' if environment in without else 'aes128-gcm@openssh.com')

    @in_each_environment
    def test_nothing_that_rests_on_sha_1_is_agreed_to(self, environment, driver):
        for sshd in (
            self.sshd('KexAlgorithms diffie-hellman-group14-sha1'),
            self.sshd('KexAlgorithms diffie-hellman-group-exchange-sha1,diffie-hellman-group1-sha1'),
            self.sshd('HostKeyAlgorithms ssh-rsa', host_keys=('rsa',)),
            self.sshd('MACs hmac-sha1', 'Ciphers aes128-ctr'),
            self.sshd('Ciphers aes128-cbc,3des-cbc'),
        ):
            result = driver.shake(port=sshd.port)
            self.assertEqual(result.get('problem'), 'incompatible', result)
            self.assertIn('At the server', result['hint'])
        self.assertEqual(driver.stderr.read_text(), '')

    @in_each_environment
    def test_a_server_that_cannot_prove_its_host_key_is_refused(self, environment, driver):
        for type in self.host_keys:
            sshd = self.sshd(host_keys=(type,))
            between = Server(lambda sock, port=sshd.port: spoil_signature(sock, port))
            self.addCleanup(between.close)
            result = driver.shake(port=between.port)
            self.assertEqual(result.get('problem'), 'host-key', result)
        self.assertEqual(driver.stderr.read_text(), '')

    @in_each_environment
    def test_a_server_that_is_none_is_told_apart(self, environment, driver):
        web = Server(lambda sock: sock.sendall(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'))
        gone = Server(lambda sock: sock.sendall(b'SSH-2.0-Gone\r\n'))
        silent = Server(until_the_client_leaves)
        for kind, server in (('not-ssh', web), ('connection', gone), ('connect', silent)):
            self.addCleanup(server.close)
            result = driver.shake(port=server.port, timeout=PATIENCE if server is not silent else 1)
            self.assertEqual(result.get('problem'), kind, result)
        self.assertEqual(driver.stderr.read_text(), '')

    @in_each_environment
    def test_a_handshake_given_up_leaves_no_thread_that_keeps_the_program_alive(self, environment, driver):
        stuck = Server(lambda sock: (sock.sendall(b'SSH-2.0-Stuck\r\n'), until_the_client_leaves(sock)))
        self.addCleanup(stuck.close)
        self.assertEqual(driver.shake(port=stuck.port, timeout=1).get('problem'), 'connect')
        self.assertEqual(driver.threads_that_stay(), [])

    @in_each_environment
    def test_an_idle_connection_sleeps_and_closes_at_once_all_the_same(self, environment, driver):
        result = driver.idle(port=self.sshd().port, user=self.user, key=self.user_keys['ecdsa'])
        self.assertTrue(result['ended'] and result['reads'] <= 1, result)       # the one that waits now

    @in_each_environment
    def test_keys_are_exchanged_anew_on_a_sleeping_connection(self, environment, driver):
        result = driver.rekey(port=self.sshd().port, user=self.user, key=self.user_keys['ecdsa'])
        self.assertEqual(result, {'output': 'it works\n', 'whole': True})

    @in_each_environment
    def test_a_script_that_ends_with_a_sleeping_connection_ends_at_once(self, environment, driver):
        result = driver.leave_open(port=self.sshd().port, user=self.user, key=self.user_keys['ecdsa'])
        self.assertEqual(result, {})
        driver.close()      # waits until the process has ended
        self.assertEqual(driver.process.returncode, 0, driver.stderr.read_text())

    @in_each_environment
    def test_a_second_hop_goes_through_a_channel_of_the_first(self, environment, driver):
        sshd = self.sshd()
        result = driver.hop(port=sshd.port, user=self.user, key=self.user_keys['ed25519'])
        self.assertEqual(result, {'output': 'it works\n', 'ended': True})

    @in_each_environment
    def test_paramiko_is_brought_up_once_and_without_what_nobody_uses(self, environment, driver):
        result = driver.start()
        self.assertTrue(result['transport'])
        self.assertTrue(result['again'])
        self.assertFalse(result['invoke'])
        self.assertEqual(result['lent'], [])        # stand-ins are not left for other scripts to find
        show(f'{environment:20} import {result["import_ms"]:4.0f} ms, RSS {result["rss_mib"]:3.0f} MiB')


def until_the_client_leaves(sock):
    while sock.recv(65536):
        pass


def show(line):
    if os.environ.get('CODEX_LOGIN_SHOW_TIMES'):
        print(line, file=sys.stderr)


def spoil_signature(client, port):
    """Between a client and a real server: passes all on, but for one bit of the server's first signature."""
    with socket.create_connection(('127.0.0.1', port)) as server, server.makefile('rb') as stream:
        def forth():
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    server.sendall(data)
            shut(server)

        thread = threading.Thread(target=forth, daemon=True)
        thread.start()
        with contextlib.suppress(OSError):
            client.sendall(stream.readline())
            while header := stream.read(5):
                length, padding = int.from_bytes(header[:4], 'big'), header[4]
                packet = bytearray(stream.read(length - 1))
                reply = packet[0] in (31, 33)       # of any key exchange; its signature comes last
                if reply:
                    packet[length - 1 - padding - 1] ^= 1
                client.sendall(header + packet)
                if reply:
                    break
            while data := stream.read1(65536):
                client.sendall(data)
        shut(client)
        thread.join(PATIENCE)


# ---- keys ------------------------------------------------------------------------------------------

class Keys(WithSshd):

    @in_each_environment
    def test_private_keys_of_every_common_form_are_read(self, environment, driver):
        for key in (*self.user_keys.values(), self.key('rsa_pem', '-t', 'rsa', '-m', 'PEM'),
                    self.key('ecdsa_pem', '-t', 'ecdsa', '-m', 'PEM')):
            with self.subTest(key=key):
                result = driver.load(path=key)
                self.assertEqual(result.get('fingerprint'), fingerprint_by_ssh(key), result)

    @in_each_environment
    def test_a_passphrase_is_asked_for_and_checked(self, environment, driver):
        pems = [self.key(f'locked_pem_{type}', '-t', type, '-m', 'PEM', passphrase='open sesame')
                for type in ('rsa', 'ecdsa')]
        pkcs8 = [self.key('locked_pkcs8', '-t', 'rsa', '-m', 'PKCS8', passphrase='open sesame')]
        keys = [self.key(f'locked_{type}', '-t', type, passphrase='open sesame')
                for type in ('rsa', 'ecdsa', 'ed25519')]
        for key in pems if environment in OLD else pems + pkcs8 + keys:
            with self.subTest(key=key):
                self.assertEqual(driver.load(path=key).get('problem'), 'passphrase')
                result = driver.load(path=key, passphrase='open sesame')
                self.assertEqual(result.get('fingerprint'), fingerprint_by_ssh(key), result)
                result = driver.load(path=key, passphrase='close sesame')
                self.assertEqual(result.get('problem'), 'passphrase', result)
                self.assertIn('does not open', result['message'])

    @in_each_environment
    def test_where_no_passphrase_could_help_none_is_asked_for(self, environment, driver):
        if environment not in OLD:
            return      # the others can open these
        for type, cure in (('rsa', '-m PEM'), ('ecdsa', '-m PEM'), ('ed25519', '-N ""')):
            key = self.key(f'locked_{type}', '-t', type, passphrase='open sesame')
            result = driver.load(path=key)
            self.assertEqual(result.get('problem'), 'key', result)
            self.assertIn(cure, result['hint'])
            self.assertIn('--new-key', result['hint'])

    @in_each_environment
    def test_a_key_that_cannot_be_used_says_why_and_what_helps(self, environment, driver):
        plain = Path(self.user_keys['ed25519']).read_text()
        locked = Path(self.key('locked_ed25519', '-t', 'ed25519', passphrase='open sesame')).read_text()

        def file(name, text, mode=0o600):
            path = self.folder / name
            path.write_text(text)
            path.chmod(mode)
            return str(path)

        os.chmod(self.user_keys['ed25519'] + '.pub', 0o600)
        for path, hint in (
            (file('open_to_others', plain, 0o644), 'chmod 600'),
            (self.user_keys['ed25519'] + '.pub', '.pub'),
            (file('cut_short', plain[:150] + plain[-40:]), 'Copy the file again'),
            (file('cut_shorter', locked[:90]), 'Copy the file again'),
            (file('putty.ppk', 'PuTTY-User-Key-File-3: ssh-ed25519\n'), 'puttygen'),
            (file('dsa', pem('DSA')), '--new-key'),
            (file('security_key', armoured(b'sk-ssh-ed25519@openssh.com')), '--new-key'),
            (file('text', 'hello\n'), ''),
            (file('empty', ''), ''),
            (str(self.folder / 'missing'), ''),
            (str(self.folder), ''),
            (file('rubbish', pem('RSA')), '--new-key'),
            (file('cipher', armoured(b'ssh-rsa', cipher=b'aes256-gcm@openssh.com')), '-Z aes256-ctr'),
            (file('binary', '\0\xff' * 100), ''),
        ):
            with self.subTest(path=path):
                result = driver.load(path=path)
                self.assertEqual(result.get('problem'), 'key', result)
                self.assertIn(hint, result['hint'])

    @in_each_environment
    def test_forms_that_old_paramikos_lack_are_named(self, environment, driver):
        for path in (self.key('pkcs8_rsa', '-t', 'rsa', '-m', 'PKCS8'),
                     self.key('pkcs8_ecdsa', '-t', 'ecdsa', '-m', 'PKCS8'),
                     self.key('p384', '-t', 'ecdsa', '-b', '384'),
                     self.key('p521_pem', '-t', 'ecdsa', '-b', '521', '-m', 'PEM')):
            result = driver.load(path=path)
            if environment in OLD:
                self.assertEqual(result.get('problem'), 'key', result)
                self.assertIn('--new-key', result['hint'])
            else:
                self.assertEqual(result.get('fingerprint'), fingerprint_by_ssh(path), result)

    @in_each_environment
    def test_a_new_key_is_one_that_ssh_and_the_device_both_sign_in_with(self, environment, driver):
        sshd = self.sshd()
        key = str(self.folder / ('new ' + environment))
        result = driver.new_key(path=key, comment='codex_login on a phone')
        self.assertEqual(result.get('type'), 'ssh-ed25519', result)
        public = output_of('ssh-keygen', '-y', '-f', key)
        self.assertEqual(public.strip(), result['public'])
        self.assertTrue(public.endswith(' codex_login on a phone\n'))
        Path(key + '.pub').write_text(result['public'] + '\n')
        self.assertEqual(fingerprint_by_ssh(key + '.pub'), result['fingerprint'])
        with open(self.folder / 'authorized_keys', 'a') as file:
            file.write(result['public'] + '\n')
        self.assertEqual(driver.login(port=sshd.port, user=self.user, key=key).get('output'), 'it works\n')
        ssh = subprocess.run(
            ['ssh', '-F', 'none', '-p', str(sshd.port), '-i', key, '-o', 'IdentitiesOnly=yes',
             '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null',
             f'{self.user}@127.0.0.1', 'echo yes'],
            capture_output=True, text=True)
        self.assertEqual(ssh.stdout, 'yes\n', ssh.stderr + sshd.log.read_text())


def pem(type, body='AAAA'):
    return f'-----BEGIN {type} PRIVATE KEY-----\n{body}\n-----END {type} PRIVATE KEY-----\n'


def armoured(type, cipher=b'none'):
    """An OpenSSH-format private key file of that type, with nothing inside."""
    def string(data):
        return len(data).to_bytes(4, 'big') + data

    body = b'openssh-key-v1\0' + string(cipher) + string(b'none') + string(b'') + (1).to_bytes(4, 'big')
    body += string(string(type)) + string(bytes(8) + string(type))
    return pem('OPENSSH', base64.b64encode(body).decode())


if __name__ == '__main__':
    unittest.main()
