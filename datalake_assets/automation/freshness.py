"""Freshness: whether the newest session is in the lake by its deadline.

Belongs here: the deadline, the check, and the sensor that evaluates the check and sends alerts. Not
here: collecting what is missing (`sensors`), how texts are sent (`alerts`).

The lake itself counts, not Dagster's records: those say what was done, not what is in the lake.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from datalake_assets import market_calendar
from datalake_assets.assets.session_ticks import DAILY_TICKS
from datalake_assets.automation import due
from datalake_assets.automation.alerts import NOBODY, receivers
from datalake_assets.automation.jobs import NEWEST_SESSION, OUR_JOBS, Jobs, sensor_status
from datalake_assets.automation.sending import AlertError
from datalake_assets.collection.clock import Clock
from datalake_assets.lake.files import LakeFiles
from datalake_assets.names import OURS, Names
from datalake_assets.resources import LakeResource
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

_TO_COLLECT = timedelta(hours=1)
"""The minimum time for a collection, from when its session can be collected."""

_LOOKED_BACK = 30
"""How many sessions are searched for the newest with a deadline in the past: more than the longest
deadline (10 days) has."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When each session must be in the lake.

    Args:
        first: The lake's first session.
        within: Time after a session's close.
        delay: Time from a session's close to its collection. A session is never late before it can
            be in the lake, whatever `within` says: on a half day its partition appears nine hours
            after the opening, up to five hours after the close.
    """

    first: date
    within: timedelta
    delay: timedelta

    @classmethod
    def of(cls, settings: Settings) -> "Deadlines":
        """The deadlines of the settings."""
        return cls(
            settings.first_session,
            timedelta(hours=settings.fresh_within_hours),
            timedelta(minutes=settings.collect_after_minutes),
        )

    def of_session(self, session: date) -> datetime:
        """The instant (UTC) from which a missing session is late."""
        closed = market_calendar.session_close(session)
        return max(closed + self.within, due.available_at(session, self.delay) + _TO_COLLECT)

    def newest_passed(self, now: datetime) -> date | None:
        """The newest session whose deadline has passed; None before the first one."""
        days = due.up_to(now.date(), _LOOKED_BACK)
        passed = [day for day in days if self.of_session(day) <= now]
        return passed[-1] if passed and passed[-1] >= self.first else None


@dataclass(frozen=True, slots=True)
class Freshness:
    """The state of the lake at a deadline.

    Args:
        session: The newest session whose deadline has passed.
        deadline: That deadline, UTC.
        newest: The newest session of the lake; None if it has none.
        missing: The consecutive missing sessions up to this one; empty if it is there.
        names: What the lake's definitions are called.
    """

    session: date
    deadline: datetime
    newest: date | None
    missing: tuple[date, ...]
    names: Names = OURS

    @property
    def command(self) -> str:
        """The command to run."""
        if not self.missing:
            return "nothing"
        first, last = f"{self.missing[0]}", f"{self.session}"
        if first == last:
            return self.names.command(f"datalake collect --session {last}", DAILY_TICKS, last)
        ours = f"datalake backfill --from {first} --to {last}"
        return self.names.command(ours, DAILY_TICKS, first, last)

    def __str__(self) -> str:
        if not self.missing:
            return f"{self.session} is there"
        count = "1 session is" if len(self.missing) == 1 else f"{len(self.missing):,} sessions are"
        return (
            f"{self.session} was due at {self.deadline:%Y-%m-%d %H:%M} UTC: the lake is stale. "
            f"{count} missing, the newest session in the lake is {self.newest or 'none'}. "
            f"Run: {self.command}"
        )


def look(
    now: datetime, held: Collection[date], deadlines: Deadlines, names: Names = OURS
) -> Freshness | None:
    """Compare the sessions of a lake with the newest deadline that has passed.

    Args:
        now: The time, UTC.
        held: The published sessions.
        deadlines: The deadlines.
        names: What the lake's definitions are called.

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
        names,
    )


