"""The asset `lake_report`: what a run writes into the lake, and what the UI gets to show and plot.

Not here: what is true of a lake (`overview/test_numbers`), the page (`overview/test_page`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import pytest

from datalake_assets import market_calendar
from datalake_assets.assets.lake_report import KEY, build_lake_report, report_metadata
from datalake_assets.collection.clock import Clock
from datalake_assets.lake.files import WrongLakeError
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview import page
from datalake_assets.overview.numbers import (
    Damage,
    NextSession,
    PriceWarning,
    SessionState,
    Step,
    StoppedSymbol,
    YearNumbers,
)
from datalake_assets.overview.runs import Run, Runs
from datalake_assets.overview.universe import ListChanges, Listed
from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource, LakeResource
from datalake_assets.storage import layout
from datalake_assets_tests.overview.lakes import (
    DAYS,
    NOW,
    SYMBOLS,
    collected,
    look,
    new_lake,
    publish,
)


class ClockAt(Clock):
    """A clock that shows one instant."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at


def run(
    lake: LakeWriter, at: datetime = NOW, first: date = DAYS[0], **known: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [build_lake_report(first, **known)],
        resources={
            "collector": CollectorResource(requests_per_minute=1000),
            "source": EmbeddedExchangeResource(),
            "lake": LakeResource(uri=lake.store.uri),
            "clock": ClockAt(at),
        },
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult) -> Mapping[str, dg.MetadataValue[Any]]:
    assert result.success
    (event,) = result.asset_materializations_for_node("lake_report")
    return event.metadata


def tables(markdown: str) -> list[list[str]]:
    plain = markdown.replace("\N{NO-BREAK SPACE}", " ")
    return [row.split("|") for row in plain.splitlines()]


@pytest.fixture
def lake(tmp_path: Path) -> LakeWriter:
    return new_lake(str(tmp_path / "lake"), EmbeddedExchangeResource().identity)


def fill(lake: LakeWriter, days: Iterable[date] = DAYS) -> None:
    publish(lake, days)
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)


def test_a_run_writes_the_page_of_this_instant_into_the_lake(lake: LakeWriter) -> None:
    fill(lake)

    told = metadata(run(lake))

    report = lake.store.get(layout.REPORT)
    # Measured before the report was there.
    lake.store.delete(layout.REPORT)
    assert report.decode() == page.render(look(lake, requests_per_minute=1000, measure=True))
    lake.store.put(layout.REPORT, report)
    assert told["report_bytes"].value == len(report)
    assert told["report"] == dg.MetadataValue.path(lake.store.url("reports/latest.html"))
    assert told["dagster/uri"].value == lake.store.url("reports/latest.html")


def test_a_later_run_takes_the_page_s_place(lake: LakeWriter) -> None:
    fill(lake, DAYS[:-1])
    run(lake)
    assert b"the newest is missing" in lake.store.get(layout.REPORT)

    fill(lake, DAYS[-1:])
    run(lake)

    assert b"<h1>The lake is good.</h1>" in lake.store.get(layout.REPORT)
    assert lake.store.list("reports") == [layout.REPORT]


@pytest.mark.parametrize(("hour", "due"), [((21, 59, 59), 43), ((22, 0, 0), 44)])
def test_a_session_is_due_when_its_partition_appears(
    hour: tuple[int, int, int], due: int, lake: LakeWriter
) -> None:
    fill(lake, DAYS[:-1])
    told = metadata(run(lake, at=datetime(2024, 7, 3, *hour, tzinfo=UTC)))
    assert told["sessions_due"].value == due
    assert told["sessions_missing"].value == due - 43


def test_nothing_is_due_on_a_weekend_that_was_not_due_on_friday(lake: LakeWriter) -> None:
    fill(lake, [*DAYS, date(2024, 7, 5)])
    for days in range(3):
        told = metadata(run(lake, at=datetime(2024, 7, 5, 23, tzinfo=UTC) + timedelta(days=days)))
        assert told["sessions_due"].value == told["sessions_published"].value == 45


def test_the_numbers_to_plot_are_plain_and_those_of_the_lake(lake: LakeWriter) -> None:
    publish(lake, DAYS[6:-3])
    lake.publish(*collected(DAYS[-3], SYMBOLS[:99], failed={SYMBOLS[99]: "boom"}))
    lake.keep_incomplete(*collected(DAYS[-2], SYMBOLS[:9], pending=SYMBOLS[9:]))
    lake.publish(
        *collected(DAYS[-1], SYMBOLS[:98], no_print=SYMBOLS[98:], before=[SYMBOLS], requests=77)
    )

    told = metadata(run(lake))

    plotted = {
        name: value.value
        for name, value in told.items()
        if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue)
    }
    for name in ("report_bytes", "lake_bytes", "bytes_per_session"):
        assert plotted.pop(name) > 0
    assert plotted == {
        "sessions_due": 44,
        "sessions_published": 37,
        "sessions_missing": 0,
        "not_collected_yet": 6,
        "sessions_incomplete": 1,
        "sessions_narrow": 0,
        "sessions_to_repair": 2,
        "objects_damaged": 0,
        "years_behind": 1,
        "things_to_do": 4,
        "rows": 35 * 100 + 99 + 98,
        "rows_newest": 98,
        "success_rate_newest": 1.0,
        "coverage_newest": 0.98,
        "seconds_newest": 30.0,
        "symbols_stopped": 0,
        "price_warnings": 0,
        "requests_last_day": 77,
        "share_of_plan": 77 / (1000 * 0.5 + 1),
    }


