"""The command line: `datalake`, also `python -m datalake_assets`. One module per command.

Belongs here: arguments, output in the terminal, exit codes. Does not belong here:
anything that Dagster, a notebook or the Lambda also needs.

Commands that collect do so through Dagster, in this process, and are recorded in its instance:
`make dev` shows their runs. Exit codes: 0 done, 1 a session did not pass or a run failed,
2 wrong input or no lake; `status --check` also has 3.
"""

import io
import sys
from typing import Annotated

import typer

from datalake_assets import __version__
from datalake_assets.cli.actions import actions
from datalake_assets.cli.collect import backfill, collect
from datalake_assets.cli.decide import decide
from datalake_assets.cli.demo import demo
from datalake_assets.cli.doctor import doctor
from datalake_assets.cli.exchange import exchange
from datalake_assets.cli.plan import plan
from datalake_assets.cli.publish import publish
from datalake_assets.cli.securities import securities
from datalake_assets.cli.show import show
from datalake_assets.cli.status import status
from datalake_assets.cli.upload import upload

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="A complete history of daily bars for every US equity, in Parquet, in your own bucket.",
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # a local variable can hold a key
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"datalake {__version__}")
        raise typer.Exit


@app.callback()
def _before_each(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    # A character that the output's encoding lacks (✓, █) must not end a collection.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


for command in (
    demo,
    collect,
    backfill,
    publish,
    plan,
    status,
    show,
    actions,
    securities,
    doctor,
    upload,
    exchange,
):
    app.command()(command)
app.add_typer(decide, name="decide")
