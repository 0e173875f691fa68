"""`datalake actions`: what a person sees of a symbol's actions, and what a pipe gets."""

import csv
import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import Result

from datalake_assets.actions.action import SCHEMA
from datalake_assets.actions.log import ActionLog
from datalake_assets.storage.store import open_store
from datalake_assets_tests.actions.sayings import action, answer, minutes, split
from datalake_assets_tests.test_cli import invoke, plain

EX = date(2026, 2, 19)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActionLog:
    """TPG's dividend, corrected two hours later; a rename and a split that is taken back."""
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path / "lake"))
    monkeypatch.setenv("COLUMNS", "200")
    log = ActionLog(open_store(str(tmp_path / "lake")))
    paid = date(2026, 3, 5)
    rename = action("n", "FB", date(2022, 6, 9), kind="name_changes", new_symbol="META")
    wrong = split("s", "TPG", date(2026, 3, 9), 4, 1)
    log.append(answer(action("d", "TPG", EX, processed=paid, cash=0.65), rename, wrong), minutes(0))
    right = action("d", "TPG", EX, processed=paid, cash=0.61)
    log.append(answer(right, rename, gone=["s"], known=1), minutes(120))
    return log


def rows(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_a_symbols_actions_are_shown_with_since_when_they_are_known(lake: ActionLog) -> None:
    told = invoke("actions", "tpg")
    lines = [line.strip() for line in told.stdout.splitlines()]

    assert told.exit_code == 0
    assert lines[0] == "TPG  2 corporate actions, as the source had them at 2026-03-02 14:00 UTC"
    assert [plain(line) for line in lines[2:4]] == [
        "2026-02-19 cash dividend TPG $0.61 2026-03-05 2026-03-02 12:00, changed 2026-03-02 14:00",
        (
            "2026-03-09 forward split TPG 4 for 1 2026-03-09 2026-03-02 12:00, "
            "removed 2026-03-02 14:00"
        ),
    ]
    assert lines[4:] == [
        "2026-02-19 cash dividend TPG: 2026-03-02 14:00 UTC cash 0.65 → 0.61",
        "2026-03-09 forward split TPG: 2026-03-02 14:00 UTC removed by the source",
    ]


@pytest.mark.parametrize("symbol", ["FB", "META"])
def test_a_rename_is_shown_under_both_names(lake: ActionLog, symbol: str) -> None:
    assert "name change FB → META" in invoke("actions", symbol).stdout


@pytest.mark.parametrize(
    ("instant", "cash"),
    [
        ("2026-03-02T11:59:59Z", []),
        ("2026-03-02T12:00Z", [0.65, None]),
        ("2026-03-02T08:59:59-05:00", [0.65, None]),
        ("2026-03-02T14:00:00+00:00", [0.61, None]),
        ("2026-03-01", []),
        ("2026-03-02", [0.61, None]),
    ],
)
def test_it_tells_what_was_known_at_an_instant(
    lake: ActionLog, instant: str, cash: list[float | None]
) -> None:
    told = invoke("actions", "TPG", "--known-at", instant, "--json")

    assert [row["cash"] for row in rows(told)] == cash


def test_json_has_every_column_since_when_and_what_changed(lake: ActionLog) -> None:
    dividend, gone = rows(invoke("actions", "TPG", "--json"))

    assert [*dividend] == [*SCHEMA.names, "known_since", "changed_at", "vanished_at", "changes"]
    assert dividend["effective_date"] == "2026-02-19"
    assert dividend["known_since"] == "2026-03-02T12:00:00+00:00"
    assert dividend["changed_at"] == "2026-03-02T14:00:00+00:00"
    assert dividend["vanished_at"] is None
    assert dividend["changes"] == ["2026-03-02 14:00 UTC cash 0.65 → 0.61"]
    assert (gone["changed_at"], gone["vanished_at"]) == (None, "2026-03-02T14:00:00+00:00")


def test_csv_has_the_same_columns(lake: ActionLog) -> None:
    found = list(csv.DictReader(io.StringIO(invoke("actions", "TPG", "--csv").stdout)))

    assert [*found[0]] == [*SCHEMA.names, "known_since", "changed_at", "vanished_at"]
    assert [row["cash"] for row in found] == ["0.61", ""]


@pytest.mark.parametrize(
    ("range_", "ids"),
    [
        (["--from", "2026-02-19"], ["d", "s"]),
        (["--from", "2026-02-20"], ["s"]),
        (["--to", "2026-03-08"], ["d"]),
        (["--to", "2026-03-09"], ["d", "s"]),
    ],
)
def test_a_range_has_both_of_its_days(lake: ActionLog, range_: list[str], ids: list[str]) -> None:
    assert [row["id"] for row in rows(invoke("actions", "TPG", "--json", *range_))] == ids


def test_a_symbol_without_actions_is_no_error(lake: ActionLog) -> None:
    told = invoke("actions", "ZZZ")

    assert told.exit_code == 0
    assert told.stdout.startswith("ZZZ  0 corporate actions, as the source had them")
    assert rows(invoke("actions", "ZZZ", "--json")) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "give either a SYMBOL, or --sweep"),
        (["TPG", "--sweep"], "give either a SYMBOL, or --sweep"),
        (["--sweep", "--json"], "of the other options it takes --max-loss only"),
        (["TPG", "--max-loss", "1"], "--max-loss belongs to --sweep"),
        (["TPG", "--csv", "--json"], "give --csv or --json, not both"),
        (["TPG", "--from", "2026"], "'2026' is no day"),
        (["TPG", "--known-at", "noon"], "'noon' is neither a date nor a time"),
        (["TPG", "--known-at", "2026-03-02T12:00"], "has no time zone"),
    ],
)
def test_wrong_input_says_what_to_type(lake: ActionLog, words: list[str], why: str) -> None:
    told = invoke("actions", *words)

    assert told.exit_code == 2
    assert why in plain(told.stderr)


def test_a_lake_that_never_asked_says_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path / "empty"))
    told = invoke("actions", "TPG")

    assert told.exit_code == 2
    assert "run `datalake actions --sweep`" in told.stderr


def test_the_sweep_asks_for_the_whole_history_and_tells_what_it_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    told = invoke("actions", "--sweep", "--max-loss", "0.5")

    assert told.exit_code == 0, told.stderr
    assert "inserted, 0 changed, 0 vanished; processed from 2000-01-01 to" in told.stdout
    assert "actions_are_sound" in told.stdout
    with dg.DagsterInstance.get() as records:
        (run,) = records.get_runs()
    asked = {"whole_history": True, "max_loss": 0.5}
    assert run.run_config["ops"]["corporate_actions"]["config"] == asked
    log = ActionLog(open_store(".datalake/embedded"))
    symbol = log.current()["symbol"][0].as_py()
    assert f"{symbol}  " in invoke("actions", symbol).stdout
