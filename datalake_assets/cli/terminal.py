"""The terminal: output, progress and errors.

Belongs here: the two consoles, progress, sparklines, and errors without a stack trace. Does not
belong here: the output of a single command (its own module).
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
from datalake_assets.catalog import CatalogError
from datalake_assets.cli.signals import Interrupted, interrupting
from datalake_assets.collection.errors import CollectionError
from datalake_assets.collection.progress import Display, Snapshot, many
from datalake_assets.iceberg.registration import RegistrationError
from datalake_assets.lake.files import WrongLakeError
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.settings import SettingsError
from datalake_assets.storage.store import BrokenFileError, StoreError

out = Console()
err = Console(stderr=True)


class TerminalDisplay(Display):
    """Progress as one live line, or as occasional lines where there is no terminal.

    A step with a count has a bar, which stays when it is full. A step without one has its name and
    the time, and is replaced by the next step. Use it as a context manager: after the block nothing
    moves, and others can print.

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
        """Remove the line, so that others can print; the next call draws it again."""
        self._stop(keep=False)

    def begin(self, what: str) -> None:
        """Name the step that starts now."""
        if not self._console.is_terminal:
            tell(self._console, f"{what} …")
            return
        self.clear()
        self._draw(Snapshot(what))

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Draw the collection's progress."""
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
            # A thread draws it, so that it moves also between calls.
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
    """A line of progress, with as much detail as the terminal has room for.

    Args:
        snapshot: The progress to show.
        began: When it started, by `time.monotonic`.
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
            # In order of importance: a less important part never replaces a more important one.
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
"""The width of the bar. Details are left out to keep the minimum."""


@contextmanager
def working(what: str) -> Iterator[TerminalDisplay]:
    """Show a moving line that names the current step, if there is a terminal."""
    with TerminalDisplay(err) as display:
        if err.is_terminal:
            display.begin(what)
        yield display


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print errors that the user can fix, Ctrl-C and SIGTERM, without a stack trace."""
    try:
        with interrupting():
            yield
    except KeyboardInterrupt as error:
        tell(err, "interrupted. Published sessions stay; run the same command again to continue")
        code = error.code if isinstance(error, Interrupted) else Interrupted().code
        raise typer.Exit(code) from error
    except _FIXABLE as error:
        tell(err, f"error: {error}")
        if isinstance(error, BrokenFileError) and "datalake " not in str(error):
            tell(err, damage())
        raise typer.Exit(2) from error


def damage() -> str:
    """What to do about a damaged file."""
    return f"Which objects are damaged, and the command that repairs each, says: {command()} doctor"


_FIXABLE = (
    SettingsError,
    StoreError,
    WrongLakeError,
    BrokenFileError,
    NotInLakeError,
    CatalogError,
    RegistrationError,
    CollectionError,
    market_calendar.OutsideCalendar,
    OSError,
)


def show_table(table: Table, *, spare: int = 0) -> None:
    """Print a table to `out` without truncating a number.

    A pipe has no width and gets the whole table. In a narrow terminal, titles wrap first, then
    the frame is dropped, then the optional columns, starting with the last.

    Args:
        table: The table; right-justified columns hold numbers.
        spare: How many of its last columns are optional.
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
    """Whether a table fits `out` without wrapping."""
    return not out.is_terminal or Console(width=10_000).measure(table).maximum <= out.width


def tell(console: Console, text: str) -> None:
    """Print text as it is, without markup or wrapping, so that commands and paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def command() -> str:
    """How this program was called, so that the commands it prints can be typed."""
    called = Path(sys.argv[0]).absolute()
    here = called.is_relative_to(Path.cwd())
    return str(called.relative_to(Path.cwd())) if here and called.name == "datalake" else "datalake"


def sparkline(values: Sequence[float]) -> str:
    """The values as a sparkline between the lowest and the highest."""
    low, high = min(values), max(values)
    steps = "▁▂▃▄▅▆▇█"
    span = high - low or 1.0
    return "".join(steps[round((value - low) / span * (len(steps) - 1))] for value in values)
