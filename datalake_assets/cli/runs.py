"""Runs: the jobs, executed by Dagster in this process and recorded in its instance.

Belongs here: launching a run, and showing what it did. Does not belong here: what the assets do.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from datalake_assets.actions.log import ActionLog
from datalake_assets.cli.arguments import claimed_lake, open_lake
from datalake_assets.cli.terminal import TerminalDisplay, command, err, out, tell
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.report import Reason, joined
from datalake_assets.collection.universe import told_unlisted, unlisted
from datalake_assets.lake.coverage import narrow
from datalake_assets.lake.examination import spans
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.settings import Settings
from datalake_assets.storage.store import open_store

if TYPE_CHECKING:
    import dagster as dg
    from dagster_shared.error import SerializableErrorInfo

_UNBOUNDED = {"dagster/max_runtime_seconds": "0"}
"""A run in a terminal may take as long as it takes: somebody sees it, and can stop it."""

_REASONS = 5
"""Errors of the source that are told; `status --json` and the run's metadata have all."""


def materialize(settings: Settings, start: date, end: date, **knobs: float) -> bool:
    """Collect these sessions in this process, and publish the years that they change.

    Args:
        settings: The defaults of the resources.
        start: The first session.
        end: The last one.
        knobs: Of the collector, for this run.

    Returns:
        Whether every session and every year was published.
    """
    # Without keys it is the embedded exchange, and nobody must take its bars for real ones.
    where = "the embedded exchange" if settings.source == "embedded" else "Alpaca"
    tell(out, f"Collecting {_days(start, end)} from {where} into {settings.lake_uri} …")
    claimed_lake(settings)
    with instance() as records:
        config = {"resources": {"collector": {"config": knobs}}}
        result = _run(
            settings, records, "daily_ticks_job", start.isoformat(), end.isoformat(), config
        )
        _show_sessions(result)
        _show_checks(result)
        _show_reasons(result)
        _show_rounded(result)
        _show_universe(settings, start, end)
        if _interrupted(result):
            return False
        # Also when a session did not pass: the others did, and readers may have them.
        changed = behind(settings, range(start.year, end.year + 1))
        good = _publish(settings, records, changed) and bool(result.success)
        if _reach(settings) is None:
            tell(out, f"For adjusted prices and identities over renames: {command()} securities")
            return good
        return _derive(settings, records) and good


def publish_years(settings: Settings, years: Sequence[int]) -> bool:
    """Publish these years per symbol in this process; True when all of them were."""
    with instance() as records:
        return _publish(settings, records, years)


def write_report(settings: Settings) -> bool:
    """Write the report in this process; True when it was."""
    with instance() as records:
        return bool(_run(settings, records, "lake_report_job", None, None, {}).success)


def sweep_actions(settings: Settings, since: date | None = None) -> bool:
    """Ask for corporate actions in this process; True when they were had.

    Args:
        settings: The defaults of the resources.
        since: Those that are processed from this day on; None for the whole history.
    """
    claimed_lake(settings)
    with instance() as records:
        return _sweep(settings, records, since)


def derive_securities(settings: Settings) -> bool:
    """Derive securities and factors in this process; True when they were.

    Actions that the sessions need and that were never asked for are asked for first.
    """
    claimed_lake(settings)
    with instance() as records:
        return _derive(settings, records)


def behind(settings: Settings, years: Iterable[int]) -> list[int]:
    """The years among these whose symbol-years don't show every session as it is now."""
    symbol_years = SymbolYears(open_store(settings.lake_uri))
    return [year for year in years if symbol_years.behind(year)]


def _sweep(settings: Settings, records: dg.DagsterInstance, since: date | None = None) -> bool:
    asked = {"since": since.isoformat()} if since else {"whole_history": True}
    config = {"ops": {"corporate_actions": {"config": asked}}}
    result = _run(settings, records, "corporate_actions_job", None, None, config)
    _show_actions(result)
    _show_checks(result)
    return bool(result.success)


def _derive(settings: Settings, records: dg.DagsterInstance) -> bool:
    sessions = open_lake(settings).sessions()
    reach = _reach(settings)
    # Factors without the actions of early sessions would be wrong, and look right.
    if sessions and (reach is None or reach > sessions[0]) and not _sweep(settings, records):
        return False
    result = _run(settings, records, "securities_job", None, None, {})
    _show_securities(result)
    _show_checks(result)
    return bool(result.success)


