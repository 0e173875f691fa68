"""The tables that tell whose bar a row is and what it is worth, for this program and for others.

Belongs here: columns and their meaning. Does not belong here: how they are derived (`identity`,
`factors`) or applied (`adjusting`).

All three lie in the lake as Parquet, so that every engine can join them with the bars.
"""

from __future__ import annotations

import pyarrow as pa

DERIVE = "datalake securities"
"""What to type to make the tables."""

SECURITIES = pa.schema(
    [
        pa.field("security", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("first_session", pa.date32(), nullable=False),
        pa.field("last_session", pa.date32(), nullable=False),
        pa.field("exchange", pa.string()),
        pa.field("name", pa.string()),
        pa.field("followed_by", pa.string()),
        pa.field("next_symbol", pa.string()),
        pa.field("payout_cash", pa.float64()),
        pa.field("payout_shares", pa.float64()),
        pa.field("payout_symbol", pa.string()),
        pa.field("action_id", pa.string()),
        pa.field("evidence", pa.string(), nullable=False),
    ]
)
"""One row per security and ticker, by symbol and first session. The spans of one symbol don't
overlap: a bar belongs to the row with its symbol whose span holds its session."""

SECURITIES_DESCRIPTIONS = {
    "security": "Permanent identifier of the security; the same over all of its tickers",
    "symbol": "Ticker that it traded under",
    "first_session": "First session with a bar under this ticker",
    "last_session": "Last session with a bar under this ticker; while followed_by is null it still "
    "trades, and later bars of the ticker are its own",
    "exchange": "Primary exchange, as the source's newest list of assets that names it spells it",
    "name": "Name of the security, as that list spells it",
    "followed_by": "How the ticker ended: rename, split (with a new ticker), merger, delisting, or "
    "unknown; null while it trades",
    "next_symbol": "Ticker that the same security goes on with; null when it ended, or trades",
    "payout_cash": "US dollars that a holder of one share got at the end, if an action tells it",
    "payout_shares": "Shares of payout_symbol that a holder of one share got at the end",
    "payout_symbol": "Ticker of the acquirer whose shares were paid",
    "action_id": "The action that tells how it ended",
    "evidence": "What says that this security had this ticker, and how it ended",
}

FACTORS = pa.schema(
    [
        pa.field("security", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("session", pa.date32()),
        pa.field("effective_date", pa.date32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("adjustment", pa.string(), nullable=False),
        pa.field("action_id", pa.string(), nullable=False),
        pa.field("new_shares", pa.int64()),
        pa.field("old_shares", pa.int64()),
        pa.field("amount", pa.float64()),
        pa.field("amount_from", pa.string()),
        pa.field("close_before", pa.float64()),
        pa.field("close", pa.float64()),
        pa.field("price_factor", pa.float64(), nullable=False),
        pa.field("volume_factor", pa.float64(), nullable=False),
        pa.field("total_return_factor", pa.float64(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("applied", pa.bool_(), nullable=False),
        pa.field("decision", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""One row per security and action that changes what its earlier prices are worth, by security,
effective date and action. Also those that are not applied, and why."""

FACTORS_DESCRIPTIONS = {
    "security": "The security, as in the table of securities",
    "symbol": "Its ticker on that day",
    "session": "First session on or after effective_date in which it has a bar: bars before it are "
    "multiplied. Null when there is no bar before it, or none yet after it",
    "effective_date": "Day from whose open on the price knows it, as the source says",
    "kind": "The action's list at the source, or what the user added",
    "adjustment": "split (also stock dividends and unit splits), dividend (cash), or spin-off",
    "action_id": "The source's identifier of the action, or of the user's decision",
    "new_shares": "Of a split: shares after it, as a ratio of whole numbers with old_shares",
    "old_shares": "Of a split: shares before it",
    "amount": "US dollars a share: the cash dividend (two on a day are two rows), or the value of "
    "what was spun off for one share",
    "amount_from": "Where the value of a spin-off is taken from",
    "close_before": "Raw close of its last session before `session`",
    "close": "Raw close on `session`",
    "price_factor": "What earlier prices are multiplied by: rule A, 1 - amount / close_before "
    "(divided by a split of the same day)",
    "volume_factor": "What earlier volumes are multiplied by",
    "total_return_factor": "The same by rule B, close / (close + amount), for total returns",
    "verdict": "What the prices say: confirmed, contradicted, too small to tell, or unseen",
    "applied": "Whether reads apply it",
    "decision": "The user's: accept, ignore or add; null without one",
    "reason": "Why it is applied, or is not",
}

CUMULATIVE = pa.schema(
    [
        pa.field("security", pa.string(), nullable=False),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("first_session", pa.date32(), nullable=False),
        pa.field("last_session", pa.date32(), nullable=False),
        pa.field("split", pa.float64(), nullable=False),
        pa.field("spin_off", pa.float64(), nullable=False),
        pa.field("dividend", pa.float64(), nullable=False),
        pa.field("total_return", pa.float64(), nullable=False),
        pa.field("volume", pa.float64(), nullable=False),
    ]
)
"""What raw bars are multiplied by, per span of sessions with the same factors, by symbol and first
session. Each bar of the lake has exactly one span. The newest span of a security has 1 everywhere.

An adjusted price is `price * split * spin_off * dividend`, multiplied in this order; leaving one
out leaves that kind unadjusted. So everybody gets the same last bit."""

CUMULATIVE_DESCRIPTIONS = {
    "security": "The security, as in the table of securities",
    "symbol": "Ticker that the bars of the span traded under",
    "first_session": "First session of the span",
    "last_session": "Last session of the span; of a security that still trades, far in the future",
    "split": "Factor of prices for all later splits, stock dividends and unit splits",
    "spin_off": "Factor of prices for all later spin-offs",
    "dividend": "Factor of prices for all later cash dividends, by rule A",
    "total_return": "Factor of prices for all later actions, dividends by rule B: instead of the "
    "three before",
    "volume": "Factor of volumes for all later splits",
}
