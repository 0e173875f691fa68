"""Currency: which sessions the symbol-years show as they lie in the lake now.

Belongs here: holding a manifest against the sessions' objects, and whether the symbol-years lag
behind on purpose. Does not belong here: making the symbol-years (`symbol_years`), or reading them
(`reader`).

The store's version of an object is the fast path: a listing tells it of a whole year. But a lake
that was copied, restored or uploaded has other versions of the same sessions. Where a version is
another one, the digest in the session file's footer decides, which says what its rows hash to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

from datalake_assets import market_calendar
from datalake_assets.lake import session_file
from datalake_assets.lake.fingerprint import Fingerprint
from datalake_assets.lake.manifest import Manifest
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

_REMEMBERED = 20_000

_known: dict[tuple[str, str], Fingerprint] = {}
"""What each version of an object says of its rows. A version means the same bytes for ever, and a
sensor looks at the same ones every minute."""


def behind(store: Store, manifest: Manifest, versions: Mapping[date, str]) -> list[date]:
    """The sessions of a year that its symbol-years don't show as they are now, ascending.

    Args:
        store: Where they are.
        manifest: What is published of the year.
        versions: Its sessions and the versions of their objects.
    """
    same = {day for day, version in versions.items() if manifest.sessions.get(day) == version}
    changed = versions.keys() - same
    gone = manifest.sessions.keys() - versions.keys()
    return sorted(gone | (changed - unchanged(store, manifest, versions, changed)))


def unfinished(store: Store, manifest: Manifest, versions: Mapping[date, str]) -> bool:
    """Is a year to be published: is it behind, or was its publication cut off?

    A publication says which sessions it will show before it writes the first symbol-year. So one
    that was killed in between is not behind any session.

    Args:
        store: Where they are.
        manifest: What is published of the year.
        versions: Its sessions and the versions of their objects.
    """
    cut_off = bool(manifest.sessions) and not manifest.whole
    return cut_off or bool(behind(store, manifest, versions))


def follow_with(manifest: Manifest, sessions: Iterable[date], today: date) -> date | None:
    """The session with which the symbol-years of the running year follow, once a week.

    A session changes the symbol-year of nearly every symbol, so they are written once for all
    sessions of a week, with its last one. Until then a restated session waits, too, whatever its
    week. Nothing else waits: not a year that is over or was never published, one whose publication
    was cut off, a session of an earlier week that is new, or one that is gone.

    Args:
        manifest: What is published of the year, its symbols aside.
        sessions: The year's sessions in the lake.
        today: The day, UTC.

    Returns:
        The last session of the week; None when the symbol-years are not to wait.
    """
    there = set(sessions)
    if manifest.year != today.year or not manifest.whole or not there:
        return None
    if manifest.sessions.keys() - there:
        return None
    newest = max(there)
    end = _end_of_week(newest)
    new = there - manifest.sessions.keys()
    if any(_end_of_week(day) <= newest for day in new):
        return None
    if end == newest:  # shown, and what lags was restated since
        end = _end_of_week(newest + timedelta(days=7))
    return end if end.year == manifest.year and end > newest else None


def _end_of_week(day: date) -> date:
    """The last session of a day's week (Monday to Sunday) in its year; else the day itself."""
    sunday = day + timedelta(days=6 - day.weekday())
    last = min(sunday, date(day.year, 12, 31), market_calendar.LAST)
    return max(market_calendar.sessions(min(day, last), last), default=day)


def unchanged(
    store: Store, manifest: Manifest, versions: Mapping[date, str], days: Iterable[date]
) -> frozenset[date]:
    """Those of these sessions whose rows are what the symbol-years were made from.

    Their footers are read, several at a time, and each version of an object once in a process.

    Args:
        store: Where they are.
        manifest: What is published of the year, its symbols aside.
        versions: The sessions and the versions of their objects.
        days: Those whose version is another than the manifest's.
    """
    doubtful = [day for day in days if day in manifest.digests]
    if not doubtful:
        return frozenset()
    with ThreadPoolExecutor(store.readers()) as threads:
        found = threads.map(lambda day: _digest(store, day, versions[day]), doubtful)
        pairs = list(zip(doubtful, found, strict=True))
    return frozenset(day for day, digest in pairs if digest == manifest.digests[day])


def _digest(store: Store, day: date, version: str) -> Fingerprint | None:
    """What the session's file says of its rows; None when it can't be read."""
    key = layout.session_key(day)
    where = store.url(key)
    if (known := _known.get((where, version))) is not None:
        return known
    try:
        found = session_file.digest(session_file.read_footer(store, key), where)
    except (FileNotFoundError, BrokenFileError):
        return None
    if not store.uri.startswith("memory:"):  # each of which is another store under the same name
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[where, version] = found
    return found
