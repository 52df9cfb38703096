"""One way for every benchmark to end: what it has started ends with it, also on Ctrl-C and SIGTERM.

A benchmark's parts are children in contexts. Python leaves contexts on Ctrl-C, which is an exception,
and not on SIGTERM, which ends the process on the spot; so SIGTERM is made an exception, too.
"""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def run_to_its_end(main: Callable[[], int]) -> NoReturn:
    """Exit with the status that `main` answers, or with 128 and the number of the signal that ended it."""
    signal.signal(signal.SIGTERM, _end)
    try:
        status = main()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)


def _end(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not cut short what the first has begun
    sys.exit(128 + number)
