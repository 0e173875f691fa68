"""A page of bars, from the bytes that the source sends to Arrow.

Belongs here: the shape of the answer and the meaning of its fields. Does not belong here: HTTP,
or which page comes next.

There are three ways, and each reads what the one before it refuses, to the same bars:

1. `decode_regular`: C (`_pages.c`), for a page exactly as Alpaca writes it. It holds no lock of
   Python's, so pages are decoded while other threads run. It is there if a compiler was, when this
   was installed.
2. `decode`: typed structs, for whatever is otherwise in order. They take a page whole or not at
   all. A Python object per bar that lives longer than its page would cost memory and time
   (alpaca-py's models take 1.3 KB and 20 µs a bar), so they live outside of the garbage collection
   and become eight columns at once.
3. Item by item, so that an odd one costs nothing but itself.

The first two give instants. Whether a dataset's bars can start then, and in which session, is
looked at afterwards (`Starts`): a daily bar starts at midnight in New York, and others on a full
minute.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datalake_assets.collection.bars import NO_COUNT, SCHEMA, Columns, Ints, empty
from datalake_assets.collection.collect import OddItem, Page
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.errors import UnreadableError
from datalake_assets.sources.text import line, visible

Parse = Callable[[bytes], tuple[tuple[str, ...], bytes, bytes, str | None] | None]

COMPILED: Parse | None
"""Reads a regular page; None where there was no compiler. `_pages.pyi` says what it returns."""

try:
    from datalake_assets.sources import _pages
except ImportError:
    COMPILED = None
else:
    COMPILED = _pages.parse

_NEW_YORK = ZoneInfo("America/New_York")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_DAY = 86_400_000_000  # microseconds
_MINUTE = 60_000_000
_MICROSECOND = timedelta(microseconds=1)
_DAYS = date(2200, 1, 1).toordinal() - _EPOCH_DAY  # bars from then on are read item by item

_MOST = (1 << 63) - 1  # what an Arrow int64 holds; more would be a crash here
Days = npt.NDArray[np.int32]
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]

_ROW = struct.Struct("qdddddqq")  # the columns of a bar, from `instant` to `trade_count`
_WIDTH = 8


class Bar(msgspec.Struct, gc=False, kw_only=True):
    """A bar as Alpaca names its parts."""

    # In the order of the wire, where msgspec finds each name at once (a fifth faster).
    c: float
    h: float
    l: float  # noqa: E741 - Alpaca's own name
    n: _Count | None = None
    o: float
    t: str
    v: _Count
    vw: float | None = None


class _Bars(msgspec.Struct):
    bars: dict[str, list[Bar]] | None
    next_page_token: str | None


class _Stamp(msgspec.Struct, gc=False):
    t: str


class _Stamps(msgspec.Struct):
    bars: dict[str, list[_Stamp] | None] | None
    next_page_token: str | None


_stamps = msgspec.json.Decoder(_Stamps)
decoder = msgspec.json.Decoder(_Bars)


class _OddError(ValueError):
    """What is wrong with one bar, and its session where that is known."""

    def __init__(self, why: str, session: date | None = None) -> None:
        super().__init__(why)
        self.session = session


@dataclass(frozen=True, slots=True)
class Starts:
    """When the bars of a timeframe can start, and in which session.

    Args:
        days: The sessions of these instants, in days since 1970. None if one is no such start.
        session: The session of Alpaca's `t`, and the instant. It raises `_OddError`.
    """

    days: Callable[[Ints], Days | None]
    session: Callable[[str], tuple[date, datetime]]

    @classmethod
    def of(cls, dataset: Dataset) -> Starts:
        """Those of a dataset's bars."""
        return _MINUTES if dataset.several else _DAILY


def decode(body: bytes, dataset: Dataset = DAILY) -> Page:
    """Decode one answer of `/v2/stocks/bars`.

    Bars that can't be used are told beside the others (`Page.odd`), as are symbols and pages that
    are null.

    Args:
        body: The answer.
        dataset: Whose bars were asked for.

    Raises:
        UnreadableError: The body is no such answer: cut, damaged, or of another shape.
    """
    starts = Starts.of(dataset)
    try:
        answer = decoder.decode(body)
        token, bars = answer.next_page_token or None, answer.bars
        # Each symbol has one list. If more were sent, a symbol stands there twice, and only the
        # last of its lists is in the dictionary. (It takes a hundredth of the decoding.)
        if body.count(b"[") != len(bars or ()):
            return _decode_tolerantly(body, None, starts)
        if bars is None or not any(bars.values()):
            return Page(empty(), token, len(body), null=bars is None)
        columns = typed_columns(bars)
    except (msgspec.DecodeError, _OddError) as error:
        return _decode_tolerantly(body, error, starts)
    if (days := starts.days(columns.instant)) is None:
        return _decode_tolerantly(body, None, starts)
    return Page(_table(columns, days), token, len(body))


