"""What a run of a script leaves in the process that lives on: counted by the apps' stand-ins after each run."""

import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings


def count(own=()):
    """{what: how many, or which}; `own` are the threads of the app itself."""
    descriptors = {name: _target(name) for name in os.listdir('/proc/self/fd')}
    loggers = [logging.getLogger(), *(logger for logger in logging.Logger.manager.loggerDict.values()
                                      if isinstance(logger, logging.Logger))]
    return {
        'threads': sorted(thread.name for thread in threading.enumerate() if thread not in own),
        'native threads': max(0, len(os.listdir('/proc/self/task')) - len(own)),
        'descriptors': sum(target is not None for target in descriptors.values()),
        'sockets': sum((target or '').startswith('socket:') for target in descriptors.values()),
        'signal handlers': {number.name: repr(signal.getsignal(number)) for number in signal.valid_signals()
                            if isinstance(number, signal.Signals)},
        'logging handlers': sum(not isinstance(handler, logging.NullHandler) for logger in loggers for handler in logger.handlers),
        'logging levels': {logger.name: logger.level for logger in loggers if logger.level},
        'warnings filters': len(warnings.filters),
        'streams': [id(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)],
        'path': len(sys.path),
        'modules lent': [name for name in ('bcrypt', 'nacl', 'nacl.signing', 'invoke') if name in sys.modules],
        'folder': os.getcwd(),
    }


def _target(descriptor):
    try:
        return os.readlink(f'/proc/self/fd/{descriptor}')
    except OSError:
        return None         # the one that listed the folder


def settled(own, before):
    """The count once nothing is left that was not there `before`, or when patience is over."""
    deadline = time.monotonic() + float(os.environ.get('STAND_IN_PATIENCE', 10))
    while True:
        gc.collect()                # what only a circle keeps is not kept
        now = count(own())
        if time.monotonic() > deadline or not more(before, now):
            return now
        time.sleep(0.05)


def more(before, now):
    """Sentences: what is there now that was not before."""
    left = [f'{what}: {before[what]} before, {now[what]} now' for what in now if now[what] != before[what] and not (
        isinstance(now[what], int) and now[what] < before[what])]
    frames = sys._current_frames()
    return left + [''.join([f'{thread.name} is here:\n', *traceback.format_stack(frames[thread.ident])[-6:]])
                   for thread in threading.enumerate() if left and thread.name in now['threads'] and thread.ident in frames]
