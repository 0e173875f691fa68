"""Pages become one table, however they were cut, ordered and repeated."""

from collections import Counter
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection import bars
from datalake_assets_tests.collection.tables import MONDAY, WEEK, bar, every, names, table

unhurried = settings(deadline=None)
keys = st.tuples(st.sampled_from(names(8)), st.sampled_from(WEEK))


def pages(data: st.DataObject, rows: list[dict[str, object]]) -> list[pa.Table]:
    """The rows cut into pages anywhere, some of the pages empty."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    return [table(rows[a:b]) for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


@unhurried
@given(st.data(), st.sets(keys, max_size=30))
def test_any_split_order_and_repetition_of_pages_gives_the_same_table(
    data: st.DataObject, held: set[tuple[str, date]]
) -> None:
    rows = [bar(symbol, day) for symbol, day in held]
    repeated = data.draw(st.lists(st.sampled_from(rows), max_size=10)) if rows else []
    shuffled = data.draw(st.permutations(rows + repeated))
    combined, contradictions = bars.combine(pages(data, shuffled))
    ordered = sorted(rows, key=lambda row: (row["session"], row["symbol"]))
    assert combined.to_pylist() == table(ordered).to_pylist()
    assert combined.schema == bars.SCHEMA
    assert contradictions == []


@unhurried
@given(st.data(), st.sets(keys, min_size=1, max_size=20), st.sampled_from(bars.SCHEMA.names[3:]))
def test_bars_that_contradict_each_other_in_any_column_are_told_and_none_of_them_kept(
    data: st.DataObject, held: set[tuple[str, date]], column: str
) -> None:
    clashing = data.draw(st.sets(st.sampled_from(sorted(held))))
    rows = [bar(symbol, day) for symbol, day in held]
    others = [
        bar(symbol, day) | {column: bar(symbol, day)[column] + more}
        for symbol, day in clashing
        for more in range(1, data.draw(st.integers(2, 3)))
    ]
    combined, contradictions = bars.combine(pages(data, data.draw(st.permutations(rows + others))))
    left = sorted(held - clashing, key=lambda key: (key[1], key[0]))
    assert combined.to_pylist() == [bar(symbol, day) for symbol, day in left]
    assert combined.schema == bars.SCHEMA
    assert contradictions == sorted(clashing)


def test_a_bar_that_differs_in_its_timestamp_only_contradicts_too() -> None:
    later = bar("A") | {"timestamp": bar("A", WEEK[1])["timestamp"]}
    combined, contradictions = bars.combine([table([bar("A")]), table([later])])
    assert combined.num_rows == 0
    assert contradictions == [("A", MONDAY)]


@pytest.mark.parametrize("given_pages", [[], [bars.empty()], [bars.empty(), bars.empty()]])
def test_no_bars_make_an_empty_table_of_the_same_columns(given_pages: list[pa.Table]) -> None:
    combined, contradictions = bars.combine(given_pages)
    assert combined.schema == bars.SCHEMA == bars.empty().schema
    assert combined.num_rows == 0
    assert contradictions == []
    assert list(bars.by_session(combined)) == []


def test_overlapping_pages_keep_every_bar_once() -> None:
    whole = every(names(300), WEEK)
    upside_down = whole.sort_by([("symbol", "descending"), ("session", "descending")])
    parts = [upside_down.slice(start, 70) for start in range(0, whole.num_rows, 50)]
    combined, contradictions = bars.combine(parts)
    assert combined.equals(whole)
    assert contradictions == []


@unhurried
@given(st.sets(keys, max_size=30))
def test_a_table_split_by_session_has_every_row_in_the_part_of_its_session(
    held: set[tuple[str, date]],
) -> None:
    whole, _ = bars.combine([table(bar(symbol, day) for symbol, day in held)])
    parts = dict(bars.by_session(whole))
    assert list(parts) == sorted({day for _, day in held})
    for day, part in parts.items():
        assert part["session"].unique().to_pylist() == [day]
        assert part["symbol"].to_pylist() == sorted(s for s, session in held if session == day)
    found = Counter(
        (row["symbol"], row["session"]) for part in parts.values() for row in part.to_pylist()
    )
    assert found == Counter(held)


def test_every_column_is_described_and_only_what_trades_make_may_be_missing() -> None:
    assert list(bars.COLUMN_DESCRIPTIONS) == bars.SCHEMA.names
    assert [field.name for field in bars.SCHEMA if field.nullable] == ["vwap", "trade_count"]
    assert set(bars.PRICES) < set(bars.SCHEMA.names)


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (0.0, "0.00"),
        (1234.5, "1,234.50"),
        (1.0, "1.00"),
        (0.9999, "0.9999"),
        (0.5, "0.5000"),
        (0.0123, "0.0123"),
        (0.00999, "0.00999"),
        (0.001, "0.0010"),
        (0.0001, "0.0001"),
        (0.00005, "0.00005"),
        (0.0000123456, "0.0000123"),
        (0.000001, "0.000001"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (-0.00005, "-0.00005"),
    ],
)
def test_a_price_is_told_with_as_many_digits_as_it_needs(price: float, text: str) -> None:
    assert bars.price_text(price) == text
