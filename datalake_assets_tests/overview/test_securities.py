"""Securities and actions in the overview: on the page, in the terminal, in Dagster's metadata."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from datalake_assets.assets.lake_report import report_metadata
from datalake_assets.cli.status import as_dict, show
from datalake_assets.cli.terminal import out
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview import page
from datalake_assets.overview.numbers import Health, LakeStatus, Overview
from datalake_assets.overview.securities import KNOWN, SecurityEvent, security_news
from datalake_assets.securities.decisions import Decision, decide
from datalake_assets.storage import layout
from datalake_assets_tests.actions.sayings import action, split
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.files import session_bytes
from datalake_assets_tests.overview.lakes import look, new_lake
from datalake_assets_tests.overview.test_page import Page
from datalake_assets_tests.securities.bars import sessions
from datalake_assets_tests.securities.deriving import LONG_AGO, derive, say

DAYS = sessions("2024-01-02", "2024-03-28")
SINCE = DAYS[-20]
RENAMED, SPLIT, WRONG, PAID, BEGUN = DAYS[-19], DAYS[-17], DAYS[-15], DAYS[-8], DAYS[-5]
FELL, ENDED = DAYS[-6], DAYS[-9]
NOW = datetime(2024, 3, 28, 23, tzinfo=UTC)


def prices(day: date) -> dict[str, float]:
    price = {
        "FB" if day < RENAMED else "META": 100.0 if day < SPLIT else 25.0,
        "LOST": 90.0 if day < FELL else 30.0,
    }
    if day < ENDED:
        price["GONE"] = 50.0
    if day >= BEGUN:
        price["NEW"] = 12.0
    return price


@pytest.fixture(scope="module")
def lake() -> LakeWriter:
    """FB becomes META and splits; a split is listed that never was, and another is missing."""
    lake = new_lake()
    for day in DAYS:
        bars = [
            bar(symbol, day, open=price, high=price, low=price, close=price)
            for symbol, price in sorted(prices(day).items())
        ]
        lake.store.put(layout.session_key(day), session_bytes(day, table(bars)))
    say(
        lake.store,
        LONG_AGO,
        action("r", "FB", RENAMED, kind="name_changes", new_symbol="META"),
        action("m", "GONE", ENDED, kind="cash_mergers", cash=51.0),
        split("s", "META", SPLIT, 4.0, 1.0),
        split("w", "META", WRONG, 3.0, 1.0),
        action("d", "META", PAID, cash=0.5),
        action("old", "META", DAYS[5], cash=0.5),
    )
    derive(lake.store)
    return lake


def looked(lake: LakeWriter) -> Overview:
    return look(lake, first=DAYS[0], due=DAYS[-1], now=NOW)


def test_what_happened_of_late_is_told_newest_first(lake: LakeWriter) -> None:
    news = looked(lake).securities
    assert news is not None
    assert (news.since, news.derived, news.behind) == (SINCE, DAYS[-1], False)
    assert [(one.day, one.symbol, one.what) for one in news.changed] == [
        (BEGUN, "NEW", "first session"),
        (DAYS[-10], "GONE", "merger, $51 a share"),
        (DAYS[-20], "FB", "rename, continues as META"),
    ]
    why = "it would open at -66.7%, and it opened at +0.0%"
    assert [(one.day, one.what) for one in news.splits] == [
        (WRONG, f"split 3:1, not applied: {why}"),
        (SPLIT, "split 4:1, confirmed"),
    ]
    assert news.dividends == 1
    assert news.largest == [SecurityEvent(PAID, "META", "$0.5 a share, 2.00% of the price")]
    assert [one.decide for one in news.undecided] == ["datalake decide accept w, or ignore w"]
    assert [one.symbol for one in news.suspected] == ["LOST"]
    assert news.suspected[0].decide.startswith("datalake decide add split LOST")


def test_the_lake_is_good_while_decisions_wait_and_they_are_told_last(lake: LakeWriter) -> None:
    found = looked(lake)
    told = [(step.why, step.command) for step in found.decisions]
    assert told == [("2 findings wait for your decision", "decide")]
    assert "decide" not in [step.command for step in found.steps]
    assert as_dict(found)["to_do"][-1]["command"] == "datalake decide"


def test_tables_that_are_behind_are_to_be_derived(lake: LakeWriter) -> None:
    for year in {day.year for day in DAYS}:
        SymbolYears(lake.store).publish(year)
        YearFiles(lake.store).publish(year)
    found = looked(lake)
    assert found.securities is not None
    late = replace(found, securities=replace(found.securities, derived=DAYS[-2]))
    (step,) = [step for step in late.steps if step.command == "securities"]
    assert str(DAYS[-2]) in step.why
    assert "securities and factors are out of date" in late.sentence
    assert late.health is not Health.GOOD
    assert (found.status, late.status) == (LakeStatus.WHOLE, LakeStatus.LAGGING)


def test_damaged_tables_are_told_and_hide_nothing(lake: LakeWriter) -> None:
    broken = new_lake()
    for key in lake.store.list("data"):
        broken.store.put(key, lake.store.get(key))
    broken.store.put(layout.FACTORS_TABLE, b"PAR1")
    found = looked(broken)
    assert found.securities is None
    assert [each.step.command for each in found.damaged] == ["securities"]
    assert found.published == len(DAYS)


def test_a_lake_without_tables_says_nothing_of_securities() -> None:
    assert security_news(new_lake().store, DAYS) is None
    assert security_news(new_lake().store, []) is None


@pytest.mark.parametrize(("before", "told"), [(KNOWN - 1, 0), (KNOWN, 1)])
def test_a_first_bar_is_a_new_security_once_the_lake_knows_enough_sessions(
    before: int, told: int
) -> None:
    lake, days = new_lake(), DAYS[: KNOWN + 2]
    for number, day in enumerate(days):
        rows = [bar("A", day)] + ([bar("B", day)] if number >= before else [])
        lake.store.put(layout.session_key(day), session_bytes(day, table(rows)))
    derive(lake.store)
    news = security_news(lake.store, days)
    assert news is not None
    assert len(news.changed) == told


def test_the_page_names_each_with_what_to_type_and_stays_whole(lake: LakeWriter) -> None:
    shown = Page(page.render(looked(lake)))
    assert not shown.unbalanced
    for text in (
        "Securities and actions",
        "datalake decide accept w, or ignore w",
        "rename, continues as META",
        "split 4:1, confirmed",
        "1 cash dividend,",
        "2 findings wait for your decision",
    ):
        assert text in shown.text, text


def test_the_page_of_a_lake_without_tables_has_no_such_section() -> None:
    assert "Securities and actions" not in page.render(looked(new_lake()))


def test_the_terminal_says_it_in_two_lines(lake: LakeWriter) -> None:
    with out.capture() as captured:
        show(looked(lake))
    told = captured.get()
    (line,) = [line for line in told.splitlines() if line.startswith("securities since")]
    assert line.startswith(f"securities since {SINCE}: META split 3:1, not applied: ")
    assert line.endswith("1 dividend")
    assert "unexplained: LOST" in told
    assert "2 findings wait for your decision  →" in told


def test_dagster_shows_and_plots_it(lake: LakeWriter) -> None:
    told = report_metadata(looked(lake))
    assert "datalake decide accept w" in told["actions_to_decide"].value
    assert "split" in told["newest_splits"].value
    assert (told["decisions_waiting"], told["jumps_unexplained"]) == (1, 1)


def test_what_was_decided_does_not_wait(lake: LakeWriter) -> None:
    decided = new_lake()
    for key in lake.store.list("data"):
        decided.store.put(key, lake.store.get(key))
    decide(
        decided.store,
        Decision("ignore", "ann", NOW, "never was", subject="w"),
        Decision("ignore", "ann", NOW, "a crash", symbol="LOST", day=FELL),
    )
    derive(decided.store)
    assert looked(decided).decisions == []
