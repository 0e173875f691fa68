"""Alerts: what arrives at a receiver, what is said when nothing does, what a failed run tells.

Not here: the services of Apprise (`test_services`), when a stale lake is told of
(`test_freshness`).
"""

import html
import logging
import re
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from datalake_assets.automation.alerts import (
    LINES,
    WIDTH,
    Webhook,
    build_failure_sensor,
    failure_text,
)
from datalake_assets.automation.jobs import Jobs
from datalake_assets.automation.runs import PURPOSE, TERMINAL, why_failed
from datalake_assets.automation.sending import AlertError
from datalake_assets.definitions import build_definitions
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.resources import LakeResource
from datalake_assets.settings import Settings
from datalake_assets.storage.store import StoreError, open_store
from datalake_assets_tests.automation.receiver import SECRET, receiver
from datalake_assets_tests.fakes import FakeClock

SESSION, LAST = "2024-07-03", "2024-07-08"
RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def hook(address: str, timeout: float = 5) -> Webhook:
    """A webhook that does not wait between attempts."""
    return Webhook(address, timeout=timeout, clock=FakeClock())


# --- sending --------------------------------------------------------------------------------------


def test_a_text_arrives_as_the_json_that_slack_reads() -> None:
    with receiver() as told:
        hook(told.address + "?thread=1").tell("a < b & ü\nsecond line")

    ((path, kind, _),) = told.arrived
    assert (path, kind) == (f"/services/{SECRET}?thread=1", "application/json")
    assert told.texts == ["a &lt; b &amp; ü\nsecond line"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_can_pass_is_sent_again(status: int) -> None:
    with receiver(status, status) as told:
        hook(told.address).tell("twice refused")

    assert told.texts == ["twice refused"] * 3


def test_it_is_given_up_after_three_attempts_with_what_was_answered() -> None:
    with (
        receiver(*[500] * 9) as told,
        pytest.raises(
            AlertError, match=r"\(attempt 3 of 3\): it answered HTTP 500; check DATALAKE_A"
        ),
    ):
        hook(told.address).tell("refused")

    assert len(told.arrived) == 3


@pytest.mark.parametrize("status", [302, 400, 403, 404, 410])
def test_what_cannot_pass_is_sent_once_and_a_redirection_is_followed_nowhere(status: int) -> None:
    with (
        receiver(status) as told,
        pytest.raises(AlertError, match=rf"\(attempt 1 of 3\): it answered HTTP {status};"),
    ):
        hook(told.address).tell("refused")

    assert len(told.arrived) == 1


def test_a_receiver_that_is_too_slow_is_an_error() -> None:
    with (
        receiver(seconds=1) as told,
        pytest.raises(
            AlertError, match=r"127\.0\.0\.1 \(attempt 3 of 3\): it could not be reached: Time"
        ),
    ):
        hook(told.address, timeout=0.1).tell("slow")


def test_a_receiver_that_is_slow_but_in_time_is_none() -> None:
    with receiver(seconds=0.2) as told:
        hook(told.address).tell("slow")

    assert len(told.arrived) == 1


def dead_address() -> str:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/services/{SECRET}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda address: address,
        lambda address: address.replace("http:", "https:"),
        lambda address: address + " with a space\x01",
        lambda address: re.sub(r":\d+/", ":no-port/", address),
        lambda address: address.replace("127.0.0.1", "no-such-host.invalid"),
    ],
    ids=["nobody listens", "no TLS", "no path", "no port", "no host"],
)
def test_no_error_and_no_log_repeats_the_path(spoil: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = hook(spoil(dead_address()))
    with pytest.raises(AlertError) as refused:
        told.tell("nobody hears")

    shown = "".join(traceback.format_exception(refused.value)) + caplog.text + repr(told)
    assert "T0000" not in shown
    assert "aVerySecretPath" not in shown
    assert refused.value.__cause__ is not None


def test_a_path_with_what_may_not_stand_in_one_still_arrives() -> None:
    with receiver() as told:
        hook(told.address + "/a b%20c").tell("here")

    assert told.arrived[0][0] == f"/services/{SECRET}/a%20b%20c"


# --- failed runs ----------------------------------------------------------------------------------


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as records:
        yield records


def failed(
    instance: dg.DagsterInstance, folder: Path, job: str, **which: Any
) -> dg.RunFailureSensorContext:
    """A run that fails, since the lake is of another source, as the sensor is given it."""
    uri = str(folder / "lake")
    LakeWriter(open_store(uri)).claim("alpaca sip")
    definitions = build_definitions(Settings.load({}), lake=LakeResource(uri=uri))
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, run_config=quiet, **which
    )
    assert not result.success
    return context_of(instance, result.run_id, result.get_run_failure_event())


