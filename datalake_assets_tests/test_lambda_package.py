"""The Lambda function's package and template: small enough, the same each time, and whole.

Nothing is downloaded here: `make lambda` does, and tries to import what it built.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from datalake_assets.lambda_handler import RESERVE, Request, workers
from datalake_assets.settings import SETTINGS, Settings
from datalake_assets_tests.test_repository import PYPROJECT, constraints

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "lambda"


def load() -> ModuleType:
    """`build.py`, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("build_lambda", FOLDER / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


build = load()


# --- the package ----------------------------------------------------------------------------------


def test_the_same_files_make_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    made = []
    for name, age in (("first", 0), ("second", 1_000_000_000)):
        folder = tmp_path / name / "package"
        folder.mkdir(parents=True)
        build.copy_ours(folder)
        for path in sorted(folder.rglob("*"), reverse=bool(age)):
            os.utime(path, (age, age))
            path.chmod(0o755 if path.is_dir() or age else 0o600)
        build.bytecode(folder)
        build.pack(folder, tmp_path / name / "package.zip")
        made.append((tmp_path / name / "package.zip").read_bytes())

    assert made[0] == made[1]
    with zipfile.ZipFile(tmp_path / "first" / "package.zip") as package:
        names = package.namelist()
        assert names == sorted(names)
        assert package.testzip() is None
        modes = {entry.external_attr >> 16 for entry in package.infolist()}
        assert modes == {0o100644}, "readable by whoever Lambda runs it as"
    compiled = [name for name in names if name.endswith(".pyc")]
    assert len(compiled) == len([name for name in names if name.endswith(".py")]) > 20


def test_bytecode_names_lambdas_paths_and_is_taken_without_a_look_at_the_source(
    tmp_path: Path,
) -> None:
    build.copy_ours(tmp_path)
    build.bytecode(tmp_path)

    (found,) = (tmp_path / "datalake_assets" / "__pycache__").glob("settings.*.pyc")
    data = found.read_bytes()
    assert int.from_bytes(data[4:8], "little") == 0b01, "by a hash, and unchecked"
    assert b"/var/task/datalake_assets/settings.py" in data
    assert str(tmp_path).encode() not in data


def test_a_package_that_lambda_would_refuse_is_an_error_that_names_what_is_large(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "package"
    (folder / "large").mkdir(parents=True)
    (folder / "large" / "data").write_bytes(bytes(3000))
    (folder / "small.py").write_bytes(bytes(1000))

    assert build.pack(folder, tmp_path / "a.zip", limit=4001).unzipped == 4000
    assert build.pack(folder, tmp_path / "a.zip", limit=4000).unzipped == 4000
    with pytest.raises(build.TooLargeError, match=r"The largest parts: large .*, small\.py"):
        build.pack(folder, tmp_path / "b.zip", limit=3999)
    assert not (tmp_path / "b.zip").exists()
    assert build.UNZIPPED == 262_144_000


def test_what_is_never_loaded_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    kept = [
        "alpaca/client.py",
        "pyarrow/lib.so",
        "pyarrow/libarrow_python.so.2600",
        "a.dist-info/METADATA",
    ]
    gone = [
        "bin/f2py",
        "pandas/tests/test_a.py",
        "pandas/core/tests/data/a.csv",
        "pyarrow/include/arrow/api.h",
        "pyarrow/libarrow_flight.so.2600",
        "pyarrow/libarrow_python.so",
        "pyarrow/libarrow_python.so.2600.1.0",
        "a.dist-info/RECORD",
    ]
    for name in (*kept, *gone):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10))

    assert build.prune(tmp_path) == 10 * len(gone)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(kept)


ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import datalake_assets.lambda_handler, datalake_assets.rate_limits.postgres
import datalake_assets.storage.store
print(*sorted(n for n in sys.modules if n.split(".")[0] == "datalake_assets"))
print(datalake_assets.__file__)
"""


def test_our_part_of_it_is_whole_by_itself(tmp_path: Path) -> None:
    build.copy_ours(tmp_path)

    result = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ALONE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    loaded, where = result.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert "datalake_assets.pipeline.publication" in loaded.split()


def test_nothing_that_was_compiled_for_this_machine_is_in_it(tmp_path: Path) -> None:
    build.copy_ours(tmp_path)

    assert (tmp_path / "datalake_assets" / "sources" / "pages.py").exists()
    assert [*tmp_path.rglob("*.so"), *tmp_path.rglob("*.c"), *tmp_path.rglob("*.pyi")] == []


def test_its_requirements_are_the_projects_in_pinned_versions() -> None:
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if not line.startswith("#")]
    names = [canonicalize_name(requirement.name) for requirement in wanted]
    extras = PYPROJECT["project"]["optional-dependencies"]["postgres"]
    ours = {
        canonicalize_name(Requirement(line).name)
        for line in (*PYPROJECT["project"]["dependencies"], *extras)
    }

    assert names == sorted(names)
    assert set(names) <= constraints().keys()
    assert set(names) - ours == {"dagster-pipes"}, "which dagster brings along"
    assert not [name for name in names if name in ("dagster", "dagster-aws", "dagster-webserver")]


def test_a_python_that_lambda_has_no_more_is_told_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "RUNTIME", "3.11")

    with pytest.raises(SystemExit, match=r"make lambda LAMBDA_PYTHON=/path/to/python3\.12"):
        build.main(["--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


# --- the template ---------------------------------------------------------------------------------

TEXT = (FOLDER / "template.yaml").read_text(encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short functions, as what they are given."""


