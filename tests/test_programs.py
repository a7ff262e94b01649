"""Small programs, odd in one way each: they do what they say, so that nobody makes them kinder; and over the script.

Plain http.client and ssl ask them first, without a network between. Then a person signs each one in at a real sshd.
"""

import contextlib
import http.client
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.parse
from pathlib import Path

import chromium
import embedded
import pytest
import sshd
from harness import PATIENCE, Browser, Home, Script
from relay import Relay
from sshd import Sshd
from waiting import until

PROGRAMS = Path(__file__).resolve().with_name('programs')


# --- What they are ------------------------------------------------------------------------------------------

class Program:
    """One of them at work on this machine, and what it printed as its address."""

    def __init__(self, folder, name, *words):
        self.process = subprocess.Popen(
            [sys.executable, '-s', '-E', '-S', str(PROGRAMS / f'{name}.py'), *words], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={'HOME': str(folder)})
        lines = [self.process.stdout.readline() for _ in range(4)]
        self.address = lines[2].strip()
        self.fields = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.address).query))
        redirect = self.fields.get('redirect_uri', self.address)
        self.port = int(self.fields.get('port') or urllib.parse.urlsplit(redirect).port)
        self.connections = []

    def ask(self, target, method='GET', body=None, **how):
        """One request on a connection of its own; the answer, not yet read."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)
        self.connections.append(connection)
        connection.request(method, target, body, **how)
        return connection.getresponse()

    def code(self, **other):
        return urllib.parse.urlencode({'code': 'good', 'state': self.fields['state'], **other})

    def end(self):
        """Its exit status and its last words, on both streams."""
        for connection in self.connections:
            connection.close()
        out, error = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, (out + error).strip()


@pytest.fixture
def start(tmp_path):
    started = []

    def program(name, *words):
        started.append(Program(tmp_path, name, *words))
        return started[-1]
    yield program
    for one in started:
        one.process.kill()
        one.process.communicate()
        for connection in one.connections:
            connection.close()


SIGNED_IN = (0, 'Signed in.')


@pytest.mark.quick
def test_one_connection_is_burnt_by_whoever_only_looks_whether_somebody_listens(start):
    program = start('one_connection')
    socket.create_connection(('127.0.0.1', program.port), PATIENCE).close()
    status, words = program.end()
    assert status == 1 and 'connected and said nothing' in words
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(('127.0.0.1', program.port), PATIENCE)


@pytest.mark.quick
@pytest.mark.parametrize('target', ['/favicon.ico', '/callback?code=good&state=another', '/callback'])
def test_one_connection_is_burnt_by_any_other_request(start, target):
    program = start('one_connection')
    assert program.ask(target).status == 400 and program.end()[0] == 1


@pytest.mark.quick
def test_one_connection_with_the_redirect_signs_in(start):
    program = start('one_connection')
    assert program.ask('/callback?' + program.code()).status == 200 and program.end() == SIGNED_IN


@pytest.mark.quick
def test_a_tls_program_knows_no_plain_http_and_its_certificate_is_its_own(start):
    program = start('tls')
    assert program.fields['redirect_uri'] == f'https://localhost:{program.port}/callback'
    with pytest.raises((http.client.BadStatusLine, ConnectionResetError)):
        program.ask('/callback?' + program.code())
    with pytest.raises(ssl.SSLCertVerificationError):
        trusting_nobody = ssl.create_default_context()
        with socket.create_connection(('127.0.0.1', program.port), PATIENCE) as sock:
            trusting_nobody.wrap_socket(sock, server_hostname='localhost')
    assert over_tls(program.port, '/callback?' + program.code()) == (200, 'You are signed in.')
    assert program.end() == SIGNED_IN


def over_tls(port, target):
    """Status and page, as a browser gets them once a person has said yes to the certificate."""
    context = ssl.create_default_context(cafile=PROGRAMS / 'localhost.pem')
    connection = http.client.HTTPSConnection('localhost', port, timeout=PATIENCE, context=context)
    with contextlib.closing(connection):
        connection.request('GET', target)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.quick
def test_a_chunked_answer_has_no_length_and_an_end(start):
    program = start('ends_of_answers', 'chunked')
    answer = program.ask('/callback?' + program.code())
    assert answer.chunked and answer.length is None and answer.headers['Content-Length'] is None
    assert answer.read() == b'<p>You are signed in.</p>'
    assert program.process.poll() is None       # the connection is kept open
    assert program.end() == SIGNED_IN


@pytest.mark.quick
def test_an_answer_of_status_204_has_no_body_and_the_connection_stays(start):
    program = start('ends_of_answers', 'no-content')
    answer = program.ask('/callback?' + program.code())
    assert (answer.status, answer.read(), answer.headers.get('Content-Length')) == (204, b'', None)
    assert program.process.poll() is None
    assert program.end() == SIGNED_IN


@pytest.mark.quick
def test_an_answer_without_an_end_is_there_at_once_and_stays_open(start):
    program = start('ends_of_answers', 'unended')
    answer = program.ask('/callback?' + program.code())
    assert answer.length is None and not answer.chunked
    assert answer.read(25) == b'<p>You are signed in.</p>'
    answer.fp.raw._sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        answer.read(1)
    assert program.process.poll() is None
    answer.close()
    assert program.end() == SIGNED_IN


@pytest.mark.quick
def test_a_form_post_program_takes_nothing_else(start):
    program = start('form_post')
    assert program.fields['response_mode'] == 'form_post'
    form = {'headers': {'Content-Type': 'application/x-www-form-urlencoded'}}
    assert program.ask('/callback?' + program.code()).status == 405
    assert program.ask('/callback?' + program.code(), 'POST', '', **form).status == 400
    assert program.ask('/callback', 'POST', program.code(state='another'), **form).status == 400
    assert program.ask('/callback', 'POST', program.code(), **form).status == 200
    assert program.end() == SIGNED_IN


@pytest.mark.quick
def test_a_fragment_program_shows_its_page_and_takes_what_that_posts(start):
    program = start('fragment')
    assert program.fields['response_mode'] == 'fragment'
    assert program.ask('/callback?' + program.code()).status == 400
    assert 'location.hash' in program.ask('/callback').read().decode()
    assert program.ask('/callback', 'POST', program.code(state='another')).status == 400
    assert program.ask('/callback', 'POST', program.code()).status == 200
    assert program.end() == SIGNED_IN


@pytest.mark.quick
def test_a_program_that_leaves_its_listener_has_ended_before_anybody_comes(start, tmp_path):
    program = start('leaves_listener')
    assert program.end() == (0, '')
    assert program.ask('/callback?' + program.code(state='another')).status == 400
    assert not (tmp_path / 'signed-in').exists()
    assert program.ask('/callback?' + program.code()).status == 200
    assert not embedded.eventually(lambda: not (tmp_path / 'signed-in').exists(), 10)
    assert embedded.eventually(lambda: answers(program.port)) is False


def answers(port):
    try:
        socket.create_connection(('127.0.0.1', port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.quick
def test_a_page_at_home_leads_to_the_issuer_and_back(start):
    program = start('page_at_home')
    page = urllib.parse.urlsplit(program.address)
    assert (page.scheme, page.hostname, page.query) == ('http', '127.0.0.1', '')
    link = program.ask(page.path).read().decode().split('"')[1].replace('&amp;', '&')
    assert link.startswith('https://issuer.example/')
    program.fields = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(link).query))
    assert program.fields['redirect_uri'] == f'http://127.0.0.1:{program.port}/callback'
    assert program.ask('/callback?' + program.code()).status == 200 and program.end() == SIGNED_IN


@pytest.mark.quick
def test_a_port_as_query_is_all_that_its_address_says(start):
    program = start('port_as_query')
    assert program.fields['port'] == str(program.port)
    assert 'redirect_uri' not in program.fields and 'localhost' not in program.address
    assert program.ask('/callback?' + program.code()).status == 200 and program.end() == SIGNED_IN


@pytest.mark.quick
@pytest.mark.parametrize('how', ['429', '431', '503', '307', '308'])
def test_second_thoughts_take_the_redirect_the_next_time(start, how):
    program = start('second_thoughts', how)
    target = '/callback?' + program.code()
    answer = program.ask(target)
    assert answer.status == int(how) and answer.headers['Location' if how[0] == '3' else 'Retry-After']
    assert program.ask(target).status == 200 and program.end()[0] == 0


@pytest.mark.quick
def test_second_thoughts_break_off_their_answer(start):
    program = start('second_thoughts', 'reset')
    target = '/callback?' + program.code()
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        program.ask(target).read()
    assert program.ask(target).status == 200 and program.end()[0] == 0


@pytest.mark.quick
def test_a_second_page_brings_what_the_first_one_read(start):
    program = start('second_page')
    assert 'state' not in program.fields and program.fields['response_type'] == 'token id_token'
    assert b"'/token?'" in program.ask('/').read() and program.ask('/favicon.ico').status == 200
    assert program.ask('/token?security_token=good').status == 200 and program.end() == SIGNED_IN


# --- Over the script ----------------------------------------------------------------------------------------

@pytest.fixture
def server():
    if reason := sshd.missing():
        pytest.skip(reason)
    with Sshd() as server:
        shutil.copytree(PROGRAMS, server.folder / 'programs')
        for program in PROGRAMS.glob('*.py'):
            server.add_program(program.stem.replace('_', '-'), '#!/bin/sh\n' + ' '.join(
                ['exec', sys._base_executable, '-s', '-E', '-S', f'/run/lab/programs/{program.name}', '"$@"\n']))
        yield server


@pytest.fixture
def sign_in(server, tmp_path):
    """Starts the script for a program; the run and the address it shows."""
    home = Home(tmp_path / 'home')
    home.make_key(server)
    with contextlib.ExitStack() as stack:
        def begin(*program, options=(), patience=PATIENCE, port=server.port, person=False, address=True, **how):
            home.known_hosts.write_text(server.known_hosts().replace(f':{server.port} ', f':{port} '))
            script = stack.enter_context(Script(home, '-p', port, *options, f'{server.user}@127.0.0.1', *program, json_events=not person, terminal=person, **how))
            if not address:
                return script, None
            if person:
                return script, script.wait_for_text(r'^(https?://\S+)')[1]
            return script, script.wait_for('sign-in', timeout=patience)['url']
        yield begin


def signed_in(script, patience=PATIENCE):
    """The script ends well, and the program said so."""
    assert script.wait(patience) == 0
    return any(event.get('text') == 'Signed in.' for event in script.events)


def test_a_program_that_takes_one_connection_is_signed_in(sign_in):
    script, address = sign_in('one-connection')
    assert Browser(address).sign_in().text == 'You are signed in.'
    assert signed_in(script)


@pytest.mark.parametrize('status', ['429', '431', '503'])
def test_what_a_program_would_not_have_is_brought_again_when_the_page_is_reloaded(sign_in, status):
    script, address = sign_in('second-thoughts', status)
    redirect = Browser(address).redirect()
    first = Browser(address).get(redirect)
    assert (first.status, first.text, first.headers['Retry-After']) == (int(status), 'Not now.', '1')
    assert Browser(address).get(redirect).text == 'You are signed in.'
    assert signed_in(script)


def test_an_answer_that_breaks_off_is_told_and_a_reload_brings_the_redirect_again(sign_in):
    script, address = sign_in('second-thoughts', 'reset')
    redirect = Browser(address).redirect()
    page = Browser(address).get(redirect)
    assert page.status == 502 and 'eload' in page.text and script.wait_for('callback')['delivered'] is False
    assert Browser(address).get(redirect).text == 'You are signed in.'
    assert signed_in(script)


def test_a_form_that_is_led_elsewhere_at_the_port_is_posted_there(sign_in):
    script, address = sign_in('second-thoughts', '307', 'POST')
    redirect = urllib.parse.urlsplit(Browser(address).redirect())
    target, statuses = redirect.path, []
    while target:
        connection = http.client.HTTPConnection('localhost', redirect.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request('POST', target, redirect.query, {'Content-Type': 'application/x-www-form-urlencoded'})
            answer = connection.getresponse()
            statuses.append(answer.status)
            target = answer.headers.get('Location')
    assert statuses == [307, 200] and answer.read() == b'You are signed in.' and signed_in(script)


@pytest.mark.parametrize('status', ['307', '308'])
def test_an_answer_that_leads_elsewhere_at_the_port_is_followed(sign_in, status):
    script, address = sign_in('second-thoughts', status)
    assert Browser(address).sign_in().text == 'You are signed in.'
    assert signed_in(script)


def test_a_look_at_the_redirect_delivers_nothing(sign_in):
    script, address = sign_in('one-connection')
    redirect = urllib.parse.urlsplit(Browser(address).redirect())
    for method in ('HEAD', 'PUT', 'TRACE'):
        connection = http.client.HTTPConnection('localhost', redirect.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, f'{redirect.path}?{redirect.query}')
            assert connection.getresponse().status == 405
    assert Browser(address).get(redirect.geturl()).text == 'You are signed in.'
    assert signed_in(script)


def test_a_program_that_speaks_tls_is_signed_in(sign_in):
    script, address = sign_in('tls')
    redirect = urllib.parse.urlsplit(Browser(address).redirect())
    assert over_tls(redirect.port, f'{redirect.path}?{redirect.query}') == (200, 'You are signed in.')
    assert signed_in(script)


def test_who_says_no_to_the_certificate_first_signs_in_with_the_next_connection(sign_in):
    script, address = sign_in('tls')
    redirect = urllib.parse.urlsplit(Browser(address).redirect())
    for _ in range(2):
        with pytest.raises(ssl.SSLCertVerificationError), socket.create_connection(('127.0.0.1', redirect.port), PATIENCE) as sock:
            ssl.create_default_context().wrap_socket(sock, server_hostname='localhost')
    assert over_tls(redirect.port, f'{redirect.path}?{redirect.query}') == (200, 'You are signed in.')
    assert signed_in(script)


def test_a_person_says_yes_to_the_certificate_in_a_real_browser(sign_in):
    if not chromium.find_chromium():
        pytest.skip('no chromium: apt-get install chromium')
    script, address = sign_in('tls')
    with chromium.Chromium() as browser:
        tab = browser.new_tab()
        tab.open(Browser(address).redirect())
        tab.wait_for_text('private')        # the warning's words
        tab.accept_any_certificate()
        tab.reload()
        tab.wait_for_text('You are signed in.')
    assert signed_in(script)


def test_a_second_page_is_asked_for_by_the_first_in_a_real_browser_and_by_no_other(sign_in):
    if not chromium.find_chromium():
        pytest.skip('no chromium: apt-get install chromium')
    script, address = sign_in('second-page')
    stranger = Browser(address)
    stranger.headers = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors', 'Referer': 'https://elsewhere.example/'}
    for path in ('/token?security_token=evil', '/', '/?security_token=evil'):
        assert stranger.get(stranger.redirect_uri + path).status in (403, 404)
    with chromium.Chromium() as browser:
        tab = browser.new_tab()
        tab.open(stranger.redirect_uri + '/#security_token=good&id_token=x')
        tab.wait_for_text('You are signed in.')
    assert signed_in(script)


def test_of_two_encrypted_connections_the_second_waits_until_the_first_has_left(sign_in, server):
    script, address = sign_in('tls')
    redirect = urllib.parse.urlsplit(Browser(address).redirect())
    context = ssl.create_default_context(cafile=PROGRAMS / 'localhost.pem')
    with socket.create_connection(('127.0.0.1', redirect.port), PATIENCE) as first:
        encrypted = context.wrap_socket(first, server_hostname='localhost')
        second = Browser(address).in_background(over_tls, redirect.port, f'{redirect.path}?{redirect.query}')
        until(lambda: connections_to(redirect.port) == 2, 'the second connection')
        assert connections_to(redirect.port, server) == 1
        encrypted.close()
    assert second() == (200, 'You are signed in.') and signed_in(script)


@pytest.mark.parametrize('when', ['before anybody comes', 'while it passes'])
def test_a_cut_connection_lets_the_next_encrypted_one_pass(sign_in, server, when):
    with Relay(server) as relay:
        script, address = sign_in('tls', port=relay.port)
        redirect = urllib.parse.urlsplit(Browser(address).redirect())
        context = ssl.create_default_context(cafile=PROGRAMS / 'localhost.pem')
        if when == 'while it passes':
            with socket.create_connection(('127.0.0.1', redirect.port), PATIENCE) as first:
                encrypted = context.wrap_socket(first, server_hostname='localhost', suppress_ragged_eofs=False)
                relay.cut('reset')
                with pytest.raises(OSError):        # no end as TLS has it: nobody takes a part for the whole
                    encrypted.recv(1)
        else:
            relay.cut('reset')
        assert over_tls(redirect.port, f'{redirect.path}?{redirect.query}') == (200, 'You are signed in.')
        assert signed_in(script)


def connections_to(port, server=None):
    """How many connections a port has, here or at a server."""
    table = server.run('cat /proc/net/tcp') if server else Path('/proc/net/tcp').read_text()
    return len(re.findall(f'^ *[0-9]+: [0-9A-F]{{8}}:{port:04X} [0-9A-F:]+ 01 ', table, re.M))


HTTPS = bytes.fromhex('16030102000100 01fc0303')
NEITHER = 'Something that is no browser'


@pytest.mark.parametrize('program, what, beginning', [
    ('one-connection', 'https', HTTPS), ('one-connection', NEITHER, b'SSH-2.0-OpenSSH_9.2\r\n'), ('one-connection', NEITHER, b'\0\1\2'),
    ('one-connection', NEITHER, b'get / http/1.0\r\n'), ('one-connection', NEITHER, b'A' * 21),
    ('tls', 'http', b'GET /callback?code=x HTTP/1.1\r\n'), ('tls', NEITHER, b'SSH-2.0-OpenSSH_9.2\r\n'), ('tls', NEITHER, b'\x15\3\1\0\2\2\x28'),
    ('tls', 'https', HTTPS.replace(b'\2\0\1', b'\2\0\2'))])
def test_what_cannot_become_the_redirect_is_answered_at_once_and_said(sign_in, server, program, what, beginning):
    script, address = sign_in(program, person=True)
    port = urllib.parse.urlsplit(Browser(address).redirect_uri).port
    for _ in range(2):
        with socket.create_connection(('127.0.0.1', port), PATIENCE) as sock:
            sock.sendall(beginning)
            assert sock.recv(65536).startswith(b'HTTP/1.1 400 ')
    assert connections_to(port, server) == 0
    script.wait_for_text(f'{what} came')
    script.interrupt()
    assert script.wait() == 130 and script.screen.count(f'{what} came to the port of the redirect') == 1


def test_a_redirect_by_https_cannot_be_pasted_and_that_is_said(sign_in, server):
    script, address = sign_in('tls', person=True)
    script.answer('Waiting', Browser(address).redirect())
    script.wait_for_text('goes by https, which only the browser can bring')
    redirect = urllib.parse.urlsplit(Browser(address).redirect())
    assert over_tls(redirect.port, f'{redirect.path}?{redirect.query}') == (200, 'You are signed in.')
    assert script.wait() == 0


def test_a_chunked_answer_reaches_the_browser_whole_and_at_once(sign_in):
    script, address = sign_in('ends-of-answers', 'chunked')
    assert Browser(address).sign_in().text == '<p>You are signed in.</p>'
    assert signed_in(script)


def test_an_answer_without_content_reaches_the_browser_at_once(sign_in):
    script, address = sign_in('ends-of-answers', 'no-content')
    assert Browser(address).sign_in().status == 204
    assert signed_in(script)


def test_an_answer_without_an_end_is_shown_at_once(sign_in):
    script, address = sign_in('ends-of-answers', 'unended')
    assert Browser(address).sign_in().text == '<p>You are signed in.</p>'
    assert signed_in(script)


def test_a_program_that_wants_its_answer_posted_is_signed_in(sign_in):
    script, address = sign_in('form-post')
    browser = Browser(address)
    target, _, form = browser.redirect().partition('?')
    url = urllib.parse.urlsplit(target)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request('POST', url.path, form, {'Content-Type': 'application/x-www-form-urlencoded'})
        assert connection.getresponse().read() == b'You are signed in.'
    assert signed_in(script)


def test_a_program_whose_page_reads_the_answer_behind_the_hash_is_signed_in(sign_in):
    script, address = sign_in('fragment')
    browser = Browser(address)
    target, _, form = browser.redirect().partition('?')
    for _ in range(2):          # a person may load it again
        assert 'location.hash' in browser.get(target).text
    url = urllib.parse.urlsplit(target)
    for form, status in ((form.replace('state=', 'state=x'), 400), (form, 200)):
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request('POST', url.path, form, {'Content-Type': 'text/plain', 'Origin': f'http://{url.netloc}',
                                                        'Sec-Fetch-Site': 'same-origin', 'Sec-Fetch-Mode': 'cors'})
            assert connection.getresponse().status == status
    assert signed_in(script)


def test_a_listener_that_a_program_left_behind_is_served(sign_in, server):
    with Relay(server, counted=True, watch=[server]) as relay:
        script, address = sign_in('leaves-listener', port=relay.port)
        # A person is slower than a program: by then, everybody knows that it has ended.
        relay.settle()
        assert Browser(address).sign_in().text == 'You are signed in.'
        assert script.wait() == 0 and (server.home / 'signed-in').exists()


def test_a_page_that_is_itself_at_the_server_is_shown_and_leads_back(sign_in):
    script, address = sign_in('page-at-home')
    page = Browser(address).get(address)
    link = page.text.split('"')[1].replace('&amp;', '&')
    assert Browser(link).sign_in().text == 'You are signed in.'
    assert signed_in(script)


def test_a_port_that_only_the_page_knows_is_listened_on(sign_in, server):
    script, address = sign_in('port-as-query', patience=PATIENCE)
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))
    assert int(query['port']) == server.announced_port
    browser = Browser(address)
    browser.redirect_uri = f'http://localhost:{query["port"]}/callback'
    assert browser.sign_in().text == 'You are signed in.'
    assert signed_in(script)
