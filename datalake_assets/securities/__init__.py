"""Securities: whose bar a row is, and what it is worth.

Belongs here: the identity of a security over its tickers, what corporate actions do to earlier
prices, whether prices confirm that, and what the user decided. Works without Dagster. Not here:
what the source says (`actions`), and reading bars (`lake`).
"""
