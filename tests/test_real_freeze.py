"""iOS freezes the app, and the login still succeeds: with OpenSSH's sshd, the real codex and Chromium."""

import html
import re
import subprocess
import sys
import time

import pytest

import lab as laboratory
from harness import Home, SCRIPT, Script
from test_freeze import FROZEN, names, saved_sessions, take_listeners_away
from waiting import let_pass, until

LONG = 60
"""Patience with Chromium and codex on a busy machine."""

missing = laboratory.missing_parts()
pytestmark = pytest.mark.skipif(bool(missing), reason='; '.join(f'no {part}: {way}' for part, way in missing))

on_every_link = pytest.mark.parametrize('link', ['kept', 'cut'])


class Phone:
    """A person with a phone: the script and Chromium on it, and the server they sign in at."""

    def __init__(self, lab, browser):
        self.lab = lab
        self.home = Home(lab.phone_home)
        lab.trust_server()
        self.options = ['-i', lab.user_key(), '-F', 'none']
        self.tab = browser.new_tab()
        self.scripts = []

    def run(self, *words, **how):
        """Start the script against the server."""
        server = f'{laboratory.USER}@{laboratory.SERVER_NAME}'
        return self._started(
            Script(self.home, *words, *self.options, server, enter=self.lab.phone_command(), **how))

    def finish(self, address):
        """Start the script with a failed address, in a folder where it never was."""
        elsewhere = self.lab.phone_command(['env', f'--chdir={self.home.tmp}'])
        return self._started(Script(self.home, '--finish', address, enter=elsewhere))

    def _started(self, script):
        self.scripts.append(script)
        return script

    def opened(self, script):
        """Wait until the script has opened the sign-in page; its address."""
        address = script.wait_for('sign-in')['url']
        script.wait_for('opened')
        return address

    def sign_in(self, address):
        """Sign in on the page, and leave the browser to its redirect."""
        self.tab.open(address)
        self.tab.click('#continue')

    def redirect(self, address):
        """Sign in where no browser follows: the address that the issuer sends the browser to."""
        fetch = ('import ssl, sys, urllib.request as u;'
                 'print(u.urlopen(sys.argv[1], context=ssl._create_unverified_context()).read().decode())')
        page = self.lab.phone_run([sys.executable, '-c', fetch, address]).stdout
        return html.unescape(re.search('href="([^"]+)"', page)[1])

    def get(self, address):
        """One request from the phone, redirects not followed: status and Location."""
        ask = ('import http.client, sys, urllib.parse as p; url = p.urlsplit(sys.argv[1]);'
               'c = http.client.HTTPConnection("127.0.0.1", url.port, timeout=30);'
               'c.request("GET", f"{url.path}?{url.query}"); a = c.getresponse();'
               'print(a.status, a.getheader("Location"))')
        status, location = self.lab.phone_run([sys.executable, '-c', ask, address]).stdout.split()
        return int(status), location

    def deliveries(self):
        """How often codex went to the issuer with a code."""
        return sum(request['form'].get('grant_type') == 'authorization_code'
                   for request in self.lab.issuer.requests('/oauth/token'))

    def assert_signed_in(self, script, page=True):
        """Everybody agrees, codex was given one redirect, and nothing is left."""
        if page:
            self.tab.wait_for_text('Signed in', LONG)
        assert script.wait(LONG) == 0
        assert self.lab.auth_json()['tokens']['refresh_token']
        assert self.deliveries() == 1
        assert self.lab.server_leftovers() == []
        assert not saved_sessions(self.home)


@pytest.fixture
def phone():
    """A phone and a server, just for this test."""
    with laboratory.Lab() as lab, lab.browser() as browser:
        phone = Phone(lab, browser)
        yield phone
        for script in phone.scripts:
            print(script.report())      # shown where the test failed
            script.close()


# --- Frozen -------------------------------------------------------------------------------------------------

@on_every_link
def test_chromium_comes_back_after_the_app_was_frozen(phone, link):
    script = phone.run()
    address = phone.opened(script)
    script.stop()
    if link == 'cut':
        assert phone.lab.cut() == 1
    phone.sign_in(address)
    script.resume(after=FROZEN)
    phone.assert_signed_in(script)
    assert 'suspended' in names(script)
    assert ('reconnected' in names(script)) == (link == 'cut')


