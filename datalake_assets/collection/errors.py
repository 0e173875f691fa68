"""What can go wrong while collecting, classified once: where the answer of the source is seen.

Belongs here: the classes by which the collector decides to try again, to leave a symbol out or
to stop. Does not belong here: errors of the store or of the settings.
"""

from __future__ import annotations


class CollectionError(Exception):
    """Anything that stops a request, a chunk or a collection."""


class TransientError(CollectionError):
    """A request that may succeed when it is sent again.

    Args:
        message: What was attempted and what came back.
        retry_after: Seconds that the source asked to wait, if it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ThrottledError(TransientError):
    """The account's limit is spent (HTTP 429): nobody should ask for a while."""


class UnreadableError(TransientError):
    """An answer that can't be read: damaged on its way, or one of its bars is none.

    Sent again it may be whole; if it never is, without the symbol of that bar it is.
    """


class PermanentError(CollectionError):
    """A request that will fail the same way each time: its symbols fail, the others go on."""


class OddBarError(PermanentError):
    """A bar that can be read and is not what was asked for; the other symbols' may be."""


class RejectedSymbolError(PermanentError):
    """The source refused a whole request because one of its names is no symbol.

    Args:
        message: What the source answered.
        symbol: The name that it gave, or None when it named none.
    """

    def __init__(self, message: str, symbol: str | None) -> None:
        super().__init__(message)
        self.symbol = symbol


class RefusedError(CollectionError):
    """No request of this collection can succeed (keys, plan or time range): it stops at once."""


class StoppedError(CollectionError):
    """The collection was told to stop, or its deadline came, before this request was answered."""
