"""`source_agrees`: the check that holds our adjusted bars and histories against the source's own.

Belongs here: the check, and what it shows. Does not belong here: whom to ask, and comparing
(`witness`).
"""

from datetime import UTC
from typing import Any

import dagster as dg

from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.collection.clock import Clock
from datalake_assets.pipeline.witness import ADJUSTED, Testimony, ask_source
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.settings import Settings

NAME = "source_agrees"

_SHOWN = 50


def build_source_agrees(settings: Settings) -> dg.AssetChecksDefinition:
    """The check.

    Args:
        settings: How many requests a day it may take.
    """
    requests = settings.witness_requests_per_day

    @dg.asset_check(
        name=NAME,
        asset=FACTORS_KEY,
        description="The source's own adjusted bars of the securities with the newest actions are "
        "ours, within its rounding, and it has no bar of a security that is missing here. Nothing "
        f"is repaired. At most {requests} requests a day (DATALAKE_WITNESS_REQUESTS_PER_DAY).",
    )
    def source_agrees(
        collector: CollectorResource,
        source: SourceResource,
        lake: LakeResource,
        clock: dg.ResourceParam[Clock],
    ) -> dg.AssetCheckResult:
        target = lake.open(source.identity)
        with source.open(collector) as alpaca, collector.options(source.account) as options:
            now = clock.now().astimezone(UTC)
            told = ask_source(alpaca, target, options, requests=requests, now=now)
        return judge(told)

    return source_agrees


def judge(told: Testimony) -> dg.AssetCheckResult:
    """What the source said, as a check."""
    differences = told.differences
    questions = told.answers["question"].to_pylist()
    metadata: dict[str, Any] = {
        "differences": len(differences),
        "securities_compared": questions.count(ADJUSTED),
        "histories_compared": len(questions) - questions.count(ADJUSTED),
        "requests_today": told.requests,
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
        description=f"the source says something else of {count:,} "
        f"{'security' if count == 1 else 'securities'}"
        if differences
        else "the source says the same",
        metadata=metadata,
    )
