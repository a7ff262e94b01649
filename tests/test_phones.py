"""The script on the phones' Pythons, with a person in front of the phone: dialogs, terminal, Shortcuts.

Each phone is a stand-in (see standins.py); the server is the embedded one. test_real_phones.py has a real
sshd and the real codex.
"""

import contextlib
import functools
import json
import os
import re
import shlex
import select
import shutil
import socket
import stat
import subprocess
import sys
from urllib.parse import unquote

import apps
import pytest
import standins
from conftest import PASSED
from embedded import eventually, fingerprint, host_key
from harness import PATIENCE, ROOT, Browser, Home, Script
from relay import Relay
from standins import CANCEL
from waiting import until

APPS = {
    'a-Shell': standins.a_shell,
    'Pythonista': standins.pythonista,
    'Pythonista beta': functools.partial(standins.pythonista, '3.13'),
}
# The app lives on: every story happens in a process that has just been started, and again in one that has lived it.
AGAIN = ' once more'
NEWLY_OPENED = pytest.mark.parametrize('phone', ['a-Shell', 'Pythonista', 'Pythonista beta'], indirect=True)
"""For what an app that lives on does not do again: it has loaded its libraries."""
PYTHONISTAS = ['Pythonista', 'Pythonista' + AGAIN, 'Pythonista beta',
               pytest.param('Pythonista beta' + AGAIN, marks=pytest.mark.slow)]
ASHELL_APP = standins.HERE / 'standins' / 'ashell' / '_app.py'
SCRIPT = ROOT / 'scripts' / 'codex_login.py'
SHARE_EXTENSION = ROOT / 'share_extension' / 'finish_login.py'
PAIR_PHONE = ROOT / 'scripts' / 'pair_phone.py'
PASSWORD = 'open sesame'
EXTENSION_MEMORY = 120e6
SCREEN = 40
NOTICED = 5.0       # seconds asleep that the script must take for a freeze

YES, NO = 1, 2      # the buttons of an alert
QUESTIONS = ('console.alert', 'console.input_alert', 'console.password_alert', 'dialogs.list_dialog',
             'dialogs.form_dialog')



def stand_in(make):
    """The stand-in that `make` makes; the test is skipped where this machine lacks a part of it."""
    try:
        return make()
    except standins.Missing as missing:
        pytest.skip(str(missing))


class Handset:
    """A phone with one of the apps, and the script in the app's folder: all that it has at first."""

    def __init__(self, folder, stand_in, app=None):
        self.stand_in = stand_in
        self.app = app              # Pythonista's process, which lives on
        self.is_terminal = stand_in.name == 'a-Shell'
        self.phone = standins.Phone(folder / 'phone')
        self.phone.prepare()
        self.folder = self.phone.home / 'Documents'
        self.ssh = self.folder / '.ssh'
        self.tmp = folder / 'phone-tmp'
        self.desk = folder / 'desk'
        self.tmp.mkdir()
        shutil.copy(SCRIPT, self.folder)
        self.opener = 'open' if self.is_terminal else 'openURL'
        # a-Shell's commands begin elsewhere where a link or a Shortcut starts them
        self.group = folder / 'group'
        self.group.mkdir()
        self.scripts = []
        self.variables = {}
        self.enter = ()     # a command prefix that leads to where the phone is

    # What it has

    def trust(self, known_hosts):
        self.ssh.mkdir(exist_ok=True)
        (self.ssh / 'known_hosts').write_text(known_hosts)

    def take_key(self, file, name='id_ed25519'):
        self.ssh.mkdir(exist_ok=True)
        shutil.copy(file, self.ssh / name)
        (self.ssh / name).chmod(0o600)

    def configure(self, *names, server):
        """Have servers of these names in the ssh configuration, each of them the embedded one."""
        self.ssh.mkdir(exist_ok=True)
        entry = 'Host {}\n    HostName {}\n    Port {}\n    User {}\n'
        (self.ssh / 'config').write_text('\n'.join(
            entry.format(name, server.address, server.port, server.user) for name in names))

    def know(self, server):
        """Have the server under the name `home`, its host keys, and a key that opens it."""
        self.configure('home', server=server)
        self.trust(server.known_hosts())
        self.take_key(Home(self.desk).make_key(server))
        return self

    # What is done with it

    def environment(self):
        return {**self.stand_in.environment(self.phone.home), 'TMPDIR': str(self.tmp), 'SHORTCUTS': str(self.group),
                **self.variables}

    def start(self, *words, script='codex_login.py', **how):
        """Start the script with these arguments; in a-Shell a person sits at the terminal."""
        self.opened_before = len(self.phone.called(self.opener))
        start = self._start_command if self.is_terminal else self._start_in_app
        self.scripts.append(start(self.folder / script, words, **how))
        return self.scripts[-1]

    def _start_command(self, script, words, json_events=False, enter=(), python=None, terminal=True):
        """Run a script as `python SCRIPT` does there, or with `python` something else, as it is."""
        if python:
            return Script(self, *words, json_events=False, terminal=terminal, python=python, script=script)
        return Script(self, *words, json_events=json_events, terminal=True, python=ASHELL_APP, script=script,
                      cwd=self.group, enter=(*self.enter, *enter, self.stand_in.python))

    def _start_in_app(self, script, words, json_events=False):
        if self.shares or not (self.app and self.app.alive):
            if self.app:
                self.app.close()
            self.app = apps.App(self.stand_in, self.enter)      # the share extension is a process of its own
        return self.app.run(self, script, *(['--json'] if json_events else []), *words, cwd=script.parent,
                            environment=self.environment())

    def sign_in_page(self, script):
        """The address that Safari was sent to by the script started last, once it was."""
        eventually(lambda: script.process.poll() is None and len(self.phone.called(self.opener)) == self.opened_before)
        assert len(self.phone.called(self.opener)) > self.opened_before, script.report()
        return self.phone.called(self.opener)[-1]['args'][0]

    def sign_in(self, *words, **how):
        """Run the script with these arguments, and sign in on the page that it opens."""
        script = self.start(*words, **how)
        assert Browser(self.sign_in_page(script)).sign_in().status == 200
        assert script.wait() == 0, script.report()
        return script

    @property
    def shares(self):
        """Whether the script runs in the share sheet's extension."""
        return (self.phone.folder / 'share.json').exists()

    def run_as_shortcut(self):
        """Have a Shortcut run the script in its extension, where nothing can be shown or opened: the person takes the
        address from the clipboard."""
        self.phone.set('shortcut')
        self.opener = 'clipboard.set'

    # What was seen

    @property
    def asked(self):
        """The questions asked so far, by the functions that asked them."""
        return [call['call'] for call in self.phone.calls if call['call'] in QUESTIONS]

    def texts(self):
        """Everything that was to be read on this phone."""
        for script in self.scripts:
            yield from (stream for stream in (script.screen, script.stdout, script.stderr)
                        if not stream.startswith('{"event"'))
        for call in self.phone.calls:
            if call['call'] in (*QUESTIONS, 'console.hud_alert', 'notification.schedule'):
                yield from _strings(call['args'])

    def leftovers(self):
        """What runs that have ended left on the phone."""
        left = [line for script in self.scripts for line in script.leftovers()]
        left += [f'file {path}' for path in (*self.tmp.iterdir(), *self.folder.glob('.codex-login/login-*'),
                                             *self.folder.rglob('*.new'))]
        left += [f'outside Documents: {path}' for path in self.phone.strays()]
        if not self.shares:     # the share extension has no hand in what the app asked of the phone
            left += [f'notification: {note}' for note in
                     self.phone.planned_notifications + self.phone.shown_notifications]
        awake = not self.shares and self.phone.called('console.set_idle_timer_disabled')
        return left + ['the screen stays awake'] * bool(awake and awake[-1]['args'][0])

    def close(self):
        for script in self.scripts:
            script.close()
        if self.app:
            self.app.close()

    def report(self):
        calls = '\n'.join(f'{call["call"]}{tuple(call["args"])}' for call in self.phone.calls)
        log = self.app.log if self.app else ''
        return '\n'.join([*(script.report() for script in self.scripts), '--- the phone ---', calls, log,
                          *self.phone.violations])


