"""Which runs count as alive: their process is asked where it can be, and time tells otherwise."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from datalake_assets import liveness
from datalake_assets.automation import runs
from datalake_assets.liveness import SILENCE, TAG, Process

SECOND = timedelta(seconds=1)
NO_SUCH_RUN = "0" * 8 + "-0000-4000-8000-" + "0" * 12


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as records:
        yield records


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        try:
            yield process
        finally:
            process.kill()


def proc(folder: Path, boot: str, *, pid: int = 4711, started: int | None = 99) -> Path:
    """A /proc with one process, or with none."""
    for name in ("sys/kernel/random/boot_id", "self/ns/pid"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(boot)
    if started is not None:
        stat = folder / str(pid) / "stat"
        stat.parent.mkdir(exist_ok=True)
        stat.write_text(f"{pid} (a) b (c) S " + " ".join(["0"] * 18) + f" {started} 0 0")
    return folder


def tagged(process: Process, run_id: str) -> dict[str, str]:
    return {TAG: f"{run_id} {process.machine} {process.pid} {process.started}"}


def started(
    instance: dg.DagsterInstance,
    tags: Callable[[str], dict[str, str]] = lambda run_id: {},
    status: str = "STARTED",
    job: str = "daily_ticks_job",
) -> str:
    run_id = NO_SUCH_RUN[:-1] + "1"
    create_run_for_test(
        instance,
        run_id=run_id,
        job_name=job,
        status=dg.DagsterRunStatus(status),
        tags={"dagster/partition": "2025-12-05", **tags(run_id)},
    )
    return run_id


def begun(instance: dg.DagsterInstance, run_id: str) -> datetime:
    record = instance.get_run_record_by_id(run_id)
    assert record is not None
    return record.create_timestamp


def status(instance: dg.DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value


@pytest.mark.parametrize(
    ("silent", "ended"), [(SILENCE - SECOND, False), (SILENCE, True), (SILENCE + SECOND, True)]
)
def test_a_run_whose_process_can_not_be_asked_is_lost_after_its_silence(
    instance: dg.DagsterInstance, silent: timedelta, ended: bool
) -> None:
    run_id = started(instance)

    told = runs.end_lost(instance, begun(instance, run_id) + silent)

    assert bool(told) == ended
    assert status(instance, run_id) == ("FAILURE" if ended else "STARTED")
    if ended:
        assert "This run has logged nothing since" in told[0]


def test_silence_is_counted_from_the_last_event_not_from_the_start(
    instance: dg.DagsterInstance,
) -> None:
    run_id = started(instance)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_engine_event("12 of 40 requests", run)
    (last,) = instance.event_log_storage.get_logs_for_run(run_id)
    at = datetime.fromtimestamp(last.timestamp, UTC)

    assert runs.end_lost(instance, at + SILENCE - SECOND) == []
    assert len(runs.end_lost(instance, at + SILENCE)) == 1


@pytest.mark.parametrize("state", ["NOT_STARTED", "STARTING", "STARTED"])
def test_a_run_whose_process_was_killed_is_lost_at_once(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes], state: str
) -> None:
    mine = Process.current()
    assert mine is not None
    ticks = int(Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19])
    process = Process(mine.machine, sleeper.pid, ticks)
    run_id = started(instance, lambda run_id: tagged(process, run_id), state)
    now = begun(instance, run_id)

    assert runs.end_lost(instance, now + 10 * SILENCE) == [], "it is silent, and it lives"
    sleeper.kill()
    # Not waited for yet: what is left of it is an entry in the table of processes.
    while process.lives():
        time.sleep(0.01)
    (told,) = runs.end_lost(instance, now)

    assert told == f"run {run_id[:8]} was marked as failed: {GONE}"
    assert status(instance, run_id) == "FAILURE"
    assert runs.end_lost(instance, now) == [], "and is told once"


GONE = "The process of this run is gone: it was killed."


def test_a_number_that_another_process_has_now_is_another_process(
    instance: dg.DagsterInstance,
) -> None:
    mine = Process.current()
    assert mine is not None
    before = Process(mine.machine, mine.pid, mine.started - 1)
    run_id = started(instance, lambda run_id: tagged(before, run_id))

    assert len(runs.end_lost(instance, begun(instance, run_id))) == 1


def test_the_process_of_another_boot_or_container_can_not_be_asked(tmp_path: Path) -> None:
    here, there = proc(tmp_path / "here", "a"), proc(tmp_path / "there", "b")
    assert (process := Process.current(here)) is None, "this one is in neither"
    proc(tmp_path / "here", "a", pid=os.getpid(), started=7)
    process = Process.current(here)

    assert process is not None
    assert process.started == 7, "the name of a program may hold spaces and parentheses"
    assert process.lives(here) is True
    assert process.lives(there) is None
    assert process.lives(tmp_path) is None, "there is no /proc"
    proc(tmp_path / "here", "a", pid=os.getpid(), started=8)
    assert process.lives(here) is False


@pytest.mark.parametrize("value", ["", "x", "{run} m 1", "{run} m one 2", "{run} m 1 2 3"])
def test_a_tag_that_says_nothing_leaves_it_to_time(
    instance: dg.DagsterInstance, value: str
) -> None:
    run_id = started(instance, lambda run_id: {TAG: value.format(run=run_id)})
    now = begun(instance, run_id)

    assert runs.end_lost(instance, now) == []
    assert len(runs.end_lost(instance, now + SILENCE)) == 1


def test_a_run_launched_again_is_not_taken_for_the_process_of_the_one_before(
    instance: dg.DagsterInstance,
) -> None:
    """Dagster gives it the tags of its parent."""
    mine = Process.current()
    assert mine is not None
    dead = Process(mine.machine, mine.pid, mine.started - 1)
    run_id = started(instance, lambda _: tagged(dead, NO_SUCH_RUN))

    assert runs.end_lost(instance, begun(instance, run_id)) == []


def test_a_queued_run_waits_as_long_as_it_must(instance: dg.DagsterInstance) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="datalake_assets"))
    origin = RemoteRepositoryOrigin(location, "__repository__").get_job_origin("daily_ticks_job")
    queued = dg.DagsterRunStatus.QUEUED
    run = create_run_for_test(
        instance, job_name="daily_ticks_job", status=queued, remote_job_origin=origin
    )
    run_id = run.run_id
    assert runs.end_lost(instance, begun(instance, run_id) + timedelta(days=2)) == []


def test_a_run_that_was_being_cancelled_ends_as_cancelled(instance: dg.DagsterInstance) -> None:
    run_id = started(instance, status="CANCELING")
    assert len(runs.end_lost(instance, begun(instance, run_id) + SILENCE)) == 1
    assert status(instance, run_id) == "CANCELED"


def test_runs_of_others_are_none_of_our_business(instance: dg.DagsterInstance) -> None:
    run_id = started(instance, job="somebody_elses_job")
    assert runs.end_lost(instance, begun(instance, run_id) + timedelta(days=9)) == []
    assert status(instance, run_id) == "STARTED"


def test_what_a_run_is_tagged_with_is_this_process() -> None:
    run_id = NO_SUCH_RUN
    run = dg.DagsterRun(job_name="a", run_id=run_id, tags=liveness.tag(run_id))
    process = liveness.process_of(run)
    assert process == Process.current()
    assert process is not None
    assert process.pid == os.getpid()
    assert process.lives()
