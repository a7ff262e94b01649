"""A stand-in for `codex` 0.169, and for other CLIs that sign in by a redirect to loopback.

    stand_in_codex.py codex login | login status | login --device-auth | login --with-api-key | --version; -c KEY=VALUE anywhere
    stand_in_codex.py wrangler login        (and clasp, az, tsh: see CLIS)

What the real ones do was tried out, traps included: a login first removes the old auth.json; a bare /success
ends it with 0 and nobody signed in; a callback delivered twice ruins it.

It never leaves the machine. Where $STAND_IN_MAP names a file, it listens on a port of the system's choice, announces
another in its address, and notes `HOST ANNOUNCED REAL` there, so that phone and server can share one loopback; else it
listens where it says. The environment sets the scene:

    STAND_IN_PORT      the port to announce instead of its own fixed one; two above where that one stays busy
    STAND_IN_BIND      127.0.0.1 (or ::1)
    STAND_IN_ISSUER    where the sign-in page is (https://auth.openai.com); as `login --experimental_issuer URL`
    STAND_IN_ADDRESS   the address to print instead; {port} and {state} are filled in
    STAND_IN_MOOD      fails    ends at once with words of its own
                       silent   never prints an address, and waits
                       hands    prints nothing, only hands the address to the browser
                       pieces   prints the address in pieces, with pauses
                       flood    prints 10 MB without a newline first
                       colours  prints ANSI sequences and bytes that are not UTF-8 around the address
    STAND_IN_OPENER    what it starts in place of $BROWSER, xdg-open say
    STAND_IN_EXCHANGE  seconds that the token exchange takes, or `refused`
    STAND_IN_DEVICE    seconds until a device code is approved, or `refused`

A code that begins with `bad` is refused at the exchange, and so is one that was used before.
"""

import base64
import contextlib
import dataclasses
import fcntl
import http.client
import http.server
import json
import os
import pathlib
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

SCENE = {key.removeprefix('STAND_IN_').lower(): value
         for key, value in os.environ.items() if key.startswith('STAND_IN_')}
MOOD = SCENE.get('mood', '')
BIND = SCENE.get('bind', '127.0.0.1')
FLOOD = 10 * 1024 * 1024

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<body style="font: 1.2rem system-ui; margin: 20vh 2rem; text-align: center">{words}</body></html>
"""


# --- The CLIs -----------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Cli:
    """How one CLI's login looks from outside."""

    text: str                       # what it prints; {url}, and {bare} for the address without its query
    port: int | None = None         # the one it always announces; None: a random one
    callback: str = '/callback'
    starts_at_home: bool = False    # the address is itself on loopback and leads on to the sign-in page


CODEX_TEXT = """\
Starting local login server on http://localhost:{port}.
If your browser did not open, navigate to this URL to authenticate:

{url}

On a remote or headless machine? Use `codex login --device-auth` instead.
"""

CLIS = {
    'codex': Cli(CODEX_TEXT, 1455, '/auth/callback'),
    'wrangler': Cli('Attempting to login via OAuth...\nOpening a link in your default browser: {url}\n', 8976,
                    '/oauth/callback'),
    'clasp': Cli('🔑 Authorize clasp by visiting this url:\n{url}\n', None, '/'),
    'az': Cli('A web browser has been opened at {bare}. Please continue the login in the web browser.\n',
              callback='/'),
    'tsh': Cli('If browser window does not open automatically, open it by clicking on the link:\n {url}\n',
               starts_at_home=True),
}


def say(text):
    """Print to stderr as codex does; with nobody left to read it, end as codex does."""
    data = text if isinstance(text, bytes) else text.encode()
    try:
        while data:
            data = data[os.write(2, data):]
    except BrokenPipeError:
        os._exit(101)


# --- Who is signed in ---------------------------------------------------------------------------------------

def auth_file():
    """Where the tokens are."""
    return pathlib.Path(os.environ.get('CODEX_HOME') or pathlib.Path.home() / '.codex') / 'auth.json'


def token():
    """An unsigned JWT that says nothing about anybody."""
    parts = ({'alg': 'none', 'typ': 'JWT'}, {'email': 'ana@example.com', 'jti': secrets.token_hex(8)})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip('=') for part in parts)
    return '.'.join(encoded) + '.'


def save_tokens():
    """Write auth.json, readable by its owner only."""
    file = auth_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    tokens = {kind: token() for kind in ('id_token', 'access_token', 'refresh_token')}
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, 'w') as stream:
        json.dump({'OPENAI_API_KEY': None, 'tokens': tokens}, stream)
    return tokens['id_token']


def status():
    """`codex login status`."""
    if auth_file().exists():
        key = json.loads(auth_file().read_text()).get('OPENAI_API_KEY')
        say(f'API key configured - {key[:8]}***\nAuthentication is checked when you send a request.\n' if key else 'Logged in using ChatGPT\n')
        return 0
    say('Not logged in\n')
    return 1


# --- The port -----------------------------------------------------------------------------------------------

