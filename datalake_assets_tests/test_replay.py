"""What benchmarks stand on: a replay answers as the exchange did, and lakes that differ are told.

Not here: what is measured with them.
"""

import shutil
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import urllib3

from benchmarks.compare_lakes import differences
from benchmarks.replay import Recording, Replay
from benchmarks.stages import Stages
from benchmarks.surroundings import client
from datalake_assets import market_calendar
from datalake_assets.collection.errors import RejectedSymbolError
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
from datalake_assets.lake import session_file
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Publication
from datalake_assets.sources import alpaca
from datalake_assets.sources.pages import decode
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.lake.files import collected

MARKET = ExchangeOptions(active=30, inactive=0)
SESSION = date(2024, 6, 3)
ASKED = (("AAPL", "MSFT", "SPY"), date(2024, 1, 2), SESSION)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the list of assets, some bars, a refusal and the years of a survey."""
    folder = tmp_path_factory.mktemp("replay") / "recording"
    with Replay(folder, record=MARKET, latency=0.0) as replay, client(replay.url) as source:
        source.assets()
        source.bars()(*ASKED, None)
        with pytest.raises(RejectedSymbolError):
            source.bars()(("no symbol",), SESSION, SESSION, None)
        source.years()(("AAPL",), 2020, market_calendar.today(datetime.now(UTC)).year, None)
    return folder


def test_a_replay_answers_as_the_exchange_did(recorded: Path) -> None:
    with (
        EmbeddedExchange(MARKET) as exchange,
        client(exchange.url) as there,
        Replay(recorded, latency=0.0) as replay,
        client(replay.url) as here,
    ):
        assert here.assets().equals(there.assets())
        assert here.bars()(*ASKED, None).bars.equals(there.bars()(*ASKED, None).bars)
        # Asked a moment later, the years end at another instant, and mean the same.
        asked = (("AAPL",), 2020, market_calendar.today(datetime.now(UTC)).year, None)
        assert here.years()(*asked) == there.years()(*asked)
        # Whatever it is asked with: that depends on when the program has learnt of such names.
        with pytest.raises(RejectedSymbolError):
            here.bars()(("AAPL", "no symbol"), SESSION, SESSION, None)
        told = replay.told()

    assert (len(told.arrivals), told.daily, told.unknown, told.refused) == (3, 2, 0, 0)


def test_what_was_not_recorded_is_refused_and_counted(recorded: Path) -> None:
    with Replay(recorded, latency=0.0) as replay:
        target = "/v2/stocks/bars?symbols=IBM&timeframe=1Day"
        answer = urllib3.request("GET", replay.url + target)
        told = replay.told()

    assert answer.status == 404
    assert "not recorded" in answer.json()["message"]
    assert told.unknown == 1
    assert told.examples == [target]


def test_a_replay_keeps_the_limit_and_tells_it(recorded: Path) -> None:
    with Replay(recorded, latency=0.0, per_minute=2) as replay:
        target = f"{replay.url}/v2/stocks/bars?symbols=IBM"
        answers = [urllib3.request("GET", target, retries=False) for _ in range(3)]
        told = replay.told()

    assert [answer.status for answer in answers] == [404, 404, 429]
    assert answers[2].headers["X-RateLimit-Limit"] == "2"
    assert answers[2].headers["X-RateLimit-Remaining"] == "0"
    assert (told.refused, told.fullest()) == (1, 3)


def test_a_recording_of_another_market_is_not_added_to(recorded: Path) -> None:
    with pytest.raises(ValueError, match="record into another folder"):
        Recording(recorded, ExchangeOptions(seed=8, active=30, inactive=0))


def test_a_folder_without_a_recording_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="holds no recording"), Replay(tmp_path / "none"):
        pass


def test_an_interrupted_recording_holds_whole_answers_only(tmp_path: Path) -> None:
    with_two = Recording(tmp_path, MARKET)
    with_two.keep(b"/one?", 200, b"first")
    with_two.keep(b"/two?", 400, b"second")
    with_two.close()
    index = tmp_path / "index"
    index.write_bytes(index.read_bytes()[:-2])  # as a kill leaves it

    found = Recording(tmp_path)

    assert len(found) == 1
    assert found.answer(b"/one?") == (200, b"first")
    assert found.answer(b"/two?") is None
    found.close()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two sessions, one of them published."""
    folder = tmp_path_factory.mktemp("lakes") / "one"
    with EmbeddedExchange(MARKET) as exchange, client(exchange.url) as source:
        names = tuple(source.assets()["symbol"].to_pylist()[:20])
        days = (SESSION, date(2024, 6, 4))
        held = LakeWriter(open_store(str(folder)))
        held.claim("exchange")
        run = Publication(dict.fromkeys(days, names), held, CollectionOptions(RateLimiter(1e9)))
        for outcome in run.run(source.bars(), Origin("exchange", listed=SESSION, run_id="test")):
            assert outcome.published, outcome.findings
    return folder


def test_copies_of_a_lake_are_equal_to_the_byte(lake: Path, tmp_path: Path) -> None:
    shutil.copytree(lake, tmp_path / "copy")
    stores = open_store(str(lake)), open_store(str(tmp_path / "copy"))

    assert list(differences(*stores, to_the_byte=True)) == []


def test_a_session_that_another_lake_lacks_is_told(lake: Path, tmp_path: Path) -> None:
    shutil.copytree(lake, tmp_path / "copy")
    key = layout.session_key(SESSION)
    (tmp_path / "copy" / key).unlink()
    found = list(differences(open_store(str(lake)), open_store(str(tmp_path / "copy"))))

    assert found == [f"{key} is only in {open_store(str(lake)).uri}"]


def test_other_bars_another_ledger_and_another_audit_are_told(lake: Path, tmp_path: Path) -> None:
    shutil.copytree(lake, tmp_path / "copy")
    one, other = (layout.session_key(day) for day in (SESSION, date(2024, 6, 4)))
    shutil.copy(lake / other, tmp_path / "copy" / one)
    found = list(differences(open_store(str(lake)), open_store(str(tmp_path / "copy"))))

    assert [each.partition(": ")[2].partition(":")[0] for each in found[:2]] == [
        "other bars",
        "another ledger",
    ]


def test_the_cpu_of_a_stage_is_counted_for_it() -> None:
    bar = b'{"c":1.5,"h":2,"l":1,"n":3,"o":1.25,"t":"2024-06-03T04:00:00Z","v":100,"vw":1.4}'
    page = b'{"bars":{"A":[' + bar + b']},"next_page_token":null}'
    decode(page)  # the first one imports what it needs
    with Stages() as stages:
        began = time.thread_time()
        for _ in range(100):
            alpaca.decode(page)
        used = time.thread_time() - began

    assert 0 < stages.seconds["decoding, in Python"] < used
    assert alpaca.decode is decode  # it is not counted any more


def test_what_is_a_stage_of_its_own_counts_for_no_other() -> None:
    session = collected(SESSION, every(["A", "B"], [SESSION]))
    with Stages() as stages:
        began = time.thread_time()
        for _ in range(50):
            session_file.encode(session, [])
        used = time.thread_time() - began

    digest, file = (
        stages.seconds[f"session file: {part}"] for part in ("digest of one", "Parquet and JSON")
    )
    assert 0 < digest < used
    assert 0 < file < used
    assert digest + file < used
