"""The script with real parts only: OpenSSH's sshd, accounts' shells, codex from npm, Chromium; see lab.py."""

import contextlib
import os
import re
import shutil
import subprocess
import sys

import lab as laboratory
import pytest
from chromium import BrowserShim
from harness import SCRIPT, Script
from waiting import comes, until
from lab import SERVER_ADDRESS_6, SERVER_BIN, SHELLS, SILENT_ADDRESS, STARTUP_FILES, SYSTEM_PATH, Lab

CTRL_C = '\x03'

# A browser without a screen: from the sign-in page, by its link, through every redirect, to the last page.
SIGN_IN = """
import html, re, ssl, sys, urllib.request
address, authority = sys.argv[1:]
page = urllib.request.urlopen(address, context=ssl.create_default_context(cafile=authority)).read().decode()
link = html.unescape(re.search('id="continue" href="([^"]*)"', page)[1])
print(urllib.request.urlopen(link).read().decode())
"""


class Phone:
    """The phone of a lab as the harness takes it; its browser hands the addresses to the test."""

    def __init__(self, lab, folder):
        self.lab, self.folder = lab, lab.phone_home
        self.shim = BrowserShim(folder)
        self.scripts = []

    def environment(self):
        return {'HOME': str(self.folder), 'TMPDIR': str(self.lab.phone_tmp), 'PATH': os.environ['PATH'],
                'TERM': 'xterm', 'LANG': 'C.UTF-8', 'USER': 'person', 'LOGNAME': 'person',
                'BROWSER': str(self.shim.path)}

    def run(self, *options, to=None, command=(), **how):
        """Start the script, by default as the account at the server; see harness.Script."""
        to = to or f'{self.lab.user}@{self.lab.host}' + (f':{self.lab.port}' if self.lab.port != 22 else '')
        script = Script(self, *options, to, *command, enter=self.lab.phone_command(), **how)
        self.scripts.append(script)
        return script

    def sign_in(self, address):
        """The last page that a browser gets which signs in at this address."""
        authority = str(self.lab.issuer.ca_file)
        done = self.lab.phone_run([sys.executable, '-I', '-c', SIGN_IN, address, authority], timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def default_key(self, kind='ed25519', **options):
        """A key where ssh looks for one by itself."""
        path = self.lab.user_key(kind, **options)
        for name in (path.name, path.name + '.pub'):
            (path.parent / name).rename(self.folder / '.ssh' / name)
        path.parent.rmdir()
        return self.folder / '.ssh' / path.name

    def left(self):
        """Whatever the scripts left behind, here and at the server."""
        saved = self.folder.glob('.local/state/codex-login/login-*')
        return self.lab.server_leftovers() + self.lab.phone_leftovers() + \
                                         [f'file {path.name}' for path in saved]

    def close(self):
        for script in self.scripts:
            print(script.report())      # shown with a test that fails
            script.close()
        self.shim.close()


@pytest.fixture
def make_phone(tmp_path, request):
    """Phones with their servers: a key lets them in and they know the server, unless `stranger`."""
    with contextlib.ExitStack() as stack:
        def make(stranger=False, **options):
            missing = laboratory.missing_parts(options.get('shell', 'bash'))
            if missing:
                pytest.skip('; '.join(f'no {part}: {way}' for part, way in missing))
            if options.get('password') and os.geteuid() != 0:
                pytest.skip('passwords at a real sshd need root')
            folder = tmp_path / str(len(request.node.phones))
            folder.mkdir()
            phone = Phone(stack.enter_context(Lab(**options)), folder)
            stack.callback(phone.close)
            request.node.phones.append(phone)
            if not stranger:
                phone.lab.trust_server()
                phone.default_key()
            return phone
        request.node.phones = []
        yield make


@pytest.fixture
def phone(make_phone):
    """A phone that is let in at a server where codex is on every session's PATH."""
    return make_phone()


def failure(script, status=255, **fields):
    """The error a script ended with, whose exit status is the one that is promised."""
    error = script.wait_for('error', **fields)
    assert script.wait() == status, script.report()
    assert 'Traceback' not in script.stderr
    return error


def connected(script):
    """The event that tells of the connection, of a run that did nothing else, and did it well."""
    event = script.wait_for('connected')
    assert script.wait() == 0, script.report()
    return event


# --- The main job -------------------------------------------------------------------------------------------

def test_a_person_signs_the_real_codex_in(phone):
    lab = phone.lab
    script = phone.run(json_events=False, terminal=True)
    address = script.wait_for_text(r'^(https://auth\.openai\.com/\S+)\r?$')[1]
    assert phone.shim.address() == address
    assert 1455 in lab.listeners('phone') and 1455 in lab.listeners('server')
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        tab.wait_for_text('Signed in to Codex')
        assert tab.url().startswith('http://127.0.0.1:1455/success')
    assert script.wait() == 0
    assert 'Successfully logged in' in script.screen.replace('\r', '').splitlines()
    assert lab.auth_json()['tokens']['refresh_token']
    assert (lab.codex_home / 'auth.json').stat().st_mode & 0o777 == 0o600
    assert lab.server_run(['codex', 'login', 'status']).returncode == 0
    assert phone.left() == []


def test_a_program_signs_the_real_codex_in_by_its_events(phone):
    script = phone.run()
    assert script.wait_for('listening')['port'] == 1455
    assert 'Signed in to Codex' in phone.sign_in(script.wait_for('sign-in')['url'])
    assert script.wait_for('signed-in')['text'].startswith('Logged in using ChatGPT')
    assert script.wait() == 0 and script.events[-1] == {'event': 'done', 'status': 0}
    requests = phone.lab.issuer.requests('/oauth/token')
    assert [request['status'] for request in requests if request['form']
        ['grant_type'] == 'authorization_code'] == [200]
    assert phone.left() == []


def test_the_file_alone_in_an_empty_folder_does_the_whole_job(phone, tmp_path):
    folder = tmp_path / 'alone'
    folder.mkdir()
    script = phone.run(script=shutil.copy(SCRIPT, folder), cwd=folder,
                       environment={'PYTHONDONTWRITEBYTECODE': '1'})
    assert 'Signed in to Codex' in phone.sign_in(script.wait_for('sign-in')['url'])
    assert script.wait() == 0 and phone.lab.auth_json()
    assert [path.name for path in folder.iterdir()] == [SCRIPT.name] and phone.left() == []


@pytest.mark.parametrize('shell, where', [*((shell, 'session') for shell in SHELLS), *STARTUP_FILES])
def test_codex_is_found_and_nothing_is_left_whatever_the_account_s_shell(make_phone, shell, where):
    phone = make_phone(shell=shell, codex_path=where)
    script = phone.run()
    assert 'Signed in to Codex' in phone.sign_in(script.wait_for('sign-in')['url'])
    assert script.wait() == 0 and phone.lab.auth_json()
    assert phone.left() == []


def test_a_present_login_is_named_kept_and_only_replaced_when_wanted(phone):
    first = phone.run()
    phone.sign_in(first.wait_for('sign-in')['url'])
    assert first.wait() == 0
    before = phone.lab.auth_json()

    second = phone.run()
    assert second.wait_for('signed-in')['text'] == 'Logged in using ChatGPT, person@example.test'
    assert second.wait() == 0 and phone.lab.auth_json() == before

    third = phone.run(json_events=False, terminal=True)
    third.answer('anew', 'no')
    assert third.wait() == 0 and phone.lab.auth_json() == before
    assert 'person@example.test' in third.screen

    fourth = phone.run('--again')
    phone.sign_in(fourth.wait_for('sign-in')['url'])
    assert fourth.wait() == 0 and phone.lab.auth_json()['tokens'] != before['tokens']
    assert phone.left() == []


@pytest.mark.parametrize('line, folder', [
    ('CODEX_HOME=~/other codex login', 'other'), (f'{SERVER_BIN}/codex login', '.codex'), ('codex -c model=o3 login -c a.b=c', '.codex'),
    ('sh -c "codex login"', '.codex')], ids=['home', 'path', 'options', 'shell'])
def test_the_real_codex_keeps_its_login_however_it_is_written(phone, line, folder):
    phone.lab.server_run(['mkdir', '-p', folder])
    first = phone.run(command=(line,))
    phone.sign_in(first.wait_for('sign-in')['url'])
    assert first.wait_for('signed-in')['text'] == 'Logged in using ChatGPT, person@example.test'
    assert first.wait() == 0
    tokens = phone.lab.home / folder / 'auth.json'
    before = tokens.read_text()

    second = phone.run(command=(line,))
    assert second.wait_for('signed-in')['text'].startswith('Logged in using ChatGPT')
    assert second.wait() == 0 and tokens.read_text() == before and 'sign-in' not in [event['event'] for event in second.events]
    assert phone.left() == []


def test_the_one_time_code_is_shown_and_the_end_awaited(phone):
    script = phone.run('--device-auth')
    said = script.wait_for('device-code')
    assert (said['url'], said['code']) == ('https://auth.openai.com/codex/device', 'E70A-863A2')
    assert phone.shim.address() == said['url']
    phone.lab.issuer.configure(device='allow')
    assert script.wait() == 0 and phone.lab.auth_json()
    assert phone.left() == []


def test_a_one_time_code_that_is_not_allowed_is_explained(phone):
    phone.lab.issuer.configure(device='disabled')
    error = failure(phone.run('--device-auth'), status=1, kind='remote')
    assert 'device' in error['message'] and 'without --device-auth' in error['hint']
    assert phone.left() == []


# --- Bad days of the sign-in --------------------------------------------------------------------------------

def page_after_sign_in(phone, script, text):
    """What Chromium shows in the end, once `text` is there."""
    address = script.wait_for('sign-in')['url']
    with phone.lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        return tab.wait_for_text(text)


def test_a_person_may_say_no(phone):
    phone.lab.issuer.configure(authorize='deny')
    script = phone.run()
    assert 'access_denied' in page_after_sign_in(phone, script, 'could not be completed')
    error = failure(script, status=1, kind='remote')
    assert 'Sign-in failed' in error['message'] and error['hint']
    assert phone.left() == [] and phone.lab.auth_json() is None


def test_a_failed_token_exchange_points_at_the_server_s_network(phone):
    phone.lab.issuer.configure(token_status=403)
    script = phone.run()
    assert '403 Forbidden' in page_after_sign_in(phone, script, 'could not be completed')
    error = failure(script, status=1, kind='remote')
    assert 'Token exchange failed' in error['message']
    assert 'proxy' in error['hint'] and 'server' in error['hint']
    assert phone.left() == []


def test_a_code_that_is_too_old_means_start_again_and_whoever_was_signed_in_before_is_so_no_more(phone):
    first = phone.run()
    phone.sign_in(first.wait_for('sign-in')['url'])
    assert first.wait() == 0
    phone.lab.issuer.configure(token_status=400)
    script = phone.run('--again')
    assert '400 Bad Request' in page_after_sign_in(phone, script, 'could not be completed')
    error = failure(script, status=1, kind='remote')
    assert 'Token exchange failed' in error['message'] and error['message'].endswith('\nNobody is signed in there now.')
    assert error['hint'].startswith('Start again') and phone.lab.auth_json() is None and phone.left() == []


def test_a_redirect_of_another_attempt_is_refused_and_the_login_goes_on(phone):
    phone.lab.issuer.configure(authorize='wrong-state')
    script = phone.run()
    page_after_sign_in(phone, script, 'State mismatch')
    phone.lab.issuer.configure(authorize='allow')
    address = next(event['url'] for event in script.events if event['event'] == 'sign-in')
    assert 'Signed in to Codex' in phone.sign_in(address)
    assert script.wait() == 0 and phone.left() == []


def test_a_port_that_is_busy_at_the_server_makes_codex_take_1457(phone):
    lab = phone.lab
    ssh = lab.ssh('-o', 'ExitOnForwardFailure=yes', '-R', '1455:127.0.0.1:9', lab.host, 'echo held; cat',
                  key=phone.folder / '.ssh/id_ed25519')
    holder = lab.phone_popen(ssh, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert holder.stdout.readline() == b'held\n'
    script = phone.run()
    sign_in = script.wait_for('sign-in', timeout=40)
    assert sign_in['port'] == 1457
    assert 'Signed in to Codex' in phone.sign_in(sign_in['url'])
    assert script.wait() == 0
    holder.communicate()
    assert phone.left() == []


def test_a_port_that_is_busy_here_is_named_and_nothing_is_opened(phone):
    lab = phone.lab
    program = 'import socket; s = socket.create_server(("", 1455)); print("held", flush=True); input()'
    holder = lab.phone_popen([sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b'held\n'
    error = failure(phone.run(), kind='listen')
    assert '1455' in error['message'] and error['hint']
    holder.communicate(b'\n')
    assert phone.left() == []


def test_another_login_at_the_server_ends_this_one_and_that_is_said(phone):
    script = phone.run()
    script.wait_for('sign-in')
    phone.lab.server_popen(['timeout', '60', 'codex', 'login'], env={
                           'BROWSER': 'true'}, stderr=subprocess.DEVNULL)
    error = failure(script, status=1, kind='remote')
    assert 'Login cancelled' in error['message'] and 'nother login' in error['hint']
    assert phone.lab.end_at_server('codex login')


def test_a_server_that_forwards_nothing_says_so_before_anybody_signs_in(make_phone):
    phone = make_phone(sshd_options={'AllowTcpForwarding': 'no'})
    error = failure(phone.run(), kind='forbidden')
    assert 'AllowTcpForwarding' in error['hint'] and '--device-auth' in error['hint']
    assert phone.lab.issuer.requests('/oauth/authorize') == [] and phone.left() == []


def test_a_full_temporary_folder_is_named(make_phone):
    phone = make_phone(tmp_size='64k')
    phone.lab.server_run(['sh', '-c', 'head -c 100000 /dev/zero >/tmp/much; echo no folder >/home/kim/.cache'])
    error = failure(phone.run(), kind='remote')
    assert '/tmp' in error['message'] and 'full' in error['message'] and error['hint']
    assert phone.left() == ['file /tmp/much']


def test_codex_that_is_not_installed(make_phone):
    phone = make_phone(codex_path=None)
    error = failure(phone.run(), kind='not-installed')
    assert 'codex' in error['message'] and 'nstall' in error['hint']
    assert phone.left() == []


def without_node(make_phone, profile):
    """A server whose sessions find codex, but not its node; `profile` is what login shells read."""
    phone = make_phone(codex_path=None, session_env={'PATH': '/home/kim/bin'})
    folder = phone.lab.home / 'bin'
    folder.mkdir()
    tools = {tool: place for place in reversed(SYSTEM_PATH.split(':')) for tool in os.listdir(place)}
    for tool, place in tools.items():
        if tool not in ('node', 'codex'):
            (folder / tool).symlink_to(f'{place}/{tool}')
    (folder / 'codex').symlink_to(f'{SERVER_BIN}/codex')
    (phone.lab.home / '.profile').write_text(profile)
    return phone


def test_node_that_is_missing_is_named(make_phone):
    phone = without_node(make_phone, 'PATH=$HOME/bin')
    error = failure(phone.run(), kind='not-installed')
    assert 'node, which codex needs, is not installed' in error['message'] and '.profile' in error['hint']
    assert phone.left() == []


def test_node_that_only_login_shells_have_is_found(make_phone):
    phone = without_node(make_phone, f'PATH={SERVER_BIN}:$HOME/bin')
    script = phone.run()
    assert 'Signed in to Codex' in phone.sign_in(script.wait_for('sign-in')['url'])
    assert script.wait() == 0 and phone.left() == []


# --- Lost, killed, cancelled --------------------------------------------------------------------------------

def codex_at_server(phone):
    return [line for line in phone.lab.server_processes() if re.search(r'codex( |$).*login', line)]


def test_a_connection_that_is_cut_leaves_codex_serving_and_the_login_goes_on(phone):
    script = phone.run()
    address = script.wait_for('sign-in')['url']
    script.wait_for('opened')
    before = codex_at_server(phone)
    assert before and phone.lab.cut() == 1
    assert codex_at_server(phone) == before and 1455 in phone.lab.listeners('server')
    assert 'Signed in to Codex' in phone.sign_in(address)
    assert script.wait() == 0 and phone.lab.auth_json()
    assert phone.lab.connections_made() == 2 and phone.left() == []


def test_codex_whose_script_was_killed_serves_on_and_ends_by_itself_in_time(phone):
    script = phone.run('--timeout', '2')
    script.wait_for('opened')
    script.kill()
    assert codex_at_server(phone) and 1455 in phone.lab.listeners('server')
    assert phone.lab.end_at_server('^sleep [0-9]{3}$') == 1       # its time is over
    assert phone.lab.server_leftovers(patience=60) == []


def test_a_login_that_nobody_completes_times_out_here_and_there(phone):
    error = failure(phone.run('--timeout', '3'), status=124, kind='timeout')
    assert '3 s' in error['message'] and phone.left() == []


def test_ctrl_c_while_connecting(phone):
    script = phone.run(to=f'kim@{SILENT_ADDRESS}')
    script.wait_for('connecting')
    script.interrupt()
    assert failure(script, status=130, kind='cancelled') and phone.left() == []


def test_ctrl_c_while_codex_is_being_looked_for(make_phone):
    phone = make_phone(codex_path='login')
    profile = phone.lab.home / '.profile'
    profile.write_text(f': >"$HOME/began"; sleep 1\n{profile.read_text()}')
    script = phone.run()
    script.wait_for('connected')
    assert until((phone.lab.home / 'began').exists)
    script.interrupt()
    assert failure(script, status=130, kind='cancelled')
    assert phone.left() == []
    # What was on its way when Ctrl-C came would have begun by now.
    assert not comes(lambda: codex_at_server(phone), 2)


def test_ctrl_c_while_the_browser_is_out(phone):
    script = phone.run(json_events=False, terminal=True)
    script.answer('come back here', CTRL_C)
    assert script.wait() == 130 and 'Traceback' not in script.screen
    assert phone.left() == [] and phone.lab.auth_json() is None


def test_ctrl_c_while_codex_asks_for_its_tokens(phone):
    phone.lab.issuer.configure(token_delay=20)
    script = phone.run()
    address = script.wait_for('sign-in')['url']
    command = [sys.executable, '-I', '-c', SIGN_IN, address, str(phone.lab.issuer.ca_file)]
    browser = phone.lab.phone_popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert until(lambda: phone.lab.issuer.requests('/oauth/authorize'))
    script.wait_for('opened')
    script.interrupt()
    assert failure(script, status=130, kind='cancelled')
    browser.wait(30)
    assert phone.left() == []


# --- Host keys ----------------------------------------------------------------------------------------------

def fingerprint(phone, kind='ed25519'):
    [line] = [line for line in phone.lab.known_hosts().splitlines() if kind in line.split()[1]]
    said = subprocess.run(['ssh-keygen', '-lf', '-'], input=line, capture_output=True, text=True, check=True)
    return said.stdout.split()[1]


def known_hosts(phone):
    return phone.folder / '.ssh/known_hosts'


def test_an_unknown_host_key_is_shown_and_refused_without_a_person(phone):
    known_hosts(phone).unlink()
    error = failure(phone.run(), kind='host-key')
    assert fingerprint(phone) in error['message'] and 'accept-new' in error['hint']
    assert not known_hosts(phone).exists()


def test_a_person_who_says_yes_is_asked_once_and_ssh_agrees(phone):
    known_hosts(phone).unlink()
    script = phone.run(json_events=False, terminal=True, command=('true',))
    script.wait_for_text(re.escape(fingerprint(phone)))
    script.answer('yes/no', 'yes')
    assert script.wait() == 0
    assert connected(phone.run(command=('true',)))
    ssh = ['ssh', '-F', 'none', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=yes',
           '-o', f'UserKnownHostsFile={known_hosts(phone)}', '-i', phone.folder / '.ssh/id_ed25519',
           f'{phone.lab.user}@{phone.lab.host}', 'true']
    assert phone.lab.phone_run(ssh).returncode == 0


def test_accept_new_accepts_new_ones_only(phone):
    known_hosts(phone).unlink()
    assert connected(phone.run('-o', 'StrictHostKeyChecking=accept-new', command=('true',)))
    other = phone.lab.known_hosts().split()[2]
    text = known_hosts(phone).read_text()
    known_hosts(phone).write_text('# mine\n' + re.sub(r'AAAA\S+', other[:-8] + 'AAAAAAA=', text))
    error = failure(phone.run('-o', 'StrictHostKeyChecking=accept-new', command=('true',)), kind='host-key')
    assert 'CHANGED' in error['message'] and f'{known_hosts(phone)}, line 2' in error['message']
    assert 'ssh-keygen -R' in error['hint']


def test_a_revoked_host_key_is_refused(phone):
    key = phone.lab.known_hosts('*')
    known_hosts(phone).write_text(phone.lab.known_hosts() +
     ''.join(f'@revoked {line}\n' for line in key.splitlines()))
    assert 'revoked' in failure(phone.run(), kind='host-key')['message']


def test_hashed_entries_on_another_port(make_phone):
    phone = make_phone(port=2222)
    assert known_hosts(phone).read_text().startswith('[server.test]:2222 ')
    subprocess.run(['ssh-keygen', '-H', '-f', str(known_hosts(phone))], check=True, capture_output=True)
    assert 'server.test' not in known_hosts(phone).read_text()
    assert connected(phone.run(command=('true',)))['address'].endswith(':2222')
    assert connected(phone.run('-p', '2222', to='kim@server.test', command=('true',)))
    assert connected(phone.run(to='ssh://kim@server.test:2222', command=('true',)))


@pytest.mark.parametrize('kind', ['ed25519', 'ecdsa', 'rsa'])
def test_of_several_host_keys_the_known_one_is_asked_for(phone, kind):
    name = {'ed25519': 'ssh-ed25519', 'ecdsa': 'ecdsa-sha2-nistp256', 'rsa': 'ssh-rsa'}[kind]
    lines = [line for line in known_hosts(phone).read_text().splitlines() if line.split()[1] == name]
    known_hosts(phone).write_text(lines[0] + '\n')
    assert connected(phone.run(command=('true',)))['fingerprint'] == fingerprint(phone, kind)


def test_a_server_is_reached_by_its_ipv6_address(phone):
    known_hosts(phone).write_text(phone.lab.known_hosts(SERVER_ADDRESS_6))
    for to in (f'kim@{SERVER_ADDRESS_6}', f'kim@[{SERVER_ADDRESS_6}]', f'kim@[{SERVER_ADDRESS_6}]:22'):
        assert connected(phone.run(to=to, command=('true',)))['address'] == f'[{SERVER_ADDRESS_6}]:22'


def test_a_server_of_openssh_10_is_no_obstacle(make_phone):
    phone = make_phone(sshd_options=laboratory.openssh_10_options())
    assert connected(phone.run(command=('true',)))


def test_a_refused_and_a_filtered_port(phone):
    assert 'did not answer within 2 s' in failure(
        phone.run('-o', 'ConnectTimeout=2', to=f'kim@{SILENT_ADDRESS}'))['message']
    phone.lab.stop_sshd()
    assert 'refused' in failure(phone.run(), kind='connect')['message']


# --- Who one is ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind, form', [('ed25519', False),
                         ('ecdsa', False), ('rsa', False), ('ecdsa', True), ('rsa', True)])
def test_keys_of_every_kind_and_form_let_one_in(make_phone, kind, form):
    phone = make_phone(stranger=True)
    phone.lab.trust_server()
    assert connected(phone.run('-i', phone.lab.user_key(kind, pem=form), command=('true',)))


@pytest.mark.parametrize('kind, form', [('ed25519', False), ('rsa', True)])
def test_an_encrypted_key_asks_for_its_passphrase(make_phone, kind, form):
    phone = make_phone(stranger=True)
    phone.lab.trust_server()
    key = phone.lab.user_key(kind, passphrase='sesame', pem=form)
    script = phone.run('-i', key, json_events=False, terminal=True, command=('true',))
    script.answer('assphrase', 'wrong')
    script.answer('assphrase', 'sesame')
    assert script.wait() == 0 and 'sesame' not in script.screen
    error = failure(phone.run('-i', key, command=('true',)), kind='auth')
    assert 'passphrase' in error['hint'] and str(key) in error['hint']


def test_a_key_that_the_server_does_not_know_is_refused_by_name(make_phone):
    phone = make_phone(stranger=True)
    phone.lab.trust_server()
    key = phone.default_key(authorized=False)
    error = failure(phone.run(), kind='auth')
    assert 'ermission denied' in error['message'] and str(key) in error['hint']


def test_passwords_are_asked_for_three_times(make_phone):
    phone = make_phone(stranger=True, password='right horse')
    phone.lab.trust_server()
    script = phone.run(json_events=False, terminal=True, command=('true',))
    script.answer('password:', 'wrong horse')
    script.answer('password:', 'right horse')
    assert script.wait() == 0
    script = phone.run(json_events=False, terminal=True)
    for _ in range(3):
        script.answer('password:', 'wrong horse')
    assert script.wait() == 255
    assert 'ermission denied' in script.screen and 'horse' not in script.screen


def test_keyboard_interactive_asks_what_the_server_asks(make_phone):
    if not os.path.exists('/etc/pam.d/sshd'):
        pytest.skip('no /etc/pam.d/sshd: this sshd asks nothing by keyboard-interactive')
    phone = make_phone(stranger=True, password='right horse', sshd_options={
        'UsePAM': 'yes', 'KbdInteractiveAuthentication': 'yes', 'PasswordAuthentication': 'no'})
    phone.lab.trust_server()
    script = phone.run(json_events=False, terminal=True, command=('true',))
    script.answer('assword:', 'right horse')
    assert script.wait() == 0 and 'horse' not in script.screen


def test_a_key_and_a_password_together(make_phone):
    phone = make_phone(password='right horse', sshd_options={'AuthenticationMethods': 'publickey,password'})
    script = phone.run(json_events=False, terminal=True, command=('true',))
    script.answer('password:', 'right horse')
    assert script.wait() == 0


@pytest.fixture
def agent(make_phone, tmp_path):
    """A phone whose only key is in an ssh-agent, and the variable that leads there."""
    phone = make_phone(stranger=True)
    phone.lab.trust_server()
    key = phone.lab.user_key(passphrase='')
    variable = {'SSH_AUTH_SOCK': str(phone.folder / 'agent')}
    process = phone.lab.phone_popen(
        ['ssh-agent', '-D', '-a', variable['SSH_AUTH_SOCK']], stdout=subprocess.PIPE)
    assert process.stdout.readline()
    assert phone.lab.phone_run(['ssh-add', key], env=variable).returncode == 0
    key.unlink()
    yield phone, variable, key
    process.terminate()
    process.wait()


def test_the_agent_s_keys_let_one_in(agent):
    phone, variable, key = agent
    assert connected(phone.run(environment=variable, command=('true',)))
    named = phone.run('-i', key, '-o', 'IdentitiesOnly=yes', environment=variable, command=('true',))
    assert connected(named)
    key.with_suffix('.pub').unlink()
    other = phone.lab.user_key(authorized=False)
    assert failure(phone.run('-i', other, '-o', 'IdentitiesOnly=yes', environment=variable), kind='auth')


def test_an_agent_that_is_gone_is_no_failure(phone):
    assert connected(phone.run(environment={'SSH_AUTH_SOCK': '/no/such/socket'}, command=('true',)))


def test_a_host_of_the_ssh_configuration_signs_in(make_phone):
    phone = make_phone(stranger=True, port=2222)
    phone.lab.trust_server()
    key = phone.lab.user_key()
    more = phone.folder / '.ssh/config.d'
    more.mkdir()
    (more / 'work.conf').write_text(
        f'Host w?rk !other\n    HostName {phone.lab.host}\n    Port 2222\n    IdentityFile {key}\n')
    (phone.folder / '.ssh/config').write_text(
        f'Include config.d/*.conf\nHost *\n    User {phone.lab.user}\n    HostName {SILENT_ADDRESS}\n')
    script = phone.run(to='work')
    assert 'Signed in to Codex' in phone.sign_in(script.wait_for('sign-in')['url'])
    assert script.wait() == 0 and phone.left() == []
