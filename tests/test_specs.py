"""The room "Specs": what people type and what programs print, tunnels and SOCKS among it, as values.

No sockets, no clock.
"""

import base64
import hmac
import importlib
import random
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'scripts'))
script = importlib.import_module('codex_login')
pytestmark = pytest.mark.quick
Destination, ForwardSpec, Problem = script.Destination, script.ForwardSpec, script.Problem
Record, SignIn, Socks, parse_forward = script.Record, script.SignIn, script.Socks, script.parse_forward

HOME, SSH = '/home/kim', '/home/kim/.ssh'
AUTHORIZE = (
    'https://auth.openai.com/oauth/authorize?response_type=code&client_id=app_1'
    '&redirect_uri=http%3A%2F%2F127.0.0.1%3A1455%2Fauth%2Fcallback'
             '&code_challenge=c&state=s-1&originator=codex_cli_rs')


def refused(function, *arguments):
    """The Problem that a call ends with; it says what happened, in characters that can be shown anywhere."""
    with pytest.raises(Problem) as raised:
        function(*arguments)
    assert all(line.isprintable() for line in f'{raised.value.message}\n{raised.value.hint}'.split('\n'))
    return raised.value


def pieces(data, generator):
    """`data` cut at random places, empty pieces among them."""
    cuts = sorted(generator.choices(range(len(data) + 1), k=generator.randrange(12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)])]


# --- Destinations -------------------------------------------------------------------------------------------

@pytest.mark.parametrize('text, expected', [
    ('server', (None, 'server', None)),
    ('server.example.org', (None, 'server.example.org', None)),
    ('kim@server', ('kim', 'server', None)),
    ('kim@server:2222', ('kim', 'server', 2222)),
    ('server:22', (None, 'server', 22)),
    ('kim@corp.example@server', ('kim@corp.example', 'server', None)),
    ('ssh://kim@server:2222', ('kim', 'server', 2222)),
    ('ssh://server/', (None, 'server', None)),
    ('my_box', (None, 'my_box', None)),
    ('büro.example', (None, 'büro.example', None)),
    ('192.0.2.7:22', (None, '192.0.2.7', 22)),
    ('server:ssh', (None, 'server', 22)),
    ('work/db', (None, 'work/db', None)),
    ('kim@my+srv', ('kim', 'my+srv', None)),
    ('a=b', (None, 'a=b', None)),
    ('a~b', (None, 'a~b', None)),
    ('::1', (None, '::1', None)),
    ('2001:db8::7', (None, '2001:db8::7', None)),
    ('kim@fe80::1%eth0', ('kim', 'fe80::1%eth0', None)),
    ('[2001:db8::7]', (None, '2001:db8::7', None)),
    ('kim@[2001:db8::7]:2222', ('kim', '2001:db8::7', 2222)),
    ('kim@[fe80::1%eth0]:2222', ('kim', 'fe80::1%eth0', 2222)),
    ('ssh://kim@[::1]:2222', ('kim', '::1', 2222)),
])
def test_a_destination_is_read_as_ssh_reads_it(text, expected):
    assert script.parse_destination(text) == Destination(*expected)


@pytest.mark.parametrize('text', [
    '', ' ', '@server', 'kim@', 'kim@:22', ':22', '-oProxyCommand=x', 'kim@-oProxyCommand=x', '-kim@server',
    'a b', 'server:no-such-service', 'server:0', 'server:65536', 'server:-1', 'server:+22', 'server:22x', 'server:٢٢',
    '[::1', '::1]', '[::1]22', '[]', '[server]', 'ssh://server/path', 'a,b', 'ssh://', 'ki\nm@server',
    'server\n', 'ser\x1b[31mver', 'ser;ver', '$(reboot)', 'a`b`',
])
def test_what_is_no_destination_is_a_usage_error(text):
    problem = refused(script.parse_destination, text)
    assert (problem.kind, problem.status) == ('usage', 2) and problem.hint


# --- -o and the settings ------------------------------------------------------------------------------------

@pytest.mark.parametrize('text, expected', [
    ('Port=2222', ('port', '2222')),
    ('port 2222', ('port', '2222')),
    (' PORT = 2222 ', ('port', '2222')),
    ('User=a=b', ('user', 'a=b')),
    ('IdentityFile="~/.ssh/my key"', ('identityfile', '"~/.ssh/my key"')),
    ('ChallengeResponseAuthentication=no', ('kbdinteractiveauthentication', 'no')),
    ('stricthostkeychecking=accept-new', ('stricthostkeychecking', 'accept-new')),
])
def test_options_are_written_as_for_ssh(text, expected):
    assert script.parse_option(text) == expected


@pytest.mark.parametrize('text', ['', '=', 'Port', 'Port=', 'Port= ', '=22',
                         'Colour=blue', 'LocalComand=reboot', '\x1b[31m=1'])
def test_an_unknown_or_empty_option_is_a_usage_error(text):
    problem = refused(script.parse_option, text)
    assert (problem.kind, problem.status) == ('usage', 2) and problem.hint


def test_an_unknown_option_is_told_which_are_known():
    problem = refused(script.parse_option, 'Colour=blue')
    assert 'Colour' in problem.message and 'StrictHostKeyChecking' in problem.hint


class Desk:
    """A device, as far as a configuration is concerned."""
    ssh_folder, user = SSH, staticmethod(lambda: 'kim')


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.setenv('HOME', HOME)


def settings(destination='server', **options):
    """The Settings for what a configuration says."""
    lines = {key: [script.Line(key, text) for text in ([texts] if isinstance(texts, str) else texts)]
             for key, texts in options.items()}
    return script.make_settings(script.parse_destination(destination), lines, Desk)


def test_without_a_configuration_the_settings_are_ssh_s_own():
    found = settings()
    assert (found.alias, found.host, found.port, found.user) == ('server', 'server', 22, 'kim')
    assert found.name == 'kim@server'
    assert found.known_hosts_files == (f'{SSH}/known_hosts', f'{SSH}/known_hosts2')
    assert f'{SSH}/id_ed25519' in found.identity_files and f'{SSH}/id_rsa' in found.identity_files
    assert (found.identities_named, found.identities_only, found.batch) == (False, False, False)
    assert found.strict == 'ask'
    assert found.connect_timeout == 15 and found.alive_interval > 0 and found.alive_count > 0


def test_every_key_of_the_configuration_is_heeded():
    found = settings(
        'box', hostname='%h.example.org', user='bob', port='2200', identityfile=['~/.ssh/a', '%d/keys/%r@%h'],
        identitiesonly='yes', userknownhostsfile='~/known /etc/known', stricthostkeychecking='yes',
        batchmode='yes', connecttimeout='3', serveraliveinterval='7', serveralivecountmax='4')
    assert (found.alias, found.host, found.port, found.user) == ('box', 'box.example.org', 2200, 'bob')
    assert found.identity_files == (f'{SSH}/a', f'{HOME}/keys/bob@box.example.org')
    assert (found.identities_named, found.identities_only) == (True, True)
    assert found.known_hosts_files == (f'{HOME}/known', '/etc/known')
    assert (found.strict, found.batch) == ('yes', True)
    assert (found.connect_timeout, found.alive_interval, found.alive_count) == (3, 7, 4)


@pytest.mark.parametrize('value, meaning', [
    ('yes', 'yes'), ('YES', 'yes'), ('ask', 'ask'), ('accept-new', 'accept-new'),
    ('no', 'accept-new'), ('off', 'accept-new'),
])
def test_no_value_of_stricthostkeychecking_accepts_a_changed_key(value, meaning):
    assert settings(stricthostkeychecking=value).strict == meaning


def test_the_home_has_one_meaning_and_its_ssh_folder_is_the_devices(monkeypatch):
    monkeypatch.setattr(Desk, 'ssh_folder', f'{HOME}/Documents/.ssh')       # as in the apps
    found = settings(identityfile=['~/.ssh/a', '~/Documents/.ssh/b', '%d/.ssh/c', '${HOME}/.ssh/d', '~/Documents/e', '~'],
                     userknownhostsfile='~/.ssh/f %d/g', identityagent='~/.ssh/agent')
    assert found.identity_files == (*(f'{HOME}/Documents/.ssh/{name}' for name in 'abcd'), f'{HOME}/Documents/e', f'{HOME}/')
    assert found.known_hosts_files == (f'{HOME}/Documents/.ssh/f', f'{HOME}/g') and found.agent == f'{HOME}/Documents/.ssh/agent'
    assert settings().known_hosts_files == (f'{HOME}/Documents/.ssh/known_hosts', f'{HOME}/Documents/.ssh/known_hosts2')


def test_a_connection_that_the_configuration_refuses_is_not_made():
    lines = script.read_config('config', SSH, lambda path: 'Host old-*\n RefuseConnection "moved"\n', None)
    problem = refused(script.look_up, lines, 'old-box', Desk)
    assert 'config, line 2' in problem.message and 'moved' in problem.message
    assert script.look_up(lines, 'box', Desk) == {}


def test_identityfile_none_means_none():
    assert settings(identityfile=['none']).identity_files == ()


@pytest.mark.parametrize('value, seconds', [('90', 90), ('90s', 90),
                         ('2m', 120), ('1m30s', 90), ('1H', 3600)])
def test_times_may_have_units_as_in_ssh_config(value, seconds):
    assert settings(connecttimeout=value).connect_timeout == seconds
    assert settings(serveraliveinterval=value).alive_interval == seconds


@pytest.mark.parametrize('key, value', [
    ('port', 'no-such-service'), ('port', '0'), ('port', '70000'), ('identitiesonly', 'maybe'), ('batchmode', '2'),
    ('stricthostkeychecking', 'perhaps'), ('connecttimeout', 'soon'), ('connecttimeout', '-1'),
    ('serveraliveinterval', '1.5'), ('serveralivecountmax', '\x1b[31m'),
])
def test_a_value_that_ssh_config_does_not_allow_is_named(key, value):
    problem = refused(lambda: settings(**{key: value}))
    assert script.CONFIG_KEYS[key] in problem.message and problem.hint
    assert (problem.kind, problem.status) == ('config', 255)


# --- known_hosts --------------------------------------------------------------------------------------------

def hashed(name, salt=b'0123456789abcdefghij'):
    digest = hmac.new(salt, name.encode(), 'sha1').digest()
    return '|1|' + '|'.join(base64.b64encode(part).decode() for part in (salt, digest))


@pytest.mark.parametrize('host, port, name', [
    ('Server.Example.ORG', 22, 'server.example.org'), ('server', 2222, '[server]:2222'),
    ('::1', 22, '::1'), ('FE80::1', 2222, '[fe80::1]:2222'),
])
def test_a_server_has_the_name_that_ssh_gives_it(host, port, name):
    assert script.known_hosts_name(host, port) == name


@pytest.mark.parametrize('patterns, name, matches', [
    ('server', 'server', True),
    ('SERVER', 'server', True),
    ('server', 'server2', False),
    ('a,server,b', 'server', True),
    ('*.example.org', 'a.b.example.org', True),
    ('*.example.org', 'example.org', False),
    ('a.example.org', 'axexample.org', False),
    ('host?', 'host1', True),
    ('host?', 'host10', False),
    ('*,!secret.example.org', 'secret.example.org', False),
    ('!secret.example.org,*', 'secret.example.org', False),
    ('*,!secret.example.org', 'open.example.org', True),
    ('!other', 'server', False),
    ('[server]:2222', '[server]:2222', True),
    ('[server]:2222', 'server', False),
    ('server', '[server]:2222', False),
    ('[*]:2222', '[server]:2222', True),
    ('[s]:2222', 's:2222', False),
    ('2001:db8::7', '2001:db8::7', True),
    (hashed('server'), 'server', True),
    (hashed('server'), 'other', False),
    (hashed('[server]:2222'), '[server]:2222', True),
    (hashed('[server]:2222'), 'server', False),
    ('|1|', 'server', False),
    ('|1|x|y', 'server', False),
    ('|1|AAAA|AAAA|AAAA', 'server', False),
    ('|2|AAAA|AAAA', 'server', False),
])
def test_names_match_as_in_sshd_8(patterns, name, matches):
    assert script.names_match(patterns, name) is matches


def key_text(type, number=0):
    """The base64 text of a key of that type."""
    return base64.b64encode(struct.pack('>I', len(type)) + type.encode() + bytes([number] * 32)).decode()


ED25519, ECDSA, RSA = (key_text(type) for type in ('ssh-ed25519', 'ecdsa-sha2-nistp256', 'ssh-rsa'))


def test_keys_come_with_type_place_and_marker():
    text = '\n'.join([
        f'# server ssh-ed25519 {ED25519}', '', '   ', 'server', 'server ssh-ed25519',
        f'server ssh-ed25519 {ED25519} a comment of several words', f'{hashed("server")} ssh-rsa {RSA}',
        f'@revoked * ssh-ed25519 {ED25519}', f'@cert-authority * ssh-rsa {RSA}',
        f'@unheard-of * ssh-rsa {RSA}', f'other ssh-rsa {RSA}', f'\tserver\tecdsa-sha2-nistp256\t{ECDSA}\r',
        # No keys, to ssh either: cut short, or of another type than the line says.
        'server ssh-ed25519 AAAAC3Nza', 'server ssh-ed25519 AAAA', f'server ssh-rsa {ED25519}', 'server ssh-rsa äöü'])
    assert script.known_keys(text, 'server', '/f') == [
        ('ssh-ed25519', ED25519, '/f, line 6', ''), ('ssh-rsa', RSA, '/f, line 7', ''),
        ('ssh-ed25519', ED25519, '/f, line 8', '@revoked'), ('ssh-rsa', RSA, '/f, line 9', '@cert-authority'),
        ('ecdsa-sha2-nistp256', ECDSA, '/f, line 12', '')]


SAME, OTHER, OTHER_TYPE = (f'server {type} {key}' for type, key in (
    ('ssh-ed25519', ED25519), ('ssh-ed25519', key_text('ssh-ed25519', 1)), ('ecdsa-sha2-nistp256', ECDSA)))
PINNED, NO_PIN = [script.fingerprint(base64.b64decode(ED25519))], ['SHA256:of+another']


