"""OpenSSH's sshd, real and light: one account in a world of its own, in a tenth of a second.

    with Sshd() as server:                      # has the words of EmbeddedServer: user, port, home, authorize …
        …connect to 127.0.0.1, server.port, as server.user…
    with Sshd(tmp='full', shell='zsh') as server:
    with Sshd(start={'.bashrc': 'sleep 60 &'}, without=['setsid']) as server:

The server has its own files, accounts and loopback: the phone's 127.0.0.1:1455 and the server's are two. It has no
wire, though. Connections are taken here, on this machine's loopback, and each is handed to an `sshd -i` over there. So
it needs no network of its own and takes cuts from a relay. For what needs routes, a password or codex itself, see lab.
"""

import contextlib
import functools
import os
import pathlib
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading

import embedded
import lab

ACCOUNT_ID = 0 if os.geteuid() == 0 else 1000

START = {'bash': '.bashrc', 'zsh': '.zshenv', 'fish': '.config/fish/config.fish', 'tcsh': '.cshrc'}
"""The file that an account's shell reads for `ssh host command`, by the shell."""

DISK = """
mount -t proc none /proc
for file in passwd group shadow nsswitch.conf; do
    [ ! -e /etc/$file ] || mount --bind "$files/etc/$file" /etc/$file
done
exec 8<"$files"
if [ -n "$newer" ]; then        # programs and libraries of a newer release, over this machine's own
    mount -t overlay -o "lowerdir=$newer:/usr" none /usr
fi
mount -t tmpfs -o mode=755 none /run
mkdir /run/sshd /run/lab
mount -c --bind /proc/self/fd/8 /run/lab
mount --bind /run/lab/tmp /tmp
case $tmp in
    noexec) mount -o remount,bind,noexec /tmp;;
    full)   mount -t tmpfs -o mode=1777,size=4k none /tmp; head -c 4096 /dev/zero >/tmp/old;;
esac
if [ -n "$without" ]; then      # gone, not only shut: shells find what cannot be run as well
    mkdir /run/less /run/less/upper /run/less/work
    mount -t overlay -o lowerdir=/usr/bin,upperdir=/run/less/upper,workdir=/run/less/work none /usr/bin
    (cd /usr/bin; rm $without)
fi
ip link set lo up
"""


def missing():
    """Why there is no such server on this machine; None where there is."""
    for tool, package in (('sshd', 'openssh-server'), ('ssh-keygen', 'openssh-client'), ('unshare', 'util-linux')):
        if not lab.tool(tool):
            return f'no {tool}: apt-get install {package}'
    refused = lab.namespaces_refused()
    return refused and f'no namespaces: run as root, or allow user namespaces ({refused})'


