"""Runs of the jobs, executed by Dagster in this process and recorded in its instance.

Belongs here: launching a run and showing its result. Does not belong here: what the assets do.
"""

from __future__ import annotations

import fcntl
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.cli import signals
from datalake_assets.cli.arguments import claimed_lake, is_there, open_lake
from datalake_assets.cli.interrupted import Collecting, given_symbols, typed
from datalake_assets.cli.terminal import (
    TerminalDisplay,
    command,
    err,
    out,
    show_table,
    tell,
    working,
)
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.progress import many, verb
from datalake_assets.collection.report import Reason, joined
from datalake_assets.collection.universe import unlisted, unlisted_message
from datalake_assets.lake.coverage import coverage_between, narrow
from datalake_assets.lake.examination import spans
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.settings import Settings
from datalake_assets.storage.store import open_store

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.remote_origin import RemoteJobOrigin

_UNBOUNDED = {"dagster/max_runtime_seconds": "0"}
"""A run in a terminal has no time limit: the user sees it and can stop it."""

LOCATION = "us_equity_datalake"
"""The code location that has the jobs, as `workspace.yaml` names it."""

_OFFENDERS = 5
"""How many of the bars or symbols that a check is about are shown."""

_REASONS = 5
"""How many of the source's errors are shown; `status --json` and the run's metadata have all."""


def materialize(
    settings: Settings,
    dataset: Dataset,
    start: date,
    end: date,
    *,
    symbols: str | None = None,
    **options: float,
) -> bool:
    """Collect these sessions in this process, and publish the years that daily bars change.

    Args:
        settings: The defaults of the resources.
        dataset: Whose bars.
        start: The first session.
        end: The last one.
        symbols: What `--symbols` gave, for the commands that are printed.
        options: Fields of the collector, for this run.

    Returns:
        Whether every session and every year was published.

    Raises:
        typer.Exit: Ctrl-C or SIGTERM ended a run, as of the other functions here that start one.
    """
    # Nobody must take the embedded exchange's bars for real ones.
    where = "the embedded exchange" if settings.source == "embedded" else "Alpaca"
    lake = open_lake(settings)
    new = "" if is_there(lake) else ", a new lake"
    what = f"{dataset.bars_of} of " if dataset is not DAILY else ""
    tell(out, f"Collecting {what}{_days(start, end)} from {where} into {lake.store.uri}{new} …")
    with working("starting Dagster"):
        claimed_lake(settings)
    with instance() as records:
        config = {"resources": {"collector": {"config": options}}}
        which = (f"{dataset.name}_ticks_job", start.isoformat(), end.isoformat())
        clock = Clock()
        began = clock.seconds()

        def show(result: dg.ExecuteInProcessResult) -> None:
            seconds = clock.seconds() - began
            if count := _show_sessions(result):
                # Of the whole run: sessions share their requests, so none has its own duration.
                sent = _requests(records, result)
                tell(out, f"{many(count, 'session')} in {seconds:,.1f} s{sent}")

        collecting = Collecting(
            open_lake(settings).of(dataset), start, end, options, symbols=symbols
        )
        what = "starting the collection"
        advice = collecting.advice
        result = _run(settings, records, what, *which, config, show=show, advice=advice)
        _show_checks(result)
        _show_reasons(result)
        _show_rounded(result)
        _show_universe(settings, dataset, start, end, symbols)
        if dataset is not DAILY:
            return bool(result.success)
        # Even if a session did not pass: the others did, and readers can have them.
        years = range(start.year, end.year + 1)
        changed = due_years(settings, years)
        from datalake_assets.assets.symbol_year_ticks import prove_written

        good = _publish(settings, records, changed, prove_written()) and bool(result.success)
        good = _publish_files(settings, records, due_files(settings, years)) and good
        if end.year not in changed:
            _show_waiting(settings, end.year)
        if _reach(settings) is None:
            tell(out, f"For adjusted prices and identities over renames: {command()} securities")
            return good
        return _derive(settings, records) and good


def publish_years(settings: Settings, years: Sequence[int]) -> bool:
    """Publish these years, per symbol and in one file each; True if all were published."""
    with instance() as records:
        good = _publish(settings, records, years)
        return _publish_files(settings, records, years) and good


def write_report(settings: Settings) -> bool:
    """Write the report in this process; True on success."""
    with instance() as records:
        result = _run(settings, records, "writing the report", "lake_report_job")
    return bool(result.success)


