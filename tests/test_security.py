"""Attacks that were tried on the script, each by name: a stranger's link, a false server, a page, other people at the server.

The server here is the embedded one; what it says and does is what a hostile one would. PROMISES says which tests stand behind
which line of the README's Security section; readers of foreign text have theirs in test_properties.py.
"""

import contextlib
import errno
import json
import os
import re
import selectors
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import embedded
import pytest
from embedded import free_port
from harness import PATIENCE, ROOT, SCRIPT, Browser, Script
from test_login import auth_file, codex_login, eventually, failure, forget_keys, listening
from test_phones import NO, YES, pairing_with, pythonista  # noqa: F401 (a fixture is used by its name)
from test_tunnels import echo, say  # noqa: F401 (a fixture)
from tools.soak import Witness

# The README's promises by their numbers, each with tests that fail where it is broken.
PROMISES = {
    1: ['test_one_command_signs_codex_in', 'test_no_secret_of_a_login_is_said_logged_kept_or_on_a_command_line'],
    2: ['test_a_host_key_is_judged_as_ssh_judges_it', 'test_the_fingerprints_of_a_pairing_rule_over_an_older_known_key',
        'test_nothing_is_written_for_a_key_that_is_refused_after_a_reconnect'],
    3: ['test_only_get_requests_for_loopback_are_relayed', 'test_any_free_port_is_the_same_on_every_address',
        'test_three_hundred_connections_that_ask_for_nothing_do_not_keep_the_redirect_out'],
    4: ['test_no_spelling_of_another_page_reaches_the_login_that_waits', 'test_no_request_is_carried_but_the_pending_logins_own',
        'test_a_second_redirect_of_the_same_sign_in_does_not_end_what_the_first_achieved'],
    5: ['test_a_page_that_is_not_of_codexs_issuer_is_not_opened', 'test_an_address_that_is_not_https_is_refused_and_shown_harmless',
        'test_a_page_that_leads_nowhere_on_this_device_is_opened_after_a_yes_only_and_asked_about_once'],
    6: ['test_codex_that_claims_success_with_nobody_signed_in_is_not_believed', 'test_the_folder_is_made_where_nobody_else_can_write',
        'test_a_folder_that_somebody_else_could_have_made_is_not_the_login'],
    7: ['test_a_password_is_asked_for_in_the_name_of_the_host_that_gets_it',
        'test_a_question_of_the_server_says_whose_it_is_and_cannot_pass_for_the_scripts_own',
        'test_a_wrong_password_is_asked_again_and_only_the_right_one_is_kept',
        'test_a_file_left_over_gives_a_private_one_neither_its_mode_nor_its_place'],
    8: ['test_no_secret_of_a_login_is_said_logged_kept_or_on_a_command_line', 'test_the_errors_of_a_login_have_no_secret_in_them',
        'test_a_wrong_secret_is_not_repeated_in_what_is_said'],
    9: ['test_a_link_is_put_to_the_person_with_the_real_account_and_what_it_does',
        'test_a_pairing_link_is_asked_about_once_and_by_nobody_in_a_shortcut'],
    10: ['test_no_word_of_a_server_acts_on_a_screen_or_passes_for_the_scripts_own', 'test_no_line_of_a_program_acts_on_a_screen',
         'test_what_a_server_does_not_answer_ends_with_a_clear_line', 'test_a_flood_from_a_server_takes_no_memory',
         'test_endless_records_take_no_memory_and_open_nothing', 'test_no_text_takes_more_work_than_its_length'],
}


@pytest.mark.quick
def test_every_promise_of_the_readme_has_its_tests():
    section = (ROOT / 'README.md').read_text().partition('\n## Security\n')[2].partition('\n## ')[0]
    assert list(map(int, re.findall(r'^([0-9]+)\. ', section, re.MULTILINE))) == list(PROMISES)
    tests = {name for path in Path(__file__).parent.glob('test_*.py') for name in re.findall(r'^def (test_\w+)', path.read_text(), re.MULTILINE)}
    assert [name for names in PROMISES.values() for name in names if name not in tests] == []


@pytest.mark.quick
def test_the_readme_says_how_long_a_silent_server_is_waited_for():
    limits = (codex_login.Authentication.LIMIT, codex_login.Link.RUN_LIMIT, codex_login.Program.START_LIMIT)
    text = ' '.join((ROOT / 'README.md').read_text().split())
    for says, limit in zip(('{:g} s to let you in', '{:g} s to take a command', '{:g} s to start the program'), limits):
        assert says.format(limit) in text


# --- Who asked ----------------------------------------------------------------------------------------------

@pytest.fixture
def linked(pythonista, server):
    """Pythonista, on which a link of a web page runs the script: `linked(word, …)`. It knows the server as `home`."""
    pythonista.know(server)

    def follow(*words, answer=None, **how):
        if answer:
            pythonista.phone.will_answer(('console.alert', answer))
        return pythonista.start(*words, **how)
    return follow


on_one_pythonista = pytest.mark.parametrize('pythonista', ['Pythonista'], indirect=True)

# Words of links, with what has to be read before a yes. {account} is the server's.
LINKS = {
    'a command': (['home', 'touch', 'PWNED'], ['{account}', 'touch PWNED']),
    'a server that is not configured': (['{account}'], ['{account}', 'codex login']),
    'another account': (['eve@home'], ['eve@{address}', 'codex login']),
    'another account, too': (['-l', 'eve', 'home'], ['eve@{address}']),
    'another port': (['-p', '2', 'home'], ['{user}@[127.0.0.1]:2']),
    'another host under a known name': (['-o', 'HostName=192.0.2.9', 'home'], ['{user}@[192.0.2.9]:{port}']),
    'another configuration': (['-F', 'none', '-l', 'eve', 'home'], ['eve@home', '-F none']),
    'no host key': (['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', 'home'],
                    ['{account}', 'StrictHostKeyChecking=no', 'UserKnownHostsFile=/dev/null']),
    'a key': (['-i', '/a/key', 'home'], ['{account}', '-i /a/key']),
    'a proxy into the network of the phone': (['-N', '-R', '9000', 'x@evil.example'],
                                              ['x@evil.example', '-R 9000', "this device's network"]),
    'a tunnel': (['-N', '-L', '8080:intranet:80', 'home'], ['{account}', '-L 8080:intranet:80']),
    'a way through another server': (['-J', 'spy@evil.example:99', 'home'], ['spy@[evil.example]:99', '{account}']),
    'a new key': (['--new-key', 'home'], ['{account}', 'key']),
    'the end of the present login': (['--again', 'home'], ['{account}', '--again']),
    'a code': (['--device-auth', 'home'], ['{account}', '--device-auth']),
    'words after the name': (['home', '-v', 'id'], ['{account}', 'id']),
}


def link(name, server):
    words, shown = LINKS[name]
    fields = {'account': account(server), 'address': f'[127.0.0.1]:{server.port}', 'user': server.user, 'port': server.port}
    return [word.format(**fields) for word in words], [text.format(**fields) for text in shown]


@on_one_pythonista
@pytest.mark.parametrize('name', LINKS)
def test_a_link_is_put_to_the_person_with_the_real_account_and_what_it_does(name, linked, pythonista, server):
    words, shown = link(name, server)
    assert linked(*words, answer=NO).wait() == 130
    [call] = pythonista.phone.called('console.alert')
    assert [text for text in shown if text not in call['args'][1]] == []
    assert server.connections == 0 and not list(server.home.rglob('PWNED'))


@on_one_pythonista
@pytest.mark.parametrize('where', ['shortcut', 'extension', 'json'])
def test_a_link_does_nothing_where_nobody_can_be_asked_and_says_what_to_do(where, linked, pythonista, server):
    if where == 'shortcut':
        pythonista.run_as_shortcut()
    if where == 'extension':
        pythonista.phone.share(text='something')
    script = linked('home', 'touch PWNED', json_events=where == 'json')
    assert script.wait() == 255
    assert account(server) in script.stdout + script.stderr and 'say yes' in script.stdout + script.stderr
    assert pythonista.asked == [] and server.connections == 0


@on_one_pythonista
def test_a_yes_to_a_link_is_remembered_by_its_exact_words(linked, pythonista, server):
    assert linked('home', 'echo one', answer=YES).wait() == 0
    agreed = linked('home', 'echo one')
    assert agreed.wait() == 0 and 'one' in agreed.stdout
    pythonista.run_as_shortcut()
    assert linked('home', 'echo one').wait() == 0
    for others in (['home', 'echo one '], ['home', 'echo', 'one', '&& touch PWNED'], ['-v', 'home', 'echo one'], ['home', 'echo two']):
        assert linked(*others).wait() == 255
    assert pythonista.asked == ['console.alert']
    files = [path for path in (pythonista.folder / '.codex-login').iterdir() if path.name != 'last']
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600]
    assert 'echo' not in files[0].read_text()


@on_one_pythonista
def test_a_yes_counts_no_longer_once_the_name_leads_elsewhere(linked, pythonista, server):
    assert linked('home', 'true', answer=YES).wait() == 0
    config = pythonista.ssh / 'config'
    config.write_text(config.read_text().replace(server.address, '192.0.2.9'))
    assert linked('home', 'true', answer=NO).wait() == 130
    assert '192.0.2.9' in pythonista.phone.called('console.alert')[-1]['args'][1]


@on_one_pythonista
def test_hostile_text_in_a_link_is_shown_for_what_it_is(linked, pythonista, server):
    hostile = 'true\ntouch PWNED\x1b[8m\u202eetihw\x07'
    assert linked('home', hostile, answer=NO).wait() == 130
    text = pythonista.phone.called('console.alert')[0]['args'][1]
    assert r'true\ntouch PWNED\x1b[8m\u202eetihw\x07' in text
    assert all(line.isprintable() for line in text.splitlines())


@on_one_pythonista
def test_a_link_too_long_to_be_read_is_refused_not_cut(linked, pythonista, server):
    script = linked('home', 'true ' + ' ' * 3000 + '; touch PWNED')
    assert script.wait() == 255 and 'too long' in script.stderr
    assert pythonista.asked == [] and server.connections == 0


