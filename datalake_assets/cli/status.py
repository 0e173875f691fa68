"""`datalake status`: is the lake good, and what to type if it is not.

Belongs here: the overview as lines of a terminal, and as JSON. Does not belong here: what is true
of the lake (`overview.numbers`, which makes the report's page and asset, too).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from datalake_assets.automation.due import PARTITION_APPEARS
from datalake_assets.cli.arguments import Json, is_there, open_lake
from datalake_assets.cli.terminal import (
    command,
    fits,
    out,
    plain_errors,
    show_table,
    sparkline,
    tell,
    working,
)
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.overview.numbers import (
    PRINTED,
    SILENT,
    Health,
    LakeStatus,
    Overview,
    SessionState,
    YearNumbers,
    changed_values,
    overview,
    written,
)
from datalake_assets.overview.securities import SecurityNews
from datalake_assets.settings import Settings

_STEPS = 10
_NAMES = 12
_RESTATED = 3
_REASONS = 3
_SPARKS, _FEWEST_SPARKS = 14, 4

_MAP_WIDTH = 80
"""Columns that a year takes with a character for each week, its numbers included."""

_COLOURS = {Health.GOOD: "green", Health.LOOSE_ENDS: "yellow", Health.BAD: "red"}

_CODES = {LakeStatus.WHOLE: 0, LakeStatus.BROKEN: 1, LakeStatus.LAGGING: 3}
"""Exit codes of `--check`; 2 is for wrong input, as everywhere."""

_LEGEND = (
    ("█", "green", "all published"),
    ("▓", "yellow", "some symbols to ask again"),
    ("▒", "red", "some sessions missing"),
    ("!", "magenta", "did not pass its audit"),
    ("×", "red", "missing"),
    ("·", "", "not collected or not due yet"),
)
"""What stands for a week, and how it is told."""


def status(
    as_json: Json = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="For cron: tell by the exit code whether the newest session is there and all is "
            "whole.",
        ),
    ] = False,
) -> None:
    """Show whether the lake is good: coverage, gaps, failures, the newest session, what to do.

    With --check the exit code tells it: 0 the newest session is published, and no session since
    the first one of the lake is missing, failed or damaged; 1 one is; 3 none is, but some symbols
    are to be asked again, or files per symbol or securities lag behind; 2 wrong input, or no lake.
    History from before the first session of the lake does not count, nor what waits for a decision.
    """
    with plain_errors():
        settings = Settings.load()
        now = datetime.now(UTC)
        lake = open_lake(settings)
        if check and not is_there(lake):
            raise NotInLakeError(
                f"there is no lake at {lake.store.uri}: correct DATALAKE_URI, or make one: "
                "datalake demo, datalake backfill"
            )
        with working("reading the lake"):
            found = overview(
                lake,
                first=settings.first_session,
                due=(now - PARTITION_APPEARS).date(),
                now=now,
                requests_per_minute=settings.requests_per_minute,
                chosen=settings.read_symbols(),
                weekly=settings.running_year == "weekly",
            )
        if as_json:
            out.print_json(json.dumps(as_dict(found)))
        else:
            show(found)
    if check:  # a decision that waits is no fault of the lake
        raise typer.Exit(_CODES[found.status])


def show(found: Overview) -> None:
    """Print the overview; 80 columns are enough for all but commands, which are never broken."""
    tell(out, f"{found.uri}  {found.source or 'no lake yet'}")
    out.print(Text(found.headline, f"bold {_COLOURS[found.health]}"), Text(found.sentence))
    if found.years:
        out.print()
        for line in _heatmap(found):
            out.print(line, soft_wrap=True)
    if found.newest:
        out.print()
        _show_newest(found)
    out.print()
    for text in _told(found):
        tell(out, text)
    steps = [*found.steps, *found.decisions]
    for step in steps[:_STEPS]:
        typed = f"  →  {command()} {step.command}" if step.command else ""
        tell(out, f"{step.why}{typed}")
    if len(steps) > _STEPS:
        tell(out, f"… and {len(steps) - _STEPS:,} more: {command()} status --json")


def _heatmap(found: Overview) -> Iterator[Text]:
    """A line for each year, a character for each of its weeks; for two, where there is no room."""
    each = 1 if not out.is_terminal or out.width >= _MAP_WIDTH else 2
    columns = -(-53 // each)
    months = [" "] * columns
    for number in range(12):
        months[round(number * columns / 12)] = "JFMAMJJASOND"[number]
    yield Text(f"     {''.join(months)} {'published':>10} answered", "dim")
    used: set[str] = set()
    for year in found.years:
        days = {day: s for day, s in found.states.items() if day.year == year.year}
        weeks = _weeks(days, each)
        used.update(weeks)
        line = Text(f"{year.year} ")
        for sign, run in groupby(weeks):
            line.append("".join(run), next((c for s, c, _ in _LEGEND if s == sign), ""))
        yield line.append(_year(year))
    yield Text("  ").join(
        Text.assemble((sign, colour), f" {told}") for sign, colour, told in _LEGEND if sign in used
    )


def _year(year: YearNumbers) -> str:
    # Of a share, what fits; cut, not rounded, like the whole.
    answered = written(year.answered, "share").replace(" ", "") if year.published else ""
    return f" {year.published:>4,} of {year.due:>3,} {answered:>8}"


def _weeks(states: Mapping[date, SessionState], each: int = 1) -> list[str]:
    """What stands for each of the 53 weeks of a year, or for so many of them each."""
    day = next(iter(states))
    monday = date(day.year, 1, 1) - timedelta(days=date(day.year, 1, 1).weekday())
    weeks: list[list[SessionState]] = [[] for _ in range(-(-53 // each))]
    for day, state in states.items():
        # A year can touch 54 weeks, with one day in the last.
        weeks[min(52, (day - monday).days // 7) // each].append(state)
    return [_week(week) for week in weeks]


def _week(states: Sequence[SessionState]) -> str:
    """What stands for a week: the worst of its sessions."""
    known = [s for s in states if s not in (SessionState.NOT_DUE, SessionState.UNTOUCHED)]
    if not known:
        return "·" if states else " "
    if SessionState.INCOMPLETE in known:
        return "!"
    if SessionState.MISSING in known:
        return "×" if set(known) == {SessionState.MISSING} else "▒"
    return "▓" if SessionState.FLAWED in known else "█"


def _show_newest(found: Overview) -> None:
    """The newest session against those before; where there is little room, with a shorter line."""
    lengths = range(_SPARKS, _FEWEST_SPARKS, -1)
    sparks = next((n for n in lengths if fits(_against(found, n))), _FEWEST_SPARKS)
    show_table(_against(found, sparks), spare=1)


def _against(found: Overview, sparks: int) -> Table:
    assert found.newest
    before = max(len(measure.before) for measure in found.measures)
    table = Table(
        str(found.newest.session),
        "newest",
        f"median of {before}" if before else "before",
        "change",
        "",
        box=box.SIMPLE_HEAD,
    )
    for column in table.columns[1:4]:
        column.justify = "right"
    for measure in found.measures:
        values = [*measure.before, *([] if measure.newest is None else [measure.newest])]
        table.add_row(
            measure.name,
            written(measure.newest, measure.unit),
            written(measure.usual, measure.unit),
            measure.change,
            sparkline(values[-sparks:]) if len(values) > 1 else "",
        )
    return table


def _told(found: Overview) -> Iterator[str]:
    if found.silent:
        names = ", ".join(each.symbol for each in found.silent[:_NAMES])
        more = f" and {len(found.silent) - _NAMES:,} more" if len(found.silent) > _NAMES else ""
        yield (
            f"fell silent: {len(found.silent):,} printed in each of {PRINTED} sessions and in none "
            f"of the newest {SILENT}: {names}{more}"
        )
    for reason in found.reasons[:_REASONS]:
        yield str(reason)
    if len(found.reasons) > _REASONS:
        yield f"… and {len(found.reasons) - _REASONS:,} more errors: {command()} status --json"
    if found.unlisted:
        names = ", ".join(found.unlisted[:_NAMES])
        more = f" and {len(found.unlisted) - _NAMES:,} more" if len(found.unlisted) > _NAMES else ""
        yield (
            f"not on the source's list: {names}{more}; correct DATALAKE_SYMBOLS if that is wrong"
        )
    changed = changed_values(found.restatements)
    for row, what in changed[:_RESTATED]:
        at = f"{row['changed_at']:%Y-%m-%d %H:%M} UTC"
        yield f"{row['change']}: {row['symbol']} of {row['session']}, {at}: {what}"
    if len(changed) > _RESTATED:
        yield "… and earlier ones: the report, or data/ticks/restatements in the lake"
    if news := found.securities:
        yield from _of_securities(news)
    if usage := found.usage:
        share = "" if usage.share is None else f", {usage.share:.0%} of what the plan allows"
        yield (
            f"requests of {usage.day}: {usage.requests:,} in {usage.minutes:,.1f} minutes{share}"
        )


def _of_securities(news: SecurityNews) -> Iterator[str]:
    """One line or two: what happened to securities, and what nobody can explain."""
    told = [
        *(f"{one.symbol} {one.what}" for one in news.splits[:3]),
        *(f"{one.symbol} {one.what}" for one in news.changed[:3]),
    ]
    more = len(news.splits) + len(news.changed) - len(told)
    dividends = "dividend" if news.dividends == 1 else "dividends"
    told += [f"{news.dividends:,} {dividends}"] if news.dividends else []
    told += [f"{more:,} more in the report"] if more else []
    if told:
        yield f"securities since {news.since}: {'; '.join(told)}"
    if news.suspected:
        first = news.suspected[0]
        many = f" (of {len(news.suspected):,})" if news.suspected[1:] else ""
        yield f"unexplained{many}: {first.what}"


def as_dict(found: Overview) -> dict[str, Any]:
    """The overview, for scripts."""
    held = found.held
    return {
        "lake": found.uri,
        "source": found.source,
        "now": found.now.isoformat(),
        "health": found.health,
        "check": found.status,
        "headline": found.headline,
        "sentence": found.sentence,
        "sessions_expected": len(held.sessions),
        "sessions_published": len(held.published),
        "sessions_by_state": {state.name.lower(): n for state, n in found.counts.items()},
        "bars": sum(summary.rows for summary in held.published),
        "gaps": [
            {"from": start.isoformat(), "to": end.isoformat(), "sessions": count}
            for start, end, count in held.gaps
        ],
        "damaged": [damage.where for damage in found.damaged],
        "to_repair": [day.isoformat() for day in held.to_repair],
        "failures": [asdict(reason) for reason in found.reasons],
        "narrow": [{"session": day.isoformat(), **asdict(n)} for day, n in found.narrow.items()],
        "unlisted": list(found.unlisted),
        "years": [
            {
                "year": year.year,
                "due": year.due,
                "published": year.published,
                "bars": year.rows,
                "answered": year.answered,
                "to_ask_again": year.failed,
                "symbol_years_behind": year.behind,
                "symbol_years_whole": year.whole,
                "symbol_years_follow": year.follows and year.follows.isoformat(),
            }
            for year in found.years
        ],
        "newest": found.newest
        and {
            "session": found.newest.session.isoformat(),
            "measures": [
                {
                    "name": measure.name,
                    "unit": measure.unit,
                    "newest": measure.newest,
                    "median_before": measure.usual,
                    "sessions_before": len(measure.before),
                }
                for measure in found.measures
            ],
        },
        "silent": found.silent
        if found.silent is None
        else [asdict(each) | {"last": each.last.isoformat()} for each in found.silent],
        "requests": found.usage and asdict(found.usage) | {"day": found.usage.day.isoformat()},
        "restatements": [
            {
                "symbol": row["symbol"],
                "session": row["session"].isoformat(),
                "change": row["change"],
                "changed_at": row["changed_at"].isoformat(),
                "what": what,
            }
            for row, what in changed_values(found.restatements)
        ],
        "securities": found.securities
        and {
            "since": found.securities.since.isoformat(),
            "derived": found.securities.derived and found.securities.derived.isoformat(),
            **{
                name: [asdict(each) | {"day": each.day and each.day.isoformat()} for each in rows]
                for name, rows in (
                    ("changed", found.securities.changed),
                    ("splits", found.securities.splits),
                    ("undecided", found.securities.undecided),
                    ("suspected", found.securities.suspected),
                )
            },
            "dividends": found.securities.dividends,
        },
        "to_do": [
            {"why": step.why, "command": step.command and f"datalake {step.command}"}
            for step in (*found.steps, *found.decisions)
        ],
        "sessions": [
            {
                "session": summary.session.isoformat(),
                "published": published,
                **summary.counts,
                "failures": [asdict(reason) for reason in summary.reasons],
                "collected_at": summary.provenance.collected_at.isoformat(),
            }
            for published, summaries in ((True, held.published), (False, held.waiting))
            for summary in summaries
        ],
    }
