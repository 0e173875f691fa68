"""One limit for several machines, against a Postgres that the tests start themselves.

Two kinds of time: that of the server, and one that stands still until somebody waits, which the
server is told (`FakeServerClock`), so that minutes of it take no time.
"""

import contextlib
import itertools
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datalake_assets
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import RefusedError, StoppedError
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.definitions import build_collector, build_definitions
from datalake_assets.rate_limits.postgres import TABLE, PostgresRateLimiter
from datalake_assets.resources import CollectorResource
from datalake_assets.settings import Settings, SettingsError
from datalake_assets_tests.collection.histories import (
    NEVER,
    History,
    histories,
    live,
    most_in_a_minute,
)
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.postgres import NOT_HERE, PostgresServer, binaries

HANG = 60.0
"""Seconds after which a test that should long have ended is taken to hang."""

PASSWORD = "pa:s/s@w?rd#7"
DSN_PASSWORD = "pa%3As%2Fs%40w%3Frd%237"


@pytest.fixture(scope="module")
def server(isolated_environment: None) -> Iterator[PostgresServer]:
    found = binaries()
    if found is None:
        pytest.skip(NOT_HERE)
    # Not below pytest's own folder, which no other user may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        started = PostgresServer(found, Path(folder), PASSWORD)
        try:
            yield started
        finally:
            started.stop()


_KEYS = itertools.count()


@pytest.fixture
def key() -> str:
    """A limit that no other test has used."""
    return f"key {next(_KEYS)}"


class Made:
    """Makes limiters, and closes them."""

    def __init__(self, server: PostgresServer, stack: contextlib.ExitStack) -> None:
        self._server, self._stack = server, stack

    def __call__(self, key: str, per_minute: float = 60, **more: Any) -> PostgresRateLimiter:
        dsn = more.pop("dsn", None) or self._server.dsn()
        limiter = PostgresRateLimiter(dsn, key, per_minute, **({"slack": 0} | more))
        self._stack.callback(limiter.close)
        return limiter


@pytest.fixture
def limiter(server: PostgresServer) -> Iterator[Made]:
    with contextlib.ExitStack() as stack:
        yield Made(server, stack)


# --- the rule, in the time of a server that is told it ---


class FakeServerClock(FakeClock):
    """Time that stands still until somebody waits, on the server as well."""

    def __init__(self, tell: Callable[[float], object], crowd: int = 1) -> None:
        super().__init__(crowd)
        self._tell = tell
        tell(self._seconds)

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._tell(self._seconds)

    def _move(self) -> None:
        super()._move()
        self._tell(self._seconds)


class FakeTime:
    """The same server, for connections whose `clock_timestamp()` reads a row of ours."""

    def __init__(self, server: PostgresServer) -> None:
        self.dsn = server.dsn(options="-csearch_path%3Dfake%2Cpg_catalog")
        self._connection = server.connect()
        self._connection.execute(
            """
            CREATE SCHEMA fake;
            CREATE TABLE fake.time (at float8);
            INSERT INTO fake.time VALUES (0);
            CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
                AS 'SELECT to_timestamp(at) FROM fake.time';
            """
        )

    def set(self, seconds: float) -> None:
        self._connection.execute("UPDATE fake.time SET at = %s", [seconds])

    def clock(self, crowd: int = 1) -> FakeServerClock:
        return FakeServerClock(self.set, crowd)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def fake_time(server: PostgresServer) -> Iterator[FakeTime]:
    with contextlib.closing(FakeTime(server)) as time_of_server:
        yield time_of_server


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(per_minute=st.integers(1, 60), history=histories(longest=8, burst=15))
def test_no_history_puts_more_than_the_limit_into_any_minute(
    limiter: Made, fake_time: FakeTime, per_minute: int, history: History
) -> None:
    clock = fake_time.clock()
    name = f"key {next(_KEYS)}"
    gates = [limiter(name, per_minute, slack=0.01, dsn=fake_time.dsn, clock=clock) for _ in "12"]
    sent = live(history, gates, clock, tolerance=1e-4)
    for gate in gates:
        gate.close()
    assert most_in_a_minute(sent) <= per_minute
    # The server's times are whole microseconds.
    assert all(b - a >= 60 / (per_minute * 0.99) - 1e-5 for a, b in pairwise(sent))


