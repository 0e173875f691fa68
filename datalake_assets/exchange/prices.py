"""What securities of the synthetic market are worth, and what events do to it.

Here belong the price path, the factors by which events move raw prices, and the amounts that
follow from prices: dollars of a dividend, the terms of a merger. Bars, with their opens, ranges
and volumes, belong in `synthetic`; when things happen, in `events`.

A raw price is path × factor. The path is a Brownian motion that is known at any session without
the ones before it. The factor is the product of what each event up to the session leaves of a
dollar: 1 ÷ 2 of a split, 1 − D ÷ P of a dividend, less than that of a crash. Factors are computed
once, in one order, from operations that IEEE 754 rounds exactly.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from datalake_assets.exchange.draws import Floats, Words, draw, exp2, normal, unit
from datalake_assets.exchange.events import (
    DEALS,
    SHIFT,
    Events,
    Flags,
    Histories,
    Kind,
)
from datalake_assets.exchange.market import Ints

# The streams 1 … LEVELS are the levels of the price path.
LEVELS = 13  # 8,192 sessions: to the end of the market calendar and beyond
_CHARACTER, _SIZE, _YIELD, _TERMS, _DEALING = 48, 49, 50, 51, 52

_SHARES = (Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deals:
    """Ends whose terms are known: from `begin` the price is what the holders will get.

    Columns of equal length, by row.

    Attributes:
        row: The security that ends.
        begin: The session on which the market learns the terms.
        end: The first session without it.
        cash: Dollars a share.
        partner: Two securities of which its holders get shares; −1: none.
        ratio: How many of each for one of theirs; 0.0: none.
    """

    row: Ints
    begin: Ints
    end: Ints
    cash: Floats
    partner: tuple[Ints, Ints]
    ratio: tuple[Floats, Floats]


class Prices:
    """The prices of a market's securities.

    Attributes:
        volatility: Standard deviation of a day in log2.
        dollars: Traded on a usual day.
        prints: Of 65,536 sessions, in how many it prints.
        events: All that is told as corporate actions, amounts and terms in it.
        deals: The terms of ends.
        shocks: Rows, sessions and factors of jumps that no action explains, in order of time.
    """

    def __init__(self, histories: Histories) -> None:
        self._histories = histories
        self._keys = histories.keys
        # Requests come in bunches, for the same sessions of other securities.
        self._at_session = lru_cache(maxsize=64)(self._entries_on)
        self._characters()
        self._crash()
        events = histories.events
        entries = self._without_quarterly(events)
        self._keep(entries, np.ones(len(self._keys)))
        quarterly, factors = self._pay(events)
        row, session, _ = histories.quarterly
        entries = [*entries, (row << SHIFT | session, factors, np.ones(len(row)))]
        self._keep(entries, np.ones(len(self._keys)))
        self._keep(entries, self._spun_off_at(events))
        events = Events.concatenate([self._specials(events), quarterly])
        self.events = events.take(np.lexsort((events.kind, events.row, events.session)))
        self._agree()

    # Characters

    def _characters(self) -> None:
        """What each security is: volatility, price, size (arrays by row)."""
        histories, keys = self._histories, self._keys
        character = draw(keys, _CHARACTER, 0)
        wild = unit(character, 0)
        # 1 … 4 % a day, more names near the lower end.
        self.volatility = (0.01 + 0.03 * wild * wild) * 1.4426950408889634
        rank = unit(character, 1)
        rare = rank * rank * rank
        self._log2_price = 1.8 + 5.0 * unit(character, 2) + 4.5 * rare * rare * rare
        size = unit(draw(keys, _SIZE, 0), 0)
        fourth = size * size * size * size
        # Dollars a day, 2**15 ($33 thousand) … 2**31 ($2 billion): a few names are most of it.
        self.dollars = exp2(15.0 + 10.0 * size + 6.0 * fourth * fourth)
        # The smallest do not print every day.
        thin = np.minimum(1.0, 0.45 + 7.0 * size)
        self.prints = np.where(size < 0.08, np.floor(thin * 65_536), 65_536).astype(np.int64)
        self._yield = 0.002 + 0.01 * unit(draw(keys, _YIELD, 0), 0)  # a quarter
        # Prices that were split have risen before, and what is paid out was earned: the path
        # drifts by what its events take away.
        events = histories.events
        splits = np.isin(events.kind, _SHARES)
        drift = np.zeros(len(keys))
        for log2, (new, old) in _LOG2.items():
            of = splits & (events.new == new) & (events.old == old)
            np.add.at(drift, events.row[of], log2 / histories.end)
        self._drift = drift + np.where(histories.pays, self._yield * (1.4426950408889634 / 63), 0.0)

    def _crash(self) -> None:
        """Jumps without an action, and how those collapse who end worthless."""
        row, session, word = self._histories.shocks
        nervous = self.volatility[row] > 0.0175 * 1.4426950408889634
        row, session, word = row[nervous], session[nervous], word[nervous]
        rise = unit(word, 1)
        down = (word & 0xFF) < 150
        factor = np.where(down, 0.12 + 0.5 * rise, 1.65 + 2.4 * rise * rise)
        order = np.lexsort((row, session))
        self.shocks = (row[order], session[order], factor[order])
        self._shock_surge = exp2(2.5 + 5.0 * unit(word, 0))[order]

    # Factors

    def _without_quarterly(self, events: Events) -> "Entries":
        """What each event leaves of a dollar, and how many times the usual dollars trade then."""
        histories = self._histories
        kind = events.kind
        left = 1.0 - events.share
        split = np.isin(kind, _SHARES)
        left[split] = (events.old / events.new)[split]
        stock = kind == Kind.STOCK_DIVIDEND
        left[stock] = 1.0 / (1.0 + events.new[stock])
        counts = split | stock | (events.share > 0)
        entries: Entries = [
            (np.arange(len(self._keys)) << SHIFT, np.ones(len(self._keys)), None),
            ((events.row << SHIFT | events.session)[counts], left[counts], None),
        ]
        row, session, factor = self.shocks
        entries.append((row << SHIFT | session, factor, self._shock_surge))
        # A bankruptcy: one day on which everybody learns it, and four that leave little.
        worthless = np.flatnonzero(histories.ending == Kind.WORTHLESS_REMOVAL)
        begin = histories.quiet[worthless]
        for step, least in enumerate((0.1, 0.4, 0.4, 0.5, 0.5)):
            word = draw(self._keys[worthless], _TERMS, 100 + step)
            at = worthless << SHIFT | (begin + 6 * step)
            entries.append((at, least + 0.25 * unit(word, 0), exp2(1.0 + 4.0 * unit(word, 1))))
        deal = np.flatnonzero(np.isin(histories.ending, DEALS))
        news = np.full(len(deal), 8.0)
        entries.append((deal << SHIFT | histories.quiet[deal], np.ones(len(deal)), news))
        return entries

    def _keep(self, entries: "Entries", scale: Floats) -> None:
        """Makes the table of factors: after each entry, what is left of a dollar of the path."""
        at = np.concatenate([at for at, _, _ in entries])
        factor = np.concatenate([factor for _, factor, _ in entries])
        surge = np.concatenate(
            [np.ones(len(at)) if surge is None else surge for at, _, surge in entries]
        )
        order = np.lexsort((factor, at))
        at, surge = at[order], surge[order]
        left = _running_product(at >> SHIFT, factor[order]) * scale[at >> SHIFT]
        starts = np.flatnonzero(np.append(True, at[1:] != at[:-1]))
        ends = np.append(starts[1:], len(at)) - 1
        self._at, self._left = at[starts], left[ends]
        self._surge = np.maximum.reduceat(surge, starts)
        self._at_session.cache_clear()

    def entry(self, rows: Ints, session: Ints | int) -> Ints:
        """The place in the table of what counts on a session (broadcast)."""
        return np.searchsorted(self._at, rows << SHIFT | np.maximum(session, 0), side="right") - 1

    def _entries_on(self, session: int) -> Ints:
        return self.entry(np.arange(len(self._keys)), session)

    def factor(self, entry: Ints) -> Floats:
        """What is left of a dollar of the path."""
        left: Floats = self._left[entry]
        return left

    def surge(self, entry: Ints, rows: Ints, session: Ints) -> Floats:
        """How many times the usual dollars trade: on the day of the entry itself, and once."""
        today = self._at[entry] == (rows << SHIFT | session)
        return np.where(today, self._surge[entry], 1.0)

    def entries(self, rows: Ints, first: int, stop: int) -> Ints:
        """`entry` of rows × sessions. Most rows have one for the whole range."""
        if stop <= first:
            return np.zeros((len(rows), 0), np.int64)
        entry = self._at_session(first)[rows]
        if stop - first == 1:
            return entry[:, None]
        count = self._at_session(stop - 1)[rows] - entry
        steps = np.zeros((len(rows), stop - first), np.int64)
        steps[:, 0] = entry
        changing = np.flatnonzero(count)
        total = count[changing]
        which = np.repeat(changing, total)
        within = np.arange(len(which)) - np.repeat(np.cumsum(total) - total, total)
        day = (self._at[entry[which] + 1 + within] & ((1 << SHIFT) - 1)) - first
        steps[which, day] += 1
        return np.cumsum(steps, axis=1)

    # The path

    def path(self, rows: Ints, first: int, stop: int) -> Floats:
        """Prices before events at `first` − 1 … `stop` − 1: rows × (sessions + 1), in dollars.

        A Brownian motion in the logarithm, by Lévy's construction: on each level the middle of a
        dyadic interval moves off the line between its ends, by a normal number times half the
        root of its length. So any point is known without the ones before it. Above 512 sessions
        the root grows no more: prices roam over years, but come back.
        """
        time = np.arange(first, stop + 1)
        walk = np.zeros((len(rows), len(time)))
        for level in range(1, LEVELS + 1):
            cell = time >> level
            kicks = normal(draw(self._keys[rows, None], level, np.arange(cell[0], cell[-1] + 1)))
            walk += kicks[:, cell - cell[0]] * _tent(time, level)
        return self._dollars(walk, rows[:, None], time)

    def _path_at(self, rows: Ints, session: Ints) -> Floats:
        """Closing prices before events of these securities on these sessions: single points."""
        time = session + 1
        walk = np.zeros(len(rows))
        for level in range(1, LEVELS + 1):
            walk += normal(draw(self._keys[rows], level, time >> level)) * _tent(time, level)
        return self._dollars(walk, rows, time)

    def _dollars(self, walk: Floats, rows: Ints, time: Ints) -> Floats:
        walk *= self.volatility[rows]
        walk += self._drift[rows] * time
        walk += self._log2_price[rows]
        return np.clip(exp2(walk), 0.0005, 400_000.0)

    def closes(self, rows: Ints, session: Ints) -> Floats:
        """Closing prices, not yet on the tick; deals under way are not in them."""
        return self._path_at(rows, session) * self.factor(self.entry(rows, session))

    # Amounts

    def _pay(self, events: Events) -> tuple[Events, Floats]:
        """The quarterly dividends, and what each leaves of the price.

        A board sets dollars a share, keeps them, and once a year raises them by a tenth at most
        if the yield has fallen; after a collapse of the price it cuts. Amounts per share follow
        splits. One that would be more than 6 % of the price is cut on the spot.
        """
        row, session, quarter = self._histories.quarterly
        at = row << SHIFT | session
        before = self._path_at(row, session - 1) * self.factor(self.entry(row, session))
        split = np.isin(events.kind, (*_SHARES, Kind.STOCK_DIVIDEND))
        shares = self._shares(events.take(split), at)
        dollars, left = np.zeros(len(row)), np.ones(len(row))
        amount = np.zeros(len(self._keys))  # a share as of the listing; 0: nothing paid yet
        paid = np.ones(len(self._keys))  # what dividends have left of a dollar
        order = np.argsort(quarter, kind="stable")
        quarters = np.searchsorted(quarter[order], np.arange(1, quarter.max(initial=0) + 1))
        for now in np.split(order, quarters):
            of = row[now]
            price = before[now] * paid[of]
            aim = self._yield[of] * price / shares[now]
            had = amount[of]
            review = (quarter[now] + of) % 4 == 0
            raised = np.minimum(np.maximum(had, aim), had * 1.1)
            kept = np.where(review, np.where(aim < 0.4 * had, aim, raised), had)
            amount[of] = np.where(had == 0.0, aim, kept)
            cents = np.rint(amount[of] * shares[now] * 200.0) / 200.0
            fine = np.maximum(np.rint(amount[of] * shares[now] * 10_000.0), 1.0) / 10_000.0
            paying = np.where(cents >= 0.05, cents, fine)
            most = np.floor(price * 600.0) / 10_000.0
            dollars[now] = np.where(paying > 0.06 * price, most, paying)
            left[now] = 1.0 - dollars[now] / price
            paid[of] *= left[now]
        some = dollars > 0  # a price below a fifth of a cent leaves nothing to pay
        quarterly = Events.of(Kind.CASH_DIVIDEND, row[some], session[some], cash=dollars[some])
        return quarterly, left

    def _shares(self, splits: Events, at: Ints) -> Floats:
        """What splits have left of a share's claim at row << SHIFT | session."""
        left = np.where(
            splits.kind == Kind.STOCK_DIVIDEND, 1.0 / (1.0 + splits.new), splits.old / splits.new
        )
        base = np.arange(len(self._keys)) << SHIFT
        key = np.concatenate([base, splits.row << SHIFT | splits.session])
        order = np.argsort(key, kind="stable")
        product = _running_product(
            key[order] >> SHIFT, np.concatenate([np.ones(len(base)), left])[order]
        )
        shares: Floats = product[np.searchsorted(key[order], at, side="right") - 1]
        return shares

    def _spun_off_at(self, events: Events) -> Floats:
        """By how much each path is scaled: a spun-off company begins at what its parent lost."""
        spins = events.take(events.kind == Kind.SPIN_OFF)
        before = self.closes(spins.row, spins.session - 1)
        value = spins.share * before * spins.old / spins.new
        scale = np.ones(len(self._keys))
        scale[spins.other] = value / self.closes(spins.other, spins.session - 1)
        return scale

    def _specials(self, events: Events) -> Events:
        """The events, with the dollars of special dividends in them."""
        which = np.flatnonzero((events.kind == Kind.CASH_DIVIDEND) & events.special)
        row, session = events.row[which], events.session[which]
        split = events.take(np.isin(events.kind, (*_SHARES, Kind.STOCK_DIVIDEND)))
        today, before = (self._shares(split, row << SHIFT | at) for at in (session, session - 1))
        dollars = events.share[which] * self.closes(row, session - 1) * today / before
        cash = events.cash.copy()
        cash[which] = np.where(dollars >= 1.0, np.rint(dollars * 100.0) / 100.0, _fine(dollars))
        return replace(events, cash=cash)

    # Deals

    def _agree(self) -> None:
        """The terms of mergers, redemptions and the like, from prices of the day before."""
        events, histories = self.events, self._histories
        which = np.flatnonzero(np.isin(events.kind, DEALS))
        row, kind = events.row[which], events.kind[which]
        begin = histories.quiet[row]
        own = self.closes(row, begin - 1)
        word: Words = draw(self._keys[row], _TERMS, 0)
        premium = 1.1 + 0.5 * unit(word, 0)
        calm = np.isin(kind, (Kind.REDEMPTION, Kind.UNIT_SPLIT, Kind.REORGANIZATION))
        worth = own * np.where(calm, 1.005, premium)
        one, two = events.other[which], events.third[which]
        by_cash = (one < 0) | (kind == Kind.CASH_MERGER)
        in_cash = np.select(
            [by_cash, kind == Kind.STOCK_AND_CASH_MERGER, kind == Kind.REORGANIZATION],
            [1.0, 0.2 + 0.6 * unit(word, 1), 0.3],
            0.0,
        )
        in_two = np.where(two >= 0, 0.2, 0.0)
        cash = np.where(worth * in_cash >= 1.0, np.rint(worth * in_cash * 100.0) / 100.0, 0.0)
        cash = np.where((cash == 0.0) & (in_cash > 0), _fine(worth * in_cash), cash)
        first = _ratio(worth * (1.0 - in_cash - in_two), self.closes(np.maximum(one, 0), begin - 1))
        second = _ratio(worth * in_two, self.closes(np.maximum(two, 0), begin - 1))
        first = np.where(by_cash, 0.0, first)
        second = np.where(two < 0, 0.0, second)
        new, old, dollars = events.new.copy(), events.old.copy(), events.cash.copy()
        new[which], old[which], dollars[which] = first, second, cash
        self.events = replace(events, new=new, old=old, cash=dollars)
        order = np.argsort(row)
        self.deals = Deals(
            row=row[order],
            begin=begin[order],
            end=histories.ended[row[order]],
            cash=cash[order],
            partner=(one[order], two[order]),
            ratio=(first[order], second[order]),
        )

    def is_dealing(self, rows: Ints, session: Ints) -> Flags:
        """Whether the terms of a deal make the price of these securities on these sessions."""
        of: Flags = np.isin(self._histories.ending[rows], DEALS)
        of &= session >= self._histories.quiet[rows]
        return of

    def dealt(self, rows: Ints, session: Ints) -> Floats:
        """What securities under a deal close at, not yet on the tick.

        The worth of the terms, less a spread that melts to nothing, and a little noise.
        """
        deals = self.deals
        at = np.searchsorted(deals.row, rows)
        worth = deals.cash[at]
        shares = np.concatenate([ratio[at] for ratio in deals.ratio])
        some = np.flatnonzero(shares)
        if len(some):
            partner = np.concatenate([partner[at] for partner in deals.partner])[some]
            shares[some] *= self.closes(partner, np.concatenate([session, session])[some])
            worth = worth + shares[: len(at)] + shares[len(at) :]
        word = draw(self._keys[rows], _DEALING, session)
        length = deals.end[at] - deals.begin[at]
        spread = 0.03 * np.maximum(deals.end[at] - 1 - session, 0) / length
        dealt: Floats = worth * (1.0 - spread) * (1.0 + 0.002 * (unit(word, 0) - 0.5))
        return dealt


