"""Metadata of a collected session's materialization, whoever collected it.

Belongs here: names and types of what Dagster shows and plots. Does not belong here: computing it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from datalake_assets.collection.audit import Finding, Verdict
from datalake_assets.collection.report import Reason, reasons

SHOWN = 50
"""How many offenders and failures the metadata lists; the ledger in the session's file has all."""


def session_metadata(
    *,
    counts: Mapping[str, int],
    requested: int,
    asked: int,
    success_rate: float,
    statistics: Mapping[str, Any],
    findings: Sequence[Finding],
    failures: Mapping[str, str],
    uri: str | None,
    size: int | None,
    rows: int | None = None,
) -> dict[str, Any]:
    """The numbers of a session, under the names of its plots.

    Args:
        counts: Symbols by state.
        requested: Symbols of the session, without those that the source rejected.
        asked: Symbols that this collection requested.
        success_rate: Share of the requested symbols that the source answered for.
        statistics: From `Statistics.to_dict`.
        findings: The audit.
        failures: Symbols with their errors.
        uri: The session's object; None if there is none.
        size: Its size in bytes; None if nothing was written.
        rows: Its bars; None if each present symbol has one.
    """
    rows = counts["present"] if rows is None else rows
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": rows,
        "row_count": rows,
        **counts,
        "requested": requested,
        "asked": asked,
        "success_rate": success_rate,
        "duration_seconds": round(statistics["duration_seconds"], 3),
        "bars_per_second": round(statistics["bars_per_second"], 1),
        "planned_requests": statistics["planned_requests"],
        "requests": statistics["requests"],
        "retries": statistics["retries"],
        "throttled": statistics["throttled"],
        "limiter_wait_seconds": round(statistics["limiter_wait_seconds"], 3),
        "audit": dg.MetadataValue.md(_audit(findings)),
    }
    for name in ("odd_bars", "rounded_volumes", "stray_bars"):
        if statistics.get(name):
            metadata[name] = statistics[name]
    for finding in findings:
        if finding.rule == "coverage" and finding.value is not None:
            metadata["coverage"] = finding.value
    if uri is not None:
        metadata["dagster/uri"] = uri
    if size is not None:
        metadata["file_size_bytes"] = size
    if failures:
        metadata["first_failures"] = failures_table(failures)
        metadata["failure_reasons"] = reasons_table(reasons(failures))
    return metadata


def reasons_table(found: Sequence[Reason]) -> dg.TableMetadataValue:
    """The most frequent errors, and how many symbols failed with each."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "error": reason.error,
                    "count": reason.count,
                    "symbols": ", ".join(reason.symbols),
                }
            )
            for reason in found[:SHOWN]
        ]
    )


def failures_table(failures: Mapping[str, str]) -> dg.TableMetadataValue:
    """The first failed symbols, with their errors."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"symbol": symbol, "error": error})
            for symbol, error in list(failures.items())[:SHOWN]
        ]
    )


def _audit(findings: Sequence[Finding]) -> str:
    signs = {Verdict.PASS: "✓", Verdict.WARN: "⚠", Verdict.FAIL: "✗"}
    rows = ["| | rule | value | threshold | |", "|---|---|---:|---:|---|"]
    for finding in findings:
        value = "unknown" if finding.value is None else f"{finding.value:.6g}"
        rows.append(
            f"| {signs[finding.verdict]} | {finding.rule} | {value} | {finding.threshold:g} "
            f"| {finding.detail} |"
        )
    return "\n".join(rows)
