"""The export for LEAN by a reader that follows LEAN's documentation and source.

LEAN's engine is not run: it needs .NET. The reader here does what the engine does with the files:
it maps a security to its ticker of each day (`MapFile`), scales prices by the factor of the first
row that is not before the day (`CorporateFactorProvider.GetPriceFactor`), and takes splits and
dividends from rows that differ (`GetSplitsAndDividends`).
"""

import io
import zipfile
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.exporters.lean import _scaled
from datalake_assets.exporters.run import export
from datalake_assets.lake.lake import Lake
from datalake_assets_tests.exporters.market import (
    AFTER_NO_BAR,
    DAYS,
    DEAD,
    DEAD_LATER,
    LATER,
    LONG,
    LONG_LATER,
    MERGED,
    RENAME,
    REUSED,
    REVERSE,
    SPIN_OFF,
    SPLIT,
    odd,
    told,
)

FOREVER = date(2050, 12, 31)


@dataclass(frozen=True)
class Bar:
    day: date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int


class Data:
    """LEAN's `Data` folder, as the engine reads it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "equity" / "usa"

    def lines(self, kind: str, name: str) -> list[list[str]]:
        text = (self.root / kind / f"{name}.csv").read_text()
        return [line.split(",") for line in text.splitlines()]

    def mapped(self, name: str) -> list[tuple[date, str]]:
        return [(as_day(line[0]), line[1]) for line in self.lines("map_files", name)]

    def factors(self, name: str) -> list[tuple[date, Decimal, Decimal, Decimal]]:
        rows = self.lines("factor_files", name)
        return [(as_day(d), Decimal(p), Decimal(s), Decimal(r)) for d, p, s, r in rows]

    def daily(self, ticker: str) -> list[Bar]:
        with zipfile.ZipFile(self.root / "daily" / f"{ticker}.zip") as file:
            assert file.namelist() == [f"{ticker}.csv"]
            lines = io.TextIOWrapper(file.open(f"{ticker}.csv"), "utf-8").read().splitlines()
        found = []
        for line in lines:
            time, *prices, volume = line.split(",")
            day = datetime.strptime(time, "%Y%m%d %H:%M").date()  # noqa: DTZ007
            found.append(Bar(day, *(Decimal(price) / 10_000 for price in prices), int(volume)))
        return found

    def raw(self, name: str) -> list[Bar]:
        """A security's bars over all of its tickers."""
        mapped = self.mapped(name)
        found, since = [], mapped[0][0]
        for until, ticker in mapped[1:]:
            found += [bar for bar in self.daily(ticker) if since <= bar.day <= until]
            since = date.fromordinal(until.toordinal() + 1)
        return found

    def scale(self, name: str, day: date) -> Decimal:
        """What a price of the day is multiplied by."""
        return next(price * split for at, price, split, _ in self.factors(name) if at >= day)

    def events(self, name: str) -> dict[date, tuple[Decimal, Decimal]]:
        """The dividend for a share of the day before, and the split factor, by their day."""
        rows = self.factors(name)
        found = {}
        for this, ahead in pairwise(rows):
            paid = this[3] - this[3] * this[1] / ahead[1]
            if this[1] != ahead[1] or this[2] != ahead[2]:
                day = market_calendar.sessions(this[0], FOREVER.replace(year=2025))[1]
                found[day] = paid, this[2] / ahead[2]
        return found


def as_day(text: str) -> date:
    return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007


