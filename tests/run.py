#!/usr/bin/env python3
"""Runs every test that can run on this machine: python3 tests/run.py [--require-all] [pytest arguments]

It makes its own environment on first use. What needs a real part that is missing (sshd, codex, Chromium, …)
is skipped, and the summary says how to get it; with --require-all, as in CI, that is a failure.
"""

import pathlib
import sys

import environment

TESTS = pathlib.Path(__file__).resolve().parent


def main():
    """Run pytest on this folder, or on what the arguments name; its exit status."""
    environment.ensure()
    import pytest
    arguments = sys.argv[1:]
    named = any(pathlib.Path(word.partition('::')[0]).exists() for word in arguments)
    return pytest.main([f'--rootdir={TESTS}', '-rs', *arguments, *([] if named else [str(TESTS)])])


if __name__ == '__main__':
    sys.exit(main())
