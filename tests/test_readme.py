"""The three READMEs keep their word: their commands are run from their own text, their pictures and links are there.

Where a command runs is said by the words after ``` in the text:

    sh              a computer, in the project's folder
    sh a-shell      the stand-in for a-Shell, in the app's folder
    sh server       the server, as the account that is to sign in
    sh tunnel       a computer, beside the tunnel of the block before
    sh real         a computer that has every real part
    text url, sshconfig      what they say, on the phone

What an empty line sets apart is run apart. In a table whose head is `COMMAND …`, each first cell goes on with that command.

The stage is set so that the commands work as they are written: `you` is an account at the embedded server,
and `server`, `bastion` and `work` are names of it in the ssh configuration. Only this is replaced:

- the address of somebody's copy on the web, by one of the files here;
- in tunnels, the port numbers, which may be in use here;
- 200 logins, by 2 with the same bad days each time; the file of the recording, by another;
- a pairing link and a failed address, by ones of this server and this login.

What installs packages is compared with requirements.txt. The test command is not run from itself: it has to
be the one that .ci/run calls; of the quick ones, the list is looked at. Of the benchmark, which takes minutes, only the arguments are tried.
"""

import ast
import contextlib
import functools
import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import typing
import urllib.parse
import xml.etree.ElementTree

import chromium
import pytest
import stand_in_codex
import test_phones
from conftest import missing_parts
from embedded import EmbeddedServer, fingerprint, free_port
from harness import PATIENCE, ROOT, SCRIPT, Browser, Home, Script
from test_install import AtServer, copy, in_a_shell, served  # noqa: F401 (a fixture)
from test_pair_phone import needs_zbar, pair_phone, parse
from tools import record_check, record_demo
from waiting import until

READMES = {path: (ROOT / path).read_text(encoding='utf-8') for path in ('README.md', 'scripts/README.md', 'tests/README.md')}
README, DEPTH, WORK = READMES.values()
MOST_LINES = 280        # of the first one: it is read in one sitting
ALSO_NAMED = ('server', 'bastion', 'work')
INSTALL = 'python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n'
DEMO_LIMIT = 120


class Block(typing.NamedTuple):
    """A code block: where it runs, and its text."""

    kind: str
    text: str


def code_blocks(text):
    """Every different command of a text: its code blocks, and the tables of what goes on from one command."""
    found = []
    for indent, kind, block in re.findall(r'^( *)```(\S[^\n]*)\n(.*?)^\1```$', text, re.MULTILINE | re.DOTALL):
        block = re.sub(f'^{indent}', '', block, flags=re.MULTILINE)
        found += [Block(kind, part.rstrip('\n') + '\n') for part in ([block] if kind in WHOLE else block.split('\n\n'))]
    for command, rows in re.findall(r'^\| `([^`]+)` … \|.*\n\|-.*\n((?:\|.*\n)+)', text, re.MULTILINE):
        found += [Block('sh', f'{command} {rest}\n') for rest in re.findall(r'^\| `([^`]+)` \|', rows, re.MULTILINE)]
    return list(dict.fromkeys(found))


WHOLE = ('text check', 'python')
BLOCKS, CLAIMED = code_blocks('\n'.join(READMES.values())), set()


def blocks(kind, pattern=''):
    """Parametrizes a test with the blocks of a kind that match; these count as tested."""
    chosen = [block for block in BLOCKS if block.kind == kind and re.search(pattern, block.text)]
    CLAIMED.update(chosen)
    return pytest.mark.parametrize('block', chosen, ids=[block.text.strip()[-60:] for block in chosen])


# --- The stage ----------------------------------------------------------------------------------------------

ashell, pythonista = test_phones.ashell, test_phones.pythonista


@pytest.fixture
def server():
    """The server of the README's commands, with the programs that they name."""
    with EmbeddedServer(user='you', password=test_phones.PASSWORD) as server:
        for name in set(stand_in_codex.CLIS) - {'codex'}:
            server.install(name)
        yield server
        assert server.leftovers() == []


