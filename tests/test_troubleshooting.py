"""Every text of the troubleshooting in scripts/README.md is provoked: by a row here, or by a story elsewhere.

A row is (the words of the README, what a person does, and on what kind of day). What a story elsewhere provokes stands in
said_elsewhere.py: conftest.py has that story fail where the words were not said.
"""

import contextlib
import pathlib
import re
import socket
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed448
from embedded import free_port
from said_elsewhere import SAID_ELSEWHERE, said_in
from test_pair_phone import codex_login, needs
from test_readme import OF_CHROMIUM, first_column

REDIRECT = 'http://localhost:{port}/auth/callback?code=a-code&state=a-state'
HOST = {'to': 'ana@127.0.0.1'}


def a_day(bad_day):
    return lambda stage: setattr(stage.server, 'bad_day', bad_day)


def another_key(stage):
    stage.server.seed = 2


def nobody_known(stage):
    stage.home.known_hosts.unlink()


def no_key(stage):
    (stage.home.ssh / 'id_ed25519').unlink()


def no_forwarding(stage):
    stage.server.forwarding = 'prohibited'


def no_codex(stage):
    (stage.server.bin / 'codex').unlink()


def says(text):
    """Something at stage.port that says this to whoever comes, and hangs up."""
    def prepare(stage):
        listener = socket.create_server(('127.0.0.1', stage.port))
        stage.stack.callback(listener.close)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as sock:
                        sock.sendall(text)
        threading.Thread(target=serve, daemon=True).start()
    return prepare


def port_is_taken(stage):
    stage.server.announced_port = stage.port
    says(b'')(stage)


def program(text):
    """codex at the server is this."""
    def prepare(stage):
        (stage.server.bin / 'codex').write_text(f'#!/bin/sh\n{text}\n')
    return prepare


def as_usual(stage):
    pass


def kexinit(offer):
    """The packet (RFC 4253) that offers one algorithm of each kind, which has that name."""
    payload = bytes([20]) + bytes(16) + (len(offer).to_bytes(4, 'big') + offer) * 10 + bytes(5)
    padding = 8 - (len(payload) + 5) % 8 + 8
    return (len(payload) + padding + 1).to_bytes(4, 'big') + bytes([padding]) + payload + bytes(padding)


# (words of the README, arguments, where to, what the day is like)
ROWS = [
    ('is not installed at', [], {}, no_codex),
    ('does not allow TCP forwarding', [], {}, no_forwarding),
    ('another program on this device has it', [], {}, port_is_taken),
    ('permission denied', [], {}, no_key),
    ('ended the connection during authentication', [], {}, a_day('goodbye at key')),
    ('The server takes no more connections now.', ['-p', '{port}'], HOST, says(b'Exceeded MaxStartups\r\n')),
    ('The host key of … is not known', [], {}, nobody_known),
    ('The host key of … has CHANGED', [], {}, another_key),
    ('is to say which host keys are revoked', ['-o', 'RevokedHostKeys=/nowhere/at/all'], {}, as_usual),
    ('begins with a dash that is no hyphen', [], {'to': '\u2014finish'}, as_usual),
    ('has a curly quote, which quotes nothing here', [], {'to': 'work\u201d'}, as_usual),
    ('This is the address of a web page', [], {'to': 'https://example.org/'}, as_usual),
    ('What answers at this port is not an SSH server.', ['-p', '{port}'], HOST, says(b'HTTP/1.0 400 Bad Request\r\n\r\n')),
    ('The server closed the connection during the SSH handshake.', [], {}, a_day('ends at version')),
    ('did not finish the SSH handshake within', ['-o', 'ConnectTimeout=1'], {}, a_day('silent at version')),
    ('the server announces a packet of … bytes', ['-p', '{port}'], HOST, says(b'SSH-2.0-odd\r\n\x7f\xff\xff\xfc' + bytes(64))),
    ('The server offers no … that is known here and safe.', ['-p', '{port}'], HOST, says(b'SSH-2.0-odd\r\n' + kexinit(b'rot13'))),
    ('cannot be reached', ['-p', '{port}'], HOST, as_usual),
    ('The host … cannot be found', [], {'to': 'no-such-host.invalid'}, as_usual),
    ('Nobody signed in within … s.', ['--timeout', '1'], {}, as_usual),
    ('There is no address: nothing was copied.', ['--finish'], {'to': '--json'}, as_usual),
    ('These are several redirects of sign-ins.', ['--finish', REDIRECT + ' ' + REDIRECT.replace('a-code', 'another')], {}, as_usual),
    ('No login is waiting.', ['--finish', REDIRECT], {'to': '--json'}, as_usual),
    ('This is no redirect of a sign-in', ['--finish', 'http://example.org/'], {'to': '--json'}, as_usual),
    ('Nothing waits at port … of … any more.', ['--finish', REDIRECT], {}, as_usual),
    ('but its status says', [], {}, program('[ "$2" = status ] && { echo Not logged in; exit 1; }; echo Successfully logged in')),
]
ALL_WORDS = [*first_column('The script says'),
             *(words for words in first_column('On the page in the browser') if not OF_CHROMIUM.match(words))]


