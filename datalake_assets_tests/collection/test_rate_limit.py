"""Never more requests than the limit, whoever asks: threads, processes, killed ones."""

import contextlib
import fcntl
import math
import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datalake_assets
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import StoppedError
from datalake_assets.collection.rate_limit import Budget, RateLimiter, SharedRateLimiter
from datalake_assets_tests.collection.histories import (
    NEVER,
    History,
    histories,
    live,
    most_in_a_minute,
)
from datalake_assets_tests.fakes import FakeClock

HANG = 30.0
"""Seconds after which a test that should long have ended is taken to hang."""

unhurried = settings(deadline=None)

Limiters = Callable[..., RateLimiter]


@pytest.fixture(params=["threads", "processes"], scope="module")
def limiter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Limiters]:
    """Makes limiters of either kind; each shared one has a file of its own."""
    with contextlib.ExitStack() as open_files:
        folder, number = tmp_path_factory.mktemp("limits"), iter(range(10**6))

        def make(per_minute: float, clock: Clock, slack: float = 0.01) -> RateLimiter:
            if request.param == "threads":
                return RateLimiter(per_minute, slack=slack, clock=clock)
            path = folder / f"{next(number)}"
            made = SharedRateLimiter(path, per_minute, slack=slack, clock=clock)
            open_files.callback(made.close)
            return made

        yield make


@unhurried
@given(per_minute=st.integers(1, 60), history=histories(longest=12, burst=25))
def test_no_history_puts_more_than_the_limit_into_any_minute(
    limiter: Limiters, per_minute: int, history: History
) -> None:
    clock = FakeClock()
    sent = live(history, [limiter(per_minute, clock)], clock, tolerance=1e-6)
    assert most_in_a_minute(sent) <= per_minute
    interval = 60 / per_minute
    assert all(b - a >= interval for a, b in pairwise(sent))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), per_minute=st.integers(6, 120), crowd=st.integers(2, 6))
def test_threads_that_ask_pause_and_idle_side_by_side_hold_the_limit_together(
    limiter: Limiters, seed: int, per_minute: int, crowd: int
) -> None:
    clock = FakeClock(crowd)
    gate = limiter(per_minute, clock)
    sent: list[float] = []
    paused: list[tuple[float, float]] = []

    def live(own: int) -> None:
        draw = random.Random(seed * 10 + own)
        try:
            for _ in range(15):
                if draw.random() < 0.2:
                    clock.wait(draw.uniform(0, 60), NEVER)
                if draw.random() < 0.1:
                    seconds = draw.uniform(0, 40)
                    gate.pause(seconds)
                    paused.append((clock.seconds(), clock.seconds() + seconds))
                gate.acquire(NEVER)
                sent.append(clock.seconds())
        finally:
            clock.leave()

    with ThreadPoolExecutor(crowd) as threads:
        for done in [threads.submit(live, own) for own in range(crowd)]:
            done.result(HANG)
    assert len(sent) == 15 * crowd
    assert most_in_a_minute(sent) <= per_minute
    # What went at the very instant of the pause may have been ahead of it.
    assert not [(at, pause) for at in sent for pause in paused if pause[0] < at < pause[1] - 1e-6]


@pytest.mark.parametrize("per_minute", [1, 7, 200, 10_000])
def test_requests_are_spaced_evenly_and_the_first_does_not_wait(
    limiter: Limiters, per_minute: int
) -> None:
    clock = FakeClock()
    gate = limiter(per_minute, clock)
    waits = [gate.acquire(NEVER) for _ in range(20)]
    assert waits[0] == 0
    assert waits[1:] == pytest.approx([60 / (per_minute * 0.99)] * 19)


def test_an_idle_hour_saves_nothing_up(limiter: Limiters) -> None:
    clock = FakeClock()
    gate = limiter(60, clock, slack=0)
    gate.acquire(NEVER)
    clock.advance(3_600)
    assert [gate.acquire(NEVER) for _ in range(3)] == pytest.approx([0, 1, 1])


@pytest.mark.parametrize("per_minute", [1, 2, 60])
@pytest.mark.parametrize("crowd", [20, 40])
def test_a_crowd_at_a_low_limit_holds_it_too(
    limiter: Limiters, per_minute: int, crowd: int
) -> None:
    clock = FakeClock(crowd)
    gate = limiter(per_minute, clock)
    sent: list[float] = []

    def live() -> None:
        try:
            gate.acquire(NEVER)
            sent.append(clock.seconds())
        finally:
            clock.leave()

    with ThreadPoolExecutor(crowd) as threads:
        for done in [threads.submit(live) for _ in range(crowd)]:
            done.result(HANG)
    assert len(sent) == crowd
    assert most_in_a_minute(sent) <= per_minute


