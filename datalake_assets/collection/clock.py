"""The clock that collecting waits by: a port of three methods, so that tests bring their own.

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
        """Seconds that never run backwards, the same for all processes of this machine."""
        return time.monotonic()

    def now(self) -> datetime:
        """The current instant, in UTC."""
        return datetime.now(UTC)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait, but no longer than until `stop` is set; True when it is."""
        return stop.wait(max(0.0, seconds))
