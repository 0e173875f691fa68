"""Rate limits that several processes share: by a file on one machine, by Postgres on several.

Belongs here: opening the right one, and the one that Postgres keeps. Does not belong here: the
limiter of one process and of one machine (`collection.rate_limit`).
"""
