"""The arguments that several commands take, checked.

Belongs here: options, and turning them into sessions and a lake. Does not belong here:
settings (`settings`), which come from the environment.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from datetime import date
from functools import wraps
from typing import Annotated, Any

import typer

from datalake_assets.automation.services import services
from datalake_assets.cli.terminal import err, tell, working
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, Dataset, minute_dataset
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.settings import Settings, read_symbols
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

From = Annotated[
    str | None,
    typer.Option("--from", metavar="YYYY-MM-DD", help="First day. Default: the first session."),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="YYYY-MM-DD", help="Last day. Default: the newest session."),
]
SHARE: dict[str, Any] = {"min": 0.0, "max": 1.0, "metavar": "SHARE"}
_COUNT: dict[str, Any] = {"min": 0, "metavar": "N"}

SessionLoss = Annotated[
    float | None,
    typer.Option(
        **SHARE,
        help="Maximum share of its symbols that a session may lose when it is replaced by one of "
        "chosen symbols. At 1, minutes of regular hours also replace those of extended ones.",
    ),
]

_THRESHOLDS = {
    "min_success_rate": Annotated[
        float | None,
        typer.Option(**SHARE, help="Minimum success rate: answered share of the symbols."),
    ],
    "min_coverage": Annotated[
        float | None,
        typer.Option(**SHARE, help="Minimum coverage: share of expected symbols with a bar."),
    ],
    "max_invalid_bars": Annotated[
        float | None, typer.Option(**SHARE, help="Maximum share of bars with impossible prices.")
    ],
    "min_row_ratio": Annotated[
        float | None,
        typer.Option(**SHARE, help="Minimum number of bars, as a share of the usual number."),
    ],
    "max_universe_loss": Annotated[
        float | None,
        typer.Option(**SHARE, help="Maximum share of active symbols missing from the list."),
    ],
    "unanswered_allowed": Annotated[
        int | None,
        typer.Option(**_COUNT, help="Symbols that may fail, whatever --min-success-rate says."),
    ],
    "silent_allowed": Annotated[
        int | None,
        typer.Option(
            **_COUNT, help="Expected symbols that may have no bar, whatever --min-coverage says."
        ),
    ],
    "invalid_bars_allowed": Annotated[
        int | None,
        typer.Option(**_COUNT, help="Bars that may have impossible prices, whatever their share."),
    ],
    "max_contradicted": Annotated[
        float | None,
        typer.Option(
            **SHARE,
            help="With --minutes: maximum share of symbols that the daily bars contradict.",
        ),
    ],
    "min_hour_ratio": Annotated[
        float | None,
        typer.Option(
            **SHARE,
            help="With --minutes: minimum number of bars in any hour, as a share of the fullest "
            "hour.",
        ),
    ],
    "sparse_allowed": Annotated[
        int | None,
        typer.Option(
            **_COUNT,
            help="With --minutes: liquid symbols that may have only a handful of minutes.",
        ),
    ],
}
"""Audit thresholds for one run, by the collector's fields; where not given, the collector's own."""


def with_thresholds(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the audit's thresholds.

    Args:
        command: Takes those that were given as `limits`, by the collector's fields.
    """

    @wraps(command)
    def whole(**options: Any) -> None:
        told = {name: options.pop(name) for name in _THRESHOLDS}
        limits = {name: limit for name, limit in told.items() if limit is not None}
        command(**options, limits=limits)

    own = inspect.signature(command, eval_str=True)
    parameters = [each for name, each in own.parameters.items() if name != "limits"]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _THRESHOLDS.items()
    ]
    # Typer reads from it which options a command has.
    whole.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return whole


Symbols = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Only these symbols, for this command only: AAPL,BRK.B or @file. Overrides "
        "DATALAKE_SYMBOLS, which also holds for sensors, repairs and status.",
    ),
]

