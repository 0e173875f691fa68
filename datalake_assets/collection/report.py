"""The report: what became of each symbol of a session, and what collecting it took.

Belongs here: the five states, the ledger, the statistics. Does not belong here: judging them
(`audit`) or keeping them (`lake`).
"""

from __future__ import annotations

import json
import re
import reprlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datalake_assets.collection.symbols import Bits, Flags, Symbols, bits_of, rows_of_bits


class State(StrEnum):
    """What became of a symbol in a session: always exactly one of these."""

    PRESENT = "present"
    """The source gave a bar."""
    NO_PRINT = "no_print"
    """The source answered and had no bar: the symbol did not trade."""
    FAILED = "failed"
    """It was asked for, and no answer could be had; the ledger keeps the error."""
    PENDING = "pending"
    """It was not asked for, or not answered yet: a deadline or a termination came first."""
    REJECTED = "rejected"
    """The source says that the name is no symbol; asking again brings nothing."""


_NAMED = 5

NOT_ASKED = len(State)
"""The code of a symbol of which the ledger knows nothing."""

_CODES = {state: code for code, state in enumerate(State)}


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """The state of each symbol of an axis, as a number: a ledger in columns.

    Args:
        symbols: The axis.
        codes: For each symbol `code` of its state, or `NOT_ASKED`.
    """

    symbols: Symbols
    codes: npt.NDArray[np.uint8]
    _flags: dict[State, Flags] = field(default_factory=dict, init=False, repr=False)
    _bits: dict[State | None, Bits] = field(default_factory=dict, init=False, repr=False)
    _columns: dict[State, pa.Array] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_rows(cls, symbols: Symbols, codes: npt.NDArray[np.uint8]) -> list[States]:
        """The states in several sessions at once, with what an audit asks of each of them.

        Args:
            symbols: The axis.
            codes: For each session and symbol, as for the class.
        """
        present = codes == _CODES[State.PRESENT]
        found = []
        for row, are, bits, asked in zip(
            codes, present, rows_of_bits(present), rows_of_bits(codes != NOT_ASKED), strict=True
        ):
            states = cls(symbols, row)
            states._flags[State.PRESENT] = are
            states._bits.update({State.PRESENT: bits, None: asked})
            found.append(states)
        return found

    @staticmethod
    def code(state: State) -> int:
        """The number that stands for a state."""
        return _CODES[state]

    @property
    def asked(self) -> Flags:
        """Which symbols has the ledger?"""
        asked: Flags = self.codes != NOT_ASKED
        return asked

    def are(self, state: State) -> Flags:
        """Which symbols have this state? Kept, as many ask."""
        if (flags := self._flags.get(state)) is None:
            flags = self._flags[state] = self.codes == _CODES[state]
        return flags

    def bits(self, state: State | None = None) -> Bits:
        """The same as one number; without a state: which symbols has the ledger?"""
        if (bits := self._bits.get(state)) is None:
            bits = self._bits[state] = bits_of(self.asked if state is None else self.are(state))
        return bits

    def named(self, state: State) -> tuple[str, ...]:
        """The symbols with this state, ascending."""
        return self.symbols.named(self.are(state))

    def column(self, state: State) -> pa.Array:
        """The same as Arrow has them; kept, since the audit and the session's file ask for it."""
        if (column := self._columns.get(state)) is None:
            flags = pa.array(self.are(state))
            column = self._columns[state] = self.symbols.column.filter(flags)
        return column


@dataclass(frozen=True, slots=True)
class Reason:
    """Why symbols failed: one error of the source, and whom it met.

    Args:
        error: The error, as the first of them got it.
        count: Symbols that got it, in each session anew.
        symbols: The first of them, ascending.
    """

    error: str
    count: int
    symbols: tuple[str, ...]

    def __str__(self) -> str:
        # Fewer names than there is room for are all: the same symbols failed in several sessions.
        more = ", …" if self.count > len(self.symbols) >= _NAMED else ""
        return f"{self.count:,} failed ({', '.join(self.symbols)}{more}): {self.error}"


