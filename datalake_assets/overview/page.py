"""The page: the overview as one HTML file that needs nothing else.

Belongs here: layout and wording of the page. Does not belong here: the state of the lake
(`numbers`), shapes (`pictures`).

No script and no request: it opens from a bucket, an email or a disk, and depends on nothing else
that could be gone in ten years.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from datalake_assets.collection.bars import price_text
from datalake_assets.collection.progress import many
from datalake_assets.overview import pictures
from datalake_assets.overview.numbers import (
    ABSENT_FOR,
    TRADED_FOR,
    Overview,
    PriceWarning,
    SessionNumbers,
    SessionState,
    YearNumbers,
    restated_rows,
    written,
)
from datalake_assets.overview.runs import Run
from datalake_assets.overview.securities import LISTED, OpenFinding, SecurityEvent
from datalake_assets.overview.sizes import (
    MEASURED,
    SESSIONS_A_MONTH,
    SESSIONS_A_YEAR,
    YearSize,
)
from datalake_assets.overview.universe import Listed

if TYPE_CHECKING:
    import jinja2

_LISTED = 50
"""The most rows of a list. The page says how many more there are."""

_LISTED_OF_A_KIND = 10
"""The most rows of a list of symbols or sessions; the names of the other symbols follow."""

_FIRST_STEPS, _MOST_STEPS = 4, 24
"""How many things to do are shown at once, and how many with a click."""

_FIRST_RUNS = 5
"""How many of the newest runs are shown without a click."""

_REASON_LINES, _WIDEST = 4, 300
"""How many lines of a failed run's reason are shown, and how many characters of each."""

_NAMED = 12
"""The most symbols that a warning names."""

_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


@dataclass(frozen=True, slots=True)
class Chart:
    """One number over the newest sessions.

    Args:
        name: What it is.
        svg: The picture.
        last, low, high: The newest, the lowest and the highest value, formatted.
        limit: The audit's threshold, formatted; empty without one.
        values: Each session's value, formatted.
    """

    name: str
    svg: str
    last: str
    low: str
    high: str
    limit: str
    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class YearSpan:
    """A year of the calendar, or several of which nothing was collected, which take one line.

    Args:
        title: The year, or the first and the last.
        published, due: Its sessions that are published, and those that should be there.
        halves: The pictures; empty for years of which nothing was collected.
        months: For each month, how many of its due sessions are published; empty for these, too.
        told: What is said of years without pictures.
        large: Whether it is drawn over the whole width: the newest year with a picture.
    """

    title: str
    published: int
    due: int
    halves: Sequence[Mapping[str, Any]]
    months: Sequence[str]
    told: str
    large: bool


