"""Would not have the redirect when it first comes, but the next time: its argument is the
status that it answers with, or `reset`. A second one, `POST`: it wants a form."""

import socket
import struct
import sys

import kit

HOW, METHOD = (*sys.argv[1:], 'GET')[:2]
WORDS = {'429': 'Too Many Requests', '431': 'Request Header Fields Too Large', '503': 'Service Unavailable',
         '307': 'Temporary Redirect', '308': 'Permanent Redirect'}

listener, port = kit.listen()
kit.show(kit.issuer(f'http://localhost:{port}/callback'))
times = 0
for sock, request in kit.requests(listener):
    kit.say(f'{request.method} {request.path}')
    if request.path not in ('/callback', '/again') or request.method != METHOD or not request.brings('body' if METHOD == 'POST' else 'query'):
        kit.answer(sock, '404 Not Found', 'Nothing here.')
        continue
    times += 1
    if times > 1:
        kit.answer(sock, '200 OK', 'You are signed in.')
        break
    if HOW == 'reset':
        sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<p>You are')
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        continue
    more = ['Location: /again' + request.target.removeprefix('/callback')] if HOW[0] == '3' else ['Retry-After: 1']
    kit.answer(sock, f'{HOW} {WORDS[HOW]}', 'Not now.', more)
kit.done()
