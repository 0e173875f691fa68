"""Freshness: when a session is late, what the check shows, and whom the sensor tells how often.

Not here: how a text is sent (`test_alerts`).
"""

import html
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.assets.session_ticks import FRESH_FOR
from datalake_assets.automation.freshness import Deadlines, Freshness, look
from datalake_assets.automation.jobs import build_daily_schedule
from datalake_assets.collection.audit import RULES
from datalake_assets.definitions import build_definitions
from datalake_assets.resources import EmbeddedExchangeResource, LakeResource
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.receiver import receiver
from datalake_assets_tests.automation.world import SetClock, World, utc

FIRST = date(2024, 1, 2)
MOMENT = timedelta(microseconds=1)
FROM_2024 = {"DATALAKE_START_DATE": str(FIRST)}


def deadlines(hours: float = 6, minutes: float = 30) -> Deadlines:
    return Deadlines(FIRST, timedelta(hours=hours), timedelta(minutes=minutes))


def seen(now: datetime, held: Sequence[date], hours: float = 6) -> Freshness:
    found = look(now, held, deadlines(hours))
    assert found is not None
    return found


def until(last: str) -> list[date]:
    """A lake that has every session up to this one."""
    return market_calendar.sessions(FIRST, date.fromisoformat(last))


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session", "before", "deadline"),
    [
        ("2024-06-04", "2024-06-03", "2024-06-05 02:00"),  # closes at 20:00 UTC in summer
        ("2024-12-17", "2024-12-16", "2024-12-18 03:00"),  # and at 21:00 in winter
        ("2024-03-08", "2024-03-07", "2024-03-09 03:00"),  # Friday before the clocks go forward
        ("2024-03-11", "2024-03-08", "2024-03-12 02:00"),  # Monday after
        ("2024-11-01", "2024-10-31", "2024-11-02 02:00"),  # Friday before they go back
        ("2024-11-04", "2024-11-01", "2024-11-05 03:00"),  # Monday after
        ("2024-11-29", "2024-11-27", "2024-11-30 00:00"),  # half day after a holiday
        ("2024-07-03", "2024-07-02", "2024-07-03 23:00"),  # half day in summer
    ],
)
def test_a_session_is_late_from_its_deadline_on_and_not_before(
    session: str, before: str, deadline: str
) -> None:
    at = utc(deadline)

    assert seen(at - MOMENT, until(before)).missing == ()
    assert seen(at - MOMENT, until(before)).session == date.fromisoformat(before)
    for now in (at, at + MOMENT):
        assert seen(now, until(before)).missing == (date.fromisoformat(session),)
        assert seen(now, until(before)).deadline == at
        assert seen(now, until(session)).missing == ()


def test_over_a_holiday_weekend_the_session_before_it_is_the_newest() -> None:
    """Good Friday: from the evening of Thursday to that of Monday nothing has to come."""
    hours = [utc("2024-03-29 02:00") + timedelta(hours=n) for n in range(24 * 4)]

    assert {seen(now, until("2024-03-28")).session for now in hours} == {date(2024, 3, 28)}
    assert not any(seen(now, until("2024-03-28")).missing for now in hours)
    monday = seen(hours[-1] + timedelta(hours=1), until("2024-03-28"))
    assert monday.missing == (date(2024, 4, 1),)


@pytest.mark.parametrize(
    ("session", "hours", "minutes", "deadline"),
    [
        # Its close is at 18:00 UTC; its partition appears at 22:00.
        ("2024-11-29", 4, 30, "2024-11-29 23:00"),
        ("2024-11-29", 5, 30, "2024-11-29 23:00"),
        ("2024-11-29", 5.5, 30, "2024-11-29 23:30"),
        # Collected only 20 hours after its close: it can't be there after 6.
        ("2024-12-17", 6, 1200, "2024-12-18 18:00"),
    ],
)
def test_no_session_is_late_within_an_hour_of_when_it_can_be_had(
    session: str, hours: float, minutes: float, deadline: str
) -> None:
    assert deadlines(hours, minutes).of_session(date.fromisoformat(session)) == utc(deadline)


def test_a_deadline_of_ten_days_is_about_the_session_ten_days_ago() -> None:
    assert seen(utc("2024-06-14 20:00"), [], hours=240).session == date(2024, 6, 4)


def test_before_the_first_deadline_nothing_is_late() -> None:
    at = utc("2024-01-03 03:00")

    assert look(at - MOMENT, [], deadlines()) is None
    assert seen(at, []).missing == (FIRST,)


