"""The export read and traded by qlib itself: `make test-tools` runs this where qlib is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datalake_assets.exporters.run import export
from datalake_assets.lake.lake import Lake
from datalake_assets_tests.exporters.market import (
    DAYS,
    DEAD,
    DEAD_LATER,
    LONG,
    LONG_LATER,
    MERGED,
    told,
)

pytestmark = [pytest.mark.tools, pytest.mark.filterwarnings("ignore")]

FLOAT32 = 2**-24
"""The relative error of a value of qlib's files."""


@pytest.fixture(scope="module")
def features(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Qlib's own reader of the export."""
    import qlib

    folder: Path = tmp_path_factory.mktemp("qlib")
    export("qlib", lake, folder)
    qlib.init(
        provider_uri=str(folder),
        region="us",
        kernels=1,
        joblib_backend="threading",
        expression_cache=None,
        dataset_cache=None,
    )
    from qlib.data import D

    return D


def test_qlib_lists_every_security_with_its_first_and_last_session(features: Any) -> None:
    listed = features.list_instruments(features.instruments("all"), as_list=False)

    found = {name: tuple(str(day.date()) for day in spans[0]) for name, spans in listed.items()}
    assert found["LNG.B"] == (str(DAYS[0]), str(DAYS[-1]))
    assert found[f"DEAD-{DAYS[0]}"] == (str(DAYS[0]), str(DAYS[MERGED]))
    assert found["LONG"] == (str(DAYS[LONG_LATER.first]), str(DAYS[-1]))
    assert [str(day.date()) for day in features.calendar()] == [str(day) for day in DAYS]


def test_prices_over_the_factor_are_those_that_traded(features: Any) -> None:
    frame = features.features(
        ["LNG.B"], ["$close / $factor", "$volume * $factor", "$open / $factor"]
    )
    rows = LONG.rows()

    frame = frame.droplevel(0)
    frame.index = frame.index.date
    assert np.isnan(frame.loc[DAYS[144]]).all()
    traded = frame.loc[[row["session"] for row in rows]].to_numpy().T
    for values, name in zip(traded, ("close", "volume", "open"), strict=True):
        assert values == pytest.approx([row[name] for row in rows], rel=3 * FLOAT32), name


@pytest.mark.parametrize("share", [LONG, DEAD, DEAD_LATER], ids=["LNG.B", "old", "new"])
def test_buying_and_holding_earns_what_the_lake_tells(
    lake: Lake, features: Any, share: Any
) -> None:
    import pandas as pd
    from qlib.backtest import backtest
    from qlib.backtest.decision import Order, TradeDecisionWO
    from qlib.backtest.executor import SimulatorExecutor
    from qlib.strategy.base import BaseStrategy

    asked = "LNG.B" if share is LONG else "DEAD"
    name = f"DEAD-{DAYS[0]}" if share is DEAD else asked
    first, last = DAYS[share.first], DAYS[share.last]
    invested = 1_000_000.0

    class BuyAndHold(BaseStrategy):  # type: ignore[misc]
        def generate_trade_decision(self, execute_result: Any = None) -> Any:
            step = self.trade_calendar.get_trade_step()
            start, end = self.trade_calendar.get_step_time(step)
            if step:
                return TradeDecisionWO([], self)
            price = self.trade_exchange.get_deal_price(name, start, end, Order.BUY)
            order = Order(name, invested / price, Order.BUY, start, end)
            return TradeDecisionWO([order], self)

    days = pd.DatetimeIndex(DAYS)
    portfolio, _ = backtest(
        start_time=str(first),
        end_time=str(last),
        strategy=BuyAndHold(),
        executor=SimulatorExecutor(time_per_step="day", generate_portfolio_metrics=True),
        benchmark=pd.Series(0.0, index=days),
        account=invested,
        exchange_kwargs={
            "codes": [name],
            "freq": "day",
            "deal_price": "close",
            "open_cost": 0,
            "close_cost": 0,
            "min_cost": 0,
            "limit_threshold": None,
            "trade_unit": None,
        },
    )
    report, _ = portfolio["1day"]

    expected = told(lake, asked, first, last)
    assert expected == pytest.approx(share.earned(share.first, share.last), rel=1e-12)
    # Two prices as float32.
    assert report["account"].iloc[-1] / invested == pytest.approx(expected, rel=3 * FLOAT32)
