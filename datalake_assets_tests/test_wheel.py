"""The wheel: what is in it, what it says of itself, and that it works alone.

Not here: what a release needs beside it (`test_release`).
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import datalake_assets
from datalake_assets_tests.test_repository import NAME, PYPROJECT, ROOT

READY_WITHIN_SECONDS = 180
ASKED = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus "
ASKED += "locationOrLoadError { __typename } } } } }"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as pip builds it, from a copy, as a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        ROOT / "datalake_assets",
        source / "datalake_assets",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as packed:
        return packed.namelist()


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as packed:
        (found,) = (each for each in packed.namelist() if re.search(rf"\.dist-info/{name}$", each))
        return packed.read(found).decode()


def metadata(wheel: Path) -> Message:
    return message_from_string(read(wheel, "METADATA"))


def test_it_holds_each_file_of_the_package_and_nothing_else(names: list[str]) -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("only a clone knows which files are the repository's")
    listed = [git, "ls-files", "--cached", "--others", "--exclude-standard", "datalake_assets"]
    tracked = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True)
    wanted = {name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()}
    held = {name for name in names if ".dist-info/" not in name and not name.endswith(".so")}

    # The decoder's source is needed to build it, not to run it.
    assert held == {name for name in wanted if not name.endswith(".c")}


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_it_holds_the_decoder_for_all_pythons_from_the_oldest_on(
    wheel: Path, names: list[str]
) -> None:
    assert "datalake_assets/sources/_pages.abi3.so" in names
    assert "-cp311-abi3-" in wheel.name


def test_it_says_what_it_is_and_has_its_licence(wheel: Path) -> None:
    told = metadata(wheel)

    assert told["Name"] == NAME
    assert told["Version"] == datalake_assets.__version__
    assert told["Summary"] == PYPROJECT["project"]["description"]
    assert told["License-Expression"] == "Apache-2.0"
    assert told.get_all("License-File") == ["LICENSE"]
    assert read(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert told["Requires-Python"] == ">=3.11"
    assert told["Description-Content-Type"] == "text/markdown"
    text = told.get_payload()
    assert isinstance(text, str)
    assert "# US Equity Data Lake" in text
    assert "Typing :: Typed" in told.get_all("Classifier", [])


def test_its_command_and_its_extras_are_those_of_the_project(wheel: Path) -> None:
    told = metadata(wheel)
    groups = PYPROJECT["project"]["optional-dependencies"]

    assert "datalake = datalake_assets.cli:app" in read(wheel, "entry_points.txt")
    assert set(told.get_all("Provides-Extra", [])) == groups.keys()
    required = [Requirement(line) for line in told.get_all("Requires-Dist", [])]
    always = {found.name for found in required if found.marker is None}
    assert always == {Requirement(line).name for line in PYPROJECT["project"]["dependencies"]}


# --- installed alone ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=True)
    install = [folder / "bin" / "python", "-m", "pip", "install", "-q", wheel]
    install += ["-c", ROOT / "constraints.txt"]
    subprocess.run([str(word) for word in install], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """An empty folder, and an environment in which nothing is set."""
    folder = tmp_path_factory.mktemp("empty")
    home = tmp_path_factory.mktemp("home")
    return folder, {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}


@pytest.mark.wheel
def test_in_an_empty_folder_the_demo_makes_a_lake_with_its_report(
    programs: Path, empty: tuple[Path, dict[str, str]]
) -> None:
    folder, environment = empty
    ran = subprocess.run(
        [str(programs / "datalake"), "demo"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all 6 sessions pass" in ran.stdout or "sessions pass" in ran.stdout
    assert (folder / ".datalake" / "embedded" / "reports" / "latest.html").is_file()
    assert [path.name for path in folder.iterdir()] == [".datalake"]


@pytest.fixture
def served(programs: Path, empty: tuple[Path, dict[str, str]]) -> Iterator[str]:
    """`datalake dev` of the installed wheel: its address."""
    folder, environment = empty
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder.with_name("dev.log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(programs / "datalake"), "dev", "--port", str(port)],
            cwd=folder,
            env=environment | {"DATALAKE_AUTOMATION": "off"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            try:
                with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                    break
            except OSError:
                time.sleep(0.3)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.wheel
def test_in_an_empty_folder_the_ui_loads_the_definitions(served: str) -> None:
    request = urllib.request.Request(
        f"{served}/graphql",
        json.dumps({"query": ASKED}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        (location,) = json.load(answer)["data"]["workspaceOrError"]["locationEntries"]

    assert location["name"] == "us_equity_datalake"
    assert location["locationOrLoadError"]["__typename"] == "RepositoryLocation"
