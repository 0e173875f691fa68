"""The folder of an export: files written whole, a record of what is done, and nothing stale.

Belongs here: atomic writes, the record by which a second run continues, and removing what no longer
belongs to the export. Does not belong here: what the files hold.

The record is a hidden file at the folder's root with a JSON object a line: first the state that the
export is made from, then each group of securities once its files are in place. A run that finds its
own state skips what is done. A run that finds another one makes every file anew, and writes those
whose bytes differ. A folder without a record is left alone unless it is empty.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

RECORD = ".datalake-export.jsonl"
STAGING = ".datalake-staging"


class FolderError(ValueError):
    """The folder can't take the export; says why, and what to do."""


@dataclass
class _Told:
    """What a record tells."""

    header: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def files(self) -> set[str]:
        """All files that were ever put here, or about to be, and not removed since."""
        named = [self.header.get("files", []), *(group["files"] for group in self.groups)]
        return {name for names in (*named, self.begun) for name in names}


class Folder:
    """A folder that one export is written to; a context manager, which keeps others out.

    Args:
        root: The folder; made when it is not there.
        tool: The tool that the export is for.

    Raises:
        FolderError: It holds something else, or an export for another tool, or is in use.
    """

    def __init__(self, root: Path, tool: str) -> None:
        self.root, self._tool = root, tool
        self.written = self.kept = self.removed = self.bytes = 0
        self._record = root / RECORD
        if root.exists() and not root.is_dir():
            raise FolderError(f"{root} is a file: give a folder")
        ours = {RECORD, STAGING}
        if not self._record.exists() and root.is_dir() and {p.name for p in root.iterdir()} - ours:
            raise FolderError(
                f"{root} is not empty and holds no export of this program: give an empty folder, "
                "or one that does not exist"
            )
        self._old = _read(self._record)
        of = self._old.header.get("tool", tool)
        if of != tool:
            raise FolderError(f"{root} holds an export for {of}: give {tool} a folder of its own")

    def __enter__(self) -> Self:
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise FolderError(f"another export is writing to {self.root}: wait for it") from error
        self._old = _read(self._record)  # the other one may have just ended
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        os.close(self._lock)

    @property
    def staging(self) -> Path:
        """An empty place in the same file system; what is left there is removed at the end."""
        return self.root / STAGING

    def complete(self, state: str) -> bool:
        """Whether the folder holds all of the export that follows from this state."""
        old = self._old
        same = old.complete and old.header["state"] == state
        return same and self._there(old.header["index"]) and all(map(self._whole, old.groups))

    def begin(self, state: str) -> dict[str, list[dict[str, Any]]]:
        """Begin an export, or go on with one; what was told of each group that is done, by name.

        Until an export of something new is complete, the files that `finish` wrote are gone: no
        tool then reads a half of it.
        """
        old = self._old
        index = old.header.get("index", [])
        whole = []
        if old.header.get("state") == state:
            whole = [group for group in old.groups if self._whole(group)]
        else:
            for name in index:
                with suppress(FileNotFoundError):
                    (self.root / name).unlink()
            index = []
        files = sorted(old.files.union(index))
        header = {"tool": self._tool, "state": state, "files": files, "index": index}
        self._renew([header, *whole])
        return {group["group"]: group["told"] for group in whole}

    def write(self, name: str, data: bytes) -> None:
        """Put a file at its place, unless the same bytes are there; never half of it."""
        target = self.root / name
        with suppress(FileNotFoundError):
            if target.stat().st_size == len(data) and target.read_bytes() == data:
                self.kept += 1
                return
        # Before it is there: an export that is stopped here is no reason to leave it for ever.
        self._note({"file": name})
        staged = self.staging / "file"
        staged.write_bytes(data)
        try:
            os.replace(staged, target)  # noqa: PTH105
        except FileNotFoundError:  # its folder is not there yet
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)  # noqa: PTH105
        self.written += 1
        self.bytes += len(data)

    def move(self, source: Path, name: str) -> Path:
        """Move a folder from `staging` to its place, whole; where it is now."""
        target = self.root / name
        sizes = [path.stat().st_size for path in source.rglob("*") if path.is_file()]
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        self.written, self.bytes = self.written + len(sizes), self.bytes + sum(sizes)
        return target

    def done(
        self,
        group: str,
        files: Iterable[str],
        told: Sequence[dict[str, Any]],
        others: Iterable[str] = (),
    ) -> None:
        """Record that a group's files are in place.

        Args:
            group: Its name.
            files: Its files; once they belong to no group any more, they are removed.
            told: What a run that skips it needs to know.
            others: Files that it needs as well, which are the tool's to remove.
        """
        self._note(
            {"group": group, "files": list(files), "told": list(told), "others": list(others)}
        )

    def finish(self, index: Iterable[tuple[str, bytes]]) -> None:
        """Remove what no longer belongs to the export, and write the files that list the others."""
        now = _read(self._record)
        current = {name for group in now.groups for name in group["files"]}
        for name in sorted(now.files - current - set(now.header["index"])):
            with suppress(FileNotFoundError):
                (self.root / name).unlink()
                self.removed += 1
            with suppress(OSError):  # other files are in it
                (self.root / name).parent.rmdir()
        names = []
        for name, data in index:
            self.write(name, data)
            names.append(name)
        header = now.header | {"files": names, "index": names}
        self._renew([header, *now.groups, {"complete": True}])

    def _whole(self, group: dict[str, Any]) -> bool:
        return self._there([*group["files"], *group["others"]])

    def _there(self, names: Iterable[str]) -> bool:
        return all((self.root / name).is_file() for name in names)

    def _note(self, line: dict[str, Any]) -> None:
        with self._record.open("a", encoding="utf-8") as record:
            record.write(json.dumps(line) + "\n")

    def _renew(self, lines: Iterable[dict[str, Any]]) -> None:
        staged = self.staging / "record"
        staged.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(staged, self._record)  # noqa: PTH105


def _read(record: Path) -> _Told:
    """What a record tells; a last line that was cut off counts as not written."""
    told = _Told()
    try:
        lines = record.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return told
    for line in lines:
        try:
            one = json.loads(line)
        except ValueError:
            break
        if "state" in one:
            told.header = one
        elif "group" in one:
            told.groups.append(one)
        elif "file" in one:
            told.begun.append(one["file"])
        else:
            told.complete = True
    return told
