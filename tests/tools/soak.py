#!/usr/bin/env python3
"""Many sign-ins on bad days: python3 tests/tools/soak.py --logins 300 [--seed N] [--jobs N] [--only NUMBER]

Each runs the script against an embedded server of its own, at a distance of its own. While the person signs in, the app
is frozen or killed, the connection cut (reset, silent, ended; and the next one at any of its bytes), the network down,
listeners are taken, clocks set, a second end of the same login is started: at the moments that matter, such as when the
redirect reaches the CLI or when its answer leaves. A person signs in once. At the end a table, and status 1 where a goal
was missed. The same seed brings the same bad days, as far as a day of several threads can be the same twice.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import random
import sys
import tempfile
import threading
import time

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))
if __name__ == '__main__':
    import environment
    environment.ensure()

import forkserver
import harms
import waiting
from embedded import EmbeddedServer
from harness import Home, Script
from relay import Relay
from witness import LOST, Person, Witness

PATIENCE = 150.0
"""Seconds: far beyond what four seconds from here to there and back take, with three bad moments."""
HOURS = 6 * 3600
ROUND_TRIPS = (0, 0, 0, 0.05, 0.2, 0.2, 0.5, 1, 1, 2, 4)
TOLD_BEFORE = ('connect', 'connection', 'link')
"""Ends of a run that has not shown its address yet: the network's, told as they are. The person starts it again."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one sign-in."""

    number: int
    story: str
    signed_in: bool
    page: bool              # the browser ended on the page that says so, or the app that would have shown it was killed
    callbacks: int          # how often the CLI was given a redirect
    untrue: list            # what a run said that is not so
    left: list
    seconds: float = 0.0
    report: str = ''

    @property
    def faults(self):
        """What a goal was missed by."""
        return [text for text, bad in (
            ('a second sign-in is needed', not self.signed_in), ('no page', not self.page),
            (f'delivered {self.callbacks} times', self.callbacks > 1),
            (f'untrue: {"; ".join(self.untrue)}', self.untrue), (f'left: {self.left}', self.left)) if bad]


# --- The phone ----------------------------------------------------------------------------------------------

class Phone:
    """Where the script runs, again and again if it is killed: with one home, one pair of clocks, one person."""

    def __init__(self, folder, server, relay, words):
        self.home = Home(folder / 'home')
        self.home.known_hosts.write_text(server.known_hosts().replace(f':{server.port} ', f':{relay.port} '))
        self.home.make_key(server)
        self.clocks, self.taker = harms.Clocks(folder), harms.Taker(folder)
        self._program = harms.started_with(folder / 'harmed.py', self.clocks, self.taker)
        self._words = [*words, '-p', relay.port, f'{server.user}@127.0.0.1']
        self.runs, self.killed = [], set()
        self.lock = threading.Lock()

    def start(self, *words):
        """The script; with words, another end of the same login."""
        script = Script(self.home, *(words or self._words), script=self._program)
        with self.lock:
            self.runs.append(script)
        return script

    @property
    def main(self):
        """The run that the person sees: the last that was not started beside another."""
        return next(run for run in reversed(self.runs) if '--finish' not in run.arguments)

    def lives(self, script):
        return script.process.poll() is None

    def kill(self):
        """As iOS ends an app; the person opens it again later."""
        script = self.main
        if self.lives(script):
            self.killed.add(script)
            script.kill()

    def again(self):
        if not self.lives(self.main):
            self.start()


# --- One bad day --------------------------------------------------------------------------------------------

