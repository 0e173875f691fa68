"""Runs of the command line in Dagster's records: they belong to the code location's jobs.

Not here: what the commands print (`test_cli`).
"""

import gc
import os
import signal
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import dagster as dg
import pytest
import typer
import yaml
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.execution import api
from dagster._core.execution.context.init import UnboundInitResourceContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from typer.testing import CliRunner

from datalake_assets import definitions
from datalake_assets.automation.runs import TERMINAL, partitions_of
from datalake_assets.cli import app
from datalake_assets.cli.interrupted import Collecting
from datalake_assets.cli.runs import LOCATION
from datalake_assets.cli.terminal import plain_errors
from datalake_assets.collection.dataset import DAILY, MINUTE, Dataset
from datalake_assets.lake.files import LakeFiles
from datalake_assets.settings import Settings
from datalake_assets.storage.store import StoreError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Dagster's records of commands that run in an empty folder. Nobody adds to them."""
    folder = tmp_path_factory.mktemp("terminal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DAGSTER_HOME", str(folder / ".datalake" / "dagster"))
        patch.setenv("DATALAKE_SYMBOLS", "AEF,ALES")
        for days in ("--session 2024-07-01", "--from 2024-07-01 --to 2024-07-02"):
            result = CliRunner().invoke(app, ("collect", *days.split()))
            assert result.exit_code == 0, result.output
        with dg.DagsterInstance.get() as instance:
            yield instance


def test_a_run_in_a_terminal_is_one_of_its_job_in_the_code_location(
    records: dg.DagsterInstance,
) -> None:
    runs = {run.run_id: run for run in records.get_runs()}
    by_job = {
        job: records.get_runs(
            dg.RunsFilter(
                job_name=job,
                tags={".dagster/repository": f"{SINGLETON_REPOSITORY_NAME}@{LOCATION}"},
            )
        )
        for job in ("daily_ticks_job", "symbol_year_ticks_job", "year_ticks_job")
    }

    # The filter by which the UI shows the runs of a job.
    assert sum(map(len, by_job.values())) == len(runs) == 6
    for job, found in by_job.items():
        for run in found:
            assert run.remote_job_origin is not None
            assert run.remote_job_origin.job_name == job
            assert run.tags[TERMINAL] == "datalake"
            assert run.is_success
    one, both = reversed(by_job["daily_ticks_job"])
    assert partitions_of(one.tags) == ["2024-07-01"]
    assert partitions_of(both.tags) == ["2024-07-01", "2024-07-02"]
    assert records.get_materialized_partitions(dg.AssetKey("daily_ticks")) == {
        "2024-07-01",
        "2024-07-02",
    }


def test_their_origin_is_that_of_the_workspace(records: dg.DagsterInstance) -> None:
    (origin,) = WorkspaceFileTarget([str(ROOT / "workspace.yaml")]).create_origins()
    (run, *_) = records.get_runs()
    assert run.remote_job_origin is not None

    ours = run.remote_job_origin.repository_origin.code_location_origin
    assert ours.location_name == origin.location_name == LOCATION
    assert ours.loadable_target_origin.module_name == origin.loadable_target_origin.module_name
    # Other files that name it.
    deployed = yaml.safe_load((ROOT / "deploy" / "workspace.yaml").read_text())
    assert deployed["load_from"][0]["grpc_server"]["location_name"] == LOCATION
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["dagster"]["code_location_name"] == LOCATION


FIRST, SECOND = date(2024, 7, 1), date(2024, 7, 2)


def a_result(*done: date, run: str = "this") -> dg.ExecuteInProcessResult:
    """What is asked of the result of a run that materialized these sessions."""
    events = [SimpleNamespace(partition=f"{day}") for day in done]
    told = SimpleNamespace(run_id=run, get_asset_materialization_events=lambda: events)
    return cast(dg.ExecuteInProcessResult, told)


