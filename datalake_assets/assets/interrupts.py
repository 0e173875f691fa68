"""Interrupts of a step: Ctrl-C, Terminate and SIGTERM, which can come twice.

Belongs here: what Dagster leaves open about them. Does not belong here: what a step keeps when it
is interrupted (`pipeline.publication`), and how a command ends (`cli.signals`).
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

REPEATS = 3.0
"""Seconds for which a further signal is taken for the first one, come again. What was answered is
kept in less in a folder, and in about as much in a bucket that is 30 ms away."""


@contextmanager
def repeated_once(seconds: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Take a signal that comes again within three seconds for the same one.

    `timeout` sends SIGTERM twice, and people press Ctrl-C again. Dagster raises an error for each,
    and the second would stop what keeps the answers after the first. A later one is for whoever
    does not want to wait.

    Args:
        seconds: The time, to measure by.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    found = ((number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM))
    before = {number: handler for number, handler in found if callable(handler)}
    since: float | None = None

    def once(number: int, frame: FrameType | None) -> None:
        nonlocal since
        now = seconds()
        if since is not None and now < since + REPEATS:
            return
        since = now
        before[signal.Signals(number)](number, frame)

    for number in before:
        signal.signal(number, once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
