"""`datalake show` of a security: adjusted, over its tickers, with its actions marked."""

import csv
import io
import json
from pathlib import Path

import pytest

from datalake_assets.cli.chart import candles
from datalake_assets.cli.marks import Mark, letter, words
from datalake_assets.lake.lake import Lake
from datalake_assets.storage.store import open_store
from datalake_assets_tests.securities.market import DAYS, MARKET, UNDECIDED, factors, lake_of, raw
from datalake_assets_tests.test_show import rows, run


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return lake_of(open_store(str(tmp_path_factory.mktemp("show"))), MARKET, UNDECIDED)


def test_adjusted_bars_say_for_what_and_mark_each_action_in_the_table(lake: Lake) -> None:
    told = run(lake, "META", "--from", str(DAYS[0]), "--adjustment", "all")
    lines = rows(told)
    truth = next(truth for truth in MARKET if truth.id == "FB-1")
    price, volume = factors(truth, 0, ("split", "spin-off", "dividend"))

    assert told.exit_code == 0
    assert "US dollars, adjusted for split, spin-off, dividend" in told.stdout
    assert f" {raw('FB', 0)['close'] * price:,.2f} " in lines[0]
    assert f" {raw('FB', 0)['volume'] * volume:,.0f} " in lines[0]
    for at, mark in (
        (5, "split 4:1"),
        (10, "META, formerly FB"),
        (12, "dividend $0.5"),
        (13, "split 4:1 (not applied: contradicted)"),
        (15, "spin-off $0.5"),
    ):
        assert mark in lines[at]
    assert "split" not in lines[6]


def test_warnings_are_told_in_plain_words(lake: Lake) -> None:
    told = run(lake, "META", "--adjustment", "split")

    assert "warning: META means FB-1 here, and its ticker was also held by META-1" in told.stderr
    assert "warning: META (FB-1): prices contradict the forward_splits" in told.stderr
    assert "UserWarning" not in told.stderr


def test_the_chart_has_a_row_of_letters_and_their_meaning(lake: Lake) -> None:
    told = run(lake, "META", "--from", str(DAYS[0]), "--chart", "--adjustment", "all")
    lines = told.stdout.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith("S split")]
    marked = lines[at - 1].replace("   ", "").replace(" ", "")

    assert lines[at] == "S split  O spin-off  R new ticker  D dividend"
    assert marked == "SRDSO"


def test_raw_bars_are_marked_too_and_those_of_nobody_are_not(lake: Lake) -> None:
    told = run(lake, "OLD", "--from", str(DAYS[0]))

    assert "US dollars, unadjusted" in told.stdout
    assert "dividend" not in told.stdout  # its session has no bar, so no row
    assert "event" not in told.stdout


def test_a_pipe_gets_adjusted_bars_with_their_security(lake: Lake) -> None:
    told = run(lake, "META", "--csv", "--adjustment", "split")
    found = list(csv.DictReader(io.StringIO(told.stdout)))

    assert {row["security"] for row in found} == {"FB-1"}
    assert found[0]["symbol"] == "FB"
    assert float(found[0]["close"]) == raw("FB", 0)["close"] * 0.25
    told = run(lake, "META", "--json", "--adjustment", "split")
    assert json.loads(told.stdout)[0]["volume"] == raw("FB", 0)["volume"] * 4


@pytest.mark.parametrize("adjustment", ["splits", "raw,all"])
def test_an_unknown_adjustment_is_wrong_input(lake: Lake, adjustment: str) -> None:
    told = run(lake, "META", "--adjustment", adjustment)

    assert told.exit_code == 2
    assert "raw, all" in told.stderr or "raw and adjusted" in told.stderr


def test_a_lake_without_tables_says_how_to_have_them(tmp_path: Path) -> None:
    from datalake_assets_tests.securities.market import write_bars

    lake = write_bars(open_store(str(tmp_path)), MARKET[:1])
    told = run(lake, "FB", "--adjustment", "all")

    assert told.exit_code == 2
    assert "derive them: datalake securities" in told.stderr
    assert run(lake, "FB").exit_code == 0


def test_a_candle_of_several_sessions_has_the_letter_that_moves_prices_most() -> None:
    bars = [raw("FB", at) for at in range(9)]
    split, dividend = Mark("split", "split 2:1"), Mark("dividend", "dividend $1")
    marked = {DAYS[1]: [dividend], DAYS[2]: [dividend, split], DAYS[8]: [dividend]}

    assert [one.letter for one in candles(bars, 3, marked)] == ["S", " ", "D"]
    assert letter([]) == " "
    assert words([split, dividend]) == "split 2:1, dividend $1"
