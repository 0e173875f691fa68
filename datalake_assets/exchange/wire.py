"""How Alpaca writes things: bars as JSON, page tokens, instants.

Here belongs the text of the wire, both ways; what to answer belongs in `server`. The facts were
recorded from the live API: compact JSON, a bar's keys in alphabetical order, integral prices as
JSON integers (`1105`), a symbol without bars without a key, a bar stamped with its beginning in
UTC, a daily one with New York's midnight.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import cache
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt

from datalake_assets import market_calendar
from datalake_assets.exchange.market import DOLLAR, Bars, Ints

Text = npt.NDArray[np.uint32]  # four characters an item, NUL where there is none

SECOND = 1_000_000_000  # nanoseconds
_MINUTE = 60 * SECOND
_DAY = 1_440  # minutes
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)?(?:[Zz]|([+-])(\d\d):(\d\d))"
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def nanoseconds(instant: datetime) -> int:
    """Nanoseconds since 1970 of an aware instant, exactly."""
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds * 1_000


def parse_instant(text: str, parameter: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 instant, or of New York's midnight of a YYYY-MM-DD.

    Which midnight Alpaca means by a bare date is not published; in New York's, the daily bar of
    the date lies within inclusive bounds.

    Raises:
        ValueError: with the text that Alpaca answers.
    """
    try:
        if _DATE.fullmatch(text):
            day = datetime.combine(date.fromisoformat(text), time.min, ZoneInfo("America/New_York"))
            return nanoseconds(day)
        if match := _RFC3339.fullmatch(text):
            *clock, fraction, sign, hours, minutes = match.groups()
            offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
            zone = timezone(-offset if sign == "-" else offset)
            year, month, day_, hour, minute, second = map(int, clock)
            whole = datetime(year, month, day_, hour, minute, second, tzinfo=zone)
            return nanoseconds(whole) + int((fraction or "0").ljust(9, "0"))
    except ValueError:
        pass  # a 13th month, a 25th hour: the same complaint as below
    raise ValueError(
        f"Invalid format for parameter {parameter}: error parsing '{text}' as RFC3339 or "
        f'2006-01-02 time: parsing time "{text}" as "2006-01-02": cannot parse "{text}" as "2006"'
    )


class Times(Protocol):
    """The instants that bars of one length carry; a bar's `session` is a place among them."""

    def instants(self, places: Ints) -> Ints:
        """Nanoseconds since 1970."""

    def spelt(self, places: Ints) -> Sequence[npt.NDArray[np.bytes_]]:
        """Columns that together spell the instants as on the wire (`2026-09-03T04:00:00Z`)."""

    def place(self, instant: int, *, after: bool = False) -> int:
        """The first place whose instant is not before this one; `after`: the first after it."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """The instants that daily bars carry, one per session: New York's midnight.

    `at` in nanoseconds since 1970, ascending; `text` as on the wire (`2026-09-03T04:00:00Z`).
    """

    at: Ints
    text: npt.NDArray[np.bytes_]

    @classmethod
    def of(cls, sessions: Sequence[date]) -> "Stamps":
        """The stamps of `sessions`; `ValueError` when one of the days is no session."""
        at = np.array([nanoseconds(market_calendar.session_stamp(day)) for day in sessions])
        text = np.datetime_as_string((at // SECOND).astype("datetime64[s]"), timezone="UTC")
        return cls(at.astype(np.int64), text.astype("S20"))

    def instants(self, places: Ints) -> Ints:
        """See `Times`."""
        return self.at[places]

    def spelt(self, places: Ints) -> Sequence[npt.NDArray[np.bytes_]]:
        """See `Times`."""
        return (self.text[places],)

    def place(self, instant: int, *, after: bool = False) -> int:
        """See `Times`."""
        return int(np.searchsorted(self.at, instant, "right" if after else "left"))


class MinuteStamps:
    """The instants of the minutes of sessions: a place is session × 1,440 + minute of the day.

    Args:
        midnights: Stamps of the sessions.
        every: How many minutes a bar is long; places of bars are multiples of it, within a day.
    """

    def __init__(self, midnights: Stamps, every: int = 1) -> None:
        self._midnights, self._every = midnights.at, every
        self._minutes = midnights.at // _MINUTE

    def instants(self, places: Ints) -> Ints:
        """See `Times`."""
        return self._midnights[places // _DAY] + places % _DAY * _MINUTE

    def spelt(self, places: Ints) -> Sequence[npt.NDArray[np.bytes_]]:
        """See `Times`."""
        minutes = self._minutes[places // _DAY] + places % _DAY
        day = minutes // _DAY
        days, clock = _minute_words()
        return days[day], clock[minutes - day * _DAY]

    def place(self, instant: int, *, after: bool = False) -> int:
        """See `Times`."""
        session = int(np.searchsorted(self._midnights, instant, "right")) - 1
        if session < 0:
            return 0
        since, step = instant - int(self._midnights[session]), self._every * _MINUTE
        steps = since // step + 1 if after else -(-since // step)
        return session * _DAY + min(steps * self._every, _DAY)


@cache
def _minute_words() -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.bytes_]]:
    """The days since 1970 and the minutes of a day as the wire spells them."""
    last = (market_calendar.LAST - date(1970, 1, 1)).days + 2
    days = np.datetime_as_string(np.arange(last).astype("datetime64[D]"))
    clock = [f"T{minute // 60:02d}:{minute % 60:02d}:00Z".encode() for minute in range(_DAY)]
    return days.astype("S10"), np.array(clock, "S10")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: at the first bar of `symbol` not before `at` (nanoseconds).

    In descending order: not after it. `unit` tells how long the bars are: D for days and years,
    M for minutes. That bars of hours have M, too, is inferred.
    """

    symbol: str
    at: int
    unit: str = "D"

    def token(self) -> str:
        """The page token; to a client it is opaque."""
        return base64.b64encode(f"{self.symbol}|{self.unit}|{self.at}".encode()).decode()

    @classmethod
    def parse(cls, token: str) -> "Position":
        """The position that a token stands for.

        Raises:
            ValueError: it is no token of ours.
        """
        try:
            symbol, unit, at = base64.b64decode(token, validate=True).decode().split("|")
            if unit not in ("D", "M"):
                raise ValueError(unit)
            return cls(symbol, int(at), unit)
        except (binascii.Error, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"invalid page_token: {token}") from error