Entries = list[tuple[Ints, Floats, Floats | None]]

_LOG2 = {
    1.0: (2, 1),
    1.5849625007211562: (3, 1),
    0.5849625007211562: (3, 2),
    2.0: (4, 1),
    3.3219280948873626: (10, 1),
    -2.321928094887362: (1, 5),
    -3.3219280948873626: (1, 10),
    -4.321928094887363: (1, 20),
}


def _tent(time: Ints, level: int) -> Floats:
    period = 1 << level
    into = time & (period - 1)
    tent: Floats = np.minimum(into, period - into) * (math.sqrt(min(period, 512)) / period)
    return tent


def _running_product(row: Ints, factor: Floats) -> Floats:
    """The product of each row's factors up to each; rows are sorted. In one order everywhere."""
    product = factor.copy()
    place = np.arange(len(row)) - np.searchsorted(row, row)
    order = np.argsort(place, kind="stable")
    last = int(place.max(initial=0))
    for now in np.split(order, np.searchsorted(place[order], np.arange(1, last + 1)))[1:]:
        product[now] = product[now - 1] * product[now]
    return product


def _ratio(worth: Floats, price: Floats) -> Floats:
    """How many shares at `price` are worth so much: four decimals, six of few."""
    ratio = worth / price
    fine = np.maximum(np.rint(ratio * 1_000_000.0), 1.0) / 1_000_000.0
    return np.where(ratio >= 0.1, np.rint(ratio * 10_000.0) / 10_000.0, fine)


def _fine(dollars: Floats) -> Floats:
    fine: Floats = np.maximum(np.rint(dollars * 10_000.0), 1.0) / 10_000.0
    return fine
