"""Exports: what `datalake export` takes the first time, again, and when it must compare everything.

Over the lake of `benchmarks.adjusted` (made when it is not there). For each tool an export into an
empty folder; then once more, of an unchanged lake; then without its record of what is done, so that
every file is made and compared with the one that is there.

    python -m benchmarks.exports [--years 5] [--symbols 500] [--lake .datalake/exports]
        [--tools qlib lean]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.adjusted import write_tables
from benchmarks.measuring import timed
from benchmarks.symbol_years import LAST_YEAR, make_lake
from datalake_assets import Lake
from datalake_assets.exporters.folder import RECORD
from datalake_assets.exporters.run import TOOLS, export
from datalake_assets.storage.store import open_store


def main() -> None:
    """Measure."""
    given = _arguments()
    years = range(LAST_YEAR - given.years + 1, LAST_YEAR + 1)
    make_lake(given.lake, years, given.symbols)
    write_tables(open_store(str(given.lake)), years, given.symbols)
    bars = Lake.open(given.lake).bars(columns=["symbol"]).num_rows
    print(f"{bars:,} bars of {given.symbols:,} symbols")
    for tool in given.tools:
        with tempfile.TemporaryDirectory(dir=given.lake.parent) as scratch:
            _measure(tool, given.lake, Path(scratch) / tool, bars)


def _measure(tool: str, lake: Path, folder: Path, bars: int) -> None:
    for what in ("first", "again", "all compared"):
        if what == "all compared":
            record = folder / RECORD
            record.write_text(record.read_text().partition("\n")[0] + "\n")
        run = timed(lambda: export(tool, Lake.open(lake), folder))
        told = run.result
        print(
            f"    {tool:<9} {what:<13} {run.wall:>7.2f} s, of CPU {run.cpu:>6.2f} s "
            f"({run.cpu / bars * 1e6:.2f} µs a bar); {told.written:,} files written "
            f"({told.bytes / 1e6:,.1f} MB), {told.kept:,} kept"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--years", type=int, default=5)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--lake", type=Path, default=Path(".datalake/exports"))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=["qlib", "lean"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
