"""Liveness: whether a run that Dagster's records show as going on still is.

Belongs here: the process that carries out a run, and the rule by which a run counts as lost. Does
not belong here: which runs are looked at, and what is done about a lost one (`automation.runs`).

A killed process can't tell Dagster, and Dagster's default launcher does not look. Two things are
asked instead, in this order:

1. The process, where this one can see it: on the same boot of the same machine, and in the same
   container. A process number alone proves nothing, as numbers are used again, and neither does
   the name of a host, as containers change and share theirs.
2. Otherwise the time since the run's last event: a run that works says so every ten seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import dagster as dg

TAG = "datalake/process"
"""Tag of a run: the process that carries it out."""

SILENCE = timedelta(minutes=20)
"""A run without an event for so long is lost, when its process can't be asked. The longest that a
good one is silent is one invocation of the Lambda function, 15 minutes and a half."""

GOING_ON = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""Where a run stands that somebody should be carrying out; one that is queued waits rightly."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told apart from every other one that ever had its number.

    Args:
        machine: This boot of the machine, and the space that its process numbers are of.
        pid: Its number.
        started: When it started, in the kernel's ticks since the boot.
    """

    machine: str
    pid: int
    started: int

    @classmethod
    def current(cls, proc: Path = Path("/proc")) -> Self | None:
        """This process; None on a system that does not tell (it has no /proc)."""
        machine, started = _machine(proc), _started(proc, os.getpid())
        return cls(machine, os.getpid(), started) if machine and started is not None else None

    def lives(self, proc: Path = Path("/proc")) -> bool | None:
        """Whether it is still there; None when it can't be asked from here."""
        if self.machine != _machine(proc):
            return None
        return _started(proc, self.pid) == self.started


def tag(run_id: str) -> dict[str, str]:
    """The tag that says that this process carries out a run; none where it can't be told.

    Args:
        run_id: The run. It is part of the tag, because a run that is launched again gets the tags
            of the one before it.
    """
    process = Process.current()
    if not process:
        return {}
    return {TAG: f"{run_id} {process.machine} {process.pid} {process.started}"}


def mark(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Note in the records that this process carries out the run."""
    run_id = context.run.run_id
    if found := tag(run_id):
        context.instance.add_run_tags(run_id, found)


def process_of(run: dg.DagsterRun) -> Process | None:
    """The process that carries out a run; None when nothing is known of it."""
    match run.tags.get(TAG, "").split(" "):
        case [run_id, machine, pid, started] if run_id == run.run_id:
            if pid.isdecimal() and started.isdecimal():
                return Process(machine, int(pid), int(started))
    return None


def lost(instance: dg.DagsterInstance, record: dg.RunRecord, now: datetime) -> str | None:
    """Why a run that the records show as going on is not; None while it counts as alive.

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
        f"Nothing was heard of this run since {last:%Y-%m-%d %H:%M} UTC, more than "
        f"{SILENCE // timedelta(minutes=1)} minutes ago, and its process can't be asked from here: "
        "it is taken for lost."
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
    """When a process started; None when there is none, or only what its parent is to be told."""
    try:
        told = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may hold anything.
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    fields = told.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
