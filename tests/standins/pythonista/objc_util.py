"""Pythonista's `objc_util`: every class exists, and every message to one is written down.

After Phone.lose_bridge() no class is found, as when an app's update has taken it away.
"""

import os

from _phone import path, record


class FakeObject:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, selector):
        if selector.startswith('__'):
            raise AttributeError(selector)

        def send(*args, **kwargs):
            record('objc', f'{self._name}.{selector}', *args)
            return FakeObject(f'{self._name}.{selector}()')

        return send

    def __repr__(self):
        return f'<{self._name}>'


def ObjCClass(name):
    if os.path.exists(path('no-bridge')):
        raise ValueError(f'no Objective-C class named {name!r} found')
    return FakeObject(name)


def ObjCInstance(pointer):
    return pointer if isinstance(pointer, FakeObject) else FakeObject(f'instance {pointer!r}')


def create_objc_class(name, superclass=None, methods=(), classmethods=(), protocols=(), debug=True):
    record('objc_util.create_objc_class', name)
    return FakeObject(name)


def load_framework(name):
    record('objc_util.load_framework', name)
    return True


def nsurl(text):
    return FakeObject(f'nsurl {text}')


def ns(value):
    return value


def on_main_thread(function):
    return function


UIApplication = FakeObject('UIApplication')
NSURL = FakeObject('NSURL')
NSString = FakeObject('NSString')
UIPasteboard = FakeObject('UIPasteboard')