def context_of(
    instance: dg.DagsterInstance, run_id: str, event: dg.DagsterEvent
) -> dg.RunFailureSensorContext:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return dg.build_run_status_sensor_context(
        sensor_name="failed_runs", dagster_event=event, dagster_instance=instance, dagster_run=run
    ).for_run_failure()


def test_a_failed_run_is_told_with_its_reason_its_run_and_what_to_type(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    context = failed(instance, tmp_path, "repair_job", partition_key=SESSION)
    with receiver() as told:
        sensor = build_failure_sensor(Settings.load({"DATALAKE_ALERT_WEBHOOK": told.address}))
        assert sensor(context) is None

    (text,) = map(html.unescape, told.texts)
    head, *reason, run, advice = text.splitlines()
    assert head == f"repair_job of {SESSION} failed:"
    assert "holds bars of 'alpaca sip'" in reason[0]
    assert run == f"Run {context.dagster_run.run_id}"
    assert advice == f"Run: datalake collect --session {SESSION} --repair"


@pytest.mark.parametrize(
    ("job", "which", "head", "advice"),
    [
        (
            "daily_ticks_job",
            {"partition_key": SESSION},
            f"daily_ticks_job of {SESSION} failed:",
            f"Run: datalake collect --session {SESSION}",
        ),
        (
            "daily_ticks_job",
            {"tags": dict(zip(RANGE, (SESSION, LAST), strict=True))},
            f"daily_ticks_job of {SESSION} … {LAST} failed:",
            f"Run: datalake backfill --from {SESSION} --to {LAST}",
        ),
        (
            "symbol_year_ticks_job",
            {"partition_key": "2024"},
            "symbol_year_ticks_job of 2024 failed:",
            "Run: datalake publish --year 2024",
        ),
    ],
)
def test_what_to_type_follows_from_the_job_and_its_partitions(
    instance: dg.DagsterInstance,
    tmp_path: Path,
    job: str,
    which: dict[str, Any],
    head: str,
    advice: str,
) -> None:
    text = failure_text(failed(instance, tmp_path, job, **which))

    assert text.splitlines()[0] == head
    assert text.splitlines()[-1] == advice


def test_a_run_that_a_sensor_asked_for_is_told_to_be_tried_again(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    text = failure_text(
        failed(
            *(instance, tmp_path, "daily_ticks_job"),
            partition_key=SESSION,
            tags={PURPOSE: "new session"},
        )
    )

    assert "A sensor requested it (new session), and retries automatically" in text


def test_of_a_long_reason_the_first_lines_are_told(instance: dg.DagsterInstance) -> None:
    @dg.op
    def talkative() -> None:
        raise dg.Failure("\n".join(f"line {number} " + "x" * 1000 for number in range(50)))

    @dg.job
    def of_a_user() -> None:
        talkative()

    result = of_a_user.execute_in_process(instance=instance, raise_on_error=False)
    text = failure_text(context_of(instance, result.run_id, result.get_run_failure_event()))

    head, *reason, run, advice = text.splitlines()
    assert head == "of_a_user failed:"
    assert len(reason) == LINES
    assert "line 0" in reason[0]
    assert reason[-1] == "…"
    assert max(map(len, reason)) <= WIDTH
    assert run == f"Run {result.run_id}"
    assert advice == "See the run in Dagster's UI."


def test_a_run_whose_process_is_gone_is_told_with_what_dagster_says(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = instance.create_run_for_job(
        build_definitions(Settings.load({})).resolve_job_def("daily_ticks_job"),
        tags={"dagster/partition": SESSION},
        status=dg.DagsterRunStatus.STARTED,
    )
    event = instance.report_run_failed(run, "The process of this run is gone: it was killed.")

    text = failure_text(context_of(instance, run.run_id, event))

    assert "The process of this run is gone: it was killed." in text
    assert text.endswith(f"Run: datalake collect --session {SESSION}")


def test_a_run_without_a_failed_step_is_told_with_our_own_error_and_not_with_its_cause(
    instance: dg.DagsterInstance,
) -> None:
    @dg.resource
    def unreachable(_context: dg.InitResourceContext) -> None:
        try:
            raise OSError(113, "No route to host")
        except OSError as error:
            raise StoreError("can't open s3://nowhere: set AWS_ENDPOINT_URL_S3") from error

    @dg.op(required_resource_keys={"unreachable"})
    def collecting() -> None:
        raise AssertionError("no step begins")

    @dg.job(resource_defs={"unreachable": unreachable})
    def of_a_user() -> None:
        collecting()

    result = of_a_user.execute_in_process(instance=instance, raise_on_error=False)
    context = context_of(instance, result.run_id, result.get_run_failure_event())

    assert context.get_step_failure_events() == []
    _, why, *_ = failure_text(context).splitlines()
    assert why == "can't open s3://nowhere: set AWS_ENDPOINT_URL_S3"
    assert why_failed(instance, result.run_id) == why, "as in the report"


def test_the_sensor_runs_when_there_is_somebody_to_tell() -> None:
    with_it = build_failure_sensor(Settings.load({"DATALAKE_ALERT_WEBHOOK": dead_address()}))

    assert with_it.default_status is dg.DefaultSensorStatus.RUNNING
    without = build_failure_sensor(Settings.load({}))
    assert without.default_status is dg.DefaultSensorStatus.STOPPED


def test_of_a_run_in_a_terminal_nobody_is_told(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with receiver() as told:
        sensor = build_failure_sensor(Settings.load({"DATALAKE_ALERT_WEBHOOK": told.address}))
        of_terminal = failed(
            *(instance, tmp_path, "repair_job"), partition_key=SESSION, tags={TERMINAL: "datalake"}
        )
        skipped = sensor(of_terminal)
        assert sensor(failed(instance, tmp_path, "repair_job", partition_key=SESSION)) is None

    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "the run was started in a terminal, where its failure is shown"
    assert len(told.texts) == 1


def test_without_a_receiver_nothing_is_sent_and_the_tick_says_so(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    skipped = build_failure_sensor(Settings.load({}))(
        failed(instance, tmp_path, "repair_job", partition_key=SESSION)
    )

    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == (
        "neither DATALAKE_ALERT_WEBHOOK nor DATALAKE_ALERT_URLS is set: no alert is sent"
    )


@pytest.mark.parametrize(
    ("tags", "command"),
    [
        (
            {"dagster/partition": SESSION},
            f"datalake collect --minutes --session {SESSION}",
        ),
        (
            {"dagster/partition": SESSION, PURPOSE: "repair"},
            f"datalake collect --minutes --session {SESSION} --repair",
        ),
        (
            dict(zip(RANGE, (SESSION, LAST), strict=True)),
            f"datalake backfill --minutes --from {SESSION} --to {LAST}",
        ),
    ],
)
def test_what_to_type_about_a_run_of_minutes_has_their_option(
    instance: dg.DagsterInstance, tags: dict[str, str], command: str
) -> None:
    @dg.op
    def fails() -> None:
        raise dg.Failure("boom", allow_retries=False)

    @dg.job(name="minute_ticks_job")
    def job() -> None:
        fails()

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(
        instance=instance, raise_on_error=False, run_config=quiet, tags=tags
    )
    context = context_of(instance, result.run_id, result.get_run_failure_event())

    text = failure_text(context, Jobs(minutes=True))

    assert text.splitlines()[-1] == f"Run: {command}"
