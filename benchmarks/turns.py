"""Backfills by the code of several checkouts of this project, in turns: what a change brought.

Each checkout collects the same years as `benchmarks.backfill` does it, with its own package and the
other packages of this Python, in a process of its own into an empty lake, from recorded answers
(`benchmarks.replay`). Checkouts may pack their requests otherwise, so each one asks once before,
which is recorded. In each round alpaca-py reads some of the same pages: hours of a machine differ,
and its figure tells by how much.

    git worktree add ../before COMMIT
    python -m benchmarks.turns FOLDER ../before . [--years 15] [--symbols 5000] [--rounds 2]
        [--per-minute 10000] [--latency 0.05] [--pure]

`--pure` gives a checkout with a compiled decoder one more turn, without it. A new worktree has none
before `datalake_assets/sources/_pages.*.so` is copied into it. The lakes of all rounds lie in the
folder for temporary files until the end, as those of `benchmarks.backfill`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import backfill, measuring
from benchmarks.collecting import COMPILED
from benchmarks.replay import Replay
from benchmarks.surroundings import UNLIMITED, user_environment, years_until_last
from datalake_assets.exchange.process import ExchangeOptions

EXTENSION = f"{COMPILED.replace('.', '/')}.*.so"

COLLECT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from benchmarks import collecting; collecting.main()"
)
"""The program of a turn: `benchmarks.collecting` with the package in the folder named first."""


def main() -> None:
    """Record what each checkout asks for, then measure them in turns."""
    given = _arguments()
    market = ExchangeOptions(active=given.symbols, inactive=0)
    ways = [(checkout, False) for checkout in given.checkouts]
    if given.pure:
        compiled = [path for path in given.checkouts if list(path.glob(EXTENSION))]
        ways += [(checkout, True) for checkout in compiled]
    print(f"{measuring.machine()}; python -m benchmarks.turns {' '.join(sys.argv[1:])}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for checkout in given.checkouts:
            with Replay(given.folder, record=market, latency=0.0) as replay:
                _backfill(checkout, given.years, replay, UNLIMITED, work, pure=False)
        for _ in range(given.rounds):
            plain = backfill.alpaca_py(given.folder, given.years, given.pages, work)
            print(f"alpaca-py: {plain:,.0f} bars a CPU s on the same pages", flush=True)
            rows = (_row(given, checkout, work, plain, pure=pure) for checkout, pure in ways)
            measuring.print_table(backfill.HEAD, rows)


def _row(
    given: argparse.Namespace, checkout: Path, work: Path, plain: float, *, pure: bool
) -> tuple[str, ...]:
    with Replay(given.folder, per_minute=given.per_minute, latency=given.latency) as replay:
        took = _backfill(checkout, given.years, replay, given.per_minute, work, pure=pure)
        told = replay.told()
    told.require_recorded()
    sessions = len(years_until_last(given.years))
    held = {"sessions": sessions, "bars": backfill.bars_of(took["lake"], sessions)}
    return backfill.row(f"{checkout}", took | held | {"told": told}, given.per_minute, plain)


def _backfill(
    checkout: Path, years: int, replay: Replay, per_minute: int, work: Path, *, pure: bool
) -> dict[str, Any]:
    """One backfill by a checkout's code: what it took, and where its lake is."""
    folder = Path(tempfile.mkdtemp(dir=work))
    days = years_until_last(years)
    # The package alone: the benchmarks are this checkout's.
    package = folder / "code" / "datalake_assets"
    package.parent.mkdir()
    package.symlink_to(checkout.resolve() / "datalake_assets")
    took = measuring.run(
        [
            *(sys.executable, "-W", "ignore", "-c", COLLECT, str(package.parent)),
            *("daily_ticks_job", str(days[0]), str(days[-1]), *(["--pure"] if pure else [])),
        ],
        user_environment(folder, replay.url, per_minute, days[0]),
    )
    # Else another package of that name was imported, and nothing was measured.
    assert Path(took["package"]).is_relative_to(package), took["package"]
    return took


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    backfill.add_replay(parser)
    parser.add_argument("checkouts", type=Path, nargs="+", help="in the order of their turns")
    parser.add_argument("--years", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pure", action="store_true", help="also without the compiled decoder")
    given = parser.parse_args()
    for checkout in given.checkouts:
        if not (checkout / "datalake_assets" / "__init__.py").is_file():
            parser.error(f"{checkout} is no checkout of this project: it has no datalake_assets")
    if min(given.years, given.rounds) < 1:
        parser.error("--years and --rounds are whole numbers from 1")
    return given


if __name__ == "__main__":
    main()
