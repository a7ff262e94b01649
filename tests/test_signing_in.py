"""Signing in to the server as ssh does: host keys, keys and agents, what is asked of whom and when, what the server says.

Where ssh can be asked, it is: the same words to both, at a real sshd.
"""

import base64
import contextlib
import importlib
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
import threading

import embedded
import pytest
import sshd
from accepting import Accepting
from embedded import EmbeddedServer, free_port
from harness import PATIENCE, SCRIPT, Home, Script
from oracle import Oracle
from oracle import missing as ssh_missing
from sshd import Sshd
from test_login import failure, forget_keys
from waiting import until

sys.path.insert(0, str(SCRIPT.parent))
codex_login = importlib.import_module('codex_login')

WITH_SSH = pytest.mark.skipif(bool(why := sshd.missing() or ssh_missing()), reason=str(why))


@pytest.fixture(scope='module')
def at_server():
    """One real server for all: nobody changes it."""
    with Sshd() as server:
        yield server


@pytest.fixture
def at_home(tmp_path, at_server):
    """A home that knows the real server, and has no key yet."""
    home = Home(tmp_path / 'with-ssh')
    home.trust(at_server)
    return home


@pytest.fixture
def oracle(at_server, at_home):
    return Oracle(at_server, at_home)


def keygen(path, *options, passphrase=''):
    subprocess.run(['ssh-keygen', '-q', '-N', passphrase, '-C', path.name, '-f', path, *options], check=True, capture_output=True)
    return path


def public(path):
    return path.with_name(path.name + '.pub').read_text()


def gets_in(both):
    """Both got in; what the script said beside it."""
    assert both.same('stdout', 'status').stdout == b'in\n'
    return both.script.stderr.decode()


# --- One bad element stops nothing --------------------------------------------------------------------------

def bad_key(folder, kind):
    """The path of an IdentityFile that is of no use, as ssh sees it."""
    path = folder / f'bad {kind}'
    if kind == 'missing':
        return path
    if kind == 'folder':
        path.mkdir()
        return path
    other = keygen(folder / 'other', '-t', 'ed25519')
    body = other.read_text()
    path.write_text({
        'public half': public(other), 'of PuTTY': 'PuTTY-User-Key-File-3: ssh-ed25519\n', 'text': 'hello\n', 'empty': '',
        'damaged': body[:150] + body[-40:], 'readable by others': body,
        'handle of a security key': embedded_handle()}[kind])
    path.chmod(0o644 if kind == 'readable by others' else 0o600)
    return path


def embedded_handle():
    """The file of a FIDO key: a handle, and nothing that signs."""
    def string(data):
        return struct.pack('>I', len(data)) + data
    blob = string(b'sk-ssh-ed25519@openssh.com') + string(bytes(32)) + string(b'ssh:')
    private = bytes(8) + blob + b'\1' + string(b'handle') + string(b'') + string(b'comment')
    private += bytes(range(1, 1 + -len(private) % 8))
    body = b'openssh-key-v1\0' + string(b'none') * 2 + string(b'') + struct.pack('>I', 1) + string(blob) + string(private)
    return f'-----BEGIN OPENSSH PRIVATE KEY-----\n{base64.b64encode(body).decode()}\n-----END OPENSSH PRIVATE KEY-----\n'


BAD_KEYS = ['missing', 'folder', 'public half', 'of PuTTY', 'text', 'empty', 'damaged', 'readable by others',
            'handle of a security key']


@WITH_SSH
@pytest.mark.parametrize('kind', BAD_KEYS)
def test_a_key_that_cannot_be_used_is_passed_over_with_a_line(oracle, at_home, at_server, kind):
    bad = bad_key(at_home.folder, kind)
    good = at_home.make_key(at_server, 'of_this_phone')
    at_home.config.write_text(f'Host *\n  IdentityFile "{bad}"\n  IdentityFile {good}\n')
    said = gets_in(oracle.run(command='echo in'))
    assert sum(str(bad) in line for line in said.splitlines()) == 1 and 'Traceback' not in said


@pytest.mark.parametrize('kind', BAD_KEYS)
def test_a_key_that_cannot_be_used_does_not_keep_the_password_from_being_asked(run, server, home, kind):
    forget_keys(home)
    script = run('-i', bad_key(home.folder, kind), json_events=False, terminal=True, command=('true',))
    script.answer('password:', server.password)
    assert script.wait() == 0


@WITH_SSH
def test_where_two_keys_are_wanted_the_next_one_follows(tmp_path):
    with Sshd(AuthenticationMethods='publickey,publickey') as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        home.make_key(server, 'id_ed25519')
        server.authorize(public(keygen(home.ssh / 'id_ecdsa', '-t', 'ecdsa')))
        gets_in(Oracle(server, home).run(command='echo in'))


