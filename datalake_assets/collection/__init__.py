"""Collection: what to ask for, asking for it with threads, and what came of it.

Belongs here: the plan, the rate limit, retries, the collecting threads, the ledger, the audit.
Does not belong here: HTTP (`sources`), storage (`lake`), Dagster. Time and fetching arrive as
arguments, so that a test needs neither a network nor a patch.
"""
