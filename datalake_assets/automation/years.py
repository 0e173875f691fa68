"""Years: which of them are not published as their sessions are now, in one of the projections.

Belongs here: finding them with few questions, and remembering since when they are behind; no
Dagster, no clock. Does not belong here: asking for runs (`sensors`).

What was seen is remembered by the versions of the files, not by their dates: a session that was
restored keeps its old date, and one with a date in the future would look newer than every
publication.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

from datalake_assets.automation.repairs import mark
from datalake_assets.lake import currency
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.projection import Projection
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store


@dataclass(frozen=True, slots=True)
class _Kind:
    """A projection, and the objects that tell which sessions it shows: one a year.

    Args:
        projection: What is published of a lake.
        folder: Where these objects are.
        key: The key of a year's.
        mends: Whether publishing a year makes a damaged one anew.
    """

    projection: Callable[[Store], Projection]
    folder: str
    key: Callable[[int], str]
    mends: bool = False


PER_SYMBOL = _Kind(SymbolYears, layout.MANIFESTS, layout.manifest_key)
IN_ONE_FILE = _Kind(YearFiles, layout.YEARS, layout.year_file_key, mends=True)


@dataclass(slots=True)
class Years:
    """What is known of the years of one projection, kept from one look to the next.

    Args:
        level: Of each year that shows its sessions as they are, a mark of its files.
        behind: Of each other year a mark of its sessions, and since when they are so: the instant
            (UTC) of the look that found them.
        waiting: Of the running year, while it lags on purpose, a mark of its files, and the session
            with which it follows.
    """

    level: dict[str, str] = field(default_factory=dict)
    behind: dict[str, tuple[str, str]] = field(default_factory=dict)
    waiting: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def remembered(cls, kept: Mapping[str, Any] | None) -> Self:
        """As `kept()` gave them."""
        told = kept or {}
        behind, waiting = (
            {year: (seen, more) for year, (seen, more) in told.get(name, {}).items()}
            for name in ("behind", "waiting")
        )
        return cls(told.get("level", {}), behind, waiting)

    def kept(self) -> dict[str, Any]:
        """What to keep until the next look, as JSON has it."""
        return asdict(self)

    def look(
        self,
        store: Store,
        now: datetime,
        kind: _Kind = PER_SYMBOL,
        *,
        weekly: bool = False,
        versions: Mapping[str, str] | None = None,
    ) -> dict[str, datetime]:
        """The years that are behind and are to be published, ascending, and since when.

        Args:
            store: Where the lake is.
            now: The time, UTC.
            kind: The projection.
            weekly: Whether the running year follows with the last session of a week only.
            versions: Of the sessions' objects, where they are listed already; None to list them.

        Raises:
            BrokenFileError: What tells which sessions a year shows is damaged, and is to be
                mended by hand.
        """
        projection = kind.projection(store)
        telling = store.versions(kind.folder)
        sessions: defaultdict[int, dict[str, str]] = defaultdict(dict)
        if versions is None:
            versions = store.versions(layout.SESSIONS)
        for key, version in versions.items():
            for day in layout.dated(layout.SESSIONS, [key]):
                sessions[day.year][key] = version
        level, behind, waiting = {}, {}, {}
        for number, files in sorted(sessions.items()):
            year, key = str(number), kind.key(number)
            seen, shown = mark(files), mark(files | {key: telling.get(key, "")})
            if self.level.get(year) == shown:
                level[year] = shown
                continue
            waits, follows = self.waiting.get(year, ("", ""))
            if weekly and number == now.year and waits == shown:
                waiting[year] = waits, follows
                continue
            try:
                told = projection.made_from(number)
            except BrokenFileError:
                if not kind.mends:
                    raise
                told = Manifest(number)
            days = dict(
                zip(layout.dated(layout.SESSIONS, list(files)), files.values(), strict=True)
            )
            if not currency.unfinished(store, told, days):
                level[year] = shown
            elif weekly and (end := currency.follow_with(told, days, now.date())):
                waiting[year] = shown, end.isoformat()
            else:
                before, since = self.behind.get(year, ("", ""))
                # An instant to come was noted by a clock that was wrong.
                known = before == seen and datetime.fromisoformat(since) <= now
                behind[year] = seen, since if known else now.isoformat()
        self.level, self.behind, self.waiting = level, behind, waiting
        return {year: datetime.fromisoformat(since) for year, (_, since) in behind.items()}
