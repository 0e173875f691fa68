"""The terminal: what is written to it, and how.

Belongs here: the two consoles, progress, small pictures, and errors without a stack trace. Does not
belong here: what one command shows (its own module).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from datalake_assets import market_calendar
from datalake_assets.collection.errors import CollectionError
from datalake_assets.collection.progress import Display, Snapshot, many
from datalake_assets.lake.files import WrongLakeError
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.settings import SettingsError
from datalake_assets.storage.store import BrokenFileError, StoreError

out = Console()
err = Console(stderr=True)


class TerminalDisplay(Display):
    """Progress as one live line, or as a line now and then where there is no terminal.

    What is counted has a bar, which stays when it is full; what can't be counted has its name and
    the time, and gives way to what follows. Use it as a context manager: at the end of the block
    nothing moves any more, and others may print.

    Args:
        console: Where it is drawn.
    """

    _EVERY = 5.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._began = 0.0
        self._next = self._EVERY

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the line away, so that others may print; the next call draws it again."""
        self._stop(keep=False)

    def begin(self, what: str) -> None:
        """Name what begins now."""
        if not self._console.is_terminal:
            tell(self._console, f"{what} …")
            return
        self.clear()
        self._draw(Snapshot(what))

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Draw the collection as it is."""
        if not self._console.is_terminal:
            if final or snapshot.seconds >= self._next:
                self._next = self._EVERY + (0.0 if final else snapshot.seconds)
                tell(self._console, str(snapshot))
            return
        self._draw(snapshot)
        if final:
            self._stop(keep=True)

    def _draw(self, snapshot: Snapshot) -> None:
        if self._live is None:
            self._began = time.monotonic()
            # A thread of its own draws it, so that it moves also while nobody calls.
            self._live = Live(console=self._console, refresh_per_second=8)
            self._live.update(ProgressLine(snapshot, self._began))
            self._live.start(refresh=True)
        else:
            self._live.update(ProgressLine(snapshot, self._began))

    def _stop(self, *, keep: bool) -> None:
        if self._live is not None:
            self._live.transient = not keep
            self._live.stop()
            self._live = None


class ProgressLine:
    """One line that tells how far something is, in as many words as the terminal has room for.

    Args:
        snapshot: What is told.
        began: When it began, by `time.monotonic`.
    """

    def __init__(self, snapshot: Snapshot, began: float) -> None:
        self._snapshot, self._began = snapshot, began

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, room = self._snapshot, options.max_width
        seconds = time.monotonic() - self._began
        wheel = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(seconds * 10) % 10] if not options.ascii_only else "-"
        took = f"{int(seconds) // 60}:{int(seconds) % 60:02}"
        if not shown.chunks:
            line = Text.assemble((f"{wheel} ", "green"), f"{shown.label} … ", (took, "dim"))
            line.truncate(room, overflow="ellipsis")
            yield line
            return
        told = [Text(shown.label), Text(shown.counted)]
        if left := shown.seconds_left:
            told.append(Text(f"{left:,.0f} s left", "cyan"))
        if shown.symbols_ok or shown.symbols_failed:
            failed = (f"✗ {shown.symbols_failed:,}", "red" if shown.symbols_failed else "")
            told.append(Text.assemble((f"✓ {shown.symbols_ok:,}", "green"), " ", failed))
        if shown.retries:
            told.append(Text(many(shown.retries, "retry"), "yellow"))
        if shown.bars:
            told.append(Text(many(shown.bars, "bar")))
        if shown.requests:
            told.append(Text(many(shown.requests, "request")))
        kept = told[:2]
        used = len(wheel) + len(took) + 2 + sum(len(part) + 1 for part in kept)
        for part in told[2:]:
            # What matters most comes first: nothing of less weight takes its place.
            if used + len(part) + 1 + _SHORTEST > room:
                break
            kept.append(part)
            used += len(part) + 1
        width = min(_LONGEST, room - used)
        bar = ""
        if width >= _SHORTEST // 2:
            full, empty = ("#", "-") if options.ascii_only else ("━", "─")
            done = width * shown.chunks_done // shown.chunks
            bar = f"{full * done}{empty * (width - done)} "
        line = Text.assemble((f"{wheel} ", "green"), kept[0], " ", (bar, "green"))
        line.append_text(Text(" ").join([*kept[1:], Text(took, "dim")]))
        line.truncate(room, overflow="ellipsis")
        yield line


_SHORTEST, _LONGEST = 12, 40
"""Characters of a bar: with fewer, words are left out; more tell nothing."""


@contextmanager
def working(what: str) -> Iterator[TerminalDisplay]:
    """A moving line that names what is waited for, while there is a terminal; else nothing."""
    with TerminalDisplay(err) as display:
        if err.is_terminal:
            display.begin(what)
        yield display


@contextmanager
def plain_errors() -> Iterator[None]:
    """What a person can mend is told without a stack trace, and so is Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as error:
        tell(err, "interrupted. What was published stays, and the same command goes on")
        raise typer.Exit(130) from error  # as a shell tells that SIGINT ended a program
    except _MENDABLE as error:
        tell(err, f"error: {error}")
        raise typer.Exit(2) from error


_MENDABLE = (
    SettingsError,
    StoreError,
    WrongLakeError,
    BrokenFileError,
    NotInLakeError,
    CollectionError,
    market_calendar.OutsideCalendar,
    OSError,
)


def show_table(table: Table, *, spare: int = 0) -> None:
    """Print a table to `out` without cutting a number.

    A pipe has no width, and gets all of it. Where a terminal is too narrow, titles of columns are
    written on several lines; then the frame is left out, then the columns that can be spared, the
    last one first.

    Args:
        table: The table; columns that are justified right hold numbers.
        spare: How many of its last columns can be spared.
    """
    numbers = [column for column in table.columns if column.justify == "right"]
    for column in numbers:
        column.no_wrap = True
    if not out.is_terminal:
        Console(width=10_000).print(table)
        return
    if not fits(table):
        for column in table.columns:
            column.header = str(column.header).replace(" ", "\n")
    if not fits(table):
        table.box, table.pad_edge, table.padding = None, False, (0, 1, 0, 0)
    while spare and not fits(table):
        table.columns.pop()
        spare -= 1
    out.print(table)


def fits(table: Table) -> bool:
    """Whether `out` has room for a table without breaking a line in it."""
    return not out.is_terminal or Console(width=10_000).measure(table).maximum <= out.width


def tell(console: Console, text: str) -> None:
    """Print as it is: no markup, and no line broken in a command or a path to be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def command() -> str:
    """How this program was called, so that what it says can be typed."""
    called = Path(sys.argv[0]).absolute()
    here = called.is_relative_to(Path.cwd())
    return str(called.relative_to(Path.cwd())) if here and called.name == "datalake" else "datalake"


def sparkline(values: Sequence[float]) -> str:
    """The values as bars between the lowest and the highest of them."""
    low, high = min(values), max(values)
    steps = "▁▂▃▄▅▆▇█"
    span = high - low or 1.0
    return "".join(steps[round((value - low) / span * (len(steps) - 1))] for value in values)
