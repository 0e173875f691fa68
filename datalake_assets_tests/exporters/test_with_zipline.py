"""The bundle found, ingested and traded by zipline itself: `make test-tools` runs this where it is.

zipline keeps prices in thousandths of a dollar, and shares whole. The market has prices in cents,
and a billion dollars are invested: so what is lost is a few shares.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datalake_assets.exporters.run import Outcome, export
from datalake_assets.lake.lake import Lake
from datalake_assets_tests.exporters.market import (
    AFTER_NO_BAR,
    AGAIN,
    DAYS,
    DEAD,
    DEAD_LATER,
    DIVIDEND,
    LATER,
    LONG,
    LONG_LATER,
    MERGED,
    PAID_AFTER,
    RENAME,
    REVERSE,
    SPIN_OFF,
    SPLIT,
    THIN,
    told,
)

pytestmark = [pytest.mark.tools, pytest.mark.filterwarnings("ignore")]

INVESTED = 1e9


@pytest.fixture(scope="module")
def exported(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    root = tmp_path_factory.mktemp("zipline")
    return root, export("zipline", lake, root)


@pytest.fixture
def root(exported: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZIPLINE_ROOT", str(exported[0]))
    return exported[0]


@pytest.fixture
def bundle(root: Path) -> Iterator[Any]:
    from zipline.data import bundles
    from zipline.utils.run_algo import load_extensions

    load_extensions(default=True, extensions=[], strict=True, environ=os.environ, reload=True)
    with bundles.load("datalake") as data:
        yield data


def zipline(root: Path, *words: str) -> str:
    """What a command of zipline says, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "zipline", *words],
        env={**os.environ, "ZIPLINE_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_zipline_finds_the_bundle_and_ingests_it_anew(root: Path) -> None:
    before = zipline(root, "bundles")
    zipline(root, "ingest", "-b", "datalake", "--no-show-progress")
    after = zipline(root, "bundles")

    made = [line for line in before.splitlines() if line.startswith("datalake ")]
    assert len(made) == 1
    assert len([line for line in after.splitlines() if line.startswith("datalake ")]) == 2


def test_tickers_mean_whom_they_meant_on_the_day(bundle: Any) -> None:
    import pandas as pd

    def holder(symbol: str, at: int) -> str:
        asset = bundle.asset_finder.lookup_symbol(symbol, pd.Timestamp(DAYS[at]))
        return str(asset.start_date.date())

    assert holder("LONG", 0) == holder("LONG", RENAME - 1) == str(DAYS[0])
    assert holder("LNG.B", RENAME) == str(DAYS[0])
    assert holder("LONG", LATER) == str(DAYS[LATER])


def test_an_asset_that_ended_closes_the_day_after_and_others_go_on(bundle: Any) -> None:
    import pandas as pd

    dead, thin = (
        bundle.asset_finder.lookup_symbol(name, pd.Timestamp(DAYS[0])) for name in ("DEAD", "THIN")
    )
    assert dead.end_date.date() == DAYS[MERGED]
    assert thin.end_date.date() == DAYS[-1]  # it has no bar on that day
    reader = bundle.equity_daily_bar_reader
    assert np.isnan(reader.get_value(thin.sid, pd.Timestamp(DAYS[3]), "close"))
    traded = {row["session"]: row for row in THIN.rows()}[DAYS[4]]
    assert reader.get_value(thin.sid, pd.Timestamp(DAYS[4]), "close") == traded["close"]
    assert reader.get_value(thin.sid, pd.Timestamp(DAYS[4]), "volume") == traded["volume"]


def test_adjusted_history_is_that_of_the_lake(lake: Lake, bundle: Any) -> None:
    import pandas as pd
    from zipline.data.data_portal import DataPortal
    from zipline.utils.calendar_utils import get_calendar

    calendar = get_calendar("XNYS")
    portal = DataPortal(
        bundle.asset_finder,
        calendar,
        first_trading_day=bundle.equity_daily_bar_reader.first_trading_day,
        equity_daily_reader=bundle.equity_daily_bar_reader,
        adjustment_reader=bundle.adjustment_reader,
    )
    asset = bundle.asset_finder.lookup_symbol("LNG.B", pd.Timestamp(DAYS[-1]))
    found = portal.get_history_window(
        [asset], pd.Timestamp(DAYS[-1]), len(DAYS), "1d", "close", "daily"
    )[asset]

    rows = lake.bars("LNG.B", adjustment="all")
    close = dict(zip(rows["session"].to_pylist(), rows["close"].to_pylist(), strict=True))
    told = np.array([close.get(day, np.nan) for day in DAYS])
    # zipline rounds what it adjusts to thousandths of a dollar.
    assert found.to_numpy() == pytest.approx(told, abs=0.000501, nan_ok=True)


@pytest.mark.parametrize("name", ["LNG.B", "LONG", "DEAD", "DEAD again"])
def test_buying_and_holding_earns_what_the_lake_tells(lake: Lake, root: Path, name: str) -> None:
    """What is paid buys shares at the close of its ex-date, as in a total return."""
    import pandas as pd
    from zipline import run_algorithm
    from zipline.api import order, set_commission, set_slippage, symbol
    from zipline.finance.commission import NoCommission
    from zipline.finance.slippage import NoSlippage

    share = {"LNG.B": LONG, "LONG": LONG_LATER, "DEAD": DEAD}.get(name, DEAD_LATER)
    name = name.partition(" ")[0]
    first, last = share.first, share.last
    asked = DAYS[last]
    rows = {row["session"]: row for row in share.rows()}
    # An order is filled at the close of the next session; so it is placed a session ahead.
    amounts: dict[Any, float] = {DAYS[first]: INVESTED / rows[DAYS[first + 1]]["close"]}
    shares, left = amounts[DAYS[first]], 0.0
    for at in range(first + 2, last + 1):
        new, old = share.splits.get(at, (1, 1))
        shares *= new / old
        if (paid := share.pays.get(at)) is not None:
            price = rows[DAYS[at]]["open" if at == SPIN_OFF else "close"]
            bought = shares * paid / price
            # What is spun off counts at the open, zipline buys at the close: it stays in cash.
            left += shares * paid - bought * rows[DAYS[at]]["close"]
            # zipline multiplies what was ordered before a split by the split.
            amounts[DAYS[at - 1]] = bought * old / new
            shares += bought

    def initialize(context: Any) -> None:
        set_commission(NoCommission())
        set_slippage(NoSlippage())
        context.set_symbol_lookup_date(str(asked))
        context.asset = symbol(name)

    def handle_data(context: Any, data: Any) -> None:
        day = context.get_datetime().date()
        if day in amounts:
            order(context.asset, int(amounts[day]))

    result = run_algorithm(
        start=pd.Timestamp(DAYS[first]),
        end=pd.Timestamp(DAYS[last]),
        initialize=initialize,
        handle_data=handle_data,
        capital_base=INVESTED,
        bundle="datalake",
        benchmark_returns=pd.Series(0.0, index=pd.DatetimeIndex(DAYS)),
        data_frequency="daily",
        environ=os.environ,
    )
    end = result["portfolio_value"].iloc[-1]

    expected = told(lake, name, DAYS[first + 2], asked)
    assert expected == pytest.approx(share.earned(first + 1, last), rel=1e-12)
    # Whole shares, and a cost basis in cents for the parts of shares at a split.
    assert (end - left) / INVESTED == pytest.approx(expected, rel=1e-6)


def test_dividends_are_paid_on_their_pay_date(bundle: Any) -> None:
    paid = bundle.adjustment_reader.unpack_db_to_component_dfs(convert_dates=True)
    dividends = paid["dividend_payouts"].sort_values("ex_date")
    by_day = {row.ex_date.date(): row for row in dividends.itertuples()}

    assert set(by_day) == {DAYS[at] for at in (DIVIDEND, SPIN_OFF, REVERSE, AFTER_NO_BAR, AGAIN)}
    told = DAYS[DIVIDEND] + timedelta(days=PAID_AFTER)
    assert by_day[DAYS[DIVIDEND]].pay_date.date() == min(day for day in DAYS if day >= told)
    assert by_day[DAYS[SPIN_OFF]].pay_date.date() == DAYS[SPIN_OFF]
    assert by_day[DAYS[DIVIDEND]].amount == LONG.pays[DIVIDEND]
    # Of ten shares that become one: zipline pays for each of the ten.
    assert by_day[DAYS[REVERSE]].amount == pytest.approx(LONG.pays[REVERSE] / 10, rel=1e-12)
    splits = {row.effective_date.date(): row.ratio for row in paid["splits"].itertuples()}
    assert splits == {DAYS[SPLIT]: 0.25, DAYS[REVERSE]: 10.0, DAYS[RENAME]: pytest.approx(1 / 3)}


def test_a_second_export_writes_nothing_and_a_killed_one_leaves_the_bundle_as_it_was(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zipline.data import bundles

    def killed(*given: Any, **named: Any) -> None:
        staged = Path(named["environ"]["ZIPLINE_ROOT"]) / "data" / "datalake" / "2024"
        staged.mkdir(parents=True)
        raise KeyboardInterrupt

    root = tmp_path / "root"
    ingest = bundles.ingest
    monkeypatch.setattr(bundles, "ingest", killed)
    with pytest.raises(KeyboardInterrupt):
        export("zipline", lake, root)
    assert not (root / "data").exists()
    monkeypatch.setattr(bundles, "ingest", ingest)

    first = export("zipline", lake, root, ["KID"])
    files = [path for path in root.rglob("*") if path.is_file() and path.name[0] != "."]
    assert (first.written, first.bytes) == (len(files), sum(p.stat().st_size for p in files))
    assert export("zipline", lake, root, ["KID"]).unchanged
    made = list((root / "data" / "datalake").iterdir())
    assert len(made) == 1
    assert not (root / ".datalake-staging").exists()
    assert "register(" in (root / "extension.py").read_text()