Minutes = Annotated[
    bool,
    typer.Option("--minutes", help="Minute bars instead of daily ones (DATALAKE_MINUTES)."),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def load_settings(symbols: str | None = None) -> Settings:
    """The settings, for a command that collects or judges: all that Dagster would refuse.

    Commands that only read the lake use `Settings.load`: they need no receiver of alerts.

    Args:
        symbols: What `--symbols` gives; overrides the environment's symbols.

    Raises:
        SettingsError: A setting or a symbol is invalid, or no alert can be sent as they say.
    """
    if symbols is None:
        settings = Settings.load()
    elif symbols.strip():
        read_symbols(symbols, "--symbols")  # so that an error names what was typed
        both = ("DATALAKE_SYMBOLS", "DATALAKE_MINUTE_SYMBOLS")
        settings = Settings.load({**os.environ, **dict.fromkeys(both, symbols)})
    else:
        raise typer.BadParameter("--symbols is empty; leave it out to collect all symbols")
    services(settings)
    return settings


def dataset_of(settings: Settings, *, minutes: bool) -> Dataset:
    """Whose bars a command is about.

    Args:
        settings: The settings.
        minutes: As `--minutes` says.

    Raises:
        typer.BadParameter: Minute bars are turned off.
    """
    dataset = minute_dataset(settings.minutes) if minutes else DAILY
    if dataset is None:
        raise typer.BadParameter(
            "minute bars are turned off: set DATALAKE_MINUTES to regular (the regular hours) or "
            "extended (04:00 to 20:00 in New York)"
        )
    return dataset


def show_lake(lake: LakeFiles) -> None:
    """Print the lake first: a relative path means another lake in each folder.

    It goes to stderr, so that a pipe receives only the result.
    """
    tell(err, f"lake: {lake.store.uri}{'' if is_there(lake) else ' (does not exist yet)'}")


def is_there(lake: LakeFiles) -> bool:
    """Whether the lake exists, that is, was ever collected into. It may be damaged."""
    return lake.store.exists(layout.MARKER)


def open_lake(settings: Settings) -> LakeFiles:
    """The lake of the settings, for reading. It need not exist."""
    return LakeFiles(open_store(settings.lake_uri))


def existing_lake(settings: Settings) -> LakeFiles:
    """The lake of the settings, for reading.

    Raises:
        NotInLakeError: There is none.
    """
    lake = open_lake(settings)
    if not is_there(lake):
        raise NotInLakeError(
            f"there is no lake at {lake.store.uri}: correct DATALAKE_URI, or create one with "
            "datalake demo or datalake backfill"
        )
    return lake


def claimed_lake(settings: Settings) -> LakeWriter:
    """The lake of the settings, for collecting. Errors that no run could avoid are raised here.

    Raises:
        SettingsError: The list of symbols can't be read.
        WrongLakeError: The lake holds bars of another source.
    """
    from datalake_assets.definitions import build_source

    settings.read_symbols()
    lake = LakeWriter(open_store(settings.lake_uri))
    # As in a run, fields that name an environment variable get its value.
    lake.claim(build_source(settings).process_config_and_initialize().identity)
    return lake


def partitions(settings: Settings) -> list[str]:
    """The sessions that can be collected now: Dagster's partitions."""
    with working("loading Dagster"):
        from datalake_assets.partitions import session_partitions

    keys = list(session_partitions(settings.first_session).get_partition_keys())
    if not keys:
        raise typer.BadParameter(f"no session since {settings.first_session} has closed yet")
    return keys


def one_session(keys: Sequence[str], text: str) -> date:
    """The given session, checked to be one that can be collected."""
    day = _day("--session", text)
    if day.isoformat() not in keys:
        raise typer.BadParameter(f"{day} can't be collected: {_why_not(day, keys)}")
    return day


def span(keys: Sequence[str], first: str, last: str) -> tuple[date, date]:
    """The first and the last session of the range, among those that can be collected."""
    start, end = _day("--from", first), _day("--to", last)
    # Checked before they are compared, as one of the two may be a default.
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
            f"no session from {start} to {end} can be collected; "
            f"the sessions are {keys[0]} to {keys[-1]}"
        )
    return date.fromisoformat(meant[0]), date.fromisoformat(meant[-1])


def _day(option: str, text: str) -> date:
    try:
        day = date.fromisoformat(text)
        # `fromisoformat` also accepts 20240703 and 2024-W27-3.
        if day.isoformat() != text:
            raise ValueError("not in the form YYYY-MM-DD")
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes a date as YYYY-MM-DD, not {text!r}") from error
    return day


def _why_not(day: date, keys: Sequence[str]) -> str:
    from datalake_assets.partitions import why_no_partition

    why = why_no_partition(day, date.fromisoformat(keys[0]), Clock().now())
    # It may have become collectable since the keys were read.
    why = why or "its partition has just appeared; run the command again"
    return f"{why}; the newest one that can be is {keys[-1]}" if f"{day}" > keys[-1] else why
