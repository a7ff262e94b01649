"""iOS freezes the app, and the login still succeeds: each way it can go, against the embedded server.

A stopped process is what a frozen app is: its listener takes connections, nobody answers, the clock goes on.
"""

import ctypes
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest

import embedded
from harness import Script
from waiting import let_pass, until
from witness import LOST, Person, Witness

FROZEN = 4.2
"""Seconds of sleep that no clock check can miss."""
NAP = 1.0
"""Seconds of sleep that may pass unnoticed, and must do no harm either."""

SOAK = pathlib.Path(__file__).with_name('tools') / 'soak.py'


@pytest.fixture
def witness(server):
    """Counts what reaches the CLI, and acts when it does."""
    return Witness(server)


def opened(script):
    """Wait until the sign-in page is opened; the person who has it in front of them."""
    url = script.wait_for('sign-in')['url']
    script.wait_for('opened')
    return Person(url)


def freeze_at(witness, moment, script, *also):
    """Stop the app when a moment has come, and do what else is given; returns what waits for the moment."""
    def act():
        script.stop()
        for action in also:
            action()
    return witness.at(moment, act).wait


def cut_and_lose(server):
    """The connection is reset, and what was on its way is lost with it."""
    server.cut()
    return LOST


def forget_everything(server, keeps_tmp=False):
    """End what runs at the server and empty its folder for temporary files."""
    embedded.end_marked_processes(server.mark)
    embedded.eventually(lambda: embedded.marked_processes(server.mark))
    if not keeps_tmp:
        shutil.rmtree(server.tmp)
        server.tmp.mkdir(mode=0o700)


def names(script):
    """The names of the script's events."""
    return [event['event'] for event in script.events]


def error(script):
    """The script's error event."""
    return next(event for event in script.events if event['event'] == 'error')


def signed_in(server):
    """Whether codex has saved its tokens."""
    return (server.home / '.codex' / 'auth.json').exists()


def saved_sessions(home):
    """The files of logins under way."""
    return sorted(home.folder.glob('.local/state/codex-login/login-*.json'))


def finish(run, *words, **how):
    """A second script with --finish, beside those that run."""
    script = Script(run.home, '--finish', *words, **how)
    run.scripts.append(script)
    return script


def assert_signed_in(script, page, server, witness):
    """Everybody agrees, and codex was given one redirect."""
    assert page.status == 200 and 'Signed in' in page.text
    assert script.wait() == 0
    assert signed_in(server)
    assert len(witness.callbacks) == 1


on_every_link = pytest.mark.parametrize('link', ['kept', 'cut'])


# --- Frozen -------------------------------------------------------------------------------------------------

@pytest.mark.quick
@on_every_link
def test_safari_comes_back_after_the_app_was_frozen(run, server, witness, link):
    script = run()
    person = opened(script)
    script.stop()
    if link == 'cut':
        server.cut()
    waiting = person.in_background(person.sign_in)
    script.resume(after=FROZEN)
    assert_signed_in(script, waiting(), server, witness)
    assert 'suspended' in names(script)
    assert ('reconnected' in names(script)) == (link == 'cut')


@on_every_link
def test_the_app_is_frozen_before_the_address_was_opened(run, server, witness, link):
    script = run()
    script.wait_for('connected')
    script.stop()
    if link == 'cut':
        server.cut()
    script.resume(after=NAP)
    person = opened(script)
    assert_signed_in(script, person.sign_in(), server, witness)


@on_every_link
def test_the_app_is_frozen_during_the_token_exchange(run, server, witness, link):
    server.environment['STAND_IN_EXCHANGE'] = '2'
    script = run()
    person = opened(script)
    frozen = freeze_at(witness, 'callback arriving', script, *([server.cut] if link == 'cut' else []))
    waiting = person.in_background(person.see_it_through, person.redirect())
    assert frozen(10)
    until(lambda: signed_in(server))
    script.resume(after=NAP)
    assert_signed_in(script, waiting(), server, witness)


