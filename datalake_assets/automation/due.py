"""Due: which sessions are to be collected now, and why the others are not.

Belongs here: the rules, as functions of the time and of what is known; no Dagster, no storage, no
clock. Does not belong here: finding out what is known, and asking for runs (`sensors`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from datalake_assets import market_calendar

PARTITION_APPEARS = timedelta(hours=22)
"""Time of a session's own day (UTC) at which its partition appears, as `partitions.TIMEZONE` makes
it. Known here, so that what looks at the lake need not load Dagster."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run that was asked for a session.

    Args:
        ended: When it ended, UTC; None while it is queued or runs.
    """

    ended: datetime | None


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a session is asked for, and how long to wait in between.

    The pauses grow, so that a source that is down for minutes costs minutes, and one that is down
    for a day still gets its last attempt after it: 10 minutes, half an hour, 1.5, 4.5, 12 and 12
    hours.

    Args:
        attempts: Runs for one session at most.
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
    """Whether to ask for a session now.

    Args:
        session: The session.
        attempt: Which attempt to make, from 1; None when there is none to make now.
        why: The reason, for a person.
    """

    session: date
    attempt: int | None
    why: str


def available_at(session: date, delay: timedelta) -> datetime:
    """When a session's bars can be had, UTC: some time after its close, on half days too.

    Args:
        session: The session.
        delay: Time after the close. Alpaca's free plan serves bars 15 minutes late.
    """
    appears = datetime.combine(session, time(), UTC) + PARTITION_APPEARS
    return max(appears, market_calendar.session_close(session) + delay)


def looked_at_again_at(session: date, sessions_later: int, delay: timedelta) -> datetime:
    """When a session is collected again, UTC: with the session so many later."""
    day = session
    for _ in range(sessions_later):
        day = _next_session(day)
    return available_at(day, delay)


def newest(now: datetime, count: int, delay: timedelta) -> list[date]:
    """The newest sessions whose bars can be had, ascending."""
    # Sessions of the next days can't be had, and one of this day may not yet be.
    found = market_calendar.previous_sessions(now.date() + timedelta(days=1), count + 1)
    return [day for day in found if available_at(day, delay) <= now][-count:]


def decide(
    now: datetime,
    wanted: Sequence[date],
    *,
    done: Collection[date],
    busy: Mapping[date, str],
    attempts: Mapping[date, Sequence[Attempt]],
    patience: Patience,
) -> list[Verdict]:
    """What to do about each session that is not done.

    Args:
        now: The time, UTC.
        wanted: The sessions that should be done by now.
        done: Those that are.
        busy: Sessions that somebody collects or will, and who.
        attempts: The runs that were asked for each session for this reason, in any order.
        patience: How often to ask.
    """
    return [
        _verdict(now, session, busy.get(session), attempts.get(session, ()), patience)
        for session in wanted
        if session not in done
    ]


def _verdict(
    now: datetime, session: date, busy: str | None, made: Sequence[Attempt], patience: Patience
) -> Verdict:
    if busy:
        return Verdict(session, None, f"{session}: {busy}")
    ends = [attempt.ended for attempt in made]
    ended = [end for end in ends if end]
    if len(ended) < len(ends):
        return Verdict(session, None, f"{session}: its attempt {len(made)} is under way")
    if not ended:
        return Verdict(session, 1, f"{session}: its bars can be had")
    if len(ended) >= patience.attempts:
        return Verdict(
            session,
            None,
            f"{session}: given up after {len(ended)} attempts; see its last run, then type "
            f"`datalake collect --session {session}`",
        )
    again = max(ended) + patience.pause(len(ended))
    if now < again:
        at = f"{again:%Y-%m-%d %H:%M} UTC"
        return Verdict(
            session, None, f"{session}: attempt {len(ended)} failed, the next is at {at}"
        )
    last = " and last" if len(ended) + 1 == patience.attempts else ""
    return Verdict(
        session, len(ended) + 1, f"{session}: attempt {len(ended)} failed, this is the next{last}"
    )


def _next_session(day: date) -> date:
    while True:
        day += timedelta(days=1)
        if market_calendar.is_session(day):
            return day
