"""What goes into a program at the server and what comes out of it: plain, with a cut in the middle, with a freeze in the middle.

test_oracle.py has what ssh does with the same words.
"""

import hashlib
import os
import pathlib
import re
import select
import subprocess
import sys

import pytest

import strict
from embedded import MARK
from harness import SCRIPT
from waiting import until

ASKS = 'printf "Continue? [Y/n] "; read -r answer; echo "so: $answer"'
NUMBERED = 'i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo "line $i"; echo "error $i" >&2; sleep 0.01; done; printf end; exit 7'


def python(text):
    """A command that is a Python program, which keeps back what it prints where nothing tells it otherwise."""
    return f"{sys.executable} -I -S -c '{text}'" if "'" not in text else pytest.fail('an apostrophe')


def cut(script, server):
    """The connection is reset, and made again by the script itself."""
    server.cut()


def frozen(script, server):
    """The app is frozen, its connection is lost meanwhile, and it comes back."""
    script.stop()
    server.cut()
    script.resume(after=4.2)


def plain(script, server):
    """Nothing happens."""


each_day = pytest.mark.parametrize('happens', [plain, cut, frozen])


# --- Questions ----------------------------------------------------------------------------------------------

@each_day
def test_a_question_without_a_line_end_is_seen_and_answered(run, server, happens):
    script = run(command=(ASKS,), json_events=False, terminal=True)
    script.wait_for_text(r'Continue\? \[Y/n\] $')
    happens(script, server)
    script.answer('Continue', 'y')
    assert script.wait() == 0
    assert script.screen.count('Continue?') == 1 and re.search(r'so: y\r\n', script.screen)


@each_day
def test_a_program_that_flushes_nothing_is_asked_to(run, server, happens):
    program = 'print("Code:", end=" "); print("got", input(), flush=False); raise SystemExit(5)'
    script = run(command=(python(program),), json_events=False, terminal=True)
    script.wait_for_text('Code: $')
    happens(script, server)
    script.answer('Code:', 'A1B2-C3D4')
    assert script.wait() == 5 and 'got A1B2-C3D4\r\n' in script.screen


@each_day
def test_what_is_typed_before_between_and_after_arrives_once_and_in_order(run, server, happens):
    count = 40
    script = run(command=('while read -r line; do [ "$line" = over ] && break; echo "<$line>"; done',), json_events=False, terminal=True)
    for number in range(count):
        if number == count // 2:
            script.wait_for_text('<1>')
            happens(script, server)
        os.write(script._master, b'%d\n' % number)
    os.write(script._master, b'over\n')
    assert script.wait() == 0
    assert re.findall('<([0-9]+)>', script.screen) == [str(number) for number in range(count)]


# --- Pipes --------------------------------------------------------------------------------------------------

@each_day
def test_ten_megabytes_through_a_pipe_arrive_whole(run, server, happens):
    data = os.urandom(10 << 20)
    script = run('-q', command=('sha256sum; exit 3',), json_events=False, piped=True)
    script.give(data[:4 << 20])
    happens(script, server)
    script.give(data[4 << 20:], end=True)
    assert script.wait() == 3 and script.stdout.split()[0] == hashlib.sha256(data).hexdigest()


@each_day
def test_output_comes_once_whatever_happens_to_the_connection(run, server, happens):
    script = run('-q', command=(NUMBERED,), json_events=False)
    script.wait_for_text('line 50\n')
    happens(script, server)
    assert script.wait() == 7
    assert script.stdout == ''.join(f'line {number}\n' for number in range(1, 301)) + 'end'
    assert script.stderr == ''.join(f'error {number}\n' for number in range(1, 301))


@pytest.mark.parametrize('options', [(), ('-tt',)])
def test_output_that_arrives_before_the_word_that_the_program_has_started_is_not_lost(run, server, monkeypatch, options):
    """The two streams of a session are sent in the server's own order. More than a window holds is sent only where it is read."""
    size, sent, send, send_error = 3_000_000, [0], strict.StrictChannel.sendall, strict.StrictChannel.sendall_stderr

    def count(channel, data):
        send(channel, data)
        sent[0] += len(data)

    def wait(channel, data):
        until(lambda: sent[0] >= size, 'standard output is ahead')
        send_error(channel, data)
    monkeypatch.setattr(strict.StrictChannel, 'sendall', count)
    monkeypatch.setattr(strict.StrictChannel, 'sendall_stderr', wait)
    script = run('-q', *options, command=(f'head -c {size} /dev/zero | tr "\\0" x; exit 6',), json_events=False)
    assert (script.wait(), len(script.stdout), set(script.stdout)) == (6, size, {'x'})


