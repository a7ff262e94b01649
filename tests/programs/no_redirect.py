"""Its address says nothing of where it leads back to (SAML, a short link): the page there knows it. `handed`: only $BROWSER gets it;
`late`: it listens a moment after that; `path`: the result is in the path, without a parameter.
"""

import os
import subprocess
import sys
import time

import kit

address = 'https://sso.example/idp/saml?SAMLRequest=fZJNT8JAEIbvJv6HZu-0Bw6lLQ'
if 'late' not in sys.argv:
    listener, port = kit.listen()
if 'handed' in sys.argv:
    subprocess.run([os.environ['BROWSER'], address], check=True)
else:
    kit.show(address)
    kit.say('Documentation: https://sso.example/docs/login')
if 'late' in sys.argv:
    time.sleep(0.5)
    listener, port = kit.listen()
if 'path' in sys.argv:
    sock = listener.accept()[0]
    with sock, sock.makefile('rb') as stream:
        kit.answer(sock, body='You are signed in.' if kit.Request(stream).path == '/done/token' else 'No.')
else:
    kit.serve_until_signed_in(listener, method='POST', where='body', path='/acs', state='')
kit.done()
