"""`datalake register`: what a person is told, and which catalog is used.

Not here: what the table shows (`lake.test_iceberg`).
"""

import json
import os
from datetime import date
from pathlib import Path

import pytest

from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.lake.test_reader import write
from datalake_assets_tests.test_cli import ROOT, datalake, invoke, plain

DAYS = [date(2023, 12, 29), date(2024, 1, 2), date(2024, 1, 3)]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeWriter:
    """Three sessions of two symbols, the year file of the first."""
    uri = str(tmp_path / "lake")
    monkeypatch.setenv("DATALAKE_URI", uri)
    made = LakeWriter(open_store(uri))
    made.claim("alpaca/sip")
    for day in DAYS:
        write(made.store, day, ["AUE", "BRK.B"])
    YearFiles(made.store).publish(2023)
    return made


def test_a_lake_is_registered_and_nothing_is_done_the_second_time(lake: LakeWriter) -> None:
    first, second = invoke("register"), invoke("register")
    folder = lake.store.url("iceberg/bars")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "has 3 files, 3 sessions, 6 bars" in plain(first.stdout)
    assert "3 files are new, 0 are no longer in it" in plain(first.stdout)
    assert f"FROM iceberg_scan('{folder}')" in plain(first.stdout)
    assert plain(second.stdout).startswith("datalake.bars: nothing changed since snapshot")
    assert lake.store.exists(layout.ICEBERG_CATALOG)


def test_json_tells_all_of_it(lake: LakeWriter) -> None:
    told = json.loads(invoke("register", "--table", "market.daily", "--json").stdout)

    assert told["table"] == "market.daily"
    assert told["folder"] == lake.store.url("iceberg/daily")
    assert (told["changed"], told["files"], told["sessions"], told["bars"]) == (True, 3, 3, 6)
    assert told["catalog"] == lake.store.url(layout.ICEBERG_CATALOG)


@pytest.mark.parametrize("name", ["bars", "a.b.c", "a.", "a.b/c", "a.b c"])
def test_a_table_without_a_namespace_or_with_odd_letters_is_refused(
    name: str, lake: LakeWriter
) -> None:
    refused = invoke("register", "--table", name)

    assert refused.exit_code == 2
    assert "NAMESPACE.NAME" in plain(refused.output)
    assert lake.store.list(layout.ICEBERG) == []


def test_without_pyiceberg_it_says_what_to_install(lake: LakeWriter, tmp_path: Path) -> None:
    package = tmp_path / "hidden" / "pyiceberg"
    package.mkdir(parents=True)
    missing = "raise ModuleNotFoundError('No module named pyiceberg', name='pyiceberg')"
    (package / "__init__.py").write_text(missing)  # as if it were not there
    path = os.pathsep.join([str(package.parent), str(ROOT)])
    refused = datalake("register", environ={"DATALAKE_URI": lake.store.uri, "PYTHONPATH": path})

    assert refused.returncode == 2
    assert "pyiceberg is not installed; install PyIceberg: pip install 'us-" in refused.stderr
    assert lake.store.list(layout.ICEBERG) == []


def test_a_catalog_of_pyicebergs_own_configuration_is_used(
    lake: LakeWriter, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".pyiceberg.yaml").write_text(
        f"catalog:\n  mine:\n    type: sql\n    uri: sqlite:///{tmp_path}/mine.db\n"
    )
    environ = {"HOME": str(home), "DATALAKE_URI": lake.store.uri}
    done = datalake("register", "--catalog", "mine", "--json", environ=environ)
    unknown = datalake("register", "--catalog", "nobodys", environ=environ)

    assert (done.returncode, json.loads(done.stdout)["catalog"]) == (0, "mine")
    assert (tmp_path / "mine.db").exists()
    assert not lake.store.exists(layout.ICEBERG_CATALOG)
    assert unknown.returncode == 2
    assert "error: can't open the catalog 'nobodys'" in unknown.stderr


def test_without_a_lake_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path / "none"))
    refused = invoke("register")

    assert (refused.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "there is no lake at" in plain(refused.output)


def test_doctor_takes_the_table_for_no_damage(lake: LakeWriter) -> None:
    YearFiles(lake.store).publish(2024)
    before = plain(invoke("doctor").output)
    assert invoke("register").exit_code == 0

    assert "iceberg" not in plain(invoke("doctor").output)
    assert "iceberg" not in before
