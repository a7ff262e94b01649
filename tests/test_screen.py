"""What is said fits a phone's screen of 40 columns, an address aside; a pipe gets the same words as they are."""

import contextlib
import io
import re
import sys

import pytest
from harness import Browser, Script
from test_login import codex_login
from test_phones import SCREEN
from waiting import until

NARROW = {'COLUMNS': str(SCREEN), 'LINES': '20'}
ADDRESS = re.compile(r'\S*(?:https?://|SHA256:|/)\S*|\S{41,}')
TYPED = re.compile(r'.*?(?:\?|:) ')     # a question, before what is typed


def too_long(screen):
    """The lines that a narrow screen breaks somewhere: all that are longer, but for an address that stands alone."""
    lines = screen.replace('\r', '').split('\n')
    return [line for line in lines if len(line) > SCREEN and not ADDRESS.fullmatch(line.strip()) and not TYPED.fullmatch(line[:SCREEN + 1])]


@pytest.fixture
def narrow(home):
    """`narrow(word, …)` runs the script at a terminal of 40 columns."""
    with contextlib.ExitStack() as stack:
        yield lambda *words: stack.enter_context(Script(home, *words, terminal=True, json_events=False, environment=NARROW))


def test_the_help_is_grouped_and_fits_a_phone(narrow):
    script = narrow('--help')
    assert script.wait() == 0 and too_long(script.stdout + script.screen) == []
    groups = re.findall(r'^(\w.*):\r?$', script.stdout + script.screen, re.MULTILINE)
    assert groups == ['every day', 'a new server or device', 'tunnels', 'as with ssh', 'what is said']


def test_what_is_said_while_a_login_waits_fits_a_phone(narrow, server):
    script = narrow(f'{server.user}@{server.address}:{server.port}')
    page = until(lambda: re.search(r'^https://\S+', script.screen, re.MULTILINE), 'the address')[0]
    script.wait_for_text('paste its')
    assert Browser(page).sign_in().status == 200 and script.wait() == 0
    assert too_long(script.screen) == []
    assert 'Your browser opens it. After signing in,\r\ncome back here.' in script.screen


def test_the_menu_and_a_new_server_fit_a_phone(narrow, server, home):
    names = ['work', 'a-server-with-a-very-long-name-in-the-cloud']
    home.config.write_text(''.join(f'Host {name}\n    HostName {server.address}\n    LocalForward 8080 localhost:80\n' for name in names))
    script = narrow()
    script.answer('Number', '5')
    script.answer('Address:', 'no such host!')
    for field in ('User', 'Port', 'Name'):
        script.answer(f'{field}.*:', 'x')
    for field in ('Address', 'User', 'Port', 'Name'):
        script.answer(f'{field}.*:', '')
    assert script.wait() == 2
    assert too_long(script.screen) == []


@pytest.mark.parametrize('words, status', [
    (('-o', 'NoSuchKey=1', 'home'), 2), (('--timeout', 'x', 'home'), 2), (('-f', 'home'), 2), (('--finish', 'http://localhost:1'), 255),
    (('https://example.org/',), 2), (('no-such-host.invalid',), 255), (('-L', '1:2', 'home'), 2), (('--add', 'codex-login:2/x'), 255)])
def test_an_error_fits_a_phone(narrow, words, status):
    script = narrow(*words)
    assert script.wait() == status and too_long(script.screen) == []
    assert script.screen.strip()


def test_a_pipe_gets_the_words_unfolded(run):
    script = run('-o', 'NoSuchKey=1', json_events=False, environment=NARROW)
    assert script.wait() == 2
    assert max(map(len, script.stderr.splitlines())) > 80 and '\x1b' not in script.stderr + script.stdout


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('text, shown', [
    ('a word after the other, and so on for more than forty columns',
     'a word after the other, and so on for\nmore than forty columns'),
    ('Sign in at this address:\nhttps://auth.openai.com/oauth/authorize?client_id=0123456789&state=0123456789', None),
    ('It is at https://auth.openai.com/oauth/authorize?client_id=0123456789, and nowhere else',
     'It is at\nhttps://auth.openai.com/oauth/authorize?client_id=0123456789,\nand nowhere else'),
    ('  3  a-server-with-a-long-name in-the-cloud-of-somebody',
     '  3  a-server-with-a-long-name\n     in-the-cloud-of-somebody'),
    ('short\n\nlines', None),
])
def test_lines_are_folded_at_words_and_addresses_never_broken(text, shown, monkeypatch):
    monkeypatch.setenv('COLUMNS', str(SCREEN))
    assert codex_login.folded(text, Screen()) == (shown or text)
    assert codex_login.folded(text, io.StringIO()) == text


def test_every_wrong_password_is_said_to_be_one(run, server, home):
    (home.ssh / 'id_ed25519').unlink()
    script = run(terminal=True, json_events=False)
    for count in range(3):
        script.answer('password:', f'wrong {count}')
    assert script.wait() == 255
    assert script.screen.count('That was not right.') == 2 and server.count['password'] == 3
    assert script.screen.index('password:') < script.screen.index('That was not right.') < script.screen.index('permission denied')


def test_a_key_of_ssh_that_means_nothing_here_is_passed_over(run):
    script = run('-o', 'LogLevel=ERROR', '-o', 'VisualHostKey yes')
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200 and script.wait() == 0
    script = run('-o', 'StrictHostKeyCheckng=no')
    assert script.wait() == 2 and "-o 'StrictHostKeyCheckng=no' is not an option of this script" in script.stdout


def test_a_redirect_has_no_qr_code_which_no_other_device_could_use(run):
    script = run('--qr', json_events=False)
    page = until(lambda: re.search(r'^https://\S+', script.stdout, re.MULTILINE), 'the address')[0]
    assert Browser(page).sign_in().status == 200 and script.wait() == 0
    assert '█' not in script.stdout and 'There is no QR code: this sign-in comes back to this device only.' in script.stderr


def test_a_qr_code_that_is_wider_than_the_window_is_not_drawn(monkeypatch):
    monkeypatch.setenv('COLUMNS', str(SCREEN))
    monkeypatch.setattr(sys, 'stdout', Screen())
    assert '█' in codex_login.qr_code('https://auth.openai.com/codex/device')
    assert re.fullmatch(r'There is no QR code: it is \d+ columns wide, and this window has 40\.',
                        codex_login.qr_code('https://example.org/' + 'x' * 100))


def test_a_connection_that_takes_long_shows_that_it_lives(run, server):
    server.bad_day = 'silent at version'
    script = run('-o', 'ConnectTimeout=8', json_events=False)
    until(lambda: 'Still connecting to 127.0.0.1: 5 s …' in script.stderr, 'a sign of life')
    assert script.wait() == 255


class Steps:
    """A Box that gets something after so many waits."""

    def __init__(self, count):
        self.left = count

    def take(self, limit, default):
        self.left -= 1
        return default if self.left else True


def test_signs_of_life_come_seldom_and_into_no_open_question(capsys):
    asking = iter([False, True, False])
    codex_login.show_life('installing', Steps(4), lambda: next(asking))
    assert capsys.readouterr().err == 'Still installing: 5 s …\nStill installing: 35 s …\n'
