"""`datalake doctor` on `data/actions` and `data/securities`: each damage is named and repaired.

The lake is a real one, collected and derived by the command line from an exchange; each test
damages a copy of its own. Not here: sessions and symbol-years (`test_doctor`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake_assets.actions.log import ActionLog
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.derived import subjects
from datalake_assets.lake.examination import Defect, examine
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.securities.decisions import Decision, decide
from datalake_assets.securities.derivation import DERIVED, read_derived
from datalake_assets.securities.findings import Finding, table_of
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.actions.sayings import action, answer
from datalake_assets_tests.collection.tables import MONDAY, WEEK, every, names
from datalake_assets_tests.exchange.calling import keys_to
from datalake_assets_tests.lake.files import flipped, session_bytes
from datalake_assets_tests.securities.deriving import derive
from datalake_assets_tests.test_cli import invoke
from datalake_assets_tests.test_doctor import (
    LAKE,
    RECORDS,
    assert_repaired,
    commands,
    doctor,
    enter,
    lines,
    put,
)

NOW = datetime(2030, 3, 3, tzinfo=UTC)
FIRST, LAST = "2024-02-01", "2024-02-14"
ACTIONS, TABLES = (
    "corporate actions against their log",
    "securities and factors against sessions and actions",
)


@pytest.fixture(scope="module")
def environ() -> Iterator[Mapping[str, str]]:
    with ExchangeServer(Exchange(SyntheticMarket(7, 40, 2))) as server:
        yield keys_to(server.url, DATALAKE_START_DATE=FIRST)


@pytest.fixture(scope="module")
def whole(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder, environ)
        for typed in (("collect", "--from", FIRST, "--to", LAST), ("securities",)):
            result = invoke(*typed)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def lake(
    whole: Path, environ: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LakeWriter:
    enter(monkeypatch, tmp_path, environ)
    shutil.copytree(whole / LAKE, tmp_path / LAKE, copy_function=os.link)
    shutil.copytree(whole / RECORDS, tmp_path / RECORDS)
    return LakeWriter(open_store(str(LAKE)))


def test_a_lake_with_securities_is_whole_and_nothing_of_it_is_foreign(lake: LakeWriter) -> None:
    before = lake.store.versions()
    result = doctor()
    assert (result.exit_code, commands(result)) == (0, []), result.output
    told = lines(result, "✓")
    assert f"{ACTIONS}: 1 checked" in told
    assert f"{TABLES}: 4 checked" in told
    assert lake.store.versions() == before
    assert read_derived(lake.store, layout.FACTORS_TABLE).num_rows > 0


def bend(key: str) -> Callable[[LakeWriter], None]:
    def damage(lake: LakeWriter) -> None:
        data = lake.store.get(key)
        put(lake, key, flipped(data, len(data) // 3, 3))

    return damage


def cut(key: str) -> Callable[[LakeWriter], None]:
    return lambda lake: put(lake, key, lake.store.get(key)[:-9])


def delete(key: str) -> Callable[[LakeWriter], None]:
    return lambda lake: lake.store.delete(key)


def change_a_factor(lake: LakeWriter) -> None:
    table = read_derived(lake.store, layout.CUMULATIVE_TABLE)
    column = pa.array([0.5] * table.num_rows, pa.float64())
    place = table.column_names.index("split")
    write(lake, layout.CUMULATIVE_TABLE, table.set_column(place, table.schema.field(place), column))


def change_an_action(lake: LakeWriter) -> None:
    file = pq.ParquetFile(pa.BufferReader(lake.store.get(layout.STANDING_ACTIONS)))
    write(lake, layout.STANDING_ACTIONS, file.read().slice(1))


def write(lake: LakeWriter, key: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    put(lake, key, bytes(sink.getvalue()))


def decide_something(lake: LakeWriter) -> None:
    known = read_derived(lake.store, layout.FACTORS_TABLE)
    applied = known.filter(known["applied"])["action_id"][0].as_py()
    when = datetime(2024, 2, 15, tzinfo=UTC)
    decide(lake.store, Decision("ignore", "ann", when, "never was", subject=applied))


def hear_of_an_action(lake: LakeWriter) -> None:
    """A sweep that was killed before it published what stands."""
    symbol = read_derived(lake.store, layout.SECURITIES_TABLE)["symbol"][0].as_py()
    newest = next(ActionLog(lake.store).sweeps())
    told = answer(action("new", symbol, date(2024, 2, 6)), known=newest.number)
    ActionLog(lake.store).append(told, newest.seen_at + timedelta(hours=1))


EVIDENCE = layout.evidence_key("2024-Q1")
OF_EVIDENCE = "evidence of securities"
DAMAGES: dict[str, tuple[list[Callable[[LakeWriter], None]], dict[str, int]]] = {
    "everything that is derived": (
        [
            bend(layout.SECURITIES_TABLE),
            cut(layout.FACTORS_TABLE),
            delete(layout.CUMULATIVE_TABLE),
            cut(layout.FINDINGS_TABLE),
            bend(EVIDENCE),
            cut(layout.STANDING_ACTIONS),
        ],
        {ACTIONS: 1, OF_EVIDENCE: 1, TABLES: 4},
    ),
    "a factor that somebody changed": ([change_a_factor], {TABLES: 1}),
    "a decision that nobody followed": ([decide_something], {TABLES: 2}),
    # What reads the table takes it for what stands.
    "actions that somebody changed": ([change_an_action], {ACTIONS: 1, TABLES: 1}),
    "actions that are behind": ([hear_of_an_action], {ACTIONS: 1, TABLES: 1}),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_each_damage_is_named_and_its_command_repairs_it(lake: LakeWriter, what: str) -> None:
    damages, subjects_of_them = DAMAGES[what]
    for damage in damages:
        damage(lake)
    result = doctor()
    assert result.exit_code == 1
    wrong = [line.partition(":")[0] for line in lines(result, "✗")]
    assert wrong == list(subjects_of_them)
    defects = {one.subject: one.defects for one in examine(lake, besides=subjects(lake, NOW))}
    for subject, count in subjects_of_them.items():
        assert len(defects[subject]) >= count, subject
        assert all(one.repair for one in defects[subject])
    assert_repaired(result)


@pytest.mark.parametrize("key", [layout.STANDING_ACTIONS, EVIDENCE, *DERIVED])
def test_each_object_that_is_damaged_is_named(lake: LakeWriter, key: str) -> None:
    cut(key)(lake)
    found = [one for each in examine(lake, besides=subjects(lake, NOW)) for one in each.defects]
    assert [(one.where, "damaged" in one.what) for one in found] == [(lake.store.url(key), True)]


@pytest.mark.parametrize("key", [layout.STANDING_ACTIONS, *DERIVED])
def test_each_object_that_is_gone_is_named(lake: LakeWriter, key: str) -> None:
    lake.store.delete(key)
    found = [one for each in examine(lake, besides=subjects(lake, NOW)) for one in each.defects]
    assert [(one.where, one.what, one.repair) for one in found] == [
        (lake.store.url(key), "it does not exist", "datalake securities")
    ]


def test_a_file_that_is_none_of_ours_is_foreign_there_too(lake: LakeWriter) -> None:
    for key in ("data/actions/notes.parquet", f"{layout.EVIDENCE}/2024.parquet"):
        lake.store.put(key, b"")
    result = doctor()
    assert [line.partition(":")[0] for line in lines(result, "✗")] == ["untracked objects"]
    assert_repaired(result)


@pytest.mark.parametrize(
    ("key", "subject", "told"),
    [
        (layout.action_log_key(1), "log of corporate actions", "restore it from a backup"),
        (layout.REGISTRY, "identifiers of securities", "restore it from a backup"),
        (layout.DECISIONS, "your decisions", "mend it by hand, or restore it"),
    ],
)
def test_what_can_not_be_had_again_is_named_without_a_command(
    lake: LakeWriter, key: str, subject: str, told: str
) -> None:
    put(lake, key, b"{")
    result = doctor()
    assert (result.exit_code, commands(result)) == (1, [])
    assert [line.partition(":")[0] for line in lines(result, "✗")] == [subject]
    assert told in " ".join(result.stdout.split())


def test_one_year_alone_says_nothing_of_them(lake: LakeWriter) -> None:
    put(lake, layout.FACTORS_TABLE, b"PAR1")
    assert doctor("--year", "2024").exit_code == 0


def test_what_waits_for_a_decision_is_told_and_is_no_damage(lake: LakeWriter) -> None:
    told = Finding(
        *("action", "split contradicted", True, "A", 19_000, "w", "A: a split that never was"),
        "datalake decide accept w, or ignore w",
    )
    # As the next derivation would have it, which is why only the table of findings differs.
    write(lake, layout.FINDINGS_TABLE, table_of([told]))
    result = doctor()
    assert [line.partition(":")[0] for line in lines(result, "✗")] == [TABLES]
    assert "not damaged, but waiting for your decision; not applied until then:" in result.stdout
    assert "A: a split that never was\n  datalake decide accept w, or ignore w" in result.stdout
    (row,) = json.loads(doctor("--json").stdout)["to_decide"]
    assert (row["symbol"], row["action_id"], row["session"]) == ("A", "w", "2022-01-08")


# A lake in memory


def found(store: Store, now: datetime) -> dict[str, list[Defect]]:
    lake = LakeWriter(store)
    return {one.subject: list(one.defects) for one in examine(lake, besides=subjects(lake, now))}


@pytest.fixture
def store() -> Store:
    store = open_store("memory://")
    LakeWriter(store).claim("alpaca/sip")
    for day in WEEK:
        store.put(layout.session_key(day), session_bytes(day, every(names(4), [day])))
    return store


def test_a_lake_that_never_asked_for_actions_lacks_nothing(store: Store) -> None:
    told = found(store, NOW)
    assert (told[TABLES], told[ACTIONS]) == ([], [])


def test_tables_that_were_never_derived_are_missing_once_there_are_actions(store: Store) -> None:
    log = ActionLog(store)
    log.append(answer(action("d", names(4)[0], WEEK[2])), NOW)
    log.publish()
    told = found(store, NOW)
    assert {defect.repair for defect in told[TABLES]} == {"datalake securities"}
    derive(store)
    assert found(store, NOW)[TABLES] == []


def test_tables_are_behind_when_a_session_came(store: Store) -> None:
    ActionLog(store).append(answer(action("d", names(4)[0], WEEK[2])), NOW)
    store.delete(layout.session_key(WEEK[-1]))
    derive(store)
    day = WEEK[-1]
    store.put(layout.session_key(day), session_bytes(day, every(names(4), [day])))
    where = [defect.where for defect in found(store, NOW)[TABLES]]
    assert store.url(layout.SECURITIES_TABLE) in where


@pytest.mark.parametrize(("ahead", "wrong"), [(timedelta(hours=1), 0), (timedelta(hours=2), 1)])
def test_a_sweep_of_the_future_is_named(store: Store, ahead: timedelta, wrong: int) -> None:
    ActionLog(store).append(answer(action("d", "A", MONDAY)), NOW + ahead)
    told = found(store, NOW)["log of corporate actions"]
    assert len(told) == wrong
    assert all("which is to come" in one.what for one in told)
