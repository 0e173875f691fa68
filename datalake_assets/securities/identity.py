"""Which tickers are one security: the table of securities.

Belongs here: what bars, actions and the list of assets say together, and where they contradict each
other. Does not belong here: identifiers (`registry`), and what an action does to prices
(`factors`).

A ticker's bars are cut where another security may begin: where an action says that the ticker
changed hands, and after a long gap. What lies between two cuts belongs to one security. An action
that renames joins two such stretches, if the bars allow it: the old ticker ends where the new one
begins. What the bars do not allow is named and not followed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.securities.evidence import (
    LONG_GAP,
    NO_DAY,
    Days,
    Evidence,
    Ints,
    Points,
    as_days,
    day_of,
    days_of,
    no_day,
)
from datalake_assets.securities.findings import Finding
from datalake_assets.securities.registry import Registry, Stretch
from datalake_assets.securities.tables import SECURITIES

NEAR = 5
"""Sessions by which the day of an action may miss the day on which the ticker changed."""

TIMES_USUAL = 10
"""A gap is long only if it is so many times the usual distance between the symbol's bars: of what
rarely trades, a month without a bar says nothing."""

CONTINUES, BREAKS = 0.15, 0.35
"""Two prices are one security's if they differ by less than the first in their logarithm, and two
securities' if by more than the second."""

_LINKED = 8
"""Tickers in one chain of renames, at most, of which all are asked for on a day."""

_MERGERS = ("cash_mergers", "stock_mergers", "stock_and_cash_mergers")
_ENDS = ("redemptions", "worthless_removals", "reorganizations")
_FOLLOWED_BY = {
    "redemptions": "delisting",
    "worthless_removals": "delisting",
    "unit_splits": "split",
}
_OF_SOME_HOLDERS = ("unit_splits", "redemptions", "reorganizations")
"""After these a security may go on: units are split, and shares redeemed, by those who want it."""

_SPLITS = ("forward_splits", "reverse_splits", "unit_splits")


@dataclass(frozen=True, slots=True)
class _Link:
    """An action that says that a security goes on under another ticker."""

    old: str
    new: str
    old_code: int
    new_code: int
    day: int
    action: str
    kind: str
    ratio: float
    """What the price is multiplied by on that day, as the action says."""


@dataclass(frozen=True, slots=True)
class _End:
    """An action that says that a security ends."""

    symbol: str
    code: int
    day: int
    action: str
    kind: str
    cash: float | None
    shares: float | None
    acquirer: str | None


class _Ending(NamedTuple):
    """How a stretch ended: a value of `followed_by`, and what tells it."""

    kind: str
    words: str
    next_symbol: str | None = None
    action: str | None = None
    end: _End | None = None


@dataclass(frozen=True)
class Identities:
    """Who is who.

    Args:
        table: In `SECURITIES`.
        registry: With the identifiers that are new.
        findings: Where bars, actions and the list contradict each other.
    """

    table: pa.Table
    registry: Registry
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class _Runs:
    """A ticker's bars without a long gap between them, by symbol and session."""

    symbol: npt.NDArray[np.int32]
    first: Days
    last: Days
    last_row: Ints

    def holding(self, symbol: int, day: int) -> int:
        """The newest run of a symbol that has begun by this day, or -1."""
        low, high = np.searchsorted(self.symbol, [symbol, symbol + 1])
        at = int(low) + int(np.searchsorted(self.first[low:high], day, side="right")) - 1
        return at if at >= low else -1

    def next(self, symbol: int, day: int) -> int:
        """The first run of a symbol that begins on or after this day, or -1."""
        low, high = np.searchsorted(self.symbol, [symbol, symbol + 1])
        at = int(low) + int(np.searchsorted(self.first[low:high], day))
        return at if at < high else -1


def identify(
    evidence: Evidence,
    actions: pa.Table,
    listed: pa.Table | None,
    registry: Registry,
    ignored: Collection[str] = (),
    accepted: Collection[str] = (),
) -> Identities:
    """Derive the table of securities.

    Args:
        evidence: The bars that tell something, gathered for the days of these actions.
        actions: The standing ones, in `actions.action.SCHEMA`, in any order.
        listed: The newest list of assets (`collection.universe.SCHEMA`), if there is one.
        registry: The identifiers given so far.
        ignored: Actions that the user decided to ignore.
        accepted: Actions that the user decided to follow whatever the bars say.
    """
    if not len(evidence.symbol):
        return Identities(SECURITIES.empty_table(), registry, ())
    work = _Work(evidence, actions, listed, frozenset(ignored), frozenset(accepted))
    return work.result(registry)


