"""Trading days as Dagster's partitions, for any exchange: importable without the rest.

    from datalake_assets.trading_days import TradingDays

    sessions = TradingDays().partitions("2020-01-02")          # New York Stock Exchange
    sessions = TradingDays("XLON").partitions("2020-01-02")    # London, with the extra "calendars"

Belongs here: which days have a partition, and when it appears. Does not belong here: the calendar
of XNYS (`market_calendar`), and the partitions of this program's own assets (`partitions`).

Nothing here asks Alpaca, reads a lake or needs a setting. Only XNYS heeds one: closures that
`DATALAKE_CLOSURES` declares.

https://docs.dagster.io/guides/build/partitions-and-backfills
"""

import math
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol

import dagster as dg

from datalake_assets import market_calendar

XNYS = "XNYS"

_DAY = timedelta(days=1)
_YEAR = 250  # sessions
_LONG = 300  # characters of an error of exchange_calendars, which can be a list of days

_EAST, _WEST = 14, -12
"""The hours that the zones Etc/GMT±n are at most ahead of UTC, and behind."""


class _Calendar(Protocol):
    """What a calendar tells. Sessions are dates, instants are in UTC."""

    last: date

    @property
    def latest_close(self) -> timedelta:
        """The latest close, since midnight (UTC) of its session's day."""

    def sessions(self, start: date, end: date) -> list[date]: ...

    def opens(self, session: date) -> datetime: ...

    def closes(self, session: date) -> datetime: ...

    def closes_early(self, session: date) -> bool: ...


