"""A phone, a server and the internet between them, on one machine: the laboratory of the real tests.

    phone  ----------------  internet  ----------------  server
    the script, Chromium     routes; auth.openai.com      OpenSSH's sshd, the account, the real codex

Each is a network namespace of its own, so that phone and server both have a 127.0.0.1:1455. The server is a
mount namespace (own accounts, /home, /tmp, /run) and a pid namespace as well: what runs there can be counted
exactly, and ends for certain with the lab. Nothing outside the lab is changed, and nothing in it reaches
beyond this machine.

As root everything works. Without root, where user namespaces are allowed, everything but passwords does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import chromium
from issuer import NAME as ISSUER_NAME
from issuer import Issuer
from waiting import PATIENCE, eventually

USER = 'kim'
SERVER_NAME = 'server.test'
PHONE_ADDRESS, ROAMING_ADDRESS, SERVER_ADDRESS, SERVER_ADDRESS_6, ISSUER_ADDRESS = (
    '10.66.1.2', '10.66.1.3', '10.66.2.2', 'fd66:2::2', '10.66.3.1')
SILENT_ADDRESS = '10.66.9.9'
"""Whatever is sent there vanishes: a filtered port."""

SHELLS = {'bash': 'bash', 'dash': 'dash', 'zsh': 'zsh', 'fish': 'fish', 'tcsh': 'tcsh', 'ash': 'busybox'}
"""Login shells an account may have, and the program that each one is."""

# Where an account adds codex to PATH: for every login shell, or, as nvm does it, for interactive ones.
STARTUP_FILES = {
    ('bash', 'login'): {'.profile': 'PATH={}:$PATH'},
    ('bash', 'interactive'): {'.profile': '. "$HOME/.bashrc"',
                              '.bashrc': 'case $- in *i*) PATH={}:$PATH;; esac'},
    ('dash', 'login'): {'.profile': 'PATH={}:$PATH'},
    ('ash', 'login'): {'.profile': 'PATH={}:$PATH'},
    ('zsh', 'login'): {'.zprofile': 'PATH={}:$PATH'},
    ('zsh', 'interactive'): {'.zshrc': 'PATH={}:$PATH'},
    ('fish', 'login'): {'.config/fish/config.fish': 'status is-login; and set -x PATH {} $PATH'},
    ('fish', 'interactive'): {'.config/fish/config.fish': 'status is-interactive; and set -x PATH {} $PATH'},
    ('tcsh', 'login'): {'.login': 'setenv PATH {}:$PATH'},
    ('tcsh', 'interactive'): {'.cshrc': 'if ($?prompt) setenv PATH {}:$PATH'},
}

CODEX_PACKAGE = '@openai/codex'
CODEX_CACHE = Path.home() / '.cache/codex-login-tests/npm'
SERVER_BIN = '/home/software/bin'
SYSTEM_PATH = '/usr/local/bin:/usr/bin:/bin'
ACCOUNT_ID = 1000


class LabError(Exception):
    """The lab cannot be set up on this machine, or something in it did not happen in time."""


# ---------------------------------------------------------------------------------------------------------
# What the machine has
# ---------------------------------------------------------------------------------------------------------

def find_codex() -> str | None:
    """The real codex: $CODEX_LOGIN_REAL_CODEX, else the tests' own installation, else the one on PATH."""
    cached = str(CODEX_CACHE / 'node_modules/.bin/codex')
    if named := os.environ.get('CODEX_LOGIN_REAL_CODEX'):
        return shutil.which(named)
    return shutil.which(cached) or shutil.which('codex')


def install_codex() -> None:
    """Install the real codex from npm into the tests' cache folder; about 400 MB, once."""
    CODEX_CACHE.mkdir(parents=True, exist_ok=True)
    subprocess.run(['npm', 'install', '--prefix', str(CODEX_CACHE), '--no-audit', '--no-fund', CODEX_PACKAGE],
                   check=True)


