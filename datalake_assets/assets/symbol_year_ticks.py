"""`symbol_year_ticks`: the bars per symbol and year, for analysts, one partition per year.

Belongs here: the asset, and the metadata of its runs. Does not belong here: how a year is made from
its sessions, and how both are verified to be equal (`lake.symbol_years`).

Every run verifies what it wrote by reading it again. A run that a user starts reads the whole year
in both layouts; files that were damaged in the meantime are found and written again. Every four
weeks the automatic run does the same, not daily: that would read 11,000 files a day,
most of them unchanged since the day before. Otherwise it compares the bytes of what it wrote with
what it encoded, and decodes one file in 16.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from datalake_assets import liveness
from datalake_assets.assets.failure import Failed
from datalake_assets.assets.published import everything_is_published
from datalake_assets.assets.session_ticks import LogDisplay
from datalake_assets.assets.years import compared, year_asset
from datalake_assets.collection import progress
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import Display, Displays, many, verb
from datalake_assets.lake.projection import OvertakenError, PublicationError
from datalake_assets.lake.symbol_years import Proof, Published, SymbolYears
from datalake_assets.names import OURS, Names
from datalake_assets.resources import LakeResource, SourceResource
from datalake_assets.storage.store import BrokenFileError
from datalake_assets.storage.upload import Snapshot

KEY = dg.AssetKey("symbol_year_ticks")
CHECK = "layouts_agree"

_SHOWN = 20

_WHOLE_EVERY = timedelta(days=28)
"""How long a year's symbol-years that are not written anew may go unread by a run that follows."""


def prove_written(names: Names = OURS) -> Mapping[str, Any]:
    """The run config of those who publish after each change."""
    return {"ops": {names.op(KEY): {"config": {"whole": False}}}}


_TRIES = 3
"""How often one run publishes a year, if other runs publish the same year at the same time."""


class PublicationConfig(dg.Config):
    """How much a run proves."""

    whole: bool = Field(
        default=True,
        description="Read all of the year in both layouts and compare them. Off: read what this "
        "run wrote, decode one in 16 of it and compare the bytes of the others with what was "
        f"encoded; all of the year only when that is {_WHOLE_EVERY.days} days ago.",
    )


@dataclass(frozen=True, slots=True)
class _Year:
    """The result of publishing one year.

    Args:
        published: The last publication.
        uploaded: Objects written, including rewritten ones.
        healed: Symbols whose object differed from what had been published, and why.
        proof: The comparison of both layouts, at the end.
        proof_seconds: How long it took.
        proved_at: When all of the year was last read and found equal, UTC; None when it never was.
    """

    published: Published
    uploaded: int
    healed: Mapping[str, str]
    proof: Proof
    proof_seconds: float
    proved_at: datetime | None


