"""Who held which ticker in a recording, from a file of renames beside the bars.

Here belongs the reading of that file and the question whose bars a ticker means. The bars belong
in `recorded`, actions in `recorded_actions`.
"""

import csv
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path

FOREVER = date.max


class NamesError(ValueError):
    """A file of names that cannot be used; the message names the file, the fault and the row."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A security under one ticker: from the day `first` up to the day `stop`, not included.

    `renamed` tells whether it came by a rename, `left` whether it went on under another ticker.
    """

    security: int
    ticker: str
    first: date
    stop: date
    renamed: bool
    left: bool


class RecordedNames:
    """Holdings of the tickers of a recording.

    Args:
        path: A CSV file with the columns `day`, `old_symbol`, `new_symbol`: on that session the
            security that had traded as the one traded as the other for the first time. Without a
            new symbol: it ended, and later bars under its ticker are another security's. `None`:
            nobody was ever renamed.
        bars: Each ticker's sessions with a bar, ascending.

    Raises:
        NamesError: a column is missing, a day is none, a security is renamed to its own ticker.
    """

    def __init__(self, path: Path | None, bars: Mapping[str, Sequence[date]]) -> None:
        changes = [] if path is None else _read(path)
        self._made: list[Holding] = []
        self._count = 0
        holder: dict[str, tuple[int, date, bool]] = {}
        released: dict[str, date] = {}
        for day, same_day in groupby(changes, key=lambda change: change[0]):
            moving = []
            # All leave before anybody comes: a ticker may pass from one to another on one day.
            for _, old, new in same_day:
                held = holder.pop(old) if old in holder else self._new(released.get(old))
                security, since, renamed = held
                self._made.append(Holding(security, old, since, day, renamed, bool(new)))
                released[old] = day
                moving.append((security, new))
            for security, new in moving:
                if new:
                    # Whoever had the ticker until now ended without a word.
                    self._end(new, holder.pop(new, None), released, day, bars.get(new, ()))
                    holder[new] = (security, day, True)
        for ticker, (security, since, renamed) in holder.items():
            self._made.append(Holding(security, ticker, since, FOREVER, renamed, left=False))
        for ticker, days in bars.items():
            if ticker not in holder and _between(days, released.get(ticker, date.min), FOREVER):
                security, since, renamed = self._new(released.get(ticker))
                self._made.append(Holding(security, ticker, since, FOREVER, renamed, left=False))
        self._made.sort(key=lambda h: (h.ticker, h.first))
        self.by_ticker: dict[str, list[Holding]] = {}
        self.by_security: dict[int, list[Holding]] = {}
        for holding in self._made:
            self.by_ticker.setdefault(holding.ticker, []).append(holding)
            self.by_security.setdefault(holding.security, []).append(holding)
        for of in self.by_security.values():
            of.sort(key=lambda holding: holding.first)
        self.changes = changes

    def _new(self, released: date | None) -> tuple[int, date, bool]:
        self._count += 1
        return self._count - 1, released or date.min, False

    def _end(
        self,
        ticker: str,
        held: tuple[int, date, bool] | None,
        released: dict[str, date],
        day: date,
        days: Sequence[date],
    ) -> None:
        """Closes the holding of a ticker that another security takes on `day`, if there is one."""
        if held is None:
            if not _between(days, released.get(ticker, date.min), day):
                return
            held = self._new(released.get(ticker))
        security, since, renamed = held
        self._made.append(Holding(security, ticker, since, day, renamed, left=False))
        released[ticker] = day

    def held(self, symbol: str, asof: date) -> int | None:
        """See `Market.held`."""
        for holding in self.by_ticker.get(symbol, ()):
            began = holding.first < asof if holding.renamed else holding.first <= asof
            over = holding.stop < asof if holding.left else holding.stop <= asof
            if began and not over:
                return holding.security
        return None

    def at(self, symbol: str, day: date) -> int | None:
        """Which security traded under the ticker on a day."""
        of = self.by_ticker.get(symbol, ())
        return next((h.security for h in of if h.first <= day < h.stop), None)

    def ticker(self, security: int, day: date) -> str:
        """Under which ticker a security traded on a day; before and after, its first and last."""
        of = self.by_security[security]
        return next((h.ticker for h in of if day < h.stop), of[-1].ticker)


def _between(days: Sequence[date], first: date, stop: date) -> bool:
    return bisect_left(days, first) < bisect_left(days, stop)


def _read(path: Path) -> list[tuple[date, str, str]]:
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if missing := {"day", "old_symbol", "new_symbol"} - set(rows.fieldnames or ()):
            raise NamesError(
                f"{path}: no column {', '.join(sorted(missing))}; names have the columns day, "
                "old_symbol, new_symbol"
            )
        found = []
        for number, row in enumerate(rows, 1):
            old, new = row["old_symbol"] or "", row["new_symbol"] or ""
            try:
                day = date.fromisoformat(row["day"] or "")
            except ValueError as error:
                raise NamesError(f"{path}: row {number}: {row['day']!r} is no day") from error
            if not old or old == new:
                raise NamesError(
                    f"{path}: row {number}: {old!r} becomes {new!r}; give the ticker before the "
                    "day and another one, or none for an end"
                )
            found.append((day, old, new))
    return sorted(found)
