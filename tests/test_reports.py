"""What people with these apps report: each of these was met on a phone, and ended in the wrong place.

The phones are stand-ins (see standins.py); the server is the embedded one.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import standins
from harness import Browser
from test_phones import (  # noqa: F401 - the fixtures are used by their names
    NEWLY_OPENED, NO, PASSWORD, YES, ashell, bare_ashell, new_server, phone, pythonista, stand_in, wait_until, wheels)
from test_specs import refused, script as codex_login

STATE = 'the_state-of.this~one'
REDIRECT = f'http://localhost:1455/auth/callback?code=ac_b%2Bc%252F&state={STATE}'
PATH = REDIRECT.removeprefix('http://localhost:1455')
QUERY = PATH.removeprefix('/auth/callback')


# --- What people paste or share ------------------------------------------------------------------------------

@pytest.mark.quick
@pytest.mark.parametrize('pasted', [
    f'Safari can’t open the page {REDIRECT}', f'localhost:1455 {REDIRECT}', f'Sign in – {REDIRECT} – Safari',
    f'“{REDIRECT}”', f'‘{REDIRECT}’', f'"{REDIRECT}', f"'{REDIRECT}'", f'„{REDIRECT}“', f'<{REDIRECT}>', f'({REDIRECT})',
    f'[Sign in]({REDIRECT})', f'[{REDIRECT}]({REDIRECT})', f'**{REDIRECT}**', f'`{REDIRECT}`',
    REDIRECT[:9] + '\u200b' + REDIRECT[9:], '\ufeff' + REDIRECT, REDIRECT + '\u200b\n', f'\u2068{REDIRECT}\u2069',
    quote(REDIRECT, safe=''), quote(quote(REDIRECT, safe=''), safe=''),
    f'{REDIRECT}.', f'{REDIRECT};', f'{REDIRECT}…'.rstrip('…'), REDIRECT.replace('&', '&amp;'),
    f'Title of the page\n{REDIRECT}\n\nSent from my iPhone', f'{REDIRECT} {REDIRECT}',
    f'https://help.example/why-does-localhost-not-open {REDIRECT}',
    f'codex_login --finish "{REDIRECT}"', f'codex_login --finish “{REDIRECT}”', f'codex_login work —finish {REDIRECT}',
    REDIRECT.removeprefix('http://'), f'{REDIRECT}#_=_',
])
def test_the_one_redirect_in_what_a_person_pastes_is_taken(pasted):
    found = codex_login.parse_redirect(pasted)
    assert (found.port, found.target) == (1455, PATH)


@pytest.mark.quick
@pytest.mark.parametrize('pasted', [PATH, f'“{PATH}”', f'codex_login --finish "{PATH}"', quote(PATH, safe='')])
def test_a_path_alone_takes_its_port_from_the_login_that_waits(pasted):
    found = codex_login.parse_redirect(pasted)
    assert (found.port, found.path, found.target) == (None, '/auth/callback', PATH)


@pytest.mark.quick
@pytest.mark.parametrize('pasted', [QUERY, QUERY[1:], f'<{QUERY}>', quote(QUERY, safe='')])
def test_a_query_alone_takes_path_and_port_from_the_login_that_waits(pasted):
    found = codex_login.parse_redirect(pasted)
    assert (found.port, found.path, found.target) == (None, '', QUERY)


@pytest.mark.quick
def test_a_query_alone_is_for_the_login_whose_state_it_has_and_for_no_other():
    def session(state):
        return codex_login.Session('', [], [], False, '', '0' * 16, 1455, '/auth/callback', codex_login.hash_of(state), 0)

    bare = codex_login.parse_redirect(QUERY)
    assert session(STATE).accepts(bare)
    assert not session('another').accepts(bare) and not session('').accepts(bare)
    assert session('').accepts(codex_login.parse_redirect(PATH))        # a path says where it belongs


@pytest.mark.quick
@pytest.mark.parametrize('pasted, words', [
    (f'{REDIRECT} {REDIRECT}x', 'several'),
    (f'https://auth.openai.com/oauth/authorize?redirect_uri={REDIRECT}', 'no redirect'),
    (quote(f'https://auth.openai.com/oauth/authorize?redirect_uri={quote(REDIRECT, safe="")}', safe=''), 'no redirect'),
    (f'http://localhost.example/auth/callback{QUERY}', 'no redirect'), (f'http://me@evil.example:1455{PATH}', 'no redirect'),
    (f'//evil.example{PATH}', 'no redirect'), ('/etc/passwd?x=1', 'no redirect'), ('//[?state=1', 'no redirect'),
    ('http://[::1', 'no redirect'), (REDIRECT + '…more', 'no redirect'),
    ('milk, eggs', 'no redirect'), ('', 'nothing was copied'), (None, 'nothing was copied'),
])
def test_what_holds_no_redirect_of_ones_own_is_refused(pasted, words):
    problem = refused(codex_login.parse_redirect, pasted)
    assert problem.kind == 'redirect' and words in problem.message


@pytest.mark.parametrize('piece', [
    '(/', 'localhost:', 'http://', '%25', '[[', '?a=', '/', '](http://localhost:1/?', '%2525', 'state=', '“', '[::1]:', 'x'])
def test_a_paste_of_any_size_is_read_in_linear_time(piece):
    """Were it not so, these would take hours; a minute of this process's own time ends the test."""
    def too_much(*_):
        raise AssertionError('a minute of computing')
    before = signal.signal(signal.SIGVTALRM, too_much)
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    try:
        with contextlib.suppress(codex_login.Problem):
            codex_login.parse_redirect(piece * 300_000)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


