"""`datalake status`: what the lake holds, and what to do about what it lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from datalake_assets import market_calendar
from datalake_assets.automation.due import PARTITION_APPEARS
from datalake_assets.cli.arguments import Json, open_lake
from datalake_assets.cli.terminal import command, out, plain_errors, tell
from datalake_assets.lake.coverage import Coverage, Held, coverage
from datalake_assets.lake.lake import Lake
from datalake_assets.settings import Settings


def status(as_json: Json = False) -> None:
    """Show what the lake holds: coverage by year and month, gaps, failures, what to do."""
    with plain_errors():
        settings = Settings.load()
        lake = open_lake(settings)
        newest = (datetime.now(UTC) - PARTITION_APPEARS).date()
        held = coverage(lake, market_calendar.sessions(settings.first_session, newest))
        if as_json:
            out.print_json(json.dumps(_status_json(lake, held)))
        else:
            _show_status(lake, held)


def _show_status(lake: Lake, held: Coverage) -> None:
    tell(out, f"{lake.store.uri}  {lake.source() or 'no lake yet'}")
    rows = {summary.session: summary for summary in held.published}
    table = Table("year", "J F M A M J J A S O N D", "published", "of", "bars", "answered")
    for column in table.columns[2:]:
        column.justify = "right"
    for year in sorted({day.year for day in held.sessions}):
        days = [day for day in held.sessions if day.year == year]
        found = [rows[day] for day in days if day in rows]
        asked = sum(sum(s.counts.values()) - s.counts["rejected"] for s in found)
        answered = sum(s.counts["present"] + s.counts["no_print"] for s in found)
        table.add_row(
            str(year),
            " ".join(
                _month([held.sessions[day] for day in days if day.month == month])
                for month in range(1, 13)
            ),
            f"{len(found):,}",
            f"{len(days):,}",
            f"{sum(summary.rows for summary in found):,}",
            f"{answered / asked:.3%}" if asked else "",
        )
    out.print(table)
    out.print("█ all sessions  ▓ ▒ ░ some  · none  ! incomplete")
    gaps = held.gaps
    for start, end, count in gaps[-5:]:
        tell(out, f"missing: {count:,} sessions  →  {command()} backfill --from {start} --to {end}")
    if len(gaps) > 5:
        out.print(f"… and {len(gaps) - 5:,} gaps before")
    broken = {summary.session: summary for summary in (*held.published, *held.waiting)}
    for where in held.damaged:
        tell(out, f"damaged: {where}  →  collect its session again")
    for day in held.to_repair[:10]:
        counts = broken[day].counts
        tell(
            out,
            f"{day}: {counts['failed']:,} failed, {counts['pending']:,} pending  →  "
            f"{command()} collect --session {day} --repair",
        )
    if len(held.to_repair) > 10:
        out.print(f"… and {len(held.to_repair) - 10:,} more to repair")


def _month(states: Sequence[Held]) -> str:
    if not states:
        return " "
    if Held.INCOMPLETE in states:
        return "!"
    share = states.count(Held.PUBLISHED) / len(states)
    return "█" if share == 1 else "·" if share == 0 else "░▒▓"[min(2, int(share * 3))]


def _status_json(lake: Lake, held: Coverage) -> dict[str, Any]:
    return {
        "lake": lake.store.uri,
        "source": lake.source(),
        "sessions_expected": len(held.sessions),
        "sessions_published": len(held.published),
        "bars": sum(summary.rows for summary in held.published),
        "gaps": [
            {"from": start.isoformat(), "to": end.isoformat(), "sessions": count}
            for start, end, count in held.gaps
        ],
        "damaged": list(held.damaged),
        "to_repair": [day.isoformat() for day in held.to_repair],
        "sessions": [
            {
                "session": summary.session.isoformat(),
                "published": published,
                **summary.counts,
                "collected_at": summary.provenance.collected_at.isoformat(),
            }
            for published, summaries in ((True, held.published), (False, held.waiting))
            for summary in summaries
        ],
    }
