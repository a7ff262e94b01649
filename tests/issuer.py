"""A stub of auth.openai.com, good enough for the real `codex login` and a real browser.

`Issuer` starts this same file as a process of its own (so that it can live in another network namespace) and
talks to it in JSON lines on its stdin and stdout. It ends by itself when the test that started it is gone.
"""

from __future__ import annotations

import base64
import datetime
import html
import ipaddress
import json
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

NAME = 'auth.openai.com'
ACCOUNT = 'person@example.test'


class Issuer:
    """The issuer's process, and what a test may ask of it.

    Settings, all changed with `configure`:
        authorize      "allow", "deny" (access_denied), "wrong-state"
        token_delay    seconds before a code is exchanged for tokens
        token_status   HTTP status of that exchange; other than 200 fails the login
        device         "pending", "allow", "deny", "disabled"
    """

    def __init__(self, address: str, folder: Path, enter: list[str], port: int = 443):
        """Serve on `address`, behind the command prefix `enter`; certificates are made in `folder`."""
        self.ca_file, certificate, self.key_hash = make_certificates(folder)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*enter, sys.executable, str(Path(__file__).resolve()), address, str(port), str(certificate)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout.readline() != 'ready\n':
            self.close()
            raise RuntimeError(f'the stub issuer did not start on {address}:{port}')

    def configure(self, **settings) -> None:
        """Change settings; what is not named stays as it is."""
        self._ask({'configure': settings})

    def requests(self, path: str | None = None) -> list[dict]:
        """What was asked so far, oldest first: method, path, query, form, status (None until answered)."""
        seen = self._ask({})
        return [request for request in seen if path is None or request['path'] == path]

    def close(self) -> None:
        """End the issuer."""
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, question: dict):
        with self._lock:
            self._process.stdin.write(json.dumps(question) + '\n')
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        if 'error' in answer:
            raise ValueError(answer['error'])
        return answer['requests']


