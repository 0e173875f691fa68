"""The clock used for waiting: an interface of three methods, which tests can implement.

Belongs here: monotonic time and interruptible waiting. Does not belong here: sessions and their
hours (`market_calendar`).
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime


class Clock:
    """The machine's clock."""

    def seconds(self) -> float:
        """Monotonic seconds, the same for all processes of this machine."""
        return time.monotonic()

    def now(self) -> datetime:
        """The current instant, in UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for this long or until `stop` is set; True if it is set."""
        return stop.wait(max(0.0, seconds))
