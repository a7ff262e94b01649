"""The commands `open`, `pbcopy` and `pbpaste` of a-Shell: they write down that they were called, and how."""

import json
import os
import sys
import time

name, *args = sys.argv[1:]
folder = os.environ['STAND_IN_PHONE']
clipboard = os.path.join(folder, 'clipboard')
record = {'call': name, 'args': args, 'kwargs': {}}

status = 0

if name == 'pbcopy':
    try:
        record['args'] = [sys.stdin.buffer.read().decode()]
        with open(clipboard, 'w') as file:
            file.write(record['args'][0])
    except UnicodeDecodeError:
        status = 1
elif name == 'pbpaste':
    # iOS asks the person, who may take a minute, or refuse.
    while os.path.exists(os.path.join(folder, 'paste-question')):
        time.sleep(0.05)
    try:
        if os.path.exists(os.path.join(folder, 'no-paste')):
            raise FileNotFoundError
        with open(clipboard) as file:
            text = file.read()
        sys.stdout.write(text)
        status = 0 if text else 1
    except FileNotFoundError:
        status = 1
elif name == 'open':
    if args and os.path.exists(args[0]):
        record['call'] = 'open: share sheet'
    elif not args or ':' not in args[0]:
        status = 255
    elif os.path.exists(os.path.join(folder, 'no-browser')):
        record['call'] = 'open: nothing'        # it ends with 0 whatever becomes of it

with open(os.path.join(folder, 'calls.jsonl'), 'a') as file:
    file.write(json.dumps(record) + '\n')
sys.exit(status)
