"""Where the fake modules of the app write down what was called, and find what the person answers.

What the app would not survive, or a phone not allow, is a violation: it fails the test, whatever the script makes of it.
"""

import json
import os
import threading
import time
import traceback


def path(name):
    return os.path.join(os.environ['STAND_IN_PHONE'], name)


def record(call, *args, **kwargs):
    _append('calls.jsonl', {'call': call, 'args': args, 'kwargs': kwargs})


def violation(text):
    """Write down what the app would have died of, with the way there."""
    _append('violations.jsonl', {'what': text, 'way': traceback.format_stack(limit=8)[:-2]})


def _append(name, value):
    with open(path(name), 'a') as file:
        file.write(json.dumps(_plain(value), default=repr) + '\n')


def _plain(value):
    """Objects may be a dictionary's keys in the app, but not in JSON."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else repr(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def on_main():
    return threading.current_thread() is threading.main_thread()


def main_thread_only(what):
    """UIKit: off the main thread it can end the app."""
    if not on_main():
        violation(f'{what} was called off the main thread')


def never_on_main(what):
    """What waits for a person would hold up the very thread that shows it."""
    if on_main():
        violation(f'{what} was called on the main thread, which it holds up')


def text(value, name):
    if not isinstance(value, str):
        raise TypeError(f'{name} must be a string')


def is_set(name):
    """Whether the test has set this condition (see standins.Phone)."""
    return os.path.exists(path(name))


def ask(call, *args, **kwargs):
    """The scripted answer to a question of this kind; CANCELLED where the person taps Cancel."""
    never_on_main(call)
    if is_set('shortcut'):
        # The Shortcuts extension has no window to show it in. How the app fails there no source says.
        record('dialog without a window', call)
        raise RuntimeError('no view controller to present from')
    record(call, *args, **kwargs)
    while is_set('person-thinks') and call == 'console.input_alert':      # it stays open, whatever becomes of the app
        time.sleep(0.05)
    answers = load('answers.json', [])
    if not answers or answers[0][0] != call:
        record('unexpected question', call, *args)
        raise SystemExit(f'stand-in: nobody answers {call}{args}; next is {answers[:1]}')
    answer = answers.pop(0)[1]
    save('answers.json', answers)
    return CANCELLED if answer == {'cancel': True} else answer


def leave():
    """The person goes to another app, until the test has them come back."""
    with open(path('elsewhere'), 'w'):
        pass


CANCELLED = object()


def or_interrupt(answer):
    """`console` raises KeyboardInterrupt on Cancel."""
    if answer is CANCELLED:
        raise KeyboardInterrupt
    return answer


def or_none(answer):
    """`dialogs` gives None on Cancel."""
    return None if answer is CANCELLED else answer


def load(name, otherwise):
    try:
        with open(path(name)) as file:
            return json.load(file)
    except FileNotFoundError:
        return otherwise


def save(name, value):
    with open(path(name), 'w') as file:
        json.dump(value, file)
