#!/usr/bin/env python3
"""Writes into scripts/README.md what --check says in each of the stand-ins: python3 tests/tools/record_check.py

Each app has a person who says yes, looks at the page for a while, and comes back when iOS has put the app to sleep.
"""

import pathlib
import re
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import environment  # noqa: E402

README = TESTS.parent / 'scripts' / 'README.md'
SHOWN = {'Pythonista 3.4': 'Pythonista', 'Pythonista 3.5 beta': 'Pythonista beta', 'a-Shell': 'a-Shell'}
BEGIN, END = '<!-- check:begin -->\n', '<!-- check:end -->\n'

# Runs codex_login.py with clocks that jump a minute for each letter in the file `woke`: as after a freeze.
SLEEPER = '''
import os, runpy, sys, time
here, real, clock = os.path.dirname(os.path.abspath(__file__)), time.time, time.clock_gettime
def asleep():
    return 60 * os.path.getsize(os.path.join(here, 'woke'))
time.time = lambda: real() + asleep()
time.clock_gettime = lambda name: clock(name) + asleep() * (name in (time.CLOCK_REALTIME, time.CLOCK_BOOTTIME))
sys.argv[0] = os.path.join(here, 'codex_login.py')
sys.exit(runpy.run_path(sys.argv[0], run_name='__main__'))
'''


def run_check(handset, yes=True, look=True):
    """--check in a phone's app, by a person who leaves it for the browser, looks, and comes back; the ended script."""
    from harness import Browser
    from test_phones import NO, YES
    (handset.folder / 'sleeper.py').write_text(SLEEPER)
    (handset.folder / 'woke').touch()
    if not handset.is_terminal:
        handset.phone.will_answer(('console.alert', YES), ('console.alert', YES if yes else NO))    # to try it at all, and to leave
    script = handset.start('--check', script='sleeper.py')
    if handset.is_terminal:
        script.answer('yes/no', 'yes' if yes else 'no')
    if yes:
        address = handset.sign_in_page(script)
        if look:
            assert Browser('').get(address).status == 200
        (handset.folder / 'woke').write_text('z')
    assert script.wait() == 0, script.report()
    return script


def table(handset, script):
    """The table that a script showed, and copied."""
    text = handset.phone.clipboard
    shown = (script.screen or script.stdout).replace('\r\n', '\n')
    assert text in shown, script.report()
    return text


def lasting(text):
    """What of a table is the same on another machine and another day."""
    text = re.sub(r'(?m)^system .*\n', '', text)
    return re.sub(r'[-+]?\b[0-9]+\b', 'N', ' '.join(text.split()))


def what_it_says(*wanted):
    """{app: table} of each stand-in, or of those that are wanted."""
    from test_phones import APPS, Handset
    tables = {}
    for shown, app in SHOWN.items():
        if wanted and shown not in wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            handset = Handset(pathlib.Path(folder), APPS[app]())
            try:
                tables[shown] = table(handset, run_check(handset))
            finally:
                handset.close()
    return tables


def as_text(tables):
    """What stands in the README between its marks."""
    return '\n'.join(f'{app}:\n\n```text check\n{text}\n```\n' for app, text in tables.items())


def main():
    text = README.read_text(encoding='utf-8')
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + as_text(what_it_says()) + END + after, encoding='utf-8')


if __name__ == '__main__':
    environment.ensure()
    main()
