"""The asset `corporate_actions`: what a run asks for, writes, tells and judges.

Not here: the log (`actions.test_log`), windows (`actions.test_sweep`), oddities by themselves
(`actions.test_oddities`), and when a run is asked for (`automation.test_actions`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from datalake_assets import liveness
from datalake_assets.actions.action import KINDS
from datalake_assets.actions.log import ActionLog
from datalake_assets.actions.oddities import KINDS as ODDITIES
from datalake_assets.actions.sweep import AHEAD, BEHIND, FIRST
from datalake_assets.definitions import build_definitions
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.names import OURS
from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource, LakeResource
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.actions.sayings import ScriptedActions, action, split
from datalake_assets_tests.automation.world import SetClock
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.lake.files import collected
from datalake_assets_tests.workbench import QUIET, failure, materializations, source_of, universe

EVENING = datetime(2026, 3, 2, 22, tzinfo=UTC)


@dataclass
class Bench:
    """A lake, a source that says what it is told, and Dagster's records."""

    uri: str
    instance: dg.DagsterInstance
    source: ScriptedActions = field(default_factory=ScriptedActions)
    clock: SetClock = field(default_factory=lambda: SetClock(EVENING))
    knobs: dict[str, Any] = field(default_factory=dict)

    @property
    def lake(self) -> LakeWriter:
        return LakeWriter(open_store(self.uri))

    def run(self, **config: Any) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(
            Settings.load({}),
            collector=CollectorResource(
                **{"requests_per_minute": 10_000_000, "attempts": 1} | self.knobs
            ),
            source=source_of(self.source),  # type: ignore[arg-type]
            lake=LakeResource(uri=self.uri),
            clock=self.clock,
        )
        ops = {"ops": {"corporate_actions": {"config": config}}}
        return definitions.resolve_job_def("corporate_actions_job").execute_in_process(
            instance=self.instance, run_config=QUIET | ops, raise_on_error=False
        )


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    folder = request.param == "folder"
    uri = str(tmp_path / "lake") if folder else request.getfixturevalue("s3_lake_uri")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Bench(uri, instance)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success
    told = materializations(result, "corporate_actions")[None]
    return {name: value.value for name, value in told.items()}


def check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (found,) = result.get_asset_check_evaluations()
    assert found.check_name == "actions_are_sound"
    assert found.severity == dg.AssetCheckSeverity.WARN
    return found


def test_a_run_asks_for_what_is_due_and_tells_what_changed_in_numbers(bench: Bench) -> None:
    bench.lake.write_universe(EVENING.date(), universe(["AAPL", "PFE"], ["OLD"]))
    bench.source.say(action("a"), action("b", "OLD"), split("s", "PFE", date(2026, 3, 2), 4, 1))
    first = metadata(bench.run())
    bench.clock.time += timedelta(days=1)
    bench.source.say(action("a", cash=0.3), action("new", "PFE"))
    del bench.source.rows["b"]
    result = bench.run()
    second = metadata(result)

    assert first["window"] == f"{FIRST} to {EVENING.date() + AHEAD}"
    assert (
        second["window"] == f"{EVENING.date() - BEHIND} to {EVENING.date() + AHEAD + timedelta(1)}"
    )
    assert [first[name] for name in ("inserted", "changed", "vanished")] == [3, 0, 0]
    assert [second[name] for name in ("inserted", "changed", "vanished")] == [1, 1, 1]
    assert (second["requests"], second["answered"], second["skipped"]) == (2, 3, 0)
    kinds = {kind: second[kind] for kind in KINDS}
    assert kinds == dict.fromkeys(KINDS, 0) | {"cash_dividends": 2, "forward_splits": 1}
    assert second["dagster/row_count"] == 3
    assert second["dagster/uri"] == bench.lake.store.url(layout.STANDING_ACTIONS)
    told = [(row["event"], row["symbol"]) for row in records(second["changes"])]
    assert told == [("changed", "AAPL"), ("vanished", "OLD")]
    assert "changes" not in first
    assert check(result).passed
    assert check(result).description == "no errors found"
    assert ActionLog(bench.lake.store).current().num_rows == 3


def test_a_run_notes_the_process_that_carries_it_out(bench: Bench) -> None:
    """Else nobody can tell at once that it was killed."""
    run = bench.instance.get_run_by_id(bench.run().run_id)
    assert run is not None
    assert liveness.process_of(run) == liveness.Process.current()


def records(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table.records]


