"""The embedded exchange: a server on loopback that speaks Alpaca's wire protocol.

Here belongs what stands on the far side of the wire: the markets (a synthetic one, a recorded
one), the JSON that Alpaca writes, its errors and limits, faults on demand, and the process that
serves them. What reads the wire (the client, its retries, its limiter) does not belong here: the
client under test is the client that ships, and it shares no code with this server.
"""
