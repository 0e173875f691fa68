"""The source's own adjusted bars, held against ours.

Belongs here: where two series of one security part, and which action lies there; which sessions the
source has of a security and the lake lacks. Does not belong here: asking the source
(`cross_examination`), and deciding who is right: that is the user's.

Alpaca adjusts what it serves by its own list, rounds prices to cents, and can't be asked how it was
known earlier. So it is a good witness of one thing: whether the two lists of actions, and their
arithmetic, are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ROUNDING = 0.005
"""US dollars: what the source's rounding to cents can take or give."""

MOST_PARTINGS = 20
"""Partings of one security that are told; a series that parts more often is another security's."""

_SLACK = 1e-6  # relative: six decimals on the wire, and factors of 15 years

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parting:
    """A session before which two adjusted series of one security are different multiples.

    Args:
        session: The newest session that differs.
        ours, theirs: The adjusted closes of it, US dollars.
        ratio: How `theirs` relates to `ours` from this session back, as the rounded prices tell.
        action_id, kind: The action of ours that acts in the next session; None when there is none.
        applied: Whether we apply it.
    """

    session: date
    ours: float
    theirs: float
    ratio: float
    action_id: str | None
    kind: str | None
    applied: bool

    def __str__(self) -> str:
        told = (
            f"the action {self.action_id} ({self.kind}, "
            f"{'applied' if self.applied else 'not applied'} here)"
            if self.action_id
            else "an action that is not in the log"
        )
        return (
            f"close of {self.session}: {self.ours:.4f} here, {self.theirs:.2f} at the source, "
            f"{self.ratio:.6f} of it: {told}"
        )


def partings(ours: pa.Table, theirs: pa.Table, factors: pa.Table) -> list[Parting]:
    """Where the two series part, the newest first.

    Only sessions that both have are compared. The newest of them anchors both: an action after it
    shifts all of the source's series by a constant. From there back one ratio is kept for as long
    as rounding allows it.

    Args:
        ours: Bars of one security, adjusted by all; `session` and `close`, ascending.
        theirs: The same from the source, rounded to cents.
        factors: Its rows of `tables.FACTORS`.
    """
    days, here, there = np.intersect1d(
        ours["session"].to_numpy(), theirs["session"].to_numpy(), return_indices=True
    )
    mine, other = ours["close"].to_numpy()[here], theirs["close"].to_numpy()[there]
    allowed = ROUNDING + _SLACK * np.abs(other)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = ((other - allowed) / mine).tolist(), ((other + allowed) / mine).tolist()
    found: list[tuple[int, float, float]] = []  # place, and between what the ratio is
    ratio = (1.0, 1.0) if len(days) and low[-1] <= 1.0 <= high[-1] else (-np.inf, np.inf)
    for at in range(len(days) - 1, -1, -1):
        both = max(ratio[0], low[at]), min(ratio[1], high[at])
        if both[0] <= both[1]:
            ratio = both
        else:
            ratio = low[at], high[at]
            found.append((at, *ratio))
        if found:
            found[-1] = (found[-1][0], *ratio)
        if len(found) > MOST_PARTINGS:
            break
    return [
        _parting(days, at, mine, other, (least + most) / 2, factors)
        for at, least, most in found[:MOST_PARTINGS]
    ]


def gaps(ours: Sequence[date], theirs: Sequence[date]) -> list[tuple[date, date, int]]:
    """Spans of sessions that the source has of a security and the lake lacks.

    Args:
        ours: The sessions in which the lake has a bar.
        theirs: Those in which the source has one.

    Returns:
        First, last and number of each span; sessions that both have, or the lake alone, end one.
    """
    held = frozenset(ours)
    everything = sorted(held.union(theirs))
    spans = []
    for lacking, run in groupby(everything, key=lambda day: day not in held):
        if lacking:
            days = list(run)
            spans.append((days[0], days[-1], len(days)))
    return spans


def _parting(
    days: npt.NDArray[np.datetime64],
    newest: int,
    ours: Floats,
    theirs: Floats,
    ratio: float,
    factors: pa.Table,
) -> Parting:
    following = days[newest + 1] if newest + 1 < len(days) else None
    acting = [
        row
        for row in factors.select(["session", "action_id", "kind", "applied"]).to_pylist()
        if row["session"] is not None
        and np.datetime64(row["session"]) > days[newest]
        and (following is None or np.datetime64(row["session"]) <= following)
    ]
    row = acting[0] if acting else None
    return Parting(
        session=days[newest].astype(object),
        ours=float(ours[newest]),
        theirs=float(theirs[newest]),
        ratio=ratio,
        action_id=row["action_id"] if row else None,
        kind=row["kind"] if row else None,
        applied=bool(row and row["applied"]),
    )
