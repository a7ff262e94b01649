"""Pythonista's `shortcuts`."""

import os
from urllib.parse import quote

from _phone import path, record


def is_running_shortcut():
    return os.path.exists(path('shortcut'))


def set_output_text(text):
    record('shortcuts.set_output_text', text)


def open_url(url):
    record('shortcuts.open_url', url)


def pythonista_url(script='', action='run', args=None, argv=None):
    arguments = ''.join(f'&argv={quote(argument)}' for argument in argv or ())
    return f'pythonista3://{quote(script)}?action={action}{arguments}'
