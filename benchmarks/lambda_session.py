"""The Lambda function: its cold start, a session of every symbol, one that takes too long, minutes.

The handler is the real one, in a process of its own, and asks an exchange (another process). The
context is a fake one: its time runs, and nobody ends the function when it is over, so the seconds
that it really took are held against the budget here. `--minutes` measures minute bars instead: one
event for all symbols, and three for a range of them each. 14,400 symbols of the embedded exchange
have as many minutes as the 11,000 real ones.

    python -m benchmarks.lambda_session [--symbols 5000] [--latency 0.2] [--slow 10]
    python -m benchmarks.lambda_session --minutes --symbols 14400
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.surroundings import user_environment
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage.store import open_store

SESSION = date(2026, 11, 19)
PAID_PLAN = 10_000
RANGES = [
    {"symbols_to": "FZZZZZ"},
    {"symbols_from": "G", "symbols_to": "OZZZZZ"},
    {"symbols_from": "P"},
]
FUNCTION = """
import json, sys, time
began = time.monotonic()
from datalake_assets.lambda_handler import lambda_handler, workers

memory, budget, event = int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])

class Context:
    memory_limit_in_mb, aws_request_id = str(memory), "benchmark"
    began = time.monotonic()
    def get_remaining_time_in_millis(self):
        return int(1000 * (budget - (time.monotonic() - self.began)))

answer = lambda_handler(event, Context())
took = {"seconds": time.monotonic() - Context.began, "init": Context.began - began}
from benchmarks import measuring
took |= {"peak": measuring.peak()}
print(json.dumps({**answer, **took, "workers": workers(memory)}))
"""
COLD = {
    "the handler": "import datalake_assets.lambda_handler",
    "and alpaca-py, at the first request": "import datalake_assets.lambda_handler, "
    "alpaca.data.historical, alpaca.trading.client",
    "for comparison: dagster": "import dagster",
}


def main() -> None:
    """Measure all three."""
    given = _arguments()
    if given.minutes:
        _minutes(given)
        return
    _cold(given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        options = ExchangeOptions(
            active=given.symbols,
            inactive=0,
            latency=given.latency,
            requests_per_minute=PAID_PLAN,
        )
        whole, slow = Path(folder) / "whole", Path(folder) / "slow"
        with EmbeddedExchange(options) as exchange:
            print(f"1024 MB, 900 s, {given.symbols:,} symbols, answers after {given.latency} s:")
            _invoke(exchange.url, whole, 1024, 900)
        slowed = ExchangeOptions(active=given.symbols, inactive=0, latency=given.slow)
        with EmbeddedExchange(slowed) as exchange:
            print(f"128 MB, 100 s, the same, answers after {given.slow} s:")
            number = 1
            while not _invoke(exchange.url, slow, 128, 100):
                number += 1
                assert number <= given.most, "it does not end"
        one, other = (
            LakeFiles(open_store(str(path / "lake"))).read(SESSION) for path in (whole, slow)
        )
        assert one.bars.equals(other.bars)
        assert one.ledger == other.ledger
        print(f"  {number} invocations, and the same session: bars and ledger")


def _minutes(given: argparse.Namespace) -> None:
    """A session of minutes by one event, and by three: the same in the end."""
    options = ExchangeOptions(
        active=given.symbols, inactive=0, latency=given.latency, requests_per_minute=PAID_PLAN
    )
    found = []
    with EmbeddedExchange(options) as exchange:
        for memory, ranges in (2048, [{}]), (2048, RANGES):
            print(f"{memory} MB, 900 s, {given.symbols:,} symbols, {len(ranges)} events:")
            with tempfile.TemporaryDirectory() as folder:
                _invoke(exchange.url, Path(folder), memory, 900)
                for each in ranges:
                    _invoke(exchange.url, Path(folder), memory, 900, dataset="minute", **each)
                lake = LakeFiles(open_store(str(Path(folder) / "lake")), dataset=MINUTE)
                found.append(lake.read(SESSION))
    assert found[0].bars.equals(found[1].bars)
    assert found[0].ledger == found[1].ledger


def _cold(rounds: int) -> None:
    print(f"cold import, median of {rounds} new processes:")
    for name, program in COLD.items():
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            took.append(time.perf_counter() - began)
        print(f"  {name}: {statistics.median(took):.2f} s")
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", [*COLD.values()][1]],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    lines = re.findall(r"import time: +\d+ \| +(\d+) \| +([\w.]+)$", told, re.MULTILINE)
    heavy = [(int(took), name) for took, name in lines if "." not in name]
    shown = ", ".join(f"{name} {took / 1000:.0f} ms" for took, name in sorted(heavy)[:-8:-1])
    print(f"  heaviest packages: {shown}")


def _invoke(url: str, folder: Path, memory: int, budget: float, **event: str) -> bool:
    """One invocation; whether it published the session."""
    asked = json.dumps({"session": SESSION.isoformat(), **event})
    answer = json.loads(
        subprocess.run(
            [sys.executable, "-c", FUNCTION, f"{memory}", f"{budget}", asked],
            env=user_environment(folder, url, PAID_PLAN) | {"DATALAKE_MINUTES": "regular"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    )
    body = json.loads(answer["body"])
    assert answer["statusCode"] in (200, 207), body
    assert answer["seconds"] < budget, "Lambda would have ended it"
    print(
        f"  {answer['statusCode']}: {answer['workers']} workers, {answer['seconds']:.1f} s "
        f"(and {answer['init']:.2f} s of imports before), {answer['peak']:,.0f} MiB at most, "
        f"{body['statistics']['requests']} requests for bars, {body['rows']:,} bars, "
        f"{body['counts']}"
    )
    return bool(body["published"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=5000)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--slow", type=float, default=10.0, help="seconds, of the slow exchange")
    parser.add_argument("--minutes", action="store_true", help="measure minute bars")
    parser.add_argument("--most", type=int, default=12, help="invocations, then it has failed")
    parser.add_argument("--rounds", type=int, default=7, help="of a cold import")
    return parser.parse_args()


if __name__ == "__main__":
    main()
