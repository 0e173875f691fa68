"""The lake's layout: where each object lies. Nothing else in the program knows a path.

Belongs here: keys below the lake's root, and back. Does not belong here: reading or writing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date

MARKER = "_lake.json"
SESSIONS = "data/ticks/sessions"
INCOMPLETE = "data/ticks/incomplete"
UNIVERSE = "data/universe"
SURVEYS = "data/universe/surveys"

_DATED = re.compile(r"(?:year=\d{4}/)?(\d{4}-\d{2}-\d{2})\.parquet")


def session_key(session: date) -> str:
    """Where the published bars of a session lie."""
    return f"{SESSIONS}/year={session:%Y}/{session.isoformat()}.parquet"


def incomplete_key(session: date) -> str:
    """Where a session waits that did not pass its audit."""
    return f"{INCOMPLETE}/year={session:%Y}/{session.isoformat()}.parquet"


def universe_key(taken: date) -> str:
    """Where the snapshot of the universe of a day lies."""
    return f"{UNIVERSE}/{taken.isoformat()}.parquet"


def survey_key(taken: date) -> str:
    """Where the survey of a day lies: the years in which each symbol traded."""
    return f"{SURVEYS}/{taken.isoformat()}.parquet"


def dated(prefix: str, keys: list[str]) -> list[date]:
    """The days of the keys below a prefix, ascending; keys of another shape are not ours."""
    below = f"{prefix}/"
    days = []
    for key in keys:
        if key.startswith(below) and (match := _DATED.fullmatch(key.removeprefix(below))):
            with suppress(ValueError):  # digits that are no day
                days.append(date.fromisoformat(match[1]))
    return sorted(days)
