"""Years: which of them are not published per symbol as their sessions are now.

Belongs here: finding them with few questions, and remembering since when they are behind; no
Dagster, no clock. Does not belong here: asking for runs (`sensors`).

What was seen is remembered by the versions of the files, not by their dates: a session that was
restored keeps its old date, and one with a date in the future would look newer than every
publication.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Self

from datalake_assets.automation.repairs import mark
from datalake_assets.lake import currency
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store


@dataclass(slots=True)
class Years:
    """What is known of the years, kept from one look to the next.

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
    def remembered(cls, cursor: str | None) -> Self:
        """As `cursor()` kept them."""
        told = json.loads(cursor or "{}")
        behind, waiting = (
            {year: (seen, more) for year, (seen, more) in told.get(name, {}).items()}
            for name in ("behind", "waiting")
        )
        return cls(told.get("level", {}), behind, waiting)

    def cursor(self) -> str:
        """What to keep until the next look."""
        return json.dumps(asdict(self))

    def look(self, store: Store, now: datetime, *, weekly: bool = False) -> dict[str, datetime]:
        """The years that are behind and are to be published, ascending, and since when.

        Args:
            store: Where the lake is.
            now: The time, UTC.
            weekly: Whether the running year follows with the last session of a week only.

        Raises:
            BrokenFileError: The manifest of a year is damaged.
        """
        symbol_years = SymbolYears(store)
        manifests = store.versions(layout.MANIFESTS)
        sessions: defaultdict[int, dict[str, str]] = defaultdict(dict)
        for key, version in store.versions(layout.SESSIONS).items():
            for day in layout.dated(layout.SESSIONS, [key]):
                sessions[day.year][key] = version
        level, behind, waiting = {}, {}, {}
        for number, files in sorted(sessions.items()):
            year, manifest = str(number), layout.manifest_key(number)
            seen, shown = mark(files), mark(files | {manifest: manifests.get(manifest, "")})
            if self.level.get(year) == shown:
                level[year] = shown
                continue
            waits, follows = self.waiting.get(year, ("", ""))
            if weekly and number == now.year and waits == shown:
                waiting[year] = waits, follows
                continue
            told = symbol_years.made_from(number)
            days = dict(
                zip(layout.dated(layout.SESSIONS, list(files)), files.values(), strict=True)
            )
            if not currency.behind(store, told, days):
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
