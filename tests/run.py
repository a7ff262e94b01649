#!/usr/bin/env python3
"""Runs the tests: the quick ones, all of them, or those that the arguments name.

    python3 tests/run.py                        the quick tier: parsers, one story of each kind, the stand-ins' contracts
    python3 tests/run.py --all                  everything that this machine can run, beside each other
    python3 tests/run.py --all --require-all    as in CI: what needs a real part that is missing is a failure
    python3 tests/run.py tests/test_x.py -k y   those tests; any other argument is pytest's

It makes its own environment on first use. What needs a real part that is missing (sshd, codex, Chromium, …)
is skipped, and the summary says how to get it.
"""

import os
import pathlib
import sys

import environment

TESTS = pathlib.Path(__file__).resolve().parent
CHOOSING = ('-k', '-m', '--lf', '--last', '--co', '--fixtures', '--markers')
HOW_TO_RUN_THE_REST = f'These were the quick ones. Everything: python3 {os.path.relpath(TESTS)}/run.py --all'


def main():
    """Run pytest on this folder, or on what the arguments name; its exit status."""
    environment.ensure()
    import pytest
    arguments = [word for word in sys.argv[1:] if word != '--all']
    named = any(pathlib.Path(word.partition('::')[0]).exists() for word in arguments)
    everything = '--all' in sys.argv or '--require-all' in arguments
    quick = not (everything or named or any(word.startswith(CHOOSING) for word in arguments))
    if quick:
        arguments += ['-m', 'quick', *files_with_quick_tests()]
    if quick or everything:
        arguments += ['-n', str(beside_each_other()), '--dist', 'worksteal']
    status = pytest.main([f'--rootdir={TESTS}', '-rs', *arguments, *([] if named or quick else [str(TESTS)])])
    if quick:
        print(HOW_TO_RUN_THE_REST)
    return status


def files_with_quick_tests():
    """The others need not be read."""
    return [str(file) for file in sorted(TESTS.glob('test_*.py')) if 'mark.quick' in file.read_text(encoding='utf-8')]


def beside_each_other():
    """How many tests run at once: most of a story is waiting for somebody else."""
    return 3 * (len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())


if __name__ == '__main__':
    sys.exit(main())
