"""Attacks that were tried on the script, each by name: a stranger's link, a false server, a page, other people at the server.

The server here is the embedded one; what it says and does is what a hostile one would.
"""

import re
import shutil
import stat
import subprocess
import urllib.parse

import embedded
import pytest
from harness import PATIENCE, Browser
from test_login import codex_login, failure, forget_keys
from test_phones import NO, YES, pairing_with, pythonista  # noqa: F401 (a fixture is used by its name)

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
    'the end of a waiting login': (['--fresh', 'home'], ['{account}', '--fresh']),
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
        pythonista.phone.run_as_shortcut()
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
    pythonista.phone.run_as_shortcut()
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
def test_a_pairing_link_is_asked_about_once_and_by_nobody_in_a_shortcut(linked, pythonista, server):
    words = pairing_with(pythonista, server)
    before = (pythonista.ssh / 'config').read_text()
    pythonista.phone.run_as_shortcut()
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


def test_the_pairing_of_another_server_is_not_touched(run, server, home):
    home.known_hosts.write_text('')
    paired(home, server)
    paired(home, server, name='other', host='192.0.2.1', fingerprints=())
    server.seed = 2
    assert 'pairing link' in failure(run(to='work', command=('true',)), kind='host-key')['message']


# --- What comes back ----------------------------------------------------------------------------------------


# --- Other people on the server -----------------------------------------------------------------------------


# --- Hostile words, endless words ---------------------------------------------------------------------------
