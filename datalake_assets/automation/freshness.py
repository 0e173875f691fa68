"""Freshness: whether the newest session is in the lake by its deadline.

Belongs here: the deadline, the check that shows it, and the sensor that has it looked at and tells
people. Does not belong here: collecting what is missing (`sensors`), how texts are sent (`alerts`).

What counts is the lake itself, not Dagster's records: those say what was done, not what is there.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from datalake_assets import market_calendar
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.automation import due
from datalake_assets.automation.alerts import AlertError, webhook
from datalake_assets.automation.jobs import NEWEST_SESSION, freshness_job, sensor_status
from datalake_assets.collection.clock import Clock
from datalake_assets.lake.files import LakeFiles
from datalake_assets.resources import LakeResource
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

_TO_COLLECT = timedelta(hours=1)
"""What a collection is given at least, from when its session's bars can be had."""

_LOOKED_BACK = 30
"""Sessions among which the newest with a deadline in the past is sought: more than there are in
the longest deadline (10 days)."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When each session must be there.

    Args:
        first: The first session that is wanted at all.
        within: Time after a session's close.
        delay: Time after a session's close from when it is collected. A session is never late
            before it can be there, whatever `within` says: on a half day a partition appears nine
            hours after the opening, but up to five after the close.
    """

    first: date
    within: timedelta
    delay: timedelta

    @classmethod
    def of(cls, settings: Settings) -> "Deadlines":
        """Those that the settings ask for."""
        return cls(
            settings.first_session,
            timedelta(hours=settings.fresh_within_hours),
            timedelta(minutes=settings.collect_after_minutes),
        )

    def of_session(self, session: date) -> datetime:
        """The instant (UTC) from which on a session that is not there is late."""
        closed = market_calendar.session_close(session)
        return max(closed + self.within, due.available_at(session, self.delay) + _TO_COLLECT)

    def newest_passed(self, now: datetime) -> date | None:
        """The newest session whose deadline has passed; None before the first one."""
        days = due.up_to(now.date(), _LOOKED_BACK)
        passed = [day for day in days if self.of_session(day) <= now]
        return passed[-1] if passed and passed[-1] >= self.first else None


@dataclass(frozen=True, slots=True)
class Freshness:
    """The lake against a deadline.

    Args:
        session: The newest session whose deadline has passed.
        deadline: That deadline, UTC.
        newest: The newest session that the lake holds; None when it holds none.
        missing: The sessions in a row, up to this one, that it lacks; none when it is there.
    """

    session: date
    deadline: datetime
    newest: date | None
    missing: tuple[date, ...]

    @property
    def command(self) -> str:
        """What to type."""
        if not self.missing:
            return "nothing"
        if len(self.missing) == 1:
            return f"datalake collect --session {self.session}"
        return f"datalake backfill --from {self.missing[0]} --to {self.session}"

    def __str__(self) -> str:
        if not self.missing:
            return f"{self.session} is there"
        count = "1 session is" if len(self.missing) == 1 else f"{len(self.missing):,} sessions are"
        return (
            f"{self.session} is missing since {self.deadline:%Y-%m-%d %H:%M} UTC: the lake is "
            f"stale. {count} missing, the newest there is {self.newest or 'none'}. "
            f"Type: {self.command}"
        )


def look(now: datetime, held: Collection[date], deadlines: Deadlines) -> Freshness | None:
    """Hold the sessions of a lake against the newest deadline that has passed.

    Args:
        now: The time, UTC.
        held: The sessions that are published.
        deadlines: When each must be.

    Returns:
        None before the first deadline.
    """
    session = deadlines.newest_passed(now)
    if session is None:
        return None
    there = frozenset(held)
    missing: list[date] = []
    for day in reversed(market_calendar.sessions(deadlines.first, session)):
        if day in there:
            break
        missing.append(day)
    return Freshness(
        session,
        deadlines.of_session(session),
        max(there, default=None),
        tuple(reversed(missing)),
    )


