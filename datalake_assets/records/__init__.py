"""Records: Dagster's own databases, written at a fraction of the cost of its stock storage.

Belongs here: storage classes that `dagster.yaml` names (`storage: custom:`), each a subclass of
Dagster's own with the same tables and the same rows. Does not belong here: what is recorded, and
what is read of it (`assets`, `automation`).
"""
