"""`datalake sql` and `datalake catalog`: what a person types and sees, and what a pipe gets.

Not here: what the views hold (`lake/test_catalog`).
"""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import duckdb
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from datalake_assets import catalog as views
from datalake_assets import market_calendar
from datalake_assets.cli.catalog import catalog
from datalake_assets.cli.sql import ROWS, sql
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.lake.minutes import publish_minutes, session_of
from datalake_assets_tests.securities.market import DAYS, MARKET, lake_of, write_bars

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Thirty sessions in two years; the first year has a year file."""
    made = open_store(str(tmp_path_factory.mktemp("sql") / "lake"))
    lake_of(made)
    YearFiles(made).publish(2023)
    return made


def run(store: Store | Path, *words: str) -> Result:
    app = typer.Typer()
    app.command()(sql)
    uri = store.uri if isinstance(store, Store) else str(store)
    return CliRunner().invoke(app, words, env={"DATALAKE_URI": uri, "COLUMNS": "200"})


def write(store: Store | Path) -> Result:
    app = typer.Typer()
    app.command()(catalog)
    uri = store.uri if isinstance(store, Store) else str(store)
    return CliRunner().invoke(app, [], env={"DATALAKE_URI": uri, "COLUMNS": "200"})


def files(store: Store) -> dict[str, str]:
    return store.versions()


# --- what it gives --------------------------------------------------------------------------------


def test_a_query_is_shown_as_a_table(store: Store) -> None:
    told = run(
        store,
        "SELECT symbol, count(*) AS sessions, 1234567.5 AS big, 0.00000012 AS small, NULL AS none, "
        "true AS yes, max(session) AS newest FROM bars WHERE symbol = 'META' GROUP BY symbol",
    )

    assert told.exit_code == 0
    head, row = told.stdout.splitlines()
    assert head.split() == ["symbol", "sessions", "big", "small", "none", "yes", "newest"]
    sessions = sum(s == "META" for truth in MARKET for s, _ in truth.bars())
    assert row.split() == [
        "META",
        str(sessions),
        "1,234,567.5000",
        "1.2e-07",
        "–",
        "true",
        str(DAYS[-1]),
    ]
    assert told.stderr == f"lake: {store.uri}\n"


@pytest.mark.parametrize(("rows", "told_of"), [(ROWS - 1, False), (ROWS, False), (ROWS + 1, True)])
def test_a_table_has_the_first_rows_and_says_that_there_are_more(
    rows: int, told_of: bool, store: Store
) -> None:
    told = run(store, f"FROM range({rows})")

    assert len(told.stdout.splitlines()) == 1 + min(rows, ROWS)
    assert ("the first 50 rows; all of them: --csv" in told.stderr) is told_of


def test_csv_has_every_row_and_nothing_else(store: Store) -> None:
    told = run(store, "SELECT symbol, session, timestamp, close, vwap FROM bars_all", "--csv")

    assert (told.exit_code, told.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(told.stdout)))
    with pytest.warns(UserWarning, match="META"):
        expected = Lake(store).bars(["META"], adjustment="all")
    found = {(row["symbol"], row["session"]): row for row in rows}
    assert len(rows) == len(found) == sum(len([*truth.bars()]) for truth in MARKET)
    for row in expected.to_pylist():
        ours = found[row["symbol"], str(row["session"])]
        assert float(ours["close"]) == row["close"]
        assert ours["timestamp"] == row["timestamp"].isoformat()


def test_json_is_a_list_of_objects(store: Store) -> None:
    query = (
        "SELECT symbol, session, [1, 2] AS l, {'a': 1.5::DECIMAL(4, 1)} AS s, MAP {'k': 1} AS m, "
        "sum(volume) AS n, 'nan'::DOUBLE AS x, 'q\"' AS q, '\\x01'::BLOB AS b FROM bars "
        "WHERE symbol = 'FB' GROUP BY ALL ORDER BY session LIMIT 2"
    )
    told = run(store, query, "--json")

    assert (told.exit_code, told.stderr) == (0, "")
    first, second = json.loads(told.stdout)
    rest = {"l": [1, 2], "s": {"a": 1.5}, "m": [["k", 1]], "x": None, "q": 'q"', "b": "01"}
    volume = Lake(store).bars("FB", DAYS[0], DAYS[0])["volume"][0].as_py()
    assert first == {"symbol": "FB", "session": str(DAYS[0]), **rest, "n": volume}
    assert second["session"] == str(DAYS[1])


def test_no_row_is_an_empty_list_and_a_head(store: Store) -> None:
    query = "SELECT symbol, close FROM bars WHERE symbol = 'NONE'"

    assert run(store, query, "--json").stdout == "[]\n"
    assert run(store, query, "--csv").stdout == "symbol,close\n"
    assert run(store, query).stdout.split() == ["symbol", "close"]


def test_many_rows_come_whole_and_in_their_order(store: Store) -> None:
    query = "SELECT i FROM range(25_000) AS t(i) ORDER BY i"

    assert [row["i"] for row in json.loads(run(store, query, "--json").stdout)] == [*range(25_000)]
    assert run(store, query, "--csv").stdout.split() == ["i", *map(str, range(25_000))]


def test_a_parquet_file_holds_the_rows(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    target.write_text("before")

    told = run(store, "FROM bars_all ORDER BY ALL", "--parquet", str(target))

    assert told.exit_code == 0, told.stderr
    found = pq.read_table(target)
    expected = sum(len([*truth.bars()]) for truth in MARKET)
    assert found.num_rows == expected
    assert found.column_names[-1] == "security"
    assert f"{target}: {expected} rows, {target.stat().st_size:,} bytes" in told.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~int(
        subprocess.run(["sh", "-c", "umask"], capture_output=True, text=True, check=True).stdout, 8
    )


def test_a_query_that_fails_leaves_the_parquet_file_as_it_was(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    target.write_text("before")

    told = run(store, "SELECT error('no') FROM bars", "--parquet", str(target))

    assert told.exit_code == 2
    assert "no" in told.stderr
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.s3
def test_a_bucket_is_queried_with_the_lakes_own_keys(s3_lake_uri: str) -> None:
    store = open_store(s3_lake_uri)
    lake_of(store)
    YearFiles(store).publish(2023)
    app = typer.Typer()
    app.command()(sql)

    told = CliRunner().invoke(
        app,
        ["SELECT count(*) AS n, count(DISTINCT (symbol, session)) AS d FROM bars_all", "--json"],
        env={"DATALAKE_URI": store.uri},
    )

    assert told.exit_code == 0, told.output
    count = sum(len([*truth.bars()]) for truth in MARKET)
    assert json.loads(told.stdout) == [{"n": count, "d": count}]
    assert write(store).stdout.count(f"ATTACH '{store.uri}/catalog.duckdb' AS lake (READ_ONLY)")


def test_a_pipe_that_is_closed_early_is_no_error(store: Store) -> None:
    piped = f"{sys.executable} -m datalake_assets sql 'FROM range(1_000_000)' --csv | head -n 2"
    ran = subprocess.run(
        ["bash", "-c", piped],
        env={**os.environ, "DATALAKE_URI": store.uri},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stdout == "range\n0\n"
    assert ran.stderr == ""


def test_the_help_names_every_table() -> None:
    assert sql.__doc__
    (told,) = re.findall(r"datalake catalog`: ([\w\s,]+)\.", sql.__doc__)

    assert {*re.split(r",\s+", told)} == {*views.MADE_BY, "restatements"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_query_with_its_own_code_and_leaves_no_file(
    number: signal.Signals, code: int, store: Store, tmp_path: Path
) -> None:
    """DuckDB makes the same error of either signal."""
    endless = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b"
    process = subprocess.Popen(
        [sys.executable, "-m", "datalake_assets", "sql", endless, "--parquet", "sum.parquet"],
        env={**os.environ, "DATALAKE_URI": store.uri, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and not [*tmp_path.iterdir()]:
            time.sleep(0.05)  # DuckDB opens the file when the query starts
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == code, errors
    assert "interrupted." in errors
    assert "Traceback" not in errors
    assert not [*tmp_path.iterdir()]


# --- it only reads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("COPY (FROM bars) TO '{lake}/data/ticks/years/year=2023/bars.parquet'", "COPY"),
        ("DROP VIEW bars", "DROP"),
        ("CREATE TABLE x AS FROM bars", "CREATE"),
        ("INSERT INTO bars VALUES (1)", "INSERT"),
        ("ATTACH '{lake}/catalog.duckdb' AS x", "ATTACH"),
        ("EXPORT DATABASE '{lake}/x'", "EXPORT"),
        ("SET threads = 1", "SET"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/x.csv'", "EXPLAIN of COPY"),
        ("EXPLAIN (ANALYZE, FORMAT JSON) COPY (SELECT 1) TO '{lake}/x.csv'", "EXPLAIN of COPY"),
        ("/* a */ -- b\nexplain analyze /* c */ DELETE FROM bars", "EXPLAIN of DELETE"),
        ("EXPLAIN SELECT 1; COPY (SELECT 1) TO '{lake}/x.csv'", "EXPLAIN and COPY"),
        ("PIVOT bars ON symbol USING max(close); DROP VIEW bars", "SELECT and DROP"),
        ("CREATE TYPE x AS ENUM ('a'); PIVOT bars ON symbol USING max(close)", "CREATE and SELECT"),
        ("CREATE PERSISTENT SECRET x (TYPE s3, KEY_ID 'a', SECRET 'b')", "CREATE"),
        ("CALL enable_logging()", "CALL"),
        ("SELECT 1; COPY (SELECT 1) TO '{lake}/x.csv'", "SELECT and COPY"),
        ("/* nothing */", "nothing"),
        ("", "nothing"),
    ],
)
def test_what_is_no_query_is_refused_and_the_lake_stays_as_it_is(
    query: str, what: str, store: Store
) -> None:
    before = files(store)

    told = run(store, query.format(lake=store.uri))

    assert told.exit_code == 2
    assert f"this is {what}." in " ".join(re.sub("[│╭╰─╮╯]", "", told.stderr).split())
    assert files(store) == before


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 AS x;",
        "SHOW TABLES",
        "DESCRIBE bars",
        "SUMMARIZE bars",
        "FROM bars",
        "PIVOT bars ON symbol USING max(close) GROUP BY session",
        "WITH wide AS (PIVOT bars ON symbol USING max(close)) FROM wide",
        "UNPIVOT (SELECT symbol, open, close FROM bars) ON open, close",
        "EXPLAIN SELECT * FROM bars",
        "/* why */ explain analyze FROM bars;",
        "EXPLAIN (FORMAT JSON) SELECT 1",
    ],
)
def test_whatever_only_reads_is_run(query: str, store: Store) -> None:
    before = files(store)

    assert run(store, query).exit_code == 0
    assert files(store) == before


def test_a_pivot_has_a_column_for_each_symbol(store: Store) -> None:
    wide = "PIVOT bars ON symbol USING max(close) GROUP BY session ORDER BY session"
    told = run(store, wide, "--csv")

    first, *_ = csv.DictReader(io.StringIO(told.stdout))
    symbols = {symbol for truth in MARKET for symbol, _ in truth.bars()}
    assert set(first) == {"session", *symbols}


@pytest.mark.parametrize("name", ["factors", "BARS_ALL", "securities", "cumulative", "actions"])
def test_a_table_that_the_lake_lacks_is_told_with_the_command_that_makes_it(
    name: str, tmp_path: Path
) -> None:
    bare = open_store(str(tmp_path / "lake"))
    write_bars(bare, MARKET)

    told = run(bare, f"FROM {name}")

    assert told.exit_code == 2
    assert f"this lake has no table {name} yet: datalake securities" in told.stderr
    assert "Did you mean" not in told.stderr


def test_a_lake_of_minutes_alone_is_asked_for_them_and_told_what_it_lacks(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    LakeWriter(store).claim("test")
    publish_minutes(store, DAYS[12], session_of(["AUE"], DAYS[12]))

    told = run(store, "SELECT count(*) AS minutes FROM minutes", "--csv")
    lacking = run(store, "FROM bars")
    made = write(store)

    minutes = market_calendar.session_close(DAYS[12]) - market_calendar.session_open(DAYS[12])
    assert told.stdout == f"minutes\n{minutes // timedelta(minutes=1)}\n"
    assert lacking.exit_code == 2
    assert "this lake has no table bars yet: datalake collect\n" in lacking.stderr
    assert made.exit_code == 0
    assert "not there yet: bars, ledger, bars_all, securities" in made.stdout
    assert "minute_ledger_of('2026-11-*')" in made.stdout
    assert "\nledger_of" not in made.stdout
    assert 'sql "SELECT max(session) FROM minutes"' in made.stdout


def test_a_lake_without_minutes_says_how_to_have_some(store: Store) -> None:
    told = run(store, "FROM minutes")

    assert told.exit_code == 2
    assert "this lake has no table minutes yet: datalake collect --minutes\n" in told.stderr


@pytest.mark.parametrize("macro", ["ledger_of", "minute_ledger_of"])
def test_a_ledger_of_a_session_that_is_not_there_says_where_to_look(
    macro: str, store: Store
) -> None:
    told = run(store, f"FROM {macro}('2019-01-02')")

    assert told.exit_code == 2
    assert f"\n{macro} found no such session. Those that are there: datalake status" in told.stderr
    assert "damaged" not in told.stderr


@pytest.mark.parametrize(
    "key", ["data/ticks/years/year=2023/bars.parquet", layout.session_key(DAYS[-1])]
)
def test_a_truncated_file_is_told_with_the_command_that_repairs_it(
    key: str, tmp_path: Path
) -> None:
    made = open_store(str(tmp_path / "lake"))
    write_bars(made, MARKET)
    YearFiles(made).publish(2023)
    made.put(key, made.get(key)[:-100])

    told = run(made, "SELECT sum(close) FROM bars")

    assert told.exit_code == 2
    assert key in told.stderr
    assert told.stderr.rstrip().endswith("the command that repairs each, says: datalake doctor")


@pytest.mark.parametrize("name", ["data/ticks/years/year=2023/bars.parquet", "out.parquet"])
def test_a_parquet_file_is_not_written_into_the_lake(name: str, store: Store) -> None:
    before = files(store)

    told = run(store, "FROM bars", "--parquet", f"{store.uri}/{name}")

    assert told.exit_code == 2
    assert "is in the lake" in told.stderr
    assert files(store) == before


@pytest.mark.parametrize(
    ("name", "why"), [("no/x.parquet", "is in no folder"), ("", "is a folder")]
)
def test_a_place_that_can_not_be_written_is_told_before_the_query_runs(
    name: str, why: str, store: Store, tmp_path: Path
) -> None:
    told = run(store, "SELECT error('it ran')", "--parquet", str(tmp_path / name))

    assert told.exit_code == 2
    assert why in told.stderr
    assert "it ran" not in told.stderr


# --- errors ---------------------------------------------------------------------------------------


def test_a_wrong_query_is_duckdbs_error_and_names_the_tables_command(store: Store) -> None:
    told = run(store, "FROM bar")

    assert told.exit_code == 2
    assert "Table with name bar does not exist" in told.stderr
    assert 'datalake sql "SHOW TABLES"' in told.stderr
    assert "Traceback" not in told.stderr


def test_formats_exclude_each_other(store: Store) -> None:
    assert (
        "give one of --csv, --json and --parquet"
        in run(store, "FROM bars", "--csv", "--json").stderr
    )


@pytest.mark.parametrize("command", [run, write])
def test_without_duckdb_it_says_what_to_install(command: type, store: Store) -> None:
    with patch.object(views, "find_spec", return_value=None):
        told = command(store, *(["FROM bars"] if command is run else []))  # type: ignore[operator]

    assert told.exit_code == 2
    assert "pip install 'us-equity-datalake[sql]'" in told.stderr


@pytest.mark.parametrize("command", [run, write])
def test_without_a_lake_it_says_so(command: type, tmp_path: Path) -> None:
    told = command(tmp_path / "none", *(["FROM bars"] if command is run else []))  # type: ignore[operator]

    assert told.exit_code == 2
    assert "there is no lake at" in told.stderr
    assert not (tmp_path / "none").exists()


# --- datalake catalog -----------------------------------------------------------------------------


def test_the_catalog_is_written_and_the_command_that_opens_it_is_told(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    lake_of(store)

    told = write(store)

    assert told.exit_code == 0, told.stderr
    assert "bars_all" in told.stdout
    assert "not there yet: actions, universe. Run datalake securities and datalake collect" in (
        told.stdout
    )
    (folder,) = re.findall(r"open it: cd (.*) && duckdb -readonly catalog.duckdb", told.stdout)
    assert folder == store.uri
    with duckdb.connect(f"{folder}/{layout.CATALOG}", read_only=True) as connection:
        connection.execute("SET file_search_path = $1", [folder])
        assert connection.sql("SELECT count(*) FROM bars").fetchone() == (
            sum(len([*truth.bars()]) for truth in MARKET),
        )


def test_views_that_a_lake_lacks_are_named_with_a_command(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    write_bars(store, MARKET, publish=False)

    told = write(store)

    assert "not there yet: bars_all, securities, factors, actions, universe. Run datalake" in (
        told.stdout
    )
