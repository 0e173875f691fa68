"""What a source says of corporate actions, made for tests, and a source that says it.

Not here: the bytes in which Alpaca says it (`sources.test_action_pages`).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from datalake_assets.actions.action import SCHEMA
from datalake_assets.actions.log import Answer
from datalake_assets.actions.sweep import ActionsPage, Skipped
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
Row = dict[str, Any]


def action(
    id: str = "a",
    symbol: str = "AAPL",
    day: date = date(2026, 3, 5),
    *,
    kind: str = "cash_dividends",
    processed: date | None = None,
    **values: Any,
) -> Row:
    """One action; a cash dividend of a quarter dollar unless told otherwise."""
    usual: Row = {"cash": 0.25} if kind == "cash_dividends" else {}
    body = values.pop("body", {})
    row: Row = dict.fromkeys(SCHEMA.names)
    row |= {"id": id, "kind": kind, "symbol": symbol, "effective_date": day}
    row |= {"process_date": processed or day} | usual | values
    said = {name: value for name, value in row.items() if value is not None}
    row["body"] = json.dumps(said | body, default=str, sort_keys=True)
    return row


def split(id: str, symbol: str, day: date, new: float, old: float, **values: Any) -> Row:
    kind = "forward_splits" if new > old else "reverse_splits"
    return action(id, symbol, day, **{"kind": kind} | values, new_rate=new, old_rate=old)


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(list(rows), SCHEMA)


def answer(*rows: Row, gone: Iterable[str] = (), known: int = 0, **values: Any) -> Answer:
    """A whole answer about the first half of 2026."""
    window = {"first": date(2026, 1, 1), "last": date(2026, 6, 30), "asked_at": NOON} | values
    return Answer(known=known, actions=table(*rows), gone=frozenset(gone), **window)


class ScriptedActions:
    """A source that says what its `rows` are, by process date, in pages.

    Args:
        rows: What it says, by id; a test changes it as it likes.
        page: Rows of a page at most.
        between: Called before each page but the first of a question.

    Attributes:
        asked: The windows and the ids that it was asked for, a question each request.
        unreadable: Ids of rows that come as rows that can't be read.
    """

    def __init__(
        self, *rows: Row, page: int = 1000, between: Callable[[], None] = lambda: None
    ) -> None:
        self.rows = {row["id"]: row for row in rows}
        self._page, self._between = page, between
        self.asked: list[tuple[date, date] | tuple[str, ...]] = []
        self.unreadable: set[str] = set()

    def say(self, *rows: Row) -> None:
        self.rows |= {row["id"]: row for row in rows}

    def actions(self, first: date, last: date, page_token: str | None) -> ActionsPage:
        self.asked.append((first, last))
        if page_token:
            self._between()
        found = [row for row in self.rows.values() if first <= row["process_date"] <= last]
        found.sort(key=lambda row: (row["process_date"], row["id"]))
        begin = int(page_token or 0)
        more = len(found) > begin + self._page
        token = str(begin + self._page) if more else None
        return self._said(found[begin : begin + self._page], token)

    def actions_by_id(self, ids: Sequence[str]) -> ActionsPage:
        self.asked.append(tuple(ids))
        return self._said([self.rows[one] for one in ids if one in self.rows], None)

    def _said(self, rows: list[Row], token: str | None) -> ActionsPage:
        spoiled = self.unreadable
        return ActionsPage(
            table(*(row for row in rows if row["id"] not in spoiled)),
            tuple(Skipped(row["kind"], row["id"], "no") for row in rows if row["id"] in spoiled),
            {},
            token,
        )


def caller() -> Caller:
    """As fast as can be, and never twice."""
    return Caller(RateLimiter(10_000_000), RetryPolicy(attempts=1))


def minutes(count: float) -> datetime:
    """So long after noon."""
    return NOON + timedelta(minutes=count)
