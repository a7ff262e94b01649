"""Runs scripts/codex_login.py as a person's phone would, and plays the person: terminal, browser, patience.

    home = Home(folder)                     # a private home: ssh keys, known hosts, browser, clipboard
    home.trust(server)
    with Script(home, f'{server.user}@127.0.0.1', '-p', server.port) as script:
        url = script.wait_for('sign-in')['url']
        assert Browser(url).sign_in().status == 200
        assert script.wait() == 0

Every wait has a limit, and what goes over it fails with all that the script said.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

import embedded
import forkserver
import waiting
from waiting import PATIENCE
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'scripts' / 'codex_login.py'

# Opening a terminal makes it a session leader's controlling one: a password prompt finds it at /dev/tty.
ON_TERMINAL = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Home:
    """The person's side: a private home with ssh's files; a browser and a clipboard that only take notes."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.ssh = self.folder / '.ssh'
        self.tmp = self.folder / 'tmp'
        self.bin = self.folder / 'bin'
        for folder in (self.folder, self.ssh, self.tmp, self.bin):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.known_hosts = self.ssh / 'known_hosts'
        self.config = self.ssh / 'config'
        self._browser_notes = self.folder / 'browser-notes'
        self._clipboard_notes = self.folder / 'clipboard-notes'
        self._tool('browser', f'printf "%s\\n" "$1" >> "{self._browser_notes}"')

    def trust(self, server):
        """Know the server's host keys."""
        with self.known_hosts.open('a') as lines:
            lines.write(server.known_hosts())

    def make_key(self, server=None, name='id_ed25519', passphrase=None):
        """A key of one's own; let in by the server, if one is given."""
        key = ed25519.Ed25519PrivateKey.generate()
        encryption = (serialization.BestAvailableEncryption(passphrase.encode()) if passphrase
                      else serialization.NoEncryption())
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        file = self.ssh / name
        file.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption))
        file.chmod(0o600)
        file.with_suffix('.pub').write_text(f'{public} person@phone\n')
        if server is not None:
            server.authorize(public)
        return file

    def own_clipboard(self):
        """Have a clipboard, as a desktop with X has. Returns the environment in which the script sees it."""
        for name in ('xclip', 'pbcopy'):
            self._tool(name, f'case " $* " in *" -o "*) cat "{self._clipboard_notes}";; *) cat > "{self._clipboard_notes}";; esac')
        return {'DISPLAY': ':99'}

    @property
    def clipboard(self):
        """The text copied last."""
        try:
            return self._clipboard_notes.read_text()
        except FileNotFoundError:
            return ''

    @property
    def opened(self):
        """The addresses handed to the browser so far."""
        try:
            return self._browser_notes.read_text().splitlines()
        except FileNotFoundError:
            return []

    def leftovers(self):
        """Temporary files and saved logins that the script left here."""
        kept = {self.folder / '.local/state/codex-login/pins.json'}
        left = [*self.tmp.rglob('*'), *({*self.folder.glob('.local/state/**/*.*')} - kept)]
        return [f'file {path.relative_to(self.folder)}' for path in sorted(left)]

    def environment(self):
        """The environment of a person who lives here; nothing of the real one's ssh, browser or display."""
        return {'HOME': str(self.folder), 'TMPDIR': str(self.tmp),
                'PATH': f'{self.bin}:{embedded.SYSTEM_PATH}', 'BROWSER': str(self.bin / 'browser'),
                'TERM': 'xterm', 'LANG': 'C.UTF-8', 'USER': 'person', 'LOGNAME': 'person', 'SHELL': '/bin/sh'}

    def _tool(self, name, command):
        path = self.bin / name
        path.write_text(f'#!/bin/sh\n{command}\n')
        path.chmod(0o755)


