"""Its answer stands behind the `#`: the page at the redirect reads it there, and brings it to a second page. No state, no length: oci."""

import http.server
import sys
import urllib.parse

import kit

PAGE = b"""<script>
var asked = new XMLHttpRequest()
asked.addEventListener('load', function () { document.write('You are signed in.') })
asked.open('GET', '/token?' + location.hash.slice(1))
asked.send()
</script>"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers everything, with 200."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == '/':
            self.wfile.write(PAGE)
        else:
            self.server.token = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).get('security_token')

    def log_message(self, *_):
        """Nothing is said of requests."""


listener, port = kit.listen()
listener.close()
server = http.server.HTTPServer(('127.0.0.1', port), Handler)
kit.show(kit.issuer(f'http://localhost:{port}', response_type='token id_token', nonce=kit.STATE, state=None))
server.token = None
while not server.token:
    server.handle_request()
server.server_close()
if server.token != ['good']:
    sys.exit('Not this sign-in.')
kit.done()
