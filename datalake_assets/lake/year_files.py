"""The year files: every session's bars once more, all symbols of a year in one file.

Belongs here: making them from the sessions, and proving that both hold the same rows. Does not
belong here: reading and sorting the sessions (`year_bars`), the bytes of one file (`year_file`), or
reading them for a person (`reader`).

A file is made anew from its sessions and replaced in one conditional write, so a publication that
is killed leaves the file before. Of two publications at once the later one to write finds that the
file changed, and looks again whether there is anything left to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Self

import numpy as np

from datalake_assets.lake import currency, year_file
from datalake_assets.lake.fingerprint import Fingerprint, RowHashes
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.projection import OvertakenError, Projection, read_made_from
from datalake_assets.lake.year_bars import YearBars
from datalake_assets.lake.year_file import YearFile
from datalake_assets.securities.evidence import days_of
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError

_TRIES = 5
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """What publishing a year did.

    Args:
        made_from: The sessions that the file shows now; none when there is no file.
        written: Whether the file was written.
        seconds: How long it took.
    """

    made_from: Manifest
    written: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FileProof:
    """Whether a year file holds the rows of its sessions.

    Args:
        year: The year.
        sessions: The fingerprint of all rows of the sessions that it was made from.
        file: Of all rows in the file.
        differing: The sessions whose rows are not the same, and how; ascending.
        broken: Why the file could not be read, or is not in order; empty when it is whole.
        symbols: How many it has.
        bytes: Its size.
    """

    year: int
    sessions: Fingerprint
    file: Fingerprint
    differing: Mapping[date, str] = field(default_factory=dict)
    broken: str = ""
    symbols: int = 0
    bytes: int = 0

    @classmethod
    def of_nothing(cls, year: int, broken: str = "") -> Self:
        """That of a year without a file; `broken` tells why there should be one."""
        return cls(year, Fingerprint(), Fingerprint(), broken=broken)

    @property
    def holds(self) -> bool:
        """Does the file hold the same rows?"""
        return self.sessions == self.file and not self.differing and not self.broken

    @property
    def disagreement(self) -> str:
        """What is wrong, in words."""
        if self.broken:
            return self.broken
        first = [f"{day}: {why}" for day, why in list(self.differing.items())[:3]]
        return (
            f"{self.year}: the year file differs from {len(self.differing):,} of its sessions "
            f"({'; '.join(first)})"
        )


class YearFiles(Projection):
    """The year files of a lake."""

    @property
    def url(self) -> str:
        """The folder that they lie in, as a person finds it."""
        return self._store.url(layout.YEARS)

    def years(self) -> list[int]:  # noqa: D102
        return sorted(filter(None, map(layout.year_of_file, self._store.list(layout.YEARS))))

    def made_from(self, year: int) -> Manifest:
        """The sessions that a year's file was made from; nothing when there is no file.

        Raises:
            BrokenFileError: The file is damaged.
        """
        key = layout.year_file_key(year)
        where = self._store.url(key)
        try:
            found = read_made_from(self._store, key, _all_of_it)
        except FileNotFoundError:
            return Manifest(year)
        return of_year(year, found, where)

    def publish(self, year: int, *, run_id: str = "", anew: bool = False) -> PublishedFile:
        """Make a year's file what its sessions say; it is written only when they changed.

        A file that is damaged is made anew. That of a year without sessions is removed.

        Args:
            year: The year.
            run_id: A mark of the caller, kept in the file.
            anew: Write it even if its sessions are the same.

        Raises:
            BrokenFileError: A session is damaged.
            OvertakenError: Other publications of the year came between.
            StoreError: The store did not do what it was asked.
        """
        began = self._clock.seconds()
        key = layout.year_file_key(year)
        for _ in range(_TRIES):
            # Before the file is read: if it is replaced in between, so is its version.
            version = self._store.versions(layout.YEARS).get(key)
            sessions = self._sessions(year)
            if not sessions:
                self._store.delete(key)
                return PublishedFile(Manifest(year), seconds=self._clock.seconds() - began)
            told = Manifest(year)
            with suppress(BrokenFileError):
                told = self.made_from(year)
            if told.whole and not anew and not currency.behind(self._store, told, sessions):
                return PublishedFile(told, seconds=self._clock.seconds() - began)
            with YearBars.read(self._store, sessions) as bars:
                told = Manifest(
                    year,
                    sessions=bars.sessions,
                    run_id=run_id,
                    published_at=self._clock.now(),
                    digests=bars.digests,
                )
                data = year_file.encode(bars, told)
            try:
                self._store.replace(key, data, version)
            except ChangedError:
                anew = False  # another publication just did
                continue
            return PublishedFile(told, written=True, seconds=self._clock.seconds() - began)
        raise OvertakenError(
            f"{year}: other publications of its year file came between {_TRIES} times, and nothing "
            "was written: run it again when they have ended"
        )

    def prove(self, year: int) -> FileProof:
        """Read every row of a year's file, and compare them with its sessions.

        What the sessions held is told by their digests, which the publication verified.
        """
        key = layout.year_file_key(year)
        where = self._store.url(key)
        try:
            data = self._store.get(key)
            file = YearFile(data, where)
            told = of_year(year, file.made_from, where).digests
            found, symbols = _digests(file)
        except FileNotFoundError:
            return FileProof.of_nothing(year, f"{where} does not exist")
        except BrokenFileError as error:
            return FileProof.of_nothing(year, str(error))
        nothing = Fingerprint()
        differing = {
            day: f"{found.get(day, nothing)} where the session has {told.get(day, nothing)}"
            for day in sorted(told.keys() | found.keys())
            if found.get(day, nothing) != told.get(day, nothing)
        }
        truth, held = (sum(each.values(), nothing) for each in (told, found))
        return FileProof(year, truth, held, differing, symbols=symbols, bytes=len(data))


def of_year(year: int, made_from: Manifest, where: str) -> Manifest:
    """What a file was made from, if it is of this year; else BrokenFileError."""
    if made_from.year != year:
        raise BrokenFileError(
            f"{where} is no whole year file (it is of {made_from.year}): publish its year again"
        )
    return made_from


def _all_of_it(data: bytes, where: str) -> Manifest:
    return YearFile(data, where).made_from


def _digests(file: YearFile) -> tuple[dict[date, Fingerprint], int]:
    """What the rows of each session in a file hash to, and how many symbols it has.

    Raises:
        BrokenFileError: The file is damaged, or not sorted.
    """
    sums: dict[int, Fingerprint] = {}
    last, symbols = "", 0
    for number in range(file.count):
        rows = file.read([number])
        if not rows.symbols:
            continue
        bars = rows.table()
        days = days_of(bars["session"])
        begins = np.zeros(len(days), bool)
        begins[np.cumsum(rows.counts) - rows.counts] = True
        if rows.symbols[0] <= last or not (begins[1:] | (days[1:] > days[:-1])).all():
            raise file.unsorted()
        last, symbols = rows.symbols[-1], symbols + len(rows.symbols)
        hashes = RowHashes.of(bars)
        order = np.argsort(days, kind="stable")
        starts = np.flatnonzero(np.append(True, np.diff(days[order]) != 0))
        told = hashes.ordered(order).sums(starts)
        for day, each in zip(days[order][starts].tolist(), told, strict=True):
            sums[day] = sums.get(day, Fingerprint()) + each
    return {date.fromordinal(_EPOCH + day): sums[day] for day in sorted(sums)}, symbols
