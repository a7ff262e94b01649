"""paramiko's server side, made as strict as OpenSSH's sshd, and able to have a bad day.

As a server paramiko forgives: what arrives for a channel that is gone, data beyond the window, a second command on
one session, any number of passwords. sshd does not, and what a client does wrong there ends its whole connection. So
`StrictTransport` keeps only paramiko's packets and key exchange. What comes after them follows OpenSSH's sources,
which each section names; test_embedded.py says the same words to both and compares what comes back. Not modelled:
terminals, shells and subsystems, X11, agents, and the channel numbers that sshd's own listeners take up.

A `BadDay` is read from words, ACTION at STEP: the two tables below hold them. The step is what the client has just
asked for, the action what the server does in place of answering.
"""

import itertools
import re
import signal
import struct
import threading

import paramiko

(DISCONNECT, UNIMPLEMENTED, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO, KEXINIT, NEWKEYS) = (1, 3, 5, 6, 7, 20, 21)
(USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER) = (50, 51, 52, 53)
(USERAUTH_PK_OK, INFO_REQUEST, INFO_RESPONSE) = (60, 60, 61)
(GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE) = (80, 81, 82)
(OPEN, OPEN_CONFIRMATION, OPEN_FAILURE, WINDOW_ADJUST, DATA, EXTENDED_DATA, EOF, CLOSE, REQUEST, SUCCESS,
 FAILURE) = range(90, 101)
PROHIBITED, CONNECT_FAILED = 1, 2
PROTOCOL_ERROR, SERVICE_NOT_AVAILABLE = 2, 7

WINDOW, PACKET = 2 << 20, 32 << 10      # sshd's, for sessions and forwards alike
MOST_FLOOD = 64 << 20                   # bytes of what is called endless: more than anybody should keep
KEY_ALGORITHMS = ('ssh-ed25519', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp521',
                  'rsa-sha2-256', 'rsa-sha2-512')


# --- Bad days -----------------------------------------------------------------------------------------------

STEPS = {
    'version': 'the connection is there, and the server has said nothing',
    'key exchange': "the client's first offer of algorithms is here, and the server's own has gone out",
    're-key': 'the same, of a later key exchange (server.rekey() brings it about)',
    'new keys': "the server's new keys of such an exchange have just come into force, and nothing was said under them",
    'service': 'ssh-userauth was asked for',
    'second service': 'the same, again on this connection',
    'authentication': 'any of the four that follow',
    'none': 'the question which methods there are',
    'key': 'a public key, by itself or with a signature',
    'password': 'a password',
    'questions': 'the wish to be asked by keyboard-interactive',
    'answers': 'the answers to those questions',
    'opening': 'a channel is asked for, of any kind',
    'session': 'a session is asked for',
    'forward': 'a connection to a port at the server is asked for (-L, -D)',
    'exec': 'a command is to be run',
    'global request': 'a keep-alive, a port to be listened on, or the like',
    'listening': 'a port to be listened on (-R)',
    'keep-alive': 'whether the server is there',
    'data': 'bytes for a channel',
    'end of input': 'a channel has no more of them',
    'closing': 'a channel is closed by the client',
}

ACTIONS = {
    'silent': 'nothing is said any more on this connection, which stays open',
    'ends': 'end of file, without a word',
    'reset': 'the connection is reset',
    'goodbye': 'a DISCONNECT, then the end (at "second service": what asyncssh does)',
    'unanswered': 'no answer to this; all else goes on',
    'slow': 'the answer, and all that follows, waits for go_on(), or for `slowness` seconds',
    'refused': 'no (not at version, key exchange, data and their like)',
    'partial': 'at authentication, its methods, answers: right, but not enough; for ever',
    're-key': 'the server begins a key exchange, then answers (after the connection is authenticated)',
    'closings': 'the server closes each channel, then answers',
    'many lines': 'at version: 200 lines first',
    'endless line': 'at version: a line that does not end; at exec: such a one on standard output',
    'endless lines': 'at version: lines that do not end; at exec: such on standard output',
    'endless stderr': 'at exec: lines that do not end, on standard error',
    'unasked lines': 'at exec: lines, and far more of them than the window of the channel allows',
    'unasked stderr': 'at exec: the same on standard error',
}

