"""The overview: one look that tells whether the lake is good.

Belongs here: the lake's state in numbers, in pictures and as a page. Does not belong here: Dagster
(`assets.lake_report`), the terminal (`cli.status`), and doing anything about what is found.
"""
