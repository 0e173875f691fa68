import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from datalake_assets.exchange.process import (
    EmbeddedExchange,
    ExchangeError,
    ExchangeOptions,
    ExchangeServer,
)
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import KEYS, call, frozen

SMALL = ExchangeOptions(active=30, inactive=10)
COMMAND = [sys.executable, "-m", "datalake_assets.exchange", "--active=30", "--inactive=10"]
PATH = "/v2/stocks/bars?timeframe=1Day&start=2024-01-02&end=2024-01-31&asof=-&symbols="


def get(url: str, headers: dict[str, str] = KEYS) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=20
        ) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet (a zombie) has."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:  # no /proc here, or it ended between the two
        return Path("/proc/self").exists()


def until(condition) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 20 s")


def test_a_process_of_its_own_serves_the_very_bytes_that_this_one_computes():
    market = SyntheticMarket(active=30, inactive=10)
    symbols = ",".join(row["symbol"] for row in market.assets() if row["status"] == "active")
    here = call(frozen(market), symbols=symbols, start="2024-01-02", end="2024-01-31")
    with EmbeddedExchange(SMALL) as exchange:
        assert get(exchange.url + PATH + symbols) == (200, here.body)
        assert exchange.market_id == market.market_id
        status, log = get(exchange.url + "/_exchange/requests", {})
        assert (status, [row["symbols"] for row in json.loads(log)]) == (200, [30])
        pid = exchange.pid
        address = exchange.url
    assert gone(pid)
    with pytest.raises(urllib.error.URLError):
        get(address)
    with pytest.raises(ExchangeError, match="not running"):
        _ = exchange.pid


def test_every_option_reaches_the_process(tmp_path):
    options = ExchangeOptions(
        seed=3,
        active=20,
        inactive=0,
        requests_per_minute=2,
        trading_requests_per_minute=1,
        latency=0.01,
        faults='[{"kind": "status", "status": 502, "path": "/v2/clock"}]',
    )
    with EmbeddedExchange(options) as exchange:
        opener = urllib.request.Request(exchange.url + "/v1/corporate-actions", headers=KEYS)
        with urllib.request.urlopen(opener, timeout=20) as response:
            assert response.headers["x-exchange-market"] == "synthetic/3/20+0"
        statuses = [get(exchange.url + PATH + "A")[0] for _ in range(2)]
        assert statuses == [200, 429]
        assert [get(exchange.url + "/v2/clock")[0] for _ in range(2)] == [502, 429]


def test_a_recording_is_served_and_known_by_name_without_starting(tmp_path):
    path = tmp_path / "bars.csv"
    path.write_text("symbol,date,open,high,low,close,volume\nA,2024-01-02,1,2,1,2,10\n")
    exchange = EmbeddedExchange(ExchangeOptions(recorded=path))
    name = exchange.market_id
    with exchange:
        status, body = get(exchange.url + PATH + "A")
        assert (status, json.loads(body)["bars"]["A"][0]["h"]) == (200, 2)
        assert exchange.market_id == name


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (ExchangeOptions(active=0), "active=0"),
        (ExchangeOptions(faults="nonsense"), "the faults 'nonsense' cannot be read"),
        (ExchangeOptions(latency=-1), "latency=-1"),
        (ExchangeOptions(recorded=Path("no-such.csv")), "no-such.csv"),
    ],
)
def test_an_exchange_that_does_not_start_says_why(options, reason):
    with pytest.raises(ExchangeError, match="did not start") as error:
        EmbeddedExchange(options).start()
    assert reason in str(error.value)
    assert "Traceback" not in str(error.value)


def test_the_process_ends_when_its_parent_is_killed():
    code = (
        "import time\n"
        "from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions\n"
        "exchange = EmbeddedExchange(ExchangeOptions(active=30, inactive=10)).start()\n"
        "print(exchange.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    until(lambda: gone(child))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_it_knows_no_keys_of_its_parent(monkeypatch):
    monkeypatch.setenv("ALPACA_SECRET_KEY", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with EmbeddedExchange(SMALL) as exchange:
        environment = Path(f"/proc/{exchange.pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"hush" not in environment


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_interrupted(sign):
    with subprocess.Popen(
        COMMAND, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        line = json.loads(process.stdout.readline())
        assert line["market"] == "synthetic/7/30+10"
        assert get(line["url"] + "/v2/clock")[0] == 200
        process.send_signal(sign)
        _, complaints = process.communicate(timeout=20)
    assert process.returncode == (0 if sign == signal.SIGINT else -signal.SIGTERM)
    assert complaints == b""


def test_a_port_that_is_taken_is_an_error_that_names_it():
    with ExchangeServer(frozen(SyntheticMarket(active=5, inactive=0))) as server:
        port = server.url.rpartition(":")[2]
        run = subprocess.run(
            [*COMMAND, f"--port={port}"], capture_output=True, text=True, timeout=20, check=False
        )
        assert run.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in run.stderr
        assert "Traceback" not in run.stderr
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            ExchangeServer(server.exchange, port=int(port)).__enter__()


def test_stopping_twice_or_before_starting_does_nothing():
    exchange = EmbeddedExchange(SMALL)
    exchange.stop()
    exchange.start()
    with pytest.raises(ExchangeError, match="running already"):
        exchange.start()
    pid = exchange.pid
    exchange.stop()
    exchange.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_importing_the_exchange_brings_neither_pyarrow_nor_dagster():
    code = (
        "import sys, datalake_assets.exchange.process\n"
        "print(sorted({'pyarrow', 'pandas', 'dagster', 'alpaca'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
