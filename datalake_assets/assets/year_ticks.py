"""`year_ticks`: all bars of a year in one file, for engines, one partition per year.

Belongs here: the asset, and the metadata of its runs. Does not belong here: how a year is made from
its sessions, and how both are verified to be equal (`lake.year_files`).

Every run reads the whole file again and compares it with the sessions, whether it wrote it or not:
a year of 5,000 symbols takes a fifth of a second.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from datalake_assets import catalog, liveness
from datalake_assets.assets.failure import Failed
from datalake_assets.assets.published import everything_is_published
from datalake_assets.assets.session_ticks import LogDisplay
from datalake_assets.assets.years import compared, year_asset
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import Display, Displays, many
from datalake_assets.lake.projection import PublicationError
from datalake_assets.lake.year_files import FileProof, PublishedFile, YearFiles
from datalake_assets.names import OURS, Names
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


def build_year_ticks(
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
        equality="Sessions and year file hold the same rows: an order-free hash over every row of "
        "each session. The file is read whole; its rows are in order.",
    )
    def year_ticks(
        context: dg.AssetExecutionContext,
        clock: dg.ResourceParam[Clock],
        source: SourceResource,
        lake: LakeResource,
        display: dg.ResourceParam[Display],
    ) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
        liveness.mark(context)
        store = lake.open(source.identity).store
        files = YearFiles(store, clock)
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
                context.log_event(_materialization(context.asset_key, year, files.url))
        catalog.follow(store)
        yield _check(context.asset_key, years)
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


def _materialization(key: dg.AssetKey, year: _Year, url: str) -> dg.AssetMaterialization:
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
    return dg.AssetMaterialization(key, partition=str(proof.year), metadata=metadata)


def _check(key: dg.AssetKey, years: list[_Year]) -> dg.AssetCheckResult:
    """One result over all years of the run; it fails if one year differs."""
    broken = [year.proof for year in years if not year.proof.holds]
    rows = sum(year.proof.sessions.rows for year in years)
    told = compared(rows, len(years), "sessions and file")
    return dg.AssetCheckResult(
        check_name=CHECK,
        asset_key=key,
        passed=not broken,
        description="; ".join(proof.disagreement for proof in broken) or told,
        metadata={"years": len(years), "rows": rows},
    )