class Stage:
    """What a row may change before the script is started."""

    def __init__(self, server, home, stack):
        self.server, self.home, self.stack, self.port = server, home, stack, free_port()


@pytest.mark.parametrize('words, arguments, how, prepare', ROWS, ids=[row[0] for row in ROWS])
def test_these_words_are_said(words, arguments, how, prepare, run, server, home):
    with contextlib.ExitStack() as stack:
        stage = Stage(server, home, stack)
        prepare(stage)
        script = run(*(word.format(port=stage.port) if 'http://localhost' in word or '{port}' in word else word for word in arguments),
                     json_events=False, **how)
        assert script.wait() != 0
        assert said_in(words, script.stdout + script.stderr), script.report()
        assert 'Traceback' not in script.stderr


ASSERTED = {     # what a story of its own asserts, and no run of the script says to this test
    'Something went wrong that nobody expected': 'test_what_nobody_expected_is_said_in_one_line_and_in_full_with_v',
    'The passphrase of … cannot be used on this device.': 'test_a_passphrase_that_this_device_cannot_use_is_said',
    'Keys of this form cannot be used on this device': 'test_a_key_of_another_form_is_said',
}


@needs('ssh-keygen', 'openssh-client')
def test_a_passphrase_that_this_device_cannot_use_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(codex_login, '_has_bcrypt', lambda paramiko: False)
    subprocess.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', 'secret', '-f', tmp_path / 'key'], check=True)
    with pytest.raises(codex_login.Problem) as raised:
        codex_login.load_private_key(str(tmp_path / 'key'), 'secret')
    assert said_in('The passphrase of … cannot be used on this device.', raised.value.message)


def test_a_key_of_another_form_is_said(tmp_path):
    key = ed448.Ed448PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / 'key').write_bytes(key)
    (tmp_path / 'key').chmod(0o600)
    with pytest.raises(codex_login.Problem) as raised:
        codex_login.load_private_key(str(tmp_path / 'key'))
    assert said_in('Keys of this form cannot be used on this device', raised.value.message)


def test_every_text_of_the_readme_is_provoked():
    assert [words for words in ALL_WORDS if words not in {row[0] for row in ROWS} | SAID_ELSEWHERE.keys() | ASSERTED.keys()] == []
    assert [words for words in [*(row[0] for row in ROWS), *SAID_ELSEWHERE, *ASSERTED] if words not in ALL_WORDS] == []


def test_every_story_that_provokes_one_is_there():
    tests = {name for path in pathlib.Path(__file__).parent.glob('test_*.py')
             for name in re.findall(r'^def (test_\w+)', path.read_text(encoding='utf-8'), re.MULTILINE)}
    assert [name for name in [*SAID_ELSEWHERE.values(), *ASSERTED.values()] if name.partition('[')[0] not in tests] == []
