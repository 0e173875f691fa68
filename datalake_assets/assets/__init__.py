"""Assets: what the lake holds, as Dagster sees it. One module each.

Belongs here: which steps make an asset, and what its runs tell about it. Does not belong here: how
the steps work (`publication` and below).
"""
