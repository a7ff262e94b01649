"""A login at servers that are odd in one way each, with a real sshd: start files that do things, /tmp, setsid, HOME.

Each kind first shows itself to plain ssh: what a test believes of its server is tested as well.
"""

import subprocess

import embedded
import oracle as oracle_module
import pytest
import sshd
from harness import Browser, Home, Script
from oracle import Oracle
from sshd import Sshd
from waiting import until

pytestmark = pytest.mark.skipif(bool(why := sshd.missing() or oracle_module.missing()), reason=str(why))


class Place:
    """A server of some kind with the stand-in codex, and a person who is let in."""

    def __init__(self, server, folder):
        self.server = server
        self.home = Home(folder)
        self.home.trust(server)
        self.home.make_key(server)
        self.oracle = Oracle(server, self.home)
        self.words = self.oracle.here

    def ssh(self, command):
        """Plain ssh: standard output, standard error, exit status."""
        done = self.oracle.ask_ssh(*self.words, command)
        return done.stdout.decode(), done.stderr.decode(), done.returncode

    def login(self, *command):
        """Sign codex in as a person would; the events' names."""
        with Script(self.home, *self.words, *command) as script:
            address = script.wait_for('sign-in')['url']
            page = Browser(address).sign_in()
            assert page.status == 200 and 'Signed in' in page.text
            assert script.wait() == 0
            assert script.leftovers() == [] and self.home.leftovers() == []
            return [event['event'] for event in script.events]


@pytest.fixture
def place(request, tmp_path):
    """A server of the kind that the test's own mark names, and nothing left behind at it."""
    with Sshd(**request.param) as server:
        server.install('codex')
        yield Place(server, tmp_path / 'home')


def of_kind(**kind):
    return pytest.mark.parametrize('place', [kind], indirect=True, ids=[''])


# --- Start files that do things -----------------------------------------------------------------------------

GREETING = 'echo "Welcome to box, 3 updates can be applied"; echo "*** NOTICE ***" >&2'


@pytest.mark.quick
@of_kind(start={'.bashrc': GREETING})
def test_an_account_that_greets_on_both_streams(place):
    assert place.ssh('echo in') == ('Welcome to box, 3 updates can be applied\nin\n', '*** NOTICE ***\n', 0)
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


@of_kind(ChannelTimeout='direct-tcpip=1')
def test_a_server_that_ends_channels_which_nobody_uses(place):
    with Script(place.home, *place.words) as script:
        sign_in = script.wait_for('sign-in')
        # Whoever ended a connection remembers it for a minute.
        until(lambda: f":{sign_in['port']}" in place.server.run('ss -Htan state time-wait'))
        assert Browser(sign_in['url']).sign_in().status == 200 and script.wait() == 0


