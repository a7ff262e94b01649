"""Every reader of a stranger's text, against texts that nobody thought of: made by hypothesis, RUNS of them each.

Three promises are kept to by all of them: they return, or raise what they are documented to raise; what a problem says can be
shown anywhere; and no text takes more work than its length allows. The last is measured in processor time, of which a text that
is GROWN characters long gets BUDGET seconds: what is linear takes a hundredth of it, and what is quadratic takes minutes.
"""

import base64
import contextlib
import importlib
import json
import re
import shlex
import signal
import string
import sys
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'scripts'))
script = importlib.import_module('codex_login')
Problem = script.Problem

RUNS, GROWN_RUNS = 120, 25
GROWN = 50_000
BUDGET = 3.0
# The same texts each time: a failure is there for everybody, and a run that passed stays passed.
ALWAYS = {'derandomize': True, 'deadline': None, 'database': None, 'suppress_health_check': list(HealthCheck)}
runs = settings(max_examples=RUNS, **ALWAYS)
grown_runs = settings(max_examples=GROWN_RUNS, **ALWAYS)


class TooMuchWork(BaseException):
    """Nothing under test catches it."""


@contextlib.contextmanager
def budget(seconds=BUDGET):
    """Processor time for what is done within; regular expressions look for signals, too."""
    def over(*_):
        raise TooMuchWork
    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# --- The readers --------------------------------------------------------------------------------------------

class Desk:
    """A device, as far as a configuration is concerned."""
    ssh_folder, user, succeeds = '/h/.ssh', staticmethod(lambda: 'kim'), staticmethod(lambda command: True)


def read_time(text):
    return script.make_settings(script.Destination('kim', 'server', None), {'connecttimeout': [script.Line('connecttimeout', text)]}, Desk)


def read_forwards(text):
    return [script.parse_forward(mode, text) for mode in 'LRD']


def read_known_hosts(text):
    return script.known_keys(text, 'a' * 40 + '.example.org')


def read_pattern(text):
    return script.names_match(text, 'a' * 40 + '.example.org')


def read_pasted_config(text):
    return script.config_with_host(text, script.Pairing('box', 'box.example.org', 22, 'kim', ()))


def read_config(text):
    lines = script.read_config('config', '/h/.ssh', lambda path: text if path == 'config' else 'Port 2222\n', lambda pattern, folder: ['a'])
    script.host_entries(lines)
    return script.make_settings(script.Destination(None, 'box', None), script.look_up(lines, 'box', Desk), Desk)


def read_transcript(text):
    transcript = script.Transcript('0123456789abcdef')
    return [*transcript.feed(text.encode('utf-8', 'replace') + b'\n'), transcript.rest()]


def read_device_code(text):
    return read_lines(text)


def read_lines(text):
    finder = script.Finder(strict=True)
    found = [finder.feed(line) for line in text.split('\n')] + [finder.settle(), finder.settle()]
    return found + [finder.handed(text)]


def read_request(text):
    return script.Reader(script.read_request).feed(text.encode('latin-1', 'replace'))


def read_reply(text):
    reader = script.Reader(script.read_reply)
    return reader.feed(text.encode('latin-1', 'replace')) or reader.feed(b'')


def read_key_file(text):
    return script._KeyFile.of('id_key', text)


def read_armoured_key(text):
    body = base64.b64encode(script.OPENSSH_MAGIC + text.encode('latin-1', 'replace')).decode()
    return script._KeyFile.of('id_key', f'-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n')


def read_private_key(text):
    return script._parse_openssh_private(None, text.encode('latin-1', 'replace'))


def read_host_key(text):
    return script.key_type(text.encode('latin-1', 'replace'))


def read_command(text):
    return script.make_command(text.split(' '))


