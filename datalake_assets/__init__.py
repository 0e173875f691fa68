"""US Equity Data Lake: every US equity's daily bars, one Dagster partition per trading session.

For analysts: `from datalake_assets import Lake`. It is imported on first use, and nothing
else with it, so that a notebook or a Lambda loads only the modules that it uses.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datalake_assets.lake.lake import Lake

__all__ = ["Lake", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Lake":
        from datalake_assets.lake.lake import Lake

        return Lake
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