class BadDay:
    """What goes wrong in one sign-in, and when, as chance has it."""

    MOMENTS = ('connecting', 'started', 'opened', 'signing in', 'waiting', 'waiting',
               'callback arriving', 'callback answered', 'success arriving', 'success answered', 'ending')
    TROUBLES = ('freeze', 'freeze and cut', 'freeze and cut', 'nap', 'cut', 'cut twice', 'cut twice', 'silence', 'outage',
                'distance', 'listeners', 'clock', 'kill', 'two ends')
    WHOLE_CONNECTION = {'up': 5000, 'down': 4500}
    """Bytes of a reconnection each way, about: anywhere in them it may be cut."""

    def __init__(self, chance, server, relay, phone):
        self._chance, self._server, self._relay, self._phone = chance, server, relay, phone
        self._lock, self._timers, self._wounds = threading.Lock(), [], set()
        self.witness = Witness(server)
        self.slept = self.address = None
        self._plan = [(chance.choice(self.MOMENTS), chance.choice(self.TROUBLES)) for _ in range(chance.randint(1, 3))]
        self._plan = [(moment, trouble) for moment, trouble in self._plan
                      if (moment != 'connecting' or trouble in ('cut', 'cut twice', 'distance', 'outage'))
                      and (moment not in ('connecting', 'started') or trouble != 'two ends')]
        self._lost = chance.random() < 0.5      # whether a redirect is lost when it is cut on its way
        self._done = []
        for kind in ('callback', 'success'):
            for state in ('arriving', 'answered'):
                self.witness.at(f'{kind} {state}', lambda moment=f'{kind} {state}': self.now(moment))
        self.witness.at('success answered', self._last_answer)

    def __str__(self):
        plan = ', '.join(f'{trouble} at "{moment}"' for moment, trouble in self._plan) or 'nothing'
        return f'{plan}{" (lost on its way)" if self._lost else ""}; done: {"; ".join(self._done) or "nothing"}'

    def _last_answer(self):
        self._later(self._chance.uniform(0, 0.3), lambda: self.now('ending'))
        return self.now('success answered')

    def now(self, moment):
        """The moment has come: what was planned for it happens."""
        troubles = [trouble for when, trouble in self._plan if when == moment]
        for trouble in troubles:
            try:
                getattr(self, '_' + trouble.replace(' ', '_'))()
            except ProcessLookupError:
                self._did('too late: it had ended')
        cut = any(word in trouble for trouble in troubles for word in ('cut', 'outage'))
        return LOST if cut and self._lost and moment == 'callback arriving' else None

    def end(self):
        """Nothing goes wrong any more."""
        for timer in self._timers:
            timer.join()

    def _did(self, words):
        self._done.append(words)

    def _later(self, seconds, action):
        timer = threading.Timer(seconds, action)
        self._timers.append(timer)
        timer.start()

    def _for_a_while(self, seconds, wound, heal):
        """Something is not well for `seconds`. False where it is already: then that is enough."""
        def end():
            heal()
            with self._lock:
                self._wounds.discard(wound)
        with self._lock:
            if wound in self._wounds:
                return False
            self._wounds.add(wound)
        self._later(seconds, end)
        return True

    # What can happen

    def _stop(self, seconds):
        script = self._phone.main

        def wake():
            with contextlib.suppress(ProcessLookupError):
                script.resume()
        if self._phone.lives(script):
            script.stop()
            self._did(f'stopped for {seconds:.1f} s')
            if self._chance.random() < 0.2:
                self._phone.clocks.move(asleep=100)
                self._did('which were 100 more on the device')
            self._for_a_while(seconds, 'frozen', wake)

    def _freeze(self):
        self._stop(self._chance.uniform(4.1, 6.0))

    def _nap(self):
        self._stop(self._chance.uniform(0.2, 3.0))

    def _cut(self):
        how = self._chance.choice(('reset', 'reset', 'silence', 'end'))
        self._relay.cut(how)
        self._did(f'cut: {how}')

    def _freeze_and_cut(self):
        self._freeze()
        self._cut()

    def _cut_twice(self):
        """The connection is cut, and the one after it at any of its bytes."""
        way = self._chance.choice(('up', 'down'))
        how, at = self._chance.choice(('reset', 'silence', 'end')), self._chance.randrange(self.WHOLE_CONNECTION[way])
        self._relay.cut('reset')
        self._relay.cut(how, **{way: at})
        self._did(f'cut: reset, then {how} at byte {at} {way}')

    def _outage(self):
        self._network(self._chance.choice(('refused', 'silent', 'mute')), 'reset')

    def _silence(self):
        self._network('mute', 'silence')

    def _network(self, door, how):
        seconds = self._chance.uniform(0.5, 5.0)
        if self._for_a_while(seconds, 'offline', self._relay.restore):
            self._relay.door(door)
            self._relay.cut(how)
            self._did(f'network {door} for {seconds:.1f} s, what was open: {how}')

    def _distance(self):
        round_trip = self._chance.choice(ROUND_TRIPS)
        self._relay.far(round_trip)
        self._did(f'{round_trip} s there and back')

    def _listeners(self):
        script, how = self._phone.main, self._chance.choice(('readable', 'gone'))
        if script.events and self._phone.lives(script):     # so it is one that has begun
            self._phone.taker.ask(script, how)
            self._did(f'listeners: {how}')

    def _clock(self):
        hours = self._chance.choice((HOURS, -HOURS))
        self._phone.clocks.move(wall=hours)
        self._did(f'clock set by {hours // 3600} h')

    def _kill(self):
        self._phone.kill()
        pause = self._chance.uniform(0.2, 3.0)
        self._did(f'killed, opened again after {pause:.1f} s')
        self._for_a_while(pause, 'killed', self._phone.again)

    def _two_ends(self):
        """While the app sleeps, the same login is gone on with by a second run: by the page's address, or just so."""
        if self.address and self._chance.random() < 0.5:
            self._freeze()
            self._phone.start('--finish', self.address)
            self._did('and --finish beside it')
        else:
            self._freeze()
            pause = self._chance.uniform(0.2, 2.0)
            self._later(pause, self._phone.start)
            self._did(f'and started a second time after {pause:.1f} s')


