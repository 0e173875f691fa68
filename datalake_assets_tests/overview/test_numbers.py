"""The overview tells what is true of a lake, whatever is wrong with it, and what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.cli.status import as_dict
from datalake_assets.collection.audit import audit
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.report import Reason
from datalake_assets.lake.restatements import SCHEMA as RESTATED
from datalake_assets.lake.restatements import Restatements, changes
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview.numbers import (
    ABSENT_FOR,
    COMPARED,
    HISTORY,
    LISTED_ONE_BY_ONE,
    RESTATEMENTS,
    TRADED_FOR,
    Health,
    LakeStatus,
    Measure,
    Overview,
    PriceWarning,
    SessionState,
    Step,
    restated_rows,
    written,
)
from datalake_assets.overview.runs import Run
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.overview.lakes import (
    DAYS,
    NOW,
    SYMBOLS,
    collected,
    look,
    new_lake,
    publish,
)
from datalake_assets_tests.workbench import universe


@pytest.fixture
def lake() -> LakeWriter:
    return new_lake()


def commands(found: Overview) -> list[str | None]:
    return [step.command for step in found.steps]


def whole(lake: LakeWriter, days: Sequence[date] = DAYS) -> None:
    """All is published, per symbol too."""
    publish(lake, days)
    for year in sorted({day.year for day in days}):
        SymbolYears(lake.store).publish(year)
        YearFiles(lake.store).publish(year)


# --- the verdict ---


def test_a_whole_lake_is_good_and_there_is_nothing_to_do(lake: LakeWriter) -> None:
    whole(lake)

    found = look(lake)

    assert (found.health, found.headline) == (Health.GOOD, "The lake is good.")
    assert found.sentence == (
        "All 44 sessions up to 2024-07-03 are published, and the source answered for every symbol."
    )
    assert (found.steps, found.damaged) == ([], [])
    assert (found.due, found.published, found.rows) == (44, 44, 4400)
    assert (found.source, found.uri, found.now) == ("test", lake.store.uri, NOW)


def test_a_lake_that_is_not_there_is_empty_and_to_be_backfilled() -> None:
    found = look(LakeWriter(open_store("memory://")))

    assert found.source is None
    assert found.headline == "The lake is empty."
    assert found.counts[SessionState.NOT_COLLECTED] == 44
    assert commands(found) == ["backfill --from 2024-05-01 --to 2024-07-03"]
    assert (found.newest, found.measures, found.stopped, found.usage) == (None, [], None, None)


def test_before_the_first_session_nothing_is_due(lake: LakeWriter) -> None:
    found = look(lake, due=DAYS[0] - timedelta(days=1))

    assert found.headline == "No session is due yet."
    assert (found.due, found.newest_due, found.steps) == (0, None, [])
    assert set(found.states.values()) == {SessionState.NOT_DUE}
    assert next(iter(found.states)) == DAYS[0]


def test_what_was_never_collected_before_the_first_session_is_no_hole(lake: LakeWriter) -> None:
    whole(lake, DAYS[-6:])

    found = look(lake)

    assert found.health is Health.UNFINISHED
    assert found.sentence == (
        "6 of 44 sessions up to 2024-07-03 are published; 38 of the history have not been "
        "collected yet."
    )
    assert commands(found) == [f"backfill --from {DAYS[0]} --to {DAYS[-7]}"]


def test_a_history_of_one_session_is_told_in_the_singular(lake: LakeWriter) -> None:
    found = look(lake, due=DAYS[0])

    assert found.sentence.startswith(f"0 of 1 session up to {DAYS[0]} is published; ")


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ([-1], "the newest is missing"),
        ([-2], "1 is missing"),
        ([-1, -4], "2 are missing, the newest among them"),
    ],
)
def test_a_hole_makes_the_lake_bad(missing: list[int], told: str, lake: LakeWriter) -> None:
    gone = [DAYS[at] for at in missing]
    whole(lake, [day for day in DAYS if day not in gone])

    found = look(lake)

    assert found.health is Health.BAD
    assert found.sentence.endswith(f"are published; {told}.")
    assert commands(found) == [f"backfill --from {day} --to {day}" for day in sorted(gone)]


@pytest.mark.parametrize(
    ("gaps", "one_by_one"), [(LISTED_ONE_BY_ONE, True), (LISTED_ONE_BY_ONE + 1, False)]
)
def test_many_gaps_are_filled_by_one_command(gaps: int, one_by_one: bool, lake: LakeWriter) -> None:
    gone = DAYS[2 : 2 + 2 * gaps : 2]
    whole(lake, [day for day in DAYS if day not in gone])

    typed = commands(look(lake))

    assert typed == (
        [f"backfill --from {d} --to {d}" for d in gone] if one_by_one else ["backfill"]
    )


def test_failed_symbols_of_a_published_session_are_a_loose_end(lake: LakeWriter) -> None:
    publish(lake, DAYS[:-1])
    lake.publish(*collected(DAYS[-1], failed={"ZZZ": "boom"}))
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)

    found = look(lake)

    assert found.health is Health.UNFINISHED
    assert found.states[DAYS[-1]] is SessionState.FLAWED
    assert "1 published session has symbols to retry" in found.sentence
    assert [(step.why, step.command) for step in found.steps] == [
        ("2024-07-03: 1 failed, 0 pending", "collect --session 2024-07-03 --repair")
    ]


def test_a_session_that_did_not_pass_is_told_with_what_it_lacks(lake: LakeWriter) -> None:
    whole(lake, DAYS[:-1])
    lake.keep_incomplete(*collected(DAYS[-1], SYMBOLS[:50], pending=SYMBOLS[50:]))

    found = look(lake)

    assert found.health is Health.BAD
    assert found.states[DAYS[-1]] is SessionState.INCOMPLETE
    assert "; 1 did not pass the audit." in found.sentence
    assert [(step.why, step.command) for step in found.steps] == [
        ("2024-07-03: 0 failed, 50 pending", "collect --session 2024-07-03 --repair")
    ]


def test_what_was_answered_whole_and_did_not_pass_is_told_so(lake: LakeWriter) -> None:
    whole(lake, DAYS[:-1])
    half, rest = SYMBOLS[:50], SYMBOLS[50:]
    lake.keep_incomplete(*collected(DAYS[-1], half, before=[SYMBOLS] * 5, no_print=tuple(rest)))

    found = look(lake)

    assert found.counts[SessionState.INCOMPLETE] == 1
    assert [(step.why, step.command) for step in found.steps] == [
        (
            "2024-07-03: complete, but did not pass its audit",
            "collect --session 2024-07-03 --repair",
        )
    ]


@pytest.mark.parametrize(("waiting", "one_by_one"), [(5, True), (6, False)])
def test_many_sessions_in_a_row_are_repaired_by_one_command(
    waiting: int, one_by_one: bool, lake: LakeWriter
) -> None:
    """As an interrupted backfill leaves them."""
    rest, alone = [*DAYS[: -waiting - 1], DAYS[-2]], DAYS[-1]
    days = [*DAYS[-waiting - 1 : -2], alone]
    whole(lake, rest)
    for day in days:
        lake.keep_incomplete(*collected(day, SYMBOLS[:50], pending=SYMBOLS[50:]))

    typed = [step for step in look(lake).steps if "--repair" in str(step.command)]

    if one_by_one:
        assert [s.command for s in typed] == [f"collect --session {d} --repair" for d in days]
        return
    span = f"{days[0]} to {days[-2]}"
    assert [(step.why, step.command) for step in typed] == [
        (
            f"5 sessions from {span}: 0 failed, 250 pending",
            f"collect --from {days[0]} --to {days[-2]} --repair",
        ),
        (f"{alone}: 0 failed, 50 pending", f"collect --session {alone} --repair"),
    ]


def test_a_published_session_with_a_worse_one_waiting_tells_what_that_one_lacks(
    lake: LakeWriter,
) -> None:
    whole(lake)
    again = collected(
        DAYS[3], SYMBOLS[:20], pending=SYMBOLS[20:], began=NOW - timedelta(hours=1), requests=3
    )
    lake.keep_incomplete(*again)

    found = look(lake)

    assert found.states[DAYS[3]] is SessionState.FLAWED
    assert found.sessions[DAYS[3]].rows == 100, "what is published counts"
    assert [step.why for step in found.steps] == [f"{DAYS[3]}: 0 failed, 80 pending"]


# --- damage ---


def test_a_session_without_its_footer_is_damaged_and_not_told_as_missing(lake: LakeWriter) -> None:
    whole(lake)
    key = layout.session_key(DAYS[7])
    lake.store.put(key, lake.store.get(key)[:-30])

    found = look(lake)

    assert found.health is Health.BAD
    assert "1 object can't be read" in found.sentence
    assert "missing" not in found.sentence
    assert commands(found)[0] == f"collect --session {DAYS[7]}"
    assert f"backfill --from {DAYS[7]} --to {DAYS[7]}" not in commands(found)


def test_a_flipped_bit_in_the_bars_of_a_new_session_is_found(lake: LakeWriter) -> None:
    """Its footer is whole: only who reads the bars can know."""
    whole(lake)
    key = layout.session_key(DAYS[-2])
    data = bytearray(lake.store.get(key))
    data[200] ^= 1
    lake.store.put(key, bytes(data))

    found = look(lake)

    assert [damage.session for damage in found.damaged] == [DAYS[-2]]
    assert commands(found)[0] == f"collect --session {DAYS[-2]}"


def test_a_damaged_session_with_failed_symbols_is_collected_whole_and_not_repaired(
    lake: LakeWriter,
) -> None:
    """A repair starts from what is there, which nobody can read."""
    whole(lake, DAYS[:-1])
    lake.publish(*collected(DAYS[-1], failed={"ZZZ": "boom"}))
    key = layout.session_key(DAYS[-1])
    data = bytearray(lake.store.get(key))
    data[200] ^= 1
    lake.store.put(key, bytes(data))

    typed = commands(look(lake))

    assert typed[0] == f"collect --session {DAYS[-1]}"
    assert f"collect --session {DAYS[-1]} --repair" not in typed


def test_a_damaged_manifest_is_to_be_deleted_and_its_year_published(lake: LakeWriter) -> None:
    whole(lake)
    lake.store.put(layout.manifest_key(2024), b"no manifest")

    found = look(lake)

    assert found.health is Health.BAD
    (step,) = found.steps
    assert step.command == "publish --year 2024"
    assert step.why.endswith(f"{layout.manifest_key(2024)}: delete it, then")


def test_a_damaged_restatement_file_hides_nothing_else(lake: LakeWriter) -> None:
    whole(lake)
    key = layout.restatement_key(DAYS[3], NOW)
    lake.store.put(key, b"no parquet")

    found = look(lake)

    assert found.published == 44
    (step,) = found.steps
    assert step.command is None
    assert key in step.why


# --- years and symbol-years ---


def test_the_years_add_up_their_sessions(lake: LakeWriter) -> None:
    days = market_calendar.sessions(date(2023, 12, 18), date(2024, 1, 12))
    publish(lake, days[:-2])
    lake.publish(
        *collected(
            days[-1], SYMBOLS[:90], no_print=SYMBOLS[90:95], failed=dict.fromkeys(SYMBOLS[95:], "x")
        )
    )

    before, now = look(lake, first=days[0], due=days[-1]).years

    assert (before.year, before.published, before.due, before.rows) == (2023, 9, 9, 900)
    assert (before.answered, before.failed) == (1.0, 0)
    assert (now.year, now.published, now.due, now.rows) == (2024, 8, 9, 790)
    assert (now.answered, now.failed) == (795 / 800, 5)
    assert now.counts[SessionState.NOT_DUE] == 252 - 9


def test_symbol_years_are_behind_by_what_changed_since_they_were_published(
    lake: LakeWriter,
) -> None:
    publish(lake, DAYS[:-2])
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)
    publish(lake, DAYS[-2:])
    lake.publish(*collected(DAYS[0], SYMBOLS[:99], no_print=SYMBOLS[99:]))
    YearFiles(lake.store).publish(2024)

    found = look(lake)

    assert found.health is Health.UNFINISHED
    assert (found.years[0].behind, found.years[0].symbol_years) == (3, "3 sessions out of date")
    assert commands(found) == ["publish --year 2024"]
    assert found.sentence.endswith("; the per-symbol files of 2024 are out of date.")


def test_symbol_years_that_lag_on_purpose_are_no_fault_of_the_lake(lake: LakeWriter) -> None:
    publish(lake, DAYS[:-2])
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)
    publish(lake, DAYS[-2:])
    lake.publish(*collected(DAYS[0], SYMBOLS[:99], no_print=SYMBOLS[99:]))
    YearFiles(lake.store).publish(2024)

    found = look(lake, weekly=True)

    assert (found.health, found.status) == (Health.GOOD, LakeStatus.WHOLE)
    assert (found.years[0].behind, found.years[0].symbol_years) == (3, "follow on 07-05")
    assert commands(found) == []
    # In another year than the one that runs nothing lags on purpose.
    later = look(lake, weekly=True, now=datetime(2025, 1, 1, tzinfo=UTC))
    assert (later.health, commands(later)) == (Health.UNFINISHED, ["publish --year 2024"])


def test_a_year_file_is_behind_by_what_changed_since_it_was_published(lake: LakeWriter) -> None:
    publish(lake, DAYS[:-1])
    YearFiles(lake.store).publish(2024)
    publish(lake, DAYS[-1:])
    SymbolYears(lake.store).publish(2024)

    found = look(lake, weekly=True)

    assert found.health is Health.UNFINISHED
    assert (found.years[0].file_behind, found.years[0].year_file) == (1, "1 session out of date")
    assert [(step.why, step.command) for step in found.steps] == [
        ("the year file of 2024 is out of date: 1 session", "publish --year 2024")
    ]
    assert found.sentence.endswith("; the year file of 2024 is out of date.")
    lake.store.put(layout.year_file_key(2024), b"damaged")
    assert look(lake).years[0].file_behind == len(DAYS)


def test_a_publication_that_was_cut_off_is_told(lake: LakeWriter) -> None:
    whole(lake)
    cut_off = SymbolYears(lake.store).manifest(2024)
    lake.store.put(
        layout.manifest_key(2024),
        type(cut_off)(2024, cut_off.sessions, cut_off.symbols, "killed").encode(),
    )

    found = look(lake)

    assert found.years[0].symbol_years == "interrupted, or in progress"
    assert commands(found) == ["publish --year 2024"]


def test_several_years_behind_take_one_command(lake: LakeWriter) -> None:
    days = market_calendar.sessions(date(2023, 12, 18), date(2024, 1, 12))
    publish(lake, days)

    found = look(lake, first=days[0], due=days[-1])

    assert commands(found) == ["publish"]
    assert found.sentence.endswith(
        "; the per-symbol files of 2023 and 2024 are out of date; the year files of 2023 and 2024 "
        "are out of date."
    )
    assert [step.why for step in found.steps] == [
        "per-symbol files out of date: 2023 and 2024; year files out of date: 2023 and 2024"
    ]


# --- the newest session ---


def test_the_newest_session_is_held_against_the_median_of_those_before(lake: LakeWriter) -> None:
    for number, day in enumerate(DAYS[:-1]):
        lake.publish(*collected(day, SYMBOLS[: 60 + number % 3], seconds=30.0 + number % 3))
    lake.publish(*collected(DAYS[-1], SYMBOLS[:30], no_print=SYMBOLS[30:60], seconds=300.0))

    found = {measure.name: measure for measure in look(lake).measures}

    assert [len(measure.before) for measure in found.values()] == [COMPARED] * 4 + [0, COMPARED]
    assert (found["bars"].newest, found["bars"].usual, found["bars"].change) == (30, 61, "-50.8 %")
    assert (found["success rate"].newest, found["success rate"].change) == (1.0, "+0.00 points")
    assert (found["duration"].newest, found["duration"].usual) == (300.0, 31.0)
    volume = sum(lake.read(DAYS[-1]).bars["volume"].to_pylist())
    assert found["volume traded"].newest == volume


def test_a_session_that_was_collected_with_others_has_no_time_of_its_own(lake: LakeWriter) -> None:
    for day in DAYS[:2]:
        lake.publish(*collected(day, seconds=600.0, began=NOW))
    for number, day in enumerate(DAYS[2:]):
        lake.publish(*collected(day, seconds=5.0, began=NOW + timedelta(days=1 + number)))

    found = look(lake)

    assert [found.sessions[day].duration for day in DAYS[:4]] == [None, None, 5.0, 5.0]
    (duration,) = [measure for measure in found.measures if measure.name == "duration"]
    assert (duration.newest, set(duration.before)) == (5.0, {5.0})


# --- what a job that watches the lake needs ---


@pytest.mark.parametrize(
    ("days", "status"),
    [
        (DAYS, LakeStatus.WHOLE),
        (DAYS[20:], LakeStatus.WHOLE),  # the history before it was never collected
        (DAYS[-1:], LakeStatus.WHOLE),
        (DAYS[:-1], LakeStatus.BROKEN),  # the newest one is missing
        (DAYS[:5] + DAYS[6:], LakeStatus.BROKEN),
        ([], LakeStatus.BROKEN),
    ],
)
def test_history_that_was_never_collected_is_told_from_what_is_missing(
    days: Sequence[date], status: LakeStatus, lake: LakeWriter
) -> None:
    for day in days:
        lake.publish(*collected(day))
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)

    assert look(lake).status is status


def test_symbols_to_ask_again_and_files_behind_are_lagging_and_damage_is_broken(
    lake: LakeWriter,
) -> None:
    for day in DAYS[3:]:
        lake.publish(*collected(day))
    assert look(lake).status is LakeStatus.LAGGING, "no files per symbol yet"
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)
    assert look(lake).status is LakeStatus.WHOLE

    lake.publish(*collected(DAYS[2], SYMBOLS[1:], failed={SYMBOLS[0]: "no"}))
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)
    assert look(lake).status is LakeStatus.LAGGING

    lake.store.put(layout.session_key(DAYS[6]), b"no Parquet")
    assert look(lake).status is LakeStatus.BROKEN


def test_coverage_that_the_audit_could_not_know_is_unknown(lake: LakeWriter) -> None:
    lake.publish(*collected(DAYS[-2]))
    lake.publish(*collected(DAYS[-1], SYMBOLS[:50], no_print=SYMBOLS[50:], before=[SYMBOLS]))

    found = {measure.name: measure for measure in look(lake).measures}["coverage"]

    assert (found.newest, list(found.before), found.usual) == (0.5, [], None)
    assert found.change == "–"


@pytest.mark.parametrize(
    ("unit", "newest", "before", "told"),
    [
        ("count", 100.0, [100.0], "none"),
        ("count", 90.0, [100.0], "-10.0 %"),
        ("count", 5.0, [0.0], "+5"),
        ("count", 1000.0, [100.0], "+900.0 %"),
        ("count", 1001.0, [100.0], "+901"),
        ("share", 0.98, [0.99], "-1.00 points"),
        ("seconds", None, [1.0], "–"),
        ("seconds", 0.4, [0.02], "+0.4 s"),  # twenty times as long is not "+0"
        ("seconds", 12.34, [0.0], "+12.3 s"),
    ],
)
def test_a_change_is_told_so_that_it_can_be_read(
    unit: str, newest: float | None, before: list[float], told: str
) -> None:
    assert Measure("it", unit, newest, before).change == told


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (1.0, "share", "100 %"),
        (0.999999, "share", "99.999 %"),
        (0.95, "share", "95 %"),
        (0.29, "share", "29 %"),  # 0.29 * 100000 is a little less than 29000
        (0.0, "share", "0 %"),
        (1234567.0, "count", "1,234,567"),
        (12.34, "seconds", "12.3 s"),
        (None, "share", "–"),
    ],
)
def test_a_share_reads_100_percent_only_when_it_is_all(
    value: float | None, unit: str, told: str
) -> None:
    assert written(value, unit) == told


@given(st.integers(1, 10**7), st.data())
def test_a_written_share_is_never_more_than_the_share(total: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(0, total))
    told = float(written(part / total, "share").removesuffix(" %"))
    assert told * total <= 100 * part + 1e-6 * total
    assert told * total > 100 * part - 0.00101 * total


def test_the_history_ends_with_the_newest_due_session_and_has_gaps(lake: LakeWriter) -> None:
    days = market_calendar.sessions(date(2024, 1, 2), date(2024, 7, 3))
    lake.publish(*collected(days[0]))
    publish(lake, days[-10:-1])

    told = look(lake, first=days[0]).history

    assert list(told) == days[-HISTORY:]
    assert told[days[-1]] is None
    assert [day for day, each in told.items() if each] == days[-10:-1]


def test_the_history_begins_with_the_first_session_that_was_collected(lake: LakeWriter) -> None:
    publish(lake, [DAYS[-4], DAYS[-2]])
    assert list(look(lake).history) == DAYS[-4:]


# --- symbols that stopped trading ---


def silence(
    lake: LakeWriter, *, gone_since: int, silent: str = "S00007", skipped: int | None = None
) -> None:
    """Eight sessions in which a symbol is gone since one of them, and perhaps in another one."""
    for number, day in enumerate(DAYS[-TRADED_FOR - ABSENT_FOR :]):
        there = number < gone_since and number != skipped
        lake.publish(*collected(day, [s for s in SYMBOLS if there or s != silent]))


def test_a_symbol_that_printed_five_times_and_then_thrice_not_stopped_trading(
    lake: LakeWriter,
) -> None:
    silence(lake, gone_since=TRADED_FOR)

    (found,) = look(lake, first=DAYS[-TRADED_FOR - ABSENT_FOR]).stopped or ()

    last = lake.read(DAYS[-ABSENT_FOR - 1]).bars.filter(
        pc.equal(lake.read(DAYS[-ABSENT_FOR - 1]).bars["symbol"], "S00007")
    )
    assert found.symbol == "S00007"
    assert (found.last, found.close) == (DAYS[-ABSENT_FOR - 1], last["close"][0].as_py())
    assert found.volume == last["volume"][0].as_py()


@pytest.mark.parametrize(
    ("gone_since", "skipped"), [(TRADED_FOR + 1, None), (TRADED_FOR, 2), (9, None)]
)
def test_a_symbol_that_printed_lately_or_not_each_time_before_has_not_stopped_trading(
    gone_since: int, skipped: int | None, lake: LakeWriter
) -> None:
    silence(lake, gone_since=gone_since, skipped=skipped)
    assert look(lake, first=DAYS[-TRADED_FOR - ABSENT_FOR]).stopped == []


@pytest.mark.parametrize("sessions", [TRADED_FOR + ABSENT_FOR - 1, TRADED_FOR + ABSENT_FOR])
def test_too_few_sessions_can_not_tell_who_stopped_trading(sessions: int, lake: LakeWriter) -> None:
    publish(lake, DAYS[-sessions:])
    assert look(lake).stopped == (None if sessions < TRADED_FOR + ABSENT_FOR else [])


def test_the_most_traded_of_the_stopped_symbols_comes_first(lake: LakeWriter) -> None:
    for number, day in enumerate(DAYS[-8:]):
        lake.publish(*collected(day, SYMBOLS if number < TRADED_FOR else SYMBOLS[10:]))
    volumes = [each.volume for each in look(lake).stopped or ()]
    assert len(volumes) == 10
    assert volumes == sorted(volumes, reverse=True)


# --- requests ---


def test_sessions_collected_together_count_their_requests_once(lake: LakeWriter) -> None:
    began = datetime(2024, 7, 3, 22, tzinfo=UTC)
    publish(lake, DAYS[-5:-2], began=began, seconds=60.0, requests=100)
    publish(lake, DAYS[-2:], began=began + timedelta(seconds=30), seconds=60.0, requests=50)
    publish(lake, DAYS[:3], began=began - timedelta(days=1), requests=7)

    found = look(lake).usage

    assert found
    assert (found.day, found.collections) == (date(2024, 7, 3), 2)
    assert (found.requests, found.retries, found.throttled) == (150, 2, 4)
    assert found.minutes == 1.5, "they overlap by half a minute"
    assert found.share == 150 / (200 * 1.5 + 2)


def test_a_collection_at_the_full_rate_is_all_of_the_plan_and_no_more(lake: LakeWriter) -> None:
    """At 200 a minute 31 requests have 30 waits between them, of 0.3 s each."""
    publish(lake, DAYS[:1], seconds=9.0, requests=31)
    found = look(lake).usage
    assert found
    assert found.share == 1.0


def test_collections_with_a_pause_between_do_not_count_the_pause(lake: LakeWriter) -> None:
    began = datetime(2024, 7, 3, 12, tzinfo=UTC)
    publish(lake, DAYS[:1], began=began, seconds=60.0)
    publish(lake, DAYS[1:2], began=began + timedelta(hours=5), seconds=120.0)

    found = look(lake).usage

    assert found
    assert found.minutes == 3.0


def test_a_collection_that_took_no_time_has_no_share_of_the_plan(lake: LakeWriter) -> None:
    publish(lake, DAYS[:1], seconds=0.0)
    found = look(lake).usage
    assert found
    assert found.share is None


@given(
    st.lists(
        st.tuples(st.integers(0, 600), st.integers(0, 120)),
        min_size=1,
        max_size=12,
        unique_by=lambda s: s[0],
    )
)
@settings(max_examples=60)
def test_the_minutes_used_are_those_in_which_anything_was_collected(
    spans: list[tuple[int, int]],
) -> None:
    lake = new_lake()
    began = datetime(2024, 7, 3, 1, tzinfo=UTC)
    for day, (start, seconds) in zip(DAYS, spans, strict=False):
        lake.publish(
            *collected(day, SYMBOLS[:1], began=began + timedelta(seconds=start), seconds=seconds)
        )
    found = look(lake).usage
    assert found
    busy = {second for start, seconds in spans for second in range(start, start + seconds)}
    assert round(found.minutes * 60) == len(busy)


# --- restatements ---


def restate(lake: LakeWriter, day: date, at: datetime, symbols: Sequence[str]) -> None:
    before = lake.read(day).bars
    rows = [
        row | {"close": row["close"] + 1} if row["symbol"] in symbols else row
        for row in before.to_pylist()
    ]
    Restatements(lake.store).keep(changes(before, pa.Table.from_pylist(rows, SCHEMA), NOW, at))


def test_the_newest_restatements_are_told_with_both_values(lake: LakeWriter) -> None:
    publish(lake, DAYS[:2])
    restate(lake, DAYS[0], NOW - timedelta(days=1), SYMBOLS[:RESTATEMENTS])
    restate(lake, DAYS[1], NOW, SYMBOLS[:1])

    told = restated_rows(look(lake).restatements)

    assert len(told) == RESTATEMENTS
    row, what = told[0]
    assert (row["symbol"], row["session"], row["change"]) == (SYMBOLS[0], DAYS[1], "restated")
    close = lake.read(DAYS[1]).bars["close"][0].as_py()
    assert what == f"close {close} → {close + 1}"


def test_added_and_removed_bars_are_told_by_their_close(lake: LakeWriter) -> None:
    publish(lake, DAYS[:1])
    bars = lake.read(DAYS[0]).bars
    changed = changes(bars.slice(0, 99), bars.slice(1), NOW, NOW)
    Restatements(lake.store).keep(changed)

    told = {row["change"]: what for row, what in restated_rows(look(lake).restatements)}

    closes = bars["close"].to_pylist()
    assert told == {"removed": f"close {closes[0]:,}", "added": f"close {closes[99]:,}"}


# --- sessions that are not asked for ---


def test_flaws_before_the_first_session_and_after_the_last_are_nobodys_to_mend(
    lake: LakeWriter,
) -> None:
    whole(lake)
    lake.publish(*collected(DAYS[0], failed={"ZZZ": "boom"}))
    lake.keep_incomplete(*collected(DAYS[-1], SYMBOLS[:50], pending=SYMBOLS[50:]))
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)

    found = look(lake, first=DAYS[1], due=DAYS[-2])

    assert (found.health, found.steps) == (Health.GOOD, []), "no command would take these"
    told = as_dict(found)
    assert told["sessions_published"] == told["sessions_expected"] == found.published == 42
    assert told["bars"] == found.rows == 4200
    assert (told["to_repair"], len(told["sessions"])) == ([], 42)
    assert found.usage is not None
    assert found.usage.day == DAYS[-1], "requests were used all the same"


# --- any lake ---


@given(st.lists(st.sampled_from(["whole", "failed", "waiting", "none"]), min_size=1, max_size=8))
@settings(max_examples=60)
def test_every_session_has_one_state_and_every_flaw_something_to_do(kinds: list[str]) -> None:
    lake = new_lake()
    days = DAYS[: len(kinds)]
    for day, kind in zip(days, kinds, strict=True):
        if kind == "waiting":
            lake.keep_incomplete(*collected(day, SYMBOLS[:1], pending=SYMBOLS[1:3]))
        elif kind != "none":
            failed = {"ZZZ": "boom"} if kind == "failed" else {}
            lake.publish(*collected(day, SYMBOLS[:3], failed=failed))
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)

    found = look(lake, due=days[-1])

    assert sum(found.counts.values()) == len(found.states)
    assert found.published + len(found.holes) + found.counts[
        SessionState.INCOMPLETE
    ] + found.counts[SessionState.NOT_COLLECTED] == len(kinds)
    assert (found.health is Health.GOOD) == (set(kinds) == {"whole"}) == (not found.steps)
    repairs = [
        re.findall(r"\d{4}-\d\d-\d\d", command)
        for command in commands(found)
        if command and command.endswith("--repair")
    ]
    for day, kind in zip(days, kinds, strict=True):
        repaired = any(span[0] <= str(day) <= span[-1] for span in repairs)
        assert repaired == (kind in ("failed", "waiting"))


# Symbols that were never asked for, and why others failed


def test_sessions_that_were_asked_for_fewer_symbols_are_told_with_what_to_type(
    lake: LakeWriter,
) -> None:
    publish(lake, DAYS[:-3])
    publish(lake, DAYS[-3:], symbols=SYMBOLS[:99])
    found = look(lake, chosen=SYMBOLS)
    assert list(found.narrow) == DAYS[-3:]
    assert {found.states[day] for day in DAYS[-3:]} == {SessionState.FLAWED}
    assert found.health is Health.UNFINISHED
    assert "3 published sessions have symbols to retry" in found.sentence
    step = Step(
        f"3 sessions from {DAYS[-3]} to {DAYS[-1]}: asked for 99 of the 100 symbols of the "
        "universe",
        f"collect --from {DAYS[-3]} --to {DAYS[-1]} --repair",
    )
    assert step in found.steps
    assert look(lake, chosen=SYMBOLS[:99]).narrow == {}


def test_a_session_to_repair_anyway_is_told_once(lake: LakeWriter) -> None:
    publish(lake, DAYS[:-1])
    lake.publish(*collected(DAYS[-1], SYMBOLS[:98], failed={SYMBOLS[98]: "boom"}))
    commands = [step.command for step in look(lake, chosen=SYMBOLS).steps]
    assert commands.count(f"collect --session {DAYS[-1]} --repair") == 1


def test_why_symbols_failed_is_told_of_every_session_once(lake: LakeWriter) -> None:
    publish(lake, DAYS[:-2])
    lake.publish(*collected(DAYS[-2], SYMBOLS[:99], failed={SYMBOLS[99]: "old"}))
    lake.keep_incomplete(*collected(DAYS[-2], SYMBOLS[:9], failed={SYMBOLS[9]: "boom"}))
    lake.publish(*collected(DAYS[-1], SYMBOLS[:99], failed={SYMBOLS[99]: "boom"}))
    assert look(lake).reasons == (Reason("boom", 2, (SYMBOLS[9], SYMBOLS[99])),)


def test_chosen_symbols_that_are_not_on_the_list_are_told(lake: LakeWriter) -> None:
    publish(lake, DAYS)
    lake.write_universe(DAYS[-1], universe(SYMBOLS[1:]))
    assert look(lake, chosen=SYMBOLS).unlisted == (SYMBOLS[0],)
    assert look(lake).unlisted == ()


def test_a_damaged_list_is_named_and_hides_nothing_else(lake: LakeWriter) -> None:
    publish(lake, DAYS)
    lake.store.put(layout.universe_key(DAYS[-1]), b"rubbish")
    found = look(lake)
    assert [damage.step.command for damage in found.damaged] == [None]
    assert found.published == len(DAYS)


@pytest.mark.parametrize(
    ("value", "text"), [(0.00001, "0.00001"), (16.82, "16.82"), (10.0, "10.0"), (None, "None")]
)
def test_a_restated_price_is_told_with_every_digit(value: float | None, text: str) -> None:
    names = [field.removeprefix("old_") for field in RESTATED.names if field.startswith("old_")]
    row = {f"{age}_{name}": 1 for age in ("old", "new") for name in names}
    row |= {"change": "restated", "old_vwap": value, "new_vwap": 2.5}
    ((_, told),) = restated_rows(pa.Table.from_pylist([row]))
    assert told == f"vwap {text} → 2.5"


# --- impossible prices ---


def test_a_session_with_a_few_impossible_prices_is_told_with_its_symbols(lake: LakeWriter) -> None:
    """Of the sessions whose bars are read anyway; of older ones the audit's words."""
    old, new = DAYS[0], DAYS[-2]
    whole(lake, [day for day in DAYS if day not in (old, new)])
    for day in (old, new):
        session, _ = collected(day)
        opened = session.bars["open"].to_pylist()
        opened[7] = 2 * session.bars["high"].to_pylist()[7]
        place = session.bars.schema.get_field_index("open")
        bars = session.bars.set_column(place, session.bars.schema.field(place), pa.array(opened))
        lake.publish(replace(session, bars=bars), audit(bars, session.ledger, []))

    found = look(lake)

    told = "1 of 100 bars has impossible prices"
    assert found.price_warnings == [
        PriceWarning(new, told, [SYMBOLS[7]]),
        PriceWarning(old, told, None),
    ]


def test_a_run_is_done_when_all_it_was_for_is_published(lake: LakeWriter) -> None:
    whole(lake, DAYS[1:])
    found = look(lake)
    run = Run("1", "job", [str(day) for day in DAYS], NOW, None, "failed")
    assert found.undone(run) == 1
    assert found.undone(replace(run, partitions=[str(DAYS[1])])) == 0
    assert found.undone(replace(run, partitions=["2024"])) == 0
    assert found.undone(replace(run, partitions=["2023", "2024"])) == 1
    assert found.undone(replace(run, partitions=[])) == 0
