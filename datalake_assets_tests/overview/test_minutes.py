"""The minute bars of a lake in numbers: what is counted, what is shown of it, and what to type."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from datalake_assets.assets.lake_report import report_metadata
from datalake_assets.cli import terminal
from datalake_assets.cli.status import as_dict, show
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.report import Statistics
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview import page
from datalake_assets.overview.minutes import MinuteNumbers
from datalake_assets.overview.numbers import Health, LakeStatus
from datalake_assets.storage import layout
from datalake_assets_tests.lake.minutes import collected_minutes, session_of
from datalake_assets_tests.overview.lakes import DAYS, look, new_lake, publish

NEWEST = DAYS[-4:]
"""28 June, 1 July, 2 July, and 3 July, a half day."""


@pytest.fixture
def lake() -> LakeWriter:
    """A lake whose daily bars are as they should be."""
    lake = new_lake()
    publish(lake, DAYS)
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)
    return lake


def publish_minutes(lake: LakeWriter, *days: date, symbols: str = "AB", **states: object) -> None:
    for day in days:
        lake.of(MINUTE).publish(collected_minutes(day, session_of(symbols, day), **states), [])


def numbers(lake: LakeWriter, **told: object) -> MinuteNumbers:
    found = look(lake, **{"minutes": True} | told).minutes
    assert found
    return found


def test_a_lake_without_minute_bars_tells_nothing_of_them(lake: LakeWriter) -> None:
    found = look(lake)

    assert found.minutes is None
    assert as_dict(found)["minutes"] is None
    assert "minute_bars" not in report_metadata(found)
    assert "minute_rows" not in report_metadata(found)
    assert "Minute bars" not in page.render(found)


def test_where_the_settings_want_them_it_says_that_there_are_none_yet(lake: LakeWriter) -> None:
    found = look(lake, minutes=True)

    assert found.minutes
    assert found.minutes.sentence == "none collected yet"
    assert (found.health, found.steps) == (Health.GOOD, [])
    assert "none collected yet" in page.render(found)
    assert report_metadata(found)["minute_bars"].value == "none collected yet"


def test_whole_minute_bars_are_counted_since_the_first_of_them(lake: LakeWriter) -> None:
    publish_minutes(lake, *NEWEST)

    found = look(lake, minutes=True)

    told = found.minutes
    assert told
    bars = 3 * 2 * 390 + 2 * 210
    assert (told.first, told.newest) == (NEWEST[0], NEWEST[-1])
    assert (told.due, told.published, told.incomplete, told.missing) == (4, 4, 0, 0)
    assert (told.rows, told.rows_newest, told.symbols) == (bars, 420, 2)
    minutes = lake.of(MINUTE)
    assert told.size == sum(lake.store.size(minutes.session_key(day)) for day in NEWEST)
    assert told.whole
    assert (found.health, found.status, found.steps) == (Health.GOOD, LakeStatus.WHOLE, [])


def test_what_is_missing_incomplete_and_damaged_is_told_with_what_to_type(
    lake: LakeWriter,
) -> None:
    first, second, third, fourth = NEWEST
    publish_minutes(lake, DAYS[-6], first, pending=("ZZZ",))
    waiting = collected_minutes(second, session_of("A", second), pending=("B",))
    lake.of(MINUTE).keep_incomplete(waiting, [])
    publish_minutes(lake, third, fourth)
    lake.store.put(layout.session_key(fourth, layout.MINUTE), b"of another program")

    found = look(lake, minutes=True)

    told = found.minutes
    assert told
    assert (told.due, told.published, told.incomplete, told.missing) == (6, 3, 1, 2)
    assert told.to_repair == [DAYS[-6], first, second]
    assert told.damaged == [fourth]
    assert [step.command for step in found.steps] == [
        f"collect --minutes --session {fourth}",
        f"backfill --minutes --from {DAYS[-5]} --to {DAYS[-5]}",
        f"collect --minutes --session {DAYS[-6]} --repair",
        f"collect --minutes --session {first} --repair",
        f"collect --minutes --session {second} --repair",
    ]
    assert (found.health, found.status) == (Health.UNFINISHED, LakeStatus.LAGGING)
    assert found.sentence.endswith("minute bars are missing or incomplete.")


def test_where_they_are_turned_off_what_is_there_is_told_and_nothing_counts(
    lake: LakeWriter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.out, "width", 200)
    first, second, third, fourth = NEWEST
    publish_minutes(lake, DAYS[-6], first, pending=("ZZZ",))
    waiting = collected_minutes(second, session_of("A", second), pending=("B",))
    lake.of(MINUTE).keep_incomplete(waiting, [])
    publish_minutes(lake, third)
    lake.store.put(layout.session_key(third, layout.MINUTE), b"of another program")

    found = look(lake)

    told = found.minutes
    assert told
    assert (told.due, told.published, told.incomplete, told.gaps) == (4, 2, 1, [])
    assert (found.health, found.status, found.steps) == (Health.GOOD, LakeStatus.WHOLE, [])
    sentence = (
        f"2 sessions since {DAYS[-6]} published, 1 incomplete, 1 damaged; turned off "
        "(DATALAKE_MINUTES)"
    )
    assert sentence in page.render(found)
    assert report_metadata(found)["things_to_do"] == 0
    show(found)
    shown = capsys.readouterr().out
    assert f"minute bars: {sentence}" in shown
    assert "--minutes" not in shown
    listed = as_dict(found)["minutes"]
    assert (listed["turned_on"], listed["to_repair"]) == (False, [])
    assert listed["damaged"] == [str(third)]
    assert found.sentence.startswith("All 44 sessions")
    assert fourth not in told.damaged


def test_many_sessions_to_repair_are_summed_up(lake: LakeWriter) -> None:
    publish_minutes(lake, *DAYS[-8:], symbols="A", pending=("B",))

    assert [step.command for step in look(lake, minutes=True).steps] == [
        f"collect --minutes --from {DAYS[-8]} --to {DAYS[-1]} --repair"
    ]


def test_sessions_that_were_asked_for_fewer_symbols_than_are_wanted_are_told(
    lake: LakeWriter,
) -> None:
    publish_minutes(lake, *NEWEST[:2], symbols="A")
    publish_minutes(lake, *NEWEST[2:], symbols="AB")

    found = look(lake, minutes=True, minute_symbols=("A", "B"))

    span = f"{NEWEST[0]} to {NEWEST[1]}"
    (step,) = found.steps
    assert step.why == (f"minute bars of {span}: asked for 1 of the 2 symbols of the universe")
    assert step.command == f"collect --minutes --from {NEWEST[0]} --to {NEWEST[1]} --repair"
    assert found.status is LakeStatus.LAGGING
    told = as_dict(found)["minutes"]
    assert told["narrow"] == [str(day) for day in NEWEST[:2]]
    assert look(lake, minute_symbols=("A", "B")).steps == []  # minutes are turned off
    assert look(lake, minutes=True, minute_symbols=("A",)).steps == []


@pytest.mark.parametrize(
    # Extended hours of the half day end at 17:00 in New York, 21:00 UTC; three hours later.
    ("now", "missing"),
    [("2024-07-03T23:59:59", 0), ("2024-07-04T00:00:00", 1)],
)
def test_a_session_that_may_still_be_collected_is_not_missing(
    lake: LakeWriter, now: str, missing: int
) -> None:
    publish_minutes(lake, *NEWEST[:-1])

    found = numbers(lake, now=datetime.fromisoformat(now).replace(tzinfo=UTC))

    assert (found.due, found.missing) == (3 + missing, missing)


@pytest.mark.parametrize("wanted", [True, False])
def test_requests_for_minutes_are_counted_with_those_for_daily_bars(
    lake: LakeWriter, wanted: bool
) -> None:
    before = look(lake).usage
    assert before
    assert (before.requests, before.collections, before.day) == (10, 1, NEWEST[-1])
    for number, day in enumerate(NEWEST[2:]):  # the second one does not pass
        start = datetime(2024, 7, 3, 22, 10 + number, tzinfo=UTC)
        statistics = Statistics(start, start + timedelta(minutes=1), 60.0, requests=7, throttled=3)
        made = collected_minutes(day, session_of("A", day))
        provenance = replace(made.provenance, collection=statistics.to_dict())
        done = replace(made, provenance=provenance)
        minutes = lake.of(MINUTE)
        _ = minutes.keep_incomplete(done, []) if number else minutes.publish(done, [])

    usage = look(lake, minutes=wanted).usage

    assert usage
    assert (usage.requests, usage.collections, usage.day) == (24, 3, NEWEST[-1])
    assert usage.throttled == before.throttled + 6
    assert usage.minutes == pytest.approx(before.minutes + 2)


def test_status_and_the_report_say_the_same(
    lake: LakeWriter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.out, "width", 200)
    publish_minutes(lake, *NEWEST[:2], NEWEST[3])
    found = look(lake, measure=True, minutes=True)
    sentence = f"3 of 4 sessions since {NEWEST[0]} published, 1 missing"

    show(found)
    shown = capsys.readouterr().out
    assert f"minute bars: {sentence}" in shown
    assert f"minute bars of {NEWEST[3]}: 420 of 2 symbols; of all sessions 1,980, " in shown
    told = as_dict(found)["minutes"]
    assert (told["sessions_published"], told["sessions_missing"]) == (3, 1)
    assert told["years"][0]["rows"] == told["bars"] == 1_980
    assert told["gaps"] == [{"from": str(NEWEST[2]), "to": str(NEWEST[2]), "sessions": 1}]
    metadata = report_metadata(found)
    assert metadata["minute_sessions_published"] == 3
    assert metadata["minute_bytes"] == told["bytes"]
    assert "3\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}4" in metadata["minute_bars"].value
    html = page.render(found)
    assert sentence in html
    assert found.sizes
    (part,) = [each for each in found.sizes.parts if each.name == "minute bars"]
    assert (part.objects, part.size) == (3, told["bytes"])
