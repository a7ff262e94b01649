#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["paramiko>=2.12", "qrcode>=7.3", "pyperclip>=1.8"]
# ///
"""Sign a command-line program in on a server, with the browser of the device in your hand.

    codex_login.py me@server                 codex login at the server, the browser here
    codex_login.py me@server wrangler login  any other program that waits for a browser's redirect

`codex login` waits on the server's own loopback for the browser's redirect (RFC 8252, section 7.3). This script
opens an SSH connection, starts the program there so that it outlives the connection, opens the sign-in page here,
listens on the redirect's port here, and delivers the browser's request through the connection, whatever a phone
does to it in between.

The file reads from top to bottom, in fourteen rooms: problems and waiting, what people write, what programs say, the device,
reports, paramiko, the link, ports, forwards, the remote program, the redirect, the sign-in, setting up, the command line. A room
uses only what stands above it; what an old paramiko lacks stands in an appendix.
"""
import _thread
import base64
import collections
import contextlib
import errno
import functools
import hashlib
import heapq
import io
import itertools
import os
import re
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from typing import NamedTuple
from unicodedata import category, east_asian_width
from urllib.parse import parse_qsl, unquote, urlsplit

__version__ = '1.0'


# == 1. Problems and waiting ===========================================================================================
# What can go wrong, as people meet it, and how a thread is started, and waits for another. Known here: the clock, nothing else.

USAGE, OWN_ERROR, TIMED_OUT, CANCELLED = 2, 255, 124, 130


class Problem(Exception):
    """A failure that a person can meet: what happened, to which host or file, and what to do next.

    `kind` is one word for programs, `message` and `hint` are for people, `status` is the exit status."""

    def __init__(self, kind, message, hint='', status=OWN_ERROR):
        super().__init__(message)
        self.kind, self.message, self.hint, self.status = kind, message, hint, status


def usage_problem(message, hint=''):
    """The Problem with what a person wrote on a command line."""
    return Problem('usage', message, hint, USAGE)


def elapsed():
    """Seconds on a clock that neither stops while the device sleeps nor can be set."""
    return time.clock_gettime(_CLOCK) if _CLOCK is not None else time.monotonic()


# On Apple's systems Python's monotonic stops in sleep, and CLOCK_MONOTONIC_RAW does not; on Linux it is the other way round.
_CLOCK = getattr(time, 'CLOCK_BOOTTIME', getattr(time, 'CLOCK_MONOTONIC_RAW', None))


def awake(limit, step=0.5):
    """Steps to wait for, `limit` seconds in all in which this process is awake: what it sleeps away counts as one step."""
    count = max(1, -int(-limit // step))
    for _ in range(count):
        yield limit / count


class Late(Exception):
    """Nothing came within the limit."""


class Box:
    """What threads put in, and one thread takes out, in order: how a thread of this script waits for another.

    Each wait has a limit, in waking seconds, and can be called off. A signal that comes just before a wait is heard at the
    end of a step: `step`, in seconds, says how soon; longer ones leave an idle process asleep."""

    def __init__(self, step=1.0):
        self._step, self._items, self._called_off = step, deque(), None
        self._changed = threading.Condition(threading.Lock())

    def put(self, item):
        """Leave an item; from any thread."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def take(self, limit, *default):
        """The next item, within `limit` waking seconds; then the default. Raises Late without one, and what close() was given."""
        for step in itertools.chain((0,), awake(limit, self._step) if limit > 0 else ()):
            with self._changed:
                if not (self._items or self._called_off) and step:
                    self._changed.wait(step)
                if self._items:
                    return self._items.popleft()
                if self._called_off:
                    raise self._called_off
        if default:
            return default[0]
        raise Late

    def close(self, problem):
        """Whoever takes from now on, once the items are gone, gets `problem` raised: it is a state and no event."""
        with self._changed:
            self._called_off = problem
            self._changed.notify_all()

    def __len__(self):
        return len(self._items)

    def __bool__(self):
        return True         # an empty one, too


_started = set()


def start(function, *arguments, failed=None):
    """Run `function` in a thread of its own, that holds up nobody's exit: the only place where a thread is started.

    An exception that nobody expected goes to `failed(error)`; -v says it in any case. Raises RuntimeError where the system
    gives no more threads."""
    def run():
        try:
            function(*arguments)
        except Exception as error:
            import logging
            logging.getLogger('codex_login').debug('%s ended by %r', thread.name, error, exc_info=True)
            if failed:
                failed(error)
        finally:
            _started.discard(thread)
    thread = threading.Thread(target=run, daemon=True, name=getattr(function, '__qualname__', 'a thread'))
    _started.add(thread)
    try:
        thread.start()
    except BaseException:
        _started.discard(thread)
        raise
    return thread


def join_started(limit=1.0):
    """Wait until the threads of this run have ended, `limit` seconds at most; -v names those that stay."""
    deadline = time.monotonic() + limit
    for thread in list(_started):
        thread.join(max(0, deadline - time.monotonic()))
        if thread.is_alive():
            import logging
            logging.getLogger('codex_login').debug('%s is still at work', thread.name)


class Moment:
    """What a Board is to do at a time; until then it can be called off."""

    def __init__(self, board, function):
        self._board, self.function = board, function

    def cancel(self):
        """Do nothing then; from any thread, also when it is over."""
        if self.function:
            self.function = None
            self._board.idle_moments += 1


class Board:
    """One thread that waits for sockets and moments, and does in turns what is to be done then.

    What it is given to do must not wait. What it raises is said under -v, and ends nothing but itself. Its clock counts waking
    seconds: what the process sleeps away is no part of any limit."""
    SLEPT = 1.0             # s by which a look may come too late, and still count as waking time
    MANY = 20               # moments that were called off, from which on they are put away before their time

    def __init__(self):
        self._selector = selectors.DefaultSelector()
        self._calls, self._last, self._moments, self._numbers = deque(), {}, [], itertools.count()
        self._bell, self._button = socket.socketpair()
        self._button.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._rung)
        self._now, self._looked, self.idle_moments = 0.0, elapsed(), 0
        self._asleep, self._closed, self._thread, self._buffer = False, False, None, None

    def start(self):
        """Begin. Until then, what is asked for waits."""
        start(self._run)

    def watch(self, sock, events, function):
        """Call function(events) when `sock` is ready for `events` (selectors'), again and again; no events: never. On the board only."""
        known = self._selector.get_map().get(sock)
        if known and not events:
            self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events, function)
        elif events:
            self._selector.register(sock, events, function)

    def call(self, function):
        """Do something in the next turn; from any thread."""
        self._calls.append(function)
        if self._asleep:
            with contextlib.suppress(OSError):      # rung already, or closed
                self._button.send(b'!')

    def at_the_end(self, function):
        """Do something at the end of this turn, once however often it is asked for; on the board only."""
        self._last[function] = None

    def after(self, seconds, function):
        """The Moment, `seconds` from now, at which something is done; from any thread."""
        moment = Moment(self, function)
        self.call(lambda: heapq.heappush(self._moments, (self._now + seconds, next(self._numbers), moment)))
        return moment

    @property
    def here(self):
        """Whether this is the board's own thread."""
        return self._thread == threading.get_ident()

    def buffer(self, size):
        """A piece of memory that is used again in the next turn; the same size each time, in bytes."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(size))
        return self._buffer

    def close(self):
        """Do what was asked for until now, and then nothing any more."""
        self.call(self._close)

    def _close(self):
        self._closed = True

    def _rung(self, _):
        self._bell.recv(1024)

    def _run(self):
        self._thread = threading.get_ident()
        while not self._closed:
            self._turn()
        self._selector.close()
        self._bell.close()
        self._button.close()

    def _turn(self):
        self._asleep = True             # before the look at the calls: whoever adds one now rings
        if self.idle_moments > max(self.MANY, len(self._moments) // 2):
            self._moments = [entry for entry in self._moments if entry[2].function]
            heapq.heapify(self._moments)
            self.idle_moments = 0
        wait = 0 if self._calls else max(0.0, self._moments[0][0] - self._now) if self._moments else None
        ready = self._selector.select(wait)
        self._asleep = False
        now = elapsed()
        self._now += min(now - self._looked, (wait or 0) + self.SLEPT)
        self._looked = now
        for key, events in ready:
            self._do(key.data, events)
        for _ in range(len(self._calls)):
            self._do(self._calls.popleft())
        while self._moments and self._moments[0][0] <= self._now:
            function = heapq.heappop(self._moments)[2].function
            if function:
                self._do(function)
        while self._last:
            self._do(self._last.popitem()[0])

    @staticmethod
    def _do(function, *arguments):
        try:
            function(*arguments)
        except Exception as error:
            import logging
            logging.getLogger('codex_login').debug('%r ended by %r', function, error, exc_info=True)


# == 2. What people write ==============================================================================================
# One meaning for each text that a person, or another ssh, wrote. Pure: no files, no sockets, no clock.

# Terminal control sequences (ECMA-48, of 7 and 8 bits): CSI, OSC and the like, two-character escapes; cut ones, too.
ESCAPES = re.compile(r'(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?'
                     r'|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -/]*[0-~]?')
MOST_MARKS = 4          # on one letter; more of them paint over the lines around


def harmless(text):
    """`text` from a stranger as one line that may be shown: nothing in it acts on a screen, reorders, or hides."""
    text = ESCAPES.sub('', text)
    if text.isascii() and text.isprintable():
        return text
    kept, marks = [], 0
    for sign in text:
        kind = category(sign)
        marks = marks + 1 if kind in ('Mn', 'Me') else 0
        sign = ' ' if kind == 'Zs' else sign
        if marks <= MOST_MARKS and (sign.isprintable() or sign == '\t'):
            kept.append(sign)
    return ''.join(kept)


def harmless_lines(text):
    """`text` of several lines as it may be shown. All that is said passes here, on its way to a screen, program or log."""
    return '\n'.join(map(harmless, text.split('\n'))) if isinstance(text, str) else text


QUOTES = '“”„‟«»‘’‚‛'
DASHES = '‐‑‒–—―−﹘﹣－'


def plain_word(text):
    """A word of a command line without the curly quotes around it. iOS puts them there while a person types, and makes
    one dash of two hyphens: Problem('usage') for a word that begins with one, or has a curly quote at one end only."""
    if len(text) > 1 and text[0] in QUOTES and text[-1] in QUOTES:
        text = text[1:-1]
    if text and text[0] in DASHES:
        meant = text.lstrip(DASHES)
        meant = ('-' if len(meant) == 1 else '--') + meant
        raise usage_problem(f'{text!r} begins with a dash that is no hyphen; iOS puts it there. Type {meant}',
                            'Settings, General, Keyboard, Smart Punctuation switches that off.')
    if text and (text[0] in QUOTES or text[-1] in QUOTES):
        raise usage_problem(f'{text!r} has a curly quote, which quotes nothing here; iOS puts it there.',
                            'Type straight ones: Settings, General, Keyboard, Smart Punctuation switches them.')
    return text


class Destination(NamedTuple):
    """Where to connect, as it was typed: `user` and `port` are None where nothing was said."""
    user: 'str | None'
    host: str
    port: 'int | None'


def port_number(text):
    """The port that a number or the name of a service says, 0 where one may be chosen; None where it is neither."""
    if re.fullmatch('[0-9]{1,5}', text):
        return int(text) if int(text) < 65536 else None
    with contextlib.suppress(OSError, ValueError):
        return socket.getservbyname(text, 'tcp')


def parse_port(text, what):
    """The number of a port; Problem('usage') with `what` it is the port of for anything else."""
    port = port_number(text)
    if not port:
        raise usage_problem(f'{what} is not a port: {text!r}', 'A port is a number from 1 to 65535, or a service.')
    return port


def parse_destination(text):
    """`[user@]host[:port]` or `ssh://[user@]host[:port]`, IPv6 in brackets or, without a port, bare.

    Raises Problem('usage')."""
    rest = text[len('ssh://'):].rstrip('/') if text.startswith('ssh://') else text
    if re.match('https?://', rest, re.I):
        raise usage_problem(f'This is the address of a web page: {text[:60]!r}',
                            'What is wanted is the server that SSH connects to: [user@]host[:port].')
    user, at, host = rest.rpartition('@')
    port = None
    bracketed = re.fullmatch(r'\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\](?::(.*))?', host)
    if bracketed:
        host, port = bracketed.groups()
    elif host.count(':') == 1:
        host, port = host.split(':')
    if at and not re.fullmatch(r'[^\s\x00-\x1f\x7f-][^\x00-\x1f\x7f]*', user) \
            or not re.fullmatch(r"""(?!-)[^\s\x00-\x1f\x7f'"`$\\;&<>|(){},\[\]]+""", host) \
            or text.startswith('ssh://') and '/' in host:
        raise usage_problem(f'This is no destination: {text!r}', 'Write [user@]host[:port].')
    return Destination(user if at else None, host, parse_port(port, 'The port of the destination') if port else None)


# -- The ssh configuration ---------------------------------------------------------------------------------------------

# The keys of ssh_config(5) that have a meaning here, as the manual spells them; what else it knows is passed over.
CONFIG_KEYS = {key.lower(): key for key in (
    'HostName', 'User', 'Port', 'IdentityFile', 'IdentitiesOnly', 'UserKnownHostsFile', 'StrictHostKeyChecking',
    'BatchMode', 'ConnectTimeout', 'ServerAliveInterval', 'ServerAliveCountMax', 'ProxyJump', 'LocalForward',
    'RemoteForward', 'DynamicForward', 'ExitOnForwardFailure', 'GatewayPorts', 'ClearAllForwardings', 'HostKeyAlias',
    'RevokedHostKeys', 'GlobalKnownHostsFile', 'HostKeyAlgorithms', 'PreferredAuthentications', 'PubkeyAuthentication',
    'KbdInteractiveAuthentication', 'PasswordAuthentication', 'CertificateFile', 'IdentityAgent', 'AddressFamily',
    'BindAddress', 'ConnectionAttempts', 'NumberOfPasswordPrompts', 'PermitRemoteOpen', 'ProxyCommand',
    'CanonicalizeHostname', 'CanonicalDomains', 'CanonicalizeMaxDots', 'RefuseConnection')}
OLD_KEYS = {'challengeresponseauthentication': 'kbdinteractiveauthentication', 'identityfile2': 'identityfile',
            'dsaauthentication': 'pubkeyauthentication'}
# These add up; of the others the first value counts.
LIST_KEYS = ('identityfile', 'certificatefile', 'localforward', 'remoteforward', 'dynamicforward')
_CONFIG_LINE = re.compile(r'[ \t\r]*"?([^ \t\r"=#][^ \t\r"=]*)"?[ \t\r]*(?:=[ \t\r]*)?(.*)', re.S)


def config_line(text):
    """(key in lower case, what follows it) of a line of an ssh_config; ('', '') of one that says nothing."""
    match = _CONFIG_LINE.fullmatch(text.rstrip(' \t\r\n\f'))
    return (OLD_KEYS.get(match[1].lower(), match[1].lower()), match[2]) if match else ('', '')


def config_words(text):
    """The words that follow a key, up to a comment, without quotes and backslashes; None for an open quote."""
    words, word, quote = [], None, ''
    for sign in re.findall(r'''\\["'\\ ]|.''', text, re.S):
        if not quote and sign in ' \t':
            words, word = words if word is None else [*words, word], None
        elif word is None and sign == '#':
            break
        elif sign in ('"', "'") and quote in ('', sign):
            word, quote = word or '', '' if quote else sign
        else:
            word = (word or '') + (sign if quote and sign == '\\ ' else sign[-1])
    return None if quote else words if word is None else [*words, word]


def config_word(text):
    """`text` as one word of a configuration."""
    return text if re.fullmatch(r'[\w@%+=:,./~-]+', text) else '"' + re.sub(r'(["\'\\])', r'\\\1', text) + '"'


class Line(NamedTuple):
    """One line of an ssh configuration: its key in lower case, what follows, and where it stands."""
    key: str
    text: str
    place: str = '-o'

    @property
    def words(self):
        words = config_words(self.text)
        if not words or '' in words:
            raise self.wrong('it says nothing' if words is not None else 'a quote is not closed')
        return words

    def wrong(self, reason):
        """The Problem that this line is."""
        key = CONFIG_KEYS.get(self.key, self.key.capitalize())
        return Problem('config', f'{self.place}: {key} {self.text!r}: {reason.rstrip(".")}.',
                       'Correct it there, or use another file with -F.')


def read_config(path, folder, read, find, depth=0):
    """The Lines of an ssh configuration file, between one with the key include and one with the key end, and so those of
    the files that it includes. `read(path)` gives a text, `find(pattern, folder)` paths. Raises Problem('config')."""
    lines = [Line('include', path)]
    for number, text in enumerate(read(path).split('\n'), 1):
        key, rest = config_line(text) if text.strip() else ('', '')
        line = Line(key, rest.partition('#')[0].strip() if key == 'proxyjump' else rest, f'{path}, line {number}')
        if key == 'include':
            if depth == 16:
                raise line.wrong('files include each other')
            for name in (name for pattern in line.words for name in find(pattern, folder)):
                lines += read_config(name, folder, read, find, depth + 1)
        elif key:
            lines.append(line)
    return [*lines, Line('end', path)]


def tilde_path(text, device):
    """A path with ~ in its place: the person's home, but ~/.ssh is the folder that the device has for it."""
    name, own = text.partition('/')[0], os.path.join(os.path.expanduser('~'), '.ssh/')
    text = os.path.expanduser(name) + '/' + text[len(name):].lstrip('/') if name.startswith('~') else text
    return os.path.join(device.ssh_folder, text[len(own):]) if text.startswith(own) else text


def tokens_for(device, alias, host, port, user, known_as, jump):
    """What %-tokens mean (ssh_config(5), TOKENS)."""
    here = socket.gethostname()
    return {'%': '%', 'h': host, 'n': alias, 'p': str(port), 'r': user, 'k': known_as, 'j': jump, 'u': device.user(),
            'd': os.path.expanduser('~'), 'i': str(os.getuid()), 'l': here, 'L': here.partition('.')[0],
            'C': hashlib.sha1(f'{here}{host}{port}{user}{jump}'.encode()).hexdigest()}


def expand(line, text, tokens, dollars=False):
    """`text` of a Line with its %-tokens and, with `dollars`, its ${NAME}s replaced. Raises Problem('config')."""
    try:
        return re.sub(r'%(.?)|\$\{([^}]*)\}?' if dollars else '%(.?)', lambda found: tokens[found[1]]
                      if found[1] is not None else os.environ[found[2]], text)
    except KeyError as missing:
        raise line.wrong(f'{missing.args[0]!r} has no meaning here') from None


def in_list(patterns, name):
    """Whether one of the patterns means `name`, and none that begins with ! does."""
    meant = [pattern for pattern in patterns if wildcards_match(pattern[pattern.startswith('!'):], name)]
    return bool(meant) and not any(pattern.startswith('!') for pattern in meant)


def look_up(lines, host, device, runs=True):
    """{key: its Lines} for `host`: all of those that add up, else the first. `runs`: commands, too. Raises Problem."""
    return _LookUp(host, device, runs).found_in(lines)


class _LookUp:
    """As ssh(1) does it: line by line, and once more where a `Match final` wants it, with HostName's host."""

    def __init__(self, host, device, runs):
        self._original = self._host = host
        self._device, self._runs, self._found = device, runs, {}
        self._final = self._again = False

    def found_in(self, lines):
        self._read(lines)
        if self._again or self._word('canonicalizehostname', 'no').lower() not in ('no', 'false'):
            self._host, self._final = self._target().lower(), True
            self._found['hostname'] = [Line('hostname', config_word(self._host.replace('%', '%%')))]
            self._read(lines)
        return self._found

    def _read(self, lines):
        active, live, outside = True, True, []      # while it is not live, no Host or Match makes it active
        for line in lines:
            if line.key == 'include':
                outside.append((active, live))
                live = active
            elif line.key == 'end':
                active, live = outside.pop()
            elif line.key == 'host':
                active = live and in_list(line.words, self._host)
            elif line.key == 'match':
                active = self._matches(line, live)
            elif active and line.key in CONFIG_KEYS:
                self._take(line)

    def _take(self, line):
        if line.key == 'refuseconnection':
            raise line.wrong('this server is not to be connected to')
        moot = (line.text == 'none' if line.key in ('connecttimeout', 'serveraliveinterval')
                else 'proxycommand' in self._found if line.key == 'proxyjump'
                else line.key == 'proxycommand' and self._word('proxyjump', 'none').lower() != 'none')
        earlier = self._found.get(line.key, [])
        if not (moot or earlier) or line.key in LIST_KEYS and all(line.words != one.words for one in earlier):
            self._found[line.key] = [*earlier, line]

    def _word(self, key, default):
        return self._found[key][0].words[0] if key in self._found else default

    def _target(self):
        """The host to connect to, as far as is known."""
        if self._final or 'hostname' not in self._found:
            return self._host
        return expand(self._found['hostname'][0], self._word('hostname', ''), {'%': '%', 'h': self._host})

    def _matches(self, line, holds):
        words, count = deque(line.words), 0
        while words:
            negated = words[0].startswith('!')
            name, equals, value = words.popleft()[negated:].partition('=')
            name, count = name.lower(), count + 1
            if name == 'all':
                if words or count > 2:
                    raise line.wrong('all stands alone, or after final')
                return holds and not negated
            if name in ('final', 'canonical'):
                self._again |= name == 'final' and not negated
                met = self._final or (False if name == 'final' or negated else None)
            elif equals or words:
                met = self._meets(name, value if equals else words.popleft(), line, holds)
            else:
                raise line.wrong(f'{name} has no value')
            if met is None:
                import logging
                logging.getLogger('codex_login').debug('%s: %s never matches here', line.place, name)
            holds = holds and met is not None and met != negated
        return holds

    def _meets(self, name, value, line, holds):
        """Whether a condition is met, None for one that never can be."""
        host, here = self._target(), self._device.user()
        user = self._word('user', here)
        known = {'host': host.lower(), 'originalhost': self._original.lower(), 'user': user, 'localuser': here}
        if name in known:
            return in_list((value.lower() if 'host' in name else value).split(','), known[name])
        if name != 'exec' or not self._runs:
            return None
        return holds and self._device.succeeds(expand(line, value, tokens_for(
            self._device, self._original, host, self._word('port', '22'), user, self._word('hostkeyalias', host),
            self._word('proxyjump', ''))))


# What else ssh_config(5) knows.
OTHER_KEYS = frozenset('''
    addkeystoagent bindinterface canonicalizefallbacklocal canonicalizepermittedcnames casignaturealgorithms
    channeltimeout checkhostip ciphers compression controlmaster controlpath controlpersist enableescapecommandline enablesshkeysign
    escapechar fingerprinthash forkafterauthentication forwardagent forwardx11 forwardx11timeout forwardx11trusted
    gssapiauthentication gssapidelegatecredentials hashknownhosts hostbasedacceptedalgorithms hostbasedauthentication ignoreunknown
    include ipqos kbdinteractivedevices kexalgorithms knownhostscommand localcommand loglevel logverbose macs
    nohostauthenticationforlocalhost obscurekeystroketiming permitlocalcommand pkcs11provider proxyusefdpass
    pubkeyacceptedalgorithms rekeylimit remotecommand requesttty requiredrsasize securitykeyprovider sendenv
    sessiontype setenv stdinnull streamlocalbindmask streamlocalbindunlink syslogfacility tcpkeepalive tag tunnel tunneldevice
    updatehostkeys verifyhostkeydns versionaddendum visualhostkey warnweakcrypto xauthlocation'''.split())


def parse_option(text):
    """`KEY=VALUE` or `KEY VALUE` of -o, as (lower-case key, value). Raises Problem('usage')."""
    key, value = config_line(text)
    if not value:
        raise usage_problem(f'-o {text!r} has no value', 'Write -o KEY=VALUE.')
    if key not in CONFIG_KEYS and key not in OTHER_KEYS:
        raise usage_problem(f'-o {text!r} is not an option of this script',
                            'It knows: ' + ', '.join(sorted(CONFIG_KEYS.values())))
    return key, value


class Settings(NamedTuple):
    """What ssh_config(5) and the command line say of one destination; times in seconds."""
    alias: str
    host: str
    port: int
    user: str
    identity_files: tuple
    identities_named: bool
    identities_only: bool
    known_hosts_files: tuple
    known_as: str           # in known_hosts
    strict: str
    batch: bool
    connect_timeout: float
    alive_interval: float
    alive_count: int
    jumps: tuple                # Destinations
    proxy: 'Line | None'        # of a ProxyCommand that is a jump: the words of its ssh
    forwards: tuple             # of the configuration
    clears_forwards: bool       # those of the command line, too
    unmade: tuple               # what forwards of the configuration cannot be had, and why
    exit_on_forward_failure: bool
    gateway_ports: bool
    global_files: tuple         # known_hosts of the whole device
    revoked_files: tuple        # of keys, or KRLs
    key_algorithms: str         # for host keys, as ssh_config(5) has it: 'a,b', '+a', '-a*' or '^a'; '' for the usual
    methods: tuple              # of authentication, in the order to be tried: those that are switched on
    certificate_files: tuple
    agent: 'str | None'         # a socket's path; '' for none, None for the environment's
    family: str                 # any, inet or inet6
    bind_address: str           # '' for any
    attempts: int               # to connect, one a second
    password_tries: int
    permit_remote_open: 'tuple | None'      # of HOST:PORT, * for any, that clients of a -R may name; None for all

    @property
    def name(self):
        """The server as people know it."""
        return f'{self.user}@{self.alias}'

    @property
    def account(self):
        """Who gets what is sent there: not the alias, which anybody can give to any host."""
        return f'{self.user}@{known_hosts_name(self.host, self.port)}'


LONGEST_TIME = 10 ** 6         # seconds; the system's waits take no more than some weeks
METHODS = {'publickey': 'pubkeyauthentication', 'keyboard-interactive': 'kbdinteractiveauthentication',
           'password': 'passwordauthentication'}     # in ssh's order, each with the key that switches it off
OWN_IDENTITY = 'id_codex_login'         # what --new-key makes
DEFAULT_IDENTITIES = (OWN_IDENTITY, 'id_ed25519', 'id_ecdsa', 'id_rsa')


def jump_by_command(line, tokens):
    """A Line with the words of the ssh that a ProxyCommand is, but for its -W, where all that it does is to jump."""
    text = re.sub(r'\s+2>\s*/dev/null$', '', line.text)
    text = re.sub(r'\s(nc|netcat|ncat)(\s+-[a-z]+\d*(\s+\d+)?)*\s+%h\s+%p$', ' -W %h:%p', text)
    ssh, count = re.subn(r'''\s(-\w*)W\s*(["']?)(%h|\[%h\]):%p\2(?!\S)''', r' \1q ', text)
    program = re.match(r'(exec\s+)?([\w./~-]*/)?ssh\s', ssh)
    if count != 1 or not program or re.search(r'[|;&<>`$()\n]|\s--', ssh):
        raise line.wrong('no command is run here; what is followed is ProxyJump, and `ssh JUMP -W %h:%p`')
    words = line._replace(text=ssh[program.end():]).words
    return line._replace(text=' '.join(config_word(expand(line, word, tokens)) for word in words))


def make_settings(destination, found, device):
    """Settings from what look_up() found for a destination.

    Raises Problem('config') or Problem('usage') for a value that ssh_config(5) does not allow, or is not followed here.
    """
    def word(key, default='', wanted='one word', shape='.+'):
        given = found[key][0].words if key in found else [default]
        if key in found and (len(given) != 1 or not re.fullmatch(shape, given[0], re.I | re.S)):
            raise found[key][0].wrong(f'that is not {wanted}')
        return given[0]

    def choice(key, default, **meanings):
        return meanings[word(key, default, 'one of ' + ', '.join(meanings), '|'.join(meanings)).lower()]

    def flag(key, default='no', **more):
        return choice(key, default, no=False, yes=True, false=False, true=True, **more)

    def number(key, default, least=0):
        return max(least, int(word(key, str(default), 'a number', '[0-9]{1,6}')))

    def seconds(key):
        value = word(key, '15', 'a time', '(?=.)([0-9]{1,6}[smhdw])*[0-9]{0,6}').lower()
        return min(LONGEST_TIME, sum(int(count) * {'m': 60, 'h': 3600, 'd': 86400, 'w': 604800}.get(unit, 1)
                                     for count, unit in re.findall('([0-9]+)([smhdw]?)', value)))

    def files(key, *default):
        every = []
        for line in found.get(key, ()):
            names = [name for name in line.words if name.lower() != 'none']
            if line.words[1:] and (key in LIST_KEYS or len(names) < len(line.words)):
                raise line.wrong('none stands alone, and a name with spaces in quotes')
            every += [tilde_path(expand(line, name, tokens, True), device) for name in names]
        return tuple(every) if key in found else tuple(os.path.join(device.ssh_folder, name) for name in default)

    found = {key: own for key, own in found.items()
             if not key.startswith(('proxy', 'canonicald')) or own[0].text.lower() != 'none'}
    alias, host = destination.host, word('hostname', destination.host)
    if 'hostname' in found:
        host = expand(found['hostname'][0], host, {'%': '%', 'h': alias})
    with contextlib.suppress(OSError, UnicodeError):        # as known_hosts has it
        host = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host))
    host, user, port = host.lower(), word('user', device.user()), port_number(word('port', '22'))
    if not re.fullmatch(r'[\w:][\w.:%-]*', host):
        raise usage_problem(f'This is no host: {host!r}', 'Write [user@]host[:port], or a name of the ssh configuration.')
    if not user:
        raise usage_problem(f'As whom at {alias}?', f'Write user@{alias}.')
    if not port:
        raise found['port'][0].wrong('that is not a port, a number from 1 to 65535')
    known_as = word('hostkeyalias', '', 'a name', r'[\w.:%\[\]-]+').lower()     # others mean more in known_hosts
    try:
        jumps = tuple(map(parse_destination, found['proxyjump'][0].text.split(','))) if 'proxyjump' in found else ()
    except Problem as problem:
        raise found['proxyjump'][0].wrong(problem.message) from None
    tokens = tokens_for(device, alias, host, port, user, known_as or alias, jumps[-1].host if jumps else '')
    proxy = jump_by_command(found['proxycommand'][0], tokens) if 'proxycommand' in found else None
    completed = flag('canonicalizehostname', always=2)
    if 'canonicaldomains' in found and (completed == 2 or completed and not (jumps or proxy)) \
            and host.count('.') <= number('canonicalizemaxdots', 1) and ':' not in host and not host.endswith('.'):
        raise found['canonicaldomains'][0].wrong(f'no domain is added to a name here; write {host} in full')
    forwards, unmade, cleared = [], [], flag('clearallforwardings')
    for mode, key in () if cleared else (('D', 'dynamicforward'), ('L', 'localforward'), ('R', 'remoteforward')):
        for line in found.get(key, ()):
            try:
                forwards.append(parse_forward(mode, ' '.join(line.words)))
            except Problem as problem:
                unmade.append(line.wrong(problem.message).message)
    agent = word('identityagent', 'SSH_AUTH_SOCK')
    if agent not in ('SSH_AUTH_SOCK', 'none'):
        agent = os.environ.get(agent[1:], 'none') if re.fullmatch(r'\$\w+', agent) else files('identityagent')[0]
    permitted = found['permitremoteopen'][0].words if 'permitremoteopen' in found else ['any']
    return Settings(
        alias=alias, host=host, port=port, user=user, identity_files=files('identityfile', *DEFAULT_IDENTITIES),
        identities_named='identityfile' in found, identities_only=flag('identitiesonly'),
        known_hosts_files=files('userknownhostsfile', 'known_hosts', 'known_hosts2'),
        known_as=known_as or known_hosts_name(host, port),
        strict=choice('stricthostkeychecking', 'ask', yes='yes', true='yes', ask='ask',
                      **dict.fromkeys(('no', 'false', 'off', 'accept-new'), 'accept-new')),
        batch=flag('batchmode'), connect_timeout=seconds('connecttimeout') or 15,
        alive_interval=seconds('serveraliveinterval'), alive_count=number('serveralivecountmax', 2, 1),
        jumps=jumps, proxy=proxy, forwards=tuple(forwards), clears_forwards=cleared, unmade=tuple(unmade),
        exit_on_forward_failure=flag('exitonforwardfailure'), gateway_ports=flag('gatewayports', clientspecified=False),
        global_files=files('globalknownhostsfile', '/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2'),
        revoked_files=files('revokedhostkeys'), key_algorithms=word('hostkeyalgorithms'),
        methods=tuple(name for name in word('preferredauthentications', ','.join(METHODS)).split(',')
                      if name in METHODS and flag(METHODS[name], 'yes', **{'unbound': True, 'host-bound': True})),
        certificate_files=files('certificatefile'), agent={'SSH_AUTH_SOCK': None, 'none': ''}.get(agent, agent),
        family=choice('addressfamily', 'any', any='any', inet='inet', inet6='inet6'),
        bind_address=word('bindaddress'), attempts=number('connectionattempts', 1, 1),
        password_tries=number('numberofpasswordprompts', 3),
        permit_remote_open=None if [name.lower() for name in permitted] == ['any'] else tuple(permitted))


def may_open(permitted, host, port):
    """Whether PermitRemoteOpen lets a client of the server name this target."""
    return permitted is None or any(f'{name}:{number}' in permitted
                                    for name in (host, f'[{host}]', '*') for number in (port, '*'))


class KnownKey(NamedTuple):
    """One key of a known_hosts file: its type, base64 text, where it stands, and its marker ('' or @revoked, say)."""
    type: str
    key: str
    place: str
    marker: str

    @property
    def fingerprint(self):
        return fingerprint(base64.b64decode(self.key))


def known_hosts_name(host, port):
    """A server's name in known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
    return host.lower() if port == 22 else f'[{host.lower()}]:{port}'


def known_keys(text, name, path=''):
    """The KnownKeys that the text of a known_hosts file has for `name`; lines that say nothing are passed over."""
    found = []
    for number, line in enumerate(text.split('\n'), 1):         # as ssh splits them, and nowhere else
        if not (name in line.lower() or '|1|' in line or '*' in line or '?' in line):
            continue            # most of a long file is about others
        fields = [field for field in line.rstrip('\r').replace('\t', ' ').split(' ') if field]
        marker = fields.pop(0) if fields and fields[0].startswith('@') else ''
        if len(fields) >= 3 and not fields[0].startswith('#') and marker in ('', '@revoked', '@cert-authority') \
                and names_match(fields[0], name) and _is_key(*fields[1:3]):
            found.append(KnownKey(fields[1], fields[2], f'{path}, line {number}', marker))
    return found


def _is_key(type, text):
    with contextlib.suppress(ValueError):
        return base64.b64decode(text).startswith(struct.pack('>I', len(type)) + type.encode())
    return False


def fingerprint(blob):
    """The SHA-256 fingerprint of a public key, as OpenSSH prints it."""
    return 'SHA256:' + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')


def judge_host_key(known, pins, strict, blob):
    """What to do about the key that a server shows, and the KnownKey that decides it or None. As ssh (check_host_key).

    `known` is what the known_hosts files have for the server; another key there, of whatever type, makes it a changed
    one. `pins` are the fingerprints of a pairing, which rule over these files; None without a pairing. The verdicts are
    trusted, add, ask, and the refusals revoked, unpinned, changed, certificate, unknown."""
    text = base64.b64encode(blob).decode()
    revoked = [key for key in known if key.marker == '@revoked' and key.key == text]
    authorities = [key for key in known if key.marker == '@cert-authority']
    plain = [key for key in known if not key.marker]
    if revoked:
        return 'revoked', revoked[0]
    if pins is not None and fingerprint(blob) not in pins:
        return 'unpinned', None
    if any(key.key == text for key in plain) or pins is not None:
        return 'trusted' if plain else 'add', None      # beside an older key it would be no better than that one
    if plain:
        return 'changed', plain[0]
    if authorities and strict != 'ask':
        return 'certificate', authorities[0]
    return {'ask': 'ask', 'accept-new': 'add'}.get(strict, 'unknown'), (authorities or [None])[0]


def wildcards_match(pattern, name):
    """Whether a pattern with ssh's * and ? means `name`: the last star alone is tried again, so no pattern takes long."""
    at = here = star = tried = 0        # in the pattern, in the name; behind the last star, and what it was tried with
    while here < len(name):
        if pattern[at:at + 1] == '*':
            at = star = at + 1
            tried = here
        elif pattern[at:at + 1] in ('?', name[here]):
            at, here = at + 1, here + 1
        elif star:
            tried += 1
            at, here = star, tried
        else:
            return False
    return not pattern[at:].strip('*')


def names_match(patterns, name):
    """Whether the first field of a known_hosts line means `name`: plain, with wildcards, negated, or hashed."""
    if patterns.startswith('|1|'):
        import hmac
        try:
            salt, digest = (base64.b64decode(part) for part in patterns[3:].split('|'))
        except ValueError:
            return False
        return hmac.digest(salt, name.encode(), 'sha1') == digest
    return in_list(patterns.lower().split(','), name)


# -- Forwards ----------------------------------------------------------------------------------------------------------

class ForwardSpec(NamedTuple):
    """One -L, -R or -D as a person wrote it. Without a host, each client names its target, by SOCKS."""
    mode: str           # "L", "R" or "D"
    bind: str           # "" where none was given, "*" for every interface
    port: int
    host: str = ''
    hostport: int = 0

    def __str__(self):
        fields = [self.bind] if self.bind else []
        fields.append(str(self.port))
        if self.host:
            fields += [self.host, str(self.hostport)]
        return ':'.join(f'[{field}]' if ':' in field else field for field in fields)


def parse_forward(mode, text):
    """The spec in `text`, as ssh(1) writes it after -L, -R or -D, or ssh_config(5) after the keyword."""
    def wrong(reason):
        shape = {'L': '[bind:]port:host:hostport', 'D': '[bind:]port',
                 'R': '[bind:]port:host:hostport, or [bind:]port'}[mode]
        return Problem('usage', f'-{mode} {text!a}: {reason}', f'Write it as {shape}.', 2)

    if '/' in text or '\\' in text:
        raise wrong('Unix sockets are not forwarded, only TCP')
    fields = re.split(r':(?![^\[]*\])', ':'.join(text.split())) if len(text) < 1000 else []
    if not all(re.fullmatch(r'\[[^\[\]]*\]|[^\[\]]*', field) for field in fields):
        raise wrong('the brackets do not match')
    fields = [field.strip('[]') for field in fields]
    allowed = {'L': (3, 4), 'R': (1, 2, 3, 4), 'D': (1, 2)}[mode]
    if len(fields) not in allowed:
        raise wrong('an IPv6 address needs brackets' if len(fields) > 4 else 'too many or too few fields')
    # ssh takes an empty bind address for every interface, and a missing one for loopback.
    bind = (fields.pop(0) or '*') if len(fields) in (2, 4) else ''
    port = port_number(fields[0])
    host, hostport = (fields[1], port_number(fields[2])) if len(fields) == 3 else ('', 0)
    if port is None or hostport is None or (len(fields) == 3 and not hostport):
        raise wrong('a port is a number from 1 to 65535 (0 to listen on any free one)')
    if len(fields) == 3 and not host:
        raise wrong('the host to connect to is missing')
    if not all(_is_plain(name) for name in (bind, host)):
        raise wrong('that is no host name')
    return ForwardSpec(mode, bind, port, host, hostport)


def _is_plain(name):
    return len(name) <= 255 and name.isprintable() and not name.startswith('-') and ' ' not in name


# -- Pairing, and the text of a configuration --------------------------------------------------------------------------

# Pairing link: codex-login:1/NAME/USER/HOST/PORT/KEY[/KEY…]
#
# A link is data from a stranger until a person has said yes. It has places and no parameters, so that none
# can be missing, doubled, unknown or an option; a change of meaning is a new version number. Its characters
# are those that neither URLs nor shells give a meaning to, so that no carrier needs to quote it.
# KEY is the SHA-256 of a public host key, in base64url without padding.

_LINK_LIMIT = 1000  # of a link in its carrier; the largest code that 80 columns hold carries 425
_LINK_KEYS = 6
_LINK_CHARACTERS = re.compile(r'[A-Za-z0-9:/._@-]+')
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_-]{0,31}')  # without dots: an alias can't pass for a domain name
_USER = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}')
_HOST_LABEL = re.compile(r'[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?')
_NUMERIC_LABEL = re.compile(r'[0-9]+|0[xX][0-9A-Fa-f]*')
_PORT = re.compile(r'[1-9][0-9]{0,4}')
_KEY = re.compile(r'[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]')  # 256 bits, then two zero bits


class Pairing(NamedTuple):
    """A server to be added: its alias here, where it is, and what its host key must be."""
    name: str
    host: str
    port: int
    user: str
    fingerprints: tuple  # as OpenSSH writes them: SHA256:…


def parse_pairing_link(text):
    """The Pairing of a link: the bare link, or the URL that carries it to Pythonista or a-Shell."""
    link = _link_in_carrier(text.strip(' \t\r\n'))
    if not _LINK_CHARACTERS.fullmatch(link):
        raise _bad_link('it has characters that no pairing link has',
                        'A line break may have got in: copy it again, or scan the code.')
    version, *fields = link.split('/')
    if version != 'codex-login:1':
        raise _bad_link('its version is not known here', 'Use the newest codex_login.py and pair_phone.py.')
    if not 5 <= len(fields) <= 4 + _LINK_KEYS:
        raise _bad_link('it is cut short, or too long')
    name, user, host, port, *keys = fields
    host = _canonical_host(host)
    for fine, reason in (
            (_NAME.fullmatch(name), 'the name of the server is none of up to 32 letters, digits, _ and -'),
            (_USER.fullmatch(user), 'the user name is none of up to 64 letters, digits, . _ @ and -'),
            (host, 'the address is neither a host name (xn--… where it is international) nor an IP address without a zone'),
            (_PORT.fullmatch(port) and int(port) < 65536, 'its port is not a number from 1 to 65535'),
            (all(map(_KEY.fullmatch, keys)) and len(set(keys)) == len(keys), 'its host key fingerprints are damaged')):
        if not fine:
            raise _bad_link(reason)
    fingerprints = tuple('SHA256:' + key.replace('-', '+').replace('_', '/') for key in keys)
    return Pairing(name, host, int(port), user, fingerprints)


def pairing_summary(pairing, width=40):
    """What adding the Pairing would add, for a narrow screen."""
    import textwrap
    labelled = [(f'{label:9}', value) for label, value in (
        ('Name', pairing.name), ('Address', pairing.host), ('Port', str(pairing.port)), ('User', pairing.user))]
    if pairing.fingerprints:
        labelled += [('', 'Host key, one of'), *(('  ', fingerprint) for fingerprint in pairing.fingerprints)]
    return '\n'.join(textwrap.fill(value, width, initial_indent=label, subsequent_indent=' ' * len(label),
                                   break_on_hyphens=False) for label, value in labelled)


def _link_in_carrier(text):
    if len(text) > _LINK_LIMIT:
        raise _bad_link('it is too long')
    if text.startswith('codex-login:'):
        return text
    scheme, _, rest = text.partition(':')
    if scheme in ('pythonista3', 'pythonista'):
        parameters = [parameter.partition('=') for parameter in rest.partition('?')[2].split('&')]
        arguments = [unquote(value) for key, _, value in parameters if key == 'argv']
    elif scheme in ('ashell', 'ashellmini'):
        arguments = unquote(rest).split(' ')[1:]
    else:
        arguments = []
    if len(arguments) != 2 or arguments[0] != '--add' or not arguments[1].startswith('codex-login:'):
        raise Problem('usage', 'This is not a pairing link.',
                      'One begins with codex-login:1/ and is made by pair_phone.py at the server.', 2)
    return arguments[1]


def _bad_link(reason, hint='Make a new one with pair_phone.py at the server.'):
    return Problem('pairing', f'The pairing link cannot be used: {reason}.', hint)


def _canonical_host(host):
    """The one spelling of a host's name or address; '' for what is neither."""
    import ipaddress
    labels = host.split('.')
    # Whatever ends in a number is an address, and is one in the usual spelling only: resolvers also
    # take 127.1, 0x7f000001 and 2130706433, which nobody recognises.
    if ':' in host or _NUMERIC_LABEL.fullmatch(labels[-1]):
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            return '' if '%' in host or address.is_unspecified or address.is_multicast else str(address)
        return ''
    return host.lower() if len(host) <= 253 and all(map(_HOST_LABEL.fullmatch, labels)) else ''


# The text of an ssh_config, for those who change it: not one character of other entries may change. The first
# value wins there, and lines above the first Host or Match are for every host. So a new entry goes to the
# very top, where nothing overrides it; where lines for every host stood at the top, a "Host *" after the new
# entry keeps them so.

_CONFIG_ENTRY = re.compile(r'^(?=[ \t]*(?:host|match)(?:[ \t]*=|[ \t]))', re.I | re.M)      # where one begins
_CONFIG_SETTING = r'(?m)^[^\S\n]*[^\s#].*\n?'


def host_entries(lines):
    """The names that Lines of an ssh configuration have Host entries for, in their order, without patterns."""
    names = (name for line in lines if line.key == 'host' for name in line.words)
    return list(dict.fromkeys(name for name in names if not re.search('[*?!]|^-', name)))


def config_with_host(text, pairing):
    """An ssh_config text with one entry for the Pairing in front, in place of entries for its name alone.

    An entry that its name shares with others stays, and gives what the new one leaves open. Raises Problem('usage')."""
    for value, shape, what in ((pairing.name, r'\w[\w.-]*', 'name'), (pairing.host, r'[\w:][\w.:%-]*', 'address'),
                               (pairing.user, r"""(?!-)([^"%$\\]|\\(?![\\"' ]|$))+""", 'user')):
        if not (re.fullmatch(shape, value) and value.isprintable()):
            raise usage_problem(f'This {what} cannot be used: {value!r}', 'Correct it.')
    newline = '\r\n' if '\r\n' in text else '\n'
    for_every_host, *entries = _CONFIG_ENTRY.split(text)
    rest = for_every_host + ''.join(_without_settings(entry) if _host_patterns(entry) == [pairing.name] else entry
                                    for entry in entries)
    host = pairing.host.replace('%', '%%')
    user = pairing.user if _USER.fullmatch(pairing.user) else f'"{pairing.user}"'
    lines = [f'Host {pairing.name}', f'    HostName {host}', f'    Port {pairing.port}', f'    User {user}']
    lines += [''] if rest else []
    lines += ['Host *'] if re.search(_CONFIG_SETTING, for_every_host) else []
    return ''.join(line + newline for line in lines) + rest


def _host_patterns(entry):
    key, text = config_line(entry.partition('\n')[0])
    return config_words(text) if key == 'host' else None


def _without_settings(entry):
    """The comments after an entry's last setting, which are the next entry's, without one blank line before them."""
    *_, last = re.finditer(_CONFIG_SETTING, entry)
    return re.sub(r'\A[^\S\n]*(\n|\Z)', '', entry[last.end():])


# == 3. What programs say ==============================================================================================
# From bytes to meaning, in pieces of any size. Pure as well.

class Record(NamedTuple):
    """Something that the launcher says of itself between the program's lines, as (name, text)."""
    name: str
    text: str


class Transcript:
    """Tells the launcher's records from the program's bytes among which they stand, in pieces of any size.

    A record is `@MARK NAME TEXT\\n`, wherever it stands; nobody else knows the mark. All other bytes are the program's."""
    LONGEST = 65536     # bytes of a record

    def __init__(self, mark):
        self._prefix = f'@{mark} '.encode()
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data):
        """Each piece of bytes, and each Record, that `data` completes; whoever stops in between finds what is left in rest()."""
        self._buffer += data
        while piece := self._next():
            yield piece

    def rest(self):
        """What has not been told yet; it is not told any more."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        return rest

    def _next(self):
        buffer, prefix = self._buffer, self._prefix
        start = buffer.find(prefix)
        if start == 0:
            end = buffer.find(b'\n', self._searched)
            if end < 0 and len(buffer) <= self.LONGEST:
                self._searched = len(buffer)
                return None
            end = end if 0 <= end <= self.LONGEST else self.LONGEST
            name, _, text = bytes(buffer[len(prefix):end]).decode('utf-8', 'replace').partition(' ')
            del buffer[:end + 1]
            self._searched = 0
            return Record(name, text)
        if start < 0:
            start = buffer.rfind(b'@', max(0, len(buffer) - len(prefix)))      # a record may begin here
            start = start if start >= 0 and prefix.startswith(buffer[start:]) else len(buffer)
        piece = bytes(buffer[:start])
        del buffer[:start]
        return piece


class Lines:
    """Cuts a program's output into whole lines, from pieces of any size; `rest` is the line that has no end yet."""
    LONGEST = 65536     # bytes; a longer line comes in pieces

    def __init__(self):
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data):
        """The lines that `data` completes."""
        self._buffer += data
        found = []
        while True:
            end = self._buffer.find(b'\n', self._searched)
            if end < 0 and len(self._buffer) <= self.LONGEST:
                self._searched = len(self._buffer)
                return found
            end = end if 0 <= end <= self.LONGEST else self.LONGEST
            found.append(self._text(end))
            del self._buffer[:end + (self._buffer[end:end + 1] == b'\n')]
            self._searched = 0

    @property
    def rest(self):
        return self._text(len(self._buffer))

    def _text(self, end):
        return self._buffer[:end].decode('utf-8', 'replace').rstrip('\r')


class SignIn(NamedTuple):
    """A sign-in address: where the browser goes, and where its redirect comes back to.

    `port` and `path` are the redirect's; `path` is '' where only the page knows it. `state` is None where the address names
    none. `kind` is 'redirect'; 'bare' where it names none, and is on the server's loopback itself; 'cut' where its end is
    missing, and it must not be opened. Without a `port`: 'leaving' where the redirect goes elsewhere than to loopback, and
    'page' for a mere page: whether it leads back, and where, only the program knows. `tls`: what listens at the port speaks it."""
    url: str
    port: 'int | None'
    path: str
    state: 'str | None'
    kind: str
    tls: bool = False

    @property
    def served(self):
        """Whether the program itself serves the page."""
        return self.kind == 'bare'


ADDRESS_SIGNS = r'[!#-;=?-Z\]^_a-z|~[]+'
URLS = re.compile('https?://' + ADDRESS_SIGNS)
AFTER_ADDRESS = '.,;:!?)]}|\'*'       # what a sentence puts behind an address
LINKS = re.compile('(?:\x1b]|\x9d)8;[^;\x07\x1b\x9c]*;(https?://[!-~]+)')     # where a terminal's hyperlink leads (OSC 8)
FRAME = ' \t│┃║|'
# An address with this end is none yet.
CUT = re.compile('(%[0-9a-f]?|%3a|[^/]:|[?&]|[?&](state|scope|client_id|redirect_uri|response_type|code_challenge)=)$', re.I)
SIGNING_IN = re.compile(r'auth|log[ -]?[io]n|sign[ -]?[io]n|\bsso|saml|oidc|browser', re.I)
SCOPE = re.compile('openid|profile|email|offline_access|.*[a-z][_:/.][a-z].*')
# A page on loopback that is a sign-in by its name, and not a proxy or a program's own window.
SIGNS_IN = re.compile('[?&]state=|/(auth|authorize|oauth2?|login|sign[-_]?in|sso)(?![a-z])', re.I)
# A line with these says where a program listens, or what it asks, not where a person shall go.
LISTENING_WORDS = re.compile(r'\b(start|listen|serv|wait|callback|redirect|running|proxy)', re.I)


def loopback_port(url):
    """The port of an http(s) address on loopback, else None. Names below localhost are loopback, too (RFC 6761, 6.3)."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ('http', 'https') and re.fullmatch(r'(.*\.)?localhost|127\.0\.0\.1|::1', parts.hostname or ''):
            return parts.port or (443 if parts.scheme == 'https' else 80)
    except ValueError:
        pass
    return None


def parameters_of(url):
    """The parameters of an address as (name, value), in its query, and behind its fragment's `?`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    return parse_qsl(parts.query) + parse_qsl(parts.fragment.partition('?')[2] or parts.fragment)


def read_sign_in(url, nested=3):
    """The SignIn that an address stands for, else None where nothing in it speaks of a redirect to loopback.

    The redirect is redirect_uri (RFC 6749, section 4.1.1), or what is called much like it; any other parameter with an
    address only where there is none of these. It may stand in another address, or be no more than a port."""
    encoded = re.compile('https?%3a', re.I)
    parameters = [(name, unquote(value) if encoded.match(value) else value) for name, value in parameters_of(url)]
    state = dict(parameters).get('state')
    places = [pair for pair in parameters if re.match('https?://|/.*[?]', pair[1])]
    named = [pair for pair in places if re.search('redirect|callback|return', pair[0], re.I)]
    for _, value in sorted(named, key=lambda pair: pair[0] != 'redirect_uri') or places:
        port = loopback_port(value)
        if port:
            return SignIn(url, port, urlsplit(value).path or '/', state, 'redirect', value.startswith('https'))
        inner = nested and read_sign_in(value, nested - 1)
        if inner and inner.kind == 'redirect':
            return inner._replace(url=url)
    name_of_port = '[_-]port$|Port$' + '|^port$' * bool(re.search('redirect|callback|login|auth|[?&]state=', url, re.I))
    for name, value in () if named else parameters:
        if re.search(name_of_port, name) and re.fullmatch('[0-9]{4,5}', value) and 1023 < int(value) < 65536:
            return SignIn(url, int(value), '', state, 'redirect')
    port = loopback_port(url)
    return SignIn(url, port, urlsplit(url).path or '/', None, 'bare', url.startswith('https')) if port else None


def addresses(text):
    """Each address in a text, with where it begins and ends: a sentence goes on behind it, but scopes may have raw spaces."""
    places = list(URLS.finditer(text))
    for place, following in zip(places, [*(place.start() for place in places[1:]), len(text)]):
        url, named, _ = place[0].partition('](')        # Markdown, with the address for a name
        tail = re.match(f'(?: {ADDRESS_SIGNS})*', text[place.end():following])[0]
        more = re.match('.*&[A-Za-z][^ =&]*=[^ ]*', tail)
        if more and '?' in url and not named:
            tail = more[0]
        elif not re.split('[?&]', url)[-1].startswith('scope=') or not all(map(SCOPE.fullmatch, tail.split())):
            tail = ''
        yield (url + tail).replace(' ', '%20').rstrip(AFTER_ADDRESS), place.start(), place.end() + len(tail)


class Finder:
    """Finds what a person is to open: in the lines that a program prints, and in what it hands to $BROWSER.

    A redirect is given at once, and again where it is another one than before. But an address at the end of its line may go
    on in the next one, where something breaks lines at a fixed width; and what is bare or cut is only the second best. These
    are given by settle(), after `quiet` seconds without a word; None where nothing is waited for. With `strict`, addresses
    whose redirect leaves are given, too; else `page` is the SignIn of what looks most like a page to sign in on, if there is one."""
    WIDEST = 256        # columns of a line that something broke
    MANY, NEAR = 2000, 12       # lines, after which only those are looked at that are near an address

    def __init__(self, strict=False, columns=80):
        self._columns, self._count, self._near, self._passed = columns, 0, 0, deque(maxlen=self.NEAR)
        self._strict, self._last, self._second, self._codes = strict, None, None, DeviceCodes()
        self._kept, self._listens, self._signs_in, self._place, self._width, self._even, self.page = '', False, False, 0, 0, False, None
        self.states = set()         # of all addresses

    @property
    def quiet(self):
        soon = self._kept or self._second and self._second.served and SIGNS_IN.search(self._second.url)
        return 0.5 if soon else 3.0 if self._second else None

    def feed(self, line):
        """The SignIn or DeviceCode that a line brings or completes, else None."""
        self._count += 1
        self._near = self._count + self.NEAR if 'http' in line else self._near
        if self._count > max(self.MANY, self._near) and not self._kept:
            self._codes.line += len(self._passed) == self.NEAR
            self._passed.append(line)
            return None
        found = [self._look_at(each) for each in (*self._passed, line)][-1]
        self._passed.clear()
        return found

    def _look_at(self, line):
        text = re.sub(r'\\u00([2-7][0-9a-f])', lambda match: chr(int(match[1], 16)), harmless(line).replace('\\/', '/'))
        text = re.sub('&(?:amp|#38|#x26);', '&', text)
        body, place, width = text.strip(FRAME), len(text.rstrip(FRAME)), len(text.rstrip())
        if width - place > len(text) - len(text.lstrip(FRAME)):     # there was room before the frame's right side
            width = place
        joined, found = self._kept and self._goes_on(body, place), None
        if joined:
            body = self._kept + body
        else:
            found = self._release()
        self._listens = bool(LISTENING_WORDS.search(URLS.sub('', body)))
        self._signs_in = self._signs_in or bool(SIGNING_IN.search(body))
        self._kept, self._even = '', joined and place == self._place
        for url in LINKS.findall(line):
            found = self._offer(url) or self._code(url) or found
        for url, start, end in addresses(body):
            if end == len(body) and place <= self.WIDEST:
                self._kept, self._place, self._width = body[start:], place, width
            else:
                found = self._offer(url, cut=body.startswith('…', end)) or found
        return found or self._code(body)

    def handed(self, url):
        """The same for an address that $BROWSER was handed, which is whole."""
        url = url.replace(' ', '%20')
        if not URLS.fullmatch(url):
            return None
        found = self._offer(url, handed=True) or self._code(url)
        self._kept = '' if found else self._kept
        if not (found or self._last or self._codes.given):
            found = SignIn(url, None, '', None, 'page')
            if DeviceCodes.PAGE.match(url):     # its code may be on its way
                found, self._second = None, found
        return found

    def settle(self):
        """The SignIn that is left after the quiet, else None."""
        if self._kept:
            return self._release()
        found, self._second = self._second, None
        self._last = found if found and found.served else self._last
        return found

    def _release(self):
        url, self._kept = self._kept, ''
        return self._offer(next(addresses(url))[0]) if url else None

    def _goes_on(self, body, place):
        """Whether a line goes on with the address that was kept: it looks like one, or the line before was full."""
        piece = re.match(ADDRESS_SIGNS, body)
        if not piece or URLS.match(body) or place > self._place:
            return False
        if re.search('&[A-Za-z][^ =&]*=|%[0-9A-F]{2}', piece[0]) or CUT.search(self._kept):
            return True
        alone = piece.end() == len(body)
        word = re.fullmatch('[A-Z][a-z]+[.,:;!?]*|[a-z]+' + '[.,:;!?]' * alone + '[.,:;!?]*|[0-9]?[^\\w%].*', piece[0])
        full = self._width == self._columns
        return alone and (self._even or full) or not word and (self._even or full or self._width == 80)     # as rich does

    def _offer(self, url, cut=False, handed=False):
        """What becomes of an address: it is given, or kept for second best, or nothing new."""
        found, last = read_sign_in(url), self._last
        self.states |= {value for name, value in parameters_of(url) if name == 'state'}
        if not found and self._strict and any(name == 'redirect_uri' for name, _ in parameters_of(url)):
            found = SignIn(url, None, '', None, 'leaving')
        if not (found or self._strict or handed or cut or self._codes.given or DeviceCodes.PAGE.match(url)) and self._signs_in:
            self.page = max(self.page, SignIn(url, None, '', None, 'page'), key=lambda page: len(page.url if page else ''))     # no page of help
        if not found or found.served and (self._listens or self._codes.given) and not handed:
            return None
        if not handed and (cut or CUT.search(url)):
            found = found._replace(kind='cut')
        second = found.kind in ('bare', 'cut')
        if last and (last.url.startswith(url) or second and not last.served
                     or last.state and found[1:4] == last[1:4] and not url.startswith(last.url)):
            return None
        if second and not handed:
            self._second = found
            return None
        self._last, self._second = found, None
        return found

    def _code(self, text):
        found = None if self._last else self._codes.feed(text)
        self._second = None if found else self._second
        return found


ASKS = re.compile(r'[?:>)\]»›❯$#=]\s*$')       # how a line ends that waits for an answer, and not for its own end
SECRETS = re.compile('pass ?(word|phrase|code)|secret|\\bpin\\b', re.I)


def asks_for_code(prompt):
    """Whether a program's prompt asks for a code, or the like."""
    return bool(ASKS.search(prompt) and re.search(DeviceCodes.CALLED.pattern + '|token', prompt, re.I))


def code_in(text, prompt, states):
    """The code in a copied text that a program asks for by its prompt, else ''. CODE#STATE is one for a sign-in with that state only."""
    word = text.strip()
    code, _, state = word.partition('#')
    return word if asks_for_code(prompt) and re.fullmatch('[!-~]{4,4000}', word) and code and '://' not in word and (not state or state in states) else ''


class DeviceCode(NamedTuple):
    """A page and the one-time code to enter there (RFC 8628)."""
    url: str
    code: str


class DeviceCodes:
    """Finds page and code of a device sign-in, whichever comes first. The page is one for that by its address; the code is
    what is called one, or stands alone where one was announced or behind such a page."""
    NEAR = 12           # lines that may be between page and code
    PAGE = re.compile('https://.*(?:[/.]device|device(?:login|[/.?])|/activate|/link$|/pair|/connect$|user_code=)', re.I)
    ALONE = ('((?=.*[0-9])[A-Z0-9]{6,10})', '((?![A-Z]?[a-z]+$)[A-Za-z0-9]{6,10})')      # in the line after; where that ended with a colon
    CALLED = re.compile('code|código|codice|код|コード|代码|代碼|코드', re.I)

    def __init__(self):
        self.line, self._page, self._code, self.given, self._called = 0, (-self.NEAR, ''), (-self.NEAR, ''), '', False

    def feed(self, text):
        """The DeviceCode that a harmless line completes, else None."""
        self.line += bool(text)
        for url, *_ in addresses(text):
            if self.PAGE.match(url):
                self._page = self.line, url
                given = dict(parameters_of(url)).get('user_code')       # verification_uri_complete
                self._code = (self.line, given) if given else self._code
        words = URLS.sub(' ', text).strip(FRAME)
        called, near = bool(self.CALLED.search(words)), self.line - self._page[0] < self.NEAR
        code = (re.search(r'(?<![\w/-])([A-Z0-9]{4,8}-[A-Z0-9]{4,8})(?![\w-])', words)
                or re.search(r'\bcode\b\W{0,3}(?:is\W{1,3})?([A-Z0-9]{6,10})(?![\w-])', words)
                or near and self._called and re.fullmatch(self._called, words))
        if code and (called or code[0] == words and (self._called or near)):    # else it is a word of something else
            self._code = self.line, code[1]
        if words:
            self._called = called and self.ALONE[words[-1] in ':：']
        if not self._page[1] or self._code[1] in ('', self.given) or abs(self._page[0] - self._code[0]) >= self.NEAR:
            return None
        self.given = self._code[1]
        return DeviceCode(self._page[1], self.given)


# A host of a network at home or at work, as far as its name or address says.
PRIVATE = re.compile(r'(10\.|192\.168\.|169\.254\.|172\.(1[6-9]|2[0-9]|3[01])\.)[0-9.]+|f([cd]|e[89ab])[0-9a-f]*:.*'
                     r'|(?!0x)[a-z][^.:]*|.*\.(local|lan|internal|home\.arpa)')


def check_page(url, issuer, agreed):
    """Raises Problem('address') for a page that no browser is to open.

    It is https, or on loopback itself (RFC 8252, section 8.3), or in a private network, if agreed(question). Where the
    issuer is known, the redirect leads back to this device (section 7.3), and the page is at the issuer's, or agreed to.
    """
    parts, ask = urlsplit(url), 'Ask who runs the server.'
    host = parts.netloc[:200]
    redirects = [value for name, value in parameters_of(url) if name == 'redirect_uri']
    leaving = [value for value in redirects if loopback_port(value) is None]
    if issuer and leaving:
        raise Problem('address', 'The sign-in address sends its answer elsewhere, not back to this device; it was not '
                      f'opened:\n{harmless(leaving[0])[:80]}', ask)
    if parts.scheme != 'https' and loopback_port(url) is None and not (PRIVATE.fullmatch(parts.hostname or '') and agreed(
            f'The sign-in page at\n{host}\nis not https: whoever can read that network could take the sign-in. Open it')):
        raise Problem('address', f'The sign-in address is not https, and was not opened:\n{url.partition("?")[0][:120]}',
                      f'Whoever can read the network could take the sign-in. {ask}')
    if issuer and host.lower() != issuer.lower() and not agreed(
            f'The sign-in page is at\n{host}\nand not at {issuer}. Whoever runs it may get the sign-in. Open it'):
        raise Problem('address', f'The sign-in page is at {host}, not at {issuer}; it was not opened.', ask)


# -- What a browser sends ----------------------------------------------------------------------------------------------

CODEX_PORTS = (1455, 1457)
SUCCESS_PATH = '/success'       # where codex sends the browser after the redirect; it ends when that was asked for


class Redirect(NamedTuple):
    """A browser's answer to a sign-in, as a person brings it: `target` is path and query as in a request line.

    `port` is None, and `path` '', where it is an address without its beginning."""
    port: 'int | None'
    target: str
    path: str

    def request(self, pending):
        """The Request with which a browser would have brought it to the Pending login. A mere query is known by its state only."""
        path = (pending.path or '/') if pending.state and not self.path else ''
        return Request('GET', path + self.target, (('Host', f'localhost:{self.port or pending.port}'), ('Accept', 'text/html, */*')))


def parse_redirect(text):
    """The one redirect in what a person pastes or shares: among other words, in quotes or brackets, percent-encoded as
    a whole, or without its beginning. Raises Problem('redirect')."""
    text, found = ' '.join((text or '').split()), []
    for _ in range(3):
        found = found or list(dict.fromkeys(addresses_in(harmless(text).replace('&amp;', '&'))))
        text = unquote(text)
    found = [address for address in found if loopback_port(address)] or [
        address for address in found if '://' not in address and {'state', 'code', 'error'} & dict(parameters_of(address)).keys()]
    found = [address for address in found if '?' in address] or found
    if len(found) != 1 or not re.fullmatch(r'[!-~]{1,16000}', found[0]):
        raise Problem('redirect', 'These are several redirects of sign-ins.' if len(found) > 1 else
                      'This is no redirect of a sign-in.' if text else 'There is no address: nothing was copied.',
                      'Copy the address of the failed page, whole and alone: http://localhost: or http://127.0.0.1: and a port.')
    parts = urlsplit(found[0])
    path = parts.path or ('/' if parts.netloc else '')
    return Redirect(loopback_port(found[0]), path + ('?' + parts.query if parts.query else ''), path)


def addresses_in(text):
    """What stands for an address in a text, each word looked at once: URLs, and redirects without their beginning."""
    for word in re.split(r'[\s"<>`{}\\' + QUOTES + r']+|\]\(', text):
        word = word.lstrip("(*_'").rstrip(AFTER_ADDRESS)
        url = re.search('https?://', word)
        if url:
            yield word[url.start():]
        elif re.match(r'(localhost|127\.0\.0\.1|\[::1\])[:/]', word):
            yield 'http://' + word
        elif re.match(r'/(?!/)[^?]*\?|\?', word):
            yield word
        elif re.match('(state|code|error)=', word):
            yield '?' + word


class Request(NamedTuple):
    """An HTTP request: `lines` are the header lines as (name, value); `body` is None where it is larger than is read."""
    method: str
    target: str
    lines: tuple
    body: 'bytes | None' = b''

    def header(self, wanted):
        return next((value for name, value in self.lines if name.lower() == wanted), '')

    @property
    def key(self):
        """What it shares with the same request asked again, and with no other: its target; where it has a body, that too."""
        return self.target + (' ' + hashlib.sha256(self.body).hexdigest() if self.body else '')

    def parameters(self):
        """What it brings as (name, value), in its query, and in its body where that is a form or JSON."""
        import json
        kind, body = self.header('content-type').lower(), (self.body or b'').decode('utf-8', 'replace')
        form = '&' + body if kind.startswith('application/x-www-form-urlencoded') else ''
        found = parse_qsl(self.target.partition('?')[2] + form, keep_blank_values=True)
        if kind.startswith('application/json'):
            with contextlib.suppress(ValueError, RecursionError, AttributeError):
                found += [(name, str(value)) for name, value in json.loads(body).items()]
        return found


class Reader:
    """Reads one message from pieces of any size: Reader(read_request) a Request, Reader(read_reply) a Reply (RFC 9112).

    `unended` says that some of a body is there, and that nothing tells where it ends: no length, nor a promise to close.
    """

    def __init__(self, read):
        self.data, self.at, self.ended, self.unended = bytearray(), 0, False, False
        self._reading = read(self)

    def feed(self, piece):
        """The message once it is whole, None before; b'' says that no more comes. Raises ValueError for what is none."""
        self.data += piece
        self.ended = not piece
        return next(self._reading)

    def wait_for(self, at):
        """What every step of a reader does: it yields until there is as much. Raises ValueError where no more comes."""
        while len(self.data) < at:
            if self.ended:
                raise ValueError('it broke off')
            yield

    def take(self, count):
        """The next bytes."""
        yield from self.wait_for(self.at + count)
        self.at += count
        return bytes(self.data[self.at - count:self.at])

    def past(self, ending, most=65536):
        """The bytes up to an ending, which is passed over. Raises ValueError where they are more than `most`."""
        start = searched = self.at
        while True:
            end = re.compile(ending).search(self.data, max(start, searched - 3))
            searched = end.start() if end else len(self.data)
            if searched - start > most:
                raise ValueError('it is too long')
            if end:
                self.at = end.end()
                return bytes(self.data[start:searched])
            yield from self.wait_for(searched + 1)


def read_head(reader, pattern, what):
    """The match of the first line of an HTTP message, and its header lines as (name, value)."""
    first, *rest = re.split('\r?\n', (yield from reader.past(rb'\r?\n\r?\n')).decode('latin-1'))
    match = re.match(pattern, first)
    if not match:
        raise ValueError(f'this is no HTTP {what}')
    return match, tuple((name.strip(), value.strip()) for name, _, value in (line.partition(':') for line in rest))


def read_request(reader):
    """For Reader: a Request, with its body. What says its length twice, or not at all, is none (RFC 9112, section 6.3)."""
    match, lines = yield from read_head(reader, r'([A-Z]{1,20}) ([!-~]+) HTTP/1\.[01]$', 'request')
    lengths = [value for name, value in lines if name.lower() in ('content-length', 'transfer-encoding')] or ['0']
    if len(lengths) > 1 or not re.fullmatch('[0-9]{1,15}', lengths[0]):
        raise ValueError('it does not say how long it is')
    length = int(lengths[0])
    yield Request(*match.groups(), lines, (yield from reader.take(length)) if length <= 1 << 20 else None)


def request_text(request, cookies=()):
    """The bytes of `request` as it is delivered: one request, after which the server closes.

    Of its cookies those named go along: a browser sends what any program on localhost has ever set, at whatever port.
    """
    lines = [f'{request.method} {request.target} HTTP/1.1']
    for name, value in request.lines:
        if name.lower() == 'cookie':
            value = '; '.join(pair for pair in re.split('; *', value) if pair.partition('=')[0] in cookies)
        if name.lower() not in ('connection', 'keep-alive', 'upgrade', 'proxy-connection', 'expect', '' if value else 'cookie'):
            lines.append(f'{name}: {value}')
    return '\r\n'.join([*lines, 'Connection: close', '', '']).encode('latin-1') + (request.body or b'')


class Reply(NamedTuple):
    """An HTTP reply: its status, where it sends the browser or '', all its bytes, and the names of the cookies that it sets."""
    status: int
    location: str
    data: bytes
    cookies: tuple = ()


def read_reply(reader):
    """For Reader: a Reply, which ends by its status, in chunks, by its length, or with the connection (section 6.3)."""
    status = 100
    while status < 200 and status != 101:       # 1xx: the reply is still to come
        start = reader.at
        match, lines = yield from read_head(reader, r'HTTP/1\.([01]) ([1-9][0-9]{2})(?![0-9])', 'reply')
        status, headers = int(match[2]), {name.lower(): value for name, value in lines}
    length = headers.get('content-length', '')
    if status in (204, 304):
        pass
    elif 'chunked' in headers.get('transfer-encoding', '').lower():
        while size := int(re.match(b'[0-9A-Fa-f]{0,8}', (yield from reader.past(b'\n')))[0], 16):
            yield from reader.take(size)
            yield from reader.past(b'\n')
        while (yield from reader.past(b'\n')).strip():
            pass
    elif re.fullmatch('[0-9]{1,9}', length):
        yield from reader.take(int(length))
    else:
        closes = match[1] == '0' or headers.get('connection', '').lower() == 'close'
        while not reader.ended:
            reader.unended = not closes and len(reader.data) > reader.at
            yield
        reader.at = len(reader.data)
    yield Reply(status, headers.get('location', '') if 300 <= status < 400 else '', bytes(reader.data[start:reader.at]),
                 tuple(value.partition('=')[0].strip() for name, value in lines if name.lower() == 'set-cookie'))


def hash_of(state):
    """What is kept of a state: its SHA-256 in hex, '' for none."""
    return hashlib.sha256(state.encode('utf-8', 'replace')).hexdigest() if state else ''


class Pending(NamedTuple):
    """The login that waits at the redirect's port, as far as the judge has to know it.

    `path` is the redirect's, '' where only its page knows it, or where `served`, that of the address itself; `state` is the hash_of the address's state.
    `stage` is 'open' until a redirect is carried, 'carrying' until it is answered, then 'carried', or 'open' again where the
    program would not have it, and 'over' with the login. `carried` is that redirect's key, `leads_to` where answers sent the browser on this port.
    With `tls` nothing of that can be read, and none of it is judged: while the login waits, one connection after another passes whole.
    """
    port: int
    path: str
    state: str
    served: bool
    codex: bool
    stage: str = 'open'
    carried: str = ''
    leads_to: tuple = ()
    tls: bool = False


# What can become a request, and a ClientHello in its record (RFC 8446, sections 4.1.2 and 5.1), by their first bytes.
HTTP_BEGINS = re.compile(rb'[A-Z]{0,20}|[A-Z]{1,20} .*', re.S)
TLS_BEGINS = re.compile(rb'(\x16(\x03([\0-\4](.{0,2}|..\x01.*))?)?)?', re.S)


def stage_after(status, codex):
    """The stage that the program's answer to the redirect leads to. Only codex ends where its redirect came to nothing (5xx)."""
    return 'open' if 400 <= status < (500 if codex else 600) else 'carried'


CARRY, JOIN, LAST, PASS, HERE = 'carry', 'join', 'last', 'pass', 'here'


class Verdict(NamedTuple):
    """What becomes of a request. CARRY it, once; JOIN: it gets the answer of the one that was carried; LAST: it gets the
    page at `target`; PASS it on, as often as it takes; or it is answered HERE, with a page that may ask again after s.
    """
    act: str
    target: str = ''
    status: int = 0
    title: str = ''
    text: str = ''
    again: 'int | None' = None


# What the result of a sign-in is called where the path of its redirect is not known (RFC 6749, 4.1.2; tsh has its own).
RESULTS = {'code', 'error', 'response', 'err'}


def judge(request, pending):
    """The Verdict on a browser's Request: only the pending login's own answer passes, and the pages it leads to.

    A request for anything else may come from any page that the browser shows, or from another program on this device.
    """
    def here(status, title, text, again=None):
        return Verdict(HERE, '', status, title, text, again)

    stranger = 'Not for this sign-in'
    path, _, query = request.target.partition('?')
    if not path.startswith('/') or '#' in request.target or path != pending.path and _is_crooked(path):
        return here(400, 'Not understood', 'This is no address of a page here.')
    hosts = [value.lower() for name, value in request.lines if name.lower() == 'host']
    if len(hosts) != 1 or not re.fullmatch(rf'(([a-z0-9-]+\.)*localhost|127\.0\.0\.1|\[::1\]):{pending.port}', hosts[0]):
        return here(403, stranger, 'The request was meant for another host.')
    if request.body is None:
        return here(413, 'Too large', 'No sign-in sends as much as that.')
    parameters, own = request.parameters(), _is_from_own_page(request, pending.port)
    known = pending.path and not pending.served
    comes = request.target not in pending.leads_to and (
        unquote(path) == unquote(pending.path) if known else
        not own and bool(parameters or _is_top_level(request) and 'text/html' in request.header('accept')) if not pending.served else
        bool(RESULTS & {name for name, _ in parameters}))
    if request.method == 'OPTIONS' and request.header('origin') and (comes or not known) and not pending.codex:
        return Verdict(PASS, request.target)        # the program says whether a page may bring the result (Fetch, CORS preflight)
    if request.method not in ('GET', 'POST') or comes and request.method == 'POST' and not request.body:
        return here(405, stranger, 'Only GET requests and forms are relayed.')
    if path == '/favicon.ico':
        return here(204, '', '')
    if request.key == pending.carried and (pending.stage != 'open' or pending.codex):
        return Verdict(JOIN, request.target)
    if comes:
        states, denied = ([value for name, value in parameters if name == wanted] for wanted in ('state', 'error'))
        if pending.state and not states and denied:
            return here(400, 'Not signed in', f'The page says {harmless(denied[0])[:60]}, without the state of this sign-in. '
                        'That goes on.')
        if pending.state and [hash_of(state) for state in states] != [pending.state]:
            return here(400, 'State mismatch', 'This redirect belongs to another sign-in. Sign in on the page opened last.')
        if not (pending.state or _is_top_level(request) or request.header('content-type').startswith('application/json')):
            return here(403, stranger, 'A page in the background cannot bring the redirect.')
        if pending.stage == 'open':
            return Verdict(CARRY, request.target)
        if pending.stage == 'over':
            return here(410, 'This sign-in is over', 'Go back to the app: it says how it ended.')
        if pending.stage == 'carrying':
            return here(409, 'One moment', 'Another redirect of this sign-in is on its way.', 2)
        return here(409, 'Already used', 'This sign-in has got its redirect; the first one counts.')
    if pending.codex and path == SUCCESS_PATH and pending.stage == 'open':
        # codex takes a bare /success for a sign-in, with nobody signed in.
        return here(409, 'Not signed in yet', 'Sign in first, on the page that was opened last.', 2)
    if pending.codex and path == SUCCESS_PATH and pending.stage == 'carrying':
        return here(200, 'Waiting …', 'The sign-in goes on; leave this page open.', 2)
    for target in pending.leads_to:
        if request.target == target or pending.codex and path == target.partition('?')[0]:
            return Verdict(LAST, target)
    if (pending.served or pending.stage == 'carried' and not pending.codex) and (
            own or pending.served and path == pending.path and _is_top_level(request)):
        return Verdict(PASS, request.target)
    return here(404, stranger, 'There is no such page here, and nothing was cancelled.')


def _is_crooked(path):
    """Whether a path may mean another one to whoever reads it: by dots, backslashes, or what is left after decoding once."""
    once = unquote(path)
    return (path.startswith('//') or bool(re.search('%2f', path, re.I)) or '\\' in once or '%' in once
            or not once.isprintable() or not {'.', '..'}.isdisjoint(once.split('/')))


def _is_top_level(request):
    """Whether a person's browser goes to the page, and no other page asks for it, as far as the browser says (Fetch Metadata)."""
    return request.header('sec-fetch-mode') in ('', 'navigate') and request.header('sec-fetch-dest') in ('', 'document')


def _is_from_own_page(request, port):
    site = request.header('sec-fetch-site')
    return site == 'same-origin' if site else loopback_port(request.header('referer')) == port


def local_target(location, port):
    """The request target that a Location header names on the same loopback port, else None."""
    if location.startswith('/') and not location.startswith('//'):
        return location
    if loopback_port(location) == port:
        parts = urlsplit(location)
        return (parts.path or '/') + ('?' + parts.query if parts.query else '')
    return None


def page(title, text, status=200, refresh=None):
    """The bytes of a small HTTP answer for a browser, readable on a phone; asks for itself again after `refresh` s."""
    import html
    if status == 204:
        return b'HTTP/1.1 204 Relay\r\nConnection: close\r\n\r\n'
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ''
    body = (f'<!doctype html><html><head><meta charset="utf-8"><title>{html.escape(title)}</title>{again}'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><style>body{font:18px/1.5 -apple-system,'
            'system-ui,sans-serif;max-width:30em;margin:15vh auto;padding:0 1em;color-scheme:light dark}</style></head>'
            f'<body><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p></body></html>').encode()
    return (b'HTTP/1.1 %d Relay\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n'
            b'Connection: close\r\nContent-Length: %d\r\n\r\n' % (status, len(body))) + body


# -- What a client of a SOCKS forward sends ----------------------------------------------------------------------------

class Socks(Reader):
    """The server's side of SOCKS 4, 4a and 5 (RFC 1928), as far as the request, without any I/O.

    Feed it what the client sends and send the client what feed() returns, until `target`, (host, port), is known or
    `refused` is set. Then send what answer() returns; what the client sent beyond its request is in `early`."""
    # The reason for a failure, and its reply code in SOCKS 5. SOCKS 4 has one code for all of them.
    CODES = {'': 0, 'failed': 1, 'forbidden': 2, 'unreachable': 4, 'refused': 5, 'command': 7, 'address': 8}

    def __init__(self):
        super().__init__(Socks._request)
        self.target, self.refused, self._reply = None, False, b''

    @property
    def early(self):
        return bytes(self.data[self.at:])

    def feed(self, data):
        self._reply = b''
        if self.target or self.refused or not data:
            self.data += data
            return b''
        try:
            super().feed(data)
        except ValueError as error:
            self.refused = True
            self._reply += error.args[0] if isinstance(error.args[0], bytes) else self.answer('failed')
        return self._reply

    def answer(self, failure=''):
        """The reply to the request: it was met, or why it was not."""
        code = self.CODES[failure]
        return bytes([0, 91 if code else 90] if self._four else [5, code, 0, 1]) + bytes(6)

    def _request(self):
        version = (yield from self.take(1))[0]
        self._four = version == 4
        if version == 4:
            command, port, address = struct.unpack('!BH4s', (yield from self.take(7)))
            yield from self.past(b'\0', 255)        # the user
            # 4a: an address that cannot be one, 0.0.0.x, says that a name follows.
            named = address[:3] == bytes(3) != address[3:] + bytes(2)
            host = (yield from self.past(b'\0', 255)).decode() if named else socket.inet_ntoa(address)
        elif version == 5:
            if 0 not in (yield from self.take((yield from self.take(1))[0])):
                raise ValueError(b'\x05\xff')
            self._reply += b'\x05\x00'
            version, command, _, kind = yield from self.take(4)
            if version != 5 or kind not in (1, 3, 4):
                raise ValueError(self.answer('address') if version == 5 else b'')
            host = yield from self.take({1: 4, 4: 16}.get(kind) or (yield from self.take(1))[0])
            host = host.decode() if kind == 3 else socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, host)
            port = int.from_bytes((yield from self.take(2)), 'big')
        else:
            raise ValueError(b'')
        if command != 1:
            raise ValueError(self.answer('command'))
        if not host or not _is_plain(host):
            raise ValueError(self.answer('failed'))
        self.target = host, port
        yield


# == 4. Device =========================================================================================================
# What differs between the phone's apps and a desktop. Picked once; nothing else asks where it runs.

def write_private(path, text):
    """Put `text` into the file `path`, whole or not at all, readable by nobody else. Raises OSError."""
    path = os.path.realpath(path)           # a configuration that is a link elsewhere stays one
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    new = f'{path}.{os.urandom(4).hex()}.new'       # nobody's leftover, whose mode or link would stay
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), 'w', encoding='utf-8', newline='') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        remove_file(new)
        raise


def read_text(path, most=-1):
    """The text of a file, whose lines end where \\n is; None where it cannot be read."""
    with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace', newline='\n') as file:
        return file.read(most)


def remove_file(path):
    """Take a file away, where there is one and that can be done."""
    with contextlib.suppress(OSError):
        os.remove(path)


def is_terminal(stream):
    """Whether a person is at a stream's other end; an app's console may have no `isatty`."""
    return bool(stream) and getattr(stream, 'isatty', lambda: False)()


def columns_of(stream):
    """How many columns a terminal has; 0 where that is not known, or it is none."""
    try:
        return is_terminal(stream) and int(os.environ.get('COLUMNS') or os.get_terminal_size(stream.fileno()).columns)
    except (OSError, ValueError, AttributeError):
        return 0


def folded(text, stream):
    """A text as a terminal shows it best: long lines go on below at a word. An address is never broken, and nothing in a pipe."""
    width = columns_of(stream)
    if not width or max(map(len, text.split('\n'))) <= width:
        return text
    import textwrap
    return '\n'.join(textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False, replace_whitespace=False,
                                   subsequent_indent=' ' * len(re.match(r' *(?:\d+  )?', line)[0])) if line else ''
                     for line in text.split('\n'))


def show_life(what, over, asking=lambda: False):
    """Say on the screen, now and then, that something goes on, but for while a question is open; until `over`, a Box, has something."""
    begun = 0
    while not over.take(step := 15 if begun else 5, None):
        begun += step
        if not asking():
            print(folded(f'Still {what}: {begun} s …', sys.stderr), file=sys.stderr, flush=True)


def within(limit, function, *arguments):
    """What `function` returns, or raises, within `limit` waking seconds; then None, and it is left to itself."""
    returned = Box()
    start(lambda: returned.put(function(*arguments)), failed=returned.close)
    return returned.take(limit, None)


QUIT = ('q', 'quit', 'quit()')      # for terminals where Ctrl-C does not arrive; a-Shell types the last to end a Python


def line_of(typed):
    """The text of a line as it was typed."""
    return typed.decode('utf-8', 'replace').rstrip('\r\n')


def unless_quit(answer):
    """What a person answered. Raises KeyboardInterrupt for a word that cancels."""
    if answer.lower() in QUIT:
        raise KeyboardInterrupt
    return answer


class Terminal:
    """A terminal that gives what is typed as its mode says: 'lines', which are edited here; a 'secret', before which nothing
    that was typed counts; 'keys', each at once, whatever it is; '' as usual.

    It is put back at the end, and while this process is stopped. `changed` is called when it is back, or has another size."""
    edits = False           # whether it edits and echoes its lines by itself

    def __init__(self, changed):
        self._mode, self._usual, self._handlers, self.changed = '', None, {}, changed

    def switch(self, mode):
        """Have another mode; no error where the terminal is gone."""
        before = self._mode
        if not before:
            self._hear_signals()
        self._mode = mode
        self._set(mode)
        for stream in filter(is_terminal, (sys.stdout, sys.stderr) if 'keys' in (mode, before) else ()):
            stream.reconfigure(newline='\r\n' if mode == 'keys' else None)        # not in _set: a signal may come within a print

    def _set(self, mode):
        import termios
        typed = sys.stdin.fileno()
        with contextlib.suppress(OSError):
            if os.tcgetpgrp(typed) != os.getpgrp():
                return          # in the background: whoever is in front has it as they want it
        with contextlib.suppress(termios.error):
            self._usual = self._usual or termios.tcgetattr(typed)
            inputs, outputs, control, local, *speeds, signs = self._usual
            if mode:
                local, signs = local & ~(termios.ICANON | termios.ECHO), [*signs]
                signs[termios.VMIN], signs[termios.VTIME] = 1, 0
            if mode == 'keys':
                inputs &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON)
                outputs, local = outputs & ~termios.OPOST, local & ~(termios.ISIG | termios.IEXTEN)
            termios.tcsetattr(typed, termios.TCSAFLUSH if mode == 'secret' else termios.TCSANOW,
                              [inputs, outputs, control, local, *speeds, signs])

    def _hear_signals(self):
        import signal
        for name, act in ('SIGTSTP', self._stop), ('SIGCONT', self._come_back), ('SIGWINCH', self._come_back):
            with contextlib.suppress(AttributeError, ValueError):       # ValueError: not on the main thread
                number = getattr(signal, name)
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, act) or signal.SIG_DFL

    def _stop(self, number, _):
        import signal
        self._set('')
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), number)      # to this thread: it is stopped here
        signal.signal(number, self._stop)
        self._come_back()

    def _come_back(self, *_):
        self._set(self._mode)
        self.changed()

    def close(self):
        """Put back what was there."""
        import signal
        if self._mode:
            self.switch('')
        while self._handlers:
            signal.signal(*self._handlers.popitem())


class Floor:
    """Who is given what is typed: take() is called with each line and its line feed, or as `mode` says; with b'' at the end of input."""

    def __init__(self, take, mode):
        self.take, self.mode, self.typed = take, mode, b''


class Keyboard:
    """What is typed, read by one thread. It goes to the question that was asked last, else to whoever listens.

    At a terminal the lines are edited here: its own end at 4,095 characters, on macOS at 1,024."""
    ERASES = {b'\x7f': r'.?\Z', b'\x08': r'.?\Z', b'\x15': r'.*\Z', b'\x17': r'\S*\s*\Z'}      # Backspace, Ctrl-U, Ctrl-W
    RETURN, END, CANCEL = b'\r\n', b'\x04\0', b'\x03'      # Linux makes a NUL of what ended a line before there were keys
    DAY = 86400.0

    def __init__(self, terminal):
        self.terminal, self.resized = terminal(lambda: self._ring(b'r')), lambda: None
        self._listener, self._questions, self._rest, self._over = None, [], b'', False
        self._lock, self.question, self._bell, self._ended = threading.Lock(), threading.Lock(), None, Box()

    def listen(self, take, mode):
        """Give take() what answers no question from now on: 'lines', 'keys', or 'bytes', of what is no terminal."""
        with self._lock:
            self._rest = (self._listener.typed if self._listener else b'') + self._rest
            self._listener = Floor(take, mode)
            self._give_floor()

    def next_line(self, show, take, mode='lines'):
        """Have take() called with the next line, once show() has put the question; maybe in another thread."""
        with self._lock:
            self._questions.append(Floor(take, mode))
            self._give_floor()
            show()

    def pass_on(self, line):
        """A line that answers no question after all."""
        if self._listener:
            self._listener.take(line)

    def ask(self, show, mode='lines'):
        """The next line, with its line feed, once show() has put the question; b'' at the end of input."""
        with self.question:
            answer = Box()
            self.next_line(show, answer.put, mode)
            try:
                return answer.take(self.DAY, b'')
            finally:
                with self._lock:
                    self._questions = [floor for floor in self._questions if floor.take != answer.put]

    def close(self):
        """No more is read; the terminal is as it was."""
        bell, self._bell = self._bell, None
        if bell is not None:
            os.close(bell)
            self._ended.take(5, None)
        self.terminal.close()
        for floor in self._questions:
            floor.take(b'')

    def _floor(self):
        return self._questions[-1] if self._questions else self._listener

    def _give_floor(self):
        """Whoever has the floor gets it as they want it, with what they have typed so far."""
        floor = self._floor()
        if floor and floor.mode != 'bytes':
            self.terminal.switch(floor.mode)
            self._rest = b'' if floor.mode == 'secret' else self._rest
            self._echo(floor, floor.typed)
        if self._bell is None:
            heard, self._bell = os.pipe()
            start(self._read, heard)
        self._ring()

    def _ring(self, why=b'!'):
        with contextlib.suppress(OSError, TypeError):       # it is over
            os.write(self._bell, why)

    def _read(self, bell):
        # Not through sys.stdin: a thread inside it would hold up the interpreter's end.
        import select
        typed = sys.stdin.fileno()
        try:
            while True:
                while handed := self._handed():
                    handed[0](handed[1])
                ready = select.select([bell, typed] if self._floor() and not self._over else [bell], [], [])[0]
                rung = os.read(bell, 64) if bell in ready else b'!'
                if not rung:
                    break
                if b'r' in rung:
                    self.resized()
                with self._lock:
                    if typed in ready and select.select([typed], [], [], 0)[0]:     # else it was typed before a secret
                        with contextlib.suppress(OSError):      # a terminal that is gone
                            self._rest = os.read(typed, 65536)
                            while 20 < len(self._rest) < 20000 and select.select([typed], [], [], 0.05)[0] and (more := os.read(typed, 4096)):
                                self._rest += more              # what is pasted is to be known as a whole
                        self._over = not self._rest
        finally:
            os.close(bell)
            self._ended.put(None)

    def _handed(self):
        """(take, what was read for it): all of it, or up to the end of a line; None where nothing is to be handed on."""
        with self._lock:
            while (floor := self._floor()) and (self._rest or self._over):
                if floor.mode in ('keys', 'bytes') or self._over:
                    data, self._rest = self._rest, b''
                else:
                    data = self._edit(floor)
                if data is not None:
                    if floor in self._questions:
                        self._questions.remove(floor)
                        self._give_floor()
                    elif self._over:
                        self._listener = None
                    return floor.take, data
        return None

    def _edit(self, floor):
        """Read up to the next key that is no sign; the line, where that ends it."""
        plain, key, self._rest = (*re.split(rb'([\0-\x1f\x7f])', self._rest, maxsplit=1), b'', b'')[:3]
        floor.typed += plain
        self._echo(floor, plain)
        if key in self.ERASES:
            text = floor.typed.decode('utf-8', 'surrogateescape')
            erased = re.search(self.ERASES[key], text, re.DOTALL)
            floor.typed = text[:erased.start()].encode('utf-8', 'surrogateescape')
            self._echo(floor, b''.join(b'\b \b' * (1 + (sign < ' ' or east_asian_width(sign) in 'FW')) for sign in erased[0]))
        elif key == self.CANCEL:            # it comes as a key where the terminal sends no signal
            _thread.interrupt_main()
        elif key and key in self.END + self.RETURN:
            line, floor.typed = floor.typed + b'\n' * (key not in self.END), b''
            self._echo(floor, line and b'\n', always=True)
            return line
        else:
            floor.typed += key
            self._echo(floor, key and b'^' + bytes([key[0] ^ 64]))
        return None

    def _echo(self, floor, text, always=False):
        if text and (not self.terminal.edits if floor.mode == 'lines' else always):
            with contextlib.suppress(OSError):
                os.write((sys.stderr if is_terminal(sys.stderr) else sys.stdin).fileno(), text)


class Device:
    """A terminal on a computer, which is also the interface of every device; the phones differ where they must.

    `alone` says that there is nobody to ask. `back` ends the sentence "after signing in, …"."""
    app = ''                    # the phone's app by its name, '' on a computer
    terminal = Terminal
    back = 'come back here'
    while_waiting = 'Ctrl-C cancels, or q and return. If the page fails, paste its address here.'
    no_terminal = 'The program wants a terminal: -t gives it one.'
    library_cure = 'python3 -m venv .venv && .venv/bin/pip install paramiko, and from then on .venv/bin/python instead of python3.'
    shows_output = True         # next to its questions
    in_app_browser = plays_silence = installs_paramiko = False
    unattended = False          # somebody can be asked what is needed, but a program waits for the outcome
    takes_links = False         # a web page can start this script, and give it its arguments
    has_ssh_keygen = True       # with which a person takes a line out of known_hosts

    def __init__(self, alone=False):
        self.alone = alone or not is_terminal(sys.stdin)
        self.home = os.path.expanduser('~')
        self.ssh_folder = os.path.join(self.home, '.ssh')
        self.state_folder = os.path.join(os.environ.get('XDG_STATE_HOME') or os.path.join(self.home, '.local', 'state'),
                                         'codex-login')
        self._keyboard = Keyboard(self.terminal)

    def attempt(self, function, *arguments):
        """What `function` returns, None where it fails: for what no login depends on. -v says what failed."""
        try:
            return function(*arguments)
        except Exception as error:      # the apps' modules end in whatever their bridge raises
            import logging
            name = getattr(function, '__name__', 'it').strip('_')
            logging.getLogger('codex_login').debug('%s did not work: %s: %s', name, type(error).__name__, error)
            return None

    def close(self):
        """The run is over: nothing that is typed from now on is taken by it."""
        self._keyboard.close()

    def can_agree(self):
        """Whether somebody is here to say yes to something new."""
        return not (self.alone or self.unattended)

    def user(self):
        """The account's name on this device, which ssh takes where none is given; '' where that says nothing."""
        import getpass
        return self.attempt(getpass.getuser) or ''

    def succeeds(self, command):
        """Whether a command of the person's shell does; None on a phone, and without an end within 20 s."""
        import subprocess
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            return None if self.app else not subprocess.run(
                [os.environ.get('SHELL') or '/bin/sh', '-c', command], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, timeout=20).returncode

    def preference(self, name, known=None):
        """What was kept under `name`, a text; '' where nothing was, or nothing of what is `known`."""
        path, value = os.path.join(self.state_folder, name), ''
        with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as file:
            value = file.read().strip()
        return value if known is None or value in known else ''

    def prefer(self, name, value):
        """Keep a choice for the next time; where that cannot be, it is asked again."""
        with contextlib.suppress(OSError):
            write_private(os.path.join(self.state_folder, name), value + '\n')

    def mend_key(self, path):
        """On a phone, where a key from the Files app lies in the app's folder, readable by others: take that away."""
        with contextlib.suppress(OSError):      # whoever reads the key says what is wrong with it
            status = os.stat(path)
            inside = os.path.realpath(path).startswith(os.path.realpath(self.home) + os.sep)
            if self.app and inside and status.st_uid == os.getuid() and status.st_mode & 0o077:
                os.chmod(path, 0o600)
                print(f'{path} could be read by others; now only by you (0600).', file=sys.stderr)

    # -- clipboard and browser: what fails raises whatever the device raises

    def copy(self, text):
        """Put `text` on the clipboard; whether that worked."""
        import pyperclip
        pyperclip.copy(text)
        return True

    def paste(self):
        """The text on the clipboard, '' where there is none."""
        import pyperclip
        return pyperclip.paste()

    def holds_address(self):
        """Whether an address may be on the clipboard, as far as that is known without anybody being asked."""
        return True

    def open_page(self, url, browser='default'):
        """Open `url` in the person's browser; its name, or '' where there is none."""
        if sys.platform.startswith('linux') and not any(
                os.environ.get(name) for name in ('BROWSER', 'DISPLAY', 'WAYLAND_DISPLAY', 'WSL_DISTRO_NAME')):
            return ''           # webbrowser would start a text browser in this very terminal
        import webbrowser
        # Some browsers return only when they are closed: that is open, too.
        return '' if within(5, webbrowser.open, url) is False else 'browser'

    def leaving(self, server, browser, stay_awake=False):
        """The person goes to a browser to sign in at `server`: what keeps the app awake, and brings them back."""

    def returned(self):
        """The sign-in is over: nothing of `leaving` remains."""

    def left_for_login(self):
        """What a Shortcut has left for the login that waits, once; '' where there is nothing."""
        return ''

    # -- questions: each raises KeyboardInterrupt where the person cancels

    def ask(self, question):
        """A line of text that a person types; '' at the end of input."""
        return unless_quit(line_of(self._keyboard.ask(lambda: self._show(question))).strip())

    @staticmethod
    def _show(question):
        print(folded(question, sys.stderr), end=' ', file=sys.stderr, flush=True)

    def asks(self):
        """Whether a question is open at the terminal."""
        return self._keyboard.question.locked()

    def choose(self, title, choices):
        """One of `choices`, as a person picks it by its number."""
        print(folded('\n'.join([title, *(f'{number:3}  {choice}' for number, choice in enumerate(choices, 1))]), sys.stderr),
              file=sys.stderr)
        while (answer := self.ask(f'Number (1 to {len(choices)}):')) not in map(str, range(1, len(choices) + 1)):
            if not answer:
                raise KeyboardInterrupt
        return choices[int(answer) - 1]

    def fill_in(self, title, fields, typed, wrong=''):
        """{key: text} that a person gives for {key: label}.

        `typed` is what they gave before, of which `wrong` says what to correct; it stays where they give nothing."""
        print(folded(wrong or title, sys.stderr), file=sys.stderr)
        return {key: self.ask(f'{label} [{typed[key]}]:' if typed.get(key) else f'{label}:') or typed.get(key, '')
                for key, label in fields.items()}

    def confirm(self, question):
        """Whether a person says yes; asks again until it is yes or no."""
        answer = self.ask(f'{question} (yes/no)?')
        while answer.lower() not in ('yes', 'no', 'y', 'n', ''):
            answer = self.ask("Please type 'yes' or 'no':")
        return answer.lower() in ('yes', 'y')

    def agrees(self, question):
        """Whether a person says yes to what may as well be left; None where nobody can be asked."""
        return self.attempt(self.confirm, question) if self.can_agree() else None

    def offer(self, question, accept, decline):
        """Ask yes or no while lines are handed on; one of the two functions is called, maybe in another thread."""
        if self.alone:
            return decline()
        def take(line):
            answer = line_of(line).strip().lower()
            accept() if answer in ('yes', 'y') else decline()
            if answer not in ('yes', 'y', 'no', 'n', ''):       # something else was on its way
                self._keyboard.pass_on(line)
        self._keyboard.next_line(lambda: self._show(f'{question} (yes/no)?'), take)

    def secret(self, prompt):
        """A password or the like, not shown while it is typed. What was typed before is none."""
        typed = self._keyboard.ask(lambda: self._show(prompt), 'secret')
        if not typed:
            raise KeyboardInterrupt
        return unless_quit(line_of(typed))

    def ask_for_program(self, prompt, take):
        """Where a program's prompt is a dialog: open it; take(line), or with what prevented one, in another thread."""

    def in_front(self):
        """Whether the person is at this app, where that can be told."""

    def kept_secret(self, server):
        """The password kept in the device's keychain for a server, else None."""

    def keep_secret(self, server, secret):
        """Keep a password that was right, or with None forget it, where the device has a keychain."""

    def hear(self, mode, take, resized=lambda: None):
        """Hand what is typed, and answers no question, to `take`, from a thread of its own, and b'' at its end: 'lines' or 'keys' of a
        terminal, whose window may be resized(); 'bytes' of what is none. Whether standard input is such a one."""
        here = hasattr(sys.stdin, 'fileno') and is_terminal(sys.stdin) != (mode == 'bytes')
        if here:
            self._keyboard.resized = resized
            self._keyboard.listen(take, mode)
        return here

    # -- about itself

    def about(self):
        """The app and its version, as far as it says."""
        return 'a computer'

    def trials(self):
        """(name, function) of what only such a device has, for --check: a function says what works, or raises."""
        return []

    def finished(self, outcome, status, events):
        """The script has ended: tell whoever started it, where standard output does not.

        `outcome` is the line that says how, or with `events` the last event."""


def objc(receiver, selector, *words):
    """Send a message of Objective-C to an object or, by its name, a class. Arguments and result are a machine word each.

    Raises OSError where there is no such class, AttributeError where there is no Objective-C."""
    from ctypes import CDLL, c_void_p
    # By index, a library gives a new handle each time: the types are nobody else's.
    find, register, send = (CDLL(None)[name] for name in ('objc_getClass', 'sel_registerName', 'objc_msgSend'))
    for function, count in (find, 1), (register, 1), (send, 2 + len(words)):
        function.restype, function.argtypes = c_void_p, [c_void_p] * count
    target = find(receiver.encode()) if isinstance(receiver, str) else receiver
    if not target:
        raise OSError(f'nothing here takes {selector}')
    return send(target, register(selector.encode()), *words) or 0


class Phone(Device):
    """What the two apps have in common: iOS puts them to sleep, and can be asked for some time before it does."""
    GRACE = 25.0            # seconds; iOS gives about 30, and ends the app whose background task is not ended by then
    _back = None            # rung when the person is back, if iOS was asked for time

    def __init__(self, alone=False):
        super().__init__(alone)
        self.home = os.path.join(self.home, 'Documents')        # the only folder that can be written to
        self.ssh_folder = os.path.join(self.home, '.ssh')
        self.state_folder = os.path.join(self.home, '.codex-login')

    def user(self):
        return ''

    def holds_address(self):
        return bool(objc(objc('UIPasteboard', 'generalPasteboard'), 'hasURLs') & 0xff)       # to read it, iOS would ask the person

    def leaving(self, server, browser, stay_awake=False):
        self.attempt(self._take_grace)

    def _take_grace(self):
        self._end_grace()
        task = self._begin_task()
        if task in (None, 0, 2 ** 63 - 1):
            raise OSError('iOS gives no background time')
        self._back = Box()
        start(self._hold, task, self._back)

    def _hold(self, task, back):
        back.take(self.GRACE, None)
        self.attempt(self._end_task, task)

    def _end_grace(self):
        back, self._back = self._back, None
        if back is not None:
            back.put(None)

    returned = _end_grace

    def trials(self):
        return [('background', self._try_grace)]

    def _try_grace(self):
        self._take_grace()
        self._end_grace()
        return 'time is granted'


class AppTerminal(Terminal):
    """a-Shell's, which edits lines by itself; the others come from what it calls interactive mode, where Return is another key."""
    edits = True

    def _set(self, mode):
        import ctypes
        import select
        import termios
        typed = sys.stdin.fileno()
        if mode in ('secret', 'keys'):
            termios.tcgetattr(typed)            # to look is what switches it
        else:
            ctypes.CDLL(None).ios_stopInteractive()
        while mode == 'secret' and select.select([typed], [], [], 0)[0] and os.read(typed, 65536):
            pass

    def _hear_signals(self):
        pass                    # they are the whole app's


class AShell(Phone):
    """a-Shell and a-Shell mini: a terminal on iOS whose commands run as threads of the app."""
    app = 'a-Shell'
    terminal = AppTerminal
    back = 'come back to a-Shell (on an iPad, Split View keeps both in view)'
    library_cure = 'pip install --no-deps --upgrade --force-reinstall paramiko (no other Python may run in the app)'
    installs_paramiko = True
    plays_silence = True
    _player = None

    def __init__(self, alone=False):
        import ctypes
        super().__init__(alone)
        # Ctrl-C cancels the thread once Python's handler has run: nothing would be cleared up.
        self.attempt(lambda: ctypes.CDLL(None).pthread_setcancelstate(0, None))     # PTHREAD_CANCEL_DISABLE of Darwin

    def _run(self, *command, text=None, limit=10):
        """What a command prints, None where it fails. It is never killed: here that would end the whole app."""
        import subprocess
        run = lambda: subprocess.run(command, input=text, stdout=subprocess.PIPE, encoding='utf-8')
        done = self.attempt(within, limit, run)
        return done.stdout if done and done.returncode == 0 else None

    def copy(self, text):
        return self._run('pbcopy', text=text) is not None

    def paste(self):
        return self._run('pbpaste', limit=75) or ''     # iOS asks the person, who may take a minute

    def left_for_login(self):
        # A Shortcut cannot run a second command beside the login; in extension it can write to the group's folder.
        path = os.path.join(os.environ.get('SHORTCUTS') or self.state_folder, 'codex_login.txt')
        with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as file:
            os.remove(path)
            return file.read(65536)
        return ''

    def open_page(self, url, browser='default'):
        # Not webbrowser: a-Shell's own encodes the address once more.
        return 'Safari' if self._run('open', url) is not None else ''

    # -- staying awake

    def _begin_task(self):
        return objc(objc('UIApplication', 'sharedApplication'), 'beginBackgroundTaskWithExpirationHandler:', None)

    def _end_task(self, task):
        objc(objc('UIApplication', 'sharedApplication'), 'endBackgroundTask:', task)

    def leaving(self, server, browser, stay_awake=False):
        super().leaving(server, browser)
        if stay_awake and not self._player:
            try:
                self._play_silence()
            except Exception as error:      # ctypes ends in several kinds
                print(f'This app cannot be kept awake ({error}).', file=sys.stderr, flush=True)

    def _play_silence(self):
        """Play silence, beside whatever else plays: a-Shell may play sound in the background, and runs on as long."""
        sound = struct.pack('<4sI4s4sIHHIIHH4sI', b'RIFF', 16036, b'WAVE', b'fmt ', 16, 1, 1, 8000, 16000, 2, 16, b'data',
                            16000) + bytes(16000)       # a second of it
        category = objc('NSString', 'stringWithUTF8String:', b'AVAudioSessionCategoryPlayback')
        mix_with_others = 1
        objc(objc('AVAudioSession', 'sharedInstance'), 'setCategory:withOptions:error:', category, mix_with_others, None)
        data = objc('NSData', 'dataWithBytes:length:', sound, len(sound))
        self._player = objc(objc('AVAudioPlayer', 'alloc'), 'initWithData:error:', data, None)
        objc(self._player, 'setNumberOfLoops:', -1)
        if not objc(self._player, 'play') & 0xff:
            raise OSError('iOS plays nothing')

    def returned(self):
        super().returned()
        player, self._player = self._player, None
        for message in ('stop', 'release') if player else ():
            self.attempt(objc, player, message)

    # -- about itself

    def install_paramiko(self):
        """Have pip install paramiko without what cannot be compiled here."""
        import importlib
        print('Installing paramiko …', file=sys.stderr, flush=True)
        over = Box()
        start(show_life, 'installing', over)
        self._run('pip', 'install', '--no-deps', 'paramiko', limit=300)
        over.put(True)
        importlib.invalidate_caches()

    def about(self):
        return ' '.join(os.environ.get(name, '') for name in ('APPNAME', 'APPVERSION', 'APPBUILDNUMBER'))

    def finished(self, outcome, status, events):
        # A Shortcut reads a file, which has neither what went to standard error nor the exit status.
        if not events and not is_terminal(sys.stdout):
            if status and outcome:
                print(outcome)
            print(f'Exit status: {status}', flush=True)


class Modules:
    """The app's own modules, as attributes: each is imported where it is first used."""

    def __getattr__(self, name):
        return __import__(name)


class Pythonista(Phone):
    """Pythonista: dialogs instead of a terminal, and the app's own modules."""
    app = 'Pythonista'
    back = 'tap ◀ Pythonista'
    while_waiting = '■ cancels. If the page fails, copy its address before you come back.'
    no_terminal = 'The program wants a terminal, which Pythonista has not: run it from a-Shell or a computer.'
    library_cure = 'delete paramiko from site-packages and site-packages-3 (the app has its own), and restart the app'
    shows_output = False
    in_app_browser = True
    takes_links = True
    has_ssh_keygen = False
    modules = Modules()
    NAME = 'codex_login'            # of dialogs, in the keychain, and of the reminder: the next one takes its place
    _sheet = None

    def __init__(self, alone=False):
        super().__init__(alone)
        self.alone = alone
        self.unattended = bool(self.attempt(lambda: self.modules.shortcuts.is_running_shortcut()))

    def can_agree(self):
        return super().can_agree() and not self.modules.appex.is_running_extension()

    @staticmethod
    def on_main(function, *arguments):
        """What `function` returns on the app's main thread, where UIKit lives; raises what it raises there."""
        from objc_util import on_main_thread
        outcome = []

        def call():             # on_main_thread only prints an exception
            try:
                outcome.append((function(*arguments), None))
            except BaseException as error:
                outcome.append((None, error))
        on_main_thread(call)()
        result, error = outcome[0]
        if error:
            raise error
        return result

    def copy(self, text):
        self.on_main(self._copy, text)
        return True

    def _copy(self, text):
        if self.attempt(self._copy_here, text) != text:
            self.modules.clipboard.set(text)

    def _copy_here(self, text):
        """Copy for this device only: not for the person's others, which share the usual clipboard (UIPasteboard)."""
        from objc_util import ObjCClass, ObjCInstance, c, c_void_p, ns
        local_only = ObjCInstance(c_void_p.in_dll(c, 'UIPasteboardOptionLocalOnly'))
        ObjCClass('UIPasteboard').generalPasteboard().setItems_options_(
            ns([{'public.utf8-plain-text': text}]), ns({local_only: True}))
        return self.modules.clipboard.get()     # to look is safe: for another app's text, iOS would ask the person

    def paste(self):
        return self.on_main(self.modules.clipboard.get) or ''

    def open_page(self, url, browser='default'):
        if browser == 'in-app':
            try:
                self.on_main(self._present, url)
                return 'in-app'
            except Exception as error:      # objc_util ends in whatever the bridge raises
                print(f'The in-app browser did not open ({error}); Safari does.', file=sys.stderr)
                self.attempt(self._remind)
        try:
            self.on_main(lambda: self._application().openURL_options_completionHandler_(
                self.modules.objc_util.nsurl(url), {}, None))
            return 'Safari'
        except Exception:
            # Plain https:// would open a tab of the app's own, without the person's passwords.
            self.on_main(self.modules.webbrowser.open, 'safari-' + url if url.startswith('https') else url)
            return ''           # it says of nothing whether it was opened

    def _application(self):
        return self.modules.objc_util.UIApplication.sharedApplication()

    def _present(self, url):
        from objc_util import ObjCClass, load_framework, nsurl
        load_framework('SafariServices')
        sheet = ObjCClass('SFSafariViewController').alloc().initWithURL_(nsurl(url))
        top = self._application().keyWindow().rootViewController()
        while top.presentedViewController():
            top = top.presentedViewController()
        top.presentViewController_animated_completion_(sheet, True, None)
        self._sheet = sheet

    def _dismiss(self):
        sheet, self._sheet = self._sheet, None
        self.on_main(sheet.dismissViewControllerAnimated_completion_, True, None)

    def leaving(self, server, browser, stay_awake=False):
        self._server = server
        super().leaving(server, browser)
        self.attempt(self._keep_screen_on, True)
        if browser != 'in-app':
            self.attempt(self._remind)

    def _begin_task(self):
        return self.on_main(lambda: self._application().beginBackgroundTaskWithExpirationHandler_(None))

    def _end_task(self, task):
        self.on_main(lambda: self._application().endBackgroundTask_(task))

    def _keep_screen_on(self, on):
        self.on_main(self.modules.console.set_idle_timer_disabled, on)

    def _remind(self):
        if self.modules.notification.schedule(f'Signed in at {self._server}? Tap to finish.', 20,
                                              action_url='pythonista3://', identifier=self.NAME) is None:
            raise OSError('notifications are not allowed')

    def _unremind(self):
        self.modules.notification.cancel(self.NAME)
        self.modules.notification.remove_delivered(self.NAME)

    def returned(self):
        super().returned()
        self.attempt(self._keep_screen_on, False)
        self.attempt(self._unremind)        # a run that was killed has left its own
        if self._sheet:
            self.attempt(self._dismiss)

    def _asked(self, dialog, *arguments, **options):
        """What a dialog gives. Raises Problem where the app can show none, as for a Shortcut that runs in its extension."""
        try:
            answer = dialog(*arguments, **options)
        except Exception as error:
            self.alone = True
            raise Problem('setup', f'Nobody can be asked here ({error}).',
                          'Run the script in the app once, or have the Shortcut run it there.') from None
        if answer is None:
            raise KeyboardInterrupt
        return answer

    def ask(self, question):
        return self._asked(self.modules.console.input_alert, self.NAME, question).strip()

    def choose(self, title, choices):
        return self._asked(self.modules.dialogs.list_dialog, title, choices)

    def fill_in(self, title, fields, typed, wrong=''):
        filled = self._asked(self.modules.dialogs.form_dialog, title, sections=[(wrong, [
            {'type': 'text', 'key': key, 'title': label, 'value': typed.get(key, ''), 'autocorrection': False,
             'autocapitalization': 0} for key, label in fields.items()])])
        return {key: text.strip() for key, text in filled.items()}

    def confirm(self, question):
        return self._asked(self.modules.console.alert, self.NAME, question, 'Yes', 'No', hide_cancel_button=True) == 1

    def secret(self, prompt):
        return self._asked(self.modules.console.password_alert, self.NAME, prompt)

    def ask_for_program(self, prompt, take):
        def ask():
            try:
                take((self.secret if SECRETS.search(prompt) else self.ask)(prompt))
            except (KeyboardInterrupt, Problem) as reason:
                take(reason)
        start(ask)

    def in_front(self):
        return self.attempt(self.on_main, lambda: self._application().applicationState() == 0)

    def kept_secret(self, server):
        return self.attempt(self.modules.keychain.get_password, self.NAME, server)

    def keep_secret(self, server, secret):
        if secret is None:
            self.attempt(self.modules.keychain.delete_password, self.NAME, server)
        else:
            self.attempt(self.modules.keychain.set_password, self.NAME, server, secret)

    def offer(self, question, accept, decline):
        accept() if self.agrees(question) else decline()

    def trials(self):
        return [*super().trials(), ('keychain', self._try_keychain), ('reminder', self._try_reminder),
                ('sheet', self._try_sheet), ('crash', self._last_crash)]

    def _try_keychain(self):
        keychain, secret = self.modules.keychain, os.urandom(8).hex()
        keychain.set_password(self.NAME, 'check', secret)
        kept = keychain.get_password(self.NAME, 'check') == secret
        keychain.delete_password(self.NAME, 'check')
        return kept

    def _try_reminder(self):
        self._server = 'this check'
        self._remind()
        self._unremind()
        return 'planned and cancelled'

    def _try_sheet(self):
        if self.alone or self.unattended:
            return 'nobody to look at it'
        self.on_main(self._present, 'https://example.com/')
        Box().take(1.0, None)
        self._dismiss()
        return 'shown and taken away'

    def _last_crash(self):
        """What the app left when UIKit ended it."""
        path = os.path.join(self.home, '_objc_exception.txt')
        with contextlib.suppress(FileNotFoundError), open(path, encoding='utf-8', errors='replace') as file:
            return f'_objc_exception.txt: {file.readline(120)}'
        return 'none'

    def about(self):
        import plistlib
        path = os.path.join(os.path.dirname(sys.executable), 'Info.plist')
        with contextlib.suppress(OSError, ValueError), open(path, 'rb') as file:
            return f'{self.app} {plistlib.load(file).get("CFBundleShortVersionString")}'
        return f'{self.app}; it does not say its version'

    def finished(self, outcome, status, events):
        self.attempt(self.modules.shortcuts.set_output_text, outcome)       # whether a Shortcut waits is not always known
        if outcome and not self.unattended:
            self.modules.console.hud_alert(outcome[:60], 'success' if status == 0 else 'error', 2)


def device_class():
    """The kind of Device that this process runs on."""
    if 'Pythonista' in sys.executable:
        return Pythonista
    if os.environ.get('TERM_PROGRAM') == 'a-Shell' or os.environ.get('APPNAME', '').startswith('a-Shell'):
        return AShell
    return Device


# == 5. Reports ========================================================================================================
# What is said, and to whom: a person, or a program that reads JSON lines.

def put_line(text, stream, end='\n'):
    """Write a line to `stream`. A reader that has gone away ends the script, as it would end any program in a pipe."""
    _put(stream, lambda: print(harmless_lines(text), end=end, file=stream, flush=True))


def _put(stream, write):
    try:
        write()
    except BrokenPipeError:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())      # where what is still said goes
        _thread.interrupt_main()


class TextReport:
    """What happens, for a person: what is needed to stdout, the rest to stderr. `outcome` is the line that says the end."""
    events = False
    PROGRESS = {'connecting': 'Connecting to {host} …', 'suspended': 'This app was asleep for {seconds} s.',
                'reconnected': 'Connected again.', 'note': '{text}'}
    NEEDED = {'output': '{text}', 'device-code': 'Enter this one-time code:\n{code}\non this page:\n{url}'}

    def __init__(self, quiet=False, asking=lambda: False):
        self.quiet, self.outcome, self._asking, self._life = quiet, '', asking, Box()
        self.raw = False        # whether a screen takes the program's bytes, too
        self._streams, self._prompted = {1: sys.stdout, 2: sys.stderr}, {1: '', 2: ''}

    def tell(self, event, **fields):
        """Say one of the events that README lists, with its fields; one that only programs need is passed over."""
        fields = {key: harmless_lines(value) for key, value in fields.items()}
        self._life.put(True)
        self._life = Box()
        if event == 'connecting' and not self.quiet:
            start(show_life, f'connecting to {fields["host"]}', self._life, self._asking)
        if event in self.PROGRESS:
            self.note(self.PROGRESS[event].format(**fields))
        elif event in self.NEEDED:
            self.show(self.NEEDED[event].format(**fields))
        elif say := getattr(self, '_' + event.replace('-', '_'), None):
            say(**fields)

    def note(self, text):
        """A line about progress."""
        if not self.quiet:
            put_line(folded(text, sys.stderr), sys.stderr)

    def show(self, text):
        """What a person needs."""
        put_line(folded(text, sys.stdout), sys.stdout)

    def warn(self, text):
        """A line about something that went wrong, while the rest goes on."""
        put_line(folded(text, sys.stderr), sys.stderr)

    def program(self, number, data):
        """What the program printed on its stream 1 or 2, as bytes: goes to whoever reads it here as it is, but not to a screen.

        Whether that is so, for no data as well."""
        stream = self._streams[number]
        if self.raw or not is_terminal(stream) and hasattr(stream, 'buffer'):
            _put(stream, lambda: (stream.flush(), stream.buffer.write(data), stream.buffer.flush()))
            return True
        return False

    def line(self, number, text):
        """A line that the program printed, for a screen."""
        shown, self._prompted[number] = self._prompted[number], ''
        put_line(text[len(shown):] if text.startswith(shown) else text, self._streams[number])

    def prompt(self, number, text):
        """A line of the program that waits for its end, for a screen; '' where it waits no more."""
        shown = self._prompted[number]
        if text.startswith(shown) and text != shown:
            put_line(text[len(shown):], self._streams[number], end='')
            self._prompted[number] = text

    def close(self):
        """The run is over."""
        self._life.put(True)

    def _listening(self, mode, bind, port):
        # Both loopback addresses have the port; one line is enough for a person.
        if mode != 'redirect' and bind not in ('::1', '::'):
            name = {'127.0.0.1': 'localhost', '0.0.0.0': '*', '': '*'}.get(bind, bind)
            self.note(f'-{mode} {"[" + name + "]" if ":" in name else name}:{port} is open.')

    def _sign_in(self, url, port):
        self.show(('Sign in at this address:' if port else 'The program wants this page opened:') + f'\n{url}')

    def _callback(self, delivered):
        self.note('Redirect delivered.' if delivered else 'The redirect could not be delivered.')

    def _signed_in(self, text):
        self.outcome = f'Signed in: {text}'
        self.show(self.outcome)

    def _error(self, kind, message, hint):
        self.outcome = message
        # Further lines of a message may be a program's words: they stand back, and pass for none of this script's own.
        self.warn('\n'.join(filter(None, (message.replace('\n', '\n  '), hint))))


class JsonReport:
    """What happens, for a program: JSON lines on what was stdout, nothing else there. `outcome` is the last of them."""
    events = True

    def __init__(self):
        self._stream, self._lock, self.outcome = sys.stdout, threading.Lock(), ''
        try:
            self._descriptor, elsewhere = sys.stdout.fileno(), sys.stderr.fileno()
        except (AttributeError, OSError):
            return              # an app's console, which no other program writes to
        # A browser or clipboard program that prints must not get between the lines.
        sys.stdout.flush()
        self._stream = os.fdopen(os.dup(self._descriptor), 'w', encoding='utf-8')
        os.dup2(elsewhere, self._descriptor)

    def close(self):
        """Standard output is again what it was: an app's next command has the same."""
        if self._stream is not sys.stdout:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os.dup2(self._stream.fileno(), self._descriptor)
            with contextlib.suppress(OSError):
                self._stream.close()

    def tell(self, event, **fields):
        """Write an event with its fields as a line of JSON; a note is for people only."""
        import json
        if event == 'note':
            return
        with self._lock:
            self.outcome = json.dumps({'event': event, **{key: harmless_lines(value) for key, value in fields.items()}})
            put_line(self.outcome, self._stream)

    def note(self, text):
        """A line for people only."""

    show = note

    def program(self, number, data):
        """Bytes are told by their lines."""
        return False

    def line(self, number, text):
        """A line that the program printed."""
        self.tell('output', text=text)

    def prompt(self, number, text):
        """A line that the program has not ended, and will not before it is answered; '' where it waits no more."""
        if text:
            self.tell('prompt', text=text)

    def warn(self, text):
        """Diagnostics go to stderr, as everywhere."""
        put_line(text, sys.stderr)


# == 6. Paramiko as found ==============================================================================================
# Known here: which paramiko the device has, and every private name of it that is touched. Everything later sees one
# paramiko: today's algorithms, keys by their raw public bytes, Problems.
#
# Three kinds are met. Desktops have 2.12 to 5.x. a-Shell has the same without bcrypt and PyNaCl, which
# cannot be installed there. Pythonista has 1.17 or 1.18, which speaks to no server of today: it lacks
# elliptic key exchange, rsa-sha2 signatures, Ed25519 and OpenSSH's own format of private keys. These are
# added below in plain Python, on a subclass, so that other scripts in the app find paramiko as it was.
#
# Plain Python integers take time that depends on their value, so this is weaker against somebody who can
# time one phone's signatures to the microsecond over many sign-ins; compiled code is used where there is any.
#
# Strict key exchange (kex-strict-c-v00@openssh.com, against Terrapin) came with paramiko 3.4. Before it,
# only chacha20 (which no paramiko has) and -etm are concerned: plain hmac-sha2 is preferred to -etm here.

OLDEST_PARAMIKO_2 = (2, 9)      # rsa-sha2 signatures came with it
IDLE_POLL = 60.0                # seconds; only paramiko's own keep-alive and re-key checks wait for it


_LOADING = threading.Lock()       # one thread may bring paramiko up while another connects


def load_paramiko():
    """The module `paramiko`, whatever the device needs to bring it up. Cheap when called again."""
    with _LOADING:
        paramiko = sys.modules.get('paramiko') or _import_paramiko()
        logging = sys.modules['logging']
        if not logging.getLogger('paramiko').handlers:      # logging's last resort would print its tracebacks on stderr
            logging.getLogger('paramiko').addHandler(logging.NullHandler())
    if (2,) <= _version(paramiko) < OLDEST_PARAMIKO_2:
        raise Problem('setup', f'paramiko {paramiko.__version__} is too old for today\'s servers.',
                      f'What helps: {device_class().library_cure}')
    return paramiko


def _import_paramiko():
    import logging
    import warnings
    path = list(sys.path)
    try:
        with _lent_modules(), warnings.catch_warnings():
            warnings.simplefilter('ignore')     # deprecations that only paramiko's makers can act on
            paramiko = _first_that_starts()
    except Exception as error:      # an import runs foreign code: it can end in anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == 'paramiko'
        raise Problem('setup', 'The SSH library paramiko is not installed.' if missing else f'paramiko does not start: {error}',
                      f'What helps: {device_class().library_cure}') from error
    finally:
        sys.path[:] = path
    return paramiko


def _first_that_starts():
    """The module paramiko. One that does not start, as a newer one in Pythonista's site-packages, hides the app's own."""
    import importlib
    from importlib.machinery import PathFinder
    holders = [place for place in sys.path if PathFinder.find_spec('paramiko', [place])]
    for place in holders[:-1]:
        try:
            return importlib.import_module('paramiko')
        except Exception:
            sys.path.remove(place)
            for name in [name for name in sys.modules if name.partition('.')[0] == 'paramiko']:
                del sys.modules[name]
    return importlib.import_module('paramiko')


def _version(paramiko):
    return tuple(int(part) for part in re.findall('[0-9]+', paramiko.__version__)[:2])


def _is_old(paramiko):
    return _version(paramiko) < (2,)


@contextlib.contextmanager
def _lent_modules():
    """Stand-ins in sys.modules while paramiko is imported, and gone afterwards: it keeps its references."""
    lent = {'invoke': None}     # 30 ms, for `Match exec` in a configuration reader that is not used
    for name, stand_in in (('bcrypt', _bcrypt_stand_in), ('nacl.signing', _nacl_stand_in)):
        try:
            __import__(name)
        except ImportError:
            with contextlib.suppress(ImportError):      # no cryptography either: then paramiko is 1.x
                lent.update(stand_in())
    before = {name: sys.modules[name] for name in lent if name in sys.modules}
    sys.modules.update(lent)
    try:
        yield
    finally:
        for name in lent:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _module(name, **contents):
    import types
    module = types.ModuleType(name)
    vars(module).update(contents)
    return module


def _bcrypt_stand_in():
    return {'bcrypt': _module('bcrypt', kdf=_bcrypt_kdf, is_stand_in=True)}


def _has_bcrypt(paramiko):
    """Whether a passphrase can be turned into the key of an OpenSSH-format file."""
    if _is_old(paramiko):
        return False
    if not hasattr(paramiko.pkey.bcrypt, 'is_stand_in'):
        return True
    try:
        from Crypto.Protocol.KDF import _bcrypt_hash
    except ImportError:
        return False
    return callable(_bcrypt_hash)


def _bcrypt_kdf(password, salt, desired_key_bytes, rounds, ignore_few_rounds=True):
    """bcrypt_pbkdf as OpenBSD defines it, over the Blowfish of pycryptodome, which a-Shell bundles."""
    from Crypto.Protocol.KDF import _bcrypt_hash

    def bcrypt(salt):
        salt = hashlib.sha512(salt).digest()
        raw = _bcrypt_hash(secret, 6, salt, b'OxychromaticBlowfishSwatDynamite', False)
        return struct.pack('<8I', *struct.unpack('>8I', raw))

    secret = hashlib.sha512(password).digest()
    blocks = []
    for number in range(1, -(-desired_key_bytes // 32) + 1):
        link = bcrypt(salt + struct.pack('>I', number))
        block = int.from_bytes(link, 'big')
        for _ in range(rounds - 1):
            link = bcrypt(link)
            block ^= int.from_bytes(link, 'big')
        blocks.append(block.to_bytes(32, 'big'))
    # The output takes one byte of each block in turn.
    used = -(-desired_key_bytes // len(blocks))
    return bytes(byte for row in zip(*(block[:used] for block in blocks)) for byte in row)[:desired_key_bytes]


def _nacl_stand_in():
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    class Signed(bytes):
        signature = property(bytes)

    class VerifyKey(bytes):         # two of one key are equal: else a known host's would look changed to paramiko
        def encode(self):
            return bytes(self)

        def verify(self, message, signature):
            Ed25519PublicKey.from_public_bytes(bytes(self)).verify(signature, message)

    class SigningKey:
        def __init__(self, seed):
            self._key = Ed25519PrivateKey.from_private_bytes(seed)
            self.verify_key = VerifyKey(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

        def sign(self, message):
            return Signed(self._key.sign(message))

    signing = _module('nacl.signing', SigningKey=SigningKey, VerifyKey=VerifyKey)
    exceptions = _module('nacl.exceptions', BadSignatureError=InvalidSignature)
    return {'nacl': _module('nacl', signing=signing, exceptions=exceptions),
            'nacl.signing': signing, 'nacl.exceptions': exceptions}


# ---- transports ------------------------------------------------------------------------------------

def new_transport(sock, board=None):
    """A paramiko Transport over `sock`, not started, that offers only what is strong today."""
    paramiko = load_paramiko()
    stream = SshStream(sock, board)
    if _is_old(paramiko):
        transport = _old_transport_class(paramiko)(stream)
    else:
        transport = _transport_class(paramiko)(stream, disabled_algorithms={'pubkeys': ['ssh-rsa', 'ssh-dss']})
    offer = transport.get_security_options()
    offer.kex = _strong(offer.kex)
    offer.key_types = _strong(offer.key_types)
    offer.ciphers = sorted(_strong(offer.ciphers), key=lambda name: 'gcm' not in name)
    offer.digests = _strong(offer.digests)
    return transport


LOST = (OSError, EOFError)      # what a channel's calls raise where its connection ends


class SshStream:
    """What a Transport runs over: a socket, or a Channel to the next server. To send takes no time: what does not leave at once waits here.

    `beginning` is what came first, for the case that it was not SSH; `heard` says when something came last, as elapsed();
    `round_trip` how many seconds its opening took."""
    PIECE = 256 * 1024      # paramiko reads each packet in two small parts; the system is asked for many at once
    LARGEST = 256 * 1024    # bytes of a packet, as sshd allows; paramiko would gather as many as a server announces
    BEGINNING = 200
    ENOUGH = 256 * 1024     # bytes that wait, from which on nobody adds any who can help it
    PARTS = 64              # packets that leave together

    def __init__(self, below, board=None):
        self._below, self._board = below, board
        self._is_socket = isinstance(below, socket.socket)
        self._unread = memoryview(b'')
        self.beginning, self.heard, self.round_trip = b'', elapsed(), 0.0
        self.before_waiting = lambda: None      # what the reader does before it waits for more
        self.room_again = lambda: None          # called when there is room again
        self._reading, self._closing, self._timeout = False, False, None
        self._lock, self._pending, self._size, self._watched, self._was_full = threading.Lock(), deque(), 0, False, False
        self._quick_ack = self._is_socket and hasattr(socket, 'TCP_QUICKACK')
        if self._is_socket:
            below.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            below.setblocking(False)
            self._poll = getattr(selectors, 'PollSelector', selectors.SelectSelector)()
            self._poll.register(below, selectors.EVENT_READ)
        else:
            below.room_again = self._look_for_room

    # -- reading, by the Transport's thread alone

    def recv(self, size):
        """Up to `size` bytes, b'' at the end. Raises socket.timeout, and SSHException for a packet that is too large."""
        if size > self.LARGEST + 1024:
            raise load_paramiko().SSHException(f'the server announces a packet of {size} bytes')
        if not self._unread:
            self.before_waiting()
            data = self._read()
            self._unread = memoryview(data)
            self.heard = elapsed()
            if len(self.beginning) < self.BEGINNING:
                self.beginning += data[:self.BEGINNING]
            if self._quick_ack:
                # OpenSSH's server, with Nagle on, keeps a small packet back for the 40 ms that acknowledging the one
                # before may take. The system forgets this setting as it likes, so each time.
                with contextlib.suppress(OSError):
                    self._below.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        piece, self._unread = self._unread[:size], self._unread[size:]
        return bytes(piece)

    def _read(self):
        # A socket must not be closed under a thread that reads: its number may be another one's by the time the thread asks
        # the system for it, and then it waits there. So that thread closes it.
        with self._lock:
            if self._closing:
                raise EOFError
            self._reading = True
        try:
            return self._read_socket() if self._is_socket else self._below.recv(self.PIECE)
        finally:
            with self._lock:
                self._reading = False
            if self._closing:
                self._close()

    def _read_socket(self):
        while True:
            with contextlib.suppress(BlockingIOError):
                return self._below.recv(self.PIECE)
            if not self._poll.select(self._timeout):
                raise socket.timeout

    def settimeout(self, seconds):
        """How long recv() waits."""
        self._timeout = seconds
        if not self._is_socket:
            self._below.settimeout(seconds)

    # -- writing, by any thread

    def send(self, data):
        """Have `data` leave, after what was sent before; on the board together with what else is sent in this turn."""
        with self._lock:
            self._pending.append(data)
            self._size += len(data)
        if self._board and self._board.here:
            self._board.at_the_end(self._flush)
        else:
            self._flush()
        return len(data)

    @property
    def full(self):
        """Whether so much waits here that nobody should add any; room_again() is called when that is over."""
        self._was_full = self._was_full or self._waiting() > self.ENOUGH
        return self._was_full

    def _waiting(self):
        return self._size if self._is_socket else self._size + self._below.waiting

    def _flush(self, _=None):
        with self._lock:
            while self._pending and not self._closing:
                parts = list(itertools.islice(self._pending, self.PARTS))
                try:
                    self._drop(self._write(parts))
                except BlockingIOError:
                    break
                except OSError:
                    self._pending.clear()       # the reader hears of it
                    self._size = 0
            left = bool(self._pending) and not self._closing
        if left != self._watched and self._board:
            self._board.call(self._watch)
        self._look_for_room()

    def _write(self, parts):
        if self._is_socket:
            return self._below.sendmsg(parts) if hasattr(self._below, 'sendmsg') else self._below.send(parts[0])
        data = b''.join(parts)
        self._below.sendall(data)
        return len(data)

    def _drop(self, sent):
        self._size -= sent
        while sent:
            first = self._pending.popleft()
            if sent < len(first):
                self._pending.appendleft(memoryview(first)[sent:])
                return
            sent -= len(first)

    def _watch(self):
        with self._lock:
            self._watched = bool(self._pending) and not self._closing
            if not self._closing:
                self._board.watch(self._below, selectors.EVENT_WRITE if self._watched else 0, self._flush)

    def _look_for_room(self):
        if self._was_full and self._waiting() < self.ENOUGH // 2:
            self._was_full = False
            self.room_again()

    # -- the end

    def close(self):
        """Let go of what is below. A reader is woken."""
        if self._is_socket:
            with contextlib.suppress(OSError):
                self._below.shutdown(socket.SHUT_RDWR)
        self._close()

    def _close(self):
        with self._lock:
            self._closing = True
            if self._is_socket and (self._reading or self._watched):
                if self._watched:
                    self._board.call(self._stop_watching)
                return
            if self._is_socket and self._below.fileno() >= 0:
                self._poll.close()
        with contextlib.suppress(OSError):
            self._below.close()

    def _stop_watching(self):
        self._board.watch(self._below, 0, None)
        self._watched = False
        self._close()

    def forget_unsent(self):
        """Have the system drop, at the end, what it has not been able to send."""
        if self._is_socket:
            with contextlib.suppress(OSError):
                self._below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                self._below.shutdown(socket.SHUT_RD)    # wakes a thread that reads; writing on would send the rest
        self._close()

    def getpeername(self):
        """Where the connection leads to, as a socket says it. Raises OSError."""
        return self._below.getpeername()

    @property
    def _closed(self):
        return self._closing            # Transport.close() asks for it


WEAK = ('sha1', 'md5', 'ssh-rsa', 'ssh-dss', 'cbc', 'arcfour', '-cert-')


def _strong(names):
    return [name for name in names if not any(weak in name for weak in WEAK)]


def prefer_host_key_types(transport, known_types, algorithms=''):
    """Ask for the key types already known of this host first, as ssh does, so that none looks new.

    `algorithms` is a HostKeyAlgorithms of ssh_config(5). Raises Problem('config') where it leaves none."""
    known = set(known_types)
    if 'ssh-rsa' in known:      # the type of the key; the others are the signatures it can give
        known.update(RSA_SIGNATURES)
    offer = transport.get_security_options()
    sign, patterns = algorithms[:1], algorithms.lstrip('+-^').split(',')
    named = [name for pattern in patterns for name in offer.key_types if wildcards_match(pattern, name)]
    others = [name for name in offer.key_types if name not in named]
    types = {'': others, '+': offer.key_types, '-': others, '^': named + others}.get(sign, named)
    if not types:
        raise Problem('config', f'HostKeyAlgorithms leaves no type of host key that is safe and known here: {algorithms}',
                      'Add ssh-ed25519, ecdsa-sha2-nistp256 or rsa-sha2-512 to it, or take it out of the ssh configuration.')
    offer.key_types = sorted(types, key=lambda name: name not in known and sign in ('', '+', '-'))


def shake_hands(connection, limit):
    """Key exchange and the proof of the host key, within `limit` waking seconds altogether; else a Problem."""
    transport, over, began = connection.transport, Box(), elapsed()
    transport.banner_timeout = transport.handshake_timeout = limit + 60       # so the deadline comes first
    connection.on_end.append(lambda: over.put(False))
    try:
        transport.start_client(event=_Bell(over))
        succeeded = over.take(limit, None)
        transport.completion_event = None
        if succeeded is None:
            raise Problem('connect', f'The server did not finish the SSH handshake within {limit:g} s.',
                          'It may be busy; -o ConnectTimeout=SECONDS waits longer.')
        if not transport.is_active():
            raise _handshake_problem(transport)
        connection.handshake = elapsed() - began
    except BaseException:
        connection.close()
        raise


class _Bell:
    """An event as paramiko sets it, that goes into a Box."""

    def __init__(self, box):
        self.set = lambda: box.put(True)


BUSY = ('Exceeded MaxStartups', 'Not allowed at this time')      # what sshd says in place of its version


def _handshake_problem(transport):
    error, beginning = transport.get_exception(), transport.sock.beginning
    text = str(error or '')
    if transport.last_words:
        return Problem('connection', f'The server ended the connection: {transport.last_words}.', 'Try again later.')
    if 'no acceptable' in text:
        what = next((words for mark, words in (
            ('kex', 'key exchange'), ('host key', 'host key type'), ('cipher', 'cipher'), ('mac', 'MAC'),
        ) if mark in text), 'algorithm')
        return Problem('incompatible', f'The server offers no {what} that is known here and safe.',
                       'At the server, allow OpenSSH\'s defaults: KexAlgorithms with curve25519-sha256, '
                       'host keys ed25519 or ecdsa, ciphers aes-ctr, MACs with hmac-sha2-256.')
    if 'ignature verification' in text or 'BadSignature' in type(error).__name__:
        return Problem('host-key', 'The server could not prove that it owns its host key.',
                       'Somebody may be in between. Do not go on from this network.')
    words = harmless(beginning.decode('ascii', 'replace').partition('\n')[0]).strip()
    if words.startswith(BUSY):
        return Problem('busy', f'The server takes no more connections now. It says: {words[:60]}',
                       'It is busy, or had too many attempts from this address. Try again in some minutes.')
    if not transport.remote_version and words:
        return Problem('not-ssh', f'What answers at this port is not an SSH server. It says: {words[:60]}',
                       'Check host and port; or it may be busy.')
    if not beginning or not text or isinstance(error, (EOFError, ConnectionError)) or 'Negotiation failed' in text:
        return Problem('connection', 'The server closed the connection during the SSH handshake.',
                       'It may be busy, or refuse this address (fail2ban, MaxStartups).')
    return Problem('connection', f'The SSH handshake failed: {text[:200] or type(error).__name__}')


def long_poll(transport, seconds=IDLE_POLL):
    """Let paramiko's reader sleep while nothing arrives, instead of waking ten times a second to see a close().

    An SshStream wakes its reader itself when it is closed."""
    transport.sock.settimeout(seconds)


def _transport_class(paramiko):
    """paramiko's own, which knows curve25519 by its libssh name only, with the standard name beside it."""
    libssh = 'curve25519-sha256@libssh.org'
    known = getattr(paramiko.Transport, '_kex_info', {})
    preferred = getattr(paramiko.Transport, '_preferred_kex', ())
    tables = {}
    if libssh in known and libssh in preferred and 'curve25519-sha256' not in known:
        at = preferred.index(libssh)
        tables = {'_kex_info': {**known, 'curve25519-sha256': known[libssh]},
                  '_preferred_kex': preferred[:at] + ('curve25519-sha256',) + preferred[at:]}
    return _telling_its_end(paramiko.Transport, tables)


def _telling_its_end(base, tables):
    """`base` with other tables, and with a method `ended` that is called when the connection is over, and its channels with it."""
    class Transport(base):
        def run(self):
            try:
                super().run()
            finally:
                self.ended()

        def ended(self):
            pass            # until somebody wants to know

        last_words = ''         # of a server that ends the connection (RFC 4253, section 11.1)

        def _parse_disconnect(self, message):
            message.get_int()
            self.last_words = harmless(said_in(message)).strip(' .')[:200]

        def _check_banner(self):
            for left in range(10, -1, -1):      # each is of 100 lines; ssh takes 1,024 before the version
                try:
                    return super()._check_banner()
                except load_paramiko().SSHException as error:
                    if not left or 'Indecipherable' not in str(error):
                        raise

    for name, table in tables.items():
        setattr(Transport, name, table)
    return Transport


def _old_transport_class(paramiko):
    """Transport of paramiko 1.17 and 1.18 with the algorithms of today."""
    base = paramiko.Transport
    needed = ('_kex_info', '_preferred_kex', '_key_info', '_preferred_keys', '_send_message',
              '_expect_packet', '_set_K_H', '_verify_key', '_activate_outbound')
    missing = [name for name in needed if not hasattr(base, name)]
    if missing:
        raise Problem('setup', f'paramiko {paramiko.__version__} is not as expected: it has no {missing[0]}.',
                      'Update Pythonista, or remove the paramiko in site-packages.')

    from paramiko.kex_gex import KexGexSHA256

    class LargeGroupExchange(KexGexSHA256):
        min_bits = 2048

    kex = {
        'curve25519-sha256': KexCurve25519,
        'curve25519-sha256@libssh.org': KexCurve25519,
        'ecdh-sha2-nistp256': KexNistp256,
        'diffie-hellman-group-exchange-sha256': LargeGroupExchange,
    }
    keys = {
        'ssh-ed25519': Ed25519Key.from_message,
        'ecdsa-sha2-nistp256': paramiko.ECDSAKey,
        **dict.fromkeys(RSA_SIGNATURES, RsaKey.from_message),
    }
    return _telling_its_end(base, {
        '_kex_info': kex, '_preferred_kex': tuple(kex), '_key_info': keys, '_preferred_keys': tuple(keys)})


# ---- keys ------------------------------------------------------------------------------------------

RSA_SIGNATURES = ('rsa-sha2-256', 'rsa-sha2-512')
OPENSSH_MAGIC = b'openssh-key-v1\0'


def key_type(blob):
    """The type a public key's raw blob begins with: `ssh-rsa`, whatever signature it is used for; '' of what is no key."""
    with contextlib.suppress(ValueError):
        return SshReader(blob).string().decode('ascii', 'replace')
    return ''


def new_private_key(comment):
    """A new Ed25519 key: the text of its file, and the line for authorized_keys (without line end)."""
    key, check = Ed25519Key(os.urandom(32)), os.urandom(4)
    private = check + check + b''.join(map(_string, (b'ssh-ed25519', key.public, key.seed + key.public, comment.encode())))
    private += bytes(range(1, 1 + -len(private) % 8))
    body = OPENSSH_MAGIC + b''.join(map(_string, (b'none', b'none', b''))) + struct.pack('>I', 1)
    text = base64.b64encode(body + _string(key.asbytes()) + _string(private)).decode()
    lines = [text[start:start + 70] for start in range(0, len(text), 70)]
    return ('\n'.join(['-----BEGIN OPENSSH PRIVATE KEY-----', *lines, '-----END OPENSSH PRIVATE KEY-----', '']),
            f'ssh-ed25519 {base64.b64encode(key.asbytes()).decode()} {comment}')


def load_private_key(path, passphrase=None):
    """The key in the file `path`, for sign(); its `asbytes()` is the public half.

    Raises Problem('passphrase') where one is needed and none was given, or it is wrong; Problem('key') for all else."""
    form, text = _KeyFile.read(path)
    paramiko = load_paramiko()
    load = _load_old if _is_old(paramiko) else _load
    if form.encrypted and form.private and not _has_bcrypt(paramiko):
        raise Problem('key', f'The passphrase of {path} cannot be used on this device.', (
            f'Take the passphrase off a copy (ssh-keygen -p -N "" -f {path}), or use --new-key.'
            if form.type == 'ssh-ed25519' else      # which has no other format
            f'Convert a copy of it: ssh-keygen -p -m PEM -f {path}, or use --new-key.'))
    if form.encrypted and passphrase is None:
        raise Problem('passphrase', f'The key {path} is protected by a passphrase.')
    try:
        return load(paramiko, form, text, passphrase if form.encrypted else None)
    except Problem:
        raise
    except Exception as error:      # paramiko reports a bad key by a dozen types of exceptions
        if form.encrypted:
            raise Problem('passphrase', f'This passphrase does not open the key {path}.') from error
        raise Problem('key', f'The key {path} is damaged: {error or type(error).__name__}',
                      'Copy the file again, or make a new key with --new-key.') from error


class _KeyFile(NamedTuple):
    """What a private key's file says about itself before it is opened.

    `type` is the key's in a file of OpenSSH's own format (then `private` holds the rest, and `public` the public half), else
    what the PEM armour says: RSA, EC, or nothing in PKCS #8."""
    type: str
    encrypted: bool
    private: bytes = b''
    public: 'bytes | None' = None

    @classmethod
    def read(cls, path):
        """(what the file at `path` says, its text). Raises Problem('key')."""
        try:
            with open(path, 'rb') as file:
                status, text = os.fstat(file.fileno()), file.read(1 << 20).decode('latin-1')
        except OSError as error:
            raise Problem('key', f'The key {path} cannot be read: {error.strerror}.') from error
        form = cls.of(path, text)
        if hasattr(os, 'getuid') and status.st_uid == os.getuid() and status.st_mode & 0o077:
            raise Problem('key', f'The key {path} can be read by others, so it is not used.',
                          f'chmod 600 {path}, or make a key for this device with --new-key.')
        return form, text

    @classmethod
    def of(cls, path, text):
        armour = re.search('-----BEGIN ([A-Z ]*)PRIVATE KEY-----', text)
        label = armour[1].strip() if armour else ''
        for useless, message, hint in (
                (text.startswith(('ssh-', 'ecdsa-', 'sk-')), 'is the public half of a key.', 'Name the file without .pub.'),
                (text.startswith('PuTTY-User-Key-File'), 'is a key of PuTTY.',
                 f'Convert it: puttygen {path} -O private-openssh -o KEY'),
                (not armour, 'holds no private key.', ''),
                (label == 'DSA', 'is a DSA key, which no server accepts today.', 'Make a new one: --new-key.')):
            if useless:
                raise Problem('key', f'{path} {message}', hint)
        try:
            return cls._openssh(path, base64.b64decode(text.partition(armour[0])[2].partition('-----END')[0])) \
                if label == 'OPENSSH' else cls(label, label == 'ENCRYPTED' or 'Proc-Type: 4,ENCRYPTED' in text)
        except ValueError as error:
            raise Problem('key', f'The key {path} is damaged: {error}', 'Copy the file again.') from error

    @classmethod
    def _openssh(cls, path, data):
        if not data.startswith(OPENSSH_MAGIC):
            raise ValueError('no key inside')
        reader = SshReader(data[len(OPENSSH_MAGIC):])
        cipher, _, _, count = reader.string(), reader.string(), reader.string(), reader.uint32()    # kdf, its options
        if cipher not in (b'none', b'aes256-ctr', b'aes256-cbc'):
            raise Problem('key', f'The key {path} is encrypted by a cipher that is not read here.',
                          f'Convert a copy of it: ssh-keygen -p -Z aes256-ctr -f {path}')
        if count != 1:
            raise ValueError('more than one key inside')
        public = reader.string()
        if key_type(public).startswith('sk-'):
            raise Problem('key', f'{path} belongs to a security key, which cannot be used here.', 'Make a key with --new-key.')
        return cls(key_type(public), cipher != b'none', reader.string(), public)


def _load(paramiko, form, text, passphrase):
    if form.private and (form.encrypted or form.type != 'ssh-rsa'):
        for start, key_class in (('ssh-rsa', paramiko.RSAKey), ('ssh-ed25519', paramiko.Ed25519Key),
                                 ('ecdsa-sha2-', paramiko.ECDSAKey)):
            if form.type.startswith(start):
                return key_class.from_private_key(io.StringIO(text), passphrase)
        raise _unsupported(form.type)

    # Not by paramiko's readers: they stumble over encrypted PEM (2.x), refuse PKCS #8, and prove the primes.
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    read = serialization.load_ssh_private_key if form.private else serialization.load_pem_private_key
    arguments = text.encode('latin-1'), passphrase.encode() if passphrase is not None else None
    try:
        # Proving the primes of one's own key takes longer (85 ms) than all else here; ssh does not do it.
        key = read(*arguments, unsafe_skip_rsa_key_validation=True)
    except TypeError:       # cryptography < 39
        key = read(*arguments)
    if isinstance(key, RSAPrivateKey):
        return paramiko.RSAKey(key=key)
    if isinstance(key, EllipticCurvePrivateKey):
        return paramiko.ECDSAKey(vals=(key, key.public_key()))
    raise _unsupported(type(key).__name__)


def _load_old(paramiko, form, text, passphrase):
    if form.private:
        return _parse_openssh_private(paramiko, form.private)
    if form.type == 'RSA':
        key = paramiko.RSAKey.from_private_key(io.StringIO(text), passphrase)
        return RsaKey(key.n, key.e, (key.d, key.p, key.q))
    if form.type == 'EC':
        key = paramiko.ECDSAKey.from_private_key(io.StringIO(text), passphrase)
        if key.signing_key.curve.order.bit_length() == 256:
            return key
    raise _unsupported(form.type or 'PKCS #8')


def _parse_openssh_private(paramiko, private):
    reader = SshReader(private)
    if reader.uint32() != reader.uint32():
        raise ValueError('its check numbers differ')
    type = reader.string().decode('ascii', 'replace')
    if type == 'ssh-ed25519':
        public, secret = reader.string(), reader.string()
        key = Ed25519Key(secret[:32])
        if not key.public == public == secret[32:]:
            raise ValueError('its two halves do not belong together')
        return key
    if type == 'ssh-rsa':
        n, e, d, _, p, q = (reader.integer() for _ in range(6))
        return RsaKey(n, e, (d, p, q))
    if type == 'ecdsa-sha2-nistp256':
        from ecdsa import NIST256p, SigningKey
        reader.string(), reader.string()        # the curve's name and the public point
        secret = SigningKey.from_secret_exponent(reader.integer(), NIST256p)
        return paramiko.ECDSAKey(vals=(secret, secret.get_verifying_key()))
    raise _unsupported(type)


def _unsupported(form):
    return Problem('key', f'Keys of this form cannot be used on this device: {form}.',
                   'Convert a copy of it (ssh-keygen -p -m PEM -f KEY), or make a new one with --new-key.')


class SshReader:
    """Takes SSH's strings and numbers off the front of bytes; ValueError where they end too early."""

    def __init__(self, data):
        self._data, self._at = data, 0

    def byte(self):
        """The next byte, as a number."""
        return self._take(1)[0]

    def rest(self):
        """All that is left; it stays."""
        return self._data[self._at:]

    def uint32(self):
        """The next number of four bytes."""
        return int.from_bytes(self._take(4), 'big')

    def string(self):
        """The next bytes that say how many they are."""
        return self._take(self.uint32())

    def integer(self):
        """The next number of any size (mpint), not negative."""
        return int.from_bytes(self.string(), 'big')

    def _take(self, count):
        taken = self._data[self._at:self._at + count]
        if len(taken) < count:
            raise ValueError('it ends too early')
        self._at += count
        return taken


def _string(data):
    return struct.pack('>I', len(data)) + data


def _integer(number):
    return _string(number.to_bytes(number.bit_length() // 8 + 1, 'big'))


def hear(transport, numbers, take):
    """Have the reader of `transport` call `take(number, Message)` for messages of these numbers, before paramiko looks at them."""
    def entry(number):          # up to 2.x the table is the class's, and its functions want the transport, too
        return lambda *arguments: take(number, arguments[-1])
    transport._handler_table = {**transport._handler_table, **{number: entry(number) for number in numbers}}


def hear_after(transport, number, function):
    """Have the reader call function() after paramiko has dealt with a message of this number."""
    known = transport._handler_table[number]

    def entry(*arguments):
        known(*arguments)
        function()
    transport._handler_table = {**transport._handler_table, number: entry}


def said_in(message):
    """The next string of a Message, as text."""
    return message.get_binary().decode('utf-8', 'replace')


CERTIFICATE = '-cert-v01@openssh.com'       # how the type of a certificate ends (PROTOCOL.certkeys)


def signature_algorithm(transport, blob):
    """The name under which a public key or certificate signs at this server: for RSA with a SHA-2 that it knows (RFC 8332)."""
    type = key_type(blob)
    known = getattr(transport, 'server_extensions', {}).get('server-sig-algs', b'').decode('ascii', 'replace').split(',')
    return type.replace('ssh-rsa', next((name for name in RSA_SIGNATURES if name in known), RSA_SIGNATURES[0]))


def sign(key, data, algorithm):
    """The signature of `data` by a loaded key (RFC 4253, section 6.6)."""
    return (key.sign_ssh_data(data) if _is_old(load_paramiko()) else key.sign_ssh_data(data, algorithm)).asbytes()


def public_blob(path):
    """The public key or certificate in the file `path`, as RFC 4253 bytes; None where it has none."""
    type, text = [*(read_text(path, 1 << 16) or '').split(None, 2), '', ''][:2]
    return base64.b64decode(text) if _is_key(type, text) else None


def certifies(certificate, blob):
    """Whether a certificate is for this public key: it has the key's own fields after its type and a nonce."""
    with contextlib.suppress(ValueError):
        whole, key = SshReader(certificate), SshReader(blob)
        return whole.string() == key.string() + CERTIFICATE.encode() and whole.string() and whole.rest().startswith(key.rest())
    return False


class Agent:
    """The keys that an ssh-agent holds, by its socket (draft-ietf-sshm-ssh-agent). Raises Problem('agent'), or 'no-agent'."""
    LIMIT, SIGN_LIMIT = 10.0, 60.0          # seconds; it may ask a person whether it may sign
    LARGEST = 1 << 18                       # bytes of an answer

    def __init__(self, path):
        self._path = path

    def keys(self):
        """[(public key, comment)]."""
        return self._ask(packet(11), 12, self.LIMIT, lambda answer: [
            (answer.string(), answer.string().decode('utf-8', 'replace')) for _ in range(answer.uint32())])

    def sign(self, blob, data, algorithm):
        """The signature of `data` by one of its keys (RFC 4253, section 6.6)."""
        flags = {'rsa-sha2-256': 2, 'rsa-sha2-512': 4}.get(algorithm, 0)
        return self._ask(packet(13, blob, data, flags), 14, self.SIGN_LIMIT, SshReader.string)

    def _ask(self, request, wanted, limit, read):
        try:
            with socket.socket(socket.AF_UNIX) as sock, sock.makefile('rb') as stream:
                sock.settimeout(limit)
                sock.connect(self._path)
                sock.sendall(_string(request))
                answer = SshReader(stream.read(min(self.LARGEST, int.from_bytes(stream.read(4), 'big'))))
            if answer.byte() == wanted:
                return read(answer)
            kind, reason = 'agent', 'refuses'
        except (ConnectionRefusedError, FileNotFoundError):
            kind, reason = 'no-agent', 'is gone'
        except (OSError, ValueError) as error:
            kind, reason = 'agent', f'does not answer within {limit:g} s' if isinstance(error, socket.timeout) else f'fails: {error}'
        raise Problem(kind, f'The ssh-agent at {self._path} {reason}.')


# ---- channels -------------------------------------------------------------------------------------

def packet(number, *fields):
    """The bytes of an SSH message (RFC 4251, section 5): a bool is a byte, an int a uint32, anything else a string."""
    parts = [bytes([number])]
    for field in fields:
        if isinstance(field, (bool, int)):
            parts.append(struct.pack('>?' if isinstance(field, bool) else '>I', field))
        else:
            parts.append(_string(field.encode() if isinstance(field, str) else field))
    return b''.join(parts)


class _Packet:
    """What a Transport takes for a message."""

    def __init__(self, data):
        self._data = data

    def asbytes(self):
        return self._data


class Channel:
    """One channel of a Connection (RFC 4254, section 5). Whoever owns it reads and writes, and waits nowhere but in recv().

    Any thread may send: after CLOSE nothing is sent for it. `heard()` is called by the reader, after something has come.
    `failure` is (code, words) where the server would not open it; `broken` says that its connection ended."""
    WINDOW, LARGEST = 1 << 21, 1 << 15         # bytes that the server may send unacknowledged, and in one packet
    AHEAD = 20_000          # bytes that a program is sent before its window is known: no server's is smaller
    MOST_TOGETHER = 16

    def __init__(self, connection, number):
        self.connection, self.number = connection, number
        self.heard = self.room_again = self.answered = None
        self.failure, self.broken, self.eof_received, self.exit_status, self.refused = None, False, False, -1, False
        self._lock, self._bell, self._limit = threading.Lock(), None, None
        self._parts, self._errors, self._allowed, self._unacknowledged = deque(), deque(), self.WINDOW, 0
        self._remote, self._window, self._packet, self._lent, self._is_open = None, 0, self.LARGEST // 2, 0, False
        self._backlog, self.waiting = deque(), 0
        self._finishing = self._eof_sent = self._close_sent = self._close_received = False

    @property
    def closed(self):
        """Whether this side or the other has closed it, or its connection is over."""
        return self._close_sent or self._close_received or self.broken

    # -- reading

    def read(self, most=WINDOW, errors=False):
        """What has come, up to `most` bytes, on its error stream where that is asked for; b'' at the end, None where there is
        nothing now."""
        parts = self._errors if errors else self._parts
        ended = self.eof_received or self.closed        # asked before the data
        if not parts:
            return b'' if ended or self.refused else None
        pieces = []
        while len(parts) > len(pieces) and most > sum(map(len, pieces)):
            pieces.append(parts[len(pieces)])
        data = b''.join(pieces)[:most]
        self._take_from(parts, len(data))
        return data

    def peek(self, most=MOST_TOGETHER):
        """Up to `most` pieces of what has come, which stay."""
        return [self._parts[at] for at in range(min(most, len(self._parts)))]

    def took(self, count):
        """So many bytes of the pieces are no longer wanted."""
        self._take_from(self._parts, count)

    def _take_from(self, parts, count):
        left = count
        while left:
            first = parts.popleft()
            if left < len(first):
                parts.appendleft(memoryview(first)[left:])
                break
            left -= len(first)
        self._acknowledge(count)

    def _acknowledge(self, count):
        with self._lock:
            self._unacknowledged += count
            if self._unacknowledged >= self.WINDOW // 10 and not (self.eof_received or self.closed):
                self._allowed += self._unacknowledged
                self.connection.send(93, self._remote, self._unacknowledged)
                self._unacknowledged = 0

    def recv(self, size):
        """Up to `size` bytes of what comes, b'' at the end. Raises socket.timeout after settimeout()'s waking seconds."""
        if self._bell is None:
            self._bell = Box()
            self.heard = self._ring
        while (data := self.read(size)) is None:
            try:
                self._bell.take(IDLE_POLL if self._limit is None else self._limit)
            except Late:
                if self._limit is not None:
                    raise socket.timeout('nothing came') from None
        return data

    def _ring(self):
        if not len(self._bell):
            self._bell.put(None)

    def settimeout(self, seconds):
        """How long recv() waits at most; None: as long as it takes."""
        self._limit = seconds

    # -- writing

    def room(self):
        """How many bytes leave at once, as far as the server's window goes."""
        return 0 if self._backlog or self._finishing or self.closed else max(0, self._window)

    def sendall(self, data):
        """Send `data`; what the server's window does not allow waits here. Raises OSError where nothing can be sent any more."""
        with self._lock:
            if self._finishing or self.closed:
                raise BrokenPipeError(errno.EPIPE, 'the channel is closed')
            if len(data) > self._window or self._backlog:
                data = bytes(data)      # it may be a buffer that is used again
            self._backlog.append(data)
            self.waiting += len(data)
            self._drain()

    def shutdown_write(self):
        """Say that this is all (EOF), after what was sent before."""
        with self._lock:
            if not (self._finishing or self.closed):
                self._finishing = True
                self._drain()

    def _drain(self):
        while self._backlog and self._window > 0:
            data = self._backlog.popleft()
            piece = data[:min(self._window, self._packet)]
            if len(piece) < len(data):
                self._backlog.appendleft(memoryview(data)[len(piece):])
            self._window -= len(piece)
            self.waiting -= len(piece)
            self.connection.send(94, self._remote, piece)
        if self._finishing and not self._backlog and not self._eof_sent:      # asyncssh ends a connection that says it twice
            self._eof_sent = True
            self.connection.send(96, self._remote)

    def execute(self, command, data):
        """Run `command` (RFC 4254, section 6.5) with `data` on its standard input; `refused` says that the server would not.

        To wait for the window would cost a round trip: sshd's comes with the answer, and is there when the data is."""
        with self._lock:
            if self.closed:
                return
            self.connection.send(98, self._remote, 'exec', True, command)
            if not self._window:
                self._window = self._lent = self.AHEAD
        with contextlib.suppress(OSError):      # closed at once: what it says is yet to be read
            self.sendall(data)

    def execute_ahead(self, command, data):
        """The same before the channel is open, for the first of a connection: servers count from 0."""
        self._remote = 0
        self.execute(command, data)

    def close(self):
        """The end, both ways; what it still brings is dropped."""
        with self._lock:
            if self._is_open:       # else when it is
                self._send_close()
            self._close_sent = True
            self._parts.clear()
            self._errors.clear()
        if self._bell:
            self._ring()

    def _send_close(self):
        if not self.closed:
            self.connection.send(97, self._remote)
        self._close_sent = True
        self._backlog.clear()
        self.waiting = 0
        if self._close_received:
            self.connection.forget(self)

    def getpeername(self):
        """Where the connection leads to, as a socket says it. Raises OSError."""
        return self.connection.stream.getpeername()

    # -- one that the server opens

    def accept(self):
        """Open it (RFC 4254, section 7.2)."""
        with self._lock:
            self.connection.send(91, self._remote, self.number, self.WINDOW, self.LARGEST)

    def refuse(self, code, words=''):
        """Do not open it."""
        with self._lock:
            self._close_sent = True
            self.connection.forget(self)
            self.connection.send(92, self._remote, code, words, '')

    # -- what comes, on the reader's thread

    def opened(self, remote, window, packet):
        """The other side's number, how many bytes it takes unacknowledged, and in one packet."""
        with self._lock:
            if self._remote not in (None, remote):
                raise load_paramiko().SSHException(f"the server's first channel is its number {remote}")
            self._remote, self._packet, self._is_open = remote, max(1, min(packet, self.LARGEST) - 64), True
            self._grant(window)
            if self._close_sent:        # nobody wants it any more
                self.connection.send(97, remote)

    def _grant(self, size):
        """So many bytes more may leave, less those that have left before anything was known."""
        if size:
            self._window, self._lent = self._window + size - self._lent, 0

    def take(self, number, message):
        """Message `number` for this channel."""
        if number in (94, 95):
            self._take_data(number, message)
        elif number == 93:
            with self._lock:
                self._grant(message.get_int())
                if not self.closed:
                    self._drain()
            if self.room_again:
                self.room_again()
        elif number == 96:
            self.eof_received = True
        elif number == 97:
            self.eof_received = True        # Conch says no other end
            with self._lock:
                self._close_received = True
                if not self._close_sent:
                    self.connection.send(97, self._remote)
                    self._send_close()
                else:
                    self.connection.forget(self)
        elif number == 98:
            self._take_request(message.get_binary(), message.get_boolean(), message)
        elif number == 100:
            self.refused = True

    def _take_data(self, number, message):
        if number == 95:
            message.get_int()
        data = message.get_binary()
        with self._lock:
            self._allowed -= len(data)
        if self._allowed < 0:
            raise load_paramiko().SSHException('the server sends more than was asked for')
        if data and not self.closed:
            (self._parts if number == 94 else self._errors).append(data)

    def _take_request(self, name, wants_answer, message):
        if name == b'exit-status':
            self.exit_status = message.get_int()
        if wants_answer:
            with self._lock:
                if not self.closed:
                    self.connection.send(99 if name == b'exit-status' else 100, self._remote)

    def end(self):
        """Its connection is over."""
        self.broken = True
        self._backlog.clear()
        self.waiting = 0


class Connection:
    """One SSH connection and its channels (RFC 4254), over a paramiko Transport. Once it has ended, it does not come back.

    Nothing here waits: what is sent leaves when it can. What it calls (`arrived`, `on_end`, what open() and request() are given)
    is called by its reader, which must not be held up. `below` is the connection to the jump host that it goes through.
    """
    HEARD = (3, 80, 81, 82, 90, 91, 92, *range(93, 101))       # 3: what was not taken is known otherwise

    def __init__(self, sock, board, below=None):
        self.transport = new_transport(sock, board)
        self.stream, self._below = self.transport.sock, below
        self.handshake = 0.0            # s that the key exchange took: two round trips and some work
        self.arrived = None             # (channel, where it was connected to, from where): the server opens one
        self.on_end = []
        self.over = self.given_up = False           # ended; by this side
        self._lock, self._given, self._channels = threading.Lock(), 0, {}
        self._heard, self._requests, self._held = {}, deque(), deque()
        self._waiting_for_room = {}
        self.stream.before_waiting, self.stream.room_again = self._hand_over, self._tell_room
        hear(self.transport, self.HEARD, self._take)
        hear_after(self.transport, 21, self._let_go)        # NEWKEYS: a key exchange is over
        self.transport.ended = self._end
        # paramiko's handshake timer would be one more thread; the limit is shake_hands's.
        self.transport.packetizer.start_handshake = lambda seconds: None

    @property
    def alive(self):
        """Whether it has not ended, as far as is known."""
        return self.transport.is_active() and not self.over

    @property
    def patience(self):
        """Seconds that an answer may take until it is asked whether there is somebody at all."""
        return max(3.0, 4 * self.stream.round_trip)

    @property
    def last_heard(self):
        """When something came last, as elapsed()."""
        return self.stream.heard

    # -- what is said

    def send(self, number, *fields):
        """Send a message once no key exchange is under way (RFC 4253, section 7.1)."""
        data = packet(number, *fields)
        transport = self.transport
        with transport.clear_to_send_lock:
            if self._held or not transport.clear_to_send.is_set():
                self._held.append(data)
            elif transport.active:
                with contextlib.suppress(*LOST):
                    transport._send_message(_Packet(data))

    def _let_go(self):
        with self.transport.clear_to_send_lock, contextlib.suppress(*LOST):
            while self._held:
                self.transport._send_message(_Packet(self._held.popleft()))
        self._tell_room()

    def full(self, again):
        """Whether nobody should send more than must be; then `again` is called when that is over."""
        if not (self.stream.full or self._held):
            return False
        self._waiting_for_room[again] = None
        if self.stream.full or self._held:
            return True
        return False

    def _tell_room(self):
        waiting, self._waiting_for_room = self._waiting_for_room, {}
        for again in waiting:
            again()

    def open(self, kind, fields, answered, run=()):
        """The Channel asked for; answered(channel) is called when it is open, `failure` says why not, or it is `broken`.

        `run` (command, data) leaves with the wish for a connection's first channel."""
        channel = self._new_channel(answered)
        if channel.broken:
            answered(channel)
        else:
            self.send(90, kind, channel.number, channel.WINDOW, channel.LARGEST, *fields)
            if run:
                channel.execute_ahead(*run)
        return channel

    def _new_channel(self, answered=None):
        with self._lock:
            channel = Channel(self, self._given)
            channel.answered, channel.broken = answered, self.over
            if not self.over:
                self._given += 1            # never given again: what comes late is nobody else's
                self._channels[channel.number] = channel
            return channel

    def request(self, name, fields, answered):
        """Ask the server something (RFC 4254, section 4); answered(whether it would, Message), or (None, None) at the end."""
        with self._lock:
            if not self.over:
                self._requests.append(answered)
                self.send(80, name, True, *fields)      # in the lock: the answers come in this order
                return
        answered(None, None)

    def probe(self):
        """Ask something that every server answers (PROTOCOL, keepalive): `last_heard` says when."""
        self.request('keepalive@openssh.com', (), lambda *_: None)

    def forget(self, channel):
        """The channel is closed on both sides, or was never opened."""
        self._channels.pop(channel.number, None)

    # -- what is heard, on the reader's thread

    def _take(self, number, message):
        if number >= 93:
            self._take_for_channel(number, message)
        elif number == 90:
            self._take_opening(message)
        elif number in (91, 92):
            self._take_answer(number, message)
        elif number in (81, 82) and self._requests:
            self._requests.popleft()(number == 81, message)
        elif number == 80:
            message.get_binary()
            if message.get_boolean():
                self.send(82)

    def _take_answer(self, number, message):
        channel = self._channel(message)
        if not channel or not channel.answered:
            raise load_paramiko().SSHException('the server answers what was not asked')
        if number == 91:
            channel.opened(*(message.get_int() for _ in range(3)))
        else:
            channel.failure = message.get_int(), said_in(message)
            self.forget(channel)
        answered, channel.answered = channel.answered, None
        answered(channel)

    def _take_for_channel(self, number, message):
        channel = self._channel(message)
        if channel:
            channel.take(number, message)
            self._heard[channel] = None

    def _channel(self, message):
        number = message.get_int()
        channel = self._channels.get(number)
        if not channel and number >= self._given:
            raise load_paramiko().SSHException(f'the server speaks of a channel {number} that there never was')
        return channel

    def _hand_over(self):
        """Tell those who own channels; once for all that was read together."""
        heard, self._heard = self._heard, {}
        for channel in heard:
            if channel.heard:
                channel.heard()

    def _take_opening(self, message):
        kind, remote, window, largest = message.get_binary(), *(message.get_int() for _ in range(3))
        if kind != b'forwarded-tcpip' or not self.arrived:
            return self.send(92, remote, 1, '', '')
        channel = self._new_channel()
        channel.opened(remote, window, largest)
        places = [(said_in(message), message.get_int()) for _ in range(2)]
        self.arrived(channel, *places)

    def _end(self):
        with self._lock:
            self.over = True
            channels, self._channels = self._channels, {}
            requests, self._requests = self._requests, deque()
        for channel in channels.values():
            channel.end()
            answered, channel.answered = channel.answered, None
            if answered:
                answered(channel)
            elif channel.heard:
                channel.heard()
        for answered in requests:
            answered(None, None)
        for function in self.on_end:
            function()

    def close(self, politely=True):
        """End it, and the one to the jump host after it. Not `politely`: nothing said through it arrives later after all."""
        self.given_up = True
        if not politely:
            self.stream.forget_unsent()
        self.transport.close()
        self.stream.close()             # one that was not started is not closed by its Transport
        if self._below:
            self._below.close(politely)


# ---- configuration ---------------------------------------------------------------------------------

# == 7. Link ===========================================================================================================
# One SSH connection that heals: configuration, host key, authentication, keep-alive, wake-up, connecting anew.

def config_path(device):
    """The ssh configuration of a Device's person."""
    return os.path.join(device.ssh_folder, 'config')


def config_lines(device, file=None):
    """The Lines of the ssh configuration: of the person's own and the system's, or of one file; 'none' has none."""
    import glob

    def read(path):
        try:
            with open(path, encoding='utf-8-sig', errors='replace', newline='\n') as text:
                return text.read()
        except OSError as error:
            if path != file and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                return ''
            raise Problem('config', f'The ssh configuration {path} cannot be read: {error.strerror}.',
                          'Correct that, or name another file with -F.') from None

    def find(pattern, folder):
        return sorted(glob.glob(os.path.join(folder, tilde_path(os.path.expandvars(pattern), device))))

    places = [(file or config_path(device), device.ssh_folder), ('/etc/ssh/ssh_config', '/etc/ssh')][:1 if file else 2]
    return [line for place in places if file != 'none' for line in read_config(*place, read, find)]


def find_settings(destination, device, overrides=(), config_file=None, runs=True):
    """The Settings of `destination`: command line first, then the configuration, first value wins. Raises Problem."""
    typed = [*overrides, ('user', config_word(destination.user or '')), ('port', str(destination.port or ''))]
    lines = [*(Line(key, value) for key, value in typed if value not in ('', '""')), *config_lines(device, config_file)]
    return make_settings(destination, look_up(lines, destination.host, device, runs), device)


LOCAL_NETWORKS = ('10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '169.254.0.0/16', 'fe80::/10', 'fc00::/7')


class Dialling:
    """Name resolution and TCP connection in a thread of its own, so that paramiko is imported meanwhile.

    `limit`: seconds for each attempt. `round_trip`, once there is a socket: how long its opening took."""
    FAMILIES = {'any': socket.AF_UNSPEC, 'inet': socket.AF_INET, 'inet6': socket.AF_INET6}
    PAUSE = 1.0             # s between two of ConnectionAttempts

    def __init__(self, settings, limit, app=''):
        self._settings, self._limit, self._app = settings, limit, app
        self._host, self._port = settings.host, settings.port
        self._outcome = Box()
        start(self._dial, failed=self._outcome.close)

    def _dial(self):
        try:
            self._outcome.put(self._connect())
        except Problem as problem:
            self._outcome.close(problem)

    def _connect(self):
        try:
            found = socket.getaddrinfo(self._host, self._port, self.FAMILIES[self._settings.family], socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Problem('name', f'The host {self._host} cannot be found: {getattr(error, "strerror", error)}.',
                          'Check its spelling, and that this device is online.' + self._local_hint()) from None
        for attempt in range(self._settings.attempts):
            if attempt:
                Box().take(self.PAUSE, None)
            deadline = time.monotonic() + self._limit
            for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found):
                try:
                    return self._reach(family, kind, protocol, address, (deadline - time.monotonic()) / left)
                except OSError as error:
                    failure = error
        if isinstance(failure, socket.timeout):
            raise Problem('connect', f'{self._host} port {self._port} did not answer within {self._limit:g} s.',
                          'Check address and port; a firewall may be in the way (-o ConnectTimeout=SECONDS waits longer).'
                          + self._local_hint(address[0]))
        hint = self._local_hint(address[0]) if failure.errno == errno.EHOSTUNREACH else ''
        raise Problem('connect', f'{self._host} port {self._port} cannot be reached: {failure.strerror or failure}.',
                      hint.strip() or 'Check address and port, and that sshd runs there.')

    def _reach(self, family, kind, protocol, address, limit):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.1, limit))
            if self._settings.bind_address:
                sock.bind((self._settings.bind_address, 0))
            began = elapsed()
            sock.connect(address)
            self.round_trip = elapsed() - began
            return sock
        except BaseException:
            sock.close()
            raise

    def _local_hint(self, address=''):
        """What helps where iOS lets the app reach no address of the network around it, else ''."""
        import ipaddress
        local = self._host.lower().rstrip('.').endswith('.local') or address and any(
            ipaddress.ip_address(address.partition('%')[0]) in ipaddress.ip_network(network) for network in LOCAL_NETWORKS)
        return (f' iOS may keep {self._app} from the network around it: Settings, Privacy & Security, Local Network, '
                f'{self._app}.') if self._app and local else ''

    def socket(self):
        """The connected socket. Raises Problem('name') or Problem('connect')."""
        try:
            return self._outcome.take(self._settings.attempts * (self._limit + self.PAUSE) + 5)
        except Late:
            raise Problem('name', f'The host {self._host} could not be looked up in time.',
                          'Check that this device is online.') from None


class Pins:
    """The fingerprints that pairing links gave for servers; they rule while the configuration leads there."""

    def __init__(self, device):
        self._device = device
        self._path = os.path.join(device.state_folder, 'pins.json')

    def _all(self):
        import json
        try:
            with open(self._path, encoding='utf-8') as file:
                return dict(json.load(file))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, TypeError, RecursionError):
            raise Problem('host-key', f'{self._path} is damaged: it says which host keys to expect.',
                          'Remove it, and add the server again with its pairing link.') from None

    def of(self, host, port):
        """The fingerprints that the server's key must be one of; None where none is paired, or no entry leads there."""
        pins = self._all().get(known_hosts_name(host, port))
        if pins is None:
            return None
        lines = config_lines(self._device)
        if host.lower() in (name.lower() for line in lines if line.key in ('host', 'hostname') for name in line.words):
            return pins
        with contextlib.suppress(OSError):
            self.set(host, port, ())
        return None

    def set(self, host, port, fingerprints):
        """Pair a server with these keys from now on; with none, no more. Raises OSError."""
        import json
        pins = {**self._all(), known_hosts_name(host, port): list(fingerprints)}
        write_private(self._path, json.dumps({name: prints for name, prints in pins.items() if prints}))


class HostKeys:
    """The known_hosts files of one server, consulted and added to as ssh does (sshd(8), ssh_config(5))."""
    WORD = 'replace'        # what a person types to have another key in the place of the known one

    def __init__(self, settings, device):
        self._settings, self._device = settings, device
        self._trusted = None    # the key that was trusted first; a connection made anew must show it, or another known one
        self._seen = None       # what the files had when this connection began

    def _look(self):
        """(the KnownKeys of the server, those of its host without the port, which count where there is no other)."""
        settings, host = self._settings, self._settings.host.lower()
        texts = {path: read_text(path) or '' for path in (*settings.known_hosts_files, *settings.global_files)}

        def keys(name):
            return [key for path, text in texts.items() for key in known_keys(text, name, path)]
        known = keys(settings.known_as)
        by_port = settings.known_as == f'[{host}]:{settings.port}' and all(key.marker for key in known)
        without_port = keys(host) if by_port else []
        for path in settings.revoked_files:
            text = read_text(path)
            if text is None or text.startswith('SSHKRL'):
                raise Problem('host-key', f'{path} is to say which host keys are revoked, and cannot be read.',
                              'Have RevokedHostKeys name a file of public keys, one a line; KRLs are not read here.')
            known += known_keys(re.sub('(?m)^', '@revoked * ', text), settings.known_as, path)
        return known, without_port

    def types(self):
        """The key types already known for the server, to be asked for first."""
        self._seen, pins = self._look(), self._pins()
        return [key.type for keys in self._seen for key in keys if not key.marker and (pins is None or key.fingerprint in pins)]

    def _pins(self):
        return Pins(self._device).of(self._settings.host, self._settings.port)

    def has_others(self, fingerprints):
        """Whether another key than these is known for the server."""
        return any(not key.marker and key.fingerprint not in fingerprints for key in self._look()[0])

    def check(self, blob):
        """Returns if the server's key (RFC 4253 bytes) is to be trusted. Raises Problem('host-key')."""
        if blob == self._trusted:
            return
        (known, without_port), self._seen = self._seen or self._look(), None
        settings, name, shown = self._settings, self._settings.known_as, f'{key_type(blob)} {fingerprint(blob)}'
        strict = 'yes' if settings.strict == 'ask' and (settings.batch or self._device.alone) else settings.strict
        pins = self._pins()
        verdict, key = judge_host_key(known, pins, strict, blob)
        if verdict in ('ask', 'add', 'unknown', 'certificate') and pins is None \
                and judge_host_key(without_port, None, 'yes', blob)[0] == 'trusted':
            verdict = 'trusted'
        if verdict == 'changed' and strict == 'ask' and not self._trusted and self._replace(known, key, shown):
            verdict = 'add'
        of_name, place = f'The host key of {name}', key and key.place
        refusals = {
            'revoked': (f'{of_name} is marked as revoked in {place}.', 'Do not connect. Ask whoever runs the server.'),
            'unpinned': (f'{of_name} is not the one of its pairing link: {shown}. Somebody may be in between.',
                         'Ask whoever runs the server, or pair again at the server.'),
            'changed': (f'The host key of {name} has CHANGED: it is now {shown}, but {place} has another. Somebody may be in between.',
                        f'Ask whoever runs the server. If the change is right, {key and self._cure(key)}'),
            'certificate': (f'{of_name} is vouched for by a certificate ({place}), which this script cannot check: {shown}',
                            'If that is its fingerprint, accept it once at a terminal; then it is known without one.'),
            'unknown': (f'The host key of {name} is not known: {shown}', 'If that is its fingerprint, accept it once at a terminal, or with '
                        '-o StrictHostKeyChecking=accept-new.')}
        if verdict in refusals:
            raise Problem('host-key', *refusals[verdict])
        if self._trusted and verdict != 'trusted':      # of several known ones, as of a cluster's nodes, each is as good
            raise Problem('host-key', f'{settings.host} now shows another host key than at the start: {shown}.',
                          'Start again if that is expected.')
        if verdict == 'ask':
            self._ask(shown, key)
        if verdict != 'trusted':
            self._add(f'{name} {key_type(blob)} {base64.b64encode(blob).decode()}\n')
        self._trusted = blob

    def _cure(self, key):
        """What takes a key that is no longer right out of known_hosts."""
        if not self._device.has_ssh_keygen:
            return 'run this in the app, by hand: it asks whether the new one is to replace it.'
        import shlex
        path = key.place.rpartition(', line ')[0]
        elsewhere = f' -f {shlex.quote(path)}' if path != os.path.join(self._device.ssh_folder, 'known_hosts') else ''
        return f"remove that line: ssh-keygen -R '{self._settings.known_as}'{elsewhere}"

    def _replace(self, known, old, shown):
        """Where nothing else could do it, ask about a server that was set up anew; whether the known keys are gone now."""
        if self._device.has_ssh_keygen or not self._device.can_agree() or self._device.ask(
                f'The host key of {self._settings.known_as} has CHANGED.\nUntil now: {old.type} {old.fingerprint}\nNow: {shown}\n'
                'Somebody may be in between. Ask whoever runs the server. Only where they say that it was set up anew, and that '
                f'this is its key, type the word {self.WORD}:').strip().lower() != self.WORD:
            return False
        gone = [key.place for key in known if not key.marker]
        for path in self._settings.known_hosts_files:
            lines = enumerate((read_text(path) or '').split('\n'), 1)
            with contextlib.suppress(OSError):      # whoever adds the new one says so
                write_private(path, '\n'.join(line for number, line in lines if f'{path}, line {number}' not in gone))
        return True

    def _ask(self, shown, authority):
        port = '' if self._settings.port == 22 else f', port {self._settings.port},'
        if not self._device.confirm(
                f'The server {harmless(self._settings.host)}{port} is not known yet. Its key is\n{shown}\n'
                + (f'({authority.place} wants a certificate, which cannot be checked here.)\n' if authority else '')
                + 'At the server, ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub shows its keys.\nTrust it and go on'):
            raise Problem('host-key', f'The host key of {self._settings.known_as} was not accepted.',
                          'Ask whoever runs the server.')

    def _add(self, line):
        if not self._settings.known_hosts_files or self._settings.known_hosts_files[0] == '/dev/null':
            return
        path = self._settings.known_hosts_files[0]
        try:
            os.makedirs(os.path.dirname(path) or '.', mode=0o700, exist_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 'a', encoding='utf-8') as file:
                file.write(line if (read_text(path) or '\n').endswith('\n') else f'\n{line}')
        except OSError as error:
            # As with ssh, no end of the login: only that it is asked about again.
            print(f'The host key cannot be saved in {path}: {error.strerror}.', file=sys.stderr)


class Authentication:
    """The client's side of user authentication over one Transport, whose host key was checked (RFC 4252, RFC 4256).

    Each method gives whether the server took it; only a USERAUTH_FAILURE is a refusal. `wants` are the methods that it has
    said it wants next, `over` says that it lets one in, `asks` whether keyboard-interactive asked anything. What it says to
    the person goes to `show(text)`. Raises EOFError where the connection ended, and Problem('connect') where the server says
    nothing for too long."""
    LIMIT = 120.0           # waking seconds, as sshd's LoginGraceTime
    PATIENCE = 900.0        # of a server that has said something: somebody may have to approve it elsewhere
    MOST_MESSAGES = 100     # of a server that talks on and on
    SERVICE_REQUEST, SERVICE_ACCEPT, REQUEST, FAILURE, SUCCESS, BANNER, QUESTION, ANSWER = 5, 6, 50, 51, 52, 53, 60, 61

    def __init__(self, transport, user, show=lambda text: None, limit=None):
        self._transport, self._user, self._show, self._limit = transport, user, show, limit or self.LIMIT
        self.wants, self.over, self.asks = (), False, None
        self._heard = Box()
        hear(transport, (self.SERVICE_ACCEPT, self.FAILURE, self.SUCCESS, self.BANNER, self.QUESTION), self._hear)
        self._send(self.SERVICE_REQUEST, 'ssh-userauth')       # once a connection: some servers refuse a second one

    def _hear(self, number, message):
        if len(self._heard) >= self.MOST_MESSAGES:
            raise load_paramiko().SSHException('the server talks on and on')        # which ends the connection
        self._heard.put((number, message))

    def still_there(self):
        """Raises EOFError where the connection has ended: nobody is asked for what it has no use for."""
        if not self._transport.is_active():
            raise EOFError(str(self._transport.get_exception() or ''))

    def none(self):
        """Ask for nothing but the methods there are; some servers let everybody in by it."""
        self._request('none')
        return self._outcome()

    def takes(self, blob):
        """Whether the server would take this public key or certificate, without a signature."""
        self._request('publickey', False, signature_algorithm(self._transport, blob), blob)
        return self._outcome(lambda message: True)

    def publickey(self, blob, sign, ahead=None):
        """Prove to have the private half of `blob`: `sign(data, algorithm)` gives its signature.

        `ahead()` has leave with it what should follow, and gives what to call where the server does not let one in by it."""
        algorithm = signature_algorithm(self._transport, blob)
        signed = packet(self.REQUEST, self._user, 'ssh-connection', 'publickey', True, algorithm, blob)
        signature = sign(_string(self._transport.session_id) + signed, algorithm.replace(CERTIFICATE, ''))
        self._request('publickey', True, algorithm, blob, signature)
        take_back = ahead and ahead()
        accepted = self._outcome()
        if take_back and not self.over:
            take_back()
        return accepted

    def password(self, secret):
        """Raises Problem('auth') where it is right, and has to be changed."""
        self._request('password', False, secret)
        return self._outcome(_must_be_changed)

    def interactive(self, answer):
        """Keyboard-interactive; `answer(name, instruction, [(prompt, echo)])` gives the texts to be sent."""
        def next_round(message):
            self.asks, self._limit = True, self.PATIENCE
            name, instruction, _ = (said_in(message) for _ in range(3))
            prompts = [(said_in(message), message.get_boolean()) for _ in range(min(message.get_int(), self.MOST_MESSAGES))]
            answers = answer(name, instruction, prompts)
            self._send(self.ANSWER, len(answers), *answers)
        self.asks = bool(self.asks)
        self._request('keyboard-interactive', '', '')
        return self._outcome(next_round)

    def _outcome(self, question=None):
        for _ in range(self.MOST_MESSAGES):
            number, message = self._next()
            if number == self.SUCCESS:
                self._transport._auth_trigger()
                self.over = True
                return True
            if number == self.FAILURE:
                self.wants = tuple(said_in(message).split(','))
                return message.get_boolean()
            if number == self.BANNER:
                self._limit = self.PATIENCE
                self._show(said_in(message))
            elif number == self.QUESTION and question and question(message):
                return True
        raise Problem('auth', 'The server goes on asking, and lets nobody in.', 'Ask whoever runs the server.')

    def _next(self):
        for step in awake(self._limit, 0.1):
            heard = self._heard.take(step, None)
            if heard:
                return heard
            if not len(self._heard):
                self.still_there()
        raise Problem('connect', f'The server did not answer within {self._limit:g} s whether it lets {self._user} in.', 'Try again.')

    def _request(self, method, *fields):
        self._send(self.REQUEST, self._user, 'ssh-connection', method, *fields)

    def _send(self, number, *fields):
        self._transport._send_message(_Packet(packet(number, *fields)))


def _must_be_changed(message):
    raise Problem('auth', f'The server wants a new password: {harmless(said_in(message))}', 'Sign in once with ssh, and change it there.')


class Identity:
    """A key that may let one in: its name for people, and its public half, None while only its file knows that.

    `asks`: whether somebody may have to agree before it signs. `open()` gives (the public half, a function(data, algorithm)
    that signs), None where it cannot be used; `opened` is what it gave, once."""

    def __init__(self, name, blob, asks, open):
        self.name, self.blob, self.asks, self._open = name, blob, asks, open

    @functools.cached_property
    def opened(self):
        self.asks, opened = False, self._open()
        self.blob = opened[0] if opened else self.blob
        return opened


class LastKey:
    """The key that a server took last: its fingerprint, and the server's version, as text; no secret.

    With it the next login begins in one flight: what is to run at the server leaves together with the proof, and no word is
    waited for in between. A server that ended a connection at that is asked step by step, until another key or version."""
    NAME, NOT = 'keys', 'not '          # where the device keeps it; what is put before it after such an end

    def __init__(self, device, account):
        self._device, self._account = device, account
        self._last = self._all().get(account, '')

    def _all(self):
        import json
        with contextlib.suppress(ValueError, RecursionError):
            kept = json.loads(self._device.preference(self.NAME) or '{}')
            return kept if isinstance(kept, dict) else {}
        return {}

    def _keep(self, last):
        import json
        self._last = last
        self._device.prefer(self.NAME, json.dumps({**self._all(), self._account: last}))

    @staticmethod
    def _text(blob, version):
        return f'{fingerprint(blob)} {version}'

    def is_this(self, blob, version):
        """Whether it is this one, and may fly."""
        return self._text(blob, version) == self._last

    def took(self, blob, version):
        """The server has taken this one."""
        if self._text(blob, version) not in (self._last, self._last[len(self.NOT):]):
            self._keep(self._text(blob, version))

    def ground(self):
        """The server has ended a connection at what left ahead."""
        if self._last.partition(' ')[0] != self.NOT.strip():
            self._keep(self.NOT + self._last)


class Credentials:
    """How a person proves who they are: agent, keys, password; what worked is kept in memory for the next connection."""
    KEYS_FIRST = ('SSH-2.0-OpenSSH', 'SSH-2.0-dropbear')        # take a key for a beginning; others may end the connection at it
    MOST_LINES, LONGEST_LINE = 30, 500      # of what a server says before it asks

    def __init__(self, settings, device):
        self._settings, self._device = settings, device
        self._server, self._account, self._whom = None, settings.account, harmless(settings.account)
        self._steps = []        # (method, secret) of each step that the server accepted, in order
        self._tried, self._shown, self._judged = [], set(), set()
        self._was_let_in = self._was_refused = self._was_asked = self._flew = False
        self._again = ''            # before a question: what to say of the answer before
        self._keys, self.last_key = None, LastKey(device, settings.account)
        self._took = Authentication.LIMIT       # s, the last time

    @property
    def _nobody(self):
        """Whether there is no person to be asked."""
        return self._settings.batch or self._device.alone

    @property
    def work_once(self):
        """Whether what was accepted may be good for one connection only."""
        return any(method == 'keyboard-interactive' for method, _ in self._steps)

    def use(self, transport, ahead=None):
        """Authenticate `transport` (RFC 4252). Raises Problem: 'auth' where the server refused, 'connect' where the connection ended,
        'grounded' where it did so because something had left `ahead`, see Authentication: then again, step by step."""
        # A server that has let one in before is as quick the next time: else another connection is better than this one.
        limit, began = min(max(self._settings.connect_timeout, 4 * self._took), Authentication.LIMIT), elapsed()
        self._server, self._flew = Authentication(transport, self._settings.user, self._show_once, limit), False
        try:
            self._steps, self._was_let_in = self._sign_in(self._server, transport.remote_version, ahead), True
            self._took = elapsed() - began
        except LOST as error:
            if self._flew:
                self.last_key.ground()
                raise Problem('grounded', f'{self._settings.alias} wants to be asked step by step.', 'Try again.') from None
            reason = transport.last_words or str(error)
            broke = f'{self._settings.alias} ended the connection during authentication: {reason or "it gave no reason"}.'
            if not self._was_let_in and self._was_refused:
                raise self._refused(broke) from None
            slow = ' Some give little time for the answers (LoginGraceTime).' if self._was_asked and not reason else ''
            raise Problem('connect', broke, 'Try again.' + slow) from None

    def _sign_in(self, server, version, ahead):
        """The steps by which the server let one in: what it accepted before, at once; else what it says that it wants."""
        def flies(key):
            return isinstance(key, Identity) and bool(key.blob) and self.last_key.is_this(key.blob, version)
        done, self._tried, self._judged = [], [], set()
        keys_first = version.startswith(self.KEYS_FIRST) and self._settings.methods[:1] == ('publickey',)
        first = sorted(self._identities(), key=lambda key: not flies(key))[:1] if keys_first else []
        for method, secret in self._steps or [('publickey', key) for key in first]:
            if not self._attempt(method, secret, done, ahead if flies(secret) else None):
                self._steps = []        # a code that works once, say
                break
        ways, asked = self._ways(), False
        while not server.over:
            attempt = next(((method, secret) for method, secrets in ways if method in server.wants for secret in secrets), None)
            if attempt:
                self._attempt(*attempt, done)
            elif asked or any(server.wants):
                raise self._refused(f'{self._settings.name}: permission denied ({harmless(", ".join(server.wants))[:200]}).')
            else:
                asked = True
                server.none()
        if keys_first and [method for method, _ in done] == ['publickey']:
            self.last_key.took(done[0][1].blob, version)
        return done

    def _ways(self):
        """[(method, what to try by it, one after the other)], in the order of PreferredAuthentications."""
        methods = self._settings.methods
        secrets = {'publickey': (key for key in self._identities() if key.blob not in self._judged),
                   'keyboard-interactive': (secret for secret in self._typed(tuple) if self._server.asks is not False),
                   'password': self._typed(lambda: self._device.secret(f"{self._again}{self._whom}'s password:"))}
        ways = [(method, secrets[method]) for method in methods]
        if 'password' in methods and not self._settings.batch:
            ways.insert(methods[0] == 'publickey', ('password', self._kept_password()))
        return ways

    def _typed(self, ask):
        """What `ask` gives, as often as somebody may try."""
        for _ in range(0 if self._nobody else self._settings.password_tries):
            self._server.still_there()
            self._again = 'That was not right. ' * (self._was_asked and self._was_refused)
            self._was_asked = True
            yield ask()

    def _refused(self, message):
        tried = ', '.join(dict.fromkeys(self._tried))
        hint = f'Tried: {tried}. ' if tried else 'No key was found. '
        return Problem('auth', message, hint + 'Name a key with -i FILE, or check the user name.')

    def _attempt(self, method, secret, done, ahead=None):
        """Whether the server accepted it; then it is added to `done`."""
        server, wanted, given = self._server, self._server.wants, []
        if method == 'publickey':
            accepted = self._try_key(secret, ahead)
        else:
            self._tried.append(method)
            accepted = server.password(secret) if method == 'password' else server.interactive(
                lambda *round: self._answers(given, secret, *round))
        self._was_refused = not accepted
        if accepted:
            done.append((method, given if method == 'keyboard-interactive' else secret))
            if method == 'password' or len(given) == 1 and 'password' in wanted:
                self._device.keep_secret(self._account, given[0][1] if given else secret)
        return accepted

    def _try_key(self, key, ahead):
        server = self._server
        accepted = server.takes(key.blob) if key.blob and key.asks and not ahead else None
        if accepted is not False:
            if not key.opened:
                return False
            try:
                self._flew = self._flew or bool(ahead)
                accepted = server.publickey(*key.opened, ahead)
            except Problem as problem:
                if problem.kind not in ('agent', 'no-agent'):
                    raise
                return self._pass_over(key.name, problem)
        self._tried.append(key.name)
        if accepted or 'publickey' in server.wants:
            self._judged.add(key.blob)
        return accepted

    def _answers(self, given, earlier, name, instruction, prompts):
        """The answers to one round of questions: as in an earlier connection while the questions are the same, else a person's.

        `given` gathers the (question, answer) pairs of all rounds."""
        said = self._as_said(name, instruction)
        if said and not prompts:
            put_line(said, sys.stderr)
        for prompt, echo in prompts:
            before = earlier[len(given)] if len(given) < len(earlier) else ('', '')
            given.append((prompt, before[1] if before[0] == prompt else self._ask(said, prompt, echo)))
            said = ''
        return [answer for _, answer in given[len(given) - len(prompts):]]

    def _as_said(self, *texts):
        """A server's words, each line of them marked as its own, as ssh marks its questions: none can pass for this script's."""
        lines = filter(None, (' '.join(harmless(line).split()) for text in texts for line in text.splitlines()))
        return '\n'.join(f'({self._whom}) {line[:self.LONGEST_LINE]}' for line in itertools.islice(lines, self.MOST_LINES))

    def _show_once(self, text):
        said = self._as_said(text)
        if said not in self._shown:
            self._shown.add(said)
            put_line(said, sys.stderr)

    def _ask(self, said, prompt, echo):
        if self._nobody:
            raise self._refused(f'{self._settings.name}: the server asks, and nobody is here to answer: {harmless(prompt)}')
        text = '\n'.join(filter(None, (self._again.strip(), said, self._as_said(prompt) or self._as_said('?'))))
        self._again = ''
        return self._device.ask(text) if echo else self._device.secret(text)

    def _kept_password(self):
        """The password that the device keeps; it is forgotten until it was right again."""
        if (kept := self._device.kept_secret(self._account)) is not None:
            self._device.keep_secret(self._account, None)
            yield kept

    # -- keys

    def _identities(self):
        """The Identities to try, in ssh's order: certificates, the agent's keys that were named, its others, files.

        Where files were named, the agent's others come last, so that a server has not had enough by then."""
        if self._keys is None:
            settings = self._settings
            held = self._held(os.environ.get('SSH_AUTH_SOCK', '') if settings.agent is None else settings.agent)
            files = [self._file(path) for path in settings.identity_files if settings.identities_named or os.path.exists(path)]
            named = [key for key in held if any(key.blob == file.blob for file in files)]
            others = [] if settings.identities_only else [key for key in held if key not in named]
            certificates = (*settings.certificate_files, *(f'{path}-cert.pub' for path in settings.identity_files))
            certified = [self._certified(path, named + files + others) for path in certificates]
            self._keys = [*filter(None, certified), *named, *(files + others if settings.identities_named else others + files)]
        return self._keys

    def _held(self, path):
        agent, keys = Agent(path), []
        try:
            keys = agent.keys() if path and hasattr(socket, 'AF_UNIX') else []
        except Problem as problem:
            if problem.kind == 'agent':
                self._pass_over('agent', problem)
        return [Identity(f'agent: {harmless(comment)[:80]}', blob, True,
                         lambda blob=blob: (blob, functools.partial(agent.sign, blob)))
                for blob, comment in keys if key_type(blob)]

    def _file(self, path):
        self._device.mend_key(path)
        blob, asks = public_blob(f'{path}.pub') or public_blob(path), False
        with contextlib.suppress(Problem):
            form = _KeyFile.read(path)[0]
            blob, asks = blob or form.public, form.encrypted
        return Identity(path, blob, asks, lambda: self._load(path))

    @staticmethod
    def _certified(path, keys):
        """The certificate in a file as an Identity, None without it or a key that it is for."""
        certificate = public_blob(path)
        key = next((key for key in keys if certificate and key.blob and certifies(certificate, key.blob)), None)
        return key and Identity(path, certificate, key.asks, lambda: key.opened and (certificate, key.opened[1]))

    def _load(self, path):
        """(public half, function that signs) of the key in a file, None where it cannot be used."""
        for passphrase in itertools.chain((None,), self._typed(lambda: self._device.secret(f'{self._again}Passphrase of {path}:'))):
            try:
                key = load_private_key(path, passphrase)
                return key.asbytes(), functools.partial(sign, key)
            except Problem as problem:
                if problem.kind != 'passphrase':
                    return self._pass_over(path, problem)
                self._was_asked, self._was_refused = passphrase is not None, True
        self._tried.append(f'{path} ({"needs its" if self._nobody else "wrong"} passphrase)')

    def _pass_over(self, name, problem):
        """Say why a key is not used, where somebody named it, and go on."""
        self._tried.append(f'{name} (unusable: {problem.message})')
        if self._settings.identities_named or problem.kind == 'agent':
            put_line(f'{problem.message} {problem.hint}'.strip(), sys.stderr)


class Hop:
    """One server on the way: what connects to it, checks its key and authenticates, the first time and again."""

    def __init__(self, settings, device, board):
        self._settings, self._app, self._board = settings, device.app, board
        self._credentials = Credentials(settings, device)
        self._host_keys = HostKeys(settings, device)
        self._way = None            # (Channel through a jump host, where its answer comes, when it was asked for)

    def connect(self, through=None, limit=None, ahead=None):
        """(an authenticated Connection, the host key's bytes), by TCP or `through` another one. Raises Problem.

        `limit` is for the TCP connection, in seconds; ConnectTimeout where it is None. `ahead(connection)` has leave with the
        proof of a key what should follow, and gives what to call where the server would not have it."""
        sock, round_trip = self._channel(through) if through else self._socket(limit)
        connection = None
        try:
            connection = Connection(sock, self._board, through)
            connection.stream.round_trip = round_trip
            prefer_host_key_types(connection.transport, self._host_keys.types(), self._settings.key_algorithms)
            self._shake_hands(connection)
            blob = connection.transport.get_remote_server_key().asbytes()
            self._host_keys.check(blob)
            self._credentials.use(connection.transport, ahead and functools.partial(ahead, connection))
            long_poll(connection.transport)
            return connection, blob
        except BaseException as error:
            (connection or sock).close()
            if through is not None:
                through.close()
            if isinstance(error, (load_paramiko().SSHException, *LOST)):
                raise Problem('connect', f'{self._settings.host} port {self._settings.port} ended the connection at once '
                              f'({error}).', 'Try again; it may be busy.') from None
            raise

    @property
    def needs_person(self):
        """Whether somebody has to answer before it can be connected to again."""
        return self._credentials.work_once

    def step_by_step(self):
        """Have nothing leave ahead from now on: the server has ended a connection at it."""
        self._credentials.last_key.ground()

    def _socket(self, limit):
        dialling = Dialling(self._settings, limit or self._settings.connect_timeout, self._app)
        load_paramiko()
        return dialling.socket(), dialling.round_trip

    def reach(self, through):
        """Ask a jump host's Connection, which may not have let one in yet, for the way to here; gives what takes that back."""
        answer = Box()
        channel = through.open('direct-tcpip', (self._settings.host, self._settings.port, '127.0.0.1', 0), answer.put)
        self._way = channel, answer, elapsed()

        def take_back():
            through.forget(channel)
            self._way = None
        return take_back

    def _channel(self, through):
        if not (self._way and self._way[0].connection is through):
            self.reach(through)
        settings, (channel, answer, began) = self._settings, self._way
        answer.take(settings.connect_timeout, None)
        if channel.broken or channel.failure or not channel.room():
            through.close()
            said = 'the connection to it is lost' if channel.broken else harmless(channel.failure[1]) if channel.failure \
                else f'no answer within {settings.connect_timeout:g} s'
            raise Problem('connect', f'The jump host does not reach {settings.host} port {settings.port}: '
                          f'{said or "refused"}.', 'Check address and port as the jump host sees them.')
        return channel, elapsed() - began

    def _shake_hands(self, connection):
        try:
            shake_hands(connection, self._settings.connect_timeout)
        except Problem as problem:
            where = f'{self._settings.host} port {self._settings.port}'
            raise Problem(problem.kind, f'{where}: {problem.message}', problem.hint) from None


class Wish:
    """A channel that somebody wants of a Link; `then` gets it, or the Problem, once, on a thread that must not be held up.

    run(connection) gives (command, data) for a session; it `flew` where these have left before the channel was open."""

    def __init__(self, number, kind, fields, limit, then, run):
        self.number, self.kind, self.fields, self.limit, self.then, self.run = number, kind, fields, limit, then, run
        self.channel = self.expiry = self.doubt = self.asked = None
        self.tries, self.over, self.flew = 0, False, False

    @property
    def where(self):
        """Where a connection is wished for, in words."""
        return '{} port {}'.format(*self.fields)


class Link:
    """One SSH connection to one server, made anew whenever it is lost; whoever wants a channel wishes for it here.

    A wish is met by the connection that lives, now or later: what a connection that ended has not answered goes back into the
    line, since an opening delivers nothing. So only here it is known what a failed opening means. `tell(event, **fields)` hears of
    connecting, connected, suspended and reconnected, of a note (text) and of link-failed (problem)."""
    RUN_LIMIT = 15.0        # seconds that a server may take to give a session
    OPEN_LIMIT = 10.0       # the same for what it has to connect to
    PAUSES = (1.0, 2.0, 4.0)        # seconds until one that is busy is asked again for a session

    def __init__(self, settings, device, tell, jumps=()):
        self.settings, self.tell = settings, tell
        self.meanwhile = ''         # what is said with the words that it is lost: what goes on
        self.board = Board()
        self._hops = [Hop(hop, device, self.board) for hop in (*jumps, settings)]
        self._connection = self._problem = None
        self._lock, self._wishes, self._numbers = threading.Lock(), [], itertools.count()
        self._flown = []            # what has left with the last proof of a key
        self._waiting = []          # Boxes of those who wait for a connection
        self.bell = Box(IDLE_POLL)  # rung by whatever the thread that watches should look at
        self.suspected, self.looked = False, 0.0        # when the connection was looked at last, by elapsed()
        self._subscribers = []
        self.board.start()

    @property
    def over(self):
        """Whether there will be no further connection."""
        return self._problem is not None

    # -- making the connection

    def connect(self):
        """Make the first connection; a person may be asked. Raises Problem."""
        settings = self.settings
        self.tell('connecting', host=settings.host, port=settings.port)
        connection, blob = self.dial()
        self.tell('connected', address=address_text(connection), key=key_type(blob), fingerprint=fingerprint(blob))
        self.adopt(connection)

    def dial(self, limit=None):
        """A Connection to the server, through the jump hosts; closing it closes theirs. The server's host key. Raises Problem.

        `limit`: seconds for the TCP connection, where it is not ConnectTimeout."""
        try:
            return self._dial(limit)
        except Problem as problem:
            if problem.kind != 'grounded':
                raise
            return self._dial(limit)

    def _dial(self, limit):
        connection = None
        for hop, next_hop in zip(self._hops, (*self._hops[1:], None)):
            connection, blob = hop.connect(connection, limit, next_hop.reach if next_hop else self._fly)
        return connection, blob

    @staticmethod
    def _turn(wish):
        """A session comes first: its channel is to be the first one, and what else was answered does not speak for it."""
        return wish.kind != 'session', wish.number

    def _fly(self, connection):
        """Have what waits here leave by a connection that is in the making; gives what puts it back into the line."""
        with self._lock:
            wishes, self._wishes = self._wishes, []
        self._flown = wishes
        wishes.sort(key=self._turn)
        for wish in wishes:
            self._ask(wish, connection, wish is wishes[0])

        def take_back():
            for wish in wishes:
                connection.forget(wish.channel)     # the server has never heard of it
                self._wish_again(wish)
        return take_back

    def adopt(self, connection):
        """Use `connection` from now on; what there was before is given up."""
        with self._lock:
            old, self._connection = self._connection, connection
            self.suspected = False
            waiting, self._waiting = self._waiting, []
        connection.on_end.append(self.ring)
        self.ring()
        for wish in self._flown:
            wish.asked = elapsed()      # what was heard until now was no answer to it
        if old:
            old.close(politely=False)
        for box in waiting:
            box.put(None)
        for function in list(self._subscribers):
            function(connection)
        self._assign()

    def fail(self, problem):
        """There will be no further connection: whoever waits for one gets the Problem."""
        with self._lock:
            self._problem = self._problem or problem
            waiting, self._waiting, wishes, self._wishes = self._waiting, [], self._wishes, []
        for box in waiting:
            box.put(None)
        for wish in wishes:
            self._finish(wish, problem)
        self.tell('link-failed', problem=problem)

    @property
    def needs_person(self):
        """Whether it cannot be connected again without somebody to answer."""
        return any(hop.needs_person for hop in self._hops)

    # -- using it

    @property
    def present(self):
        """The Connection that there was last, alive or not."""
        return self._connection

    def transport(self, limit=30.0):
        """The live Connection; waits up to `limit` waking seconds for one that is being made anew. Raises Problem('link')."""
        box = Box()
        with self._lock:
            if not (self._connection and self._connection.alive or self._problem):
                self._waiting.append(box)
                self.ring()
            else:
                box.put(None)
        with contextlib.suppress(Late):
            box.take(limit)
        if self._problem:
            raise self._problem
        if not (self._connection and self._connection.alive):
            raise self._lost(limit)
        return self._connection

    def _lost(self, limit):
        return Problem('link', f'The connection to {self.settings.alias} is lost, and could not be made anew '
                       f'within {limit:g} s.', 'Check that this device is online.')

    def is_sure_of(self, connection):
        """Whether nothing speaks against a Connection: nobody doubts it, and this process has not slept since that was looked at."""
        return connection is self._connection and connection.alive and not self.suspected and elapsed() < self.looked + _Keeper.FREEZE

    def subscribe(self, function):
        """Call function(connection) after every one that is made, at once if there is one."""
        self._subscribers.append(function)
        if self._connection:
            function(self._connection)

    def open_tcp(self, host, port, limit=OPEN_LIMIT):
        """A Channel to host:port as the server reaches it (RFC 4254, section 7.2: direct-tcpip); waits for it.

        Raises Problem: 'refused' where nothing listens there, 'forbidden' where the server forwards nothing, 'slow', 'link'.
        """
        return self._wait_for(limit, lambda then: self.wish('direct-tcpip', (host, port, '127.0.0.1', 0), limit, then))

    def run(self, command, data):
        """A session Channel on which `command` runs and has got `data` on its standard input; waits for it.

        Raises Problem: 'remote' where the server gives no session, 'link' where there is no connection."""
        return self._wait_for(self.RUN_LIMIT, lambda then: self.run_soon(command, lambda connection: data, then))

    def run_soon(self, command, data, then):
        """The Wish for the same, with data(connection): then(outcome) gets the Channel or the Problem, on a thread that must not
        be held up."""
        return self.wish('session', (), self.RUN_LIMIT, then, lambda connection: (command, data(connection)))

    def _wait_for(self, limit, begin):
        box = Box()
        wish = begin(box.put)
        try:
            outcome = box.take(limit + 5, self._lost(limit))
        except BaseException:
            self.withdraw(wish)
            raise
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    def wish(self, kind, fields, limit, then, run=None):
        """The Wish for a channel, within `limit` waking seconds: then(outcome) gets the Channel, or the Problem."""
        wish = Wish(next(self._numbers), kind, fields, limit, then, run)
        wish.expiry = self.board.after(limit, lambda: self._expire(wish))
        with self._lock:
            problem = self._problem
            if not problem:
                self._wishes.append(wish)
        if problem:
            self._finish(wish, problem)
        self._assign()
        return wish

    def withdraw(self, wish):
        """Nobody wants it any more; a channel that comes after all is closed."""
        wish.then = lambda outcome: isinstance(outcome, Channel) and outcome.close()
        self._finish(wish, None)
        if wish.channel:
            wish.channel.close()

    def _assign(self):
        while True:
            with self._lock:
                connection = self._connection
                if not self._wishes or not (connection and connection.alive):
                    break
                wish = min(self._wishes, key=self._turn)
                self._wishes.remove(wish)
            self._ask(wish, connection)
        if self._wishes:
            self.ring()

    def _ask(self, wish, connection, ahead=False):
        if wish.over:
            return
        wish.asked, wish.flew = elapsed(), bool(ahead and wish.run)
        wish.doubt = self.board.after(min(connection.patience, wish.limit / 2), lambda: (
            connection.last_heard > wish.asked or self.suspect(connection)))
        wish.channel = connection.open(wish.kind, wish.fields, lambda channel: self._answered(wish, channel),
                                       wish.run(connection) if wish.flew else ())

    def _answered(self, wish, channel):
        """What a connection makes of a wish, on its reader's thread."""
        if channel.broken:
            if wish.flew and not channel.connection.given_up:
                self._hops[-1].step_by_step()
            return self._wish_again(wish)
        if not channel.failure:
            if wish.run:
                channel.settimeout(self.RUN_LIMIT)
                if not wish.flew:
                    channel.execute(*wish.run(channel.connection))
            return self._finish(wish, channel)
        code, words = channel.failure
        if (wish.kind == 'session' or code == 4) and wish.tries < len(self.PAUSES):
            wish.tries += 1
            return self.board.after(self.PAUSES[wish.tries - 1], lambda: self._wish_again(wish))
        self._finish(wish, self._refusal(wish, code, harmless(words)[:200]))

    def _wish_again(self, wish):
        with self._lock:
            problem = self._problem
            if not problem and not wish.over:
                self._wishes.append(wish)
        if problem:
            self._finish(wish, problem)
        else:
            self.board.call(self._assign)       # once all are back: its connection may have ended after another was there

    def _refusal(self, wish, code, words):
        server, said = self.settings.alias, f' ({words})' if words else ''
        if wish.kind == 'session':
            return Problem('remote', f'{server} gives no session{said}.', 'The account may not be allowed to run commands, '
                           'or the server is busy.')
        if code in (1, 3):
            return Problem('forbidden', f'{server} does not allow TCP forwarding{said}.',
                           'Its sshd has AllowTcpForwarding or PermitOpen set; --device-auth works without.')
        return Problem('refused', f'Nothing listens at {wish.where} of {server}{said}.')

    def _expire(self, wish):
        channel, server, limit = wish.channel, self.settings.alias, f'{wish.limit:g} s'
        # Where nothing was heard since it was asked, but what was on its way then, it may as well be the connection.
        if not channel or channel.broken or channel.connection is not self._connection \
                or not channel.failure and channel.connection.last_heard < wish.asked + wish.limit / 2:
            problem = self._lost(wish.limit)
        elif wish.kind == 'session':
            problem = Problem('remote', f'{server} gives no session within {limit}.', 'It may be busy. Try again later.')
        else:
            problem = Problem('slow', f'{server} does not reach {wish.where} within {limit}.', 'Try again.')
        self._finish(wish, problem)
        if channel:
            channel.close()

    def _finish(self, wish, outcome):
        with self._lock:
            if wish in self._wishes:
                self._wishes.remove(wish)
            first, wish.over = not wish.over, True
        if first:
            for moment in filter(None, (wish.expiry, wish.doubt)):
                moment.cancel()
            then, wish.then = wish.then, None
            then(outcome)
        elif isinstance(outcome, Channel):
            outcome.close()

    # -- keeping it alive

    def keep(self, tick=1.0):
        """Look after the connection from now on, every `tick` seconds and whenever something happens."""
        start(_Keeper(self, tick).run)

    def ring(self):
        """Have the connection looked at now."""
        if not len(self.bell):
            self.bell.put(None)

    def suspect(self, connection=None):
        """Somebody saw the connection misbehave: look at it now. What was seen of an earlier one does not count."""
        if connection in (None, self._connection):
            self.suspected = True
            self.ring()

    def close(self):
        """End the connection, and everything that waits for it."""
        cancelled = Problem('cancelled', 'The connection was closed.', status=CANCELLED)
        with self._lock:
            first, self._problem = not self._problem, self._problem or cancelled
            waiting, self._waiting, wishes, self._wishes = self._waiting, [], self._wishes, []
        for box in waiting:
            box.put(None)
        for wish in wishes:
            self._finish(wish, self._problem)
        self.ring()
        if self._connection:
            self._connection.close()
        self.board.close()


class _Keeper:
    """Watches the connection of a Link: its end, its silence, a freeze of this process, somebody's suspicion.

    A connection in doubt is not condemned: another is made beside it, and whichever shows life first stays."""
    FREEZE = 3.0            # s by which a look comes too late: the process was stopped
    PAUSES = (0, 0.3, 1, 2, 4, 8, 15, 30)
    LIVED = 10.0            # s after which the end of a connection does not count as a failed attempt
    SAY_AGAIN = 30.0        # s without a connection until it is said what may help
    FINAL = ('host-key', 'auth', 'key', 'cancelled')        # what no further attempt would mend
    ALIVE, DOUBTFUL, GONE = 'alive', 'doubtful', 'gone'

    def __init__(self, link, tick):
        self._link, self._tick = link, tick
        self._watched = None        # the connection that the next three are about
        self._came = 0.0
        self._asked = 0.0           # when it was asked what it has not answered yet
        self._gone_at = None
        self._round_trips = collections.deque([0.0], maxlen=8)
        self._rival = None
        self._attempt, self._due = 0, 0.0
        self._looked, self._pause = elapsed(), tick

    def run(self):
        """Look until the link is over."""
        while True:
            self._link.bell.take(self._pause, None)
            if self._link.over:
                break
            try:
                self._look(elapsed())
            except Exception as error:      # what nobody expected is said, and no reason to stop looking
                self._link.tell('note', text=f'Watching the connection: {harmless(str(error)) or type(error).__name__}.')
                self._pause = self._tick
        if self._rival:
            self._rival.drop()

    def _look(self, now):
        late, self._looked = now - self._looked - self._pause, now
        self._link.looked = now
        if late > self.FREEZE:
            self._wake(late)
        if self._link.present is not self._watched:
            self._watched = self._link.present
            self._came, self._asked, self._gone_at = now, 0.0, None
            self._round_trips.append(self._watched.stream.round_trip)
        condition = self._condition(now)
        if condition == self.GONE:
            self._say_gone(now)
        elif condition == self.ALIVE and now - self._came >= self.LIVED:
            self._attempt, self._due = 0, 0.0
        if self._rival and self._rival.outcome:
            self._choose(condition, now)
        elif not self._rival and now >= self._due \
                and (condition == self.GONE or condition == self.DOUBTFUL and not self._link.needs_person):
            self._rival = _Rival(self._link, self._dial_limit())
        self._pause = self._next_look(condition, now) - now

    def _wake(self, late):
        self._link.tell('suspended', seconds=round(late))
        self._link.suspected, self._asked = True, 0.0       # an answer has had no time to come
        self._attempt, self._due = 0, 0.0
        if self._rival and not self._link.needs_person:     # it began in a network that may be gone
            self._rival.drop()
            self._rival = None

    def _condition(self, now):
        """What the connection is: DOUBTFUL when it has not answered in time, GONE when it ended, or has not answered for long."""
        link, connection = self._link, self._watched
        if not connection.alive:
            return self.GONE
        heard, interval = connection.last_heard, link.settings.alive_interval
        if self._asked and heard > self._asked:             # whatever was heard answers the question
            self._round_trips.append(heard - self._asked)
            link.suspected, self._asked = False, 0.0
        if not self._asked and (link.suspected or interval and now - heard >= interval):
            self._asked = now
            connection.probe()
        if not self._asked or now < self._doubted_at():
            return self.ALIVE
        if now < self._given_up_at():
            return self.DOUBTFUL
        connection.close(politely=False)
        return self.GONE

    def _doubted_at(self):
        settings, round_trip, wary = self._link.settings, max(self._round_trips), self._link.needs_person
        if self._link.suspected:
            return self._asked + max(3.0 if wary else 0.5, 3 * round_trip)
        return self._asked + max(settings.alive_interval * (settings.alive_count - 1), 3.0, 4 * round_trip)

    def _given_up_at(self):
        """As late as that may be; where another connection needs somebody to answer, there is none beside it to decide."""
        return self._doubted_at() + (0.0 if self._link.needs_person else max(15.0, 4 * max(self._round_trips)))

    def _dial_limit(self):
        """Seconds for a TCP connection: a network that has just come back is found sooner by a new attempt than by an old one."""
        return max(min(self._link.settings.connect_timeout, 3 + self._attempt), 4 * max(self._round_trips))

    def _choose(self, condition, now):
        import random
        made, self._rival = self._rival.outcome, None
        self._attempt += 1
        self._due = now + self.PAUSES[min(self._attempt, len(self.PAUSES) - 1)] * random.uniform(0.7, 1.0)
        if isinstance(made, Problem):
            if made.kind in self.FINAL and condition == self.GONE:
                self._link.fail(made)
        elif condition == self.ALIVE:                       # the old one has answered meanwhile
            made.close()
        else:
            self._link.tell('reconnected')
            self._link.adopt(made)

    def _next_look(self, condition, now):
        moments = [now + self._tick]
        if self._asked:
            moments += [self._doubted_at(), self._given_up_at()]
        if condition != self.ALIVE and not self._rival:
            moments.append(self._due)
        return max(now + 0.02, min(moment for moment in moments if moment > now))

    def _say_gone(self, now):
        if self._gone_at is None:
            self._gone_at = now
            self._link.tell('note', text=f'The connection to {self._link.settings.alias} is lost. Connecting again … {self._link.meanwhile}'.strip())
        elif now - self._gone_at >= self.SAY_AGAIN:
            self._gone_at = float('inf')        # once is enough
            self._link.tell('note', text=f'{self._link.settings.alias} is still not reached. Check that this device is online.')


class _Rival:
    """A connection in the making, in a thread of its own; `outcome` is its Connection, or the Problem that prevented it."""

    def __init__(self, link, limit):
        self.outcome = None
        self._link, self._limit, self._dropped, self._lock = link, limit, False, threading.Lock()
        start(self._run)

    def _run(self):
        outcome = self._dial()
        with self._lock:
            self.outcome = outcome
            if self._dropped:
                self._close()
        self._link.ring()

    def _dial(self):
        try:
            return self._link.dial(self._limit)[0]
        except Problem as problem:
            return problem
        except KeyboardInterrupt:       # a person was asked, and cancelled
            return Problem('cancelled', 'Cancelled.', status=CANCELLED)
        except Exception as error:      # what nobody expected ends this attempt, and is followed by another
            return Problem('connect', f'Connecting failed: {harmless(str(error)) or type(error).__name__}.', 'Try again.')

    def drop(self):
        """Nobody wants it any more."""
        with self._lock:
            self._dropped = True
            self._close()

    def _close(self):
        if self.outcome and not isinstance(self.outcome, Problem):
            self.outcome.close()


def address_text(connection):
    """Where a Connection leads to, as host:port."""
    try:
        host, port = connection.stream.getpeername()[:2]
    except OSError:
        return ''           # it is lost already, as the next use will tell
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


# == 8. Ports ==========================================================================================================
# How a port of this device is held.

BACKLOG = 1024              # connections that the system keeps waiting: five, the usual, lose some under load


def listen(bind, port, taken=None):
    """Open the listening sockets for `bind`: "" or "localhost" is both loopbacks, "*" every interface.

    Port 0 is any free one, the same on all of them. They do not block. Raises Problem "listen": where there is a list `taken`,
    only if none can be had, as ssh does; (family, address, error) of each that another program has comes into it."""
    try:
        addresses = _addresses(bind)
        # A port that was free for one family may be taken in the other: then take another.
        attempts = 10 if port == 0 else 1
        while True:
            try:
                return _listen_on_each(addresses, port, taken if port else None)
            except OSError as error:
                attempts -= 1
                if not attempts or error.errno != errno.EADDRINUSE:
                    raise
    except (OSError, UnicodeError) as error:
        raise _listen_problem(bind, port, error) from error


def _addresses(bind):
    if bind in ('', 'localhost'):
        return [(socket.AF_INET, ('127.0.0.1',)), (socket.AF_INET6, ('::1',))]
    if bind == '*':
        return [(socket.AF_INET, ('0.0.0.0',)), (socket.AF_INET6, ('::',))]
    found = socket.getaddrinfo(bind, 0, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, (where[0], *where[2:])) for family, _, _, _, where in found))


def _listen_on_each(addresses, port, taken):
    listeners, missing = [], []
    try:
        for family, (address, *scope) in addresses:
            where = address, port, *scope
            try:
                listeners.append(_listener(family, where))
            except OSError as error:
                # A device without IPv6, or without IPv4, listens on what it has.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and (taken is None or error.errno != errno.EADDRINUSE):
                    raise
                missing.append((family, where, error))
            else:
                port = listeners[0].getsockname()[1]
        if not listeners:
            raise missing[-1][2]
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    if taken is not None:
        taken += [place for place in missing if place[2].errno == errno.EADDRINUSE]
    return listeners


def _listener(family, where):
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == 'nt':
            # There SO_REUSEADDR means that two programs may have one port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _listen_problem(bind, port, error):
    where = f"port {port} of {bind or 'localhost'}"
    unknown = isinstance(error, (socket.gaierror, UnicodeError))
    reason, hint = {
        errno.EADDRINUSE: ('another program on this device has it',
                           'End that program, or choose another port.'),
        errno.EACCES: ('not allowed', 'Ports below 1024 are often reserved: choose a higher one.'),
        errno.EADDRNOTAVAIL: ('no such address on this device',
                              'Without a bind address, only this device itself can connect.'),
    }.get(errno.EADDRNOTAVAIL if unknown else error.errno, (str(error), ''))
    return Problem('listen', f'Cannot listen on {where}: {reason}', hint)


def answers(listener):
    """Whether a listening socket of this process still takes connections."""
    try:
        with socket.socket(listener.family, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.5)
            probe.connect(listener.getsockname()[:2])
            return True
    except OSError:
        return False


def _says_it_listens(sock):
    """False where the system took listening away from a socket. Not every system says so of one that listens, either."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except (OSError, AttributeError):
        return False


def most_at_once(most, share):
    """How many connections may be held at once: `most`, or one part in `share` of the descriptors this process may have."""
    try:
        import resource
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError, ValueError):
        limit = 256
    return min(most, limit // share) if limit > 0 else most         # a negative one is none


class _Port:
    """One listening socket, and what it belongs to; `sock` is None while it cannot be had."""

    def __init__(self, about, family, where, sock=None):
        self.sock, self.about, self.family, self.where = sock, about, family, where
        self.tells = not sock or _says_it_listens(sock)
        self.nothing = 0        # times in a row that it was readable, and there was nothing to take
        self.missed = False


class Listener:
    """Ports of this device that are held: each connection goes to `serve(sock, origin, about)`, on the board; leave(sock) ends it.

    No more than `cap` are held at once; the next ones wait until one leaves, or where there is `drop`, until
    drop(sock) has ended and left the oldest of those that have said the least. A lack of descriptors is waited out. A socket that is dead, as iOS
    leaves them behind when an app sleeps, is bound again, each second until that succeeds; `tell(event, about, where, error)` hears
    "lost" where it did not at once, and then "back"."""
    RETRY = 1.0             # s
    SHORTAGE = 0.2          # s that descriptors and memory have to come back
    NOTHING = 8
    AT_ONCE = 64            # connections that are taken before others have their turn
    SILENT, SPEAKING, HEARD = range(3)

    def __init__(self, board, serve, cap, tell, drop=None, tick=RETRY):
        self._board, self._serve, self._cap, self._tell, self._drop_one, self._tick = board, serve, cap, tell, drop, tick
        self._ports, self._visitors = [], {}
        self._resting = self._closed = False
        self._next_look = board.after(tick, self._look)

    def open(self, bind, port, about=None, all_or_none=False):
        """Listen as listen() does; where, as (address, port). Raises Problem "listen".

        Where another program has the port of one address only, the others are served, but not if `all_or_none`."""
        taken = None if all_or_none else []
        ports = [_Port(about, sock.family, sock.getsockname(), sock) for sock in listen(bind, port, taken)]
        missing = [(_Port(about, family, where), error) for family, where, error in taken or ()]
        self._board.call(lambda: self._hold(ports, missing))
        return [port.where[:2] for port in ports]

    def _hold(self, ports, missing):
        self._ports += [*ports, *(port for port, _ in missing)]
        for port in ports:
            if self._closed:
                port.sock.close()
        for port, error in missing:
            self._miss(port, error)
        self._watch()

    def probe(self):
        """After a wake-up: bind again what does not take a connection of our own."""
        start(self._probe, list(self._ports))

    def _probe(self, ports):
        for port in ports:
            sock = port.sock
            if sock and not answers(sock):
                self._board.call(lambda port=port, sock=sock: port.sock is sock and self._renew(port))

    def heard(self, visitor, whole):
        """A visitor has said something, or all that was waited for: then it is not dropped before it has its answer."""
        if visitor in self._visitors:
            self._visitors[visitor] = self.HEARD if whole else self.SPEAKING

    def leave(self, visitor):
        """A visitor is served, and its socket closed. On the board only."""
        full = len(self._visitors) >= self._cap
        self._visitors.pop(visitor, None)
        if full:
            self._watch()

    def close(self):
        """Let go of every port, within a second; visitors stay, but not those that would be dropped."""
        closed = Box()
        self._board.call(lambda: closed.put(self._close()))
        closed.take(1.0, None)

    def _close(self):
        self._closed = True
        self._watch()
        self._next_look.cancel()
        for port in self._ports:
            if port.sock:
                port.sock.close()
        while self._drop_one and self._least():
            self._drop_one(self._least())

    def _watch(self):
        """Have the board tell of connections, where one can be taken."""
        full = len(self._visitors) >= self._cap and not self._drop_one
        events = 0 if full or self._resting or self._closed else selectors.EVENT_READ
        for port in self._ports:
            if port.sock and port.sock.fileno() >= 0:
                self._board.watch(port.sock, events, lambda _, port=port: self._accept(port))

    def _rest(self):
        self._resting = True
        self._watch()
        self._board.after(self.SHORTAGE, self._go_on)

    def _go_on(self):
        self._resting = False
        self._watch()

    def _accept(self, port):
        for _ in range(self.AT_ONCE):
            leaving = self._least() if self._drop_one and len(self._visitors) >= self._cap else None
            if len(self._visitors) >= self._cap and not leaving:
                return self._rest() if self._drop_one else self._watch()
            try:
                sock, origin = port.sock.accept()
            except OSError as error:
                return self._not_accepted(port, error)
            port.nothing = 0
            if leaving:
                self._drop_one(leaving)
            sock.setblocking(False)
            self._visitors[sock] = self.SILENT
            self._serve(sock, origin[:2], port.about)

    def _not_accepted(self, port, error):
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            if self._drop_one and self._least():
                self._drop_one(self._least())
            return self._rest()
        port.nothing += 1               # most often there is none left, or a client that left before its turn
        if port.nothing >= self.NOTHING or port.tells and not _says_it_listens(port.sock):
            self._renew(port)

    def _least(self):
        """The oldest visitor of those that have said the least, of whom not all has been heard."""
        open_still = [visitor for visitor, said in self._visitors.items() if said != self.HEARD]
        return min(open_still, key=self._visitors.get, default=None)

    def _look(self):
        for port in self._ports:
            if port.sock is None:
                self._bind(port)
            elif port.tells and not _says_it_listens(port.sock):
                self._renew(port)
        missing = any(port.sock is None for port in self._ports)
        self._look_in(min(self.RETRY, self._tick) if missing else self._tick)

    def _look_in(self, seconds):
        self._next_look.cancel()
        self._next_look = self._board.after(seconds, self._look)

    def _renew(self, port):
        self._board.watch(port.sock, 0, None)
        port.sock.close()
        port.sock = None
        self._bind(port)

    def _miss(self, port, error):
        self._look_in(self.RETRY)
        if not port.missed:
            port.missed = True
            self._tell('lost', port.about, port.where, error)

    def _bind(self, port):
        try:
            port.sock = _listener(port.family, port.where)
        except OSError as error:
            return self._miss(port, error)
        port.nothing = 0
        self._watch()
        if port.missed:
            port.missed = False
            self._tell('back', port.about, port.where, None)


# == 9. Forwards =======================================================================================================
# -L, -R and -D. Each is a listener, here or at the server, a way to choose the target, one pump.

class Pump:
    """Moves bytes between a socket and a Channel, on the board: each direction until its own end of file, every byte once.

    What the receiver does not take waits at the sender: no more than a channel's window is kept here. `is_client`: whether the
    socket is the client's, and not its target's. `ended()` is called when both directions have ended, or an end is gone; both
    ends are closed then."""
    PIECE = 8 * (32 * 1024 - 64)    # bytes: full packets, as Channel sends them
    TURNS = 4                       # pieces each way until others have their turn
    LINGER, MOST_IN_VAIN = 10.0, 1 << 25    # s and bytes that a client may still send to a server that has closed: cut off at once,
                                    # it would lose the answer

    def __init__(self, board, sock, channel, is_client, ended):
        self._board, self._sock, self._channel, self._is_client, self._ended = board, sock, channel, is_client, ended
        self._readable = self._writable = True
        self._up_ended = self._down_ended = self._deaf = self._over = False
        self._events, self._linger, self._in_vain = 0, None, 0
        _set_option(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel.heard = channel.room_again = self._ring
        self._ring()

    def _ring(self):
        self._board.call(self._step)

    def _ready(self, events):
        self._readable = self._readable or bool(events & selectors.EVENT_READ)
        self._writable = self._writable or bool(events & selectors.EVENT_WRITE)
        self._step()

    def _step(self):
        if self._over:
            return
        channel = self._channel
        try:
            again = self._up() | self._down()
        except OSError:                 # the client is gone
            return self.end(reset=True)
        if channel.closed and (not channel.eof_received or channel.broken and not self._up_ended):
            return self.end(reset=True)         # cut off on the way: nobody may take a part for the whole
        if self._up_ended and (self._down_ended or self._deaf):
            return self.end()
        if self._in_vain > self.MOST_IN_VAIN or self._down_ended and channel.closed and not self._is_client:
            return self.end()           # who might have wanted what the target still says is gone
        if self._down_ended and channel.closed and not self._linger:
            self._linger = self._board.after(self.LINGER, self.end)
            again = True
        self._wait(again)

    def _wait(self, again):
        events = (selectors.EVENT_READ if not self._readable and self._most() else 0) | (
            0 if self._writable else selectors.EVENT_WRITE)
        if events != self._events:
            self._events = events
            self._board.watch(self._sock, events, self._ready)
        if again:
            self._ring()

    def _most(self):
        """How many bytes of the socket's can be taken now."""
        if self._up_ended:
            return 0
        if self._linger:
            return self.PIECE
        room = self._channel.room()
        return 0 if not room or self._channel.connection.full(self._ring) else min(room, self.PIECE)

    def _up(self):
        """From the socket; whether there is more to do at once."""
        for _ in range(self.TURNS):
            most = self._most() if self._readable else 0
            if not most:
                return False
            piece = self._board.buffer(self.PIECE)[:most]
            try:
                count = self._sock.recv_into(piece)
            except BlockingIOError:
                self._readable = False
                return False
            if not count:
                self._up_ended = True
                self._channel.shutdown_write()
                return False
            if self._linger:
                self._in_vain += count
            else:
                with contextlib.suppress(BrokenPipeError):      # the server has closed it just now
                    self._channel.sendall(piece[:count])
            self._readable = count == most      # less: the system has no more for now
        return self._readable

    def _down(self):
        """From the channel; whether there is more to do at once."""
        for _ in range(self.TURNS):
            whole = self._channel.eof_received      # asked before the data
            pieces = self._channel.peek()
            if not pieces and whole and not self._down_ended:
                self._down_ended = True
                self._sock.shutdown(socket.SHUT_WR)
            if not pieces or not self._writable:
                return False
            there = sum(map(len, pieces))
            count = there if self._deaf else self._send(pieces)
            self._channel.took(count)
            self._writable = count == there
        return self._writable

    def _send(self, pieces):
        try:
            return self._sock.sendmsg(pieces) if hasattr(self._sock, 'sendmsg') else self._sock.send(pieces[0])
        except BlockingIOError:
            return 0
        except OSError:
            self._deaf = True           # the client reads no more; what it has sent is still to be carried
            return sum(map(len, pieces))

    def end(self, reset=False):
        """Close both ends; with `reset`, so that the client does not take what it has for the whole."""
        if self._over:
            return
        self._over = True
        if self._linger:
            self._linger.cancel()
        self._board.watch(self._sock, 0, None)
        if reset:
            _set_option(self._sock, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self._sock.close()
        self._channel.heard = self._channel.room_again = None
        self._channel.close()
        ended, self._ended = self._ended, None          # nothing that is over keeps anything: no circle is left
        ended()


def _set_option(sock, level, name, value):
    with contextlib.suppress(OSError):      # the other end is gone already, as the next read will tell
        sock.setsockopt(level, name, value)


class Dial:
    """Connects a socket of this device to `target`, on the board: address after address. then(outcome) gets it, or the Problem."""

    def __init__(self, board, target, limit, aside, then):
        self._board, self._target, self._then = board, target, then
        self._sock, self._addresses, self._failure = None, [], None
        self._limit = board.after(limit, lambda: self._finish(self._problem('unreachable', f'it did not answer within {limit:g} s')))
        # A number, and localhost, are looked up without any network.
        if target[0] == 'localhost' or re.fullmatch(r'[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.%\w]*', target[0]):
            self._look_up()
        else:
            aside(self._look_up)

    def _look_up(self):
        try:
            found = socket.getaddrinfo(*self._target, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            found, self._failure = [], error
        self._board.call(lambda: self._try(found))

    def _try(self, addresses):
        self._addresses = addresses
        self._next()

    def _next(self):
        while self._addresses and self._then:
            family, kind, protocol, _, address = self._addresses.pop(0)
            try:
                self._sock = socket.socket(family, kind, protocol)
                self._sock.setblocking(False)
                if self._sock.connect_ex(address) not in (0, errno.EISCONN):
                    return self._board.watch(self._sock, selectors.EVENT_WRITE, self._answered)
                return self._finish(self._sock)
            except OSError as error:
                self._failed(error)
        refused = isinstance(self._failure, ConnectionRefusedError)
        self._finish(self._problem('refused' if refused else 'unreachable', 'refused' if refused else str(self._failure)))

    def _answered(self, _):
        self._board.watch(self._sock, 0, None)
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            return self._finish(self._sock)
        self._failed(OSError(code, os.strerror(code)))
        self._next()

    def _failed(self, error):
        self._failure = error
        if self._sock:
            self._sock.close()

    def _problem(self, kind, words):
        return Problem(kind, f'{self._target[0]} port {self._target[1]}: {words}')

    def _finish(self, outcome):
        then, self._then = self._then, None
        if then:
            self._limit.cancel()
            if outcome is not self._sock and self._sock and self._sock.fileno() >= 0:
                self._board.watch(self._sock, 0, None)
                self._sock.close()
            then(outcome)


class Client:
    """One connection through a forward, on the board: from its arrival, by way of its target, to its end.

    `near` is what arrived, a socket or a Channel that is not accepted yet; `ended(client)` is called once both ends are closed.
    """
    LINK_LIMIT = 30.0       # s that a new client waits for a connection that is being made anew
    CHOICE_LIMIT = 30.0     # s that a client may take to name its target by SOCKS

    def __init__(self, forwards, spec, near, origin):
        self._forwards, self._near, self._origin = forwards, near, origin
        self._board, self._link = forwards.link.board, forwards.link
        self._remote = isinstance(near, Channel)
        self._socks = self._moment = self._pump = self._wish = None
        self._over = False
        if spec.host:
            return self._reach((spec.host, spec.hostport))
        self._socks, self._moment = Socks(), self._board.after(self.CHOICE_LIMIT, self.end)
        if self._remote:
            near.heard = lambda: self._board.call(self._choose)
            near.accept()
        else:
            self._board.watch(near, selectors.EVENT_READ, self._choose)

    # -- the target

    def _choose(self, _=None):
        if self._over or self._socks.target:
            return
        try:
            data = self._near.read() if self._remote else self._near.recv(1024)
            if data is None:
                return
            reply = self._socks.feed(data)
            if reply:
                self._near.sendall(reply)
        except BlockingIOError:
            return
        except OSError:
            return self.end()
        if self._socks.refused or not data:
            return self.end()
        if self._socks.target:
            self._moment.cancel()
            if not self._remote:
                self._board.watch(self._near, 0, None)
            self._reach(self._socks.target)

    def _reach(self, target):
        if self._remote and self._socks and not may_open(self._forwards.permitted, *target):
            self._reached(Problem('forbidden', f'{target[0]} port {target[1]}: PermitRemoteOpen does not allow it'))
        elif self._remote:
            Dial(self._board, target, self.LINK_LIMIT, self._forwards.aside, self._reached)
        else:
            self._wish = self._link.wish('direct-tcpip', (*target, *self._origin), self.LINK_LIMIT,
                                         lambda outcome: self._board.call(lambda: self._reached(outcome)))

    def _reached(self, far):
        if self._over:
            return far.close() if not isinstance(far, Problem) else None
        if isinstance(far, Problem):
            return self._not_reached(far)
        try:
            if self._socks:
                self._near.sendall(self._socks.answer())
                if self._socks.early:
                    far.sendall(self._socks.early)
            elif self._remote:
                self._near.accept()
        except OSError:
            far.close()
            return self.end()
        sock, channel = (far, self._near) if self._remote else (self._near, far)
        self._pump = Pump(self._board, sock, channel, not self._remote, self._ended)

    def _not_reached(self, problem):
        self._forwards.tell('unreached', message=problem.message)
        if self._socks:
            with contextlib.suppress(OSError):
                self._near.sendall(self._socks.answer(problem.kind if problem.kind in Socks.CODES else 'failed'))
        elif self._remote:
            self._near.refuse(2, problem.message)
        self.end()

    # -- the end

    def end(self):
        """Close what is open."""
        if self._over:
            return
        if self._pump:
            return self._pump.end(reset=True)
        if self._wish:
            self._link.withdraw(self._wish)
        if self._moment:
            self._moment.cancel()
        if self._remote and not self._socks:
            self._near.refuse(4)
        elif not self._remote:
            self._board.watch(self._near, 0, None)
        self._near.close()
        self._ended()

    def _ended(self):
        near, self._over = self._near, True
        self._near = self._pump = self._wish = self._moment = self._socks = None
        self._forwards.left(self, near)


class _Forward:
    """One spec at work."""

    def __init__(self, spec):
        self.spec = spec
        self.bound = []             # (address, port), as they really are
        self.connection = None      # for -R: the one that listens for it


class Forwards:
    """The forwards of one link. They live until close(), through any number of connections.

    `tell(kind, **fields)` hears, from any thread, of "listening" (mode, bind, port) when the server listens
    again after a reconnect; "waiting" (the same) while it does not yet; "unreached" (message) of a client's
    target; "lost" (mode, bind, port, message) of a listener that the system took away, until it listens again."""
    ANSWER_LIMIT = 15.0     # s that the server may take to say whether it listens
    MOST = 500              # connections at once through listeners here, and as many from the server
    LOOK = 15.0             # s between looks at the listeners
    SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0   # s until a port that is held still is asked for again
    MOST_ASIDE = 4          # names that are looked up at once

    def __init__(self, link, tell, gateway_ports=False, permitted=None):
        self.link, self.tell, self._gateway_ports, self.permitted = link, tell, gateway_ports, permitted
        self._board, self._forwards, self._clients = link.board, [], {}
        self._most = most_at_once(self.MOST, 2)
        self._listener = Listener(self._board, self._serve, self._most, self._told, tick=self.LOOK)
        self._closed = self._crowded = False
        self._from_server, self._jobs, self._at_work = 0, deque(), 0
        link.subscribe(self._connected)

    @property
    def bound(self):
        """What is listened on: (mode, address, port), with the real port."""
        return [(forward.spec.mode, *where) for forward in self._forwards for where in forward.bound]

    def add(self, spec):
        """Listen for `spec`, here or at the server. Raises Problem "listen"."""
        forward = _Forward(spec)
        if spec.mode == 'R':
            return self._add_remote(forward)
        forward.bound = self._listener.open(spec.bind or ('*' if self._gateway_ports else ''), spec.port, forward)
        self._forwards.append(forward)

    def revive(self):
        """Listen again where the system took a listener away while the app was asleep."""
        self._listener.probe()

    def close(self):
        """End everything, at once."""
        self._closed = True
        self._listener.close()
        self._board.call(lambda: [client.end() for client in list(self._clients)])

    # -- listeners here

    def _told(self, event, forward, where, error):
        told = {'mode': forward.spec.mode, 'bind': where[0], 'port': where[1]}
        if event == 'lost':
            self.tell('lost', message=_listen_problem(*where[:2], error).message, **told)
        else:
            self.tell('listening', **told)

    def _serve(self, near, origin, forward):
        self._clients[Client(self, forward.spec, near, origin)] = forward

    def left(self, client, near):
        """A client has ended. On the board only."""
        if isinstance(near, Channel):
            self._from_server -= 1
        else:
            self._listener.leave(near)
        self._board.call(lambda: self._clients.pop(client, None))      # it may end before it stands there

    def aside(self, job):
        """Do what the system lets nobody interrupt, in one of a few threads. On the board only."""
        self._jobs.append(job)
        if self._at_work < self.MOST_ASIDE:
            self._at_work += 1
            start(self._work)

    def _work(self):
        with contextlib.suppress(IndexError):
            while True:
                self._jobs.popleft()()
        self._board.call(self._worked)

    def _worked(self):
        self._at_work -= 1
        if self._jobs:
            self.aside(self._jobs.popleft())

    # -- listeners at the server

    def _add_remote(self, forward):
        spec = forward.spec
        # RFC 4254, 7.1: "localhost" is every loopback address of the server, "" is all that it has.
        forward.bound = [({'': 'localhost', '*': ''}.get(spec.bind, spec.bind), spec.port)]
        connection, answer = self.link.transport(), Box()
        connection.arrived = self._arrived
        self._ask(forward, connection, answer.put)
        self._forwards.append(forward)
        if not answer.take(self.ANSWER_LIMIT, False) and connection.alive:
            self._forwards.remove(forward)
            raise Problem('listen', f'The server does not listen on port {spec.port} for -R {spec}',
                          "Another program there may have that port, or the server's "
                          'AllowTcpForwarding or PermitListen forbids it.')

    def _ask(self, forward, connection, then):
        """Have the server listen (RFC 4254, section 7.1); then(whether it does), on the board."""
        bind, port = forward.bound[0]

        def answered(listens, message):
            given = message.get_int() if listens and not port else port
            self._board.call(lambda: then(self._listens(forward, connection, bind, given) if listens else False))
        connection.request('tcpip-forward', (bind, port), answered)

    def _listens(self, forward, connection, bind, port):
        # Any free port, once given, stays the same through later connections.
        forward.bound, forward.connection = [(bind, port)], connection
        return True

    def _connected(self, connection):
        """After a reconnect. The old session may hold the ports for a while yet."""
        connection.arrived = self._arrived
        for forward in self._forwards:
            if forward.spec.mode == 'R' and forward.connection is not connection:
                self._ask_again(forward, connection, 0)

    def _ask_again(self, forward, connection, pause):
        def answered(listens):
            bind, port = forward.bound[0]
            if listens:
                self.tell('listening', mode='R', bind=bind, port=port)
            elif not pause and connection.alive:
                self.tell('waiting', mode='R', bind=bind, port=port, message=f'The server still holds port {port} of -R '
                          f'{forward.spec} for the connection that was lost. It is asked again, until it listens.')
            if not listens:
                longer = min(max(2 * pause, self.SHORTEST_PAUSE), self.LONGEST_PAUSE)
                self._board.after(longer, lambda: self._ask_again(forward, connection, longer))
        if connection.alive and not self._closed and forward in self._forwards:
            self._ask(forward, connection, answered)

    def _arrived(self, channel, server, origin):
        self._board.call(lambda: self._serve_arrived(channel, server, origin))

    def _serve_arrived(self, channel, server, origin):
        # Two addresses may share a port. A server may also spell the address otherwise than it was asked for.
        listening = [forward for forward in self._forwards
                     if forward.connection is channel.connection and forward.bound[0][1] == server[1]]
        listening.sort(key=lambda forward: forward.bound[0][0] != server[0])
        if not listening or self._closed:
            return channel.refuse(1)
        if self._from_server < self._most:
            self._from_server += 1
            return self._serve(channel, origin, listening[0])
        channel.refuse(4)
        if not self._crowded:
            self._crowded = True
            self.tell('unreached', message=f'The server brings more connections at once than this device takes: those over '
                      f'{self._most} are closed.')


# == 10. Remote program ================================================================================================
# The program at the server: started so that it outlives the connection, followed, asked, left.

# What goes to the server is POSIX sh, on the standard input of `sh`: the account's own shell parses that one word.
# All of it stands in one brace group, so that the shell has read it whole before anything in it reads its input.
#   N     the mark of records                     W  the program's name, looked for on PATH
#   LOOK  yes: look for a present login first     CODEX  yes: it is codex's login
#   A     asks whether somebody is signed in      NEAR   yes: this account's auth.json tells that as well
#   T     seconds until the program is ended      JOB, KEEPER, SHIM  texts of files, see below
#   I     whose attendant it is: this run's       d     the private folder
#   OUT, LOG  from which byte on these are wanted E     where records go; the program's own output goes to 1
#   IN    yes: the program has a standard input, and output of its own: else its output is in the log as well
#   g, k  job and keeper, each with a group where there is setsid     P  seconds in which a lost connection is made anew

# codex is to have what it has for a person who logs in: PATH, proxies, its home. So the login shell is asked, which may
# print, ask, never end, go into another program, or leave something running that holds its output.
FIND_PROGRAM = r'''
found() {           # W, and what its `#!` line asks for; else $missing is the one that is not there
  missing=$W i=
  f=$(eval "command -v $W") || return     # W may begin with ~
  [ ! -f "$f" ] || read -r i <"$f"
  case $i in '#!'*[a-z]*) set -- ${i#??};; *) return 0;; esac
  case $1 in */env) shift; while case $1 in -*|*=*) ;; *) false;; esac; do shift; done;; esac
  missing=$1; command -v "$1" >/dev/null
}
exported() {        # by the login shell, which has 5 s
  {
    unset IFS; echo env | $S "$SHELL" $1 & s=$!
    (trap 'kill "$p"; exit' TERM; sleep 5 & p=$!; wait; kill -s KILL -- "-$s" "$s") >/dev/null & w=$!
    wait "$s"; kill "$w"; echo "$N"
  } | sed "/^$N\$/q"
}
{
  S=setsid; command -v $S >/dev/null || S=
  found; there=$? p= nor='and its login shell does not say what it has' SHELL=${SHELL:-/bin/sh}
  for how in '-lc env' '-lic env' -l; do
    case $there$CODEX:$p in 0no:*|0*:?*) break;; esac
    p= IFS='
'
    for v in $(exported "$how"); do
      case ${v%%=*} in
        ''|[0-9]*|*[!A-Za-z0-9_]*) ;;
        PATH) p=${v#*=} nor='nor of its login shell';;
        CODEX_*|*_proxy|*_PROXY|SSL_CERT_*|NODE_EXTRA_CA_CERTS) export "$v";;
      esac
    done
    unset IFS; echo "$SHELL $how: PATH=$p"
    if [ $there = 0 ]; then PATH=$PATH${p:+:$p}; else PATH=${p:+$p:}$PATH; found; there=$?; fi
  done
  export PATH SHELL
} 2>/dev/null
'''

# Asks the program itself; $s is its exit status, whose login is in codex's file, and all its words in one line.
ASK = r'''
home=${CODEX_HOME:-$HOME/.codex}
ask() {
  s=$(eval "$A" 2>&1 </dev/null); r=$?
  who=$([ "$NEAR" != yes ] || sed -n 's/.*"id_token" *: *"[^".]*\.\([^".]*\).*/\1/p' "$home/auth.json" | tr '_-' '/+' | base64 -d |
    sed -n 's/.*"email" *: *"\([^" ]*\)".*/\1/p') 2>/dev/null
  s="$r ${who:--} $(printf '%s' "$s" | tr '\n' '\t')"; return $r
}
'''

LOOK_FOR_LOGIN = r'''
case $there$CODEX${W##*/} in [!0]*yescodex*) say missing "$missing $nor"; exit 127;; esac
if [ "$LOOK$CODEX" = yesyes ] && { [ "$NEAR" != yes ] || [ -s "$home/auth.json" ] ||
  grep -Eqs '^ *cli_auth_credentials_store *= *.(keyring|auto)' "$home/config.toml" /etc/codex/config.toml; }
then say asking; if ask; then say present "$s"; exit 0; fi; fi       # npx may have to fetch it first
'''

# A number may have been given to another process since, and whoever can write a list can write any number into it.
# A line of the list is: attendant, what follows the log for it, whose they are, what follows the output.
OURS = r'''
ours() {            # whether process $1 is busy with the file $2 of the folder
  case $1 in ''|*[!0-9]*|0*|1) return 1;; esac
  case $( (tr '\0' ' ' <"/proc/$1/cmdline" || ps -o args= -p "$1") 2>/dev/null) in *"$d/$2"*) return 0;; esac
  return 1
}
family() {          # process $1 and all below it: not every system can give them a group
  echo "$1"
  for c in $( (sed 's/ (.*) . / /' /proc/[0-9]*/stat || ps -A -o pid= -o ppid=) 2>/dev/null |
    sed -n "s/^ *\([0-9]*\)  *$1\( .*\)*$/\1/p"); do family "$c"; done
}
put() { printf '%s\n' "$2" >"$1" && [ -s "$1" ]; }
ended() { grep -q "@$N exit " "$d/log"; }
here() {            # which start of which machine this is, for a folder's name
  b=$(cksum </proc/sys/kernel/random/boot_id) h=$(uname -n | cksum); echo "b${b%% *}n${h%% *}x"
} 2>/dev/null
end_attendants() {  # those in the list on standard input, but not this one; $1 is its number
  while read -r a b i o; do [ "$a" = "$1" ] || { ours "$b" log && [ "$a" -gt 1 ] && kill "$a" "$b" $o; }; done
}
'''

# The job is the program; the keeper ends it, and clears up, when nobody came back for it in time. Their folder is where
# nobody else can write, if it may be: from /tmp others can take a name that has become free.
START = r'''
tmp=${TMPDIR:-/tmp} begun=
private() {
  case $1 in /*[!A-Za-z0-9._/@+-]*|[!/]*|'') return 1;; esac
  [ -n "$(find "$1/." -prune -type d -user "$(id -u)" ! -perm -020 ! -perm -002)" ]
}
make_folder() {     # its name is this start's: one that is there has an earlier connection about to begin in it
  f=$1/codex-login.$(here)${N#????????} i=0 d=
  if ! mkdir "$f"; then
    [ -O "$f" ] || return
    until [ -s "$f/groups" ] || [ ! -d "$f" ] || [ $i -ge 50 ]; do i=$((i + 1)); sleep 0.1 || sleep 1; done
    [ -s "$f/groups" ] && begun=$f
    return
  fi
  d=$f
  chmod g-s "$d" && mkdir "$d/bin" && : >"$d/log" && put "$d/job" "$JOB" &&
    put "$d/keeper" "$KEEPER" && if [ "$IN" = yes ]; then mkfifo "$d/stdin" "$d/stdout" "$d/stderr" "$d/wake" && : >"$d/out"; fi &&
    if [ "$TERMINAL" ]; then put "$d/term" "$TERMINAL" && put "$d/size" "$SIZE"; fi || return
  for name in browser xdg-open open; do put "$d/bin/$name" "$SHIM" && chmod 700 "$d/bin/$name" || return; done
}
for runs in yes no; do      # where $BROWSER can be run, if there is such a place
  for t in "$XDG_RUNTIME_DIR" "$HOME/.cache" "$tmp" "$HOME/.cache/."; do
    case $t in */.) t=${t%/.}; mkdir "$t";; esac
    [ "$t" = "$tmp" ] || private "$t" || continue
    make_folder "$t" && { [ -n "$begun" ] || [ $runs = no ] || "$d/bin/browser"; } && break 2
    [ -z "$d" ] || rm -rf "$d"; d=
  done
done 2>/dev/null
if [ -n "$begun" ]; then d=$begun; go_on || gone; else
[ -n "$d" ] || { say full "$tmp"; exit 1; }
private "$t" && find "$t/." ! -name . -prune -type d -name 'codex-login.*' -mtime +7 -exec rm -rf {} +      # by a restart left behind
(umask "$U"; trap '' HUP; exec $S sh "$d/job") </dev/null >/dev/null 2>&1 & g=$!
(trap '' HUP; exec $S sh "$d/keeper" "$g" "$T") </dev/null >/dev/null 2>&1 & k=$!
echo "$g $k" >"$d/groups"
known=no
trap : PIPE         # nobody may be left to hear it; a handler, since the program would inherit that it is ignored
say started "$d"
fi
'''

# Some programs say whether somebody is signed in: asked here, so that the answer is there with its end, for everybody.
JOB = r'''d=${0%/*}
PATH=$d/bin:$PATH BROWSER=$d/bin/browser PYTHONUNBUFFERED=1; export PATH BROWSER PYTHONUNBUFFERED
"$BROWSER" 2>/dev/null || BROWSER="sh $BROWSER %s"       # nothing runs from this folder
STREAMS
{ COMMAND
}
s=$? size=
END
printf '@MARK exit %s %s\n' "$s" "$size" >&5       # whatever became of the folder
PROOF'''

PROOF = ASK + r'''ask
printf '@MARK proof %s\n' "$s" >&5'''

# Codex reads nothing, and what it says is said by others.
STREAMS = r'''exec </dev/null >>"$d/log" 2>&1 5>&1'''

# The input of all others comes in numbered pieces, the last one empty; who brings one rings. The fifo is held open by both
# for both: so nobody waits for the other.
OWN_STREAMS = r'''feed() {
  exec 4<>"$d/wake"
  n=1
  while :; do
    while [ -e "$d/in.$n" ]; do
      [ -s "$d/in.$n" ] && cat "$d/in.$n" || return
      printf '@MARK fed %s\n' "$n" >>"$d/log"
      rm "$d/in.$n"
      n=$((n + 1))
    done
    read -r w <&4
  done
}
gather() { cat <"$d/$1" >>"$d/$2"; : >"$d/$1.over"; }      # through pipes: whoever opens /dev/stderr anew would cut off a file
gather stdout out 2>/dev/null &
gather stderr log 2>/dev/null &
exec >"$d/stdout" 2>/dev/null 5>>"$d/log" 6>"$d/stderr"     # "Killed" is not the program's word
feed >"$d/stdin" 5>&- 6>&- & f=$!
exec <"$d/stdin"'''
# Background jobs of a shell ignore Ctrl-C, and hand that on; few can take it back.
ON_TERMINAL = r'''
heard() { case $("$@" </dev/null) in *terminal*) return 0;; esac; return 1; }
on_terminal() {
  own=
  for how in 'env --default-signal=INT,QUIT' 'perl -e $SIG{INT}=$SIG{QUIT}=DEFAULT;exec@ARGV'; do
    $how true && { own=$how; break; }
  done
  if heard env SHELL=/bin/sh script -qfc 'echo terminal' /dev/null; then
    T=$d/term S=$SHELL SHELL=/bin/sh $own script -qfc 'exec sh "$T"' /dev/null
  elif heard script -q /dev/null echo terminal; then $own script -q /dev/null sh "$d/term"
  else
    python3 -c 'import pty, signal, sys
for number in signal.SIGINT, signal.SIGQUIT: signal.signal(number, signal.SIG_DFL)
pty.spawn(sys.argv[1:])' sh "$d/term" || [ -e "$d/tty" ] || printf '@MARK no-terminal\n' >>"$d/log"
  fi
  read -r s <"$d/status"
  return "${s:-255}"
}'''
TERMINAL = r'''d=${0%/*} SHELL=${S:-$SHELL} TERM=NAME
unset T S
export SHELL TERM
exec 5>&2 2>/dev/null
trap : INT QUIT
tty >"$d/tty"
read -r c r <"$d/size"
stty rows "$r" cols "$c"
(COMMAND 2>&5 5>&-)
echo $? >"$d/status"'''
OWN_END = r'''exec </dev/null >/dev/null 6>&-
kill "$f"
for i in 0.01 0.02 0.05 0.1 0.2 0.5 1; do       # what it has left running may hold them open
  [ -e "$d/stdout.over" ] && [ -e "$d/stderr.over" ] && break
  sleep $i || sleep 1
done
size=$(wc -c <"$d/out")'''

KEEPER = r'''d=${0%/*}
cd "$d" || exit     # so it is this one, whatever has its name at the end
OURS
sleep "$2"
printf '@MARK exit 124\n' >>log
if ours "$1" job; then p=$(family "$1"); kill -s TERM -- "-$1" $p; sleep 2; kill -s KILL -- "-$1" $p; fi
end_attendants $$ <attendants
rm -rf "$d"'''.replace('OURS', OURS.strip())

SHIM = r'''#!/bin/sh
for a in "$@"; do
  case $a in http://*|https://*) printf '@MARK browser %s\n' "$a" >>"${0%/bin/*}/log";; esac
done'''

STATUS = ASK + 'ask; say status "$s"\n'

# What listens on the server's loopback, as the system says it: nothing is connected to, since some programs take one connection
# only. Told of are the program's own, and what else has port P. Its own are those of its tree, and of what has left the tree
# with its $BROWSER. Of another account's process nobody may see what it holds: that one of the tree has that account will do.
LISTENS = r'''
listening() {       # port, family, and whose it is
  if [ -r /proc/net/tcp ]; then
    held=$(for p in $mine; do ls -ln "/proc/$p/fd"; done | sed -n 's/.*socket:\[\(.*\)]$/ \1 /p') me=$(id -u)
    theirs=$(for p in $mine; do sed -n 's/^Uid:.\([0-9]*\).*/ \1 /p' "/proc/$p/status"; done)
    cat /proc/net/tcp /proc/net/tcp6 | sed -n 's/^ *[0-9]*: \(0*FFFF0*\)*\(0100007F\|7F000001\|0*\):\(.... [^ ]* 0A \)/4 \3/p
      s/^ *[0-9]*: 0*10*:\(.... [^ ]* 0A \)/6 \1/p' | while read -r family port r st q t re uid to i rest; do
      whose=other port=$((0x$port))
      case $held in *" $i "*) whose=own;; esac
      case $me in 0|"$uid") ;; *) case "$port $theirs" in "$P "*" $uid "*) whose=own;; esac;; esac
      case $whose$port in own*|other"$P") echo "$port $family $whose";; esac
    done
  else
    lsof -nP -iTCP -sTCP:LISTEN -Fpn | sed -n '/^p/{s/p//;h;};s/^n\*:/4 /;s/^n127\.0\.0\.1:/4 /;s/^n\[::1]:/6 /;/^[46] /{G;s/\n/ /;p;}' |
      while read -r family port p; do
        case $mine$port in *" $p "*) echo "$port $family own";; *" $P") echo "$port $family other";; esac
      done
  fi
}
{
  read -r g k <"$d/groups"; ours "$g" job || g=
  all() {           # -z is for busybox, unless it knows no -z; macOS has no /proc
    for z in z ''; do grep -ls${z}F "$d/bin/browser" /proc/[0-9]*/environ; done
    [ -d /proc/1 ] || ps -AEww -o pid= -o command= | grep -F "$d/bin/browser"
  }
  mine=" $( { [ -z "$g" ] || family "$g"; all | sed 's/^[^0-9]*\([0-9]*\).*/\1/'; } | tr '\n' ' ')"
  [ ! -r /proc/net/tcp ] && ! command -v lsof >&2 || say listens $(listening)
} 2>/dev/null
'''

FIND_AGAIN = r'''
gone() {
  now=$(here)
  case ${was##*.} in
    "$now"*)            # in logind's own words
      logind='org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager'
      [ "$(busctl get-property $logind KillUserProcesses 2>/dev/null)" != 'b true' ] || say lost killed;;
    b*"n${now#*n}"*) say lost restarted;;
    b*n*x*) say lost elsewhere;;
  esac
  s=; [ "$CODEX" != yes ] || ask
  say gone "$s"; exit 0
}
as_we_left_it() {   # made by this account, closed to others, nothing in it that leads elsewhere, and by this very login
  u=$(id -u)
  [ "$(find "$d" -prune -type d -user "$u" -perm 700)" = "$d" ] &&
    [ -z "$(find "$d" ! -user "$u" -o ! -type d ! -type f ! \( -type p \( -name 'std*' -o -name wake \) \) -o -type f -links +1)" ] && grep -q "@$N exit" "$d/job"
}
lives() {           # whether the program of this folder is at work, or its end is there to be read
  read -r g k <"$d/groups"
  ended || ours "$g" job
}
go_on() {           # with the program of the folder d, if it is there; it may have been about to start, or to end
  { as_we_left_it && { lives || { sleep 1; lives; } || { rm -rf "$d"; false; }; }; } 2>/dev/null || return
  ours "$g" job || g=
  ours "$k" keeper || k=
  known=yes
  [ "$d" = "$was" ] && say found "$d" || say started "$d"
  if [ "$LOOK$CODEX" = yesyes ] && ! ended; then ask; say status "$s"; fi
}
was=$d g= k=
'''

# Goes on with the program of the folder d, if it is there, or with what an earlier connection of this very start has begun: else
# two of one login would end each other. Else it starts one, if it is told how.
LAUNCH = 'E=2\n' + FIND_PROGRAM + ASK + OURS + FIND_AGAIN + r'''
if [ -z "$d" ] || ! go_on; then
d=
for t in "$XDG_RUNTIME_DIR" "$HOME/.cache" "${TMPDIR:-/tmp}"; do
  for f in "$t"/codex-login.*/job; do [ -n "$d" ] || ! grep -q "@$N exit" "$f" || d=${f%/job}; done
done 2>/dev/null
if [ -n "$d" ] && go_on; then :
elif [ -z "$JOB" ]; then gone
else d=''' + LOOK_FOR_LOGIN + START + 'fi\nfi\n'

# Follows the log, and does what it is told in single words, until its input ends: then the program goes on alone. But
# one that nobody said `go` to is ended: whoever started it has left without knowing where it is. Who leaves takes all of it
# away, the program as well, unless somebody else still follows it: the end stays there to be read by everybody.
ATTEND = r'''
exec 3>&2 2>/dev/null       # complaints until here may explain what is wrong; asyncssh ends a session whose error stream is closed
E=3
others() {          # whether an attendant that is not of $1 follows as well
  while read -r a b i o; do [ "$a" = $$ ] || [ "$i" = "$1" ] || ! ours "$b" log || return 0; done
  return 1
}
stop() {
  if [ -z "$g" ] || ended && ! ours "$g" job; then return 0; fi
  i=0 p=$(family "$g")
  ! ended || i=10           # what only tells its status needs no time for its end
  kill -s TERM -- "-$g" $p
  while for q in "-$g" $p; do kill -s 0 -- "$q" && break; done && [ $i -lt 10 ]; do i=$((i + 1)); sleep 0.1 || sleep 1; done
  kill -s KILL -- "-$g" $p
}
clear_up() {
  stop
  [ -z "$k" ] || kill -s KILL -- "-$k" $(family "$k")     # by both: it may not have a group, or not yet
  end_attendants $$ <"$d/attendants"      # whose connection is lost do not notice it
  rm -rf "$d"
}
take() {            # piece $1 of the program's input, of $2 bytes; one that comes again is the same
  left=$2
  : >"$d/new.$$"
  while [ "$left" -gt 0 ]; do
    dd bs="$left" count=1 $whole >>"$d/new.$$" || { say full "$d"; return 1; }
    had=$left left=$(($2 - $(wc -c <"$d/new.$$")))
    [ "$left" -lt "$had" ] || return       # that was the end of what comes
  done
  mv "$d/new.$$" "$d/in.$1" && echo >&4
}
u= n=
if [ -p "$d/wake" ]; then
  exec 4<>"$d/wake"
  n=$(($(grep -c "@$N fed " "$d/log") + 1)) whole=iflag=fullblock
  while [ -e "$d/in.$n" ]; do n=$((n + 1)); done
  dd $whole count=0 </dev/null || whole=
  printf '@%s begin\n' "$N"
  tail -c "+$OUT" -f "$d/out" 3>&- & u=$!
fi
say begin "$n"
tail -c "+$LOG" -f "$d/log" >&3 & t=$!
echo "$$ $t $I $u" >>"$d/attendants" || { kill "$t" $u; exit; }
while read -r word n length; do
  case $word in
    in) take "$n" "$length" || break;;
    size)           # changed twice, so that the program draws itself
      put "$d/size" "$n $length"
      [ ! -s "$d/tty" ] || ended || for r in $((length - 1)) "$length"; do stty rows "$r" cols "$n" <"$(cat "$d/tty")"; done;;
    go) known=yes;;
    leave) known=yes; if others "$I" <"$d/attendants"; then : >"$d/left"; else clear_up; fi; say ended; break;;
    stop) known=yes; clear_up; say ended; break;;
  esac
done
kill "$t" $u
# The last one clears up, too, where somebody has left already: its run may be dead, which a silent connection does not tell.
[ "$known" = yes ] && [ ! -e "$d/left" ] || { sleep "$P"; others - <"$d/attendants" || clear_up; }
'''


def sh_quote(text):
    """`text` as one word of POSIX sh."""
    return "'" + text.replace("'", "'\\''") + "'"


def launcher(variables, *pieces):
    """The bytes to send to `sh`: the variables set, then the pieces, in one brace group."""
    heads = '\n'.join(f'{name}={sh_quote(value)}' for name, value in variables.items())
    say = '''U=$(umask)\numask 077\nE=1\nsay() { printf '@%s %s\\n' "$N" "$*" >&$E; }'''
    return ('{\n' + '\n'.join((heads, say, *pieces)) + 'exit 0\n}\n').encode()


# Programs that say whether somebody is signed in: the words of a login, those that ask, and what is a yes, with whose it is.
LOGINS = {
    'codex': ('login', 'login status', r'(?ms)^(?:(?:Logged in|API key)[^\n]*|(?!WARNING)(?!.*^(?:Logged in|API key))[^\n]+)'),
    'claude': ('auth login', 'auth status', r'"loggedIn": true(?:[^}]*"email": "(.+?)")?'),
    'gh': ('auth login', 'auth status', r'Logged in to \S+ (?:account|as) \S+'),
    'az': ('login', 'account show', r'"user": {[^}]*"name": "(.+?)"'),
    'wrangler': ('login', 'whoami', r'You are logged in.*?(?=\.(?:\s|$))'),
    'firebase': ('login', 'login:list', r'Logged in as \S+'),
}
NOBODY = re.compile(r'(?im)^.*(not (logged (in|into)|authenticated)\b|"loggedIn": false|az login|no authorized accounts).*')
# In a line of a shell: a word; an option with its value; the words of a login (the program, `login`, options); how a simple command
# begins; one with what follows it; and such as may be run once more to ask, since they only set something up.
WORD = r"""(?:[^\s'"`\\;&|<>()]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+"""
TAKES = r'(?:-[cmpC]|--(?:config|enable|disable|model|profile|cd|experimental_[a-z-]+))(?=\s)'
OPTION = rf'\s+(?:{TAKES}\s+{WORD}|(?!{TAKES})-{WORD})'
LOGIN = re.compile(rf"""(?<![^\s/'"(;&|])({'|'.join(LOGINS)})(?:-code|-tools)?(?:@[\w.^~-]+)?['"]?(?:{OPTION})*"""
                   rf"""\s+((?:auth\s+)?login)((?:{OPTION})*)(?![^\s'"`;&|<>)])""")
PROGRAM = re.compile(rf'((?:(?:env|exec|command|\w+=(?:{WORD})?)\s+)*)(?!-)([\w./+~@-]+)(?=\s|$)')
COMMAND = re.compile(rf'((?:[^\S\n]|{WORD})+)(;|&&|\|\|?|&|\n)?')
SETS_UP = re.compile(r'\s*(?:cd|export|\.|source|set|unset|umask|eval|nvm|conda|module)\s|\s*(?:\w+=\S*\s*)+$')


class Command(NamedTuple):
    """What to run at the server: `line` for its shell, `program` to be found on PATH.

    `ask`, for its shell as well, has the program `name` of LOGINS say whether somebody is signed in; both are '' where none can.
    `near` is 'yes' where this account's auth.json tells that too: not in a container, for somebody else, at another server."""
    line: str
    program: str
    codex: bool = False                 # whether it is codex's login by a page or a code: with a key it is like any other program
    issuer: str = 'auth.openai.com'     # whose pages codex may have opened
    ask: str = ''
    name: str = ''
    near: str = 'no'
    terminal: str = ''                  # what kind of terminal it has at the server, as TERM; '' for none

    @property
    def talks(self):
        """Whether it has streams of its own, for a person to see and to type into."""
        return not self.codex or bool(self.terminal)

    def read_status(self, text):
        """(whether somebody is signed in, None where that is not known; the words that say so) from what ASK has gathered."""
        status, who, said = (text.split(' ', 2) + ['', ''])[:3]
        said = '\n'.join(filter(None, (harmless(line).strip() for line in said.split('\t'))))
        nobody, found = NOBODY.search(said), self.name and re.search(LOGINS[self.name][2], said)
        if nobody or not found or self.name == 'codex' and status != '0':
            return False if nobody else None, (nobody or found or re.search('.*', said))[0]
        return True, (f'Logged in as {found[1]}' if found.lastindex else found[0]) + (f', {who}' if '@' in who else '')


def make_command(words, device_auth=False):
    """The Command for the words of a command line; `codex login` where there are none."""
    line = ' '.join(words) or 'codex login'
    logins = [found for found in LOGIN.finditer(line) if LOGINS[found[1]][0] == ' '.join(found[2].split())
              and not re.match(rf'(?:{OPTION})*\s+(status\b|help\b|--help|-h(?![\w\s]))', line[found.end(2):] + ';')]
    end = logins[-1].end() if logins else len(line)
    own, asks = up_to_login(line[:end], False), up_to_login(line[:end])
    begins = PROGRAM.match(own)
    program = begins[2] if begins else 'sh'
    if not logins:
        return Command(f'"$SHELL" -c {sh_quote(line)}', program)
    whole, name, words, options = logins[-1].group(0, 1, 2, 3)
    codex, keyed = name == 'codex', '--with-a' in options
    closing = ''.join(re.findall('[\'"]', re.sub(r"""\\.|'[^']*'|"(?:[^"\\]|\\.)*\"""", '', asks)))[::-1]     # of quotes that are open
    ask = (f'{asks} status' if codex else asks[:len(asks) - len(words + options)] + LOGINS[name][1]) + closing
    if codex and device_auth and not keyed and '--device-auth' not in options:
        line = f'{line[:end]} --device-auth{line[end:]}'
    near = codex and (program in ('npx', 'bunx') or begins and begins.end(2) > len(own) - len(whole))
    if not near or begins[1] or not re.fullmatch(r'[\w./+:=@%, -]+', line):         # more than sh and its shell agree on
        line, ask = (f'"$SHELL" -c {sh_quote(text)}' for text in (line, ask))
    issuer = re.search(r'--experimental_issuer[ =]https?://([\w.:-]+)', options)
    return Command(line, program, codex and not keyed, issuer[1] if issuer else 'auth.openai.com', ask, name,
                   'yes' if near and not re.search('HOME=|credentials_store', line) else 'no')


def up_to_login(text, set_up=True):
    """The simple command that a shell's line ends with; before it, those that only set something up, unless not `set_up`."""
    return COMMAND.sub(lambda found: found[0] if not found[2] or set_up and found[2] in (';', '&&', '\n') and SETS_UP.match(found[1])
                       else '', re.sub(r'\((?![^()]*\))', '', text)).lstrip(' {')


class Program:
    """A program at the server that outlives the connection: started or found again, and followed through one connection after another.

    What is heard comes into `box` as (event, value): 'started'; 'found', what was started earlier; 'status' ((whether somebody is
    signed in, the words that say so), of what was found); 'present' (what its status says: a login is there, and nothing was
    started); 'output' ((1 or 2, bytes, lines): what came on standard output or error, and the lines
    that it ends); 'prompt' ((1 or 2, a line that waits for its end, '' once it goes on)); 'browser' (an address that it handed to a
    browser); 'exit' (its status); 'proof' ((whether somebody is signed in, the words that say so), after codex has ended
    well); 'gone' (what its status says if somebody is signed in, else ''); 'ended', as told; 'problem' (a Problem)."""
    GRACE = 150             # seconds after which the server ends what this script should have ended: what came late is finished first
    START_LIMIT = 30.0      # s
    PAUSES = (0, 0.2, 1, 3, 5)      # s before each try to have its status
    PATIENCE = 3.0          # s that the attendant of a lost connection waits for the next one, at least: in them it is made anew
    MOST_WAITING = 16       # things said by the program that nobody has looked at
    PIECE, MOST_PIECES = 65536, 16      # of its input: bytes of one, and so many that it has not read
    PROMPT_AFTER = 0.2      # s of silence after which a line without an end is a prompt

    def __init__(self, link, command, box, lifetime):
        import secrets
        self.command, self.mark, self.folder = command, secrets.token_hex(8), None
        self.exited = None      # its exit status, once known
        self.lost = ''          # why it is gone, where that is known: a word of GONE
        self.trouble = f"{link.settings.alias} did not start the program."       # why it has not started yet
        self._link, self._board, self._box, self._lifetime = link, link.board, box, lifetime
        self._beginning = {}    # what the launcher takes to start it
        self._following = self._last = self._late = None
        self._vain = 0          # sessions in a row of one connection in which nothing was said
        self._run = secrets.token_hex(4)
        self._channel = None
        self._transcript = Transcript(self.mark)        # of the log; what is its own in it, and its output, to the byte:
        self._seen, self._lines = {1: 0, 2: 0}, {1: Lines(), 2: Lines()}
        self._prompts = {1: '', 2: ''}
        self._ending = self._proved = None      # its exit status and the size of its output; until that is here, its proof
        self._input, self._input_over, self._pieces = bytearray(), False, deque()      # what has not left, and what has
        self._number, self._room, self._size = None, Box(), ()          # of the next piece
        self._word = ''         # what the attendant was told last
        self._over = False      # nobody is there any more to be told anything

    def start(self, again=False, saved=()):
        """Start it, even where a login is present if `again`; unless that of find(*saved) is still there to go on with."""
        command, self._number = self.command, 1
        if saved:
            self._remember(*saved)
        streams, end = (OWN_STREAMS, OWN_END) if command.talks else (STREAMS, '')
        streams, line = streams + ON_TERMINAL * bool(command.terminal), '(COMMAND 2>&6 5>&- 6>&-)' if command.talks else 'COMMAND'
        job = JOB.replace('COMMAND', 'on_terminal 5>&- 6>&-' if command.terminal else line).replace('STREAMS', streams).replace('END', end)
        job = job.replace('PROOF', f'A={sh_quote(command.ask)} NEAR={command.near}{PROOF}' if command.ask else '')
        job, keeper, shim = (text.replace('MARK', self.mark) for text in (job, KEEPER, SHIM))
        terminal = TERMINAL.replace('NAME', command.terminal) if command.terminal else ''
        self._beginning = {'T': str(self._lifetime + self.GRACE), 'LOOK': 'no' if again else 'yes',
                           'JOB': job.replace('COMMAND', command.line), 'TERMINAL': terminal.replace('COMMAND', command.line),
                           'SIZE': '%d %d' % (self._size or (80, 24)), 'KEEPER': keeper, 'SHIM': shim}
        self._attend()

    def find(self, folder, mark):
        """Go on with what was started in `folder` with `mark`, by this run or another."""
        self._remember(folder, mark)
        self._beginning = {'LOOK': 'yes'}
        self._attend()

    def _remember(self, folder, mark):
        self.folder, self.mark, self._transcript, self._number = folder, mark, Transcript(mark), None

    def say(self, word):
        """Tell the attendant, now and whenever it is another one: 'go', the login is saved; 'leave'; 'stop'."""
        self._word = word
        if word != 'go':
            self._room.close(Problem('cancelled', 'The program is left.'))
        self._tell(word)

    def _tell(self, words, data=b''):
        if self._channel:
            with contextlib.suppress(LOST):     # then the next one is told
                self._channel.sendall(words.encode() + b'\n' + data)

    # -- its standard input; codex has none

    def write(self, data):
        """Bytes for its standard input; from any thread. They arrive once, and in order. Waits for nothing: see await_room()."""
        self._board.call(lambda: self._write(bytes(data)))

    def finish_input(self):
        """Its standard input ends after what was written."""
        self._board.call(lambda: self._write(None))

    def await_room(self):
        """Wait until what was written is nearly read, so that a fast writer fills no memory; not on the board. Raises Problem at the end."""
        self._board.call(self._tell_room)
        while self._room.take(IDLE_POLL, True):
            pass

    def resize(self, columns, rows):
        """The size of its terminal, now and from its start on; from any thread."""
        self._size = columns, rows
        self._tell(f'size {columns} {rows}')

    def _write(self, data):
        if data is None:
            self._input_over = True
        elif self.command.talks and not self._input_over:
            self._input += data
        self._feed()

    def _feed(self):
        """Send pieces, as long as the program reads. Until it has read one it is kept, and sent again to the next attendant."""
        while self._channel and self._number and len(self._pieces) < self.MOST_PIECES and (self._input or self._input_over):
            piece = bytes(self._input[:self.PIECE])
            del self._input[:self.PIECE]
            self._pieces.append((self._number, piece))
            self._send_piece(self._number, piece)
            self._number = self._number + 1 if piece else None
        self._tell_room()

    def _send_piece(self, number, piece):
        self._tell(f'in {number} {len(piece)}', piece)

    def _tell_room(self):
        if len(self._input) <= self.PIECE and not len(self._room):
            self._room.put(None)

    def follow_anew(self):
        """Have another attendant say all that there is to be said, but let each come to its first word: a server may be far."""
        self._board.call(self._follow_anew)

    def _follow_anew(self):
        if self._following and self._heard:
            self._following.close()
            self._attend()

    def signed_in(self):
        """(whether somebody is signed in, the words that say so), by the program's own status. Raises Problem 'link'."""
        for pause in self.PAUSES:
            Box().take(pause, None)
            try:
                told = self._told('status', FIND_PROGRAM, STATUS)
                if told:
                    return self.command.read_status(told)
            except (Problem, *LOST) as error:
                if getattr(error, 'kind', 'link') not in ('link', 'remote'):
                    raise
        raise Problem('link', f'{self._link.settings.alias} did not say whether the sign-in is complete.',
                      'Ask it yourself: codex login status')

    def look(self, port):
        """Have the server say what listens there, without connecting to it: 'listens' comes into the box, with each of the program's
        own, and each at `port`, as (port, '4' or '6', whether it is its own); None where it does not say."""
        start(self._look, port)

    def _look(self, port):
        told = None
        with contextlib.suppress(Problem, *LOST):
            told = self._told('listens', OURS, LISTENS, P=str(port))
        self._box.put(('listens', None if told is None else [
            (int(port), family, whose == 'own') for port, family, whose in re.findall('([0-9]{1,5}) ([46]) (own|other)', told)]))

    def _told(self, wanted, *pieces, **variables):
        """The text of the record of that name, which the launcher says in a session of its own, else None. Raises Problem, or of LOST."""
        channel, transcript = self._link.run('sh', launcher(self._variables(**variables), *pieces)), Transcript(self.mark)
        with contextlib.closing(channel):
            while data := channel.recv(65536):
                for item in transcript.feed(data):
                    if isinstance(item, Record) and item.name == wanted:
                        return item.text

    def _variables(self, **others):
        command = self.command
        return {'N': self.mark, 'W': command.program, 'CODEX': 'yes' if command.name == 'codex' else 'no', 'A': command.ask,
                'NEAR': command.near, 'I': self._run, 'd': self.folder or '', 'IN': 'yes' if command.talks else 'no', **others}

    # -- the attendant: one after the other, each through the connection that there is, until all is said

    def _attend(self):
        self._following = None
        if not self._over:
            self._link.run_soon('sh', self._attendant, lambda outcome: self._board.call(lambda: self._attended(outcome)))

    def _attendant(self, connection):
        """The launcher's text that starts the program, or goes on with it, and follows it through this Connection."""
        return launcher(self._variables(
            OUT=str(self._seen[1] + 1), LOG=str(self._seen[2] + 1), P=str(int(max(self.PATIENCE, 6 * connection.handshake))),
            **self._beginning), LAUNCH, ATTEND)

    def _attended(self, outcome):
        """There is an attendant at the end of a Channel, or a Problem instead."""
        if isinstance(outcome, Channel):
            self._following, self._channel = outcome, None
            self._heads = {1: Transcript(self.mark), 2: Transcript(self.mark)}      # of what stands before the program's own
            self._early = b''
            self._noise, self._noise_lines, self._heard = deque(maxlen=3), Lines(), False
            self._late = self._board.after(self.START_LIMIT / 2, self._ask)
            outcome.heard = lambda: self._board.call(lambda: self._read(outcome))
            self._read(outcome)
        elif outcome.kind == 'link':
            self.trouble = outcome.message
            self._attend()
        elif outcome.kind != 'cancelled':
            self._fail(outcome)

    def _fail(self, problem):
        self._over = True
        self._room.close(problem)
        self._box.put(('problem', problem))

    def _ask(self):
        """Nothing was said for long: whether the connection is still one will show."""
        self._began = elapsed()
        self._following.connection.probe()
        self._late = self._board.after(self.START_LIMIT / 2, self._not_started)

    def _not_started(self):
        connection = self._following.connection
        self._following.close()
        if connection.last_heard <= self._began:        # it may be the connection
            self._link.suspect(connection)
            return self._attend()
        self._fail(Problem('remote', f'{self._link.settings.alias} did not start the program within {self.START_LIMIT:g} s.',
                           "The account's login shell may be waiting for something."))

    def _read(self, channel):
        if channel is not self._following:
            return
        if len(self._box) > self.MOST_WAITING and not channel.closed:       # then the program waits, too
            self._board.after(0.05, lambda: self._read(channel))
            return
        pieces = {stream: channel.read(65536, stream == 2) for stream in (2, 1)}
        for stream, data in pieces.items():
            if data:
                self._hear_of(stream, data, channel)
        if any(pieces.values()):
            self._board.call(lambda: self._read(channel))
        elif None not in pieces.values():
            self._left(channel)

    def _hear_of(self, stream, data, channel):
        """Bytes of the launcher's, or the account's own until `begin` comes, then the program's."""
        head = self._heads[stream]
        for item in head.feed(data) if head else ():
            if not isinstance(item, Record):
                self._overhear(item)
            elif item.name == 'begin':
                self._heads[stream], data = None, head.rest()
                if stream == 2:
                    self._begin(item.text, channel)
                    self._hear_of(1, self._early, channel)
                break
            else:
                self._hear(item)
        if self._heads[stream]:
            return
        if self._heads[2]:      # a server sends both streams in an order of its own, but nobody listens before 'started'
            self._early += data
            return
        self._seen[stream] += len(data)
        if stream == 1:
            self._take(1, data)
        else:
            for item in self._transcript.feed(data):
                if isinstance(item, Record):
                    self._hear(item)
                else:
                    self._take(2, item)
        self._end_if_all_is_said()

    def _overhear(self, data):
        import logging
        for line in self._noise_lines.feed(data):
            self._noise.append(line)
            logging.getLogger('codex_login').debug('%s says: %s', self._link.settings.alias, line)

    def _begin(self, number, channel):
        """The attendant listens: it is told what the one before may not have heard."""
        self._channel = channel
        self._number = self._number or not self._pieces and int(number or 0)    # begun by another run, whose pieces are there
        for piece in self._pieces:
            self._send_piece(*piece)
        if self._size and self._last:       # the first one comes with the start
            self.resize(*self._size)
        if self._word:
            self.say(self._word)
        self._feed()

    def _take(self, stream, data):
        """Bytes that the program has printed."""
        if not data:
            return
        stream = stream if self.command.talks else 1
        if self._prompts[stream]:
            self._prompt(stream, '')
        self._box.put(('output', (stream, data, self._lines[stream].feed(data))))
        rest, count = self._lines[stream].rest, self._seen[stream]
        if rest:
            self._board.after(self.PROMPT_AFTER, lambda: self._seen[stream] == count and self._prompt(stream, rest))

    def _prompt(self, stream, text):
        self._prompts[stream] = text
        if self.exited is None:
            self._box.put(('prompt', (stream, text)))

    def _end_if_all_is_said(self):
        if self._ending and self._seen[1] >= self._ending[1] and self.exited is None:
            self.exited, self._ending = self._ending[0], None
            self._room.close(Problem('ended', 'The program has ended.'))
            for stream, lines in self._lines.items():
                self._box.put(('prompt', (stream, '')))
                self._box.put(('output', (stream, b'', [lines.rest] if lines.rest else [])))
            self._box.put(('exit', self.exited))
        if self._proved and self.exited is not None:
            self._proved = self._box.put(('proof', self._proved))

    def _left(self, channel):
        """The attendant's channel has ended: another follows, unless all is said, or the server runs nothing."""
        self._late.cancel()
        channel.close()
        # A connection that was lost is another one the next time: so a third try tells that from a server that runs nothing.
        self._vain = 0 if self._heard else self._vain + 1 if channel.connection is self._last else 1
        self._last = channel.connection
        noise = ' '.join((*self._noise, self._noise_lines.rest))[-300:].strip()
        if not self._heard and (channel.exit_status != -1 or channel.refused or self._vain == 3):
            self._fail(Problem('remote', f'{self._link.settings.alias} ran no commands for {self._link.settings.user}'
                               + (f'; it says: {noise}' if noise else '.'), 'The account needs a shell.'))
        elif not self._over:
            self._board.after(0.0 if channel.broken else 1.0, self._attend)         # nobody is asked more than once a second

    def _problem(self, name, text):
        server, program = self._link.settings.alias, self.command.program
        if name == 'missing':
            missing, _, nor = text.partition(' ')
            needs = '' if missing == program else f', which {program} needs,'
            return Problem('not-installed', f'{missing}{needs} is not installed at {server}: it is not on the PATH of the account, {nor}.',
                           f'Install it there, set PATH in ~/.profile there, or name it: {server} /path/to/codex login')
        if name == 'full':
            return Problem('remote', f'The temporary folder {text} of {server} cannot be written to; the disk may be full.',
                           'Make room there, or in ~/.cache.')
        if name == 'no-terminal':
            return Problem('remote', f'{server} has nothing that makes a terminal: neither script nor python3.',
                           'Install one of them there (script comes with util-linux or bsdutils), or leave out -t.')
        return None

    def _hear(self, record):
        name, text = record
        self._heard = True
        self._late.cancel()
        if problem := self._problem(name, text):
            if not self._beginning:
                return self._box.put(('problem', problem))
            self.folder = None          # nothing was begun, and there is nothing to leave
            return self._fail(problem)
        if name in ('started', 'found'):
            self.folder, self._beginning = text, {}
        elif name == 'exit':
            ending = re.fullmatch('([0-9]{1,3})(?: ([0-9]{1,18}))? ?', text)
            self._ending = self._ending or (int(ending[1]) if ending else OWN_ERROR, int(ending and ending[2] or 0))
            return
        elif name == 'fed':
            while self._pieces and self._pieces[0][0] <= int(text):
                self._pieces.popleft()
            return self._feed()
        elif name == 'proof':
            self._proved = self.command.read_status(text)
            return
        elif name == 'status':
            text = self.command.read_status(text)
        elif name == 'lost':
            self.lost = text
            return
        elif name in ('present', 'gone', 'ended'):
            self._over = True
            signed_in, words = self.command.read_status(text)
            text = words if signed_in else ''
        elif name != 'browser':
            return
        self._box.put((name, text))


# == 11. Redirect ======================================================================================================
# What may pass from a browser to the pending login, and bringing it there once. One redirect, from its first byte on:
#   A browser connects to the port. What it sends is read until it is a request; what cannot become one is answered at once.
#   judge() says what the request is. In that very step the login becomes 'carrying': of two tabs, one passes.
#   The request goes into the story's box. Its browser waits; after 8 s it gets a page that asks again by itself.
#   The story takes it out, and the courier asks the link for a channel: it comes now, or once the link has healed.
#   The courier sends the request, and reads the reply to its end. If not a byte had left when that failed, it does so again.
#   If the reply was lost, it may have arrived. codex serves one request after another: once it answers a later one, its
#   status says whether the redirect came; if not, it goes again. Of any other nobody can know: a person is told, and may reload.
#   The reply goes to every browser that waits for this redirect, and to each that asks for it later.
#   It leads to the last page. That is fetched in the same way, as often as it takes; after 3 s without a browser's asking.
#   The program ends, and its records say how. The port is let go when each browser that is to come back has come.

class Lost(Exception):
    """The reply to a request did not come: how many bytes of the request may have arrived, and whether the connection broke."""


SIGNED_IN_PAGE = page('Signed in', 'The sign-in is complete. You can close this page.')


class Courier:
    """Brings requests to the pending login at the server's loopback, in the story's own thread.

    `until`, by elapsed(), is when it no longer waits for a lost connection."""
    ANSWER_LIMIT = 120.0    # s that the program may take to answer: it asks the issuer meanwhile
    LAST_WORDS = 20.0       # s in which the record of a program's end comes that is heard to have ended
    LARGEST = 8 << 20       # bytes of an answer
    REPEATS = 20            # times that a page is asked for whose answer broke off
    PIECE = 16384           # bytes of a request, sent whole or not at all
    SIGNED_IN = Reply(200, '', SIGNED_IN_PAGE)
    BY_NAME = 'localhost',  # for a server whose PermitOpen has that; to sshd it is both loopbacks

    def __init__(self, link, program, port, until):
        self._link, self._program, self._port, self.until = link, program, port, until
        self._spare = None          # a Channel for the next page
        self.cookies = set()        # the names of those that the program has set
        self.hosts = '127.0.0.1', '::1'         # in the order in which they are tried

    def prepare(self, failed=lambda problem: None):
        """Have a channel opened for a page that is to be got; failed(problem) is told where the server will not, or nobody is there."""
        host = self.hosts[0]

        def answered(outcome):
            if isinstance(outcome, Channel):
                self._spare = outcome
            elif outcome.kind == 'forbidden' and host != 'localhost':
                self.hosts = self.BY_NAME
                self.prepare(failed)
            elif outcome.kind in ('forbidden', 'refused'):
                failed(outcome)
        self._link.wish('direct-tcpip', (host, self._port, '127.0.0.1', 0), Link.OPEN_LIMIT, answered)

    def carry(self, request):
        """The Reply to a redirect, which arrives once.

        Raises Problem: 'refused' where nothing waits for it any more, 'forbidden', 'link' where the connection does not come
        back, 'unknown' where it may have arrived."""
        while True:
            try:
                return self._exchange(request, once=True)
            except Lost as lost:
                answer = self._what_became_of_it(lost.args[1]) if lost.args[0] else None
            if answer:
                return answer
            if elapsed() > self.until:
                raise Problem('link', f'{self._link.settings.alias} takes no redirect.', 'Start again.')
            Box().take(0.1, None)       # it never arrived: so it goes again

    def request(self, target):
        """The Request for a page that no browser asks for."""
        return Request('GET', target, (('Host', f'localhost:{self._port}'),))

    def fetch(self, request):
        """The whole Reply to what may be asked for again. Raises Problem as carry() does."""
        for _ in range(1 if request.method == 'POST' else self.REPEATS):
            with contextlib.suppress(Lost):
                return self._exchange(request)
        raise Problem('remote', 'The program at the server gives no whole answer.', 'Start again.')

    def arrived(self, asked=False):
        """(whether a redirect has come to codex and signed somebody in, its words), by whatever way. Raises Problem.

        `asked`: its status has just said that nobody is signed in."""
        signed_in, words = (False, '') if asked else self._program.signed_in()
        if not signed_in:
            self.fetch(self.request('/favicon.ico'))
            signed_in, words = self._program.signed_in()
        return signed_in, words

    def last_words(self, limit=LAST_WORDS):
        """The Reply that says how the program ended, as good as the one that was lost with it. Raises Problem 'unknown'."""
        for step in awake(limit if self._program.folder else 0.1, 0.1):
            if self._program.exited is None:
                Box().take(step, None)
        if self._program.exited == 0:
            return self.SIGNED_IN
        raise Problem('unknown', 'The answer broke off while the redirect was delivered; it may have arrived.'
                      if self._program.exited is None else 'The sign-in has failed at the server.', 'The app says more, or the server.')

    def _what_became_of_it(self, broken):
        """The Reply in place of a lost one; None where the redirect never came to codex. Raises Problem."""
        try:
            if self._program.command.codex and self._program.exited is None:
                return self.fetch(self.request(SUCCESS_PATH)) if self.arrived()[0] else None
        except Problem as problem:
            if problem.kind != 'refused':
                raise
        return self.last_words(self.LAST_WORDS if broken else self.LAST_WORDS / 10)

    def _exchange(self, request, once=False):
        spare, sent = None, 0
        if not once:
            spare, self._spare = self._spare, None
        elif self._program.command.codex and (not self._spare or self._spare.closed):
            self.prepare()          # it takes many connections: one more for the page that this leads to
        # What is to arrive once leaves where the program has just answered: from a dead connection it may come later after all.
        channel = spare if spare and not spare.closed and self._link.is_sure_of(spare.connection) else self.open()
        try:
            data = request_text(request, self.cookies)
            for start in range(0, len(data), self.PIECE):
                channel.sendall(data[start:start + self.PIECE])
                sent += self.PIECE
            answer = self._read_reply(channel)
            self.cookies.update(answer.cookies)
            return answer
        except (*LOST, ValueError):
            self._link.suspect()
            raise Lost(sent, channel.broken) from None
        finally:
            with contextlib.suppress(LOST):
                channel.close()

    def open(self):
        """A channel to the program, on either loopback, through this connection or the next one. Raises Problem as carry() does."""
        hosts = self.hosts
        while True:
            try:
                return self._link.open_tcp(hosts[0], self._port)
            except Problem as problem:
                if problem.kind == 'forbidden' and hosts[0] != 'localhost':
                    hosts = self.hosts = self.BY_NAME
                elif problem.kind == 'refused' and hosts[1:]:
                    hosts = hosts[1:]
                elif problem.kind == 'refused':
                    raise Problem('refused', f'Nothing waits at port {self._port} of {self._link.settings.alias} any more.',
                                  'Start the login again.') from None
                elif problem.kind not in ('link', 'slow') or elapsed() > self.until:      # a loopback is never slow: the way to it is
                    raise

    def _read_reply(self, channel):
        """The Reply that comes through `channel`. Raises OSError or ValueError where it breaks off."""
        channel.settimeout(1.0)
        reader, answer, silent = Reader(read_reply), None, awake(self.ANSWER_LIMIT, 1.0)
        while not answer:
            try:
                piece = channel.recv(65536)
            except socket.timeout:
                if not reader.unended:
                    if next(silent, None) is None or self._program.exited is not None:
                        raise
                    continue
                piece = b''             # a second of silence is its end
            answer = reader.feed(piece)
            if len(reader.data) > self.LARGEST:
                raise ValueError('the answer is too long')
        return answer


class _Visit:
    """One browser's connection, on the board: what it sends goes to heard(visit, bytes), what it is told ends it: left(visit)."""
    LIMIT = 30.0            # s that a browser may take to say all, and to take its answer; idle extra connections end so
    LINGER = 2.0            # s for what it says after that

    def __init__(self, board, sock, heard, left):
        self.sock, self.reader = sock, Reader(read_request)
        self._board, self._heard, self._left = board, heard, left
        self._answer, self.answered, self._moment, self._pump = None, False, board.after(self.LIMIT, self.end), None
        board.watch(sock, selectors.EVENT_READ, self._ready)

    def expect(self, seconds, function):
        """Nothing more is heard; function() is called unless there is an answer within `seconds`."""
        self._moment.cancel()
        self._moment = self._board.after(seconds, function)
        self._board.watch(self.sock, 0, None)

    def say_soon(self, data):
        """say(), from any thread."""
        self._board.call(lambda: self.say(data))

    def say(self, data):
        """Send the answer, the first one, and hang up."""
        if self._answer is None and self._left:
            self.expect(self.LIMIT, self.end)
            self._answer = memoryview(data)
            self._board.watch(self.sock, selectors.EVENT_WRITE, self._ready)

    def _ready(self, events):
        try:
            if events & selectors.EVENT_WRITE:
                self._answer = self._answer[self.sock.send(self._answer):]
                if not self._answer:
                    self.answered = True
                    self.sock.shutdown(socket.SHUT_WR)
                    # What is closed unread is a reset, and no answer.
                    self.expect(self.LINGER, self.end)
                    self._board.watch(self.sock, selectors.EVENT_READ, self._ready)
                return
            piece = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:                 # the browser gave up; what it brought is kept
            return self.end()
        if not piece:
            self.end()
        elif self._answer is None:
            self._heard(self, piece)

    def lead(self, channel):
        """Send what was heard through a Channel, and then all that comes, both ways."""
        if not self._left:
            return channel.close()
        self._moment.cancel()
        with contextlib.suppress(BrokenPipeError):      # closed by the server already, as the pump will see
            channel.sendall(bytes(self.reader.data))
        self._pump = Pump(self._board, self.sock, channel, True, self._end)

    def end(self):
        """Hang up."""
        if self._pump:
            return self._pump.end(reset=True)
        if self._left:
            self._moment.cancel()
            self._board.watch(self.sock, 0, None)
            self.sock.close()
            self._end()

    def _end(self):
        left, self._left, self._pump = self._left, None, None
        left(self)


class Visits:
    """What browsers ask at the redirect's port: judged, and answered at once or when the story has an answer.

    What is to be brought to the program comes into `box` as ('redirect', Request) or ('page', Request), each once, or ('unread', _Visit);
    answer() hands on what it replied."""
    PATIENCE = 8.0          # s until a browser gets a page that asks again by itself
    AGAIN = 2               # s after which that page does
    LINGER = 4.0            # s that the port stays open for who is to come back
    MOST = 200              # connections at once

    def __init__(self, board, pending, alias, box):
        self.pending, self._board, self._alias, self._box = pending, board, alias, box
        self._lock = threading.Lock()       # a request is judged and noted in one step
        self._waiting = {}      # key of a request: what takes its answer, for each browser that wants it
        self._answers = {}      # key of a request: the bytes that whoever asks again gets as well
        self._expected = {}     # target: until when a browser may come that was sent there
        self._open, self._busy, self._gone = {}, set(), Box()        # visits by socket, those with a whole request, their ends
        self._last_page = page('This sign-in is over', 'Go back to the app: it says how it ended.', status=410)
        self._unread = []       # visits that pass unread, one after the other
        self._listener, self._turned_away = None, set()

    # -- the port

    def listen(self, host=''):
        """Listen on the redirect's port. Raises Problem('listen').

        `host` is 127.0.0.1 or ::1 where the redirect goes there and nowhere else; else a browser takes either, and both are had.
        """
        self._listener = Listener(self._board, self._visited, most_at_once(self.MOST, 4), self._told, drop=lambda sock: self._open[sock].end())
        try:
            held = self._listener.open('localhost', self.pending.port, all_or_none=not host)
            if host and host not in dict(held):
                self._listener.close()
                raise _listen_problem(host, self.pending.port, OSError(errno.EADDRINUSE, ''))
        except Problem as problem:
            raise Problem('listen', problem.message, 'End that program (another login, or codex on this device), '
                          'then start again.') from None

    def renew(self, pending):
        """From now on the port waits for another redirect."""
        with self._lock:
            self.pending = pending

    def revive(self):
        """Listen again where the system took a listener away while the app was asleep."""
        if self._listener:
            self._listener.probe()

    def _told(self, event, _, where, error):
        self._note(f'Port {where[1]} of this device is open again.' if event == 'back' else
                   f'{_listen_problem(*where[:2], error).message}. Paste the address of the failed page here instead.')

    def _note(self, text):
        self._box.put(('note', text))

    def _visited(self, sock, *_):
        self._open[sock] = _Visit(self._board, sock, self._heard, self._left)

    def _heard(self, visit, piece):
        """Some of a browser's request has come: it is answered once it is whole, or cannot become one."""
        self._listener.heard(visit.sock, whole=False)
        if self.pending.tls:
            return self._heard_tls(visit, piece)
        try:
            request = visit.reader.feed(piece)
            if not HTTP_BEGINS.fullmatch(visit.reader.data[:32]):
                raise ValueError('this is no HTTP request')
        except ValueError as error:
            return self._turn_away(visit, f'{error}.')
        if request:
            self._listener.heard(visit.sock, whole=True)
            visit.expect(self.PATIENCE, lambda: self._ask_again(visit, request))
            self._busy.add(visit)
            self.respond(request, visit.say_soon)

    def _heard_tls(self, visit, piece):
        visit.reader.data += piece
        if not TLS_BEGINS.fullmatch(visit.reader.data[:6]):
            self._turn_away(visit, 'This sign-in comes back by https only.')
        elif len(visit.reader.data) >= 6:
            self._listener.heard(visit.sock, whole=True)
            visit.expect(Courier.ANSWER_LIMIT, visit.end)
            self._busy.add(visit)
            self._unread.append(visit)
            if len(self._unread) == 1:
                self._box.put(('unread', visit))

    def _turn_away(self, visit, text):
        """Answer what cannot be read, and say so once."""
        first = visit.reader.data[:32]
        what = 'https' if first[0] == 0x16 else 'http' if HTTP_BEGINS.fullmatch(first) else 'Something that is no browser'
        if what not in self._turned_away:
            self._turned_away.add(what)
            self._note(f'{what} came to the port of the redirect, where only {"https" if self.pending.tls else "http"} is understood.')
        visit.say(page('Not understood', text, status=400))

    def _ask_again(self, visit, request):
        self._expect(request.target, self.AGAIN + 1)
        visit.say(page(f'Waiting for {self._alias} …', 'Go back to the app, and leave this page open: it goes on by itself.',
                       refresh=self.AGAIN))

    def _left(self, visit):
        self._open.pop(visit.sock, None)
        self._busy.discard(visit)
        if visit in self._unread:
            self._unread.remove(visit)
            if self._unread:
                self._box.put(('unread', self._unread[0]))
        self._listener.leave(visit.sock)
        self._gone.put(None)

    # -- requests

    def respond(self, request, reply):
        """Judge a request, and have reply(bytes) called with its answer, now or later, from any thread; the Verdict.

        Without `reply`, a person brought the request, and no browser follows its answer."""
        with self._lock:
            verdict = judge(request, self.pending)
            by_itself = self._expected.pop(request.target, 0) > elapsed()
            wanted = request._replace(target=verdict.target)
            if verdict.act == CARRY and not by_itself:
                self._answers.pop(wanted.key, None)     # it was carried before, and the program would not have it
            data = self._answers.get(wanted.key)
            if verdict.status == 410 or data is None and verdict.act != HERE and self.pending.stage == 'over':
                data = self._last_page
            elif verdict.act == HERE:
                data = page(verdict.title, verdict.text, verdict.status, verdict.again)
                if verdict.again and reply:
                    self._expected[request.target] = elapsed() + verdict.again + 1
            elif data is None:
                if verdict.act == CARRY:
                    self.pending = self.pending._replace(stage='carrying', carried=wanted.key)
                if wanted.key not in self._waiting:
                    self._box.put(('redirect' if verdict.act == CARRY else 'page', wanted))
                self._waiting.setdefault(wanted.key, []).append(reply)
        if data is not None and reply:
            reply(data)
        return verdict

    def answer(self, request, data, keep=False, follow=None, stage=''):
        """Give browsers what came for a request, for later ones as well if `keep`; whether there is a browser.

        `follow` is the target that it sends them to; `stage` is what it leads to."""
        with self._lock:
            leads_to = (*self.pending.leads_to, *filter(None, [follow]))[-20:]
            self.pending = self.pending._replace(stage=stage or self.pending.stage, leads_to=leads_to)
            if keep:
                self._answers[request.key] = data
            replies = list(filter(None, self._waiting.pop(request.key, ())))
        if follow and replies:
            self._expect(follow, 2.0)
        for reply in replies:
            reply(data)
        return bool(replies)

    def wanted(self, request):
        """Whether a browser waits for the answer to a request."""
        return request.key in self._waiting

    def end(self, signed_in=False):
        """The program is over: no request passes any more; who waits, and who comes with a redirect, is told how it ended."""
        with self._lock:
            self.pending = self.pending._replace(stage='over')
            waiting, self._waiting = self._waiting, {}
            if signed_in:
                self._last_page = SIGNED_IN_PAGE
        for reply in filter(None, itertools.chain.from_iterable(waiting.values())):
            reply(self._last_page)

    def _expect(self, target, seconds):
        with self._lock:
            self._expected[target] = elapsed() + seconds

    def close(self, linger=True):
        """Let go of the port. Who waits still is told that it is over; a browser that is to come back has a moment for that."""
        self.end()
        for step in awake(self.LINGER, 0.1):
            if all(visit.answered for visit in list(self._busy)) and not (linger and max(self._expected.values(), default=0) > elapsed()):
                break
            self._gone.take(step, None)
        if self._listener:
            self._listener.close()
            self._board.call(lambda: [visit.end() for visit in list(self._open.values())])


# == 12. Sign-in =======================================================================================================
# The story of one login, from the link to the outcome. It waits in one place, Login.run, for the next event; what each does:
#
#   finding     a saved login is looked for at the server       reading     the program runs; no address is known yet
#   starting    the program is being started                    waiting     for the browser's redirect
#   following   the redirect's reply leads to a last page       settling    for the end of the program
#   proving     it ended; whether somebody is signed in         asking      whether to begin anew
#   over        `status` is the exit status

MOVES = {(state, event): act for states, event, act in (
    ('finding', 'found', 'go_on'),                  # -> reading; --again: starting
    ('finding', 'gone', 'begin_anyway'),            # -> over, where a redirect was brought; starting
    ('finding starting', 'started', 'has_started'),         # -> reading
    ('finding starting', 'present', 'is_present'),          # -> starting, over
    ('starting', 'gone', 'begin_anew'),             # -> starting: the connection was lost before it was known where it is
    ('reading waiting', 'status', 'has_status'),    # of what was found: -> following
    ('finding starting', 'deadline', 'not_started'),        # 124
    ('reading waiting following settling proving', 'output', 'read_output'),     # an address: -> waiting, following
    ('reading waiting following settling', 'prompt', 'show_prompt'),
    ('reading waiting following settling', 'browser', 'read_address'),      # likewise
    ('reading waiting following settling', 'pause', 'settle'),      # likewise
    ('reading waiting following settling', 'ports', 'look'),        # at what the program listens on
    ('waiting', 'refused', 'look'),
    ('reading waiting following settling', 'listens', 'see_what_listens'),      # a page that leads back: -> waiting; over
    ('waiting', 'redirect', 'carry'),               # -> following, settling; waiting, where the program would not have it
    ('waiting', 'unread', 'carry_unread'),
    ('waiting following settling', 'page', 'fetch'),        # the last page: -> settling
    ('following', 'follow', 'follow'),              # no browser came for it: -> settling
    ('settling', 'quiet', 'look_again'),
    ('reading waiting following settling', 'exit', 'has_ended'),    # -> over, proving, asking
    ('proving', 'proof', 'is_proved'),              # -> over
    ('proving', 'deadline', 'prove'),               # -> over
    ('reading waiting following settling proving', 'gone', 'is_gone'),      # -> over, starting, asking
    ('reading waiting asking', 'deadline', 'look_once_more'),       # whoever stands at the port is heard first
    ('reading waiting asking', 'late', 'nobody_came'),      # 124
    ('following settling', 'deadline', 'never_ended'),      # somebody came: not 124
    ('asking', 'anew', 'begin_anew'),               # -> starting
    ('reading waiting', 'look', 'look_around'),
    ('reading waiting', 'peek', 'peek'),
    ('reading waiting', 'clipboard', 'offer_what_is_copied'),
    ('*', 'answer', 'take_answer'),
    ('reading waiting', 'open', 'open_page_of_code'),
    ('reading waiting following settling proving asking', 'typed', 'take_typed'),       # the last page: -> following
    ('*', 'woke', 'wake_up'),
    ('*', 'note', 'say'),
    ('*', 'forbidden', 'is_forbidden'),
    ('*', 'problem', 'fail'),
) for state in states.split()}
MEANWHILE = {'waiting': 'The sign-in page stays good.', 'following': 'The redirect is delivered.', 'settling': 'The redirect is delivered.'}


class Session(NamedTuple):
    """What is kept of a login under way, to go on with it after this process ended. No secret is in it.

    `server` is user@host:port, `arguments` the words of the command line that led there, `state` the SHA-256 of the
    address's state in hex, `started` seconds since 1970; `port` is None until the address is known."""
    server: str
    arguments: list
    command: list
    device_auth: bool
    folder: str
    mark: str
    port: 'int | None'
    path: str
    state: str
    started: float

    def accepts(self, redirect):
        """Whether a Redirect can be this login's: one that passes, or its last page."""
        codex = make_command(self.command, self.device_auth).codex
        pending = Pending(self.port, self.path, self.state, False, codex)
        verdict = judge(redirect.request(pending), pending)
        return verdict.act == CARRY or verdict.status == 409


def read_session(text):
    """The Session in the text of its file. Raises ValueError for anything else."""
    import json
    try:
        session = Session(**json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(error) from None
    lists = isinstance(session.arguments, list) and isinstance(session.command, list)
    texts = {'server': '(?s).*', 'folder': r'/([^\0-\x1f\x7f]*/)?codex-login\.[A-Za-z0-9]{6,}', 'mark': '[0-9a-f]{16}',
             'state': '|[0-9a-f]{64}', 'path': '(?s)|/.*'}
    if not (lists and all(isinstance(word, str) for word in session.arguments + session.command)
            and all(re.fullmatch(pattern, str(getattr(session, name))) and isinstance(getattr(session, name), str)
                    for name, pattern in texts.items()) and '..' not in session.folder.split('/')
            and type(session.device_auth) is bool and type(session.started) in (int, float) and 0 <= session.started < 1 << 40
            and (session.port is None or type(session.port) is int and 0 < session.port < 65536)):
        raise ValueError('a value is not what it should be')
    return session


class Sessions:
    """The saved Sessions of this device, one file each."""

    def __init__(self, device, note):
        self._folder, self._note = device.state_folder, note

    def _path(self, server, command):
        name = hash_of(' '.join((server, *command)))
        return os.path.join(self._folder, f'login-{name[:16]}.json')

    def save(self, session):
        """Keep a Session, in place of what there was for its server and command."""
        import json
        path = self._path(session.server, session.command)
        try:
            write_private(path, json.dumps(session._asdict()))
        except OSError as error:
            # Not the end of the login: only that it cannot be gone on with after this process was killed.
            self._note(f'{path} cannot be written: {error.strerror}.')

    def forget(self, server, command):
        """Keep nothing for this server and command."""
        remove_file(self._path(server, command))

    def find(self, server, command):
        """The Session of this server and command, else None."""
        return self._read(self._path(server, command))

    def all(self):
        """Every Session there is."""
        import glob
        found = map(self._read, sorted(glob.glob(os.path.join(self._folder, 'login-*.json'))))
        return [session for session in found if session]

    def _read(self, path):
        try:
            with open(path, encoding='utf-8') as file:
                return read_session(file.read())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self._note(f'The saved login {path} is damaged and was removed.')
            remove_file(path)
            return None


# What codex says when it fails, and what helps.
CODEX_HINTS = (
    (r'oauth/token\)|Token exchange failed.* 403', 'The server itself cannot reach the issuer: look at its proxy, firewall or region. '
     'codex reads HTTPS_PROXY from $CODEX_HOME/.env (~/.codex/.env).'),
    (r'Token exchange failed', 'Start again, and sign in on the page that is opened then.'),
    (r'already in use|Address in use', 'Another login or program holds the port at the server: end it, or wait.'),
    (r'Login cancelled|Login was not completed', 'Another login at the server ended this one. Start again.'),
    (r'could not be saved locally', 'Look at disk space and permissions of ~/.codex at the server.'),
    (r'not enabled for this Codex server|Enable device code', 'Sign in without --device-auth, or allow it in the security settings.'),
    (r'restricted to workspace|not enabled for your workspace|login is disabled', 'That is a policy: ask the administrator.'),
)

# Why a login is gone, by the launcher's word for it.
GONE = {
    'restarted': ('{} has been restarted since. The login that waited there is gone.', 'Start again.'),
    'elsewhere': ('Another machine answers at {} than the one where the login waits.', 'Name that very machine, or start again.'),
    'killed': ('{} has ended the login together with the connection that began it (KillUserProcesses in its logind.conf).',
               'Start again, and stay in this app while you sign in; or ask for KillExcludeUsers there.'),
    '': ('The login at {} is no longer there: it was ended, or its folder was removed.', 'Start again.')}


class Attempt:
    """All that is known of one try at a login. A new try has a new one: what the old program may still say is not for it."""

    def __init__(self, link, command, timeout):
        self.box = Box()
        self.program = Program(link, command, self.box, timeout)
        self.started = time.time()
        self.found, self.opened_last = False, ''    # whether an earlier run began it; the hash_of the state of its last address
        self.shared = False             # whether another one waits for it as well: then it is not ours to end
        self.finder = Finder(command.codex, *[screen_size()[0]] if command.terminal else [])
        self.code = self.sign_in = self.visits = self.courier = None
        self.timers = {'late': float('inf')}        # event: when it is due, by elapsed()
        self.proof = None               # (whether somebody is signed in, the words that say so), once known
        self.held = []                  # codex's own lines, shown only when they explain a failure
        self.last_page = None           # the target that the redirect's answer led to
        self.looked = None              # a Box for whether an earlier redirect has come to codex, while that is looked into
        self.denied = False             # whether that redirect said no
        self.forbidden = None           # the Problem that the server lets no redirect through
        self.problem = self.failure = None      # why the redirect may not have arrived; how codex failed, until its status is known
        self.asked_about_page = self.ended = False
        self.page, self.pages = None, []        # what was printed, and handed to $BROWSER, that may lead back to where it listens
        self.looks = self.silent = self.left = 0        # times that it was seen to listen nowhere, not heard, seen to have left a listener
        self.offered = []               # what was offered of the clipboard
        self.brought = None             # (Redirect, what was typed), until it is known whether the program listens for it
        self.prompt = ''                # the program's, while it waits for a line
        self.asked = False              # whether a dialog asks for it
        self.wants_terminal = False     # whether it says that it has none
        self.away = 0                   # looks at who is in front, until a person that was sent to a browser counts as back

    def words(self):
        """What codex has said, as lines that may be shown."""
        return [harmless(line) for line in self.held if line.strip()]


def teller(report, put):
    """The function that tells a report what goes on with a Link; put('woke', None) and put('problem', Problem) for who acts on it."""
    def tell(event, **fields):
        if event == 'suspended':
            put('woke', None)
        if event == 'link-failed':
            put('problem', fields['problem'])
        else:
            report.tell(event, **fields)
    return tell


class Login:
    """One sign-in: a link, a program at the server, the browsers' visits, the outcome."""
    FOLLOW_AFTER = 3.0      # s that a browser has to follow the redirect's answer before this script does
    LOOK_AFTER = 2.0        # s after a wake-up in which a browser's own request comes; then the clipboard is read
    LAST_LOOK = 2.0         # s in which who stands at the port when the time is up is heard
    QUIET = 5.0             # s after the redirect in which the program should end
    SILENCE = 6             # times in a row that it did neither, nor said a word
    MORE_TIME = 60.0        # s that a redirect has, however late it comes
    PROOF_LIMIT = 20.0      # s in which a program that has ended has its status told by its own job
    LEAVE_LIMIT = 8.0       # s in which the server is left
    GOODBYE = 1.0           # the same after the program has ended: what was said arrives, and is done there without us
    LOOKS = 3               # at a program that listens nowhere yet, each a second later than the one before
    NEXT_LOOK = 15.0        # s until it is looked again whether what a program has left listens still
    SHOWN_ON_FAILURE = 40

    def __init__(self, options, settings, device, report):
        self._options, self._settings, self._device, self._report = options, settings, device, report
        self._link = Link(settings, device, teller(report, lambda *event: self._attempt.box.put(event)), options.jumps)
        self._forwards = None
        self._sessions = Sessions(device, report.note)
        self._server = f'{settings.user}@{settings.host}:{settings.port}'
        self._command = make_command(options.command, options.device_auth)._replace(terminal=wanted_terminal(options))
        self._redirect = None   # one that a person brought, until the address is known
        self._slept, self._begun_again, self._status, self._attempt = False, False, 0, None
        self._keys = b'\r'      # the last keys, where a line begins, or one that begins with ~
        self._ahead = deque()   # what was typed and has not been looked at: the attempt may be another one by then
        self._try_anew()

    def _try_anew(self):
        if self._attempt and self._attempt.visits:
            self._attempt.visits.close(linger=False)
        self._attempt = Attempt(self._link, self._command, self._options.timeout)
        if self._command.terminal:
            self._resize()
        self._set('deadline', self._options.timeout)

    def _set(self, event, seconds):
        self._attempt.timers[event] = elapsed() + seconds

    # -- the story

    def run(self, redirect=None):
        """Sign in, or finish a sign-in under way with the Redirect that a person brought; the exit status.

        Raises Problem and KeyboardInterrupt."""
        self._redirect, completed = redirect, False
        if self._options.terminal > 0 and not self._command.terminal:
            self._report.note('There is no terminal here, and so none for the program; -tt gives it one all the same.')
        self._device.hear('lines', self._typed)
        try:
            state = self._find() or self._begin(self._options.again)        # leaves with the first connection
            self._link.connect()
            self._set('deadline', self._options.timeout)        # somebody may have been asked
            self._link.keep()
            self._open_forwards()
            while state != 'over':
                event, value = self._next()
                act = MOVES.get((state, event)) or MOVES.get(('*', event))
                state = act and getattr(self, '_' + act)(value) or state
                self._link.meanwhile = MEANWHILE.get(state, '')
            completed = True
            return self._status
        finally:
            self._device.attempt(self._device.returned)
            with contextlib.suppress(KeyboardInterrupt):
                self._leave('leave')
                if self._attempt.visits:
                    if completed and self._slept and not self._attempt.last_page:       # a browser may stand at the port since then
                        Box().take(1.0, None)
                    self._attempt.visits.close(linger=completed)
            if self._forwards:
                self._forwards.close()
            self._link.close()

    def _next(self):
        """The next event, as (event, value). What is due goes behind what has come; set anew meanwhile, it is not due any more."""
        box, timers = self._attempt.box, self._attempt.timers
        while True:
            due = min(timers, key=timers.get)
            if timers[due] <= elapsed():
                del timers[due]
                box.put((due, None))
            event, value = box.take(min([60, *(moment - elapsed() for moment in timers.values())]), ('', None))
            if event and event not in timers:
                return event, value

    def _open_forwards(self):
        """The forwards of the command line; those of the configuration belong to -N."""
        # `-L 1455:localhost:1455` is the old cure for what is done here.
        specs = [spec for spec in self._options.forwards
                 if not (self._command.codex and spec.mode == 'L' and spec.port == spec.hostport in CODEX_PORTS)]
        if specs:
            self._forwards = open_forwards(self._link, specs, self._settings, self._report)

    def _leave(self, word):
        """Leave nothing behind at the server, as far as it can be reached in a few seconds."""
        attempt, program = self._attempt, self._attempt.program
        if not program.folder or attempt.shared and program.exited is None:
            return
        try:
            self._link.transport(3.0)
        except Problem:
            return                  # the next start finds it again; else the server ends it in time
        program.say(word)
        until, event = elapsed() + (self.LEAVE_LIMIT if program.exited is None else self.GOODBYE), ''
        while event not in ('ended', 'gone', 'late'):
            event, _ = attempt.box.take(max(0, until - elapsed()), ('late', None))
        if event != 'late' or program.exited is not None:
            self._forget()
        program.folder = None

    def _save(self):
        attempt, options = self._attempt, self._options
        found, program = attempt.sign_in, attempt.program
        self._sessions.save(Session(
            self._server, options.connection, options.command, options.device_auth, program.folder, program.mark,
            found.port if found else None, found.path if found else '', hash_of(found.state) if found else '', attempt.started))

    def _forget(self):
        self._sessions.forget(self._server, self._options.command)

    # -- how it begins

    def _find(self):
        """Look for the program of a saved login; None where none is saved."""
        session = self._sessions.find(self._server, self._options.command)
        if not session or session.device_auth != self._options.device_auth:
            if self._redirect:
                raise self._gone()
            return None
        program, saved = self._attempt.program, (session.folder, session.mark)
        self._attempt.started, self._attempt.opened_last = session.started, session.state
        if self._redirect:
            program.find(*saved)
        else:
            program.start(self._options.again, saved)
            self._ask_for_way(session.port or CODEX_PORTS[0])
        return 'finding'

    def _go_on(self, _):
        if self._options.again and not self._redirect:
            self._leave('stop')
            self._forget()
            return self._begin(again=True)
        self._attempt.found = True
        self._report.note(f'Going on with the login that was begun {ago(max(0, time.time() - self._attempt.started))}.')
        return self._read_input()

    def _begin_anyway(self, words):
        self._forget()
        if not self._redirect:
            return self._begin(self._options.again)
        if not words:
            raise self._gone()
        return self._signed_in(words)

    def _begin(self, again):
        """Start the program, in an attempt of its own."""
        self._try_anew()
        self._attempt.program.start(again)
        self._ask_for_way(CODEX_PORTS[0])
        return 'starting'

    def _begin_anew(self, _):
        return self._begin(again=True)

    def _is_present(self, words):
        self._forget()
        self._signed_in(words)
        if self._device.agrees(f'{self._settings.alias} is signed in already. Sign in anew (this ends the present login, and may '
                               'end it on other machines that share it)'):
            return self._begin(again=True)
        self._report.note('Nothing was changed. --again signs in anew.')
        return 'over'

    def _has_started(self, _):
        self._attempt.started, self._attempt.opened_last = time.time(), ''
        self._forget()              # what there was before
        if self._command.codex:
            self._save()
        self._attempt.program.say('go')
        return self._read_input()

    def _read_input(self):
        for _ in range(len(self._ahead)):
            self._attempt.box.put(('typed', None))
        if self._options.no_input:
            self._piped(b'')
        elif self._command.terminal and not self._options.json and self._device.hear('keys', self._keyed, self._resize):
            self._report.raw = True
        elif self._command.talks:
            self._device.hear('bytes', self._piped)
        return 'reading'

    def _not_started(self, _):
        raise Problem('timeout', f'{self._attempt.program.trouble} It was tried again for {self._options.timeout} s.',
                      'Check that this device is online, and start again.', TIMED_OUT)

    # -- what the program says

    def _read_output(self, output):
        stream, data, lines = output
        passed_on, state = self._command.talks and self._report.program(stream, data), None
        for line in lines:
            state = self._read_line(stream, line, passed_on) or state
        return state

    def _show_prompt(self, prompt):
        if not self._command.talks:
            return
        self._attempt.prompt = prompt[1]
        if not self._report.program(prompt[0], b''):
            self._report.prompt(*prompt)
        attempt, box = self._attempt, self._attempt.box
        state, page = self._found(attempt.finder.feed('')), attempt.finder.page        # no line goes on
        if page and page.url.startswith('https:') and asks_for_code(attempt.prompt) and not (
                attempt.sign_in or attempt.code or attempt.asked_about_page or self._command.terminal):
            attempt.asked_about_page = True
            self._device.offer(f'A page of {urlsplit(page.url).netloc[:200]} shows the code. Open it',
                               accept=lambda: box.put(('open', page.url)), decline=self._ask_for_program)
        elif not attempt.away:
            self._ask_for_program()
        return state

    def _open_page_of_code(self, page):
        self._show_page(page)
        if not self._attempt.away:
            self._ask_for_program()

    def _ask_for_program(self):
        """Have the program's prompt answered in a dialog, where this device has no terminal."""
        attempt = self._attempt
        if not attempt.asked and ASKS.search(attempt.prompt) and not self._device.alone:
            attempt.asked = True
            self._device.ask_for_program(attempt.prompt, lambda line: attempt.box.put(('answer', line)))

    def _take_answer(self, line):
        if isinstance(line, BaseException):
            raise line
        self._attempt.asked, self._attempt.prompt = False, ''
        self._attempt.program.write(line.encode() + b'\n')

    def _read_line(self, stream, line, passed_on):
        attempt = self._attempt
        attempt.wants_terminal = attempt.wants_terminal or not self._command.terminal and bool(NO_TERMINAL.search(line))
        attempt.silent = 0
        state = self._found(attempt.finder.feed(line))
        if attempt.sign_in and attempt.sign_in.url in harmless(line):
            return state
        if self._command.codex and not self._options.verbose:
            attempt.held = [*attempt.held, line][-self.SHOWN_ON_FAILURE:]
        if not passed_on if self._command.talks else self._options.verbose or self._options.json:
            self._report.line(stream, line)
        return state

    def _read_address(self, url):
        return self._found(self._attempt.finder.handed(url))

    def _settle(self, _):
        return self._found(self._attempt.finder.settle())

    def _found(self, found):
        """Lead a person to what the finder gave, if anything; the next state, None for no other."""
        attempt = self._attempt
        if attempt.finder.quiet:
            due = elapsed() + attempt.finder.quiet
            attempt.timers['pause'] = min(due, attempt.timers.get('pause', due))
        if attempt.finder.page is not attempt.page and not attempt.sign_in:
            attempt.page = attempt.finder.page
            self._set('ports', self.LOOKS)
        if isinstance(found, DeviceCode):
            self._check_page(found.url)
            attempt.code = found
            copied = self._device.attempt(self._device.copy, found.code)
            self._report.tell('device-code', url=found.url, code=found.code)
            self._show_page(found.url, 'The code is copied.' if copied else '')
        elif found and found.kind == 'cut':
            self._report.warn('The end of the sign-in address is cut off: it was not opened.')
        elif found and found.kind == 'page':
            attempt.pages.append(found)
            self._look()
        elif found and attempt.opened_last in ('', hash_of(found.state)):           # else it is of before the one that waits
            attempt.opened_last = ''
            return self._open(found)
        return None

    def _leads_nowhere(self, url):
        """A page that brings nothing back to this device is shown, and opened if a person wants that; asked for one only."""
        self._report.tell('sign-in', url=url, port=None)
        asked, self._attempt.asked_about_page = self._attempt.asked_about_page, True
        host, secure = urlsplit(url).netloc[:200], url.startswith('https://')
        if not asked and (secure or PRIVATE.fullmatch(urlsplit(url).hostname or '')) and self._agreed(
                f'{self._settings.alias} wants a page of\n{host}\nopened, which leads nowhere on this device'
                + ('. ' if secure else ', and is not https: whoever can read that network sees it. ') + 'Open it'):
            return self._show_page(url)
        self._report.warn('That page leads nowhere on this device, and was not opened.')

    def _agreed(self, question):
        return self._device.can_agree() and self._device.confirm(question)

    def _check_page(self, url):
        check_page(url, self._command.issuer if self._command.codex else '', self._agreed)

    # -- from the address to the browser

    def _open(self, found):
        """Everything between the address and the person's browser: check, listen, copy, open."""
        attempt, codex, before = self._attempt, self._command.codex, self._attempt.sign_in
        if found.kind == 'leaving' or not self._redirect:
            self._check_page(found.url)
        # The page that reads an answer behind the `#` is the program's own.
        served = found.served or not codex and bool(re.search('response_mode=fragment|response_type=(id_)?token', found.url))
        pending = Pending(found.port, found.path, hash_of(found.state), served, codex, tls=found.tls and not codex)
        attempt.sign_in, attempt.looks = found, 0
        if before and before.port == found.port:
            attempt.visits.renew(pending)
        else:
            if before:
                attempt.visits.close(linger=False)
            attempt.visits = Visits(self._link.board, pending, self._settings.alias, attempt.box)
        attempt.courier = Courier(self._link, attempt.program, found.port, attempt.timers.get('deadline', elapsed()))
        if attempt.found and codex:
            if attempt.proof:
                return self._go_to(SUCCESS_PATH)    # all that was lost is the browser's last request
            attempt.looked = Box()
            start(self._look_for_arrival, attempt)
        if self._redirect:
            redirect, self._redirect = self._redirect, None
            attempt.shared = True                   # not to be ended for a wrong redirect
            state = self._bring(redirect)
            attempt.shared = False
            return state or 'waiting'
        if attempt.forbidden and codex:
            raise attempt.forbidden
        self._set('ports', float('inf') if codex else 1)
        if not before or before.port != found.port:
            self._ask_for_way(found.port)
            self._listen()
        self._lead_on(found.url)
        self._save()
        self._report.tell('sign-in', url=found.url, port=found.port)
        copied = self._device.attempt(self._device.copy, found.url)
        self._show_page(found.url, 'The address is copied.' if copied else '')
        return 'waiting'

    def _lead_on(self, url):
        """The target at the redirect's own port that an address leads to, else None; what else it leads to on the server's loopback, the
        page or its redirect, is reached from now on, as by -L."""
        further = {loopback_port(url), getattr(read_sign_in(url), 'port', None)} - {None, self._attempt.sign_in.port}
        further -= {port for mode, _, port in self._forwards.bound if mode == 'L'} if self._forwards else set()
        specs = [ForwardSpec('L', 'localhost', port, 'localhost', port) for port in further]
        if specs:
            self._forwards = open_forwards(self._link, specs, self._settings, self._report, self._forwards)
        return local_target(url, self._attempt.sign_in.port)

    def _has_status(self, proof):
        if proof[0]:
            self._attempt.proof = proof
            return self._go_to(SUCCESS_PATH) if self._attempt.sign_in else None
        return None

    def _look_for_arrival(self, attempt):
        """Its status, that nobody is signed in, says nothing of a redirect that codex is just busy with."""
        proof = False, ''
        with contextlib.suppress(Problem):
            proof = Courier(self._link, attempt.program, attempt.sign_in.port, 0.0).arrived(asked=True)
        attempt.looked.put(proof)
        attempt.box.put(('status', proof))

    def _ask_for_way(self, port):
        """Ask the server whether it lets a redirect through; the answer is not waited for."""
        box, courier, codex = self._attempt.box, self._attempt.courier, self._command.codex
        if codex or courier:        # only codex is known to take more connections than the redirect's own; for others, another port is a hint
            courier = courier if codex and courier else Courier(self._link, self._attempt.program, port if codex else 1, 0.0)
            courier.prepare(lambda problem: box.put((problem.kind, problem)))

    def _is_forbidden(self, problem):
        self._attempt.forbidden = problem
        if not self._command.codex:
            self._report.warn(problem.message)
        elif self._attempt.sign_in:
            raise problem

    def _look(self, _=None):
        self._attempt.timers.pop('ports', None)
        self._attempt.program.look(self._attempt.sign_in.port if self._attempt.sign_in else 0)

    def _see_what_listens(self, sockets):
        """What listens at the server has come, as Program.look() gives it."""
        import logging
        logging.getLogger('codex_login').debug('%s says what listens there: %s', self._settings.alias, sockets)
        attempt, found, finder = self._attempt, self._attempt.sign_in, self._attempt.finder
        own = {port for port, _, is_own in sockets or () if is_own}
        brought, attempt.brought = attempt.brought, None
        if brought:
            return self._find_place(*brought, own)
        attempt.looks = 0 if own else attempt.looks + 1
        page = attempt.pages[-1] if attempt.pages else None if found or finder.quiet else attempt.page
        if page and len(own) == 1:
            attempt.pages = []
            return self._open(page._replace(port=own.pop()))
        if attempt.ended and found and found.port in own:
            return self._serve_what_is_left()
        if attempt.ended and own and finder.quiet:
            return self._settle(None) or self._settle(None) or self._has_ended(self._status)        # its last words
        if not (attempt.ended or own or sockets is None) and attempt.looks < self.LOOKS:
            return self._set('ports', attempt.looks)         # it may be about to listen
        while attempt.pages:
            self._leads_nowhere(attempt.pages.pop(0).url)
        if found and sockets is not None and not attempt.ended:
            self._see_whose_port([family for port, family, is_own in sockets if port == found.port and is_own >= bool(own)], own)
        return self._has_ended(self._status) if attempt.ended else None

    def _see_whose_port(self, families, own):
        where = f'port {self._attempt.sign_in.port} of {self._settings.alias}'
        if families == ['6'] and own:
            self._attempt.courier.hosts = '::1', '127.0.0.1'
        elif not own:
            self._report.warn((f'Another program than the one that was started has {where}: the sign-in would go there. If that one is '
                               'not its container, end it and start again' if families else f'Nothing listens at {where}. Is the '
                               'program in a container, or on another machine? Publish the port there')
                              + (', or use --device-auth.' if self._command.codex else '.'))

    def _serve_what_is_left(self):
        attempt = self._attempt
        attempt.left += 1
        attempt.program.exited = None       # what it left goes on for it
        if attempt.left == 2:               # what ends with it may have taken a moment
            self._report.note(f'The program has ended, and left something that listens at port {attempt.sign_in.port}: '
                              f'that is served as long as it does. {self._device.while_waiting}')
        self._set('ports', self.NEXT_LOOK if attempt.left > 1 else 1)

    def _listen(self):
        attempt = self._attempt
        try:
            named = re.search(rf'(127\.0\.0\.1|\[::1]):{attempt.sign_in.port}\b', unquote(attempt.sign_in.url))
            attempt.visits.listen(named[1].strip('[]') if named else '')
        except Problem as problem:
            # The app that began this login may be asleep, and hold the port. It is not to lose its login for that.
            attempt.shared = attempt.found
            if not attempt.found or self._device.alone:
                raise
            self._report.note(f'{problem.message}. Paste the address of the failed page here instead.')
            return
        self._report.tell('listening', mode='redirect', bind='localhost', port=attempt.sign_in.port)

    def _show_page(self, url, copied=''):
        device, report, options = self._device, self._report, self._options
        if options.qr and self._attempt.sign_in:
            report.note('There is no QR code: this sign-in comes back to this device only. --device-auth --qr shows one.')
        elif options.qr:
            report.show(device.attempt(qr_code, url) or 'The code cannot be drawn here.')
        browser = options.browser or device.preference('browser', ('default', 'in-app')) or 'default'
        if browser == 'in-app' and not device.in_app_browser:
            report.note('There is no in-app browser on this device; the usual one opens.')
        opened = None
        if browser != 'none':
            device.attempt(device.leaving, self._settings.alias, browser, self._stays_awake())
            opened = device.attempt(device.open_page, url, browser)
            self._attempt.away = 5 if device.app and browser != 'in-app' else 0
        if opened:
            report.tell('opened', browser=opened)
            report.note(f'{copied} Your browser opens it. After signing in, {device.back}.'.strip())
        else:
            report.note(f'{copied} Open it in the browser of this device, then {device.back}.'.strip())
        minutes = max(0, self._attempt.timers.get('deadline', 0) - elapsed()) / 60
        how_long = f'{minutes:.0f} min' if minutes >= 1.5 else f'{minutes * 60:.0f} s'
        if device.app:
            self._set('look', 1)
        report.note(f'Waiting for up to {how_long}. {device.while_waiting}')

    def _stays_awake(self):
        """Whether --stay-awake was chosen, now or before; where it means something, the choice is kept."""
        chosen, device = self._options.stay_awake, self._device
        if not device.plays_silence:
            if chosen:
                self._report.note('Only a-Shell can be kept awake by --stay-awake.')
            return False
        if chosen is None:
            return device.preference('stay-awake', ('yes', 'no')) == 'yes'
        device.prefer('stay-awake', 'yes' if chosen else 'no')
        return chosen

    # -- the redirect

    def _carry(self, request):
        attempt, visits = self._attempt, self._attempt.visits
        # Somebody came: there is time for this.
        attempt.courier.until = max(attempt.timers.get('deadline', 0), elapsed() + self.MORE_TIME)
        attempt.timers.update(deadline=attempt.courier.until, late=float('inf'))
        attempt.denied = 'error' in dict(request.parameters())
        self._link.meanwhile = 'The redirect is here, and delivered then.'
        if attempt.looked and (proof := attempt.looked.take(Courier.ANSWER_LIMIT, (False, '')))[0]:
            visits.answer(request, SIGNED_IN_PAGE, keep=True)      # it is an earlier one, or comes too late
            return self._has_status(proof)
        attempt.looked = None
        try:
            answer = attempt.courier.carry(request)
        except Problem as problem:
            self._report.tell('callback', delivered=False)
            if problem.kind == 'forbidden':
                raise
            attempt.problem = problem
            if problem.kind == 'unknown' and attempt.program.exited is None and not self._command.codex:
                text = f'{problem.message} Reload that page to bring it once more.'     # as a person would without this script
                self._report.note(text)
                visits.answer(request, page('Not delivered', text, status=502), keep=True, stage='open')
                return 'waiting'
            self._set('deadline', self.MORE_TIME)
            return self._await_end()    # the end of the program says more, to the browser as well
        target = self._lead_on(answer.location)
        if target and self._command.codex and target.partition('?')[0] == SUCCESS_PATH:
            attempt.proof = True, signed_in_as(target)      # it goes there only once the tokens are saved
        stage = stage_after(answer.status, self._command.codex)
        browser = visits.answer(request, answer.data, keep=True, follow=target, stage=stage)
        self._report.tell('callback', delivered=True)
        if target:
            return self._go_to(target, self.FOLLOW_AFTER if browser else 0)
        return 'waiting' if stage == 'open' else self._await_end()

    def _carry_unread(self, visit):
        """Let a visit pass to the program, both ways and unread, until either ends."""
        channel = None
        try:
            channel = self._attempt.courier.open()
        except Problem as problem:
            self._report.note(f'{problem.message} {problem.hint}')
        self._link.board.call(lambda: visit.lead(channel) if channel else visit.end())

    def _go_to(self, target, after=0):
        """The last page is to be asked for, by a browser or, if none comes, by this script."""
        self._attempt.last_page = target
        self._set('follow', after)
        return 'following'

    def _follow(self, _):
        return self._get(self._attempt.courier.request(self._attempt.last_page))

    def _fetch(self, request):
        return self._get(request) if self._attempt.visits.wanted(request) else None     # else it was got meanwhile

    def _get(self, request):
        """Get a page for whoever waits for it; the last one ends the program."""
        attempt, visits = self._attempt, self._attempt.visits
        last, target = request.target == attempt.last_page, None
        try:
            answer = attempt.courier.fetch(request)
        except Problem as problem:
            answer = None
            if last and problem.kind == 'refused':      # the program ends with its last answer: this one is as true
                with contextlib.suppress(Problem):
                    answer = attempt.courier.SIGNED_IN if attempt.proof and attempt.proof[0] else attempt.courier.last_words(5.0)
            data = answer.data if answer else page('Not delivered', f'{problem.message} {problem.hint}', status=502)
        else:
            data, target = answer.data, self._lead_on(answer.location)
        visits.answer(request, data, keep=last, follow=target)
        if last:
            attempt.timers.pop('follow', None)
            return self._await_end()
        return None

    def _await_end(self):
        self._set('quiet', self.QUIET)
        if self._attempt.left:
            self._set('ports', 1)
        return 'settling'

    def _look_again(self, _):
        """Its end may be told through a follower that is no longer there: another one reads it from the beginning."""
        self._attempt.program.follow_anew()
        self._attempt.silent += 1
        if self._attempt.silent == self.SILENCE:
            self._report.note(f'The program at {self._settings.alias} has the redirect, and goes on without a word. '
                              + self._device.while_waiting)
        return self._await_end()

    def _take_typed(self, _):
        """What a person typed goes to the program, but for the address of this login's failed page.

        That of another sign-in goes to nobody, unless the program asks for something: there may be a code in it."""
        if not self._ahead:
            return None
        typed = self._ahead.popleft()
        attempt, line, redirect = self._attempt, line_of(typed).strip(), None
        with contextlib.suppress(Problem):
            redirect = not attempt.prompt and parse_redirect(line)
        if self._is_ours(typed) or redirect and attempt.visits or line and not self._command.talks:
            return self._deliver(line)
        if redirect and redirect.port:
            attempt.brought = redirect, typed
            attempt.program.look(redirect.port)
        elif self._command.talks:
            attempt.program.write(typed) if typed else attempt.program.finish_input()
        return None

    def _find_place(self, redirect, typed, own):
        """Deliver what was typed where the program listens for it, though no address of its said so; else it is for the program."""
        if redirect.port not in own:
            return self._attempt.program.write(typed)
        self._redirect = redirect
        state = dict(parameters_of(redirect.target)).get('state')
        return self._open(SignIn(f'http://localhost:{redirect.port}{redirect.path}', redirect.port, redirect.path, state, 'redirect'))

    def _deliver(self, line):
        try:
            return self._bring(parse_redirect(line))
        except Problem as problem:
            self._report.note(f'{problem.message} {problem.hint}')
            return None

    def _bring(self, redirect):
        """Have a redirect delivered that a person brought; the next state, None for no other. Raises Problem('redirect')."""
        visits = self._attempt.visits
        request = redirect.request(visits.pending) if visits else None
        if visits and visits.pending.tls:
            raise Problem('redirect', 'That redirect goes by https, which only the browser can bring.', 'Reload the page there.')
        verdict = visits.respond(request, None) if visits else None
        if verdict and verdict.act != HERE:
            return None
        if not verdict or redirect.path != SUCCESS_PATH or not verdict.again:
            raise Problem('redirect', 'That redirect does not belong to the login that waits.',
                          'Copy the address of the page that was opened last.')
        signed_in, words = self._attempt.program.signed_in()
        if not signed_in:
            raise Problem('redirect', 'That is the last page of a sign-in whose redirect never arrived.',
                          'Go back one page in the browser and copy its address, or start again.')
        self._attempt.proof = True, words
        return self._go_to(request.target)

    def _typed(self, typed):
        attempt, word = self._attempt, line_of(typed).strip().lower()
        waits = self._command.codex or attempt.sign_in or attempt.code or not attempt.program.folder
        if word in QUIT and (waits and not attempt.prompt or word == QUIT[-1] and self._device.app):
            _thread.interrupt_main()        # wherever it is; the line below wakes it up where it waits
        self._put_typed(typed)

    def _put_typed(self, typed):
        self._ahead.append(typed)
        self._attempt.box.put(('typed', None))

    def _keyed(self, data):
        """Keys for the program's terminal, Ctrl-C as well. As with ssh, ~. where a line begins ends this, and ~~ is one ~."""
        before, keys = self._keys, self._keys + data
        begins = re.search(rb'[\r\n]~?\Z', keys)
        self._keys = begins[0] if begins else b''
        if re.search(rb'[\r\n]~\.', keys):
            _thread.interrupt_main()
            self._attempt.box.put(('typed', None))
        elif self._is_ours(data):
            self._put_typed(data)
        else:
            keys = keys[:-1] if self._keys.endswith(b'~') else keys
            self._attempt.program.write(re.sub(rb'(?<=[\r\n])~~', b'~', keys)[bool(before):])

    def _resize(self):
        self._attempt.program.resize(*screen_size())

    def _piped(self, data):
        attempt = self._attempt
        if not data:
            attempt.program.finish_input()
        elif self._is_ours(data):
            self._put_typed(data)
        else:
            attempt.program.write(data)
            attempt.program.await_room()

    def _is_ours(self, data):
        """Whether what was typed, piped or copied is the address of this login's failed page."""
        visits = self._attempt.visits
        with contextlib.suppress(Problem):
            return visits and len(data) < 20000 and judge(
                parse_redirect(line_of(data)).request(visits.pending), visits.pending).act != HERE

    # -- what happens here

    def _wake_up(self, _):
        self._slept = True
        timers = self._attempt.timers
        if 'follow' in timers:              # the browser, too, has its time only from now on
            self._set('follow', self.FOLLOW_AFTER)
        self._attempt.away = 0
        if self._command.terminal:
            self._resize()
        if self._device.app and (self._attempt.visits or self._attempt.prompt):
            self._set('peek', self.LOOK_AFTER)
        for ports in filter(None, (self._attempt.visits, self._forwards)):
            ports.revive()

    def _look_around(self, _):
        attempt, left = self._attempt, self._device.left_for_login()
        front = attempt.away and self._device.in_front()
        self._set('look', 1)
        if attempt.away and front is not None:
            attempt.away = attempt.away - 1 if front else 1
            if attempt.prompt and not attempt.away:
                self._set('peek', self.LOOK_AFTER)
        return self._deliver(left) if left else None

    def _peek(self, _):
        """Look at the clipboard, once after each wake-up. iOS may ask the person first, who may take a minute: so not here."""
        box, device = self._attempt.box, self._device
        start(lambda: box.put(('clipboard', device.attempt(device.paste) or '')))

    def _offer_what_is_copied(self, text):
        attempt, box, offer = self._attempt, self._attempt.box, self._device.offer
        code = code_in(text, attempt.prompt, attempt.finder.states)
        if text in attempt.offered or not code and not self._is_ours(text.encode()):
            return self._ask_for_program()
        attempt.offered.append(text)
        if not code:
            return offer('The address of the failed page is on the clipboard. Deliver it',
                         accept=lambda: self._put_typed(text.encode()), decline=self._ask_for_program)
        return offer(f'{attempt.prompt.strip()}\nPaste {code[:min(4, len(code) // 2)]}…', accept=lambda: box.put(('answer', code)),
                     decline=self._ask_for_program)

    def _say(self, text):
        self._report.note(text)

    def _fail(self, problem):
        raise problem

    # -- how it ends

    def _has_ended(self, status):
        attempt = self._attempt
        waits = attempt.visits.pending.stage == 'open' if attempt.visits else attempt.pages or attempt.page or attempt.finder.quiet
        if waits and not (self._command.codex or attempt.ended):
            self._status, attempt.ended = status, True
            return self._look()
        if status and attempt.wants_terminal:
            self._report.warn(self._device.no_terminal)
        if not self._command.ask or status and not self._command.codex:
            self._status = status
            return 'over'
        if status == TIMED_OUT:             # the server's own end, which is later than ours
            return self._nobody_came(None)
        if status:
            text = '\n'.join(line for line in attempt.words()
                             if not re.match('(?i)Starting local login|If your browser|On a remote or|WARNING', line))
            hint = next((hint for pattern, hint in CODEX_HINTS if re.search(pattern, text)),
                        'What it needs is not on the PATH of the account: install it, or set PATH in its ~/.profile.' if status == 127 else
                        'Correct that at the server, then start again.')
            attempt.failure = Problem('remote', f'codex login at {self._settings.alias} failed: {text[-1000:] or f"status {status}"}',
                                      hint, status)
        self._set('deadline', self.PROOF_LIMIT)
        return self._is_proved(attempt.proof) if attempt.proof and not status else 'proving'

    def _prove(self, _):
        return self._is_proved(self._attempt.program.signed_in() if self._command.codex and not self._attempt.failure else (None, ''))

    def _is_proved(self, proof):
        signed_in, said = proof
        if failure := self._attempt.failure:
            failure.message += '' if signed_in is None else f'\nIts status says: {said}' if signed_in else '\nNobody is signed in there now.'
            if self._attempt.denied:
                return self._offer_anew(failure)        # somebody said no on the page, and may do otherwise
            raise failure
        if signed_in is None and not self._command.codex:
            return 'over'
        if not signed_in:
            raise Problem('not-signed-in', f'{self._command.name} at {self._settings.alias} ended, but its status says: {said}', 'Start again.')
        for line in self._attempt.words()[-1:]:
            self._report.show(line)
        self._signed_in(said)
        self._leave('leave')
        self._offer_in_app_browser()
        return 'over'

    def _signed_in(self, words):
        if self._attempt.visits:
            self._attempt.visits.end(signed_in=True)
        self._report.tell('signed-in', text=words)
        return 'over'

    def _offer_in_app_browser(self):
        """Once, after a login during which the system put this app to sleep."""
        device = self._device
        if self._slept and device.in_app_browser and not device.preference('browser', ('default', 'in-app')):
            device.returned()
            answer = device.agrees(
                'This app was asleep while you signed in. Next time, open the page inside the app, which stays awake')
            if answer is not None:
                device.prefer('browser', 'in-app' if answer else 'default')

    def _is_gone(self, words):
        attempt = self._attempt
        self._forget()
        attempt.program.folder = None
        words = words or attempt.proof and attempt.proof[1]
        if words and self._command.codex:                   # finished by another process: codex signs everybody out when it begins
            return self._signed_in(words)
        if attempt.sign_in is None and not attempt.code and not self._begun_again:      # nobody has begun to sign in
            self._begun_again = True
            return self._begin(again=True)
        return self._offer_anew(self._gone())

    def _gone(self):
        message, hint = GONE.get(self._attempt.program.lost, GONE[''])
        return Problem('gone', message.format(self._settings.alias), hint)

    def _offer_anew(self, problem):
        """Say what went wrong, and ask whether to begin a new login. Raises the Problem where nobody can be asked."""
        box = self._attempt.box
        if self._attempt.visits:
            self._attempt.visits.end()
        if self._options.json:
            raise problem
        self._report.note(problem.message)
        self._leave('leave')
        self._device.offer('Start a new one', accept=lambda: box.put(('anew', None)),
                           decline=lambda: box.put(('problem', problem)))
        return 'asking'

    def _look_once_more(self, _):
        self._set('late', self.LAST_LOOK)

    def _nobody_came(self, _):
        said = ''
        with contextlib.suppress(Problem):
            if self._command.ask and (self._attempt.sign_in or self._attempt.code):
                self._link.transport(3.0)
                signed_in, said = self._attempt.program.signed_in()
                if signed_in and self._command.codex:       # by another way: codex has ended the login of before
                    return self._signed_in(said)
        raise Problem('timeout', f'Nobody signed in within {self._options.timeout} s.' + (f' {self._command.name} says: {said}' if said else ''),
                      'Start again; --timeout SECONDS waits longer.', TIMED_OUT)

    def _never_ended(self, _):
        if self._attempt.left:
            return 'over'
        raise self._attempt.problem or Problem(
            'remote', f'The redirect was delivered, but the program at {self._settings.alias} did not end.',
            'Look there: codex login status' if self._command.codex else 'Look there, and start again.')


# Programs that do nothing without a terminal, and what such say where there is none.
NEEDS_TERMINAL = re.compile(r'(?:^|[\s/;&|(])(?:claude\s+setup-token|(?:opencode|gh)\s+auth\s+login|(?:heroku|supabase|firebase)\s+login)\b'
                            '(?!.*--(with-token|token|ci))')
NO_TERMINAL = re.compile(r'setRawMode|raw mode is not supported|\b(?:not|requires?|needs?|without|no|open) (?:an? )?(?:interactive )?(?:tty|terminal)\b'
                         r'|non-(?:interactive|tty)|not running interactively|/dev/tty', re.I)


def wanted_terminal(options):
    """The kind of terminal that a program has at the server, as TERM; '' for none. As ssh: -t where there is one, -tt always, -T never;
    a program that is known to need one has it as with -t."""
    wanted = options.terminal or not options.json and NEEDS_TERMINAL.search(' '.join(options.command)) and 1
    name = os.environ.get('TERM', '') if wanted and (wanted > 1 or wanted > 0 and is_terminal(sys.stdin)) else None
    return '' if name is None else name if re.fullmatch('[A-Za-z0-9][A-Za-z0-9._+-]{0,50}', name) else 'xterm'


def screen_size():
    """(columns, rows) of this terminal."""
    for stream in filter(is_terminal, (sys.stdin, sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, AttributeError):
            if all(size := os.get_terminal_size(stream.fileno())):
                return size
    import shutil
    return shutil.get_terminal_size()


def signed_in_as(target):
    """What codex's status says after it has sent a browser to `target`, and whose account that is, if the token in it says so."""
    import json
    who = ''
    with contextlib.suppress(ValueError, IndexError, AttributeError):
        payload = dict(parameters_of(target)).get('id_token', '').split('.')[1]
        who = json.loads(base64.urlsafe_b64decode(payload + '=' * (-len(payload) % 4))).get('email')
    return 'Logged in using ChatGPT' + (f', {who}' if isinstance(who, str) and who else '')


def hand_over(redirect, options, settings, device, report):
    """Bring the redirect of a login that was begun by hand to whatever waits for it at the server; the exit status. Raises Problem."""
    if not redirect.port:
        raise Problem('redirect', 'That address does not say which port it is for.', 'Copy it whole: http://localhost: and a port.')
    command = make_command(options.command)
    command = command._replace(codex=command.codex and redirect.port in CODEX_PORTS)
    link = Link(settings, device, teller(report, lambda *_: None), options.jumps)       # whoever waits for it raises its Problem
    program = Program(link, command, Box(), 0)
    courier = Courier(link, program, redirect.port, elapsed() + Login.MORE_TIME)
    try:
        link.connect()
        link.keep()
        answer = courier.carry(courier.request(redirect.target))
        report.tell('callback', delivered=True)
        target = local_target(answer.location, redirect.port)
        if target:
            answer = courier.fetch(courier.request(target))
        if answer.status >= 400:
            raise Problem('redirect', f'What waits at port {redirect.port} of {settings.alias} would not have it ({answer.status}): it '
                          'belongs to another sign-in.', 'Sign in on the page that was opened last, or start the login again.')
        if not command.codex:
            report.note('What waits there has answered.')
            return 0
        signed_in, said = program.signed_in()
        if not signed_in:
            raise Problem('not-signed-in', f'codex at {settings.alias} has the redirect, but its status says: {said}', 'Start again.')
        report.tell('signed-in', text=said)
        return 0
    finally:
        link.close()


def open_forwards(link, specs, settings, report, forwards=None):
    """The Forwards for `specs`, each reported, with what there was before. Raises Problem('listen') where ExitOnForwardFailure says so."""
    def tell(event, message='', **fields):
        if event == 'listening':
            report.tell('listening', **fields)
        elif message:
            report.warn(message)

    forwards = forwards or Forwards(link, tell, settings.gateway_ports, settings.permit_remote_open)
    for spec in specs:
        known = len(forwards.bound)
        try:
            forwards.add(spec)
        except Problem as problem:
            if settings.exit_on_forward_failure:
                forwards.close()
                raise
            report.warn(f'{problem.message}. {problem.hint}')
        for mode, bind, port in forwards.bound[known:]:
            report.tell('listening', mode=mode, bind=bind, port=port)
            if mode == 'R' and not spec.port:
                report.note(f'Allocated port {port} for remote forward to {spec.host or "SOCKS"}'
                                + (f':{spec.hostport}' if spec.host else ''))
    return forwards


class Tunnels:
    """Forwards only (-N), until a person interrupts them."""
    TICK = 15.0             # seconds between looks at an idle connection

    def __init__(self, options, settings, device, report):
        self._options, self._settings, self._device, self._report = options, settings, device, report
        self._box = Box(IDLE_POLL)
        self._link = Link(settings, device, teller(report, lambda _, problem: (
            self._box.put(problem) if problem else self._forwards and self._forwards.revive())), options.jumps)
        self._forwards = None

    def run(self):
        """0 once a person types q. Raises KeyboardInterrupt, and Problem where the connection cannot be made again."""
        try:
            self._link.connect()
            for text in self._settings.unmade:
                if self._settings.exit_on_forward_failure:
                    raise Problem('listen', text, 'Take it out of the configuration, or use another with -F.')
                self._report.warn(f'Passed over: {text}')
            specs = (*self._options.forwards, *self._settings.forwards)
            self._forwards = open_forwards(self._link, specs, self._settings, self._report)
            self._link.keep(min(self.TICK, self._settings.alive_interval or self.TICK))
            self._report.note('Tunnels are open. Ctrl-C, or q and return, ends them.' if self._forwards.bound
                              else 'No tunnel is open. Ctrl-C, or q and return, ends this.')
            if not self._options.json:
                self._device.hear('lines', self._typed)
            ended = None
            while ended is None:
                ended = self._box.take(3600, None)
            if ended:
                raise ended
            return 0
        finally:
            if self._forwards:
                self._forwards.close()
            self._link.close()

    def _typed(self, line):
        if line_of(line).strip().lower() in QUIT:
            self._box.put(False)


def ago(seconds):
    """How long ago that is, in words."""
    return f'{seconds / 60:.0f} min ago' if seconds >= 90 else f'{seconds:.0f} s ago'


def qr_code(text):
    """`text` as a QR code of half blocks, for a terminal; a line where this device cannot draw one."""
    try:
        import qrcode
    except ImportError:
        return 'There is no QR code: the package qrcode is missing here.'
    code = qrcode.QRCode(border=2, error_correction=qrcode.constants.ERROR_CORRECT_L)
    code.add_data(text)
    width = len(code.get_matrix())
    if 0 < columns_of(sys.stdout) < width:
        return f'There is no QR code: it is {width} columns wide, and this window has {columns_of(sys.stdout)}.'
    drawn = io.StringIO()
    code.print_ascii(out=drawn, invert=True)
    return drawn.getvalue().rstrip('\n')


# == 13. Setting up ====================================================================================================
# Servers and keys of this device: what is written into its ssh folder, and only after a person said yes.

def known_servers(device):
    """The names that the ssh configuration of this device has."""
    return host_entries(config_lines(device))


def add_server(pairing, device):
    """Write a server into the ssh configuration, in place of an entry of that name only."""
    path = config_path(device)
    try:
        text = ''
        with contextlib.suppress(FileNotFoundError), open(path, encoding='utf-8', newline='') as file:
            text = file.read()
        pins = Pins(device)
        if pairing.fingerprints:
            pins.set(pairing.host, pairing.port, pairing.fingerprints)
        else:
            pins.of(pairing.host, pairing.port)         # those of an entry that is gone do not come back with a new one
        write_private(path, config_with_host(text, pairing))
    except (OSError, UnicodeDecodeError) as error:
        raise Problem('config', f'{path} cannot be changed: {getattr(error, "strerror", error)}.',
                      'Check the file and its permissions.') from None


def add_by_link(link, device, report):
    """Add the server of a pairing link after a person's yes; its name. Raises Problem."""
    pairing = parse_pairing_link(link)
    known = pairing.name in known_servers(device)
    report.show('This link adds a server:\n' + pairing_summary(pairing))
    if not device.can_agree():
        raise Problem('pairing', 'A pairing link needs a person to say yes.', 'Run it at a terminal, or in the app.')
    question = f'Replace the server {pairing.name} that is there already' if known else 'Add it'
    settings = find_settings(Destination(pairing.user, pairing.host, pairing.port), device)
    if HostKeys(settings, device).has_others(pairing.fingerprints):
        question = f'ANOTHER KEY is known for {pairing.host}; these would take its place. {question}'
    if not device.confirm(question if device.shows_output else f'{pairing_summary(pairing)}\n\n{question}'):
        raise Problem('cancelled', 'Nothing was added.', status=CANCELLED)
    add_server(pairing, device)
    return pairing.name


# Appends the public key $K to authorized_keys, as ssh-copy-id does.
AUTHORIZE = r'''
f=$HOME/.ssh/authorized_keys
mkdir -p "$HOME/.ssh" && touch "$f" && {
  grep -qF "$BLOB" "$f" || {
    if [ -s "$f" ] && [ -n "$(tail -c 1 "$f")" ]; then echo >>"$f"; fi
    printf '%s\n' "$K" >>"$f"
  }
} && chmod go-w "$HOME" "$HOME/.ssh" && chmod 600 "$f" && grep -qF "$BLOB" "$f" || { say failed; exit 1; }
command -v restorecon >/dev/null 2>&1 && restorecon -R "$HOME/.ssh" >/dev/null 2>&1
say authorized
'''


def make_key(path):
    """The public line of the key in the file `path`, which is made where there is none. Raises Problem('key')."""
    try:
        if not os.path.exists(path):
            private, public = new_private_key(f'codex_login@{socket.gethostname().split(".")[0] or "phone"}')
            write_private(path + '.pub', public + '\n')
            write_private(path, private)
        with open(path + '.pub', encoding='ascii') as file:
            return file.read().strip()
    except OSError as error:
        raise Problem('key', f'The key {path} cannot be written or read: {error.strerror}.',
                      'Check the folder, or name another file with -i.') from None


def install_key(settings, jumps, path, device, report):
    """Make a key for this device and have the server accept it, which is said after a login by it. Raises Problem."""
    public = make_key(path)
    mark = hash_of(public)[:16]
    transcript, authorized, end = Transcript(mark), False, elapsed() + 30
    with contextlib.closing(Link(settings, device, report.tell, jumps)) as link:
        link.connect()
        channel = link.run('sh', launcher({'N': mark, 'K': public, 'BLOB': public.split()[1]}, AUTHORIZE))
        with contextlib.suppress(*LOST):
            while not authorized and elapsed() < end and (data := channel.recv(65536)):
                authorized = any(item == ('authorized', '') for item in transcript.feed(data))
    if not authorized:
        raise Problem('key', f'The key could not be added to ~/.ssh/authorized_keys at {settings.alias}.',
                      'Look at the space and permissions there.')
    by_key = settings._replace(identity_files=(path,), identities_named=True, identities_only=True, batch=True)
    with contextlib.closing(Link(by_key, device, lambda event, **fields: None, jumps)) as proof:
        try:
            proof.connect()
        except Problem as problem:
            raise Problem('key', f'The key was added at {settings.alias}, but it does not open the door: {problem.message}',
                          "The server's sshd may look for keys elsewhere (AuthorizedKeysFile).") from None
    report.show(f'{settings.alias} accepts the key {path}.')


# --check: what this device can do, in a table for a phone's screen that can be posted. No line of it names a host or a
# file's owner, and none is a traceback.

CHECK_WIDTH, CHECK_LIMIT, ASLEEP = 40, 120.0, 3.0       # columns; seconds away at most; a tick that is late is a sleep


def check(device, report):
    """Try this device out, and show a table of what works; the exit status. What fails is said in its row."""
    import textwrap
    trials = [
        ('codex_login', lambda: __version__), ('app', device.about),
        ('system', lambda: f'{os.uname().sysname} {os.uname().machine} ' + re.match('[0-9.]*', os.uname().release)[0]),
        ('Python', lambda: f'{sys.version.split()[0]} {sys.platform}'), ('paramiko', lambda: load_paramiko().__version__),
        ('kex', _offered), ('clipboard', lambda: _try_clipboard(device)),
        ('127.0.0.1', lambda: _try_loopback('127.0.0.1')), ('::1', lambda: _try_loopback('::1')),
        ('.ssh', lambda: _try_folder(device.ssh_folder)), ('state', lambda: _try_folder(device.state_folder)),
        *device.trials(), ('dialogs', lambda: _leave_if_asked(device, trials))]
    lines = []
    for name, trial in trials:          # the last one adds rows
        try:
            said = trial()
        except KeyboardInterrupt:
            said = 'cancelled'
        except Exception as error:      # whatever it is: it is what the table is for
            said = f'fails: {type(error).__name__}: {error}'
        said = {True: 'yes', False: 'no', None: 'no'}.get(said, said)
        for private, shown in ((device.home, '~'), (socket.gethostname(), 'HOST')):
            said = said.replace(private, shown) if len(private) > 3 else said
        lines += textwrap.wrap(harmless(said), CHECK_WIDTH, initial_indent=f'{name:11} ', subsequent_indent=12 * ' ',
                               break_on_hyphens=False)
    for line in lines:
        report.tell('output', text=line)
    if device.attempt(device.copy, '\n'.join(lines)):
        report.note('The table is copied. Please post it where you got this script.')
    return 0


def _offered():
    door, = listen('127.0.0.1', 0)
    with door, socket.create_connection(door.getsockname(), 5) as sock:
        names = new_transport(sock).get_security_options().kex
    return ', '.join(dict.fromkeys(name.partition('@')[0].replace('diffie-hellman', 'dh') for name in names))


def _try_loopback(address):
    door, = listen(address, 0)
    with door:
        return answers(door)


def _try_clipboard(device):
    text = f'codex_login {os.urandom(4).hex()}'
    return device.copy(text) and ('there and back' if device.paste() == text else 'there, but not back')


def _try_folder(folder):
    path = os.path.join(folder, 'check')
    try:
        write_private(path, new_private_key('check')[0])
        return f'{load_private_key(path).get_name()} written and read'
    finally:
        remove_file(path)
        with contextlib.suppress(OSError):
            os.rmdir(folder)            # where it was not there before


def _leave_if_asked(device, trials):
    if not device.can_agree():
        return 'nobody to ask'
    if device.confirm('Open a page in your browser, and see what becomes of this app meanwhile'):
        trials += [(name, lambda said=said: said) for name, said in _go_away(device)]
    return 'yes'


def _clocks():
    clocks = {name[6:].lower(): getattr(time, name) for name in dir(time) if name.startswith('CLOCK_')}
    return {name: time.clock_gettime(clock) for name, clock in clocks.items() if 'cputime' not in name} | {'elapsed': elapsed()}


def _go_away(device):
    """What becomes of this app while its person is in a browser: pairs of a row's name and text."""
    import select
    with contextlib.ExitStack() as stack:
        doors = [stack.enter_context(door) for door in listen('localhost', 0)]
        port = doors[0].getsockname()[1]
        here = stack.enter_context(socket.create_connection(('127.0.0.1', port), 5))
        there = stack.enter_context(doors[0].accept()[0])
        stack.callback(device.returned)
        came, watched, begin = False, list(doors), _clocks()
        device.leaving('this check', 'default')
        opened, last, now = device.open_page(f'http://localhost:{port}/'), begin, _clocks()
        while now['elapsed'] - last['elapsed'] < ASLEEP and now['elapsed'] - begin['elapsed'] < CHECK_LIMIT:
            for door in select.select(watched, [], [], 1.0)[0]:
                try:
                    with door.accept()[0] as browser:
                        came = True
                        browser.settimeout(2)
                        browser.recv(65536)
                        browser.sendall(page('codex_login', 'Stay here for a minute, then go back to the app.'))
                except OSError:
                    watched.remove(door)        # iOS took it away
            last, now = now, _clocks()
        slept = now['elapsed'] - last['elapsed']
        yield 'page', f'{opened or "not opened"}; the browser {"came" if came else "did not come"}'
        yield 'ran on', f'{last["elapsed"] - begin["elapsed"]:.0f} s' + (f', then slept {slept:.0f} s' if slept > ASLEEP else '')
        if slept > ASLEEP:
            yield 'clocks', ', '.join(f'{name} {now[name] - last[name]:+.0f}' for name in now)
        yield 'listener', ', '.join('alive' if answers(door) else 'dead' for door in doors)
        there.settimeout(5)
        try:
            here.sendall(b'?')
            yield 'connection', 'alive' if there.recv(1) else 'dead'
        except OSError as error:
            yield 'connection', f'dead ({error})'


NEW_SERVER, FINISH, OTHER_PROGRAM = 'New server…', 'Finish a login…', 'Another program…'


def choose_from_menu(device, sessions):
    """The words of a command line, as a person picks them: a server of the configuration, or something else."""
    last = device.preference('last')
    names = [*filter(None, [last]), *(name for name in known_servers(device) if name != last)]
    words = {name: [name] for name in names}
    words |= {FINISH: ['--finish']} if sessions.all() else {}
    words |= {f'Tunnels of {name}': ['-N', name] for name in names if has_forwards(name, device)}
    choice = device.choose('Sign in at', [*words, NEW_SERVER, *([OTHER_PROGRAM] if names else [])])
    if choice == NEW_SERVER:
        return [ask_for_server(device)]
    if choice == OTHER_PROGRAM:
        server = device.choose('Run it at', names)
        return [server, *device.ask('What to run, for example: wrangler login').split()]
    return words[choice]


def has_forwards(name, device):
    """Whether the configuration has tunnels for a server; False where it cannot be read, which is said when it is used."""
    with contextlib.suppress(Problem):
        return bool(find_settings(parse_destination(name), device, runs=False).forwards)
    return False


def ask_for_server(device):
    """The name of a server that a person describes, written into the configuration."""
    fields, given, wrong = {'host': 'Address', 'user': 'User', 'port': 'Port (22)', 'name': 'Name'}, {}, ''
    while True:
        before, given = given, device.fill_in('New server', fields, given, wrong)
        try:
            pairing = typed_server(given, device.user())
            add_server(pairing, device)
            return pairing.name
        except Problem as problem:
            if problem.kind != 'usage' or given == before:
                raise
            wrong = f'{problem.message}\n{problem.hint}'


def typed_server(given, local_user):
    """The Pairing for the fields that a person filled in: whatever ssh takes. Raises Problem('usage')."""
    given = {key: plain_word(text) for key, text in given.items()}
    user, host, port = parse_destination(given['host'])
    user = given['user'] or user or local_user
    if not user:
        raise usage_problem(f'As whom at {host}?', 'Fill in the user.')
    return Pairing(given['name'] or re.sub('[^A-Za-z0-9_-]', '-', host).strip('-'), host,
                   parse_port(given['port'], 'Port') if given['port'] else port or 22, user, ())


# == 14. Command line ==================================================================================================
# Arguments, events, exit status.

def make_parser():
    """The options of a command line; `words` is what follows them. A wrong one is a Problem('usage')."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise usage_problem(message[:1].upper() + message[1:] + '.', f'{self.prog} --help shows how.')

    parser = Parser(prog='codex_login.py', usage='%(prog)s [options]\n       [[user@]host[:port]] [command …]', allow_abbrev=False,
                    description="Sign codex (or another program) in at a server, with this device's browser.", add_help=False,
                    formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=12),
                    epilog="Exit status: the remote command's; 255 for an SSH or own error; 2 usage; 124 timed out; "
                    '130 cancelled.')

    add = parser.add_argument_group('every day').add_argument
    add('words', nargs=argparse.REMAINDER, metavar='[user@]host[:port] [command …]',
        help='the server, and what to run there (default: codex login)')
    add('--again', action='store_true', help='sign in anew where codex is signed in already, or a login is under way')
    add('--finish', nargs='?', const='', metavar='ADDRESS',
        help='deliver a redirect that the browser could not, from the clipboard where none is given')
    add('--device-auth', action='store_true', help='sign in with a one-time code instead of a redirect')
    add('--qr', action='store_true', help="show a one-time code's page as a QR code, for another device")
    add('--browser', choices=('default', 'in-app', 'none'), help='where the sign-in page is opened')
    add('--stay-awake', action=argparse.BooleanOptionalAction, help='play silence while you sign in, so that a-Shell is not '
        'put to sleep; remembered')
    add('--timeout', metavar='SECONDS', default='900', help='give up after so long (default %(default)s)')
    add = parser.add_argument_group('a new server or device').add_argument
    add('--new-key', action='store_true', help='make a key for this device and have the server accept it')
    add('--add', metavar='LINK', help='add the server of a pairing link (pair_phone.py makes one)')
    add('--yes', action='store_true', help='install what is missing without asking (a-Shell)')
    add('--check', action='store_true', help='try out this device: a table to be copied into a report')
    add = parser.add_argument_group('tunnels').add_argument
    for mode, metavar, what in (
            ('L', '[BIND:]PORT:HOST:HOSTPORT', 'forward a port of this device to what the server reaches'),
            ('R', '[BIND:]PORT[:HOST:HOSTPORT]', 'forward a port of the server to what this device reaches (or SOCKS)'),
            ('D', '[BIND:]PORT', 'a SOCKS proxy on this device, going out at the server')):
        add(f'-{mode}', metavar=metavar, dest='forwards', action='append', default=[], help=what,
            type=lambda text, mode=mode: (mode, text))
    add('-N', dest='only_forwards', action='store_true', help='no command: forwards only, until interrupted')
    add('-g', dest='gateway_ports', action='store_true', help='other devices may use the ports of -L and -D as well')
    add = parser.add_argument_group('as with ssh').add_argument
    add('-p', metavar='PORT', dest='port', help='port of the SSH server')
    add('-l', metavar='USER', dest='user', help='account at the server')
    add('-i', metavar='FILE', dest='identities', action='append', default=[], help='private key; may be repeated')
    add('-F', metavar='FILE', dest='config', help="ssh configuration; 'none' for none")
    add('-o', metavar='KEY=VALUE', dest='settings', action='append', default=[], help='an option as in ssh_config(5)')
    add('-J', metavar='HOST[,HOST]', dest='jump', help='connect through these servers')
    add('-4', dest='family', action='store_const', const='inet', help='IPv4 only')
    add('-6', dest='family', action='store_const', const='inet6', help='IPv6 only')
    add('-W', dest='stdio', help=argparse.SUPPRESS)
    add('-f', dest='background', action='store_true', help=argparse.SUPPRESS)
    add('-t', dest='terminal', action='count', default=0, help='a terminal for the program, where this is one; -tt: always')
    add('-T', dest='terminal', action='store_const', const=-1, help='no terminal for the program, also where it is known to need one')
    add('-n', dest='no_input', action='store_true', help='an empty standard input for the program')
    add(*(f'-{letter}' for letter in 'CaAxk'), dest='as_usual', action='store_true', help='taken, and no matter')
    add = parser.add_argument_group('what is said').add_argument
    add('-v', dest='verbose', action='store_true', help="show the program's lines and the log of the connection")
    add('-q', dest='quiet', action='store_true', help='no lines about progress')
    add('--json', action='store_true', help='events as JSON lines on standard output')
    add('--version', action='version', version=f'codex_login {__version__}', help='the version of this script')
    add('-h', '--help', action='help', help='these lines')
    return parser


def split_words(words):
    """What stands on a command line, as argparse's namespace; options may follow the destination, as with ssh.

    Raises Problem('usage'), and SystemExit after --help and --version."""
    import copy
    parser = make_parser()

    def take_options(words, options=None):
        rest = parser.parse_args(words, copy.copy(options)).words
        options = parser.parse_args([*map(plain_word, words[:len(words) - len(rest)])], options)
        rest = rest[1:] if rest[:1] == ['--'] else rest
        return options, [*map(plain_word, rest[:1]), *rest[1:]]     # the others are the server's to read

    options, rest = take_options(words)
    options, command = take_options(rest[1:], options)
    options.destination, options.command = rest[0] if rest else None, command
    return options


def read_arguments(words):
    """The options of a command line, checked and completed. Raises as split_words does."""
    options = split_words(words)
    if not re.fullmatch('[0-9]{1,6}', options.timeout) or not int(options.timeout):
        raise usage_problem(f'--timeout is no number of seconds: {options.timeout!r}', 'From 1 to 999999.')
    options.timeout = int(options.timeout)
    port = None if options.port is None else str(parse_port(options.port, '-p'))
    typed = (('port', port), ('proxyjump', options.jump),
             ('user', options.user and config_word(options.user)), ('addressfamily', options.family),
             ('gatewayports', options.gateway_ports and 'yes'))
    options.overrides = [*((key, value) for key, value in typed if value),
                         *(absolute_paths(*option) for option in map(parse_option, options.settings) if option[0] in CONFIG_KEYS),
                         *(absolute_paths('identityfile', config_word(path)) for path in options.identities)]
    options.forwards = [parse_forward(mode, text) for mode, text in options.forwards]
    if options.background or options.stdio is not None:
        raise usage_problem('-f and -W are not here: there is no background, and standard input goes to no port.',
                            'Leave out -f. For -W, use -L, or -J to go through a server.')
    if options.only_forwards and options.command:
        raise usage_problem('-N runs no command.', 'Leave out -N, or the command.')
    if options.destination is None and options.finish is None and options.add is None and not options.check:
        raise usage_problem('No server is named.', 'Write codex_login.py [user@]host; --help shows more.')
    if options.destination:
        parse_destination(options.destination)
        options.connection = connection_words(options)
    return options


def connection_words(options):
    """The words of a command line that lead to the same server, from any folder."""
    words = [word for key, value in options.overrides for word in ('-o', f'{CONFIG_KEYS[key]}={value}')]
    if options.config:
        words += ['-F', options.config if options.config == 'none' else os.path.abspath(options.config)]
    return [*words, options.destination]


def absolute_paths(key, value):
    """An option whose files are named from the present folder, so that they are found from another."""
    if not key.endswith(('file', 'revokedhostkeys')):
        return key, value
    return key, ' '.join(config_word(name if re.match('none$|[%$]', name) else os.path.abspath(os.path.expanduser(name)))
                         for name in Line(key, value).words)


@contextlib.contextmanager
def logged_to_stderr():
    """The log of this script and of paramiko goes to standard error, every line of it harmless."""
    import logging
    root, handler, level = logging.getLogger(), logging.StreamHandler(sys.stderr), logging.getLogger().level
    plain = logging.Formatter('%(name)s: %(message)s')
    # What a server says with line breaks begins no line of the log.
    handler.format = lambda record: harmless_lines(plain.format(record)).replace('\n', '\n    ')
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


@contextlib.contextmanager
def cancelled_by_signals():
    """SIGTERM, SIGHUP and SIGQUIT (a window of a-Shell that is closed) end the login as Ctrl-C does."""
    import signal
    cancel = signal.default_int_handler
    with contextlib.ExitStack() as put_back:
        for number in (getattr(signal, name) for name in ('SIGTERM', 'SIGHUP', 'SIGQUIT') if hasattr(signal, name)):
            with contextlib.suppress(ValueError):       # in Pythonista this is not the main thread
                if signal.getsignal(number) is not signal.SIG_IGN:      # nohup's wish
                    put_back.callback(signal.signal, number, signal.signal(number, cancel) or signal.SIG_DFL)
        yield


def sign_in(options, device, report, redirect=None):
    """Run the login that `options` ask for; the exit status. Raises Problem."""
    device.prefer('last', options.destination)         # for the menu's order
    return Login(options, settings_of(options, device), device, report).run(redirect)


def settings_of(options, device):
    """The Settings of the destination; puts those of its jump hosts, the first one first, into `options.jumps`."""
    settings = find_settings(parse_destination(options.destination), device, options.overrides, options.config)
    options.jumps = jump_settings(settings, device, options.config)
    if settings.clears_forwards:
        options.forwards = []
    return settings


def jump_settings(settings, device, config, depth=0):
    """The Settings of each server on the way, with the jump hosts that the first of them needs itself."""
    if depth == 8:
        raise Problem('config', f'The jump hosts of {settings.alias} lead in a circle.', 'Look at ProxyJump.')
    hops = [find_settings(hop, device, (), config) for hop in settings.jumps]
    if settings.proxy:
        try:
            asked = read_arguments(settings.proxy.words)
        except Problem as problem:
            raise settings.proxy.wrong(problem.message) from None
        config, jump = asked.config, parse_destination(asked.destination)
        hops = [find_settings(jump, device, asked.overrides, config)]
    return jump_settings(hops[0], device, config, depth + 1) + hops if hops else []


def set_up_key(options, device, report):
    """Do what --new-key asks for; the exit status. Raises Problem."""
    settings = settings_of(options, device)
    path = settings.identity_files[0] if settings.identities_named else os.path.join(device.ssh_folder, OWN_IDENTITY)
    install_key(settings, options.jumps, path, device, report)
    return 0


def pair(options, device, report):
    """Everything from a pairing link to the first sign-in; the exit status. Raises Problem."""
    name = add_by_link(options.add, device, report)
    again = read_arguments([name])
    set_up_key(again, device, report)
    return sign_in(again, device, report)


def prepare(device, options):
    """Install paramiko where the device can, after a yes. Raises Problem('setup')."""
    import importlib.util
    if not device.installs_paramiko or importlib.util.find_spec('paramiko'):
        return
    if not (options.yes or not device.alone and device.confirm('The SSH library paramiko is missing. Install it now')):
        raise Problem('setup', 'The SSH library paramiko is missing.', 'Install it: pip install --no-deps paramiko')
    device.install_paramiko()
    if not importlib.util.find_spec('paramiko'):        # whatever pip's status says
        raise Problem('setup', 'The SSH library paramiko is missing: pip did not install it.',
                      'a-Shell runs two Pythons at once, and pip is one. Close the windows where another runs, check that '
                      'this device is online, and start again. By hand, with no Python running: pip install --no-deps paramiko')


def waiting_login(redirect, device, report):
    """The Session that a redirect belongs to. Raises Problem('redirect')."""
    waiting = Sessions(device, report.note).all()
    session = next((session for session in waiting if session.accepts(redirect)), None)
    if session is None:
        raise Problem('redirect', 'That redirect belongs to no login that waits.' if waiting else 'No login is waiting.',
                      'Start the login again, and finish it with the page that it opens.')
    return session


def finish(options, device, report):
    """Deliver the redirect that a person brought to the login it belongs to; the exit status. Raises Problem."""
    redirect = parse_redirect(options.finish or device.attempt(device.paste) or '')
    if options.destination:
        settings = settings_of(options, device)
        waiting = Sessions(device, report.note).find(f'{settings.user}@{settings.host}:{settings.port}', options.command)
        if not waiting or not waiting.accepts(redirect):
            return hand_over(redirect, options, settings, device, report)
        return sign_in(options, device, report, redirect)
    session = waiting_login(redirect, device, report)
    words = (['--device-auth'] if session.device_auth else []) + session.arguments + session.command
    again = read_arguments(words)
    again.json, again.verbose, again.quiet = options.json, options.verbose, options.quiet
    return sign_in(again, device, report, redirect)


# -- Links -------------------------------------------------------------------------------------------------------------

# What changes only what is shown: with these, a link may name a server of the configuration unasked.
SHOWN_ONLY = {'destination', 'verbose', 'quiet', 'json', 'qr', 'browser'}
MOST_SHOWN = 800            # characters of a question: nobody can agree to what does not fit into a dialog


def names_a_server(asked, device):
    """Whether a command line does no more than name a server of the configuration, or asks the person by itself."""
    usual = vars(split_words([]))
    more = {name for name, value in vars(asked).items() if value != usual[name]} - SHOWN_ONLY
    if more:        # --add has its own question; --finish without an address brings nothing of a stranger's
        return more == {'add'} or more == {'finish'} and not (asked.finish or asked.destination)
    return asked.destination in known_servers(device)


def consent_question(words, options, device, report):
    """What arguments would do, as the configuration resolves them, for the person who is to agree."""
    if options.finish is not None:
        redirect = parse_redirect(options.finish or device.attempt(device.paste) or '')
        server = settings_of(options, device).account if options.destination else waiting_login(redirect, device, report).server
        lines = [f'Hand the page localhost:{redirect.port}{redirect.path} to the login at {server}']
    elif options.add is not None or options.check:      # with more than the link, which has a question of its own
        lines = [' '.join(words)]
    else:
        settings = settings_of(options, device)
        tunnels = (*options.forwards, *(settings.forwards if options.only_forwards else ()))
        lines = [' '.join(words), f'Account: {settings.account}', *(f'Through: {hop.account}' for hop in options.jumps),
                 *(f'Tunnel: -{spec.mode} {spec}' + " (into this device's network)" * (spec.mode == 'R') for spec in tunnels)]
        if not options.only_forwards:
            lines.append('Makes a key, and adds it there' if options.new_key
                         else f'Runs: {" ".join(options.command) or "codex login"}')
    # Spelled out as Python does: no character is unseen.
    return '\n'.join(['A link, a Shortcut or you want:', *(repr(line)[1:-1] for line in lines), 'You are asked once. Agree'])


def ask_consent(words, options, device, report):
    """Have a person agree to arguments that a link may have brought; a yes is kept for these very words. Raises Problem."""
    import json
    question = consent_question(words, options, device, report)
    mark = hash_of(json.dumps([words, question]))       # the words may have a code in them
    agreed = device.preference('agreed').split()
    if mark in agreed:
        return
    if len(question) > MOST_SHOWN:
        raise Problem('consent', 'These arguments are too long to be read in a question.', 'Choose the server from the menu.')
    if not device.can_agree():
        raise Problem('consent', f'Nobody is here to agree. {question}.',
                      'Run it once in the app with the very same arguments (hold ▷), and say yes. From then on it runs unasked.')
    if not device.confirm(question):
        raise Problem('cancelled', 'Nothing was done.', status=CANCELLED)
    device.prefer('agreed', '\n'.join([*agreed[-99:], mark]))


def failed_page(options, device):
    """The address of a failed page that is on the clipboard when the script is started for a server, if a person wants it delivered."""
    if not options.destination or options.only_forwards or options.new_key or not device.can_agree() \
            or not device.attempt(device.holds_address):
        return None
    with contextlib.suppress(Problem):
        text = within(60 if device.app else 2, device.attempt, device.paste) or ''
        redirect = parse_redirect(text)
        if redirect.port and {'code', 'error'} & dict(parameters_of(redirect.target)).keys() and device.confirm(
                f'The address of a failed page, localhost:{redirect.port}{redirect.path}, is on the clipboard. Deliver it to the login at '
                f'{options.destination}'):
            return text
    return None


def carry_out(options, device, report):
    """Do what `options` ask for; the exit status. Raises Problem and KeyboardInterrupt."""
    if options.check:
        return check(device, report)
    prepare(device, options)
    options.finish = failed_page(options, device) if options.finish is None else options.finish
    if options.finish is not None:
        return finish(options, device, report)
    if options.add is not None:
        return pair(options, device, report)
    if options.new_key:
        return set_up_key(options, device, report)
    if options.only_forwards:
        return Tunnels(options, settings_of(options, device), device, report).run()
    return sign_in(options, device, report)


def main(words=None):
    """Run with `words` as arguments; the exit status."""
    brought = words is None         # by whoever started the script: on some devices, a web page can
    words = sys.argv[1:] if brought else words
    try:
        asked = split_words(words)
    except SystemExit as leaving:       # after --help and --version
        return leaving.code or 0
    except Problem:                     # said below, in the form that was probably wanted
        asked = None
    events, quiet = (asked.json, asked.quiet) if asked else ('--json' in words, False)
    device = device_class()(alone=events)
    report = JsonReport() if events else TextReport(quiet, device.asks)
    with contextlib.ExitStack() as run:         # an app lives on and runs the next script: nothing of this one remains
        run.callback(join_started)
        run.callback(device.close)
        run.callback(report.close)
        try:
            if asked and asked.verbose:
                run.enter_context(logged_to_stderr())
            run.enter_context(cancelled_by_signals())
            if not words and not device.alone:
                words, brought = choose_from_menu(device, Sessions(device, report.note)), False
            options = read_arguments(words)
            if brought and device.takes_links and not names_a_server(asked, device):
                ask_consent(words, options, device, report)
            status = carry_out(options, device, report)
        except Problem as problem:
            report.tell('error', kind=problem.kind, message=problem.message, hint=problem.hint)
            status = problem.status
        except KeyboardInterrupt:
            report.tell('error', kind='cancelled', message='Cancelled.', hint='')
            status = CANCELLED
        except Exception as error:
            import logging
            logging.getLogger('codex_login').debug('This is what happened:', exc_info=True)
            # The words of the system name no secret; those of a library may.
            what = f'{type(error).__name__}: {error}' if isinstance(error, OSError) else type(error).__name__
            report.tell('error', kind='unexpected', message=f'Something went wrong that nobody expected: {what}.',
                        hint='Try it with -v, and please post what that shows where you got this script.')
            status = OWN_ERROR
        report.tell('done', status=status)
        device.attempt(device.finished, report.outcome, status, report.events)
    return status


# == Appendix: what Pythonista's paramiko lacks ========================================================================
# Keys and key exchanges in plain Python, for paramiko 1.x: room 6 says why. Nothing else uses them.

class _OldKey:
    """A key as paramiko 1.x uses one: `kind` is the key's type, `name`, which get_name() says, the signature's."""

    def get_name(self):
        return self.name

    @classmethod
    def from_message(cls, message):
        """The public half that a server sends. Raises SSHException where it is of another type than was agreed on."""
        if message.get_text() != cls.kind:
            raise load_paramiko().SSHException('Signature verification failed: this is a key of another type')
        return cls._read(message)

    def sign_ssh_data(self, data):
        message = load_paramiko().Message()
        message.add_string(self.name)
        message.add_string(self._sign(data))
        return message


class RsaKey(_OldKey):
    """RSA with SHA-256, which every server with SHA-2 signatures accepts (not all accept SHA-512); RFC 8332.

    `secret` is the private exponent and the two primes; None, as everywhere here, where only the public half is known."""
    kind, name = 'ssh-rsa', 'rsa-sha2-256'

    def __init__(self, n, e, secret=None):
        self._n, self._e, self._secret = n, e, secret

    @classmethod
    def _read(cls, message):
        e, n = message.get_mpint(), message.get_mpint()
        return cls(n, e)

    def asbytes(self):
        return _string(b'ssh-rsa') + _integer(self._e) + _integer(self._n)

    def _scheme(self):
        from Crypto.PublicKey import RSA
        from Crypto.Signature import PKCS1_v1_5
        return PKCS1_v1_5.new(RSA.construct((self._n, self._e, *(self._secret or ()))))

    def _sign(self, data):
        from Crypto.Hash import SHA256
        return self._scheme().sign(SHA256.new(data))

    def verify_ssh_sig(self, data, signature):
        from Crypto.Hash import SHA256, SHA512
        name, raw = signature.get_text(), signature.get_binary()
        digest = (SHA512 if name == 'rsa-sha2-512' else SHA256).new(data)
        raw = raw.rjust(-(-self._n.bit_length() // 8), b'\0')
        return name in RSA_SIGNATURES and bool(self._scheme().verify(digest, raw))


class Ed25519Key(_OldKey):
    """Ed25519 (RFC 8032), by its seed, or only its public half; 32 bytes each."""
    kind = name = 'ssh-ed25519'

    def __init__(self, seed=None, public=None):
        self.seed = self._secret = seed
        self.public = public or ed25519_public(seed)

    @classmethod
    def _read(cls, message):
        return cls(public=message.get_binary())

    def asbytes(self):
        return _string(b'ssh-ed25519') + _string(self.public)

    def _sign(self, data):
        return ed25519_sign(self.seed, data)

    def verify_ssh_sig(self, data, signature):
        return signature.get_text() == self.name and ed25519_verify(self.public, data, signature.get_binary())


class _KexCurve:
    """Elliptic-curve Diffie-Hellman with SHA-256 (RFC 5656), the client's side, as paramiko 1.x drives one.

    A curve is two functions: `new_pair()` gives a secret and the public bytes that belong to it, and
    `shared(secret, theirs)` the number both sides arrive at, or ValueError."""
    hash_algo = hashlib.sha256
    INIT, REPLY = 30, 31

    def __init__(self, transport):
        self.transport = transport

    def start_kex(self):
        self._secret, self._public = self.new_pair()
        message = load_paramiko().Message()
        message.add_byte(bytes([self.INIT]))
        message.add_string(self._public)
        self.transport._send_message(message)
        self.transport._expect_packet(self.REPLY)

    def parse_next(self, number, message):
        transport = self.transport
        host_key, theirs, signature = message.get_binary(), message.get_binary(), message.get_binary()
        shared = self.shared(self._secret, theirs)
        exchange = b''.join(map(_string, (
            transport.local_version.encode(), transport.remote_version.encode(),
            transport.local_kex_init, transport.remote_kex_init, host_key, self._public, theirs)))
        transport._set_K_H(shared, hashlib.sha256(exchange + _integer(shared)).digest())
        transport._verify_key(host_key, signature)
        transport._activate_outbound()


class KexCurve25519(_KexCurve):
    """RFC 8731."""
    name = 'curve25519-sha256'

    @staticmethod
    def new_pair():
        secret = os.urandom(32)
        return secret, x25519(secret, (9).to_bytes(32, 'little'))

    @staticmethod
    def shared(secret, theirs):
        shared = int.from_bytes(x25519(secret, theirs), 'big') if len(theirs) == 32 else 0
        if not shared:
            raise ValueError('the server sent a point of the wrong length, or of small order')
        return shared


class KexNistp256(_KexCurve):
    """By the app's own module ecdsa."""
    name = 'ecdh-sha2-nistp256'

    @staticmethod
    def new_pair():
        from ecdsa import NIST256p, SigningKey
        pair = SigningKey.generate(NIST256p)
        return pair.privkey.secret_multiplier, b'\x04' + pair.get_verifying_key().to_string()

    @staticmethod
    def shared(secret, theirs):
        from ecdsa import NIST256p, VerifyingKey
        try:
            return (VerifyingKey.from_string(theirs[1:], NIST256p).pubkey.point * secret).x()
        except AssertionError:          # ecdsa's way of refusing what is no point of the curve
            raise ValueError('the server sent no point of the curve') from None


# RFC 7748 and RFC 8032. A point of Ed25519 is (X, Y, Z, T) with x = X/Z, y = Y/Z, x*y = T/Z.
PRIME = 2 ** 255 - 19
ORDER = 2 ** 252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, PRIME) % PRIME
ROOT_OF_MINUS_ONE = pow(2, (PRIME - 1) // 4, PRIME)
BASE = b'\x58' + 31 * b'\x66'           # y = 4/5
LOW = (1 << 255) - 1                    # the bits of a number without its sign


def _number(data):
    return int.from_bytes(data, 'little')


def _factor(secret):
    """What 32 secret bytes multiply a point by."""
    return _number(secret) & LOW & ~7 | 1 << 254


def x25519(secret, point):
    """The function X25519: 32 bytes times 32 bytes."""
    u = _number(point) & LOW
    near, far = (1, 0), (u, 1)          # two multiples of the point, one apart
    for bit in f'{_factor(secret):b}':
        (x2, z2), (x3, z3) = (near, far) if bit == '0' else (far, near)
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % PRIME, b * b % PRIME, d * a % PRIME, c * b % PRIME
        double = aa * bb % PRIME, (aa - bb) * (aa + 121665 * (aa - bb)) % PRIME
        total = (da + cb) ** 2 % PRIME, u * (da - cb) ** 2 % PRIME
        near, far = (double, total) if bit == '0' else (total, double)
    return (near[0] * pow(near[1], PRIME - 2, PRIME) % PRIME).to_bytes(32, 'little')


def ed25519_public(seed):
    """The public half that belongs to a seed of 32 bytes."""
    return _encode(_times(_factor(hashlib.sha512(seed).digest()[:32]), _decode(BASE)))


def ed25519_sign(seed, message):
    """The signature, 64 bytes."""
    digest = hashlib.sha512(seed).digest()
    nonce = _hash(digest[32:], message) % ORDER
    commitment = _encode(_times(nonce, _decode(BASE)))
    answer = nonce + _hash(commitment, ed25519_public(seed), message) * _factor(digest[:32])
    return commitment + (answer % ORDER).to_bytes(32, 'little')


def ed25519_verify(public, message, signature):
    """Whether `signature` is by the owner of `public`."""
    point = _decode(public)
    commitment, answer = signature[:32], _number(signature[32:])
    if point is None or len(signature) != 64 or answer >= ORDER:
        return False
    x, y, z, t = point
    against = _times(_hash(commitment, public, message) % ORDER, (-x, y, z, -t))
    return _encode(_add(_times(answer, _decode(BASE)), against)) == commitment


def _hash(*parts):
    return _number(hashlib.sha512(b''.join(parts)).digest())


def _add(p, q):
    x1, y1, z1, t1 = p
    x2, y2, z2, t2 = q
    a, b = (y1 - x1) * (y2 - x2) % PRIME, (y1 + x1) * (y2 + x2) % PRIME
    c, d = 2 * t1 * t2 * D % PRIME, 2 * z1 * z2 % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def _times(factor, point):
    result = (0, 1, 1, 0)
    for bit in f'{factor:b}':
        result = _add(result, result)
        if bit == '1':
            result = _add(result, point)
    return result


def _encode(point):
    x, y, z, _ = point
    inverse = pow(z, PRIME - 2, PRIME)
    return (y * inverse % PRIME | (x * inverse % PRIME & 1) << 255).to_bytes(32, 'little')


def _decode(data):
    """The point that 32 bytes stand for, or None."""
    y, odd = _number(data) & LOW, _number(data) >> 255
    square = (y * y - 1) * pow(D * y * y + 1, PRIME - 2, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * ROOT_OF_MINUS_ONE % PRIME
    if len(data) != 32 or y >= PRIME or x * x % PRIME != square or (not x and odd):
        return None
    x = x if x & 1 == odd else PRIME - x
    return x, y, 1, x * y % PRIME


if __name__ == '__main__':
    sys.exit(main())
