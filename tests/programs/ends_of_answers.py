"""Its answer ends in a way of its own: `chunked`, `no-content` (204), or `unended`: no length, and kept open."""

import sys

import kit

HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n'
PAGE = '<p>You are signed in.</p>'
ANSWERS = {
    'chunked': HEAD + 'Transfer-Encoding: chunked\r\n\r\n' + ''.join(
        f'{len(part):x};note=any\r\n{part}\r\n' for part in (PAGE[:7], PAGE[7:])) + '0\r\nX-Last: 1\r\n\r\n',
    'no-content': 'HTTP/1.1 204 No Content\r\n\r\n',
    'unended': HEAD + '\r\n' + PAGE,
}

listener, port = kit.listen()
kit.show(kit.issuer(f'http://localhost:{port}/callback'))
while True:
    sock = listener.accept()[0]
    stream = sock.makefile('rb')
    try:
        request = kit.Request(stream)
    except EOFError:
        continue
    if request.path == '/callback' and request.brings():
        sock.sendall(ANSWERS[sys.argv[1]].encode())
        kit.say('Signed in.')
        # The connection stays as it is until the other side ends it.
        stream.read(1)
        sys.exit(0)
    kit.answer(sock, '404 Not Found', 'Nothing here.')
    sock.close()
