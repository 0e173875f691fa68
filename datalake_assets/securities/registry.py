"""The registry of securities: which identifier was given to which security, for ever.

Belongs here: giving identifiers, and keeping what was given. Does not belong here: what makes two
tickers one security (`identity`).

An identifier is a ticker and a day on which the security traded under it, like FB-2012-05-18. A
security is known again by that ticker and day, its anchor: whatever is learned of earlier or later
years, it keeps the identifier whose anchor lies in it. Rows are only ever added.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

REGISTRY = pa.schema(
    [
        pa.field("security", pa.string(), nullable=False),
        pa.field("symbol", pa.string()),
        pa.field("session", pa.date32()),
        pa.field("alias_of", pa.string()),
    ]
)
"""One row per identifier, in the order in which they were given, with its anchor: a ticker and a
session. A row with `alias_of` has no anchor: it says that an identifier that was given before means
the same security as an older one."""


class Stretch(NamedTuple):
    """A ticker's sessions that belong to one security: from its start up to the next one's.

    Args:
        symbol: The ticker.
        start: From which day on a bar of the ticker belongs to it. Bars before the ticker's first
            stretch, should they be found, belong to the first.
        first: Its first session with a bar.
    """

    symbol: str
    start: date
    first: date


@dataclass(frozen=True)
class Registry:
    """What was given so far.

    Args:
        rows: As in `REGISTRY`: security, symbol, session, alias_of.
    """

    rows: tuple[tuple[str, str | None, date | None, str | None], ...] = ()

    def resolve(self, security: str) -> str:
        """The identifier that is used today for the security that this one means."""
        aliases = self.aliases
        while security in aliases:
            security = aliases[security]
        return security

    @property
    def aliases(self) -> dict[str, str]:
        """Identifiers that are no longer used, and the older one that took their place."""
        return {row[0]: row[3] for row in self.rows if row[3] is not None}

    def assign(self, securities: Sequence[Sequence[Stretch]]) -> tuple[list[str], Registry]:
        """An identifier for each of these securities, and the registry with those that are new.

        Args:
            securities: The stretches of each, which together are all of every ticker.

        Returns:
            The identifiers, in the order of the securities, and the registry to be kept.
        """
        owners: dict[str, list[tuple[date, int]]] = {}
        for index, stretches in enumerate(securities):
            for stretch in stretches:
                owners.setdefault(stretch.symbol, []).append((stretch.start, index))
        for spans in owners.values():
            spans.sort()
        aliases = self.aliases
        found: list[list[str]] = [[] for _ in securities]
        for identifier, symbol, session, alias_of in self.rows:
            if alias_of is None and session is not None and identifier not in aliases:
                spans = owners.get(symbol or "", [])
                held = [index for start, index in spans if start <= session]
                if spans:
                    found[held[-1] if held else spans[0][1]].append(identifier)
        rows, taken = list(self.rows), {row[0] for row in self.rows}
        given = ["" for _ in securities]
        new = []
        for index, identifiers in enumerate(found):
            if not identifiers:
                new.append(index)
                continue
            # They are in the order in which they were given.
            given[index], *others = identifiers
            rows += [(other, None, None, given[index]) for other in others]
        anchors = {
            index: min((stretch.first, stretch.symbol) for stretch in securities[index])
            for index in new
        }
        for index in sorted(new, key=anchors.__getitem__):
            session, symbol = anchors[index]
            wanted = identifier = f"{symbol}-{session.isoformat()}"
            number = 1
            while identifier in taken:
                number += 1
                identifier = f"{wanted}-{number}"
            taken.add(identifier)
            given[index] = identifier
            rows.append((identifier, symbol, session, None))
        return given, Registry(tuple(rows))

    def encode(self) -> bytes:
        """As a Parquet file."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(REGISTRY)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, REGISTRY, strict=True)]
        buffer = io.BytesIO()
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=REGISTRY),
            buffer,
            compression="zstd",
            store_schema=False,
            write_page_checksum=True,
        )
        return buffer.getvalue()

    @classmethod
    def decode(cls, data: bytes, where: str) -> Registry:
        """Read back what `encode` wrote.

        Raises:
            BrokenFileError: The bytes are no whole registry.
        """
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            columns = file.read(use_threads=False).cast(REGISTRY).to_pydict()
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise BrokenFileError(
                f"{where} is no whole registry of securities ({error!r}): restore it from a backup;"
                " without it securities would get other identifiers"
            ) from error
        return cls(tuple(zip(*(columns[name] for name in REGISTRY.names), strict=True)))


def read_registry(store: Store) -> tuple[Registry, str | None]:
    """The registry of a lake and the version of its object; an empty one and None without one.

    Raises:
        BrokenFileError: It is damaged.
    """
    try:
        data, version = store.get_versioned(layout.REGISTRY)
    except FileNotFoundError:
        return Registry(), None
    return Registry.decode(data, store.url(layout.REGISTRY)), version


def keep_registry(store: Store, registry: Registry, version: str | None) -> None:
    """Keep what was added to a registry that was read with this version.

    Raises:
        ChangedError: Somebody else added to it in the meantime.
    """
    store.replace(layout.REGISTRY, registry.encode(), version)
