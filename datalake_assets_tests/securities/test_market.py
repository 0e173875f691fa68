"""Identities, factors and jumps of the synthetic market, against its truth.

Three years of some thousand securities, with every action that the source tells. What single rules
do is tested beside them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from datalake_assets.exchange.actions import Action
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.market import DOLLAR
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.securities import factors, identity, jumps
from datalake_assets.securities.evidence import Evidence, day_of, gather
from datalake_assets.securities.factors import Factors
from datalake_assets.securities.identity import Identities
from datalake_assets.securities.jumps import Kind as Jump
from datalake_assets.securities.registry import Registry
from datalake_assets.securities.verdicts import SMALL
from datalake_assets.sources.action_pages import decode_actions
from datalake_assets.storage.store import open_store

ENDS = (
    Kind.CASH_MERGER,
    Kind.STOCK_MERGER,
    Kind.STOCK_AND_CASH_MERGER,
    Kind.WORTHLESS_REMOVAL,
    Kind.REDEMPTION,
    Kind.REORGANIZATION,
    Kind.UNIT_SPLIT,
)
FIRST, LAST = date(2023, 1, 3), date(2025, 12, 31)


def told_by(actions: Collection[Action]) -> pa.Table:
    """The actions as they come over the wire."""
    lists: dict[str, list[dict]] = {}
    for action in actions:
        lists.setdefault(action.kind.plural, []).append(action.row)
    page = decode_actions(
        json.dumps({"corporate_actions": lists, "next_page_token": None}).encode()
    )
    assert not page.skipped
    return page.actions


@dataclass
class Lake:
    market: SyntheticMarket
    bars: dict[date, pa.Table]
    actions: list[Action]

    def derive(
        self, actions: Collection[Action] | None = None
    ) -> tuple[Evidence, Identities, Factors]:
        told = told_by(self.actions if actions is None else actions)
        asked = identity.asked_of(told)
        versions = dict.fromkeys(self.bars, "1")
        found = gather(open_store("memory://"), versions, self.bars.__getitem__, asked)
        who = identity.identify(found, told, None, Registry())
        return found, who, factors.derive(found, who.table, told)


@pytest.fixture(scope="module")
def lake() -> Lake:
    market = SyntheticMarket(active=1_200, inactive=600)
    truth = market.truth()
    days = [day for day in market.sessions if FIRST <= day <= LAST]
    begin = market.sessions.index(days[0])
    tickers = sorted({held.ticker for held in truth.holdings})
    found = market.bars(tickers, begin, begin + len(days))
    names = pa.array(found.symbols).take(pa.array(found.symbol))
    table = pa.table(
        {
            "symbol": names,
            "open": found.open / DOLLAR,
            "close": found.close / DOLLAR,
            "volume": found.volume,
        }
    )
    bars = {
        day: table.filter(pa.array(found.session == begin + place))
        for place, day in enumerate(days)
    }
    return Lake(market, bars, list(truth.actions(FIRST, LAST)))


@pytest.fixture(scope="module")
def derived(lake: Lake) -> tuple[Evidence, Identities, Factors]:
    return lake.derive()


def test_each_identifier_is_one_security_of_the_market_and_each_security_has_one(
    lake: Lake, derived: tuple[Evidence, Identities, Factors]
) -> None:
    truth = lake.market.truth()
    meant, named = defaultdict(set), defaultdict(set)
    for row in derived[1].table.to_pylist():
        for day in {row["first_session"], row["last_session"]}:
            security = truth.holder(row["symbol"], day)
            meant[row["security"]].add(security)
            named[security].add(row["security"])
    assert len(meant) > 1_000
    assert not {name: of for name, of in meant.items() if len(of) > 1}
    assert not {security: names for security, names in named.items() if len(names) > 1}
    assert not derived[1].findings


def test_each_end_that_an_action_tells_is_known(
    lake: Lake, derived: tuple[Evidence, Identities, Factors]
) -> None:
    truth = lake.market.truth()
    told = 0
    ended = {action.security for action in lake.actions if action.kind in ENDS}
    for row in derived[1].table.to_pylist():
        security = truth.holder(row["symbol"], row["first_session"])
        last, kind = truth.last(security), truth.ending(security)
        if kind is None or security not in ended or last != row["last_session"]:
            continue
        told += 1
        ends = ("split",) if kind is Kind.UNIT_SPLIT else ("merger", "delisting")
        assert row["followed_by"] in ends, row
        if kind is Kind.CASH_MERGER:
            assert row["payout_cash"] == pytest.approx(truth.payout(security))
    assert told > 20


def test_every_split_is_applied_and_no_crash_is(
    lake: Lake, derived: tuple[Evidence, Identities, Factors]
) -> None:
    rows = [row for row in derived[2].table.to_pylist() if row["session"]]
    splits = [row for row in rows if row["adjustment"] == "split"]
    assert len(splits) > 50
    assert all(row["applied"] for row in splits)
    assert {row["verdict"] for row in splits} <= {"confirmed", "too small to tell"}
    true = {action.row["id"] for action in lake.actions}
    assert {row["action_id"] for row in rows} <= true


def changed(lake: Lake, kinds: Collection[Kind], **rates: str) -> list[Action]:
    """The actions, with the fields of some kinds exchanged."""
    found = []
    for action in lake.actions:
        if action.kind in kinds:
            row = action.row | {name: action.row[other] for name, other in rates.items()}
            action = replace(action, row=row)
        found.append(action)
    return found


def test_a_split_in_the_wrong_direction_is_contradicted_and_not_applied(lake: Lake) -> None:
    kinds = (Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT)
    wrong = changed(lake, kinds, new_rate="old_rate", old_rate="new_rate")
    rows = lake.derive(wrong)[2].table.to_pylist()
    splits = [
        row
        for row in rows
        if row["kind"] in ("forward_splits", "reverse_splits") and row["verdict"] != "unseen"
    ]
    large = [row for row in splits if abs(np.log(row["price_factor"])) >= SMALL]
    assert len(large) > 30
    assert {(row["verdict"], row["applied"]) for row in large} == {("contradicted", False)}


def test_what_is_listed_twice_is_applied_once(
    lake: Lake, derived: tuple[Evidence, Identities, Factors]
) -> None:
    kinds = (Kind.CASH_DIVIDEND, Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT)
    again = [
        replace(action, row=action.row | {"id": f"{action.row['id']}-again"})
        for action in lake.actions
        if action.kind in kinds
    ]
    found = lake.derive([*lake.actions, *again])[2]
    twins = [row for row in found.table.to_pylist() if row["action_id"].endswith("-again")]
    assert not any(row["applied"] for row in twins)
    assert found.cumulative.equals(derived[2].cumulative)


def test_missing_splits_are_suspected_and_never_applied(lake: Lake) -> None:
    """By the rule of the labelled jumps: nearly all, and hardly any fall beside them."""
    kinds = (Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT)
    without = [action for action in lake.actions if action.kind not in kinds]
    evidence, who, worth = lake.derive(without)
    found = jumps.find(evidence, who.table, worth.table)
    called = {
        (symbol, day_of(day)): kind
        for symbol, day, kind in zip(
            found.symbol.to_pylist(), found.session, found.kind, strict=True
        )
    }
    truth = lake.market.truth()
    missing = [
        (truth.ticker(action.security, action.counts), action.counts)
        for action in lake.actions
        if action.kind in kinds
        and abs(np.log(action.row["new_rate"] / action.row["old_rate"])) > np.log(1.8)
    ]
    right = sum(called.get(key) is Jump.SPLIT for key in missing)
    assert len(missing) > 30
    assert right / len(missing) > 0.85
    assert not [row for row in worth.table.to_pylist() if row["kind"] in ("forward_splits",)]
