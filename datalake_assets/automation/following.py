"""Following: one run of an asset without partitions after something happened; tried again.

Belongs here: what the sensors new_actions, securities_follow and report_follows have in common.
Does not belong here: what each of them follows, and what it waits for.
"""

from __future__ import annotations

from datetime import datetime

import dagster as dg

from datalake_assets.automation import due, runs

PATIENCE = due.Patience()


def follow(
    context: dg.SensorEvaluationContext,
    now: datetime,
    *,
    asset: dg.AssetKey,
    purpose: str,
    since: datetime | None,
    occasion: str,
    because: str,
    done: str,
    by_hand: str,
    busy: str = "",
) -> dg.SensorResult | dg.SkipReason:
    """Ask for a run if the asset was not materialized since, or say why not.

    Args:
        context: The sensor's.
        now: The time, UTC.
        asset: What the run materializes.
        purpose: What the run is for: the value of the tag `runs.FOR`.
        since: When that happened which it follows, UTC; None when nothing ever did.
        occasion: What tells this occasion from others: part of the run's key.
        because: Why it is due.
        done: Said when there is nothing to follow.
        by_hand: The command that a person types once it was given up.
        busy: What is to end first; empty when nothing is.
    """
    last = runs.last_materialized(context.instance, asset, now)
    if since is None or (last and last >= since):
        return dg.SkipReason(done)
    if busy:
        return dg.SkipReason(busy)
    name = asset.to_user_string()
    made = runs.attempts(context.instance, purpose)
    (verdict,) = due.decide(
        now,
        {name: because},
        busy={},
        # Those that ended before followed something else.
        attempts={name: [one for one in made if not one.ended or one.ended >= since]},
        patience=PATIENCE,
        by_hand=by_hand,
    )
    if not verdict.attempt:
        return dg.SkipReason(verdict.why)
    context.log.info(verdict.why)
    key = f"{purpose} {occasion} #{verdict.attempt}"
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key, tags={runs.FOR: purpose})])