# --- Dashes and quotes ---------------------------------------------------------------------------------------

@pytest.mark.quick
@pytest.mark.parametrize('words, word', [
    (['work', '—again'], '--again'), (['—again'], '--again'), (['work', '-v', '–q'], '-q'), (['‑v', 'work'], '-v'),
    (['-i', 'key', '——new-key', 'work'], '--new-key'), (['−N', 'work'], '-N'), (['“—again”', 'work'], '--again')])
def test_a_dash_of_ios_before_an_option_is_named_and_never_run_at_the_server(words, word):
    problem = refused(codex_login.split_words, words)
    assert problem.status == 2 and 'no hyphen' in problem.message and problem.message.endswith(f'Type {word}')


@pytest.mark.quick
@pytest.mark.parametrize('words, expected', [
    (['“work”'], ('work', [])), (['‘work’', '“codex”', 'login'], ('work', ['codex', 'login'])),
    (['-o', '„Port=22“', 'work'], ('work', [])), (['«work»'], ('work', []))])
def test_curly_quotes_around_a_word_are_no_part_of_it(words, expected):
    options = codex_login.split_words(words)
    assert (options.destination, options.command) == expected
    assert options.settings in ([], ['Port=22'])


@pytest.mark.quick
def test_the_words_of_the_remote_command_keep_their_meaning():
    command = ['echo', '—again', '“hello”', '“half', '–v']
    assert codex_login.split_words(['work', *command]).command == command
    assert codex_login.split_words(['work', '-v', *command]).command == command


@pytest.mark.quick
@pytest.mark.parametrize('words', [['-o', '“IdentityFile=my', 'key”', 'work'], ['work”'], ['“work', 'codex', 'login”']])
def test_a_curly_quote_that_quotes_nothing_is_named(words):
    problem = refused(codex_login.split_words, words)
    assert problem.status == 2 and 'curly quote' in problem.message


def test_a_dash_of_ios_is_said_before_anything_connects(phone, server):
    phone.know(server)
    script = phone.start('home', '—again')
    assert script.wait() == 2 and server.connections == 0
    assert '--again' in script.screen + script.stderr


# --- Digits --------------------------------------------------------------------------------------------------

