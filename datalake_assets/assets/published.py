"""Published: the output by which assets that are selected together with ours run after them.

Belongs here: that output. Does not belong here: when a run yields it (each asset).

Our assets log each materialization when its partition is published, so that it stands whatever
happens to the rest of the run. Dagster runs the steps after one only when it yielded its output,
and an output is by itself a materialization of every partition of the run. Logged and yielded,
each partition would have two.
"""

import dagster as dg
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION


def everything_is_published() -> dg.MaterializeResult[None]:
    """The output of a step all of whose partitions are published and logged as materialized.

    No value goes to an I/O manager: readers open the lake.
    """
    # With this key, which the steps of observable sources set for the same reason, Dagster makes
    # no event of an output. Private, so a test counts the materializations of a run.
    return dg.MaterializeResult(metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})