def test_a_pipe_into_a_program_that_reads_nothing_fills_nothing(run, server):
    script = run('-q', command=('sleep 2; exit 4',), json_events=False, piped=True)
    os.set_blocking(script._given, False)
    given = 0
    while script.process.poll() is None:
        try:
            given += os.write(script._given, b'x' * 65536)
        except BlockingIOError:
            select.select([], [script._given], [], 1)
        except BrokenPipeError:
            break
    assert script.wait() == 4 and 65536 <= given < 4 << 20


def test_a_reader_here_that_takes_its_time_fills_no_memory(run, server, home):
    words = [sys.executable, str(SCRIPT), '-q', run.destination, 'head -c 100000000 /dev/zero; exit 2']
    process = subprocess.Popen(words, env={**home.environment(), MARK: server.mark}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    with process.stdout:
        read, memory = (pathlib.Path(f'/proc/{process.pid}/{name}') for name in ('io', 'status'))

        def rests():
            before = read.read_text()
            return not select.select([], [], [], 0.5)[0] and read.read_text() == before
        until(lambda: int(read.read_text().split()[1]) > 3 << 20 and rests())
        held = int(read.read_text().split()[1])
        size, used = 0, 0
        while part := process.stdout.read(1 << 20):
            size += len(part)
            # not ru_maxrss: that begins with the memory of who started the process, here these tests' own
            used = max([used, *map(int, re.findall(r'VmHWM:\s*([0-9]+) kB', memory.read_text()))])
    assert (process.wait(), size) == (2, 100000000) and held < 30 << 20 and 10 << 10 < used < 120 << 10


# --- A terminal ---------------------------------------------------------------------------------------------

KEYS = '''import os, termios, tty
before = termios.tcgetattr(0); tty.setraw(0); os.write(1, b"ready\\r\\n"); keys = b""
while not keys.endswith(b"q"):
    key = os.read(0, 100); keys += key; os.write(1, b"key " + key.hex().encode() + b"\\r\\n")
termios.tcsetattr(0, termios.TCSANOW, before); print("all", keys.hex()); raise SystemExit(6)'''


@each_day
def test_keys_reach_a_program_on_its_terminal_one_by_one(run, server, happens):
    script = run('-q', '-tt', command=(python(KEYS),), json_events=False, piped=True)
    script.wait_for_text('ready')
    script.give(b'\x1b[A')
    script.wait_for_text('key 1b5b41')
    happens(script, server)
    for key in (b'\x03', b'\x04', b'\r', '€'.encode(), b'q'):
        script.give(key)
    assert script.wait() == 6 and 'all 1b5b4103040de282ac71\r\n' in script.stdout


def test_ctrl_c_ends_what_runs_on_its_terminal(run, server):
    script = run('-q', '-tt', command=('trap "echo stopped; exit 9" INT; echo ready; while :; do sleep 0.1; done',),
                 json_events=False, piped=True)
    script.wait_for_text('ready')
    script.give(b'\x03')
    assert script.wait() == 9 and 'stopped' in script.stdout


def test_the_size_of_the_screen_is_sent_anew_after_a_return(run, server):
    program = """import os, signal
def say(*_): print(*os.get_terminal_size(0), flush=True)
signal.signal(signal.SIGWINCH, say); say(); print("ready", input())"""
    script = run('-q', '-t', command=(python(program),), json_events=False, terminal=True, environment={'COLUMNS': '61', 'LINES': '17'})
    script.wait_for_text('61 17')
    server.cut()
    script.wait_for_text('61 17(.|\n)*61 17')
    os.write(script._master, b'done\n')
    script.wait_for_text('ready done')
    assert script.wait() == 0


@pytest.mark.parametrize('missing', [('script',), ('script', 'python3'), ('env', 'perl'), ('script', 'env', 'perl')])
def test_a_terminal_is_made_by_what_is_there(run, server, missing):
    tools = server.folder / 'tools'
    tools.mkdir()
    for folder in ('/bin', '/usr/bin'):
        for name in os.listdir(folder):
            if name not in missing and not (tools / name).exists() and os.access(f'{folder}/{name}', os.X_OK):
                (tools / name).symlink_to(f'{folder}/{name}')
    server.environment['PATH'] = f'{server.bin}:{tools}'
    script = run('-q', '-tt', command=('tty >/dev/null && stty size && exit 8',), json_events=False)
    if 'python3' in missing:
        assert script.wait() == 255 and 'has nothing that makes a terminal' in script.stderr
    else:
        assert script.wait() == 8 and re.fullmatch('24 80\r\n', script.stdout)
