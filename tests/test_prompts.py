"""Programs that ask: a question, a password, a code that goes back, a menu; answered here, through cuts and freezes.

The programs are programs/asks.py, run at the embedded server; the phones are stand-ins (see standins.py).
"""

import fcntl
import re
import shlex
import struct
import sys
import termios
from pathlib import Path

import pytest
from harness import Browser
from standins import CANCEL
from test_keyboard import CTRL_C, CTRL_D, USUAL, at_terminal, mode, typed  # noqa: F401 - a fixture is used by its name
from test_phones import NO, YES, ashell, pythonista  # noqa: F401 - fixtures
from waiting import until

ASKS = shlex.join([sys.executable, '-I', str(Path(__file__).resolve().parent / 'programs' / 'asks.py')])
CODE = 'a1B2c3D4-good#St4te-of_this.one'


def asks(kind):
    return ASKS, kind


# --- At a terminal ---------------------------------------------------------------------------------------------------

@pytest.mark.quick
def test_a_question_without_a_line_feed_is_shown_and_answered(at_terminal):
    script = at_terminal(command=asks('yes'))
    script.answer(r'Continue\? \[Y/n\] ', 'y')
    assert script.wait() == 0 and 'so: y' in script.screen and script.screen.count('Continue?') == 1


HARMS = ['none', 'a cut', 'a freeze', 'a freeze and a cut']


def harm(script, server, what):
    if 'freeze' in what:
        script.stop()
    if 'cut' in what:
        server.cut()
    if 'freeze' in what:
        script.resume(after=5)
    if 'cut' in what:
        script.wait_for_text('Connected again')


@pytest.mark.parametrize('what', HARMS)
def test_what_is_half_typed_at_a_prompt_is_neither_lost_nor_said_twice(at_terminal, server, what):
    script = at_terminal(command=asks('twice'))
    script.answer('Name: ', 'Ana')
    script.wait_for_text('Colour: ')
    typed(script, 'light ')
    harm(script, server, what)
    typed(script, 'blue\n')
    assert script.wait() == 0 and 'so: Ana, light blue\r\n' in script.screen


def test_the_end_of_input_is_passed_on(at_terminal):
    script = at_terminal(command=('echo begun; cat; echo ended',))
    script.answer('begun', f'one\ntwo{CTRL_D}{CTRL_D}'.removesuffix('\n'))
    assert script.wait() == 0 and 'two' in script.screen and script.screen.endswith('ended\r\n')


def test_the_end_of_input_that_was_typed_too_early_is_passed_on(at_terminal):
    script = at_terminal(command=('cat; echo ended',))
    typed(script, f'one\n{CTRL_D}')
    assert script.wait() == 0 and script.screen.endswith('one\r\nended\r\n')


@pytest.mark.quick
def test_q_is_an_answer_where_a_program_asks(at_terminal):
    script = at_terminal(command=asks('yes'))
    script.answer('Continue', 'q')
    assert script.wait() == 0 and 'so: q' in script.screen


def test_q_gives_up_where_a_page_is_waited_for_and_nothing_is_asked(at_terminal, server):
    script = at_terminal(command=(str(server.install('wrangler')), 'login'))
    script.wait_for_text('come back here')
    typed(script, 'q\n')
    assert script.wait() == 130


def test_the_address_of_another_sign_in_goes_to_nobody_unless_it_is_asked_for(at_terminal, server):
    script = at_terminal(command=(str(server.install('wrangler')), 'login'))
    script.wait_for_text('come back here')
    script.answer('', 'http://localhost:1/callback?code=of-another')
    script.wait_for_text('does not belong')
    Browser(script.wait_for_text(r'(https://\S+)\r?$')[1]).sign_in()
    assert script.wait() == 0

    script = at_terminal(command=asks('both'))
    script.wait_for_text('come back here')
    script.answer('Paste code', 'http://localhost:1/callback?code=of-another')
    assert script.wait() == 1 and 'Invalid code: 43 letters' in script.screen


