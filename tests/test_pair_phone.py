"""Pairing: the link that pair_phone.py makes, the code it draws, and what codex_login.py makes of both."""

import codecs
import fcntl
import importlib.util
import os
import pathlib
import pty
import random
import re
import select
import shlex
import shutil
import string
import struct
import subprocess
import sys
import termios
import time
import urllib.parse

import pytest

pytestmark = pytest.mark.quick

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent / 'scripts'
PAIR_PHONE = SCRIPTS / 'pair_phone.py'
CODEX_LOGIN = SCRIPTS / 'codex_login.py'


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


codex_login = load(CODEX_LOGIN)
pair_phone = load(PAIR_PHONE)
parse = codex_login.parse_pairing_link
Pairing = codex_login.Pairing
Problem = codex_login.Problem


def needs(program, package):
    missing = not shutil.which(program)
    return pytest.mark.skipif(missing, reason=f'{program} is missing: apt install {package}')


needs_zbar = needs('zbarimg', 'zbar-tools')
needs_ssh = needs('ssh', 'openssh-client')

ED25519 = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILekFAiWYdNYWQEYibMcJ22/Np6XUzAnLYf2TH8MwxR0'
ECDSA = ('ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBE6s81rPkolmqS65ZdXUohg8'
         'vI8bZJa+E+F12J//VwLgPRLsaBu+NW0B3z1B5YyxVoY4tnyIledzO8s33y/SDzc=')
RSA = ('ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDGOibOFeqeE7YjY1NQy5b/cKmfLLYxj3OnZPqJD4s2xWZBc4nFKjuiIzIo'
       'zMr4prxBK7w130HoZb8a/FAeg4KMr2dVD60bak7YXow7pW7vaet1Ir0knjJXGIOTzDED60mjxKh/c3SQ3Wcvddlf22gp4nZ5'
       'jL/HL8ZkPtNIdtbVgaXmympm9kO72441DwMbRuqXEI3NTyJGvqyF8omzKk+EYPRu6xYGYzQiSXubpzhYFIP/QZb7xNWCKGKG'
       '7nEYEBkOSwTU72HtQ+ZF/X5fE9uSeyky24jvSpbs7ggP7klIAUt9KGx03lzYK+2xhT2B+pAOgXN/s0GiDPfYKLNCxfrr')
FINGERPRINTS = (  # as ssh-keygen -lf gives them
    'SHA256:V1FJrKhCEV1bfvUp+ERJVt47CircWGQ63An5cf45zWY',
    'SHA256:pfna5p81c5Oa8bSJiryJqVHrfTyzbzO/INbh6dFMgr0',
    'SHA256:HWkdk7ID/YlaKI10al2Zw3ru9lMetRnuZnNdA05pZFA',
)
KEYS = tuple(fingerprint[7:].replace('+', '-').replace('/', '_') for fingerprint in FINGERPRINTS)
LINK = 'codex-login:1/work/ana/server.example.org/2222/' + '/'.join(KEYS)
PAIRING = Pairing('work', 'server.example.org', 2222, 'ana', FINGERPRINTS)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """This machine as a server: its own sshd folder, an account, no connection."""
    folder = tmp_path / 'ssh'
    folder.mkdir()
    dsa = 'ssh-dss AAAAB3NzaC1kc3MAAACB'
    for kind, line in (('rsa', RSA), ('ed25519', ED25519), ('ecdsa', ECDSA), ('dsa', dsa)):
        (folder / f'ssh_host_{kind}_key.pub').write_text(f'{line} root@server\n')
        (folder / f'ssh_host_{kind}_key').write_text('private\n')
    monkeypatch.setattr(pair_phone, 'SSH_FOLDER', str(folder))
    monkeypatch.setattr(pair_phone.getpass, 'getuser', lambda: 'ana')
    monkeypatch.setattr(pair_phone.socket, 'gethostname', lambda: 'work.example.org')
    monkeypatch.setattr(pair_phone, 'own_addresses', lambda: ['198.51.100.7'])
    monkeypatch.delenv('SSH_CONNECTION', raising=False)
    monkeypatch.delenv('SUDO_USER', raising=False)
    return folder


@pytest.fixture
def run(machine, capsys):
    """Run pair_phone.py without a terminal: its exit status, output and errors."""
    def run(*arguments):
        try:
            status = pair_phone.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        output, errors = capsys.readouterr()
        return status, output, errors
    return run


def links_in(output):
    pythonista, a_shell = re.findall(r'^(?:pythonista3|ashell):.*$', output, re.M)
    assert parse(pythonista) == parse(a_shell)
    return pythonista, a_shell


def pairing_in(output):
    return parse(links_in(output)[0])


# The link ------------------------------------------------------------------------------------------


def test_a_link_says_which_server_it_adds():
    assert parse(LINK) == PAIRING


def test_a_link_is_accepted_as_people_paste_it():
    assert parse(f'  {LINK}\r\n') == PAIRING
    assert parse('pythonista3://codex_login.py?action=run&argv=--add&argv=' + LINK) == PAIRING
    assert parse('pythonista3://tools/codex_login.py?action=run&root=icloud&argv=--add&argv='
                 + urllib.parse.quote(LINK, safe='')) == PAIRING
    assert parse('ashell:codex_login%20--add%20' + LINK) == PAIRING
    assert parse('ashellmini://codex_login%20--add%20' + LINK) == PAIRING


