"""The lake's layout: the key of each object. No other module knows a path.

Belongs here: building and parsing keys. Does not belong here: reading or writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime

MARKER = "_lake.json"
CATALOG = "catalog.duckdb"
SESSIONS = "data/ticks/sessions"
INCOMPLETE = "data/ticks/incomplete"
SYMBOL_YEARS = "data/ticks/daily"
YEARS = "data/ticks/years"
MANIFESTS = "data/ticks/manifests"
RESTATEMENTS = "data/ticks/restatements"
UNIVERSE = "data/universe"
SURVEYS = "data/universe/surveys"
ACTIONS = "data/actions"
ACTION_LOG = "data/actions/log"
STANDING_ACTIONS = "data/actions/actions.parquet"
SECURITIES = "data/securities"
SECURITIES_TABLE = f"{SECURITIES}/securities.parquet"
FACTORS_TABLE = f"{SECURITIES}/factors.parquet"
CUMULATIVE_TABLE = f"{SECURITIES}/cumulative.parquet"
FINDINGS_TABLE = f"{SECURITIES}/findings.parquet"
REGISTRY = f"{SECURITIES}/registry.parquet"
DECISIONS = f"{SECURITIES}/decisions.json"
TESTIMONY = f"{SECURITIES}/testimony.parquet"
EVIDENCE = f"{SECURITIES}/evidence"
REPORT = "reports/latest.html"
ICEBERG = "iceberg"
ICEBERG_CATALOG = f"{ICEBERG}/catalog.db"

_SYMBOL_YEAR = re.compile(rf"{SYMBOL_YEARS}/([^/]+)/(\d{{4}})/ticks\.parquet")
_YEAR_FILE = re.compile(rf"{YEARS}/year=(\d{{4}})/bars\.parquet")
_MANIFEST = re.compile(rf"{MANIFESTS}/(\d{{4}})\.parquet")
_RESTATEMENT = re.compile(r"year=(\d{4})/((\d{4})-\d{2}-\d{2})/\d{8}T\d{6}\.\d{6}Z\.parquet")
_ACTION_LOG = re.compile(rf"{ACTION_LOG}/(\d{{6}})\.parquet")
_EVIDENCE = re.compile(rf"{EVIDENCE}/(\d{{4}}-Q[1-4])\.parquet")
_REGISTERED = re.compile(
    rf"{ICEBERG}/[^/]+/data/year=(\d{{4}})/((\d{{4}})(?:-\d{{2}}-\d{{2}})?)-[0-9a-f]+\.parquet"
)
_DATED = re.compile(r"(?:year=(\d{4})/)?((\d{4})-\d{2}-\d{2})\.parquet")
_PART = "/part-0"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the sessions of a dataset lie.

    Args:
        sessions: The folder of the published ones.
        incomplete: The folder of those that did not pass their audit.
        restatements: The folder of what later collections changed.
        part: What stands after the day in the key of a published one. A folder of its own for each
            session leaves room for several files; all of its bars are in one, so that it is
            replaced at once.
    """

    sessions: str
    incomplete: str
    restatements: str
    part: str = ""

    def days(self, keys: Iterable[str]) -> list[date]:
        """The published sessions among these keys, ascending."""
        ending = f"{self.part}.parquet"
        below = [key.removesuffix(ending) for key in keys if key.endswith(ending)]
        return dated(self.sessions, [f"{key}.parquet" for key in below])


DAILY = Folders(SESSIONS, INCOMPLETE, RESTATEMENTS)
MINUTE = Folders(
    "data/ticks/minute/sessions",
    "data/ticks/minute/incomplete",
    "data/ticks/minute/restatements",
    _PART,
)
FOLDERS = {"daily": DAILY, "minute": MINUTE}
"""The folders of each dataset, by its name."""

_BY_YEAR = frozenset(part for each in FOLDERS.values() for part in (each.sessions, each.incomplete))


def session_key(session: date, of: Folders = DAILY) -> str:
    """The key of a session's published bars."""
    return f"{sessions_of(session.year, of)}/{session.isoformat()}{of.part}.parquet"


def sessions_of(year: int, of: Folders = DAILY) -> str:
    """The folder of a year's published sessions."""
    return f"{of.sessions}/year={year:04}"


def incomplete_key(session: date, of: Folders = DAILY) -> str:
    """The key of a session that did not pass its audit."""
    return f"{of.incomplete}/year={session:%Y}/{session.isoformat()}.parquet"


def restatements_of(session: date, of: Folders = DAILY) -> str:
    """The folder of the changes that later collections made to a session."""
    return f"{of.restatements}/year={session.year:04}/{session.isoformat()}"


