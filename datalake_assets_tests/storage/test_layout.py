"""The keys of the lake are a contract: other programs read them."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets.storage import layout

DAY = date(2024, 7, 3)
days = st.lists(st.dates(date(2000, 1, 1), date(2035, 12, 31)), unique=True, max_size=20)


def test_every_object_lies_where_the_contract_says() -> None:
    assert layout.MARKER == "_lake.json"
    assert layout.session_key(DAY) == "data/ticks/sessions/year=2024/2024-07-03.parquet"
    assert layout.incomplete_key(DAY) == "data/ticks/incomplete/year=2024/2024-07-03.parquet"
    assert layout.universe_key(DAY) == "data/universe/2024-07-03.parquet"
    assert layout.symbol_year_key("BRK.B", 2024) == "data/ticks/daily/BRK.B/2024/ticks.parquet"
    assert layout.manifest_key(2024) == "data/ticks/manifests/2024.parquet"
    assert layout.survey_key(DAY) == "data/universe/surveys/2024-07-03.parquet"


@given(st.from_regex(r"[A-Z]{1,5}(\.[A-Z]{1,2})?", fullmatch=True), st.integers(1, 9999))
def test_a_symbol_year_and_a_manifest_are_found_again_in_their_keys(symbol: str, year: int) -> None:
    assert layout.symbol_year(layout.symbol_year_key(symbol, year)) == (symbol, year)
    assert layout.manifest_year(layout.manifest_key(year)) == year


@pytest.mark.parametrize("shown", [2024, DAY])
def test_what_a_table_registers_is_found_again_in_its_key(shown: int | date) -> None:
    key = layout.registered_key("bars", shown, "0123abcd")
    name = "2024" if shown == 2024 else "2024-07-03"
    assert key == f"iceberg/bars/data/year=2024/{name}-0123abcd.parquet"
    assert layout.registered(key) == shown


@pytest.mark.parametrize(
    "key",
    [
        "iceberg/bars/data/year=2024/2023-0123abcd.parquet",
        "iceberg/bars/data/year=2024/2024-13-45-0123abcd.parquet",
        "iceberg/bars/data/year=2024/00000-0-part.parquet",
        "iceberg/bars/data/2024-0123abcd.parquet",
        "data/ticks/years/year=2024/bars.parquet",
    ],
)
def test_a_key_of_another_shape_is_not_registered(key: str) -> None:
    assert layout.registered(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "data/ticks/daily/A/2024/ticks.parquet.crc",
        "data/ticks/daily/A/2024/other.parquet",
        "data/ticks/daily/A/24/ticks.parquet",
        "data/ticks/daily/A/B/2024/ticks.parquet",
        "data/ticks/daily/2024/ticks.parquet",
        "backup/data/ticks/daily/A/2024/ticks.parquet",
        "data/ticks/manifests/2024.parquet",
    ],
)
def test_a_key_of_another_shape_is_no_symbol_year(key: str) -> None:
    assert layout.symbol_year(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "data/ticks/manifests/2024.parquet.crc",
        "data/ticks/manifests/24.parquet",
        "data/ticks/manifests/old/2024.parquet",
        "data/ticks/daily/A/2024/ticks.parquet",
    ],
)
def test_a_key_of_another_shape_is_no_manifest(key: str) -> None:
    assert layout.manifest_year(key) is None


@given(days)
def test_the_days_are_found_again_in_their_keys_in_order(found: list[date]) -> None:
    for prefix, key in (
        (layout.SESSIONS, layout.session_key),
        (layout.INCOMPLETE, layout.incomplete_key),
        (layout.UNIVERSE, layout.universe_key),
        (layout.SURVEYS, layout.survey_key),
    ):
        assert layout.dated(prefix, [key(day) for day in found]) == sorted(found)


def test_the_keys_of_published_and_incomplete_sessions_do_not_mix() -> None:
    assert layout.dated(layout.SESSIONS, [layout.incomplete_key(DAY)]) == []
    assert layout.dated(layout.INCOMPLETE, [layout.session_key(DAY)]) == []


def test_a_survey_lies_below_the_universe_and_is_no_snapshot_of_it() -> None:
    keys = [layout.survey_key(DAY), layout.universe_key(DAY.replace(day=4))]
    assert layout.dated(layout.UNIVERSE, keys) == [DAY.replace(day=4)]
    assert layout.dated(layout.SURVEYS, keys) == [DAY]


@pytest.mark.parametrize(
    "name",
    [
        "year=2024/2024-07-03.parquet.crc",
        "year=2024/2024-07-03.csv",
        "year=2024/sub/2024-07-03.parquet",
        "year=2024/part-0.parquet",
        "year=2024/2024-13-45.parquet",
        "year=2023/2024-07-05.parquet",
        "2024-07-05.parquet",
        "_SUCCESS",
    ],
)
def test_a_key_of_another_shape_is_not_ours(name: str) -> None:
    keys = [f"data/ticks/sessions/{name}", layout.session_key(DAY)]
    assert layout.dated(layout.SESSIONS, keys) == [DAY]
