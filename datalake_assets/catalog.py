"""The catalog: the lake as tables for SQL, in DuckDB.

Belongs here: which views there are, their SQL, and the file that holds them. Does not belong here:
running somebody's query (`cli.sql`), and what the files mean (`layout`, `year_file`,
`session_file`).

`catalog.duckdb` holds views and one macro, no bars. The view of bars reads every year file, and of
the sessions those that no year file shows: the year files' footers are asked with each query. So a
new session is there at once, and no session is there twice, unless a year file is replaced while a
query reads it: then that query can lack a session, count it twice, or fail. How far back sessions
are looked for is written down in the view: without that each query would open every session of the
lake. So a session that was collected again, or late, is shown when its year file is written, and
the catalog with it.

In a folder paths are relative to the lake, so that it can be moved: DuckDB looks for them in its
`file_search_path`, and then in the folder that it was started in.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from datalake_assets.actions import action
from datalake_assets.collection.bars import PRICES
from datalake_assets.collection.bars import SCHEMA as BARS
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.lake import currency, restatements
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.securities import tables
from datalake_assets.securities.adjusting import KINDS
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, StoreError

if TYPE_CHECKING:
    import duckdb

_PRICES = (*PRICES, "vwap")
_LEDGER, _YEAR = "datalake.ledger", "datalake.year"
_STATES = {"no_print": False, "failed": True, "pending": False, "rejected": True}
"""The states of a ledger beside `present`, and whether it tells a reason."""

_TYPES = {
    pa.string(): "VARCHAR",
    pa.date32(): "DATE",
    pa.float64(): "DOUBLE",
    pa.int64(): "BIGINT",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}

_OF_SESSIONS = r"[0-9*?\[\]-]*[-*?][0-9*?\[\]-]*"
"""A date, or a pattern of dates; but no number, which 2026-11-20 without quotes is."""

MADE_BY = {
    "bars": "collect",
    "ledger": "collect",
    "minutes": "collect --minutes",
    "minute_ledger": "collect --minutes",
    "cumulative": "securities",
    "bars_split": "securities",
    "bars_all": "securities",
    "securities": "securities",
    "factors": "securities",
    "actions": "securities",
    "universe": "collect",
}
"""Views that a lake may lack, and the command after which it has them."""

_log = logging.getLogger(__name__)


class CatalogError(RuntimeError):
    """DuckDB is not installed, or can't read this lake."""


@dataclass(frozen=True, slots=True)
class View:
    """A view of the catalog.

    Args:
        name: Its name.
        meaning: What its rows are.
        query: What it selects.
    """

    name: str
    meaning: str
    query: str


@dataclass(frozen=True, slots=True)
class Shown:
    """Which sessions the year files show.

    Args:
        files: The years that have a file, ascending.
        sessions: The sessions that are in the lake, ascending.
        changed: Those that a year file does not show as they are, although it shows later ones, or
            that are gone; ascending.
        newest: The newest session that a year file shows; None when there is no file.
    """

    files: list[int]
    sessions: list[date]
    changed: list[date]
    newest: date | None


def shown_by_year_files(store: Store) -> Shown:
    """What the year files of a lake show now.

    Raises:
        BrokenFileError: A year file is damaged.
    """
    versions = store.versions(layout.SESSIONS)
    sessions = layout.dated(layout.SESSIONS, list(versions))
    files = YearFiles(store)
    years = files.years()
    with ThreadPoolExecutor(store.readers()) as threads:
        told = list(threads.map(files.made_from, years))
    newest = max((day for each in told for day in each.sessions), default=None)
    by_year = {year: list(days) for year, days in groupby(sessions, lambda day: day.year)}
    made = dict(zip(years, told, strict=True))
    changed = []
    for year in sorted(by_year.keys() | made.keys()):
        here = {day: versions[layout.session_key(day)] for day in by_year.get(year, ())}
        behind = currency.behind(store, made.get(year, Manifest(year)), here)
        changed += [day for day in behind if newest is not None and day <= newest]
    return Shown(years, sessions, changed, newest)


