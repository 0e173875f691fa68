"""Generates `datalake_assets/_xnys.py` from the `exchange_calendars` that is installed.

    python -m datalake_assets_tests.xnys_refresh

Run it when a new version of `exchange_calendars` knows a closure that the module does not (a test
compares the two). Not here: what the closures are used for, which is `market_calendar`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from datalake_assets import _xnys

FIRST = date(2000, 1, 1)
LAST = date(2035, 12, 31)


@dataclass(frozen=True)
class Tables:
    """What `_xnys` holds: the library's name and version, and two tables of year → "MMDD …"."""

    source: str
    closures: dict[int, str]
    early_closes: dict[int, str]


def tables_of_library() -> Tables:
    """What `exchange_calendars` knows of XNYS from `FIRST` to `LAST`.

    Raises:
        ValueError: a session opens or closes at an hour that `market_calendar` does not know.
    """
    import exchange_calendars
    import pandas as pd

    # Without `start` and `end` the library's bounds move with today's date.
    calendar = exchange_calendars.get_calendar("XNYS", start=str(FIRST), end=str(LAST))
    new_york = calendar.schedule[["open", "close"]].apply(
        lambda instants: instants.dt.tz_convert("America/New_York").dt.strftime("%H:%M")
    )
    hours = set(zip(new_york["open"], new_york["close"], strict=True))
    if unknown := hours - {("09:30", "16:00"), ("09:30", "13:00")}:
        raise ValueError(f"sessions with hours that market_calendar does not know: {unknown}")
    weekdays = pd.bdate_range(str(FIRST), str(LAST))
    return Tables(
        source=f"exchange_calendars {exchange_calendars.__version__}",
        closures=_by_year(weekdays.difference(calendar.sessions).date),
        early_closes=_by_year(new_york.index[new_york["close"] == "13:00"].date),
    )


def tables_of_module() -> Tables:
    """What the committed module holds."""
    return Tables(_xnys.SOURCE, _xnys.CLOSURES, _xnys.EARLY_CLOSES)


def render(tables: Tables) -> str:
    """The text of `_xnys.py` that holds `tables`."""
    return f'''"""Generated: the XNYS weekday closures and early closes, {FIRST} … {LAST}.

From {tables.source}. Written by `python -m datalake_assets_tests.xnys_refresh`, where
the bounds are, too; not edited by hand. Each year's days are "MMDD". Days in the future are the
exchange's rules: a closure that nobody can foresee is missing until the library knows it.
"""

from datetime import date

SOURCE = "{tables.source}"
FIRST = date({FIRST.year}, {FIRST.month}, {FIRST.day})
LAST = date({LAST.year}, {LAST.month}, {LAST.day})

CLOSURES: dict[int, str] = {{
{_rows(tables.closures)}
}}

EARLY_CLOSES: dict[int, str] = {{
{_rows(tables.early_closes)}
}}
'''


def _by_year(days: Iterable[date]) -> dict[int, str]:
    years: dict[int, list[str]] = {}
    for day in sorted(days):
        years.setdefault(day.year, []).append(f"{day:%m%d}")
    return {year: " ".join(days) for year, days in years.items()}


def _rows(table: dict[int, str]) -> str:
    return "\n".join(f'    {year}: "{days}",' for year, days in table.items())


if __name__ == "__main__":
    target = Path(_xnys.__file__)
    tables = tables_of_library()
    target.write_text(render(tables), encoding="utf-8")
    print(f"{target}: written from {tables.source}")
