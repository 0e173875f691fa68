"""What changed between the two newest lists of assets."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import pyarrow as pa
import pytest

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.universe import SCHEMA
from datalake_assets.lake import universe_file
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.overview.universe import BEFORE, Listed, list_changes
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError
from datalake_assets_tests.actions.sayings import action
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.files import session_bytes
from datalake_assets_tests.overview.lakes import DAYS, look, new_lake
from datalake_assets_tests.securities.deriving import LONG_AGO, derive, say


class ClockAt(Clock):
    """A clock that shows the morning of a day."""

    def __init__(self, day: date) -> None:
        self._day = day

    def now(self) -> datetime:
        return datetime.combine(self._day, time(12), UTC)


FIRST, SECOND = date(2024, 7, 1), date(2024, 7, 3)


@pytest.fixture
def lake() -> LakeWriter:
    return new_lake()


def take(lake: LakeWriter, day: date, active: str, inactive: str = "") -> None:
    """Store a list with these symbols, separated by spaces."""
    rows = [(name, "active") for name in active.split()]
    rows += [(name, "inactive") for name in inactive.split()]
    table = pa.Table.from_pylist(
        [
            {"symbol": name, "status": status, "exchange": "NYSE", "name": f"{name} Inc."}
            for name, status in sorted(rows)
        ],
        schema=SCHEMA,
    )
    lake.store.put(layout.universe_key(day), universe_file.encode(table))


def symbols(rows: object) -> list[str]:
    assert isinstance(rows, list)
    return [each.symbol for each in rows]


def test_one_list_tells_no_change(lake: LakeWriter) -> None:
    assert list_changes(LakeFiles(lake.store)) is None
    take(lake, FIRST, "A B")
    assert list_changes(LakeFiles(lake.store)) is None


def test_only_active_assets_of_the_two_newest_lists_count(lake: LakeWriter) -> None:
    take(lake, FIRST - timedelta(days=1), "X")
    take(lake, FIRST, "A B C", "D")
    take(lake, SECOND, "A D E", "B")

    found = list_changes(LakeFiles(lake.store))

    assert found
    assert (found.before, found.after, found.active) == (FIRST, SECOND, 3)
    assert found.new == [Listed("D", "NYSE", "D Inc."), Listed("E", "NYSE", "E Inc.")]
    assert symbols(found.vanished) == ["B", "C"]
    assert found.renamed == []
    assert found.told == "2 new: D, E; 2 vanished: B, C"


def test_lists_that_are_the_same_tell_no_change(lake: LakeWriter) -> None:
    take(lake, FIRST, "A")
    take(lake, SECOND, "A")
    found = list_changes(LakeFiles(lake.store))
    assert found
    assert found.told == "no change"


def derive_a_rename(lake: LakeWriter) -> date:
    """Let the lake's securities know that FB became META; the last session of FB."""
    for number, day in enumerate(DAYS):
        bars = [bar("FB" if number < 10 else "META", day)]
        lake.store.put(layout.session_key(day), session_bytes(day, table(bars)))
    say(lake.store, LONG_AGO, action("r", "FB", DAYS[10], kind="name_changes", new_symbol="META"))
    derive(lake.store)
    return DAYS[9]


@pytest.mark.parametrize(("late", "known"), [(0, True), (1, False)])
def test_a_rename_that_securities_know_is_told_as_one_unless_it_is_old(
    late: int, known: bool, lake: LakeWriter
) -> None:
    last = derive_a_rename(lake)
    first = last + BEFORE + timedelta(days=late)
    take(lake, first, "A FB GONE")
    take(lake, first + timedelta(days=1), "A META NEW")

    found = list_changes(LakeFiles(lake.store, ClockAt(first + timedelta(days=2))))

    assert found
    assert symbols(found.new) == (["NEW"] if known else ["META", "NEW"])
    assert symbols(found.vanished) == (["GONE"] if known else ["FB", "GONE"])
    assert found.renamed == ([Listed("FB", "NYSE", "FB Inc.", "META")] if known else [])
    assert ("1 renamed: FB to META" in found.told) == known


@pytest.mark.parametrize(("before", "after"), [("A FB", "A"), ("A", "A META"), ("FB", "FB META")])
def test_a_rename_needs_both_changes_on_the_lists(
    before: str, after: str, lake: LakeWriter
) -> None:
    last = derive_a_rename(lake)
    take(lake, last, before)
    take(lake, last + timedelta(days=1), after)
    found = list_changes(LakeFiles(lake.store))
    assert found
    assert found.renamed == []
    assert len(found.new) + len(found.vanished) == 1


def test_a_line_names_five_symbols_of_each_kind(lake: LakeWriter) -> None:
    take(lake, FIRST, "A B C D E")
    take(lake, SECOND, "F G H I J K")
    found = list_changes(LakeFiles(lake.store))
    assert found
    assert found.told == "6 new: F, G, H, I, J …; 5 vanished: A, B, C, D, E"


def test_a_damaged_list_is_told_once_and_hides_nothing_else(lake: LakeWriter) -> None:
    take(lake, FIRST, "A")
    take(lake, SECOND, "A")
    lake.store.put(layout.universe_key(FIRST), b"PAR1")
    with pytest.raises(BrokenFileError, match="no whole snapshot"):
        list_changes(LakeFiles(lake.store))
    found = look(lake)
    assert found.listed is None
    (damage,) = found.damaged
    assert str(FIRST) in damage.step.why
