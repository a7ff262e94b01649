"""The page is at the server's loopback itself, at another port than its redirect: an issuer under development.

`further`: the redirect's answer leads on to a page at a third port, and only that one ends it. `home`: its address names no redirect,
and its page leads to an issuer elsewhere.
"""

import sys
import threading

import kit

redirect, port = kit.listen()
page, page_port = kit.listen_anywhere()
back = f'http://localhost:{port}/callback'
leads_to = kit.issuer(back) if 'home' in sys.argv else f'{back}?code=good&state={kit.STATE}'
last, last_port = kit.listen_anywhere()


def issuer():
    while True:
        sock = page.accept()[0]
        with sock, sock.makefile('rb') as stream:
            kit.Request(stream)
            kit.answer(sock, '302 Found', headers=[f'Location: {leads_to}'])


threading.Thread(target=issuer, daemon=True).start()
kit.show(f'http://127.0.0.1:{page_port}/' + ('' if 'home' in sys.argv else kit.issuer(back).partition('/')[2].partition('/')[2].partition('/')[2]))
if 'further' in sys.argv:
    there = [f'Location: http://localhost:{last_port}/welcome']
    kit.serve_until_signed_in(redirect, status='302 Found', headers=there)
    kit.serve_until_signed_in(last, path='/welcome', brings=False)
else:
    kit.serve_until_signed_in(redirect)
kit.done()
