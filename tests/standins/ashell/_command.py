"""The commands `open`, `pbcopy` and `pbpaste` of a-Shell: they write down that they were called, and how."""

import json
import os
import sys

name, *args = sys.argv[1:]
folder = os.environ['STAND_IN_PHONE']
clipboard = os.path.join(folder, 'clipboard')
record = {'call': name, 'args': args, 'kwargs': {}}

if name == 'pbcopy':
    record['args'] = [sys.stdin.read()]
    with open(clipboard, 'w') as file:
        file.write(record['args'][0])
elif name == 'pbpaste' and os.path.exists(clipboard):
    with open(clipboard) as file:
        sys.stdout.write(file.read())

with open(os.path.join(folder, 'calls.jsonl'), 'a') as file:
    file.write(json.dumps(record) + '\n')