@on_every_link
def test_the_app_is_frozen_before_the_address_was_opened(phone, link):
    script = phone.run()
    script.wait_for('connected')
    script.stop()
    if link == 'cut':
        phone.lab.cut()
    script.resume(after=FROZEN)
    phone.sign_in(phone.opened(script))
    phone.assert_signed_in(script)


@on_every_link
def test_the_app_is_frozen_during_the_token_exchange(phone, link):
    phone.lab.issuer.configure(token_delay=3)
    script = phone.run()
    phone.sign_in(phone.opened(script))
    until(phone.deliveries)
    script.stop()
    if link == 'cut':
        phone.lab.cut()
    until(phone.lab.auth_json)
    script.resume(after=FROZEN)
    phone.assert_signed_in(script)


def test_the_connection_breaks_during_the_token_exchange(phone):
    phone.lab.issuer.configure(token_delay=3)
    script = phone.run()
    phone.sign_in(phone.opened(script))
    until(phone.deliveries)
    phone.lab.cut()
    phone.assert_signed_in(script)


@on_every_link
def test_the_app_is_frozen_between_callback_and_success(phone, link):
    script = phone.run()
    status, location = phone.get(phone.redirect(phone.opened(script)))
    assert status == 302
    script.stop()
    if link == 'cut':
        phone.lab.cut()
    phone.tab.open(location)
    script.resume(after=FROZEN)
    phone.assert_signed_in(script)


def test_the_network_is_down_at_wake_up_and_back_after_ten_seconds(phone):
    script = phone.run()
    address = phone.opened(script)
    script.stop()
    phone.lab.network_down()
    phone.sign_in(address)
    script.resume(after=FROZEN)
    phone.tab.wait_for_text('Go back to the app')
    let_pass(time.monotonic(), 2)       # the page has asked again in vain
    phone.lab.network_up()
    phone.assert_signed_in(script)


def test_the_phone_changed_to_another_network_while_the_app_was_frozen(phone):
    script = phone.run()
    address = phone.opened(script)
    script.stop()
    phone.lab.roam()
    phone.sign_in(address)
    script.resume(after=FROZEN)
    phone.tab.wait_for_text('Signed in', LONG)
    assert script.wait(LONG) == 0
    assert phone.lab.auth_json() and phone.deliveries() == 1
    # What the old connection left at the server ends with it; sshd itself will notice in time.
    phone.lab.cut()
    assert phone.lab.server_leftovers() == []


def test_three_freezes_in_a_row(phone):
    script = phone.run()
    address = phone.opened(script)
    for number in range(3):
        script.stop()
        phone.lab.cut()
        if number == 2:
            phone.sign_in(address)
        script.resume(after=FROZEN)
        if number < 2:
            script.wait_for('reconnected')
    phone.assert_signed_in(script)


def test_ios_took_the_listener_away(phone):
    script = phone.run()
    address = phone.opened(script)
    script.stop()
    assert take_listeners_away(script.process.pid) == 2
    phone.lab.cut()
    phone.sign_in(address)
    phone.tab.wait_for_text('ERR_CONNECTION_REFUSED')
    script.resume(after=FROZEN)
    script.wait_for('reconnected')
    until(lambda: 1455 in phone.lab.listeners('phone'))
    phone.tab.reload()
    phone.assert_signed_in(script)


# --- Killed, and finished by other ways -------------------------------------------------------------------

def test_killed_the_refused_redirect_loads_again_once_the_script_was_started_again(phone):
    first = phone.run()
    address = phone.opened(first)
    first.kill()
    phone.sign_in(address)
    phone.tab.wait_for_text('ERR_CONNECTION_REFUSED')
    second = phone.run()
    assert phone.opened(second) == address
    phone.tab.reload()
    phone.assert_signed_in(second)


def test_killed_after_the_callback_the_next_start_completes_the_login_by_itself(phone):
    first = phone.run()
    assert phone.get(phone.redirect(phone.opened(first)))[0] == 302
    first.kill()
    second = phone.run()
    phone.assert_signed_in(second, page=False)
    assert 'opened' not in names(second)


@pytest.mark.parametrize('stage', ['refused', 'exchanging', 'answered'])
def test_finish_completes_the_login_from_another_folder(phone, stage):
    first = phone.run()
    redirect = phone.redirect(phone.opened(first))
    if stage == 'answered':
        assert phone.get(redirect)[0] == 302
    if stage == 'exchanging':
        phone.lab.issuer.configure(token_delay=3)
        phone.tab.open(redirect)
        until(phone.deliveries)
    first.kill()
    second = phone.finish(redirect)
    phone.assert_signed_in(second, page=False)