def test_a_pause_moves_everybody_who_waits_and_keeps_them_spaced(limiter: Limiters) -> None:
    crowd = 8
    clock = FakeClock(crowd)
    gate = limiter(60, clock, slack=0)
    start = clock.seconds()
    sent: list[float] = []

    def ask() -> None:
        try:
            gate.acquire(NEVER)
            sent.append(clock.seconds() - start)
        finally:
            clock.leave()

    def meet_a_refusal() -> None:
        try:
            clock.wait(2.5, NEVER)
            gate.pause(30)
        finally:
            clock.leave()

    with ThreadPoolExecutor(crowd) as threads:
        work = [threads.submit(ask) for _ in range(crowd - 1)] + [threads.submit(meet_a_refusal)]
        for done in work:
            done.result(HANG)
    assert sorted(sent) == pytest.approx([0, 1, 2, 32.5, 33.5, 34.5, 35.5])


@pytest.mark.parametrize(
    ("first", "second", "total"), [(10, 5, 10), (5, 10, 10), (10, 10, 10), (0, 0, 1)]
)
def test_the_longer_of_two_pauses_holds(
    limiter: Limiters, first: float, second: float, total: float
) -> None:
    clock = FakeClock()
    gate = limiter(60, clock, slack=0)
    gate.acquire(NEVER)
    gate.pause(first)
    gate.pause(second)
    assert gate.acquire(NEVER) == pytest.approx(total)


@pytest.mark.parametrize("seconds", [60, 599, 600, 601, 3_600])
def test_a_long_pause_is_not_taken_for_a_slot_to_forget(limiter: Limiters, seconds: float) -> None:
    clock = FakeClock()
    gate = limiter(60, clock)
    gate.acquire(NEVER)
    gate.pause(seconds)
    assert min(seconds, 600) - 1e-6 <= gate.acquire(NEVER) <= seconds + 1e-6


@pytest.mark.parametrize(("timeout", "in_time"), [(0.999, False), (1.001, True)])
def test_a_slot_behind_the_timeout_is_not_waited_for(
    limiter: Limiters, timeout: float, in_time: bool
) -> None:
    clock = FakeClock()
    gate = limiter(60, clock, slack=0)
    gate.acquire(NEVER)
    began = clock.seconds()
    if in_time:
        assert gate.acquire(NEVER, timeout) == pytest.approx(1)
    else:
        with pytest.raises(StoppedError, match="deadline"):
            gate.acquire(NEVER, timeout)
        assert clock.seconds() == began


def test_who_gives_up_before_the_timeout_has_booked_nothing(limiter: Limiters) -> None:
    clock = FakeClock()
    gate = limiter(60, clock, slack=0)
    gate.acquire(NEVER)
    for _ in range(50):
        with pytest.raises(StoppedError):
            gate.acquire(NEVER, 0.5)
    assert gate.acquire(NEVER) == pytest.approx(1)


def test_a_stop_that_is_set_already_raises_at_once(limiter: Limiters) -> None:
    clock = FakeClock()
    gate = limiter(1, clock)
    gate.acquire(NEVER)
    stop = threading.Event()
    stop.set()
    began = clock.seconds()
    with pytest.raises(StoppedError, match="stop"):
        gate.acquire(stop)
    assert clock.seconds() == began


def test_a_stop_wakes_those_who_wait_for_their_slots(limiter: Limiters) -> None:
    gate = limiter(1, Clock())
    stop = threading.Event()
    gate.acquire(stop)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(gate.acquire, stop) for _ in range(4)]
        stop.set()
        for each in waiting:
            with pytest.raises(StoppedError):
                each.result(HANG)


@pytest.mark.parametrize("per_minute", [0, -1, math.nan, math.inf])
def test_a_limit_that_is_none_is_refused(per_minute: float) -> None:
    with pytest.raises(ValueError, match="requests per minute"):
        RateLimiter(per_minute)


@pytest.mark.parametrize("slack", [-0.1, 1.0, math.nan])
def test_a_slack_that_leaves_nothing_or_adds_to_the_limit_is_refused(slack: float) -> None:
    with pytest.raises(ValueError, match="slack"):
        RateLimiter(200, slack=slack)


