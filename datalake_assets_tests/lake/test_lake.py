"""The lake holds whole sessions of one source, whoever writes and whenever the writer dies."""

import json
import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datalake_assets.actions.log import ActionLog
from datalake_assets.collection.audit import audit
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.survey import Survey
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.collection.universe import symbols_for
from datalake_assets.lake.files import FORMAT, WrongLakeError
from datalake_assets.lake.session_file import Provenance, Session, Summary, encode
from datalake_assets.lake.writer import LakeWriter, StoredSession, repaired
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store, open_store
from datalake_assets_tests.actions.sayings import action, answer
from datalake_assets_tests.collection.tables import MONDAY, WEEK, bar, every, names, table
from datalake_assets_tests.lake.files import flipped
from datalake_assets_tests.storage.stores import Interlude, WatchedStore

NOON = datetime(2024, 7, 9, 22, tzinfo=UTC)
SYMBOLS = names(30)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "lake")
    return str(request.getfixturevalue("s3_lake_uri"))


@pytest.fixture
def lake(uri: str) -> LakeWriter:
    return LakeWriter(open_store(uri))


def session(
    day: date = MONDAY,
    symbols: tuple[str, ...] = SYMBOLS,
    minutes: float = 0,
    bars: pa.Table | None = None,
    **states: Any,
) -> Session:
    """A session collected so many minutes after another."""
    provenance = Provenance(
        collected_at=NOON + timedelta(minutes=minutes),
        source="alpaca/sip",
        listed=day,
        run_id=f"run {minutes}",
        version="0",
    )
    rows = every(symbols, [day]) if bars is None else bars
    return Session(rows, Ledger(day, present=symbols, **states), provenance)


def findings(of: Session) -> Any:
    return audit(of.bars, of.ledger, [])


def publish(lake: LakeWriter, of: Session) -> Any:
    return lake.publish(of, findings(of))


def keep(lake: LakeWriter, of: Session) -> Any:
    return lake.keep_incomplete(of, findings(of))


# Whose lake it is


def test_a_new_lake_belongs_to_nobody_and_looking_at_it_writes_nothing(lake: LakeWriter) -> None:
    assert lake.source() is None
    assert lake.sessions() == lake.incomplete() == lake.universe_days() == []
    assert lake.universe() is None
    assert lake.stored(MONDAY) is None
    assert lake.printed(WEEK) == {}
    with pytest.raises(FileNotFoundError):
        lake.read(MONDAY)
    assert lake.store.list("") == []


def test_the_first_claim_makes_the_marker(lake: LakeWriter) -> None:
    lake.claim("alpaca/sip")
    assert lake.source() == "alpaca/sip"
    assert json.loads(lake.store.get("_lake.json")) == {"format": FORMAT, "source": "alpaca/sip"}


def test_the_same_source_may_claim_again_and_changes_nothing(lake: LakeWriter) -> None:
    lake.claim("alpaca/sip")
    marker = lake.store.get("_lake.json")
    LakeWriter(lake.store).claim("alpaca/sip")
    assert lake.store.get("_lake.json") == marker


@pytest.mark.parametrize("other", ["alpaca/iex", "embedded exchange: synthetic/7"])
def test_another_source_is_refused_before_anything_is_written(lake: LakeWriter, other: str) -> None:
    lake.claim("alpaca/sip")
    with pytest.raises(WrongLakeError) as caught:
        lake.claim(other)
    for told in ("alpaca/sip", other, "nothing was written", "DATALAKE_URI", lake.store.uri):
        assert told in str(caught.value)
    assert lake.source() == "alpaca/sip"
    assert lake.store.list("") == ["_lake.json"]


@pytest.mark.parametrize("format_", [0, 1, 3, None, "2"])
def test_a_lake_of_another_layout_is_refused(lake: LakeWriter, format_: Any) -> None:
    marker = json.dumps({"format": format_, "source": "alpaca/sip"}).encode()
    lake.store.put("_lake.json", marker)
    with pytest.raises(WrongLakeError, match=f"layout {format_!r}, this program writes {FORMAT}"):
        lake.claim("alpaca/sip")
    assert lake.store.get("_lake.json") == marker


