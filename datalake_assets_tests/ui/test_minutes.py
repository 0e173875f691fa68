"""A person backfills minute bars by clicking, sees which session is broken, and repairs it.

The exchange runs in this process; to the program it is Alpaca, known by its address. Of one session
it has only a handful of the minutes of one symbol, until they are filled in a day later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.exchange.errata import Errata, Erratum
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import minute_table
from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage.store import open_store
from datalake_assets_tests.exchange.calling import LaterClock, keys_to
from datalake_assets_tests.ui.conftest import DagsterDev, make_dev

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="installed by make test-ui")
from playwright.sync_api import expect

from datalake_assets_tests.ui.test_backfill import (
    ENDS_WITHIN_MS,
    backfill_ended,
    datalake,
    expect_partitions,
    launch_backfill,
    launch_repair,
    partitions_by_status,
    runs_of_backfill,
)
from datalake_assets_tests.ui.test_materialize import SEEN_WITHIN_MS, follow_run, shown_number

pytestmark = pytest.mark.ui

ASSET = "minute_ticks"
DAYS = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 8))
BROKEN, HALF_DAY = date(2024, 7, 2), date(2024, 7, 3)
SYMBOLS = 30


@pytest.fixture(scope="module")
def market() -> SyntheticMarket:
    return SyntheticMarket()


@pytest.fixture(scope="module")
def symbols(market: SyntheticMarket) -> list[str]:
    """Some of the symbols with the most trades on the day that is broken, ascending."""
    session = list(market.sessions).index(BROKEN)
    names = [row["symbol"] for row in market.assets() if row["status"] == "active"]
    bars = market.bars([name for name in names if name.isalpha()], session, session + 1)
    busiest = np.argsort(bars.trade_count)[::-1][:SYMBOLS]
    return sorted(bars.symbols[place] for place in bars.symbol[busiest])


@pytest.fixture(scope="module")
def clock() -> LaterClock:
    return LaterClock()


@pytest.fixture(scope="module")
def dev(
    market: SyntheticMarket,
    symbols: list[str],
    clock: LaterClock,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DagsterDev]:
    """`make dev` with minute bars, and the daily bars of the sessions in its lake."""
    filled_in = datetime.now(UTC) + timedelta(hours=12)
    errata = Errata([Erratum(mistake="few_minutes", symbol=symbols[0], day=BROKEN, at=filled_in)])
    with (
        ExchangeServer(Exchange(market, errata=errata, clock=clock)) as server,
        make_dev(
            tmp_path_factory.mktemp("minutes"),
            **keys_to(server.url, DATALAKE_SYMBOLS=",".join(symbols), DATALAKE_MINUTES="regular"),
        ) as running,
    ):
        datalake(running, "backfill", "--from", f"{DAYS[0]}", "--to", f"{DAYS[-1]}")
        yield running


@pytest.fixture(scope="module")
def page(browser: Browser, dev: DagsterDev, pictures: Path) -> Iterator[Page]:
    page = browser.new_page(base_url=dev.url, viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    page.screenshot(path=pictures / "minutes_last.png")
    page.close()


def equal_to_the_market(dev: DagsterDev, market: SyntheticMarket, symbols: list[str]) -> set[date]:
    """The sessions of minutes in the lake; each has every minute of the market and no other."""
    lake = LakeFiles(open_store(str(dev.lake)), dataset=MINUTE)
    days = lake.sessions()
    for day in days:
        assert lake.read(day).bars.equals(minute_table(market, symbols, day))
    return set(days)


def test_a_backfill_of_five_sessions_is_green_but_for_the_broken_one_and_its_repair_mends_that(
    page: Page,
    dev: DagsterDev,
    market: SyntheticMarket,
    symbols: list[str],
    clock: LaterClock,
    pictures: Path,
) -> None:
    good = {*DAYS} - {BROKEN}

    backfill = launch_backfill(page, DAYS, pictures / "minutes_1_launch.png", ASSET)
    # What is red can be looked at before the daemon has ended the backfill.
    deadline = time.monotonic() + ENDS_WITHIN_MS / 1000
    while partitions_by_status(dev, ASSET) != {"MATERIALIZED": good, "FAILED": {BROKEN}}:
        assert time.monotonic() < deadline, dev.last_lines()
        time.sleep(0.5)
    assert equal_to_the_market(dev, market, symbols) == good
    expect_partitions(page, 4, 1, ASSET)
    page.screenshot(path=pictures / "minutes_2_red.png")
    (run,) = runs_of_backfill(dev, backfill)
    page.goto(f"/runs/{run.id}")
    failed = page.get_by_text("1 session did not pass the audit and was not published:").first
    expect(failed).to_be_visible(timeout=SEEN_WITHIN_MS)
    page.screenshot(path=pictures / "minutes_3_failure.png")
    look_at_check(page, "complete_minutes", "Failed")
    offender = page.get_by_role("cell", name=re.compile(rf"^{symbols[0]}: 5 minutes"))
    expect(offender.first).to_be_visible()
    page.screenshot(path=pictures / "minutes_4_check.png")
    page.goto(f"/runs/b/{backfill}")
    status, told = backfill_ended(page, pictures / "minutes_5_one_failed.png")
    assert (status, told) == (
        "Failed",
        {"targeted": 5, "in progress": 0, "succeeded": 4, "failed": 1},
    )

    clock.by = timedelta(days=1)
    launch_repair(page, BROKEN, pictures / "minutes_6_config.png", ASSET)
    follow_run(page, dev, pictures / "minutes_7_repaired.png")

    assert partitions_by_status(dev, ASSET) == {"MATERIALIZED": {*DAYS}, "FAILED": set()}
    assert equal_to_the_market(dev, market, symbols) == {*DAYS}


@pytest.mark.parametrize(("rule", "value"), [("against_daily", 1), ("complete_minutes", 0)])
def test_the_checks_of_the_repaired_session_passed_and_show_their_values(
    rule: str, value: int, page: Page, pictures: Path
) -> None:
    """The share of symbols that agree with their daily bars; those with a handful of minutes."""
    look_at_check(page, rule, "Passed")
    page.screenshot(path=pictures / f"minutes_8_{rule}.png")

    assert shown_number(page, "value") == value
    assert shown_number(page, "sessions") == 1


def look_at_check(page: Page, rule: str, verdict: str) -> None:
    """Opens the page of a check with this verdict and the result of its last run."""
    page.goto(f"/assets/{ASSET}?view=checks&checkDetail={rule}")
    expect(page.get_by_text("Evaluation result")).to_be_visible(timeout=SEEN_WITHIN_MS)
    expect(page.get_by_text(verdict, exact=True).first).to_be_visible()


def test_a_partition_shows_its_bars_symbols_and_file(
    page: Page, dev: DagsterDev, symbols: list[str], pictures: Path
) -> None:
    page.goto(f"/assets/{ASSET}?view=partitions&partition={HALF_DAY}")
    page.get_by_text("dagster/partition_row_count").wait_for()
    page.screenshot(path=pictures / "minutes_9_partition.png")

    rows = LakeFiles(open_store(str(dev.lake)), dataset=MINUTE).rows_of_symbols(HALF_DAY)
    assert shown_number(page, "dagster/partition_row_count") == sum(rows.values())
    assert max(rows.values()) == 210
    assert shown_number(page, "present") == len(rows) == len(symbols)
    key = f"data/ticks/minute/sessions/year=2024/{HALF_DAY}/part-0.parquet"
    assert re.search(re.escape(key), page.locator("body").inner_text())
