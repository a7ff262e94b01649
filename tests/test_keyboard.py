"""What a person types, at a terminal and at the phones: who gets it, how lines are edited, what the terminal is afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
import termios

import pytest
import embedded
from embedded import eventually
from harness import SCRIPT, Browser, Script
from relay import Relay
from waiting import until

CTRL_C, CTRL_D, CTRL_U, CTRL_W, CTRL_Z, BACKSPACE = '\x03', '\x04', '\x15', '\x17', '\x1a', '\x7f'


def mode(script):
    """What its terminal does with what is typed: (whole lines, echo, signals)."""
    local = termios.tcgetattr(script._master)[3]
    return tuple(bool(local & flag) for flag in (termios.ICANON, termios.ECHO, termios.ISIG))


USUAL = (True, True, True)


@pytest.fixture
def at_terminal(run):
    """A run with a person at a terminal."""
    return lambda *options, **how: run(*options, json_events=False, terminal=True, **how)


def sign_in_page(script):
    """The browser of a login that waits; what is typed from now on is for the login."""
    script.wait_for_text('paste its address here')
    return Browser(script.wait_for_text(r'^(https://\S+)\r?$')[1])


def typed(script, text):
    os.write(script._master, text.encode())


# --- Lines ---------------------------------------------------------------------------------------------------------

@pytest.mark.quick
def test_an_address_of_6000_characters_is_pasted_whole(at_terminal):
    script = at_terminal()
    browser = sign_in_page(script)
    script.answer('', browser.redirect(code='good-' + 6000 * 'x'))
    assert script.wait() == 0


@pytest.mark.quick
def test_a_line_is_edited_as_everywhere(at_terminal):
    script = at_terminal()
    browser = sign_in_page(script)
    script.answer('', f'nothing of this{CTRL_U}{browser.redirect()}é\t{BACKSPACE}{BACKSPACE} two words{CTRL_W}{CTRL_W}')
    assert script.wait() == 0


def test_what_is_erased_is_erased_on_the_screen(at_terminal):
    script = at_terminal()
    sign_in_page(script)
    before = until(lambda: script.screen.endswith('here.\r\n') and len(script.screen))
    typed(script, f'ab漢{BACKSPACE}\x01{BACKSPACE}c')
    until(lambda: 'c' in script.screen[before:])
    assert script.screen[before:] == 'ab漢' + 2 * '\b \b' + '^A' + 2 * '\b \b' + 'c'
    typed(script, f'{CTRL_U}q\n')
    assert script.wait() == 130


@pytest.mark.quick
def test_a_half_typed_line_is_no_answer_to_a_question_that_comes_between(at_terminal, server, home):
    for path in home.ssh.glob('id_*'):
        path.unlink()
    server.password, server.questions = None, (('Code: ', '111'),)
    script = at_terminal()
    script.answer('Code:', '111')
    redirect = sign_in_page(script).redirect()
    typed(script, redirect[:60])
    until(lambda: redirect[:60] in script.screen)
    server.questions = (('Code: ', '222'),)
    server.cut()
    script.answer('Code:', '222')
    script.wait_for_text('Connected again')
    script.answer('', redirect[60:])
    assert script.wait() == 0


@pytest.mark.quick
def test_what_was_typed_before_a_password_is_asked_for_is_none(at_terminal, server, home):
    for path in home.ssh.glob('id_*'):
        path.unlink()
    with Relay(server) as relay:
        relay.door('silent')
        script = at_terminal('-o', 'StrictHostKeyChecking=accept-new', to=f'{server.user}@127.0.0.1:{relay.port}', command=('true',))
        script.wait_for_text('Connecting')
        typed(script, 'typed-ahead\n')
        relay.restore()
        script.answer('password:', server.password)
        assert script.wait() == 0 and server.count['password'] == 1


# --- The terminal afterwards ------------------------------------------------------------------------------------------

@pytest.mark.quick
@pytest.mark.parametrize('end', ['signed in', 'q', 'SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'an error'])
def test_the_terminal_is_as_it_was(at_terminal, server, end):
    script = at_terminal('--timeout', '2' if end == 'an error' else '60')
    browser = sign_in_page(script)
    assert mode(script) == (False, False, True)
    if end == 'signed in':
        browser.sign_in()
    elif end == 'q':
        typed(script, 'q\n')
    elif end != 'an error':
        os.kill(script.process.pid, getattr(signal, end))
    assert script.wait() == {'signed in': 0, 'an error': 124}.get(end, 130)
    assert mode(script) == USUAL


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_the_terminal_is_as_it_was_after_a_signal_at_the_first_question(home, server, name):
    home.config.write_text(f'Host one\n    HostName 127.0.0.1\n    Port {server.port}\n    User {server.user}\nHost two\n')
    with Script(home, json_events=False, terminal=True) as script:
        script.wait_for_text(r'Number \(')
        until(lambda: mode(script) != USUAL)
        os.kill(script.process.pid, getattr(signal, name))
        assert script.wait() == 130 and mode(script) == USUAL


def test_a_freeze_in_which_somebody_else_used_the_terminal_leaves_the_lines_edited(at_terminal):
    script = at_terminal()
    browser = sign_in_page(script)
    usual = termios.tcgetattr(script._master)
    usual[3] |= termios.ICANON | termios.ECHO
    script.stop()
    termios.tcsetattr(script._master, termios.TCSANOW, usual)
    script.resume(after=5)
    until(lambda: mode(script) == (False, False, True))
    script.answer('', browser.redirect(code='good-' + 6000 * 'x'))
    assert script.wait() == 0 and mode(script) == USUAL


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_goes_on(home, server):
    home.config.write_text(f'Host here\n    HostName 127.0.0.1\n    Port {server.port}\n    User {server.user}\n')
    with Script(home, '--norc', '--noprofile', '-i', json_events=False, terminal=True, plain=True, python='/bin/bash',
                script='--noediting', environment={'PS1': 'shell> '}) as shell:
        shell.answer('shell> ', f'{sys.executable} {SCRIPT} -v here; echo ended $?')
        browser = sign_in_page(shell)
        typed(shell, CTRL_Z)
        shell.answer('(?s)Stopped.*shell> ', 'stty -a')
        shell.wait_for_text(r'[^-]icanon.*\n?.* echo ')
        shell.answer('shell> ', 'fg')
        until(lambda: mode(shell) == (False, False, True))
        typed(shell, f'{browser.redirect()}\n')
        shell.wait_for_text('Signed in')
        shell.answer('shell> ', 'exit')
        assert shell.wait() == 0