@on_one_pythonista
def test_a_known_server_by_its_name_is_not_asked_about_whatever_is_to_be_shown(linked, pythonista, server):
    for words in (['home'], ['-v', 'home'], ['-q', '--browser', 'default', 'home'], ['home', '-v']):
        pythonista.sign_in(*words)
        (server.home / '.codex' / 'auth.json').unlink()
    pythonista.sign_in('home', json_events=True)
    assert pythonista.asked == []


@on_one_pythonista
def test_a_link_with_an_answer_of_a_browser_is_asked_about_without_showing_or_keeping_its_secrets(linked, pythonista, server):
    first = linked('home')
    redirect = Browser(pythonista.sign_in_page(first)).redirect()
    first.kill()
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(redirect).query))
    assert linked('--finish', redirect, answer=NO).wait() == 130
    assert not (server.home / '.codex' / 'auth.json').exists()
    assert linked('--finish', redirect, answer=YES).wait() == 0
    assert (server.home / '.codex' / 'auth.json').exists()
    kept = ''.join(path.read_text() for path in (pythonista.folder / '.codex-login').iterdir())
    for call in pythonista.phone.called('console.alert'):
        assert f'{server.user}@127.0.0.1:{server.port}' in call['args'][1] and '/auth/callback' in call['args'][1]
        kept += call['args'][1]
    assert query['code'] not in kept and query['state'] not in kept


@on_one_pythonista
def test_the_words_of_a_saved_login_were_agreed_to_and_are_not_asked_about_again(linked, pythonista, server):
    first = linked('-o', 'StrictHostKeyChecking=yes', 'home', answer=YES)
    pythonista.phone.clipboard = Browser(pythonista.sign_in_page(first)).redirect()
    first.kill()
    assert linked('--finish').wait() == 0
    assert pythonista.asked == ['console.alert']


@on_one_pythonista
@pytest.mark.parametrize('words', [['--finish', '-o', 'HostName=evil.example'], ['--finish', 'x@evil.example'], ['x@evil.example', '--finish']],
                         ids=' '.join)
def test_a_link_to_finish_a_login_that_does_not_wait_ends_with_a_line(words, linked, pythonista, server):
    script = linked(*words)
    assert script.wait() == 255 and 'Traceback' not in script.stderr and re.search('redirect|failed page', script.stderr)
    assert pythonista.asked == [] and server.connections == 0


@on_one_pythonista
def test_a_pairing_link_with_more_than_a_pairing_is_no_pairing_alone(linked, pythonista, server):
    words = [*pairing_with(pythonista, server), '-o', 'HostName=evil.example', '--again']
    assert linked(*words, answer=NO).wait() == 130
    assert 'HostName=evil.example' in pythonista.phone.called('console.alert')[0]['args'][1]


@on_one_pythonista
def test_a_pairing_link_is_asked_about_once_and_by_nobody_in_a_shortcut(linked, pythonista, server):
    words = pairing_with(pythonista, server)
    before = (pythonista.ssh / 'config').read_text()
    pythonista.run_as_shortcut()
    assert linked(*words).wait() == 255
    assert pythonista.asked == [] and (pythonista.ssh / 'config').read_text() == before


def asks(server, home, *questions, title='', instruction=''):
    """A server that asks these questions; their answers are all `42`."""
    forget_keys(home)
    server.password, server.title, server.instruction = None, title, instruction
    server.questions = tuple((question, '42') for question in questions)


def account(server):
    return f'{server.user}@[127.0.0.1]:{server.port}'


IMITATIONS = [
    'Passphrase of {key}:', '\r\n\x1b[2K\x1b[1APassphrase of {key}:', '\n' * 50 + 'Passphrase of {key}:',
    '\u2028Passphrase of {key}:', ' ' * 300 + 'Passphrase of {key}:', '\x1b]0;x\x07Passphrase of {key}:', "other@server's password:",
]


@pytest.mark.parametrize('words', IMITATIONS, ids=range(len(IMITATIONS)))
def test_a_question_of_the_server_says_whose_it_is_and_cannot_pass_for_the_scripts_own(run, server, home, words):
    words = words.format(key=home.ssh / 'id_ed25519')
    asks(server, home, words)
    script = run(json_events=False, terminal=True, command=('true',))
    script.answer(re.escape(f'({account(server)}) ') + '.*' + re.escape(words.split()[-1]), '42')
    assert script.wait() == 0
    imitated = [line for line in re.split('[\r\n]+', script.screen) if re.match(r"\s*(Passphrase of|other@server)", line)]
    assert imitated == [] and '\x1b' not in script.screen


def test_what_a_server_says_before_its_questions_is_shown_line_by_line_as_the_servers_words(run, server, home):
    asks(server, home, 'Code:', 'Second code:', title='Two\x1b[31m factors',
         instruction=f'A code was sent to your phone.\nPassphrase of {home.ssh}/id_ed25519:\n\n')
    script = run(json_events=False, terminal=True, command=('true',))
    for prompt in ('Code:', 'Second code:'):
        script.answer(re.escape(f'({account(server)}) {prompt}'), '42')
    assert script.wait() == 0
    shown = [line for line in re.split('[\r\n]+', script.screen) if 'Passphrase' in line or 'phone' in line or 'factors' in line]
    assert shown == [f'({account(server)}) {words}' for words in (
        'Two factors', 'A code was sent to your phone.', f'Passphrase of {home.ssh}/id_ed25519:')]


def test_what_a_server_says_without_a_question_is_shown_too(run, server, home):
    asks(server, home, instruction='Your password expires in 3 days.')
    server.questions = Nothing()
    script = run(json_events=False, terminal=True, command=('true',))
    assert script.wait() == 0
    assert f'({account(server)}) Your password expires in 3 days.' in script.screen


class Nothing(tuple):
    """No question at all, of a server that has keyboard-interactive."""

    def __bool__(self):
        return True


def test_a_password_is_asked_for_in_the_name_of_the_host_that_gets_it(run, server, home):
    forget_keys(home)
    home.config.write_text('Host work\n    HostName server.example\n    User you\n')
    script = run('-o', 'HostName=127.0.0.1', '-p', server.port, '-l', server.user, to='work', json_events=False,
                 terminal=True, command=('true',))
    script.answer(re.escape(f"{account(server)}'s password:"), server.password)
    assert script.wait() == 0
    assert 'work' not in script.screen[:script.screen.index('password:')].splitlines()[-1]