def decode_regular(
    body: bytes, parse: Parse | None = COMPILED, dataset: Dataset = DAILY
) -> Page | None:
    """As `decode`, without Python's lock; None for what `decode` must read.

    That is every page that is not exactly as Alpaca writes it (`_pages.c` says how that is), and
    all where there is no compiled decoder.
    """
    if (parsed := regular_columns(body, parse)) is None:
        return None
    columns, token = parsed
    if (days := Starts.of(dataset).days(columns.instant)) is None:
        return None
    return Page(_table(columns, days), token, len(body))


def decode_years(body: bytes) -> tuple[Mapping[str, list[int] | None] | None, str | None]:
    """The years of the bars in one answer with `timeframe=12Month`, and the next page's token.

    A year's bar starts in that year in New York. Null instead of a symbol's bars are no bars; None
    stands for a symbol whose bars can't be read, and for a page with `"bars": null`.

    Raises:
        UnreadableError: The body is no such answer.
    """
    try:
        answer = _stamps.decode(body)
        token = answer.next_page_token or None
        if answer.bars is None:
            return None, token
        return {
            symbol: [int(stamp.t[:4]) for stamp in stamps or ()]
            for symbol, stamps in answer.bars.items()
        }, token
    except (msgspec.DecodeError, ValueError) as error:
        listed, token = _read(body, error)
        found: dict[str, list[int] | None] = {}
        for symbol, bars in listed or ():
            try:
                more = [int(bar["t"][:4]) for bar in bars or ()]
            except (TypeError, KeyError, ValueError):
                found[symbol] = None
                continue
            if (before := found.setdefault(symbol, [])) is not None:
                before += more
        return (None if listed is None else found), token


def regular_columns(
    body: bytes, parse: Parse | None = COMPILED
) -> tuple[Columns, str | None] | None:
    """The bars of a regular page, of any timeframe, and the next page's token; None as above."""
    if parse is None or (parsed := parse(body)) is None:
        return None
    symbols, counts, block, token = parsed
    if len(set(symbols)) < len(symbols):
        return None
    return _split(symbols, np.frombuffer(counts, np.int64), block), token or None


def typed_columns(bars: Mapping[str, Sequence[Bar]]) -> Columns:
    """Structs as columns: at least one bar, of any timeframe.

    Raises:
        ValueError: A bar has a time that can't be read.
    """
    pack, instants, nan = _ROW.pack, _Instants(), math.nan
    # In one pass over the structs; a pass for each column takes as long.
    rows = b"".join(
        [
            pack(
                instants[bar.t],
                bar.o,
                bar.h,
                bar.l,
                bar.c,
                nan if bar.vw is None else bar.vw,
                bar.v,
                NO_COUNT if bar.n is None else bar.n,
            )
            for listed in bars.values()
            for bar in listed
        ]
    )
    block = np.frombuffer(rows, np.int64).reshape(-1, _WIDTH)
    counts = np.fromiter(map(len, bars.values()), np.int64, len(bars))
    return _split([visible(symbol) for symbol in bars], counts, block.T.tobytes())


def _split(symbols: Sequence[str], counts: Ints, block: bytes) -> Columns:
    """The columns of a block in which they stand one after the other, eight bytes a value."""
    whole = np.frombuffer(block, np.int64).reshape(_WIDTH, -1)
    real = whole.view(np.float64)
    return Columns(symbols, counts, whole[0], *real[1:6], *whole[6:])


class _Instants(dict[str, int]):
    """Microseconds since 1970 of each `t` on a page; many bars share one."""

    def __missing__(self, stamp: str) -> int:
        self[stamp] = known = _since_epoch(stamp)
        return known


@lru_cache(maxsize=16_384)
def _since_epoch(stamp: str) -> int:
    try:
        return _microseconds(datetime.fromisoformat(stamp))
    except (ValueError, TypeError) as error:  # no time, or one of no zone
        raise _OddError(f"a bar has an unreadable time: {_shown(stamp)}") from error


def _midnight_days(instant: Ints) -> Days | None:
    """The days that begin at these instants in New York; None if one is no midnight there."""
    if (found := _days_and_midnights(instant)) is None:
        return None
    days, midnights = found  # midnight in New York is on the same day in UTC
    return days.astype(np.int32) if (midnights == instant).all() else None


