"""Whose bars a ticker means: the four rows of Alpaca's `asof`, and the list of assets."""

from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from datalake_assets.exchange.events import REFERENCE, Kind
from datalake_assets.exchange.market import is_ticker
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import Held
from datalake_assets_tests.exchange.calling import NOW, call, frozen, rows, walk

MARKET = SyntheticMarket(active=1_500, inactive=500)
TRUTH = MARKET.truth()
EXCHANGE = frozen(MARKET)
TODAY = NOW.date()
WHOLE = {"start": "2011-01-03", "end": "2026-09-02", "limit": 10_000}
DAY = timedelta(days=1)

Series = dict[str, dict[str, Any]]


def served(symbol: str, **query: Any) -> Series:
    """A symbol's bars by their day."""
    return {b["t"][:10]: b for _, b in rows(walk(EXCHANGE, symbols=symbol, **WHOLE | query))}


@cache
def traded(symbol: str) -> Series:
    return served(symbol, asof="-")


def within(held: Held, bars: Series) -> Series:
    last = held.last or TODAY
    return {day: bar for day, bar in bars.items() if held.first.isoformat() <= day <= f"{last}"}


def of_security(security: int) -> Series:
    """All bars of a security, found under each of its tickers."""
    held = [held for held in TRUTH.holdings if held.security == security and held.first < TODAY]
    return {day: bar for one in held for day, bar in within(one, traded(one.ticker)).items()}


def renames() -> list[tuple[Held, Held]]:
    """Holdings and the next one of the same security, of renames that have been."""
    pairs = pairwise(TRUTH.holdings)
    return [(old, new) for old, new in pairs if old.security == new.security and new.first < TODAY]


def second_holders() -> list[tuple[Held, Held]]:
    """Holdings and the next one of the same ticker by another security."""
    of = defaultdict(list)
    for held in sorted(TRUTH.holdings, key=lambda held: held.first):
        of[held.ticker].append(held)
    return [(one, two) for held in of.values() for one, two in pairwise(held) if two.first < TODAY]


def test_a_ticker_belongs_to_one_security_at_a_time_and_a_security_has_one_ticker() -> None:
    for one, two in second_holders():
        assert one.last is not None
        assert one.last < two.first
    for old, new in renames():
        assert old.last == max(day for day in MARKET.sessions if day < new.first)
        assert old.ticker != new.ticker


def test_renames_and_second_uses_are_as_many_as_in_life() -> None:
    """500 to 700 changes of ticker and 200 to 400 second uses a year among 11,000 listings."""
    years, share = 15.7, 11_000 / 1_650  # some 1,650 are listed on the average
    assert 400 <= len(renames()) / years * share <= 700
    assert 130 <= len(second_holders()) / years * share <= 400


def test_some_tickers_pass_to_another_security_on_the_very_day() -> None:
    passed = [two for one, two in second_holders() if one.last == before(two.first)]
    assert len(passed) > 5


def before(day: date) -> date:
    return max(session for session in MARKET.sessions if session < day)


def test_as_of_a_day_a_ticker_means_all_bars_of_its_holder_under_whatever_ticker() -> None:
    for old, new in renames()[::60]:
        expected = of_security(old.security)
        assert served(old.ticker, asof=old.first + DAY) == expected
        assert served(new.ticker, asof=new.first + DAY) == expected
        assert expected.keys() >= within(new, traded(new.ticker)).keys()


def test_a_rename_is_known_from_the_day_after_it() -> None:
    plain = [
        (old, new)
        for old, new in renames()
        if len([h for h in TRUTH.holdings if h.ticker in (old.ticker, new.ticker)]) == 2
    ]
    for old, new in plain[::60]:
        # On the day itself the old ticker still has them all, the new one only what it traded.
        assert served(old.ticker, asof=new.first) == of_security(old.security)
        assert served(new.ticker, asof=new.first) == traded(new.ticker)
        # A day later it is the other way round.
        assert served(new.ticker, asof=new.first + DAY) == of_security(old.security)
        assert served(old.ticker, asof=new.first + DAY) == traded(old.ticker)


def test_as_of_a_day_on_which_nobody_holds_a_ticker_it_means_what_traded_under_it() -> None:
    for one, two in second_holders()[::40]:
        assert one.last is not None
        if two.first - one.last > timedelta(days=9):
            gap = one.last + timedelta(days=7)
            assert served(one.ticker, asof=gap) == traded(one.ticker)
    unheld = next(h for h in TRUTH.holdings if h.first > date(2020, 1, 1) and h.first < TODAY)
    assert served(unheld.ticker, asof="2011-01-03") == traded(unheld.ticker)


def test_without_asof_it_is_today() -> None:
    _, new = renames()[5]
    assert served(new.ticker, asof=None) == served(new.ticker, asof=TODAY)
    assert served(new.ticker, asof=TODAY + timedelta(days=900)) == served(new.ticker, asof=TODAY)


def test_bars_by_the_ticker_of_the_day_are_whole_and_nobodys_twice() -> None:
    held: Counter[tuple[str, str]] = Counter()
    for security in {old.security for old, _ in renames()[::40]}:
        bars = of_security(security)
        held.update((day, TRUTH.ticker(security, date.fromisoformat(day))) for day in bars)
    assert set(held.values()) == {1}


