"""`securities` and `adjustment_factors`: identities over renames, and price adjustment.

Belongs here: the two assets, their checks, and the metadata of their runs. Not here: how the
tables are derived (`datalake_assets.securities`), and when (`automation.securities`).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import catalog
from datalake_assets.actions.log import ActionLog
from datalake_assets.assets.corporate_actions import GROUP
from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.assets.lake_asset import column_schema, lake_asset
from datalake_assets.assets.session_ticks import DAILY_TICKS
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.lake.derived import gathered
from datalake_assets.lake.files import LakeFiles
from datalake_assets.names import OURS, Names
from datalake_assets.resources import LakeResource, SourceResource
from datalake_assets.securities.derivation import (
    Material,
    derive_factors,
    derive_securities,
)
from datalake_assets.securities.factors import Factors
from datalake_assets.securities.findings import read_findings
from datalake_assets.securities.identity import Identities
from datalake_assets.securities.jumps import Jumps, Kind
from datalake_assets.securities.tables import (
    CUMULATIVE,
    CUMULATIVE_DESCRIPTIONS,
    FACTORS,
    FACTORS_DESCRIPTIONS,
    SECURITIES,
    SECURITIES_DESCRIPTIONS,
)
from datalake_assets.storage import layout

SECURITIES_KEY = dg.AssetKey("securities")
FACTORS_KEY = dg.AssetKey("adjustment_factors")

IDENTITIES_AGREE = "identities_agree"
ACTIONS_AGREE = "actions_agree_with_prices"
JUMPS_EXPLAINED = "jumps_are_explained"

_SHOWN = 50


def build_securities(names: Names = OURS) -> dg.AssetsDefinition:
    """The asset.

    Args:
        names: What the lake's definitions are called.
    """
    asset = lake_asset(
        SECURITIES_KEY,
        names,
        GROUP,
        deps=[names.key(key) for key in (DAILY_TICKS, STOCK_UNIVERSE, CORPORATE_ACTIONS)],
        description=_SECURITIES,
        metadata={"dagster/column_schema": column_schema(SECURITIES, SECURITIES_DESCRIPTIONS)},
        check_specs=[
            dg.AssetCheckSpec(
                IDENTITIES_AGREE,
                asset=names.key(SECURITIES_KEY),
                description="Bars, actions and the list of assets agree on which tickers are one "
                "security. Tickers that don't agree are kept as separate securities.",
            )
        ],
    )
    return asset(_securities)


_SECURITIES = (
    "Which tickers belong to one security, and how each security ended: a row per "
    "security and ticker in `data/securities/securities.parquet`, with a permanent identifier. "
    "Derived from bars, actions and the list of assets. Contradictions are reported, not guessed."
)


def _securities(
    source: SourceResource, lake: LakeResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Derive the securities."""
    target = lake.open(source.identity)
    ActionLog(target.store).publish()  # in case a killed sweep did not
    given = gathered(target)
    universe = target.universe()
    found = derive_securities(target.store, given, universe[1] if universe else None)
    yield dg.MaterializeResult(
        metadata=identity_metadata(given, found)
        | {"dagster/uri": target.store.url(layout.SECURITIES_TABLE)}
    )
    yield judge(target, IDENTITIES_AGREE, "identity")


def build_adjustment_factors(names: Names = OURS) -> dg.AssetsDefinition:
    """The asset.

    Args:
        names: What the lake's definitions are called.
    """
    asset = lake_asset(
        FACTORS_KEY,
        names,
        GROUP,
        deps=[names.key(SECURITIES_KEY), names.key(CORPORATE_ACTIONS)],
        description=_FACTORS,
        metadata={
            "dagster/column_schema": column_schema(FACTORS, FACTORS_DESCRIPTIONS),
            "cumulative_columns": dg.MetadataValue.table_schema(
                column_schema(CUMULATIVE, CUMULATIVE_DESCRIPTIONS)
            ),
        },
        check_specs=[
            dg.AssetCheckSpec(
                ACTIONS_AGREE,
                asset=names.key(FACTORS_KEY),
                description="The prices contradict no action, none is listed twice or "
                "impossible, and the value of each spin-off is known. An action that fails is not "
                "applied.",
            ),
            dg.AssetCheckSpec(
                JUMPS_EXPLAINED,
                asset=names.key(FACTORS_KEY),
                description="No price jumps as if an action were missing. Suspected actions are "
                "reported, never applied automatically.",
            ),
        ],
    )
    return asset(_adjustment_factors)


