"""Its address has a redirect, and nothing listens there: the program is in a container. It waits for the end of its input, or for long."""

import os
import time

import kit

kit.show(kit.issuer(f'http://localhost:{os.environ["STAND_IN_PORT"]}/callback'))
time.sleep(600)
