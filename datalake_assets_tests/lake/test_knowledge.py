"""What was known at an instant: bars, actions and decisions, each as it was then."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.report import Ledger
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import MissingSessionsWarning
from datalake_assets.lake.resampling import resample
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.securities.decisions import Decision, decide
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.minutes import collected_minutes, minute
from datalake_assets_tests.securities.bars import action
from datalake_assets_tests.securities.deriving import derive, say

DAYS = market_calendar.sessions(date(2026, 2, 2), date(2026, 2, 27))
EX = date(2026, 2, 19)
ANNOUNCED = datetime(2026, 2, 10, 12, tzinfo=UTC)
CORRECTED = datetime(2026, 2, 25, 12, tzinfo=UTC)
PRICES = ("open", "high", "low", "close", "vwap")


def evening(day: date) -> datetime:
    """When the session of a day is collected."""
    return datetime.combine(day, time(22), UTC)


def publish(lake: Lake, day: date, closes: Mapping[str, float], at: datetime | None = None) -> None:
    rows = [
        bar(symbol, day) | dict.fromkeys(PRICES, close) for symbol, close in sorted(closes.items())
    ]
    told = Provenance(at or evening(day), "alpaca/sip", day, "r", "0")
    LakeWriter(lake.store).publish(
        Session(table(rows), Ledger(day, present=tuple(sorted(closes))), told), []
    )


def quiet(day: date) -> float:
    """A price that moves a little."""
    return 60.0 + (day.toordinal() * 7 % 11) / 10


def made(closes: Mapping[str, Sequence[float]] | None = None) -> Lake:
    """A lake of TPG and another, each session collected in its evening."""
    lake = Lake(open_store("memory://"))
    LakeWriter(lake.store).claim("alpaca/sip")
    for at, day in enumerate(DAYS):
        more = {name: values[at] for name, values in (closes or {}).items()}
        publish(lake, day, {"TPG": quiet(day), "OTHER": 2 * quiet(day)} | more)
    return lake


def dividend(rate: float, day: date = EX) -> dict[str, Any]:
    return action("d", "cash_dividends", "TPG", day, cash=rate)


def closes(lake: Lake, known_at: datetime | None, **options: Any) -> dict[date, float]:
    told = lake.bars("TPG", **{"adjustment": "all", "known_at": known_at} | options)
    return dict(zip(told["session"].to_pylist(), told["close"].to_pylist(), strict=True))


def expected(until: date, rate: float) -> dict[date, float]:
    """The series as it must be with a dividend of this rate, its newest bar as it traded."""
    before = max(day for day in DAYS if day < EX)
    factor = 1 - rate / quiet(before)
    return {day: quiet(day) * (factor if day < EX else 1.0) for day in DAYS if day <= until}


# --- a rate that was corrected later --------------------------------------------------------------


@pytest.fixture(scope="module")
def corrected() -> Lake:
    """TPG's dividend: listed with 0.61, and with 0.65 after its ex-date."""
    lake = made()
    say(lake.store, ANNOUNCED, dividend(0.61))
    say(lake.store, CORRECTED, dividend(0.65))
    derive(lake.store)
    return lake


@pytest.mark.parametrize(
    ("known_at", "until", "rate"),
    [
        (evening(date(2026, 2, 18)), date(2026, 2, 18), 0.0),
        (evening(EX) - timedelta(microseconds=1), date(2026, 2, 18), 0.0),
        (evening(EX), EX, 0.61),
        (evening(date(2026, 2, 20)), date(2026, 2, 20), 0.61),
        (CORRECTED - timedelta(microseconds=1), date(2026, 2, 24), 0.61),
        (CORRECTED, date(2026, 2, 24), 0.65),
        (evening(date(2026, 2, 27)), date(2026, 2, 27), 0.65),
    ],
)
def test_a_rate_that_was_corrected_later_is_each_day_as_it_was_known(
    corrected: Lake, known_at: datetime, until: date, rate: float
) -> None:
    assert closes(corrected, known_at) == pytest.approx(expected(until, rate), rel=1e-15)


