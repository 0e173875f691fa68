"""The fifteen lists of corporate actions, over the wire, against what truly happened."""

from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.exchange.actions import Register, cusip, names_any, with_check_digit
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import NOW, call, frozen
from datalake_assets_tests.exchange.test_openapi import problems, specification

PATH = "/v1/corporate-actions"
MARKET = SyntheticMarket(active=1_500, inactive=500)
TRUTH = MARKET.truth()
EXCHANGE = frozen(MARKET)
TODAY = NOW.date()
DAY = timedelta(days=1)
YEAR = {"start": "2024-01-01", "end": "2024-12-31"}

Told = list[tuple[str, dict[str, Any]]]


def told(exchange: Exchange = EXCHANGE, **query: Any) -> Told:
    """All rows that a walk over the pages brings, each with its list."""
    found, token = [], None
    while True:
        answer = call(exchange, PATH, **{"limit": 1_000} | query, page_token=token)
        assert answer.status == 200, answer.body
        page = answer.json()
        found += [(kind, row) for kind, rows in page["corporate_actions"].items() for row in rows]
        token = page["next_page_token"]
        if token is None:
            return found


def at(now: date) -> Exchange:
    """The exchange at noon of a day."""
    return frozen(MARKET, clock=lambda: datetime.combine(now, time(16), UTC))


ALL = told(start="2011-01-03", end="2026-12-31")


def test_the_lists_tell_what_truly_happened_and_nothing_else() -> None:
    true = {
        (action.kind.plural, action.row["id"]): action
        for action in TRUTH.actions(date(2010, 1, 1), date(2026, 8, 1))
        if action.process <= date(2026, 8, 1)
    }
    rows = {(kind, row["id"]): row for kind, row in ALL if row["process_date"] <= "2026-08-01"}
    assert len(ALL) == len({row["id"] for _, row in ALL})
    assert rows == {key: action.row for key, action in true.items()}


def test_all_fifteen_lists_have_rows_and_a_list_without_any_has_no_key() -> None:
    seen = Counter(kind for kind, _ in ALL)
    assert seen.keys() == {kind.plural for kind in Kind}
    quiet = call(EXCHANGE, PATH, start="2024-06-01", end="2024-06-02").json()
    assert quiet == {"corporate_actions": {}, "next_page_token": None}, "a weekend"


def test_what_happens_on_a_day_is_as_often_as_in_life() -> None:
    years = ("2023", "2024", "2025")
    seen = Counter(kind for kind, row in ALL if row["process_date"].startswith(years))
    listed = [row for row in MARKET.assets(date(2024, 6, 30)) if row["status"] == "active"]
    a_year = {kind: count / 3 / len(listed) for kind, count in seen.items()}
    assert 0.33 < a_year["cash_dividends"] / 4 < 0.47, "two fifths pay each quarter"
    assert 0.01 < a_year["forward_splits"] + a_year["reverse_splits"] < 0.03
    assert 0.001 < a_year["spin_offs"] < 0.01
    mergers = ("cash_mergers", "stock_mergers", "stock_and_cash_mergers")
    assert 0.005 < sum(a_year[kind] for kind in mergers) < 0.03


def test_every_list_is_as_specified() -> None:
    specification("data")  # skips here, before anything is asked
    for quality in ("complete", "all"):
        for kind in Kind:
            span = {"start": "2011-01-03", "end": "2026-12-31", "types": kind.singular}
            answer = call(EXCHANGE, PATH, **span, limit=200, data_quality=quality)
            assert answer.json()["corporate_actions"].keys() == {kind.plural}
            assert problems("data", PATH, 200, answer.json()) == []


def test_rows_come_by_process_date_then_type() -> None:
    order = list(Kind)
    places = {kind.plural: place for place, kind in enumerate(order)}
    days = [row["process_date"] for _, row in told(**YEAR, types="cash_dividend")]
    assert days == sorted(days)
    down = [row["process_date"] for _, row in told(**YEAR, types="cash_dividend", sort="desc")]
    assert down == days[::-1]
    one = told(start="2024-03-01", end="2024-03-01")
    assert [places[kind] for kind, _ in one] == sorted(places[kind] for kind, _ in one)