@WITH_SSH
def test_a_known_hosts_that_cannot_be_written_is_a_warning(oracle, at_home, at_server):
    at_home.make_key(at_server)
    at_home.known_hosts.unlink()
    nowhere = '/proc/self/known_hosts'      # where nobody can make a file, not even root
    said = gets_in(oracle.run('-o', 'StrictHostKeyChecking=accept-new', '-o', f'UserKnownHostsFile={nowhere}', command='echo in'))
    assert nowhere in said


# --- Agents -------------------------------------------------------------------------------------------------

class FalseAgent(Accepting):
    """An ssh-agent that lists some keys, and signs with none."""

    def __init__(self, folder, *blobs, silent=False):
        self.path, self.blobs, self.silent, self.asked = str(folder / 'agent'), blobs, silent, []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()

    def _serve(self, sock):
        with sock, sock.makefile('rb') as stream:
            while size := int.from_bytes(stream.read(4), 'big'):
                kind = stream.read(size)[0]
                self.asked.append(kind)
                if self.silent:
                    continue
                answer = b'\x05'
                if kind == 11:
                    answer = b'\x0c' + struct.pack('>I', len(self.blobs)) + b''.join(
                        struct.pack('>I', len(part)) + part for blob in self.blobs for part in (blob, b'a comment'))
                sock.sendall(struct.pack('>I', len(answer)) + answer)


def blob_of(path):
    return base64.b64decode(public(path).split()[1])


@WITH_SSH
def test_an_agent_that_lists_a_key_and_refuses_to_sign_is_passed_over(oracle, at_home, at_server, monkeypatch):
    lost, good = (at_home.make_key(at_server, name) for name in ('lost', 'of_this_phone'))
    lost.unlink()
    with FalseAgent(at_home.folder, blob_of(lost)) as agent:
        at_home.config.write_text(f'Host *\n IdentityAgent {agent.path}\n IdentityFile {good}\n')
        said = gets_in(oracle.run('-i', lost, command='echo in'))
    assert 13 in agent.asked and agent.path in said
    # The same key may lie in a file as well.
    (at_home.folder / 'agent').unlink()
    with FalseAgent(at_home.folder, blob_of(good)) as agent:
        with Script(at_home, '-p', at_server.port, 'kim@127.0.0.1', 'true') as script:
            assert script.wait() == 0 and 13 in agent.asked


@WITH_SSH
def test_keys_of_unknown_types_in_an_agent_are_no_hindrance(oracle, at_home, at_server):
    at_home.make_key(at_server)
    odd = [b'\0\0\0\x07ssh-new' + bytes(40), b'', b'\xff' * 9]
    with FalseAgent(at_home.folder, odd[0]) as agent:
        at_home.config.write_text(f'Host *\n IdentityAgent {agent.path}\n')
        gets_in(oracle.run(command='echo in'))
    (at_home.folder / 'agent').unlink()
    with FalseAgent(at_home.folder, *odd) as agent, Script(at_home, '-p', at_server.port, 'kim@127.0.0.1', 'true') as script:
        assert script.wait() == 0 and 11 in agent.asked


def test_an_agent_that_does_not_answer_is_named_and_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(codex_login.Agent, 'LIMIT', 0.1)
    with FalseAgent(tmp_path, silent=True) as agent, pytest.raises(codex_login.Problem, match='does not answer') as raised:
        codex_login.Agent(agent.path).keys()
    assert agent.path in raised.value.message


@pytest.mark.parametrize('left', ['nothing', 'its socket', 'a file'])
def test_an_agent_that_is_gone_is_nothing_to_speak_of(run, server, home, left):
    path = home.folder / 'agent'
    if left == 'its socket':
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    elif left == 'a file':
        path.touch()
    script = run(command=('true',), environment={'SSH_AUTH_SOCK': str(path)})
    assert script.wait() == 0 and 'agent' not in script.stderr


