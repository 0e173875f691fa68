"""What odd answers cost: a collection over a real socket, from an exchange that gives them.

Belongs here: faults of the answers, from the wire to the ledgers. Does not belong here: each rule
by itself (`test_pages`, `test_alpaca`, `collection.test_collect`).
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime

import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.collect import Collection
from datalake_assets.collection.plan import Packing, plan
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.exchange.faults import Fault, FaultScript, Kind, Rule
from datalake_assets.exchange.market import is_ticker
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.sources.alpaca import Account, AlpacaSource

DAYS = market_calendar.sessions(date(2024, 4, 1), date(2024, 6, 28))[:63]
DAY = DAYS[0]


class At(Clock):
    """A clock of which only the date stands still."""

    def now(self) -> datetime:
        return datetime(2026, 9, 3, 22, 0, tzinfo=UTC)


def trading(exchange: ExchangeServer, sessions: Sequence[date]) -> tuple[str, ...]:
    """The symbols that the exchange has bars of in each of the sessions."""
    market = exchange.exchange.market
    listed = sorted(row["symbol"] for row in market.assets() if row["status"] == "active")
    names = tuple(name for name in listed if is_ticker(name))
    first = market.sessions.index(sessions[0])
    held = market.bars(names, first, first + len(sessions))
    counts = dict.fromkeys(names, 0)
    for place in held.symbol:
        counts[held.symbols[place]] += 1
    return tuple(name for name in names if counts[name] == len(sessions))


def collected(
    exchange: ExchangeServer,
    symbols: Sequence[str],
    sessions: Sequence[date],
    *faults: tuple[Fault, str | None],
    times: int | None = None,
    packing: Packing | None = None,
) -> tuple[Collection, dict[date, Ledger]]:
    """Collect while the exchange commits each of the faults on requests that name a symbol."""
    exchange.exchange.faults = FaultScript(
        [Rule(fault, times=times, symbol=symbol) for fault, symbol in faults]
    )
    account = Account("key", "secret", data_url=exchange.url, trading_url=exchange.url)
    source = AlpacaSource(account, clock=At())
    try:
        done = Collection(
            plan(symbols, sessions, packing),
            source.bars(),
            limiter=RateLimiter(1e9),
            retry=RetryPolicy(wait_initial=0.001),
            workers=4,
        )
        done.run()
        return done, {ledger.session: ledger for _, ledger in done.sessions()}
    finally:
        source.close()


def odd(kind: Kind, symbol: str) -> tuple[Fault, str]:
    return Fault(kind=kind, symbol=symbol), symbol


def lost(ledgers: dict[date, Ledger]) -> set[tuple[str, date]]:
    return {(symbol, day) for day, ledger in ledgers.items() for symbol in ledger.missing}


@pytest.mark.parametrize("kind", ["odd_time", "odd_volume"])
def test_two_odd_bars_of_a_quarter_cost_two_symbol_days(
    kind: Kind, exchange: ExchangeServer
) -> None:
    symbols = trading(exchange, DAYS)
    first, second = symbols[1], symbols[-2]
    # Two requests, so that each has one of them: one rule a request decides.
    done, ledgers = collected(
        exchange, symbols, DAYS, odd(kind, first), odd(kind, second),
        packing=Packing(symbols=len(symbols) // 2 + 1),
    )  # fmt: skip
    assert len(symbols) > 100
    assert lost(ledgers) == {(first, DAY), (second, DAY)}
    assert all(len(ledger.present) >= len(symbols) - 2 for ledger in ledgers.values())
    assert (done.statistics.requests, done.statistics.odd_bars) == (2, 2)


def test_a_bar_of_no_readable_time_costs_the_day_that_it_leaves_without_one(
    exchange: ExchangeServer,
) -> None:
    symbols = trading(exchange, DAYS)
    _, ledgers = collected(exchange, symbols, DAYS, odd("unreadable_time", symbols[3]))
    assert lost(ledgers) == {(symbols[3], DAY)}
    assert "a bar has an unreadable time: ''" in ledgers[DAY].failed[symbols[3]]


@pytest.mark.parametrize("kind", ["fractional_volume", "no_statistics"])
def test_what_can_be_kept_by_a_rule_costs_nothing(kind: Kind, exchange: ExchangeServer) -> None:
    symbols = trading(exchange, DAYS[:2])
    done, ledgers = collected(exchange, symbols, DAYS[:2], odd(kind, symbols[3]))
    assert lost(ledgers) == set()
    assert ledgers[DAY].present == symbols
    assert done.statistics.rounded_volumes == (kind == "fractional_volume")


@pytest.mark.parametrize("kind", ["stranger", "symbol_twice", "empty_token"])
def test_what_is_only_spelt_oddly_costs_nothing(kind: Kind, exchange: ExchangeServer) -> None:
    symbols = trading(exchange, DAYS[:3])
    done, ledgers = collected(exchange, symbols, DAYS[:3], odd(kind, symbols[3]))
    assert {ledger.present for ledger in ledgers.values()} == {symbols}
    assert done.statistics.requests == 1


def test_a_name_in_another_case_costs_its_symbol(exchange: ExchangeServer) -> None:
    symbols = trading(exchange, DAYS[:2])
    _, ledgers = collected(exchange, symbols, DAYS[:2], odd("other_case", symbols[3]))
    assert lost(ledgers) == {(symbols[3], day) for day in DAYS[:2]}


@pytest.mark.parametrize(("times", "no_print"), [(1, 0), (None, 1)])
def test_null_for_a_symbol_is_believed_when_it_is_said_twice(
    times: int | None, no_print: int, exchange: ExchangeServer
) -> None:
    symbols = trading(exchange, [DAY])
    done, ledgers = collected(exchange, symbols, [DAY], odd("null_symbol", symbols[3]), times=times)
    assert lost(ledgers) == set()
    assert len(ledgers[DAY].no_print) == no_print
    assert done.statistics.requests == 2


@pytest.mark.parametrize("status", [400, 404, 410, 422, 451])
@pytest.mark.parametrize("message", [None, "unprocessable", "invalid symbol: another"])
def test_a_refusal_that_names_no_symbol_costs_the_one_for_which_it_comes(
    status: int, message: str | None, exchange: ExchangeServer
) -> None:
    symbols = trading(exchange, [DAY])
    fault = Fault(kind="status", status=status, message=message)
    done, ledgers = collected(exchange, symbols, [DAY], (fault, symbols[100]))
    ledger = ledgers[DAY]
    assert [*ledger.failed, *ledger.rejected] == [symbols[100]]
    assert len(ledger.present) == len(symbols) - 1
    assert done.statistics.requests <= 1 + 16


@pytest.mark.parametrize("spelt", [str.upper, str.lower])
def test_a_refusal_that_names_several_costs_those(
    spelt: Callable[[str], str], exchange: ExchangeServer
) -> None:
    symbols = trading(exchange, [DAY])
    message = f"invalid symbols: {spelt(symbols[7])}, {spelt(symbols[70])}"
    fault = Fault(kind="status", status=422, message=message)
    done, ledgers = collected(exchange, symbols, [DAY], (fault, symbols[7]))
    assert list(ledgers[DAY].rejected) == [symbols[7], symbols[70]]
    assert lost(ledgers) == set()
    assert done.statistics.requests == 2


@pytest.mark.parametrize("status", [507, 509, 520, 522, 524, 529, 598])
def test_a_gateway_s_own_status_passes(status: int, exchange: ExchangeServer) -> None:
    symbols = trading(exchange, [DAY])
    fault = Fault(kind="status", status=status)
    done, ledgers = collected(exchange, symbols, [DAY], (fault, None), times=2)
    assert ledgers[DAY].present == symbols
    assert (done.statistics.requests, done.statistics.retries) == (3, 2)