def _strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def unfit(text):
    """What of a text a screen of 40 columns breaks in the middle; addresses, fingerprints and paths aside.

    An address of more than a line stands alone, so that it can be tapped and copied whole."""
    for line in text.splitlines():
        words = line.split() if not line.startswith(('paramiko.', '{"event"', '@@@')) else ()     # the log of -v, events, ssh's own
        for word in words:
            if len(word) <= SCREEN:
                continue
            if 'http://' in word or 'https://' in word:
                if words != [word]:
                    yield line
            elif '/' not in word and not word.startswith('SHA256:'):
                yield line


KEPT = {}       # the app of the story before, by its name


@contextlib.contextmanager
def handset_of(request, folder, stand_in, again=False):
    """A Handset for a test. One that passed left nothing on it, did nothing that the app would not have survived, and
    showed nothing that does not fit."""
    handset = Handset(folder, stand_in, KEPT.pop(stand_in.name, None) if again else None)
    try:
        yield handset
        if not request.node.stash.get(PASSED, False):
            print(handset.report())
            return
        # A killed one leaves its login on purpose; whoever ran last must have cleared that up, too.
        if all(script.process.poll() is not None and script.process.returncode >= 0
               for script in handset.scripts[-1:]):
            assert handset.leftovers() == []
        assert handset.phone.called('unexpected question') == [] and handset.phone.unanswered == []
        assert handset.phone.violations == []
        assert [line for text in handset.texts() for line in unfit(text)] == []
        assert not any('Traceback' in text for text in handset.texts())
        if handset.app and handset.app.alive and not handset.enter and not handset.shares:
            KEPT[stand_in.name], handset.app = handset.app, KEPT.pop(stand_in.name, None)
    finally:
        handset.close()


def handset_for(request, folder):
    app = request.param.removesuffix(AGAIN)
    return handset_of(request, folder, stand_in(APPS[app]), again=request.param != app)


@pytest.fixture(scope='session', autouse=True)
def apps_end():
    yield
    for app in KEPT.values():
        app.close()


@pytest.fixture(params=['a-Shell', *PYTHONISTAS])
def phone(request, tmp_path):
    """A phone with each of the apps."""
    with handset_for(request, tmp_path) as handset:
        yield handset


@pytest.fixture(params=PYTHONISTAS)
def pythonista(request, tmp_path):
    with handset_for(request, tmp_path) as handset:
        yield handset


@pytest.fixture
def ashell(request, tmp_path):
    with handset_of(request, tmp_path, stand_in(standins.a_shell)) as handset:
        yield handset


def new_server(server, **other):
    """What a person types into the form for a new server."""
    return {'host': server.address, 'user': server.user, 'port': str(server.port), 'name': 'home', **other}


def fingerprints(server):
    return {fingerprint(key) for key in server.keys()}


# --- Every phone --------------------------------------------------------------------------------------------

def test_a_login_goes_to_safari_and_comes_back(phone, server):
    phone.know(server)
    script = phone.start('home')
    address = phone.sign_in_page(script)
    assert phone.phone.clipboard == address
    page = Browser(address).sign_in()
    assert page.status == 200 and 'Signed in to Codex' in page.text
    assert script.wait() == 0
    assert phone.asked == []


def test_a_frozen_app_wakes_up_without_its_connection_and_the_login_succeeds(phone, server):
    phone.know(server)
    script = phone.start('home')
    browser = Browser(phone.sign_in_page(script))
    script.stop()
    server.cut()
    page = browser.in_background(browser.sign_in)
    script.resume()
    assert page().status == 200 and script.wait() == 0


def test_a_killed_app_finds_its_login_again(phone, server):
    phone.know(server)
    first = phone.start('home')
    address = phone.sign_in_page(first)
    first.kill()
    again = phone.start('home')
    wait_until(lambda: len(phone.phone.called('clipboard.set') + phone.phone.called('pbcopy')) == 2)
    assert phone.phone.clipboard == address
    assert Browser(address).sign_in().status == 200 and again.wait() == 0


def test_finish_takes_the_failed_address_from_the_clipboard(phone, server):
    phone.know(server)
    first = phone.start('home')
    redirect = Browser(phone.sign_in_page(first)).redirect()
    first.kill()
    phone.phone.clipboard = redirect
    assert phone.start('--finish').wait() == 0


@pytest.mark.parametrize('clipboard', [
    '', 'a shopping list', 'https://auth.openai.com/oauth/authorize?client_id=app_of_somebody_else&prompt=login',
    'http://localhost:1455/auth/callback?code=of_a_login_that_is_long_over&state=of_that_login_as_well'],
    ids=['nothing', 'a-text', 'the-sign-in-page', 'an-old-redirect'])
def test_finish_refuses_whatever_else_is_on_the_clipboard(clipboard, phone, server):
    phone.know(server)
    phone.phone.clipboard = clipboard
    assert phone.start('--finish').wait() == 255
    assert server.connections == 0


def test_a_new_key_asks_for_the_password_once_and_disturbs_no_other_key(phone, server):
    phone.configure('home', server=server)
    phone.trust(server.known_hosts())
    keys = server.home / '.ssh' / 'authorized_keys'
    keys.parent.mkdir(mode=0o755)
    others = '# mine\nssh-rsa AAAAB3other someone\nfrom="10.0.0.0/8" ssh-ed25519 AAAAC3last no end of line'
    keys.write_text(others)
    keys.chmod(0o644)

    def make_key(asked):
        if asked and not phone.is_terminal:
            phone.phone.will_answer(('console.alert', YES), ('console.password_alert', PASSWORD))
        script = phone.start('--new-key', 'home')
        if asked and phone.is_terminal:
            script.answer('password:', PASSWORD)
        assert script.wait() == 0, script.report()
        return script

    make_key(asked=True)
    first, last = keys.read_text()[:len(others)], keys.read_text()[len(others):]
    assert first == others and re.fullmatch(r'\n(ssh-ed25519|ecdsa-sha2-nistp256) \S+ \S+\n', last)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600 and not keys.parent.stat().st_mode & 0o022
    assert server.count['password'] == 1
    private = phone.ssh / 'id_codex_login'
    assert stat.S_IMODE(private.stat().st_mode) == 0o600

    before = keys.read_text()
    again = make_key(asked=False)
    assert keys.read_text() == before and server.count['password'] == 1
    assert 'password:' not in again.screen

    phone.sign_in('home')
    assert server.count['password'] == 1


