"""The sensors of daily operation.

Belongs here: which runs to request, and why not. Does not belong here: the rules about time
(`due`), incomplete sessions and their budget (`repairs`), years that are out of date (`years`), and
queries of Dagster (`runs`).

Each sensor reads the state, requests a few runs or says why none is needed, and stores nothing that
can be looked up. The state is in the lake and in Dagster's records.

https://docs.dagster.io/guides/automate/sensors
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg

from datalake_assets import market_calendar
from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.assets.lake_report import KEY as LAKE_REPORT
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.assets.session_ticks import DAILY_TICKS, MINUTE_TICKS, REQUESTS_TAG
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS
from datalake_assets.assets.symbol_year_ticks import prove_written
from datalake_assets.assets.year_ticks import KEY as YEAR_TICKS
from datalake_assets.automation import due, runs
from datalake_assets.automation.following import RETRIES, follow
from datalake_assets.automation.jobs import OUR_JOBS, Jobs, UnresolvedJob, sensor_status
from datalake_assets.automation.repairs import Holes, Repair
from datalake_assets.automation.years import IN_ONE_FILE, PER_SYMBOL, Years
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, Dataset, minute_dataset
from datalake_assets.collection.progress import many, verb
from datalake_assets.lake.files import LakeFiles
from datalake_assets.names import Names
from datalake_assets.resources import LakeResource
from datalake_assets.settings import Settings
from datalake_assets.sources.alpaca import DELAY
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, open_store

NEW, SECOND_LOOK, REPAIR, REPORT = "new session", "second look", "repair", "report"
NEW_MINUTES, MINUTES_AGAIN = "new minutes", "second look at minutes"
YEAR, YEAR_FILE = "year", "year file"
"""The purposes of the runs: the values of the tag `runs.PURPOSE`."""

GRANTED_TAG, DAY_TAG = "datalake/max_requests", "datalake/day"
"""The tags of a repair: the requests it may send, and the day of the budget."""

_REASONS = 8  # how many one tick shows


def build_sensors(settings: Settings, jobs: Jobs = OUR_JOBS) -> list[dg.SensorDefinition]:
    """The sensors that request runs.

    Args:
        settings: How late, how often, how much, and whether they start automatically.
        jobs: The lake's jobs.
    """
    daily, *minutes = _collected(settings, jobs)
    return [
        _new_sessions(settings, jobs, daily),
        *(_new_sessions(settings, jobs, each, needs=daily) for each in minutes),
        *(_second_look(settings, jobs, each) for each in (daily, *minutes)),
        _repair(settings, jobs, [daily, *minutes]),
        _years_follow(settings, jobs, daily),
        _report_follows(settings, jobs, [daily, *minutes]),
    ]


@dataclass(frozen=True, slots=True)
class _Collected:
    """A dataset that sensors collect and repair.

    Args:
        dataset: Its bars.
        asset: Its asset.
        jobs: The names of the jobs that collect it.
        sensor: The sensor that collects its new sessions.
        purpose: The purpose of this sensor's runs.
        delay: When a session is collected: so long after its hours.
        job: The job that the sensor launches.
        repairing: The job that repairs it.
        looking: The sensor that collects its sessions again.
        again: The purpose of that sensor's runs.
        later: How many sessions later they are collected again; 0: never.
        set_by: The setting that says so.
        option: What `datalake collect` needs to collect it.
    """

    dataset: Dataset
    asset: dg.AssetKey
    jobs: tuple[str, ...]
    sensor: str
    purpose: str
    delay: timedelta
    job: UnresolvedJob
    repairing: UnresolvedJob
    looking: str
    again: str
    later: int
    set_by: str
    option: str = ""

    def command(self, what: str) -> str:
        """The command `datalake collect …` or `datalake backfill …` for this dataset."""
        verb, _, rest = what.partition(" ")
        return f"datalake {verb}{self.option} {rest}"

    def repair(self, names: Names, day: str) -> str:
        """The command that repairs a session."""
        ours = self.command(f"collect --session {day} --repair")
        return names.command(ours, self.asset, day, repair=True)

    def newest(self, now: datetime, settings: Settings) -> list[date]:
        """The newest sessions that can be collected, ascending."""
        days = due.newest(now, settings.catch_up_sessions, self.delay, self.dataset)
        return _after(settings, days)


def _collected(settings: Settings, jobs: Jobs) -> list[_Collected]:
    """The lake's datasets: daily bars, and minute bars if they are turned on."""
    delay = timedelta(minutes=settings.collect_after_minutes)
    found = [
        _Collected(
            dataset=DAILY,
            asset=DAILY_TICKS,
            jobs=jobs.collecting,
            sensor="new_sessions",
            purpose=NEW,
            delay=delay,
            job=jobs.daily_ticks,
            repairing=jobs.repair,
            looking="second_look",
            again=SECOND_LOOK,
            later=settings.second_look_sessions,
            set_by="DATALAKE_SECOND_LOOK_SESSIONS",
        )
    ]
    if minutes := minute_dataset(settings.minutes):
        found.append(
            _Collected(
                dataset=minutes,
                asset=MINUTE_TICKS,
                jobs=jobs.collecting_minutes,
                sensor="new_minutes",
                purpose=NEW_MINUTES,
                # The source serves the last minute only some time after it.
                delay=DELAY + delay,
                job=jobs.minute_ticks,
                repairing=jobs.minute_ticks,
                looking="second_look_at_minutes",
                again=MINUTES_AGAIN,
                later=settings.minute_second_look_sessions,
                set_by="DATALAKE_MINUTE_SECOND_LOOK_SESSIONS",
                option=" --minutes",
            )
        )
    return found


