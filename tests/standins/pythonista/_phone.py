"""Where the fake modules of the app write down what was called, and find what the person answers."""

import json
import os


def path(name):
    return os.path.join(os.environ['STAND_IN_PHONE'], name)


def record(call, *args, **kwargs):
    line = json.dumps({'call': call, 'args': args, 'kwargs': kwargs}, default=repr)
    with open(path('calls.jsonl'), 'a') as file:
        file.write(line + '\n')


def ask(call, *args, **kwargs):
    """The scripted answer to a question of this kind; CANCELLED where the person taps Cancel."""
    record(call, *args, **kwargs)
    answers = load('answers.json', [])
    if not answers or answers[0][0] != call:
        record('unexpected question', call, *args)
        raise SystemExit(f'stand-in: nobody answers {call}{args}; next is {answers[:1]}')
    answer = answers.pop(0)[1]
    save('answers.json', answers)
    return CANCELLED if answer == {'cancel': True} else answer


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
