"""One run of an unpartitioned asset after an event, with retries.

Belongs here: the common part of the sensors new_actions, securities_follow and report_follows.
Does not belong here: the events that each of them follows, and what it waits for.
"""

from __future__ import annotations

from datetime import datetime

import dagster as dg

from datalake_assets.automation import due, runs

RETRIES = due.RetrySchedule()


def follow(
    context: dg.SensorEvaluationContext,
    now: datetime,
    *,
    asset: dg.AssetKey,
    purpose: str,
    since: datetime | None,
    because: str,
    done: str,
    by_hand: str,
    occasion: str = "",
    busy: str = "",
) -> dg.SensorResult | dg.SkipReason:
    """Request a run if the asset was not materialized since an event, or say why not.

    Args:
        context: The sensor's context.
        now: The time, UTC.
        asset: What the run materializes.
        purpose: The purpose of the run: the value of the tag `runs.PURPOSE`.
        since: The time of the event, UTC; None if there was none.
        because: Why a run is due.
        done: The message if no run is needed.
        by_hand: The command for the user after the last attempt.
        occasion: What identifies the event: part of the run key. Empty: its time.
        busy: What has to end first; empty if nothing.
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
        # Earlier runs followed another event.
        attempts={name: [one for one in made if not one.ended or one.ended >= since]},
        retries=RETRIES,
        by_hand=by_hand,
    )
    if not verdict.attempt:
        return dg.SkipReason(verdict.why)
    context.log.info(verdict.why)
    key = f"{purpose} {occasion or since.isoformat()} #{verdict.attempt}"
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key, tags={runs.PURPOSE: purpose})])
