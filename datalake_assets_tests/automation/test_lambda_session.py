"""The Lambda function from Dagster: what a run of the job does, tells, and materializes.

The real handler behind Lambda's API on loopback, asked by the real boto3 client and Pipes.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from datalake_assets import lambda_handler as handler_module
from datalake_assets.assets.session_ticks import DAILY_TICKS as KEY
from datalake_assets.assets.session_ticks import MINUTE_TICKS, REQUESTS_TAG
from datalake_assets.automation.lambda_session import INVOCATIONS
from datalake_assets.collection.audit import RULES
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.plan import Packing
from datalake_assets.definitions import build_definitions
from datalake_assets.exchange.faults import Fault, FaultScript, Rule
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lambda_handler import RESERVE, lambda_handler
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.resources import CollectorResource
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests import workbench
from datalake_assets_tests.exchange.calling import keys_to
from datalake_assets_tests.lambda_api import TAIL, Context, Invocation, LambdaApi

DAY = date(2024, 7, 3)
FUNCTION = "collect-session"


@dataclass
class World:
    """An exchange, a lake, Lambda, and Dagster."""

    exchange: Exchange
    api: LambdaApi
    instance: dg.DagsterInstance
    lake: LakeWriter
    environ: dict[str, str] = field(repr=False)

    def run(
        self, day: date = DAY, job: str = "lambda_session_job", **collector: Any
    ) -> dg.ExecuteInProcessResult:
        definitions = build_definitions(
            Settings.load(self.environ | {"DATALAKE_LAMBDA_FUNCTION": FUNCTION}),
            collector=CollectorResource(**collector),
        )
        return definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            partition_key=day.isoformat(),
            raise_on_error=False,
        )

    @property
    def materialized(self) -> set[str]:
        return set(self.instance.get_materialized_partitions(KEY))

    def log(self, result: dg.ExecuteInProcessResult) -> str:
        return "\n".join(entry.user_message for entry in self.instance.all_logs(result.run_id))


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(SyntheticMarket(7, 240, 60))) as server:
        yield server


@pytest.fixture
def world(
    server: ExchangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    environ = keys_to(server.url, DATALAKE_URI=str(tmp_path / "lake"))
    with (
        LambdaApi({FUNCTION: lambda_handler}) as api,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        aws = {
            "AWS_ENDPOINT_URL_LAMBDA": api.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "pair",
            "AWS_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
        }
        for name, value in (environ | aws).items():
            monkeypatch.setenv(name, value)
        # boto3 reads it, and what is deployed sets AWS_REGION alone.
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        server.exchange.requests.clear()
        lake = LakeWriter(open_store(environ["DATALAKE_URI"]))
        yield World(server.exchange, api, instance, lake, environ)
    server.exchange.faults = None
    server.exchange.latency = 0.0


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What a person reads of a failed run."""
    return workbench.failure(result, "lambda_session")


def test_a_session_that_the_function_published_is_materialized_with_its_numbers(
    world: World,
) -> None:
    result = world.run()

    assert result.success, failure(result)
    assert world.materialized == {"2024-07-03"}
    stored = world.lake.read(DAY)
    (event,) = result.get_asset_materialization_events()
    assert (event.asset_key, event.partition) == (KEY, "2024-07-03")
    told = {name: value.value for name, value in event.materialization.metadata.items()}
    assert told["row_count"] == told["present"] == stored.bars.num_rows > 200
    assert told["no_print"] == len(stored.ledger.no_print)
    assert told["success_rate"] == 1.0
    assert told["dagster/uri"].endswith(layout.session_key(DAY))
    assert told["file_size_bytes"] == world.lake.store.size(layout.session_key(DAY))
    assert (told["lambda_function"], told["lambda_invocations"]) == (FUNCTION, 1)
    audit = event.materialization.metadata["audit"]
    assert isinstance(audit, dg.MarkdownMetadataValue)
    assert [line.split(" | ")[:2] for line in audit.value.splitlines()[2:]] == [
        ["| ✓", rule] for rule in RULES
    ]
    assert told["requests"] == len([r for r in world.exchange.requests if "bars" in r.path])
    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[REQUESTS_TAG] == str(told["requests"])
    assert f"invocation 1: {told['present']} present" in world.log(result)


