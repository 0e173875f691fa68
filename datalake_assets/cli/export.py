"""`datalake export`: write a lake's bars in the format of a backtesting tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from datalake_assets.cli.arguments import From, To, existing_lake, show_lake
from datalake_assets.cli.terminal import TerminalDisplay, command, err, out, plain_errors, tell
from datalake_assets.collection.progress import many
from datalake_assets.exporters.folder import FolderError
from datalake_assets.exporters.run import TOOLS, MissingToolError, Outcome
from datalake_assets.exporters.run import export as write_export
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.settings import Settings, read_symbols

SHOWN = 10
"""How many warnings are printed."""

_NEXT = {
    "zipline": "to use it: ZIPLINE_ROOT={root} zipline run -b datalake …",
    "qlib": 'to use it: qlib.init(provider_uri="{root}", region="us")',
    "lean": "to use it: set \"data-folder\" to {root} in LEAN's config.json, beside LEAN's own "
    "market-hours and symbol-properties",
    "nautilus": 'to use it: ParquetDataCatalog("{root}")',
}


def export(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help=f"The tool: {', '.join(TOOLS)}.")],
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder; new, empty, or of an earlier export for the same tool."
        ),
    ],
    symbols: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Only these symbols: AAPL,BRK.B or @file, as traded at the end of the range. "
            "Default: every security with a bar in it.",
        ),
    ] = None,
    first: From = None,
    last: To = None,
) -> None:
    """Write bars, splits and dividends in the format of zipline, qlib, LEAN or NautilusTrader.

    Run again, it goes on where it was stopped and writes only what changed. The folder then holds
    exactly what the last run was asked for.
    """
    tool = tool.lower()
    if tool not in TOOLS:
        raise typer.BadParameter(f"TOOL is one of {', '.join(TOOLS)}, not {tool!r}")
    with plain_errors():
        try:
            names = None if symbols is None else read_symbols(symbols, "--symbols")
            held = existing_lake(Settings.load())
            show_lake(held)
            root = folder.absolute()
            if held.store.near and root.resolve().is_relative_to(held.store.place("")):
                raise FolderError(f"{root} is in the lake: give another folder")
            with TerminalDisplay(err) as display:
                outcome = write_export(tool, Lake(held.store), root, names, first, last, display)
        except (FolderError, MissingToolError, NotInLakeError, ValueError) as error:
            tell(err, f"error: {error}")
            raise typer.Exit(2) from error
    _show(tool, root, outcome)


def _show(tool: str, root: Path, outcome: Outcome) -> None:
    for text in outcome.told[:SHOWN]:
        tell(err, f"warning: {text}")
    if len(outcome.told) > SHOWN:
        more = many(len(outcome.told) - SHOWN, "more warning")
        tell(err, f"… and {more}. Actions that wait for you: {command()} decide")
    what = f"{many(outcome.securities, 'security')}, {outcome.first} to {outcome.last}"
    if outcome.unchanged:
        tell(out, f"{root} holds {what}, and the lake has not changed since: nothing was written")
    else:
        done = [f"{many(outcome.written, 'file')} written ({decimal(outcome.bytes)})"]
        done += [f"{outcome.kept:,} unchanged"] if outcome.kept else []
        done += [f"{outcome.removed:,} removed"] if outcome.removed else []
        tell(out, f"{root}: {what}; {', '.join(done)} in {outcome.seconds:,.1f} s")
    tell(out, _NEXT[tool].format(root=root))
