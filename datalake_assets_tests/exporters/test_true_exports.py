"""Exports against what truly happened in the embedded exchange's market.

Two years of some 340 tickers with renames, takeovers of tickers, reuse, mergers and ends: every
security must be exported once, with all of its bars and no other, and earn what the lake tells.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from datalake_assets.exporters.run import export
from datalake_assets.exporters.selection import Selection
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets_tests.exporters.test_lean import Data
from datalake_assets_tests.exporters.test_qlib import FLOAT32, read
from datalake_assets_tests.lake.test_true_reads import World

Series = tuple[tuple[date, str], ...]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def selection(world: World) -> Selection:
    return Selection.of(world.lake, None, None, None)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecuritiesWarning)
        yield


def truth(world: World) -> Counter[Series]:
    """The sessions and tickers of each security with a bar."""
    held = (world.of(security) for security in world.by_security)
    return Counter(tuple(sorted(bars.items())) for bars in held if bars)


def test_every_security_is_exported_once_with_its_bars_and_no_other(
    world: World, selection: Selection
) -> None:
    found = [
        tuple(zip(one.bars["session"].to_pylist(), one.bars["symbol"].to_pylist(), strict=True))
        for group in selection.read(selection.groups)
        for one in group
    ]

    assert len(found) > 300
    assert Counter(found) == truth(world)
    names = [one.symbol.casefold() for one in selection.securities]
    assert len(set(names)) == len(names)


def test_lean_maps_every_security_to_its_bars(world: World, tmp_path: Path) -> None:
    export("lean", world.lake, tmp_path)
    data = Data(tmp_path)
    tickers: dict[str, set[date]] = {}
    found: list[Series] = []
    for path in sorted((data.root / "map_files").iterdir()):
        mapped, series = data.mapped(path.stem), []
        since = mapped[0][0]
        for until, ticker in mapped[1:]:
            if ticker not in tickers:
                tickers[ticker] = {bar.day for bar in data.daily(ticker)}
            days = sorted(day for day in tickers[ticker] if since <= day <= until)
            series += [(day, ticker.upper()) for day in days]
            since = date.fromordinal(until.toordinal() + 1)
        found.append(tuple(series))

    assert Counter(found) == truth(world)
    assert {path.name for path in (data.root / "factor_files").iterdir()} == {
        path.name for path in (data.root / "map_files").iterdir()
    }


def test_in_qlib_every_security_earns_what_the_lake_tells(
    world: World, selection: Selection, tmp_path: Path
) -> None:
    export("qlib", world.lake, tmp_path)
    returns = world.lake.returns()
    earned: dict[str, list[float]] = {}
    columns = (returns[name].to_pylist() for name in ("security", "status", "total_return"))
    for security, status, value in zip(*columns, strict=True):
        if status == "traded":
            earned.setdefault(security, []).append(1 + value)

    assert len(earned) > 300
    for listed in selection.securities:
        close = read(tmp_path, listed.symbol.lower(), "close")[1]
        close = close[~np.isnan(close)]
        told = np.prod(earned.get(listed.id, [1.0]))
        assert close[-1] / close[0] == pytest.approx(told, rel=3 * FLOAT32), listed
