"""Sending a request until it succeeds: when, how often, and for how long it is tried again.

Belongs here: the policy and the loop, the only one in the program that tries a request again.
Does not belong here: which errors can pass (`errors`, decided where the answer is seen), or when
the account's limit has room (`rate_limit`).
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
"""Seconds that everybody waits after a 429 without a Retry-After, as Alpaca sends it: the bucket
refills 3.3 requests a second, so less would meet the next refusal."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter, bounded by attempts and by time.

    Full jitter (a wait drawn evenly from zero to the bound) is what spreads a crowd best:
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        attempts: Times that one request is sent at most.
        seconds: From its first attempt on, seconds after which a request is not tried again.
        wait_initial: Bound of the first wait, in seconds; it doubles with each attempt.
        wait_max: Bound of every wait, in seconds.
        retry_after_max: The longest wait that the source may ask for, in seconds.
    """

    attempts: int = 6
    seconds: float = 180.0
    wait_initial: float = 0.5
    wait_max: float = 20.0
    retry_after_max: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"a request is sent at least once, not {self.attempts} times")
        for name in ("seconds", "wait_initial", "wait_max", "retry_after_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} can't be negative: {getattr(self, name)}")

    def asked_for(self, error: TransientError) -> float:
        """Seconds that the source asked to wait, capped; 0 when it asked for none."""
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
    """Sends requests within the rate limit and again while they fail in a way that can pass.

    Safe to use from several threads. The counters are what its requests took so far.

    Args:
        limiter: When a request may be sent; shared by all who use the account.
        policy: How often and how long a request is tried again.
        stop: Set to end every wait; the requests that waited raise `StoppedError`.
        deadline: Reading of the clock after which no request is sent.
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
            send: Sends it and decodes the answer; raises `TransientError` when trying again
                may help, anything else when it won't.

        Raises:
            PermanentError: It did not succeed within the policy; names the last error, raised
                from it.
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
                    raise StoppedError("told to stop while waiting to try again") from error
            self._acquire()
            with self._lock:
                self.retries += 1

    def _acquire(self) -> None:
        left = self._deadline - self._clock.seconds()
        if self._stop.is_set() or left <= 0:
            raise StoppedError("told to stop before the request was sent")
        waited = self._limiter.acquire(self._stop, left)
        with self._lock:
            self.requests += 1
            self.limiter_wait_seconds += waited

    def _throttle(self, error: ThrottledError) -> None:
        self._limiter.pause(self._policy.asked_for(error) or THROTTLE_PAUSE)
        with self._lock:
            self.throttled += 1
