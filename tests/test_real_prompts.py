"""Programs that others wrote, and that ask: answered by lines and by single keys, at a real sshd, through a cut and a freeze.

See real_programs.py for how they get here; programs/asks.py is what is like them, everywhere.
"""

import contextlib
import re
import secrets

import pytest
import real_programs
from harness import Browser, Script
from relay import Relay
from real_programs import PROGRAMS, Program
from test_prompts import CTRL_C, DOWN, UP, USUAL, mode, typed
from test_real_programs import person_of
from waiting import until

pytestmark = pytest.mark.may_be_missing
KNOWN = {program.name: program for program in PROGRAMS}
MENU = Program('inquirer', '8.8.0', ('npm', '@inquirer/prompts'), ('menu.example.test',), 'node menu.mjs')
MENU_SCRIPT = """\
import {{ select }} from '{folder}/node_modules/@inquirer/prompts/dist/index.js'
console.log('so:', await select({{ message: 'Where?', choices: ['GitHub', 'Google', 'token'] }}))
"""


@contextlib.contextmanager
def at_terminal(person, *words):
    """A person at a terminal, who runs something at the server; the way there can be cut."""
    with Relay(person.server.port) as relay:
        known = person.home.known_hosts
        known.write_text(known.read_text().replace(f']:{person.server.port} ', f']:{relay.port} '))
        with Script(person.home, '-p', relay.port, f'{person.server.user}@127.0.0.1', *words, json_events=False, terminal=True) as script:
            script.relay = relay
            yield script


def frozen(script):
    """Asleep, and the connection is lost meanwhile."""
    script.stop()
    script.relay.cut('reset')
    script.resume(after=5)
    script.wait_for_text('Connected again')


def test_claude_takes_the_code_that_its_page_shows(tmp_path):
    program = KNOWN['claude auth login']._replace(command='claude setup-token')
    with person_of(program, tmp_path) as person, at_terminal(person, 'claude setup-token') as script:
        script.wait_for_text('Paste.{,9}code.{,9}here')
        state = Browser(until(lambda: person.home.opened)[0]).state
        typed(script, f'good-{secrets.token_hex(4)}#')
        frozen(script)
        typed(script, state)
        typed(script, '\r')
        assert until(person.issuers.exchanges) == [200]


def test_gh_asks_by_a_menu_and_is_given_a_terminal_unasked(tmp_path):
    program = KNOWN['gh auth login']._replace(command='gh auth login')
    with person_of(program, tmp_path) as person, at_terminal(person, 'gh auth login') as script:
        script.wait_for_text('> .*GitHub.com')
        typed(script, DOWN)
        script.wait_for_text('> .*GitHub Enterprise Server')
        frozen(script)
        shown = len(script.screen)
        typed(script, UP)
        until(lambda: re.search('> .*GitHub.com', script.screen[shown:]))
        typed(script, CTRL_C)
        assert script.wait() != 0 and mode(script) == USUAL


def test_rclone_is_configured_by_lines(tmp_path):
    program = KNOWN['rclone authorize']._replace(port='none')
    with person_of(program, tmp_path) as person, at_terminal(person, 'rclone config') as script:
        script.answer('n/s/q> ', 'n')
        script.wait_for_text('name> ')
        typed(script, 'my')
        frozen(script)
        typed(script, 'disk\n')
        script.wait_for_text(r'Storage> ')
        typed(script, 'local\n')
        script.wait_for_text(r'y/n> ')
        typed(script, 'n\n')
        script.wait_for_text(r'y/e/d> ')
        typed(script, 'y\n')
        script.wait_for_text(r'mydisk +local')
        typed(script, 'q\n')
        assert script.wait() == 0


def test_an_arrow_key_menu_from_npm(tmp_path):
    with person_of(MENU, tmp_path) as person:
        (person.server.home / 'menu.mjs').write_text(MENU_SCRIPT.format(folder=real_programs.install(MENU)))
        with at_terminal(person, '-t', 'node menu.mjs') as script:
            script.wait_for_text('❯.*GitHub')
            typed(script, DOWN)
            script.wait_for_text('❯.*Google')
            frozen(script)
            typed(script, DOWN)
            script.wait_for_text('❯.*token')
            typed(script, '\r')
            assert script.wait() == 0 and 'so: token' in script.screen
