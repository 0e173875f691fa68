"""The arguments that several commands take, checked.

Belongs here: options, and turning what was typed into sessions and a lake. Does not belong here:
settings (`settings`), which come from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

import typer

from datalake_assets.cli.terminal import err, tell, working
from datalake_assets.collection.clock import Clock
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

From = Annotated[
    str | None,
    typer.Option("--from", metavar="YYYY-MM-DD", help="First day; the first session if none."),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="YYYY-MM-DD", help="Last day; the newest session if none."),
]
_SHARE: dict[str, Any] = {"min": 0.0, "max": 1.0, "metavar": "SHARE"}
_COUNT: dict[str, Any] = {"min": 0, "metavar": "N"}

SuccessRate = Annotated[
    float | None, typer.Option(**_SHARE, help="Least share of symbols that must be answered.")
]
Coverage = Annotated[
    float | None, typer.Option(**_SHARE, help="Least share of expected symbols with a bar.")
]
InvalidBars = Annotated[
    float | None, typer.Option(**_SHARE, help="Largest share of bars with impossible prices.")
]
RowRatio = Annotated[
    float | None, typer.Option(**_SHARE, help="Least number of bars, as a share of the usual.")
]
UniverseLoss = Annotated[
    float | None, typer.Option(**_SHARE, help="Largest share of active symbols that may be gone.")
]
Unanswered = Annotated[
    int | None, typer.Option(**_COUNT, help="Symbols that may fail, whatever their share.")
]
Silent = Annotated[
    int | None, typer.Option(**_COUNT, help="Expected symbols that may have no bar, likewise.")
]
OddBars = Annotated[
    int | None, typer.Option(**_COUNT, help="Bars that may have impossible prices, likewise.")
]
"""What a session must reach, for one run; the collector's own thresholds where it is not given."""

Symbols = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Only these: AAPL,BRK.B, or @file holding them. Instead of DATALAKE_SYMBOLS.",
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def load_settings(symbols: str | None = None) -> Settings:
    """The settings, with the symbols that were typed in place of the environment's.

    Raises:
        SettingsError: A setting is wrong, or a symbol can't be one.
    """
    if symbols is None:
        return Settings.load()
    if not symbols.strip():
        raise typer.BadParameter("--symbols names no symbol; without it all are meant")
    return Settings.load({**os.environ, "DATALAKE_SYMBOLS": symbols})


def show_lake(lake: LakeFiles) -> None:
    """Say which lake is meant, before anything else: a relative one is another in each folder.

    On stderr, so that a pipe holds only what was asked for.
    """
    tell(err, f"lake: {lake.store.uri}{'' if is_there(lake) else ' (there is none yet)'}")


def is_there(lake: LakeFiles) -> bool:
    """Whether somebody ever collected into it; it may be damaged."""
    return lake.store.exists(layout.MARKER)


def open_lake(settings: Settings) -> LakeFiles:
    """The lake of the settings, to look at; it need not be there."""
    return LakeFiles(open_store(settings.lake_uri))


def claimed_lake(settings: Settings) -> LakeWriter:
    """The lake of the settings, to collect into: what no run could do is found out before it.

    Raises:
        SettingsError: The list of symbols can't be read.
        WrongLakeError: The lake holds bars of another source.
    """
    from datalake_assets.definitions import build_source

    settings.read_symbols()
    lake = LakeWriter(open_store(settings.lake_uri))
    # As for a run: what is named by its environment variable gets its value.
    lake.claim(build_source(settings).process_config_and_initialize().identity)
    return lake


def partitions(settings: Settings) -> list[str]:
    """The sessions that can be collected now, as Dagster knows them."""
    with working("loading Dagster"):
        from datalake_assets.partitions import session_partitions

    keys = list(session_partitions(settings.first_session).get_partition_keys())
    if not keys:
        raise typer.BadParameter(f"no session since {settings.first_session} has closed yet")
    return keys


def one_session(keys: Sequence[str], text: str) -> date:
    """The session meant, which must be one of those that can be collected."""
    day = _day("--session", text)
    if day.isoformat() not in keys:
        raise typer.BadParameter(f"{day} can't be collected: {_why_not(day, keys)}")
    return day


def span(keys: Sequence[str], first: str, last: str) -> tuple[date, date]:
    """The first and the last session meant, of those that can be collected."""
    start, end = _day("--from", first), _day("--to", last)
    # Before they are compared: one of the two may be a default, which nobody typed.
    for day, outside in ((start, f"{start}" > keys[-1]), (end, f"{end}" < keys[0])):
        if outside:
            raise typer.BadParameter(f"{day} can't be collected: {_why_not(day, keys)}")
    if end < start:
        raise typer.BadParameter(f"--to {end} is before --from {start}")
    meant = [key for key in keys if start.isoformat() <= key <= end.isoformat()]
    if not meant and start == end:
        raise typer.BadParameter(f"{start} can't be collected: {_why_not(start, keys)}")
    if not meant:
        raise typer.BadParameter(
            f"no session that can be collected from {start} to {end}; "
            f"there are {keys[0]} to {keys[-1]}"
        )
    return date.fromisoformat(meant[0]), date.fromisoformat(meant[-1])


def _day(option: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
        # It would take 20240703 and 2024-W27-3, too.
        if day.isoformat() != text:
            raise ValueError("another form of a date")
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes a day as YYYY-MM-DD, not {text!r}") from error
    return day


def _why_not(day: date, keys: Sequence[str]) -> str:
    from datalake_assets.partitions import why_no_partition

    why = why_no_partition(day, date.fromisoformat(keys[0]), Clock().now())
    # It may have become one since the keys were read.
    why = why or "its partition appears just now; type it again"
    return f"{why}; the newest session that can be is {keys[-1]}" if f"{day}" > keys[-1] else why
