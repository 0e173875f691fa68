"""Trading days as partitions, of XNYS and of other exchanges.

Not here: the partitions of our own assets (`test_partitions`), and XNYS's calendar itself
(`test_market_calendar`).
"""

import os
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import exchange_calendars
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from datalake_assets.partitions import session_partitions, year_partitions
from datalake_assets.trading_days import TradingDays

HOUR = timedelta(hours=1)


def keys(partitions: dg.PartitionsDefinition[str], now: str) -> list[str]:
    """The partitions at a time, UTC."""
    with partition_loading_context(datetime.fromisoformat(now).replace(tzinfo=UTC)):
        return list(partitions.get_partition_keys())


# --- New York -------------------------------------------------------------------------------------


def test_they_are_those_of_our_own_assets() -> None:
    start = date(2011, 1, 3)

    assert TradingDays().partitions(start) == session_partitions(start)
    assert TradingDays().years(start) == year_partitions(start)


def test_weekends_and_holidays_have_no_partition_and_half_days_have_one() -> None:
    # Thanksgiving 2024 was the 28th; the 29th was a half day.
    found = keys(TradingDays().partitions("2024-11-27"), "2024-12-03 00:00")

    assert found == ["2024-11-27", "2024-11-29", "2024-12-02"]
    assert TradingDays().closes_early("2024-11-29")
    assert not TradingDays().closes_early("2024-11-27")


def test_a_start_that_is_no_session_means_the_next_one() -> None:
    assert keys(TradingDays().partitions("2024-07-04"), "2024-07-06 00:00") == ["2024-07-05"]


@pytest.mark.parametrize(
    ("session", "close", "available"),
    [
        ("2024-01-03", "2024-01-03 21:00", "2024-01-03 22:00"),  # winter
        ("2024-07-05", "2024-07-05 20:00", "2024-07-05 22:00"),  # summer
        ("2024-07-03", "2024-07-03 17:00", "2024-07-03 22:00"),  # half day
    ],
)
def test_a_session_appears_on_its_evening_an_hour_after_the_close(
    session: str, close: str, available: str
) -> None:
    days = TradingDays()
    partitions = days.partitions(session)

    assert f"{days.closes(session):%Y-%m-%d %H:%M}" == close
    assert f"{days.available(session):%Y-%m-%d %H:%M}" == available
    moment = datetime.fromisoformat(available)
    assert keys(partitions, str(moment - timedelta(seconds=1))) == []
    assert keys(partitions, str(moment)) == [session]


@pytest.mark.parametrize(
    ("after_close", "timezone", "available"),
    [
        (timedelta(), "Etc/GMT-3", "2024-07-05 21:00"),
        (HOUR, "Etc/GMT-2", "2024-07-05 22:00"),
        (HOUR + timedelta(minutes=1), "Etc/GMT-1", "2024-07-05 23:00"),
        (3 * HOUR, "Etc/UTC", "2024-07-06 00:00"),
        (4 * HOUR, "Etc/GMT+1", "2024-07-06 01:00"),
        (15 * HOUR, "Etc/GMT+12", "2024-07-06 12:00"),
    ],
)
def test_it_appears_at_the_first_full_hour_after_the_pause(
    after_close: timedelta, timezone: str, available: str
) -> None:
    days = TradingDays()

    assert days.timezone(after_close) == timezone
    moment = days.available("2024-07-05", after_close)
    assert f"{moment:%Y-%m-%d %H:%M}" == available
    partitions = days.partitions("2024-07-05", after_close)
    assert partitions.time_window_for_partition_key("2024-07-05").end == moment


@pytest.mark.parametrize("after_close", [timedelta(seconds=-1), 15 * HOUR + timedelta(seconds=1)])
def test_an_impossible_pause_is_refused(after_close: timedelta) -> None:
    with pytest.raises(ValueError, match="after_close"):
        TradingDays().partitions("2024-01-02", after_close)


