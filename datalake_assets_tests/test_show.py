"""`datalake show`: what a person sees of a symbol, and what a pipe gets."""

import csv
import io
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from datalake_assets import market_calendar
from datalake_assets.cli.chart import Gap, candles, draw
from datalake_assets.cli.show import SESSIONS, show
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.test_reader import encoded, write

DAYS = market_calendar.sessions(date(2023, 1, 3), date(2024, 1, 5))
"""A year and four days: one session more than are shown by default."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> LakeWriter:
    """254 sessions of AUE; on the last of them it did not trade."""
    made = LakeWriter(open_store(str(tmp_path_factory.mktemp("show"))))
    made.claim("alpaca/sip")
    for day in DAYS[:-1]:
        write(made.store, day, ["AUE", "BRK.B"])
    write(made.store, DAYS[-1], ["BRK.B"], no_print=("AUE",))
    return made


def run(lake: LakeFiles | Lake | Path, *words: str) -> Result:
    uri = lake.store.uri if not isinstance(lake, Path) else str(lake)
    app = typer.Typer()
    app.command()(show)
    return CliRunner().invoke(app, words, env={"DATALAKE_URI": uri, "TERM": "xterm-256color"})


def rows(told: Result) -> list[str]:
    return [line for line in told.stdout.splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)]


def test_the_newest_twenty_bars_of_a_year_are_shown(lake: LakeWriter) -> None:
    told = run(lake, "aue")
    newest = bar("AUE", DAYS[-2])

    assert told.exit_code == 0
    first, count = DAYS[-SESSIONS], SESSIONS - 1
    assert told.stdout.startswith(f"AUE  {first} to {DAYS[-2]}, {count} sessions: ")
    assert [line[:10] for line in rows(told)] == [str(day) for day in DAYS[-21:-1]]
    for name in ("open", "high", "low", "close", "vwap"):
        assert f"{newest[name]:,.2f}" in rows(told)[-1]
    change = newest["close"] / bar("AUE", DAYS[-3])["close"] - 1
    assert f" {change:+.2%} " in rows(told)[-1]
    assert f" {newest['volume']:,} " in rows(told)[-1]


def test_every_bar_of_a_range_is_shown_and_the_first_has_no_change(lake: LakeWriter) -> None:
    told = run(lake, "BRK.B", "--from", "2023-01-03", "--to", "2023-03-01")

    assert [line[:10] for line in rows(told)] == [str(d) for d in DAYS if d <= date(2023, 3, 1)]
    assert "%" not in rows(told)[0]
    assert all("%" in row for row in rows(told)[1:])


def test_a_last_day_alone_shows_the_year_before_it(lake: LakeWriter) -> None:
    told = run(lake, "AUE", "--to", str(DAYS[-3]))

    assert f"{DAYS[0]} to {DAYS[-3]}, {SESSIONS} sessions" in told.stdout


def test_a_pipe_gets_no_colours_and_no_chart_unless_it_is_asked_for(lake: LakeWriter) -> None:
    plain, drawn = run(lake, "AUE"), run(lake, "AUE", "--chart")

    assert "\x1b" not in plain.stdout + drawn.stdout
    assert not re.search("[│┃█]", plain.stdout)
    assert re.search("[│┃█]", drawn.stdout)
    assert drawn.stdout.startswith(plain.stdout)


def test_csv_and_json_are_all_bars_of_the_range_as_they_are(lake: LakeWriter) -> None:
    expected = [bar("AUE", day) for day in DAYS[-SESSIONS:-1]]
    as_csv = list(csv.DictReader(io.StringIO(run(lake, "AUE", "--csv").stdout)))
    as_json = json.loads(run(lake, "AUE", "--json").stdout)

    assert [list(row) for row in (as_csv[0], as_json[0])] == [SCHEMA.names] * 2
    for row, from_csv, from_json in zip(expected, as_csv, as_json, strict=True):
        told = {**row, "session": str(row["session"]), "timestamp": row["timestamp"].isoformat()}
        assert from_json == told
        assert from_csv == {name: str(value) for name, value in told.items()}


def test_symbols_may_be_separated_by_commas_as_in_other_commands(lake: LakeWriter) -> None:
    assert run(lake, "AUE,BRK.B", "--csv").stdout == run(lake, "AUE", "BRK.B", "--csv").stdout


def test_a_symbol_without_a_bar_in_the_range_is_explained(lake: LakeWriter) -> None:
    words = ("AUE", "--from", str(DAYS[-1]))
    told = run(lake, *words)

    assert told.exit_code == 0
    assert told.stdout == (
        f"AUE has no bar from {DAYS[-1]} to now: AUE did not trade on {DAYS[-1]}: the source "
        "answered and had no bar\n"
    )
    raw = run(lake, *words, "--csv")
    assert raw.stdout == ",".join(SCHEMA.names) + "\n"
    assert "AUE has no bar" in raw.stderr
    assert json.loads(run(lake, *words, "--json").stdout) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--to", "2010-01-04"), "2010-01-04 is before the first session of this lake"),
        (("--from", "2030-01-04"), "2030-01-04 is after the newest session of this lake"),
        (("--from", "2010-01-04", "--to", "2010-01-09"), "2010-01-08 is before the first session"),
        (("--from", "2010-01-09", "--to", "2010-01-10"), "2010-01-10 is no trading session but a"),
    ],
)
def test_a_range_of_which_the_lake_holds_nothing_is_explained(
    lake: LakeWriter, words: tuple[str, ...], why: str
) -> None:
    told = run(lake, "AUE", *words)

    assert told.exit_code == 0
    assert told.stdout.startswith("AUE has no bar from ")
    assert f": {why}" in told.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("AUEF",), "error: this lake knows no symbol AUEF: .*Close to it: AUE"),
        (("AUE", "--from", "yesterday"), "error: 'yesterday' is no day"),
        (("AUE", "--from", "2024-01-03", "--to", "2024-01-02"), "is before the start"),
        (("AUE", "--csv", "--json"), "give --csv or --json"),
    ],
)
def test_wrong_input_is_told_and_ends_with_2(
    lake: LakeWriter, words: tuple[str, ...], told: str
) -> None:
    result = run(lake, *words)

    assert result.exit_code == 2
    assert re.search(told, result.stderr)
    assert result.stdout == ""


def test_a_lake_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    result = run(tmp_path / "none", "AUE")

    assert result.exit_code == 2
    assert "no session is published in" in result.stderr
    assert not (tmp_path / "none").exists()


# The chart


def bars(*closes: float, volume: int = 100) -> list[dict[str, Any]]:
    """Sessions that open at 10 and close so, without wicks."""
    return [
        bar("X", day, open=10.0, close=c, high=max(10.0, c), low=min(10.0, c), volume=volume)
        for day, c in zip(DAYS, closes, strict=False)
    ]


def test_a_candle_of_several_sessions_spans_them() -> None:
    some = [bar("X", day) for day in DAYS[:5]]
    (first, second) = candles(some, 2)[:2]

    assert (first.session, first.open, first.close) == (DAYS[0], some[0]["open"], some[0]["close"])
    assert (second.session, second.open) == (DAYS[1], some[1]["open"])
    assert second.close == some[2]["close"]
    assert second.high == max(row["high"] for row in some[1:3])
    assert second.low == min(row["low"] for row in some[1:3])
    assert second.volume == some[1]["volume"] + some[2]["volume"]


@given(st.integers(1, len(DAYS)), st.integers(1, 300))
def test_no_session_is_left_out_of_the_candles(count: int, columns: int) -> None:
    some = [bar("X", day) for day in DAYS[:count]]
    drawn = candles(some, -(-count // columns))

    assert 1 <= len(drawn) <= columns
    assert sum(candle.volume for candle in drawn) == sum(row["volume"] for row in some)
    assert drawn[-1].close == some[-1]["close"]


def test_a_rise_is_green_and_a_fall_is_red() -> None:
    up, down = (next(draw(bars(close), 80)).spans[0].style for close in (11.0, 9.0))

    assert (up, down) == ("green", "red")


def test_bodies_and_wicks_stand_where_the_prices_are() -> None:
    rising = bar("X", DAYS[0], open=10.0, close=20.0, high=20.0, low=10.0)
    hanging = bar("X", DAYS[1], open=20.0, close=20.0, high=20.0, low=10.0)
    lines = [line.plain for line in draw([rising, hanging], 20)]

    assert [line[0] for line in lines[:14]] == ["┃"] * 14
    assert [line[4] for line in lines[:14]] == ["╿"] + ["│"] * 13
    assert lines[0].endswith("  20.00")
    assert lines[-1].startswith(str(DAYS[0]))


def test_the_volume_is_drawn_to_scale() -> None:
    some = bars(11, 11)
    some[0]["volume"], some[1]["volume"] = 1_600_000, 400_000
    lines = [line.plain for line in draw(some, 80)][14:18]

    assert [line[0] + line[4] for line in lines] == ["█ ", "█ ", "█ ", "██"]
    assert lines[0].endswith("  1.6 M")


@given(
    st.lists(st.floats(0.0001, 1e5), min_size=1, max_size=300),
    st.integers(40, 220),
    st.booleans(),
)
def test_a_chart_fits_the_terminal_whatever_the_prices(
    closes: list[float], width: int, ascii_only: bool
) -> None:
    some = bars(*closes)
    lines = [line.plain for line in draw(some, width, ascii_only=ascii_only)]

    assert max(map(len, lines)) <= width
    assert len(lines) - any(line.startswith("each column") for line in lines) == 19
    assert ascii_only <= all(line.isascii() for line in lines)


def test_a_price_that_never_moves_and_no_volume_are_drawn() -> None:
    lines = [line.plain for line in draw(bars(10.0, volume=0), 80)]

    assert [line[0] for line in lines[:14]] == [" "] * 13 + ["╻"]
    assert {line[0] for line in lines[14:18]} == {" "}


# Holes and odd prices


def put(lake: LakeWriter, row: dict[str, Any]) -> None:
    """Publish a session of this bar alone."""
    day = row["session"]
    lake.store.put(layout.session_key(day), encoded(day, table([row])))


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> LakeWriter:
    """Ten sessions: three in the middle were not collected, in another one AUE failed."""
    made = LakeWriter(open_store(str(tmp_path_factory.mktemp("holed"))))
    made.claim("alpaca/sip")
    for day in (*DAYS[:3], *DAYS[6:8], DAYS[9]):
        write(made.store, day, ["AUE", "BRK.B"])
    write(made.store, DAYS[8], ["BRK.B"], failed={"AUE": "HTTP 500"})
    return made


def test_no_change_is_told_over_missing_sessions(holed: LakeWriter) -> None:
    told = run(holed, "AUE", "--from", str(DAYS[0]), "--to", str(DAYS[9]))

    assert "(4 between them are missing)" in told.stdout.splitlines()[0]
    lines = told.stdout.splitlines()
    table = [line for line in lines if re.match(r"(\d{4}-\d\d-\d\d|…) ", line)][:8]
    assert [line.split()[0] for line in table] == [
        *map(str, DAYS[:3]),
        "…",
        *map(str, DAYS[6:8]),
        "…",
        str(DAYS[9]),
    ]
    assert table[3].strip() == "… 3 missing"
    assert [line[:10] for line in table if "%" in line] == [str(DAYS[n]) for n in (1, 2, 7)]


def test_each_gap_is_told_with_its_reason_and_what_to_type(holed: LakeWriter) -> None:
    told = run(holed, "AUE")

    assert (
        f"{DAYS[3]} to {DAYS[5]}: 3 sessions missing (not published)  →  datalake collect --from "
        f"{DAYS[3]} --to {DAYS[5]}\n"
    ) in told.stdout
    assert (
        f"{DAYS[8]}: 1 session missing (failed)  →  datalake collect --session {DAYS[8]} --repair"
    ) in told.stdout


def test_raw_bars_stay_raw_and_their_gaps_are_told_beside(holed: LakeWriter) -> None:
    told = run(holed, "AUE", "--json")

    assert len(json.loads(told.stdout)) == 6
    assert told.stderr.count("missing") == 2
    assert "missing" not in run(holed, "BRK.B", "--json", "--from", str(DAYS[6])).stderr


def test_a_session_without_a_trade_is_no_gap(lake: LakeWriter) -> None:
    told = run(lake, "AUE", "--to", str(DAYS[-1]))

    assert "missing" not in told.stdout


def test_the_chart_has_a_column_for_each_gap(holed: LakeWriter) -> None:
    told = run(holed, "AUE", "--chart")

    assert "┊ missing sessions" in told.stdout
    assert {line.count("┊") for line in told.stdout.splitlines() if "┊" in line} == {1, 2}


def gap(first: int, last: int) -> Gap:
    return Gap(DAYS[first], DAYS[last], last - first + 1, ("not published",))


@given(st.sets(st.integers(1, 58), max_size=25), st.integers(20, 120))
def test_a_chart_with_gaps_is_no_wider_than_the_terminal(lost: set[int], width: int) -> None:
    some = [bar("X", DAYS[place]) for place in range(60) if place not in lost]
    gaps = [gap(place, place) for place in sorted(lost)]

    lines = [line.plain.rstrip() for line in draw(some, width, gaps)]
    assert max(map(len, lines[:18])) <= max(width, 20)
    marked = "┊ missing sessions" in lines[-1]
    assert marked is ("┊" in lines[0])
    assert marked or not lost or "too many gaps" in lines[-1]


def test_too_many_gaps_to_mark_are_told_in_words() -> None:
    some = [bar("X", day) for day in DAYS[:60:2]]
    gaps = [gap(place, place) for place in range(1, 59, 2)]

    assert [line.plain for line in draw(some, 200, gaps)][-1] == "┊ missing sessions"
    assert "too many gaps" in [line.plain for line in draw(some, 40, gaps)][-1]


def test_a_close_of_nothing_has_no_change_and_ends_in_no_error(tmp_path: Path) -> None:
    made = LakeWriter(open_store(str(tmp_path)))
    made.claim("alpaca/sip")
    closes = {DAYS[0]: 0.0, DAYS[1]: 0.0, DAYS[2]: 5.0}
    for day, close in closes.items():
        put(made, bar("AUE", day, close=close, low=0.0))
    told = run(made, "AUE", "--chart")

    assert told.exit_code == 0, told.output
    assert "0.00 to 5.00 (no change)" in told.stdout


def test_a_bar_without_an_average_or_a_number_of_trades_has_a_dash(tmp_path: Path) -> None:
    made = LakeWriter(open_store(str(tmp_path)))
    made.claim("alpaca/sip")
    put(made, bar("AUE", DAYS[0], vwap=None, trade_count=None))
    told = run(made, "AUE")

    assert rows(told)[0].split()[-2:] == ["–", "–"]


def test_prices_below_a_cent_are_told_with_enough_digits(tmp_path: Path) -> None:
    made = LakeWriter(open_store(str(tmp_path)))
    made.claim("alpaca/sip")
    low = dict.fromkeys(("open", "high", "low", "close", "vwap"), 0.000012)
    put(made, bar("AUE", DAYS[0], **low))

    assert "0.000012" in rows(run(made, "AUE"))[0]
    assert "the last at 0.000012" in Lake(made.store).explain("AUE", DAYS[0])