def sweep_actions(
    settings: Settings, since: date | None = None, max_loss: float | None = None
) -> bool:
    """Fetch corporate actions in this process; True on success.

    Args:
        settings: The defaults of the resources.
        since: Actions processed from this day on; None for the whole history.
        max_loss: The largest share of the known actions that the answer may lack; None: the
            asset's own.
    """
    with working("starting Dagster"):
        claimed_lake(settings)
    with instance() as records:
        return _sweep(settings, records, since, max_loss)


def derive_securities(settings: Settings) -> bool:
    """Derive securities and factors in this process; True on success.

    Actions that the sessions need and that were never fetched are fetched first.
    """
    with working("starting Dagster"):
        claimed_lake(settings)
    with instance() as records:
        return _derive(settings, records)


def due_years(settings: Settings, years: Iterable[int]) -> list[int]:
    """Those of these years whose symbol-years must be published now."""
    symbol_years = SymbolYears(open_store(settings.lake_uri))
    weekly = settings.running_year == "weekly"
    return [year for year in years if symbol_years.due(year, weekly=weekly)]


def due_files(settings: Settings, years: Iterable[int]) -> list[int]:
    """Those of these years whose year file must be published now."""
    files = YearFiles(open_store(settings.lake_uri))
    return [year for year in years if files.due(year)]


def _show_waiting(settings: Settings, year: int) -> None:
    """Tell that the files per symbol of a year lag on purpose, if they do."""
    if lag := SymbolYears(open_store(settings.lake_uri)).behind(year):
        tell(
            out,
            f"The files per symbol of {year} follow with the last session of the week; until then "
            f"{many(len(lag), 'session')} {verb(len(lag))} read from the session "
            f"files. To write them now: {command()} publish --year {year}",
        )


def _sweep(
    settings: Settings,
    records: dg.DagsterInstance,
    since: date | None = None,
    max_loss: float | None = None,
    again: str | None = None,
) -> bool:
    """Fetch corporate actions; `again` is the command that goes on after an interruption."""
    asked: dict[str, Any] = {"since": since.isoformat()} if since else {"whole_history": True}
    if max_loss is not None:
        asked["max_loss"] = max_loss
    config = {"ops": {"corporate_actions": {"config": asked}}}
    what = f"fetching {f'corporate actions since {since}' if since else 'all corporate actions'}"
    job = "corporate_actions_job"
    allowed = "" if max_loss is None else f" --max-loss {typed(max_loss)}"
    again = again or f"actions --sweep{allowed}"
    result = _run(
        settings,
        records,
        what,
        job,
        config=config,
        show=_show_actions,
        advice=lambda result: f"To go on: {command()} {again}",
    )
    _show_checks(result)
    return bool(result.success)


def _derive(settings: Settings, records: dg.DagsterInstance) -> bool:
    sessions = open_lake(settings).sessions()
    reach = _reach(settings)
    # Factors without the actions of early sessions would be wrong, and look right.
    early = sessions and (reach is None or reach > sessions[0])
    if early and not _sweep(settings, records, again="securities"):
        return False
    what = "deriving securities and factors"
    result = _run(
        settings,
        records,
        what,
        "securities_job",
        show=_show_securities,
        advice=lambda result: f"To go on: {command()} securities",
    )
    _show_checks(result)
    return bool(result.success)


def _reach(settings: Settings) -> date | None:
    """The day since which actions were fetched; None if they never were."""
    log = ActionLog(open_store(settings.lake_uri))
    return min((sweep.first for sweep in log.sweeps()), default=None)


