"""The steps of a run, without Dagster: list, collect, audit, publish, compare.

Belongs here: the order of the steps, the same for Dagster, the command line and the Lambda. Does
not belong here: how each step works (`collection`, `sources`, `lake`).
"""