class Computer:
    """A person's computer: ssh knows the server by its names, and every page that opens is signed in on."""

    def __init__(self, folder, server):
        self.home, self.server = Home(folder), server
        self.key = self.home.make_key(server)
        self.home.trust(server)
        self.home.config.write_text(''.join(
            f'Host {name}\n    HostName {server.address}\n    Port {server.port}\n    User you\n'
            for name in ALSO_NAMED))
        self.tool('python3', f'exec {shlex.quote(sys.executable)} "$@"')
        self.tool('uv', 'shift; exec python3 "$@"')
        self.scripts = []

    def tool(self, name, command):
        """Have a command of that name on the PATH."""
        path = self.home.bin / name
        path.write_text(f'#!/bin/sh\n{command}\n')
        path.chmod(0o755)

    def start(self, text, **environment):
        """Start the commands of a block, as a shell does."""
        self.scripts.append(Script(self.home, text, python='sh', script='-c', json_events=False, cwd=ROOT,
                                   environment=environment))
        return self.scripts[-1]

    def run(self, text, limit=PATIENCE, **environment):
        """Run them to the end; their standard output. They have to succeed."""
        script = self.start(text, **environment)
        seen = set(self.home.opened)

        def ended():
            pages = {*self.home.opened, *re.findall(r'^https?://\S+$', script.stdout, re.MULTILINE)}
            for page in {page for page in pages - seen if Browser(page).redirect_uri}:
                assert Browser(page).sign_in().status == 200
            seen.update(pages)
            return script.process.poll() is not None
        until(ended, 'the end of the commands', limit)
        assert script.wait() == 0, script.report()
        return script.stdout

    @property
    def signed_in(self):
        """Whether codex at the server is."""
        return (self.server.home / '.codex' / 'auth.json').exists()


@pytest.fixture
def computer(tmp_path, server):
    computer = Computer(tmp_path / 'home', server)
    yield computer
    for script in computer.scripts:
        script.close()


class Answer(http.server.BaseHTTPRequestHandler):
    """A web page that says which one it is."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'the page behind the tunnel')

    def log_message(self, *_):
        pass


@pytest.fixture
def page_port():
    """The port of a web page on loopback."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answer) as page:
        page.daemon_threads = True
        threading.Thread(target=page.serve_forever, daemon=True).start()
        yield page.server_address[1]
        page.shutdown()


# --- The first screen, and the project's own commands -------------------------------------------------------

def test_the_first_screen_has_one_sentence_one_picture_and_the_two_commands():
    words = README.partition('## ')[0]
    assert words.index('<img') < words.index('python3 tests/demo.py') < words.index('python3 tests/run.py') < words.index('on a phone yet')
    assert len(README.splitlines()) <= MOST_LINES


@blocks('sh', r'^python3 tests/demo\.py$')
def test_the_demo_works(block, computer):
    assert 'nothing, neither here nor there' in computer.run(block.text, DEMO_LIMIT)


@blocks('sh real')
def test_the_demo_works_on_real_parts(block, computer):
    if missing := missing_parts():
        pytest.skip('; '.join(f'{part}: {how}' for part, how in missing))
    path = f'{computer.home.bin}:{os.environ["PATH"]}'
    here = {**os.environ, 'PATH': path, 'TMPDIR': tempfile.gettempdir()}
    assert 'nothing, neither here nor there' in computer.run(block.text, DEMO_LIMIT, **here)


@blocks('sh', r'^python3 tests/run\.py --all$')
def test_the_test_command_is_the_one_that_the_ci_calls(block):
    ci = (ROOT / '.ci' / 'run').read_text()
    assert re.search(f'^{re.escape(block.text.strip())} --require-all && exit$', ci, re.MULTILINE)


@blocks('sh', r'^python3 tests/run\.py$')
def test_the_quick_tests_are_parsers_and_a_story_of_each_kind(block, computer):
    said = computer.run(block.text.strip() + ' -m quick --collect-only -q', 60)
    for name in ('test_specs.py', 'test_login.py', 'test_freeze.py', 'test_tunnels.py', 'test_forwards.py'):
        assert name in said, name


