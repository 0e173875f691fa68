"""`daily_ticks`: the daily bars of every US equity, one partition per trading session.

Belongs here: the asset, and what its runs tell: materializations, checks, failures. Does not
belong here: how bars are collected, judged and written (`publication`).

A session is materialized only when it was published. Dagster leaves a partition green when only
its check fails, and a later run goes on from it; so a session that does not pass is not
materialized, and the run fails at its end, naming it. One run can hold many sessions, and each has
its own materialization, which `log_event` stores at once: those published stay so, whatever
happens to the rest.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa

from datalake_assets import __version__
from datalake_assets.assets.stock_universe import (
    GROUP,
    OWNERS,
    snapshot_metadata,
    stock_universe,
    take_snapshot,
)
from datalake_assets.collection.audit import RULES, Finding, Verdict
from datalake_assets.collection.bars import COLUMN_DESCRIPTIONS, SCHEMA
from datalake_assets.collection.plan import windows
from datalake_assets.collection.progress import Display, Displays, Snapshot
from datalake_assets.collection.universe import symbols_for
from datalake_assets.lake.lake import Lake
from datalake_assets.publication import Origin, Outcome, Publication
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.sources.alpaca import AlpacaSource

KEY = dg.AssetKey("daily_ticks")

SESSIONS_PER_RUN = 253
"""Sessions that a backfill puts in one run at most: a year."""

_SHOWN = 50
"""Offenders and failures that metadata lists; the ledger in the session's file has them all."""

_LOG_EVERY = 10.0
"""Seconds between two lines of progress in the run's log: each costs Dagster about 8 ms."""


class LogDisplay(Display):
    """Progress as lines in the run's log, for people who watch a run in the UI.

    Args:
        log: The run's log.
    """

    def __init__(self, log: dg.DagsterLogManager) -> None:
        self._log = log
        self._next = _LOG_EVERY

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Log the collection as it is, every ten seconds and at its end."""
        if final or snapshot.seconds >= self._next:
            self._next = snapshot.seconds + _LOG_EVERY
            self._log.info(str(snapshot))


def build_daily_ticks(partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The asset over these partitions."""

    @dg.asset(
        key=KEY,
        deps=[stock_universe],
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.multi_run(SESSIONS_PER_RUN),
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(rule, asset=KEY, description=meaning)
            for rule, meaning in RULES.items()
        ],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"python", "parquet"},
        code_version=__version__,
        description=_DESCRIPTION,
        metadata={
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
        },
    )
    def daily_ticks(
        context: dg.AssetExecutionContext,
        collector: CollectorResource,
        source: SourceResource,
        lake: LakeResource,
        display: dg.ResourceParam[Display],
    ) -> Iterator[dg.AssetCheckResult]:
        days = [date.fromisoformat(key) for key in context.partition_keys]
        chosen = collector.chosen_symbols
        target = lake.open(source.identity)
        context.log.info("from %s into %s", source.identity, target.store.uri)
        outcomes: list[Outcome] = []
        with source.open(collector) as alpaca, collector.how(source.account) as how:
            taken, universe = _universe(context, alpaca, target, collector, source, days[-1])
            origin = Origin(source.identity, asof=taken, run_id=context.run.run_id)
            for window in windows(days):
                publication = Publication(
                    {day: chosen or symbols_for(day, universe, taken) for day in window},
                    target,
                    how,
                    repair=collector.repair,
                )
                context.log.info(_announce(publication, collector))
                shown = Displays(LogDisplay(context.log), display)
                for outcome in publication.run(alpaca.bars(taken), origin, display=shown):
                    outcomes.append(outcome)
                    if outcome.published:
                        context.log_event(_materialization(outcome, target))
        yield from (_check(rule, outcomes) for rule in RULES)
        if failed := [outcome for outcome in outcomes if not outcome.published]:
            raise _failure(failed, target)

    return daily_ticks


_DESCRIPTION = """\
The daily bars of every US equity, raw and unadjusted. One partition is one trading session with
all of its symbols, in `data/ticks/sessions/year={year}/{session}.parquet`; the file's own metadata
tells the state of every symbol that has no bar.

A session is published, and its partition materialized, only when it passes its audit. One that
does not pass waits in `data/ticks/incomplete/`, what was published before stays, and the run
fails naming it. To repair it, materialize it again with the collector's `repair` on, or type
`datalake collect --session DAY --repair`.
"""


def _universe(
    context: dg.AssetExecutionContext,
    alpaca: AlpacaSource,
    lake: Lake,
    collector: CollectorResource,
    source: SourceResource,
    newest: date,
) -> tuple[date, pa.Table]:
    """The newest snapshot; a new one when there is none or it is older than the session."""
    if (found := lake.universe()) and found[0] >= newest:
        return found
    context.log.info("no snapshot of the universe is as new as the session: taking one")
    taken, snapshot, written = take_snapshot(alpaca, lake, collector, source)
    metadata = snapshot_metadata(taken, snapshot, written, lake)
    context.log_event(dg.AssetMaterialization(stock_universe.key, metadata=metadata))
    return taken, snapshot


def _announce(publication: Publication, collector: CollectorResource) -> str:
    plan = publication.plan
    return (
        f"{'repair: ' if collector.repair else ''}asking for up to {plan.bars:,} bars of "
        f"{len(plan.sessions)} sessions in {plan.requests:,} requests, "
        f"{plan.minutes(collector.requests_per_minute):.1f} minutes at "
        f"{collector.requests_per_minute:,} a minute, with {collector.max_workers} threads"
    )


