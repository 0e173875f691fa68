"""`datalake sql`: one query over the lake, as a table, CSV, JSON or a Parquet file.

The views are made for each query, as the lake is now (`catalog`). So it needs no catalog in
the lake, and nothing is written there.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.table import Table
from rich.text import Text

from datalake_assets.catalog import MADE_BY, connected, create_views
from datalake_assets.cli.arguments import existing_lake, show_lake
from datalake_assets.cli.terminal import (
    command,
    damage,
    err,
    out,
    plain_errors,
    show_table,
    tell,
    working,
)
from datalake_assets.collection.progress import many
from datalake_assets.settings import Settings
from datalake_assets.storage.store import Store

if TYPE_CHECKING:
    import duckdb

ROWS = 50
"""How many rows are shown as a table."""

_BATCH = 10_000


_LOGGING = re.compile(r"\benable_logging\b", re.IGNORECASE)
"""The one function of DuckDB by which a SELECT writes files."""


_EXPLAIN = re.compile(
    r"(?:\s|/\*.*?\*/|--[^\n]*(?:\n|$))*EXPLAIN\b\s*(?:\([^)]*\)|ANALYZE\b)?",
    re.IGNORECASE | re.DOTALL,
)
_INTERRUPTED = "Query interrupted"
"""What DuckDB makes of Ctrl-C and of SIGTERM, in a `RuntimeError`."""

_NO_TABLE = re.compile(r"Table with name (\w+) does not exist")


def sql(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help='One query: "SELECT … FROM bars", "SHOW TABLES".')
    ],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all rows as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all rows as JSON.")] = False,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all rows into a Parquet file, or replace it."),
    ] = None,
) -> None:
    """Run an SQL query over the lake with DuckDB. It only reads.

    The tables are those of `datalake catalog`: bars, bars_split, bars_all, cumulative, minutes,
    securities, factors, actions, universe, ledger, minute_ledger, restatements. DESCRIBE and
    SUMMARIZE tell what is in each.
    """
    if as_csv + as_json + (parquet is not None) > 1:
        raise typer.BadParameter("give one of --csv, --json and --parquet")
    with ExitStack() as stack:
        with plain_errors():
            lake = existing_lake(Settings.load())
            if not (as_csv or as_json):
                show_lake(lake)
            if parquet is not None:
                _demand_a_place(parquet, lake.store)
            connection = stack.enter_context(connected(lake.store))
            with working("reading the lake"):
                create_views(connection, lake.store)
            connection.execute("SET lock_configuration = true")
            with _refused(connection, query), working("running the query"):
                _demand_a_query(connection, query)
                if parquet is not None:
                    _write(connection, query, parquet)
                    return
                found = connection.sql(query).to_arrow_reader(_BATCH)
                rows = _rows(found)
                first = list(islice(rows, ROWS + 1))
        # Outside `plain_errors`: a pipe that is closed early (`| head`) is not an error.
        with _refused(connection, query):
            if as_csv:
                _print_csv(found.schema.names, chain(first, rows))
            elif as_json:
                _demand_distinct(found.schema.names)
                _print_json(found.schema.names, chain(first, rows))
            else:
                _print_table(found.schema, first)


@contextmanager
def _refused(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[None]:
    """Print what DuckDB has against a query; after Ctrl-C end the query."""
    import duckdb

    try:
        yield
    except KeyboardInterrupt:
        connection.interrupt()  # or closing it could wait for as long as the query takes
        raise
    except RuntimeError as error:
        if str(error) != _INTERRUPTED:
            raise
        connection.interrupt()
        raise KeyboardInterrupt from error
    except (duckdb.Error, pa.ArrowException) as error:
        lacking = _NO_TABLE.search(str(error))
        maker = lacking and MADE_BY.get(lacking[1].lower())
        if lacking and maker:
            # DuckDB would suggest another table, of other things.
            tell(err, f"error: this lake has no table {lacking[1]} yet: {command()} {maker}")
        else:
            tell(err, f"error: {error}")
        if lacking:
            tell(err, f'The tables are listed by: {command()} sql "SHOW TABLES"')
        elif "ledger_of(" in query and "No files found" in str(error):
            macro = "minute_ledger_of" if "minute_ledger_of(" in query else "ledger_of"
            tell(err, f"{macro} found no such session. Those that are there: {command()} status")
        elif ".parquet" in str(error):
            tell(err, damage())
        raise typer.Exit(2) from error


def _demand_a_query(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse what is not one query: it could write, into the lake or elsewhere."""
    found = _kinds(connection, query)
    explained = _EXPLAIN.match(query) if found == ["EXPLAIN"] else None
    if explained:
        # EXPLAIN ANALYZE runs what it explains.
        found = [f"EXPLAIN of {kind}" for kind in _kinds(connection, query[explained.end() :])]
    if found not in (["SELECT"], ["EXPLAIN of SELECT"]):
        what = "nothing" if not found else " and ".join(found)
        raise typer.BadParameter(
            f"datalake sql runs one query, which reads (SELECT, FROM, WITH, PIVOT, DESCRIBE, "
            f"SUMMARIZE, SHOW, EXPLAIN), and this is {what}. To write a file, give --parquet FILE "
            "or --csv"
        )
    if _LOGGING.search(query):
        raise typer.BadParameter("enable_logging writes files, and datalake sql only reads")