@blocks('sh', r'^python3 tests/run\.py [^-]')
def test_a_single_file_of_tests_can_be_run(block, computer):
    assert 'test_specs.py' in computer.run(block.text.strip() + ' --collect-only -q', 60)


@blocks('sh', 'soak')
def test_the_soak_ends_with_its_table(block, computer):
    assert '2 logins' in computer.run(block.text.replace('--logins 200', '--logins 2 --seed 1'), DEMO_LIMIT)


@blocks('sh', 'bench')
def test_the_benchmark_knows_its_arguments(block, computer):
    assert 'usage' in computer.run(block.text.strip() + ' --help')


@blocks('sh', 'record_demo')
def test_the_recording_can_be_made_anew(block, computer, tmp_path):
    computer.run(f'{block.text.strip()} {shlex.quote(str(tmp_path / "demo.svg"))}', DEMO_LIMIT,
                 HOME=os.environ['HOME'])           # where the stand-ins' Pythons are
    anew, there = (record_demo.said(file.read_text()) for file in (tmp_path / 'demo.svg', record_demo.PICTURE))
    assert anew == there and any(line.startswith('Signed in') for line in there)


# --- Logins from a computer ---------------------------------------------------------------------------------

@blocks('sh', rf'^({re.escape(INSTALL)})?(\.venv/bin/python|python3|uv run) scripts/codex_login\.py (?!.*(-N|--finish|--help|--check))')
def test_a_command_works_from_a_computer(block, computer):
    said = computer.run(block.text.removeprefix(INSTALL).replace('.venv/bin/python', 'python3'))
    if not re.search('uname|wrangler|az login|--new-key', block.text):
        assert computer.signed_in
    assert said.strip()


@blocks('sh', '--help')
def test_every_option_that_the_readme_names_is_in_the_help(block, computer):
    known = computer.run(block.text) + computer.run('python3 scripts/pair_phone.py --help')
    named = set(re.findall(r'`(--[a-z-]+)', README + DEPTH))
    assert named and [option for option in named if option not in known] == []


@blocks('sh', '--check')
def test_a_computer_is_tried_out(block, computer):
    said = computer.run(block.text)
    assert 'paramiko' in said and 'connection' not in said      # nobody can be asked to leave


@blocks('text check')
def test_what_a_phone_says_of_itself_is_still_what_the_readme_shows(block, tmp_path):
    app = next(app for app in record_check.SHOWN if f'{app}:\n\n```text check\n{block.text}' in DEPTH)
    said = record_check.what_it_says(app)[app]
    assert record_check.lasting(said) == record_check.lasting(block.text)


@blocks('sh', r'--finish$')
def test_finish_takes_the_copied_address(block, computer):
    clipboard = computer.home.folder / 'clipboard'
    computer.tool('xclip', f'case "$*" in *-o*) cat "{clipboard}";; *) cat > "{clipboard}";; esac')
    login = computer.start('exec python3 scripts/codex_login.py you@server', DISPLAY=':99')
    page, = until(lambda: computer.home.opened, 'no page was opened')
    login.kill()
    clipboard.write_text(Browser(page).redirect())
    computer.run(block.text, DISPLAY=':99')
    assert computer.signed_in


@blocks('sh', r'--finish "')
def test_a_login_that_was_begun_by_hand_gets_its_failed_page(block, computer, server):
    port = str(free_port())
    with subprocess.Popen([server.bin / 'codex', 'login'], env={**server.base_environment(), 'STAND_IN_PORT': port},
                          stderr=subprocess.PIPE, text=True) as login:
        page = next(line for line in login.stderr if line.startswith('https:')).strip()
        computer.run(re.sub('"http.*?"', shlex.quote(Browser(page).redirect()), block.text))
        assert computer.signed_in and login.wait(PATIENCE) == 0


