"""Pythonista's `appex`: what the share sheet was opened with, or that a Shortcut runs the script in its extension.

"Run in App" is neither: a Shortcut waits, and nothing here says so.
"""

from _phone import is_set, load, record


def is_running_extension():
    return bool(load('share.json', None)) or is_shortcut()


def is_shortcut():
    return is_set('shortcut')


def is_widget():
    return False


def _shared(name):
    return (load('share.json', None) or {}).get(name)


def get_url():
    return _shared('url')


def get_urls():
    return _shared('urls') or []


def get_text():
    return _shared('text')


def get_input():
    return load('share.json', None)


def finish(js=''):
    record('appex.finish', js)