@functools.cache
def _host_key():
    """One key for all servers of a run: making it is not what a test is about."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix='sshd-key-'))
    lab.make_key(folder / 'host', 'ed25519')
    private, public = (folder / 'host').read_text(), (folder / 'host.pub').read_text()
    shutil.rmtree(folder)
    return private, public


class Sshd:
    """A server with one account. A context manager.

    shell       the account's: one of lab.SHELLS, or the path of a program
    start       texts of files in its home by their names: what its shell reads when it starts
    home_is     'there', or 'missing': the account's home does not exist
    tmp         its /tmp: 'own', 'full' or 'noexec'
    without     programs of /usr/bin that the server has not got
    password    the account's; None allows keys only. Only root can have one
    options     of sshd_config
    """

    address = '127.0.0.1'
    newer = ''                                  # a folder of programs and libraries that the server has in place of /usr's

    def __init__(self, shell='bash', start=None, home_is='there', tmp='own', without=(), user='kim', password=None,
                 **options):
        self.user, self.mark, self.password = user, secrets.token_hex(8), password
        self.environment = {}                   # added to what each session gets, from the next connection on
        self._shell, self._start, self._home_is = shell, start or {}, home_is
        self._kind_of_tmp, self._without, self._options = tmp, without, options
        self.connections = 0
        self._socks, self._processes = set(), []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self):
        if reason := missing():
            raise lab.LabError(reason)
        try:
            self._build()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind is not None and self.log():
            print("---- sshd's log ----", self.log()[-6000:], sep='\n', file=sys.stderr)
        self._cleanup.close()

    def _build(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='sshd-'))
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.home, self.tmp, self.bin = (self.folder / name for name in ('home', 'tmp', 'bin'))
        for folder in (self.folder / 'etc', self.home, self.tmp, self.bin):
            folder.mkdir(mode=0o755)
        self.tmp.chmod(0o1777)
        self._room = lab.Room([*lab.user_namespace(), '-n', '-m', '-p'])
        self._cleanup.callback(self._room.close)
        self._cleanup.callback(self._end_all)
        self._write_files()
        self._room.run(DISK, files=str(self.folder), without=' '.join(self._without), tmp=self._kind_of_tmp,
                       newer=str(self.newer))
        # The account is whoever runs the tests, under another name: what they may read, it may.
        become = ['unshare', '-U', f'--map-user={ACCOUNT_ID}', f'--map-group={ACCOUNT_ID}', '--'] if ACCOUNT_ID else []
        self._sshd = [*self._room.enter(), *become, *self.daemon()]
        self._listener = socket.create_server((self.address, 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def daemon(self):
        """The program that serves one connection, which is its standard input and output."""
        return [lab.tool('sshd'), '-i', '-f', '/run/lab/sshd_config', '-E', '/run/lab/log']

    def _write_files(self):
        shell = lab.tool(lab.SHELLS.get(self._shell, self._shell))
        if shell is None:
            raise lab.LabError(f'no {self._shell}: apt-get install {lab.SHELLS.get(self._shell, self._shell)}')
        if self._shell == 'ash':                # busybox does what it is called
            (self.bin / 'ash').symlink_to(shell)
            shell = '/run/lab/bin/ash'
        self.shell = shell
        self._home_there = '/proc/no-such-home' if self._home_is == 'missing' else '/run/lab/home'
        user, number = self.user, ACCOUNT_ID
        secret = '*' if self.password is None else lab.password_hash(self.password)
        for name, text in {
                'passwd': 'root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n'
                          f'{user}:x:{number}:{number}::{self._home_there}:{shell}\n',
                'group': f'root:x:0:\ntty:x:5:\n{user}:x:{number}:\nnogroup:x:65534:\n',
                'shadow': f'root:*:19000:0:99999:7:::\n{user}:{secret}:19000:0:99999:7:::\n',
                'nsswitch.conf': 'passwd: files\ngroup: files\nshadow: files\nhosts: files\n'}.items():
            (self.folder / 'etc' / name).write_text(text)
        for name, text in self._start.items():
            (self.home / name).parent.mkdir(parents=True, exist_ok=True)
            (self.home / name).write_text(text + '\n')
        private, self._public = _host_key()
        (self.folder / 'host').touch(mode=0o600)
        (self.folder / 'host').write_text(private)
        self._keys = self.folder / 'authorized_keys'
        self._keys.touch()
        self.authorized_keys = '/run/lab/authorized_keys'      # as it is called at the server

    def _write_config(self):
        session = {**self.base_environment(), **self.environment}
        options = {
            'HostKey': '/run/lab/host', 'AuthorizedKeysFile': '/run/lab/authorized_keys', 'PermitRootLogin': 'yes',
            'StrictModes': 'no', 'PidFile': 'none',
            'UsePAM': 'no', 'PasswordAuthentication': 'no' if self.password is None else 'yes',
            'KbdInteractiveAuthentication': 'no', 'UseDNS': 'no',
            'LogLevel': 'VERBOSE', 'PrintMotd': 'no', 'Subsystem': 'sftp internal-sftp',
            'SetEnv': ' '.join(f'"{name}={value}"' for name, value in session.items()), **self._options}
        text = ''.join(f'{name} {value}\n' for name, value in options.items())
        new = self.folder / 'sshd_config.new'       # at once: the sshd of the connection before may be about to read it
        new.write_text(text)
        new.replace(self.folder / 'sshd_config')

    def _accept(self):
        while True:
            try:
                sock = self._listener.accept()[0]
            except OSError:
                return
            self.connections += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._write_config()
            with sock:
                # In a session of its own: what is typed at the tests' terminal is not for it.
                self._processes.append(subprocess.Popen(
                    self._sshd, stdin=sock, stdout=sock, stderr=subprocess.DEVNULL, start_new_session=True,
                    env=self.daemon_environment()))

    def _end_all(self):
        # A listener that is closed does not wake the thread that waits for one; a shutdown does.
        with contextlib.suppress(OSError, AttributeError):
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._accepting.join(5)
        embedded.end_marked_processes(self.mark)
        for process in self._processes:
            process.kill()
            process.wait()

    # What the account has

    def install(self, name='codex', folder=None):
        """Put the stand-in CLI of that name into a folder, by default one on PATH."""
        path = pathlib.Path(folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A copy: the original may lie below a folder that is another one at the server.
        shutil.copy(embedded.STAND_IN, self.folder / 'stand_in_codex.py')
        # The Python below a virtual environment: the environment may lie in /tmp, which the server has its own of.
        command = shlex.join([sys._base_executable, '-I', '-S', '/run/lab/stand_in_codex.py', name])
        return self.add_program(name, f'#!/bin/sh\nexec {command} "$@"\n', path.parent)

    def add_program(self, name, text, folder=None):
        """Put a program of one's own into a folder, by default one on PATH."""
        path = pathlib.Path(folder or self.bin) / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def hide(self, name):
        """Move a program from the PATH of every session to /run/lab/elsewhere."""
        (self.folder / 'elsewhere').mkdir(exist_ok=True)
        (self.bin / name).rename(self.folder / 'elsewhere' / name)

    def authorize(self, line):
        """Let a key in: a line as in id_ed25519.pub."""
        with self._keys.open('a') as lines:
            lines.write(line.strip() + '\n')

    def daemon_environment(self):
        """What the daemon's process finds; None: what this one has."""

    def base_environment(self):
        """What a session finds before `environment` is added."""
        return {'PATH': f'/run/lab/bin:{embedded.SYSTEM_PATH}', embedded.MARK: self.mark,
                'STAND_IN_PORT': str(self.announced_port)}

    @functools.cached_property
    def announced_port(self):
        """The port at the server that the stand-in CLI listens on; free at the phone as well."""
        return embedded.free_port()

    def known_hosts(self):
        """Its line for a known_hosts file."""
        return f'[{self.address}]:{self.port} {" ".join(self._public.split()[:2])}\n'

    # What is there

    def run(self, script):
        """What a shell at the server prints that runs as its root."""
        return self._room.run(script)

    def popen(self, command, **options):
        """Start a program at the server, without SSH; it ends with the server at the latest."""
        return subprocess.Popen([*self._room.enter(), *map(str, command)], **options)

    def listeners(self):
        """(address, port) of all that listens at the server."""
        return lab.listening_sockets(f'/proc/{self._room.pid}/net')

    def leftovers(self, patience=5.0):
        """Processes and temporary files that sessions left; those that are just ending get patience."""
        def look():
            processes = [f'process {pid}: {line}' for pid, line in embedded.marked_processes(self.mark).items()]
            return processes + [f'file {path}' for path in sorted(self.tmp.rglob('*'))]
        return embedded.eventually(look, patience)

    def serves(self):
        """How many connections it has now."""
        return sum(process.poll() is None for process in self._processes)

    def log(self):
        """What sshd said so far."""
        log = self.folder / 'log'
        return log.read_text(errors='replace') if log.exists() else ''
