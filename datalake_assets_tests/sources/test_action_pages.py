"""A page of corporate actions: all fifteen lists, rows that can't be read, and the way over HTTP.

Not here: which pages are asked for, and what follows from them (`actions.test_sweep`).
"""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets.actions.action import KINDS, SCHEMA
from datalake_assets.actions.log import ActionLog
from datalake_assets.actions.sweep import ActionsPage, Window, sweep
from datalake_assets.collection.errors import RefusedError, ThrottledError, TransientError
from datalake_assets.exchange.faults import Arrival, Fault, FaultScript, Rule
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.sources.action_pages import decode_actions
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.storage.store import open_store
from datalake_assets_tests.actions.sayings import caller

EX, PAID = "2026-02-19", "2026-03-05"
BASE = {"id": "1dbc7685-9517-4a77-a236-8527d49cefdc", "process_date": PAID}
EX_DATE = {"ex_date": EX}
EFFECTIVE = {"effective_date": EX}
OF_OLD = {"old_symbol": "OLD", "old_cusip": "111"}
TO_NEW = {"new_symbol": "NEW", "new_cusip": "222"}
OF_SOURCE = {"source_symbol": "OLD", "source_cusip": "111"}
MERGER = {
    "acquiree_symbol": "OLD",
    "acquiree_cusip": "111",
    "acquirer_symbol": "NEW",
    "acquirer_cusip": "222",
    **EFFECTIVE,
}
PLAIN = {"symbol": "OLD", "cusip": "111"}
SHARES = {"acquirer_rate": 0.75, "acquiree_rate": 2}
NOTHING = (None, None, None)

# The source's row, then (effective date, new symbol, (new rate, old rate, cash), new CUSIP).
ROWS: dict[str, tuple[dict[str, Any], tuple[str, str | None, tuple[Any, ...], str | None]]] = {
    "forward_splits": (
        PLAIN | EX_DATE | {"new_rate": 4, "old_rate": 1},
        (EX, None, (4, 1, None), None),
    ),
    "reverse_splits": (
        EX_DATE | {"symbol": "OLD", "old_cusip": "111", "new_rate": 1, "old_rate": 20} | TO_NEW,
        (EX, "NEW", (1, 20, None), "222"),
    ),
    "unit_splits": (
        OF_OLD
        | TO_NEW
        | EFFECTIVE
        | {"new_rate": 1, "old_rate": 1}
        | {"alternate_symbol": "NEW.WS", "alternate_cusip": "333", "alternate_rate": 0.5},
        (EX, "NEW", (1, 1, None), "222"),
    ),
    "stock_dividends": (PLAIN | EX_DATE | {"rate": 0.05}, (EX, None, (0.05, 1, None), None)),
    "cash_dividends": (
        PLAIN | EX_DATE | {"rate": 0.61, "special": False, "foreign": False},
        (EX, None, (None, None, 0.61), None),
    ),
    "spin_offs": (
        OF_SOURCE | TO_NEW | EX_DATE | {"source_rate": 3, "new_rate": 1},
        (EX, "NEW", (1, 3, None), "222"),
    ),
    "rights_distributions": (
        OF_SOURCE | TO_NEW | EX_DATE | {"rate": 0.25, "payable_date": PAID},
        (EX, "NEW", (0.25, 1, None), "222"),
    ),
    "cash_mergers": (MERGER | {"rate": 42.5}, (EX, "NEW", (None, None, 42.5), "222")),
    "stock_mergers": (MERGER | SHARES, (EX, "NEW", (0.75, 2, None), "222")),
    "stock_and_cash_mergers": (
        MERGER | SHARES | {"cash_rate": 10},
        (EX, "NEW", (0.75, 2, 10), "222"),
    ),
    "name_changes": (OF_OLD | TO_NEW, (PAID, "NEW", NOTHING, "222")),
    "redemptions": (PLAIN | {"rate": 25}, (PAID, None, (None, None, 25), None)),
    "worthless_removals": (PLAIN, (PAID, None, NOTHING, None)),
    "partial_calls": (PLAIN | {"price": 15}, (PAID, None, (None, None, 15), None)),
    "reorganizations": (
        PLAIN
        | EFFECTIVE
        | {"cash_rate": 5}
        | {
            "stock_movements": [{"symbol": "NEW", "cusip": "222", "new_rate": 1, "source_rate": 10}]
        },
        (EX, "NEW", (1, 10, 5), "222"),
    ),
}


def body(token: str | None = None, **lists: Any) -> bytes:
    return json.dumps({"corporate_actions": lists, "next_page_token": token}).encode()


def only(page: ActionsPage) -> dict[str, Any]:
    assert page.skipped == ()
    (row,) = page.actions.to_pylist()
    return dict(row)


