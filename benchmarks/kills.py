"""Kill and resume: `kill -9` at random moments of a long backfill, which is then continued.

`datalake backfill` runs as a process of its own against an exchange in this one, used as Alpaca is:
with keys and URLs, under a rate limit. It is killed at a random moment and started again with the
same command, until all kills are spent, and then let to its end; if it ends sooner, what it made is
compared and another lake is begun. After each kill every object of the lake must decode. At the
end the lake must hold what an uninterrupted backfill brought, value by value, and Dagster must
know each session as materialized.

The exchange notes what it was asked for. A session that was published before a kill must not be
asked for again; what is asked for again is what was under way, at most three windows of 63.

With `--minutes` it is `datalake backfill --minutes` that is killed, of the last sessions of the
period, and at most two of them are under way. Their daily bars are collected before, without kills.

    python -m benchmarks.kills [--kills 30] [--years 3] [--symbols 2000] [--per-minute 400]
        [--within 8] [--seed 1]
    python -m benchmarks.kills --minutes [--sessions 21] --kills 20 --per-minute 2000
"""

from __future__ import annotations

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from urllib.parse import parse_qsl

import pyarrow.parquet as pq

from benchmarks.compare_lakes import differences
from benchmarks.measuring import ROOT
from benchmarks.surroundings import LAST, UNLIMITED, user_environment, years_until_last
from datalake_assets import market_calendar
from datalake_assets.collection.dataset import DAILY, MINUTE, Dataset
from datalake_assets.exchange.process import ExchangeOptions, ExchangeServer
from datalake_assets.exchange.server import Exchange, Receive, Scope, Send
from datalake_assets.lake import session_file
from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

TIMEFRAMES = {DAILY.name: "1Day", MINUTE.name: "1Min"}
"""As requests name the bars of a dataset."""

ENDING = 1_800  # seconds within which a backfill that nobody kills must end


@dataclass(frozen=True)
class Asked:
    """One request for bars: so many symbols, from one day to another."""

    symbols: int
    first: date
    last: date


class NotingExchange(Exchange):
    """An exchange that notes which bars it was asked for."""

    def __init__(self, options: ExchangeOptions, timeframe: str) -> None:
        super().__init__(options.market(), latency=options.latency)
        self._timeframe = timeframe
        self.asked: list[Asked] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note a question for bars of the timeframe, and answer it; the survey's are for years."""
        query = dict(parse_qsl(scope.get("query_string", b"").decode()))
        if query.get("timeframe") == self._timeframe:
            self.asked.append(
                Asked(
                    query["symbols"].count(",") + 1,
                    date.fromisoformat(query["start"][:10]),
                    date.fromisoformat(query["end"][:10]),
                )
            )
        await super().__call__(scope, receive, send)


@dataclass
class Told:
    """What the kills did."""

    kills: int = 0
    early: int = 0  # before the first request
    objects: int = 0  # decoded after the kills
    litter: int = 0  # staged files of killed writers, seen after the kills
    lost: list[int] = field(default_factory=list)  # sessions that each kill made to be asked again
    again: list[int] = field(default_factory=list)  # … and the requests that had asked for them


