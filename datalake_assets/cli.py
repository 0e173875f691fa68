"""The command line: `datalake`, also `python -m datalake_assets`.

Belongs here: arguments, what a person reads in the terminal, exit codes. Does not belong here:
anything that Dagster, a notebook or the Lambda needs too.

Whatever collects does it through Dagster, in this process, and is recorded in its instance:
`make dev` shows the same runs. Exit codes: 0 done, 1 a session did not pass or a run failed,
2 wrong input.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from datalake_assets import market_calendar
from datalake_assets.collection.cost import PRICES_OF, Cost, cost
from datalake_assets.collection.errors import CollectionError
from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.collection.universe import symbols_for
from datalake_assets.exchange.process import LOOPBACK, ExchangeOptions, serve
from datalake_assets.lake import layout
from datalake_assets.lake.coverage import Coverage, Held, coverage
from datalake_assets.lake.lake import Lake, WrongLakeError
from datalake_assets.lake.session_file import BrokenFileError, Summary
from datalake_assets.lake.store import StoreError, open_store
from datalake_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    import dagster as dg

DEMO_SESSIONS = 6
"""The newest session, and the five before that its coverage is measured by. They cost no more
requests than one: a request has room for them."""

PARTITION_APPEARS = timedelta(hours=22)
"""Time of a session's day (UTC) at which its partition appears, as `partitions.TIMEZONE` makes it.
Known here too, so that `status` need not load Dagster."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="A complete history of daily bars for every US equity, in Parquet, in your own bucket.",
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # a local variable can hold a key
)
out = Console()
err = Console(stderr=True)

_HOST, _PROCESS = "datalake/host", "datalake/process"
"""Tags of the runs that this command executes itself: where, and in which process."""

