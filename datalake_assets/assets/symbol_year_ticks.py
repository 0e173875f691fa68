"""`symbol_year_ticks`: the bars per symbol and year, for analysts, one partition per year.

Belongs here: the asset, and the metadata of its runs. Does not belong here: how a year is made from
its sessions, and how both are verified to be equal (`lake.symbol_years`).

Every run verifies what it published by reading both layouts again. Files that were damaged in the
meantime are found by that, and written again.
"""

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from datalake_assets import __version__, liveness
from datalake_assets.assets.daily_ticks import BARS_METADATA, LogDisplay
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.failure import Failed, plain_failures
from datalake_assets.assets.published import everything_is_published
from datalake_assets.assets.stock_universe import GROUP, OWNERS
from datalake_assets.collection import progress
from datalake_assets.collection.progress import Display, Displays, many
from datalake_assets.lake.symbol_years import (
    OvertakenError,
    Proof,
    PublicationError,
    Published,
    SymbolYears,
)
from datalake_assets.resources import LakeResource, SourceResource
from datalake_assets.storage.store import BrokenFileError
from datalake_assets.storage.upload import Snapshot

KEY = dg.AssetKey("symbol_year_ticks")
CHECK = "layouts_agree"

_SHOWN = 20

_TRIES = 3
"""How often one run publishes a year, if other runs publish the same year at the same time."""


@dataclass(frozen=True, slots=True)
class _Year:
    """The result of publishing one year.

    Args:
        published: The last publication.
        uploaded: Objects written, including rewritten ones.
        healed: Symbols whose object differed from what had been published, and why.
        proof: The comparison of both layouts, at the end.
        proof_seconds: How long it took.
    """

    published: Published
    uploaded: int
    healed: Mapping[str, str]
    proof: Proof
    proof_seconds: float


def build_symbol_year_ticks(partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The asset.

    Args:
        partitions: Its years.
    """
    with warnings.catch_warnings():
        # Both are beta; tests cover what we rely on.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _symbol_year_ticks(
            partitions,
            dg.BackfillPolicy.multi_run(1),
            # The current year has future sessions.
            dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True),
        )


def _symbol_year_ticks(
    partitions: dg.PartitionsDefinition[str],
    backfill_policy: dg.BackfillPolicy,
    its_sessions: dg.PartitionMapping,
) -> dg.AssetsDefinition:
    @dg.asset(
        key=KEY,
        deps=[dg.AssetDep(DAILY_TICKS, partition_mapping=its_sessions)],
        partitions_def=partitions,
        backfill_policy=backfill_policy,
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=KEY,
                description="Sessions and symbol-years hold the same rows: an order-free hash "
                "over every row of the year, read from both.",
            )
        ],
        group_name=GROUP,
        owners=OWNERS,
        kinds={"python", "parquet"},
        code_version=__version__,
        description=_DESCRIPTION,
        metadata=BARS_METADATA,
    )
    @plain_failures
    def symbol_year_ticks(
        context: dg.AssetExecutionContext,
        source: SourceResource,
        lake: LakeResource,
        display: dg.ResourceParam[Display],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        liveness.mark(context)
        symbol_years = lake.open_symbol_years(source.identity)
        shown = Displays(LogDisplay(context.log), display)
        proofs: list[Proof] = []
        failures: dict[str, str] = {}
        for key in context.partition_keys:
            try:
                year = _publish(context, symbol_years, int(key), lake.upload_workers, shown)
            except (PublicationError, BrokenFileError) as error:
                failures[key] = str(error)
                continue
            proofs.append(year.proof)
            if year.proof.holds:
                context.log_event(_materialization(year, symbol_years.url))
            else:
                failures[key] = _disagreement(year.proof)
        yield _check(proofs)
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


def _publish(
    context: dg.AssetExecutionContext,
    symbol_years: SymbolYears,
    year: int,
    workers: int,
    display: Display,
) -> _Year:
    """Publish a year and verify it; files that differ are written again, once."""
    run_id = context.run.run_id

    def once() -> Published:
        display.begin(f"{year}: reading its sessions")
        show = _shown_by(display, year)
        return symbol_years.publish(year, run_id=run_id, workers=workers, display=show)

    published = _in_turn(once, context, symbol_years, year, display)
    context.log.info(
        "%d: %s of %s, %d written and %d removed in %.1f s",
        year,
        many(len(published.manifest.symbols), "symbol-year"),
        many(len(published.manifest.sessions), "session"),
        len(published.uploaded),
        len(published.removed),
        published.seconds,
    )
    uploaded = len(published.uploaded)
    display.begin(f"{year}: comparing both layouts")
    began = time.monotonic()
    proof = symbol_years.prove(year)
    seconds = time.monotonic() - began
    healed = proof.differing
    if healed:
        context.log.warning("%d: written again: %s", year, _disagreement(proof))
        published = symbol_years.publish(year, run_id=run_id, suspects=healed, workers=workers)
        uploaded += len(published.uploaded)
        proof = symbol_years.prove(year)
    return _Year(published, uploaded, healed, proof, seconds)


def _in_turn(
    publish: Callable[[], Published],
    context: dg.AssetExecutionContext,
    symbol_years: SymbolYears,
    year: int,
    display: Display,
) -> Published:
    """Publish a year; if another publication intervened, publish it again.

    Raises:
        OvertakenError: Another publication intervened every time.
        PublicationError, BrokenFileError, StoreError: As `SymbolYears.publish`.
    """
    for _ in range(_TRIES - 1):
        try:
            return publish()
        except OvertakenError as error:
            context.log.info("%s", error)
            display.begin(f"{year}: waiting for another publication of this year")
            symbol_years.wait_for_other(year, context.run.run_id, stop=threading.Event())
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


def _materialization(year: _Year, url: str) -> dg.AssetMaterialization:
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
        "fingerprint": proof.symbol_years.digest.hex(),
    }
    if year.healed:
        metadata["written_again"] = dg.MetadataValue.table(
            [
                dg.TableRecord({"symbol": symbol, "was": why})
                for symbol, why in list(year.healed.items())[:_SHOWN]
            ]
        )
    return dg.AssetMaterialization(KEY, partition=str(proof.year), metadata=metadata)


def _check(proofs: list[Proof]) -> dg.AssetCheckResult:
    """One result over all years of the run; it fails if one year differs."""
    broken = [proof for proof in proofs if not proof.holds]
    rows = sum(proof.sessions.rows for proof in proofs)
    are = "is" if rows == 1 else "are"
    told = f"{many(rows, 'row')} of {many(len(proofs), 'year')} {are} the same in both layouts"
    if not proofs:
        told = "no year was published, so nothing was compared"
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not broken,
        description="; ".join(map(_disagreement, broken)) or told,
        metadata={
            "years": len(proofs),
            "rows": rows,
            "by_year": dg.MetadataValue.md(_table(proofs)),
        },
    )


def _table(proofs: list[Proof]) -> str:
    rows = ["| year | sessions | symbol-years | differing symbols |", "|---|---|---|---:|"]
    for proof in proofs:
        differing = f"{len(proof.differing):,}"
        rows.append(f"| {proof.year} | {proof.sessions} | {proof.symbol_years} | {differing} |")
    return "\n".join(rows)


def _disagreement(proof: Proof) -> str:
    first = [f"{symbol}: {why}" for symbol, why in list(proof.differing.items())[:3]]
    return (
        f"{proof.year}: {len(proof.differing):,} symbol-years differ from the sessions "
        f"({'; '.join(first)})"
    )
