"""What the source gets wrong on purpose: actions that are not as they were, bars that are not so.

Here belong the mistakes that are known of the real source, each by a name, and how they change
what is on record. The truth stays in the market; faults of the connection are in `faults`.

Without errata the exchange makes no mistake.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, get_args

import numpy as np

from datalake_assets import market_calendar
from datalake_assets.exchange.actions import Action, Edit, Register
from datalake_assets.exchange.draws import draw, unit
from datalake_assets.exchange.events import Flags, Kind
from datalake_assets.exchange.market import Bars, Market
from datalake_assets.exchange.minutes import DAY, OPEN, MinuteBars

Mistake = Literal[
    # Of actions. The examples are Alpaca's.
    "ratio_as_split",  # a spin-off's share ratio is entered as a split (APD 2016-10-03)
    "missing",  # there is no such action (GE 2019-02-26)
    "twice",  # a split is listed once more for the next session (HLT 2017-01-03 and -04)
    "inverted",  # reverse instead of forward, and the other way round (DOV 2018-05-09)
    "listed_twice",  # a dividend is listed twice on its day, under two ids
    "applied_twice",  # a dividend is listed once, adjusted bars apply it twice (PFE 2023-07-26)
    "corrected",  # `rate` until `at`, the true one later; adjusted bars keep it (TPG 2026-02-19)
    "excessive",  # a dividend of more than the price: cents entered as dollars
    "vanishes",  # not listed any more from `at` on
    "late",  # not listed before `at`
    # Of bars.
    "zero_volume",  # the day's bar has no volume and the close before (MRBK 2023-03-21)
    "tenth",  # the day's prices are a tenth of the true ones
    "low_restated",  # until `at`, the low is that of a sale that is cancelled (EDSA 2025-02-13)
    "late_trade",  # the day's bar has a tenth more volume, by a trade that no minute has
    "stray_high",  # the day's high is above that of every minute
    # Of minutes; the day's bar is right.
    "few_minutes",  # five minutes are left of the session, until it is filled in
    "missing_hour",  # an hour is missing, of all symbols if it is said of `*`
    "cancelled_trade",  # the busiest minute has a trade of a tenth of the day's volume too many
]
"""A mistake about bars ends at `at`, if it has one."""
OF_MINUTES = frozenset[str](get_args(Mistake)[-3:])
OF_BARS = frozenset[str](get_args(Mistake)[-8:])

_SPLITS = (Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT)
_OF = {
    "ratio_as_split": (Kind.SPIN_OFF,),
    "twice": _SPLITS,
    "inverted": _SPLITS,
    "listed_twice": (Kind.CASH_DIVIDEND,),
    "applied_twice": (Kind.CASH_DIVIDEND,),
    "corrected": (Kind.CASH_DIVIDEND,),
    "excessive": (Kind.CASH_DIVIDEND,),
}
_NEEDS_INSTANT = ("corrected", "vanishes", "late", "low_restated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Erratum:
    """One mistake.

    Attributes:
        mistake: Which.
        symbol: The ticker under which the security trades on `day`.
        day: The day on which the action counts (ex-date, effective date), or of the bars.
        kind: Which of the day's actions, when there are several; `None`: the first that can
            have the mistake.
        at: The instant of a change, where there is one; aware.
        rate: Dollars that are listed instead of the true ones, where there are any.
        hour: Which hour is missing: that of New York's clock in which its minutes begin.
    """

    mistake: Mistake
    symbol: str
    day: date
    kind: Kind | None = None
    at: datetime | None = None
    rate: float | None = None
    hour: int = 11

    def __post_init__(self) -> None:
        if self.mistake not in get_args(Mistake):
            raise ValueError(
                f"mistake={self.mistake!r}: an erratum is one of {', '.join(get_args(Mistake))}"
            )
        if self.mistake in _NEEDS_INSTANT and (self.at is None or self.at.tzinfo is None):
            raise ValueError(f"{self}: it needs `at`, an instant with a time zone")
        if self.mistake == "corrected" and self.rate is None:
            raise ValueError(f"{self}: it needs `rate`, the dollars that are listed at first")
        if not 4 <= self.hour <= 19:
            raise ValueError(f"{self}: hour={self.hour}: what is traded begins in the hours 4 … 19")
        if self.symbol == "*" and self.mistake != "missing_hour":
            raise ValueError(f"{self}: only missing_hour can be of all symbols; name one")

    def __str__(self) -> str:
        return f"{self.mistake} {self.symbol} {self.day}"


class Errata:
    """Mistakes that an exchange makes.

    Args:
        given: The mistakes; or what makes them of a register, once there is one.
    """

    def __init__(
        self, given: Iterable[Erratum] | Callable[[Register], Iterable[Erratum]] = ()
    ) -> None:
        self._given = given if callable(given) else tuple(given)

    def of(self, register: Register) -> "tuple[Erratum, ...]":
        """The mistakes, about the actions of a register."""
        return tuple(self._given(register)) if callable(self._given) else self._given

    def edits(self, register: Register) -> list[Edit]:
        """What they change of the actions on record.

        Raises:
            ValueError: there is no such action to be wrong about.
        """
        errata = [erratum for erratum in self.of(register) if erratum.mistake not in OF_BARS]
        return [edit for erratum in errata for edit in _edits(erratum, register)]

    def blemishes(self, market: Market, register: Register) -> "Blemishes":
        """What they change of bars.

        Raises:
            ValueError: the market has no session on that day.
        """
        of_bars = [erratum for erratum in self.of(register) if erratum.mistake in OF_BARS]
        return Blemishes(market, of_bars)


def _edits(erratum: Erratum, register: Register) -> Iterator[Edit]:
    kinds = _OF.get(erratum.mistake, tuple(Kind)) if erratum.kind is None else (erratum.kind,)
    index = register.find(erratum.symbol, erratum.day, kinds)
    if index is None:
        names = " or ".join(kind.singular for kind in kinds) if len(kinds) < 4 else "action"
        raise ValueError(
            f"{erratum}: {erratum.symbol} has no {names} on {erratum.day} to be wrong about"
        )
    true, told = register.action(index), register.told_from(index)
    mistake, at = erratum.mistake, erratum.at
    if mistake == "missing":
        yield Edit(hides=index)
    elif mistake == "vanishes":
        yield Edit(hides=index, since=at)
    elif mistake == "late":
        yield Edit(hides=index, until=at)
    elif mistake == "twice":
        yield Edit(shows=_next_session(true), since=told)
    elif mistake == "listed_twice":
        yield Edit(shows=_again(true), since=told)
    elif mistake == "applied_twice":
        yield Edit(shows=true, since=told, listed=False)
    elif mistake == "corrected":
        wrong = replace(true, row=true.row | {"rate": erratum.rate})
        yield Edit(hides=index, shows=wrong, since=told, until=at)
        yield Edit(hides=index, shows=wrong, since=at, listed=False)
    elif mistake == "excessive":
        rate = true.row["rate"] * 100 if erratum.rate is None else erratum.rate
        wrong = replace(true, row=true.row | {"rate": rate})
        yield Edit(hides=index, shows=wrong, since=told)
    elif mistake == "inverted":
        new, old = true.row["old_rate"], true.row["new_rate"]
        yield Edit(hides=index, shows=_split(true, new, old), since=told)
    elif mistake == "ratio_as_split":
        new, old = true.row["new_rate"], true.row["source_rate"]
        yield Edit(hides=index, shows=_split(true, new, old), since=told)


def _again(true: Action, **changed: Any) -> Action:
    """The action once more, as another one."""
    identity = true.row["id"]
    other = identity[:-12] + identity[-12:][::-1]
    return replace(true, row=true.row | {"id": other} | changed)


def _next_session(true: Action) -> Action:
    day = next(
        day
        for day in market_calendar.sessions(true.counts, true.counts + timedelta(days=10))
        if day > true.counts
    )
    dates = {"ex_date": day.isoformat(), "process_date": day.isoformat()}
    return replace(_again(true, **dates), counts=day)


def _split(true: Action, new: float, old: float) -> Action:
    """A split of that ratio in place of the action."""
    row = true.row
    symbol = row.get("symbol") or row["source_symbol"]
    cusip = row.get("cusip") or row.get("source_cusip") or row.get("old_cusip")
    kind = Kind.REVERSE_SPLIT if new < old else Kind.FORWARD_SPLIT
    names = (
        {"old_cusip": cusip, "new_cusip": row.get("new_cusip", cusip)}
        if kind == Kind.REVERSE_SPLIT
        else {"cusip": cusip}
    )
    kept = {name: row[name] for name in ("id", "process_date", "ex_date")}
    return replace(
        true, kind=kind, row=kept | {"symbol": symbol, "new_rate": new, "old_rate": old} | names
    )


class Blemishes:
    """Wrong bars."""

    def __init__(self, market: Market, errata: Sequence[Erratum]) -> None:
        self._errata = []
        for erratum in errata:
            try:
                session = list(market.sessions).index(erratum.day)
            except ValueError as error:
                raise ValueError(f"{erratum}: the market has no session on that day") from error
            # Who trades under it that day; of a mapping, it is known from the next.
            security = market.held(erratum.symbol, erratum.day + timedelta(days=1))
            self._errata.append((erratum, session, security))
        self._market = market

    def on(self, bars: Bars, held: Callable[[str], int | None], now: datetime) -> Bars:
        """The bars with the mistakes in them.

        Args:
            bars: True ones.
            held: Which security a symbol of theirs means; `None`: what traded under it.
            now: What is restated by now is right.
        """
        for erratum, session, security in self._errata:
            if erratum.mistake in OF_MINUTES or not _stands(erratum, now):
                continue
            for at, symbol in enumerate(bars.symbols):
                if _is_of(erratum, security, symbol, held):
                    rows = np.flatnonzero((bars.symbol == at) & (bars.session == session))
                    bars = self._blemish(erratum, session, bars, rows)
        return bars

    def of_minutes(
        self, held: Callable[[str], int | None], now: datetime
    ) -> Callable[[MinuteBars], MinuteBars] | None:
        """What puts the mistakes into the minutes of whole days; `None`: there are none."""
        standing = [
            each for each in self._errata if each[0].mistake in OF_MINUTES and _stands(each[0], now)
        ]

        def blemished(minutes: MinuteBars) -> MinuteBars:
            for erratum, session, security in standing:
                bars = minutes.bars
                symbols = [
                    at
                    for at, symbol in enumerate(bars.symbols)
                    if _is_of(erratum, security, symbol, held)
                ]
                rows = (bars.session // DAY == session) & np.isin(bars.symbol, symbols)
                if rows.any():
                    minutes = _blemish_minutes(erratum, minutes, rows)
            return minutes

        return blemished if standing else None

    def _blemish(self, erratum: Erratum, session: int, bars: Bars, rows: Any) -> Bars:
        columns = {name: getattr(bars, name).copy() for name in _COLUMNS}
        prices = ("open", "high", "low", "close", "vwap")
        if erratum.mistake == "tenth":
            for name in prices:
                columns[name][rows] = np.maximum(columns[name][rows] // 1_000, 1) * 100
        elif erratum.mistake == "late_trade":
            columns["volume"][rows] += columns["volume"][rows] // 10 + 1
            columns["trade_count"][rows] += 1
        elif erratum.mistake == "stray_high":
            columns["high"][rows] = -(-columns["high"][rows] * 104 // 1_000_000) * 10_000
        elif erratum.mistake == "low_restated":
            low = columns["low"][rows] * 96 // 100
            columns["low"][rows] = np.maximum(low // 10_000, 1) * 10_000
        else:
            before = self._market.bars([erratum.symbol], max(0, session - 30), session)
            for name in prices:
                columns[name][rows] = before.close[-1] if len(before) else columns["open"][rows]
            columns["volume"][rows] = 0
            columns["trade_count"][rows] = 0
        return replace(bars, **columns)


def _stands(erratum: Erratum, now: datetime) -> bool:
    return erratum.at is None or now < erratum.at


def _is_of(
    erratum: Erratum, security: int | None, symbol: str, held: Callable[[str], int | None]
) -> bool:
    """Whether a mistake is about bars under a symbol."""
    if erratum.symbol == "*":
        return True
    means = held(symbol)
    return symbol == erratum.symbol if means is None else means == security


def _blemish_minutes(erratum: Erratum, minutes: MinuteBars, rows: Flags) -> MinuteBars:
    """The minutes with a mistake about some of them, which are of one session."""
    bars = minutes.bars
    if erratum.mistake == "missing_hour":
        return minutes.take(np.flatnonzero(~rows | (bars.session % DAY // 60 != erratum.hour)))
    if erratum.mistake == "few_minutes":
        regular = rows & (bars.session % DAY >= OPEN)
        return minutes.take(np.sort(np.append(np.flatnonzero(~rows), np.flatnonzero(regular)[:5])))
    (mine,) = np.nonzero(rows)
    busiest = mine[np.argmax(bars.volume[mine])]
    volume, count = bars.volume.copy(), bars.trade_count.copy()
    volume[busiest] += bars.volume[mine].sum() // 10 + 1
    count[busiest] += 1
    return replace(minutes, bars=replace(bars, volume=volume, trade_count=count))


_COLUMNS = ("open", "high", "low", "close", "vwap", "volume", "trade_count")


def random_errata(rate: float, seed: int = 0) -> Errata:
    """A share of the actions is wrong; which, and how, is a function of (seed, position).

    Args:
        rate: The share of splits and spin-offs, 0 … 1; of the many dividends, a twentieth of it.
            About 0.01 is what users of the real source report.
        seed: Which draw.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: the share of wrong actions is 0 … 1")

    def drawn(register: Register) -> Iterator[Erratum]:
        key = np.array([seed], np.uint64)
        words = draw(key, 1, np.arange(len(register)))
        chance, pick = unit(words, 0), unit(words, 1)
        for index in np.flatnonzero(chance < rate).tolist():
            action = register.action(index)
            mistakes = _RANDOM.get(action.kind, ())
            if not mistakes or (action.kind == Kind.CASH_DIVIDEND and chance[index] >= rate / 20):
                continue
            mistake = mistakes[int(pick[index] * len(mistakes))]
            at = datetime.combine(action.counts + timedelta(days=10), time(12), UTC)
            wrong = round(float(action.row.get("rate", 0.0)) * 1.07 + 0.01, 4)
            yield Erratum(
                mistake=mistake,
                symbol=action.row.get("symbol") or action.row["source_symbol"],
                day=action.counts,
                kind=action.kind,
                at=at,
                rate=wrong if mistake == "corrected" else None,
            )

    return Errata(drawn)