@pytest.mark.quick
@pytest.mark.parametrize('text', ['²', '１', '٣', '1²', '9' * 5000, '-1', '+1', '1_0', ' 1', '', '1.0', 'Ⅳ', '½', '0x1', '1\n'])
def test_only_ascii_digits_are_a_port_or_a_time(text):
    for read in (lambda: codex_login.parse_port(text, 'It'), lambda: codex_login.parse_forward('D', text),
                 lambda: codex_login.read_arguments(['--timeout', text, 'work'])):
        if text not in (' 1', '1\n', ''):       # around a forward's port, ssh takes blanks
            assert refused(read).status == 2


@pytest.mark.quick
@pytest.mark.parametrize('length', ['²', '9' * 5000, '-1', ''])
def test_a_server_s_length_that_is_no_number_is_none(length):
    data = f'HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nbody'.encode('latin-1')
    reader = codex_login.Reader(codex_login.read_reply)
    assert reader.feed(data) is None and reader.feed(b'').status == 200


@pytest.mark.parametrize('answer', ['²', '１', '9' * 30, '0', 'one'])
def test_a_number_that_is_none_of_the_menu_is_asked_again(answer, ashell, server):
    ashell.know(server)
    script = ashell.start()
    script.answer(r'Number \(', answer)
    script.answer(r'Number \(', 'q')
    assert script.wait() == 130 and 'Traceback' not in script.screen


def test_quit_with_brackets_is_q(ashell, server):
    """a-Shell types it into a Python whose window is closed."""
    ashell.know(server)
    script = ashell.start('home')
    script.answer('Split View', 'quit()')
    assert script.wait() == 130


def test_a_closed_window_ends_the_login_at_the_server_and_the_listener(ashell, server):
    ashell.know(server)
    script = ashell.start('home')
    ashell.sign_in_page(script)
    os.kill(script.process.pid, signal.SIGQUIT)
    assert script.wait() == 130, script.report()


# --- A new server --------------------------------------------------------------------------------------------

@pytest.mark.parametrize('given, meant', [
    ({'host': 'build_01.lan'}, ('build_01.lan', 22, 'kim')),
    ({'host': 'fe80::1%en0'}, ('fe80::1%en0', 22, 'kim')), ({'host': '[fe80::1%en0]:2222'}, ('fe80::1%en0', 2222, 'kim')),
    ({'host': 'h', 'user': 'Kim Doe'}, ('h', 22, 'Kim Doe')), ({'host': 'h', 'user': 'CORP\\kim'}, ('h', 22, 'CORP\\kim')),
    ({'host': 'h', 'user': "o'neil#1"}, ('h', 22, "o'neil#1")), ({'host': 'ana@h:23'}, ('h', 23, 'ana')),
    ({'host': 'büro.example'}, ('büro.example', 22, 'kim')), ({'host': '“h”', 'user': '‘kim’'}, ('h', 22, 'kim')),
])
def test_a_new_server_is_what_ssh_takes_and_ssh_reads_it_the_same(given, meant, tmp_path):
    pairing = codex_login.typed_server({'host': '', 'user': '', 'port': '', 'name': 'box_1.lan', **given}, 'kim')
    assert (pairing.host, pairing.port, pairing.user) == meant
    text = codex_login.config_with_host('', pairing)
    file = tmp_path / 'config'
    file.write_text(text)

    class Phone:
        ssh_folder, home, user = str(tmp_path), str(tmp_path), staticmethod(lambda: '')
    settings = codex_login.find_settings(codex_login.parse_destination('box_1.lan'), Phone)
    assert (settings.host, settings.port, settings.user) == meant
    ssh = subprocess.run(['ssh', '-G', '-F', file, 'box_1.lan'], capture_output=True, text=True, check=True).stdout
    assert {f'hostname {meant[0]}', f'port {meant[1]}', f'user {meant[2]}'} <= set(ssh.splitlines())


