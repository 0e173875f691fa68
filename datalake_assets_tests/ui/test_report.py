"""A person opens the report: the page, on a desk and on a phone, and the asset in Dagster's UI."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datalake_assets import market_calendar
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.overview import page as report_page
from datalake_assets.overview.numbers import NextSession, Overview, PriceWarning
from datalake_assets.overview.runs import Run, Runs
from datalake_assets.overview.universe import ListChanges, Listed
from datalake_assets.storage import layout
from datalake_assets_tests.overview.lakes import NOW, SYMBOLS, collected, look, new_lake
from datalake_assets_tests.ui.conftest import DagsterDev
from datalake_assets_tests.ui.test_materialize import RUN_ENDS_WITHIN_MS, SEEN_WITHIN_MS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ColorScheme, Page, Request

pytest.importorskip("playwright.sync_api", reason="installed by make test-ui")
from playwright.sync_api import expect

pytestmark = pytest.mark.ui

SIZES = {"desk": (1400, 1000), "phone": (390, 844)}
DUE = date(2024, 7, 3)
NAME = re.compile("sessions? (is|are) published$")


@pytest.fixture(scope="module")
def overview() -> Overview:
    """Five years in which everything is wrong that can be, and nine empty ones before."""
    lake = new_lake()
    fill(lake, market_calendar.sessions(date(2020, 6, 1), DUE))
    reason = "1 session did not pass the audit and was not published:\n2024-07-03: coverage"
    failed = Run("0123456789", "daily_ticks_job", [str(DUE)], NOW, 61.5, "failed", reason)
    found = look(
        lake,
        first=date(2011, 1, 3),
        due=DUE,
        measure=True,
        following=NextSession(date(2024, 7, 5), datetime(2024, 7, 5, 22, tzinfo=UTC)),
        runs=Runs(NOW - timedelta(days=30), [failed] * 7, [failed], failures=1),
    )
    new = [Listed(name, "NYSE", f"{name} Holdings Inc. Common Stock") for name in SYMBOLS[:12]]
    return replace(
        found,
        listed=ListChanges(date(2024, 7, 2), DUE, 7_000, new, [], new[:1]),
        price_warnings=[PriceWarning(DUE, "1 of 20 bars has impossible prices", SYMBOLS[:1])],
    )


def fill(lake: LakeWriter, days: list[date]) -> None:
    few = SYMBOLS[:20]
    for number, day in enumerate(days):
        if number < 100 or number % 97 == 1 or day == days[-6]:
            continue
        printed = few if number < len(days) - 3 else few[3:]
        told = {"before": [few], "no_print": [name for name in few if name not in printed]}
        if number % 131 == 0:
            told["failed"] = {"ZZZ": "boom"}
        if number % 313 == 0:
            lake.keep_incomplete(*collected(day, few[:3], pending=few[3:]))
        else:
            lake.publish(*collected(day, printed, seconds=20 + number % 7, **told))
    again = collected(days[-2], few[1:], no_print=few[:1], seconds=9.0)
    lake.publish(*again)
    damaged = layout.session_key(days[-9])
    lake.store.put(damaged, lake.store.get(damaged)[:-20])


@dataclass
class Opened:
    """The page in a browser, and what that had to say."""

    page: Page
    errors: list[str]
    requests: list[str]


@pytest.fixture(
    params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join
)
def opened(
    request: pytest.FixtureRequest,
    overview: Overview,
    browser: Browser,
    tmp_path: Path,
    pictures: Path,
) -> Iterator[Opened]:
    """The page as a file, in each size and scheme; a picture of all of it at the end."""
    size, scheme = request.param
    path = tmp_path / "latest.html"
    path.write_text(report_page.render(overview), encoding="utf-8")
    yield from open_page(browser, path, size, scheme, pictures / f"report_{size}_{scheme}.png")


def open_page(
    browser: Browser, path: Path, size: str, scheme: ColorScheme, picture: Path
) -> Iterator[Opened]:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        is_mobile=size == "phone",
        has_touch=size == "phone",
        device_scale_factor=2 if size == "phone" else 1,
    )
    page = context.new_page()
    opened = Opened(page, [], [])

    def asked(request: Request) -> None:
        opened.requests.append(request.url)

    page.on("console", lambda message: opened.errors.append(message.text))
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("request", asked)
    page.goto(path.as_uri())
    yield opened
    page.screenshot(path=picture, full_page=True)
    context.close()


def wider_than_the_screen(page: Page) -> int:
    """Pixels by which the page can be moved sideways."""
    screen = page.viewport_size
    assert screen
    # Not window.innerWidth: a phone's window grows with the page.
    return int(page.evaluate("document.documentElement.scrollWidth")) - screen["width"]


def test_the_page_fits_any_screen_and_asks_for_nothing(opened: Opened) -> None:
    page = opened.page
    expect(page.get_by_role("heading", level=1)).to_have_text("The lake needs attention.")
    assert wider_than_the_screen(page) <= 0
    summaries = page.locator("summary")
    told = ["more", "Show the charts as a table", "2 more", "2 more", "Show as a table"]
    expect(summaries).to_have_count(len(told))
    for summary, text in zip(summaries.all(), told, strict=True):
        expect(summary).to_contain_text(text)
        summary.click()
    expect(page.get_by_text("Sessions published, of those due")).to_be_visible()
    expect(page.get_by_role("rowheader", name=str(DUE)).last).to_be_visible()
    assert wider_than_the_screen(page) <= 0
    assert opened.errors == []
    assert [url for url in opened.requests if url != page.url] == []


def test_the_verdict_what_to_do_and_the_newest_numbers_are_on_the_first_screen(
    opened: Opened,
) -> None:
    page = opened.page
    screen = page.viewport_size
    assert screen

    def bottom(name: str) -> float:
        found = page.get_by_text(name, exact=True).first.bounding_box()
        assert found
        return found["y"] + found["height"]

    assert bottom("What to do Click a command to select it.") < screen["height"]
    if screen["width"] > 500:
        for name in ("Newest session", "Next session", "Success rate", "Size", "Failed runs"):
            assert bottom(name) < 800
    # Without the years of which nothing was collected.
    calendar = page.locator(".years").bounding_box()
    newest = page.get_by_role("heading", name=re.compile("compared with")).bounding_box()
    assert calendar
    assert newest
    assert newest["y"] < calendar["y"]
    assert newest["y"] < (1000 if screen["width"] > 500 else 1700)
    expect(page.locator(".untouched")).to_have_text(re.compile(r"2011 to 2019.*2,2\d\d sessions"))


def test_no_table_is_cut_without_a_hint(opened: Opened) -> None:
    """On a phone rows become cards; what still scrolls sideways says so."""
    page = opened.page
    for summary in page.locator("summary").all():
        summary.click()
    cut = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        ".map(e => [e.querySelector('table').className, e.previousElementSibling.innerText])"
    )
    assert all(found == ["wide", "Scroll the table sideways →"] for found in cut)
    screen = page.viewport_size
    assert screen
    phone = screen["width"] < 500
    assert bool(cut) == phone
    hints = page.get_by_text("Scroll the table sideways →")
    assert [hint.is_visible() for hint in hints.all()] == [phone, phone]
    cell = page.locator("table.rows td[data-title='Median before']").first
    title = cell.evaluate("e => getComputedStyle(e, '::before').content")
    assert title == ('"Median before"' if phone else "none")


def test_the_calendar_is_drawn_as_large_as_the_screen_allows(opened: Opened) -> None:
    page = opened.page
    newest, *older = page.locator(".year").all()  # those before 2020 are one line
    expect(newest.get_by_role("heading")).to_have_text("2024")
    assert len(older) == 4
    screen = page.viewport_size
    assert screen
    cell, small = (year.locator("use").first.bounding_box() for year in (newest, older[0]))
    assert cell
    assert small
    if screen["width"] < 500:
        halves = [half.bounding_box() for half in newest.locator(".half").all()]
        assert halves[0]
        assert halves[1]
        assert halves[0]["x"] == halves[1]["x"], "a half below the other"
        assert cell["width"] > 9
        assert small["width"] > 4
    else:
        assert cell["width"] > 15
        assert small["width"] > 7
    assert abs(cell["width"] - cell["height"]) < 1.5
    for name in ("January to June 2024", "July to December 2021", "Coverage of the newest 120"):
        expect(page.get_by_role("img", name=re.compile(f"^{name}"))).to_be_visible()


def test_a_click_selects_a_whole_command(opened: Opened) -> None:
    page = opened.page
    command = page.locator("code.command").first
    command.click()
    selected = page.evaluate("getSelection().toString()")
    assert selected == command.inner_text()
    assert re.fullmatch(r"datalake collect --session \d{4}-\d\d-\d\d", selected)


def test_no_date_and_no_option_is_broken_at_the_end_of_a_line(opened: Opened) -> None:
    for word in opened.page.locator("code.command span").all():
        assert word.evaluate("element => element.getClientRects().length") == 1


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3


def test_the_page_is_dark_in_the_dark_and_light_in_the_light(
    opened: Opened, request: pytest.FixtureRequest
) -> None:
    style = (
        "element => [getComputedStyle(element).backgroundColor, getComputedStyle(element).color]"
    )
    card, text = opened.page.locator("section").first.evaluate(style)
    dark = "dark" in request.node.callspec.id
    assert (brightness(card) < brightness(text)) == dark
    assert abs(brightness(card) - brightness(text)) > 180


# --- in Dagster ---


@pytest.fixture(scope="module")
def materialized(page: Page, dagster_dev: DagsterDev) -> str:
    """The report of the running lake, whatever it holds, made by clicking."""
    page.goto("/assets/lake_report")
    page.get_by_role("button", name="Materialize").first.click()
    launched = page.get_by_role("listitem").filter(has_text="Launched run")
    # Asked while what the report tells of was never materialized: an empty lake has a report, too.
    confirm = page.get_by_role("button", name="Confirm")
    expect(confirm.or_(launched).first).to_be_visible(timeout=SEEN_WITHIN_MS)
    if confirm.is_visible():
        confirm.click()
    launched.get_by_role("link", name="View").click()
    ended = page.get_by_text(re.compile(r"^(Success|Failure|Canceled)$")).first
    ended.wait_for(timeout=RUN_ENDS_WITHIN_MS)
    assert ended.inner_text() == "Success", dagster_dev.last_lines()
    page.goto("/assets/lake_report?view=overview")
    return "lake_report"


def test_the_asset_s_page_shows_the_picture_and_the_tables(
    page: Page, materialized: str, pictures: Path
) -> None:
    picture = page.get_by_role("img", name=NAME).first
    picture.wait_for(timeout=SEEN_WITHIN_MS)
    assert str(picture.get_attribute("src")).startswith("data:image/png;base64,")
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 200
    expect(page.get_by_role("columnheader", name="per symbol").first).to_be_visible()
    expect(page.get_by_text("datalake backfill", exact=False).first).to_be_visible()
    picture.scroll_into_view_if_needed()
    page.screenshot(path=pictures / "report_in_dagster.png")

    row = page.get_by_role("row").filter(has=page.get_by_text("coverage_by_session", exact=True))
    row.get_by_text("[Show Markdown]").click()
    large = page.get_by_role("dialog").get_by_role("img", name=NAME)
    large.wait_for(timeout=SEEN_WITHIN_MS)
    assert str(large.get_attribute("src")).startswith("data:image/svg+xml;base64,")
    assert large.evaluate("image => image.complete && image.naturalHeight") > 300
    page.screenshot(path=pictures / "report_in_dagster_by_session.png")
    page.keyboard.press("Escape")


def test_the_report_lies_in_the_lake_and_opens(
    page: Page,
    materialized: str,
    dagster_dev: DagsterDev,
    browser: Browser,
    pictures: Path,
) -> None:
    path = dagster_dev.lake / layout.REPORT
    for opened in open_page(browser, path, "desk", "light", pictures / "report_of_dagster.png"):
        expect(opened.page.get_by_role("heading", name="Coverage", level=2)).to_be_visible()
        assert opened.errors == []
    assert path.stat().st_size < 300_000
