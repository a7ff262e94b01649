"""Every wait has a limit and can be called off, in one place: no other place of the script waits, or starts a thread.

    python3 tests/test_waits.py         what is left, by the room that it stands in

Read from the syntax tree, so nothing has to happen for it. A thread of the script waits in three functions: Box.take,
Board._turn and SshStream.recv; start() is the only one that starts a thread. What the system alone can end (a person who
is asked, the system's own look-up of a name) stands in the table below, each with its reason.
"""

import ast
import collections
import pathlib
import re
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parent.parent / 'scripts' / 'codex_login.py'
PLACES = {'Box', 'start', 'join_started', 'Board._turn', 'SshStream.recv', 'SshStream._read', 'SshStream._read_socket'}
"""Where threads wait and are started: functions, or classes with all that is in them."""

PERSON = 'a person is asked, or types: that takes as long as it takes'
SYSTEM = 'the system does it, and lets nobody interrupt it: in a thread of its own, which is left where it hangs'
BOARD = 'on the board, where no socket blocks: what is not there, or does not fit, is left for another turn'
GENERATOR = 'waits for nothing: it yields, and whoever has more bytes goes on'
BRIEF = 'held for a few lines that wait for nobody'
CHECK = 'part of --check, at a port of its own, with nobody else there'

ALLOWED = {
    'AppTerminal._set: select': 'only a look', 'AppTerminal._set: read': 'of what is there',
    'Keyboard._read: select': PERSON, 'Keyboard._read: read': PERSON, 'Keyboard.__init__: Lock': PERSON,
    'AShell._run: run': SYSTEM, 'Pythonista._copy_here: get': SYSTEM,
    'Dialling._connect: getaddrinfo': SYSTEM, 'Dialling._connect: connect': SYSTEM, '_addresses: getaddrinfo': SYSTEM,
    'answers: connect': 'the port is of this process: there is nobody to wait for',
    'Pythonista._last_crash: readline': 'of a file',
    **dict.fromkeys(['_offered: create_connection', '_go_away: create_connection',
                     '_go_away: select', '_go_away: accept', '_go_away: recv', '_go_away: sendall'], CHECK),
    **dict.fromkeys(['Board._rung: recv', 'SshStream._write: sendall', 'Listener._accept: accept', 'Pump._up: recv_into', 'Client._choose: recv',
                     'Client._choose: sendall', 'Client._reached: sendall', 'Client._not_reached: sendall', '_Visit._ready: recv'], BOARD),
    **dict.fromkeys(['Client.__init__: accept', 'Client._reached: accept'], 'opens a channel: a message'),
    'Channel.execute: sendall': 'what the window does not allow is kept by the channel',
    **dict.fromkeys(['Reader.take: wait_for', 'Reader.past: wait_for'], GENERATOR),
    **dict.fromkeys(['Channel.__init__: Lock', 'Connection.__init__: Lock', 'Link.__init__: Lock', '_Rival.__init__: Lock',
                     'Visits.__init__: Lock'], BRIEF),
    'Dial._look_up: getaddrinfo': SYSTEM, 'Dialling._reach: connect': SYSTEM, 'Device.succeeds: run': SYSTEM,
    **dict.fromkeys(['Agent._ask: connect', 'Agent._ask: sendall'], 'an agent of this device, by a socket that has a limit'),
    '<module>: Lock': 'paramiko is brought up once, by whoever wants it first; who comes second needs it, too',
    'JsonReport.__init__: Lock': 'held for one line that is written', 'SshStream.__init__: Lock': BRIEF,
}
"""'function: what it does', and why it may wait for itself."""

WAITS = {'wait', 'wait_for', 'sleep', 'select', 'acquire', 'recv', 'recv_into', 'recvmsg', 'accept', 'sendall', 'communicate',
         'open_channel', 'open_session', 'global_request', 'request_port_forward', 'create_connection', 'getaddrinfo',
         'readline', 'getpass', 'input', 'urlopen', 'waitpid'}
MADE = {'threading': {'Thread', 'Timer', 'Event', 'Condition', 'Lock', 'RLock', 'Semaphore', 'BoundedSemaphore', 'Barrier'},
        'queue': {'Queue', 'SimpleQueue', 'LifoQueue', 'PriorityQueue'}, '_thread': {'start_new_thread', 'allocate_lock'},
        'subprocess': {'run', 'call', 'check_call', 'check_output', 'Popen'}, 'os': {'read', 'system', 'wait'}}
CHANNEL_VERBS = {'recv', 'sendall'}     # of a channel of our own: they wait by a Box


class Place(tuple):
    """Where something waits: (line, room, function, what)."""

    def __str__(self):
        line, _, function, what = self
        return f'{line}: {function}: {what}'

    @property
    def key(self):
        return f'{self[2]}: {self[3]}'