@pytest.mark.quick
@pytest.mark.parametrize('given, words', [
    ({'host': 'https://github.com/me/project'}, 'web page'), ({'host': 'HTTP://box'}, 'web page'), ({'host': ''}, 'destination'),
    ({'host': 'h', 'user': ''}, 'As whom'), ({'host': 'h', 'port': '²'}, 'Port'), ({'host': 'h', 'port': '70000'}, 'Port'),
    ({'host': 'h', 'name': 'two words'}, 'name'), ({'host': 'h', 'name': '*'}, 'name'), ({'host': 'h', 'user': 'a"b'}, 'user'),
    ({'host': 'h', 'user': 'a\\'}, 'user'), ({'host': 'h', 'user': '%h'}, 'user'), ({'host': 'h', 'user': '${HOME}'}, 'user'),
])
def test_a_field_that_is_wrong_is_named(given, words):
    def read():
        codex_login.config_with_host('', codex_login.typed_server(
            {'host': '', 'user': 'kim', 'port': '', 'name': 'box', **given}, ''))
    problem = refused(read)
    assert problem.kind == 'usage' and words in problem.message


def test_what_was_typed_is_kept_when_one_field_is_wrong(pythonista, server):
    pythonista.trust(server.known_hosts())
    wrong = new_server(server, port='first', name='my box')
    pythonista.phone.will_answer(
        ('dialogs.list_dialog', 'New server…'), ('dialogs.form_dialog', wrong),
        ('dialogs.form_dialog', {'port': str(server.port)}), ('dialogs.form_dialog', {'name': 'my_box.lan'}),
        ('console.password_alert', PASSWORD))
    pythonista.sign_in()
    forms = [json.dumps(call['args'], ensure_ascii=False) for call in pythonista.phone.called('dialogs.form_dialog')]
    assert 'not a port' in forms[1] and 'name cannot be used' in forms[2] and 'my box' in forms[2]
    assert (pythonista.ssh / 'config').read_text().startswith('Host my_box.lan\n')


def test_at_a_terminal_return_keeps_what_was_typed(ashell, server):
    ashell.trust(server.known_hosts())
    script = ashell.start()
    script.answer(r'Number \(', '1')
    for label, text in (('Address:', 'https://box.lan/'), ('User:', server.user), (r'Port \(22\):', str(server.port)),
                        ('Name:', 'home'), (r'web page.*(?s:.)*Address \[https://box.lan/\]:', server.address), ('User ', ''),
                        ('Port ', ''), ('Name ', '')):
        script.answer(label, text)
    script.answer('password:', PASSWORD)
    assert Browser(ashell.sign_in_page(script)).sign_in().status == 200 and script.wait() == 0


def test_a_form_that_nothing_is_corrected_in_is_not_asked_for_ever(pythonista):
    pythonista.phone.will_answer(('dialogs.list_dialog', 'New server…'), ('dialogs.form_dialog', {}), ('dialogs.form_dialog', {}))
    assert pythonista.start().wait() == 2


# --- Keys and libraries --------------------------------------------------------------------------------------

def test_a_key_from_the_files_app_is_made_ones_own_used_and_that_is_said(phone, server):
    phone.know(server)
    key = phone.ssh / 'id_ed25519'
    key.chmod(0o644)
    script = phone.sign_in('home')
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert 'only by you (0600)' in script.screen + script.stderr


def test_a_key_outside_of_the_apps_folder_is_left_as_it_is(phone, server, tmp_path):
    phone.know(server)
    key = tmp_path / 'cloud' / 'id_ed25519'
    key.parent.mkdir()
    (phone.ssh / 'id_ed25519').rename(key)
    (phone.ssh / 'link').symlink_to(key)
    key.chmod(0o644)
    for path in (key, phone.ssh / 'link'):
        if not phone.is_terminal:
            phone.phone.will_answer(('console.alert', YES))     # the words could have come from a link
        script = phone.start('-i', path, '-o', 'BatchMode=yes', 'home')
        assert script.wait() == 255 and stat.S_IMODE(key.stat().st_mode) == 0o644
        assert 'can be read by others' in script.screen + script.stderr


def test_on_a_computer_such_a_key_is_refused_as_by_ssh(run, home):
    (home.ssh / 'id_ed25519').chmod(0o644)
    script = run()
    assert script.wait() == 255 and stat.S_IMODE((home.ssh / 'id_ed25519').stat().st_mode) == 0o644
    assert 'can be read by others' in script.events[-2]['hint']


