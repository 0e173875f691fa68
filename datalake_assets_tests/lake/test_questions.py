"""What an analyst asks of `Lake`: days, columns, defaults, lists, and what its help says.

Not here: which bars are the answer (`test_reader`, `test_security_reader`).
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import datalake_assets
from datalake_assets import Lake, NotInLakeError
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.lake.reader import as_day
from datalake_assets.lake.security_reader import BARS
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage.store import open_store
from datalake_assets_tests.lake.test_reader import DAYS as FEW_DAYS
from datalake_assets_tests.lake.test_reader import fill
from datalake_assets_tests.securities.market import DAYS, lake_of

pytestmark = pytest.mark.filterwarnings("ignore::datalake_assets.SecuritiesWarning")


@pytest.fixture(scope="module")
def lake() -> Lake:
    return lake_of(open_store("memory://"))


# --- days -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "day",
    [
        date(2024, 7, 3),
        "2024-07-03",
        datetime(2024, 7, 3),  # noqa: DTZ001 - as pandas has days
        np.datetime64("2024-07-03"),
        np.datetime64("2024-07-03T00:00:00.000000000"),
        pd.Timestamp("2024-07-03"),
        pd.Timestamp("2024-07-03", tz="America/New_York"),
        pd.DatetimeIndex(["2024-07-03"]).to_numpy()[0],
    ],
    ids=lambda day: f"{type(day).__name__} {day}",
)
def test_a_day_is_a_date_its_text_or_what_numpy_and_pandas_have_for_it(day: Any) -> None:
    found = as_day(day)

    assert (type(found), found) == (date, date(2024, 7, 3))


@pytest.mark.parametrize(
    "day",
    [
        np.datetime64("2024-07-03T00:00:01"),
        np.datetime64("2024-07-03T09", "h"),
        np.datetime64("2024-07"),
        np.datetime64("2024"),
        np.datetime64("2024-07-01", "W"),
        np.datetime64("NaT"),
        np.datetime64("20000-01-01"),
        pd.NaT,
        pd.Timestamp("2024-07-03 09:30"),
        20240703,
        np.int64(20240703),
    ],
    ids=str,
)
def test_what_is_no_day_is_refused(day: Any) -> None:
    with pytest.raises(ValueError, match=r"is no day|is an instant"):
        as_day(day)


# --- what is no argument --------------------------------------------------------------------------

_WORSE: list[Any] = [5, 2.5, True, "rubbish", "", b"META", object(), [None], [], {}, float("nan")]
_ASKED: dict[str, Callable[[Lake, Any], object]] = {
    "open": lambda lake, given: Lake.open(given),
    "bars": lambda lake, given: lake.bars(given),
    "bars start": lambda lake, given: lake.bars("META", given),
    "bars end": lambda lake, given: lake.bars("META", None, given),
    "bars adjustment": lambda lake, given: lake.bars("META", adjustment=given),
    "bars known_at": lambda lake, given: lake.bars("META", known_at=given),
    "bars asof": lambda lake, given: lake.bars("META", asof=given),
    "bars columns": lambda lake, given: lake.bars("META", columns=given),
    "panel": lambda lake, given: lake.panel("close", given),
    "panel field": lambda lake, given: lake.panel(given),
    "returns": lambda lake, given: lake.returns(given),
    "returns known_at": lambda lake, given: lake.returns("META", known_at=given),
    "security": lambda lake, given: lake.security(given),
    "security asof": lambda lake, given: lake.security("META", given),
    "session": lambda lake, given: lake.session(given),
    "symbols": lambda lake, given: lake.symbols(given),
    "universe": lambda lake, given: lake.universe(given),
    "explain": lambda lake, given: lake.explain(given, DAYS[0]),
    "explain day": lambda lake, given: lake.explain("META", given),
    "missing": lambda lake, given: lake.missing(given),
    "coverage": lambda lake, given: lake.coverage(given),
    "known": lambda lake, given: lake.known(given, datetime.now(UTC)),
    "known at": lambda lake, given: lake.known(DAYS[0], given),
}


@pytest.mark.parametrize("asked", _ASKED)
@pytest.mark.parametrize("given", _WORSE, ids=lambda given: repr(given).split(" at ")[0])
def test_what_is_no_argument_is_an_error_of_the_lakes_own(
    asked: str, given: Any, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no lake is
    if (asked, given) == ("symbols", 5):
        assert lake.symbols(5) == []  # a year of which the lake has nothing
        return
    with pytest.raises((ValueError, NotInLakeError)) as refused:
        _ASKED[asked](lake, given)

    assert type(refused.value) in (ValueError, NotInLakeError)
    assert len(str(refused.value)) > 20


@pytest.mark.parametrize("year", [0, -1, 99_999])
def test_a_year_without_sessions_has_no_symbols(year: int, lake: Lake) -> None:
    assert lake.symbols(year) == []
    assert lake.symbols(np.int64(2023)) == lake.symbols(2023) != []  # type: ignore[arg-type]


def test_the_first_and_the_last_day_of_the_calendar_may_be_asked_for(lake: Lake) -> None:
    every = lake.returns("META")
    assert lake.returns("META", date.min, date.max).equals(every)
    assert lake.bars("META", date.min, date.max).num_rows == lake.bars("META").num_rows


@pytest.mark.parametrize(
    "at",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_an_instant_that_utc_does_not_have_is_refused(at: datetime, lake: Lake) -> None:
    with pytest.raises(ValueError, match="is no instant: it is outside the years 1 to 9999"):
        lake.bars("META", known_at=at)


def test_every_question_takes_numpy_days(lake: Lake) -> None:
    first, last = (np.datetime64(day) for day in (DAYS[10], DAYS[12]))
    days = [day for day in DAYS if DAYS[10] <= day <= DAYS[12]]

    assert lake.bars("META", first, last, asof=last)["session"].to_pylist() == days
    assert lake.panel("close", "META", first, last)["session"].to_pylist() == days
    assert lake.returns("META", first, last)["session"].to_pylist() == days
    assert lake.security("META", first) == lake.security("META", DAYS[10])
    assert lake.session(first).ledger.session == DAYS[10]
    assert lake.explain("META", first) == lake.explain("META", DAYS[10])
    assert list(lake.coverage(first, last).sessions) == days
    assert lake.missing("META", first, last).num_rows == 0


# --- columns and symbols --------------------------------------------------------------------------


@pytest.mark.parametrize("adjustment", ["raw", "all"])
@pytest.mark.parametrize(
    "columns", [["close"], ["volume", "symbol", "security"], ["session", "vwap"], BARS.names]
)
def test_exactly_the_columns_asked_for_come_in_their_order(
    lake: Lake, columns: list[str], adjustment: str
) -> None:
    whole = lake.bars(["FB", "AA"], adjustment=adjustment)

    assert lake.bars(["FB", "AA"], adjustment=adjustment, columns=columns).equals(
        whole.select(columns)
    )


def test_one_column_is_given_by_its_name(lake: Lake) -> None:
    assert lake.bars("FB", columns="close").column_names == ["close"]


@pytest.mark.parametrize("follow", [True, False])
def test_columns_of_a_lake_without_securities(follow: bool) -> None:
    store = open_store("memory://")
    fill(store)
    bars = Lake(store).bars("ZM", follow=follow, columns=["session", "symbol"])

    assert bars.column_names == ["session", "symbol"]
    assert bars["session"].to_pylist() == FEW_DAYS
    wanted = ValueError if not follow else NotInLakeError
    with pytest.raises(wanted, match="security"):
        Lake(store).bars("ZM", follow=follow, columns=["security"])


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["price"], "bars have no column 'price': give one or more of symbol, session"),
        ([], "give one or more, each once, or None for all"),
        (["close", "close"], "give one or more, each once"),
    ],
)
def test_columns_that_can_t_be_are_refused(lake: Lake, columns: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        lake.bars("FB", columns=columns)


def test_without_symbols_all_are_meant(lake: Lake) -> None:
    assert lake.bars().equals(lake.bars(None))
    assert lake.bars().num_rows > lake.bars("FB").num_rows
    assert lake.panel("close").equals(lake.panel("close", None))
    assert lake.returns().equals(lake.returns(None))


@pytest.mark.parametrize("question", ["bars", "panel", "returns"])
def test_what_comes_as_datetime64_can_be_resampled(lake: Lake, question: str) -> None:
    asked: dict[str, Callable[[], pa.Table]] = {
        "bars": lambda: lake.bars("AA", columns=["session", "close"]),
        "panel": lambda: lake.panel("close", "AA"),
        "returns": lambda: lake.returns("AA"),
    }
    frame = asked[question]().to_pandas(date_as_object=False).set_index("session")

    monthly = frame.resample("MS").size()
    assert monthly.to_dict() == {
        pd.Timestamp(month): count
        for month, count in frame.groupby(frame.index.strftime("%Y-%m-01")).size().items()
    }
    assert len(monthly) == 2


# --- the list of assets ---------------------------------------------------------------------------


@pytest.fixture
def listed() -> Lake:
    """A lake with lists of two days."""
    writer = LakeWriter(open_store("memory://"))
    for day, symbols in ((date(2024, 6, 3), "AB"), (date(2024, 6, 10), "BC")):
        rows = [{"symbol": symbol, "status": "active"} for symbol in symbols]
        writer.write_universe(day, pa.Table.from_pylist(rows, UNIVERSE))
    return Lake(writer.store)


@pytest.mark.parametrize(
    ("day", "symbols"),
    [("2024-06-03", "AB"), ("2024-06-09", "AB"), ("2024-06-10", "BC"), (None, "BC")],
)
def test_the_list_of_a_day_is_the_one_taken_last_by_then(
    listed: Lake, day: str | None, symbols: str
) -> None:
    assert listed.universe(day)["symbol"].to_pylist() == list(symbols)


def test_a_day_before_the_first_list_has_none(listed: Lake) -> None:
    with pytest.raises(NotInLakeError, match=r"first list .* is of 2024-06-03, .* of 2024-06-02"):
        listed.universe("2024-06-02")
    with pytest.raises(NotInLakeError, match="no list of assets: .* datalake collect"):
        Lake(open_store("memory://")).universe()


# --- what the class shows -------------------------------------------------------------------------


def questions() -> dict[str, Callable[..., Any]]:
    """The methods of `Lake`."""
    found = inspect.getmembers(Lake, inspect.isroutine)
    return {name: method for name, method in found if not name.startswith("_")}


def test_the_class_of_an_analyst_reads_and_nothing_else() -> None:
    writing = {name for name, _ in inspect.getmembers(LakeWriter, inspect.isfunction)}
    shared = {"sessions", "source", "universe"}

    assert {name for name in writing & questions().keys() if not name.startswith("_")} == shared


@pytest.mark.parametrize("name", sorted(questions()))
def test_the_help_of_a_question_names_each_argument_what_comes_and_what_it_raises(
    name: str,
) -> None:
    told = inspect.getdoc(questions()[name])
    assert told
    arguments = inspect.signature(questions()[name]).parameters.keys() - {"self"}
    if len(arguments) > 2:
        described = told.partition("Args:\n")[2].partition("\nReturns:")[0]
        assert [each for each in arguments if f"    {each}: " not in described] == []
        assert "Returns:" in told
    if arguments:
        assert "Raises:" in told
    assert "As there" not in told


def test_what_the_help_says_is_raised_or_warned_of_can_be_imported_beside_the_class() -> None:
    told = "\n".join(inspect.getdoc(question) or "" for question in questions().values())
    named = {
        word.strip(",:") for word in told.split() if word.strip(",:").endswith(("Error", "Warning"))
    }

    assert {"NotInLakeError", "BrokenFileError", "HoldersWarning", "StoreError"} <= named
    for name in named - {"ValueError"}:
        assert isinstance(getattr(datalake_assets, name), type), name


def test_every_exported_name_is_there_and_is_listed() -> None:
    names = set(datalake_assets.__all__)

    assert all(hasattr(datalake_assets, name) for name in names)
    assert names <= set(dir(datalake_assets))
    with pytest.raises(AttributeError, match="has no attribute 'Lakes'"):
        _ = datalake_assets.Lakes


def test_importing_the_package_imports_nothing_of_it_until_a_name_is_asked_for() -> None:
    script = (
        "import json, sys, datalake_assets\n"
        "before = [n for n in sys.modules if n.startswith('datalake_assets.') or n == 'pyarrow']\n"
        "datalake_assets.WrongLakeError\n"
        "print(json.dumps([before, 'datalake_assets.lake.lake' in sys.modules]))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert json.loads(told.stdout) == [[], False]
