"""The words that a person writes in front of `login` and behind it, and what the program's own status says: the same safeguards for all.

The stand-in codex revokes the present login when it begins, as the real one does: whoever starts it unasked signs people out.
"""

import json
import os

import pytest
from harness import Browser
from test_login import CTRL_D, auth_file, failure, home_stays_clean, names
from test_security import hurried

assert home_stays_clean         # for every test here as well

ELSEWHERE = """#!/bin/sh
while [ $# -gt 0 ] && [ "$1" != codex ]; do shift; done
HOME={home} exec "$@"
"""


def has_elsewhere(server, name):
    """A program that runs codex for somebody else: as another account, in a container, at another server."""
    path = server.bin / name
    path.write_text(ELSEWHERE.format(home=server.home / 'elsewhere'))
    path.chmod(0o755)


def has_npx(server):
    path = server.bin / 'npx'
    path.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in -y|@openai/*) shift;; *) break;; esac; done\nexec codex "$@"\n')
    path.chmod(0o755)


def has_it_in_its_home(server):
    (server.bin / 'codex').unlink()
    server.install('codex', server.home / '.local/bin')


WORDS = {
    'CODEX_HOME=~/x codex login': ('x', None),
    'env X=y codex login': ('.codex', None),
    'codex -c model=o3 login': ('.codex', None),
    'codex login -c model=o3': ('.codex', None),
    '~/.local/bin/codex login': ('.codex', has_it_in_its_home),
    '$HOME/.local/bin/codex login': ('.codex', has_it_in_its_home),
    'npx -y @openai/codex@latest login': ('.codex', has_npx),
    'sudo -u bob codex login': ('elsewhere/.codex', lambda server: has_elsewhere(server, 'sudo')),
    'docker exec -i box codex login': ('elsewhere/.codex', lambda server: has_elsewhere(server, 'docker')),
    'ssh inner codex login': ('elsewhere/.codex', lambda server: has_elsewhere(server, 'ssh')),
    'sh -c "cd / && codex login"': ('.codex', None),
    'codex login --device-auth': ('.codex', None),
    'codex login --with-api-key': ('.codex', None),
}


@pytest.fixture(params=WORDS, ids=lambda line: line.replace('/', '\u2215'))
def line(request, server):
    """A way to write it. The login that is there is a file of this path, `server.present`."""
    folder, prepare = WORDS[request.param]
    if prepare:
        prepare(server)
    server.present = server.home / folder / 'auth.json'
    return request.param


def sign_in_before(server):
    server.present.parent.mkdir(parents=True)
    server.present.write_text('{"tokens": {"id_token": "x.eyJlbWFpbCI6ICJhbmFAZXhhbXBsZS5jb20ifQ.y"}}')
    return server.present.read_text()


@pytest.mark.quick
def test_a_present_login_is_said_and_kept_however_the_login_is_written(run, server, line):
    before = sign_in_before(server)
    script = run(command=(line,))
    assert script.wait() == 0
    assert script.wait_for('signed-in')['text'].startswith('Logged in using ChatGPT')
    assert 'sign-in' not in names(script) and 'output' not in names(script) and server.present.read_text() == before


@pytest.mark.parametrize('line', ['codex login --with-api-key', 'sudo -u bob codex login'], indirect=True)
def test_a_person_is_asked_before_the_present_login_is_lost(run, server, line):
    before = sign_in_before(server)
    script = run(command=(line,), json_events=False, terminal=True)
    script.answer('end it on other machines that share it', 'no')
    assert script.wait() == 0 and server.present.read_text() == before


@pytest.mark.parametrize('line', [line for line in WORDS if '--' not in line], indirect=True)
def test_a_login_is_proved_by_the_words_that_began_it(run, server, line):
    script = run(command=(line,))
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
    assert script.wait_for('signed-in')['text'] == 'Logged in using ChatGPT, ana@example.com'
    assert script.wait() == 0 and server.present.exists()


@pytest.mark.parametrize('line', ['CODEX_HOME=~/x codex login', 'docker exec -i box codex login'], indirect=True)
def test_a_success_with_nobody_signed_in_is_not_believed_however_the_login_is_written(run, server, line):
    (server.bin / 'codex').write_text('#!/bin/sh\n[ "$*" = "login status" ] && { echo "Not logged in" >&2; exit 1; }\n'
                                      'echo "Successfully logged in" >&2\n')
    error = failure(run(command=(line,)), kind='not-signed-in')
    assert error['message'] == 'codex at 127.0.0.1 ended, but its status says: Not logged in'


@pytest.mark.quick
def test_a_key_is_no_login_with_a_page_and_what_its_status_says_first_counts(run, server):
    auth_file(server).parent.mkdir()
    auth_file(server).write_text('{"OPENAI_API_KEY": "sk-proj-1234567890"}')
    script = run()
    assert script.wait() == 0 and script.wait_for('signed-in')['text'] == 'API key configured - sk-proj-***'


def test_a_key_is_read_from_what_a_person_types_and_its_status_asked(run, server):
    script = run(command=('codex', 'login', '--with-api-key'), json_events=False, terminal=True)
    script.answer('Reading API key from stdin', 'sk-proj-1234567890')
    script.wait_for_text('sk-proj-1234567890')
    os.write(script._master, CTRL_D.encode())
    assert script.wait() == 0 and 'Signed in: API key configured - sk-proj-***' in script.screen
    assert json.loads(auth_file(server).read_text()) == {'OPENAI_API_KEY': 'sk-proj-1234567890'}


@pytest.mark.quick
@pytest.mark.parametrize('store', ['keyring', 'auto'])
def test_a_login_that_is_kept_in_a_keyring_is_asked_for_where_the_configuration_says_so(run, server, store):
    auth_file(server).parent.mkdir()
    (auth_file(server).parent / 'config.toml').write_text(f'model = "o3"\ncli_auth_credentials_store = "{store}"\n')
    (server.bin / 'codex').write_text('#!/bin/sh\n[ "$*" = "login status" ] || { echo "$*" >>"$HOME/begun"; exit 1; }\n'
                                      'echo "WARNING: proceeding, even though …"; echo "Logged in using ChatGPT"\n')
    script = run()
    assert script.wait() == 0 and script.wait_for('signed-in')['text'] == 'Logged in using ChatGPT'
    assert not (server.home / 'begun').exists()


def test_a_status_that_takes_long_is_waited_for(run, server, tmp_path):
    server.present = auth_file(server)
    before = sign_in_before(server)
    (server.bin / 'npx').write_text(f'#!/bin/sh\nsleep 3\nshift; exec {server.bin}/codex "$@"\n')      # it fetches codex first
    (server.bin / 'npx').chmod(0o755)
    script = run(command=('npx @openai/codex login',), script=hurried(tmp_path, 'Program.START_LIMIT = 1'))
    assert script.wait() == 0 and script.wait_for('signed-in') and server.present.read_text() == before


def test_the_status_is_not_asked_where_no_file_and_no_configuration_says_that_somebody_may_be_signed_in(run, server):
    real = server.install('codex', server.folder / 'real')
    (server.bin / 'codex').write_text(f'#!/bin/sh\necho "$*" >>"$HOME/asked"\nexec {real} "$@"\n')
    auth_file(server).parent.mkdir()
    (auth_file(server).parent / 'config.toml').write_text('# cli_auth_credentials_store = "keyring"\ncli_auth_credentials_store = "file"\n')
    script = run()
    Browser(script.wait_for('sign-in')['url'])
    assert (server.home / 'asked').read_text() == 'login\n'
    script.interrupt()
    assert script.wait() == 130


def test_whose_login_a_one_time_code_was_for_is_read_from_codex_own_file(run):
    script = run('--device-auth')
    assert script.wait() == 0 and script.wait_for('signed-in')['text'] == 'Logged in using ChatGPT, ana@example.com'


# --- How it ends --------------------------------------------------------------------------------------------

def test_that_nobody_is_signed_in_now_is_said_where_a_login_failed_that_had_begun(run, server):
    server.present = auth_file(server)
    sign_in_before(server)
    script = run('--again')
    Browser(script.wait_for('sign-in')['url']).sign_in(code='bad-code')
    error = failure(script, status=1, kind='remote')
    assert 'Token exchange failed' in error['message'] and error['message'].endswith('\nNobody is signed in there now.')


def test_a_login_that_failed_before_it_began_is_not_said_to_have_signed_anybody_out(run, server):
    server.environment['STAND_IN_MOOD'] = 'fails'
    server.present = auth_file(server)
    sign_in_before(server)
    error = failure(run('--again'), status=1, kind='remote')
    assert 'Nobody' not in error['message'] and error['message'].endswith('Its status says: Logged in using ChatGPT, ana@example.com')


@pytest.mark.parametrize('words, hint', [
    ('Token exchange failed: token endpoint returned status 403 Forbidden', '.env'),
    ('Token exchange failed: error sending request for url (https://auth.openai.com/oauth/token)', '.env'),
    ('Token exchange failed: token endpoint returned status 400 Bad Request: invalid_grant', 'Start again'),
])
def test_a_proxy_is_the_hint_only_where_the_issuer_is_not_reached(run, server, words, hint):
    (server.bin / 'codex').write_text(f'#!/bin/sh\necho "Error logging in: {words}" >&2; exit 1\n')
    error = failure(run(), status=1, kind='remote')
    assert hint in error['hint'] and ('proxy' in error['hint']) == (hint == '.env')


def test_somebody_who_was_signed_in_by_another_way_is_not_told_that_nobody_was(run, server):
    script = run('--timeout', '3')
    script.wait_for('sign-in')
    server.present = auth_file(server)
    sign_in_before(server)          # as curl at the server does, which asks for no last page
    assert script.wait() == 0
    assert script.wait_for('signed-in')['text'] == 'Logged in using ChatGPT, ana@example.com'


@pytest.mark.quick
def test_nobody_signed_in_is_said_with_what_the_program_says(run):
    script = run('--timeout', '2')
    script.wait_for('sign-in')
    error = failure(script, status=124, kind='timeout')
    assert error['message'] == 'Nobody signed in within 2 s. codex says: Not logged in'


# --- Programs that say who is signed in ----------------------------------------------------------------------

def has_program(server, name, asked, says, status, ends=0):
    path = server.bin / name
    path.write_text(f'#!/bin/sh\nif [ "$*" = "{asked}" ]; then\ncat <<"E"\n{says}\nE\nexit {status}\nfi\necho "Welcome"; exit {ends}\n')
    path.chmod(0o755)


SIGNED_IN = {
    'claude auth login': ('auth status', '{\n  "loggedIn": true,\n  "email": "ana@example.com"\n}', 'Logged in as ana@example.com'),
    'gh auth login': ('auth status', 'github.com\n  ✓ Logged in to github.com account ana (keyring)', 'Logged in to github.com account ana'),
    'az login': ('account show', '{\n  "user": {\n    "name": "ana@example.com",\n    "type": "user"\n  }\n}', 'Logged in as ana@example.com'),
    'wrangler login': ('whoami', '👋 You are logged in with an OAuth Token, associated with the email ana@example.com.',
                       'You are logged in with an OAuth Token, associated with the email ana@example.com'),
    'firebase login': ('login:list', 'Logged in as ana@example.com', 'Logged in as ana@example.com'),
}


@pytest.mark.parametrize('line', SIGNED_IN)
def test_who_is_signed_in_is_said_by_the_programs_own_status(run, server, line):
    asked, says, words = SIGNED_IN[line]
    has_program(server, line.split()[0], asked, says, 0)
    script = run(command=line.split())
    assert script.wait() == 0 and script.wait_for('signed-in')['text'] == words


@pytest.mark.quick
@pytest.mark.parametrize('line, asked, says, status', [
    ('firebase login', 'login:list', '⚠  No authorized accounts, run "firebase login"', 0),
    ('wrangler login', 'whoami', 'You are not authenticated. Please run `wrangler login`.', 0),
    ('gh auth login', 'auth status', 'You are not logged into any GitHub hosts. Run gh auth login to authenticate.', 1)])
def test_an_end_with_0_and_nobody_signed_in_is_told_apart(run, server, line, asked, says, status):
    has_program(server, line.split()[0], asked, says, status)
    error = failure(run(command=line.split()), kind='not-signed-in')
    assert error['message'] == f'{line.split()[0]} at 127.0.0.1 ended, but its status says: {says}'


def test_a_status_that_cannot_be_told_changes_nothing(run, server):
    has_program(server, 'wrangler', 'whoami', "✘ [ERROR] Unable to resolve Cloudflare's API hostname", 1)
    script = run(command=('wrangler', 'login'))
    assert script.wait() == 0 and 'signed-in' not in names(script)


def test_a_program_that_fails_keeps_its_status(run, server):
    has_program(server, 'gh', 'auth status', 'Logged in to github.com account ana', 0, ends=4)
    assert run(command=('gh', 'auth', 'login')).wait() == 4