def test_however_long_the_sleep_the_answer_that_waits_is_shown_at_once(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '1'
    script = run()
    person = opened(script)
    frozen = freeze_at(witness, 'callback arriving', script)
    waiting = person.in_background(person.get, person.redirect())
    assert frozen(10)
    script.resume(after=10)
    turn = waiting()
    assert turn.status == 302, 'what was asleep for long did not wait for long'
    assert_signed_in(script, person.follow(turn.headers['Location']), server, witness)


@pytest.mark.quick
def test_the_answer_to_the_redirect_is_lost(run, server, witness):
    script = run()
    person = opened(script)
    witness.at('callback answered', server.cut)
    assert_signed_in(script, person.see_it_through(person.redirect()), server, witness)


def test_the_connection_breaks_while_the_token_exchange_goes_on(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '2'
    script = run()
    person = opened(script)
    witness.at('callback arriving', server.cut)
    assert_signed_in(script, person.see_it_through(person.redirect()), server, witness)


def test_a_redirect_lost_on_its_way_is_delivered_after_all(run, server, witness):
    script = run()
    person = opened(script)
    witness.at('callback arriving', lambda: cut_and_lose(server))
    assert_signed_in(script, person.see_it_through(person.redirect()), server, witness)


def test_the_answer_to_the_last_request_is_lost(run, server, witness):
    script = run()
    person = opened(script)
    witness.at('success answered', server.cut)
    assert_signed_in(script, person.see_it_through(person.redirect()), server, witness)


@on_every_link
def test_the_app_is_frozen_between_callback_and_success(run, server, witness, link):
    script = run()
    person = opened(script)
    turn = person.get(person.redirect())
    assert turn.status == 302
    script.stop()
    if link == 'cut':
        server.cut()
    waiting = person.in_background(person.see_it_through, turn.headers['Location'])
    script.resume(after=NAP)
    assert_signed_in(script, waiting(), server, witness)


def test_a_browser_that_never_follows_to_the_last_page_is_not_needed(run, server, witness):
    script = run()
    person = opened(script)
    assert person.get(person.redirect()).status == 302
    assert script.wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1


def test_three_freezes_in_a_row(run, server, witness):
    script = run()
    person = opened(script)
    waiting = None
    for number in range(3):
        script.stop()
        server.cut()
        if number == 2:
            waiting = person.in_background(person.sign_in)
        script.resume(after=FROZEN)
        if number < 2:
            script.wait_for('reconnected')
    assert_signed_in(script, waiting(), server, witness)
    assert names(script).count('suspended') == 3


def test_a_browser_that_gave_up_has_left_the_redirect_here(run, server, witness):
    script = run()
    person = opened(script)
    script.stop()
    server.cut()
    person.timeout = 0.5
    with pytest.raises(TimeoutError):
        person.sign_in()
    script.resume(after=NAP)
    assert script.wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1


@pytest.mark.quick
def test_a_browser_that_asks_again_gets_the_answer_of_the_first(run, server, witness):
    script = run()
    person = opened(script)
    script.stop()
    server.cut()
    address = person.redirect()
    impatient = Person(person.address, timeout=0.5)
    with pytest.raises(TimeoutError):
        impatient.get(address)
    waiting = [person.in_background(person.see_it_through, address) for _ in range(3)]
    script.resume(after=NAP)
    pages = [outcome() for outcome in waiting]
    assert all('Signed in' in page.text for page in pages)
    assert_signed_in(script, pages[0], server, witness)


def test_while_reconnecting_takes_long_the_browser_is_told_so_and_comes_back_by_itself(run, server, witness):
    script = run()
    person = opened(script)
    script.stop()
    server.stop_listening()
    server.cut()
    address = person.redirect()
    waiting = person.in_background(person.get, address)
    script.resume(after=NAP)
    page = waiting()
    assert page.status == 200 and 'http-equiv="refresh"' in page.text
    assert server.address in page.text and 'go back to the app' in page.text.lower()
    assert witness.requests == []
    server.listen_again()
    assert_signed_in(script, person.see_it_through(address), server, witness)


def test_the_network_is_silent_at_wake_up(run, server, witness):
    script = run()
    person = opened(script)
    script.stop()
    server.freeze()
    waiting = person.in_background(person.see_it_through, person.redirect())
    script.resume(after=FROZEN)
    until(lambda: server.connections > 1, 'the silence is noticed, and a new connection tried')
    server.thaw()
    assert_signed_in(script, waiting(), server, witness)


# --- The listener taken away --------------------------------------------------------------------------------

def take_listeners_away(pid):
    """Shut the listening sockets of a process down under it, as iOS does with those of a sleeping app."""
    if not sys.platform.startswith('linux') or not hasattr(os, 'pidfd_open'):
        pytest.skip('needs Linux: it reaches for the sockets of another process')
    listening = set()
    for table in ('tcp', 'tcp6'):
        for line in pathlib.Path(f'/proc/{pid}/net/{table}').read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == '0A':
                listening.add(f'socket:[{fields[9]}]')
    process, taken = os.pidfd_open(pid), 0
    for entry in pathlib.Path(f'/proc/{pid}/fd').iterdir():
        if os.readlink(entry) in listening:
            pidfd_getfd = 438
            descriptor = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, process, int(entry.name), 0)
            if descriptor < 0:
                pytest.skip(f'reaching for the sockets of another process: {os.strerror(ctypes.get_errno())}')
            with socket.socket(fileno=descriptor) as sock:
                sock.shutdown(socket.SHUT_RDWR)
            taken += 1
    os.close(process)
    return taken


@pytest.mark.quick
@on_every_link
def test_ios_took_the_listener_away(run, server, witness, link):
    script = run()
    person = opened(script)
    script.stop()
    assert take_listeners_away(script.process.pid) >= 1
    if link == 'cut':
        server.cut()
    address = person.redirect()
    with pytest.raises(ConnectionRefusedError):
        person.get(address)
    script.resume(after=FROZEN)
    assert_signed_in(script, person.see_it_through(address), server, witness)


# --- Killed, and started again ------------------------------------------------------------------------------

@pytest.mark.quick
def test_killed_before_signing_in_the_next_start_goes_on_with_the_same_login(run, server, witness):
    first = run()
    person = opened(first)
    first.kill()
    second = run()
    assert opened(second).address == person.address
    assert_signed_in(second, person.sign_in(), server, witness)
    assert not saved_sessions(run.home)


def test_killed_the_refused_redirect_loads_again_once_the_script_was_started_again(run, server, witness):
    first = run()
    person = opened(first)
    first.kill()
    address = person.redirect()
    with pytest.raises(ConnectionRefusedError):
        person.get(address)
    second = run()
    assert_signed_in(second, person.see_it_through(address), server, witness)


@pytest.mark.quick
def test_killed_after_the_callback_the_next_start_completes_the_login_by_itself(run, server, witness):
    first = run()
    person = opened(first)
    assert person.get(person.redirect()).status == 302
    first.kill()
    second = run()
    assert second.wait() == 0
    assert 'opened' not in names(second) and 'signed-in' in names(second)
    assert signed_in(server) and len(witness.callbacks) == 1


def test_killed_during_the_token_exchange_the_reloaded_redirect_is_not_delivered_again(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '4'
    first = run()
    person = opened(first)
    arrived = witness.at('callback arriving', lambda: None)
    address = person.redirect()
    person.in_background(person.get, address)
    assert arrived.wait(10)
    until(lambda: witness.callbacks)
    first.kill()
    second = run()
    person.in_background(person.see_it_through, address)
    assert second.wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1


@pytest.mark.quick
def test_again_ends_the_login_under_way_and_begins_another(run, server, witness):
    first = run()
    old = opened(first)
    first.kill()
    second = run('--again')
    new = opened(second)
    assert new.state != old.state
    running = embedded.marked_processes(server.mark).values()
    assert sum('stand_in_codex' in line for line in running) == 1
    assert_signed_in(second, new.sign_in(), server, witness)


def test_a_second_start_beside_a_frozen_one_does_not_end_the_login(run, server, witness):
    first = run()
    person = opened(first)
    first.stop()
    second = run()
    assert second.wait() == 255 and error(second)['kind'] == 'listen'
    first.resume(after=NAP)
    page = person.sign_in()
    assert page.status == 200 and 'Signed in' in page.text
    assert first.wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1


def test_a_second_window_that_is_closed_again_leaves_the_login_to_the_first(run, server):
    first = run()
    person = opened(first)
    second = run(json_events=False, terminal=True)
    second.wait_for_text('Paste the address')
    second.interrupt()
    assert second.wait() == 130
    assert 'Signed in' in person.sign_in().text
    assert first.wait() == 0 and signed_in(server)


@pytest.mark.quick
def test_the_saved_login_is_private_and_holds_no_secret(run, server):
    script = run()
    person = opened(script)
    file, = saved_sessions(run.home)
    text = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert person.state not in text and json.loads(text)['port'] == server.announced_port
    script.interrupt()
    assert script.wait() == 130 and not saved_sessions(run.home)


# --- --finish -----------------------------------------------------------------------------------------------

@pytest.mark.quick
@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost', '[::1]'])
def test_finish_delivers_the_failed_address_from_any_folder(run, server, witness, tmp_path, host):
    first = run()
    person = opened(first)
    first.kill()
    address = person.redirect().replace('127.0.0.1', host)
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    second = finish(run, address, cwd=elsewhere)
    assert second.wait() == 0
    assert 'signed-in' in names(second) and 'listening' not in names(second)
    assert signed_in(server) and len(witness.callbacks) == 1
    assert not saved_sessions(run.home)


def test_finish_takes_the_address_from_the_clipboard(run, server, witness):
    first = run()
    person = opened(first)
    first.kill()
    run.home.own_clipboard()
    for name in ('xclip', 'pbpaste'):
        (run.home.bin / name).write_text(f"#!/bin/sh\nprintf '%s' '{person.redirect()}'\n")
        (run.home.bin / name).chmod(0o755)
    second = finish(run, environment={'DISPLAY': ':99'})
    assert second.wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1


def test_finish_takes_the_success_page_of_a_delivered_callback(run, server, witness):
    first = run()
    person = opened(first)
    turn = person.get(person.redirect())
    first.kill()
    second = finish(run, turn.headers['Location'])
    assert second.wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1


def test_finish_refuses_a_success_page_whose_callback_never_came(run, server, witness):
    first = run()
    person = opened(first)
    first.kill()
    second = finish(run, f'http://localhost:{server.announced_port}/success?id_token=x')
    assert second.wait() == 255
    assert error(second)['kind'] == 'redirect' and 'never arrived' in error(second)['message']
    assert not witness.to_success and not signed_in(server)
    third = run()
    assert opened(third).address == person.address, 'the login that waits was not ended'
    assert_signed_in(third, person.sign_in(), server, witness)


@pytest.mark.parametrize('exchange', ['0', '4'])
def test_finish_with_a_callback_delivered_already_completes_the_login(run, server, witness, exchange):
    server.environment['STAND_IN_EXCHANGE'] = exchange
    first = run()
    person = opened(first)
    address = person.redirect()
    if exchange == '0':
        person.get(address)
    else:
        arrived = witness.at('callback arriving', lambda: None)
        person.in_background(person.get, address)
        assert arrived.wait(10)
        until(lambda: witness.callbacks)
    first.kill()
    second = finish(run, address)
    assert second.wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1


def test_finish_ends_the_login_that_a_frozen_app_waits_for(run, server, witness):
    first = run()
    person = opened(first)
    first.stop()
    second = finish(run, person.redirect())
    assert second.wait() == 0 and signed_in(server)
    server.cut()
    first.resume()
    assert first.wait() == 0, 'what somebody else has finished is no failure'
    assert 'signed-in' in names(first)
    assert len(witness.callbacks) == 1


def wrong_port(person):
    return person.redirect().replace(f':{person.redirect_uri.split(":")[2].split("/")[0]}/', ':1/')


@pytest.mark.quick
@pytest.mark.parametrize('spoil, words', [
    (wrong_port, 'belongs to no login'),
    (lambda person: person.redirect(state='of-another'), 'belongs to no login'),
    (lambda person: person.redirect(state=None), 'belongs to no login'),
    (lambda person: person.redirect().replace('/auth/callback', '/elsewhere'), 'belongs to no login'),
    (lambda person: person.redirect().replace('127.0.0.1', 'evil.example'), 'no redirect'),
    (lambda person: person.address, 'no redirect'),
    (lambda person: 'what I had for breakfast', 'no redirect'),
])
def test_finish_refuses_what_is_not_the_redirect_of_the_login_that_waits(run, server, witness, spoil, words):
    first = run()
    person = opened(first)
    address = spoil(person)
    second = finish(run, address)
    assert second.wait() == 255
    assert error(second)['kind'] == 'redirect' and words in error(second)['message']
    assert person.state not in second.stdout + second.stderr
    assert_signed_in(first, person.sign_in(), server, witness)


def test_finish_says_that_no_login_is_waiting(run):
    script = finish(run, 'http://localhost:1455/auth/callback?code=a&state=b')
    assert script.wait() == 255
    assert error(script)['kind'] == 'redirect' and error(script)['message'] == 'No login is waiting.'


@pytest.mark.parametrize('text', ['', '{"server": ', '[]', '{"server": "a", "port": {}}', '\x00\xff'])
def test_a_damaged_saved_login_is_reported_and_ignored(run, server, text):
    first = run()
    opened(first)
    first.kill()
    file, = saved_sessions(run.home)
    file.write_text(text)
    second = finish(run, 'http://localhost:1455/auth/callback?code=a&state=b', json_events=False)
    assert second.wait() == 255
    assert 'damaged' in second.stderr and 'No login is waiting.' in second.stderr
    assert 'Traceback' not in second.stderr
    third = run('--timeout', '60')
    opened(third)
    third.interrupt()
    assert third.wait() == 130
    # The first login is nobody's any more: codex ended it for the next one, its folder goes at its time-out.
    forget_everything(server)


# --- Pasted at the terminal ---------------------------------------------------------------------------------

def on_terminal(run, *options):
    """A script that a person looks at; the script and the person."""
    script = run(*options, json_events=False, terminal=True)
    url = script.wait_for_text(r'^https://\S+')[0]
    script.wait_for_text('Your browser opens it')
    return script, Person(url)


def type_line(script, text):
    """Type a line at the script's terminal."""
    script.answer('', text)


def test_the_failed_address_is_pasted_at_the_terminal_that_waits(run, server, witness):
    script, person = on_terminal(run)
    script.stop()
    take_listeners_away(script.process.pid)
    address = person.redirect()
    with pytest.raises(ConnectionRefusedError):
        person.get(address)
    script.resume()
    type_line(script, address)
    assert script.wait() == 0
    assert 'Signed in' in script.screen
    assert signed_in(server) and len(witness.callbacks) == 1


def test_what_is_pasted_and_what_the_browser_brings_is_delivered_once(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '1'
    script, person = on_terminal(run)
    address = person.redirect()
    waiting = person.in_background(person.see_it_through, address)
    type_line(script, address)
    type_line(script, address)
    assert_signed_in(script, waiting(), server, witness)


@pytest.mark.quick
def test_something_wrong_is_pasted_and_the_login_goes_on(run, server, witness):
    script, person = on_terminal(run)
    type_line(script, person.redirect(state='of-another'))
    script.wait_for_text('does not belong to the login that waits')
    type_line(script, 'hello?')
    script.wait_for_text('no redirect of a sign-in')
    type_line(script, f'{person.redirect_uri.replace("/auth/callback", "/success")}?id_token=x')
    script.wait_for_text('whose redirect never arrived')
    assert not witness.callbacks and not witness.to_success
    assert_signed_in(script, person.sign_in(), server, witness)


# --- The login is gone --------------------------------------------------------------------------------------

def reboot(server, keeps_tmp=False):
    """Everything that ran at the server is gone, and mostly its /tmp as well."""
    forget_everything(server, keeps_tmp)
    server.cut()


@pytest.mark.quick
@pytest.mark.parametrize('keeps_tmp', [False, True])
def test_the_server_was_rebooted_and_the_login_is_gone(run, server, keeps_tmp):
    script = run()
    opened(script)
    script.stop()
    reboot(server, keeps_tmp)
    script.resume(after=NAP)
    assert script.wait() == 255
    assert error(script)['kind'] == 'gone'
    assert not saved_sessions(run.home)


def test_killed_and_the_server_rebooted_the_next_start_begins_a_login_of_its_own(run, server, witness):
    first = run()
    old = opened(first)
    first.kill()
    reboot(server)
    second = run()
    person = opened(second)
    assert person.state != old.state
    assert_signed_in(second, person.sign_in(), server, witness)


@pytest.mark.parametrize('answer', ['yes', 'no'])
def test_rebooted_a_person_is_offered_a_new_login(run, server, witness, answer):
    script, old = on_terminal(run)
    script.stop()
    reboot(server)
    script.resume(after=NAP)
    script.wait_for_text('no longer there')
    script.answer('Start a new one', answer)
    if answer == 'no':
        assert script.wait() == 255
        return
    script.wait_for_text(r'(?s)yes/no.*(https://auth\S+)')
    script.wait_for_text(r'(?s)yes/no.*Your browser opens it')
    person = Person(re.search(r'(?s)yes/no.*(https://auth\S+)', script.screen)[1])
    assert person.state != old.state
    assert_signed_in(script, person.sign_in(), server, witness)


def test_finish_says_that_the_login_is_gone(run, server):
    first = run()
    person = opened(first)
    first.kill()
    reboot(server)
    second = finish(run, person.redirect())
    assert second.wait() == 255 and error(second)['kind'] == 'gone'
    assert not saved_sessions(run.home)


# --- Waiting costs nothing ----------------------------------------------------------------------------------

@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='counts in Linux\'s /proc')
def test_waiting_takes_next_to_no_cpu(run):
    def spent():
        fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
        wakes = sum(int(re.search(r'^voluntary_ctxt_switches:\s+(\d+)', status.read_text(), re.M)[1])
                    for status in pathlib.Path(f'/proc/{pid}/task').glob('*/status'))
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK'), wakes

    script = run()
    opened(script)
    pid = script.process.pid
    began, (seconds, wakes) = time.monotonic(), spent()
    let_pass(began, 5)
    more_seconds, more_wakes = spent()
    assert more_seconds - seconds < 0.5
    # One a second for the link, and one for each of two listeners, with room to spare.
    assert more_wakes - wakes < 20 * (time.monotonic() - began)
    script.interrupt()
    assert script.wait() == 130


# --- Many of them -------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_dozen_logins_on_bad_days():
    soak = subprocess.run([sys.executable, str(SOAK), '--logins', '12', '--seed', '1'], capture_output=True,
                          text=True, timeout=900)
    assert soak.returncode == 0, soak.stdout[-6000:] + soak.stderr[-2000:]
