"""`datalake actions`: a symbol's corporate actions, and since when each is known.

With `--sweep`: fetch the whole history again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from datalake_assets.actions.action import SCHEMA
from datalake_assets.actions.log import CHANGED, INSERTED, VANISHED, ActionLog
from datalake_assets.cli.arguments import SHARE, open_lake, show_lake
from datalake_assets.cli.runs import sweep_actions
from datalake_assets.cli.terminal import out, plain_errors, tell
from datalake_assets.collection.progress import many
from datalake_assets.lake.reader import NotInLakeError, as_day
from datalake_assets.settings import Settings

_KNOWN = ("known_since", "changed_at", "vanished_at")


def actions(
    symbol: Annotated[str | None, typer.Argument(help="Such as AAPL or BRK.B.")] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="YYYY-MM-DD", help="First effective date."),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Last effective date.")
    ] = None,
    known_at: Annotated[
        str | None,
        typer.Option(
            metavar="INSTANT",
            help="Show what was known at this time: a day (its end in UTC), or 2026-03-02T14:30Z.",
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Fetch the whole history from the source again.")
    ] = False,
    max_loss: Annotated[
        float | None,
        typer.Option(
            **SHARE,
            help="With --sweep: maximum share of the known actions that the answer may lack.",
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the actions as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the actions as JSON.")] = False,
) -> None:
    """Show a symbol's splits, dividends, renames and delisting, and since when each is known."""
    if sweep == (symbol is not None):
        raise typer.BadParameter("give either a SYMBOL, or --sweep")
    if sweep and (first or last or known_at or as_csv or as_json):
        raise typer.BadParameter(
            "--sweep fetches everything: of the other options it takes --max-loss only"
        )
    if max_loss is not None and not sweep:
        raise typer.BadParameter("--max-loss belongs to --sweep")
    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    with plain_errors():
        settings = Settings.load()
        if symbol is None:
            show_lake(open_lake(settings))
            raise typer.Exit(0 if sweep_actions(settings, max_loss=max_loss) else 1)
        try:
            start = as_day(first) if first else date.min
            end = as_day(last) if last else date.max
            at = _instant(known_at) if known_at else None
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        lake = open_lake(settings)
        if not (as_csv or as_json):
            show_lake(lake)
        log = ActionLog(lake.store)
        asked = next(log.sweeps(), None)
        if asked is None:
            raise NotInLakeError(
                f"the corporate actions of {lake.store.uri} were never fetched: correct "
                "DATALAKE_URI, or run `datalake actions --sweep`"
            )
        name = symbol.strip().upper()
        found = [one for one in histories(log, name, at) if start <= one.day <= end]
    if as_csv or as_json:
        typer.echo(_csv(found) if as_csv else _json(found), nl=as_json)
        return
    known = f"as known at {at:%Y-%m-%d %H:%M:%S} UTC" if at else _asked(asked.seen_at)
    tell(out, f"{name}  {many(len(found), 'corporate action')}, {known}")
    if found:
        (out if out.is_terminal else Console(width=1000)).print(_table(found))
    for one in found:
        for line in one.changes():
            tell(out, f"{one.day} {_name(one.row)}: {line}")


@dataclass(frozen=True, slots=True)
class History:
    """One action and its history in the log.

    Args:
        events: Rows of `log.EVENTS`, the oldest first.
    """

    events: tuple[dict[str, Any], ...]

    @property
    def row(self) -> dict[str, Any]:
        """The latest version of the action."""
        return self.events[-1]

    @property
    def day(self) -> date:
        """Its effective date: the first day whose price reflects it."""
        day: date = self.row["effective_date"]
        return day

    @property
    def known_since(self) -> datetime:
        """Since when the source has had it without interruption."""
        since: datetime = next(
            event["seen_at"] for event in reversed(self.events) if event["event"] == INSERTED
        )
        return since

    @property
    def changed_at(self) -> datetime | None:
        """When the source last changed it."""
        return next(
            (event["seen_at"] for event in reversed(self.events) if event["event"] == CHANGED), None
        )

    @property
    def vanished_at(self) -> datetime | None:
        """When the source removed it."""
        return self.row["seen_at"] if self.row["event"] == VANISHED else None

    def changes(self) -> Iterator[str]:
        """Its changes, one line each."""
        for before, event in zip(self.events, self.events[1:], strict=False):
            when = f"{event['seen_at']:%Y-%m-%d %H:%M} UTC"
            match event["event"]:
                case "vanished":
                    yield f"{when} removed by the source"
                case "inserted":
                    yield f"{when} listed again by the source"
                case _:
                    yield f"{when} {_difference(before, event)}"

    def as_row(self) -> dict[str, Any]:
        """The action and since when it is known, as a row for CSV or JSON."""
        return {name: self.row[name] for name in SCHEMA.names} | {
            name: getattr(self, name) for name in _KNOWN
        }