def reasons(failed: Mapping[str, str]) -> tuple[Reason, ...]:
    """The errors of these symbols, the most frequent first.

    Errors that differ only in the symbol that they name are one.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for symbol, error in sorted(failed.items()):
        alike[_without_name(error, symbol)].append(symbol)
    found = [
        Reason(failed[names[0]], len(names), tuple(names[:_NAMED])) for names in alike.values()
    ]
    return tuple(sorted(found, key=lambda reason: -reason.count))


def joined(told: Iterable[Reason]) -> tuple[Reason, ...]:
    """The reasons of several sessions together, the most frequent first."""
    alike: defaultdict[str, list[Reason]] = defaultdict(list)
    for reason in told:
        alike[_without_name(reason.error, reason.symbols[0])].append(reason)
    found = [
        Reason(
            same[0].error,
            sum(reason.count for reason in same),
            tuple(sorted({symbol for reason in same for symbol in reason.symbols})[:_NAMED]),
        )
        for same in alike.values()
    ]
    return tuple(sorted(found, key=lambda reason: -reason.count))


def _without_name(error: str, symbol: str) -> str:
    if symbol not in error:
        return error
    return re.sub(rf"(?<![\w.]){re.escape(symbol)}(?!\.?\w)", "…", error)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The state of every symbol in one session.

    Args:
        session: The session.
        present, no_print, pending: Symbols, ascending.
        failed, rejected: Symbols with the reason, ascending.

    Raises:
        ValueError: A symbol has two states.
    """

    session: date
    present: tuple[str, ...] = ()
    no_print: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    rejected: Mapping[str, str] = field(default_factory=dict)
    _states: States | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("present", "no_print", "pending"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        for name in ("failed", "rejected"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))
        if len(symbols := self.symbols) != sum(self.counts.values()):
            everywhere = Counter([s for state in State for s in getattr(self, state.value)])
            twice = [symbol for symbol in sorted(symbols) if everywhere[symbol] > 1]
            raise ValueError(f"{self.session}: two states for one symbol: {twice[:5]}")

    @classmethod
    def of(cls, session: date, states: States, reasons: Mapping[str, str]) -> Ledger:
        """The ledger with these states, without a look at each symbol: one code is one state.

        Args:
            session: The session.
            states: The state of each symbol.
            reasons: For each symbol that is failed or rejected, why; others may be in it.
        """
        made = object.__new__(cls)
        values: dict[str, Any] = {state.value: states.named(state) for state in State}
        for name in ("failed", "rejected"):
            values[name] = {symbol: reasons[symbol] for symbol in values[name]}
        for name, value in {**values, "session": session, "_states": states}.items():
            object.__setattr__(made, name, value)
        return made

    @property
    def states(self) -> States:
        """The same in columns."""
        if self._states is None:
            symbols = Symbols(self.symbols)
            codes = np.full(len(symbols), NOT_ASKED, np.uint8)
            for state in State:
                codes[symbols.places(getattr(self, state.value))] = States.code(state)
            object.__setattr__(self, "_states", States(symbols, codes))
        assert self._states is not None
        return self._states

    def __repr__(self) -> str:
        # With all of its names it would fill the screens of whoever looks at it in a notebook.
        named = (f"{state.value}={reprlib.repr(getattr(self, state.value))}" for state in State)
        return f"Ledger({self.session}, {', '.join(named)})"

    @property
    def symbols(self) -> frozenset[str]:
        """Every symbol that the ledger knows."""
        return frozenset().union(*(getattr(self, state.value) for state in State))

    @property
    def counts(self) -> dict[State, int]:
        """Symbols by state."""
        return {state: len(getattr(self, state.value)) for state in State}

    @property
    def requested(self) -> int:
        """Symbols asked for: all but the names that turned out to be no symbols."""
        asked = (self.present, self.no_print, self.failed, self.pending)
        return sum(map(len, asked))

    @property
    def success_rate(self) -> float:
        """Share of the requested symbols that the source answered for, with a bar or without.

        0 when nothing was requested: an empty session is no success.
        """
        answered = len(self.present) + len(self.no_print)
        requested = self.requested
        return answered / requested if requested else 0.0

    @property
    def missing(self) -> tuple[str, ...]:
        """The symbols that a repair asks for: failed and pending."""
        return tuple(sorted((*self.failed, *self.pending)))

    def restricted_to(self, symbols: frozenset[str]) -> Ledger:
        """This ledger without the states of other symbols."""
        return Ledger(
            session=self.session,
            present=tuple(s for s in self.present if s in symbols),
            no_print=tuple(s for s in self.no_print if s in symbols),
            failed={s: why for s, why in self.failed.items() if s in symbols},
            pending=tuple(s for s in self.pending if s in symbols),
            rejected={s: why for s, why in self.rejected.items() if s in symbols},
        )

    def with_pending(self, symbols: Iterable[str]) -> Ledger:
        """This ledger, with symbols that it does not know as pending."""
        new = frozenset(symbols) - self.symbols
        return self if not new else replace(self, pending=(*self.pending, *new))

    def repaired_by(self, repair: Ledger) -> Ledger:
        """This ledger with the states that a later, smaller collection found out.

        The repair may be of symbols that are missing here, and of some that were never asked for.

        Raises:
            ValueError: The repair is of another session, or of symbols that were answered for.
        """
        if repair.session != self.session:
            raise ValueError(f"a repair of {repair.session} can't mend {self.session}")
        if answered := repair.symbols & self.symbols - frozenset(self.missing):
            raise ValueError(f"{self.session}: not missing: {sorted(answered)[:5]}")
        redone = repair.symbols
        return Ledger(
            session=self.session,
            present=(*self.present, *repair.present),
            no_print=(*self.no_print, *repair.no_print),
            failed={**{s: e for s, e in self.failed.items() if s not in redone}, **repair.failed},
            pending=(*(s for s in self.pending if s not in redone), *repair.pending),
            rejected={**self.rejected, **repair.rejected},
        )

    def to_json(self) -> str:
        """The ledger as text, the same for the same ledger.

        The present symbols are left out: they are the rows beside it.
        """
        told = {
            state.value: getattr(self, state.value) for state in State if state != State.PRESENT
        }
        told = {"session": self.session.isoformat(), **told}
        # The same text in a fifth of the time, but for characters that json escapes.
        with suppress(UnicodeEncodeError):  # half of a surrogate pair
            text = msgspec.json.encode(told)
            if text.isascii() and b"\x7f" not in text:
                return text.decode()
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes, present: tuple[str, ...]) -> Ledger:
        """Read back what `to_json` wrote, given the symbols of the rows."""
        told = json.loads(text)
        session = date.fromisoformat(told.pop("session"))
        return cls(session=session, present=present, **told)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a collection took.

    Args:
        started, ended: Instants, UTC.
        duration_seconds: Time between them by a clock that never runs backwards.
        planned_requests: Requests that the plan foresaw: each chunk once, on one page.
        requests: Requests sent, those that failed included.
        retries: Requests sent again after a failure that could pass.
        throttled: Answers 429: the account's limit was spent.
        limiter_wait_seconds: Time that the threads spent waiting for the rate limit, added up.
        bars: Bars received.
        bytes_received: Size of the decoded answers.
        stray_bars: Bars of days or symbols that were not asked for, left out.
        odd_bars: Bars that can't be used: each fails its symbol in its session.
        rounded_volumes: Bars whose volume had a fraction of a share: rounded, half to even.
    """

    started: datetime
    ended: datetime
    duration_seconds: float
    planned_requests: int = 0
    requests: int = 0
    retries: int = 0
    throttled: int = 0
    limiter_wait_seconds: float = 0.0
    bars: int = 0
    bytes_received: int = 0
    stray_bars: int = 0
    odd_bars: int = 0
    rounded_volumes: int = 0

    @property
    def bars_per_second(self) -> float:
        """Throughput; 0 when no time passed."""
        return self.bars / self.duration_seconds if self.duration_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The numbers under their names, instants in ISO 8601."""
        # `asdict` copies each value, for every session of a run.
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        told["bars_per_second"] = self.bars_per_second
        return told | {name: told[name].isoformat() for name in ("started", "ended")}
