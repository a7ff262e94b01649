"""Programs that others wrote, signed in through the script at a real sshd, each beside plain `ssh`: see real_programs.py.
"""

import contextlib
import http.client
import re
import secrets
import subprocess
import threading
import urllib.parse

import lab
import pytest
import real_programs
import sshd
from embedded import alone_with
from harness import PATIENCE, ROOT, Browser, Home, Script
from issuers import CODE, Issuers
from real_programs import PROGRAMS, WORKS, Missing
from sshd import Sshd
from waiting import until


class Person:
    """Somebody with a home, a server and a program there; their browser knows what the issuer would answer."""

    def __init__(self, program, server, home, issuers):
        self.program, self.server, self.home, self.issuers = program, server, home, issuers

    def visit(self, address):
        """Sign in at the page of an address, and bring the result back, as far as pages are this device's; the last one's status."""
        browser = Browser(address)
        if loopback(address):       # a page of the program's own, which leads to the issuer
            browser = Browser(browser.get(address).headers['Location'])
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(browser.address).query))
        target = browser.redirect(code=f'good-{secrets.token_hex(4)}.{query.get("nonce", "")}')
        if query.get('response_mode') == 'form_post':
            return self.post(*target.split('?'))
        page = browser.get(target)
        while loopback(page.headers.get('Location', '')):
            page = browser.get(page.headers['Location'])
        return page.status

    def post(self, target, form):
        url = urllib.parse.urlsplit(target)
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request('POST', url.path or '/', form, {'Content-Type': 'application/x-www-form-urlencoded'})
            return connection.getresponse().status

    def by_script(self):
        """Whether somebody is signed in in the end."""
        program, words = self.program, ('-p', self.server.port, f'{self.server.user}@127.0.0.1', self.program.command)
        if program.asks:
            with Script(self.home, '-t', *words, json_events=False, terminal=True) as script:
                script.answer(re.escape(program.asks), 'good-' + secrets.token_hex(4))
                return until(self.issuers.exchanges) == [200]
        with Script(self.home, *words) as script:
            if program.port == 'none':
                assert script.wait_for('device-code')['code'] == CODE
            else:
                assert self.visit(script.wait_for('sign-in')['url']) < 400
            if program.end:
                until(lambda: any(program.end in text for text in said(script)), program.end)
                script.interrupt()
            status = script.wait()
            print(script.report())
            assert any('person' in event['text'] for event in script.events if event['event'] == 'signed-in') == (program.name in NAMED)
            return (program.end or status == 0) and self.issuers.exchanges() == [200]

    def by_ssh(self):
        """Whether somebody is signed in in the end with plain ssh: one run for the program, and one for the port that it says."""
        program, server, home = self.program, self.server, self.home
        ssh = ['ssh', '-F', 'none', '-i', home.ssh / 'id_ed25519', '-o', f'UserKnownHostsFile={home.known_hosts}', '-o', 'BatchMode=yes',
               '-p', str(server.port), f'{server.user}@127.0.0.1']
        how = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(subprocess.Popen([*ssh[:1], '-tt', *ssh[1:], program.command], **how))
            stack.callback(running.kill)
            lines = []
            reading = threading.Thread(target=lambda: lines.extend(iter(running.stdout.readline, '')), daemon=True)
            reading.start()
            address = until(lambda: next((found[0] for found in map(ADDRESS.search, lines) if found), None), f'an address in {lines}', LIMIT)
            port = urllib.parse.urlsplit(Browser(address).redirect_uri or address).port
            tunnel = stack.enter_context(subprocess.Popen([*ssh[:1], '-N', '-L', f'{port}:localhost:{port}', *ssh[1:]], **how))
            stack.callback(tunnel.kill)
            until(lambda: port in {port for _, port in lab.listening_sockets('/proc/self/net')}, f'the tunnel to {port}')
            with contextlib.suppress(http.client.HTTPException, ConnectionError):       # a program may end before its answer is through
                assert self.visit(address) < 400
            if program.end:
                until(lambda: any(program.end in line for line in lines), program.end, LIMIT)
            print(*lines)
            return (program.end or running.wait(LIMIT) == 0) and self.issuers.exchanges() == [200]


# Programs that say who is signed in.
NAMED = {'codex login', 'claude auth login', 'firebase login', 'gh auth login', 'wrangler login'}
LIMIT = 20
# An address that a person would take: it speaks of a loopback port.
ADDRESS = re.compile(r'https?://(?=[^\s"\x1b]*[?])[^\s"\x1b]*(?:localhost|127\.0\.0\.1)(?::|%3A)[0-9]+[^\s"\x1b]*')


def said(script):
    """The lines that the program printed."""
    return [event['text'] for event in script.events if event['event'] == 'output']


def loopback(address):
    return urllib.parse.urlsplit(address).hostname in ('localhost', '127.0.0.1')