From = Annotated[
    str | None,
    typer.Option("--from", metavar="YYYY-MM-DD", help="First day; the first session if none."),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="YYYY-MM-DD", help="Last day; the newest session if none."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


class TerminalDisplay(Display):
    """Progress as a bar, or as a line now and then where there is no terminal.

    Args:
        console: Where it is drawn.
    """

    _EVERY = 5.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._next = self._EVERY

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Draw the collection as it is."""
        if not self._console.is_terminal:
            if final or snapshot.seconds >= self._next:
                self._next = 0.0 if final else snapshot.seconds + self._EVERY
                self._console.print(str(snapshot), highlight=False)
            return
        if self._bar is None:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} chunks  {task.fields[told]}"),
                TimeElapsedColumn(),
                console=self._console,
                auto_refresh=False,
            )
            self._bar.add_task(snapshot.label, total=snapshot.chunks, told="")
            self._bar.start()
        told = (
            f"[green]✓ {snapshot.symbols_ok:,}[/] [red]✗ {snapshot.symbols_failed:,}[/] "
            f"{snapshot.bars:,} bars  {snapshot.requests:,} requests"
        )
        if snapshot.retries:
            told += f" ({snapshot.retries:,} retries)"
        if left := snapshot.seconds_left:
            told += f"  {left:,.0f} s left"
        self._bar.update(self._bar.task_ids[0], completed=snapshot.chunks_done, told=told)
        self._bar.refresh()
        if final:
            self._bar.stop()
            self._bar = None


@app.command()
def demo() -> None:
    """Collect the newest sessions into a lake and have a first look; needs no key."""
    with _plain_errors():
        settings = Settings.load()
        partitions = _partitions(settings)
        newest = date.fromisoformat(partitions[-1])
        first = [*market_calendar.previous_sessions(newest, DEMO_SESSIONS - 1), newest][0]
        where = "the embedded exchange" if settings.source == "embedded" else "Alpaca"
        _tell(out, f"Collecting {first} to {newest} from {where} into {settings.lake_uri} …")
        good = _materialize(settings, max(first, settings.first_session), newest)
        if good:
            _first_look(_open_lake(settings), newest)
    raise typer.Exit(0 if good else 1)


@app.command()
def collect(
    session: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="The session to collect.")
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="YYYY-MM-DD", help="First day of a range of sessions."),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the range.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Ask only for what is failed or pending, and merge.")
    ] = False,
) -> None:
    """Collect one session, or every session of a range, into the lake."""
    with _plain_errors():
        settings = Settings.load()
        if (session is None) == (first is None and last is None):
            raise typer.BadParameter("give either --session, or --from and --to")
        if session is not None:
            start = end = _session(_partitions(settings), session)
        elif first is not None and last is not None:
            start, end = _range(_partitions(settings), first, last)
        else:
            raise typer.BadParameter("a range needs both --from and --to")
        good = _materialize(settings, start, end, repair=repair)
    raise typer.Exit(0 if good else 1)


@app.command()
def backfill(
    first: From = None,
    last: To = None,
) -> None:
    """Collect every session of a range that is not published yet.

    Stopped or killed at any moment, the same command goes on where it was.
    """
    with _plain_errors():
        settings = Settings.load()
        keys = _partitions(settings)
        start, end = _range(keys, first or keys[0], last or keys[-1])
        good = _materialize(settings, start, end, missing_only=True)
    raise typer.Exit(0 if good else 1)


@app.command()
def plan(
    first: From = None,
    last: To = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only sessions not published yet: a backfill.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Tell what collecting a range would take and cost, without doing it.

    It asks for the universe, and for the survey that a long range is packed by, if the lake has
    none, and keeps them there.
    """
    with _plain_errors():
        settings = Settings.load()
        keys = _partitions(settings)
        start, end = _range(keys, first or keys[0], last or keys[-1])
        told = _cost(settings, market_calendar.sessions(start, end), missing=missing)
        if as_json:
            out.print_json(json.dumps(asdict(told)))
        else:
            _show_cost(told, settings)


@app.command()
def status(as_json: Json = False) -> None:
    """Show what the lake holds: coverage by year and month, gaps, failures, what to do."""
    with _plain_errors():
        settings = Settings.load()
        lake = _open_lake(settings)
        newest = (datetime.now(UTC) - PARTITION_APPEARS).date()
        held = coverage(lake, market_calendar.sessions(settings.first_session, newest))
        if as_json:
            out.print_json(json.dumps(_status_json(lake, held)))
        else:
            _show_status(lake, held)


@app.command()
def exchange(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 for a free one.")] = 8801,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    seed: Annotated[int, typer.Option(help="Which synthetic market.")] = 7,
    recorded: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file of bars to replay instead.")
    ] = None,
    requests_per_minute: Annotated[
        int, typer.Option(help="Rate limit of the data API; 0 for none.")
    ] = 200,
    latency: Annotated[float, typer.Option(help="Seconds that each answer takes longer.")] = 0.0,
    faults: Annotated[
        str, typer.Option(help='Faults, as JSON: {"rate": 0.3, "seed": 1} disturbs 30 %.')
    ] = "",
) -> None:
    """Run the embedded exchange: Alpaca's wire protocol over a synthetic or recorded market."""
    with _plain_errors():
        options = ExchangeOptions(
            seed=seed,
            recorded=recorded,
            requests_per_minute=requests_per_minute,
            trading_requests_per_minute=200,
            latency=latency,
            faults=faults,
        )

        def announce(url: str) -> None:
            _tell(out, f"{options.market_id} on {url}")
            _tell(
                out,
                "Any pair of keys is welcome. To collect from it: ALPACA_API_KEY=any "
                f"ALPACA_SECRET_KEY=any ALPACA_DATA_URL={url} ALPACA_TRADING_URL={url} "
                "DATALAKE_URI=.datalake/exchange",
            )

        try:
            serve(options.exchange(), host=host, port=port, announce=announce)
        except (ValueError, OverflowError) as error:
            raise typer.BadParameter(str(error)) from error


# --- collecting through Dagster ---


def _materialize(settings: Settings, start: date, end: date, **knobs: bool) -> bool:
    """Run the job over these sessions in this process; True when all of them were published.

    Args:
        settings: The defaults of its resources.
        start: The first session.
        end: The last one.
        knobs: Of the collector, for this run.
    """
    from datalake_assets.definitions import build_definitions

    job = build_definitions(settings, display=TerminalDisplay(err)).resolve_job_def(
        "daily_ticks_job"
    )
    config = {
        # The run's log is in the instance; on the terminal it would drown the progress.
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "resources": {"collector": {"config": knobs}},
    }
    # The tags by which Dagster's own range runs name their partitions.
    tags = {
        "dagster/asset_partition_range_start": start.isoformat(),
        "dagster/asset_partition_range_end": end.isoformat(),
    }
    process = {_HOST: socket.gethostname(), _PROCESS: str(os.getpid())}
    with _instance() as instance:
        _bury_killed_runs(instance)
        if start == end:
            which: dict[str, Any] = {"partition_key": start.isoformat(), "tags": process}
        else:
            which = {"tags": tags | process}
        result = job.execute_in_process(
            instance=instance, run_config=config, raise_on_error=False, **which
        )
        _show_run(result)
        for event in result.filter_events(lambda event: event.is_step_failure):
            _tell(err, f"{event.step_key}: {_reason(event)}")
    return bool(result.success)