REFUSED = ('service', 'second service', 'authentication', 'none', 'key', 'password', 'questions', 'answers', 'opening',
           'session', 'forward', 'exec', 'global request', 'listening', 'keep-alive')
ONLY = {
    'refused': REFUSED, 'partial': REFUSED[2:8], 'many lines': ('version',), 'endless line': ('version', 'exec'),
    'endless lines': ('version', 'exec'), 'endless stderr': ('exec',),
    'unasked lines': ('exec',), 'unasked stderr': ('exec',),
    're-key': REFUSED[8:] + ('data', 'end of input', 'closing'),
    'closings': ('re-key', 'new keys') + REFUSED[8:] + ('data', 'end of input', 'closing'),
}


class BadDay:
    """What goes wrong and where, read from words: 'silent at exec', 'reset at key once, slow at opening'."""

    def __init__(self, words, count):
        self._count = count
        self._lock = threading.Lock()
        self._plan = []         # [words, action, step, how often yet]
        for part in filter(None, words.split(', ')):
            found = re.fullmatch(r'(.+?) at (.+?)(?: (once|twice|([0-9]+) times))?', part)
            action, step = found.group(1, 2) if found else ('', '')
            if action not in ACTIONS or step not in ONLY.get(action, set(STEPS) - {'new keys'}):
                raise ValueError(f'not a bad day: {part!r}. Write ACTION at STEP [once]. '
                                 f'Actions: {", ".join(ACTIONS)}. Steps: {", ".join(STEPS)}.')
            times = {'once': 1, 'twice': 2, None: float('inf')}.get(found[3], int(found[4] or 0))
            self._plan.append([f'{action} at {step}', action, step, times])

    def strikes(self, *steps):
        """The action due at this moment, which is known by these names; '' where the day is good."""
        with self._lock:
            for entry in self._plan:
                words, action, step, left = entry
                if step in steps and left:
                    entry[3] -= 1
                    self._count[words] += 1
                    return action
        return ''


# --- A channel ----------------------------------------------------------------------------------------------

class StrictChannel(paramiko.Channel):
    """A channel as sshd has one (channels.c, nchan.c): it ends when both sides have said CLOSE, and not before."""

    def __init__(self, number, kind, transport):
        super().__init__(number)
        self.kind = kind
        self.live = False           # larval or connecting until then: what arrives is thrown away
        self.window = self.excess = 0
        self.deaf = False
        self.close_sent = self.close_received = False
        self._hung_up = lambda: None
        self._set_transport(transport)
        self._set_window(WINDOW, PACKET)

    def when_hung_up(self, function):
        """Call it when nobody at the client listens any more."""
        self._hung_up = function
        if self.close_received or self.closed:
            function()

    def take(self, data):
        """Data from the client. Returns how much of the window is to be given back at once."""
        with self.lock:
            if self.deaf or self.eof_received or self.close_received or self.close_sent:
                self.window = max(0, self.window - len(data))
                return len(data)
            if len(data) > PACKET:
                return 0
            if len(data) > self.window:
                self.excess += len(data) - self.window
                if self.excess > WINDOW // 10:
                    raise Unforgivable(f'channel {self.chanid}: peer ignored channel window')
            else:
                self.excess = 0
            self.window = max(0, self.window - len(data))
            self.in_buffer.feed(data)
        return 0

    def refuse_input(self):
        """Throw away what the client sends, now that its process or target takes no more."""
        with self.lock:
            self.deaf = True
            unread = len(self.in_buffer.empty())
        self.transport.give_back(self, unread)

    def _check_add_window(self, n):
        with self.lock:
            if self.close_sent or self.close_received or not self.live:
                return 0
            self.in_window_sofar += n
            if self.in_window_sofar <= self.in_window_threshold:
                return 0
            n, self.in_window_sofar = self.in_window_sofar, 0
            self.window += n
            return n

    def _wait_for_send_window(self, size):
        # paramiko says 0, and its sendall would go round in a circle.
        size = super()._wait_for_send_window(size)
        if not size:
            raise OSError('the client has closed this channel')
        return size

    def _send_eof(self):
        if self.close_received or self.close_sent:
            self.eof_sent = True
        return super()._send_eof()

    def send_end(self, status):
        """How the process ended: exit-status, or exit-signal (session.c, session_exit_message)."""
        if status >= 0:
            self.send_exit_status(status)
            return
        self.transport.send(REQUEST, self.remote_chanid, 'exit-signal', False,
                            signal.Signals(-status).name[3:], False, '', '')

    def client_closed(self):
        with self.lock:
            self.close_received = True
            self.eof_sent = True
            self.in_buffer.close()
            self.in_stderr_buffer.close()
            self.out_buffer_cv.notify_all()
            gone = self.close_sent
        if gone:
            self.transport.forget(self)
        elif not self.live:
            self.close()
        else:
            self._hung_up()

    def close(self):
        with self.lock:
            if not self.active or self.close_sent or self.closed:
                return
            end = self._send_eof()
            self.close_sent = True
            self._set_closed()
            gone = self.close_received
        # Forgotten first: who has the answer to its CLOSE finds no channel any more.
        if gone:
            self.transport.forget(self)
        if end is not None:
            self.transport._send_user_message(end)
        self.transport.send(CLOSE, self.remote_chanid)

    def _unlink(self):
        super()._unlink()
        self._hung_up()