_FACTORS = (
    "The effect of corporate actions on earlier prices: a row per security and action "
    "in `data/securities/factors.parquet`, with a verdict from the prices, and the factors to "
    "multiply bars by in `data/securities/cumulative.parquet`. An action that the prices "
    "contradict is not applied until you accept it with `datalake decide`."
)


def _adjustment_factors(
    source: SourceResource, lake: LakeResource
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Derive the adjustment factors."""
    target = lake.open(source.identity)
    given = gathered(target)
    found, jumps = derive_factors(target.store, given)
    catalog.follow(target.store)  # the views of adjusted bars need tables to be there
    yield dg.MaterializeResult(
        metadata=factor_metadata(given, found, jumps)
        | {"dagster/uri": target.store.url(layout.FACTORS_TABLE)}
    )
    yield judge(target, ACTIONS_AGREE, "action")
    # A fall explained by the market needs no attention.
    yield judge(target, JUMPS_EXPLAINED, "jump", fine=(Kind.MOVE,))


def identity_metadata(given: Material, found: Identities) -> dict[str, Any]:
    """The metadata of a derivation of securities."""
    ends = Counter(found.table["followed_by"].to_pylist())
    kinds = Counter(finding.kind for finding in found.findings)
    return {
        "dagster/row_count": found.table.num_rows,
        "securities": pc.count_distinct(found.table["security"]).as_py(),
        "trading": ends[None],
        "renames": ends["rename"] + ends["split"],
        "mergers": ends["merger"],
        "delistings": ends["delisting"],
        "unknown_ends": ends["unknown"],
        "aliases": len(found.registry.aliases),
        "contradicted_renames": kinds["rename contradicted"],
        "long_gaps": kinds["long gap"],
        "findings": len(found.findings),
        "sessions_read": given.evidence.read,
        "actions": given.actions.num_rows,
    }


def factor_metadata(given: Material, found: Factors, jumps: Jumps) -> dict[str, Any]:
    """The metadata of a derivation of factors."""
    verdicts = Counter(found.table["verdict"].to_pylist())
    return {
        "dagster/row_count": found.table.num_rows,
        "spans": found.cumulative.num_rows,
        "applied": pc.sum(found.table["applied"]).as_py() or 0,
        "confirmed": verdicts["confirmed"],
        "contradicted": verdicts["contradicted"],
        "too_small_to_tell": verdicts["too small to tell"],
        "unseen": verdicts["unseen"],
        "undecided": sum(finding.undecided for finding in found.findings),
        "decisions": len(given.decisions.standing),
        "suspected_splits": jumps.count(Kind.SPLIT),
        "suspected_spin_offs": jumps.count(Kind.SPIN_OFF),
        "one_day_glitches": jumps.count(Kind.GLITCH),
        "market_moves": jumps.count(Kind.MOVE),
        "sessions_read": given.evidence.read,
    }


def judge(
    lake: LakeFiles, check: str, about: str, fine: tuple[str, ...] = ()
) -> dg.AssetCheckResult:
    """A check of the findings: counts by kind, and the newest findings with a command each."""
    found = read_findings(lake.store)
    found = found.filter(pc.equal(found["about"], about))
    if fine:
        found = found.filter(pc.invert(pc.is_in(found["kind"], pa.array(list(fine), pa.string()))))
    counts = Counter(found["kind"].to_pylist())
    metadata: dict[str, Any] = {kind.replace(" ", "_"): counts[kind] for kind in sorted(counts)}
    metadata["undecided"] = pc.sum(found["undecided"]).as_py() or 0
    if found.num_rows:
        newest = found.sort_by([("session", "descending"), ("symbol", "ascending")])
        metadata["findings"] = dg.MetadataValue.table(
            [
                dg.TableRecord({"what": row["what"], "decide": row["decide"]})
                for row in newest.slice(0, _SHOWN).to_pylist()
            ]
        )
    return dg.AssetCheckResult(
        check_name=check,
        passed=not found.num_rows,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{counts[kind]:,} × {kind}" for kind in sorted(counts))
        or "no findings",
        metadata=metadata,
    )