class _Work:
    """One derivation, step by step."""

    def __init__(
        self,
        evidence: Evidence,
        actions: pa.Table,
        listed: pa.Table | None,
        ignored: frozenset[str],
        accepted: frozenset[str],
    ) -> None:
        self.e = evidence
        self.names: list[str] = evidence.symbols.to_pylist()
        self.accepted = accepted
        self.findings: list[Finding] = []
        self.newest = int(evidence.sessions[-1])
        self.runs = _runs(evidence)
        self.listed = _Listed(listed)
        links, ends = _told(evidence, actions, ignored, accepted)
        self.links, self.ends = self._distinct(links), ends
        self.leaving: dict[int, list[int]] = {}
        self.arriving: dict[int, list[int]] = {}
        for link in self.links:
            self.leaving.setdefault(link.old_code, []).append(link.day)
            self.arriving.setdefault(link.new_code, []).append(link.day)
        for code, day in _begun(evidence, actions):
            self.arriving.setdefault(code, []).append(day)
        for end in ends:
            self.leaving.setdefault(end.code, []).append(end.day)

    # What actions say against what bars say

    def _distinct(self, links: list[_Link]) -> list[_Link]:
        """Each rename once; one that stands twice is named, and the first is followed."""
        kept: list[_Link] = []
        latest: dict[str, _Link] = {}
        for link in sorted(links, key=lambda one: (one.day, one.action)):
            before = latest.get(link.old)
            if before and self._apart(before.day, link.day) <= NEAR:
                if before.new != link.new:
                    self._finding(
                        "two renames",
                        link.old,
                        link.day,
                        link.action,
                        f"{link.old} becomes {before.new} on {day_of(before.day)} by action "
                        f"{before.action}, and {link.new} on {day_of(link.day)} by this one: only "
                        "the first was looked at",
                        f"datalake decide ignore {before.action}",
                    )
                continue
            latest[link.old] = link
            kept.append(link)
        return kept

    def _apart(self, one: int, other: int) -> int:
        return abs(int(self.e.sessions_between(one, other)))

    def _near(self, days: Sequence[int], day: int, *, back: int = NEAR) -> bool:
        return any(-back <= int(self.e.sessions_between(day, other)) <= NEAR for other in days)

    def follow(self) -> list[tuple[_Link, int, int]]:
        """The renames that the bars allow, with two days.

        From the first on the old ticker is another security's, from the second on the new one is
        its own.
        """
        old = np.array([link.old_code for link in self.links], np.int64)
        new = np.array([link.new_code for link in self.links], np.int64)
        day = np.array([link.day for link in self.links], np.int64)
        was, was_close = self.e.before(old, day)
        new_was, new_was_close = self.e.before(new, day)
        goes_on, begins = self.e.at_or_after(old, day), self.e.at_or_after(new, day)
        followed = []
        for index, link in enumerate(self.links):
            cut = self._judge(
                link,
                int(was[index]),
                float(was_close[index]),
                int(goes_on[index]),
                int(new_was[index]),
                float(new_was_close[index]),
                int(begins[index]),
            )
            if cut is not None:
                followed.append((link, cut))
        cuts = np.array([cut for _, cut in followed], np.int64)
        row = self.e.at_or_after([link.new_code for link, _ in followed], cuts)
        begun = np.where(row >= 0, self.e.session[row], cuts).tolist()
        return [(link, cut, first) for (link, cut), first in zip(followed, begun, strict=True)]

    def _judge(
        self,
        link: _Link,
        was: int,
        was_close: float,
        goes_on: int,
        new_was: int,
        new_was_close: float,
        begins: int,
    ) -> int | None:
        """The day on which a ticker changed, or None when the bars contradict it, or tell nothing.

        Args:
            link: The rename.
            was: The day of the old ticker's last bar before the action's day.
            was_close: Its close.
            goes_on: The row of the old ticker's next bar, or -1.
            new_was: As `was`, of the new ticker.
            new_was_close: As `was_close`, of the new ticker.
            begins: As `goes_on`, of the new ticker.
        """
        e, accepted = self.e, link.action in self.accepted
        if was == NO_DAY:
            if begins >= 0 and e.session_before[begins] == NO_DAY and link.day > e.sessions[0]:
                self._finding(
                    "earlier ticker missing",
                    link.old,
                    link.day,
                    link.action,
                    f"{link.new} was {link.old} until {day_of(link.day)}, and no session has a bar "
                    f"of {link.old} before that",
                    f"collect the sessions before {day_of(link.day)} again, which asks for it",
                    undecided=False,
                )
            return None
        if begins < 0:
            if goes_on >= 0 and not accepted:
                self._contradicted(link, f"{link.old} goes on trading and {link.new} never does")
                return None
            if int(e.sessions_between(link.day, self.newest)) > NEAR:
                self._finding(
                    "later ticker missing",
                    link.new,
                    link.day,
                    link.action,
                    f"{link.old} became {link.new} on {day_of(link.day)}, and no session since has "
                    f"a bar of {link.new}",
                    f"collect the sessions since {day_of(link.day)} again, which asks for it",
                    undecided=False,
                )
            return link.day
        if accepted:
            return link.day
        first = int(e.session[begins])
        opens_as_old = abs(math.log(e.open[begins] / (was_close * link.ratio)))
        cut = link.day
        if goes_on >= 0 and int(e.sessions_between(was, e.session[goes_on])) <= LONG_GAP:
            run = self.runs.holding(link.old_code, int(e.session[goes_on]))
            ends = int(self.runs.last[run])
            late = self.runs.next(link.new_code, link.day)
            starts = int(self.runs.first[late]) if late >= 0 else int(NO_DAY)
            if not self._near(self.arriving.get(link.old_code, []), link.day):
                if ends < starts and self._apart(link.day, ends) <= NEAR:
                    cut = first = starts  # the day of the action was too early
                else:
                    changes = abs(math.log(e.open[goes_on] / was_close))
                    if opens_as_old >= CONTINUES or changes <= BREAKS:
                        self._contradicted(
                            link,
                            f"{link.old} goes on trading beside it: its next bar is of "
                            f"{day_of(e.session[goes_on])}",
                        )
                        return None
        if new_was != NO_DAY and int(e.sessions_between(new_was, first)) <= LONG_GAP:
            run = self.runs.holding(link.new_code, new_was)
            starts = int(self.runs.first[run])
            gone = self._near(self.leaving.get(link.new_code, []), link.day, back=LONG_GAP)
            if not gone:
                if self._apart(starts, link.day) <= NEAR and was < starts:
                    cut = starts  # the day of the action was too late
                elif opens_as_old >= CONTINUES or (
                    abs(math.log(e.open[begins] / new_was_close)) <= BREAKS
                ):
                    self._contradicted(
                        link,
                        f"{link.new} traded beside it before, on {day_of(new_was)}, and nothing "
                        "says that it ended",
                    )
                    return None
        return cut

    def _contradicted(self, link: _Link, why: str) -> None:
        self._finding(
            "rename contradicted",
            link.old,
            link.day,
            link.action,
            f"{link.old} becomes {link.new} on {day_of(link.day)}, says the source, but {why}: "
            "the two are kept apart",
            f"datalake decide accept {link.action}, or ignore {link.action}",
        )

    def _finding(
        self,
        kind: str,
        symbol: str,
        day: int,
        action: str | None,
        what: str,
        decide: str,
        *,
        undecided: bool = True,
    ) -> None:
        self.findings.append(
            Finding("identity", kind, undecided, symbol, int(day), action, what, decide)
        )

    # Stretches

    def result(self, registry: Registry) -> Identities:
        """Cut, join, and name."""
        followed = self.follow()
        ends = self._ends()
        cuts = [(link.old_code, cut) for link, cut, _ in followed]
        cuts += [(link.new_code, begins) for link, _, begins in followed if link.new_code >= 0]
        cuts += [(end.code, day) for end, day in ends]
        code = np.array([code for code, _ in cuts], np.int64)
        day = np.array([day for _, day in cuts], np.int64)
        code = np.concatenate([self.runs.symbol.astype(np.int64), code])
        day = np.concatenate([self.runs.first.astype(np.int64), day])
        borders = np.unique(code << 32 | day)
        symbol, start = borders >> 32, borders & 0xFFFFFFFF
        # The last stretch of a ticker is open; the others end where the next begins.
        later = np.append(symbol[1:] == symbol[:-1], False)
        until = np.where(later, np.append(start[1:], 0), 2**31 - 1)
        row = self.e.at_or_after(symbol, start)
        first = np.where(row >= 0, self.e.session[row], 2**31 - 1).astype(np.int64)
        last = self._last(symbol, until)
        held = (first < until) & (last >= start)
        symbol, start, until = symbol[held], start[held], until[held]
        first, last = first[held], self._last(symbol, until)
        count, keys = len(symbol), borders[held]
        place = {key: index for index, key in enumerate(keys.tolist())}

        def ending_at(codes: list[int], cuts: list[int]) -> list[int]:
            """The stretches of tickers that end where others begin, or -1."""
            code, cut = np.array(codes, np.int64), np.array(cuts, np.int64)
            at = np.searchsorted(keys, code << 32 | cut) - 1
            found: list[int] = np.where((at >= 0) & (symbol[at] == code), at, -1).tolist()
            return found

        next_of = np.full(count, -1, np.int64)
        previous = np.full(count, -1, np.int64)
        told: dict[int, _Ending] = {}
        came: dict[int, str] = {}
        old = ending_at([link.old_code for link, _, _ in followed], [cut for _, cut, _ in followed])
        for (link, _, begins), before in zip(followed, old, strict=True):
            after = place.get(link.new_code << 32 | begins, -1)
            if before < 0:
                continue
            kind = "rename" if link.kind == "name_changes" else "split"
            words = (
                f"{link.kind} {link.action}: {link.old} to {link.new} on {day_of(link.day)}; "
                f"last bar {day_of(last[before])}"
            )
            if after >= 0 and previous[after] < 0 and next_of[before] < 0:
                next_of[before], previous[after] = after, before
                words += f", first of {link.new} {day_of(first[after])}"
                came[after] = words
            told[before] = _Ending(kind, words, link.new, link.action)
        old = ending_at([end.code for end, _ in ends], [cut for _, cut in ends])
        for (end, _), before in zip(ends, old, strict=True):
            if before < 0 or before in told:
                continue
            kind = _FOLLOWED_BY.get(end.kind, "merger")
            told[before] = _Ending(
                kind,
                f"{end.kind} {end.action} of {day_of(end.day)}; last bar {day_of(last[before])}",
                action=end.action,
                end=end,
            )
        self._join_halted(symbol, start, first, last, previous, next_of, told, came)
        self._quiet(symbol, first, last, until, told)
        chains = _chains(next_of, previous)
        names = self.e.symbols.take(pa.array(symbol)).to_pylist()
        starts, firsts = as_days(start).to_pylist(), as_days(first).to_pylist()
        identifiers, registry = registry.assign(
            [[Stretch(names[i], starts[i], firsts[i]) for i in chain] for chain in chains]
        )
        security = np.empty(count, dtype=object)
        for chain, identifier in zip(chains, identifiers, strict=True):
            security[chain] = identifier
        table = self._table(security, symbol, first, last, told, came)
        return Identities(table, registry, self.findings)

    def _last(self, symbol: Ints, until: Ints) -> Ints:
        """The day of each symbol's last bar before a day."""
        return self.e.before(symbol, until)[0].astype(np.int64)

    def _ends(self) -> list[tuple[_End, int]]:
        """The ends that the bars allow, and the first day after it."""
        code = np.array([end.code for end in self.ends], np.int64)
        day = np.array([end.day for end in self.ends], np.int64)
        was, _ = self.e.before(code, day)
        row = self.e.at_or_after(code, day)
        allowed = []
        for index, end in enumerate(self.ends):
            before, after = int(was[index]), int(row[index])
            if before == NO_DAY:
                continue  # it ended before the history begins
            cut = end.day
            goes_on = after >= 0 and (
                int(self.e.sessions_between(before, self.e.session[after])) <= LONG_GAP
            )
            if goes_on and not self._near(self.arriving.get(end.code, []), end.day):
                run = self.runs.holding(end.code, int(self.e.session[after]))
                last = int(self.runs.last[run])
                if last == self.newest and self._apart(end.day, last) <= NEAR:
                    continue  # the newest sessions: nobody can tell yet
                if self._apart(end.day, last) <= NEAR:
                    cut = last + 1  # it traded a few days longer
                elif end.action not in self.accepted:
                    if end.kind in _OF_SOME_HOLDERS:
                        continue
                    self._finding(
                        "end contradicted",
                        end.symbol,
                        end.day,
                        end.action,
                        f"{end.symbol} ends on {day_of(end.day)} by {end.kind}, says the source, "
                        "but it goes on trading without a gap: it was not ended",
                        f"datalake decide accept {end.action}, or ignore {end.action}",
                    )
                    continue
            allowed.append((end, cut))
        return allowed

    def _join_halted(
        self,
        symbol: Ints,
        start: Ints,
        first: Ints,
        last: Ints,
        previous: Ints,
        next_of: Ints,
        told: dict[int, _Ending],
        came: dict[int, str],
    ) -> None:
        """After a long gap that nothing explains, another security is supposed, and named."""
        for index in np.flatnonzero(np.append(symbol[1:] == symbol[:-1], False)):
            after = int(index) + 1
            if int(index) in told:
                continue
            gap = int(self.e.sessions_between(last[index], first[after]))
            name = self.names[symbol[index]]
            if previous[after] >= 0:
                told[int(index)] = _Ending(
                    "unknown",
                    f"last bar {day_of(last[index])}; then the ticker went to another security",
                )
                continue
            if self.listed.entries(name) > 1:
                told[int(index)] = _Ending(
                    "delisting",
                    f"no bar for {gap} sessions after {day_of(last[index])}, and the list has "
                    f"{self.listed.entries(name)} securities with this ticker",
                )
                continue
            told[int(index)] = _Ending(
                "unknown",
                f"no bar for {gap} sessions after {day_of(last[index])}, and no action says why",
            )
            self._finding(
                "long gap",
                name,
                int(first[after]),
                None,
                f"{name} has no bar for {gap} sessions after {day_of(last[index])}, and no action "
                "or list says whether it was halted or is another security since: they are kept "
                "apart",
                f"datalake decide add rename {name} {day_of(first[after])} --to {name} joins them",
                undecided=False,
            )

    def _quiet(
        self,
        symbol: Ints,
        first: Ints,
        last: Ints,
        until: Ints,
        told: dict[int, _Ending],
    ) -> None:
        """Those that trade no longer, and no action says why."""
        silent = self.e.sessions_between(last, np.full(len(last), self.newest))
        # Of a stretch that is the newest of its ticker, the last bar is a row.
        bound = self._bound(symbol, last)
        for index in np.flatnonzero((until == 2**31 - 1) & (silent > 0)):
            if int(index) in told:
                continue
            name = self.names[symbol[index]]
            status = self.listed.status(name)
            if silent[index] <= bound[index] and status != "inactive":
                continue
            said = {
                "inactive": "the list calls it inactive",
                "active": "the list calls it active",
                None: "the list does not name it",
            }[status]
            kind = "unknown" if status == "active" else "delisting"
            told[int(index)] = _Ending(
                kind if self.listed.known else "unknown",
                f"last bar {day_of(last[index])}; "
                + (said if self.listed.known else "there is no list of assets"),
            )

    def _bound(self, symbol: Ints, last: Ints) -> Ints:
        """Sessions without a bar after which it no longer trades."""
        usual = self.e.usual_distance[self.e.at_or_after(symbol, last)]
        return np.maximum(LONG_GAP, TIMES_USUAL * usual).astype(np.int64)

    def _table(
        self,
        security: npt.NDArray[Any],
        symbol: Ints,
        first: Ints,
        last: Ints,
        told: Mapping[int, _Ending],
        came: Mapping[int, str],
    ) -> pa.Table:
        count = len(symbol)
        nothing: list[Any] = [None] * count
        columns: dict[str, list[Any]] = {
            name: nothing.copy()
            for name in (
                "followed_by",
                "next_symbol",
                "payout_cash",
                "payout_shares",
                "payout_symbol",
                "action_id",
            )
        }
        evidence = ["bars"] * count
        for index, words in came.items():
            evidence[index] = words
        for index, ending in told.items():
            columns["followed_by"][index] = ending.kind
            columns["next_symbol"][index] = ending.next_symbol
            columns["action_id"][index] = ending.action
            words = ending.words
            evidence[index] = words if index not in came else f"{came[index]}; {words}"
            if end := ending.end:
                columns["payout_cash"][index] = end.cash
                columns["payout_shares"][index] = end.shares
                columns["payout_symbol"][index] = end.acquirer
        newest_of = np.append(symbol[1:] != symbol[:-1], True)
        exchange, name = self.listed.described(
            [self.names[code] for code in symbol],
            [bool(newest_of[i]) and i not in told for i in range(count)],
        )
        return pa.table(
            {
                "security": pa.array(security.tolist(), pa.string()),
                "symbol": self.e.symbols.take(pa.array(symbol)),
                "first_session": as_days(first),
                "last_session": as_days(last),
                "exchange": exchange,
                "name": name,
                **columns,
                "evidence": evidence,
            },
            schema=SECURITIES,
        )


