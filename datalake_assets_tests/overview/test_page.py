"""The page: one file that needs nothing else, in which nothing of the lake's texts is markup."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser

import pytest

from datalake_assets import market_calendar
from datalake_assets.lake.coverage import Held
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.overview import page
from datalake_assets.overview.numbers import (
    Damage,
    Overview,
    SessionState,
    Step,
    StoppedSymbol,
    YearNumbers,
)
from datalake_assets_tests.collection.tables import names
from datalake_assets_tests.overview.lakes import DAYS, SYMBOLS, collected, look, new_lake

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, its text, and what is unbalanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.unbalanced: list[str] = []
        self.feed(html)
        self.close()
        self.unbalanced += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    @property
    def text(self) -> str:
        shown = [text for element, text in self.texts if element not in ("style", "title")]
        return re.sub(r"\s+", " ", " ".join(shown)).replace("\N{NON-BREAKING HYPHEN}", "-")

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def whole() -> LakeWriter:
    lake = new_lake()
    for number, day in enumerate(DAYS):
        before = [SYMBOLS] if number else []
        lake.publish(
            *collected(
                day,
                SYMBOLS[: 100 - number % 3],
                before=before,
                no_print=SYMBOLS[100 - number % 3 :],
            )
        )
    SymbolYears(lake.store).publish(2024)
    return lake


@pytest.fixture(scope="module")
def good() -> Overview:
    return look(whole())


@pytest.fixture(scope="module")
def bad() -> Overview:
    lake = whole()
    for day in DAYS[-30:-20]:
        lake.store.delete(f"data/ticks/sessions/year=2024/{day}.parquet")
    lake.publish(*collected(DAYS[4], failed={"ZZZ": "boom"}))
    lake.keep_incomplete(*collected(DAYS[5], SYMBOLS[:5], pending=SYMBOLS[5:]))
    return look(lake)


def of_16_years(state: SessionState, like: Overview) -> Overview:
    """The overview of a lake with this state in every session, and numbers like another one's."""
    days = market_calendar.sessions(date(2011, 1, 3), date(2026, 12, 31))
    assert like.newest
    counts = dict.fromkeys(SessionState, 0) | {state: 252}
    return replace(
        like,
        held=replace(like.held, sessions=dict.fromkeys(days, Held.PUBLISHED)),
        states=dict.fromkeys(days, state),
        sessions={day: replace(like.newest, session=day) for day in days},
        years=[
            YearNumbers(year, counts, 2_000_000, 0.99987, 12, 0, whole=True)
            for year in range(2011, 2027)
        ],
        stopped=[StoppedSymbol(name, DAYS[0], 1234.5, 1_000_000) for name in names(1000)],
        damaged=[Damage(f"s3://b/{n}", Step(f"damaged: {n}" * 9, "collect")) for n in range(100)],
    )


# --- what it says ---


def test_a_good_lake_is_told_in_the_first_heading(good: Overview) -> None:
    found = Page(page.render(good))
    assert ("h1", "The lake is good.") in found.texts
    assert good.sentence in found.text
    headings = [
        text.replace("\N{NO-BREAK SPACE}", " ") for element, text in found.texts if element == "h2"
    ]
    assert headings == [
        "Today",
        "Coverage",
        "Years",
        "3 Jul 2024 compared with the 20 before",
        "Symbols that stopped trading",
        "Restatements",
        "Requests",
        "What to do",
    ]
    assert "Nothing." in found.text


def test_a_first_session_has_nothing_to_be_drawn_or_held_against() -> None:
    lake = new_lake()
    lake.publish(*collected(DAYS[-1]))
    found = Page(page.render(look(lake)))
    (heading,) = [text for element, text in found.texts if element == "h2" and "2024" in text]
    assert heading.replace("\N{NO-BREAK SPACE}", " ") == "3 Jul 2024"
    assert "The charts" not in found.text


def test_a_bad_lake_tells_commands_to_copy(bad: Overview) -> None:
    html = page.render(bad, program="bin/datalake")
    found = re.findall(r'<code class="command">(.*?)</code>', html)
    typed = [re.sub("<[^>]*>", "", each) for each in found]
    # The first of them at the top, and all of them at the end.
    expected = [f"bin/datalake {step.command}" for step in bad.steps]
    assert len(expected) > 3
    assert typed == expected[:3] + expected
    assert all(step.why in Page(html).text for step in bad.steps)


def test_every_number_of_the_newest_session_is_there(good: Overview) -> None:
    text = Page(page.render(good)).text
    for measure in good.measures:
        assert f"{measure.name} {page.written(measure.newest, measure.unit)} " in text
        assert measure.change in text