def render(overview: Overview, program: str = "datalake") -> str:
    """The page, as HTML.

    Args:
        overview: What it shows.
        program: The name of the program in the commands shown.
    """
    from markupsafe import Markup

    to_do = [*overview.steps, *overview.decisions]
    charts = _charts(overview)
    spans = _spans(overview.states)
    warnings = overview.price_warnings
    return (
        _environment()
        .get_template("report.html")
        .render(
            overview=overview,
            program=program,
            colours=pictures.COLOURS,
            outline=Markup(pictures.OUTLINE),
            shapes=Markup(pictures.shapes()),
            to_do=to_do,
            # One more is shown rather than told to be there.
            first_steps=_FIRST_STEPS + (len(to_do) == _FIRST_STEPS + 1),
            most_steps=_MOST_STEPS,
            tiles=_tiles(overview),
            contents=_contents(overview),
            charts=[(chart, Markup(chart.svg)) for chart in charts],
            history=overview.history,
            measures=_measures(overview),
            runs=overview.runs,
            failed_runs=_failed_runs(overview),
            newest_runs=_newest_runs(overview),
            first_runs=_FIRST_RUNS,
            reasons=[
                (each.error, f"{each.count:,}", ", ".join(each.symbols))
                for each in overview.reasons[:_LISTED]
            ],
            warnings=warnings,
            price_warnings=[_price_warning(each) for each in warnings[:_LISTED_OF_A_KIND]],
            changes=overview.listed,
            stopped=[
                (each.symbol, each.last, price_text(each.close), f"{each.volume:,}")
                for each in (overview.stopped or ())[:_LISTED_OF_A_KIND]
            ],
            traded_for=TRADED_FOR,
            absent_for=ABSENT_FOR,
            news=overview.securities,
            news_listed=LISTED,
            restated=[
                (
                    row["symbol"],
                    row["session"],
                    f"{row['changed_at']:%Y-%m-%d %H:%M}",
                    row["change"],
                    what,
                )
                for row, what in restated_rows(overview.restatements)
            ],
            sizes=overview.sizes,
            growth=_growth(overview),
            parts=_parts(overview),
            minutes=overview.minutes,
            minute_rows=_minute_rows(overview),
            year_columns=_year_columns(overview),
            year_rows=_year_rows(overview),
            legend=[
                (state, Markup(pictures.sample(state)), overview.counts[state])
                for state in SessionState
            ],
            calendars=_calendars(overview),
            months=_MONTHS,
            spans=[(first, last, f"{count:,}", state) for first, last, count, state in spans][
                :_LISTED
            ],
            all_spans=len(spans),
            listed=_LISTED,
            listed_symbols=_LISTED_OF_A_KIND,
            symbol_rows=_symbol_rows,
            finding_rows=_finding_rows,
            event_rows=_event_rows,
            day=_day,
            count=_count,
            many=many,
            percent=_percent,
        )
    )


def _tiles(overview: Overview) -> list[tuple[str, ...]]:
    """The numbers of the first screen: a title, a value, what to know about it, and a tone."""
    newest, following, sizes, runs = (
        overview.newest,
        overview.following,
        overview.sizes,
        overview.runs,
    )
    found: list[tuple[str, ...]] = []
    if newest:
        late = newest.session != overview.newest_due
        about = f"collected {_instant(newest.collected_at)}"
        if late and overview.newest_due:
            about = f"{_day(overview.newest_due)} is due"
        found.append(("Newest session", _day(newest.session), about, "warn" if late else ""))
    if following:
        found.append(("Next session", _day(following.session), f"due {_instant(following.at)}"))
    if newest:
        bars = overview.measures[0]
        usual = f"usually {written(bars.usual, 'count')}" if bars.before else "the first session"
        found += [
            ("Bars in the newest session", f"{newest.rows:,}", usual),
            (
                "Success rate",
                written(newest.success_rate, "share"),
                f"{many(newest.requested, 'symbol')} requested",
            ),
        ]
    years = sum(1 for year in overview.years if year.published)
    found += [
        ("Sessions published", f"{overview.published:,}", f"of {overview.due:,} due"),
        ("Total bars", f"{overview.rows:,}", f"in {many(years, 'year')}"),
    ]
    if minutes := overview.minutes:
        tone = "" if minutes.whole else "warn"
        sessions = f"{minutes.published:,} of {minutes.due:,}"
        about = f"{many(minutes.rows, 'bar')}, {written(minutes.size, 'bytes')}"
        found.append(("Sessions of minutes", sessions, about, tone))
    if sizes:
        about = f"{many(sizes.objects, 'object')}"
        if sizes.a_month is not None:
            about = f"grows by {written(sizes.a_month, 'bytes')} a month"
        found.append(("Size", written(sizes.total, "bytes"), about))
    if runs:
        tone = "warn" if runs.failures else ""
        found.append(("Failed runs", f"{runs.failures:,}", f"since {_day(runs.since)}", tone))
    return found


