"""The sensor `securities_follow`: after sessions, actions and decisions, once they have ended."""

from pathlib import Path

import dagster as dg

from datalake_assets.automation.runs import PURPOSE
from datalake_assets.securities.decisions import ACCEPT, Decision, decide
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.world import World, utc

FACTORS = dg.AssetKey("adjustment_factors")
ACTIONS = dg.AssetKey("corporate_actions")


def session(world: World, at: str) -> None:
    """The newest session is collected."""
    world.clock.time = utc(at)
    (request,) = world.tick("new_sessions")[-1:]
    run = world.launch(request, "daily_ticks_job").run_id
    assert not world.tick("securities_follow")
    world.end(run, good=True, materialized=[request.partition_key])


def derived(world: World, *, good: bool = True) -> str:
    """The sensor asks for one run, which takes a minute."""
    (request,) = world.tick("securities_follow")
    assert request.tags[PURPOSE] == "securities"
    run = world.launch(request, "securities_job").run_id
    assert not world.tick("securities_follow")
    world.clock.time = world.clock.time.replace(minute=world.clock.time.minute + 1)
    world.end(run, good=good, materialized=[None] if good else [], asset=FACTORS)
    return str(request.run_key)


def test_both_are_derived_once_after_a_session_after_actions_and_after_a_decision(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, utc("2025-11-26 21:00"))
    assert not world.tick("securities_follow")
    assert "no new session, action" in world.skipped
    session(world, "2025-11-26 22:00")
    world.clock.time = utc("2025-11-26 22:10")
    assert derived(world).endswith("#1")
    assert not world.tick("securities_follow")
    assert "since the last derivation" in world.skipped

    world.clock.time = utc("2025-11-26 22:30")
    actions = world.launch(
        dg.RunRequest(tags={PURPOSE: "corporate actions"}), "corporate_actions_job"
    )
    world.end(actions.run_id, good=True, materialized=[None], asset=ACTIONS)
    derived(world)
    world.clock.time = utc("2025-11-27 12:00")
    store = open_store(world.lake.uri)
    decide(store, Decision(ACCEPT, "ann", utc("2025-11-27 11:59"), "", "an action"))
    derived(world)
    assert not world.tick("securities_follow")


def test_a_run_that_fails_is_asked_for_again_with_pauses(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-11-26 21:00"))
    session(world, "2025-11-26 22:00")
    derived(world, good=False)
    assert not world.tick("securities_follow")
    world.clock.time = utc("2025-11-26 23:00")
    assert derived(world).endswith("#2")