def test_a_new_key_that_does_not_open_the_door_is_not_called_done(phone, server):
    phone.configure('home', server=server)
    phone.trust(server.known_hosts())
    server.authorized_keys = set
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', YES), ('console.password_alert', PASSWORD))
    script = phone.start('--new-key', 'home')
    if phone.is_terminal:
        script.answer('password:', PASSWORD)
    assert script.wait() == 255
    assert 'accepts the key' not in script.screen + script.stdout


def pairing_words(handset, known_hosts, host, port, user):
    """The words that the app runs the script with when the QR code of pair_phone.py was scanned."""
    made = subprocess.run(
        [sys.executable, PAIR_PHONE, '--keys', '-', '--host', host, '--port', str(port), '--user', user,
         '--name', 'home'], input=known_hosts, capture_output=True, text=True, check=True)
    scheme = 'ashell:' if handset.is_terminal else 'pythonista3:'
    link = next(line for line in made.stdout.splitlines() if line.startswith(scheme))
    if handset.is_terminal:
        name, *words = shlex.split(unquote(link.partition(':')[2]))
        assert name == 'codex_login'
        return words
    return [unquote(part.removeprefix('argv=')) for part in link.partition('?')[2].split('&')
            if part.startswith('argv=')]


def pairing_with(handset, server):
    return pairing_words(handset, server.known_hosts(), server.address, server.port, server.user)


def start_pairing(handset, words, *, password=None):
    """Start the script with a pairing link; the person says yes, and gives the password if there is one."""
    if not handset.is_terminal:
        answers = [('console.alert', YES), ('console.password_alert', password)]
        handset.phone.will_answer(*answers[:2 if password else 1])
    script = handset.start(*words)
    if handset.is_terminal:
        script.answer('yes/no', 'yes')
        if password:
            script.answer('password:', password)
    return script


def test_from_a_pairing_link_to_signed_in_only_the_servers_password_is_asked(phone, server):
    script = start_pairing(phone, pairing_with(phone, server), password=PASSWORD)
    assert Browser(phone.sign_in_page(script)).sign_in().status == 200
    assert script.wait() == 0
    assert script.screen.count('yes/no') <= 1 and script.screen.count('password:') <= 1
    assert server.count['password'] == 1
    known = (phone.ssh / 'known_hosts').read_text().split()
    assert any(key.get_base64() in known for key in server.keys())
    assert 'Host home' in (phone.ssh / 'config').read_text()


def test_a_server_that_is_not_the_one_of_its_pairing_link_is_refused_unasked(phone, server):
    words = pairing_with(phone, server)
    server.seed = 2
    script = start_pairing(phone, words)
    assert script.wait() == 255
    assert script.screen.count('yes/no') <= 1 and server.count['password'] == 0
    assert not (phone.ssh / 'known_hosts').exists()


def test_a_pairing_link_that_gets_no_yes_adds_nothing(phone, server):
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', NO))
    script = phone.start(*pairing_with(phone, server))
    if phone.is_terminal:
        script.answer(r'yes/no', 'no')
    assert script.wait() == 130
    assert not phone.ssh.exists() and server.connections == 0


def test_a_device_code_is_copied_and_its_page_opened(phone, server):
    phone.know(server)
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', YES))
    script = phone.start('--device-auth', 'home')
    assert phone.sign_in_page(script) == 'https://auth.openai.com/codex/device'
    assert re.fullmatch('[0-9A-F]{4}-[0-9A-F]{5}', phone.phone.clipboard)
    assert script.wait() == 0


@pytest.mark.parametrize('address', [
    'http://issuer.example/oauth/authorize?redirect_uri=http%3A%2F%2Flocalhost%3A{port}%2Fcallback&state={state}',
    'https://issuer.example/oauth/authorize?redirect_uri=https%3A%2F%2Felsewhere.example%2Fcallback%2Fof%2Fmine'],
    ids=['not-https', 'redirect-elsewhere'])
def test_an_address_that_is_not_safe_is_not_opened(address, phone, server):
    phone.know(server)
    server.environment['STAND_IN_ADDRESS'] = address
    assert phone.start('home').wait() == 255
    assert phone.phone.called(phone.opener) == [] and phone.phone.clipboard == ''


@pytest.mark.parametrize('version', standins.PARAMIKOS)
def test_every_paramiko_of_today_signs_in(version, run):
    """On this very Python; forwards are tested elsewhere."""
    script = run(python=stand_in(functools.partial(standins.desktop, version)).python)
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
    script.wait_for('signed-in')
    assert script.wait() == 0


# --- Pythonista: the run button and its dialogs -------------------------------------------------------------

def test_the_first_run_asks_only_what_it_cannot_know(pythonista, server):
    pythonista.phone.will_answer(
        ('dialogs.list_dialog', 'New server…'), ('dialogs.form_dialog', new_server(server)),
        ('console.alert', YES), ('console.password_alert', PASSWORD))
    script = pythonista.sign_in()
    assert pythonista.asked == ['dialogs.list_dialog', 'dialogs.form_dialog', 'console.alert',
                                'console.password_alert']
    question = ' '.join(_strings(pythonista.phone.called('console.alert')[0]['args']))
    assert set(re.findall(r'SHA256:[\w+/]+', question)) <= fingerprints(server) and 'SHA256:' in question
    assert pythonista.phone.keychain == {f'codex_login {account(server)}': PASSWORD}
    assert 'Signed in' in pythonista.phone.called('console.hud_alert')[-1]['args'][0]
    assert PASSWORD not in script.stdout + script.stderr
    private = [path for path in pythonista.folder.rglob('*')
               if path.is_file() and path.suffix != '.py' and PASSWORD in path.read_text()]
    assert private == []

    (server.home / '.codex' / 'auth.json').unlink()
    pythonista.phone.will_answer(('dialogs.list_dialog', 'home'))
    pythonista.sign_in()
    assert server.count['password'] == 2 and pythonista.phone.unanswered == []


def account(server):
    """The server as the keychain knows it."""
    return f'{server.user}@[{server.address}]:{server.port}'


