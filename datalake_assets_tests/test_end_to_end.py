"""End to end: the command line in its own process, a server in another, a lake on the disk.

Not here: arguments and messages (`test_cli`). What is proved here is that the program collects
from a server that it only knows by its address, and that killing it harms no lake.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake_assets import market_calendar
from datalake_assets.automation.runs import end_lost
from datalake_assets.collection.dataset import DAILY
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.resources import LakeResource
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.world import World
from datalake_assets_tests.exchange.calling import keys_to

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("KILLS", "4"))
"""Random moments at which a collection is killed; KILLS=20 for an acceptance."""
SEED = int(os.environ.get("KILL_SEED", "0"))
SPAN = market_calendar.previous_sessions(date(2024, 7, 3), 2 * DAILY.window + 10)
"""Three windows, so that sessions are published while others are collected."""


@dataclass(frozen=True)
class Server:
    """An exchange in a process of its own, to its clients no other than Alpaca."""

    url: str

    def log(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.url}/_exchange/requests", timeout=30) as answer:
            return list(json.load(answer))

    def environment(self, **more: str) -> dict[str, str]:
        """Of a person who collects from it: an empty home, the keys, where it is."""
        return {
            "HOME": os.environ["HOME"],
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            **keys_to(self.url, **more),
        }


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """`python -m datalake_assets exchange` on a free port, until the block ends."""
    with subprocess.Popen(
        command("exchange", "--port", "0", *options),
        env={"PYTHONPATH": str(ROOT), "HOME": os.environ["HOME"]},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert " on http://" in line, line
            yield Server(line.rpartition(" on ")[2].strip())
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def symbols() -> str:
    """Some that are listed, with a bar in each session."""
    from datalake_assets.exchange.synthetic import SyntheticMarket

    market = SyntheticMarket(7)
    active = [row["symbol"] for row in market.assets() if row["status"] == "active"]
    tickers = [name for name in active if name.isalpha()]
    return ",".join(tickers[:: len(tickers) // 300][:300])


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "datalake_assets", *arguments]


def collect(
    cwd: Path, environ: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("collect", *arguments),
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def lake_at(folder: Path) -> LakeWriter:
    return LakeWriter(open_store(str(folder)))


def bars(lake: LakeWriter, days: list[date]) -> dict[date, pa.Table]:
    return {day: lake.read(day).bars for day in days}


# --- a server instead of Alpaca ---


def test_collecting_from_a_compatible_server_needs_its_address_and_nothing_else(
    tmp_path: Path,
) -> None:
    """The whole universe of the exchange, as large as the real one, in as few requests as fit."""
    with serving("--requests-per-minute", "0") as server:
        result = collect(tmp_path, server.environment(), "--session", "2024-07-03")
        log = server.log()

    assert result.returncode == 0, result.stderr
    lake = lake_at(tmp_path / ".datalake/lake")
    stored = lake.read(date(2024, 7, 3))
    assert stored.bars.num_rows >= 5_000
    assert lake.source() == f"{server.url.removeprefix('http://')}/sip"
    assert stored.provenance.source == lake.source()
    assert not (tmp_path / ".datalake/embedded").exists()
    asked = [request for request in log if request["path"] == "/v2/stocks/bars"]
    assert {request["path"] for request in log} == {"/v2/stocks/bars", "/v2/assets"}
    assert len(asked) == stored.provenance.collection["requests"]
    names = len(stored.ledger.symbols)
    assert len(asked) == -(-names // 500) + len(stored.ledger.rejected)
    assert sum(request["path"] == "/v2/assets" for request in log) == 1


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_lake_of_a_server_and_one_of_the_embedded_exchange_never_mix(
    tmp_path: Path, symbols: str
) -> None:
    few = ",".join(symbols.split(",")[:5])
    uri = str(tmp_path / "lake")
    with serving("--requests-per-minute", "0") as server:
        remote = server.environment(DATALAKE_URI=uri, DATALAKE_SYMBOLS=few)
        embedded = {n: v for n, v in remote.items() if not n.startswith("ALPACA_")}

        assert collect(tmp_path, remote, "--session", "2024-07-03").returncode == 0
        held = files(tmp_path / "lake")
        refused = collect(tmp_path, embedded, "--session", "2024-07-05")

        assert refused.returncode == 2
        assert "nothing was written" in " ".join(refused.stderr.split())
        assert files(tmp_path / "lake") == held

        other = {"DATALAKE_URI": str(tmp_path / "embedded")}
        assert collect(tmp_path, embedded | other, "--session", "2024-07-05").returncode == 0
        before = len(server.log())
        refused = collect(tmp_path, remote | other, "--session", "2024-07-03")

        assert refused.returncode == 2
        assert "embedded exchange" in refused.stderr
        assert lake_at(tmp_path / "embedded").sessions() == [date(2024, 7, 5)]
        assert len(server.log()) == before, "nothing was asked for either"


# --- killed ---


@pytest.fixture(scope="module")
def slow_server() -> Iterator[Server]:
    """Slow enough that a kill falls into a collection; each of its requests takes 50 ms."""
    with serving("--requests-per-minute", "0", "--latency", "0.05") as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(
    slow_server: Server, symbols: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[float, dict[date, pa.Table]]:
    """How long a whole collection takes, and the bars that it brings."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    environ = slow_server.environment(DATALAKE_SYMBOLS=symbols)
    result = collect(folder, environ, "--from", f"{SPAN[0]}", "--to", f"{SPAN[-1]}")
    assert result.returncode == 0, result.stderr
    took = time.monotonic() - began
    return took, bars(lake_at(folder / ".datalake/lake"), SPAN)


