"""Retries: when, how often, and for how long a request is sent again.

Belongs here: the policy and the loop, the only one in the program that retries requests. Does not
belong here: which errors are transient (`errors`, decided where the answer is read), or when the
rate limit allows a request (`rate_limit`).
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import (
    PermanentError,
    StoppedError,
    ThrottledError,
    TransientError,
)
from datalake_assets.collection.rate_limit import RateLimiter

Answer = TypeVar("Answer")

THROTTLE_PAUSE = 2.0
"""Seconds that all threads pause after a 429 without Retry-After, as Alpaca sends it. The limit
refills 3.3 requests per second, so a shorter pause would cause the next 429."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, bounded by attempts and by time.

    Full jitter (a wait drawn evenly from zero to the bound) is what spreads a crowd best:
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        attempts: How often a request is sent at most.
        seconds: Seconds from its first attempt after which a request is not retried.
        wait_initial: The longest first wait, in seconds; it doubles with each attempt.
        wait_max: The longest wait, in seconds.
        retry_after_max: The longest Retry-After that is honoured, in seconds.
    """

    attempts: int = 6
    seconds: float = 180.0
    wait_initial: float = 0.5
    wait_max: float = 20.0
    retry_after_max: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"a request must be sent at least once, not {self.attempts} times")
        for name in ("seconds", "wait_initial", "wait_max", "retry_after_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} can't be negative: {getattr(self, name)}")

    def asked_for(self, error: TransientError) -> float:
        """The seconds of Retry-After, capped; 0 without one."""
        return min(self.retry_after_max, max(0.0, error.retry_after or 0.0))

    def wait(self, failures: int, error: TransientError, draw: Callable[[], float]) -> float:
        """Seconds to wait after this many failures in a row (1 is the first).

        Args:
            failures: How often the request failed so far.
            error: How it failed the last time.
            draw: A random number from 0 to below 1.
        """
        doubled = self.wait_initial * 2.0 ** min(failures - 1, 60)
        return self.asked_for(error) + draw() * min(self.wait_max, doubled)


class Caller:
    """Sends requests within the rate limit, and retries transient failures.

    Thread-safe. The counters are those of its requests so far.

    Args:
        limiter: The rate limiter of the account.
        policy: How often and how long a request is retried.
        stop: Set to end every wait; the requests that waited raise `StoppedError`.
        deadline: The clock time after which no request is sent.
        clock, draw: Time, and random numbers from 0 to below 1.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        policy: RetryPolicy | None = None,
        *,
        stop: threading.Event | None = None,
        deadline: float = math.inf,
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._limiter, self._policy = limiter, policy or RetryPolicy()
        self._stop = stop or threading.Event()
        self._deadline = deadline
        self._clock, self._draw = clock or Clock(), draw
        self._lock = threading.Lock()
        self.requests = self.retries = self.throttled = 0
        self.limiter_wait_seconds = 0.0

    def call(self, send: Callable[[], Answer]) -> Answer:
        """The answer to one request.

        Args:
            send: Sends it and decodes the answer; raises `TransientError` if a retry may help, and
                any other error if not.

        Raises:
            PermanentError: It did not succeed within the policy. The last error is the cause.
            StoppedError: The stop or the deadline came first.
        """
        self._acquire()
        began = self._clock.seconds()
        failures = 0
        while True:
            try:
                return send()
            except TransientError as error:
                failures += 1
                if isinstance(error, ThrottledError):
                    self._throttle(error)
                wait = self._policy.wait(failures, error, self._draw)
                spent = self._clock.seconds() - began
                if failures >= self._policy.attempts or spent + wait > self._policy.seconds:
                    raise PermanentError(
                        f"{error} (gave up after {failures} attempts in {spent:.0f} s)"
                    ) from error
                if self._clock.wait(wait, self._stop):
                    raise StoppedError("stopped while waiting to retry") from error
            self._acquire()
            with self._lock:
                self.retries += 1

    def _acquire(self) -> None:
        left = self._deadline - self._clock.seconds()
        if self._stop.is_set() or left <= 0:
            raise StoppedError("stopped before the request was sent")
        waited = self._limiter.acquire(self._stop, left)
        with self._lock:
            self.requests += 1
            self.limiter_wait_seconds += waited

    def _throttle(self, error: ThrottledError) -> None:
        self._limiter.pause(self._policy.asked_for(error) or THROTTLE_PAUSE)
        with self._lock:
            self.throttled += 1
