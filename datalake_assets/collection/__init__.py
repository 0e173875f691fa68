"""Collection: planning requests, sending them with threads, and recording the results.

Belongs here: the plan, the rate limit, retries, the collecting threads, the ledger, the audit.
Does not belong here: HTTP (`sources`), storage (`lake`), Dagster. Time and fetching are passed as
arguments, so that tests need neither a network nor patching.
"""
