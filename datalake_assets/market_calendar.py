"""The XNYS calendar: which days are sessions, and when each of them opens and closes.

Belongs here: questions about days and the exchange's clock. Does not belong here: partitions
(`partitions`), and the table of closures (`_xnys`, generated from `exchange_calendars`, whose
import alone takes longer than loading all definitions of this program).

The exchange sometimes closes at short notice: the closure of 9 January 2025 was announced ten days
before. Such a day is declared in the variable `DATALAKE_CLOSURES`. Every call reads it, so that all
processes and callers have the same calendar. Importing this module reads nothing.

A session is a naive `date`, an instant is a `datetime` in UTC, and the exchange's clock is
America/New_York. Days outside `FIRST` … `LAST` raise an error: the closures are not known
there, and a calendar that guesses would create partitions for holidays.
"""

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

from datalake_assets import _xnys

FIRST: date = _xnys.FIRST
LAST: date = _xnys.LAST

DECLARED = "DATALAKE_CLOSURES"
"""The variable that declares closures and early closes, in the format of `parse_declared`."""

OPEN = time(9, 30)
CLOSE = time(16, 0)
EARLY_CLOSE = time(13, 0)

_FRIDAY = 4
_ENTRY = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:T([0-9]{2}:[0-9]{2}))?")
_LEGAL = "must hold days like 2025-01-09 (closed) or 2025-01-09T13:00 (early close, New York)"


class OutsideCalendar(ValueError):  # noqa: N818 - it reads as what it says
    """The day is outside the years that this calendar covers."""

    def __init__(self, day: date) -> None:
        self.day = day
        super().__init__(
            f"{day} is outside the XNYS calendar, which covers {FIRST} … {LAST}; "
            "use a day within, or extend `datalake_assets/_xnys.py` (its docstring says how)"
        )


def parse_declared(text: str) -> dict[date, time | None]:
    """Closures and early closes that the generated calendar lacks.

    Args:
        text: Days separated by commas: `2025-01-09` for a closed day, `2025-01-09T13:00` for an
            early close (New York). Empty: none.

    Returns:
        Each day with its closing time; None for a closed day.

    Raises:
        ValueError: The text is invalid; says what is valid.
    """
    found: dict[date, time | None] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        if not (parts := _ENTRY.fullmatch(entry)):
            raise ValueError(f"{_LEGAL}, and {entry!r} is neither")
        try:
            day = date.fromisoformat(parts[1])
            closes = time.fromisoformat(parts[2]) if parts[2] else None
        except ValueError as error:
            raise ValueError(f"{_LEGAL}, and {entry!r} is neither: {error}") from error
        if not FIRST <= day <= LAST:
            raise ValueError(f"must hold days from {FIRST} to {LAST}, and {entry!r} is not")
        if day.weekday() > _FRIDAY:
            raise ValueError(f"must hold weekdays, and {day} is a {day:%A}")
        if closes and not OPEN < closes < CLOSE:
            raise ValueError(f"must hold times between {OPEN:%H:%M} and {CLOSE:%H:%M}: {entry!r}")
        if day in found:
            raise ValueError(f"must hold each day once, and {day} is in it twice")
        found[day] = closes
    return found


def options(first: date, last: date) -> str:
    """The options of a command that name these sessions: one, or all from the first to the last."""
    return f"--session {first}" if first == last else f"--from {first} --to {last}"


def declaration(day: date) -> str:
    """The value to set so that a day counts as a closure, including those already declared."""
    declared = os.environ.get(DECLARED, "").strip()
    return f"{DECLARED}={declared},{day}" if declared else f"{DECLARED}={day}"


def is_session(day: date) -> bool:
    """Whether XNYS traded on `day`.

    Raises:
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_known(day)
    return day.weekday() <= _FRIDAY and day not in _calendar().closures


def why_closed(day: date) -> str | None:
    """Why there is no session on `day`, such as "a Saturday"; None if there is one.

    Raises:
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    if is_session(day):
        return None
    if day.weekday() > _FRIDAY:
        return f"a {day:%A}"
    if day in _made("").days:
        return f"a closure that {DECLARED} declares"
    return "a holiday or a special closure of the exchange"


