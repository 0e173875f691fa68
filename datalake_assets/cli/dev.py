"""`datalake dev`: Dagster's UI and daemon on this machine."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from importlib.resources import files
from typing import Annotated

import typer

from datalake_assets.automation.services import services
from datalake_assets.cli.runs import prepared_home
from datalake_assets.cli.terminal import err, out, plain_errors, tell
from datalake_assets.settings import Settings

LOOPBACK = "127.0.0.1"


def dev(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port.")] = 3000,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The UI asks for no password.")
    ] = LOOPBACK,
) -> None:
    """Open Dagster's UI, and start its daemon, whose sensors collect every day.

    Shows all runs of this folder's records, also those of other commands. Settings may also be in
    a file .env in this folder. Ctrl-C ends it.
    """
    with plain_errors():
        # Without its port, Dagster would start the daemon, and so the sensors, and no page.
        if not _is_free(host, port):
            again = f"datalake dev --port {port % 65_535 + 1}"
            tell(
                err,
                f"Port {port} of {host} is taken, or can't be used: nothing was started. "
                f"Another one: {again}",
            )
            raise typer.Exit(2)
        _check_settings()
        with prepared_home() as home:
            tell(out, f"Dagster's records are in {home}")
        tell(out, f"Dagster on http://{host}:{port} in about 20 seconds; Ctrl-C ends it")
        sys.stdout.flush()
        workspace = str(files("datalake_assets").joinpath("workspace.yaml"))
        words = ["-m", "dagster", "dev", "-w", workspace, "-h", host, "-p", str(port)]
        # In the place of this process, so that signals reach Dagster.
        os.execv(sys.executable, [sys.executable, "-W", "ignore::FutureWarning", *words])


def _check_settings() -> None:
    """Check the settings: with a wrong one, Dagster would start without any of our assets.

    Raises:
        SettingsError: One is wrong.
    """
    from dagster._core.secrets.env_file import get_env_var_dict

    with warnings.catch_warnings():
        # Of names that are almost a setting's; Dagster shows them when the definitions load.
        warnings.simplefilter("ignore", UserWarning)
        # For Dagster, too, the file comes before the environment.
        services(Settings.load({**os.environ, **get_env_var_dict(".")}, misspelt="warn"))


def _is_free(host: str, port: int) -> bool:
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True
