"""`datalake doctor` finds what is wrong with a lake, and its commands repair it.

The lake is a real one: collected by the command line from an exchange, published, and known to
Dagster. Each test damages a copy of its own.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import click.testing
import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake_assets import catalog, market_calendar
from datalake_assets.collection.bars import empty
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.report import Ledger
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake import session_file
from datalake_assets.lake.coverage import coverage_between
from datalake_assets.lake.examination import Defect, Examination, Subject, examine, spans
from datalake_assets.lake.files import FORMAT
from datalake_assets.lake.restatements import Restatements, changes
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.staging import STAGING
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.collection.tables import MONDAY, WEEK, bar, every, names, table
from datalake_assets_tests.exchange.calling import keys_to
from datalake_assets_tests.lake.files import collected, flipped, metadata, rewritten, session_bytes
from datalake_assets_tests.rights import as_nobody
from datalake_assets_tests.test_cli import invoke

DAYS = [date(2023, 12, 28), date(2023, 12, 29), date(2024, 1, 2), date(2024, 1, 3)]
LAKE, RECORDS = Path(".datalake/lake"), Path(".datalake/dagster")


@pytest.fixture(scope="module")
def environ() -> Iterator[Mapping[str, str]]:
    """Of a person with keys to an exchange, who wants the sessions from `DAYS[0]` on."""
    with ExchangeServer(Exchange(SyntheticMarket(7, 12, 2))) as server:
        yield keys_to(server.url, DATALAKE_START_DATE=str(DAYS[0]))


@pytest.fixture(scope="module")
def whole(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a lake of four sessions in two years and Dagster's records of it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, folder, environ)
        result = invoke("collect", "--from", str(DAYS[0]), "--to", str(DAYS[-1]))
        assert result.exit_code == 0, result.output
    return folder


def enter(patch: pytest.MonkeyPatch, folder: Path, environ: Mapping[str, str]) -> None:
    for name, value in environ.items():
        patch.setenv(name, value)
    patch.chdir(folder)
    patch.setenv("DAGSTER_HOME", str(folder / RECORDS))
    (folder / "tmp").mkdir()
    patch.setattr(tempfile, "tempdir", str(folder / "tmp"))


@pytest.fixture
def lake(
    whole: Path, environ: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LakeWriter:
    """A copy of the lake, in the folder in which the commands run.

    Its files are links: a copied file has another version, as if somebody had written it.
    """
    enter(monkeypatch, tmp_path, environ)
    shutil.copytree(whole / LAKE, tmp_path / LAKE, copy_function=os.link)
    shutil.copytree(whole / RECORDS, tmp_path / RECORDS)
    return LakeWriter(open_store(str(LAKE)))


def doctor(*arguments: str) -> click.testing.Result:
    return invoke("doctor", *arguments)


def lines(result: click.testing.Result, sign: str) -> list[str]:
    """What it found out about the kinds of objects that are well (✓), or are not (✗)."""
    return [line[2:].partition(" (")[0] for line in result.stdout.splitlines() if line[:1] == sign]


def commands(result: click.testing.Result) -> list[str]:
    return re.findall(r"^ +→ +(.*)$", result.stdout, re.MULTILINE)


def assert_repaired(result: click.testing.Result) -> None:
    """Type what it says; after that all is well."""
    for command in commands(result):
        for part in command.split(" && "):
            if part.startswith("datalake "):
                done = invoke(*shlex.split(part)[1:])
                assert done.exit_code == 0, done.output
            else:
                subprocess.run(part, shell=True, check=True)
    after = doctor()
    assert (after.exit_code, lines(after, "✗")) == (0, []), after.output


def test_all_is_well_with_a_whole_lake(lake: LakeWriter) -> None:
    before = lake.store.versions()
    result = doctor()
    assert result.exit_code == 0, result.output
    assert commands(result) == lines(result, "✗") == []
    assert lines(result, "✓") == [
        "the lake's marker: 1 checked",
        "published sessions: 4 checked",
        "incomplete sessions: 0 checked",
        f"symbol-years against their sessions: {symbol_years(lake)} checked",
        "year files against their sessions: 2 checked",
        "restatements: 0 checked",
        "snapshots of the universe: 1 checked",
        "log of corporate actions: 0 checked",
        "corporate actions against their log: 0 checked",
        "your decisions: 0 checked",
        "identifiers of securities: 0 checked",
        "evidence of securities: 0 checked",
        "securities and factors against sessions and actions: 0 checked",
        "comparison with the source: 0 checked",
        "catalog for DuckDB: 0 checked",
        f"untracked objects: {len(lake.store.list('data'))} checked",
        "Dagster's records: 8 checked",
    ]
    assert lake.store.versions() == before


def symbol_years(lake: LakeWriter) -> int:
    return len(lake.store.list(layout.SYMBOL_YEARS))


def test_one_year_alone_is_looked_at(lake: LakeWriter) -> None:
    put(lake, layout.session_key(DAYS[0]), b"damaged")
    result = doctor("--year", "2024")
    assert result.exit_code == 0, result.output
    assert "published sessions: 2 checked" in lines(result, "✓")
    assert "Dagster's records: 4 checked" in lines(result, "✓")
    assert doctor("--year", "2023").exit_code == 1
    unknown = doctor("--year", "1999")
    assert unknown.exit_code == 2
    assert "has no data for 1999" in " ".join(unknown.stderr.split())


@pytest.mark.parametrize("command", [("doctor",), ("doctor", "--json"), ("publish",)])
def test_a_place_without_a_lake_is_wrong_input_and_no_healthy_lake(
    environ: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    enter(monkeypatch, tmp_path, environ)
    result = invoke(*command)
    assert result.exit_code == 2, result.output
    assert "correct DATALAKE_URI" in result.stderr
    assert "well" not in result.stdout
    assert not (tmp_path / LAKE).exists()


def test_json_tells_everything(lake: LakeWriter) -> None:
    told = json.loads(doctor("--json").stdout)
    assert (told["lake"], told["well"], len(told["examinations"])) == (lake.store.uri, True, 17)
    put(lake, layout.session_key(DAYS[1]), b"damaged")
    result = doctor("--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert not told["well"]
    (of_sessions,) = [one for one in told["examinations"] if one["subject"] == "published sessions"]
    (defect,) = of_sessions["defects"]
    assert defect["where"] == lake.store.url(layout.session_key(DAYS[1]))
    assert defect["repair"] == f"datalake collect --session {DAYS[1]}"


def test_a_catalog_that_shows_the_lake_as_it_is_is_well_also_in_another_folder(
    lake: LakeWriter, tmp_path: Path
) -> None:
    catalog.write(lake.store)
    assert "catalog for DuckDB: 1 checked" in lines(doctor(), "✓")
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / LAKE, moved, copy_function=os.link)
    assert catalog.difference(open_store(str(moved))) == ""


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_damaged_catalog_is_named_and_written_again(lake: LakeWriter, length: int) -> None:
    catalog.write(lake.store)
    lake.store.put(layout.CATALOG, lake.store.get(layout.CATALOG)[:length])

    result = doctor()

    assert result.exit_code == 1
    assert f"{lake.store.url(layout.CATALOG)}: it can't be read (" in result.stdout
    assert "copy.duckdb" not in result.stdout
    assert commands(result) == ["datalake catalog"]
    assert_repaired(result)


def test_a_catalog_that_is_older_than_a_year_file_is_named_and_written_again(
    lake: LakeWriter,
) -> None:
    file = lake.store.get(layout.year_file_key(2024))
    lake.store.delete(layout.year_file_key(2024))
    catalog.write(lake.store)
    lake.store.put(layout.year_file_key(2024), file)

    result = doctor()

    where = lake.store.url(layout.CATALOG)
    assert f"{where}: it is older than what it shows: bars" in result.stdout
    assert commands(result) == ["datalake catalog"]
    assert_repaired(result)


def test_a_catalog_that_lacks_a_table_of_the_lake_is_named(lake: LakeWriter) -> None:
    universe = {key: lake.store.get(key) for key in lake.store.list(layout.UNIVERSE)}
    for key in universe:
        lake.store.delete(key)
    catalog.write(lake.store)
    for key, data in universe.items():
        lake.store.put(key, data)

    told = f"{lake.store.url(layout.CATALOG)}: it lacks universe, which the lake has"
    assert told in doctor().stdout


# Damage, and its repair


def put(lake: LakeWriter, key: str, data: bytes) -> None:
    lake.store.put(key, data)  # a new file: the whole lake's own stays as it is


def damage_a_session(lake: LakeWriter) -> None:
    key = layout.session_key(DAYS[1])
    put(lake, key, flipped(lake.store.get(key), 100, 3))


def cut_a_session(lake: LakeWriter) -> None:
    key = layout.session_key(DAYS[1])
    put(lake, key, lake.store.get(key)[:-200])


def empty_a_session(lake: LakeWriter) -> None:
    put(lake, layout.session_key(DAYS[1]), b"")


def drop_a_row_and_keep_the_rest(lake: LakeWriter) -> None:
    """Of a symbol that has no bar: the rows are still those that the ledger could have."""
    key = layout.session_key(DAYS[1])
    put(lake, key, rewritten(lake.store.get(key), lake.read(DAYS[1]).bars.slice(1)))


def change_a_price_and_keep_the_rest(lake: LakeWriter) -> None:
    key = layout.session_key(DAYS[1])
    rows = lake.read(DAYS[1]).bars.to_pylist()
    rows[2]["close"] += 0.01
    put(lake, key, rewritten(lake.store.get(key), table(rows)))


def change_a_session_that_waits(lake: LakeWriter) -> None:
    data = lake.store.get(layout.session_key(DAYS[3]))
    bars = lake.read(DAYS[3]).bars
    put(lake, layout.incomplete_key(DAYS[3]), rewritten(data, bars.slice(1)))


def swap_two_symbol_years(lake: LakeWriter) -> None:
    one, other = (key for key in lake.store.list(layout.SYMBOL_YEARS)[:4] if "/2024/" in key)
    data = lake.store.get(one)
    put(lake, one, lake.store.get(other))
    put(lake, other, data)


def leave_what_a_killed_writer_staged(lake: LakeWriter) -> None:
    folder = Path(lake.store.uri)
    (folder / STAGING).mkdir(exist_ok=True)
    (folder / STAGING / "0123456789ab.7").write_bytes(b"half an obj")


def leave_what_others_stage_beside_the_data(lake: LakeWriter) -> None:
    key = lake.store.list(layout.SYMBOL_YEARS)[0]
    Path(lake.store.url(f"{key}")).with_name("ticks.parquet#1").write_bytes(lake.store.get(key))


def put_the_marker_of_another_source_there(lake: LakeWriter) -> None:
    put(lake, layout.MARKER, json.dumps({"format": FORMAT, "source": "elsewhere/iex"}).encode())


def put_a_folder_in_the_marker_s_place(lake: LakeWriter) -> None:
    lake.store.delete(layout.MARKER)
    (Path(lake.store.uri) / layout.MARKER).mkdir()


def put_a_folder_in_a_session_s_place(lake: LakeWriter) -> None:
    key = layout.session_key(DAYS[2])
    lake.store.delete(key)
    Path(lake.store.url(key)).mkdir()
    (Path(lake.store.url(key)) / "part-0.parquet").write_bytes(b"")


FOREIGN = (
    "2023-12-28 (1).parquet",
    "2023-12-28.parquet~",
    "Aufzählung.parquet",
    ".DS_Store",
    "a b'c",
)


def leave_foreign_files(lake: LakeWriter) -> None:
    for folder in (f"{layout.SESSIONS}/year=2023", layout.UNIVERSE):
        for name in FOREIGN:
            (Path(lake.store.uri) / folder / name).write_bytes(b"")


def leave_a_damaged_incomplete_session(lake: LakeWriter) -> None:
    put(lake, layout.incomplete_key(DAYS[3]), b"PAR1")


def damage_a_symbol_year(lake: LakeWriter) -> None:
    key = lake.store.list(layout.SYMBOL_YEARS)[3]
    put(lake, key, lake.store.get(key)[:-1])


def damage_a_year_file(lake: LakeWriter) -> None:
    key = layout.year_file_key(2024)
    data = lake.store.get(key)
    prices = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(3)
    put(lake, key, flipped(data, prices.data_page_offset + prices.total_compressed_size // 2, 3))


def cut_a_year_file(lake: LakeWriter) -> None:
    key = layout.year_file_key(2024)
    put(lake, key, lake.store.get(key)[:-9])


def delete_a_year_file(lake: LakeWriter) -> None:
    lake.store.delete(layout.year_file_key(2024))


def delete_symbol_years(lake: LakeWriter) -> None:
    for key in lake.store.list(layout.SYMBOL_YEARS)[2:6]:
        lake.store.delete(key)


def damage_a_manifest(lake: LakeWriter) -> None:
    put(lake, layout.manifest_key(2024), b"PAR1")


def delete_a_manifest(lake: LakeWriter) -> None:
    lake.store.delete(layout.manifest_key(2024))


def damage_the_marker(lake: LakeWriter) -> None:
    put(lake, layout.MARKER, b"{")


def delete_the_marker(lake: LakeWriter) -> None:
    lake.store.delete(layout.MARKER)


def damage_the_universe(lake: LakeWriter) -> None:
    (taken,) = lake.universe_days()
    put(lake, layout.universe_key(taken), b"PAR1")


def put_a_session_in_another_s_place(lake: LakeWriter) -> None:
    put(lake, layout.session_key(DAYS[2]), lake.store.get(layout.session_key(DAYS[3])))


def invent_a_session(lake: LakeWriter) -> None:
    day = date(2023, 12, 30)  # a Saturday
    rows = table(bar(symbol, DAYS[0]) | {"session": day} for symbol in ("A", "B"))
    put(lake, layout.session_key(day), session_bytes(day, rows))


def put_things_into_the_future(lake: LakeWriter) -> None:
    (taken,) = lake.universe_days()
    put(lake, layout.universe_key(FUTURE), lake.store.get(layout.universe_key(taken)))
    put(lake, layout.survey_key(FUTURE), b"")
    session = lake.read(DAYS[3])
    at = datetime.combine(FUTURE, time(), UTC)
    said = replace(session, provenance=replace(session.provenance, collected_at=at))
    put(lake, layout.session_key(DAYS[3]), session_file.encode(said, []))
    Restatements(lake.store).keep(changes(session.bars, session.bars.slice(1), DAWN, at))


FUTURE = date(2035, 12, 28)
DAWN = datetime(2024, 1, 4, tzinfo=UTC)


def damage_what_the_source_said(lake: LakeWriter) -> None:
    put(lake, layout.TESTIMONY, b"none")


def leave_strays(lake: LakeWriter) -> None:
    for key in (
        f"{layout.SYMBOL_YEARS}/ZZ/2024/ticks.parquet",
        f"{layout.SESSIONS}/year=2022/{DAYS[0]}.parquet",
        f"{layout.INCOMPLETE}/notes.txt",
    ):
        put(lake, key, b"")


def change_a_session_without_publishing(lake: LakeWriter) -> None:
    session = lake.read(DAYS[3])
    bars = session.bars.slice(1)
    ledger = replace(
        session.ledger,
        present=session.ledger.present[1:],
        no_print=(*session.ledger.no_print, session.ledger.present[0]),
    )
    changed = Session(bars, ledger, session.provenance)
    put(lake, layout.session_key(DAYS[3]), session_file.encode(changed, []))


def forget(lake: LakeWriter) -> None:
    """Dagster's records are lost."""
    shutil.rmtree(RECORDS)