def test_sessions_that_are_missing_in_a_row_are_counted_and_older_holes_are_not() -> None:
    held = [*until("2024-05-29"), date(2024, 5, 31)]
    found = seen(utc("2024-06-05 12:00"), held)

    assert found.newest == date(2024, 5, 31)
    assert found.missing == (date(2024, 6, 3), date(2024, 6, 4))
    assert str(found) == (
        "2024-06-04 was due at 2024-06-05 02:00 UTC: the lake is stale. 2 sessions are "
        "missing, the newest session in the lake is 2024-05-31. "
        "Run: datalake backfill --from 2024-06-03 --to 2024-06-04"
    )
    one = seen(utc("2024-06-05 12:00"), until("2024-06-03"))
    assert one.command == "datalake collect --session 2024-06-04"
    assert "1 session is missing" in str(one)


def test_a_session_that_came_before_its_deadline_does_not_hide_a_late_one() -> None:
    found = seen(utc("2024-06-05 22:30"), [*until("2024-06-03"), date(2024, 6, 5)])

    assert (found.session, found.missing) == (date(2024, 6, 4), (date(2024, 6, 4),))
    assert found.newest == date(2024, 6, 5)


@given(
    now=st.integers(0, 3 * 365 * 24 * 60).map(
        lambda minutes: utc("2023-12-30") + timedelta(minutes=minutes)
    ),
    hours=st.integers(1, 240),
    minutes=st.integers(0, 1440),
)
def test_the_newest_deadline_is_the_last_of_all_that_have_passed(
    now: datetime, hours: int, minutes: int
) -> None:
    """Against every session of the time, one by one."""
    told = deadlines(hours, minutes)
    days = market_calendar.sessions(FIRST, now.date())
    passed = [day for day in days if told.of_session(day) <= now]

    assert told.newest_passed(now) == (passed[-1] if passed else None)


# --- the check ------------------------------------------------------------------------------------


def evaluated(folder: Path, now: str, held: Sequence[date]) -> dg.AssetCheckEvaluation:
    """The check, as its job evaluates it on a lake that has these sessions."""
    lake = LakeResource(uri=str(folder / "lake"))
    for day in held:
        open_store(lake.uri).put(layout.session_key(day), b"looked at by its key alone")
    definitions = build_definitions(Settings.load(FROM_2024), lake=lake, clock=SetClock(utc(now)))
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("freshness_job").execute_in_process(
            instance=instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    assert result.success, "a red check is no failed run"
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def test_the_check_is_red_with_what_is_missing_and_what_to_type(tmp_path: Path) -> None:
    told = evaluated(tmp_path, "2024-06-05 02:00", until("2024-06-03"))

    assert not told.passed
    assert told.severity is dg.AssetCheckSeverity.ERROR
    assert {name: value.value for name, value in told.metadata.items()} == {
        "session": "2024-06-04",
        "deadline": utc("2024-06-05 02:00").timestamp(),
        "newest_published": "2024-06-03",
        "missing": 1,
        "to_type": "datalake collect --session 2024-06-04",
    }


def test_the_check_is_green_when_the_session_is_in_the_lake(tmp_path: Path) -> None:
    told = evaluated(tmp_path, "2024-06-05 02:00", until("2024-06-04"))

    assert told.passed
    assert told.description == "2024-06-04 is there"
    assert told.metadata["missing"].value == 0


def test_the_check_of_an_empty_lake_is_red_and_before_the_first_deadline_green(
    tmp_path: Path,
) -> None:
    told = evaluated(tmp_path, "2024-01-04 12:00", [])

    assert not told.passed
    assert told.metadata["newest_published"].value == "none"
    assert evaluated(tmp_path, "2024-01-02 12:00", []).passed


def test_a_run_of_the_ui_which_has_every_check_evaluates_it_too(tmp_path: Path) -> None:
    """It must not wait for an output of the asset, which has none: that shows it as skipped."""
    lake = LakeResource(uri=str(tmp_path / "lake"))
    symbols = {"DATALAKE_SYMBOLS": "AYE,NES"}
    definitions = build_definitions(
        Settings.load(FROM_2024 | symbols),
        lake=lake,
        clock=SetClock(utc("2024-01-04 12:00")),
        source=EmbeddedExchangeResource(active=20, inactive=0),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("daily_ticks")],
            partition_key="2024-01-03",
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )

    assert result.success
    told = {one.check_name for one in result.get_asset_check_evaluations()}
    assert told == {*RULES, "newest_session_is_there"}


def test_a_run_over_sessions_does_not_evaluate_it() -> None:
    definitions = build_definitions(Settings.load({}))
    for job in ("daily_ticks_job", "repair_job"):
        names = definitions.resolve_job_def(job).graph.node_dict
        assert not [name for name in names if "newest_session" in name]


# --- the sensor -----------------------------------------------------------------------------------


