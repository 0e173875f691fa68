"""`lake_report`: the state of the lake at a glance, as a page and in Dagster's UI.

Belongs here: the asset, and the numbers that Dagster keeps and plots. Does not belong here: the
state of the lake, and how it is drawn (`overview`).
"""

import base64
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from textwrap import wrap
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from datalake_assets import __version__, liveness
from datalake_assets.assets.failure import plain_failures
from datalake_assets.assets.lake_asset import OWNERS
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.assets.session_ticks import DAILY_TICKS, MINUTE_TICKS
from datalake_assets.assets.stock_universe import GROUP
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS
from datalake_assets.assets.year_ticks import KEY as YEAR_TICKS
from datalake_assets.collection.bars import price_text
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.progress import many, verb
from datalake_assets.names import OURS, Names
from datalake_assets.overview import page, pictures
from datalake_assets.overview.minutes import MinuteNumbers
from datalake_assets.overview.numbers import (
    NextSession,
    Overview,
    SessionState,
    Step,
    overview,
    restated_rows,
    written,
)
from datalake_assets.overview.runs import Runs
from datalake_assets.overview.securities import OpenFinding, SecurityEvent
from datalake_assets.overview.sizes import Sizes
from datalake_assets.partitions import TIMEZONE
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.storage import layout

KEY = dg.AssetKey("lake_report")

_NARROW = 34
"""Characters per line of text. A metadata table is as wide as its widest row, such as a path or a
table of errors, and what does not fit next to the navigation is cut off and can't be scrolled to.
In a window of 1,280 pixels 36 characters fit, if no row's name has more than 19."""

_BREAK = "\\\n"
"""A line break in markdown."""

_WHOLE_WORDS: Any = {"break_long_words": False, "break_on_hyphens": False}

_REASON = 160
"""Characters of a failed run's reason; its page in the UI has all of it."""

_AT_ONCE = 1_000
"""Dagster's UI shows markdown shorter than this at once; longer markdown takes a click."""


LatestRuns = Callable[[dg.DagsterInstance, datetime, str], Runs]
"""Reads Dagster's newest runs, at a time (UTC) and without the run of this identifier."""


def build_lake_report(
    first_session: date,
    *,
    weekly: bool = False,
    following: Callable[[datetime], NextSession] | None = None,
    latest_runs: LatestRuns | None = None,
    minutes: bool = False,
    names: Names = OURS,
) -> dg.AssetsDefinition:
    """The asset.

    Args:
        first_session: The first session that the lake should hold.
        weekly: Whether the symbol-years of the running year follow once a week.
        following: The session that is collected next, at a time (UTC).
        latest_runs: Reads the runs that the report shows.
        minutes: Whether the lake has minute bars.
        names: What the lake's definitions are called.
    """

    @dg.asset(
        key=names.key(KEY),
        deps=[
            names.key(key)
            for key in (
                *(DAILY_TICKS, *((MINUTE_TICKS,) if minutes else ())),
                *(SYMBOL_YEAR_TICKS, YEAR_TICKS, FACTORS_KEY),
            )
        ],
        group_name=names.group(GROUP),
        owners=OWNERS,
        kinds={"python", "html"},
        code_version=__version__,
        description=names.description(_DESCRIPTION),
    )
    @names.bind
    @plain_failures
    def lake_report(
        context: dg.AssetExecutionContext,
        collector: CollectorResource,
        source: SourceResource,
        lake: LakeResource,
        clock: dg.ResourceParam[Clock],
    ) -> dg.MaterializeResult[None]:
        liveness.mark(context)
        target = lake.open(source.identity)
        now = clock.now()
        found = overview(
            target,
            first=first_session,
            # The newest day whose partition window has ended.
            due=now.astimezone(ZoneInfo(TIMEZONE)).date() - timedelta(days=1),
            now=now,
            requests_per_minute=collector.requests_per_minute,
            chosen=collector.chosen_symbols,
            weekly=weekly,
            following=following(now) if following else None,
            runs=latest_runs(context.instance, now, context.run.run_id) if latest_runs else None,
            measure=True,
            minutes=minutes,
            minute_symbols=collector.chosen_for(MINUTE),
        )
        report = page.render(found).encode()
        target.store.put(layout.REPORT, report)
        return dg.MaterializeResult(
            metadata={
                **report_metadata(found),
                **_place(target.store.url(layout.REPORT)),
                "report_bytes": len(report),
            }
        )

    return lake_report


_DESCRIPTION = """\
The state of the lake and what to do next: the newest session compared with the 20 before, the next
one, failed runs, new and vanished symbols, impossible prices, actions to decide, splits,
restatements, size and growth, requests used and coverage.
The metadata is a summary. The whole report is a page in the lake, `reports/latest.html`. In a
terminal: `datalake status`.
"""


