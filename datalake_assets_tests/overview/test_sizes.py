"""The size of the lake and its growth, from what a listing tells."""

from __future__ import annotations

from datetime import date

import pytest

from datalake_assets import market_calendar
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview.numbers import written
from datalake_assets.overview.sizes import Part, YearSize, measured, sizes
from datalake_assets.storage import layout
from datalake_assets_tests.overview.lakes import DAYS, new_lake, publish


def test_the_parts_add_up_to_all_that_lies_there() -> None:
    lake = new_lake()
    publish(lake, DAYS)
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)
    lake.store.put("stray.txt", b"1234")

    found = sizes(lake.store)

    keys = lake.store.list()
    assert found.objects == len(keys)
    assert found.total == sum(len(lake.store.get(key)) for key in keys)
    parts = {part.name: part.objects for part in found.parts}
    assert parts == {
        "session files": 44,
        "files per symbol": 100,
        "year files": 1,
        "everything else": 3,
    }


def test_years_have_the_bytes_of_each_layout() -> None:
    found = measured(
        {
            layout.session_key(date(2023, 12, 29)): 100,
            layout.session_key(date(2024, 1, 2)): 200,
            layout.session_key(date(2024, 1, 3)): 300,
            layout.symbol_year_key("A", 2024): 1000,
            layout.symbol_year_key("B", 2024): 500,
            layout.symbol_year_key("A", 2022): 7,
            layout.year_file_key(2024): 400,
            f"{layout.SESSIONS}/year=2024/not-ours.parquet": 9,
        }
    )
    assert found.years == {
        2022: YearSize(0, 7),
        2023: YearSize(100),
        2024: YearSize(500, 1500, 400),
    }
    assert Part("session files", 4, 609) in found.parts


def test_growth_is_that_of_the_newest_20_sessions_in_all_layouts() -> None:
    days = market_calendar.sessions(date(2024, 1, 2), date(2024, 1, 31))
    assert len(days) == 21
    of_days = {layout.session_key(day): 100 for day in days}
    # The first of the 21 is not measured; the files per symbol are half as large as the sessions,
    # and the year file a quarter.
    of_days[layout.session_key(days[0])] = 10_000
    projected = {layout.symbol_year_key("A", 2024): 6_000, layout.year_file_key(2024): 3_000}
    found = measured(of_days | projected)
    assert found.a_session == pytest.approx(175)
    assert found.a_month == pytest.approx(175 * 21)
    assert found.a_year == pytest.approx(175 * 252)


def test_without_files_per_symbol_the_sessions_alone_grow() -> None:
    found = measured({layout.session_key(DAYS[0]): 100, layout.session_key(DAYS[1]): 300})
    assert found.a_session == 200


def test_a_lake_that_is_not_there_has_no_size_and_no_growth() -> None:
    found = sizes(new_lake().store)
    assert (found.objects, found.a_session, found.a_month, found.a_year) == (1, None, None, None)
    assert measured({}).total == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.4, "999 B"),
        (999.5, "1.00 kB"),
        (1_000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_995, "10.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1_234_567_890, "1.23 GB"),
        (12_345_678_901_234, "12.3 TB"),
        (12_345_678_901_234_567, "12,346 TB"),
    ],
)
def test_a_size_has_about_three_digits(size: float, text: str) -> None:
    assert written(size, "bytes") == text
