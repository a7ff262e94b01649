"""Pythonista's `notification`, with its checks of arguments. In the share extension it does nothing."""

import os
import shutil
import tempfile
import time
import uuid
from numbers import Number

import appex
from _phone import is_set, load, record, save, text


def schedule(message=None, delay=0, sound_name=None, action_url=None, title=None, subtitle=None, attachments=None,
             trigger=None, actions=None, identifier=None):
    if not any((message, sound_name, title, subtitle)):
        raise ValueError('Notification must contain text or a sound.')
    if not isinstance(delay, Number):
        raise TypeError('delay must be a number')
    for name, value in (('message', message), ('sound_name', sound_name), ('action_url', action_url), ('title', title),
                        ('subtitle', subtitle), ('identifier', identifier)):
        if value is not None:
            text(value, name)
    if attachments or trigger or actions:
        raise NotImplementedError('the stand-in has no attachments, triggers and actions')
    _copy_sound(sound_name)
    record('notification.schedule', message, delay, sound_name, action_url, identifier=identifier)
    if appex.is_running_extension() or is_set('no-notifications'):
        return None
    identifier = identifier or uuid.uuid4().hex
    planned = {'message': message, 'due': time.time() + delay, 'action_url': action_url, 'identifier': identifier}
    save('notifications.json', [*_all_but(identifier), planned])
    return identifier


def _copy_sound(sound_name):
    """A sound is a file, which is copied, unless it is the standard one or an effect."""
    if sound_name is None or sound_name.lower() == 'default' or ':' in sound_name:
        return
    with tempfile.TemporaryDirectory() as sounds:
        try:
            shutil.copyfile(os.path.abspath(sound_name), os.path.join(sounds, 'sound'))
        except Exception:
            raise ValueError(f'Invalid sound_name or unreadable file: {sound_name}') from None


def get_scheduled():
    return [{'message': note['message'], 'action_url': note['action_url'], 'fire_date': note['due']}
            for note in load('notifications.json', []) if note['due'] > time.time()]


def _all_but(identifier, shown=None):
    return [note for note in load('notifications.json', [])
            if note['identifier'] != identifier or shown is not None and (note['due'] <= time.time()) != shown]


def cancel(identifier):
    """Take away what is planned; what is shown stays."""
    text(identifier, 'identifier')
    record('notification.cancel', identifier)
    save('notifications.json', _all_but(identifier, shown=False))


def remove_delivered(identifier):
    """Take away what is shown; what is planned stays."""
    text(identifier, 'identifier')
    record('notification.remove_delivered', identifier)
    save('notifications.json', _all_but(identifier, shown=True))


def cancel_all():
    record('notification.cancel_all')
    save('notifications.json', [note for note in load('notifications.json', []) if note['due'] <= time.time()])