def test_the_menu_has_the_last_server_first(pythonista, server):
    pythonista.know(server)
    pythonista.configure('alpha', 'beta', 'gamma', server=server)
    for _ in range(2):
        pythonista.phone.will_answer(('dialogs.list_dialog', 'beta'))
        pythonista.sign_in()
        (server.home / '.codex' / 'auth.json').unlink()
    first, second = (call['args'][1] for call in pythonista.phone.called('dialogs.list_dialog'))
    assert first[:3] == ['alpha', 'beta', 'gamma'] and second[:3] == ['beta', 'alpha', 'gamma']
    assert 'New server…' in second


def test_another_program_is_picked_from_the_menu(pythonista, server):
    pythonista.know(server)
    server.install('wrangler')
    pythonista.phone.will_answer(('dialogs.list_dialog', 'Another program…'), ('dialogs.list_dialog', 'home'),
                                 ('console.input_alert', 'wrangler login'))
    pythonista.sign_in()


def test_arguments_skip_the_menu_and_are_agreed_to_once_where_they_name_no_known_server(pythonista, server):
    pythonista.know(server)
    pythonista.phone.will_answer(('console.alert', YES))
    for _ in range(2):
        pythonista.sign_in(f'{server.user}@{server.address}:{server.port}')
        (server.home / '.codex' / 'auth.json').unlink()
    assert pythonista.asked == ['console.alert']


