"""It shows no address at all (a code to be scanned, a page that was mailed), and takes the redirect all the same; with `reads`, only on its input."""

import sys

import kit

if 'reads' in sys.argv:
    kit.say(f'Somewhere a page was opened, ticket {kit.STATE}, port 9')
    line = sys.stdin.readline()
    sys.exit(f'No: {line}') if kit.STATE not in line else kit.done()
listener, port = kit.listen()
kit.say(f'Somewhere a page was opened, ticket {kit.STATE}, port {port}')
kit.serve_until_signed_in(listener)
kit.done()
