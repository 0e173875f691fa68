"""Nobody touches it: Dagster's daemon, the sensors as they are by default, the embedded exchange.

Not here: what each sensor asks for and when (`test_sensors`, `test_freshness`), at times of choice.
This is the machine's own time, and a daemon, a code server and runs in processes of their own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from datalake_assets.automation import due
from datalake_assets.automation.jobs import NEWEST_SESSION
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.receiver import Receiver, receiver

ROOT = Path(__file__).parents[2]
SYMBOLS, CAUGHT_UP = 25, 2
DONE_WITHIN_SECONDS = (
    280  # a guard against hanging; they take about 80, and a minute more when a tick is missed
)
STOPPED_WITHIN_SECONDS = 40
PARTITION = "dagster/partition"


@dataclass(frozen=True)
class Untouched:
    """A daemon that nobody talks to: its records, its lake, what it printed, whom it tells."""

    instance: dg.DagsterInstance
    lake: LakeWriter
    log: Path
    told: Receiver

    def runs(self) -> list[dg.RunRecord]:
        """Its runs, oldest first."""
        return self.instance.get_run_records(ascending=True)

    def until(self, done: Callable[["Untouched"], bool]) -> None:
        """Wait; nothing else is done."""
        deadline = time.monotonic() + DONE_WITHIN_SECONDS
        while not done(self):
            if time.monotonic() > deadline:
                last = self.log.read_text(errors="replace").splitlines()[-60:]
                pytest.fail("\n".join([*map(str, self.runs()), *last]))
            time.sleep(0.5)


class Done:
    """Collected, published by year, found to be fresh, and told so."""

    def __init__(self, sessions: list[date]) -> None:
        self._sessions = sessions

    def __call__(self, daemon: Untouched) -> bool:
        return (
            daemon.lake.sessions() == self._sessions
            and not behind(daemon.lake, self._sessions)
            and all(record.dagster_run.is_finished for record in daemon.runs())
            and verdict(daemon.instance) is True
            and len(daemon.told.texts) == 2
        )


def behind(lake: LakeWriter, sessions: list[date]) -> set[int]:
    """The years whose symbol-years or year files don't show these sessions as they are."""
    forms = (SymbolYears(lake.store), YearFiles(lake.store))
    years = {day.year for day in sessions}
    return {year for year in years if any(form.behind(year) for form in forms)}


def verdict(instance: dg.DagsterInstance) -> bool | None:
    """What the check of freshness said last."""
    records = instance.event_log_storage.get_asset_check_execution_history(NEWEST_SESSION, limit=1)
    evaluation = records[0].evaluation if records else None
    return evaluation.passed if evaluation else None


def newest() -> list[date]:
    """The sessions that the sensor has to collect, at this moment."""
    return due.newest(datetime.now(UTC), CAUGHT_UP, timedelta(minutes=30))


def steady(first: date) -> list[str]:
    """Symbols with a bar in every session from this one on: of so few, one silent one is many."""
    market = SyntheticMarket()
    names = [row["symbol"] for row in market.assets() if row["status"] == "active"][:400]
    start = market.sessions.index(first)
    bars = market.bars(names, start, start + 60)  # later than that some are renamed, or end
    counts = np.bincount(bars.symbol, minlength=len(names))
    return [name for name, count in zip(names, counts, strict=True) if count == max(counts)]


@pytest.fixture(scope="module")
def sessions() -> list[date]:
    return newest()


@pytest.fixture(scope="module")
def daemons(
    sessions: list[date], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Untouched, Untouched]]:
    """Two of them, side by side to save time: on an empty lake, and on one of another source."""
    with (
        untouched(tmp_path_factory.mktemp("empty"), sessions[0]) as one,
        untouched(tmp_path_factory.mktemp("foreign"), sessions[0], source="alpaca sip") as other,
    ):
        yield one, other


