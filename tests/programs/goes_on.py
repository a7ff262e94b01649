"""Has its redirect, says nothing, and goes on until ~/enough is there."""

import pathlib
import time

import kit

listener, port = kit.listen()
kit.show(kit.issuer(f'http://localhost:{port}/callback'))
kit.serve_until_signed_in(listener)
while not (pathlib.Path.home() / 'enough').exists():
    time.sleep(0.05)
kit.done()
