"""The I/O manager by which other assets take the lake's tables as arguments. It only reads.

Belongs here: which rows an argument holds, and as what kind of table. Does not belong here: reading
the files (`lake`), and writing them, which our assets do themselves: a session is published by its
audit, not by an I/O manager that gets a value.

https://docs.dagster.io/guides/build/io-managers
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from itertools import groupby
from typing import Any

import dagster as dg
import pyarrow as pa

from datalake_assets.actions.log import ActionLog
from datalake_assets.assets import (
    corporate_actions,
    securities,
    session_ticks,
    stock_universe,
    symbol_year_ticks,
    year_ticks,
)
from datalake_assets.assets.failure import Failed, plain_failures
from datalake_assets.collection.progress import many, verb
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError, Reader
from datalake_assets.resources import LakeResource

COLUMNS = "columns"
"""Metadata of an input: the columns to read, as for Dagster's I/O managers of databases."""

ALLOW_MISSING = "allow_missing_partitions"
"""Metadata of an input: whether partitions may be missing, as for Dagster's own I/O managers."""

_NAMED = 5

_OF_YEARS = (symbol_year_ticks.KEY.path[-1], year_ticks.KEY.path[-1])

_WHOLE: Mapping[str, Callable[[Lake], pa.Table]] = {
    stock_universe.KEY.path[-1]: lambda lake: lake.universe(),
    corporate_actions.KEY.path[-1]: lambda lake: ActionLog(lake.store).current(),
    securities.SECURITIES_KEY.path[-1]: lambda lake: lake.securities().securities,
    securities.FACTORS_KEY.path[-1]: lambda lake: lake.securities().factors,
}
"""The assets without partitions: the last part of the key → its table."""


