"""`datalake doctor`: check every object of the lake for damage and contradictions.

Belongs here: showing the examination, and comparing the lake with Dagster's records. Not here:
checking objects (`lake.examination`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

import typer

from datalake_assets import market_calendar
from datalake_assets.catalog import CatalogError, difference
from datalake_assets.cli.arguments import (
    Json,
    is_there,
    load_settings,
    open_lake,
    partitions,
    show_lake,
)
from datalake_assets.cli.runs import dagster_home, instance
from datalake_assets.cli.terminal import (
    TerminalDisplay,
    command,
    err,
    out,
    plain_errors,
    tell,
    working,
)
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, MINUTE
from datalake_assets.collection.progress import Snapshot
from datalake_assets.collection.report import Reason, joined
from datalake_assets.lake.coverage import coverage_between
from datalake_assets.lake.derived import subjects
from datalake_assets.lake.examination import (
    Defect,
    Examination,
    Progress,
    Subject,
    examine,
    removal,
    spans,
)
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.projection import Projection
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.pipeline.witness import read_testimony
from datalake_assets.securities.findings import read_findings
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError

_Known = tuple[set[str], set[str], set[str], set[str]]
"""Keys of sessions, of those of minute bars, and of years."""

_SHOWN = 20
"""How many defects with the same repair are listed; `--json` lists all."""


def doctor(
    year: Annotated[
        int | None, typer.Option(metavar="YYYY", help="Only the sessions and files of one year.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every object of the lake, both layouts, and Dagster's records; say how to repair each.

    Exit code 1 if something needs repair, 2 if there is no lake. Nothing is changed.
    """
    with plain_errors():
        settings = load_settings()
        lake = open_lake(settings)
        if not as_json:
            show_lake(lake)
        known = _known()
        if not is_there(lake) and not lake.store.list() and not any(known):
            # A mistyped DATALAKE_URI must not look like a lake without defects.
            raise NotInLakeError(
                f"there is no lake at {lake.store.uri} and no record of one: correct DATALAKE_URI, "
                "or create one with datalake demo or datalake backfill"
            )
        if year is not None and year not in _years(lake):
            raise typer.BadParameter(f"{lake.store.uri} has no data for {year}")
        examinations = []
        with working("checking the lake") as display:
            for one in _all(lake, settings, year, known, _shown_on(display)):
                examinations.append(one)
                display.clear()
                if not as_json:
                    _show(one)
        minutes = settings.minutes != "off"
        defects = [defect for one in examinations if one.counted for defect in one.defects]
        uncounted = [defect for one in examinations if not one.counted for defect in one.defects]
        failed = _failed([lake, *([lake.of(MINUTE)] if minutes else [])], year)
        unfinished = _unfinished(lake.of(MINUTE), year) if minutes else []
        undecided = _undecided(lake) if year is None else []
        if as_json:
            out.print_json(json.dumps(_as_json(lake, examinations, failed, undecided, unfinished)))
        else:
            _tell(defects)
            if failed:
                tell(out, f"\nnot damaged, but symbols to retry ({command()} status says how):")
            for reason in failed[:_SHOWN]:
                tell(out, str(reason))
            _tell_unfinished(unfinished)
            _tell_uncounted(uncounted)
            _tell_undecided(undecided)
    raise typer.Exit(1 if defects else 0)


def _failed(lakes: Sequence[LakeFiles], year: int | None) -> tuple[Reason, ...]:
    """Why symbols failed in the sessions. A session with failed symbols is not damaged."""
    span = () if year is None else (date(year, 1, 1), date(year, 12, 31))
    return joined(reason for each in lakes for reason in coverage_between(each, *span).reasons)


def _unfinished(lake: LakeFiles, year: int | None) -> list[date]:
    """The sessions of minute bars to repair: incomplete, or with failed or pending symbols."""
    span = () if year is None else (date(year, 1, 1), date(year, 12, 31))
    return coverage_between(lake, *span).to_repair


def _tell_unfinished(days: Sequence[date]) -> None:
    typed = f"{command()} collect --minutes --session"
    lines = [f"minute bars of {day} are incomplete\n  →  {typed} {day} --repair" for day in days]
    _tell_some("not damaged, but minute bars to repair:", lines, "status --json")


