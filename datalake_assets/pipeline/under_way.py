"""Windows under way: several collected at a time, handed out one by one in their order.

Belongs here: when the next window begins, and how far all of them are. Does not belong here: what
becomes of a window (`publication`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.collect import Collection
from datalake_assets.collection.plan import Plan
from datalake_assets.collection.progress import Display, Snapshot

_TURN = 0.1
"""Seconds between two looks at the collections that run."""


class UnderWay:
    """The windows being collected, one of them handed out at a time when it is whole.

    The next one begins when every request of those before it is under way, so that neither the
    wait for the last answers nor the writing leaves the account's limit unused.

    Args:
        windows: The sessions of each window and its plan, in order.
        at_once: How many are held in memory at most.
        collection: How to collect a plan.
        display, clock: As for `Publication.run`.
    """

    def __init__(
        self,
        windows: Sequence[tuple[Sequence[date], Plan]],
        at_once: int,
        collection: Callable[[Plan], Collection],
        display: Display,
        clock: Clock,
    ) -> None:
        self._waiting, self._at_once = deque(windows), at_once
        self._running: deque[tuple[deque[date], Collection]] = deque()
        self._collection, self._display, self._clock = collection, display, clock
        self._began, self._shown = clock.seconds(), -math.inf
        first, last = windows[0][0][0], windows[-1][0][-1]
        self._label = f"{first}" if first == last else f"{first} … {last}"
        self._chunks = sum(plan.requests for _, plan in windows)
        self._done = Snapshot()

    def __iter__(self) -> Iterator[tuple[deque[date], Collection]]:
        """Each window when it is collected: its sessions, to be taken off as they are written."""
        self.advance()
        while self._running:
            days, collection = self._running[0]
            while not collection.wait(_TURN):
                self.advance()
                self.show()
            self.advance()
            yield days, collection
            self._done += collection.snapshot()
            self._running.popleft()
            del days, collection
            self.advance()
        self.show(final=True)

    def advance(self) -> None:
        """Begin the next window if it is time; to be called now and then."""
        while (
            self._waiting
            and len(self._running) < self._at_once
            and all(collection.drained for _, collection in self._running)
        ):
            days, plan = self._waiting.popleft()
            collection = self._collection(plan)
            collection.start()
            self._running.append((deque(days), collection))

    def stop(self) -> Iterator[tuple[deque[date], Collection]]:
        """Stop every window; each with the sessions that were not taken off."""
        for _, collection in self._running:
            collection.stop()
        yield from self._running

    def show(self, *, final: bool = False) -> None:
        """Show how far all windows are, if that was not just shown."""
        seconds = self._clock.seconds()
        if not final and seconds < self._shown + _TURN:
            return
        self._shown = seconds
        now = sum((collection.snapshot() for _, collection in self._running), self._done)
        now = replace(now, label=self._label, chunks=self._chunks, seconds=seconds - self._began)
        self._display.show(now, final=final)