def restatement_key(session: date, changed_at: datetime, of: Folders = DAILY) -> str:
    """The key of the changes that the collection at an instant (UTC) made to a session."""
    return f"{restatements_of(session, of)}/{changed_at:%Y%m%dT%H%M%S.%fZ}.parquet"


def restatement(key: str, of: Folders = DAILY) -> date | None:
    """The session of such a key; None for keys of another shape."""
    below = f"{of.restatements}/"
    match = _RESTATEMENT.fullmatch(key.removeprefix(below)) if key.startswith(below) else None
    if match and match[1] == match[3]:
        with suppress(ValueError):  # digits that are not a date
            return date.fromisoformat(match[2])
    return None


def symbol_year_key(symbol: str, year: int) -> str:
    """The key of the published bars of a symbol's year."""
    return f"{SYMBOL_YEARS}/{symbol}/{year:04}/ticks.parquet"


def symbol_year(key: str) -> tuple[str, int] | None:
    """The symbol and the year of such a key; None for keys of another shape."""
    match = _SYMBOL_YEAR.fullmatch(key)
    return (match[1], int(match[2])) if match else None


def year_file_key(year: int) -> str:
    """The key of the bars of all symbols of a year."""
    return f"{YEARS}/year={year:04}/bars.parquet"


def year_of_file(key: str) -> int | None:
    """The year of such a key; None for keys of another shape."""
    match = _YEAR_FILE.fullmatch(key)
    return int(match[1]) if match else None


def manifest_key(year: int) -> str:
    """The key of a year's manifest: its symbols, and the sessions that they were made from."""
    return f"{MANIFESTS}/{year:04}.parquet"


def manifest_year(key: str) -> int | None:
    """The year of such a key; None for keys of another shape."""
    match = _MANIFEST.fullmatch(key)
    return int(match[1]) if match else None


def table_folder(table: str) -> str:
    """The folder of an Iceberg table: its `data` and its `metadata`."""
    return f"{ICEBERG}/{table}"


def version_hint_key(table: str) -> str:
    """The key of the name of a table's current metadata, where engines look without a catalog."""
    return f"{table_folder(table)}/metadata/version-hint.text"


def registered_key(table: str, shown: int | date, mark: str) -> str:
    """The key of a copy that a table registers.

    Args:
        table: The table.
        shown: The year of a year file, or the day of a session.
        mark: What no other copy has: hexadecimal digits.
    """
    year, name = (shown.year, f"{shown}") if isinstance(shown, date) else (shown, f"{shown:04}")
    return f"{table_folder(table)}/data/year={year:04}/{name}-{mark}.parquet"


def registered(key: str) -> int | date | None:
    """The year or the session of such a key; None for keys of another shape."""
    match = _REGISTERED.fullmatch(key)
    if match and match[1] == match[3]:
        if match[2] == match[3]:
            return int(match[1])
        with suppress(ValueError):  # digits that are not a date
            return date.fromisoformat(match[2])
    return None


def universe_key(taken: date) -> str:
    """The key of a day's snapshot of the universe."""
    return f"{UNIVERSE}/{taken.isoformat()}.parquet"


def survey_key(taken: date) -> str:
    """The key of a day's survey: the years in which each symbol traded."""
    return f"{SURVEYS}/{taken.isoformat()}.parquet"


def action_log_key(number: int) -> str:
    """The key of an object of the log of corporate actions; they are numbered from 1."""
    return f"{ACTION_LOG}/{number:06}.parquet"


def action_log_number(key: str) -> int | None:
    """The number of such a key; None for keys of another shape."""
    match = _ACTION_LOG.fullmatch(key)
    return int(match[1]) if match else None


def evidence_key(quarter: str) -> str:
    """The key of a quarter's bars that are evidence for securities and actions."""
    return f"{EVIDENCE}/{quarter}.parquet"


def evidence_quarter(key: str) -> str | None:
    """The quarter of such a key; None for keys of another shape."""
    match = _EVIDENCE.fullmatch(key)
    return match[1] if match else None


def dated(prefix: str, keys: list[str]) -> list[date]:
    """The days of the keys below a prefix, ascending; keys of another form are ignored.

    A day in another year's folder is ignored, too, as readers would not find it there.
    """
    below = f"{prefix}/"
    days = []
    for key in keys:
        if key.startswith(below) and (match := _DATED.fullmatch(key.removeprefix(below))):
            folder, day, year = match.groups()
            if folder == (year if prefix in _BY_YEAR else None):
                with suppress(ValueError):  # digits that are not a date
                    days.append(date.fromisoformat(day))
    return sorted(days)
