"""What corporate actions do to earlier prices and volumes: the tables of factors.

Belongs here: the arithmetic, and which action is applied. Does not belong here: what the prices say
of an action (`verdicts`), and applying factors to bars (`adjusting`).

With P the raw close of the security's last session before, divided by a split of the same day:

    split, s new shares for an old one   price 1 / s        volume s
    cash dividend D, rule A              price 1 - D / P
    cash dividend D, rule B              price C / (C + D), C the close of the day
    spin-off worth V a share             price 1 - V / P

Rule A is that of Yahoo, LEAN, zipline and Alpaca; B that of total return indices and CRSP. Amounts
of one day are summed: each row takes its part of the sum, so that their product is the sum's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.securities.evidence import (
    LONG_GAP,
    NO_DAY,
    Days,
    Evidence,
    Floats,
    Ints,
    as_days,
    day_number,
    day_of,
    days_of,
    encode,
    no_day,
)
from datalake_assets.securities.findings import Finding
from datalake_assets.securities.tables import CUMULATIVE, FACTORS
from datalake_assets.securities.verdicts import (
    CONFIRMED,
    CONTRADICTED,
    TOO_SMALL,
    UNSEEN,
    judge,
    judge_together,
)

NEAR = 5
"""Sessions within which a new company must have its first bar to tell its value, and within which
the same action on another day is the same one, listed twice."""

OPEN_END = date(2199, 12, 31)
"""In place of the last session of a security that still trades."""

SPLITS = ("forward_splits", "reverse_splits", "unit_splits", "stock_dividends")
SPIN_OFFS = ("spin_offs", "rights_distributions")
DIVIDENDS = ("cash_dividends",)

_ADJUSTMENT = {
    **dict.fromkeys(SPLITS, "split"),
    **dict.fromkeys(SPIN_OFFS, "spin-off"),
    **dict.fromkeys(DIVIDENDS, "dividend"),
}
_GROUPS = ("split", "spin-off", "dividend")
"""In this order they act on one day."""

_SPLIT, _SPIN_OFF, _DIVIDEND = range(3)
_GROUP_OF_KIND = np.array([_GROUPS.index(name) for name in _ADJUSTMENT.values()], np.int8)
_NEEDED = [
    *("id", "kind", "effective_date", "process_date", "symbol", "new_symbol"),
    *("new_rate", "old_rate", "cash", "body"),
]
_KINDS = {kind: place for place, kind in enumerate(_ADJUSTMENT)}

# What repeats in every row is a small number until the table is made of it: comparing and
# encoding texts would be most of the work.
_VERDICTS = (CONFIRMED, CONTRADICTED, TOO_SMALL, UNSEEN)
_CONFIRMED, _CONTRADICTED, _TOO_SMALL, _UNSEEN = range(4)
_VERDICT = {verdict: code for code, verdict in enumerate(_VERDICTS)}

_DECISIONS = (None, "accept", "ignore", "add")
_UNDECIDED, _ACCEPT, _IGNORE, _ADD = range(4)

_WHY_UNSEEN = (
    "",
    "after its last bar",
    "no bar since",
    "no bar before it",
    "no bar for a long time before it",
    "nothing was traded on that day",
)
_IMPOSSIBLE = ("", "an impossible rate", "not less than the price")
_REASONS = (
    "the user decided to ignore it",
    "the user decided to accept it",
    "the user added it",
    "the value of what was spun off is unknown: it has no bar",
    "it is listed twice",
    "the prices confirm it",
    "too small to be seen in the prices: taken as the source says",
)

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Stretches:
    """The rows of the table of securities as columns, with the bars at their ends.

    By symbol and first session, as in the table. Days are numbers.
    """

    security: Ints
    """Place in `securities`."""
    securities: pa.Array
    symbol: Ints
    """Place in the evidence's symbols."""
    first: Ints
    last: Ints
    open_ended: Bools
    last_close: Floats
    previous: Ints
    """Row of the security's ticker before, or -1."""
    next: Ints

    @classmethod
    def of(cls, table: pa.Table, evidence: Evidence) -> Stretches:
        """From a table of securities that was derived from this evidence."""
        encoded = encode(table["security"])
        security = encoded.indices.to_numpy().astype(np.int64)
        symbol = evidence.codes(table["symbol"])
        first = days_of(table["first_session"]).astype(np.int64)
        last = days_of(table["last_session"]).astype(np.int64)
        row = evidence.at_or_after(symbol, last)
        count = len(security)
        previous, following = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
        order = np.lexsort((first, security))
        here, there = order[:-1], order[1:]
        joined = security[here] == security[there]
        following[here[joined]] = there[joined]
        previous[there[joined]] = here[joined]
        exact = (row >= 0) & (evidence.session[row] == last) if count else np.zeros(0, bool)
        # The last bar of a stretch is a row of its own, or the one before the row at its end.
        _, before = evidence.before(symbol, last + 1)
        close = np.where(exact, evidence.close[row], before) if count else np.zeros(0)
        return cls(
            security=security,
            securities=encoded.dictionary,
            symbol=symbol,
            first=first,
            last=last,
            open_ended=table["followed_by"].is_null().to_numpy() & (following < 0),
            last_close=close,
            previous=previous,
            next=following,
        )

    def holding(self, symbol: Ints, day: Ints) -> Ints:
        """The row of the security that an action of this symbol and day happens to, or -1.

        A symbol means its holder before the day; a new ticker of that very day its own. An action
        that is listed under an earlier or a later ticker of the security is found, too.
        """
        if not len(self.first):  # as in a lake whose actions came before its first session
            return np.full(len(symbol), -1)
        key = self.symbol << 33 | self.first + 2**32
        known = symbol >= 0
        low = np.searchsorted(key, np.where(known, symbol << 33, 0))
        high = np.searchsorted(key, (symbol + 1) << 33)
        before = np.searchsorted(key, symbol << 33 | day + 2**32) - 1
        upto = np.searchsorted(key, symbol << 33 | day + 2**32, side="right") - 1
        some = known & (high > low)
        begins_here = some & (upto > before) & (upto >= low)
        has_before = some & (before >= low)
        ended = has_before & ~self.open_ended[before] & (self.last[before] < day - 7)
        row = np.where(begins_here & (~has_before | ended), upto, before)
        row = np.where(some & ~has_before & ~begins_here, low, row)
        row = np.where(some, row, -1)
        for _ in range(len(self.first)):
            early = (row >= 0) & (self.first[row] > day) & (self.previous[row] >= 0)
            if not early.any():
                break
            row[early] = self.previous[row[early]]
        for _ in range(len(self.first)):
            late = (row >= 0) & (self.last[row] < day) & (self.next[row] >= 0)
            if not late.any():
                break
            # The day lies in the next ticker's sessions, or between the two: then its first bar
            # is the next one.
            row[late] = self.next[row[late]]
        return row


