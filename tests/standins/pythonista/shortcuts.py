"""Pythonista's `shortcuts`."""

from urllib.parse import quote

import appex
from _phone import record, text as check


def is_running_shortcut():
    return appex.is_shortcut()


def set_output_text(text, filename='output.txt'):
    check(text, 'text')
    check(filename, 'filename')
    record('shortcuts.set_output_text', text)


def open_url(url):
    check(url, 'url')
    record('shortcuts.open_url', url)


def pythonista_url(script='', action='run', args=None, argv=None):
    arguments = ''.join(f'&argv={quote(argument)}' for argument in argv or ())
    return f'pythonista3://{quote(script)}?action={action}{arguments}'
