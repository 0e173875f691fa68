"""`datalake export`: what it takes, what it says, and its exit codes."""

import re
import sys
from pathlib import Path

import click.testing
import pytest
from typer.testing import CliRunner

from datalake_assets.cli import app
from datalake_assets.exporters.run import Outcome
from datalake_assets.lake.lake import Lake
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.exporters.market import DAYS, lake_in


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder: Path = tmp_path_factory.mktemp("lake")
    return lake_in(open_store(str(folder)))


@pytest.fixture(autouse=True)
def here(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATALAKE_URI", lake.store.uri)
    return tmp_path


def invoke(*arguments: str) -> click.testing.Result:
    """The command in this process; a stack trace is a defect of its own."""
    result = CliRunner().invoke(app, ["export", *arguments], prog_name="datalake")
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_it_says_what_it_wrote_where_and_how_to_use_it(here: Path) -> None:
    result = invoke("qlib", "my-qlib")

    assert result.exit_code == 0, result.output
    root = here / "my-qlib"
    done = r"7 securities, 2023-03-01 to 2024-02-29; 59 files written \(\S+ kB\) in \d+\.\d s"
    assert re.search(rf"^{root}: {done}$", result.stdout, re.MULTILINE)
    assert f'to use it: qlib.init(provider_uri="{root}", region="us")' in result.stdout
    assert "export: 7/7 securities" in result.stderr
    assert (root / "instruments" / "all.txt").exists()


def test_a_second_run_says_that_nothing_was_written(here: Path) -> None:
    invoke("lean", "my-lean", "--symbols", "kid,THIN")
    result = invoke("lean", "my-lean", "--symbols", "kid,THIN")

    assert result.exit_code == 0
    told = "2 securities, 2023-03-01 to 2024-02-29, and the lake has not changed since: nothing"
    assert f"{here / 'my-lean'} holds {told} was written" in result.stdout


def test_symbols_come_from_a_file_and_days_bound_the_range(here: Path) -> None:
    (here / "list.txt").write_text("KID  # a comment\nODD\n")
    first, last = str(DAYS[110]), str(DAYS[120])
    result = invoke("lean", "out", "--symbols", "@list.txt", "--from", first, "--to", last)

    assert f"2 securities, {first} to {last}; 6 files written" in result.stdout
    made = sorted(path.name for path in (here / "out").rglob("*.zip"))
    assert made == ["kid.zip", "odd.zip"]


def test_what_is_not_as_usual_is_told_on_stderr(here: Path) -> None:
    result = invoke("lean", "out", "--symbols", "LONG")

    assert result.exit_code == 0
    assert "warning: LONG means LONG-2023-12-29 here" in result.stderr


@pytest.mark.parametrize(("count", "more"), [(10, None), (11, "1 more warning"), (13, "3 more")])
def test_many_warnings_are_counted(
    count: int, more: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*given: object) -> Outcome:
        warned = [f"w{number}" for number in range(count)]
        return Outcome(1, DAYS[0], DAYS[1], False, 1, 0, 0, 10, warned, 0.1)

    monkeypatch.setattr("datalake_assets.cli.export.write_export", told)
    result = invoke("qlib", "out")

    assert result.stderr.count("warning: w") == 10
    assert (more or "lake:") in result.stderr
    assert ("… and" in result.stderr) is (more is not None)


def test_a_folder_in_the_lake_is_refused(lake: Lake) -> None:
    result = invoke("LEAN", f"{lake.store.uri}/data/exports", "--symbols", "LONG")

    assert result.exit_code == 2
    assert "is in the lake: give another folder" in " ".join(result.stderr.split())
    assert not Path(lake.store.uri, "data/exports").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["excel", "out"], "TOOL is one of zipline, qlib, lean, nautilus, not 'excel'"),
        (["qlib", "out", "--symbols", ""], "--symbols=''"),
        (["qlib", "out", "--symbols", "@none.txt"], "names a file that can't be read"),
        (["qlib", "out", "--symbols", "NOPE"], "ever held the ticker NOPE: correct --symbols"),
        (["qlib", "out", "--from", "2023-13-01"], "'2023-13-01' is no day"),
        (["qlib", "out", "--from", "2024-02-01", "--to", "2024-01-02"], "is before the start"),
        (["qlib", "full"], "is not empty and holds no export of this program"),
    ],
)
def test_wrong_input_is_an_error_before_anything_is_written(
    arguments: list[str], told: str, here: Path
) -> None:
    (here / "full").mkdir()
    (here / "full" / "mine").touch()
    result = invoke(*arguments)

    assert result.exit_code == 2
    assert told in " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    assert not (here / "out").exists()


def test_without_the_tool_s_package_it_says_what_to_install(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zipline", None)
    result = invoke("zipline", "out")

    assert result.exit_code == 2
    assert "not installed: pip install 'us-equity-datalake[zipline]'" in result.stderr
    assert "Traceback" not in result.output
    assert not (here / "out").exists()


def test_without_a_lake_or_without_its_factors_it_says_what_to_type(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_URI", str(here / "none"))
    result = invoke("qlib", "out")
    assert (result.exit_code, "there is no lake at" in result.stderr) == (2, True)

    bare = lake_in(open_store(str(here / "bare")))
    bare.store.delete(layout.FACTORS_TABLE)
    monkeypatch.setenv("DATALAKE_URI", bare.store.uri)
    result = invoke("qlib", "out")
    assert (result.exit_code, "derive them: datalake securities" in result.stderr) == (2, True)
