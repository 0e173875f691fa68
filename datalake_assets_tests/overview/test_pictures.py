"""The pictures are well-formed, show each session once, and can be told apart without colour."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from datetime import date
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.overview import pictures
from datalake_assets.overview.numbers import SessionState

SVG = "{http://www.w3.org/2000/svg}"
YEARS = market_calendar.sessions(date(2011, 1, 3), date(2026, 12, 31))
PUBLISHED = SessionState.PUBLISHED
WRONG = (SessionState.FLAWED, SessionState.INCOMPLETE, SessionState.MISSING)

CELL = re.compile(r"<use href=#(\w) x=(\d+)><title>(\d+ \w+)(?:: ([^<]*))?</title></use>")


def states(days: list[date], state: SessionState = PUBLISHED) -> dict[date, SessionState]:
    return dict.fromkeys(days, state)


# --- the calendar ---


@given(st.integers(2000, 2035), st.data())
def test_every_session_of_a_year_has_one_cell_in_its_week_and_weekday(
    year: int, data: st.DataObject
) -> None:
    days = market_calendar.sessions(date(year, 1, 1), date(year, 12, 31))
    kinds = data.draw(st.lists(st.sampled_from(SessionState), min_size=8, max_size=8))
    told = {day: kinds[number % 8] for number, day in enumerate(days)}
    letters = {letter: state for state, (letter, _) in pictures.SHAPES.items()}
    found: dict[date, SessionState] = {}
    for half, first in zip(pictures.calendar(year, told), (1, 7), strict=True):
        assert half.columns <= 27
        monday = date(year, first, 1).toordinal()
        monday -= min(day for day in days if day.month >= first).weekday()
        rows = re.findall(r'<g transform="translate\(0 (\d)\)">(.*?)</g>', half.svg)
        for weekday, row in rows:
            columns = [int(column) for _, column, _, _ in CELL.findall(row)]
            assert columns == sorted(set(columns))
            assert max(columns) < half.columns
            for letter, _, title, state in CELL.findall(row):
                number, month = title.split()
                day = next(d for d in days if f"{d.day} {d:%b}" == f"{number} {month}")
                assert day.weekday() == int(weekday)
                assert day not in found
                assert bool(state) == (letters[letter] in WRONG)
                found[day] = letters[letter]
    assert found == told


def test_sessions_of_one_week_stand_in_one_column() -> None:
    (half,) = pictures.calendar(
        2024, states(market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 12)))
    )
    columns = {title: int(column) for _, column, title, _ in CELL.findall(half.svg)}
    assert {columns[f"{day} Jul"] for day in (1, 2, 3, 5)} == {0}
    assert {columns[f"{day} Jul"] for day in (8, 9, 10, 11, 12)} == {1}
    assert half.months == [("Jul", 0.0)]


def test_a_half_year_without_sessions_is_left_out() -> None:
    (half,) = pictures.calendar(2026, states([date(2026, 11, 9), date(2026, 12, 1)]))
    assert half.name == "July to December 2026"
    assert [name for name, _ in half.months] == ["Nov", "Dec"]
    assert half.columns == 4


def test_the_calendar_says_in_words_how_many_sessions_are_in_which_state() -> None:
    days = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 5))
    (half,) = pictures.calendar(2024, states(days) | {days[1]: SessionState.MISSING})
    title = re.search(r'aria-labelledby="(\S+)"><title id="\1">([^<]*)</title>', half.svg)
    assert title
    assert title[2] == "July to December 2024: 3 published, 1 missing"
    assert "<title>2 Jul: missing</title>" in half.svg


def test_no_two_states_share_a_shape_or_a_letter() -> None:
    """Who sees no colours tells them apart."""
    assert set(pictures.SHAPES) == set(SessionState)
    plain = [re.sub(r"var\(--\w+\)", "", shape) for _, shape in pictures.SHAPES.values()]
    assert len(set(plain)) == len({letter for letter, _ in pictures.SHAPES.values()}) == len(plain)


# --- contrast ---


def luminance(colour: str) -> float:
    """As the WCAG define it: https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_and_white_is_21() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", pictures.COLOURS)
