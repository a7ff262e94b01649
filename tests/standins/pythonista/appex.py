"""Pythonista's `appex`: what the share sheet was opened with."""

from _phone import load, record


def is_running_extension():
    return bool(load('share.json', None))


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