def test_a_dialog_of_pythonista_says_which_server_asks(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    server.password, server.questions = None, (('Passphrase of ~/.ssh/id_ed25519:', '42'), ('Code:', '42'))
    server.instruction = 'Welcome.\nPassphrase of ~/.ssh/id_ed25519:'
    pythonista.phone.will_answer(('console.password_alert', '42'), ('console.password_alert', '42'))
    pythonista.sign_in('home')
    dialogs = [call['args'][1].splitlines() for call in pythonista.phone.called('console.password_alert')]
    said = f'({account(server)}) '
    assert dialogs == [[f'{said}Welcome.', f'{said}Passphrase of ~/.ssh/id_ed25519:', f'{said}Passphrase of ~/.ssh/id_ed25519:'],
                       [f'{said}Code:']]


# --- Which server -------------------------------------------------------------------------------------------

def line_of(server, kind, *, seed=None, marker='', name=None):
    """One line of known_hosts for the server."""
    key = embedded.host_key(kind, seed or server.seed)
    return f'{marker}{name or f"[127.0.0.1]:{server.port}"} {key.get_name()} {key.get_base64()}\n'


@pytest.mark.parametrize('strict', ['accept-new', 'no', 'ask', 'yes'])
def test_a_server_that_shows_a_key_of_another_type_alone_is_a_changed_server(run, server, home, strict):
    known = line_of(server, 'ed25519')
    home.known_hosts.write_text(known)
    server.host_keys = ('ecdsa',)
    error = failure(run('-o', f'StrictHostKeyChecking={strict}', command=('true',)), kind='host-key')
    assert 'CHANGED' in error['message'] and f'{home.known_hosts}, line 1' in error['message']
    assert home.known_hosts.read_text() == known
    assert server.count['publickey'] == server.count['password'] == 0


def test_a_person_is_not_asked_about_a_key_of_another_type(run, server, home):
    home.known_hosts.write_text(line_of(server, 'ed25519'))
    server.host_keys = ('ecdsa',)
    script = run(json_events=False, terminal=True, command=('true',))
    assert script.wait() == 255
    assert 'CHANGED' in script.screen and 'yes/no' not in script.screen


def test_a_false_server_with_another_type_first_and_a_false_key_of_the_known_type_is_refused(run, server, home):
    home.known_hosts.write_text(line_of(server, 'ed25519'))
    server.host_keys, server.seed = ('ecdsa', 'ed25519'), 2
    error = failure(run('-o', 'StrictHostKeyChecking=accept-new', command=('true',)), kind='host-key')
    assert 'CHANGED' in error['message']


def tunnel(run, server):
    """A connection that stays, made with a server whose key is new."""
    script = run('-N', '-o', 'StrictHostKeyChecking=accept-new', '-o', 'ServerAliveInterval=1')
    script.wait_for('connected')
    return script


def test_nothing_is_written_for_a_key_that_is_refused_after_a_reconnect(run, server, home):
    home.known_hosts.write_text('')
    script = tunnel(run, server)
    known = home.known_hosts.read_text()
    assert known == line_of(server, 'ed25519')
    server.host_keys = ('ecdsa',)
    server.cut()
    assert 'CHANGED' in failure(script, kind='host-key')['message']
    assert home.known_hosts.read_text() == known


def test_a_reconnect_does_not_start_to_trust_where_known_hosts_was_emptied_meanwhile(run, server, home):
    home.known_hosts.write_text('')
    script = tunnel(run, server)
    home.known_hosts.write_text('')
    server.seed = 2
    server.cut()
    assert 'another host key than at the start' in failure(script, kind='host-key')['message']
    assert home.known_hosts.read_text() == ''


def test_a_key_that_is_revoked_under_a_pattern_is_refused_though_it_is_new(run, server, home):
    home.known_hosts.write_text(line_of(server, 'ed25519', marker='@revoked ', name='*'))
    error = failure(run('-o', 'StrictHostKeyChecking=accept-new', command=('true',)), kind='host-key')
    assert 'revoked' in error['message'] and f'{home.known_hosts}, line 1' in error['message']


def test_a_server_known_by_a_certificate_only_is_not_taken_on_trust(run, server, home):
    home.known_hosts.write_text(line_of(server, 'rsa', marker='@cert-authority ', name='*'))
    known = home.known_hosts.read_text()
    error = failure(run('-o', 'StrictHostKeyChecking=accept-new', command=('true',)), kind='host-key')
    assert 'certificate' in error['message'] and f'{home.known_hosts}, line 1' in error['message']
    assert error['hint'] and home.known_hosts.read_text() == known

    script = run(json_events=False, terminal=True, command=('true',))
    script.wait_for_text('certificate')
    script.answer('yes/no', 'yes')
    assert script.wait() == 0
    assert home.known_hosts.read_text() == known + line_of(server, 'ed25519')


def test_hostkeyalias_names_the_server_in_known_hosts_as_with_ssh(run, server, home):
    home.known_hosts.write_text(line_of(server, 'ed25519', name='cluster'))
    aliased = ('-o', 'HostKeyAlias=Cluster', '-o', 'StrictHostKeyChecking=accept-new')
    assert run(*aliased, command=('true',)).wait() == 0
    assert home.known_hosts.read_text() == line_of(server, 'ed25519', name='cluster')
    server.seed = 2
    error = failure(run(*aliased, command=('true',)), kind='host-key')
    assert 'CHANGED' in error['message'] and "ssh-keygen -R 'cluster'" in error['hint']
    home.known_hosts.write_text('')
    assert run(*aliased, command=('true',)).wait() == 0
    assert home.known_hosts.read_text() == line_of(server, 'ed25519', name='cluster')


# What known_hosts has (kind, seed, marker), and the kinds of key that the server shows.
KNOWN_AND_SHOWN = {
    'the same': ([('ed25519', 1, '')], ('ed25519', 'ecdsa')),
    'the second of two': ([('rsa', 1, ''), ('ecdsa', 1, '')], ('ed25519', 'ecdsa')),
    'another of its type': ([('ed25519', 2, '')], ('ed25519',)),
    'another type': ([('ed25519', 1, '')], ('ecdsa',)),
    'another type, the other way round': ([('ecdsa', 1, '')], ('ed25519',)),
    'nothing': ([], ('ed25519',)),
    'revoked only': ([('ed25519', 1, '@revoked ')], ('ed25519',)),
    'known and revoked': ([('ed25519', 1, ''), ('ed25519', 1, '@revoked ')], ('ed25519',)),
    'another one revoked': ([('ed25519', 2, '@revoked ')], ('ed25519',)),
    'another type revoked, and this one known': ([('ecdsa', 1, '@revoked '), ('ed25519', 1, '')], ('ed25519',)),
    'a certificate authority beside a key': ([('rsa', 1, '@cert-authority '), ('ed25519', 1, '')], ('ed25519',)),
    'a certificate authority beside another key': ([('rsa', 1, '@cert-authority '), ('ecdsa', 1, '')], ('ed25519',)),
}
SAYS = {        # by ssh, and by the judge
    'IDENTIFICATION HAS CHANGED': 'changed', 'REVOKED HOST KEY DETECTED': 'revoked', 'Permission denied': 'trusted',
    'Host key verification failed': 'unknown',
}


@pytest.mark.skipif(not shutil.which('ssh'), reason='no ssh: apt-get install openssh-client')
@pytest.mark.parametrize('case', KNOWN_AND_SHOWN)
def test_a_host_key_is_judged_as_ssh_judges_it(server, home, case):
    known, server.host_keys = KNOWN_AND_SHOWN[case]
    lines = ''.join(line_of(server, kind, seed=seed, marker=marker) for kind, seed, marker in known)
    home.known_hosts.write_text(lines)
    for strict in ('yes', 'accept-new'):
        said = subprocess.run(
            ['ssh', '-F', 'none', '-p', str(server.port), '-o', 'BatchMode=yes', '-o', f'StrictHostKeyChecking={strict}',
             '-o', f'UserKnownHostsFile={home.known_hosts}', '-o', 'GlobalKnownHostsFile=none', '-o', 'IdentityFile=none',
             '-o', 'IdentityAgent=none', '-o', 'HashKnownHosts=no', f'{server.user}@127.0.0.1', 'true'],
            capture_output=True, text=True, timeout=PATIENCE).stderr
        judged = {codex_login.judge_host_key(codex_login.known_keys(lines, f'[127.0.0.1]:{server.port}'), None, strict,
                                             embedded.host_key(kind, server.seed).asbytes())[0]
                  for kind in (server.host_keys if len(server.host_keys) == 1 else [known[-1][0]])}
        by_ssh = next(verdict for words, verdict in SAYS.items() if words in said)
        added = home.known_hosts.read_text() != lines
        home.known_hosts.write_text(lines)
        assert judged == {'add' if added else by_ssh}, said


def paired(home, server, **other):
    """Pair with the server, as the yes to its pairing link does; under the name `work`."""
    device = codex_login.Device(alone=True)
    device.home, device.ssh_folder = str(home.folder), str(home.ssh)
    device.state_folder = str(home.folder / '.local' / 'state' / 'codex-login')
    prints = tuple(embedded.fingerprint(key) for key in server.keys())
    codex_login.add_server(codex_login.Pairing(**{
        'name': 'work', 'host': server.address, 'port': server.port, 'user': server.user, 'fingerprints': prints, **other}), device)


def test_the_fingerprints_of_a_pairing_rule_over_an_older_known_key(run, server, home):
    server.seed = 2
    home.known_hosts.write_text(line_of(server, 'ed25519', seed=1))
    paired(home, server)
    # Where the paired server answers, the older line is no hindrance; it is not made right by adding to it, either.
    assert run(to='work', command=('true',)).wait() == 0
    assert home.known_hosts.read_text() == line_of(server, 'ed25519', seed=1)
    server.seed = 1
    error = failure(run(to='work', command=('true',)), kind='host-key')
    assert 'is not the one of its pairing link' in error['message'] and 'pair again' in error['hint']
    # Not by another spelling of the way to it, either.
    error = failure(run(command=('true',)), kind='host-key')
    assert 'is not the one of its pairing link' in error['message']
    assert server.count['password'] == 0


@pytest.mark.parametrize('strict', ['accept-new', 'yes'])
def test_the_fingerprints_of_a_pairing_stay_after_the_first_connection(run, server, home, strict):
    home.known_hosts.write_text('')
    paired(home, server)
    options = ('-o', f'StrictHostKeyChecking={strict}')
    assert run(*options, to='work', command=('true',)).wait() == 0
    assert home.known_hosts.read_text() == line_of(server, 'ed25519')
    server.seed = 2
    home.known_hosts.write_text(line_of(server, 'ed25519'))     # somebody put it there, or took the old one away
    for known in (home.known_hosts.read_text(), ''):
        home.known_hosts.write_text(known)
        error = failure(run(*options, to='work', command=('true',)), kind='host-key')
        assert 'is not the one of its pairing link' in error['message']
        assert home.known_hosts.read_text() == known


def test_pairing_again_and_removing_the_server_are_what_ends_a_pairing(run, server, home):
    home.known_hosts.write_text('')
    paired(home, server)
    assert run(to='work', command=('true',)).wait() == 0
    server.seed = 2
    home.known_hosts.write_text('')
    paired(home, server)
    assert run(to='work', command=('true',)).wait() == 0
    # The configuration no longer has it: then known_hosts alone counts. It does not come back with an entry made by hand.
    server.seed = 3
    home.known_hosts.write_text(line_of(server, 'ed25519'))
    home.config.unlink()
    paired(home, server, fingerprints=())
    assert run(to='work', command=('true',)).wait() == 0


def test_a_pairing_that_puts_other_keys_in_the_place_of_known_ones_says_so(run, server, home):
    known = embedded.fingerprint(embedded.host_key('ed25519'))
    key = known.removeprefix('SHA256:').replace('+', '-').replace('/', '_')
    for seed, warned in ((1, False), (2, True)):
        home.known_hosts.write_text(line_of(server, 'ed25519', seed=seed))
        script = run('--add', f'codex-login:1/spare/{server.user}/127.0.0.1/{server.port}/{key}', json_events=False, terminal=True)
        script.answer('yes/no', 'no')
        assert script.wait() == 130 and ('ANOTHER KEY' in script.screen) == warned
        assert not home.config.exists()


def test_a_key_of_the_pairing_is_asked_for_where_the_server_has_others_too(run, server, home):
    paired(home, server, fingerprints=(embedded.fingerprint(embedded.host_key('ed25519')),))
    home.known_hosts.write_text(line_of(server, 'ecdsa'))
    assert run(to='work', command=('true',)).wait() == 0


@pytest.mark.parametrize('alias', ['*', 'a,*', '!a', '|1|a', 'a ssh-ed25519 AAAA', 'a\nb'])
def test_a_hostkeyalias_that_would_be_a_pattern_in_known_hosts_is_refused(run, home, alias):
    error = failure(run('-o', f'HostKeyAlias={alias}', '-o', 'StrictHostKeyChecking=accept-new', command=('true',)), kind='config')
    assert 'HostKeyAlias' in error['message']


def test_the_pairing_of_another_server_is_not_touched(run, server, home):
    home.known_hosts.write_text('')
    paired(home, server)
    paired(home, server, name='other', host='192.0.2.1', fingerprints=())
    server.seed = 2
    assert 'pairing link' in failure(run(to='work', command=('true',)), kind='host-key')['message']


# --- What comes back ----------------------------------------------------------------------------------------

BACK = 'redirect_uri=http%3A%2F%2Flocalhost%3A{port}%2Fauth%2Fcallback&state={state}'
FALSE_ISSUERS = [
    'https://evil.example/oauth/authorize?', 'https://auth.openai.com.evil.example/oauth/authorize?',
    'https://auth.openai.com@evil.example/oauth/authorize?', 'https://auth.openai.com:8443/oauth/authorize?',
    'https://evil.example#@auth.openai.com/?', 'http://localhost:8000/oauth/authorize?',
]


@pytest.mark.parametrize('mood', ['', 'hands'])
@pytest.mark.parametrize('page', FALSE_ISSUERS, ids=range(len(FALSE_ISSUERS)))
def test_a_page_that_is_not_of_codexs_issuer_is_not_opened(run, server, home, page, mood):
    server.environment |= {'STAND_IN_ADDRESS': page + BACK, 'STAND_IN_MOOD': mood}
    error = failure(run(environment=home.own_clipboard()), kind='address')
    host = urllib.parse.urlsplit(page).netloc
    assert host in error['message'] and 'not opened' in error['message'] and error['hint']
    assert home.opened == [] and home.clipboard == '' and not listening(server.announced_port)


def test_a_person_may_open_the_page_of_another_issuer(run, server, home):
    server.environment['STAND_IN_ISSUER'] = 'https://login.example.org'
    for answer in ('no', 'yes'):
        script = run(json_events=False, terminal=True)
        script.wait_for_text(r'login\.example\.org[^?]*auth\.openai\.com')
        assert home.opened == []
        script.answer('yes/no', answer)
        if answer == 'no':
            assert script.wait() == 255 and 'not opened' in script.screen
    Browser(script.wait_for_text(r'^(https://\S+state=\S+)\r?$')[1]).sign_in()
    assert script.wait() == 0 and len(home.opened) == 1


def test_an_issuer_named_on_the_command_line_is_that_logins_issuer(run, server, home):
    login = ('codex', 'login', '--experimental_issuer')
    script = run(command=(*login, 'https://login.example.org/base'))
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
    assert script.wait_for('signed-in') and script.wait() == 0
    (server.home / '.codex' / 'auth.json').unlink()
    server.environment['STAND_IN_ADDRESS'] = 'https://auth.openai.com/oauth/authorize?' + BACK
    assert 'auth.openai.com' in failure(run(command=(*login, 'https://login.example.org/base')), kind='address')['message']


def test_a_code_is_not_to_be_entered_on_a_page_that_is_not_of_codexs_issuer(run, server, home):
    (server.bin / 'codex').write_text('#!/bin/sh\n[ "$2" = status ] && exit 1\n'
                                      'echo https://evil.example/codex/device; echo ABCD-12345; sleep 60\n')
    error = failure(run('--device-auth', environment=home.own_clipboard()), kind='address')
    assert 'evil.example' in error['message'] and home.opened == [] and home.clipboard == ''


NOWHERE = '"$BROWSER" {}; echo done'


@pytest.mark.parametrize('page', ['https://evil.example/page', 'https://a.test/?redirect_uri=https://a.test/cb&next=http://localhost:1/',
                                  'http://a.test/'], ids=['page', 'leads-elsewhere', 'http'])
def test_a_page_that_leads_nowhere_on_this_device_is_shown_and_not_opened_where_nobody_can_say_yes(run, home, page):
    script = run(command=(NOWHERE.format(f"'{page}'"),))
    assert script.wait_for('sign-in') == {'event': 'sign-in', 'url': page, 'port': None}
    assert script.wait() == 0 and home.opened == []
    assert 'opened' not in [event['event'] for event in script.events] and 'not opened' in script.stderr


@pytest.mark.parametrize('answer', ['yes', 'no'])
def test_a_page_that_leads_nowhere_on_this_device_is_opened_after_a_yes_only_and_asked_about_once(run, home, answer):
    pages = [f'https://evil.example/{number}' for number in range(3)]
    script = run(json_events=False, terminal=True, command=(NOWHERE.format(' '.join(pages)),))
    script.wait_for_text(re.escape(pages[0]))
    assert home.opened == []
    script.answer('yes/no', answer)
    assert script.wait() == 0 and script.screen.count('yes/no') == 1
    assert home.opened == (pages[:1] if answer == 'yes' else []) and pages[2] in script.screen


def test_the_address_of_another_program_is_shown_before_it_is_opened(run, server, home):
    server.install('wrangler')
    script = run(command=('wrangler', 'login'))
    names = []
    while 'opened' not in names:
        names.append(script.next_event()['event'])
    assert names.index('sign-in') < names.index('opened')
    assert Browser(home.opened[0]).sign_in().status == 200 and script.wait() == 0


def answer_to(port, target, *lines):
    """The status of a request that no browser would make like this, by another program on the device."""
    with socket.create_connection(('127.0.0.1', port), PATIENCE) as sock:
        head = '\r\n'.join([f'GET {target} HTTP/1.1', f'Host: localhost:{port}', *lines])
        sock.sendall(f'{head}\r\n\r\n'.encode())
        return int(sock.makefile('rb').readline().split()[1])


WAYS_TO_END = ['/cancel', '/./cancel', '/%2e/cancel', '//cancel', '/auth/../cancel', '/auth/callback/%2e%2e/%2e%2e/cancel',
               '/\\cancel', '/%2fcancel', '/c%61ncel', '/%252e/cancel', '/success', '/./success', '//success', '/%2e/success',
               '/s%75ccess', '/auth/callback', '/auth/callback?code=evil', '/auth/callback?error=access_denied',
               '/auth/./callback?code=evil', '/auth/callback?code=evil&state=', '//[', '/[', '*', 'http://[', '/favicon.ico']


def test_no_spelling_of_another_page_reaches_the_login_that_waits(run, server):
    witness = Witness(server)
    script = run()
    browser = Browser(script.wait_for('sign-in')['url'])
    port = server.announced_port
    ways = [*WAYS_TO_END, f'http://localhost:{port}/cancel', f'/auth/callback?code=evil&state=x&state={browser.state}']
    answers = {target: answer_to(port, target) for target in ways}
    assert all(status in (204, 400, 404, 409) for status in answers.values()), answers
    assert witness.requests == []
    assert browser.sign_in().status == 200
    assert script.wait() == 0 and 'Traceback' not in script.stderr
    assert [target.partition('?')[0] for target in witness.requests] == ['/auth/callback', '/success']


def test_a_page_in_the_background_cannot_bring_the_redirect_of_an_address_without_state(run, server):
    server.environment['STAND_IN_ADDRESS'] = \
        'https://auth.openai.com/authorize?redirect_uri=http://127.0.0.1:{port}/auth/callback&secret={state}'
    witness = Witness(server)
    script = run()
    script.wait_for('sign-in')
    for lines in (['Sec-Fetch-Mode: no-cors', 'Sec-Fetch-Dest: image'], ['Sec-Fetch-Mode: cors', 'Sec-Fetch-Dest: empty'],
                  ['Sec-Fetch-Mode: navigate', 'Sec-Fetch-Dest: iframe']):
        assert answer_to(server.announced_port, '/auth/callback?code=evil', *lines) == 403
    assert witness.requests == []
    top = ['Sec-Fetch-Mode: navigate', 'Sec-Fetch-Dest: document', 'Sec-Fetch-Site: cross-site']
    assert answer_to(server.announced_port, '/auth/callback?code=good', *top) == 400     # by codex, which wants a state
    assert witness.requests == ['/auth/callback?code=good']
    script.interrupt()
    assert script.wait() == 130


def test_a_second_redirect_of_the_same_sign_in_does_not_end_what_the_first_achieved(run, server):
    server.environment['STAND_IN_EXCHANGE'] = '1'
    witness = Witness(server)
    arriving = witness.at('callback arriving', lambda: None)
    script = run()
    browser = Browser(script.wait_for('sign-in')['url'])
    first = browser.in_background(browser.get, browser.redirect())
    assert arriving.wait(PATIENCE)
    second = browser.redirect(code='bad')
    assert browser.get(second).status == 409
    turn = first()
    assert turn.status == 302
    assert browser.get(second).status == 409 and len(witness.callbacks) == 1
    assert browser.follow(turn.headers['Location']).status == 200
    assert script.wait() == 0


def test_an_address_with_dots_is_not_delivered_for_a_person_either(run, server):
    witness = Witness(server)
    script = run(json_events=False, terminal=True)
    browser = Browser(script.wait_for_text(r'^(https://\S+)\r?$')[1])
    script.wait_for_text('come back here')
    redirect = browser.redirect()
    for number, wrong in enumerate(('/./auth/callback', '/auth/../cancel', '/%2e/success', '/cancel', '//success'), 1):
        script.answer('', redirect.replace('/auth/callback', wrong))
        script.wait_for_text(r'(?s)' + '.*does not belong' * number)
    assert witness.requests == []
    script.answer('', redirect)
    assert script.wait() == 0


def test_finish_takes_no_address_with_dots_for_the_login_that_waits(run, server):
    first = run()
    redirect = Browser(first.wait_for('sign-in')['url']).redirect()
    first.wait_for('opened')
    for wrong in ('/./auth/callback', '/auth/../success', '//success'):
        second = Script(run.home, '--finish', redirect.replace('/auth/callback', wrong))
        run.scripts.append(second)
        assert 'belongs to no login' in failure(second, kind='redirect')['message']
    first.interrupt()
    assert first.wait() == 130


needs_proc = pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason="counts in Linux's /proc")
FEW_DESCRIPTORS = ('sh', '-c', 'ulimit -n 256; exec "$@"', 'sh')


