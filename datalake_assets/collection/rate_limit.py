"""The rate limit: requests per minute, for all threads and processes of one account.

Belongs here: when a request may be sent. Does not belong here: sending it, or retrying.

The algorithm is GCRA with a burst of one: requests are spaced evenly, `60 / limit` seconds apart.
A limiter that allows a burst of its whole limit lets nearly twice the limit through in some window
(399 requests were measured at a limit of 200). Even spacing keeps the limit in every window, with
short waits. The state is one number, the time of the next free slot. A waiting thread holds no
lock: it books its slot and sleeps, so it can be stopped.

Slot times come from the keeper of the state: here this machine's clock, for several machines the
clock of their database (`rate_limits.postgres`).
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
from datalake_assets.collection.progress import many, verb


class RateLimiter:
    """A limiter for the threads of one process.

    Args:
        per_minute: Requests allowed in any sliding minute.
        slack: The unused share of the limit, so that a request that is sent on time but arrives
            late does not exceed the limit of the next minute.
        clock: The clock used for waiting.
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
            timeout: The longest wait in seconds; if the slot is further ahead, none is booked.

        Returns:
            Seconds waited.

        Raises:
            StoppedError: `stop` was set, or no slot is free before the timeout.
        """
        began = self._clock.seconds()
        while True:
            booked = self._book(began + timeout, stop)
            if booked is None:
                raise StoppedError("the rate limit has no free slot before the deadline")
            slot, due = booked
            if self._clock.wait(due - self._clock.seconds(), stop):
                raise StoppedError("stopped while waiting for the rate limit")
            # A pause in the meantime moved all slots behind it, so this one is void.
            if self._paused_until(stop) <= slot:
                return max(0.0, self._clock.seconds() - began)

    def pause(self, seconds: float) -> None:
        """Pause all requests for this long, as after a 429. A longer pause in progress stays."""
        with self._state() as (free, paused, write):
            until = self._clock.seconds() + seconds
            write(max(free, until), max(paused, until))

    def _book(self, latest: float, stop: threading.Event) -> tuple[float, float] | None:
        """Book the first free slot; None, without booking, if it is after `latest`.

        Returns:
            The slot on the clock of the state's keeper, and on this process's clock, as `latest`.
            Here both are one clock; `stop` ends waiting for a remote keeper.
        """
        with self._state() as (free, paused, write):
            at = max(self._clock.seconds(), free)
            if at > latest:
                return None
            write(at + self._interval, paused)
            return at, at

    def _paused_until(self, stop: threading.Event) -> float:
        """The end of the last pause, on the clock of the state's keeper."""
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
    """A limit on the total number of requests, on top of another limiter.

    Args:
        limiter: The other limiter.
        requests: The total number.
    """

    def __init__(self, limiter: RateLimiter, requests: int) -> None:
        super().__init__(limiter.per_minute)
        self._limiter, self._requests, self._left = limiter, requests, requests

    @property
    def left(self) -> int:
        """The requests left."""
        return self._left

    @property
    def used(self) -> int:
        """The requests sent, including retries."""
        return self._requests - self._left

    def acquire(self, stop: threading.Event, timeout: float = math.inf) -> float:
        """Wait for the other limiter.

        Raises:
            StoppedError: As for the other limiter, or the budget is used up.
        """
        with self._lock:
            if not self._left:
                count = self._requests
                raise StoppedError(f"the {many(count, 'request')} allowed {verb(count)} used up")
            self._left -= 1
        return self._limiter.acquire(stop, timeout)

    def pause(self, seconds: float) -> None:
        """Pause all requests for this long."""
        self._limiter.pause(seconds)


class SharedRateLimiter(RateLimiter):
    """A limiter shared by all processes of this machine that use the same file.

    The state is in a file of 24 bytes, changed under `flock`. A killed process releases its lock,
    so it never blocks the others; the slot that it had booked stays unused. The file must be on a
    local disk. Its clock is the machine's monotonic one, which restarts with the machine: a record
    from the future is from before a restart, and is discarded.

    Args:
        path: The file; its folder is created if needed.
        per_minute, slack, clock: As for `RateLimiter`. All processes should use the same limit.
    """

    _RECORD = struct.Struct("<ddd")  # written at, first free slot, end of the pause

    def __init__(
        self, path: Path, per_minute: float, *, slack: float = 0.01, clock: Clock | None = None
    ) -> None:
        super().__init__(per_minute, slack=slack, clock=clock)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close the file; the limiter can't be used afterwards."""
        os.close(self._file)

    @contextmanager
    def _state(self) -> Iterator[tuple[float, float, Callable[[float, float], None]]]:
        def write(free: float, paused: float) -> None:
            os.pwrite(self._file, self._RECORD.pack(self._clock.seconds(), free, paused), 0)

        # flock belongs to the open file, not to the thread, so a thread lock guards it.
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
            # No comparison with NaN is true, so a damaged record is discarded.
            if written <= self._clock.seconds() and paused <= free < math.inf:
                return free, paused
        return -math.inf, -math.inf
