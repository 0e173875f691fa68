"""The pictures, written as SVG and PNG.

Belongs here: shapes. Does not belong here: what they show (`numbers`), where they appear (`page`).

A plotting library would be the heaviest dependency of this program, for squares and lines.
Colours are CSS variables of the page that shows the picture. Each state also has its own shape.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from itertools import groupby

from datalake_assets.overview.numbers import SessionState

SHAPES = {
    SessionState.PUBLISHED: ("p", '<path d="M.08.08h.84v.84H.08z" fill="var(--published)"/>'),
    SessionState.FLAWED: (
        "f",
        '<path d="M.08.08H.62L.08.62zM.92.38V.92H.38z" fill="var(--flawed)"/>',
    ),
    SessionState.INCOMPLETE: ("i", '<path d="M.5.06.96.92H.04z" fill="var(--incomplete)"/>'),
    SessionState.MISSING: (
        "m",
        '<path d="M.15.15h.7v.7h-.7zl.7.7m0-.7-.7.7" class="o" stroke="var(--missing)"/>',
    ),
    SessionState.NOT_COLLECTED: (
        "u",
        '<path d="M.16.16h.68v.68H.16z" class="o" stroke="var(--later)"/>',
    ),
    SessionState.NOT_DUE: ("n", '<circle cx=".5" cy=".5" r=".13" fill="var(--later)"/>'),
}
"""For each state its letter, and its shape in a unit square; `OUTLINE` styles the class o."""

OUTLINE = ".o{fill:none;stroke-width:.13}"

COLOURS = {
    "light": {
        "card": "#ffffff",
        "text": "#1b1f24",
        "quiet": "#59626d",
        "published": "#23856a",
        "flawed": "#b26a00",
        "incomplete": "#9a3fb0",
        "missing": "#c9302c",
        "later": "#858d97",
    },
    "dark": {
        "card": "#171b21",
        "text": "#e8ebef",
        "quiet": "#a3acb8",
        "published": "#45b894",
        "flawed": "#e3a13b",
        "incomplete": "#d391e3",
        "missing": "#ff7b72",
        "later": "#7a838f",
    },
}
"""The variables, in both schemes. Contrast to the card: at least 4.5 for text, 3 for marks."""

_REMARKS = {
    SessionState.FLAWED: ": repair",
    SessionState.INCOMPLETE: ": not passed",
    SessionState.MISSING: ": missing",
}
_WEEKDAYS = 5


@dataclass(frozen=True, slots=True)
class HalfYear:
    """The sessions of half a year, as a calendar: a column for each week, Monday at the top.

    Args:
        name: Its months, in words.
        svg: The picture.
        columns: Its number of weeks.
        months: Each month that begins in it, and its distance from the left as a share.
    """

    name: str
    svg: str
    columns: int
    months: Sequence[tuple[str, float]]


def shapes() -> str:
    """The shapes that the calendars refer to; the page includes them once, before the calendars."""
    drawn = "".join(f'<g id="{letter}">{shape}</g>' for letter, shape in SHAPES.values())
    return f'<svg width="0" height="0" aria-hidden="true" class="shapes"><defs>{drawn}</defs></svg>'


def sample(state: SessionState) -> str:
    """One square of a calendar, for its legend."""
    letter, _ = SHAPES[state]
    return f'<svg viewBox="0 0 1 1" class="sample" aria-hidden="true"><use href="#{letter}"/></svg>'


def calendar(year: int, states: Mapping[date, SessionState]) -> list[HalfYear]:
    """A year in two halves, which the page shows side by side or one below the other.

    Args:
        year: The year.
        states: Its sessions, ascending; a half without any is left out.
    """
    halves = []
    for name, first, last in (
        ("January to June", date(year, 1, 1), date(year, 6, 30)),
        ("July to December", date(year, 7, 1), date(year, 12, 31)),
    ):
        days = {day: state for day, state in states.items() if first <= day <= last}
        if days:
            halves.append(_half(f"{name} {year}", f"c{year}-{first.month}", days))
    return halves


def _half(name: str, identifier: str, days: Mapping[date, SessionState]) -> HalfYear:
    monday = min(days) - timedelta(days=min(days).weekday())
    columns = (max(days) - monday).days // 7 + 1
    rows: list[list[str]] = [[] for _ in range(_WEEKDAYS)]
    months: dict[int, tuple[str, float]] = {}
    for day, state in days.items():
        column = (day - monday).days // 7
        # A page has thousands of these, so each byte counts.
        rows[day.weekday()].append(
            f"<use href=#{SHAPES[state][0]} x={column}>"
            f"<title>{day.day} {day:%b}{_REMARKS.get(state, '')}</title></use>"
        )
        months.setdefault(day.month, (f"{day:%b}", column / columns))
    cells = "".join(
        f'<g transform="translate(0 {number})">{"".join(row)}</g>'
        for number, row in enumerate(rows)
        if row
    )
    svg = (
        f'<svg viewBox="0 0 {columns} {_WEEKDAYS}" role="img" aria-labelledby="{identifier}">'
        f'<title id="{identifier}">{escape(name)}: {escape(tally(days.values()))}</title>'
        f"{cells}</svg>"
    )
    return HalfYear(name, svg, columns, list(months.values()))


def tally(states: Iterable[SessionState]) -> str:
    """The number of sessions in each state, in words."""
    found = list(states)
    parts = [f"{count:,} {state}" for state in SessionState if (count := found.count(state))]
    return ", ".join(parts)


def line(
    identifier: str,
    name: str,
    values: Sequence[float | None],
    low: float,
    high: float,
    limit: float | None = None,
    missing: Sequence[bool] = (),
) -> str:
    """A line chart over sessions, as wide as its container, with gaps where there is no value.

    Args:
        identifier: The picture's id, unique in the page.
        name: What it shows.
        values: One for each session, ascending.
        low: The value at the bottom.
        high: The value at the top.
        limit: A value to draw a line at.
        missing: For each session, whether to mark it as missing.
    """
    span = (high - low) or 1.0
    step = 100 / max(1, len(values) - 1)

    def place(value: float) -> float:
        return round(27 - (value - low) / span * 24, 2)

    drawn, number = [], 0
    for known, run in groupby(values, key=lambda value: value is not None):
        run_values = list(run)
        points = [
            f"{round((number + offset) * step, 2):g} {place(value):g}"
            for offset, value in enumerate(run_values)
            if value is not None
        ]
        if known:
            # A single point is a line of length zero; its round cap makes it visible.
            drawn.append(
                f'<path class="line" d="M{"L".join(points)}{"" if points[1:] else "h0"}"/>'
            )
        number += len(run_values)
    if any(missing):
        places = [round(at * step, 2) for at, gone in enumerate(missing) if gone]
        drawn.append(f'<path class="none" d="{"".join(f"M{x:g} 30v-4" for x in places)}"/>')
    if limit is not None and low <= limit <= high:
        drawn.insert(0, f'<path class="limit" d="M0 {place(limit):g}H100"/>')
    if values and values[-1] is not None:
        drawn.append(f'<path class="last" d="M100 {place(values[-1]):g}h0"/>' if values[1:] else "")
    return (
        f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" class="chart" '
        f'aria-labelledby="{identifier}"><title id="{identifier}">{escape(name)}</title>'
        f"{''.join(drawn)}</svg>"
    )


_BY_WEEK = {
    SessionState.NOT_DUE: ("#858d97", 1),
    SessionState.NOT_COLLECTED: ("#858d97", 2),
    SessionState.PUBLISHED: ("#23856a", 10),
    SessionState.FLAWED: ("#b26a00", 8),
    SessionState.INCOMPLETE: ("#9a3fb0", 6),
    SessionState.MISSING: ("#c9302c", 4),
}
"""Colour and height of a week whose worst session has this state (a later entry is worse). The
states can be told apart on a light and a dark background, and without colour."""


def weeks(states: Mapping[date, SessionState]) -> bytes:
    """The whole history as a PNG of a few hundred bytes: one row per year, the newest at the top.

    Dagster shows a picture without a click only when it is shorter than 1,000 characters.

    Args:
        states: Every session, ascending.
    """
    years = sorted({day.year for day in states}, reverse=True)
    order = list(_BY_WEEK)
    worst: dict[tuple[int, int], int] = {}
    for day, state in states.items():
        place = day.year, min(52, (day.timetuple().tm_yday - 1) // 7)
        worst[place] = max(worst.get(place, 0), order.index(state) + 1)
    tall, pitch, wide = 10, 12, 4
    rows = []
    for year in years:
        found = [worst.get((year, week), 0) for week in range(53)]
        for y in range(pitch):
            # Colour 0 is transparent. A cell's height shows its state; cells align at the bottom.
            row = [
                at if at and tall - _BY_WEEK[order[at - 1]][1] <= y < tall else 0 for at in found
            ]
            rows.append(
                bytes(pixel for at in row for pixel in (*[at * 17] * (wide // 2 - 1), at * 16))
            )
    palette = b"\0\0\0" + b"".join(bytes.fromhex(colour[1:]) for colour, _ in _BY_WEEK.values())
    size = struct.pack(">IIBBBBB", 53 * wide, len(rows), 4, 3, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    chunks = (
        (b"IHDR", size),
        (b"PLTE", palette),
        (b"tRNS", b"\0"),
        (b"IDAT", pixels),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def history(states: Mapping[date, SessionState], title: str) -> str:
    """The whole history as one self-contained SVG, small enough for a Dagster event.

    Args:
        states: Every session, ascending.
        title: What it shows.
    """
    pitch, label, gap, top = 6, 34, 7, 4
    years = [
        (year, dict(days)) for year, days in groupby(states.items(), lambda each: each[0].year)
    ]
    height = top + len(years) * (_WEEKDAYS * pitch + gap) + 34
    width = label + 53 * pitch + 6
    rows = []
    for number, (year, days) in enumerate(reversed(years)):
        monday = date(year, 1, 1) - timedelta(days=date(year, 1, 1).weekday())
        places: dict[SessionState, list[tuple[int, int]]] = {state: [] for state in SessionState}
        for day, state in days.items():
            places[state].append(((day - monday).days // 7, day.weekday()))
        cells = "".join(
            f'<path d="{_runs(places[state])}" fill="url(#{letter})"/>'
            for state, (letter, _) in SHAPES.items()
            if places[state]
        )
        y = top + number * (_WEEKDAYS * pitch + gap)
        rows.append(
            f'<text x="0" y="{y + 19}" class="year">{year}</text>'
            f'<g transform="translate({label} {y}) scale({pitch})">{cells}</g>'
        )
    legend: list[str] = []
    across, down = float(label), height - 26
    for state in (s for s in SessionState if s in states.values()):
        name = "to retry" if state is SessionState.FLAWED else str(state)
        room = 20 + 5.2 * len(name)
        if across + room > width:
            across, down = float(label), down + 14
        legend.append(
            f'<g transform="translate({across:g} {down}) scale(8)">{SHAPES[state][1]}</g>'
            f'<text x="{across + 11:g}" y="{down + 7.5}">{escape(name)}</text>'
        )
        across += room
    patterns = "".join(
        f'<pattern id="{letter}" width="1" height="1" patternUnits="userSpaceOnUse">{shape}'
        "</pattern>"
        for letter, shape in SHAPES.values()
    )
    schemes = {
        scheme: ";".join(f"--{name}:{value}" for name, value in values.items())
        for scheme, values in COLOURS.items()
    }
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title><style>'
        f"svg{{{schemes['light']}}}@media(prefers-color-scheme:dark){{svg{{{schemes['dark']}}}}}"
        f"{OUTLINE}"
        "text{font:9.5px system-ui,sans-serif;fill:var(--quiet)}"
        f".year{{font-size:12px;fill:var(--text)}}</style><defs>{patterns}</defs>"
        f'<rect width="{width}" height="{height}" rx="4" fill="var(--card)"/>'
        f"{''.join(rows)}{''.join(legend)}</svg>"
    )


def _runs(places: Sequence[tuple[int, int]]) -> str:
    """A path around these squares, one rectangle per run of neighbours: 8 KB instead of 80."""
    return "".join(
        f"M{first} {row}h{length}v1H{first}z"
        for row in range(_WEEKDAYS)
        for first, length in _spans([x for x, y in places if y == row])
    )


def _spans(columns: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The runs of consecutive columns, ascending: the first of each, and its length."""
    # Consecutive columns have the same difference from their rank.
    for _, run in groupby(enumerate(columns), key=lambda pair: pair[1] - pair[0]):
        found = [column for _, column in run]
        yield found[0], len(found)
