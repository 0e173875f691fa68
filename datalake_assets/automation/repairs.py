"""Which incomplete sessions to repair now, within the day's budget of requests.

Belongs here: finding incomplete sessions, remembering them, and the budget; no Dagster, no clock.
Does not belong here: requesting runs (`sensors`).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Self

from datalake_assets import market_calendar
from datalake_assets.automation.due import RetrySchedule
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.plan import Packing, plan_each
from datalake_assets.collection.progress import many, verb
from datalake_assets.lake import session_file
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.session_file import Summary
from datalake_assets.pipeline.density import by_daily_bars
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError

RETRIES = RetrySchedule(attempts=3, first=timedelta(hours=1))

LEFT_ALONE = timedelta(hours=24)
"""How long a session is not repaired after its collection was stopped by hand. Not for ever, since
a machine that shuts down stops its runs in the same way."""

AT_ONCE = 4
"""The most repairs in progress at once."""

FOOTERS_A_TICK = 200
"""How many session files one tick opens: a new sensor starts with the whole lake, and a tick must
be quick."""


def typed(day: str) -> str:
    """The command that repairs a session of our own lake."""
    return f"datalake collect --session {day} --repair"


@dataclass(slots=True)
class Broken:
    """What is known of an incomplete session.

    Args:
        missing: Symbols that failed or were not requested; 0 if it failed its audit otherwise.
        symbols: Symbols that a repair requests: these or, if there are none, all.
        incomplete: Whether it is in `incomplete/`.
        tries: Repairs requested since it last improved.
        not_before: The earliest time of the next repair.
        stopped: When its collection was stopped by hand; empty if it was not.
        pages: The requests that the bars of these symbols take, where a symbol can have more than
            one; 0 where it can't.
    """

    missing: int
    symbols: int
    incomplete: bool
    tries: int = 0
    not_before: str = ""
    stopped: str = ""
    pages: int = 0

    @property
    def requests(self) -> int:
        """The requests of a repair if none fails."""
        return max(1, self.pages, -(-self.symbols // Packing().symbols))


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair to request.

    Args:
        session: The session.
        granted: The most requests it may send.
        last: Whether it is the last automatic one.
    """

    session: str
    granted: int
    last: bool


