"""Minute bars from the exchange into the lake: every minute of the market, whatever goes wrong, and
what the daily bars say against them is named.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.audit import Finding, Verdict, passed
from datalake_assets.collection.collect import Page
from datalake_assets.collection.dataset import DAILY, EXTENDED_MINUTE, MINUTE, Dataset
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import State
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.exchange.errata import Errata, Erratum
from datalake_assets.exchange.faults import RandomFaults, every_fault
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import minute_table
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.density import by_daily_bars, estimated
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Outcome, Publication
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.sources.transport import Timeouts
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.fakes import FakeClock

HALF_DAY = date(2024, 7, 3)
DAYS = [date(2024, 7, 2), HALF_DAY, date(2024, 7, 5)]
DAY = DAYS[0]
ACTIVE = 160


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(SyntheticMarket(active=ACTIVE, inactive=20))) as served:
        yield served


@pytest.fixture(scope="module")
def listed(server: ExchangeServer) -> tuple[str, ...]:
    """Symbols of the market that the exchange does not refuse."""
    refused = {"ZVZZTNX", "CONTRARX"}
    names = {row["symbol"] for row in server.exchange.market.assets(date(2024, 7, 5))} - refused
    return tuple(sorted(name for name in names if name.replace(".", "").isalpha()))


@contextmanager
def source(server: ExchangeServer) -> Iterator[AlpacaSource]:
    # Impatient where answers are late on purpose, and only there: the machine may be busy.
    patience = 30.0 if server.exchange.faults is None else 0.5
    asking = AlpacaSource(
        Account("key", "secret", data_url=server.url, trading_url=server.url),
        connections=4,
        timeouts=Timeouts(connect=5.0, read=patience, total=6 * patience),
    )
    try:
        yield asking
    finally:
        asking.close()


def collect(
    server: ExchangeServer,
    lake: LakeWriter,
    symbols: Sequence[str],
    days: Sequence[date] = DAYS,
    repair: bool = False,
    **given: Any,
) -> dict[date, Outcome]:
    """Collect the bars of the lake's dataset; the clock is fake, so that nobody waits."""
    clock = FakeClock()
    given = {"retry": RetryPolicy(attempts=2), "workers": 4, **given}
    options = CollectionOptions(RateLimiter(1e9, clock=clock), **given)
    expected = None if lake.dataset is DAILY else by_daily_bars(lake.of(DAILY), lake.dataset)
    wanted = dict.fromkeys(days, tuple(symbols))
    publication = Publication(wanted, lake, options, expected=expected, repair=repair)
    origin = Origin("test", listed=days[-1], run_id="run")
    with source(server) as alpaca:
        told = publication.run(alpaca.bars(lake.dataset), origin, clock=clock)
        return {outcome.ledger.session: outcome for outcome in told}


@pytest.fixture
def lake(server: ExchangeServer) -> LakeWriter:
    """A lake without a session."""
    server.exchange.faults = None
    made = LakeWriter(open_store("memory://"))
    made.claim("test")
    return made


@pytest.fixture
def daily(server: ExchangeServer, listed: tuple[str, ...], lake: LakeWriter) -> LakeWriter:
    """A lake with the daily bars of all sessions."""
    assert all(each.published for each in collect(server, lake, listed).values())
    return lake


def truth(
    server: ExchangeServer, symbols: Sequence[str], day: date, dataset: Dataset = MINUTE
) -> pa.Table:
    market = server.exchange.market
    return minute_table(market, symbols, day, extended=dataset is EXTENDED_MINUTE)


def findings(outcome: Outcome) -> Mapping[str, Finding]:
    return {finding.rule: finding for finding in outcome.findings}