@pytest.mark.parametrize("marker", [b"", b"{", b"[]", b"\xff", b'"alpaca/sip"'])
def test_a_marker_that_can_t_be_read_is_an_error_that_names_it(marker: bytes) -> None:
    lake = LakeWriter(open_store("memory://"))
    lake.store.put("_lake.json", marker)
    with pytest.raises(WrongLakeError, match=r"_lake\.json"):
        lake.claim("alpaca/sip")
    assert lake.store.get("_lake.json") == marker


def test_of_two_sources_that_claim_at_once_one_gets_the_lake(lake: LakeWriter, uri: str) -> None:
    sources = ["alpaca/sip", "alpaca/iex"] * 2
    start = threading.Barrier(len(sources), timeout=60)

    def claim(source: str) -> str | None:
        mine = LakeWriter(open_store(uri))
        start.wait()
        try:
            mine.claim(source)
        except WrongLakeError:
            return None
        return source

    with ThreadPoolExecutor(len(sources)) as pool:
        won = {source for source in pool.map(claim, sources) if source}
    assert won == {lake.source()}


# Publishing


def test_a_published_session_is_read_back_as_it_was(lake: LakeWriter) -> None:
    whole = session(no_print=("ZA",), failed={"ZB": "HTTP 503"})
    written = publish(lake, whole)
    assert written.key == "data/ticks/sessions/year=2024/2024-07-01.parquet"
    assert written.size == lake.store.size(written.key)
    assert (written.changed("added"), written.changed("removed"), written.changed("restated")) == (
        None,
        None,
        None,
    )
    again = lake.read(MONDAY)
    assert again.bars.equals(whole.bars)
    assert again.ledger == whole.ledger
    assert again.provenance == whole.provenance
    assert lake.sessions() == [MONDAY]
    assert lake.store.get(written.key) == encode(whole, findings(whole))


def test_an_incomplete_session_is_seen_by_no_reader_of_published_ones(lake: LakeWriter) -> None:
    half = session(symbols=SYMBOLS[:9], pending=SYMBOLS[9:])
    written = keep(lake, half)
    assert written.key == "data/ticks/incomplete/year=2024/2024-07-01.parquet"
    assert lake.incomplete() == [MONDAY]
    assert lake.sessions() == []
    assert lake.printed([MONDAY]) == {}
    with pytest.raises(FileNotFoundError):
        lake.read(MONDAY)


def test_keeping_an_incomplete_session_leaves_the_published_one_as_it_is(lake: LakeWriter) -> None:
    written = publish(lake, session())
    data = lake.store.get(written.key)
    keep(lake, session(symbols=SYMBOLS[:9], minutes=5, pending=SYMBOLS[9:]))
    assert lake.store.get(written.key) == data


def test_publishing_removes_the_incomplete_one_of_that_session_only(lake: LakeWriter) -> None:
    for day in WEEK[:2]:
        keep(lake, session(day, SYMBOLS[:9], pending=SYMBOLS[9:]))
    publish(lake, session(WEEK[0], minutes=1))
    assert lake.sessions() == [WEEK[0]]
    assert lake.incomplete() == [WEEK[1]]


def test_sessions_are_listed_in_order_whatever_else_lies_there(lake: LakeWriter) -> None:
    days = [date(2024, 7, 2), date(2012, 10, 31), date(2023, 12, 29)]
    for day in days:
        publish(lake, session(day))
    lake.store.put("data/ticks/sessions/year=2024/notes.txt", b"of somebody")
    assert lake.sessions() == sorted(days)


def test_what_a_new_collection_changed_is_counted(lake: LakeWriter) -> None:
    publish(lake, session())
    assert changes(publish(lake, session(minutes=1))) == (0, 0, 0)
    rows = every(SYMBOLS[2:]).to_pylist()
    rows[0]["close"] += 0.01
    rows[7]["volume"] += 1
    rows[8] |= {"open": 1.0, "trade_count": 3}
    rows += [bar("ZA"), bar("ZB"), bar("ZC"), bar("ZD")]
    symbols = tuple(row["symbol"] for row in rows)
    written = publish(lake, session(symbols=symbols, bars=table(rows), minutes=2))
    assert changes(written) == (4, 2, 3)
    assert changes(publish(lake, session(minutes=3))) == (2, 4, 3)