@contextlib.contextmanager
def untouched(folder: Path, first: date, source: str | None = None) -> Iterator[Untouched]:
    """`dagster-daemon run` with no key and the sensors as they are.

    Args:
        folder: Where everything is.
        first: The first session.
        source: Whose the lake is; None: nobody's.
    """
    home = folder / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "datalake_assets" / "dagster.yaml", home)
    lake = LakeWriter(open_store(str(folder / "lake")))
    if source:
        lake.claim(source)
    with receiver() as told:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
            "DAGSTER_HOME": str(home),
            "DATALAKE_URI": str(folder / "lake"),
            "DATALAKE_START_DATE": str(first),
            "DATALAKE_RUNNING_YEAR": "daily",
            "DATALAKE_SYMBOLS": ",".join(steady(first)[:SYMBOLS]),
            "DATALAKE_CATCH_UP_SESSIONS": str(CAUGHT_UP),
            "DATALAKE_ALERT_WEBHOOK": told.address,
        }
        log = folder / "daemon.log"
        # The records are made before the daemon is there: two that make SQLite's databases at once
        # leave them with two versions, which no Dagster opens.
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", str(home))  # where the configuration has its folder from
            instance = dg.DagsterInstance.from_config(str(home))
        with instance, running(environment, log):
            yield Untouched(instance, lake, log, told)


@contextlib.contextmanager
def running(
    environment: Mapping[str, str], log: Path, workspace: Path = ROOT / "workspace.yaml"
) -> Iterator[None]:
    """The daemon, with a code server that it starts."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-w", str(workspace)],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOPPED_WITHIN_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_untouched_it_collects_the_newest_sessions_the_years_follow_and_the_check_is_green(
    daemons: tuple[Untouched, Untouched], sessions: list[date]
) -> None:
    daemon, _ = daemons
    daemon.until(Done(sessions))

    if newest() != sessions:
        pytest.skip("a session became due while this ran")
    # The report may have been asked for since.
    records = [record for record in daemon.runs() if record.dagster_run.is_finished]
    runs = [record.dagster_run for record in records]
    for record, run in zip(records, runs, strict=True):
        seconds = (record.end_time or 0) - (record.start_time or 0)
        print(run.job_name, run.tags.get(PARTITION, ""), run.status.value, f"{seconds:.1f} s")
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    asked = [(run.job_name, run.tags.get(PARTITION, "")) for run in runs]
    years = {day.year for day in sessions}
    collected = [("daily_ticks_job", str(day)) for day in sessions]
    assert sorted(one for one in asked if one[0] == "daily_ticks_job") == collected
    jobs = ("symbol_year_ticks_job", "year_ticks_job")
    published = {(job, str(year)) for job in jobs for year in years}
    # The report follows when all is quiet, perhaps after this test; so may actions and securities.
    besides = {(job, "") for job in ("lake_report_job", "corporate_actions_job", "securities_job")}
    assert {*asked} - besides == {*collected, *published, ("freshness_job", "")}
    # A year may be published between two of its sessions, and again after the last of them.
    counted = [one for one in asked if one not in besides]
    assert len(counted) <= len(collected) + 4 * len(years) + 2
    assert asked.count(("corporate_actions_job", "")) <= 1
    for day in sessions:
        assert daemon.lake.read(day).bars.num_rows == SYMBOLS
    assert daemon.instance.get_materialized_partitions(dg.AssetKey("daily_ticks")) == {
        str(day) for day in sessions
    }
    assert all(SymbolYears(daemon.lake.store).prove(year).holds for year in years)
    assert all(YearFiles(daemon.lake.store).prove(year).holds for year in years)
    late, again = daemon.told.texts
    assert "was due at" in late
    assert "is there: the lake is fresh again" in again


def test_of_runs_that_fail_people_are_told_once_each_and_what_to_type(
    daemons: tuple[Untouched, Untouched], sessions: list[date]
) -> None:
    _, daemon = daemons
    daemon.until(lambda one: len(failures(one)) == len(sessions))

    assert daemon.lake.sessions() == []
    told = "\n".join(failures(daemon))
    for record in daemon.runs():
        run = record.dagster_run
        if run.job_name == "daily_ticks_job":
            assert run.status is dg.DagsterRunStatus.FAILURE
            assert told.count(f"daily_ticks_job of {run.tags[PARTITION]} failed:") == 1
            assert told.count(f"Run {run.run_id}\n") == 1
            assert f"Run: datalake collect --session {run.tags[PARTITION]}" in told
    assert "holds bars of 'alpaca sip'" in told


def failures(daemon: Untouched) -> list[str]:
    """What was told of runs."""
    return [text for text in daemon.told.texts if "_job of " in text]
