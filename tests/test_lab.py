"""The laboratory does what the real tests rely on: what works is real, and what goes wrong is seen."""

import os
import re
import signal
import subprocess
import sys
import threading

import pytest

import lab as laboratory
from chromium import BrowserShim
from lab import SHELLS, SILENT_ADDRESS, STARTUP_FILES, Lab
from waiting import PATIENCE, comes, until


@pytest.fixture
def make_lab():
    """Labs of any kind, all ended with the test."""
    labs = []

    def make(**options):
        missing = laboratory.missing_parts(options.get('shell', 'bash'))
        if missing:
            pytest.skip('; '.join(f'no {part}: {way}' for part, way in missing))
        labs.append(Lab(**options).__enter__())
        return labs[-1]
    yield make
    for made in labs:
        made.__exit__(None, None, None)


@pytest.fixture
def lab(make_lab):
    """A lab as most tests want it."""
    return make_lab()


def start_login(lab, *forward, command='BROWSER=true codex login'):
    """OpenSSH's client on the phone running the login; the process and the sign-in address."""
    ssh = lab.ssh(*forward, lab.host, command, key=lab.user_key())
    process = lab.phone_popen(['timeout', '90', *ssh],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    shown = ''
    for line in process.stdout:
        shown += line
        if line.startswith('https://'):
            return process, line.strip()
    pytest.fail(f'no address was shown: {shown}')


# -- what works is real -------------------------------------------------------------------------------------

def test_the_known_cure_signs_the_real_codex_in(lab):
    process, address = start_login(lab, '-L', '1455:127.0.0.1:1455')
    assert 1455 in lab.listeners('phone') and 1455 in lab.listeners('server')
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        assert 'You may now close this page' in tab.wait_for_text('Signed in to Codex')
        assert tab.url().startswith('http://127.0.0.1:1455/success')
    assert 'Successfully logged in' in process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0
    assert lab.auth_json()['tokens']['refresh_token']
    assert (lab.codex_home / 'auth.json').stat().st_mode & 0o777 == 0o600
    assert lab.server_run(['codex', 'login', 'status']).stderr == 'Logged in using ChatGPT\n'
    assert lab.server_leftovers() == [] and lab.phone_leftovers() == []


def test_without_a_forward_the_browser_is_refused_because_each_side_has_its_own_loopback(lab):
    _, address = start_login(lab)
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        tab.wait_for_text('ERR_CONNECTION_REFUSED')
        assert tab.url().startswith('http://127.0.0.1:1455/auth/callback?code=')
    assert lab.auth_json() is None


def test_the_device_code_is_allowed_later(lab):
    login = lab.server_popen(['timeout', '60', 'codex', 'login', '--device-auth'],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert until(lambda: lab.issuer.requests('/api/accounts/deviceauth/token'))
    lab.issuer.configure(device='allow')
    assert 'Successfully logged in' in login.communicate(timeout=30)[0]
    assert lab.auth_json() is not None


@pytest.mark.parametrize('shell', SHELLS)
def test_an_account_has_the_login_shell_it_was_given(make_lab, shell):
    lab = make_lab(shell=shell, codex_path='login')
    ssh = lab.ssh(lab.host, key=lab.user_key())
    asked = lab.phone_run(['timeout', '20', *ssh], input='ps -eo args=; which codex; exit\n')
    lines = asked.stdout.splitlines()
    assert f'-{shell}' in lines and lines[-1] == f'{laboratory.SERVER_BIN}/codex'
    bare = lab.phone_run(['timeout', '20', *ssh, 'codex --version'])
    assert bare.returncode != 0 and 'codex' in bare.stderr


@pytest.mark.parametrize('shell', [shell for shell, where in STARTUP_FILES if where == 'interactive'])
def test_codex_may_be_found_by_interactive_shells_only(make_lab, shell):
    lab = make_lab(shell=shell, codex_path='interactive')

    found = f'{laboratory.SERVER_BIN}/codex'
    assert found in lab.server_run([shell, '-i'], input='which codex\n').stdout
    assert found not in lab.server_run([shell, '-c', 'which codex']).stdout


def test_a_server_without_codex_has_none_even_if_the_machine_does(make_lab):
    lab = make_lab(codex_path=None)
    assert lab.phone_run(lab.ssh(lab.host, 'codex login', key=lab.user_key())).returncode == 127


@pytest.mark.skipif(os.geteuid() != 0, reason='passwords at a real sshd need root')
def test_a_password_opens_the_account_and_a_wrong_one_does_not(make_lab, tmp_path):
    lab = make_lab(password='right horse')
    answers = {}
    for word in ('right horse', 'wrong horse'):
        ask = tmp_path / word.replace(' ', '-')
        ask.write_text(f"#!/bin/sh\necho '{word}'\n")
        ask.chmod(0o755)
        client = ['ssh', '-F', 'none', '-o', f'UserKnownHostsFile={lab.trust_server()}', '-l', lab.user,
                  '-o', 'NumberOfPasswordPrompts=1', '-o', 'PubkeyAuthentication=no', lab.host, 'echo in']
        asking = {'SSH_ASKPASS': str(ask), 'SSH_ASKPASS_REQUIRE': 'force'}
        answers[word] = lab.phone_run(client, env=asking).stdout
    assert answers == {'right horse': 'in\n', 'wrong horse': ''}


def test_an_openssh_10_server_offers_no_finite_field_exchange(make_lab):
    lab = make_lab(host_keys=('ed25519', 'ecdsa'), sshd_options=laboratory.openssh_10_options())
    key = lab.user_key('ecdsa')
    assert lab.phone_run(lab.ssh(lab.host, 'true', key=key)).returncode == 0
    finite_field = 'KexAlgorithms=diffie-hellman-group14-sha256'
    old = lab.phone_run(lab.ssh('-o', finite_field, lab.host, 'true', key=key))
    assert old.returncode == 255 and 'no matching key exchange method' in old.stderr


def test_the_server_is_reached_by_ipv6_as_well(lab):
    ssh = lab.ssh('-o', f'HostKeyAlias={lab.host}', laboratory.SERVER_ADDRESS_6, 'echo $SSH_CONNECTION',
                  key=lab.user_key())
    assert laboratory.SERVER_ADDRESS_6 in lab.phone_run(ssh).stdout


def test_two_labs_do_not_notice_each_other(make_lab):
    first, second = make_lab(), make_lab()
    assert first.phone_run(first.ssh(first.host, 'touch mine', key=first.user_key())).returncode == 0
    assert (first.home / 'mine').exists() and not (second.home / 'mine').exists()
    assert (first.connections_made(), second.connections_made()) == (1, 0)


def test_the_browser_variable_hands_the_address_to_the_test(lab, tmp_path):
    shim = BrowserShim(tmp_path)
    program = "import webbrowser; print(webbrowser.open('https://a.test/?b=1&c=%20d'))"
    opened = lab.phone_run([sys.executable, '-c', program], env={'BROWSER': str(shim.path)})
    assert opened.stdout == 'True\n'
    assert shim.address() == 'https://a.test/?b=1&c=%20d'
    shim.close()


# -- what goes wrong is seen --------------------------------------------------------------------------------

def test_what_is_left_behind_is_seen(lab):
    careless = 'nohup sleep 1000 >/dev/null 2>&1 & touch /tmp/left'
    assert lab.phone_run(lab.ssh(lab.host, careless, key=lab.user_key())).returncode == 0
    assert until(lambda: lab.connections() == [])
    assert until(lambda: lab.server_leftovers(patience=0) == ['process sleep 1000', 'file /tmp/left'])
    assert lab.end_at_server('^sleep 1000$') == 1
    assert lab.server_leftovers(patience=0) == ['file /tmp/left']
    lab.phone_popen(['sleep', '1000'])
    assert until(lambda: lab.phone_leftovers(patience=0) == ['process sleep 1000'])


def test_nothing_outlives_the_lab(make_lab):
    lab = make_lab()
    lab.phone_popen(['sleep', '4711'])
    lab.server_popen(['setsid', 'sleep', '4712'])
    assert until(lambda: lab.server_processes() and lab.phone_processes())
    lab.__exit__(None, None, None)
    running = subprocess.run(['ps', '-eo', 'args'], capture_output=True, text=True).stdout
    assert not re.search(r'^sleep 471[12]$', running, re.M)
    assert not lab.folder.exists()


def test_a_connection_cut_at_the_server_ends_the_client_but_not_what_was_detached(lab):
    client = lab.phone_popen(lab.ssh(lab.host, 'setsid sleep 1000 & echo started; wait', key=lab.user_key()),
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert client.stdout.readline() == b'started\n'
    assert len(lab.connections()) == 1
    assert lab.cut() == 1
    assert client.wait(10) == 255
    assert lab.connections() == [] and until(lambda: 'sleep 1000' in lab.server_processes())


def test_one_of_two_connections_is_cut(lab):
    key = lab.user_key()
    first, second = (lab.phone_popen(lab.ssh(lab.host, 'echo in; cat', key=key), stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2))
    assert first.stdout.readline() == second.stdout.readline() == b'in\n'
    lab.cut(lab.connections()[0])
    assert until(lambda: (first.poll() is None) != (second.poll() is None))
    assert len(lab.connections()) == 1
    assert lab.connections_made() == 2


def test_an_outage_is_silent_and_what_was_sent_arrives_afterwards(lab):
    client = lab.phone_popen(lab.ssh(lab.host, 'cat', key=lab.user_key()), stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, bufsize=0)
    client.stdin.write(b'before\n')
    assert client.stdout.readline() == b'before\n'
    lab.network_down()
    client.stdin.write(b'during\n')
    heard = []
    reader = threading.Thread(target=lambda: heard.append(client.stdout.readline()))
    reader.start()
    reader.join(1.5)
    assert heard == [] and client.poll() is None
    lab.network_up()
    reader.join(20)
    assert heard == [b'during\n']


def test_the_issuer_stays_in_reach_while_phone_and_server_are_apart(lab):
    lab.network_down()
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open('https://auth.openai.com/codex/device')
        tab.wait_for_text('Enter the code')


def test_a_frozen_tunnel_holds_the_browser_until_it_wakes(lab):
    login, address = start_login(lab)
    tunnel = lab.phone_popen(lab.ssh('-N', '-L', '1455:127.0.0.1:1455', lab.host, key=lab.user_key()))
    assert until(lambda: 1455 in lab.listeners('phone'))
    os.kill(tunnel.pid, signal.SIGSTOP)
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        assert until(tab.waiting_for)
        assert not comes(lambda: tab.waiting_for() is None, 2)
        assert tab.waiting_for().startswith('http://127.0.0.1:1455/auth/callback?code=')
        assert lab.issuer.requests('/oauth/token') == []
        os.kill(tunnel.pid, signal.SIGCONT)
        tab.wait_for_text('Signed in to Codex')
    assert 'Successfully logged in' in login.communicate(timeout=PATIENCE)[0]


def test_a_phone_that_changed_networks_gets_new_connections_only(lab):
    key = lab.user_key()
    alive = ('-o', 'ServerAliveInterval=1', '-o', 'ServerAliveCountMax=2')
    old = lab.phone_popen(lab.ssh(*alive, lab.host, 'echo in; cat', key=key), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert old.stdout.readline() == b'in\n'
    lab.roam()
    new = lab.phone_run(lab.ssh(lab.host, 'echo $SSH_CONNECTION', key=key))
    assert new.stdout.startswith(laboratory.ROAMING_ADDRESS)
    assert old.wait(PATIENCE) == 255


def test_a_stopped_sshd_refuses_and_a_filtered_port_is_silent(lab):
    key = lab.user_key()
    lab.stop_sshd()
    assert 'Connection refused' in lab.phone_run(lab.ssh(lab.host, 'true', key=key)).stderr
    lab.start_sshd()
    assert lab.phone_run(lab.ssh(lab.host, 'true', key=key)).returncode == 0
    filtered = lab.phone_run(lab.ssh('-o', 'ConnectTimeout=2', SILENT_ADDRESS, 'true', key=key))
    assert 'timed out' in filtered.stderr


def test_a_full_disk_is_full(make_lab):
    lab = make_lab(tmp_size='64k')
    written = lab.phone_run(lab.ssh(lab.host, 'head -c 100000 /dev/zero >/tmp/much', key=lab.user_key()))
    assert 'No space left on device' in written.stderr


def test_a_reboot_ends_everything_but_keeps_the_host_keys(lab):
    key = lab.user_key()
    lab.phone_run(lab.ssh(lab.host, 'touch /tmp/old; setsid sleep 1000 >/dev/null 2>&1 &', key=key))
    lab.reboot_server()
    assert lab.server_leftovers() == []
    assert lab.phone_run(lab.ssh(lab.host, 'true', key=key)).returncode == 0


# -- what the issuer can be told ----------------------------------------------------------------------------

def page_after_sign_in(lab, **settings):
    """Sign in with the issuer so disposed; the page that is shown, and the login's words and status."""
    lab.issuer.configure(**settings)
    process, address = start_login(lab, '-L', '1455:127.0.0.1:1455')
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        page = tab.wait_for_text('could not be completed')
    return page, process.communicate(timeout=PATIENCE)[0], process.returncode


def test_a_refused_token_exchange_fails_the_login(lab):
    page, words, status = page_after_sign_in(lab, token_status=403)
    assert 'token endpoint returned status 403 Forbidden' in page
    assert 'Token exchange failed: token endpoint returned status 403 Forbidden' in words and status == 1


def test_a_person_may_say_no(lab):
    page, words, status = page_after_sign_in(lab, authorize='deny')
    assert 'access_denied' in page and 'Error logging in: Sign-in failed' in words and status == 1


def test_a_redirect_of_another_attempt_leaves_the_login_waiting(lab):
    lab.issuer.configure(authorize='wrong-state')
    process, address = start_login(lab, '-L', '1455:127.0.0.1:1455')
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        tab.wait_for_text('State mismatch')
    assert process.poll() is None and 1455 in lab.listeners('server')


def test_a_redirect_delivered_twice_shows_at_the_issuer(lab):
    login, address = start_login(lab)
    with lab.browser() as browser:
        tab = browser.new_tab()
        tab.open(address)
        tab.click('#continue')
        tab.wait_for_text('ERR_CONNECTION_REFUSED')
        target = tab.url().removeprefix('http://127.0.0.1:1455')
    deliver = 'exec 3<>/dev/tcp/127.0.0.1/1455; printf "GET $target HTTP/1.0\\r\\n\\r\\n" >&3; head -n 1 <&3'
    answers = [lab.server_run(['bash', '-c', deliver], env={'target': target}).stdout for _ in range(2)]
    assert [answer.split()[1] for answer in answers] == ['302', '200']
    assert 'code unknown or used before' in login.communicate(timeout=PATIENCE)[0]
    assert [request['status'] for request in lab.issuer.requests('/oauth/token')
            if request['form']['grant_type'] == 'authorization_code'] == [200, 400]
