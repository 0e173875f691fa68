"""`datalake exchange`: the embedded exchange on a port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datalake_assets.cli.terminal import out, plain_errors, tell
from datalake_assets.exchange.process import LOOPBACK, ExchangeOptions, serve


def exchange(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 for a free one.")] = 8801,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic market.")] = 7,
    recorded: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet file of bars to replay instead of the synthetic market."),
    ] = None,
    actions: Annotated[
        Path | None, typer.Option(help="CSV file of the recording's corporate actions.")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="CSV file of its renames.")] = None,
    requests_per_minute: Annotated[
        int, typer.Option(help="Rate limit of the data API; 0 for none.")
    ] = 200,
    latency: Annotated[float, typer.Option(help="Seconds added to each answer.")] = 0.0,
    faults: Annotated[
        str,
        typer.Option(
            help='Faults, as JSON: {"rate": 0.3, "seed": 1} disturbs 30 % of the answers.'
        ),
    ] = "",
    errata: Annotated[
        str,
        typer.Option(
            help='Wrong actions and bars, as JSON: {"rate": 0.01, "seed": 1} errs about 1 %.'
        ),
    ] = "",
    closures: Annotated[str, typer.Option(help="Unscheduled closures: 2025-01-09,…")] = "",
) -> None:
    """Run the embedded exchange: Alpaca's wire protocol over a synthetic or recorded market."""
    with plain_errors():
        options = ExchangeOptions(
            seed=seed,
            recorded=recorded,
            actions=actions,
            names=names,
            requests_per_minute=requests_per_minute,
            trading_requests_per_minute=200,
            latency=latency,
            faults=faults,
            errata=errata,
            closures=closures,
        )

        def announce(url: str) -> None:
            tell(out, f"{options.market_id} on {url}")
            tell(
                out,
                "Any pair of keys is accepted. To collect from it: ALPACA_API_KEY=any "
                f"ALPACA_SECRET_KEY=any ALPACA_DATA_URL={url} ALPACA_TRADING_URL={url} "
                "DATALAKE_URI=.datalake/exchange",
            )

        try:
            serve(options.exchange(), host=host, port=port, announce=announce)
        except (ValueError, OverflowError) as error:
            raise typer.BadParameter(str(error)) from error