def _bury_killed_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of this command failed whose process was killed.

    Nobody else can: Dagster watches only the processes that it launched, and a run that seems
    to go on for ever takes a place in its queue.
    """
    import dagster as dg

    seeming = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
        ],
        tags={_HOST: socket.gethostname()},
    )
    for run in instance.get_runs(seeming):
        try:
            os.kill(int(run.tags[_PROCESS]), 0)
        except ProcessLookupError:
            instance.report_run_failed(run, "The process of this run is gone: it was killed.")
        except PermissionError:
            pass  # it lives, under another user


def _reason(event: dg.DagsterEvent) -> str:
    """Why a step failed, without the stack trace, which is in the run's log."""
    error = event.step_failure_data.error
    # Only Dagster's own wrapper is taken off: what is inside says what was attempted.
    while error and error.cause and error.cls_name == "DagsterExecutionStepExecutionError":
        error = error.cause
    if error and error.cls_name == "DagsterExecutionInterruptedError":
        return (
            "interrupted. Sessions that were published stay; what was collected of the others "
            "waits for the same command with --repair"
        )
    return error.message.strip() if error else "no reason was given"


@contextmanager
def _instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's records: DAGSTER_HOME, else `.datalake/dagster`, which `make dev` uses too."""
    import dagster as dg

    home = Path(os.environ.get("DAGSTER_HOME") or ".datalake/dagster").absolute()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        template = files("datalake_assets").joinpath("dagster.yaml").read_text()
        (home / "dagster.yaml").write_text(template)
    os.environ["DAGSTER_HOME"] = str(home)
    with dg.DagsterInstance.get() as instance:
        yield instance


def _show_run(result: dg.ExecuteInProcessResult) -> None:
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
    checks = Table("", "check", "says")
    for check in result.get_asset_check_evaluations():
        warned = check.severity.value == "WARN"
        sign = "[green]✓[/]" if check.passed else "[yellow]⚠[/]" if warned else "[red]✗[/]"
        checks.add_row(sign, check.check_name, check.description or "")
    if sessions.row_count:
        out.print(sessions)
    if checks.row_count:
        out.print(checks)


# --- what it would cost ---


def _cost(settings: Settings, days: Sequence[date], *, missing: bool) -> Cost:
    """The plan of a run over these days, made as the run makes it, and its cost."""
    from datalake_assets.assets.stock_universe import take_snapshot, take_survey
    from datalake_assets.definitions import build_collector, build_source
    from datalake_assets.publication import Publication

    lake = _open_lake(settings)
    # As for a run: what is named by its environment variable gets its value.
    collector = build_collector(settings).process_config_and_initialize()
    source = build_source(settings).process_config_and_initialize()
    published = lake.sessions()
    if missing:
        days = sorted(frozenset(days).difference(published))
    lake.claim(source.identity)
    with source.open(collector) as alpaca, collector.how(source.account) as how:
        found = lake.universe()
        if found is None:
            _tell(err, "No universe in the lake yet: taking its first snapshot …")
            found = take_snapshot(alpaca, lake, collector, source)[:2]
        taken, snapshot = found
        chosen = collector.chosen_symbols
        wanted = dict.fromkeys(days, chosen) if chosen else symbols_for(days, snapshot, taken)
        known = take_survey(alpaca, lake, how, wanted, settings.first_session.year, taken)
        planned = Publication(wanted, lake, how, survey=known).plan
    # A survey leaves out those that did not trade; to do so twice would tell too few bars.
    density = 1.0 if known else _density(lake, published)
    return cost(planned, settings.requests_per_minute, density)