def report_metadata(found: Overview) -> dict[str, Any]:
    """The metadata of an overview in the UI: text, pictures, tables, and numbers to plot."""
    # The UI keeps this order: first the verdict and what to do, then what can be wide.
    metadata: dict[str, Any] = {
        "verdict": dg.MetadataValue.md(_verdict(found)),
        "what_to_do": dg.MetadataValue.md(_steps(found)),
        "newest_session": dg.MetadataValue.md(_newest(found)),
        "coverage": dg.MetadataValue.md(_weeks(found)),
        "coverage_by_session": dg.MetadataValue.md(_sessions(found)),
        "years": dg.MetadataValue.md(_years(found)),
    }
    if found.reasons:
        metadata["why_symbols_failed"] = dg.MetadataValue.md(
            _table(
                ["error", "symbols", "first symbols"],
                (
                    [each.error, f"{each.count:,}", ", ".join(each.symbols)]
                    for each in found.reasons
                ),
            )
        )
    if found.stopped:
        metadata["stopped_trading"] = dg.MetadataValue.md(
            _table(
                ["symbol", "last session", "last close", "last volume"],
                (
                    [each.symbol, str(each.last), price_text(each.close), f"{each.volume:,}"]
                    for each in found.stopped
                ),
            )
        )
    if following := found.following:
        due = f"{following.session}, due {following.at:%Y-%m-%d %H:%M} UTC"
        metadata["next_session"] = dg.MetadataValue.md(_narrow(due))
    if found.minutes:
        metadata["minute_bars"] = dg.MetadataValue.md(_minutes(found.minutes))
    if sizes := found.sizes:
        metadata["size_and_growth"] = dg.MetadataValue.md(_narrow(_growth(sizes)))
    if found.runs and found.runs.failed:
        metadata["failed_runs"] = dg.MetadataValue.md(
            _shown(
                f"- {run.created:%Y-%m-%d %H:%M} `{run.run_id[:8]}` {run.what} {run.span}: "
                f"{' '.join(run.reason.split())[:_REASON]}"
                for run in found.runs.failed
            )
        )
    if found.listed:
        metadata["list_of_assets"] = dg.MetadataValue.md(_narrow(found.listed.told))
    if found.price_warnings:
        metadata["impossible_prices"] = dg.MetadataValue.md(
            _table(
                ["session", "symbols", "warning"],
                (
                    [str(each.session), ", ".join((each.symbols or ())[:5]), each.detail]
                    for each in found.price_warnings
                ),
            )
        )
    if found.restatements.num_rows:
        metadata["restatements"] = dg.MetadataValue.md(
            _table(
                ["known since (UTC)", "session", "symbol", "change", "what"],
                (
                    [
                        f"{row['changed_at']:%Y-%m-%d %H:%M}",
                        str(row["session"]),
                        row["symbol"],
                        row["change"],
                        what,
                    ]
                    for row, what in restated_rows(found.restatements)
                ),
            )
        )
    if news := found.securities:
        metadata |= {
            "actions_to_decide": dg.MetadataValue.md(_open(news.undecided)),
            "unexplained_jumps": dg.MetadataValue.md(_open(news.suspected)),
            "newest_splits": dg.MetadataValue.md(_happened(news.splits)),
            "securities_changed": dg.MetadataValue.md(_happened(news.changed)),
        }
    return metadata | {name: value for name, value in _plotted(found).items() if value is not None}


def _plotted(found: Overview) -> dict[str, float | None]:
    """The numbers; None if unknown, which leaves a gap in the plot."""
    newest, usage, counts = found.newest, found.usage, found.counts
    news, minutes = found.securities, found.minutes
    return {
        "sessions_due": found.due,
        "sessions_published": found.published,
        "sessions_missing": counts[SessionState.MISSING],
        "not_collected_yet": counts[SessionState.NOT_COLLECTED],
        "sessions_incomplete": counts[SessionState.INCOMPLETE],
        "sessions_to_repair": len(found.held.to_repair),
        "sessions_narrow": len(found.narrow),
        "objects_damaged": len(found.damaged),
        "years_behind": len(found.behind),
        "things_to_do": len(found.steps),
        "rows": found.rows,
        "rows_newest": newest.rows if newest else None,
        "success_rate_newest": newest.success_rate if newest else None,
        "coverage_newest": newest.coverage if newest else None,
        "seconds_newest": newest.duration if newest else None,
        "symbols_stopped": None if found.stopped is None else len(found.stopped),
        "decisions_waiting": len(news.undecided) if news else None,
        "jumps_unexplained": len(news.suspected) if news else None,
        "price_warnings": len(found.price_warnings),
        "symbols_new": len(found.listed.new) if found.listed else None,
        "symbols_vanished": len(found.listed.vanished) if found.listed else None,
        "symbols_renamed": len(found.listed.renamed) if found.listed else None,
        "runs_failed_month": found.runs.failures if found.runs else None,
        "minute_sessions_published": minutes.published if minutes else None,
        "minute_sessions_incomplete": minutes.incomplete if minutes else None,
        "minute_sessions_missing": minutes.missing if minutes else None,
        "minute_rows": minutes.rows if minutes else None,
        "minute_symbols_newest": minutes.symbols if minutes else None,
        "minute_bytes": minutes.size if minutes else None,
        "lake_bytes": found.sizes.total if found.sizes else None,
        "bytes_per_session": found.sizes.a_session if found.sizes else None,
        "requests_last_day": usage.requests if usage else None,
        "share_of_plan": usage.share if usage else None,
    }


