"""What is derived from a lake's sessions and actions: gathered for it, and held against it.

Belongs here: giving a derivation what the lake holds, and the examination of `data/actions` and
`data/securities`. Does not belong here: how securities and factors are derived (`securities`), how
the log of actions is kept (`actions.log`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import date, datetime
from functools import partial

import pyarrow as pa

from datalake_assets.actions.log import ActionLog
from datalake_assets.lake import session_file
from datalake_assets.lake.examination import AHEAD, Defect, Progress, Subject, removal
from datalake_assets.lake.files import LakeFiles
from datalake_assets.securities.decisions import read_decisions
from datalake_assets.securities.derivation import (
    DERIVED,
    Material,
    NothingDerivedError,
    derive_factors,
    derive_securities,
    material,
    read_derived,
)
from datalake_assets.securities.evidence import BAR_COLUMNS, read_quarter
from datalake_assets.securities.registry import read_registry
from datalake_assets.securities.tables import DERIVE
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, UnreadableError, open_store

_Found = tuple[int, list[Defect]]


def gathered(lake: LakeFiles, into: Store | None = None) -> Material:
    """What securities and factors are derived from, as the lake holds it now.

    Args:
        lake: The lake.
        into: Where evidence and decisions are, and evidence is kept; None for the lake itself.

    Raises:
        BrokenFileError: A session, the log of actions or the user's decisions are damaged.
    """
    store = lake.store
    versions = store.versions(layout.SESSIONS)

    def read(day: date) -> pa.Table:
        key = layout.session_key(day)
        return session_file.decode_columns(store.get(key), store.url(key), BAR_COLUMNS)

    days = layout.dated(layout.SESSIONS, list(versions))
    sessions = {day: versions[layout.session_key(day)] for day in days}
    return material(into or store, sessions, read, ActionLog(store).current())


def subjects(lake: LakeFiles, now: datetime) -> list[Subject]:
    """The kinds of objects below `data/actions` and `data/securities`, for `examine`.

    Args:
        lake: The lake.
        now: The time, UTC.
    """
    return [
        Subject(
            "log of corporate actions",
            partial(_log, lake.store, now),
            lambda key: layout.action_log_number(key) is not None,
        ),
        Subject(
            "corporate actions against their log",
            partial(_standing, lake.store),
            layout.STANDING_ACTIONS.__eq__,
        ),
        Subject("your decisions", partial(_decisions, lake.store), layout.DECISIONS.__eq__),
        Subject(
            "identifiers of securities", partial(_registry, lake.store), layout.REGISTRY.__eq__
        ),
        Subject(
            "evidence of securities",
            partial(_evidence, lake.store),
            lambda key: layout.evidence_quarter(key) is not None,
        ),
        Subject(
            "securities and factors against sessions and actions",
            partial(_tables, lake),
            DERIVED.__contains__,
        ),
    ]


def _log(store: Store, now: datetime, progress: Progress) -> _Found:
    """Each object of the log, read whole."""
    log, where = ActionLog(store), store.url(layout.ACTION_LOG)
    numbers = [n for n in map(layout.action_log_number, store.list(layout.ACTION_LOG)) if n]
    defects = [*_read(where, lambda: log.events())]
    if not defects:
        newest = next(log.sweeps(), None)
        if newest and newest.seen_at > now + AHEAD:
            what = (
                f"its newest sweep says that it was made at {newest.seen_at:%Y-%m-%d %H:%M} UTC, "
                "which is to come: what was known when can't be told until then"
            )
            defects.append(Defect(where, what, ""))
    return len(numbers), defects


def _standing(store: Store, progress: Progress) -> _Found:
    """The table of what stands, held against the log."""
    key = layout.STANDING_ACTIONS
    try:
        wrong = ActionLog(store).difference()
    except BrokenFileError:
        wrong = ""  # of the log, which is told already
    there = store.exists(key)
    if not wrong:
        return int(there), []
    repair = f"{removal(store, key)} && {DERIVE}" if there else DERIVE
    return 1, [Defect(store.url(key), wrong, repair)]


def _decisions(store: Store, progress: Progress) -> _Found:
    return _one(store, layout.DECISIONS, lambda: read_decisions(store))


def _registry(store: Store, progress: Progress) -> _Found:
    return _one(store, layout.REGISTRY, lambda: read_registry(store))


def _one(store: Store, key: str, read: Callable[[], object]) -> _Found:
    return int(store.exists(key)), [*_read(store.url(key), read)]


def _evidence(store: Store, progress: Progress) -> _Found:
    """Each quarter, read whole. Whether it is right shows when the tables are derived from it."""
    keys = [key for key in store.list(layout.EVIDENCE) if layout.evidence_quarter(key)]
    defects: list[Defect] = []
    for done, key in enumerate(keys):
        progress("evidence of securities", done, len(keys))
        defects += _read(store.url(key), partial(read_quarter, store, key), DERIVE)
    return len(keys), defects


def _tables(lake: LakeFiles, progress: Progress) -> _Found:
    """The derived tables, held against what is derived now from the same, in memory."""
    store = lake.store
    held = {key for key in DERIVED if store.exists(key)}
    if not held and not (lake.sessions() and _asked(store)):
        return 0, []  # nobody asked for them
    progress("securities and factors", 0, len(DERIVED))
    defects = {}
    for key in DERIVED:
        try:
            read_derived(store, key)
        except NothingDerivedError:
            defects[key] = Defect(store.url(key), "it does not exist", DERIVE)
        except UnreadableError as error:
            defects[key] = Defect(store.url(key), str(error), error.repair)
        except BrokenFileError as error:
            what = f"it is damaged ({error.__cause__!r})"
            defects[key] = Defect(store.url(key), what, DERIVE)
    for key in _differing(lake, DERIVED.keys() - defects.keys()):
        what = (
            "it is not what the sessions, the actions and your decisions give: something came "
            "since, or it was changed"
        )
        defects[key] = Defect(store.url(key), what, DERIVE)
    return len(held), [defects[key] for key in DERIVED if key in defects]


def _differing(lake: LakeFiles, keys: Collection[str]) -> Iterator[str]:
    """Those of these tables that another derivation would make otherwise."""
    scratch = open_store("memory://")
    kept = [layout.REGISTRY, layout.DECISIONS, *lake.store.list(layout.EVIDENCE)]
    try:
        for key in kept:
            if lake.store.exists(key):
                scratch.put(key, lake.store.get(key))
        given = gathered(lake, scratch)
        universe = lake.universe()
        derive_securities(scratch, given, universe[1] if universe else None)
        derive_factors(scratch, given)
    except (BrokenFileError, UnreadableError):
        return  # what it is made from is told as damaged, and to be mended first
    for key in keys:
        if not read_derived(scratch, key).equals(read_derived(lake.store, key)):
            yield key


def _asked(store: Store) -> bool:
    """Were the actions ever asked for, as far as the log can be read?"""
    try:
        return any(True for _ in ActionLog(store).sweeps())
    except BrokenFileError:
        return False


def _read(where: str, read: Callable[[], object], repair: str = "") -> Iterator[Defect]:
    """What is wrong with it, if reading it tells; without a repair the error says what to do."""
    try:
        read()
    except UnreadableError as error:
        yield Defect(where, str(error), error.repair)
    except BrokenFileError as error:
        told = f"it is damaged ({error.__cause__!r})" if repair and error.__cause__ else str(error)
        yield Defect(where, told.removeprefix(f"{where} "), repair)