def _publish(
    settings: Settings,
    records: dg.DagsterInstance,
    years: Sequence[int],
    config: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    what = "publishing per symbol and year"
    return _publish_by(settings, records, "symbol_year_ticks_job", what, years, config)


def _publish_files(settings: Settings, records: dg.DagsterInstance, years: Sequence[int]) -> bool:
    return _publish_by(settings, records, "year_ticks_job", "publishing a file per year", years)


def _publish_by(
    settings: Settings,
    records: dg.DagsterInstance,
    job: str,
    what: str,
    years: Sequence[int],
    config: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    good, only = True, f" --year {years[0]}" if len(years) == 1 else ""
    # The range of a run has no gaps.
    for _, group in groupby(enumerate(sorted(years)), key=lambda pair: pair[1] - pair[0]):
        span = [year for _, year in group]
        which = (job, str(span[0]), str(span[-1]))
        result = _run(
            settings,
            records,
            what,
            *which,
            config,
            show=_show_years,
            advice=lambda result: (
                f"Written files stay. To write and verify what is left: {command()} publish{only}"
            ),
        )
        _show_checks(result)
        good = good and bool(result.success)
    return good


def _run(
    settings: Settings,
    records: dg.DagsterInstance,
    what: str,
    job: str,
    first: str | None = None,
    last: str | None = None,
    config: Mapping[str, Any] = MappingProxyType({}),
    *,
    show: Callable[[dg.ExecuteInProcessResult], None] = lambda result: None,
    advice: Callable[[dg.ExecuteInProcessResult], str] = lambda result: (
        "Run the same command again"
    ),
) -> dg.ExecuteInProcessResult:
    """Run a job in this process, optionally over a range of partitions; print why steps failed.

    After Ctrl-C or SIGTERM the command ends: who sent it wants nothing more of it.

    Args:
        settings: The defaults of the resources.
        records: Dagster's instance.
        what: The step to show while it runs.
        job: The job's name.
        first: The first partition; None for a job without partitions.
        last: The last one.
        config: Of the run.
        show: Shows what the run did, also one that was interrupted.
        advice: Says how to go on after an interruption.

    Raises:
        typer.Exit: Ctrl-C or SIGTERM came.
    """
    with TerminalDisplay(err) as display, signals.noticed() as stopped:
        display.begin(what)
        result = _execute(settings, records, display, job, first, last, config)
    # It imports Dagster, which is loaded by now.
    from datalake_assets.assets import failure

    failures = result.filter_events(lambda event: event.is_step_failure)
    for event in failures:
        if not _is_interruption(event):
            tell(err, f"{event.step_key}: {failure.reason(event)}")
    # Between its steps Dagster holds a signal back: then it fails the run, or forgets it.
    came = stopped() or (signals.Interrupted() if any(map(_is_interruption, failures)) else None)
    if not failures and not came:
        for event in result.filter_events(lambda event: event.is_run_failure):
            tell(err, f"{job}: {failure.run_reason(event)}")
    if came:
        where = next((event.step_key for event in failures if _is_interruption(event)), job)
        tell(err, f"{where}: interrupted")  # at once: to look at the lake can take a while
        tell(err, advice(result))
    show(result)
    if came:
        raise typer.Exit(came.code)
    return result


def _execute(
    settings: Settings,
    records: dg.DagsterInstance,
    display: TerminalDisplay,
    job: str,
    first: str | None,
    last: str | None,
    config: Mapping[str, Any],
) -> dg.ExecuteInProcessResult:
    import dagster as dg
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.execution.api import execute_run_iterator

    from datalake_assets import liveness
    from datalake_assets.automation.runs import TERMINAL, end_lost
    from datalake_assets.definitions import build_definitions

    for lost in end_lost(records, Clock().now()):
        tell(err, lost)
    definitions = build_definitions(settings, display=display)
    run_id = str(uuid.uuid4())
    tags = {**liveness.tag(run_id), **_UNBOUNDED, TERMINAL: "datalake"}
    # Dagster's own tags for a run's partitions.
    if first and last and first != last:
        tags["dagster/asset_partition_range_start"] = first
        tags["dagster/asset_partition_range_end"] = last
    elif first:
        tags["dagster/partition"] = first
    # The run's log is in the instance; in the terminal it would bury the progress.
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    definition = definitions.resolve_job_def(job)
    run = records.create_run_for_job(
        definition,
        run_id=run_id,
        run_config={**quiet, **config},
        tags={**definition.run_tags, **tags},
        remote_job_origin=_origin(job),
    )
    events = list(execute_run_iterator(InMemoryJob(definition), run, records))
    ended = records.get_run_by_id(run_id) or run
    return dg.ExecuteInProcessResult(
        event_list=events, job_def=definition, dagster_run=ended, output_capture=None
    )


def _origin(job: str) -> RemoteJobOrigin:
    """The job, with its origin in the code location of `workspace.yaml`.

    Without the origin, Dagster's UI shows the run neither under its job nor on the timeline.
    `execute_in_process` creates such runs.
    """
    from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
    from dagster._core.remote_origin import (
        ManagedGrpcPythonEnvCodeLocationOrigin,
        RemoteJobOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    target = LoadableTargetOrigin(
        executable_path=sys.executable, module_name="datalake_assets.definitions"
    )
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, location_name=LOCATION)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), job)


