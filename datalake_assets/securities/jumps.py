"""Jumps that no action explains: a split that no list names, or a crash?

Belongs here: the rule that tells them apart. Does not belong here: actions that a list does name
(`verdicts`).

Measured on 6,935 labelled days beyond -35 % or +60 %, of which two sources confirmed 1,819: the
rule finds 96 % of the splits, and 97 % of what it calls one is one. It takes the distance of the
jump to the nearest simple ratio, and the dollars traded against their median of 20 days, which
unlike the volume knows nothing of splits: a crash is traded heavily, a split is not. It fails for
crashes that end by chance near a ratio, as AIG's of 2008-09-17. So it names, and nothing here is
ever applied.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.securities.evidence import (
    LONG_GAP,
    Evidence,
    Floats,
    Ints,
    day_of,
    days_of,
)
from datalake_assets.securities.factors import Stretches
from datalake_assets.securities.findings import Finding

FELL, ROSE = float(np.log(0.65)), float(np.log(1.60))
"""A move at the open beyond one of these is a jump."""

LARGE = float(np.log(3.6))
NEAR_A_LARGE_RATIO, TRADED_WITH_A_LARGE = 0.13, 40.0
NEAR_A_RATIO, TRADED = 0.10, 4.0

REVERSED = 0.25
"""What is left of a jump on the next day, as a share of it, at most, if it was one day's error."""

SPUN_OFF = float(np.log(0.90))
"""A fall at the open from which on it may be a spin-off's, if it is traded as usual, in a security
of some size, and another security has its first bar in these sessions."""
_SPUN_OFF_TRADED, _SIZE, _BEGAN, _UNUSUAL = 2.0, 1e6, 5, 10.0

RATIOS = (
    *((3, 2), (2, 1), (5, 2), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1), (10, 1), (12, 1)),
    *((shares, 1) for shares in (15, 20, 25, 30, 35, 40, 50, 60, 75, 80, 100, 150, 200, 250)),
    *((shares, 1) for shares in (300, 400, 500, 1000)),
)
"""Ratios that splits have, new shares for old ones; reverse ones are the same the other way."""

_LOGS = np.log([new / old for new, old in RATIOS])


class Kind(StrEnum):
    """What a jump looks like."""

    SPLIT = "suspected split"
    SPIN_OFF = "suspected spin-off"
    GLITCH = "one-day glitch"
    MOVE = "market move"


def nearest(move: Floats) -> tuple[Ints, Floats]:
    """The place in `RATIOS` of the ratio nearest to each move, and how far it is (logarithms)."""
    far = np.abs(np.abs(move)[:, None] - _LOGS)
    place = np.argmin(far, axis=1)
    return place, far[np.arange(len(move)), place]


def classify(
    move: Floats, traded: Floats, reverses: npt.NDArray[np.bool_], begins: npt.NDArray[np.bool_]
) -> npt.NDArray[np.object_]:
    """What each move looks like (`Kind`); None for one that is no jump.

    Args:
        move: ln(open / close before), without what actions and the market explain.
        traded: Dollars traded, by the median of 20 sessions before; not a number: unknown.
        reverses: Whether it is gone the next day, or takes back the jump of the day before.
        begins: Whether another security has its first bar in these sessions, and this one is large
            enough to have spun it off, moves little else, and no action is known of that day.
    """
    jump = (move < FELL) | (move > ROSE)
    _, distance = nearest(move)
    heavy = np.nan_to_num(traded, nan=np.inf)
    light_if_unknown = np.nan_to_num(traded, nan=0.0)
    split = np.where(
        np.abs(move) > LARGE,
        (distance < NEAR_A_LARGE_RATIO) & (light_if_unknown < TRADED_WITH_A_LARGE),
        (distance < NEAR_A_RATIO) & (heavy < TRADED),
    )
    spin_off = (move < SPUN_OFF) & begins & (heavy < _SPUN_OFF_TRADED)
    found = np.full(len(move), None, dtype=object)
    # The later ones take precedence.
    for kind, where in (
        (Kind.MOVE, jump),
        (Kind.SPIN_OFF, spin_off),
        (Kind.SPLIT, jump & split),
        (Kind.GLITCH, jump & reverses),
    ):
        found[where] = kind
    return found


@dataclass(frozen=True)
class Jumps:
    """The jumps that no applied action explains, as columns.

    Days are numbers.
    """

    symbol: pa.Array
    session: Ints
    move: Floats
    """ln(open / close before), without what applied actions and the market explain."""
    traded: Floats
    kind: npt.NDArray[np.object_]

    def count(self, kind: Kind) -> int:
        """How many there are of a kind."""
        return int((self.kind == kind).sum())


