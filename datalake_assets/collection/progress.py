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
        unit: What a chunk is called where something else than bars is counted: "file".
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
    unit: str = "chunk"

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
            if name not in ("label", "seconds", "unit")
        }
        seconds = max(self.seconds, other.seconds)
        return Snapshot(self.label, seconds=seconds, unit=self.unit, **counted)

    @property
    def counted(self) -> str:
        """How many chunks are done, of how many: `3/10 chunks`."""
        return f"{self.chunks_done:,}/{many(self.chunks, self.unit)}"

    def __str__(self) -> str:
        told = [self.counted]
        if self.bars:
            told.append(many(self.bars, "bar"))
        if self.symbols_ok or self.symbols_failed:
            told.append(f"✓ {self.symbols_ok:,} ✗ {self.symbols_failed:,}")
        if self.requests:
            sent = many(self.requests, "request")
            if self.seconds >= 1:
                sent += f" at {self.requests / self.seconds * 60:,.0f} a minute"
            if self.retries:
                sent += f" ({many(self.retries, 'retry')}, {self.throttled:,} × 429)"
            told.append(sent)
        if (left := self.seconds_left) and self.chunks_done < self.chunks:
            told.append(f"{left:,.0f} s left")
        return f"{self.label}: {', '.join(told)}"


def many(count: int, thing: str) -> str:
    """A number of things, as a person writes it: `1 bar`, `2 bars`, `3 retries`."""
    if count != 1:
        thing = f"{thing[:-1]}ies" if thing.endswith("ry") else f"{thing}s"
    return f"{count:,} {thing}"


class Display:
    """Where progress is shown; this one shows nothing.

    What can be counted calls `show` a few times a second, and once at its end with `final`. What
    can't be counted is named by `begin`, and goes on until the next call of either. All calls come
    from the thread that started the work, never from two threads at once.
    """

    def begin(self, what: str) -> None:
        """Name what begins now, like `taking the list of assets`."""

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Show the collection as it is."""


class Displays(Display):
    """Several displays as one.

    Args:
        displays: Each is shown everything.
    """

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def begin(self, what: str) -> None:
        """Name it on each."""
        for display in self._displays:
            display.begin(what)

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Show the collection on each."""
        for display in self._displays:
            display.show(snapshot, final=final)
