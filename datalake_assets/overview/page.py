"""The page: the overview as one HTML file that needs nothing else.

Belongs here: layout and wording of the page. Does not belong here: the state of the lake
(`numbers`), shapes (`pictures`).

No script and no request: it opens from a bucket, an email or a disk, and depends on nothing else
that could be gone in ten years.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from datalake_assets.collection.bars import price_text
from datalake_assets.overview import pictures
from datalake_assets.overview.numbers import (
    ABSENT_FOR,
    COMPARED,
    TRADED_FOR,
    Overview,
    SessionNumbers,
    SessionState,
    restated_rows,
    written,
)
from datalake_assets.overview.securities import LISTED

if TYPE_CHECKING:
    import jinja2

_LISTED = 50
"""The most rows of a list. The page says how many more there are."""

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


def render(overview: Overview, program: str = "datalake") -> str:
    """The page, as HTML.

    Args:
        overview: What it shows.
        program: The name of the program in the commands shown.
    """
    from markupsafe import Markup

    years = [
        (year, [_drawn(half) for half in pictures.calendar(year.year, _of(overview, year.year))])
        for year in reversed(overview.years)
    ]
    charts = _charts(overview)
    return (
        _environment()
        .get_template("report.html")
        .render(
            overview=overview,
            program=program,
            colours=pictures.COLOURS,
            outline=Markup(pictures.OUTLINE),
            shapes=Markup(pictures.shapes()),
            legend=[
                (state, Markup(pictures.sample(state)), overview.counts[state])
                for state in SessionState
            ],
            years=years,
            months=_MONTHS,
            by_month={year.year: _by_month(_of(overview, year.year)) for year in overview.years},
            spans=_spans(overview.states),
            charts=[(chart, Markup(chart.svg)) for chart in charts],
            history=overview.history,
            restated=restated_rows(overview.restatements),
            compared=COMPARED,
            traded_for=TRADED_FOR,
            absent_for=ABSENT_FOR,
            listed=_LISTED,
            news=overview.securities,
            news_listed=LISTED,
            written=written,
            price=price_text,
            day=_day,
        )
    )


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
    return [
        _chart(name, unit, [value(each) if each else None for each in history], limit, missing)
        for name, unit, value, limit in kinds
    ]


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
    svg = pictures.line(
        f"chart-{name.lower().replace(' ', '-')}",
        f"{name} of the newest {len(values)} sessions: {lowest} to {highest}, the last {last}",
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
