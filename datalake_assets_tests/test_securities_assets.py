"""The assets `securities` and `adjustment_factors`, and `datalake decide`, over a lake on disk.

Not here: what is derived (`securities`), and when a run is asked for (`automation`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake_assets import catalog
from datalake_assets.actions.log import ActionLog
from datalake_assets.definitions import build_definitions
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.resources import LakeResource
from datalake_assets.securities.decisions import read_decisions
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.actions.sayings import action, answer, split
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.files import session_bytes
from datalake_assets_tests.securities.bars import sessions
from datalake_assets_tests.test_cli import invoke
from datalake_assets_tests.workbench import QUIET, Market, materializations, source_of, universe

DAYS = sessions("2024-01-02", "2024-03-28")
RENAMED, SPLIT, WRONG = DAYS[20], DAYS[30], DAYS[40]


@dataclass
class Bench:
    folder: Path
    instance: dg.DagsterInstance

    @property
    def lake(self) -> LakeWriter:
        return LakeWriter(open_store(str(self.folder)))

    def run(self) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(
            Settings.load({}),
            source=source_of(Market(["A"])),
            lake=LakeResource(uri=str(self.folder)),
        )
        job = definitions.resolve_job_def("securities_job")
        return job.execute_in_process(instance=self.instance, run_config=QUIET)

    def factors(self) -> dict[str, dict[str, Any]]:
        data = self.lake.store.get(layout.FACTORS_TABLE)
        rows = pq.read_table(pa.BufferReader(data)).to_pylist()
        return {row["action_id"]: row for row in rows}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """FB becomes META and splits; a split is listed that never was, and another is missing."""
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("COLUMNS", "200")
    with dg.DagsterInstance.ephemeral() as instance:
        bench = Bench(tmp_path / "lake", instance)
        lake = bench.lake
        lake.claim("the tests' market")
        for index, day in enumerate(DAYS):
            price = {
                "FB" if day < RENAMED else "META": 100.0 if day < SPLIT else 25.0,
                "GONE": 50.0 if index < 45 else None,
                "LOST": 90.0 if index < 50 else 30.0,
            }
            bars = [
                bar(symbol, day, open=value, high=value, low=value, close=value)
                for symbol, value in sorted(price.items())
                if value
            ]
            lake.store.put(layout.session_key(day), session_bytes(day, table(bars)))
        lake.write_universe(DAYS[-1], universe(["META", "LOST"], ["FB", "GONE"]))
        rename = action("r", "FB", RENAMED, kind="name_changes", new_symbol="META")
        merger = action("m", "GONE", DAYS[45], kind="cash_mergers", cash=51.0)
        splits = split("s", "META", SPLIT, 4.0, 1.0), split("w", "META", WRONG, 3.0, 1.0)
        told = answer(rename, merger, *splits, action("d", "META", DAYS[50]))
        ActionLog(lake.store).append(told, datetime(2024, 3, 29, tzinfo=UTC))
        yield bench


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def numbers(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    return {name: one.value for name, one in materializations(result, asset)[None].items()}


def test_a_run_writes_the_tables_and_tells_them_in_numbers(bench: Bench) -> None:
    result = bench.run()

    assert result.success
    who, worth = numbers(result, "securities"), numbers(result, "adjustment_factors")
    assert (who["dagster/row_count"], who["securities"], who["trading"]) == (4, 3, 2)
    assert (who["renames"], who["mergers"], who["findings"]) == (1, 1, 0)
    assert who["sessions_read"] == len(DAYS)
    assert worth["sessions_read"] == 0
    assert (worth["dagster/row_count"], worth["applied"], worth["undecided"]) == (3, 2, 1)
    assert (worth["confirmed"], worth["contradicted"], worth["suspected_splits"]) == (1, 1, 1)


def test_the_catalog_has_the_tables_once_they_are_derived(bench: Bench) -> None:
    assert "bars_all" not in {view.name for view in catalog.write(bench.lake.store)}

    assert bench.run().success

    with duckdb.connect(bench.lake.store.url(layout.CATALOG), read_only=True) as connection:
        names = connection.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    assert {"bars_all", "bars_split", "factors", "securities"} <= {name for (name,) in names}


def test_the_checks_name_what_is_contradicted_and_what_is_suspected(bench: Bench) -> None:
    found = checks(bench.run())

    assert found["identities_agree"].passed
    actions, jumps = found["actions_agree_with_prices"], found["jumps_are_explained"]
    assert (actions.passed, actions.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert actions.description == "1 × split contradicted"
    assert jumps.description == "1 × suspected split"
    (record,) = actions.metadata["findings"].value.records
    assert "META 2024-02-29: a split of 3 for 1" in str(record.data["what"])
    assert record.data["decide"] == "datalake decide accept w, or ignore w"


def test_what_waits_is_listed_with_what_to_type(bench: Bench) -> None:
    bench.run()
    told = invoke("decide").stdout

    assert "datalake decide accept w, or ignore w" in told
    assert f"datalake decide add split LOST {DAYS[50]} --ratio 3:1" in told


def test_decisions_are_followed_by_the_next_run(bench: Bench) -> None:
    bench.run()
    assert invoke("decide", "ignore", "w", "--why", "never was", "--who", "ann").exit_code == 0
    day = str(DAYS[50])
    assert invoke("decide", "add", "split", "lost", day, "--ratio", "3:1").exit_code == 0
    result = bench.run()

    found = checks(result)
    assert all(check.passed for check in found.values())
    told = bench.factors()
    assert (told["w"]["applied"], told["w"]["decision"]) == (False, "ignore")
    assert told["decision-2"]["price_factor"] == 1 / 3
    made = read_decisions(bench.lake.store).made
    assert (made[0].who, made[0].why) == ("ann", "never was")
    assert "No decision is open" in invoke("decide").stdout
    assert "never was" in invoke("decide").stdout


def test_an_action_can_be_named_by_its_symbol_and_day(bench: Bench) -> None:
    bench.run()
    assert invoke("decide", "accept", "meta", str(WRONG)).exit_code == 0
    assert read_decisions(bench.lake.store).accepted == {"w"}
    assert invoke("decide", "withdraw", "decision-1").exit_code == 0
    assert read_decisions(bench.lake.store).accepted == frozenset()


def test_a_jump_can_be_taken_for_what_it_is(bench: Bench) -> None:
    bench.run()
    assert invoke("decide", "ignore", "LOST", str(DAYS[50])).exit_code == 0
    assert checks(bench.run())["jumps_are_explained"].passed


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("accept", "nonsense"), "no action 'nonsense' is open for decision"),
        (("accept", "META", "2024-01-03"), "META has no action open for decision on 2024-01-03"),
        (("accept", "LOST", str(DAYS[50])), "LOST has no action open for decision"),
        (("accept", "META", "yesterday"), "yesterday"),
        (("add", "split", "META", "2024-01-03"), "a split needs a ratio"),
        (("add", "split", "META", "2024-01-03", "--ratio", "4"), "--ratio takes new shares"),
        (("add", "merger", "META", "2024-01-03"), "split, dividend, spin-off, rename"),
        (("withdraw", "decision-9"), "there is no decision 'decision-9'"),
    ],
)
def test_what_can_not_be_decided_is_refused(
    bench: Bench, typed: tuple[str, ...], told: str
) -> None:
    bench.run()
    result = invoke("decide", *typed)
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())
    assert not bench.lake.store.exists(layout.DECISIONS)


def test_actions_may_come_before_the_first_session(bench: Bench) -> None:
    for day in DAYS:
        bench.lake.store.delete(layout.session_key(day))

    assert bench.run().success
    assert numbers(bench.run(), "securities")["securities"] == 0


def test_without_factors_there_is_nothing_to_decide(bench: Bench) -> None:
    result = invoke("decide", "add", "split", "META", "2024-01-03", "--ratio", "2:1")
    assert result.exit_code == 2
    assert "no factors have been derived" in " ".join(result.output.replace("│", " ").split())


def test_the_file_of_decisions_is_one_that_a_person_can_read(bench: Bench) -> None:
    bench.run()
    invoke("decide", "ignore", "w", "--why", "never was", "--who", "ann")
    told = json.loads(bench.lake.store.get(layout.DECISIONS))["decisions"]
    assert [(one["id"], one["what"], one["subject"]) for one in told] == [
        ("decision-1", "ignore", "w")
    ]