def a_lake(
    dataset: Dataset = DAILY, *, failed: int = 0, run: str = "an earlier"
) -> tuple[LakeFiles, list[date]]:
    """A lake in which the second session stands, and the sessions whose files were read."""
    read: list[date] = []
    stands = SimpleNamespace(
        session=SECOND,
        counts={"failed": failed, "pending": 0},
        provenance=SimpleNamespace(run_id=run),
    )

    def finished(days: list[date]) -> list[SimpleNamespace]:
        read.extend(days)
        return [stands] if SECOND in days else []

    lake = SimpleNamespace(dataset=dataset, sessions=lambda: [SECOND], finished=finished)
    return cast(LakeFiles, lake), read


FEW = {"min_coverage": 0.5, "max_session_loss": 1.0}
MANY = {"unanswered_allowed": 1_000_000, "min_coverage": 0.9999999}


@pytest.mark.parametrize(
    ("dataset", "done", "options", "symbols", "advice"),
    [
        (DAILY, (), {"repair": True}, None, "collect --from 2024-07-01 --to 2024-07-02 --repair"),
        (
            MINUTE,
            (SECOND,),
            {},
            None,
            "a symbol twice: datalake collect --minutes --session 2024-07-01 --repair",
        ),
        (DAILY, (SECOND,), {}, "AEF,@a b", "--session 2024-07-01 --repair --symbols 'AEF,@a b'"),
        # A repair would not collect the second session again, which is published.
        (DAILY, (FIRST,), {}, None, "not reached: datalake collect --session 2024-07-02"),
        (DAILY, (FIRST,), FEW, "A", "--symbols A --min-coverage 0.5 --max-session-loss 1"),
        (DAILY, (FIRST,), MANY, None, "--unanswered-allowed 1000000 --min-coverage 0.9999999"),
        (DAILY, (FIRST,), {"missing_only": True}, None, "Every session is published. To bring"),
        (DAILY, (FIRST, SECOND), {}, None, "datalake backfill --from 2024-07-01"),
        (DAILY, (FIRST, SECOND), {}, "AEF", "2024-07-02 --symbols AEF"),
        (MINUTE, (FIRST, SECOND), {}, None, "nothing is left to do"),
    ],
)
def test_after_an_interruption_it_is_said_what_is_left_and_the_command_that_does_it(
    dataset: Dataset,
    done: tuple[date, ...],
    options: dict[str, float],
    symbols: str | None,
    advice: str,
) -> None:
    lake, read = a_lake(dataset, failed=1)

    told = Collecting(lake, FIRST, SECOND, options, symbols).advice(a_result(*done))

    assert advice in told
    assert set(read).isdisjoint(done), "what the run told of needs no look at the lake"


@pytest.mark.parametrize(
    ("options", "failed", "run", "done"),
    [
        ({}, 0, "an earlier", {FIRST}),  # it had to collect both again
        ({}, 1, "this", {FIRST, SECOND}),
        ({"missing_only": True}, 1, "an earlier", {FIRST, SECOND}),
        ({"repair": True}, 0, "an earlier", {FIRST, SECOND}),
        ({"repair": True}, 1, "an earlier", {FIRST}),
    ],
)
def test_what_an_interrupted_collection_had_left_depends_on_what_it_was_for(
    options: dict[str, float], failed: int, run: str, done: set[date]
) -> None:
    lake, _ = a_lake(failed=failed, run=run)

    assert Collecting(lake, FIRST, SECOND, options).done(a_result(FIRST)) == done


def test_when_the_lake_can_not_be_looked_at_after_an_interruption_status_is_named() -> None:
    def gone(days: list[date]) -> NoReturn:
        raise StoreError("can't list s3://bucket/lake")

    lake = cast(LakeFiles, SimpleNamespace(dataset=DAILY, finished=gone))

    told = Collecting(lake, FIRST, SECOND, {}).advice(a_result())

    assert "What is left is told by: datalake status" in told
    assert "can't list s3://bucket/lake" in told