def _contents(overview: Overview) -> list[tuple[str, str]]:
    """The sections to jump to: the name of each, and its title."""
    sections = [
        ("newest", "Newest session", overview.newest),
        ("runs", "Runs", overview.runs),
        ("failed", "Why symbols failed", overview.reasons),
        ("prices", "Impossible prices", overview.price_warnings),
        ("listed", "New and vanished", True),
        ("stopped", "Stopped trading", True),
        ("securities", "Securities and actions", overview.securities),
        ("restatements", "Restatements", True),
        ("size", "Size and growth", overview.sizes),
        ("requests", "Requests", True),
        ("minutes", "Minute bars", overview.minutes),
        ("years", "Years", True),
        ("coverage", "Coverage", True),
    ]
    return [(name, title) for name, title, there in sections if there]


def _measures(overview: Overview) -> list[tuple[str, ...]]:
    return [
        (
            _titled(measure.name),
            written(measure.newest, measure.unit),
            written(measure.usual, measure.unit),
            measure.change,
        )
        for measure in overview.measures
    ]


def _failed_runs(overview: Overview) -> list[tuple[object, ...]]:
    return [
        (
            f"{run.created:%Y-%m-%d %H:%M}",
            _named(run),
            _span(run),
            _now(overview, run),
            _shortened(run.reason),
        )
        for run in (overview.runs.failed if overview.runs else ())
    ]


def _newest_runs(overview: Overview) -> list[tuple[object, ...]]:
    from markupsafe import Markup

    outcome = Markup('<span class="outcome {0}">{0}</span>')
    return [
        (
            f"{run.created:%Y-%m-%d %H:%M}",
            _named(run),
            _span(run),
            written(run.seconds, "seconds"),
            outcome.format(run.outcome),
        )
        for run in (overview.runs.newest if overview.runs else ())
    ]


def _named(run: Run) -> object:
    from markupsafe import Markup

    return Markup("{} <code>{}</code>").format(run.what, run.run_id[:8])


def _span(run: Run) -> str:
    if len(run.partitions) < 2:
        return run.span
    return f"{run.span} ({len(run.partitions):,})"


def _now(overview: Overview, run: Run) -> str:
    """Whether what a failed run was for is there now."""
    if not run.partitions:
        return ""
    undone = overview.undone(run)
    if not undone:
        return "published"
    if len(run.partitions) == 1:
        return "not published"
    return f"{undone:,} of {len(run.partitions):,} not published"


def _shortened(reason: str) -> str:
    """The first lines of a reason."""
    lines = [line[:_WIDEST] for line in reason.splitlines() if line.strip()]
    if len(lines) > _REASON_LINES:
        lines[_REASON_LINES - 1 :] = ["… the rest is in the run's log"]
    return "\n".join(lines)


def _price_warning(warning: PriceWarning) -> tuple[object, ...]:
    if warning.symbols is None:
        return warning.session, warning.detail, "see the check valid_prices of its run"
    more = f" and {len(warning.symbols) - _NAMED:,} more" if len(warning.symbols) > _NAMED else ""
    return warning.session, warning.detail, f"{', '.join(warning.symbols[:_NAMED])}{more}"


def _symbol_rows(rows: Sequence[Listed], renamed: bool) -> list[tuple[str, ...]]:
    return [
        (each.symbol, *([each.now] if renamed else []), each.exchange, each.name) for each in rows
    ]


def _finding_rows(rows: Sequence[OpenFinding]) -> list[tuple[object, ...]]:
    from markupsafe import Markup

    return [(row.symbol, row.what, Markup("<code>{}</code>").format(row.decide)) for row in rows]


def _event_rows(rows: Sequence[SecurityEvent]) -> list[tuple[object, ...]]:
    return [(row.symbol, row.day, row.what) for row in rows]