@pytest.mark.parametrize('lines, pins, verdicts, line', [
    # What the files have, a pairing's fingerprints, the verdicts where StrictHostKeyChecking is ask, accept-new and
    # yes (one: whatever it is), and the line that decides.
    ([], None, 'ask add unknown', None),
    ([SAME], None, 'trusted', None),
    ([OTHER_TYPE, SAME], None, 'trusted', None),
    ([OTHER], None, 'changed', 1),
    ([OTHER_TYPE], None, 'changed', 1),
    ([f'@revoked {OTHER_TYPE}', OTHER_TYPE], None, 'changed', 2),
    ([SAME, f'@revoked {SAME}'], None, 'revoked', 2),
    ([f'@revoked {SAME}'], None, 'revoked', 1),
    ([f'@revoked {OTHER}'], None, 'ask add unknown', None),
    ([f'@cert-authority {OTHER}'], None, 'ask certificate certificate', 1),
    ([f'@cert-authority {SAME}'], None, 'ask certificate certificate', 1),
    ([f'@cert-authority {OTHER}', SAME], None, 'trusted', None),
    ([f'@cert-authority {OTHER}', OTHER_TYPE], None, 'changed', 2),
    ([], PINNED, 'add', None),
    ([SAME], PINNED, 'trusted', None),
    ([OTHER], PINNED, 'trusted', None),
    ([OTHER_TYPE], PINNED, 'trusted', None),
    ([f'@cert-authority {OTHER}'], PINNED, 'add', None),
    ([f'@revoked {SAME}'], PINNED, 'revoked', 1),
    ([], NO_PIN, 'unpinned', None),
    ([SAME], NO_PIN, 'unpinned', None),
    ([OTHER_TYPE], NO_PIN, 'unpinned', None),
    ([], [], 'unpinned', None),
])
def test_a_host_key_is_judged_by_all_that_is_known_of_the_server(lines, pins, verdicts, line):
    known = script.known_keys('\n'.join(lines), 'server', '/f')
    judged = [script.judge_host_key(known, pins, strict, base64.b64decode(ED25519))
              for strict in ('ask', 'accept-new', 'yes')]
    assert [verdict for verdict, _ in judged] == (verdicts.split() * 3 if ' ' not in verdicts else verdicts.split())
    deciding = {key.place for verdict, key in judged if key}
    assert deciding == ({f'/f, line {line}'} if line else set())


# --- The transcript -----------------------------------------------------------------------------------------

OUTPUT = (b'noise @m started /tmp/x\nStarting\n\n  two\r\n\n\n@m2 exit 4\n@ @m\ncaf\xc3\xa9 \xff\nhalf@m browser https://a/?b=c d\n a line\n'
          b'@@m exit 0 17\n\0')
RECORDS = [Record('started', '/tmp/x'), Record('browser', 'https://a/?b=c d'), Record('exit', '0 17')]
BYTES = b'noise Starting\n\n  two\r\n\n\n@m2 exit 4\n@ @m\ncaf\xc3\xa9 \xff\nhalf a line\n@\0'


def told_apart(parts, mark='m'):
    """What is whose, byte by byte: the records, the program's bytes, and how many of these came before each record."""
    transcript = script.Transcript(mark)
    items = [item for part in parts for item in transcript.feed(part)]
    records = [item for item in items if isinstance(item, Record)]
    before = [sum(len(item) for item in items[:items.index(record)] if isinstance(item, bytes)) for record in records]
    return records, b''.join(item for item in items if isinstance(item, bytes)) + transcript.rest(), before


def test_records_are_told_from_the_programs_bytes_wherever_they_are_cut():
    generator = random.Random(1455)
    expected = RECORDS, BYTES, [6, BYTES.index(b' a line'), BYTES.index(b'\0')]
    for parts in ([OUTPUT], [bytes([byte]) for byte in OUTPUT], *(pieces(OUTPUT, generator) for _ in range(300))):
        assert told_apart(parts) == expected


def test_no_byte_is_kept_back_but_what_may_become_a_record():
    transcript = script.Transcript('m')
    assert list(transcript.feed(b'Name: ')) == [b'Name: '] and list(transcript.feed(b'me@')) == [b'me']
    assert list(transcript.feed(b'm')) == [] and list(transcript.feed(b'b\n')) == [b'@mb\n']
    assert list(transcript.feed(b'@m exit')) == [] and list(transcript.feed(b' 3\nx')) == [Record('exit', '3'), b'x']


def test_whoever_stops_at_a_record_has_the_rest_as_it_came():
    transcript = script.Transcript('m')
    for item in transcript.feed(b'hello\n@m begin\nbytes @m exit 0\n'):
        if item == ('begin', ''):
            break
    assert transcript.rest() == b'bytes @m exit 0\n' and list(transcript.feed(b'')) == []


def test_a_record_without_an_end_is_not_waited_for():
    transcript = script.Transcript('m')
    found = [item for _ in range(160) for item in transcript.feed(b'@m ' + b'x' * 65536)]
    assert max(len(item.text if isinstance(item, Record) else item) for item in found) <= transcript.LONGEST


def lines_of(parts):
    lines = script.Lines()
    return [line for part in parts for line in lines.feed(part)], lines.rest


def test_lines_are_the_same_in_pieces_of_any_size():
    generator = random.Random(1455)
    expected = ['noise Starting', '', '  two', '', '', '@m2 exit 4', '@ @m', 'café \ufffd', 'half a line'], '@\0'
    for parts in ([BYTES], [bytes([byte]) for byte in BYTES], *(pieces(BYTES, generator) for _ in range(300))):
        assert lines_of(parts) == expected


def test_a_line_is_only_given_when_it_is_whole():
    lines = script.Lines()
    assert lines.feed(AUTHORIZE.encode()[:-20]) == []
    assert lines.feed(AUTHORIZE.encode()[-20:]) == [] and lines.rest == AUTHORIZE
    assert lines.feed(b'\n') == [AUTHORIZE] and lines.rest == ''


def test_ten_megabytes_without_a_line_feed_are_not_kept_waiting():
    found, rest = lines_of([b'x' * 65536] * 160)
    assert sum(map(len, found)) + len(rest) == 160 * 65536 and max(map(len, [*found, rest])) <= script.Lines.LONGEST


@pytest.mark.parametrize('length', [-1, 0, 1])
def test_a_line_around_the_longest_reads_the_same_in_one_piece_and_byte_by_byte(length):
    data = b'x' * (script.Lines.LONGEST + length) + b'\nnext\n'
    assert lines_of([data]) == lines_of(data[start:start + 1] for start in range(len(data)))


# --- Sign-in addresses --------------------------------------------------------------------------------------

def found_in(text, strict=False):
    """What is given for the lines of a text, in order, and then, as after a silence, what was kept."""
    finder = script.Finder(strict)
    found = [finder.feed(line) for line in text.splitlines()]
    while finder.quiet:
        found.append(finder.settle())
    return list(filter(None, found))


def test_an_address_is_found_in_any_amount_of_output():
    many = 'Compiling something quite ordinary\n' * 5000
    assert [found.url for found in found_in(f'{many}Visit {AUTHORIZE} now\n{many}')] == [AUTHORIZE]
    lines = f'{many}First copy your one-time code: ABCD-1234\n{many[:200]}Open https://github.com/login/device in a browser\n{many}'
    assert found_in(lines) == [script.DeviceCode('https://github.com/login/device', 'ABCD-1234')]
    apart = f'https://github.com/login/device\n{many}Your code: ABCD-1234\n{many}see https://example.org/\n'
    assert not any(isinstance(found, script.DeviceCode) for found in found_in(apart))


@pytest.mark.parametrize('columns', [40, 61, 100])
def test_an_address_that_a_terminal_of_known_width_has_broken_is_joined(columns):
    text = f'Open this:  {AUTHORIZE}'
    lines = [text[at:at + columns] for at in range(0, len(text), columns)]
    finder = script.Finder(False, columns)
    found = [finder.feed(line) for line in (*lines, '', 'Waiting for you')]
    assert [one.url for one in found if one] == [AUTHORIZE]


def sign_in_of(text):
    """The sign-in that a person is led to."""
    return next(iter(found_in(text)), None)


def page(base, redirect, **more):
    query = {'client_id': 'x', 'redirect_uri': redirect, 'state': 'xyz', **more}
    return base + '?' + '&'.join(f'{name}={quote(value, safe="")}' for name, value in query.items())


WRANGLER = page('https://dash.cloudflare.com/oauth2/auth', 'http://localhost:8976/oauth/callback')
CLASP = page('https://accounts.google.com/o/oauth2/v2/auth', 'http://localhost:36811')
AWS = page('https://oidc.us-east-1.amazonaws.com/authorize', 'http://127.0.0.1:40123/oauth/callback')
GEMINI = page('https://accounts.google.com/o/oauth2/v2/auth', 'http://localhost:38445/oauth2callback')
TERRAFORM = page('https://app.terraform.io/oauth/authorize', 'http://localhost:10007/login')
ARGOCD = page('https://argocd.example.org/api/dex/auth', 'http://localhost:8085/auth/callback')
VAULT = page('https://id.example.org/authorize', 'http://localhost:8250/oidc/callback')
FIREBASE = page('https://accounts.google.com/o/oauth2/auth', 'http://localhost:9005')
MCP = page('https://mcp.example.org/authorize', 'http://127.0.0.1:3335/oauth/callback')


@pytest.mark.parametrize('text, url, port, path', [
    pytest.param('Starting local login server on http://localhost:1455.\n'
                 'If your browser did not open, navigate to this URL to authenticate:\n\n'
                 f'{AUTHORIZE}\n\nOn a remote or headless machine? Use `codex login --device-auth` instead.',
                 AUTHORIZE, 1455, '/auth/callback', id='codex'),
    pytest.param(f'Attempting to login via OAuth...\nOpening a link in your default browser: {WRANGLER}',
                 WRANGLER, 8976, '/oauth/callback', id='wrangler'),
    pytest.param(f'Attempting to login via OAuth...\nVisit this link to authenticate: {WRANGLER}',
                 WRANGLER, 8976, '/oauth/callback', id='wrangler without a browser'),
    pytest.param(f'🔑 Authorize clasp by visiting this url:\n{CLASP}\n', CLASP, 36811, '/', id='clasp'),
    pytest.param(f'If the browser does not open, open the following URL.\n\n{AWS}',
                 AWS, 40123, '/oauth/callback', id='aws'),
    pytest.param(f'Otherwise navigate to:\n\n{GEMINI}\n', GEMINI, 38445, '/oauth2callback', id='gemini'),
    pytest.param('If a browser does not open this automatically, open the following URL to proceed:\n'
                 f'    {TERRAFORM}\nTerraform will now wait for the host to signal that.',
                 TERRAFORM, 10007, '/login', id='terraform'),
    pytest.param(f'Performing authorization_code flow login: {ARGOCD}',
                 ARGOCD, 8085, '/auth/callback', id='argocd'),
    pytest.param('Complete the login via your OIDC provider. Launching browser to:\n\n'
                 f'    {VAULT}\n\nWaiting for OIDC authentication to complete...',
                 VAULT, 8250, '/oidc/callback', id='vault'),
    pytest.param(f'Visit this URL on this device to log in:\n{FIREBASE}\n\nWaiting for authentication...',
                 FIREBASE, 9005, '/', id='firebase'),
    pytest.param('OAuth callback server running at http://127.0.0.1:3335\n'
                 f'Please authorize this client by visiting:\n{MCP}',
                 MCP, 3335, '/oauth/callback', id='mcp-remote'),
])
def test_each_program_s_sign_in_page_is_found(text, url, port, path):
    assert sign_in_of(text) == SignIn(url, port, path, 's-1' if url == AUTHORIZE else 'xyz', 'redirect')


@pytest.mark.parametrize('text, url, port, path', [
    pytest.param('If browser window does not open automatically, open it by clicking on the link:\n'
                 ' http://127.0.0.1:45235/1e9ba2c8-0f7d\n',
                 'http://127.0.0.1:45235/1e9ba2c8-0f7d', 45235, '/1e9ba2c8-0f7d', id='tsh'),
    pytest.param('Please visit the following URL in your browser: http://localhost:8000',
                 'http://localhost:8000', 8000, '/', id='kubelogin'),
    pytest.param('Open http://[::1]:8000/login.', 'http://[::1]:8000/login', 8000, '/login', id='ipv6'),
])
def test_an_address_that_the_program_itself_serves_is_a_sign_in_too(text, url, port, path):
    assert sign_in_of(text) == SignIn(url, port, path, None, 'bare')


@pytest.mark.parametrize('text', [
    '', 'Using proxy http://127.0.0.1:7890', 'Starting local login server on http://localhost:1455.', 'Listening on http://127.0.0.1:8976/',
    'Waiting for http://localhost:9005',
    'A web browser has been opened at https://login.microsoftonline.com/organizations/oauth2/v2.0/authorize.',
    'OAuth callback server running at http://127.0.0.1:3335',
    'See https://developers.openai.com/codex/auth#login for help.', 'https://auth.openai.com/codex/device',
    'http://localhost:99999/', 'http://localhost:x/', 'https://[bad/', 'https://',
    'http://localhost.example.org:1455/', 'http://127.0.0.1:1455@example.org/',
    page('https://id.example.org/a', 'https://example.org/cb'),
])
def test_other_addresses_are_no_sign_in(text):
    assert sign_in_of(text) is None


@pytest.mark.parametrize('before, after', [
    ('', '.'), ('(', ')'), ('<', '>'), ('"', '"'), ("'", "'"), ('`', '`'),
    ('[', ']'), ('at ', ', and come back'), ('\x1b[1;34m', '\x1b[0m'),
    ('\x1b]0;title\x07', ''), ('\u202e', '\u202c'),
])
def test_an_address_ends_where_a_person_would_say(before, after):
    assert [found.url for found in found_in(f'{before}{AUTHORIZE}{after}')] == [AUTHORIZE]


