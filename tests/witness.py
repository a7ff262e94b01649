"""Who looks on while a login goes through a bad day: a witness at the server, a person at the browser."""

import contextlib
import socket
import threading
import time

import waiting
from harness import Browser

LOST = object()
"""What an action of a Witness returns when the request it was told of shall get no further."""


class Witness:
    """Stands between a server's forwards and its CLI: notes what is delivered, and acts at exact moments.

        witness.at('callback arriving', server.cut)

    Moments are 'callback' or 'success', then 'arriving' (it is at the server, the CLI has not got it) or
    'answered' (the CLI has, and its answer is at the server). An action happens once.
    """

    def __init__(self, server):
        self.requests = []
        self._actions = {}
        self._reach = server.reach
        server.reach = self.reach

    def at(self, moment, action):
        """Do something at a moment, before the bytes go on. Returns an Event that is set when it was done."""
        done = threading.Event()
        self._actions[moment] = action, done
        return done

    @property
    def callbacks(self):
        """The callbacks that the CLI was given, oldest first."""
        return [target for target in self.requests if target.startswith('/auth/callback')]

    @property
    def to_success(self):
        """The requests for the last page that the CLI was given."""
        return [target for target in self.requests if target.startswith('/success')]

    def reach(self, host, port):
        """As the server's own, by way of this witness."""
        program = self._reach(host, port)
        near, far = socket.socketpair()
        threading.Thread(target=self._carry, args=(far, program), daemon=True).start()
        return near

    def _carry(self, phone, program):
        with contextlib.suppress(OSError), phone, program:
            request = b''
            while b'\r\n\r\n' not in request:
                data = phone.recv(65536)
                if not data:
                    return
                request += data
            target = request.split()[1].decode()
            kind = target.partition('?')[0].rpartition('/')[2]
            if self._act(f'{kind} arriving') is LOST:
                return
            self.requests.append(target)
            program.sendall(request)
            answer = b''.join(iter(lambda: program.recv(65536), b''))
            self._act(f'{kind} answered')
            phone.sendall(answer)

    def _act(self, moment):
        action, done = self._actions.pop(moment, (None, None))
        if action is None:
            return None
        try:
            return action()
        finally:
            done.set()


class Person(Browser):
    """A browser in view: it follows pages that ask again by themselves, and loads anew what failed."""
    PAUSE = 0.2             # seconds; the pages say two, and a person takes longer

    def see_it_through(self, address):
        """The page that stays."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                page = self.follow(address)
                if 'http-equiv="refresh"' not in page.text:
                    return page
                address = page.url
            except OSError:
                if time.monotonic() > deadline:
                    raise
            waiting.let_pass(time.monotonic(), self.PAUSE)
