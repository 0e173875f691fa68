"""Whether a tag may be published: `python .ci/release.py v1.2.3`.

It must be the version of the package and of the changelog's newest heading, which has its day.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problem(tag: str, changelog: str, package: str) -> str | None:
    """What keeps this tag from being published; None: nothing.

    Args:
        tag: Such as v1.2.3.
        changelog: The text of the changelog.
        package: The text of the package's `__init__.py`.
    """
    headings = re.findall(r"^## \[([^\]]+)\] - (\S+)$", changelog, re.MULTILINE)
    versions = re.findall(r'^__version__ = "([^"]+)"$', package, re.MULTILINE)
    if not headings or not versions:
        return (
            "CHANGELOG.md has no heading like '## [1.2.3] - 2026-01-31', or no __version__ is set"
        )
    newest, day = headings[0]
    if not tag == f"v{newest}" == f"v{versions[0]}":
        return (
            f"the tag is {tag}, the changelog's newest version {newest}, the package's "
            f"{versions[0]}: they must be the same"
        )
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
        return f"the changelog says that {newest} is {day}: it must have the day of its release"
    return None


if __name__ == "__main__":
    found = problem(
        sys.argv[1],
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        (ROOT / "datalake_assets" / "__init__.py").read_text(encoding="utf-8"),
    )
    sys.exit(found)
