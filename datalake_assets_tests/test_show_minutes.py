"""`datalake show --minutes`: what a person sees of a symbol's session, and what a pipe gets."""

import csv
import io
import json
import re
from datetime import date
from pathlib import Path

import pytest
from typer.testing import Result

from datalake_assets.lake.lake import Lake
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage.store import open_store
from datalake_assets_tests.lake.minutes import publish_minutes, session_of
from datalake_assets_tests.lake.test_reader import write
from datalake_assets_tests.test_show import run

FULL, HALF = date(2024, 7, 2), date(2024, 7, 3)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two sessions of AUE by the day and by the minute; QUIET did not trade."""
    made = LakeWriter(open_store(str(tmp_path_factory.mktemp("show"))))
    made.claim("alpaca/sip")
    for day in (FULL, HALF):
        write(made.store, day, ["AUE", "BRK.B"], no_print=("QUIET",))
        bars = session_of(["AUE", "BRK.B"], day, extended=5)
        publish_minutes(made.store, day, bars, no_print=("QUIET",))
    return Lake(made.store)


def times(told: Result) -> list[str]:
    return re.findall(r"^(\d\d:\d\d) ", told.stdout, re.MULTILINE)


def test_the_last_twenty_minutes_of_the_newest_session_are_shown(lake: Lake) -> None:
    told = run(lake, "aue", "--minutes")
    minutes = session_of(["AUE"], HALF).to_pylist()

    assert told.exit_code == 0
    summary = "AUE  2024-07-03, 210 minutes from 09:30 to 12:59 in New York: "
    assert summary in told.stdout
    change = minutes[-1]["close"] / minutes[0]["open"] - 1
    assert f"({change:+.2%}), US dollars, unadjusted" in told.stdout
    assert times(told) == [f"12:{minute}" for minute in range(40, 60)]
    assert "the last 20 of 210; for all of them: --csv, or --every 30min" in told.stdout
    assert "time" in told.stdout
    assert "session " not in told.stdout


def test_a_session_and_the_length_of_a_bar_may_be_given(lake: Lake) -> None:
    told = run(lake, "AUE", "--minutes", "--session", "2024-07-02", "--every", "1h")

    assert "AUE  2024-07-02, 7 bars from 09:30 to 15:30 in New York" in told.stdout
    assert times(told) == [f"{hour:02}:30" for hour in range(9, 16)]
    assert "the last" not in told.stdout


def test_extended_hours_are_shown_when_they_are_asked_for(lake: Lake) -> None:
    told = run(lake, "AUE", "--minutes", "--hours", "extended")

    assert "220 minutes from 09:25 to 13:04 in New York" in told.stdout


def test_a_bar_of_a_session_has_its_day_and_no_times(lake: Lake) -> None:
    for hours in ("regular", "extended"):
        told = run(lake, "AUE", "--minutes", "--every", "session", "--hours", hours, "--chart")

        assert f"AUE  2024-07-03, the {hours} hours: " in told.stdout
        assert times(told) == []
        assert re.search(r"^session +open ", told.stdout, re.MULTILINE)
        assert re.search(r"^2024-07-03 +\d", told.stdout, re.MULTILINE)
        assert "00:00" not in told.stdout


def test_extended_hours_of_a_session_that_has_regular_ones_only_are_told(tmp_path: Path) -> None:
    made = LakeWriter(open_store(str(tmp_path)))
    made.claim("alpaca/sip")
    write(made.store, HALF, ["AUE", "BRK.B"])
    publish_minutes(made.store, HALF, session_of(["AUE", "BRK.B"], HALF), hours="regular")
    text = (
        "warning: 1 of the sessions asked for has the minutes of regular hours only: 2024-07-03. "
    )

    for words in (["--csv"], ["--every", "5min"], []):
        told = run(made, "AUE", "BRK.B", "--minutes", "--hours", "extended", *words)

        assert told.exit_code == 0
        assert told.stderr.count(text) == 1
        assert "DATALAKE_MINUTES=extended" in told.stderr
    assert text not in run(made, "AUE", "--minutes").stderr


def test_the_chart_has_the_clock_below_it(lake: Lake) -> None:
    told = run(lake, "AUE", "--minutes", "--chart", "--every", "5min")

    axis = [line for line in told.stdout.splitlines() if line.startswith("09:30 ")][-1]
    assert re.fullmatch(r"(\d\d:\d\d *)+", axis)
    assert len(axis.split()) > 3


def test_a_chart_of_many_minutes_says_how_many_a_column_has(lake: Lake) -> None:
    told = run(lake, "AUE", "--minutes", "--session", "2024-07-02", "--chart")

    assert re.search(r"each column: \d+ bars", told.stdout)


def test_a_pipe_gets_all_minutes(lake: Lake) -> None:
    minutes = lake.minutes(["AUE", "BRK.B"], HALF, HALF).to_pylist()

    told = run(lake, "AUE", "BRK.B", "--minutes", "--csv")
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    assert [row["timestamp"] for row in rows] == [row["timestamp"].isoformat() for row in minutes]
    assert [float(row["close"]) for row in rows] == [row["close"] for row in minutes]
    told = run(lake, "AUE,BRK.B", "--minutes", "--json")
    assert [row["volume"] for row in json.loads(told.stdout)] == [row["volume"] for row in minutes]


def test_a_symbol_without_a_minute_is_explained(lake: Lake) -> None:
    told = run(lake, "QUIET", "--minutes", "--session", "2024-07-02")

    assert told.exit_code == 0
    assert "QUIET has no minutes on 2024-07-02: QUIET did not trade on 2024-07-02" in told.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--minutes", "--from", "2024-07-02"], "give --session, not --from or --to"),
        (["--session", "2024-07-02"], "are for --minutes: add it"),
        (["--every", "5min"], "are for --minutes: add it"),
        (["--hours", "extended"], "are for --minutes: add it"),
        (["--minutes", "--every", "soon"], "every='soon' is no length of a bar"),
        (["--minutes", "--hours", "night"], "hours='night' is unknown"),
        (["--minutes", "--session", "July"], "'July' is no day"),
    ],
)
def test_words_that_mean_nothing_are_refused(lake: Lake, words: list[str], told: str) -> None:
    found = run(lake, "AUE", *words)

    assert found.exit_code == 2
    assert told in re.sub(r"[│\s]+", " ", found.output)


def test_a_lake_without_minutes_says_how_to_turn_them_on(tmp_path: Path) -> None:
    made = LakeWriter(open_store(str(tmp_path)))
    made.claim("alpaca/sip")
    write(made.store, FULL, ["AUE"])

    found = run(made, "AUE", "--minutes")
    assert found.exit_code == 2
    assert "DATALAKE_MINUTES" in found.output
