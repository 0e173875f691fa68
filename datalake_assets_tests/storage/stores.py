"""Stores that tell of each write, so that a test can be there: to count, to fail it, to hold it.

Not here: a server that errs (`s3_proxy`), and what is written (`files`).
"""

import threading
from collections.abc import Callable

from datalake_assets.storage.store import Store

Moment = Callable[[str, str], None]
"""Called with what is done (`replace`, `put`, `copy`, `create`, `delete`) and the key."""


def nothing(verb: str, key: str) -> None:
    """Let it be."""


class WatchedStore(Store):
    """A store that tells of each write.

    Args:
        store: Where it writes; any number of them may watch the same one.
        before: Called before a write; if it raises, nothing is written.
        after: Called when it was written, before the writer knows.
    """

    def __init__(self, store: Store, before: Moment = nothing, after: Moment = nothing) -> None:
        vars(self).update(vars(store))
        self._before, self._after = before, after
        self._noting = threading.Lock()
        self.written: list[tuple[str, str]] = []

    def put(self, key: str, data: bytes) -> None:
        self._before("put", key)
        super().put(key, data)
        self._note("put", key)

    def copy(self, source: str, key: str) -> None:
        self._before("copy", key)
        super().copy(source, key)
        self._note("copy", key)

    def create(self, key: str, data: bytes) -> bool:
        self._before("create", key)
        made = super().create(key, data)
        self._note("create", key)
        return made

    def replace(self, key: str, data: bytes, version: str | None) -> str:
        self._before("replace", key)
        written = super().replace(key, data, version)
        self._note("replace", key)
        return written

    def delete(self, key: str) -> None:
        self._before("delete", key)
        super().delete(key)
        self._note("delete", key)

    def _note(self, verb: str, key: str) -> None:
        with self._noting:
            self.written.append((verb, key))
        self._after(verb, key)


class Interlude:
    """Something that happens at the n-th write, before or after it.

    Args:
        writes: At which.
        reached: After the write reached the store, else before.
        what: What happens.

    Attributes:
        happened: Whether there were so many writes.
        moments: For a `WatchedStore`.
    """

    def __init__(self, writes: int, reached: bool, what: Callable[[], object]) -> None:
        self._left, self._what, self.happened = writes, what, False
        self.moments = {"after" if reached else "before": self._count}

    def _count(self, verb: str, key: str) -> None:
        self._left -= 1
        if self._left == 0:
            self.happened = True
            self._what()
