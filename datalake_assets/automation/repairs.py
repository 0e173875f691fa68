"""Repairs: which sessions with holes to ask for again now, within the requests of a day.

Belongs here: finding holes, remembering them, and the rules of the budget; no Dagster, no clock.
Does not belong here: asking for runs (`sensors`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Self

from datalake_assets.automation.due import Patience
from datalake_assets.collection.plan import Packing
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.session_file import Summary
from datalake_assets.storage import layout

PATIENCE = Patience(attempts=3, first=timedelta(hours=1))

AT_ONCE = 4
"""Repairs under way at most."""

FOOTERS_A_TICK = 200
"""Session files that one look opens: a new sensor starts with the whole lake, and a tick must be
quick."""


@dataclass(slots=True)
class Broken:
    """What is known of a session with holes.

    Args:
        missing: Symbols that failed or were not asked for; 0 when it failed its audit otherwise.
        symbols: Symbols that a repair asks for: these, or when there are none all of them.
        incomplete: Whether it waits in `incomplete/`.
        tries: Repairs asked for since it last got better.
        not_before: No repair before this instant.
    """

    missing: int
    symbols: int
    incomplete: bool
    tries: int = 0
    not_before: str = ""

    @property
    def requests(self) -> int:
        """Requests that a repair takes when none fails."""
        return max(1, -(-self.symbols // Packing().symbols))


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair to ask for.

    Args:
        session: The session.
        granted: Requests that it may use.
        last: Whether it is the last one by itself.
    """

    session: str
    granted: int
    last: bool


@dataclass(slots=True)
class Holes:
    """The sessions with holes, kept from one look to the next: not every file is opened again.

    Args:
        seen: Session files written before this instant were looked into, and some of those
            written at it.
        broken: The sessions with holes.
    """

    seen: str = ""
    broken: dict[str, Broken] = field(default_factory=dict)

    @classmethod
    def remembered(cls, cursor: str | None) -> Self:
        """As `cursor()` kept them."""
        told = json.loads(cursor or "{}")
        broken = {day: Broken(**one) for day, one in told.pop("broken", {}).items()}
        return cls(**told, broken=broken)

    def cursor(self) -> str:
        """What to keep until the next look."""
        return json.dumps(asdict(self))

    def look(self, lake: Lake, at_most: int = FOOTERS_A_TICK) -> int:
        """Look into session files written since the last time.

        Args:
            lake: Where they are.
            at_most: Files to open; more only when they were written at the same instant.

        Returns:
            How many are left for the next look.
        """
        written = {
            **lake.store.modified(layout.SESSIONS),
            **lake.store.modified(layout.INCOMPLETE),
        }
        unseen = sorted((at.isoformat(), key) for key, at in written.items())
        # S3's clock has whole seconds: in the last one that was seen, more may have been written.
        again = [pair for pair in unseen if pair[0] == self.seen]
        unseen = [pair for pair in unseen if pair[0] > self.seen]
        now, later = unseen[:at_most], unseen[at_most:]
        # Files of one instant belong together: the cursor can't tell them apart.
        while later and now[-1][0] == later[0][0]:
            now.append(later.pop(0))
        keys = [key for _, key in again + now]
        for key, summary in zip(keys, lake.summaries(keys), strict=True):
            if isinstance(summary, Summary):
                self._remember(summary, incomplete=key.startswith(layout.INCOMPLETE))
        if now:
            self.seen = now[-1][0]
        waiting = {str(day) for day in layout.dated(layout.INCOMPLETE, list(written))}
        for day, one in list(self.broken.items()):
            if one.incomplete and day not in waiting:
                del self.broken[day]
        return len(later)

    def _remember(self, summary: Summary, *, incomplete: bool) -> None:
        day, missing = str(summary.session), summary.counts["failed"] + summary.counts["pending"]
        before = self.broken.get(day)
        if not missing and not incomplete:
            self.broken.pop(day, None)
            return
        found = Broken(missing, missing or sum(summary.counts.values()), incomplete)
        if before and missing >= before.missing:  # it got no better
            found.tries, found.not_before = before.tries, before.not_before
        self.broken[day] = found

    def choose(
        self, now: datetime, *, busy: Mapping[str, str], running: int, left: int
    ) -> tuple[list[Repair], list[str]]:
        """The repairs to ask for now, oldest harm first, and why there is none of the others.

        The tries of those that are chosen are counted.

        Args:
            now: The time, UTC.
            busy: Sessions that are left to somebody else, and to whom.
            running: Repairs under way.
            left: What the day's budget still holds, in requests.
        """
        chosen: list[Repair] = []
        told: list[str] = []
        for day, broken in sorted(self.broken.items()):
            if day in busy:
                told.append(f"{day}: {busy[day]}")
            elif broken.tries >= PATIENCE.attempts:
                lacks = f"{broken.missing:,} symbols are missing"
                told.append(
                    f"{day}: given up after {broken.tries} repairs, "
                    f"{lacks if broken.missing else 'it was answered whole and did not pass'}; "
                    f"type `datalake collect --session {day} --repair`"
                )
            elif broken.not_before > now.isoformat():
                told.append(f"{day}: not again before {broken.not_before[:16]} UTC")
            elif running + len(chosen) >= AT_ONCE:
                told.append(f"{day}: {AT_ONCE} repairs are under way")
            elif broken.requests > left:
                told.append(f"{day}: needs {broken.requests} requests, {left} are left for today")
            else:
                # Some requests fail and are sent again, but never beyond the day's budget.
                granted = min(broken.requests + max(3, broken.requests), left)
                left -= granted
                broken.tries += 1
                broken.not_before = (now + PATIENCE.pause(broken.tries)).isoformat()
                last = broken.tries == PATIENCE.attempts
                told.append(f"{day}: repair {broken.tries}, with {granted} requests at most")
                chosen.append(Repair(day, granted, last))
        return chosen, told