def views(store: Store, base: str) -> list[View]:
    """The views of a lake, each after those that it reads.

    A table that the lake does not have, as no actions were asked for yet, has no view: a lake of
    minute bars alone has those of minutes and of the universe.

    Args:
        store: Where the lake is.
        base: What stands before each key: nothing, `s3://bucket/prefix/`, or `/path/`.

    Raises:
        NotInLakeError: No session is published, neither of daily bars nor of minutes.
        BrokenFileError: A year file is damaged.
    """
    shown = shown_by_year_files(store)
    minutes = layout.MINUTE.days(store.list(layout.MINUTE.sessions))
    if not (shown.sessions or minutes):
        raise NotInLakeError(
            f"no session is published in {store.uri}, so there is nothing to query: correct "
            "DATALAKE_URI, or collect sessions with datalake demo or datalake backfill"
        )
    found = []
    if shown.sessions:
        found.append(View("bars", "All bars as they traded, by ticker", _bars(shown, base)))
    derived = store.list(layout.SECURITIES)
    if shown.sessions and layout.CUMULATIVE_TABLE in derived:
        split = "Bars adjusted for splits, with their security: Lake.bars(adjustment='split')"
        whole = "Bars adjusted for splits, spin-offs and dividends, with their security"
        factors = "Factors to multiply bars by, per security, ticker and range of sessions"
        found += [
            View("cumulative", factors, _table(base, layout.CUMULATIVE_TABLE, tables.CUMULATIVE)),
            View("bars_split", split, _adjusted(("split",))),
            View("bars_all", f"{whole}: Lake.bars(adjustment='all')", _adjusted(tuple(KINDS))),
        ]
    if layout.SECURITIES_TABLE in derived:
        meaning = "Tickers of each security, and how it ended"
        query = _table(base, layout.SECURITIES_TABLE, tables.SECURITIES)
        found.append(View("securities", meaning, query))
    if layout.FACTORS_TABLE in derived:
        meaning = "What each action does to earlier prices, with a verdict"
        query = _table(base, layout.FACTORS_TABLE, tables.FACTORS)
        found.append(View("factors", meaning, query))
    if store.exists(layout.STANDING_ACTIONS):
        meaning = "Corporate actions as the source tells them now"
        query = _table(base, layout.STANDING_ACTIONS, action.SCHEMA)
        found.append(View("actions", meaning, query))
    if layout.dated(layout.UNIVERSE, store.list(layout.UNIVERSE)):
        meaning = "The source's list of assets, one a day"
        found.append(View("universe", meaning, _universe(base)))
    if minutes:
        meaning = "Minute bars as they traded, by ticker; name a symbol and sessions"
        query = _read(f"{base}{layout.MINUTE.sessions}/*/*/part-0.parquet", BARS.names)
        found.append(View("minutes", meaning, query))
    if shown.sessions:
        every = _ledger(_text(f"{base}{layout.SESSIONS}/*/*.parquet"))
        meaning = "Symbols without a bar in a session, and why; of a few sessions: ledger_of"
        found.append(View("ledger", meaning, every))
    if minutes:
        every = _ledger(_text(f"{base}{layout.MINUTE.sessions}/*/*/part-0.parquet"))
        meaning = "Symbols without a minute in a session, and why; of a few: minute_ledger_of"
        found.append(View("minute_ledger", meaning, every))
    meaning = "Bars that a later collection changed: before, after, and since when each is known"
    changed = any(map(layout.restatement, store.list(layout.RESTATEMENTS)))
    query = (
        _read(f"{base}{layout.RESTATEMENTS}/*/*/*.parquet", restatements.SCHEMA.names)
        if changed
        else _nothing(restatements.SCHEMA)
    )
    found.append(View("restatements", meaning, query))
    return found


def ledger_macros(base: str) -> list[str]:
    """The statements that make `ledger_of` and `minute_ledger_of`.

    They take a session like '2026-11-20', or a pattern of sessions like '2026-11-*', and open
    those files only: DuckDB opens every file of a view that reads footers, whatever is asked.
    """
    made = []
    for macro, folder, file in (
        ("ledger_of", layout.SESSIONS, ".parquet"),
        ("minute_ledger_of", layout.MINUTE.sessions, "/part-0.parquet"),
    ):
        wrong = f"{macro} takes a session like '2026-11-20', or a pattern like '2026-11-*'"
        name = (
            f"CASE WHEN regexp_full_match(sessions::VARCHAR, {_text(_OF_SESSIONS)}) "
            f"THEN sessions::VARCHAR ELSE error({_text(wrong)}) END"
        )
        query = _ledger(f"{_text(f'{base}{folder}/*/')} || {name} || {_text(file)}")
        made.append(f"CREATE OR REPLACE MACRO {macro}(sessions) AS TABLE {query}")
    return made


