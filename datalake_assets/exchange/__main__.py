"""`python -m datalake_assets.exchange`: runs an exchange until it is interrupted.

Prints one line of JSON when it can be reached: its URL and its market. People use
`datalake exchange`; `EmbeddedExchange` uses this.
"""

import argparse
import json
import sys
from pathlib import Path

from datalake_assets.exchange.process import LOOPBACK, ExchangeOptions, serve


def main() -> int:
    """Reads the options, serves; 2 when they make no sense or the address is not free."""
    given = _arguments()
    options = ExchangeOptions(**{name: getattr(given, name) for name in ExchangeOptions.__slots__})
    try:
        exchange = options.exchange()
        line = {"market": exchange.market.market_id}

        def announce(url: str) -> None:
            sys.stdout.write(json.dumps({"url": url} | line) + "\n")
            sys.stdout.flush()

        serve(
            exchange,
            host=given.host,
            port=given.port,
            announce=announce,
            until_eof=given.until_eof,
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m datalake_assets.exchange")
    usual = ExchangeOptions()
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--active", type=int, default=usual.active, help="listed symbols")
    parser.add_argument("--inactive", type=int, default=usual.inactive, help="delisted symbols")
    parser.add_argument("--recorded", type=Path, help="CSV or Parquet file to replay instead")
    parser.add_argument("--actions", type=Path, help="CSV file of its corporate actions")
    parser.add_argument("--names", type=Path, help="CSV file of its renames")
    parser.add_argument("--requests-per-minute", type=int, default=0, help="0: no limit")
    parser.add_argument("--trading-requests-per-minute", type=int, default=0, help="0: no limit")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds a request")
    parser.add_argument("--faults", default="", help='JSON, such as {"rate": 0.3, "seed": 1}')
    parser.add_argument("--errata", default="", help='JSON, such as {"rate": 0.01, "seed": 1}')
    parser.add_argument("--closures", default="", help="days without a session: 2025-01-09,…")
    parser.add_argument("--until-eof", action="store_true", help="end with standard input")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