@dataclass(slots=True)
class Holes:
    """A dataset's incomplete sessions, kept between ticks, so that files are not opened again.

    Files are identified by their versions, not by their dates: a restored file keeps its old date,
    and a date in the future would hide all others.

    Args:
        months: A digest of the session files of each month at the last tick.
        broken: The incomplete sessions.
    """

    months: dict[str, str] = field(default_factory=dict)
    broken: dict[str, Broken] = field(default_factory=dict)

    @classmethod
    def remembered(cls, cursor: str | None) -> Self:
        """Restore what `cursor()` saved."""
        told = json.loads(cursor or "{}")
        broken = {day: Broken(**one) for day, one in told.get("broken", {}).items()}
        return cls(told.get("months", {}), broken)

    def cursor(self) -> str:
        """The state to keep until the next tick."""
        return json.dumps(asdict(self))

    def look(self, lake: LakeFiles, at_most: int = FOOTERS_A_TICK) -> int:
        """Read the session files of the months in which a file changed.

        Args:
            lake: The lake, with the sessions of a dataset.
            at_most: The most files to open; more only if a single month has more.

        Returns:
            The number of files left for the next tick.
        """
        files: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for folder in (lake.folders.sessions, lake.folders.incomplete):
            for key, version in lake.store.versions(folder).items():
                for day in _days(lake.folders, key):
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

    def _look_into(self, lake: LakeFiles, month: str, keys: list[str]) -> None:
        """Replace the known state of a month's sessions by that of their files."""
        before = {day: one for day, one in self.broken.items() if day.startswith(month)}
        found: dict[str, tuple[Summary, bool]] = {}
        damaged = set()
        for key, summary in zip(keys, lake.summaries(keys), strict=True):
            incomplete = key.startswith(lake.folders.incomplete)
            if isinstance(summary, Summary):
                day = str(summary.session)
                # Of two files, the one that a repair starts from: the one collected later.
                other = found.get(day)
                if not other or _collected(summary) > _collected(other[0]):
                    found[day] = summary, incomplete
            elif isinstance(summary, BrokenFileError):
                damaged |= {str(day) for day in _days(lake.folders, key)}
        self.broken = {
            day: one
            for day, one in self.broken.items()
            if day not in before or day in damaged - found.keys()
        }
        for day, (summary, incomplete) in found.items():
            if one := _broken(summary, before.get(day), incomplete=incomplete):
                one.pages = _pages(lake, summary, incomplete=incomplete)
                self.broken[day] = one

    def choose(
        self,
        now: datetime,
        *,
        busy: Mapping[str, str],
        running: int,
        left: int,
        by_hand: Callable[[str], str] = typed,
    ) -> tuple[list[Repair], list[str]]:
        """The repairs to request now, the oldest session first, and why the others have none.

        Increments the tries of the chosen sessions.

        Args:
            now: The time, UTC.
            busy: Sessions that are left to a run or sensor, and which one.
            running: The number of repairs in progress.
            left: The requests left in the day's budget.
            by_hand: The command that repairs a session.
        """
        chosen: list[Repair] = []
        told: list[str] = []
        for day, broken in sorted(self.broken.items()):
            not_before = broken.not_before and datetime.fromisoformat(broken.not_before)
            if day in busy:
                told.append(f"{day}: {busy[day]}")
            elif alone := _until(broken.stopped, LEFT_ALONE, now):
                told.append(
                    f"{day}: its collection was stopped by hand, so it is not repaired until "
                    f"{alone:%Y-%m-%d %H:%M} UTC; to continue now, run "
                    f"`{by_hand(day)}`"
                )
            elif broken.tries >= RETRIES.attempts:
                lacks = f"{many(broken.missing, 'symbol')} {verb(broken.missing)} missing"
                told.append(
                    f"{day}: gave up after {broken.tries} repairs, "
                    f"{lacks if broken.missing else 'it is complete, but did not pass its audit'}; "
                    f"run `{by_hand(day)}`"
                )
            # A pause longer than the longest one was recorded by a wrong clock.
            elif not_before and now < not_before <= now + RETRIES.longest:
                told.append(f"{day}: not again before {broken.not_before[:16]} UTC")
            elif running + len(chosen) >= AT_ONCE:
                told.append(f"{day}: {AT_ONCE} repairs are in progress")
            elif broken.requests > left:
                told.append(
                    f"{day}: needs {many(broken.requests, 'request')}, {left} {verb(left)} left "
                    "for today"
                )
            else:
                # Some requests fail and are retried, but never beyond the day's budget.
                granted = min(broken.requests + max(3, broken.requests), left)
                left -= granted
                broken.tries += 1
                broken.not_before = (now + RETRIES.pause(broken.tries)).isoformat()
                last = broken.tries == RETRIES.attempts
                told.append(
                    f"{day}: repair {broken.tries}, with {many(granted, 'request')} at most"
                )
                chosen.append(Repair(day, granted, last))
        return chosen, told


def mark(versions: Mapping[str, str]) -> str:
    """A digest that changes when a file changes, is added or is removed."""
    told = json.dumps(sorted(versions.items())).encode()
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def _broken(summary: Summary, before: Broken | None, *, incomplete: bool) -> Broken | None:
    """What a session's own file lacks; None if it is complete, or not a session."""
    day = summary.session
    # A closure that was declared later: nothing to request, and `doctor` names the file.
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
    if before and missing >= before.missing:  # it did not improve
        found.tries, found.not_before = before.tries, before.not_before
    return found


def _collected(summary: Summary) -> datetime:
    return summary.provenance.collected_at


def _days(folders: layout.Folders, key: str) -> list[date]:
    """The session of a key, published or incomplete; none for keys of another shape."""
    return folders.days([key]) or layout.dated(folders.incomplete, [key])


def _pages(lake: LakeFiles, summary: Summary, *, incomplete: bool) -> int:
    """The requests of a repair by the bars that it brings; 0 where a symbol has one bar."""
    if not lake.dataset.several:
        return 0
    day = summary.session
    key = lake.incomplete_key(day) if incomplete else lake.session_key(day)
    where = lake.store.url(key)
    try:
        footer = session_file.read_footer(lake.store, key)
        ledger = session_file.unbarred(footer, where)
        rows = session_file.rows_of_symbols(footer, where)
    except (BrokenFileError, FileNotFoundError):
        return 0  # it changed since it was read: the next tick looks again
    wanted = tuple(ledger.missing) or tuple(sorted(ledger.symbols.union(rows)))
    expected = by_daily_bars(lake.of(DAILY), lake.dataset)
    return plan_each({day: wanted}, None, expected, lake.dataset).requests


def _until(since: str, longest: timedelta, now: datetime) -> datetime | None:
    """Until when to wait; None if that is over, or was recorded by a wrong clock."""
    if not since:
        return None
    until = datetime.fromisoformat(since) + longest
    return until if now < until <= now + longest else None
