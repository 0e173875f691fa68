"""The documents keep what they promise: settings, paths, commands, links, messages, snippets.

The snippets are run where a reader runs them: beside a lake that was collected from the embedded
exchange. Not here: whether the commands work (`test_cli`, `test_end_to_end`).
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import duckdb_extensions
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas import Timestamp

from datalake_assets.cli import COMMANDS, load
from datalake_assets.collection.audit import RULES
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.minute_audit import MINUTE_RULES
from datalake_assets.collection.progress import many
from datalake_assets.collection.report import State
from datalake_assets.definitions import build_definitions
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.resampling import resample
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource
from datalake_assets.securities.decisions import Decision, decide
from datalake_assets.securities.evidence import quarter_of
from datalake_assets.settings import LAKE_OF_EXCHANGE, SETTINGS, Setting, Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests import environments
from datalake_assets_tests.lake.minutes import publish_minutes, session_of
from datalake_assets_tests.securities.bars import action
from datalake_assets_tests.securities.deriving import derive, say

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS_PAGE, LAKE_PAGE, READING_PAGE = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("settings", "lake", "reading")
)
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if not path.relative_to(ROOT / "docs").parts[0].startswith("_")  # what Sphinx made
    ),
]
(ONE,) = set(re.findall(r"data/ticks/daily/(\w+)/", LAKE_PAGE + READING_PAGE))
"""The symbol that the documents read."""

AT = datetime(2024, 6, 6, tzinfo=UTC)
SESSIONS = [date(2024, 6, 3), date(2024, 6, 4), date(2024, 6, 5)]


def section(title: str, text: str = README) -> str:
    """What stands below a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found[1]