def _growth(overview: Overview) -> list[tuple[str, ...]]:
    """The tiles of the size: today's, what is added, and what it comes to."""
    sizes = overview.sizes
    if not sizes:
        return []
    found: list[tuple[str, ...]] = [
        ("All objects", written(sizes.total, "bytes"), many(sizes.objects, "object"))
    ]
    if sizes.a_session is None or sizes.a_month is None or sizes.a_year is None:
        return found
    found += [
        (
            "A session adds",
            written(sizes.a_session, "bytes"),
            f"measured with the newest {min(MEASURED, overview.published)}",
        ),
        ("A month adds", written(sizes.a_month, "bytes"), f"{SESSIONS_A_MONTH} sessions"),
        (
            "In a year",
            written(sizes.total + sizes.a_year, "bytes"),
            f"{SESSIONS_A_YEAR} sessions at this rate",
        ),
    ]
    return found


def _parts(overview: Overview) -> list[tuple[str, ...]]:
    sizes = overview.sizes
    if not sizes or not sizes.total:
        return []
    return [
        (
            _titled(part.name),
            f"{part.objects:,}",
            written(part.size, "bytes"),
            _percent(part.size / sizes.total),
        )
        for part in sizes.parts
    ]


def _year_columns(overview: Overview) -> list[tuple[str, str]]:
    columns = [
        ("Year", ""),
        ("Published", "n"),
        ("Bars", "n"),
        ("Success rate", "n"),
        ("To retry", "n"),
        ("Per-symbol files", "after"),
        ("Year file", "after"),
    ]
    if overview.sizes:
        columns += [("Size of sessions", "n"), ("Size per symbol", "n"), ("Size of file", "n")]
    return columns


def _year_rows(overview: Overview) -> list[tuple[str, ...]]:
    """The years, newest first; those of which nothing was collected are one row."""
    rows = []
    for untouched, run in groupby(reversed(overview.years), key=_is_untouched):
        years = list(run)
        if untouched:
            due = sum(year.due for year in years)
            row = [_title(years), f"0 of {due:,}", "0", "–", "0", "–", "–"]
            rows.append((*row, *(["–"] * 3 if overview.sizes else [])))
            continue
        for year in years:
            row = [
                f"{year.year}",
                f"{year.published:,} of {year.due:,}",
                f"{year.rows:,}",
                written(year.answered, "share"),
                f"{year.failed:,}",
                year.symbol_years,
                year.year_file,
            ]
            if overview.sizes:
                size = overview.sizes.years.get(year.year, YearSize())
                each = (size.sessions, size.symbol_years, size.file)
                row += [written(one, "bytes") for one in each]
            rows.append(tuple(row))
    return rows


def _minute_rows(overview: Overview) -> list[tuple[str, ...]]:
    """The years of minute bars, newest first."""
    return [
        (
            f"{year.year}",
            f"{year.published:,} of {year.due:,}",
            f"{year.incomplete:,}",
            f"{year.missing:,}",
            f"{year.rows:,}",
            written(year.size, "bytes"),
        )
        for year in reversed(overview.minutes.years if overview.minutes else ())
    ]


def _is_untouched(year: YearNumbers) -> bool:
    """Was nothing of a year collected, though it is due?"""
    return 0 < year.due == year.counts[SessionState.NOT_COLLECTED]


def _title(years: Sequence[YearNumbers]) -> str:
    first, last = years[-1].year, years[0].year
    return f"{first}" if first == last else f"{first} to {last}"


def _calendars(overview: Overview) -> list[YearSpan]:
    """The years to draw, newest first; those of which nothing was collected take one line."""
    found: list[YearSpan] = []
    for untouched, run in groupby(reversed(overview.years), key=_is_untouched):
        years = list(run)
        if untouched:
            due = sum(year.due for year in years)
            told = f"not collected yet: {many(due, 'session')}"
            found.append(YearSpan(_title(years), 0, due, (), (), told, False))
            continue
        for year in years:
            states = _of(overview, year.year)
            drawn = [_drawn(half) for half in pictures.calendar(year.year, states)]
            large = not any(each.large for each in found)
            title, months = f"{year.year}", _by_month(states)
            found.append(YearSpan(title, year.published, year.due, drawn, months, "", large))
    return found


