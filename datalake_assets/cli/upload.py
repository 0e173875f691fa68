"""`datalake upload`: copy a folder's files to a bucket, many at a time."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from datalake_assets.cli.arguments import Json
from datalake_assets.cli.terminal import (
    TerminalDisplay,
    command,
    err,
    out,
    plain_errors,
    show_table,
    tell,
)
from datalake_assets.collection import progress
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets.storage.upload import WORKERS, Item, Snapshot, Upload, files
from datalake_assets.storage.upload import upload as upload_items

SHOWN = 20
"""How many failures are listed; `--json` lists all."""


def upload(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder; its files are uploaded recursively.")
    ],
    uri: Annotated[str, typer.Argument(metavar="URI", help="Target: s3://bucket/prefix.")],
    workers: Annotated[
        int, typer.Option(min=1, max=1000, help="Concurrent requests; a distant server needs more.")
    ] = WORKERS,
    as_json: Json = False,
) -> None:
    """Upload the files of a folder to a bucket, replacing existing objects.

    Exit code 1 if a file was not uploaded, with the reason.
    """
    with plain_errors():
        items, store = _what(folder), _where(uri)
        stop = threading.Event()
        with _set_by_signals(stop):
            report = upload_items(
                items, store.put, workers=workers, stop=stop, display=UploadDisplay(err)
            )
        if as_json:
            out.print_json(json.dumps(_as_json(report, store)))
        else:
            _show(report)
            if report.passed and any(item.key == layout.MARKER for item in items):
                # Its manifests still name the versions of the folder's objects. Until they name
                # the uploaded ones, a reader checks the footers of the sessions.
                again = f"DATALAKE_URI={store.uri} {command()} publish"
                tell(out, f"This lake is up to date. To verify it: {again}")
    raise typer.Exit(0 if report.passed else 1)


class UploadDisplay:
    """The progress of an upload as a bar, or as occasional lines where there is no terminal.

    Args:
        console: Where it is drawn.
    """

    _EVERY = 5.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._display = TerminalDisplay(console)
        self._next = self._EVERY

    def __call__(self, snapshot: Snapshot) -> None:
        """Draw the upload's progress."""
        if self._console.is_terminal:
            told = progress.Snapshot(
                label=f"{snapshot.bytes / 1e6:,.1f} MB",
                unit="object",
                chunks=snapshot.objects,
                chunks_done=snapshot.done,
                symbols_ok=snapshot.uploaded if snapshot.failed else 0,
                symbols_failed=snapshot.failed,
                retries=snapshot.retries,
                seconds=snapshot.seconds,
            )
            self._display.show(told, final=snapshot.final)
        elif snapshot.final or snapshot.seconds >= self._next:
            self._next = snapshot.seconds + self._EVERY
            tell(self._console, str(snapshot))


def _what(folder: Path) -> list[Item]:
    try:
        items = files(folder)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not items:
        raise typer.BadParameter(f"{folder} has no files")
    return items


def _where(uri: str) -> Store:
    if uri.startswith("memory:"):
        raise typer.BadParameter(f"{uri} is not persistent: give a bucket")
    try:
        return open_store(uri, retry=False)  # the upload retries itself
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def _set_by_signals(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM sets `stop`; the second ends the program."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def set_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        set_back()

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        set_back()


def _show(report: Upload) -> None:
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, text in (
        ("objects uploaded", f"{len(report.uploaded):,}"),
        ("failed", f"{len(report.failed):,}"),
        ("not uploaded", f"{len(report.pending):,}"),
        ("size", decimal(report.bytes)),
        ("took", f"{report.seconds:,.1f} s"),
        ("objects per second", f"{report.objects_per_second:,.0f}"),
        ("retried requests", f"{report.retries:,}"),
    ):
        table.add_row(name, text)
    show_table(table)
    for key, reason in list(report.failed.items())[:SHOWN]:
        tell(err, f"✗ {key}: {reason}")
    if len(report.failed) > SHOWN:
        tell(err, f"… and {len(report.failed) - SHOWN:,} more failed")
    if report.pending:
        tell(err, f"{len(report.pending):,} not uploaded: {report.stopped}; run the command again")


def _as_json(report: Upload, store: Store) -> dict[str, object]:
    return {
        "to": store.uri,
        "uploaded": len(report.uploaded),
        "failed": report.failed,
        "pending": report.pending,
        "stopped": report.stopped,
        "bytes": report.bytes,
        "seconds": report.seconds,
        "objects_per_second": report.objects_per_second,
        "retries": report.retries,
    }