def newer_paramiko(handset, start):
    """What StaSh's pip leaves in Pythonista's site-packages; `start` is put before its first line."""
    [package] = Path(stand_in(standins.a_shell).python).parents[1].glob('lib/python3.*/site-packages/paramiko')
    hiding = handset.folder / 'site-packages' / 'paramiko'
    shutil.copytree(package, hiding)
    (hiding / '__init__.py').write_text(start + (hiding / '__init__.py').read_text())


@pytest.mark.parametrize('start', ['', 'from . import util\nraise SystemError("bad")\n'])
def test_a_newer_paramiko_that_does_not_start_gives_way_to_the_apps_own(start, pythonista, server):
    newer_paramiko(pythonista, start)
    pythonista.know(server)
    script = pythonista.sign_in('home')
    assert 'Traceback' not in script.stderr


@NEWLY_OPENED
def test_where_no_paramiko_starts_the_cure_is_one_that_works_in_the_app(phone, server):
    phone.know(server)
    for name in ('cryptography', 'Crypto'):
        (phone.folder / f'{name}.py').write_text('raise SystemError("bad")\n')
    script = phone.start('home')
    assert script.wait() == 255
    said = script.screen + script.stderr
    assert 'What helps' in said and 'Traceback' not in said
    assert ('pip install --no-deps' in said) if phone.is_terminal else ('pip' not in said and 'site-packages' in said)


@pytest.mark.parametrize('status', [0, 2])
def test_a_quiet_pip_is_looked_through_and_the_windows_to_close_are_named(status, bare_ashell, tmp_path):
    """A third Python is not started: status 2 the first time, 0 afterwards, and nothing ran."""
    tools = tmp_path / 'tools'
    tools.mkdir()
    (tools / 'pip').write_text(f'#!/bin/sh\nexit {status}\n')
    (tools / 'pip').chmod(0o755)
    bare_ashell.variables['PATH'] = f'{tools}:{bare_ashell.environment()["PATH"]}'
    script = bare_ashell.start('--yes', 'home')
    assert script.wait() == 255
    assert 'two Pythons' in script.screen and 'Close the windows' in script.screen and 'Traceback' not in script.screen
    assert 'qrcode' not in script.screen and 'pip install paramiko' not in script.screen


def test_a_qr_code_that_cannot_be_drawn_here_is_one_line(ashell, server):
    ashell.know(server)
    script = ashell.sign_in('--qr', 'home')
    assert 'no QR code' in script.screen


# --- Local Network -------------------------------------------------------------------------------------------

# Runs codex_login.py on a system that lets the app reach no address of the network around it.
REFUSING = '''
import errno, os, runpy, socket, sys
real = socket.socket, socket.getaddrinfo
class Socket(socket.socket):
    def connect(self, address):
        if {how!r} == 'timeout':
            raise socket.timeout('timed out')
        raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
socket.socket = Socket
if {how!r} == 'name':
    def getaddrinfo(*args, **kwargs):
        raise socket.gaierror(8, 'nodename nor servname provided, or not known')
    socket.getaddrinfo = getaddrinfo
sys.argv[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'codex_login.py')
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:                # the app lives on
    socket.socket, socket.getaddrinfo = real
'''


def said_without_local_network(handset, host, how):
    (handset.folder / 'refusing.py').write_text(REFUSING.format(how=how))
    handset.ssh.mkdir()
    (handset.ssh / 'config').write_text(f'Host home\n    HostName {host.replace("%", "%%")}\n    User kim\n')
    script = handset.start('home', script='refusing.py')
    assert script.wait() == 255
    return script.screen + script.stderr


@pytest.mark.parametrize('host, how', [
    ('192.168.1.7', 'unreachable'), ('10.0.0.7', 'timeout'), ('172.20.10.2', 'unreachable'), ('169.254.7.7', 'unreachable'),
    ('fe80::1%lo', 'unreachable'), ('fd00::7', 'timeout'), ('build.local', 'name')])