def test_both_apps_hand_the_link_over_as_one_argument(run):
    pythonista, a_shell = links_in(run('--host', 'server.example.org', '--port', 2222, '--name', 'work')[1])
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(pythonista).query)
    assert query == {'action': ['run'], 'argv': ['--add', LINK]}
    assert shlex.split(urllib.parse.unquote(a_shell.partition(':')[2])) == ['codex_login', '--add', LINK]


@pytest.mark.parametrize('shell', ['sh', 'bash', 'zsh', 'fish', 'tcsh'])
def test_a_shell_leaves_a_bare_link_as_it_is(shell, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f'{shell} is missing: apt install {shell}')
    printed = subprocess.run([shell, '-c', f'echo {LINK}'], env={**os.environ, 'HOME': str(tmp_path)},
                             cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert printed.stdout.rstrip('\n') == LINK


def link_with(name='work', user='ana', host='server.example.org', port='22', keys=KEYS):
    return '/'.join(['codex-login:1', name, user, host, port, *keys])


@pytest.mark.parametrize('host, meant', [
    ('Server.Example.ORG', 'server.example.org'),
    ('build-1', 'build-1'),
    ('xn--bcher-kva.example', 'xn--bcher-kva.example'),
    ('203.0.113.5', '203.0.113.5'),
    ('2001:DB8:0:0::5', '2001:db8::5'),
    ('1password.example', '1password.example'),
    ('a' * 63 + '.example', 'a' * 63 + '.example'),
])
def test_a_host_has_one_spelling(host, meant):
    assert parse(link_with(host=host)).host == meant


@pytest.mark.parametrize('host', [
    '', '-oProxyCommand', '-server', 'server-', 'a..b', '.a', 'a.', 'a_b', 'a' * 64, 'a.' * 127 + 'ab', 'a@b',
    '127.1', '2130706433', '0x7f000001', '0x7f.1', '1.2.3', '1.2.3.4.5', '256.1.1.1', '1.2.3.04', 'server.1',
    '0.0.0.0', '224.0.0.1', '::', 'ff02::1', '1::2::3', ':', 'server:22',
])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(Problem, match='address'):
        parse(link_with(host=host))


def test_an_address_of_one_network_interface_is_refused_from_a_stranger():
    with pytest.raises(Problem, match='characters'):
        parse(link_with(host='fe80::5%eth0'))
    assert not codex_login._canonical_host('fe80::5%eth0')


@pytest.mark.parametrize('name', ['', '-work', '_work', 'a.b', 'github.com', '.', 'a@b', 'a:b', 'x' * 33])
def test_a_name_that_could_be_an_option_or_another_host_is_refused(name):
    with pytest.raises(Problem, match='name of the server'):
        parse(link_with(name=name))


@pytest.mark.parametrize('user', ['', '-ana', '.ana', '@ana', 'a:b', 'x' * 65])
def test_a_user_that_could_be_an_option_is_refused(user):
    with pytest.raises(Problem, match='user name'):
        parse(link_with(user=user))


@pytest.mark.parametrize('port', ['', '0', '-1', '022', '65536', '99999', '123456', '2.2', '1e3', 'ssh'])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(Problem, match='port'):
        parse(link_with(port=port))


@pytest.mark.parametrize('keys', [
    (KEYS[0][:-1],), (KEYS[0] + 'A',), (KEYS[0][:-1] + 'B',), (KEYS[0], ''), (KEYS[0], KEYS[0]), ('',),
    (KEYS[0][:-1] + '.',),
])
def test_a_damaged_fingerprint_is_refused(keys):
    with pytest.raises(Problem, match='fingerprints are damaged'):
        parse(link_with(keys=keys))


def test_a_link_has_a_bounded_number_of_keys():
    many = [f'{number:042d}A' for number in range(7)]
    assert len(parse(link_with(keys=many[:6])).fingerprints) == 6
    for keys in ([], many):
        with pytest.raises(Problem, match='cut short, or too long'):
            parse(link_with(keys=keys))


@pytest.mark.parametrize('character', [
    *' \t\r\n\0\x1b\x7f%?&=#;$`\'"\\|<>*!{}()[]~+,^',
    '\x85', '\xa0', 'а', 'ａ', '․', '／', '\u200b', '\u2028', '\u202e', '\ufeff', '٣', '\ud800',
])
def test_no_field_takes_a_character_with_a_meaning_elsewhere(character):
    places = [LINK.index(text) + 1 for text in ('work', 'ana', 'server', '2222', KEYS[0])]
    for place in places:
        for hostile in (LINK[:place] + character + LINK[place:], LINK[:place] + character + LINK[place + 1:]):
            with pytest.raises(Problem) as caught:
                parse(hostile)
            assert caught.value.kind == 'pairing' and 'characters' in str(caught.value)
            assert str(caught.value).isascii() and str(caught.value).isprintable()


def test_a_newline_cannot_bring_a_setting_into_the_configuration():
    for newline in ('\n', '\r\n', '%0A', '%0D%0A', '\x0b', '\u2028'):
        field = f'ana{newline}ProxyCommand sh'
        with pytest.raises(Problem):
            parse(link_with(user=field))
        with pytest.raises(Problem):
            parse('pythonista3://codex_login.py?action=run&argv=--add&argv='
                  + urllib.parse.quote(link_with(user=field), safe='', errors='surrogatepass'))
        for place in ('name', 'user', 'host'):
            with pytest.raises(Problem):
                codex_login.config_with_host('', PAIRING._replace(**{place: field}))


@pytest.mark.parametrize('text', [
    '', ' ', 'https://example.org/', 'ana@server', '--add', 'javascript:1', 'codex-login', 'Codex-Login:1/a',
    'x' + LINK,
    'pythonista3://codex_login.py', 'pythonista3://codex_login.py?action=run&argv=--add',
    'pythonista3://codex_login.py?action=run&argv=-oProxyCommand=x&argv=--add&argv=' + LINK,
    'pythonista3://codex_login.py?action=run&argv=--add&argv=' + LINK + '&argv=--yes',
    'pythonista3://codex_login.py?action=run&argv=' + LINK,
    'pythonista3://x?exec=1',
    'ashell:rm%20-rf%20' + LINK, 'ashell:codex_login%20--add%20' + LINK + '%20--yes',
    'ashell:codex_login%20--add%20' + LINK + '%3Bls%20x', 'ashell:',
])
def test_what_is_no_pairing_link_is_a_usage_error(text):
    with pytest.raises(Problem) as caught:
        parse(text)
    assert (caught.value.kind, caught.value.status) == ('usage', 2)


def test_a_link_of_another_version_asks_for_an_update():
    for version in ('2', '01', 'a', '11'):
        with pytest.raises(Problem, match='version') as caught:
            parse(LINK.replace(':1/', f':{version}/'))
        assert 'newest' in caught.value.hint


def test_the_link_with_parameters_that_never_was_is_refused():
    with pytest.raises(Problem):
        parse(f'codex-login:add?v=1&name=work&user=ana&host=server&port=22&key=SHA256:{KEYS[0]}')


def test_a_megabyte_is_refused_at_once():
    for text in ('x' * 10**6, 'codex-login:1/' + 'x' * 10**6, 'ashell:' + '%20' * 10**6, LINK + '/' * 10**6):
        with pytest.raises(Problem, match='too long'):
            parse(text)


def test_random_damage_is_refused_or_harmless():
    """Whatever is accepted is made of safe characters, and says the same when it is written again."""
    chance = random.Random(7)
    alphabet = string.printable + 'éа\u202e\u2028\x1b\0'
    starts = [LINK, link_with(host='2001:db8::5'), 'ashell:codex_login%20--add%20' + LINK,
              'pythonista3://codex_login.py?action=run&argv=--add&argv=' + LINK]
    accepted = 0
    for _ in range(20000):
        text = list(chance.choice(starts))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(text))
            text[place:place + chance.randint(0, 2)] = chance.choices(alphabet, k=chance.randint(0, 2))
        try:
            pairing = parse(''.join(text))
        except Problem as problem:
            assert problem.kind in ('pairing', 'usage')
            continue
        accepted += 1
        assert re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_-]*', pairing.name)
        assert re.fullmatch(r'[A-Za-z0-9_][A-Za-z0-9._@-]*', pairing.user)
        assert re.fullmatch(r'[a-z0-9:][a-z0-9:.-]*', pairing.host)
        assert 1 <= pairing.port <= 65535
        keys = [fingerprint[7:].replace('+', '-').replace('/', '_') for fingerprint in pairing.fingerprints]
        assert parse(link_with(pairing.name, pairing.user, pairing.host, str(pairing.port), keys)) == pairing
    assert accepted > 1000


