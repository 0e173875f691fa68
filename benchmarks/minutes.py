"""Sessions of minute bars, as a user collects them: CPU, memory, requests and bytes, by limits.

The exchange's answers are recorded once and replayed by a process of its own (`benchmarks.replay`).
Each measurement begins with an empty lake. A process that is not measured collects the daily bars
of the sessions and of those before them. Then a fresh process collects the minutes in one
Dagster run, with the settings and records that `datalake collect --minutes` has. Its CPU is that of
the whole process, with imports, and `collecting` is the part of it from the first session's plan to
the end of the last one.

Symbols of the embedded exchange have fewer minutes than real ones: 11,000 bring 2.4 million bars.
By default there are so many symbols that a session has three million bars, as a real one has.

    python -m benchmarks.minutes FOLDER [--symbols 14400] [--sessions 1 3] [--per-minute 10000]
        [--latency 0.05] [--rounds 1] [--record] [--pure] [--stages]

`--pure` turns the compiled decoder off. `--stages` tells once more, in a run that is not measured,
where the CPU goes. `--per-minute 200` takes a minute and a half for each session.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.collecting import collected, print_stages
from benchmarks.replay import Replay, Told
from benchmarks.surroundings import (
    LAST,
    UNLIMITED,
    run_job,
    user_environment,
    working_folder,
)
from datalake_assets.exchange.process import ExchangeOptions

PAGE = 10_000

DAILY_SESSIONS = 10
"""Sessions with daily bars, always as many, so that a recording serves each measurement: the ones
collected, five at most, and the five before them."""

HEAD = (
    "sessions, decoder",
    "bars",
    "wall, s",
    "CPU, s",
    "collecting, CPU s",
    "… a session",
    "server's CPU, s",
    "peak, MiB",
    "bytes a bar",
    "requests",
    "of the floor",
    "used",
)


def main() -> None:
    """Measure in fresh processes, or one way in this process when told so."""
    given = _arguments()
    if given.only is not None:
        measuring.tell(WAYS[given.only](given))
        return
    options = ExchangeOptions(active=given.symbols, inactive=0)
    if given.record or not given.folder.exists():
        began = time.perf_counter()
        with Replay(given.folder, record=options, latency=0.0) as replay:
            _collect(given, max(given.sessions), replay, UNLIMITED)
            requests = len(replay.told().arrivals)
        took = time.perf_counter() - began
        print(f"recorded {requests:,} requests in {took:.0f} s", flush=True)
    print(f"{measuring.machine()}; python -m benchmarks.minutes {' '.join(sys.argv[1:])}")
    for _ in range(given.rounds):
        measuring.print_table(HEAD, (_row(given, _measured(given, n)) for n in given.sessions))
    if given.stages:
        for sessions in given.sessions:
            print_stages(_measured(given, sessions, "--stages"))


def _measured(given: argparse.Namespace, sessions: int, *words: str) -> dict[str, Any]:
    """Collect so many sessions into an empty lake."""
    with Replay(given.folder, per_minute=given.per_minute, latency=given.latency) as replay:
        figures = _collect(given, sessions, replay, given.per_minute, *words)
        told = replay.told()
    told.require_recorded()
    return figures | {"told": told}


def _collect(
    given: argparse.Namespace, sessions: int, replay: Replay, per_minute: int, *words: str
) -> dict[str, Any]:
    """The daily bars and then the minutes, each in a process of its own; what the minutes took."""
    with tempfile.TemporaryDirectory() as folder:
        first = _days(DAILY_SESSIONS)[0]
        environment = user_environment(Path(folder), replay.url, per_minute, first)
        environment["DATALAKE_MINUTES"] = "regular"

        def alone(way: str, *more: str) -> dict[str, Any]:
            return measuring.alone(
                "minutes",
                *(str(given.folder.resolve()), "--only", way, "--sessions", str(sessions), *more),
                environment=environment,
            )

        alone("daily")
        before = len(replay.told().arrivals)
        pure = ["--pure"] if given.pure else []
        return alone("minutes", *pure, *words) | {"before": before}


def _row(given: argparse.Namespace, figures: dict[str, Any]) -> tuple[str, ...]:
    told: Told = figures["told"]
    bars, arrivals = figures["bars"], told.arrivals[figures["before"] :]
    floor = sum(math.ceil(rows / PAGE) for rows in figures["rows"])
    limit = given.per_minute / 60 * (arrivals[-1] - arrivals[0])
    return (
        f"{len(figures['rows'])}, {figures['decoder']}",
        f"{bars:,}",
        f"{figures['wall']:.1f}",
        f"{figures['cpu']:.1f}",
        f"{figures['collecting']:.1f}",
        f"{figures['collecting'] / len(figures['rows']):.2f}",
        f"{told.cpu:.1f}",
        f"{figures['peak']:,.0f}",
        f"{figures['size'] / bars:.2f}",
        f"{len(arrivals):,}",
        f"{len(arrivals) / floor:.3f}",
        f"{(len(arrivals) - 1) / limit:.1%}",
    )


def _days(count: int) -> list[date]:
    """The last sessions of a year, none of the last five a half day."""
    from datalake_assets import market_calendar

    return [*market_calendar.previous_sessions(LAST, count - 1), LAST]


# --- in a process of its own ----------------------------------------------------------------------


def _daily_here(given: argparse.Namespace) -> dict[str, Any]:
    """Collect the daily bars that minutes are planned by and held against."""
    from datalake_assets.cli.runs import instance
    from datalake_assets.definitions import build_definitions
    from datalake_assets.settings import Settings

    days = _days(DAILY_SESSIONS)
    with working_folder(), instance() as records:
        definitions = build_definitions(Settings.load())
        run_job(definitions, "daily_ticks_job", records, days[0], days[-1])
    return {}


def _minutes_here(given: argparse.Namespace) -> dict[str, Any]:
    """Collect the minutes with the settings of the environment."""
    days = _days(given.sessions[0])
    uri, took = collected(
        "minute_ticks_job", days[0], days[-1], pure=given.pure, by_stage=given.stages
    )
    rows, size = _held(uri, days)
    return {"bars": sum(rows), "rows": rows, "size": size, "sessions": len(days), **took}


def _held(uri: str, days: list[date]) -> tuple[list[int], int]:
    """The bars of each session in the lake, and the bytes of all of their files."""
    from datalake_assets.lake import session_file
    from datalake_assets.storage import layout
    from datalake_assets.storage.store import open_store

    store = open_store(uri)
    keys = [layout.session_key(day, layout.MINUTE) for day in days]
    ends = {key: session_file.read_footer(store, key) for key in keys}
    rows = [session_file.summarize(end, key).rows for key, end in ends.items()]
    return rows, sum(len(store.get(key)) for key in keys)


WAYS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "daily": _daily_here,
    "minutes": _minutes_here,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the recording; made when it is not there")
    parser.add_argument("--symbols", type=int, default=14_400, help="of the market")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 3], choices=range(1, 6))
    parser.add_argument("--per-minute", type=int, default=10_000, help="the account's limit")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds of each answer")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="ask the exchange what is unknown")
    parser.add_argument("--pure", action="store_true", help="without the compiled decoder")
    parser.add_argument("--stages", action="store_true", help="tell where the CPU goes, too")
    parser.add_argument("--only", choices=tuple(WAYS), help="measure here; used by itself")
    return parser.parse_args()


if __name__ == "__main__":
    main()
