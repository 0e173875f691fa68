"""Small lakes with what can be wrong with one, for the tests of the overview."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from datalake_assets import market_calendar
from datalake_assets.collection.audit import audit
from datalake_assets.collection.report import Ledger, Statistics
from datalake_assets.collection.symbols import Subset
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.overview.numbers import Overview, overview
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import every, names

DAYS = market_calendar.sessions(date(2024, 5, 1), date(2024, 7, 3))
"""44 sessions, with Memorial Day and Juneteenth between."""

NOW = datetime(2024, 7, 3, 23, tzinfo=UTC)
SYMBOLS = names(100)


def new_lake(uri: str = "memory://", source: str = "test") -> LakeWriter:
    lake = LakeWriter(open_store(uri))
    lake.claim(source)
    return lake


def collected(
    day: date,
    symbols: Sequence[str] = SYMBOLS,
    *,
    before: Iterable[Sequence[str]] = (),
    began: datetime | None = None,
    seconds: float = 30.0,
    requests: int = 10,
    **states: Any,
) -> tuple[Session, list[Any]]:
    """A session and its audit, as a collection on its evening leaves it.

    Args:
        day: The session.
        symbols: Those that traded.
        before: The symbols that traded in sessions before.
        began: When its collection began, UTC; sessions with the same are of one collection.
        seconds: How long that took.
        requests: How many it sent.
        states: The ledger's other states.
    """
    start = began or datetime.combine(day, time(22, 5), UTC)
    ended = start + timedelta(seconds=seconds)
    statistics = Statistics(start, ended, seconds, requests=requests, retries=1, throttled=2)
    provenance = Provenance(ended, "test", day, "run", "0", statistics.to_dict())
    session = Session(every(symbols, [day]), Ledger(day, tuple(symbols), **states), provenance)
    known = [Subset.of(each) for each in before]
    return session, audit(session.bars, session.ledger, known)


def publish(lake: LakeWriter, days: Iterable[date], **told: Any) -> None:
    """Publish these sessions, each as `collected` makes it."""
    for day in days:
        lake.publish(*collected(day, **told))


def look(lake: LakeWriter, first: date = DAYS[0], due: date = DAYS[-1], **told: Any) -> Overview:
    """The overview, at an evening of July 2024."""
    told = {"now": NOW, "requests_per_minute": 200} | told
    return overview(lake, first=first, due=due, **told)