class _Listed:
    """What the newest list of assets says of a ticker."""

    def __init__(self, snapshot: pa.Table | None) -> None:
        self.known = snapshot is not None and snapshot.num_rows > 0
        self._of: dict[str, list[tuple[str, str, str | None]]] = {}
        if snapshot is None:
            return
        columns = (snapshot[name].to_pylist() for name in ("symbol", "status", "exchange", "name"))
        for symbol, status, exchange, name in zip(*columns, strict=True):
            self._of.setdefault(symbol, []).append((status, exchange, name))

    def entries(self, symbol: str) -> int:
        return len(self._of.get(symbol, ()))

    def status(self, symbol: str) -> str | None:
        """`active` if any security with this ticker is; None when the list does not name it."""
        found = {status for status, _, _ in self._of.get(symbol, ())}
        return "active" if "active" in found else "inactive" if found else None

    def described(
        self, symbols: Sequence[str], trading: Sequence[bool]
    ) -> tuple[list[str | None], list[str | None]]:
        """Exchange and name of each; none where several of the list could be meant."""
        exchanges: list[str | None] = []
        names: list[str | None] = []
        for symbol, now in zip(symbols, trading, strict=True):
            status = "active" if now else "inactive"
            entries = self._of.get(symbol, [])
            fitting = [entry for entry in entries if entry[0] == status]
            if len(fitting) != 1:
                fitting = entries if len(entries) == 1 and (now or not fitting) else []
            exchanges.append(fitting[0][1] if fitting else None)
            names.append(fitting[0][2] if fitting else None)
        return exchanges, names


