"""The terminal: what is written to it, and how.

Belongs here: the two consoles, progress, small pictures, and errors without a stack trace. Does not
belong here: what one command shows (its own module).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from datalake_assets import market_calendar
from datalake_assets.collection.errors import CollectionError
from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.lake.lake import WrongLakeError
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.settings import SettingsError
from datalake_assets.storage.store import BrokenFileError, StoreError

out = Console()
err = Console(stderr=True)


class TerminalDisplay(Display):
    """Progress as a bar, or as a line now and then where there is no terminal.

    Args:
        console: Where it is drawn.
    """

    _EVERY = 5.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._next = self._EVERY

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Draw the collection as it is."""
        if not self._console.is_terminal:
            if final or snapshot.seconds >= self._next:
                self._next = 0.0 if final else snapshot.seconds + self._EVERY
                self._console.print(str(snapshot), highlight=False)
            return
        if self._bar is None:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} chunks  {task.fields[told]}"),
                TimeElapsedColumn(),
                console=self._console,
                auto_refresh=False,
            )
            self._bar.add_task(snapshot.label, total=snapshot.chunks, told="")
            self._bar.start()
        told = (
            f"[green]✓ {snapshot.symbols_ok:,}[/] [red]✗ {snapshot.symbols_failed:,}[/] "
            f"{snapshot.bars:,} bars  {snapshot.requests:,} requests"
        )
        if snapshot.retries:
            told += f" ({snapshot.retries:,} retries)"
        if left := snapshot.seconds_left:
            told += f"  {left:,.0f} s left"
        self._bar.update(self._bar.task_ids[0], completed=snapshot.chunks_done, told=told)
        self._bar.refresh()
        if final:
            self._bar.stop()
            self._bar = None


@contextmanager
def plain_errors() -> Iterator[None]:
    """What a person can mend is told without a stack trace."""
    try:
        yield
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
