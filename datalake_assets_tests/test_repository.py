"""What the repository promises as a whole: its files agree with each other, and a clone just works.

Here: versions, constraints, Makefile, CI, workspace, instance settings, what loading the
definitions costs. Not here: what the package does.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import datalake_assets
from datalake_assets.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAME = PYPROJECT["project"]["name"]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


# --- versions -------------------------------------------------------------------------------------


def test_the_version_is_the_newest_of_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$", changelog, re.MULTILINE)

    assert versions[0][0] == datalake_assets.__version__
    assert [Version(v) for v, _ in versions] == sorted(
        (Version(v) for v, _ in versions), reverse=True
    )
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", day) for _, day in versions)


def declared_requirements() -> list[Requirement]:
    extras = PYPROJECT["project"]["optional-dependencies"]
    groups = [lines for extra, lines in extras.items() if extra not in TOOLS]
    lines = PYPROJECT["project"]["dependencies"] + [line for group in groups for line in group]
    return [r for r in map(Requirement, lines) if canonicalize_name(r.name) != NAME]


TOOLS = ("zipline", "nautilus")
"""The extras that go into environments of their own, with versions in a file of their own."""


def constraints(file: str = "constraints.txt") -> dict[str, Version]:
    """Name → pinned version; a line that pins nothing fails the test that reads it."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins: dict[str, Version] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        name, equals, version = line.partition("==")
        assert equals, f"{line!r} does not pin a version with =="
        assert name not in pins, f"{name} is pinned twice"
        pins[name] = Version(version)
    return pins


def installed_closure() -> Iterator[str]:
    """What the declared requirements bring along, as far as it is installed here."""
    wanted = [(r.name, extra) for r in declared_requirements() for extra in (r.extras or {""})]
    seen: set[tuple[str, str]] = set()
    while wanted:
        name, extra = wanted.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # the browser's driver, when only the tests are installed
        yield name
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted += [(requirement.name, e) for e in {"", *requirement.extras}]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = constraints()
    for requirement in declared_requirements():
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt does not pin {name}: make lock"
        assert requirement.specifier.contains(pins[name]), (
            f"constraints.txt pins {name} {pins[name]}, not {requirement.specifier}: make lock"
        )


def test_the_tools_of_exports_are_pinned_within_their_ranges() -> None:
    pins = constraints("constraints-tools.txt")
    extras = PYPROJECT["project"]["optional-dependencies"]
    for requirement in (Requirement(line) for extra in TOOLS for line in extras[extra]):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    assert not constraints().keys() & pins.keys()


def test_every_installed_dependency_of_a_dependency_is_pinned() -> None:
    installed = set(installed_closure())
    assert {"sqlalchemy", "boto3", "httptools"} <= installed  # two levels down, and by an extra
    assert sorted(installed - constraints().keys()) == []


def test_the_constraints_are_sorted_and_nothing_but_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    names = list(constraints())

    assert pins == sorted(pins)
    assert names == [canonicalize_name(name) for name in names]
    assert NAME not in names


# --- files that must agree ------------------------------------------------------------------------


def test_dagster_loads_the_same_module_with_and_without_the_workspace() -> None:
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))
    (location,) = workspace["load_from"]
    # The wheel has it, for `datalake dev`; Dagster looks for it in the clone's folder.
    assert (ROOT / "workspace.yaml").resolve() == ROOT / "datalake_assets" / "workspace.yaml"
    tool = PYPROJECT["tool"]

    assert location["python_module"] == {
        "module_name": tool["dagster"]["module_name"],
        "location_name": tool["dagster"]["code_location_name"],
    }
    assert tool["dg"]["project"]["code_location_target_module"] == tool["dagster"]["module_name"]
    assert tool["dg"]["project"]["code_location_name"] == tool["dagster"]["code_location_name"]


def test_the_example_environment_names_every_setting_with_its_default() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))
    ours = {name: value for name, value in given.items() if not name.startswith("AWS_")}

    assert ours.keys() == {setting.variable for setting in SETTINGS}
    for setting in SETTINGS:
        if setting.default is not None:
            assert ours[setting.variable] == setting.default
    uncommented = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert uncommented == [], "a copy of the example must change nothing"


