"""One rate limit for several machines, stored in a Postgres that all of them reach.

Belongs here: storing the state of a `RateLimiter` in Postgres, and what happens if Postgres does
not answer. Does not belong here: the algorithm (`collection.rate_limit`), and who shares a limit.

Each step is one statement in its own transaction, so the row is locked only while the server
executes it: a client that is killed, stopped or disconnected never blocks the others. All times are
the server's `clock_timestamp()`, read while the row is locked. A client's clock only measures how
long it waits; it may show any time.

Without Postgres there is no permit: a request that can't be counted is not sent.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

try:
    import psycopg
    from psycopg import conninfo, errors
except ImportError as error:
    raise ImportError(
        "a rate limit in Postgres (DATALAKE_RATE_LIMIT) needs psycopg, which can't be imported: "
        f"{error}. To install it: pip install 'us-equity-datalake[postgres]'"
    ) from error

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import RefusedError, StoppedError
from datalake_assets.collection.rate_limit import RateLimiter

TABLE = "datalake_rate_limit"

_ANSWER = 5.0
"""The timeout of a statement, or of connecting, in seconds."""

_LATE = 0.1
"""How many seconds after a deadline a slot may be, to allow for the answer's travel time."""

_CONNECTION: Mapping[str, Any] = {
    # The DSN's own parameters override these.
    "application_name": "datalake rate limit",
    "connect_timeout": int(_ANSWER),
    # Detects a server that vanished, and closes its connection.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": int(_ANSWER * 1000),
}

_SESSION = f"SET statement_timeout = {int(_ANSWER * 800)}; SET synchronous_commit = off"
# The server's timeout is shorter than the client's, so that it can say what it waited for. A commit
# that waits for the disk would hold the row's lock as long. Without that, a crash of the server can
# lose the bookings of the last 0.6 s (three times wal_writer_delay).

_CREATE = f"""
    CREATE TABLE IF NOT EXISTS {TABLE} (
        key text PRIMARY KEY,
        written float8 NOT NULL,
        free float8 NOT NULL,
        paused float8 NOT NULL
    )"""

_NOW = "extract(epoch FROM clock_timestamp())::float8"

# Expressions in DO UPDATE are evaluated when the row is locked, however long that took. A record
# from the future means that the server's clock was set back. Its times are then set back as well,
# as otherwise everybody would wait until the old time is reached again.
_HELD = f"""
    (SELECT {_NOW}) AS clock (now),
    LATERAL (SELECT greatest(0, held.written - now)) AS step (back)"""

_BOOK = f"""
    INSERT INTO {TABLE} AS held (key, written, free, paused)
    VALUES (%(key)s, {_NOW}, {_NOW} + %(interval)s, '-infinity')
    ON CONFLICT (key) DO UPDATE SET (written, free, paused) = (
        SELECT now, greatest(held.free - back, now) + %(interval)s, held.paused - back
        FROM {_HELD}
    )
    WHERE held.free - greatest(held.written, {_NOW}) <= %(within)s
    RETURNING free - %(interval)s, free - %(interval)s - {_NOW}"""

_PAUSE = f"""
    INSERT INTO {TABLE} AS held (key, written, free, paused)
    VALUES (%(key)s, {_NOW}, {_NOW} + %(seconds)s, {_NOW} + %(seconds)s)
    ON CONFLICT (key) DO UPDATE SET (written, free, paused) = (
        SELECT now, greatest(held.free - back, until), greatest(held.paused - back, until)
        FROM {_HELD}, LATERAL (SELECT now + %(seconds)s) AS pause (until)
    )"""

_PAUSED = f"SELECT paused FROM {TABLE} WHERE key = %(key)s"

_Answer = TypeVar("_Answer")


