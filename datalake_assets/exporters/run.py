"""Running an export: from a lake and symbols to a folder that a tool reads.

Belongs here: the tools by name, going through the groups of securities, progress, and what an
export reports. Does not belong here: formats (a module for each tool), and files (`folder`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.exporters.folder import Folder
from datalake_assets.exporters.selection import Exported, Selection
from datalake_assets.lake.lake import Lake

TOOLS = ("zipline", "qlib", "lean", "nautilus")

_EVERY = 0.25
"""Seconds between two pictures of the progress."""


class MissingToolError(RuntimeError):
    """The tool's own package, which writes its format, is not installed; says what to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"an export for {extra} is written by {package}, which is not installed: "
            f"pip install 'us-equity-datalake[{extra}]', into an environment of its own"
        )


@dataclass(frozen=True)
class Outcome:
    """What an export did.

    Args:
        securities: Securities in the export.
        first, last: Its first and last session.
        unchanged: Whether the folder held all of it before, so that nothing was looked at.
        written: Files that are new or changed.
        kept: Files that were made again and had the same bytes.
        removed: Files that no longer belonged to it.
        bytes: Size of the files that were written.
        told: What the user should know.
        seconds: How long it took.
    """

    securities: int
    first: date
    last: date
    unchanged: bool
    written: int
    kept: int
    removed: int
    bytes: int
    told: Sequence[str]
    seconds: float


class Progress:
    """Counts securities and bars for a display.

    Args:
        display: Where it is shown.
        securities: How many there are.
        monotonic: The clock, in seconds.
    """

    def __init__(self, display: Display, securities: int, monotonic: Callable[[], float]) -> None:
        self._display, self._monotonic = display, monotonic
        self._all, self._done, self._bars = securities, 0, 0
        self._began = monotonic()
        self._next = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._monotonic() - self._began

    def advance(self, securities: int, bars: int) -> None:
        """So many more securities are done."""
        self._done, self._bars = self._done + securities, self._bars + bars
        if self.seconds >= self._next:
            self._next = self.seconds + _EVERY
            self._display.show(self._snapshot(), final=False)

    def finish(self) -> None:
        """Everything is done."""
        self._display.show(self._snapshot(), final=True)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            "export",
            chunks=self._all,
            chunks_done=self._done,
            bars=self._bars,
            seconds=self.seconds,
            unit="security",
        )


def export(
    tool: str,
    lake: Lake,
    root: Path,
    symbols: Iterable[str] | None = None,
    start: date | str | None = None,
    end: date | str | None = None,
    display: Display | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Export securities for a tool into a folder.

    Run again, it goes on where it was stopped, and writes what changed. The folder then holds
    exactly what the last run was asked for.

    Args:
        tool: One of `TOOLS`.
        lake: The lake.
        root: The folder; empty, not there yet, or that of an earlier export for the same tool.
        symbols: As traded at the end of the range; None: every security with a bar in it.
        start: First day; None: the lake's first session.
        end: Last day; None: its newest session.
        display: Shows the progress.
        monotonic: The clock, in seconds.

    Raises:
        ValueError: A day that is none, `end` before `start`, or no symbol.
        FolderError: The folder holds something else, or is in use.
        MissingToolError: The tool's package is needed and not there.
        NotInLakeError: The lake lacks the range, the symbols or its tables of securities.
        BrokenFileError: A file of the lake is damaged.
    """
    module = import_module(f"datalake_assets.exporters.{tool}")
    folder = Folder(root, tool)
    version = module.version()
    display = display or Display()
    display.begin("reading what is known of securities")
    selection = Selection.of(lake, symbols, start, end)
    progress = Progress(display, len(selection.securities), monotonic)
    state = selection.state(tool, version)
    with folder:
        unchanged = folder.complete(state)
        if not unchanged:
            module.export(selection, folder, state, progress)
            progress.finish()
    return Outcome(
        len(selection.securities),
        selection.sessions[0],
        selection.sessions[-1],
        unchanged,
        folder.written,
        folder.kept,
        folder.removed,
        folder.bytes,
        tuple(selection.told),
        progress.seconds,
    )


File = tuple[str, bytes]
"""A file's name below the export's folder, and what is in it."""


def by_group(
    selection: Selection,
    folder: Folder,
    state: str,
    progress: Progress,
    files: Callable[[Sequence[Exported]], Iterable[File]],
    index: Callable[[Sequence[dict[str, Any]]], Iterable[File]] = lambda told: (),
) -> None:
    """Write an export group by group, going on where an earlier run of this state was stopped.

    Args:
        selection: What is exported.
        folder: Where to.
        state: What it follows from.
        progress: Told of each group.
        files: The files of a group.
        index: The files that list the others: from the `symbol`, `first` and `last` session of
            each security with a bar, as text. They are written last.
    """
    done = folder.begin(state)
    names = {" ".join(one.id for one in group): group for group in selection.groups}
    rest = {name: group for name, group in names.items() if name not in done}
    for name, group in names.items():
        if name not in rest:
            progress.advance(len(group), 0)
    for (name, group), found in zip(rest.items(), selection.read([*rest.values()]), strict=True):
        written = []
        for path, data in files(found):
            folder.write(path, data)
            written.append(path)
        done[name] = [_told(one) for one in found]
        folder.done(name, written, done[name])
        progress.advance(len(group), sum(one.bars.num_rows for one in found))
    folder.finish(index([told for name in names for told in done[name]]))


def _told(one: Exported) -> dict[str, Any]:
    return {
        "symbol": one.listed.symbol,
        "first": one.first.isoformat(),
        "last": one.last.isoformat(),
    }
