"""Partitions: one per trading session, and one per year.

Belongs here: the partitions of our assets, and why a day has none. Does not belong here: how a
calendar becomes partitions (`trading_days`), and the calendar itself (`market_calendar`).

https://docs.dagster.io/guides/build/partitions-and-backfills
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from datalake_assets import market_calendar
from datalake_assets.trading_days import TradingDays

_AFTER_CLOSE = timedelta(hours=1)

TIMEZONE = "Etc/GMT-2"
"""A partition appears when its window ends. In this zone, two hours ahead of UTC all year, the
window of a session ends at 22:00 UTC of its own day: 17:00 in New York in winter, 18:00 in summer,
always after the close (16:00) and on the same evening. With the exchange's own zone a session would
appear at midnight. `end_offset=1`, which would show it earlier, shows future sessions on every
weekend and holiday (dagster#33551). The window has no other use: the dates of requests come from
the partition key."""


def session_partitions(first: date) -> dg.DailyPartitionsDefinition:
    """One partition per session from `first` to the newest one that has closed.

    Weekends are excluded by a cron expression and closures by day, so that each partition is
    one calendar day long; a weekday cron instead would stretch Friday's to Monday.

    Args:
        first: The first session.

    Raises:
        ValueError: `first` is not a session.
    """
    if not market_calendar.is_session(first):
        raise ValueError(f"partitions must start at a trading session, and {first} is not one")
    return TradingDays().partitions(first, _AFTER_CLOSE)


def why_no_partition(day: date, first: date, now: datetime) -> str | None:
    """Why a day can't be collected, as a clause about "it"; None if it can be.

    Args:
        day: The day.
        first: The first session.
        now: The time, UTC.
    """
    if day < first:
        return f"the first session is {first} (DATALAKE_START_DATE, ALPACA_HISTORY_START)"
    if day > market_calendar.LAST:
        return str(market_calendar.OutsideCalendar(day))
    if closed := market_calendar.why_closed(day):
        return f"it is not a trading session but {closed}"
    appears = datetime.combine(day + timedelta(days=1), time(), ZoneInfo(TIMEZONE)).astimezone(UTC)
    if now >= appears:
        return None
    close = market_calendar.session_close(day)
    if now < close:
        when = f"it has not closed. It closes at {close:%Y-%m-%d %H:%M} UTC"
    else:
        when = f"it closed at {close:%Y-%m-%d %H:%M} UTC"
    return f"{when} and can be collected from {appears:%H:%M} UTC"


def year_partitions(first: date) -> dg.TimeWindowPartitionsDefinition:
    """One partition per year from that of the first session to the current one.

    Dagster's mapping of a year to its sessions is off by one: 1 January is not a session, so the
    window is floored to the last session of the year before. Take the sessions of a year from the
    calendar or the lake instead.

    Args:
        first: The first session.
    """
    return TradingDays().years(first, _AFTER_CLOSE)
