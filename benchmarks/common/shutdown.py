"""Clean shutdown of every benchmark: its child processes end with it, also on Ctrl-C and SIGTERM.

A benchmark's processes are started in context managers. Python leaves these on Ctrl-C, which raises an exception, but
not on SIGTERM, which ends the process at once. So SIGTERM is turned into an exception.
"""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Exit with the status that `main` returns, or with 128 plus the number of the signal that ended it."""
    signal.signal(signal.SIGTERM, _exit)
    try:
        status = main()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    sys.exit(status)


def _exit(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    sys.exit(128 + number)