def test_no_session_to_come_is_ever_a_partition() -> None:
    # With end_offset=1, Dagster shows 2026-07-06 on this holiday (dagster#33551).
    assert keys(TradingDays().partitions("2026-07-01"), "2026-07-03 23:00")[-1] == "2026-07-02"


def test_a_year_has_its_sessions() -> None:
    days = TradingDays()

    assert len(days.sessions("2024-01-01", "2024-12-31")) == 252
    assert keys(days.years("2023-05-01"), "2025-01-01 00:00") == ["2023", "2024", "2025"]
    assert not days.is_session("2024-12-25")
    with pytest.raises(ValueError, match="2024-12-25"):
        days.closes("2024-12-25")


# --- other exchanges ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calendar", "holiday", "timezone"),
    [
        ("XLON", "2024-08-26", "Etc/GMT-6"),  # closes at 16:30 UTC in winter: 18:00
        ("XFRA", "2024-12-24", "Etc/GMT-6"),
        ("XTSE", "2024-07-01", "Etc/GMT-2"),
    ],
)
def test_another_exchange_has_its_own_days_and_hours(
    calendar: str, holiday: str, timezone: str
) -> None:
    days = TradingDays(calendar)
    partitions = days.partitions("2024-06-03")
    found = keys(partitions, "2025-01-03 00:00")

    assert partitions.timezone == timezone
    assert holiday not in found
    assert found == [str(day) for day in days.sessions("2024-06-03", "2025-01-02")]
    for session in found[:: len(found) // 10]:
        appears = days.available(session)
        assert appears - days.closes(session) >= HOUR
        assert partitions.time_window_for_partition_key(session).end == appears


def test_half_days_of_another_exchange() -> None:
    london = TradingDays("XLON")

    assert london.closes_early("2024-12-24")
    assert london.closes("2024-12-24") == datetime(2024, 12, 24, 12, 30, tzinfo=UTC)
    assert london.opens("2024-07-01") == datetime(2024, 7, 1, 7, 0, tzinfo=UTC)


def test_tokyo_appears_as_early_as_dagster_can() -> None:
    tokyo = TradingDays("XTKS")

    assert tokyo.timezone() == "Etc/GMT-14"
    assert tokyo.available("2024-06-03") == datetime(2024, 6, 3, 10, tzinfo=UTC)
    assert keys(tokyo.partitions("2024-04-26"), "2024-05-01 12:00") == [
        *("2024-04-26", "2024-04-30", "2024-05-01")
    ]


def test_a_market_that_never_closes_has_every_day() -> None:
    assert keys(TradingDays("24/7").partitions("2024-07-04"), "2024-07-08 02:00") == [
        *("2024-07-04", "2024-07-05", "2024-07-06", "2024-07-07")
    ]


def test_earlier_years_than_the_package_covers_by_default() -> None:
    days = TradingDays("XLON")

    assert len(days.sessions("1999-01-01", "1999-12-31")) == 252
    assert keys(days.partitions("1999-12-24"), "2000-01-05 00:00") == [
        *("1999-12-24", "1999-12-29", "1999-12-30", "2000-01-04")
    ]


def test_there_is_no_partition_after_the_calendars_end() -> None:
    days = TradingDays("XLON")
    found = keys(days.partitions("2026-01-02"), "2040-01-01 00:00")

    assert days.last >= datetime.now(UTC).date() + timedelta(days=300)
    assert (days.last + timedelta(days=1)).day == 1, "it moves once a month, not every day"
    assert found[-1] == str(days.sessions("2026-01-02", days.last)[-1])
    with pytest.raises(ValueError, match="outside the calendar XLON"):
        days.is_session(days.last + timedelta(days=1))


def test_an_unknown_calendar_is_refused() -> None:
    # It would not heed the closures that users declare.
    with pytest.raises(ValueError, match="'NYSE' is another name of XNYS, which is built in"):
        TradingDays("NYSE")
    with pytest.raises(ValueError, match="'NYSEX' is not a calendar; known are"):
        TradingDays("NYSEX")


@pytest.mark.parametrize("name", ["ASEX", "XTAE", "XBEL"])
def test_a_calendar_that_its_package_cannot_make_is_an_error_with_the_versions(name: str) -> None:
    try:
        exchange_calendars.get_calendar(name)
    except Exception:  # noqa: BLE001 - what the package raises is what this is about
        told = f"exchange_calendars {exchange_calendars.__version__} can't make the calendar {name}"
        with pytest.raises(ValueError, match=re.escape(told)):
            TradingDays(name)
    else:
        assert TradingDays(name).partitions("2024-01-02").get_partition_keys()


@pytest.mark.parametrize(
    "day",
    ["nonsense", "", "2024-13-01", 5, None, True, datetime(2024, 1, 3, 5, tzinfo=UTC)],
    ids=repr,
)
@pytest.mark.parametrize("calendar", ["XNYS", "XLON"])
def test_what_is_no_day_is_refused_everywhere(calendar: str, day: Any) -> None:
    days = TradingDays(calendar)
    for asked in (
        days.is_session,
        days.opens,
        days.closes,
        days.closes_early,
        days.available,
        days.partitions,
        days.years,
        lambda given: days.sessions("2024-01-02", given),
    ):
        with pytest.raises(ValueError, match=f"{re.escape(repr(day))} is no day: give a date"):
            asked(day)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
@pytest.mark.parametrize("calendar", ["XNYS", "XLON"])
def test_a_day_that_the_calendar_does_not_cover_is_refused(calendar: str, day: str) -> None:
    for asked in (TradingDays(calendar).years, TradingDays(calendar).is_session):
        with pytest.raises(ValueError, match=f"{day} is outside the "):
            asked(day)


@pytest.mark.parametrize("pause", [5, None, "1h"])
def test_a_pause_that_is_no_timedelta_is_refused(pause: Any) -> None:
    with pytest.raises(ValueError, match="is no timedelta"):
        TradingDays().partitions("2024-01-02", pause)


def test_without_the_extra_xnys_works_and_the_others_say_what_to_install() -> None:
    script = (
        "import sys; sys.modules['exchange_calendars'] = None\n"
        "from datalake_assets import TradingDays\n"
        "print(TradingDays().partitions('2024-01-02').timezone)\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'alpaca', 'pyarrow', 'obstore'"
        ", 'pandas', 'exchange_calendars_'}))\n"
        "TradingDays('XLON')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PATH": os.environ["PATH"], "ALPACA_API_KEY": "half of a pair"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() == ["Etc/GMT-2", "[]"]
    assert "pip install 'us-equity-datalake[calendars]'" in done.stderr


def test_the_document_has_the_partitions_that_it_tells_of() -> None:
    page = (Path(__file__).parents[1] / "docs" / "trading-days.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    module: dict[str, Any] = {}
    exec(source, module)
    made = dg.Definitions(
        assets=[module["prices"]],
        jobs=[module["prices_job"]],
        schedules=[module["prices_schedule"]],
    )
    schedule = made.resolve_schedule_def("prices_schedule")

    def asked(at: str) -> list[str | None]:
        now = datetime.fromisoformat(at).replace(tzinfo=UTC)
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_schedule_context(
                instance, now, repository_def=made.get_repository_def()
            )
            return [one.partition_key for one in schedule.evaluate_tick(context).run_requests or ()]

    due = TradingDays().available("2024-07-03")
    assert schedule.cron_schedule == f"5 {due.hour} * * *"
    assert asked("2024-07-03 22:05") == ["2024-07-03"]
    assert asked("2024-07-04 22:05") == [], "a holiday"
    assert asked("2024-07-05 22:05") == ["2024-07-05"]
    assert asked("2024-07-06 22:05") == [], "a Saturday"