@pytest.mark.parametrize("per_minute", [1, 200, 10_000])
def test_requests_are_spaced_evenly_by_whichever_machine_and_use_99_percent(
    limiter: Made, fake_time: FakeTime, key: str, per_minute: int
) -> None:
    clock = fake_time.clock()
    gates = [limiter(key, per_minute, slack=0.01, dsn=fake_time.dsn, clock=clock) for _ in "123"]
    waits = [gate.acquire(NEVER) for gate in gates * 5]
    assert waits[0] == 0
    assert waits[1:] == pytest.approx([60 / (per_minute * 0.99)] * 14, abs=1e-5)


def test_a_pause_moves_everybody_who_waits_on_any_machine_and_keeps_them_spaced(
    limiter: Made, fake_time: FakeTime, key: str
) -> None:
    crowd = 8
    clock = fake_time.clock(crowd)
    one, other = (limiter(key, dsn=fake_time.dsn, clock=clock) for _ in "12")
    start = clock.seconds()
    sent: list[float] = []

    def ask(gate: RateLimiter) -> None:
        try:
            gate.acquire(NEVER)
            sent.append(clock.seconds() - start)
        finally:
            clock.leave()

    def meet_a_refusal() -> None:
        try:
            clock.wait(2.5, NEVER)
            one.pause(30)
            other.pause(1)  # the longer one stays
        finally:
            clock.leave()

    with ThreadPoolExecutor(crowd) as threads:
        gates = [one, other, one, other, one, other, other]
        work = [threads.submit(ask, gate) for gate in gates] + [threads.submit(meet_a_refusal)]
        for done in work:
            done.result(HANG)
    assert sorted(sent) == pytest.approx([0, 1, 2, 32.5, 33.5, 34.5, 35.5], abs=1e-4)


@pytest.mark.parametrize(("first", "second", "total"), [(10, 5, 10), (5, 10, 10), (0, 0, 1)])
def test_the_longer_of_two_pauses_holds(
    limiter: Made, fake_time: FakeTime, key: str, first: float, second: float, total: float
) -> None:
    gate = limiter(key, dsn=fake_time.dsn, clock=fake_time.clock())
    gate.acquire(NEVER)
    gate.pause(first)
    gate.pause(second)
    assert gate.acquire(NEVER) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(("timeout", "in_time"), [(0.999, False), (1.001, True)])
def test_a_slot_behind_the_timeout_is_neither_waited_for_nor_booked(
    limiter: Made, fake_time: FakeTime, key: str, timeout: float, in_time: bool
) -> None:
    clock = fake_time.clock()
    gate = limiter(key, dsn=fake_time.dsn, clock=clock)
    gate.acquire(NEVER)
    began = clock.seconds()
    if in_time:
        assert gate.acquire(NEVER, timeout) == pytest.approx(1)
    else:
        for _ in range(5):
            with pytest.raises(StoppedError, match="deadline"):
                gate.acquire(NEVER, timeout)
        assert clock.seconds() == began
        assert gate.acquire(NEVER) == pytest.approx(1)


@pytest.mark.parametrize("back", [0.5, 3_600.0])
def test_a_server_whose_clock_is_set_back_keeps_the_spacing_and_holds_nobody_up(
    limiter: Made, fake_time: FakeTime, key: str, back: float
) -> None:
    clock = fake_time.clock()
    gate = limiter(key, dsn=fake_time.dsn, clock=clock)
    gate.acquire(NEVER)
    gate.pause(20)
    # From here on the server's clock is behind the client's by so much.
    clock._tell = lambda seconds: fake_time.set(seconds - back)
    clock.advance(0)
    # With a timeout, as the slot must not seem to lie further ahead than it does.
    assert gate.acquire(NEVER, 20.1) == pytest.approx(20, abs=1e-4)
    assert gate.acquire(NEVER) == pytest.approx(1, abs=1e-4)


class Skewed(Clock):
    """A machine whose clocks are off by this many seconds."""

    def __init__(self, right: Clock, off: float) -> None:
        self._right, self._off = right, off

    def seconds(self) -> float:
        return self._right.seconds() + self._off

    def now(self) -> datetime:
        return self._right.now() + timedelta(seconds=self._off)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        return self._right.wait(seconds, stop)


