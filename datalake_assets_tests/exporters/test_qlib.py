"""The export for qlib, byte by byte, by a reader that knows only the format's description."""

from pathlib import Path

import numpy as np
import pytest

from datalake_assets import market_calendar
from datalake_assets.exporters.qlib import folder_of
from datalake_assets.exporters.run import export
from datalake_assets.lake.lake import Lake
from datalake_assets_tests.exporters.market import (
    DAYS,
    DEAD,
    LATER,
    LONG,
    LONG_LATER,
    MERGED,
    RENAME,
    REUSED,
)

FLOAT32 = 2**-24


@pytest.fixture(scope="module")
def folder(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("qlib")
    export("qlib", lake, folder)
    return folder


def read(folder: Path, name: str, field: str) -> tuple[int, np.ndarray]:
    """Where a file's values begin in the calendar, and the values."""
    data = (folder / "features" / name / f"{field}.day.bin").read_bytes()
    values = np.frombuffer(data, "<f4")
    return int(values[0]), values[1:].astype(np.float64)


def test_the_calendar_has_the_sessions_and_a_year_to_come(folder: Path) -> None:
    days = (folder / "calendars" / "day.txt").read_text().split()
    ahead = (folder / "calendars" / "day_future.txt").read_text().split()

    assert days == [str(day) for day in DAYS]
    assert ahead[: len(days)] == days
    to_come = market_calendar.sessions(DAYS[-1], DAYS[-1].replace(year=2025, day=28))[1:]
    assert ahead[len(days) :] == [str(day) for day in to_come]


def test_securities_go_by_their_newest_ticker_from_their_first_to_their_last_bar(
    folder: Path,
) -> None:
    lines = (folder / "instruments" / "all.txt").read_text().splitlines()

    assert [line.split("\t") for line in lines] == [
        ["DEAD", str(DAYS[REUSED]), str(DAYS[-1])],
        [f"DEAD-{DAYS[0]}", str(DAYS[0]), str(DAYS[MERGED])],
        ["KID", str(DAYS[100]), str(DAYS[-1])],
        ["LNG.B", str(DAYS[0]), str(DAYS[-1])],
        ["LONG", str(DAYS[LATER]), str(DAYS[-1])],
        ["ODD", str(DAYS[0]), str(DAYS[-1])],
        ["THIN", str(DAYS[0]), str(DAYS[-2])],
    ]


def test_prices_over_the_factor_and_volumes_times_it_are_as_they_traded(folder: Path) -> None:
    begins, factor = read(folder, "lng.b", "factor")
    places = [DAYS.index(row["session"]) for row in LONG.rows()]

    assert begins == 0
    for name in ("open", "high", "low", "close", "vwap"):
        values = read(folder, "lng.b", name)[1]
        told = [row[name] for row in LONG.rows()]
        assert (values / factor)[places] == pytest.approx(told, rel=3 * FLOAT32), name
    volume = read(folder, "lng.b", "volume")[1]
    told = [row["volume"] for row in LONG.rows()]
    assert (volume * factor)[places] == pytest.approx(told, rel=3 * FLOAT32)


def test_the_last_session_is_as_it_traded(folder: Path) -> None:
    assert read(folder, "lng.b", "factor")[1][-1] == 1.0
    assert read(folder, "lng.b", "close")[1][-1] == np.float32(LONG.rows()[-1]["close"])


def test_what_a_share_earned_is_the_change_of_its_close(folder: Path) -> None:
    close = read(folder, "lng.b", "close")[1]
    change = read(folder, "lng.b", "change")[1]
    traded = close[~np.isnan(close)]

    earned = LONG.earned(0, len(DAYS) - 1)
    assert traded[-1] / traded[0] == pytest.approx(earned, rel=3 * FLOAT32)
    assert np.isnan(change[0])
    told = traded[1:] / traded[:-1] - 1
    assert change[~np.isnan(close)][1:] == pytest.approx(told, abs=4 * FLOAT32)


def test_of_two_with_one_ticker_the_older_goes_by_its_identifier(folder: Path) -> None:
    begins, close = read(folder, f"dead-{DAYS[0]}", "close")

    assert begins == 0
    assert close == pytest.approx([row["close"] for row in DEAD.rows()], rel=FLOAT32)
    assert read(folder, "dead", "close")[0] == REUSED


def test_a_session_without_a_bar_is_nan_in_every_field(folder: Path) -> None:
    for field in ("open", "high", "low", "close", "vwap", "volume", "factor", "change"):
        assert np.isnan(read(folder, "lng.b", field)[1][144]), field
        assert np.isnan(read(folder, "thin", field)[1][3]), field


def test_a_reused_ticker_begins_with_its_new_holder(folder: Path) -> None:
    begins, close = read(folder, "long", "close")

    assert begins == LATER > RENAME
    assert close == pytest.approx([row["close"] for row in LONG_LATER.rows()], rel=FLOAT32)


@pytest.mark.parametrize(
    ("name", "folder"), [("PRN", "_qlib_prn"), ("COM1", "_qlib_com1"), ("COMP", "comp")]
)
def test_names_that_windows_reserves_are_where_qlib_looks_for_them(name: str, folder: str) -> None:
    assert folder_of(name) == f"features/{folder}"
