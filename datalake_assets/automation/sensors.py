"""Sensors: every day by itself.

Belongs here: which runs to ask for, and why not. Does not belong here: the rules about time
(`due`), and asking Dagster what it did (`runs`).

Each sensor looks, asks for a few runs or says why there is nothing to ask for, and remembers
nothing that can be looked up. What is true is in the lake and in Dagster's records.

https://docs.dagster.io/guides/automate/sensors
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg

from datalake_assets import market_calendar
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.daily_ticks import REQUESTS_TAG
from datalake_assets.assets.lake_report import KEY as LAKE_REPORT
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS
from datalake_assets.automation import due, runs
from datalake_assets.automation.jobs import (
    daily_ticks_job,
    lake_report_job,
    repair_job,
    symbol_year_ticks_job,
)
from datalake_assets.automation.lambda_session import JOB as LAMBDA_SESSION_JOB
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.plan import Packing
from datalake_assets.lake import layout
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.session_file import Summary
from datalake_assets.lake.store import Store, open_store
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.resources import LakeResource
from datalake_assets.settings import Settings

NEW, SECOND_LOOK, REPAIR, YEAR = "new session", "second look", "repair", "year"
"""What the runs are for: the values of the tag `runs.FOR`."""

COLLECTING = (daily_ticks_job.name, repair_job.name, LAMBDA_SESSION_JOB)
"""The jobs that collect sessions."""

YEARS_JOB = symbol_year_ticks_job.name

GRANTED_TAG, DAY_TAG = "datalake/max_requests", "datalake/day"
"""Tags of a repair: the requests that it may use, and of which day's budget."""

PATIENCE = due.Patience()
REPAIR_PATIENCE = due.Patience(attempts=3, first=timedelta(hours=1))

_PUBLICATION = timedelta(hours=1)  # longer than any takes

