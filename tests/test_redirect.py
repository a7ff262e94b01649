"""The way of one redirect on bad days: who may bring it, who comes back for it, how long it is waited for, where it ends."""

import ast
import importlib
import inspect
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

import embedded
from harness import SCRIPT, Browser
from test_freeze import finish, names, on_terminal, opened, signed_in, witness  # noqa: F401
from test_login import failure
from waiting import PATIENCE
from witness import Person


@pytest.fixture(autouse=True)
def home_stays_clean(home):
    yield
    assert not [*home.folder.glob('.local/state/codex-login/login-*')]


# --- Whose time is up ---------------------------------------------------------------------------------------

def test_who_came_before_the_time_was_up_is_signed_in_after_it(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '3'
    script = run('--timeout', '2')
    person = opened(script)
    page = person.sign_in()
    assert page.status == 200 and script.wait() == 0 and signed_in(server)


def test_who_stands_at_the_port_when_a_frozen_app_wakes_too_late_is_signed_in(run, server, witness):
    script = run('--timeout', '3')
    person = opened(script)
    script.stop()
    waiting = person.in_background(person.see_it_through, person.redirect())
    script.resume(after=4.5)
    assert waiting().status == 200 and script.wait() == 0 and signed_in(server)


def test_the_server_waits_longer_than_the_app(run, server):
    script = run('--timeout', '5')
    opened(script)
    sleeps = [command for command in embedded.marked_processes(server.mark).values() if command.startswith('sleep ')]
    assert len(sleeps) == 1 and int(sleeps[0].split()[1]) > 5 + 60 + 60
    script.interrupt()
    assert script.wait() == 130


# --- Two ends of one login ----------------------------------------------------------------------------------

def test_whose_login_another_one_finished_is_told_so_though_its_connection_held(run, server, witness):
    first = run()
    person = opened(first)
    first.stop()
    address = person.redirect()
    waiting = person.in_background(person.see_it_through, address)
    second = finish(run, address)
    assert second.wait() == 0 and signed_in(server)
    first.resume(after=4.5)
    assert first.wait() == 0 and 'signed-in' in names(first)
    assert 'Signed in' in waiting().text        # the browser that the frozen app's port has kept
    assert len(witness.callbacks) == 1 and server.leftovers() == []


def test_another_program_that_another_window_saw_to_its_end_ended_with_its_status(run, server):
    command = ('echo http://localhost:{0}/; read x <"$HOME/pipe"; exit 3'.format(server.announced_port),)
    os.mkfifo(server.home / 'pipe')
    first = run(command=command)
    first.wait_for('sign-in')
    first.wait_for('opened')
    first.stop()
    second = run(command=command, json_events=False, terminal=True)
    second.wait_for_text('Paste the address')
    (server.home / 'pipe').write_text('go\n')
    assert second.wait() == 3
    first.resume()
    assert first.wait() == 3 and server.leftovers() == []


def test_a_cleaned_tmp_or_a_killed_follower_hides_no_end(run, server, witness):
    for harm in ('tmp', 'follower'):
        script = run()
        person = opened(script)
        if harm == 'tmp':
            shutil.rmtree(next(server.tmp.glob('codex-login.*')))
        else:
            tail, = (pid for pid, command in embedded.marked_processes(server.mark).items() if command.startswith('tail '))
            os.kill(tail, signal.SIGKILL)
        assert person.sign_in().status == 200
        assert script.wait() == 0 and signed_in(server)
        (server.home / '.codex/auth.json').unlink()
    assert server.leftovers() == []


# --- Tabs ---------------------------------------------------------------------------------------------------

def test_an_old_tab_s_last_page_while_the_redirect_is_held_ends_nothing(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '2'
    script = run()
    person = opened(script)
    arriving = witness.at('callback arriving', lambda: None)
    waiting = person.in_background(person.sign_in)
    assert arriving.wait(PATIENCE)
    page = person.get(person.redirect_uri.replace('/auth/callback', '/success?id_token=old'))
    assert 'http-equiv="refresh"' in page.text and not witness.to_success
    assert waiting().status == 200 and script.wait() == 0 and signed_in(server)


def test_who_was_told_to_wait_for_the_last_page_comes_back_for_it(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '1'
    script = run()
    person = opened(script)
    arriving = witness.at('callback arriving', lambda: None)
    waiting = person.in_background(person.get, person.redirect())
    assert arriving.wait(PATIENCE)
    early = person.get(person.redirect_uri.replace('/auth/callback', '/success'))
    assert 'http-equiv="refresh"' in early.text
    waiting()
    assert 'Signed in to Codex' in person.see_it_through(early.url).text
    assert script.wait() == 0


def test_of_two_tabs_with_two_codes_the_second_ends_nothing(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '1'
    script = run()
    person = opened(script)
    arriving = witness.at('callback arriving', lambda: None)
    first = person.in_background(person.sign_in)
    assert arriving.wait(PATIENCE)
    assert person.get(person.redirect()).status == 409
    assert 'Signed in' in first().text and script.wait() == 0
    assert len(witness.callbacks) == 1 and signed_in(server)


@pytest.mark.parametrize('answer', ['yes', 'no'])
def test_after_a_no_on_the_page_a_new_login_is_offered(run, server, witness, answer):
    script, person = on_terminal(run)
    assert 'access_denied' in person.sign_in(error='access_denied', code=None).text
    script.wait_for_text('access_denied')
    late = person.sign_in()
    assert late.status == 410 and 'over' in late.text
    script.answer('Start a new one', answer)
    if answer == 'no':
        assert script.wait() == 1
        return
    script.wait_for_text(r'(?s)yes/no.*Your browser opens it')
    again = Person(re.search(r'(?s)yes/no.*(https://auth\S+)', script.screen)[1])
    assert again.sign_in().status == 200 and script.wait() == 0 and signed_in(server)


def test_a_browser_that_hangs_up_or_loads_anew_in_the_middle_loses_nothing(run, server, witness):
    server.environment['STAND_IN_EXCHANGE'] = '1'
    script = run()
    person = opened(script)
    address = person.redirect()
    arriving = witness.at('callback arriving', lambda: None)
    parts = address.split('/', 3)
    host, port = parts[2].split(':')
    with socket.create_connection((host, int(port)), PATIENCE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
        sock.sendall(f'GET /{parts[3]} HTTP/1.1\r\nHost: {parts[2]}\r\n\r\n'.encode())
        assert arriving.wait(PATIENCE)
    assert 'Signed in' in person.see_it_through(address).text
    assert script.wait() == 0 and len(witness.callbacks) == 1


# --- What is no request -------------------------------------------------------------------------------------

@pytest.mark.parametrize('words', [b'SSH-2.0-OpenSSH_9.2\r\n', b'\x16\x03\x01\x02\x00', b'EHLO\x00', b'{"json": 1}', b'\x05\x01\x00', b'get / http'])
def test_what_cannot_become_a_request_is_answered_at_once_and_the_login_goes_on(run, server, words):
    script = run()
    sign_in = script.wait_for('sign-in')
    with socket.create_connection(('127.0.0.1', sign_in['port']), PATIENCE) as sock:
        sock.sendall(words)
        answer = sock.makefile('rb').read()         # to its end, which a request that is waited for has not
    assert answer.startswith(b'HTTP/1.1 400 ')
    assert Browser(sign_in['url']).sign_in().status == 200 and script.wait() == 0


def test_a_browser_that_comes_with_https_is_told_of_here(run, server):
    script, person = on_terminal(run)
    with socket.create_connection(('127.0.0.1', int(person.redirect_uri.split(':')[2].split('/')[0])), PATIENCE) as sock:
        sock.sendall(b'\x16\x03\x01\x02\x00')
        sock.makefile('rb').read()
    script.wait_for_text('https came to the port')
    assert person.sign_in().status == 200 and script.wait() == 0


# --- Waiting is spoken, ports are shared --------------------------------------------------------------------

def test_one_line_says_how_long_it_waits_and_what_can_be_done(run):
    script, person = on_terminal(run, '--timeout', '600')
    script.wait_for_text(r'Waiting for up to 10 min\. .*cancels.*paste its address here')
    assert person.sign_in().status == 200 and script.wait() == 0


def test_a_login_whose_other_loopback_is_taken_is_served_on_its_own(run, server):
    with socket.create_server(('::1', server.announced_port), family=socket.AF_INET6):
        script, person = on_terminal(run)
        script.wait_for_text(f'port {server.announced_port} of ::1')
        assert person.sign_in().status == 200 and script.wait() == 0


# --- Begun by hand ------------------------------------------------------------------------------------------

@pytest.fixture
def by_hand(server, codexs_port):
    """A `codex login` that somebody began in another SSH app; the person at its page."""
    server.environment['STAND_IN_PORT'] = '1455'
    program = subprocess.Popen([server.bin / 'codex', 'login'], env={**server.base_environment(), 'STAND_IN_PORT': '1455'},
                               stderr=subprocess.PIPE, text=True)
    address = next(line for line in program.stderr if line.startswith('https:')).strip()
    yield program, Person(address)
    program.kill()
    program.communicate()


def hand(run, server, *words, **how):
    return finish(run, *words, f'{server.user}@127.0.0.1:{server.port}', **how)


def test_the_failed_page_of_a_login_that_was_begun_by_hand_is_delivered(run, server, by_hand, witness):
    program, person = by_hand
    script = hand(run, server, person.redirect())
    assert script.wait() == 0 and signed_in(server)
    assert script.wait_for('callback')['delivered']
    assert script.wait_for('signed-in')['text'] == 'Logged in using ChatGPT, ana@example.com'
    assert program.wait(PATIENCE) == 0 and len(witness.callbacks) == len(witness.to_success) == 1


def test_its_answer_is_lost_and_it_is_delivered_once(run, server, by_hand, witness):
    program, person = by_hand
    witness.at('callback answered', server.cut)
    assert hand(run, server, person.redirect()).wait() == 0
    assert signed_in(server) and len(witness.callbacks) == 1 and program.wait(PATIENCE) == 0


@pytest.mark.parametrize('spoil, words', [
    (lambda person: person.redirect(state='another'), 'belongs to another sign-in'),
    (lambda person: person.redirect().replace(':1455/', ':1454/'), 'Nothing waits at port 1454'),
    (lambda person: person.redirect().partition('?')[2], 'which port')])
def test_what_is_not_for_the_login_that_was_begun_by_hand_is_refused(run, server, by_hand, witness, spoil, words):
    program, person = by_hand
    script = hand(run, server, spoil(person))
    assert words in failure(script)['message']
    assert program.poll() is None and not signed_in(server)


@pytest.mark.parametrize('answer', ['yes', 'no'])
def test_the_failed_page_s_address_on_the_clipboard_is_offered_when_the_script_is_started_for_a_server(run, server, by_hand, witness, answer):
    program, person = by_hand
    for name in ('xclip', 'pbpaste'):
        (run.home.bin / name).write_text(f"#!/bin/sh\nprintf '%s' '{person.redirect()}'\n")
        (run.home.bin / name).chmod(0o755)
    script = run(json_events=False, terminal=True, environment={'DISPLAY': ':99'})
    script.answer('is on the clipboard', answer)
    if answer == 'yes':
        assert script.wait() == 0 and signed_in(server) and len(witness.callbacks) == 1 and program.wait(PATIENCE) == 0
    else:
        script.wait_for_text('come back here')
        script.interrupt()
        assert script.wait() == 130 and not witness.callbacks


def test_a_cut_is_said_with_what_goes_on(run, server):
    script, person = on_terminal(run)
    server.cut()
    script.wait_for_text(r'is lost\. Connecting again … The sign-in page stays good\.')
    script.wait_for_text('Connected again')
    assert person.sign_in().status == 200 and script.wait() == 0


# --- The table ----------------------------------------------------------------------------------------------

@pytest.mark.quick
def test_each_move_of_the_table_is_one_of_the_login_s_and_takes_what_an_event_brings():
    script = importlib.import_module('codex_login')
    for move in set(script.MOVES.values()):
        assert len(inspect.signature(getattr(script.Login, '_' + move)).parameters) == 2, move


@pytest.mark.quick
def test_nothing_in_a_class_has_the_name_of_something_else_there():
    for node in ast.walk(ast.parse(SCRIPT.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ClassDef):
            found = [one.name for one in node.body if isinstance(one, ast.FunctionDef) and not any(
                isinstance(how, ast.Attribute) and how.attr == 'setter' for how in one.decorator_list)]
            assert len(found) == len(set(found)), (node.name, [name for name in found if found.count(name) > 1])
