"""The sensor `witness`: once a day, after the factors were derived."""

from pathlib import Path

import dagster as dg

from datalake_assets.automation.runs import PURPOSE
from datalake_assets_tests.automation.world import World, utc

FACTORS = dg.AssetKey("adjustment_factors")


def derived(world: World, at: str) -> None:
    world.clock.time = utc(at)
    run = world.launch(dg.RunRequest(tags={PURPOSE: "securities"}), "securities_job")
    world.end(run.run_id, good=True, materialized=[None], asset=FACTORS)


def test_the_source_is_asked_once_a_day_after_the_factors_were_derived(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-01 22:00"))
    assert world.tick("witness") == []
    assert world.skipped == "the factors have not been derived today"

    derived(world, "2025-12-01 22:30")
    world.clock.time = utc("2025-12-01 22:45")
    (request,) = world.tick("witness")
    assert request.tags[PURPOSE] == "witness"
    world.launch(request, "witness_job")
    assert world.tick("witness") == []
    assert world.skipped == "the comparison of 2025-12-01 is done"

    # Past midnight in UTC it is the same day in New York.
    world.clock.time = utc("2025-12-02 03:00")
    assert world.tick("witness") == []
    world.clock.time = utc("2025-12-02 22:00")
    assert world.tick("witness") == []
    assert world.skipped == "the factors have not been derived today"
    derived(world, "2025-12-02 22:30")
    assert len(world.tick("witness")) == 1


def test_without_a_budget_the_source_is_not_asked(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-01 22:00"), {"DATALAKE_WITNESS_REQUESTS_PER_DAY": "0"})
    derived(world, "2025-12-01 22:30")
    assert world.tick("witness") == []
    assert world.skipped == "DATALAKE_WITNESS_REQUESTS_PER_DAY is 0: nothing is compared"
