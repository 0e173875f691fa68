"""A page of bars, from the bytes that the source sends to Arrow.

Belongs here: the shape of the answer and the meaning of its fields. Does not belong here: HTTP,
or which page comes next.

A Python object per bar that lives longer than its page would cost memory and time (alpaca-py's
models take 1.3 KB and 20 µs a bar): typed structs without garbage collection, read column by
column, are 14 to 28 times faster. They take a page whole or not at all. A page that they refuse is
read item by item, so that an odd one costs nothing but itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa

from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.collection.collect import OddItem, Page
from datalake_assets.collection.errors import UnreadableError
from datalake_assets.sources.text import line, visible

_NEW_YORK = ZoneInfo("America/New_York")

_MOST = (1 << 63) - 1  # what an Arrow int64 holds; more would be a crash here
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class _Bar(msgspec.Struct, gc=False):
    t: str
    o: float
    h: float
    l: float  # noqa: E741 - Alpaca's own name
    c: float
    v: _Count
    n: _Count | None = None
    vw: float | None = None


class _Bars(msgspec.Struct):
    bars: dict[str, list[_Bar]] | None
    next_page_token: str | None


class _Stamp(msgspec.Struct, gc=False):
    t: str


class _Stamps(msgspec.Struct):
    bars: dict[str, list[_Stamp] | None] | None
    next_page_token: str | None


_stamps = msgspec.json.Decoder(_Stamps)
_decoder = msgspec.json.Decoder(_Bars)


class _OddError(ValueError):
    """What is wrong with one bar, and its session where that is known."""

    def __init__(self, why: str, session: date | None = None) -> None:
        super().__init__(why)
        self.session = session


def decode(body: bytes) -> Page:
    """Decode one answer of `/v2/stocks/bars` with daily bars.

    Bars that can't be used are told beside the others (`Page.odd`), as are symbols and pages that
    are null.

    Raises:
        UnreadableError: The body is no such answer: cut, damaged, or of another shape.
    """
    try:
        answer = _decoder.decode(body)
        rows = [bar for bars in (answer.bars or {}).values() for bar in bars]
        # Each symbol has one list. If more were sent, a symbol stands there twice, and only the
        # last of its lists is in the dictionary. (It takes a hundredth of the decoding.)
        if body.count(b"[") != len(answer.bars or ()):
            return _decode_tolerantly(body, None)
        if not rows or answer.bars is None:
            token = answer.next_page_token or None
            return Page(empty(), token, len(body), null=answer.bars is None)
        counts = [len(bars) for bars in answer.bars.values()]
        table = _table(
            pa.array([visible(symbol) for symbol in answer.bars], pa.string()).take(
                pa.array(np.repeat(range(len(counts)), counts))
            ),
            [bar.t for bar in rows],
            [bar.o for bar in rows],
            [bar.h for bar in rows],
            [bar.l for bar in rows],
            [bar.c for bar in rows],
            [bar.vw for bar in rows],
            [bar.v for bar in rows],
            [bar.n for bar in rows],
        )
    except (msgspec.DecodeError, _OddError) as error:
        return _decode_tolerantly(body, error)
    return Page(table, answer.next_page_token or None, len(body))


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


def _table(
    symbols: pa.Array[Any], stamps: Sequence[str], *numbers: Sequence[float | int | None]
) -> pa.Table:
    """The rows as a table; `numbers` in the order of the schema, prices before counts."""
    known = {stamp: place for place, stamp in enumerate(dict.fromkeys(stamps))}
    starts = [_session_start(stamp) for stamp in known]
    place = pa.array([known[stamp] for stamp in stamps], pa.int64())
    columns = [
        symbols,
        pa.array([session for session, _ in starts], pa.date32()).take(place),
        pa.array([start for _, start in starts], SCHEMA.field("timestamp").type).take(place),
        *(
            pa.array(values, field.type)
            for values, field in zip(numbers, list(SCHEMA)[3:], strict=True)
        ),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


@lru_cache(maxsize=16_384)
def _session_start(stamp: str) -> tuple[date, datetime]:
    """The session of a daily bar, and its start, from Alpaca's `t`.

    A daily bar is stamped with midnight in New York: 04:00Z in summer, 05:00Z in winter. The day of
    another stamp is its session's if it is the same day in UTC: else nobody knows which one is
    meant (midnight in UTC is the evening before in New York).
    """
    try:
        start = datetime.fromisoformat(stamp)
        # Go's zero time, 0001-01-01T00:00:00Z, is before the first day that New York has here.
        local = start.astimezone(_NEW_YORK)
    except (ValueError, OverflowError) as error:
        raise _OddError(f"a bar has an unreadable time: {_shown(stamp)}") from error
    if start.tzinfo is None or local.timetz().replace(tzinfo=None) != datetime.min.time():
        known = start.tzinfo is not None and start.astimezone(UTC).date() == local.date()
        raise _OddError(
            f"a bar of {line(stamp, 40)}, which is no midnight in New York: no daily bar",
            local.date() if known else None,
        )
    return local.date(), start


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


def _decode_tolerantly(body: bytes, error: Exception | None) -> Page:
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
                row, fraction = _row(bar)
            except _OddError as wrong:
                odd.append(OddItem(symbol, wrong.session, str(wrong)))
                continue
            symbols.append(symbol)
            rows.append(row)
            rounded += fraction
    table = empty()
    if rows:
        stamps, *numbers = zip(*rows, strict=True)
        table = _table(pa.array(symbols, pa.string()), stamps, *numbers)
    null = listed is None or bool(nulls and not rows and not odd)
    return Page(table, token, len(body), tuple(odd), frozenset(nulls), null, rounded)


def _row(bar: Any) -> tuple[tuple[Any, ...], bool]:
    """The values of a bar in the order of the schema, and whether its volume was rounded.

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
    session, _ = _session_start(stamp)
    try:
        prices = [_price(bar.get(name), name) for name in "ohlc"]
        average = None if bar.get("vw") is None else _price(bar["vw"], "vw")
        volume, rounded = _count(bar.get("v"), "v")
        trades, fraction = (None, False) if bar.get("n") is None else _count(bar["n"], "n")
        if fraction:
            raise _OddError(f"a bar's number of trades (n) is {_shown(bar['n'])}")
    except _OddError as wrong:
        raise _OddError(str(wrong), session) from None
    return (stamp, *prices, average, volume, trades), rounded


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