def test_the_summary_fits_a_phone_and_hides_nothing():
    pairing = PAIRING._replace(host='a' * 60 + '.' + 'b' * 60 + '.example')
    summary = codex_login.pairing_summary(pairing)
    assert max(map(len, summary.splitlines())) <= 40
    shown = re.sub(r'\s', '', summary)
    for value in (pairing.name, pairing.host, '2222', pairing.user, *pairing.fingerprints):
        assert value in shown


# The ssh configuration -----------------------------------------------------------------------------

ENTRY = 'Host work\n    HostName server.example.org\n    Port 2222\n    User ana\n'


def test_a_first_server_makes_the_configuration():
    assert codex_login.config_with_host('', PAIRING) == ENTRY


@pytest.mark.parametrize('others', [
    'Host *\n  User bob\n',
    '# mine\n\nHost a b !c\n\tPort 1\n\nMatch user x\n  Port 2',
    'Host backup\r\n  Port 1\r\n',
    'Host wor?\n',
    'Host backup # Host work\n  Port 1\n  # Host work\n',
    '  host = "a b"  \n\x0c weird \x0b\u2028 Host work\n',
])
def test_other_entries_keep_every_byte_and_lose_every_tie(others):
    changed = codex_login.config_with_host(others, PAIRING)
    assert changed.endswith(others)
    assert changed.replace('\r\n', '\n').startswith(ENTRY + '\n')
    if '\r\n' in others:
        assert changed.count('\r\n') == changed.count('\n')
    assert codex_login.config_with_host(changed, PAIRING) == changed