@contextlib.contextmanager
def person_of(program, folder):
    """Somebody whose account at a new server has the program."""
    if reason := sshd.missing():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        try:
            real_programs.install(program)
        except Missing as missing:
            pytest.skip(str(missing))
        for port in re.findall('[0-9]{4,}', program.port):      # it is the phone's as well: this machine's
            stack.enter_context(alone_with(int(port)))
        server = stack.enter_context(Sshd())
        issuers = stack.enter_context(Issuers(server, program.hosts))
        real_programs.put(program, server)
        home = Home(folder)
        home.make_key(server)
        home.known_hosts.write_text(server.known_hosts())
        yield Person(program, server, home, issuers)
        print(issuers.requests())


def each(programs):
    """As parameters; a registry's bad day is no failure, but codex has to be there."""
    return pytest.mark.parametrize('program', [
        pytest.param(program, id=program.name, marks=[] if program.source[1] == lab.CODEX_PACKAGE else [pytest.mark.may_be_missing])
        for program in programs])


@each([program for program in PROGRAMS if not program.asks])
def test_a_program_signs_in(program, tmp_path):
    with person_of(program, tmp_path) as person:
        assert person.by_script()


@each([program for program in PROGRAMS if program.asks])
def test_a_program_takes_the_code_that_its_page_shows(program, tmp_path):
    with person_of(program, tmp_path) as person:
        assert person.by_script()


@each([program for program in PROGRAMS if program.name == 'firebase login'])
def test_a_program_that_asks_at_a_terminal_first_is_answered_and_then_signs_in(program, tmp_path):
    with person_of(program, tmp_path) as person:
        server = person.server
        with Script(person.home, '-t', '-p', server.port, f'{server.user}@127.0.0.1', 'firebase login', json_events=False, terminal=True) as script:
            for question in ('Gemini', 'collect'):
                script.answer(question, 'n')
            person.visit(until(lambda: person.home.opened, 'the page')[0])
            assert script.wait() == 0 and person.issuers.exchanges() == [200]


@each([program for program in PROGRAMS if program.name == 'gh auth login'])
def test_a_program_with_menus_at_a_terminal_is_answered_and_then_signs_in(program, tmp_path):
    with person_of(program, tmp_path) as person:
        server = person.server
        with Script(person.home, '-t', '-p', server.port, f'{server.user}@127.0.0.1', 'gh auth login', json_events=False, terminal=True) as script:
            for question in ('account', 'protocol'):
                script.answer(question, '')
            for _ in range(2):          # it asks the terminal where the cursor stands, and throws away what comes with that
                script.answer(r'\[6n', '\x1b[24;80R')
            until(lambda: 'How would you' in script.screen or script.press('\r'), 'the next menu')
            until(lambda: person.home.opened or script.press('\r'), 'the page')
            assert person.home.opened == ['https://github.com/login/device']
            assert script.wait() == 0 and person.issuers.exchanges() == [200]
            assert 'Logged in to github.com as person' in script.screen


@each([program for program in PROGRAMS if program.name in ('wrangler login', 'clasp login')])
def test_too_large_a_request_is_the_program_s_to_refuse_and_the_reload_passes_without_the_cookies_of_others(program, tmp_path):
    with person_of(program, tmp_path) as person:
        server = person.server
        with Script(person.home, '-p', server.port, f'{server.user}@127.0.0.1', program.command) as script:
            browser = Browser(script.wait_for('sign-in')['url'])
            redirect = browser.redirect(code='good-1.')
            browser.headers = {'X-Of-A-Proxy': 'x' * 20000}
            assert browser.get(redirect).status == 431 and person.issuers.exchanges() == []
            browser.headers = {'Cookie': '; '.join(f'of-another-{number}={"x" * 500}' for number in range(40))}
            assert browser.get(redirect).status < 400
            assert script.wait() == 0 and person.issuers.exchanges() == [200]


@each([program for program in PROGRAMS if program.ssh == WORKS])
def test_the_same_with_plain_ssh(program, tmp_path):
    """So it is a program's own doing where the script does no better; and what is asked of the script is not too much."""
    with person_of(program, tmp_path) as person:
        assert person.by_ssh()


@pytest.mark.quick
@pytest.mark.parametrize('kind', ['npm', 'apt'])
def test_what_cannot_be_installed_is_said_and_tried_anew_the_next_time(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(real_programs, 'FOLDER', tmp_path / 'programs')
    program = next(program for program in PROGRAMS if program.source[0] == kind and program.source[1] != lab.CODEX_PACKAGE)
    for reason in ('No such file', 'of the registry'):
        monkeypatch.setenv('PATH', str(tmp_path))
        with pytest.raises(Missing, match=f'{program.source[1]} {program.version} is not to be had by {kind}: .*{reason}'):
            real_programs.install(program)
        for tool in ('npm', 'apt-get'):
            (tmp_path / tool).write_text('#!/bin/sh\necho a bad day of the registry >&2; exit 1\n')
            (tmp_path / tool).chmod(0o755)


@pytest.mark.quick
def test_the_table_says_what_these_tests_show():
    readme = (ROOT / 'scripts/README.md').read_text(encoding='utf-8')
    assert '\n'.join(real_programs.table()) in readme, 'python3 tests/real_programs.py prints it'
