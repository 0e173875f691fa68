"""Sources: the clients that fetch bars.

Belongs here: sending a request, decoding its answer, and classifying failures.
Does not belong here: what to request, when and how often (`collection`), or Dagster.
"""
