"""The rate limit: at most so many requests a minute, for all threads and processes of one account.

Belongs here: when a request may be sent. Does not belong here: sending it, or trying it again.

The algorithm is GCRA with a burst of one: requests are spaced evenly, `60 / limit` seconds apart.
A limiter that allows a burst of its whole limit lets nearly twice the limit through in some
window (399 of 200 a minute were measured); spacing them holds the limit in every window, and
nobody waits long for the next one. The state is one number, the time from which the next request
may go, and a waiting thread holds no lock: it books its slot and sleeps, so it can be stopped.

Who keeps the state also supplies the time of the slots: here this machine's clock, for several
machines the clock of their database (`rate_limits.postgres`).
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import StoppedError


class RateLimiter:
    """Holds the threads of one process to a limit.

    Args:
        per_minute: Requests allowed in any sliding minute.
        slack: The part of the limit left unused, so that a request that was sent on time and
            travelled slowly does not arrive in the next minute's share.
        clock: What to wait by.
    """

    def __init__(
        self, per_minute: float, *, slack: float = 0.01, clock: Clock | None = None
    ) -> None:
        if not per_minute > 0 or not math.isfinite(per_minute):
            raise ValueError(f"requests per minute must be a positive number, not {per_minute!r}")
        if not 0 <= slack < 1:
            raise ValueError(f"slack is a share of the limit from 0 to below 1, not {slack!r}")
        self.per_minute = per_minute
        self._interval = 60.0 / (per_minute * (1.0 - slack))
        self._clock = clock or Clock()
        self._lock = threading.Lock()
        self._free = self._paused = -math.inf

    def acquire(self, stop: threading.Event, timeout: float = math.inf) -> float:
        """Wait until the next request may be sent.

        Args:
            stop: Set to give up waiting.
            timeout: Seconds to wait at most; when the slot lies further ahead, none is booked.

        Returns:
            Seconds waited.

        Raises:
            StoppedError: `stop` was set, or no slot is free before the timeout.
        """
        began = self._clock.seconds()
        while True:
            booked = self._book(began + timeout, stop)
            if booked is None:
                raise StoppedError("the rate limit has no room for a request before the deadline")
            slot, due = booked
            if self._clock.wait(due - self._clock.seconds(), stop):
                raise StoppedError("told to stop while waiting for the rate limit")
            # A pause that came meanwhile moved the slots behind it: this one is void.
            if self._paused_until(stop) <= slot:
                return max(0.0, self._clock.seconds() - began)

    def pause(self, seconds: float) -> None:
        """Let nobody send for this long, as after a 429; a longer pause under way stays."""
        with self._state() as (free, paused, write):
            until = self._clock.seconds() + seconds
            write(max(free, until), max(paused, until))

    def _book(self, latest: float, stop: threading.Event) -> tuple[float, float] | None:
        """Take the first free slot; None, and none is taken, when it comes after `latest`.

        Returns:
            The slot by the clock of who keeps the state, and by this process's clock, as `latest`
            is. Here they are one clock; `stop` ends the waiting of keepers that are far away.
        """
        with self._state() as (free, paused, write):
            at = max(self._clock.seconds(), free)
            if at > latest:
                return None
            write(at + self._interval, paused)
            return at, at

    def _paused_until(self, stop: threading.Event) -> float:
        """The end of the last pause, by the clock of who keeps the state."""
        with self._state() as (_, paused, _write):
            return paused

    @contextmanager
    def _state(self) -> Iterator[tuple[float, float, Callable[[float, float], None]]]:
        """The first free slot, the end of the pause, and how to write both, under the lock."""

        def write(free: float, paused: float) -> None:
            self._free, self._paused = free, paused

        with self._lock:
            yield self._free, self._paused, write


class Budget(RateLimiter):
    """At most so many requests in all, within the limit of another limiter.

    Args:
        limiter: Says when a request may be sent.
        requests: How many may be.
    """

    def __init__(self, limiter: RateLimiter, requests: int) -> None:
        super().__init__(limiter.per_minute)
        self._limiter, self._requests, self._left = limiter, requests, requests

    @property
    def left(self) -> int:
        """Requests that may still be sent."""
        return self._left

    @property
    def used(self) -> int:
        """Requests that were sent, those that were sent again included."""
        return self._requests - self._left

    def acquire(self, stop: threading.Event, timeout: float = math.inf) -> float:
        """Wait as the other limiter says.

        Raises:
            StoppedError: As there, or the budget is used up.
        """
        with self._lock:
            if not self._left:
                raise StoppedError(f"the {self._requests:,} requests allowed are used up")
            self._left -= 1
        return self._limiter.acquire(stop, timeout)

    def pause(self, seconds: float) -> None:
        """Let nobody send for this long."""
        self._limiter.pause(seconds)


class SharedRateLimiter(RateLimiter):
    """Holds all processes of this machine that name the same file to one limit together.

    The state stands in a file of 24 bytes, changed under `flock`: a process that is killed drops
    its lock, so it never holds up the others, and the slot that it had booked is simply unused.
    The file must lie on a local disk. Its clock is the machine's monotonic one, which starts anew
    with the machine: a record from a later time than now is of an earlier start, and forgotten.

    Args:
        path: The file; its folder is made when it is not there.
        per_minute, slack, clock: As for `RateLimiter`. All processes should name the same limit.
    """

    _RECORD = struct.Struct("<ddd")  # written at, first free slot, end of the pause

    def __init__(
        self, path: Path, per_minute: float, *, slack: float = 0.01, clock: Clock | None = None
    ) -> None:
        super().__init__(per_minute, slack=slack, clock=clock)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close the file; the limiter can't be used after it."""
        os.close(self._file)

    @contextmanager
    def _state(self) -> Iterator[tuple[float, float, Callable[[float, float], None]]]:
        def write(free: float, paused: float) -> None:
            os.pwrite(self._file, self._RECORD.pack(self._clock.seconds(), free, paused), 0)

        # flock belongs to the open file, not to the thread: the lock in front of it does.
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield *self._read(), write
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _read(self) -> tuple[float, float]:
        record = os.pread(self._file, self._RECORD.size, 0)
        if len(record) == self._RECORD.size:
            written, free, paused = self._RECORD.unpack(record)
            # Written so that no comparison with NaN is true: a damaged record is forgotten.
            if written <= self._clock.seconds() and paused <= free < math.inf:
                return free, paused
        return -math.inf, -math.inf