class Lake:
    """The lake of a world, by its keys."""

    def __init__(self, world: World) -> None:
        self.store = open_store(world.lake.uri)

    def add(self, *days: date) -> None:
        for day in days:
            self.store.put(layout.session_key(day), b"looked at by its key alone")


def asked(world: World, now: str) -> list[str]:
    """What a tick at this time asks for: its run keys, without the time at their end."""
    world.clock.time = utc(now)
    keys = [request.run_key or "" for request in world.tick("freshness")]
    assert all(key.endswith(now.replace(" ", "T")) for key in keys)
    return [key.rpartition(" ")[0] for key in keys]


def test_the_check_is_asked_for_once_when_a_session_is_late_and_once_when_it_came(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, utc("2024-06-05 01:59"), FROM_2024)
    lake = Lake(world)
    lake.add(*until("2024-06-03"))

    assert asked(world, "2024-06-05 01:59") == ["2024-06-03 there"]
    assert asked(world, "2024-06-05 01:59") == []
    assert world.skipped == "2024-06-03 is there"
    assert asked(world, "2024-06-05 02:00") == ["2024-06-04 missing"]
    assert asked(world, "2024-06-05 02:01") == []
    assert world.skipped == (
        "2024-06-04 is missing: the lake is stale; neither DATALAKE_ALERT_WEBHOOK nor "
        "DATALAKE_ALERT_URLS is set, so no alert is sent"
    )
    lake.add(date(2024, 6, 4))
    assert asked(world, "2024-06-05 02:02") == ["2024-06-04 there"]
    assert asked(world, "2024-06-05 02:03") == []


def test_a_session_that_goes_and_comes_back_is_asked_for_by_keys_that_dagster_never_saw(
    tmp_path: Path,
) -> None:
    """It launches no run key twice: the check would stay red on a lake that is fresh."""
    world = World(tmp_path, utc("2024-06-05 02:00"), FROM_2024)
    lake = Lake(world)
    lake.add(*until("2024-06-04"))
    keys = []
    for now, change in (
        ("2024-06-05 02:00", lambda: lake.store.delete(layout.session_key(date(2024, 6, 4)))),
        ("2024-06-05 02:01", lambda: lake.add(date(2024, 6, 4))),
        ("2024-06-05 02:02", lambda: None),
    ):
        world.clock.time = utc(now)
        keys += [request.run_key for request in world.tick("freshness")]
        change()

    assert len(keys) == len(set(keys)) == 3


def test_before_the_first_deadline_nothing_is_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2024-01-02 12:00"), FROM_2024)

    assert asked(world, "2024-01-02 12:00") == []
    assert world.skipped == "no session is due yet"


def test_people_are_told_once_when_it_is_late_and_once_when_it_came(tmp_path: Path) -> None:
    with receiver() as told:
        world = World(tmp_path, utc("2024-06-05 01:59"), FROM_2024 | webhook(told.address))
        lake = Lake(world)
        lake.add(*until("2024-06-03"))
        for now in ("2024-06-05 01:59", "2024-06-05 02:00", "2024-06-05 02:01"):
            asked(world, now)
        lake.add(date(2024, 6, 4))
        for now in ("2024-06-05 02:02", "2024-06-05 02:03", "2024-06-05 21:00"):
            asked(world, now)

    late, again = told.texts
    assert late == (
        "2024-06-04 was due at 2024-06-05 02:00 UTC: the lake is stale. 1 session is "
        "missing, the newest session in the lake is 2024-06-03. Run: datalake collect --session "
        "2024-06-04"
    )
    assert again == "2024-06-04 is there: the lake is fresh again"


def test_people_are_told_of_each_session_that_is_late_and_of_the_end_of_it(tmp_path: Path) -> None:
    with receiver() as told:
        world = World(tmp_path, utc("2024-06-05 02:00"), FROM_2024 | webhook(told.address))
        lake = Lake(world)
        lake.add(*until("2024-06-03"))
        for now in ("2024-06-05 02:00", "2024-06-05 12:00", "2024-06-06 02:00", "2024-06-06 03:00"):
            asked(world, now)
        lake.add(date(2024, 6, 4), date(2024, 6, 5))
        asked(world, "2024-06-06 04:00")

    assert [html.unescape(text).split(".")[0] for text in told.texts] == [
        "2024-06-04 was due at 2024-06-05 02:00 UTC: the lake is stale",
        "2024-06-05 was due at 2024-06-06 02:00 UTC: the lake is stale",
        "2024-06-05 is there: the lake is fresh again",
    ]