def pages_json(bars: Bars, stamps: Times, token: str | None, *, currency: str | None) -> bytes:
    """The body of `/v2/stocks/bars`: bars by symbol."""
    ending = _ending(token, currency)
    lists: list[bytes | memoryview] = []
    if len(bars):
        starts = np.ones(len(bars), bool)
        starts[1:] = bars.symbol[1:] != bars.symbol[:-1]
        rows, end = _bars(bars, stamps, starts), 0
        whole = memoryview(rows)  # a megabyte is not copied once more
        for at in bars.symbol[starts].tolist():
            begin, end = end + 1, rows.find(_BEGIN, end + 1)
            of = whole[begin:] if end < 0 else whole[begin:end]
            lists += (b',"', bars.symbols[at].encode(), b'":[', of, b"]")
        lists[0] = b'"'
    return b"".join((b'{"bars":{', *lists, b"}", ending))


def page_json(
    symbol: str, bars: Bars, stamps: Times, token: str | None, *, currency: str | None
) -> bytes:
    """The body of `/v2/stocks/{symbol}/bars`: one symbol's bars."""
    ending = b',"symbol":' + msgspec.json.encode(symbol) + _ending(token, currency)
    starts = np.arange(len(bars)) == 0
    return b'{"bars":[' + _bars(bars, stamps, starts)[1:] + b"]" + ending


def odd_page(kind: str, body: bytes, symbol: str | None) -> bytes | None:
    """A page of `/v2/stocks/bars` with one odd item, as `faults.ODD_KINDS` has them.

    Args:
        kind: What is odd.
        body: The page as it should be.
        symbol: Whose item it is; None: the first symbol's.

    Returns:
        The page; None when it can't have such an item, as it lacks the symbol's bars.
    """
    told = msgspec.json.decode(body)
    bars = told["bars"]
    if (name := symbol or min(bars, default="")) not in bars:
        return None
    first, *rest = bars[name]
    daily = first["t"].endswith(("T04:00:00Z", "T05:00:00Z"))  # nobody trades at these hours
    changed = {
        "odd_time": {"t": first["t"][: 11 if daily else 17] + ("14:30:00Z" if daily else "30Z")},
        "unreadable_time": {"t": ""},
        "odd_volume": {"v": -1},
        "fractional_volume": {"v": first["v"] + 0.5},
        "no_statistics": {"n": None, "vw": None},
    }
    listed = list(bars.items())
    place = listed.index((name, bars[name]))
    if kind in changed:
        listed[place] = (name, [first | changed[kind], *rest])
    elif kind == "null_symbol":
        listed[place] = (name, None)
    elif kind == "other_case":
        listed[place] = (name.lower(), bars[name])
    elif kind == "stranger":
        listed.append(("ZZZZZZ", bars[name]))
    elif kind == "symbol_twice":
        listed[place : place + 1] = [(name, [first]), (name, rest)]
    elif told["next_page_token"] is None:
        told["next_page_token"] = ""
    else:
        return None
    pairs = (msgspec.json.encode(key) + b":" + msgspec.json.encode(value) for key, value in listed)
    del told["bars"]
    return b'{"bars":{' + b",".join(pairs) + b"}," + msgspec.json.encode(told)[1:]


