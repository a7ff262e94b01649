"""OpenSSH's sshd on a loopback port of this very machine, for the account that runs the tests: no namespaces, as for a benchmark."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from embedded import free_port
from waiting import until


class Sshd:
    """OpenSSH's sshd, its own configuration and keys, on a loopback port, for the account that runs it."""

    PROGRAM = shutil.which('sshd', path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/local/sbin')

    def __init__(self, **options):
        self.folder = Path(tempfile.mkdtemp(prefix='sshd-'))
        self.user, self.port = getpass.getuser(), free_port()
        self.key, self.known_hosts = self.folder / 'user', self.folder / 'known_hosts'
        self._make_key('host', 'ed25519')
        self._make_key('user', 'ecdsa')
        (self.folder / 'authorized_keys').write_text((self.folder / 'user.pub').read_text())
        self.known_hosts.write_text(f'[127.0.0.1]:{self.port} {(self.folder / "host.pub").read_text()}')
        settings = {'Port': self.port, 'ListenAddress': '127.0.0.1', 'HostKey': self.folder / 'host',
                    'AuthorizedKeysFile': self.folder / 'authorized_keys', 'StrictModes': 'no',
                    'UsePAM': 'no', 'PidFile': 'none', 'PermitRootLogin': 'yes', 'MaxStartups': 100,
                    **options}
        (self.folder / 'config').write_text(''.join(f'{key} {value}\n' for key, value in settings.items()))
        if os.geteuid() == 0:
            Path('/run/sshd').mkdir(exist_ok=True)      # sshd's privilege separation wants it
        self._process = None

    def _make_key(self, name, kind):
        subprocess.run(['ssh-keygen', '-q', '-m', 'PEM', '-t', kind, '-N', '', '-f', self.folder / name],
                       check=True)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)

    def start(self):
        """Listen, in a session of its own, so that all its processes can be told from others."""
        with open(self.folder / 'log', 'ab') as log:
            self._process = subprocess.Popen([self.PROGRAM, '-D', '-e', '-f', self.folder / 'config'],
                                             stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
        until(lambda: can_connect(self.port), 'sshd listens')

    def stop(self):
        """End the listener and every connection."""
        self.cut()
        self._process.kill()
        self._process.wait()

    def children(self):
        """The process ids of its connections, those of their children included."""
        found, tree = [], _process_tree()
        level = tree.get(self._process.pid, [])
        while level:
            found += level
            level = [child for pid in level for child in tree.get(pid, [])]
        return found

    def signal_connections(self, number):
        """Send every connection's processes a signal: SIGSTOP freezes, SIGCONT thaws."""
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def cut(self):
        """End every connection; new ones are accepted."""
        self.signal_connections(signal.SIGKILL)


def _process_tree():
    tree = {}
    listing = subprocess.run(['ps', '-axo', 'pid=,ppid='], capture_output=True, text=True, check=True).stdout
    for line in listing.splitlines():
        pid, parent = map(int, line.split())
        tree.setdefault(parent, []).append(pid)
    return tree


def can_connect(port):
    """Whether something on loopback takes a connection to this port."""
    try:
        socket.create_connection(('127.0.0.1', port), 1).close()
        return True
    except OSError:
        return False