# The reader, what its texts are made of, and what it may raise.
READERS = {
    'harmless': (script.harmless, '\x1b [ ] 0 ; 31m m \x07 \x9b \x9d \x9c \\ P ? \u0308 \u202e é \ud800 \t'.split(' '), ()),
    'harmless lines': (script.harmless_lines, ['\n', '\r', '\x1b[', 'Signed in: ', '\u2028', 'x'], ()),
    'destination': (script.parse_destination, ['kim', '@', 'host', ':', '22', '[', ']', '::1', '%', 'ssh://', '/', '.'], Problem),
    'option': (script.parse_option, ['Port', '=', ' ', '"', '22', '\t', 'x', 'HostName'], Problem),
    'time': (read_time, ['1', '111', 's', 'm', 'h', 'd', 'w', 'x', ' ', '²', '٣', '-'], Problem),
    'forward': (read_forwards, ['8080', ':', 'host', '[', ']', '::1', '*', ' ', '/', '0', '65536', '²'], Problem),
    'known_hosts': (read_known_hosts, ['*', '?', 'a', ',', '!', ' ', '\n', 'ssh-rsa', 'AAAA', '|1|', '@revoked', '#', '='], ()),
    'host pattern': (read_pattern, ['*', '?', 'a', ',', '!', '.example.org', '|1|', '|', 'AAAA'], ()),
    'ssh_config': (read_pasted_config, ['Host', ' ', '\t', '=', '"', 'box', '\n', '\r', '*', '#', 'Match', '  Port 22\n'], ()),
    'ssh_config, looked up': (read_config, [
        'Host', ' ', '=', '"', "'", '\\', 'box', '\n', '*', '!', ',', '#', 'Match', 'final', 'all', 'host', 'user', 'exec', 'HostName', '%h', '%', '${',
        'HOME}', 'Include', 'IdentityFile', 'ProxyCommand', 'ssh -W %h:%p', 'ProxyJump', 'LocalForward', '80 a:80', 'Port', 'UserKnownHostsFile',
        'PermitRemoteOpen', 'none'], Problem),
    'pairing link': (script.parse_pairing_link, [
        'codex-login:1', '/', 'box', 'kim', '22', 'A' * 43, 'pythonista3://x?argv=--add&argv=', '%2F', 'ashell:', ' ', '.', '127.1'], Problem),
    'pasted redirect': (script.parse_redirect, [
        'http://localhost:1455', '/auth/callback', '?code=', '&state=', '%', '[', ']', '#', '<', '"', ':99999', '9' * 50], Problem),
    'session': (script.read_session, ['{', '}', '[', ']', '"server":', '"x"', ',', ':', 'null', 'NaN', '1e999', '9' * 50], ValueError),
    'transcript': (read_transcript, ['\n', '@0123456789abcdef ', 'exit ', '²', '9' * 50, 'browser ', 'x', '\r', '\ud800'], ()),
    'sign-in': (read_lines, ['\n', '\x1b]8;;', '%20', '…', ' read_api', '&scope=', '&amp;', '\\u0026', '\\/', 'https%3A%2F%2F', '│ ',
        'https://a.example/?redirect_uri=http%3A%2F%2Flocalhost%3A1455%2F', 'http://localhost:1455/', ' ', '.', ')', '&state=', '[',
        'listening on ', 'https://', '%5B', ';', ':99999', '9' * 50, '\x1b[1m'], ()),
    'page': (lambda text: script.check_page(text, 'a.example', str.isupper), ['https://a.example/?', 'redirect_uri=', 'https%3A%2F%2Fb', '&', ' ', ';', 'http://', '10.0.0.1', '.local'], Problem),
    'device code': (read_device_code, ['https://a.example/', 'ABCD', '-', 'EF12', ' ', '_', 'x', '.', ')'], ()),
    'request': (read_request, ['GET ', '/', ' HTTP/1.1', '\r\n', 'Host: localhost', ':', ' ', 'A', '//[', '\x00'], ValueError),
    'answer': (read_reply, ['HTTP/1.1 ', '302', '\r\n', 'Content-Length: ', '9' * 50, '²', 'Location: ', '//[', ':', ' '], ValueError),
    'key file': (read_key_file, [
        '-----BEGIN ', 'OPENSSH ', 'A', ' ', 'PRIVATE KEY-----', '\n', '-----END', 'RSA ', 'Proc-Type: 4,ENCRYPTED', 'b3BlbnNzaC1rZXktdjEA'],
        Problem),
    'OpenSSH key': (read_armoured_key, ['\0\0\0\x04', 'none', '\0\0\0\0', '\0\0\0\x01', '\xff\xff\xff\xff', 'aes256-ctr', 'bcrypt'], Problem),
    'private key': (read_private_key, [
        '\0\0\0\x01\0\0\0\x01', '\0\0\0\x0bssh-ed25519', '\0\0\0\x07ssh-rsa', '\0\0\0\x20' + 'k' * 32, '\0\0\0\0', '\xff', 'x'],
        (Problem, ValueError)),
    'host key': (read_host_key, ['\0\0\0\x07', 'ssh-rsa', '\xff', '\0', 'x'], ValueError),
    'command': (read_command, ['codex', ' ', 'login', '/', '--device-auth', "'", '"', '.', '\n', '$(', '-c', 'k=v', ';', '&&', 'X=', '\\'], ()),
}


