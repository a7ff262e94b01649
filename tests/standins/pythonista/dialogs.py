"""Pythonista's `dialogs`."""

from _phone import ask, or_interrupt, or_none, record


def list_dialog(title='', items=None, multiple=False):
    """The answer scripted for it is the item's title, or its place."""
    answer = or_none(ask('dialogs.list_dialog', title, items, multiple))
    if answer is None or multiple:
        return answer
    titles = [item['title'] if isinstance(item, dict) else item for item in items]
    return items[answer if isinstance(answer, int) else titles.index(answer)]


def form_dialog(title='', fields=None, sections=None):
    """The answer scripted for it is {key: value}; other fields keep what they held."""
    answer = or_none(ask('dialogs.form_dialog', title, fields, sections))
    if answer is None:
        return None
    groups = [fields] if fields is not None else [section[1] for section in sections]
    held = {item.get('key', item.get('title', '')): item.get('value', item['type'] != 'switch' and '')
            for group in groups for item in group}
    assert set(answer) <= set(held), f'the form has no such field: {set(answer) - set(held)}'
    return {**held, **answer}


def text_dialog(title='', text='', **options):
    return or_none(ask('dialogs.text_dialog', title, text))


def alert(title, message='', button1=None, button2=None, button3=None, hide_cancel_button=False):
    return or_interrupt(ask('dialogs.alert', title, message, button1, button2, button3, hide_cancel_button))


def hud_alert(message, icon='', duration=1.8):
    record('dialogs.hud_alert', message, icon, duration)
