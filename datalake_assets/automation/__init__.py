"""Automation: what Dagster does every day by itself.

Belongs here: the jobs, when sensors request runs of them, and alerts when something fails.
Does not belong here: what an asset does.
"""
