"""The symbol-years: every session's bars once more, per symbol and year, as analysts read them.

Belongs here: making them from the sessions, and proving that both hold the same rows. Does not
belong here: reading and sorting the sessions (`year_bars`), the bytes of one file
(`symbol_year_file`), or reading them for a person (`reader`).

A year is made anew from its sessions each time, so there is nothing to update and no update to
lose; only what changed is uploaded. The order of writing makes it safe to be killed at any moment:

1. The manifest is read, then the sessions: whatever another publication finished is seen.
2. A manifest is written in which every object to be changed is unknown.
3. These objects are written, or removed.
4. The manifest is written that knows them.

Each write is conditional on what was found before. Of two publications of a year the later one
takes over, and the earlier one ends when it notices. Stores can't tell it in time where the later
one left an object as it had been before both, nor when it removes one. So whoever was overtaken,
and whoever overtook, looks at its objects in the end; if one is not what the manifest says, the
manifest is made to say that nobody knows it, and the next publication writes or removes it.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import verb
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.lake import currency, symbol_year_file
from datalake_assets.lake.fingerprint import Fingerprint, fingerprint, fingerprints
from datalake_assets.lake.manifest import Entry, Manifest
from datalake_assets.lake.projection import (
    OvertakenError,
    Projection,
    PublicationError,
    read_made_from,
)
from datalake_assets.lake.year_bars import YearBars
from datalake_assets.storage import layout
from datalake_assets.storage.store import (
    THREADS,
    BrokenFileError,
    ChangedError,
    Store,
    StoreError,
)
from datalake_assets.storage.upload import WORKERS, Item, Snapshot, Upload, upload

_DECODED = 16
"""One in so many of the files with the very bytes that were encoded is decoded nevertheless."""

_TOGETHER = 500
"""Symbol-years hashed in one go: one by one, numpy would spend its time on being called."""
_TRIES = 5

_ENCODED = 16
"""Symbol-years encoded in one go."""

_PATIENCE = 600.0
"""Seconds that another publication of a year is waited for: a year takes a minute, on a slow
connection a few."""


_Found: TypeAlias = "pa.Table | Fingerprint | str"
"""What came of reading a symbol-year: its bars, or their fingerprint, or why there is neither."""


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing a year did.

    Args:
        manifest: What is published now.
        uploaded, removed: Symbols whose object was written, or removed; ascending.
        written: The SHA-256 of the bytes that were encoded for each of those written.
        bytes: Size of the objects written.
        seconds: How long it took.
        retries: Writes sent again after a failure that could pass.
    """

    manifest: Manifest
    uploaded: Sequence[str] = ()
    removed: Sequence[str] = ()
    written: Mapping[str, bytes] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether both layouts hold the same rows of a year.

    Args:
        year: The year.
        sessions, symbol_years: The fingerprint of all rows, in each layout.
        differing: The symbols whose rows are not the same, and how; ascending.
        read: Symbol-years that were read.
        same_bytes: Those of them that were not decoded, as they have the bytes that were encoded.
        unread: Others, which count with what their publication noted.
    """

    year: int
    sessions: Fingerprint
    symbol_years: Fingerprint
    differing: Mapping[str, str]
    read: int = 0
    same_bytes: int = 0
    unread: int = 0

    @property
    def holds(self) -> bool:
        """Do both layouts hold the same rows?"""
        return self.sessions == self.symbol_years and not self.differing

    @property
    def whole(self) -> bool:
        """Was every symbol-year read and decoded?"""
        return not self.unread and not self.same_bytes


class SymbolYears(Projection):
    """The symbol-years of a lake.

    Args:
        store: Where the lake is.
        sender: The same place, for writing many objects: each request is tried again by the
            upload, so a store of `open_store(uri, retry=False)`. None: the store itself.
        clock: Time.
    """

    def __init__(
        self, store: Store, sender: Store | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(store, clock)
        self._sender = sender or store

    @property
    def url(self) -> str:
        """The folder that they lie in, as a person finds it."""
        return self._store.url(layout.SYMBOL_YEARS)

    def years(self) -> list[int]:  # noqa: D102
        return sorted(filter(None, map(layout.manifest_year, self._store.list(layout.MANIFESTS))))

    def manifest(self, year: int) -> Manifest:
        """What is published of a year; nothing, when it never was.

        Raises:
            BrokenFileError: The manifest is damaged.
        """
        return self._manifest(year)[0]

    def made_from(self, year: int) -> Manifest:
        """What the manifest of a year says of its sessions; nothing when it never was published.

        Raises:
            BrokenFileError: The manifest is damaged.
        """
        key = layout.manifest_key(year)
        try:
            found = read_made_from(self._store, key, Manifest.decode)
        except FileNotFoundError:
            return Manifest(year)
        return replace(_of_year(year, found, self._store.url(key)), symbols={})

    def publish(
        self,
        year: int,
        *,
        run_id: str = "",
        suspects: Iterable[str] = (),
        workers: int = WORKERS,
        policy: RetryPolicy | None = None,
        stop: threading.Event | None = None,
        display: Callable[[Snapshot], object] | None = None,
    ) -> Published:
        """Make a year's symbol-years what its sessions say, writing only what changed.

        Args:
            year: The year.
            run_id: A mark of the caller, kept in the manifest.
            suspects: Symbols to be written again even if they seem unchanged, or to be removed
                although no manifest knows them.
            workers: Objects written at the same time, at most.
            policy: How often and how long a write is tried again.
            stop: Set to end it early; what was written stays, and the next publication goes on.
            display: Where progress is shown.

        Raises:
            BrokenFileError: A session or the manifest is damaged.
            OvertakenError: Another publication of the year took over.
            PublicationError: Some objects could not be written.
            StoreError: The store did not do what it was asked.
        """
        began = self._clock.seconds()
        suspected = frozenset(suspects)
        if not suspected and (published := self._unchanged(year, run_id)):
            return Published(published, seconds=self._clock.seconds() - began)
        before, version, bars, changing = self._begin(year, run_id, suspected)
        with bars:
            done = self._write_objects(
                before, version, bars, changing, run_id, workers, policy, stop, display
            )
        return replace(done, seconds=self._clock.seconds() - began)

    def _write_objects(
        self,
        before: Manifest,
        version: str | None,
        bars: YearBars,
        changing: Sequence[str],
        run_id: str,
        workers: int,
        policy: RetryPolicy | None,
        stop: threading.Event | None,
        display: Callable[[Snapshot], object] | None,
    ) -> Published:
        """Write and remove what `_begin` announced, and then the manifest that knows it."""
        year = before.year
        objects = _Objects(self._sender, before, version)
        # In the symbols' order, so that each band of the bars is read once.
        keys = {
            layout.symbol_year_key(symbol, year): symbol
            for symbol in changing
            if symbol in bars.fingerprints
        }
        removed = [symbol for symbol in changing if symbol not in bars.fingerprints]
        encoding = _Encoding(bars, list(keys.values()))
        report = upload(
            [Item(key, partial(encoding.take, symbol)) for key, symbol in keys.items()],
            objects.put,
            workers=self._sender.writers(workers),
            policy=policy,
            stop=stop,
            display=display,
            clock=self._clock,
        )
        symbols = {**before.symbols, **dict.fromkeys(changing)}
        for key, done in report.uploaded.items():
            entry = Entry(bars.fingerprints[keys[key]], str(done.version), done.size)
            symbols[keys[key]] = entry
        manifest = before
        try:
            if report.passed:
                objects.remove(removed)
                symbols = {symbol: entry for symbol, entry in symbols.items() if entry}
            if changing or not before.whole or before.sessions != bars.sessions:
                manifest = replace(
                    before,
                    sessions=bars.sessions,
                    symbols=symbols,
                    run_id=run_id,
                    published_at=self._clock.now() if report.passed else None,
                    digests=bars.digests,
                )
                self._write(manifest, version)
        except ChangedError as error:
            self._doubt(year, run_id, changing)
            raise OvertakenError(_taken_over(year)) from error
        if not report.passed:
            raise PublicationError(_unfinished(year, report))
        # Was one under way? What it still writes after this, it sees itself.
        if None in before.symbols.values() and (spoilt := self._doubt(year, run_id, changing)):
            raise OvertakenError(
                f"{year}: a publication that this one overtook wrote over {len(spoilt):,} of its "
                "symbol-years: publishing the year again writes them"
            )
        return Published(
            manifest,
            sorted(keys[key] for key in report.uploaded),
            removed,
            encoding.digests,
            report.bytes,
            retries=report.retries,
        )

    def wait_for_other(
        self, year: int, run_id: str, *, seconds: float = _PATIENCE, stop: threading.Event
    ) -> None:
        """Wait until no other publication of a year is under way, to publish it then.

        Args:
            year: The year.
            run_id: The caller's own mark: what it left behind itself is not waited for.
            seconds: Time after which the other one counts as killed.
            stop: Set to end it early.

        Raises:
            BrokenFileError: The manifest is damaged.
        """
        deadline = self._clock.seconds() + seconds
        while self._clock.seconds() < deadline:
            found, version = self._manifest(year)
            # Whoever is at work began with a manifest.
            if version is None or found.whole or found.run_id == run_id:
                return
            if self._clock.wait(1.0, stop):
                return

    def prove(self, year: int) -> Proof:
        """Read every row of a year in both layouts, and compare them.

        Raises:
            BrokenFileError: A session or the manifest is damaged; a damaged symbol-year differs.
        """
        with self._read(year, keep=False) as bars:
            truth = bars.fingerprints
        names = sorted(truth.keys() | self.manifest(year).symbols.keys())
        return self._proof(year, sum(truth.values(), Fingerprint()), truth, names)

    def prove_published(
        self, year: int, symbols: Iterable[str] | None = None, published: Published | None = None
    ) -> Proof:
        """Read symbol-years, and compare them with what their publication made of the sessions.

        That is what the sessions held then: it proved their rows by their digests. So no session
        is read; that all symbols together have the rows of all sessions is told by the sums of
        their fingerprints. Symbol-years that are not read count with what the manifest says.

        Args:
            year: The year.
            symbols: Those to read; None for all.
            published: A publication of this process. A file that has the bytes that it encoded
                has the rows that it encoded, whose fingerprint was verified: it is not decoded.
                One in 16 is, others each day, so that an encoder that makes wrong files is found.

        Raises:
            BrokenFileError: The manifest is damaged; a damaged symbol-year differs.
        """
        manifest = self.manifest(year)
        truth = {name: entry.fingerprint for name, entry in manifest.symbols.items() if entry}
        names = sorted(manifest.symbols if symbols is None else set(symbols) & truth.keys())
        sessions = sum(manifest.digests.values(), Fingerprint())
        return self._proof(year, sessions, truth, names, self._undecoded(published))

    def _undecoded(self, published: Published | None) -> dict[str, tuple[bytes, Fingerprint]]:
        """Of the symbol-years that need no decoding, the bytes' SHA-256 and the rows' fingerprint.

        A symbol's turn comes with the day: crc32 spreads them evenly, and as 7 and 16 have no
        common factor, it comes in a job of each week as well as of each day.
        """
        if published is None:
            return {}
        turn = self._clock.now().toordinal() % _DECODED
        entries = published.manifest.symbols
        return {
            symbol: (digest, entry.fingerprint)
            for symbol, digest in published.written.items()
            if (entry := entries.get(symbol)) and zlib.crc32(symbol.encode()) % _DECODED != turn
        }

    def note_proved(self, proof: Proof) -> None:
        """Remember when all of a year was last proved; another publication's word comes first."""
        manifest, version = self._manifest(proof.year)
        if (
            proof.holds
            and proof.whole
            and manifest.whole
            and manifest.fingerprint == proof.symbol_years
        ):
            with suppress(ChangedError):
                self._write(replace(manifest, proved_at=self._clock.now()), version)

    def _proof(
        self,
        year: int,
        sessions: Fingerprint,
        truth: Mapping[str, Fingerprint],
        names: Sequence[str],
        undecoded: Mapping[str, tuple[bytes, Fingerprint]] | None = None,
    ) -> Proof:
        """Read the symbol-years of these names, and hold them against the truth."""
        nothing, differing, same_bytes = Fingerprint(), {}, 0
        known = undecoded or {}
        read_one = partial(self._read_symbol, year, known)
        unread = truth.keys() - set(names)
        total = sum((truth[name] for name in unread), nothing)
        with ThreadPoolExecutor(self._store.readers()) as threads:
            for start in range(0, len(names), _TOGETHER):
                some = names[start : start + _TOGETHER]
                # In a folder handing a file to another thread takes as long as reading it.
                found = map(read_one, some) if self._store.near else threads.map(read_one, some)
                read = dict(zip(some, found, strict=True))
                same_bytes += sum(isinstance(one, Fingerprint) for one in read.values())
                for symbol, held in _fingerprints(read).items():
                    total += held if isinstance(held, Fingerprint) else nothing
                    if held != (right := truth.get(symbol, nothing)):
                        told = f"{held} where the sessions have {right}"
                        differing[symbol] = held if isinstance(held, str) else told
        return Proof(
            year,
            sessions,
            total,
            dict(sorted(differing.items())),
            len(names),
            same_bytes,
            len(unread),
        )

    def strays(self, besides: Collection[int] = ()) -> list[str]:
        """Keys of objects among the symbol-years that no manifest knows.

        Who reads by a pattern over the folder would see them.

        Args:
            besides: Years that are left out.

        Raises:
            BrokenFileError: The manifest of another year is damaged.
        """
        known = {year: self.manifest(year).symbols for year in self.years() if year not in besides}
        found = []
        for key in self._store.list(layout.SYMBOL_YEARS):
            symbol, year = layout.symbol_year(key) or ("", 0)
            if year not in besides and symbol not in known.get(year, ()):
                found.append(key)
        return found

    def _unchanged(self, year: int, run_id: str) -> Manifest | None:
        """What is published of a year, when that is what its sessions hold."""
        published, version = self._manifest(year)
        sessions = self._sessions(year)
        if not published.whole:
            return None
        if published.sessions == sessions:
            return published
        if currency.behind(self._store, published, sessions):
            return None
        # The lake was copied, or a session was written again as it was: remembering the versions
        # is all there is to do.
        told = replace(published, sessions=sessions, run_id=run_id, published_at=self._clock.now())
        with suppress(ChangedError):
            self._write(told, version)
            return told
        return None

    def _begin(
        self, year: int, run_id: str, suspects: frozenset[str]
    ) -> tuple[Manifest, str | None, YearBars, list[str]]:
        """Find out what is to change, and let the manifest say that it is changing.

        Returns:
            The manifest as it was, the version of the one that stands now, the year's bars, and
            the symbols whose objects are to be written or removed, ascending.
        """
        error: ChangedError | None = None
        announced = False
        for _ in range(_TRIES):
            before, version = self._manifest(year)
            now = self._read(year)
            try:
                changing = _changing(before, now, suspects)
                if not changing:
                    return before, version, now, changing
                intent = {**before.symbols, **dict.fromkeys(changing)}
                intended = replace(
                    before,
                    sessions=now.sessions,
                    symbols=intent,
                    run_id=run_id,
                    published_at=None,
                    digests=now.digests,
                )
                version = self._write(intended, version)
                # Sessions that were changed before this one could be seen may have been looked at
                # by a publication that found them as they were published, and nothing to do.
                if announced or self._sessions(year) == now.sessions:
                    return before, version, now, changing
                announced = True
            except ChangedError as changed:
                # Another publication began or ended since the manifest was read, and the
                # sessions may be others by now as well.
                error, announced = changed, False
            except BaseException:
                now.close()
                raise
            now.close()
        raise OvertakenError(
            f"{year}: other publications of it came between {_TRIES} times, and nothing was "
            "written: run it again when they have ended"
        ) from error

    def _doubt(self, year: int, run_id: str, symbols: Iterable[str]) -> list[str]:
        """Let the manifest say of which of these symbols the object is not what it says.

        Args:
            year: The year.
            run_id: The caller's mark.
            symbols: Those that two publications may have written at the same time.

        Returns:
            The symbols.
        """
        keys = {symbol: layout.symbol_year_key(symbol, year) for symbol in symbols}
        while True:
            now, version = self._manifest(year)
            found = self._store.versions(layout.SYMBOL_YEARS)
            said = {symbol: entry and entry.version for symbol, entry in now.symbols.items()}
            spoilt = [
                symbol
                for symbol, key in keys.items()
                # None: a publication is at work on it, and will look itself.
                if said.get(symbol, "") is not None and said.get(symbol) != found.get(key)
            ]
            if not spoilt:
                return []
            with suppress(ChangedError):
                unknown = {**now.symbols, **dict.fromkeys(spoilt)}
                doubted = replace(now, symbols=unknown, run_id=run_id, published_at=None)
                self._write(doubted, version)
                return spoilt

    def _manifest(self, year: int) -> tuple[Manifest, str | None]:
        key = layout.manifest_key(year)
        try:
            data, version = self._store.get_versioned(key)
        except FileNotFoundError:
            return Manifest(year), None
        where = self._store.url(key)
        return _of_year(year, Manifest.decode(data, where), where), version

    def _write(self, manifest: Manifest, version: str | None) -> str:
        return self._store.replace(layout.manifest_key(manifest.year), manifest.encode(), version)

    def _read(self, year: int, *, keep: bool = True) -> YearBars:
        return YearBars.read(self._store, self._sessions(year), keep=keep)

    def _read_symbol(
        self, year: int, undecoded: Mapping[str, tuple[bytes, Fingerprint]], symbol: str
    ) -> _Found:
        """A symbol-year's bars, or their fingerprint where its bytes tell it, or why neither."""
        key = layout.symbol_year_key(symbol, year)
        try:
            data = self._store.get(key)
            digest, rows = undecoded.get(symbol, (b"", Fingerprint()))
            if digest == hashlib.sha256(data).digest():
                return rows
            return symbol_year_file.decode(data, self._store.url(key))
        except FileNotFoundError:
            return "there is no such object"
        except BrokenFileError as error:
            return str(error)


