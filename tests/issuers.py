"""A stub of everybody's issuers, in the world of an Sshd: what real programs sign in at; see real_programs.py.

    with Sshd() as server, Issuers(server, ['accounts.google.com']) as issuers:
        …sign in; a code is good that begins with "good-", once…
        issuers.exchanges()                 # how each exchange for tokens was answered

There, every name of theirs is 127.0.0.1, with a certificate of an authority that programs are told to trust. So nothing
leaves this machine, and no program needs to know of a proxy.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
from urllib.parse import parse_qsl, urlencode, urlsplit

import issuer

CODE = 'ABCD-1234'
"""The one-time code that it gives."""


class Issuers:
    """The stub of all issuers, at an Sshd. A context manager."""

    def __init__(self, server, hosts):
        self._server, self._hosts = server, hosts

    def __enter__(self):
        server, folder = self._server, self._server.folder
        authority, certificate, _ = issuer.make_certificates(folder, self._hosts)
        (folder / 'hosts').write_text(f'127.0.0.1 localhost {" ".join(self._hosts)}\n::1 localhost\n')
        (folder / 'resolv.conf').write_text('')
        # Ports that programs choose by chance are to be free on the phone as well, which is this machine.
        server.run('mount --bind /run/lab/hosts /etc/hosts; mount --bind /run/lab/resolv.conf /etc/resolv.conf\n'
                   'echo "20000 29999" >/proc/sys/net/ipv4/ip_local_port_range')
        there = f'/run/lab/{authority.name}'
        server.environment.update({name: there for name in (
            'SSL_CERT_FILE', 'NODE_EXTRA_CA_CERTS', 'REQUESTS_CA_BUNDLE', 'CODEX_CA_CERTIFICATE', 'HTTPLIB2_CA_CERTS')},
            WRANGLER_SEND_METRICS='false', NO_UPDATE_NOTIFIER='1', DISABLE_TELEMETRY='1')
        # Copies: the originals may lie below a folder that is another one at the server.
        here = pathlib.Path(__file__).resolve()
        for name in (here.name, 'issuer.py'):
            shutil.copy(here.with_name(name), folder)
        self._process = server.popen([sys._base_executable, '-s', '-E', f'/run/lab/{here.name}', f'/run/lab/{certificate.name}'],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout.readline() != 'ready\n':
            self.__exit__()
            raise RuntimeError('the stub of the issuers did not start')
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(5)
        self._process.stdout.close()

    def requests(self):
        """What was asked so far, as [method, host, target, status]."""
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def exchanges(self):
        """The statuses with which codes were exchanged for tokens."""
        return [status for method, _, target, status in self.requests() if method == 'TOKEN']


class _Handler(issuer._Handler):
    """Everybody's issuer: discovery, registration of clients, tokens, who somebody is; and an MCP server."""
    used, seen, lock = set(), [], threading.Lock()

    def do_GET(self):
        self._serve('')

    def do_HEAD(self):
        self._serve('')

    def do_POST(self):
        body, size = b'', int(self.headers.get('Content-Length') or 0)
        while self.headers.get('Transfer-Encoding') == 'chunked' and (chunk := int(self.rfile.readline(), 16)):
            body += self.rfile.read(chunk + 2)[:-2]
        self._serve((body + self.rfile.read(size)).decode())

    def _serve(self, body):
        self.host = self.headers.get('Host', '').partition(':')[0]
        self.mine, path = f'https://{self.host}', urlsplit(self.path).path
        self.entry = [self.command, self.host, self.path.partition('?')[0], None]
        with self.lock:
            self.seen.append(self.entry)
        if '/.well-known/oauth-protected-resource' in path:
            return self._json(200, {'resource': f'{self.mine}/mcp', 'authorization_servers': [self.mine]})
        if '/.well-known/' in path:
            return self._json(200, self._discovery(path))
        if path == '/register':
            return self._json(201, {**json.loads(body), 'client_id': 'stub'})
        if path in ('/login/device/code', '/login/oauth/access_token'):
            return self._device(path)
        if self.command == 'POST' and path.endswith('/token'):
            return self._tokens(body)
        if path == '/mcp':
            return self._mcp(body)
        who = {'data': {'viewer': {'login': 'person'}}, 'account': {'uuid': '1', 'email': issuer.ACCOUNT}, 'organization': {'uuid': '2'}, 'email': issuer.ACCOUNT, 'id': '1', 'sub': '1', 'name': 'Person', 'verified_email': True}
        if self.host == 'api.cloudflare.com':
            one = {'id': '1', 'name': 'Person', 'email': issuer.ACCOUNT, 'account': {'id': '1', 'name': 'Person'}}
            who = {'success': True, 'errors': [], 'messages': [], 'result': one if path.endswith('/user') else [one]}
        return self._json(200, who)

    def _discovery(self, path):
        tenant = urlsplit(self.path).path.partition('/v2.0/')[0] if '/v2.0/' in self.path else ''
        return {
            'issuer': self.mine + tenant, 'authorization_endpoint': f'{self.mine}{tenant}/authorize', 'token_endpoint': f'{self.mine}{tenant}/token',
            'registration_endpoint': f'{self.mine}/register', 'response_types_supported': ['code'],
            'oidc_endpoint': f'{self.mine}/oidc', 'userinfo_endpoint': f'{self.mine}/userinfo', 'jwks_uri': f'{self.mine}/jwks', 'subject_types_supported': ['public'],
            'grant_types_supported': ['authorization_code', 'refresh_token'], 'code_challenge_methods_supported': ['S256'],
            'token_endpoint_auth_methods_supported': ['none', 'client_secret_post'], 'id_token_signing_alg_values_supported': ['RS256']}

    def _tokens(self, body):
        form = (json.loads(body) if body.startswith('{') else dict(re.findall(r'name="(\w+)"\r\n\r\n(.*)\r\n', body)) if body.startswith('--') else
                dict(parse_qsl(body)))
        code = form.get('code', '')
        good = form.get('grant_type') != 'authorization_code' or code.startswith('good-')
        with self.lock:     # a code counts once
            good = good and (not code or code not in self.used)
            self.used.add(code)
            if code:
                self.seen.append(['TOKEN', self.host, self.entry[2], 200 if good else 400])
        if not good:
            return self._json(400, {'error': 'invalid_grant'})
        nonce = code.partition('.')[2]          # the page would know it; here, whoever plays the browser does
        return self._json(200, {
            'access_token': issuer._jwt(), 'refresh_token': 'refresh', 'id_token': issuer._jwt(nonce=nonce, aud=form.get('client_id')), 'token_type': 'Bearer', 'expires_in': 3600,
            **({'scope': 'user:inference user:profile'} if self.host == 'platform.claude.com' else {}), 'client_info': 'eyJ1aWQiOiIxIiwidXRpZCI6IjIifQ'})

    def _device(self, path):
        """GitHub's, which speaks in forms: the code is entered at once."""
        if path.endswith('code'):
            return self._answered(200, 'application/x-www-form-urlencoded', urlencode({
                'device_code': 'device', 'user_code': CODE, 'verification_uri': f'{self.mine}/login/device', 'expires_in': 900, 'interval': 1}))
        with self.lock:
            self.seen.append(['TOKEN', self.host, path, 200])
        return self._answered(200, 'application/x-www-form-urlencoded', urlencode({'access_token': 'token', 'token_type': 'bearer', 'scope': 'repo'}))

    def _mcp(self, body):
        if not self.headers.get('Authorization'):
            self.entry[3] = 401
            self.send_response(401)
            self.send_header('WWW-Authenticate', f'Bearer resource_metadata="{self.mine}/.well-known/oauth-protected-resource"')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        if self.command != 'POST':
            return self._json(405, {})
        asked = json.loads(body)
        if 'id' not in asked:
            return self._json(202, {})
        result = {'protocolVersion': asked['params'].get('protocolVersion', ''), 'capabilities': {}, 'serverInfo': {'name': 'stub', 'version': '1'}}
        return self._json(200, {'jsonrpc': '2.0', 'id': asked['id'], 'result': result})

    def _json(self, status, value):
        self._answered(status, 'application/json', json.dumps(value))

    def _answered(self, status, kind, text):
        self.entry[3] = status
        data = text.encode()
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(data)))
        self.send_header('X-OAuth-Scopes', 'repo, read:org, gist')
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)


def main(certificate):
    """Serve until stdin ends; each line there asks what was seen."""
    server = issuer._Server(('127.0.0.1', 443), certificate, _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print('ready', flush=True)
    for _ in sys.stdin:
        with _Handler.lock:
            print(json.dumps(_Handler.seen), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
