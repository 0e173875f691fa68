"""The Lambda function: its events, its answers, its deadlines, and what it needs not have.

The handler is the real one, and asks an exchange on loopback. Not here: how Dagster invokes it
(`automation.test_lambda_session`).
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import lambda_handler as module
from datalake_assets.collection.audit import RULES, Thresholds
from datalake_assets.collection.dataset import DAILY, EXTENDED_MINUTE, MINUTE, Dataset
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import State
from datalake_assets.collection.universe import askable
from datalake_assets.exchange.faults import Arrival, Fault, FaultScript, Rule
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.writer import LakeWriter, StoredSession
from datalake_assets.lambda_handler import (
    RESERVE,
    EventError,
    Request,
    SymbolRange,
    _brief,
    _served,
    lambda_handler,
    workers,
)
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Publication
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import every, names
from datalake_assets_tests.exchange.calling import keys_to
from datalake_assets_tests.fakes import FakeClock, ScriptedSource
from datalake_assets_tests.lambda_api import Context
from datalake_assets_tests.seaweedfs import BUCKET, S3Server

ROOT = Path(__file__).parents[1]
DAY = date(2024, 7, 3)
EVENT = {"session": "2024-07-03"}
SECRET = "not-to-be-shown"


@dataclass
class World:
    """An exchange, and the lake that the function fills from it."""

    exchange: Exchange
    folder: Path
    temporary: Path

    @property
    def lake(self) -> LakeWriter:
        return LakeWriter(open_store(str(self.folder)))

    def asked(self) -> list[int]:
        """For each request for bars, how many symbols it named; and forget them."""
        counts = [r.symbols for r in self.exchange.requests if r.path == "/v2/stocks/bars"]
        self.exchange.requests.clear()
        return counts


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(SyntheticMarket(7, 240, 60))) as server:
        yield server


@pytest.fixture
def world(
    server: ExchangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    own = {"ALPACA_SECRET_KEY": SECRET, "DATALAKE_URI": str(tmp_path / "lake")}
    environ = keys_to(server.url, **own)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    server.exchange.requests.clear()
    yield World(server.exchange, tmp_path / "lake", temporary)
    server.exchange.faults = None
    server.exchange.latency = 0.0


def invoke(
    event: object, seconds: float = 900.0, memory: int | str = 1024
) -> tuple[int, dict[str, Any]]:
    """The status and the body of the function's answer."""
    answer = lambda_handler(event, Context(seconds, memory))
    assert set(answer) == {"statusCode", "body"}
    assert SECRET not in answer["body"]
    return answer["statusCode"], json.loads(answer["body"])


def listed(world: World) -> int:
    """How many tickers are on the list of assets, which grows and shrinks from day to day."""
    found = world.lake.universe()
    assert found is not None
    return sum(map(askable, set(found[1]["symbol"].to_pylist())))


# --- answers --------------------------------------------------------------------------------------


def test_a_session_is_collected_published_and_told(world: World) -> None:
    status, body = invoke(EVENT)

    stored = world.lake.read(DAY)
    assert status == 200
    assert (body["session"], body["published"]) == ("2024-07-03", True)
    assert body["object"].endswith(f"/lake/{layout.session_key(DAY)}")
    assert body["file_size_bytes"] == world.lake.store.size(layout.session_key(DAY))
    assert body["counts"] == {state.value: stored.ledger.counts[state] for state in State}
    assert body["counts"]["present"] == stored.bars.num_rows > 200
    assert body["asked"] == sum(body["counts"].values()) == listed(world) > 250
    assert body["requested"] == listed(world) - body["counts"]["rejected"]
    assert body["success_rate"] == 1.0
    assert [finding["rule"] for finding in body["audit"]] == list(RULES)
    assert {finding["verdict"] for finding in body["audit"]} == {"pass"}
    assert body["statistics"]["requests"] == len(world.asked()) > 0
    assert body["failures"] == {}
    assert world.lake.source() == stored.provenance.source


def test_the_run_is_remembered_by_the_id_of_the_invocation(world: World) -> None:
    context = Context()

    lambda_handler(EVENT, context)

    assert world.lake.read(DAY).provenance.run_id == context.aws_request_id


def test_a_session_that_is_published_whole_costs_no_request_for_bars(world: World) -> None:
    invoke(EVENT)
    before = world.lake.store.get(layout.session_key(DAY))
    world.asked()

    status, body = invoke(EVENT)

    assert (status, body["published"], body["asked"], body["object"]) == (200, True, 0, None)
    assert world.exchange.requests == []
    assert world.lake.store.get(layout.session_key(DAY)) == before