def test_every_kind_has_its_row_here() -> None:
    assert tuple(ROWS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_each_list_is_read_by_its_own_names(kind: str) -> None:
    given, (effective, new_symbol, rates, new_cusip) = ROWS[kind]
    row = only(decode_actions(body(**{kind: [BASE | given]})))

    assert (row["kind"], row["id"], row["symbol"], row["cusip"]) == (kind, BASE["id"], "OLD", "111")
    assert row["effective_date"] == date.fromisoformat(effective)
    assert row["process_date"] == date.fromisoformat(PAID)
    assert (row["new_symbol"], row["new_cusip"]) == (new_symbol, new_cusip)
    assert (row["new_rate"], row["old_rate"], row["cash"]) == rates
    assert json.loads(row["body"]) == BASE | given
    assert list(json.loads(row["body"])) == sorted(BASE | given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_cusips_is_read_all_the_same(kind: str) -> None:
    """alpaca-py refuses the whole page then."""
    given, _ = ROWS[kind]
    bare = {name: value for name, value in given.items() if "cusip" not in name}

    assert only(decode_actions(body(**{kind: [BASE | bare]})))["cusip"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_its_date_its_symbol_or_its_id_costs_itself_and_is_named(kind: str) -> None:
    given, _ = ROWS[kind]
    whole = BASE | given
    needed = ["id", "process_date", *(n for n in ("ex_date", "effective_date") if n in whole)]
    symbols = ("symbol", "old_symbol", "source_symbol", "acquiree_symbol")
    needed += [name for name in symbols if name in whole]
    for name in needed:
        for nothing in ({}, {name: None}, {name: ""}):
            spoiled = {n: v for n, v in whole.items() if n != name} | nothing
            page = decode_actions(body(**{kind: [spoiled, whole | {"id": "good"}]}))
            assert page.actions["id"].to_pylist() == ["good"]
            (skipped,) = page.skipped
            assert (skipped.kind, skipped.why) == (kind, f"it has no {name}")
            assert skipped.id == (None if name == "id" else BASE["id"])


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        ({"ex_date": "2026-02-30"}, "its ex_date is not a date: '2026-02-30'"),
        ({"ex_date": "20260219"}, "its ex_date is not a date: '20260219'"),
        ({"rate": "much"}, "its rate is not a number: 'much'"),
        ({"rate": "NaN"}, "its rate is not a number: 'NaN'"),
        ({"rate": True}, "its rate is not a number: True"),
        ({"rate": [1]}, "its rate is not a number: [1]"),
        ({"symbol": 7}, "its symbol is not a text: 7"),
        ({"cusip": 7}, "its cusip is not a text: 7"),
        ({"currency": 7}, "its currency is not a text: 7"),
    ],
)
def test_a_field_that_is_something_else_costs_its_row(spoiled: dict[str, Any], why: str) -> None:
    page = decode_actions(body(cash_dividends=[BASE | ROWS["cash_dividends"][0] | spoiled]))

    assert page.actions.num_rows == 0
    assert [str(row) for row in page.skipped] == [f"cash_dividends {BASE['id']}: {why}"]


@pytest.mark.parametrize("row", ["7", "null", "[]", '"text"', '{"rate": 1e999, "id": "x"}'])
def test_a_row_that_is_no_row_costs_itself(row: str) -> None:
    good = json.dumps(BASE | ROWS["cash_dividends"][0])
    text = (
        f'{{"corporate_actions": {{"cash_dividends": [{row}, {good}]}}, "next_page_token": null}}'
    )
    page = decode_actions(text.encode())

    assert page.actions.num_rows == 1
    assert len(page.skipped) == 1


def test_rates_as_text_are_read_as_the_stream_of_the_same_actions_has_them() -> None:
    given = PLAIN | EX_DATE | {"new_rate": "4.5", "old_rate": "1"}
    row = only(decode_actions(body(forward_splits=[BASE | given])))

    assert (row["new_rate"], row["old_rate"]) == (4.5, 1.0)


@pytest.mark.parametrize(
    ("currency", "cash"), [("USD", 0.61), ("", 0.61), (None, 0.61), ("CAD", None)]
)
def test_what_is_not_paid_in_dollars_is_no_amount_in_dollars(
    currency: str | None, cash: float | None
) -> None:
    given = BASE | ROWS["cash_dividends"][0] | {"currency": currency}

    assert only(decode_actions(body(cash_dividends=[given])))["cash"] == cash


def test_a_reorganization_that_delivers_several_securities_has_them_in_its_body_alone() -> None:
    given, _ = ROWS["reorganizations"]
    legs = given["stock_movements"] * 2
    row = only(decode_actions(body(reorganizations=[BASE | given | {"stock_movements": legs}])))

    assert (row["new_symbol"], row["new_rate"], row["cash"]) == (None, None, 5)
    assert json.loads(row["body"])["stock_movements"] == legs


def test_a_list_that_nobody_knows_is_named_and_the_others_are_read() -> None:
    page = decode_actions(
        body("more", tender_offers=[{}, {}], odd={}, worthless_removals=[BASE | PLAIN])
    )

    assert page.unknown == {"tender_offers": 2, "odd": 0}
    assert page.actions["kind"].to_pylist() == ["worthless_removals"]
    assert page.token == "more"


def test_no_lists_are_no_actions() -> None:
    page = decode_actions(body(""))

    assert (page.actions.num_rows, page.actions.schema, page.token) == (0, SCHEMA, None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "can't be read"),
        (body(cash_dividends=[BASE])[:-4], "can't be read"),
        (b'{"corporate_actions": null, "next_page_token": null}', "nothing can be concluded"),
        (b'{"corporate_actions": []}', "can't be read"),
        (b'{"next_page_token": null}', "can't be read"),
        (body(cash_dividends={}), "cash_dividends in the answer is not a list"),
        (body(cash_dividends=None), "cash_dividends in the answer is not a list"),
        (b'{"corporate_actions": {}, "next_page_token": 7}', "can't be read"),
    ],
)
def test_an_answer_that_is_none_is_asked_for_again(answer: bytes, why: str) -> None:
    with pytest.raises(TransientError, match=why):
        decode_actions(answer)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    kind=st.sampled_from(KINDS),
    spoiled=st.dictionaries(st.sampled_from("abc"), JSON),
    data=st.data(),
)
def test_whatever_a_row_holds_it_is_read_or_named(
    kind: str, spoiled: dict[str, Any], data: st.DataObject
) -> None:
    whole = BASE | ROWS[kind][0]
    names = data.draw(st.lists(st.sampled_from(sorted(whole)), max_size=3))
    row = whole | spoiled | {name: data.draw(JSON) for name in names}
    page = decode_actions(body(**{kind: [row]}))

    assert page.actions.num_rows + len(page.skipped) == 1
    page.actions.validate(full=True)


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def alpaca(exchange: ExchangeServer) -> AlpacaSource:
    return AlpacaSource(Account("any", "any", data_url=exchange.url, trading_url=exchange.url))