class TradingDays:
    """The sessions of an exchange, and Dagster's partitions of them.

    Args:
        calendar: The exchange's ISO code, such as XNYS, XLON or XTKS. XNYS is built in; others come
            from the package `exchange_calendars` (`pip install 'us-equity-datalake[calendars]'`),
            which must know them.

    Raises:
        ModuleNotFoundError: For another calendar than XNYS, without the extra.
        ValueError: There is no such calendar, or the package can't make it.
    """

    def __init__(self, calendar: str = XNYS) -> None:
        self.name = calendar
        self._calendar: _Calendar = _Xnys() if calendar == XNYS else _Other(calendar)

    def __repr__(self) -> str:
        return f"TradingDays({self.name!r})"

    @property
    def last(self) -> date:
        """The last day that the calendar covers."""
        return self._calendar.last

    def sessions(self, start: date | str, end: date | str) -> list[date]:
        """The sessions from `start` to `end`, both included, ascending.

        Raises:
            ValueError: A day that the calendar does not cover.
        """
        return self._calendar.sessions(_day(start), _day(end))

    def is_session(self, day: date | str) -> bool:
        """Whether the exchange trades on a day.

        Raises:
            ValueError: A day that the calendar does not cover.
        """
        return bool(self.sessions(day, day))

    def opens(self, session: date | str) -> datetime:
        """When a session opens, UTC.

        Raises:
            ValueError: The day is not a session.
        """
        return self._calendar.opens(_day(session))

    def closes(self, session: date | str) -> datetime:
        """When a session closes, UTC; on a half day, that is earlier.

        Raises:
            ValueError: The day is not a session.
        """
        return self._calendar.closes(_day(session))

    def closes_early(self, session: date | str) -> bool:
        """Whether a session is a half day.

        Raises:
            ValueError: The day is not a session.
        """
        return self._calendar.closes_early(_day(session))

    def available(
        self, session: date | str, after_close: timedelta = timedelta(hours=1)
    ) -> datetime:
        """When the partition of a session appears, UTC.

        Raises:
            ValueError: The day is not a session.
        """
        day = _day(session)
        self.closes(day)  # refuses what is no session
        return _midnight(day) + self._appears(after_close)

    def partitions(
        self, start: date | str, after_close: timedelta = timedelta(hours=1)
    ) -> dg.DailyPartitionsDefinition:
        """A partition for each session from `start` on: none for weekends and holidays.

        A partition appears on the session's own day, not before `after_close` has passed since the
        latest close of any session (a half day's appears at the same hour), at a full hour in UTC.
        So a schedule or sensor can collect it that evening, and never asks for a future session,
        which `end_offset=1` would (dagster#33551).

        A day's window is a day in a fixed zone that is chosen for that. It says nothing about the
        hours of trading: these are `opens` and `closes` of the key.

        Args:
            start: The first day. If it is not a session, partitions begin with the next one.
            after_close: How long after the close a session can be collected. Dagster knows no zone
                that is more than 14 hours ahead, so the earliest time of a day is 10:00 UTC.

        Raises:
            ValueError: A day that the calendar does not cover, or no session is left.
        """
        last = self.last
        days = self.sessions(start, last)
        if not days:
            raise ValueError(f"{self.name} has no session from {start} to {last}")
        first = days[0]
        known, weekdays = frozenset(days), {day.weekday() for day in days}
        never = sorted(set(range(7)) - weekdays)
        span = (first + _DAY * number for number in range((last - first).days + 1))
        closed = [day for day in span if day.weekday() in weekdays and day not in known]
        # Cron counts from Sunday.
        weekly = [f"0 0 * * {','.join(str((day + 1) % 7) for day in never)}"] if never else []
        return dg.DailyPartitionsDefinition(
            start_date=first.isoformat(),
            # Holidays are not known beyond. XNYS is renewed by each release, years ahead.
            end_date=None if self.name == XNYS else (last + _DAY).isoformat(),
            timezone=self.timezone(after_close),
            # Naive midnights: Dagster replaces a time zone instead of converting it.
            exclusions=[*weekly, *(datetime.combine(day, time()) for day in closed)],
        )

    def years(
        self, start: date | str, after_close: timedelta = timedelta(hours=1)
    ) -> dg.TimeWindowPartitionsDefinition:
        """A partition for each year from that of `start` to the current one.

        For an asset per year of one per session, with the same `after_close` as its sessions, and
        a mapping for which sessions to come are no error:

            dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)

        Dagster's mapping of a year begins with the last session of the year before, since 1 January
        is none. `LakeIOManager` leaves it out.

        Raises:
            ValueError: A day that the calendar does not cover.
        """
        first = _day(start)
        self._calendar.sessions(first, first)  # refuses what it does not cover
        return dg.TimeWindowPartitionsDefinition(
            start=f"{first.year}",
            fmt="%Y",
            cron_schedule="0 0 1 1 *",
            timezone=self.timezone(after_close),
            end_offset=1,  # includes the current year
        )

    def timezone(self, after_close: timedelta = timedelta(hours=1)) -> str:
        """The fixed zone in which partitions appear at midnight, as `partitions` chooses it.

        Raises:
            ValueError: `after_close` is negative or too long.
        """
        ahead = 24 - self._appears(after_close) // timedelta(hours=1)
        # In these zones' names, the sign is the other way round.
        return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/UTC"

    def _appears(self, after_close: timedelta) -> timedelta:
        """When a partition appears, since midnight (UTC) of its day: full hours."""
        told: object = after_close
        if not isinstance(told, timedelta):
            raise ValueError(
                f"after_close={after_close!r} is no timedelta, like timedelta(hours=1)"
            )
        if after_close < timedelta():
            raise ValueError(f"after_close={after_close} is negative")
        hours = math.ceil((self._calendar.latest_close + after_close) / timedelta(hours=1))
        if hours > 24 - _WEST:
            raise ValueError(
                f"after_close={after_close} is too long: {self.name} closes as late as "
                f"{self._calendar.latest_close} after midnight (UTC), and Dagster has no zone in "
                "which a partition appears after 12:00 UTC of the next day"
            )
        return timedelta(hours=max(hours, 24 - _EAST))


