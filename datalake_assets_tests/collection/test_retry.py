"""When a request is sent again, how often, and how long is waited before."""

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import (
    CollectionError,
    PermanentError,
    RefusedError,
    RejectedSymbolError,
    StoppedError,
    ThrottledError,
    TransientError,
)
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import THROTTLE_PAUSE, Caller, RetryPolicy
from datalake_assets_tests.fakes import FakeClock

NEVER = threading.Event()

unhurried = settings(deadline=None)
draws = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    seconds=st.floats(0, 300),
    wait_initial=st.floats(0, 5),
    wait_max=st.floats(0, 40),
    retry_after_max=st.floats(0, 90),
)
errors = st.builds(
    TransientError, st.just("busy"), st.none() | st.floats(allow_nan=False)
) | st.builds(ThrottledError, st.just("429"), st.none() | st.floats(-5, 200))


def open_gate(clock: Clock) -> RateLimiter:
    """A limiter that nobody ever notices, but for its pauses."""
    return RateLimiter(1e12, clock=clock)


class Failing:
    """A request that fails with these errors, one after the other, then is answered."""

    def __init__(self, clock: Clock, failures: Sequence[Exception]) -> None:
        self._clock, self._failures = clock, iter(failures)
        self.sent: list[float] = []

    def __call__(self) -> str:
        self.sent.append(self._clock.seconds())
        for failure in self._failures:
            raise failure
        return "answer"


# The policy


@given(policies, st.integers(1, 2_000), errors, draws)
def test_every_wait_lies_between_what_was_asked_and_the_doubled_bound_on_top(
    policy: RetryPolicy, failures: int, error: TransientError, draw: float
) -> None:
    asked = min(policy.retry_after_max, max(0.0, error.retry_after or 0.0))
    bound = min(policy.wait_max, policy.wait_initial * 2.0 ** min(failures - 1, 1_000))
    assert policy.asked_for(error) == asked
    assert asked <= policy.wait(failures, error, lambda: draw) <= asked + bound


@pytest.mark.parametrize(
    ("failures", "bound"), [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 20), (8, 20), (10_000, 20)]
)
def test_the_bound_doubles_up_to_its_maximum_and_the_jitter_spans_all_of_it(
    failures: int, bound: float
) -> None:
    policy, error = RetryPolicy(wait_initial=0.5, wait_max=20.0), TransientError("busy")
    assert policy.wait(failures, error, lambda: 0.0) == 0
    assert policy.wait(failures, error, lambda: 0.5) == bound / 2
    assert policy.wait(failures, error, lambda: 0.75) == bound * 0.75


@pytest.mark.parametrize(
    ("retry_after", "asked"),
    [
        (None, 0),
        (-3.0, 0),
        (0.0, 0),
        (59.9, 59.9),
        (60.0, 60),
        (60.1, 60),
        (math.inf, 60),
        (math.nan, 0),
    ],
)
def test_what_the_source_asks_for_is_honoured_up_to_the_cap(
    retry_after: float | None, asked: float
) -> None:
    assert RetryPolicy().asked_for(TransientError("busy", retry_after)) == asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"seconds": -1.0},
        {"wait_initial": -0.1},
        {"wait_max": -0.1},
        {"retry_after_max": -0.1},
    ],
)
def test_a_policy_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


# The caller


@unhurried
@given(policies, st.lists(errors, max_size=10), st.lists(draws, min_size=1))
def test_attempts_time_and_waits_are_within_the_policy_whatever_fails(
    policy: RetryPolicy, failures: list[TransientError], drawn: list[float]
) -> None:
    clock, number = FakeClock(), iter(range(10**6))
    send = Failing(clock, failures)
    caller = Caller(
        open_gate(clock), policy, clock=clock, draw=lambda: drawn[next(number) % len(drawn)]
    )
    try:
        assert caller.call(send) == "answer"
        assert len(send.sent) == len(failures) + 1
    except PermanentError as error:
        assert error.__cause__ is failures[len(send.sent) - 1]
        assert f"after {len(send.sent)} attempts" in str(error)
    assert len(send.sent) <= policy.attempts
    # A pause of the limiter can come on top of the wait that the bound was judged by.
    assert send.sent[-1] - send.sent[0] <= policy.seconds + THROTTLE_PAUSE + 1e-6
    gaps = [after - before for before, after in pairwise(send.sent)]
    for place, (gap, failure) in enumerate(zip(gaps, failures, strict=False)):
        asked = policy.asked_for(failure)
        bound = asked + min(policy.wait_max, policy.wait_initial * 2.0**place)
        if isinstance(failure, ThrottledError):
            bound = max(bound, asked or THROTTLE_PAUSE)
        assert asked - 1e-6 <= gap <= bound + 1e-6
    assert caller.requests == len(send.sent)
    assert caller.retries == len(send.sent) - 1
    assert caller.throttled == sum(
        isinstance(each, ThrottledError) for each in failures[: len(send.sent)]
    )