@pytest.mark.parametrize('url, port, path, state', [
    ('https://a.test/?state=s&redirect_uri=http://localhost:1/x', 1, '/x', 's'),
    ('https://a.test/?redirect_uri=http%3A%2F%2F%5B%3A%3A1%5D%3A8250%2Fcb', 8250, '/cb', None),
    ('https://a.test/?next=http://localhost:2/&redirect_uri=http://localhost:1/', 1, '/', None),
    ('https://a.test/?callback_url=http://127.0.0.1:7777/done', 7777, '/done', None),
    ('https://a.test/#redirect_uri=http://127.0.0.1:7777/done', 7777, '/done', None),
    ('https://a.test/?redirect_uri=http://localhost/cb', 80, '/cb', None),
    # Named as a redirect, in any of the usual ways, before what merely happens to be on loopback; that where nothing is.
    *((f'https://a.test/?referrer=http://localhost:9/&{name}=http://localhost:1/x', 1, '/x', None) for name in (
        'redirect_uri', 'redirect_url', 'redirectUri', 'callback', 'callbackUrl', 'cli_callback', 'return_to', 'returnUrl',
        'app_redirect_uri', 'REDIRECT')),
    ('https://a.test/?origin=http://localhost:4321/callback', 4321, '/callback', None),
    ('https://a.test/?redirect=yes&origin=http://localhost:4321/callback', 4321, '/callback', None),
    ('https://a.test/?callback=http://localhost:1/x&redirect_uri=https://a.test/', 1, '/x', None),
    # Below localhost; in another address; encoded once more; behind a fragment.
    ('https://a.test/?redirect_uri=http://app.localhost:1/x&state=s', 1, '/x', 's'),
    ('https://a.test/?continue=' + quote('https://b.test/o?redirect_uri=' + quote('http://localhost:1/x', '') + '&state=in', '') + '&state=out',
     1, '/x', 'in'),
    ('https://a.test/login?return_to=' + quote('/o/authorize?state=in&redirect_uri=http://127.0.0.1:1/x', ''), 1, '/x', 'in'),
    ('https://a.test/?redirect_uri=http%253A%252F%252Flocalhost%253A1%252Fx', 1, '/x', None),
    ('https://a.test/#/login?callback=http%3A%2F%2Flocalhost%3A1%2Fx', 1, '/x', None),
    ('http://localhost:8080/login?redirect_uri=http://localhost:8085/x&state=s', 8085, '/x', 's'),
    # A port by its name: turso, pulumi.
    ('https://api.turso.tech?port=34893&redirect=true', 34893, '', None),
    ('https://app.pulumi.com/cli-login?cliSessionPort=40123&cliSessionNonce=n&cliSessionDescription=d', 40123, '', None),
    *((f'https://a.test/x?{name}=40123&state=s', 40123, '', 's') for name in ('port', 'callback_port', 'local-port', 'redirectPort')),
])
def test_the_port_is_the_redirect_s(url, port, path, state):
    assert script.read_sign_in(url) == SignIn(url, port, path, state, 'redirect')


@pytest.mark.parametrize('url', [
    'https://a.test/?redirect_uri=https://localhost:1/x', 'https://a.test/?redirect_uri=https%253A%252F%252Flocalhost%253A1%252Fx',
    'http://localhost:8080/login?redirect_uri=https://localhost:1/x', 'https://localhost:1/x'])
def test_what_listens_for_a_redirect_by_https_speaks_tls(url):
    assert script.read_sign_in(url)[1:3] == (1, '/x') and script.read_sign_in(url).tls


@pytest.mark.parametrize('known, what', [
    (script.HTTP_BEGINS, b'POST /callback HTTP/1.1\r\n'), (script.TLS_BEGINS, bytes.fromhex('160301020001')), (script.TLS_BEGINS, bytes.fromhex('160303ffff01'))])
def test_a_beginning_is_one_in_pieces_of_any_size_and_no_other_is(known, what):
    assert all(known.fullmatch(what[:end]) for end in range(len(what) + 1))
    for at in range(3 if known is script.TLS_BEGINS else 1):
        for byte in {0, 0x15, 0x17, 0x20, 0x61, 0xff} - set(what[at:at + 1]) - ({0} if at == 2 else set()):
            assert not known.fullmatch(what[:at] + bytes([byte]) + what[at + 1:])


@pytest.mark.parametrize('url', [
    'https://a.test/', 'https://a.test/?redirect_uri=https://a.test/cb&referrer=http://localhost:3000/',
    'https://a.test/?referrer=http://localhost:3000/&returnTo=https://a.test/cb',
    'https://a.test/?redirect_uri=https://a.test/cb&port=40123', 'https://a.test/login?support=40123&report=40123&port=443',
    'https://db.test/?host=db&port=5432', 'https://a.test/login?port=99999', 'https://a.test/login?port=1234x',
    'https://a.test/?redirect_uri=http://localhost.b.test:1/', 'https://a.test/?redirect_uri=http://notlocalhost:1/',
])
def test_an_address_whose_answer_goes_elsewhere_has_no_redirect_here(url):
    assert script.read_sign_in(url) is None


def never(question):
    raise AssertionError(f'nobody is asked: {question}')


@pytest.mark.parametrize('url, issuer', [
    (AUTHORIZE, ''), ('http://127.0.0.1:45235/uuid', ''), ('http://[::1]:8000/', ''), ('http://app.localhost:8000/', ''),
    ('https://id.example/', ''), (page('https://id.example/a', 'https://elsewhere.example/'), ''),
    (page('https://ID.example/a', 'http://localhost:1/'), 'id.example'), ('https://id.example/device', 'id.example'),
])
def test_https_and_loopback_itself_may_be_opened(url, issuer):
    assert script.check_page(url, issuer, never) is None


PLAIN = 'http://{}/a?redirect_uri=http://localhost:1455/cb'


@pytest.mark.parametrize('host', ['auth.example.org', '8.8.8.8', '[2600::1]', 'localhost.example.org', '10.0.0.1.example.org', 'lan.example',
                                  '134744072', '0x08080808', '172.32.0.1', '10.evil.example', '[fec0::1]', 'kim@nas.example'])
def test_an_address_that_is_not_https_is_refused_and_shown_harmless(host):
    problem = refused(script.check_page, PLAIN.format(host), '', never)
    assert problem.kind == 'address' and f'http://{host}' in problem.message and 'not https' in problem.message


@pytest.mark.parametrize('host', ['192.168.1.10:8080', '10.0.0.1', '172.16.0.9', '[fd00::1]:8080', 'nas.local', 'nas', 'nas.lan:8123', 'box.home.arpa'])
def test_a_page_at_home_that_is_not_https_is_opened_if_a_person_wants_that(host):
    asked = []
    assert script.check_page(PLAIN.format(host), '', lambda question: asked.append(question) or True) is None
    assert len(asked) == 1 and host in asked[0] and 'not https' in asked[0] and 'could take' in asked[0]
    assert refused(script.check_page, PLAIN.format(host), '', lambda question: False).kind == 'address'


@pytest.mark.parametrize('url, redirect', [
    (page('https://id.example/a', 'https://evil.example/cb'), 'https://evil.example/cb'),
    (page('https://id.example/a', 'http://localhost.b.test:1455/'), 'http://localhost.b.test:1455/'),
    (page('https://id.example/a', 'http://127.0.0.1:1455@b.test/'), 'http://127.0.0.1:1455@b.test/'),
    (page('https://id.example/a', 'evil://localhost:1455/cb'), 'evil://localhost:1455/cb'),
    ('https://id.example/?redirect_uri=https://b.test/&redirect_uri=http://localhost:1/', 'https://b.test/'),
    ('https://id.example/?redirect_uri=http://localhost:1/&redirect_uri=https://b.test/', 'https://b.test/'),
])
def test_a_redirect_that_leaves_this_device_is_refused_where_the_issuer_is_known(url, redirect):
    problem = refused(script.check_page, url, 'id.example', never)
    assert problem.kind == 'address' and redirect in problem.message and 'elsewhere' in problem.message
    assert script.check_page(url, '', never) is None
    assert all(found.kind != 'redirect' or script.loopback_port(found.url) is None for found in found_in(url, strict=True))


def test_another_page_than_the_issuers_is_opened_only_if_a_person_wants_that():
    asked = []
    assert script.check_page(AUTHORIZE, 'id.example', lambda question: asked.append(question) or True) is None
    assert 'auth.openai.com' in asked[0] and 'id.example' in asked[0]
    problem = refused(script.check_page, AUTHORIZE, 'id.example', lambda question: False)
    assert problem.kind == 'address' and 'auth.openai.com' in problem.message and 'not at id.example' in problem.message


# --- Which of many addresses, and where one ends ------------------------------------------------------------

def redirect(number, state='s'):
    return f'https://id.example/a?redirect_uri=http%3A%2F%2Flocalhost%3A{number}%2Fcb&state={state}'


@pytest.mark.parametrize('line', [
    'Using proxy http://127.0.0.1:7890', '使用代理 http://127.0.0.1:7890', 'Proxy verwendet: http://127.0.0.1:7890/',
    'http://localhost:7890', 'see http://proxy.localhost:7890/ and http://[::1]:1/',
])
def test_a_redirect_wins_over_what_is_merely_on_loopback(line):
    assert [found.port for found in found_in(f'{line}\n\nSign in:\n{redirect(1)}\n{line}')] == [1]
    assert [found.port for found in found_in(f'{redirect(1)}\n{line}\n')] == [1]


def test_a_bare_address_is_given_only_after_a_silence_and_a_redirect_comes_after_it_all_the_same():
    finder = script.Finder()
    assert finder.quiet is None and finder.feed('使用代理 http://127.0.0.1:7890') is None
    assert finder.quiet == 0.5 and finder.settle() is None and finder.quiet == 3.0
    assert finder.settle().kind == 'bare' and finder.quiet is None
    assert finder.feed('http://127.0.0.1:7890 again') is None and finder.quiet is None
    assert finder.feed(redirect(1) + ' and').port == 1 and finder.quiet is None


@pytest.mark.parametrize('url, quiet', [
    *((f'http://127.0.0.1:53682/{path}', 0.5) for path in ('auth?state=x', 'x?state=y', 'oauth2/start', 'sso', 'sign-in/now', 'Login')),
    *((f'http://127.0.0.1:7890{path}', 3.0) for path in ('', '/', '/author', '/45235f/status?a=b', '/blog'))])
def test_a_page_on_loopback_that_is_a_sign_in_by_its_name_is_not_waited_for_so_long(url, quiet):
    finder = script.Finder()
    assert finder.feed(f'Go to {url}') is None and finder.settle() is None and finder.quiet == quiet and finder.settle().url == url


def test_a_second_sign_in_and_a_renewed_address_are_given_and_a_repeated_one_is_not():
    text = '\n'.join([redirect(1, 'a'), redirect(1, 'a'), 'or ' + redirect(1, 'a') + '.', redirect(1, 'b'), redirect(2, 'b'), redirect(2, 'b')])
    assert [found[1:4] for found in found_in(text)] == [(1, '/cb', 'a'), (1, '/cb', 'b'), (2, '/cb', 'b')]


def test_what_the_browser_was_handed_is_whole_and_wins():
    finder = script.Finder()
    cut = redirect(1)[:-10]
    assert finder.feed(cut) is None and finder.handed(redirect(1)).url == redirect(1)
    assert finder.settle() is None and finder.feed(redirect(1)) is None and finder.settle() is None and finder.quiet is None
    assert finder.handed('http://localhost:8000/') is None and finder.handed(redirect(1, 'new')).state == 'new'
    assert script.Finder().handed('http://localhost:8000').kind == 'bare'
    assert script.Finder().handed('https://example.org/').kind == 'page' and script.Finder().handed(redirect(1) + '\n') is None
    assert script.Finder().handed(redirect(1) + '&scope=api read_api').url == redirect(1) + '&scope=api%20read_api'
    # Printed cut where nothing tells, given, and then handed whole.
    finder = script.Finder()
    assert finder.feed(cut + ' and').state is None and finder.handed(redirect(1)).state == 's'


@pytest.mark.parametrize('text, url', [
    ('Open this page to sign in:\nhttps://sso.example/x/abc\nDocumentation: https://sso.example/d', 'https://sso.example/x/abc'),
    ('Docs: https://a.example/auth\n\nhttps://sso.example/idp?SAMLRequest=abc', 'https://sso.example/idp?SAMLRequest=abc'),
    ('https://corp.example/sso/1234', 'https://corp.example/sso/1234'), ('Open your browser: https://a.example/1.', 'https://a.example/1'),
    ('See https://docs.example.com/', None), ('Listening on https://a.example/', None), ('http://localhost:8080/login', None),
    ('https://github.com/login/device\ncode: ABCD-1234\nhttps://github.com/login/device/help', None), (redirect(1), None),
    ('Sign in: https://a.example/… and so on', None)])
def test_a_page_that_says_nothing_of_its_way_back_is_kept_for_who_knows_where_the_program_listens(text, url):
    finder = script.Finder()
    for line in text.split('\n'):
        finder.feed(line)
    while finder.quiet:
        finder.settle()
    assert (finder.page and finder.page.url) == url and not (finder.page and finder.page.port)
    strict = script.Finder(strict=True)
    assert [strict.feed(line) for line in text.split('\n')] and strict.page is None


def test_what_goes_elsewhere_is_given_only_where_that_is_looked_for():
    away = page('https://id.example/a', 'https://evil.example/cb')
    assert found_in(away) == [] and [found.kind for found in found_in(away, strict=True)] == ['leaving']
    assert found_in('https://example.org/?x=y', strict=True) == []


RICH = 80 * '─'     # where there is no terminal, rich takes 80 columns
LONG = ('https://auth.example.org/oauth/authorize?response_type=code&client_id=app_EMoamEEZ73f0CkXaXp7hrann&redirect_uri='
        'http%3A%2F%2Flocalhost%3A1455%2Fauth%2Fcallback&scope=openid%20profile%20email%20offline_access&code_challenge='
        'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256&state=')


def folded(text, width):
    return [text[at:at + width] for at in range(0, len(text), width)]


def boxed(lines, width, left='│ ', right=' │'):
    return '\n'.join([f'╭{"─" * (width + 2)}╮', *(left + line.ljust(width) + right for line in lines), f'╰{"─" * (width + 2)}╯'])


@pytest.mark.parametrize('state', ['xyzzyplughfoo', 'x', 'a%2Fb', 'A-B_c', 'ab-', '0', 'abcdefghij0klm'])
@pytest.mark.parametrize('text', [
    pytest.param(lambda url: '\n'.join(['Please sign in:', *folded(url, 80), 'Waiting for you']), id='rich'),
    pytest.param(lambda url: '\n'.join(folded(url, 80)), id='rich, and nothing more'),
    pytest.param(lambda url: '\n'.join(['Please sign in at ', *folded(url, 80)]) + ' and \ncome back', id='rich, in a sentence'),
    pytest.param(lambda url: boxed(['Open this page:', '', *folded(url, 76), '', 'Then come back'], 76), id='rich, in a box'),
    pytest.param(lambda url: boxed(folded(url, 76), 76), id='rich, alone in a box'),
    pytest.param(lambda url: boxed(folded(url, 56), 56, '  ┃ ', ' ┃'), id='another box'),
    pytest.param(lambda url: boxed(folded(url, 60), 60, '| ', ' |'), id='a box of ASCII'),
    pytest.param(lambda url: '\n'.join(folded(url, 60)) + '\n\nDone?', id='60 columns'),
    pytest.param(lambda url: '\n'.join('    ' + line for line in folded(url, 120)), id='120 columns, indented'),
    pytest.param(lambda url: '\n'.join(f'\x1b[4;94m{line}\x1b[0m' for line in folded(url, 60)), id='60 columns, in colours'),
])
def test_an_address_broken_at_a_fixed_width_is_put_together(text, state):
    assert [found.url for found in found_in(text(LONG + state))] == [LONG + state]


