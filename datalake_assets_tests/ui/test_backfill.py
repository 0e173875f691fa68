"""A person backfills years by clicking: watches them, repairs a session, ends a run and goes on.

The exchange runs in this process, with a market that errs on purpose and answers that fail to
come; to the program it is Alpaca, known by its address.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.dataset import DAILY
from datalake_assets.exchange.faults import Arrival, Fault
from datalake_assets.exchange.market import Bars
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage.store import open_store
from datalake_assets_tests.ui.conftest import ROOT, DagsterDev, make_dev

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytest.importorskip("playwright.sync_api", reason="installed by make test-ui")
from playwright.sync_api import expect

from datalake_assets_tests.exchange.calling import keys_to
from datalake_assets_tests.ui.test_materialize import follow_run, shown_number

pytestmark = pytest.mark.ui

SYMBOLS = 40
PER_RUN = 253
"""Sessions that the settings' default puts in one run at most."""

TWO_YEARS = market_calendar.sessions(date(2023, 1, 1), date(2024, 12, 31))
SPOILT_YEAR = market_calendar.sessions(date(2022, 1, 1), date(2022, 12, 31))
SPOILT, DISPUTED = date(2022, 6, 15), 8
"""The session of which the source can't make up its mind, and about how many symbols."""
ENDED_YEAR = market_calendar.sessions(date(2021, 1, 1), date(2021, 12, 31))
SILENT_FROM = ENDED_YEAR[2 * DAILY.window]
"""The first session of the third window: from here on no answer comes, until it is told to."""

# Dagster's daemon looks for new backfills twice a minute, and each run is a new process.
ENDS_WITHIN_MS = 240_000
GONE_WITHIN_SECONDS = 60  # a guard; what it takes is measured and printed


class MarketOfTwoMinds(SyntheticMarket):
    """Gives two different bars for one session and some symbols, until it is `settled`.

    No client can know which of them is right, so these symbols are failed in that session alone.
    """

    def __init__(self, session: date, symbols: int) -> None:
        super().__init__()
        self._spoilt, self._count = self.sessions.index(session), symbols
        self.settled = False

    def bars(self, symbols: Sequence[str], first: int, stop: int, asof: date | None = None) -> Bars:
        told = super().bars(symbols, first, stop, asof)
        if self.settled:
            return told
        twice = np.flatnonzero((told.session == self._spoilt) & (told.symbol < self._count))
        doubled = told.take(np.sort(np.concatenate([np.arange(len(told)), twice])))
        again = np.flatnonzero(doubled.session == self._spoilt)[1::2][: len(twice)]
        volume = doubled.volume.copy()
        volume[again] += 1
        return replace(doubled, volume=volume)


@dataclass
class SilentFrom:
    """No answer about sessions from this one on: the headers come, and then nothing."""

    session: date
    lifted: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[date, date]] = field(default_factory=list)

    def __call__(self, arrival: Arrival) -> Fault | None:
        if not arrival.of_bars:
            return None
        first, last = (
            datetime.fromisoformat(arrival.query[name]).date() for name in ("start", "end")
        )
        self.asked.append((first, last))
        concerned = self.session <= first <= ENDED_YEAR[-1] and not self.lifted.is_set()
        return Fault(kind="silence", seconds=600) if concerned else None


@pytest.fixture(scope="module")
def market() -> MarketOfTwoMinds:
    return MarketOfTwoMinds(SPOILT, DISPUTED)


@pytest.fixture(scope="module")
def silence() -> SilentFrom:
    return SilentFrom(SILENT_FROM)


@pytest.fixture(scope="module")
def dev(
    market: MarketOfTwoMinds, silence: SilentFrom, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DagsterDev]:
    """`make dev` with keys, a high limit, and symbols that print in every session."""
    with (
        ExchangeServer(Exchange(market, faults=silence)) as server,
        make_dev(
            tmp_path_factory.mktemp("backfill"),
            **keys_to(server.url, DATALAKE_SYMBOLS=",".join(steady(market))),
        ) as running,
    ):
        yield running