def test_the_instance_sends_no_telemetry_and_gives_pool_slots_to_whole_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's own parser reads the file, so a misspelt key fails here and not on `make dev`."""
    from dagster import DagsterInstance

    from datalake_assets.records.sqlite import SqliteEventLog

    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(ROOT / "datalake_assets" / "dagster.yaml", tmp_path / "dagster.yaml")
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.event_log_storage) is SqliteEventLog
        assert Path(instance.event_log_storage.path_for_shard("index")).is_relative_to(tmp_path)
        assert instance.telemetry_enabled is False
        granularity = instance.get_concurrency_config().pool_config.pool_granularity
        assert granularity is not None
        assert granularity.value == "run"
        assert instance.run_monitoring_enabled


def tracked_files() -> list[Path]:
    """The files that a commit of everything here would have."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("only a clone knows which files are the repository's")
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


MACHINE_PATH = re.compile(r"(?<![\w.~:/$}-])/(?:home|root|Users|work|tmp/w)/\w")
REGISTRY = re.compile(
    r"\b(?:[\w-]+\.)*(?:pypi\.org|pythonhosted\.org|npmjs\.org|debian\.org)\b|--(?:extra-)?index-url"
)


@pytest.mark.parametrize(
    "text",
    ["see /home/ann/lake", 'x = "/root/x"', "/Users/ann", "https://files.pythonhosted." + "org/x"],
)
def test_a_name_of_one_machine_or_registry_would_be_found(text: str) -> None:
    assert MACHINE_PATH.search(text) or REGISTRY.search(text)


def test_no_file_names_a_path_of_one_machine_or_a_package_registry() -> None:
    found = []
    for path in tracked_files():
        if path == Path(__file__).resolve():
            continue  # its own examples
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, a recorded page
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or REGISTRY.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_keys_and_the_lake_stay_out_of_commits() -> None:
    rules = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".env", "/.datalake/", "/.venv/"} <= set(rules)


# --- the Makefile ---------------------------------------------------------------------------------


def make(
    *arguments: str, cwd: Path = ROOT, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs make as a person does; `path` is all that its recipes find."""
    program = shutil.which("make")
    assert program is not None
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "PYTHON")
    }
    return subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env=inherited if path is None else inherited | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_make
def test_help_is_the_default_and_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    described = re.findall(r"^  ([a-z0-9-]+) +\S.*$", make().stdout, re.MULTILINE)

    assert {"demo", "dev", "test", "test-ui", "check", "fix", "clean", "lock"} <= targets
    assert set(described) == targets
    assert len(described) == len(targets)


@needs_make
@pytest.mark.parametrize(
    ("port", "told"),
    [
        ("taken", "is taken, or can't be used: nothing was started."),
        ("0x", "Invalid value for '--port'"),
        ("70000", "Invalid value for '--port'"),
    ],
)
def test_dev_on_a_port_that_can_t_be_had_says_so_and_starts_nothing(
    port: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "installed").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1]) if port == "taken" else port
        result = make(
            "dev",
            f"PORT={port}",
            f"DAGSTER_HOME={tmp_path / 'home'}",
            f"BIN={Path(sys.executable).parent}",
            f"RUNTIME={tmp_path / 'installed'}",
            f"VENV={tmp_path / 'none'}",
        )

    assert result.returncode != 0
    assert told in " ".join(result.stderr.replace("│", "").split())
    assert "make dev PORT=3001" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "home").exists()


@pytest.fixture
def bare_clone(tmp_path: Path) -> Path:
    """The Makefile alone, in a folder whose name has a space, with no environment made yet."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("datalake_assets", "datalake_assets_tests", ".datalake", ".venv"):
        (folder / name).mkdir()
        (folder / name / "kept").write_text("x")
    return folder


def folder_of_programs(folder: Path, **scripts: str) -> str:
    """A PATH with the system's plain tools and the given shell scripts, and no other Python."""
    folder.mkdir()
    for tool in ("sh", "awk", "rm", "find", "mkdir", "cat", "touch"):
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    for name, script in scripts.items():
        program = folder / name.replace("_", ".")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return str(folder)


@needs_make
def test_a_python_that_is_only_a_name_is_passed_over(bare_clone: Path, tmp_path: Path) -> None:
    """A shim of pyenv for a version that is not there exits 127."""
    path = folder_of_programs(
        tmp_path / "bin", python3_13="exit 127", python3=f'exec "{sys.executable}" "$@"'
    )
    dry_run = make("-n", ".venv/bin/python", cwd=bare_clone, path=path)

    assert '"python3" -m venv' in dry_run.stdout
    assert "python3.13 -m" not in dry_run.stdout


