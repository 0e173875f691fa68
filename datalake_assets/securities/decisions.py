"""The user's decisions: what to do where the source and the prices contradict each other.

Belongs here: the file in the lake that holds them, and what they say of each action. Does not
belong here: the command that edits it (`cli`), and what is derived from it (`identity`, `factors`).

One small JSON file that a person can read. Decisions are only ever added, each with who, when and
why; the newest on an action counts. No asset writes it, so nothing that is derived can lose one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from datalake_assets.actions.action import SCHEMA as ACTIONS
from datalake_assets.securities.evidence import day_number
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store

ACCEPT, IGNORE, ADD, WITHDRAW = "accept", "ignore", "add", "withdraw"

KINDS = {
    "split": "forward_splits",
    "dividend": "cash_dividends",
    "spin-off": "spin_offs",
    "rename": "name_changes",
}
"""What can be added, and the source's list that it would stand in."""

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision.

    Args:
        what: accept, ignore, add, or withdraw.
        who: Who decided.
        when: The instant (UTC).
        why: In the user's words.
        subject: The action's identifier, or for `withdraw` that of a decision; None for `add`, and
            for an `ignore` of a jump.
        symbol: Of an added action, or of an ignored jump.
        day: Likewise.
        kind: Of an added action: one of `KINDS`.
        new: Of an added split: shares after it.
        old: Of an added split: shares before it.
        amount: Of an added dividend or spin-off: US dollars a share.
        to: Of an added rename: the ticker that the security goes on with.
        id: Its own identifier, given when it is kept.
    """

    what: str
    who: str
    when: datetime
    why: str
    subject: str | None = None
    symbol: str | None = None
    day: date | None = None
    kind: str | None = None
    new: float | None = None
    old: float | None = None
    amount: float | None = None
    to: str | None = None
    id: str = ""

    def __post_init__(self) -> None:
        """Refuse what says nothing.

        Raises:
            ValueError: A part is missing, or impossible.
        """
        if self.what not in (ACCEPT, IGNORE, ADD, WITHDRAW):
            raise ValueError(f"{self.what!r} is no decision: accept, ignore, add or withdraw")
        if self.what != ADD:
            jump = self.what == IGNORE and self.symbol and self.day
            if not self.subject and not jump:
                raise ValueError(f"{self.what}: of which action? Give its identifier")
            return
        if self.kind not in KINDS or not self.symbol or not self.day:
            raise ValueError("add: a kind (split, dividend, spin-off, rename), a symbol and a day")
        if self.kind == "split" and not (self.new and self.old and min(self.new, self.old) > 0):
            raise ValueError("a split needs a ratio of two positive numbers, new to old, like 4:1")
        if self.kind in ("dividend", "spin-off") and not (self.amount and self.amount > 0):
            raise ValueError(f"a {self.kind} needs a positive amount in US dollars a share")
        if self.kind == "rename" and not self.to:
            raise ValueError("a rename needs the ticker that the security goes on with")

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: without what is not there."""
        told = {name: getattr(self, name) for name in ("id", *self.__slots__[:-1])}
        told["when"] = self.when.isoformat()
        told["day"] = self.day.isoformat() if self.day else None
        return {name: value for name, value in told.items() if value is not None}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Decision:
        """Read back what `to_dict` wrote."""
        day = told.get("day")
        return cls(
            **{
                **told,
                "when": datetime.fromisoformat(told["when"]),
                "day": date.fromisoformat(day) if day else None,
            }
        )