def _new_sessions(
    settings: Settings, jobs: Jobs, what: _Collected, needs: _Collected | None = None
) -> dg.SensorDefinition:
    """The sensor that collects the new sessions of a dataset, once those it needs are published."""
    names = jobs.names
    of = "each session" if needs is None else f"the {what.dataset.bars_of} of each session"
    once = "" if needs is None else f", once its {needs.dataset.bars_of} are published"

    @dg.sensor(
        name=names.of(what.sensor),
        job=what.job,
        minimum_interval_seconds=120,
        default_status=sensor_status(settings),
        description=f"Collect {of} on its evening{once}, with retries at growing intervals. Also "
        f"collects missing ones of the newest {many(settings.catch_up_sessions, 'session')}.",
    )
    @names.bind
    def new_sessions(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        now = runs.begin_tick(context, clock, jobs)
        wanted = what.newest(now, settings)
        published = runs.collected(context.instance, names.key(what.asset))
        missing = {str(day): "it can be collected" for day in wanted if str(day) not in published}
        waits: dict[str, str] = {}
        if needs:
            there = runs.collected(context.instance, names.key(needs.asset))
            why = f"waits until its {needs.dataset.bars_of} are published"
            waits = {day: why for day in missing if day not in there}
        verdicts = _verdicts(context, jobs, what, what.purpose, now, missing, waits)
        told = [verdict.why for verdict in verdicts]
        if not told:
            following, at = due.next_available(
                wanted[-1] if wanted else settings.first_session - timedelta(days=1),
                what.delay,
                what.dataset,
            )
            there_is = f"the newest session, {wanted[-1]}, is published; " if wanted else ""
            told = [f"{there_is}{following} is collected from {at:%Y-%m-%d %H:%M} UTC"]
        # Minute bars may begin at any session: what is before their first one is not missing.
        since = min(published, default=None) if needs else str(settings.first_session)
        told += _older(since, wanted, published, what, names)
        return _answer(context, _requests_of(names.purpose(what.purpose), verdicts), told)

    return new_sessions


def _second_look(settings: Settings, jobs: Jobs, what: _Collected) -> dg.SensorDefinition:
    names, dataset = jobs.names, what.dataset

    @dg.sensor(
        name=names.of(what.looking),
        job=what.job,
        minimum_interval_seconds=600,
        default_status=sensor_status(settings),
        description=f"Collect the {dataset.bars_of} of each session again with a later one, since "
        f"the source corrects bars after the evening. Changes are logged ({what.set_by}).",
    )
    @names.bind
    def second_look(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        if not what.later:
            return dg.SkipReason(f"{what.set_by} is 0: nothing is collected again")
        now = runs.begin_tick(context, clock, jobs)
        newest = due.newest(now, settings.catch_up_sessions + what.later, what.delay, dataset)
        again = {
            day: due.looked_at_again_at(day, what.later, what.delay, dataset) for day in newest
        }
        ripe = [day for day in _after(settings, newest) if again[day] <= now]
        at = runs.materialized_at(context.instance, names.key(what.asset), map(str, ripe), now)
        # A session that was never published needs a first collection, not a second look.
        wanted = {
            str(day): "its second look is due"
            for day in ripe
            if str(day) in at and at[str(day)] < again[day]
        }
        verdicts = _verdicts(context, jobs, what, what.again, now, wanted)
        told = [verdict.why for verdict in verdicts] or ["every session had its second look"]
        return _answer(context, _requests_of(names.purpose(what.again), verdicts), told)

    return second_look


def _repair(settings: Settings, jobs: Jobs, datasets: Sequence[_Collected]) -> dg.SensorDefinition:
    names = jobs.names
    budget = settings.repair_requests_per_day

    @dg.sensor(
        name=names.of("repair"),
        jobs=[what.repairing for what in datasets],
        minimum_interval_seconds=60,
        default_status=sensor_status(settings),
        description="Repair sessions with failed or pending symbols by requesting these again, and "
        "collect complete sessions again that did not pass. The oldest first, with at most "
        f"{many(budget, 'request')} a day (DATALAKE_REPAIR_REQUESTS_PER_DAY).",
    )
    @names.bind
    def repair(
        context: dg.SensorEvaluationContext,
        clock: dg.ResourceParam[Clock],
        lake: LakeResource,
    ) -> dg.SensorResult | dg.SkipReason:
        if not budget:
            return dg.SkipReason("DATALAKE_REPAIR_REQUESTS_PER_DAY is 0: nothing is repaired")
        now = runs.begin_tick(context, clock, jobs)
        files = LakeFiles(open_store(lake.uri))
        kept = json.loads(context.cursor or "{}")
        today = context.instance.get_run_records(
            dg.RunsFilter(tags={runs.PURPOSE: names.purpose(REPAIR), DAY_TAG: f"{now:%Y-%m-%d}"})
        )
        running = sum(not record.dagster_run.is_finished for record in today)
        left = budget - sum(_requests(record.dagster_run) for record in today)
        requests: list[dg.RunRequest] = []
        told: list[str] = []
        # One budget for all of them; the daily bars, which all else is held against, come first.
        for what in datasets:
            name = what.dataset.name
            holes = Holes.remembered(kept.get(name))
            unseen = holes.look(files.of(what.dataset))
            published = runs.collected(context.instance, names.key(what.asset))
            fresh = {str(day) for day in what.newest(now, settings)} - published
            repairs, why = holes.choose(
                now,
                busy=_under_way(context, jobs, what)
                | dict.fromkeys(fresh, f"left to the sensor {what.sensor}"),
                running=running,
                left=left,
                by_hand=partial(what.repair, names),
            )
            running += len(repairs)
            left -= sum(repair.granted for repair in repairs)
            for day in [repair.session for repair in repairs if repair.last]:
                context.log.warning(
                    "%s: this is its last automatic repair; if symbols still fail, run `%s`",
                    *(day, what.repair(names, day)),
                )
            if unseen:
                why.append(f"{many(unseen, 'session file')} {verb(unseen)} still to be read")
            of = f"{what.dataset.bars_of} of " if what.option else ""
            told += [f"{of}{each}" for each in why]
            requests += [_repair_of(repair, now, names, what) for repair in repairs]
            kept[name] = holes.cursor()
        told = told or ["no session is incomplete"]
        return _answer(context, requests, told, json.dumps(kept))

    return repair


def _years_follow(settings: Settings, jobs: Jobs, daily: _Collected) -> dg.SensorDefinition:
    names, proving = jobs.names, prove_written(jobs.names)

    @dg.sensor(
        name=names.of("years_follow"),
        jobs=[jobs.symbol_year_ticks, jobs.year_ticks],
        minimum_interval_seconds=60,
        default_status=sensor_status(settings),
        description="Write the files of a year when its sessions changed and none is being "
        "collected: once after a backfill, not once per session. The year file of the running "
        "year follows each session, its per-symbol files once a week (DATALAKE_RUNNING_YEAR).",
    )
    @names.bind
    def years_follow(
        context: dg.SensorEvaluationContext,
        clock: dg.ResourceParam[Clock],
        lake: LakeResource,
    ) -> dg.SensorResult | dg.SkipReason:
        now = runs.begin_tick(context, clock, jobs)
        store = open_store(lake.uri)
        kept = json.loads(context.cursor or "{}")
        versions = store.versions(layout.SESSIONS)
        collecting = {day[:4] for day in _under_way(context, jobs, daily)}

        def due_now(
            purpose: str, asset: dg.AssetKey, job: str, changed: Mapping[str, datetime]
        ) -> list[due.Verdict]:
            attempts = {
                year: runs.attempts(context.instance, names.purpose(purpose), year)
                for year in changed
            }
            return due.decide(
                now,
                dict.fromkeys(changed, "its sessions changed"),
                busy=runs.under_way(context, names.key(asset), (job,))
                | dict.fromkeys(collecting, "its sessions are being collected"),
                # Earlier runs published the sessions as they were then.
                attempts={
                    year: [one for one in made if not one.ended or one.ended >= changed[year]]
                    for year, made in attempts.items()
                },
                retries=RETRIES,
                by_hand=names.command("datalake publish --year {}", asset, "{}"),
            )

        files = Years.remembered(kept.get(YEAR_FILE))
        changed = files.look(store, now, IN_ONE_FILE, versions=versions)
        verdicts = due_now(YEAR_FILE, YEAR_TICKS, jobs.year_ticks.name, changed)
        told = [f"year file of {verdict.why}" for verdict in verdicts]
        requests = _requests_of(
            names.purpose(YEAR_FILE), verdicts, changed, job=jobs.year_ticks.name
        )

        years = Years.remembered(kept.get(YEAR))
        weekly = settings.running_year == "weekly"
        try:
            changed = years.look(store, now, PER_SYMBOL, weekly=weekly, versions=versions)
        except BrokenFileError as error:
            if not requests:
                raise
            # A damaged manifest is mended by hand; the year files need not wait for that.
            context.log.error(str(error))
            changed = {}
        verdicts = due_now(YEAR, SYMBOL_YEAR_TICKS, jobs.symbol_year_ticks.name, changed)
        told += [verdict.why for verdict in verdicts]
        requests += _requests_of(
            names.purpose(YEAR), verdicts, changed, proving, job=jobs.symbol_year_ticks.name
        )
        told += [
            f"{year}: it follows with the session of {end}, the last of its week"
            for year, (_, end) in years.waiting.items()
        ]
        told = told or ["every year is up to date"]
        cursor = json.dumps({YEAR: years.kept(), YEAR_FILE: files.kept()})
        return _answer(context, requests, told, cursor)

    return years_follow


def _report_follows(
    settings: Settings, jobs: Jobs, datasets: Sequence[_Collected]
) -> dg.SensorDefinition:
    names = jobs.names

    @dg.sensor(
        name=names.of("report_follows"),
        job=jobs.lake_report,
        minimum_interval_seconds=60,
        default_status=sensor_status(settings),
        description="Write the report after something was published or failed, once nothing is in "
        "progress.",
    )
    @names.bind
    def report_follows(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        now = runs.begin_tick(context, clock, jobs)
        partitions = {
            **{
                key: why
                for what in datasets
                for key, why in _under_way(context, jobs, what).items()
            },
            **runs.under_way(context, names.key(SYMBOL_YEAR_TICKS), (jobs.symbol_year_ticks.name,)),
            **runs.under_way(context, names.key(YEAR_TICKS), (jobs.year_ticks.name,)),
        }
        if partitions:
            busy = f"{many(len(partitions), 'partition')} {verb(len(partitions))} still in progress"
        else:
            busy = runs.going_on(context.instance, jobs.deriving)
        newest = runs.newest_news(
            context.instance,
            map(
                names.key,
                (
                    *(what.asset for what in datasets),
                    *(SYMBOL_YEAR_TICKS, YEAR_TICKS, CORPORATE_ACTIONS, FACTORS_KEY),
                ),
            ),
            (
                *(job for what in datasets for job in what.jobs),
                *(*jobs.publishing, *jobs.deriving),
            ),
            now,
        )
        return follow(
            context,
            now,
            asset=names.key(LAKE_REPORT),
            purpose=names.purpose(REPORT),
            since=newest,
            because="there is news since the last report",
            done="nothing has changed since the last report",
            by_hand=names.command(
                "dagster asset materialize -m datalake_assets.definitions --select {}", LAKE_REPORT
            ),
            busy=busy,
        )

    return report_follows


def _after(settings: Settings, days: list[date]) -> list[date]:
    return [day for day in days if day >= settings.first_session]


def _under_way(context: dg.SensorEvaluationContext, jobs: Jobs, what: _Collected) -> dict[str, str]:
    return runs.under_way(context, jobs.names.key(what.asset), what.jobs)


def _verdicts(
    context: dg.SensorEvaluationContext,
    jobs: Jobs,
    what: _Collected,
    purpose: str,
    now: datetime,
    wanted: dict[str, str],
    waits: Mapping[str, str] | None = None,
) -> list[due.Verdict]:
    return due.decide(
        now,
        wanted,
        busy={**(waits or {}), **_under_way(context, jobs, what)} if wanted else {},
        attempts={
            day: runs.attempts(context.instance, jobs.names.purpose(purpose), day) for day in wanted
        },
        retries=RETRIES,
        by_hand=jobs.names.command(what.command("collect --session {}"), what.asset, "{}"),
    )


def _requests_of(
    purpose: str,
    verdicts: list[due.Verdict],
    since: Mapping[str, datetime] | None = None,
    run_config: Mapping[str, Any] | None = None,
    job: str | None = None,
) -> list[dg.RunRequest]:
    """A run request for each partition that is due; the key distinguishes attempts and changes.

    `job` where the sensor has several.
    """
    requests = []
    for verdict in verdicts:
        if verdict.attempt:
            changed = f" {since[verdict.partition].isoformat()}" if since else ""
            requests.append(
                dg.RunRequest(
                    run_key=f"{purpose} {verdict.partition}{changed} #{verdict.attempt}",
                    partition_key=verdict.partition,
                    run_config=run_config,
                    job_name=job,
                    tags={runs.PURPOSE: purpose},
                )
            )
    return requests


def _answer(
    context: dg.SensorEvaluationContext,
    requests: list[dg.RunRequest],
    told: list[str],
    cursor: str | None = None,
) -> dg.SensorResult:
    """The runs to request, or the first reasons why there are none."""
    more = [f"and {len(told) - _REASONS:,} more"] if told[_REASONS:] else []
    why = "; ".join([*told[:_REASONS], *more])
    if not requests:
        return dg.SensorResult(skip_reason=dg.SkipReason(why), cursor=cursor)
    context.log.info(why)
    return dg.SensorResult(run_requests=requests, cursor=cursor)


def _older(
    since: str | None,
    wanted: list[date],
    published: frozenset[str],
    what: _Collected,
    names: Names,
) -> Iterator[str]:
    """Report missing sessions since a day that are too old for the sensor."""
    if not wanted or since is None:
        return
    before = market_calendar.sessions(date.fromisoformat(since), wanted[0] - timedelta(days=1))
    missing = [day for day in before if str(day) not in published]
    if missing:
        first, last = str(missing[0]), str(missing[-1])
        ours = what.command(f"backfill --from {first} --to {last}")
        yield (
            f"{many(len(missing), 'older session')} {verb(len(missing))} missing and "
            f"{verb(len(missing), 'needs', 'need')} a backfill: "
            f"`{names.command(ours, what.asset, first, last)}`"
        )


def _repair_of(repair: Repair, now: datetime, names: Names, what: _Collected) -> dg.RunRequest:
    knobs = {"repair": True, "max_requests": repair.granted}
    return dg.RunRequest(
        run_key=f"{REPAIR}{what.option} {repair.session} {now.isoformat()}",
        partition_key=repair.session,
        job_name=what.repairing.name,
        run_config={"resources": {names.of("collector"): {"config": knobs}}},
        tags={
            runs.PURPOSE: names.purpose(REPAIR),
            GRANTED_TAG: str(repair.granted),
            DAY_TAG: f"{now:%Y-%m-%d}",
        },
    )


def _requests(run: dg.DagsterRun) -> int:
    """The requests that a repair sent or, while it runs, those that it was granted."""
    tags: Mapping[str, str] = run.tags
    granted = int(tags.get(GRANTED_TAG, 0))
    return int(tags.get(REQUESTS_TAG, granted)) if run.is_finished else granted