def make_certificates(folder: Path, names: Sequence[str] = (NAME,)) -> tuple[Path, Path, str]:
    """A throw-away authority and a certificate for the issuer of these names.

    Returns the authority's file, the file with certificate and key, and the hash of the certificate's public
    key as Chromium's --ignore-certificate-errors-spki-list wants it.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.timezone.utc)
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'Throw-away test authority')])
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())

    def certificate(subject, public_key, extensions):
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(authority_name)
                   .public_key(public_key).serial_number(x509.random_serial_number())
                   .not_valid_before(now - datetime.timedelta(days=1))
                   .not_valid_after(now + datetime.timedelta(days=2)))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(authority_key, hashes.SHA256())

    authority = certificate(authority_name, authority_key.public_key(),
                            [(x509.BasicConstraints(ca=True, path_length=0), True)])
    leaf = certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key(),
                       [(x509.BasicConstraints(ca=False, path_length=None), True),
                        (x509.SubjectAlternativeName([*map(x509.DNSName, names), x509.DNSName('localhost'),
                                                      x509.IPAddress(ipaddress.ip_address('127.0.0.1'))]),
                         False)])
    pem = serialization.Encoding.PEM
    ca_file, leaf_file = folder / 'ca.pem', folder / 'issuer.pem'
    ca_file.write_bytes(authority.public_bytes(pem))
    leaf_file.touch(0o600)
    leaf_file.write_bytes(leaf.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return ca_file, leaf_file, base64.b64encode(digest.finalize()).decode()


# ---------------------------------------------------------------------------------------------------------
# The process
# ---------------------------------------------------------------------------------------------------------

class _State:
    """What all of the issuer's threads share."""

    def __init__(self):
        self.lock = threading.Lock()
        self.settings = {'authorize': 'allow', 'token_delay': 0, 'token_status': 200, 'device': 'pending'}
        self.requests: list[dict] = []
        self.unused_codes: set[str] = set()

    def configure(self, changes: dict) -> None:
        unknown = changes.keys() - self.settings.keys()
        if unknown:
            raise ValueError(f"the issuer knows no setting {', '.join(sorted(unknown))}")
        with self.lock:
            self.settings.update(changes)

    def new_code(self) -> str:
        code = 'code-' + secrets.token_urlsafe(16)
        with self.lock:
            self.unused_codes.add(code)
        return code

    def use_code(self, code: str) -> bool:
        """True once per code handed out: a redirect delivered twice shows as a failed exchange."""
        with self.lock:
            if code not in self.unused_codes:
                return False
            self.unused_codes.remove(code)
            return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    state: _State

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self._note('GET', url.path, query, {})
        page = {'/oauth/authorize': self._authorize, '/codex/device': self._device_page}.get(url.path)
        if page:
            page(query)
        else:
            self._answer(404, 'text/plain', 'not here')

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0)).decode()
        if self.headers.get('Content-Type', '').startswith('application/json'):
            form = json.loads(body)
        else:
            form = {name: values[-1] for name, values in parse_qs(body).items()}
        self._note('POST', self.path, {}, form)
        action = {
            '/oauth/token': self._token,
            '/oauth/revoke': lambda form: self._json(200, {}),
            '/api/accounts/deviceauth/usercode': self._device_code,
            '/api/accounts/deviceauth/token': self._device_poll,
        }.get(self.path)
        if action:
            action(form)
        else:
            self._json(404, {'error': 'not here'})

    def _note(self, method: str, path: str, query: dict, form: dict) -> None:
        self._noted = {'method': method, 'path': path, 'query': query, 'form': form, 'status': None}
        with self.state.lock:
            self.state.requests.append(self._noted)

    def _authorize(self, query: dict) -> None:
        how = self.state.settings['authorize']
        answer = {'code': self.state.new_code(), 'state': query.get('state', '')}
        if how == 'deny':
            answer = {'error': 'access_denied', 'error_description': 'The person said no',
                      'state': query.get('state', '')}
        elif how == 'wrong-state':
            answer['state'] = 'of-another-attempt'
        target = html.escape(f"{query['redirect_uri']}?{urlencode(answer)}")
        self._page('Sign in', f'<p>Sign in as {ACCOUNT}?</p><a id="continue" href="{target}">Continue</a>')

    def _token(self, form: dict) -> None:
        if form.get('grant_type') == 'authorization_code':
            settings = dict(self.state.settings)
            time.sleep(settings['token_delay'])
            if settings['token_status'] != 200:
                return self._json(settings['token_status'],
                                  {'error': 'refused', 'error_description': 'as the test wanted'})
            if not self.state.use_code(form.get('code', '')):
                return self._json(400, {'error': 'invalid_grant',
                                        'error_description': 'code unknown or used before'})
        self._json(200, {'id_token': _jwt(), 'access_token': _jwt(),
                         'refresh_token': 'refresh-' + secrets.token_urlsafe(8),
                         'token_type': 'Bearer', 'expires_in': 3600})

    def _device_page(self, query: dict) -> None:
        self._page('Enter code', '<p>Enter the code shown by Codex</p><input id="code">')

    def _device_code(self, form: dict) -> None:
        if self.state.settings['device'] == 'disabled':
            self._json(404, {'error': 'not enabled'})
        else:
            self._json(200, {'device_auth_id': 'device-1', 'user_code': 'E70A-863A2', 'interval': '1'})

    def _device_poll(self, form: dict) -> None:
        if self.state.settings['device'] == 'allow':
            self._json(200, {'authorization_code': self.state.new_code(), 'code_challenge': 'challenge',
                             'code_verifier': 'verifier'})
        elif self.state.settings['device'] == 'deny':
            self._json(400, {'error': 'access_denied'})
        else:
            self._json(403, {'error': 'authorization_pending'})

    def _page(self, title: str, body: str) -> None:
        self._answer(200, 'text/html; charset=utf-8',
                     f'<!doctype html><title>{title}</title><h1>{title}</h1>{body}')

    def _json(self, status: int, value: dict) -> None:
        self._answer(status, 'application/json', json.dumps(value))

    def _answer(self, status: int, kind: str, text: str) -> None:
        with self.state.lock:
            self._noted['status'] = status
        body = text.encode()
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], certificate: str, handler):
        super().__init__(address, handler)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)

    def finish_request(self, request, client_address):
        # Hands are shaken in the connection's own thread: a browser's spare connection holds up nobody.
        with self._tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request, client_address):
        """A client that hangs up is no news here."""


def _jwt(**more) -> str:
    claims = {**more, 'email': ACCOUNT, 'exp': int(time.time()) + 3600, 'sub': 'user-1',
              'https://api.openai.com/auth': {'chatgpt_plan_type': 'plus', 'chatgpt_user_id': 'user-1',
                                              'user_id': 'user-1', 'chatgpt_account_id': 'account-1'}}
    parts = ({'alg': 'none', 'typ': 'JWT'}, claims)
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip('=') for part in parts]
    return '.'.join([*coded, 'c2lnbmF0dXJl'])


def main(address: str, port: str, certificate: str) -> None:
    """Serve until stdin ends; each line there is a question from `Issuer`."""
    state = _State()
    handler = type('Handler', (_Handler,), {'state': state})
    server = _Server((address, int(port)), certificate, handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print('ready', flush=True)
    for line in sys.stdin:
        try:
            state.configure(json.loads(line).get('configure', {}))
            with state.lock:
                answer = json.dumps({'requests': state.requests})
        except ValueError as error:
            answer = json.dumps({'error': str(error)})
        print(answer, flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
