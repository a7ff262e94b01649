"""Pythonista's `console`."""

import appex
from _phone import ask, main_thread_only, never_on_main, or_interrupt, record


def alert(title, message='', button1=None, button2=None, button3=None, hide_cancel_button=False):
    return or_interrupt(ask('console.alert', title, message, button1, button2, button3, hide_cancel_button))


def input_alert(title, message='', input='', ok_button_title='OK', hide_cancel_button=False):
    return or_interrupt(ask('console.input_alert', title, message, input, ok_button_title))


def password_alert(title='', message='', password='', ok_button_title='OK', hide_cancel_button=False):
    return or_interrupt(ask('console.password_alert', title, message, '', ok_button_title))


def login_alert(title, message='', login='', password='', ok_button_title='OK'):
    return tuple(or_interrupt(ask('console.login_alert', title, message, login, '', ok_button_title)))


def secure_input(prompt=''):
    return or_interrupt(ask('console.secure_input', prompt))


def hud_alert(message, icon='', duration=1.8):
    never_on_main('console.hud_alert')
    if appex.is_shortcut():
        raise RuntimeError('no view controller to present from')
    record('console.hud_alert', message, icon, duration)


def set_idle_timer_disabled(flag):
    main_thread_only('console.set_idle_timer_disabled')     # it crashed 3.3 (Pythonista-Issues #651)
    if appex.is_running_extension():
        raise RuntimeError('no application')
    record('console.set_idle_timer_disabled', bool(flag))


def show_activity(message=''):
    record('console.show_activity', message)


def hide_activity():
    record('console.hide_activity')


def write_link(title, link_url):
    record('console.write_link', title, link_url)
    print(title, end='')


def clear():
    record('console.clear')


def set_color(*rgb):
    pass


def set_font(*name_and_size):
    pass


def is_in_background():
    return False
