"""Pythonista's `notification`. In the share extension it does nothing."""

import appex
from _phone import load, record, save


def schedule(message=None, delay=0, sound_name='', action_url='', **options):
    if appex.is_running_extension():
        return None
    record('notification.schedule', message, delay, sound_name, action_url, **options)
    planned = {'message': message, 'delay': delay, 'action_url': action_url}
    save('notifications.json', [*_planned(), planned])
    return planned


def get_scheduled():
    return [] if appex.is_running_extension() else _planned()


def _planned():
    return load('notifications.json', [])


def cancel(planned):
    if appex.is_running_extension():
        return
    record('notification.cancel', planned)
    save('notifications.json', [other for other in _planned() if other != planned])


def cancel_all():
    record('notification.cancel_all')
    save('notifications.json', [])
