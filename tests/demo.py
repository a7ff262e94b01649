#!/usr/bin/env python3
"""Shows one login from beginning to end on this machine: python3 tests/demo.py [--play] [--real]

The script is the real one; the SSH server, its `codex` and the sign-in page are stand-ins on loopback. It
opens the browser where there is one, and plays the person where there is none (or with --play). With --real:
OpenSSH's sshd, the real codex and Chromium, phone and server each in a network namespace of its own.
"""

import environment

if __name__ == '__main__':
    environment.ensure()

import argparse
import contextlib
import dataclasses
import html
import http.server
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
import time
import typing
import urllib.parse
import webbrowser

from embedded import EmbeddedServer, free_port
from harness import ROOT, SCRIPT, Browser, Home, Script

PERSON_HAS, PLAYER_HAS = 180, 60
"""Seconds until Continue must have been pressed, by a person and by the demo itself."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; font-family: system-ui, sans-serif }}
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center;
          background: Canvas; color: CanvasText }}
  main {{ box-sizing: border-box; width: min(24rem, 92vw); padding: 2rem; text-align: center;
          border: 1px solid #8886; border-radius: 1.25rem; box-shadow: 0 .5rem 2rem #0002 }}
  small {{ display: inline-block; padding: .25rem .75rem; border-radius: 1rem;
           background: #b45309; color: #fff }}
  h1 {{ font-size: 1.5rem }}
  p {{ line-height: 1.5 }}
  a {{ display: block; margin-top: .75rem; padding: .9rem; border-radius: .75rem; text-decoration: none;
       color: inherit }}
  #continue {{ background: #0f766e; color: #fff; font-weight: 600 }}
</style>
<main>{content}</main>
</html>
"""

SIGN_IN = """
<small>Demo</small>
<h1>Sign in to Codex</h1>
<p>This page stands in for the real sign-in page. There is no account, and nothing leaves this computer.</p>
<a id="continue" href="{accept}">Continue as ana@example.com</a>
<a href="{decline}">Cancel</a>
"""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a login is shown on."""

    home: Home
    destination: tuple                      # the script's arguments
    cast: tuple                             # (who, what) lines: what is real here and what is not
    sign_in: typing.Callable                # plays the person: address → what the last page says
    opens_browser: bool                     # whether the machine's own browser may be opened instead
    remains: typing.Callable                # what the login left at the server, once it is over
    auth_file: pathlib.Path                 # the server's, where codex saves its tokens
    enter: tuple = ()                       # a command prefix that leads to the phone


# --- Stand-ins ----------------------------------------------------------------------------------------------

class SignInPage(http.server.BaseHTTPRequestHandler):
    """A sign-in page on loopback: a button that sends the browser back with a code."""

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path != '/oauth/authorize' or 'redirect_uri' not in query:
            return self.send_error(404)
        back = {'state': query.get('state', '')}
        links = {name: html.escape(f'{query["redirect_uri"]}?{urllib.parse.urlencode({**answer, **back})}')
                 for name, answer in (('accept', {'code': 'demo'}), ('decline', {'error': 'access_denied'}))}
        body = PAGE.format(title='Sign in (demo)', content=SIGN_IN.format(**links)).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The demo tells its own story."""