@pytest.mark.parametrize('after', [
    'Waiting for authentication...', 'Waiting...', 'waiting for you', '', 'PORT=3000', 'or_this', 'See https://example.org/?a=b&c=d',
    '1. Sign in', '- then come back', '┃ Then come back ┃', '\u200b', '→ go', '(waiting)', '"quoted"',
])
@pytest.mark.parametrize('url', [redirect(1455), redirect(1455, 'a-'), redirect(1455, 'abcd'), redirect(1455, 'abcdef%3D'), redirect(1455, 'x' * 90)])
def test_what_follows_an_address_in_the_next_line_is_not_a_part_of_it(url, after):
    assert [found.url for found in found_in(f'Sign in:\n{url}\n{after}')] == [url]
    assert [found.url for found in found_in(f'Sign in:\n  {url}\n  {after}\n')] == [url]


@pytest.mark.parametrize('end', [
    '%', '%2', '%3A%2F%2Flocalhost%3A1&state=', '%3A%2F%2Flocalhost%3A1&', '%3A%2F%2Flocalhost%3A1&scope=', '%3A%2F%2Flocalhost%3A',
    '%3A%2F%2Flocalhost%3A1%2Fcb&state=abc…',
])
def test_a_cut_address_is_never_one_to_open(end):
    found = found_in(f'https://id.example/a?callback=http://localhost:1/&redirect_uri=http{end}\n\nDone')
    assert [sign_in.kind for sign_in in found] == ['cut']


SPACED = 'https://gitlab.example/oauth?client_id=x&redirect_uri=http://localhost:7171/auth&response_type=code&state=s&scope=%s'


@pytest.mark.parametrize('text, url', [
    ('Open https://gl.example/o?redirect_uri=http://localhost:7171/a&scope=api read_api&response_type=code&state=s',
     'https://gl.example/o?redirect_uri=http://localhost:7171/a&scope=api%20read_api&response_type=code&state=s'),
    ('Open https://gl.example/o?redirect_uri=http://localhost:7171/a&scope=a b c&state=s and come back',
     'https://gl.example/o?redirect_uri=http://localhost:7171/a&scope=a%20b%20c&state=s'),
    (SPACED % 'openid profile email', SPACED % 'openid%20profile%20email'),
    (SPACED % 'read:user repo:status', SPACED % 'read:user%20repo:status'),
    (SPACED % 'openid and come back', SPACED % 'openid'), (SPACED % 'openid.  Then & later=', SPACED % 'openid'),
    (SPACED % 'openid' + ' R&D', SPACED % 'openid'),
    ('{"url":"' + redirect(1).replace('&', '\\u0026') + '","n":1}', redirect(1)),
    ('{"url":"' + redirect(1).replace('/', '\\/') + '"}', redirect(1)),
    (f'<a href="{redirect(1).replace("&", "&amp;")}">here</a>', redirect(1)), (redirect(1).replace('&', '&#38;'), redirect(1)),
    (f'**{redirect(1)}**', redirect(1)), (f'[Sign in]({redirect(1)})', redirect(1)), (f'[{redirect(1)}]({redirect(1)})', redirect(1)),
    (f'<{redirect(1)}>', redirect(1)), (f'`{redirect(1)}`', redirect(1)), (f'“{redirect(1)}”', redirect(1)), (f"'{redirect(1)}',", redirect(1)),
    (f'{redirect(1)}...', redirect(1)), (f'\x1b]8;;{redirect(1)}\x1b\\Click here\x1b]8;;\x1b\\', redirect(1)),
    (f'\x1b]8;id=1;{redirect(1)}\x07{redirect(1)[:30]}…\x1b]8;;\x07', redirect(1)), (f'\x9d8;;{redirect(1)}\x9cHere\x9d8;;\x9c', redirect(1)),
])
def test_an_address_is_read_as_whoever_wrote_it_meant_it(text, url):
    assert [found.url for found in found_in(text)] == [url]


# --- Device codes -------------------------------------------------------------------------------------------

def codes_in(text):
    return [found for found in found_in(text) if isinstance(found, script.DeviceCode)]


# The texts of the programs, with their names: where they lead to, and the code.
DEVICE_TEXTS = {
    'codex': ("""
Welcome to Codex [v\x1b[90m0.169.0\x1b[0m]
\x1b[90mOpenAI's command-line coding agent\x1b[0m

Follow these steps to sign in with ChatGPT using device code authorization:

1. Open this link in your browser and sign in to your account
   \x1b[94mhttps://auth.openai.com/codex/device\x1b[0m

2. Enter this one-time code \x1b[90m(expires in 15 minutes)\x1b[0m
   \x1b[94mE70A-863A2\x1b[0m

\x1b[90mDevice codes are a common phishing target. Never share this code.\x1b[0m
""", 'https://auth.openai.com/codex/device', 'E70A-863A2'),
    'gh': ("""
\x1b[0;33m!\x1b[0m First copy your one-time code: \x1b[0;1;39m4261-1EFE\x1b[0m
\x1b[0;1;39mOpen this URL\x1b[0m to continue in your web browser: https://github.com/login/device
""", 'https://github.com/login/device', '4261-1EFE'),
    'gh, with news before': ("""
A new release of gh is available: 2.40.0 → 2.45.0
https://github.com/cli/cli/releases/tag/v2.45.0

! First copy your one-time code: ABCD-EFGH
Open this URL to continue in your web browser: https://github.com/login/device
""", 'https://github.com/login/device', 'ABCD-EFGH'),
    'az': ('\x1b[93mTo sign in, use a web browser to open the page https://microsoft.com/devicelogin and enter the code BYMK7UXVD '
           'to authenticate.\x1b[0m', 'https://microsoft.com/devicelogin', 'BYMK7UXVD'),
    'az, as a warning': (
        'WARNING: To sign in, use a web browser to open the page https://login.microsoft.com/device and enter the code GRVMTDTWL '
        'to authenticate.', 'https://login.microsoft.com/device', 'GRVMTDTWL'),
    'the same, broken': ("""
To sign in, use a web browser to open the page https://microsoft.com/devicelogin and
enter the code RB2RUD56D to authenticate.
""", 'https://microsoft.com/devicelogin', 'RB2RUD56D'),
    'aws sso': ("""
Browser will not be automatically opened.
Please visit the following URL:

https://device.sso.us-east-1.amazonaws.com/

Then enter the code:

TPBC-TGBM

Alternatively, you may visit the following URL which will autofill the code upon loading:
https://device.sso.us-east-1.amazonaws.com/?user_code=TPBC-TGBM
""", 'https://device.sso.us-east-1.amazonaws.com/', 'TPBC-TGBM'),
    'aws sso, a portal': ("""
https://your-sso-portal.awsapps.com/start/#/device

Then enter the code:

ABCD-EFGH
""", 'https://your-sso-portal.awsapps.com/start/#/device', 'ABCD-EFGH'),
    'vercel': ('> \n  Visit \x1b[1mhttps://vercel.com/oauth/device?user_code=ABCD-EFGH\x1b[22m\n',
               'https://vercel.com/oauth/device?user_code=ABCD-EFGH', 'ABCD-EFGH'),
    'vercel, with a hyperlink': (
        '> \n  Visit \x1b]8;;https://vercel.com/oauth/device?user_code=ABCD-EFGH\x07vercel.com/oauth/device\x1b]8;;\x07 and enter ABCD-EFGH\n',
        'https://vercel.com/oauth/device?user_code=ABCD-EFGH', 'ABCD-EFGH'),
    'copilot': (' ⠸ Waiting for authorization...\n\n Enter one-time code: CA8D-C2B6 at https://github.com/login/device\n\n'
                ' Press any key to copy to clipboard and open browser...\n', 'https://github.com/login/device', 'CA8D-C2B6'),
    'docker': ("""
Your one-time device confirmation code is: PRXD-QHGB
Press ENTER to open your browser or submit your device code here: https://login.docker.com/activate
""", 'https://login.docker.com/activate', 'PRXD-QHGB'),
    'atlas': ("""
To verify your account, copy your one-time verification code:
8ZTB-YRQN

Paste the code in the browser when prompted to activate your Atlas CLI. Your code will expire after 10 minutes.

To continue, go to https://account.mongodb.com/account/connect
""", 'https://account.mongodb.com/account/connect', '8ZTB-YRQN'),
    **{f'wrangler --device, {how}': (f"""
 ⛅️ wrangler 4.119.0
────────────────────
Attempting to login via OAuth Device Authorization Grant...
To authorize Wrangler, please visit:

  https://dash.cloudflare.com/oauth2/device

and enter the code:

  {code}

You have 5 minutes to approve this request.
{more}""", 'https://dash.cloudflare.com/oauth2/device', code) for how, code, more in (
        ('whose codes have small letters', 'jPqK6Qvs', '\nOpening a link in your default browser: https://dash.cloudflare.com/oauth2/device?user_code=jPqK6Qvs\n'),
        ('alone', 'jPqK6Qvs', ''), ('without a digit', 'jPqKdQvs', ''))},
    'in a box': (boxed(['Open https://issuer.example/device', 'Code: ABCD-1234'], 40), 'https://issuer.example/device', 'ABCD-1234'),
    'in Spanish': ('Abre https://issuer.example/activate\ne introduce el código ABCD-1234', 'https://issuer.example/activate', 'ABCD-1234'),
}


@pytest.mark.parametrize('program', DEVICE_TEXTS)
def test_page_and_code_of_a_device_sign_in_are_found_whoever_prints_them(program):
    text, url, code = DEVICE_TEXTS[program]
    assert codes_in(text) == [script.DeviceCode(url, code)]
    assert codes_in(script.harmless_lines(text)) == [script.DeviceCode(url, code)] or 'hyperlink' in program


def test_a_page_that_the_browser_was_handed_goes_with_the_code_before_it():
    finder = script.Finder()
    assert finder.feed('! First copy your one-time code: 4261-1EFE') is None
    assert finder.handed('https://github.com/login/device') == ('https://github.com/login/device', '4261-1EFE')
    assert finder.handed('https://github.com/login/device') is None and finder.handed('https://example.org/') is None
    assert finder.handed('https://vercel.com/oauth/device?user_code=WXYZ-1234').code == 'WXYZ-1234'


def test_a_page_for_codes_that_the_browser_was_handed_waits_for_its_code():
    finder = script.Finder()
    assert finder.handed('https://issuer.example/device') is None and finder.quiet == 3.0
    assert finder.feed('Code: ABCD-1234').code == 'ABCD-1234' and finder.quiet is None
    finder = script.Finder()
    assert finder.handed('https://issuer.example/device') is None and finder.settle().kind == 'page' and finder.settle() is None


def test_a_code_that_was_renewed_is_given_again_and_a_repeated_one_is_not():
    text = 'https://issuer.example/device\nCode: ABCD-1234\nCode: ABCD-1234\nhttps://issuer.example/device\nCode: EFGH-5678'
    assert [found.code for found in codes_in(text)] == ['ABCD-1234', 'EFGH-5678']


def test_where_a_code_is_to_be_entered_a_bare_address_is_no_sign_in():
    found = found_in('使用代理 http://127.0.0.1:7890\n\nhttps://issuer.example/device\nCode: ABCD-1234\nhttp://127.0.0.1:7890 x')
    assert [type(one) for one in found] == [script.DeviceCode]


def test_beside_a_redirect_a_code_is_none_to_enter():
    assert [type(found) for found in found_in(f'{redirect(1)}\nhttps://issuer.example/device\nPairing code: ABCD-1234')] == [SignIn]


@pytest.mark.parametrize('text', [
    'E70A-863A2', 'http://auth.example.org/device\nE70A-863A2', 'https://a.test/\nUTF-8\nexpires 2026-11-24\nABCD-EFGH-IJKL',
    'https://a.test/ABC\nerror abcd-efgh', 'https://shop.example/\nLicence key: ABCD-EFGH-IJKL-MNOP',
    'https://issuer.example/device\nLicence key: ABCD-EFGH', 'https://issuer.example/device\n550E8400-E29B-41D4-A716-446655440000',
    'https://shop.example/\nOrder number: 1234-5678', 'https://shop.example/\nOrder code: 1234-5678',
    'https://issuer.example/device\n4b825dc642cb6eb9a060e54bf8d69288fbee4904', 'https://issuer.example/device\ncommit 4b825dc',
    'https://issuer.example/device\nVersion V12A-4567B of it', 'Error code: ABCD12345, see https://docs.example/errors',
    'exit code: 255\nhttps://issuer.example/device', 'https://issuer.example/device\nWARNING: no code',
    'Promo code: SAVE-2026 https://shop.example/', 'the code\nREADONLY\nhttps://issuer.example/device',
    'Enter the code:\nWaiting\nhttps://issuer.example/device', 'https://issuer.example/device\nEnter the code:\n\nwaiting',
    'https://issuer.example/device\nSource code of it\n4b825dc', 'https://issuer.example/device\nexit code\nJavaScript',
    'https://issuer.example/device\nEnter the code:\nv1.2.3-rc1', 'https://issuer.example/device\nThe code:\n4b825dc642cb6eb9a060e54bf8d69288fbee4904',
    'https://shop.example/\nYour code: ABCD-1234', 'Code: ABCD-1234\n' + 'x\n' * 13 + 'https://issuer.example/device', 'https://issuer.example/device?x=ABCD-EFGH is the code',
])
def test_other_lines_hold_no_code(text):
    assert codes_in(text) == []


# --- Redirects that people bring ----------------------------------------------------------------------------

@pytest.mark.parametrize('text, port, target', [
    ('http://127.0.0.1:1455/auth/callback?code=c&state=s', 1455, '/auth/callback?code=c&state=s'),
    ('  <http://localhost:1455/callback?code=c%2F&state=s>\n', 1455, '/callback?code=c%2F&state=s'),
    ('localhost:1455/success?id_token=t', 1455, '/success?id_token=t'),
    ('127.0.0.1:1457/auth/callback?code=c', 1457, '/auth/callback?code=c'),
    ('http://[::1]:8000', 8000, '/'),
    ('http://localhost:1455/auth/callback?code=c#_=_', 1455, '/auth/callback?code=c'),
    ('http://localhost:1455/a b', 1455, '/a'), ('http://localhost:1455/a\r\nX: y', 1455, '/a'),
])
def test_the_address_of_a_failed_page_is_a_redirect(text, port, target):
    assert script.parse_redirect(text)[:2] == (port, target)


