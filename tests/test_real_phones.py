"""The phones' Pythons against a real sshd, with the real codex and a real browser.

Each stand-in signs in at a server that offers what OpenSSH 10 does, and at one with OpenSSH 9's defaults; and
the app is frozen, cut off and killed on the way.
"""

import functools
import os
import shutil
import stat
import time

import lab as laboratory
import pytest
import standins
from conftest import PASSED
from waiting import let_pass
from harness import Home, Script
from test_phones import (
    APPS, EXTENSION_MEMORY, NO, NOTICED, PASSWORD, handset_of, pairing_words, share_extension,
    stand_in, start_pairing, wait_until)

SERVERS = {
    'OpenSSH-10': lambda: {'sshd_options': laboratory.openssh_10_options(),
                           'host_keys': ('ecdsa', 'ed25519')},
    'OpenSSH-9': dict,
}
DESTINATION = f'{laboratory.USER}@{laboratory.SERVER_NAME}'
NAME = 'home'       # of the server in the phone's ssh configuration


@pytest.fixture(scope='module', params=SERVERS)
def lab(request):
    """The server; it lets passwords in where this machine can have that."""
    if missing := laboratory.missing_parts():
        pytest.skip('; '.join(f'{part} is missing: {how}' for part, how in missing))
    password = PASSWORD if os.geteuid() == 0 else None
    with laboratory.Lab(password=password, **SERVERS[request.param]()) as started:
        yield started


@pytest.fixture(scope='module')
def browser(lab):
    with lab.browser() as browser:
        yield browser


@pytest.fixture
def tab(browser):
    tab = browser.new_tab()
    yield tab
    tab.close()


@pytest.fixture(autouse=True)
def nothing_left(request, lab):
    """Nobody is signed in at first; at the end nothing is left at the server, and no port is held here."""
    shutil.rmtree(lab.codex_home, ignore_errors=True)
    yield
    if not request.node.stash.get(PASSED, False):
        return lab.reboot_server()      # so that the next test finds nothing of this one
    assert lab.server_leftovers() == [] and lab.listeners('phone') == []


def handset_in(lab, request, folder):
    return handset_of(request, folder, stand_in(APPS[request.param]))


@pytest.fixture(params=APPS)
def new_phone(request, tmp_path, lab):
    """A phone that does not know the server yet."""
    with handset_in(lab, request, tmp_path) as handset:
        handset.enter = lab.phone_command()
        yield handset


@pytest.fixture
def phone(new_phone, lab):
    """A phone that knows the server and has a key for it."""
    return introduced(new_phone, lab)


@pytest.fixture(params=['Pythonista', 'Pythonista beta'])
def pythonista(request, tmp_path, lab):
    with handset_in(lab, request, tmp_path) as handset:
        handset.enter = lab.phone_command()
        yield introduced(handset, lab)


def introduced(handset, lab):
    handset.trust(lab.known_hosts())
    handset.take_key(lab.user_key())
    (handset.ssh / 'config').write_text(
        f'Host {NAME}\n    HostName {laboratory.SERVER_NAME}\n    User {laboratory.USER}\n')
    return handset


def signed_in(script, tab, lab):
    """The page shows codex's success, the script says so and ends well, and the tokens are private."""
    tab.wait_for_text('Signed in to Codex')
    assert script.wait() == 0, script.report()
    assert 'Successfully logged in' in script.stdout + script.screen
    assert lab.auth_json()['tokens']
    assert stat.S_IMODE((lab.codex_home / 'auth.json').stat().st_mode) == 0o600
    return True


def killed_login(phone, tab):
    """A login whose app was killed after Safari had opened, and the page that failed: nobody listened."""
    script = phone.start(NAME)
    tab.open(phone.sign_in_page(script))
    script.kill()
    tab.click('#continue')
    tab.wait_for_text('refused to connect')
    return tab.url()


def test_a_login(phone, tab, lab):
    script = phone.start(NAME)
    tab.open(phone.sign_in_page(script))
    tab.click('#continue')
    assert signed_in(script, tab, lab)


@pytest.mark.parametrize('cut', [False, True], ids=['connection-kept', 'connection-cut'])
def test_safari_comes_back_after_the_app_was_frozen(cut, phone, tab, lab):
    if not phone.is_terminal:
        phone.phone.will_answer(('console.alert', NO))      # to the app's own browser next time
    script = phone.start(NAME)
    tab.open(phone.sign_in_page(script))
    script.stop()
    asleep = time.monotonic()
    if cut:
        assert lab.cut() == 1
    tab.click('#continue')
    wait_until(lambda: '/auth/callback' in (tab.waiting_for() or ''))
    let_pass(asleep, NOTICED)
    assert '/auth/callback' in tab.waiting_for(), 'the request is held, not refused'
    script.resume()
    assert signed_in(script, tab, lab)


def test_a_killed_app_is_started_again_and_the_failed_page_loaded_again(phone, tab, lab):
    failed = killed_login(phone, tab)
    script = phone.start(NAME)
    phone.sign_in_page(script)
    assert tab.url() == failed
    tab.reload()
    assert signed_in(script, tab, lab)


def test_finish_takes_the_failed_address_from_the_clipboard(phone, tab, lab):
    phone.phone.clipboard = killed_login(phone, tab)
    script = phone.start('--finish')
    assert script.wait() == 0 and lab.auth_json()['tokens']
    assert 'Successfully logged in' in script.stdout + script.screen


@pytest.mark.parametrize('beside', [True, False], ids=['beside-the-script', 'in-its-own-folder'])
def test_the_share_sheet_finishes_the_login_within_its_memory(beside, pythonista, tab, lab):
    pythonista.phone.share(url=killed_login(pythonista, tab))
    script = pythonista.start(script=share_extension(pythonista, beside))
    assert script.wait() == 0
    assert lab.auth_json()['tokens']
    peak = script.peak * 1024
    print(f'peak memory of finish_login.py on {pythonista.stand_in.name}: {peak / 1e6:.0f} MB')
    assert peak < EXTENSION_MEMORY


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can have an sshd that takes passwords')
def test_from_a_pairing_link_to_signed_in_with_the_password_once(new_phone, tab, lab):
    words = pairing_words(new_phone, lab.known_hosts(), lab.host, lab.port, lab.user)
    keys = lab.home / '.ssh/authorized_keys'
    before = keys.read_text() + '# a last line without an end'
    keys.write_text(before)
    accepted = lab.sshd_log().count('Accepted password')
    script = start_pairing(new_phone, words, password=PASSWORD)
    tab.open(new_phone.sign_in_page(script))
    tab.click('#continue')
    assert signed_in(script, tab, lab)
    added = keys.read_text()
    assert added.startswith(before + '\n') and len(added.splitlines()) == len(before.splitlines()) + 1
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert lab.sshd_log().count('Accepted password') == accepted + 1


@pytest.mark.parametrize('version', standins.PARAMIKOS)
def test_every_paramiko_of_today_signs_in(version, tmp_path, tab, lab):
    """On this very Python, as on a desktop; forwards are tested elsewhere."""
    python = stand_in(functools.partial(standins.desktop, version)).python
    home = Home(tmp_path / 'home')
    home.known_hosts.write_text(lab.known_hosts())
    with Script(home, '-i', lab.user_key(), DESTINATION, python=python, enter=lab.phone_command()) as script:
        tab.open(script.wait_for('sign-in')['url'])
        tab.click('#continue')
        tab.wait_for_text('Signed in to Codex')
        assert script.wait() == 0 and lab.auth_json()['tokens']
