"""`daily_ticks` and `minute_ticks`: bars of every US equity, one partition per trading session.

Belongs here: the assets, and what their runs report: materializations, checks, failures. Does not
belong here: how bars are collected, audited and written (`pipeline.publication`), and all else in
which one dataset differs from another (`collection.dataset`).

A session is materialized only if it was published. Dagster leaves a partition green when only its
check fails, and later runs build on it. So a session that does not pass is not materialized, and
the run fails at its end and names it. A run can hold many sessions. Each has its own
materialization, which is stored at most half a second after the session was published, with those
of the sessions published meanwhile, so that published sessions stay published whatever happens to
the others.

An asset of yours that is selected together with this one runs after it if every session of the run
was published. If one was not, Dagster runs it for none of them, since a step has one range of
partitions, that of the run. In a backfill, give it a different backfill policy from this asset's
(or none): Dagster then launches separate runs for it, for exactly the published sessions.
"""

import gc
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Self
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
from dagster._utils.interrupts import capture_interrupts, check_captured_interrupt

from datalake_assets import liveness, market_calendar
from datalake_assets.assets.failure import Failed
from datalake_assets.assets.interrupts import repeated_once
from datalake_assets.assets.lake_asset import lake_asset
from datalake_assets.assets.published import everything_is_published
from datalake_assets.assets.session_metadata import SHOWN, reasons_table, session_metadata
from datalake_assets.assets.stock_universe import (
    GROUP,
    snapshot_metadata,
    take_universe,
)
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.collection.audit import Finding, Verdict
from datalake_assets.collection.bars import COLUMN_DESCRIPTIONS, SCHEMA
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.progress import Display, Displays, Snapshot, many, verb
from datalake_assets.collection.report import Reason, joined, reasons
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.collection.universe import (
    inactive,
    least_asked,
    symbols_for,
    unlisted,
    unlisted_message,
)
from datalake_assets.lake.coverage import loss
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.restatements import VALUES
from datalake_assets.lake.session_file import Summary
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.names import OURS, Names
from datalake_assets.pipeline.density import by_daily_bars
from datalake_assets.pipeline.listing import calendar_of, take_survey
from datalake_assets.pipeline.publication import Origin, Outcome, Publication, tell_each
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.sources.alpaca import AlpacaSource

DAILY_TICKS = dg.AssetKey("daily_ticks")
MINUTE_TICKS = dg.AssetKey("minute_ticks")

POOL = "alpaca"
"""Dagster's pool for runs that use the source: `dagster instance concurrency set alpaca N` limits
how many run at once. The account's rate limit is enforced by the rate limiter that they share."""