class _Encoding:
    """The files of symbol-years, encoded some at a time when the first of them is asked for.

    By whoever asks: a thread of its own would take Python's lock from those that write, and twice
    the time.

    Args:
        bars: The bars of the year.
        symbols: Whose files will be asked for, in this order.

    Attributes:
        digests: The SHA-256 of each file that was encoded.
    """

    def __init__(self, bars: YearBars, symbols: Sequence[str]) -> None:
        self.digests: dict[str, bytes] = {}
        self._bars, self._lock = bars, threading.Lock()
        self._groups = [symbols[at : at + _ENCODED] for at in range(0, len(symbols), _ENCODED)]
        self._group_of = {
            symbol: number for number, group in enumerate(self._groups) for symbol in group
        }
        self._encoded: list[dict[str, bytes] | StoreError] = []

    def take(self, symbol: str) -> bytes:
        """A symbol's file, once.

        Raises:
            StoreError: The bars could not be had.
        """
        number = self._group_of[symbol]
        with self._lock:
            for group in self._groups[len(self._encoded) : number + 1]:
                self._encoded.append(self._encode(group))
        files = self._encoded[number]
        if isinstance(files, StoreError):
            raise files
        return files.pop(symbol)

    def _encode(self, symbols: Sequence[str]) -> dict[str, bytes] | StoreError:
        try:
            encoded = symbol_year_file.encode_all(map(self._bars.of, symbols))
        except StoreError as error:
            return error
        files = dict(zip(symbols, encoded, strict=True))
        self.digests |= {symbol: hashlib.sha256(data).digest() for symbol, data in files.items()}
        return files