def build_symbol_year_ticks(
    partitions: dg.PartitionsDefinition[str], names: Names = OURS
) -> dg.AssetsDefinition:
    """The asset.

    Args:
        partitions: Its years.
        names: What the lake's definitions are called.
    """

    @year_asset(
        KEY,
        partitions,
        names,
        description=_DESCRIPTION,
        check=CHECK,
        equality="Sessions and symbol-years hold the same rows: an order-free hash over every row "
        "of the year. Sessions are read. Symbol-years are decoded, or have the very bytes that the "
        "run encoded from these rows, or, where the run did not write them, count as they were "
        "last read: the table tells how many, and when all were last decoded.",
    )
    def symbol_year_ticks(
        context: dg.AssetExecutionContext,
        config: PublicationConfig,
        clock: dg.ResourceParam[Clock],
        source: SourceResource,
        lake: LakeResource,
        display: dg.ResourceParam[Display],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        liveness.mark(context)
        symbol_years = lake.open_symbol_years(source.identity)
        shown = Displays(LogDisplay(context.log), display)
        years: list[_Year] = []
        failures: dict[str, str] = {}
        for key in context.partition_keys:
            try:
                publication = _Publication(
                    context, symbol_years, int(key), lake.upload_workers, shown
                )
                year = publication.run(clock, whole=config.whole)
            except (PublicationError, BrokenFileError) as error:
                failures[key] = str(error)
                continue
            years.append(year)
            if year.proof.holds:
                context.log_event(_materialization(context.asset_key, year, symbol_years.url))
            else:
                failures[key] = _disagreement(year.proof)
        yield _check(years)
        if failures:
            raise Failed("\n".join(failures.values()), allow_retries=False)
        yield everything_is_published()

    return symbol_year_ticks


_DESCRIPTION = """\
The same bars as `daily_ticks`, one file per symbol and year:
`data/ticks/daily/{symbol}/{year}/ticks.parquet`. A partition is a year. It is rebuilt from the
year's published sessions; only files of symbols whose bars changed are written. It is always safe
to publish a year again, also after a killed run: `datalake publish --year YEAR`.
"""


@dataclass(frozen=True, slots=True)
class _Publication:
    """The publication of one year by one run."""

    context: dg.AssetExecutionContext
    symbol_years: SymbolYears
    year: int
    workers: int
    display: Display

    def run(self, clock: Clock, *, whole: bool) -> _Year:
        """Publish the year and verify it; files that differ are written again, once."""
        context, symbol_years, year = self.context, self.symbol_years, self.year
        published = self._in_turn()
        context.log.info(
            "%d: %s of %s, %d written and %d removed in %.1f s",
            year,
            many(len(published.manifest.symbols), "symbol-year"),
            many(len(published.manifest.sessions), "session"),
            len(published.uploaded),
            len(published.removed),
            published.seconds,
        )
        last = published.manifest.proved_at
        whole = whole or last is None or clock.now() - last >= _WHOLE_EVERY
        # When each of them was written, decoding them reads all there is.
        fresh = len(published.uploaded) == len(published.manifest.symbols)
        read = None if whole and not fresh else set(published.uploaded)
        self.display.begin(f"{year}: comparing both layouts")
        began = time.monotonic()
        proof = self._prove(read, None if whole else published)
        seconds = time.monotonic() - began
        uploaded = len(published.uploaded)
        if healed := proof.differing:
            context.log.warning("%d: written again: %s", year, _disagreement(proof))
            published = symbol_years.publish(
                year, run_id=context.run.run_id, suspects=healed, workers=self.workers
            )
            uploaded += len(published.uploaded)
            proof = self._prove(read and read | set(published.uploaded))
        if proof.holds and proof.whole:
            symbol_years.note_proved(proof)
            last = clock.now()
        return _Year(published, uploaded, healed, proof, seconds, last)

    def _prove(self, symbols: set[str] | None, published: Published | None = None) -> Proof:
        if symbols is None:
            return self.symbol_years.prove(self.year)
        return self.symbol_years.prove_published(self.year, symbols, published)

    def _in_turn(self) -> Published:
        """Publish the year; if another publication intervened, publish it again.

        Raises:
            OvertakenError: Another publication intervened every time.
            PublicationError, BrokenFileError, StoreError: As `SymbolYears.publish`.
        """
        context, display, run_id = self.context, self.display, self.context.run.run_id

        def publish() -> Published:
            display.begin(f"{self.year}: reading its sessions")
            show = _shown_by(display, self.year)
            return self.symbol_years.publish(
                self.year, run_id=run_id, workers=self.workers, display=show
            )

        for _ in range(_TRIES - 1):
            try:
                return publish()
            except OvertakenError as error:
                context.log.info("%s", error)
                display.begin(f"{self.year}: waiting for another publication of this year")
                self.symbol_years.wait_for_other(self.year, run_id, stop=threading.Event())
        return publish()


def _shown_by(display: Display, year: int) -> Callable[[Snapshot], None]:
    """Shows the writing of a year's files."""

    def show(snapshot: Snapshot) -> None:
        if not snapshot.objects:
            return
        told = progress.Snapshot(
            label=f"{year} per symbol",
            unit="file",
            chunks=snapshot.objects,
            chunks_done=snapshot.done,
            retries=snapshot.retries,
            seconds=snapshot.seconds,
        )
        display.show(told, final=snapshot.final)

    return show


def _materialization(key: dg.AssetKey, year: _Year, url: str) -> dg.AssetMaterialization:
    manifest, proof = year.published.manifest, year.proof
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": proof.symbol_years.rows,
        "dagster/uri": url,
        "row_count": proof.symbol_years.rows,
        "sessions": len(manifest.sessions),
        "symbols": len(manifest.symbols),
        "uploaded": year.uploaded,
        "removed": len(year.published.removed),
        "uploaded_bytes": year.published.bytes,
        "retries": year.published.retries,
        "duration_seconds": round(year.published.seconds, 3),
        "proof_seconds": round(year.proof_seconds, 3),
        "symbol_years_read": proof.read,
        "symbol_years_decoded": proof.read - proof.same_bytes,
        "fingerprint": proof.symbol_years.digest.hex(),
    }
    if year.healed:
        metadata["written_again"] = dg.MetadataValue.table(
            [
                dg.TableRecord({"symbol": symbol, "was": why})
                for symbol, why in list(year.healed.items())[:_SHOWN]
            ]
        )
    return dg.AssetMaterialization(key, partition=str(proof.year), metadata=metadata)


def _check(years: list[_Year]) -> dg.AssetCheckResult:
    """One result over all years of the run; it fails if one year differs."""
    broken = [year.proof for year in years if not year.proof.holds]
    rows = sum(year.proof.sessions.rows for year in years)
    told = compared(rows, len(years), "both layouts")
    unread = sum(year.proof.unread for year in years)
    same_bytes = sum(year.proof.same_bytes for year in years)
    if unread or same_bytes:
        read = sum(year.proof.read for year in years)
        told += (
            f": {many(read, 'symbol-year')} written and read back, {same_bytes:,} of them by "
            f"their bytes alone, {unread:,} as they were last read"
        )
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not broken,
        description="; ".join(map(_disagreement, broken)) or told,
        metadata={
            "years": len(years),
            "rows": rows,
            "by_year": dg.MetadataValue.md(_table(years)),
        },
    )


def _table(years: list[_Year]) -> str:
    rows = [
        "| year | sessions | symbol-years | differ | decoded | by bytes | not read | all decoded |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for year in years:
        proof = year.proof
        at = f"{year.proved_at:%Y-%m-%d %H:%M} UTC" if year.proved_at else "never"
        decoded = proof.read - proof.same_bytes
        rows.append(
            f"| {proof.year} | {proof.sessions} | {proof.symbol_years} | {len(proof.differing):,} "
            f"| {decoded:,} | {proof.same_bytes:,} | {proof.unread:,} | {at} |"
        )
    return "\n".join(rows)


def _disagreement(proof: Proof) -> str:
    first = [f"{symbol}: {why}" for symbol, why in list(proof.differing.items())[:3]]
    count = len(proof.differing)
    return (
        f"{proof.year}: {many(count, 'symbol-year')} {verb(count, 'differs', 'differ')} from the "
        f"sessions ({'; '.join(first)})"
    )
