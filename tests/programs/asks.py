"""Programs that ask before they sign anybody in: `asks.py KIND`. What they were told is in their last line.

    yes        a question that ends in no line
    twice      two questions, one after the other
    password   a password, which is read from wherever there is one
    code       a page that shows a code, and a prompt for it: CODE#STATE
    both       the same, and a redirect to loopback: whichever comes first
    keys       a menu for arrow keys: nothing without a terminal
    size       says how large its terminal is, again with each change, until a key is pressed
"""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse

STATE = 'St4te-of_this.one'
PAGE = 'https://console.example/oauth/authorize?code=true&client_id=x&response_type=code&redirect_uri={}&state=' + STATE


def yes():
    answer = input('Continue? [Y/n] ')
    print(f'so: {answer}')


def twice():
    print(f'so: {input("Name: ")}, {input("Colour: ")}')


def password():
    print('Token password: ', end='', file=sys.stderr, flush=True)
    print(f'so: {len(sys.stdin.readline().strip())} letters')


def at(redirect):
    return PAGE.format(urllib.parse.quote(redirect, safe=''))


def ended(code):
    """The end of a sign-in by what a person typed."""
    given, _, state = code.partition('#')
    if state != STATE:
        print(f'Invalid code: {len(code)} letters')
        sys.stdout.flush()
        os._exit(1)
    print(f'Login successful: {given[-4:]}', flush=True)
    os._exit(0)


def code():
    print('Opening browser to sign in…')
    print("If the browser didn't open, visit:")
    print(at('https://console.example/oauth/code/callback'))
    ended(input('Paste code here if prompted > '))


class Callback(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        given = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
        self.wfile.flush()
        ended(f'{given.get("code", "")}#{given.get("state")}')

    def log_message(self, *_):
        pass


def both():
    server = http.server.HTTPServer(('127.0.0.1', 0), Callback)
    port = real = server.server_address[1]
    if 'STAND_IN_MAP' in os.environ:            # where server and phone are one machine
        with socket.create_server(('127.0.0.1', 0)) as other, open(os.environ['STAND_IN_MAP'], 'a') as lines:
            port = other.getsockname()[1]
            lines.write(f'127.0.0.1 {port} {real}\n')
    threading.Thread(target=server.serve_forever, daemon=True).start()
    subprocess.run([os.environ['BROWSER'], at(f'http://localhost:{port}/callback')])
    code()


def keys():
    if not sys.stdin.isatty():
        sys.exit('Error: Raw mode is not supported on the current process.stdin (setRawMode)')
    import termios
    import tty
    before, place = termios.tcgetattr(0), 0
    tty.setraw(0)
    try:
        while True:
            for number, choice in enumerate(('GitHub', 'Google', 'token')):
                os.write(1, f'\r\n{">" if number == place else " "} {choice}'.encode())
            key = os.read(0, 1)
            key += os.read(0, 1) + os.read(0, 1) if key == b'\x1b' else b''
            place = (place + {b'\x1b[B': 1, b'\x1b[A': -1}.get(key, 0)) % 3
            if key in (b'\r', b'\x03'):
                break
    finally:
        termios.tcsetattr(0, termios.TCSANOW, before)
    print('\r\nso:', 'cancelled' if key == b'\x03' else place)


def size():
    def say(*_):
        columns, rows = os.get_terminal_size(0)
        os.write(1, f'is {columns}x{rows}.\r\n'.encode())
    signal.signal(signal.SIGWINCH, say)
    say()
    print('so:', sys.stdin.readline().strip())


if __name__ == '__main__':
    globals()[sys.argv[1]]()