def _given(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_Loader.add_multi_constructor("!", _given)


def template(text: str = TEXT) -> dict[str, Any]:
    return dict(yaml.load(text, _Loader))


def function(text: str = TEXT) -> dict[str, Any]:
    return dict(template(text)["Resources"]["CollectSession"]["Properties"])


def test_the_template_runs_the_handler_that_make_lambda_builds() -> None:
    properties = function()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert "deploy/lambda/build.py --out build/lambda" in makefile
    assert (FOLDER / properties["CodeUri"]).resolve() == ROOT / "build" / "lambda" / "package"
    module, _, name = properties["Handler"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
    runtimes = template()["Parameters"]["Runtime"]
    assert runtimes["AllowedValues"] == [f"python{version}" for version in build.RUNTIMES]
    assert runtimes["Default"] in runtimes["AllowedValues"]
    assert RESERVE < properties["Timeout"] <= 900
    assert workers(template()["Parameters"]["MemorySize"]["Default"]) == 8


def test_the_environment_of_the_template_is_a_legal_one_and_its_keys_are_references() -> None:
    variables = function()["Environment"]["Variables"]

    assert set(variables) <= {setting.variable for setting in SETTINGS}
    for setting in SETTINGS:
        if setting.secret and setting.variable in variables:
            assert re.fullmatch(
                r"\{\{resolve:secretsmanager:\$\{AlpacaSecret\}:SecretString:\w+\}\}",
                variables[setting.variable],
            )
    defaults = {name: str(p.get("Default", name)) for name, p in template()["Parameters"].items()}
    filled = {
        name: re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]].lower(), value)
        for name, value in variables.items()
    }
    filled |= {name: defaults[value] for name, value in variables.items() if value in defaults}
    settings = Settings.load(filled)
    assert settings.lake_uri == "s3://bucket/datalake"
    assert (settings.requests_per_minute, settings.minutes) == (200, "off")
    assert settings.minute_symbols is None


def test_the_template_offers_the_minute_bars_that_the_settings_have() -> None:
    parameters = template()["Parameters"]
    variables = function()["Environment"]["Variables"]

    assert parameters[variables["DATALAKE_MINUTES"]]["AllowedValues"] == [
        "off",
        "regular",
        "extended",
    ]
    symbols = parameters[variables["DATALAKE_MINUTE_SYMBOLS"]]
    assert re.fullmatch(symbols["AllowedPattern"], "AAPL,BRK.B")
    for minutes in ("off", "regular", "extended"):
        told = {"DATALAKE_MINUTES": minutes, "DATALAKE_MINUTE_SYMBOLS": "AAPL,BRK.B"}
        settings = Settings.load(told)
        assert settings.minutes == minutes
        assert settings.read_symbols(minutes=True) == ("AAPL", "BRK.B")


def test_its_role_may_do_what_the_lake_needs_and_no_more() -> None:
    (policy,) = function()["Policies"]
    allowed = {
        action: statement["Resource"]
        for statement in policy["Statement"]
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }

    assert allowed == {
        "s3:ListBucket": "arn:${AWS::Partition}:s3:::${Bucket}",
        "s3:GetObject": "arn:${AWS::Partition}:s3:::${Bucket}/${Prefix}/*",
        "s3:PutObject": "arn:${AWS::Partition}:s3:::${Bucket}/${Prefix}/*",
        "s3:DeleteObject": "arn:${AWS::Partition}:s3:::${Bucket}/${Prefix}/*",
    }
    assert all(statement["Effect"] == "Allow" for statement in policy["Statement"])
    # What is not there must be told by a 404: docs/deploying.md, "Security".
    assert not any("Condition" in statement for statement in policy["Statement"])


def test_its_schedule_is_a_comment_that_is_right_when_it_is_none() -> None:
    assert "Events" not in function()
    head, comment, tail = re.split(r"((?:^      # .*\n)+)(?=\n  Log:)", TEXT, flags=re.M)
    lines = comment.splitlines()
    start = lines.index("      # Events:")
    active = "\n".join(["", *(f"      {line[8:]}" for line in lines[start:]), ""])

    now, asked = datetime.now(UTC), []
    for event in function(head + active + tail)["Events"].values():
        request = Request.of(json.loads(event["Properties"]["Input"]), now)
        assert request.session <= now.date()
        assert request.newest
        assert event["Properties"]["ScheduleExpressionTimezone"] == "America/New_York"
        asked.append(request.dataset)
    assert asked == ["daily", "minute"]
