"""The page is at the server's loopback itself, at another port than its redirect: an issuer under development.

`further`: the redirect's answer leads on to a page at a third port, and only that one ends it.
"""

import sys
import threading

import kit

redirect, port = kit.listen()
page, page_port = kit.listen_anywhere()
last, last_port = kit.listen_anywhere()


def issuer():
    while True:
        sock = page.accept()[0]
        with sock, sock.makefile('rb') as stream:
            kit.Request(stream)
            kit.answer(sock, '302 Found', headers=[f'Location: http://localhost:{port}/callback?code=good&state={kit.STATE}'])


threading.Thread(target=issuer, daemon=True).start()
kit.show(f'http://127.0.0.1:{page_port}/authorize?redirect_uri=http%3A%2F%2Flocalhost%3A{port}%2Fcallback&state={kit.STATE}')
if 'further' in sys.argv:
    there = [f'Location: http://localhost:{last_port}/welcome']
    kit.serve_until_signed_in(redirect, status='302 Found', headers=there)
    kit.serve_until_signed_in(last, path='/welcome', brings=False)
else:
    kit.serve_until_signed_in(redirect)
kit.done()