def changes(written: Any) -> tuple[int | None, ...]:
    return written.changed("added"), written.changed("removed"), written.changed("restated")


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"<html>"])
def test_a_damaged_session_is_told_and_mended_by_publishing_it_anew(
    lake: LakeWriter, damage: bytes
) -> None:
    written = publish(lake, session())
    lake.store.put(written.key, damage)
    for reading in (lake.read, lake.stored):
        with pytest.raises(BrokenFileError, match="2024-07-01.parquet is no whole session file"):
            reading(MONDAY)
    again = publish(lake, session(minutes=1))
    assert changes(again) == (None, None, None)
    assert lake.read(MONDAY).bars.equals(session().bars)


# What a repair starts from


def test_the_newer_of_the_two_stands(lake: LakeWriter) -> None:
    older = session(symbols=SYMBOLS[:9], failed=dict.fromkeys(SYMBOLS[9:], "boom"))
    keep(lake, older)
    found = lake.stored(MONDAY)
    assert found is not None
    assert (found.session.provenance, found.published) == (older.provenance, False)

    # As a writer leaves it that is killed between its two steps.
    newer = session(minutes=1)
    lake.store.put(layout.session_key(MONDAY), encode(newer, []))
    found = lake.stored(MONDAY)
    assert found is not None
    assert (found.session.provenance, found.published) == (newer.provenance, True)

    newest = session(symbols=SYMBOLS[:9], minutes=2, pending=SYMBOLS[9:])
    keep(lake, newest)
    found = lake.stored(MONDAY)
    assert found is not None
    assert (found.session.ledger, found.published) == (newest.ledger, False)


def test_a_repair_puts_its_bars_among_those_that_stand() -> None:
    standing = session(
        symbols=SYMBOLS[::2], failed=dict.fromkeys(SYMBOLS[1:20:2], "boom"), pending=SYMBOLS[21::2]
    )
    brought = SYMBOLS[1::4]
    silent = tuple(symbol for symbol in SYMBOLS[1::2] if symbol not in brought)
    bars, ledger = repaired(
        standing, every(brought), Ledger(MONDAY, present=brought, no_print=silent)
    )
    assert bars.equals(every((*SYMBOLS[::2], *brought)))
    assert ledger.no_print == silent
    assert ledger.missing == ()
    encode(replace(standing, bars=bars, ledger=ledger), [])  # they belong together


# Two writers of one session


def stood(lake: LakeWriter) -> StoredSession:
    found = lake.stored(MONDAY)
    assert found is not None
    return found


REPAIRED = session(minutes=1)
HALF = session(symbols=SYMBOLS[:9], pending=SYMBOLS[9:])
QUARTER = session(symbols=SYMBOLS[:20], minutes=2, pending=SYMBOLS[20:])


@pytest.mark.parametrize("written", [publish, keep], ids=["published", "incomplete"])
def test_a_repair_takes_the_place_of_what_it_repairs(
    lake: LakeWriter, written: Callable[[LakeWriter, Session], Any]
) -> None:
    written(lake, HALF)
    lake.publish(REPAIRED, findings(REPAIRED), stood(lake))
    assert (lake.sessions(), lake.incomplete()) == ([MONDAY], [])
    assert lake.read(MONDAY).bars.equals(REPAIRED.bars)


@pytest.mark.parametrize("before", ["nothing", "published", "incomplete"])
def test_a_repair_is_not_published_over_what_somebody_else_published(
    lake: LakeWriter, before: str
) -> None:
    if before != "nothing":
        (publish if before == "published" else keep)(lake, HALF)
    replacing = lake.stored(MONDAY) or StoredSession(HALF, False, {})
    publish(lake, QUARTER)
    objects = lake.store.versions(layout.SESSIONS)
    with pytest.raises(ChangedError, match="2024-07-01.parquet: another writer changed it"):
        lake.publish(REPAIRED, findings(REPAIRED), replacing)
    assert lake.store.versions(layout.SESSIONS) == objects
    lake.publish(REPAIRED, findings(REPAIRED), stood(lake))
    assert lake.read(MONDAY).bars.equals(REPAIRED.bars)