def test_the_check_names_what_is_odd_and_the_run_goes_on(bench: Bench) -> None:
    bench.lake.write_universe(EVENING.date(), universe(["AAPL"]))
    bench.source.say(action("a"), action("twin"), action("c", "ZZZ", date(2026, 3, 7), cash=0.0))
    bench.source.say(action("spoiled"))
    bench.source.unreadable = {"spoiled"}
    result = bench.run()
    found = check(result)
    numbers = metadata(result)

    assert not found.passed
    assert found.description == (
        "1 × duplicate; 1 × impossible rate; 1 × unknown symbol; 1 × no session; 1 × unreadable row"
    )
    offenders = records(found.metadata["offenders"].value)
    assert [row["ids"] for row in offenders] == ["c", "c", "c", "a, twin"]
    assert {row["symbol"] for row in offenders} == {"AAPL", "ZZZ"}
    assert found.metadata["skipped_rows"].value == ["cash_dividends spoiled: no"]
    assert {kind: numbers[kind.replace(" ", "_")] for kind in ODDITIES} == {
        "duplicate": 1,
        "on two days": 0,
        "impossible rate": 1,
        "incomplete": 0,
        "unknown symbol": 1,
        "no session": 1,
    }
    assert (numbers["oddities"], numbers["skipped"]) == (4, 1)


def test_a_ticker_with_bars_is_known_though_no_list_names_it(bench: Bench) -> None:
    day = date(2026, 2, 27)
    bench.lake.publish(collected(day, every(["OLD"], [day])), [])
    bench.source.say(action("a", "OLD"), action("b", "NEVER"))
    found = check(bench.run())

    assert found.metadata["unknown_symbol"].value == 1
    assert "NEVER" in str(records(found.metadata["offenders"].value))


def test_in_a_lake_without_any_list_no_ticker_is_called_unknown(bench: Bench) -> None:
    bench.source.say(action("a", "OLD"))

    assert check(bench.run()).passed


def test_damaged_bars_are_no_reason_to_lose_the_actions(bench: Bench) -> None:
    day = date(2026, 2, 27)
    bench.lake.publish(collected(day, every(["OLD"], [day])), [])
    bench.lake.store.put(layout.session_key(day), b"damaged")
    bench.source.say(action("a", "OLD"))

    assert bench.run().success
    assert ActionLog(bench.lake.store).current().num_rows == 1


def test_the_whole_history_can_be_asked_for_by_one_run(bench: Bench) -> None:
    bench.run()
    bench.clock.time += timedelta(days=1)
    assert not metadata(bench.run())["window"].startswith(str(FIRST))
    assert metadata(bench.run(whole_history=True))["window"].startswith(str(FIRST))


def test_a_run_that_fails_says_why_and_leaves_the_lake_as_it_was(bench: Bench) -> None:
    bench.source.say(*(action(f"{number:03}") for number in range(200)))
    bench.run()
    before = {key: bench.lake.store.get(key) for key in bench.lake.store.list()}
    bench.source.rows.clear()
    result = bench.run()

    assert not result.success
    told = failure(result, "corporate_actions")
    assert "lacks 200 of the 200 known corporate actions" in told
    assert "If it is right, raise max_loss for one run\n" in told
    assert f"To raise it, {OURS.setting('max_loss', '1')}" in told
    assert {key: bench.lake.store.get(key) for key in bench.lake.store.list()} == before
    assert metadata(bench.run(max_loss=1.0))["vanished"] == 200


def test_a_run_keeps_to_the_collectors_limits_of_requests_and_time(bench: Bench) -> None:
    bench.source = ScriptedActions(*map(action, "abc"), page=1)
    bench.knobs = {"max_requests": 2}
    assert "the 2 requests allowed are used up" in failure(bench.run(), "corporate_actions")
    bench.knobs = {"max_requests": 3, "deadline_seconds": 1e-6}
    assert "stopped before the request was sent" in failure(bench.run(), "corporate_actions")
    bench.knobs = {"max_requests": 3, "deadline_seconds": 3600}
    assert bench.run().success


def test_actions_of_another_source_never_enter_a_lake(bench: Bench) -> None:
    bench.lake.claim("another source")

    assert "holds bars of 'another source'" in failure(bench.run(), "corporate_actions")
    assert bench.lake.store.list() == [layout.MARKER]


def test_the_embedded_exchange_is_swept_through_the_job(tmp_path: Path) -> None:
    definitions = build_definitions(
        Settings.load({}),
        source=EmbeddedExchangeResource(active=150, inactive=40),
        lake=LakeResource(uri=str(tmp_path / "lake")),
        collector=CollectorResource(requests_per_minute=60_000),
    )
    job = definitions.resolve_job_def("corporate_actions_job")
    with dg.DagsterInstance.ephemeral() as instance:
        result = job.execute_in_process(instance=instance, run_config=QUIET)
    told = metadata(result)

    assert told["inserted"] == told["answered"] > 0
    assert told["requests"] == -(-told["answered"] // 1000)
    assert told["skipped"] == told["incomplete"] == told["unknown_lists"] == 0