class _Objects:
    """The objects of a year while this publication, and no later one, writes them.

    Args:
        store: Where.
        before: What was published, whose versions are replaced.
        version: Of the manifest that says that they are being written.
    """

    def __init__(self, store: Store, before: Manifest, version: str | None) -> None:
        self._store, self._year, self._version = store, before.year, version
        self._versions = {
            layout.symbol_year_key(symbol, before.year): entry.version
            for symbol, entry in before.symbols.items()
            if entry
        }
        self._key = layout.manifest_key(before.year)
        self._overtaken = False

    def put(self, key: str, data: bytes) -> str:
        """Write one object, in the place of what the manifest knew of."""
        if self._overtaken:  # there is no need to run into each object of the later publication
            raise ChangedError(_taken_over(self._year))
        try:
            return self._store.replace(key, data, self._versions.get(key))
        except ChangedError:
            return self._settle(key, data)

    def _settle(self, key: str, data: bytes) -> str:
        """Write an object of which the manifest did not know what stands there.

        A killed publication left it, or the lake was copied, which gives every object a new
        version; or a later publication is at work, which must not be disturbed.
        """
        while True:
            try:
                _, found = self._store.get_versioned(key)
            except FileNotFoundError:
                found = None
            # Not before: what a later publication writes after this would be found, and replaced.
            self._demand()
            try:
                return self._store.replace(key, data, found)
            except ChangedError:
                continue

    def remove(self, symbols: Sequence[str]) -> None:
        """Remove the objects of these symbols."""
        if symbols:
            self._demand()
            keys = [layout.symbol_year_key(symbol, self._year) for symbol in symbols]
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(self._store.delete, keys))

    def _demand(self) -> None:
        """Make sure that no later publication took over."""
        if self._store.versions(layout.MANIFESTS).get(self._key) != self._version:
            self._overtaken = True
            raise ChangedError(_taken_over(self._year))