@pytest.mark.parametrize("meanwhile", [publish, keep], ids=["published", "kept another"])
def test_a_repair_is_not_kept_over_what_somebody_else_wrote(
    lake: LakeWriter, meanwhile: Callable[[LakeWriter, Session], Any]
) -> None:
    keep(lake, HALF)
    over = stood(lake)
    meanwhile(lake, QUARTER)
    objects = lake.store.versions()
    with pytest.raises(ChangedError, match="incomplete/.*: another writer changed it"):
        lake.keep_incomplete(HALF, findings(HALF), over)
    assert lake.store.versions() == objects


def test_of_two_whole_sessions_the_later_stands_and_tells_what_it_changed(lake: LakeWriter) -> None:
    publish(lake, session(symbols=SYMBOLS[1:]))
    other = session(symbols=SYMBOLS[3:], minutes=1)
    interlude = Interlude(1, False, lambda: publish(lake, other))
    watched = LakeWriter(WatchedStore(lake.store, **interlude.moments))
    written = publish(watched, session(minutes=2))
    assert changes(written) == (3, 0, 0)
    assert lake.read(MONDAY).bars.equals(session().bars)


def test_what_is_kept_of_a_symbol_that_failed_is_what_is_published_at_the_end(
    lake: LakeWriter,
) -> None:
    publish(lake, session())
    corrected = table(row | {"volume": 7} for row in every(SYMBOLS, [MONDAY]).to_pylist())
    interlude = Interlude(1, False, lambda: publish(lake, session(minutes=1, bars=corrected)))
    watched = LakeWriter(WatchedStore(lake.store, **interlude.moments))
    lost = {SYMBOLS[0]: "HTTP 503"}
    later = table(row | {"volume": 8} for row in every(SYMBOLS[1:], [MONDAY]).to_pylist())
    written = publish(watched, session(symbols=SYMBOLS[1:], minutes=2, bars=later, failed=lost))
    assert interlude.happened
    assert lake.read(MONDAY).bars["volume"].to_pylist().count(7) == 1
    assert changes(written) == (0, 0, len(SYMBOLS) - 1)


@pytest.mark.parametrize("lost", [0, 3])
def test_a_second_look_that_finds_the_same_leaves_the_object_as_it_is(
    lake: LakeWriter, lost: int
) -> None:
    first = publish(lake, session(no_print=("ZA",)))
    keep(lake, session(minutes=1, symbols=SYMBOLS[:5], pending=SYMBOLS[5:]))
    published = lake.store.versions(layout.SESSIONS)
    failed = dict.fromkeys(SYMBOLS[:lost], "HTTP 503")
    again = publish(
        lake, session(minutes=9, symbols=SYMBOLS[lost:], no_print=("ZA",), failed=failed)
    )
    assert (first.unchanged, again.unchanged) == (False, True)
    assert (again.key, again.size, changes(again)) == (first.key, first.size, (0, 0, 0))
    assert again.ledger == lake.read(MONDAY).ledger
    assert lake.store.versions() == published  # what waited is done with


@pytest.mark.parametrize(
    "later",
    [
        session(minutes=9),  # ZA is in no ledger any more
        session(minutes=9, no_print=("ZB",)),
        session(minutes=9, no_print=("ZA",), symbols=SYMBOLS[:-1]),
        session(
            minutes=9,
            no_print=("ZA",),
            bars=table(row | {"volume": 7} for row in every(SYMBOLS, [MONDAY]).to_pylist()),
        ),
    ],
    ids=["a symbol less", "another symbol", "a bar less", "other volumes"],
)
def test_a_second_look_that_finds_anything_else_is_written(
    lake: LakeWriter, later: Session
) -> None:
    publish(lake, session(no_print=("ZA",)))
    before = lake.store.versions(layout.SESSIONS)
    assert not publish(lake, later).unchanged
    assert lake.store.versions(layout.SESSIONS) != before
    assert lake.read(MONDAY).ledger == later.ledger