class PostgresRateLimiter(RateLimiter):
    """A limiter shared by all processes that use the same key in the same database.

    A limiter has one connection, which its threads share. Each request takes two round trips to the
    server, which limits a process to `1 / (2 × round trip)` requests per second.

    While Postgres does not answer, requests wait and reconnect, up to `outage` seconds, which is
    enough for a restart. After that the collection fails.

    Args:
        dsn: The database, as `postgresql://user:password@host/name`: a direct connection, or a
            pooler in session mode. Never shown in an error or a repr.
        key: The name of the limit: one row of the table, which is created if needed.
        per_minute, slack, clock: As for `RateLimiter`. All processes should name the same limit.
        outage: The longest outage of Postgres to wait for, in seconds.

    Raises:
        ValueError: The DSN can't be read, or the limit is invalid.
        RefusedError: The database can't be reached or written to.
    """

    def __init__(
        self,
        dsn: str,
        key: str,
        per_minute: float,
        *,
        slack: float = 0.01,
        outage: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(per_minute, slack=slack, clock=clock)
        given = None
        with suppress(psycopg.ProgrammingError):
            given = conninfo.conninfo_to_dict(dsn)
        # Without the parser's error as cause, as that may repeat part of the password.
        if given is None:
            raise ValueError(
                "the URL of the rate limit's Postgres can't be read; it must be like "
                "postgresql://user:password@host:5432/name, with special characters in user "
                "and password as %XX"
            )
        self._key, self._outage = key, outage
        self._conninfo = {**_CONNECTION, **given}
        self._secret = str(given.get("password") or "")
        self._server = f"{given.get('host') or 'the local host'}/{given.get('dbname') or ''}"
        self._closing = threading.Event()
        self._failed_at, self._failure = -math.inf, ""
        try:
            self._connection = self._connect(self._closing)
        except psycopg.Error as error:
            raise self._refused(error) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server!r}, {self._key!r}, {self.per_minute!r})"

    def close(self) -> None:
        """Close the connection; requests that wait for it, or come later, raise `StoppedError`."""
        self._closing.set()
        with self._lock:
            self._connection.close()

    def pause(self, seconds: float) -> None:
        """Pause all requests on all machines for this long. A longer pause in progress stays.

        Raises:
            RefusedError: Postgres did not answer within the outage allowed.
            StoppedError: The limiter is closed.
        """
        self._ask(_PAUSE, self._closing, seconds=float(seconds))

    def _book(self, latest: float, stop: threading.Event) -> tuple[float, float] | None:
        within = latest - self._clock.seconds()
        row = self._ask(_BOOK, stop, latest, interval=self._interval, within=within)
        if row is None:
            return None
        slot, wait = row
        due = self._clock.seconds() + wait
        # The answer came so late that the slot is now too late: don't use it.
        return (slot, due) if due <= latest + _LATE else None

    def _paused_until(self, stop: threading.Event) -> float:
        row = self._ask(_PAUSED, stop)
        return -math.inf if row is None else row[0]

    def _ask(
        self,
        statement: str,
        stop: threading.Event,
        latest: float = math.inf,
        **values: float,
    ) -> tuple[Any, ...] | None:
        """The row that a statement returns, retried until Postgres answers.

        A statement whose answer was lost is executed twice, which wastes a slot.
        """
        asked = self._clock.seconds()
        until = min(asked + self._outage, latest)
        with self._lock:
            if self._failed_at >= asked:
                # Another thread gave up on Postgres while this one waited for the lock.
                raise RefusedError(self._failure)
            wait = 0.1
            while True:
                if stop.is_set() or self._closing.is_set():
                    raise StoppedError("stopped while waiting for the rate limit in Postgres")
                try:
                    if self._connection.closed:
                        self._connection = self._connect(stop)
                    self._connection.ends = _Ends(self._clock, stop, self._closing)
                    cursor = self._connection.execute(statement, {"key": self._key, **values})
                    return cursor.fetchone() if cursor.description else None
                except StoppedError:
                    self._connection.close()  # its answer is still pending
                    raise
                except psycopg.OperationalError as error:
                    # A connection with a pending answer can't be used for anything else.
                    if not isinstance(error, errors.QueryCanceled):
                        self._connection.close()
                    if self._clock.seconds() + wait > until:
                        raise self._refused(error) from error
                except psycopg.Error as error:
                    raise self._refused(error) from error
                self._clock.wait(wait, stop)
                wait = min(2 * wait, 1.0)

    def _connect(self, stop: threading.Event) -> _Connection:
        connection = _Connection.connect(**self._conninfo, autocommit=True)
        connection.ends = _Ends(self._clock, stop, self._closing)
        try:
            connection.execute(_SESSION)
            # A user of the table need not have the right to create it.
            found = connection.execute("SELECT to_regclass(%s)", [TABLE]).fetchone()
            if found == (None,):
                with suppress(errors.UniqueViolation):  # created by another process at this moment
                    connection.execute(_CREATE)
        except BaseException:
            connection.close()
            raise
        return connection

    def _refused(self, error: psycopg.Error) -> RefusedError:
        told = " ".join(str(error).split()).rstrip(".?")
        if self._secret:
            told = told.replace(self._secret, "…")
        match error:
            case errors.QueryCanceled():
                advice = "pg_stat_activity shows what holds its row locked: end that"
            case psycopg.OperationalError():
                advice = "Start it, or correct DATALAKE_RATE_LIMIT"
            case _:
                advice = f"Allow its user to create and write the table {TABLE}"
        self._failed_at = self._clock.seconds()
        self._failure = (
            f"no permit for a request from the rate limit's Postgres ({self._server}): "
            f"{told}. {advice}, then collect again; without DATALAKE_RATE_LIMIT the limit is kept "
            "for this machine alone"
        )
        return RefusedError(self._failure)


class _Ends:
    """When to give up waiting for an answer."""

    def __init__(self, clock: Clock, *stops: threading.Event) -> None:
        self._clock, self._stops = clock, stops
        self._until = clock.seconds() + _ANSWER

    def check(self) -> None:
        if any(stop.is_set() for stop in self._stops):
            raise StoppedError("stopped while waiting for the rate limit in Postgres")
        if self._clock.seconds() > self._until:
            raise psycopg.OperationalError(f"no answer within {_ANSWER:g} seconds")


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose waits end at a deadline or a stop (`ends`).

    `statement_timeout` limits the server's work, and keepalives detect a machine that is gone. But
    without this, a server that is alive and hangs would block for ever.
    """

    ends: _Ends | None = None

    def wait(self, gen: Generator[Any, Any, _Answer], *args: Any, **kwargs: Any) -> _Answer:
        """Run one of psycopg's generators, which yields every 0.1 s while there is no data."""
        return super().wait(self._checked(gen), *args, **kwargs)

    def _checked(self, gen: Generator[Any, Any, _Answer]) -> Generator[Any, Any, _Answer]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if self.ends is not None and not ready:
                    self.ends.check()
                wanted = gen.send(ready)
        except StopIteration as ended:
            answer: _Answer = ended.value
            return answer