def test_what_time_a_client_believes_it_is_does_not_matter(
    limiter: Made, fake_time: FakeTime, key: str
) -> None:
    clock = fake_time.clock()
    gates = [
        limiter(key, dsn=fake_time.dsn, clock=Skewed(clock, off)) for off in (-900.0, 0.0, 5e6)
    ]
    assert [gate.acquire(NEVER) for gate in gates * 3] == pytest.approx([0] + [1] * 8, abs=1e-4)
    gates[2].pause(20)
    assert gates[0].acquire(NEVER) == pytest.approx(20, abs=1e-4)


def test_two_keys_are_two_limits(limiter: Made, fake_time: FakeTime, key: str) -> None:
    clock = fake_time.clock()
    data, trading = (limiter(f"{key} {budget}", dsn=fake_time.dsn, clock=clock) for budget in "dt")
    assert [data.acquire(NEVER), trading.acquire(NEVER)] == [0, 0]
    data.pause(10)
    assert trading.acquire(NEVER) == pytest.approx(1)


# --- the server's own time ---


def test_the_time_of_a_slot_is_read_after_the_row_was_waited_for(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    """Else who waited for the row would book a slot that is over, beside the next one's."""
    gate = limiter(key, 60_000)
    gate.acquire(NEVER)
    with server.connect() as holder, ThreadPoolExecutor(1) as threads:
        with holder.transaction():
            holder.execute(f"SELECT FROM {TABLE} WHERE key = %s FOR UPDATE", [key])
            booked = threads.submit(gate._book, math.inf, NEVER)
            until_it_waits_for_a_lock(server)
            time.sleep(0.05)
            ((released,),) = holder.execute(
                "SELECT extract(epoch FROM clock_timestamp())::float8"
            ).fetchall()
        slot = booked.result(HANG)
    assert slot is not None
    assert slot[0] >= released - 1e-6


def until_it_waits_for_a_lock(server: PostgresServer, count: int = 1) -> None:
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        ((waiting,),) = server.run("SELECT count(*) FROM pg_locks WHERE NOT granted")
        if waiting >= count:
            return
        time.sleep(0.01)
    pytest.fail("it did not ask for the lock")


ASKING = """
import sys, threading, time
from datalake_assets.rate_limits.postgres import PostgresRateLimiter

class Noting(PostgresRateLimiter):
    '''Notes for each thread the slot that it was given last, by the server's clock.'''
    given = threading.local()
    def _book(self, latest, stop):
        slot, due = super()._book(latest, stop)
        self.given.slot = slot
        return slot, due

dsn, key = sys.argv[1:3]
per_minute, threads, count = map(int, sys.argv[3:])
limiter, never, lines = Noting(dsn, key, per_minute), threading.Event(), []

def ask():
    for _ in range(count):
        limiter.acquire(never)
        lines.append(f"{limiter.given.slot!r} {time.time()!r}")

print("ready", flush=True)
sys.stdin.readline()
work = [threading.Thread(target=ask) for _ in range(threads)]
for thread in work: thread.start()
for thread in work: thread.join()
print(*lines, sep="\\n")
"""

HOLDING = """
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1])
connection.execute("SELECT FROM datalake_rate_limit WHERE key = %s FOR UPDATE", [sys.argv[2]])
print("held", flush=True)
time.sleep(600)
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


def said(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.parametrize(("per_minute", "count"), [(6_000, 25), (600_000, 100)])
def test_processes_with_threads_hold_one_limit_together(
    server: PostgresServer, key: str, per_minute: int, count: int
) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(process(ASKING, server.dsn(), key, per_minute, 2, count))
            for _ in range(3)
        ]
        for each in crowd:
            said(each, "ready")
        for each in crowd:
            go(each)
        told: list[str] = []
        for each in crowd:
            told += each.communicate(timeout=HANG)[0].splitlines()
            assert each.returncode == 0
    notes = sorted(tuple(map(float, line.split())) for line in told)
    slots = [slot for slot, _ in notes]
    assert len(slots) == 3 * 2 * count
    # The slots are exact; when a thread wakes for its own is up to the machine, but never sooner.
    assert min(b - a for a, b in pairwise(slots)) >= 60 / (per_minute * 0.99) - 1e-5
    assert all(woken >= slot - 1e-3 for slot, woken in notes)
    second = per_minute // 60
    assert all(b - a > 1.0 for a, b in zip(slots, slots[second:], strict=False))


def test_a_process_killed_while_it_holds_the_row_does_not_block_the_others(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate = limiter(key, 6_000)
    gate.acquire(NEVER)
    with process(HOLDING, server.dsn(), key) as holder, ThreadPoolExecutor(1) as threads:
        said(holder, "held")
        waiting = threads.submit(gate.acquire, NEVER)
        until_it_waits_for_a_lock(server)
        assert not waiting.done()
        holder.kill()
        assert waiting.result(HANG) >= 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_processes_killed_or_stopped_at_any_moment_do_not_block_the_others(
    server: PostgresServer, limiter: Made, key: str, how: signal.Signals
) -> None:
    draw = random.Random(20240703)
    gate = limiter(key, 600_000, outage=0)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            busy = stack.enter_context(process(ASKING, server.dsn(), key, 600_000, 2, 10**6))
            said(busy, "ready")
            go(busy)
            time.sleep(draw.uniform(0.05, 0.15))
            busy.send_signal(how)
            # A row that stays locked would be an error after the statement's timeout.
            for _ in range(20):
                gate.acquire(NEVER)


def test_a_row_that_somebody_keeps_locked_is_an_error_that_says_so(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate = limiter(key, outage=0)
    gate.acquire(NEVER)
    with server.connect() as holder, holder.transaction():
        holder.execute(f"SELECT FROM {TABLE} WHERE key = %s FOR UPDATE", [key])
        with pytest.raises(RefusedError, match=r"statement timeout.*pg_stat_activity"):
            gate.acquire(NEVER)
    assert gate.acquire(NEVER) >= 0


def test_a_stop_wakes_those_who_wait_for_their_slots_and_for_a_locked_row(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate, hurried = limiter(key, 1), limiter(key, 1, outage=0)
    stop = threading.Event()
    gate.acquire(stop)
    with server.connect() as holder, ThreadPoolExecutor(4) as threads:
        for_slots = [threads.submit(gate.acquire, stop) for _ in range(2)]
        with holder.transaction():
            holder.execute(f"SELECT FROM {TABLE} WHERE key = %s FOR UPDATE", [key])
            for_the_row = [threads.submit(hurried.acquire, stop) for _ in range(2)]
            until_it_waits_for_a_lock(server)
            stop.set()
            for each in for_slots + for_the_row:
                with pytest.raises(StoppedError):
                    each.result(HANG)
    # What was told to stop in the middle of an answer can be asked again.
    with pytest.raises(StoppedError, match="deadline"):
        hurried.acquire(NEVER, 5)


def test_a_closed_limiter_gives_no_permit_and_wakes_who_waits(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate = limiter(key, outage=math.inf)
    gate.acquire(NEVER)
    with (
        server.connect() as holder,
        holder.transaction(),
        ThreadPoolExecutor(1) as threads,
    ):
        holder.execute(f"SELECT FROM {TABLE} WHERE key = %s FOR UPDATE", [key])
        waiting = threads.submit(gate.acquire, NEVER)
        until_it_waits_for_a_lock(server)
        gate.close()
        with pytest.raises(StoppedError):
            waiting.result(HANG)
    for ask in (lambda: gate.acquire(NEVER), lambda: gate.pause(1)):
        with pytest.raises(StoppedError):
            ask()


# --- the server is gone ---


def test_without_postgres_nobody_gets_a_permit_and_all_are_told_why(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate = limiter(key, 60_000, outage=1.0)
    gate.acquire(NEVER)
    server.stop()
    try:
        with ThreadPoolExecutor(20) as threads:
            asking = [threads.submit(gate.acquire, NEVER) for _ in range(20)]
            for each in asking:
                with pytest.raises(RefusedError, match="no permit .* DATALAKE_RATE_LIMIT"):
                    each.result(HANG)
        with pytest.raises(RefusedError, match="no permit"):
            gate.pause(1)
        with pytest.raises(RefusedError, match="Connection refused|connection refused"):
            limiter(key)
    finally:
        server.start()
    assert gate.acquire(NEVER) >= 0


def test_who_waits_for_postgres_to_come_back_can_be_stopped(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate = limiter(key, outage=math.inf)
    stop = threading.Event()
    server.stop()
    try:
        with ThreadPoolExecutor(5) as threads:
            asking = [threads.submit(gate.acquire, stop) for _ in range(5)]
            time.sleep(0.3)
            assert not any(each.done() for each in asking)
            stop.set()
            for each in asking:
                with pytest.raises(StoppedError):
                    each.result(HANG)
    finally:
        server.start()


def test_a_restart_of_postgres_is_bridged_and_what_was_booked_and_paused_still_holds(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate, other = limiter(key, outage=HANG), limiter(key, outage=HANG)
    gate.acquire(NEVER)
    gate.pause(1_000)
    server.run("CHECKPOINT")  # a crash may lose what was booked in its last moment
    server.stop()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(gate.acquire, NEVER, 100)
        time.sleep(0.3)
        assert not asking.done()
        server.start()
        with pytest.raises(StoppedError, match="deadline"):
            asking.result(HANG)
    with pytest.raises(StoppedError, match="deadline"):
        other.acquire(NEVER, 100)


def test_a_server_that_hangs_is_waited_for_no_longer_than_told(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    tries: list[object] = []

    class Counting(PostgresRateLimiter):
        def _connect(self, stop: threading.Event) -> Any:
            tries.append(stop)
            return super()._connect(stop)

    stoppable = limiter(key, outage=0)
    gate = Counting(server.dsn(), key, 60, outage=0)
    gate.acquire(NEVER)
    stop = threading.Event()
    with server.hanging(), ThreadPoolExecutor(11) as threads:
        refused = [threads.submit(gate.acquire, NEVER) for _ in range(10)]
        stopped = threads.submit(stoppable.acquire, stop)
        time.sleep(0.3)
        assert not stopped.done()
        stop.set()
        with pytest.raises(StoppedError):
            stopped.result(HANG)
        for each in refused:
            with pytest.raises(RefusedError, match="no answer within 5 seconds"):
                each.result(HANG)
    assert len(tries) == 1, "those who waited behind the one who asked must not ask as well"
    assert gate.acquire(NEVER) >= 0
    gate.close()


# --- who may do what ---


def test_limiters_made_in_an_empty_database_while_another_one_makes_the_table_work(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    server.run(f"DROP TABLE IF EXISTS {TABLE}")
    limiter(key)
    ((made,),) = server.run(
        "SELECT string_agg(format('%%I %%s', attname, atttypid::regtype), ', ' ORDER BY attnum)"
        " FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
        TABLE,
    )
    server.run(f"DROP TABLE {TABLE}")
    with ThreadPoolExecutor(3) as threads:
        with server.connect() as first, first.transaction():
            first.execute(f"CREATE TABLE {TABLE} ({made}, PRIMARY KEY (key))")
            late = [threads.submit(limiter, key, 60_000) for _ in range(3)]
            until_it_waits_for_a_lock(server, 3)
        gates = [each.result(HANG) for each in late]
    assert [gate.acquire(NEVER) >= 0 for gate in gates] == [True] * 3
    assert server.run(f"SELECT count(*) FROM {TABLE}") == [(1,)]


def test_a_user_who_may_only_use_the_table_can_and_one_who_may_not_is_told(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    limiter(key)  # the table is there
    for user in ("limited", "nobody_at_all"):
        server.run(f"DROP ROLE IF EXISTS {user}")
        server.run(f"CREATE ROLE {user} LOGIN PASSWORD 'x1y2z3'")
    server.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    server.run(f"GRANT SELECT, INSERT, UPDATE ON {TABLE} TO limited")
    assert limiter(key, dsn=server.dsn("limited", "x1y2z3")).acquire(NEVER) >= 0
    refused = limiter(key, dsn=server.dsn("nobody_at_all", "x1y2z3"))
    with pytest.raises(RefusedError, match=f"permission denied.*the table {TABLE}"):
        refused.acquire(NEVER)
    server.run(f"REVOKE ALL ON {TABLE} FROM limited")


# --- secrets ---


def everything(error: BaseException | None) -> str:
    """What an error and all its causes say."""
    told = []
    while error is not None:
        told += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(told)


def test_the_password_is_in_no_repr_and_no_error(
    server: PostgresServer, limiter: Made, key: str
) -> None:
    gate = limiter(key, outage=0)
    texts = [repr(gate), str(gate)]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody_there = f"postgresql://lake:{DSN_PASSWORD}@127.0.0.1:{unused.getsockname()[1]}/x"
        for dsn in (server.dsn(password="wr0ng-" + DSN_PASSWORD), nobody_there):
            with pytest.raises(RefusedError) as refused:
                limiter(key, dsn=dsn)
            texts.append(everything(refused.value))
            assert "127.0.0.1" in texts[-1]
    server.stop()
    try:
        with pytest.raises(RefusedError) as refused:
            gate.acquire(NEVER)
    finally:
        server.start()
    texts.append(everything(refused.value))
    for text in texts:
        for part in (PASSWORD, DSN_PASSWORD, "wr0ng", "w?rd", "w%3Frd"):
            assert part not in text


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://lake:hunter2@[half/lake",
        "postgresql://lake:hunter2@host/lake?hunter2",
        "postgresql://lake:%zzhunter2@host/lake",
        "hunter2",
    ],
)
def test_an_address_that_can_not_be_read_is_refused_and_not_repeated(dsn: str) -> None:
    with pytest.raises(ValueError, match="must be like postgresql://") as refused:
        PostgresRateLimiter(dsn, "key", 60)
    assert "hunter2" not in everything(refused.value)


# --- the collector ---


def dagster_resolved(dsn: str, monkeypatch: pytest.MonkeyPatch) -> CollectorResource:
    """The collector as a run gets it when the environment has this setting."""
    monkeypatch.setenv("DATALAKE_RATE_LIMIT", dsn)
    seen: list[CollectorResource] = []

    @dg.op
    def look(collector: CollectorResource) -> None:
        seen.append(collector)

    @dg.job(resource_defs={"collector": build_collector(Settings.load())})
    def looking() -> None:
        look()

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    assert looking.execute_in_process(run_config=quiet).success
    return seen[0]


def test_collectors_of_one_account_share_a_row_for_each_budget(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    collector = dagster_resolved(server.dsn(), monkeypatch)
    account = key.replace(" ", "")
    with collector.options(account) as options, collector.trading_limiter(account) as trading:
        assert isinstance(options.limiter, PostgresRateLimiter)
        assert isinstance(trading, PostgresRateLimiter)
        assert options.limiter.per_minute == 200
        for gate in (options.limiter, trading):
            gate.acquire(NEVER)
    rows = server.run(f"SELECT key FROM {TABLE} WHERE key LIKE %s ORDER BY key", f"{account}-%")
    assert rows == [(f"{account}-data",), (f"{account}-trading",)]
    with pytest.raises(StoppedError):
        trading.acquire(NEVER)  # closed with the run


def test_the_embedded_exchange_is_nobodys_account_and_needs_no_postgres() -> None:
    with CollectorResource(rate_limit="postgresql://nowhere.invalid/x").options(None) as options:
        assert type(options.limiter) is RateLimiter


def test_an_address_in_the_launchpad_is_checked_as_the_setting_is_and_not_shown() -> None:
    collector = CollectorResource(rate_limit="postgresql://lake:hun/ter2@host/x")
    with pytest.raises(SettingsError, match="DATALAKE_RATE_LIMIT") as refused:
        collector.options("account").__enter__()
    for text in (everything(refused.value), repr(collector)):
        assert "ter2" not in text
        assert "hun" not in text


def test_dagster_stores_the_name_of_the_variable_and_not_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dagster._core.remote_representation.external_data import RepositorySnap

    monkeypatch.setenv("DATALAKE_RATE_LIMIT", "postgresql://lake:hunter2@host/x")
    repository = build_definitions().get_repository_def()
    stored = [dg.serialize_value(RepositorySnap.from_def(repository))]
    for job in repository.get_all_jobs():
        stored += [
            dg.serialize_value(job.get_job_snapshot()),
            dg.serialize_value(job.get_config_schema_snapshot()),
        ]
    assert any("DATALAKE_RATE_LIMIT" in text for text in stored)
    assert not any("hunter2" in text for text in stored)


WITHOUT_PSYCOPG = """
import json, sys
sys.modules["psycopg"] = None
from datalake_assets.resources import CollectorResource
told = ""
with CollectorResource().options("an account") as options:
    kind = type(options.limiter).__name__
try:
    CollectorResource(rate_limit="postgresql://host/x").options("an account").__enter__()
except ImportError as error:
    told = str(error)
print(json.dumps([kind, told]))
"""


def test_who_does_not_choose_it_needs_no_psycopg_and_who_does_is_told_what_to_install(
    tmp_path: Path,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_PSYCOPG],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(datalake_assets.__file__).parents[1]),
            "TMPDIR": str(tmp_path),
        },
        check=True,
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    kind, told = json.loads(ended.stdout.splitlines()[-1])
    assert kind == "SharedRateLimiter"
    assert "pip install 'us-equity-datalake[postgres]'" in told
