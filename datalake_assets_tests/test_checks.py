"""The checks that look at the lake by themselves.

Not here: the audit of a session, which is shown as checks of `daily_ticks` (`test_assets`).
"""

from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets.checks import build_universe_is_whole, judge
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.collection.universe import with_odd
from datalake_assets.definitions import build_definitions
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource, LakeResource
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

SOURCE = EmbeddedExchangeResource(active=10, inactive=0)
DAY = date(2024, 7, 3)


def shrinkage(now: int, before: int | None) -> dg.AssetCheckResult:
    """The judgement with the usual threshold."""
    return judge(now, before, CollectorResource().max_universe_loss)


def numbers(result: dg.AssetCheckResult) -> dict[str, Any]:
    return {name: value.value for name, value in (result.metadata or {}).items()}


@pytest.mark.parametrize(
    ("now", "before", "passes"),
    [
        (10_000, 10_000, True),
        (12_000, 10_000, True),
        (9_001, 10_000, True),
        (9_000, 10_000, True),
        (8_999, 10_000, False),
        (0, 10_000, False),
        (1, None, True),
        (0, None, False),
        (0, 0, False),
        (1, 0, True),  # a list that was empty tells nothing of the one after it
    ],
)
def test_a_universe_may_lose_a_tenth_of_its_active_symbols_and_must_have_some(
    now: int, before: int | None, passes: bool
) -> None:
    assert shrinkage(now, before).passed is passes


@given(before=st.integers(1, 20_000).map(lambda tens: tens * 10))
def test_exactly_a_tenth_is_allowed_whatever_the_size_and_one_more_is_not(before: int) -> None:
    """Floating point must not decide."""
    kept = before - before // 10

    assert shrinkage(kept, before).passed
    assert not shrinkage(kept - 1, before).passed


def test_the_threshold_is_the_collectors() -> None:
    assert judge(8_000, 10_000, 0.2).passed
    assert not judge(7_999, 10_000, 0.2).passed
    assert not judge(0, 10_000, 0.999).passed


def test_the_numbers_of_the_check_can_be_plotted() -> None:
    told = numbers(shrinkage(9_000, 10_000))

    assert (told["active"], told["active_before"]) == (9_000, 10_000)
    assert told["lost"] == pytest.approx(0.1)
    assert told["threshold"] == 0.1
    assert numbers(shrinkage(11_000, 10_000))["lost"] == 0.0
    assert "active_before" not in numbers(shrinkage(11_000, None))


def test_the_check_says_both_numbers_in_words() -> None:
    assert shrinkage(8_999, 10_000).description == (
        "8,999 active symbols, 10,000 in the previous snapshot"
    )
    assert shrinkage(8_999, None).description == "8,999 active symbols"


def snapshot(active: int, inactive: int = 0) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "symbol": f"S{number}",
                "status": "active" if number < active else "inactive",
                "exchange": "NYSE",
                "name": None,
                "tradable": True,
                "asset_id": f"{number}",
            }
            for number in range(active + inactive)
        ],
        UNIVERSE,
    )


def check(folder: Path, snapshots: Iterable[pa.Table]) -> dg.AssetCheckEvaluation:
    """What the check says of a lake with these snapshots, run by itself."""
    lake = LakeWriter(open_store(str(folder)))
    for days, table in enumerate(snapshots):
        lake.write_universe(DAY + timedelta(days=days), table)
    own = build_definitions(Settings.load({}), source=SOURCE, lake=LakeResource(uri=str(folder)))
    alone = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("stock_universe"), CHECK))
    definitions = dg.Definitions(
        assets=own.assets,
        asset_checks=own.asset_checks,
        resources=own.resources,
        jobs=[dg.define_asset_job("alone", selection=alone)],
        executor=dg.in_process_executor,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("alone").execute_in_process(
            instance=instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


CHECK = "universe_is_whole"


def test_the_first_snapshot_of_a_lake_is_judged_by_itself(tmp_path: Path) -> None:
    found = check(tmp_path, [snapshot(5, 2)])

    assert found.passed
    assert found.metadata["active"].value == 5


def test_the_newest_snapshot_is_held_against_the_one_before_and_no_other(tmp_path: Path) -> None:
    found = check(tmp_path, [snapshot(100), snapshot(10), snapshot(9)])

    assert found.passed
    assert (found.metadata["active_before"].value, found.metadata["active"].value) == (10, 9)


def test_only_active_symbols_count(tmp_path: Path) -> None:
    found = check(tmp_path, [snapshot(10), snapshot(8, 1_000)])

    assert not found.passed


def test_what_could_not_be_taken_of_the_list_is_named(tmp_path: Path) -> None:
    untaken = [f"no. {number}: {{'symbol': None}}" for number in range(60)]
    found = check(tmp_path, [snapshot(10), with_odd(snapshot(10), untaken)])

    assert found.passed
    assert found.metadata["untaken"].value == 60
    assert found.metadata["first_untaken"].value == untaken[:50]
    assert "60 items of the list could not be read" in (found.description or "")


def test_a_list_of_which_all_was_taken_names_nothing(tmp_path: Path) -> None:
    found = check(tmp_path, [with_odd(snapshot(10), ["no. 1: 7"]), snapshot(10)])

    assert "untaken" not in found.metadata
    assert "could not be read" not in (found.description or "")


def test_a_list_without_one_active_symbol_fails(tmp_path: Path) -> None:
    assert not check(tmp_path, [snapshot(0, 5)]).passed


def test_a_lake_without_a_snapshot_fails_the_check_and_gets_nothing_written(
    tmp_path: Path,
) -> None:
    """In the UI a check can be run before its asset ever was."""
    found = check(tmp_path, [])

    assert not found.passed
    assert not (tmp_path / layout.MARKER).exists()


def test_a_failed_check_keeps_what_comes_after_from_running() -> None:
    definition = build_universe_is_whole()

    (spec,) = definition.check_specs  # type: ignore[union-attr]
    assert spec.blocking
    assert spec.key == dg.AssetCheckKey(dg.AssetKey("stock_universe"), CHECK)
    assert spec.description