@pytest.mark.parametrize('text', [
    '', 'hello', 'https://auth.openai.com/oauth/authorize?x=y',
    'http://evil.example:1455/auth/callback?code=c', 'localhost', 'http://localhost:x/',
    'http://127.0.0.1:1455@evil.example/', 'http://localhost:1455/' + 'a' * 17000, 'javascript:alert(1)',
    'file:///etc/passwd',
])
def test_anything_else_is_no_redirect(text):
    problem = refused(script.parse_redirect, text)
    assert problem.kind == 'redirect' and len(problem.message) < 200 and 'http://localhost:' in problem.hint


# --- HTTP, as browsers and programs speak it ----------------------------------------------------------------

REQUEST = (b'GET /auth/callback?code=c&state=s HTTP/1.1\r\n'
           b'Host: 127.0.0.1:1455\r\nConnection: keep-alive\r\nX-Empty:\r\n\r\n')


def pieces_of(kind, data, size=1):
    """What a reader of `kind` gives for each piece of `data` in turn, up to the first message."""
    reader, given = script.Reader(kind), []
    for at in range(0, len(data), size):
        given.append(reader.feed(data[at:at + size]))
        if given[-1]:
            break
    return given


def read_request(data):
    return script.Reader(script.read_request).feed(data)


def test_a_request_is_read_when_it_is_whole_and_not_before():
    assert [bool(given) for given in pieces_of(script.read_request, REQUEST)] == [False] * (len(REQUEST) - 1) + [True]
    request = read_request(REQUEST + b'GET /next')
    assert (request.method, request.target) == ('GET', '/auth/callback?code=c&state=s')
    assert request.header('host') == '127.0.0.1:1455' and request.header(
        'x-empty') == request.header('absent') == ''


@pytest.mark.parametrize('data', [
    b'\x16\x03\x01\x02\x00\x01\r\n\r\n', b'GET /\r\n\r\n', b'GET / HTTP/2.0\r\n\r\n',
    b'get / HTTP/1.1\r\n\r\n', b'GET  HTTP/1.1\r\n\r\n', b'GET /a b HTTP/1.1\r\n\r\n',
    b'GET /\xe9 HTTP/1.1\r\n\r\n', b'X' * 65537, b'GET / HTTP/1.1\r\n' + b'A: b\r\n' * 11000,
    *(b'POST / HTTP/1.1\r\n' + lines + b'\r\n\r\n' for lines in (
        b'Content-Length: 1\r\nContent-Length: 1', b'Content-Length: 1\r\nContent-Length: 2', b'Content-Length: -1',
        b'Content-Length: x', b'Content-Length:', b'Transfer-Encoding: chunked',
        b'Content-Length: 3\r\nTransfer-Encoding: chunked')),
])
def test_what_is_no_request_is_refused(data):
    with pytest.raises(ValueError):
        read_request(data)


FORM = b'code=c%26&state=S'
POSTED = (b'POST /callback?x=1 HTTP/1.1\r\nHost: localhost:1455\r\nContent-Type: application/x-www-form-urlencoded\r\n'
          b'Content-Length: %d\r\n\r\n' % len(FORM) + FORM)


@pytest.mark.parametrize('size', [1, 2, 7, 1000])
def test_a_posted_form_is_read_with_its_body_and_delivered_as_it_was(size):
    *before, request = pieces_of(script.read_request, POSTED, size)
    assert not any(before) and request.body == FORM
    assert request.parameters() == [('x', '1'), ('code', 'c&'), ('state', 'S')]
    assert script.request_text(request).endswith(b'Content-Length: 17\r\nConnection: close\r\n\r\n' + FORM)
    assert request.key != request._replace(body=b'code=d').key != request._replace(body=b'').key == '/callback?x=1'


def test_a_body_past_a_megabyte_is_not_waited_for():
    head = b'POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n'
    assert read_request(head % 1048576 + b'x' * 1048575) is None
    assert len(read_request(head % 1048576 + b'x' * 1048576).body) == 1048576
    assert read_request(head % 1048577).body is None


@pytest.mark.parametrize('kind, body, brought', [
    ('application/x-www-form-urlencoded; charset=UTF-8', b'code=a+b', [('code', 'a b')]),
    ('Application/JSON', b'{"code": "c", "state": "S", "n": 1}', [('code', 'c'), ('state', 'S'), ('n', '1')]),
    ('application/json', b'["code", "c"]', []), ('application/json', b'{"code":', []), ('application/json', b'[' * 99999, []),
    ('text/plain', b'code=c', []), ('', b'code=c', []), ('application/json', b'{"code": "\xff"}', [('code', '\ufffd')]),
])
def test_what_a_body_brings_is_known_by_its_type(kind, body, brought):
    request = script.Request('POST', '/cb?state=q', (('content-type', kind),), body)
    assert request.parameters() == [('state', 'q'), *brought]


@pytest.mark.parametrize('sent, kept', [
    ('', None), ('a=1', None), ('mine=1', 'mine=1'), ('a=1; mine=2; b="x; y"; mine=3', 'mine=2; mine=3'), ('mine', 'mine'),
    ('notmine=1;mine=2', 'mine=2'), ('x=mine=1', None),
])
def test_cookies_of_other_programs_on_localhost_stay_in_the_browser(sent, kept):
    request = script.Request('GET', '/cb', (('Host', 'localhost:1'), ('cookie', sent)))
    assert (f'cookie: {kept}\r\n' if kept else 'Host: localhost:1\r\nConnection') in script.request_text(request, {'mine'}).decode()
    assert b'cookie' not in script.request_text(request).lower()


def test_a_request_is_delivered_as_one_that_ends_the_connection():
    text = script.request_text(read_request(REQUEST.replace(b'X-Empty', b'Expect: 100-continue\r\nX-Empty')))
    assert text == (b'GET /auth/callback?code=c&state=s HTTP/1.1\r\n'
                    b'Host: 127.0.0.1:1455\r\nX-Empty: \r\nConnection: close\r\n\r\n')


def read_reply(data, ended=False):
    reader = script.Reader(script.read_reply)
    return reader.feed(data) or (reader.feed(b'') if ended else None)


OK = b'HTTP/1.1 200 OK\r\nX: y\r\n'
CHUNKS = b'Transfer-Encoding: Chunked\r\n\r\n5;note=any\r\nhello\r\n00a\r\n\r\n0\r\n\r\n0\r\n\r\n0\r\nX-Last: 1\r\n\r\n'


@pytest.mark.parametrize('data, status, location', [
    (b'HTTP/1.1 302 Found\r\nLocation: /success?id_token=t\r\ncontent-length: 5\r\n\r\nhello', 302, '/success?id_token=t'),
    (b'HTTP/1.1 302 Found\nLocation: /done\nContent-Length: 2\n\nok', 302, '/done'),
    (OK + b'Content-Length: 0\r\n\r\n', 200, ''), (OK + CHUNKS, 200, ''),
    (OK + b'Content-Length: 3\r\n' + CHUNKS, 200, ''),
    (OK + b'transfer-encoding: gzip, chunked\n\n0\n\n', 200, ''),
    (b'HTTP/1.1 204 No Content\r\n\r\n', 204, ''), (b'HTTP/1.1 204\r\nContent-Length: 5\r\n\r\n', 204, ''),
    (b'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n', 304, ''),
])
def test_an_answer_ends_as_it_says_itself_and_not_before(data, status, location):
    given = pieces_of(script.read_reply, data)
    assert [bool(answer) for answer in given] == [False] * (len(data) - 1) + [True]
    assert given[-1] == (status, location, data, ()) == read_reply(data + b'HTTP/1.1 200 next')
    for length in range(len(data)):
        with pytest.raises(ValueError):
            read_reply(data[:length], ended=True)


def test_what_comes_before_an_answer_is_left_out():
    before = b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\nLocation: /early\r\n\r\n'
    data = b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx'
    assert pieces_of(script.read_reply, before + data)[-1] == (200, '', data, ())
    assert read_reply(before) is None


