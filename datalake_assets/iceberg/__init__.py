"""The lake as an Iceberg table: the files that a snapshot names, and committing it.

Belongs here: registering copies of year files and sessions by PyIceberg. Does not belong here: the
files of the lake themselves (`lake`).
"""
