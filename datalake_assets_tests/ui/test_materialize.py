"""A person opens `make dev`, materializes a session by clicking, and looks at what came of it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.audit import RULES
from datalake_assets_tests.ui.conftest import DagsterDev

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright.sync_api", reason="installed by make test-ui")
from playwright.sync_api import expect

pytestmark = pytest.mark.ui

# A run is a new process, which collects some thousand symbols; a slow machine takes its time.
RUN_ENDS_WITHIN_MS = 240_000
SEEN_WITHIN_MS = 60_000


def follow_run(page: Page, dagster_dev: DagsterDev, picture: Path) -> None:
    """Goes where the message about the launched run points, and waits there for the run's end."""
    launched = page.get_by_role("listitem").filter(has_text="Launched run")
    launched.get_by_role("link", name="View").click()
    ended = page.get_by_text(re.compile(r"^(Success|Failure|Canceled)$")).first
    ended.wait_for(timeout=RUN_ENDS_WITHIN_MS)
    page.screenshot(path=picture)
    assert ended.inner_text() == "Success", dagster_dev.last_lines()


@pytest.fixture(scope="module")
def session(page: Page, dagster_dev: DagsterDev, pictures: Path) -> str:
    """The newest session, materialized by clicking, after the universe that it needs."""
    page.goto("/assets/stock_universe")
    page.get_by_role("button", name="Materialize").first.click()
    follow_run(page, dagster_dev, pictures / "1_universe_run.png")

    page.goto("/assets/daily_ticks")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Latest", exact=True).click()
    launch = dialog.get_by_role("button", name="Launch 1 run")
    launch.wait_for()
    partition = dialog.get_by_role("textbox").first.input_value()
    page.screenshot(path=pictures / "2_session_launch.png")
    launch.click()
    follow_run(page, dagster_dev, pictures / "3_session_run.png")
    return partition


def test_the_latest_partition_is_the_session_that_closed_last(session: str) -> None:
    """A session's partition appears an hour or two after its close, so it may be the one before."""
    closed = market_calendar.latest_closed_session(datetime.now(UTC))
    assert date.fromisoformat(session) in {closed, *market_calendar.previous_sessions(closed, 1)}


def shown_number(page: Page, name: str) -> float:
    """The number beside `name` in the table of a partition's metadata."""
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))
    return float(row.get_by_role("cell").nth(1).inner_text().replace(",", ""))


def test_the_partition_is_green_and_shows_what_is_in_the_lake(
    page: Page, session: str, dagster_dev: DagsterDev, pictures: Path
) -> None:
    page.goto(f"/assets/daily_ticks?view=partitions&partition={session}")
    expect(page.get_by_text("Materialized (1)")).to_be_visible(timeout=SEEN_WITHIN_MS)
    expect(page.get_by_text("Failed (0)")).to_be_visible()
    expect(page.get_by_text("Materialized", exact=True)).to_be_visible()
    page.get_by_text("dagster/partition_row_count").wait_for()
    page.screenshot(path=pictures / "4_partition.png")

    published = dagster_dev.lake / f"data/ticks/sessions/year={session[:4]}/{session}.parquet"
    assert shown_number(page, "dagster/partition_row_count") == pq.read_metadata(published).num_rows
    assert 0.99 <= shown_number(page, "success_rate") <= 1
    assert shown_number(page, "duration_seconds") > 0


def test_every_check_of_the_audit_succeeded(page: Page, session: str, pictures: Path) -> None:
    page.goto("/assets/daily_ticks?view=checks&checkDetail=success_rate")
    expect(page.get_by_text("Evaluation result")).to_be_visible(timeout=SEEN_WITHIN_MS)
    expect(page.get_by_text("Passed", exact=True)).to_be_visible()
    page.screenshot(path=pictures / "5_checks.png")

    text = page.locator("body").inner_text()
    # The UI writes a name twice, once for the eye and once to measure where to cut it.
    verdicts = dict(
        re.findall(r"^(\w+)\n(?:\1\n)?(Succeeded|Failed|Warning|Not executed)", text, re.M)
    )
    assert {rule: verdicts.get(rule) for rule in RULES} == dict.fromkeys(RULES, "Succeeded")
    # Of an older session than this one it may be that it is late; but it was looked at.
    assert verdicts.get("newest_session_is_there") in ("Succeeded", "Failed")


def test_the_numbers_are_plotted_over_the_partitions(
    page: Page, session: str, pictures: Path
) -> None:
    page.goto("/asset-groups/~/daily_ticks")
    page.get_by_text("Metadata plots").wait_for(timeout=SEEN_WITHIN_MS)
    for name in ("success_rate", "duration_seconds", "dagster/partition_row_count"):
        # The checks, which share some names, are listed below the last of the plots.
        plot = page.locator(f"xpath=//*[text()='{name}']/following::canvas").first
        expect(plot).to_be_attached(timeout=SEEN_WITHIN_MS)
    page.screenshot(path=pictures / "6_plots.png")


def test_the_events_name_the_partition_and_its_run(
    page: Page, session: str, pictures: Path
) -> None:
    page.goto("/assets/daily_ticks?view=events")
    event = page.get_by_text(re.compile(rf"^Partition {session} materialized in run"))
    expect(event).to_be_visible(timeout=SEEN_WITHIN_MS)
    page.screenshot(path=pictures / "7_events.png")