def test_a_prompt_is_an_event(run):
    script = run(command=asks('yes'), terminal=True)
    assert script.wait_for('prompt')['text'] == 'Continue? [Y/n] '
    typed(script, 'n\n')
    assert script.wait() == 0 and script.events[-2] == {'event': 'output', 'text': 'Continue? [Y/n] so: n'}


# --- A code that goes back --------------------------------------------------------------------------------------------

def test_the_address_that_comes_back_by_itself_wins_over_the_one_for_pasting(at_terminal, home):
    script = at_terminal(command=asks('both'))
    script.wait_for_text('come back here')
    assert len(home.opened) == 1 and 'localhost' in home.opened[0]
    script.wait_for_text('Paste code here')
    assert Browser(home.opened[0]).sign_in(code='from-the-browser').status == 200
    assert script.wait() == 0 and 'Login successful: wser' in script.screen


def test_a_code_may_be_pasted_while_the_redirect_is_waited_for(at_terminal):
    script = at_terminal(command=asks('both'))
    script.wait_for_text('come back here')
    script.answer('Paste code here', CODE)
    assert script.wait() == 0 and 'Login successful: good' in script.screen


# --- Pythonista ------------------------------------------------------------------------------------------------------

@pytest.fixture
def in_pythonista(pythonista, server):
    """A run of one of the programs in Pythonista, by a person who gives these answers, and agreed to the words before."""
    def start(kind, *answers, options=()):
        pythonista.know(server)
        pythonista.phone.will_answer(('console.alert', YES), *answers)
        return pythonista.start(*options, 'home', *asks(kind))
    return start


def test_a_prompt_is_a_dialog_with_the_programs_words(in_pythonista, pythonista):
    script = in_pythonista('yes', ('console.input_alert', 'y'))
    assert script.wait() == 0 and 'so: y' in script.stdout
    assert pythonista.phone.called('console.input_alert')[0]['args'][1] == 'Continue? [Y/n] '


def test_a_secret_prompt_is_a_dialog_that_hides_it(in_pythonista, pythonista):
    script = in_pythonista('password', ('console.password_alert', 'four'))
    assert script.wait() == 0 and 'so: 4 letters' in script.stdout


def test_cancel_in_the_dialog_of_a_prompt_cancels(in_pythonista):
    assert in_pythonista('yes', ('console.input_alert', CANCEL)).wait() == 130


@pytest.mark.parametrize('what', HARMS[1:])
def test_a_dialog_that_is_open_while_the_app_is_frozen_is_answered_once(in_pythonista, pythonista, server, what):
    pythonista.phone.set('person-thinks')
    script = in_pythonista('twice', ('console.input_alert', 'Ana'), ('console.input_alert', 'blue'))
    until(lambda: 'console.input_alert' in pythonista.asked)
    if 'freeze' in what:
        script.stop()
    if 'cut' in what:
        server.cut()
    if 'freeze' in what:
        script.resume(after=5)
    pythonista.phone.unset('person-thinks')
    assert script.wait() == 0 and 'so: Ana, blue' in script.stdout
    assert pythonista.asked[1:] == 2 * ['console.input_alert']


def come_back(pythonista, script, code):
    """The person was in the browser, and comes back with a code on the clipboard."""
    until(lambda: pythonista.phone.called('openURL'))
    until(lambda: 'Paste code here' in script.stdout)
    until(lambda: pythonista.phone.called('objc') and any('applicationState' in str(call) for call in pythonista.phone.called('objc')))
    pythonista.phone.clipboard = code
    pythonista.phone.unset('elsewhere')


def test_a_code_on_the_clipboard_is_offered_and_never_shown_whole(in_pythonista, pythonista):
    script = in_pythonista('both', ('console.alert', YES), options=['-v'])
    come_back(pythonista, script, CODE)
    assert script.wait() == 0 and 'Login successful: good' in script.stdout
    _, question = (call['args'][1] for call in pythonista.phone.called('console.alert'))
    assert 'a1B2…' in question and CODE not in script.stdout + script.stderr + str(pythonista.phone.calls)


