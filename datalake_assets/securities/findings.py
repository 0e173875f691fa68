"""What somebody should look at: contradictions between bars, actions and the list of assets.

Belongs here: the table of findings, and reading it. Does not belong here: how they are found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.securities.evidence import as_days
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

FINDINGS = pa.schema(
    [
        pa.field("about", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("undecided", pa.bool_(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("session", pa.date32()),
        pa.field("action_id", pa.string()),
        pa.field("what", pa.string(), nullable=False),
        pa.field("decide", pa.string(), nullable=False),
    ]
)
"""One row per finding, by symbol and session."""

FINDINGS_DESCRIPTIONS = {
    "about": "identity, action or jump",
    "kind": "What is wrong, in a word or two",
    "undecided": "Whether it waits for a decision: something is not applied until then",
    "symbol": "The ticker that it is about",
    "session": "The day that it is about",
    "action_id": "The action that it is about",
    "what": "What was found, in a sentence",
    "decide": "What to type, or where to look",
}


class Finding(NamedTuple):
    """One row of `FINDINGS`; the session as a number."""

    about: str
    kind: str
    undecided: bool
    symbol: str
    session: int
    action_id: str | None
    what: str
    decide: str


def table_of(findings: Iterable[Finding]) -> pa.Table:
    """As a table in `FINDINGS`, by symbol and session."""
    rows = sorted(findings, key=lambda f: (f.symbol, f.session, f.about, f.action_id or "", f.what))
    columns = list(zip(*rows, strict=True)) or [()] * len(FINDINGS)
    arrays = [
        as_days(column) if field.type == pa.date32() else pa.array(column, field.type)
        for column, field in zip(columns, FINDINGS, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=FINDINGS)


def read_findings(store: Store) -> pa.Table:
    """The findings of a lake, in `FINDINGS`; none when nothing was derived yet.

    Raises:
        BrokenFileError: The object is damaged.
    """
    where = store.url(layout.FINDINGS_TABLE)
    try:
        file = pq.ParquetFile(pa.BufferReader(store.get(layout.FINDINGS_TABLE)))
        return file.read(use_threads=False).cast(FINDINGS)
    except FileNotFoundError:
        return FINDINGS.empty_table()
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BrokenFileError(
            f"{where} is no whole table of findings ({error!r}): derive it again: datalake "
            "securities"
        ) from error
