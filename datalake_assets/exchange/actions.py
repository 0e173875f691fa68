"""Corporate actions as the source tells them: which there are, when it tells them, how they look.

Here belong the fifteen lists, what a question about them selects, identifiers, and CUSIPs. What
truly happens is decided in `events` or stands in a file; what the source gets wrong, in `errata`;
the request and its errors, in `server`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from hashlib import blake2b
from typing import Any, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.market import Ints

KINDS = {kind.singular: kind for kind in Kind}
"""The types by the names that the parameter `types` has for them."""

_NEW_YORK = ZoneInfo("America/New_York")
_CUSIP = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SYMBOLS = (
    "symbol",
    "source_symbol",
    "old_symbol",
    "new_symbol",
    "alternate_symbol",
    "acquiree_symbol",
    "acquirer_symbol",
)
_CUSIPS = tuple(name.replace("symbol", "cusip") for name in _SYMBOLS)


@dataclass(frozen=True, slots=True)
class Action:
    """One corporate action, as the source tells it.

    Attributes:
        kind: In which list it stands.
        security: Whose price it changes, as the market numbers it.
        counts: The day from which on the price knows it.
        row: Its fields as on the wire; `id` and `process_date` among them.
    """

    kind: Kind
    security: int
    counts: date
    row: dict[str, Any]

    @property
    def process(self) -> date:
        """The day by which the source sorts it."""
        return date.fromisoformat(self.row["process_date"])


class AnnouncedActions(Protocol):
    """All actions of a market: columns to search by, and rows that are made when they are needed.

    By process date, kind, security; days are ordinals. An action is told from `announced` on, as
    an incomplete one from `hinted` on.
    """

    kind: Ints
    security: Ints
    counts: Ints
    process: Ints
    announced: Ints
    hinted: Ints

    def row(self, index: int) -> dict[str, Any]:
        """The fields of an action as on the wire, without its `id`."""

    def of(self, names: Collection[str]) -> Ints:
        """The actions, ascending, that may name one of these tickers or CUSIPs; maybe others."""


class NoActions:
    """A market whose source tells no action."""

    kind = security = counts = process = announced = hinted = np.zeros(0, np.int64)

    def row(self, index: int) -> dict[str, Any]:
        """There is none."""
        raise IndexError(index)

    def of(self, names: Collection[str]) -> Ints:
        """None."""
        return np.zeros(0, np.int64)


class ListedActions:
    """A few actions, held as rows.

    Args:
        actions: What there is; the `id` in their rows is not used.
        announced: From which day each is told.
    """

    def __init__(self, actions: Sequence[Action], announced: Sequence[date]) -> None:
        order = sorted(
            range(len(actions)),
            key=lambda at: (actions[at].process, actions[at].kind, actions[at].security),
        )
        self._rows = [dict(actions[at].row) for at in order]
        chosen = [actions[at] for at in order]
        self.kind = _column(action.kind for action in chosen)
        self.security = _column(action.security for action in chosen)
        self.counts = _column(action.counts.toordinal() for action in chosen)
        self.process = _column(action.process.toordinal() for action in chosen)
        self.announced = _column(announced[at].toordinal() for at in order)
        self.hinted = self.announced

    def row(self, index: int) -> dict[str, Any]:
        """See `AnnouncedActions.row`."""
        return dict(self._rows[index])

    def of(self, names: Collection[str]) -> Ints:
        """See `AnnouncedActions.of`."""
        return _column(at for at, row in enumerate(self._rows) if names_any(row, names))


def _column(values: Iterable[int]) -> Ints:
    return np.fromiter(values, np.int64)


def names_any(row: Mapping[str, Any], names: Collection[str]) -> bool:
    """Whether one of the fields of a row is one of these tickers or CUSIPs."""
    movements = row.get("stock_movements", ())
    return any(row.get(field) in names for field in _SYMBOLS + _CUSIPS) or any(
        movement["symbol"] in names or movement["cusip"] in names for movement in movements
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request asks for; `None`: no filter.

    `start` and `end` are days of `process_date`, both included. With `ids` nothing else counts.
    """

    start: date
    end: date
    kinds: Collection[Kind] | None = None
    symbols: Collection[str] | None = None
    cusips: Collection[str] | None = None
    ids: Collection[str] | None = None
    complete: bool = True
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of what the source tells.

    Attributes:
        hides: Position of the action that is not told as it is; −1: none.
        shows: What is told instead or in addition; `None`: nothing.
        since: From when on; `None`: always.
        until: Up to when; `None`: for ever.
        listed: Whether the list shows the change.
        adjusted: Whether adjusted bars are made with it.
    """

    hides: int = -1
    shows: Action | None = None
    since: datetime | None = None
    until: datetime | None = None
    listed: bool = True
    adjusted: bool = True

    def holds(self, now: datetime) -> bool:
        """Whether the change is in force at an instant."""
        return (self.since is None or now >= self.since) and (
            self.until is None or now < self.until
        )


class Register:
    """What the source has on record at any instant.

    Args:
        actions: What truly happens.
        market: The market's name; identifiers are made of it.
        edits: What the source gets wrong.
    """

    def __init__(self, actions: AnnouncedActions, market: str, edits: Sequence[Edit] = ()) -> None:
        self._actions = actions
        self._key = blake2b(market.encode(), digest_size=16).digest()
        self._edits = tuple(edits)

    def identity(self, index: int) -> str:
        """The identifier of the action at a position. It holds the position, masked."""
        noise = blake2b(index.to_bytes(8), key=self._key, digest_size=12).digest()
        mask = int.from_bytes(blake2b(noise[:6], key=self._key, digest_size=4).digest())
        return str(UUID(bytes=noise + (index ^ mask).to_bytes(4), version=4))

    def _find(self, identity: str) -> int | None:
        try:
            given = UUID(identity).bytes
        except ValueError:
            return None
        mask = int.from_bytes(blake2b(given[:6], key=self._key, digest_size=4).digest())
        index = int.from_bytes(given[12:]) ^ mask
        known = index < len(self._actions.kind) and self.identity(index) == identity
        return index if known else None

    def action(self, index: int) -> Action:
        """The action at a position, as it truly is."""
        actions = self._actions
        row = {"id": self.identity(index), **actions.row(index)}
        counts = date.fromordinal(int(actions.counts[index]))
        return Action(Kind(actions.kind[index]), int(actions.security[index]), counts, row)

    def asked(
        self, asked: Asked, now: datetime, begin: int, limit: int
    ) -> tuple[list[Action], bool]:
        """`limit` actions from the `begin`-th on that a request asks for, and whether more follow.

        By process date, then type.
        """
        today = now.astimezone(_NEW_YORK).date().toordinal()
        actions = self._actions
        if asked.ids is not None:
            found = [index for each in asked.ids if (index := self._find(each)) is not None]
            at = np.unique(np.array(found, np.int64))
            at = at[actions.hinted[at] <= today]
        else:
            span = [asked.start.toordinal(), asked.end.toordinal() + 1]
            low, high = np.searchsorted(actions.process, span)
            at = np.arange(low, high)
            known = actions.announced if asked.complete else actions.hinted
            for names in (asked.symbols, asked.cusips):
                if names is not None:
                    at = np.intersect1d(at, actions.of(names))
            at = at[known[at] <= today]
            if asked.kinds is not None:
                at = at[np.isin(actions.kind[at], list(asked.kinds))]
        hidden, shown = self._edited(now, asked)
        if hidden:
            at = at[~np.isin(at, list(hidden))]
        if asked.ids is None and (asked.symbols is not None or asked.cusips is not None):
            # `of` may have brought more than was asked for.
            at = _column(each for each in at.tolist() if _wanted(asked, self.action(each)))
        # What is shown beyond the true ones stands behind those of its day and kind, as −1, −2 …
        shown.sort(key=lambda action: (action.process, action.kind))
        order = actions.process[at] * len(Kind) + actions.kind[at]
        places = [action.process.toordinal() * len(Kind) + action.kind for action in shown]
        at = np.insert(at, np.searchsorted(order, places, side="right"), ~np.arange(len(shown)))
        page = (at[::-1] if asked.descending else at)[begin : begin + limit]
        rows = [shown[~each] if each < 0 else self._as_known(each, today) for each in page.tolist()]
        return rows, len(at) > begin + limit

    def _as_known(self, index: int, today: int) -> Action:
        """The action; before it is announced, what is known of it by then."""
        action = self.action(index)
        if self._actions.announced[index] <= today:
            return action
        unknown = ("payable_date", "record_date", "due_bill_redemption_date")
        row = {
            name: "" if name.endswith("cusip") else value
            for name, value in action.row.items()
            if name not in unknown
        }
        return Action(action.kind, action.security, action.counts, row)

    def _edited(self, now: datetime, asked: Asked) -> tuple[set[int], list[Action]]:
        """Which actions the list hides now, and which it shows beyond the true ones."""
        hidden: set[int] = set()
        shown: list[Action] = []
        for edit in self._edits:
            if not edit.listed or not edit.holds(now):
                continue
            if edit.hides >= 0:
                hidden.add(edit.hides)
            if edit.shows is not None and _asks_for(asked, edit.shows):
                shown.append(edit.shows)
        return hidden, shown

    def find(self, symbol: str, day: date, kinds: Collection[Kind]) -> int | None:
        """The position of an action that counts on `day` under a ticker; `None`: there is none."""
        counts = self._actions.counts
        for at in self._actions.of({symbol}).tolist():
            then = counts[at] == day.toordinal() and self._actions.kind[at] in kinds
            if then and own_symbol(self._actions.row(at)) == symbol:
                return int(at)
        return None

    def told_from(self, index: int) -> datetime:
        """The instant from which an action can be asked for, complete or not."""
        day = date.fromordinal(int(self._actions.hinted[index]))
        return datetime.combine(day, time.min, _NEW_YORK)

    def __len__(self) -> int:
        return len(self._actions.kind)

    def counting(self, now: datetime) -> "Counting":
        """The actions that adjusted bars are made with at an instant."""
        return Counting(self, now)

    @cached_property
    def _securities(self) -> tuple[Ints, Ints]:
        order = np.argsort(self._actions.security, kind="stable")
        return order, self._actions.security[order]

    def of_security(self, security: int) -> Ints:
        """The positions of the actions that change the price of a security."""
        order, securities = self._securities
        low, high = np.searchsorted(securities, [security, security + 1])
        return np.sort(order[low:high])

    def of_symbol(self, symbol: str) -> Ints:
        """The positions of the actions that change the price of a ticker."""
        at = self._actions.of({symbol}).tolist()
        return np.array([a for a in at if own_symbol(self._actions.row(a)) == symbol], np.int64)


class Counting:
    """The actions that the source applies at one instant: told, and counting by that day."""

    def __init__(self, register: Register, now: datetime) -> None:
        self._register, self._actions = register, register._actions
        self._today = now.astimezone(_NEW_YORK).date().toordinal()
        held = [edit for edit in register._edits if edit.adjusted and edit.holds(now)]
        self._hidden = {edit.hides for edit in held}
        self._shown = [edit for edit in held if edit.shows is not None]

    def of(
        self, symbol: str, security: int | None, kinds: Collection[Kind], after: date
    ) -> list[Action]:
        """The actions of these kinds that count later than a day, in order.

        Those of the security, under whatever ticker; without one, those of the ticker.
        """
        register, actions = self._register, self._actions
        at = register.of_symbol(symbol) if security is None else register.of_security(security)
        at = at[
            np.isin(actions.kind[at], list(kinds))
            & (actions.counts[at] > after.toordinal())
            & (actions.counts[at] <= self._today)
            & (actions.announced[at] <= self._today)
        ]
        told = [register.action(index) for index in at.tolist() if index not in self._hidden]
        for edit in self._shown:
            shown = edit.shows
            assert shown is not None
            mine = own_symbol(shown.row) == symbol if security is None else None
            if (
                (mine or shown.security == security)
                and shown.kind in kinds
                and after < shown.counts <= date.fromordinal(self._today)
            ):
                told.append(shown)
        return sorted(told, key=lambda action: action.counts)


def own_symbol(row: Mapping[str, Any]) -> str:
    """The ticker whose price an action changes."""
    fields = ("symbol", "source_symbol", "acquiree_symbol", "old_symbol")
    return next(str(row[field]) for field in fields if field in row)


def _asks_for(asked: Asked, action: Action) -> bool:
    if asked.ids is not None:
        return action.row["id"] in asked.ids
    return asked.start <= action.process <= asked.end and _wanted(asked, action)


def _wanted(asked: Asked, action: Action) -> bool:
    return (
        (asked.kinds is None or action.kind in asked.kinds)
        and (asked.symbols is None or names_any(action.row, asked.symbols))
        and (asked.cusips is None or names_any(action.row, asked.cusips))
    )


def cusip(key: bytes, security: str, number: int) -> str:
    """An invented CUSIP with its check digit: the `number`-th of a security, from 0."""
    digest = blake2b(f"{security}/{number // 9}".encode(), key=key, digest_size=6).digest()
    base = "".join(_CUSIP[byte % 10] for byte in digest[:5]) + _CUSIP[digest[5] % 36]
    return with_check_digit(f"{base}{10 * (1 + number % 9)}")


def with_check_digit(eight: str) -> str:
    """A CUSIP of its first eight characters."""
    total = 0
    for place, character in enumerate(eight):
        value = _CUSIP.index(character) * (1 + place % 2)
        total += value // 10 + value % 10
    return f"{eight}{-total % 10}"
