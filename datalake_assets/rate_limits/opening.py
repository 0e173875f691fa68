"""Opening the limiter of an account: in a file or in Postgres.

Belongs here: choosing and opening it. Does not belong here: how it works (`collection.rate_limit`,
`rate_limits.postgres`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from datalake_assets.collection.rate_limit import RateLimiter, SharedRateLimiter
from datalake_assets.settings import SettingsError, rate_limit

TRADING_REQUESTS_PER_MINUTE = 200
"""Alpaca's limit for its trading API, which has the list of assets: the same on every plan, and
separate from the one for market data."""


@contextmanager
def open_limiter(
    per_minute: int, account: str | None, budget: str, postgres: str | None
) -> Iterator[RateLimiter]:
    """The limiter of one budget of an account.

    Args:
        per_minute: Requests a minute.
        account: A digest of the account; None if only this process uses it.
        budget: Which of its budgets: `data` or `trading`.
        postgres: The Postgres that holds it for several machines. Empty or None: a file, for the
            processes of this machine.

    Raises:
        SettingsError: The DSN of the Postgres is invalid.
    """
    if account is None:
        yield RateLimiter(per_minute)
        return
    key = f"{account}-{budget}"
    if postgres:
        # Imported only if chosen: its driver is an optional dependency.
        from datalake_assets.rate_limits.postgres import PostgresRateLimiter

        with closing(PostgresRateLimiter(_checked(postgres), key, per_minute)) as of_machines:
            yield of_machines
    else:
        folder = Path(tempfile.gettempdir()) / f"datalake-limits-{os.getuid()}"
        with closing(SharedRateLimiter(folder / key, per_minute)) as of_processes:
            yield of_processes


def _checked(dsn: str) -> str:
    try:
        return rate_limit(dsn)
    except ValueError as error:
        raise SettingsError([f"DATALAKE_RATE_LIMIT (not shown) {error}"]) from error