def test_text_and_marks_stand_out_in_both_schemes(scheme: str) -> None:
    colours = dict(pictures.COLOURS[scheme])
    card = colours.pop("card")
    least = {name: 4.5 if name in ("text", "quiet") else 3.0 for name in colours}
    found = {name: contrast(colour, card) for name, colour in colours.items()}
    assert {name: ratio for name, ratio in found.items() if ratio < least[name]} == {}


def test_every_colour_that_a_shape_uses_is_defined_in_both_schemes() -> None:
    used = set(re.findall(r"var\(--(\w+)\)", str(pictures.SHAPES)))
    for colours in pictures.COLOURS.values():
        assert used <= set(colours)
    assert pictures.COLOURS["light"].keys() == pictures.COLOURS["dark"].keys()


# --- the line ---


def line(*values: float | None, **told: object) -> ElementTree.Element:
    kept = {"low": 0.0, "high": 10.0} | told
    return ElementTree.fromstring(pictures.line("a", "b", values, **kept))  # type: ignore[arg-type]


def drawn(picture: ElementTree.Element, kind: str) -> list[str]:
    return [path.attrib["d"] for path in picture.iter("path") if path.attrib["class"] == kind]


def test_the_line_goes_from_the_first_to_the_last_value_between_bottom_and_top() -> None:
    picture = line(0.0, 10.0, 5.0)
    assert drawn(picture, "line") == ["M0 27L50 3L100 15"]
    assert drawn(picture, "last") == ["M100 15h0"]
    assert not drawn(picture, "none")


def test_a_gap_in_the_line_is_a_gap_and_a_missing_session_is_marked() -> None:
    picture = line(1.0, None, 5.0, 10.0, None, missing=[False, True, False, False, False])
    assert drawn(picture, "line") == ["M0 24.6h0", "M50 15L75 3"]
    assert drawn(picture, "none") == ["M25 30v-4"]
    assert not drawn(picture, "last"), "the newest is not known"


@pytest.mark.parametrize(
    ("limit", "at"), [(-0.1, []), (0.0, ["M0 27H100"]), (10.0, ["M0 3H100"]), (10.1, [])]
)
def test_a_limit_is_drawn_when_it_is_within_the_picture(limit: float, at: list[str]) -> None:
    assert drawn(line(1.0, 2.0, limit=limit), "limit") == at


@pytest.mark.parametrize("values", [(), (5.0,), (None,), (None, None)])
def test_few_or_no_values_are_no_error(values: tuple[float | None, ...]) -> None:
    picture = line(*values, low=5.0, high=5.0)
    assert len(drawn(picture, "line")) == (values == (5.0,))


@given(st.lists(st.one_of(st.none(), st.floats(-1e12, 1e12)), max_size=150))
def test_every_known_value_is_a_point_of_the_line_within_the_picture(
    values: list[float | None],
) -> None:
    known = [value for value in values if value is not None]
    picture = line(*values, low=min(known, default=0.0), high=max(known, default=0.0))
    points = [
        point
        for path in drawn(picture, "line")
        for point in re.findall(r"[ML](\S+) ([\d.]+)", path)
    ]
    assert len(points) == len(known)
    assert all(0 <= float(x) <= 100 and 3 <= float(y) <= 27 for x, y in points)


# --- the history ---


def area(path: str) -> int:
    return sum(int(columns) for columns in re.findall(r"h(\d+)v1H", path))


@given(st.lists(st.sampled_from(SessionState), min_size=1, max_size=400))
def test_the_history_shows_each_session_once(kinds: list[SessionState]) -> None:
    told = dict(zip(YEARS, kinds, strict=False))
    picture = ElementTree.fromstring(pictures.history(told, "t"))
    letters = {f"url(#{letter})": state for state, (letter, _) in pictures.SHAPES.items()}
    found: Counter[SessionState] = Counter()
    for path in picture.iter(f"{SVG}path"):
        if path.attrib.get("fill") in letters:
            found[letters[path.attrib["fill"]]] += area(path.attrib["d"])
    assert found == Counter(told.values())


