"""The assets: the contents of the lake, for Dagster. One module each.

Belongs here: the steps of each asset, and the metadata of its runs. Does not belong here:
how the steps work (`pipeline` and below).
"""
