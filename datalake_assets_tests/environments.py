"""An environment that holds some packages and what they bring along, and nothing else.

Here: a folder with links to what is installed for the tests, and running Python with that folder
alone. What a document forgets to name is not there, as on a reader's machine. No network is used.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OURS = "us-equity-datalake"


def closure(names: Iterable[str]) -> Iterator[str]:
    """These distributions and all that they require, each once; without extras not asked for."""
    wanted = [Requirement(name) for name in names]
    seen: set[tuple[str, str]] = set()
    told: set[str] = set()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        for extra in {"", *one.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name not in told:
                told.add(name)
                yield name
            for required in map(Requirement, metadata.requires(name) or []):
                if required.marker is None or required.marker.evaluate({"extra": extra}):
                    wanted.append(required)


@cache
def owners_of_modules() -> Mapping[str, list[str]]:
    """Which distributions have each module."""
    return metadata.packages_distributions()


def install(into: Path, names: Iterable[str]) -> None:
    """Link these distributions and what they require into a folder, as pip would put them there.

    Args:
        into: The folder; it is made.
        names: As `pip install` takes them; `.` is this project.
    """
    into.mkdir()
    wanted = frozenset(closure(OURS if name == "." else name for name in names))
    owners = owners_of_modules()
    for name in wanted:
        if name == OURS:  # installed in place: its files are not where the others' are
            (into / "datalake_assets").symlink_to(ROOT / "datalake_assets")
            continue
        found = metadata.distribution(name)
        tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        for top in tops:
            for owner in owners.get(PurePosixPath(top).name.partition(".")[0], ()):
                assert canonicalize_name(owner) in wanted, f"{top} is also of {owner}"
            if not (into / top).exists():
                (into / top).symlink_to(found.locate_file(top))


def run(script: str, packages: Path, at: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with the standard library and these packages alone.

    Args:
        script: Python.
        packages: Where they are.
        at: The working directory.
    """
    # Isolated, and without the site module: no folder of this environment comes in.
    before = f"import sys; sys.path.append({str(packages)!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore::UserWarning", "-c", before + script],
        cwd=at,
        capture_output=True,
        text=True,
        check=False,
    )
