"""What a release needs: which tag may be published, and workflows that hold no secret.

Not here: the wheel (`test_wheel`), versions and constraints (`test_repository`).
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHANGELOG = "# Changelog\n\n## [1.2.3] - 2026-11-28\n\n- New.\n\n## [1.2.2] - 2026-01-02\n"
PACKAGE = '__version__ = "1.2.3"\n'


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load()


def test_the_newest_version_of_the_changelog_may_be_published() -> None:
    assert release.problem("v1.2.3", CHANGELOG, PACKAGE) is None


@pytest.mark.parametrize(
    ("tag", "changelog", "package", "told"),
    [
        ("v1.2.2", CHANGELOG, PACKAGE, "the tag is v1.2.2, the changelog's newest version 1.2.3"),
        ("1.2.3", CHANGELOG, PACKAGE, "they must be the same"),
        ("v1.2.3", CHANGELOG, '__version__ = "1.2.2"\n', "the package's 1.2.2"),
        ("v1.2.3", CHANGELOG.replace("2026-11-28", "unreleased"), PACKAGE, "is unreleased"),
        ("v1.2.3", "# Changelog\n", PACKAGE, "has no heading"),
        ("v1.2.3", CHANGELOG, "", "or no __version__ is set"),
    ],
)
def test_any_other_is_refused_with_the_reason(
    tag: str, changelog: str, package: str, told: str
) -> None:
    assert told in str(release.problem(tag, changelog, package))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_holds_no_secret_and_may_only_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)

    assert not re.search(r"secrets\.|password|(?<!id-)token:", text, re.IGNORECASE)
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job.get("permissions") for name, job in workflow["jobs"].items()}
    assert {name: found for name, found in more.items() if found} in (
        {},
        {"publish": {"id-token": "write"}},
    )
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_target_of_make_that_a_workflow_runs_exists(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    named = {
        word
        for step in steps(path)
        if step.get("run", "").startswith("make ")
        for word in step["run"].split()[1:]
        if "=" not in word
    }

    assert named
    assert named <= targets


def test_together_the_jobs_run_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (checked,) = re.findall(r"^check: ([a-z ]+) ##", makefile, re.MULTILINE)
    (workflow,) = (path for path in WORKFLOWS if path.name == "ci.yml")
    ran = " ".join(step.get("run", "") for step in steps(workflow)).split()

    assert set(checked.split()) <= set(ran)


def test_nothing_is_published_before_its_version_was_looked_at() -> None:
    (workflow,) = (path for path in WORKFLOWS if path.name == "release.yml")
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]

    assert set(jobs["publish"]["needs"]) == {"source", "wheels"}
    assert all(jobs[name]["needs"] == "version" for name in jobs["publish"]["needs"])
    assert any(".ci/release.py" in step.get("run", "") for step in jobs["version"]["steps"])
