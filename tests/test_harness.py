"""The harness is believed only where it was tried: a forked run is like a started one, a failed story tells all."""

import os
import pathlib
import subprocess
import sys

import forkserver
import pytest
from harness import Home, Script

pytestmark = pytest.mark.quick

PROBE = r'''
import atexit, json, os, signal, sys, threading
print(json.dumps({
    'event': 'probe', 'argv': sys.argv, 'main': __name__, 'file': __file__, 'path': sys.path[0], 'flags': list(sys.flags),
    'cwd': os.getcwd(), 'environment': {k: v for k, v in os.environ.items() if k not in ('STAND_IN_MARK', 'LC_CTYPE')},
    'leader': os.getsid(0) == os.getpid() == os.getpgid(0), 'umask': os.umask(0o77), 'threads': threading.active_count(),
    'signals': [repr(signal.getsignal(n)) for n in (2, 13, 15, 17)], 'paramiko': 'paramiko' in sys.modules,
    'streams': [[s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno(), s.mode] for s in (sys.stdin, sys.stdout, sys.stderr)],
    'descriptors': sorted(os.listdir('/proc/self/fd'))[:3], 'open': len(os.listdir('/proc/self/fd')),
    'command': open('/proc/self/cmdline').read().rstrip('\0').split('\0')[1:],
    'marked': b'STAND_IN_MARK=' + os.environb[b'STAND_IN_MARK'] in open('/proc/self/environ', 'rb').read().split(b'\0')}))
atexit.register(print, '{"event": "last words"}')
how = sys.argv[-1]
if how == 'raise':
    raise ValueError('the end')
if how == 'interrupt':
    raise KeyboardInterrupt
if how == 'kill':
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
if how == 'thread':
    threading.Thread(target=lambda: print('{"event": "of a thread"}')).start()
sys.exit({'text': 'words', 'five': 5}.get(how))
'''


@pytest.mark.skipif(not forkserver.POSSIBLE, reason='runs are forked on Linux only')
@pytest.mark.parametrize('terminal', [False, True])
@pytest.mark.parametrize('how, status', [('none', 0), ('five', 5), ('text', 1), ('raise', 1), ('thread', 0), ('interrupt', -2),
                                         ('kill', -9)])
def test_a_forked_run_is_like_one_that_is_started(tmp_path, terminal, how, status):
    (tmp_path / 'probe.py').write_text(PROBE)
    seen = []
    for plain in (True, False):
        script = Script(Home(tmp_path / 'home'), how, script=tmp_path / 'probe.py', terminal=terminal, plain=plain)
        assert script.wait() == status, script.report()
        script.close()
        seen.append((script.events, 'Traceback' in script.stderr + script.screen, 'words' in script.stderr + script.screen))
    assert seen[0] == seen[1]
    assert seen[0][0][0]['marked'] and seen[0][0][0]['leader'] and not seen[0][0][0]['paramiko']


def test_a_failed_story_tells_what_script_server_and_browser_said(tmp_path):
    story = tmp_path / 'test_story.py'
    story.write_text('''
from harness import Browser

def test_a_story(run, server):
    script = run()
    assert Browser(script.wait_for('sign-in')['url']).sign_in().status == 418
''')
    said = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p', 'conftest', str(story)], text=True,
                          env={**os.environ, 'PYTHONPATH': str(pathlib.Path(__file__).parent)}, cwd=tmp_path, capture_output=True)
    assert said.returncode == 1, said.stdout + said.stderr
    for words in ('what the script said', '"event": "sign-in"', 'what the server at port', 'publickey of ana: right',
                  'what the browser asked for', 'GET http://127.0.0.1', "302 http://localhost"):
        assert words in said.stdout, words