def _runs(e: Evidence) -> _Runs:
    """Cut at long gaps."""
    begins = no_day(e.session_before)
    gap = np.where(begins, 0, e.sessions_between(e.session_before, e.session))
    candidates = np.flatnonzero(gap > LONG_GAP)
    if len(candidates):
        # The row before is the bar before the gap.
        long = gap[candidates] > TIMES_USUAL * e.usual_distance[candidates - 1]
        begins[candidates[long]] = True
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(e.symbol)) - 1
    return _Runs(e.symbol[starts], e.session[starts], e.session[ends], ends.astype(np.int64))


def _chains(next_of: Ints, previous: Ints) -> list[list[int]]:
    """The stretches of each security, from its first ticker to its last."""
    onward = next_of.tolist()
    chains = []
    for start in np.flatnonzero(previous < 0).tolist():
        chain = [start]
        while onward[chain[-1]] >= 0:
            chain.append(onward[chain[-1]])
        chains.append(chain)
    return chains


def _told(
    e: Evidence, actions: pa.Table, ignored: frozenset[str], accepted: frozenset[str]
) -> tuple[list[_Link], list[_End]]:
    """What the actions say of tickers that change and securities that end."""
    kinds = pa.array(["name_changes", *_SPLITS, *_MERGERS, *_ENDS])
    # What is announced has not happened: a session after the newest one is none of the lake's.
    happened = pc.less_equal(actions["effective_date"], pa.scalar(day_of(e.sessions[-1])))
    rows = actions.filter(pc.and_(pc.is_in(actions["kind"], kinds), happened))
    old, new = e.codes(rows["symbol"]), e.codes(rows["new_symbol"])
    days = days_of(rows["effective_date"])
    links, ends = [], []
    for index, row in enumerate(rows.to_pylist()):
        if row["id"] in ignored or (old[index] < 0 and new[index] < 0):
            continue
        symbol, other, kind = row["symbol"], row["new_symbol"], row["kind"]
        day = int(days[index])
        code = int(old[index])
        rate = (
            row["new_rate"] / (row["old_rate"] or 1.0)
            if row["new_rate"] and row["new_rate"] > 0
            else None
        )
        renames = kind == "name_changes" or kind in _SPLITS
        if renames and other and (other != symbol or row["id"] in accepted):
            ratio = 1.0 if kind == "name_changes" or not rate else 1 / rate
            if kind != "unit_splits" or not _traded_before(e, int(new[index]), day):
                links.append(
                    _Link(symbol, other, code, int(new[index]), day, row["id"], kind, ratio)
                )
                continue
        if code < 0 or (kind != "unit_splits" and kind not in _MERGERS and kind not in _ENDS):
            continue
        shares = rate if kind != "cash_mergers" and other else None
        cash = row["cash"]
        if kind == "worthless_removals":
            cash = 0.0
        ends.append(_End(symbol, code, day, row["id"], kind, cash, shares, other))
    return links, sorted(ends, key=lambda end: (end.day, end.action))


