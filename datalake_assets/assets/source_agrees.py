"""`source_agrees`: the check that compares our adjusted bars and histories with the source's.

Belongs here: the check, and what it shows. Does not belong here: what to request, and comparing
(`witness`).
"""

from datetime import UTC
from typing import Any

import dagster as dg

from datalake_assets.assets.failure import plain_failures
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import many
from datalake_assets.names import OURS, Names
from datalake_assets.pipeline.witness import ADJUSTED, Testimony, ask_source
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.settings import Settings

NAME = "source_agrees"

_SHOWN = 50


def build_source_agrees(settings: Settings, names: Names = OURS) -> dg.AssetChecksDefinition:
    """The check.

    Args:
        settings: How many requests a day it may send.
        names: What the lake's definitions are called.
    """
    requests = settings.witness_requests_per_day

    @dg.asset_check(
        name=NAME,
        asset=names.key(FACTORS_KEY),
        description="For the securities with the newest actions, the source's own adjusted bars "
        "equal ours within its rounding, and the source has no bar that is missing here. The check "
        f"only reports. At most {many(requests, 'request')} a day "
        "(DATALAKE_WITNESS_REQUESTS_PER_DAY).",
    )
    @names.bind
    @plain_failures
    def source_agrees(
        collector: CollectorResource,
        source: SourceResource,
        lake: LakeResource,
        clock: dg.ResourceParam[Clock],
    ) -> dg.AssetCheckResult:
        target = lake.open(source.identity)
        with source.open(collector) as alpaca, collector.options(source.account) as options:
            now = clock.now().astimezone(UTC)
            testimony = ask_source(alpaca, target, options, requests=requests, now=now)
        return judge(testimony)

    return source_agrees


def judge(testimony: Testimony) -> dg.AssetCheckResult:
    """The result of the comparison, as a check."""
    differences = testimony.differences
    questions = testimony.answers["question"].to_pylist()
    metadata: dict[str, Any] = {
        "differences": len(differences),
        "securities_compared": questions.count(ADJUSTED),
        "histories_compared": len(questions) - questions.count(ADJUSTED),
        "requests_today": testimony.requests,
    }
    if differences:
        metadata["first_differences"] = dg.MetadataValue.table(
            [
                dg.TableRecord({"symbol": symbol, "difference": what})
                for symbol, what in differences[:_SHOWN]
            ]
        )
    count = len({symbol for symbol, _ in differences})
    return dg.AssetCheckResult(
        passed=not differences,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"the source disagrees on {count:,} "
        f"{'security' if count == 1 else 'securities'}"
        if differences
        else "the source agrees",
        metadata=metadata,
    )
