"""Two lakes, object by object: does a changed program still write the same?

Of each session, published or waiting for a repair: its bars, its ledger and its audit. Of each
year that is published: the sessions it was made of, what each of them and each symbol hashes to,
and the bars in every symbol-year and in the year file. Of each snapshot: its rows. Not compared is
what says when and by which run something was written. With `--bytes`, files must also be equal to
the byte where nothing of that is in them: a session's and a year file's without its footer, a
symbol-year's whole.

    python -m benchmarks.compare_lakes ONE OTHER [--bytes] [--most 10]

Exits with 0 when they are equal, and with 1 and the first differences when they are not. Other
objects of a lake (actions, securities, restatements, reports) are counted and not compared.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow.parquet as pq

from datalake_assets.lake import session_file, symbol_year_file
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.session_file import Summary
from datalake_assets.lake.year_file import Rows, YearFile, merged
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store

Compare = Callable[[bytes, bytes, str], Iterator[str]]
"""What differs in two objects of this key."""


def main() -> None:
    """Compare, and tell."""
    given = _arguments()
    one, other = open_store(given.one), open_store(given.other)
    found = list(islice(differences(one, other, to_the_byte=given.bytes), given.most))
    for difference in found:
        print(difference)
    if found:
        sys.exit(1)
    counted: dict[str, int] = {}
    for key in one.list(""):
        counted[_kind(key)] = counted.get(_kind(key), 0) + 1
    assert counted, f"{given.one} holds nothing"
    print("equal: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(counted.items())))


def differences(one: Store, other: Store, *, to_the_byte: bool = False) -> Iterator[str]:
    """Each difference between two lakes, as a line.

    Args:
        one: A lake.
        other: The one that is held against it.
        to_the_byte: Whether files must also be equal to the byte.

    Raises:
        BrokenFileError: An object is damaged.
    """
    kinds: dict[str, Compare] = {
        SESSIONS: _session,
        INCOMPLETE: _session,
        MANIFESTS: _manifest,
        SYMBOL_YEARS: _symbol_year,
        YEAR_FILES: _year_file,
        SNAPSHOTS: _rows,
    }
    keys = [[key for key in store.list("") if _kind(key) in kinds] for store in (one, other)]
    for key in sorted(set(keys[0]).symmetric_difference(keys[1])):
        yield f"{key} is only in {one.uri if key in keys[0] else other.uri}"
    for key in sorted(set(keys[0]).intersection(keys[1])):
        here, there = bytes(one.get(key)), bytes(other.get(key))
        kind = _kind(key)
        yield from kinds[kind](here, there, key)
        if to_the_byte and kind in (SESSIONS, INCOMPLETE, SYMBOL_YEARS, YEAR_FILES):
            cut = bytes if kind == SYMBOL_YEARS else without_footer
            if cut(here) != cut(there):
                yield f"{key}: other bytes"
    for kind in (SESSIONS, INCOMPLETE):
        both = [key for key in keys[0] if _kind(key) == kind and key in set(keys[1])]
        audits = [_audits(store, both) for store in (one, other)]
        for key, *told in zip(both, *audits, strict=True):
            if told[0] != told[1]:
                yield f"{key}: another audit: {_first_unequal(*told)}"


SESSIONS, INCOMPLETE = "sessions", "incomplete sessions"
MANIFESTS, SYMBOL_YEARS, YEAR_FILES = "manifests", "symbol-years", "year files"
SNAPSHOTS = "snapshots"
NOT_COMPARED = "objects not compared"


def _kind(key: str) -> str:
    if layout.manifest_year(key) is not None:
        return MANIFESTS
    if layout.symbol_year(key) is not None:
        return SYMBOL_YEARS
    if layout.year_of_file(key) is not None:
        return YEAR_FILES
    for prefix, kind in (
        *((folders.sessions, SESSIONS) for folders in layout.FOLDERS.values()),
        *((folders.incomplete, INCOMPLETE) for folders in layout.FOLDERS.values()),
        (layout.UNIVERSE, SNAPSHOTS),
    ):
        if key.startswith(prefix + "/"):
            return kind
    return NOT_COMPARED


def _session(one: bytes, other: bytes, key: str) -> Iterator[str]:
    here, there = (session_file.decode(data, key) for data in (one, other))
    if not here.bars.equals(there.bars):
        yield f"{key}: other bars: {_first_unequal_row(here.bars, there.bars)}"
    if here.ledger != there.ledger:
        told = [at.ledger.to_json() for at in (here, there)]
        yield f"{key}: another ledger: {_first_unequal_text(*told)}"


def _manifest(one: bytes, other: bytes, key: str) -> Iterator[str]:
    yield from _made_from(*(Manifest.decode(data, key) for data in (one, other)), key)


def _made_from(here: Manifest, there: Manifest, key: str) -> Iterator[str]:
    if here.whole != there.whole:
        yield f"{key}: whole in one lake only"
    # Versions are the store's own: two stores give the same bytes different ones.
    of_both: dict[str, list[list[Any]]] = {
        "sessions": [sorted(at.sessions) for at in (here, there)],
        "digests": [sorted(at.digests.items()) for at in (here, there)],
        "symbols": [
            [(name, entry and entry.fingerprint) for name, entry in sorted(at.symbols.items())]
            for at in (here, there)
        ],
    }
    for what, told in of_both.items():
        if told[0] != told[1]:
            yield f"{key}: other {what}: {_first_unequal(*told)}"


def _symbol_year(one: bytes, other: bytes, key: str) -> Iterator[str]:
    if one == other:
        return
    here, there = (symbol_year_file.decode(data, key) for data in (one, other))
    if not here.equals(there):
        yield f"{key}: other bars: {_first_unequal_row(here, there)}"


def _year_file(one: bytes, other: bytes, key: str) -> Iterator[str]:
    here, there = (YearFile(data, key) for data in (one, other))
    yield from _made_from(here.made_from, there.made_from, key)
    tables = [
        merged([file.read([number]) for number in range(file.count)] or [Rows.none()]).table()
        for file in (here, there)
    ]
    if not tables[0].equals(tables[1]):
        yield f"{key}: other bars: {_first_unequal_row(*tables)}"


def _rows(one: bytes, other: bytes, key: str) -> Iterator[str]:
    here, there = (
        pq.read_table(io.BytesIO(data)).replace_schema_metadata() for data in (one, other)
    )
    if not here.equals(there):
        yield f"{key}: other rows: {_first_unequal_row(here, there)}"


def _audits(store: Store, keys: Sequence[str]) -> list[Any]:
    found = LakeFiles(store).summaries(keys)
    return [summary.audit if isinstance(summary, Summary) else summary for summary in found]


def without_footer(data: bytes) -> bytes:
    """A Parquet file's pages: the file without its footer, which may tell when it was written.

    https://parquet.apache.org/docs/file-format/
    """
    return data[: -8 - int.from_bytes(data[-8:-4], "little")]


def _first_unequal_row(one: Any, other: Any) -> str:
    if one.num_rows != other.num_rows:
        return f"{one.num_rows:,} and {other.num_rows:,} rows"
    return _first_unequal(one.to_pylist(), other.to_pylist())


def _first_unequal(one: Sequence[Any], other: Sequence[Any]) -> str:
    if len(one) != len(other):
        return f"{len(one):,} and {len(other):,} of them"
    found = ((here, there) for here, there in zip(one, other, strict=True) if here != there)
    here, there = next(found, ("not a number", "not a number"))
    return f"{here} and {there}"


def _first_unequal_text(one: str, other: str) -> str:
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    return f"…{one[max(0, at - 40) : at + 80]} and …{other[max(0, at - 40) : at + 80]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("one", help="a lake: a folder, or s3://bucket/prefix")
    parser.add_argument("other", help="another one")
    parser.add_argument("--bytes", action="store_true", help="also the bytes of the files")
    parser.add_argument("--most", type=int, default=10, help="differences that are told")
    return parser.parse_args()


if __name__ == "__main__":
    main()