def test_finish_takes_the_success_page_only_after_a_delivered_callback(phone):
    first = phone.run()
    address = phone.opened(first)
    early = phone.finish('http://localhost:1455/success?id_token=x')
    assert early.wait() == 255
    assert 'never arrived' in early.events[-2]['message']
    status, location = phone.get(phone.redirect(address))
    first.kill()
    late = phone.finish(location)
    phone.assert_signed_in(late, page=False)


def test_the_failed_address_is_pasted_at_the_terminal_that_waits(phone):
    script = phone.run(json_events=False, terminal=True)
    address = script.wait_for_text(r'^https://\S+')[0]
    script.wait_for_text('Your browser opens it')
    script.stop()
    take_listeners_away(script.process.pid)
    phone.sign_in(address)
    phone.tab.wait_for_text('ERR_CONNECTION_REFUSED')
    script.resume()
    script.answer('', phone.tab.url())
    phone.assert_signed_in(script, page=False)


def test_again_ends_the_login_under_way_and_begins_another(phone):
    first = phone.run()
    old = phone.opened(first)
    first.kill()
    second = phone.run('--again')
    new = phone.opened(second)
    assert new != old
    phone.sign_in(new)
    phone.assert_signed_in(second)


def test_the_server_was_rebooted_and_the_login_is_gone(phone):
    script = phone.run()
    phone.opened(script)
    script.stop()
    phone.lab.reboot_server()
    script.resume(after=FROZEN)
    assert script.wait() == 255
    assert script.events[-2]['kind'] == 'gone'
    assert phone.lab.server_leftovers() == [] and not saved_sessions(phone.home)


# --- What the deliverer relies on -------------------------------------------------------------------------

def test_codex_answers_a_later_request_only_after_the_redirect_it_works_at(phone):
    phone.lab.issuer.configure(token_delay=2)
    script = phone.run()
    redirect = phone.redirect(phone.opened(script))
    phone.tab.open(redirect)
    until(phone.deliveries)
    phone.lab.cut()
    assert phone.lab.auth_json() is None
    # From the server's side: the phone's port passes nothing but the redirect.
    ask = 'require("http").get("http://127.0.0.1:1455/favicon.ico", answer => console.log(answer.statusCode))'
    assert phone.lab.server_run([laboratory.SERVER_BIN + '/node', '-e', ask]).stdout.split() == ['404']
    assert phone.lab.auth_json() is not None
    phone.assert_signed_in(script)


ABANDON = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location('codex_login', sys.argv[1])
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
options = script.read_arguments(sys.argv[2:])
device = script.Device()
link = script.Link(script.settings_of(options, device), device, lambda *event, **fields: None)
link.connect()
link.keep()
channel = link.open_tcp('127.0.0.1', 4321)
print('open', flush=True)
sys.stdin.readline()
channel.sendall(b'too late')
link.suspect()
channel.connection.transport.join(60)
print('given up', flush=True)
sys.stdin.readline()
link.transport(60)
connections = [line.split() for line in open('/proc/net/tcp').read().splitlines()[1:]]
print([fields[4] for fields in connections if fields[2].endswith(f':{link.settings.port:04X}')], flush=True)
"""


def test_what_was_sent_into_a_dead_connection_never_arrives_after_it_was_given_up(phone):
    server = phone.lab.server_popen([laboratory.SERVER_BIN + '/node', '-e', """
        require('net').createServer(s => s.on('data', d => console.log(`got ${d}`)).on('error', () => 0))
            .listen(4321, '127.0.0.1', () => console.log('up'))"""], stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == 'up\n'
    driver = phone.lab.phone_popen(
        [sys.executable, '-c', ABANDON, SCRIPT, *phone.options, f'{phone.lab.user}@{phone.lab.host}'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == 'open\n'
    phone.lab.network_down()
    driver.stdin.write('\n')
    driver.stdin.flush()
    assert driver.stdout.readline() == 'given up\n'
    phone.lab.network_up()
    driver.stdin.write('\n')
    driver.stdin.flush()
    # The connection made anew, and no other that the system would still send something for.
    assert driver.stdout.readline().count(':') == 1
    assert driver.wait(LONG) == 0
    phone.lab.end_at_server('/node -e')
    assert server.stdout.read() == ''