def _begun(e: Evidence, actions: pa.Table) -> list[tuple[int, int]]:
    """Symbols of companies that are spun off, and the day on which they begin."""
    spun = pa.array(["spin_offs", "rights_distributions"])
    rows = actions.filter(pc.is_in(actions["kind"], spun))
    codes, days = e.codes(rows["new_symbol"]), days_of(rows["effective_date"])
    return [
        (code, day) for code, day in zip(codes.tolist(), days.tolist(), strict=True) if code >= 0
    ]


def _traded_before(e: Evidence, code: int, day: int) -> bool:
    """Whether a symbol has a bar before a day: then it is no new name of another one."""
    if code < 0:
        return False
    days, _ = e.before([code], [day])
    return not bool(no_day(days)[0])


def asked_of(actions: pa.Table) -> Points:
    """Symbols and days of which `identify` and `factors.derive` need the next bar.

    An action may be listed under another ticker of its security than the one of its day, so that
    for a ticker that was renamed those before and after it are asked for, too.
    """
    day, symbol, other = (actions[name] for name in ("effective_date", "symbol", "new_symbol"))
    others = _renamed(actions)
    renamed = actions.filter(pc.is_in(symbol, pa.array(list(others), pa.string())))
    pairs = [
        (name, date_)
        for of, date_ in zip(
            renamed["symbol"].to_pylist(), days_of(renamed["effective_date"]).tolist(), strict=True
        )
        for name in others[of]
        if name != of
    ]
    some = other.is_valid()
    return Points(
        pa.concat_arrays(
            [
                *symbol.chunks,
                *other.filter(some).chunks,
                pa.array([name for name, _ in pairs], pa.string()),
            ]
        ),
        np.concatenate(
            [
                days_of(day),
                days_of(day.filter(some)),
                np.array([date_ for _, date_ in pairs], np.int32),
            ]
        ),
    )


def _renamed(actions: pa.Table) -> dict[str, set[str]]:
    """The tickers that actions link each ticker with, over any number of renames."""
    kinds = pa.array(["name_changes", *_SPLITS])
    rows = actions.filter(
        pc.and_(pc.is_in(actions["kind"], kinds), actions["new_symbol"].is_valid())
    )
    group: dict[str, set[str]] = {}
    for old, new in zip(rows["symbol"].to_pylist(), rows["new_symbol"].to_pylist(), strict=True):
        if old != new:
            joined = group.get(old, {old}) | group.get(new, {new})
            for name in joined:
                group[name] = joined
    return {name: members for name, members in group.items() if len(members) <= _LINKED}
