"""`year_ticks`: all bars of a year in one file, for engines, one partition per year.

Belongs here: the asset, and the metadata of its runs. Does not belong here: how a year is made from
its sessions, and how both are verified to be equal (`lake.year_files`).

Every run reads the whole file again and compares it with the sessions, whether it wrote it or not:
a year of 5,000 symbols takes a fifth of a second.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from datalake_assets import __version__, liveness
from datalake_assets.assets.daily_ticks import BARS_METADATA, LogDisplay
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.failure import Failed, plain_failures
from datalake_assets.assets.published import everything_is_published
from datalake_assets.assets.stock_universe import GROUP, OWNERS
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import Display, Displays, many
from datalake_assets.lake.projection import PublicationError
from datalake_assets.lake.year_files import FileProof, PublishedFile, YearFiles
from datalake_assets.resources import LakeResource, SourceResource
from datalake_assets.storage.store import BrokenFileError

KEY = dg.AssetKey("year_ticks")
CHECK = "year_file_agrees"


@dataclass(frozen=True, slots=True)
class _Year:
    """The result of publishing one year.

    Args:
        published: The last publication.
        healed: What was wrong with the file that stood there; empty when nothing was.
        proof: The comparison with the sessions, at the end.
        proof_seconds: How long it took.
    """

    published: PublishedFile
    healed: str
    proof: FileProof
    proof_seconds: float


def build_year_ticks(partitions: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The asset.

    Args:
        partitions: Its years.
    """
    with warnings.catch_warnings():
        # Both are beta; tests cover what we rely on.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return _year_ticks(
            partitions,
            dg.BackfillPolicy.multi_run(1),
            # The current year has future sessions.
            dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True),
        )


def _year_ticks(
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
                description="Sessions and year file hold the same rows: an order-free hash over "
                "every row of each session. The file is read whole; its rows are in order.",
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
    def year_ticks(
        context: dg.AssetExecutionContext,
        clock: dg.ResourceParam[Clock],
        source: SourceResource,
        lake: LakeResource,
        display: dg.ResourceParam[Display],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        liveness.mark(context)
        files = lake.open_year_files(source.identity, clock)
        shown = Displays(LogDisplay(context.log), display)
        years: list[_Year] = []
        failures: dict[str, str] = {}
        for key in context.partition_keys:
            shown.begin(f"{key}: writing all its symbols into one file")
            try:
                year = _published(context, files, int(key), clock)
            except (PublicationError, BrokenFileError) as error:
                failures[key] = str(error)
                continue
            years.append(year)
            if not year.proof.holds:
                failures[key] = year.proof.disagreement
            elif year.published.made_from.whole:
                context.log_event(_materialization(year, files.url))
        yield _check(years)
        if failures:
            raise Failed("\n".join(failures.values()), allow_retries=False)
        yield everything_is_published()

    return year_ticks


_DESCRIPTION = """\
The same bars as `daily_ticks`, all symbols of a year in one file, by symbol and session:
`data/ticks/years/year={year}/bars.parquet`. Query engines read it best. A partition is a year. It
is rebuilt from the year's published sessions when they changed, also the running year after each
session. It is always safe to publish a year again: `datalake publish --year YEAR`.
"""


def _published(
    context: dg.AssetExecutionContext, files: YearFiles, year: int, clock: Clock
) -> _Year:
    """Publish a year and verify it; a file that differs is written again, once."""
    run_id, healed = context.run.run_id, ""
    published = files.publish(year, run_id=run_id)
    what = "written" if published.written else "unchanged"
    sessions = many(len(published.made_from.sessions), "session")
    context.log.info("%d: %s, %s in %.1f s", year, sessions, what, published.seconds)
    began = clock.seconds()
    if not published.made_from.whole:  # it has no session, so there is no file
        return _Year(published, "", FileProof.of_nothing(year), 0.0)
    proof = files.prove(year)
    if not proof.holds:
        healed = proof.disagreement
        context.log.warning("%d: written again: %s", year, healed)
        published = files.publish(year, run_id=run_id, anew=True)
        proof = files.prove(year)
    return _Year(published, healed, proof, clock.seconds() - began)


def _materialization(year: _Year, url: str) -> dg.AssetMaterialization:
    published, proof = year.published, year.proof
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": proof.file.rows,
        "dagster/uri": url,
        "row_count": proof.file.rows,
        "sessions": len(published.made_from.sessions),
        "symbols": proof.symbols,
        "written": published.written,
        "bytes": proof.bytes,
        "duration_seconds": round(published.seconds, 3),
        "proof_seconds": round(year.proof_seconds, 3),
        "fingerprint": proof.file.digest.hex(),
    }
    if year.healed:
        metadata["written_again"] = year.healed
    return dg.AssetMaterialization(KEY, partition=str(proof.year), metadata=metadata)


def _check(years: list[_Year]) -> dg.AssetCheckResult:
    """One result over all years of the run; it fails if one year differs."""
    broken = [year.proof for year in years if not year.proof.holds]
    rows = sum(year.proof.sessions.rows for year in years)
    are = "is" if rows == 1 else "are"
    told = f"{many(rows, 'row')} of {many(len(years), 'year')} {are} the same in sessions and file"
    if not years:
        told = "no year was published, so nothing was compared"
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not broken,
        description="; ".join(proof.disagreement for proof in broken) or told,
        metadata={"years": len(years), "rows": rows},
    )