class _Xnys:
    """The built-in calendar."""

    last = market_calendar.LAST
    # 16:00 in New York, in winter.
    latest_close = timedelta(hours=21)

    def sessions(self, start: date, end: date) -> list[date]:
        return market_calendar.sessions(start, end)

    def opens(self, session: date) -> datetime:
        return market_calendar.session_open(session)

    def closes(self, session: date) -> datetime:
        return market_calendar.session_close(session)

    def closes_early(self, session: date) -> bool:
        return market_calendar.is_early_close(session)


class _Other:
    """A calendar of `exchange_calendars`, to the end of a month about a year ahead.

    That package guarantees no more. By months, so that the partitions don't change with each day.
    """

    def __init__(self, name: str) -> None:
        try:
            # Imported here: it takes longer than everything else together.
            import exchange_calendars
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"the calendar {name} needs the package exchange_calendars: "
                "pip install 'us-equity-datalake[calendars]'",
                name=error.name,
            ) from error
        known = exchange_calendars.get_calendar_names()
        if name not in known:
            raise ValueError(f"{name!r} is not a calendar; known are {', '.join(sorted(known))}")
        if name != XNYS and exchange_calendars.resolve_alias(name) == XNYS:
            raise ValueError(f"{name!r} is another name of {XNYS}, which is built in: give that")
        self.name, self._open = name, exchange_calendars.get_calendar
        try:
            self._calendar: Any = self._open(name)
        except Exception as error:  # whatever goes wrong inside that package, and in pandas
            raise ValueError(
                f"exchange_calendars {version('exchange_calendars')} can't make the calendar "
                f"{name} with pandas {version('pandas')}: another version of the two may "
                f"({type(error).__name__}: {str(error)[:_LONG]})"
            ) from error
        self._first: date = self._calendar.first_session.date()
        covered: date = self._calendar.last_session.date()
        tomorrow = covered + _DAY
        self.last = covered if tomorrow.day == 1 else covered.replace(day=1) - _DAY

    @cached_property
    def latest_close(self) -> timedelta:
        # Of a year, with summer and winter: hours of long ago don't matter to what is to come.
        closes = self._calendar.closes.iloc[-_YEAR:]
        return timedelta(seconds=(closes.dt.tz_convert(None) - closes.index).max().total_seconds())

    def sessions(self, start: date, end: date) -> list[date]:
        if start < self._first:
            self._reach(start)
        if start > end:
            return []
        if end > self.last:
            raise ValueError(f"{end} is outside the calendar {self.name}, which ends {self.last}")
        known = self._calendar.sessions
        return [each.date() for each in known[known.slice_indexer(str(start), str(end))]]

    def _reach(self, start: date) -> None:
        """Cover earlier years, too; by default there are 20."""
        _ = self.latest_close
        try:
            self._calendar = self._open(self.name, start=start)
        except ValueError as error:
            raise ValueError(
                f"{start} is outside the calendar {self.name}: {str(error)[:_LONG]}"
            ) from error
        self._first = start

    def opens(self, session: date) -> datetime:
        return self._instant(self._calendar.session_open, session)

    def closes(self, session: date) -> datetime:
        return self._instant(self._calendar.session_close, session)

    def closes_early(self, session: date) -> bool:
        self._require(session)
        return any(each.date() == session for each in self._calendar.early_closes)

    def _instant(self, ask: Any, session: date) -> datetime:
        self._require(session)
        return datetime.fromtimestamp(ask(session.isoformat()).timestamp(), UTC)

    def _require(self, session: date) -> None:
        if not self.sessions(session, session):
            raise ValueError(f"{session} is not a session of {self.name}")


def _day(day: date | str) -> date:
    """The day that is meant; ValueError when it is none."""
    told: object = day  # a notebook has no type checker
    if isinstance(told, datetime) and told.time() == time():
        return told.date()  # as pandas has days
    if isinstance(told, date) and not isinstance(told, datetime):
        return told
    try:
        return date.fromisoformat(day)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{day!r} is no day: give a date, or text like 2024-07-03") from error


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
