"""From the lake's sessions and actions to its tables of securities and factors.

Belongs here: in which order the tables are derived and written. Does not belong here: how
(`identity`, `factors`, `jumps`), and when (`assets`).

Everything is derived anew each time, from evidence that is kept (`evidence`): an action that is
corrected years later changes exactly what it should. Each object is written whole, the registry of
identifiers first. Killed in between, the next run writes the same and goes on.
"""

from __future__ import annotations

import gc
import io
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.securities import factors, identity, jumps
from datalake_assets.securities.decisions import Decisions, read_decisions
from datalake_assets.securities.evidence import Evidence, gather
from datalake_assets.securities.factors import Factors
from datalake_assets.securities.findings import FINDINGS, Finding, read_findings, table_of
from datalake_assets.securities.identity import Identities
from datalake_assets.securities.jumps import Jumps
from datalake_assets.securities.registry import keep_registry, read_registry
from datalake_assets.securities.tables import CUMULATIVE, FACTORS, SECURITIES
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store

DERIVED = {
    layout.SECURITIES_TABLE: SECURITIES,
    layout.FACTORS_TABLE: FACTORS,
    layout.CUMULATIVE_TABLE: CUMULATIVE,
    layout.FINDINGS_TABLE: FINDINGS,
}
"""What is derived, and its columns."""

_log = logging.getLogger(__name__)

_TRIES = 5

_DISTINCT = (
    *("action_id", "close_before", "close", "price_factor", "total_return_factor"),
    *("dividend", "total_return", "what", "decide"),
)
"""Columns whose values hardly repeat: a dictionary of them is only built to be thrown away."""


class _Lean:
    """A third of the CPU less, by two habits that are of no use here.

    Python's collector of garbage waits: a hundred thousand small objects are made within a second,
    none of them in a cycle, and it would look through the whole process for each few thousand.
    And Arrow takes memory from the C library, which gives what was freed again at once. Its own
    allocator hands pages back to the system, and each one is cleared anew.

    Both are switches of the whole process, so other threads have them meanwhile, too: a second of
    uncollected garbage. Of several derivations at a time the first turns them, and the last turns
    them back: each by itself would restore what another one had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = (True, pa.default_memory_pool())

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """While the block runs."""
        with self._lock:
            if not self._inside:
                self._before = (gc.isenabled(), pa.default_memory_pool())
                gc.disable()
                pa.set_memory_pool(pa.system_memory_pool())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    enabled, pool = self._before
                    pa.set_memory_pool(pool)
                    if enabled:
                        gc.enable()


_lean = _Lean()


class NothingDerivedError(LookupError):
    """The lake has no table of securities yet."""


@dataclass(frozen=True)
class Material:
    """What the tables are derived from.

    Args:
        evidence: The bars that tell something.
        actions: The standing ones and those that the user added.
        decisions: The user's.
    """

    evidence: Evidence
    actions: pa.Table
    decisions: Decisions


@_lean()
def material(
    store: Store,
    sessions: Mapping[date, str],
    read: Callable[[date], pa.Table],
    actions: pa.Table,
) -> Material:
    """Gather what the tables are derived from.

    Args:
        store: Where the lake is.
        sessions: The published sessions, and the versions of their objects.
        read: Gives a session's bars (`evidence.BAR_COLUMNS`); called in threads.
        actions: The standing ones, in `actions.action.SCHEMA`.

    Raises:
        BrokenFileError: The user's decisions are damaged.
    """
    decisions = read_decisions(store)
    known = decisions.with_added(actions)
    found = gather(store, sessions, read, identity.asked_of(known))
    return Material(found, known, decisions)


@_lean()
def derive_securities(store: Store, given: Material, listed: pa.Table | None) -> Identities:
    """Derive and write the table of securities, and name what contradicts it.

    Args:
        store: Where the lake is.
        given: What it is derived from.
        listed: The newest list of assets, if there is one.

    Raises:
        BrokenFileError: The registry of identifiers is damaged.
        ChangedError: Another run derived securities at the same time.
    """
    registry, version = read_registry(store)
    decisions = given.decisions
    found = identity.identify(
        given.evidence,
        given.actions,
        listed,
        registry,
        ignored=decisions.ignored,
        accepted=decisions.accepted | decisions.added,
    )
    if found.registry != registry:
        keep_registry(store, found.registry, version)
    store.put(layout.SECURITIES_TABLE, _encoded(found.table))
    _keep_findings(store, found.findings, "identity")
    return found


@_lean()
def derive_factors(store: Store, given: Material) -> tuple[Factors, Jumps]:
    """Derive and write the tables of factors, and name what is not applied and not explained.

    Args:
        store: Where the lake is.
        given: What they are derived from.

    Raises:
        NothingDerivedError: There is no table of securities yet.
        BrokenFileError: It is damaged.
    """
    securities = read_securities(store)
    decisions = given.decisions
    found = factors.derive(
        given.evidence,
        securities,
        given.actions,
        accepted=decisions.accepted,
        ignored=decisions.ignored,
        added=decisions.added,
    )
    unexplained = jumps.find(given.evidence, securities, found.table)
    # The spans last: who reads between the two writes has the older products, which are whole.
    store.put(layout.FACTORS_TABLE, _encoded(found.table))
    store.put(layout.CUMULATIVE_TABLE, _encoded(found.cumulative))
    named = [*found.findings, *jumps.findings(unexplained, decisions.ignored_jumps)]
    _keep_findings(store, named, "action", "jump")
    return found, unexplained


def read_securities(store: Store) -> pa.Table:
    """The table of securities, in `SECURITIES`.

    Raises:
        NothingDerivedError: There is none yet.
        BrokenFileError: It is damaged.
    """
    return read_derived(store, layout.SECURITIES_TABLE)


def read_derived(store: Store, key: str) -> pa.Table:
    """One of the tables in `DERIVED`, with its schema.

    Raises:
        NothingDerivedError: There is none yet.
        BrokenFileError: It is damaged.
    """
    where, schema = store.url(key), DERIVED[key]
    try:
        file = pq.ParquetFile(pa.BufferReader(store.get(key)), page_checksum_verification=True)
        return file.read(use_threads=False).select(schema.names).cast(schema)
    except FileNotFoundError as error:
        raise NothingDerivedError(
            f"{where} is not there: derive it: datalake securities"
        ) from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BrokenFileError(
            f"{where} is no whole table ({error!r}): derive it again: datalake securities"
        ) from error


def _encoded(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    repeating = [name for name in table.column_names if name not in _DISTINCT]
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=repeating,
        store_schema=False,
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _keep_findings(store: Store, findings: Sequence[Finding], *about: str) -> None:
    """Put these findings in the place of those about the same."""
    new = table_of(findings)
    for left in reversed(range(_TRIES)):
        try:
            version: str | None = store.get_versioned(layout.FINDINGS_TABLE)[1]
        except FileNotFoundError:
            version = None
        try:
            known = read_findings(store)
        except BrokenFileError as error:
            # Else no command would mend it. Those about other things come with their own asset.
            _log.warning("%s", error)
            known = FINDINGS.empty_table()
        others = known.filter(pc.invert(pc.is_in(known["about"], pa.array(about))))
        by = [(name, "ascending") for name in ("symbol", "session", "about", "action_id")]
        merged = pa.concat_tables([others, new]).sort_by(by)
        try:
            store.replace(layout.FINDINGS_TABLE, _encoded(merged), version)
        except ChangedError:
            if left:
                continue
            raise
        return
