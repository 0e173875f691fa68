"""Histories of asking a rate limiter, and living through one, whichever limiter it is."""

import itertools
import math
import threading
from collections.abc import Sequence

import pytest
from hypothesis import strategies as st

from datalake_assets.collection.errors import StoppedError
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets_tests.fakes import FakeClock

NEVER = threading.Event()

History = list[tuple[str, float]]


def histories(longest: int, burst: int) -> st.SearchStrategy[History]:
    """So many steps at most: acquiring up to so many times, perhaps in a hurry, pausing, idling."""
    step = (
        st.tuples(st.just("acquire"), st.integers(1, burst))
        | st.tuples(st.just("acquire within"), st.floats(0, 5))
        | st.tuples(st.just("pause"), st.floats(0, 70))
        | st.tuples(st.just("gap"), st.floats(0, 200))
    )
    return st.lists(step, max_size=longest)


def live(
    history: History, gates: Sequence[RateLimiter], clock: FakeClock, tolerance: float
) -> list[float]:
    """Take each step at the next of the gates, which share a limit.

    Args:
        history: The steps.
        gates: The limiters.
        clock: Theirs.
        tolerance: Seconds by which their times may be off.

    Returns:
        The instants at which a request could be sent, ascending.
    """
    sent: list[float] = []
    paused_until = -math.inf
    for (what, amount), gate in zip(history, itertools.cycle(gates), strict=False):
        if what == "gap":
            clock.advance(amount)
        elif what == "pause":
            gate.pause(amount)
            paused_until = max(paused_until, clock.seconds() + amount)
        elif what == "acquire within":
            began = clock.seconds()
            try:
                gate.acquire(NEVER, amount)
            except StoppedError:
                assert clock.seconds() == began, "time was lost waiting for what can't come"
                continue
            assert clock.seconds() <= began + amount + tolerance
            sent.append(clock.seconds())
        else:
            for _ in range(int(amount)):
                began = clock.seconds()
                waited = gate.acquire(NEVER)
                sent.append(clock.seconds())
                assert waited == pytest.approx(sent[-1] - began, abs=tolerance)
        if what.startswith("acquire"):
            assert sent[-1] >= paused_until - tolerance
    return sent


def most_in_a_minute(times: list[float]) -> int:
    """The most of these instants that lie within any 60 seconds, both ends included."""
    times = sorted(times)
    return max(
        (
            sum(start <= other <= start + 60.0 for other in times[i:])
            for i, start in enumerate(times)
        ),
        default=0,
    )
