"""Due: which sessions are to be collected now, or years published, and why the others are not.

Belongs here: the rules, as functions of the time and of what is known; no Dagster, no storage, no
clock. Does not belong here: finding out what is known, and asking for runs (`sensors`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from datalake_assets import market_calendar

PARTITION_APPEARS = timedelta(hours=22)
"""Time of a session's own day (UTC) at which its partition appears, as `partitions.TIMEZONE` makes
it. Known here, so that what looks at the lake need not load Dagster."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run that was asked for a partition.

    Args:
        ended: When it ended, UTC; None while it is queued or runs.
    """

    ended: datetime | None


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a partition is asked for, and how long to wait in between.

    The pauses grow, so that a source that is down for minutes costs minutes, and one that is down
    for a day still gets its last attempt after it: 10 minutes, half an hour, 1.5, 4.5, 12 and 12
    hours.

    Args:
        attempts: Runs for one partition at most.
        first: Pause after the first of them.
        factor: Each pause is this many times the one before.
        longest: No pause is longer.
    """

    attempts: int = 7
    first: timedelta = timedelta(minutes=10)
    factor: int = 3
    longest: timedelta = timedelta(hours=12)

    def pause(self, attempts: int) -> timedelta:
        """How long to wait after this many attempts (1 is the first)."""
        grown: int = self.factor ** min(attempts - 1, 20)
        return min(self.longest, self.first * grown)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to ask for a partition now.

    Args:
        partition: The session or the year.
        attempt: Which attempt to make, from 1; None when there is none to make now.
        why: The reason, for a person.
    """

    partition: str
    attempt: int | None
    why: str


def available_at(session: date, delay: timedelta) -> datetime:
    """When a session is collected, UTC: some time after its close, and not before 22:00.

    Args:
        session: The session.
        delay: Time after the close. Its partition appears at 22:00 UTC, which is an hour after the
            close in winter, two in summer, and four or five on a half day.
    """
    appears = datetime.combine(session, time(), UTC) + PARTITION_APPEARS
    return max(appears, market_calendar.session_close(session) + delay)


def next_available(after: date, delay: timedelta) -> tuple[date, datetime]:
    """The session after a day, and when its bars can be had, UTC."""
    session = _next_session(after)
    return session, available_at(session, delay)


def looked_at_again_at(session: date, sessions_later: int, delay: timedelta) -> datetime:
    """When a session is collected again, UTC: with the session so many later."""
    day = session
    for _ in range(sessions_later):
        day = _next_session(day)
    return available_at(day, delay)


def newest(now: datetime, count: int, delay: timedelta) -> list[date]:
    """The newest sessions whose bars can be had, ascending."""
    # Sessions of the next days can't be had, and one of this day may not yet be.
    return [day for day in up_to(now.date(), count) if available_at(day, delay) <= now][-count:]


def up_to(day: date, count: int) -> list[date]:
    """So many sessions before a day and, when it is one, the day itself, ascending."""
    before = market_calendar.previous_sessions(day, count)
    return [*before, day] if market_calendar.is_session(day) else before


def decide(
    now: datetime,
    wanted: Mapping[str, str],
    *,
    busy: Mapping[str, str],
    attempts: Mapping[str, Sequence[Attempt]],
    patience: Patience,
    by_hand: str,
) -> list[Verdict]:
    """What to do about each partition that should be done by now and is not.

    Args:
        now: The time, UTC.
        wanted: These partitions, each with what makes it due.
        busy: Partitions that somebody is about, and who.
        attempts: The runs that were asked for each one for this reason, in any order.
        patience: How often to ask.
        by_hand: The command that a person types once it was given up; `{}` is the partition.
    """

    def verdict(partition: str, due: str) -> tuple[int | None, str]:
        if partition in busy:
            return None, busy[partition]
        made = attempts.get(partition, ())
        ended = [attempt.ended for attempt in made if attempt.ended]
        number = len(ended) + 1
        if len(ended) < len(made):
            return None, f"its attempt {len(made)} is under way"
        if not ended:
            return number, due
        if len(ended) >= patience.attempts:
            tried = f"given up after {len(ended)} attempts; see its last run"
            return None, f"{tried}, then type `{by_hand.format(partition)}`"
        failed = f"attempt {len(ended)} failed"
        # An end that lies in the future was written by a clock that was wrong.
        last = max((at for at in ended if at <= now), default=datetime.min.replace(tzinfo=UTC))
        if now < (again := last + patience.pause(len(ended))):
            return None, f"{failed}, the next is at {again:%Y-%m-%d %H:%M} UTC"
        return number, f"{failed}, this is the next{' and last' * (number == patience.attempts)}"

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
