"""The job of each evening: what its symbol-years cost, by CPU, memory and writes.

A lake of random walks (`symbol_years.make_lake`) is made in `--lake`. Of its last year the last
session is taken away, and the one before it is restated for every symbol, so that nearly every
symbol-year is to be written: as much as a new session at the end of a year makes. Then, each in a
process of its own that counts what it writes:

- `evening`: what `datalake collect` and the sensor do with a running year in the middle of a week;
- `publish`: what they do with the last session of a week, and each evening when
  DATALAKE_RUNNING_YEAR is `daily`: publish, and prove what was written;
- `whole`: publish again, which finds nothing to write, and prove all of the year.

    python -m benchmarks.daily [--symbols 11000] [--lake .datalake/benchmark11000] [--to folder s3]
        [--rounds 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa

from benchmarks import measuring
from benchmarks.symbol_years import LAST_YEAR, make_lake
from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.clock import Clock
from datalake_assets.lake import session_file
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets.storage.upload import files, upload

TODAY, LAST = market_calendar.sessions(date(LAST_YEAR, 12, 1), date(LAST_YEAR, 12, 31))[-2:]
"""The session that is restated, and the last of its week and year, which is taken away."""


class _Counting(Store):
    """A store that counts the writes that are asked of it."""

    def __init__(self, store: Store, writes: Counter[str]) -> None:
        vars(self).update(vars(store))
        self._writes = writes

    def replace(self, key: str, data: bytes, version: str | None) -> str:
        self._writes["put"] += 1
        return super().replace(key, data, version)


class _ThatEvening(Clock):
    """The evening of that session."""

    def now(self) -> datetime:
        return market_calendar.session_close(TODAY).astimezone(UTC) + timedelta(hours=2)


def main() -> None:
    """Measure, or do one of it in this process when told so."""
    given = _arguments()
    if given.only:
        print(json.dumps(_do(given.only, given.uri)))
        return
    make_lake(given.lake, range(LAST_YEAR, LAST_YEAR + 1), given.symbols)
    print(f"{'to':<8}{'what':<10}{'written':>9}{'PUTs':>8}{'wall, s':>9}{'CPU, s':>8}{'MiB':>6}")
    for place in given.to:
        if place == "folder":
            _measure(place, str(given.lake), given.rounds)
            continue
        from datalake_assets_tests.seaweedfs import BUCKET, seaweedfs

        with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder)) as server:
            os.environ.update(server.environ(), NO_PROXY="127.0.0.1")
            uri = f"s3://{BUCKET}/lake"
            there = open_store(uri, retry=False)
            sent = upload(files(given.lake / layout.SESSIONS), partial(_put, there))
            assert sent.passed, sent.failed
            _measure(place, uri, given.rounds)


def _put(store: Store, key: str, data: bytes) -> None:
    store.put(f"{layout.SESSIONS}/{key}", data)


def _measure(place: str, uri: str, rounds: int) -> None:
    store = open_store(uri)
    store.delete(layout.session_key(LAST))
    SymbolYears(store, open_store(uri, retry=False)).publish(LAST_YEAR)
    for _ in range(rounds):
        _restate(store)
        for what in ("evening", "publish", "whole"):
            began = time.perf_counter()
            command = [sys.executable, "-m", "benchmarks.daily", "--only", what, "--uri", uri]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                said = process.stdout.read()
                _, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0, said
            told = json.loads(said)
            cpu = used.ru_utime + used.ru_stime
            print(
                f"{place:<8}{what:<10}{told['written']:>9,}{told['puts']:>8,}"
                f"{time.perf_counter() - began:>9.1f}{cpu:>8.1f}{told['peak']:>6.0f}",
                flush=True,
            )


def _do(what: str, uri: str) -> dict[str, float]:
    writes: Counter[str] = Counter()
    store = _Counting(open_store(uri), writes)
    years = SymbolYears(store, _Counting(open_store(uri, retry=False), writes), _ThatEvening())
    written = 0
    if what != "evening" or years.due(LAST_YEAR, weekly=True):
        done = years.publish(LAST_YEAR)
        written = len(done.uploaded)
        proof = (
            years.prove(LAST_YEAR)
            if what == "whole"
            else years.prove_published(LAST_YEAR, done.uploaded, done)
        )
        assert proof.holds, list(proof.differing.items())[:3]
    return {"written": written, "puts": writes["put"], "peak": measuring.peak()}


def _restate(store: Store) -> None:
    """Let every symbol of that session have traded one share more."""
    key = layout.session_key(TODAY)
    session = session_file.decode(store.get(key), key)
    at = SCHEMA.get_field_index("volume")
    volume = pa.array(session.bars["volume"].to_numpy() + 1)
    bars = session.bars.set_column(at, SCHEMA.field(at), volume)
    store.put(key, session_file.encode(Session(bars, session.ledger, session.provenance), []))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=11_000)
    parser.add_argument("--lake", type=Path, default=Path(".datalake/benchmark11000"))
    parser.add_argument("--to", nargs="+", choices=["folder", "s3"], default=["folder", "s3"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("evening", "publish", "whole"), help=argparse.SUPPRESS)
    parser.add_argument("--uri", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
