"""What can go wrong while collecting, classified once: where the answer of the source is seen.

Belongs here: the classes by which the collector decides to try again, to leave a symbol out or
to stop. Does not belong here: errors of the store or of the settings.
"""

from __future__ import annotations

from collections.abc import Iterable


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
    """An answer that can't be read as a whole: damaged, or no page of bars.

    Sent again it may be whole; if it never is, one of its symbols may be the cause.
    """


class PermanentError(CollectionError):
    """A request that will fail the same way each time: its symbols fail, the others go on."""


class BadRequestError(PermanentError):
    """The source refuses the request as it stands and names no symbol: one may be the cause."""


class RejectedSymbolError(PermanentError):
    """The source refused a whole request because names in it are no symbols.

    Args:
        message: What the source answered.
        symbols: The names that it gave, none when it named none.
    """

    def __init__(self, message: str, *symbols: str) -> None:
        super().__init__(message)
        self.symbols = symbols

    def of(self, asked: Iterable[str]) -> frozenset[str]:
        """Those of the asked names that are meant; if none is, those it names in another case."""
        asked = frozenset(asked)
        named = {name.upper() for name in self.symbols}
        return asked.intersection(self.symbols) or frozenset(
            symbol for symbol in asked if symbol.upper() in named
        )


class RefusedError(CollectionError):
    """No request of this collection can succeed (keys, plan or time range): it stops at once."""


class StoppedError(CollectionError):
    """The collection was told to stop, or its deadline came, before this request was answered."""
