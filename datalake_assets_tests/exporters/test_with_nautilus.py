"""The export read and traded by NautilusTrader itself: `make test-tools` runs this where it is."""

import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from datalake_assets import market_calendar
from datalake_assets.exporters.run import Outcome, export
from datalake_assets.lake.lake import Lake
from datalake_assets_tests.exporters.market import (
    DAYS,
    DEAD,
    DEAD_LATER,
    LONG,
    LONG_LATER,
    THIN,
    told,
)

pytestmark = [pytest.mark.tools, pytest.mark.filterwarnings("ignore")]

OLD = f"DEAD-{DAYS[0]}"
NAMES = {"LNG.B": LONG, OLD: DEAD, "DEAD": DEAD_LATER, "LONG": LONG_LATER, "THIN": THIN}


@pytest.fixture(scope="module")
def exported(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    folder = tmp_path_factory.mktemp("nautilus")
    return folder, export("nautilus", lake, folder)


@pytest.fixture(scope="module")
def catalog(exported: tuple[Path, Outcome]) -> Any:
    from nautilus_trader.persistence.catalog import ParquetDataCatalog

    return ParquetDataCatalog(exported[0])


def bars_of(catalog: Any, name: str) -> list[Any]:
    found: list[Any] = catalog.bars([f"{name}.XXXX-1-DAY-LAST-EXTERNAL"])
    return found


def test_the_catalog_has_an_instrument_for_each_security(catalog: Any) -> None:
    names = {str(instrument.id) for instrument in catalog.instruments()}

    assert names == {f"{name}.XXXX" for name in (*NAMES, "KID", "ODD")}


def test_bars_are_stamped_at_their_close_and_the_last_one_is_as_it_traded(catalog: Any) -> None:
    bars = bars_of(catalog, "LNG.B")
    rows = LONG.rows()

    closes = [market_calendar.session_close(row["session"]) for row in rows]
    assert [bar.ts_event for bar in bars] == [int(at.timestamp()) * 10**9 for at in closes]
    assert float(bars[-1].close) == rows[-1]["close"]
    assert int(bars[-1].volume) == rows[-1]["volume"]


def test_a_bar_that_opens_above_its_high_is_told_and_kept(
    catalog: Any, exported: tuple[Path, Outcome]
) -> None:
    bar = bars_of(catalog, "ODD")[50]

    assert bar.high == bar.open
    assert any("1 bar with an open or close outside" in told for told in exported[1].told)
    assert any(f"ODD {DAYS[50]}" in told for told in exported[1].told)


def test_a_second_run_writes_nothing(lake: Lake, exported: tuple[Path, Outcome]) -> None:
    folder, first = exported
    record = folder / ".datalake-export.jsonl"
    whole = record.read_text().splitlines()
    record.write_text("\n".join(whole[:3]) + "\n")  # as if it had been killed after two groups

    again = export("nautilus", lake, folder)

    assert first.written == 14
    assert (again.written, again.kept, again.removed) == (0, first.written - 4, 0)
    assert export("nautilus", lake, folder).unchanged


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_buying_and_holding_earns_what_the_lake_tells(lake: Lake, catalog: Any, name: str) -> None:
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig
    from nautilus_trader.model.currencies import USD
    from nautilus_trader.model.data import BarType
    from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
    from nautilus_trader.model.identifiers import InstrumentId, Venue
    from nautilus_trader.model.objects import Money
    from nautilus_trader.trading.strategy import Strategy

    share = NAMES[name]
    invested = 1_000_000_000.0
    instrument_id = InstrumentId.from_str(f"{name}.XXXX")
    bar_type = BarType.from_str(f"{instrument_id}-1-DAY-LAST-EXTERNAL")
    bars = bars_of(catalog, name)

    class BuyAndHold(Strategy):  # type: ignore[misc]
        """Buys at the first close, and sells at the last one."""

        bought = 0

        def on_start(self) -> None:
            self.subscribe_bars(bar_type)

        def on_bar(self, bar: Any) -> None:
            if not self.bought:
                self.bought = int(invested // float(bar.close))
                self._trade(OrderSide.BUY)
            elif bar.ts_event == bars[-1].ts_event:
                self._trade(OrderSide.SELL)

        def _trade(self, side: Any) -> None:
            quantity = self.cache.instrument(instrument_id).make_qty(self.bought)
            self.submit_order(self.order_factory.market(instrument_id, side, quantity))

    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        Venue("XXXX"),
        OmsType.NETTING,
        AccountType.MARGIN,  # so that no cent of the price is lacking
        starting_balances=[Money(invested * 2, USD)],
        base_currency=USD,
        default_leverage=Decimal(1),
    )
    (instrument,) = catalog.instruments(instrument_ids=[str(instrument_id)])
    engine.add_instrument(instrument)
    engine.add_data(bars)
    strategy = BuyAndHold()
    engine.add_strategy(strategy)
    engine.run()
    end = engine.cache.account_for_venue(Venue("XXXX")).balance_total(USD).as_double()
    engine.dispose()

    paid = strategy.bought * float(bars[0].close)
    grown = (end - 2 * invested + paid) / paid
    last = max(row["session"] for row in share.rows())
    expected = told(lake, "DEAD" if name == OLD else name, DAYS[share.first], last)
    assert expected == pytest.approx(share.earned(share.first, DAYS.index(last)), rel=1e-12)
    # Two prices of nine decimals, of three dollars or more, and an account in cents.
    assert grown == pytest.approx(expected, rel=1e-9)
