"""An MCP server under development on the server's own loopback, with its own sign-in page (RFC 9728, 8414, 7591).

Prints its port, and ends with its input.
"""

import http.server
import json
import sys
import threading
import urllib.parse


class Stub(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body='', **headers):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {'Content-Type': 'application/json', 'Content-Length': len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        base = f'http://127.0.0.1:{self.server.server_address[1]}'
        if url.path.startswith('/.well-known/oauth-protected-resource'):
            self.answer(200, {'resource': base + '/mcp', 'authorization_servers': [base]})
        elif url.path.startswith('/.well-known/oauth-authorization-server'):
            self.answer(200, {'issuer': base, 'authorization_endpoint': base + '/authorize', 'token_endpoint': base + '/token',
                              'registration_endpoint': base + '/register', 'response_types_supported': ['code'],
                              'grant_types_supported': ['authorization_code', 'refresh_token'], 'scopes_supported': ['mcp'],
                              'code_challenge_methods_supported': ['S256'], 'token_endpoint_auth_methods_supported': ['none']})
        elif url.path == '/authorize':
            asked = dict(urllib.parse.parse_qsl(url.query))
            back = urllib.parse.urlencode({'code': 'good', 'state': asked['state']})
            self.answer(302, Location=f'{asked["redirect_uri"]}?{back}')
        else:
            self.answer(401, **{'WWW-Authenticate': f'Bearer resource_metadata="{base}/.well-known/oauth-protected-resource"'})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        if self.path == '/register':
            self.answer(201, {**json.loads(body), 'client_id': 'stub'})
        elif self.path == '/token':
            self.answer(200, {'access_token': 'a', 'token_type': 'Bearer', 'expires_in': 3600, 'refresh_token': 'r', 'scope': 'mcp'})
        else:
            self.do_GET()

    def log_message(self, *words):
        pass


server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Stub)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