def test_what_can_not_be_known_is_no_point_in_a_plot(lake: LakeWriter) -> None:
    told = metadata(run(lake))
    assert told["sessions_published"].value == 0
    assert not {name for name in told if name.endswith("_newest")}
    assert not told.keys() & {
        "symbols_stopped",
        "requests_last_day",
        "stopped_trading",
        "restatements",
    }
    assert told["newest_session"].value == "No session is published."


def test_the_pictures_of_the_coverage_are_in_the_text_itself(lake: LakeWriter) -> None:
    fill(lake, DAYS[:-1])

    told = metadata(run(lake))

    found = {}
    for name in ("coverage", "coverage_by_session"):
        matched = re.match(
            r"!\[(.*)\]\(data:image/(\S+);base64,([\w+/=]+)\)", str(told[name].value)
        )
        assert matched
        assert matched[1] == "43 of 44 sessions are published"
        found[matched[2]] = base64.b64decode(matched[3])
    assert found["png"].startswith(b"\x89PNG")
    picture = ElementTree.fromstring(found["svg+xml"])
    assert [text.text for text in picture.iter() if text.get("class") == "year"] == ["2024"]


def test_the_picture_of_one_session_is_told_in_the_singular(lake: LakeWriter) -> None:
    told = metadata(run(lake, first=DAYS[-1]))

    assert str(told["coverage"].value).startswith("![0 of 1 session is published](")


@pytest.mark.parametrize("state", SessionState)
def test_the_ui_shows_16_years_without_a_click(state: SessionState, lake: LakeWriter) -> None:
    """It hides markdown of 1,000 characters and more behind one."""
    fill(lake)
    found = look(lake)
    days = market_calendar.sessions(date(2011, 1, 3), date(2026, 12, 31))
    holes = dict.fromkeys(days[50::90], SessionState.MISSING)
    counts = dict.fromkeys(SessionState, 0) | {SessionState.PUBLISHED: 252}
    found = replace(
        found,
        states=dict.fromkeys(days, state) | holes,
        years=[
            YearNumbers(year, counts, 2_012_345, 0.99987, 3, 0, True) for year in range(2011, 2027)
        ],
        damaged=[Damage(f"s3://bucket/{n}", Step(f"s3://bucket/{n}", None)) for n in range(100)],
        stopped=[StoppedSymbol(symbol, DAYS[0], 123.45, 1_234_567) for symbol in SYMBOLS],
    )

    told = report_metadata(found)

    texts = {name: value.value for name, value in told.items() if hasattr(value, "md_str")}
    del texts["coverage_by_session"]
    assert {name: len(text) for name, text in texts.items() if len(text) >= 1000} == {}
    assert len(tables(texts["years"])) == 2 + 16
    assert re.search(r"\n… and \d+ more, see the report$", texts["what_to_do"])
    assert re.search(r"\n… and \d+ more, see the report$", texts["stopped_trading"])


def test_the_words_and_commands_are_those_of_the_overview(lake: LakeWriter) -> None:
    fill(lake, DAYS[:-1])
    found = look(lake)

    told = report_metadata(found)

    verdict = " ".join(str(told["verdict"].value).replace("*", "").split("\\\n"))
    assert verdict == f"{found.headline} {found.sentence}"
    assert told["what_to_do"].value == (
        "missing: 1 session\\\n`datalake backfill --from`\\\n`2024-07-03 --to 2024-07-03`"
    )


def test_the_verdict_and_what_to_do_come_first_and_are_narrow(lake: LakeWriter) -> None:
    """A window of 1,280 pixels shows 36 characters, beside names of 19, and cuts the rest."""
    fill(lake, DAYS[:-1])
    lake.publish(*collected(DAYS[0], SYMBOLS[:1], failed={"ZZZ": "a long " * 20}))

    told = report_metadata(look(lake))

    assert list(told)[:2] == ["verdict", "what_to_do"]
    lines = [
        line
        for name in ("verdict", "what_to_do")
        for line in re.sub(r"[\\`*]", "", str(told[name].value)).splitlines()
    ]
    assert len(lines) > 6
    assert max(map(len, lines)) <= 34
    assert max(map(len, told)) <= 19