BARS_METADATA = {
    "dagster/column_schema": dg.TableSchema(
        [
            dg.TableColumn(
                field.name,
                str(field.type),
                COLUMN_DESCRIPTIONS[field.name],
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in SCHEMA
        ]
    )
}

REQUESTS_TAG = "datalake/requests"
"""The tag of a finished run with the number of its requests for market data."""

FRESH_FOR = timedelta(days=5)
"""Nothing was collected for longer than any weekend with a holiday. Dagster measures from the
newest materialization of any session; the check `newest_session_is_there` is more exact."""

_REASONS = 5
"""How many of the source's errors a failure names; the metadata has more."""

_TOGETHER = 0.5
"""Seconds for which a published session waits for others, to be recorded with them: one in a
transaction of its own costs three times as much. A process that is killed meanwhile has published
sessions that Dagster does not know; the next run tells it of them (`_finished`)."""

_NEW_YORK = ZoneInfo("America/New_York")

LOG_EVERY = 10.0
"""Seconds between progress lines in the run's log: each costs Dagster about 8 ms."""


class LogDisplay(Display):
    """Progress as lines in the run's log, for people who watch a run in the UI.

    Args:
        log: The run's log.
    """

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._next = LOG_EVERY

    def begin(self, what: str) -> None:
        """Log the step that starts."""
        self._log.info("%s …", what)

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Log the progress every ten seconds and at the end."""
        if final or snapshot.seconds >= self._next:
            # The next step counts its seconds from zero.
            self._next = LOG_EVERY + (0.0 if final else snapshot.seconds)
            self._log.info(str(snapshot))


def build_daily_ticks(
    partitions: dg.PartitionsDefinition[str], sessions_per_run: int, names: Names = OURS
) -> dg.AssetsDefinition:
    """The asset of daily bars.

    Args:
        partitions: Its sessions.
        sessions_per_run: The most sessions that a backfill puts in one run.
        names: What the lake's definitions are called.
    """
    asset = _Asset(DAILY_TICKS, DAILY, _DAILY_BARS, "collect", deps=(STOCK_UNIVERSE,))
    return _build(asset, partitions, sessions_per_run, names)


def build_minute_ticks(
    partitions: dg.PartitionsDefinition[str],
    sessions_per_run: int,
    dataset: Dataset,
    names: Names = OURS,
) -> dg.AssetsDefinition:
    """The asset of minute bars.

    Args:
        partitions: Its sessions.
        sessions_per_run: The most sessions that a backfill puts in one run.
        dataset: The minutes of regular hours, or of extended ones.
        names: What the lake's definitions are called.
    """
    deps = (STOCK_UNIVERSE, DAILY_TICKS)
    asset = _Asset(MINUTE_TICKS, dataset, _MINUTE_BARS, "collect --minutes", deps)
    return _build(asset, partitions, sessions_per_run, names)


@dataclass(frozen=True, slots=True)
class _Asset:
    """What one of the assets is.

    Args:
        key: Its key.
        dataset: Whose bars.
        description: For the UI.
        command: The words of the command that collects it.
        deps: The assets that it is made from.
    """

    key: dg.AssetKey
    dataset: Dataset
    description: str
    command: str
    deps: tuple[dg.AssetKey, ...]


def _build(
    asset: _Asset,
    partitions: dg.PartitionsDefinition[str],
    sessions_per_run: int,
    names: Names,
) -> dg.AssetsDefinition:
    with warnings.catch_warnings():
        # Backfill policies are beta; tests cover what we rely on.
        warnings.simplefilter("ignore", dg.BetaWarning)
        policy = dg.BackfillPolicy.multi_run(sessions_per_run)
        return _session_ticks(asset, partitions, policy, names)


def _session_ticks(
    asset: _Asset,
    partitions: dg.PartitionsDefinition[str],
    backfill_policy: dg.BackfillPolicy,
    names: Names,
) -> dg.AssetsDefinition:
    rules = asset.dataset.rules.meanings

    @lake_asset(
        asset.key,
        names,
        GROUP,
        deps=[names.key(key) for key in asset.deps],
        partitions_def=partitions,
        backfill_policy=backfill_policy,
        pool=names.of(POOL),
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(rule, asset=names.key(asset.key), description=meaning)
            for rule, meaning in rules.items()
        ],
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_FOR),
        description=asset.description,
        metadata=BARS_METADATA,
    )
    def session_ticks(
        context: dg.AssetExecutionContext,
        collector: CollectorResource,
        source: SourceResource,
        lake: LakeResource,
        display: dg.ResourceParam[Display],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        liveness.mark(context)
        _refuse_another_day(context)
        held = lake.open(source.identity).of(asset.dataset)
        results: dict[date, _SessionResult] = {}
        requests: dict[datetime, int] = {}  # shared by sessions that were collected together
        with repeated_once(), _Materializations(context) as published:

            def tell(outcome: Outcome) -> None:
                day = outcome.ledger.session
                if outcome.published:
                    what = partial(_materialization, context.asset_key, outcome, held)
                    published.add(day.isoformat(), what)
                requests[outcome.statistics.started] = outcome.statistics.requests
                results[day] = _SessionResult.of(outcome)
                if outcome.last or published.are_due:
                    published.log()

            tell_each(_collect(context, collector, source, held, display, asset, names), tell)
        used = {REQUESTS_TAG: str(sum(requests.values()))}
        context.instance.add_run_tags(context.run.run_id, used)
        told = list(results.values())
        yield from (_check(context.asset_key, rule, told) for rule in rules)
        if failed := [session for session in told if not session.published]:
            raise _failure(failed, held, asset, names)
        yield everything_is_published()

    return session_ticks


_DAILY_BARS = """\
The daily bars of every US equity, raw and unadjusted. One partition is one trading session with
all of its symbols, in `data/ticks/sessions/year={year}/{session}.parquet`. The file's own metadata
has the state of every symbol without a bar.

A session is published, and its partition materialized, only if it passes its audit. Otherwise it
is kept in `data/ticks/incomplete/`, the version published before stays, and the run fails and
names it. To repair it, materialize it again with the collector's `repair` on, or run
`datalake collect --session DAY --repair`.
"""


_MINUTE_BARS = """\
The minute bars of every US equity, raw and unadjusted: no bar for a minute without a trade. One
partition is one trading session with all of its symbols, in
`data/ticks/minute/sessions/year={year}/{session}/part-0.parquet`. They are held against the
session's daily bars, which another part of the source makes: what disagrees is named.

A session is published, and its partition materialized, only if it passes its audit. Otherwise it
is kept in `data/ticks/minute/incomplete/`, the version published before stays, and the run fails
and names it. To repair it, materialize it again with the collector's `repair` on, or run
`datalake collect --minutes --session DAY --repair`.
"""


class _Materializations:
    """The materializations of a run's sessions, of which several are logged together.

    A context manager: what waits at the end of the block is logged, also when it ends by an error.

    Args:
        context: Of the step.
        seconds: The time, to measure by.
    """

    def __init__(
        self, context: dg.AssetExecutionContext, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._seconds = context, seconds
        self._waiting: dict[str, Callable[[], dg.AssetMaterialization]] = {}
        self._logged: set[str] = set()
        self._since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.log()

    def add(self, partition: str, what: Callable[[], dg.AssetMaterialization]) -> None:
        """Let a partition's wait; it is made when it is logged, and logged once.

        So a signal can only come before it waits, or after.
        """
        if partition in self._logged:
            return
        if not self._waiting:
            self._since = self._seconds()
        self._waiting[partition] = what

    @property
    def are_due(self) -> bool:
        """Whether one has waited for long enough."""
        return bool(self._waiting) and self._seconds() - self._since >= _TOGETHER

    def log(self) -> None:
        """Log those that wait.

        A signal that comes meanwhile is handed on when all are logged.
        """
        if not self._waiting:
            return
        # Dagster's storages are not imported when definitions load.
        from datalake_assets.records.event_log import together

        with capture_interrupts():
            with together(self._context.instance):
                while self._waiting:
                    partition = next(iter(self._waiting))
                    what = self._waiting.pop(partition)
                    self._logged.add(partition)
                    self._context.log_event(what())
            interrupted = check_captured_interrupt()
        if interrupted:
            # To the handler of the step, which knows it when the same signal comes again.
            signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True, slots=True)
class _SessionResult:
    """What checks and failures report of one session; small, since a run can have thousands."""

    session: date
    published: bool
    findings: list[Finding]
    failures: list[tuple[str, str]]
    reasons: tuple[Reason, ...]
    closed: bool

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        failed = outcome.failed
        return cls(
            outcome.ledger.session,
            outcome.published,
            outcome.findings,
            list(failed.items())[:SHOWN],
            reasons(failed)[:SHOWN],
            outcome.closed,
        )


def _refuse_another_day(context: dg.AssetExecutionContext) -> None:
    """Fail if the run was launched for a day without a partition.

    Through GraphQL, Dagster would silently run the session after it.
    """
    asked = context.run.tags.get("dagster/partition")
    if asked is None or asked in context.partition_keys:
        return
    closed = market_calendar.why_closed(date.fromisoformat(asked))
    why = f"it is not a trading session but {closed}" if closed else "it has no partition"
    raise Failed(f"{asked} can't be collected: {why}", allow_retries=False)


def _collect(
    context: dg.AssetExecutionContext,
    collector: CollectorResource,
    source: SourceResource,
    lake: LakeWriter,
    display: Display,
    asset: _Asset,
    names: Names,
) -> Generator[Outcome, None, None]:
    """Collect and write the run's sessions."""
    keys = [date.fromisoformat(key) for key in context.partition_keys]
    shown = Displays(LogDisplay(context.log), display)
    shown.begin("reading the lake")
    finished = _finished(context, collector, lake, keys)
    days = [day for day in keys if day not in finished]
    if not days:
        return
    chosen = collector.chosen_for(lake.dataset)
    if lake.dataset.several and collector.max_session_loss < 1:
        _refuse_to_lose_hours(lake, days, names)
    if chosen and not collector.repair:
        _refuse_to_lose_symbols(lake, days, chosen, collector.max_session_loss, asset, names)
    context.log.info("from %s into %s", source.identity, lake.store.uri)
    shown.begin("connecting to the source")
    with source.open(collector) as alpaca, collector.options(source.account) as options:
        taken = _universe(context, alpaca, lake, collector, source, days[-1], shown)
        shown.begin("choosing the symbols")
        universe = lake.universe_of(taken)
        origin = Origin(source.identity, listed=taken, run_id=context.run.run_id)
        wanted = dict.fromkeys(days, chosen) if chosen else symbols_for(days, lake.snapshots())
        if unknown := unlisted(chosen or (), universe):
            own = lake.dataset.step is not None and collector.minute_symbols
            setting = "DATALAKE_MINUTE_SYMBOLS" if own else "DATALAKE_SYMBOLS"
            context.log.warning("%s", unlisted_message(unknown, taken, setting))
        known = expected = None
        if lake.dataset.several:
            expected = by_daily_bars(lake.of(DAILY), lake.dataset)
        elif collector.survey and not collector.repair:
            since = _first_session(context).year
            known = take_survey(alpaca, lake, options, wanted, since, taken, shown)
            if known:
                context.log.info("the survey has the years of %s", many(len(known.years), "symbol"))
        shown.begin("planning the requests")
        publication = Publication(
            wanted,
            lake,
            options,
            survey=known,
            expected=expected,
            repair=collector.repair,
            inactive=inactive(universe),
            # Configured symbols are all wanted; of the source's list, those listed later are not.
            least=None if chosen else least_asked(universe),
        )
        context.log.info(_announce(publication, collector))
        policy = RetryPolicy(attempts=collector.attempts, seconds=collector.retry_seconds)
        calendar = calendar_of(alpaca, lambda: collector.trading_limiter(source.account), policy)
        # What is loaded by now stays. Left out, looking for garbage takes half of the time.
        gc.freeze()
        try:
            yield from publication.run(
                alpaca.bars(lake.dataset), origin, display=shown, calendar=calendar
            )
        finally:
            gc.unfreeze()


def _refuse_to_lose_symbols(
    lake: LakeFiles,
    days: list[date],
    chosen: Sequence[str],
    allowed: float,
    asset: _Asset,
    names: Names,
) -> None:
    """Refuse to replace a session by one of a few chosen symbols: no check would notice."""
    if found := loss(lake, days, chosen, allowed):
        first, last = f"{days[0]}", f"{days[-1]}"
        span = market_calendar.options(days[0], days[-1])
        partitions = (first,) if first == last else (first, last)
        ours = f"datalake {asset.command} {span} --repair"
        repair = names.command(ours, asset.key, *partitions, repair=True)
        raise Failed(
            f"{found}. To add the chosen symbols and keep the others: {repair}. To keep a few "
            "symbols only, give them a lake of their own. To drop the others all the same, "
            f"{names.setting('max_session_loss', '1')}",
            allow_retries=False,
        )


def _refuse_to_lose_hours(lake: LakeFiles, days: list[date], names: Names) -> None:
    """Refuse to replace minutes of extended hours by those of regular ones."""
    if wider := lake.of_more_hours(days):
        raise Failed(
            f"{wider[0]} is published with the minutes of extended hours, and this collection "
            "would replace it without them; nothing was requested. Set DATALAKE_MINUTES=extended. "
            f"To drop them all the same, {names.setting('max_session_loss', '1')}",
            allow_retries=False,
        )


def _first_session(context: dg.AssetExecutionContext) -> date:
    partitions = context.assets_def.partitions_def
    return date.fromisoformat((partitions and partitions.get_first_partition_key()) or "")


def _finished(
    context: dg.AssetExecutionContext,
    collector: CollectorResource,
    lake: LakeFiles,
    days: list[date],
) -> frozenset[date]:
    """The sessions of the run that need not be collected again.

    With `missing_only`, these are those of `LakeFiles.finished`. In a retry of a failed run (by a
    user in the UI, or by Dagster after a lost worker), these are the sessions that the earlier runs
    published. A process can be killed between publishing sessions and reporting them to Dagster, so
    sessions that Dagster does not know are reported now.
    """
    earlier = _unfinished_runs(context)
    if not collector.missing_only and not earlier:
        return frozenset()
    finished = lake.finished(days)
    if not collector.missing_only:
        finished = [summary for summary in finished if summary.provenance.run_id in earlier]
    with _Materializations(context) as untold:
        for summary in _unknown(context, finished):
            metadata = {"row_count": summary.rows, **summary.counts}
            key = summary.session.isoformat()
            what = partial(
                dg.AssetMaterialization, context.asset_key, partition=key, metadata=metadata
            )
            untold.add(key, what)
    if finished:
        told = f"{len(finished):,} of {many(len(days), 'session')} {verb(len(finished))}"
        context.log.info("%s published already", told)
    return frozenset(summary.session for summary in finished)


def _unknown(context: dg.AssetExecutionContext, finished: Sequence[Summary]) -> list[Summary]:
    """Those of these sessions of whose collection Dagster has no materialization.

    One that was collected again has that of its earlier collection, which says nothing of the later
    one. So for runs that did not succeed, it must be newer than the collection.
    """
    if not finished:
        return []
    instance: dg.DagsterInstance = context.instance
    key = context.asset_key
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    newest = instance.get_latest_storage_id_by_partition(key, kind)
    collected_by = list({summary.provenance.run_id for summary in finished})
    ended = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    found = instance.get_runs(dg.RunsFilter(run_ids=collected_by, statuses=ended))
    broken = {run.run_id for run in found}
    before: dict[datetime, int] = {}  # shared by sessions that were collected together

    def is_known(summary: Summary) -> bool:
        told = newest.get(summary.session.isoformat())
        if told is None or summary.provenance.run_id not in broken:
            return told is not None
        at = summary.provenance.collected_at
        if at not in before:
            earlier = dg.AssetRecordsFilter(key, before_timestamp=at.timestamp())
            records = instance.fetch_materializations(earlier, limit=1).records
            before[at] = records[0].storage_id if records else 0
        return told > before[at]

    return [summary for summary in finished if not is_known(summary)]


def _unfinished_runs(context: dg.AssetExecutionContext) -> frozenset[str]:
    """The runs that this one retries; none if the last of them succeeded."""
    parent = context.run.parent_run_id and context.instance.get_run_by_id(context.run.parent_run_id)
    if not parent or parent.is_success:
        return frozenset()
    group = context.instance.get_run_group(context.run.run_id)
    return frozenset(run.run_id for run in group[1]) if group else frozenset({parent.run_id})


def _universe(
    context: dg.AssetExecutionContext,
    alpaca: AlpacaSource,
    lake: LakeWriter,
    collector: CollectorResource,
    source: SourceResource,
    newest: date,
    display: Display,
) -> date:
    """The day of the newest snapshot; a new one is taken if it would be older than the session."""
    if (days := lake.universe_days()) and days[-1] >= newest:
        return days[-1]
    display.begin("fetching the list of assets, as the lake's is older than the session")
    taken, snapshot, written = take_universe(alpaca, lake, collector, source)
    metadata = snapshot_metadata(taken, snapshot, written, lake)
    # The list of this lake, beside its sessions.
    listed = dg.AssetKey([*context.asset_key.path[:-1], *STOCK_UNIVERSE.path])
    context.log_event(dg.AssetMaterialization(listed, metadata=metadata))
    return taken


def _announce(publication: Publication, collector: CollectorResource) -> str:
    plan = publication.plan
    bars = f"up to {plan.bars:,}" if plan.expected == plan.bars else f"about {plan.expected:,.0f}"
    return (
        f"{'repair: ' if collector.repair else ''}requesting {bars} bars of "
        f"{many(len(plan.sessions), 'session')} in {many(plan.requests, 'request')}, "
        f"{plan.minutes(collector.requests_per_minute):.1f} minutes at "
        f"{collector.requests_per_minute:,}/minute, with {many(collector.max_workers, 'thread')}"
    )


def _materialization(
    key: dg.AssetKey, outcome: Outcome, lake: LakeFiles
) -> dg.AssetMaterialization:
    ledger, written = outcome.ledger, outcome.written
    metadata = session_metadata(
        counts={state.value: count for state, count in ledger.counts.items()},
        requested=ledger.requested,
        asked=outcome.asked,
        success_rate=ledger.success_rate,
        statistics=outcome.statistics.to_dict(),
        findings=outcome.findings,
        failures=outcome.failed,
        uri=lake.store.url(lake.session_key(ledger.session)),
        rows=outcome.rows,
        size=written.size if written else None,
    )
    metadata["collected_with_sessions"] = outcome.sessions
    if written and written.unchanged:
        # The file was not rewritten, so only this event records the second collection.
        metadata["unchanged"] = True
    if written and written.changes is not None:
        for kind in ("added", "removed", "restated"):
            metadata[f"bars_{kind}"] = written.changed(kind)
        if written.changes.num_rows:
            metadata["changes"] = dg.MetadataValue.table(_changes(written.changes, lake.dataset))
    return dg.AssetMaterialization(key, partition=ledger.session.isoformat(), metadata=metadata)


def _changes(changes: pa.Table, dataset: Dataset) -> list[dg.TableRecord]:
    """The first bars that changed, with the values that differ; and when they start, if many do."""
    shown = []
    for row in changes.slice(0, SHOWN).to_pylist():
        starts = row["old_timestamp"] or row["new_timestamp"]
        time = {"time": f"{starts.astimezone(_NEW_YORK):%H:%M}"} if dataset.several else {}
        values = [
            f"{name} {row[f'old_{name}']} → {row[f'new_{name}']}"
            for name in VALUES
            if row["change"] == "restated" and row[f"old_{name}"] != row[f"new_{name}"]
        ]
        shown.append(
            dg.TableRecord(
                {
                    "symbol": row["symbol"],
                    **time,
                    "change": row["change"],
                    "values": ", ".join(values),
                }
            )
        )
    return shown


def _check(key: dg.AssetKey, rule: str, told: Sequence[_SessionResult]) -> dg.AssetCheckResult:
    """The result of one rule over all sessions of the run; it fails if one session failed."""
    found = [
        (session.session.isoformat(), finding)
        for session in told
        for finding in session.findings
        if finding.rule == rule
    ]
    broken = [(day, finding) for day, finding in found if finding.verdict is not Verdict.PASS]
    failed = [day for day, finding in broken if finding.verdict is Verdict.FAIL]
    metadata: dict[str, Any] = {
        "sessions": len(found),
        "sessions_failed": len(failed),
        "sessions_warned": len(broken) - len(failed),
        "sessions_unknown": len(_unknown_of(found)),
    }
    if len(found) == 1:
        ((day, finding),) = found
        metadata |= {"session": day, "threshold": finding.threshold, "detail": finding.detail}
        if finding.value is not None:
            metadata["value"] = finding.value
    elif found:
        metadata["by_session"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "session": day,
                        "verdict": finding.verdict.value,
                        "value": "unknown" if finding.value is None else f"{finding.value:.6g}",
                        "threshold": f"{finding.threshold:g}",
                        "detail": finding.detail,
                    }
                )
                for day, finding in (broken or found)[:SHOWN]
            ]
        )
    if offenders := [(day, name) for day, finding in broken for name in finding.offenders]:
        metadata["offender_count"] = sum(finding.offender_count for _, finding in broken)
        metadata["offenders"] = dg.MetadataValue.table(
            [dg.TableRecord({"session": day, "offender": name}) for day, name in offenders[:SHOWN]]
        )
    # Shown also for a rule that passed: why the other symbols failed is useful.
    if rule == "success_rate" and (why := _why(told)):
        metadata["failure_reasons"] = reasons_table(why)
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=rule,
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
        description=_verdict(found, broken),
        metadata=metadata,
    )