@pytest.mark.parametrize("dataset", [MINUTE, EXTENDED_MINUTE], ids=["regular", "extended"])
def test_every_minute_of_the_market_is_in_the_lake_and_no_other(
    dataset: Dataset, server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    lake = daily.of(dataset)

    outcomes = collect(server, lake, listed)

    assert lake.sessions() == DAYS
    assert lake.incomplete() == []
    for day in DAYS:
        kept, true = lake.read(day), truth(server, listed, day, dataset)
        assert kept.bars.equals(true)
        assert outcomes[day].rows == kept.bars.num_rows
        assert list(kept.ledger.present) == sorted(set(true["symbol"].to_pylist()))
        assert set(kept.ledger.no_print) == set(listed).difference(kept.ledger.present)
        rows = pc.value_counts(kept.bars["symbol"]).to_pylist()
        assert lake.rows_of_symbols(day) == {row["values"]: row["counts"] for row in rows}
        (summary,) = lake.summaries([lake.session_key(day)])
        assert (summary.rows, summary.counts["present"]) == (  # type: ignore[union-attr]
            kept.bars.num_rows,
            len(kept.ledger.present),
        )


def test_half_days_end_at_their_close(
    server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    lake = daily.of(MINUTE)
    collect(server, lake, listed, DAYS[:2])

    for day, minutes in (DAY, 390), (HALF_DAY, 210):
        times = lake.read(day).bars["timestamp"]
        last = market_calendar.session_close(day) - timedelta(minutes=1)
        assert pc.min(times).as_py() == market_calendar.session_open(day)
        assert pc.max(times).as_py() == last
        assert max(lake.rows_of_symbols(day).values()) == minutes


def test_all_minutes_add_up_to_the_daily_bars(
    server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    collect(server, daily.of(EXTENDED_MINUTE), listed)
    collect_regular = LakeWriter(open_store("memory://"))
    collect_regular.claim("test")
    collect(server, collect_regular.of(MINUTE), listed)

    for day in DAYS:
        days = daily.read(day).bars
        every = daily.of(EXTENDED_MINUTE).read(day).bars
        sums = every.group_by("symbol").aggregate([("volume", "sum"), ("trade_count", "sum")])
        whole = {row["symbol"]: row for row in sums.to_pylist()}
        regular = collect_regular.of(MINUTE).read(day).bars
        prices = regular.group_by("symbol", use_threads=False).aggregate(
            [("open", "first"), ("high", "max"), ("low", "min"), ("close", "last")]
        )
        traded = {row["symbol"]: row for row in prices.to_pylist()}
        for bar in days.to_pylist():
            assert whole[bar["symbol"]]["volume_sum"] == bar["volume"]
            assert whole[bar["symbol"]]["trade_count_sum"] == bar["trade_count"]
            if found := traded.get(bar["symbol"]):
                assert (found["open_first"], found["high_max"]) == (bar["open"], bar["high"])
                assert (found["low_min"], found["close_last"]) == (bar["low"], bar["close"])


@pytest.mark.parametrize("seed", range(3))
def test_with_faults_on_a_third_of_all_requests_every_minute_is_right_or_told_to_be_missing(
    seed: int, server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    lake, true = daily.of(MINUTE), {day: truth(server, listed, day) for day in DAYS}
    server.exchange.requests.clear()
    server.exchange.faults = RandomFaults(0.3, seed, every_fault(seconds=1.0))

    for attempts in (1, *[4] * 10):
        retry = RetryPolicy(attempts=attempts, seconds=1e6)
        collect(
            server, lake, listed, repair=True, retry=retry, packing=Packing(bars=3_000, symbols=20)
        )
        for day in DAYS:
            stored = lake.stored(day)
            assert stored
            kept = stored.session
            assert kept.ledger.symbols == frozenset(listed)
            held = pa.array(kept.ledger.present, pa.string())
            assert kept.bars.equals(true[day].filter(pc.is_in(true[day]["symbol"], held)))
        if lake.sessions() == DAYS and not any(lake.read(day).ledger.missing for day in DAYS):
            break
    assert any(request.fault for request in server.exchange.requests)
    assert lake.incomplete() == []
    for day in DAYS:
        assert lake.read(day).bars.equals(true[day])


def test_collected_again_with_the_same_answers_the_session_is_left_as_it_is(
    server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    lake = daily.of(MINUTE)
    collect(server, lake, listed, [DAY])
    before = lake.store.get(lake.session_key(DAY))

    (again,) = collect(server, lake, listed, [DAY]).values()

    assert again.written
    assert again.written.unchanged
    assert lake.store.get(lake.session_key(DAY)) == before


def spoilt(*errata: Erratum) -> ExchangeServer:
    """An exchange whose bars have these mistakes."""
    market = SyntheticMarket(active=ACTIVE, inactive=20)
    return ExchangeServer(Exchange(market, errata=Errata(errata)))


def liquid(server: ExchangeServer, listed: Sequence[str], count: int) -> list[str]:
    """The symbols with the most trades."""
    bars = minute_table(server.exchange.market, listed, DAY)
    trades = bars.group_by("symbol").aggregate([("trade_count", "sum")])
    ordered = trades.sort_by([("trade_count_sum", "descending")])["symbol"].to_pylist()
    return list(ordered[:count])


@pytest.mark.parametrize(
    ("mistake", "rule", "told", "published"),
    [
        ("few_minutes", "complete_minutes", "about 390 expected", False),
        ("few_minutes", "against_daily", "missing minutes", False),
        ("cancelled_trade", "against_daily", "cancelled trade", True),
        # A late trade at the day's prices looks like an auction: both are in no minute.
        ("late_trade", "against_daily", "auction", True),
        ("stray_high", "against_daily", "late trade", True),
    ],
)
def test_a_disagreement_is_named_with_both_values_and_its_likely_reason(
    mistake: Any,
    rule: str,
    told: str,
    published: bool,
    server: ExchangeServer,
    listed: tuple[str, ...],
    lake: LakeWriter,
) -> None:
    (symbol,) = liquid(server, listed, 1)
    erratum = Erratum(mistake=mistake, symbol=symbol, day=DAY)
    with spoilt(erratum) as wrong:
        collect(wrong, lake, listed, [DAY])
        (outcome,) = collect(wrong, lake.of(MINUTE), listed, [DAY]).values()

    found = findings(outcome)[rule]
    (offender,) = found.offenders
    assert offender.startswith(f"{symbol}: ")
    assert told in offender
    assert outcome.published is published


def test_an_hour_missing_over_many_symbols_holds_the_session_back(
    server: ExchangeServer, listed: tuple[str, ...], lake: LakeWriter
) -> None:
    with spoilt(Erratum(mistake="missing_hour", symbol="*", day=DAY, hour=11)) as wrong:
        collect(wrong, lake, listed, [DAY])
        (outcome,) = collect(wrong, lake.of(MINUTE), listed, [DAY]).values()

    assert findings(outcome)["complete_minutes"].verdict is Verdict.FAIL
    assert "11:00 (New York)" in findings(outcome)["complete_minutes"].detail
    assert not outcome.published
    assert lake.of(MINUTE).sessions() == []
    assert lake.of(MINUTE).incomplete() == [DAY]


def test_a_session_that_was_held_back_is_published_by_its_repair_once_it_is_filled_in(
    server: ExchangeServer, listed: tuple[str, ...], lake: LakeWriter
) -> None:
    (symbol,) = liquid(server, listed, 1)
    minutes = lake.of(MINUTE)
    with spoilt(Erratum(mistake="few_minutes", symbol=symbol, day=DAY)) as wrong:
        collect(wrong, lake, listed, [DAY])
        collect(wrong, minutes, listed, [DAY])
    assert minutes.incomplete() == [DAY]

    (outcome,) = collect(server, minutes, listed, [DAY], repair=True).values()

    assert outcome.published
    assert passed(outcome.findings)
    assert minutes.incomplete() == []
    assert minutes.read(DAY).bars.equals(truth(server, listed, DAY))


def test_what_a_later_collection_changed_is_logged_minute_by_minute(
    server: ExchangeServer, listed: tuple[str, ...], lake: LakeWriter
) -> None:
    (symbol,) = liquid(server, listed, 1)
    minutes = lake.of(MINUTE)
    with spoilt(Erratum(mistake="cancelled_trade", symbol=symbol, day=DAY)) as wrong:
        collect(wrong, lake, listed, [DAY])
        collect(wrong, minutes, listed, [DAY])
        before = minutes.read(DAY).bars

    (outcome,) = collect(server, minutes, listed, [DAY]).values()

    log = Restatements(lake.store, MINUTE).of(DAY)
    assert outcome.written
    assert outcome.written.changed("restated") == log.num_rows == 1
    (row,) = log.to_pylist()
    now = minutes.read(DAY).bars
    (place,) = pc.indices_nonzero(pc.not_equal(before["volume"], now["volume"])).to_pylist()
    was = before.slice(place, 1).to_pylist()[0]
    assert (row["symbol"], row["old_timestamp"]) == (was["symbol"], was["timestamp"])
    assert row["symbol"] == symbol
    assert row["old_volume"] == was["volume"] > row["new_volume"]
    assert Restatements(lake.store).sessions() == [], "daily bars have a log of their own"


class _Noting(Store):
    """A store that notes of which files the end is read."""

    noted: list[str]

    def tail(self, key: str, length: int) -> bytes:
        self.noted.append(key)
        return super().tail(key, length)


def test_a_range_reads_the_footer_of_each_session_before_once(
    server: ExchangeServer, listed: tuple[str, ...], lake: LakeWriter
) -> None:
    before = market_calendar.previous_sessions(DAYS[1], 5)
    for dataset in (DAILY, MINUTE):
        collect(server, lake.of(dataset), listed[:20], [*before, *DAYS[1:]])
    minutes = lake.of(MINUTE)
    # Collected again: what stands there of these was not collected by this run.
    store: Any = minutes.store
    store.__class__, store.noted = _Noting, []

    outcomes = collect(server, minutes, listed[:20], DAYS[1:])

    assert all(findings(each)["complete_minutes"].value is not None for each in outcomes.values())
    assert store.noted == [minutes.session_key(day) for day in [*before, DAYS[1]]]


def test_pages_are_packed_by_the_trades_of_the_day(
    server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    planned = {}
    for known in (True, False):
        lake = daily.of(MINUTE)
        expected = by_daily_bars(daily, MINUTE) if known else None
        options = CollectionOptions(RateLimiter(1e9))
        wanted = dict.fromkeys(DAYS, listed)
        planned[known] = Publication(wanted, lake, options, expected=expected).plan
    bars = sum(truth(server, listed, day).num_rows for day in DAYS)

    assert planned[True].expected == pytest.approx(bars, rel=0.05)
    assert planned[True].requests < planned[False].requests
    assert all(len(chunk.sessions) == 1 for chunk in planned[False].chunks)
    for chunk in planned[False].chunks:
        assert chunk.bars == len(chunk.symbols) * MINUTE.bars(chunk.sessions[0]) < 10_000
    # A symbol that was never asked for its daily bar may have every minute.
    assert by_daily_bars(daily, MINUTE)([DAY])("NEVERASKED") == 390
    silent = next(iter(daily.read(DAY).ledger.no_print))
    assert by_daily_bars(daily, MINUTE)([DAY])(silent) == 0


def test_minutes_are_estimated_of_sessions_up_to_a_week_after_daily_bars(daily: LakeWriter) -> None:
    *_, fifth, sixth = days = market_calendar.sessions(DAYS[-1], date(2024, 7, 15))[:7]
    assert estimated(daily, days) == set(days) - {sixth}
    assert by_daily_bars(daily, MINUTE)([sixth])("NEVERASKED") == 390
    busiest = next(iter(daily.read(DAYS[-1]).ledger.present))
    assert by_daily_bars(daily, MINUTE)([fifth])(busiest) < 390


def test_without_daily_bars_the_minutes_are_published_and_what_is_unknown_is_said(
    server: ExchangeServer, listed: tuple[str, ...], lake: LakeWriter
) -> None:
    outcomes = collect(server, lake.of(MINUTE), listed, [DAY])

    found = findings(outcomes[DAY])["against_daily"]
    assert outcomes[DAY].published
    assert found.verdict is Verdict.PASS
    assert found.value is None
    assert "no daily bars" in found.detail
    assert lake.sessions() == [], "the sessions of minutes are no sessions of daily bars"


def test_a_symbol_that_the_source_gives_two_bars_of_one_minute_fails_alone(
    server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    (symbol,) = liquid(server, listed, 1)
    clock = FakeClock()
    options = CollectionOptions(RateLimiter(1e9, clock=clock), retry=RetryPolicy(attempts=1))
    lake = daily.of(MINUTE)
    with source(server) as alpaca:
        honest = alpaca.bars(MINUTE)

        def contradicting(
            symbols: tuple[str, ...], first: date, last: date, page_token: str | None
        ) -> Page:
            page = honest(symbols, first, last, page_token)
            own = page.bars.filter(pc.equal(page.bars["symbol"], symbol)).slice(7, 1)
            place = own.schema.get_field_index("volume")
            other = own.set_column(place, own.field(place), pc.add(own["volume"], 1))
            return page.confirmed_by(Page(other.cast(page.bars.schema), page.next_token))

        publication = Publication({DAY: listed}, lake, options)
        origin = Origin("test", listed=DAY, run_id="run")
        (outcome,) = publication.run(contradicting, origin, clock=clock)

    assert outcome.ledger.failed == {symbol: "the source gave two different bars for this session"}
    assert outcome.ledger.counts[State.FAILED] == 1
    others = [name for name in listed if name != symbol]
    stored = lake.stored(DAY)
    assert stored
    assert stored.session.bars.equals(truth(server, others, DAY))


def test_a_repair_does_not_mix_the_minutes_of_other_hours(
    server: ExchangeServer, listed: tuple[str, ...], daily: LakeWriter
) -> None:
    few, regular, extended = listed[::9], daily.of(MINUTE), daily.of(EXTENDED_MINUTE)
    collect(server, regular, few, [DAY])
    assert regular.read(DAY).provenance.hours == "regular"

    (outcome,) = collect(server, extended, listed, [DAY], repair=True).values()

    assert outcome.asked == len(listed), "all of it is asked for again"
    assert outcome.published
    assert extended.read(DAY).bars.equals(truth(server, listed, DAY, EXTENDED_MINUTE))
    assert extended.read(DAY).provenance.hours == "extended"
    assert daily.read(DAY).provenance.hours is None
