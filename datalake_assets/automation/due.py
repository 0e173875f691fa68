"""Which sessions to collect now, which years to publish, and why not the others.

Belongs here: the rules, as functions of the time and of known facts; no Dagster, no storage, no
clock. Does not belong here: finding out those facts, and requesting runs (`sensors`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from datalake_assets import market_calendar
from datalake_assets.collection.dataset import DAILY, Dataset

PARTITION_APPEARS = timedelta(hours=22)
"""The time of a session's own day (UTC) at which its partition appears, given
`partitions.TIMEZONE`. It is repeated here so that reading the lake does not load Dagster."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run that was requested for a partition.

    Args:
        ended: When it ended, UTC; None while it is queued or runs.
    """

    ended: datetime | None


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """How often a partition is attempted, and the pauses between attempts.

    The pauses grow. A source that is down for minutes costs minutes, and after one that is down for
    a day there is still an attempt left: 10 minutes, half an hour, 1.5, 4.5, 12 and 12 hours.

    Args:
        attempts: The most runs for one partition.
        first: The pause after the first attempt.
        factor: The ratio of each pause to the one before.
        longest: The longest pause.
    """

    attempts: int = 7
    first: timedelta = timedelta(minutes=10)
    factor: int = 3
    longest: timedelta = timedelta(hours=12)

    def pause(self, attempts: int) -> timedelta:
        """The pause after this many attempts (1 is the first)."""
        grown: int = self.factor ** min(attempts - 1, 20)
        return min(self.longest, self.first * grown)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to request a run for a partition now.

    Args:
        partition: The session or the year.
        attempt: The attempt to make, from 1; None for none now.
        why: The reason, as text.
    """

    partition: str
    attempt: int | None
    why: str


def available_at(session: date, delay: timedelta, dataset: Dataset = DAILY) -> datetime:
    """When a session is collected, UTC: some time after its hours, but not before 22:00.

    Args:
        session: The session.
        delay: Time after its last bar is over: of daily bars and of minutes of regular hours that
            is the close. Its partition appears at 22:00 UTC, which is an hour after the close in
            winter, two in summer, and four or five on a half day.
        dataset: Whose bars.
    """
    appears = datetime.combine(session, time(), UTC) + PARTITION_APPEARS
    return max(appears, dataset.hours(session).end + delay)


def next_available(
    after: date, delay: timedelta, dataset: Dataset = DAILY
) -> tuple[date, datetime]:
    """The session after a day, and when it is collected, UTC."""
    session = _next_session(after)
    return session, available_at(session, delay, dataset)


def following(now: datetime, delay: timedelta) -> tuple[date, datetime]:
    """The next session that can't be collected yet, and when it can be, UTC."""
    # A session can be collected up to a day after its close, when the next day has begun.
    return next_available(newest(now, 3, delay)[-1], delay)


def looked_at_again_at(
    session: date, sessions_later: int, delay: timedelta, dataset: Dataset = DAILY
) -> datetime:
    """When a session is collected again, UTC: with the one so many sessions after it."""
    day = session
    for _ in range(sessions_later):
        day = _next_session(day)
    return available_at(day, delay, dataset)


def newest(now: datetime, count: int, delay: timedelta, dataset: Dataset = DAILY) -> list[date]:
    """The newest sessions that can be collected, ascending."""
    # Today's session may not be available yet, nor yesterday's if its hours end in the night.
    days = up_to(now.date(), count + 1)
    return [day for day in days if available_at(day, delay, dataset) <= now][-count:]


def up_to(day: date, count: int) -> list[date]:
    """The given number of sessions before a day and, if it is a session, the day, ascending."""
    before = market_calendar.previous_sessions(day, count)
    return [*before, day] if market_calendar.is_session(day) else before


def decide(
    now: datetime,
    wanted: Mapping[str, str],
    *,
    busy: Mapping[str, str],
    attempts: Mapping[str, Sequence[Attempt]],
    retries: RetrySchedule,
    by_hand: str,
) -> list[Verdict]:
    """A verdict for each partition that is due and not done.

    Args:
        now: The time, UTC.
        wanted: These partitions, with the reason why each is due.
        busy: Partitions that a run or backfill is processing, and which one.
        attempts: The runs requested for each of them for this reason, in any order.
        retries: How often to try, and the pauses.
        by_hand: The command for the user after the last attempt; `{}` is the partition.
    """

    def verdict(partition: str, due: str) -> tuple[int | None, str]:
        if partition in busy:
            return None, busy[partition]
        made = attempts.get(partition, ())
        ended = [attempt.ended for attempt in made if attempt.ended]
        number = len(ended) + 1
        if len(ended) < len(made):
            return None, f"attempt {len(made)} is in progress"
        if not ended:
            return number, due
        if len(ended) >= retries.attempts:
            tried = f"gave up after {len(ended)} attempts; see the last run"
            return None, f"{tried}, then run `{by_hand.format(partition)}`"
        failed = f"attempt {len(ended)} failed"
        # An end in the future was recorded by a wrong clock.
        last = max((at for at in ended if at <= now), default=datetime.min.replace(tzinfo=UTC))
        if now < (again := last + retries.pause(len(ended))):
            return None, f"{failed}, the next is at {again:%Y-%m-%d %H:%M} UTC"
        return number, f"{failed}, this is the next{' and last' * (number == retries.attempts)}"

    verdicts = []
    for partition, due in wanted.items():
        attempt, why = verdict(partition, due)
        verdicts.append(Verdict(partition, attempt, f"{partition}: {why}"))
    return verdicts


def _next_session(day: date) -> date:
    while True:
        day += timedelta(days=1)
        if market_calendar.is_session(day):
            return day