def _why(told: Iterable[_SessionResult]) -> tuple[Reason, ...]:
    return joined(reason for session in told for reason in session.reasons)


def _verdict(found: Sequence[tuple[str, Finding]], broken: Sequence[tuple[str, Finding]]) -> str:
    if not found:
        return "nothing to collect"
    if broken:
        told = "; ".join(f"{day}: {finding.detail}" for day, finding in broken[:3])
        more = f"; and {many(len(broken) - 3, 'more session')}" if len(broken) > 3 else ""
        return f"{told}{more}"
    if len(found) == 1:
        return found[0][1].detail
    unknown = _unknown_of(found)
    if not unknown:
        return f"all {len(found)} sessions pass"
    days: dict[str, list[str]] = {}
    for day, finding in unknown:
        days.setdefault(finding.detail, []).append(day)
    passed = len(found) - len(unknown)
    parts = (
        [f"{passed} of {len(found)} sessions {verb(passed, 'passes', 'pass')}"] if passed else []
    )
    for detail, (first, *others) in list(days.items())[:3]:
        more = f" and {many(len(others), 'more session')}" if others else ""
        parts.append(f"{detail} ({first}{more})")
    return "; ".join(parts)


def _unknown_of(found: Sequence[tuple[str, Finding]]) -> list[tuple[str, Finding]]:
    """The sessions that pass as the rule has nothing to hold them against."""
    return [
        (day, finding)
        for day, finding in found
        if finding.value is None and finding.verdict is Verdict.PASS
    ]


