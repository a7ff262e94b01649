"""Listens on ::1 only, while its address says localhost."""

import os
import socket

import kit

listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
listener.bind(('::1', int(os.environ['STAND_IN_PORT'])))
listener.listen()
kit.show(kit.issuer(f'http://localhost:{os.environ["STAND_IN_PORT"]}/callback'))
kit.serve_until_signed_in(listener)
kit.done()