def is_early_close(day: date) -> bool:
    """Whether the session `day` closes before 16:00 New York, usually at 13:00.

    Raises:
        ValueError: `day` is not a session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_session(day)
    return day in _calendar().early


def sessions(start: date, end: date) -> list[date]:
    """The sessions from `start` to `end`, both included, ascending; empty when `start > end`.

    Raises:
        OutsideCalendar: one of the two is before `FIRST` or after `LAST`.
    """
    _require_known(start)
    _require_known(end)
    known = _calendar().sessions
    return list(known[bisect_left(known, start) : bisect_right(known, end)])


def undeclared_sessions(start: date, end: date) -> list[date]:
    """The sessions from `start` to `end` of the generated calendar, ignoring declared closures.

    Raises:
        OutsideCalendar: one of the two is before `FIRST` or after `LAST`.
    """
    _require_known(start)
    _require_known(end)
    known = _made("").sessions
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
    known = _calendar().sessions
    stop = bisect_left(known, day)
    return list(known[max(0, stop - count) : stop])


def closures(start: date, end: date) -> list[date]:
    """The weekdays from `start` to `end`, both included, that are not sessions, ascending.

    Raises:
        OutsideCalendar: one of the two is before `FIRST` or after `LAST`.
    """
    _require_known(start)
    _require_known(end)
    return sorted(day for day in _calendar().closures if start <= day <= end)


def session_open(day: date) -> datetime:
    """The instant in UTC at which the session `day` opens (09:30 New York).

    Raises:
        ValueError: `day` is not a session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_session(day)
    return _instant(day, OPEN)


def session_close(day: date) -> datetime:
    """The instant in UTC at which the session `day` closes (16:00 New York, or earlier).

    Raises:
        ValueError: `day` is not a session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    _require_session(day)
    return _instant(day, _calendar().early.get(day, CLOSE))


def session_stamp(day: date) -> datetime:
    """New York midnight of the session `day`, in UTC: the `t` of Alpaca's daily bar.

    That is 04:00 in summer and 05:00 in winter, so there is no fixed offset. A day that was
    declared closed has one, too, as its bars may have been published before.

    Raises:
        ValueError: `day` is not a session.
        OutsideCalendar: `day` is before `FIRST` or after `LAST`.
    """
    if day not in _made("").days:
        _require_session(day)
    return _instant(day, time.min)


def latest_closed_session(now: datetime) -> date:
    """The newest session that has closed at `now`. A session counts from its closing instant.

    Raises:
        ValueError: `now` has no time zone.
        OutsideCalendar: `now` is before the first known close, or after `LAST` in New York.
    """
    day = today(now)
    _require_known(day)
    known = _calendar().sessions
    index = bisect_right(known, day) - 1
    if index >= 0 and session_close(known[index]) > now:
        index -= 1
    if index < 0:
        raise OutsideCalendar(day)
    return known[index]


def today(now: datetime) -> date:
    """The date in New York at an instant.

    Raises:
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"now={now.isoformat()} has no time zone; pass datetime.now(UTC)")
    return new_york(now).date()


def new_york(instant: datetime) -> datetime:
    """An instant on New York's clock."""
    return instant.astimezone(_new_york())


def _require_known(day: date) -> None:
    if not FIRST <= day <= LAST:
        raise OutsideCalendar(day)


def _require_session(day: date) -> None:
    if reason := why_closed(day):
        raise ValueError(f"{day} is not an XNYS session but {reason}")


def _instant(day: date, clock: time) -> datetime:
    return datetime.combine(day, clock, _new_york()).astimezone(UTC)


@cache  # reads the time zone database, so not at import
def _new_york() -> ZoneInfo:
    return ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class _Calendar:
    closures: frozenset[date]
    early: Mapping[date, time]
    sessions: tuple[date, ...]
    days: frozenset[date]


def _calendar() -> _Calendar:
    return _made(os.environ.get(DECLARED, ""))


@lru_cache(maxsize=8)
def _made(declared: str) -> _Calendar:
    """The calendar with the declared closures."""
    try:
        days = parse_declared(declared)
    except ValueError as error:
        raise ValueError(f"{DECLARED}={declared!r} {error}") from error
    closures = _days(_xnys.CLOSURES) | {day for day, closes in days.items() if closes is None}
    early = dict.fromkeys(_days(_xnys.EARLY_CLOSES), EARLY_CLOSE)
    early |= {day: closes for day, closes in days.items() if closes}
    span = (FIRST + timedelta(days=offset) for offset in range((LAST - FIRST).days + 1))
    sessions = tuple(day for day in span if day.weekday() <= _FRIDAY and day not in closures)
    return _Calendar(closures, early, sessions, frozenset(sessions))


def _days(table: dict[int, str]) -> frozenset[date]:
    """The days of a generated table: year → "MMDD MMDD …"."""
    return frozenset(
        date(year, int(day[:2]), int(day[2:]))
        for year, days in table.items()
        for day in days.split()
    )