@pytest.mark.parametrize(("failures", "answered"), [(4, True), (5, True), (6, False), (7, False)])
def test_a_request_is_sent_six_times_at_most(failures: int, answered: bool) -> None:
    clock = FakeClock()
    send = Failing(clock, [TransientError(f"busy {n}") for n in range(failures)])
    caller = Caller(open_gate(clock), clock=clock)
    if answered:
        assert caller.call(send) == "answer"
    else:
        with pytest.raises(PermanentError, match=r"busy 5 \(gave up after 6 attempts") as caught:
            caller.call(send)
        assert str(caught.value.__cause__) == "busy 5"
    assert len(send.sent) == caller.requests == min(6, failures + 1)


@pytest.mark.parametrize(("seconds", "attempts"), [(2.9, 3), (3.0, 4), (3.1, 4)])
def test_no_attempt_starts_after_the_time_is_over(seconds: float, attempts: int) -> None:
    clock = FakeClock()
    send = Failing(clock, [TransientError("busy", retry_after=1.0)] * 100)
    policy = RetryPolicy(attempts=100, seconds=seconds)
    with pytest.raises(PermanentError, match="gave up"):
        Caller(open_gate(clock), policy, clock=clock, draw=lambda: 0.0).call(send)
    assert len(send.sent) == attempts


def test_a_slow_failure_counts_into_the_time() -> None:
    clock = FakeClock()

    def send() -> str:
        clock.advance(100)  # as a connection that times out
        raise TransientError("timed out")

    caller = Caller(open_gate(clock), RetryPolicy(attempts=100, seconds=180), clock=clock)
    with pytest.raises(PermanentError, match="2 attempts in 20"):
        caller.call(send)


