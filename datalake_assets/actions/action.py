"""The table of corporate actions: its columns, and its kinds.

Belongs here: one row per action as the source states it, under names that are the same for all
kinds. Does not belong here: fetching the rows (`sources`), their history (`log`), or
whether they are right (`securities`).
"""

from __future__ import annotations

import pyarrow as pa

KINDS = (
    "forward_splits",
    "reverse_splits",
    "unit_splits",
    "stock_dividends",
    "cash_dividends",
    "spin_offs",
    "rights_distributions",
    "cash_mergers",
    "stock_mergers",
    "stock_and_cash_mergers",
    "name_changes",
    "redemptions",
    "worthless_removals",
    "partial_calls",
    "reorganizations",
)
"""The lists of Alpaca's `/v1/corporate-actions`, under their own names."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("effective_date", pa.date32(), nullable=False),
        pa.field("process_date", pa.date32(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("new_symbol", pa.string()),
        pa.field("new_rate", pa.float64()),
        pa.field("old_rate", pa.float64()),
        pa.field("cash", pa.float64()),
        pa.field("cusip", pa.string()),
        pa.field("new_cusip", pa.string()),
        pa.field("body", pa.string(), nullable=False),
    ]
)
"""One row per action, by effective date, symbol and id."""

COLUMN_DESCRIPTIONS = {
    "id": "The source's identifier of the action",
    "kind": "Which list of the source it stands in",
    "effective_date": "Day from whose open on the price knows it: the ex-date of splits, "
    "dividends, spin-offs and rights; the effective date of mergers and unit splits; else the "
    "process date",
    "process_date": "Day on which the source processes it; of a cash dividend the payable date",
    "symbol": "Ticker of the security that it happens to, before it happens",
    "new_symbol": "Ticker that the security goes on with, or of the company that is spun off, "
    "distributed or that acquires it; null when there is none",
    "new_rate": "Shares held afterwards (splits), or shares of new_symbol received (spin-offs, "
    "mergers, rights), for old_rate shares held before; of a stock dividend the new shares alone",
    "old_rate": "Shares held before, for which new_rate are had",
    "cash": "US dollars a share held before: a dividend, or what a merger or redemption pays",
    "cusip": "CUSIP before, if the source gives one",
    "new_cusip": "CUSIP afterwards, or of new_symbol, if the source gives one",
    "body": "The source's own row, as JSON with sorted keys",
}
