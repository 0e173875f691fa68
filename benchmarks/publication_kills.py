"""Kill and resume: `kill -9` at random moments while a year is published per symbol.

A year of random walks lies in a folder or on SeaweedFS. Its publication runs in a process of its
own. Before each, the sessions change so that every symbol's file must be written, and some removed
or added; then it is killed at a random moment. After each kill every object that is there must
decode, and hold the rows of a state that the sessions had. In the end it runs through once: both
layouts must hold the same rows, and no object may lie there that no manifest knows.

    python -m benchmarks.publication_kills [--kills 20] [--symbols 1000] [--sessions 252] [--seed 1]
        [--to folder s3]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.measuring import machine
from benchmarks.surroundings import store_at
from benchmarks.symbol_years import make_lake
from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.collection.report import Ledger
from datalake_assets.lake import session_file, symbol_year_file
from datalake_assets.lake.fingerprint import Fingerprint, fingerprint, fingerprints
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store

YEAR = 2025
RENAMED = 0.02  # share of symbols whose changed session has another name, in no other session


@dataclass
class Told:
    """What the kills did."""

    kills: int = 0
    late: int = 0  # it had ended before
    objects: int = 0  # decoded after the kills
    between: int = 0  # kills after which the manifest said that objects were being written
    litter: int = 0  # staged files of killed writers, the most of all kills


def main() -> None:
    """Publish in this process when told so; else kill those who do."""
    given = _arguments()
    if given.publish:
        print("ready", flush=True)
        SymbolYears(open_store(given.publish), open_store(given.publish, retry=False)).publish(YEAR)
        return
    print(
        f"{machine()}\n| to | symbols × sessions | kills | in the middle | objects decoded "
        "| uninterrupted, s | after the last kill, s | both layouts | strays |"
    )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        make_lake(made, range(YEAR, YEAR + 1), given.symbols)
        for place in given.to:
            with store_at(place, Path(folder)) as uri:
                _run(open_store(str(made)), uri, place, given)


def _run(made: Store, uri: str, place: str, given: argparse.Namespace) -> None:
    store, drawn = open_store(uri), random.Random(given.seed)
    LakeWriter(store).claim("random walks")
    year = _Year(made, store, given.sessions)
    year.change(drawn)
    whole = _publish(uri)  # the first, whose time tells when to kill
    told = Told()
    while told.kills < given.kills:
        year.change(drawn)
        if _killed(uri, drawn.uniform(0, whole)):
            told.kills += 1
            _check(store, year, told)
        else:
            told.late += 1
    last = _publish(uri)
    proof = SymbolYears(store).prove(YEAR)
    assert proof.holds, f"the layouts differ: {list(proof.differing.items())[:3]}"
    strays = SymbolYears(store).strays()
    assert not strays, f"nobody knows {strays[:3]}"
    print(
        f"| {place} | {given.symbols:,} × "
        f"{given.sessions:,} | {told.kills} | {told.between} | {told.objects:,} | {whole:.1f} | "
        f"{last:.1f} | equal, {proof.sessions.rows:,} rows | {len(strays)} |",
        flush=True,
    )
    print(f"  ({told.late} kills came too late, {told.litter} staged files at most)", flush=True)


class _Year:
    """The sessions of the year, and every state that a symbol's file may have.

    Args:
        made: The lake that they are taken from.
        store: Where they are put.
        sessions: How many.
    """

    def __init__(self, made: Store, store: Store, sessions: int) -> None:
        self._store, lake = store, LakeWriter(made)
        self._first, *days = lake.sessions()[:sessions]
        for day in days:
            store.put(layout.session_key(day), made.get(layout.session_key(day)))
        self._session = lake.read(self._first)
        self._rest = _by_symbol(pa.concat_tables([empty(), *(lake.read(day).bars for day in days)]))
        self.possible: defaultdict[str, set[Fingerprint]] = defaultdict(set)

    def change(self, drawn: random.Random) -> None:
        """Restate the first session for every symbol, some of them under a name of its own."""
        bars = self._session.bars
        names = [
            f"{name}.NEW" if drawn.random() < RENAMED else name
            for name in bars["symbol"].to_pylist()
        ]
        closes = bars["close"].to_numpy() + drawn.random()
        for name, column in (("symbol", names), ("close", closes)):
            at = SCHEMA.get_field_index(name)
            bars = bars.set_column(at, SCHEMA.field(at), pa.array(column))
        bars = bars.sort_by("symbol")
        ledger = Ledger(self._first, present=tuple(bars["symbol"].to_pylist()))
        changed = Session(bars, ledger, self._session.provenance)
        self._store.put(layout.session_key(self._first), session_file.encode(changed, []))
        now, nothing = _by_symbol(bars), Fingerprint()
        for symbol in now.keys() | self._rest.keys():
            state = now.get(symbol, nothing) + self._rest.get(symbol, nothing)
            self.possible[symbol].add(state)


def _by_symbol(bars: pa.Table) -> dict[str, Fingerprint]:
    """The fingerprint of each symbol's rows."""
    bars = bars.sort_by("symbol")
    names, starts = np.unique(bars["symbol"].to_numpy(), return_index=True)
    return dict(zip(names.tolist(), fingerprints(bars, starts), strict=True))


def _command(uri: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.publication_kills", "--publish", uri]


def _publish(uri: str) -> float:
    """Publish the year in a process of its own; seconds, without its imports."""
    with subprocess.Popen(_command(uri), stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        began = time.perf_counter()
        process.wait()
    if process.returncode:
        sys.exit(f"the publication failed with {process.returncode}")
    return time.perf_counter() - began


def _killed(uri: str, after: float) -> bool:
    """Begin to publish, and kill it after so many seconds; False when it had ended before."""
    with subprocess.Popen(_command(uri), stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(after)
        process.kill()
    return process.returncode == -9


def _check(store: Store, year: _Year, told: Told) -> None:
    """Every object decodes, and has the rows that its symbol has or had."""
    keys = store.list(layout.SYMBOL_YEARS)

    def check(key: str) -> None:
        (symbol, _) = layout.symbol_year(key) or ("", 0)
        bars = symbol_year_file.decode(store.get(key), store.url(key))
        assert fingerprint(bars) in year.possible[symbol], f"{key} has rows that never were"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(check, keys))
    told.objects += len(keys)
    told.between += not SymbolYears(store).manifest(YEAR).whole
    if Path(store.uri).is_dir():
        files = sum(len(names) for _, _, names in os.walk(Path(store.uri) / layout.SYMBOL_YEARS))
        told.litter = max(told.litter, files - len(keys))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--symbols", type=int, default=1_000)
    parser.add_argument("--sessions", type=int, default=252, help="of the year, at most")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the changes")
    parser.add_argument("--to", nargs="+", choices=["folder", "s3"], default=["folder", "s3"])
    parser.add_argument("--publish", metavar="URI", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