def _ending(token: str | None, currency: str | None) -> bytes:
    tail = {"currency": currency, "next_page_token": token}
    if currency is None:
        del tail["currency"]  # the key appears only when it was asked for
    return b"," + msgspec.json.encode(tail)[1:]


def _bars(bars: Bars, stamps: Times, starts: npt.NDArray[np.bool_]) -> bytes:
    """Bars as JSON objects, each after a comma; where a list starts, after `_BEGIN`.

    A table of text, one row per bar, is filled column by column; what is shorter than its column
    leaves NULs, and these are dropped at the end. It costs a third of encoding object by object.
    """
    if not len(bars):
        return b""
    columns: list[bytes | npt.NDArray[Any]] = [
        _BEGINS[starts.astype(np.intp)],
        b'{"c":', *_decimal(bars.close),
        b',"h":', *_decimal(bars.high),
        b',"l":', *_decimal(bars.low),
        b',"n":', *_integer(bars.trade_count),
        b',"o":', *_decimal(bars.open),
        b',"t":"', *stamps.spelt(bars.session),
        b'","v":', *_integer(bars.volume),
        b',"vw":', *_decimal(bars.vwap),
        b"}",
    ]  # fmt: skip
    kinds = [f"S{len(each)}" if isinstance(each, bytes) else each.dtype for each in columns]
    table = np.zeros(1, [(str(index), kind) for index, kind in enumerate(kinds)])
    for index, column in enumerate(columns):
        if isinstance(column, bytes):
            table[str(index)] = column
    table = np.repeat(table.view(f"V{table.itemsize}"), len(bars)).view(table.dtype)
    for index, column in enumerate(columns):
        if not isinstance(column, bytes):
            table[str(index)] = column
    return table.tobytes().translate(None, b"\0")


_BEGIN = b"\x01"
_BEGINS = np.array([b",", _BEGIN])


def _decimal(millionths: Ints) -> Iterator[npt.NDArray[Any]]:
    """Columns that spell millionths as decimals: no trailing zeros, an integral one no point.

    From 0 up to 99,999,999 whole units. A column in which every row is empty is left out.
    """
    cents = millionths // 10_000
    if cents.max() < _CENTS and (cents * 10_000 == millionths).all():
        yield _cent_words()[cents]
        return
    full, bare, fraction = _words()
    whole = millionths // DOLLAR
    part = millionths - whole * DOLLAR
    thousandths = part // 1_000
    rest = part - thousandths * 1_000
    if whole.max() < 10_000:
        yield bare[whole]
    else:
        myriads = whole // 10_000
        units = whole - myriads * 10_000
        yield np.where(myriads > 0, bare[myriads], 0)
        yield np.where(myriads > 0, full[units], bare[units])
    if rest.any():
        yield fraction[thousandths + 1_000 * (rest > 0)]
        yield fraction[rest + 2_000]
    else:
        yield fraction[thousandths]


def _integer(numbers: Ints) -> Iterator[Text]:
    """Columns that spell whole numbers, not negative: four digits each, as many as it takes."""
    full, bare, _ = _words()
    groups: list[Ints] = []
    while not groups or numbers.any():
        higher = numbers // 10_000
        groups.append(numbers - higher * 10_000)
        numbers = higher
    begun = np.zeros(len(numbers), bool)
    for group in reversed(groups[1:]):
        yield np.where(begun, full[group], np.where(group > 0, bare[group], 0))
        begun |= group > 0
    yield np.where(begun, full[groups[0]], bare[groups[0]])


_CENTS = 1_000_000  # from 0: prices below ten thousand dollars are one look-up


@cache
def _cent_words() -> npt.NDArray[np.uint64]:
    """Eight characters each: 0 … 9999.99."""
    _, bare, fraction = _words()
    whole = bare[np.arange(_CENTS) // 100]
    rest = fraction[np.arange(_CENTS) % 100 * 10]
    return np.column_stack([whole, rest]).view(np.uint64).ravel()


@cache
def _words() -> tuple[Text, Text, Text]:
    """Four characters each: 0 … 9999 with leading zeros, without, and pieces of a fraction.

    A fraction's first three digits, after the point, are at `n` if nothing follows, at 1,000 + `n`
    if more does; its last three at 2,000 + `n`.
    """
    last = [b"%03d" % n for n in range(1_000)]
    fraction = [b"." + digits.rstrip(b"0") if n else b"" for n, digits in enumerate(last)]
    fraction += [b"." + digits for digits in last] + [digits.rstrip(b"0") for digits in last]
    full, bare = [b"%04d" % n for n in range(10_000)], [b"%d" % n for n in range(10_000)]
    return _text(full), _text(bare), _text(fraction)


def _text(words: list[bytes]) -> Text:
    return np.array(words, "S4").view(np.uint32)