def _minute_days(instant: Ints) -> Days | None:
    """The days in New York of these instants; None if one is no full minute."""
    if (instant % _MINUTE).any() or (found := _days_and_midnights(instant)) is None:
        return None
    days, midnights = found
    return (days - (instant < midnights)).astype(np.int32)


def _days_and_midnights(instant: Ints) -> tuple[Ints, Ints] | None:
    """The days of these instants in UTC, since 1970, and when each of them begins in New York.

    None if one is not within the years that are read at once.
    """
    days = instant // _DAY
    first, last = int(days.min()), int(days.max())
    if first < 0 or last >= _DAYS:
        return None
    years = [date.fromordinal(_EPOCH_DAY + day).year for day in (first, last)]
    midnights = np.concatenate([_midnights(year) for year in range(years[0], years[1] + 1)])
    january = date(years[0], 1, 1).toordinal() - _EPOCH_DAY
    return days, midnights[days - january]


def _table(columns: Columns, days: Days) -> pa.Table:
    """The rows in the lake's schema; `days` are their sessions, since 1970."""
    symbol = np.repeat(np.arange(len(columns.symbols)), columns.counts)
    rows: list[npt.NDArray[Any]] = [days, *columns[2:]]
    known = [
        pa.array(columns.symbols, pa.string()).take(pa.array(symbol)),
        *(
            pa.Array.from_buffers(field.type, len(days), [None, _in_arrow(values)])
            for field, values in zip(list(SCHEMA)[1:], rows, strict=True)
        ),
    ]
    for name, none in (
        ("vwap", np.isnan(columns.vwap)),
        ("trade_count", columns.trade_count == NO_COUNT),
    ):
        if none.any():
            place = SCHEMA.get_field_index(name)
            known[place] = pa.array(getattr(columns, name), mask=none)
    return pa.Table.from_arrays(known, schema=SCHEMA)


def _in_arrow(values: npt.NDArray[Any]) -> pa.Buffer:
    """The values in memory of Arrow's, which goes back to the system when it is freed.

    The allocator of Python and numpy has an arena for each thread, and keeps what lies between
    pages that are held: 300 MB when the pages of a session of minutes have come and gone.
    """
    memory = pa.allocate_buffer(values.nbytes)
    np.frombuffer(memory, values.dtype)[:] = values
    return memory


@lru_cache(maxsize=256)
def _midnights(year: int) -> Ints:
    """The instants at which the days of a year begin in New York, in microseconds since 1970."""
    days = range(date(year, 1, 1).toordinal(), date(year + 1, 1, 1).toordinal())
    starts = (datetime.combine(date.fromordinal(day), time.min, _NEW_YORK) for day in days)
    return np.array([_microseconds(start) for start in starts])


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=16_384)
def _midnight_start(stamp: str) -> tuple[date, datetime]:
    """The session of a daily bar, and its start, from Alpaca's `t`.

    A daily bar is stamped with midnight in New York: 04:00Z in summer, 05:00Z in winter. The day of
    another stamp is its session's if it is the same day in UTC: else nobody knows which one is
    meant (midnight in UTC is the evening before in New York).
    """
    start, local = _start(stamp)
    if start.tzinfo is None or local.timetz().replace(tzinfo=None) != datetime.min.time():
        known = start.tzinfo is not None and start.astimezone(UTC).date() == local.date()
        raise _OddError(
            f"a bar of {line(stamp, 40)}, which is no midnight in New York: no daily bar",
            local.date() if known else None,
        )
    return local.date(), start


@lru_cache(maxsize=16_384)
def _minute_start(stamp: str) -> tuple[date, datetime]:
    """The session of a bar that starts on a full minute, and its start, from Alpaca's `t`."""
    start, local = _start(stamp)
    if start.tzinfo is None or local.second or local.microsecond:
        raise _OddError(
            f"a bar of {line(stamp, 40)}, which is no full minute: no minute bar",
            local.date() if start.tzinfo else None,
        )
    return local.date(), start


def _start(stamp: str) -> tuple[datetime, datetime]:
    """The instant of a stamp, and the same in New York."""
    try:
        start = datetime.fromisoformat(stamp)
        # Go's zero time, 0001-01-01T00:00:00Z, is before the first day that New York has here.
        return start, start.astimezone(_NEW_YORK)
    except (ValueError, OverflowError) as error:
        raise _OddError(f"a bar has an unreadable time: {_shown(stamp)}") from error


_DAILY = Starts(_midnight_days, _midnight_start)
_MINUTES = Starts(_minute_days, _minute_start)


# --- item by item ---


