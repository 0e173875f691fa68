"""Progress: how far a collection is, for people who wait for it.

Belongs here: the numbers of a moment, and what a display is. Does not belong here: drawing it
(the terminal belongs to the command line, the log to the asset).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection at one moment.

    Args:
        label: What is being collected, for a person: a session or a span of them.
        chunks: Chunks to collect; `chunks_done` of them came to an end.
        symbols_ok: Symbol-sessions answered (✓), with a bar or without.
        symbols_failed: Symbol-sessions that failed (✗).
        bars, requests, retries, throttled: As in `report.Statistics`, so far.
        seconds: Time since the start.
    """

    label: str = ""
    chunks: int = 0
    chunks_done: int = 0
    symbols_ok: int = 0
    symbols_failed: int = 0
    bars: int = 0
    requests: int = 0
    retries: int = 0
    throttled: int = 0
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time that the rest takes at the pace so far; None before the first chunk is done."""
        if not self.chunks_done:
            return None
        return self.seconds / self.chunks_done * (self.chunks - self.chunks_done)

    def __add__(self, other: Snapshot) -> Snapshot:
        """Both collections as one, over the longer of their times."""
        counted = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__slots__
            if name not in ("label", "seconds")
        }
        return Snapshot(self.label, seconds=max(self.seconds, other.seconds), **counted)

    def __str__(self) -> str:
        text = (
            f"{self.label}: {self.chunks_done:,}/{self.chunks:,} chunks, {self.bars:,} bars, "
            f"✓ {self.symbols_ok:,} ✗ {self.symbols_failed:,}, {self.requests:,} requests"
        )
        if self.seconds >= 1 and self.requests:
            text += f" at {self.requests / self.seconds * 60:,.0f} a minute"
        if self.retries:
            text += f" ({self.retries:,} retries, {self.throttled:,} × 429)"
        if (left := self.seconds_left) and self.chunks_done < self.chunks:
            text += f", {left:,.0f} s left"
        return text


class Display:
    """Where progress is shown; this one shows nothing.

    The collection calls `show` a few times a second from the thread that started it, never from
    two threads at once, and once at its end with `final`.
    """

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Show the collection as it is."""


class Displays(Display):
    """Several displays as one.

    Args:
        displays: Each is shown everything.
    """

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Show the collection on each."""
        for display in self._displays:
            display.show(snapshot, final=final)
