"""Our adjusted bars against the source's: where they part, and what the lake lacks."""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datalake_assets.securities.tables import FACTORS
from datalake_assets.securities.witness import MOST_PARTINGS, gaps, partings
from datalake_assets_tests.collection.tables import WEEK

DAYS = WEEK[:5]
CLOSES = [40.0, 41.0, 42.0, 43.0, 44.0]


def series(closes: Any, days: Any = DAYS) -> pa.Table:
    return pa.table({"session": pa.array(days, pa.date32()), "close": pa.array(closes)})


def factors(*acting: tuple[date, str, bool]) -> pa.Table:
    rows = [
        {
            "security": "A",
            "symbol": "A",
            "session": day,
            "effective_date": day,
            "kind": "cash_dividends",
            "adjustment": "dividend",
            "action_id": name,
            "price_factor": 0.99,
            "volume_factor": 1.0,
            "total_return_factor": 0.99,
            "verdict": "confirmed",
            "applied": applied,
            "reason": "",
        }
        for day, name, applied in acting
    ]
    return pa.Table.from_pylist(rows, FACTORS)


def multiplied(factor: float, count: int) -> list[float]:
    """The first `count` closes times the factor, all rounded as the source rounds."""
    return [round(c * factor if i < count else c, 2) for i, c in enumerate(CLOSES)]


def test_equal_series_do_not_part() -> None:
    assert partings(series(CLOSES), series(CLOSES), factors()) == []


@pytest.mark.parametrize(("off", "parts"), [(0.0049, 0), (0.00503, 0), (0.0052, 1)])
def test_what_rounding_can_do_is_no_difference(off: float, parts: int) -> None:
    theirs = [CLOSES[0] + off, *CLOSES[1:]]
    assert len(partings(series(CLOSES), series(theirs), factors())) == parts


def test_a_dividend_that_the_source_applied_twice_is_named_with_both_values() -> None:
    ours = np.array(CLOSES) * [0.97, 0.97, 0.97, 1, 1]
    twice = multiplied(0.97 * 0.97, 3)
    (found,) = partings(series(ours), series(twice), factors((DAYS[3], "div-1", True)))
    assert (found.session, found.action_id, found.applied) == (DAYS[2], "div-1", True)
    assert found.ours == pytest.approx(40.74)
    assert found.theirs == 39.52
    assert found.ratio == pytest.approx(0.97, rel=2e-4)
    assert str(found) == (
        f"close of {DAYS[2]}: 40.7400 here, 39.52 at the source, 0.970075 of it: the action div-1 "
        "(cash_dividends, applied here)"
    )


def test_an_action_that_only_the_source_applies_is_told_as_unknown_or_as_not_applied() -> None:
    theirs = series(multiplied(0.5, 2))
    (unknown,) = partings(series(CLOSES), theirs, factors())
    assert (unknown.session, unknown.action_id) == (DAYS[1], None)
    assert "an action that is not in the log" in str(unknown)
    (held_back,) = partings(series(CLOSES), theirs, factors((DAYS[2], "split", False)))
    assert (held_back.action_id, held_back.applied) == ("split", False)


def test_each_parting_is_told_once_and_the_newest_first() -> None:
    theirs = [round(c * f, 2) for c, f in zip(CLOSES, [0.25, 0.5, 0.5, 1, 1], strict=True)]
    acting = factors((DAYS[3], "second", False), (DAYS[1], "first", False))
    found = partings(series(CLOSES), series(theirs), acting)
    assert [(one.session, one.action_id) for one in found] == [
        (DAYS[2], "second"),
        (DAYS[0], "first"),
    ]


def test_an_action_after_the_newest_common_session_shifts_everything_and_is_no_difference() -> None:
    theirs = series([round(c / 2, 2) for c in CLOSES])
    assert partings(series(CLOSES), theirs, factors()) == []


def test_sessions_that_only_one_of_them_has_are_not_compared() -> None:
    theirs = series([40.0, 999.0, 44.0], [DAYS[0], date(2023, 1, 3), DAYS[4]])
    assert partings(series(CLOSES), theirs, factors()) == []
    assert partings(series(CLOSES), series([1.0], [date(2023, 1, 3)]), factors()) == []


def test_a_series_of_another_security_does_not_part_without_end() -> None:
    days = np.arange(np.datetime64("2024-01-01"), np.datetime64("2024-06-01")).astype(object)
    closes = 50 + np.arange(len(days))
    theirs = closes * (1 + np.arange(len(days)) % 7)
    acting = factors(*((day, "x", True) for day in days))
    assert len(partings(series(closes, days), series(theirs, days), acting)) == MOST_PARTINGS


@pytest.mark.parametrize(
    ("ours", "theirs", "spans"),
    [
        (DAYS, DAYS, []),
        (DAYS[3:], DAYS, [(DAYS[0], DAYS[2], 3)]),
        ([DAYS[2]], DAYS, [(DAYS[0], DAYS[1], 2), (DAYS[3], DAYS[4], 2)]),
        (DAYS, DAYS[1:3], []),
        ([], [], []),
    ],
)
def test_sessions_that_only_the_source_has_are_gaps_of_the_lake(
    ours: list[date], theirs: list[date], spans: list[tuple[date, date, int]]
) -> None:
    assert gaps(ours, theirs) == spans
