"""Pythonista starts no processes: iOS does not let it."""

import os

import _posixsubprocess


def _refuse(*args, **kwargs):
    raise OSError(1, 'Operation not permitted')


_posixsubprocess.fork_exec = _refuse
os.fork = os.posix_spawn = os.posix_spawnp = os.system = _refuse
