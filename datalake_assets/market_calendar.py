"""The XNYS calendar: which days are sessions, and when each of them opens and closes.

Here: questions about days and the exchange's clock. Not here: partitions (`partitions`), and how
the closures come to be known (`_xnys`, generated from `exchange_calendars`, whose import alone
costs more than all of this program's definitions).

A session is a naive `date`, an instant is a `datetime` in UTC, and the exchange's clock is
America/New_York. Every answer outside `FIRST` … `LAST` is refused: the closures are not known
there, and a calendar that guesses would create partitions for holidays.
"""

from bisect import bisect_left, bisect_right
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from datalake_assets import _xnys

FIRST: date = _xnys.FIRST
LAST: date = _xnys.LAST

OPEN = time(9, 30)
CLOSE = time(16, 0)
EARLY_CLOSE = time(13, 0)

_FRIDAY = 4


class OutsideCalendar(ValueError):  # noqa: N818 - it reads as what it says
    """A day was asked for about which this calendar knows nothing."""

    def __init__(self, day: date) -> None:
        self.day = day
        super().__init__(
            f"{day} is outside the XNYS calendar, which knows {FIRST} … {LAST}; "
            "ask for a day within, or extend `datalake_assets/_xnys.py` (its docstring says how)"
        )


def is_session(day: date) -> bool:
    """Whether XNYS traded on `day`.

    Raises:
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_known(day)
    return day.weekday() <= _FRIDAY and day not in _closures()


def is_early_close(day: date) -> bool:
    """Whether the session `day` closes at 13:00 New York instead of 16:00.

    Raises:
        ValueError: `day` is no session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_session(day)
    return day in _early_closes()


def sessions(start: date, end: date) -> list[date]:
    """The sessions from `start` to `end`, both included, ascending; empty when `start > end`.

    Raises:
        OutsideCalendar: one of the two is before `FIRST` or after `LAST`.
    """
    _require_known(start)
    _require_known(end)
    known = _sessions()
    return list(known[bisect_left(known, start) : bisect_right(known, end)])


def previous_sessions(day: date, count: int) -> list[date]:
    """The `count` sessions before `day` (not included), ascending; fewer near `FIRST`.

    Raises:
        ValueError: `count` is negative.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    if count < 0:
        raise ValueError(f"count={count}: a number of sessions is zero or more")
    _require_known(day)
    known = _sessions()
    stop = bisect_left(known, day)
    return list(known[max(0, stop - count) : stop])


def closures(start: date, end: date) -> list[date]:
    """The weekdays from `start` to `end`, both included, that are no session, ascending.

    Raises:
        OutsideCalendar: one of the two is before `FIRST` or after `LAST`.
    """
    _require_known(start)
    _require_known(end)
    return sorted(day for day in _closures() if start <= day <= end)


def session_open(day: date) -> datetime:
    """The instant in UTC at which the session `day` opens (09:30 New York).

    Raises:
        ValueError: `day` is no session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_session(day)
    return _instant(day, OPEN)


def session_close(day: date) -> datetime:
    """The instant in UTC at which the session `day` closes (16:00 New York, 13:00 on a half day).

    Raises:
        ValueError: `day` is no session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    return _instant(day, EARLY_CLOSE if is_early_close(day) else CLOSE)


def session_stamp(day: date) -> datetime:
    """New York's midnight of the session `day`, in UTC: the `t` that Alpaca gives its daily bar.

    04:00 in summer and 05:00 in winter, so never computable from the date with a fixed offset.

    Raises:
        ValueError: `day` is no session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_session(day)
    return _instant(day, time.min)


def latest_closed_session(now: datetime) -> date:
    """The newest session that has closed at `now`; a session counts from its closing instant on.

    Raises:
        ValueError: `now` has no time zone.
        OutsideCalendar: `now` is before the first known close, or after `LAST` in New York.
    """
    day = today(now)
    _require_known(day)
    known = _sessions()
    index = bisect_right(known, day) - 1
    if index >= 0 and session_close(known[index]) > now:
        index -= 1
    if index < 0:
        raise OutsideCalendar(day)
    return known[index]


def today(now: datetime) -> date:
    """The day that it is in New York at an instant.

    Raises:
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"now={now.isoformat()} has no time zone; pass datetime.now(UTC)")
    return now.astimezone(_new_york()).date()


def _require_known(day: date) -> None:
    if not FIRST <= day <= LAST:
        raise OutsideCalendar(day)


def _require_session(day: date) -> None:
    if not is_session(day):
        reason = (
            "the exchange was closed (a holiday or a special closure)"
            if day.weekday() <= _FRIDAY
            else f"it is a {day:%A}"
        )
        raise ValueError(f"{day} is no XNYS session: {reason}")


def _instant(day: date, clock: time) -> datetime:
    return datetime.combine(day, clock, _new_york()).astimezone(UTC)


@cache  # reads the time zone database, so not at import
def _new_york() -> ZoneInfo:
    return ZoneInfo("America/New_York")


@cache
def _closures() -> frozenset[date]:
    return _days(_xnys.CLOSURES)


@cache
def _early_closes() -> frozenset[date]:
    return _days(_xnys.EARLY_CLOSES)


@cache
def _sessions() -> tuple[date, ...]:
    span = (FIRST + timedelta(days=offset) for offset in range((LAST - FIRST).days + 1))
    return tuple(day for day in span if is_session(day))


def _days(table: dict[int, str]) -> frozenset[date]:
    """The days of a generated table: year → "MMDD MMDD …"."""
    return frozenset(
        date(year, int(day[:2]), int(day[2:]))
        for year, days in table.items()
        for day in days.split()
    )