# The file


def shared(path: Path, clock: Clock, per_minute: float = 60) -> SharedRateLimiter:
    return SharedRateLimiter(path, per_minute, slack=0, clock=clock)


def test_two_limiters_on_one_file_hold_one_limit_and_obey_one_pause(tmp_path: Path) -> None:
    clock = FakeClock()
    one, other = (shared(tmp_path / "limit", clock) for _ in range(2))
    assert one.acquire(NEVER) == 0
    assert other.acquire(NEVER) == pytest.approx(1)
    assert one.acquire(NEVER) == pytest.approx(1)
    other.pause(20)
    assert one.acquire(NEVER) == pytest.approx(20)
    one.close()
    other.close()


def test_the_folder_of_the_file_is_made_and_the_file_is_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "of" / "this" / "limit"
    gate = shared(path, FakeClock())
    gate.acquire(NEVER)
    gate.close()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pause", [0, 30, 10_000])
def test_a_file_from_before_the_machine_started_anew_holds_nobody_up(
    tmp_path: Path, pause: float
) -> None:
    before = shared(tmp_path / "limit", FakeClock(start=500_000.0))
    before.acquire(NEVER)
    before.pause(pause)
    before.close()
    gate = shared(tmp_path / "limit", FakeClock(start=50.0))
    assert gate.acquire(NEVER) == 0
    assert gate.acquire(NEVER) == pytest.approx(1)
    gate.close()


@pytest.mark.parametrize("idle", [1.0, 10_000.0])
def test_a_file_that_an_earlier_process_left_still_holds(tmp_path: Path, idle: float) -> None:
    clock = FakeClock()
    before = shared(tmp_path / "limit", clock)
    before.acquire(NEVER)
    before.pause(30)
    before.close()
    clock.advance(idle)
    gate = shared(tmp_path / "limit", clock)
    assert gate.acquire(NEVER) == pytest.approx(max(0, 30 - idle))
    assert gate.acquire(NEVER) == pytest.approx(1)
    gate.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 23,
        b"\0" * 24,
        b"\xff" * 24,
        struct.pack("<ddd", 0, 0, math.nan),
        struct.pack("<ddd", 0, 0, math.inf),
        struct.pack("<ddd", 0, math.nan, 0),
        struct.pack("<ddd", 0, math.inf, 0),
        struct.pack("<ddd", math.nan, 0, 0),
    ],
    ids=[
        "empty",
        "short",
        "nearly whole",
        "zeros",
        "no numbers",
        "no pause",
        "an endless pause",
        "no slot",
        "an endless slot",
        "no time",
    ],
)
def test_a_file_with_anything_in_it_holds_nobody_up(tmp_path: Path, content: bytes) -> None:
    clock = FakeClock()
    path = tmp_path / "limit"
    path.write_bytes(content)
    gate = shared(path, clock)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(gate.acquire, stop)
        try:
            assert first.result(5) == 0
        finally:
            stop.set()
    assert gate.acquire(NEVER) == pytest.approx(1)
    gate.close()


def test_a_file_cut_short_while_in_use_is_started_anew(tmp_path: Path) -> None:
    clock = FakeClock()
    gate = shared(tmp_path / "limit", clock)
    gate.acquire(NEVER)
    os.truncate(tmp_path / "limit", 5)
    gate.acquire(NEVER)
    assert gate.acquire(NEVER) == pytest.approx(1)
    gate.close()


# Real processes

ASKING = """
import sys, threading
from pathlib import Path
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.rate_limit import SharedRateLimiter

class Notebook(Clock, threading.local):
    '''Notes for each thread the slots that it is given: the last reading and the wait from it.'''
    read = 0.0
    def seconds(self):
        self.read = super().seconds()
        return self.read
    def wait(self, seconds, stop):
        self.slot = self.read + seconds
        return super().wait(seconds, stop)

path, per_minute, threads, count = sys.argv[1], *map(int, sys.argv[2:])
clock, never = Notebook(), threading.Event()
limiter = SharedRateLimiter(Path(path), per_minute, clock=clock)
lines = []

def ask():
    for _ in range(count):
        limiter.acquire(never)
        lines.append(f"{clock.slot!r} {clock.seconds()!r}")

print("ready", flush=True)
sys.stdin.readline()
work = [threading.Thread(target=ask) for _ in range(threads)]
for thread in work: thread.start()
for thread in work: thread.join()
print(*lines, sep="\\n")
"""