def _density(lake: Lake, published: Sequence[date]) -> float:
    """Share of symbols that print, in a few sessions that the lake holds; 1 when it has none."""
    few = published[:: max(1, len(published) // 20)]
    found = lake.summaries(map(layout.session_key, few))
    summaries = [summary for summary in found if isinstance(summary, Summary)]
    asked = sum(sum(summary.counts.values()) for summary in summaries)
    return sum(summary.rows for summary in summaries) / asked if asked else 1.0


def _show_cost(told: Cost, settings: Settings) -> None:
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, text in (
        ("sessions", f"{told.sessions:,}"),
        ("symbols", f"{told.symbols:,}"),
        ("requests", f"{told.requests:,}"),
        (f"minutes, at {settings.requests_per_minute:,} requests each", f"{told.minutes:,.1f}"),
        ("bars, expected", f"{told.bars:,}"),
        ("bars, at most", f"{told.bars_at_most:,}"),
        ("size", f"{told.bytes / 1e6:,.1f} MB"),
        ("objects", f"{told.objects:,}"),
        ("PUTs on S3", f"${told.put_dollars:,.4f}"),
        ("storage on S3, a month", f"${told.storage_dollars_a_month:,.4f}"),
    ):
        table.add_row(name, text)
    out.print(table)
    out.print(f"S3 prices of {PRICES_OF}, us-east-1.", highlight=False)


# --- the lake in the terminal ---


def _first_look(lake: Lake, newest: date) -> None:
    """The most traded names of the newest session, and how to read on."""
    import pyarrow.compute as pc

    days = [day for day in lake.sessions() if day <= newest][-DEMO_SESSIONS:]
    tables = {day: lake.read(day).bars for day in days}
    bars = tables[newest]
    turnover = pc.multiply(bars["vwap"], pc.cast(bars["volume"], "float64"))
    top = bars.append_column("turnover", turnover).sort_by([("turnover", "descending")])
    closes = {
        day: dict(zip(table["symbol"].to_pylist(), table["close"].to_pylist(), strict=True))
        for day, table in tables.items()
    }
    if not bars.num_rows:
        _tell(out, f"no symbol asked for has a bar on {newest}")
        return
    table = Table(
        "symbol",
        "close",
        "change",
        "volume",
        "turnover",
        f"last {len(days)} closes",
        title=f"Most traded on {newest}",
    )
    for column in table.columns[1:5]:
        column.justify = "right"
    for row in top.slice(0, 10).to_pylist():
        history = [closes[day].get(row["symbol"]) for day in days]
        before = history[-2] if len(history) > 1 else None
        change = "" if before is None else f"{row['close'] / before - 1:+.2%}"
        table.add_row(
            row["symbol"],
            f"{row['close']:,.2f}",
            f"[{'red' if change.startswith('-') else 'green'}]{change}[/]" if change else "",
            f"{row['volume']:,}",
            f"${row['turnover'] / 1e6:,.0f} M",
            _sparkline([close for close in history if close is not None]),
        )
    out.print(table)
    sessions = lake.store.url(layout.SESSIONS)
    out.print(
        f"{bars.num_rows:,} bars of {newest} lie in {sessions}. Next:\n"
        f"  duckdb -c \"SELECT * FROM '{sessions}/*/*.parquet' WHERE symbol = "
        f"'{top['symbol'][0].as_py()}' ORDER BY session\"\n"
        f"  {_command()} status: what the lake holds\n"
        "  make dev: the same in Dagster's UI",
        highlight=False,
        soft_wrap=True,
    )


def _command() -> str:
    """How this program was called, so that what it says can be typed."""
    called = Path(sys.argv[0]).absolute()
    here = called.is_relative_to(Path.cwd())
    return str(called.relative_to(Path.cwd())) if here and called.name == "datalake" else "datalake"


def _sparkline(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    steps = "▁▂▃▄▅▆▇█"
    span = high - low or 1.0
    return "".join(steps[round((value - low) / span * (len(steps) - 1))] for value in values)


def _show_status(lake: Lake, held: Coverage) -> None:
    _tell(out, f"{lake.store.uri}  {lake.source() or 'no lake yet'}")
    rows = {summary.session: summary for summary in held.published}
    table = Table("year", "J F M A M J J A S O N D", "published", "of", "bars", "answered")
    for column in table.columns[2:]:
        column.justify = "right"
    for year in sorted({day.year for day in held.sessions}):
        days = [day for day in held.sessions if day.year == year]
        found = [rows[day] for day in days if day in rows]
        asked = sum(sum(s.counts.values()) - s.counts["rejected"] for s in found)
        answered = sum(s.counts["present"] + s.counts["no_print"] for s in found)
        table.add_row(
            str(year),
            " ".join(
                _month([held.sessions[day] for day in days if day.month == month])
                for month in range(1, 13)
            ),
            f"{len(found):,}",
            f"{len(days):,}",
            f"{sum(summary.rows for summary in found):,}",
            f"{answered / asked:.3%}" if asked else "",
        )
    out.print(table)
    out.print("█ all sessions  ▓ ▒ ░ some  · none  ! incomplete")
    gaps = held.gaps
    for start, end, count in gaps[-5:]:
        _tell(
            out, f"missing: {count:,} sessions  →  {_command()} backfill --from {start} --to {end}"
        )
    if len(gaps) > 5:
        out.print(f"… and {len(gaps) - 5:,} gaps before")
    broken = {summary.session: summary for summary in (*held.published, *held.waiting)}
    for where in held.damaged:
        _tell(out, f"damaged: {where}  →  collect its session again")
    for day in held.to_repair[:10]:
        counts = broken[day].counts
        _tell(
            out,
            f"{day}: {counts['failed']:,} failed, {counts['pending']:,} pending  →  "
            f"{_command()} collect --session {day} --repair",
        )
    if len(held.to_repair) > 10:
        out.print(f"… and {len(held.to_repair) - 10:,} more to repair")


def _month(states: Sequence[Held]) -> str:
    if not states:
        return " "
    if Held.INCOMPLETE in states:
        return "!"
    share = states.count(Held.PUBLISHED) / len(states)
    return "█" if share == 1 else "·" if share == 0 else "░▒▓"[min(2, int(share * 3))]


def _status_json(lake: Lake, held: Coverage) -> dict[str, Any]:
    return {
        "lake": lake.store.uri,
        "source": lake.source(),
        "sessions_expected": len(held.sessions),
        "sessions_published": len(held.published),
        "bars": sum(summary.rows for summary in held.published),
        "gaps": [
            {"from": start.isoformat(), "to": end.isoformat(), "sessions": count}
            for start, end, count in held.gaps
        ],
        "damaged": list(held.damaged),
        "to_repair": [day.isoformat() for day in held.to_repair],
        "sessions": [
            {
                "session": summary.session.isoformat(),
                "published": published,
                **summary.counts,
                "collected_at": summary.provenance.collected_at.isoformat(),
            }
            for published, summaries in ((True, held.published), (False, held.waiting))
            for summary in summaries
        ],
    }


# --- arguments ---


def _open_lake(settings: Settings) -> Lake:
    return Lake(open_store(settings.lake_uri))


def _partitions(settings: Settings) -> list[str]:
    """The sessions that can be collected now, as Dagster knows them."""
    from datalake_assets.partitions import session_partitions

    keys = list(session_partitions(settings.first_session).get_partition_keys())
    if not keys:
        raise typer.BadParameter(f"no session since {settings.first_session} has closed yet")
    return keys


def _session(keys: Sequence[str], text: str) -> date:
    """The session meant, which must be one of those that can be collected."""
    day = _day("--session", text)
    if day.isoformat() not in keys:
        raise typer.BadParameter(f"{day} can't be collected: {_why_not(day, keys)}")
    return day


def _range(keys: Sequence[str], first: str, last: str) -> tuple[date, date]:
    """The first and the last session meant, of those that can be collected."""
    start, end = _day("--from", first), _day("--to", last)
    if end < start:
        raise typer.BadParameter(f"--to {end} is before --from {start}")
    meant = [key for key in keys if start.isoformat() <= key <= end.isoformat()]
    if not meant:
        raise typer.BadParameter(
            f"no session that can be collected from {start} to {end}; "
            f"there are {keys[0]} to {keys[-1]}"
        )
    return date.fromisoformat(meant[0]), date.fromisoformat(meant[-1])


def _day(option: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
        # It would take 20240703 and 2024-W27-3, too.
        if day.isoformat() != text:
            raise ValueError("another form of a date")
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes a day as YYYY-MM-DD, not {text!r}") from error
    return day


def _why_not(day: date, keys: Sequence[str]) -> str:
    if day.isoformat() < keys[0]:
        return f"the first session is {keys[0]} (DATALAKE_START_DATE, ALPACA_HISTORY_START)"
    if day.isoformat() > keys[-1]:
        return f"the newest session that has closed and can be had is {keys[-1]}"
    return f"it is no trading session ({day:%A})"


@contextmanager
def _plain_errors() -> Iterator[None]:
    """What a person can mend is told without a stack trace."""
    try:
        yield
    except _MENDABLE as error:
        _tell(err, f"error: {error}")
        raise typer.Exit(2) from error


_MENDABLE = (
    SettingsError,
    StoreError,
    WrongLakeError,
    BrokenFileError,
    CollectionError,
    market_calendar.OutsideCalendar,
    OSError,
)


def _tell(console: Console, text: str) -> None:
    """Print as it is: no markup, and no line broken in a command or a path to be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(app())