class LakeIOManager(dg.ConfigurableIOManager):
    """Reads the lake's tables for assets that take one of ours as an argument.

    `daily_ticks` gives the bars of the sessions that Dagster maps to the partition being made: one,
    a range, or all of a year; `symbol_year_ticks` and `year_ticks` give those of their years;
    assets without partitions give their whole table. Bars are raw, by symbol and session. The
    annotation of the argument says what it is: `pyarrow.Table` (also without annotation),
    `pandas.DataFrame`, `polars.DataFrame` or `polars.LazyFrame`.

    Metadata of the input: `columns` are the columns to read; with `allow_missing_partitions`,
    sessions that are not published are left out instead of an error.
    """

    lake: dg.ResourceDependency[LakeResource]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Refuse to write.

        Raises:
            Failure: Always: an asset that is not ours names this I/O manager as its own.
        """
        written = context.asset_key.to_user_string() if context.has_asset_key else context.name
        raise Failed(
            f"{written} can't be written: this I/O manager only reads the lake. "
            "Give the asset another io_manager_key, or none",
            allow_retries=False,
        )

    @plain_failures
    def load_input(self, context: dg.InputContext) -> Any:
        """The rows of the upstream asset, as the kind of table that the argument's type says.

        Raises:
            Failure: A session is not published, or an unknown column, type or asset is asked for.
        """
        convert = _converter(context.dagster_type.typing_type)
        try:
            return convert(self._table(context))
        # What the lake does not hold, and a column that a table does not have.
        except (NotInLakeError, ValueError, KeyError) as error:
            raise Failed(
                f"{context.asset_key.to_user_string()} can't be read: {error}", allow_retries=False
            ) from error

    def _table(self, context: dg.InputContext) -> pa.Table:
        lake, name = self.lake.read(), context.asset_key.path[-1]
        metadata = context.definition_metadata
        columns: list[str] | None = metadata.get(COLUMNS)
        if name == session_ticks.DAILY_TICKS.path[-1]:
            days = [date.fromisoformat(key) for key in _own(context)]
            return _bars(lake, days, columns, partial=bool(metadata.get(ALLOW_MISSING)))
        if name in _OF_YEARS:
            years = {int(year) for year in context.asset_partition_keys}
            days = [day for day in lake.sessions() if day.year in years]
            if empty := years - {day.year for day in days}:
                raise NotInLakeError(f"no session of {min(empty)} is published")
            return _bars(lake, days, columns, partial=False)
        if name not in _WHOLE:
            raise NotInLakeError(
                f"the lake has no table of it, but of {session_ticks.DAILY_TICKS.path[-1]}, "
                f"{', '.join((*_OF_YEARS, *_WHOLE))}"
            )
        table = _WHOLE[name](lake)
        return table if columns is None else table.select(columns)


def _bars(lake: Lake, days: list[date], columns: list[str] | None, *, partial: bool) -> pa.Table:
    """The bars of these sessions, by symbol and session."""
    published = lake.sessions()
    missing = sorted(frozenset(days).difference(published))
    if missing and not partial:
        more = f" and {len(missing) - _NAMED:,} more" if missing[_NAMED:] else ""
        raise NotInLakeError(
            f"{len(missing):,} of {many(len(days), 'session')} {verb(len(missing))} not published: "
            f"{', '.join(map(str, missing[:_NAMED]))}{more}. Collect them, or set the metadata "
            f"{ALLOW_MISSING} of the input to read the others"
        )
    wanted = sorted(frozenset(days).intersection(published))
    reader = Reader(lake.store)
    if not wanted:
        return reader.bars(None, date.max, date.max, columns)
    place = {day: number for number, day in enumerate(published)}
    runs = [
        [day for _, day in run]
        for _, run in groupby(enumerate(wanted), key=lambda pair: place[pair[1]] - pair[0])
    ]
    if len(runs) == 1:
        return reader.bars(None, runs[0][0], runs[0][-1], columns)
    # Sessions that are not a range, as a subset of partitions in one run.
    order = ("symbol", "session")
    read = columns and [*columns, *(name for name in order if name not in columns)]
    rows = pa.concat_tables(reader.bars(None, run[0], run[-1], read) for run in runs)
    rows = rows.sort_by([(name, "ascending") for name in order])
    return rows if columns is None else rows.select(columns)


def _own(context: dg.InputContext) -> Iterable[str]:
    """The sessions of the partition being made.

    A year begins on a day without a session, and Dagster's mapping of a year to sessions begins
    with the session before it, the last of the year before. That one is left out, unless the
    mapping asks for earlier partitions.
    """
    keys = list(context.asset_partition_keys)
    step = context.step_context
    own = step.job_def.asset_layer.get_assets_def_for_node(step.node_handle)
    partitions = context.asset_partitions_def
    if (
        own is None
        or not isinstance(own.partitions_def, dg.TimeWindowPartitionsDefinition)
        or not isinstance(partitions, dg.TimeWindowPartitionsDefinition)
    ):
        return keys
    mapping = own.get_partition_mapping_for_dep(context.asset_key)
    if isinstance(mapping, dg.TimeWindowPartitionMapping) and mapping.start_offset:
        return keys
    begins = step.partition_time_window.start
    return [key for key in keys if partitions.time_window_for_partition_key(key).end > begins]


def _converter(wanted: Any) -> Callable[[pa.Table], Any]:
    """How to make the type of an argument from an Arrow table."""
    if wanted in (Any, pa.Table, None):
        return lambda table: table
    package, name = getattr(wanted, "__module__", "").partition(".")[0], wanted.__name__
    if (package, name) == ("pandas", "DataFrame"):
        return lambda table: table.to_pandas(date_as_object=False)
    if package == "polars" and name in ("DataFrame", "LazyFrame"):
        return _polars if name == "DataFrame" else lambda table: _polars(table).lazy()
    raise Failed(
        f"an argument can be a pyarrow.Table, pandas.DataFrame, polars.DataFrame or "
        f"polars.LazyFrame, and {wanted} is none of them",
        allow_retries=False,
    )


def _polars(table: pa.Table) -> Any:
    # Imported here: only a user whose argument is of Polars has it.
    import polars

    return polars.from_arrow(table)
