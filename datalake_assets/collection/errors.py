"""The errors of a collection. Each is classified once, where the source's answer is read.

Belongs here: the classes by which the collector decides to retry, to leave a symbol out or
to stop. Does not belong here: errors of the store or of the settings.
"""

from __future__ import annotations

from collections.abc import Iterable


class CollectionError(Exception):
    """The base class of errors that stop a request, a chunk or a collection."""


class TransientError(CollectionError):
    """A request that may succeed if it is retried.

    Args:
        message: What was attempted and what came back.
        retry_after: Seconds that the source asked to wait, if it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ThrottledError(TransientError):
    """The account's limit is exceeded (HTTP 429): all requests must pause."""


class UnreadableError(TransientError):
    """An answer that can't be read: damaged, or not a page of bars.

    A retry may succeed. If none does, one of its symbols may be the cause.
    """


class PermanentError(CollectionError):
    """A request that fails the same way every time: its symbols fail, the others continue."""


class TruncatedError(PermanentError):
    """An answer that lacks so much of what is known that it must be truncated: it was not used.

    Args:
        message: What was attempted and what came back.
        setting: What allows more to be missing.
    """

    def __init__(self, message: str, setting: str) -> None:
        super().__init__(f"{message}. If it is right, raise {setting} for one run")
        self.setting = setting


class BadRequestError(PermanentError):
    """The source refuses the request without naming a symbol; one of them may be the cause."""


class RejectedSymbolError(PermanentError):
    """The source refused a whole request because it has invalid symbols.

    Args:
        message: What the source answered.
        symbols: The names in its message; empty if it named none.
    """

    def __init__(self, message: str, *symbols: str) -> None:
        super().__init__(message)
        self.symbols = symbols

    def of(self, asked: Iterable[str]) -> frozenset[str]:
        """Those of the requested names that it means, ignoring case if none matches."""
        asked = frozenset(asked)
        named = {name.upper() for name in self.symbols}
        return asked.intersection(self.symbols) or frozenset(
            symbol for symbol in asked if symbol.upper() in named
        )


class RefusedError(CollectionError):
    """No request of this collection can succeed (keys, plan or time range): it stops at once."""


class StoppedError(CollectionError):
    """The collection was stopped, or its deadline passed, before this request was answered."""
