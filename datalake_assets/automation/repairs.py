"""Repairs: which sessions with holes to ask for again now, within the requests of a day.

Belongs here: finding holes, remembering them, and the rules of the budget; no Dagster, no clock.
Does not belong here: asking for runs (`sensors`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Self

from datalake_assets import market_calendar
from datalake_assets.automation.due import Patience
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.progress import many
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.session_file import Summary
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError

PATIENCE = Patience(attempts=3, first=timedelta(hours=1))

LEFT_ALONE = timedelta(hours=24)
"""How long a session is left alone whose collection somebody stopped. Not for ever: a machine that
shuts down stops its runs in the same way."""

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
        stopped: When its collection was stopped by hand; empty when it was not.
    """

    missing: int
    symbols: int
    incomplete: bool
    tries: int = 0
    not_before: str = ""
    stopped: str = ""

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

    What was looked into is remembered by the versions of the files, not by their dates: a file
    that was restored keeps its old date, and one with a date in the future would hide all others.

    Args:
        months: A mark of the session files of each month as they were looked into.
        broken: The sessions with holes.
    """

    months: dict[str, str] = field(default_factory=dict)
    broken: dict[str, Broken] = field(default_factory=dict)

    @classmethod
    def remembered(cls, cursor: str | None) -> Self:
        """As `cursor()` kept them."""
        told = json.loads(cursor or "{}")
        broken = {day: Broken(**one) for day, one in told.get("broken", {}).items()}
        return cls(told.get("months", {}), broken)

    def cursor(self) -> str:
        """What to keep until the next look."""
        return json.dumps(asdict(self))

    def look(self, lake: Lake, at_most: int = FOOTERS_A_TICK) -> int:
        """Look into the months in which a session file is another one than the last time.

        Args:
            lake: Where they are.
            at_most: Files to open; more only when one month has more.

        Returns:
            How many are left for the next look.
        """
        files: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for folder in (layout.SESSIONS, layout.INCOMPLETE):
            for key, version in lake.store.versions(folder).items():
                for day in layout.dated(folder, [key]):
                    files[f"{day:%Y-%m}"][key] = version
        marks = {month: mark(found) for month, found in sorted(files.items())}
        self.months = {month: seen for month, seen in self.months.items() if month in marks}
        self.broken = {day: one for day, one in self.broken.items() if day[:7] in marks}
        opened = left = 0
        for month, now in marks.items():
            if self.months.get(month) == now:
                continue
            if opened and opened + len(files[month]) > at_most:
                left += len(files[month])
                continue
            opened += len(files[month])
            self._look_into(lake, month, list(files[month]))
            self.months[month] = now
        return left

    def _look_into(self, lake: Lake, month: str, keys: list[str]) -> None:
        """Replace what is known of a month's sessions by what their files say."""
        before = {day: one for day, one in self.broken.items() if day.startswith(month)}
        found: dict[str, tuple[Summary, bool]] = {}
        damaged = set()
        for key, summary in zip(keys, lake.summaries(keys), strict=True):
            incomplete = key.startswith(layout.INCOMPLETE)
            if isinstance(summary, Summary):
                day = str(summary.session)
                # Of two, the one that a repair starts from: the later collected.
                other = found.get(day)
                if not other or _collected(summary) > _collected(other[0]):
                    found[day] = summary, incomplete
            elif isinstance(summary, BrokenFileError):
                damaged |= {str(day) for day in layout.dated(_folder(key), [key])}
        self.broken = {
            day: one
            for day, one in self.broken.items()
            if day not in before or day in damaged - found.keys()
        }
        for day, (summary, incomplete) in found.items():
            if one := _broken(summary, before.get(day), incomplete=incomplete):
                self.broken[day] = one

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
            not_before = broken.not_before and datetime.fromisoformat(broken.not_before)
            if day in busy:
                told.append(f"{day}: {busy[day]}")
            elif alone := _until(broken.stopped, LEFT_ALONE, now):
                told.append(
                    f"{day}: its collection was stopped by hand, and it is left alone until "
                    f"{alone:%Y-%m-%d %H:%M} UTC; to go on now, type "
                    f"`datalake collect --session {day} --repair`"
                )
            elif broken.tries >= PATIENCE.attempts:
                are = "is" if broken.missing == 1 else "are"
                lacks = f"{many(broken.missing, 'symbol')} {are} missing"
                told.append(
                    f"{day}: given up after {broken.tries} repairs, "
                    f"{lacks if broken.missing else 'it is complete, but did not pass its audit'}; "
                    f"type `datalake collect --session {day} --repair`"
                )
            # A pause longer than there is one was noted by a clock that was wrong.
            elif not_before and now < not_before <= now + PATIENCE.longest:
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


def mark(versions: Mapping[str, str]) -> str:
    """A short text that changes when one of the files changes, is added or is removed."""
    told = json.dumps(sorted(versions.items())).encode()
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _broken(summary: Summary, before: Broken | None, *, incomplete: bool) -> Broken | None:
    """What is wrong with a session by its own file; None when it is whole, or is no session."""
    day = summary.session
    # A closure that was declared since: there is nothing to ask for, and `doctor` names the file.
    if not market_calendar.FIRST <= day <= market_calendar.LAST or not market_calendar.is_session(
        day
    ):
        return None
    missing = summary.counts["failed"] + summary.counts["pending"]
    if not missing and not incomplete:
        return None
    found = Broken(missing, missing or sum(summary.counts.values()), incomplete)
    if summary.provenance.interrupted:
        found.stopped = _collected(summary).isoformat()
    if before and missing >= before.missing:  # it got no better
        found.tries, found.not_before = before.tries, before.not_before
    return found


def _collected(summary: Summary) -> datetime:
    return summary.provenance.collected_at


def _folder(key: str) -> str:
    return layout.INCOMPLETE if key.startswith(layout.INCOMPLETE) else layout.SESSIONS


def _until(since: str, longest: timedelta, now: datetime) -> datetime | None:
    """Until when to wait; None when that is over, or was noted by a clock that was wrong."""
    if not since:
        return None
    until = datetime.fromisoformat(since) + longest
    return until if now < until <= now + longest else None
