"""Symbol-years that lag on purpose are held against what they were made from.

Not here: everything else that an examination finds (`test_doctor`).
"""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.lake import session_file
from datalake_assets.lake.examination import Defect, examine
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.lake.files import collected, flipped, rewritten
from datalake_assets_tests.lake.minutes import collected_minutes, minute, session_of

MONDAY, TUESDAY = date(2024, 7, 8), date(2024, 7, 9)


class Evening(FakeClock):
    def now(self) -> datetime:
        return datetime(2024, 7, 9, 23, tzinfo=UTC)


@pytest.fixture
def lake() -> LakeWriter:
    """A lake of which a Monday is shown per symbol, and a Tuesday is not yet."""
    lake = LakeWriter(open_store("memory://"))
    lake.claim("alpaca/sip")
    lake.publish(collected(MONDAY, every("AB", [MONDAY])), [])
    SymbolYears(lake.store).publish(2024)
    lake.publish(collected(TUESDAY, every("AB", [TUESDAY])), [])
    return lake


def defects(lake: LakeWriter, *, weekly: bool) -> list[Defect]:
    found = examine(lake, clock=Evening(), weekly=weekly)
    (years,) = [one for one in found if one.subject == "symbol-years against their sessions"]
    return list(years.defects)


def test_a_year_that_waits_for_the_end_of_its_week_has_nothing_wrong(lake: LakeWriter) -> None:
    assert defects(lake, weekly=True) == []
    (defect,) = defects(lake, weekly=False)
    assert "1 session is not shown as it is now, first 2024-07-09" in defect.what


@pytest.mark.parametrize("data", [None, b"", b"of another program"])
def test_what_was_damaged_in_a_year_that_waits_is_found_all_the_same(
    lake: LakeWriter, data: bytes | None
) -> None:
    key = layout.symbol_year_key("B", 2024)
    lake.store.delete(key)
    if data is not None:
        lake.store.put(key, data)
    (defect,) = defects(lake, weekly=True)
    assert defect.where == lake.store.url(key)
    assert defect.repair == "datalake publish --year 2024"


# Minute bars


def minutes_of(lake: LakeWriter, day: date = MONDAY, **states: tuple[str, ...]) -> str:
    """Publish the minutes of two symbols; the key of their file."""
    minutes = lake.of(MINUTE)
    minutes.publish(collected_minutes(day, session_of("AB", day), **states), [])
    return minutes.session_key(day)


def found(lake: LakeWriter) -> dict[str, tuple[int, list[Defect]]]:
    """What was looked at of the minutes, and all that is wrong with anything else but the years."""
    evening = YearLater()
    return {
        one.subject: (one.count, list(one.defects))
        for one in examine(lake, clock=evening)
        if one.subject.startswith("minute bars") or one.subject == "untracked objects"
    }


class YearLater(FakeClock):
    def now(self) -> datetime:
        return datetime(2026, 1, 6, tzinfo=UTC)


def test_of_a_lake_without_minute_bars_nothing_is_told_of_them(lake: LakeWriter) -> None:
    assert list(found(lake)) == ["untracked objects"]


def test_minutes_are_proved_by_their_digest_and_are_no_strangers(lake: LakeWriter) -> None:
    minutes_of(lake)
    waiting = collected_minutes(TUESDAY, session_of("A", TUESDAY), pending=("B",))
    lake.of(MINUTE).keep_incomplete(waiting, [])

    looked_at = found(lake)

    assert looked_at.pop("untracked objects")[1] == []
    assert looked_at == {
        "minute bars: published sessions": (1, []),
        "minute bars: incomplete sessions": (1, []),
    }


def test_changed_and_damaged_minutes_are_found_with_what_to_type(lake: LakeWriter) -> None:
    key = minutes_of(lake)
    data = lake.store.get(key)
    bars = session_file.decode(data, key).bars
    lake.store.put(key, rewritten(data, bars.slice(1)))
    (changed,) = found(lake)["minute bars: published sessions"][1]
    assert "was changed by another program" in changed.what
    assert changed.repair == f"datalake collect --minutes --session {MONDAY}"

    lake.store.put(key, flipped(data, len(data) // 2, 3))
    (damaged,) = found(lake)["minute bars: published sessions"][1]
    assert damaged.where == lake.store.url(key)
    assert damaged.repair == f"datalake collect --minutes --session {MONDAY}"


@pytest.mark.parametrize(
    ("extended", "wrong"),
    # 04:00 in New York is 330 minutes before the open.
    [(330, False), (331, True)],
)
def test_minutes_outside_of_all_hours_are_told(
    lake: LakeWriter, extended: int, wrong: bool
) -> None:
    before = market_calendar.session_open(MONDAY) - timedelta(minutes=extended)
    bars = pa.Table.from_pylist([minute("A", MONDAY, before)], SCHEMA)
    lake.of(MINUTE).publish(collected_minutes(MONDAY, bars), [])

    defects = found(lake)["minute bars: published sessions"][1]

    assert [each.what.partition(", such")[0] for each in defects] == [
        "its rows have times that are no minutes of its hours"
    ] * wrong


def test_minutes_under_another_day_are_told(lake: LakeWriter) -> None:
    key = minutes_of(lake)
    lake.store.put(layout.session_key(TUESDAY, layout.MINUTE), lake.store.get(key))

    (defect,) = found(lake)["minute bars: published sessions"][1]

    assert defect.what == f"its ledger is of {MONDAY}"


def test_what_is_no_file_of_minutes_is_foreign(lake: LakeWriter) -> None:
    key = minutes_of(lake)
    lake.store.put(key.replace("part-0", "part-1"), b"1234")

    ((defect),) = found(lake)["untracked objects"][1]

    assert defect.where.endswith("part-1.parquet")
