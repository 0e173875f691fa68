"""Securities, factors and verdicts of a whole market, from a lake on disk.

A lake is made once in `--lake`: random walks whose prices move with dividends, splits, renames and
mergers as often as in life (`Walks`). Then, each in a process of its own, with CPU and peak memory
by Linux's count:

- everything from nothing: evidence, securities, factors, spans, jumps;
- the same with the evidence kept, after one new session;
- and a comparison with what was put in: identities, factors, verdicts.

    python -m benchmarks.securities [--symbols 11000] [--years 15] [--lake /tmp/securities-lake]
        [--keep]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import alone, peak, tell
from datalake_assets import market_calendar
from datalake_assets.actions.action import SCHEMA as ACTIONS
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.session_file import decode_columns
from datalake_assets.securities.derivation import derive_factors, derive_securities, material
from datalake_assets.securities.evidence import BAR_COLUMNS
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

LAST_YEAR = 2025
SESSIONS_A_YEAR = 252
# A year, for each 11,000 symbols.
RENAMES, MERGERS, FORWARD, REVERSE, SPIN_OFFS, CRASHES, GLITCHES = 500, 300, 60, 240, 40, 450, 30
RATIOS = [(2, 1), (3, 1), (3, 2), (4, 1), (5, 1), (10, 1)]
REVERSES = [(1, 2), (1, 4), (1, 5), (1, 8), (1, 10), (1, 15), (1, 20), (1, 25), (1, 50)]


@dataclass
class Walks:
    """A market of random walks, session by session, with what happens in it.

    Args:
        symbols: How many trade at any time.
        days: The sessions.
        seed: Of the random numbers.
        unlisted: The share of splits and spin-offs that the list of actions lacks.
    """

    symbols: int
    days: list[date]
    seed: int = 7
    unlisted: float = 0.0
    actions: list[dict[str, Any]] = field(default_factory=list)
    jumps: list[tuple[str, date, str]] = field(default_factory=list)
    """Labelled: symbol, session, and split, spin-off, crash or glitch."""

    def sessions(self) -> Iterator[tuple[date, pa.Table]]:
        """Each session's bars; fills `actions` and `jumps` on the way."""
        draw = np.random.default_rng(self.seed)
        count = self.symbols
        names = np.array([_ticker(number) for number in range(count)], dtype=object)
        taken = count
        close = np.exp(draw.normal(3.3, 1.0, count))
        volatility = np.exp(draw.normal(-3.9, 0.5, count))  # about 2 % a day
        shares = np.exp(draw.normal(12.5, 2.0, count))
        pays = draw.random(count) < 0.4
        phase = draw.integers(0, 63, count)
        rare = draw.random(count) < 0.03
        chance = 1.0 / SESSIONS_A_YEAR * count / 11_000
        undone = np.ones(count)
        self.actions.clear()
        self.jumps.clear()
        for number, day in enumerate(self.days):
            market = draw.normal(0, 0.006)
            gap = np.exp(market * 0.5 + volatility * 0.5 * draw.standard_normal(count))
            traded = np.exp(0.4 * draw.standard_normal(count))
            factor = np.ones(count)
            opened = close * gap * undone
            undone = np.ones(count)
            free = np.ones(count, bool)

            def pick(rate: float, free: Any = free, chance: float = chance) -> list[int]:
                found = draw.integers(0, count, draw.poisson(rate * chance))
                chosen = [row for row in dict.fromkeys(found.tolist()) if free[row]]
                free[chosen] = False
                return chosen

            if number > 30:
                for kind, rate, ratios in (
                    ("forward_splits", FORWARD, RATIOS),
                    ("reverse_splits", REVERSE, REVERSES),
                ):
                    for row in pick(rate):
                        new, old = ratios[draw.integers(len(ratios))]
                        noise = abs(draw.normal(0, 0.10)) if kind == "reverse_splits" else 0.0
                        factor[row] *= old / new * np.exp(-noise)
                        shares[row] *= new / old
                        if draw.random() < self.unlisted:
                            self.jumps.append((names[row], day, "split"))
                        else:
                            self._act(kind, names[row], day, new_rate=new, old_rate=old)
                for row in pick(CRASHES):
                    depth = -draw.exponential(0.35) - 0.2 if draw.random() < 0.6 else 0.5
                    depth = draw.exponential(0.3) + 0.3 if depth == 0.5 else depth
                    factor[row] *= np.exp(depth)
                    traded[row] *= np.exp(draw.normal(3.0, 0.8))
                    self.jumps.append((names[row], day, "crash"))
                for row in pick(GLITCHES):
                    wrong = float(draw.choice([0.1, 0.01, 10.0, 0.5, 2.0]))
                    factor[row] *= wrong
                    undone[row] = 1 / wrong
                    self.jumps.append((names[row], day, "glitch"))
                for row in pick(SPIN_OFFS):
                    share = draw.uniform(0.08, 0.5)
                    factor[row] *= 1 - share
                    new_row = int(draw.integers(count))
                    if not free[new_row]:
                        continue
                    # The new company takes the place of one that is bought for cash.
                    free[new_row] = False
                    self._act("cash_mergers", names[new_row], day, cash=float(close[new_row]))
                    names[new_row] = _ticker(taken)
                    taken += 1
                    opened[new_row] = close[row] * share * 2 / factor[new_row]
                    if draw.random() < self.unlisted:
                        self.jumps.append((names[row], day, "spin-off"))
                    else:
                        self._act(
                            "spin_offs", names[row], day,
                            new_symbol=names[new_row], new_rate=1.0, old_rate=2.0,
                        )  # fmt: skip
                for row in pick(RENAMES):
                    self._act("name_changes", names[row], day, new_symbol=(new := _ticker(taken)))
                    names[row] = new
                    taken += 1
                for row in pick(MERGERS):
                    self._act("cash_mergers", names[row], day, cash=round(float(close[row]), 2))
                    names[row] = _ticker(taken)
                    taken += 1
                payers = np.flatnonzero(pays & (phase == number % 63) & free)
                cash = np.round(close[payers] * 0.006, 3)
                for row, amount in zip(payers.tolist(), cash.tolist(), strict=True):
                    if amount:
                        self._act("cash_dividends", names[row], day, cash=amount)
                        factor[row] *= 1 - amount / close[row]
            opened = opened * factor
            close = opened * np.exp(market * 0.5 + volatility * draw.standard_normal(count))
            volume = (shares * traded).astype(np.int64) + 1
            prints = (draw.random(count) > 0.002) & (~rare | (draw.random(count) > 0.5))
            prints |= ~free
            yield day, self._bars(day, names[prints], opened[prints], close[prints], volume[prints])

    def _act(self, kind: str, symbol: str, day: date, **more: Any) -> None:
        self.actions.append(
            {
                "id": f"{len(self.actions):07}",
                "kind": kind,
                "effective_date": day,
                "process_date": day,
                "symbol": symbol,
                "body": "{}",
                **more,
            }
        )

    def _bars(self, day: date, names: Any, opened: Any, close: Any, volume: Any) -> pa.Table:
        order = np.argsort(names.astype(str))
        opened, close, volume = opened[order], close[order], volume[order]
        columns = {
            "symbol": pa.array(names[order], pa.string()),
            "session": pa.array([day] * len(order), pa.date32()),
            "timestamp": pa.array([market_calendar.session_stamp(day)] * len(order)),
            "open": opened,
            "high": np.maximum(opened, close),
            "low": np.minimum(opened, close),
            "close": close,
            "vwap": close,
            "volume": volume,
            "trade_count": volume,
        }
        return pa.table([pa.array(columns[f.name]).cast(f.type) for f in SCHEMA], schema=SCHEMA)

    def table(self) -> pa.Table:
        """The actions, in `actions.action.SCHEMA`."""
        return pa.Table.from_pylist(self.actions, schema=ACTIONS)


