"""A dataset: the bars of one timeframe, and all that differs from one to another.

Belongs here: when a session's bars start, and how sessions are put into requests. Does not belong
here: where a dataset lies (`layout`), how its files are encoded (`session_file`), how it is asked
for (`sources`).

Planning, collecting, auditing and publishing are the same for all. A symbol has one daily bar in a
session, and up to 390 by the minute. They are collected as cells of a grid, one for each instant at
which a bar may start, so one of them is the case in which a session has one such instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from datalake_assets import market_calendar
from datalake_assets.collection.audit import DAILY_RULES, Rules, Thresholds
from datalake_assets.collection.bars import A_SESSION, A_TIME
from datalake_assets.collection.minute_audit import MINUTE_RULES, MinuteThresholds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)


REGULAR, EXTENDED = "regular", "extended"
"""What the hours of minute bars are called."""


class Hours(NamedTuple):
    """From when to when a session's bars start.

    Args:
        first: When the first one starts, UTC.
        end: When the last one is over, UTC.
    """

    first: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Dataset:
    """The bars of one timeframe.

    Args:
        name: As the lake's folders and the commands call it.
        bars_of: What it holds, for people: "daily bars".
        step: From the start of a bar to that of the next one; None when a session has one bar.
        window: How many sessions are collected together at most.
        shortest: How many are at least, where it is known what they bring.
        a_request: How many sessions one request may span; None: as many as fit its page.
        filled: How much of a page the bars may fill that are expected: their number is an estimate,
            and a second page for a few more takes a request.
        under_way: How many windows are held at once at most: one being written, and those that are
            collected meanwhile.
        hours: From when to when the bars of a session start.
        hours_name: What these hours are called, where the dataset can have others; else None. A
            session of others is no start for a repair.
        rules: What a session must be like to be published.
        limits: What kind of thresholds its rules have.

    Raises:
        ValueError: By `hours`, for a day that is not a session.
    """

    name: str
    bars_of: str
    step: timedelta | None
    window: int
    shortest: int
    a_request: int | None
    filled: float
    under_way: int
    hours: Callable[[date], Hours]
    hours_name: str | None
    rules: Rules
    limits: type[Thresholds]

    def __repr__(self) -> str:
        return f"<Dataset {self.name}>"

    @property
    def several(self) -> bool:
        """Whether a symbol can have several bars in a session."""
        return self.step is not None

    def is_in(self, hours_name: str | None) -> bool:
        """Whether a session that was collected with these hours has all bars of this dataset."""
        wider = self.hours_name == REGULAR and hours_name == EXTENDED
        return wider or hours_name == self.hours_name

    def bars(self, day: date) -> int:
        """The most bars that a symbol can have in a session."""
        if self.step is None:
            return 1
        hours = self.hours(day)
        return (hours.end - hours.first) // self.step

    def first(self, day: date) -> int:
        """When the first bar of a session starts, in microseconds since 1970, UTC."""
        return (self.hours(day).first - _EPOCH) // _MICROSECOND

    @property
    def key(self) -> tuple[str, ...]:
        """What tells one bar from another, in the order of the lake."""
        return A_SESSION if self.step is None else A_TIME

    @property
    def step_microseconds(self) -> int:
        """From the start of a bar to that of the next one; 0 when a session has one bar."""
        return 0 if self.step is None else self.step // _MICROSECOND


def _whole_day(day: date) -> Hours:
    start = market_calendar.session_stamp(day)
    return Hours(start, market_calendar.session_close(day))


@lru_cache(4096)
def _regular(day: date) -> Hours:
    return Hours(market_calendar.session_open(day), market_calendar.session_close(day))


@lru_cache(4096)
def _extended(day: date) -> Hours:
    zone = ZoneInfo("America/New_York")
    closes = market_calendar.session_close(day)
    evening = time(20) if not market_calendar.is_early_close(day) else time(17)
    first, end = (datetime.combine(day, at, zone).astimezone(UTC) for at in (time(4), evening))
    return Hours(first, max(end, closes))


DAILY = Dataset(
    name="daily",
    bars_of="daily bars",
    step=None,
    window=63,
    shortest=56,
    a_request=None,
    filled=1.0,
    under_way=3,
    hours=_whole_day,
    hours_name=None,
    rules=DAILY_RULES,
    limits=Thresholds,
)
"""One bar for each symbol and session.

A window is a quarter of a year: 5,000 symbols have 315,000 bars, 32 requests (157 symbols x 63
sessions) and about 30 MB as Arrow. A shorter window packs worse; a longer one uses more memory and
loses more in a crash. The last request of a window is half empty on average, and a window that is
some sessions shorter fills it."""

MINUTE = Dataset(
    name="minute",
    bars_of="minute bars",
    step=_MINUTE,
    window=1,
    shortest=1,
    a_request=1,
    filled=0.97,
    under_way=2,
    hours=_regular,
    hours_name=REGULAR,
    rules=MINUTE_RULES,
    limits=MinuteThresholds,
)
"""The minutes of regular hours: 390 from the open to the close, 210 on most half days.

One session at a time: 11,000 symbols have about three million bars. A request that spans several
days brings those of the night as well, 2.35 times as many."""

EXTENDED_MINUTE = replace(MINUTE, hours=_extended, hours_name=EXTENDED)
"""The minutes from 04:00 to 20:00 in New York, to 17:00 on half days: up to 960. The same dataset
as `MINUTE`, asked for with other hours."""


def minute_dataset(hours: str) -> Dataset | None:
    """The minute bars of a setting: `regular`, `extended`, or None for `off`.

    Raises:
        KeyError: It is none of these.
    """
    return {REGULAR: MINUTE, EXTENDED: EXTENDED_MINUTE, "off": None}[hours]