def test_the_same_bars_of_another_source_are_written(lake: LakeWriter) -> None:
    foreign = session()
    foreign = replace(foreign, provenance=replace(foreign.provenance, source="elsewhere"))
    publish(lake, foreign)
    assert not publish(lake, session(minutes=1)).unchanged
    assert lake.read(MONDAY).provenance.source == "alpaca/sip"


# What printed before


def test_printed_names_the_symbols_with_a_bar_of_the_published_sessions(lake: LakeWriter) -> None:
    publish(lake, session(WEEK[0], no_print=("ZA",)))
    publish(lake, session(WEEK[2], symbols=SYMBOLS[:3]))
    keep(lake, session(WEEK[3], symbols=SYMBOLS[:3]))
    assert lake.printed(WEEK) == {
        WEEK[0]: dict.fromkeys(SYMBOLS, 1),
        WEEK[2]: dict.fromkeys(SYMBOLS[:3], 1),
    }
    assert lake.printed([]) == {}


# Summaries


def test_summaries_come_in_the_order_of_their_keys(lake: LakeWriter) -> None:
    for position, day in enumerate(WEEK):
        publish(lake, session(day, SYMBOLS[: position + 1]))
    keys = [layout.session_key(day) for day in WEEK[::-1]]
    told = [found for found in lake.summaries(keys, workers=3) if isinstance(found, Summary)]
    assert [summary.session for summary in told] == WEEK[::-1]
    assert [summary.rows for summary in told] == list(range(len(WEEK), 0, -1))
    assert lake.summaries([]) == []


def test_a_ledger_longer_than_the_end_that_is_read_first_is_told_all_the_same(
    lake: LakeWriter,
) -> None:
    reason = "HTTP 503: " + "no answer " * 20
    failed = {symbol: f"{symbol} {reason}" for symbol in names(5_000)}
    keep(lake, session(symbols=(), failed=failed))
    key = layout.incomplete_key(MONDAY)
    assert lake.store.size(key) > 300_000
    (told,) = LakeWriter(_Ends(lake.store)).summaries([key])
    assert isinstance(told, Summary)
    assert told.counts["failed"] == 5_000


class _Ends(Store):
    """A store of which objects can't be read whole, and ends twice at most."""

    def __init__(self, store: Store) -> None:
        vars(self).update(vars(store))
        self._left = 2

    def get(self, key: str) -> bytes:
        raise AssertionError(f"{key} was read whole")

    def tail(self, key: str, length: int) -> bytes:
        self._left -= 1
        assert self._left >= 0
        return super().tail(key, length)


@pytest.mark.parametrize("odd", [b"", b"PAR1", b"PAR1 and nothing more", b"\xff" * 100_000])
def test_what_is_no_session_file_is_not_looked_at_for_ever(lake: LakeWriter, odd: bytes) -> None:
    key = layout.session_key(MONDAY)
    lake.store.put(key, odd)
    (told,) = LakeWriter(_Ends(lake.store)).summaries([key])
    assert isinstance(told, BrokenFileError)


def test_in_the_place_of_a_broken_file_stands_what_is_wrong_with_it(lake: LakeWriter) -> None:
    publish(lake, session(WEEK[0]))
    lake.store.put(layout.session_key(WEEK[1]), b"PAR1 and nothing more")
    publish(lake, session(WEEK[2]))
    first, broken, third = lake.summaries([layout.session_key(day) for day in WEEK[:3]])
    assert isinstance(broken, BrokenFileError)
    assert lake.store.url(layout.session_key(WEEK[1])) in str(broken)
    assert [told.session for told in (first, third) if isinstance(told, Summary)] == [
        WEEK[0],
        WEEK[2],
    ]


def test_in_the_place_of_a_file_that_is_gone_stands_that_it_is(lake: LakeWriter) -> None:
    publish(lake, session(WEEK[0]))
    there, gone = lake.summaries([layout.session_key(day) for day in WEEK[:2]])
    assert isinstance(there, Summary)
    assert isinstance(gone, FileNotFoundError)


# The universe