def steady(market: SyntheticMarket) -> list[str]:
    """Symbols with a bar in every session that these tests ask for."""
    first, stop = (market.sessions.index(day) for day in (ENDED_YEAR[0], TWO_YEARS[-1]))
    names = [row["symbol"] for row in market.assets() if row["status"] == "active"]
    some = [name for name in names if name.isalpha()][: 4 * SYMBOLS]
    counts = np.bincount(SyntheticMarket().bars(some, first, stop + 1).symbol, minlength=len(some))
    return [name for name, count in zip(some, counts, strict=True) if count == stop + 1 - first][
        :SYMBOLS
    ]


@pytest.fixture(scope="module")
def page(browser: Browser, dev: DagsterDev, pictures: Path) -> Iterator[Page]:
    page = browser.new_page(base_url=dev.url, viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    page.screenshot(path=pictures / "backfill_last.png")
    page.close()


# --- what a person does ---


def choose_partitions(page: Page, partitions: str, asset: str = "daily_ticks") -> Locator:
    """The dialog that launches them, with these partitions chosen among those of all time."""
    page.goto(f"/assets/{asset}")
    page.get_by_role("button", name="Materialize").first.click()
    # Before the first run Dagster asks whether to go on without a universe; a run takes its own.
    confirm = page.get_by_role("button", name="Confirm")
    dialog = page.get_by_role("dialog").filter(has_text="Launch runs to materialize")
    confirm.or_(dialog).first.wait_for()
    if confirm.is_visible():
        confirm.click()
    dialog.get_by_text("Show all partitions").click()
    box = dialog.get_by_role("textbox").first
    box.fill(partitions)
    box.press("Enter")
    return dialog


def launch_backfill(
    page: Page, sessions: Sequence[date], picture: Path, asset: str = "daily_ticks"
) -> str:
    """Launches the range by clicking and opens the page of its backfill; returns its id."""
    dialog = choose_partitions(page, f"[{sessions[0]}...{sessions[-1]}]", asset)
    dialog.get_by_text(f"{len(sessions)} partitions", exact=True).wait_for()
    page.screenshot(path=picture)
    dialog.get_by_role("button", name="Launch backfill").click()
    created = page.get_by_role("listitem").filter(has_text="Created backfill")
    created.get_by_role("link", name="View").click()
    page.wait_for_url(re.compile(r"/runs/b/\w+"))
    page.get_by_text("Partition selection").wait_for()
    return page.url.rpartition("/")[2]


def backfill_ended(page: Page, picture: Path) -> tuple[str, dict[str, int]]:
    """Watches the page of a backfill to its end; its status and its partitions by state."""
    page.get_by_text("100% completed").wait_for(timeout=ENDS_WITHIN_MS)
    ended = page.get_by_text(re.compile(r"^(Succeeded|Failed|Canceled)$")).locator("visible=true")
    expect(ended).to_have_count(3, timeout=ENDS_WITHIN_MS)  # two heads of columns, and the status
    page.screenshot(path=picture)
    text = page.locator("body").inner_text()
    status = re.search(r"^Status\n(.*)$", text, re.M)
    counts = re.search(r"100% completed\n(\d+)\n(\d+)\n(\d+)\n(\d+)", text)
    assert status is not None, text
    assert counts is not None, text
    names = ("targeted", "in progress", "succeeded", "failed")
    return status[1], dict(zip(names, map(int, counts.groups()), strict=True))


def launch_repair(page: Page, session: date, picture: Path, asset: str = "daily_ticks") -> None:
    """Launches the session by clicking, with the collector's `repair` on."""
    dialog = choose_partitions(page, f"{session}", asset)
    dialog.get_by_text("1 partition", exact=True).wait_for()
    dialog.get_by_text("Config", exact=True).click()
    dialog.get_by_role("button", name="Add config").click()
    editor = page.get_by_role("dialog").filter(has_text="Config Editor")
    editor.locator(".CodeMirror").click()
    page.keyboard.insert_text("resources: {collector: {config: {repair: true}}}")
    editor.get_by_text("No errors").wait_for()
    page.screenshot(path=picture)
    editor.get_by_role("button", name="Save config").click()
    dialog.get_by_role("button", name="Launch 1 run").click()


def reexecute_all(page: Page, dev: DagsterDev, run: Run, backfill: str) -> Run:
    """Clicks in the page of a run that was terminated, and returns the run that takes its place.

    The UI asks to confirm this once the backfill has ended, which the daemon sees some seconds
    after the run. So that is waited for: before it, there may be a question or none.
    """
    deadline = time.monotonic() + 120
    while status_of_backfill(dev, backfill) in ("REQUESTED", "CANCELING", "FAILING"):
        assert time.monotonic() < deadline, dev.last_lines()
        time.sleep(0.5)
    page.get_by_role("button", name="Re-execute all").click()
    question = page.get_by_role("dialog").filter(has_text="Re-execution within backfill")
    question.get_by_role("button", name="Confirm").click()
    deadline = time.monotonic() + 120
    while not (launched := successors(dev, run)):
        assert time.monotonic() < deadline, dev.last_lines()
        time.sleep(0.5)
    return launched[0]


def expect_partitions(
    page: Page, materialized: int, failed: int, asset: str = "daily_ticks"
) -> None:
    page.goto(f"/assets/{asset}?view=partitions")
    expect(page.get_by_text(f"Materialized ({materialized:,})")).to_be_visible(timeout=60_000)
    expect(page.get_by_text(f"Failed ({failed:,})")).to_be_visible()


# --- what Dagster and the lake know ---


def ask(dev: DagsterDev, query: str, **variables: Any) -> Any:
    """What Dagster's GraphQL answers."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(
        f"{dev.url}/graphql", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        told = json.load(answer)
    assert "errors" not in told, told["errors"]
    return told["data"]


@dataclass(frozen=True)
class Run:
    """One run of a backfill or after it."""

    id: str
    status: str
    sessions: list[date]
    messages: list[str]

    @property
    def process(self) -> int:
        """The process that Dagster started for it."""
        told = "\n".join(self.messages)
        found = re.search(r"process for run \(pid: (\d+)\)", told)
        assert found, told
        return int(found[1])


def runs_of(dev: DagsterDev, **tags: str) -> list[Run]:
    """The runs with these tags, oldest first."""
    told = ask(
        dev,
        """query ($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) { ... on Runs {
            results {
                runId status tags { key value }
                eventConnection(limit: 10000) { events { ... on MessageEvent { message } } }
            }
        } } }""",
        tags=[{"key": key, "value": value} for key, value in tags.items()],
    )
    runs = []
    for run in reversed(told["runsOrError"]["results"]):
        tagged = {tag["key"]: tag["value"] for tag in run["tags"]}
        first, last = (
            date.fromisoformat(
                tagged.get(f"dagster/asset_partition_range_{end}") or tagged["dagster/partition"]
            )
            for end in ("start", "end")
        )
        messages = [event["message"] for event in run["eventConnection"]["events"]]
        sessions = market_calendar.sessions(first, last)
        runs.append(Run(run["runId"], run["status"], sessions, messages))
    return runs


def runs_of_backfill(dev: DagsterDev, backfill: str) -> list[Run]:
    return runs_of(dev, **{"dagster/backfill": backfill})


def status_of_backfill(dev: DagsterDev, backfill: str) -> str:
    told = ask(
        dev,
        """query ($backfill: String!) { partitionBackfillOrError(backfillId: $backfill) {
            ... on PartitionBackfill { status }
        } }""",
        backfill=backfill,
    )
    return str(told["partitionBackfillOrError"]["status"])


def successors(dev: DagsterDev, run: Run) -> list[Run]:
    """The runs that re-execute this one. They are not of its backfill, which has ended."""
    return runs_of(dev, **{"dagster/parent_run_id": run.id})


def partitions_by_status(dev: DagsterDev, asset: str = "daily_ticks") -> dict[str, set[date]]:
    """The sessions that the UI shows green ("materialized") and red ("failed")."""
    told = ask(
        dev,
        """query ($asset: String!) { assetNodeOrError(assetKey: {path: [$asset]}) {
            ... on AssetNode {
                partitionKeys
                assetPartitionStatuses { ... on TimePartitionStatuses {
                    ranges { status startKey endKey }
                } }
            }
        } }""",
        asset=asset,
    )["assetNodeOrError"]
    found: dict[str, set[date]] = defaultdict(set)
    keys = [date.fromisoformat(key) for key in told["partitionKeys"]]
    for span in told["assetPartitionStatuses"]["ranges"]:
        first, last = (date.fromisoformat(span[end]) for end in ("startKey", "endKey"))
        found[span["status"]] |= {key for key in keys if first <= key <= last}
    return {status: found[status] for status in ("MATERIALIZED", "FAILED")}


def published(dev: DagsterDev) -> set[date]:
    """The sessions of the lake; every one is read whole."""
    lake = LakeFiles(open_store(str(dev.lake)))
    days = lake.sessions()
    for day in days:
        assert lake.read(day).bars.num_rows == SYMBOLS
    return set(days)


def datalake(dev: DagsterDev, *arguments: str) -> str:
    """What the command prints for the same lake."""
    done = subprocess.run(
        [sys.executable, "-m", "datalake_assets", *arguments],
        cwd=ROOT,
        env=dict(dev.environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- what must then be seen ---


def test_a_holiday_inside_the_range_is_no_partition(page: Page, pictures: Path) -> None:
    dialog = choose_partitions(page, "2023-07-04")
    page.get_by_text("Could not find partition").wait_for()
    page.screenshot(path=pictures / "backfill_1_holiday.png")
    assert dialog.get_by_role("button", name="Launch backfill").is_visible()


def test_a_backfill_of_two_years_materializes_each_session_in_runs_of_a_year(
    page: Page, dev: DagsterDev, pictures: Path
) -> None:
    backfill = launch_backfill(page, TWO_YEARS, pictures / "backfill_2_launch.png")
    status, told = backfill_ended(page, pictures / "backfill_3_completed.png")
    count = len(TWO_YEARS)
    assert (status, told) == (
        "Succeeded",
        {"targeted": count, "in progress": 0, "succeeded": count, "failed": 0},
    )

    runs = runs_of_backfill(dev, backfill)
    assert [run.status for run in runs] == ["SUCCESS"] * 2
    assert max(len(run.sessions) for run in runs) <= PER_RUN
    asked = sorted(itertools.chain.from_iterable(run.sessions for run in runs))
    assert asked == TWO_YEARS, "a session in no run, or in two"
    assert partitions_by_status(dev) == {"MATERIALIZED": set(TWO_YEARS), "FAILED": set()}
    assert published(dev) == set(TWO_YEARS)
    expect_partitions(page, count, 0)
    page.screenshot(path=pictures / "backfill_4_partitions.png")


def test_one_spoilt_session_of_a_year_is_red_alone_and_a_repair_makes_it_green(
    page: Page, dev: DagsterDev, market: MarketOfTwoMinds, pictures: Path
) -> None:
    before = published(dev)
    good = set(SPOILT_YEAR) - {SPOILT}
    backfill = launch_backfill(page, SPOILT_YEAR, pictures / "backfill_5_launch.png")
    status, told = backfill_ended(page, pictures / "backfill_6_one_failed.png")
    count = len(SPOILT_YEAR)
    assert (status, told) == (
        "Failed",
        {"targeted": count, "in progress": 0, "succeeded": count - 1, "failed": 1},
    )
    (run,) = runs_of_backfill(dev, backfill)
    assert run.status == "FAILURE"
    assert partitions_by_status(dev) == {"MATERIALIZED": before | good, "FAILED": {SPOILT}}
    assert published(dev) == before | good
    expect_partitions(page, len(before | good), 1)
    page.screenshot(path=pictures / "backfill_7_red.png")
    page.goto(f"/assets/daily_ticks?view=partitions&partition={SPOILT}")
    page.get_by_text("failed, and did not materialize this asset").wait_for()
    page.screenshot(path=pictures / "backfill_8_red_partition.png")

    market.settled = True
    launch_repair(page, SPOILT, pictures / "backfill_9_config.png")
    follow_run(page, dev, pictures / "backfill_10_repaired.png")

    assert partitions_by_status(dev) == {"MATERIALIZED": before | {*SPOILT_YEAR}, "FAILED": set()}
    assert published(dev) == before | {*SPOILT_YEAR}
    page.goto(f"/assets/daily_ticks?view=partitions&partition={SPOILT}")
    expect(page.get_by_text("Failed (0)")).to_be_visible(timeout=60_000)
    page.get_by_text("dagster/partition_row_count").wait_for()
    page.screenshot(path=pictures / "backfill_11_green.png")
    assert shown_number(page, "asked") == DISPUTED, "a repair asks for what is missing alone"
    assert shown_number(page, "dagster/partition_row_count") == SYMBOLS


def test_a_run_that_is_terminated_ends_within_seconds_and_its_successor_goes_on(
    page: Page, dev: DagsterDev, silence: SilentFrom, pictures: Path
) -> None:
    before = partitions_by_status(dev)["MATERIALIZED"]
    backfill = launch_backfill(page, ENDED_YEAR, pictures / "backfill_12_launch.png")
    page.get_by_role("tab", name="Runs").click()
    link = page.locator("a[href^='/runs/']").filter(has_text=re.compile(r"[0-9a-f]{8}"))
    link.first.click(timeout=ENDS_WITHIN_MS)
    page.get_by_role("button", name="Terminate").wait_for()
    finished = set(ENDED_YEAR[: 2 * DAILY.window])
    deadline = time.monotonic() + 120
    while partitions_by_status(dev)["MATERIALIZED"] < before | finished:
        assert time.monotonic() < deadline, dev.last_lines()
        time.sleep(0.5)
    (run,) = runs_of_backfill(dev, backfill)
    os.kill(run.process, 0)  # it lives, and waits for answers that don't come

    page.get_by_role("button", name="Terminate").click()
    page.screenshot(path=pictures / "backfill_13_terminate.png")
    page.get_by_role("dialog").get_by_role("button", name="Terminate 1 run").click()
    seconds = seconds_until_gone(run.process)
    print(f"terminated in the UI: the process was gone after {seconds:.1f} s")
    expect(page.get_by_text("Canceled", exact=True).first).to_be_visible()
    page.screenshot(path=pictures / "backfill_14_canceled.png")

    assert published(dev) == before | finished
    assert partitions_by_status(dev)["MATERIALIZED"] == before | finished
    status = json.loads(datalake(dev, "status", "--json"))
    assert status["sessions_published"] == len(before | finished)
    assert status["damaged"] == status["to_repair"] == []

    silence.lifted.set()
    silence.asked.clear()
    reexecuted = reexecute_all(page, dev, run, backfill)
    page.goto(f"/runs/{reexecuted.id}")
    page.get_by_text("Success", exact=True).first.wait_for(timeout=ENDS_WITHIN_MS)
    page.screenshot(path=pictures / "backfill_15_reexecuted.png")
    (successor,) = successors(dev, run)
    assert successor.status == "SUCCESS"
    assert f"{len(finished)} of {len(ENDED_YEAR)} sessions are published already" in (
        successor.messages
    )
    assert min(first for first, _ in silence.asked) == SILENT_FROM
    assert published(dev) == before | set(ENDED_YEAR)
    assert partitions_by_status(dev)["MATERIALIZED"] == before | set(ENDED_YEAR)


def seconds_until_gone(process: int) -> float:
    """How long a process lives on from now; its parent takes notice of its end at once."""
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < GONE_WITHIN_SECONDS:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return seconds
        time.sleep(0.05)
    pytest.fail(f"the process {process} is there after {seconds:.0f} s")
