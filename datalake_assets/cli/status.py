"""`datalake status`: the state of the lake, and the commands that fix what is wrong.

Belongs here: the overview as lines in a terminal, and as JSON. Does not belong here: the state of
the lake (`overview.numbers`, which the report's page and asset use, too).
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

from datalake_assets.automation import due
from datalake_assets.cli.arguments import Json, existing_lake, load_settings, open_lake
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
from datalake_assets.collection.progress import many
from datalake_assets.overview.minutes import MinuteNumbers
from datalake_assets.overview.numbers import (
    ABSENT_FOR,
    TRADED_FOR,
    Health,
    LakeStatus,
    NextSession,
    Overview,
    SessionState,
    YearNumbers,
    overview,
    restated_rows,
    written,
)
from datalake_assets.overview.securities import SecurityNews

_STEPS = 10
_NAMES = 12
_RESTATED = 3
_WARNED = 2
_REASONS = 3
_SPARKS, _FEWEST_SPARKS = 14, 4

_MAP_WIDTH = 80
"""The width of a year's line with one character per week, including its numbers."""

_COLOURS = {Health.GOOD: "green", Health.UNFINISHED: "yellow", Health.BAD: "red"}

_CODES = {LakeStatus.WHOLE: 0, LakeStatus.BROKEN: 1, LakeStatus.LAGGING: 3}
"""Exit codes of `--check`; 2 is for wrong input, as everywhere."""

_LEGEND = (
    ("█", "green", "all published"),
    ("▓", "yellow", "some symbols to retry"),
    ("▒", "red", "some sessions missing"),
    ("!", "magenta", "did not pass its audit"),
    ("×", "red", "missing"),
    ("·", "", "not collected or not due yet"),
)
"""The characters for a week, their colours and their meanings."""


def status(
    as_json: Json = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="For cron: set the exit code by whether the newest session is published and "
            "nothing is missing.",
        ),
    ] = False,
) -> None:
    """Show the state of the lake: coverage, gaps, failures, the newest session, what to do.

    Exit codes with --check: 0 the newest session is published, and no session since the lake's
    first one is missing, failed or damaged; 1 at least one is; 3 none is, but some symbols must be
    retried, or per-symbol files or securities are out of date; 2 wrong input, or no lake.
    Neither history before the lake's first session nor an open decision counts.
    """
    with plain_errors():
        settings = load_settings()
        now = datetime.now(UTC)
        lake = existing_lake(settings) if check else open_lake(settings)
        with working("reading the lake"):
            found = overview(
                lake,
                first=settings.first_session,
                due=(now - due.PARTITION_APPEARS).date(),
                now=now,
                requests_per_minute=settings.requests_per_minute,
                chosen=settings.read_symbols(),
                weekly=settings.running_year == "weekly",
                minutes=settings.minutes != "off",
                minute_symbols=settings.read_symbols(minutes=True),
                following=NextSession(
                    *due.following(now, timedelta(minutes=settings.collect_after_minutes))
                ),
            )
        if as_json:
            out.print_json(json.dumps(as_dict(found)))
        else:
            show(found)
    if check:  # an open decision is not an error
        raise typer.Exit(_CODES[found.status])


def show(found: Overview) -> None:
    """Print the overview. It fits 80 columns, except for commands, which are never wrapped."""
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
    for text in _details(found):
        tell(out, text)
    steps = [*found.steps, *found.decisions]
    for step in steps[:_STEPS]:
        typed = f"  →  {command()} {step.command}" if step.command else ""
        tell(out, f"{step.why}{typed}")
    if len(steps) > _STEPS:
        tell(out, f"… and {len(steps) - _STEPS:,} more: {command()} status --json")