def test_a_code_that_is_declined_is_not_sent_and_a_dialog_asks(in_pythonista, pythonista):
    script = in_pythonista('both', ('console.alert', NO), ('console.input_alert', 'other-good#St4te-of_this.one'))
    come_back(pythonista, script, CODE)
    assert script.wait() == 0 and 'Login successful: good' in script.stdout


def test_a_code_of_another_sign_in_is_not_offered(in_pythonista, pythonista):
    script = in_pythonista('both', ('console.input_alert', CODE))
    come_back(pythonista, script, 'a1B2c3D4#of-another')
    assert script.wait() == 0 and pythonista.asked[1:] == ['console.input_alert']


# --- a-Shell ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('what', HARMS)
def test_in_a_shell_a_prompt_is_answered_by_a_line(ashell, server, what):
    ashell.know(server)
    script = ashell.start('home', *asks('twice'))
    script.answer('Name: ', 'Ana')
    script.wait_for_text('Colour: ')
    harm(script, server, what)
    script.answer('', 'blue')
    assert script.wait() == 0 and 'so: Ana, blue' in script.screen


@pytest.mark.parametrize('answer', ['yes', CODE], ids=['yes', 'pasted all the same'])
def test_in_a_shell_a_code_is_offered_after_a_freeze(ashell, server, answer):
    ashell.know(server)
    script = ashell.start('home', *asks('both'))
    script.wait_for_text('Paste code here')
    script.stop()
    ashell.phone.clipboard = CODE
    script.resume(after=5)
    script.answer('Paste a1B2…', answer)
    assert script.wait() == 0 and 'Login successful: good' in script.screen


# --- A terminal at the server ------------------------------------------------------------------------------------------

DOWN, UP = '\x1b[B', '\x1b[A'


@pytest.mark.parametrize('what', HARMS)
def test_a_menu_is_walked_through_by_single_keys(at_terminal, server, what):
    script = at_terminal('-t', command=asks('keys'))
    script.wait_for_text('> GitHub')
    typed(script, DOWN)
    script.wait_for_text('> Google')
    harm(script, server, what)
    typed(script, DOWN)
    script.wait_for_text('> token')
    assert mode(script) == (False, False, False)
    typed(script, '\r')
    assert script.wait() == 0 and 'so: 2' in script.screen and mode(script) == USUAL
    assert not re.search(r'(?<!\r)\n', script.screen)


def test_ctrl_c_is_the_programs_where_it_has_a_terminal(at_terminal):
    script = at_terminal('-t', command=asks('keys'))
    script.wait_for_text('> GitHub')
    typed(script, CTRL_C)
    assert script.wait() == 0 and 'so: cancelled' in script.screen


def test_a_tilde_and_a_full_stop_end_it_as_with_ssh(at_terminal, server):
    script = at_terminal('-t', command=('cat',))
    until(lambda: not mode(script)[2])
    typed(script, 'a~.b\r~~c\r')
    script.wait_for_text(r'a~\.b\r\r?\n~c\r\r?\na~')
    typed(script, '~')
    typed(script, '.')
    assert script.wait() == 130 and mode(script) == USUAL and server.leftovers() == []


