"""US Equity Data Lake: bars of every US equity, one Dagster partition per trading session.

For analysts: `from datalake_assets import Lake`, and what it raises and warns of beside it. For
other Dagster projects: `DatalakeComponent` and `TradingDays`. Each is imported on first use, and
nothing else with it, so that a notebook or a Lambda loads only the modules that it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datalake_assets.component import DatalakeComponent
    from datalake_assets.lake.files import WrongLakeError
    from datalake_assets.lake.lake import Lake
    from datalake_assets.lake.minutes import MissingHoursWarning
    from datalake_assets.lake.reader import MissingSessionsWarning, NotInLakeError
    from datalake_assets.lake.resampling import resample
    from datalake_assets.lake.security_reader import (
        BehindWarning,
        HoldersWarning,
        MissingReturnsWarning,
        SecuritiesWarning,
        UndecidedWarning,
    )
    from datalake_assets.market_calendar import OutsideCalendar
    from datalake_assets.settings import SettingsError
    from datalake_assets.storage.store import BrokenFileError, StoreError
    from datalake_assets.trading_days import TradingDays

__all__ = [
    "BehindWarning",
    "BrokenFileError",
    "DatalakeComponent",
    "HoldersWarning",
    "Lake",
    "MissingHoursWarning",
    "MissingReturnsWarning",
    "MissingSessionsWarning",
    "NotInLakeError",
    "OutsideCalendar",
    "SecuritiesWarning",
    "SettingsError",
    "StoreError",
    "TradingDays",
    "UndecidedWarning",
    "WrongLakeError",
    "__version__",
    "resample",
]

__version__ = "0.1.0"

_HOMES = {
    "component": ("DatalakeComponent",),
    "lake.files": ("WrongLakeError",),
    "lake.lake": ("Lake",),
    "lake.minutes": ("MissingHoursWarning",),
    "lake.reader": ("MissingSessionsWarning", "NotInLakeError"),
    "lake.resampling": ("resample",),
    "lake.security_reader": (
        "BehindWarning",
        "HoldersWarning",
        "MissingReturnsWarning",
        "SecuritiesWarning",
        "UndecidedWarning",
    ),
    "market_calendar": ("OutsideCalendar",),
    "settings": ("SettingsError",),
    "storage.store": ("BrokenFileError", "StoreError"),
    "trading_days": ("TradingDays",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