def _materialization(outcome: Outcome, lake: Lake) -> dg.AssetMaterialization:
    ledger, statistics, written = outcome.ledger, outcome.statistics, outcome.written
    values = {finding.rule: finding.value for finding in outcome.findings}
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": len(ledger.present),
        "dagster/uri": lake.store.url(written.key) if written else "",
        "row_count": len(ledger.present),
        **{state.value: count for state, count in ledger.counts.items()},
        "requested": ledger.requested,
        "asked": outcome.asked,
        "success_rate": ledger.success_rate,
        "duration_seconds": round(statistics.duration_seconds, 3),
        "bars_per_second": round(statistics.bars_per_second, 1),
        "requests": statistics.requests,
        "retries": statistics.retries,
        "throttled": statistics.throttled,
        "limiter_wait_seconds": round(statistics.limiter_wait_seconds, 3),
        "collected_with_sessions": outcome.sessions,
        "audit": dg.MetadataValue.md(_audit_table(outcome.findings)),
    }
    if (coverage := values["coverage"]) is not None:
        metadata["coverage"] = coverage
    if written:
        metadata["file_size_bytes"] = written.size
        changes = {name: getattr(written, name) for name in ("added", "removed", "restated")}
        metadata |= {f"bars_{name}": count for name, count in changes.items() if count is not None}
    if ledger.failed:
        metadata["first_failures"] = _failures_table(outcome)
    return dg.AssetMaterialization(KEY, partition=ledger.session.isoformat(), metadata=metadata)


def _audit_table(findings: Sequence[Finding]) -> str:
    signs = {Verdict.PASS: "✓", Verdict.WARN: "⚠", Verdict.FAIL: "✗"}
    rows = ["| | rule | value | threshold | |", "|---|---|---:|---:|---|"]
    for finding in findings:
        value = "unknown" if finding.value is None else f"{finding.value:.6g}"
        rows.append(
            f"| {signs[finding.verdict]} | {finding.rule} | {value} | {finding.threshold:g} "
            f"| {finding.detail} |"
        )
    return "\n".join(rows)


def _failures_table(outcome: Outcome) -> dg.TableMetadataValue:
    failures = list(outcome.ledger.failed.items())[:_SHOWN]
    return dg.MetadataValue.table(
        [dg.TableRecord({"symbol": symbol, "error": error}) for symbol, error in failures]
    )


def _check(rule: str, outcomes: Sequence[Outcome]) -> dg.AssetCheckResult:
    """One rule over all sessions of the run: failed when one of them failed it."""
    found = [
        (outcome.ledger.session.isoformat(), finding)
        for outcome in outcomes
        for finding in outcome.findings
        if finding.rule == rule
    ]
    broken = [(day, finding) for day, finding in found if finding.verdict is not Verdict.PASS]
    failed = [day for day, finding in broken if finding.verdict is Verdict.FAIL]
    metadata: dict[str, Any] = {
        "sessions": len(found),
        "sessions_failed": len(failed),
        "sessions_warned": len(broken) - len(failed),
    }
    told = broken or found
    if len(found) == 1:
        day, finding = found[0]
        metadata |= {"session": day, "threshold": finding.threshold, "detail": finding.detail}
        if finding.value is not None:
            metadata["value"] = finding.value
    else:
        metadata["worst"] = dg.MetadataValue.table(
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
                for day, finding in told[:_SHOWN]
            ]
        )
    if offenders := [(day, name) for day, finding in broken for name in finding.offenders]:
        metadata["offender_count"] = len(offenders)
        metadata["offenders"] = dg.MetadataValue.table(
            [dg.TableRecord({"session": day, "offender": name}) for day, name in offenders[:_SHOWN]]
        )
    return dg.AssetCheckResult(
        asset_key=KEY,
        check_name=rule,
        passed=not broken,
        severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
        description=_verdict(rule, found, broken),
        metadata=metadata,
    )


def _verdict(
    rule: str, found: Sequence[tuple[str, Finding]], broken: Sequence[tuple[str, Finding]]
) -> str:
    if not broken:
        if len(found) == 1:
            return found[0][1].detail
        return f"all {len(found)} sessions pass"
    told = "; ".join(f"{day}: {finding.detail}" for day, finding in broken[:3])
    more = f"; and {len(broken) - 3} more sessions" if len(broken) > 3 else ""
    return f"{told}{more}"


def _failure(failed: Sequence[Outcome], lake: Lake) -> dg.Failure:
    """The error that ends a run with sessions that did not pass."""
    lines = []
    for outcome in failed:
        broken = [finding for finding in outcome.findings if finding.verdict is Verdict.FAIL]
        told = ", ".join(f"{finding.rule} ({finding.detail})" for finding in broken)
        lines.append(f"{outcome.ledger.session}: {told}")
    first, last = failed[0].ledger.session, failed[-1].ledger.session
    span = f"--session {first}" if first == last else f"--from {first} --to {last}"
    text = "\n".join(
        [
            f"{len(failed)} sessions did not pass their audit and were not published:",
            *lines[:_SHOWN],
            f"What was collected of them waits in {lake.store.url('data/ticks/incomplete')}.",
            f"To ask for what they miss: datalake collect {span} --repair",
        ]
    )
    failures = [
        dg.TableRecord({"session": str(outcome.ledger.session), "symbol": symbol, "error": error})
        for outcome in failed
        for symbol, error in list(outcome.ledger.failed.items())[:_SHOWN]
    ]
    return dg.Failure(
        text,
        metadata={
            "sessions": dg.MetadataValue.json([str(o.ledger.session) for o in failed]),
            **({"first_failures": dg.MetadataValue.table(failures[:_SHOWN])} if failures else {}),
        },
        # The collector has retried what can pass; a second run would only ask all of it again.
        allow_retries=False,
    )