class _Repeated(tuple[tuple[str, Any], ...]):
    """A JSON object in which a name stands more than once: its pairs, in order."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(pairs)


def _number(text: str) -> Decimal | str:
    try:
        return Decimal(text)  # exact, however it is written: 1234.0, 1.5e9, 2^63
    except ArithmeticError:
        return text  # an exponent that nobody can hold


def _read(
    body: bytes, error: Exception | None
) -> tuple[Iterable[tuple[str, Any]] | None, str | None]:
    """The symbols of an answer with what stands beside each, and the next page's token.

    None instead of symbols: `"bars": null`. A symbol can come more than once.

    Raises:
        UnreadableError: The body is no answer with bars.
    """
    try:
        told = json.loads(
            body,
            object_pairs_hook=_object,
            parse_float=_number,
            parse_int=_number,
            parse_constant=str,  # NaN, which is no JSON: no number either
        )
        token, bars = told["next_page_token"], told["bars"]
    except (ValueError, KeyError, TypeError, RecursionError) as other:
        told = line(str(error or other), 200)
        raise UnreadableError(f"the answer can't be read: {told}") from other
    if not isinstance(bars, dict | _Repeated | None) or not isinstance(token, str | None):
        raise UnreadableError(f"the answer can't be read: {line(str(error), 200)}")
    pairs = bars.items() if isinstance(bars, dict) else bars
    listed = pairs if pairs is None else [(visible(symbol), items) for symbol, items in pairs]
    return listed, token or None


def _decode_tolerantly(body: bytes, error: Exception | None, starts: Starts) -> Page:
    """Decode a page item by item: the bars that can be used, and what is odd about the others."""
    listed, token = _read(body, error)
    odd: list[OddItem] = []
    nulls: set[str] = set()
    symbols: list[str] = []
    rows: list[tuple[Any, ...]] = []
    rounded = 0
    for symbol, bars in listed or ():
        if bars is None:
            nulls.add(symbol)
            continue
        if not isinstance(bars, list):
            odd.append(OddItem(symbol, None, f"no list of bars, but {_shown(bars)}"))
            continue
        for bar in bars:
            try:
                row, fraction = _row(bar, starts)
            except _OddError as wrong:
                odd.append(OddItem(symbol, wrong.session, str(wrong)))
                continue
            symbols.append(symbol)
            rows.append(row)
            rounded += fraction
    table = empty()
    if rows:
        values = (symbols, *zip(*rows, strict=True))
        arrays = [pa.array(v, field.type) for v, field in zip(values, SCHEMA, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    null = listed is None or bool(nulls and not rows and not odd)
    return Page(table, token, len(body), tuple(odd), frozenset(nulls), null, rounded)


def _row(bar: Any, starts: Starts) -> tuple[tuple[Any, ...], bool]:
    """What stands in the schema after the symbol, and whether the volume was rounded.

    Raises:
        _OddError: It can't be used.
    """
    if isinstance(bar, _Repeated):
        bar = dict(bar)
    if not isinstance(bar, dict):
        raise _OddError(f"no bar, but {_shown(bar)}")
    stamp = bar.get("t")
    if not isinstance(stamp, str):
        raise _OddError(f"a bar has no time (t): {_shown(stamp)}")
    session, start = starts.session(stamp)
    try:
        prices = [_price(bar.get(name), name) for name in "ohlc"]
        average = None if bar.get("vw") is None else _price(bar["vw"], "vw")
        volume, rounded = _count(bar.get("v"), "v")
        trades, fraction = (None, False) if bar.get("n") is None else _count(bar["n"], "n")
        if fraction:
            raise _OddError(f"a bar's number of trades (n) is {_shown(bar['n'])}")
    except _OddError as wrong:
        raise _OddError(str(wrong), session) from None
    return (session, start, *prices, average, volume, trades), rounded


def _price(value: Any, name: str) -> float:
    if isinstance(value, Decimal) and math.isfinite(number := float(value)):
        return number
    raise _OddError(f"a bar's {name} is no price: {_shown(value)}")


def _count(value: Any, name: str) -> tuple[int, bool]:
    """A whole number of 64 bits, rounded half to even, and whether there was a fraction."""
    if isinstance(value, Decimal) and 0 <= value <= _MOST:
        whole = value.to_integral_value(ROUND_HALF_EVEN)
        return int(whole), whole != value
    raise _OddError(f"a bar's {name} is no count that 64 bits hold: {_shown(value)}")


def _shown(value: Any) -> str:
    """A value of the answer for a message: short and without anything that does not print."""
    match value:
        case None:
            return "null or absent"
        case Decimal():
            return str(value)[:40]
        case str():
            return repr(visible(value[:40]))
        case _:
            return {bool: "true or false", list: "a list"}.get(type(value), "an object")
