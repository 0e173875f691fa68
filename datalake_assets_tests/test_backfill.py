"""Going on: a backfill, or a run launched again, asks only for what is not finished."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from datalake_assets import market_calendar
from datalake_assets.assets.session_ticks import DAILY_TICKS as KEY
from datalake_assets.definitions import build_definitions
from datalake_assets.lake.files import LakeFiles
from datalake_assets.resources import (
    CollectorResource,
    EmbeddedExchangeResource,
    LakeResource,
    with_defaults,
)
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.workbench import materializations

DAYS = market_calendar.sessions(date(2024, 6, 24), date(2024, 7, 5))  # over Independence Day


@dataclass
class Desk:
    """A lake, Dagster's records, and the job over an exchange of thirty symbols."""

    folder: Path
    instance: dg.DagsterInstance

    def run(
        self,
        first: date = DAYS[0],
        last: date = DAYS[-1],
        **knobs: Any,
    ) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(
            Settings.load({}),
            source=EmbeddedExchangeResource(active=30, inactive=5),
            collector=with_defaults(CollectorResource, requests_per_minute=1_000_000),
            lake=LakeResource(uri=str(self.folder)),
        )
        return definitions.resolve_job_def("daily_ticks_job").execute_in_process(
            instance=self.instance,
            tags={
                "dagster/asset_partition_range_start": f"{first}",
                "dagster/asset_partition_range_end": f"{last}",
            },
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "resources": {"collector": {"config": knobs}},
            },
            raise_on_error=False,
        )

    @property
    def lake(self) -> LakeFiles:
        return LakeFiles(open_store(str(self.folder)))

    def collected_by(self) -> dict[date, str]:
        """Which run collected each published session."""
        return {day: self.lake.read(day).provenance.run_id for day in self.lake.sessions()}

    def known(self) -> set[str]:
        """The sessions that Dagster calls materialized."""
        return set(self.instance.get_materialized_partitions(KEY))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Desk(tmp_path / "lake", instance)


def test_a_backfill_collects_only_the_sessions_that_are_not_published(desk: Desk) -> None:
    first = desk.run(DAYS[2], DAYS[4])
    second = desk.run(missing_only=True)

    assert first.success
    assert second.success
    assert desk.lake.sessions() == DAYS
    by_first = {day for day, run in desk.collected_by().items() if run == first.run_id}
    assert by_first == set(DAYS[2:5])
    assert desk.known() == {f"{day}" for day in DAYS}


def test_a_backfill_with_nothing_left_succeeds_and_says_so(desk: Desk) -> None:
    before = desk.run()
    again = desk.run(missing_only=True)

    assert again.success
    checks = {check.check_name: check for check in again.get_asset_check_evaluations()}
    assert checks["success_rate"].passed
    assert checks["success_rate"].description == "nothing to collect"
    assert set(desk.collected_by().values()) == {before.run_id}


def test_without_being_told_to_go_on_a_run_collects_all_of_its_sessions_again(desk: Desk) -> None:
    first = desk.run()
    again = desk.run()

    told = materializations(again)
    assert set(told) == {f"{day}" for day in DAYS}
    assert all(metadata["unchanged"].value for metadata in told.values())
    # The same bars and ledgers: their files stay as they are.
    assert set(desk.collected_by().values()) == {first.run_id}


def test_a_session_that_was_published_without_dagster_knowing_is_told_and_not_collected(
    desk: Desk,
) -> None:
    """A process can be killed between the two."""
    before = desk.run()
    with dg.DagsterInstance.ephemeral() as forgetful:
        other = Desk(desk.folder, forgetful)
        assert other.run(missing_only=True).success
        assert other.known() == {f"{day}" for day in DAYS}
    assert set(desk.collected_by().values()) == {before.run_id}


def test_a_damaged_session_is_not_finished(desk: Desk) -> None:
    desk.run()
    desk.lake.store.put(layout.session_key(DAYS[1]), b"PAR1 and nothing more")
    mended = desk.run(missing_only=True)

    assert mended.success
    by_last = {day for day, run in desk.collected_by().items() if run == mended.run_id}
    assert by_last == {DAYS[1]}