@dataclass(frozen=True)
class Decisions:
    """All decisions, in the order in which they were made."""

    made: tuple[Decision, ...] = ()

    @property
    def standing(self) -> tuple[Decision, ...]:
        """Those that were not withdrawn."""
        gone = {each.subject for each in self.made if each.what == WITHDRAW}
        return tuple(each for each in self.made if each.what != WITHDRAW and each.id not in gone)

    def _newest(self, what: str) -> frozenset[str]:
        newest = {each.subject: each.what for each in self.standing if each.subject}
        return frozenset(subject for subject, said in newest.items() if said == what)

    @property
    def accepted(self) -> frozenset[str]:
        """Actions that are applied whatever the prices say."""
        return self._newest(ACCEPT)

    @property
    def ignored(self) -> frozenset[str]:
        """Actions that are not applied whatever the prices say."""
        return self._newest(IGNORE)

    @property
    def added(self) -> frozenset[str]:
        """Identifiers of the added actions."""
        return frozenset(each.id for each in self.standing if each.what == ADD)

    @property
    def ignored_jumps(self) -> frozenset[tuple[str, int]]:
        """Symbols and days (numbers) of jumps that are no split."""
        return frozenset(
            (each.symbol, day_number(each.day))
            for each in self.standing
            if each.what == IGNORE and each.symbol and each.day
        )

    def with_added(self, actions: pa.Table) -> pa.Table:
        """These actions and those that the user added, in `actions.action.SCHEMA`."""
        rows = [_action(each) for each in self.standing if each.what == ADD]
        if not rows:
            return actions
        return pa.concat_tables([actions, pa.Table.from_pylist(rows, schema=ACTIONS)])

    def adding(self, decisions: Iterable[Decision]) -> Decisions:
        """With these, which get their identifiers."""
        made = list(self.made)
        for each in decisions:
            made.append(replace(each, id=f"decision-{len(made) + 1}"))
        return Decisions(tuple(made))

    def encode(self) -> bytes:
        """As JSON, a decision a line."""
        lines = (json.dumps(each.to_dict(), ensure_ascii=False) for each in self.made)
        return ('{"decisions": [\n' + ",\n".join(lines) + "\n]}\n").encode()

    @classmethod
    def decode(cls, data: bytes, where: str) -> Decisions:
        """Read back what `encode` wrote.

        Raises:
            BrokenFileError: The bytes are no whole file of decisions.
        """
        try:
            return cls(tuple(Decision.from_dict(told) for told in json.loads(data)["decisions"]))
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenFileError(
                f"{where} is no whole file of decisions ({error!r}): mend it by hand, or restore it"
            ) from error


def _action(decision: Decision) -> dict[str, Any]:
    """An added action, as the source would state it."""
    assert decision.kind  # which `Decision` made sure of
    kind = KINDS[decision.kind]
    if decision.kind == "split" and (decision.new or 0) < (decision.old or 0):
        kind = "reverse_splits"
    return {
        "id": decision.id,
        "kind": kind,
        "effective_date": decision.day,
        "process_date": decision.day,
        "symbol": decision.symbol,
        "new_symbol": decision.to,
        "new_rate": decision.new,
        "old_rate": decision.old,
        "cash": decision.amount,
        "cusip": None,
        "new_cusip": None,
        "body": json.dumps(decision.to_dict(), sort_keys=True),
    }


def read_decisions(store: Store) -> Decisions:
    """The decisions in a lake.

    Raises:
        BrokenFileError: Their file is damaged.
    """
    return _read(store)[0]


def decide(store: Store, *decisions: Decision) -> Decisions:
    """Add decisions to those in a lake; nobody else's is lost.

    Raises:
        BrokenFileError: Their file is damaged: nothing was written.
        ChangedError: Others kept writing at the same time.
    """
    for left in reversed(range(_TRIES)):
        known, version = _read(store)
        for each in decisions:
            if each.what == WITHDRAW and each.subject not in {one.id for one in known.standing}:
                raise ValueError(f"there is no decision {each.subject!r} to withdraw")
        after = known.adding(decisions)
        try:
            store.replace(layout.DECISIONS, after.encode(), version)
        except ChangedError:
            if not left:
                raise
            continue
        return after
    raise AssertionError("unreachable")


def _read(store: Store) -> tuple[Decisions, str | None]:
    try:
        data, version = store.get_versioned(layout.DECISIONS)
    except FileNotFoundError:
        return Decisions(), None
    return Decisions.decode(data, store.url(layout.DECISIONS)), version
