"""Programs that ask: a question, a password, a code that goes back, a menu; answered here, through cuts and freezes.

The programs are programs/asks.py, run at the embedded server; the phones are stand-ins (see standins.py).
"""

import os
import shlex
import sys
from pathlib import Path

import pytest
from harness import Browser
from standins import CANCEL
from test_keyboard import CTRL_D, at_terminal, mode, typed  # noqa: F401 - a fixture is used by its name
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


def test_in_a_shell_a_code_is_offered_after_a_freeze(ashell, server):
    ashell.know(server)
    script = ashell.start('home', *asks('both'))
    script.wait_for_text('Paste code here')
    script.stop()
    ashell.phone.clipboard = CODE
    script.resume(after=5)
    script.answer('Paste a1B2…', 'yes')
    assert script.wait() == 0 and 'Login successful: good' in script.screen


def test_a_code_that_is_pasted_where_one_is_offered_is_taken_as_it_is(ashell, server):
    ashell.know(server)
    script = ashell.start('home', *asks('both'))
    script.wait_for_text('Paste code here')
    script.stop()
    ashell.phone.clipboard = CODE
    script.resume(after=5)
    script.answer('Paste a1B2…', CODE)
    assert script.wait() == 0 and 'Login successful: good' in script.screen