def test_more_to_do_than_can_be_shown_at_once_is_counted(lake: LakeWriter) -> None:
    fill(lake)
    for day in DAYS[::2]:  # of those in a row one command repairs all
        lake.publish(*collected(day, SYMBOLS[:1], failed={"ZZZ": "boom"}))
    found = look(lake)

    *lines, last = str(report_metadata(found)["what_to_do"].value).split("\n\n")

    assert 5 < len(lines) < len(found.steps)
    assert last == f"… and {len(found.steps) - len(lines)} more, see the report"


def test_years_and_the_newest_session_are_tables(lake: LakeWriter) -> None:
    fill(lake)

    told = report_metadata(look(lake))

    header, _, year = tables(told["years"].value)
    assert dict(zip(header, year, strict=True)) == {
        "year": "2024",
        "published": "44 of 44",
        "bars": "4,400",
        "success rate": "100 %",
        "per symbol": "up to date",
        "in one file": "up to date",
    }
    header, _, *rows = tables(told["newest_session"].value)
    assert header == ["2024-07-03", "newest", "change", "median of 20 before"]
    assert ["bars", "100", "none", "100"] in rows


def test_symbols_that_stopped_trading_are_listed(lake: LakeWriter) -> None:
    for number, day in enumerate(DAYS):
        lake.publish(*collected(day, SYMBOLS if number < 41 else SYMBOLS[25:]))

    told = report_metadata(look(lake))

    rows = tables(told["stopped_trading"].value)[2:]
    assert len(rows) == 25
    assert {row[0] for row in rows} == set(SYMBOLS[:25])
    assert told["symbols_stopped"] == 25


def test_restatements_of_a_later_collection_are_listed(lake: LakeWriter) -> None:
    fill(lake)
    lake.publish(*collected(DAYS[3], SYMBOLS[:99], no_print=SYMBOLS[99:], began=NOW))

    (row,) = tables(report_metadata(look(lake))["restatements"].value)[2:]

    assert row[1:4] == [str(DAYS[3]), SYMBOLS[99], "removed"]


def test_what_the_surroundings_know_is_in_the_page_and_the_metadata(lake: LakeWriter) -> None:
    fill(lake)
    asked = []

    def runs(instance: dg.DagsterInstance, now: datetime, besides: str) -> Runs:
        asked.append((type(instance), now, besides))
        failed = Run("0123456789", "daily_ticks_job", ["2024-07-03"], NOW, 1.0, "failed", "a\nb")
        return Runs(since=NOW - timedelta(days=30), newest=[failed], failed=[failed], failures=1)

    result = run(
        lake,
        following=lambda now: NextSession(date(2024, 7, 5), now + timedelta(hours=47)),
        latest_runs=runs,
    )

    told = metadata(result)
    assert asked == [(dg.DagsterInstance, NOW, result.run_id)]
    assert (
        told["failed_runs"].value == "- 2024-07-03 23:00 `01234567` daily_ticks_job 2024-07-03: a b"
    )
    assert told["runs_failed_month"].value == 1
    assert told["next_session"].value == "2024-07-05, due 2024-07-05 22:00\\\nUTC"
    assert re.match(r"[\d.]+ kB in 147 objects;", str(told["size_and_growth"].value))
    report = lake.store.get(layout.REPORT).decode()
    assert "daily_ticks_job <code>01234567</code>" in report
    assert "5\N{NO-BREAK SPACE}Jul\N{NO-BREAK SPACE}2024" in report


def test_new_symbols_and_impossible_prices_are_told(lake: LakeWriter) -> None:
    fill(lake)
    found = replace(
        look(lake),
        listed=ListChanges(DAYS[-2], DAYS[-1], 2, new=[Listed("NEW", "NYSE", "New Inc.")]),
        price_warnings=[PriceWarning(DAYS[-1], "1 of 2 bars has impossible prices", ["A"])],
    )

    told = report_metadata(found)

    assert told["list_of_assets"].value == "1 new: NEW"
    assert [told[f"symbols_{kind}"] for kind in ("new", "vanished", "renamed")] == [1, 0, 0]
    (row,) = tables(told["impossible_prices"].value)[2:]
    assert row == [str(DAYS[-1]), "A", "1 of 2 bars has impossible prices"]


def test_a_lake_of_another_source_is_left_alone(tmp_path: Path) -> None:
    lake = new_lake(str(tmp_path / "lake"), "alpaca/sip")
    result = run(lake)
    assert not result.success
    failed = result.failure_data_for_node("lake_report")
    assert failed
    assert failed.error
    assert failed.error.cause
    assert WrongLakeError.__name__ in str(failed.error.cause.cls_name)
    assert lake.store.list("reports") == []


def test_the_asset_explains_itself_in_the_graph() -> None:
    asset = build_lake_report(DAYS[0])
    spec = asset.specs_by_key[KEY]
    assert {dependency.asset_key.to_user_string() for dependency in spec.deps} == {
        "daily_ticks",
        "symbol_year_ticks",
        "year_ticks",
        "adjustment_factors",
    }
    assert spec.kinds == {"python", "html"}
    assert spec.group_name == "ticks"
    assert spec.owners
    assert "reports/latest.html" in str(spec.description)
    assert asset.partitions_def is None