def build_freshness_check(settings: Settings, names: Names = OURS) -> dg.AssetChecksDefinition:
    """The check that fails while the newest session is late.

    Args:
        settings: The deadlines.
        names: What the lake's definitions are called.
    """
    deadlines = Deadlines.of(settings)

    spec = dg.AssetCheckSpec(
        NEWEST_SESSION.name,
        asset=names.key(DAILY_TICKS),
        description="The newest session is in the lake at most "
        f"{settings.fresh_within_hours} hours after its close (DATALAKE_FRESH_WITHIN_HOURS). "
        "The lake itself is checked, not Dagster's records.",
    )

    @dg.op(name=names.of(spec.name), out=dg.Out(dg.Nothing))
    @names.bind
    def newest_session_is_there(
        clock: dg.ResourceParam[Clock], lake: LakeResource
    ) -> dg.AssetCheckResult:
        held = LakeFiles(open_store(lake.uri)).sessions()
        return judge(look(clock.now(), held, deadlines, names))

    # `@asset_check` would wait for the asset's output. A run with a session that did not pass has
    # no output, so the check would not be evaluated when it matters most.
    check: dg.AssetChecksDefinition = dg.AssetChecksDefinition.create(
        keys_by_input_name={},
        node_def=newest_session_is_there,
        check_specs_by_output_name={"result": spec},
        can_subset=False,
    )
    return check


def judge(found: Freshness | None) -> dg.AssetCheckResult:
    """The result of the check, with its numbers."""
    if found is None:
        return dg.AssetCheckResult(passed=True, description="no session is due yet")
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
        seen: The session and its state at the last evaluation of the check.
        told: The session that was reported as missing, until the lake is reported as fresh again.
    """

    seen: str = ""
    told: str = ""


def build_freshness_sensor(settings: Settings, jobs: Jobs = OUR_JOBS) -> dg.SensorDefinition:
    """The sensor that evaluates the check when its result changes, and sends alerts.

    Args:
        settings: The deadlines, who receives alerts, and whether it starts automatically.
        jobs: The lake's jobs.
    """
    names = jobs.names
    deadlines, people = Deadlines.of(settings), receivers(settings)

    @dg.sensor(
        name=names.of("freshness"),
        job=jobs.freshness,
        minimum_interval_seconds=60,
        default_status=sensor_status(settings),
        description="Evaluate the check newest_session_is_there when a session's deadline passes "
        "and when a late session arrives. Send alerts for both (DATALAKE_ALERT_WEBHOOK, "
        "DATALAKE_ALERT_URLS).",
    )
    @names.bind
    def freshness(
        context: dg.SensorEvaluationContext,
        clock: dg.ResourceParam[Clock],
        lake: LakeResource,
    ) -> dg.SensorResult:
        now = clock.now()
        memory = _Memory(**json.loads(context.cursor or "{}"))
        session = deadlines.newest_passed(now)
        if session is None:
            return dg.SensorResult(skip_reason="no session is due yet")
        held = LakeFiles(open_store(lake.uri))
        # A tick runs every minute, so it checks one object; only an alert lists all sessions.
        there = held.store.exists(layout.session_key(session))
        state = f"{session} {'there' if there else 'missing'}"
        told = f"{session} is there" if there else f"{session} is missing: the lake is stale"
        late, back = not there and memory.told != str(session), there and memory.told
        if people is None:
            memory.told = ""
            told += "" if there else f"; {NOBODY}, so no alert is sent"
        elif late or back:
            found = look(now, held.sessions(), deadlines, names)
            try:
                text = f"{found}: the lake is fresh again" if back else str(found)
                people.tell(text, good=bool(back))
                delivered = True
            except AlertError as error:
                delivered = error.delivered
                told += f"; {error}" + ("" if delivered else "; the next tick tries again")
                context.log.error(str(error))
            if delivered:
                memory.told = "" if back else str(session)
        changed = state != memory.seen
        memory.seen = state
        cursor = json.dumps(asdict(memory))
        if not changed:
            return dg.SensorResult(skip_reason=told, cursor=cursor)
        context.log.info(told)
        # With the time: Dagster never launches a run key twice, and a session can vanish again.
        request = dg.RunRequest(run_key=f"{state} {now:%Y-%m-%dT%H:%M}")
        return dg.SensorResult(run_requests=[request], cursor=cursor)

    return freshness
