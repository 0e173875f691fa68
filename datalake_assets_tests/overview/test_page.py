"""The page: one file that needs nothing else, in which nothing of the lake's texts is markup."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from datalake_assets import market_calendar
from datalake_assets.lake.coverage import Held
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview import page
from datalake_assets.overview.numbers import (
    Damage,
    NextSession,
    Overview,
    PriceWarning,
    SessionState,
    Step,
    StoppedSymbol,
    YearNumbers,
)
from datalake_assets.overview.runs import Run, Runs
from datalake_assets.overview.universe import ListChanges, Listed
from datalake_assets_tests.collection.tables import names
from datalake_assets_tests.overview.lakes import (
    DAYS,
    SYMBOLS,
    collected,
    look,
    new_lake,
    publish,
)

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
    YearFiles(lake.store).publish(2024)
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
        "At a glance",
        "3 Jul 2024 compared with the 20 before",
        "New and vanished symbols",
        "Symbols that stopped trading",
        "Restatements",
        "Requests",
        "Years",
        "Coverage",
    ]
    assert "What to do" not in found.text
    assert "Impossible prices" not in found.text
    assert "Failed runs" not in found.text


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
    expected = [f"bin/datalake {step.command}" for step in bad.steps]
    assert len(expected) > 3
    assert typed == expected, "each of them once"
    headings = [text for element, text in Page(html).texts if element in ("h1", "h2")]
    assert headings[:2] == [bad.headline, "What to do "]
    assert all(step.why in Page(html).text for step in bad.steps)


def test_every_number_of_the_newest_session_is_there(good: Overview) -> None:
    text = Page(page.render(good)).text
    for measure in good.measures:
        name = measure.name.capitalize()
        assert f"{name} {page.written(measure.newest, measure.unit)} " in text
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
    damaged = [Damage(f"file {n}", Step(f"file {n}", None)) for n in range(26)]
    found = Page(page.render(replace(good, damaged=damaged)))
    assert "22 more" in found.text
    assert "file 23" in found.text
    assert "file 24" not in found.text
    assert "… and 2 more: datalake status --json" in found.text


def test_the_same_lake_at_the_same_time_makes_the_same_page(bad: Overview) -> None:
    assert page.render(bad) == page.render(bad)


def test_why_symbols_failed_is_told_and_without_failures_there_is_no_such_part(
    good: Overview,
) -> None:
    lake = new_lake()
    lake.publish(*collected(DAYS[-1], SYMBOLS[:99], failed={SYMBOLS[99]: "HTTP 500 <b>"}))

    html = page.render(look(lake))

    assert "Why symbols failed" in Page(html).text
    assert f"HTTP 500 <b> 1 {SYMBOLS[99]} " in Page(html).text
    assert "Why symbols failed" not in page.render(good)


@pytest.mark.parametrize(("many", "shown"), [(4, 4), (5, 5), (6, 4)])
def test_a_single_step_is_never_hidden_behind_a_click(
    many: int, shown: int, good: Overview
) -> None:
    damaged = [Damage(f"file {n}", Step(f"file {n}", None)) for n in range(many)]
    html = page.render(replace(good, damaged=damaged))
    first, _, rest = html.partition("<details>")
    assert [n for n in range(many) if f">file {n}<" in first] == list(range(shown))
    assert [n for n in range(many) if f">file {n}<" in rest] == list(range(shown, many))


# --- the history collapses ---


def test_years_of_which_nothing_was_collected_take_one_line_in_each_place() -> None:
    lake = new_lake()
    lake.publish(*collected(DAYS[-1]))
    found = look(lake, first=date(2011, 1, 3))

    html = page.render(found)

    assert html.count('<div class="half"') == 2, "of 2024"
    text = Page(html).text
    sessions = len(market_calendar.sessions(date(2011, 1, 3), date(2023, 12, 29)))
    assert text.count(f"2011 to 2023 not collected yet: {sessions:,} sessions") == 2
    assert f"2011 to 2023 0 of {sessions:,} 0 – 0 – " in text
    assert not re.search(r"\b(2012|2017|2022)\b", text)


def test_a_year_with_a_single_session_is_drawn_and_so_parts_the_empty_ones() -> None:
    lake = new_lake()
    publish(lake, [date(2019, 12, 31), DAYS[-1]])
    text = Page(page.render(look(lake, first=date(2017, 1, 3)))).text
    assert "2017 to 2018 not collected yet: 502 sessions" in text
    # After the first session that was collected, a missing one is a hole.
    for year in range(2019, 2025):
        assert f"{year} " in text
    assert text.count("not collected yet: ") == 2, "under the calendar and in its table"


def test_the_numbers_of_today_come_before_the_history(bad: Overview) -> None:
    html = page.render(bad)
    places = [html.index(f'id="{name}"') for name in ("to-do", "today", "newest", "coverage")]
    assert places == sorted(places)


def test_a_chart_without_any_value_is_left_out() -> None:
    lake = new_lake()
    together = {"began": datetime(2024, 7, 3, 22, 5, tzinfo=UTC)}
    publish(lake, DAYS, **together)
    text = Page(page.render(look(lake))).text
    assert "Bars 100 " in text
    assert "Coverage of the newest" not in text
    assert "– to –" not in text


# --- what only the surroundings know ---


def ran(number: int, **told: Any) -> Run:
    at = datetime(2024, 7, 3, 22, number, tzinfo=UTC)
    return Run(
        **{
            "run_id": f"{number:08}-rest",
            "what": "daily_ticks_job",
            "partitions": [str(DAYS[-1])],
            "created": at,
            "seconds": 12.5,
            "outcome": "succeeded",
        }
        | told
    )


def test_runs_are_told_with_their_reasons_and_what_became_of_them(bad: Overview) -> None:
    failed = [
        ran(9, outcome="failed", reason="1 session did not pass:\nHTTP 500 <b>\n\n3\n4\n5"),
        ran(8, outcome="failed", partitions=[str(day) for day in DAYS[-21:]], reason="boom"),
        ran(7, outcome="failed", partitions=[str(DAYS[-21])], reason="boom"),
        ran(6, outcome="failed", partitions=[], what="lake_report, other", reason="boom"),
    ]
    newest = [failed[0], *(ran(number) for number in range(6)), ran(5, seconds=None)]
    runs = Runs(since=datetime(2024, 6, 3, tzinfo=UTC), newest=newest, failed=failed, failures=31)

    html = page.render(replace(bad, runs=runs))

    found = Page(html)
    assert not found.unbalanced
    text = found.text
    assert "31 runs have failed since 3 Jun 2024; these are the newest 4." in unbroken(text)
    assert "2024-07-03 22:09 daily_ticks_job 00000009 2024-07-03 published 1 session" in text
    assert "HTTP 500 <b> 3 … the rest is in the run's log" in text
    span = f"{DAYS[-21]} to {DAYS[-1]} (21)"
    assert f"{span} 1 of 21 not published boom" in text
    assert f"{DAYS[-21]} not published boom" in text
    assert "lake_report, other 00000006 boom" in text
    assert "12.5 s succeeded" in text
    assert "3 more" in text


def test_without_dagster_the_page_says_where_runs_are(good: Overview) -> None:
    assert "Runs are in Dagster's UI." in Page(page.render(good)).text


def test_without_failures_the_runs_say_so(good: Overview) -> None:
    runs = Runs(since=datetime(2024, 6, 3, tzinfo=UTC), newest=[], failed=[], failures=0)
    text = Page(page.render(replace(good, runs=runs))).text
    assert "No run has failed since 3 Jun 2024." in unbroken(text)
    assert "Failed runs 0 since" in text


def test_the_next_session_is_told_with_the_time_it_is_due(good: Overview) -> None:
    following = NextSession(date(2024, 7, 5), datetime(2024, 7, 5, 22, tzinfo=UTC))
    text = Page(page.render(replace(good, following=following))).text
    assert "Next session 5 Jul 2024 due 5 Jul, 22:00 UTC" in unbroken(text)


def test_sizes_are_told_of_parts_and_years_with_what_comes() -> None:
    found = look(whole(), measure=True)
    assert found.sizes
    assert found.sizes.a_session
    text = Page(page.render(found)).text
    total = page.written(found.sizes.total, "bytes")
    grown = page.written(found.sizes.total + 252 * found.sizes.a_session, "bytes")
    assert f"All objects {total} {found.sizes.objects} objects" in text
    assert f"In a year {grown} 252 sessions at this rate" in text
    assert "Session files 44 " in text
    year = found.sizes.years[2024]
    each = (year.sessions, year.symbol_years, year.file)
    sizes = " ".join(page.written(size, "bytes") for size in each)
    assert f"up to date up to date {sizes} " in text


def test_symbols_that_are_new_vanished_or_renamed_are_named(good: Overview) -> None:
    new = [Listed(name, "NYSE", f"{name} <Inc>") for name in names(12)]
    changes = ListChanges(
        DAYS[-2], DAYS[-1], 7_000, new, [], [Listed("FB", "NASDAQ", "Facebook", "META")]
    )
    text = unbroken(Page(page.render(replace(good, listed=changes))).text)
    assert "has 7,000 active assets. Since the list before, of 2 Jul 2024: " in text
    assert "12 new, 0 vanished, 1 renamed." in text
    assert "FB META NASDAQ Facebook" in text
    assert f"{new[9].symbol} NYSE {new[9].symbol} <Inc>" in text
    assert f"2 more {new[10].symbol} {new[11].symbol} " in text


def test_impossible_prices_are_told_with_their_symbols(good: Overview) -> None:
    warnings = [
        PriceWarning(DAYS[-1], "13 of 100 bars have impossible prices", names(13)),
        PriceWarning(DAYS[0], "1 of 100 bars has impossible prices", None),
    ]
    text = Page(page.render(replace(good, price_warnings=warnings))).text
    assert "2 published sessions have a few bars with prices that can't be" in text
    assert f"{', '.join(names(13)[:12])} and 1 more" in text
    assert f"{DAYS[0]} 1 of 100 bars has impossible prices see the check valid_prices" in text


def test_a_value_has_its_column_s_title_for_phones(bad: Overview) -> None:
    found = Page(page.render(bad))
    titles = [cell.get("data-title") for cell in found.all("td")]
    assert {"Newest", "Median before", "Change", "Published", "Per-symbol files"} <= set(titles)
    tables = found.all("table")
    assert {table["class"] for table in tables} == {"rows", "rows three", "wide"}
    hints = [text for _, text in found.texts if text == "Scroll the table sideways →"]
    assert len(hints) == sum(table["class"] == "wide" for table in tables)


def unbroken(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")