def test_where_ios_refuses_the_local_network_the_setting_is_named(host, how, phone):
    said = ' '.join(said_without_local_network(phone, host, how).split())
    app = 'a-Shell' if phone.is_terminal else 'Pythonista'
    assert f'Settings, Privacy & Security, Local Network, {app}' in said and 'sshd' not in said


@pytest.mark.parametrize('host, how', [('192.0.2.7', 'unreachable'), ('100.64.0.7', 'timeout'), ('no.example', 'name')])
def test_an_address_out_in_the_world_is_not_blamed_on_that_setting(host, how, phone):
    assert 'Local Network' not in said_without_local_network(phone, host, how)


# --- The failed page's address, brought while a login waits --------------------------------------------------

# Runs codex_login.py with clocks that jump a minute for each letter in the file `woke`: as after a freeze.
SLEEPER = '''
import os, runpy, sys, time
here, real, clock = os.path.dirname(os.path.abspath(__file__)), time.time, time.clock_gettime
def asleep():
    return 60 * os.path.getsize(os.path.join(here, 'woke'))
time.time = lambda: real() + asleep()
time.clock_gettime = lambda name: clock(name) + asleep() * (name in (time.CLOCK_REALTIME, time.CLOCK_BOOTTIME))
sys.argv[0] = os.path.join(here, 'codex_login.py')
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:                # the app lives on
    time.time, time.clock_gettime = real, clock
'''


def a_waiting_login(handset, server, *words):
    handset.know(server)
    (handset.folder / 'sleeper.py').write_text(SLEEPER)
    (handset.folder / 'woke').touch()
    (handset.folder / '.codex-login').mkdir()
    (handset.folder / '.codex-login' / 'browser').write_text('default')      # the app's own is not offered after a freeze
    script = handset.start(*words, 'home', script='sleeper.py')
    return script, Browser(handset.sign_in_page(script))


def looks_at_clipboard(handset):
    return [call for call in handset.phone.calls if call['call'] in ('clipboard.get', 'pbpaste')]


def wake_up(handset):
    before = len(looks_at_clipboard(handset))
    with (handset.folder / 'woke').open('a') as woke:
        woke.write('z')
    wait_until(lambda: len(looks_at_clipboard(handset)) > before)


def test_the_copied_address_of_the_failed_page_is_offered_when_the_app_wakes_up(phone, server):
    script, browser = a_waiting_login(phone, server)
    phone.phone.clipboard = f'Safari – {browser.redirect()}'
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', YES))
    wake_up(phone)
    if phone.is_terminal:
        script.answer('on the clipboard. Deliver it.*yes/no', 'yes')
    assert script.wait() == 0, script.report()


def test_a_copied_address_is_not_delivered_after_a_no_and_not_offered_again(phone, server):
    script, browser = a_waiting_login(phone, server)
    phone.phone.clipboard = browser.redirect()
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', NO))
    wake_up(phone)
    if phone.is_terminal:
        script.answer('on the clipboard. Deliver it.*yes/no', 'no')
    wait_until(lambda: phone.phone.unanswered == [])
    wake_up(phone)
    assert browser.sign_in().status == 200 and script.wait() == 0
    assert phone.asked.count('console.alert') <= 1 and script.screen.count('Deliver it') <= 1


@pytest.mark.parametrize('clipboard', [
    None, '', 'a shopping list', 'http://localhost:1455/auth/callback?code=c&state=of_another_login', '?code=c&state=other'])
def test_nothing_is_asked_about_a_clipboard_that_does_not_fit(clipboard, phone, server):
    script, browser = a_waiting_login(phone, server)
    if clipboard is not None:           # else the sign-in address is still there, as copied
        phone.phone.clipboard = clipboard
    wake_up(phone)
    assert browser.sign_in().status == 200 and script.wait() == 0
    assert phone.asked == [] and 'Deliver it' not in script.screen


def test_the_clipboard_is_left_alone_where_the_app_never_slept_or_the_redirect_has_come(phone, server):
    script, browser = a_waiting_login(phone, server)
    before = len(looks_at_clipboard(phone))
    assert browser.sign_in().status == 200 and script.wait() == 0
    assert len(looks_at_clipboard(phone)) == before


