"""The files of a lake: which of them are there, and what they say.

Belongs here: listing and reading sessions, universes and surveys, and the source that the lake
belongs to. Does not belong here: writing them (`writer`), what an analyst asks (`lake`), the bytes
of a file (`session_file`), paths (`layout`), how an object is stored (`store`).
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.actions.log import ActionLog
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.survey import Survey
from datalake_assets.collection.universe import Snapshots
from datalake_assets.lake import session_file, universe_file
from datalake_assets.lake.reader import known_days
from datalake_assets.lake.session_file import Session, Summary
from datalake_assets.securities.decisions import read_decisions
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

FORMAT = 2
"""Version of the layout; a lake of another one is not written to. In 1 a bar stood under the ticker
that its security had on the day of the collection, so renamed companies stood there twice."""

_log = logging.getLogger(__name__)


class WrongLakeError(RuntimeError):
    """The lake belongs to another source, or to another version of this program."""


class LakeFiles:
    """What lies in a lake. Nothing here writes, and the lake need not be there.

    Args:
        store: Where its objects are.
        clock: Time: files dated in the future are ignored.
        dataset: Whose sessions.
    """

    def __init__(self, store: Store, clock: Clock | None = None, dataset: Dataset = DAILY) -> None:
        self.store, self._clock, self.dataset = store, clock or Clock(), dataset
        self.folders = layout.FOLDERS[dataset.name]

    def of(self, dataset: Dataset) -> Self:
        """The same lake with the sessions of another dataset."""
        return type(self)(self.store, self._clock, dataset)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store.uri!r})"

    def source(self) -> str | None:
        """The source that the lake belongs to; None for a lake that was never written to."""
        try:
            return str(self.marker().get("source"))
        except FileNotFoundError:
            return None

    def marker(self) -> dict[str, Any]:
        """What the lake says of itself: its `format` and its `source`.

        Raises:
            FileNotFoundError: Nobody ever wrote to it.
            WrongLakeError: The marker can't be read.
        """
        where = self.store.url(layout.MARKER)
        try:
            found = json.loads(self.store.get(layout.MARKER))
        except ValueError as error:
            raise WrongLakeError(f"{where} can't be read ({error}): restore it") from error
        if not isinstance(found, dict):
            raise WrongLakeError(f"{where} is no marker of a lake: restore it")
        return found

    def sessions(self) -> list[date]:
        """The published sessions, ascending."""
        return self.folders.days(self.store.list(self.folders.sessions))

    def finished(self, days: Iterable[date]) -> list[Summary]:
        """What those of these sessions say of themselves that a backfill leaves as they are.

        They are published. A damaged one is collected again, and one that lacks the minutes of some
        of this dataset's hours.
        """
        published = sorted(frozenset(days).intersection(self.sessions()))
        return [
            summary
            for summary in self.summaries(map(self.session_key, published))
            if isinstance(summary, Summary) and self.dataset.is_in(summary.provenance.hours)
        ]

    def of_more_hours(self, days: Iterable[date]) -> list[date]:
        """Those of these sessions that are published with more minutes than this dataset has."""
        name = self.dataset.hours_name
        return [one.session for one in self.finished(days) if one.provenance.hours != name]

    def incomplete(self) -> list[date]:
        """The sessions that wait in `incomplete/`, ascending."""
        folder = self.folders.incomplete
        return layout.dated(folder, self.store.list(folder))

    def session_key(self, day: date) -> str:
        """The key of a published session."""
        return layout.session_key(day, self.folders)

    def incomplete_key(self, day: date) -> str:
        """The key of a session that waits in `incomplete/`."""
        return layout.incomplete_key(day, self.folders)

    def read(self, day: date) -> Session:
        """A published session.

        Raises:
            FileNotFoundError: It is not published.
            BrokenFileError: The object is damaged.
        """
        key = self.session_key(day)
        return session_file.decode(self.store.get(key), self.store.url(key))

    def printed(self, days: Iterable[date]) -> dict[date, Mapping[str, int]]:
        """How many bars each symbol has, in each of these sessions that is published, and whole."""
        found: dict[date, Mapping[str, int]] = {}
        for day in days:
            try:
                found[day] = self.rows_of_symbols(day)
            except FileNotFoundError:
                continue
            except BrokenFileError as error:
                # Those after it are collected all the same: nobody else may be there to mend it.
                _log.warning("%s. Until then no session is compared with it", error)
        return found

    def symbols_with_bars(self, key: str) -> Collection[str]:
        """The symbols that have bars in a session file.

        Raises:
            FileNotFoundError: There is none.
            BrokenFileError: The object is damaged.
        """
        return self._rows_of_symbols(key)

    def rows_of_symbols(self, day: date) -> Mapping[str, int]:
        """How many bars each symbol has in a published session; those that have none are left out.

        Where a symbol can have several, only the footer is read.

        Raises:
            FileNotFoundError: The session is not published.
            BrokenFileError: The object is damaged.
        """
        return self._rows_of_symbols(self.session_key(day))

    def _rows_of_symbols(self, key: str) -> Mapping[str, int]:
        if not self.dataset.several:
            session = session_file.decode(self.store.get(key), self.store.url(key))
            return dict.fromkeys(session.ledger.present, 1)
        footer = session_file.read_footer(self.store, key)
        return session_file.rows_of_symbols(footer, self.store.url(key))

    def summaries(
        self, keys: Iterable[str], workers: int = 16
    ) -> list[Summary | BrokenFileError | FileNotFoundError]:
        """What these session files say of themselves, in the order of the keys.

        Only their footers are read, several at a time. In the place of a damaged file stands
        what is wrong with it, so that one of them does not hide all others; and in the place of
        one that is gone, as an incomplete session is once it was published, that it is.
        """
        with ThreadPoolExecutor(self.store.readers(workers)) as threads:
            return list(threads.map(self._summary, keys))

    def universe(self) -> tuple[date, pa.Table] | None:
        """The newest snapshot of the universe and its day; None when there is none.

        Raises:
            BrokenFileError: The object is damaged.
        """
        days = self.universe_days()
        return (days[-1], self.universe_of(days[-1])) if days else None

    def universe_of(self, taken: date) -> pa.Table:
        """The snapshot of a day.

        Raises:
            FileNotFoundError: There is none of that day.
            BrokenFileError: The object is damaged.
        """
        key = layout.universe_key(taken)
        return universe_file.decode(self.store.get(key), self.store.url(key))

    def universe_days(self) -> list[date]:
        """The days of which there is a snapshot, ascending.

        One of a day to come is left out with a warning: it would be the newest until then.
        """
        return self._so_far(layout.UNIVERSE, layout.universe_key)

    def snapshots(self) -> Snapshots:
        """All snapshots of the universe, and the names in corporate actions, read when needed."""
        return Snapshots(self.universe_days(), self.universe_of, self._named_in_actions)

    def _named_in_actions(self) -> set[str]:
        """Every ticker that an action of the source or the user names: of many no list does."""
        actions = read_decisions(self.store).with_added(ActionLog(self.store).current())
        names = {*actions["symbol"].to_pylist(), *actions["new_symbol"].to_pylist()}
        return {name for name in names if name}

    def survey(self) -> Survey | None:
        """The newest survey; None when there is none, or it is damaged: it is only a hint."""
        days = self._so_far(layout.SURVEYS, layout.survey_key)
        if not days:
            return None
        try:
            data = self.store.get(layout.survey_key(days[-1]))
            table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
            span = table.schema.metadata
            symbols, years = table["symbol"].to_pylist(), table["years"].to_pylist()
            return Survey(
                int(span[b"first"]),
                int(span[b"last"]),
                dict(zip(symbols, map(frozenset, years), strict=True)),
            )
        except (BrokenFileError, OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return None

    def _so_far(self, folder: str, key: Callable[[date], str]) -> list[date]:
        days = layout.dated(folder, self.store.list(folder))
        known = known_days(days, self._clock.now())
        for day in days[len(known) :]:
            _log.warning(
                "%s is of a day that is still to come, and is not used: remove it",
                self.store.url(key(day)),
            )
        return known

    def _summary(self, key: str) -> Summary | BrokenFileError | FileNotFoundError:
        where = self.store.url(key)
        try:
            return session_file.summarize(session_file.read_footer(self.store, key), where)
        except (BrokenFileError, FileNotFoundError) as error:
            return error