def _is_interruption(event: dg.DagsterEvent) -> bool:
    """Whether Ctrl-C or SIGTERM ended a step that failed."""
    from datalake_assets.assets import failure

    error = failure.error_of(event)
    return error is not None and error.cls_name == failure.INTERRUPTED


def _days(start: date, end: date) -> str:
    return f"{start}" if start == end else f"{start} to {end}"


def dagster_home() -> Path:
    """Dagster's home: DAGSTER_HOME, else `.datalake/dagster`, as for `datalake dev`."""
    return Path(os.environ.get("DAGSTER_HOME") or ".datalake/dagster").absolute()


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's instance, created if there is none.

    Output of a run goes to the terminal: Dagster's own capture would take the file descriptor of
    the progress line for as long as a step runs, and its helper processes print stack traces at
    Ctrl-C.
    """
    with working("starting Dagster"):
        import dagster as dg
        from dagster._core.instance.ref import InstanceRef

    with working("opening Dagster's instance"), prepared_home() as home:
        ref = InstanceRef.from_dir(str(home), overrides={"compute_logs": _NOT_CAPTURED})
        records = dg.DagsterInstance.from_ref(ref)
    with records:
        yield records


@contextmanager
def prepared_home() -> Iterator[Path]:
    """Dagster's home with its `dagster.yaml`, in this process's environment, and locked.

    Dagster creates its tables when it opens the instance. If two processes do so at the same time,
    one fails with "table runs already exists".
    """
    home = dagster_home()
    home.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home)
    # The plan of a run is then stored in one transaction, not in one for each session.
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "dagster.yaml").exists():
            template = files("datalake_assets").joinpath("dagster.yaml").read_text()
            (home / "dagster.yaml").write_text(template)
        yield home


_NOT_CAPTURED = {
    "module": "dagster._core.storage.noop_compute_log_manager",
    "class": "NoOpComputeLogManager",
    "config": {},
}


def _requests(records: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    """The number of the run's requests for market data."""
    from datalake_assets.assets.session_ticks import REQUESTS_TAG

    run = records.get_run_by_id(result.run_id)
    sent = run.tags.get(REQUESTS_TAG) if run else None
    return f", {many(int(sent), 'request')}" if sent else ""


def _show_sessions(result: dg.ExecuteInProcessResult) -> int:
    """Show the sessions that the run published, and return their number."""
    names = ("session", "bars", "no print", "failed", "success", "coverage", "KiB")
    sessions = Table(*names)
    for column in sessions.columns[1:]:
        column.justify = "right"
    for event in result.get_asset_materialization_events():
        if event.partition is None:
            continue
        metadata = event.materialization.metadata
        told: dict[str, Any] = {name: value.value for name, value in metadata.items()}
        if "success_rate" not in told:
            continue  # published by an earlier run; this one only reported it to Dagster
        coverage_told = told.get("coverage")
        sessions.add_row(
            event.partition,
            f"{told['row_count']:,}",
            f"{told['no_print']:,}",
            f"{told['failed']:,}",
            f"{told['success_rate']:.2%}",
            "unknown" if coverage_told is None else f"{coverage_told:.2%}",
            f"{told.get('file_size_bytes', 0) / 1024:,.0f}",
        )
    if sessions.row_count:
        show_table(sessions, spare=2)
    return sessions.row_count


def _show_reasons(result: dg.ExecuteInProcessResult) -> None:
    """Show why symbols of published sessions failed; the run's failure covers the others."""
    told = []
    for event in result.get_asset_materialization_events():
        table = event.materialization.metadata.get("failure_reasons")
        for row in getattr(table, "records", ()):
            error, count, symbols = (row.data[name] for name in ("error", "count", "symbols"))
            told.append(Reason(error, count, tuple(symbols.split(", "))))
    for reason in joined(told)[:_REASONS]:
        tell(out, str(reason))