@cache
def ratio(new: float, old: float, *, more: bool = False) -> tuple[int, int]:
    """Shares after and before as whole numbers; with `more`, `new` are those that come on top.

    >>> ratio(1.05, 1.0)
    (21, 20)
    """
    exact = Fraction(repr(new)) / Fraction(repr(old)) + (1 if more else 0)
    exact = exact.limit_denominator(10**9)
    return exact.numerator, exact.denominator


@dataclass(frozen=True)
class Factors:
    """What is applied, and what is not.

    Args:
        table: In `FACTORS`.
        cumulative: In `CUMULATIVE`.
        findings: Actions that wait for a decision, or that can't be.
    """

    table: pa.Table
    cumulative: pa.Table
    findings: Sequence[Finding]


def derive(
    evidence: Evidence,
    securities: pa.Table,
    actions: pa.Table,
    accepted: Collection[str] = (),
    ignored: Collection[str] = (),
    added: Collection[str] = (),
) -> Factors:
    """Derive both tables.

    Args:
        evidence: Gathered for these actions (`identity.asked_of`).
        securities: In `SECURITIES`, as `identity.identify` derived it from the same evidence.
        actions: In `actions.action.SCHEMA`, with those that the user added; in any order.
        accepted: Actions that the user accepted.
        ignored: Actions that the user ignores.
        added: Which of the actions the user added.
    """
    stretches = Stretches.of(securities, evidence)
    rows = _Rows.of(evidence, stretches, actions)
    rows.find_twins()
    rows.judge()
    rows.decide(frozenset(accepted), frozenset(ignored), frozenset(added))
    rows.multiply()
    table, findings = rows.table(), rows.findings()
    return Factors(table, cumulate(table, securities), findings)


