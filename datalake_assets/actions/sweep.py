"""A sweep: fetch the actions of a window of process dates, and log what changed.

Belongs here: the window to fetch, following its pages to the end, and what it means if a known
action is missing. Does not belong here: HTTP and decoding (`sources`), and storing events (`log`).

Windows are of process dates because the source knows no other filter by day. One window is one
range, paged to its end: with pages of 1,000 that is the fewest requests there can be, and at 200
requests a minute threads would not be faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.actions.action import SCHEMA
from datalake_assets.actions.log import ActionLog, Answer, Sweep
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import PermanentError, TruncatedError
from datalake_assets.collection.retry import Caller

AHEAD = timedelta(days=366)
"""How far ahead a window reaches. A dividend is processed on its payable date, mostly two to six
weeks after its ex-date; a year costs no more, for there are only the announced ones."""

BEHIND = timedelta(days=35)
"""How far a daily window reaches behind the sweep before: longer than `WHOLE_EVERY`, so that what
a daily window no longer asks for was in it when the whole history was asked for last. Corrections
that are known came between the ex-date and the process date."""

WHOLE_EVERY = timedelta(days=30)
"""How old a sweep of the whole history may be before the next one is such a sweep."""

FIRST = market_calendar.FIRST
"""Where the whole history begins. Days without actions cost nothing."""

MAX_LOSS = 0.1
"""The largest share of a window's known actions that may be missing."""

IDS_AT_ONCE = 100
"""How many identifiers one request has: each has 36 characters, and a URL at most 8 KB."""

_FEW = 100  # missing actions that are accepted, however small the window
_PAGES = 20_000  # a history of twenty million actions
_NEW_YORK = ZoneInfo("America/New_York")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that could not be read.

    Args:
        kind: The list that it stands in.
        id: The action, if the row tells it.
        why: What is wrong with it.
    """

    kind: str
    id: str | None
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id or 'without an id'}: {self.why}"


@dataclass(frozen=True, slots=True)
class ActionsPage:
    """One page of the source's answer.

    Args:
        actions: Its rows, in `action.SCHEMA`.
        skipped: Rows that could not be read.
        unknown: Lists that this program does not know, and their rows.
        token: Of the next page; None on the last one.
    """

    actions: pa.Table
    skipped: tuple[Skipped, ...]
    unknown: Mapping[str, int]
    token: str | None


class ActionSource(Protocol):
    """The source, one page at a time; raises the errors of `collection.errors`."""

    def actions(self, first: date, last: date, page_token: str | None) -> ActionsPage:
        """The actions that are processed from `first` to `last`."""

    def actions_by_id(self, ids: Sequence[str]) -> ActionsPage:
        """Those of at most `IDS_AT_ONCE` actions that still stand, whatever their dates."""


@dataclass(frozen=True, slots=True)
class Window:
    """The process dates to ask for, both included."""

    first: date
    last: date


def due(
    today: date, sweeps: Iterable[Sweep], *, whole: bool = False, since: date | None = None
) -> Window:
    """The window to fetch today.

    Args:
        today: The day, in New York.
        sweeps: The ones before, newest first.
        whole: Ask for the whole history, however new the last such sweep is.
        since: Fetch from this day on, and leave earlier actions to another sweep.
    """
    last = today + AHEAD
    if since:
        return Window(since, last)
    newest = None
    for sweep in () if whole else sweeps:
        newest = newest or _day(sweep)
        if sweep.first <= FIRST:
            if today - _day(sweep) >= WHOLE_EVERY:
                break
            # After a long pause: also what was processed meanwhile.
            return Window(min(today, newest) - BEHIND, last)
    return Window(FIRST, last)


def today(clock: Clock) -> date:
    """The day in New York, which is the source's."""
    return clock.now().astimezone(_NEW_YORK).date()