def descriptors(script):
    return len(os.listdir(f'/proc/{script.process.pid}/fd'))


def threads(script):
    return len(os.listdir(f'/proc/{script.process.pid}/task'))


@contextlib.contextmanager
def idle_connections(port, count):
    """Connections that say nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(('127.0.0.1', port), PATIENCE)) for _ in range(count)]


def in_background(function, *arguments):
    """Do something while the test goes on; returns what waits for its result."""
    return ThreadPoolExecutor(1).submit(function, *arguments).result


@needs_proc
@pytest.mark.parametrize('says', [b'', b'GET /auth/callback?code=evil HTTP/1.1\r\n'])
def test_three_hundred_connections_that_ask_for_nothing_do_not_keep_the_redirect_out(run, server, says):
    script = run(enter=FEW_DESCRIPTORS)
    browser = Browser(script.wait_for('sign-in')['url'])
    script.wait_for('opened')
    before = descriptors(script), threads(script)
    with idle_connections(server.announced_port, 300) as idle:
        for sock in idle:
            with contextlib.suppress(OSError):      # it was dropped for those that came later
                sock.sendall(says)
        assert browser.favicon().status == 204
        assert descriptors(script) <= before[0] + 64 + 1 and threads(script) <= before[1] + 64 + 2
        assert browser.sign_in().status == 200
    assert script.wait() == 0 and 'Traceback' not in script.stderr


def test_the_redirect_is_served_again_when_those_that_asked_have_left(run, server):
    # Each has asked, and does not read its answer: nobody can be dropped for another.
    script = run(enter=FEW_DESCRIPTORS)
    browser = Browser(script.wait_for('sign-in')['url'])
    with idle_connections(server.announced_port, 300) as idle:
        for sock in idle:
            with contextlib.suppress(OSError):
                sock.sendall(b'GET /favicon.ico HTTP/1.1\r\nHost: localhost:%d\r\n\r\n' % server.announced_port)
        assert browser.sign_in().status == 200
    assert script.wait() == 0


def say_by_socks(port, target, words):
    """What comes back through a SOCKS 5 proxy."""
    with socket.create_connection(('127.0.0.1', port), PATIENCE) as sock:
        sock.sendall(b'\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01' + target.to_bytes(2, 'big') + words)
        sock.shutdown(socket.SHUT_WR)
        return b''.join(iter(lambda: sock.recv(65536), b''))[12:]


@needs_proc
@pytest.mark.parametrize('mode', ['L', 'D'])
def test_three_hundred_idle_connections_do_not_end_a_tunnel(run, server, echo, mode):
    script = run('-N', f'-{mode}', f'0:127.0.0.1:{echo}' if mode == 'L' else '0', enter=FEW_DESCRIPTORS)
    port, words = script.wait_for('listening', mode='L' if mode == 'L' else 'D')['port'], bytes(range(256)) * 200
    ask = (lambda: say(port, words)) if mode == 'L' else (lambda: say_by_socks(port, echo, words))
    assert ask() == words
    before = descriptors(script), threads(script)
    with idle_connections(port, 300):
        assert eventually(lambda: descriptors(script) >= before[0] + 100)
        waiting = in_background(ask)
        server.cut()            # to connect again takes a descriptor, too
        script.wait_for('reconnected')
        assert descriptors(script) <= before[0] + 128 + 2 and threads(script) <= before[1] + 2 * 128 + 6
    assert waiting(PATIENCE) == words and ask() == words
    script.interrupt()
    assert script.wait() == 130 and 'Traceback' not in script.stderr


@needs_proc
def test_a_server_cannot_open_more_connections_than_this_device_takes(run, server, echo):
    back = free_port()
    script = run('-N', '-R', f'{back}:127.0.0.1:{echo}', enter=FEW_DESCRIPTORS)
    script.wait_for('listening', mode='R')
    words = bytes(range(256)) * 200
    assert say(back, words) == words
    before = descriptors(script), threads(script)
    with idle_connections(back, 300) as idle:
        with selectors.DefaultSelector() as selector:
            for sock in idle:
                selector.register(sock, selectors.EVENT_READ)
            # What is over the limit is closed; the others are held.
            assert eventually(lambda: len(selector.select(0.1)) == 300 - 128, PATIENCE)
        assert descriptors(script) <= before[0] + 128 and threads(script) <= before[1] + 2 * 128 + 2
        assert script.stderr.count('at once') == 1

    def served():
        with contextlib.suppress(ConnectionResetError):     # one too many still
            return say(back, words) == words
    assert eventually(served)
    script.interrupt()
    assert script.wait() == 130 and 'Traceback' not in script.stderr


@pytest.fixture
def door():
    """Opens a Listener whose visitors hear `hi`; with what it told."""
    with contextlib.ExitStack() as stack:
        def open(**how):
            told, board = [], codex_login.Board()
            board.start()
            stack.callback(board.close)

            def greet(sock, *_):
                with sock:
                    sock.sendall(b'hi')
                listener.leave(sock)
            listener = codex_login.Listener(board, greet, 10, lambda event, *_: told.append(event), **how)
            stack.callback(listener.close)
            (_, port), = listener.open('127.0.0.1', 0)
            assert eventually(lambda: listener._ports)
            return listener, port, told
        yield open


def greeting(port):
    with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), PATIENCE) as sock:
        return sock.recv(2)


def first_listening_socket(monkeypatch, make, count=1):
    """Have the first `count` listening sockets made by `make(socket)`; those that come after are as they are."""
    real, left = codex_login._listener, [make] * count
    monkeypatch.setattr(codex_login, '_listener', lambda *where: (left.pop() if left else lambda sock: sock)(real(*where)))


@pytest.mark.parametrize('error', [errno.EAGAIN, errno.ECONNABORTED])
def test_a_listener_that_has_nobody_though_it_says_so_is_dead_and_bound_again(door, monkeypatch, error):
    tries = []

    class Spinning(socket.socket):
        def accept(self):
            tries.append(error)
            raise OSError(error, 'nobody is there')
    first_listening_socket(monkeypatch, lambda sock: Spinning(fileno=sock.detach()))
    _, port, told = door()
    assert eventually(lambda: greeting(port) == b'hi')
    assert len(tries) == 8 and told == []


@pytest.mark.parametrize('error', [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_a_lack_of_descriptors_is_waited_out(door, monkeypatch, error):
    tries = []

    class Lacking(socket.socket):
        def accept(self):
            tries.append(error)
            if len(tries) < 4:
                raise OSError(error, 'not now')
            return super().accept()
    first_listening_socket(monkeypatch, lambda sock: Lacking(fileno=sock.detach()))
    monkeypatch.setattr(codex_login.Listener, 'SHORTAGE', 0.01)
    _, port, told = door()
    assert greeting(port) == b'hi' and len(tries) in (4, 5) and told == []      # the last one may find that there is no other


def test_a_listener_notices_its_death_without_being_woken(door, monkeypatch):
    deaf = [True]

    class Deaf(selectors.DefaultSelector):
        def select(self, timeout=None):
            ready = super().select(0.02)
            return [(key, events) for key, events in ready if not deaf or key.fileobj.type != socket.SOCK_STREAM
                    or key.fileobj.family != socket.AF_INET]
    monkeypatch.setattr(codex_login.selectors, 'DefaultSelector', Deaf)
    listener, port, told = door(tick=0.02)
    held = listener._ports[0]
    first = held.sock
    first.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: held.sock is not first)
    deaf.clear()
    assert greeting(port) == b'hi' and told == []


def test_after_a_wake_up_a_listener_that_takes_no_connection_is_bound_again(door, monkeypatch):
    """iOS may leave one behind that looks alive to its owner, and that nobody reaches."""
    listener, port, told = door()
    held = listener._ports[0]
    first = held.sock
    listener.probe()
    assert greeting(port) == b'hi' and held.sock is first
    monkeypatch.setattr(codex_login, 'answers', lambda sock: sock is not first)
    listener.probe()
    assert eventually(lambda: held.sock is not first) and greeting(port) == b'hi' and told == []


def test_a_tunnel_looks_at_its_port_after_a_wake_up(monkeypatch):
    probed = threading.Event()
    monkeypatch.setattr(codex_login, 'Link', lambda settings, device, tell, jumps: SimpleNamespace(tell=tell))
    tunnels = codex_login.Tunnels(SimpleNamespace(jumps=()), None, None, SimpleNamespace(tell=lambda event, **fields: None))
    tunnels._forwards = SimpleNamespace(revive=probed.set)
    tunnels._link.tell('suspended', seconds=5)
    assert probed.wait(PATIENCE)


def test_a_port_that_cannot_be_had_again_at_once_is_said_once_and_had_again_later(door, monkeypatch):
    real, refused = codex_login._listener, []
    listener, port, told = door()
    monkeypatch.setattr(codex_login.Listener, 'RETRY', 0.01)

    def taken(*where):
        if len(refused) == 5:
            return real(*where)
        refused.append(where)
        raise OSError(errno.EADDRINUSE, 'somebody has it')
    monkeypatch.setattr(codex_login, '_listener', taken)
    listener._ports[0].sock.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: greeting(port) == b'hi') and told == ['lost', 'back']


# --- Other people on the server -----------------------------------------------------------------------------

SHELLS = {'dash': ['dash'], 'bash': ['bash', '--posix'], 'zsh': ['zsh', '--emulate', 'sh'], 'ash': ['busybox', 'ash']}
MARK = '0123456789abcdef'
STARTED, FOUND, GONE = (f'@{MARK} {word} ' for word in ('started', 'found', 'gone'))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason='only root can give a folder to somebody else')


class Account:
    """An account at a server, in which the launcher's texts run in one shell or another."""

    def __init__(self, folder, shell):
        self.shell = shell
        self.home, self.tmp, self.runtime = (folder / name for name in ('home', 'tmp', 'runtime'))
        for place in (self.home, self.tmp, self.runtime):
            place.mkdir(mode=0o700)
        self.kills = folder / 'kills'

    def run(self, *pieces, words='', enter=(), **variables):
        """What the launcher says, record by record; `kill` only takes notes here, but of what follows the log."""
        notes = f'kill() {{ if [ "$*" = "$t" ]; then command kill "$t"; else printf "%s\\n" "$*" >>{self.kills}; fi; return 1; }}'
        text = codex_login.launcher({'N': MARK, 'W': 'sh', 'CODEX': 'no', **variables}, notes, *pieces)
        places = {'HOME': str(self.home), 'TMPDIR': str(self.tmp), 'XDG_RUNTIME_DIR': str(self.runtime)}
        with subprocess.Popen([*enter, *self.shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env={**places, 'PATH': os.environ['PATH']}) as shell:
            shell.stdin.write(text)
            shell.stdin.flush()
            said = shell.stdout.readline()      # a shell reads ahead: no word comes before that
            rest, complaints = shell.communicate(words.encode(), PATIENCE)
        assert not re.search(rb'syntax|not found|bad ', complaints), complaints
        return [line for line in (said + rest + complaints).decode().splitlines() if line.startswith(f'@{MARK} ')]

    def start(self, enter=()):
        """The folder that a program is started in, by the launcher itself."""
        texts = {name: getattr(codex_login, name).replace('MARK', MARK).replace('COMMAND', 'true') for name in ('JOB', 'KEEPER', 'SHIM')}
        word, = self.run(codex_login.FIND_PROGRAM, codex_login.OURS, codex_login.START, enter=enter, T='0' if enter else '60', d='', **texts)
        folder = Path(word.removeprefix(STARTED))
        if not enter:
            keeper = int((folder / 'groups').read_text().split()[1])
            for end in (os.kill, os.killpg):        # it may not have a group of its own yet
                with contextlib.suppress(ProcessLookupError):
                    end(keeper, signal.SIGKILL)
        return folder

    def find(self, folder, words=''):
        """How it is found again, and what it is told then."""
        return self.run(codex_login.FIND_PROGRAM, codex_login.OURS, codex_login.FIND_AGAIN + 'go_on || gone\n', codex_login.ATTEND,
                        words=words, d=str(folder))

    def killed(self):
        """What it would have ended."""
        return self.kills.read_text().splitlines() if self.kills.exists() else []


@pytest.fixture(params=SHELLS)
def shell_account(request, tmp_path):
    if not shutil.which(SHELLS[request.param][0]):
        pytest.skip(f'no {request.param}: apt-get install {SHELLS[request.param][0]}')
    return Account(tmp_path, SHELLS[request.param])


def left_behind(folder, groups='99999999 99999998\n'):
    """A login's folder as the launcher leaves it, whose program has ended."""
    (folder / 'bin').mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (folder / 'job').write_text(codex_login.JOB.replace('MARK', MARK))
    (folder / 'log').write_text(f'a line\n\n@{MARK} exit 0\n')
    (folder / 'groups').write_text(groups)
    (folder / 'attendants').write_text('')
    return folder


def test_a_folder_as_the_launcher_left_it_is_believed(shell_account):
    folder = left_behind(shell_account.tmp / 'codex-login.aaaaaaaaaa')
    said = shell_account.find(folder, 'leave\n')
    assert said[0] == FOUND + str(folder) and f'@{MARK} ended' in said
    assert not folder.exists() and shell_account.killed() == []


def a_link_to_somebodys_folder(folder):
    folder.rename(folder.with_name('theirs'))
    folder.symlink_to(folder.with_name('theirs'))


def open_to_all(folder):
    folder.chmod(0o777)


def readable_by_all(folder):
    folder.chmod(0o755)


def somebody_elses(folder):
    os.chown(folder, 12345, 12345)


def a_file_of_somebody_else(folder):
    os.chown(folder / 'groups', 12345, 12345)


def a_linked_log(folder):
    (folder / 'log').unlink()
    (folder / 'log').symlink_to(folder.parent.parent / 'home' / 'private')


def linked_attendants(folder):
    (folder / 'attendants').unlink()
    (folder / 'attendants').symlink_to(folder.parent.parent / 'home' / 'private')


def hard_linked_attendants(folder):
    (folder / 'attendants').unlink()
    (folder / 'attendants').hardlink_to(folder.parent.parent / 'home' / 'private')


def a_pipe_for_a_log(folder):
    (folder / 'log').unlink()
    os.mkfifo(folder / 'log')


def the_mark_of_another_login(folder):
    (folder / 'job').write_text(codex_login.JOB.replace('MARK', MARK[::-1]))


def no_job(folder):
    (folder / 'job').unlink()


@pytest.mark.parametrize('attack', [
    a_link_to_somebodys_folder, open_to_all, readable_by_all, pytest.param(somebody_elses, marks=as_root),
    pytest.param(a_file_of_somebody_else, marks=as_root), a_linked_log, linked_attendants, hard_linked_attendants, a_pipe_for_a_log,
    the_mark_of_another_login, no_job])
def test_a_folder_that_somebody_else_could_have_made_is_not_the_login(shell_account, attack):
    private = shell_account.home / 'private'
    private.write_text(f'mine\n@{MARK} exit 0\n')
    folder = left_behind(shell_account.tmp / 'codex-login.aaaaaaaaaa')
    attack(folder)
    assert shell_account.find(folder, 'stop\n') == [GONE]
    assert shell_account.killed() == [] and private.read_text() == f'mine\n@{MARK} exit 0\n'
    assert os.path.lexists(folder), 'it is not ours to remove'


@pytest.mark.parametrize('groups', ['-1 -1', '0 0', '1 1', 'text more', '-9 -1', '', '007 -1', '2x 3', '$$ 1', '{pid} {pid}', '* *'])
@pytest.mark.parametrize('list', ['groups', 'attendants'])
def test_no_process_is_ended_for_a_number_in_a_file(shell_account, list, groups):
    # Of the same shell_account, and another program than the login's.
    with subprocess.Popen(['sleep', '60']) as bystander:
        folder = left_behind(shell_account.tmp / 'codex-login.aaaaaaaaaa')
        (folder / list).write_text(groups.format(pid=bystander.pid) + '\n')
        assert shell_account.find(folder, 'stop\n')[0] == FOUND + str(folder)
        assert shell_account.killed() == []
        bystander.kill()


@pytest.mark.parametrize('groups', ['-1 -1', '1 1', '{pid} {pid}'])
def test_a_program_that_is_another_one_now_is_not_taken_for_the_login(shell_account, groups):
    with subprocess.Popen(['sleep', '60']) as bystander:
        folder = left_behind(shell_account.tmp / 'codex-login.aaaaaaaaaa', groups.format(pid=bystander.pid) + '\n')
        (folder / 'log').write_text('a line\n')
        assert shell_account.find(folder, 'stop\n') == [GONE]
        assert shell_account.killed() == [] and not folder.exists()
        bystander.kill()


# -- where it is made

def test_the_folder_is_made_where_nobody_else_can_write(shell_account):
    cache = shell_account.home / '.cache'
    cache.mkdir(mode=0o755)
    assert shell_account.start().parent == shell_account.runtime
    shell_account.runtime.chmod(0o777)        # set by whoever ran su, say
    assert shell_account.start().parent == cache
    cache.chmod(0o775)
    folder = shell_account.start()
    assert folder.parent == shell_account.tmp and folder.stat().st_mode & 0o7777 == 0o700


def test_a_place_with_an_odd_name_is_not_put_into_path_and_browser(shell_account):
    shell_account.runtime = shell_account.home / 'with a space: and more'
    shell_account.runtime.mkdir(mode=0o700)
    folder = shell_account.start()
    assert folder.parent == shell_account.tmp
    shutil.rmtree(folder)               # else the next start would go on with it
    shell_account.runtime = 'relative'
    assert shell_account.start().parent == shell_account.tmp


@as_root
def test_a_place_from_which_nothing_runs_is_passed_over(shell_account):
    mount = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs -o noexec,mode=700 none "$0" && exec "$@"', str(shell_account.runtime)]
    if subprocess.run([*mount, 'true']).returncode:
        pytest.skip('no mounts here')
    assert shell_account.start(enter=mount).parent == shell_account.tmp
    shell_account.tmp = shell_account.runtime
    assert shell_account.start(enter=mount).parent == shell_account.home / '.cache'
    shell_account.home = shell_account.home / 'not there'           # all there is: then $BROWSER has a form of its own
    assert shell_account.start(enter=mount).parent == shell_account.runtime


def test_a_session_that_is_not_told_its_shell_asks_the_one_that_every_system_has(shell_account):
    words, = shell_account.run(codex_login.FIND_PROGRAM, codex_login.LOOK_FOR_LOGIN, W='/nowhere/codex', CODEX='yes', LOOK='yes')
    assert words == f'@{MARK} missing /nowhere/codex nor of its login shell'


def test_what_a_restart_of_the_server_left_is_cleared_up_a_week_later(shell_account):
    old, young, other = (shell_account.runtime / name for name in ('codex-login.oldoldoldo', 'codex-login.youngyoung', 'codex-login'))
    for folder in (old, young, other):
        left_behind(folder)
        os.utime(folder, (0, time.time() - (86400 if folder == young else 9 * 86400)))
    shell_account.start()
    assert not old.exists() and young.exists() and other.exists()


# -- the whole script

def lose(server, script):
    """The app is killed, and the program at the server is, too; its folder stays. The Session that was saved."""
    script.wait_for('opened')
    script.kill()
    embedded.end_marked_processes(server.mark)
    assert not embedded.eventually(lambda: embedded.marked_processes(server.mark))
    folder, = server.tmp.iterdir()
    return folder


def test_a_login_is_not_led_to_the_listener_of_somebody_who_took_its_folders_name(run, server, home):
    first = run()
    folder = lose(server, first)
    theirs, private = folder.with_name('theirs'), server.home / 'authorized_keys'
    private.write_text('mine\n')
    folder.rename(theirs)
    with subprocess.Popen(['sleep', '60']) as bystander:
        (theirs / 'groups').write_text(f'{bystander.pid} {bystander.pid}\n')
        (theirs / 'log').write_text('https://auth.openai.com/oauth/authorize?state=x&redirect_uri=http://localhost:9/auth/callback\n')
        (theirs / 'attendants').unlink()
        (theirs / 'attendants').symlink_to(private)
        folder.symlink_to(theirs)
        second = run()
        sign_in = second.wait_for('sign-in')
        assert sign_in['port'] == server.announced_port
        assert Browser(sign_in['url']).sign_in().status == 200
        assert second.wait() == 0
        assert bystander.poll() is None and private.read_text() == 'mine\n'
        bystander.kill()
    folder.unlink()
    shutil.rmtree(theirs)


def test_a_saved_login_that_names_another_folder_is_no_saved_login(run, server, home):
    script = run()
    lose(server, script)
    shutil.rmtree(next(server.tmp.iterdir()))
    file, = home.folder.glob('.local/state/codex-login/login-*.json')
    saved = json.loads(file.read_text())
    for folder in ('/home/ana', '/tmp/../home/ana/codex-login.aaaaaaaaaa', 'codex-login.aaaaaaaaaa', '/tmp/codex-login.a\nb', '', '/'):
        with pytest.raises(ValueError):
            codex_login.read_session(json.dumps({**saved, 'folder': folder}))
    assert codex_login.read_session(json.dumps(saved)).folder == saved['folder']
    file.unlink()


def test_a_login_in_a_private_place_is_found_again_and_leaves_nothing_there(run, server):
    cache = server.home / '.cache'
    cache.mkdir(mode=0o700)
    first = run()
    url = first.wait_for('sign-in')['url']
    first.wait_for('opened')
    assert [path.name.partition('.')[0] for path in cache.iterdir()] == ['codex-login'] and list(server.tmp.iterdir()) == []
    first.kill()
    second = run()
    assert second.wait_for('sign-in')['url'] == url
    assert Browser(url).sign_in().status == 200
    assert second.wait() == 0
    assert eventually(lambda: list(cache.iterdir()) == [])



# --- Hostile words, endless words ---------------------------------------------------------------------------

HURRIED = '''
import re, sys
sys.path.insert(0, {folder!r})
import codex_login
del sys.path[0]
{limits}
status = codex_login.main()
# Not ru_maxrss: that counts what the test's own process had when it started this one.
most = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]
print('most memory', int(most) // 1024, file=sys.stderr, flush=True)
sys.exit(status)
'''
# Every wait for a server's answer that has no option; here the limits are short, so that a test sees their end.
LIMITS = ('Authentication.LIMIT = 1', 'Link.RUN_LIMIT = 1', 'Program.START_LIMIT = 1', 'Forwards.ANSWER_LIMIT = 1')
MEMORY = 100                # MB that a run may take, whatever it is sent


def hurried(folder, *limits):
    """The script with shorter limits; it says at its end how much memory it has taken at most."""
    path = folder / 'hurried.py'
    path.write_text(HURRIED.format(folder=str(SCRIPT.parent), limits='\n'.join(f'codex_login.{limit}' for limit in limits)))
    return path


@pytest.fixture
def run_hurried(run, tmp_path):
    """Runs of the script with LIMITS."""
    def start(*options, **how):
        return run(*options, script=hurried(tmp_path, *LIMITS), **how)
    return start


def most_memory(script):
    return int(re.search('most memory ([0-9]+)', script.stderr)[1])


def said(script):
    """Everything that a run has said."""
    return script.stdout + script.stderr + script.screen


# What acts on a screen, reorders or hides; a terminal makes \r\n of each line feed.
ACTS = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\r(?!\n)|\u0308{5}')
HOSTILE = '\x1b]0;owned\x07\x1b[2J\x1b[1A\x9b31m\u202eyranib\u2066\x1b]52;c;ZXZpbA==\x07' + '\u0308' * 50 + '\x1b'

EVERY_WORD = {
    'the version line': {'version': f'SSH-2.0-{HOSTILE}'},
    'a version line of another protocol': {'version': f'SSH-1.0{HOSTILE}-x'},
    'the banner': {'banner': f'{HOSTILE}\nSigned in: eve\n{HOSTILE}'},
    'the methods': {'demanded': (f'{HOSTILE}\nSigned in: eve',)},
    'the last words': {'bad_day': 'goodbye at session', 'farewell': f'{HOSTILE}\nSigned in: eve'},
    'the last words before it lets anybody in': {'bad_day': 'goodbye at authentication', 'farewell': f'{HOSTILE}\nSigned in: eve'},
    'a refusal': {'bad_day': 'refused at session', 'refusal': f'{HOSTILE}\nSigned in: eve'},
    'a refused forward': {'bad_day': 'refused at forward', 'refusal': f'{HOSTILE}\nSigned in: eve'},
}


@pytest.mark.parametrize('how', ['at a terminal', 'for a program'])
@pytest.mark.parametrize('where', EVERY_WORD)
def test_no_word_of_a_server_acts_on_a_screen_or_passes_for_the_scripts_own(run_hurried, server, where, how):
    for name, value in EVERY_WORD[where].items():
        setattr(server, name, value)
    terminal = how == 'at a terminal'
    script = run_hurried('-v', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=5', '--timeout', '5', terminal=terminal,
                         json_events=not terminal, command=('true',))
    script.wait()
    assert not ACTS.search(said(script))
    # Nor does one begin a line. (The log shows paramiko's own tracebacks.)
    assert not re.search('^ ?Signed in: eve|^Traceback', said(script), re.MULTILINE)
    for event in script.events:
        assert not any(ACTS.search(value) for value in event.values() if isinstance(value, str))


@pytest.mark.parametrize('stream', ['', ' >&2'])
@pytest.mark.parametrize('terminal', [True, False])
def test_no_line_of_a_program_acts_on_a_screen(run, server, terminal, stream):
    (server.home / 'words').write_text(f'{HOSTILE}\n\x1b[31\n{HOSTILE * 2000}\nfar\x1b[8mhidden\rover\n')
    script = run(terminal=terminal, json_events=not terminal, command=('cat words' + stream,))
    assert script.wait() == 0
    assert not ACTS.search(said(script)) and 'farhiddenover' in said(script)
    assert not any(ACTS.search(event.get('text', '')) for event in script.events)


# --- Waits ---------------------------------------------------------------------------------------------------

UNANSWERED = {
    'silent at version': 'did not finish the SSH handshake within 1 s',
    'endless line at version': 'did not finish the SSH handshake within 1 s',
    'endless lines at version': 'is not an SSH server. It says: xxxx',
    'silent at key exchange': 'did not finish the SSH handshake within 1 s',
    'silent at service': 'did not answer within 1 s whether it lets',
    'unanswered at key': 'did not answer within 1 s whether it lets',
    'unanswered at authentication': 'did not answer within 1 s whether it lets',
    'partial at authentication': 'permission denied',
    'unanswered at session': 'gives no session within 1 s',
    'refused at session': 'gives no session',
    'unanswered at exec': 'did not start the program within 1 s',
    'refused at exec': 'ran no commands for',
    'unanswered at data': 'did not start the program within 1 s',
}


@pytest.mark.parametrize('day', UNANSWERED)
def test_what_a_server_does_not_answer_ends_with_a_clear_line(run_hurried, server, day):
    server.bad_day = day
    script = run_hurried('-o', 'ConnectTimeout=1', '-o', 'BatchMode=yes')
    assert UNANSWERED[day] in failure(script)['message']
    assert server.count[day]


@pytest.mark.parametrize('day', ['unanswered at key', 'unanswered at exec', 'unanswered at session'])
def test_what_a_server_does_not_answer_ends_with_pythonistas_old_paramiko_too(pythonista, server, day):
    pythonista.know(server)
    server.bad_day = day
    script = pythonista.start('home', script=hurried(pythonista.folder, *LIMITS))
    assert script.wait() == 255
    assert UNANSWERED[day] in said(script)


@pytest.mark.parametrize('day', ['silent at session', 'silent at exec', 'reset at exec', 'ends at session'])
def test_a_server_that_falls_silent_or_leaves_each_time_is_tried_again_until_the_time_is_over(run_hurried, server, day):
    server.bad_day = day
    script = run_hurried('--timeout', '3', '-o', 'ConnectTimeout=2')
    error = failure(script, status=124)
    assert re.match('The connection to 127.0.0.1 is lost|127.0.0.1 did not start the program', error['message'])
    assert 'tried again for 3 s' in error['message'] and error['hint']
    assert server.count[day]


def test_a_tunnel_that_a_server_never_confirms_does_not_keep_a_login_waiting(run_hurried, server):
    server.bad_day = 'unanswered at listening'
    script = run_hurried('-R', '0:127.0.0.1:9')
    Browser(script.wait_for('sign-in')['url']).sign_in()
    assert script.wait() == 0
    assert 'does not listen' in script.stderr


def test_a_tunnel_that_a_server_never_confirms_ends_the_run_that_wants_it(run_hurried, server):
    server.bad_day = 'unanswered at listening'
    script = run_hurried('-N', '-o', 'ExitOnForwardFailure=yes', '-R', '0:127.0.0.1:9')
    assert 'does not listen' in failure(script, kind='listen')['message']


def test_a_server_that_takes_proof_after_proof_gets_no_more_than_a_few(run_hurried, server, home):
    asks(server, home, 'Code:')
    server.bad_day = 'partial at answers'
    script = run_hurried(json_events=False, terminal=True)
    for _ in range(3):
        script.answer('Code:', '42')
    assert script.wait() == 255
    assert 'permission denied' in script.screen and server.count['partial at answers'] == 3


def test_an_endless_question_is_cut_and_still_says_whose_it_is(run_hurried, server, home):
    asks(server, home, 'x' * 100_000, instruction='a line that fills the screen\n' * 3_000)
    script = run_hurried(json_events=False, terminal=True, command=('true',))
    script.answer(re.escape(f'({account(server)}) xxx'), '42')
    assert script.wait() == 0 and len(script.screen) < 20_000


# --- Floods --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('day', ['endless line at exec', 'endless lines at exec', 'endless stderr at exec',
                                 'unasked lines at exec', 'unasked stderr at exec'])