def _place(url: str) -> dict[str, Any]:
    # The UI copies a path; only what a browser can open is shown as a link.
    shown = dg.MetadataValue.url(url) if url.startswith("http") else dg.MetadataValue.path(url)
    return {"dagster/uri": url, "report": shown}


def _weeks(found: Overview) -> str:
    """A small picture of the history, embedded in markdown, which the UI shows inline."""
    drawn = base64.b64encode(pictures.weeks(found.states)).decode()
    years = [year.year for year in reversed(found.years)]
    rows = f"{years[0]} to {years[-1]}, one row per year" if years[1:] else f"{years[0]}"
    legend = _narrow(f"{rows}, one column per week")
    return f"![{_alternative(found)}](data:image/png;base64,{drawn})\n\n{legend}"


def _sessions(found: Overview) -> str:
    """The picture with every session and its legend."""
    title = _alternative(found)
    drawn = base64.b64encode(pictures.history(found.states, title).encode()).decode()
    return f"![{title}](data:image/svg+xml;base64,{drawn})"


def _alternative(found: Overview) -> str:
    are = verb(found.published, of=found.due)
    return f"{found.published:,} of {many(found.due, 'session')} {are} published"


def _verdict(found: Overview) -> str:
    headline = _BREAK.join(f"**{line}**" for line in wrap(found.headline, _NARROW))
    return f"{headline}{_BREAK}{_narrow(found.sentence)}"


def _steps(found: Overview) -> str:
    both = (*found.steps, *found.decisions)
    return _shown(map(_step, both), between="\n\n")


def _step(step: Step) -> str:
    """The reason and the command; a command is wrapped only between words."""
    typed = wrap(f"datalake {step.command}", _NARROW, **_WHOLE_WORDS) if step.command else []
    return _BREAK.join([_narrow(step.why), *(f"`{line}`" for line in typed)])


def _narrow(text: str) -> str:
    return _BREAK.join(wrap(text, _NARROW, **_WHOLE_WORDS))


def _growth(sizes: Sizes) -> str:
    told = f"{written(sizes.total, 'bytes')} in {many(sizes.objects, 'object')}"
    if sizes.a_session is None or sizes.a_month is None:
        return told
    return (
        f"{told}; a session adds {written(sizes.a_session, 'bytes')}, "
        f"a month {written(sizes.a_month, 'bytes')}"
    )


def _years(found: Overview) -> str:
    return _table(
        ["year", "published", "bars", "success rate", "per symbol", "in one file"],
        (
            [
                f"{year.year}",
                f"{year.published:,} of {year.due:,}",
                f"{year.rows:,}",
                written(year.answered, "share"),
                year.symbol_years,
                year.year_file,
            ]
            for year in reversed(found.years)
        ),
    )


def _minutes(minutes: MinuteNumbers) -> str:
    if not minutes.years:
        return _narrow(minutes.sentence)
    return _table(
        ["year", "published", "incomplete", "missing", "bars", "size"],
        (
            [
                f"{year.year}",
                f"{year.published:,} of {year.due:,}",
                f"{year.incomplete:,}",
                f"{year.missing:,}",
                f"{year.rows:,}",
                written(year.size, "bytes"),
            ]
            for year in reversed(minutes.years)
        ),
    )


def _open(rows: Sequence[OpenFinding]) -> str:
    return _shown(f"- {row.what}. `{row.decide}`" for row in rows)


def _happened(rows: Sequence[SecurityEvent]) -> str:
    if not rows:
        return "None recently."
    lines = ([row.symbol, str(row.day), row.what] for row in rows)
    return _table(["symbol", "day", "what"], lines)


def _newest(found: Overview) -> str:
    if not found.newest:
        return "No session is published."
    before = max(len(measure.before) for measure in found.measures)
    return _table(
        [str(found.newest.session), "newest", "change", f"median of {before} before"],
        (
            [
                measure.name,
                written(measure.newest, measure.unit),
                measure.change,
                written(measure.usual, measure.unit),
            ]
            for measure in found.measures
        ),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A compact markdown table."""
    head = ["|".join(columns), "|".join(["---", *("--:" for _ in columns[1:])])]
    # A bar would end the cell; a space would let a narrow cell wrap.
    clean = str.maketrans({"|": "∣", " ": "\N{NO-BREAK SPACE}"})
    lines = ("|".join(cell.translate(clean) for cell in row) for row in rows)
    return "\n".join([*head, _shown(lines, sum(map(len, head)) + 2)])


def _shown(lines: Iterable[str], used: int = 0, between: str = "\n") -> str:
    """As many of these lines as the UI shows at once, and the number of the others."""
    kept, left = [], 0
    for line in lines:
        used += len(line) + len(between)
        if used < _AT_ONCE - 50:
            kept.append(line)
        else:
            left += 1
    if left:
        kept.append(f"… and {left:,} more, see the report")
    return between.join(kept) or "Nothing."
