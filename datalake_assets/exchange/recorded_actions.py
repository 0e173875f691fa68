"""Corporate actions of a recording, from a file beside the bars.

Here belongs the reading of that file. How actions are selected and told belongs in `actions`.

The file is CSV, one action a row, with the columns

- `symbol`: the ticker on that day,
- `ex_date`: the first session on which the price knows it,
- `kind`: `split`, `stock` (a stock dividend), `cash`, `special`, `spin_off`, `cash_merger`,
  `stock_merger`, `worthless`,
- `ratio`: new shares for each old one (`split`, `2.0` or `1/20`); new shares per share held
  (`stock`, `spin_off`, `stock_merger`),
- `amount`: dollars a share (`cash`, `special`, `cash_merger`),

and if they are there `new_symbol` (the company that is spun off, or the acquirer) and
`process_date` (as a rule the `ex_date`; of cash, 14 days later).
"""

import csv
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from datalake_assets.exchange.actions import Action, ListedActions, cusip
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.recorded_names import RecordedNames

_COLUMNS = ("symbol", "ex_date", "kind", "ratio", "amount")


class ActionsError(ValueError):
    """A file of actions that cannot be used; the message names the file, the fault and the row."""


def recorded_actions(path: Path | None, names: RecordedNames, market: str) -> ListedActions:
    """The actions of a file, and the changes of ticker of a file of names.

    What was recorded is history: it is told whatever the clock says.

    Args:
        path: The file; `None`: there is none.
        names: Who held which ticker.
        market: The market's name, for CUSIPs.

    Raises:
        ActionsError: a column or a value is missing, or cannot be read.
    """
    found = [] if path is None else _read(path, names, market.encode())
    for day, old, new in names.changes:
        if new:
            row = {"process_date": day.isoformat()}
            row |= _named(names, old, day - timedelta(days=1), market.encode(), "old_")
            row |= _named(names, new, day, market.encode(), "new_")
            security = names.at(new, day)
            assert security is not None
            found.append(Action(Kind.NAME_CHANGE, security, day, row))
    return ListedActions(found, [date.min] * len(found))


def _named(
    names: RecordedNames, symbol: str, day: date, key: bytes, prefix: str = ""
) -> dict[str, str]:
    security = names.at(symbol, day)
    number = cusip(key, symbol if security is None else str(security), 0)
    return {f"{prefix}symbol": symbol, f"{prefix}cusip": number}


def _read(path: Path, names: RecordedNames, key: bytes) -> list[Action]:
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise ActionsError(
                f"{path}: no column {', '.join(missing)}; actions have the columns "
                f"{', '.join(_COLUMNS)}"
            )
        found = []
        for number, row in enumerate(rows, 1):
            try:
                found.append(_action(row, names, key))
            except (ValueError, ZeroDivisionError, KeyError) as error:
                raise ActionsError(f"{path}: row {number} cannot be read: {error}") from error
    return found


def _action(row: Mapping[str, str | None], names: RecordedNames, key: bytes) -> Action:
    symbol, day = row["symbol"] or "", date.fromisoformat(row["ex_date"] or "")
    kind = row["kind"] or ""
    if not symbol or kind not in _FIELDS:
        raise ValueError(f"{symbol!r} {kind!r}: a kind is one of {', '.join(_FIELDS)}")
    amount = row["amount"] if kind in ("cash", "special", "cash_merger") else row["ratio"]
    if kind != "worthless" and not amount:
        raise ValueError(f"{symbol} {day} {kind} has no {'amount' if 'ca' in kind else 'ratio'}")
    number = Fraction(amount or "0")
    if kind != "worthless" and number <= 0:
        raise ValueError(f"{symbol} {day}: {amount} is not above zero")
    later = day + timedelta(days=14 if kind in ("cash", "special") else 0)
    process = row.get("process_date") or later.isoformat()
    new = row.get("new_symbol") or ""
    if kind in ("spin_off", "stock_merger") and not new:
        raise ValueError(f"{symbol} {day} {kind} has no new_symbol")
    before = day - timedelta(days=1)
    own_day = before if kind in ("cash_merger", "stock_merger", "worthless") else day
    security = names.at(symbol, own_day)
    which, prefix, fields = _fields(kind, number)
    fields |= _named(names, symbol, own_day, key, prefix)
    if new:
        fields |= _named(names, new, day, key, "new_" if kind == "spin_off" else "acquirer_")
    if which == Kind.REVERSE_SPLIT:
        fields["old_cusip"] = fields["new_cusip"] = fields.pop("cusip")
    if which in (Kind.CASH_MERGER, Kind.STOCK_MERGER):
        fields["effective_date"] = day.isoformat()
    elif which != Kind.WORTHLESS_REMOVAL:
        fields["ex_date"] = day.isoformat()
    fields["process_date"] = date.fromisoformat(process).isoformat()
    return Action(which, -1 if security is None else security, day, fields)


_FIELDS: Sequence[str] = (
    "split",
    "stock",
    "cash",
    "special",
    "spin_off",
    "cash_merger",
    "stock_merger",
    "worthless",
)


def _fields(kind: str, number: Fraction) -> tuple[Kind, str, dict[str, Any]]:
    """The list, the prefix of the names, and the rates."""
    rate = _plain(number)
    if kind == "split":
        pair = number.limit_denominator(1_000)
        which = Kind.FORWARD_SPLIT if pair > 1 else Kind.REVERSE_SPLIT
        return which, "", {"new_rate": pair.numerator, "old_rate": pair.denominator}
    if kind == "stock":
        return Kind.STOCK_DIVIDEND, "", {"rate": rate}
    if kind in ("cash", "special"):
        more = {"special": kind == "special", "foreign": False}
        return Kind.CASH_DIVIDEND, "", {"rate": rate} | more
    if kind == "spin_off":
        return Kind.SPIN_OFF, "source_", {"new_rate": rate, "source_rate": 1}
    if kind == "cash_merger":
        return Kind.CASH_MERGER, "acquiree_", {"rate": rate}
    if kind == "stock_merger":
        return Kind.STOCK_MERGER, "acquiree_", {"acquirer_rate": rate, "acquiree_rate": 1}
    return Kind.WORTHLESS_REMOVAL, "", {}


def _plain(number: Fraction) -> float | int:
    return int(number) if number.denominator == 1 else float(number)