def missing_parts(shell: str = 'bash') -> list[tuple[str, str]]:
    """What the real tests need and this machine lacks, each with the way to get it."""
    wanted = [
        ('sshd', tool('sshd'), 'apt-get install openssh-server'),
        ('ssh', tool('ssh'), 'apt-get install openssh-client'),
        ('unshare and nsenter', tool('unshare') and tool('nsenter'), 'apt-get install util-linux'),
        ('ip', tool('ip'), 'apt-get install iproute2'),
        ('codex', find_codex() and shutil.which('node'),
         f'npm install -g {CODEX_PACKAGE}, or set CODEX_LOGIN_REAL_CODEX to its path'),
        ('chromium', chromium.find_chromium(), 'apt-get install chromium'),
        (shell, tool(SHELLS[shell]), f'apt-get install {SHELLS[shell]}'),
    ]
    missing = [(part, way) for part, found, way in wanted if not found]
    if not missing and (reason := namespaces_refused()):
        missing.append(('network namespaces', f'run as root, or allow user namespaces ({reason})'))
    return missing


def openssh_10_options() -> dict[str, str]:
    """sshd options that leave only what OpenSSH 10 offers by default, as far as this sshd knows it."""
    exchanges = ['mlkem768x25519-sha256', 'sntrup761x25519-sha512', 'sntrup761x25519-sha512@openssh.com',
                 'curve25519-sha256', 'curve25519-sha256@libssh.org',
                 'ecdh-sha2-nistp256', 'ecdh-sha2-nistp384', 'ecdh-sha2-nistp521']
    known = subprocess.run(['ssh', '-Q', 'kex'], capture_output=True, text=True, check=True).stdout.split()
    return {'KexAlgorithms': ','.join(name for name in exchanges if name in known)}


def tool(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')


@functools.cache
def namespaces_refused() -> str | None:
    script = """
        ip link add name net0 type veth peer name net1
        ip addr add fd66::1/64 dev net0 nodad
        echo 1 >/proc/sys/net/ipv4/ip_forward
        mount -t tmpfs none /run
    """
    try:
        answer = subprocess.run(['unshare', *user_namespace(), '-nmpf', '--mount-proc', 'sh', '-ec', script],
                                capture_output=True, text=True, timeout=PATIENCE, env=_tool_environment())
    except subprocess.TimeoutExpired:
        return 'unshare hangs'
    return None if answer.returncode == 0 else answer.stderr.strip() or 'unshare fails'


def user_namespace() -> list[str]:
    return [] if os.geteuid() == 0 else ['-Ur']


def _tool_environment() -> dict[str, str]:
    return {**os.environ, 'PATH': os.environ.get('PATH', '') + ':/usr/sbin:/sbin'}


# ---------------------------------------------------------------------------------------------------------
# Namespaces
# ---------------------------------------------------------------------------------------------------------

class Room:
    """One set of namespaces, held open by a process that ends when this one does."""

    def __init__(self, flags: list[str], within: Room | None = None):
        # The holder takes no notice of children that end, so orphans of the server's pid namespace
        # leave no zombies; it tells its pid as the machine sees it, and waits for its stdin to end.
        holder = "trap '' CHLD; read pid rest </proc/self/stat; echo $pid; exec cat >/dev/null"
        prefix = within.enter('-U') if within and within.has_user_namespace else []
        self.has_user_namespace = '-Ur' in flags or bool(prefix)
        self._flags = [flag for flag in flags if flag in ('-n', '-m', '-p')]
        fork = ['--fork', '--kill-child'] if '-p' in flags else []
        self._process = subprocess.Popen(
            [*prefix, 'unshare', *flags, *fork, 'sh', '-c', holder], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_tool_environment())
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f'no namespaces: {self._process.stderr.read().strip()}')
        self.pid = int(line)

    def enter(self, *flags: str) -> list[str]:
        """The command prefix that leads into these namespaces, or into those named by `flags`."""
        flags = flags or tuple(self._flags)
        if self.has_user_namespace:
            flags = ('-U', '--preserve-credentials', *(flag for flag in flags if flag != '-U'))
        return ['nsenter', '-t', str(self.pid), *flags, '--']

    def run(self, script: str, **variables: str) -> str:
        """Run shell commands inside, as root there; returns what they print."""
        answer = subprocess.run([*self.enter(), 'sh', '-ec', script], capture_output=True, text=True,
                                timeout=PATIENCE, env={**_tool_environment(), **variables})
        if answer.returncode:
            raise LabError(f'{answer.stderr.strip()} (in: {script.strip()})')
        return answer.stdout

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


