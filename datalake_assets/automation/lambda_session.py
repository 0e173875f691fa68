"""Lambda: a session collected by a Lambda function, launched from Dagster and recorded there.

Belongs here: invoking the function, again if it ran out of time, and what its answer means for
the partition. Does not belong here: what the function does (`lambda_handler`).

The function reports through Pipes, which reads the last 4 KB of its log. Whatever goes wrong, the
lake stays right: the function writes a session atomically, and when invoked again it requests only
what is missing.

https://docs.dagster.io/guides/build/external-pipelines/aws/aws-lambda-pipeline
"""

import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import dagster as dg

from datalake_assets import liveness
from datalake_assets.assets.failure import Failed, plain_failures
from datalake_assets.assets.session_metadata import failures_table, session_metadata
from datalake_assets.assets.session_ticks import DAILY_TICKS, MINUTE_TICKS, POOL, REQUESTS_TAG
from datalake_assets.collection.audit import Finding, Verdict
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.progress import many
from datalake_assets.names import OURS, Names
from datalake_assets.resources import CollectorResource

if TYPE_CHECKING:
    from dagster_aws.pipes import PipesLambdaClient

INVOCATIONS = 20
"""How often one run invokes the function at most. 900 seconds at the free plan's rate are 2,800
requests; a session of all symbols takes about 20."""

_LONGEST = 900
"""The longest that Lambda lets a function run, in seconds."""


JOB = "lambda_session_job"

MINUTES_JOB = "lambda_minutes_job"


def build_lambda_session_job(
    function: str,
    partitions: dg.PartitionsDefinition[str],
    names: Names = OURS,
    dataset: Dataset = DAILY,
) -> dg.JobDefinition:
    """The job: the bars of one session, collected by the function.

    The partition of `daily_ticks` or `minute_ticks` is materialized only if the function published
    the session.

    Args:
        function: Name or ARN of the function.
        partitions: The partitions of the asset.
        names: What the lake's definitions are called.
        dataset: Whose bars. The hours of minute bars are those of the function's own settings.
    """
    told = _MINUTES if dataset.several else _DAILY
    what = f"Collect the {dataset.bars_of} of a session with the Lambda function {function}"

    @dg.op(name=names.of(told.op), pool=names.of(POOL), description=f"{what}.")
    @names.bind
    @plain_failures
    def lambda_session(context: dg.OpExecutionContext, collector: CollectorResource) -> None:
        liveness.mark(context)
        client = _client()
        event = _event(context.partition_key, collector, dataset)
        number, requests, pending = 0, 0, None
        published: dict[str, Any] | None = None
        try:
            while True:
                answer = _invoke(client, function, event, context)
                number += 1
                requests += answer["statistics"]["requests"]
                context.log.info(_line(number, answer))
                published = answer if answer["published"] else published
                before, pending = pending, answer["counts"]["pending"]
                # Without progress it would never end.
                if not pending or pending == before or number == INVOCATIONS:
                    break
        finally:
            context.instance.add_run_tags(context.run.run_id, {REQUESTS_TAG: str(requests)})
            # Even if a later invocation, for a few pending symbols, failed.
            if published:
                key = names.key(told.asset)
                context.log_event(_materialization(key, published, function, number))
        if not answer["published"]:
            raise _failure(function, number, answer)

    @dg.job(
        name=names.of(told.job),
        partitions_def=partitions,
        executor_def=dg.in_process_executor,
        description=f"{what}, with the collector's thresholds and symbols. Threads and rate are "
        "the function's own.",
    )
    def job() -> None:
        lambda_session()

    return job


@dataclass(frozen=True, slots=True)
class _Told:
    """Where a dataset's sessions are told of: the asset, and what collects it here."""

    asset: dg.AssetKey
    job: str
    op: str


_DAILY = _Told(DAILY_TICKS, JOB, "lambda_session")
_MINUTES = _Told(MINUTE_TICKS, MINUTES_JOB, "lambda_minutes")


