"""The sensor `new_actions`: once after each session, and again while it fails."""

from pathlib import Path

import dagster as dg

from datalake_assets.automation.runs import PURPOSE
from datalake_assets_tests.automation.world import World, moments, utc

ASSET = dg.AssetKey("corporate_actions")


def live(world: World, first: str, last: str, down: tuple[str, str]) -> list[str]:
    """Tick as `moments` says; a run takes until the next tick and fails while it is down."""
    asked: list[str] = []
    running: list[str] = []
    for now in moments(first, last, down):
        world.clock.time = now
        good = not utc(down[0]) <= now < utc(down[1])
        for run in running:
            world.end(run, good=good, materialized=[None] if good else [], asset=ASSET)
        running = []
        for request in world.tick("new_actions"):
            assert request.tags[PURPOSE] == "corporate actions"
            running.append(world.launch(request, "corporate_actions_job").run_id)
            asked.append(f"{now:%m-%d %H:%M} {request.run_key}")
    return asked


def test_actions_are_asked_for_once_after_each_session_and_again_while_it_fails(
    tmp_path: Path,
) -> None:
    """Thanksgiving, a half day after it, a weekend, and a source that is down for an evening."""
    world = World(tmp_path, utc("2025-11-25 21:00"))
    asked = live(
        world, "2025-11-25 21:00", "2025-12-02 23:50", ("2025-12-01 21:00", "2025-12-01 23:00")
    )

    assert asked == [
        # At 21:00 the newest session is that of the day before, and nobody had asked after it.
        "11-25 21:00 corporate actions 2025-11-24 #1",
        "11-25 22:00 corporate actions 2025-11-25 #1",
        "11-26 22:00 corporate actions 2025-11-26 #1",
        "11-28 22:00 corporate actions 2025-11-28 #1",
        "12-01 22:00 corporate actions 2025-12-01 #1",
        "12-01 22:20 corporate actions 2025-12-01 #2",
        "12-01 23:00 corporate actions 2025-12-01 #3",
        "12-02 22:00 corporate actions 2025-12-02 #1",
    ]
    assert "were fetched after the session of 2025-12-02" in world.skipped


def test_it_gives_up_after_seven_attempts_and_says_what_to_type(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-01 22:00"))
    # From Friday's evening to Monday's all attempts for one session are made.
    asked = live(
        world, "2025-11-28 22:00", "2025-12-01 21:50", ("2025-11-28 00:00", "2026-01-01 00:00")
    )

    assert [one[-2:] for one in asked] == [f"#{number}" for number in range(1, 8)]
    assert "gave up after 7 attempts" in world.skipped
    assert "then run `datalake actions --sweep`" in world.skipped
