"""The second witness: what prices say of an action.

Belongs here: the rule that confirms or contradicts. Does not belong here: which bars are meant, and
what is applied (`factors`); jumps that no action explains (`jumps`).

A source's list of splits is right in most rows, and wrong in ways that repeat: the share ratio of a
spin-off entered as a split, the wrong direction, one split on two days. So an action is held
against the open of its day, divided by the close before, with the market's own move taken out. All
comparisons are of logarithms.

Falls and rises are not alike. A forward split is of a company that does well, and opens near its
ratio; a fall that is smaller than the ratio is what a spin-off's looks like. A reverse split is of
one that does badly, and often opens 20 % lower than its ratio; but nothing else looks like it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Verdict = Literal["confirmed", "contradicted", "too small to tell", "unseen"]

CONFIRMED: Verdict = "confirmed"
CONTRADICTED: Verdict = "contradicted"
TOO_SMALL: Verdict = "too small to tell"
UNSEEN: Verdict = "unseen"

SMALL = 0.15
"""An action that moves the price by less, as a stock dividend of 10 % does, can't be told from a
usual day."""

LARGE = float(np.log(3.6))
"""Beyond a ratio of 3.6 the price of what is left tells more than its exact ratio."""

SHORT_OF_A_FALL, OF_A_FALL = 0.10, 0.60
"""How much less than expected a price may fall: in all, and as a share of what is expected."""

BEYOND_A_FALL = 0.25
"""How much more than expected it may fall."""

OF_A_RISE, OF_A_LARGE_FALL = 0.40, 0.25
"""How far it may miss a rise, and a large fall, in either direction: as a share of it."""


def fits(expected: Floats, seen: Floats) -> npt.NDArray[np.bool_]:
    """Whether a move of the price is the one that is expected of an action.

    Args:
        expected: ln of what the action multiplies the price by; negative for forward splits,
            spin-offs and dividends.
        seen: ln of the open by the close before, without the market's move. Not a number where
            nothing was seen: that fits nothing.
    """
    size = np.abs(expected)
    large = size > LARGE
    short = np.where(large, OF_A_LARGE_FALL * size, np.minimum(SHORT_OF_A_FALL, OF_A_FALL * size))
    beyond = np.maximum(BEYOND_A_FALL, OF_A_LARGE_FALL * size)
    rise = OF_A_RISE * size
    off = seen - expected
    falling = (off <= short) & (off >= -beyond)
    found: npt.NDArray[np.bool_] = np.where(expected < 0, falling, np.abs(off) <= rise)
    return found


def judge(expected: Floats, seen: Floats) -> npt.NDArray[np.object_]:
    """The verdict on each action that is alone on its day.

    Args:
        expected: As for `fits`. Not a number where the action's effect is unknown.
        seen: As for `fits`.
    """
    blind = np.isnan(expected) | np.isnan(seen)
    small = np.abs(expected) < SMALL
    found = np.full(len(expected), CONTRADICTED, dtype=object)
    # The later ones take precedence.
    found[fits(expected, seen)] = CONFIRMED
    found[small] = TOO_SMALL
    found[blind] = UNSEEN
    return found


def judge_together(
    expected: Sequence[float], split: Sequence[float], amount: Sequence[float], seen: float
) -> list[Verdict]:
    """The verdicts on several actions of one day.

    If they fit the move together, all are confirmed; else those of the subset that comes nearest.
    Where no subset fits, all that could be told are contradicted.

    Args:
        expected: As for `fits`, of each alone; at most a handful. Not a number where its effect is
            unknown.
        split: What each multiplies the price by as a split; 1 for amounts.
        amount: What each takes from the price, as a share of the close before; 0 for splits.
        seen: As for `fits`.
    """
    if np.isnan(seen):
        return [UNSEEN] * len(expected)
    material = [index for index, each in enumerate(expected) if abs(each) >= SMALL]
    minor = [index for index, each in enumerate(expected) if abs(each) < SMALL]
    best: tuple[float, frozenset[int]] | None = None
    # From the whole down.
    for mask in reversed(range(1, 2 ** len(material))):
        chosen = frozenset(index for bit, index in enumerate(material) if mask >> bit & 1)
        acting = [*chosen, *minor]
        left = math.prod(split[each] for each in acting) - sum(amount[each] for each in acting)
        if left <= 0:
            continue
        total = math.log(left)
        near = abs(seen - total)
        if abs(total) < SMALL:
            fitting = near < SMALL
        else:
            fitting = bool(fits(np.array([total]), np.array([seen]))[0])
        if fitting and (best is None or near < best[0]):
            best = (near, chosen)
            if len(chosen) == len(material):
                break
    confirmed = best[1] if best else frozenset()
    return [
        UNSEEN
        if np.isnan(each)
        else TOO_SMALL
        if abs(each) < SMALL
        else CONFIRMED
        if index in confirmed
        else CONTRADICTED
        for index, each in enumerate(expected)
    ]
