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
    """

    level: dict[str, str] = field(default_factory=dict)
    behind: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def remembered(cls, cursor: str | None) -> Self:
        """As `cursor()` kept them."""
        told = json.loads(cursor or "{}")
        behind = {year: (seen, since) for year, (seen, since) in told.get("behind", {}).items()}
        return cls(told.get("level", {}), behind)

    def cursor(self) -> str:
        """What to keep until the next look."""
        return json.dumps(asdict(self))

    def look(self, store: Store, now: datetime) -> dict[str, datetime]:
        """The years that are behind, ascending, and since when.

        Args:
            store: Where the lake is.
            now: The time, UTC.

        Raises:
            BrokenFileError: The manifest of a year is damaged.
        """
        symbol_years = SymbolYears(store)
        manifests = store.versions(layout.MANIFESTS)
        sessions: defaultdict[int, dict[str, str]] = defaultdict(dict)
        for key, version in store.versions(layout.SESSIONS).items():
            for day in layout.dated(layout.SESSIONS, [key]):
                sessions[day.year][key] = version
        level, behind = {}, {}
        for number, files in sorted(sessions.items()):
            year, manifest = str(number), layout.manifest_key(number)
            seen, shown = mark(files), mark(files | {manifest: manifests.get(manifest, "")})
            if self.level.get(year) == shown or not symbol_years.behind(number):
                level[year] = shown
            else:
                before, since = self.behind.get(year, ("", ""))
                # An instant to come was noted by a clock that was wrong.
                known = before == seen and datetime.fromisoformat(since) <= now
                behind[year] = seen, since if known else now.isoformat()
        self.level, self.behind = level, behind
        return {year: datetime.fromisoformat(since) for year, (_, since) in behind.items()}
