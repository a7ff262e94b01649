"""Pythonista's `webbrowser`: safari-https:// leaves for Safari, https:// opens a tab in the app.

In the share extension it does nothing.
"""

import appex
from _phone import record


class Error(Exception):
    """As in the standard library."""


def open(url, new=0, autoraise=True, modal=False, stop_when_done=False):
    if appex.is_running_extension():
        return False
    record('webbrowser.open', url)
    return True


def open_new(url):
    return open(url)


open_new_tab = open_new


def can_open(url):
    return True


def get(using=None):
    raise Error('no other browser can be chosen here')