def _reach(settings: Settings) -> date | None:
    """The day from which on actions were asked for; None when they never were."""
    log = ActionLog(open_store(settings.lake_uri))
    return min((sweep.first for sweep in log.sweeps()), default=None)


def _publish(settings: Settings, records: dg.DagsterInstance, years: Sequence[int]) -> bool:
    good = True
    # A run's range has no holes.
    for _, group in groupby(enumerate(sorted(years)), key=lambda pair: pair[1] - pair[0]):
        span = [year for _, year in group]
        result = _run(settings, records, "symbol_year_ticks_job", str(span[0]), str(span[-1]), {})
        _show_years(result)
        _show_checks(result)
        good = good and bool(result.success)
        if _interrupted(result):
            return False
    return good


def _run(
    settings: Settings,
    records: dg.DagsterInstance,
    job: str,
    first: str | None,
    last: str | None,
    config: Mapping[str, Any],
) -> dg.ExecuteInProcessResult:
    """Run a job in this process, over a range of partitions if any; tell why a step failed."""
    from datalake_assets import liveness
    from datalake_assets.automation.runs import end_lost
    from datalake_assets.definitions import build_definitions

    for ended in end_lost(records, Clock().now()):
        tell(err, ended)
    definitions = build_definitions(settings, display=TerminalDisplay(err))
    run_id = str(uuid.uuid4())
    which: dict[str, Any] = {"run_id": run_id, "tags": {**liveness.tag(run_id), **_UNBOUNDED}}
    if first and last and first != last:
        # The tags by which Dagster's own range runs name their partitions.
        which["tags"] |= {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
        }
    elif first:
        which["partition_key"] = first
    # The run's log is in the instance; on the terminal it would drown the progress.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=records, run_config={**quiet, **config}, raise_on_error=False, **which
    )
    for event in result.filter_events(lambda event: event.is_step_failure):
        tell(err, f"{event.step_key}: {_reason(event, first, last)}")
    return result


def _error(event: dg.DagsterEvent) -> SerializableErrorInfo | None:
    error = event.step_failure_data.error
    # Only Dagster's own wrapper is taken off: what is inside says what was attempted.
    while error and error.cause and error.cls_name == "DagsterExecutionStepExecutionError":
        error = error.cause
    return error


def _interrupted(result: dg.ExecuteInProcessResult) -> bool:
    failures = result.filter_events(lambda event: event.is_step_failure)
    errors = [error for event in failures if (error := _error(event))]
    return any(error.cls_name == "DagsterExecutionInterruptedError" for error in errors)


def _days(start: date, end: date) -> str:
    return f"{start}" if start == end else f"{start} to {end}"


def _reason(event: dg.DagsterEvent, first: str | None, last: str | None) -> str:
    """Why a step failed, without the stack trace, which is in the run's log."""
    error = _error(event)
    if not error:
        return "no reason was given"
    if error.cls_name != "DagsterExecutionInterruptedError":
        return error.message.strip()
    if event.step_key == "symbol_year_ticks":
        return "interrupted. What was written stays, and the same command writes the rest"
    return (
        "interrupted. Sessions that were published stay; to go on with all others and ask for no "
        f"symbol twice: {command()} collect --from {first} --to {last} --repair"
    )


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's records: DAGSTER_HOME, else `.datalake/dagster`, which `make dev` uses too."""
    import dagster as dg

    home = Path(os.environ.get("DAGSTER_HOME") or ".datalake/dagster").absolute()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        template = files("datalake_assets").joinpath("dagster.yaml").read_text()
        (home / "dagster.yaml").write_text(template)
    os.environ["DAGSTER_HOME"] = str(home)
    # The plan of a run is then stored in one transaction, not in one for each session.
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    with dg.DagsterInstance.get() as records:
        yield records


