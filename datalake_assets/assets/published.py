"""The output that lets assets selected together with ours run after them.

Belongs here: creating that output. Does not belong here: when a run yields it (each asset).

Our assets log each materialization as soon as its partition is published, so that it stays whatever
happens to the rest of the run. Dagster runs downstream steps only if a step yielded its output, and
by default an output is also a materialization of every partition of the run. Each partition would
then have two.
"""

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION


def everything_is_published() -> dg.MaterializeResult[None]:
    """The output of a step whose partitions are all published and logged as materialized.

    It has no value for an I/O manager: readers open the lake.
    """
    # With this key, which steps of observable sources set for the same reason, Dagster creates
    # no event for the output. The key is private, so a test counts a run's materializations.
    return dg.MaterializeResult(metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})
