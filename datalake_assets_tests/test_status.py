"""`datalake status` in the terminal: what it draws, and that it says what the report says.

Not here: what is true of a lake (`overview/test_numbers`), the command as a person runs it
(`test_cli`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from datalake_assets import market_calendar
from datalake_assets.cli import terminal
from datalake_assets.cli.status import as_dict, show
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview.numbers import NextSession, Overview, PriceWarning, SessionState
from datalake_assets.overview.universe import ListChanges, Listed
from datalake_assets_tests.overview.lakes import (
    DAYS,
    NOW,
    SYMBOLS,
    collected,
    look,
    new_lake,
    publish,
)

YEAR = market_calendar.sessions(date(2024, 1, 2), date(2024, 12, 31))
Print = Callable[[Overview], list[str]]


@pytest.fixture
def shown_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Print:
    """The lines that a terminal of 80 columns shows of an overview."""
    monkeypatch.setattr(terminal.out, "width", 80)

    def lines(found: Overview) -> list[str]:
        show(found)
        return capsys.readouterr().out.splitlines()

    return lines


def lake_with(days: list[date] = DAYS) -> LakeWriter:
    lake = new_lake()
    publish(lake, days)
    SymbolYears(lake.store).publish(2024)
    YearFiles(lake.store).publish(2024)
    return lake


def of(states: dict[date, SessionState]) -> Overview:
    """An overview with these states."""
    return replace(look(lake_with()), states=states)


def weeks(lines: list[str], year: int = 2024) -> str:
    (line,) = [line for line in lines if line.startswith(f"{year} ")]
    return line[5:58]


def test_a_good_lake_says_so_and_nothing_to_type(shown_lines: Print) -> None:
    lines = shown_lines(look(lake_with()))
    assert lines[0] == "memory://  test"
    assert lines[1].startswith("The lake is good. All 44 sessions up to 2024-07-03")
    assert "→" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("wrong", "sign"),
    [
        ({}, "█"),
        ({1: SessionState.FLAWED}, "▓"),
        ({1: SessionState.FLAWED, 2: SessionState.MISSING}, "▒"),
        (dict.fromkeys(range(5), SessionState.MISSING), "×"),
        ({1: SessionState.MISSING, 2: SessionState.INCOMPLETE}, "!"),
        (dict.fromkeys(range(5), SessionState.NOT_COLLECTED), "·"),
        (dict.fromkeys(range(4), SessionState.NOT_COLLECTED), "█"),
        (dict.fromkeys(range(5), SessionState.NOT_DUE), "·"),
    ],
)
def test_a_week_is_as_bad_as_its_worst_session(
    wrong: dict[int, SessionState], sign: str, shown_lines: Print
) -> None:
    states = dict.fromkeys(YEAR, SessionState.PUBLISHED)
    week = [day for day in YEAR if date(2024, 3, 11) <= day <= date(2024, 3, 15)]
    states |= {week[at]: state for at, state in wrong.items()}

    lines = shown_lines(of(states))

    assert weeks(lines) == "█" * 10 + sign + "█" * 42
    (legend,) = [line for line in lines if line.startswith("█ all published")]
    assert set(re.findall(r"(?:^|  )(\S) ", legend)) == {"█", sign}


def test_a_year_with_a_day_in_its_54th_week_is_no_error(shown_lines: Print) -> None:
    days = market_calendar.sessions(date(2012, 1, 3), date(2012, 12, 31))
    found = look(lake_with())
    (year,) = found.years
    states = dict.fromkeys(days, SessionState.PUBLISHED)
    years = [replace(year, year=2012)]
    lines = shown_lines(replace(found, states=states, sessions={}, years=years))
    assert weeks(lines, 2012) == " " + "█" * 52


def test_all_but_what_is_to_be_copied_fits_80_columns(shown_lines: Print) -> None:
    lake = lake_with(DAYS[:20])
    lake.publish(*collected(DAYS[22], SYMBOLS[:90], failed=dict.fromkeys(SYMBOLS[90:], "x")))

    lines = shown_lines(look(lake, first=date(2011, 1, 3)))

    assert len([line for line in lines if re.match(r"20[12]\d [^a-z]", line)]) == 14
    long = [line for line in lines if len(line) > 80]
    assert all("→" in line or line.startswith(("requests", "█")) for line in long)


def test_the_newest_session_stands_beside_the_median_of_those_before(shown_lines: Print) -> None:
    lake = lake_with(DAYS[:-1])
    lake.publish(*collected(DAYS[-1], SYMBOLS[:50], no_print=SYMBOLS[50:]))

    lines = shown_lines(look(lake))

    (head,) = [line.split() for line in lines if "median" in line]
    assert head == ["2024-07-03", "newest", "median", "of", "20", "change"]
    (bars,) = [line.split() for line in lines if line.startswith("  bars")]
    assert bars == ["bars", "50", "100", "-50.0", "%", "█" * 13 + "▁"]


def test_what_stopped_trading_and_what_was_restated_is_told_in_lines(shown_lines: Print) -> None:
    lake = new_lake()
    for number, day in enumerate(DAYS):
        lake.publish(*collected(day, SYMBOLS if number < 41 else SYMBOLS[14:]))
    again = NOW + timedelta(hours=1)
    lake.publish(*collected(DAYS[-1], SYMBOLS[18:], began=again))

    text = "\n".join(shown_lines(look(lake)))

    assert "stopped trading: 14 traded in each of 5 sessions but in none of the newest 3: " in text
    assert " and 2 more\n" in text
    assert re.search(rf"removed: {SYMBOLS[14]} of {DAYS[-1]}, 2024-07-04 00:00 UTC: close", text)
    assert text.count("removed: ") == 3
    assert "… and earlier ones" in text
    told = "requests on 2024-07-04 (UTC): 10 in 0.5 minutes of collecting, 10% of the 200 per"
    assert f"{told} minute that ALPACA_REQUESTS_PER_MINUTE allows" in text


def test_the_next_session_the_list_and_impossible_prices_are_told_in_lines(
    shown_lines: Print,
) -> None:
    names = [f"N{number}" for number in range(20)]
    found = replace(
        look(lake_with()),
        following=NextSession(date(2024, 7, 5), datetime(2024, 7, 5, 22, tzinfo=UTC)),
        listed=ListChanges(DAYS[-2], DAYS[-1], 2, renamed=[Listed("FB", "", "", "META")]),
        price_warnings=[
            PriceWarning(DAYS[-1], "20 of 100 bars have impossible prices", names),
            *(PriceWarning(day, "1 of 100 bars has impossible prices", None) for day in DAYS[:2]),
        ],
    )

    lines = shown_lines(found)

    text = " ".join(lines)
    assert "next session: 2024-07-05, due 2024-07-05 22:00 UTC" in lines
    assert "list of assets, 2024-07-02 to 2024-07-03: 1 renamed: FB to META" in lines
    assert "2024-07-03: 20 of 100 bars have impossible prices: N0, N1, " in text
    assert "N11" in text
    assert "N12" not in text
    assert "2024-05-01: 1 of 100 bars has impossible prices" in lines
    assert "… and 1 earlier session with impossible prices" in lines
    told = json.loads(json.dumps(as_dict(found)))
    assert told["next_session"] == {"session": "2024-07-05", "due": "2024-07-05T22:00:00+00:00"}
    assert told["list_of_assets"]["renamed"][0]["now"] == "META"
    assert told["price_warnings"][0]["symbols"] == names


def test_many_things_to_do_are_cut_and_counted(shown_lines: Print) -> None:
    lake = lake_with()
    for day in DAYS[:30:2]:  # of those in a row one command repairs all
        lake.publish(*collected(day, failed={"ZZZ": "x"}))
    found = look(lake)
    lines = shown_lines(found)
    told = [line for line in lines if "→" in line]
    assert told == [f"{step.why}  →  datalake {step.command}" for step in found.steps[:10]]
    assert lines[-1] == f"… and {len(found.steps) - 10} more: datalake status --json"


def test_json_has_all_that_the_terminal_shows_and_more() -> None:
    lake = lake_with(DAYS[:-2])
    lake.publish(*collected(DAYS[-1], SYMBOLS[:50], no_print=SYMBOLS[50:]))
    found = look(lake)

    told = json.loads(json.dumps(as_dict(found)))

    assert (told["health"], told["headline"], told["sentence"]) == (
        "bad",
        found.headline,
        found.sentence,
    )
    assert told["now"] == "2024-07-03T23:00:00+00:00"
    assert told["sessions_by_state"]["published"] == told["sessions_published"] == 43
    assert told["sessions_by_state"]["missing"] == 1
    assert told["to_do"] == [
        {"why": step.why, "command": f"datalake {step.command}"} for step in found.steps
    ]
    assert told["years"] == [
        {
            "year": 2024,
            "due": 44,
            "published": 43,
            "bars": 4250,
            "answered": 1.0,
            "to_retry": 0,
            "symbol_years_behind": 1,
            "symbol_years_whole": True,
            "symbol_years_follow": None,
            "year_file_behind": 1,
        }
    ]
    assert told["newest"]["session"] == "2024-07-03"
    assert told["newest"]["measures"][0] == {
        "name": "bars",
        "unit": "count",
        "newest": 50,
        "median_before": 100,
        "sessions_before": 20,
    }
    assert told["requests"]["requests"] == 10
    assert told["stopped_trading"] == []
    assert told["restatements"] == []


def test_json_of_an_empty_lake_has_the_same_keys() -> None:
    empty, full = as_dict(look(new_lake())), as_dict(look(lake_with()))
    assert json.loads(json.dumps(empty)).keys() == full.keys()
    assert (empty["newest"], empty["stopped_trading"], empty["requests"]) == (None, None, None)
