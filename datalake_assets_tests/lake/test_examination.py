"""Symbol-years that lag on purpose are held against what they were made from.

Not here: everything else that an examination finds (`test_doctor`).
"""

from datetime import UTC, date, datetime

import pytest

from datalake_assets.lake.examination import Defect, examine
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.lake.files import collected

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
    assert "1 session is not shown as they are now, first 2024-07-09" in defect.what


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
