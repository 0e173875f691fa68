"""Automation: what happens every day without anybody.

Belongs here: the jobs, when a sensor asks for a run of one, and who is told when something fails.
Does not belong here: what an asset does.
"""