@pytest.fixture
def real_agent(at_home):
    """ssh-agent, and a function that gives it a key."""
    path = str(at_home.folder / 'real-agent')
    with subprocess.Popen(['ssh-agent', '-D', '-a', path], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        at_home.config.write_text(f'Host *\n IdentityAgent {path}\n')
        yield lambda key: subprocess.run(['ssh-add', '-q', key], env={'SSH_AUTH_SOCK': path}, check=True)
        process.terminate()


@WITH_SSH
@pytest.mark.parametrize('type', ['ed25519', 'ecdsa', 'rsa'])
def test_a_public_half_names_a_key_in_the_agent(oracle, at_home, at_server, real_agent, type):
    key = keygen(at_home.folder / 'key', '-t', type)
    at_server.authorize(public(key))
    real_agent(key)
    key.unlink()
    gets_in(oracle.run('-i', f'{key}.pub', '-o', 'IdentitiesOnly=yes', command='echo in'))
    gets_in(oracle.run(command='echo in'))


# --- Certificates -------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def authority(tmp_path_factory):
    return keygen(tmp_path_factory.mktemp('authority') / 'authority', '-t', 'ed25519')


@pytest.fixture(scope='module')
def of_authority(authority):
    """A server that knows no key, but an authority that vouches for keys."""
    with Sshd(TrustedUserCAKeys='/run/lab/authority.pub') as server:
        (server.folder / 'authority.pub').write_text(public(authority))
        yield server


def certify(authority, key, principal='kim'):
    subprocess.run(['ssh-keygen', '-q', '-s', authority, '-I', 'a phone', '-n', principal, f'{key}.pub'],
                   check=True, capture_output=True)
    return key.with_name(f'{key.name}-cert.pub')


@WITH_SSH
@pytest.mark.parametrize('type', ['ed25519', 'ecdsa', 'rsa'])
@pytest.mark.parametrize('where', ['beside the key', 'CertificateFile', 'in the agent', 'beside, and the key in the agent'])
def test_a_certificate_lets_one_in(at_home, authority, of_authority, real_agent, type, where):
    at_home.trust(of_authority)
    key = keygen(at_home.folder / 'key', '-t', type)
    options = ['-i', key]
    certificate = certify(authority, key)
    if where == 'CertificateFile':
        certificate = certificate.rename(at_home.folder / 'elsewhere.pub')
        options += ['-o', f'CertificateFile={certificate}']
    elif where == 'in the agent':
        real_agent(key)
        certificate.unlink()
        key.unlink()
        options = []
    elif where != 'beside the key':
        real_agent(key)
        key.unlink()
    gets_in(Oracle(of_authority, at_home).run(*options, command='echo in'))


@WITH_SSH
def test_a_certificate_of_another_key_or_account_lets_nobody_in(at_home, authority, of_authority):
    at_home.trust(of_authority)
    key, other = (keygen(at_home.folder / name, '-t', 'ed25519') for name in ('key', 'other'))
    certify(authority, other).rename(at_home.folder / 'key-cert.pub')
    said = Oracle(of_authority, at_home).run('-o', 'BatchMode=yes', '-i', key, command='echo in').same('stdout', 'status')
    assert said.status == 255
    certify(authority, key, principal='eve')
    assert Oracle(of_authority, at_home).run('-o', 'BatchMode=yes', '-i', key, command='echo in').same('status').status == 255


# --- The server is asked first, the person last -------------------------------------------------------------

def test_a_passphrase_is_not_asked_for_where_the_server_would_not_take_the_key(run, server, home):
    forget_keys(home)
    home.make_key(passphrase='sesame')
    script = run(json_events=False, terminal=True, command=('true',))
    script.answer('password:', server.password)
    assert script.wait() == 0 and 'assphrase' not in script.screen
    (home.ssh / 'id_ed25519.pub').unlink()      # the file says which key it is as well
    script = run(json_events=False, terminal=True, command=('true',))
    script.answer('password:', server.password)
    assert script.wait() == 0 and 'assphrase' not in script.screen


def test_a_passphrase_is_not_asked_for_where_the_server_wants_passwords(run, server, home):
    forget_keys(home)
    keygen(home.ssh / 'id_rsa', '-t', 'rsa', '-m', 'PEM', passphrase='sesame')
    (home.ssh / 'id_rsa.pub').unlink()          # which key it is, only its passphrase tells
    server.demanded = ('password',)
    script = run(json_events=False, terminal=True, command=('true',))
    script.answer('password:', server.password)
    assert script.wait() == 0 and 'assphrase' not in script.screen and server.count['publickey'] == 0


def test_a_passphrase_is_typed_once_for_a_key_that_the_server_takes_and_not_again_for_a_reconnect(run, server, home):
    forget_keys(home)
    home.make_key(server, passphrase='sesame')
    script = run('-N', '-D', '0', json_events=False, terminal=True)
    script.answer('assphrase', 'sesame')
    script.wait_for_text('Tunnels are open')
    server.cut()
    script.wait_for_text('Connected again')
    script.interrupt()
    assert script.wait() == 130 and script.screen.count('Passphrase of') == 1


@WITH_SSH
def test_a_server_that_ends_the_connection_at_a_key_and_takes_no_proof_lets_one_in(tmp_path):
    with EmbeddedServer(opens_to='none') as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        home.make_key(server)
        for _ in range(2):
            gets_in(Oracle(server, home).run(command='echo in'))
        assert server.count['publickey'] == 0


@WITH_SSH
def test_an_sshd_that_wants_no_proof_lets_one_in(tmp_path):
    with Sshd(AuthenticationMethods='none', PermitEmptyPasswords='yes', PasswordAuthentication='yes') as server:
        shadow = server.folder / 'etc' / 'shadow'
        shadow.write_text(shadow.read_text().replace('kim:*:', 'kim::'))
        home = Home(tmp_path / 'home')
        home.trust(server)
        home.make_key()
        gets_in(Oracle(server, home).run(command='echo in'))


def test_a_link_in_a_banner_is_shown_while_the_server_waits_for_the_visit(run, server):
    server.opens_to, server.slowness, server.banner = 'a visit', 1000, 'To sign in, visit https://login.example/a/1'
    script = run(json_events=False, terminal=True, command=('true',))
    script.wait_for_text('visit https://login.example/a/1')
    server.go_on()
    assert script.wait() == 0


@pytest.mark.parametrize('version, first', [
    ('SSH-2.0-OpenSSH_9.9', 'key'), ('SSH-2.0-dropbear_2022.83', 'key'), ('SSH-2.0-Tailscale', 'none'), ('SSH-2.0-x OpenSSH', 'none')])
def test_what_is_said_first_is_what_the_kind_of_server_takes(run, server, version, first):
    server.version, server.bad_day = version, 'ends at authentication'
    failure(run(command=('true',)))
    assert server.count['ends at authentication'] == 1 and server.count['publickey'] == 0
    server.bad_day = f'ends at {first}'
    failure(run(command=('true',)))
    assert server.count[f'ends at {first}'] == 1


def test_what_a_server_accepted_is_offered_at_once_when_it_is_connected_again(run, server, home):
    home.make_key(name='id_ecdsa')
    (home.ssh / 'id_ed25519').rename(home.ssh / 'id_rsa')
    script = run('-N', '-D', '0')
    script.wait_for('listening')
    assert server.count['publickey'] == 2       # the first one is refused
    server.bad_day = 'ends at none'
    server.cut()
    script.wait_for('reconnected')
    assert server.count['publickey'] == 3 and server.count['ends at none'] == 0


@WITH_SSH
def test_a_key_that_comes_too_early_is_tried_again_when_it_is_wanted(tmp_path):
    with EmbeddedServer(demanded=('password', 'publickey'), version='SSH-2.0-OpenSSH_9.9') as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        home.make_key(server)
        assert ask_ssh(server, home, [server.password])[1] == 0
        with Script(home, '-p', server.port, f'{server.user}@127.0.0.1', 'true', json_events=False, terminal=True) as script:
            script.answer('password:', server.password)
            assert script.wait() == 0


# --- Questions of the server --------------------------------------------------------------------------------

ASKPASS = '''#!/bin/sh
printf '%s\\n' "$1" >> {folder}/asked
head -n 1 {folder}/answers; sed -i 1d {folder}/answers
'''


def ask_ssh(server, home, answers, *options):
    """The questions that ssh asks of a person who gives these answers, and its exit status."""
    (home.folder / 'answers').write_text('\n'.join(answers) + '\n')
    program = home.folder / 'askpass'
    program.write_text(ASKPASS.format(folder=home.folder))
    program.chmod(0o755)
    oracle = Oracle(server, home)
    done = subprocess.run(oracle.ssh_command(*options, *oracle.here, 'true'), stdin=subprocess.DEVNULL, capture_output=True, env={
        **home.environment(), 'SSH_ASKPASS': str(program), 'SSH_ASKPASS_REQUIRE': 'force', 'DISPLAY': ':9'}, timeout=PATIENCE)
    with contextlib.suppress(FileNotFoundError):
        return (home.folder / 'asked').read_text().splitlines(), done.returncode
    return [], done.returncode


GOOGLE = {'password': 'of nobody', 'questions': (('Password: ', 'open'), ('Verification code: ', '123456'))}
ASKED = {
    # What the server wants, options, a person's answers.
    'both, and only questions can succeed': (GOOGLE, [], ['open', '123456']),
    'both, and only passwords can succeed': (
        {'password': 'right', 'questions': (('Code: ', 'of nobody'),)}, [], ['1', '2', '3', 'right']),
    'both, passwords preferred': (GOOGLE, ['-o', 'PreferredAuthentications=password,keyboard-interactive'],
                                  ['a', 'b', 'c', 'open', '123456']),
    'both, no questions wanted': ({'password': 'right', 'questions': (('Code: ', '1'),)},
                                  ['-o', 'KbdInteractiveAuthentication=no'], ['right']),
    'both, no passwords wanted': ({'password': 'right', 'questions': (('Code: ', '1'),)},
                                  ['-o', 'PasswordAuthentication=no'], ['0', '0', '0']),
    'one try': ({'password': 'right'}, ['-o', 'NumberOfPasswordPrompts=1'], ['wrong', 'right']),
    'two tries': ({'password': 'right'}, ['-o', 'NumberOfPasswordPrompts=2'], ['wrong', 'right']),
    'the same question twice': (
        {'password': None, 'questions': (('Password: ', 'a'), 'A code was sent.', ('Password: ', 'b'))}, [], ['a', 'b']),
    'two in one round': ({'password': None, 'questions': ((('First: ', 'a'), ('Second: ', 'b')),)}, [], ['a', 'b']),
    'a password, then a code': ({'password': 'right', 'questions': (('Code: ', '7'),),
                                 'demanded': ('password', 'keyboard-interactive')}, [], ['right', '7']),
    'a code, then a password': ({'password': 'right', 'questions': (('Code: ', '7'),),
                                 'demanded': ('keyboard-interactive', 'password')}, [], ['8', '7', 'wrong', 'right']),
    'both, and questions are never asked': ({'password': 'right', 'questions': (('Code: ', '1'),),
                                             'bad_day': 'refused at questions'}, [], ['wrong', 'right']),
    'no question at all': ({'password': None, 'questions': ('Approved on your phone.',)}, [], []),
}


@WITH_SSH
@pytest.mark.parametrize('case', ASKED)
def test_a_person_is_asked_what_ssh_asks(tmp_path, case):
    attributes, options, answers = ASKED[case]
    with EmbeddedServer(**attributes, max_auth_tries=20) as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        asked, status = ask_ssh(server, home, answers, *options)
        with Script(home, *options, '-p', server.port, f'{server.user}@127.0.0.1', 'true', json_events=False, terminal=True) as script:
            for question, answer in zip(asked, answers):
                script.answer(re.escape(question.split()[-1]), answer)
            assert script.wait() == status, (asked, script.screen)
            words = [line.split()[-1] for line in script.screen.splitlines() if re.search(r':\s*$', line)]
        assert words == [question.split()[-1] for question in asked]
        assert server.count['refused at questions'] in (0, 2)       # once by each of the two


def test_name_and_instruction_are_shown_with_the_question(run, server, home):
    forget_keys(home)
    server.password, server.title, server.instruction = None, 'Duo two-factor login', '1. Push to XXX-4242\n2. Call XXX-4242'
    server.questions = (('Passcode or option (1-2): ', '1'), 'Pushed. Approve it on your phone.')
    script = run(json_events=False, terminal=True, command=('true',))
    script.answer(r'(?s)Duo two-factor login.*1\. Push to XXX-4242.*2\. Call.*Passcode or option \(1-2\):', '1')
    assert script.wait() == 0 and 'Approve it on your phone.' in script.screen


class FakeTransport:
    """A connection on which a server says what it says after so many looks at whether it is still there."""
    server_extensions, last_words, session_id = {}, '', b'id'

    def __init__(self, *says):
        self.says, self.looks, self.sent, self._handler_table = list(says), 0, [], {}

    def is_active(self):
        self.looks += 1
        while self.says and self.looks >= self.says[0][0]:
            _, number, *fields = self.says.pop(0)
            message = codex_login.load_paramiko().Message()
            for field in fields:
                (message.add_boolean if isinstance(field, bool) else message.add_int if isinstance(field, int)
                 else message.add_string)(field)
            message.rewind()
            self._handler_table[number](message)
        return True

    def _send_message(self, message):
        self.sent.append(message.asbytes()[0])

    def _auth_trigger(self):
        pass


def test_a_server_that_has_said_something_is_waited_for_longer(monkeypatch):
    monkeypatch.setattr(codex_login.Authentication, 'LIMIT', 0.5)       # five looks
    with pytest.raises(codex_login.Problem, match='did not answer'):
        codex_login.Authentication(FakeTransport((30, 52)), 'ana').none()
    banner = FakeTransport((2, 53, 'Visit https://x', ''), (30, 52))
    shown = []
    assert codex_login.Authentication(banner, 'ana', shown.append).none() is True
    assert shown == ['Visit https://x']
    pushed = FakeTransport((2, 60, '', 'Pushed.', '', 0), (30, 52))
    assert codex_login.Authentication(pushed, 'ana').interactive(lambda *round: []) is True


def test_the_banner_is_shown_once_however_often_it_is_connected_again(run, server):
    server.banner = 'Authorised use only.'
    script = run('-N', '-D', '0', json_events=False, terminal=True)
    script.wait_for_text('Tunnels are open')
    server.cut()
    script.wait_for_text('Connected again')
    script.interrupt()
    assert script.wait() == 130 and script.screen.count('Authorised use only.') == 1


def test_a_server_that_talks_on_and_on_fills_no_memory():
    transport = FakeTransport(*[(1, 53, f'banner {number}', '') for number in range(1000)])
    with pytest.raises(codex_login.load_paramiko().SSHException, match='on and on'):        # which ends the connection
        codex_login.Authentication(transport, 'ana').none()


def test_a_password_that_has_to_be_changed_is_called_that():
    expired = FakeTransport((2, 60, 'Your password has \x1b[2Jexpired.', ''))
    with pytest.raises(codex_login.Problem, match='wants a new password: Your password has expired.') as raised:
        codex_login.Authentication(expired, 'ana').password('old')
    assert 'ssh' in raised.value.hint


# --- The end of a connection --------------------------------------------------------------------------------

@WITH_SSH
def test_too_many_keys_end_as_with_ssh_and_in_the_servers_words(tmp_path):
    with Sshd(MaxAuthTries=2) as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        for name in ('id_ed25519', 'id_ecdsa', 'id_rsa'):
            home.make_key(name=name)
        both = Oracle(server, home).run('-o', 'BatchMode=yes', command='echo in')
        assert both.same('stdout', 'status').status == 255
        assert b'Too many authentication failures' in both.ssh.stderr
        said = both.script.stderr.decode()
        assert 'ended the connection' in said and 'Too many authentication failures' in said and 'No existing session' not in said


@WITH_SSH
def test_a_person_who_took_too_long_is_told_so_and_asked_nothing_more(tmp_path):
    with Sshd(LoginGraceTime=1, PasswordAuthentication='yes') as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        with Script(home, '-p', server.port, 'kim@127.0.0.1', 'true', json_events=False, terminal=True) as script:
            script.wait_for_text('password:')
            until(lambda: server.serves() == 0)
            script.answer('password:', 'too late')
            assert script.wait() == 255
            assert 'ended the connection' in script.screen and script.screen.count('password:') == 1
            assert 'LoginGraceTime' in script.screen


@pytest.mark.parametrize('step', ['key exchange', 'key', 'authentication'])
def test_last_words_are_shown_harmless_and_not_for_ever(run, server, step):
    server.bad_day, server.farewell = f'goodbye at {step}', '\x1b]0;mine\x07Closed for \u202eto' + 'day' * 1000
    message = failure(run(command=('true',)))['message']
    assert 'ended the connection' in message and 'Closed for today' in message and len(message) < 400


@pytest.mark.parametrize('words', ['Exceeded MaxStartups', 'Not allowed at this time'])
def test_a_busy_server_is_called_busy(run, server, words):
    server.pretend(words.encode() + b'\r\n')
    error = failure(run(command=('true',)), kind='busy')
    assert words in error['message'] and 'minutes' in error['hint'] and 'not an SSH server' not in error['message']


@WITH_SSH
@pytest.mark.parametrize('lines, in_time', [(1000, True), (1023, True), (2000, False)])
def test_lines_before_the_version_are_read_as_ssh_reads_them(tmp_path, lines, in_time):
    with EmbeddedServer() as server, Foreword(server, lines) as before:
        home = Home(tmp_path / 'home')
        home.known_hosts.write_text(server.known_hosts().replace(f':{server.port}', f':{before.port}'))
        home.make_key(server)
        to = ['-p', str(before.port), f'{server.user}@127.0.0.1']
        assert Oracle(server, home).run(to=to, command='echo in').same('stdout', 'status').stdout == b'in\n' * in_time


class Foreword(Accepting):
    """Passes connections on to a server, and has it say some lines first."""

    def __init__(self, server, lines):
        self._to, self._lines = (server.address, server.port), lines
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]

    def _serve(self, sock):
        with contextlib.suppress(OSError), socket.create_connection(self._to) as server, sock:
            sock.sendall(b'All of this is to be read.\r\n' * self._lines)
            threading.Thread(target=self._carry, args=(sock, server), daemon=True).start()
            self._carry(server, sock)

    @staticmethod
    def _carry(one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@WITH_SSH
@pytest.mark.parametrize('command', ['echo', 'echo >&2', 'printf', 'printf >&2'])
def test_what_a_session_says_that_ends_at_once_is_shown(tmp_path, command):
    words, _, stream = command.partition(' ')
    with Sshd(ForceCommand=f'{words} "Down for maintenance." {stream}; exit 7') as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        home.make_key(server)
        both = Oracle(server, home).run(command='echo in')
        assert both.ssh.status == 7 and b'maintenance.' in both.ssh.stdout + both.ssh.stderr
        said = both.script.stderr.decode()
        assert both.script.status == 255 and said.count('Down for maintenance.') == 1


@WITH_SSH
@pytest.mark.parametrize('options', [{'MaxSessions': 0}, {'ChrootDirectory': '/no/such/folder'}], ids=str)
def test_a_session_that_cannot_be_had_is_asked_for_three_times_at_most(tmp_path, options):
    with Sshd(**options) as server:
        home = Home(tmp_path / 'home')
        home.trust(server)
        home.make_key(server)
        both = Oracle(server, home).run(command='echo in')
        assert both.same('stdout', 'status').status == 255
        assert server.connections <= 1 + 3


# --- Host keys ----------------------------------------------------------------------------------------------

ED25519 = 'ssh-ed25519 ' + base64.b64encode(struct.pack('>I11sI', 11, b'ssh-ed25519', 32) + bytes(32)).decode()


def line_of(server, kind='ed25519', *, seed=None, name=None):
    key = embedded.host_key(kind, seed or server.seed)
    return f'{name or f"[127.0.0.1]:{server.port}"} {key.get_name()} {key.get_base64()}\n'


def test_a_long_known_hosts_is_read_once_and_only_what_may_be_meant_is_looked_at(run, server, home, monkeypatch):
    lines = [f'host{number}.example.org,192.0.2.{number % 256} {ED25519}\n' for number in range(20_000)]
    home.known_hosts.write_text(''.join(lines) + line_of(server))
    read, matched = [], []
    monkeypatch.setattr(codex_login, 'open', counted(open, read), raising=False)
    monkeypatch.setattr(codex_login, 'names_match', counted(codex_login.names_match, matched))
    settings = codex_login.find_settings(codex_login.Destination(server.user, '127.0.0.1', server.port), device_of(home))
    keys = codex_login.HostKeys(settings, device_of(home))
    assert keys.types() == ['ssh-ed25519']
    keys.check(embedded.host_key('ed25519').asbytes())
    assert len(matched) == 1
    assert [path for path, *_ in read].count(str(home.known_hosts)) == 1
    assert run(command=('true',)).wait() == 0


def counted(function, calls):
    def count(*arguments, **named):
        calls.append(arguments)
        return function(*arguments, **named)
    return count


def device_of(home):
    device = codex_login.Device(alone=True)
    device.home, device.ssh_folder = str(home.folder), str(home.ssh)
    device.state_folder = str(home.folder / '.local' / 'state' / 'codex-login')
    return device


@WITH_SSH
@pytest.mark.parametrize('line', [
    '{name} {key}', '\t{name}\t{key}', '{name}  {key}\r', 'a,{name},b {key} a comment', 'x\x0b\n{name} {key}',
    'other {key}\x0b{name} {key}', 'other {key}\x0c\x1c\n{name} {key}', 'other {key}\u2028{name} {key}', 'other {key}\r{name} {key}',
    '{name}\x0c{key}', '#{name} {key}', ' # {name} {key}', '!{name},* {key}', '[127.0.0.?]:* {key}', '|1|x|y {key}', '@odd {name} {key}'])
def test_lines_of_known_hosts_are_split_where_ssh_splits_them(oracle, at_home, at_server, line):
    at_home.make_key(at_server)
    name, _, key = at_server.known_hosts().strip().partition(' ')
    at_home.known_hosts.write_bytes((line.format(name=name, key=key) + '\n').encode())
    oracle.run('-o', 'StrictHostKeyChecking=yes', command='echo in').same('stdout', 'status')


@WITH_SSH
@pytest.mark.parametrize('strict', ['yes', 'accept-new'])
@pytest.mark.parametrize('known', ['the same', 'another', 'another with the port'])
def test_a_key_known_for_the_host_without_its_port_counts_as_with_ssh(oracle, at_home, at_server, known, strict):
    at_home.make_key(at_server)
    _, _, key = at_server.known_hosts().partition(' ')
    other = f'ssh-ed25519 {embedded.host_key("ed25519").get_base64()}\n'
    at_home.known_hosts.write_text(f'127.0.0.1 {other if known == "another" else key}'
                                   + (f'[127.0.0.1]:{at_server.port} {other}' if known == 'another with the port' else ''))
    before = at_home.known_hosts.read_text()
    oracle.run('-o', f'StrictHostKeyChecking={strict}', command='echo in').same('stdout', 'status')
    if known == 'the same':
        assert at_home.known_hosts.read_text() == before


def test_each_node_of_a_cluster_is_trusted_by_its_own_key(run, server, home):
    home.known_hosts.write_text(line_of(server) + line_of(server, seed=2) + line_of(server, 'ecdsa', seed=3))
    script = run('-N', '-D', '0')
    script.wait_for('listening')
    for kinds, seed in ((('ed25519',), 2), (('ecdsa',), 3), (('ed25519',), 1)):
        server.host_keys, server.seed = kinds, seed
        server.cut()
        script.wait_for('reconnected')
    server.seed = 4
    server.cut()
    assert 'CHANGED' in failure(script, kind='host-key')['message']


@WITH_SSH
def test_the_advice_for_a_changed_key_is_right_when_it_is_followed(run, server, home):
    elsewhere = home.folder / 'kept here'
    for options, file in (((), home.known_hosts), (('-o', f'UserKnownHostsFile="{elsewhere}"'), elsewhere)):
        file.write_text(line_of(server, seed=7))
        error = failure(run(*options, command=('true',)), kind='host-key')
        command = shlex.split(error['hint'].partition('ssh-keygen')[2])
        assert ('-f' in command) == (file == elsewhere)
        default = [] if '-f' in command else ['-f', str(file)]          # ssh-keygen looks in the home of the account
        subprocess.run(['ssh-keygen', *command, *default], check=True, capture_output=True)
        assert run(*options, '-o', 'StrictHostKeyChecking=accept-new', command=('true',)).wait() == 0


@WITH_SSH
@pytest.mark.parametrize('what', ['this key', 'another', 'nothing', 'no file', 'a KRL'])
def test_revoked_host_keys_are_refused_as_with_ssh(oracle, at_home, at_server, what):
    at_home.make_key(at_server)
    key = ' '.join(at_server.known_hosts().split()[1:])
    revoked = at_home.folder / 'revoked'
    if what == 'a KRL':
        (at_home.folder / 'host.pub').write_text(key + '\n')
        subprocess.run(['ssh-keygen', '-q', '-k', '-f', revoked, at_home.folder / 'host.pub'], check=True)
    elif what != 'no file':
        revoked.write_text({'this key': f'# lost\n{key} of old\n', 'another': ED25519 + '\n', 'nothing': ''}[what])
    both = oracle.run('-o', f'RevokedHostKeys={revoked}', command='echo in')
    assert both.same('stdout', 'status').stdout == b'in\n' * (what in ('another', 'nothing'))
    if both.ssh.status:
        assert str(revoked) in both.script.stderr.decode()


@WITH_SSH
def test_a_server_that_only_a_certificate_vouches_for_is_called_that(tmp_path, authority):
    with Sshd(HostCertificate='/run/lab/host-cert.pub') as server:
        home = Home(tmp_path / 'home')
        home.make_key(server)
        key = ' '.join(server.known_hosts().split()[1:])
        (server.folder / 'host.pub').write_text(key + '\n')
        subprocess.run(['ssh-keygen', '-q', '-s', authority, '-I', 'a server', '-h', '-n', '127.0.0.1', server.folder / 'host.pub'],
                       check=True, capture_output=True)
        home.known_hosts.write_text(f'@cert-authority * {public(authority)}')
        both = Oracle(server, home).run(command='echo in')
        assert both.ssh.stdout == b'in\n' and both.script.status == 255
        said = both.script.stderr.decode()
        assert 'certificate' in said and f'{home.known_hosts}, line 1' in said and 'CHANGED' not in said
        # Beside a key that is known it is no hindrance.
        home.known_hosts.write_text(f'@cert-authority * {public(authority)}{server.known_hosts()}')
        gets_in(Oracle(server, home).run(command='echo in'))


@WITH_SSH
def test_known_hosts_of_the_whole_device_may_be_named(oracle, at_home, at_server):
    at_home.make_key(at_server)
    for_all = at_home.known_hosts.rename(at_home.folder / 'for_all')
    at_home.config.write_text(f'Host *\n GlobalKnownHostsFile /no/such/file {for_all}\n StrictHostKeyChecking yes\n')
    gets_in(oracle.run(command='echo in'))


@WITH_SSH
@pytest.mark.parametrize('algorithms', [
    'ssh-ed25519', 'ecdsa-*,ssh-ed25519', 'ecdsa-sha2-nistp256', '-ssh-ed25519', '-ssh-*', '+ssh-ed25519', '^ecdsa-*', '^ssh-ed25519'])
def test_types_of_host_keys_may_be_chosen(tmp_path, algorithms):
    """The server has two; of each the connection says which it was, as known_hosts knows only the one."""
    with EmbeddedServer() as server:
        home = Home(tmp_path / 'home')
        home.make_key(server)
        home.known_hosts.write_text(line_of(server, 'ed25519'))
        Oracle(server, home).run('-o', f'HostKeyAlgorithms={algorithms}', '-o', 'StrictHostKeyChecking=yes',
                                 command='echo in').same('stdout', 'status')


# --- The way there ------------------------------------------------------------------------------------------

@WITH_SSH
@pytest.mark.parametrize('options', [
    ['AddressFamily=inet'], ['AddressFamily=inet6'], ['BindAddress=127.0.0.9'], ['BindAddress=192.0.2.1'], ['ConnectionAttempts=2']])
def test_the_way_to_the_server_is_chosen_as_with_ssh(oracle, at_home, at_server, options):
    at_home.make_key(at_server)
    oracle.run(*(word for option in options for word in ('-o', option)), command='echo ${SSH_CONNECTION%% *}').same('stdout', 'status')


def test_a_server_that_comes_up_late_is_tried_as_often_as_was_said(home, server, monkeypatch):
    tried = []
    monkeypatch.setattr(codex_login.Dialling, 'PAUSE', 0.01)
    reach = codex_login.Dialling._reach

    def late(self, *arguments):
        tried.append(arguments)
        if len(tried) < 3:
            raise ConnectionRefusedError(111, 'Connection refused')
        return reach(self, *arguments)
    monkeypatch.setattr(codex_login.Dialling, '_reach', late)
    settings = codex_login.find_settings(codex_login.Destination('ana', '127.0.0.1', server.port), device_of(home))
    codex_login.Dialling(settings._replace(attempts=3), 5).socket().close()
    with pytest.raises(codex_login.Problem, match='refused'):
        tried.clear()
        codex_login.Dialling(settings._replace(attempts=2), 5).socket()
    assert len(tried) == 2
