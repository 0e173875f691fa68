"""Rate limits shared by processes: in a file on one machine, in Postgres for several.

Belongs here: opening the right one, and the one in Postgres. Does not belong here: the
limiter of one process and of one machine (`collection.rate_limit`).
"""
