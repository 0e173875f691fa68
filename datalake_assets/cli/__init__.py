"""The command line: `datalake`, also `python -m datalake_assets`. One module per command.

Belongs here: arguments, output in the terminal, exit codes. Does not belong here:
anything that Dagster, a notebook or the Lambda also needs.

Commands that collect do so through Dagster, in this process, and are recorded in its instance:
`datalake dev` shows their runs. Exit codes: 0 done, 1 a session did not pass or a run failed,
2 wrong input or no lake, 130 interrupted by Ctrl-C, 143 by SIGTERM; `status --check` also has 3.
"""

import gc
import io
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from datalake_assets import __version__

COMMANDS = {
    "demo": "Collect the newest sessions into a lake and show them. Needs no API key.",
    "dev": "Open Dagster's UI, and start its daemon, whose sensors collect every day.",
    "collect": "Collect one session, or every session of a range, into the lake.",
    "backfill": "Collect the sessions of a range that are not published yet.",
    "publish": (
        "Publish symbol-years and year files from the sessions, and verify that all are equal."
    ),
    "plan": "Estimate the requests, time and cost of collecting a range, without collecting.",
    "status": (
        "Show the state of the lake: coverage, gaps, failures, the newest session, what to do."
    ),
    "show": "Show the bars of one or more symbols: a table and a chart, or CSV or JSON for a pipe.",
    "actions": (
        "Show a symbol's splits, dividends, renames and delisting, and since when each is known."
    ),
    "sql": "Run an SQL query over the lake with DuckDB. It only reads.",
    "catalog": "Write catalog.duckdb into the lake: views of its bars and tables for DuckDB.",
    "register": "Register the lake's bars as an Iceberg table, in one commit.",
    "securities": (
        "Derive securities and adjustment factors from sessions, actions and your decisions."
    ),
    "doctor": (
        "Check every object of the lake, both layouts, and Dagster's records; "
        "say how to repair each."
    ),
    "export": (
        "Write bars, splits and dividends in the format of zipline, qlib, LEAN or NautilusTrader."
    ),
    "upload": "Upload the files of a folder to a bucket, replacing existing objects.",
    "exchange": (
        "Run the embedded exchange: Alpaca's wire protocol over a synthetic or recorded market."
    ),
    "decide": "Decide on actions that the prices contradict; add actions that the source lacks.",
}
"""The commands and what `--help` says of them.

To import the modules of all takes half a second. So their first lines stand here again, and a
command's module is imported when it is called."""

_MODULES = {"backfill": "collect"}
"""The modules of those that share one with another command."""


class _Command(TyperCommand):
    """A command whose module is imported when it is called."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the command itself, which stands here for it."""
        assert self.name
        return load(self.name).make_context(info_name, args, parent, **extra)


def load(name: str) -> Any:
    """Import a command: as the library has it, with all of its options and their help."""
    found: typer.Typer | Callable[..., None]
    found = getattr(import_module(f"{__name__}.{_MODULES.get(name, name)}"), name)
    _spare_pandas()
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.callback()(lambda: None)  # or it would be no group
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name)(found)
    return typer.main.get_group(alone).commands[name]


class _Hidden(MetaPathFinder):
    """Finds no pandas, whether it is installed or not."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Refuse pandas, and leave everything else to the other finders."""
        if fullname == "pandas":
            raise ModuleNotFoundError(f"no module named {fullname!r}", name=fullname)


def _spare_pandas() -> None:
    """Keep pyarrow from importing pandas, which takes longer than most commands.

    With the first array that it makes it looks for pandas, to tell whether it is given something of
    it; no command does. Asked while pandas can't be found, it does not look again. Its `to_pandas`
    does, and whoever imports pandas later has it.
    """
    if "pyarrow" in sys.modules and "pandas" not in sys.modules:
        hidden = _Hidden()
        sys.meta_path.insert(0, hidden)
        try:
            sys.modules["pyarrow"].array([])
        finally:
            sys.meta_path.remove(hidden)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="A complete history of bars for every US equity, in Parquet, in your own bucket.",
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # a local variable can hold a key
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        compiled = find_spec("datalake_assets.sources._pages") is not None
        typer.echo(f"datalake {__version__}, decodes bars in {'C' if compiled else 'Python'}")
        raise typer.Exit


@app.callback()
def _before_each(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version and the decoder of bars, and exit.",
        ),
    ] = False,
) -> None:
    # A character that the output's encoding lacks (✓, █) must not end a collection.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Loading Dagster makes hundreds of thousands of objects, and all of them stay. Looking for
    # garbage among them again and again took a fifth of the time.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])


for _name, _help in COMMANDS.items():
    app.command(_name, cls=_Command, help=_help)(lambda: None)