def _changing(before: Manifest, now: YearBars, suspects: frozenset[str]) -> list[str]:
    """The symbols whose objects must be written or removed, ascending."""
    known = {
        symbol: entry.fingerprint if entry else None for symbol, entry in before.symbols.items()
    }
    return [
        symbol
        for symbol in sorted(known.keys() | now.fingerprints.keys() | suspects)
        if symbol in suspects
        or known.get(symbol) is None
        or known[symbol] != now.fingerprints.get(symbol)
    ]


def _fingerprints(read: Mapping[str, _Found]) -> dict[str, Fingerprint | str]:
    """The fingerprint of each symbol's bars; where there are none, why."""
    tables = {name: bars for name, bars in read.items() if isinstance(bars, pa.Table)}
    lengths = [bars.num_rows for bars in tables.values()]
    starts = np.cumsum([0, *lengths], dtype=np.int64)[:-1]
    found: dict[str, Fingerprint | str] = {
        name: told for name, told in read.items() if isinstance(told, str | Fingerprint)
    }
    if not all(lengths):  # numpy would give an empty run its neighbour's hash
        return found | {name: fingerprint(bars) for name, bars in tables.items()}
    if tables:
        hashed = fingerprints(pa.concat_tables(tables.values()), starts)
        found |= dict(zip(tables, hashed, strict=True))
    return found


def _of_year(year: int, manifest: Manifest, where: str) -> Manifest:
    """The manifest, if it is of this year; else BrokenFileError."""
    if manifest.year != year:
        raise BrokenFileError(
            f"{where} is the manifest of {manifest.year}: delete it and publish {year} again"
        )
    return manifest


def _taken_over(year: int) -> str:
    return (
        f"another publication of {year} began in the meantime and took over, so this one ended: "
        "publishing the year again makes sure of it"
    )


def _unfinished(year: int, report: Upload) -> str:
    told = [report.stopped] if report.stopped else []
    told += sorted(set(report.failed.values()))[:3]
    left = len(report.failed) + len(report.pending)
    return (
        f"{year}: {left:,} of {left + len(report.uploaded):,} symbol-years "
        f"{verb(left, 'was', 'were')} not written ({'; '.join(told)}). Those that were stay; "
        "publishing the year again writes the rest"
    )
