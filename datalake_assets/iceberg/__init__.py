"""The lake as an Iceberg table: the files that a snapshot names, and committing it.

Belongs here: registering copies of year files and sessions by PyIceberg. Does not belong here: these
files themselves (`lake`).
"""