def histories(log: ActionLog, symbol: str, at: datetime | None = None) -> list[History]:
    """The actions of a ticker, or with it as the new ticker, by effective date; also removed ones.

    Args:
        log: The log.
        symbol: The ticker.
        at: Ignore events seen after this instant; None: ignore none.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for event in log.events(symbol).to_pylist():
        if at is None or event["seen_at"] <= at:
            found.setdefault(event["id"], []).append(event)
    # An action can have changed its ticker over time.
    kept = [
        one
        for one in map(History, map(tuple, found.values()))
        if symbol in (one.row["symbol"], one.row["new_symbol"])
    ]
    return sorted(kept, key=lambda one: (one.day, one.row["id"]))


def _instant(text: str) -> datetime:
    """The given instant; for a day, its end in UTC.

    Raises:
        ValueError: The text is neither.
    """
    try:
        if len(text) == len("2026-03-02"):
            return datetime.combine(as_day(text) + timedelta(days=1), time(), UTC) - timedelta(
                microseconds=1
            )
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither a date nor a time: {error}") from error
    if at.utcoffset() is None:
        raise ValueError(
            f"{text!r} has no time zone: use 2026-03-02T14:30Z or 2026-03-02T09:30-05:00"
        )
    return at.astimezone(UTC)


def _asked(seen_at: datetime) -> str:
    return f"as the source had them at {seen_at:%Y-%m-%d %H:%M} UTC"


def _table(found: Sequence[History]) -> Table:
    table = Table("effective", "what", "rate", "processed", "known since", box=None)
    for one in found:
        since = f"{one.known_since:%Y-%m-%d %H:%M}"
        if one.vanished_at:
            since += f", removed {one.vanished_at:%Y-%m-%d %H:%M}"
        elif one.changed_at and one.changed_at > one.known_since:
            since += f", changed {one.changed_at:%Y-%m-%d %H:%M}"
        row = one.row
        table.add_row(str(one.day), _name(row), _rate(row), str(row["process_date"]), since)
    return table


def _name(row: Mapping[str, Any]) -> str:
    kind = str(row["kind"]).removesuffix("s").replace("_", " ")
    onward = f" → {row['new_symbol']}" if row["new_symbol"] else ""
    return f"{kind} {row['symbol']}{onward}"


def _rate(row: Mapping[str, Any]) -> str:
    told = []
    if row["new_rate"] is not None and row["old_rate"] is not None:
        told.append(f"{row['new_rate']:g} for {row['old_rate']:g}")
    if row["cash"] is not None:
        told.append(f"${row['cash']:g}")
    return " and ".join(told)


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The differences between two versions of the source's row."""
    was, now = json.loads(before["body"]), json.loads(after["body"])
    told = [
        f"{name} {was.get(name, 'none')} → {now.get(name, 'none')}"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]
    if before["kind"] != after["kind"]:
        told.append(f"list {before['kind']} → {after['kind']}")
    return ", ".join(told) or "interpreted differently by this program"


def _csv(found: Sequence[History]) -> str:
    text = io.StringIO()
    rows = csv.DictWriter(text, [*SCHEMA.names, *_KNOWN], lineterminator="\n")
    rows.writeheader()
    for one in found:
        rows.writerow({name: _plain(value) for name, value in one.as_row().items()})
    return text.getvalue()


def _json(found: Sequence[History]) -> str:
    rows = [one.as_row() | {"changes": list(one.changes())} for one in found]
    return json.dumps(rows, default=_plain)


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else value