@pytest.mark.parametrize('what', ['a freeze', 'a cut'])
def test_the_program_has_the_size_of_this_window_again_after(at_terminal, server, what):
    def resize(columns, rows):
        fcntl.ioctl(script._master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
    script = at_terminal('-t', command=asks('size'))
    script.wait_for_text('is [0-9]+x[0-9]+')
    resize(101, 37)
    script.wait_for_text(r'is 101x37\.')
    before = script.screen.count('is 101x37.')
    harm(script, server, what)
    until(lambda: script.screen.count('is 101x37.') > before)
    typed(script, 'ok\r')
    assert script.wait() == 0 and 'so: ok' in script.screen


def test_the_address_of_a_failed_page_is_delivered_from_a_terminal_of_keys(at_terminal, home):
    script = at_terminal('-t', command=asks('both'))
    script.wait_for_text('come back here')
    script.wait_for_text('Paste code here')
    typed(script, Browser(home.opened[0]).redirect(code='from-the-browser'))
    assert script.wait() == 0 and 'Login successful: wser' in script.screen


def test_a_password_for_a_new_connection_is_asked_for_between_the_keys(at_terminal, server, home):
    for path in home.ssh.glob('id_*'):
        path.unlink()
    server.password, server.questions = None, (('Code: ', '111'),)
    script = at_terminal('-t', command=asks('keys'))
    script.answer('Code:', '111')
    script.wait_for_text('> GitHub')
    server.questions = (('Code: ', '222'),)
    server.cut()
    script.answer('Code:', '222')
    script.wait_for_text('Connected again')
    typed(script, DOWN + '\r')
    assert script.wait() == 0 and '222' not in script.screen


@pytest.mark.quick
def test_a_program_that_wants_a_terminal_is_given_the_hint(at_terminal):
    script = at_terminal(command=asks('keys'))
    assert script.wait() == 1 and 'setRawMode' in script.screen and '-t gives it one' in script.screen


@pytest.mark.parametrize('words', [('gh', 'auth', 'login'), ('/usr/../BIN/heroku', 'login'), ('claude', 'setup-token')])
def test_a_program_that_is_known_to_need_a_terminal_has_one(at_terminal, server, words):
    words = tuple(word.replace('/usr/../BIN', str(server.bin)) for word in words)
    path = server.bin / Path(words[0]).name
    path.write_text(f'#!/bin/sh\nexec {ASKS} keys\n')
    path.chmod(0o755)
    script = at_terminal(command=words)
    script.wait_for_text('> GitHub')
    typed(script, '\r')
    script.wait_for_text('so: 0')
    script.wait()
    script = at_terminal('-T', command=words)
    assert script.wait() != 0 and '-t gives it one' in script.screen


def test_pythonista_says_that_it_has_no_terminal(in_pythonista):
    script = in_pythonista('keys', options=['-t'])
    assert script.wait() == 1 and 'none for the program' in script.stderr and 'run it from a-Shell or a computer' in script.stderr


@pytest.mark.parametrize('what', HARMS)
def test_in_a_shell_the_keys_pass_one_by_one(ashell, server, what):
    ashell.know(server)
    script = ashell.start('-t', 'home', *asks('keys'))
    script.wait_for_text('> GitHub')
    typed(script, DOWN)
    script.wait_for_text('> Google')
    harm(script, server, what)
    typed(script, CTRL_C)
    assert script.wait() == 0 and 'so: cancelled' in script.screen


# --- A page that only shows a code -------------------------------------------------------------------------------------

def test_the_page_that_shows_the_code_is_offered_and_the_code_typed(at_terminal, home):
    script = at_terminal(command=asks('code'))
    script.answer(r'A page of console.example shows the code. Open it \(yes/no\)\?', 'yes')
    until(lambda: home.opened)
    typed(script, f'{CODE}\n')
    assert script.wait() == 0 and 'Login successful: good' in script.screen


def test_a_code_that_is_typed_where_its_page_is_offered_is_the_program_s(at_terminal, home):
    script = at_terminal(command=asks('code'))
    script.answer('Open it', CODE)
    assert script.wait() == 0 and 'Login successful: good' in script.screen and home.opened == []


def test_in_pythonista_the_page_is_opened_and_its_code_offered(in_pythonista, pythonista):
    script = in_pythonista('code', ('console.alert', YES), ('console.alert', YES))
    come_back(pythonista, script, CODE)
    assert script.wait() == 0 and 'Login successful: good' in script.stdout
    assert pythonista.asked == 3 * ['console.alert']
