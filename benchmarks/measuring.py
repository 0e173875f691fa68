"""How benchmarks measure: time, CPU and memory, ways in turns, a process of its own, tables.

Belongs here: what every benchmark does with its figures, whatever it measures. Does not belong
here: what a benchmark runs against (`surroundings`, `replay`), or where the CPU goes (`stages`).
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

ROOT = Path(__file__).resolve().parents[1]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Taken(Generic[Result]):
    """What one piece of work took, and what it brought.

    Attributes:
        wall: Seconds by the clock.
        cpu: Seconds of this process on a processor, all of its threads together.
        result: What it returned.
    """

    wall: float
    cpu: float
    result: Result


def timed(work: Callable[[], Result]) -> Taken[Result]:
    """Do it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu, result)


def in_turns(
    ways: Mapping[str, Callable[[], Result]],
    rounds: int,
    *,
    warm_up: bool = True,
    patience: float = float("inf"),
) -> dict[str, list[Taken[Result]]]:
    """Do each in turn, so that what else goes on in the machine meets all of them alike.

    Args:
        ways: What to do, by name.
        rounds: How often.
        warm_up: Do each once before, which does not count.
        patience: Seconds of one way after which two rounds of it are enough.
    """
    taken: dict[str, list[Taken[Result]]] = {name: [] for name in ways}
    for turn in range(rounds + warm_up):
        for name, work in ways.items():
            had = taken[name]
            if len(had) >= 2 and sum(one.wall for one in had) > patience:
                continue
            one = timed(work)
            if turn or not warm_up:
                had.append(one)
    return taken


def median_wall(runs: Iterable[Taken[Any]]) -> float:
    """Seconds by the clock: the median of some rounds."""
    return statistics.median(one.wall for one in runs)


def median_cpu(runs: Iterable[Taken[Any]]) -> float:
    """Seconds of CPU: the median of some rounds."""
    return statistics.median(one.cpu for one in runs)


def peak() -> float:
    """MiB that this process held at most. `ru_maxrss` would count its parent's before `exec`."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux tells the peak in VmHWM"
    return int(found[1]) / 1024


def alone(module: str, *words: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a benchmark's own module in a fresh process, as `run` does.

    Args:
        module: Without `benchmarks.`.
        words: Of its command line.
        environment: The process's whole environment; None: this one's.
    """
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *words]
    return run(command, environment)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command to its end; stop here with what it said when it fails.

    Returns:
        What its last line of output tells as JSON, if anything (`tell`), and what the whole process
        took, where it does not tell that itself: `wall` and `cpu` in seconds, its start and imports
        included.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ if environment is None else environment) | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    said = process.stdout.read()
    process.stdout.close()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}; it said:\n{said[-4_000:]}")
    told = json.loads(lines[-1]) if (lines := said.splitlines()) else {}
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime} | told


def tell(figures: Mapping[str, Any]) -> None:
    """Print what `run` reads in another process, with the peak of this one's memory."""
    print(json.dumps({"peak": peak()} | dict(figures)), flush=True)


def machine() -> str:
    """Where and when: the head of what a benchmark prints."""
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"Python {platform.python_version()}"
    )


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as `docs/benchmarks.md` holds it: the first column of words, then numbers."""
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
