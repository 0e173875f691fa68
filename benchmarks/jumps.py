"""The rule that tells a missing split from a crash, on labelled jumps.

- The market of random walks of `benchmarks.securities` with a list of actions that lacks each split
  and spin-off: what every jump is called, against what it was.
- The recorded bars of bokeh-sampledata without their actions: the splits of 2000, 2003 and 2005,
  and every real fall, AAPL's 52 % of 2000-09-29 first.

    python -m benchmarks.jumps [--symbols 2000] [--years 3] [--seed 7]
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter
from datetime import date
from importlib.resources import files

import pyarrow as pa

from benchmarks.securities import LAST_YEAR, Walks
from datalake_assets import market_calendar
from datalake_assets.actions.action import SCHEMA as ACTIONS
from datalake_assets.securities import factors, identity, jumps
from datalake_assets.securities.evidence import day_of, gather
from datalake_assets.securities.jumps import Jumps, Kind
from datalake_assets.securities.registry import Registry
from datalake_assets.storage.store import open_store

RIGHT = {
    "split": Kind.SPLIT,
    "spin-off": Kind.SPIN_OFF,
    "crash": Kind.MOVE,
    "glitch": Kind.GLITCH,
}
SPLITS = {("AAPL", "2000-06-21"), ("AAPL", "2005-02-28"), ("MSFT", "2003-02-18")}


def found(bars: dict[date, pa.Table], actions: pa.Table) -> tuple[Jumps, factors.Factors]:
    """The jumps of some sessions, given these actions."""
    store, versions = open_store("memory://"), dict.fromkeys(bars, "1")
    evidence = gather(store, versions, bars.__getitem__, identity.asked_of(actions))
    who = identity.identify(evidence, actions, None, Registry())
    worth = factors.derive(evidence, who.table, actions)
    return jumps.find(evidence, who.table, worth.table), worth


def synthetic(symbols: int, years: int, seed: int) -> None:
    """Print the confusion matrix of a market whose list lacks what should be found."""
    days = market_calendar.sessions(date(LAST_YEAR - years + 1, 1, 1), date(LAST_YEAR, 12, 31))
    walks = Walks(symbols, days, seed, unlisted=1.0)
    names = ("symbol", "open", "close", "volume")
    bars = {day: table.select(names) for day, table in walks.sessions()}
    told, worth = found(bars, walks.table())
    called = {
        (symbol, day_of(day)): str(kind)
        for symbol, day, kind in zip(told.symbol.to_pylist(), told.session, told.kind, strict=True)
    }
    print(f"{len(walks.jumps):,} labelled jumps of {symbols:,} random walks in {years} years")
    matrix(Counter((label, called.get((name, day), "-")) for name, day, label in walks.jumps))
    labelled = {(name, day) for name, day, _ in walks.jumps}
    others = Counter(kind for key, kind in called.items() if key not in labelled)
    print("beside them:", dict(others))
    crashed = {(name, day) for name, day, label in walks.jumps if label == "crash"}
    rows = worth.table.filter(worth.table["applied"]).to_pylist()
    adjusted = [
        row
        for row in rows
        if (row["symbol"], row["session"]) in crashed and row["price_factor"] != 1
    ]
    print(f"crashes that were adjusted: {len(adjusted)}")


def matrix(counts: Counter[tuple[str, str]]) -> None:
    """Print what each label was called."""
    kinds = [*map(str, Kind), "-"]
    print(f"{'':10}" + "".join(f"{kind:>19}" for kind in kinds))
    for label, right in RIGHT.items():
        row = [counts[label, kind] for kind in kinds]
        if total := sum(row):
            share = counts[label, str(right)] / total
            print(f"{label:10}" + "".join(f"{number:19,}" for number in row) + f"{share:8.1%}")
    of_splits = sum(counts[label, str(Kind.SPLIT)] for label in RIGHT)
    if of_splits:
        print(f"precision of splits: {counts['split', str(Kind.SPLIT)] / of_splits:.1%}")


def recorded() -> None:
    """Print what the jumps of the recorded bars are called, with no action known."""
    rows: dict[date, list[dict[str, object]]] = {}
    data = gzip.decompress(files("bokeh_sampledata").joinpath("_data/stocks.csv.gz").read_bytes())
    for line in csv.DictReader(data.decode().splitlines()):
        rows.setdefault(date.fromisoformat(line["Date"]), []).append(
            {
                "symbol": line["Ticker"],
                "open": float(line["Open"]),
                "close": float(line["Close"]),
                "volume": int(float(line["Volume"])),
            }
        )
    bars = {day: pa.Table.from_pylist(of_day) for day, of_day in rows.items()}
    told, _ = found(bars, ACTIONS.empty_table())
    print("recorded bars, no action known:")
    for index, symbol in enumerate(told.symbol.to_pylist()):
        day = str(day_of(int(told.session[index])))
        truth = "split" if (symbol, day) in SPLITS else "crash"
        print(
            f"  {symbol} {day} {truth}: called {told.kind[index]}, "
            f"ln {told.move[index]:+.3f}, {told.traded[index]:.1f} times the usual dollars"
        )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=2_000)
    parser.add_argument("--years", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    synthetic(given.symbols, given.years, given.seed)
    recorded()


if __name__ == "__main__":
    main()