@needs_make
def test_without_a_python_the_message_says_what_to_install(
    bare_clone: Path, tmp_path: Path
) -> None:
    path = folder_of_programs(tmp_path / "bin", python3="exit 1")
    result = make(".venv/bin/python", cwd=bare_clone, path=path)

    assert result.returncode != 0
    assert "No Python 3.11 or newer" in result.stderr
    assert "apt install python3 python3-venv" in result.stderr


@needs_make
def test_a_python_given_by_name_that_is_too_old_is_named(bare_clone: Path, tmp_path: Path) -> None:
    path = folder_of_programs(tmp_path / "bin", python2_7="exit 1")
    result = make(".venv/bin/python", "PYTHON=python2.7", cwd=bare_clone, path=path)

    assert result.returncode != 0
    assert "PYTHON=python2.7 is not Python 3.11 or newer" in result.stderr


@needs_make
def test_clean_removes_the_environment_and_never_the_lake(bare_clone: Path) -> None:
    built = bare_clone / "datalake_assets" / "sources" / "_pages.abi3.so"
    built.parent.mkdir()
    built.write_text("x")

    result = make("clean", cwd=bare_clone)

    assert result.returncode == 0
    assert not built.exists()
    assert not (bare_clone / ".venv").exists()
    assert (bare_clone / ".datalake" / "kept").exists()
    assert (bare_clone / "datalake_assets" / "kept").exists()
    assert "Kept .datalake" in result.stdout


# --- what CI runs ---------------------------------------------------------------------------------

MAKE = """
echo "made $*"
case "$1" in # each of these waits until the other one has begun
    test) touch test; until [ -e docs ]; do sleep 0.1; done; echo "5 passed" ;;
    docs) touch docs; until [ -e test ]; do sleep 0.1; done ;;
esac
for target; do [ "$target" != "$FAILS" ] || exit 2; done
"""


@pytest.mark.parametrize("fails", ["", "types", "docs", "test-ui", "test"])
def test_ci_tests_beside_the_documents_and_the_ui_and_fails_with_any_of_them(
    fails: str, tmp_path: Path
) -> None:
    (tmp_path / "clone" / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / "clone" / ".ci")
    programs = folder_of_programs(tmp_path / "bin", make=MAKE, chromium="exit 0")
    result = subprocess.run(
        [str(tmp_path / "clone" / ".ci" / "run")],
        env={"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "FAILS": fails},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert result.returncode == {"": 0, "types": 2}.get(fails, 1), result.stderr
    told = result.stdout.splitlines()
    assert told[:2] == ["made .venv/.ui", "made lint types layers definitions"]
    if fails == "types":
        assert len(told) == 2, "what takes seconds ends it at once"
        return
    assert told[2:] == ["made docs", "made test-ui", "made test ARGS=-n 3", "5 passed"]
    assert result.stderr == (f"→ failed: make {fails}\n" if fails else "")


# --- loading the definitions ----------------------------------------------------------------------

HEAVY = ("alpaca", "apprise", "duckdb", "exchange_calendars", "pandas", "polars")
REPORT_OF_LOADING = f"""
import json, os, sys
import dagster  # runs `file` on the interpreter (croniter asks whether it has 32 bits)

events = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        events.append(event)
    elif event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else 0
        if writes and path != os.devnull:
            events.append(f"open {{path}} {{mode}}")
    elif event in ("os.mkdir", "os.rename", "os.remove", "subprocess.Popen", "os.posix_spawn"):
        events.append(f"{{event}} {{arguments[0]}}")

sys.addaudithook(watch)
import datalake_assets.definitions

json.dump({{"events": events, "heavy": [m for m in {HEAVY!r} if m in sys.modules]}}, sys.stdout)
"""


def test_loading_the_definitions_touches_no_network_no_disk_and_no_heavy_library(
    tmp_path: Path,
) -> None:
    """Dagster loads them in every process: webserver, daemon, code server and each run."""
    loading = subprocess.run(
        [sys.executable, "-B", "-c", REPORT_OF_LOADING],
        cwd=tmp_path,
        env={"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loading.returncode == 0, loading.stderr
    report: dict[str, list[str]] = json.loads(loading.stdout)
    assert report == {"events": [], "heavy": []}
    assert list(tmp_path.iterdir()) == []
