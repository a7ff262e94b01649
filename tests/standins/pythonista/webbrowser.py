"""Pythonista's `webbrowser`: safari-https:// leaves for Safari, https:// opens a tab in the app.

It always returns None. In the share extension nothing opens.
"""

import appex
from _phone import record
from objc_util import UIApplication, nsurl


class Error(Exception):
    """As in the standard library."""


def open(url, new=0, autoraise=True, **kwargs):
    if not isinstance(url, str):
        raise Error('Invalid URL, not a string')
    record('webbrowser.open', url)
    if appex.is_running_extension():
        return
    if url.startswith(('safari-http://', 'safari-https://')):
        UIApplication.sharedApplication().openURL_(nsurl(url[7:]))
    elif url.startswith(('http:', 'https:', 'file:')):
        record('a tab of the app', url)
    else:
        UIApplication.sharedApplication().openURL_(nsurl(url))


def open_new(url):
    open(url)


open_new_tab = open_new


def can_open(url):
    return True


def get(name=''):
    raise Error('could not locate runnable browser')