def test_the_history_of_16_years_is_small_and_stands_by_itself() -> None:
    drawn = pictures.history(states(YEARS), "<16> years & more")
    assert len(drawn) < 10_000
    picture = ElementTree.fromstring(drawn)
    assert picture.findtext(f"{SVG}title") == "<16> years & more"
    years = [text.text for text in picture.iter(f"{SVG}text") if text.get("class") == "year"]
    assert years == [str(year) for year in range(2026, 2010, -1)]
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme:dark" in drawn


def test_every_second_session_missing_makes_no_large_picture() -> None:
    told = states(YEARS) | states(YEARS[::2], SessionState.MISSING)
    assert len(pictures.history(told, "t")) < 100_000


# --- the weeks ---


def pixels(png: bytes) -> tuple[int, list[list[int]]]:
    """The rows of a picture of at most 16 colours, as their numbers; each chunk's sum holds."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (found,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert found == zlib.crc32(kind + data)
        chunks[kind] = data
        at += length + 12
    assert list(chunks) == [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"]
    width, height, depth, kind_of_colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, kind_of_colour) == (4, 3)
    assert chunks[b"tRNS"] == b"\0", "the ground is seen through"
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = width // 2 + 1
    assert len(raw) == height * stride
    rows = [raw[start : start + stride] for start in range(0, len(raw), stride)]
    assert {row[0] for row in rows} == {0}
    return width, [
        [nibble for byte in row[1:] for nibble in (byte >> 4, byte & 15)] for row in rows
    ]


def test_the_worst_session_of_a_week_gives_it_its_colour_and_height() -> None:
    days = market_calendar.sessions(date(2023, 1, 3), date(2024, 12, 31))
    told = states(days) | {
        date(2024, 1, 10): SessionState.MISSING,
        date(2024, 1, 11): SessionState.FLAWED,
        date(2024, 1, 17): SessionState.FLAWED,
        date(2023, 12, 29): SessionState.NOT_DUE,
    }
    width, rows = pixels(pictures.weeks(told))
    assert (width, len(rows)) == (53 * 4, 2 * 12)
    colours = {state: number for number, state in enumerate(pictures._BY_WEEK, 1)}

    def cell(row: int, week: int) -> list[int]:
        return [line[week * 4 + 1] for line in rows[row * 12 : row * 12 + 12]]

    assert cell(0, 0) == [colours[PUBLISHED]] * 10 + [0, 0]
    assert cell(0, 1) == [0] * 6 + [colours[SessionState.MISSING]] * 4 + [0, 0]
    assert cell(0, 2) == [0] * 2 + [colours[SessionState.FLAWED]] * 8 + [0, 0]
    assert cell(1, 51) == [colours[PUBLISHED]] * 10 + [0, 0], "a part of it is published"
    assert all(line[week * 4 + 3] == 0 for line in rows for week in range(53)), "a gap after each"


def test_the_weeks_of_16_years_are_a_picture_of_a_few_hundred_bytes() -> None:
    holes = dict.fromkeys(YEARS[10::100], SessionState.MISSING)
    assert len(pictures.weeks(states(YEARS))) < 400
    assert len(pictures.weeks(states(YEARS) | holes)) < 680


@pytest.mark.parametrize("ground", ["#ffffff", "#171b21"])
def test_the_colours_of_the_weeks_stand_out_on_light_and_on_dark(ground: str) -> None:
    assert set(pictures._BY_WEEK) == set(SessionState)
    assert all(contrast(colour, ground) >= 3 for colour, _ in pictures._BY_WEEK.values())
    heights = [height for _, height in pictures._BY_WEEK.values()]
    assert len(set(heights)) == len(heights)
