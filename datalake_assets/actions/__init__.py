"""Corporate actions: splits, dividends, renames and ends of securities, as the source states them.

Works without Dagster. Not here: which security an action is about, whether prices confirm it, and
what it does to earlier prices (`securities`).
"""