@pytest.mark.parametrize('head, unended', [
    (b'HTTP/1.1 200 OK\r\n\r\n', True), (b'HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n', True),
    (b'HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n', False), (b'HTTP/1.0 200 OK\r\n\r\n', False),
    (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n', False), (b'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n', True),
])
def test_an_answer_without_a_length_ends_with_its_connection_or_nobody_knows_where(head, unended):
    reader = script.Reader(script.read_reply)
    assert reader.feed(head) is None and not reader.unended
    assert reader.feed(b'hello') is None and reader.unended == unended
    if b'Content-Length: 9' not in head:
        assert reader.feed(b'') == (200, '', head + b'hello', ())


def test_the_cookies_that_an_answer_sets_are_this_logins():
    data = b'HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nset-cookie: c =d\r\nContent-Length: 0\r\n\r\n'
    assert read_reply(data).cookies == ('a', 'c')


@pytest.mark.parametrize('data, ended', [
    (b'HTTP/1.1 200 OK\r\n', True), (b'SSH-2.0-OpenSSH\r\n\r\n', False), (b'<html>\n\n', False), (b'<html>', True),
    (b'HTTP/1.1 2xx\r\n\r\n', True), (OK + b'Content-Length: 6\r\n\r\nhello', True), (b'HTTP/1.1 2000 OK\r\n\r\n', True),
    *((OK + b'Transfer-Encoding: chunked\r\n\r\n' + chunks, False) for chunks in (b'x\r\n', b'-5\r\n', b'\r\n', b' 5\r\n')),
    (OK + b'A: b\r\n' * 11000, False),
])
def test_an_answer_that_breaks_off_or_is_none_is_refused(data, ended):
    with pytest.raises(ValueError):
        read_reply(data, ended)


def test_nothing_at_all_is_no_answer():
    with pytest.raises(ValueError):
        script.Reader(script.read_reply).feed(b'')


@pytest.mark.parametrize('location, target', [
    ('/success?id_token=t', '/success?id_token=t'), ('http://localhost:1455/success?x=1', '/success?x=1'),
    ('http://127.0.0.1:1455', '/'), ('http://[::1]:1455/a', '/a'), ('', None), ('//evil.example/', None),
    ('https://chatgpt.com/', None), ('http://localhost:1457/success', None), ('success', None),
    ('http://localhost:1455@evil.example/', None),
])
def test_only_the_same_loopback_port_is_followed(location, target):
    assert script.local_target(location, 1455) == target


def test_a_page_says_anything_safely_and_in_full():
    data = script.page('<b>', 'café & "co" <script>', status=502, refresh=2)
    head, _, body = data.partition(b'\r\n\r\n')
    assert head.startswith(b'HTTP/1.1 502 ') and b'no-store' in head
    assert b'Content-Length: %d' % len(body) in head and b'<script>' not in body and b'<b>' not in body
    assert 'café &amp; ' in body.decode() and b'http-equiv="refresh" content="2"' in body
    assert b'refresh' not in script.page('a', 'b')
    assert script.page('', '', status=204).partition(b'\r\n\r\n')[2] == b'', 'a browser takes what follows for another answer'
    assert read_reply(data).status == 502


# --- What may pass at the redirect's port -------------------------------------------------------------------

FIRST, OTHER = ('/auth/callback?code=%s&state=S' % code for code in 'ab')
CODEX = script.Pending(1455, '/auth/callback', script.hash_of('S'), served=False, codex=True)
PROGRAM = CODEX._replace(path='/callback', state='', codex=False)
SERVED = PROGRAM._replace(path='/4f2a', served=True)
PORT = PROGRAM._replace(path='')
HERE_LAST = '/success?id_token=t'


def at(stage, pending=CODEX):
    """The login at a stage of its sign-in; from the second on, the first redirect is on its way or arrived."""
    led = (HERE_LAST if pending.codex else '/done?x=1',) if stage == 'carried' else ()
    carried = FIRST if pending.codex else '/callback?code=a'
    return pending._replace(stage=stage, carried='' if stage == 'open' else carried, leads_to=led)


def asked(target, method='GET', host='localhost:1455', **headers):
    lines = [('Host', host)] * (host is not None) + [(name.replace('_', '-'), text) for name, text in headers.items()]
    return script.Request(method, target, tuple(lines))


NAVIGATES = {'Sec_Fetch_Mode': 'navigate', 'Sec_Fetch_Dest': 'document', 'Sec_Fetch_Site': 'cross-site'}
PAGES = 'text/html,application/xhtml+xml,*/*;q=0.8'
FROM_HERE = {'Sec_Fetch_Mode': 'no-cors', 'Sec_Fetch_Dest': 'script', 'Sec_Fetch_Site': 'same-origin'}

FETCHES = {'Sec_Fetch_Mode': 'cors', 'Sec_Fetch_Dest': 'empty', 'Sec_Fetch_Site': 'cross-site', 'Origin': 'https://issuer.example'}


def posted(body, target='/auth/callback', kind='application/x-www-form-urlencoded', host='localhost:1455', **headers):
    return asked(target, 'POST', host, Content_Type=kind, **headers)._replace(body=body.encode())


# Case: the login, the request, what becomes of it (for what is answered here: its status, and after how many s it asks again).
JUDGED = {
    'the redirect': (at('open'), asked(FIRST), 'carry'),
    'the redirect, by IPv4': (at('open'), asked(FIRST, host='127.0.0.1:1455'), 'carry'),
    'the redirect, by IPv6': (at('open'), asked(FIRST, host='[::1]:1455'), 'carry'),
    'a refusal': (at('open'), asked('/auth/callback?error=access_denied&state=S'), 'carry'),
    'the path, encoded': (at('open'), asked('/auth/c%61llback?code=a&state=S'), 'carry'),
    'another state': (at('open'), asked('/auth/callback?code=a&state=X'), (400, None)),
    'no state': (at('open'), asked('/auth/callback?code=a'), (400, None)),
    'two states': (at('open'), asked(FIRST + '&state=S'), (400, None)),
    'two states, the right one last': (at('open'), asked('/auth/callback?state=X&code=a&state=S'), (400, None)),
    'two states, one empty': (at('open'), asked(FIRST + '&state='), (400, None)),
    'an address without state': (at('open', PROGRAM), asked('/callback?code=a'), 'carry'),
    'an address without state, opened by a page': (at('open', PROGRAM), asked('/callback?code=a', **NAVIGATES), 'carry'),
    'an address without state, an image': (
        at('open', PROGRAM), asked('/callback?code=a', **{**NAVIGATES, 'Sec_Fetch_Mode': 'no-cors'}), (403, None)),
    'an address without state, a script': (
        at('open', PROGRAM), asked('/callback?code=a', **{**NAVIGATES, 'Sec_Fetch_Mode': 'cors'}), (403, None)),
    'an address without state, a frame': (
        at('open', PROGRAM), asked('/callback?code=a', **{**NAVIGATES, 'Sec_Fetch_Dest': 'iframe'}), (403, None)),
    'the same once more, on its way': (at('carrying'), asked(FIRST), 'join'),
    'the same once more, arrived': (at('carried'), asked(FIRST), 'join'),
    'another code, on its way': (at('carrying'), asked(OTHER), (409, 2)),
    'another code, arrived': (at('carried'), asked(OTHER), (409, None)),
    'an old tab': (at('open'), asked('/success?id_token=old'), (409, 2)),
    'the last page, too early': (at('carrying'), asked(HERE_LAST), (200, 2)),
    'the last page': (at('carried'), asked(HERE_LAST), 'last'),
    'the last page, in an old tab': (at('carried'), asked('/success?id_token=old'), 'last'),
    'the last page after a refusal': (at('carried')._replace(leads_to=()), asked('/success'), (404, None)),
    'a page of another program': (at('carried', PROGRAM), asked('/style.css', **FROM_HERE), 'pass'),
    'the same, by an older browser': (
        at('carried', PROGRAM), asked('/style.css', Referer='http://localhost:1455/callback?code=a'), 'pass'),
    'where another program leads to': (at('carried', PROGRAM), asked('/done?x=1'), 'last'),
    'a page of another program, for a stranger': (at('carried', PROGRAM), asked('/style.css', **NAVIGATES), (404, None)),
    'the same, by a stranger who names the port': (
        at('carried', PROGRAM), asked('/quit', Sec_Fetch_Site='same-site', Referer='http://localhost:1455/'), (404, None)),
    'the same, by a stranger at another port': (
        at('carried', PROGRAM), asked('/quit', Referer='http://localhost:8080/'), (404, None)),
    'a page of another program, too early': (at('open', PROGRAM), asked('/style.css', **FROM_HERE), (404, None)),
    'any other page of codex': (at('carried'), asked('/logo.png', **FROM_HERE), (404, None)),
    'the icon': (at('open'), asked('/favicon.ico'), (204, None)),
    'the icon, arrived': (at('carried', SERVED), asked('/favicon.ico?'), (204, None)),
    'cancel': (at('open'), asked('/cancel'), (404, None)),
    'cancel, arrived': (at('carried'), asked('/cancel?x'), (404, None)),
    'cancel, another program': (at('carried', PROGRAM), asked('/cancel'), (404, None)),
    'cancel, a served page': (at('open', SERVED), asked('/cancel'), (404, None)),
    'cancel, encoded': (at('open'), asked('/c%61ncel'), (404, None)),
    'cancel by a dot': (at('open'), asked('/./cancel'), (400, None)),
    'cancel by an encoded dot': (at('open'), asked('/%2e/cancel'), (400, None)),
    'cancel by two dots': (at('open'), asked('/auth/../cancel'), (400, None)),
    'cancel at the end of a way': (at('open'), asked('/auth/callback/%2E%2e/%2e%2e/cancel?code=a&state=S'), (400, None)),
    'success by a dot': (at('open'), asked('/./success'), (400, None)),
    'success by a slash more': (at('carried'), asked('//success'), (400, None)),
    'a backslash': (at('open'), asked('/\\cancel'), (400, None)),
    'an encoded backslash': (at('open'), asked('/%5ccancel'), (400, None)),
    'an encoded slash': (at('open'), asked('/auth%2fcallback?code=a&state=S'), (400, None)),
    'encoded twice': (at('open'), asked('/auth/c%2561llback?code=a&state=S'), (400, None)),
    'a control character': (at('open'), asked('/auth/callback%0d%0a?code=a&state=S'), (400, None)),
    'no host': (at('open'), asked(FIRST, host=None), (403, None)),
    'a rebound name': (at('open'), asked(FIRST, host='evil.example:1455'), (403, None)),
    'another port': (at('open'), asked(FIRST, host='localhost:1457'), (403, None)),
    'the redirect, below localhost': (at('open'), asked(FIRST, host='app.localhost:1455'), 'carry'),
    'a name that only ends so': (at('open'), asked(FIRST, host='evillocalhost:1455'), (403, None)),
    'no port': (at('open'), asked(FIRST, host='localhost'), (403, None)),
    'a user before the host': (at('open'), asked(FIRST, host='evil@localhost:1455'), (403, None)),
    'two hosts': (at('open'), asked(FIRST, **{'host_': ''})._replace(
        lines=(('Host', 'localhost:1455'), ('hOst', 'evil.example'))), (403, None)),
    'a rebound name for the icon': (at('open'), asked('/favicon.ico', host='evil.example:1455'), (403, None)),
    'a target that is no address': (at('open'), asked('//['), (400, None)),
    'a whole address': (at('open'), asked('http://localhost:1455' + FIRST), (400, None)),
    'a host and a port': (at('open'), asked('localhost:1455', 'CONNECT'), (400, None)),
    'the whole server': (at('open'), asked('*', 'OPTIONS'), (400, None)),
    'a fragment': (at('open'), asked('/auth/callback#?code=a&state=S'), (400, None)),
    **{f'by {method}': (at('open'), asked(FIRST, method), (405, None))
       for method in ('HEAD', 'OPTIONS', 'PUT', 'DELETE')},
    'a form with nothing in it': (at('open'), asked(FIRST, 'POST'), (405, None)),
    'a form': (at('open'), posted('code=a&state=S'), 'carry'),
    'a form that says no': (at('open'), posted('error=access_denied&state=S'), 'carry'),
    'a form, by a page': (at('open'), posted('code=a&state=S', **NAVIGATES), 'carry'),
    'a form with another state': (at('open'), posted('code=a&state=X'), (400, None)),
    'a form with two states': (at('open'), posted('code=a&state=S&state=S'), (400, None)),
    'a form and a query, each with a state': (at('open'), posted('state=S&code=a', '/auth/callback?state=X'), (400, None)),
    'a form without a state': (at('open'), posted('code=a'), (400, None)),
    'a form that is none': (at('open'), posted('code=a&state=S', kind='text/plain'), (400, None)),
    'a form for another page': (at('open'), posted('code=a&state=S', '/cancel'), (404, None)),
    'a form that is too large': (at('open'), posted('')._replace(body=None), (413, None)),
    'a form for a stranger': (at('open'), posted('', host='evil.example:1455')._replace(body=None), (403, None)),
    'the same form once more': (
        at('carrying')._replace(carried=posted('code=a&state=S').key), posted('code=a&state=S'), 'join'),
    'another form, on its way': (
        at('carrying')._replace(carried=posted('code=a&state=S').key), posted('code=b&state=S'), (409, 2)),
    'a form for an address without state': (at('open', PROGRAM), posted('code=a', '/callback', **NAVIGATES), 'carry'),
    'the same in the background': (
        at('open', PROGRAM), posted('code=a', '/callback', **{**NAVIGATES, 'Sec_Fetch_Mode': 'no-cors'}), (403, None)),
    'JSON': (at('open'), posted('{"code": "a", "state": "S"}', kind='application/json', **FETCHES), 'carry'),
    'JSON with another state': (at('open'), posted('{"code": "a", "state": "X"}', kind='application/json'), (400, None)),
    'JSON with a number for a state': (at('open'), posted('{"state": 5}', kind='application/json'), (400, None)),
    'JSON for an address without state, which the program was asked about': (
        at('open', PROGRAM), posted('{"code": "a"}', '/callback', kind='application/json', **FETCHES), 'carry'),
    'the same as text, which nobody is asked about': (
        at('open', PROGRAM), posted('{"code": "a"}', '/callback', kind='text/plain', **FETCHES), (403, None)),
    'JSON at a served page': (at('open', SERVED), posted('{"response": "r"}', '/callback', kind='application/json', **FETCHES), 'carry'),
    'the question before a fetch': (at('open', PROGRAM), asked('/callback', 'OPTIONS', Origin='https://issuer.example'), 'pass'),
    'the question before a fetch, on its way': (at('carrying', PROGRAM), asked('/callback', 'OPTIONS', Origin='https://a.b'), 'pass'),
    'the question before a fetch, at a served page': (at('open', SERVED), asked('/callback', 'OPTIONS', Origin='https://a.b'), 'pass'),
    'the question before a fetch, elsewhere': (at('open', PROGRAM), asked('/quit', 'OPTIONS', Origin='https://a.b'), (405, None)),
    'the question before a fetch, rebound': (
        at('open', PROGRAM), asked('/callback', 'OPTIONS', 'evil.example:1455', Origin='https://a.b'), (403, None)),
    'the question before a fetch, to codex': (at('open'), asked('/auth/callback', 'OPTIONS', Origin='https://a.b'), (405, None)),
    'a form of the delivered page': (at('carried', PROGRAM), posted('name=kim', '/next', **FROM_HERE), 'pass'),
    'a form of a stranger, after the delivery': (at('carried', PROGRAM), posted('name=kim', '/next', **NAVIGATES), (404, None)),
    'a form of the delivered page, to codex': (at('carried'), posted('a=b', '/next', **FROM_HERE), (404, None)),
    'a refusal without a state': (at('open'), asked('/auth/callback?error=access_denied'), (400, None)),
    'the same again, which codex would not have': (at('open')._replace(carried=FIRST), asked(FIRST), 'join'),
    'the same again, which another program would not have': (
        at('open', PROGRAM)._replace(carried='/callback?code=a'), asked('/callback?code=a'), 'carry'),
    'where only the page knows it': (at('open', PORT), asked('/?jwt=j&username=u', **NAVIGATES), 'carry'),
    'where only the page knows it, an older browser': (at('open', PORT), asked('/any/where?accessToken=t'), 'carry'),
    'where only the page knows it, a form': (at('open', PORT), posted('token=t', '/', **NAVIGATES), 'carry'),
    'where only the page knows it, in a path': (at('open', PORT), asked('/done/token', **NAVIGATES, Accept=PAGES), 'carry'),
    'where only the page knows it, in a path, once more': (at('carrying', PORT), asked('/done/token', **NAVIGATES, Accept=PAGES), (409, 2)),
    'where only the page knows it, in a path, for a frame': (
        at('open', PORT), asked('/done/token', Accept=PAGES, **{**NAVIGATES, 'Sec_Fetch_Dest': 'iframe'}), (404, None)),
    'where only the page knows it, in a path, from its own page': (
        at('open', PORT), asked('/done/token', Accept=PAGES, **{**NAVIGATES, 'Sec_Fetch_Site': 'same-origin'}), (404, None)),
    'where only the page knows it, what no page is': (at('open', PORT), asked('/apple-touch-icon.png', Accept='image/*,*/*'), (404, None)),
    'where only the page knows it, without anything': (at('open', PORT), asked('/', **NAVIGATES), (404, None)),
    'where the path is known, another path': (at('open', PROGRAM), asked('/done/token', **NAVIGATES, Accept=PAGES), (404, None)),
    'where only the page knows it, an image': (
        at('open', PORT), asked('/?jwt=j', **{**NAVIGATES, 'Sec_Fetch_Mode': 'no-cors'}), (403, None)),
    'where only the page knows it, with a state': (at('open', PORT)._replace(state=script.hash_of('S')), asked('/cb?code=a&state=S'), 'carry'),
    'where only the page knows it, with another state': (
        at('open', PORT)._replace(state=script.hash_of('S')), asked('/cb?code=a&state=X'), (400, None)),
    'where only the page knows it, the question before a fetch': (at('open', PORT), asked('/', 'OPTIONS', Origin='https://a.b'), 'pass'),
    'where only the page knows it, the icon': (at('open', PORT), asked('/favicon.ico?x=1'), (204, None)),
    'what such a page asks for then': (at('carried', PORT), asked('/status?x=1', **FROM_HERE), 'pass'),
    'where such a page leads to': (at('carried', PORT), asked('/done?x=1', **NAVIGATES), 'last'),
    'where a redirect leads to its own path again': (
        at('carried', PROGRAM)._replace(leads_to=('/callback?done=1',)), asked('/callback?done=1', **NAVIGATES), 'last'),
    'a served page': (at('open', SERVED), asked('/4f2a'), 'pass'),
    'a served page, asked for by a stranger': (
        at('open', SERVED), asked('/4f2a', **{**NAVIGATES, 'Sec_Fetch_Mode': 'no-cors'}), (404, None)),
    'what a served page holds': (at('open', SERVED), asked('/logo.png', **FROM_HERE), 'pass'),
    'where a served page leads to': (at('open', SERVED)._replace(leads_to=('/login',)), asked('/login', **NAVIGATES), 'last'),
    'what no served page leads to': (at('open', SERVED), asked('/login', **NAVIGATES), (404, None)),
    'the result at a served page': (at('open', SERVED), asked('/anywhere?code=a', **NAVIGATES), 'carry'),
    'the result at a served page, by tsh': (at('open', SERVED), asked('/callback?response=r', **NAVIGATES), 'carry'),
    'the result at a served page, from a frame': (
        at('open', SERVED), asked('/anywhere?code=a', **{**NAVIGATES, 'Sec_Fetch_Dest': 'frame'}), (403, None)),
    'a callback with dots, where the address has them': (
        at('open')._replace(path='/./callback'), asked('/./callback?code=a&state=S'), 'carry'),
}


@pytest.mark.parametrize('case', JUDGED)
def test_only_the_pending_logins_own_answer_passes(case):
    pending, request, expected = JUDGED[case]
    verdict = script.judge(request, pending)
    assert expected == (verdict.act if verdict.act != script.HERE else (verdict.status, verdict.again))
    if verdict.act == script.LAST:
        assert verdict.target in pending.leads_to
    else:
        assert verdict.target == (request.target if verdict.act != script.HERE else '')


def test_a_refusal_without_this_logins_state_is_told_as_what_it_is():
    verdict = script.judge(asked('/auth/callback?error=access_denied%1b[1m' + 'x' * 99), CODEX)
    assert 'The page says access_deniedxxx' in verdict.text and 'without the state' in verdict.text and len(verdict.text) < 160
    assert 'another sign-in' in script.judge(asked('/auth/callback?error=access_denied&state=X'), CODEX).text


class Tab:
    """A browser that has been told something."""

    def say(self, data):
        self.shown = data


def test_a_page_that_asks_again_by_itself_brings_nothing_again_and_a_reload_does():
    box, pages, tab = script.Box(), [], Tab()
    visits = script.Visits(None, script.Pending(8976, '/callback', '', served=False, codex=False), 'server', box)
    redirect = script.Request('GET', '/callback?code=c', (('Host', 'localhost:8976'),))
    visits.respond(redirect, pages.append)
    assert box.take(0, None) == ('redirect', redirect)
    visits._ask_again(tab, redirect)
    assert b'Waiting' in tab.shown
    visits.answer(redirect, b'Not now.', keep=True, stage='open')
    visits.respond(redirect, pages.append)
    assert pages == [b'Not now.', b'Not now.'] and not len(box)
    visits.respond(redirect, pages.append)
    assert box.take(0, None) == ('redirect', redirect) and len(pages) == 2


def test_no_request_at_all_is_too_much_for_the_judge():
    chance = random.Random(9110)
    pieces = ['/', '.', '%', '2e', '2f', '%5c', '\\', 'cancel', 'success', 'auth/callback', '?', '&', 'state=S', 'code=a', '#',
              '[', ']', ':', '@', '\xff', '\x00', ';', '//', '*', 'http://', '%00', '\ud800']
    for _ in range(20000):
        target = ''.join(chance.choices(pieces, k=chance.randrange(1, 9)))
        pending = at(chance.choice(['open', 'carrying', 'carried']), chance.choice([CODEX, PROGRAM, SERVED]))
        verdict = script.judge(asked(target), pending)
        if verdict.act == script.CARRY and pending.codex:
            path, _, query = target.partition('?')
            assert path == '/auth/callback' and query.split('#')[0].split('&').count('state=S') == 1


# --- Text from a server -------------------------------------------------------------------------------------

@pytest.mark.parametrize('text, shown', [
    ('plain café 漢字 🔑\ttab', 'plain café 漢字 🔑\ttab'),
    ('\x1b[31mred\x1b[0m \x1b[38;5;1mmore\x1b[K', 'red more'),
    ('\x1b[?25l\x1b[2J\x1b[Htop', 'top'),
    ('\x1b]0;title\x07text', 'text'),
    ('\x1b]0;title\x1b\\text', 'text'),
    ('\x1b]52;c;ZXZpbA==\x07text', 'text'),
    ('\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\', 'link'),
    ('\x1bPq#0\x1b\\text', 'text'),
    ('\x1b_apc\x1b\\text', 'text'),
    ('\x1b(0lines\x1b(B', 'lines'),
    ('\x1b=\x1b>\x1bctext', 'text'),
    ('a\x9b31mb\x9d0;t\x9cc', 'abc'), ('a\x9b31', 'a'),
    ('over\rwritten\x08\x08\x07\x00\x7f', 'overwritten'),
    ('a\nb\x0b\x0cc', 'abc'),
    ('\x1b', ''), ('\x1b[', ''), ('\x1b[31', ''), ('\x1b]0;cut', ''),
    ('\x1b\x1b[31mtext', 'text'), ('\x1b[\x1b[31mtext', 'text'),
    ('safe\u202egpj.exe\u202c', 'safegpj.exe'),
    ('a\u2066b\u2067c\u2068d\u2069e\u200ef\u200fg\u061ch', 'abcdefgh'),
    ('zero\u200bwidth\u200d\u2060\ufeff', 'zerowidth'),
    ('line\u2028para\u2029end\x85', 'lineparaend'),
    ('no\u00a0break\u3000wide', 'no break wide'),
    ('soft\u00adhyphen \U000e0041tag \ud800half', 'softhyphen tag half'),
    ('a' + '\u0308' * 1000 + 'b', 'a' + '\u0308' * 4 + 'b'),
    ('e\u0301\u0e01\u0e35\u0e48', 'e\u0301\u0e01\u0e35\u0e48'),
])
def test_text_from_a_server_is_shown_without_what_acts_on_the_screen(text, shown):
    assert script.harmless(text) == shown


def test_nothing_that_acts_on_the_screen_ever_passes():
    generator = random.Random(8252)
    alphabet = 'ab;0[]m()P^_\\@~' + ''.join(map(chr, [*range(32), *range(127, 160),
                        *range(0x2028, 0x202f), *range(0x2066, 0x206a)]))
    forbidden = re.compile('[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]')
    for _ in range(3000):
        text = ''.join(generator.choices(alphabet, k=generator.randrange(30)))
        shown = script.harmless(text)
        assert not forbidden.search(shown)
        assert script.harmless(shown) == shown


# --- Commands for the server's shell ------------------------------------------------------------------------

WORDS = [
    'plain',
    '',
    ' ',
    'two words',
    "it's",
    "''",
    '"',
    '$HOME',
    '`id`',
    '$(id)',
    'a;b',
    'a\nb',
    '\\',
    '-n',
    '*',
    '!x',
    '~',
    'café',
     '\t']


def test_a_quoted_word_is_one_word_to_sh():
    line = ' '.join(map(script.sh_quote, WORDS))
    assert shlex.split(line) == WORDS
    printed = subprocess.run(['sh', '-c', f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert printed.decode().split('\0')[:-1] == WORDS


@pytest.mark.parametrize('words, device_auth, expected, program', [
    ([], False, ['codex', 'login'], 'codex'),
    ([], True, ['codex', 'login', '--device-auth'], 'codex'),
    (['codex', 'login'], False, ['codex', 'login'], 'codex'),
    (['codex login'], False, ['codex', 'login'], 'codex'),
    (['codex', 'login'], True, ['codex', 'login', '--device-auth'], 'codex'),
    (['codex', 'login', '--device-auth'], True, ['codex', 'login', '--device-auth'], 'codex'),
    (['/opt/my-tools/codex', 'login'], False, ['/opt/my-tools/codex', 'login'], '/opt/my-tools/codex'),
    (['codex', 'login', '--experimental_issuer', 'https://a.test/x'], True,
     ['codex', 'login', '--experimental_issuer', 'https://a.test/x', '--device-auth'], 'codex'),
])
def test_codex_login_is_recognised_however_it_is_written(words, device_auth, expected, program):
    command = script.make_command(words, device_auth)
    assert shlex.split(command.line) == expected and command.program == program and command.codex


@pytest.mark.parametrize('words, line, program', [
    (['wrangler', 'login'], 'wrangler login', 'wrangler'),
    (['cd app && npx wrangler login'], 'cd app && npx wrangler login', 'npx'),
    (['~/bin/tool', 'login'], '~/bin/tool login', '~/bin/tool'),
    (['A=b', 'tool'], 'A=b tool', 'tool'),
    (['$HOME/bin/tool'], '$HOME/bin/tool', 'sh'),
    (['codex', 'login', 'status'], 'codex login status', 'codex'),
    (['codex', 'logout'], 'codex logout', 'codex'),
    (['echo', "it's"], "echo it's", 'echo'),
])
def test_any_other_command_is_for_the_account_s_own_shell_as_with_ssh(words, line, program):
    command = script.make_command(words)
    assert shlex.split(command.line) == ['$SHELL', '-c', line]
    assert command.program == program and not command.codex
    assert command.line.startswith('"$SHELL" -c ')


def shell(text):
    return f'"$SHELL" -c {script.sh_quote(text)}'


IN_SH, IN_ITS_SHELL = (lambda text: text), shell


@pytest.mark.parametrize('line, asked, near, whose', [
    ('codex login', 'codex login status', 'yes', IN_SH),
    ('codex login -c k=v', 'codex login -c k=v status', 'yes', IN_SH),
    ('codex -c k=v login', 'codex -c k=v login status', 'yes', IN_SH),
    ("codex -c 'k=\"v w\"' login", "codex -c 'k=\"v w\"' login status", 'yes', IN_ITS_SHELL),
    ('codex login --device-auth', 'codex login --device-auth status', 'yes', IN_SH),
    ('codex -c cli_auth_credentials_store=auto login', 'codex -c cli_auth_credentials_store=auto login status', 'no', IN_SH),
    ('CODEX_HOME=/x codex login', 'CODEX_HOME=/x codex login status', 'no', IN_ITS_SHELL),
    ('X="a b" codex login', 'X="a b" codex login status', 'yes', IN_ITS_SHELL),
    ('X="it\'s" codex login', 'X="it\'s" codex login status', 'yes', IN_ITS_SHELL),
    ('env X=y codex login', 'env X=y codex login status', 'yes', IN_ITS_SHELL),
    ('~/.local/bin/codex login', '~/.local/bin/codex login status', 'yes', IN_ITS_SHELL),
    ('"$HOME/my bin/codex" login', '"$HOME/my bin/codex" login status', 'no', IN_ITS_SHELL),
    ('npx -y @openai/codex@latest login', 'npx -y @openai/codex@latest login status', 'yes', IN_SH),
    ('sudo -u bob codex login', 'sudo -u bob codex login status', 'no', IN_ITS_SHELL),
    ('docker exec -i box codex login', 'docker exec -i box codex login status', 'no', IN_ITS_SHELL),
    ('ssh inner codex login', 'ssh inner codex login status', 'no', IN_ITS_SHELL),
    ('su - bob -c "codex login"', 'su - bob -c "codex login status"', 'no', IN_ITS_SHELL),
    ('ssh a "sh -c \'codex login -c k=v; date\'" && date', 'ssh a "sh -c \'codex login -c k=v status\'"', 'no', IN_ITS_SHELL),
    ('cd /x && codex login 2>&1 | tee log', 'cd /x && codex login status', 'yes', IN_ITS_SHELL),
    ('codex logout; codex login', 'codex login status', 'yes', IN_ITS_SHELL),
    ('printenv KEY | codex login --with-api-key', 'codex login --with-api-key status', 'yes', IN_ITS_SHELL),
    ('npm install -g @openai/codex && codex login', 'codex login status', 'yes', IN_ITS_SHELL),
    ('. ~/.nvm/nvm.sh; nvm use 22 && (codex login)', '. ~/.nvm/nvm.sh; nvm use 22 && codex login status', 'yes', IN_ITS_SHELL),
])
def test_what_stands_before_login_asks_whether_somebody_is_signed_in_and_does_nothing_else(line, asked, near, whose):
    command = script.make_command(line.split(' '))
    assert (command.name, command.line, command.ask, command.near) == ('codex', whose(line), whose(asked), near)
    assert command.codex == ('api-key' not in line)


@pytest.mark.parametrize('line, asked', [
    ('npx wrangler login --browser=false', 'npx wrangler whoami'), ('claude auth login', 'claude auth status'),
    ('gh auth login --hostname github.com', 'gh auth status'), ('az login --use-device-code', 'az account show'),
    ('gh auth login -w -h github.com', 'gh auth status'), ('npx firebase-tools login', 'npx firebase-tools login:list'), ('sudo -u bob /opt/gh auth login', 'sudo -u bob /opt/gh auth status')])
def test_other_programs_are_asked_in_their_own_words(line, asked):
    command = script.make_command([line])
    assert (command.ask, command.codex, command.near) == (shell(asked), False, 'no')


@pytest.mark.parametrize('line', [
    'codex login status', 'codex login -c k=v status', 'codex login help', 'codex login --help', 'codex login -h', 'codex login -h; date', 'codex mcp login x', 'codex exec login',
    'codex logout', 'my-codex login', 'codexlogin', 'firebase login:ci', 'gh repo list', 'az account show', 'codex'])
def test_what_only_looks_like_a_login_is_none(line):
    assert script.make_command([line]).ask == '' and not script.make_command([line], device_auth=True).codex


@pytest.mark.parametrize('line', ['codex' + ' -m' * 3000 + ' login(', 'codex -c ' * 300, "codex login" + ' -c' * 3000 + "'"], ids=['options', 'programs', 'after it'])
def test_a_line_that_could_be_read_in_many_ways_is_read_at_once(line):
    """A link on a web page can bring one: it must not hold the app before anybody is asked."""
    assert script.make_command([line]).line



@pytest.mark.parametrize('option', ['--with-api-key', '--with-access-token'])
def test_a_key_that_is_read_from_standard_input_is_codex_but_no_login_with_a_page(option):
    command = script.make_command([f'codex login {option}'], device_auth=True)
    assert command == script.Command(f'codex login {option}', 'codex', False, ask=f'codex login {option} status', name='codex', near='yes')


def test_a_code_is_asked_for_where_login_has_its_options():
    assert script.make_command(['codex -c k=v login -c a=b'], True).line == 'codex -c k=v login -c a=b --device-auth'
    assert script.make_command(['ssh inner "codex login"'], True).line == shell('ssh inner "codex login --device-auth"')


@pytest.mark.parametrize('name, text, signed_in, words', [
    ('codex', '0 - Logged in using ChatGPT', True, 'Logged in using ChatGPT'),
    ('codex', '0 a@b.example Logged in using ChatGPT', True, 'Logged in using ChatGPT, a@b.example'),
    ('codex', '0 - API key configured - sk-proj-***1\tAuthentication is checked when you send a request.', True,
     'API key configured - sk-proj-***1'),
    ('codex', '0 - WARNING: no PATH aliases\tLogged in using ChatGPT', True, 'Logged in using ChatGPT'),
    ('codex', '0 - Welcome to box\tLogged in using ChatGPT\tAuthentication is checked when you send a request.', True,
     'Logged in using ChatGPT'),
    ('codex', '0 - WARNING: no PATH aliases\tSigned in some other way\tAnd so on', True, 'Signed in some other way'),
    ('codex', '1 - WARNING: no PATH aliases\tNot logged in', False, 'Not logged in'),
    ('codex', '1 - Error checking login status: no secret service provider or dbus session found', None,
     'Error checking login status: no secret service provider or dbus session found'),
    ('codex', '', None, ''), ('codex', '127 - sh: 1: codex: not found', None, 'sh: 1: codex: not found'),
    ('claude', '0 - {\t  "loggedIn": true,\t  "authMethod": "claude.ai",\t  "email": "ana@example.com",\t  "orgId": null\t}', True,
     'Logged in as ana@example.com'),
    ('claude', '0 - {\t  "loggedIn": true,\t  "authMethod": "api_key"\t}', True, '"loggedIn": true'),
    ('claude', '1 - {\t  "loggedIn": false,\t  "authMethod": "none"\t}', False, '"loggedIn": false,'),
    ('gh', '0 - github.com\t  \x1b[0;32m✓\x1b[0m Logged in to github.com account \x1b[0;1mana\x1b[0m (keyring)', True,
     'Logged in to github.com account ana'),
    ('gh', '0 - github.com\t  ✓ Logged in to github.com as ana (/home/ana/.config/gh/hosts.yml)', True, 'Logged in to github.com as ana'),
    ('gh', '1 - You are not logged into any GitHub hosts. Run gh auth login to authenticate.', False,
     'You are not logged into any GitHub hosts. Run gh auth login to authenticate.'),
    ('gh', '1 - github.com\t  ✓ Logged in to github.com account ana (keyring)\tghe.test\t  X ghe.test: timeout', True,
     'Logged in to github.com account ana'),
    ('gh', '1 - github.com\t  X github.com: authentication failed', None, 'github.com'),
    ('az', '0 - {\t  "name": "Pay",\t  "tenantId": "2",\t  "user": {\t    "name": "ana@example.com",\t    "type": "user"\t  }\t}', True,
     'Logged in as ana@example.com'),
    ('az', "1 - ERROR: Please run 'az login' to setup account.", False, "ERROR: Please run 'az login' to setup account."),
    ('wrangler', '0 - \t ⛅️ wrangler 4.86.0\tGetting User settings...\t👋 You are logged in with an OAuth Token, associated with the email '
     'ana@example.com.\t┌──┐', True, 'You are logged in with an OAuth Token, associated with the email ana@example.com'),
    ('wrangler', '0 - \t ⛅️ wrangler 4.86.0\tYou are not authenticated. Please run `wrangler login`.', False,
     'You are not authenticated. Please run `wrangler login`.'),
    ('wrangler', "1 - ✘ [ERROR] Unable to resolve Cloudflare's API hostname", None, "✘ [ERROR] Unable to resolve Cloudflare's API hostname"),
    ('firebase', '0 - Logged in as ana@example.com\t\tOther available accounts (switch with "firebase login:use")', True,
     'Logged in as ana@example.com'),
    ('firebase', '0 - ⚠  No authorized accounts, run "firebase login"', False, '⚠  No authorized accounts, run "firebase login"'),
    ('', '0 - anything', None, 'anything'),
])
def test_what_programs_say_of_who_is_signed_in(name, text, signed_in, words):
    assert script.Command('x', 'x', name=name).read_status(text) == (signed_in, words)


# --- -L, -R and -D ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode, text, spec', [
    ('L', '8080:localhost:80', ('', 8080, 'localhost', 80)),
    ('L', '127.0.0.1:8080:localhost:80', ('127.0.0.1', 8080, 'localhost', 80)),
    ('L', '[::1]:8080:[2001:db8::1]:80', ('::1', 8080, '2001:db8::1', 80)),
    ('L', '[fe80::1%eth0]:8080:db:5432', ('fe80::1%eth0', 8080, 'db', 5432)),
    ('L', '*:8080:localhost:80', ('*', 8080, 'localhost', 80)),
    ('L', ':8080:localhost:80', ('*', 8080, 'localhost', 80)),
    ('L', '0:localhost:80', ('', 0, 'localhost', 80)),
    ('L', '8080 localhost:80', ('', 8080, 'localhost', 80)),
    ('L', ' [::1]:8080\tlocalhost:80 ', ('::1', 8080, 'localhost', 80)),
    ('R', '8080:localhost:80', ('', 8080, 'localhost', 80)),
    ('R', ':0:localhost:80', ('*', 0, 'localhost', 80)),
    ('R', '8080', ('', 8080, '', 0)),
    ('R', '0.0.0.0:8080', ('0.0.0.0', 8080, '', 0)),
    ('D', '1080', ('', 1080, '', 0)),
    ('D', '*:1080', ('*', 1080, '', 0)),
    ('D', '[::]:0', ('::', 0, '', 0)),
])
def test_specs_mean_what_they_mean_to_ssh(mode, text, spec):
    assert parse_forward(mode, text) == ForwardSpec(mode, *spec)


@pytest.mark.parametrize('mode, text', [
    ('L', ''), ('L', ':'), ('L', '8080'), ('L', '8080:80'), ('L', '8080:localhost'),
    ('L', '8080:localhost:0'), ('L', '8080::80'), ('L', '65536:localhost:80'),
    ('L', '-1:localhost:80'), ('L', '+1:localhost:80'),
    ('L', '٣:localhost:80'), ('L', 'no-such-service:localhost:80'), ('L', '8080:localhost:80:'),
    ('L', 'a:b:8080:localhost:80'), ('L', '::1:8080:localhost:80'), ('L', '[::1:8080:localhost:80'),
    ('L', '[::1]8080:localhost:80'), ('L', '8080:-oProxyCommand=x:80'), ('L', '8080:a\x1b[2Jb:80'),
    ('L', '8080:' + 'a' * 256 + ':80'), ('R', ''), ('R', 'localhost'), ('R', '1:2:x'),
    ('D', ''), ('D', '1080:localhost:80'), ('D', '::1:1080'),
])
def test_a_spec_that_means_nothing_is_a_usage_error(mode, text):
    with pytest.raises(Problem) as raised:
        parse_forward(mode, text)
    assert (raised.value.kind, raised.value.status) == ('usage', 2)
    assert f'-{mode}' in raised.value.message and raised.value.message.isprintable()
    assert 'port' in raised.value.hint


@pytest.mark.parametrize('mode, text', [
    ('L', '/tmp/here:/tmp/there'), ('L', '8080:/tmp/there'), ('L', '8080/localhost/80'),
    ('R', '/tmp/there'), ('R', '/tmp/there:localhost:80'),
])
def test_unix_sockets_are_refused_by_name(mode, text):
    with pytest.raises(Problem, match='Unix sockets'):
        parse_forward(mode, text)


def test_a_printed_spec_reads_back_as_itself():
    chance = random.Random(6)
    hosts = ['localhost', 'db.example', '10.0.0.1', '::1', '2001:db8::1', 'fe80::1%en0', 'ü.example']
    for _ in range(2000):
        mode = chance.choice('LRD')
        target = (chance.choice(hosts), chance.randrange(1, 65536))
        spec = ForwardSpec(mode, chance.choice(['', '*', *hosts]), chance.randrange(65536),
                           *(target if mode == 'L' or mode == 'R' and chance.random() < 0.5 else ()))
        assert parse_forward(mode, str(spec)) == spec


def test_any_text_is_a_spec_or_a_usage_error():
    chance = random.Random(7)
    for _ in range(20000):
        text = ''.join(chance.choices('0189:[]*/ a.-%\x00\\é', k=chance.randrange(20)))
        try:
            spec = parse_forward(chance.choice('LRD'), text)
        except Problem as problem:
            assert problem.kind == 'usage'
        else:
            assert 0 <= spec.port <= 65535 and bool(spec.host) == bool(spec.hostport)


# --- SOCKS --------------------------------------------------------------------------------------------------

FOUR = b'\x04\x01\x00\x50\x0a\x00\x00\x01kim\x00'
FOUR_A = b'\x04\x01\x00\x50\x00\x00\x00\x01kim\x00db.example\x00'
GREETING = b'\x05\x01\x00'
FIVE = GREETING + b'\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50'
FIVE_6 = GREETING + b'\x05\x01\x00\x04' + bytes(15) + b'\x01\x00\x50'
FIVE_NAME = GREETING + b'\x05\x01\x00\x03\x0adb.example\x00\x50'
TARGETS = [
    (FOUR, ('10.0.0.1', 80), b''), (FOUR_A, ('db.example', 80), b''),
    (FIVE, ('10.0.0.1', 80), b'\x05\x00'), (FIVE_6, ('::1', 80), b'\x05\x00'),
    (FIVE_NAME, ('db.example', 80), b'\x05\x00'),
    (b'\x05\x03\x02\x01\x00' + FIVE[3:], ('10.0.0.1', 80), b'\x05\x00'),
]


def feed_in_pieces(socks, data, chance):
    answer = b''
    while data:
        size = chance.randrange(1, 1 + min(len(data), chance.choice([1, 3, 50])))
        answer += socks.feed(data[:size])
        data = data[size:]
    return answer


@pytest.mark.parametrize('request_, target, greeted', TARGETS)
def test_the_target_is_found_however_the_request_is_cut(request_, target, greeted):
    chance = random.Random(8)
    for _ in range(200):
        socks = Socks()
        assert feed_in_pieces(socks, request_[:-1], chance) == greeted
        assert socks.target is None and not socks.refused
        early = chance.randbytes(chance.randrange(5))
        assert socks.feed(request_[-1:] + early) == b''
        assert (socks.target, socks.early, socks.refused) == (target, early, False)


def test_what_was_sent_early_with_the_request_is_kept_in_order():
    chance = random.Random(9)
    for request_, target, _ in TARGETS:
        socks, early = Socks(), chance.randbytes(300)
        feed_in_pieces(socks, request_ + early, chance)
        assert (socks.target, socks.early) == (target, early)


@pytest.mark.parametrize('request_, failure, reply', [
    (FOUR, '', b'\x00\x5a'), (FOUR, 'refused', b'\x00\x5b'), (FOUR_A, 'forbidden', b'\x00\x5b'),
    (FIVE, '', b'\x05\x00\x00\x01'), (FIVE, 'failed', b'\x05\x01\x00\x01'),
    (FIVE, 'forbidden', b'\x05\x02\x00\x01'), (FIVE, 'unreachable', b'\x05\x04\x00\x01'),
    (FIVE, 'refused', b'\x05\x05\x00\x01'),
])
def test_the_outcome_is_said_in_the_clients_version(request_, failure, reply):
    socks = Socks()
    socks.feed(request_)
    assert socks.answer(failure) == reply + bytes(6)


REFUSED_4 = b'\x00\x5b' + bytes(6)


@pytest.mark.parametrize('data, reply', [
    (b'\x04\x02' + FOUR[2:], REFUSED_4),                                                   # BIND
    (GREETING + b'\x05\x02' + FIVE[5:], b'\x05\x00\x05\x07\x00\x01' + bytes(6)),           # BIND
    (GREETING + b'\x05\x03' + FIVE[5:], b'\x05\x00\x05\x07\x00\x01' + bytes(6)),           # UDP ASSOCIATE
    (GREETING + b'\x05\x01\x00\x02', b'\x05\x00\x05\x08\x00\x01' + bytes(6)),           # such an address type
    (GREETING + b'\x05\x01\x00\x03\x00\x00\x50', b'\x05\x00\x05\x01\x00\x01' + bytes(6)),  # an empty name
    (GREETING + b'\x05\x01\x00\x03\x02\xff\xfe\x00\x50', b'\x05\x00\x05\x01\x00\x01' + bytes(6)),
    (GREETING + b'\x05\x01\x00\x03\x02a\n\x00\x50', b'\x05\x00\x05\x01\x00\x01' + bytes(6)),
    (GREETING + b'\x04\x01\x00\x01', b'\x05\x00'),                                         # another version
    (b'\x05\x01\x02', b'\x05\xff'), (b'\x05\x00', b'\x05\xff'),                            # a password only
    (b'GET / HTTP/1.1\r\n', b''), (b'\x16\x03\x01', b''), (b'\x00', b''),
    (b'\x04\x01\x00\x50\x0a\x00\x00\x01' + b'u' * 300, REFUSED_4),
    (b'\x04\x01\x00\x50\x00\x00\x00\x01\x00' + b'h' * 300, REFUSED_4),
    (b'\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00', REFUSED_4),
])
def test_what_is_not_offered_is_refused_with_its_reply(data, reply):
    chance = random.Random(10)
    for _ in range(100):
        socks = Socks()
        assert feed_in_pieces(socks, data, chance) == reply
        assert socks.refused and socks.target is None


def test_hostile_bytes_neither_raise_nor_pile_up():
    chance = random.Random(11)
    for _ in range(20000):
        socks, fed = Socks(), 0
        while not (socks.target or socks.refused):
            piece = (chance.choice([b'\x04\x01', b'\x05\x01\x00', FOUR[:7], FIVE[:8], b''])
                     + chance.randbytes(chance.randrange(40)))
            socks.feed(piece)
            fed += len(piece)
            assert fed < 2000, 'it wants more and more'
        if socks.target:
            host, port = socks.target
            assert host.isprintable() and 0 <= port <= 65535


# --- Arguments ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('words', [
    ['-l', 'CORP\\ana', 'box'], ['-l', "o'neil doe", '-p', 'ssh', 'box'], ['-i', '/my "key"', '-i', '%d/b', '-i', '${HOME}/c', 'box'],
    ['-o', 'UserKnownHostsFile=/a "/b c"', '-o', 'RevokedHostKeys none', 'box'], ['-4g', '-J', 'a,b@c:22', '-NT', 'box'], ['-F', 'none', 'box'],
    ['-o', 'LocalForward=8080 web:80', '-o', 'PermitRemoteOpen=a:80 [::1]:*', 'box']])