def headers_dependencies(file):
    """What the header of a script (PEP 723) says that it needs."""
    return ast.literal_eval(re.search(r'^# dependencies = (\[.*\])$', file.read_text(), re.MULTILINE)[1])


def test_what_is_installed_is_what_the_script_needs():
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    assert [line for line in lines if line[:1] not in ('', '#')] == headers_dependencies(SCRIPT)


# --- Tunnels ------------------------------------------------------------------------------------------------

def get(address):
    return Browser(address).get(address).text


def with_free_ports(text, **fixed):
    """A tunnel's command with ports that are free; and which they are."""
    ports = {number: fixed.get(f'port_{number}') or free_port()
             for number in re.findall(r'\b\d{4}\b', text)}
    return re.sub(r'\b\d{4}\b', lambda number: str(ports[number[0]]), text), ports


@blocks('sh', '-N -L')
def test_a_port_here_leads_to_the_servers_side(block, computer, page_port):
    text, ports = with_free_ports(block.text, port_8000=page_port)
    tunnel = computer.start('exec ' + text)
    until(lambda: 'Tunnels are open' in tunnel.stderr, tunnel.report())
    assert 'behind the tunnel' in get(f'http://localhost:{ports["8080"]}/')


@blocks('sh', '-N -R')
def test_a_port_at_the_server_leads_here(block, computer, page_port):
    text, ports = with_free_ports(block.text, port_8001=page_port)
    tunnel = computer.start('exec ' + text)
    until(lambda: 'Tunnels are open' in tunnel.stderr, tunnel.report())
    assert 'behind the tunnel' in get(f'http://127.0.0.1:{ports["9000"]}/')


@pytest.mark.skipif(not shutil.which('curl'), reason='curl is missing: apt install curl')
@blocks('sh tunnel')
def test_a_page_of_the_servers_network_is_read_through_the_proxy(block, computer, server, page_port):
    reach, port = server.reach, free_port()
    network = {'intranet.example': ('127.0.0.1', page_port)}
    server.reach = lambda host, number: reach(*network.get(host, (host, number)))
    proxy = BLOCKS[BLOCKS.index(block) - 1]
    CLAIMED.add(proxy)
    tunnel = computer.start('exec ' + proxy.text.replace('1080', str(port)))
    until(lambda: 'Tunnels are open' in tunnel.stderr, tunnel.report())
    assert 'behind the tunnel' in computer.run(block.text.replace('1080', str(port)))


blocks('sh', '-N -D')      # the proxy of the block after it, tested with that one


# --- At the server ------------------------------------------------------------------------------------------

@needs_zbar
@blocks('sh server')
def test_the_server_shows_a_code_that_adds_it(block, tmp_path, server):
    program, words = re.fullmatch(r'(?:python3|uv run) (\S+) (.*)', block.text.strip()).groups()
    assert (ROOT / program).samefile(pair_phone.__file__) and headers_dependencies(ROOT / program)
    words = re.sub('--png code.png|--host server.example.org', '', words).split()
    shown = AtServer(server, tmp_path, *words)
    try:
        if '--installed' in words:
            assert parse(shown.link).host == server.address
        elif 'a-shell' in words:
            assert 'phone.py' in shown.link
        elif '--from' in words:
            assert words[words.index('--from') + 1] in shown.link
        else:
            get(re.search("'(http:.*?)'", shown.link)[1])
        status, said, errors = shown.end()
        assert 'Scan it' in said and '▀' in said if status == 0 else 'columns wide' in errors and '--from' in words
    finally:
        shown.process.kill()


# --- On the phones ------------------------------------------------------------------------------------------

