"""The calendar's answers, against dates that anybody can look up and against the library."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import _xnys
from datalake_assets import market_calendar as calendar
from datalake_assets.market_calendar import FIRST, LAST, OutsideCalendar
from datalake_assets_tests import xnys_refresh

NEW_YORK = ZoneInfo("America/New_York")
DAY = timedelta(days=1)
known_days = st.dates(min_value=FIRST, max_value=LAST)


def utc(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0
) -> datetime:
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "why"),
    [
        (date(2001, 9, 11), "the attacks of 2001"),
        (date(2001, 9, 14), "the attacks of 2001"),
        (date(2004, 6, 11), "mourning for Reagan"),
        (date(2007, 1, 2), "mourning for Ford"),
        (date(2012, 10, 29), "hurricane Sandy"),
        (date(2012, 10, 30), "hurricane Sandy"),
        (date(2018, 12, 5), "mourning for Bush"),
        (date(2025, 1, 9), "mourning for Carter"),
        (date(2022, 6, 20), "the first Juneteenth, observed"),
        (date(2024, 1, 1), "New Year"),
        (date(2024, 3, 29), "Good Friday"),
        (date(2024, 7, 4), "Independence Day"),
        (date(2024, 11, 28), "Thanksgiving"),
        (date(2021, 12, 24), "Christmas, observed"),
    ],
)
def test_a_weekday_on_which_the_exchange_stayed_closed_is_no_session(day: date, why: str) -> None:
    assert not calendar.is_session(day), why
    assert day in calendar.closures(day, day)
    assert calendar.sessions(day, day) == []


@pytest.mark.parametrize(
    "day",
    [
        date(2001, 9, 10),
        date(2001, 9, 17),
        date(2012, 10, 26),
        date(2012, 10, 31),
        date(2018, 12, 4),
        date(2018, 12, 6),
        date(2021, 6, 18),  # before Juneteenth was a holiday of the exchange
        date(2021, 12, 31),  # New Year's day on a Saturday is not observed on the Friday before
        date(2025, 1, 8),
        date(2025, 1, 10),
    ],
)
def test_the_days_around_a_closure_are_sessions(day: date) -> None:
    assert calendar.is_session(day)
    assert calendar.closures(day, day) == []


def test_a_weekend_is_no_session_and_no_closure() -> None:
    saturday, sunday = date(2024, 6, 1), date(2024, 6, 2)
    assert not calendar.is_session(saturday)
    assert not calendar.is_session(sunday)
    assert calendar.closures(saturday, sunday) == []


@pytest.mark.parametrize(("year", "count"), [(2011, 252), (2012, 250), (2018, 251), (2024, 252)])
def test_a_year_has_the_number_of_sessions_that_the_exchange_published(
    year: int, count: int
) -> None:
    assert len(calendar.sessions(date(year, 1, 1), date(year, 12, 31))) == count


@pytest.mark.parametrize(
    "day",
    [
        date(2013, 7, 3),
        date(2023, 11, 24),
        date(2024, 7, 3),
        date(2024, 11, 29),
        date(2024, 12, 24),
        date(2025, 12, 24),
    ],
)
def test_a_half_day_closes_at_13_o_clock_in_new_york(day: date) -> None:
    assert calendar.is_early_close(day)
    assert calendar.session_close(day) == datetime(
        day.year, day.month, day.day, 13, tzinfo=NEW_YORK
    )


def test_an_ordinary_session_runs_from_half_past_nine_to_16_o_clock_in_new_york() -> None:
    winter, summer = date(2024, 1, 2), date(2024, 7, 2)
    assert not calendar.is_early_close(winter)
    assert calendar.session_open(winter) == utc(2024, 1, 2, 14, 30)
    assert calendar.session_close(winter) == utc(2024, 1, 2, 21)
    assert calendar.session_open(summer) == utc(2024, 7, 2, 13, 30)
    assert calendar.session_close(summer) == utc(2024, 7, 2, 20)


@pytest.mark.parametrize(
    ("day", "hour"),
    [
        (date(2024, 3, 8), 5),  # the last session before the clocks go forward
        (date(2024, 3, 11), 4),  # the first one after
        (date(2024, 11, 1), 4),  # the last session before the clocks go back
        (date(2024, 11, 4), 5),  # the first one after
        (date(2006, 3, 31), 5),  # until 2006 the change came in April and October
        (date(2006, 4, 3), 4),
    ],
)
def test_a_stamp_is_new_yorks_midnight_on_either_side_of_a_clock_change(
    day: date, hour: int
) -> None:
    stamp = calendar.session_stamp(day)
    assert stamp == utc(day.year, day.month, day.day, hour)
    assert stamp.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "question",
    [
        calendar.session_open,
        calendar.session_close,
        calendar.session_stamp,
        calendar.is_early_close,
    ],
)
def test_asking_for_the_hours_of_a_day_without_trading_says_why_there_are_none(
    question: Callable[[date], object],
) -> None:
    with pytest.raises(ValueError, match=r"2024-06-01 is not an XNYS session but a Saturday"):
        question(date(2024, 6, 1))
    with pytest.raises(ValueError, match=r"2025-01-09 is not an XNYS session but a holiday"):
        question(date(2025, 1, 9))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (utc(2024, 1, 3, 20, 59, 59), date(2024, 1, 2)),  # a second before the close
        (utc(2024, 1, 3, 21), date(2024, 1, 3)),  # at the close
        (utc(2024, 1, 4, 3), date(2024, 1, 3)),  # past midnight in UTC, evening in New York
        (utc(2024, 11, 29, 17, 59, 59), date(2024, 11, 27)),  # a half day after Thanksgiving
        (utc(2024, 11, 29, 18), date(2024, 11, 29)),
        (utc(2024, 6, 2, 12), date(2024, 5, 31)),  # a Sunday
        (utc(2012, 10, 30, 23), date(2012, 10, 26)),  # Sandy: two weekdays without trading
        (datetime(2024, 7, 2, 16, tzinfo=NEW_YORK), date(2024, 7, 2)),  # any time zone will do
    ],
)
def test_the_latest_closed_session_changes_at_the_instant_of_the_close(
    now: datetime, expected: date
) -> None:
    assert calendar.latest_closed_session(now) == expected


def test_an_instant_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        calendar.latest_closed_session(utc(2024, 1, 3, 21).replace(tzinfo=None))


def test_nothing_has_closed_before_the_first_known_close() -> None:
    first = calendar.sessions(FIRST, FIRST + 10 * DAY)[0]
    close = calendar.session_close(first)
    assert calendar.latest_closed_session(close) == first
    with pytest.raises(OutsideCalendar):
        calendar.latest_closed_session(close - timedelta(microseconds=1))


@pytest.mark.parametrize("outside", [FIRST - DAY, LAST + DAY])
def test_a_day_outside_the_known_years_is_refused_by_every_question(outside: date) -> None:
    inside = date(2024, 1, 2)
    for question in (
        lambda: calendar.is_session(outside),
        lambda: calendar.is_early_close(outside),
        lambda: calendar.session_open(outside),
        lambda: calendar.session_close(outside),
        lambda: calendar.session_stamp(outside),
        lambda: calendar.sessions(outside, inside),
        lambda: calendar.sessions(inside, outside),
        lambda: calendar.closures(outside, inside),
        lambda: calendar.closures(inside, outside),
        lambda: calendar.previous_sessions(outside, 1),
        lambda: calendar.latest_closed_session(utc(outside.year, outside.month, outside.day, 18)),
    ):
        with pytest.raises(OutsideCalendar, match="which covers 2000-01-01 … 2035-12-31") as caught:
            question()
        assert caught.value.day == outside


def test_the_bounds_themselves_are_known() -> None:
    assert not calendar.is_session(FIRST)  # a Saturday
    assert calendar.is_session(LAST)  # a Monday
    assert calendar.sessions(FIRST, LAST)[-1] == LAST


def test_previous_sessions_skip_weekends_and_closures_and_leave_the_day_itself_out() -> None:
    assert calendar.previous_sessions(date(2012, 10, 31), 2) == [
        date(2012, 10, 25),
        date(2012, 10, 26),
    ]
    assert calendar.previous_sessions(date(2012, 10, 29), 1) == [date(2012, 10, 26)]
    assert calendar.previous_sessions(date(2024, 1, 3), 0) == []


def test_previous_sessions_are_fewer_where_the_calendar_begins() -> None:
    first, second = calendar.sessions(FIRST, FIRST + 10 * DAY)[:2]
    assert calendar.previous_sessions(second, 5) == [first]
    assert calendar.previous_sessions(FIRST, 5) == []


def test_a_negative_number_of_sessions_is_refused() -> None:
    with pytest.raises(ValueError, match="count=-1"):
        calendar.previous_sessions(date(2024, 1, 3), -1)


def test_a_range_that_ends_before_it_starts_is_empty() -> None:
    assert calendar.sessions(date(2024, 1, 5), date(2024, 1, 2)) == []
    assert calendar.closures(date(2024, 1, 2), date(2024, 1, 1)) == []


@given(known_days, known_days)
def test_every_weekday_of_a_range_is_either_a_session_or_a_closure(a: date, b: date) -> None:
    start, end = min(a, b), min(max(a, b), min(a, b) + 400 * DAY)
    sessions = calendar.sessions(start, end)
    closures = calendar.closures(start, end)
    days = (start + DAY * offset for offset in range((end - start).days + 1))
    assert sorted(sessions + closures) == [day for day in days if day.weekday() < 5]
    assert sessions == [day for day in sessions if calendar.is_session(day)]


@given(known_days, st.integers(min_value=0, max_value=30))
def test_previous_sessions_are_the_end_of_all_sessions_before_the_day(
    day: date, count: int
) -> None:
    before = calendar.sessions(FIRST, day)
    if before and before[-1] == day:
        before.pop()
    assert calendar.previous_sessions(day, count) == before[len(before) - min(count, len(before)) :]


@given(st.dates(date(2000, 2, 1), date(2035, 12, 1)), st.timedeltas(0 * DAY, DAY))
def test_between_two_closes_the_latest_closed_session_is_the_earlier_one(
    day: date, since_midnight: timedelta
) -> None:
    now = utc(day.year, day.month, day.day) + since_midnight
    latest = calendar.latest_closed_session(now)
    following = calendar.sessions(latest + DAY, latest + 20 * DAY)[0]
    assert calendar.session_close(latest) <= now < calendar.session_close(following)


@given(known_days.filter(calendar.is_session))
def test_a_session_opens_and_closes_within_its_own_day_of_new_york(day: date) -> None:
    stamp, opened = calendar.session_stamp(day), calendar.session_open(day)
    closed = calendar.session_close(day)
    assert stamp < opened < closed < stamp + DAY
    local = stamp.astimezone(NEW_YORK)
    assert (local.date(), local.hour, local.minute) == (day, 0, 0)


@pytest.mark.filterwarnings("ignore:Series.values")  # of pandas 3 at exchange_calendars
def test_the_generated_module_knows_what_exchange_calendars_knows() -> None:
    library, module = xnys_refresh.tables_of_library(), xnys_refresh.tables_of_module()
    refresh = "run `python -m datalake_assets_tests.xnys_refresh`"
    assert module.closures == library.closures, refresh
    assert module.early_closes == library.early_closes, refresh


def test_the_generated_module_was_not_edited_by_hand() -> None:
    text = Path(_xnys.__file__).read_text(encoding="utf-8")
    assert text == xnys_refresh.render(xnys_refresh.tables_of_module())


def test_the_calendar_answers_without_loading_a_heavy_library() -> None:
    program = (
        "import sys; from datetime import UTC, datetime;"
        "from datalake_assets import market_calendar as c;"
        "c.latest_closed_session(datetime(2024, 1, 3, tzinfo=UTC));"
        "print([n for n in ('pandas', 'numpy', 'exchange_calendars', 'dagster', 'pyarrow')"
        " if n in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.strip() == "[]"


# What is declared

LATE = date(2027, 3, 10)  # a Wednesday of which nothing is known


def test_a_declared_closure_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(calendar.sessions(FIRST, LAST))
    monkeypatch.setenv("DATALAKE_CLOSURES", f" {LATE}, 2027-03-11T12:30 ")

    assert not calendar.is_session(LATE)
    assert LATE in calendar.closures(LATE, LATE)
    assert calendar.sessions(LATE - DAY, LATE + DAY) == [LATE - DAY, LATE + DAY]
    assert calendar.previous_sessions(LATE + DAY, 1) == [LATE - DAY]
    assert len(calendar.sessions(FIRST, LAST)) == before - 1
    evening = datetime(2027, 3, 10, 23, tzinfo=UTC)
    assert calendar.latest_closed_session(evening) == LATE - DAY
    with pytest.raises(ValueError, match="but a closure that DATALAKE_CLOSURES declares"):
        calendar.session_close(LATE)
    monkeypatch.delenv("DATALAKE_CLOSURES")
    assert calendar.is_session(LATE)


def test_a_declared_early_close_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calendar.session_close(LATE) == utc(2027, 3, 10, 21)
    monkeypatch.setenv("DATALAKE_CLOSURES", f"{LATE}T12:30")
    assert calendar.is_session(LATE)
    assert calendar.is_early_close(LATE)
    assert calendar.session_close(LATE) == utc(2027, 3, 10, 17, 30)
    assert calendar.session_open(LATE) == utc(2027, 3, 10, 14, 30)


def test_bars_published_before_their_day_was_declared_closed_keep_their_stamp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stamp = calendar.session_stamp(LATE)
    monkeypatch.setenv("DATALAKE_CLOSURES", str(LATE))
    assert calendar.session_stamp(LATE) == stamp
    assert LATE in calendar.undeclared_sessions(LATE, LATE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tomorrow", "'tomorrow' is neither"),
        ("2027-02-30", "'2027-02-30' is neither"),
        ("2027-03-10T25:00", "'2027-03-10T25:00' is neither"),
        ("20270310", "'20270310' is neither"),
        ("2027-03-13", "is a Saturday"),
        ("1999-12-31", "must hold days from 2000-01-01"),
        ("2036-01-02", "must hold days from 2000-01-01"),
        ("2027-03-10,2027-03-10T13:00", "is in it twice"),
        ("2027-03-10T09:30", "times between 09:30 and 16:00"),
        ("2027-03-10T16:00", "times between 09:30 and 16:00"),
    ],
)
def test_what_can_not_be_declared_is_said_with_what_can(
    text: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=why):
        calendar.parse_declared(text)
    monkeypatch.setenv("DATALAKE_CLOSURES", text)
    with pytest.raises(ValueError, match=f"DATALAKE_CLOSURES='{text}'"):
        calendar.is_session(LATE)


@pytest.mark.parametrize("text", ["2027-03-10T09:31", "2027-03-10T15:59", "", ",2027-03-10,,"])
def test_what_can_be_declared(text: str) -> None:
    assert len(calendar.parse_declared(text)) == bool(text)


def test_what_to_set_names_what_is_declared_already(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calendar.declaration(LATE) == "DATALAKE_CLOSURES=2027-03-10"
    monkeypatch.setenv("DATALAKE_CLOSURES", "2026-07-06")
    assert calendar.declaration(LATE) == "DATALAKE_CLOSURES=2026-07-06,2027-03-10"