def _tell_uncounted(defects: Sequence[Defect]) -> None:
    lines = [f"{defect.where}: {defect.what}" for defect in defects]
    head = "not counted, as minute bars are turned off (DATALAKE_MINUTES):"
    _tell_some(head, lines, "doctor --json")


def _tell_some(head: str, lines: Sequence[str], every: str) -> None:
    """Tell the first of some lines below a heading, and which command tells every one."""
    if lines:
        tell(out, f"\n{head}")
    for line in lines[:_SHOWN]:
        tell(out, line)
    if len(lines) > _SHOWN:
        tell(out, f"… and {len(lines) - _SHOWN:,} more: {command()} {every}")


def _undecided(lake: LakeFiles) -> list[dict[str, Any]]:
    """The open decisions, the newest first. They are not damage."""
    try:
        found = read_findings(lake.store)
    except BrokenFileError:
        return []  # reported as damaged
    waiting = found.filter(found["undecided"])
    rows: list[dict[str, Any]] = waiting.sort_by(
        [("session", "descending"), ("symbol", "ascending")]
    ).to_pylist()
    return rows


def _tell_undecided(undecided: Sequence[dict[str, Any]]) -> None:
    lines = [f"{row['what']}\n  {row['decide']}" for row in undecided]
    head = "not damaged, but waiting for your decision; not applied until then:"
    _tell_some(head, lines, "decide")


def _years(lake: LakeFiles) -> set[int]:
    both = (lake, lake.of(MINUTE))
    days = [day for each in both for day in (*each.sessions(), *each.incomplete())]
    return {day.year for day in days} | set(SymbolYears(lake.store).years())


def _all(
    lake: LakeFiles, settings: Settings, year: int | None, known: _Known, progress: Progress
) -> Iterator[Examination]:
    besides = [*subjects(lake, Clock().now()), _testimony(lake), _catalog(lake)]
    yield from examine(
        lake,
        None if year is None else [year],
        progress,
        besides=besides,
        weekly=settings.running_year == "weekly",
        minutes=settings.minutes != "off",
    )
    yield _records(lake, settings, year, known)


def _testimony(lake: LakeFiles) -> Subject:
    """The source's values for the comparison: fetched again if they can't be read."""

    def look(progress: Progress) -> tuple[int, list[Defect]]:
        there = layout.TESTIMONY in lake.store.list(layout.SECURITIES)
        if not there or read_testimony(lake.store):
            return int(there), []
        what = "it can't be read; without it, the values are fetched again"
        where = lake.store.url(layout.TESTIMONY)
        return 1, [Defect(where, what, removal(lake.store, layout.TESTIMONY))]

    return Subject("comparison with the source", look, layout.TESTIMONY.__eq__)


def _catalog(lake: LakeFiles) -> Subject:
    """The views for DuckDB, which each publication of a year writes again."""

    def look(progress: Progress) -> tuple[int, list[Defect]]:
        if not lake.store.exists(layout.CATALOG):
            return 0, []
        where = lake.store.url(layout.CATALOG)
        try:
            wrong = difference(lake.store)
        except CatalogError as error:
            tell(err, f"{where} was not checked: {error}")
            return 0, []
        except (BrokenFileError, NotInLakeError):
            return 1, []  # of a year file, which is told already; or there is nothing to show
        return 1, [Defect(where, wrong, "datalake catalog")] if wrong else []

    return Subject("catalog for DuckDB", look, layout.CATALOG.__eq__)


def _known() -> _Known:
    """The sessions and years that Dagster has as materialized; none without its records."""
    if not (dagster_home() / "dagster.yaml").exists():
        return set(), set(), set(), set()  # a check must not create them
    from datalake_assets.assets import session_ticks, symbol_year_ticks, year_ticks

    with instance() as records:
        return (
            set(records.get_materialized_partitions(session_ticks.DAILY_TICKS)),
            set(records.get_materialized_partitions(session_ticks.MINUTE_TICKS)),
            set(records.get_materialized_partitions(symbol_year_ticks.KEY)),
            set(records.get_materialized_partitions(year_ticks.KEY)),
        )