@pytest.mark.parametrize("limit", [1, 7, 100, 1_000])
def test_pages_of_any_size_hold_the_same_rows(limit: int) -> None:
    span = {"start": "2024-03-01", "end": "2024-03-11"}
    whole = {row["id"]: row for _, row in told(**span)}
    paged = [row for _, row in told(**span, limit=limit)]
    assert len(paged) == len(whole) > 20
    assert {row["id"]: row for row in paged} == whole
    first = call(EXCHANGE, PATH, **span, limit=limit).json()["corporate_actions"]
    assert sum(map(len, first.values())) == min(limit, len(whole)), "over all lists together"


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_each_filter_selects_what_a_reader_of_all_rows_would(data: st.DataObject) -> None:
    kind, row = data.draw(st.sampled_from(ALL))
    day = date.fromisoformat(row["process_date"])
    start, end = day - DAY * data.draw(st.integers(0, 400)), day
    field = data.draw(st.sampled_from([f for f in row if f.endswith(("symbol", "cusip"))]))
    name = "symbols" if field.endswith("symbol") else "cusips"
    types = data.draw(st.sampled_from([None, kind[:-1], "name_change"]))
    expected = [
        (k, r)
        for k, r in ALL
        if f"{start}" <= r["process_date"] <= f"{end}"
        and (types is None or k == f"{types}s")
        and names_any(r, {row[field]})
    ]
    query = {"start": start, "end": end, "types": types, name: f"NOSUCH,{row[field]}"}
    found = told(**query)
    assert sorted(r["id"] for _, r in found) == sorted(r["id"] for _, r in expected)
    assert types == "name_change" or row["id"] in [r["id"] for _, r in found]


def test_ids_select_regardless_of_days_and_exclude_other_filters() -> None:
    chosen = [ALL[10], ALL[-10]]
    ids = ",".join([*(row["id"] for _, row in chosen), "189bd849-ab9f-4b4d-aaaa-a6d415fd976d", "x"])
    assert told(ids=ids) == chosen
    for name, value in {"symbols": "A", "types": "cash_dividend", "start": "2024-01-01"}.items():
        answer = call(EXCHANGE, PATH, ids=ids, **{name: value})
        assert (answer.status, name in answer.message) == (400, True)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": 0}, "invalid limit: 0: it is 1 to 1000"),
        ({"limit": 1_001}, "invalid limit: 1001: it is 1 to 1000"),
        ({"types": "cash_dividend,stock_splits"}, "invalid types: stock_splits"),
        ({"region": "moon"}, "invalid region: moon"),
        ({"data_quality": "some"}, "invalid data_quality: some"),
        ({"sort": "up"}, "invalid sort: up"),
        ({"page_token": "?"}, "invalid page_token: ?"),
        ({"start": "2024-02-02", "end": "2024-02-01"}, "end should not be before start"),
        ({"start": "soon"}, "Invalid format for parameter start"),
    ],
)
def test_a_wrong_parameter_is_refused_and_named(query: dict[str, Any], message: str) -> None:
    answer = call(EXCHANGE, PATH, **query)
    assert answer.status == 400
    assert answer.message.startswith(message)


def test_without_days_today_is_meant() -> None:
    assert told() == told(start=TODAY, end=TODAY)
    assert told(), "something is processed on a weekday"


# Since when it is told


def test_a_dividend_is_processed_on_its_payable_date_weeks_after_the_ex_date() -> None:
    waits = []
    for kind, row in ALL:
        if kind == "cash_dividends":
            assert row["process_date"] == row["payable_date"]
            ex = date.fromisoformat(row["ex_date"])
            waits.append((date.fromisoformat(row["process_date"]) - ex).days)
    assert min(waits) > 9
    assert max(waits) < 40