@pytest.fixture(scope="module")
def data(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder: Path = tmp_path_factory.mktemp("lean")
    export("lean", lake, folder)
    return Data(folder)


def test_a_renamed_security_is_mapped_to_each_of_its_tickers(data: Data) -> None:
    assert data.mapped("lng.b") == [
        (DAYS[0], "long"),
        (DAYS[RENAME - 1], "long"),
        (FOREVER, "lng.b"),
    ]


def test_a_security_that_ended_is_delisted_on_its_last_session(data: Data) -> None:
    assert data.mapped("dead.1") == [(DAYS[0], "dead"), (DAYS[MERGED], "dead")]
    assert data.mapped("long") == [(DAYS[LATER], "long"), (FOREVER, "long")]


@pytest.mark.parametrize(
    ("name", "share"),
    [("lng.b", LONG), ("long", LONG_LATER), ("dead.1", DEAD), ("dead", DEAD_LATER)],
)
def test_bars_are_those_that_traded(data: Data, name: str, share: Any) -> None:
    bars = data.raw(name)
    rows = share.rows()

    assert [bar.day for bar in bars] == [row["session"] for row in rows]
    for field in ("open", "high", "low", "close", "volume"):
        found = [float(getattr(bar, field)) for bar in bars]
        assert found == [row[field] for row in rows], field


def test_prices_of_five_decimals_lose_nothing(data: Data) -> None:
    assert [float(bar.close) for bar in data.raw("odd")] == [row["close"] for row in odd()]


@given(st.floats(1e-6, 1e6))
def test_no_price_loses_anything(price: float) -> None:
    (text,) = (str(value) for value in _scaled(np.array([price])).to_pylist())

    assert not set("einf") & set(text)
    assert float(Decimal(text) / 10_000) == price


def test_no_number_has_an_exponent_which_lean_takes_for_infinity(data: Data) -> None:
    for path in data.root.glob("*_files/*.csv"):
        for line in path.read_text().splitlines():
            assert not set(line.partition(",")[2].partition(",")[2]) & set("einf"), path


def test_adjusted_prices_are_those_of_the_lake(data: Data, lake: Lake) -> None:
    rows = lake.bars("LNG.B", adjustment="all")
    found = [float(bar.close * data.scale("lng.b", bar.day)) for bar in data.raw("lng.b")]

    assert found == pytest.approx(rows["close"].to_pylist(), rel=1e-12)


def test_splits_and_payments_come_on_their_days(data: Data) -> None:
    events = data.events("lng.b")

    splits = {day: float(split) for day, (_, split) in events.items() if split != 1}
    assert splits == pytest.approx({DAYS[SPLIT]: 1 / 4, DAYS[REVERSE]: 10, DAYS[RENAME]: 1 / 3})
    paid = {day: float(cash) for day, (cash, _) in events.items() if cash}
    told = {DAYS[at]: amount for at, amount in LONG.pays.items()}
    told[DAYS[REVERSE]] /= 10  # LEAN pays before it splits
    assert paid == pytest.approx(told, rel=1e-12)


def test_an_action_after_a_session_without_a_bar_stands_on_that_session(data: Data) -> None:
    """LEAN looks for it on every trading day, bar or not; the price is the last one."""
    row = next(row for row in data.factors("lng.b") if row[0] == DAYS[AFTER_NO_BAR - 1])

    closes = {row["session"]: row["close"] for row in LONG.rows()}
    assert float(row[3]) == closes[DAYS[AFTER_NO_BAR - 2]]


def test_holding_raw_shares_and_reinvesting_earns_what_the_lake_tells(
    data: Data, lake: Lake
) -> None:
    """In raw mode: LEAN pays in dollars and splits the shares. Here without rounding to cents."""
    events, shares = data.events("lng.b"), Decimal(1)
    bars = data.raw("lng.b")
    for bar in bars[1:]:
        cash, split = events.get(bar.day, (Decimal(0), Decimal(1)))
        price = bar.open if bar.day == DAYS[SPIN_OFF] else bar.close
        shares = shares / split + shares * cash / price
    grown = float(shares * bars[-1].close / bars[0].close)

    assert grown == pytest.approx(LONG.earned(0, len(DAYS) - 1), rel=1e-12)
    assert grown == pytest.approx(told(lake, "LNG.B", DAYS[0], DAYS[-1]), rel=1e-12)


def test_of_two_with_one_ticker_the_older_has_a_number(data: Data) -> None:
    assert data.mapped("dead") == [(DAYS[REUSED], "dead"), (FOREVER, "dead")]
    days = [bar.day for bar in data.daily("dead")]
    assert days == DAYS[: MERGED + 1] + DAYS[REUSED:]


def test_before_its_rename_a_security_goes_by_the_ticker_of_then(
    lake: Lake, tmp_path: Path
) -> None:
    export("lean", lake, tmp_path / "before", ["LONG"], DAYS[0], DAYS[RENAME - 1])

    data = Data(tmp_path / "before")
    assert data.mapped("long") == [(DAYS[0], "long"), (FOREVER, "long")]
    assert data.scale("long", DAYS[RENAME - 1]) == 1  # it knows nothing of the split that follows