def lose_a_session(lake: LakeWriter) -> None:
    lake.store.delete(layout.session_key(DAYS[2]))


PUBLISH = "datalake publish --year 2024"
COLLECT = ([f"datalake collect --session {DAYS[1]}", "datalake publish --year 2023"],)
YEARS = {"symbol-years against their sessions": 1, "year files against their sessions": 1}
BOTH = {"published sessions": 1, **YEARS}
# What such a session's footer says of its rows is what the year file holds.
ROWS_ALONE = {"published sessions": 1, "symbol-years against their sessions": 1}
DAMAGES: dict[Callable[[LakeWriter], None], tuple[dict[str, int], list[str]]] = {
    damage_a_session: (
        ROWS_ALONE,
        [f"datalake collect --session {DAYS[1]}", "datalake publish --year 2023"],
    ),
    cut_a_session: (BOTH, *COLLECT),
    empty_a_session: (BOTH, *COLLECT),
    drop_a_row_and_keep_the_rest: (ROWS_ALONE, *COLLECT),
    change_a_price_and_keep_the_rest: (ROWS_ALONE, *COLLECT),
    change_a_session_that_waits: (
        {"incomplete sessions": 1},
        [f"datalake collect --session {DAYS[3]}"],
    ),
    swap_two_symbol_years: ({"symbol-years against their sessions": 2}, [PUBLISH]),
    leave_what_a_killed_writer_staged: (
        {"untracked objects": 1},
        [f"rm -f {{lake}}/{STAGING}/0123456789ab.7"],
    ),
    leave_what_others_stage_beside_the_data: ({"untracked objects": 1}, []),
    put_the_marker_of_another_source_there: ({"the lake's marker": 1}, []),
    put_a_folder_in_the_marker_s_place: ({"the lake's marker": 1}, []),
    put_a_folder_in_a_session_s_place: (
        {**YEARS, "untracked objects": 1, "Dagster's records": 1},
        [
            PUBLISH,
            f"rm -r {{lake}}/{layout.session_key(DAYS[2])}",
            f"datalake collect --session {DAYS[2]}",
        ],
    ),
    leave_foreign_files: ({"untracked objects": 2 * len(FOREIGN)}, []),
    leave_a_damaged_incomplete_session: (
        {"incomplete sessions": 1},
        [f"datalake collect --session {DAYS[3]}"],
    ),
    damage_a_symbol_year: (
        {"symbol-years against their sessions": 1},
        [f"datalake publish --year {2023 + 3 % 2}"],
    ),
    delete_symbol_years: (
        {"symbol-years against their sessions": 4},
        ["datalake publish --year 2023", PUBLISH],
    ),
    damage_a_year_file: ({"year files against their sessions": 1}, [PUBLISH]),
    cut_a_year_file: ({"year files against their sessions": 1}, [PUBLISH]),
    delete_a_year_file: (
        {"year files against their sessions": 1, "Dagster's records": 1},
        [PUBLISH],
    ),
    damage_a_manifest: (
        {"symbol-years against their sessions": 1},
        [f"rm {{lake}}/{layout.manifest_key(2024)} && {PUBLISH}"],
    ),
    delete_a_manifest: (
        {"symbol-years against their sessions": 1, "Dagster's records": 1},
        [PUBLISH],
    ),
    damage_the_marker: ({"the lake's marker": 1}, []),
    delete_the_marker: ({"the lake's marker": 1}, []),
    damage_the_universe: ({"snapshots of the universe": 1}, []),
    put_a_session_in_another_s_place: (
        BOTH,
        [f"datalake collect --session {DAYS[2]}", PUBLISH],
    ),
    invent_a_session: (
        BOTH,
        [
            f"rm {{lake}}/{layout.session_key(date(2023, 12, 30))}",
            "datalake publish --year 2023",
        ],
    ),
    put_things_into_the_future: (
        {
            "published sessions": 1,
            "restatements": 1,
            "snapshots of the universe": 2,
        },
        [
            f"datalake collect --session {DAYS[3]}",
            f"rm {{lake}}/{layout.restatement_key(DAYS[3], datetime.combine(FUTURE, time(), UTC))}",
            f"rm {{lake}}/{layout.universe_key(FUTURE)}",
            f"rm {{lake}}/{layout.survey_key(FUTURE)}",
        ],
    ),
    damage_what_the_source_said: (
        {"comparison with the source": 1},
        [f"rm {{lake}}/{layout.TESTIMONY}"],
    ),
    leave_strays: (
        {"untracked objects": 3},
        [
            f"rm {{lake}}/{layout.SYMBOL_YEARS}/ZZ/2024/ticks.parquet",
            f"rm {{lake}}/{layout.INCOMPLETE}/notes.txt",
            f"rm {{lake}}/{layout.SESSIONS}/year=2022/{DAYS[0]}.parquet",
        ],
    ),
    change_a_session_without_publishing: (
        YEARS,
        [PUBLISH],
    ),
    forget: (
        {"Dagster's records": 5},
        [
            f"datalake backfill --from {DAYS[0]} --to {DAYS[-1]}",
            "datalake publish --year 2023",
            PUBLISH,
        ],
    ),
    lose_a_session: (
        {**YEARS, "Dagster's records": 1},
        [PUBLISH, f"datalake collect --session {DAYS[2]}"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_defect_is_named_and_its_command_repairs_it(
    damage: Callable[[LakeWriter], None], lake: LakeWriter
) -> None:
    damage(lake)
    result = doctor()
    assert result.exit_code == 1, result.output
    wrong = {
        line.partition(": ")[0]: int(re.findall(r", (\d+) wrong", line)[0])
        for line in lines(result, "✗")
    }
    expected, repairs = DAMAGES[damage]
    assert wrong == expected
    if repairs:
        assert commands(result) == [text.format(lake=lake.store.uri) for text in repairs]
    assert_repaired(result)


def test_what_dagster_believes_and_the_lake_lacks_is_collected_as_a_range(lake: LakeWriter) -> None:
    for day in DAYS[1:3]:
        lake.store.delete(layout.session_key(day))
    assert f"datalake collect --from {DAYS[1]} --to {DAYS[2]}" in commands(doctor())


def test_a_symbol_year_that_dagster_does_not_know_is_published(lake: LakeWriter) -> None:
    with dg.DagsterInstance.from_config(str(RECORDS)) as instance:
        instance.wipe_assets([dg.AssetKey("symbol_year_ticks")])
    result = doctor()
    assert (result.exit_code, commands(result)) == (1, ["datalake publish --year 2023", PUBLISH])
    what = "symbol-years of 2024: published per symbol, but not in Dagster's records"
    assert what in result.stdout
    assert_repaired(result)


def test_a_program_of_another_layout_is_what_a_lake_of_it_needs(lake: LakeWriter) -> None:
    put(lake, layout.MARKER, b'{"format": 99, "source": "alpaca/sip"}')
    result = doctor()
    assert result.exit_code == 1
    assert "the layout is 99, this program's is 2: use the version of that" in result.stdout


def test_a_store_that_can_t_be_reached_is_no_defect_of_the_lake(
    monkeypatch: pytest.MonkeyPatch, lake: LakeWriter
) -> None:
    monkeypatch.setenv("DATALAKE_URI", "s3://bucket")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    result = doctor()
    assert result.exit_code == 2
    assert "NoCredentials" in result.stderr


# What contradicts itself, on lakes made for it


def examined(store: Store) -> dict[str, Examination]:
    return {one.subject: one for one in examine(LakeWriter(store))}


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Six sessions, published."""
    uri = str(tmp_path / "small")
    if request.param == "s3":
        uri = str(request.getfixturevalue("s3_lake_uri"))
    made = open_store(uri)
    LakeWriter(made).claim("alpaca/sip")
    for day in WEEK:
        made.put(layout.session_key(day), session_bytes(day, every(names(4), [day])))
    SymbolYears(made).publish(2024)
    YearFiles(made).publish(2024)
    return made


def test_a_small_lake_is_well_wherever_it_lies(store: Store) -> None:
    assert [one.defects for one in examined(store).values()] == [[]] * 8


def test_an_object_is_removed_by_the_command_of_its_place(store: Store) -> None:
    key = f"{layout.SYMBOL_YEARS}/ZZ/2024/ticks.parquet"
    store.put(key, b"")
    (defect,) = examined(store)["untracked objects"].defects
    remover = "aws s3 rm" if store.uri.startswith("s3:") else "rm"
    assert defect.repair == f"{remover} {store.url(key)}"


ROWS = every(names(4), [MONDAY])
WRONG_ROWS: dict[str, Any] = {
    "timestamps other than 2024-07-01 04:00:00+00:00": lambda: collected(
        MONDAY, table([bar("A", timestamp=market_calendar.session_stamp(WEEK[1]))])
    ),
    "1 other session stands in its rows, such as 2024-07-02": lambda: collected(
        MONDAY,
        table([bar("A"), bar("B", WEEK[1], timestamp=market_calendar.session_stamp(MONDAY))]),
    ),
    "its ledger is of 2024-07-02": lambda: collected(WEEK[1], ROWS),
    "its bars come from 'alpaca/iex', the lake's from 'alpaca/sip'": lambda: replace(
        collected(MONDAY, ROWS),
        provenance=replace(collected(MONDAY, ROWS).provenance, source="alpaca/iex"),
    ),
}


@pytest.mark.parametrize("what", WRONG_ROWS)
@pytest.mark.parametrize("key", [layout.session_key(MONDAY), layout.incomplete_key(MONDAY)])
def test_a_session_that_contradicts_itself_is_named(what: str, key: str) -> None:
    store = open_store("memory://")
    LakeWriter(store).claim("alpaca/sip")
    store.put(key, session_file.encode(WRONG_ROWS[what](), []))
    subject = "published" if "/sessions/" in key else "incomplete"
    (defect,) = examined(store)[f"{subject} sessions"].defects
    assert defect.where == store.url(key)
    assert defect.what.startswith(what)
    assert defect.repair == "datalake collect --session 2024-07-01"


def test_rows_that_are_not_sorted_are_named() -> None:
    store = open_store("memory://")
    LakeWriter(store).claim("alpaca/sip")
    data = session_bytes(MONDAY, ROWS)
    reversed_ = pa.concat_tables([ROWS.slice(number, 1) for number in (3, 2, 1, 0)])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, ROWS.schema, store_schema=False) as writer:
        writer.write_table(reversed_)
        writer.add_key_value_metadata(metadata(data))
    store.put(layout.session_key(MONDAY), bytes(sink.getvalue()))
    (defect,) = examined(store)["published sessions"].defects
    assert defect.what == "its rows are not sorted by symbol"


def test_a_damaged_restatement_is_named_with_its_way_out() -> None:
    store = open_store("memory://")
    LakeWriter(store).claim("alpaca/sip")
    key = layout.restatement_key(MONDAY, datetime(2024, 7, 2, tzinfo=UTC))
    store.put(key, b"PAR1")
    (defect,) = examined(store)["restatements"].defects
    assert store.url(key) in defect.what
    assert "restore it from a backup" in defect.what


def test_files_that_may_not_be_read_are_named_with_their_rights_and_hide_nothing(
    folder_of_nobody: Path,
) -> None:
    store = open_store(str(folder_of_nobody / "lake"))
    LakeWriter(store).claim("alpaca/sip")
    for day in WEEK:
        store.put(layout.session_key(day), session_bytes(day, every(names(4), [day])))
    SymbolYears(store).publish(2024)
    universe = layout.universe_key(MONDAY)
    store.put(universe, b"")
    secret = [layout.session_key(WEEK[1]), universe, layout.MARKER]
    examined(store)  # whatever it imports late
    for key in secret:
        Path(store.url(key)).chmod(0)
    store.put(layout.session_key(WEEK[3]), b"damaged")
    lake = LakeWriter(store)
    with as_nobody():
        found = examined(store)
        held = coverage_between(lake)
        assert list(lake.printed(WEEK)) == [WEEK[0], *WEEK[2:3], *WEEK[4:]]
    assert held.damaged == tuple(store.url(layout.session_key(WEEK[n])) for n in (1, 3))
    told = {d.where: d.repair for one in found.values() for d in one.defects}
    for key in secret:
        assert told.pop(store.url(key)) == f"chmod u+r {store.url(key)}"
    assert told == {
        store.url(layout.session_key(WEEK[3])): f"datalake collect --session {WEEK[3]}",
        store.url(layout.manifest_key(2024)): "datalake publish --year 2024",
        store.url(layout.year_file_key(2024)): "datalake publish --year 2024",
    }


def test_a_package_that_keeps_objects_of_its_own_contributes_its_findings() -> None:
    store = open_store("memory://")
    lake = LakeWriter(store)
    lake.claim("alpaca/sip")
    store.put("data/actions/2024.parquet", b"")
    (stray,) = examined(store)["untracked objects"].defects
    assert stray.where == store.url("data/actions/2024.parquet")
    wrong = Defect("data/actions/2024.parquet", "it is empty", "datalake actions")
    actions = Subject(
        "corporate actions",
        lambda progress: (1, [wrong]),
        lambda key: key.startswith("data/actions/"),
    )
    found = {one.subject: one for one in examine(lake, besides=[actions])}
    assert found["corporate actions"].defects == [wrong]
    assert found["untracked objects"].defects == []
    assert "corporate actions" not in {one.subject for one in examine(lake, [2024])}


def test_spans_have_no_holes() -> None:
    assert spans([], WEEK) == []
    assert spans([WEEK[3]], WEEK) == [(WEEK[3], WEEK[3])]
    assert spans([WEEK[4], WEEK[0], WEEK[1], WEEK[5]], WEEK) == [
        (WEEK[0], WEEK[1]),
        (WEEK[4], WEEK[5]),
    ]


@pytest.mark.parametrize(("before", "wrong"), [(1, 1), (0, 0)])
def test_a_session_that_has_not_closed_can_not_be_published(
    tmp_path: Path, before: int, wrong: int
) -> None:
    lake, day = LakeWriter(open_store(str(tmp_path))), WEEK[-1]
    put(lake, layout.session_key(day), session_bytes(day, every(names(4), [day])))
    closed = market_calendar.session_close(day)

    class Then(Clock):
        def now(self) -> datetime:
            return closed - timedelta(seconds=before)

    found = {one.subject: one for one in examine(lake, clock=Then())}["published sessions"]
    told = [(one.what, one.repair) for one in found.defects if "still to come" in one.what]
    place = f"rm {lake.store.url(layout.session_key(day))}"
    assert told == [(f"the session of {day} is still to come", place)] * wrong


# Minute bars


@pytest.fixture
def minutes(lake: LakeWriter, monkeypatch: pytest.MonkeyPatch) -> LakeWriter:
    """The lake with the minutes of its last session, which Dagster knows."""
    monkeypatch.setenv("DATALAKE_MINUTES", "regular")
    result = invoke("collect", "--minutes", "--session", str(DAYS[-1]))
    assert result.exit_code == 0, result.output
    return lake.of(MINUTE)


def test_a_session_of_minutes_that_is_gone_or_damaged_is_repaired_by_what_it_says(
    minutes: LakeWriter,
) -> None:
    assert "minute bars: published sessions: 1 checked" in lines(doctor(), "✓")
    key = minutes.session_key(DAYS[-1])
    data = minutes.store.get(key)

    minutes.store.delete(key)
    gone = doctor()
    assert commands(gone) == [f"datalake collect --minutes --session {DAYS[-1]}"]
    assert f"minute bars of session {DAYS[-1]}: materialized in Dagster's" in gone.stdout
    minutes.store.put(key, flipped(data, len(data) // 2, 3))
    damaged = doctor()
    assert lines(damaged, "✗") == ["minute bars: published sessions: 1 checked, 1 wrong"]
    assert_repaired(damaged)
    assert minutes.read(DAYS[-1]).bars.equals(session_file.decode(data, key).bars)


def test_minutes_that_dagster_does_not_know_are_told(minutes: LakeWriter) -> None:
    with dg.DagsterInstance.from_config(str(RECORDS.resolve())) as records:
        records.wipe_assets([dg.AssetKey("minute_ticks")])

    result = doctor()

    (day,) = minutes.sessions()
    assert f"minute bars of session {day}: published, but not in Dagster's records" in result.stdout
    assert commands(result) == [f"datalake backfill --minutes --from {day} --to {day}"]


def test_incomplete_minutes_are_named_with_the_command_that_repairs_them(
    minutes: LakeWriter,
) -> None:
    day = DAYS[-2]
    standing = minutes.read(DAYS[-1])
    assert doctor().stdout.count("to repair") == 0
    ledger = Ledger(day, pending=tuple(sorted(standing.ledger.symbols)))
    minutes.keep_incomplete(replace(standing, bars=empty(), ledger=ledger), [])

    result = doctor()

    assert result.exit_code == 0, "not damaged"
    assert f"minute bars of {day} are incomplete" in result.stdout
    repair = f"datalake collect --minutes --session {day} --repair"
    assert commands(result) == [repair]
    assert json.loads(doctor("--json").stdout)["minutes_to_repair"] == [str(day)]
    assert_repaired(result)
    assert minutes.incomplete() == []
    assert minutes.sessions() == DAYS[-2:]


def test_minutes_that_are_turned_off_are_looked_at_and_not_counted(
    minutes: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = minutes.session_key(DAYS[-1])
    data = minutes.store.get(key)
    standing = minutes.read(DAYS[-1])
    ledger = Ledger(DAYS[-2], failed={"AUE": "HTTP 500"})
    minutes.keep_incomplete(replace(standing, bars=empty(), ledger=ledger), [])
    minutes.store.put(key, flipped(data, len(data) // 2, 3))
    monkeypatch.delenv("DATALAKE_MINUTES")

    result = doctor()

    assert result.exit_code == 0
    assert lines(result, "·") == ["minute bars: published sessions: 1 checked, 1 wrong"]
    assert lines(result, "✗") == commands(result) == []
    told = result.stdout.partition("not counted, as minute bars are turned off (DATALAKE_MINUTES)")
    assert f"{minutes.store.url(key)}: it is damaged" in told[2]
    assert "to retry" not in result.stdout
    assert "--minutes" not in result.stdout
    found = json.loads(doctor("--json").stdout)
    assert (found["well"], found["minutes_to_repair"], found["failures"]) == (True, [], [])
    (wrong,) = [one for one in found["examinations"] if one["defects"]]
    assert (wrong["counted"], wrong["defects"][0]["repair"]) == (False, "")


def test_dagsters_records_of_minutes_that_are_turned_off_are_not_compared(
    minutes: LakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes.store.delete(minutes.session_key(DAYS[-1]))
    assert doctor().exit_code == 1
    monkeypatch.setenv("DATALAKE_MINUTES", "off")

    result = doctor()

    assert (result.exit_code, commands(result)) == (0, [])