def _heatmap(found: Overview) -> Iterator[Text]:
    """A line per year with a character per week, or per two weeks in a narrow terminal."""
    each = 1 if not out.is_terminal or out.width >= _MAP_WIDTH else 2
    columns = -(-53 // each)
    months = [" "] * columns
    for number in range(12):
        months[round(number * columns / 12)] = "JFMAMJJASOND"[number]
    yield Text(f"     {''.join(months)} {'published':>10}  success", "dim")
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
        Text.assemble((sign, colour), f" {meaning}")
        for sign, colour, meaning in _LEGEND
        if sign in used
    )


def _year(year: YearNumbers) -> str:
    # The share is rounded down, and shortened to fit.
    answered = written(year.answered, "share").replace(" ", "") if year.published else ""
    return f" {year.published:>4,} of {year.due:>3,} {answered:>8}"


def _weeks(states: Mapping[date, SessionState], each: int = 1) -> list[str]:
    """The character for each of a year's 53 weeks, or for each group of `each` weeks."""
    day = next(iter(states))
    monday = date(day.year, 1, 1) - timedelta(days=date(day.year, 1, 1).weekday())
    weeks: list[list[SessionState]] = [[] for _ in range(-(-53 // each))]
    for day, state in states.items():
        # A year can span 54 weeks, with a single day in the last.
        weeks[min(52, (day - monday).days // 7) // each].append(state)
    return [_week(week) for week in weeks]


def _week(states: Sequence[SessionState]) -> str:
    """The character for a week: that of its worst session."""
    known = [s for s in states if s not in (SessionState.NOT_DUE, SessionState.NOT_COLLECTED)]
    if not known:
        return "·" if states else " "
    if SessionState.INCOMPLETE in known:
        return "!"
    if SessionState.MISSING in known:
        return "×" if set(known) == {SessionState.MISSING} else "▒"
    return "▓" if SessionState.FLAWED in known else "█"


def _show_newest(found: Overview) -> None:
    """The newest session compared with those before; sparklines shrink in a narrow terminal."""
    lengths = range(_SPARKS, _FEWEST_SPARKS, -1)
    sparks = next((n for n in lengths if fits(_comparison(found, n))), _FEWEST_SPARKS)
    show_table(_comparison(found, sparks), spare=1)


def _comparison(found: Overview, sparks: int) -> Table:
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


def _details(found: Overview) -> Iterator[str]:
    if following := found.following:
        yield f"next session: {following.session}, due {following.at:%Y-%m-%d %H:%M} UTC"
    if minutes := found.minutes:
        yield f"minute bars: {minutes.sentence}"
        if minutes.newest:
            size = written(minutes.size, "bytes")
            yield (
                f"minute bars of {minutes.newest}: {minutes.rows_newest:,} of "
                f"{many(minutes.symbols, 'symbol')}; of all sessions {minutes.rows:,}, {size}"
            )
    if found.stopped:
        names = ", ".join(each.symbol for each in found.stopped[:_NAMES])
        more = f" and {len(found.stopped) - _NAMES:,} more" if len(found.stopped) > _NAMES else ""
        yield (
            f"stopped trading: {len(found.stopped):,} traded in each of {TRADED_FOR} sessions but "
            f"in none of the newest {ABSENT_FOR}: {names}{more}"
        )
    for reason in found.reasons[:_REASONS]:
        yield str(reason)
    if len(found.reasons) > _REASONS:
        more = many(len(found.reasons) - _REASONS, "more error")
        yield f"… and {more}: {command()} status --json"
    if found.unlisted:
        names = ", ".join(found.unlisted[:_NAMES])
        more = f" and {len(found.unlisted) - _NAMES:,} more" if len(found.unlisted) > _NAMES else ""
        yield (f"not on the source's list: {names}{more}; check DATALAKE_SYMBOLS")
    if found.listed:
        days = f"{found.listed.before} to {found.listed.after}"
        yield f"list of assets, {days}: {found.listed.told}"
    for warning in found.price_warnings[:_WARNED]:
        names = f": {', '.join(warning.symbols[:_NAMES])}" if warning.symbols else ""
        yield f"{warning.session}: {warning.detail}{names}"
    if len(found.price_warnings) > _WARNED:
        earlier = many(len(found.price_warnings) - _WARNED, "earlier session")
        yield f"… and {earlier} with impossible prices"
    changed = restated_rows(found.restatements)
    for row, what in changed[:_RESTATED]:
        at = f"{row['changed_at']:%Y-%m-%d %H:%M} UTC"
        yield f"{row['change']}: {row['symbol']} of {row['session']}, {at}: {what}"
    if len(changed) > _RESTATED:
        yield "… and earlier ones: see the report, or data/ticks/restatements in the lake"
    if news := found.securities:
        yield from _of_securities(news)
    if usage := found.usage:
        rate = f"the {usage.per_minute:,} per minute that ALPACA_REQUESTS_PER_MINUTE allows"
        share = "" if usage.share is None else f", {usage.share:.0%} of {rate}"
        yield (
            f"requests on {usage.day} (UTC): {usage.requests:,} in {usage.minutes:,.1f} minutes of "
            f"collecting{share}"
        )


def _of_securities(news: SecurityNews) -> Iterator[str]:
    """One or two lines: recent changes of securities, and unexplained jumps."""
    parts = [
        *(f"{one.symbol} {one.what}" for one in news.splits[:3]),
        *(f"{one.symbol} {one.what}" for one in news.changed[:3]),
    ]
    more = len(news.splits) + len(news.changed) - len(parts)
    parts += [many(news.dividends, "dividend")] if news.dividends else []
    parts += [f"{more:,} more in the report"] if more else []
    if parts:
        yield f"securities since {news.since}: {'; '.join(parts)}"
    if news.suspected:
        first = news.suspected[0]
        of = f" (of {len(news.suspected):,})" if news.suspected[1:] else ""
        yield f"unexplained{of}: {first.what}"


def _of_minutes(minutes: MinuteNumbers) -> dict[str, Any]:
    return {
        "turned_on": minutes.wanted,
        "first": minutes.first and minutes.first.isoformat(),
        "newest": minutes.newest and minutes.newest.isoformat(),
        "sessions_expected": minutes.due,
        "sessions_published": minutes.published,
        "sessions_incomplete": minutes.incomplete,
        "sessions_missing": minutes.missing,
        "symbols_newest": minutes.symbols,
        "bars_newest": minutes.rows_newest,
        "bars": minutes.rows,
        "bytes": minutes.size,
        "to_repair": [day.isoformat() for day in minutes.to_repair],
        "narrow": [day.isoformat() for day in minutes.narrow],
        "damaged": [day.isoformat() for day in minutes.damaged],
        "gaps": [
            {"from": start.isoformat(), "to": end.isoformat(), "sessions": count}
            for start, end, count in minutes.gaps
        ],
        "years": [asdict(year) for year in minutes.years],
    }


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
                "to_retry": year.failed,
                "symbol_years_behind": year.behind,
                "symbol_years_whole": year.whole,
                "symbol_years_follow": year.follows and year.follows.isoformat(),
                "year_file_behind": year.file_behind,
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
        "minutes": found.minutes and _of_minutes(found.minutes),
        "stopped_trading": found.stopped
        if found.stopped is None
        else [asdict(each) | {"last": each.last.isoformat()} for each in found.stopped],
        "next_session": found.following
        and {
            "session": found.following.session.isoformat(),
            "due": found.following.at.isoformat(),
        },
        "list_of_assets": found.listed
        and asdict(found.listed)
        | {
            "before": found.listed.before.isoformat(),
            "after": found.listed.after.isoformat(),
        },
        "price_warnings": [
            asdict(each) | {"session": each.session.isoformat()} for each in found.price_warnings
        ],
        "requests": found.usage and asdict(found.usage) | {"day": found.usage.day.isoformat()},
        "restatements": [
            {
                "symbol": row["symbol"],
                "session": row["session"].isoformat(),
                "change": row["change"],
                "changed_at": row["changed_at"].isoformat(),
                "what": what,
            }
            for row, what in restated_rows(found.restatements)
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
