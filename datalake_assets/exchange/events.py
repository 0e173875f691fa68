"""What happens to the securities of the synthetic market, and when: from listing to end.

Here belong listings, ends, renames, who holds which ticker, splits, spin-offs and the days of
dividends, over the whole calendar: an event does not depend on the clock, only its being known
does. What an event does to the price, and how many dollars it is, belongs in `prices`; how a
source tells it, in `actions`.

A security is a row; a day is a position among the sessions. How often things happen is taken from
the US market: some 600 changes of ticker and 300 second uses of one a year among 11,000 listings,
two fifths of the names paying a dividend each quarter.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from enum import IntEnum
from typing import Self

import numpy as np
import numpy.typing as npt

from datalake_assets.exchange.draws import Floats, Words, below, draw, unit
from datalake_assets.exchange.market import Ints, is_ticker

Flags = npt.NDArray[np.bool_]
Fits = Callable[[Ints], Flags]

REFERENCE = date(2026, 6, 30)
"""The day on which exactly as many securities are listed as the market was asked for."""

NEVER = 1 << 30
SHIFT = 13
"""A row and a session in one number: row << SHIFT | session. The calendar has fewer than 8,192."""

_YEAR, _BLOCK = 252, 256
_BRIEF = 20
"""Nothing happens to a security in its first sessions."""

# One stream of random numbers for each thing that is decided, so that adding one moves no other.
# The streams 1 … 63 are the prices'.
_SPELLING, _LIFE, _END, _ENDING, _PARTNER, _CHILD, _PARENT, _TICKER = range(64, 72)
_SPLIT, _STOCK, _SPECIAL, _RIGHTS, _RENAME, _CUSIP, _CALL, _SHOCK = range(72, 80)
_PAYER, _QUARTER, _COLLAPSE, _KEYS = range(80, 84)

_LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZAEINRS", np.uint8)
_CLASSES = (b".A", b".B", b".U", b".WS")

RATIOS = ((2, 1), (3, 1), (3, 2), (4, 1), (10, 1), (1, 5), (1, 10), (1, 20))
"""New shares for old ones, of splits."""

_STOCK_PERCENT = np.array([2, 3, 5, 5, 5, 10, 10, 25])
_SPIN_RATIOS = np.array([[1, 1], [1, 2], [1, 3], [1, 4], [1, 5], [1, 10], [2, 1], [1, 8]])


class Kind(IntEnum):
    """The fifteen lists of corporate actions, in their order; each one's name is `plural`."""

    CASH_DIVIDEND = 0
    CASH_MERGER = 1
    FORWARD_SPLIT = 2
    NAME_CHANGE = 3
    PARTIAL_CALL = 4
    REDEMPTION = 5
    REORGANIZATION = 6
    REVERSE_SPLIT = 7
    RIGHTS_DISTRIBUTION = 8
    SPIN_OFF = 9
    STOCK_AND_CASH_MERGER = 10
    STOCK_DIVIDEND = 11
    STOCK_MERGER = 12
    UNIT_SPLIT = 13
    WORTHLESS_REMOVAL = 14

    @property
    def singular(self) -> str:
        """As the parameter `types` names it."""
        return self.name.lower()

    @property
    def plural(self) -> str:
        """As the answer names the list."""
        return f"{self.singular}s"


DEALS = (
    Kind.CASH_MERGER,
    Kind.STOCK_MERGER,
    Kind.STOCK_AND_CASH_MERGER,
    Kind.REDEMPTION,
    Kind.REORGANIZATION,
    Kind.UNIT_SPLIT,
)
"""Ends whose terms are known weeks before: the price converges to them."""