def test_the_years_of_a_ticker_obey_asof_too() -> None:
    old, new = next((o, n) for o, n in renames() if n.first.year - o.first.year > 2)
    yearly = {"timeframe": "12Month", **WHOLE}
    daily = {day[:4] for day in of_security(old.security)}
    known = call(EXCHANGE, symbols=new.ticker, asof=new.first + DAY, **yearly).json()["bars"]
    assert {bar["t"][:4] for bar in known[new.ticker]} == daily
    alone = call(EXCHANGE, symbols=old.ticker, asof="-", **yearly).json()["bars"]
    assert {bar["t"][:4] for bar in alone[old.ticker]} == {d[:4] for d in traded(old.ticker)}


# The list of assets


def test_the_list_names_todays_tickers_and_former_securities_under_their_last() -> None:
    listed = {row["symbol"]: row["status"] for row in MARKET.assets(TODAY)}
    last: dict[int, Held] = {}
    for held in TRUTH.holdings:
        if held.first <= TODAY:
            last[held.security] = held
    going = {h.ticker for h in last.values() if h.last is None or h.last >= TODAY}
    assert {symbol for symbol, status in listed.items() if status == "active"} == going
    over = {h.ticker: h.security for h in last.values() if h.ticker not in going}
    missing = {security for ticker, security in over.items() if ticker not in listed}
    assert 0 < len(missing) < len(over) / 8, "a few are on no list at all"
    assert all(TRUTH.ending(security) is not None for security in missing), "an action names them"


def test_the_earlier_tickers_of_a_renamed_company_are_on_no_list() -> None:
    listed = {row["symbol"] for row in MARKET.assets(TODAY)}
    ever = Counter(held.ticker for held in TRUTH.holdings)
    gone = [old.ticker for old, _ in renames() if ever[old.ticker] == 1]
    assert len(gone) > 100
    assert not listed.intersection(gone)


def test_an_asset_id_does_not_survive_a_rename() -> None:
    old, new = next((o, n) for o, n in renames() if n.first.year == 2025)
    then = {row["symbol"]: row["id"] for row in MARKET.assets(before(new.first))}
    now = {row["symbol"]: row["id"] for row in MARKET.assets(new.first)}
    assert then[old.ticker] != now[new.ticker]
    assert len(set(now.values())) == len(now)


def test_on_the_reference_day_there_are_as_many_as_asked_for_and_later_about_as_many() -> None:
    def active(day: date) -> int:
        return sum(row["status"] == "active" for row in MARKET.assets(day))

    assert active(REFERENCE) == 1_500
    assert 1_400 < active(date(2027, 6, 30)) < 1_650
    assert MARKET.assets(REFERENCE) != MARKET.assets(date(2027, 6, 30))


@pytest.mark.parametrize("later", [date(2027, 9, 3), date(2031, 5, 1)])
def test_a_session_is_the_same_however_much_later_it_is_asked_for(later: date) -> None:
    span = {"start": "2024-03-01", "end": "2024-03-15", "limit": 10_000, "asof": "-"}
    symbols = ",".join(sorted({held.ticker for held in TRUTH.holdings})[:400])
    moved = frozen(MARKET, clock=lambda: datetime(later.year, later.month, later.day, tzinfo=UTC))
    assert call(moved, symbols=symbols, **span).body == call(EXCHANGE, symbols=symbols, **span).body


# Ends


def test_a_deal_ends_the_bars_and_the_price_has_come_to_its_terms() -> None:
    ends = [(s, last) for s in {h.security for h in TRUTH.holdings} if (last := TRUTH.last(s))]
    seen: Counter[Kind] = Counter()
    near = 0
    for security, last in sorted(ends):
        kind, paid = TRUTH.ending(security), TRUTH.payout(security)
        symbol = TRUTH.ticker(security, last)
        final = MARKET.bars([symbol], MARKET.sessions.index(last), MARKET.sessions.index(last) + 1)
        if kind is None or paid is None or not len(final) or paid < 1:
            continue
        if kind is Kind.WORTHLESS_REMOVAL:
            continue
        seen[kind] += 1
        # An acquirer that is halted is worth its last close: days old.
        assert final.close[0] / 1e6 == pytest.approx(paid, rel=0.2)
        near += abs(final.close[0] / 1e6 / paid - 1) < 0.005
    assert near > 0.97 * seen.total()
    assert {Kind.CASH_MERGER, Kind.STOCK_MERGER, Kind.STOCK_AND_CASH_MERGER} <= set(seen)


def test_a_bankruptcy_leaves_little_of_the_price() -> None:
    gone = [
        h
        for h in TRUTH.holdings
        if h.last and TRUTH.ending(h.security) is Kind.WORTHLESS_REMOVAL
        if TRUTH.last(h.security) == h.last and h.last - h.first > timedelta(days=365)
    ]
    assert len(gone) > 20
    for held in gone[:20]:
        assert held.last is not None
        end = MARKET.sessions.index(held.last) + 1
        bars = MARKET.bars([held.ticker], end - 250, end)
        assert bars.close[-1] < 0.25 * bars.close[0]
        assert TRUTH.payout(held.security) == 0.0


def test_every_ticker_is_one_that_the_bars_endpoint_takes() -> None:
    assert all(is_ticker(held.ticker) for held in TRUTH.holdings)