def test_what_is_known_now_is_what_is_read_without_asking(corrected: Lake) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    for options in ({}, {"adjustment": "raw"}, {"adjustment": "dividend", "start": EX}):
        asked = {"adjustment": "all"} | options
        assert corrected.bars(None, known_at=now, **asked) == corrected.bars(None, **asked)
    assert corrected.panel("close", None, adjustment="all", known_at=now) == corrected.panel(
        "close", None, adjustment="all"
    )
    assert corrected.returns(None, known_at=now) == corrected.returns(None)


def test_an_action_that_was_first_seen_after_its_ex_date_was_not_known_before() -> None:
    lake = made()
    say(lake.store, CORRECTED, dividend(0.65))
    derive(lake.store)

    assert closes(lake, evening(date(2026, 2, 24))) == expected(date(2026, 2, 24), 0.0)
    assert closes(lake, CORRECTED) == pytest.approx(expected(date(2026, 2, 24), 0.65), rel=1e-15)


def test_the_factor_of_a_later_split_is_not_in_what_was_known_before() -> None:
    split_day = DAYS.index(date(2026, 2, 24))
    lake = made(
        {"TPG": [quiet(day) / (2 if at >= split_day else 1) for at, day in enumerate(DAYS)]}
    )
    row = action("s", "forward_splits", "TPG", DAYS[split_day], new_rate=2.0, old_rate=1.0)
    say(lake.store, ANNOUNCED, row)
    derive(lake.store)

    eve = DAYS[split_day - 1]
    assert closes(lake, evening(eve)) == {day: quiet(day) for day in DAYS if day <= eve}
    for known_at in (evening(DAYS[split_day]), None):
        found = closes(lake, known_at)
        assert found[DAYS[0]] == quiet(DAYS[0]) / 2
        assert found[DAYS[split_day]] == quiet(DAYS[split_day]) / 2


def test_a_restated_bar_is_what_it_was() -> None:
    lake = made()
    day, later = DAYS[8], evening(DAYS[9])
    publish(lake, day, {"TPG": 77.0, "OTHER": 2 * quiet(day)}, later)
    publish(lake, DAYS[3], {"OTHER": 2 * quiet(DAYS[3])}, later)  # TPG's bar was taken back

    before = closes(lake, later - timedelta(microseconds=1), adjustment="raw")
    after = closes(lake, later, adjustment="raw", follow=False)
    assert before == {day: quiet(day) for day in DAYS[:9]}
    assert after == {d: 77.0 if d == day else quiet(d) for d in DAYS[:10] if d != DAYS[3]}
    rows = lake.bars(None, known_at=later - timedelta(microseconds=1))
    assert rows["symbol"].to_pylist() == ["OTHER"] * 9 + ["TPG"] * 9


def test_a_decision_counts_since_it_was_made() -> None:
    lake = made()
    say(
        lake.store,
        ANNOUNCED,
        action("s", "forward_splits", "TPG", EX, new_rate=2.0, old_rate=1.0),
    )
    decided = evening(date(2026, 2, 24))
    decide(lake.store, Decision("accept", "me", decided, "because", subject="s"))
    derive(lake.store)

    with pytest.warns(UserWarning, match="datalake decide accept s, or ignore s"):
        before = closes(lake, decided - timedelta(microseconds=1))
    assert before[DAYS[0]] == quiet(DAYS[0])
    assert closes(lake, decided)[DAYS[0]] == quiet(DAYS[0]) / 2
    assert closes(lake, None)[DAYS[0]] == quiet(DAYS[0]) / 2


@pytest.mark.parametrize("no_instant", [datetime(2026, 2, 20), date(2026, 2, 20), "2026-02-20"])  # noqa: DTZ001
def test_what_is_no_instant_is_refused(corrected: Lake, no_instant: Any) -> None:
    with pytest.raises(ValueError, match="is no instant: give a datetime with its zone"):
        corrected.bars("TPG", known_at=no_instant)


def test_a_session_that_nobody_had_by_then_is_not_there(corrected: Lake) -> None:
    assert corrected.bars("TPG", known_at=evening(DAYS[0]) - timedelta(hours=1)).num_rows == 0


