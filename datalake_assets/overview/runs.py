"""Runs: what was done lately and what failed, as the overview shows it.

Belongs here: the values. Does not belong here: where they come from. Dagster's records are read by
`automation.runs`; without Dagster there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Run:
    """A run.

    Args:
        run_id: Its identifier.
        what: What it ran: a job, or the assets that were selected.
        partitions: The sessions (`2024-07-03`) or years (`2024`) that it was for, ascending.
        created: When it was requested, UTC.
        seconds: How long it ran; None before its end, and if it never began.
        outcome: succeeded, failed, canceled, queued or running.
        reason: Why it failed; empty otherwise.
    """

    run_id: str
    what: str
    partitions: Sequence[str]
    created: datetime
    seconds: float | None
    outcome: str
    reason: str = ""

    @property
    def span(self) -> str:
        """The partitions in a few words."""
        if len(self.partitions) < 2:
            return "".join(self.partitions)
        return f"{self.partitions[0]} to {self.partitions[-1]}"


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of the lake's jobs and assets.

    Args:
        since: The beginning of the time in which failed runs are counted, UTC.
        newest: The newest runs, the newest first.
        failed: The newest failed runs, the newest first, with their reasons.
        failures: How many failed since then.
    """

    since: datetime
    newest: Sequence[Run]
    failed: Sequence[Run]
    failures: int
