"""The app's main thread: it runs what on_main_thread hands to it, one after the other, while scripts run in others."""

import queue
import threading

_wanted = queue.Queue()
_own_threads = set()


def own(thread):
    """A thread of the app, not of a script."""
    _own_threads.add(thread)


def is_own(thread):
    return thread in _own_threads or thread is threading.main_thread()


def run(function):
    """Have the main thread call `function`, and wait until it did."""
    done = threading.Event()
    _wanted.put((function, done))
    done.wait()


def serve():
    """The main loop."""
    while True:
        function, done = _wanted.get()
        function()
        done.set()
