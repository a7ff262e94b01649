#!/usr/bin/env python3
"""Many sign-ins on a bad day: python3 tests/tools/soak.py --logins 200 [--seed N] [--jobs N]

Each runs the script against an embedded server of its own. While the person signs in, the app is frozen, the
connection cut, the network down or silent: at the moments that matter, such as when the redirect reaches the
CLI or when its answer leaves. At the end a table, and status 1 where a goal was missed (but for the seconds).
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

from embedded import EmbeddedServer
from harness import Home, Script
from witness import LOST, Person, Witness

PATIENCE = 60.0


# --- One bad day --------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one sign-in."""

    number: int
    story: str
    signed_in: bool
    page: bool              # the browser ended on the page that says so
    callbacks: int          # how often the CLI was given the redirect
    seconds: float | None   # until the page since all was well again; None where it was before the redirect
    left: list
    report: str = ''

    @property
    def faults(self):
        """What a goal was missed by."""
        return [text for text, bad in (
            ('not signed in', not self.signed_in), ('no page', not self.page),
            (f'{self.callbacks} deliveries', self.callbacks > 1), (f'left: {self.left}', self.left)) if bad]


class BadDay:
    """What goes wrong in one sign-in, and when, as chance has it."""

    MOMENTS = ('started', 'opened', 'signing in', 'waiting',
               'callback arriving', 'callback answered', 'success arriving', 'success answered', 'ending')
    TROUBLES = ('freeze', 'freeze', 'freeze and cut', 'freeze and cut', 'nap', 'cut', 'outage', 'silence')

    def __init__(self, chance, server):
        self._chance, self._server = chance, server
        self._script = None
        self._lock = threading.Lock()
        self._wounds = set()        # what is not well now
        self._timers = []
        self.well_since = 0.0
        self.witness = Witness(server)
        self._plan = [(chance.choice(self.MOMENTS), chance.choice(self.TROUBLES))
                      for _ in range(chance.randint(1, 3))]
        self.lost = chance.random() < 0.5       # whether a redirect is lost when it is cut on its way

    def begin(self, script):
        """Now `script` runs."""
        self._script = script
        for kind in ('callback', 'success'):
            for state in ('arriving', 'answered'):
                self.witness.at(f'{kind} {state}', lambda moment=f'{kind} {state}': self.now(moment))
        self.witness.at('success answered', self._last_answer)

    def _last_answer(self):
        self._later(self._chance.uniform(0, 0.3), lambda: self.now('ending'))
        return self.now('success answered')

    def __str__(self):
        return ', '.join(f'{trouble} at "{moment}"' for moment, trouble in self._plan)

    def now(self, moment):
        """The moment has come: what was planned for it happens."""
        troubles = [trouble for when, trouble in self._plan if when == moment]
        for trouble in troubles:
            getattr(self, '_' + trouble.replace(' ', '_'))()
        cut = any(word in trouble for trouble in troubles for word in ('cut', 'outage'))
        return LOST if cut and self.lost and moment == 'callback arriving' else None

    def end(self):
        """Nothing goes wrong any more."""
        for timer in self._timers:
            timer.join()

    def _for_a_while(self, seconds, wound, heal):
        """Something is not well for `seconds`; where it is already, that is enough."""
        def end():
            heal()
            with self._lock:
                self._wounds.discard(wound)
                self.well_since = time.monotonic()
        with self._lock:
            if wound in self._wounds:
                return
            self._wounds.add(wound)
        self._later(seconds, end)

    def _later(self, seconds, action):
        timer = threading.Timer(seconds, action)
        self._timers.append(timer)
        timer.start()

    def _stop(self, seconds):
        def wake():
            with contextlib.suppress(ProcessLookupError):
                self._script.resume()
        if self._script.process.poll() is None:
            self._script.stop()
            self._for_a_while(seconds, 'frozen', wake)

    def _freeze(self):
        self._stop(self._chance.uniform(4.1, 6.0))

    def _nap(self):
        self._stop(self._chance.uniform(0.2, 3.0))

    def _cut(self):
        self._server.cut()

    def _freeze_and_cut(self):
        self._freeze()
        self._cut()

    def _outage(self):
        self._server.stop_listening()
        self._for_a_while(self._chance.uniform(0.5, 4.0), 'offline', self._server.listen_again)
        self._server.cut()

    def _silence(self):
        self._server.freeze()
        self._for_a_while(self._chance.uniform(0.5, 4.0), 'silent', self._server.thaw)