def _show_sessions(result: dg.ExecuteInProcessResult) -> None:
    sessions = Table("session", "bars", "no print", "failed", "success", "coverage", "KiB", "took")
    for column in sessions.columns[1:]:
        column.justify = "right"
    for event in result.get_asset_materialization_events():
        if event.partition is None:
            continue
        metadata = event.materialization.metadata
        told: dict[str, Any] = {name: value.value for name, value in metadata.items()}
        if "success_rate" not in told:
            continue  # published by an earlier run, and only told to Dagster by this one
        coverage_told = told.get("coverage")
        sessions.add_row(
            event.partition,
            f"{told['present']:,}",
            f"{told['no_print']:,}",
            f"{told['failed']:,}",
            f"{told['success_rate']:.2%}",
            "unknown" if coverage_told is None else f"{coverage_told:.2%}",
            f"{told.get('file_size_bytes', 0) / 1024:,.0f}",
            f"{told['duration_seconds']:.1f} s",
        )
    if sessions.row_count:
        out.print(sessions)


def _show_reasons(result: dg.ExecuteInProcessResult) -> None:
    """Why symbols of published sessions failed; of the others the run's failure tells it."""
    told = []
    for event in result.get_asset_materialization_events():
        table = event.materialization.metadata.get("failure_reasons")
        for row in getattr(table, "records", ()):
            error, count, symbols = (row.data[name] for name in ("error", "count", "symbols"))
            told.append(Reason(error, count, tuple(symbols.split(", "))))
    for reason in joined(told)[:_REASONS]:
        tell(out, str(reason))


def _show_rounded(result: dg.ExecuteInProcessResult) -> None:
    """How many volumes are not as the source gave them."""
    told: dict[tuple[Any, Any], int] = {}
    for event in result.get_asset_materialization_events():
        metadata: dict[str, Any] = {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        if rounded := metadata.get("rounded_volumes"):
            # Sessions that were collected together share the numbers of their collection.
            told[metadata["requests"], metadata["duration_seconds"]] = rounded
    if count := sum(told.values()):
        volumes = "volume" if count == 1 else "volumes"
        tell(out, f"{count:,} {volumes} with a fraction of a share, rounded to whole shares")


def _show_universe(settings: Settings, start: date, end: date) -> None:
    """What of the chosen symbols, or of the list, these sessions don't know."""
    lake, chosen = open_lake(settings), settings.read_symbols()
    if chosen and (listed := lake.universe()) and (names := unlisted(chosen, listed[1])):
        tell(out, told_unlisted(names, listed[0]))
    held = lake.coverage(start, end)
    few = narrow(lake, held.published, chosen)
    for first, last in spans(few, list(held.sessions)):
        which = f"--session {first}" if first == last else f"--from {first} --to {last}"
        tell(
            out,
            f"{_days(first, last)}: {few[last]}  →  {command()} collect {which} --repair",
        )


def _show_years(result: dg.ExecuteInProcessResult) -> None:
    years = Table("year", "sessions", "symbols", "bars", "written", "removed", "took", "proved in")
    for column in years.columns[1:]:
        column.justify = "right"
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        told: dict[str, Any] = {name: value.value for name, value in metadata.items()}
        counts = ("sessions", "symbols", "row_count", "uploaded", "removed")
        seconds = ("duration_seconds", "proof_seconds")
        years.add_row(
            event.partition,
            *(f"{told[name]:,}" for name in counts),
            *(f"{told[name]:.1f} s" for name in seconds),
        )
    if years.row_count:
        out.print(years)


def _show_actions(result: dg.ExecuteInProcessResult) -> None:
    for event in result.get_asset_materialization_events():
        told: dict[str, Any] = {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        tell(
            out,
            f"{told['dagster/row_count']:,} corporate actions: {told['inserted']:,} inserted, "
            f"{told['changed']:,} changed, {told['vanished']:,} vanished; processed from "
            f"{told['window']}, {told['requests']:,} requests",
        )


def _show_securities(result: dg.ExecuteInProcessResult) -> None:
    told: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        told |= {name: value.value for name, value in event.materialization.metadata.items()}
    if "securities" in told and "applied" in told:
        tell(
            out,
            f"{told['securities']:,} securities, {told['trading']:,} of them trade; "
            f"{told['applied']:,} factors are applied",
        )
    if waiting := told.get("undecided"):
        tell(out, f"{waiting:,} actions wait for a decision: {command()} decide")


def _show_checks(result: dg.ExecuteInProcessResult) -> None:
    checks = Table("", "check", "says")
    for check in result.get_asset_check_evaluations():
        warned = check.severity.value == "WARN"
        sign = "[green]✓[/]" if check.passed else "[yellow]⚠[/]" if warned else "[red]✗[/]"
        checks.add_row(sign, check.check_name, check.description or "")
    if checks.row_count:
        out.print(checks)
