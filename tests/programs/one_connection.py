"""Takes exactly one connection, and then no more: google-oauthlib-tool, gcalcli, databricks-sdk."""

import sys

import kit

listener, port = kit.listen(backlog=1)
kit.show(kit.issuer(f'http://localhost:{port}/callback'))
sock = listener.accept()[0]
listener.close()
with sock, sock.makefile('rb') as stream:
    try:
        request = kit.Request(stream)
    except EOFError:
        sys.exit('Somebody connected and said nothing. That was the only connection.')
    if request.path != '/callback' or not request.brings():
        kit.answer(sock, '400 Bad Request', 'Not this sign-in.')
        sys.exit('Not this sign-in. That was the only connection.')
    kit.answer(sock, '200 OK', 'You are signed in.')
kit.done()
