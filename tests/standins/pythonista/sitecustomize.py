"""Pythonista starts no processes: iOS does not let it. A script that tries fails its test."""

import os

import _posixsubprocess
from _phone import violation


def _refuse(*args, **kwargs):
    violation(f'a process was started: {args!r:.200}')
    raise OSError(1, 'Operation not permitted')


_posixsubprocess.fork_exec = _refuse
os.fork = os.posix_spawn = os.posix_spawnp = os.system = _refuse