PHONE_NETWORK = f"""
ip link set lo up
ip addr add {PHONE_ADDRESS}/24 dev net0
ip addr add fd66:1::2/64 dev net0 nodad
ip link set net0 up
ip route add default via 10.66.1.1
ip -6 route add default via fd66:1::1
mount --bind "$etc/hosts" /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind "$etc/resolv.conf" /etc/resolv.conf
"""
SERVER_NETWORK = f"""
ip link set lo up
ip addr add {SERVER_ADDRESS}/24 dev net0
ip addr add {SERVER_ADDRESS_6}/64 dev net0 nodad
ip link set net0 up
ip route add default via 10.66.2.1
ip -6 route add default via fd66:2::1
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
"""
INTERNET = f"""
ip link set lo up
ip addr add {ISSUER_ADDRESS}/32 dev lo
for side in 1 2; do
    ip addr add 10.66.$side.1/24 dev net$side
    ip addr add fd66:$side::1/64 dev net$side nodad
    ip link set net$side up
done
ip route add blackhole {SILENT_ADDRESS}
"""
# What is needed of the machine may lie below any of the places that are covered here: it is reached through
# open descriptors, and -c keeps mount from looking for their names. A codex that the machine has is hidden.
SERVER_DISK = f"""
mount -t proc none /proc
for file in passwd group shadow hosts resolv.conf nsswitch.conf; do
    [ ! -e /etc/$file ] || mount --bind "$files/etc/$file" /etc/$file
done
exec 7<"$node" 8<"$files" 9<"$codex_tree"
mount -t tmpfs -o mode=755 none /run
mkdir /run/sshd /run/lab
mount -c --bind /proc/self/fd/8/ssh /run/lab
mount -t tmpfs -o mode=755 none /home
mkdir -p /home/{USER} {SERVER_BIN} /home/software/node_modules
if [ -n "$codex_program" ]; then
    mount -c --bind /proc/self/fd/9 /home/software/node_modules
    ln -s "../node_modules/$codex_program" {SERVER_BIN}/codex
fi
touch {SERVER_BIN}/node
mount -c --bind /proc/self/fd/7 {SERVER_BIN}/node
ln -s "$busybox" {SERVER_BIN}/ash
for folder in {SYSTEM_PATH.replace(":", " ")}; do
    [ ! -e $folder/codex ] || mount --bind /dev/null $folder/codex
done
mount -c --bind /proc/self/fd/8/home /home/{USER}
mount -t tmpfs -o "mode=1777,size=$tmp_size" none /tmp
"""


