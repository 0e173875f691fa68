"""Decode a page of corporate actions into rows.

Belongs here: the format of the answer, and the meaning of the fields of its fifteen lists. Does not
belong here: HTTP (`alpaca`), which page comes next (`actions.sweep`), and whether a row is right.

It decodes the raw answer, since alpaca-py 0.44 drops `partial_calls` and `reorganizations`, and
rejects a whole page if one row lacks its CUSIP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
import pyarrow as pa

from datalake_assets.actions.action import KINDS, SCHEMA
from datalake_assets.actions.sweep import ActionsPage, Skipped
from datalake_assets.collection.errors import TransientError

ACTIONS_PAGE_LIMIT = 1_000
"""The most actions on a page, over all lists, by Alpaca's specification."""


class _Page(msgspec.Struct):
    corporate_actions: dict[str, msgspec.Raw] | None
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class _Fields:
    """The names of a list's fields for the columns of `action.SCHEMA`; None: it has none."""

    date: str
    symbol: str = "symbol"
    new_symbol: str | None = None
    new_rate: str | None = None
    old_rate: str | float | None = None
    cash: str | None = None
    cusip: str = "cusip"
    new_cusip: str | None = None


_FROM_OLD = {"symbol": "old_symbol", "cusip": "old_cusip"}
_TO_NEW = {"new_symbol": "new_symbol", "new_cusip": "new_cusip"}
_FROM_SOURCE = {"symbol": "source_symbol", "cusip": "source_cusip"}
_RATES = {"new_rate": "new_rate", "old_rate": "old_rate"}
_MERGER = {
    "date": "effective_date",
    "symbol": "acquiree_symbol",
    "cusip": "acquiree_cusip",
    "new_symbol": "acquirer_symbol",
    "new_cusip": "acquirer_cusip",
}
_SHARES = {"new_rate": "acquirer_rate", "old_rate": "acquiree_rate"}

_LISTS = {
    "forward_splits": _Fields("ex_date", **_RATES),
    "reverse_splits": _Fields("ex_date", cusip="old_cusip", **_TO_NEW, **_RATES),
    "unit_splits": _Fields("effective_date", **_FROM_OLD, **_TO_NEW, **_RATES),
    "stock_dividends": _Fields("ex_date", new_rate="rate", old_rate=1.0),
    "cash_dividends": _Fields("ex_date", cash="rate"),
    "spin_offs": _Fields(
        "ex_date", **_FROM_SOURCE, **_TO_NEW, new_rate="new_rate", old_rate="source_rate"
    ),
    "rights_distributions": _Fields(
        "ex_date", **_FROM_SOURCE, **_TO_NEW, new_rate="rate", old_rate=1.0
    ),
    "cash_mergers": _Fields(**_MERGER, cash="rate"),
    "stock_mergers": _Fields(**_MERGER, **_SHARES),
    "stock_and_cash_mergers": _Fields(**_MERGER, **_SHARES, cash="cash_rate"),
    "name_changes": _Fields("process_date", **_FROM_OLD, **_TO_NEW),
    "redemptions": _Fields("process_date", cash="rate"),
    "worthless_removals": _Fields("process_date"),
    "partial_calls": _Fields("process_date", cash="price"),
    "reorganizations": _Fields("effective_date", cash="cash_rate"),
}
assert tuple(_LISTS) == KINDS

_rows = msgspec.json.Decoder(list[msgspec.Raw])
_page = msgspec.json.Decoder(_Page)
_row = msgspec.json.Decoder(dict[str, Any])
_sorted = msgspec.json.Encoder(order="deterministic")


def decode_actions(body: bytes) -> ActionsPage:
    """Decode one answer of `/v1/corporate-actions`.

    Only unreadable rows are skipped, and named. So are lists that this program does not know.

    Raises:
        TransientError: The body is not such an answer: truncated, damaged, or with
            `"corporate_actions": null`, from which nothing can be concluded.
    """
    try:
        answer = _page.decode(body)
    except msgspec.DecodeError as error:
        raise TransientError(f"the answer with corporate actions can't be read: {error}") from error
    if answer.corporate_actions is None:
        raise TransientError(
            'the answer has "corporate_actions": null, from which nothing can be concluded'
        )
    rows: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    unknown: dict[str, int] = {}
    for name, found in answer.corporate_actions.items():
        try:
            raws = _rows.decode(found)
        except msgspec.DecodeError as error:
            if name in _LISTS:
                raise TransientError(f"{name} in the answer is not a list ({error})") from error
            raws = []
        if name not in _LISTS:
            unknown[name] = len(raws)
            continue
        for raw in raws:
            given: Mapping[str, Any] = {}
            try:
                given = _row.decode(raw)
                rows.append(_action(name, given))
            except (msgspec.DecodeError, ValueError) as error:
                told = given.get("id")
                named = told if isinstance(told, str) and told else None
                skipped.append(Skipped(name, named, str(error)))
    actions = pa.Table.from_pylist(rows, SCHEMA)
    return ActionsPage(actions, tuple(skipped), unknown, answer.next_page_token or None)


def _action(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `SCHEMA`.

    Raises:
        ValueError: It lacks a required field, or a field is invalid.
    """
    fields = _LISTS[kind]
    row = {
        "id": _needed(given, "id"),
        "kind": kind,
        "effective_date": _day(given, fields.date),
        "process_date": _day(given, "process_date"),
        "symbol": _needed(given, fields.symbol),
        "new_symbol": _text(given, fields.new_symbol),
        "new_rate": _number(given, fields.new_rate),
        "old_rate": _number(given, fields.old_rate),
        "cash": _number(given, fields.cash),
        "cusip": _text(given, fields.cusip),
        "new_cusip": _text(given, fields.new_cusip),
        "body": _sorted.encode(given).decode(),
    }
    if kind == "reorganizations":
        row |= _delivered(given)
    if (_text(given, "currency") or "USD") != "USD":
        row["cash"] = None  # the column is in US dollars; the body keeps the amount
    return row


def _delivered(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a reorganization delivers, if it is one security; several are only in the body."""
    movements = given.get("stock_movements")
    if not isinstance(movements, list) or len(movements) != 1:
        return {}
    (movement,) = movements
    if not isinstance(movement, dict):
        raise ValueError("its stock_movements have an entry that is not a movement")
    return {
        "new_symbol": _text(movement, "symbol"),
        "new_rate": _number(movement, "new_rate"),
        "old_rate": _number(movement, "source_rate"),
        "new_cusip": _text(movement, "cusip"),
    }


def _text(given: Mapping[str, Any], name: str | None) -> str | None:
    value = given.get(name) if name else None
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its {name} is not a text: {value!r}")
    return value or None


def _needed(given: Mapping[str, Any], name: str) -> str:
    if (value := _text(given, name)) is None:
        raise ValueError(f"it has no {name}")
    return value


def _day(given: Mapping[str, Any], name: str) -> date:
    text = _needed(given, name)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:
        raise ValueError(f"its {name} is not a date: {text!r}")
    return day


def _number(given: Mapping[str, Any], name: str | float | None) -> float | None:
    """A rate, as a number or as text: the stream of the same actions has text."""
    if not isinstance(name, str):
        return name
    value = given.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"its {name} is not a number: {value!r}")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"its {name} is not a number: {value!r}") from error
    if math.isnan(number):
        raise ValueError(f"its {name} is not a number: {value!r}")
    return number