def _client() -> "PipesLambdaClient":
    # Imported here: boto3 takes half a second, which loading the definitions should not.
    import boto3
    from botocore.config import Config
    from dagster_aws.pipes import PipesLambdaClient

    # By default boto3 gives up after a minute and invokes again while the first still runs.
    config = Config(
        connect_timeout=10,
        read_timeout=_LONGEST + 30,
        retries={"max_attempts": 0},
        tcp_keepalive=True,  # a NAT gateway drops a silent connection after 350 s
    )
    # A new session: boto3's default one keeps the keys that it first found in this process.
    # The region is passed explicitly: boto3 reads only AWS_DEFAULT_REGION.
    session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
    return PipesLambdaClient(session.client("lambda", config=config))


def _event(session: str, collector: CollectorResource, dataset: Dataset) -> dict[str, Any]:
    event: dict[str, Any] = {"session": session, "dataset": dataset.name}
    limits = asdict(collector.thresholds)
    event["thresholds"] = {each.name: limits[each.name] for each in fields(dataset.limits)}
    if chosen := collector.chosen_for(dataset):
        event["symbols"] = list(chosen)
    return event


def _invoke(
    client: "PipesLambdaClient",
    function: str,
    event: dict[str, Any],
    context: dg.OpExecutionContext,
) -> dict[str, Any]:
    """The function's answer, unless it failed."""
    told = client.run(function_name=function, event=event, context=context).get_custom_messages()
    if not told:
        raise Failed(
            f"the function {function} ended, but the end of its log has no answer. See its log. "
            "Its handler must be "
            "datalake_assets.lambda_handler.lambda_handler, of this version",
            allow_retries=False,
        )
    answer: dict[str, Any] = told[-1]
    if "error" in answer:
        raise Failed(
            f"the function {function} answered {answer['status']}: {answer['error']}",
            allow_retries=False,
        )
    return answer


def _line(number: int, answer: dict[str, Any]) -> str:
    states = ", ".join(f"{count:,} {state}" for state, count in answer["counts"].items() if count)
    requests, seconds = (answer["statistics"][name] for name in ("requests", "duration_seconds"))
    return f"invocation {number}: {states}; {many(requests, 'request')} in {seconds:.1f} s"


def _failure(function: str, invocations: int, answer: dict[str, Any]) -> Failed:
    broken = [
        f"{finding['rule']} ({finding['detail']})"
        for finding in answer["audit"]
        if finding["verdict"] == "fail"
    ]
    kept = f"The collected bars are in {answer['object']}. " if answer["object"] else ""
    metadata: dict[str, Any] = {**answer["counts"], "invocations": invocations}
    if answer["failures"]:
        metadata["first_failures"] = failures_table(answer["failures"])
    return Failed(
        f"the function {function} did not publish {answer['session']} in {invocations} of at most "
        f"{INVOCATIONS} invocations: {', '.join(broken)}. {kept}Launch it again to request only "
        "what is missing",
        metadata=metadata,
        allow_retries=False,
    )


def _materialization(
    key: dg.AssetKey, answer: dict[str, Any], function: str, invocations: int
) -> dg.AssetMaterialization:
    metadata = session_metadata(
        counts=answer["counts"],
        requested=answer["requested"],
        asked=answer["asked"],
        success_rate=answer["success_rate"],
        statistics=answer["statistics"],
        findings=[
            # Rules that passed come without details.
            Finding(**{"detail": "", **finding, "verdict": Verdict(finding["verdict"])})
            for finding in answer["audit"]
        ],
        failures=answer["failures"],
        uri=answer["object"],
        size=answer["file_size_bytes"],
        rows=answer.get("rows"),  # a function that was deployed earlier doesn't tell
    )
    metadata |= {"lambda_function": function, "lambda_invocations": invocations}
    return dg.AssetMaterialization(key, partition=answer["session"], metadata=metadata)