def test_lines_for_every_host_stay_for_every_host():
    others = '# first of all\nServerAliveInterval 9\n\nHost backup\n  Port 1\n'
    changed = codex_login.config_with_host(others, PAIRING)
    assert changed == ENTRY + '\nHost *\n' + others
    assert codex_login.config_with_host(changed, PAIRING) == changed


def test_an_entry_of_the_same_name_is_replaced_alone():
    before = ('# one\nHost one\n  Port 1\n\n# about work\nhost "work" # old\n  ProxyCommand nc %h\n'
              '  # inside\n\n  Port 3\n\n# about two\nHost two\n  Port 2\n\nHost work\n  User old\n')
    assert 'work' in entries(before)
    assert codex_login.config_with_host(before, PAIRING) == (
        ENTRY + '\n# one\nHost one\n  Port 1\n\n# about work\n# about two\nHost two\n  Port 2\n\n')


def test_an_entry_shared_with_other_names_stays():
    shared = 'Host work play\n  Compression yes\n'
    assert codex_login.config_with_host(shared, PAIRING) == ENTRY + '\n' + shared


def entries(text):
    return codex_login.host_entries(codex_login.read_config('config', '', lambda path: text, None))


def test_the_menu_shows_names_and_no_patterns():
    text = ('Host one *.example two # three\nHOST="four"\nHostName five\nMatch host six\nHost !seven ? one\n'
            'Host -eight\n\tHost\tnine\n# Host ten\n')
    assert entries(text) == ['one', 'two', 'four', 'nine']


@needs_ssh
def test_ssh_itself_sees_the_new_server_and_the_others_as_before(tmp_path):
    """Random configurations, read by OpenSSH before and after."""
    chance = random.Random(11)
    names = ['work', 'one', 'two', 'three']

    def setting():
        return chance.choice(['  User u{0}', '\tPort {0}', 'HostName=h{0}', ' Compression yes', '# see {0}',
                              '', '  ServerAliveInterval {0}']).format(chance.randint(1, 99))

    def header():
        patterns = chance.choice(['*', 'work', '"work"', 'w*', ' '.join(chance.sample(names, 2)),
                                  '* !' + chance.choice(names), chance.choice(names)])
        return chance.choice(['Host {}', 'host = {}', '  HOST\t{}', 'Match originalhost *']).format(patterns)

    def settings_of(text, name):
        file = tmp_path / 'config'
        file.write_bytes(text.encode())
        command = ['ssh', '-G', '-F', file, name]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    for _ in range(40):
        lines = [setting() for _ in range(chance.choice([0, 0, 2]))]
        for _ in range(chance.randint(0, 4)):
            lines += [header()] + [setting() for _ in range(chance.randint(0, 3))]
        text = chance.choice(['\n', '\n', '\r\n']).join(lines)
        changed = codex_login.config_with_host(text, PAIRING)
        new = {'hostname server.example.org', 'port 2222', 'user ana'}
        assert new <= set(settings_of(changed, 'work').splitlines()), changed
        other = chance.choice(names[1:] + ['elsewhere'])
        assert settings_of(changed, other) == settings_of(text, other), changed
        assert codex_login.config_with_host(changed, PAIRING) == changed


# What pair_phone.py finds out ----------------------------------------------------------------------


def test_the_link_names_this_machine_and_pins_its_keys(run):
    status, output, errors = run()
    assert (status, errors) == (0, '')
    assert pairing_in(output) == Pairing('work', '198.51.100.7', 22, 'ana', FINGERPRINTS)
    for text in ('holds no secret', 'work', 'ana', '198.51.100.7', *FINGERPRINTS):
        assert text in output


@pytest.mark.parametrize('connection, host, port', [
    ('192.0.2.9 50000 203.0.113.5 2222', '203.0.113.5', 2222),
    ('2001:db8::9 50000 2001:db8::5 22', '2001:db8::5', 22),
    ('::ffff:192.0.2.9 50000 ::ffff:203.0.113.5 22', '203.0.113.5', 22),
    ('127.0.0.1 50000 127.0.0.1 2222', '198.51.100.7', 2222),
    ('fe80::9%eth0 50000 fe80::5%eth0 2222', '198.51.100.7', 2222),
    ('::1 50000 ::1 22', '198.51.100.7', 22),
    ('UNKNOWN 65535 UNKNOWN 65535', '198.51.100.7', 65535),
    ('192.0.2.9 50000', '198.51.100.7', 22),
    ('a b c d', '198.51.100.7', 22),
    ('', '198.51.100.7', 22),
])
def test_the_address_is_the_one_the_persons_own_connection_used(run, monkeypatch, connection, host, port):
    monkeypatch.setenv('SSH_CONNECTION', connection)
    pairing = pairing_in(run()[1])
    assert (pairing.host, pairing.port) == (host, port)


def test_the_command_line_has_the_last_word(run, monkeypatch):
    monkeypatch.setenv('SSH_CONNECTION', '192.0.2.9 50000 203.0.113.5 2222')
    _, output, _ = run('--host', '[2001:DB8::7]', '--port', 443, '--user', 'bob', '--name', 'home')
    assert pairing_in(output) == Pairing('home', '2001:db8::7', 443, 'bob', FINGERPRINTS)