def sign_in_once(seed, number):
    """One sign-in on a bad day; its Outcome."""
    chance = random.Random(f'{seed} {number}')
    with EmbeddedServer() as server, tempfile.TemporaryDirectory(prefix='soak-') as folder:
        server.environment['STAND_IN_EXCHANGE'] = chance.choice(('0', '0', '0.5'))
        home = Home(pathlib.Path(folder, 'home'))
        home.trust(server)
        home.make_key(server)
        day = BadDay(chance, server)
        script = Script(home, f'{server.user}@{server.address}:{server.port}')
        try:
            return _live_through(number, day, script, server, home, chance)
        finally:
            script.close()


def _live_through(number, day, script, server, home, chance):
    day.begin(script)
    script.wait_for('connected')
    page, seconds, trouble = None, None, ''
    try:
        day.now('started')
        person = Person(script.wait_for('sign-in', timeout=PATIENCE)['url'], timeout=PATIENCE)
        day.now('opened')
        time.sleep(chance.uniform(0, 1))
        day.now('signing in')
        time.sleep(chance.uniform(0, 1.5))
        waiting = person.in_background(person.see_it_through, person.redirect())
        sent = time.monotonic()
        day.now('waiting')
        page = waiting(PATIENCE)
        seconds = time.monotonic() - day.well_since if day.well_since > sent else None
        script.wait(PATIENCE)
    except (AssertionError, OSError) as error:
        trouble = f'{error!r}\n'
    day.end()
    left = server.leftovers()
    if script.process.poll() is not None:
        left += home.leftovers() + script.leftovers()
    outcome = Outcome(
        number, str(day) + (' (lost on its way)' if day.lost else ''),
        script.process.poll() == 0 and (server.home / '.codex/auth.json').exists(),
        page is not None and page.status == 200 and 'Signed in' in page.text,
        len(day.witness.callbacks), seconds, left)
    if not outcome.faults:
        return outcome
    shown = f'{trouble}page: {page}\ndelivered: {day.witness.requests}\n{script.report()}'
    return dataclasses.replace(outcome, report=shown)


# --- All of them --------------------------------------------------------------------------------------------

def soak(logins, seed, jobs):
    """The Outcomes of many sign-ins, as they come."""
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn')) as pool:
        running = [pool.submit(sign_in_once, seed, number) for number in range(logins)]
        try:
            for done in concurrent.futures.as_completed(running):
                yield done.result()
        finally:
            for one in running:
                one.cancel()


def table(outcomes):
    """The result in a few lines."""
    count = len(outcomes)
    waits = sorted(outcome.seconds for outcome in outcomes if outcome.seconds is not None) or [0.0]
    rows = (
        ('signed in without a second sign-in', sum(outcome.signed_in for outcome in outcomes), count),
        ('last page shown in the browser', sum(outcome.page for outcome in outcomes), count),
        ('redirects delivered twice', sum(outcome.callbacks > 1 for outcome in outcomes), 0),
        ('logins that left something behind', sum(bool(outcome.left) for outcome in outcomes), 0),
        ('seconds from wake-up to page, p50', f'{waits[len(waits) // 2]:.2f}', ''),
        ('seconds from wake-up to page, p95', f'{waits[int(len(waits) * 0.95)]:.2f}', 'below 2'),
        ('seconds from wake-up to page, max', f'{waits[-1]:.2f}', ''),
    )
    return '\n'.join(f'{what:38}{found:>8}   {"" if goal == "" else f"goal: {goal}"}'.rstrip()
                     for what, found, goal in rows)


def main():
    """Soak, and say how it went; the exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--logins', type=int, default=200)
    parser.add_argument('--seed', type=int, default=None, help='the same seed brings the same bad days')
    parser.add_argument('--jobs', type=int, default=3 * (os.cpu_count() or 1), help='so many at a time')
    options = parser.parse_args()
    seed = random.randrange(10 ** 6) if options.seed is None else options.seed
    began, outcomes = time.monotonic(), []
    for outcome in soak(options.logins, seed, options.jobs):
        outcomes.append(outcome)
        if outcome.faults:
            print(f'login {outcome.number}: {"; ".join(outcome.faults)}')
            print(f'  {outcome.story}', outcome.report, sep='\n', flush=True)
    print(f'{len(outcomes)} logins, seed {seed}, {time.monotonic() - began:.0f} s')
    print(table(outcomes))
    return int(any(outcome.faults for outcome in outcomes))


if __name__ == '__main__':
    sys.exit(main())