def test_the_words_that_are_kept_for_later_mean_the_same(words):
    options = script.read_arguments(words)
    again = script.read_arguments(options.connection)
    assert again.overrides == options.overrides and again.config == options.config
    found = script.look_up([script.Line(*override) for override in again.overrides], 'box', Desk)
    if '-l' in words:
        assert script.make_settings(Destination(None, 'box', None), found, Desk).user == words[1]
    if '/my "key"' in words:
        assert script.make_settings(Destination(None, 'box', None), found, Desk).identity_files == ('/my "key"', f'{HOME}/b', f'{HOME}/c')


def test_what_follows_the_destination_is_the_command():
    options = script.read_arguments(['-v', 'kim@server', 'wrangler', 'login', '-q', '--json'])
    assert options.command == ['wrangler', 'login', '-q', '--json'] and options.verbose and not options.quiet


@pytest.mark.parametrize('words', [
    [], ['-z', 'server'], ['-f', 'server'], ['-W', 'a:22', 'server'], ['-p', 'server'], ['-p', 'x', 'server'], ['-p', '', 'server'], ['-p', '0', 'server'],
    ['-o', 'Colour=blue', 'server'], ['-o'], ['--browser', 'lynx', 'server'], ['--timeout', '0', 'server'],
    ['--timeout', '-5', 'server'], ['--timeout', 'soon', 'server'], ['--time', '5', 'server'], ['-q'],
])
def test_a_wrong_command_line_is_a_usage_error(words):
    problem = refused(script.read_arguments, words)
    assert (problem.kind, problem.status) == ('usage', 2)


def test_the_script_needs_nothing_beside_it_to_be_read():
    said = subprocess.run([sys.executable, '-I', '-S', script.__file__,
                          '--version'], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, '') and script.__version__ in said.stdout
