"""Kill and resume: `kill -9` at random moments while actions, securities and factors are written.

A lake is collected from an exchange in this process. Then a process of its own runs the jobs of the
three assets, `corporate_actions_job` and `securities_job`, and is killed at a random moment soon
after each of their writes in turn. After each kill every object of the three assets must decode,
the log of actions and the registry of identifiers must hold all that they held before, and the lake
must be readable. Before each start the clock moves by a month, so that there are new actions, and a
decision of the user is added, so that the tables change. In the end the jobs run through: the
tables must be those that the same jobs write into a lake where nobody was killed.

    python -m benchmarks.securities_kills [--kills 12] [--symbols 300] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.surroundings import KEYS, QUIET, UNLIMITED
from benchmarks.truth import Moved, World
from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.securities.decisions import Decision, decide, read_decisions
from datalake_assets.securities.derivation import read_securities
from datalake_assets.securities.findings import read_findings
from datalake_assets.securities.registry import read_registry
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

FIRST, LAST = date(2023, 1, 3), date(2024, 6, 28)
MONTH = timedelta(days=31)
STEPS = {
    "the log": layout.ACTION_LOG,
    "what stands": layout.STANDING_ACTIONS,
    "evidence": layout.EVIDENCE,
    "securities": layout.SECURITIES_TABLE,
    "factors": layout.FACTORS_TABLE,
    "spans": layout.CUMULATIVE_TABLE,
}
"""What the jobs write, in this order."""

TABLES = (
    layout.SECURITIES_TABLE,
    layout.FACTORS_TABLE,
    layout.CUMULATIVE_TABLE,
    layout.FINDINGS_TABLE,
)
JOBS = ("corporate_actions_job", "securities_job")


@dataclass
class Told:
    """What the kills did."""

    objects: int = 0
    moments: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Run the jobs in this process when told so; else kill those who do."""
    given = _arguments()
    if given.run:
        _run(given.run, given.url, datetime.fromisoformat(given.at))
        return
    drawn, told = random.Random(given.seed), Told()
    market = SyntheticMarket(active=given.symbols, inactive=given.symbols // 3)
    world = World(market, market_calendar.sessions(FIRST, LAST))
    with tempfile.TemporaryDirectory() as folder, ExchangeServer(world.exchange) as server:
        made, whole = Path(folder) / "killed", Path(folder) / "whole"
        lake = LakeWriter(open_store(str(made)), world.clock)
        world.collect(lake, server.url)
        _whole(made, server.url, world)
        shutil.copytree(made, whole)
        for number in range(given.kills):
            world.clock.offset += MONTH
            for place in (made, whole):
                _decide(LakeFiles(open_store(str(place))), number)
            before = _state(lake)
            name = [*STEPS, None][number % (len(STEPS) + 1)]
            later = drawn.expovariate(20) if name else drawn.uniform(0, 1)
            changed = _kill(made, server.url, world, name, later)
            told.objects += _check(lake, before)
            told.moments[changed] = told.moments.get(changed, 0) + 1
            print(f"kill {number + 1}: {changed}", flush=True)
        _whole(made, server.url, world)
        _whole(whole, server.url, world)
        _compare(lake, LakeFiles(open_store(str(whole))))
    print(
        f"{given.kills} kills, {told.objects:,} objects decoded; in the end the same tables as "
        "where nobody was killed"
    )
    print("written when it was killed:", told.moments)


def _run(uri: str, url: str, at: datetime) -> None:
    import dagster as dg

    from datalake_assets.definitions import build_definitions
    from datalake_assets.resources import AlpacaResource, CollectorResource, LakeResource
    from datalake_assets.settings import Settings

    definitions = build_definitions(
        Settings.load({}),
        collector=CollectorResource(requests_per_minute=UNLIMITED),
        source=AlpacaResource(api_key=KEYS[0], secret_key=KEYS[1], data_url=url, trading_url=url),
        lake=LakeResource(uri=uri),
        clock=Moved(at),
    )
    jobs = [definitions.resolve_job_def(name) for name in JOBS]
    print("ready", flush=True)
    with dg.DagsterInstance.ephemeral() as instance:
        for job in jobs:
            assert job.execute_in_process(instance=instance, run_config=QUIET).success


def _start(place: Path, url: str, world: World) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.securities_kills"),
        *("--run", str(place), "--url", url, "--at", world.clock.now().isoformat()),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    process.stdout.readline()
    return process


def _whole(place: Path, url: str, world: World) -> None:
    """Run the jobs to their end."""
    with _start(place, url, world) as process:
        process.wait()
    if process.returncode:
        sys.exit(f"the jobs failed with {process.returncode}")


def _kill(place: Path, url: str, world: World, name: str | None, later: float) -> str:
    """Kill the jobs soon after a write, whatever the machine's load; what they had written.

    Args:
        place: The lake.
        url: The exchange's.
        world: Whose clock they take.
        name: After a change of what: one of `STEPS`; None: after their start.
        later: Seconds to wait after that.
    """
    store, key = open_store(str(place)), STEPS[name] if name else ""
    before, stamps = _versions(store), _stamps(place, key)
    with _start(place, url, world) as process:
        while name and process.poll() is None and _stamps(place, key) <= stamps:
            time.sleep(0.001)
        time.sleep(later)
        process.kill()
    changed = {key for key, version in _versions(store).items() if before.get(key) != version}
    wrote = [name for name, key in STEPS.items() if any(each.startswith(key) for each in changed)]
    return (wrote[-1] + " written last") if wrote else "nothing written"


def _stamps(place: Path, key: str) -> set[tuple[str, int]]:
    """The files of a key, or of those that begin with it, and the instant of their last change."""
    found = set()
    paths = [place / key] if key.endswith(".parquet") else list((place / key).glob("*.parquet"))
    for path in paths:
        with suppress(FileNotFoundError):  # not there yet
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def _versions(store: Any) -> dict[str, bytes]:
    keys = [key for key in store.list("") if key.startswith(OF_THE_ASSETS)]
    return {key: bytes(store.get(key)) for key in keys}


OF_THE_ASSETS = (f"{layout.ACTIONS}/", f"{layout.SECURITIES}/")


def _decide(lake: LakeFiles, number: int) -> None:
    """A dividend that somebody adds: it changes factors, and belongs to the user for ever."""
    symbol = Lake(lake.store).symbols()[10 + number]
    day = market_calendar.sessions(date(2024, 3, 1), date(2024, 5, 31))[number]
    added = Decision(
        "add",
        "me",
        datetime(2024, 7, 1, tzinfo=UTC),
        "for the kill",
        symbol=symbol,
        day=day,
        kind="dividend",
        amount=0.01,
    )
    decide(lake.store, added)


@dataclass(frozen=True)
class State:
    """What no kill may lose."""

    sweeps: int
    events: int
    identifiers: frozenset[str]
    decisions: int


def _state(lake: LakeFiles) -> State:
    log, (registry, _) = ActionLog(lake.store), read_registry(lake.store)
    return State(
        sum(1 for _ in log.sweeps()),
        log.events().num_rows,
        frozenset(row[0] for row in registry.rows),
        len(read_decisions(lake.store).made),
    )


def _check(lake: LakeFiles, before: State) -> int:
    """Decode all, and hold it against what was there; the number of objects."""
    store = lake.store
    keys = [key for key in store.list("") if key.startswith(OF_THE_ASSETS)]
    for key in keys:
        data = store.get(key)
        if key.endswith(".parquet"):
            pq.read_table(pa.BufferReader(data))
        else:
            json.loads(data)
    after = _state(lake)
    assert after.sweeps >= before.sweeps, "a sweep is lost"
    assert after.events >= before.events, "an event is lost"
    assert after.identifiers >= before.identifiers, "an identifier is lost"
    assert after.decisions == before.decisions, "a decision is lost"
    ids = ActionLog(store).events()["id"].to_pylist()
    assert set(ActionLog(store).current()["id"].to_pylist()) <= set(ids)
    securities = read_securities(store)
    assert set(securities["security"].to_pylist()) <= after.identifiers
    read_findings(store)
    fresh = Lake(store)
    symbol = fresh.symbols()[5]
    assert fresh.bars(symbol, adjustment="all").num_rows == fresh.bars(symbol).num_rows
    return len(keys)


def _compare(lake: LakeFiles, whole: LakeFiles) -> None:
    for key in TABLES:
        one, other = (pq.read_table(pa.BufferReader(at.store.get(key))) for at in (lake, whole))
        assert one.equals(other), f"{key} is another one"
    one, other = (ActionLog(at.store).current() for at in (lake, whole))
    assert one.equals(other), "other actions stand"
    assert read_registry(lake.store)[0] == read_registry(whole.store)[0], "other identifiers"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--symbols", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--at", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
