"""docs/engines.md: each path of its table gives each bar once, and each of its commands runs.

Engines that are not installed are skipped: Dask, DataFusion and Spark are no part of `dev`. To run
these, too: PYTHONPATH=/path/to/their/site-packages, with a Java runtime for Spark.
"""

import re
import shlex
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from typer.testing import CliRunner

from datalake_assets import catalog
from datalake_assets.cli import app
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.securities.market import DAYS, lake_of

PAGE = (Path(__file__).parents[1] / "docs" / "engines.md").read_text(encoding="utf-8")
DAY, SYMBOL = DAYS[-3], "META"
HEAD, *ROWS = re.findall(r"^\| (?!-)(.*) \|$", PAGE.partition("## SQL")[0], re.MULTILINE)
TABLE = {name: cells for name, *cells in (row.split(" | ") for row in ROWS)}
QUESTIONS = HEAD.split(" | ")[1:]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Thirty sessions in two years, in all three layouts."""
    made = open_store(str(tmp_path_factory.mktemp("engines") / "lake"))
    lake_of(made)
    for year in (2023, 2024):
        YearFiles(made).publish(year)
    return made


def of_this_lake(text: str, store: Store) -> str:
    """What the page says, about the lake, the symbol and the session of these tests."""
    text = text.replace("LAKE", store.place("").rstrip("/")).replace("AUE", SYMBOL)
    return text.replace("2024-06-05", f"{DAY}").replace("2024-06", f"{DAY:%Y-%m}")


# --- the engines ----------------------------------------------------------------------------------


def _datafusion() -> dict[str, Any]:
    module = import_module("datafusion")
    return {"context": module.SessionContext(), "col": module.col, "lit": module.lit}


def _spark() -> dict[str, Any]:
    session = import_module("pyspark.sql").SparkSession
    builder = session.builder.master("local[1]").config("spark.ui.enabled", "false")
    return {"spark": builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()}


NAMES: dict[str, tuple[str, Callable[[], dict[str, Any]], Callable[[Any], pa.Table]]] = {
    "DuckDB": ("duckdb", lambda: {"duckdb": duckdb}, lambda found: found.to_arrow_table()),
    "Polars": (
        "polars",
        lambda: {"pl": import_module("polars")},
        lambda found: found.collect().to_arrow(),
    ),
    "pandas": ("pandas", lambda: {"pd": import_module("pandas")}, pa.Table.from_pandas),
    "pyarrow": ("pyarrow", lambda: {"ds": ds}, lambda found: found.to_table()),
    "Dask": (
        "dask.dataframe",
        lambda: {"dd": import_module("dask.dataframe")},
        lambda found: pa.Table.from_pandas(found.compute()),
    ),
    "DataFusion": ("datafusion", _datafusion, lambda found: found.to_arrow_table()),
    "Spark": (
        "pyspark",
        _spark,
        lambda found: pa.Table.from_pylist(
            [row.asDict() for row in found.drop("timestamp").collect()]
        ),
    ),
}
"""For each engine of the table: what is imported, the names that its cells use, and their rows."""


def expected(question: str, store: Store) -> list[tuple[Any, ...]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecuritiesWarning)
        bars = Lake(store).bars(follow=False).to_pylist()
    wanted: dict[str, Callable[[dict[str, Any]], bool]] = {
        "one session": lambda row: row["session"] == DAY,
        "one symbol": lambda row: row["symbol"] == SYMBOL,
        "all else": lambda row: True,
    }
    return sorted(map(key, filter(wanted[question], bars)))


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("symbol", "session", "open", "close", "volume", "vwap"))


def test_the_table_has_the_engines_and_the_questions() -> None:
    assert QUESTIONS == ["one session", "one symbol", "all else"]
    assert list(TABLE) == list(NAMES)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("engine", TABLE)
def test_each_path_gives_each_bar_once(engine: str, question: str, store: Store) -> None:
    module, names, rows = NAMES[engine]
    pytest.importorskip(module)
    cell = TABLE[engine][QUESTIONS.index(question)].strip("`")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engines' own
        found = rows(eval(of_this_lake(cell, store), names()))

    assert sorted(map(key, found.to_pylist())) == expected(question, store)
    assert {"symbol", "session", "close"} <= set(found.column_names)


def _with_duckdb(folder: str) -> int:
    told = duckdb.sql(
        f"SELECT count(close) FROM read_parquet('{folder}/**/*.parquet', union_by_name = true)"
    ).fetchone()
    assert told
    return int(told[0])


def _with_pandas(folder: str) -> int:
    bars = import_module("pandas").read_parquet(folder, columns=["symbol", "close"], schema=_schema)
    return int(bars["close"].count())


def _with_pyarrow(folder: str) -> int:
    return int(ds.dataset(folder, schema=_schema).count_rows(filter=ds.field("close").is_valid()))


_schema = pa.schema([("symbol", pa.string()), ("close", pa.float64())])


@pytest.mark.parametrize("read", [_with_duckdb, _with_pandas, _with_pyarrow])
def test_the_whole_folder_gives_each_bar_three_times(
    read: Callable[[str], int], store: Store
) -> None:
    assert read(f"{store.place('')}data/ticks") == 3 * len(expected("all else", store))


# --- SQL ------------------------------------------------------------------------------------------


@pytest.fixture
def at_the_lake(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder of one's own, with DATALAKE_URI set."""
    monkeypatch.setenv("DATALAKE_URI", store.uri)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(program: str) -> list[str]:
    return re.findall(rf"^ {{4}}({program} .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", commands("datalake"))
def test_each_command_of_the_page_runs(line: str, store: Store, at_the_lake: Path) -> None:
    _, *words = shlex.split(of_this_lake(line, store))

    told = CliRunner().invoke(app, words)

    assert told.exit_code == 0, told.output


def test_the_tables_that_the_page_lists_are_those_of_the_catalog(store: Store) -> None:
    listed = {
        name
        for row in re.findall(r"^\| (`\w.*?) \| ", PAGE.partition("## SQL")[2], re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    }

    made = {view.name for view in catalog.views(store, "")}
    macros = {"ledger_of", "minute_ledger_of"}
    assert listed == made | {"actions", "universe", "minutes", "minute_ledger"} | macros


def test_the_snippet_reads_the_catalog_from_another_folder(store: Store, at_the_lake: Path) -> None:
    catalog.write(store)
    (snippet,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}

    exec(of_this_lake(snippet, store), names)

    assert names["closes"].num_rows == len(expected("all else", store))
    names["connection"].close()