def snapshot(*symbols: str) -> pa.Table:
    rows = [
        {
            "symbol": symbol,
            "status": "active",
            "exchange": "NYSE",
            "name": None if symbol == "B" else f"{symbol} Inc.",
            "tradable": True,
            "asset_id": f"id {symbol}",
        }
        for symbol in symbols
    ]
    return pa.Table.from_pylist(rows, UNIVERSE)


def test_the_newest_snapshot_of_the_universe_is_the_one_in_use(lake: LakeWriter) -> None:
    written = lake.write_universe(date(2024, 7, 2), snapshot("A", "B"))
    assert written.key == "data/universe/2024-07-02.parquet"
    assert written.size == lake.store.size(written.key)
    lake.write_universe(date(2024, 6, 28), snapshot("A"))
    found = lake.universe()
    assert found is not None
    assert found[0] == date(2024, 7, 2)
    assert found[1].equals(snapshot("A", "B"))
    assert lake.universe_days() == [date(2024, 6, 28), date(2024, 7, 2)]
    assert lake.universe_of(date(2024, 6, 28)).equals(snapshot("A"))


def test_a_later_snapshot_of_the_day_takes_the_earlier_ones_place(lake: LakeWriter) -> None:
    lake.write_universe(MONDAY, snapshot("A"))
    lake.write_universe(MONDAY, snapshot("A", "B"))
    assert lake.universe_days() == [MONDAY]
    assert lake.universe_of(MONDAY).equals(snapshot("A", "B"))


def test_a_damaged_snapshot_is_named_whatever_bit_of_it_is_flipped() -> None:
    lake = LakeWriter(open_store("memory://"))
    lake.write_universe(MONDAY, snapshot("A", "B"))
    key = layout.universe_key(MONDAY)
    whole, told = lake.store.get(key), lake.universe()
    assert told is not None
    for place in range(len(whole)):
        lake.store.put(key, flipped(whole, place, place % 8))
        try:
            assert lake.universe_of(MONDAY)["symbol"].equals(told[1]["symbol"])  # or unread bytes
        except BrokenFileError as error:
            assert lake.store.url(key) in str(error)
    lake.store.put(key, whole[:-1])
    with pytest.raises(BrokenFileError, match="remove it"):
        lake.universe()


class Noon(Clock):
    """A clock that stands at noon in New York on Monday."""

    def now(self) -> datetime:
        return datetime(MONDAY.year, MONDAY.month, MONDAY.day, 17, tzinfo=UTC)


@pytest.mark.parametrize(("ahead", "used"), [(-1, True), (0, True), (1, False), (365, False)])
def test_a_snapshot_of_a_day_to_come_is_not_used_and_said_so(
    lake: LakeWriter, caplog: pytest.LogCaptureFixture, ahead: int, used: bool
) -> None:
    held = LakeWriter(lake.store, Noon())
    before, day = MONDAY - timedelta(days=2), MONDAY + timedelta(days=ahead)
    held.write_universe(before, snapshot("A"))
    held.write_survey(before, Survey(2011, 2024, {}))
    held.write_universe(day, snapshot("A", "B"))
    held.write_survey(day, SURVEY)

    found = held.universe()

    assert found is not None
    assert found[0] == (day if used else before)
    assert held.universe_days() == ([before, day] if used else [before])
    assert (held.survey() == SURVEY) == used
    place = lake.store.url(layout.universe_key(day))
    assert (f"{place} is of a day that is still to come" in caplog.text) != used


def test_a_day_without_a_snapshot_is_a_file_not_found(lake: LakeWriter) -> None:
    with pytest.raises(FileNotFoundError):
        lake.universe_of(MONDAY)


# The survey

SURVEY = Survey(
    2011, 2026, {"A": frozenset({2011, 2013, 2026}), "B.A": frozenset(), "C": frozenset({2020})}
)


def test_a_survey_is_read_as_it_was_written(lake: LakeWriter) -> None:
    assert lake.survey() is None
    lake.write_survey(MONDAY, SURVEY)
    assert lake.survey() == SURVEY
    assert lake.store.list("") == [layout.survey_key(MONDAY)]


def test_a_survey_of_nobody_keeps_its_years(lake: LakeWriter) -> None:
    lake.write_survey(MONDAY, Survey(2016, 2024, {}))
    assert lake.survey() == Survey(2016, 2024, {})