class _Rows:
    """The actions that may have an effect, as columns, by security, session, kind and id."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.securities: pa.Array
        self.security: Ints
        self.symbol: pa.Array
        self.session: Days
        self.day: Days
        self.kind: npt.NDArray[np.int8]
        """Place in `_KINDS`."""
        self.group: npt.NDArray[np.int8]
        self.id: pa.Array
        self.process: Days
        self.body: pa.ChunkedArray
        self.place: Ints
        """Where each row stands in `body`, of which few are looked at."""
        self.new_shares: Ints
        self.old_shares: Ints
        self.amount: Floats
        self.amount_from: npt.NDArray[Any]
        self.close_before: Floats
        self.close: Floats
        self.seen: Floats
        self.why_unseen: npt.NDArray[np.int8]
        """Place in `_WHY_UNSEEN`."""

    @classmethod
    def of(cls, e: Evidence, stretches: Stretches, actions: pa.Table) -> _Rows:
        """Find the bars of each action."""
        kinds = pa.array(list(_ADJUSTMENT))
        actions = actions.select(_NEEDED).filter(pc.is_in(actions["kind"], kinds))
        day = days_of(actions["effective_date"])
        code = e.codes(actions["symbol"])
        where = stretches.holding(code, day.astype(np.int64))
        keep = where >= 0
        kind_names = _coded(actions["kind"], _KINDS)
        other = e.codes(actions["new_symbol"])
        # A unit that was split has ended, unless it goes on under another ticker.
        units = kind_names == _KINDS["unit_splits"]
        if units.any():
            onward = stretches.previous[np.maximum(where, 0)] >= 0
            keep &= ~units | onward
        if not keep.all():
            actions = actions.filter(pa.array(keep))
            day, where, other, kind_names = day[keep], where[keep], other[keep], kind_names[keep]
        self = cls(len(day))
        if not self.count:
            return self._filled(stretches, actions, kind_names)
        self._filled(stretches, actions, kind_names)
        row = e.at_or_after(stretches.symbol[where], np.maximum(day, stretches.first[where]))
        row = _traded(e, row)
        inside = (row >= 0) & (
            (e.session[row] <= stretches.last[where]) | stretches.open_ended[where]
        )
        session = np.where(inside, e.session[row], NO_DAY).astype(np.int32)
        came = e.session_before[row]
        own = inside & (came >= stretches.first[where])
        earlier = stretches.previous[where]
        linked = inside & ~own & (earlier >= 0)
        before = np.where(own, came, np.where(linked, stretches.last[earlier], NO_DAY))
        before_close = np.where(
            own, e.close_before[row], np.where(linked, stretches.last_close[earlier], np.nan)
        )
        seen_at_all = inside & ~np.isnan(before_close)
        gap = np.where(seen_at_all, e.sessions_between(before, session), 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            move = np.log(e.open[row] / before_close)
        market = np.nan_to_num(e.market[row])
        still = (e.dollars[row] == 0) & (np.abs(move) < 0.001)
        visible = seen_at_all & (gap <= LONG_GAP) & ~still
        self.seen = np.where(visible, move - market, np.nan)
        self.why_unseen = np.select(
            [
                ~inside & ~stretches.open_ended[where] & (day > stretches.last[where]),
                ~inside,
                np.isnan(before_close),
                gap > LONG_GAP,
                still,
            ],
            [1, 2, 3, 4, 5],
            default=0,
        ).astype(np.int8)
        effective = seen_at_all
        self.session = np.where(effective, session, NO_DAY).astype(np.int32)
        self.close_before = np.where(effective, before_close, np.nan)
        self.close = np.where(inside, e.close[row], np.nan)
        self.security = stretches.security[where]
        self.symbol = e.symbols.take(pa.array(stretches.symbol[where]))
        self._shares(actions)
        self._amounts(e, actions, other, day)
        return self._sorted()

    def _filled(
        self, stretches: Stretches, actions: pa.Table, kinds: npt.NDArray[np.int8]
    ) -> _Rows:
        """The columns that come from the actions alone, and empty ones."""
        count = self.count
        self.securities = stretches.securities
        self.security = np.zeros(count, np.int64)
        self.symbol = pa.array([""] * count, pa.string())
        self.session = np.full(count, NO_DAY, np.int32)
        self.day = days_of(actions["effective_date"])
        self.process = days_of(actions["process_date"])
        self.kind = kinds
        self.group = _GROUP_OF_KIND[kinds]
        self.id = actions["id"].combine_chunks()
        self.body = actions["body"]
        self.place = np.arange(count)
        self.new_shares = np.zeros(count, np.int64)
        self.old_shares = np.zeros(count, np.int64)
        self.amount = np.full(count, np.nan)
        self.amount_from = np.full(count, None, dtype=object)
        self.close_before = np.full(count, np.nan)
        self.close = np.full(count, np.nan)
        self.seen = np.full(count, np.nan)
        self.why_unseen = np.zeros(count, np.int8)
        return self

    def _shares(self, actions: pa.Table) -> None:
        new = _floats(actions["new_rate"])
        old = np.nan_to_num(_floats(actions["old_rate"]), nan=1.0)
        for index in np.flatnonzero(self.group == _SPLIT).tolist():
            if not (new[index] > 0 and old[index] > 0):
                continue  # an impossible rate: named as one
            more = self.kind[index] == _KINDS["stock_dividends"]
            pair = ratio(float(new[index]), 1.0 if more else float(old[index]), more=more)
            self.new_shares[index], self.old_shares[index] = pair

    def _amounts(
        self,
        e: Evidence,
        actions: pa.Table,
        other: Ints,
        day: Days,
    ) -> None:
        cash = _floats(actions["cash"])
        self.amount = np.where(self.group == _DIVIDEND, cash, np.nan)
        spun = np.flatnonzero(self.group == _SPIN_OFF)
        if not len(spun):
            return
        new = _floats(actions["new_rate"])[spun]
        old = np.nan_to_num(_floats(actions["old_rate"])[spun], nan=1.0)
        row = e.at_or_after(other[spun], day[spun])
        late = e.sessions_between(day[spun], e.session[row])
        known = (row >= 0) & (late <= NEAR) & (new > 0) & (old > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(known, new / old * e.open[row], np.nan)
        names = actions["new_symbol"].take(pa.array(spun)).to_pylist()
        for place, index in enumerate(spun.tolist()):
            if not np.isnan(cash[index]):
                self.amount[index], self.amount_from[index] = cash[index], "the user"
            elif known[place]:
                self.amount[index] = value[place]
                self.amount_from[index] = (
                    f"open of {names[place]} on {day_of(e.session[row[place]])}"
                )

    def _sorted(self) -> _Rows:
        order = _in_order(self.id, self.group, self.session, self.security)
        for name, values in vars(self).items():
            if isinstance(values, np.ndarray):
                setattr(self, name, values[order])
        self.symbol, self.id = (each.take(pa.array(order)) for each in (self.symbol, self.id))
        return self

    # Which are true

    def find_twins(self) -> None:
        """Actions that stand twice: the later row of two that say the same.

        The same ratio or amount, processed on the same day, on one day or on two that are near.
        What differs in kind, as a special dividend does from a regular one, is not the same.
        """
        self.twin = np.full(self.count, -1, np.int64)
        if self.count < 2:
            return
        value = np.where(
            self.group == _SPLIT, self.new_shares / np.maximum(self.old_shares, 1), self.amount
        )
        value = np.nan_to_num(value, nan=-1.0)
        kind = self.kind
        order = np.lexsort((self.day, value, kind, self.security))
        one, two = order[:-1], order[1:]
        alike = (
            (self.security[one] == self.security[two])
            & (kind[one] == kind[two])
            & (value[one] == value[two])
            & (self.day[two] - self.day[one] <= 7)
            & (
                (self.process[one] == self.process[two])
                | ((self.group[one] == _SPLIT) & (self.day[one] != self.day[two]))
            )
        )
        for first, second in zip(one[alike].tolist(), two[alike].tolist(), strict=True):
            if self._nature(first) == self._nature(second):
                self.twin[second] = first

    def _nature(self, index: int) -> tuple[Any, ...]:
        """What tells two cash dividends of one amount and day apart."""
        told = json.loads(self.body[int(self.place[index])].as_py())
        return tuple(told.get(name) for name in ("special", "sub_type", "foreign", "currency"))

    def judge(self) -> None:
        """What the prices say of each."""
        self.expected = self._expected()
        self.verdict = _codes_of(judge(self.expected, self.seen))
        acts = ~no_day(self.session)
        start = np.flatnonzero(
            np.append(True, (np.diff(self.security) != 0) | (np.diff(self.session) != 0))
        )
        size = np.diff(np.append(start, self.count))
        for begin, many in zip(start[size > 1].tolist(), size[size > 1].tolist(), strict=True):
            if not acts[begin]:
                continue
            day = slice(begin, begin + many)
            if not (np.abs(np.nan_to_num(self.expected[day])) > 0.02).any():
                continue
            single = [
                np.nan if self.twin[index] >= begin else self.expected[index]
                for index in range(begin, begin + many)
            ]
            is_split = self.group[day] == _SPLIT
            scale = np.where(
                is_split & (self.new_shares[day] > 0),
                self.old_shares[day] / np.maximum(self.new_shares[day], 1),
                1.0,
            )
            share = np.where(is_split, 0.0, self.amount[day] / self.close_before[day])
            together = judge_together(
                single, scale.tolist(), share.tolist(), float(self.seen[begin])
            )
            self.verdict[day] = [_VERDICT[verdict] for verdict in together]
        self._judge_twins()
        impossible = acts & (
            ((self.group == _DIVIDEND) & ~(self.amount > 0))
            | ((self.group == _SPLIT) & (self.new_shares <= 0))
        )
        too_much = acts & (self.group != _SPLIT) & (self.amount >= self._price())
        self.impossible = np.select([impossible, too_much], [1, 2], default=0).astype(np.int8)
        self.verdict[self.impossible > 0] = _CONTRADICTED

    def _judge_twins(self) -> None:
        """Of two rows that say the same, the one that the prices confirm, else the first."""
        for second in np.flatnonzero(self.twin >= 0).tolist():
            first = int(self.twin[second])
            if self.day[first] != self.day[second] and (
                self.verdict[first] == self.verdict[second] == _CONFIRMED
            ):
                self.twin[second] = -1  # both happened
            elif self.verdict[second] == _CONFIRMED and self.verdict[first] != _CONFIRMED:
                # It stands on two days, and this is the right one.
                self.twin[first], self.twin[second] = second, -1
                self.verdict[first] = _CONTRADICTED
            else:
                self.verdict[second] = _CONTRADICTED

    def _price(self) -> Floats:
        """The close before in shares of the day: divided by its splits."""
        splits = np.flatnonzero((self.group == _SPLIT) & (self.new_shares > 0) & self._counting())
        if not len(splits):
            return self.close_before
        # The rows of one security and session stand together.
        new = np.append(True, (np.diff(self.security) != 0) | (np.diff(self.session) != 0))
        day = np.cumsum(new) - 1
        product = np.ones(int(day[-1]) + 1)
        np.multiply.at(product, day[splits], self.old_shares[splits] / self.new_shares[splits])
        price: Floats = self.close_before * product[day]
        return price

    def _counting(self) -> Bools:
        """Which splits count for what else happens that day."""
        applied: Bools | None = getattr(self, "applied", None)
        if applied is not None:
            return applied
        verdict = getattr(self, "verdict", None)
        if verdict is None:
            return np.ones(self.count, bool)
        true: Bools = verdict != _CONTRADICTED
        return true

    def _expected(self) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            split = np.log(self.old_shares / np.where(self.new_shares > 0, self.new_shares, np.nan))
            left = 1 - self.amount / self._price()
            cash = np.log(np.where(left > 0, left, np.nan))
        return np.where(self.group == _SPLIT, split, cash)

    def decide(
        self, accepted: frozenset[str], ignored: frozenset[str], added: frozenset[str]
    ) -> None:
        """What is applied: what the prices do not contradict, unless the user says otherwise."""
        possible = (
            ~no_day(self.session)
            & (self.impossible == 0)
            & ((self.group == _SPLIT) | ~np.isnan(self.amount))
        )
        self.decision = np.full(self.count, _UNDECIDED, np.int8)
        for code, chosen in ((_ACCEPT, accepted), (_IGNORE, ignored), (_ADD, added)):
            if chosen:
                about = pc.is_in(self.id, pa.array(sorted(chosen), pa.string()))
                self.decision[about.to_numpy(zero_copy_only=False)] = code
        says_yes = (self.decision == _ACCEPT) | (self.decision == _ADD)
        trusted = (self.verdict != _CONTRADICTED) | says_yes
        self.applied = possible & trusted & (self.decision != _IGNORE)

    def multiply(self) -> None:
        """The factors, amounts of one day summed."""
        price = self._price()
        split = self.group == _SPLIT
        safe_new = np.where(self.new_shares > 0, self.new_shares, 1)
        safe_old = np.where(self.old_shares > 0, self.old_shares, 1)
        # What was taken from the price, and paid by the close, by the rows before this one.
        taken, paid = np.zeros(self.count), np.zeros(self.count)
        same = np.append(
            False,
            (np.diff(self.security) == 0)
            & (np.diff(self.session) == 0)
            & ~no_day(self.session[1:]),
        )
        for index in np.flatnonzero(same).tolist():
            taken[index], paid[index] = taken[index - 1], paid[index - 1]
            if self.applied[index - 1] and not split[index - 1]:
                taken[index] += self.amount[index - 1]
                if self.group[index - 1] == _DIVIDEND:
                    paid[index] += self.amount[index - 1]
        acts = ~no_day(self.session) & (self.impossible == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            by_price = (price - (taken + self.amount)) / (price - taken)
            by_price = np.where(taken == 0, 1 - self.amount / price, by_price)
            by_close = (self.close + paid) / (self.close + (paid + self.amount))
        cash = acts & ~split & (by_price > 0)
        ok_split = split & acts
        self.price_factor = np.where(ok_split, safe_old / safe_new, np.where(cash, by_price, 1.0))
        self.volume_factor = np.where(ok_split, safe_new / safe_old, 1.0)
        # The value of a spin-off is of the open, like its price factor.
        dividend = cash & (self.group == _DIVIDEND)
        self.total_return_factor = np.where(dividend, by_close, self.price_factor)

    # What is told

    def _reasons(self) -> pa.Array:
        words = (*_REASONS, *_WHY_UNSEEN, *_IMPOSSIBLE, None)
        unseen = len(_REASONS) + self.why_unseen
        by_verdict = np.select(
            [
                self.decision == _IGNORE,
                self.decision == _ACCEPT,
                self.decision == _ADD,
                no_day(self.session),
                self.impossible > 0,
                (self.group != _SPLIT) & np.isnan(self.amount),
                self.twin >= 0,
                self.verdict == _CONFIRMED,
                self.verdict == _TOO_SMALL,
                self.verdict == _UNSEEN,
            ],
            [
                *(0, 1, 2),
                unseen,
                len(_REASONS) + len(_WHY_UNSEEN) + self.impossible,
                *(3, 4, 5, 6),
                unseen,
            ],
            default=len(words) - 1,
        ).astype(np.int64)
        by_price = np.flatnonzero(np.isin(by_verdict, np.flatnonzero([not w for w in words])))
        told = [
            f"it would open at {np.expm1(self.expected[index]):+.1%}, "
            f"and it opened at {np.expm1(self.seen[index]):+.1%}"
            for index in by_price.tolist()
        ]
        by_verdict[by_price] = len(words) + np.arange(len(by_price))
        return pa.array([*words, *told], pa.string()).take(pa.array(by_verdict))

    def table(self) -> pa.Table:
        """In `FACTORS`."""
        split = self.group == _SPLIT
        self.reason = self._reasons()
        order = _in_order(self.id, self.day, _ranks(self.securities)[self.security])

        def named(names: Sequence[str | None] | pa.Array, codes: npt.NDArray[Any]) -> pa.Array:
            of = names if isinstance(names, pa.Array) else pa.array(names, pa.string())
            return of.take(pa.array(codes[order]))

        def numbers(values: npt.NDArray[Any], there: Bools) -> pa.Array:
            return pa.array(values[order], mask=~there[order])

        taken = pa.array(order)
        return pa.table(
            {
                "security": named(self.securities, self.security),
                "symbol": self.symbol.take(taken),
                "session": as_days(self.session[order]),
                "effective_date": as_days(self.day[order]),
                "kind": named(list(_KINDS), self.kind),
                "adjustment": named(_GROUPS, self.group),
                "action_id": self.id.take(taken),
                "new_shares": numbers(self.new_shares, split & (self.new_shares > 0)),
                "old_shares": numbers(self.old_shares, split & (self.old_shares > 0)),
                "amount": _or_null(self.amount[order]),
                "amount_from": pa.array(self.amount_from[order], pa.string()),
                "close_before": _or_null(self.close_before[order]),
                "close": _or_null(self.close[order]),
                "price_factor": self.price_factor[order],
                "volume_factor": self.volume_factor[order],
                "total_return_factor": self.total_return_factor[order],
                "verdict": named(_VERDICTS, self.verdict),
                "applied": self.applied[order],
                "decision": named(_DECISIONS, self.decision),
                "reason": self.reason.take(taken),
            },
            schema=FACTORS,
        )

    def findings(self) -> list[Finding]:
        """Actions that are not applied though they could be, or should be."""
        acts = ~no_day(self.session)
        open_question = self.decision == _UNDECIDED
        unknown = acts & (self.group != _SPLIT) & np.isnan(self.amount) & open_question
        contradicted = acts & (self.verdict == _CONTRADICTED) & open_question
        found = []
        for index in np.flatnonzero(contradicted | unknown).tolist():
            symbol, day, action = (
                self.symbol[index].as_py(),
                self.day[index],
                self.id[index].as_py(),
            )
            listed = list(_KINDS)[self.kind[index]]
            would = _would(
                _GROUPS[self.group[index]],
                int(self.new_shares[index]),
                int(self.old_shares[index]),
                float(self.amount[index]),
            )
            if unknown[index] and not contradicted[index]:
                kind = "value unknown"
                decide = (
                    f"datalake decide add spin-off {symbol} {day_of(day)} --amount DOLLARS, "
                    f"or ignore {action}"
                )
            elif self.impossible[index]:
                kind = "impossible"
                decide = f"datalake decide ignore {action}, and add what is right"
            else:
                kind = (
                    "listed twice"
                    if self.twin[index] >= 0
                    else f"{_GROUPS[self.group[index]]} contradicted"
                )
                decide = f"datalake decide accept {action}, or ignore {action}"
            found.append(
                Finding(
                    "action",
                    kind,
                    # Rights are seldom traded before they are used: of most nobody knows a value.
                    listed != "rights_distributions",
                    symbol,
                    int(day),
                    action,
                    f"{symbol} {day_of(day)}: {would} ({listed}) is not applied: "
                    f"{self.reason[index].as_py()}",
                    decide,
                )
            )
        return found


def _would(group: str, new: int, old: int, amount: float) -> str:
    if group == "split":
        return f"a split of {new} for {old}" if new > 0 else "a split"
    return f"a {group} of {'unknown value' if np.isnan(amount) else f'{amount:g} dollars a share'}"


def _traded(e: Evidence, row: Ints) -> Ints:
    """The bar on which the price shows an action: one of a day without trades repeats the close.

    Alpaca has such bars on days of splits (MRBK 2023-03-21): the price changes with the next one.

    Args:
        e: The bars.
        row: The first bar on or after each action's day, or -1.
    """
    if not len(e.symbol):
        return row
    here = np.maximum(row, 0)
    later = np.minimum(here + 1, len(e.symbol) - 1)
    repeats = (e.dollars[here] == 0) & (e.close[here] == e.close_before[here])
    next_one = (e.symbol[later] == e.symbol[here]) & (later > here)
    next_one &= (e.close_before[later] == e.close[here]) & (e.dollars[later] > 0)
    near = e.sessions_between(e.session[here], e.session[later]) <= NEAR
    return np.where((row >= 0) & repeats & next_one & near, later, row)


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.fill_null(column, np.nan).to_numpy(), dtype=np.float64)


def _coded(texts: pa.ChunkedArray | pa.Array, codes: Mapping[str, int]) -> npt.NDArray[np.int8]:
    """Texts of which there are few as small numbers."""
    encoded = encode(texts)
    of = np.array([codes[text] for text in encoded.dictionary.to_pylist()], np.int8)
    found: npt.NDArray[np.int8] = (
        of[encoded.indices.to_numpy()] if len(of) else np.zeros(len(texts), np.int8)
    )
    return found


def _codes_of(verdicts: npt.NDArray[np.object_]) -> npt.NDArray[np.int8]:
    """Verdicts as their places in `_VERDICTS`."""
    found = np.full(len(verdicts), _CONTRADICTED, np.int8)
    for code, verdict in enumerate(_VERDICTS):
        found[verdicts == verdict] = code
    return found


def _in_order(ids: pa.Array, *keys: npt.NDArray[np.integer[Any]]) -> Ints:
    """The order by these keys, the last one first, and by id where all are alike.

    Few are alike: only their ids are compared, which are long texts.
    """
    if not len(ids):
        return np.zeros(0, np.int64)
    # In one number: securities, days and kinds together are far fewer than 2**63.
    whole = np.zeros(len(ids), np.int64)
    for key in reversed(keys):
        low = int(key.min())
        whole = whole * (int(key.max()) - low + 1) + (key.astype(np.int64) - low)
    order = np.argsort(whole, kind="stable")
    alike = np.diff(whole[order]) == 0
    tied = np.append(False, alike) | np.append(alike, False)
    rows = order[tied]
    rank = _ranks(ids.take(pa.array(rows)))
    order[tied] = rows[np.lexsort((rank, whole[rows]))]
    return order


def _ranks(texts: pa.Array) -> Ints:
    """The place of each text among all, in their order."""
    order = pc.sort_indices(texts).to_numpy().astype(np.int64)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _or_null(values: Floats) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


# --- all factors of a bar ---


def cumulate(factors: pa.Table, securities: pa.Table) -> pa.Table:
    """What bars are multiplied by, per span of sessions, in `CUMULATIVE`.

    Args:
        factors: In `FACTORS`.
        securities: In `SECURITIES`.

    A product is made from the newest action to the oldest, so that it does not depend on the order
    of the rows.
    """
    named = ["security", "session", "adjustment", "action_id"]
    numbers = ["price_factor", "volume_factor", "total_return_factor"]
    acting = pc.and_(factors["applied"], factors["session"].is_valid())
    applied = factors.select(named + numbers).filter(acting)
    encoded = encode(securities["security"])
    security = encoded.indices.to_numpy().astype(np.int64)
    first = days_of(securities["first_session"]).astype(np.int64)
    last = days_of(securities["last_session"]).astype(np.int64)
    until = np.where(
        securities["followed_by"].is_null().to_numpy(), day_number(OPEN_END), last
    ).astype(np.int64)
    whose = pc.index_in(applied["security"], encoded.dictionary).to_numpy().astype(np.int64)
    day = days_of(applied["session"]).astype(np.int64)
    groups = _coded(applied["adjustment"], {name: at for at, name in enumerate(_GROUPS)})
    order = _in_order(applied["action_id"].combine_chunks(), groups, day, whose)
    whose, day, groups = whose[order], day[order], groups[order]
    price = applied["price_factor"].to_numpy()[order]
    volume = applied["volume_factor"].to_numpy()[order]
    total = applied["total_return_factor"].to_numpy()[order]
    ones = np.ones(len(price))
    parts = {
        "split": np.where(groups == _SPLIT, price, ones),
        "spin_off": np.where(groups == _SPIN_OFF, price, ones),
        "dividend": np.where(groups == _DIVIDEND, price, ones),
        "total_return": total,
        "volume": volume,
    }
    ends = np.flatnonzero(np.append(np.diff(whose) != 0, len(whose) > 0)[: len(whose)])
    begins = np.append(0, ends[:-1] + 1) if len(ends) else ends
    product = np.stack(list(parts.values()), axis=1)
    for begin, end in zip(begins.tolist(), (ends + 1).tolist(), strict=True):
        if end - begin > 1:
            product[begin:end] = np.multiply.accumulate(product[begin:end][::-1])[::-1]
    products = dict(zip(parts, product.T, strict=True))
    # A span begins with each stretch, and with each day of an action inside one.
    new_day = np.append(True, (np.diff(whose) != 0) | (np.diff(day) != 0))[: len(whose)]
    at = np.flatnonzero(new_day)
    by_stretch = np.lexsort((first, security))
    key = security[by_stretch] * 2**33 + first[by_stretch] + 2**32
    inside = np.searchsorted(key, whose[at] * 2**33 + day[at] + 2**32, side="right") - 1
    row = by_stretch[inside] if len(at) else np.zeros(0, np.int64)
    within = (security[row] == whose[at]) & (day[at] > first[row]) & (day[at] <= until[row])
    span_row = np.concatenate([np.arange(len(first)), row[within]])
    span_start = np.concatenate([first, day[at][within]])
    sort = np.lexsort((span_start, span_row))
    span_row, span_start = span_row[sort], span_start[sort]
    continues = np.append(np.diff(span_row) == 0, False)
    span_end = np.where(continues, np.append(span_start[1:], 0) - 1, until[span_row])
    # The product of all actions after the span's first day.
    action_key = whose * 2**33 + day + 2**32
    after = np.searchsorted(
        action_key, security[span_row] * 2**33 + span_start + 2**32, side="right"
    )
    clipped = np.minimum(after, max(len(whose) - 1, 0))
    some = (
        (after < len(whose)) & (whose[clipped] == security[span_row])
        if len(whose)
        else np.zeros(len(span_row), bool)
    )
    columns = {
        name: np.where(some, values[clipped], 1.0) if len(whose) else np.ones(len(span_row))
        for name, values in products.items()
    }
    take = pa.array(span_row)
    return pa.table(
        {
            "security": securities["security"].combine_chunks().take(take),
            "symbol": securities["symbol"].combine_chunks().take(take),
            "first_session": as_days(span_start),
            "last_session": as_days(span_end),
            **columns,
        },
        schema=CUMULATIVE,
    )