def _kinds(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """What the statements are, by DuckDB's own parser."""
    return [
        statement.type.name
        for statement in connection.extract_statements(query)
        # Before a PIVOT, DuckDB puts statements of its own, without a text. They make a type with
        # the values that become columns, in memory.
        if statement.type.name != "CREATE" or statement.query.strip()
    ]


def _demand_distinct(names: list[str]) -> None:
    """Refuse two columns of one name: an object of JSON would have only one of them."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise typer.BadParameter(
            f"two columns are called {twice[0]}: for --json give one of them another name (AS)"
        )


def _demand_a_place(file: Path, store: Store) -> None:
    place = file.expanduser().resolve()
    if store.near and place.is_relative_to(store.place("")):
        raise typer.BadParameter(
            f"--parquet {file} is in the lake, which queries don't change: give another folder"
        )
    if not place.parent.is_dir() or place.is_dir():
        wrong = "is a folder" if place.is_dir() else "is in no folder that is there"
        raise typer.BadParameter(f"--parquet {file} {wrong}: give the name of a file")


def _write(connection: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    """Write the rows beside the file first: it is whole, or as it was before."""
    place = file.expanduser().resolve()
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        connection.sql(query).write_parquet(str(part), compression="zstd")
        told = pq.read_metadata(part).num_rows
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    tell(out, f"{file}: {many(told, 'row')}, {place.stat().st_size:,} bytes")


def _rows(found: pa.RecordBatchReader) -> Iterator[tuple[Any, ...]]:
    for batch in found:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


# --- all rows -------------------------------------------------------------------------------------


def _print_csv(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            json.dumps(value) if isinstance(value, bool | list | dict) else value
            for value in map(_plain, row)
        )


def _print_json(names: list[str], rows: Iterator[tuple[Any, ...]]) -> None:
    """A list of objects, an object in a line."""
    begin = "["
    for row in rows:
        told = dict(zip(names, map(_plain, row), strict=True))
        sys.stdout.write(f"{begin}{json.dumps(told)}")
        begin = ",\n"
    sys.stdout.write("[]\n" if begin == "[" else "]\n")


def _plain(value: Any) -> Any:
    """A value as JSON has it; what is no number there is null."""
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case None | bool() | int() | str():
            return value
        case bytes():
            return value.hex()
    return str(value)


# --- the table ------------------------------------------------------------------------------------


def _print_table(schema: pa.Schema, rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for field in schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        number = number or pa.types.is_decimal(field.type)
        table.add_column(Text(field.name), justify="right" if number else "left")
    for row in rows[:ROWS]:
        table.add_row(*(Text(_shown(value)) for value in row))
    show_table(table)
    if len(rows) > ROWS:
        tell(err, f"the first {ROWS} rows; all of them: --csv, --json or --parquet FILE")


def _shown(value: Any) -> str:
    match _plain(value):
        case None:
            return "–"
        case bool(told):
            return str(told).lower()
        case int(told):
            return f"{told:,}"
        case float(told) if told == 0 or 1e-3 <= abs(told) < 1e15:
            return f"{told:,.4f}"
        case float(told):
            return f"{told:.6g}"
        case str(told):
            return told
        case told:
            return json.dumps(told)