def _show_rounded(result: dg.ExecuteInProcessResult) -> None:
    """Show how many volumes were rounded."""
    told: dict[tuple[Any, Any], int] = {}
    for event in result.get_asset_materialization_events():
        metadata: dict[str, Any] = {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        if rounded := metadata.get("rounded_volumes"):
            # Sessions that were collected together share the numbers of their collection.
            told[metadata["requests"], metadata["duration_seconds"]] = rounded
    if count := sum(told.values()):
        tell(out, f"{many(count, 'volume')} with a fraction of a share, rounded to whole shares")


def _show_universe(
    settings: Settings, dataset: Dataset, start: date, end: date, symbols: str | None
) -> None:
    """Show which configured or listed symbols these sessions were not collected for."""
    lake, minutes = open_lake(settings).of(dataset), dataset is not DAILY
    chosen = settings.read_symbols(minutes=minutes)
    if chosen and (listed := lake.universe()) and (names := unlisted(chosen, listed[1])):
        own = minutes and settings.minute_symbols is not None
        setting = "DATALAKE_MINUTE_SYMBOLS" if own else "DATALAKE_SYMBOLS"
        setting = setting if symbols is None else "--symbols"
        tell(out, unlisted_message(names, listed[0], setting))
    held = coverage_between(lake, start, end)
    few, flag = narrow(lake, held.published, chosen), "--minutes " if minutes else ""
    only = given_symbols(symbols)
    for first, last in spans(few, list(held.sessions)):
        which = market_calendar.options(first, last)
        tell(
            out,
            f"{_days(first, last)}: {few[last]}  →  "
            f"{command()} collect {flag}{which} --repair{only}",
        )


def _show_years(result: dg.ExecuteInProcessResult) -> None:
    names = ["year", "sessions", "symbols", "bars", "written", "removed", "took", "verified in"]
    counts = ["sessions", "symbols", "row_count", "uploaded", "removed"]
    events = result.get_asset_materialization_events()
    in_files = bool(events) and "uploaded" not in events[0].materialization.metadata
    if in_files:
        names = ["file of year", "sessions", "symbols", "bars", "bytes", "took", "verified in"]
        counts[3:] = ["bytes"]
    years = Table(*names)
    for column in years.columns[1:]:
        column.justify = "right"
    for event in events:
        metadata = event.materialization.metadata
        told: dict[str, Any] = {name: value.value for name, value in metadata.items()}
        seconds = ("duration_seconds", "proof_seconds")
        years.add_row(
            event.partition,
            *(f"{told[name]:,}" for name in counts),
            *(f"{told[name]:.1f} s" for name in seconds),
        )
    if years.row_count:
        show_table(years, spare=4)


def _show_actions(result: dg.ExecuteInProcessResult) -> None:
    for event in result.get_asset_materialization_events():
        told: dict[str, Any] = {
            name: value.value for name, value in event.materialization.metadata.items()
        }
        requests = many(told["requests"], "request")
        tell(
            out,
            f"{many(told['dagster/row_count'], 'corporate action')}: "
            f"{told['inserted']:,} inserted, {told['changed']:,} changed, "
            f"{told['vanished']:,} vanished; processed from {told['window']}, {requests}",
        )


def _show_securities(result: dg.ExecuteInProcessResult) -> None:
    told: dict[str, Any] = {}
    for event in result.get_asset_materialization_events():
        told |= {name: value.value for name, value in event.materialization.metadata.items()}
    if "securities" in told and "applied" in told:
        tell(
            out,
            f"{many(told['securities'], 'security')}, {told['trading']:,} of them trading; "
            f"{many(told['applied'], 'factor')} applied",
        )
    if waiting := told.get("undecided"):
        wait = "waits" if waiting == 1 else "wait"
        tell(out, f"{many(waiting, 'action')} {wait} for a decision: {command()} decide")


def _show_checks(result: dg.ExecuteInProcessResult) -> None:
    checks = Table("", "check", "result")
    for check in result.get_asset_check_evaluations():
        warned = check.severity.value == "WARN"
        sign = "[green]✓[/]" if check.passed else "[yellow]⚠[/]" if warned else "[red]✗[/]"
        checks.add_row(sign, check.check_name, check.description or "")
    if checks.row_count:
        show_table(checks)
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            _show_offenders(check)


def _show_offenders(check: dg.AssetCheckEvaluation) -> None:
    """Name the first bars or symbols of sessions that a check is about."""
    rows = getattr(check.metadata.get("offenders"), "records", ())
    told = [
        f"{row.data['session']}: {row.data['offender']}" for row in rows if "offender" in row.data
    ]
    for offender in told[:_OFFENDERS]:
        tell(out, f"{check.check_name}, {offender}")
    if told[_OFFENDERS:]:
        count: Any = check.metadata["offender_count"].value
        more = f"{count - _OFFENDERS:,} more"
        tell(out, f"{check.check_name}: and {more}; Dagster's UI shows them with the check")
