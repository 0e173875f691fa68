"""Total returns: what a holder of each security earned from session to session, to its end.

Belongs here: returns from bars and factors (rule B: dividends are reinvested at the close of their
ex-date), payouts as last returns, and naming what is missing. Does not belong here: factors
(`securities`).

Nothing is filled in. A session without a bar has no return, and the next bar's is measured from the
last one before: so the returns that are there multiply to what was earned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.progress import many, verb
from datalake_assets.lake.security_reader import Answer, MissingReturnsWarning
from datalake_assets.securities.evidence import Days, day_number, days_of
from datalake_assets.securities.holders import End

TRADED, FIRST, NO_BAR, PAYOUT, UNTOLD = (
    "traded",
    "first bar",
    "no bar",
    "payout",
    "payout unknown",
)

RETURNS = pa.schema(
    [
        pa.field("session", pa.date32(), nullable=False),
        pa.field("security", pa.string()),
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("total_return", pa.float64()),
        pa.field("since", pa.date32()),
        pa.field("status", pa.string(), nullable=False),
    ]
)
"""One row per security and session, by the security's newest ticker and session. `total_return` is
a fraction (0.01 is one percent), since the close of the session `since`."""

Price = Callable[[str, date], float | None]
"""The close of a ticker on a day, or soon after it."""


def total_returns(
    answer: Answer, first: date, last: date, sessions: Sequence[date], price: Price
) -> pa.Table:
    """Total returns from `first` to `last`, in `RETURNS`.

    Args:
        answer: The bars of this range, and of each security the last one before it.
        first: First day.
        last: Last day.
        sessions: The sessions that the lake holds, to `last`.
        price: What an acquirer's shares were worth.
    """
    bars, count = answer.bars, answer.bars.num_rows
    close = bars["close"].to_numpy()
    factor = answer.spans.factor("total_return", answer.rows)
    days = days_of(bars["session"])
    # Of equal factors the ratio is 1, so that days without an action have their raw return.
    grown = np.full(count, np.nan)
    grown[1:] = close[1:] / close[:-1] * (factor[1:] / factor[:-1]) - 1
    since = np.zeros(count, np.int64)
    since[1:] = days[:-1]
    begins = np.zeros(count, bool)
    begins[[stretch.start for stretch in answer.stretches]] = True
    tables = [
        pa.table(
            {
                "session": bars["session"],
                "security": bars["security"],
                "symbol": bars["symbol"],
                "total_return": pa.array(grown, mask=begins),
                "since": pa.array(since.astype(np.int32), mask=begins).cast(pa.date32()),
                "status": pa.array(np.where(begins, FIRST, TRADED).tolist(), pa.string()),
            }
        ).cast(RETURNS)
    ]
    owner = np.repeat(
        np.arange(len(answer.stretches)), [one.stop - one.start for one in answer.stretches]
    )
    more, owners = _more(answer, days, last, sessions, price)
    if more:
        tables.append(pa.Table.from_pylist(more, RETURNS))
    table = pa.concat_tables(tables).combine_chunks()
    if more:
        order = np.lexsort((days_of(table["session"]), np.concatenate([owner, owners])))
        table = table.take(pa.array(order))
    # The bars before the range were only there to measure from.
    return table.filter(pc.greater_equal(table["session"], pa.scalar(first, pa.date32())))


def _more(
    answer: Answer,
    days: Days,
    last: date,
    sessions: Sequence[date],
    price: Price,
) -> tuple[list[dict[str, object]], list[int]]:
    """The rows that have no bar: sessions without one, and ends; and whose they are."""
    axis = days_of(pa.chunked_array([pa.array(sessions, pa.date32())]))
    rows: list[dict[str, object]] = []
    owners: list[int] = []
    for number, stretch in enumerate(answer.stretches):
        own = days[stretch.start : stretch.stop]
        end = answer.holders.end(stretch.security) if stretch.security else None
        if end and day_number(end.last) < own[-1]:
            end = None  # the end was derived before the newest bar was there
        until = last if end is None else min(last, end.last)
        since, stop = (
            np.searchsorted(axis, own[0]),
            np.searchsorted(axis, day_number(until), "right"),
        )
        if stop - since > len(own):
            for day in np.setdiff1d(axis[since:stop], own, assume_unique=True):
                session = sessions[int(np.searchsorted(axis, day))]
                before = stretch.start + int(np.searchsorted(own, day)) - 1
                rows.append(_row(session, answer, before, None, NO_BAR))
                owners.append(number)
        paid_on = _session_after(end.last) if end else None
        if end is None or paid_on is None or paid_on > last:
            continue
        value = _paid(end, paid_on, price)
        final = stretch.stop - 1
        earned = None if value is None else value / answer.bars["close"][final].as_py() - 1
        rows.append(_row(paid_on, answer, final, earned, UNTOLD if earned is None else PAYOUT))
        owners.append(number)
    return rows, owners


def _paid(end: End, day: date, price: Price) -> float | None:
    """What the holder of a share got, in US dollars; None when nobody can tell."""
    if end.shares is None:
        return end.cash
    each = price(end.shares_of, day) if end.shares_of else None
    return None if each is None else (end.cash or 0.0) + end.shares * each


def _row(
    session: date, answer: Answer, before: int, earned: float | None, status: str
) -> dict[str, object]:
    """A row of returns without a bar, after the bar in the row `before`."""
    names = ("security", "symbol", "session")
    security, symbol, since = (answer.bars[name][before].as_py() for name in names)
    told = {"session": session, "security": security, "symbol": symbol, "status": status}
    return told | {"total_return": earned, "since": since if earned is not None else None}


def _session_after(day: date) -> date | None:
    """The session after a day; None where the calendar ends."""
    ahead = min(day + timedelta(days=14), market_calendar.LAST)
    return next(iter(market_calendar.sessions(day + timedelta(days=1), ahead)), None)


def missing(returns: pa.Table) -> list[MissingReturnsWarning]:
    """What to say of the returns that are missing: how many, and of which ends."""
    counts = {
        status: pc.sum(pc.equal(returns["status"], status)).as_py() or 0
        for status in (NO_BAR, UNTOLD)
    }
    if not (total := sum(counts.values())):
        return []
    ends = returns.filter(pc.equal(returns["status"], UNTOLD)).slice(0, 5).to_pylist()
    named = ", ".join(f"{row['symbol']} after {row['session']}" for row in ends)
    more = " …" if counts[UNTOLD] > len(ends) else ""
    return [
        MissingReturnsWarning(
            f"{total:,} of {many(returns.num_rows, 'return')} {verb(total)} missing: "
            f"{many(counts[NO_BAR], 'session')} without a bar, {many(counts[UNTOLD], 'end')} "
            "whose payout is not known"
            + (f" ({named}{more})" if named else "")
            + ". They are null, see `status`"
        )
    ]