def _count(number: int) -> str:
    return f"{number:,}"


def _titled(name: str) -> str:
    return name[:1].upper() + name[1:]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _instant(at: datetime) -> str:
    """An instant such as 3 Jul, 22:00 UTC, with non-breaking spaces."""
    return f"{at.day} {at:%b, %H:%M} UTC".replace(" ", "\N{NO-BREAK SPACE}")


def _day(day: date) -> str:
    """A date such as 3 Jul 2024, with non-breaking spaces."""
    return f"{day.day}\N{NO-BREAK SPACE}{day:%b}\N{NO-BREAK SPACE}{day.year}"


def _drawn(half: pictures.HalfYear) -> dict[str, Any]:
    from markupsafe import Markup

    # Made from dates and states only: nothing needs escaping.
    return {"svg": Markup(half.svg), "columns": half.columns, "months": half.months}


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("datalake_assets", "overview"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _of(overview: Overview, year: int) -> dict[date, SessionState]:
    return {day: state for day, state in overview.states.items() if day.year == year}


def _by_month(states: Mapping[date, SessionState]) -> list[str]:
    """For each month, how many of its due sessions are published; empty if none is due."""
    cells = [""] * 12
    for month, days in groupby(states, key=lambda day: day.month):
        due = [states[day] for day in days if states[day] is not SessionState.NOT_DUE]
        there = sum(s in (SessionState.PUBLISHED, SessionState.FLAWED) for s in due)
        if due:
            cells[month - 1] = f"{there} of {len(due)}"
    return cells


def _spans(states: Mapping[date, SessionState]) -> list[tuple[date, date, int, SessionState]]:
    """Runs of due sessions that are missing, incomplete or to retry, the newest first."""
    found = []
    for state, run in groupby(states.items(), key=lambda each: each[1]):
        days = [day for day, _ in run]
        if state not in (SessionState.PUBLISHED, SessionState.NOT_DUE):
            found.append((days[0], days[-1], len(days), state))
    return found[::-1]


def _charts(overview: Overview) -> list[Chart]:
    history = list(overview.history.values())
    limits = overview.newest.thresholds if overview.newest else {}
    kinds: list[tuple[str, str, Callable[[SessionNumbers], float | None], float | None]] = [
        ("Bars", "count", lambda each: each.rows, None),
        ("Success rate", "share", lambda each: each.success_rate, limits.get("success_rate")),
        ("Coverage", "share", lambda each: each.coverage, limits.get("coverage")),
        ("Duration", "seconds", lambda each: each.duration, None),
    ]
    missing = [each is None for each in history]
    drawn = []
    for name, unit, value, limit in kinds:
        values = [value(each) if each else None for each in history]
        # Sessions that were collected together have no duration of their own.
        if any(each is not None for each in values):
            drawn.append(_chart(name, unit, values, limit, missing))
    return drawn


def _chart(
    name: str,
    unit: str,
    values: Sequence[float | None],
    limit: float | None,
    missing: Sequence[bool],
) -> Chart:
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    lowest, highest = (written(low, unit), written(high, unit)) if known else ("–", "–")
    last = written(values[-1] if values else None, unit)
    newest = many(len(values), "session")
    svg = pictures.line(
        f"chart-{name.lower().replace(' ', '-')}",
        f"{name} of the newest {newest}: {lowest} to {highest}, the last {last}",
        values,
        # A share is drawn on a scale that includes its threshold, so that small changes look small.
        low=low if limit is None else min(low, limit - (1 - limit) / 2),
        high=1.0 if unit == "share" else high,
        limit=limit,
        missing=missing,
    )
    return Chart(
        name=name,
        svg=svg,
        last=last,
        low=lowest,
        high=highest,
        limit="" if limit is None else written(limit, unit),
        values=[written(value, unit) for value in values],
    )
