"""What the small programs share: a listener, an address with a state, a request read whole, an answer.

Each program of this folder signs in by a redirect and is odd in one way, as its first line says. It listens on
127.0.0.1 at the port that $STAND_IN_PORT names, else at any, prints its address, and ends with 0 and "Signed in."
once the code has come with the right state. It is as strict as what it stands for: see tests/test_programs.py.
"""

import contextlib
import os
import secrets
import socket
import sys
import urllib.parse

STATE = secrets.token_urlsafe(16)


def listen(backlog=5):
    """The listener and its port."""
    listener = socket.create_server(('127.0.0.1', int(os.environ.get('STAND_IN_PORT', 0))), backlog=backlog)
    return listener, listener.getsockname()[1]


def listen_anywhere():
    """The same at any port, for what else it has; not of those that systems hand out by themselves: it is to be free at the phone, too."""
    while True:
        with contextlib.suppress(OSError):
            listener = socket.create_server(('127.0.0.1', 10000 + secrets.randbelow(22000)))
            return listener, listener.getsockname()[1]


def say(text):
    print(text, flush=True)


def show(address):
    """Print the address that a person shall open, as programs do."""
    say(f'Please open this page to sign in:\n\n    {address}\n')


def issuer(redirect_uri, **more):
    """The issuer's page, which leads back to `redirect_uri`; None for a parameter that is left out."""
    query = {'client_id': 'small', 'response_type': 'code', 'redirect_uri': redirect_uri, 'state': STATE, **more}
    given = {name: value for name, value in query.items() if value is not None}
    return 'https://issuer.example/authorize?' + urllib.parse.urlencode(given)


class Request:
    """One request, read whole from a connection. Raises EOFError where the connection ends before it does."""

    def __init__(self, stream):
        line = stream.readline()
        if not line:
            raise EOFError('no request')
        self.method, self.target, _ = line.decode('latin-1').split(' ', 2)
        self.headers = {}
        while (line := stream.readline().decode('latin-1')) not in ('\r\n', ''):
            name, _, value = line.partition(':')
            self.headers[name.lower()] = value.strip()
        self.body = stream.read(int(self.headers.get('content-length', 0)))
        self.path = urllib.parse.urlsplit(self.target).path

    def brings(self, where='query', state=STATE):
        """Whether it brings a code with the right state, in its query or in its body."""
        text = self.body.decode() if where == 'body' else urllib.parse.urlsplit(self.target).query
        fields = dict(urllib.parse.parse_qsl(text))
        return bool(fields.get('code')) and fields.get('state', '') == state


def answer(sock, status='200 OK', body='', headers=()):
    """Send an answer that has a length."""
    data = body.encode()
    head = ''.join(f'{line}\r\n' for line in (
        f'HTTP/1.1 {status}', f'Content-Length: {len(data)}', 'Content-Type: text/html', 'Connection: close', *headers))
    sock.sendall(head.encode() + b'\r\n' + data)


def requests(listener):
    """(connection, request) of one after the other; each connection is closed before the next is taken."""
    while True:
        sock = listener.accept()[0]
        with sock, sock.makefile('rb') as stream, contextlib.suppress(EOFError):
            yield sock, Request(stream)


def done():
    """The program's own end."""
    say('Signed in.')
    sys.exit(0)


def serve_until_signed_in(listener, good='You are signed in.', method='GET', where='query', path='/callback', state=STATE,
                          status='200 OK', headers=(), brings=True):
    """Answer requests one by one; a redirect of this login is the last one, or, unless it has to bring anything, the page itself."""
    for sock, request in requests(listener):
        if request.path != path:
            answer(sock, '404 Not Found', 'Nothing here.')
        elif request.method != method:
            answer(sock, '405 Method Not Allowed', 'Not like this.', [f'Allow: {method}'])
        elif brings and not request.brings(where, state):
            answer(sock, '400 Bad Request', 'Not this sign-in.')
        else:
            answer(sock, status, good, headers)
            return
