"""Pythonista's `clipboard`. Off the main thread it has frozen the app (Pythonista-Issues #461)."""

from _phone import is_set, main_thread_only, path, record


def get():
    """The text, or None where there is none, or the person does not allow the paste."""
    main_thread_only('clipboard.get')
    record('clipboard.get')
    if is_set('no-paste'):
        return None
    try:
        with open(path('clipboard')) as file:
            return file.read() or None
    except FileNotFoundError:
        return None


def set(text):
    if not isinstance(text, str):
        raise TypeError('Expected a string')
    main_thread_only('clipboard.set')
    record('clipboard.set', text)
    with open(path('clipboard'), 'w') as file:
        file.write(text)
