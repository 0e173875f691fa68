"""What a lake looks like that is kept as the README says, which has two pictures of it.

`make pictures` puts them into docs/pictures.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from datalake_assets import market_calendar
from datalake_assets.storage import layout
from datalake_assets_tests.ui.conftest import DagsterDev, make_dev
from datalake_assets_tests.ui.test_materialize import SEEN_WITHIN_MS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="installed by make test-ui")
from playwright.sync_api import expect

pytestmark = pytest.mark.ui

SESSIONS = 40
WRITE_REPORT = (
    "from datalake_assets.cli.runs import write_report; "
    "from datalake_assets.settings import Settings; assert write_report(Settings.load())"
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    """`datalake dev` on a lake of all sessions since its first one, with factors and a report."""
    newest = market_calendar.latest_closed_session(datetime.now(UTC))
    first, *_ = market_calendar.previous_sessions(newest, SESSIONS - 1)
    with make_dev(tmp_path_factory.mktemp("kept"), DATALAKE_START_DATE=str(first)) as dev:
        datalake = [sys.executable, "-m", "datalake_assets"]
        for words in (
            [*datalake, "backfill", "--from", str(first)],
            [*datalake, "securities"],
            [sys.executable, "-c", WRITE_REPORT],
        ):
            subprocess.run(words, env=dict(dev.environment), check=True, stdout=subprocess.DEVNULL)
        yield dev


@pytest.fixture
def wide(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(SEEN_WITHIN_MS)
    yield page
    page.close()


def test_every_partition_is_green_and_a_session_shows_its_numbers(
    kept: DagsterDev, wide: Page, pictures: Path
) -> None:
    newest = max((kept.lake / "data/ticks/sessions").rglob("*.parquet")).stem
    wide.goto(f"{kept.url}/assets/daily_ticks?view=partitions&partition={newest}")
    expect(wide.get_by_text(re.compile(r"Materialized \((39|40)\)"))).to_be_visible()
    expect(wide.get_by_text("Failed (0)")).to_be_visible()
    wide.get_by_text("dagster/partition_row_count").wait_for()
    wide.screenshot(path=pictures / "readme_dagster.png")


def test_the_report_says_that_all_is_well(kept: DagsterDev, wide: Page, pictures: Path) -> None:
    wide.goto((kept.lake / layout.REPORT).as_uri())
    heading = wide.get_by_role("heading", level=1)
    assert heading.inner_text() == "The lake is good."
    # Without the first line, which has the lake's path.
    below = wide.locator("section.verdict").bounding_box()
    assert below
    clip = {"x": 0, "y": below["y"] - 8, "width": 1280, "height": 730}
    wide.screenshot(path=pictures / "readme_report.png", clip=clip)
