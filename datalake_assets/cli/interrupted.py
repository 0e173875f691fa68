"""What is left of a collection that was interrupted, and the command that goes on with it.

Does not belong here: the signals themselves (`signals`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from datalake_assets import market_calendar
from datalake_assets.cli.terminal import command
from datalake_assets.collection.dataset import DAILY
from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage.store import StoreError

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True, slots=True)
class Collecting:
    """What a command was to collect.

    Args:
        lake: The lake, for the collected dataset.
        start: The first session.
        end: The last one.
        options: Fields of the collector that the command gave.
        symbols: What `--symbols` gave.
    """

    lake: LakeFiles
    start: date
    end: date
    options: Mapping[str, float]
    symbols: str | None = None

    def advice(self, result: dg.ExecuteInProcessResult) -> str:
        """How to go on after the run was interrupted."""
        try:
            return self._next(self.done(result))
        except StoreError as error:
            return (
                f"Published sessions stay. What is left is told by: {command()} status. The lake "
                f"could not be looked at now: {error}"
            )

    def done(self, result: dg.ExecuteInProcessResult) -> frozenset[date]:
        """The sessions of which the run, though interrupted, had nothing left to collect.

        What stood before counts only for one that had not to collect it again; a repair had, if
        symbols of it failed.
        """
        told = (event.partition for event in result.get_asset_materialization_events())
        found = {date.fromisoformat(day) for day in told if day}
        untold = [day for day in self._sessions if day not in found]
        for summary in self.lake.finished(untold):
            missing = summary.counts["failed"] + summary.counts["pending"]
            repaired = self.options.get("repair") and not missing
            if (
                self.options.get("missing_only")
                or repaired
                or summary.provenance.run_id == result.run_id
            ):
                found.add(summary.session)
        return frozenset(found)

    def _next(self, done: Set[date]) -> str:
        left = [day for day in self._sessions if day not in done]
        daily = self.lake.dataset is DAILY
        if not left and daily:
            return (
                "Every session is published. To bring the files per symbol and year up to date: "
                f"{command()} backfill --from {self.start} --to {self.end}"
                f"{given_symbols(self.symbols)}"
            )
        if not left:
            return "Every session is published, and nothing is left to do"
        days = market_calendar.options(left[0], left[-1])
        collect = f"{command()} collect {'' if daily else '--minutes '}{days}"
        again = not (self.options.get("repair") or self.options.get("missing_only"))
        if again and not frozenset(left).isdisjoint(self.lake.sessions()):
            return (
                "Published sessions stay. To collect those again that were not reached: "
                f"{collect}{self._given}"
            )
        return (
            "Published sessions stay. To collect the others without requesting a symbol twice: "
            f"{collect} --repair{self._given}"
        )

    @property
    def _sessions(self) -> list[date]:
        return market_calendar.sessions(self.start, self.end)

    @property
    def _given(self) -> str:
        """The options of the command that hold for the next one, too."""
        limits = {
            name: value
            for name, value in self.options.items()
            if name not in ("repair", "missing_only")
        }
        told = (f" --{name.replace('_', '-')} {typed(value)}" for name, value in limits.items())
        return "".join((given_symbols(self.symbols), *told))


def typed(value: float) -> str:
    """A number as a person types it for an option: `1`, not `1.0`, and every digit of it."""
    return f"{value}".removesuffix(".0")


def given_symbols(symbols: str | None) -> str:
    """`--symbols` as it was given, for the commands that are printed."""
    return "" if symbols is None else f" --symbols {shlex.quote(symbols)}"
