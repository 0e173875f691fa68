"""The rule that tells a missing split from a crash, on labelled jumps.

- The synthetic market with a list of actions that lacks each split and spin-off, and with some days
  at a tenth of their prices: what every jump is called, against what truly happened.
- The recorded bars of bokeh-sampledata without their actions: the splits of 2000, 2003 and 2005,
  and every real fall, AAPL's 52 % of 2000-09-29 first.

`deep crash`: beyond 3.6 times; `bankruptcy`: a fall of one that ends worthless; `another`: the
first bar of another security under the ticker, of a spin-off that no list names. `none`: called
nothing. `inside`: nor had it a reason, for it opened within the bounds of a jump (-35 % … +60 %),
as after a split of 3 for 2. `silent`: no bar on that day, or none in a month before it. Recall and
precision are of jumps beyond the bounds, as in the measurements that the rule comes from.

    python -m benchmarks.jumps [--symbols 4000] [--years 5] [--seed 7]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime
from importlib.resources import files
from math import log

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.actions.action import SCHEMA as ACTIONS
from datalake_assets.exchange.actions import Action, Register
from datalake_assets.exchange.draws import draw
from datalake_assets.exchange.errata import Errata, Erratum
from datalake_assets.exchange.events import Kind as Action15
from datalake_assets.exchange.market import DOLLAR
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import Jump
from datalake_assets.securities import factors, identity, jumps
from datalake_assets.securities.evidence import day_number, day_of, gather
from datalake_assets.securities.jumps import FELL, LARGE, ROSE, Jumps, Kind
from datalake_assets.securities.registry import Registry
from datalake_assets.sources.action_pages import decode_actions
from datalake_assets.storage.store import open_store

LAST = date(2025, 12, 31)
RIGHT = {
    "split": Kind.SPLIT,
    "spin-off": Kind.SPIN_OFF,
    "crash": Kind.MOVE,
    "deep crash": Kind.MOVE,
    "bankruptcy": Kind.MOVE,
    "leap": Kind.MOVE,
    "glitch": Kind.GLITCH,
    "another": Kind.MOVE,
}
CRASHES = ("crash", "deep crash", "bankruptcy", "leap")
SPLITS = {("AAPL", "2000-06-21"), ("AAPL", "2005-02-28"), ("MSFT", "2003-02-18")}
_WITHHELD = (Action15.FORWARD_SPLIT, Action15.REVERSE_SPLIT, Action15.SPIN_OFF)


def found(bars: dict[date, pa.Table], actions: pa.Table) -> tuple[Jumps, factors.Factors]:
    """The jumps of some sessions, given these actions."""
    store, versions = open_store("memory://"), dict.fromkeys(bars, "1")
    evidence = gather(store, versions, bars.__getitem__, identity.asked_of(actions))
    who = identity.identify(evidence, actions, None, Registry())
    worth = factors.derive(evidence, who.table, actions)
    return jumps.find(evidence, who.table, worth.table), worth


class Labelled:
    """A market whose jumps are known.

    Args:
        market: The market.
        first: First day.
        last: Last day.
        tenths: How many days are given a tenth of their prices.
    """

    def __init__(self, market: SyntheticMarket, first: date, last: date, tenths: int) -> None:
        self.market, self.truth = market, market.truth()
        self.days = [day for day in market.sessions if first <= day <= last]
        self.begin = market.sessions.index(self.days[0])
        tickers = sorted(
            {
                held.ticker
                for held in self.truth.holdings
                if held.first <= last and (held.last or date.max) >= first
            }
        )
        bars = market.bars(tickers, self.begin, self.begin + len(self.days))
        opened, closed = bars.open / DOLLAR, bars.close / DOLLAR
        self._place = {name: place for place, name in enumerate(bars.symbols)}
        self._open = np.full((len(tickers), len(self.days)), np.nan)
        self._close = np.full((len(tickers), len(self.days)), np.nan)
        column = bars.session - self.begin
        self._open[bars.symbol, column], self._close[bars.symbol, column] = opened, closed
        self.labels: dict[tuple[str, date], str] = {}
        self._label()
        for row, at, one, other in self._tenths(tenths):
            self._open[row, at], self._close[row, at] = one, other
        table = pa.table(
            {
                "symbol": pa.array(bars.symbols).take(pa.array(bars.symbol)),
                "open": self._open[bars.symbol, column],
                "close": self._close[bars.symbol, column],
                "volume": bars.volume,
            }
        )
        order = np.argsort(column, kind="stable")
        cuts = np.searchsorted(column[order], np.arange(len(self.days) + 1))
        table = table.take(pa.array(order))
        self.bars = {
            day: table.slice(cuts[at], cuts[at + 1] - cuts[at]) for at, day in enumerate(self.days)
        }

    def _label(self) -> None:
        span = (self.days[0], self.days[-1])
        for action in self.truth.actions(*span, _WITHHELD):
            label = "spin-off" if action.kind is Action15.SPIN_OFF else "split"
            self.labels[self._traded(action.security, action.counts)] = label
        for jump in self.truth.jumps:
            if span[0] <= jump.day <= span[1]:
                key = self._traded(jump.security, jump.day)
                self.labels.setdefault(key, self._jump(jump))
        # A spin-off that no list names has a company begin, perhaps by a ticker just given up.
        for held in self.truth.holdings:
            if span[0] < held.first <= span[1] and held.ticker in self._place:
                last = self._day_before(held.first)
                if self.truth.holder(held.ticker, last) not in (None, held.security):
                    self.labels.setdefault((held.ticker, held.first), "another")

    def _jump(self, jump: Jump) -> str:
        if jump.factor > 1:
            return "leap"
        last = self.truth.last(jump.security)
        ends = self.truth.ending(jump.security) is Action15.WORTHLESS_REMOVAL
        if ends and last and (last - jump.day).days < 200:
            return "bankruptcy"
        return "deep crash" if log(jump.factor) < -LARGE else "crash"

    def _day_before(self, day: date) -> date:
        return self.market.sessions[self.market.sessions.index(day) - 1]

    def _traded(self, security: int, day: date) -> tuple[str, date]:
        """The ticker and the day of a security's first bar on a day or after it."""
        begin = bisect_left(self.days, day)
        for later in self.days[begin : begin + 10]:
            ticker = self.truth.ticker(security, later)
            if ticker in self._place and not np.isnan(
                self._open[self._place[ticker], self.days.index(later)]
            ):
                return ticker, later
        return self.truth.ticker(security, day), day

    def _tenths(self, count: int) -> Iterable[tuple[int, int, float, float]]:
        """Days at a tenth of their prices, as the exchange's own errata make them."""
        register = Register(self.market.actions(), self.market.market_id)
        names = sorted(self._place)
        key = np.array([1], np.uint64)
        words = draw(key, 1, np.arange(20 * count)).tolist()
        for word in words:
            if not count:
                return
            symbol = names[word % len(names)]
            at = 30 + (word >> 32) % (len(self.days) - 60)
            day, row = self.days[at], self._place[symbol]
            around = self._close[row, at - 1 : at + 2]
            if np.isnan(around).any() or (symbol, day) in self.labels or around.min() < 20:
                continue
            errata = Errata([Erratum(mistake="tenth", symbol=symbol, day=day)])
            place = self.begin + at
            bars = self.market.bars([symbol], place, place + 1)
            bars = errata.blemishes(self.market, register).on(
                bars, lambda _: None, datetime.now(UTC)
            )
            self.labels[symbol, day] = "glitch"
            self.labels[symbol, self.days[at + 1]] = "glitch"
            count -= 1
            yield row, at, bars.open[0] / DOLLAR, bars.close[0] / DOLLAR

    def actions(self) -> pa.Table:
        """What the source lists: all but splits and spin-offs."""
        lists: dict[str, list[dict[str, object]]] = defaultdict(list)
        for action in self.truth.actions(self.days[0], self.days[-1]):
            if action.kind not in _WITHHELD:
                lists[action.kind.plural].append(action.row)
            elif renamed := _renamed(action):
                lists["name_changes"].append(renamed)
        answer = {"corporate_actions": lists, "next_page_token": None}
        return decode_actions(json.dumps(answer).encode()).actions

    def outside(self, symbol: str, day: date) -> bool | None:
        """Whether a labelled day opened beyond the bounds; None where nothing can be seen."""
        row, at = self._place.get(symbol), day_number(day)
        place = np.searchsorted([day_number(each) for each in self.days], at)
        if row is None or np.isnan(self._open[row, place]):
            return None
        before = self._close[row, max(0, place - 30) : place]
        if np.isnan(before).all():  # it had another ticker
            security = self.truth.holder(symbol, day)
            first = self.days[max(0, place - 30)]
            if security is not None:
                bars = self.truth.bars(security, first, self._day_before(day))
                before = bars.close / DOLLAR
        before = before[~np.isnan(before)]
        if not len(before):
            return None
        move = log(self._open[row, place] / before[-1])
        return move < FELL or move > ROSE