@contextlib.contextmanager
def sign_in_page():
    """Serve the page; yields its origin."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), SignInPage) as page:
        page.daemon_threads = True
        threading.Thread(target=page.serve_forever, daemon=True).start()
        try:
            yield f'http://127.0.0.1:{page.server_address[1]}'
        finally:
            page.shutdown()


def press_continue(address):
    """Do what a person does on the page; what the last page says."""
    browser = Browser(address)
    button = re.search(r'id="continue" href="([^"]+)"', browser.get(address).text)
    last = browser.follow(html.unescape(button[1])).text
    return html.unescape(re.sub(r'<title>.*?</title>|<.*?>', '', last, flags=re.DOTALL)).strip()


@contextlib.contextmanager
def stand_ins():
    """The stage that any machine has."""
    with (tempfile.TemporaryDirectory(prefix='codex-login-demo-') as folder, sign_in_page() as origin,
          EmbeddedServer() as server):
        server.announced_port = free_port(1455)
        home = Home(pathlib.Path(folder))
        home.trust(server)
        home.make_key(server)
        yield Stage(
            home, (f'{server.user}@{server.address}:{server.port}', 'codex', 'login', '--experimental_issuer', origin),
            (('server', f'an SSH server on port {server.port}, with a stand-in for codex'),
             ('sign-in page', f'a stand-in for auth.openai.com, {origin}'),
             ('the script', 'is the real one')),
            press_continue, True, server.leftovers, server.home / '.codex' / 'auth.json')


# --- The real parts -----------------------------------------------------------------------------------------

@contextlib.contextmanager
def real_parts():
    """The stage with sshd, codex and Chromium, where this machine has them."""
    try:
        import lab
    except ImportError as error:
        sys.exit(f'--real needs the laboratory of the real tests: {error}')
    if missing := lab.missing_parts():
        listing = '\n'.join(f'  {part}: {how}' for part, how in missing)
        sys.exit(f'--real needs what is missing here:\n{listing}')
    with lab.Lab() as real, real.browser() as browser:
        home = Home(real.phone_home)
        real.trust_server()
        key = real.user_key()

        def click_continue(address):
            tab = browser.new_tab()
            tab.open(address)
            tab.click('#continue')
            return tab.wait_for_text('Signed in').splitlines()[0]

        yield Stage(
            home, ('-i', key, f'{real.user}@{real.host}'),
            (('server', "OpenSSH's sshd and the real codex"),
             ('phone', 'the script and Chromium, in a network namespace of their own'),
             ('sign-in page', 'a stub of auth.openai.com, since nothing leaves this machine')),
            click_continue, False, real.server_leftovers, real.codex_home / 'auth.json',
            tuple(real.phone_command()))


# --- The show -----------------------------------------------------------------------------------------------

class Narrator:
    """Prints one line for each step, with the seconds since the start."""

    def __init__(self):
        self.began = time.monotonic()
        self.told = set()

    def tell(self, step, words):
        """One step; a step that repeats is told once."""
        if step not in self.told:
            self.told.add(step)
            print(f'{time.monotonic() - self.began:7.2f} s  {step:<14}{words}', flush=True)

    def tell_event(self, event):
        """What one of the script's events means to a person."""
        lines = {
            'connecting': lambda: ('connecting', 'to the server by SSH'),
            'connected': lambda: ('connected', 'its host key is the known one, and your key is let in'),
            'listening': lambda: ('listening', f'on 127.0.0.1:{event["port"]}, where the browser comes back'),
            'sign-in': lambda: ('sign-in', f'codex at the server waits for {shortened(event["url"])}'),
            'callback': lambda: ('callback', 'the browser came back; handed through SSH to codex'),
            'signed-in': lambda: ('signed in', '`codex login status` at the server agrees'),
            'suspended': lambda: ('suspended', 'the script was frozen for a while'),
            'reconnected': lambda: ('reconnected', 'and goes on'),
        }
        if event['event'] in lines:
            self.tell(*lines[event['event']]())


def shortened(address):
    """An address that fits a line; the script itself prints it whole."""
    return address if len(address) <= 50 else f'{address[:49]}…'


def has_display():
    """Whether a browser window would be seen by the person who reads this."""
    return sys.stdout.isatty() and bool(
        sys.platform == 'darwin' or os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'))


def visit(stage, narrator, address, person):
    """Bring the person to the page, or play one; a question that is answered by what the last page says."""
    if person and webbrowser.open(address):
        narrator.tell('browser', 'opened: press Continue there')
        return lambda: ''
    narrator.tell('browser', 'no window here, so the demo itself presses Continue' if stage.opens_browser
                  else 'Chromium, which presses Continue')
    return Browser(address).in_background(stage.sign_in, address)


def show(stage, play):
    """Run the script on a stage and tell what happens; whether the login truly worked."""
    for who, what in stage.cast:
        print(f'  {who:<14}{what}')
    command = ' '.join(map(str, stage.destination))
    print(f'\n  $ python3 {SCRIPT.relative_to(ROOT)} {command}\n')
    person = stage.opens_browser and not play and has_display()
    limit = PERSON_HAS if person else PLAYER_HAS
    narrator = Narrator()
    page_says = str
    with Script(stage.home, '--timeout', limit, *stage.destination,
                environment=stage.home.own_clipboard(), enter=stage.enter) as script:
        while event := script.next_event(limit + 15):
            narrator.tell_event(event)
            if event['event'] == 'opened':
                address = stage.home.opened[-1]
                if stage.home.clipboard.strip() == address:
                    narrator.tell('clipboard', 'has the address too')
                page_says = visit(stage, narrator, address, person)
        status = script.wait()
        if status:
            print(f'\nThe script ended with {status}. It said:\n{script.report()}')
            return False
        if words := page_says():
            narrator.tell('browser says', words)
        left = stage.remains() + script.leftovers() + stage.home.leftovers()
    signed_in = stage.auth_file.exists() and not stage.auth_file.stat().st_mode & 0o077
    narrator.tell('proof', "codex's tokens are at the server, in auth.json, its owner's alone" if signed_in
                  else 'missing: no auth.json at the server, or one that others can read')
    narrator.tell('left behind', ', '.join(left) or 'nothing, neither here nor there')
    return signed_in and not left


def main():
    """Show it; exit status 0 only when codex at the server is signed in and nothing is left behind."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--play', action='store_true', help='open no browser, play the person')
    parser.add_argument('--real', action='store_true', help="this machine's sshd, codex and Chromium")
    options = parser.parse_args()
    # Whoever ends the demo from outside has it clean up all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print('\nA codex login on a server, with the browser here:\n')
    with (real_parts() if options.real else stand_ins()) as stage:
        worked = show(stage, options.play)
    print('\nThat was all. With your own server: python3 scripts/codex_login.py you@server\n' if worked else
          '\nThis login did not work.\n')
    return 0 if worked else 1


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
