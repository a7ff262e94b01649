"""SSH servers of several makers, each in the world of its own that sshd.Sshd makes, with the same words.

    with Dropbear(password='open sesame') as server:
        …connect to 127.0.0.1, server.port, as server.user…

    kind.missing()      why there is no such server here; None where there is
    kind.maker          what it is called
    server.version()    what it calls itself
"""

import fcntl
import functools
import os
import pathlib
import shutil
import socket
import subprocess

import environment
import lab
import sshd

PROGRAMS = pathlib.Path(__file__).resolve().parent / 'programs'
NEXT_RELEASE = 'trixie'
"""Debian's release that has OpenSSH 10."""

FETCH = r'''
set -e
mkdir -p "$0/lists/partial" "$0/cache/archives/partial"
: >"$0/status"
echo "deb http://deb.debian.org/debian $1 main" >"$0/sources.list"
apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$0/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State="$0" \
        -o Dir::State::lists="$0/lists" -o Dir::State::status="$0/status" -o Dir::Cache="$0/cache" \
        -o APT::Sandbox::User= "$@"
}
apt update
apt install -y --no-install-recommends --download-only openssh-server
mkdir "$0/root"
for package in "$0"/cache/archives/openssh-*.deb "$0"/cache/archives/lib*.deb "$0"/cache/archives/zlib*.deb; do
    dpkg-deb -x "$package" "$0/root"
done
rm -r "$0/lists" "$0/cache"
'''


@functools.cache
def newer_openssh():
    """(the /usr of a root folder that has OpenSSH 10 and the libraries it needs, made once; why there is none)."""
    if not shutil.which('apt-get'):
        return None, 'no apt-get: OpenSSH 10 comes from Debian'
    folder = environment.CACHE / f'openssh-{NEXT_RELEASE}'
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f'{folder}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / 'ready').exists():
            shutil.rmtree(folder, ignore_errors=True)
            fetched = subprocess.run(['sh', '-c', FETCH, str(folder), NEXT_RELEASE], capture_output=True, text=True)
            if fetched.returncode:
                return None, f'no OpenSSH of Debian {NEXT_RELEASE}: {fetched.stderr.strip()[-300:]}'
            (folder / 'ready').touch()
    return folder / 'root' / 'usr', None


class OpenSSH(sshd.Sshd):
    """The one of this machine."""
    maker = 'OpenSSH'

    @classmethod
    def missing(cls):
        return sshd.missing()

    def version(self):
        """Its version line, without what all have in common and what the distribution adds."""
        with socket.create_connection((self.address, self.port), 20) as sock, sock.makefile('rb') as stream:
            return stream.readline().decode().strip().removeprefix('SSH-2.0-').split()[0]


class NewerOpenSSH(OpenSSH):
    """Debian's next one, with its own libraries, over this machine's."""

    @classmethod
    def missing(cls):
        return sshd.missing() or newer_openssh()[1]

    @property
    def newer(self):
        return newer_openssh()[0]


class OfAnother(OpenSSH):
    """What is no sshd: it has no configuration, and hands on its own environment."""

    def daemon_environment(self):
        return {**self.base_environment(), **self.environment, 'HOME': self._home_there}

    def _write_config(self):
        pass


class Dropbear(OfAnother):
    maker = 'dropbear'

    @classmethod
    def missing(cls):
        return sshd.missing() or (None if lab.tool('dropbear') and lab.tool('dropbearconvert') else
                                  'no dropbear: apt-get install dropbear-bin')

    def _write_files(self):
        super()._write_files()
        (self.home / '.ssh').mkdir(mode=0o700)
        self._keys = self.home / '.ssh' / 'authorized_keys'
        self._keys.touch(mode=0o600)
        self.authorized_keys = '/run/lab/home/.ssh/authorized_keys'
        # It gives each session a PATH of its own.
        (self.home / '.profile').write_text('PATH=/run/lab/bin:$PATH\n')
        subprocess.run([lab.tool('dropbearconvert'), 'openssh', 'dropbear', self.folder / 'host', self.folder / 'host.dropbear'],
                       check=True, capture_output=True)

    def daemon(self):
        return [lab.tool('dropbear'), '-i', '-e', '-r', '/run/lab/host.dropbear', *(['-s'] if self.password is None else [])]


class OfPython(OfAnother):
    """A server that is a Python library, with a small program of ours around it."""
    @classmethod
    def missing(cls):
        return sshd.missing() or (None if environment.aside('servers', *PYTHON_PACKAGES) else
                                  f'pip could not install {" ".join(PYTHON_PACKAGES)}')

    def _write_files(self):
        super()._write_files()
        shutil.copy(PROGRAMS / self.program, self.folder / self.program)

    def daemon(self):
        return ['sh', '-c', 'exec "$0" "$@" 2>>/run/lab/log', environment.aside('servers', *PYTHON_PACKAGES), f'/run/lab/{self.program}',
                '/run/lab/host', '/run/lab/authorized_keys', self.user, *([self.password] if self.password is not None else [])]


class Asyncssh(OfPython):
    maker, program = 'asyncssh', 'asyncssh_server.py'


class Conch(OfPython):
    maker, program = 'Conch', 'conch_server.py'


PYTHON_PACKAGES = ('asyncssh', 'twisted[conch]')
KINDS = (OpenSSH, NewerOpenSSH, Dropbear, Asyncssh, Conch)


def missing_parts():
    """[(part, how to get it)] of what this machine lacks; packages aside, which are fetched by the first test that needs them."""
    return [('dropbear', 'apt-get install dropbear-bin')] * (not lab.tool('dropbear'))
