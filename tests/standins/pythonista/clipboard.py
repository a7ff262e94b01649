"""Pythonista's `clipboard`."""

from _phone import path, record


def get():
    record('clipboard.get')
    try:
        with open(path('clipboard')) as file:
            return file.read()
    except FileNotFoundError:
        return ''


def set(text):
    record('clipboard.set', text)
    with open(path('clipboard'), 'w') as file:
        file.write(text)
