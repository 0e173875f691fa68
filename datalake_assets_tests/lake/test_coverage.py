"""What the lake holds is counted against the calendar, and what is wrong is named."""

from datetime import UTC, date, datetime, timedelta
from itertools import product
from string import ascii_uppercase
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.lake.coverage import Coverage, Held, Narrow, coverage, narrow
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import every

DAYS = market_calendar.sessions(date(2024, 6, 24), date(2024, 7, 12))


class _Busy(LakeFiles):
    """A lake in which an incomplete session is repaired as soon as somebody listed it."""

    def incomplete(self) -> list[date]:
        days = super().incomplete()
        for day in days:
            LakeWriter(self.store).publish(session(day, minutes=1), [])
        return days


@pytest.fixture
def lake() -> LakeWriter:
    return LakeWriter(open_store("memory://"))


def session(day: date, minutes: int = 0, **states: Any) -> Session:
    told = Provenance(
        collected_at=datetime(2024, 7, 15, tzinfo=UTC) + timedelta(minutes=minutes),
        source="alpaca/sip",
        listed=day,
        run_id="",
        version="0",
    )
    return Session(every(("A", "B"), [day]), Ledger(day, ("A", "B"), **states), told)


def test_a_lake_that_is_not_there_holds_nothing(lake: LakeWriter) -> None:
    found = coverage(lake, DAYS)
    assert set(found.sessions.values()) == {Held.MISSING}
    assert list(found.sessions) == DAYS
    assert found.gaps == [(DAYS[0], DAYS[-1], len(DAYS))]
    assert found.to_repair == []


def test_nothing_expected_is_nothing_missing(lake: LakeWriter) -> None:
    found = coverage(lake, [])
    assert (found.sessions, found.gaps, found.to_repair) == ({}, [], [])
    assert not (*found.published, *found.waiting, *found.damaged)


def test_each_session_is_published_incomplete_or_missing(lake: LakeWriter) -> None:
    lake.publish(session(DAYS[0]), [])
    lake.keep_incomplete(session(DAYS[1], pending=("C",)), [])
    lake.publish(session(DAYS[2], failed={"C": "boom"}), [])
    lake.publish(session(DAYS[3]), [])
    lake.keep_incomplete(session(DAYS[3], minutes=1, pending=("C",)), [])
    found = coverage(lake, DAYS[:5])
    assert list(found.sessions.values()) == [
        Held.PUBLISHED,
        Held.INCOMPLETE,
        Held.PUBLISHED,
        Held.PUBLISHED,
        Held.MISSING,
    ]
    assert [told.session for told in found.published] == [DAYS[0], DAYS[2], DAYS[3]]
    assert [told.session for told in found.waiting] == [DAYS[1], DAYS[3]]
    assert found.published[1].counts["failed"] == 1
    assert found.to_repair == [DAYS[1], DAYS[2], DAYS[3]]
    assert found.gaps == [(DAYS[4], DAYS[4], 1)]


def test_an_incomplete_session_that_lacks_no_symbol_is_to_be_repaired_too(lake: LakeWriter) -> None:
    # It failed another rule of the audit, such as coverage.
    lake.keep_incomplete(session(DAYS[0]), [])
    assert coverage(lake, DAYS).to_repair == [DAYS[0]]


def test_a_session_that_is_published_meanwhile_counts_as_published(lake: LakeWriter) -> None:
    lake.publish(session(DAYS[0]), [])
    lake.keep_incomplete(session(DAYS[1], pending=("C",)), [])
    found = coverage(_Busy(lake.store), DAYS[:2])
    assert set(found.sessions.values()) == {Held.PUBLISHED}
    assert [told.session for told in found.published] == DAYS[:2]
    assert (found.waiting, found.damaged, found.to_repair) == ([], (), [])


def test_rejected_and_silent_symbols_are_nothing_to_repair(lake: LakeWriter) -> None:
    lake.publish(session(DAYS[0], no_print=("C",), rejected={"D-1": "invalid symbol"}), [])
    assert coverage(lake, DAYS).to_repair == []


def test_a_session_that_is_not_expected_is_told_but_not_counted(lake: LakeWriter) -> None:
    lake.publish(session(DAYS[0]), [])
    found = coverage(lake, DAYS[1:3])
    assert list(found.sessions) == DAYS[1:3]
    assert [told.session for told in found.published] == [DAYS[0]]


