"""A command imports what it needs: what takes long to import is imported by who uses it."""

import subprocess
import sys
from datetime import date

import pytest
from typer.testing import CliRunner

from datalake_assets import market_calendar
from datalake_assets.cli import COMMANDS, app, load
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage.store import open_store
from datalake_assets_tests.lake.test_reader import write

HEAVY = {"alpaca", "boto3", "dagster", "pandas", "sqlalchemy", "uvicorn"}
"""Packages that take more than a tenth of a second to import."""

DAYS = market_calendar.sessions(date(2024, 1, 2), date(2024, 1, 12))


def imported(uri: str, *words: str) -> set[str]:
    """The packages and this project's modules that a command has imported at its end."""
    code = (
        "import sys, runpy\n"
        f"sys.argv = {['datalake', *words]}\n"
        "try:\n"
        "    runpy.run_module('datalake_assets', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "ours = [name for name in sys.modules if name.startswith('datalake_assets.')]\n"
        "print('\\n'.join(['', *ours, *sys.modules.keys()]))\n"
    )
    environment = {"DATALAKE_URI": uri, "PATH": "", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return set(done.stdout.splitlines())


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Nine sessions of two symbols."""
    made = LakeWriter(open_store(str(tmp_path_factory.mktemp("startup"))))
    made.claim("alpaca/sip")
    for day in DAYS:
        write(made.store, day, ["AUE", "BRK.B"])
    return made.store.uri


def test_help_imports_no_command(lake: str) -> None:
    found = imported(lake, "--help")

    ours = {name for name in found if name.startswith("datalake_assets.")}
    assert ours <= {"datalake_assets.cli", "datalake_assets.__main__"}
    assert not found & (HEAVY | {"numpy", "obstore", "pyarrow", "pydantic"})


@pytest.mark.parametrize(
    "words",
    [
        ("show", "AUE"),
        ("show", "AUE", "--csv"),
        ("status",),
        ("status", "--json"),
        *((name, "--help") for name in COMMANDS if name != "exchange"),
    ],
)
def test_what_only_looks_at_a_lake_imports_neither_pandas_nor_dagster(
    lake: str, words: tuple[str, ...]
) -> None:
    assert not imported(lake, *words) & HEAVY


@pytest.mark.parametrize(("name", "told"), COMMANDS.items())
def test_the_help_of_all_begins_as_that_of_each(name: str, told: str) -> None:
    one = load(name)

    assert one.name == name
    assert " ".join(one.help.split("\n\n")[0].split()) == told


def test_each_command_is_listed_and_one_that_is_misspelt_is_told_what_is_like_it() -> None:
    listed = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    wrong = CliRunner().invoke(app, ["statsu"])

    assert [name for name, told in COMMANDS.items() if told not in listed] == []
    assert wrong.exit_code == 2
    assert "Did you mean 'status'?" in wrong.output


def test_a_command_of_a_command_is_found_with_its_options() -> None:
    told = CliRunner().invoke(app, ["decide", "accept", "-h"])

    assert told.exit_code == 0
    assert "--why" in told.output


def test_who_imports_pandas_after_all_can_use_it_with_arrow() -> None:
    code = (
        "import sys; from datalake_assets.cli import load; load('show'); import pyarrow as pa\n"
        "table = pa.table({'a': [1, 2]}); assert 'pandas' not in sys.modules\n"
        "frame = table.to_pandas(); assert frame['a'].tolist() == [1, 2]\n"
        "import pandas; assert pa.Table.from_pandas(pandas.DataFrame({'a': [1, 2]})).equals(table)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