# --- A connection -------------------------------------------------------------------------------------------

class Unforgivable(Exception):
    """What ends the connection, in the words that sshd says to the client."""


class StrictTransport(paramiko.Transport):
    """One connection, from the key exchange on.

    `account` knows what only a world can: `opens_to`, `banner`, `title`, `instruction`, `questions`, `farewell`, `refusal`,
    `max_auth_tries`, `max_sessions`, `day`, `complaints`, `note(words)`, `methods(passed)`, `is_enough(passed)`,
    `judge(method, user, proof)`, `run(channel, command)` (a function that begins, or None),
    `flood(channel, kind, unasked)`, `may_forward()`, `reach(host, port)`, `join(channel, socket)`, `listen(address, port)`, `unlisten(address, port)`,
    `slow()`, `reset()`.
    """

    def __init__(self, sock, account):
        super().__init__(sock)
        self.set_log_channel('embedded.ssh')
        self.account = account
        self.channels = {}
        self._numbers = threading.Lock()
        self._held = []                 # what the reader has to say during a key exchange
        self._mute = False
        self._exchanged = False         # keys, once
        self._service = self._authenticated = self._last_session = False
        self._claimed = None            # user and service, which may not change
        self._attempts = self._failures = 0
        self._passed = []               # methods that were passed, of several that are needed
        self._asked = None              # what keyboard-interactive still asks
        self._read, self.packetizer.read_message = self.packetizer.read_message, self._next_message
        mine = {
            UNIMPLEMENTED: lambda m: None, SERVICE_REQUEST: self._service_request,
            USERAUTH_REQUEST: self._userauth_request, INFO_RESPONSE: self._info_response,
            GLOBAL_REQUEST: self._global_request, REQUEST_SUCCESS: self._nothing, REQUEST_FAILURE: self._nothing,
            OPEN: self._open, OPEN_CONFIRMATION: self._opened, OPEN_FAILURE: self._not_opened,
            WINDOW_ADJUST: self._adjust, DATA: self._data, EXTENDED_DATA: self._extended_data, EOF: self._eof,
            CLOSE: self._close, REQUEST: self._channel_request, SUCCESS: self._nothing, FAILURE: self._nothing,
        }
        table = self._handler_table
        theirs = {kind: table[kind] for kind in (EXT_INFO, KEXINIT, NEWKEYS) if kind in table}
        own = {kind: mine.get(kind, self._unimplemented) for kind in range(256) if kind not in theirs}
        if '_handler_table' not in vars(self):
            # Old paramiko calls it as a function of the transport.
            own = {kind: lambda self, m, handler=handler: handler(m) for kind, handler in own.items()}
        self._handler_table = {**theirs, **own}

    # Sending

    def send(self, kind, *fields):
        """A message of numbers, truth values, text and bytes, when no key exchange is in the way."""
        self._send_user_message(_message(kind, *fields))

    def _send_user_message(self, data):
        if threading.current_thread() is not self:
            super()._send_user_message(data)
            return
        # paramiko's reader would wait for itself.
        with self.clear_to_send_lock:
            if self.clear_to_send.is_set():
                self._send_message(data)
                return
        self._held.append(data)

    def _send_message(self, data):
        if not self._mute:
            super()._send_message(data)

    def _parse_newkeys(self, m):
        super()._parse_newkeys(m)
        self._exchanged = True
        held, self._held = self._held, []
        for data in held:
            self._send_user_message(data)

    def begin_key_exchange(self):
        """Ask for new keys, unless that is under way."""
        if not self.in_kex:
            self._send_kex_init()

    def _activate_outbound(self):
        super()._activate_outbound()
        if self._exchanged and self.account.day.strikes('new keys') == 'closings':
            # Allowed from now on, but paramiko waits for the client's new keys as well.
            self.clear_to_send.set()
            self._close_all()
            self.clear_to_send.clear()

    def _disconnect(self, words, code=PROTOCOL_ERROR):
        self.account.complaints.append(words)
        self.account.note(f'throws the client out: {words}')
        self._goodbye(words, code)

    def _goodbye(self, words, code=PROTOCOL_ERROR):
        self._send_message(_message(DISCONNECT, code, words, ''))
        raise EOFError(words)

    # Hearing

    def _next_message(self):
        while True:
            kind, m = self._read()
            if self._mute:
                continue
            if not 0 < kind < 192:
                self._disconnect(f'Invalid ssh2 packet type: {kind}')
            action = self.account.day.strikes(*self._steps(kind, m))
            if action:
                self.account.note(f'{action}, at message {kind}')
            if not action or self._have(action, kind, m):
                return kind, m

    def _steps(self, kind, m):
        """What a message means, as the names of steps."""
        names = []
        if kind == KEXINIT:
            names = ['re-key' if self._exchanged else 'key exchange']
        elif kind == SERVICE_REQUEST:
            names = ['service'] + ['second service'] * self._service
        elif kind == USERAUTH_REQUEST:
            method = [m.get_text() for _ in range(3)][-1]
            names = ['authentication', {'publickey': 'key', 'keyboard-interactive': 'questions'}.get(method, method)]
        elif kind == OPEN:
            names = ['opening', {'direct-tcpip': 'forward'}.get(wanted := m.get_text(), wanted)]
        elif kind == REQUEST:
            m.get_int()
            names = [m.get_text()]
        elif kind == GLOBAL_REQUEST:
            known = {'tcpip-forward': 'listening', 'keepalive@openssh.com': 'keep-alive'}
            names = ['global request', known.get(m.get_text())]
        elif kind in (INFO_RESPONSE, DATA, EOF, CLOSE):
            names = [{INFO_RESPONSE: 'answers', DATA: 'data', EOF: 'end of input', CLOSE: 'closing'}[kind]]
        m.rewind()
        return names

    def _have(self, action, kind, m):
        """Let a bad day have its way; whether the message is to be handled after all."""
        if action == 'silent':
            self._mute = True
        elif action == 'ends':
            raise EOFError(action)
        elif action == 'reset':
            self.account.reset()
            raise EOFError(action)
        elif action == 'goodbye':
            self._bad_service(m) if kind == SERVICE_REQUEST else self._goodbye(self.account.farewell)
        elif action == 'slow':
            self.account.slow()
            return True
        elif action == 're-key':
            self.begin_key_exchange()
            return True
        elif action == 'closings':
            self._close_all()
            return True
        elif action in ('refused', 'partial'):
            if action == 'partial' and 'none' in self._steps(kind, m):
                return True
            self._refuse(kind, m, action == 'partial')
        elif action.startswith(('endless', 'unasked')):
            self._flood(m, *action.split())
        return False        # and so is what goes unanswered

    def _close_all(self):
        for channel in list(self.channels.values()):
            channel.close()

    def _refuse(self, kind, m, partial):
        if kind == SERVICE_REQUEST:
            self._bad_service(m)
        elif kind in (USERAUTH_REQUEST, INFO_RESPONSE):
            self.send(USERAUTH_FAILURE, ','.join(self.account.methods(self._passed)), partial)
        elif kind == OPEN:
            m.get_text()
            self.send(OPEN_FAILURE, m.get_int(), PROHIBITED, self.account.refusal, '')
        elif kind == REQUEST:
            self.send(FAILURE, self.channels[m.get_int()].remote_chanid)
        elif kind == GLOBAL_REQUEST:
            self.send(REQUEST_FAILURE)

    def _bad_service(self, m):
        # As asyncssh says it (connection.py, _process_service_request).
        self._goodbye(f'Unexpected service in service request: {m.get_text()}', SERVICE_NOT_AVAILABLE)

    def _flood(self, m, how, kind):
        channel = self.channels[m.get_int()]
        self._become_live(channel)
        self.send(SUCCESS, channel.remote_chanid)
        threading.Thread(target=self.account.flood, args=(channel, kind, how == 'unasked'), daemon=True).start()

    def _ensure_authed(self, kind, m):
        return None         # what follows here decides that itself

    def _unimplemented(self, m):
        self.send(UNIMPLEMENTED, m.seqno)

    def _nothing(self, m):
        if not self._authenticated:
            self._unimplemented(m)

    # Authentication (auth2.c, auth2-chall.c, auth2-pubkey.c)

    def _service_request(self, m):
        if self._authenticated:
            self._unimplemented(m)
            return
        service = m.get_text()
        if service != 'ssh-userauth':
            self._disconnect(f'bad service request {service}')
        self._service = True
        self.send(SERVICE_ACCEPT, service)

    def _userauth_request(self, m):
        if self._authenticated or not self._service:
            self._unimplemented(m)
            return
        user, service, method = m.get_text(), m.get_text(), m.get_text()
        self._attempts += 1
        if self._claimed is None:
            self._claimed = user, service
            if self.account.banner:
                self.send(USERAUTH_BANNER, self.account.banner, '')
        elif self._claimed != (user, service):
            self._disconnect('Change of username or service not allowed: '
                             f'({",".join(self._claimed)}) -> ({user},{service})')
        self._asked = None
        if self.account.opens_to:           # as Tailscale's server is
            if method != 'none':
                raise EOFError('no key is wanted')
            if self.account.opens_to == 'a visit':
                self.account.slow()
            self._finish(method, True)
            return
        good = False
        if method in self.account.methods(self._passed) and service == 'ssh-connection':
            good = {'password': self._password, 'publickey': self._publickey,
                    'keyboard-interactive': self._keyboard_interactive}[method](m, user)
        if good is not None:
            self._finish(method, good)

    def _password(self, m, user):
        if m.get_boolean():
            return False        # to change it is not supported
        return self.account.judge('password', user, m.get_text())

    def _publickey(self, m, user):
        signed, algorithm, blob = m.get_boolean(), m.get_text(), m.get_binary()
        if algorithm not in KEY_ALGORITHMS:
            return False
        try:
            key = self._key_info[algorithm](paramiko.Message(blob))
        except Exception:       # whatever a mangled key gives
            return False
        if not self.account.judge('publickey', user, key):
            return False
        if not signed:
            self.send(USERAUTH_PK_OK, algorithm, blob)
            return None
        what = _message(USERAUTH_REQUEST, user, 'ssh-connection', 'publickey', True, algorithm, blob).asbytes()
        session = struct.pack('>I', len(self.session_id)) + self.session_id
        return key.verify_ssh_sig(session + what, paramiko.Message(m.get_binary()))

    def _keyboard_interactive(self, m, user):
        # As with PAM, each question is a round of its own, text alone is one without a question, and after the last
        # right answer comes a round with nothing in it (auth-pam.c, sshpam_query).
        self._asked = [*self.account.questions, ()]
        self._given = []
        self._ask()

    def _ask(self):
        this = self._asked[0]
        text, pairs = (this, []) if isinstance(this, str) else ('', this)
        if pairs and isinstance(pairs[0], str):
            pairs = [pairs]         # a single question
        self._expected = [answer for _, answer in pairs]
        prompts = [field for prompt, _ in pairs for field in (prompt, False)]
        title, instruction = ('', '') if self._given else (self.account.title, self.account.instruction)
        self.send(INFO_REQUEST, title, text or instruction, '', len(pairs), *prompts)

    def _info_response(self, m):
        if self._authenticated or self._claimed is None:
            self._unimplemented(m)
            return
        if self._asked is None:
            raise EOFError('protocol error')        # sshd's words do not get out any more
        answers = [m.get_text() for _ in range(m.get_int())]
        if len(answers) != len(self._expected):
            raise EOFError('wrong number of replies')       # sshd ends without a word
        self._given.append(answers == self._expected)
        self._asked.pop(0)
        # The rounds go on whatever was answered, as most PAM modules have it; the last one only after right answers.
        if self._asked and (len(self._asked) > 1 or all(self._given)):
            self._ask()
            return
        self._asked = None
        good = self.account.judge('keyboard-interactive', self._claimed[0], all(self._given))
        self._finish('keyboard-interactive', good)

    def _finish(self, method, good):
        if good:
            self._passed.append(method)
            wanted = self.account.methods(self._passed)
            if not self.account.is_enough(self._passed):
                self.send(USERAUTH_FAILURE, ','.join(wanted), True)
                return
            self.send(USERAUTH_SUCCESS)
            self._authenticated = True
            self._auth_trigger()
            keys = [key.asbytes() for key in self.server_key_dict.values()]
            self.send(GLOBAL_REQUEST, 'hostkeys-00@openssh.com', False, *keys)
            return
        if self._attempts > 1 or method != 'none':
            self._failures += 1
        if self._failures >= self.account.max_auth_tries:
            self._disconnect('Too many authentication failures')
        self.send(USERAUTH_FAILURE, ','.join(self.account.methods(self._passed)), False)

    # Channels (channels.c, serverloop.c)

    def _channel(self, m, what):
        """The channel that a message is for. None where nobody is authenticated."""
        if not self._authenticated:
            self._unimplemented(m)
            return None
        number = m.get_int()
        if number not in self.channels:
            self._disconnect(f'{what} packet referred to nonexistent channel {number}')
        return self.channels[number]

    def _new_channel(self, kind):
        with self._numbers:
            # sshd's numbers are used again: what comes late for one channel may meet another.
            number = next(number for number in itertools.count(self.account.first_channel) if number not in self.channels)
            channel = self.channels[number] = StrictChannel(number, kind, self)
        self._channels.put(number, channel)
        return channel

    def forget(self, channel):
        """A channel that both sides have closed."""
        self._unlink_channel(channel.chanid)

    def _unlink_channel(self, number):
        super()._unlink_channel(number)
        self.channels.pop(number, None)

    def give_back(self, channel, count):
        """Let the client send so much more, in sshd's large steps."""
        if count := channel._check_add_window(count):
            self.send(WINDOW_ADJUST, channel.remote_chanid, count)

    def _become_live(self, channel):
        # A session's window opens with its command (session.c, session_set_fds).
        channel.live = True
        channel.window = WINDOW
        self.send(WINDOW_ADJUST, channel.remote_chanid, WINDOW)

    def _confirm(self, channel, window):
        channel.window = window
        channel.live = channel.kind != 'session'
        self.send(OPEN_CONFIRMATION, channel.remote_chanid, channel.chanid, window, PACKET)

    def _open(self, m):
        if not self._authenticated:
            self._unimplemented(m)
            return
        self.account.count['channels'] += 1
        kind, theirs, window, packet = m.get_text(), m.get_int(), m.get_int(), m.get_int()
        if kind == 'session':
            if self._last_session:
                self._disconnect('Possible attack: attempt to open a session after additional sessions disabled')
            sessions = sum(channel.kind == 'session' for channel in list(self.channels.values()))
            if sessions < self.account.max_sessions:
                channel = self._new_channel(kind)
                channel._set_remote_channel(theirs, window, packet)
                self._confirm(channel, 0)
                return
        elif kind == 'direct-tcpip':
            host, port = m.get_text(), m.get_int()
            if not self.account.may_forward():
                self.send(OPEN_FAILURE, theirs, PROHIBITED, 'open failed', '')
                return
            channel = self._new_channel(kind)
            channel._set_remote_channel(theirs, window, packet)
            threading.Thread(target=self._connect, args=(channel, host, port), daemon=True).start()
            return
        self.send(OPEN_FAILURE, theirs, CONNECT_FAILED, 'open failed', '')

    def _connect(self, channel, host, port):
        try:
            sock = self.account.reach(host, port)
        except OSError as error:
            self.forget(channel)
            channel.active = 0
            self.send(OPEN_FAILURE, channel.remote_chanid, CONNECT_FAILED, error.strerror or str(error), '')
            return
        self._confirm(channel, WINDOW)
        self.account.join(channel, sock)

    def open_forwarded(self, sock, origin, bound):
        """Offer the client a connection that a port at the server has got (-R)."""
        channel = self._new_channel('forwarded-tcpip')
        channel.offered = sock
        channel.window = WINDOW
        channel.when_hung_up(sock.close)
        self.send(OPEN, channel.kind, channel.chanid, WINDOW, PACKET, bound[0], bound[1], origin[0], origin[1])

    def _opened(self, m):
        channel = self._channel(m, 'open confirmation')
        if channel is None:
            return
        sock, channel.offered = getattr(channel, 'offered', None), None
        if sock is None:
            self._disconnect(f'Received open confirmation for non-opening channel {channel.chanid}.')
        channel._set_remote_channel(m.get_int(), m.get_int(), m.get_int())
        channel.live = True
        self.account.join(channel, sock)

    def _not_opened(self, m):
        channel = self._channel(m, 'open failure')
        if channel is None:
            return
        sock, channel.offered = getattr(channel, 'offered', None), None
        if sock is None:
            self._disconnect(f'Received open failure for non-opening channel {channel.chanid}.')
        sock.close()
        self.forget(channel)

    def _adjust(self, m):
        if not self._authenticated:
            self._unimplemented(m)
        elif channel := self.channels.get(m.get_int()):
            channel._window_adjust(m)

    def _data(self, m):
        channel = self._channel(m, 'data')
        if channel is None or not channel.live:
            return
        try:
            self.give_back(channel, channel.take(m.get_binary()))
        except Unforgivable as reason:
            self._disconnect(str(reason))

    def _extended_data(self, m):
        channel = self._channel(m, 'extended data')
        if channel and channel.live and channel.eof_received:
            self._disconnect(f'Received extended_data after EOF on channel {channel.chanid}.')

    def _eof(self, m):
        if channel := self._channel(m, 'ieof'):
            channel._handle_eof(m)

    def _close(self, m):
        if channel := self._channel(m, 'oclose'):
            channel.client_closed()

    def _channel_request(self, m):
        if not self._authenticated:
            self._unimplemented(m)
            return
        number, kind, answered = m.get_int(), m.get_text(), m.get_boolean()
        channel = self.channels.get(number)
        if channel is None:
            self._disconnect(f'server_input_channel_req: unknown channel {number}')
        begin = None
        if kind == 'exec' and channel.kind == 'session' and not channel.live and not channel.close_sent:
            begin = self.account.run(channel, m.get_binary())
        try:
            if begin:
                self._become_live(channel)
            if answered and not channel.close_sent:
                self.send(SUCCESS if begin else FAILURE, channel.remote_chanid)
        finally:
            # Whatever becomes of the answer: a command that runs is one that hears of the connection's end.
            if begin:
                begin()

    # Global requests (serverloop.c)

    def _global_request(self, m):
        if not self._authenticated:
            self._unimplemented(m)
            return
        kind, answered = m.get_text(), m.get_boolean()
        self.account.count[kind] += 1
        good, port = False, ()
        if kind == 'tcpip-forward':
            address, wanted = m.get_text(), m.get_int()
            got = None if not answered and not wanted else self.account.listen(address, wanted)
            good, port = got is not None, () if wanted else (got,)
        elif kind == 'cancel-tcpip-forward':
            good = self.account.unlisten(m.get_text(), m.get_int())
        elif kind == 'no-more-sessions@openssh.com':
            good = self._last_session = True
        if answered:
            self.send(*(REQUEST_SUCCESS, *port) if good else (REQUEST_FAILURE,))


def _message(kind, *fields):
    m = paramiko.Message()
    m.add_byte(bytes([kind]))
    for field in fields:
        if isinstance(field, bool):
            m.add_boolean(field)
        elif isinstance(field, int):
            m.add_int(field)
        else:
            m.add_string(field)
    return m
