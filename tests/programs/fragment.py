"""The answer stands behind the `#`, which no browser sends: the page at the redirect reads it there and posts it (response_mode=fragment)."""

import kit

PAGE = """<script>fetch('/callback', {method: 'POST', body: location.hash.slice(1)}).then(() => document.write('You are signed in.'))</script>"""

listener, port = kit.listen()
kit.show(kit.issuer(f'http://localhost:{port}/callback', response_mode='fragment'))
for sock, request in kit.requests(listener):
    if request.path == '/callback' and request.method == 'POST' and request.brings('body'):
        kit.answer(sock, '200 OK', 'You are signed in.')
        break
    kit.answer(sock, *('200 OK', PAGE) if request.target == '/callback' and request.method == 'GET' else ('400 Bad Request', 'Not this sign-in.'))
kit.done()