# --- the file -------------------------------------------------------------------------------------


@contextmanager
def connected(store: Store, path: str = ":memory:") -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB, ready to read this lake; times are shown in UTC.

    Args:
        store: Where the lake is.
        path: A database file; by default there is none.

    Raises:
        CatalogError: It is not installed, or its httpfs is not, which reads S3; or it refuses.
        StoreError: There are no credentials for the bucket.
    """
    module = _duckdb()
    try:
        with module.connect(path) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # A table that is not there is an error, and no variable of this program.
            connection.execute("SET python_enable_replacements = false")
            if not store.near:
                _load_httpfs(module, connection, store)
                _let_in(connection, store)
            yield connection
    except module.Error as error:
        raise CatalogError(f"DuckDB can't read {store.uri}: {error}") from error


def create_views(
    connection: duckdb.DuckDBPyConnection, store: Store, base: str | None = None
) -> list[View]:
    """Make the views in a database.

    Args:
        connection: As `connected` gives it.
        store: Where the lake is.
        base: As for `views`; by default the whole path.

    Raises:
        NotInLakeError: No session is published.
        BrokenFileError: A year file is damaged.
    """
    base = _literal(store.place("")) if base is None else base
    found = views(store, base)
    for view in found:
        connection.execute(f"CREATE OR REPLACE VIEW {view.name} AS {view.query}")
        connection.execute(f"COMMENT ON VIEW {view.name} IS {_text(view.meaning)}")
    for macro in ledger_macros(base):
        connection.execute(macro)
    return found


def write(store: Store) -> list[View]:
    """Write the catalog of a lake into it, in the place of the one before.

    Raises:
        CatalogError: DuckDB is not installed, or can't read the lake.
        NotInLakeError: No session is published.
        BrokenFileError: A year file is damaged.
        StoreError: The store can't be reached, or refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, found = _made(store, Path(folder))
        store.put(layout.CATALOG, path.read_bytes())
    return found


def _made(store: Store, folder: Path) -> tuple[Path, list[View]]:
    """The catalog of a lake as a file in this folder, and its views."""
    path = folder / layout.CATALOG
    with connected(store, str(path)) as connection:
        if store.near:
            # DuckDB looks at each file when a view is made. In this setting the lake's own path
            # could not have a comma, an asterisk or a bracket.
            link = folder / "lake"
            link.symlink_to(store.place(""), target_is_directory=True)
            connection.execute("SET file_search_path = $1", [str(link)])
        return path, create_views(connection, store, "" if store.near else None)


def difference(store: Store) -> str:
    """What is wrong with the catalog of a lake; empty when it has none, or it is up to date.

    While a year file is behind its sessions, the view of bars may be, too: publishing that year
    writes the catalog as well.

    Raises:
        CatalogError: DuckDB is not installed, or can't read the lake.
        NotInLakeError: No session is published.
        BrokenFileError: A year file is damaged.
        StoreError: The store can't be reached, or refuses.
    """
    try:
        data = store.get(layout.CATALOG)
    except FileNotFoundError:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        # DuckDB spells types in another way until the file is opened again.
        wanted = _definitions(_made(store, Path(folder))[0])
        # A copy, as whoever has the file open for writing keeps others out.
        copy = Path(folder) / "copy.duckdb"
        copy.write_bytes(data)
        try:
            held = _definitions(copy)
        except _duckdb().Error as error:
            told = str(error).splitlines()[0].replace(str(copy), layout.CATALOG)
            return f"it can't be read ({told})"
    if lacking := sorted(wanted.keys() - held.keys()):
        return f"it lacks {', '.join(lacking)}, which the lake has"
    differing = {name for name in wanted if wanted[name] != held[name]}
    if "bars" in differing and shown_by_year_files(store).changed:
        differing.remove("bars")
    if differing:
        return f"it is older than what it shows: {', '.join(sorted(differing))}"
    return ""