def texts(pieces, most=12):
    """Texts of a reader's own pieces, with anything at all between them."""
    return st.lists(st.one_of(st.sampled_from(pieces), st.text(max_size=3)), max_size=most).map(''.join)


def read(reader, text, allowed):
    """What a reader makes of a text; None where it refuses it as it may."""
    try:
        return reader(text)
    except allowed as refusal:
        if isinstance(refusal, Problem):
            lines = refusal.message.split('\n')        # an address stands alone on the second
            assert script.harmless(lines[0]) and len(lines) <= 2 and refusal.hint.isprintable()
            assert refusal.status in (2, 255)


@pytest.mark.parametrize('name', READERS)
def test_a_reader_takes_any_text_or_refuses_it_as_it_says(name):
    reader, pieces, allowed = READERS[name]

    @runs
    @given(texts(pieces))
    def each(text):
        read(reader, text, allowed)
    each()


@pytest.mark.parametrize('name', READERS)
def test_no_text_takes_more_work_than_its_length(name):
    reader, pieces, allowed = READERS[name]

    @grown_runs
    @given(texts(pieces, 3), texts(pieces, 4).filter(bool), texts(pieces, 3))
    def each(start, repeated, end):
        with budget():
            read(reader, start + repeated * (GROWN // len(repeated)) + end, allowed)
    each()


KNOWN_BAD = [
    ('time', '1' * GROWN + 'x'),
    ('time', '111111' * 5 + 'x'),
    ('option', 'Port' + ' ' * GROWN + '"'),
    ('host pattern', '*a' * 10 + '*b'),
    ('host pattern', 'a*' * (GROWN // 2) + 'b'),
    ('known_hosts', ('*a' * 20 + 'b,') * 500 + ' ssh-rsa AAAA\n'),
    ('sign-in', 'http://localhost:1455/ ' * 4000 + 'listening'),
    ('sign-in', 'https://a.example/' + '.' * GROWN + 'x'),
    ('harmless', '\x1b[' * GROWN), ('harmless', '\x1b]' * GROWN), ('harmless', '\x1b[' + '0' * GROWN),
    ('harmless', '\u0308' * GROWN), ('harmless', '\x1b[' + '0' * GROWN + ' ' * GROWN),
    ('session', '[' * GROWN), ('session', '{"server":' * GROWN),
    ('answer', 'HTTP/1.1 200 OK\r\nContent-Length: ' + '9' * 5000 + '\r\n\r\n'),
    ('answer', 'HTTP/1.1 200 OK\r\nContent-Length: ²\r\n\r\n'),
    ('forward', ':' * GROWN), ('forward', '[' * GROWN), ('forward', '1' * 5000 + ':host:22'),
    ('device code', 'ABCD-' * GROWN), ('device code', 'A' * GROWN),
    ('key file', '-----BEGIN ' + 'A ' * GROWN), ('key file', '-----BEGIN ' * 9000),
    ('ssh_config', '"' * GROWN), ('ssh_config', 'Host ' + '"' * GROWN), ('ssh_config', '\n' * GROWN),
    ('ssh_config, looked up', 'Host ' + '"' * GROWN), ('ssh_config, looked up', 'HostName ' + '%h' * GROWN),
    ('ssh_config, looked up', 'Host ' + 'b' * GROWN + '*'), ('ssh_config, looked up', 'Match ' + 'host box ' * (GROWN // 4)),
    ('ssh_config, looked up', ' ' * GROWN), ('ssh_config, looked up', 'ProxyCommand ssh' + ' nc' * GROWN),
    ('ssh_config, looked up', 'ProxyCommand ssh a nc' + ' -w 1' * GROWN), ('ssh_config, looked up', 'IdentityFile ' + 'a ' * GROWN),
    ('ssh_config, looked up', 'LocalForward 80 a:80\n' * 200), ('ssh_config, looked up', 'UserKnownHostsFile ' + '${' * GROWN),
    ('pasted redirect', 'http://localhost:' + '9' * 5000), ('pasted redirect', 'http://localhost:²/'),
]


@pytest.mark.quick
@pytest.mark.parametrize('name, text', KNOWN_BAD, ids=[f'{name}: {text[:24]!a}' for name, text in KNOWN_BAD])
def test_texts_that_were_found_to_take_long_or_to_break_something(name, text):
    reader, _, allowed = READERS[name]
    with budget():
        read(reader, text, allowed)


def test_a_configuration_of_blank_lines_is_read_at_once(tmp_path, monkeypatch):
    device = script.Device(alone=True)
    config = tmp_path / 'config'
    config.write_text('\n' * GROWN + 'Host box\n  HostName 127.0.0.1\n')
    with budget():
        assert script.find_settings(script.parse_destination('kim@box'), device, (), str(config)).host == '127.0.0.1'


# --- What is shown ------------------------------------------------------------------------------------------

ANYTHING = st.one_of(st.text(), texts(READERS['harmless'][1], 30))


@runs
@given(ANYTHING)
@example('\x1b\x1b[31m')
@example('\x9b\x1b]')
def test_what_is_harmless_can_be_shown_anywhere_and_stays_as_it_is(text):
    shown = script.harmless(text)
    assert shown.replace('\t', '').isprintable() and len(shown) <= len(text)
    assert script.harmless(shown) == shown
    assert not re.search('[\u0300-\u036f]{5}', shown)


@runs
@given(st.text(string.ascii_letters + string.digits + string.punctuation + ' éßжあ漢🔑'))
def test_what_is_plain_is_shown_as_it_is(text):
    assert script.harmless(text) == text


@runs
@given(st.lists(ANYTHING, max_size=4))
def test_a_sequence_cut_into_pieces_does_no_harm_either(pieces):
    shown = ''.join(map(script.harmless, pieces))
    assert shown.replace('\t', '').isprintable()


# --- What is read piece by piece ----------------------------------------------------------------------------

@runs
@given(texts(READERS['transcript'][1], 20), st.integers(1, 7))
def test_records_and_bytes_are_the_same_in_pieces_of_any_size(text, size):
    data = text.encode('utf-8', 'replace') + b'\n'
    whole, cut = script.Transcript('0123456789abcdef'), script.Transcript('0123456789abcdef')
    found = [item for at in range(0, len(data), size) for item in cut.feed(data[at:at + size])]
    same = [*whole.feed(data)]
    for kind in (bytes, script.Record):
        one, other = ([item for item in items if isinstance(item, kind)] for items in (found, same))
        assert one == other if kind is script.Record else b''.join(one) + cut.rest() == b''.join(other) + whole.rest()
    assert all('\n' not in item.text for item in found if isinstance(item, script.Record))


@runs
@given(texts(READERS['sign-in'][1], 20), st.integers(1, 7))
def test_the_page_to_open_is_the_same_in_pieces_of_any_size(text, size):
    data = text.encode('utf-8', 'replace') + b'\n'
    whole, cut = script.Lines(), script.Lines()
    one, other = script.Finder(), script.Finder()
    found = [other.feed(line) for at in range(0, len(data), size) for line in cut.feed(data[at:at + size])]
    assert found + [other.settle(), other.settle()] == [*map(one.feed, whole.feed(data)), one.settle(), one.settle()]


SOCKS = [b'\x05', b'\x04', b'\x01', b'\x00', b'\x03', b'\x04\x01\x00\x50\x7f\x00\x00\x01', b'kim\x00', b'\x05\x01\x00',
         b'\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50', b'\x05\x01\x00\x03\x04host\x00\x50', b'\x00\x00\x00\x01', b'\xff', b'early']


@runs
@given(st.lists(st.one_of(st.sampled_from(SOCKS), st.binary(max_size=3)), max_size=8).map(b''.join))
def test_a_socks_client_is_understood_byte_by_byte_as_in_one_piece(data):
    whole, cut = script.Socks(), script.Socks()
    answers = whole.feed(data)
    said = b''
    for at in range(len(data)):
        if cut.target or cut.refused:
            break
        said += cut.feed(data[at:at + 1])
    assert (cut.target, cut.refused, said) == (whole.target, whole.refused, answers)
    if whole.target:
        host, port = whole.target
        assert host.isprintable() and ' ' not in host and len(host) <= 255 and 0 <= port < 65536
    assert len(whole.early) <= len(data)


HEADS = texts(['GET ', '/auth/callback?code=1', ' HTTP/1.1\r\n', 'Host: localhost:1455', '\r\n', 'X: y', ':', ' '])


@runs
@given(HEADS)
@example('GET /auth/callback?code=1 HTTP/1.1\r\nHost: localhost:1455')
def test_a_request_is_there_with_its_last_byte_and_not_before(head):
    data = head.encode('latin-1', 'replace').partition(b'\r\n\r\n')[0].rstrip(b'\r\n') + b'\r\n\r\n'
    reader, request = script.Reader(script.read_request), None
    with contextlib.suppress(ValueError):
        for at in range(len(data)):
            assert request is None
            request = reader.feed(data[at:at + 1])
        assert request == script.Reader(script.read_request).feed(data)
        sent = script.request_text(request)
        assert sent.endswith(b'\r\nConnection: close\r\n\r\n') and sent.count(b'\r\n\r\n') == 1
        assert script.Reader(script.read_request).feed(sent).target == request.target


ANSWERS = ['HTTP/1.1 200 OK', 'HTTP/1.1 100 x', 'HTTP/1.0 204', '\r\n', '\n', 'Content-Length: 3', 'Transfer-Encoding: chunked', 'abc', '3', '0', '-1']


@runs
@given(texts(ANSWERS, 20))
@example('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n')
def test_an_answer_is_the_same_in_pieces_of_any_size(text):
    data, results = text.encode('latin-1', 'replace'), []
    for size in (1, 2, 3, len(data) or 1):
        reader, answer = script.Reader(script.read_reply), None
        try:
            for at in range(0, len(data), size):
                answer = reader.feed(data[at:at + size])
                if answer:
                    break
        except ValueError:
            answer = 'none'
        results.append((answer, reader.unended if not answer else None))
    assert all(result == results[0] for result in results)


@runs
@given(st.integers(200, 599).filter(lambda status: status not in (204, 304)), st.binary(max_size=40), st.integers(0, 60))
def test_an_answer_is_there_when_its_length_is(status, body, length):
    reader = script.Reader(script.read_reply)
    data = b'HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n' % (status, length) + body
    if length <= len(body):
        answer = reader.feed(data)
        assert answer.status == status and answer.data == data[:len(data) - len(body) + length]
    else:
        assert reader.feed(data) is None
        with pytest.raises(ValueError):
            reader.feed(b'')


@runs
@given(st.lists(st.binary(max_size=9), max_size=5), st.integers(0, 60))
def test_ssh_strings_come_as_they_were_packed_and_never_from_beyond_the_end(strings, length):
    data = b''.join(map(script._string, strings))
    reader = script.SshReader(data)
    assert [reader.string() for _ in strings] == strings
    with pytest.raises(ValueError):
        reader.uint32()
    cut = script.SshReader(data[:length])
    with contextlib.suppress(ValueError):
        for text in strings:
            assert cut.string() == text


# --- What means one thing -----------------------------------------------------------------------------------

@runs
@given(st.sampled_from('LRD'), texts(READERS['forward'][1]))
def test_a_tunnel_is_written_as_it_is_read(mode, text):
    with contextlib.suppress(Problem):
        spec = script.parse_forward(mode, text)
        assert 0 <= spec.port < 65536 and 0 <= spec.hostport < 65536
        assert not re.search(r'[\s\x00-\x1f]', spec.host + spec.bind)
        assert script.parse_forward(mode, str(spec)) == spec


@runs
@given(texts(READERS['destination'][1]))
def test_a_destination_is_never_an_option_and_never_two_lines(text):
    with contextlib.suppress(Problem):
        found = script.parse_destination(text)
        assert not found.host.startswith('-') and not re.search(r'\s', found.host)
        assert found.port is None or 0 < found.port < 65536
        assert '\n' not in (found.user or '')


def matches(pattern, name):
    """ssh's wildcards by their definition, slowly."""
    if not pattern or not name:
        return not name and not pattern.strip('*')
    if pattern[0] == '*':
        return matches(pattern[1:], name) or matches(pattern, name[1:])
    return pattern[0] in ('?', name[0]) and matches(pattern[1:], name[1:])


@runs
@given(st.text('ab*?', max_size=8), st.text('ab', max_size=8))
def test_a_pattern_matches_as_its_definition_says(pattern, name):
    assert script.wildcards_match(pattern, name) is matches(pattern, name)


@runs
@given(texts(READERS['sign-in'][1]))
def test_a_sign_in_address_is_one_of_the_line_and_plain(line):
    for found in filter(None, read_lines(line)):
        assert re.fullmatch('[!-~]+', found.url) and found.url.startswith('http')
        if found.kind not in ('leaving', 'page'):
            assert 0 < found.port < 65536 and found.path[:1] in ('/', '')


@runs
@given(st.text(string.ascii_letters + string.digits + '-_', min_size=1, max_size=90), st.sampled_from([80, 61, 100]),
       st.sampled_from([None, 1, 2, 4]), st.sampled_from(['', 'Waiting for you', 'Done?']))
@example('0', 80, 1, 'Waiting for you')
@example('x' * 30, 80, 1, 'Waiting for you')       # the last row is exactly full
@example('x' * 38, 80, None, 'Waiting for you')
def test_an_address_that_rich_broke_at_its_width_is_whole_again(state, columns, padding, after):
    url = f'https://id.example/authorize?client_id=app_EMoamEEZ73f0CkXaXp7hrann&redirect_uri=http%3A%2F%2Flocalhost%3A1455%2Fcb&state={state}'
    left, right = ('', '') if padding is None else ('│' + ' ' * padding, ' ' * padding + '│')
    width = columns - len(left + right)
    assume(len(url) % width or after != 'Done?')    # a word alone behind a row that is exactly full may be the address's end
    lines = [url[at:at + width] for at in range(0, len(url), width)] + [after]
    finder = script.Finder(False, columns)
    found = [finder.feed(left + line.ljust(width) + right if left else line) for line in lines] + [finder.settle()]
    assert [sign_in.url for sign_in in found if sign_in] == [url]


@runs
@given(texts(READERS['pasted redirect'][1]))
def test_a_pasted_redirect_is_one_request_line(text):
    with contextlib.suppress(Problem):
        redirect = script.parse_redirect(text)
        assert re.fullmatch('[/?][!-~]*', redirect.target) and 0 < (redirect.port or 1) < 65536      # a query alone has neither path nor port


@runs
@given(st.sampled_from(['/', '//', '///evil', 'http://localhost:1455', 'http://localhost:1455/x', 'https://evil']), st.text(max_size=5))
def test_only_this_very_port_is_followed(start, rest):
    target = script.local_target(start + rest, 1455)
    assert target is None or target.startswith('/') and not target.startswith('//')


WORDS = st.text(max_size=8)
SESSIONS = st.builds(
    script.Session, server=WORDS, arguments=st.lists(WORDS, max_size=3), command=st.lists(WORDS, max_size=3),
    device_auth=st.booleans(), folder=st.just('/tmp/codex-login.abcdefghij'), mark=st.text('0123456789abcdef', min_size=16, max_size=16),
    port=st.one_of(st.none(), st.integers(1, 65535)), path=st.one_of(st.just(''), WORDS.map(lambda text: '/' + text)),
    state=st.one_of(st.just(''), WORDS.map(lambda text: script.hash_of('s' + text))), started=st.floats(0, 2e9))


@runs
@given(SESSIONS)
def test_a_saved_login_is_read_as_it_was_written(session):
    assert script.read_session(json.dumps(session._asdict())) == session


JUNK = st.one_of(st.none(), st.booleans(), st.integers(-2**70, 2**70), st.floats(), WORDS, st.lists(WORDS, max_size=2),
                 st.dictionaries(WORDS, WORDS, max_size=1), st.just(1e400))


@runs
@given(SESSIONS, st.sampled_from(script.Session._fields), JUNK)
def test_a_saved_login_with_one_value_of_another_kind_is_none(session, name, junk):
    text = json.dumps({**session._asdict(), name: junk})
    try:
        found = script.read_session(text)
    except ValueError:
        return
    # Then the value is one that could have been written.
    assert type(getattr(found, name)) in {
        'device_auth': (bool,), 'port': (int, type(None)), 'started': (int, float), 'arguments': (list,), 'command': (list,)}.get(name, (str,))
    assert all(isinstance(word, str) for word in found.arguments + found.command)
    assert found.port is None or 0 < found.port < 65536
    assert 0 <= found.started < float('inf')
    script.ago(max(0, 2e9 - found.started))


@runs
@given(st.text().filter(lambda text: '\0' not in text))
def test_a_quoted_word_is_one_word(text):
    assert shlex.split(script.sh_quote(text)) == [text]


TARGETS = ['/auth/callback', '?', 'code=1', '&', 'state=s-1', 'state=other', '/success', '/cancel', '//', '/./', '%2e', '%2f', '\\', '#', '[']


@runs
@given(texts(TARGETS).filter(lambda text: re.fullmatch('[!-~]+', text)), st.sampled_from(['GET', 'POST', 'HEAD']),
       st.sampled_from(['localhost:1455', '127.0.0.1:1455', 'evil.example', 'localhost', '']), st.booleans(), st.booleans())
@example('/auth/callback?code=1&state=s-1', 'GET', 'localhost:1455', False, True)
def test_no_request_is_carried_but_the_pending_logins_own(target, method, host, served, codex):
    pending = script.Pending(1455, '/auth/callback', script.hash_of('s-1'), served, codex)
    verdict = script.judge(script.Request(method, target, (('Host', host),)), pending)
    if verdict.act != script.HERE:
        assert method in ('GET', 'POST') and host.endswith(':1455')
    if verdict.act == script.CARRY:
        assert verdict.target == target and target.count('state=s-1') == 1 and 'state=other' not in target
    elif verdict.act == script.HERE:
        assert verdict.status >= 204 and script.page(verdict.title, verdict.text, status=verdict.status)


# --- What is read piece by piece, and how much work that is --------------------------------------------------

class Pieces:
    """A socket or channel from which everything comes byte by byte."""

    def __init__(self, data):
        self._bytes = iter(data)

    def settimeout(self, seconds):
        pass

    def recv(self, most):
        return bytes([byte for _, byte in zip(range(1), self._bytes)])

    def sendall(self, data):
        raise AssertionError(data)


def courier():
    return script.Courier(None, types.SimpleNamespace(exited=None), 1455, 0)


LENGTHY = 400_000


@pytest.mark.parametrize('head', [b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % LENGTHY, b'HTTP/1.1 200 OK\r\n\r\n', b''])
def test_an_answer_byte_by_byte_is_no_more_work_than_its_length(head):
    data = head + b'x' * LENGTHY
    with budget():
        if head:
            assert len(courier()._read_reply(Pieces(data)).data) == len(data)
        else:
            with pytest.raises(ValueError):
                courier()._read_reply(Pieces(data))


def test_a_request_byte_by_byte_is_no_more_work_than_its_length():
    head = b'GET /auth/callback?code=1 HTTP/1.1\r\nHost: localhost:1455\r\nX: '
    data = head + b'x' * (60_000 - len(head)) + b'\r\n\r\n'
    with budget():
        reader, request = script.Reader(script.read_request), None
        for byte in data:
            request = reader.feed(bytes([byte]))
        assert request.target == '/auth/callback?code=1'
