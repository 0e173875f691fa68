"""Registration: which files a table format is told of, so that it shows the lake as it is now.

Belongs here: choosing year files and sessions so that every session is shown once, and copying
them to names of their own. Does not belong here: the table itself (`iceberg`).

The lake replaces a year file and a session under the same key. A table that named that key would
show other bytes in its old snapshots, and garbage in a query that runs meanwhile. So it names
copies, which nobody writes to again. What a copy shows is read from the copy's own footer: a file
that was replaced while it was copied is noticed.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from datalake_assets.lake import currency, session_file
from datalake_assets.lake.fingerprint import Fingerprint
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.year_files import YearFiles, of_year
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

TABLE = "datalake.bars"
"""The table, unless told otherwise: its namespace and its name."""

KEEP_DAYS = 30
"""Days, unless told otherwise, for which a snapshot can be read after the next one took its place.
The file of the running year is copied once for each of them."""


class RegistrationError(RuntimeError):
    """The lake was not registered: what stands in the way, and what to do."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a year file or of a session.

    Args:
        key: Where it lies.
        footer: Its last bytes, at least its footer.
        made_from: The sessions that it shows, with the digest of each one's rows.
    """

    key: str
    footer: bytes
    made_from: Manifest

    @property
    def shown(self) -> int | date:
        """The year of a year file, or the day of a session."""
        return _shown(self.key)

    @property
    def bars(self) -> int:
        """How many rows it has."""
        return sum(digest.rows for digest in self.made_from.digests.values())


@dataclass(frozen=True, slots=True)
class Choice:
    """The files that show the lake.

    Args:
        kept: Copies that show what they showed: nothing of it changed since.
        wanted: Year files (a year) and sessions (a day) to be copied, ascending, and for a year
            file the sessions that it must show.
    """

    kept: Sequence[Copy]
    wanted: Mapping[int | date, Manifest]


class Registrar:
    """Chooses and copies the files that a table is told of.

    Args:
        store: Where the lake is.
        table: The name of the table's folder.
    """

    def __init__(self, store: Store, table: str) -> None:
        self._store, self._table = store, table
        self._files = YearFiles(store)

    def opened(self, keys: Iterable[str]) -> list[Copy]:
        """What these copies show; one that is gone or damaged shows nothing, and is left out."""
        with ThreadPoolExecutor(self._store.readers()) as threads:
            return list(filter(None, threads.map(self._whole, keys)))

    def choose(self, held: Collection[Copy]) -> Choice:
        """The files that show every session once, as it lies in the lake now.

        Of a year these are its year file and the sessions that it lacks. A year file that shows a
        session which was replaced or removed since is of no use: the sessions themselves are taken
        until there is a newer one.

        Args:
            held: The copies that there are; of those that show the same the first one stays.
        """
        versions = self._store.versions(layout.SESSIONS)
        years: dict[int, dict[date, str]] = {}
        for day in layout.dated(layout.SESSIONS, list(versions)):
            years.setdefault(day.year, {})[day] = versions[layout.session_key(day)]
        with ThreadPoolExecutor(self._store.readers()) as threads:
            chosen = list(threads.map(lambda year: self._of_year(year, years[year], held), years))
        return Choice(
            [copy for each in chosen for copy in each.kept],
            {what: told for each in chosen for what, told in each.wanted.items()},
        )

    def copied(self, wanted: Mapping[int | date, Manifest]) -> list[Copy] | None:
        """Copy these files; None when one was replaced or removed before it was copied.

        A session without a bar has nothing to show, and PyIceberg can't tell of its file: it has no
        copy.

        Raises:
            BrokenFileError: A session is damaged.
            StoreError: The store did not do what it was asked.
        """
        with ThreadPoolExecutor(self._store.readers()) as threads:
            copies = list(threads.map(self._copy, wanted))
        found = [copy for copy in copies if copy]
        if len(found) < len(wanted) or not all(_shows(copy, wanted[copy.shown]) for copy in found):
            return None
        for copy in found:
            if not copy.bars:
                self._store.delete(copy.key)
        return [copy for copy in found if copy.bars]

    def _of_year(self, year: int, versions: Mapping[date, str], held: Collection[Copy]) -> Choice:
        there = [copy for copy in held if copy.made_from.year == year]
        bases: list[Copy | Manifest] = [
            copy
            for copy in there
            if isinstance(copy.shown, int) and not self._changed(copy.made_from, versions)
        ]
        with suppress(BrokenFileError):  # doctor and the next publication tell of it
            own = self._files.made_from(year)
            if own.whole and not self._changed(own, versions):
                bases.append(own)
        # The first of those that lack least, so a copy that is as good as the file stays.
        base = min(bases, key=lambda base: len(_lacking(base, versions)), default=Manifest(year))
        kept: list[Copy] = []
        wanted: dict[int | date, Manifest] = {}
        if isinstance(base, Copy):
            kept.append(base)
        elif base.sessions:
            wanted[year] = base
        lacking = set(_lacking(base, versions))
        days = {day: copy for copy in reversed(there) if (day := copy.shown) in lacking}
        # The version of a copy is not that of the session, so their digests are compared.
        told = {day: digest for copy in days.values() for day, digest in _digests(copy)}
        changed = self._changed(Manifest(year, dict.fromkeys(told, ""), digests=told), versions)
        for day in sorted(lacking):
            if day in days and day not in changed:
                kept.append(days[day])
            else:
                wanted[day] = Manifest(year)
        return Choice(kept, wanted)

    def _changed(self, told: Manifest, versions: Mapping[date, str]) -> set[date]:
        """The sessions that it shows other than they are now, or that are gone."""
        return told.sessions.keys() & set(currency.behind(self._store, told, versions))

    def _copy(self, shown: int | date) -> Copy | None:
        if isinstance(shown, date):
            source = layout.session_key(shown)
        else:
            source = layout.year_file_key(shown)
        key = layout.registered_key(self._table, shown, secrets.token_hex(8))
        try:
            self._store.copy(source, key)
        except FileNotFoundError:
            return None
        return self._open(key)

    def _whole(self, key: str) -> Copy | None:
        try:
            return self._open(key)
        except (FileNotFoundError, BrokenFileError):
            return None

    def _open(self, key: str) -> Copy:
        shown, where = _shown(key), self._store.url(key)
        footer = session_file.read_footer(self._store, key)
        if not isinstance(shown, date):
            told = of_year(shown, Manifest.without_symbols(footer, where), where)
            return Copy(key, footer, told)
        digest = session_file.digest(footer, where)
        return Copy(key, footer, Manifest(shown.year, {shown: ""}, digests={shown: digest}))


def _shown(key: str) -> int | date:
    shown = layout.registered(key)
    if shown is None:
        raise ValueError(f"{key!r} is no copy that a table registers")
    return shown


def _digests(copy: Copy) -> Iterable[tuple[date, Fingerprint]]:
    return copy.made_from.digests.items()


def _shows(copy: Copy, expected: Manifest) -> bool:
    """Does it show what it was copied for? A session is what it is."""
    return isinstance(copy.shown, date) or copy.made_from.digests == expected.digests


def _lacking(base: Copy | Manifest, versions: Mapping[date, str]) -> list[date]:
    """The sessions that a year file lacks, ascending."""
    told = base.made_from if isinstance(base, Copy) else base
    return sorted(versions.keys() - told.sessions.keys())
