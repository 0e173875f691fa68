"""Sources: where bars come from.

Belongs here: sending a request, decoding its answer, and saying what kind of failure an answer
is. Does not belong here: what to ask for, when and how often (`collection`), or Dagster.
"""