REPAIRS_AT_ONCE = 4
FOOTERS_A_TICK = 200
"""Session files that a tick of the repair sensor looks into: a new one starts with the whole lake,
and a tick must be quick."""


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors that ask for runs.

    Args:
        settings: How late, how often, how much.
    """
    return [
        _new_sessions(settings),
        _second_look(settings),
        _repair(settings),
        _years_follow(),
        _report_follows(),
    ]


def _new_sessions(settings: Settings) -> dg.SensorDefinition:
    delay = timedelta(minutes=settings.collect_after_minutes)

    @dg.sensor(
        name="new_sessions",
        job=daily_ticks_job,
        minimum_interval_seconds=120,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Collect each session once its bars can be had, and again with growing pauses "
        f"while it fails. Catches up with the newest {settings.catch_up_sessions} sessions.",
    )
    def new_sessions(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        now = clock.now()
        wanted = _after(settings, due.newest(now, settings.catch_up_sessions, delay))
        published = runs.collected(context.instance, DAILY_TICKS)
        missing = [day for day in wanted if day.isoformat() not in published]
        verdicts = _verdicts(context, NEW, now, missing, PATIENCE)
        told = [verdict.why for verdict in verdicts]
        if not told:
            told = [f"{wanted[-1]}, the newest one, is there" if wanted else "none can be had yet"]
        return _answer(context, NEW, verdicts, [*told, *_older(settings, wanted, published)])

    return new_sessions


def _second_look(settings: Settings) -> dg.SensorDefinition:
    later = settings.second_look_sessions
    delay = timedelta(minutes=settings.collect_after_minutes)

    @dg.sensor(
        name="second_look",
        job=daily_ticks_job,
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Bars are corrected after the evening: collect a session once more with a "
        "later one, and log what changed (DATALAKE_SECOND_LOOK_SESSIONS).",
    )
    def second_look(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        if not later:
            return dg.SkipReason("DATALAKE_SECOND_LOOK_SESSIONS is 0: nothing is collected again")
        now = clock.now()
        newest = due.newest(now, settings.catch_up_sessions + later, delay)
        again = {day: due.looked_at_again_at(day, later, delay) for day in newest}
        ripe = [day for day in _after(settings, newest) if again[day] <= now]
        at = runs.materialized_at(context.instance, DAILY_TICKS, map(str, ripe))
        # What was never published is not to be looked at again, but to be collected.
        wanted = [day for day in ripe if str(day) in at and at[str(day)] < again[day]]
        verdicts = _verdicts(context, SECOND_LOOK, now, wanted, PATIENCE)
        told = [verdict.why for verdict in verdicts] or ["every session was looked at again"]
        return _answer(context, SECOND_LOOK, verdicts, told)

    return second_look


@dataclass(slots=True)
class _Broken:
    """What the repair sensor knows of a session with holes.

    Args:
        missing: Symbols that failed or were not asked for; 0 when it failed its audit otherwise.
        symbols: Symbols to ask for: these, or when there are none all of them.
        incomplete: Whether it waits in `incomplete/`.
        tries: Repairs asked for since it last got better.
        not_before: No repair before this instant.
    """

    missing: int
    symbols: int
    incomplete: bool
    tries: int = 0
    not_before: str = ""


@dataclass(slots=True)
class _Memory:
    """The repair sensor's cursor: what it found, so that it need not look into every file again.

    Args:
        seen: Session files written until this instant were looked into.
        broken: The sessions with holes.
    """

    seen: str = ""
    broken: dict[str, _Broken] = field(default_factory=dict)

    @classmethod
    def of(cls, cursor: str | None) -> "_Memory":
        told = json.loads(cursor or "{}")
        broken = {day: _Broken(**one) for day, one in told.pop("broken", {}).items()}
        return cls(**told, broken=broken)


def _repair(settings: Settings) -> dg.SensorDefinition:
    budget = settings.repair_requests_per_day
    delay = timedelta(minutes=settings.collect_after_minutes)

    @dg.sensor(
        name="repair",
        job=repair_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Find sessions with failed or pending symbols and ask again for these, oldest "
        f"first, with {budget} requests a day at most (DATALAKE_REPAIR_REQUESTS_PER_DAY).",
    )
    def repair(
        context: dg.SensorEvaluationContext,
        clock: dg.ResourceParam[Clock],
        lake: LakeResource,
    ) -> dg.SensorResult | dg.SkipReason:
        if not budget:
            return dg.SkipReason("DATALAKE_REPAIR_REQUESTS_PER_DAY is 0: nothing is repaired")
        now = clock.now()
        memory = _Memory.of(context.cursor)
        left = _look(Lake(open_store(lake.uri)), memory)
        published = runs.collected(context.instance, DAILY_TICKS)
        fresh = {
            str(day)
            for day in due.newest(now, settings.catch_up_sessions, delay)
            if str(day) not in published
        }
        busy = _under_way(context)
        today = context.instance.get_run_records(
            dg.RunsFilter(tags={runs.FOR: REPAIR, DAY_TAG: f"{now:%Y-%m-%d}"})
        )
        spent = sum(_requests(record.dagster_run) for record in today)
        running = sum(not record.dagster_run.is_finished for record in today)
        requests: list[dg.RunRequest] = []
        told: list[str] = []
        for day, broken in sorted(memory.broken.items()):
            if day in fresh:
                told.append(f"{day}: left to the sensor new_sessions")
            elif broken.tries >= REPAIR_PATIENCE.attempts:
                told.append(_given_up(day, broken))
            elif day in busy:
                told.append(f"{day}: {busy[day]}")
            elif broken.not_before > now.isoformat():
                told.append(f"{day}: not again before {broken.not_before[:16]} UTC")
            elif running + len(requests) >= REPAIRS_AT_ONCE:
                told.append(f"{day}: {REPAIRS_AT_ONCE} repairs are under way")
            elif spent + (planned := _planned(broken)) > budget:
                told.append(f"{day}: needs {planned}, and {spent} of today's {budget} requests are")
                told[-1] += " used"
            else:
                # Some requests fail and are sent again, but never beyond the day's budget.
                granted = min(planned + max(3, planned), budget - spent)
                spent += granted
                broken.tries += 1
                pause = REPAIR_PATIENCE.pause(broken.tries)
                broken.not_before = (now + pause).isoformat()
                requests.append(_repair_of(day, broken, granted, now))
                if broken.tries == REPAIR_PATIENCE.attempts:
                    context.log.warning(
                        "%s: this is the last repair of it by itself; if symbols still fail, type "
                        "`datalake collect --session %s --repair`",
                        *(day, day),
                    )
        if left:
            told.append(f"{left} session files are still to be looked into")
        cursor = json.dumps(asdict(memory))
        why = _told(told) if told else "no session has holes"
        if not requests:
            return dg.SensorResult(skip_reason=dg.SkipReason(why), cursor=cursor)
        context.log.info(why)
        return dg.SensorResult(run_requests=requests, cursor=cursor)

    return repair


def _years_follow() -> dg.SensorDefinition:
    @dg.sensor(
        name="years_follow",
        job=symbol_year_ticks_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Publish a year per symbol when its sessions changed and nobody is collecting "
        "more of them: once after a backfill, not once a session.",
    )
    def years_follow(
        context: dg.SensorEvaluationContext,
        clock: dg.ResourceParam[Clock],
        lake: LakeResource,
    ) -> dg.SensorResult | dg.SkipReason:
        now = clock.now()
        changed = _changed_years(open_store(lake.uri))
        graph = _graph(context)
        collecting = {day[:4] for day in _under_way(context)}
        publishing = runs.under_way(context.instance, SYMBOL_YEAR_TICKS, (YEARS_JOB,), graph)
        requests: list[dg.RunRequest] = []
        told: list[str] = []
        for year, at in changed.items():
            made = [
                attempt
                for attempt in runs.attempts(context.instance, YEAR, year)
                if not attempt.ended or attempt.ended >= at
            ]
            ended = [attempt.ended for attempt in made if attempt.ended]
            if year in collecting:
                told.append(f"{year}: its sessions are being collected")
            elif year in publishing:
                told.append(f"{year}: {publishing[year]}")
            elif len(ended) >= PATIENCE.attempts:
                told.append(f"{year}: given up; type `datalake publish --year {year}`")
            elif ended and now < (again := max(ended) + PATIENCE.pause(len(ended))):
                told.append(f"{year}: failed, the next attempt is at {again:%H:%M} UTC")
            else:
                requests.append(
                    dg.RunRequest(
                        run_key=f"{YEAR} {year} {at.isoformat()} #{len(made) + 1}",
                        partition_key=year,
                        tags={runs.FOR: YEAR},
                    )
                )
        if not requests:
            return dg.SkipReason(_told(told) or "every year shows its sessions as they are")
        return dg.SensorResult(run_requests=requests)

    return years_follow


def _report_follows() -> dg.SensorDefinition:
    @dg.sensor(
        name="report_follows",
        job=lake_report_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Write the report anew when something was published, or failed, and nothing "
        "more is under way.",
    )
    def report_follows(
        context: dg.SensorEvaluationContext,
    ) -> dg.SensorResult | dg.SkipReason:
        newest = runs.newest_news(
            context.instance, (DAILY_TICKS, SYMBOL_YEAR_TICKS), (*COLLECTING, YEARS_JOB)
        )
        written = runs.last_materialized(context.instance, LAKE_REPORT)
        if newest is None or (written and newest <= written):
            return dg.SkipReason("nothing happened since the report was written")
        busy = {
            **_under_way(context),
            **runs.under_way(context.instance, SYMBOL_YEAR_TICKS, (YEARS_JOB,), _graph(context)),
        }
        if busy:
            return dg.SkipReason(f"{len(busy):,} partitions are still being worked on")
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"report {newest.isoformat()}")])

    return report_follows


def _after(settings: Settings, days: list[date]) -> list[date]:
    return [day for day in days if day >= settings.first_session]


def _under_way(context: dg.SensorEvaluationContext) -> dict[str, str]:
    return runs.under_way(context.instance, DAILY_TICKS, COLLECTING, _graph(context))


def _graph(context: dg.SensorEvaluationContext) -> Any:
    return context.repository_def.asset_graph if context.repository_def else None


def _verdicts(
    context: dg.SensorEvaluationContext,
    purpose: str,
    now: datetime,
    wanted: list[date],
    patience: due.Patience,
) -> list[due.Verdict]:
    if not wanted:
        return []
    busy = {date.fromisoformat(day): who for day, who in _under_way(context).items()}
    made = {day: runs.attempts(context.instance, purpose, str(day)) for day in wanted}
    return due.decide(now, wanted, done=(), busy=busy, attempts=made, patience=patience)


def _answer(
    context: dg.SensorEvaluationContext,
    purpose: str,
    verdicts: list[due.Verdict],
    told: list[str],
) -> dg.SensorResult | dg.SkipReason:
    requests = [
        dg.RunRequest(
            run_key=f"{purpose} {verdict.session} #{verdict.attempt}",
            partition_key=str(verdict.session),
            tags={runs.FOR: purpose},
        )
        for verdict in verdicts
        if verdict.attempt
    ]
    if not requests:
        return dg.SkipReason(_told(told))
    context.log.info(_told(told))
    return dg.SensorResult(run_requests=requests)


def _older(settings: Settings, wanted: list[date], published: frozenset[str]) -> Iterator[str]:
    """Tell of missing sessions that are too old to be caught up with."""
    if not wanted:
        return
    before = market_calendar.sessions(settings.first_session, wanted[0] - timedelta(days=1))
    missing = [day for day in before if str(day) not in published]
    if missing:
        yield (
            f"{len(missing):,} older sessions are missing, which is a backfill: "
            f"`datalake backfill --from {missing[0]} --to {missing[-1]}`"
        )


def _look(lake: Lake, memory: _Memory) -> int:
    """Look into session files written since the last time.

    Returns:
        How many are left for the next tick.
    """
    written = {
        **lake.store.modified(layout.SESSIONS),
        **lake.store.modified(layout.INCOMPLETE),
    }
    unseen = sorted((at.isoformat(), key) for key, at in written.items())
    unseen = [pair for pair in unseen if pair[0] > memory.seen]
    now, later = unseen[:FOOTERS_A_TICK], unseen[FOOTERS_A_TICK:]
    # Files of one instant belong together: the cursor can't tell them apart.
    while later and now[-1][0] == later[0][0]:
        now.append(later.pop(0))
    keys = [key for _, key in now]
    for key, summary in zip(keys, lake.summaries(keys), strict=True):
        if isinstance(summary, Summary):
            _remember(memory, summary, incomplete=key.startswith(layout.INCOMPLETE))
    if now:
        memory.seen = now[-1][0]
    waiting = {str(day) for day in layout.dated(layout.INCOMPLETE, list(written))}
    for day in [day for day, one in memory.broken.items() if one.incomplete and day not in waiting]:
        del memory.broken[day]
    return len(later)


def _remember(memory: _Memory, summary: Summary, *, incomplete: bool) -> None:
    day, missing = str(summary.session), summary.counts["failed"] + summary.counts["pending"]
    before = memory.broken.get(day)
    if not missing and not incomplete:
        memory.broken.pop(day, None)
    elif before and missing >= before.missing:
        before.missing, before.incomplete = missing, incomplete
    else:
        symbols = missing or sum(summary.counts.values())
        memory.broken[day] = _Broken(missing, symbols, incomplete)


def _planned(broken: _Broken) -> int:
    """Requests that a repair takes when none fails."""
    return max(1, -(-broken.symbols // Packing().symbols))


def _repair_of(day: str, broken: _Broken, granted: int, now: datetime) -> dg.RunRequest:
    # What lacks no symbol and failed its audit all the same is asked for as a whole.
    knobs = {"repair": broken.missing > 0, "max_requests": granted}
    return dg.RunRequest(
        run_key=f"{REPAIR} {day} {now.isoformat()}",
        partition_key=day,
        run_config={"resources": {"collector": {"config": knobs}}},
        tags={runs.FOR: REPAIR, GRANTED_TAG: str(granted), DAY_TAG: f"{now:%Y-%m-%d}"},
    )


def _requests(run: dg.DagsterRun) -> int:
    """Requests that a repair used; while it may still use more, those that it was granted."""
    tags: Mapping[str, str] = run.tags
    granted = int(tags.get(GRANTED_TAG, 0))
    return int(tags.get(REQUESTS_TAG, granted)) if run.is_finished else granted


def _given_up(day: str, broken: _Broken) -> str:
    return (
        f"{day}: given up after {broken.tries} repairs, {broken.missing:,} symbols are missing; "
        f"type `datalake collect --session {day} --repair`"
    )


def _changed_years(store: Store) -> dict[str, datetime]:
    """The years whose symbol-years are behind, and when their newest session was written."""
    newest: dict[int, datetime] = {}
    for key, at in store.modified(layout.SESSIONS).items():
        for day in layout.dated(layout.SESSIONS, [key]):
            newest[day.year] = max(at, newest.get(day.year, at))
    published = store.modified(layout.MANIFESTS)
    found = {}
    for year, at in sorted(newest.items()):
        manifest_at = published.get(layout.manifest_key(year))
        # A session may have been written while the year was being published.
        recent = manifest_at is None or at >= manifest_at - _PUBLICATION
        if recent and SymbolYears(store).behind(year):
            found[str(year)] = at
    return found


def _told(reasons: list[str]) -> str:
    """The first of many reasons."""
    few = reasons[:8]
    return "; ".join([*few, f"and {len(reasons) - len(few):,} more"] if reasons[8:] else few)
