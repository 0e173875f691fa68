"""A day on which the exchange stayed closed after all, from the first failure to a green lake.

Not here: what can be declared, and what the calendar answers then (`test_market_calendar`).
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from datalake_assets import market_calendar
from datalake_assets.definitions import build_definitions
from datalake_assets.exchange.process import ExchangeOptions, ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake import session_file
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.lake import Lake
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.world import World, utc
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.exchange.calling import call, keys_to
from datalake_assets_tests.lake.files import collected, session_bytes
from datalake_assets_tests.test_cli import invoke, plain

LATE = date(2024, 7, 3)
BEFORE, AFTER = date(2024, 7, 2), date(2024, 7, 5)


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    """An exchange that stayed closed on a day of which the program knows nothing."""
    with ExchangeServer(Exchange(SyntheticMarket(7, 40, 2), closures=[LATE])) as running:
        yield running


@pytest.fixture
def environ(
    server: ExchangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    found = keys_to(server.url, DATALAKE_START_DATE=str(BEFORE))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".datalake/dagster"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return found


def lake() -> Lake:
    return Lake(open_store(".datalake/lake"))


def test_a_session_without_a_bar_is_held_against_the_source_s_calendar_and_declared(
    environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = invoke("collect", "--from", str(BEFORE), "--to", str(AFTER))

    assert result.exit_code == 1
    told = plain(result.output)
    assert (
        f"no symbol has a bar, and the source's calendar has no session on {LATE}: the exchange "
        f"was closed. Declare it: DATALAKE_CLOSURES={LATE}"
    ) in told
    assert "--repair" not in told
    assert lake().sessions() == [BEFORE, AFTER]
    assert LakeFiles(lake().store).incomplete() == [], "there is nothing to repair"
    assert str(LATE) in json.dumps(json.loads(invoke("status", "--json").output)["gaps"])

    monkeypatch.setenv("DATALAKE_CLOSURES", str(LATE))
    assert json.loads(invoke("status", "--json").output)["gaps"][:1] != [
        {"from": str(LATE), "to": str(LATE), "sessions": 1}
    ]
    refused = invoke("collect", "--session", str(LATE))
    assert refused.exit_code == 2
    told = plain(refused.output)
    assert "it is not a trading session but a closure that DATALAKE_CLOSURES declares" in told
    assert "no trading session" in lake().explain("A", LATE)
    assert invoke("doctor").exit_code == 0


def test_partitions_and_sensors_follow_what_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        assets = build_definitions(Settings.load({})).resolve_asset_graph()
        partitions = assets.get(dg.AssetKey("daily_ticks")).partitions_def
        assert partitions is not None
        return [key for key in partitions.get_partition_keys() if key.startswith("2024-07-0")]

    assert str(LATE) in keys()
    environ = {"DATALAKE_START_DATE": str(BEFORE)}
    world = World(tmp_path / "before", utc("2024-07-05 23:00"), environ)
    days = [one.partition_key for one in world.tick("new_sessions")]
    assert days == [str(day) for day in (BEFORE, LATE, AFTER)]

    monkeypatch.setenv("DATALAKE_CLOSURES", str(LATE))
    assert str(LATE) not in keys()
    world = World(tmp_path / "after", utc("2024-07-05 23:00"), environ)
    days = [one.partition_key for one in world.tick("new_sessions")]
    assert days == [str(day) for day in (BEFORE, AFTER)]


def test_a_session_published_before_its_day_was_declared_stays_until_somebody_removes_it(
    environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("collect", "--session", str(BEFORE)).exit_code == 0
    held = lake()
    key = layout.session_key(LATE)
    session = collected(LATE, every("A", [LATE]))
    told = replace(session.provenance, source=str(held.source()))
    held.store.put(key, session_file.encode(replace(session, provenance=told), []))
    monkeypatch.setenv("DATALAKE_CLOSURES", str(LATE))

    assert lake().sessions() == [BEFORE, LATE]
    assert lake().session(LATE).bars.num_rows == 1
    assert invoke("status").exit_code == 0
    result = invoke("doctor")
    assert result.exit_code == 1
    assert f"{LATE} is no trading session" in plain(result.output)
    assert f"rm {held.store.url(key)}" in result.output
    assert invoke("publish", "--year", "2024").exit_code == 0, "it stays readable per symbol, too"
    held.store.delete(key)
    assert invoke("publish", "--year", "2024").exit_code == 0
    assert invoke("doctor").exit_code == 0


def test_what_waits_for_its_repair_on_a_declared_closure_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, utc("2024-08-05 23:00"))
    held = LakeFiles(open_store(world.lake.uri))
    held.store.put(layout.incomplete_key(LATE), session_bytes(LATE, every("A", [LATE])))
    monkeypatch.setenv("DATALAKE_CLOSURES", str(LATE))
    assert world.tick("repair") == []
    assert world.skipped == "no session is incomplete"


def test_the_exchange_that_stayed_closed_differs_in_that_day_alone() -> None:
    options = ExchangeOptions(active=5, inactive=0, closures=f"{LATE}")
    assert f"--closures={LATE}" in options.arguments()
    closed, usual = options.exchange(), Exchange(SyntheticMarket(7, 5, 0))
    span = {"start": "2024-07-01", "end": "2024-07-08"}
    few, all_ = (call(one, "/v2/calendar", **span).json() for one in (closed, usual))
    assert few == [day for day in all_ if day["date"] != str(LATE)]
    listed = [row["symbol"] for row in closed.market.assets() if row["status"] == "active"]
    asked = {"symbols": ",".join(listed), "timeframe": "1Day", **span}
    told = call(usual, "/v2/stocks/bars", **asked).json()["bars"]
    symbol = next(name for name, bars in told.items() if len(bars) == len(all_))
    asked["symbols"] = symbol
    few, all_ = (call(one, "/v2/stocks/bars", **asked).json()["bars"] for one in (closed, usual))
    assert few[symbol] == [bar for bar in all_[symbol] if not bar["t"].startswith(str(LATE))]
    assert len(few[symbol]) == len(all_[symbol]) - 1


def test_what_is_declared_changes_no_bar_of_the_embedded_market(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = SyntheticMarket(7, 5, 0).sessions
    monkeypatch.setenv("DATALAKE_CLOSURES", str(LATE))
    assert SyntheticMarket(7, 5, 0).sessions == before
    assert LATE not in market_calendar.sessions(LATE, LATE)
