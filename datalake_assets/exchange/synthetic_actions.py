"""How the source of the synthetic market tells what happens: rows, dates, and since when.

Here belongs the spelling of `events` as rows of the fifteen lists. What a request selects of them
belongs in `actions`; wrong rows, in `errata`.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np

from datalake_assets.exchange.actions import cusip
from datalake_assets.exchange.draws import below, draw
from datalake_assets.exchange.events import Events, Histories, Kind
from datalake_assets.exchange.market import Ints

_DATES = 88  # the stream of draws

# How many days before it counts an action of each kind is told: at least, and a spread.
_AHEAD = {
    Kind.CASH_DIVIDEND: (14, 30),
    Kind.CASH_MERGER: (3, 17),
    Kind.FORWARD_SPLIT: (7, 20),
    Kind.NAME_CHANGE: (2, 8),
    Kind.PARTIAL_CALL: (20, 20),
    Kind.REDEMPTION: (10, 20),
    Kind.REORGANIZATION: (3, 8),
    Kind.REVERSE_SPLIT: (3, 15),
    Kind.RIGHTS_DISTRIBUTION: (7, 7),
    Kind.SPIN_OFF: (7, 14),
    Kind.STOCK_AND_CASH_MERGER: (3, 17),
    Kind.STOCK_DIVIDEND: (14, 16),
    Kind.STOCK_MERGER: (3, 17),
    Kind.UNIT_SPLIT: (5, 10),
    Kind.WORTHLESS_REMOVAL: (0, 1),
}
# How many days after it counts an action is processed.
_AFTER = {
    Kind.CASH_DIVIDEND: (10, 25),
    Kind.RIGHTS_DISTRIBUTION: (2, 6),
    Kind.CASH_MERGER: (0, 3),
    Kind.STOCK_MERGER: (0, 3),
    Kind.STOCK_AND_CASH_MERGER: (0, 3),
    Kind.WORTHLESS_REMOVAL: (30, 120),
}
_NEXT_DAY_RECORD = date(2024, 5, 28).toordinal()
"""Since trades settle after one day, the record date is the ex-date; before, the next session."""

_COUNTS_WHEN_PROCESSED = (Kind.WORTHLESS_REMOVAL,)


class SyntheticActions:
    """The actions of a synthetic market (`actions.AnnouncedActions`).

    Args:
        events: What happens, with its amounts.
        histories: To whom.
        sessions: The calendar.
        key: The seed's key, for CUSIPs.
    """

    def __init__(
        self, events: Events, histories: Histories, sessions: Sequence[date], key: bytes
    ) -> None:
        self._histories, self._sessions, self._secret = histories, sessions, key
        days = np.array([day.toordinal() for day in sessions])
        when = days[events.session]
        keys = histories.keys[events.row]
        word = draw(keys, _DATES, events.session * 16 + events.kind)
        ahead, after = (
            np.array([table.get(kind, (0, 1)) for kind in Kind]) for table in (_AHEAD, _AFTER)
        )
        process = when + after[events.kind, 0] + below(word, after[events.kind, 1])
        process = np.where(process > when, process + _to_monday(process), process)
        late = np.isin(events.kind, _COUNTS_WHEN_PROCESSED)
        counts = np.where(late, process, when)
        announced = counts - ahead[events.kind, 0] - below(word, ahead[events.kind, 1], skip=20)
        hint = np.where((word >> 60 & 7) == 0, 1 + below(word, 10, skip=30), 0)
        order = np.lexsort((events.session, events.row, events.kind, process))
        self.events = events.take(order)
        self.kind = self.events.kind
        self.security = self.events.row
        self.counts, self.process = counts[order], process[order]
        self.announced = announced[order]
        self.hinted = self.announced - hint[order]
        self._days = days
        self._word = word[order]

    def of(self, names: Collection[str]) -> Ints:
        """See `actions.AnnouncedActions.of`."""
        rows: set[int] = set()
        for name in names:
            rows |= self._holders.get(name, set())
            rows |= self._cusips.get(name, set())
        chosen = list(rows)
        events = self.events
        named = np.isin(events.row, chosen) | np.isin(events.other, chosen)
        return np.flatnonzero(named | np.isin(events.third, chosen))

    @cached_property
    def _holders(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        holdings = self._histories.holdings
        for row, ticker in zip(holdings.row.tolist(), holdings.ticker, strict=True):
            found.setdefault(ticker, set()).add(row)
        for index in np.flatnonzero(self.kind == Kind.RIGHTS_DISTRIBUTION).tolist():
            rights = self._rights_distribution(index)["new_symbol"]
            found.setdefault(rights, set()).add(int(self.security[index]))
        return found

    @cached_property
    def _cusips(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        rows = self._histories.holdings.row
        for row in np.unique(rows).tolist():
            for number in range(self._histories.cusip_number(row, self._histories.end) + 1):
                found.setdefault(self._cusip(row, number), set()).add(row)
        events = self.events
        rights = events.take(events.kind == Kind.RIGHTS_DISTRIBUTION)
        for row, session in zip(rights.row.tolist(), rights.session.tolist(), strict=True):
            found.setdefault(self._rights_cusip(row, session), set()).add(row)
        return found

    def _cusip(self, row: int, number: int) -> str:
        return cusip(self._secret, str(row), number)

    def _rights_cusip(self, row: int, session: int) -> str:
        return cusip(self._secret, f"{row} rights {session}", 0)

    # Rows

    def row(self, index: int) -> dict[str, Any]:
        """See `actions.AnnouncedActions.row`."""
        kind = Kind(self.kind[index])
        fields = _TELL[kind](self, index)
        return fields | {"process_date": date.fromordinal(int(self.process[index])).isoformat()}

    def _name(self, row: int, session: int, prefix: str = "") -> dict[str, Any]:
        """A security's ticker and CUSIP on a session."""
        (ticker,) = self._histories.tickers(np.array([row]), np.array([session]))
        number = self._histories.cusip_number(row, session)
        return {f"{prefix}symbol": ticker, f"{prefix}cusip": self._cusip(row, number)}

    def _session(self, index: int) -> int:
        return int(self.events.session[index])

    def _own(self, index: int, prefix: str = "") -> dict[str, Any]:
        return self._name(int(self.security[index]), self._session(index), prefix)

    def _partner(self, index: int, prefix: str) -> dict[str, Any]:
        return self._name(int(self.events.other[index]), self._session(index), prefix)

    def _ex(self, index: int, **more: int) -> dict[str, str]:
        """The ex-date, and others so many days from it."""
        day = self._sessions[self._session(index)]
        dates = {name: (day + timedelta(days)).isoformat() for name, days in more.items()}
        return {"ex_date": day.isoformat()} | dates

    def _record(self, index: int) -> dict[str, str]:
        session = self._session(index)
        if self._days[session] < _NEXT_DAY_RECORD:
            session = min(session + 1, len(self._sessions) - 1)
        return {"record_date": self._sessions[session].isoformat()}

    def _processed(self, index: int) -> str:
        return date.fromordinal(int(self.process[index])).isoformat()

    def _cash_dividend(self, index: int) -> dict[str, Any]:
        security = self._histories.keys[int(self.security[index])]
        fields = self._own(index) | {
            "rate": _number(self.events.cash[index]),
            "special": bool(self.events.special[index]),
            "foreign": int(security) >> 20 & 15 == 0,
        }
        if int(security) >> 24 & 63 == 0:
            fields["sub_type"] = ("return_of_capital", "interest")[int(security) >> 30 & 1]
        share = float(self.events.share[index])
        if share > 0.15:  # so large a dividend trades with a due bill
            fields["due_bill_on_date"] = self._record(index)["record_date"]
            fields["due_bill_off_date"] = self._processed(index)
        payable = {"payable_date": self._processed(index)}
        return fields | self._ex(index) | self._record(index) | payable

    def _forward_split(self, index: int) -> dict[str, Any]:
        rates = self._rates(index)
        return self._own(index) | rates | self._ex(index, record_date=-8, payable_date=-1)

    def _reverse_split(self, index: int) -> dict[str, Any]:
        row, session = int(self.security[index]), self._session(index)
        before, after = self._name(row, session - 1), self._name(row, session)
        fields = {
            "symbol": before["symbol"],
            "old_cusip": before["cusip"],
            "new_cusip": after["cusip"],
        }
        if after["symbol"] != before["symbol"]:
            fields["new_symbol"] = after["symbol"]
        return fields | self._rates(index) | self._ex(index, record_date=0)

    def _rates(self, index: int) -> dict[str, Any]:
        events = self.events
        return {"new_rate": _number(events.new[index]), "old_rate": _number(events.old[index])}

    def _stock_dividend(self, index: int) -> dict[str, Any]:
        rate = {"rate": _number(self.events.new[index])}
        return self._own(index) | rate | self._ex(index, record_date=1, payable_date=14)

    def _spin_off(self, index: int) -> dict[str, Any]:
        rates = {
            "new_rate": _number(self.events.new[index]),
            "source_rate": _number(self.events.old[index]),
        }
        names = self._own(index, "source_") | self._partner(index, "new_")
        return names | rates | self._ex(index, record_date=0)

    def _rights_distribution(self, index: int) -> dict[str, Any]:
        names = self._own(index, "source_")
        row, session = int(self.security[index]), self._session(index)
        new = {
            "new_symbol": names["source_symbol"].split(".")[0] + _RIGHTS,
            "new_cusip": self._rights_cusip(row, session),
            "rate": 1,
            "payable_date": self._processed(index),
        }
        return names | new | self._ex(index, record_date=1, expiration_date=27)

    def _ends(self, index: int, prefix: str) -> dict[str, Any]:
        """Who ends, from when on, and when its holders are paid."""
        row, session = int(self.security[index]), self._session(index)
        day = self._sessions[session].isoformat()
        dates = {"effective_date": day, "payable_date": self._processed(index)}
        return self._name(row, session - 1, prefix) | dates

    def _cash_merger(self, index: int) -> dict[str, Any]:
        fields = self._ends(index, "acquiree_") | {"rate": _number(self.events.cash[index])}
        known = self.events.other[index] >= 0
        return fields | (self._partner(index, "acquirer_") if known else {})

    def _stock_merger(self, index: int) -> dict[str, Any]:
        rates = {"acquiree_rate": 1, "acquirer_rate": _number(self.events.new[index])}
        return self._ends(index, "acquiree_") | self._partner(index, "acquirer_") | rates

    def _stock_and_cash_merger(self, index: int) -> dict[str, Any]:
        return self._stock_merger(index) | {"cash_rate": _number(self.events.cash[index])}

    def _redemption(self, index: int) -> dict[str, Any]:
        fields = self._ends(index, "") | {"rate": _number(self.events.cash[index])}
        del fields["effective_date"]
        return fields

    def _worthless_removal(self, index: int) -> dict[str, Any]:
        return self._name(int(self.security[index]), self._session(index) - 1)

    def _reorganization(self, index: int) -> dict[str, Any]:
        events = self.events
        legs = ((events.other[index], events.new[index]), (events.third[index], events.old[index]))
        movements = [
            self._name(int(of), self._session(index))
            | {"new_rate": _number(rate), "source_rate": 1}
            for of, rate in legs
            if of >= 0
        ]
        cash = {"cash_rate": _number(events.cash[index])}
        return self._ends(index, "") | cash | {"stock_movements": movements}

    def _unit_split(self, index: int) -> dict[str, Any]:
        third = self._name(int(self.events.third[index]), self._session(index), "alternate_")
        rates = {
            "old_rate": 1,
            "new_rate": _number(self.events.new[index]),
            "alternate_rate": _number(self.events.old[index]),
        }
        return self._ends(index, "old_") | self._partner(index, "new_") | third | rates

    def _name_change(self, index: int) -> dict[str, Any]:
        row, session = int(self.security[index]), self._session(index)
        return self._name(row, session - 1, "old_") | self._name(row, session, "new_")

    def _partial_call(self, index: int) -> dict[str, Any]:
        day = self._sessions[self._session(index)]
        return self._own(index) | {
            "price": _number(self.events.cash[index]),
            "lottery_type": "original",
            "lottery_date": (day - timedelta(7)).isoformat(),
            "results_publication_date": (day - timedelta(5)).isoformat(),
            "record_date": (day - timedelta(8)).isoformat(),
            "payable_date": day.isoformat(),
        }


_RIGHTS = ".RT"

_TELL: dict[Kind, Callable[[SyntheticActions, int], dict[str, Any]]] = {
    kind: getattr(SyntheticActions, f"_{kind.singular}") for kind in Kind
}


def _number(value: float) -> float | int:
    """As JSON writes it: a whole rate without a point."""
    return int(value) if value == int(value) else float(value)


def _to_monday(day: Ints) -> Ints:
    """How many days from these (ordinals) to the next weekday, 0 from one."""
    weekday = (day - 1) % 7  # 0001-01-01 was a Monday
    return np.where(weekday > 4, 7 - weekday, 0)