HOLDING = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""

WAITING = """
import sys, threading
from pathlib import Path
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.rate_limit import SharedRateLimiter

class Telling(Clock):
    def wait(self, seconds, stop):
        print(self.seconds() + seconds, flush=True)
        return super().wait(seconds, stop)

limiter = SharedRateLimiter(Path(sys.argv[1]), 1, clock=Telling())
for _ in range(2):
    limiter.acquire(threading.Event())
"""


@contextlib.contextmanager
def process(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    started = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(datalake_assets.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize(("per_minute", "count"), [(6_000, 25), (600_000, 400)])
def test_processes_with_threads_hold_one_limit_together(
    tmp_path: Path, per_minute: int, count: int
) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(process(ASKING, tmp_path / "limit", per_minute, 2, count))
            for _ in range(3)
        ]
        for each in crowd:
            assert each.stdout is not None
            assert each.stdout.readline() == "ready\n"
        told = []
        for each in crowd:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        for each in crowd:
            told += each.communicate(timeout=HANG)[0].splitlines()
            assert each.returncode == 0
    notes = sorted(tuple(map(float, line.split())) for line in told)
    slots = [slot for slot, _ in notes]
    assert len(slots) == 3 * 2 * count
    # The slots are exact; when a thread wakes for its own is up to the machine, but never sooner.
    interval = 60 / (per_minute * 0.99)
    assert min(b - a for a, b in pairwise(slots)) >= interval - 1e-6
    assert all(woken >= slot - 1e-3 for slot, woken in notes)
    second = per_minute // 60
    assert all(b - a > 1.0 for a, b in zip(slots, slots[second:], strict=False))


def test_a_process_killed_while_it_holds_the_lock_does_not_block_the_others(
    tmp_path: Path,
) -> None:
    path = tmp_path / "limit"
    gate = SharedRateLimiter(path, 6_000)
    with process(HOLDING, path) as holder, ThreadPoolExecutor(1) as threads:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        file = os.open(path, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(file)
        waiting = threads.submit(gate.acquire, NEVER)
        time.sleep(0.2)
        assert not waiting.done(), "it did not ask for the lock"
        holder.kill()
        assert waiting.result(HANG) >= 0
    gate.close()


def test_a_process_killed_while_it_waits_leaves_one_unused_slot_and_no_more(
    tmp_path: Path,
) -> None:
    with process(WAITING, tmp_path / "limit") as waiting:
        assert waiting.stdout is not None
        first, second = (float(waiting.stdout.readline()) for _ in range(2))
        waiting.kill()
        assert waiting.wait(HANG) != 0
    interval = 60 / 0.99
    assert second - first >= interval - 0.1
    gate = SharedRateLimiter(tmp_path / "limit", 1, clock=FakeClock(start=second))
    assert gate.acquire(NEVER) == pytest.approx(interval, abs=0.1)
    gate.close()


def test_processes_killed_at_any_moment_leave_a_file_that_goes_on_working(tmp_path: Path) -> None:
    path = tmp_path / "limit"
    draw = random.Random(20240703)
    for _ in range(5):
        with process(ASKING, path, 600_000, 2, 10**6) as busy:
            assert busy.stdin is not None
            assert busy.stdout is not None
            assert busy.stdout.readline() == "ready\n"
            busy.stdin.write("go\n")
            busy.stdin.flush()
            time.sleep(draw.uniform(0.0, 0.1))
            busy.kill()
    gate = SharedRateLimiter(path, 6_000)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(gate.acquire, NEVER).result(HANG) < 1
    gate.close()


def test_a_budget_ends_with_its_last_request_whoever_asks_for_it() -> None:
    budget = Budget(RateLimiter(1e9), 50)
    granted = []

    def ask() -> None:
        with contextlib.suppress(StoppedError):
            while True:
                granted.append(budget.acquire(NEVER))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)

    assert len(granted) == 50
    with pytest.raises(StoppedError, match="the 50 requests allowed are used up"):
        budget.acquire(NEVER)


def test_a_budget_keeps_the_limit_and_the_pauses_of_the_limiter_behind_it() -> None:
    clock = FakeClock()
    budget = Budget(RateLimiter(60, slack=0, clock=clock), 3)

    assert [budget.acquire(NEVER), budget.acquire(NEVER)] == [0.0, 1.0]
    budget.pause(10)
    assert budget.acquire(NEVER) == 10.0
