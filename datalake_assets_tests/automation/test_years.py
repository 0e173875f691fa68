"""Years that are behind: found by what their files are, not by their dates."""

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from datalake_assets.automation.years import IN_ONE_FILE, PER_SYMBOL, Years
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, open_store
from datalake_assets_tests.automation.world import utc
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.lake.files import collected

NOW = utc("2025-12-09 00:00")
LATER = NOW + timedelta(minutes=1)
DAY = date(2025, 1, 2)


@pytest.fixture
def lake(tmp_path: Path) -> LakeWriter:
    """A lake of one session."""
    lake = LakeWriter(open_store(str(tmp_path)))
    lake.publish(collected(DAY, every("A", [DAY])), [])
    return lake


def dated(lake: LakeWriter, at: datetime) -> None:
    os.utime(lake.store.url(layout.session_key(DAY)), (at.timestamp(), at.timestamp()))


def test_a_year_is_behind_since_the_look_that_found_it(lake: LakeWriter) -> None:
    found = Years()
    assert found.look(lake.store, NOW) == {"2025": NOW}
    again = Years.remembered(found.kept())
    assert again.look(lake.store, LATER) == {"2025": NOW}
    lake.publish(collected(DAY, every("AB", [DAY])), [])
    assert again.look(lake.store, LATER) == {"2025": LATER}


def test_an_instant_in_the_future_is_not_remembered(lake: LakeWriter) -> None:
    found = Years()
    found.look(lake.store, datetime(2099, 1, 1, tzinfo=UTC))
    assert found.look(lake.store, NOW) == {"2025": NOW}


def test_a_publication_that_failed_changes_nothing_about_since_when(lake: LakeWriter) -> None:
    """Or it would be tried again at once, for ever."""
    found = Years()
    found.look(lake.store, NOW)
    lake.store.put(layout.manifest_key(2025), b"")
    lake.store.delete(layout.manifest_key(2025))
    assert found.look(lake.store, LATER) == {"2025": NOW}


@pytest.mark.parametrize("at", [datetime(2011, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)])
def test_a_session_that_was_restored_is_seen_whatever_its_date(
    lake: LakeWriter, at: datetime
) -> None:
    backup = lake.store.get(layout.session_key(DAY))
    lake.publish(collected(DAY, every("AB", [DAY])), [])
    SymbolYears(lake.store).publish(2025)
    found = Years()
    assert found.look(lake.store, NOW) == {}
    lake.store.put(layout.session_key(DAY), backup)
    dated(lake, at)
    assert found.look(lake.store, LATER) == {"2025": LATER}
    SymbolYears(lake.store).publish(2025)
    assert found.look(lake.store, LATER) == {}


class _Counting(Store):
    """A store that counts what is read of it."""

    def __init__(self, store: Store) -> None:
        vars(self).update(vars(store))
        self.read: list[str] = []

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        self.read.append(key)
        return super().get_versioned(key)

    def tail(self, key: str, length: int) -> bytes:
        self.read.append(key)
        return super().tail(key, length)


def test_a_year_that_shows_its_sessions_is_not_read_again(lake: LakeWriter) -> None:
    SymbolYears(lake.store).publish(2025)
    store, found = _Counting(lake.store), Years()
    found.look(store, NOW)
    assert store.read == [layout.manifest_key(2025)]
    found = Years.remembered(found.kept())
    assert found.look(store, LATER) == {}
    assert store.read == [layout.manifest_key(2025)]


def test_each_projection_follows_for_itself(lake: LakeWriter) -> None:
    SymbolYears(lake.store).publish(2025)
    files = Years()
    assert files.look(lake.store, NOW, IN_ONE_FILE) == {"2025": NOW}
    YearFiles(lake.store).publish(2025)
    assert files.look(lake.store, LATER, IN_ONE_FILE) == {}
    store, again = _Counting(lake.store), Years.remembered(files.kept())
    assert again.look(store, LATER, IN_ONE_FILE) == {}
    assert store.read == []


def test_a_damaged_year_file_is_to_be_written_and_a_damaged_manifest_is_an_error(
    lake: LakeWriter,
) -> None:
    SymbolYears(lake.store).publish(2025)
    YearFiles(lake.store).publish(2025)
    for key in (layout.year_file_key(2025), layout.manifest_key(2025)):
        lake.store.put(key, b"nothing")
    assert Years().look(lake.store, NOW, IN_ONE_FILE) == {"2025": NOW}
    with pytest.raises(BrokenFileError):
        Years().look(lake.store, NOW, PER_SYMBOL)


# Once a week


def publish_days(lake: LakeWriter, *days: date) -> None:
    for day in days:
        lake.publish(collected(day, every("A", [day])), [])


def test_the_running_year_waits_for_the_end_of_a_week_and_nothing_is_read_until_then(
    lake: LakeWriter,
) -> None:
    SymbolYears(lake.store).publish(2025)  # with Thursday, and Friday comes
    publish_days(lake, date(2025, 1, 3), date(2025, 1, 6))
    monday = utc("2025-01-06 23:00")
    assert Years().look(lake.store, monday, weekly=True) == {"2025": monday}
    SymbolYears(lake.store).publish(2025)
    publish_days(lake, date(2025, 1, 7))
    store, found = _Counting(lake.store), Years()
    for _ in range(3):
        assert found.look(store, utc("2025-01-07 23:00"), weekly=True) == {}
        found = Years.remembered(found.kept())
        assert store.read == [layout.manifest_key(2025)]
    assert [end for _, end in found.waiting.values()] == ["2025-01-10"]
    assert found.look(store, LATER, weekly=False) == {"2025": LATER}


def test_a_year_that_waited_is_published_when_it_is_over(lake: LakeWriter) -> None:
    SymbolYears(lake.store).publish(2025)
    publish_days(lake, date(2025, 12, 29))
    SymbolYears(lake.store).publish(2025)
    publish_days(lake, date(2025, 12, 30))
    found = Years()
    assert found.look(lake.store, utc("2025-12-31 23:59"), weekly=True) == {}
    over = utc("2026-01-01 00:00")
    assert found.look(lake.store, over, weekly=True) == {"2025": over}