class _Finder(ast.NodeVisitor):
    """Goes through a module, and remembers what waits."""

    def __init__(self, text):
        self.found, self._path = [], []
        self._rooms = [(number, match[1]) for number, line in enumerate(text.splitlines(), 1)
                       if (match := re.match(r'# == (.*?) =*$', line))]
        tree = ast.parse(text)
        self._own_channels = any(isinstance(node, ast.ClassDef) and 'Channel' in node.name for node in ast.walk(tree))
        self.visit(tree)

    def _inside(self, node):
        self._path.append(node.name)
        self.generic_visit(node)
        self._path.pop()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _inside

    def visit_Call(self, node):
        what = self._waits(node)
        if what:
            self._note(node, what)
        self.generic_visit(node)

    def _note(self, node, what):
        room = next((name for line, name in reversed(self._rooms) if line < node.lineno), 'no room')
        self.found.append(Place((node.lineno, room, self._function(), what)))

    def _function(self):
        """Of nested functions, the outermost: it is what a reader looks for."""
        depth = 1 + next((number for number, name in enumerate(self._path) if not name[:1].isupper() and not (
            name.startswith('_') and name[1:2].isupper())), len(self._path))
        return '.'.join(self._path[:depth]) or '<module>'

    def _waits(self, node):
        """What a call waits for, by its name; '' where it waits for nothing."""
        function = node.func
        if isinstance(function, ast.Name):
            return function.id if function.id in ('input', 'sleep', 'create_connection') else ''
        if not isinstance(function, ast.Attribute):
            return ''
        name, owner = function.attr, function.value
        of = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ''
        if name in MADE.get(of, ()):
            return name
        if name == 'join':
            text = isinstance(owner, (ast.Constant, ast.JoinedStr)) or of == 'path'
            return '' if text else name
        if name == 'get':           # a queue's has no key
            limit = any(word.arg in ('timeout', 'block') for word in node.keywords)
            return name if limit or not node.args and not node.keywords else ''
        if name == 'connect':
            return name if re.search('sock|probe', of) else ''
        if name == 'acquire' and any(word.arg == 'blocking' and not getattr(word.value, 'value', True) for word in node.keywords):
            return ''
        if name in CHANNEL_VERBS and self._own_channels and re.search('channel|client|end', of):
            return ''
        return name if name in WAITS else ''


def waits(text):
    """All Places of a module's text that wait, in order."""
    return _Finder(text).found


def left(text):
    """Those of them that are neither in the few functions that may, nor in the table."""
    return [place for place in waits(text)
            if not any(place[2] == name or place[2].startswith(name + '.') for name in PLACES) and place.key not in ALLOWED]


def listing(places):
    """For each room what is left in it."""
    rooms = collections.defaultdict(list)
    for place in places:
        rooms[place[1]].append(place)
    return '\n'.join(f'{room}: {len(found)}\n' + '\n'.join(f'    {place}' for place in found) for room, found in rooms.items())


@pytest.mark.quick
@pytest.mark.parametrize('line, what', [
    ('queue.Queue()', 'Queue'), ('box.get()', 'get'), ('box.get(timeout=3)', 'get'), ('event.wait()', 'wait'),
    ('self._changed.wait(step)', 'wait'), ('time.sleep(1)', 'sleep'), ('thread.join(5)', 'join'), ('select.select([a], [], [])', 'select'),
    ('sock.recv(1)', 'recv'), ('client.sendall(b"")', 'sendall'), ('channel.recv(9)', 'recv'), ('lock.acquire()', 'acquire'),
    ('threading.Thread(target=f)', 'Thread'), ('_thread.start_new_thread(f, ())', 'start_new_thread'), ('threading.Lock()', 'Lock'),
    ('sys.stdin.readline()', 'readline'), ('input()', 'input'), ('os.read(0, 1)', 'read'), ('subprocess.run(["x"])', 'run'),
    ('transport.open_channel("session")', 'open_channel'), ('sock.connect(where)', 'connect'), ('listener.accept()', 'accept')])
def test_what_waits_is_found(line, what):
    (place,) = waits(f'# == 3. Room ===\nclass Thing:\n    def work(self):\n        def inner():\n            {line}\n')
    assert place == (5, '3. Room', 'Thing.work', what)


@pytest.mark.quick
@pytest.mark.parametrize('line', [
    '"".join(words)', 'os.path.join(a, b)', 'options.get("x")', 'options.get("x", 1)', 'lock.acquire(blocking=False)', 'link.connect()',
    'start(f)', 'self.box.take(3)', 'box.put(1)', 'f"{x}".join(y)'])
def test_what_waits_for_nothing_is_passed_over(line):
    assert waits(f'def work():\n    {line}\n') == []


@pytest.mark.quick
def test_a_channel_of_our_own_waits_by_its_box():
    assert waits('class Channel:\n    pass\ndef work():\n    channel.recv(1)\n') == []


def test_the_few_functions_that_may_are_there():
    assert {place[2].partition('.')[0] for place in waits(SCRIPT.read_text())} & {'Box', 'start'} == {'Box', 'start'}


@pytest.mark.quick
def test_no_other_place_waits_or_starts_a_thread():
    found = left(SCRIPT.read_text())
    assert not found, f'{len(found)} places wait:\n{listing(found)}'


if __name__ == '__main__':
    print(listing(left(pathlib.Path(sys.argv[1] if sys.argv[1:] else SCRIPT).read_text())) or 'None.')