_RANDOM: dict[Kind, tuple[Mistake, ...]] = {
    Kind.SPIN_OFF: ("ratio_as_split", "ratio_as_split", "missing"),
    Kind.FORWARD_SPLIT: ("missing", "twice", "inverted", "late"),
    Kind.REVERSE_SPLIT: ("missing", "twice", "inverted", "late"),
    Kind.CASH_DIVIDEND: (
        "listed_twice",
        "applied_twice",
        "corrected",
        "excessive",
        "vanishes",
        "late",
    ),
}


def read_errata(text: str) -> Errata:
    """Errata as JSON.

    An object is random: `{"rate": 0.01, "seed": 1}`. A list names them:
    `[{"mistake": "twice", "symbol": "ABC", "day": "2024-05-06"}]`, an `Erratum` each, with `at`
    as an instant with its offset and `kind` by its name, such as `forward_split`.

    Raises:
        ValueError: it is neither.
    """
    try:
        given = json.loads(text)
        if isinstance(given, list):
            return Errata(_erratum(**each) for each in given)
        return random_errata(**given)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"the errata {text!r} cannot be read: {error}; give for example "
            '{"rate": 0.01, "seed": 1} or '
            '[{"mistake": "missing", "symbol": "ABC", "day": "2024-05-06"}]'
        ) from error


def _erratum(
    mistake: Mistake,
    symbol: str,
    day: str,
    kind: str | None = None,
    at: str | None = None,
    rate: float | None = None,
    hour: int = 11,
) -> Erratum:
    return Erratum(
        mistake=mistake,
        symbol=symbol,
        day=date.fromisoformat(day),
        kind=None if kind is None else Kind[kind.upper()],
        at=None if at is None else datetime.fromisoformat(at),
        rate=rate,
        hour=hour,
    )