def told_of(read: Callable[[], object]) -> list[str]:
    """What a read says of sessions that it lacks."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read()
    return [str(one.message) for one in told if one.category is MissingSessionsWarning]


MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize("dataset", ["bars", "minutes"])
def test_sessions_that_came_into_the_lake_after_the_instant_are_warned_of(dataset: str) -> None:
    """All were collected in their evenings, but the second and the third, three days late."""
    lake, late = Lake(open_store("memory://")), DAYS[1:3]
    came = {day: evening(DAYS[5] if day in late else day) for day in DAYS[:8]}
    for day, at in came.items():
        publish(lake, day, {"A": 10.0}, at)
        publish_known(lake, minutes_of({"A": {0: 1}}, day), at, day)

    def told(at: datetime, start: date | None = None, end: date | None = None) -> list[str]:
        return told_of(lambda: getattr(lake, dataset)("A", start, end, known_at=at))

    # As in any lake, the newest are those that were known. None of what came later is missed.
    assert told(evening(DAYS[0])) == told(evening(DAYS[5])) == told(evening(DAYS[7])) == []
    assert told(evening(DAYS[6]) - MOMENT) == []
    (holes,) = told(evening(DAYS[5]) - MOMENT)
    when = "%Y-%m-%d %H:%M UTC"
    assert holes == (
        "2 of the sessions asked for were not in the lake by "
        f"{(evening(DAYS[5]) - MOMENT).strftime(when)}: {late[0]}, {late[1]}. They were published "
        f"later, the first at {evening(DAYS[5]).strftime(when)}"
    )
    # Up to a given day, those count that had closed by then.
    assert told(evening(DAYS[3]), end=DAYS[7])[0].startswith("2 of the sessions")
    (one,) = told(evening(DAYS[6]) - MOMENT, start=DAYS[3], end=DAYS[7])
    assert one.startswith("1 of the sessions asked for was not in the lake by")
    assert f": {DAYS[6]}. It was published later, at {evening(DAYS[6]).strftime(when)}" in one
    # Where nothing was known at all, that is told.
    (none,) = told(evening(DAYS[0]) - MOMENT)
    assert none.startswith("8 of the sessions asked for were not in the lake by")
    assert f": {DAYS[0]}, " in none
    assert f" … {DAYS[7]}. They" in none
    (none,) = told(datetime(2020, 1, 1, tzinfo=UTC), start=DAYS[4], end=DAYS[5])
    assert none.startswith("2 of the sessions asked for were not in the lake by 2020-01-01 00:00")


SAYINGS = st.lists(st.none() | st.sampled_from([0.61, 0.65, 0.7]), min_size=1, max_size=6)


@settings(max_examples=10, deadline=None)
@given(said=SAYINGS, asked=st.integers(0, 6))
def test_whatever_the_source_said_and_took_back_what_it_said_last_by_then_counts(
    said: Sequence[float | None], asked: int
) -> None:
    lake = made()
    evenings = [evening(DAYS[-1]) + timedelta(days=number) for number in range(1, len(said) + 1)]
    stands = None
    for at, rate in zip(evenings, said, strict=True):
        if rate is not None:
            say(lake.store, at, dividend(rate))
        elif stands is not None:
            say(lake.store, at, gone=["d"])
        stands = rate
    derive(lake.store)
    known = [None, *said][min(asked, len(said))]

    found = closes(lake, evening(DAYS[-1]) + timedelta(days=asked))
    assert found == pytest.approx(expected(DAYS[-1], known or 0.0), rel=1e-15)


# --- minutes --------------------------------------------------------------------------------------

MINUTES_OF = DAYS[-2]
"""A session whose minutes are collected several times."""


def minutes_of(volumes: Mapping[str, Mapping[int, int]], day: date = MINUTES_OF) -> pa.Table:
    """Some minutes of a session: by symbol, the volume of each, by its number from the open."""
    opens = market_calendar.session_open(day)
    rows = [
        minute(symbol, day, opens + timedelta(minutes=at), volume=volume)
        for symbol, each in sorted(volumes.items())
        for at, volume in sorted(each.items())
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def publish_known(lake: Lake, bars: pa.Table, at: datetime, day: date = MINUTES_OF) -> None:
    session = collected_minutes(day, bars)
    told = replace(session.provenance, collected_at=at)
    LakeWriter(lake.store, dataset=MINUTE).publish(replace(session, provenance=told), [])


Volumes = st.dictionaries(
    st.sampled_from("ABC"), st.dictionaries(st.integers(0, 4), st.integers(1, 3), min_size=1)
)


@settings(max_examples=12)
@given(st.lists(Volumes, min_size=1, max_size=4), st.sampled_from([None, "AB", "C"]))
def test_every_state_that_a_session_of_minutes_ever_had_can_be_had_again(
    states: Sequence[Mapping[str, Mapping[int, int]]], asked: str | None
) -> None:
    lake = Lake(open_store("memory://"))
    publish(lake, MINUTES_OF, dict.fromkeys("ABC", 10.0))
    for number, state in enumerate(states):
        publish_known(lake, minutes_of(state), evening(MINUTES_OF) + number * timedelta(days=1))

    names = None if asked is None else list(asked)
    for number, state in enumerate(states):
        mine = {name: each for name, each in state.items() if names is None or name in names}
        for after in (timedelta(), timedelta(hours=23)):
            at = evening(MINUTES_OF) + number * timedelta(days=1) + after
            found = lake.minutes(names, MINUTES_OF, MINUTES_OF, follow=False, known_at=at)
            assert found.equals(minutes_of(mine))


def test_longer_bars_are_put_together_of_the_minutes_that_were_known() -> None:
    lake = Lake(open_store("memory://"))
    publish(lake, MINUTES_OF, dict.fromkeys("ABC", 10.0))
    was = {"A": {0: 5, 1: 6, 7: 7}, "B": {3: 8}, "C": {0: 1, 9: 2}}
    now = {"A": {0: 5, 2: 60, 7: 7}, "C": {0: 1, 9: 2}}  # a minute of A went, and all of B
    publish_known(lake, minutes_of(was), evening(MINUTES_OF))
    publish_known(lake, minutes_of(now), evening(DAYS[-1]))

    for state, at in ((was, evening(MINUTES_OF)), (now, evening(DAYS[-1]))):
        for every in ("5min", "session"):
            found = lake.minutes(every=every, follow=False, known_at=at)
            assert found.equals(resample(minutes_of(state), every))
            few = lake.minutes(["B", "C"], every=every, columns=["symbol", "close"], known_at=at)
            mine = {name: each for name, each in state.items() if name != "A"}
            assert few.equals(resample(minutes_of(mine), every).select(["symbol", "close"]))
    # By an instant, of what was known: the minutes from 9:31 to 9:33.
    opens = market_calendar.session_open(MINUTES_OF)
    first, last = opens + timedelta(minutes=1), opens + timedelta(minutes=3)
    found = lake.minutes(None, first, last, follow=False, known_at=evening(MINUTES_OF))
    assert found.equals(minutes_of({"A": {1: 6}, "B": {3: 8}}))


def test_minutes_of_a_session_that_was_published_later_were_not_known() -> None:
    lake = Lake(open_store("memory://"))
    publish(lake, MINUTES_OF, {"A": 10.0})
    publish(lake, DAYS[-1], {"A": 10.0})
    publish_known(lake, minutes_of({"A": {0: 1}}), evening(MINUTES_OF))
    publish_known(lake, minutes_of({"A": {0: 2}}, DAYS[-1]), evening(DAYS[-1]), DAYS[-1])

    def known(at: datetime) -> list[int]:
        found: list[int] = lake.minutes("A", known_at=at)["volume"].to_pylist()
        return found

    moment = timedelta(microseconds=1)
    assert known(evening(MINUTES_OF) - moment) == []
    assert known(evening(MINUTES_OF)) == known(evening(DAYS[-1]) - moment) == [1]
    assert known(evening(DAYS[-1])) == [1, 2]


Found = TypeVar("Found")


class Meanwhile(Store):
    """A store in which something happens once, right after one of its folders was listed."""

    def __init__(self, store: Store, folder: str, happens: Callable[[], object]) -> None:
        vars(self).update(vars(store))
        self._folder, self._happens = folder, [happens]

    def list(self, prefix: str = "") -> list[str]:
        return self._told(prefix, super().list(prefix))

    def versions(self, prefix: str = "") -> dict[str, str]:
        return self._told(prefix, super().versions(prefix))

    def _told(self, prefix: str, found: Found) -> Found:
        if prefix == self._folder and self._happens:
            self._happens.pop()()
        return found


def test_minutes_that_are_replaced_while_they_are_read_are_told_as_they_were_known() -> None:
    lake, at = Lake(open_store("memory://")), evening(MINUTES_OF)
    publish(lake, MINUTES_OF, dict.fromkeys("AB", 10.0))
    publish_known(lake, minutes_of({"A": {0: 1}, "B": {0: 3}}), at)

    def again() -> None:
        publish_known(lake, minutes_of({"A": {0: 2}, "B": {0: 3}}), evening(DAYS[-1]))

    read = Lake(Meanwhile(lake.store, layout.MINUTE.restatements, again))
    found = read.minutes(["A", "B"], MINUTES_OF, follow=False, known_at=at)
    assert lake.minutes("A", MINUTES_OF, follow=False)["volume"].to_pylist() == [2]
    assert found["volume"].to_pylist() == [1, 3]


def test_a_session_that_is_replaced_while_it_is_read_is_told_as_it_was_known() -> None:
    lake, at = Lake(open_store("memory://")), evening(MINUTES_OF)
    publish(lake, MINUTES_OF, {"A": 10.0})

    def again() -> None:
        publish(lake, MINUTES_OF, {"A": 11.0}, evening(DAYS[-1]))

    read = Lake(Meanwhile(lake.store, f"{layout.SESSIONS}/year=2026", again))
    assert read.bars("A", follow=False, known_at=at)["close"].to_pylist() == [10.0]
    assert lake.bars("A", follow=False)["close"].to_pylist() == [11.0]


def test_minutes_are_adjusted_by_what_was_known_of_actions(corrected: Lake) -> None:
    lake = Lake(corrected.store)
    before = max(day for day in DAYS if day < EX)
    publish_known(lake, minutes_of({"TPG": {0: 1}}, before), evening(before), before)
    (raw,) = lake.minutes("TPG", before, before)["close"].to_pylist()

    for at, rate in ((evening(before), 0.0), (evening(EX), 0.61), (CORRECTED, 0.65), (None, 0.65)):
        found = lake.minutes("TPG", before, before, adjustment="all", known_at=at)
        assert found["close"].to_pylist() == pytest.approx([raw * (1 - rate / quiet(before))])


class Listed(Store):
    """A store that remembers which of its folders were listed."""

    def __init__(self, store: Store) -> None:
        vars(self).update(vars(store))
        self.folders: list[str] = []

    def versions(self, prefix: str = "") -> dict[str, str]:
        self.folders.append(prefix)
        return super().versions(prefix)


def test_what_was_known_of_minutes_lists_their_sessions_as_often_as_what_is_known_now() -> None:
    store = Listed(open_store("memory://"))
    lake = Lake(store)
    publish(lake, MINUTES_OF, {"A": 10.0})
    publish_known(lake, minutes_of({"A": {0: 1}}), evening(MINUTES_OF))
    year = layout.sessions_of(MINUTES_OF.year, layout.MINUTE)

    def listed(known_at: datetime | None) -> int:
        store.folders.clear()
        lake.minutes("A", MINUTES_OF, MINUTES_OF, follow=False, known_at=known_at)
        return store.folders.count(year)

    # Before the bars are read, and after them: what is told is never older than they are.
    assert listed(evening(MINUTES_OF)) == listed(None) == 2


@pytest.mark.parametrize("no_instant", [CORRECTED.replace(tzinfo=None), "2026-02-19"])
def test_minutes_too_are_known_at_an_instant_with_its_zone(
    corrected: Lake, no_instant: Any
) -> None:
    with pytest.raises(ValueError, match="is no instant: give a datetime with its zone"):
        corrected.minutes("TPG", known_at=no_instant)