def test_a_flood_from_a_server_takes_no_memory(run_hurried, server, day):
    server.bad_day = day
    script = run_hurried('--timeout', '3')
    script.wait_for('error')
    assert script.wait() in (255, 124)
    assert server.count[day] and most_memory(script) < MEMORY


FLOOD = 300 << 20


def test_a_packet_of_two_gigabytes_is_not_waited_for(run_hurried, home):
    taken = []

    def speak(sock):
        with contextlib.suppress(OSError):
            sock.sendall(b'SSH-2.0-hostile\r\n' + (0x7ffffffc).to_bytes(4, 'big'))
            for _ in range(FLOOD >> 20):
                taken.append(sock.send(bytes(1 << 20)))
    with speaking(speak) as port:
        script = run_hurried('-p', port, to='ana@127.0.0.1')
        assert 'announces a packet of 2147483' in failure(script, kind='connection')['message']
    assert most_memory(script) < MEMORY and sum(taken) < FLOOD


@contextlib.contextmanager
def speaking(speak):
    """The port of a server that does `speak(socket)` with who connects first."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        def serve():
            with contextlib.suppress(OSError), listener.accept()[0] as sock:
                speak(sock)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_program_that_prints_more_than_anybody_reads_waits_for_its_reader(run, server, home, tmp_path):
    """The reader of the events stands still until the program at the server is done, which outlives all connections."""
    size, line = 200 << 20, 16000
    command = f'head -c {size} /dev/zero | tr "\\0" x | fold -w {line}; echo done >"$HOME/printed"'
    process = subprocess.Popen(
        [sys.executable, str(hurried(tmp_path)), '--json', f'{server.user}@127.0.0.1:{server.port}', command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**home.environment(), embedded.MARK: server.mark})
    assert eventually((server.home / 'printed').exists, 60)
    seen = 0
    for words in process.stdout:
        seen += b'"output"' in words
    assert seen == -(-size // line)
    memory = re.search(rb'most memory ([0-9]+)', process.stderr.read())
    assert process.wait(PATIENCE) == 0 and int(memory[1]) < MEMORY


# An account whose shell says what a hostile server wants to say of the launcher, whose mark it knows.
FALSE_SHELL = r'''#!/bin/sh
while read -r line; do case $line in N=*) eval "$line"; break;; esac; done
say() {{ printf '\n@%s %s\n' "$N" "$*"; }}
{words}
while read -r word; do say ended; done
'''


# It is an attendant: the program's output on one stream, records on the other.
ATTENDS = r'''
say() { printf '\n@%s %s\n' "$N" "$*" >&2; }
say started /nowhere
printf '@%s begin\n' "$N"
say begin 1
'''


def false_shell(server, words):
    path = server.bin / 'false-shell'
    path.write_text(FALSE_SHELL.format(words=words))
    path.chmod(0o755)
    server.shell = str(path)


@pytest.mark.parametrize('status', ['foo', '²', '9' * 5000, '', '-1', '1' * 4, '0x1', '1 2 3', '٣', '\x1b[31m'])
def test_an_exit_status_that_is_none_is_a_failure_and_no_more(run, server, status):
    false_shell(server, f"{ATTENDS}say exit '{status}'")
    script = run(command=('true',))
    assert script.wait() == 255
    assert 'Traceback' not in said(script)


@pytest.mark.parametrize('record', ['status 0 evil', 'present', 'evil \x1b[31m', 'browser javascript:alert(1)', 'gone x', 'exit 0', ''])
def test_endless_records_take_no_memory_and_open_nothing(run_hurried, server, home, record):
    flood = f"yes \"\n@$N {record} {'x' * 2000}\" | head -c {24 << 20}"
    false_shell(server, f'{ATTENDS}{flood} >&2\nsay exit 3')
    script = run_hurried(command=('true',))
    assert script.wait() in (3, 255)
    assert 'Traceback' not in said(script) and most_memory(script) < MEMORY
    assert home.opened == []


# --- Files here -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('leftover', ['readable by all', 'a link'])
def test_a_file_left_over_gives_a_private_one_neither_its_mode_nor_its_place(tmp_path, leftover):
    path, elsewhere = tmp_path / 'config', tmp_path / 'elsewhere'
    elsewhere.write_text('of somebody')
    if leftover == 'a link':
        (tmp_path / 'config.new').symlink_to(elsewhere)
    else:
        (tmp_path / 'config.new').write_text('old')
        (tmp_path / 'config.new').chmod(0o666)
    codex_login.write_private(str(path), 'secret\n')
    assert path.read_text() == 'secret\n' and stat.S_IMODE(path.stat().st_mode) == 0o600 and not path.is_symlink()
    assert elsewhere.read_text() == 'of somebody'


def test_a_private_file_that_cannot_be_finished_leaves_the_old_one_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / 'config'
    path.write_text('old')

    def full(descriptor):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(codex_login.os, 'fsync', full)
    with pytest.raises(OSError):
        codex_login.write_private(str(path), 'new')
    assert path.read_text() == 'old' and [entry.name for entry in tmp_path.iterdir()] == ['config']


# --- Secrets, wherever they might be found ----------------------------------------------------------------------

PASSPHRASE, ONE_TIME_CODE = 'the-passphrase-4711', 'one-time-0815'


class Secrets:
    """What nobody may find: by its name, and where it was found all the same."""

    def __init__(self, home, server, script, **secret):
        self.home, self.server, self.script, self.secret = home, server, script, secret
        self.address = ''           # which is shown, copied, opened, and in the program's own words
        self.found = set()

    def look(self):
        """Look at all files here and at the server, and at the processes of both."""
        shown = [self.home.folder / name for name in ('browser-notes', 'clipboard-notes')]
        for folder in (self.home.folder, self.server.tmp):
            # os.walk, since a folder may be cleared up while it is looked through.
            found = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
            for path in [path for path in found if path.is_file() and path not in shown]:
                with contextlib.suppress(OSError):
                    self.note(path.name, path.read_text(errors='replace'))
                    if path.stat().st_mode & 0o077 and path.parent.stat().st_mode & 0o077:
                        self.found.add(f'{path.name}: readable by others')
        for mark in (self.script.mark, self.server.mark):
            for pid in embedded.marked_processes(mark):
                for name in ('cmdline', 'environ'):
                    with contextlib.suppress(OSError):
                        self.note(name, Path(f'/proc/{pid}/{name}').read_text(errors='replace'))

    def note(self, place, text):
        text = text.replace(self.address, '') if self.address else text
        self.found |= {f'{place}: {name}' for name, secret in self.secret.items() if secret and secret in text}


def tokens(server):
    with contextlib.suppress(OSError, ValueError):
        return json.loads(auth_file(server).read_text())['tokens']
    return {}


@pytest.mark.parametrize('how', ['', '-v', '--json', '--json -v', '-q'])
def test_no_secret_of_a_login_is_said_logged_kept_or_on_a_command_line(run, server, home, how):
    terminal = '--json' not in how
    if terminal:
        forget_keys(home)
        home.make_key(server, passphrase=PASSPHRASE)
        server.demanded, server.questions = ('publickey', 'password', 'keyboard-interactive'), (('Code:', ONE_TIME_CODE),)
    script = run(*how.replace('--json', '').split(), terminal=terminal, json_events=not terminal, environment=home.own_clipboard())
    if terminal:
        for prompt, answer in (('Passphrase', PASSPHRASE), ('password:', server.password), ('Code:', ONE_TIME_CODE)):
            script.answer(prompt, answer)
        address = script.wait_for_text(r'^(https://\S+)\r?$')[1]
    else:
        address = script.wait_for('sign-in')['url']
    browser = Browser(address)
    redirect = browser.redirect()
    secrets = Secrets(home, server, script, passphrase=PASSPHRASE, password=server.password, answer=ONE_TIME_CODE,
                      code=urllib.parse.parse_qs(urllib.parse.urlsplit(redirect).query)['code'][0], state=browser.state)
    secrets.address = address
    secrets.look()
    page = browser.in_background(browser.follow, redirect)
    while script.process.poll() is None:
        secrets.look()
    assert page().status == 200 and script.wait() == 0
    secrets.look()
    secrets.secret.update(tokens(server))
    assert len(secrets.secret) == 8
    secrets.note('output', said(script))
    assert secrets.found == set()


def test_the_errors_of_a_login_have_no_secret_in_them(run, server, home):
    script = run('-v')
    browser = Browser(script.wait_for('sign-in')['url'])
    assert browser.sign_in(state='of-another').status == 400
    browser.sign_in(code='bad-secret-code')
    failure(script, status=1)
    assert 'Token exchange failed' in said(script)
    secrets = Secrets(home, server, script, code='bad-secret-code', other='of-another', state=browser.state)
    secrets.address = browser.address
    secrets.look()
    secrets.note('output', said(script))
    assert secrets.found == set()


@pytest.mark.parametrize('query', ['code=secret-code&state=secret-state', 'error=x&state=secret-state', 'code=secret-code'])
def test_a_redirect_that_nobody_waits_for_is_refused_without_repeating_it(run, home, codexs_port, query):
    script = run('-v', '--finish', f'http://localhost:1455/auth/callback?{query}', to='', command=())
    error = failure(script, kind='refused')
    assert 'Nothing waits at port 1455' in error['message'] and 'secret' not in said(script)


@pytest.mark.parametrize('which', ['Passphrase', 'password:'])
def test_a_wrong_secret_is_not_repeated_in_what_is_said(run, server, home, which):
    forget_keys(home)
    if which == 'Passphrase':
        home.make_key(server, passphrase=PASSPHRASE)
        server.password = None
    script = run('-v', terminal=True, json_events=False)
    for number in range(3):
        script.answer(which, f'wrong-secret-{number}')
    assert script.wait() == 255
    assert 'wrong-secret' not in said(script)


def test_two_connections_of_one_start_begin_one_program(shell_account):
    """The first was lost while it began: the second one waits for it, and goes on with it."""
    pieces = (codex_login.FIND_PROGRAM, codex_login.OURS, codex_login.FIND_AGAIN, codex_login.START)
    texts = {name: getattr(codex_login, name).replace('MARK', MARK).replace('COMMAND', 'sleep 9') for name in ('JOB', 'KEEPER', 'SHIM')}
    said = []
    both = [threading.Thread(target=lambda: said.append(shell_account.run(*pieces, T='60', d='', **texts))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert said[0] == said[1] and said[0][0].startswith(STARTED)
    folder = Path(said[0][0].removeprefix(STARTED))
    assert [path for place in (shell_account.tmp, shell_account.runtime, shell_account.home) for path in place.rglob('job')] == [folder / 'job']
    for group in (folder / 'groups').read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(group), signal.SIGKILL)
