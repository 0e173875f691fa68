from __future__ import annotations

import gc
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake_assets.securities import derivation
from datalake_assets.securities.decisions import ACCEPT, ADD, IGNORE, Decision, decide
from datalake_assets.securities.derivation import (
    NothingDerivedError,
    derive_factors,
    derive_securities,
    material,
)
from datalake_assets.securities.findings import read_findings
from datalake_assets.securities.tables import CUMULATIVE, FACTORS, SECURITIES
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.securities.bars import History, action, actions, sessions

DAYS = sessions("2020-01-02", "2020-12-31")
WHEN = datetime(2024, 3, 1, 12, tzinfo=UTC)
CLOSES = [100.0] * 50 + [25.0] * (len(DAYS) - 50)
HISTORY = History().add("FB", DAYS[:100], CLOSES[:100]).add("META", DAYS[100:], CLOSES[100:])
HISTORY.add("CRASH", DAYS, [10.0] * 80 + [5.0] * (len(DAYS) - 80))
TOLD = actions(
    action("r", "name_changes", "FB", DAYS[100], new_symbol="META"),
    action("s", "forward_splits", "FB", DAYS[50], new_rate=4.0, old_rate=1.0),
    action("w", "reverse_splits", "META", DAYS[150], new_rate=1.0, old_rate=3.0),
    action("d", "cash_dividends", "META", DAYS[200], cash=0.5),
)
TABLES = {
    layout.SECURITIES_TABLE: SECURITIES,
    layout.FACTORS_TABLE: FACTORS,
    layout.CUMULATIVE_TABLE: CUMULATIVE,
}


def run(store: Store, told: pa.Table = TOLD) -> None:
    derive_securities(store, material(store, HISTORY.versions(), HISTORY.read, told), None)
    derive_factors(store, material(store, HISTORY.versions(), HISTORY.read, told))


def objects(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list(layout.SECURITIES)}


def factors(store: Store) -> dict[str, dict]:
    table = pq.read_table(pa.BufferReader(store.get(layout.FACTORS_TABLE)))
    return {row["action_id"]: row for row in table.to_pylist()}


def test_the_tables_lie_in_the_lake_in_their_columns():
    store = open_store("memory://")
    run(store)
    for key, schema in TABLES.items():
        table = pq.read_table(pa.BufferReader(store.get(key)))
        assert table.schema.names == schema.names
        assert [field.type for field in table.schema] == [field.type for field in schema]
    found = read_findings(store).to_pylist()
    assert [(row["kind"], row["action_id"]) for row in found] == [
        ("suspected split", None),
        ("split contradicted", "w"),
    ]


def test_the_same_lake_makes_the_same_bytes():
    store = open_store("memory://")
    run(store)
    before = objects(store)
    run(store, TOLD.take(pa.array([3, 1, 0, 2])))
    assert objects(store) == before


class KilledError(BaseException):
    pass


def test_killed_before_any_write_the_next_run_makes_it_whole():
    whole = open_store("memory://")
    run(whole)
    writes = len(objects(whole)) + 1  # the findings are written twice
    for left in range(writes):
        store = open_store("memory://")
        for name in ("put", "replace"):

            def stopped(*args, name: str = name, store: Store = store):
                nonlocal left
                if left == 0:
                    raise KilledError
                left -= 1
                return getattr(Store, name)(store, *args)

            setattr(store, name, stopped)
        with pytest.raises(KilledError):
            run(store)
        del store.put, store.replace
        for key, schema in TABLES.items():
            if store.exists(key):  # whole, as it is for a reader of that moment
                assert pq.read_table(pa.BufferReader(store.get(key))).schema.names == schema.names
        run(store)
        assert objects(store) == objects(whole)


def test_factors_need_securities_first():
    store = open_store("memory://")
    given = material(store, HISTORY.versions(), HISTORY.read, TOLD)
    with pytest.raises(NothingDerivedError, match="is not there: derive it: datalake securities"):
        derive_factors(store, given)


def test_decisions_are_followed_and_survive_every_derivation():
    store = open_store("memory://")
    run(store)
    assert not factors(store)["w"]["applied"]
    decide(
        store,
        Decision(ACCEPT, "ann", WHEN, "", "w"),
        Decision(IGNORE, "ann", WHEN, "", "d"),
        Decision(
            ADD, "ann", WHEN, "", kind="split", symbol="CRASH", day=DAYS[80], new=2.0, old=1.0
        ),
    )
    kept = store.get(layout.DECISIONS)
    run(store)
    told = factors(store)
    assert (told["w"]["applied"], told["w"]["decision"]) == (True, "accept")
    assert (told["d"]["applied"], told["d"]["decision"]) == (False, "ignore")
    assert (told["decision-3"]["applied"], told["decision-3"]["decision"]) == (True, "add")
    assert [row["kind"] for row in read_findings(store).to_pylist()] == ["suspected split"]
    assert store.get(layout.DECISIONS) == kept


def test_a_jump_that_the_user_looked_at_is_named_no_more():
    store = open_store("memory://")
    decide(store, Decision(IGNORE, "ann", WHEN, "a crash", symbol="CRASH", day=DAYS[80]))
    run(store)
    assert [row["about"] for row in read_findings(store).to_pylist()] == ["action"]


def test_an_empty_lake_has_empty_tables():
    store = open_store("memory://")
    nothing = History()
    given = material(store, nothing.versions(), nothing.read, actions())
    derive_securities(store, given, None)
    derive_factors(store, given)
    for key in TABLES:
        assert pq.read_table(pa.BufferReader(store.get(key))).num_rows == 0


@pytest.mark.s3
def test_it_is_the_same_in_a_bucket(s3_lake_uri: str):
    store, other = open_store(s3_lake_uri), open_store("memory://")
    run(store)
    run(other)
    assert objects(store) == objects(other)


def test_derivations_side_by_side_leave_the_process_as_it_was() -> None:
    pool = pa.default_memory_pool()
    first, second = derivation._lean(), derivation._lean()
    with first:
        second.__enter__()
    assert not gc.isenabled()
    second.__exit__(None, None, None)

    assert gc.isenabled()
    assert pa.default_memory_pool().backend_name == pool.backend_name