def _definitions(path: Path) -> dict[str, str]:
    """The SQL of each view of a catalog, and of its macros."""
    query = (
        "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal UNION ALL "
        "SELECT function_name, macro_definition FROM duckdb_functions() "
        "WHERE function_type = 'table_macro' AND NOT internal"
    )
    with _duckdb().connect(str(path), read_only=True) as connection:
        return dict(connection.execute(query).fetchall())


def follow(store: Store) -> None:
    """Write the catalog again after a publication, if the lake has one.

    It is still right when this does not succeed: it gets slower. So that is a warning, and no
    failure of what was published.
    """
    try:
        if store.exists(layout.CATALOG):
            write(store)
    except (CatalogError, StoreError, BrokenFileError, NotInLakeError, OSError) as error:
        _log.warning(
            "%s was not written again, so queries of it will get slower (%s): DATALAKE_URI=%s "
            "datalake catalog",
            *(store.url(layout.CATALOG), error, store.uri),
        )


# --- SQL ------------------------------------------------------------------------------------------


def _bars(shown: Shown, base: str) -> str:
    """Year files, and the sessions that they don't show."""
    changed = [day for day in shown.changed if day in set(shown.sessions)]
    since = None if shown.newest is None else shown.newest + timedelta(days=1)
    newer = [day for day in shown.sessions if since is None or day >= since]
    running = shown.sessions[-1].year
    years = _with_the_next(running, {day.year for day in (*changed, *newer)})
    # The file's name is the session, and DuckDB opens only those that it asks for.
    named = "CAST(parse_filename(filename, true) AS DATE)"
    paths = [f"{base}{layout.SESSIONS}/year={year}/*.parquet" for year in years]
    of_sessions = (
        f"SELECT {_names(BARS.names)} FROM read_parquet({_list(paths)}, "
        "hive_partitioning = false, filename = true) AS sessions"
    )
    if since is None:
        return of_sessions
    # A year without a file may have one later, and DuckDB wants each pattern to match something.
    every = {running, *(int(year) for year in years if year.isdigit())} <= set(shown.files)
    footers = [
        f"{base}{_pattern(f'{layout.YEARS}/year={year}/bars.parquet')}" for year in years if every
    ]
    footers = footers or [f"{base}{layout.YEARS}/*/bars.parquet"]
    there = (
        "SELECT CAST(unnest(json_keys(decode(value), '$.sessions')) AS DATE) AS session "
        f"FROM parquet_kv_metadata({_list(footers)}) WHERE key = {_text(_YEAR)}::BLOB"
    )
    asked = f"{named} >= {_date(since)}"
    of_years = (
        f"SELECT {_names(BARS.names)} FROM read_parquet("
        f"{_text(f'{base}{layout.YEARS}/*/bars.parquet')}, hive_partitioning = false)"
    )
    if changed:
        asked = f"({asked} OR {named} IN ({_dates(changed)}))"
        there = f"SELECT session FROM ({there}) WHERE session NOT IN ({_dates(changed)})"
    if shown.changed:
        of_years += f" WHERE session NOT IN ({_dates(shown.changed)})"
    not_there = f"ANTI JOIN ({there}) AS there USING (session)"
    return f"{of_years} UNION ALL {of_sessions} {not_there} WHERE {asked}"


def _with_the_next(running: int, years: Iterable[int]) -> list[str]:
    """Patterns that match each of these years once, and the running year and the next one.

    The next year may have no folder yet, and its first session must be found all the same.
    """
    pairs = zip(f"{running:04}", f"{running + 1:04}", strict=True)
    both = "".join(one if one == other else f"[{one}{other}]" for one, other in pairs)
    # In some years it matches others besides: 20[23][90].
    return [*(f"{y:04}" for y in sorted(set(years)) if not re.fullmatch(both, f"{y:04}")), both]


def _adjusted(kinds: tuple[str, ...]) -> str:
    """Bars times the factors of these kinds, in the order of `adjusting.KINDS`."""
    factors = "".join(f" * coalesce({KINDS[kind]}, 1)" for kind in KINDS if kind in kinds)
    columns = []
    for name in BARS.names:
        if name in _PRICES:
            columns.append(f"bars.{name}{factors} AS {name}")
        elif name == "volume":
            columns.append("bars.volume * coalesce(spans.volume, 1.0) AS volume")
        else:
            columns.append(f"bars.{name}")
    return (
        f"SELECT {', '.join(columns)}, security FROM bars LEFT JOIN cumulative AS spans "
        "ON bars.symbol = spans.symbol AND bars.session >= spans.first_session "
        "AND bars.session <= spans.last_session"
    )


