"""Ctrl-C and SIGTERM: how they end a command.

Belongs here: handlers of these signals, and exit codes. Does not belong here: what is said after
them (`interrupted`), and what a step keeps (`pipeline.publication`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    Args:
        number: The signal.

    Attributes:
        code: The command's exit code, as a shell gives it for a program that the signal ended: 130
            after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.code = 128 + number


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise `Interrupted` on SIGTERM as on Ctrl-C: a container or a service is stopped by it.

    By default SIGTERM ends Python at once, without a word. The first process of a container would
    not get it at all. Both have the same function: Dagster gives SIGTERM what SIGINT has whenever a
    part of a run ends, and that would be nothing in a script's background job.

    A library may make another error of it. A plain `KeyboardInterrupt` that is raised because of
    that becomes the `Interrupted` of the first signal that came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can have handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if before[signal.Signals(number)] is not signal.SIG_IGN:
            came.append(number)
            raise Interrupted(number)

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        _say_nothing_of_half_made_contexts()
        if isinstance(error, Interrupted) or not came:
            raise
        raise Interrupted(came[0]) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_nothing_of_half_made_contexts() -> None:
    """Keep Python from printing a stack trace of what an interruption left of Dagster's resources.

    `UnboundInitResourceContext` has a `__del__` that needs attributes which a signal in its
    `__init__` keeps it from setting.
    """
    before = sys.unraisablehook

    def told(found: sys.UnraisableHookArgs) -> None:
        if "UnboundInitResourceContext.__del__" not in f"{found.object}":
            before(found)

    sys.unraisablehook = told


@contextmanager
def noticed() -> Iterator[Callable[[], Interrupted | None]]:
    """Notice Ctrl-C and SIGTERM, whoever handles them; the function tells which one came.

    Dagster replaces the handlers of both several times in a run, and not all of them pass on what
    they got. Python writes each signal to this pipe as well.

    In a script's background job, where Ctrl-C is ignored, it is noticed nevertheless: Dagster ends
    a step by it there, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread gets signals
        return
    came: list[int] = []
    reading, writing = os.pipe()
    try:
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        ours = (signal.SIGINT, signal.SIGTERM)
        try:
            yield lambda: next((Interrupted(number) for number in came if number in ours), None)
        finally:
            signal.set_wakeup_fd(before)
            with suppress(BlockingIOError):
                came.extend(os.read(reading, 4096))
    finally:
        os.close(reading)
        os.close(writing)
