"""What a program listens on at the server, as the launcher asks the system there; and what a login makes of it."""

import contextlib
import http.client
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path

import embedded
import lab
import pytest
from harness import SCRIPT, Browser, Script
from relay import Relay
from test_programs import server, sign_in, signed_in  # noqa: F401 (fixtures)
from waiting import PATIENCE, until

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'scripts'))
import codex_login          # noqa: E402

PROGRAMS = Path(__file__).resolve().with_name('programs')
SHELLS = {'dash': ['dash'], 'bash': ['bash', '--posix'], 'zsh': ['zsh', '--emulate', 'sh'], 'ash': ['busybox', 'ash']}
MARK = '0123456789abcdef'


# --- What the system says -----------------------------------------------------------------------------------

class Job:
    """A program of this machine that was begun as the launcher begins one, and what is said of its ports."""

    def __init__(self, folder, *words, shell=('sh',), path=os.environ['PATH']):
        self.folder, self.shell, self.path = folder, [*map(str, shell)], path
        (folder / 'bin').mkdir(parents=True)
        (folder / 'job').write_text(f'BROWSER="{folder}/bin/browser" "$@"\n:\n')
        self.process = subprocess.Popen(
            ['setsid', 'sh', str(folder / 'job'), *listener(*words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        (folder / 'groups').write_text(f'{self.process.pid} 99999999\n')
        named = [word.partition(':')[0] for word in words if word not in ('many', 'fork', 'naked')]
        self.ports = [int(self.process.stdout.readline().split()[1]) for _ in named]

    def listens(self, port=0, text=codex_login.LISTENS):
        """(port, family, whose) of each that is told of; None where nothing says it."""
        told = codex_login.launcher({'N': MARK, 'd': str(self.folder), 'P': str(port)}, codex_login.OURS, text)
        done = subprocess.run(self.shell, input=told, capture_output=True, timeout=PATIENCE, env={'PATH': self.path})
        assert done.stderr == b'' and done.returncode == 0
        record = re.fullmatch(f'@{MARK} listens ?((\\d+ [46] (?:own|other) ?)*)\n', done.stdout.decode())
        words = record and record[1].split()
        return words and sorted(zip(map(int, words[::3]), words[1::3], words[2::3]))

    def end(self):
        self.process.stdin.close()
        self.process.stdout.read()      # whoever it has left has ended as well
        self.process.wait(PATIENCE)


def listener(*words):
    return [sys.executable, '-s', '-E', '-S', str(PROGRAMS / 'listens.py'), *words]


@pytest.fixture
def begin(tmp_path):
    with contextlib.ExitStack() as stack:
        def begin(*words, **how):
            job = Job(tmp_path / 'codex-login.b1n2xAAAAAAAAAA', *words, **how)
            stack.callback(job.end)
            return job
        yield begin


@pytest.fixture
def somebody():
    """What listens and is not the program's: its ports."""
    with contextlib.ExitStack() as stack:
        def listens(address):
            family = socket.AF_INET6 if ':' in address else socket.AF_INET
            return stack.enter_context(socket.create_server((address, 0), family=family)).getsockname()[1]
        yield listens


@pytest.mark.quick
@pytest.mark.parametrize('shell, words, families', [
    *((shell, 'fork 4 6', '46') for shell in SHELLS), *(('dash', *case) for case in (
        ('4', '4'), ('6', '6'), ('any', '4'), ('any6', '4'), ('mapped', '4'), ('4 6', '46'), ('4 4', '44'), ('fork 4', '4'), ('naked 4', '4'),
        ('elsewhere 4', '-4'), ('elsewhere', '-')))])
def test_what_a_program_listens_on_is_told_whoever_of_it_holds_it(begin, somebody, shell, words, families):
    if not shutil.which(SHELLS[shell][0]):
        pytest.skip(f'no {shell}: apt-get install {SHELLS[shell][0]}')
    somebody('127.0.0.1')
    job = begin(*words.split(), shell=SHELLS[shell])
    expected = [(port, family, 'own') for port, family in zip(job.ports, families) if family != '-']
    assert job.listens() == sorted(expected)


@pytest.mark.quick
@pytest.mark.parametrize('address, family', [('127.0.0.1', '4'), ('::1', '6'), ('0.0.0.0', '4')])
def test_another_programs_socket_is_told_of_at_the_port_in_question_only(begin, somebody, address, family):
    theirs, job = somebody(address), begin('4')
    assert job.listens(theirs) == sorted([(theirs, family, 'other'), (job.ports[0], '4', 'own')])


@pytest.mark.quick
def test_a_port_may_be_the_programs_on_one_loopback_and_anothers_on_the_other(begin, somebody):
    theirs = somebody('127.0.0.1')
    job = begin(f'6:{theirs}')
    assert job.listens(theirs) == [(theirs, '4', 'other'), (theirs, '6', 'own')]


@pytest.mark.quick
def test_what_has_left_the_program_before_it_ended_is_still_its_own(begin):
    job = begin('fork', '4')
    until(lambda: job.process.poll() is not None)
    assert job.listens() == [(job.ports[0], '4', 'own')]
    job.end()
    assert job.listens() == []


@pytest.mark.quick
def test_a_few_hundred_connections_are_no_listeners(begin):
    job = begin('4', 'many')
    assert job.listens() == [(job.ports[0], '4', 'own')]


@pytest.mark.quick
def test_nothing_that_listens_is_connected_to(begin):
    job = begin('4')
    job.listens(job.ports[0])
    with open('/proc/net/tcp') as table:
        ends = [line.split()[1:4] for line in table.readlines()[1:]]
    wanted = f':{job.ports[0]:04X}'
    assert [state for here, there, state in ends if wanted in here + there] == ['0A']


def without(folder, *names):
    """A PATH with what a small server has, but not these."""
    (folder / 'path').mkdir()
    for name in 'sh cat cksum grep id ls ps read sed sleep tr uname'.split():
        if name not in names and shutil.which(name):
            (folder / 'path' / name).symlink_to(shutil.which(name))
    return str(folder / 'path')


@pytest.mark.quick
def test_a_server_needs_neither_ss_nor_lsof_nor_ps(begin, tmp_path):
    job = begin('4', path=without(tmp_path, 'ps'))
    assert job.listens() == [(job.ports[0], '4', 'own')]


@pytest.mark.quick
@pytest.mark.parametrize('words', ['4', '6', 'any', 'any6', 'mapped', '4 6', 'fork 4', 'naked 4'])
def test_a_server_may_have_busybox_only(begin, tmp_path, words):
    if not shutil.which('busybox'):
        pytest.skip('no busybox: apt-get install busybox')
    (tmp_path / 'path').mkdir()
    subprocess.run(['busybox', '--install', '-s', tmp_path / 'path'], check=True)
    job = begin(*words.split(), shell=[tmp_path / 'path/sh'], path=str(tmp_path / 'path'))
    assert [port for port, _, whose in job.listens() if whose == 'own'] == sorted(job.ports)


WITHOUT_PROC = codex_login.LISTENS.replace('/proc/net', '/nowhere')


@pytest.mark.quick
@pytest.mark.parametrize('words', ['4', '6', 'any', '4 6', 'naked 4'])
def test_where_there_is_no_table_of_sockets_lsof_says_it(begin, somebody, words):
    if not shutil.which('lsof'):
        pytest.skip('no lsof: apt-get install lsof')
    theirs, job = somebody('127.0.0.1'), begin(*words.split())
    found = job.listens(theirs, WITHOUT_PROC)
    assert (theirs, '4', 'other') in found
    assert sorted({port for port, _, whose in found if whose == 'own'}) == sorted(job.ports)


@pytest.mark.quick
def test_where_nothing_says_it_nothing_is_said(begin, tmp_path):
    job = begin('4', path=without(tmp_path))
    assert job.listens(text=WITHOUT_PROC) is None


@pytest.mark.quick
@pytest.mark.skipif(os.geteuid() != 0, reason='only root can be somebody else')
def test_another_accounts_socket_is_the_programs_own_if_the_program_became_that_account(begin, tmp_path):
    with subprocess.Popen(['setpriv', '--reuid=12345', '--regid=12345', '--clear-groups', *listener('4')],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stranger:
        port = int(stranger.stdout.readline().split()[1])
        as_kim = ('setpriv', '--reuid=23456', '--regid=23456', '--clear-groups', 'sh')
        job = begin('4', shell=as_kim)
        for place in (tmp_path, *tmp_path.parents[:3], job.folder):
            place.chmod(0o755)
        assert job.listens(port) == [(port, '4', 'other')]
        assert job.listens(job.ports[0]) == [(job.ports[0], '4', 'own')]
        stranger.stdin.close()


# --- What a login makes of it -------------------------------------------------------------------------------

def visit(address, method='GET', body=None, **headers):
    """What a person's browser gets that is sent somewhere by a page."""
    url = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        sent = {'Accept': 'text/html,application/xhtml+xml,*/*;q=0.8', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document',
                'Sec-Fetch-Site': 'cross-site', **{name.replace('_', '-'): value for name, value in headers.items()}}
        connection.request(method, url.path + (f'?{url.query}' if url.query else ''), body, sent)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


FORM = {'method': 'POST', 'body': 'SAMLResponse=x&code=good', 'Content_Type': 'application/x-www-form-urlencoded'}


@pytest.mark.parametrize('how', ['', 'handed', 'late', 'handed late'])
def test_a_page_that_says_nothing_of_its_way_back_is_opened_where_the_program_listens(sign_in, server, how):
    script, address = sign_in('no-redirect', *how.split())
    assert address.startswith('https://sso.example/') and script.wait_for('opened')
    port = server.announced_port
    assert visit(f'http://localhost:{port}/acs', **{**FORM, 'Sec_Fetch_Mode': 'no-cors', 'Sec_Fetch_Dest': 'image'})[0] == 403
    assert visit(f'http://localhost:{port}/favicon.ico')[0] == 204
    assert visit(f'http://localhost:{port}/apple-touch-icon.png', Accept='*/*', Sec_Fetch_Mode='no-cors')[0] == 404
    assert visit(f'http://localhost:{port}/acs', **FORM) == (200, 'You are signed in.')
    assert signed_in(script) and [event['url'] for event in script.events if event['event'] == 'sign-in'] == [address]


def test_what_such_a_page_brings_in_its_path_comes_once(sign_in, server):
    script, _ = sign_in('no-redirect', 'path')
    script.wait_for('opened')
    assert visit(f'http://localhost:{server.announced_port}/done/token') == (200, 'You are signed in.')
    assert signed_in(script)


def test_a_page_that_leads_back_to_one_of_two_ports_nobody_knows_which_is_not_opened(sign_in, server):
    script, address = sign_in('listens', '4', '4', 'hand', 'long')
    until(lambda: 'leads nowhere on this device, and was not opened' in script.stderr)
    script.interrupt()
    assert script.wait() == 130 and 'opened' not in [event['event'] for event in script.events]


@pytest.mark.parametrize('how, first, then', [('', 'redirect', 'L'), ('further', 'redirect', 'L'), ('home', 'L', 'redirect')])
def test_a_page_on_the_servers_own_loopback_and_its_redirect_both_reach_the_server(sign_in, server, how, first, then):
    script, address = sign_in('page-elsewhere', *how.split())
    page = urllib.parse.urlsplit(address).port
    assert page != server.announced_port and script.wait_for('opened')
    assert Browser(address).follow(address).text == 'You are signed in.' and signed_in(script)
    listening = {event['port']: event['mode'] for event in script.events if event['event'] == 'listening'}
    assert (listening[server.announced_port], listening[page]) == (first, then) and len(listening) == 2 + (how == 'further')


def test_what_listens_on_one_loopback_only_gets_the_redirect_though_another_program_has_the_other(sign_in, server):
    port = server.announced_port
    other = server.popen([*listener(f'4:{port}')], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    script, address = sign_in('one-loopback', options=['-v'])
    until(lambda: f"({port}, '6', True)" in script.stderr)      # a person is slower than a server
    assert Browser(address).sign_in().text == 'You are signed in.'
    assert signed_in(script)
    other.stdin.close()


def test_the_real_codex_signs_in_at_an_mcp_server_on_the_servers_own_loopback(sign_in, server):
    if not (codex := lab.find_codex()) or not shutil.which('node'):
        pytest.skip('no codex: ' + dict(lab.missing_parts())['codex'])
    server.add_program('codex', f'#!/bin/sh\nPATH={Path(shutil.which("node")).parent}:$PATH exec {codex} "$@"\n')
    with server.popen([sys.executable, '-s', '-E', '-S', PROGRAMS / 'mcp_server.py'], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as issuer:
        url = f'http://127.0.0.1:{int(issuer.stdout.readline())}/mcp'
        script, address = sign_in('codex', 'mcp', 'add', 'local', '--url', url)
        assert urllib.parse.urlsplit(address).netloc == urllib.parse.urlsplit(url).netloc
        assert Browser(address).follow(address).status == 200
        assert script.wait() == 0 and any('Successfully logged in' in str(event) for event in script.events)


@pytest.mark.parametrize('held, words', [
    (False, r'Nothing listens at port {} of 127\.0\.0\.1\. Is the program in a container, or on another machine\? Publish the port there\.'),
    (True, r'Another program than the one that was started has port {} of 127\.0\.0\.1: the sign-in would go there\.')])
def test_it_is_said_where_the_redirect_would_go_that_the_program_does_not_wait_for(sign_in, server, held, words):
    port = server.announced_port
    other = server.popen(listener(*[f'4:{port}'] * held), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if held:
        other.stdout.readline()
    script, address = sign_in('listens-nowhere')
    until(lambda: re.search(words.format(port), script.stderr))
    script.interrupt()
    assert script.wait() == 130 and server.leftovers() == []
    other.stdin.close()


def test_codex_in_a_container_is_told_that_a_code_works_there(sign_in, server):
    server.add_program('codex', '#!/bin/sh\n[ "$2" = status ] && exit 1\necho "https://auth.openai.com/oauth/authorize?redirect_uri='
                       f'http%3A%2F%2Flocalhost%3A{server.announced_port}%2Fauth%2Fcallback&state=s"\nexec sleep 600\n')
    script, _ = sign_in('codex', 'login')
    until(lambda: f'Nothing listens at port {server.announced_port} of 127.0.0.1.' in script.stderr)
    assert 'Publish the port there, or use --device-auth.' in script.stderr
    script.interrupt()
    assert script.wait() == 130


# --- When it ends -------------------------------------------------------------------------------------------

LEFT = 'The program has ended, and left something that listens at port'


def shown(sign_in, *program, **how):
    """The same for a person, who reads lines."""
    return sign_in(*program, person=True, **how)


def test_what_a_program_left_goes_on_being_served_until_it_ends_and_that_is_said_once(sign_in, server):
    with Relay(server, counted=True, watch=[server]) as relay:
        script, address = shown(sign_in, 'leaves-listener', port=relay.port)
        script.wait_for_text(LEFT)
        relay.settle()
        assert Browser(address).sign_in(state='another').status == 400
        assert Browser(address).sign_in().text == 'You are signed in.'
        assert script.wait() == 0 and (server.home / 'signed-in').exists()
        assert script.screen.count('has ended') == 1 and server.leftovers() == []


def test_what_a_program_left_is_no_longer_served_where_it_stopped(sign_in, server, tmp_path):
    script, address = shown(sign_in, 'leaves-listener', script=impatient(tmp_path, NEXT_LOOK=0.3))
    script.wait_for_text(LEFT)
    embedded.end_marked_processes(server.mark)
    assert script.wait() == 0


def test_what_a_program_left_is_not_ended_by_who_gives_up(sign_in, server):
    script, address = shown(sign_in, 'leaves-listener')
    script.wait_for_text(LEFT)
    script.interrupt()
    assert script.wait() == 130
    assert server.announced_port in [port for _, port in server.listeners()]


def impatient(folder, **limits):
    """The script, with shorter limits of its Login's."""
    path = folder / 'impatient.py'
    path.write_text(f'import sys\nsys.path.insert(0, {str(SCRIPT.parent)!r})\nimport codex_login\n'
                    + ''.join(f'codex_login.Login.{name} = {value}\n' for name, value in limits.items())
                    + 'if __name__ == "__main__":\n    sys.exit(codex_login.main())\n')
    return path


def test_a_program_that_has_its_redirect_and_says_nothing_is_no_silence(sign_in, server, tmp_path):
    script, address = shown(sign_in, 'goes-on', script=impatient(tmp_path, QUIET=0.1))
    assert Browser(address).sign_in().text == 'You are signed in.'
    script.wait_for_text('The program at 127.0.0.1 has the redirect, and goes on without a word.')
    (server.home / 'enough').touch()
    assert script.wait() == 0 and script.screen.count('without a word') == 1


def test_a_program_that_dies_with_every_session_is_begun_anew_once_and_no_more(sign_in, server):
    """Whatever ends what sessions leave (KillUserProcesses, a supervisor), on a bad line."""
    server.add_program('dies', '#!/bin/sh\necho x >>~/starts\nsleep 600\n')
    with Relay(server) as relay:
        script, _ = sign_in('dies', port=relay.port, address=False)
        for count in (1, 2):
            until(lambda: (server.home / 'starts').exists() and len((server.home / 'starts').read_text()) == 2 * count)
            relay.door('refused')
            relay.cut('reset')
            embedded.end_marked_processes(server.mark)
            relay.restore()
        assert script.wait_for('error')['kind'] == 'gone' and script.wait() == 255
    assert (server.home / 'starts').read_text() == 'x\nx\n'


@pytest.mark.parametrize('how', ['', 'reads'])
def test_an_address_that_is_brought_goes_where_the_program_waits_for_it_though_nothing_said_so(sign_in, server, how):
    """To the port that it listens on; to its input, where it listens on none."""
    script, _ = sign_in('no-address', *how.split(), address=False, person=True)
    ticket, port = script.wait_for_text(r'ticket (\S+), port (\d+)').groups()
    script.press(f'http://localhost:{port}/callback?code=good&state={ticket}\n')
    script.wait_for_text('Signed in.')
    assert script.wait() == 0