def assert_whole(folder: Path) -> None:
    """Every object in the lake can be read to its last byte, and none is a leftover."""
    if not folder.exists():
        return
    lake = lake_at(folder)
    for key in lake.store.list(""):
        if key == layout.MARKER:
            assert json.loads(lake.store.get(key)).keys() == {"format", "source"}
        elif key.startswith(
            (layout.UNIVERSE, layout.MANIFESTS, layout.SYMBOL_YEARS, f"{layout.YEARS}/")
        ):
            assert pq.read_table(folder / key).num_rows > 0
        else:
            assert key.startswith((layout.SESSIONS, layout.INCOMPLETE)), key
    for day in lake.sessions():
        assert lake.read(day).bars.num_rows == len(lake.read(day).ledger.present)
    for day in lake.incomplete():
        assert lake.stored(day) is not None


def test_a_collection_killed_at_random_moments_leaves_the_lake_whole_each_time(
    slow_server: Server,
    symbols: str,
    undisturbed: tuple[float, dict[date, pa.Table]],
    tmp_path: Path,
) -> None:
    took, expected = undisturbed
    draw = random.Random(SEED)
    environ = slow_server.environment(DATALAKE_SYMBOLS=symbols)
    span = ("--from", f"{SPAN[0]}", "--to", f"{SPAN[-1]}")
    lake = tmp_path / ".datalake/lake"
    killed, held = 0, list[tuple[int, int]]()
    for _ in range(KILLS):
        process = subprocess.Popen(
            command("collect", *span),
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        began = time.monotonic()
        try:
            # From when its imports are through, to when it would end.
            process.wait(draw.uniform(0.4, 1.0) * took)
            # The machine was busier when the undisturbed one was timed.
            took = min(took, time.monotonic() - began)
        except subprocess.TimeoutExpired:
            killed += 1
        finally:
            process.kill()
            process.wait()
        assert_whole(lake)
        found = lake_at(lake)
        # What stands in its place is right, not only readable.
        assert all(table == expected[day] for day, table in bars(found, found.sessions()).items())
        held.append((len(found.sessions()), len(found.incomplete())))

    print(f"killed {killed} times; sessions published and incomplete after each: {held}")
    assert killed >= KILLS / 3, "too few of the kills fell into a collection to prove anything"
    result = collect(tmp_path, environ, *span)
    assert result.returncode == 0, result.stderr
    assert_whole(lake)
    found = lake_at(lake)
    assert found.sessions() == SPAN
    assert found.incomplete() == []
    assert bars(found, SPAN) == expected


@pytest.mark.parametrize("container", [False, True], ids=["same host name", "another host name"])
def test_a_killed_collection_is_in_nobodys_way(
    slow_server: Server,
    symbols: str,
    tmp_path: Path,
    container: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither the sensor nor the next command waits for it, nor do they need its host's name."""
    environ = slow_server.environment(DATALAKE_SYMBOLS=symbols)
    renamed = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$0" "$@"']
    if container and subprocess.run([*renamed, "true"], check=False).returncode:
        pytest.skip("a host can't be given another name here")
    span = command("collect", "--from", f"{SPAN[0]}", "--to", f"{SPAN[-1]}")
    home = tmp_path / ".datalake/dagster"
    home.mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    # Made before, as two processes can't make its tables at the same time.
    _started(home)
    process = subprocess.Popen([*renamed * container, *span], cwd=tmp_path, env=environ)
    try:
        deadline = time.monotonic() + 60
        while not _started(home):
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with dg.DagsterInstance.from_config(str(home)) as records:
            assert end_lost(records, datetime.now(UTC)) == [], "it lives"
    finally:
        process.kill()
        process.wait()
    with dg.DagsterInstance.from_config(str(home)) as records:
        world = World(
            tmp_path,
            market_calendar.session_close(SPAN[0]) + timedelta(hours=8),
            {"DATALAKE_START_DATE": f"{SPAN[0]}"},
        )
        world.instance = records
        assert [one.partition_key for one in world.tick("new_sessions")] == [f"{SPAN[0]}"]
        (run,) = records.get_runs()
        assert run.status is dg.DagsterRunStatus.FAILURE
        events = [entry.dagster_event for entry in records.all_logs(run.run_id)]
        assert any("was killed" in str(event and event.message) for event in events)


def test_what_was_stopped_by_ctrl_c_is_left_alone_by_the_sensor_that_repairs(
    slow_server: Server, symbols: str, tmp_path: Path
) -> None:
    environ = slow_server.environment(DATALAKE_SYMBOLS=symbols)
    span = command("collect", "--from", f"{SPAN[0]}", "--to", f"{SPAN[-1]}")
    asked = len(slow_server.log())
    process = subprocess.Popen(span, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(slow_server.log()) < asked + 4 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    lake = lake_at(tmp_path / ".datalake/lake")
    assert (waiting := lake.incomplete()), "it was stopped too late to leave anything"
    now = datetime.now(UTC)
    world = World(tmp_path, now, {"DATALAKE_START_DATE": f"{SPAN[0]}"})
    world.lake = LakeResource(uri=lake.store.uri)

    assert world.tick("repair") == []
    assert f"{waiting[0]}: its collection was stopped by hand" in world.skipped
    world.clock.time = now + timedelta(hours=25)
    assert f"{waiting[0]}" in {one.partition_key for one in world.tick("repair")}


def _started(home: Path) -> bool:
    with dg.DagsterInstance.from_config(str(home)) as records:
        return any(run.status is dg.DagsterRunStatus.STARTED for run in records.get_runs())