# --- One sign-in --------------------------------------------------------------------------------------------

def sign_in_once(seed, number):
    """One sign-in on a bad day; its Outcome."""
    forkserver.prepare()
    chance, began = random.Random(f'{seed} {number}'), time.monotonic()
    round_trip = chance.choice(ROUND_TRIPS)
    words = chance.choice(([], ['-o', 'ServerAliveInterval=2'], ['-o', 'ServerAliveInterval=2', '-o', 'ServerAliveCountMax=1']))
    with EmbeddedServer() as server, Relay(server, round_trip) as relay, tempfile.TemporaryDirectory(prefix='soak-') as folder:
        server.environment['STAND_IN_EXCHANGE'] = chance.choice(('0', '0', '0.5'))
        phone = Phone(pathlib.Path(folder), server, relay, words)
        day = BadDay(chance, server, relay, phone)
        trouble, page = '', None
        try:
            page = _live_through(chance, day, phone)
            waiting.until(lambda: not any(map(phone.lives, phone.runs)) and not day._wounds, 'all runs end', PATIENCE)
        except (AssertionError, OSError) as error:
            trouble = f'{error!r}\n'
        day.end()
        relay.cut('reset')          # the server learns of what fell silent, as it does in the end
        for script in phone.runs:
            with contextlib.suppress(AssertionError):
                script.wait(0.1)                        # to have read all that it said
        saved = (server.home / '.codex/auth.json').exists()
        outcome = Outcome(
            number, f'{round_trip} s there and back{", " + " ".join(words) if words else ""}: {day}',
            saved and any(script.process.poll() == 0 for script in phone.runs),
            page is not None and page.status == 200 and 'Signed in' in page.text or bool(phone.killed),
            len(day.witness.callbacks), _untrue(phone, saved), _left(server, phone), time.monotonic() - began)
        if outcome.faults:
            reports = '\n'.join(script.report() for script in phone.runs)
            outcome = dataclasses.replace(
                outcome, report=f'{trouble}page: {page}\ndelivered: {day.witness.requests}\n{reports}\n{server.report()}')
        for script in phone.runs:
            script.close()
        return outcome


def _live_through(chance, day, phone):
    """The person's side of it; the page at the end."""
    phone.start()
    day.now('connecting')
    address = _shown_address(phone, day)
    day.now('opened')
    time.sleep(chance.uniform(0, 1))
    person = Person(address, timeout=PATIENCE)
    redirect = day.address = person.redirect()
    day.now('signing in')
    time.sleep(chance.uniform(0, 1.5))
    waiting_for_page = person.in_background(person.see_it_through, redirect)
    day.now('waiting')
    return waiting_for_page(2 * PATIENCE)