@of_kind(start={'.bashrc': 'sleep 120 &'})
def test_an_account_whose_start_file_leaves_a_job_that_holds_the_output(place):
    # ssh has the status at once, and waits for the end of the output.
    ssh = subprocess.Popen(place.oracle.ssh_command(*place.words, 'echo in; exit 3'), env=place.home.environment(),
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert ssh.stdout.readline() == b'in\n' and ssh.poll() is None
    place.server.run('pkill -x sleep')
    assert ssh.wait(20) == 3
    ssh.stdout.close()
    assert 'signed-in' in place.login()


@of_kind(start={'.profile': 'PATH=/run/lab/elsewhere:$PATH; sleep 120 &'})
def test_a_login_shell_that_leaves_a_job_and_alone_knows_where_codex_is(place):
    place.server.hide('codex')
    assert place.ssh('command -v codex')[2] == 1
    assert place.ssh('bash -lc "command -v codex; until pkill -x sleep; do :; done"')[0] == '/run/lab/elsewhere/codex\n'
    assert 'signed-in' in place.login()
    assert place.server.run('pgrep -x sleep')           # and not because that had ended


@of_kind(start={'.bashrc': 'read -p "Start a session? [y/N] " answer; echo "answer: $answer"'})
def test_an_account_that_asks_a_question_when_it_starts(place):
    assert place.ssh('echo in')[0] == 'answer: \nin\n'
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


TMUX = '[ -n "$TMUX" ] || exec sh -c "echo open terminal failed: not a terminal >&2; exit 1"'


@of_kind(start={'.bashrc': TMUX})
def test_an_account_that_goes_into_another_program_is_told_what_that_said(place):
    assert place.ssh('echo in') == ('', 'open terminal failed: not a terminal\n', 1)
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and error['hint']
    assert place.server.leftovers() == []
    assert 'open terminal failed: not a terminal' in error['message']


@of_kind(start={'.profile': 'export CODEX_HOME=$HOME/elsewhere HTTPS_PROXY="http://proxy.example:3128/?a=b c"'})
def test_what_only_the_login_shell_exports_is_had_by_codex_as_well(place):
    assert place.ssh('echo $CODEX_HOME$HTTPS_PROXY')[0] == '\n'
    assert 'signed-in' in place.login()
    assert (place.server.home / 'elsewhere/auth.json').exists() and not (place.server.home / '.codex').exists()
    place.server.add_program('codex', '#!/bin/sh\necho "by $HTTPS_PROXY"; exit 1\n')
    with Script(place.home, '--again', *place.words) as script:
        assert 'by http://proxy.example:3128/?a=b c' in script.wait_for('error')['message']


@of_kind(shell='tcsh', start={'.login': 'setenv CODEX_HOME $HOME/elsewhere'})
def test_what_only_the_login_shell_exports_is_had_from_a_shell_of_another_kind(place):
    assert 'signed-in' in place.login()
    assert (place.server.home / 'elsewhere/auth.json').exists()


@pytest.mark.parametrize('place', [{'shell': shell} for shell in ('zsh', 'fish', 'tcsh', 'dash')], indirect=True, ids=lambda kind: kind['shell'])
def test_the_words_before_login_mean_what_they_mean_to_the_account_s_own_shell(place):
    place.server.install('codex', place.server.home / 'own tools')
    (place.server.bin / 'codex').unlink()
    line = 'env CODEX_HOME="$HOME/another home" ~/"own tools"/codex login'
    assert 'signed-in' in place.login(line)
    before = (place.server.home / 'another home/auth.json').read_text()
    with Script(place.home, *place.words, line) as script:
        assert script.wait_for('signed-in')['text'] == 'Logged in using ChatGPT'
        assert script.wait() == 0
    assert (place.server.home / 'another home/auth.json').read_text() == before and place.server.leftovers() == []


ASKS_FOR_EVER = 'while read -p "Start a session? [y/n] " answer || :; do case $answer in y|n) break;; esac; done'


@of_kind(start={'.profile': ASKS_FOR_EVER})
def test_a_login_shell_that_asks_until_it_is_answered(place):
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


@of_kind(start={'.profile': ASKS_FOR_EVER})
def test_a_login_shell_that_says_nothing_is_not_said_to_have_no_codex(place):
    place.server.hide('codex')
    with Script(place.home, '-v', *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and error['kind'] == 'not-installed'
    assert 'codex is not installed at 127.0.0.1' in error['message'] and 'does not say' in error['message']
    assert '/bin/bash -lc env: PATH=\n' in script.stderr, 'what was seen, under -v'
    assert place.server.leftovers() == []


@of_kind()
def test_where_codex_was_looked_for_is_shown_under_v(place):
    place.server.hide('codex')
    with Script(place.home, '-v', *place.words) as script:
        error = script.wait_for('error')
    assert 'nor of its login shell' in error['message']
    assert '/bin/bash -lc env: PATH=/' in script.stderr


@pytest.mark.parametrize('line', ['#!/usr/bin/env node', '#!/usr/bin/env -S A=b node --flag', '#!/opt/elsewhere/node'])
@of_kind()
def test_node_that_is_missing_is_known_by_the_programs_first_line(place, line):
    place.server.add_program('codex', line + '\nneeds it\n')
    place.server.run('mkdir -p /run/lab/less; ln -s /usr/bin/* /run/lab/less; rm -f /run/lab/less/node')
    place.server.environment['PATH'] = '/run/lab/bin:/run/lab/less'
    (place.server.home / '.profile').write_text('PATH=/run/lab/bin:/run/lab/less\n')
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and error['kind'] == 'not-installed'
    assert 'node, which codex needs, is not installed at 127.0.0.1' in error['message'] and '.profile' in error['hint']
    assert place.server.leftovers() == []


@of_kind()
def test_something_that_codex_misses_is_told_in_whatever_language_by_its_status(place):
    place.server.add_program('codex', '#!/bin/sh\necho "/usr/bin/env: »node«: Datei oder Verzeichnis nicht gefunden" >&2; exit 127\n')
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 127
    assert '»node«: Datei oder Verzeichnis' in error['message'] and 'PATH' in error['hint'] and '.profile' in error['hint']
    assert place.server.leftovers() == []


# --- Accounts that may not do everything ---------------------------------------------------------------------

@of_kind(ForceCommand='echo "Backups only."; exit 1')
def test_an_account_that_is_for_one_command_only_is_told_what_that_says(place):
    assert place.ssh('echo in') == ('Backups only.\n', '', 1)
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and error['hint']
    assert 'Backups only.' in error['message']


@of_kind(ForceCommand='logger() { :; }; logger "$SSH_ORIGINAL_COMMAND"; eval "$SSH_ORIGINAL_COMMAND"')
def test_an_account_whose_every_command_goes_through_another(place):
    assert place.ssh('echo in; exit 3') == ('in\n', '', 3)
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


@of_kind(shell='rbash', start={'.bashrc': 'PATH=/run/lab/few'})
def test_an_account_that_may_run_a_few_programs_only_is_told_what_its_shell_says(place):
    place.server.run('mkdir -p /run/lab/few; ln -sf /usr/bin/ls /run/lab/few')
    out, error, status = place.ssh('sh')
    assert 'sh: command not found' in error and status == 127
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and error['hint']
    assert 'sh: command not found' in error['message']


@of_kind(shell='/usr/sbin/nologin')
def test_an_account_without_a_shell_is_told_what_it_says(place):
    assert place.ssh('echo in')[:3:2] == ('This account is currently not available.\n', 1)
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and 'shell' in error['hint']
    assert 'This account is currently not available.' in error['message']


# --- Why a login is gone ------------------------------------------------------------------------------------

def has_been_restarted(server):
    server.run('echo another >/run/lab/boot; mount --bind /run/lab/boot /proc/sys/kernel/random/boot_id')


def is_another_node(server):
    server.add_program('uname', '#!/bin/sh\necho node-2\n')


def ends_what_sessions_leave(server):
    server.add_program('busctl', '#!/bin/sh\ncase "$*" in *Manager\\ KillUserProcesses) echo b true;; esac\n')


def was_tidied_up(server):
    server.add_program('busctl', '#!/bin/sh\necho b false\n')


@pytest.mark.parametrize('cause, words', [
    (has_been_restarted, '127.0.0.1 has been restarted since.'), (is_another_node, 'Another machine answers at 127.0.0.1'),
    (ends_what_sessions_leave, '127.0.0.1 has ended the login together with the connection'),
    (was_tidied_up, 'The login at 127.0.0.1 is no longer there: it was ended, or its folder was removed.')],
    ids=lambda value: getattr(value, '__name__', ''))
@of_kind()
def test_a_login_that_is_gone_is_told_with_the_cause_that_is_known(place, cause, words):
    with Script(place.home, *place.words) as script:
        browser = Browser(script.wait_for('sign-in')['url'])
        script.wait_for('opened')
        script.kill()
    embedded.end_marked_processes(place.server.mark)
    place.server.run('rm -r /tmp/codex-login.*')
    cause(place.server)
    with Script(place.home, '--finish', browser.redirect()) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and error['hint']
    assert error['message'].startswith(words) and 'restarted' not in error['message'].replace(words, '')


# --- What is not there --------------------------------------------------------------------------------------

@of_kind(tmp='full')
def test_a_full_tmp_is_done_without(place):
    out, error, status = place.ssh('echo much >/tmp/more')
    assert status and 'No space left on device' in error
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


@of_kind(tmp='full', home_is='missing')
def test_a_server_where_nothing_can_be_written_is_told_so(place):
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert '/tmp' in error['message'] and error['hint'] and script.wait() == 255


@of_kind(tmp='noexec')
def test_a_tmp_that_nothing_can_be_run_from(place):
    there = 'echo "#!/bin/sh" >/tmp/x; chmod 755 /tmp/x; /tmp/x; s=$?; rm /tmp/x; exit $s'
    assert 'Permission denied' in place.ssh(there)[1]
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


@of_kind(tmp='noexec')
def test_an_address_that_only_the_browser_is_handed_where_tmp_cannot_run_anything(place):
    place.server.environment['STAND_IN_MOOD'] = 'hands'
    with Script(place.home, *place.words) as script:
        assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
        assert script.wait() == 0
    assert place.server.leftovers() == []
    assert 'codex-login' not in place.server.run('ls -R /run/lab/home/.cache')


@of_kind(tmp='noexec', home_is='missing')
def test_an_address_that_only_the_browser_is_handed_where_nothing_can_be_run_at_all(place):
    place.server.environment.update(STAND_IN_MOOD='hands', CODEX_HOME='/run/lab/codex-home')
    with Script(place.home, *place.words) as script:
        assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 200
        assert script.wait() == 0
    assert place.server.leftovers() == []


@of_kind(without=['setsid'])
def test_a_server_without_setsid(place):
    assert place.ssh('command -v setsid') == ('', '', 1)
    assert 'signed-in' in place.login()


@of_kind(without=['setsid'])
def test_nothing_is_left_at_a_server_without_setsid(place):
    place.login()
    assert place.server.leftovers() == []


@of_kind(without=['setsid'])
def test_ctrl_c_ends_the_program_and_all_that_it_started_where_there_is_no_setsid(place):
    place.server.add_program('starts', '#!/bin/sh\nsleep 3001 & sh -c "sleep 3002; :" & echo here; wait\n')
    with Script(place.home, *place.words, 'starts') as script:
        script.wait_for('output', text='here')
        until(lambda: all(place.server.run(f'pgrep -f "sleep {number}" || :') for number in (3001, 3002)))
        script.interrupt()
        assert script.wait() == 130
    assert place.server.leftovers() == []


@of_kind(without=['setsid'])
def test_what_nobody_comes_back_for_is_ended_in_time_where_there_is_no_setsid(place):
    place.server.add_program('starts', '#!/bin/sh\nsleep 3001 & echo here; wait\n')
    with Script(place.home, '--timeout', '1', *place.words, 'starts') as script:
        script.wait_for('output', text='here')
        script.kill()
    place.server.run('pkill -xf "sleep 1[0-9][0-9]" || :')      # as if its time were over
    assert place.server.leftovers(patience=60) == []


@of_kind(home_is='missing')
def test_an_account_whose_home_does_not_exist(place):
    out, error, status = place.ssh('cd; echo $HOME; pwd')
    assert out == '/proc/no-such-home\n/\n' and 'Could not chdir to home directory' in error and status == 0
    place.server.environment['CODEX_HOME'] = '/run/lab/codex-home'
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


# --- What may be forwarded to ---------------------------------------------------------------------------------

@pytest.mark.parametrize('place', [{'PermitOpen': f'{name}:*'} for name in ('localhost', '127.0.0.1')], indirect=True, ids=['localhost', '127.0.0.1'])
@pytest.mark.parametrize('command', [(), ('wrangler', 'login')], ids=['codex', 'another'])
def test_a_server_that_permits_one_name_of_its_loopback_is_asked_by_that(place, command):
    place.server.install('wrangler')
    assert 'error' not in place.login(*command)


@of_kind(PermitOpen='127.0.0.1:9')
def test_a_server_that_permits_neither_says_so(place):
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert error['kind'] == 'forbidden' and 'PermitOpen' in error['hint'] and script.wait() == 255
        assert place.home.leftovers() == []
