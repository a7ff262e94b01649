"""Headless Chromium, driven through its DevTools pipe, and the $BROWSER that hands addresses to a test.

    with Chromium(enter=lab.phone_command([])) as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click("#continue")
        tab.wait_for_text("Signed in")

Every wait is bounded; whoever waits too long gets a `BrowserTimeout` that shows the page.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from waiting import PATIENCE, eventually

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
FLAGS = (
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic',
    '--no-first-run', '--no-proxy-server', '--no-default-browser-check', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-extensions', '--disable-breakpad',
    '--disable-features=AsyncDns,DialMediaRouteProvider,HttpsUpgrades,Translate',
    # Error pages otherwise load again by themselves, when the test cannot know.
    '--disable-auto-reload',
    '--remote-debugging-pipe',
)


class BrowserTimeout(AssertionError):
    """Something did not show in time."""


class BrowserGone(AssertionError):
    """Chromium has ended, or never started."""


def find_chromium() -> str | None:
    """The path of a Chromium-like browser: $CODEX_LOGIN_CHROMIUM, or the first of the usual names on PATH."""
    return os.environ.get('CODEX_LOGIN_CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One browser process with a profile of its own, gone at the end."""

    def __init__(self, enter: Sequence[str] = (), trusted_keys: Sequence[str] = ()):
        """Start it behind the command prefix `enter`; certificates with `trusted_keys` (SPKI hashes) pass."""
        self._folder = tempfile.mkdtemp(prefix='codex-login-chromium-')
        command = [*enter, find_chromium() or 'chromium', *FLAGS, f'--user-data-dir={self._folder}/profile']
        if trusted_keys:
            command.append(f"--ignore-certificate-errors-spki-list={','.join(trusted_keys)}")
        # DevTools speaks on descriptors 3 and 4; a shell moves them there: nothing of ours runs after fork.
        self._log = open(f'{self._folder}/log', 'wb')
        self._process = subprocess.Popen(
            ['sh', '-c', 'exec "$@" 3<&0 4>&1 </dev/null >&2', 'sh', *command, 'about:blank'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0,
            start_new_session=True, env={**os.environ, 'HOME': self._folder, 'TMPDIR': self._folder})
        self._received = threading.Condition()
        self._awaited: set[int] = set()
        self._answers: dict[int, dict] = {}
        self._loading: dict[str, str] = {}
        self._last_id = 0
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.command('Browser.getVersion', timeout=60)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def new_tab(self) -> Tab:
        """An empty tab, in front of the others."""
        target = self.command('Target.createTarget', {'url': 'about:blank'})['targetId']
        session = self.command('Target.attachToTarget', {'targetId': target, 'flatten': True})['sessionId']
        self.command('Page.enable', {}, session)
        return Tab(self, target, session)

    def close(self) -> None:
        """End the browser with all of its processes and remove its profile."""
        if not self._ended:
            with contextlib.suppress(BrowserGone):
                self.send('Browser.close')
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        # Chromium's helpers share its process group and may outlive it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        for file in (self._process.stdin, self._process.stdout, self._log):
            file.close()
        deadline = time.monotonic() + 5
        while os.path.exists(self._folder) and time.monotonic() < deadline:
            # A helper that is just being killed may still add a file.
            shutil.rmtree(self._folder, ignore_errors=True)

    def send(self, method: str, params: dict | None = None, session: str | None = None) -> int:
        """Send a DevTools command without waiting for its answer; returns its number."""
        return self._send(method, params, session, awaited=False)

    def _send(self, method: str, params: dict | None, session: str | None, awaited: bool) -> int:
        with self._received:
            self._last_id += 1
            message = {'id': self._last_id, 'method': method, 'params': params or {}}
            if awaited:
                self._awaited.add(self._last_id)
        if session:
            message['sessionId'] = session
        try:
            self._process.stdin.write(json.dumps(message).encode() + b'\0')
        except OSError as error:
            raise BrowserGone(self._last_words()) from error
        return message['id']

    def command(self, method: str, params: dict | None = None, session: str | None = None,
                timeout: float = PATIENCE) -> dict:
        """Send a DevTools command and return its result."""
        number = self._send(method, params, session, awaited=True)
        with self._received:
            self._received.wait_for(lambda: number in self._answers or self._ended, timeout)
            self._awaited.discard(number)
            answer = self._answers.pop(number, None)
            ended = self._ended
        if answer is None and ended:
            raise BrowserGone(self._last_words())
        if answer is None:
            raise BrowserTimeout(f'no answer to {method} in {timeout} s')
        if 'error' in answer:
            raise RuntimeError(f"{method}: {answer['error'].get('message')}")
        return answer['result']

    def _read(self) -> None:
        pending = b''
        while piece := self._process.stdout.read(1 << 16):
            *messages, pending = (pending + piece).split(b'\0')
            for message in map(json.loads, messages):
                with self._received:
                    self._take(message)
                    self._received.notify_all()
        with self._received:
            self._ended = True
            self._received.notify_all()

    def loading(self, session: str) -> str | None:
        """The address that the tab is waiting for."""
        with self._received:
            return self._loading.get(session)

    def _take(self, message: dict) -> None:
        if message.get('id') in self._awaited:
            self._answers[message['id']] = message
        elif message.get('method') == 'Page.frameStartedNavigating':
            self._loading[message['sessionId']] = message['params']['url']
        elif message.get('method') in ('Page.frameNavigated', 'Page.frameStoppedLoading'):
            self._loading.pop(message.get('sessionId'), None)

    def _last_words(self) -> str:
        self._log.flush()
        return 'Chromium has ended:\n' + Path(self._log.name).read_text(errors='replace')[-2000:]


class Tab:
    """One page, as a person uses it."""

    def __init__(self, browser: Chromium, target: str, session: str):
        self._browser, self._target, self._session = browser, target, session

    def open(self, address: str) -> None:
        """Go to an address. Does not wait: the page may hang, which is what some tests are about."""
        self._browser.send('Page.navigate', {'url': address}, self._session)

    def reload(self) -> None:
        """Load the page again. Does not wait either."""
        self._browser.send('Page.reload', {}, self._session)

    def accept_any_certificate(self) -> None:
        """Say yes to the page that warns of a certificate, and to all to come."""
        self._browser.command('Security.setIgnoreCertificateErrors', {'ignore': True}, self._session)

    def click(self, selector: str, timeout: float = PATIENCE) -> None:
        """Wait for the element, bring the tab to the front and press the mouse on the element's middle."""
        # Chromium drops mouse events until the page has been drawn; only then does it ask for further frames.
        find = f"""(async () => {{
            for (const frame of [1, 2]) await new Promise(requestAnimationFrame);
            const box = document.querySelector({json.dumps(selector)})?.getBoundingClientRect();
            return box ? [box.x + box.width / 2, box.y + box.height / 2] : null;
        }})()"""
        self._browser.command('Page.bringToFront', {}, self._session)
        x, y = self._until(lambda: self._evaluate(find), timeout, f'no element {selector}')
        for kind in ('mousePressed', 'mouseReleased'):
            press = {'type': kind, 'x': x, 'y': y, 'button': 'left', 'clickCount': 1}
            self._browser.send('Input.dispatchMouseEvent', press, self._session)

    def text(self) -> str:
        """The visible text of the page. Chromium tells none while it waits for the next page."""
        return self._evaluate("document.body ? document.body.innerText : ''") or ''

    def url(self) -> str:
        """The address in the address bar, also of an error page."""
        history = self._browser.command('Page.getNavigationHistory', {}, self._session)
        return history['entries'][history['currentIndex']]['url']

    def waiting_for(self) -> str | None:
        """The address whose answer the page is waiting for, if it is."""
        return self._browser.loading(self._session)

    def wait_for_text(self, text: str, timeout: float = PATIENCE) -> str:
        """Wait until the page shows `text`; returns all of the page's text."""
        def shown():
            page = self.text()
            return page if text in page else None
        return self._until(shown, timeout, f'the page never showed {text!r}')

    def screenshot(self, path: Path | str) -> None:
        """Save what the page looks like, as PNG."""
        image = self._browser.command('Page.captureScreenshot', {'format': 'png'}, self._session)['data']
        Path(path).write_bytes(base64.b64decode(image))

    def close(self) -> None:
        """Close the tab."""
        self._browser.command('Target.closeTarget', {'targetId': self._target})

    def _evaluate(self, expression: str):
        try:
            answer = self._browser.command(
                'Runtime.evaluate', {'expression': expression, 'returnByValue': True, 'awaitPromise': True},
                self._session, timeout=1)
        except (RuntimeError, BrowserTimeout):
            return None     # the page is being replaced by the next one
        return answer['result'].get('value')

    def _until(self, look: Callable, timeout: float, complaint: str):
        found = []
        eventually(lambda: found.append(look()) or found[-1] is None, timeout)
        if found[-1] is None:
            raise BrowserTimeout(f'{complaint} in {timeout} s; {self.url()} shows:\n{self.text()}')
        return found[-1]


class BrowserShim:
    """An executable for $BROWSER that hands each address to the test instead of opening it."""

    def __init__(self, folder: Path):
        pipe = folder / 'opened-addresses'
        os.mkfifo(pipe, 0o600)
        self.path = folder / 'browser-shim'
        self.path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$1\" >'{pipe}'\n")
        self.path.chmod(0o700)
        # Open for writing too: the shim never waits for a reader, and a reader never sees an end of file.
        self._pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        self._pending = b''

    def address(self, timeout: float = PATIENCE) -> str:
        """The next address the program wanted opened."""
        deadline = time.monotonic() + timeout
        while b'\n' not in self._pending:
            if not select.select([self._pipe], [], [], max(0, deadline - time.monotonic()))[0]:
                raise BrowserTimeout(f'no address was opened in {timeout} s')
            self._pending += os.read(self._pipe, 1 << 16)
        line, self._pending = self._pending.split(b'\n', 1)
        return line.decode()

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._pipe)
