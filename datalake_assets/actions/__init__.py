"""Corporate actions: what the source says of splits, dividends, renames and ends of securities.

Works without Dagster. Not here: which security an action is about, whether prices confirm it, and
what it does to earlier prices (`securities`).
"""