def has_command(handset):
    """Have the script as a-Shell's command `codex_login`.

    a-Shell starts a file on its PATH by its first line, executable or not; here a wrapper does.
    """
    command = handset.folder / 'bin' / 'codex_login'
    command.parent.mkdir(exist_ok=True)
    shutil.copy(SCRIPT, command)
    assert command.read_text().startswith('#!/usr/bin/env python3\n')
    wrappers = handset.desk / 'bin'
    wrappers.mkdir(parents=True, exist_ok=True)
    for name, line in (('codex_login', f'exec {handset.stand_in.python} {test_phones.ASHELL_APP} ~/Documents/bin/codex_login "$@"'),
                       ('scp', f'exec scp -O -F {handset.ssh}/scp "$@"')):
        (wrappers / name).write_text(f'#!/bin/sh\nPATH=${{PATH#*:}}\n{line}\n')
        (wrappers / name).chmod(0o755)
    handset.variables['PATH'] = f'{wrappers}:{handset.environment()["PATH"]}'
    return command


def in_shell(handset, text, **how):
    """Start the lines of a block in a-Shell."""
    lines = handset.desk / 'lines'
    lines.write_text(text)
    return handset.start(python='sh', script=lines, **how)


@pytest.fixture
def shell(ashell, server):
    """a-Shell with the command installed, in which the server is known by its names."""
    ashell.know(server).configure(*ALSO_NAMED, server=server)
    has_command(ashell)
    return ashell


@pytest.mark.skipif(not shutil.which('scp'), reason='scp is missing: apt install openssh-client')
@blocks('sh a-shell', 'scp')
def test_the_file_can_be_had_from_the_server(block, shell, server):
    shutil.copytree(ROOT / 'scripts', server.home / 'codex-login' / 'scripts')
    (shell.ssh / 'scp').write_text(
        f'UserKnownHostsFile {shell.ssh}/known_hosts\nIdentityFile {shell.ssh}/id_ed25519\n'
        + (shell.ssh / 'config').read_text())
    command = shell.folder / 'bin' / 'codex_login'
    shutil.rmtree(command.parent)
    script = in_shell(shell, block.text)
    assert script.wait() == 0, script.report()
    assert command.read_bytes() == SCRIPT.read_bytes()


@pytest.mark.skipif(not shutil.which('curl'), reason='curl is missing: apt install curl')
@blocks('sh a-shell', 'PKG_SERVER')
def test_a_shells_package_manager_has_it(block, shell, copy):
    (shell.phone.home / 'tmp').mkdir()
    shutil.rmtree(shell.folder / 'bin')
    with served(copy.parent) as address:
        (copy.parent / 'codex-login').symlink_to(copy)
        script = in_a_shell(shell, block.text.replace('https://server.example.org', address))
        assert script.wait() == 0, script.report()
    assert (shell.folder / 'bin' / 'codex_login').read_bytes() == SCRIPT.read_bytes()


@blocks('sh a-shell', r'^codex_login work$')
def test_a_server_is_signed_in_by_its_name(block, shell):
    script = in_shell(shell, block.text)
    assert Browser(shell.sign_in_page(script)).sign_in().status == 200 and script.wait() == 0


@blocks('sh a-shell', r'> login\.txt')
def test_the_shortcut_of_a_shell_gets_the_outcome(block, shell):
    script = in_shell(shell, block.text, terminal=False)
    assert Browser(shell.sign_in_page(script)).sign_in().status == 200 and script.wait() == 0
    assert shell.phone.called('open')[-1]['args'] == ['shortcuts://']
    *_, signed_in, status = (shell.folder / 'login.txt').read_text().splitlines()
    assert signed_in.startswith('Signed in') and f'`{status}`' in README


@blocks('sh a-shell', 'SHORTCUTS')
def test_the_share_sheets_shortcut_finishes_a_login_that_waits(block, shell, server):
    group = shell.desk / 'group'
    group.mkdir(parents=True, exist_ok=True)
    shell.variables['SHORTCUTS'] = str(group)
    login = shell.start('work')
    failed = Browser(shell.sign_in_page(login)).redirect()
    script = in_shell(shell, re.sub('".*"', f'"{failed}"', block.text))
    assert script.wait() == 0 and login.wait() == 0, login.report()
    assert (server.home / '.codex' / 'auth.json').exists() and list(group.iterdir()) == []


