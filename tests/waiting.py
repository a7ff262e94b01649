"""How a test waits: for something that has to come, with a limit for what never does."""

import time

PATIENCE = 60.0
"""Seconds until something counts as hung, on a machine that has other work, too. No test measures time."""
STEP = 0.02


def until(question, complaint='it never came', patience=PATIENCE):
    """The first answer that says something. Raises AssertionError."""
    deadline = time.monotonic() + patience
    while not (answer := question()):
        if time.monotonic() > deadline:
            raise AssertionError(f'waited {patience:g} s in vain: {complaint}')
        time.sleep(STEP)
    return answer


def eventually(question, patience=PATIENCE):
    """Ask until the answer is empty or patience is over; the last answer."""
    deadline = time.monotonic() + patience
    while (answer := question()) and time.monotonic() < deadline:
        time.sleep(STEP)
    return answer


def comes(question, within=PATIENCE):
    """Whether the answer becomes true in so many seconds; for what has to stay away, too."""
    return not eventually(lambda: not question(), within)


def still(growing, looks=20):
    """A question: how long a list is once it grows no more, as many looks in a row see it. None before."""
    seen = []

    def look():
        seen.append(len(growing))
        return seen[-1] if len(seen) >= looks and len(set(seen[-looks:])) == 1 else None
    return look


def let_pass(since, seconds):
    """Wait until so many seconds have passed since a moment: how long something sleeps, nothing else can tell."""
    time.sleep(max(0.0, since + seconds - time.monotonic()))
