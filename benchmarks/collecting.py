"""One run that collects, as a command of `datalake` does it, in this process: what it took.

Belongs here: what the benchmarks of daily and of minute bars share. Does not belong here: what
answers the run (`replay`), and which stages there are (`stages`).
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import date
from importlib.util import find_spec
from typing import Any

import datalake_assets
from benchmarks import measuring
from benchmarks.stages import Stages
from benchmarks.surroundings import run_job, working_folder

COMPILED = "datalake_assets.sources._pages"
"""The compiled decoder. Where it can't be imported, pages are decoded by msgspec."""


def collected(
    job: str, first: date, last: date, *, pure: bool, by_stage: bool
) -> tuple[str, dict[str, Any]]:
    """Run a job over a range of sessions, with the settings of the environment.

    Args:
        job: Its name.
        first: The first session.
        last: The last one.
        pure: Without the compiled decoder.
        by_stage: Count the CPU by stage, too.

    Returns:
        Where the lake is; and `wall`, `cpu` (of the process, with imports), `collecting` (without
        them), `ended` (on the monotonic clock), all in seconds, `peak` (MiB), `decoder` and
        `stages`.
    """
    if pure:
        sys.modules[COMPILED] = None  # type: ignore[assignment] # how Python is told not to import
    stages = Stages() if by_stage else None
    gc.set_threshold(100_000, *gc.get_threshold()[1:])  # as each command of `datalake` does
    with working_folder():
        began = time.perf_counter()
        with stages or nullcontext():
            from datalake_assets.cli.runs import instance
            from datalake_assets.definitions import build_definitions
            from datalake_assets.settings import Settings

            settings = Settings.load()
            definitions = build_definitions(settings)
            with instance() as records:
                imported = time.process_time()
                run_job(definitions, job, records, first, last)
        ended, cpu = time.monotonic(), time.process_time()
        wall, peak = time.perf_counter() - began, measuring.peak()
    return settings.lake_uri, {
        "wall": wall,
        "cpu": cpu,
        "collecting": cpu - imported,
        "ended": ended,
        "peak": peak,
        "decoder": "pure" if find_spec(COMPILED) is None else "compiled",
        "stages": dict(stages.seconds) if stages else {},
    }


def print_stages(figures: Mapping[str, Any]) -> None:
    """Where the CPU of a run went: `bars`, `sessions`, and what `collected` tells of it."""
    bars, sessions = figures["bars"], figures["sessions"]
    print(f"\n{sessions:,} sessions, {bars:,} bars, by stage ({figures['decoder']}):")
    stages = sorted(figures["stages"].items(), key=lambda each: -each[1])
    stages.append(("all", sum(figures["stages"].values())))
    measuring.print_table(
        ("stage", "CPU, s", "ns a bar", "ms a session"),
        [
            (name, f"{used:.2f}", f"{used / bars * 1e9:,.0f}", f"{used / sessions * 1e3:,.2f}")
            for name, used in stages
        ],
    )


def main() -> None:
    """Collect with the package of another checkout, as `benchmarks.turns` asks for it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("first", type=date.fromisoformat)
    parser.add_argument("last", type=date.fromisoformat)
    parser.add_argument("--pure", action="store_true")
    given = parser.parse_args()
    lake, took = collected(given.job, given.first, given.last, pure=given.pure, by_stage=False)
    measuring.tell(took | {"lake": lake, "package": datalake_assets.__file__})