def _renamed(action: Action) -> dict[str, object] | None:
    """The change of ticker that comes with a reverse split: that is not withheld."""
    row = action.row
    if "new_symbol" not in row or action.kind is Action15.SPIN_OFF:
        return None
    kept = {name: row[name] for name in ("id", "process_date", "new_symbol")}
    return kept | {"old_symbol": row["symbol"]}


def synthetic(symbols: int, years: int, seed: int) -> None:
    """Print the confusion matrix of a market whose list lacks what should be found."""
    market = SyntheticMarket(seed, symbols, symbols // 3)
    world = Labelled(market, date(LAST.year - years + 1, 1, 1), LAST, tenths=50)
    told, worth = found(world.bars, world.actions())
    called = {
        (symbol, day_of(day)): str(kind)
        for symbol, day, kind in zip(told.symbol.to_pylist(), told.session, told.kind, strict=True)
    }
    print(f"{len(world.labels):,} labelled jumps of {symbols:,} names in {years} years")
    counts: Counter[tuple[str, str]] = Counter()
    beyond: Counter[tuple[str, str]] = Counter()
    for (symbol, day), label in world.labels.items():
        seen = world.outside(symbol, day)
        kind = called.get((symbol, day), "none" if seen is not None else "silent")
        if kind == "none" and not seen:
            kind = "inside"
        counts[label, kind] += 1
        if seen:
            beyond[label, kind] += 1
    matrix(counts)
    rates("all", beyond, CRASHES)
    rates("but for bankruptcies and crashes beyond 3.6 times", beyond, ("crash", "leap"))
    others = Counter(kind for key, kind in called.items() if key not in world.labels)
    print("beside them:", dict(others))
    days = {key for key, label in world.labels.items() if label in CRASHES}
    applied = worth.table.filter(
        pc.and_(worth.table["applied"], pc.not_equal(worth.table["adjustment"], "dividend"))
    )
    adjusted = [row for row in applied.to_pylist() if (row["symbol"], row["session"]) in days]
    print(f"crashes and leaps that were adjusted: {len(adjusted)}")


def matrix(counts: Counter[tuple[str, str]]) -> None:
    """Print what each label was called."""
    kinds = [*map(str, Kind), "none", "inside", "silent"]
    print(f"{'':10}" + "".join(f"{kind:>19}" for kind in kinds))
    for label in RIGHT:
        row = [counts[label, kind] for kind in kinds]
        if sum(row):
            print(f"{label:10}" + "".join(f"{number:19,}" for number in row))


def rates(name: str, beyond: Counter[tuple[str, str]], crashes: Iterable[str]) -> None:
    """Print recall and precision among the jumps beyond the bounds, as the rule was measured."""
    right, split = beyond["split", str(Kind.SPLIT)], str(Kind.SPLIT)
    seen = sum(count for (label, _), count in beyond.items() if label == "split")
    wrong = sum(beyond[label, split] for label in crashes)
    real = sum(count for (label, _), count in beyond.items() if label in crashes)
    print(
        f"{name}: {right} of {seen} splits found, {wrong} of {real} crashes and leaps called one; "
        f"recall {right / seen:.3f}, precision {right / (right + wrong):.3f}"
    )


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
    days = {
        (symbol, str(day_of(int(day)))): place
        for place, (symbol, day) in enumerate(
            zip(told.symbol.to_pylist(), told.session, strict=True)
        )
    }
    for symbol, day in sorted(SPLITS - days.keys()):
        print(f"  {symbol} {day} split: not called anything")
    for (symbol, day), index in days.items():
        truth = "split" if (symbol, day) in SPLITS else "crash"
        print(
            f"  {symbol} {day} {truth}: called {told.kind[index]}, "
            f"ln {told.move[index]:+.3f}, {told.traded[index]:.1f} times the usual dollars"
        )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--symbols", type=int, default=4_000)
    parser.add_argument("--years", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    synthetic(given.symbols, given.years, given.seed)
    recorded()


if __name__ == "__main__":
    main()
