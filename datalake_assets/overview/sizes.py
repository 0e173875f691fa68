"""The size of the lake, and how fast it grows.

Belongs here: adding up the sizes that a listing tells. Does not belong here: reading an object, and
what storage costs (`collection.cost`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from datalake_assets.storage import layout
from datalake_assets.storage.store import Store

MEASURED = 20
"""How many of the newest sessions the growth is measured with: about a month."""

SESSIONS_A_MONTH, SESSIONS_A_YEAR = 21, 252

_MINUTES = layout.MINUTE.sessions.rpartition("/")[0]

_PARTS = (
    (f"{layout.SESSIONS}/", "session files"),
    (f"{_MINUTES}/", "minute bars"),
    (f"{layout.SYMBOL_YEARS}/", "files per symbol"),
    (f"{layout.YEARS}/", "year files"),
    (f"{layout.ACTIONS}/", "corporate actions"),
    (f"{layout.SECURITIES}/", "securities and factors"),
    (f"{layout.UNIVERSE}/", "lists of assets"),
    ("", "everything else"),
)
"""What lies below these prefixes; the first that fits counts."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the lake.

    Args:
        name: What it is.
        objects: How many objects it has.
        size: Their bytes.
    """

    name: str
    objects: int
    size: int


@dataclass(frozen=True, slots=True)
class YearSize:
    """The bytes of a year: in its sessions, per symbol, and in one file."""

    sessions: int = 0
    symbol_years: int = 0
    file: int = 0


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of the lake.

    Args:
        parts: Its parts, those that are empty left out.
        years: The bytes of each year that has any.
        a_session: Bytes that a session adds in all layouts, measured with the newest sessions;
            None without any.
    """

    parts: Sequence[Part]
    years: Mapping[int, YearSize]
    a_session: float | None

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(part.size for part in self.parts)

    @property
    def objects(self) -> int:
        """Objects in all."""
        return sum(part.objects for part in self.parts)

    @property
    def a_month(self) -> float | None:
        """Bytes that a month of 21 sessions adds."""
        return None if self.a_session is None else self.a_session * SESSIONS_A_MONTH

    @property
    def a_year(self) -> float | None:
        """Bytes that a year of 252 sessions adds."""
        return None if self.a_session is None else self.a_session * SESSIONS_A_YEAR


def sizes(store: Store) -> Sizes:
    """The size of a lake, from one listing of it. No object is read.

    Raises:
        StoreError: The lake can't be reached.
    """
    return measured(store.sizes())


def measured(listing: Mapping[str, int]) -> Sizes:
    """The size of a lake with these objects.

    Args:
        listing: The bytes of each key.
    """
    parts: dict[str, list[int]] = {name: [] for _, name in _PARTS}
    by_symbol: dict[int, int] = defaultdict(int)
    in_files: dict[int, int] = defaultdict(int)
    for key, size in listing.items():
        parts[next(name for prefix, name in _PARTS if key.startswith(prefix))].append(size)
        if found := layout.symbol_year(key):
            by_symbol[found[1]] += size
        elif year := layout.year_of_file(key):
            in_files[year] += size
    by_session = {
        day: listing[layout.session_key(day)]
        for day in layout.dated(layout.SESSIONS, list(listing))
    }
    of_sessions: dict[int, int] = defaultdict(int)
    for day, size in by_session.items():
        of_sessions[day.year] += size
    return Sizes(
        parts=[Part(name, len(each), sum(each)) for name, each in parts.items() if each],
        years={
            year: YearSize(of_sessions.get(year, 0), by_symbol.get(year, 0), in_files.get(year, 0))
            for year in sorted(of_sessions.keys() | by_symbol.keys() | in_files.keys())
        },
        a_session=_a_session(by_session, of_sessions, by_symbol, in_files),
    )


def _a_session(
    by_session: Mapping[date, int], of_sessions: Mapping[int, int], *projected: Mapping[int, int]
) -> float | None:
    """The newest sessions' files on average, and as much more as years have that have both."""
    newest = [by_session[day] for day in sorted(by_session)[-MEASURED:]]
    if not newest:
        return None
    ratios = 1.0
    for sizes_of in projected:
        both = of_sessions.keys() & sizes_of.keys()
        in_sessions = sum(of_sessions[year] for year in both)
        ratios += sum(sizes_of[year] for year in both) / in_sessions if in_sessions else 0.0
    return sum(newest) / len(newest) * ratios
