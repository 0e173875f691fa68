"""Liveness: whether a run that Dagster shows as in progress is still alive.

Belongs here: the process of a run, and the rule by which a run counts as lost. Does not belong
here: which runs are checked, and what happens to a lost one (`automation.runs`).

A killed process can't report to Dagster, and Dagster's default launcher does not check. So two
things are checked, in this order:

1. The process, if it is visible from here: on the same boot of the same machine, and in the same
   container. A process id alone proves nothing, as ids are reused, and neither does
   the name of a host, as containers change and share theirs.
2. Otherwise the time since the run's last event: a working run logs an event every ten seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import dagster as dg

TAG = "datalake/process"
"""The tag of a run with its process."""

SILENCE = timedelta(minutes=20)
"""A run without an event for this long is lost, if its process can't be checked. The longest
silence of a healthy run is one invocation of the Lambda function, 15.5 minutes."""

GOING_ON = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""The statuses in which a run should have a process; a queued run has none."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, distinguished from every other one with the same id.

    Args:
        machine: The boot of the machine and the namespace of process ids.
        pid: Its process id.
        started: When it started, in kernel ticks since boot.
    """

    machine: str
    pid: int
    started: int

    @classmethod
    def current(cls, proc: Path = Path("/proc")) -> Self | None:
        """This process; None on a system without /proc."""
        machine, started = _machine(proc), _started(proc, os.getpid())
        return cls(machine, os.getpid(), started) if machine and started is not None else None

    def lives(self, proc: Path = Path("/proc")) -> bool | None:
        """Whether it is still running; None if it can't be checked from here."""
        if self.machine != _machine(proc):
            return None
        return _started(proc, self.pid) == self.started


def tag(run_id: str) -> dict[str, str]:
    """The tag that names this process as that of a run; empty where that is unknown.

    Args:
        run_id: The run. It is part of the tag, because a retry copies the tags of the run before.
    """
    process = Process.current()
    if not process:
        return {}
    return {TAG: f"{run_id} {process.machine} {process.pid} {process.started}"}


def mark(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Record that this process executes the run."""
    run_id = context.run.run_id
    if found := tag(run_id):
        context.instance.add_run_tags(run_id, found)


def process_of(run: dg.DagsterRun) -> Process | None:
    """The process of a run; None if unknown."""
    match run.tags.get(TAG, "").split(" "):
        case [run_id, machine, pid, started] if run_id == run.run_id:
            if pid.isdecimal() and started.isdecimal():
                return Process(machine, int(pid), int(started))
    return None


def lost(instance: dg.DagsterInstance, record: dg.RunRecord, now: datetime) -> str | None:
    """Why a run that is shown as in progress counts as lost; None while it counts as alive.

    Args:
        instance: Dagster's records.
        record: The run.
        now: The time, UTC.
    """
    run = record.dagster_run
    if run.status not in GOING_ON:
        return None
    process = process_of(run)
    lives = process.lives() if process else None
    if lives is not None:
        return None if lives else "The process of this run is gone: it was killed."
    last = _last_event(instance, record)
    if now - last < SILENCE:
        return None
    return (
        f"This run has logged nothing since {last:%Y-%m-%d %H:%M} UTC, more than "
        f"{SILENCE // timedelta(minutes=1)} minutes ago, and its process can't be checked from "
        "here: it counts as lost."
    )


def _last_event(instance: dg.DagsterInstance, record: dg.RunRecord) -> datetime:
    run_id = record.dagster_run.run_id
    found = instance.event_log_storage.get_logs_for_run(run_id, limit=1, ascending=False)
    return datetime.fromtimestamp(found[0].timestamp, UTC) if found else record.create_timestamp


def _machine(proc: Path) -> str | None:
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{(proc / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _started(proc: Path, pid: int) -> int | None:
    """When a process started; None if there is none, or only a zombie."""
    try:
        told = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, which can contain anything.
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    fields = told.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