class Place:
    """A lake and Dagster's records, in a folder, with the command that fills them."""

    def __init__(self, folder: Path, url: str, given: argparse.Namespace, per_minute: int) -> None:
        self.home, self.dataset = folder / "dagster", _dataset(given)
        self.lake = LakeFiles(open_store(str(folder / "lake"))).of(self.dataset)
        self._folder = folder
        first = _days(given)[0]
        self._environment = user_environment(folder, url, per_minute, first) | {
            "PYTHONPATH": str(ROOT),
            "DATALAKE_MINUTES": "regular" if given.minutes else "off",
        }
        self._command = [
            *(sys.executable, "-W", "ignore", "-m", "datalake_assets", "backfill"),
            *("--from", str(first), "--to", str(LAST)),
        ]
        if given.minutes:
            daily = self.start()
            daily.wait(ENDING)
            self.check_end(daily)
            self._command.append("--minutes")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the backfill; what it says goes to a file."""
        with (self._folder / "said").open("ab") as said:
            return subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def check_end(self, process: subprocess.Popen[bytes]) -> None:
        """Stop here when a backfill that was not killed failed."""
        if process.returncode:
            said = (self._folder / "said").read_text(errors="replace")
            sys.exit(f"the backfill failed with {process.returncode}; it said:\n{said[-4_000:]}")


def main() -> None:
    """Run an uninterrupted backfill, then one with kills, and compare them."""
    given = _arguments()
    options = ExchangeOptions(active=given.symbols, inactive=0, latency=0.05)
    noting = NotingExchange(options, TIMEFRAMES[_dataset(given).name])
    with ExchangeServer(noting) as server, tempfile.TemporaryDirectory() as folder:
        whole = Place(Path(folder) / "whole", server.url, given, UNLIMITED)
        startup = _uninterrupted(whole, noting)
        requests = len(noting.asked)
        print(
            f"uninterrupted, without a limit: {len(_days(given))} sessions, {requests} requests, "
            f"the first of them after {startup:.1f} s",
            flush=True,
        )
        told, drawn, lakes = Told(), random.Random(given.seed), 0
        began = time.perf_counter()
        while told.kills < given.kills:
            lakes += 1
            place = Place(Path(folder) / f"killed-{lakes}", server.url, given, given.per_minute)
            noting.asked.clear()
            _with_kills(place, noting, told, given, drawn, startup)
            sent = len(noting.asked)
            _compare(place, whole)
            _check_records(place, given)
            print(
                f"lake {lakes}: the same as the uninterrupted one, {sent} requests for {requests}",
                flush=True,
            )
        print(
            f"{told.kills} kills in {time.perf_counter() - began:.0f} s, {told.early} before the "
            f"first request; {told.objects:,} objects decoded after them; {told.litter} staged "
            f"files of killed writers; asked again after a kill: {max(told.lost)} sessions at most "
            f"(bound {_under_way(_dataset(given))}), {sum(told.lost) / len(told.lost):.1f} on "
            f"average, by {max(told.again)} requests at most, {sum(told.again)} in all"
        )


def _days(given: argparse.Namespace) -> list[date]:
    days = years_until_last(given.years)
    return days[-given.sessions :] if given.minutes else days


def _dataset(given: argparse.Namespace) -> Dataset:
    return MINUTE if given.minutes else DAILY


def _under_way(dataset: Dataset) -> int:
    """Sessions that a kill can lose."""
    return dataset.under_way * dataset.window


def _uninterrupted(place: Place, noting: NotingExchange) -> float:
    """Let a backfill run to its end; the seconds until its first request for bars."""
    noting.asked.clear()
    began = time.perf_counter()
    process = place.start()
    while not noting.asked and process.poll() is None:
        time.sleep(0.02)
    startup = time.perf_counter() - began
    process.wait(ENDING)
    place.check_end(process)
    return startup


def _with_kills(
    place: Place,
    noting: NotingExchange,
    told: Told,
    given: argparse.Namespace,
    drawn: random.Random,
    startup: float,
) -> None:
    """Kill and start again, until the kills are spent; then let the backfill end."""
    while True:
        published, before = frozenset(place.lake.sessions()), len(noting.asked)
        process = place.start()
        # Of the start its end is enough: nothing is under way in it.
        moment = drawn.uniform(0.75 * startup, startup + given.within)
        try:
            process.wait(moment if told.kills < given.kills else ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _check_asked(noting.asked[before:], published)
        if process.returncode != -9:
            place.check_end(process)
            return
        told.kills += 1
        # What was sent before the kill may still be on its way to the exchange's notes.
        time.sleep(0.2)
        asked = noting.asked[before:]
        told.early += not asked
        decoded = _check_objects(place)
        told.objects += decoded
        told.litter += _litter(place)
        held = frozenset(place.lake.sessions())
        lost = {day for request in asked for day in _between(request)} - held
        assert len(lost) <= _under_way(place.dataset), f"a kill lost {len(lost)} sessions"
        told.lost.append(len(lost))
        told.again.append(sum(1 for request in asked if lost.intersection(_between(request))))
        print(
            f"kill {told.kills} after {moment:.1f} s: {len(asked)} requests, "
            f"{len(held - published)} sessions published, {len(lost)} under way; "
            f"{len(held)} in the lake",
            flush=True,
        )


def _between(request: Asked) -> list[date]:
    return market_calendar.sessions(request.first, request.last)


def _check_asked(asked: Sequence[Asked], published: frozenset[date]) -> None:
    """What was published when the backfill started is not asked for."""
    twice = sorted(published.intersection(day for each in asked for day in _between(each)))
    assert not twice, f"{len(twice)} published sessions were asked for again: {twice[:5]}"


def _check_objects(place: Place) -> int:
    """Decode every object of the lake, checksums included; their number."""
    store = place.lake.store
    keys = store.list("")
    folders = tuple(
        f"{folder}/" for of in layout.FOLDERS.values() for folder in (of.sessions, of.incomplete)
    )
    for key in keys:
        if key.startswith(folders):
            session_file.decode(store.get(key), key)
        elif key.endswith(".parquet"):  # a backfill goes on with the years
            pq.read_table(io.BytesIO(store.get(key)), page_checksum_verification=True)
        else:
            assert key == layout.MARKER, f"{key} is no object of a lake"
            assert place.lake.source(), f"{key} tells no source"
    return len(keys)


def _litter(place: Place) -> int:
    """Files in the lake's folder that are no objects: what killed writers had staged."""
    root = Path(place.lake.store.uri)
    files = sum(1 for path in root.rglob("*") if path.is_file()) if root.exists() else 0
    return files - len(place.lake.store.list(""))


def _compare(place: Place, whole: Place) -> None:
    """Both lakes hold the same sessions, with the same bars, ledgers and audits."""
    assert place.lake.incomplete() == [], "sessions wait for a repair"
    found = list(differences(place.lake.store, whole.lake.store))
    assert not found, f"{len(found)} differences: {found[:5]}"


def _check_records(place: Place, given: argparse.Namespace) -> int:
    """Dagster knows every session as materialized, and no run as going on.

    Returns:
        Runs whose process was killed between making their record and starting it. They take no
        place in the queue, and nobody ends them.
    """
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(place.home)  # from where its configuration has the folder
    with dg.DagsterInstance.from_config(str(place.home)) as instance:
        asset = dg.AssetKey("minute_ticks" if given.minutes else "daily_ticks")
        known = instance.get_materialized_partitions(asset)
        assert known == {day.isoformat() for day in _days(given)}, "Dagster knows other sessions"
        unfinished = [run for run in instance.get_runs() if not run.is_finished]
    going_on = [run for run in unfinished if run.status != dg.DagsterRunStatus.NOT_STARTED]
    assert not going_on, f"runs that seem to go on: {going_on}"
    return len(unfinished)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--years", type=int, default=3)
    parser.add_argument("--symbols", type=int, default=2_000, help="active ones of the market")
    parser.add_argument("--per-minute", type=int, default=400, help="requests, while killed")
    parser.add_argument("--within", type=float, default=8, help="seconds of collecting, at most")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--minutes", action="store_true", help="kill collections of minute bars")
    parser.add_argument("--sessions", type=int, default=21, help="of minute bars")
    return parser.parse_args()


if __name__ == "__main__":
    main()