def code(text: str) -> list[str]:
    """The lines of code in a document: indented, fenced, or between backticks in its prose."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^ {4}(.*)$", prose, re.MULTILINE)
    # A name between backticks may be broken over two lines, as prose is.
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [line for block in fenced for line in block.splitlines()] + indented + spans


# --- the settings ---------------------------------------------------------------------------------


def row(setting: Setting) -> str:
    """How the table tells of a setting."""
    unit = "" if setting.unit in ("", "date") else f" {setting.unit}"
    default = "not set" if setting.default is None else f"`{setting.default}`{unit}"
    return f"| `{setting.variable}` | {default} | {setting.meaning} |"


def test_the_table_of_settings_is_the_one_that_the_program_reads() -> None:
    rows = re.findall(r"^\| `.*\|$", SETTINGS_PAGE, re.MULTILINE)

    assert rows == [row(setting) for setting in SETTINGS]


def test_no_document_names_a_variable_that_is_no_setting() -> None:
    known = {setting.variable for setting in SETTINGS}
    named = {
        (path.name, name)
        for path in DOCUMENTS
        if path.name != "loading.md"  # which is about the names of other programs
        for name in re.findall(
            r"\b(?:ALPACA|DATALAKE)_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8")
        )
    }

    assert {name for _, name in named} >= known
    assert sorted((path, name) for path, name in named if name not in known) == []


# --- the lake -------------------------------------------------------------------------------------


def test_the_layout_is_the_one_that_the_lake_has() -> None:
    told = re.findall(r"^ {4}(\S+) {2,}\S", LAKE_PAGE, re.MULTILINE)
    day, taken = date(2026, 11, 20), date(2026, 11, 23)
    changed = datetime(2026, 11, 23, 22, 4, 9, tzinfo=UTC)

    assert told == [
        layout.MARKER,
        layout.CATALOG,
        layout.session_key(day),
        layout.symbol_year_key(ONE, 2026),
        layout.manifest_key(2026),
        layout.year_file_key(2026),
        layout.incomplete_key(day),
        layout.restatement_key(day, changed),
        layout.session_key(day, layout.MINUTE),
        layout.incomplete_key(day, layout.MINUTE),
        layout.restatement_key(day, changed, layout.MINUTE),
        layout.STANDING_ACTIONS,
        layout.action_log_key(1),
        layout.SECURITIES_TABLE,
        layout.FACTORS_TABLE,
        layout.CUMULATIVE_TABLE,
        layout.FINDINGS_TABLE,
        layout.TESTIMONY,
        layout.DECISIONS,
        layout.REGISTRY,
        layout.evidence_key(quarter_of(day)),
        layout.universe_key(taken),
        layout.survey_key(taken),
        layout.registered_key("bars", 2026, "3f9c2a71d04be856"),
        layout.version_hint_key("bars"),
        layout.ICEBERG_CATALOG,
    ]


def test_the_columns_are_those_of_the_bars_in_their_order() -> None:
    (told,) = re.findall(r"^Columns: (.*?)\.\n\n", LAKE_PAGE, re.MULTILINE | re.DOTALL)

    assert re.findall(r"`(\w+)`", told) == SCHEMA.names


def snippets() -> dict[str, str]:
    """The Python of docs/reading.md, by the library that it reads with; and the README's."""
    found = re.findall(r"^```python\n(.*?)^```", READING_PAGE, re.MULTILINE | re.DOTALL)
    imported = r"^(?:import|from) (?!json)(\w+)"
    (shown,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return {re.findall(imported, text, re.MULTILINE)[0]: text for text in found} | {"README": shown}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakeWriter]:
    """Three sessions of a small market, collected by the job, where the README's snippets look."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        settings = Settings.load({})
        definitions = build_definitions(
            settings,
            source=EmbeddedExchangeResource(active=150, inactive=40),
            collector=CollectorResource(requests_per_minute=60_000),
        )
        result = definitions.resolve_job_def("daily_ticks_job").execute_in_process(
            instance=instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            tags={
                "dagster/asset_partition_range_start": SESSIONS[0].isoformat(),
                "dagster/asset_partition_range_end": SESSIONS[-1].isoformat(),
            },
        )
        assert result.success
        assert settings.lake_uri == LAKE_OF_EXCHANGE
        held = LakeWriter(open_store(settings.lake_uri))
        assert held.sessions() == SESSIONS
        SymbolYears(held.store).publish(SESSIONS[0].year)
        YearFiles(held.store).publish(SESSIONS[0].year)
        # The invented prices know nothing of a split: so it is one that somebody accepted.
        more = {"new_rate": 3.0, "old_rate": 1.0}
        say(
            held.store,
            AT,
            action("s", "forward_splits", ONE, SESSIONS[1], **more),
            action("d", "cash_dividends", ONE, SESSIONS[2], cash=0.13),
        )
        decide(held.store, Decision("accept", "a test", AT, "to have one", subject="s"))
        derive(held.store)
        yield held


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def lake(request: pytest.FixtureRequest, collected: LakeWriter) -> LakeWriter:
    """That lake, and the same on S3."""
    if request.param == "folder":
        return collected
    copy = LakeWriter(open_store(request.getfixturevalue("s3_lake_uri")))
    for key in collected.store.list():
        copy.store.put(key, collected.store.get(key))
    return copy


def run(snippet: str, lake: LakeWriter, before: str = "") -> dict[str, Any]:
    """Runs a snippet as a script, with this lake in the place of the README's.

    Returns:
        What its names mean at the end.
    """
    text = snippets()[snippet]
    assert LAKE_OF_EXCHANGE in text
    if lake.store.uri.startswith("s3:"):
        text = text.replace(LAKE_OF_EXCHANGE, lake.store.uri)
    names: dict[str, Any] = {}
    exec(compile(before + text, f"README.md: {snippet}", "exec"), names)
    return names


def bars_of(lake: LakeWriter, *symbols: str) -> list[dict[str, Any]]:
    """The bars of these symbols, by symbol and session, as the session files have them."""
    rows = [row for day in SESSIONS for row in lake.read(day).bars.to_pylist()]
    kept = [row for row in rows if row["symbol"] in symbols]
    assert {row["symbol"] for row in kept} == set(symbols)
    return sorted(kept, key=lambda row: (row["symbol"], row["session"]))


def newest(lake: LakeWriter) -> Session:
    return lake.read(SESSIONS[-1])


def test_every_library_that_the_readme_promises_has_its_snippet() -> None:
    assert list(snippets()) == [
        "datalake_assets",
        "datetime",
        "duckdb",
        "polars",
        "pandas",
        "pyarrow",
        "README",
    ]


def test_the_readme_reads_adjusted_bars_total_returns_and_explanations(lake: LakeWriter) -> None:
    told = run("README", lake)

    asked = re.findall(r'bars\(\["(\w+)", "(\w+)"\]', snippets()["README"])[0]
    adjusted = Lake(lake.store).bars(asked, adjustment="all")
    assert told["bars"].equals(adjusted)
    assert told["frame"]["session"].tolist() == [Timestamp(day) for day in SESSIONS] * 2
    assert told["returns"].num_rows == told["bars"].num_rows
    assert told["who"].symbol == ONE
    assert told["why"].startswith("2024-07-04 is no trading session")


def test_no_thread_of_arrow_is_at_work_when_a_script_ends(
    collected: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is the last to let go of bytes of Python's asks for Python's lock. While Python
    ends it gets none, and the process aborts: "terminate called without an active exception".
    """
    threads: list[bool] = []
    read = pq.ParquetFile.read

    def watched(
        file: pq.ParquetFile, columns: Any = None, use_threads: bool = True, **more: Any
    ) -> pa.Table:
        threads.append(use_threads)
        return read(file, columns, use_threads, **more)

    monkeypatch.setattr(pq.ParquetFile, "read", watched)
    run("README", collected)
    assert threads
    assert not any(threads)


