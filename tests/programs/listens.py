"""Listens as its words say, tells the ports, and waits for the end of its input: `4`, `6`, `any`, `any6`, `mapped`, `elsewhere`;

`fork` leaves the rest to a child that is in a group of its own, and ends; `naked` to one without an environment, below it;
`many` connects to itself a few hundred times; `hand` hands a page to $BROWSER; `long` waits for long, whatever its input is.
"""

import os
import socket
import subprocess
import sys
import time

ADDRESSES = {'4': '127.0.0.1', '6': '::1', 'any': '0.0.0.0', 'any6': '::', 'mapped': '::ffff:127.0.0.1', 'elsewhere': '127.0.0.2'}

kept = []
for at, word in enumerate(sys.argv[1:]):
    if word in ('fork', 'naked'):
        subprocess.Popen([sys.executable, '-s', '-E', '-S', __file__, *sys.argv[at + 2:]], start_new_session=word == 'fork',
                         env={} if word == 'naked' else None)
        break
    name, _, port = word.partition(':')
    if name == 'hand':
        subprocess.run([os.environ['BROWSER'], 'https://sso.example/login'], check=True)
        continue
    if name == 'long':
        time.sleep(600)
    if name == 'many':
        kept += [socket.create_connection(kept[0].getsockname()) for _ in range(300)]
        continue
    address = ADDRESSES[name]
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    listener = socket.socket(family)
    if name == '6':
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, int(port or 0)))
    listener.listen(512)
    kept.append(listener)
    print(name, listener.getsockname()[1], flush=True)
else:
    sys.stdin.read()
if sys.argv[1:2] == ['naked']:
    sys.stdin.read()
