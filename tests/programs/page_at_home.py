"""Prints a page that is itself on loopback, with a link that leads to the issuer: tsh, kubelogin."""

import secrets

import kit

listener, port = kit.listen()
home = '/' + secrets.token_hex(8)
kit.show(f'http://127.0.0.1:{port}{home}')
for sock, request in kit.requests(listener):
    if request.path == home:
        there = kit.issuer(f'http://127.0.0.1:{port}/callback').replace('&', '&amp;')
        kit.answer(sock, body=f'<a href="{there}">Sign in</a>')
    elif request.path == '/callback' and request.brings():
        kit.answer(sock, body='You are signed in.')
        break
    else:
        kit.answer(sock, '404 Not Found', 'Nothing here.')
kit.done()