def moved(announced):
    """The real port behind an announced one, as the map has it now."""
    found = None
    for line in pathlib.Path(SCENE['map']).read_text().splitlines() if 'map' in SCENE else ():
        host, port, real = line.split()
        if (host, int(port)) == (BIND, announced):
            found = int(real)
    return found


def busy(announced):
    """Whether something answers on an announced port."""
    real = moved(announced)
    if real is None:
        return False
    try:
        socket.create_connection((BIND, real), timeout=1).close()
        return True
    except OSError:
        return False


def ask_to_stop(announced):
    """Codex asks whoever holds its port to make room."""
    connection = http.client.HTTPConnection(BIND, moved(announced), timeout=0.3)
    try:
        connection.request('GET', '/cancel')
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()


def choose_port(wanted):
    """The port to announce: the wanted one when its holder makes room, else the one two above."""
    for _ in range(10):
        if not busy(wanted):
            return wanted
        ask_to_stop(wanted)
        time.sleep(0.05)
    if busy(wanted + 2):
        say(f'Error logging in: Port {BIND}:{wanted + 2} is already in use\n')
        sys.exit(1)
    return wanted + 2


def random_port():
    """A port that is free where the redirect will arrive as well, and that the system gives to nobody meanwhile."""
    while True:
        port = 10000 + secrets.randbelow(22000)
        with contextlib.suppress(OSError), socket.create_server(('127.0.0.1', port)):
            return port


def announce(announced, real):
    """Note in the map where an announced port really is."""
    if 'map' in SCENE:
        with open(SCENE['map'], 'a') as lines:
            fcntl.flock(lines, fcntl.LOCK_EX)
            lines.write(f'{BIND} {announced} {real}\n')


# --- The login server ---------------------------------------------------------------------------------------

class Login(http.server.ThreadingHTTPServer):
    """Waits for the redirect. Connections may idle as they like; requests are served one at a time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name):
        self.cli = CLIS[name]
        self.codex = name == 'codex'
        self.address_family = socket.AF_INET6 if ':' in BIND else socket.AF_INET
        fixed = self.cli.port and int(SCENE.get('port', self.cli.port))
        super().__init__((BIND, 0 if 'map' in SCENE or not fixed else fixed), Request)
        if 'map' in SCENE:
            self.port = choose_port(fixed) if fixed else random_port()
            announce(self.port, self.server_address[1])
        else:
            self.port = self.server_address[1]
        self.state = secrets.token_urlsafe(32)
        self.home_path = '/' + secrets.token_hex(16)
        self.one_at_a_time = threading.Lock()
        self.codes = set()
        self.ended = threading.Event()
        self.exit_status, self.last_words = 0, ''

    def sign_in_address(self):
        """The issuer's page, with all that brings the browser back."""
        if pattern := SCENE.get('address'):
            return pattern.replace('{port}', str(self.port)).replace('{state}', self.state)
        query = urllib.parse.urlencode({
            'response_type': 'code', 'client_id': 'app_stand_in',
            'redirect_uri': f'http://{self.host}:{self.port}{self.cli.callback}',
            'code_challenge': secrets.token_urlsafe(32), 'code_challenge_method': 'S256', 'state': self.state,
            'scope': 'openid profile email offline_access', 'originator': 'codex_cli_rs'})
        return f'{SCENE.get("issuer", "https://auth.openai.com")}/oauth/authorize?{query}'

    @property
    def host(self):
        return f'[{BIND}]' if ':' in BIND else BIND

    def first_address(self):
        """What is printed and handed to the browser."""
        if self.cli.starts_at_home and 'address' not in SCENE:
            return f'http://{self.host}:{self.port}{self.home_path}'
        return self.sign_in_address()

    def end(self, status, words):
        """End the process once the answer is out."""
        self.exit_status, self.last_words = status, words
        self.ended.set()

    def handle_error(self, request, client_address):
        """A browser that went away is no error."""