def test_a_survey_read_again_covers_the_years_that_were_asked_for(lake: LakeWriter) -> None:
    lake.write_survey(MONDAY, SURVEY)
    found = lake.survey()
    assert found is not None
    assert found.covers([date(2011, 1, 3), date(2026, 12, 31)])
    assert not found.covers([date(2010, 12, 31)])
    assert not found.covers([date(2027, 1, 4)])


def test_the_newest_survey_is_the_one_in_use(lake: LakeWriter) -> None:
    lake.write_survey(date(2024, 7, 2), SURVEY)
    lake.write_survey(date(2024, 6, 28), Survey(2011, 2024, {}))
    assert lake.survey() == SURVEY
    lake.write_survey(date(2024, 7, 2), Survey(2016, 2024, {}))
    assert lake.survey() == Survey(2016, 2024, {})


def test_a_survey_is_no_snapshot_of_the_universe(lake: LakeWriter) -> None:
    lake.write_survey(MONDAY, SURVEY)
    assert lake.universe() is None
    assert lake.universe_days() == []


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"PAR1 cut short"])
def test_a_damaged_survey_is_none(lake: LakeWriter, damage: bytes) -> None:
    lake.write_survey(MONDAY, SURVEY)
    lake.store.put(layout.survey_key(MONDAY), damage)
    assert lake.survey() is None


def test_a_survey_with_a_flipped_bit_costs_no_collection() -> None:
    lake = LakeWriter(open_store("memory://"))
    lake.write_survey(MONDAY, SURVEY)
    key = layout.survey_key(MONDAY)
    whole, none = lake.store.get(key), 0
    for place in range(len(whole)):
        lake.store.put(key, flipped(whole, place, place % 8))
        found = lake.survey()  # maybe another one, which costs pages and never bars
        none += found is None
    assert none > len(whole) / 10


# Killed while writing


DAYS = WEEK[:3]
STATES = {
    (day, version): session(day, names(400)[: 400 - 100 * version], minutes=version)
    for day in DAYS
    for version in (0, 1)
}


def publish_for_ever(root: str, started: Any) -> None:
    lake = LakeWriter(open_store(root))
    for turn in count():
        for day in DAYS:
            state = STATES[day, turn % 2]
            if turn % 3 == 0:
                keep(lake, state)
            publish(lake, state)
        started.set()


def test_a_writer_killed_at_any_moment_leaves_each_session_old_or_new(tmp_path: Path) -> None:
    root = str(tmp_path / "lake")
    lake = LakeWriter(open_store(root))
    for day in DAYS:
        publish(lake, STATES[day, 0])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    moments = random.Random(20)
    seen = set()
    for _ in range(20):
        started = context.Event()
        writer = context.Process(target=publish_for_ever, args=(root, started))
        writer.start()
        assert started.wait(60)
        time.sleep(moments.uniform(0, 0.05))
        writer.kill()
        writer.join(60)
        assert writer.exitcode == -9
        writer.close()

        assert lake.sessions() == DAYS
        for day in DAYS:
            found = lake.read(day)
            version = found.bars.num_rows == 300
            assert found.bars.equals(STATES[day, version].bars)
            assert found.ledger == STATES[day, version].ledger
            seen.add(version)
        for day in lake.incomplete():
            assert lake.stored(day) is not None  # whole, or it would be a broken file
    assert seen == {True, False}
    for day in DAYS:
        publish(lake, STATES[day, 1])
    assert lake.incomplete() == []


def test_a_session_of_the_past_is_asked_for_every_name_that_an_action_tells(
    lake: LakeWriter,
) -> None:
    lake.write_universe(MONDAY + timedelta(days=30), snapshot("META"))
    renamed = action(symbol="FB", kind="name_changes", new_symbol="META")
    merged = action("b", "TWTR", kind="cash_mergers", cash=54.2)
    ActionLog(lake.store).append(answer(renamed, merged), NOON)

    wanted = symbols_for([MONDAY], lake.snapshots())

    assert wanted == {MONDAY: ("FB", "META", "TWTR")}