STARTED, ENDED = dg.DagsterEventType.ENGINE_EVENT, dg.DagsterEventType.RUN_SUCCESS
TO_COLLECT = "To collect the others without requesting a symbol twice: datalake collect"
TO_PUBLISH = "Every session is published. To bring the files per symbol and year up to date"


@pytest.mark.parametrize(
    ("when", "number", "code", "advice"),
    [
        (STARTED, signal.SIGINT, 130, TO_COLLECT),
        (ENDED, signal.SIGINT, 130, TO_PUBLISH),
        (STARTED, signal.SIGTERM, 143, TO_COLLECT),
        (ENDED, signal.SIGTERM, 143, TO_PUBLISH),
    ],
)
def test_a_signal_between_the_steps_of_a_run_ends_the_command_too(
    when: dg.DagsterEventType,
    number: signal.Signals,
    code: int,
    advice: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".datalake" / "dagster"))
    monkeypatch.setenv("DATALAKE_SYMBOLS", "AEF,ALES")
    execute = api.execute_run_iterator
    sent: list[dg.DagsterEvent] = []

    def interrupted_there(*arguments: Any) -> Iterator[dg.DagsterEvent]:
        for event in execute(*arguments):
            if event.event_type is when and not sent:
                sent.append(event)
                os.kill(os.getpid(), number)
            yield event

    monkeypatch.setattr(api, "execute_run_iterator", interrupted_there)

    result = CliRunner().invoke(app, ("collect", "--session", "2024-07-01"))

    assert sent
    assert result.exit_code == code, result.output
    assert ": interrupted\n" in result.output
    assert advice in result.output
    with dg.DagsterInstance.get() as instance:
        assert [run.job_name for run in instance.get_runs()] == ["daily_ticks_job"]


def test_a_run_that_fails_without_a_failed_step_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".datalake" / "dagster"))
    build = definitions.build_definitions

    @dg.resource
    def unusable(_context: dg.InitResourceContext) -> None:
        raise StoreError("the list of sessions can't be kept: no space left") from OSError(28, "")

    def without_display(settings: Settings, **options: Any) -> dg.Definitions:
        made = build(settings, **options)
        resources = {**(made.resources or {}), "display": unusable}
        return dg.Definitions(
            assets=made.assets, asset_checks=made.asset_checks, jobs=made.jobs, resources=resources
        )

    monkeypatch.setattr(definitions, "build_definitions", without_display)

    result = CliRunner().invoke(app, ("collect", "--session", "2024-07-01"))

    assert result.exit_code == 1, result.output
    assert "daily_ticks_job: the list of sessions can't be kept: no space left" in result.output


@pytest.mark.parametrize(
    ("number", "at_first", "code"),
    [
        (signal.SIGINT, signal.default_int_handler, 130),
        (signal.SIGTERM, signal.SIG_DFL, 143),
        # A shell has a script's background jobs ignore Ctrl-C: they can still be terminated.
        (signal.SIGINT, signal.SIG_IGN, 0),
    ],
)
def test_a_signal_before_a_run_ends_the_command_and_its_handler_is_put_back(
    number: signal.Signals,
    at_first: Any,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.signal(number, at_first)
    try:
        with ExitStack() as stack:
            if code:
                ended = stack.enter_context(pytest.raises(typer.Exit))
            stack.enter_context(plain_errors())
            signal.raise_signal(number)
        assert signal.getsignal(number) is at_first
    finally:
        signal.signal(number, before)

    told = capsys.readouterr().err
    if code:
        assert ended.value.exit_code == code
        assert "interrupted. Published sessions stay; run the same command again" in told
    else:
        assert told == ""


def test_after_an_interruption_nothing_is_said_of_what_dagster_had_made_half(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_type))

    with pytest.raises(typer.Exit), plain_errors():
        signal.raise_signal(signal.SIGTERM)
    # As a signal in its `__init__` leaves it.
    UnboundInitResourceContext.__new__(UnboundInitResourceContext)
    Broken()
    gc.collect()

    assert told == [ValueError]