def _records(lake: LakeFiles, settings: Settings, year: int | None, records: _Known) -> Examination:
    """Compare the lake with what Dagster has as materialized."""
    began = time.monotonic()
    all_days = [date.fromisoformat(key) for key in partitions(settings)]
    days = [day for day in all_days if year in (None, day.year)]
    known, known_minutes, *known_years = records
    count = 0
    defects: list[Defect] = []
    datasets = [(lake, known)]
    if settings.minutes != "off":
        datasets.append((lake.of(MINUTE), known_minutes))
    for each, keys in datasets:
        held, told = set(each.sessions()), {day for day in days if day.isoformat() in keys}
        here = {day for day in days if day in held}
        count += len(told | here)
        defects += _differences(each, here - told, told - held, all_days)
    projections: list[tuple[str, str, Projection]] = [
        ("symbol-years", "published per symbol", SymbolYears(lake.store)),
        ("year file", "published", YearFiles(lake.store)),
    ]
    for (name, how, projection), its_years in zip(projections, known_years, strict=True):
        published = {str(one) for one in projection.years() if year in (None, one)}
        told_years = {key for key in its_years if year is None or key == str(year)}
        count += len(published | told_years)
        for years, what in (
            (published - told_years, f"{how}, but not in Dagster's records"),
            (told_years - published, "materialized in Dagster's records, but not in the lake"),
        ):
            defects += [
                Defect(f"{name} of {one}", what, f"datalake publish --year {one}")
                for one in sorted(years)
            ]
    return Examination("Dagster's records", count, defects, time.monotonic() - began)


def _differences(
    lake: LakeFiles, unknown: set[date], gone: set[date], among: Sequence[date]
) -> Iterator[Defect]:
    """Sessions of a dataset that Dagster's records or the lake lack."""
    daily = lake.dataset is DAILY
    named, option = ("", "") if daily else (f"{lake.dataset.bars_of} of ", " --minutes")
    for first, last in spans(unknown, among):
        yield Defect(
            f"{named}{_named(first, last)}",
            "published, but not in Dagster's records",
            f"datalake backfill{option} --from {first} --to {last}",
        )
    for first, last in spans(gone, among):
        span = market_calendar.options(first, last)
        yield Defect(
            f"{named}{_named(first, last)}",
            "materialized in Dagster's records, but not in the lake",
            f"datalake collect{option} {span}",
        )


def _named(first: date, last: date) -> str:
    return f"session {first}" if first == last else f"sessions {first} to {last}"


def _shown_on(display: TerminalDisplay) -> Progress:
    """Shows what is being checked, if there is a terminal."""

    def show(subject: str, done: int, count: int) -> None:
        if err.is_terminal:
            display.show(Snapshot(f"{subject}: {done:,} of {count:,}"), final=False)

    return show


def _show(one: Examination) -> None:
    wrong = f", {len(one.defects):,} wrong" if one.defects else ""
    sign = "✓" if not one.defects else "✗" if one.counted else "·"
    tell(out, f"{sign} {one.subject}: {one.count:,} checked{wrong} ({one.seconds:,.1f} s)")


def _tell(defects: Sequence[Defect]) -> None:
    """Print the defects in the order of repair, with each command once."""
    by_repair: dict[str, list[Defect]] = {}
    for defect in defects:
        by_repair.setdefault(defect.repair, []).append(defect)
    for repair, found in by_repair.items():
        tell(out, "")
        for defect in found[:_SHOWN]:
            tell(out, f"{defect.where}: {defect.what}")
        if len(found) > _SHOWN:
            tell(out, f"… and {len(found) - _SHOWN:,} more")
        if repair:
            tell(out, f"  →  {_as_typed(repair)}")


def _as_typed(repair: str) -> str:
    """The command with this program's name as it was called; a path may contain the name, too."""
    return re.sub(r"(^|&& )datalake ", rf"\1{command()} ", repair)


def _as_json(
    lake: LakeFiles,
    examinations: Sequence[Examination],
    failed: Sequence[Reason],
    undecided: Sequence[dict[str, Any]],
    unfinished: Sequence[date],
) -> dict[str, object]:
    return {
        "lake": lake.store.uri,
        "well": not any(one.defects for one in examinations if one.counted),
        "examinations": [asdict(one) for one in examinations],
        "failures": [asdict(reason) for reason in failed],
        "minutes_to_repair": [day.isoformat() for day in unfinished],
        "to_decide": [
            {**row, "session": row["session"] and row["session"].isoformat()} for row in undecided
        ],
    }