def _shown_address(phone, day):
    """The address of the sign-in page, from whichever run shows one; those that the network ended before are started again."""
    deadline, started = time.monotonic() + PATIENCE, False
    while time.monotonic() < deadline:
        script = phone.main
        events = {event['event']: event for event in list(script.events)}
        if 'connected' in events and not started:
            started = True
            day.now('started')
        elif 'sign-in' in events and 'opened' in events:
            return events['sign-in']['url']
        elif not phone.lives(script) and script not in phone.killed:
            script.wait()
            phone.start()
        time.sleep(0.05)
    raise AssertionError('no address was shown')


def _untrue(phone, saved):
    """What runs said that is not so."""
    found = []
    for number, script in enumerate(phone.runs):
        status, events = script.process.poll(), list(script.events)
        said = {event['event']: event for event in events}
        error = said.get('error', {})
        if 'Traceback' in script.stderr:
            found.append(f'run {number}: a traceback')
        if script in phone.killed:
            continue
        if status is None:
            found.append(f'run {number} never ended')
        elif status == 0 and not saved:
            found.append(f'run {number} ended with 0, and nobody is signed in')
        elif status and 'callback' not in said and (error.get('kind') in TOLD_BEFORE and 'sign-in' not in said
                                                    or error.get('kind') == 'listen' and number):
            pass            # told as it is: the network was not there, or the run beside it holds the port
        elif status:
            found.append(f'run {number} ended with {status}: {error.get("kind")}: {error.get("message")}')
        if any(event['event'] == 'suspended' and event['seconds'] > 3600 for event in events):
            found.append(f'run {number}: asleep for hours')
    return found


def _left(server, phone):
    """What there is still, here and there, though all is over."""
    left = server.leftovers() + [f'file {path}' for path in server.home.rglob('codex-login.*')]
    if not any(map(phone.lives, phone.runs)):
        left += phone.home.leftovers() + [line for script in phone.runs for line in script.leftovers()]
    return left


# --- All of them --------------------------------------------------------------------------------------------

def soak(numbers, seed, jobs):
    """The Outcomes of these sign-ins, as they come."""
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn')) as pool:
        running = [pool.submit(sign_in_once, seed, number) for number in numbers]
        try:
            for done in concurrent.futures.as_completed(running):
                yield done.result()
        finally:
            for one in running:
                one.cancel()


def table(outcomes):
    """The result in a few lines."""
    count, took = len(outcomes), sorted(outcome.seconds for outcome in outcomes)
    rows = (
        ('signed in by one sign-in', sum(outcome.signed_in for outcome in outcomes), count),
        ('last page shown in the browser', sum(outcome.page for outcome in outcomes), count),
        ('redirects delivered twice', sum(outcome.callbacks > 1 for outcome in outcomes), 0),
        ('logins with an end told untruly', sum(bool(outcome.untrue) for outcome in outcomes), 0),
        ('logins that left something behind', sum(bool(outcome.left) for outcome in outcomes), 0),
        ('seconds from start to end, median', f'{took[len(took) // 2]:.0f}', ''),
        ('seconds from start to end, longest', f'{took[-1]:.0f}', ''),
    )
    return '\n'.join(f'{what:38}{found:>8}   {"" if goal == "" else f"goal: {goal}"}'.rstrip() for what, found, goal in rows)


def main():
    """Soak, and say how it went; the exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--logins', type=int, default=300)
    parser.add_argument('--seed', type=int, default=None, help='the same seed brings the same bad days')
    parser.add_argument('--jobs', type=int, default=8 * (os.cpu_count() or 1), help='so many at a time')
    parser.add_argument('--only', type=int, action='append', metavar='NUMBER', help='this login of that seed; may be repeated')
    parser.add_argument('--reports', action='store_true', help='with all that was said in logins that missed a goal')
    options = parser.parse_args()
    seed = random.randrange(10 ** 6) if options.seed is None else options.seed
    began, outcomes = time.monotonic(), []
    for outcome in soak(options.only or range(options.logins), seed, options.jobs):
        outcomes.append(outcome)
        if outcome.faults:
            print(f'login {outcome.number}: {"; ".join(outcome.faults)}\n  {outcome.story}', flush=True)
            if options.reports or options.only:
                print(outcome.report, flush=True)
    print(f'{len(outcomes)} logins, seed {seed}, {time.monotonic() - began:.0f} s')
    print(table(outcomes))
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == '__main__':
    sys.exit(main())