class Lab:
    """A phone and a server with a real sshd between them. A context manager; several can exist at once.

    shell          the account's login shell, one of SHELLS
    codex_path     where codex is found: on every session's PATH ("session"), on that of "login" shells only
                   or of "interactive" ones only, or None: nowhere
    host_keys      types of the host keys sshd has
    sshd_options   sshd_config options, which win over the lab's own
    session_env    variables of every session at the server, beside the lab's own
    password       the account's password; None allows keys only
    tmp_size       how much fits into the server's /tmp, as mount's size option has it
    """

    def __init__(self, shell: str = 'bash', codex_path: str | None = 'session', port: int = 22,
                 host_keys: tuple[str, ...] = ('ed25519', 'ecdsa', 'rsa'),
                 sshd_options: dict[str, str] | None = None, session_env: dict[str, str] | None = None,
                 password: str | None = None, tmp_size: str = '1g'):
        if password is not None and os.geteuid() != 0:
            raise LabError('passwords need root: sshd reads /etc/shadow')
        self.user, self.host, self.port, self.shell = USER, SERVER_NAME, port, shell
        self._codex_path, self._host_keys, self._password = codex_path, host_keys, password
        self._sshd_options, self._session_env = sshd_options or {}, session_env or {}
        self._tmp_size = tmp_size
        self._programs: list[subprocess.Popen] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        try:
            self._build()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and self.sshd_log():
            print("---- sshd's log ----", self.sshd_log()[-6000:], sep='\n', file=sys.stderr)
        self._cleanup.close()

    # -- the phone --------------------------------------------------------------------------------------

    def phone_command(self, command: Sequence[str | Path] = ()) -> list[str]:
        """The command as it runs on the phone. It is replaced by the program: its pid is the program's."""
        return [*self._phone.enter(), *map(str, command)]

    def phone_popen(self, command: Sequence[str | Path], env: dict[str, str] | None = None,
                    **options) -> subprocess.Popen:
        """Start a program on the phone, with HOME and TMPDIR of the phone and `env` on top."""
        return self._started(subprocess.Popen(self.phone_command(command), env=self._phone_environment(env),
                                              **{'cwd': self.phone_home, **options}))

    def phone_run(self, command: Sequence[str | Path], env: dict[str, str] | None = None,
                  timeout: float = 60, **options) -> subprocess.CompletedProcess:
        """Run a program on the phone to its end."""
        return subprocess.run(self.phone_command(command), env=self._phone_environment(env), timeout=timeout,
                              **{'cwd': self.phone_home, 'capture_output': True, 'text': True, **options})

    def phone_processes(self) -> list[str]:
        """Command lines of what runs on the phone."""
        return [' '.join(_command_line(pid)) for pid in self._phone_pids()]

    def browser(self) -> chromium.Chromium:
        """A browser on the phone that takes the stub issuer for the real one."""
        return chromium.Chromium(self.phone_command(), [self.issuer.key_hash])

    def user_key(self, kind: str = 'ed25519', passphrase: str = '', authorized: bool = True,
                 pem: bool = False) -> Path:
        """A new key pair on the phone, its public half in authorized_keys; the path of the private half."""
        path = Path(tempfile.mkdtemp(prefix=f'{kind}-', dir=self.phone_home / '.ssh')) / f'id_{kind}'
        make_key(path, kind, passphrase, ['-m', 'PEM'] if pem else [])
        if authorized:
            with open(self.home / '.ssh/authorized_keys', 'a') as file:
                file.write(path.with_suffix('.pub').read_text())
        return path

    def known_hosts(self, host: str = SERVER_NAME) -> str:
        """The lines that make the server known to the phone under the name `host`."""
        name = host if self.port == 22 else f'[{host}]:{self.port}'
        keys = [(self._files / f'ssh/host_{kind}.pub').read_text().split()[:2] for kind in self._host_keys]
        return ''.join(f'{name} {kind} {key}\n' for kind, key in keys)

    def trust_server(self) -> Path:
        """Write `known_hosts` into the phone's ~/.ssh; returns the file."""
        file = self.phone_home / '.ssh/known_hosts'
        _write(file, self.known_hosts(), 0o600)
        return file

    def ssh(self, *arguments: str, key: Path) -> list[str]:
        """OpenSSH's own client, for `phone_popen` and `phone_run`, without this machine's settings."""
        known = self.folder / 'known_hosts-of-ssh'
        known.write_text(self.known_hosts())
        return ['ssh', '-F', 'none', '-i', str(key), '-o', 'IdentitiesOnly=yes', '-o', 'BatchMode=yes',
                '-o', f'UserKnownHostsFile={known}', '-o', 'GlobalKnownHostsFile=none',
                '-p', str(self.port), '-l', self.user, *arguments]

    # -- the server -------------------------------------------------------------------------------------

    def server_popen(self, command: Sequence[str | Path], env: dict[str, str] | None = None,
                     **options) -> subprocess.Popen:
        """Start a program as the account at the server, without SSH, in the account's home.

        The pid is not the program's, which has its own there: see `server_processes` and `end_at_server`."""
        return self._started(subprocess.Popen([*self._as_account, *map(str, command)],
                                              env={**self._account_environment(), **(env or {})}, **options))

    def server_run(self, command: Sequence[str | Path], env: dict[str, str] | None = None,
                   timeout: float = 60, **options) -> subprocess.CompletedProcess:
        """Run a program as the account at the server to its end."""
        return subprocess.run([*self._as_account, *map(str, command)], timeout=timeout,
                              env={**self._account_environment(), **(env or {})},
                              **{'capture_output': True, 'text': True, **options})

    def server_processes(self) -> list[str]:
        """Command lines of what runs at the server, but for sshd itself."""
        return [' '.join(words) for pid, words in self._server_pids() if pid != 1 and not _is_sshd(words)]

    def temp_leftovers(self) -> list[str]:
        """What lies in the server's /tmp."""
        return sorted(os.listdir(self.server_tmp))

    def server_leftovers(self, patience: float = 5) -> list[str]:
        """Everything a finished login should have taken away, in words; an empty list is what a test wants.

        What is just ending gets `patience` seconds for it."""
        return eventually(lambda: [f'process {line}' for line in self.server_processes()]
                        + [f'file /tmp/{name}' for name in self.temp_leftovers()]
                        + [f'listener on {port}' for port in self.listeners('server') if port != self.port],
                        patience)

    def phone_leftovers(self, patience: float = 5) -> list[str]:
        """The same for the phone; close the browser first."""
        return eventually(lambda: [f'process {line}' for line in self.phone_processes()]
                        + [f'file {name}' for name in sorted(os.listdir(self.phone_tmp))]
                        + [f'listener on {port}' for port in self.listeners('phone')], patience)

    def end_at_server(self, pattern: str) -> int:
        """Kill what runs at the server with a command line that the pattern is found in; returns how many."""
        found = [pid for pid, words in self._server_pids()
                 if pid != 1 and not _is_sshd(words) and re.search(pattern, ' '.join(words))]
        self._kill(found)
        return len(found)

    def listeners(self, where: str) -> list[int]:
        """The TCP ports listened on at the "phone" or the "server", loopback or not, IPv4 and IPv6."""
        room = {'phone': self._phone, 'server': self._server}[where]
        return sorted({port for _, port in listening_sockets(f'/proc/{room.pid}/net')})

    @property
    def server_tmp(self) -> Path:
        """The server's /tmp, as seen from the test."""
        return Path(f'/proc/{self._server.pid}/root/tmp')

    @property
    def codex_home(self) -> Path:
        """The account's ~/.codex, as seen from the test."""
        return self.home / '.codex'

    def auth_json(self) -> dict | None:
        """What codex saved when it signed in, or None."""
        try:
            return json.loads((self.codex_home / 'auth.json').read_text())
        except FileNotFoundError:
            return None

    # -- what can go wrong ------------------------------------------------------------------------------

    def connections(self) -> list[int]:
        """The SSH connections sshd serves now, each by its process at the server."""
        return sorted(self._connection_processes())

    def connections_made(self) -> int:
        """How many connections sshd has ever taken."""
        return len(re.findall(r'^Connection from ', self.sshd_log(), re.M))

    def cut(self, connection: int | None = None) -> int:
        """End one connection, or all, at the server: sshd's processes die, what they started does not.

        Returns how many were cut."""
        processes = self._connection_processes()
        chosen = processes if connection is None else {connection: processes[connection]}
        self._kill([pid for group in chosen.values() for pid in group])
        return len(chosen)

    def stop_sshd(self) -> None:
        """From now on connections are refused; those that exist go on."""
        self._kill([pid for pid, words in self._server_pids() if _is_listener(words)])
        self._sshd.wait()

    def start_sshd(self) -> None:
        """Accept connections (again)."""
        if self._sshd is not None and self._sshd.poll() is None:
            return
        with open(self._files / 'sshd.log', 'ab') as log:
            self._sshd = subprocess.Popen(
                [*self._as_sshd, tool('sshd'), '-D', '-e', '-f', '/run/lab/sshd_config'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_tool_environment())
        eventually(lambda: self._sshd.poll() is None and self.port not in self.listeners('server'), PATIENCE)
        if self.port not in self.listeners('server'):
            raise LabError(f'sshd did not start: {self.sshd_log()}')

    def reboot_server(self) -> None:
        """Everything at the server ends, its /tmp is emptied, and sshd is back with the same host keys."""
        while others := [pid for pid, _ in self._server_pids() if pid != 1]:
            self._kill(others)
        self._sshd.wait()
        for entry in self.server_tmp.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.start_sshd()

    def network_down(self) -> None:
        """From now on whatever phone and server send each other vanishes; both still reach the issuer."""
        self._forward_packets(False)

    def network_up(self) -> None:
        """The way between phone and server is open (again)."""
        self._forward_packets(True)

    def roam(self) -> None:
        """The phone changes from Wi-Fi to mobile data: another address, and its old connections are dead."""
        self._phone.run(f'ip addr flush dev net0; ip addr add {ROAMING_ADDRESS}/24 dev net0;'
                        'ip addr add fd66:1::3/64 dev net0 nodad;'
                        'ip route add default via 10.66.1.1; ip -6 route replace default via fd66:1::1')

    def sshd_log(self) -> str:
        """What sshd said so far."""
        log = self._files / 'sshd.log'
        return log.read_text(errors='replace') if log.exists() else ''

    # -- building ---------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix='codex-login-lab-'))
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._cleanup.callback(self._reap_programs)
        self._files = self.folder / 'server'
        self.home, self.phone_home = self._files / 'home', self.folder / 'phone'
        self.phone_tmp = self.folder / 'phone-tmp'
        for path in (self._files, self._files / 'etc', self._files / 'ssh', self.home, self.phone_tmp,
                     self.phone_home, self.phone_home / '.ssh', self.home / '.ssh'):
            path.mkdir(mode=0o700)
        self._make_namespaces()
        self.issuer = Issuer(ISSUER_ADDRESS, self.folder, self._internet.enter('-n'))
        self._cleanup.callback(self.issuer.close)
        self._write_server_files()
        self._mount_server_disk()
        self.start_sshd()

    def _make_namespaces(self) -> None:
        self._internet = self._room([*user_namespace(), '-n'])
        self._phone = self._room(['-n', '-m'], self._internet)
        self._cleanup.callback(self._end_phone_programs)
        self._sshd = None
        self._cleanup.callback(lambda: self._sshd and self._sshd.wait())
        self._server = self._room(['-n', '-m', '-p'], self._internet)
        for side, room in ((1, self._phone), (2, self._server)):
            # A cable: one end here in the internet, the other there.
            self._internet.run(f'ip link add name net{side} type veth peer name net0 netns {room.pid}')
        _write(self._files / 'etc/hosts', '127.0.0.1 localhost\n::1 localhost\n'
               f'{ISSUER_ADDRESS} {ISSUER_NAME}\n{SERVER_ADDRESS} {SERVER_NAME}\n', 0o644)
        _write(self._files / 'etc/resolv.conf', '# Names beyond /etc/hosts do not exist here.\n', 0o644)
        self._internet.run(INTERNET)
        self._forward_packets(True)
        self._phone.run(PHONE_NETWORK, etc=str(self._files / 'etc'))
        self._server.run(SERVER_NETWORK)

    def _room(self, flags: list[str], within: Room | None = None) -> Room:
        room = Room(flags, within)
        self._cleanup.callback(room.close)
        return room

    def _write_server_files(self) -> None:
        shell = f'{SERVER_BIN}/ash' if self.shell == 'ash' else tool(SHELLS[self.shell])
        password = '*' if self._password is None else password_hash(self._password)
        etc = self._files / 'etc'
        _write(etc / 'passwd', 'root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n'
               f'{USER}:x:{ACCOUNT_ID}:{ACCOUNT_ID}::/home/{USER}:{shell}\n', 0o644)
        _write(etc / 'group', f'root:x:0:\ntty:x:5:\n{USER}:x:{ACCOUNT_ID}:\nnogroup:x:65534:\n', 0o644)
        _write(etc / 'shadow', f'root:*:19000:0:99999:7:::\n{USER}:{password}:19000:0:99999:7:::\n', 0o600)
        _write(etc / 'nsswitch.conf', 'passwd: files\ngroup: files\nshadow: files\nhosts: files\n', 0o644)
        for kind in self._host_keys:
            make_key(self._files / f'ssh/host_{kind}', kind)
        _write(self._files / 'ssh/sshd_config', self._sshd_config(), 0o600)
        # The account reads its authority's certificate here; the host keys beside it are root's alone.
        (self._files / 'ssh').chmod(0o755)
        shutil.copy(self.issuer.ca_file, self._files / 'ssh/ca.pem')
        _write(self.home / '.ssh/authorized_keys', '', 0o600)
        for name, text in STARTUP_FILES.get((self.shell, self._codex_path), {}).items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            _write(self.home / name, text.replace('{}', SERVER_BIN) + '\n', 0o644)
        if os.geteuid() == 0:
            for path in (self.home, *self.home.rglob('*')):
                os.chown(path, ACCOUNT_ID, ACCOUNT_ID)

    def _sshd_config(self) -> str:
        options = {
            'Port': str(self.port), 'PidFile': 'none', 'LogLevel': 'VERBOSE', 'UseDNS': 'no',
            'PrintMotd': 'no', 'PermitRootLogin': 'no', 'PubkeyAuthentication': 'yes',
            'KbdInteractiveAuthentication': 'no',
            'PasswordAuthentication': 'no' if self._password is None else 'yes',
            'MaxStartups': '200', 'Subsystem': 'sftp internal-sftp',
            'SetEnv': ' '.join(f'"{name}={value}"' for name, value in self._session_environment().items()),
            # Cut connections would make newer servers shut the phone out for a while.
            **({'PerSourcePenalties': 'no'} if _openssh_version() >= (9, 8) else {}),
            **self._sshd_options,
        }
        lines = [f'{name} {value}' for name, value in options.items()]
        return '\n'.join([*lines, *(f'HostKey /run/lab/host_{kind}' for kind in self._host_keys), ''])

    def _session_environment(self) -> dict[str, str]:
        path = f'{SERVER_BIN}:{SYSTEM_PATH}' if self._codex_path == 'session' else SYSTEM_PATH
        return {'PATH': path, 'CODEX_CA_CERTIFICATE': '/run/lab/ca.pem', 'SSL_CERT_FILE': '/run/lab/ca.pem',
                **self._session_env}

    def _mount_server_disk(self) -> None:
        tree, program = _codex_tree()
        self._server.run(SERVER_DISK, files=str(self._files), tmp_size=self._tmp_size,
                         codex_tree=tree, codex_program=program,
                         node=os.path.realpath(shutil.which('node') or '/dev/null'),
                         busybox=tool('busybox') or '/bin/false')
        enter = self._server.enter()
        as_id = [f'--map-user={ACCOUNT_ID}', f'--map-group={ACCOUNT_ID}']
        if os.geteuid() == 0:
            self._as_sshd = enter
            become = ['setpriv', f'--reuid={ACCOUNT_ID}', f'--regid={ACCOUNT_ID}', '--clear-groups', '--']
        else:
            # Where groups cannot be set, sshd works as an ordinary user, for that user alone.
            self._as_sshd = [*enter, 'unshare', '-U', *as_id, '--']
            become = ['unshare', '-U', *as_id, '--']
        self._as_account = [*enter, *become, 'sh', '-c', 'cd && exec "$@"', 'sh']

    def _forward_packets(self, really: bool) -> None:
        """A router that does not forward drops what it gets, without a word to the sender."""
        for switch in ('ipv4/ip_forward', 'ipv6/conf/all/forwarding'):
            self._internet.run(f'echo {int(really)} >/proc/sys/net/{switch}')

    # -- looking and ending -----------------------------------------------------------------------------

    def _phone_environment(self, env: dict[str, str] | None) -> dict[str, str]:
        # What a developer's session brings along must not help, nor disturb.
        mine = {name: value for name, value in os.environ.items() if not name.lower().endswith('_proxy')
                and name not in ('BROWSER', 'DISPLAY', 'WAYLAND_DISPLAY', 'SSH_AUTH_SOCK')}
        return {**mine, 'HOME': str(self.phone_home), 'TMPDIR': str(self.phone_tmp), **(env or {})}

    def _account_environment(self) -> dict[str, str]:
        return {'HOME': f'/home/{USER}', 'USER': USER, 'LOGNAME': USER, 'SHELL': '/bin/sh',
                **self._session_environment()}

    def _phone_pids(self) -> list[int]:
        network = os.readlink(f'/proc/{self._phone.pid}/ns/net')
        found = []
        for pid in _numbers('/proc'):
            with contextlib.suppress(OSError):
                if os.readlink(f'/proc/{pid}/ns/net') == network and _command_line(pid):
                    found.append(pid)
        found.remove(self._phone.pid)
        return found

    def _started(self, program: subprocess.Popen) -> subprocess.Popen:
        self._programs.append(program)
        return program

    def _reap_programs(self) -> None:
        """Their rooms are gone by now, and so are they."""
        for program in self._programs:
            program.wait(PATIENCE)
            for pipe in (program.stdin, program.stdout, program.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def _end_phone_programs(self) -> None:
        for pid in self._phone_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    @property
    def _server_proc(self) -> str:
        return f'/proc/{self._server.pid}/root/proc'

    def _server_pids(self) -> list[tuple[int, list[str]]]:
        """What runs at the server: pids as they are there, with the command line."""
        found = [(pid, _command_line(pid, self._server_proc)) for pid in _numbers(self._server_proc)]
        return [(pid, words) for pid, words in found if words]

    def _connection_processes(self) -> dict[int, list[int]]:
        """For each connection, by its first process: all of sshd's processes that serve it."""
        serving = {pid for pid, words in self._server_pids() if _is_sshd(words) and not _is_listener(words)}
        groups: dict[int, list[int]] = {}
        for pid in serving:
            first = pid
            while (parent := _parent(first, self._server_proc)) in serving:
                first = parent
            groups.setdefault(first, []).append(pid)
        return groups

    def _kill(self, pids: list[int]) -> None:
        """End processes of the server, and wait until they are gone."""
        if not pids:
            return
        self._server.run(f'kill -9 {shlex.join(map(str, pids))} || true')
        if eventually(lambda: {pid for pid, _ in self._server_pids()} & set(pids), PATIENCE):
            raise LabError(f'processes {pids} of the server do not end')


# ---------------------------------------------------------------------------------------------------------
# Small things
# ---------------------------------------------------------------------------------------------------------

def listening_sockets(net: str) -> set[tuple[str, int]]:
    """Address and port of what listens in a network, by its folder in /proc."""
    return {(address, port) for address, port, _ in listening_sockets_with_inodes(net)}


def listening_sockets_with_inodes(net: str) -> list[tuple[str, int, int]]:
    """The same with the socket's number, by which its process can be found."""
    found = []
    for table, family in (('tcp', socket.AF_INET), ('tcp6', socket.AF_INET6)):
        for line in Path(f'{net}/{table}').read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == '0A':
                address, port = words[1].split(':')
                # Each group of four bytes stands there as this machine holds a number.
                packed = b''.join(struct.pack('=I', int(address[at:at + 8], 16)) for at in range(0, len(address), 8))
                found.append((socket.inet_ntop(family, packed), int(port, 16), int(words[9])))
    return found


def _write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)


def make_key(path: Path, kind: str, passphrase: str = '', options: Sequence[str] = ()) -> None:
    size = ['-b', '2048'] if kind == 'rsa' else []
    subprocess.run(['ssh-keygen', '-q', '-t', kind, *size, '-N', passphrase, '-C', 'lab', '-f', str(path),
                    *options], check=True, stdin=subprocess.DEVNULL)


def _openssh_version() -> tuple[int, int]:
    said = subprocess.run(['ssh', '-V'], capture_output=True, text=True).stderr
    found = re.search(r'OpenSSH_(\d+)\.(\d+)', said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def password_hash(password: str) -> str:
    return subprocess.run(['openssl', 'passwd', '-6', '-stdin'], input=password, text=True, check=True,
                          capture_output=True).stdout.strip()


def _codex_tree() -> tuple[str, str]:
    """The folder that holds all of codex, and its program within. Without a codex: any folder, no program.

    npm may have put the native half beside the package or below it, so that is the outermost node_modules."""
    codex = find_codex()
    if codex is None:
        return '/', ''
    program = Path(codex).resolve()
    modules = [parent for parent in program.parents if parent.name == 'node_modules']
    tree = modules[-1] if modules else program.parent
    return str(tree), str(program.relative_to(tree))


def _numbers(folder: str) -> list[int]:
    return [int(name) for name in os.listdir(folder) if name.isdigit()]


def _command_line(pid: int, proc: str = '/proc') -> list[str]:
    """The words of a process's command line; none for one that has ended."""
    try:
        words = Path(f'{proc}/{pid}/cmdline').read_bytes().rstrip(b'\0').decode(errors='replace')
    except OSError:
        return []
    return words.split('\0') if words else []


def _parent(pid: int, proc: str) -> int | None:
    try:
        return int(Path(f'{proc}/{pid}/stat').read_text().rsplit(')', 1)[1].split()[1])
    except OSError:
        return None


def _is_sshd(words: list[str]) -> bool:
    return re.match(r'(\S*/)?sshd(-session|-auth)?(:|$)', words[0]) is not None


def _is_listener(words: list[str]) -> bool:
    return _is_sshd(words) and '[listener]' in words[0]