def test_sudo_does_not_pair_root(run, monkeypatch):
    monkeypatch.setenv('SUDO_USER', 'carla')
    assert pairing_in(run()[1]).user == 'carla'


def test_a_user_name_that_no_link_carries_is_said(run, monkeypatch):
    monkeypatch.setattr(pair_phone.getpass, 'getuser', lambda: 'DOM\\ana')
    status, _, errors = run()
    assert status == 2 and '--user' in errors


def test_several_addresses_are_a_choice_and_not_a_guess(run, monkeypatch):
    monkeypatch.setattr(pair_phone, 'own_addresses', lambda: ['198.51.100.7', '2001:db8::5'])
    status, output, errors = run()
    assert (status, output) == (2, '')
    assert '--host: 198.51.100.7, 2001:db8::5' in errors


def test_a_private_address_comes_with_a_warning(run):
    warning = 'own network or VPN only'
    assert warning in run('--host', '192.168.1.5')[1]
    assert warning in run('--host', '100.64.0.9')[1]
    assert warning not in run('--host', '8.8.8.8')[1]
    assert warning not in run('--host', 'server.example.org')[1]


@pytest.mark.parametrize('host_name, name', [
    ('server.example.org', 'server'), ('-x', 'x'), ('müller', 'm-ller'), ('a' * 64, 'a' * 32),
    ('203.0.113.5', '203-0-113-5'), ('2001:db8::5', '2001-db8--5'), ('...', 'server'), ('', 'server'),
])
def test_the_name_is_made_to_fit(run, monkeypatch, host_name, name):
    monkeypatch.setattr(pair_phone.socket, 'gethostname', lambda: host_name)
    assert pairing_in(run()[1]).name == name


def test_the_port_comes_from_sshds_configuration(run, machine):
    (machine / 'sshd_config').write_text('#Port 1\nInclude conf.d/*.conf\nPort 3\nPort 4\n')
    assert pairing_in(run()[1]).port == 3
    (machine / 'conf.d').mkdir()
    (machine / 'conf.d' / 'a.conf').write_text('port = 2222\nInclude conf.d/a.conf\n')
    assert pairing_in(run()[1]).port == 2222
    (machine / 'conf.d' / 'a.conf').write_text('Port 99999\n')
    assert pairing_in(run()[1]).port == 3


def test_host_keys_named_in_sshds_configuration_are_the_ones_pinned(run, machine):
    (machine / 'other.pub').write_text(ECDSA + '\n')
    (machine / 'sshd_config').write_text(f'HostKey "{machine}/other"\nHostKey {machine}/missing\n')
    assert pairing_in(run()[1]).fingerprints == FINGERPRINTS[1:2]


def test_a_machine_without_readable_host_keys_is_no_server(run, machine):
    for file in machine.glob('*.pub'):
        file.unlink()
    status, output, errors = run()
    assert (status, output) == (1, '')
    assert 'no public host key' in errors and '--keys' in errors


def test_another_machine_is_paired_by_what_this_one_knows_of_it(run, machine, tmp_path, monkeypatch):
    monkeypatch.setenv('SSH_CONNECTION', '192.0.2.9 50000 203.0.113.5 2222')
    known = tmp_path / 'known'
    known.write_text(f'# Host far found: line 2\nfar.example {RSA}\n|1|salt|hash= {ED25519}\n'
                     f'@revoked far.example {ECDSA}\nfar.example ssh-dss AAAAB3NzaC1kc3MAAACB\n'
                     f'far.example ssh-ed25519 !\nfar.example ssh-rsa {ED25519.split()[1]}\n')
    _, output, _ = run('--keys', known, '--host', 'far.example')
    assert pairing_in(output) == Pairing('far', 'far.example', 22, 'ana', (FINGERPRINTS[0], FINGERPRINTS[2]))
    status, _, errors = run('--keys', known)
    assert status == 2 and '--host' in errors


def test_what_pair_phone_accepts_the_phone_accepts(run):
    """Random and hostile arguments: a usage error, or a link that the phone understands the same way."""
    chance = random.Random(3)
    pieces = ['a', 'Z', '9', '-', '.', '_', '@', ':', '::', 'xn--', '0x', '127.0.0.1', '2001:db8', 'é', ' ',
              '/', '%', '\n', 'server', '[', ']', 'x' * 31, 'y' * 63]
    linked = 0
    for _ in range(1500):
        option = chance.choice(['--host', '--user', '--name', '--port'])
        value = ''.join(chance.choices(pieces, k=chance.randint(0, 4)))
        status, output, _ = run(f'{option}={value}')
        if status:
            assert (status, output) == (2, '')
            continue
        linked += 1
        pairing = pairing_in(output)
        if option in ('--user', '--name'):
            assert getattr(pairing, option[2:]) == value
    assert linked > 100


def program(machine, *changes):
    """Source of a program that is pair_phone.py at that machine, with changes."""
    return '\n'.join([
        'import importlib.util, sys',
        f'spec = importlib.util.spec_from_file_location("pair_phone", {str(PAIR_PHONE)!r})',
        'pair_phone = importlib.util.module_from_spec(spec)',
        'spec.loader.exec_module(pair_phone)',
        f'pair_phone.SSH_FOLDER = {str(machine)!r}',
        *changes,
        'sys.exit(pair_phone.main())'])


