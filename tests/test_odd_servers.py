"""A login at servers that are odd in one way each, with a real sshd: start files that do things, /tmp, setsid, HOME.

Each kind first shows itself to plain ssh: what a test believes of its server is tested as well.
"""

import subprocess

import oracle as oracle_module
import pytest
import sshd
from harness import Browser, Home, Script
from oracle import Oracle
from sshd import Sshd

pytestmark = pytest.mark.skipif(bool(why := sshd.missing() or oracle_module.missing()), reason=str(why))


def fault(name):
    return pytest.mark.xfail(reason=name, strict=True, raises=AssertionError)


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

    def login(self, *command, patience=20.0):
        """Sign codex in as a person would; the events' names, and the script itself."""
        with Script(self.home, *self.words, *command) as script:
            address = script.wait_for('sign-in', timeout=patience)['url']
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
@fault('a job that the login shell leaves holds the pipe that PATH comes through')
def test_a_login_shell_that_leaves_a_job_and_alone_knows_where_codex_is(place):
    place.server.hide('codex')
    assert place.ssh('command -v codex')[2] == 1
    assert place.ssh('bash -lc "command -v codex; until pkill -x sleep; do :; done"')[0] == '/run/lab/elsewhere/codex\n'
    place.login(patience=3)     # once mended: as patient as the others


@of_kind(start={'.bashrc': 'read -p "Start a session? [y/N] " answer; echo "answer: $answer"'})
def test_an_account_that_asks_a_question_when_it_starts(place):
    assert place.ssh('echo in')[0] == 'answer: \nin\n'
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []


TMUX = '[ -n "$TMUX" ] || exec sh -c "echo open terminal failed: not a terminal >&2; exit 1"'


@of_kind(start={'.bashrc': TMUX})
@fault('what an account says on standard error before it ends is not told')
def test_an_account_that_goes_into_another_program_is_told_what_that_said(place):
    assert place.ssh('echo in') == ('', 'open terminal failed: not a terminal\n', 1)
    with Script(place.home, *place.words) as script:
        error = script.wait_for('error')
        assert script.wait() == 255 and error['hint']
    assert place.server.leftovers() == []
    assert 'open terminal failed: not a terminal' in error['message']


# --- What is not there --------------------------------------------------------------------------------------

@of_kind(tmp='full')
def test_a_full_tmp_is_named(place):
    out, error, status = place.ssh('echo much >/tmp/more')
    assert status and 'No space left on device' in error
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
@fault('what stands in for the browser lies where nothing can be run from')
def test_an_address_that_only_the_browser_is_handed_where_tmp_cannot_run_anything(place):
    place.server.environment['STAND_IN_MOOD'] = 'hands'
    with Script(place.home, *place.words) as script:
        script.wait_for('sign-in', timeout=3)       # once mended: as patient as the others


@of_kind(without=['setsid'])
def test_a_server_without_setsid(place):
    assert place.ssh('command -v setsid') == ('', '', 1)
    assert 'signed-in' in place.login()


@of_kind(without=['setsid'])
@fault('what was to end the program in time is left behind where there is no setsid')
def test_nothing_is_left_at_a_server_without_setsid(place):
    place.login()
    assert place.server.leftovers(patience=2) == []


@of_kind(home_is='missing')
def test_an_account_whose_home_does_not_exist(place):
    out, error, status = place.ssh('cd; echo $HOME; pwd')
    assert out == '/proc/no-such-home\n/\n' and 'Could not chdir to home directory' in error and status == 0
    place.server.environment['CODEX_HOME'] = '/run/lab/codex-home'
    assert 'signed-in' in place.login()
    assert place.server.leftovers() == []
