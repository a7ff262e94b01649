"""ssh is the oracle: the same words to plain OpenSSH and to the script, at the same server, and what came of it.

    oracle = Oracle(server, home)
    oracle.run(command='exit 3').same('stdout', 'status')
    both = oracle.run('-L', f'{port}:127.0.0.1:{target}', '-N', meanwhile=lambda: visit(port))
    both.same('listens', 'meanwhile')

The server is an EmbeddedServer or a real Sshd. ssh looks for its files in the home that the account has, not in $HOME:
so it runs where /etc/passwd says that the present user is `person` and lives in `home`. Both are given
their words in the same place, the same environment and the same standard input; one after the other, since both
may want the same ports.
"""

import contextlib
import dataclasses
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import embedded
import lab
from harness import PATIENCE, SCRIPT

AS_PERSON = 'mount --bind "$0" /etc/passwd; exec "$@"'


def missing():
    """Why ssh cannot be asked on this machine; None where it can."""
    if not lab.tool('ssh'):
        return 'no ssh: apt-get install openssh-client'
    refused = lab.namespaces_refused()
    return refused and f'no namespaces: run as root, or allow user namespaces ({refused})'


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one of the two did."""

    stdout: bytes
    stderr: bytes
    status: int | None              # None: it was at work still, and ended by the test
    listens: frozenset              # (where, address, port); where is 'here' or 'there', at the server
    meanwhile: object               # what the test saw while it was at work

    def __str__(self):
        words = [f'exit {self.status}', f'listens {sorted(self.listens)}', f'meanwhile {self.meanwhile!r}']
        return ', '.join(words) + f'\n  stdout {self.stdout[-2000:]!r}\n  stderr {self.stderr[-2000:]!r}'


@dataclasses.dataclass(frozen=True)
class Both:
    """Two outcomes, to be compared."""

    words: tuple
    ssh: Outcome
    script: Outcome

    def same(self, *names):
        """Fail unless both agree in these: stdout, stderr, status, listens, meanwhile. Returns ssh's outcome."""
        other = [name for name in names if getattr(self.ssh, name) != getattr(self.script, name)]
        assert not other, (f'{", ".join(other)} not as ssh has it: {" ".join(map(str, self.words))}\n'
                           f'ssh: {self.ssh}\nthe script: {self.script}')
        return self.ssh


class Oracle:
    """Asks ssh. The home is a harness.Home; what it has in .ssh counts for both."""

    def __init__(self, server, home):
        self.server, self.home = server, home
        self._passwd = home.folder / 'passwd'
        # In a user namespace of one's own one is 0 as well.
        self._passwd.write_text(f'person:x:0:0::{home.folder}:/bin/sh\n')
        self._server_had = frozenset()

    @property
    def here(self):
        """The words for where the server is and who one is there."""
        return ['-p', str(self.server.port), f'{self.server.user}@{self.server.address}']

    def run(self, *options, to=None, command=None, stdin=b'', meanwhile=None):
        """Run both with the same words; `to` are the words for the destination, by default the server's.

        meanwhile   called while it is at work and listens; then it is ended, and has no status
        """
        to = self.here if to is None else [to] if isinstance(to, str) else to
        words = [*map(str, options), *map(str, to), *([command] if isinstance(command, str) else command or [])]
        ssh = self._run(self.ssh_command(*words), stdin, meanwhile)
        script = self._run([sys.executable, str(SCRIPT), *words], stdin, meanwhile)
        return Both(tuple(words), ssh, script)

    def run_script(self, *options, command, stdin=b''):
        """What the script alone does."""
        return self._run([sys.executable, str(SCRIPT), *map(str, options), *self.here, command], stdin, None)

    def ask_ssh(self, *words, patience=PATIENCE):
        """What ssh alone says to some words: `-G` shows what it has understood."""
        return subprocess.run(self.ssh_command(*words), env=self.home.environment(),
                              cwd=self.home.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience)

    def ssh_command(self, *words):
        """The command that is ssh with these words, as a person who lives in the home."""
        return ['unshare', *lab.user_namespace(), '-m', 'sh', '-ec', AS_PERSON, str(self._passwd), lab.tool('ssh'),
                *words]

    def _run(self, command, stdin, meanwhile):
        mark = secrets.token_hex(8)
        self._server_had = self._at_server()
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.home.folder,
            env={**self.home.environment(), embedded.MARK: mark}, start_new_session=True)
        said = {}
        talk = threading.Thread(target=lambda: said.update(zip(('stdout', 'stderr'), process.communicate(stdin))))
        try:
            seen, listens = None, frozenset()
            talk.start()
            if meanwhile is not None:
                listens = self._wait_for_listeners(process)
                seen = meanwhile()
                listens = self._listeners(process.pid)
                process.send_signal(signal.SIGTERM)
            talk.join(PATIENCE)
            assert not talk.is_alive(), f'still running after {PATIENCE} s: {command}'
        finally:
            embedded.end_marked_processes(mark)
            talk.join(5)
        return Outcome(said['stdout'], said['stderr'], None if meanwhile else process.returncode, listens, seen)

    def _wait_for_listeners(self, process):
        deadline = time.monotonic() + PATIENCE
        while not (found := self._listeners(process.pid)):
            if process.poll() is not None:
                raise AssertionError(f'ended with {process.returncode}, and never listened')
            assert time.monotonic() < deadline, f'listens on nothing after {PATIENCE} s'
            time.sleep(0.01)
        return found

    def _listeners(self, pid):
        here = {('here', *where) for where in _listening(pid)}
        return frozenset(here) | {('there', *where) for where in self._at_server() - self._server_had}

    def _at_server(self):
        if hasattr(self.server, 'listeners'):
            return frozenset(self.server.listeners())
        return frozenset(_listening(os.getpid()))       # an embedded server's are this process's own


def _listening(pid):
    """(address, port) of what one process listens on."""
    numbers = set()
    with contextlib.suppress(OSError):
        for entry in Path(f'/proc/{pid}/fd').iterdir():
            with contextlib.suppress(OSError):
                name = os.readlink(entry)
                if name.startswith('socket:['):
                    numbers.add(int(name[8:-1]))
        return {(address, port) for address, port, number in lab.listening_sockets_with_inodes(f'/proc/{pid}/net')
                if number in numbers}
    return set()