def find(evidence: Evidence, securities: pa.Table, factors: pa.Table) -> Jumps:
    """The jumps of all securities that no applied action explains.

    Args:
        evidence: The bars that tell something.
        securities: In `SECURITIES`, derived from it.
        factors: In `FACTORS`, derived from both.
    """
    e = evidence
    stretches = Stretches.of(securities, e)
    key = stretches.symbol * 2**33 + stretches.first + 2**32
    own = e.symbol.astype(np.int64) * 2**33 + e.session.astype(np.int64) + 2**32
    where = np.searchsorted(key, own, side="right") - 1
    if not len(own) or not len(key):
        return Jumps(pa.array([], pa.string()), *(np.zeros(0),) * 3, np.zeros(0, object))  # type: ignore[arg-type]
    where = np.maximum(where, 0)
    # The bar before, over a rename, too; but not another security's.
    linked = (e.session == stretches.first[where]) & (stretches.previous[where] >= 0)
    earlier = stretches.previous[where]
    mine = e.session_before >= stretches.first[where]
    before = np.where(mine, e.session_before, np.where(linked, stretches.last[earlier], e.session))
    close_before = np.where(
        mine, e.close_before, np.where(linked, stretches.last_close[earlier], np.nan)
    )
    gap = e.sessions_between(before, e.session)
    with np.errstate(divide="ignore", invalid="ignore"):
        move = np.log(e.open / close_before) - np.nan_to_num(e.market)
        traded = e.dollars / e.usual_dollars
    move = np.where((gap <= LONG_GAP) & (e.dollars > 0), move, np.nan)
    explained = _explained(e, factors, own)
    move -= explained

    size = np.abs(move)
    with np.errstate(divide="ignore", invalid="ignore"):
        after = np.abs(np.log(e.close_after / close_before) - explained)
        within = np.abs(np.log(e.close / close_before) - explained)
        reverses = (after < REVERSED * size) | (within < REVERSED * size)
        # The way back of a jump of the bar before.
        back = np.zeros(len(own), bool)
        back[1:] = (
            (e.symbol[1:] == e.symbol[:-1])
            & (e.session[:-1] == e.session_before[1:])
            & (np.abs(np.log(e.close[1:] / e.close_before[:-1])) < REVERSED * size[1:])
        )
    new = stretches.first[(stretches.previous < 0) & (stretches.first > e.sessions[0])]
    new = np.sort(e.sessions_between(np.full(len(new), e.sessions[0]), new))
    at = e.sessions_between(np.full(len(own), e.sessions[0]), e.session)
    begun = np.searchsorted(new, at, side="right") > np.searchsorted(new, at - _BEGAN)
    unusual = move < -_UNUSUAL * np.nan_to_num(e.usual_move, nan=np.inf)
    begins = begun & (np.nan_to_num(e.usual_dollars) >= _SIZE) & (explained == 0) & unusual
    kind = np.full(len(own), None, dtype=object)
    some = np.flatnonzero(np.nan_to_num(size) > min(-SPUN_OFF, -FELL, ROSE))
    kind[some] = classify(move[some], traded[some], (reverses | back)[some], begins[some])
    told = np.flatnonzero(kind != None)  # noqa: E711 - of an array
    return Jumps(
        e.symbols.take(pa.array(e.symbol[told])),
        e.session[told].astype(np.int64),
        move[told],
        traded[told],
        kind[told],
    )


def _explained(e: Evidence, factors: pa.Table, own: Ints) -> Floats:
    """The logarithm of what applied actions multiply the price by, for each row of the evidence."""
    applied = factors.filter(pc.and_(factors["applied"], factors["session"].is_valid()))
    keys = e.codes(applied["symbol"]) * 2**33 + days_of(applied["session"]).astype(np.int64) + 2**32
    order = np.argsort(keys, kind="stable")
    unique, start = np.unique(keys[order], return_index=True)
    logs = np.log(applied["price_factor"].to_numpy())[order]
    total = np.add.reduceat(logs, start) if len(start) else logs
    place = np.minimum(np.searchsorted(unique, own), max(len(unique) - 1, 0))
    if not len(unique):
        return np.zeros(len(own))
    return np.where(unique[place] == own, total[place], 0.0)


def findings(jumps: Jumps, ignored: Collection[tuple[str, int]] = ()) -> list[Finding]:
    """The jumps, named, but for those that the user looked at.

    Args:
        jumps: The jumps.
        ignored: Symbols and days (numbers) that the user decided to ignore.
    """
    place, _ = nearest(jumps.move)
    told = []
    for index, symbol in enumerate(jumps.symbol.to_pylist()):
        session, kind = int(jumps.session[index]), jumps.kind[index]
        if (symbol, session) in ignored:
            continue
        day, move = day_of(session), float(jumps.move[index])
        new, old = RATIOS[place[index]] if move < 0 else RATIOS[place[index]][::-1]
        traded = jumps.traded[index]
        what = f"{symbol} {day}: opened at {np.expm1(move):+.1%}, which no action explains; " + (
            "what is usually traded is unknown"
            if np.isnan(traded)
            else f"{traded:.1f} times the usual dollars were traded"
        )
        match kind:
            case Kind.SPLIT:
                what += f". It looks like a split of {new} for {old}, and is not applied"
                decide = (
                    f"datalake decide add split {symbol} {day} --ratio {new}:{old}, "
                    f"or ignore {symbol} {day}"
                )
            case Kind.SPIN_OFF:
                what += ". It looks like a spin-off, and is not applied"
                decide = (
                    f"datalake decide add spin-off {symbol} {day} --amount DOLLARS, "
                    f"or ignore {symbol} {day}"
                )
            case Kind.GLITCH:
                what += ". It was gone the next day"
                decide = f"datalake show {symbol} --from {day}, or datalake decide ignore"
            case _:
                decide = "nothing: it is taken for a move of the market"
        told.append(
            Finding("jump", str(kind), kind is Kind.SPLIT, symbol, session, None, what, decide)
        )
    return told
