"""The overview: the state of the lake at a glance.

Belongs here: the lake's state in numbers, in pictures and as a page. Does not belong here: Dagster
(`assets.lake_report`), the terminal (`cli.status`), and fixing what it finds.
"""