def build_freshness_check(settings: Settings) -> dg.AssetChecksDefinition:
    """The check that is red while the newest session is late.

    Args:
        settings: The deadlines.
    """
    deadlines = Deadlines.of(settings)

    spec = dg.AssetCheckSpec(
        NEWEST_SESSION.name,
        asset=DAILY_TICKS,
        description="The newest session is in the lake "
        f"{settings.fresh_within_hours} hours after its close (DATALAKE_FRESH_WITHIN_HOURS), "
        "whatever Dagster's records say.",
    )

    @dg.op(name=spec.name, out=dg.Out(dg.Nothing))
    def newest_session_is_there(
        clock: dg.ResourceParam[Clock], lake: LakeResource
    ) -> dg.AssetCheckResult:
        return judge(look(clock.now(), LakeFiles(open_store(lake.uri)).sessions(), deadlines))

    # `@asset_check` would make it wait for the asset's output. A run with a session that did not
    # pass has none, and would leave it unevaluated just when it has something to tell.
    check: dg.AssetChecksDefinition = dg.AssetChecksDefinition.create(
        keys_by_input_name={},
        node_def=newest_session_is_there,
        check_specs_by_output_name={"result": spec},
        can_subset=False,
    )
    return check


def judge(found: Freshness | None) -> dg.AssetCheckResult:
    """The verdict of the check, with its numbers."""
    if found is None:
        return dg.AssetCheckResult(passed=True, description="no session had to be there yet")
    metadata: dict[str, Any] = {
        "session": str(found.session),
        "deadline": dg.MetadataValue.timestamp(found.deadline),
        "newest_published": str(found.newest or "none"),
        "missing": len(found.missing),
        "to_type": found.command,
    }
    return dg.AssetCheckResult(passed=not found.missing, metadata=metadata, description=str(found))


@dataclass(slots=True)
class _Memory:
    """The sensor's cursor.

    Args:
        seen: The session and its state for which the check was last asked for.
        told: The session of which the webhook was told that it is missing, until it is told that
            the lake is fresh again.
    """

    seen: str = ""
    told: str = ""


def build_freshness_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that has the check looked at when its verdict changes, and tells people.

    Args:
        settings: The deadlines, the webhook, and whether it starts by itself.
    """
    deadlines, receiver = Deadlines.of(settings), webhook(settings)

    @dg.sensor(
        name="freshness",
        job=freshness_job,
        minimum_interval_seconds=60,
        default_status=sensor_status(settings),
        description="Evaluate the check newest_session_is_there when a session's deadline passes, "
        "and when a late session has come; tell the webhook (DATALAKE_ALERT_WEBHOOK) of both.",
    )
    def freshness(
        context: dg.SensorEvaluationContext,
        clock: dg.ResourceParam[Clock],
        lake: LakeResource,
    ) -> dg.SensorResult:
        now = clock.now()
        memory = _Memory(**json.loads(context.cursor or "{}"))
        session = deadlines.newest_passed(now)
        if session is None:
            return dg.SensorResult(skip_reason="no session had to be there yet")
        held = LakeFiles(open_store(lake.uri))
        # One look at one object: a tick is every minute. Only who tells people looks at them all.
        there = held.store.exists(layout.session_key(session))
        state = f"{session} {'there' if there else 'missing'}"
        told = f"{session} is there" if there else f"{session} is missing: the lake is stale"
        late, back = not there and memory.told != str(session), there and memory.told
        if receiver is None:
            memory.told = ""
            told += "" if there else "; DATALAKE_ALERT_WEBHOOK is not set, so nobody is told"
        elif late or back:
            found = look(now, held.sessions(), deadlines)
            try:
                receiver.tell(f"{found}: the lake is fresh again" if back else str(found))
                memory.told = "" if back else str(session)
            except AlertError as error:
                told += f"; {error}; this is tried again with the next tick"
                context.log.error(str(error))
        changed = state != memory.seen
        memory.seen = state
        cursor = json.dumps(asdict(memory))
        if not changed:
            return dg.SensorResult(skip_reason=told, cursor=cursor)
        context.log.info(told)
        # With the time: Dagster never launches a run key twice, and a session can go and come back.
        request = dg.RunRequest(run_key=f"{state} {now:%Y-%m-%dT%H:%M}")
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return freshness