@blocks('sh a-shell', '--add')
def test_a_printed_link_adds_the_server(block, ashell, server):
    has_command(ashell)
    assert parse(block.text.split()[-1]).host == 'server.example.org'
    keys = '/'.join(fingerprint(key).removeprefix('SHA256:').replace('/', '_') for key in server.keys())
    place = f'{server.address}/{server.port}/{keys.replace("+", "-")}'
    script = in_shell(ashell, re.sub(r'server\.example\.org/22/\S+', place, block.text))
    script.answer('yes/no', 'yes')
    script.answer('password:', test_phones.PASSWORD)
    assert Browser(ashell.sign_in_page(script)).sign_in().status == 200 and script.wait() == 0


@blocks('sshconfig')
def test_the_entry_of_the_configuration_is_one(block, ashell, server):
    ashell.know(server)
    entry = block.text.replace('server.example.org', server.address).replace('Port 22', f'Port {server.port}')
    assert str(server.port) in entry
    (ashell.ssh / 'config').write_text(entry)
    ashell.sign_in('work')


@blocks('text url', '^ashell:')
def test_the_link_of_a_shell_starts_a_login(block, shell):
    script = in_shell(shell, urllib.parse.unquote(block.text.strip().removeprefix('ashell:')))
    assert Browser(shell.sign_in_page(script)).sign_in().status == 200 and script.wait() == 0


@blocks('text url', '^pythonista3:')
def test_the_link_of_pythonista_starts_a_login(block, pythonista, server):
    pythonista.know(server).configure('work', server=server)
    url = urllib.parse.urlsplit(block.text.strip())
    query = urllib.parse.parse_qs(url.query)
    assert url.netloc == 'codex_login.py' and query['action'] == ['run']
    pythonista.sign_in(*query['argv'])


blocks('python')           # what a story looks like
blocks('sh', 'record_check')    # test_what_a_phone_says_of_itself_is_still_what_the_readme_shows calls what it calls


def test_every_command_of_the_readmes_has_a_test():
    assert [block for block in BLOCKS if block not in CLAIMED] == []


def test_the_start_in_portuguese_has_the_same_commands():
    english, portuguese = map(code_blocks, README.split('## Início rápido'))
    assert portuguese and set(portuguese) <= set(english)


# --- Troubleshooting ----------------------------------------------------------------------------------------

def first_column(heading, number=0):
    """The texts in the first column of a table below a heading; its second table with number 1."""
    section = re.search(rf'^###? {re.escape(heading)}\n(.*?)(?=^##)', DEPTH, re.MULTILINE | re.DOTALL)[1]
    tables = re.findall(r'(?:^\|.*\n)+', section, re.MULTILINE)
    return re.findall(r'^\| `(.+?)` \|', tables[number], re.MULTILINE)


@functools.lru_cache(maxsize=None)
def texts_of_the_script():
    """Every text in the script, with … for what it fills in."""
    def text(node):
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return ''.join(map(text, node.values))
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        return '…'
    return {text(node) for node in ast.walk(ast.parse(SCRIPT.read_text(encoding='utf-8')))
            if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp))}


OF_CHROMIUM = re.compile('ERR_')
ONLY_IN_REPORTS = {     # what no test here can show: Safari's own words, and those of a page of OpenAI's
    "Safari can't connect to the server",
    'Navigation failed because the request was for an HTTP URL with HTTPS-Only enabled',
    'Route Error (400 Invalid Session)',
}


@pytest.mark.parametrize('words', [
    *first_column('The script says'),
    *(words for words in first_column('On the page in the browser') if not OF_CHROMIUM.match(words))])
def test_the_script_has_a_text_of_the_readme(words):
    assert any(words in text for text in texts_of_the_script())


def test_texts_that_no_test_can_provoke_are_said_to_be_such():
    assert set(first_column('On the page in the browser', 1)) == ONLY_IN_REPORTS


