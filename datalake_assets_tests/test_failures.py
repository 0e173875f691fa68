"""Why a step failed is told in plain words first: in the terminal, in Dagster's UI, in alerts."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from datalake_assets.assets.failure import Failed, error_of, plain_failures, reason
from datalake_assets.storage.store import StoreError
from datalake_assets_tests.workbench import MONDAY, Workbench, names


def failure_of(asset: dg.AssetsDefinition) -> dg.DagsterEvent:
    """The event of the step that failed, as Dagster keeps it."""
    result = dg.materialize([asset], raise_on_error=False)
    (event,) = result.filter_events(lambda event: event.is_step_failure)
    return event


def raising(error: Exception) -> dg.AssetsDefinition:
    @dg.asset
    @plain_failures
    def function() -> None:
        raise error

    return function


def raising_after_a_result(error: Exception) -> dg.AssetsDefinition:
    @dg.asset
    @plain_failures
    def generator() -> Iterator[dg.MaterializeResult[None]]:
        yield dg.MaterializeResult()
        raise error

    return generator


@pytest.mark.parametrize("asset", [raising, raising_after_a_result])
def test_what_can_be_mended_begins_with_its_own_words(asset: object) -> None:
    error = StoreError("can't reach s3://bucket: no such host; check AWS_ENDPOINT_URL_S3")
    error.add_note("what was answered besides could not be kept")

    event = failure_of(asset(error))  # type: ignore[operator]

    found = error_of(event)
    assert found
    assert found.message.startswith("Failed: can't reach s3://bucket: no such host"), "in the UI"
    assert found.cause, "and what it came from stands below"
    assert "StoreError" in found.cause.message
    assert reason(event) == f"{error}\nwhat was answered besides could not be kept"


def test_a_defect_keeps_its_class_in_the_records_and_loses_it_in_the_terminal() -> None:
    event = failure_of(raising(LookupError("no such thing: x: y")))

    found = error_of(event)
    assert found
    assert found.message.strip() == "LookupError: no such thing: x: y"
    assert reason(event) == "no such thing: x: y"


def test_an_input_that_can_not_be_read_is_told_with_the_readers_error() -> None:
    class Unreadable(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: object) -> None: ...

        def load_input(self, context: dg.InputContext) -> object:
            try:
                raise OSError(5, "Input/output error")
            except OSError as error:
                raise StoreError("can't read the table: restore it from a backup") from error

    @dg.asset(ins={"table": dg.AssetIn(input_manager_key="reader")})
    def of_a_user(table: object) -> None:
        raise AssertionError("it has no input")

    result = dg.materialize(
        [dg.AssetSpec("table"), of_a_user],
        resources={"reader": Unreadable()},
        raise_on_error=False,
    )

    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert reason(event) == "can't read the table: restore it from a backup"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LookupError(), "LookupError"),
        (dg.Failure("words: more"), "words: more"),
        (
            Failed("1 session did not pass\n2024-07-03: coverage"),
            "1 session did not pass\n2024-07-03: coverage",
        ),
    ],
)
def test_the_words_of_an_error_stand_alone(error: Exception, told: str) -> None:
    assert reason(failure_of(raising(error))) == told


def test_a_session_that_does_not_pass_is_told_without_a_class_path(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        bench = Workbench(tmp_path, instance)
        bench.market.failing = {(symbol, MONDAY) for symbol in names(5)}
        result = bench.run(MONDAY)

    (event,) = result.filter_events(lambda event: event.is_step_failure)
    assert reason(event).startswith("1 session did not pass the audit")
    message = event.step_failure_data.error.message
    assert message.startswith("Failed: 1 session did not pass the audit")
