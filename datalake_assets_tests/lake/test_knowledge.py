"""What was known at an instant: bars, actions and decisions, each as it was then."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.report import Ledger
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.securities.decisions import Decision, decide
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import bar, table
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
