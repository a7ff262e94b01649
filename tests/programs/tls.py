"""Speaks TLS on its redirect's port, with a certificate of its own that nobody else knows."""

import pathlib
import ssl

import kit

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pathlib.Path(__file__).with_name('localhost.pem'))
listener, port = kit.listen()
kit.show(kit.issuer(f'https://localhost:{port}/callback'))


class Encrypted:
    """The listener, for those who speak TLS."""

    def accept(self):
        while True:
            sock, peer = listener.accept()
            try:
                return context.wrap_socket(sock, server_side=True), peer
            except OSError:         # no TLS
                sock.close()


kit.serve_until_signed_in(Encrypted())
kit.done()
