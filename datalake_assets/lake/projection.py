"""Projections: what is made from the sessions of a year, for readers who want another order.

Belongs here: what the symbol-years and the year files share, which is what they were made from,
whether they show a year's sessions as they are now, and how a publication of them fails. Does not
belong here: making either (`symbol_years`, `year_files`), and comparing versions and digests
(`currency`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime

from datalake_assets.collection.clock import Clock
from datalake_assets.lake import currency
from datalake_assets.lake.manifest import Manifest
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

FOOTER_GUESS = 64 * 1024
"""Bytes from the end of a manifest or a year file that hold its footer: 252 sessions with their
versions and digests are about 28 KB, a row group is 1.2 KB, and 11,000 symbols have 22."""


class PublicationError(RuntimeError):
    """A year's publication did not come to its end; running it again completes it."""


class OvertakenError(PublicationError):
    """It did not, because another publication of the same year ran at the same time."""


class Projection(ABC):
    """One of the forms in which a lake holds its bars once more, year by year.

    Args:
        store: Where the lake is.
        clock: Time.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self._store, self._clock = store, clock or Clock()

    @abstractmethod
    def years(self) -> list[int]:
        """The years that were published, ascending."""

    @abstractmethod
    def made_from(self, year: int) -> Manifest:
        """The sessions that a year was made from; nothing when it never was published.

        Raises:
            BrokenFileError: What tells it is damaged.
        """

    def behind(self, year: int) -> list[date]:
        """The sessions of a year that it does not show as they are now, ascending."""
        return currency.behind(self._store, self.made_from(year), self._sessions(year))

    def follow_with(self, year: int, now: datetime) -> date | None:
        """The session with which the running year follows, once a week (`currency.follow_with`)."""
        return currency.follow_with(self.made_from(year), self._sessions(year), now.date())

    def due(self, year: int, *, weekly: bool = False) -> bool:
        """Is a year to be published now, because sessions changed or a publication was cut off?

        Args:
            year: The year.
            weekly: Whether the running year waits for the last session of a week.
        """
        made_from, sessions = self.made_from(year), self._sessions(year)
        today = self._clock.now().date()
        if weekly and currency.follow_with(made_from, sessions, today):
            return False
        return currency.unfinished(self._store, made_from, sessions)

    def _sessions(self, year: int) -> dict[date, str]:
        """The year's sessions and the versions of their objects, ascending."""
        versions = self._store.versions(layout.sessions_of(year))
        days = layout.dated(layout.SESSIONS, list(versions))
        return {day: versions[layout.session_key(day)] for day in days}


def read_made_from(store: Store, key: str, decode: Callable[[bytes, str], Manifest]) -> Manifest:
    """What a manifest or a year file says of its sessions: mostly the end of the object is enough.

    Args:
        store: Where it is.
        key: The object.
        decode: What it says, from all of its bytes and its place; the footer may be longer than
            guessed.

    Raises:
        FileNotFoundError: There is no such object.
        BrokenFileError: It is damaged.
    """
    where = store.url(key)
    with suppress(BrokenFileError):
        return Manifest.without_symbols(store.tail(key, FOOTER_GUESS), where)
    return decode(store.get(key), where)
