"""--check: what a device can do, in a table that a person with a phone can post."""

import gc
import re
import socket

import pytest
from test_phones import NEWLY_OPENED, SCREEN, phone, pythonista  # noqa: F401 - fixtures
from test_specs import script as codex_login
from tools.record_check import run_check, table

COMMON = {'codex_login', 'app', 'system', 'Python', 'paramiko', 'kex', 'clipboard', '127.0.0.1', '::1', '.ssh', 'state', 'dialogs'}
AWAY = {'page', 'ran on', 'clocks', 'listener', 'connection'}


def rows(text):
    """{name: text} of a table."""
    found = {}
    for line in text.splitlines():
        name, said = line[:11].strip(), line[12:]
        if name:
            last, found[name] = name, said
        else:
            found[last] += ' ' + said
    return found


def test_a_person_who_leaves_and_comes_back_gets_a_table_to_post(phone):
    script = run_check(phone)
    text = table(phone, script)
    found = rows(text)
    assert set(found) >= COMMON | AWAY | {'background'}
    assert all(len(line) <= SCREEN for line in text.splitlines())
    assert found['clipboard'] == 'there and back' and found['127.0.0.1'] == 'yes'
    assert found['page'].endswith('the browser came') and re.fullmatch(r'\d+ s, then slept \d+ s', found['ran on'])
    assert found['listener'].startswith('alive') and found['connection'] == 'alive'
    assert re.search(r'monotonic \+[0-2]\b', found['clocks']) and re.search(r'elapsed \+6\d', found['clocks'])
    assert 'curve25519-sha256' in found['kex'] and 'ssh-ed25519' in found['.ssh']
    assert 'Traceback' not in script.screen + script.stdout + script.stderr
    assert not phone.ssh.exists()


def test_the_table_names_no_host_and_no_home(phone):
    text = table(phone, run_check(phone, yes=False))
    assert socket.gethostname() not in text and str(phone.phone.home) not in text
    assert not AWAY & set(rows(text))


def test_who_says_no_leaves_the_app_for_nothing(phone):
    run_check(phone, yes=False)
    assert phone.phone.called(phone.opener) == []


def test_a_browser_that_never_comes_is_said(phone):
    assert rows(table(phone, run_check(phone, look=False)))['page'].endswith('did not come')


def test_what_pythonista_alone_has_is_tried(pythonista):
    found = rows(table(pythonista, run_check(pythonista)))
    assert found['keychain'] == 'yes' and found['reminder'] == 'planned and cancelled'
    assert found['sheet'] == 'shown and taken away' and found['crash'] == 'none'
    assert pythonista.phone.keychain == {}


def test_what_the_app_left_when_it_crashed_is_shown(pythonista):
    (pythonista.folder / '_objc_exception.txt').write_text('NSGenericException: not on the main thread\nstack\n')
    found = rows(table(pythonista, run_check(pythonista, yes=False)))
    assert found['crash'] == '_objc_exception.txt: NSGenericException: not on the main thread'


def test_a_bridge_that_is_gone_is_said_in_its_rows(pythonista):
    pythonista.phone.set('no-bridge')
    script = run_check(pythonista, yes=False)
    found = rows(table(pythonista, script))
    assert found['sheet'].startswith('fails: ') and found['background'].startswith('fails: ') and found['keychain'] == 'yes'
    assert 'Traceback' not in script.stdout + script.stderr


@pytest.mark.parametrize('condition, row, said', [
    ('no-notifications', 'reminder', 'notifications are not allowed'), ('no-paste', 'clipboard', 'there, but not back'),
    ('no-background-time', 'background', 'gives no background time'), ('no-window', 'sheet', 'fails')])
def test_what_a_person_or_ios_refuses_is_said_in_its_row(condition, row, said, pythonista):
    pythonista.phone.set(condition)
    assert said in rows(table(pythonista, run_check(pythonista, yes=False)))[row]


def test_a_folder_that_cannot_be_made_is_said_in_its_row(phone):
    (phone.folder / '.ssh').write_text('a file in its place')
    found = rows(table(phone, run_check(phone, yes=False)))
    assert re.match('fails: (NotADirectory|FileExists)Error', found['.ssh']) and 'written and read' in found['state']


@NEWLY_OPENED
def test_without_an_ssh_library_the_table_says_so_and_goes_on(phone):
    for name in ('cryptography', 'Crypto'):
        (phone.folder / f'{name}.py').write_text('raise SystemError("bad")\n')
    found = rows(table(phone, run_check(phone, yes=False)))
    assert found['paramiko'].startswith('fails: Problem: paramiko does not start') and found['127.0.0.1'] == 'yes'


@pytest.mark.quick
def test_on_a_computer_programs_get_the_lines_as_events(run, home):
    script = run('--check')
    assert script.wait() == 0
    text = '\n'.join(event['text'] for event in script.events if event['event'] == 'output')
    assert COMMON <= set(rows(text)) and rows(text)['dialogs'] == 'nobody to ask'
    assert str(home.folder) not in text and script.events[-1] == {'event': 'done', 'status': 0}


@pytest.mark.quick
def test_a_listener_and_a_connection_that_ios_took_away_are_said_to_be_dead(monkeypatch):
    class Phone:
        """iOS takes every socket away while its person is in the browser."""

        def leaving(self, server, browser):
            self.left = True

        def open_page(self, url):
            port = int(url.split(':')[2].strip('/'))
            for thing in gc.get_objects():
                if isinstance(thing, socket.socket) and thing.family != socket.AF_UNIX and thing.fileno() >= 0 \
                        and thing.getsockname()[1] == port:
                    thing.shutdown(socket.SHUT_RDWR)
            real = codex_login.elapsed
            monkeypatch.setattr(codex_login, 'elapsed', lambda: real() + 60)
            return 'Safari'

        def returned(self):
            self.left = False

    device = Phone()
    found = dict(codex_login._go_away(device))
    assert found['page'] == 'Safari; the browser did not come' and found['connection'].startswith('dead')
    assert found['listener'] == 'dead, dead' and 'slept 6' in found['ran on'] and not device.left