def test_the_time_counts_from_the_first_attempt_and_not_from_the_wait_for_it() -> None:
    clock = FakeClock()
    gate = open_gate(clock)
    gate.pause(200)
    send = Failing(clock, [TransientError("busy")])
    caller = Caller(gate, RetryPolicy(seconds=180), clock=clock)
    assert caller.call(send) == "answer"
    assert len(send.sent) == 2


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("400"),
        RejectedSymbolError("invalid symbol", "A!"),
        RefusedError("401"),
        StoppedError("stopped"),
        CollectionError("unknown"),
        KeyError("a defect"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(error: Exception) -> None:
    clock = FakeClock()
    send = Failing(clock, [error])
    caller = Caller(open_gate(clock), clock=clock)
    with pytest.raises(type(error)) as caught:
        caller.call(send)
    assert caught.value is error
    assert (len(send.sent), caller.requests, caller.retries) == (1, 1, 0)


def test_a_permanent_failure_after_a_transient_one_ends_it() -> None:
    clock = FakeClock()
    send = Failing(clock, [TransientError("busy"), PermanentError("400")])
    with pytest.raises(PermanentError, match=r"^400$"):
        Caller(open_gate(clock), clock=clock).call(send)
    assert len(send.sent) == 2


@pytest.mark.parametrize(
    ("retry_after", "paused"), [(None, THROTTLE_PAUSE), (0.0, THROTTLE_PAUSE), (7.0, 7), (1e9, 60)]
)
def test_a_429_pauses_everybody_who_uses_the_account(
    retry_after: float | None, paused: float
) -> None:
    clock = FakeClock()
    gate = open_gate(clock)
    throttled = Caller(gate, RetryPolicy(attempts=1), clock=clock)
    with pytest.raises(PermanentError):
        throttled.call(Failing(clock, [ThrottledError("429", retry_after)]))
    began = clock.seconds()
    other = Failing(clock, [])
    assert Caller(gate, clock=clock).call(other) == "answer"
    assert other.sent[0] - began == pytest.approx(paused)
    assert throttled.throttled == 1


def test_a_server_error_pauses_nobody_else() -> None:
    clock = FakeClock()
    gate = open_gate(clock)
    with pytest.raises(PermanentError):
        Caller(gate, RetryPolicy(attempts=1), clock=clock).call(
            Failing(clock, [TransientError("503", retry_after=30)])
        )
    assert gate.acquire(NEVER) < 1e-6


def test_who_met_the_429_waits_no_shorter_than_the_others() -> None:
    clock = FakeClock()
    send = Failing(clock, [ThrottledError("429"), ThrottledError("429", 5.0)])
    Caller(open_gate(clock), clock=clock, draw=lambda: 0.0).call(send)
    assert [at - send.sent[0] for at in send.sent] == pytest.approx(
        [0, THROTTLE_PAUSE, THROTTLE_PAUSE + 5]
    )


class StoppedWhileWaiting(FakeClock):
    """Somebody sets the stop as soon as anybody waits for as long as this."""

    def __init__(self, stop: threading.Event, seconds: float) -> None:
        super().__init__()
        self._stop, self._long = stop, seconds

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        if seconds >= self._long:
            self._stop.set()
        return super().wait(seconds, stop)


def test_a_stop_during_the_wait_ends_it_at_once_and_keeps_the_cause() -> None:
    stop = threading.Event()
    clock = StoppedWhileWaiting(stop, 10)
    failure = TransientError("busy", retry_after=50)
    send = Failing(clock, [failure])
    caller = Caller(open_gate(clock), stop=stop, clock=clock)
    began = clock.seconds()
    with pytest.raises(StoppedError) as caught:
        caller.call(send)
    assert caught.value.__cause__ is failure
    assert clock.seconds() == pytest.approx(began)
    assert (len(send.sent), caller.retries) == (1, 0)


def test_a_stop_while_waiting_for_the_limit_sends_nothing() -> None:
    stop = threading.Event()
    clock = StoppedWhileWaiting(stop, 10)
    gate = RateLimiter(1, clock=clock)
    caller = Caller(gate, stop=stop, clock=clock)
    first, second = Failing(clock, []), Failing(clock, [])
    caller.call(first)
    with pytest.raises(StoppedError):
        caller.call(second)
    assert (second.sent, caller.requests) == ([], 1)


def test_nothing_is_sent_once_the_stop_is_set() -> None:
    clock, stop = FakeClock(), threading.Event()
    stop.set()
    send = Failing(clock, [])
    with pytest.raises(StoppedError):
        Caller(open_gate(clock), stop=stop, clock=clock).call(send)
    assert send.sent == []


@pytest.mark.parametrize(("ahead", "sent"), [(-1.0, 0), (0.0, 0), (1e-3, 1)])
def test_nothing_is_sent_from_the_deadline_on(ahead: float, sent: int) -> None:
    clock = FakeClock()
    send = Failing(clock, [])
    caller = Caller(open_gate(clock), deadline=clock.seconds() + ahead, clock=clock)
    if sent:
        assert caller.call(send) == "answer"
    else:
        with pytest.raises(StoppedError):
            caller.call(send)
    assert len(send.sent) == caller.requests == sent


def test_a_request_that_keeps_failing_is_not_sent_again_after_the_deadline() -> None:
    clock = FakeClock()
    deadline = clock.seconds() + 10
    send = Failing(clock, [TransientError("busy", retry_after=3)] * 100)
    caller = Caller(
        open_gate(clock),
        RetryPolicy(attempts=100),
        deadline=deadline,
        clock=clock,
        draw=lambda: 0.0,
    )
    with pytest.raises(StoppedError):
        caller.call(send)
    assert len(send.sent) == 4
    assert max(send.sent) < deadline


def test_a_slot_of_the_limit_behind_the_deadline_is_not_waited_for() -> None:
    clock = FakeClock()
    gate = RateLimiter(1, clock=clock)
    caller = Caller(gate, deadline=clock.seconds() + 30, clock=clock)
    caller.call(Failing(clock, []))
    began = clock.seconds()
    with pytest.raises(StoppedError):
        caller.call(Failing(clock, []))
    assert clock.seconds() == began


def test_the_time_spent_waiting_for_the_limit_is_added_up() -> None:
    clock = FakeClock()
    caller = Caller(RateLimiter(60, slack=0, clock=clock), clock=clock)
    for _ in range(4):
        caller.call(Failing(clock, []))
    assert caller.limiter_wait_seconds == pytest.approx(3)


def test_the_counters_of_many_threads_lose_nothing() -> None:
    clock = FakeClock()
    caller = Caller(open_gate(clock), clock=clock)

    def calls() -> None:
        for number in range(200):
            busy: list[Exception] = [TransientError("busy")] if number % 2 else []
            caller.call(Failing(clock, busy))

    with ThreadPoolExecutor(8) as threads:
        work: list[Callable[[], None]] = [threads.submit(calls).result for _ in range(8)]
        for result in work:
            result()
    assert caller.requests == 8 * 300
    assert caller.retries == 8 * 100
    assert caller.throttled == 0