def test_our_own_reader_gives_bars_a_session_and_an_explanation(lake: LakeWriter) -> None:
    told = run("datalake_assets", lake)

    asked = re.findall(r'bars\(\["(\w+)", "(\w+)"\]', snippets()["datalake_assets"])[0]
    assert told["bars"].drop_columns("security").to_pylist() == bars_of(lake, *asked)
    assert told["frame"]["session"].tolist() == [Timestamp(day) for day in SESSIONS] * 2
    assert told["monthly"].to_dict() == {Timestamp(2024, 6, 30): bars_of(lake, ONE)[-1]["close"]}
    assert told["closes"].column_names == ["symbol", "session", "close"]
    assert told["closes"].num_rows == sum(lake.read(day).bars.num_rows for day in SESSIONS)
    assert told["matrix"].column_names == ["session", *asked]
    assert told["matrix"][ONE].to_pylist() == told["adjusted"]["close"].to_pylist()
    assert told["earned"].num_rows == told["bars"].num_rows
    assert told["who"].symbol == ONE
    assert told["newest"] == newest(lake)
    assert told["why"].startswith("2024-07-04 is no trading session")


def test_our_own_reader_gives_minutes_and_longer_bars(
    collected: LakeWriter, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path))
    for key in collected.store.list():
        store.put(key, collected.store.get(key))
    text = snippets()["datetime"]
    asked = re.findall(r'minutes\(\["(\w+)", "(\w+)"\]', text)[0]
    for day in SESSIONS:
        publish_minutes(store, day, session_of(asked, day))
    told: dict[str, Any] = {}
    exec(text.replace(LAKE_OF_EXCHANGE, store.uri), told)

    assert told["day"] == SESSIONS[-1]
    minutes = session_of(asked, SESSIONS[-1])
    assert told["minutes"].drop_columns("security") == minutes.slice(0, 390)
    assert told["adjusted"].num_rows == 2 * 390 * len(SESSIONS)
    assert told["five"] == resample(told["minutes"], "5min")
    assert told["market"]["symbol"].to_pylist() == sorted(asked)
    assert told["first"] == told["minutes"].slice(0, 30).select(["timestamp", "close"])
    assert told["half_hours"].num_rows == 13
    assert "2024-07-04 is no trading session" in told["why"]