def audited(machine, *arguments):
    """Run pair_phone.py, noting what it opens and asks of the network: how it ended, and the notes."""
    noted = machine.parent / 'noted'
    code = program(
        machine,
        f'noted = open({str(noted)!r}, "w")',
        'def note(event, details):',
        '    if event in ("open", "os.system", "subprocess.Popen") or event.startswith("socket."):',
        '        kind = details[0].type.name if event == "socket.connect" else details[0] if details else ""',
        '        noted.write(f"{event} {kind}\\n")',
        'sys.addaudithook(note)')
    environment = {key: value for key, value in os.environ.items() if key != 'SSH_CONNECTION'}
    done = subprocess.run([sys.executable, '-c', code, *arguments], env=environment, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)
    return done, noted.read_text()


def test_nothing_private_is_opened_and_nothing_is_sent(machine):
    done, noted = audited(machine, '--host', '203.0.113.5')
    assert done.returncode == 0
    opened = re.findall(r'^open (.*)', noted, re.M)
    assert f'{machine}/ssh_host_ed25519_key.pub' in opened
    assert [path for path in opened if re.search(r'_key$|/\.ssh/|id_|shadow', path)] == []
    assert 'subprocess' not in noted and 'os.system' not in noted

    done, noted = audited(machine)  # looks for the machine's addresses
    asked = set(re.findall(r'^socket\.(.*)', noted, re.M))
    assert 'connect SOCK_DGRAM' in asked  # a route is looked up; a packet would be a send
    assert not [event for event in asked if re.match('getaddrinfo|gethostby|send|connect SOCK_STREAM', event)]


def test_the_machines_addresses_are_its_own_and_reachable():
    addresses = pair_phone.own_addresses()
    assert addresses == pair_phone.reachable(addresses)
    assert not [address for address in addresses if re.match(r'127\.|::1$|fe80|169\.254', address)]
    elsewhere = ['127.0.0.1', '::1', 'fe80::1', 'fe80::1%eth0', '', '0.0.0.0', '::']
    assert pair_phone.reachable(elsewhere + ['10.0.0.2', '10.0.0.2']) == ['10.0.0.2']


def test_an_ipv6_address_that_does_not_last_is_not_offered(monkeypatch, tmp_path):
    table = tmp_path / 'if_inet6'
    monkeypatch.setattr(pair_phone, 'INTERFACES_IPV6', str(table))
    table.write_text('20010db8000000000000000000000005 02 40 00 00     eth0\n'
                     '20010db8000000000000000000000006 02 40 00 01     eth0\n'
                     'fe800000000000000000000000000005 02 40 20 80     eth0\n')
    assert pair_phone.reachable(pair_phone.interface_ipv6()) == ['2001:db8::5']


# The code ------------------------------------------------------------------------------------------

THEMES = {'dark': (30, 208), 'light': (253, 32)}  # background and text, as grey values
CELL_WIDTH, CELL_HEIGHT = 6, 12
COLOURS = {'38;5;16;48;5;231': (255, 0), '0': None}


