"""Progress of a collection, for the people who wait for it.

Belongs here: a snapshot of the progress, and the interface of a display. Does not belong here:
drawing it (the command line does in the terminal, the asset in its log).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The progress of a collection at one moment.

    Args:
        label: What is being collected: a session or a range of them.
        chunks: Chunks to collect; `chunks_done` of them are finished.
        unit: The name of a chunk, such as "file" where files are counted.
        symbols_ok: Symbol-sessions that the source answered (✓), with or without a bar.
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
        """The estimated time left at the pace so far; None before the first chunk is done."""
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
        """The chunks done, of all: `3/10 chunks`."""
        return f"{self.chunks_done:,}/{many(self.chunks, self.unit)}"

    def __str__(self) -> str:
        parts = [self.counted]
        if self.bars:
            parts.append(many(self.bars, "bar"))
        if self.symbols_ok or self.symbols_failed:
            parts.append(f"✓ {self.symbols_ok:,} ✗ {self.symbols_failed:,}")
        if self.requests:
            sent = many(self.requests, "request")
            if self.seconds >= 1:
                sent += f" at {self.requests / self.seconds * 60:,.0f} per minute"
            if self.retries:
                sent += f" ({many(self.retries, 'retry')}, {self.throttled:,} × 429)"
            parts.append(sent)
        if (left := self.seconds_left) and self.chunks_done < self.chunks:
            parts.append(f"{left:,.0f} s left")
        return f"{self.label}: {', '.join(parts)}"


def many(count: int, thing: str) -> str:
    """A count with its noun: `1 bar`, `2 bars`, `2 days`, `3 retries`."""
    if count != 1:
        ends_in_ies = thing.endswith("y") and thing[-2] not in "aeiou"
        thing = f"{thing[:-1]}ies" if ends_in_ies else f"{thing}s"
    return f"{count:,} {thing}"


def verb(count: int, one: str = "is", several: str = "are", *, of: int | None = None) -> str:
    """The form of a verb after a count: `is` after 1, `are` after others.

    Args:
        count: The count.
        one: The form after 1.
        several: The form after others.
        of: What it is a part of, whose noun stands before the verb: 0 of 1 session `is`.
    """
    return one if 1 in (count, of) else several


class Display:
    """Where progress is shown; this one shows nothing.

    A step that can be counted calls `show` a few times a second, and once at its end with `final`.
    A step that can't be counted is named by `begin`, and lasts until the next call of either. All
    calls come from the thread that started the work, never from two threads at once.
    """

    def begin(self, what: str) -> None:
        """Name the step that starts now, such as `fetching the list of assets`."""

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Show the progress."""


class Displays(Display):
    """Several displays as one.

    Args:
        displays: Every call goes to each of these.
    """

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def begin(self, what: str) -> None:
        """Name the step on each display."""
        for display in self._displays:
            display.begin(what)

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        """Show the progress on each display."""
        for display in self._displays:
            display.show(snapshot, final=final)