class Request(http.server.BaseHTTPRequestHandler):
    """One request of the browser."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        with self.server.one_at_a_time:
            if not self.server.ended.is_set():
                self.serve()

    def serve(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == self.server.cli.callback:
            self.callback(query)
        elif url.path == '/success' and self.server.codex:
            # The trap: nobody asks whether a callback came before.
            self.answer_page(200, 'Sign into Codex', 'Signed in to Codex. You may now close this page.')
            self.server.end(0, 'Successfully logged in\n')
        elif url.path == '/cancel':
            self.answer(200, b'Login cancelled')
            self.server.end(1, 'Error logging in: Login cancelled\n')
        elif url.path == self.server.home_path and self.server.cli.starts_at_home:
            self.answer(302, b'', Location=self.server.sign_in_address())
        else:
            self.answer(404, b'Not Found')

    def callback(self, query):
        if query.get('state') != self.server.state:
            return self.answer(400, b'State mismatch')
        if 'error' in query:
            return self.fail(f'Sign-in failed: {query["error"]}')
        code = query.get('code')
        if not code:
            return self.fail('Missing authorization code. Sign-in could not be completed.')
        exchange = SCENE.get('exchange', '0')
        if exchange == 'refused' or code.startswith('bad') or code in self.server.codes:
            return self.fail('Token exchange failed: token endpoint returned status 403 Forbidden')
        self.server.codes.add(code)
        self.server.ended.wait(float(exchange))
        id_token = save_tokens()
        if self.server.codex:
            self.answer(302, b'', Location=f'http://localhost:{self.server.port}/success?id_token={id_token}')
        else:
            self.answer_page(200, 'Signed in', 'Signed in. You may now close this page.')
            self.server.end(0, 'Successfully logged in.\n')

    def fail(self, reason):
        self.answer_page(200, 'Codex Sign-in Error', reason)
        self.server.end(1, f'Error logging in: {reason}\n')

    def answer_page(self, status, title, words):
        self.answer(status, PAGE.format(title=title, words=words).encode(), 'text/html; charset=utf-8')

    def answer(self, status, body, kind='text/plain; charset=UTF-8', **headers):
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.send_header('Connection', 'close')
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        """Codex logs no requests."""


# --- The commands -------------------------------------------------------------------------------------------

def open_browser(address):
    """Hand the address to $BROWSER as codex does: a list with `:`, each with or without %s."""
    commands = [SCENE['opener']] if 'opener' in SCENE else os.environ.get('BROWSER', '').split(':')
    for command in filter(None, commands):
        words = shlex.split(command)
        words = [word.replace('%s', address) for word in words] if '%s' in command else [*words, address]
        try:
            subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return
        except OSError:
            continue


def show(login, address):
    """Print what this CLI prints, in the mood of the day."""
    if MOOD in ('silent', 'hands'):
        return
    if MOOD == 'flood':
        say(b'x' * FLOOD)
        say(b'\n')
    text = login.cli.text.format(url=address, port=login.port, bare=address.partition('?')[0])
    if MOOD == 'colours':
        say(b'\x1b]0;title\x07\x1b[31mnot UTF-8: \xff\xfe\x80\x1b[0m\n')
        text = text.replace(address, f'\x1b[1;34m{address}\x1b[0m')
    if MOOD != 'pieces':
        return say(text)
    for start in range(0, len(text), 70):
        say(text[start:start + 70])
        login.ended.wait(0.02)


def login(name):
    """Wait for the redirect; the exit status."""
    if MOOD == 'fails':
        say('Error loading configuration: config.toml:3: invalid key\n')
        return 1
    if name == 'codex':
        auth_file().unlink(missing_ok=True)
    with Login(name) as server:
        address = server.first_address()
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 3600}, daemon=True).start()
        if MOOD != 'silent':
            open_browser(address)
        show(server, address)
        server.ended.wait()
        with server.one_at_a_time:
            say(server.last_words)
            # The listener's thread sleeps in its poll; the process ends without it, as codex does.
            os._exit(server.exit_status)


def device_login():
    """Sign in by a one-time code."""
    approval = SCENE.get('device', '0.5')
    if approval == 'refused':
        say('Error logging in: device code login is not enabled for this Codex server.'
            ' Use the browser login or verify the server URL.\n')
        return 1
    code = f'{secrets.token_hex(2)}-{secrets.token_hex(3)[:5]}'.upper()
    print('\nWelcome to Codex [v\x1b[90m0.169.0\x1b[0m]\n'
          '\x1b[90mOpenAI\'s command-line coding agent\x1b[0m\n\n'
          'Follow these steps to sign in with ChatGPT using device code authorization:\n\n'
          '1. Open this link in your browser and sign in to your account\n'
          '   \x1b[94mhttps://auth.openai.com/codex/device\x1b[0m\n\n'
          '2. Enter this one-time code \x1b[90m(expires in 15 minutes)\x1b[0m\n'
          f'   \x1b[94m{code}\x1b[0m\n\n'
          '\x1b[90mDevice codes are a common phishing target. Never share this code.\x1b[0m\n', flush=True)
    time.sleep(float(approval))
    save_tokens()
    say('Successfully logged in\n')
    return 0


def key_login():
    """Keep the key that comes by standard input, in place of whatever login there was."""
    say('Reading API key from stdin...\n')
    key = sys.stdin.read().strip()
    if not key:
        say('No API key provided via stdin.\n')
        return 1
    auth_file().parent.mkdir(parents=True, exist_ok=True)
    auth_file().write_text(json.dumps({'OPENAI_API_KEY': key}))
    say('Successfully logged in\n')
    return 0


def main(name, *words):
    """Run one command; the exit status."""
    # SIGINT ends codex at once and silently, unless whoever started it had it ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    commands = {('--version',): lambda: print(f'{name}-cli 0.169.0'), ('login',): lambda: login(name)}
    if name == 'codex':
        while '-c' in words:
            words = (*words[:words.index('-c')], *words[words.index('-c') + 2:])
        if words[-1] == 'status':
            words = tuple(word for word in words if word not in ('--device-auth', '--with-api-key'))
        if words[:2] == ('login', '--experimental_issuer'):
            SCENE['issuer'], words = words[2], (*words[:1], *words[3:])
        commands |= {('login', 'status'): status, ('login', '--device-auth'): device_login, ('login', '--with-api-key'): key_login}
    if words not in commands:
        say(f"error: unexpected argument '{' '.join(words)}' found\n")
        return 2
    return commands[words]()


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
