"""The definitions that Dagster loads: everything in `defs`."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions."""
    found = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    # The component sets no executor. Dagster's own starts a process for each step, which would take
    # longer than the steps.
    return dg.Definitions.merge(found, dg.Definitions(executor=dg.in_process_executor))