def _failure(
    failed: Sequence[_SessionResult], lake: LakeFiles, asset: _Asset, names: Names
) -> Failed:
    """The error of a run with sessions that did not pass."""
    lines = []
    for session in failed[:SHOWN]:
        broken = [finding for finding in session.findings if finding.verdict is Verdict.FAIL]
        reasons = ", ".join(f"{finding.rule} ({finding.detail})" for finding in broken)
        lines.append(f"{session.session}: {reasons}")
    first, last = failed[0].session, failed[-1].session
    days = [str(first)] if first == last else [str(first), str(last)]
    span = market_calendar.options(first, last)
    repair = f"datalake {asset.command} {span} --repair"
    were = verb(len(failed), "was", "were")
    head = f"{many(len(failed), 'session')} did not pass the audit and {were} not published:"
    advice = (
        f"The collected bars are in {lake.store.url(lake.folders.incomplete)}. To request what is "
        f"missing: {names.command(repair, asset.key, *days, repair=True)}"
    )
    if all(session.closed for session in failed):
        advice = "There is nothing to collect for a day on which the exchange was closed"
    why = _why(failed)
    told = [f"  {reason}" for reason in why[:_REASONS]]
    text = "\n".join([head, *lines, *told, advice])
    failures = [
        dg.TableRecord({"session": str(session.session), "symbol": symbol, "error": error})
        for session in failed
        for symbol, error in session.failures
    ]
    metadata: dict[str, Any] = {
        "sessions": dg.MetadataValue.json([str(session.session) for session in failed])
    }
    if failures:
        metadata["first_failures"] = dg.MetadataValue.table(failures[:SHOWN])
        metadata["failure_reasons"] = reasons_table(why)
    # The collector has already retried; another run would only repeat all requests.
    return Failed(text, metadata=metadata, allow_retries=False)