def test_the_question_names_its_days_a_full_page_and_rows_of_any_quality(
    exchange: ExchangeServer, alpaca: AlpacaSource
) -> None:
    asked: list[tuple[str, Mapping[str, str]]] = []

    def note(arrival: Arrival) -> bool:
        asked.append((arrival.path, dict(arrival.query)))
        return False

    exchange.exchange.faults = FaultScript([Rule(Fault(kind="reset"), when=note)])
    page = alpaca.actions(date(2011, 1, 1), date(2026, 12, 31), None)
    alpaca.actions(date(2011, 1, 1), date(2026, 12, 31), "1")
    alpaca.actions_by_id(["x", "y"])

    whole = {
        "start": "2011-01-01",
        "end": "2026-12-31",
        "limit": "1000",
        "data_quality": "all",
        "sort": "asc",
    }
    assert asked == [
        ("/v1/corporate-actions", whole),
        ("/v1/corporate-actions", whole | {"page_token": "1"}),
        ("/v1/corporate-actions", {"ids": "x,y", "limit": "1000"}),  # it takes no other filter
    ]
    assert page.actions.num_rows > 0
    assert page.skipped == ()


def test_the_exchanges_whole_history_is_swept_with_the_fewest_requests(
    exchange: ExchangeServer, alpaca: AlpacaSource, tmp_path: Path
) -> None:
    log = ActionLog(open_store(str(tmp_path / "lake")))
    done, events = sweep(alpaca, log, caller(), Window(date(2011, 1, 1), date(2026, 12, 31)))

    assert done.requests == -(-events.num_rows // 1000)
    assert log.current()["kind"].to_pylist()
    again, nothing = sweep(alpaca, log, caller(), Window(date(2011, 1, 1), date(2026, 12, 31)))
    assert (again.number, nothing.num_rows) == (2, 0)


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, ThrottledError), (503, TransientError), (401, RefusedError), (403, RefusedError)],
)
def test_another_status_is_classified_as_for_bars(
    exchange: ExchangeServer, alpaca: AlpacaSource, status: int, error: type[Exception]
) -> None:
    exchange.exchange.faults = FaultScript([Rule(Fault(kind="status", status=status))])

    with pytest.raises(error, match=f"GET /corporate-actions: HTTP {status}"):
        alpaca.actions(date(2026, 1, 1), date(2026, 1, 2), None)