def test_a_damaged_object_is_named_and_hides_no_other(lake: LakeWriter) -> None:
    for day in DAYS[:3]:
        lake.publish(session(day), [])
    lake.keep_incomplete(session(DAYS[1], minutes=1, pending=("C",)), [])
    assert not coverage(lake, DAYS).damaged
    damaged = [layout.session_key(DAYS[0]), layout.session_key(DAYS[1])]
    damaged.append(layout.incomplete_key(DAYS[2]))
    for key in damaged:
        lake.store.put(key, b"PAR1 and nothing more")
    found = coverage(lake, DAYS[:4])
    assert list(found.damaged) == [lake.store.url(key) for key in damaged]
    assert list(found.sessions.values()) == [
        Held.MISSING,
        Held.INCOMPLETE,
        Held.PUBLISHED,
        Held.MISSING,
    ]
    assert [told.session for told in found.published] == [DAYS[2]]
    assert [told.session for told in found.waiting] == [DAYS[1]]


@given(st.lists(st.sampled_from(Held), max_size=len(DAYS)))
@settings(max_examples=200)
def test_the_gaps_are_the_longest_spans_of_what_is_missing(held: list[Held]) -> None:
    found = Coverage(dict(zip(DAYS, held, strict=False)), [], [])
    days = DAYS[: len(held)]
    missing = [day for day, how in zip(days, held, strict=True) if how is Held.MISSING]
    spans = [[day for day in days if first <= day <= last] for first, last, _ in found.gaps]
    assert [day for span in spans for day in span] == missing
    assert [len(span) for span in spans] == [number for _, _, number in found.gaps]
    for (_, last, _), (first, _, _) in zip(found.gaps, found.gaps[1:], strict=False):
        assert any(last < day < first and day not in missing for day in days)


# Sessions that were asked for fewer symbols than their universe has now


def listed(active: int, inactive: int = 0) -> pa.Table:
    """A list with so many assets."""
    symbols = ["".join(letters) for letters in product(ascii_uppercase, repeat=3)]
    return pa.Table.from_pylist(
        [
            {
                "symbol": symbol,
                "status": "active" if place < active else "inactive",
                "exchange": "NYSE",
                "name": symbol,
                "tradable": True,
                "asset_id": symbol,
            }
            for place, symbol in enumerate(symbols[: active + inactive])
        ],
        UNIVERSE,
    )


@pytest.mark.parametrize(("chosen", "few"), [(1, False), (2, False), (3, True)])
def test_a_session_that_was_asked_for_fewer_symbols_than_are_chosen_is_narrow(
    lake: LakeWriter, chosen: int, few: bool
) -> None:
    lake.publish(session(DAYS[0]), [])
    held = coverage(lake, DAYS[:1])
    found = narrow(lake, held.published, ("A", "B", "C")[:chosen])
    assert found == ({DAYS[0]: Narrow(2, 3)} if few else {})


def test_every_state_counts_as_asked(lake: LakeWriter) -> None:
    states = {"no_print": ("C",), "failed": {"D": "x"}, "pending": ("E",), "rejected": {"F": "x"}}
    lake.publish(session(DAYS[0], **states), [])
    held = coverage(lake, DAYS[:1])
    assert narrow(lake, held.published, tuple("ABCDEF")) == {}
    assert narrow(lake, held.published, tuple("ABCDEFG")) == {DAYS[0]: Narrow(6, 7)}


@pytest.mark.parametrize(("active", "few"), [(2, False), (3, True)])
def test_a_session_of_a_whole_list_may_lack_a_tenth_that_was_listed_since(
    lake: LakeWriter, active: int, few: bool
) -> None:
    lake.publish(session(DAYS[0]), [])
    lake.write_universe(date(2024, 7, 15), listed(active, inactive=5))
    found = narrow(lake, coverage(lake, DAYS[:1]).published, None)
    # What the list of that time calls inactive belongs to the universe of a session of the past.
    assert found == ({DAYS[0]: Narrow(2, 8)} if few else {})


def test_an_old_session_is_held_against_the_list_of_its_year(lake: LakeWriter) -> None:
    lake.publish(session(DAYS[0]), [])
    lake.write_universe(date(2024, 1, 3), listed(2))
    lake.write_universe(date(2026, 1, 5), listed(100))
    assert narrow(lake, coverage(lake, DAYS[:1]).published, None) == {}


def test_without_a_list_no_session_is_narrow(lake: LakeWriter) -> None:
    lake.publish(session(DAYS[0]), [])
    assert narrow(lake, coverage(lake, DAYS[:1]).published, None) == {}
