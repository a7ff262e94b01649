"""Pythonista's `objc_util`: the classes that are needed, with their own selectors, numbers of arguments and threads.

After Phone.lose_bridge() no class is found, as when an app's update has taken it away; after lose_window() the app has
no key window, as where it runs in a scene of its own.
"""

import functools
import itertools
import sys
import threading
import traceback

import _main_loop
import appex
from _phone import is_set, leave, main_thread_only, on_main, record, violation

NSNotFound = sys.maxsize


class c:
    """The C library: symbols are found by c_void_p.in_dll."""


class c_void_p:
    def __init__(self, value=None):
        self.value = value

    @classmethod
    def in_dll(cls, library, name):
        if is_set('no-bridge') or name not in ('UIPasteboardOptionLocalOnly',):
            raise ValueError(f'symbol not found: {name}')
        return cls(name)


class ObjCInstance:
    """An object. A message that its class does not have is an AttributeError, as in the app."""

    def __init__(self, pointer, messages=()):
        self._name, self._messages = getattr(pointer, 'value', pointer), dict(messages)

    def __getattr__(self, selector):
        if selector.startswith('__') or selector not in self._messages:
            raise AttributeError(f'No method found for selector "{selector.replace("_", ":")}"')
        def send(*args):
            if len(args) != selector.count('_'):
                raise TypeError(f'expected {selector.count("_")} arguments, got {len(args)}')
            main_thread_only(f'{self._name}.{selector}')
            record('objc', f'{self._name}.{selector}', *args)
            return self._messages[selector](*args)

        return send

    def __repr__(self):
        return f'<{self._name}>'


def _object(name, **messages):
    """An object whose messages are UIKit's: for the main thread only."""
    return ObjCInstance(name, messages)


def _nothing(*args):
    return None


# -- background time: what is not ended in time ends the app

_tasks = {}
_task_numbers = itertools.count(1)


def _begin_background_task(handler):
    if handler is not None:
        violation('a block was passed, which is reported broken in 3.4')
    if is_set('no-background-time'):
        return 0
    number = next(_task_numbers)
    timer = threading.Timer(30.0, violation, ['a background task was not ended before its time: iOS kills the app'])
    timer.daemon = True
    _main_loop.own(timer)
    timer.start()
    _tasks[number] = timer
    return number


def _end_background_task(number):
    timer = _tasks.pop(number, None)
    if timer is None:
        violation(f'a background task was ended that does not run: {number!r}')
    else:
        timer.cancel()


def end_of_run():
    """What must be over with the script."""
    while _tasks:
        _tasks.popitem()[1].cancel()
        violation('a background task was not ended with the script')


# -- UIKit

def _open_url(url, options, handler):
    if handler is not None:
        violation('a block was passed, which is reported broken in 3.4')
    if not isinstance(options, dict):
        raise TypeError('options is no dictionary')
    if not is_set('no-browser'):
        record('openURL', url._name.removeprefix('nsurl '))
        leave()


def _open_url_the_old_way(url):
    """Deprecated; iOS 18 refuses it to apps that are built with its SDK."""
    if is_set('no-old-open') or is_set('no-browser'):
        return False
    record('openURL', url._name.removeprefix('nsurl '))
    return True


def _present(controller, animated, completion):
    if completion is not None:
        violation('a block was passed, which is reported broken in 3.4')
    _presented.append(controller)


_presented = []


def _dismiss(animated, completion):
    if completion is not None:
        violation('a block was passed, which is reported broken in 3.4')
    _presented.clear()


def _controller(name):
    return _object(
        name, presentedViewController=lambda: _presented[-1] if _presented and name == 'UIViewController' else None,
        presentViewController_animated_completion_=_present,
        dismissViewControllerAnimated_completion_=_dismiss)


def _window():
    return None if is_set('no-window') else _object('UIWindow', rootViewController=lambda: _controller('UIViewController'))


_application = _object(
    'UIApplication', keyWindow=_window, openURL_options_completionHandler_=_open_url, openURL_=_open_url_the_old_way,
    beginBackgroundTaskWithExpirationHandler_=_begin_background_task, endBackgroundTask_=_end_background_task,
    backgroundTimeRemaining=lambda: sys.float_info.max,
    applicationState=lambda: 2 if is_set('elsewhere') else 0)        # in the background, active


def _safari_view(url):
    if not url._name.startswith(('nsurl http://', 'nsurl https://')):
        violation('SFSafariViewController takes http and https only: anything else ends the app')
    return _controller('SFSafariViewController')


def _set_items(items, options):
    from _phone import path
    (item,) = items
    (text,) = item.values()
    record('clipboard.set', text)
    with open(path('clipboard'), 'w') as file:
        file.write(text)


_CLASSES = {
    # An extension has no application.
    'UIApplication': _object('UIApplication', sharedApplication=lambda: (
        None if appex.is_running_extension() else _application)),
    'SFSafariViewController': _object('SFSafariViewController', alloc=lambda: _object(
        'SFSafariViewController', initWithURL_=_safari_view)),
    'UIPasteboard': _object('UIPasteboard', generalPasteboard=lambda: _object(
        'UIPasteboard', setItems_options_=_set_items)),
}


def ObjCClass(name):
    if is_set('no-bridge') or name not in _CLASSES or name == 'SFSafariViewController' and is_set('no-sheet'):
        raise ValueError(f'no Objective-C class named {name.encode()!r} found')
    return _CLASSES[name]


class _Bridge:
    """A class that the module fetches by itself when it is imported."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, selector):
        return getattr(ObjCClass(self._name), selector)


UIApplication = _Bridge('UIApplication')


def load_framework(name):
    record('objc_util.load_framework', name)
    return not is_set('no-bridge')


def nsurl(text):
    if not isinstance(text, str):
        raise TypeError('expected a string')
    return ObjCInstance(f'nsurl {text}')


def ns(value):
    return value


def on_main_thread(function):
    """Run it on the main thread and wait. What it raises there is printed by ctypes, and lost."""
    if not callable(function):
        raise TypeError('expected a callable')

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if on_main():
            return function(*args, **kwargs)
        result = []

        def call():
            try:
                result.append(function(*args, **kwargs))
            except BaseException:
                traceback.print_exc()
        _main_loop.run(call)
        return result[0] if result else None

    return wrapped