def test_a_wrong_password_is_asked_again_and_only_the_right_one_is_kept(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    pythonista.phone.will_answer(('console.password_alert', 'wrong'), ('console.password_alert', PASSWORD))
    pythonista.sign_in('home')
    assert list(pythonista.phone.keychain.values()) == [PASSWORD]


def test_a_kept_password_that_is_no_longer_right_is_dropped(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    kept = pythonista.phone.folder / 'keychain.json'
    kept.write_text(json.dumps({f'codex_login {account(server)}': 'the old one'}))
    pythonista.phone.will_answer(('console.password_alert', CANCEL))
    assert pythonista.start('home').wait() == 130
    assert pythonista.phone.keychain == {}

    kept.write_text(json.dumps({f'codex_login {account(server)}': 'the old one'}))
    pythonista.phone.will_answer(('console.password_alert', PASSWORD))
    pythonista.sign_in('home')
    assert list(pythonista.phone.keychain.values()) == [PASSWORD]


def test_a_password_that_is_asked_for_by_a_question_is_kept_as_well(pythonista, server):
    """macOS offers both ways: the question comes first, and what was right is tried as a password the next time."""
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    server.questions = (('Password: ', PASSWORD),)
    pythonista.phone.will_answer(('console.password_alert', PASSWORD))
    for _ in range(2):
        pythonista.sign_in('home')
        (server.home / '.codex' / 'auth.json').unlink()
    assert pythonista.asked == ['console.password_alert'] and list(pythonista.phone.keychain.values()) == [PASSWORD]


def test_what_was_typed_before_a_password_is_asked_for_is_none(ashell, server):
    ashell.configure('home', server=server)
    ashell.trust(server.known_hosts())
    with Relay(server) as relay:
        relay.door('silent')
        script = ashell.start('-p', relay.port, '-o', 'StrictHostKeyChecking=accept-new', '--new-key', 'home')
        script.answer('Connecting', 'typed ahead')
        relay.restore()
        script.answer('password:', PASSWORD)
        assert script.wait() == 0 and server.count['password'] == 1


def test_three_wrong_passwords_are_enough(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    pythonista.phone.will_answer(*3 * [('console.password_alert', 'wrong')])
    script = pythonista.start('home')
    assert script.wait() == 255 and 'permission denied' in script.stderr
    assert pythonista.phone.keychain == {}
    assert pythonista.phone.called('console.hud_alert')[-1]['args'][1] == 'error'


CANCELLED_AT = {
    'the menu': [('dialogs.list_dialog', CANCEL)],
    'the form': [('dialogs.list_dialog', 'New server…'), ('dialogs.form_dialog', CANCEL)],
    'the servers': [('dialogs.list_dialog', 'Another program…'), ('dialogs.list_dialog', CANCEL)],
    'what to run': [('dialogs.list_dialog', 'Another program…'), ('dialogs.list_dialog', 'home'),
                    ('console.input_alert', CANCEL)],
    'the password': [('dialogs.list_dialog', 'home'), ('console.password_alert', CANCEL)],
}


def test_cancel_at_a_one_time_code_ends_it_cleanly(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    server.password, server.questions = None, (('One-time code: ', '123456'),)
    pythonista.phone.will_answer(('console.password_alert', CANCEL))
    assert pythonista.start('home').wait() == 130


def test_a_one_time_code_is_asked_as_the_server_words_it(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    server.password, server.questions = None, (('One-time code: ', '123456'),)
    pythonista.phone.will_answer(('console.password_alert', '123456'))
    pythonista.sign_in('home')
    assert 'One-time code' in ' '.join(_strings(pythonista.phone.called('console.password_alert')[0]['args']))
    assert pythonista.phone.keychain == {}


@pytest.mark.parametrize('step', CANCELLED_AT)
def test_cancel_ends_it_cleanly_at(step, pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    before = (pythonista.ssh / 'config').read_text()
    pythonista.phone.will_answer(*CANCELLED_AT[step])
    script = pythonista.start()
    assert script.wait() == 130
    assert 'Traceback' not in script.stderr and (pythonista.ssh / 'config').read_text() == before
    assert pythonista.phone.called('openURL') == [] and pythonista.phone.keychain == {}


def test_cancel_at_the_passphrase_of_a_key_ends_it_cleanly(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    pythonista.take_key(rsa_key_with_passphrase(pythonista.desk), 'id_rsa')
    pythonista.phone.will_answer(('console.password_alert', CANCEL))
    assert pythonista.start('home').wait() == 130


def rsa_key_with_passphrase(folder):
    """A key in PEM form that asks for its passphrase on every phone."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    folder.mkdir(exist_ok=True)
    file = folder / 'id_rsa'
    file.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b'a passphrase')))
    return file


def test_the_stop_button_while_safari_is_open_ends_the_login_at_the_server(pythonista, server):
    pythonista.know(server)
    script = pythonista.start('home')
    pythonista.sign_in_page(script)
    script.interrupt()
    assert script.wait() == 130
    assert 'Traceback' not in script.stderr


def test_a_new_host_key_is_an_alert_that_no_refuses(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.phone.will_answer(('console.alert', NO))
    script = pythonista.start('home')
    assert script.wait() == 255 and 'not accepted' in script.stderr
    assert not (pythonista.ssh / 'known_hosts').exists() and server.count['password'] == 0


def test_an_accepted_host_key_is_not_asked_about_again(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.take_key(Home(pythonista.desk).make_key(server))
    pythonista.phone.will_answer(('console.alert', YES))
    pythonista.sign_in('home')
    (server.home / '.codex' / 'auth.json').unlink()
    pythonista.sign_in('home')
    assert pythonista.asked == ['console.alert']


@pytest.mark.parametrize('answer', [CANCEL, '', 'yes', 'y', 'ok'])
def test_a_changed_host_key_is_shown_beside_the_known_one_and_not_replaced_by_a_tap(pythonista, server, answer):
    pythonista.know(server)
    known = (pythonista.ssh / 'known_hosts').read_text()
    server.seed = 2
    pythonista.phone.will_answer(('console.input_alert', answer))
    script = pythonista.start('home')
    assert script.wait() == (130 if answer == CANCEL else 255)
    assert answer == CANCEL or 'CHANGED' in script.stderr and 'line 1' in script.stderr and 'ssh-keygen' not in script.stderr
    [asked] = pythonista.phone.called('console.input_alert')
    text = ' '.join(_strings(asked['args']))
    for seed in (1, 2):
        assert fingerprint(host_key('ed25519', seed)) in text
    assert 'Ask whoever runs the server' in text and (pythonista.ssh / 'known_hosts').read_text() == known
    assert server.count['publickey'] == server.count['password'] == 0


def test_a_server_that_was_set_up_anew_is_accepted_by_a_word(pythonista, server):
    pythonista.know(server)
    others = '# mine\nother.example ssh-ed25519 AAAA\n'
    (pythonista.ssh / 'known_hosts').write_text(others + server.known_hosts())
    server.seed = 2
    pythonista.phone.will_answer(('console.input_alert', 'Replace '))
    pythonista.sign_in('home')
    (server.home / '.codex' / 'auth.json').unlink()
    pythonista.sign_in('home')
    key = host_key('ed25519', 2)
    assert (pythonista.ssh / 'known_hosts').read_text() == \
        f'{others}[{server.address}]:{server.port} {key.get_name()} {key.get_base64()}\n'


@pytest.mark.parametrize('how', ['strict', 'shortcut'])
def test_a_changed_host_key_is_not_asked_about_where_that_was_ruled_out(pythonista, server, how):
    pythonista.know(server)
    server.seed = 2
    if how == 'shortcut':
        pythonista.run_as_shortcut()
    else:
        with (pythonista.ssh / 'config').open('a') as config:
            config.write('    StrictHostKeyChecking yes\n')
    script = pythonista.start('home')
    assert script.wait() == 255 and 'CHANGED' in script.stderr and 'in the app, by hand' in script.stderr
    assert pythonista.asked == []


def test_the_in_app_browser_is_shown_and_taken_away_at_the_end(pythonista, server):
    pythonista.know(server)
    script = pythonista.start('--browser', 'in-app', 'home')
    selectors = functools.partial(objc_selectors, pythonista)
    wait_until(lambda: any('presentViewController' in name for name in selectors()))
    assert not any('dismiss' in name for name in selectors())
    address = next(argument for call in pythonista.phone.called('objc') for argument in call['args']
                   if 'https://' in str(argument) and not isinstance(argument, list))      # which is what was copied
    assert Browser(re.search(r'https://[^>]*', address)[0]).sign_in().status == 200
    assert script.wait() == 0
    assert any('dismissViewController' in name for name in selectors()[-3:])      # the task is given back beside it
    assert pythonista.phone.called('openURL') == []
    # The app never leaves the screen, so nothing has to call the person back.
    assert pythonista.phone.called('notification.schedule') == []


def test_the_stop_button_takes_the_in_app_browser_away(pythonista, server):
    pythonista.know(server)
    script = pythonista.start('--browser', 'in-app', 'home')
    wait_until(lambda: any('presentViewController' in name for name in objc_selectors(pythonista)))
    script.interrupt()
    assert script.wait() == 130
    assert any('dismissViewController' in name for name in objc_selectors(pythonista)[-3:])   # the task is given back beside it


def objc_selectors(handset):
    return [call['args'][0] for call in handset.phone.called('objc')]


def test_without_the_in_app_browser_safari_opens_and_one_line_says_why(pythonista, server):
    pythonista.know(server)
    pythonista.phone.set('no-sheet')
    script = pythonista.sign_in('--browser', 'in-app', 'home')
    said = [line for line in (script.stdout + script.stderr).splitlines() if 'in-app' in line]
    assert len(said) == 1 and 'SFSafariViewController' in said[0]


def test_a_sheet_that_finds_no_window_is_noticed_and_safari_opens(pythonista, server):
    pythonista.know(server)
    pythonista.phone.set('no-window')
    script = pythonista.sign_in('--browser', 'in-app', 'home')
    assert 'The in-app browser did not open' in script.stderr
    assert pythonista.phone.called('notification.schedule')     # the person leaves after all


@pytest.mark.parametrize('condition', ['no-bridge', 'no-browser'])
def test_a_page_that_does_not_open_is_on_the_clipboard_and_the_screen(condition, pythonista, server):
    """After an update the bridge may find no class; whether openURL opened anything, it does not say."""
    pythonista.know(server)
    pythonista.phone.set(condition)
    script = pythonista.start('home')
    script.wait_for_text('https://.*')
    wait_until(lambda: pythonista.phone.clipboard)
    address = pythonista.phone.clipboard
    assert address in script.stdout.splitlines() and pythonista.phone.called('openURL') == []
    assert Browser(address).sign_in().status == 200 and script.wait() == 0
    if condition == 'no-bridge':
        assert 'The address is copied. Open it in the browser of this device' in script.stderr
        assert 'Your browser opens it' not in script.stderr


def test_where_ios_18_refuses_the_old_way_the_new_one_opens_the_page(pythonista, server):
    pythonista.know(server)
    pythonista.phone.set('no-old-open')
    pythonista.sign_in('home')


@pytest.mark.parametrize('condition', ['no-notifications', 'no-background-time', 'no-paste'])
def test_what_a_person_or_ios_refuses_stops_no_login_and_is_a_line_under_v(condition, pythonista, server):
    pythonista.know(server)
    pythonista.phone.set(condition)
    script = pythonista.sign_in('home')
    assert 'did not work' not in script.stdout + script.stderr
    (server.home / '.codex' / 'auth.json').unlink()
    verbose = pythonista.sign_in('-v', 'home')
    line = {'no-notifications': 'remind did not work: OSError: notifications are not allowed',
            'no-background-time': 'take_grace did not work: OSError: iOS gives no background time', 'no-paste': ''}
    assert line[condition] in verbose.stderr


def test_a_reminder_that_was_shown_is_gone_from_the_screen_at_the_end(pythonista, server):
    pythonista.know(server)
    script = pythonista.start('home')
    address = pythonista.sign_in_page(script)
    [planned] = pythonista.phone.called('notification.schedule')
    assert planned['args'][2] is None and planned['kwargs']['identifier'] == 'codex_login'
    pythonista.phone.show_notifications()
    assert Browser(address).sign_in().status == 200 and script.wait() == 0
    assert pythonista.phone.shown_notifications == []


def test_ios_is_asked_for_time_while_the_page_is_open_and_told_when_it_is_over(pythonista, server):
    pythonista.know(server)
    script = pythonista.start('home')
    address = pythonista.sign_in_page(script)
    assert [name for name in objc_selectors(pythonista) if 'BackgroundTask' in name] == [
        'UIApplication.beginBackgroundTaskWithExpirationHandler_']
    assert Browser(address).sign_in().status == 200 and script.wait() == 0
    assert [name for name in objc_selectors(pythonista) if 'BackgroundTask' in name][1:] == [
        'UIApplication.endBackgroundTask_']


@pytest.mark.slow
def test_the_background_time_is_given_back_before_ios_kills_the_app(phone, server):
    """iOS gives about 30 seconds: the stand-in, which is as strict, ends the app then."""
    phone.know(server)
    script = phone.start('home')
    address = phone.sign_in_page(script)
    assert not eventually(lambda: not any('endBackgroundTask' in name for name in objc_selectors(phone)), 29)
    assert Browser(address).sign_in().status == 200 and script.wait() == 0


def test_a_notification_waits_while_safari_is_in_front_and_the_screen_stays_on(pythonista, server):
    pythonista.know(server)
    script = pythonista.start('home')
    address = pythonista.sign_in_page(script)
    names = [call['call'] for call in pythonista.phone.calls]
    assert names.index('notification.schedule') < names.index('openURL')
    assert pythonista.phone.called('console.set_idle_timer_disabled')[-1]['args'] == [True]
    [planned] = pythonista.phone.planned_notifications
    assert 'home' in planned['message']
    assert planned['action_url'].startswith('pythonista3://')
    assert Browser(address).sign_in().status == 200 and script.wait() == 0
    assert pythonista.phone.planned_notifications == []
    assert pythonista.phone.called('console.set_idle_timer_disabled')[-1]['args'] == [False]


def asleep_while_signing_in(handset):
    """Run the script, asleep long enough to notice it while the person signs in."""
    script = handset.start('home')
    browser = Browser(handset.sign_in_page(script))
    script.stop()
    page = browser.in_background(browser.sign_in)
    script.resume(after=NOTICED)
    assert page().status == 200 and script.wait() == 0


def test_after_a_freeze_the_apps_own_browser_is_offered_once_and_used_from_then_on(pythonista, server):
    pythonista.know(server)
    pythonista.phone.will_answer(('console.alert', YES))
    asleep_while_signing_in(pythonista)
    (server.home / '.codex' / 'auth.json').unlink()
    script = pythonista.start('home')
    wait_until(lambda: any('presentViewController' in name for name in objc_selectors(pythonista)))
    assert Browser(pythonista.phone.clipboard).sign_in().status == 200
    assert script.wait() == 0
    assert pythonista.asked == ['console.alert']


def test_a_declined_offer_is_not_made_again(pythonista, server):
    pythonista.know(server)
    pythonista.phone.will_answer(('console.alert', NO))
    for _ in range(2):
        asleep_while_signing_in(pythonista)
        (server.home / '.codex' / 'auth.json').unlink()
    assert pythonista.asked == ['console.alert']


def test_a_shortcut_gets_no_offer_after_a_freeze(pythonista, server):
    pythonista.know(server)
    pythonista.run_as_shortcut()
    asleep_while_signing_in(pythonista)
    assert pythonista.asked == []


def test_a_server_that_is_signed_in_already_says_so_and_asks(pythonista, server):
    pythonista.know(server)
    pythonista.sign_in('home')
    pythonista.phone.will_answer(('console.alert', NO))
    kept = (server.home / '.codex' / 'auth.json').read_text()
    assert pythonista.start('home').wait() == 0
    assert (server.home / '.codex' / 'auth.json').read_text() == kept


# --- Pythonista: Shortcuts ----------------------------------------------------------------------------------

def test_a_shortcut_gets_the_outcome_as_text_and_sees_no_dialog(pythonista, server):
    pythonista.know(server)
    pythonista.run_as_shortcut()
    pythonista.sign_in('home')
    [output] = pythonista.phone.called('shortcuts.set_output_text')
    assert 'Signed in' in output['args'][0]
    assert pythonista.asked == [] and pythonista.phone.called('console.hud_alert') == []


def test_a_shortcut_that_asks_for_json_gets_the_last_event(pythonista, server):
    pythonista.know(server)
    pythonista.run_as_shortcut()
    script = pythonista.sign_in('home', json_events=True)
    [output] = pythonista.phone.called('shortcuts.set_output_text')
    assert json.loads(output['args'][0]) == {'event': 'done', 'status': 0} == script.events[-1]


def test_a_shortcut_gets_the_reason_why_it_failed(pythonista, server):
    pythonista.know(server)
    pythonista.run_as_shortcut()
    server.stop_listening()
    assert pythonista.start('home').wait() == 255
    [output] = pythonista.phone.called('shortcuts.set_output_text')
    assert 'cannot be reached' in output['args'][0]


def test_a_shortcut_uses_the_kept_password_instead_of_a_dialog(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    (pythonista.phone.folder / 'keychain.json').write_text(
        json.dumps({f'codex_login {account(server)}': PASSWORD}))
    pythonista.run_as_shortcut()
    for json_events in (False, True):
        pythonista.sign_in('home', json_events=json_events)
        (server.home / '.codex' / 'auth.json').unlink()
    assert pythonista.asked == []


def test_a_shortcut_is_not_asked_whether_to_sign_in_anew(pythonista, server):
    pythonista.know(server)
    pythonista.sign_in('home')
    pythonista.run_as_shortcut()
    assert pythonista.start('home').wait() == 0
    assert 'Signed in' in pythonista.phone.called('shortcuts.set_output_text')[-1]['args'][0]
    assert pythonista.asked == []


def test_a_shortcut_that_runs_the_script_in_the_app_gets_the_outcome_too(pythonista, server):
    """There nothing says that a Shortcut waits."""
    pythonista.know(server)
    pythonista.sign_in('home')
    [output] = pythonista.phone.called('shortcuts.set_output_text')
    assert 'Signed in' in output['args'][0] and pythonista.phone.called('console.hud_alert')


def test_where_the_app_can_show_no_dialog_that_is_said_and_what_helps(pythonista, server):
    pythonista.configure('home', server=server)
    pythonista.trust(server.known_hosts())
    pythonista.run_as_shortcut()
    script = pythonista.start('home')
    assert script.wait() == 255 and 'Nobody can be asked here' in script.stderr
    assert 'Run the script in the app once' in script.stderr
    assert 'Nobody can be asked here' in pythonista.phone.called('shortcuts.set_output_text')[0]['args'][0]


# --- Pythonista: finishing a login --------------------------------------------------------------------------

def killed_login(handset, server):
    """A login whose app was killed after Safari had opened; the redirect that Safari could not deliver."""
    handset.know(server)
    script = handset.start('home')
    redirect = Browser(handset.sign_in_page(script)).redirect()
    script.kill()
    return redirect


def test_finish_a_login_from_the_menu_takes_the_clipboard(pythonista, server):
    pythonista.phone.clipboard = killed_login(pythonista, server)
    pythonista.phone.clipboard = Browser(pythonista.phone.clipboard).address
    pythonista.phone.will_answer(('dialogs.list_dialog', 'Finish a login…'))
    assert pythonista.start().wait() == 0
    assert (server.home / '.codex' / 'auth.json').exists()


def share_extension(handset, beside):
    """Install the share sheet's script; its path from the app's folder."""
    if beside:
        shutil.copy(SHARE_EXTENSION, handset.folder)
        return 'finish_login.py'
    for file, folder in ((SHARE_EXTENSION, 'share_extension'), (SCRIPT, 'scripts')):
        (handset.folder / 'project' / folder).mkdir(parents=True)
        shutil.copy(file, handset.folder / 'project' / folder)
    (handset.folder / 'codex_login.py').unlink()
    return 'project/share_extension/finish_login.py'


@pytest.mark.parametrize('beside', [True, False], ids=['beside-the-script', 'in-its-own-folder'])
@pytest.mark.parametrize('shared', ['url', 'urls', 'text'])
def test_the_share_sheet_delivers_the_failed_page(shared, beside, pythonista, server):
    redirect = killed_login(pythonista, server)
    pythonista.phone.share(**{shared: [redirect] if shared == 'urls' else redirect})
    assert pythonista.start(script=share_extension(pythonista, beside)).wait() == 0
    assert (server.home / '.codex' / 'auth.json').exists()
    assert 'Signed in' in pythonista.phone.called('console.hud_alert')[-1]['args'][0]


def test_the_share_sheets_script_takes_the_clipboard_when_it_is_run_by_hand(pythonista, server):
    pythonista.phone.clipboard = killed_login(pythonista, server)
    assert pythonista.start(script=share_extension(pythonista, beside=True)).wait() == 0


def test_the_share_sheets_script_says_when_codex_login_is_not_there(pythonista):
    shutil.copy(SHARE_EXTENSION, pythonista.folder)
    (pythonista.folder / 'codex_login.py').unlink()
    script = pythonista.start(script='finish_login.py')
    assert script.wait() == 255 and 'codex_login.py' in script.stdout + script.stderr


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='peak memory is read from /proc (Linux)')
def test_the_share_extension_stays_within_its_memory(pythonista, server, record_property):
    pythonista.phone.share(url=killed_login(pythonista, server))
    script = pythonista.start(script=share_extension(pythonista, beside=True))
    assert script.wait() == 0
    peak = script.peak * 1024
    record_property('peak memory', peak)
    print(f'peak memory of finish_login.py on {pythonista.stand_in.name}: {peak / 1e6:.0f} MB')
    assert peak < EXTENSION_MEMORY


# --- a-Shell ------------------------------------------------------------------------------------------------

def test_the_first_run_at_the_terminal_asks_only_what_it_cannot_know(ashell, server):
    script = ashell.start()
    script.answer(r'Number \(', '1')
    for label, value in (('Address:', server.address), ('User:', server.user), (r'Port \(22\):', server.port),
                         ('Name:', 'home')):
        script.answer(label, str(value))
    script.answer('yes/no', 'yes')
    script.answer('password:', PASSWORD)
    assert Browser(ashell.sign_in_page(script)).sign_in().status == 200
    assert script.wait() == 0 and PASSWORD not in script.screen
    assert set(re.findall(r'SHA256:[\w+/]+', script.screen)) <= fingerprints(server)
    assert 'SHA256:' in script.screen

    (server.home / '.codex' / 'auth.json').unlink()
    script = ashell.start()
    script.answer(r'1  home[^(]*Number \(', '1')
    script.answer('password:', PASSWORD)
    assert Browser(ashell.sign_in_page(script)).sign_in().status == 200
    assert script.wait() == 0 and 'yes/no' not in script.screen


def test_open_and_the_clipboard_get_the_address_byte_for_byte(ashell, server):
    server.environment['STAND_IN_ADDRESS'] = (
        'https://auth.openai.com/authorize?redirect_uri=http%3A%2F%2F127.0.0.1%3A{port}%2Fauth%2Fcallback'
        '&state={state}&twice=%2525&plus=a+b&tilde=~&at=a@b#part%23two')
    ashell.know(server)
    script = ashell.start('home')
    address = ashell.sign_in_page(script)
    assert re.fullmatch(r'https://auth\.openai\.com/authorize\?redirect_uri=http%3A%2F%2F127\.0\.0\.1%3A\d+'
                        r'%2Fauth%2Fcallback&state=[\w-]+&twice=%2525&plus=a\+b&tilde=~&at=a@b#part%23two',
                        address)
    assert ashell.phone.called('pbcopy')[0]['args'] == [address]
    assert address in script.screen.splitlines()
    script.wait_for_text('Split View')
    assert Browser(address.partition('#')[0]).sign_in().status == 200 and script.wait() == 0


def test_a_pasted_address_of_the_failed_page_finishes_the_waiting_login(ashell, server):
    ashell.know(server)
    script = ashell.start('home')
    browser = Browser(ashell.sign_in_page(script))
    script.answer('Split View', browser.redirect())
    assert script.wait() == 0


def plays(ashell):
    """Whether silence is played, by what the player was told last."""
    told = [call['args'][0] for call in ashell.phone.called('objc') if call['args'][0].startswith('AVAudioPlayer ')]
    return bool(told) and told[-1] == 'AVAudioPlayer play'


def test_silence_keeps_the_app_awake_while_the_sign_in_waits_once_it_was_chosen(ashell, server):
    ashell.know(server)
    for words, chosen in ((['--stay-awake'], True), ([], True), (['--no-stay-awake'], False), ([], False)):
        script = ashell.start(*words, 'home')
        address = ashell.sign_in_page(script)
        assert plays(ashell) is chosen
        assert Browser(address).sign_in().status == 200 and script.wait() == 0
        assert not plays(ashell)
        (server.home / '.codex' / 'auth.json').unlink()


@pytest.mark.parametrize('condition, reason', [
    ('no-sound', 'iOS plays nothing'), ('no-bridge', 'nothing here takes stringWithUTF8String:')])
def test_where_ios_lets_nothing_play_that_is_said_and_the_login_goes_on(condition, reason, ashell, server):
    ashell.know(server)
    ashell.phone.set(condition)
    script = ashell.sign_in('--stay-awake', 'home')
    assert f'This app cannot be kept awake ({reason}).' in script.screen


def test_ios_is_asked_for_time_by_a_shell_too_and_a_refusal_is_no_end(ashell, server):
    ashell.know(server)
    script = ashell.sign_in('home')
    assert [name.split()[1] for name in objc_selectors(ashell) if 'BackgroundTask' in name] == [
        'beginBackgroundTaskWithExpirationHandler:', 'endBackgroundTask:']
    (server.home / '.codex' / 'auth.json').unlink()
    ashell.phone.set('no-background-time')
    script = ashell.sign_in('home')
    assert 'did not work' not in script.screen


def test_ctrl_c_ends_the_login_at_the_server_though_the_app_would_cancel_the_thread(ashell, server):
    ashell.know(server)
    script = ashell.start('home')
    ashell.sign_in_page(script)
    script.interrupt()
    assert script.wait() == 130
    assert ashell.phone.called('thread cancelled') == []


def test_backspace_takes_a_character_of_a_password_back(ashell, server):
    ashell.configure('home', server=server)
    ashell.trust(server.known_hosts())
    script = ashell.start('home')
    script.answer('password:', f'{PASSWORD}ü\x7f')
    assert Browser(ashell.sign_in_page(script)).sign_in().status == 200 and script.wait() == 0
    assert PASSWORD not in script.screen


@pytest.fixture(scope='session')
def wheels(tmp_path_factory):
    """A folder that pip on a phone installs paramiko from."""
    folder = tmp_path_factory.mktemp('wheels')
    bare = stand_in(functools.partial(standins.a_shell, paramiko=None))
    got = subprocess.run([bare.python, '-m', 'pip', 'download', '-q', '--no-deps', '-d', folder,
                          f'paramiko=={standins.PARAMIKOS[-1]}'], capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f'paramiko cannot be downloaded; is there a network? {got.stderr[-300:]}')
    return folder


@pytest.fixture
def bare_ashell(request, tmp_path, server, wheels):
    """a-Shell as it is before the script's first run: without paramiko."""
    bare = stand_in(functools.partial(standins.a_shell, paramiko=None))
    with handset_of(request, tmp_path, bare) as handset:
        handset.variables = {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(wheels)}
        yield handset.know(server)


def test_the_first_run_installs_paramiko_after_a_yes_and_goes_on(bare_ashell):
    script = bare_ashell.start('home')
    script.answer(r'paramiko[^?]*yes/no', 'yes')
    assert Browser(bare_ashell.sign_in_page(script)).sign_in().status == 200 and script.wait() == 0


def test_the_first_run_installs_paramiko_unasked_where_yes_was_said_before(bare_ashell):
    script = bare_ashell.sign_in('--yes', 'home')
    assert 'yes/no' not in script.screen


def test_the_first_run_goes_no_further_after_a_no(bare_ashell, server):
    script = bare_ashell.start('home')
    script.answer(r'paramiko[^?]*yes/no', 'no')
    assert script.wait() == 255
    assert 'pip install --no-deps paramiko' in script.screen and 'Traceback' not in script.screen
    assert server.connections == 0 and not (bare_ashell.folder / 'site-packages').exists()


def test_a_paramiko_that_cannot_be_installed_is_said_with_what_to_do(bare_ashell, tmp_path):
    bare_ashell.variables['PIP_FIND_LINKS'] = str(tmp_path / 'nowhere')
    script = bare_ashell.start('--yes', 'home')
    assert script.wait() == 255
    assert 'pip install --no-deps paramiko' in script.screen and 'Traceback' not in script.screen


@contextlib.contextmanager
def silent_port():
    """A port of this machine where nobody answers: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(('127.0.0.1', 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
            select.select([], [waiting], [], 0.1)       # the first is let in, the others wait in vain
        yield listener.getsockname()[1]


def quits(script, prompt):
    """Type q when the terminal shows `prompt`: that must end it. No wait ends with this status by itself."""
    script.answer(prompt, 'q')
    assert script.wait() == 130, script.report()
    assert 'Traceback' not in script.screen


@pytest.mark.parametrize('wait, words, prompt', [
    ('menu', [], r'Number \('),
    ('host-key', ['home'], r'yes/no'),
    ('password', ['home'], r'password:'),
    ('passphrase', ['home'], r'Passphrase of'),
])
def test_q_and_return_end_the_question(wait, words, prompt, ashell, server):
    ashell.configure('home', server=server)
    if wait != 'host-key':
        ashell.trust(server.known_hosts())
    if wait == 'passphrase':
        ashell.take_key(rsa_key_with_passphrase(ashell.desk), 'id_rsa')
    quits(ashell.start(*words), prompt)


def test_q_and_return_end_the_form_for_a_new_server(ashell):
    script = ashell.start()
    script.answer(r'Number \(', '1')
    script.answer('Address:', 'server.example')
    quits(script, 'User:')
    assert not ashell.ssh.exists()


def test_q_and_return_end_the_wait_for_the_sign_in(ashell, server):
    ashell.know(server)
    quits(ashell.start('home'), 'Split View')


def test_q_and_return_end_the_wait_for_a_server_that_does_not_answer(ashell):
    with silent_port() as port:
        quits(ashell.start(f'ana@127.0.0.1:{port}'), 'Connecting to')


def test_q_and_return_end_the_wait_for_a_server_that_says_nothing(ashell, server):
    ashell.know(server)
    server.freeze()
    quits(ashell.start('home'), 'Connecting to')
    server.thaw()


def test_q_and_return_end_the_wait_for_a_server_that_ponders_the_key(ashell, server):
    ashell.know(server)
    server.auth_delay = 2 * PATIENCE
    script = ashell.start('home')
    wait_until(lambda: server.count['publickey'])
    quits(script, 'Connecting to')


def test_q_and_return_end_the_question_whether_to_sign_in_anew(ashell, server):
    ashell.know(server)
    ashell.sign_in('home')
    kept = (server.home / '.codex' / 'auth.json').read_text()
    quits(ashell.start('home'), 'yes/no')
    assert (server.home / '.codex' / 'auth.json').read_text() == kept


def shortcut(handset, *words):
    """Run the Shortcut of the README: the output goes to a file, and then Shortcuts comes back."""
    recipe = '"$@" > result.txt; open shortcuts://'
    return handset.start(*words, enter=('sh', '-c', recipe, 'sh'))


def result_of_shortcut(handset, script):
    script.wait()
    assert handset.phone.called('open')[-1]['args'] == ['shortcuts://']
    return (handset.group / 'result.txt').read_text()


def test_the_shortcuts_recipe_gets_the_outcome_and_the_exit_status_as_text(ashell, server):
    ashell.know(server)
    script = shortcut(ashell, 'home')
    assert Browser(ashell.sign_in_page(script)).sign_in().status == 200
    lines = result_of_shortcut(ashell, script).splitlines()
    assert any(line.startswith('Signed in') for line in lines)
    assert re.fullmatch(r'\D*\b0\D*', lines[-1])


def test_the_shortcuts_recipe_gets_the_reason_of_a_failure_as_text(ashell, server):
    ashell.know(server)
    server.stop_listening()
    lines = result_of_shortcut(ashell, shortcut(ashell, 'home')).splitlines()
    assert 'cannot be reached' in ' '.join(lines)
    assert re.fullmatch(r'\D*\b255\D*', lines[-1])


def test_the_shortcuts_recipe_gets_events_where_it_asks_for_json(ashell, server):
    ashell.know(server)
    script = shortcut(ashell, '--json', 'home')
    assert Browser(ashell.sign_in_page(script)).sign_in().status == 200
    events = [json.loads(line) for line in result_of_shortcut(ashell, script).splitlines()]
    assert events[-1] == {'event': 'done', 'status': 0}
    assert {'sign-in', 'signed-in'} <= {event['event'] for event in events}


def wait_until(question):
    """Wait until the answer is true."""
    until(question)