def _ticker(number: int) -> str:
    letters = ""
    for _ in range(4):
        number, place = divmod(number, 26)
        letters = chr(65 + place) + letters
    return letters


def make_lake(folder: Path, walks: Walks) -> None:
    """Write the sessions and the actions of a market."""
    for day, table in walks.sessions():
        path = folder / layout.session_key(day)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            table,
            path,
            compression="zstd",
            use_dictionary=["session", "timestamp"],
            store_schema=False,
            write_page_checksum=True,
        )
    pq.write_table(walks.table(), folder / "actions.parquet")


def derive(folder: Path, sessions: int | None = None) -> dict[str, Any]:
    """Derive everything in this process, and what it took."""
    store = open_store(str(folder))
    actions = pq.read_table(folder / "actions.parquet")
    pa.array(np.zeros(1))  # imports pandas, which whoever runs an asset has imported by then
    begun, cpu = time.perf_counter(), time.process_time()
    versions = store.versions(layout.SESSIONS)
    days = layout.dated(layout.SESSIONS, list(versions))[:sessions]

    def read(day: date) -> pa.Table:
        key = layout.session_key(day)
        return decode_columns(store.get(key), store.url(key), BAR_COLUMNS)

    laps = [time.process_time()]
    given = material(store, {day: versions[layout.session_key(day)] for day in days}, read, actions)
    laps.append(time.process_time())
    who = derive_securities(store, given, None)
    laps.append(time.process_time())
    factors, jumps = derive_factors(store, given)
    laps.append(time.process_time())
    return {
        "wall_seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "evidence_securities_factors": [round(b - a, 2) for a, b in itertools.pairwise(laps)],
        "peak_gib": peak() / 2**10,
        "sessions_read": given.evidence.read,
        "bars_kept": len(given.evidence.symbol),
        "actions": given.actions.num_rows,
        "securities": len(set(who.table["security"].to_pylist())),
        "rows": who.table.num_rows,
        "identity_findings": len(who.findings),
        "factors": factors.table.num_rows,
        "applied": int(sum(factors.table["applied"].to_pylist())),
        "spans": factors.cumulative.num_rows,
        "action_findings": len(factors.findings),
        "jumps": {kind: int((jumps.kind == kind).sum()) for kind in set(jumps.kind.tolist())},
    }


def main() -> None:
    """Make the lake, derive twice, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=11_000)
    parser.add_argument("--years", type=int, default=15)
    parser.add_argument("--lake", type=Path, default=Path("/tmp/securities-lake"))
    parser.add_argument("--keep", action="store_true", help="keep the lake for another run")
    parser.add_argument("--derive", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.derive is not None:
        tell(derive(given.lake, given.derive or None))
        return
    days = market_calendar.sessions(
        date(LAST_YEAR - given.years + 1, 1, 1), date(LAST_YEAR, 12, 31)
    )
    if not (given.lake / "actions.parquet").exists():
        begun = datetime.now(UTC)
        make_lake(given.lake, Walks(given.symbols, days))
        print(f"made {len(days):,} sessions in {(datetime.now(UTC) - begun).total_seconds():.0f} s")
    shutil.rmtree(given.lake / layout.SECURITIES, ignore_errors=True)
    for name, sessions in (("all but one session", len(days) - 1), ("one new session", 0)):
        found = alone("securities", "--lake", str(given.lake), "--derive", str(sessions))
        print(name, json.dumps(found, indent=2))
    if not given.keep:
        shutil.rmtree(given.lake)


if __name__ == "__main__":
    main()