def _ledger(paths: str) -> str:
    """One row per symbol and session that has no bar, from the footers of these files."""
    parts = []
    for state, reasoned in _STATES.items():
        names = f"map_keys(told.{state})" if reasoned else f"told.{state}"
        why = f"unnest(map_values(told.{state}))" if reasoned else "NULL::VARCHAR"
        parts.append(
            f"SELECT unnest({names}) AS symbol, told.session AS session, "
            f"{_text(state)} AS state, {why} AS reason FROM ledgers"
        )
    shape = {"session": "DATE"} | {
        state: "MAP(VARCHAR, VARCHAR)" if reasoned else ["VARCHAR"]
        for state, reasoned in _STATES.items()
    }
    return (
        f"WITH ledgers AS MATERIALIZED (SELECT from_json(decode(value), {_text(json.dumps(shape))})"
        f" AS told FROM parquet_kv_metadata({paths}) WHERE key = {_text(_LEDGER)}::BLOB) "
        + " UNION ALL ".join(parts)
    )


def _universe(base: str) -> str:
    return (
        "SELECT CAST(parse_filename(filename, true) AS DATE) AS day, "
        f"{_names(UNIVERSE.names)} FROM read_parquet("
        f"{_text(f'{base}{layout.UNIVERSE}/*.parquet')}, filename = true)"
    )


def _table(base: str, key: str, schema: pa.Schema) -> str:
    return _read(f"{base}{_pattern(key)}", schema.names)


def _read(path: str, names: Iterable[str]) -> str:
    return f"SELECT {_names(names)} FROM read_parquet({_text(path)}, hive_partitioning = false)"


def _nothing(schema: pa.Schema) -> str:
    """No rows, with these columns."""
    columns = ", ".join(f'NULL::{_TYPES[field.type]} AS "{field.name}"' for field in schema)
    return f"SELECT {columns} WHERE false"


def _pattern(key: str) -> str:
    """A pattern that this key alone matches.

    DuckDB looks for a name first in the folder it was started in, which may be another lake, and
    for a pattern first in its `file_search_path`.
    """
    return f"{key[:-1]}[{key[-1]}]"


def _literal(path: str) -> str:
    """A pattern that this path alone matches."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _dates(days: Iterable[date]) -> str:
    return ", ".join(map(_date, days))


def _date(day: date) -> str:
    return f"DATE '{day}'"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# --- DuckDB ---------------------------------------------------------------------------------------


def _duckdb() -> Any:
    if find_spec("duckdb") is None:
        raise CatalogError(
            "SQL needs DuckDB, which is not installed: pip install 'us-equity-datalake[sql]'"
        )
    import duckdb

    return duckdb


def _load_httpfs(module: Any, connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Load what reads S3: from its wheel, else as DuckDB does, which may fetch it."""
    try:
        if find_spec("duckdb_extension_httpfs"):
            from duckdb_extensions import import_extension

            import_extension("httpfs", con=connection)
        connection.execute("LOAD httpfs")
    except (module.Error, ImportError, OSError) as error:
        raise CatalogError(
            f"DuckDB can't read {store.uri} without its extension httpfs ({error}): "
            "pip install 'us-equity-datalake[sql]'"
        ) from error


def _let_in(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Give DuckDB the lake's own credentials, for as long as it is open."""
    access = store.s3_access()
    host = access.endpoint.removeprefix("https://").removeprefix("http://").rstrip("/")
    told = {
        "KEY_ID": access.key_id,
        "SECRET": access.secret,
        "SESSION_TOKEN": access.token or "",
        "REGION": access.region,
        "ENDPOINT": host,
        "USE_SSL": str(access.endpoint.startswith("https://")).lower(),
        "URL_STYLE": "path",
        "SCOPE": f"s3://{store.uri.removeprefix('s3://').partition('/')[0]}",
    }
    given = ", ".join(f"{name} {_text(value)}" for name, value in told.items() if value)
    connection.execute(f"CREATE OR REPLACE SECRET lake (TYPE s3, {given})")
