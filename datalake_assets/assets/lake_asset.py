"""What the definitions of all tables of the lake share.

Belongs here: the arguments of `dg.asset` that are the same for each. Does not belong here: what an
asset does, and the arguments that are its own (each asset).
"""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from datalake_assets import __version__
from datalake_assets.assets.failure import plain_failures
from datalake_assets.names import READER, Names

OWNERS = ["team:data-platform"]


def lake_asset(
    key: dg.AssetKey, names: Names, group: str, **more: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """The decorator of an asset that is a table of the lake.

    Args:
        key: Its key in our own code location.
        names: What the lake's definitions are called.
        group: Its group in our own code location.
        more: Further arguments of `dg.asset`.
    """
    more |= {"description": names.description(more["description"])} if "description" in more else {}

    def decorate(body: Callable[..., Any]) -> dg.AssetsDefinition:
        asset: Callable[..., dg.AssetsDefinition] = dg.asset(
            key=names.key(key),
            group_name=names.group(group),
            # Nothing is written through it: by it, other assets read the table as an argument.
            io_manager_key=names.of(READER),
            owners=OWNERS,
            kinds={"python", "parquet"},
            code_version=__version__,
            **more,
        )
        return asset(names.bind(plain_failures(body, names)))

    return decorate


def column_schema(schema: pa.Schema, descriptions: Mapping[str, str]) -> dg.TableSchema:
    """The columns of a table as Dagster shows them."""
    return dg.TableSchema(
        [dg.TableColumn(field.name, str(field.type), descriptions[field.name]) for field in schema]
    )