_NO_ACTION = -1
# Of 256 securities that end, how many end so; the others are delisted without an action.
_ENDINGS = (
    (100, Kind.CASH_MERGER),
    (130, Kind.STOCK_MERGER),
    (152, Kind.STOCK_AND_CASH_MERGER),
    (192, Kind.WORTHLESS_REMOVAL),
    (210, Kind.REDEMPTION),
    (220, Kind.REORGANIZATION),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Events as columns of equal length.

    Attributes:
        kind: A `Kind`.
        row: The security whose price it changes, or that ends.
        session: From which session on: the ex-date, or the first session without a bar.
        other: The other security: the new company, the acquirer; −1: none.
        third: One more: a unit's warrant; −1: none.
        new: New shares: for `old` ones, or per share held.
        old: See `new`.
        cash: Dollars a share.
        share: Of the price, what leaves with the event (spin-offs, rights, special dividends).
        special: A dividend out of turn.
    """

    kind: Ints
    row: Ints
    session: Ints
    other: Ints
    third: Ints
    new: Floats
    old: Floats
    cash: Floats
    share: Floats
    special: Flags

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: Ints | Flags) -> Self:
        """The same columns with these rows, in this order."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def of(cls, kind: Ints | Kind, row: Ints, session: Ints, **more: npt.ArrayLike) -> Self:
        """Events of these securities and sessions; what is not given is none."""
        usual = {"other": -1, "third": -1, "new": 1.0, "old": 1.0, "cash": 0.0, "share": 0.0}
        given = {"kind": int(kind) if isinstance(kind, Kind) else kind, "special": False}
        columns = {
            name: np.broadcast_to(np.asarray(value), row.shape)
            for name, value in (usual | given | more).items()
        }
        types = {"kind": np.int64, "other": np.int64, "third": np.int64, "special": np.bool_}
        return cls(
            row=row,
            session=session,
            **{n: column.astype(types.get(n, np.float64)) for n, column in columns.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The events of all parts, one part after another."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Who held which ticker from session `first` up to `stop`, by row, then in time."""

    row: Ints
    ticker: Sequence[str]
    first: Ints
    stop: Ints


class Histories:
    """What happens to every security of a market.

    Args:
        key: The seed's key.
        active: Securities that are listed on `REFERENCE`.
        inactive: Those that are not, any more; three in four of them ended since 2011.
        sessions: The calendar.

    Attributes:
        keys: Each security's key for draws.
        listed: Its first session.
        ended: The first session without it; `NEVER`: it outlives the calendar.
        ending: The `Kind` of its end; −1: no action tells it, or it has none.
        quiet: From this session on only its end happens to it: a deal or a collapse is under way.
        parent: Of a spun-off company: of which one; −1.
        pays: Whether it pays a dividend each quarter.
        holdings: Who held which ticker.
        events: All that is told as corporate actions but for the quarterly dividends; amounts of
            cash and terms of deals are not in it yet.
        quarterly: Rows, sessions and positions of the quarterly ex-dates.
        shocks: Rows, sessions and words of days on which a price jumps without any action.
        cusip_changes: Sorted row << SHIFT | session of each new CUSIP.
    """

    def __init__(self, key: int, active: int, inactive: int, sessions: Sequence[date]) -> None:
        self.reference = bisect_left(sessions, REFERENCE)
        self.end = len(sessions)
        # About as many come after the reference day as go, at the rate of the years before it.
        coming = round(active * 0.03 * (self.end - self.reference) / _YEAR)
        count = active + inactive + coming
        self._key = np.array([key], np.uint64)
        self.keys: Words = draw(self._key, _KEYS, np.arange(count))
        self._names = spell(key, count)
        self._live(active, inactive)
        self._end()
        self._spin_off()
        self._pay()
        self._share_out()
        self._rename()
        self._deal()
        self._shock()
        self._hold()

    # Lives

    def _live(self, active: int, inactive: int) -> None:
        keys, last, end = self.keys, self.reference, self.end
        life, gone = draw(keys, _LIFE, 0), draw(keys, _END, 0)
        row = np.arange(len(keys))
        newcomer = (life & 0xFF) >= 140  # 45 % of the names were listed since 2011
        listed = np.where(newcomer, below(life, last, skip=8), 0)
        former = (row >= active) & (row < active + inactive)
        coming = row >= active + inactive
        listed[former] //= 2
        listed[coming] = (last + 1 + below(life, end - last - 1, skip=8))[coming]
        # One in forty ends each year, evenly: most outlive the calendar.
        remaining = 1 + np.floor(unit(gone, 3) * (_YEAR * 40)).astype(np.int64)
        ended = np.maximum(listed + 2 * _BRIEF, last) + remaining
        ended[ended >= end] = NEVER
        told = former & ((gone & 3) != 0)
        span = last - listed
        ended[told] = (listed + 1 + below(gone, np.maximum(span - 1, 1), skip=8))[told]
        ended[former & ~told] = 0
        self.listed, self.ended = listed, ended

    def _end(self) -> None:
        """How securities end, and from when on nothing else happens to them."""
        word = draw(self.keys, _ENDING, 0)
        pick = (word & 0xFF).astype(np.int64)
        ending = np.full(len(pick), _NO_ACTION)
        for least, kind in reversed(_ENDINGS):
            ending[pick < least] = kind
        units = np.array(
            [n.endswith(".U") or (len(n) == 5 and n[4] == "U") for n in self._names], bool
        )
        ending[units] = Kind.UNIT_SPLIT
        window = 30 + below(word, 90, skip=8)
        window[(ending == Kind.REDEMPTION) | (ending == Kind.UNIT_SPLIT)] = 20
        ends = (self.ended > 0) & (self.ended < NEVER)
        ending[~ends | (self.ended - window < self.listed + _BRIEF)] = _NO_ACTION
        self.ending = ending
        self.quiet = np.where(ending != _NO_ACTION, self.ended - window, self.ended)

    def _spin_off(self) -> None:
        """Which newcomers are spun off, and of whom."""
        word = draw(self.keys, _CHILD, 0)
        child = (self.listed > 120) & (self.listed < self.ended) & ((word & 0xFF) < 31)
        child &= self.ending != Kind.UNIT_SPLIT
        self.parent = np.full(len(self.keys), -1)
        rows = np.flatnonzero(child)
        day = self.listed[rows]

        def fits(parent: Ints) -> Flags:
            fit: Flags = ~child[parent] & (self.listed[parent] < day - 100)
            fit &= self.quiet[parent] > day + _BRIEF
            return fit

        self.parent[rows] = self._choose(rows, _PARENT, fits)
        self._spin_word = word

    def _choose(self, rows: Ints, stream: int, fits: Fits) -> Ints:
        """For each row another one that fits, −1 when a few draws find none."""
        chosen = np.full(len(rows), -1)
        for attempt in range(16):
            candidate = below(draw(self.keys[rows], stream, attempt), len(self.keys))
            take = (chosen < 0) & (candidate != rows) & fits(candidate)
            chosen[take] = candidate[take]
        return chosen

    # What happens in between

    def _happen(self, stream: int, yearly: float) -> tuple[Ints, Ints, Words]:
        """Rows, sessions and words of what happens so often a year to each listed security."""
        blocks = np.arange((self.end + _BLOCK - 1) // _BLOCK)
        words = draw(self.keys[:, None], stream, blocks)
        hit = (words & 0xFFFF) < int(yearly * 65_536 * _BLOCK / _YEAR)
        row, block = np.nonzero(hit)
        found = words[hit]
        session = block * _BLOCK + (found >> 16 & 0xFF).astype(np.int64)
        kept = self._free(row, session)
        word: Words = found[kept] >> np.uint64(24)
        return row[kept], session[kept], word

    def _free(self, row: Ints, session: Ints) -> Flags:
        """Whether something may happen to these securities on these sessions."""
        until = np.minimum(self.quiet[row], self.end)
        free: Flags = (session >= self.listed[row] + _BRIEF) & (session < until)
        return free

    def _pay(self) -> None:
        word = draw(self.keys, _PAYER, 0)
        # Two fifths of the listed; companies that were spun off begin without one.
        self.pays = ((word & 0xFF) < 108) & (self.parent < 0) & (self.ending != Kind.UNIT_SPLIT)
        self._phase = below(word, 63, skip=8)
        rows = np.flatnonzero(self.pays)
        quarter = np.arange(self.end // 63 + 1)
        session = self._ex_dates(rows[:, None], quarter)
        kept = self._free(rows[:, None], session)
        which, k = np.nonzero(kept)
        self.quarterly = (rows[which], session[kept], k)

    def _ex_dates(self, rows: Ints, quarter: Ints) -> Ints:
        """The ex-dates of payers in their quarters (broadcast)."""
        word = draw(self.keys[rows], _QUARTER, quarter)
        return self._phase[rows] + 63 * quarter + below(word, 6)

    def _on_ex_date(self, row: Ints, session: Ints, moved: Flags) -> Ints:
        """The sessions, but those `moved`, of payers, on an ex-date of theirs nearby."""
        quarter = np.maximum(session - self._phase[row], 0) // 63
        word = draw(self.keys[row], _QUARTER, quarter)
        near = self._phase[row] + 63 * quarter + below(word, 6)
        return np.where(moved & self.pays[row] & self._free(row, near), near, session)

    def _share_out(self) -> None:
        """Splits, stock dividends, spin-offs, rights, special dividends, calls of a part."""
        parts = []
        row, session, word = self._happen(_SPLIT, 0.02)
        session = self._on_ex_date(row, session, (word & 15) == 0)
        ratio = np.array(RATIOS)[below(word, len(RATIOS), skip=4)]
        forward = ratio[:, 0] > ratio[:, 1]
        kind = np.where(forward, int(Kind.FORWARD_SPLIT), int(Kind.REVERSE_SPLIT))
        parts.append(Events.of(kind, row, session, new=ratio[:, 0], old=ratio[:, 1]))
        self._reverse = (row[~forward], session[~forward], word[~forward] >> 8)

        row, session, word = self._happen(_STOCK, 0.004)
        percent = _STOCK_PERCENT[below(word, 8)]
        parts.append(Events.of(Kind.STOCK_DIVIDEND, row, session, new=percent / 100))

        row, session, word = self._happen(_SPECIAL, 0.01)
        session = self._on_ex_date(row, session, (word & 3) == 0)
        fraction = 0.01 + 0.24 * unit(word, 1) * unit(word, 0)
        special = Events.of(Kind.CASH_DIVIDEND, row, session, share=fraction, special=True)
        parts.append(special)

        row, session, word = self._happen(_RIGHTS, 0.002)
        fraction = 0.005 + 0.025 * unit(word, 0)
        parts.append(Events.of(Kind.RIGHTS_DISTRIBUTION, row, session, share=fraction))

        row, session, _ = self._happen(_CALL, 0.002)
        parts.append(Events.of(Kind.PARTIAL_CALL, row, session, cash=25.0))

        child = np.flatnonzero(self.parent >= 0)
        word = self._spin_word[child]
        ratio = _SPIN_RATIOS[below(word, 8, skip=8)]
        fraction = 0.04 + 0.31 * unit(word, 2)
        parts.append(
            Events.of(
                Kind.SPIN_OFF,
                self.parent[child],
                self.listed[child],
                other=child,
                new=ratio[:, 0],
                old=ratio[:, 1],
                share=fraction,
            )
        )
        self._spun = (self.parent[child], self.listed[child], word >> 60)
        self._parts = parts

    def _rename(self) -> None:
        """Changes of ticker and of CUSIP."""
        row, session, word = self._happen(_RENAME, 0.055)
        with_cusip = (word & 1) == 0
        parent, day, spin = self._spun
        also = (spin & 3) == 0  # renamed on the day of the spin-off
        of_split, split_day, reverse = self._reverse
        ticker = (reverse & 7) == 0  # a new ticker with the reverse split
        rows = np.concatenate([row, parent[also], of_split[ticker]])
        days = np.concatenate([session, day[also], split_day[ticker]])
        told = np.concatenate([np.ones(len(row) + int(also.sum()), bool), np.zeros(ticker.sum())])
        cusip = np.concatenate([with_cusip, np.zeros(also.sum(), bool), np.ones(ticker.sum())])
        # One change a day; of a reverse split's and a name change, it is the split's.
        order = np.lexsort((told, rows << SHIFT | days))
        at = (rows << SHIFT | days)[order]
        first = np.append(True, at[1:] != at[:-1])[: len(at)]
        order = order[first]
        rows, days, told, cusip = rows[order], days[order], told[order], cusip[order]
        self._renames = (rows, days)
        told = told.astype(bool)
        self._parts.append(Events.of(Kind.NAME_CHANGE, rows[told], days[told]))

        alone, alone_day, _ = self._happen(_CUSIP, 0.01)
        clear = ~np.isin(alone << SHIFT | alone_day, at)
        alone, alone_day = alone[clear], alone_day[clear]
        self._parts.append(Events.of(Kind.NAME_CHANGE, alone, alone_day))
        changed = [
            (rows << SHIFT | days)[cusip.astype(bool)],
            alone << SHIFT | alone_day,
            of_split << SHIFT | split_day,
        ]
        self.cusip_changes = np.unique(np.concatenate(changed))

    def _deal(self) -> None:
        """Ends by an action, with whom; their terms follow from prices."""
        shares = Events.concatenate(self._parts)
        splits = np.isin(shares.kind, (Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT, Kind.STOCK_DIVIDEND))
        split_at = np.sort(shares.row[splits] << SHIFT | shares.session[splits])
        row = np.flatnonzero(self.ending != _NO_ACTION)
        begin, end = self.quiet[row], self.ended[row]

        def fits(partner: Ints) -> Flags:
            at = partner << SHIFT
            low, high = np.searchsorted(split_at, [at | begin - 2, at | end + 1])
            alive: Flags = self.listed[partner] < begin - _BRIEF
            alive &= (self.quiet[partner] > end + 5) & (low == high)
            return alive

        kind = self.ending[row]
        one, two = (self._choose(row, _PARTNER + offset, fits) for offset in (0, 1 << 16))
        alone = np.isin(kind, (Kind.REDEMPTION, Kind.WORTHLESS_REMOVAL))
        one[alone] = -1
        paired = np.isin(kind, (Kind.UNIT_SPLIT, Kind.REORGANIZATION))
        two[~paired | (two == one)] = -1
        # Nobody to merge with: a merger for cash with a buyer who is not listed.
        lost = (~alone & (one < 0)) | ((kind == Kind.UNIT_SPLIT) & (two < 0))
        kind[lost] = Kind.CASH_MERGER
        one[lost], two[lost] = -1, -1
        self.ending[row] = kind
        self._parts.append(Events.of(kind, row, end, other=one, third=two))
        events = Events.concatenate(self._parts)
        self.events = events.take(np.lexsort((events.kind, events.row, events.session)))

    def _shock(self) -> None:
        self.shocks = self._happen(_SHOCK, 0.025)

    # Tickers

    def _hold(self) -> None:
        """Hands out tickers in the order of time.

        One in four who needs a ticker takes one that somebody has given up, some of them on the
        very day; the others a new one.
        """
        renamed, day = self._renames
        trades = self.ended > self.listed
        newcomer = np.flatnonzero(trades & (self.listed > 0))
        gone = np.flatnonzero(trades & (self.ended < NEVER))
        rows = np.concatenate([gone, renamed, renamed, newcomer])
        days = np.concatenate([self.ended[gone], day, day, self.listed[newcomer]])
        counts = [len(gone), len(renamed), len(renamed), len(newcomer)]
        takes = np.repeat([False, False, True, True], counts)
        again = np.repeat([False, True, True, False], counts)
        order = np.lexsort((rows, takes, days))
        words = draw(self.keys[rows], _TICKER, days)[order].tolist()
        fresh = iter(spell(int(self._key[0]), len(self._names) + len(renamed))[len(self._names) :])

        held: dict[int, str] = {}
        before: dict[int, str] = {}
        since: dict[int, int] = {}
        free: list[str] = []
        made: list[tuple[int, int, int, str]] = []
        for row in np.flatnonzero(trades & (self.listed == 0)).tolist():
            held[row], since[row] = self._names[row], 0
        steps = zip(
            rows[order].tolist(),
            days[order].tolist(),
            takes[order].tolist(),
            again[order].tolist(),
            words,
            strict=True,
        )
        for row, session, take, rename, word in steps:
            if not take:
                before[row] = held.pop(row)
                free.append(before[row])
                made.append((row, since[row], session, before[row]))
                continue
            ticker = None
            if (word & 0xFF) < 64 and free:
                recent = (word >> 8 & 3) == 0
                at = len(free) - 1 if recent else (word >> 10) % len(free)
                if free[at] != before.get(row):
                    ticker = free[at]
                    free[at] = free[-1]
                    free.pop()
            if ticker is None:
                ticker = next(fresh) if rename else self._names[row]
            held[row], since[row] = ticker, session
        made += [(row, since[row], NEVER, ticker) for row, ticker in held.items()]
        # Those that ended before history hold their names in the list of assets only.
        made += [(row, -1, 0, self._names[row]) for row in np.flatnonzero(~trades).tolist()]
        made.sort()
        row_, first, stop, ticker_ = zip(*made, strict=True)
        self.holdings = Holdings(
            row=np.array(row_), ticker=ticker_, first=np.array(first), stop=np.array(stop)
        )
        self._holding_keys = self.holdings.row << SHIFT | np.maximum(self.holdings.first, 0)
        self._tickers = np.array(ticker_, object)

    def tickers(self, row: Ints, session: Ints) -> Sequence[str]:
        """Under which ticker each security trades on a session; of an ended one, its last."""
        at = np.searchsorted(self._holding_keys, row << SHIFT | session, side="right") - 1
        first = np.searchsorted(self.holdings.row, row)
        found: Sequence[str] = self._tickers[np.maximum(at, first)].tolist()
        return found

    def cusip_number(self, row: int, session: int) -> int:
        """How many CUSIPs a security has had before the one of a session."""
        low, high = np.searchsorted(
            self.cusip_changes, [row << SHIFT, row << SHIFT | session], side="right"
        )
        return int(high - low)


def spell(key: int, count: int) -> list[str]:
    """`count` different tickers: mostly three and four letters, some class shares among them."""
    spelt: dict[str, None] = {}
    drawn = 0
    while len(spelt) < count:
        number = np.arange(drawn, drawn + count + 64)
        words = draw(np.array([key], np.uint64), _SPELLING, number)
        drawn += len(number)
        letters = _LETTERS[(words[:, None] >> np.arange(0, 25, 5, dtype=np.uint64)) & 31]
        # Of 256: 1 has one letter, 9 two, 86 three, 145 four, 15 five.
        lengths = 1 + np.searchsorted([1, 10, 96, 241], (words >> 32) & 0xFF, side="right")
        kinds = ((words >> 40) & 0xFF).tolist()
        texts = letters.astype(np.uint8).tobytes().decode()
        for index, (length, kind) in enumerate(zip(lengths.tolist(), kinds, strict=True)):
            symbol = texts[5 * index : 5 * index + length]
            if kind < 2 * len(_CLASSES):
                symbol += _CLASSES[kind // 2].decode()
            spelt[symbol] = None
    return [symbol for symbol in spelt if is_ticker(symbol)][:count]