def test_nobody_is_told_of_what_came_in_time(tmp_path: Path) -> None:
    with receiver() as told:
        world = World(tmp_path, utc("2024-06-05 02:00"), FROM_2024 | webhook(told.address))
        Lake(world).add(*until("2024-06-05"))
        for now in ("2024-06-05 02:00", "2024-06-06 02:00", "2024-06-06 03:00"):
            asked(world, now)

    assert told.texts == []


def test_what_a_receiver_refused_is_told_with_the_next_tick_and_the_check_is_asked_for_once(
    tmp_path: Path,
) -> None:
    with receiver(404, 404) as told:
        world = World(tmp_path, utc("2024-06-05 02:00"), FROM_2024 | webhook(told.address))
        Lake(world).add(*until("2024-06-03"))
        assert asked(world, "2024-06-05 02:00") == ["2024-06-04 missing"]
        assert asked(world, "2024-06-05 02:01") == []
        assert "it answered HTTP 404; check DATALAKE_ALERT_WEBHOOK" in world.skipped
        assert "the next tick tries again" in world.skipped
        for now in ("2024-06-05 02:02", "2024-06-05 02:03"):
            assert asked(world, now) == []

    assert len(told.texts) == 3
    assert len(set(told.texts)) == 1


def webhook(address: str) -> dict[str, str]:
    return {"DATALAKE_ALERT_WEBHOOK": address}


# --- the policy and the schedule ------------------------------------------------------------------


def test_the_policy_outlasts_every_weekend_and_holiday_and_is_not_much_longer() -> None:
    days = market_calendar.sessions(date(2013, 1, 1), market_calendar.LAST)
    closes = list(map(market_calendar.session_close, days))
    longest = max(later - one for one, later in pairwise(closes))

    # What is collected hours late must not be taken for what is not collected at all.
    assert longest + timedelta(hours=12) < FRESH_FOR < longest + timedelta(days=2)
    spec = build_definitions(Settings.load({})).resolve_assets_def("daily_ticks")
    policy = spec.get_asset_spec(dg.AssetKey("daily_ticks")).freshness_policy
    assert policy == dg.FreshnessPolicy.time_window(fail_window=FRESH_FOR)


def schedule(**environ: str) -> dg.ScheduleDefinition:
    definitions = build_definitions(Settings.load(FROM_2024 | environ))
    return definitions.get_repository_def().get_schedule_def("daily_schedule")


def tick(at: datetime, **environ: str) -> tuple[list[str | None], str | None]:
    """What the schedule asks for at an instant, and why it does not."""
    repository = build_definitions(Settings.load(FROM_2024 | environ)).get_repository_def()
    context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=repository)
    told = repository.get_schedule_def("daily_schedule").evaluate_tick(context)
    return [request.partition_key for request in told.run_requests or ()], told.skip_message


def test_the_schedule_is_off_until_somebody_starts_it() -> None:
    assert schedule().default_status is dg.DefaultScheduleStatus.STOPPED
    assert build_daily_schedule(Settings.load({})).name == "daily_schedule"


@pytest.mark.parametrize(
    ("minutes", "cron"),
    [
        ("60", "5 22 * * *"),
        ("65", "5 22 * * *"),
        ("66", "6 22 * * *"),
        ("180", "0 0 * * *"),
        ("1440", "0 21 * * *"),
    ],
)
def test_it_ticks_when_bars_can_be_had_in_winter_too_and_after_the_partition_appears(
    minutes: str, cron: str
) -> None:
    of = schedule(DATALAKE_COLLECT_AFTER_MINUTES=minutes)

    assert (of.cron_schedule, of.execution_timezone) == (cron, "UTC")


@pytest.mark.parametrize(
    ("minutes", "later"), [("60", "22:05"), ("180", "1 day 00:00"), ("1440", "1 day 21:00")]
)
def test_over_two_weeks_it_asks_for_each_session_once_and_for_nothing_else(
    minutes: str, later: str
) -> None:
    """Thanksgiving and the half day after it."""
    days = [date(2024, 11, 20) + timedelta(days=n) for n in range(14)]
    clock = time.fromisoformat(later[-5:])
    told = {
        day: tick(
            datetime.combine(day + timedelta(days="day" in later), clock, UTC),
            DATALAKE_COLLECT_AFTER_MINUTES=minutes,
        )[0]
        for day in days
    }

    assert told == {day: [str(day)] if market_calendar.is_session(day) else [] for day in days}


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (
            "2024-11-28 22:05",
            "2024-11-28 was not a session but a holiday or a special closure of the exchange",
        ),
        ("2023-12-29 22:05", "2023-12-29 is before the first session, 2024-01-02"),
    ],
)
def test_its_skips_say_why(at: str, why: str) -> None:
    assert tick(utc(at)) == ([], why)