def sweep(
    source: ActionSource,
    log: ActionLog,
    caller: Caller,
    window: Window,
    *,
    max_loss: float = MAX_LOSS,
    clock: Clock | None = None,
) -> tuple[Sweep, pa.Table]:
    """Fetch a window, append the changes to the log, and publish the current actions.

    Nothing is written before the answer is complete.

    Args:
        source: The source.
        log: The log.
        caller: Sends requests within the rate limit, with retries.
        window: The window to fetch.
        max_loss: Share of the standing actions in the window that may be missing.
        clock: The clock.

    Returns:
        The sweep, and its events in `log.EVENTS`.

    Raises:
        PermanentError: The requests fail, or the pages have no end.
        TruncatedError: So many known actions are missing that the answer must be truncated.
        RefusedError: The source does not accept the keys.
        StoppedError: It was stopped before the answer was whole.
        ChangedError, StoreError, BrokenFileError: As `ActionLog.append`.
    """
    clock = clock or Clock()
    asked_at = clock.now()
    newest = next(log.sweeps(), None)
    standing = log.current()

    pages = [*_pages(lambda token: caller.call(lambda: source.actions(*_days(window), token)))]
    missing = _missing(standing, window, pages)
    _require_whole(standing, window, len(missing), max_loss)
    for first in range(0, len(missing), IDS_AT_ONCE):
        ids = missing[first : first + IDS_AT_ONCE]
        pages.append(caller.call(lambda ids=ids: source.actions_by_id(ids)))  # type: ignore[misc]

    skipped = [row for page in pages for row in page.skipped]
    actions = _each_once([page.actions for page in pages])
    there = {*actions["id"].to_pylist(), *(row.id for row in skipped)}
    unknown: dict[str, int] = {}
    for page in pages:
        for name, rows in page.unknown.items():
            unknown[name] = unknown.get(name, 0) + rows
    answer = Answer(
        asked_at=asked_at,
        known=newest.number if newest else 0,
        first=window.first,
        last=window.last,
        actions=actions,
        gone=frozenset(missing) - there,
        requests=caller.requests,
        skipped=tuple(map(str, skipped)),
        unknown=unknown,
    )
    appended = log.append(answer, clock.now())
    log.publish()
    return appended


def _pages(ask: Callable[[str | None], ActionsPage]) -> Iterator[ActionsPage]:
    """The pages of one question, to the last one."""
    token: str | None = None
    tokens: set[str] = set()
    for _ in range(_PAGES):
        page = ask(token)
        yield page
        token = page.token
        if token is None:
            return
        if token in tokens:
            raise PermanentError(
                "the source returned the same token for a second page of corporate actions, so its "
                "answer has no end: nothing was written. Try again later, and report it to the "
                "source"
            )
        tokens.add(token)
    raise PermanentError(
        f"the corporate actions have more than {_PAGES:,} pages: nothing was written. Try again "
        "later, and report it to the source"
    )


def _days(window: Window) -> tuple[date, date]:
    return window.first, window.last


def _missing(standing: pa.Table, window: Window, pages: Sequence[ActionsPage]) -> list[str]:
    """The known actions of the window that are missing from the answer, ascending.

    They were processed within it when they were seen last. By now they may be gone, or have
    another process date, outside of it: only asking for each tells.
    """
    there = {action for page in pages for action in page.actions["id"].to_pylist()}
    there |= {row.id for page in pages for row in page.skipped}
    return sorted(set(_within(standing, window)["id"].to_pylist()) - there)


def _within(standing: pa.Table, window: Window) -> pa.Table:
    days = standing["process_date"]
    first, last = (pa.scalar(day, pa.date32()) for day in (window.first, window.last))
    return standing.filter(pc.and_(pc.greater_equal(days, first), pc.less_equal(days, last)))


def _require_whole(standing: pa.Table, window: Window, missing: int, max_loss: float) -> None:
    before = _within(standing, window).num_rows
    if missing > max(_FEW, max_loss * before):
        raise TruncatedError(
            f"the source lacks {missing:,} of the {before:,} known corporate actions from "
            f"{window.first} to {window.last}, more than {max_loss:.1%}: its answer must be "
            "truncated, and nothing was written",
            "max_loss",
        )


def _each_once(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows, each id once: of one that moved between two pages the later row counts."""
    rows = pa.concat_tables([SCHEMA.empty_table(), *tables])
    last = dict(zip(rows["id"].to_pylist(), range(rows.num_rows), strict=True))
    return rows.take(pa.array(last.values(), pa.int64())).combine_chunks()


def _day(sweep: Sweep) -> date:
    return sweep.asked_at.astimezone(_NEW_YORK).date()