def test_duckdb_reads_the_newest_session_and_one_symbol(
    lake: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb.set_default_connection(duckdb.connect())  # its httpfs reads the variables once
    before = ""
    if lake.store.uri.startswith("s3:"):
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"].removeprefix("http://")
        named = dict(re.findall(r"`(DUCKDB_\w+)=(\S+)`", READING_PAGE))
        assert named.keys() == {"DUCKDB_S3_ENDPOINT", "DUCKDB_S3_USE_SSL"}
        for name, value in named.items():
            monkeypatch.setenv(name, value.replace("host:port", endpoint))
        (setting,) = re.findall(r"`(SET s3_url_style = [^`]*)`", " ".join(READING_PAGE.split()))
        duckdb_extensions.import_extension("httpfs")  # over the network it would install itself
        before = f"import duckdb\nduckdb.sql({setting!r})\n"
    found = run("duckdb", lake, before)
    bars = newest(lake).bars.to_pylist()
    turnover = {bar["symbol"]: bar["volume"] * bar["vwap"] for bar in bars}
    rows = found["newest"]

    assert {session for _, _, session in rows} == {SESSIONS[-1]}
    assert {symbol: value for symbol, value, _ in rows} == pytest.approx(turnover)
    assert [value for _, value, _ in rows] == sorted(turnover.values(), reverse=True)
    expected = [(bar["session"], bar["close"]) for bar in bars_of(lake, ONE)]
    at = [SCHEMA.get_field_index(name) for name in ("symbol", "session", "close")]
    assert [tuple(row[index] for index in at) for row in found["one"]] == [
        (ONE, *row) for row in expected
    ]


def test_polars_reads_one_symbol_over_the_sessions(lake: LakeWriter) -> None:
    one = run("polars", lake)["one"]

    assert one.to_dicts() == bars_of(lake, ONE)


@pytest.mark.parametrize("library", ["duckdb", "polars"])
def test_adjusted_prices_by_a_join_are_the_readers_to_the_last_bit(
    library: str, collected: LakeWriter
) -> None:
    told = run(library, collected)["adjusted"]
    found = told if library == "duckdb" else told.rows()
    ours = Lake(collected.store).bars(ONE, adjustment="all")
    names = ("symbol", "session", "close", "volume")

    assert found == list(zip(*(ours[name].to_pylist() for name in names), strict=True))
    raw = [row["close"] for row in bars_of(collected, ONE)]
    dividend = 1 - 0.13 / raw[1]
    assert ours["close"].to_pylist() == [raw[0] * (1 / 3) * dividend, raw[1] * dividend, raw[2]]


def test_pandas_reads_returns_by_session_and_symbol(lake: LakeWriter) -> None:
    told = run("pandas", lake)
    returns, weekly = told["returns"], told["weekly"]
    closes = [
        dict(zip(table["symbol"].to_pylist(), table["close"].to_pylist(), strict=True))
        for table in (lake.read(day).bars for day in SESSIONS)
    ]
    both = sorted(closes[0].keys() & closes[1].keys())

    assert list(returns.index) == [Timestamp(day) for day in SESSIONS]
    assert set(returns.columns) == set().union(*closes)
    assert list(weekly.index) == [Timestamp(2024, 6, 7)]
    assert weekly.iloc[0][both].tolist() == [told["closes"][name].ffill().iloc[-1] for name in both]
    assert returns.loc[Timestamp(SESSIONS[1]), both].tolist() == pytest.approx(
        [closes[1][symbol] / closes[0][symbol] - 1 for symbol in both]
    )


def test_pyarrow_reads_one_symbol_the_ledger_the_audit_and_the_provenance(lake: LakeWriter) -> None:
    session, told = newest(lake), run("pyarrow", lake)
    ledger = told["ledger"]

    assert told["one"].to_pylist() == bars_of(lake, ONE)
    assert ledger.pop("session") == SESSIONS[-1].isoformat()
    assert set(ledger) == {state.value for state in State} - {"present"}
    assert ledger["no_print"] == list(session.ledger.no_print) != []
    assert [finding["rule"] for finding in told["audit"]] == list(RULES)
    assert told["provenance"]["source"] == lake.source()
    (comment,) = re.findall(r'ledger"\]\)  # (.*)', snippets()["pyarrow"])
    assert comment.split(", ") == list(ledger)


def installed(snippet: str) -> list[str]:
    """What a snippet says is to be installed, in its first line."""
    (told,) = re.findall(r"\A# pip install (.+)\n", snippets()[snippet])
    return str(told).split()


@pytest.mark.parametrize(
    "snippet", ["README", "datalake_assets", "duckdb", "polars", "pandas", "pyarrow"]
)
def test_a_snippet_runs_where_only_that_is_installed_which_it_says(
    snippet: str, collected: LakeWriter, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    environments.install(packages, installed(snippet))
    held = Path(collected.store.uri)
    ran = environments.run(snippets()[snippet], packages, at=held.parents[1])

    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("snippet", "forgotten"),
    [
        ("duckdb", "pytz"),
        ("polars", "polars"),
        ("pandas", "pyarrow"),
        ("pyarrow", "pyarrow"),
    ],
)
def test_a_package_that_a_snippet_would_forget_to_name_is_not_there(
    snippet: str, forgotten: str, collected: LakeWriter, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    environments.install(packages, [name for name in installed(snippet) if name != forgotten])
    held = Path(collected.store.uri)
    ran = environments.run(snippets()[snippet], packages, at=held.parents[1])

    assert ran.returncode == 1
    assert re.search(rf"(?:Error|Exception): .*{forgotten}", ran.stderr, re.DOTALL)


def patterns() -> dict[str, str]:
    """Where the README's snippets read bars, as DuckDB's patterns, by what the README has."""
    text = "".join(snippets().values()).replace("{ticks}", f"{LAKE_OF_EXCHANGE}/data/ticks")
    found = set(re.findall(rf"{LAKE_OF_EXCHANGE}/data/ticks/[^\s'\")]+", text))
    return {path: f"{path}**/*.parquet" if path.endswith("/") else path for path in sorted(found)}


def copies(path: str) -> tuple[int, int]:
    """The bars below a path, and how many different ones they are."""
    told = duckdb.sql(
        "SELECT count(*), count(DISTINCT (symbol, session)) "
        f"FROM read_parquet('{path}', union_by_name = true) WHERE close IS NOT NULL"
    ).fetchone()
    assert told is not None
    return told[0], told[1]


def test_each_path_that_a_snippet_reads_gives_each_bar_once(collected: LakeWriter) -> None:
    assert sorted(patterns()) == [
        f"{LAKE_OF_EXCHANGE}/data/ticks/daily/{ONE}/",
        f"{LAKE_OF_EXCHANGE}/data/ticks/daily/{ONE}/*/ticks.parquet",
        f"{LAKE_OF_EXCHANGE}/data/ticks/sessions/",
        f"{LAKE_OF_EXCHANGE}/data/ticks/sessions/*/*.parquet",
    ]
    for pattern in patterns().values():
        rows, different = copies(pattern)
        assert rows == different > 0


def test_the_pattern_that_the_documents_warn_of_gives_each_bar_three_times(
    collected: LakeWriter,
) -> None:
    told = " ".join((README + READING_PAGE).split())
    (warned,) = set(re.findall(r"`(data/ticks/\S*\*\S*)`, returns each bar three times", told))
    rows, different = copies(f"{LAKE_OF_EXCHANGE}/{warned}")

    assert rows == 3 * different
    assert different == sum(collected.read(day).bars.num_rows for day in SESSIONS)


# --- commands -------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """The commands of `datalake` by name, in the order of its help."""
    return {name: load(name) for name in COMMANDS}


def called(program: str) -> list[tuple[str, list[str]]]:
    """Every call of a program in the documents' code: the document, and the words after it."""
    found = []
    for path in DOCUMENTS:
        for line in code(path.read_text(encoding="utf-8")):
            command = line.partition(" # ")[0].partition("    #")[0]
            if match := re.match(rf"(?:\S+=\S+ )*(?:\.venv/bin/)?{program} +(.+)", command.strip()):
                found.append((path.name, re.split(r"[\s,;]+", match[1])))
    return found


def test_every_make_target_that_is_named_exists_and_those_of_use_are_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    named = {words[0] for _, words in called("make")}

    assert {"demo", "dev", "test", "check"} <= named
    assert sorted(named - targets) == []


def test_every_command_and_option_of_datalake_that_is_named_exists() -> None:
    calls = [call for call in called("datalake") if "--help" not in call[1]]
    assert {words[0] for _, words in calls} == set(commands())
    for document, words in calls:
        command = commands()[words[0]]
        parts = [command, *getattr(command, "commands", {}).values()]
        options = {name for part in parts for param in part.params for name in param.opts}
        unknown = [word for word in words if word.startswith("--") and word not in options]
        assert unknown == [], f"{document}: datalake {words[0]} has no {unknown}"


def test_the_map_of_the_commands_names_every_one_of_them() -> None:
    listed = re.findall(r"^ {4}datalake (\w+) {2,}", section("Collect from Alpaca"), re.MULTILINE)

    assert listed == list(commands())


def test_the_site_lists_every_command_with_its_options() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import conf; print(conf.commands())"],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    for name, command in commands().items():
        page = re.split(r"^## ", made, flags=re.MULTILINE)
        (found,) = (text for text in page if text.startswith(f"`datalake {name}`\n"))
        parts = [command, *getattr(command, "commands", {}).values()]
        options = {param.opts[0] for part in parts for param in part.params if param.opts}
        assert [each for each in options if each.startswith("--") and each not in found] == []


@pytest.mark.parametrize(
    "command",
    sorted(
        set(
            re.findall(
                r"\.venv/bin/python -m (benchmarks\..*)",
                (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"),
            )
        )
    ),
)
def test_every_benchmark_that_is_named_takes_its_options(command: str) -> None:
    module, *words = shlex.split(command)
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    known = set(re.findall(r'add_argument\("(--[\w-]+)"', source))

    assert {word for word in words if word.startswith("--")} <= known


def test_every_benchmark_is_documented() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    modules = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }

    assert set(re.findall(r"-m benchmarks\.(\w+)", text)) == modules


def test_the_map_of_the_package_names_every_module_once() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^ {4}(\w+(?:, \w+)*) +\S", section("Map", contributing), re.MULTILINE)
    listed = [name for names in rows for name in names.split(", ")]
    here = {
        path.stem
        for path in (ROOT / "datalake_assets").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    assert sorted(listed) == sorted(name for name in here if not name.startswith("_"))


# --- links ----------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get on the web."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def test_every_decision_is_in_the_index_and_dated() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\S+) \| \[(.*)\]\((.*)\) \|$", index, re.MULTILINE)
    listed = {file: (day, title) for day, title, file in rows}
    pages = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    del pages["README.md"]

    assert listed.keys() == pages.keys()
    for file, text in pages.items():
        heading, _, day = text.splitlines()[:3]
        assert (day, heading.removeprefix("# ")) == listed[file]
        for part in ("Context", "Decision", "Rejected", "Consequences"):
            assert f"**{part}.**" in text, f"{file} has no {part}"


def test_the_pictures_are_shown_and_small() -> None:
    folder = ROOT / "docs" / "pictures"
    pictures = {path.name: path.stat().st_size for path in folder.iterdir()}
    for page in (README, (ROOT / "docs" / "index.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"!\[[^\]]{20,}\]\(\S*pictures/(\S+)\)", page)) == pictures.keys()

    assert pictures
    assert all(10_000 < size < 200_000 for size in pictures.values())


def test_the_notebook_is_stored_as_it_is_before_it_is_executed() -> None:
    """`make docs` executes it; plots and times in a commit would differ each time."""
    notebook = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]

    assert len(cells) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


# --- the runbook ----------------------------------------------------------------------------------

PLACEHOLDER = "\0"


@cache
def messages() -> frozenset[str]:
    """Every text in the package's code, with a mark where something is put in."""
    found = set()
    for path in (ROOT / "datalake_assets").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(map(_as_said, node.values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def _as_said(part: ast.expr) -> str:
    """A piece of a text: itself, or the mark. A count's noun and its verb are in the plural."""
    match part:
        case ast.Constant(value=text):
            return str(text)
        case ast.FormattedValue(
            value=ast.Call(func=ast.Name(id="many"), args=[_, ast.Constant(value=str(thing))])
        ):
            return many(0, thing).replace("0", PLACEHOLDER)
        case ast.FormattedValue(value=ast.Call(func=ast.Name(id="verb"), args=[_, *forms])):
            return str(forms[1].value) if forms and isinstance(forms[1], ast.Constant) else "are"
    return PLACEHOLDER


def occurs(quoted: str) -> bool:
    """Does the program have a text with these words, in this order, for each `…` anything?

    A semicolon beside a `…` joins two texts, as the store does with what to do.
    """
    pieces = [re.escape(piece.strip(" ;")) for piece in quoted.split("…") if piece.strip(" ;")]
    pattern = re.compile(".*".join(pieces), re.DOTALL)
    return any(pattern.search(message) for message in messages())


def quoted_headings() -> list[str]:
    return [
        heading
        for line in re.findall(r"^### (.*)$", RUNBOOK, re.MULTILINE)
        for heading in re.findall(r"`([^`]+)`", line)
    ]


def test_the_runbook_quotes_messages() -> None:
    assert len(quoted_headings()) >= 20


@pytest.mark.parametrize("quoted", quoted_headings())
def test_a_message_that_heads_the_runbook_is_one_that_the_program_says(quoted: str) -> None:
    assert occurs(quoted)


def test_a_message_that_the_program_does_not_say_would_be_found() -> None:
    assert occurs("… is not set, but … is; set both, or neither")
    assert not occurs("… is not set, and … is; set both, or neither")
    assert not occurs("set both, or neither … is not set, but")


def test_every_rule_of_the_audit_has_its_line_in_the_runbook() -> None:
    lines = re.findall(r"^\| (`.*?) \|", RUNBOOK, re.MULTILINE)

    rules = {*RULES, *MINUTE_RULES.meanings}
    assert sorted(re.findall(r"`(\w+)`", " ".join(lines))) == sorted(rules)


def test_the_knobs_that_the_documents_name_are_the_collectors() -> None:
    knobs = r"`((?:min|max)_\w+|attempts|\w+_(?:seconds|timeout))`"
    named = set(re.findall(knobs, RUNBOOK))

    assert named
    assert named <= set(CollectorResource.model_fields)
