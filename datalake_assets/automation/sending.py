"""Sending one alert: attempts, what may be tried again, and the error when nothing arrives.

Belongs here: what holds for every kind of receiver. Does not belong here: the receivers (`alerts`
has the webhook, `services` those of Apprise).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from datalake_assets.collection.clock import Clock


class AlertError(RuntimeError):
    """An alert could not be sent to every receiver.

    Args:
        message: To which ones, and why not.
        delivered: Whether another receiver has it.
    """

    def __init__(self, message: str, delivered: bool = False) -> None:
        super().__init__(message)
        self.delivered = delivered


@dataclass(frozen=True)
class Attempt:
    """How one attempt ended. `reason` is None when the text was delivered."""

    reason: str | None = None
    may_pass: bool = True
    cause: Exception | None = None

    @classmethod
    def delivered(cls) -> Self:
        """The text arrived."""
        return cls()

    @classmethod
    def answered(cls, status: int) -> Self:
        """An HTTP status that means that it did not arrive: 429 and 5xx can pass."""
        return cls(f"it answered HTTP {status}", status == 429 or status >= 500)

    @classmethod
    def failed(cls, reason: str, cause: Exception | None = None) -> Self:
        """No answer: that can pass."""
        return cls(reason, True, cause)


def send(
    attempt: Callable[[], Attempt], receiver: str, variable: str, attempts: int, clock: Clock
) -> None:
    """Send until the text is delivered, or can't be.

    Args:
        attempt: Sends it once.
        receiver: The receiver's name for errors, without a secret.
        variable: The setting that names the receiver.
        attempts: How often at most.
        clock: Waits between attempts.

    Raises:
        AlertError: It was not delivered.
    """
    for number in range(1, attempts + 1):
        ended = attempt()
        if ended.reason is None:
            return
        if not ended.may_pass or number == attempts:
            raise AlertError(
                f"an alert could not be sent to {receiver} (attempt {number} of "
                f"{attempts}): {ended.reason}; check {variable}"
            ) from ended.cause
        clock.wait(0.5 * number, threading.Event())