def test_a_session_of_a_function_that_was_deployed_earlier_is_materialized(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = handler_module._told

    def without_rows(*given: Any) -> dict[str, Any]:
        return {name: value for name, value in told(*given).items() if name != "rows"}

    monkeypatch.setattr(handler_module, "_told", without_rows)
    result = world.run()

    assert result.success, failure(result)
    (event,) = result.get_asset_materialization_events()
    rows = world.lake.read(DAY).bars.num_rows
    assert event.materialization.metadata["row_count"].value == rows


def test_a_process_that_lambda_uses_again_tells_again(world: World) -> None:
    for day in (DAY, date(2024, 7, 5), DAY):
        result = world.run(day)
        assert result.success, failure(result)
    assert len(world.api.invocations) == 3
    assert world.materialized == {"2024-07-03", "2024-07-05"}
    # Of a session that is published already, nothing was asked.
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["requests"].value == 0


def event_of(invocation: Invocation) -> dict[str, Any]:
    """What the job sent, without what Pipes added."""
    return {k: v for k, v in invocation.event.items() if not k.startswith("DAGSTER_PIPES_")}


def test_the_collectors_thresholds_and_symbols_are_the_functions(world: World) -> None:
    result = world.run(symbols="AAPL,MSFT", min_coverage=0.5, min_row_ratio=0.0)

    assert result.success, failure(result)
    (invocation,) = world.api.invocations
    assert event_of(invocation) == {
        "session": "2024-07-03",
        "dataset": "daily",
        "symbols": ["AAPL", "MSFT"],
        "thresholds": {
            "success_rate": 0.99,
            "coverage": 0.5,
            "invalid_bars": 0.001,
            "row_ratio": 0.0,
            "unanswered_allowed": 1,
            "silent_allowed": 2,
            "invalid_bars_allowed": 1,
        },
    }
    assert world.lake.read(DAY).ledger.symbols == {"AAPL", "MSFT"}


@pytest.fixture
def minutes(world: World, monkeypatch: pytest.MonkeyPatch) -> LakeWriter:
    """Minute bars turned on here and in the function, and the session's daily bars collected."""
    monkeypatch.setenv("DATALAKE_MINUTES", "regular")
    world.environ["DATALAKE_MINUTES"] = "regular"
    assert world.run().success
    world.api.invocations.clear()
    return world.lake.of(MINUTE)


def test_minutes_that_the_function_published_are_materialized_with_their_numbers(
    world: World, minutes: LakeWriter
) -> None:
    result = world.run(job="lambda_minutes_job")

    assert result.success, workbench.failure(result, "lambda_minutes")
    assert world.instance.get_materialized_partitions(MINUTE_TICKS) == {"2024-07-03"}
    stored = minutes.read(DAY)
    (event,) = result.get_asset_materialization_events()
    assert (event.asset_key, event.partition) == (MINUTE_TICKS, "2024-07-03")
    told = {name: value.value for name, value in event.materialization.metadata.items()}
    assert told["row_count"] == stored.bars.num_rows > 10 * told["present"] > 1_000
    assert told["dagster/uri"].endswith(layout.session_key(DAY, layout.MINUTE))
    assert told["file_size_bytes"] == minutes.store.size(layout.session_key(DAY, layout.MINUTE))
    assert [line.split(" | ")[1] for line in str(told["audit"]).splitlines()[2:]] == [
        *MINUTE.rules.meanings
    ]
    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[REQUESTS_TAG] == str(told["requests"])


def test_the_function_has_the_thresholds_and_symbols_of_minute_bars(
    world: World, minutes: LakeWriter
) -> None:
    result = world.run(
        job="lambda_minutes_job",
        symbols="AAPL",
        minute_symbols="MSFT",
        max_contradicted=0.5,
        sparse_allowed=3,
    )

    assert result.success, workbench.failure(result, "lambda_minutes")
    (invocation,) = world.api.invocations
    assert event_of(invocation) == {
        "session": "2024-07-03",
        "dataset": "minute",
        "symbols": ["MSFT"],
        "thresholds": {
            "success_rate": 0.99,
            "coverage": 0.95,
            "invalid_bars": 0.001,
            "row_ratio": 0.8,
            "unanswered_allowed": 1,
            "silent_allowed": 2,
            "invalid_bars_allowed": 1,
            "contradicted": 0.5,
            "hour_ratio": 0.2,
            "contradicted_allowed": 2,
            "sparse_allowed": 3,
            "halted_allowed": 5,
        },
    }
    assert minutes.read(DAY).ledger.symbols == {"MSFT"}


def test_minutes_are_asked_for_again_until_nothing_is_pending(
    world: World, minutes: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler_module, "CollectionOptions", narrow)
    # Eleven requests, one after another. A busy machine, too, must get one answer in this time.
    world.exchange.latency = 0.4
    world.api.context = lambda: Context(RESERVE + 2.5, memory_limit_in_mb="128")

    result = world.run(job="lambda_minutes_job")

    assert result.success, workbench.failure(result, "lambda_minutes")
    answers = [json.loads(made.answer["body"]) for made in world.api.invocations]
    assert 2 <= len(answers) <= INVOCATIONS
    assert [body["published"] for body in answers] == [False] * (len(answers) - 1) + [True]
    assert (minutes.sessions(), minutes.incomplete()) == ([DAY], [])


def test_a_run_of_minutes_fails_where_the_function_has_none(
    world: World, minutes: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATALAKE_MINUTES")

    result = world.run(job="lambda_minutes_job")

    told = workbench.failure(result, "lambda_minutes")
    assert "answered 400: minute bars are off: set DATALAKE_MINUTES" in told
    assert world.instance.get_materialized_partitions(MINUTE_TICKS) == set()


def narrow(**given: Any) -> CollectionOptions:
    """As the function collects, but thirty symbols a request."""
    return CollectionOptions(**given, packing=Packing(symbols=30))


def test_it_is_invoked_again_until_nothing_is_pending(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler_module, "CollectionOptions", narrow)
    # Eleven requests, one after another. A busy machine, too, must get one answer in this time.
    world.exchange.latency = 0.4
    world.api.context = lambda: Context(RESERVE + 2.5, memory_limit_in_mb="128")

    result = world.run()

    assert result.success, failure(result)
    answers = [json.loads(made.answer["body"]) for made in world.api.invocations]
    assert 2 <= len(answers) <= INVOCATIONS
    assert [body["published"] for body in answers] == [False] * (len(answers) - 1) + [True]
    assert world.materialized == {"2024-07-03"}
    assert world.lake.incomplete() == []
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["lambda_invocations"].value == len(answers)
    run = world.instance.get_run_by_id(result.run_id)
    assert run is not None
    asked = [r for r in world.exchange.requests if r.path == "/v2/stocks/bars"]
    assert run.tags[REQUESTS_TAG] == str(len(asked))


def test_what_one_invocation_published_is_materialized_if_the_next_one_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some symbols are pending, too few to hold the session back: it is asked for these."""
    monkeypatch.setattr(handler_module, "CollectionOptions", narrow)
    world.exchange.latency = 0.5  # eleven requests, one after another
    world.api.context = lambda: Context(RESERVE + 3.0, memory_limit_in_mb="128")
    world.api.functions = {
        FUNCTION: lambda event, context: (crashing if world.api.invocations else lambda_handler)(
            event, context
        )
    }

    result = world.run(min_success_rate=0)

    assert not result.success
    assert "signal: killed" in failure(result)
    assert world.lake.read(DAY).ledger.pending
    assert world.materialized == {"2024-07-03"}
    event = world.instance.get_latest_materialization_event(KEY)
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["lambda_invocations"].value == 1


def test_a_function_that_brings_nothing_is_not_invoked_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So slow that no request ends, and none is sent: the time is over before the first.
    world.exchange.latency = 0.4
    world.api.context = lambda: Context(RESERVE + 0.2)

    result = world.run()

    assert not result.success
    assert "did not publish 2024-07-03 in" in failure(result)
    assert len(world.api.invocations) <= 3
    assert world.materialized == set()


def test_a_session_that_does_not_pass_is_not_materialized_and_the_run_tells_why(
    world: World,
) -> None:
    world.exchange.faults = FaultScript(
        [Rule(Fault(kind="status", status=404), times=None, path="/v2/stocks/bars")]
    )

    result = world.run()

    assert not result.success
    assert world.materialized == set()
    assert len(world.api.invocations) == 1, "nothing is pending"
    told = failure(result)
    assert "did not publish 2024-07-03 in 1 of at most" in told
    assert "success_rate (" in told
    assert layout.incomplete_key(DAY) in told

    world.exchange.faults = None
    assert world.run().success
    assert world.materialized == {"2024-07-03"}


@pytest.mark.parametrize("symbols", [3, 300])
def test_the_answer_fits_into_the_end_of_the_log(world: World, symbols: int) -> None:
    """However many fail: what Pipes reads is in the last 4 KB."""
    world.exchange.faults = lambda arrival: (
        Fault(kind="status", status=404) if "bars" in arrival.path else None
    )
    listed = [r["symbol"] for r in world.exchange.market.assets() if r["symbol"].isalpha()]

    result = world.run(symbols=",".join(sorted(set(listed))[:symbols]))

    assert "did not publish 2024-07-03" in failure(result)
    (invocation,) = world.api.invocations
    first = invocation.log.index('{"__dagster_pipes_version"')
    assert len(invocation.log[first:].encode()) < TAIL
    (event,) = result.get_step_failure_events()
    metadata = event.step_failure_data.user_failure_data.metadata
    assert metadata["failed"].value == min(symbols, len(set(listed)))
    assert len(metadata["first_failures"].records) >= 3


def test_an_error_of_the_function_is_the_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.lake.claim("another source")

    result = world.run()

    assert f"the function {FUNCTION} answered 500: " in failure(result)
    assert "another source" in failure(result)
    assert world.materialized == set()


def crashing(event: Any, context: Any) -> Any:
    raise MemoryError("Runtime exited with error: signal: killed")


def silent(event: Any, context: Any) -> Any:
    return {"statusCode": 200, "body": "{}"}


@pytest.mark.parametrize(
    ("functions", "told"),
    [
        ({FUNCTION: crashing}, "Runtime exited with error: signal: killed"),
        ({FUNCTION: silent}, "the end of its log has no answer"),
        ({}, "Function not found: collect-session"),
    ],
)
def test_a_function_that_dies_is_silent_or_is_not_there_materializes_nothing(
    functions: dict[str, Callable[..., Any]], told: str, world: World
) -> None:
    world.api.functions = functions

    result = world.run()

    assert not result.success
    assert told in failure(result)
    assert world.materialized == set()


def test_without_a_function_there_is_no_job() -> None:
    settings = Settings.load({"DATALAKE_MINUTES": "regular"})
    jobs = {job.name for job in build_definitions(settings).resolve_all_job_defs()}

    assert {"daily_ticks_job", "minute_ticks_job"} <= jobs
    assert not {"lambda_session_job", "lambda_minutes_job"} & jobs


def test_without_minute_bars_there_is_no_job_for_them() -> None:
    settings = Settings.load({"DATALAKE_LAMBDA_FUNCTION": FUNCTION})
    jobs = {job.name for job in build_definitions(settings).resolve_all_job_defs()}

    assert "lambda_session_job" in jobs
    assert "lambda_minutes_job" not in jobs