def test_an_empty_lake_has_a_page(good: Overview) -> None:
    found = Page(page.render(look(new_lake())))
    assert ("h1", "The lake is empty.") in found.texts
    assert "It takes 8 published sessions to tell." in found.text
    assert "No request is recorded." in found.text
    assert not found.unbalanced


def test_a_lake_of_which_nothing_is_due_has_a_page() -> None:
    found = Page(page.render(look(new_lake(), first=DAYS[0], due=date(2024, 4, 1))))
    assert ("h1", "No session is due yet.") in found.texts
    assert not found.unbalanced


# --- pictures and their tables ---


def test_every_picture_has_a_name_and_what_it_shows_stands_in_a_table_too(bad: Overview) -> None:
    found = Page(page.render(bad))
    names = {attributes.get("id") for attributes in found.all("title")}
    pictures = [svg for svg in found.all("svg") if svg.get("aria-hidden") != "true"]
    assert len(pictures) == 2 + 4
    for picture in pictures:
        assert picture["role"] == "img"
        assert picture["aria-labelledby"] in names
    text = found.text
    may = [day for day in DAYS if day.month == 5]
    there = [day for day in may if bad.states[day] in (SessionState.PUBLISHED, SessionState.FLAWED)]
    assert f"2024 {len(there)} of {len(may)} " in text, "in the table by month"
    hole = [day for day, state in bad.states.items() if state is SessionState.MISSING]
    assert f"{hole[0]} {hole[-1]} {len(hole)} missing" in text
    for day, each in bad.history.items():
        assert f"{day} {each.rows if each else '–'} " in text


def test_every_identifier_is_used_once(bad: Overview) -> None:
    identifiers = [
        attributes["id"] for _, attributes in Page(page.render(bad)).elements if "id" in attributes
    ]
    assert len(identifiers) == len(set(identifiers))


def test_a_session_that_is_not_published_is_marked_and_the_mark_is_explained(
    good: Overview, bad: Overview
) -> None:
    told = "A mark at the bottom is a session that is not published."
    assert 'class="none"' in page.render(bad)
    assert told in Page(page.render(bad)).text
    assert 'class="none"' not in page.render(good)
    assert told not in Page(page.render(good)).text


# --- one file, and nothing of the lake's is markup ---


def test_the_page_is_whole_and_asks_for_nothing_else(bad: Overview) -> None:
    html = page.render(bad)
    found = Page(html)
    assert not found.unbalanced
    assert found.all("script", "img", "iframe", "object", "form", "base") == []
    for tag, attributes in found.elements:
        for name in ("src", "srcset", "href", "action", "data"):
            target = attributes.get(name) or "#"
            assert target.startswith("#") or (tag, target) == ("link", "data:,")
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?:", html)
    (policy,) = [m["content"] for m in found.all("meta") if m.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_what_comes_from_outside_is_escaped(good: Overview) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'"
    told = replace(
        good,
        uri=f"{evil}1",
        source=f"{evil}2",
        stopped=[StoppedSymbol(f"{evil}3{n}", DAYS[0], 1.0, 1) for n in range(12)],
        damaged=[Damage(f"{evil}4", Step(f"{evil}5", f"{evil}6"))],
    )
    html = page.render(told, program=f"{evil}7")
    assert "<img" not in html
    found = Page(html)
    assert not found.unbalanced
    for number in (1, 2, 30, 311, 5):
        assert f"{evil}{number}" in found.text


@pytest.mark.parametrize("state", SessionState)
def test_the_page_of_16_years_stays_small(state: SessionState, good: Overview) -> None:
    assert len(page.render(of_16_years(state, good)).encode()) < 300_000


def test_a_long_list_of_things_to_do_is_cut_and_says_so(good: Overview) -> None:
    damaged = [Damage(f"file {n}", Step(f"file {n}", None)) for n in range(21)]
    found = Page(page.render(replace(good, damaged=damaged)))
    assert "… and 18 more" in found.text
    assert "file 19" in found.text
    assert "file 20" not in found.text
    assert "… and 1 more" in found.text


def test_the_same_lake_at_the_same_time_makes_the_same_page(bad: Overview) -> None:
    assert page.render(bad) == page.render(bad)


def test_why_symbols_failed_is_told_and_without_failures_there_is_no_such_part(
    good: Overview,
) -> None:
    lake = new_lake()
    lake.publish(*collected(DAYS[-1], SYMBOLS[:99], failed={SYMBOLS[99]: "HTTP 500 <b>"}))

    html = page.render(look(lake))

    assert "Why symbols failed" in Page(html).text
    assert f'HTTP 500 &lt;b&gt;</th><td class="n">1</td><td>{SYMBOLS[99]}</td>' in html
    assert "Why symbols failed" not in page.render(good)