class Script:
    """One run of codex_login.py: its events (or its plain text), its terminal if it has one, its end.

    home            a Home, or what has its `folder` and `environment()`
    terminal        whether a person sits there; where events are wanted, standard output is a pipe even so
    piped           whether a test gives it its standard input, by give(); else that is empty
    python, script  what runs, by default this Python and the project's script
    enter           a command prefix that leads elsewhere, into a network namespace say
    plain           whether it is started as a person starts it, and not forked by the test's own helper
    """

    made = []           # every run, for whoever tells how a test went

    def __init__(self, home, *arguments, json_events=True, terminal=False, piped=False, environment=None,
                 python=sys.executable, script=SCRIPT, cwd=None, enter=(), plain=False):
        self.arguments = [str(word) for word in arguments]
        self.made.append(self)
        self.mark = secrets.token_hex(8)
        self.events = []
        self._streams = {'stdout': bytearray(), 'stderr': bytearray(), 'terminal': bytearray()}
        self._changed = threading.Condition()
        self._next_event = 0
        self._next_answer = 0
        self._master = self._given = None
        words = [*(['--json'] if json_events else []), *self.arguments]
        setting = {'env': {**home.environment(), embedded.MARK: self.mark, **(environment or {})},
                   'cwd': cwd or home.folder}
        if not enter and not plain and forkserver.can_run(str(python), setting['env']):
            def start(**streams):
                return forkserver.run_script(script, words, **setting, **streams)
        else:
            command = [*enter, str(python), str(script), *words]
            if terminal:
                command = [sys.executable, '-I', '-S', '-c', ON_TERMINAL, *command]

            def start(**streams):
                return subprocess.Popen(command, start_new_session=True, **setting, **streams)
        if terminal:
            self._start_on_terminal(start, json_events)
        else:
            heard, self._given = os.pipe() if piped else (os.open(os.devnull, os.O_RDONLY), None)
            try:
                self.process = start(stdin=heard, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            finally:
                os.close(heard)
            self._readers = [self._reader('stdout', self.process.stdout.fileno()),
                             self._reader('stderr', self.process.stderr.fileno())]

    def _start_on_terminal(self, start, json_events):
        self._master, slave = os.openpty()
        try:
            self.process = start(stdin=slave, stderr=slave, stdout=subprocess.PIPE if json_events else slave)
        finally:
            os.close(slave)
        self._readers = [self._reader('terminal', self._master)]
        if json_events:
            self._readers.append(self._reader('stdout', self.process.stdout.fileno()))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print(self.report(), file=sys.stderr)
        self.close()

    def _reader(self, name, descriptor):
        thread = threading.Thread(target=self._read, args=(name, descriptor), daemon=True)
        thread.start()
        return thread

    def _read(self, name, descriptor):
        pending = b''
        while True:
            try:
                data = os.read(descriptor, 65536)
            except OSError:
                # A terminal whose last user has gone answers with an error, not with end of file.
                data = b''
            with self._changed:
                self._streams[name] += data
                if name == 'stdout':
                    *lines, pending = (pending + data).split(b'\n')
                    self.events += filter(None, map(_event, lines))
                self._changed.notify_all()
            if not data:
                return

    # What it said

    @property
    def stdout(self):
        """Its standard output so far."""
        return self._streams['stdout'].decode(errors='replace')

    @property
    def stderr(self):
        """Its standard error so far; empty on a terminal."""
        return self._streams['stderr'].decode(errors='replace')

    @property
    def screen(self):
        """What its terminal showed so far."""
        return self._streams['terminal'].decode(errors='replace')

    def next_event(self, timeout=PATIENCE):
        """The next event, or None when the script said its last."""
        def look():
            if self._next_event < len(self.events):
                return self.events[self._next_event]
            return None if self._reading() else 'end'
        event = self._until(look, 'no further event', timeout)
        if event == 'end':
            return None
        self._next_event += 1
        return event

    def wait_for(self, name, timeout=PATIENCE, **fields):
        """The next event of that name (and those fields); those before it are passed over."""
        deadline = time.monotonic() + timeout
        try:
            while event := self.next_event(deadline - time.monotonic()):
                if event['event'] == name and all(event.get(key) == value for key, value in fields.items()):
                    return event
        except AssertionError:
            raise AssertionError(f'no event {name!r} {fields or ""} within {timeout} s') from None
        raise AssertionError(f'no event {name!r} {fields or ""} before the script ended')

    def wait_for_text(self, pattern, timeout=PATIENCE):
        """The first match of a regular expression in its standard output (on a terminal: its screen)."""
        def look():
            return re.search(pattern, self.screen if self._master is not None else self.stdout, re.MULTILINE)
        return self._until(look, f'nothing matched {pattern!r}', timeout)

    def _until(self, look, complaint, timeout):
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                reading = self._reading()
                if (found := look()) is not None:
                    return found
                if not reading:
                    raise AssertionError(f'{complaint} before the script ended')
                if (left := deadline - time.monotonic()) <= 0:
                    raise AssertionError(f'{complaint} within {timeout} s')
                self._changed.wait(min(left, 0.5))

    def _reading(self):
        return any(thread.is_alive() for thread in self._readers)

    def report(self):
        """All that is known, for a failed test."""
        streams = '\n'.join(f'--- {name} ---\n{text[-20000:].decode(errors="replace")}'
                            for name, text in self._streams.items() if text)
        return f'--- codex_login.py {" ".join(self.arguments)} · exit {self.process.poll()} ---\n{streams}'

    # What is done to it

    def answer(self, prompt, text, timeout=PATIENCE):
        """Wait until the terminal shows a prompt (a regular expression), then type a line."""
        def look():
            found = re.search(prompt, self.screen[self._next_answer:])
            if found:
                self._next_answer += found.end()
            return found
        self._until(look, f'no prompt {prompt!r}', timeout)
        self.press(text + '\n')

    def press(self, keys):
        """Press keys, whatever the terminal shows."""
        os.write(self._master, keys.encode())

    def give(self, data, end=False):
        """Something on its standard input, and the end of that; waits for as long as it takes no more."""
        while data:
            data = data[os.write(self._given, data):]
        if end:
            given, self._given = self._given, None
            os.close(given)

    def stop(self):
        """Freeze it, as iOS does."""
        os.kill(self.process.pid, signal.SIGSTOP)
        waiting.until(self._stands_still)       # a thread may run on for a moment
        self._stopped = time.monotonic()

    def _stands_still(self):
        states = set()
        for path in pathlib.Path(f'/proc/{self.process.pid}/task').glob('*/stat'):
            with contextlib.suppress(OSError):          # a thread that has just ended
                states.add(path.read_text().rsplit(')', 1)[1].split()[0])
        return not states & set('RSD')

    def resume(self, after=0.0):
        """Wake it up, once it has been frozen for so many seconds."""
        waiting.let_pass(self._stopped, after)
        os.kill(self.process.pid, signal.SIGCONT)

    def interrupt(self):
        """Ctrl-C."""
        os.kill(self.process.pid, signal.SIGINT)

    def kill(self):
        """End it without a word, as iOS ends an app."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def wait(self, timeout=PATIENCE):
        """Its exit status, with everything it said read."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'still running after {timeout} s') from None
        for thread in self._readers:
            thread.join(5)
        return status

    def close(self):
        """End what is left of it."""
        embedded.end_marked_processes(self.mark)
        self.process.wait(5)
        for thread in self._readers:
            thread.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self._master is not None:
            os.close(self._master)
            self._master = None
        if self._given is not None:
            self.give(b'', end=True)

    def leftovers(self, patience=PATIENCE):
        """Processes it left behind."""
        processes = embedded.eventually(lambda: embedded.marked_processes(self.mark), patience)
        return [f'process {pid}: {command}' for pid, command in processes.items()]


def _event(line):
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and 'event' in event else None


@dataclasses.dataclass(frozen=True)
class Page:
    """What a browser shows."""

    url: str
    status: int
    headers: dict
    text: str


class Browser:
    """Plays the person in the browser, from a sign-in address to the last page."""
    visits = []         # what every browser asked for, and got; for whoever tells how a test went

    def __init__(self, address, timeout=PATIENCE):
        self.address = address
        self.timeout = timeout
        self.headers = {}       # what it sends along
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))
        self.redirect_uri, self.state = query.get('redirect_uri'), query.get('state')

    def redirect(self, **query):
        """Where the issuer sends the browser: with code and state, or what is given (None: left out)."""
        answer = {'code': 'good-' + secrets.token_hex(8), 'state': self.state, **query}
        answer = {key: value for key, value in answer.items() if value is not None}
        return f'{self.redirect_uri}?{urllib.parse.urlencode(answer)}'

    def sign_in(self, **query):
        """Sign in and follow every redirect; the page at the end."""
        return self.follow(self.redirect(**query))

    def follow(self, address):
        """The page at an address, after all its redirects. A far sign-in page is taken as signed in."""
        for _ in range(10):
            if not urllib.parse.urlsplit(address).hostname in ('127.0.0.1', '::1', 'localhost'):
                address = Browser(address).redirect()
            page = self.get(address)
            if page.status not in (301, 302, 303, 307, 308):
                return page
            address = urllib.parse.urljoin(address, page.headers['Location'])
        raise AssertionError(f'redirected in a circle at {address}')

    def get(self, address):
        """One request and its answer, redirects not followed."""
        url = urllib.parse.urlsplit(address)
        connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=self.timeout)
        with contextlib.closing(connection):
            visit = [f'GET {address}', 'no answer']
            self.visits.append(visit)
            connection.request('GET', (url.path or '/') + (f'?{url.query}' if url.query else ''), headers=self.headers)
            answer = connection.getresponse()
            page = Page(address, answer.status, dict(answer.headers), answer.read().decode(errors='replace'))
            visit[1] = f'{page.status} {page.headers.get("Location", "")} {page.text[:200]!r}'
            return page

    def favicon(self):
        """Ask for the icon, as browsers do unbidden."""
        url = urllib.parse.urlsplit(self.redirect_uri)
        return self.get(f'{url.scheme}://{url.netloc}/favicon.ico')

    @contextlib.contextmanager
    def idle_connections(self, count=1):
        """Connections opened beside the request that say nothing, as browsers keep them."""
        url = urllib.parse.urlsplit(self.redirect_uri)
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(socket.create_connection((url.hostname, url.port), self.timeout))
            yield

    def in_background(self, action, *arguments, **query):
        """Do something while the test goes on; returns what waits for its result."""
        result = []

        def run():
            try:
                result.append(action(*arguments, **query))
            except Exception as error:
                result.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def outcome(timeout=PATIENCE):
            thread.join(timeout)
            assert result, f'the browser still waits after {timeout} s'
            if isinstance(result[0], Exception):
                raise result[0]
            return result[0]
        return outcome