def screenshot(output, theme, columns=80):
    """What a terminal of that width and theme shows, as a PGM picture."""
    background, text = THEMES[theme]
    lines = []
    for line in output.replace('\r\n', '\n').split('\n'):
        cells, paper, ink = [], background, text
        for colours, character in re.findall(r'\x1b\[([\d;]*)m|(.)', line):
            if character:
                cells.append((character, paper, ink))
            else:
                paper, ink = COLOURS[colours] or (background, text)
        while len(cells) > columns:
            lines.append(cells[:columns])
            cells = cells[columns:]
        lines.append(cells + [(' ', background, text)] * (columns - len(cells)))
    pixels = bytearray()
    for cells in lines:
        for row in range(CELL_HEIGHT):
            upper = row < CELL_HEIGHT // 2
            for character, paper, ink in cells:
                if character in ' ▀▄█':
                    inked = character == '█' or character == ('▀' if upper else '▄')
                    pixels += bytes([ink if inked else paper]) * CELL_WIDTH
                else:
                    pixels += bytes([paper] + [(paper + ink) // 2] * (CELL_WIDTH - 2) + [paper])
    return b'P5 %d %d 255\n' % (columns * CELL_WIDTH, len(lines) * CELL_HEIGHT) + bytes(pixels)


def scanned(picture):
    """What zbar reads in a picture file; several codes would be several lines."""
    seen = subprocess.run(['zbarimg', '--quiet', '--raw', '-Sdisable', '-Sqrcode.enable', picture],
                          capture_output=True, text=True, timeout=60)
    return seen.stdout.rstrip('\n')


def scanned_from_terminal(output, theme, tmp_path):
    picture = tmp_path / f'{theme}.pgm'
    picture.write_bytes(screenshot(output, theme))
    return scanned(picture)


def code_in(output):
    return [line for line in output.splitlines() if re.search('[▀▄█]', line)]


@needs_zbar
@pytest.mark.parametrize('app', ['pythonista', 'a-shell'])
@pytest.mark.parametrize('host', ['host.example', 'a-rather-long-name.region-1.cloud.example', '2001:db8::5'])
def test_the_code_is_scanned_from_dark_and_light_terminals(run, tmp_path, app, host):
    status, output, _ = run('--app', app, '--installed', '--host', host)
    assert status == 0
    for theme in THEMES:
        link = scanned_from_terminal(output, theme, tmp_path)
        assert link in links_in(output)
        assert link.startswith({'pythonista': 'pythonista3:', 'a-shell': 'ashell:'}[app])
        assert parse(link).host == host


@needs_zbar
@pytest.mark.parametrize('theme', THEMES)
def test_a_terminal_without_colours_has_a_drawing_that_scans(run, tmp_path, theme):
    _, output, _ = run('--app', 'pythonista', '--installed', '--plain', theme)
    assert '\x1b' not in output
    assert scanned_from_terminal(output, theme, tmp_path) == links_in(output)[0]


def test_lines_but_the_links_fit_80_columns(run):
    _, output, _ = run('--app=pythonista', '--installed', '--host=192.168.100.100', f'--user={"u" * 40}', '--name=home')
    shown = re.sub(r'\x1b\[[\d;]*m', '', output).splitlines()
    assert max(len(line) for line in shown if not line.startswith(('pythonista3:', 'ashell:'))) <= 80


def test_the_usual_code_takes_at_most_65_columns_and_33_lines(run):
    _, output, _ = run('--app', 'pythonista', '--installed', '--host', 'server.example.org')
    lines = re.findall(r'\x1b\[38;5;16;48;5;231m(.*)\x1b\[0m', output)
    assert len(lines) <= 33 and {len(line) for line in lines} <= {61, 65} and len(lines[0]) <= 65


@needs_zbar
def test_a_code_that_is_too_wide_is_said_and_still_written_as_a_picture(run, tmp_path):
    long = '.'.join(['x' * 60] * 4)
    status, output, errors = run('--app', 'pythonista', '--installed', '--host', long)
    assert status == 1 and 'columns wide' in errors and '--png' in errors
    assert code_in(output) == []
    status, output, _ = run('--app', 'pythonista', '--installed', '--host', long, '--png', tmp_path / 'code.png')
    assert scanned(tmp_path / 'code.png') == links_in(output)[0]


@needs_zbar
def test_the_picture_is_scanned(run, tmp_path):
    picture = tmp_path / 'code.png'
    picture.write_text('old')
    status, output, _ = run('--app', 'a-shell', '--installed', '--png', picture)
    assert status == 0 and f'Written: {picture}' in output
    assert scanned(picture) == links_in(output)[1]
    assert sorted(os.listdir(tmp_path)) == ['code.png', 'ssh']


def test_a_picture_that_cannot_be_written_leaves_nothing(run, tmp_path):
    folder = tmp_path / 'folder'
    folder.mkdir()
    for target in (folder, tmp_path / 'missing' / 'code.png'):
        status, _, errors = run('--app', 'pythonista', '--installed', '--png', target)
        assert status == 1 and 'cannot be written' in errors
    assert sorted(os.listdir(tmp_path)) == ['folder', 'ssh']


def test_without_a_terminal_the_links_are_text_and_the_code_needs_its_app(run, tmp_path):
    status, output, _ = run()
    assert status == 0 and code_in(output) == []
    assert '--app pythonista' in output
    status, output, errors = run('--png', tmp_path / 'code.png')
    assert (status, output) == (2, '') and '--app' in errors


def test_without_qrcode_the_links_are_text_and_the_cure_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, 'qrcode', None)
    status, output, errors = run()
    assert status == 0 and pairing_in(output).name == 'work'
    for cure in ('uv run', 'pip install qrcode', 'apt install python3-qrcode'):
        assert cure in errors
    assert run('--app', 'pythonista')[0] == 1


def test_a_terminal_that_has_no_blocks_is_told(machine):
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0'}
    command = [sys.executable, '-c', program(machine), '--app', 'a-shell', '--installed', '--host', 'server.example']
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1
    assert 'LC_ALL=C.UTF-8' in done.stderr and 'Traceback' not in done.stderr


def test_a_reader_that_has_seen_enough_ends_it_quietly(machine):
    with subprocess.Popen([sys.executable, '-c', program(machine), '--host', 'server.example'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.wait(60) == 1 and process.stderr.read() == ''


def test_a_first_code_fits_a_window_of_80_columns_and_says_what_it_will_do(machine):
    address = f'http://{"x" * 40}.example.org:65535/abcdefgh'
    link = pair_phone.by_address(address, b'a file', 'exec(b)')
    assert len(pair_phone.code_modules(pair_phone.import_qrcode(), link)) <= 80
    server = pair_phone.Server('x' * 10, 'x' * 10, f'{"x" * 40}.example.org', 65535, list(pair_phone.public_keys(ED25519)))
    assert len(pair_phone.code_modules(pair_phone.import_qrcode(), pair_phone.by_scp(server))) <= 80
    for words in (pair_phone.BY_SCP, pair_phone.BY_ADDRESS.format(address=address, digest='0' * 64)):
        assert max(map(len, words.splitlines())) <= 80


def test_an_address_for_the_script_is_pythonistas_alone(run):
    for words in (('--app', 'a-shell'), ('--app', 'pythonista', '--installed')):
        status, _, errors = run(*words, '--from', 'https://example.org/codex_login.py')
        assert status == 2 and '--from is for the first code of Pythonista' in errors
    for address in ("https://example.org/'", 'file:///etc/passwd', 'https://example.org/a b', 'https://example.org/\n'):
        assert run('--app', 'pythonista', '--from', address)[0] == 2


def test_a_script_that_is_not_beside_it_is_said(run, monkeypatch, tmp_path):
    monkeypatch.setattr(pair_phone, 'SCRIPT', str(tmp_path / 'codex_login.py'))
    status, _, errors = run('--app', 'pythonista', '--host', 'server.example')
    assert status == 1 and 'cannot be read' in errors and '--installed' in errors


def test_an_account_that_is_not_here_is_said(run):
    status, _, errors = run('--app', 'a-shell', '--host', 'server.example', '--user', 'no-such-account')
    assert status == 1 and 'no-such-account has no account here' in errors and '--installed' in errors


def test_nobody_who_comes_for_the_script_is_said(run, monkeypatch):
    monkeypatch.setattr(pair_phone, 'PHONE_HAS', 0)
    status, output, errors = run('--app', 'pythonista', '--host', 'server.example')
    assert status == 1 and 'leave this command running' in output
    assert 'nobody fetched it' in errors and '--from' in errors and '--installed' in errors


def test_a_bad_argument_is_a_usage_error(run):
    for argument in ('--port=0', '--app=termius', '--host=-x', '--host=fe80::5%eth0', '--name=a b', '--user=',
                     '--unknown', 'x'):
        assert run(argument)[0] == 2


class Terminal:
    """pair_phone.py on a terminal of its own, with somebody who types."""

    def __init__(self, machine, *arguments, addresses=('198.51.100.7',), rows=50, columns=80):
        code = program(machine, f'pair_phone.own_addresses = lambda: {list(addresses)!r}')
        environment = {key: value for key, value in os.environ.items()
                       if key not in ('SSH_CONNECTION', 'COLUMNS', 'LINES')}
        self.terminal, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
        self.process = subprocess.Popen([sys.executable, '-c', code, *arguments], start_new_session=True,
                                        env={**environment, 'PYTHONUTF8': '1'},
                                        stdin=terminal, stdout=terminal, stderr=terminal,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(terminal)
        self.screen = ''
        self._decoder = codecs.getincrementaldecoder('utf-8')()

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def _read(self, deadline):
        ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f'nothing came after:\n{self.screen}'
        try:
            data = os.read(self.terminal, 65536)
        except OSError:
            data = b''
        self.screen += self._decoder.decode(data)
        return data

    def answer(self, question, text):
        deadline = time.monotonic() + 30
        while question not in self.screen:
            assert self._read(deadline), f'ended without {question!r}:\n{self.screen}'
        before, _, self.screen = self.screen.partition(question)
        os.write(self.terminal, text.encode())
        return before

    def press_until_it_ends(self, key):
        """Press a key as a person does: again where it was lost between the question and the reading."""
        for _ in range(30):
            os.write(self.terminal, key.encode())
            try:
                self.process.wait(1)
                break
            except subprocess.TimeoutExpired:
                pass

    def end(self):
        deadline = time.monotonic() + 30
        while self._read(deadline):
            pass
        return self.process.wait(30)


@needs_zbar
def test_at_a_terminal_the_app_is_asked_for_once_and_the_code_follows(machine, tmp_path):
    with Terminal(machine, '--installed') as terminal:
        terminal.answer('Which app is on the phone?', 'both\n')
        text = terminal.answer('Which app is on the phone?', '2\n')
        assert terminal.end() == 0
        assert 'Scan it' in terminal.screen and 'out of sight' not in terminal.screen
        assert parse(scanned_from_terminal(terminal.screen, 'dark', tmp_path)).host == '198.51.100.7'
        assert text.count('Which address') == 0


def test_at_a_terminal_several_addresses_are_offered(machine):
    for answers, host in ((['2\n'], '2001:db8::5'), (['7\n', 'no way\n', 'far.example\n'], 'far.example')):
        with Terminal(machine, '--installed', addresses=['198.51.100.7', '2001:db8::5']) as terminal:
            for answer in answers:
                terminal.answer('Number, or another name or address:', answer)
            text = terminal.answer('Which app is on the phone?', '1\n')
            assert pairing_in(text.replace('\r', '')).host == host
            assert terminal.end() == 0


def test_a_window_that_is_too_small_is_said(machine):
    with Terminal(machine, '--installed', '--app', 'pythonista', rows=24) as terminal:
        assert terminal.end() == 0
        assert re.search(r'make the window 3\d rows high', terminal.screen)
    with Terminal(machine, '--installed', '--app', 'pythonista', columns=40) as terminal:
        assert terminal.end() == 1
        assert 'too wide for this window' in terminal.screen.replace('\r\n', ' ')
        assert code_in(terminal.screen) == []


@pytest.mark.parametrize('key', ['\x03', '\x04'])
def test_leaving_a_question_is_a_cancel(machine, key):
    with Terminal(machine, '--installed') as terminal:
        terminal.answer('Which app is on the phone?', '')
        terminal.press_until_it_ends(key)
        assert terminal.end() == 130
        assert 'Traceback' not in terminal.screen