def test_failures_are_told_and_repaired_by_the_same_event(world: World) -> None:
    symbols = ["AAPL", "MSFT", "SPY"]
    held_back = Fault(kind="status", status=404)
    world.exchange.faults = FaultScript([Rule(held_back, times=None, path="/v2/stocks/bars")])
    event = EVENT | {"symbols": symbols}

    status, body = invoke(event)
    assert (status, body["published"]) == (207, False)
    assert sorted(body["failures"]) == symbols
    assert all("404" in error for error in body["failures"].values())
    assert body["counts"]["failed"] == 3
    assert body["object"].endswith(layout.incomplete_key(DAY))
    assert (world.lake.sessions(), world.lake.incomplete()) == ([], [DAY])

    world.exchange.faults = None
    status, body = invoke(event)
    assert (status, body["failures"]) == (200, {})
    assert (world.lake.sessions(), world.lake.incomplete()) == ([DAY], [])
    assert world.lake.read(DAY).ledger.symbols == set(symbols)


def test_the_symbols_of_the_event_come_before_those_of_the_settings(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_SYMBOLS", "SPY,MSFT")
    invoke(EVENT)
    assert world.lake.read(DAY).ledger.symbols == {"SPY", "MSFT"}

    invoke({"session": "2024-07-05", "symbols": ["aapl"]})
    assert world.lake.read(date(2024, 7, 5)).ledger.symbols == {"AAPL"}


@pytest.mark.parametrize("published", [True, False])
def test_a_session_that_began_with_a_few_symbols_is_collected_whole_when_all_are_asked_for(
    world: World, published: bool
) -> None:
    if not published:
        refused = Rule(Fault(kind="status", status=404), times=None, path="/v2/stocks/bars")
        world.exchange.faults = FaultScript([refused])
    assert invoke(EVENT | {"symbols": ["AAPL"]})[1]["published"] is published
    world.exchange.faults = None

    _, body = invoke(EVENT)

    assert body["published"]
    assert len(world.lake.read(DAY).ledger.symbols) == body["asked"] > 200
    assert invoke(EVENT)[1]["asked"] == 0


def test_a_few_symbols_do_not_replace_a_session_of_many(world: World) -> None:
    invoke(EVENT)
    present = world.lake.read(DAY).ledger.present
    held = world.lake.store.get(layout.session_key(DAY))
    world.asked()

    told = refused(EVENT | {"symbols": [present[0], "XYZZY"]})

    assert told.startswith(f"{DAY} has bars of {len(present)} symbols in the lake")
    assert world.asked() == []
    assert world.lake.store.get(layout.session_key(DAY)) == held


def test_the_thresholds_of_the_event_decide_what_is_published(world: World) -> None:
    world.exchange.faults = FaultScript(
        [Rule(Fault(kind="status", status=404), times=None, path="/v2/stocks/bars")]
    )
    event = EVENT | {"symbols": ["AAPL", "MSFT"]}

    assert invoke(event)[0] == 207
    status, body = invoke(event | {"thresholds": {"success_rate": 0, "row_ratio": 0.0}})

    assert (status, body["counts"]["failed"]) == (200, 2)
    assert world.lake.sessions() == [DAY]


def test_newest_is_the_newest_session_that_can_be_had(world: World) -> None:
    status, body = invoke({"session": "newest"})

    assert status == 200
    assert world.lake.sessions() == [date.fromisoformat(body["session"])]


@pytest.mark.parametrize(
    ("now", "session"),
    [
        ("2024-07-03T17:15:59", "2024-07-02"),  # a half day closes at 17:00 UTC
        ("2024-07-03T17:16:00", "2024-07-03"),
        ("2024-07-04T23:59:59", "2024-07-03"),
        ("2024-07-05T20:15:59", "2024-07-03"),
        ("2024-07-05T20:16:00", "2024-07-05"),
        ("2024-07-08T12:00:00", "2024-07-05"),
    ],
)
def test_newest_waits_until_the_bars_are_served(now: str, session: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)

    assert Request.of({"session": "newest"}, moment).session == date.fromisoformat(session)


@pytest.mark.s3
def test_a_session_goes_to_s3(
    world: World, s3_lake_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_URI", s3_lake_uri)

    status, body = invoke(EVENT)

    assert (status, body["object"]) == (200, f"{s3_lake_uri}/{layout.session_key(DAY)}")
    stored = LakeWriter(open_store(s3_lake_uri)).read(DAY)
    assert stored.bars.num_rows == body["counts"]["present"]
    assert not world.folder.exists()


def test_a_lake_that_is_slow_to_read_takes_nothing_of_the_reserve(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the ten seconds for asking, reading what stands there takes all."""
    context = Context(RESERVE + 10)
    stored = LakeWriter.stored

    def slow(lake: LakeWriter, day: date) -> StoredSession | None:
        context.seconds -= 10
        return stored(lake, day)

    monkeypatch.setattr(LakeWriter, "stored", slow)

    answer = lambda_handler(EVENT, context)

    body = json.loads(answer["body"])
    assert (answer["statusCode"], body["counts"]["pending"]) == (207, listed(world))
    assert world.asked() == []


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "threads"),
    [
        (1, 1),
        (127, 1),
        (128, 1),
        (255, 1),
        (256, 2),
        (1023, 7),
        (1024, 8),
        (1025, 8),
        (6399, 49),
        (6400, 50),
        (6401, 50),
        (10_240, 50),
    ],
)
def test_there_is_a_thread_for_each_128_megabytes_from_one_to_fifty(
    memory: int, threads: int
) -> None:
    assert workers(memory) == threads


def test_as_many_requests_are_under_way_as_the_memory_allows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CollectionOptions", narrow)
    under_way = []

    def watch(arrival: Arrival) -> None:
        under_way.append(sum(not request.status for request in world.exchange.requests))

    world.exchange.faults = watch
    world.exchange.latency = 0.05
    assert invoke(EVENT, memory="384")[0] == 200
    assert max(under_way) == 3


# --- bad events -----------------------------------------------------------------------------------

MORNING = datetime(2024, 7, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (None, "the event must be an object, not NoneType"),
        ([EVENT], "the event must be an object, not list"),
        ("2024-07-03", "the event must be an object, not str"),
        ({}, "`session` must be a trading session like 2026-11-20, or 'newest', not None"),
        ({"session": 20240703}, "not 20240703"),
        ({"session": ["2024-07-03"]}, "not ['2024-07-03']"),
        ({"session": ""}, "not ''"),
        ({"session": "20240703"}, "not '20240703'"),
        ({"session": "2024-W27-3"}, "not '2024-W27-3'"),
        ({"session": "2024-02-30"}, "not '2024-02-30'"),
        ({"session": "../2024-07-03"}, "not '../2024-07-03'"),
        ({"session": "2024-07-04"}, "2024-07-04 is a holiday"),
        ({"session": "2024-07-06"}, "2024-07-06 is a Saturday"),
        ({"session": "1815-06-18"}, "outside the XNYS calendar"),
        ({"session": "2024-07-05"}, "the bars of 2024-07-05 are served from 20:16 UTC"),
        (EVENT | {"sesion": 1, "a": 2}, "unknown: a, sesion; an event has session, symbols"),
        ({1: 2} | EVENT, "unknown: 1;"),
        (EVENT | {"symbols": "AAPL"}, "`symbols` must be a list"),
        (EVENT | {"symbols": []}, "`symbols` must be a list"),
        (EVENT | {"symbols": ["AAPL", 7]}, "`symbols` must be a list"),
        (EVENT | {"symbols": ["AAPL,MSFT"]}, "`symbols` must be tickers"),
        (EVENT | {"symbols": ["@/etc/passwd"]}, "`symbols` must be tickers"),
        (EVENT | {"symbols": ["../AAPL"]}, "not valid: '../AAPL'"),
        (EVENT | {"symbols": ["AAPL#", "MSFT"]}, "not valid: 'AAPL#'"),
        (EVENT | {"symbols": [""]}, "at least one symbol"),
        (EVENT | {"thresholds": 0.9}, "of daily bars must be an object of success_rate, coverage"),
        (EVENT | {"thresholds": {"succes_rate": 0.9}}, "of daily bars must be an object of"),
        (EVENT | {"thresholds": {"contradicted": 0.1}}, "of daily bars must be an object of"),
        (
            EVENT | {"dataset": "minute", "thresholds": {"contradicted": 1.1}},
            "`thresholds.contradicted` must be a number from 0 to 1, not 1.1",
        ),
        (
            EVENT | {"dataset": "minute", "thresholds": {"a": 1}},
            "of minute bars must be an object of success_rate, coverage",
        ),
        (EVENT | {"thresholds": {"coverage": "0.9"}}, "`thresholds.coverage` must be a number"),
        (EVENT | {"thresholds": {"coverage": True}}, "`thresholds.coverage` must be a number"),
        (EVENT | {"thresholds": {"coverage": -0.01}}, "must be a number from 0 to 1, not -0.01"),
        (EVENT | {"thresholds": {"coverage": 1.01}}, "must be a number from 0 to 1, not 1.01"),
        (EVENT | {"thresholds": {"silent_allowed": -1}}, "a whole number from 0, not -1"),
        (EVENT | {"thresholds": {"silent_allowed": 1.5}}, "a whole number from 0, not 1.5"),
        (EVENT | {"thresholds": {"invalid_bars_allowed": True}}, "a whole number from 0, not True"),
        (EVENT | {"thresholds": {"coverage": float("nan")}}, "from 0 to 1, not nan"),
        (EVENT | {"dataset": "minutes"}, "`dataset` must be daily or minute, not 'minutes'"),
        (EVENT | {"dataset": 1}, "`dataset` must be daily or minute, not 1"),
        (EVENT | {"symbols_from": 1}, "`symbols_from` must be a ticker or its beginning"),
        (EVENT | {"symbols_to": ""}, "`symbols_to` must be a ticker or its beginning"),
        (EVENT | {"symbols_from": "C", "symbols_to": "B"}, "B is before C"),
    ],
)
def test_a_bad_event_is_told_what_is_legal(event: object, told: str) -> None:
    with pytest.raises(EventError) as raised:
        Request.of(event, MORNING)

    assert told in str(raised.value)


def test_a_good_event_is_read_as_it_stands() -> None:
    found = Request.of(
        EVENT | {"symbols": ["AAPL", "brk.b"], "thresholds": {"coverage": 0, "row_ratio": 1}},
        MORNING,
    )

    assert (found.session, found.symbols) == (DAY, ("AAPL", "BRK.B"))
    assert found.thresholds == {"coverage": 0, "row_ratio": 1}
    assert (found.dataset, found.part, found.newest) == ("daily", None, False)


def test_a_range_of_an_event_has_both_of_its_ends() -> None:
    found = Request.of(MINUTES | {"symbols_from": "b", "symbols_to": "D"}, MORNING)

    assert (found.dataset, found.part) == ("minute", SymbolRange("B", "D"))
    inside = [s for s in ("AZ", "B", "BRK.B", "CZ", "D", "DA") if s in SymbolRange("B", "D")]
    assert inside == ["B", "BRK.B", "CZ", "D"]
    assert "A" in SymbolRange(None, "A")
    assert "Z" in SymbolRange("Z", None)


def test_a_bad_event_is_a_400_before_any_work(world: World) -> None:
    status, body = invoke({"session": "2024-07-04"})

    assert status == 400
    assert set(body) == {"error"}
    assert not world.folder.exists()
    assert world.exchange.requests == []


# --- nothing could be done ------------------------------------------------------------------------


def refused(event: object = EVENT, seconds: float = 900.0) -> str:
    """The error of an answer 500, which names the session and no secret."""
    status, body = invoke(event, seconds)
    assert status == 500
    assert body["session"] == "2024-07-03"
    return str(body["error"])


def test_without_keys_it_says_which_are_missing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "SECRET_KEY", "DATA_URL", "TRADING_URL"):
        monkeypatch.delenv(f"ALPACA_{name}")
    assert "ALPACA_API_KEY and ALPACA_SECRET_KEY are not set" in refused()

    monkeypatch.setenv("ALPACA_SECRET_KEY", SECRET)
    assert "ALPACA_API_KEY is not set, but ALPACA_SECRET_KEY is" in refused()
    assert not world.folder.exists()


def test_keys_that_are_not_accepted_are_told_so(world: World) -> None:
    world.exchange.faults = FaultScript([Rule(Fault(kind="status", status=401), times=None)])

    assert "does not accept ALPACA_API_KEY and ALPACA_SECRET_KEY: check both" in refused()
    assert world.lake.sessions() == world.lake.incomplete() == []


def test_the_lake_of_another_source_is_left_alone(world: World) -> None:
    world.lake.claim("embedded exchange: another")
    before = list(world.lake.store.list(""))

    assert "embedded exchange: another" in refused()
    assert list(world.lake.store.list("")) == before
    assert world.exchange.requests == []


@pytest.mark.s3
def test_a_bucket_that_it_may_not_write_to_is_named_with_what_to_allow(
    world: World, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.environ(seaweedfs.reader).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATALAKE_URI", f"s3://{BUCKET}/lambda")

    told = refused()
    assert f"can't create s3://{BUCKET}/lambda/_lake.json" in told
    assert "allow this key s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject" in told
    assert seaweedfs.reader[1] not in told
    assert world.exchange.requests == []


@pytest.mark.parametrize(("seconds", "status"), [(59, 500), (60, 500), (900, 200)])
def test_a_function_without_time_is_told_to_have_a_longer_timeout(
    world: World, seconds: float, status: int
) -> None:
    found, body = invoke(EVENT, seconds)

    assert found == status
    assert ("Give the function a longer timeout" in body.get("error", "")) is (status == 500)
    assert bool(world.exchange.requests) is (status == 200)


def test_a_defect_is_not_dressed_up_as_an_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        memory_limit_in_mb = "much"
        aws_request_id = "id"

        def get_remaining_time_in_millis(self) -> int:
            return 900_000

    with pytest.raises(ValueError, match="much"):
        lambda_handler(EVENT, Broken())


# --- deadlines ------------------------------------------------------------------------------------


def test_invoked_until_it_is_done_a_slow_session_ends_as_an_undisturbed_one(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One thread, ten requests, of which a second is enough for three.
    monkeypatch.setattr(module, "CollectionOptions", narrow)
    symbols = sorted(r["symbol"] for r in world.exchange.market.assets() if r["status"] == "active")
    event = EVENT | {"symbols": [s for s in symbols if s.isalpha() and len(s) < 5][:60]}
    world.exchange.latency = 0.3
    pending, answers = [], []
    for _ in range(20):
        budget = RESERVE + 1.0
        began = time.monotonic()
        answers.append(invoke(event, budget, memory=128))
        assert time.monotonic() - began < budget
        pending.append(answers[-1][1]["counts"]["pending"])
        if answers[-1][0] == 200:
            break
    assert len(answers) >= 2
    assert [status for status, _ in answers] == [207] * (len(answers) - 1) + [200]
    assert pending == sorted(set(pending), reverse=True), "each invocation brought something"
    assert sum(body["asked"] for _, body in answers) >= 60
    assert sum(world.asked()) == 60, "no symbol was asked for twice"

    world.exchange.latency = 0.0
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path / "undisturbed"))
    assert invoke(event)[0] == 200
    undisturbed = LakeWriter(open_store(str(tmp_path / "undisturbed"))).read(DAY)
    kept = world.lake.read(DAY)
    assert kept.bars.equals(undisturbed.bars)
    assert kept.ledger == undisturbed.ledger
    assert world.lake.incomplete() == []


def narrow(**given: Any) -> CollectionOptions:
    """As the function collects, but six symbols a request."""
    return CollectionOptions(**given, packing=Packing(symbols=6))


SYMBOLS = names(40)


@given(
    st.lists(st.floats(0.0, 12.0, allow_subnormal=False), max_size=12),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 40),
)
@settings(max_examples=60)
def test_any_sequence_of_deadlines_ends_in_the_same_session(
    budgets: list[float], width: int, threads: int, silent: int
) -> None:
    source = ScriptedSource(every(SYMBOLS[silent:], [DAY]))
    lake, clean, clock = memory_lake(), memory_lake(), FakeClock()
    collect_within(None, clean, source, clock, width, threads)
    source.requests.clear()

    for seconds in (*budgets, None):
        published = collect_within(seconds, lake, source, clock, width, threads)
        if (found := lake.stored(DAY)) is None:
            continue
        held, true = found.session.ledger, clean.read(DAY).ledger
        assert held.symbols == true.symbols
        assert set(held.present) <= set(true.present)
        assert set(held.no_print) <= set(true.no_print)
        # One of so many may be missing.
        assert published is (len(held.pending) <= Thresholds().unanswered_allowed)
    assert lake.incomplete() == []
    assert lake.read(DAY).bars.equals(clean.read(DAY).bars)
    assert lake.read(DAY).ledger == clean.read(DAY).ledger
    asked = [symbol for request in source.requests for symbol in request.symbols]
    assert sorted(asked) == sorted(SYMBOLS), "each was asked for once"


def memory_lake() -> LakeWriter:
    lake = LakeWriter(open_store("memory://"))
    lake.claim("test")
    return lake


def collect_within(
    seconds: float | None,
    lake: LakeWriter,
    source: ScriptedSource,
    clock: FakeClock,
    width: int,
    threads: int,
) -> bool:
    """One invocation, as the function makes it: a request each second, until the time is up."""
    options = CollectionOptions(
        RateLimiter(60, slack=0, clock=clock),
        packing=Packing(symbols=width),
        workers=threads,
        seconds=seconds,
    )
    publication = Publication({DAY: SYMBOLS}, lake, options, repair=True)
    (outcome,) = publication.run(source, Origin("test", DAY, "id"), clock=clock)
    return outcome.published


# --- what Dagster is told -------------------------------------------------------------------------

texts = st.text(max_size=3000)


@given(st.dictionaries(texts, texts, max_size=100), texts, st.integers(0, 7))
@settings(max_examples=40)
def test_whatever_failed_the_answer_for_dagster_is_short(
    failures: dict[str, str], detail: str, broken: int
) -> None:
    audit = [
        {
            "rule": rule,
            "verdict": "fail" if number < broken else "pass",
            "value": 1 / 3,
            "threshold": 0.99,
            "detail": detail,
            "offenders": [detail] * 50,
        }
        for number, rule in enumerate(RULES)
    ]
    told = {"session": "2024-07-03", "audit": audit, "failures": failures}

    brief = _brief(207, told)

    assert len(json.dumps(brief)) <= 3000
    assert (brief["status"], brief["session"]) == (207, "2024-07-03")
    assert [finding["rule"] for finding in brief["audit"]] == list(RULES)
    assert all(
        failures[symbol].startswith(error[:-1]) for symbol, error in brief["failures"].items()
    )
    assert len(json.dumps(_brief(500, {"error": detail}))) <= 3000


# --- what it leaves behind, and what it needs not have --------------------------------------------


def test_it_writes_nothing_to_tmp_but_the_rate_limits(world: World) -> None:
    invoke(EVENT)

    files = [path for path in world.temporary.rglob("*") if path.is_file()]
    assert len(files) == 2, "of the data and the trading API"
    assert {path.parent.name for path in files} == {f"datalake-limits-{os.getuid()}"}
    assert sum(path.stat().st_size for path in files) <= 2 * 24


WITHOUT_DAGSTER = """
import json, sys
from datalake_assets.lambda_handler import lambda_handler

class Context:
    memory_limit_in_mb = "512"
    aws_request_id = "id"
    def get_remaining_time_in_millis(self):
        return 900_000

answer = lambda_handler({"session": "2024-07-03"}, Context())
loaded = [m for m in sys.modules if m.split(".")[0] in ("dagster", "dagster_aws", "dagster_pipes")]
json.dump({"status": answer["statusCode"], "loaded": loaded}, sys.stdout)
"""


def test_it_collects_without_dagster(world: World) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_DAGSTER],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "TMPDIR": str(world.temporary)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"status": 200, "loaded": []}
    assert world.lake.sessions() == [DAY]


# --- ranges of symbols ----------------------------------------------------------------------------

MINUTES = EVENT | {"dataset": "minute"}
RANGES = (("A", "FZZZZZ"), ("G", "OZZZZZ"), ("P", None))


def of_range(first: str | None, last: str | None, **more: Any) -> dict[str, Any]:
    bounds = {"symbols_from": first, "symbols_to": last}
    return MINUTES | {name: bound for name, bound in bounds.items() if bound} | more


@pytest.fixture
def minutes(world: World, monkeypatch: pytest.MonkeyPatch) -> LakeWriter:
    """A lake with the daily bars of the session, and minute bars turned on."""
    monkeypatch.setenv("DATALAKE_MINUTES", "regular")
    assert invoke(EVENT)[0] == 200
    world.exchange.requests.clear()
    return world.lake.of(MINUTE)


def equal_to_one_collected_at_once(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Are the bars and the ledger those of a session that one invocation collected?"""
    folder = tmp_path / "at once"
    monkeypatch.setenv("DATALAKE_URI", str(folder))
    assert invoke(EVENT)[0] == invoke(MINUTES)[0] == 200
    other = LakeWriter(open_store(str(folder)), dataset=MINUTE).read(DAY)
    return session.bars.equals(other.bars) and session.ledger == other.ledger


def test_minutes_of_a_session_are_collected_published_and_told(minutes: LakeWriter) -> None:
    status, body = invoke(MINUTES)

    assert (status, body["published"], body["dataset"]) == (200, True, "minute")
    assert body["object"].endswith(f"/lake/{layout.session_key(DAY, layout.MINUTE)}")
    stored = minutes.read(DAY)
    assert stored.bars.num_rows > 10 * body["counts"]["present"] > 1_000
    assert "range" not in body
    assert invoke(MINUTES)[1]["asked"] == 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[::2])
def test_ranges_one_after_another_end_as_the_session_that_is_collected_at_once(
    minutes: LakeWriter, order: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *first, last = [of_range(*RANGES[number]) for number in order]
    for event in first:
        status, body = invoke(event)
        assert (status, body["published"], body["range"]["missing"]) == (207, False, 0)
        assert body["counts"]["pending"] > 0
        assert (minutes.sessions(), minutes.incomplete()) == ([], [DAY]), "never half of it"

    status, body = invoke(last)

    assert (status, body["counts"]["pending"], body["counts"]["failed"]) == (200, 0, 0)
    assert (minutes.sessions(), minutes.incomplete()) == ([DAY], [])
    assert equal_to_one_collected_at_once(minutes.read(DAY), tmp_path, monkeypatch)


def test_a_range_that_is_asked_for_again_takes_no_request(
    world: World, minutes: LakeWriter
) -> None:
    invoke(of_range(*RANGES[0]))
    world.asked()

    status, body = invoke(of_range(*RANGES[0]))

    assert (status, body["asked"], world.asked()) == (207, 0, [])
    for each in RANGES[1:]:
        invoke(of_range(*each))
    assert minutes.sessions() == [DAY]
    world.asked()
    assert (invoke(of_range(*RANGES[0]))[0], world.asked()) == (200, [])


def test_no_threshold_publishes_a_session_of_which_a_range_is_pending(
    minutes: LakeWriter,
) -> None:
    anything = {"success_rate": 0, "coverage": 0, "row_ratio": 0, "invalid_bars": 1}

    status, body = invoke(of_range(*RANGES[0], thresholds=anything))

    assert (status, minutes.sessions()) == (207, [])
    (told,) = (each for each in body["audit"] if each["rule"] == "success_rate")
    assert told["verdict"] == "fail"
    assert "symbols to be collected yet, such as G" in told["detail"]


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_ranges_side_by_side_of_which_one_fails_and_is_repeated_end_as_one_whole_session(
    world: World,
    minutes: LakeWriter,
    broken: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = Fault(kind="status", status=404)
    symbols = sorted(minutes.of(DAILY).read(DAY).ledger.symbols)
    victim = next(each for each in symbols if each in SymbolRange(*RANGES[broken]))
    world.exchange.faults = FaultScript([Rule(refused, times=None, symbol=victim)])

    with ThreadPoolExecutor(len(RANGES)) as threads:
        answers = list(threads.map(invoke, [of_range(*each) for each in RANGES]))

    missing = [body["range"]["missing"] for _, body in answers]
    assert missing[broken] == 1
    assert sum(missing) == 1, "the answers of the others are not lost"
    if published := minutes.sessions():  # one symbol of all is within the audit's threshold
        assert not minutes.read(DAY).ledger.pending, published

    world.exchange.faults = None
    status, body = invoke(of_range(*RANGES[broken]))

    assert (status, body["range"]["missing"]) == (200, 0)
    assert (minutes.sessions(), minutes.incomplete()) == ([DAY], [])
    assert equal_to_one_collected_at_once(minutes.read(DAY), tmp_path, monkeypatch)


def test_many_ranges_side_by_side_lose_nothing_of_each_other(minutes: LakeWriter) -> None:
    """Eight write the first part at the same time; each of them but one has to do so again."""
    letters = ["", *"CFILORU"]
    ranges = [
        (first or None, f"{chr(ord(after) - 1)}ZZZZZ" if after else None)
        for first, after in zip(letters, [*letters[1:], ""], strict=True)
    ]

    with ThreadPoolExecutor(len(ranges)) as threads:
        answers = list(threads.map(invoke, [of_range(*each) for each in ranges]))

    assert {status for status, _ in answers} <= {200, 207}
    assert sum(body["range"]["missing"] for _, body in answers) == 0
    assert (minutes.sessions(), minutes.incomplete()) == ([DAY], [])
    assert not minutes.read(DAY).ledger.missing


def test_a_range_out_of_time_is_finished_by_the_same_event(
    world: World, minutes: LakeWriter
) -> None:
    for each in RANGES[1:]:
        invoke(of_range(*each))
    world.exchange.latency = 0.4
    short, body = invoke(of_range(*RANGES[0]), seconds=RESERVE + 0.2, memory=128)
    assert (short, minutes.sessions()) == (207, [])
    assert body["range"]["missing"] > 0

    world.exchange.latency = 0.0
    assert invoke(of_range(*RANGES[0]))[0] == 200
    assert not minutes.read(DAY).ledger.missing


def test_ranges_of_daily_bars_end_as_one_session_too(world: World) -> None:
    daily = EVENT | {"symbols_to": "MZZZZZ"}
    assert invoke(daily)[0] == 207
    assert world.lake.sessions() == []

    assert invoke(EVENT | {"symbols_from": "N"})[0] == 200
    assert not world.lake.read(DAY).ledger.missing


def test_without_minute_bars_in_the_settings_it_says_what_to_set(world: World) -> None:
    assert invoke(MINUTES) == (
        400,
        {"error": "minute bars are off: set DATALAKE_MINUTES to regular or extended"},
    )


@pytest.mark.parametrize(
    ("now", "good"), [("2024-07-03T21:15:59", False), ("2024-07-03T21:16:00", True)]
)
def test_minutes_of_extended_hours_are_not_asked_for_before_they_are_served(
    now: str, good: bool
) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    request = Request.of(MINUTES, at)

    def served() -> tuple[Request, Dataset]:
        return _served(request, Settings.load({"DATALAKE_MINUTES": "extended"}), at)

    if good:
        assert served() == (request, EXTENDED_MINUTE)
    else:
        # A half day: extended hours end at 17:00 in New York.
        with pytest.raises(EventError, match="are served from 2024-07-03 21:16 UTC"):
            served()


@pytest.mark.parametrize(
    ("now", "minutes", "session"),
    [
        ("2024-07-03T17:15:59", "regular", "2024-07-02"),
        ("2024-07-03T17:16:00", "regular", "2024-07-03"),
        ("2024-07-03T21:15:59", "extended", "2024-07-02"),
        ("2024-07-03T21:16:00", "extended", "2024-07-03"),
    ],
)
def test_the_newest_minutes_are_those_of_the_last_session_whose_hours_are_served(
    now: str, minutes: str, session: str
) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    settings = Settings.load({"DATALAKE_MINUTES": minutes})

    request, _ = _served(Request.of(MINUTES | {"session": "newest"}, at), settings, at)

    assert str(request.session) == session


def test_the_thresholds_of_minute_bars_decide_what_is_published(
    world: World, minutes: LakeWriter
) -> None:
    # More was traded in the minutes than on the day: the daily bars contradict most symbols.
    daily = world.lake.read(DAY)
    position = daily.bars.schema.get_field_index("volume")
    half = pc.divide(daily.bars["volume"], 2)
    bars = daily.bars.set_column(position, daily.bars.schema.field("volume"), half)
    world.lake.store.delete(world.lake.session_key(DAY))
    world.lake.publish(replace(daily, bars=bars), [])

    status, body = invoke(MINUTES)
    (told,) = (each for each in body["audit"] if each["rule"] == "against_daily")
    assert (status, told["verdict"], minutes.sessions()) == (207, "fail", [])

    status, body = invoke(MINUTES | {"thresholds": {"contradicted": 1.0}})
    assert (status, minutes.sessions()) == (200, [DAY])


def test_a_whole_session_that_did_not_pass_is_mended_by_the_range_whose_bars_were_wrong(
    minutes: LakeWriter,
) -> None:
    assert invoke(MINUTES)[0] == 200
    right = minutes.read(DAY)
    wrong = pa.array(
        [symbol in SymbolRange(*RANGES[0]) for symbol in right.bars["symbol"].to_pylist()]
    )
    high = pc.if_else(wrong, pc.subtract(right.bars["low"], 1.0), right.bars["high"])
    position = right.bars.schema.get_field_index("high")
    bars = right.bars.set_column(position, right.bars.schema.field("high"), high)
    minutes.store.delete(minutes.session_key(DAY))
    minutes.keep_incomplete(replace(right, bars=bars), [])

    status, body = invoke(of_range(*RANGES[1]))
    assert (status, minutes.sessions()) == (207, [])
    assert 0 < body["asked"] < len(right.ledger.symbols)
    assert body["counts"] == {state.value: right.ledger.counts[state] for state in State}

    assert invoke(of_range(*RANGES[0]))[0] == 200
    assert minutes.read(DAY).bars.equals(right.bars)
    assert minutes.read(DAY).ledger == right.ledger