@pytest.mark.parametrize('words', first_column('codex says'))
def test_what_codex_says_comes_through(words, computer, server):
    status = 127 if 'node' in words else 1
    codex = server.bin / 'codex'
    says = f'echo {shlex.quote(words)} >&2; exit {status}'
    codex.write_text(f'#!/bin/sh\n[ "$2" = status ] && exit 1\n{says}\n')
    script = computer.start('exec python3 scripts/codex_login.py you@server')
    assert script.wait() == status
    assert words in script.stderr and 'Traceback' not in script.stderr


@pytest.mark.skipif(not chromium.find_chromium(), reason='Chromium is missing: apt install chromium')
@pytest.mark.parametrize('words', [*filter(OF_CHROMIUM.match, first_column('On the page in the browser'))])
def test_the_browser_says_so_where_nothing_answers(words):
    with contextlib.ExitStack() as stack:
        port = free_port()
        if words == 'ERR_EMPTY_RESPONSE':
            class Silent(http.server.BaseHTTPRequestHandler):
                def handle(self):
                    self.rfile.readline()
            page = stack.enter_context(http.server.ThreadingHTTPServer(('127.0.0.1', port), Silent))
            threading.Thread(target=page.serve_forever, daemon=True).start()
            stack.callback(page.shutdown)
        tab = stack.enter_context(chromium.Chromium()).new_tab()
        tab.open(f'http://localhost:{port}/auth/callback')
        tab.wait_for_text(words)


# --- Events, pictures, links --------------------------------------------------------------------------------

BETWEEN_SECTIONS = {'back', 'link-failed', 'lost', 'note', 'unreached', 'waiting'}
"""What the sections of the script tell each other; it gets out as an error, or as a line for people."""


def test_every_event_is_in_the_table():
    told = set(re.findall(r"tell\('([a-z-]+)'", SCRIPT.read_text())) - BETWEEN_SECTIONS
    assert set(first_column('For programs')) == told


PICTURES = sorted((ROOT / '.pictures').glob('*.svg'))


@pytest.mark.parametrize('picture', PICTURES, ids=lambda file: file.stem)
def test_a_picture_can_be_read_on_a_phone(picture):
    text = picture.read_text(encoding='utf-8')
    svg = xml.etree.ElementTree.fromstring(text)
    name = '{http://www.w3.org/2000/svg}'
    assert svg.find(name + 'title').text and svg.find(name + 'desc').text
    assert svg.get('viewBox').startswith('0 0 360 ')
    assert min(map(float, re.findall(r'([\d.]+)px', text))) >= 12
    assert 'prefers-color-scheme: dark' in text
    assert not re.search(r'url\(|@import|@font-face|<image|<script|href', text)
    if '@keyframes' in text:
        assert 'prefers-reduced-motion: reduce' in text


def of_each_readme(test):
    """Parametrizes a test with the three of them: the folder that one is in, and its text."""
    return pytest.mark.parametrize('folder, text', [((ROOT / path).parent, text) for path, text in READMES.items()],
                                   ids=list(READMES))(test)


def test_every_picture_is_shown_and_described():
    shown = {(ROOT / path).parent.joinpath(picture).resolve()
             for path, text in READMES.items() for picture, described in re.findall(r'<img src="([^"]+)" alt="([^"]+)"', text)}
    assert sum(len(re.findall('<img|!\\[', text)) for text in READMES.values()) == len(shown)
    assert shown == set(PICTURES)


def anchors(text):
    """The anchors that GitHub gives the headings."""
    headings = re.findall(r'^#+ (.*)$', re.sub(r'```.*?```', '', text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@of_each_readme
def test_every_link_leads_somewhere(folder, text):
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if target.startswith('https://'):
            continue
        file, _, anchor = target.partition('#')
        there = (folder / file) if file else None
        assert there is None or there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text(encoding='utf-8') if there else text), target


@of_each_readme
def test_every_file_that_a_readme_names_is_there(folder, text):
    named = re.findall(r'(?<![\w/.-])((?:scripts|tests|share_extension|\.ci)/[\w./]+\w)', text)
    assert named and [path for path in named if not (ROOT / path).exists()] == []
