"""The lake: where bars are kept, and how they are laid out there.

Works without Dagster. Not here: where bars come from (`sources`), and how many of a session must
be there before it is published (`checks`).
"""