def test_splits_are_processed_on_their_ex_date() -> None:
    splits = [row for kind, row in ALL if kind in ("forward_splits", "reverse_splits")]
    assert all(row["ex_date"] == row["process_date"] for row in splits)


def test_an_action_is_told_ahead_and_one_of_the_far_future_is_not() -> None:
    after = told(start=TODAY + DAY, end=TODAY + timedelta(days=400))
    ahead = [row["process_date"] for kind, row in after if kind == "cash_dividends"]
    assert len(ahead) > 100
    assert max(ahead) < f"{TODAY + timedelta(days=90)}"
    later = told(at(TODAY + timedelta(days=60)), start=TODAY, end=TODAY + timedelta(days=60))
    known = {row["id"] for _, row in told(start=TODAY, end=TODAY + timedelta(days=60))}
    assert known < {row["id"] for _, row in later}


def test_an_action_appears_on_the_day_it_is_announced() -> None:
    actions, register = MARKET.actions(), Register(MARKET.actions(), MARKET.market_id)
    for index in range(2_000, 40_000, 5_000):
        day = date.fromordinal(int(actions.announced[index]))
        row = register.action(index).row
        span = {"start": row["process_date"], "end": row["process_date"]}
        for now, seen in ((day - DAY, False), (day, True)):
            ids = {r["id"] for _, r in told(at(now), **span)}
            assert (row["id"] in ids) is seen


def test_an_early_record_is_incomplete_and_only_told_to_who_asks_for_all() -> None:
    span = {"start": TODAY, "end": TODAY + timedelta(days=90)}
    complete = {row["id"] for _, row in told(**span)}
    early = [(k, r) for k, r in told(**span, data_quality="all") if r["id"] not in complete]
    assert len(early) > 3
    for _, row in early:
        cusips = [value for name, value in row.items() if name.endswith("cusip")]
        assert set(cusips) <= {""}
        assert "record_date" not in row


def test_the_same_question_a_year_later_brings_the_same_rows() -> None:
    span = {"start": "2024-01-01", "end": "2024-06-30"}
    assert told(at(TODAY + timedelta(days=365)), **span) == told(**span)


# CUSIPs


def test_check_digits_are_those_of_real_cusips() -> None:
    for real in ("037833100", "88160R101", "60879E200", "Y9390M103", "G5391L102"):
        assert with_check_digit(real[:8]) == real


def test_a_security_has_another_cusip_after_each_change() -> None:
    numbers = [cusip(b"key", "security", number) for number in range(30)]
    assert len(set(numbers)) == 30
    changes = [row for kind, row in ALL if kind == "name_changes"]
    alone = [row for row in changes if row["old_symbol"] == row["new_symbol"]]
    kept = [row for row in changes if row["old_cusip"] == row["new_cusip"]]
    assert alone
    assert all(row["old_cusip"] != row["new_cusip"] for row in alone)
    assert 0.2 < len(kept) / len(changes) < 0.7, "renames with and without a change of CUSIP"


# Two things on one day


def test_two_things_happen_on_one_day_now_and_then() -> None:
    days: dict[tuple[int, date], list[Kind]] = {}
    for action in TRUTH.actions(date(2011, 1, 3), TODAY):
        days.setdefault((action.security, action.counts), []).append(action.kind)
    pairs = Counter(tuple(sorted(kinds)) for kinds in days.values() if len(kinds) > 1)
    assert pairs[Kind.CASH_DIVIDEND, Kind.CASH_DIVIDEND] > 5
    assert pairs[Kind.CASH_DIVIDEND, Kind.FORWARD_SPLIT] > 2
    assert pairs[Kind.NAME_CHANGE, Kind.SPIN_OFF] > 2


def test_an_ex_date_may_be_without_a_bar() -> None:
    without = 0
    for action in TRUTH.actions(date(2024, 1, 1), date(2024, 3, 31), [Kind.CASH_DIVIDEND]):
        session = MARKET.sessions.index(action.counts)
        without += not len(MARKET.bars([action.row["symbol"]], session, session + 1))
    assert without > 3