def test_on_a_computer_no_clipboard_is_read_after_a_sleep(home):
    assert codex_login.Device(alone=True).app == ''


def test_a_shortcut_leaves_the_address_in_the_groups_folder_and_the_waiting_login_takes_it(ashell, server):
    group = ashell.group
    script, browser = a_waiting_login(ashell, server)
    (group / 'codex_login.txt').write_text('http://localhost:1455/auth/callback?code=c&state=of_another_login\n')
    script.wait_for_text('does not belong to the login that waits')
    subprocess.run(['sh', '-c', f'echo "{browser.redirect()}" > $SHORTCUTS/codex_login.txt'], check=True,
                   env={'SHORTCUTS': str(group)})
    assert script.wait() == 0, script.report()
    assert list(group.iterdir()) == []


# --- Bad days ------------------------------------------------------------------------------------------------

def test_an_empty_clipboard_is_a_clear_line(phone, server):
    script = phone.start('--finish')
    assert script.wait() == 255
    assert 'nothing was copied' in script.screen + script.stderr and 'Traceback' not in script.screen + script.stderr


# Runs codex_login.py on a disk without any room left for a new file in the app's folder.
FULL = '''
import errno, os, runpy, sys
here, real = os.path.dirname(os.path.abspath(__file__)), os.open
def full(path, flags, *rest, **more):
    if flags & os.O_CREAT and str(path).startswith(here):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    return real(path, flags, *rest, **more)
os.open = full
sys.argv[0] = os.path.join(here, 'codex_login.py')
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
finally:
    os.open = real
'''


def on_a_full_disk(handset, *words):
    (handset.folder / 'full.py').write_text(FULL)
    return handset.start(*words, script='full.py')


def test_on_a_full_disk_the_login_goes_on_with_a_line_for_what_is_not_kept(phone, server):
    phone.know(server)
    (phone.ssh / 'known_hosts').unlink()
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', YES))
    script = on_a_full_disk(phone, 'home')
    if phone.is_terminal:
        script.answer('Trust it and go on.*yes/no', 'yes')
    assert Browser(phone.sign_in_page(script)).sign_in().status == 200
    assert script.wait() == 0, script.report()
    said = script.screen + script.stderr
    assert re.search('host key cannot be saved in .*No space left', said) and re.search('login-.*No space left', said)
    assert 'Traceback' not in said


def test_on_a_full_disk_no_half_of_a_key_or_of_a_server_is_left(phone, server):
    phone.know(server)
    before = sorted(phone.ssh.iterdir()), (phone.ssh / 'config').read_text()
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', YES))     # the words could have come from a link
    script = on_a_full_disk(phone, '--new-key', 'home')
    assert script.wait() == 255 and 'No space left' in script.screen + script.stderr
    assert (sorted(phone.ssh.iterdir()), (phone.ssh / 'config').read_text()) == before
    assert 'Traceback' not in script.screen + script.stderr


def test_a_state_folder_that_cannot_be_made_ends_no_login(phone, server):
    phone.know(server)
    (phone.folder / '.codex-login').write_text('a file in its place')
    script = phone.sign_in('home')
    assert 'cannot be written' in script.screen + script.stderr and 'Traceback' not in script.screen + script.stderr


def test_an_app_that_ios_kills_behind_its_sheet_goes_on_with_the_same_login(pythonista, server):
    pythonista.know(server)
    first = pythonista.start('--browser', 'in-app', 'home')
    wait_until(lambda: 'https://auth' in pythonista.phone.clipboard)
    wait_until(lambda: any('presentViewController' in str(call['args']) for call in pythonista.phone.called('objc')))
    address = pythonista.phone.clipboard
    first.kill()
    again = pythonista.start('--browser', 'in-app', 'home')
    wait_until(lambda: sum('presentViewController' in str(call['args']) for call in pythonista.phone.called('objc')) == 2)
    assert pythonista.phone.clipboard == address
    assert Browser(address).sign_in().status == 200 and again.wait() == 0
