"""A session file explains itself, is the same for the same answers, and is noticed when broken."""

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import fastparquet
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection.audit import Finding, Verdict, audit
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.report import Ledger, State
from datalake_assets.lake.fingerprint import fingerprint
from datalake_assets.lake.session_file import (
    Provenance,
    Session,
    decode,
    digest,
    encode,
    summarize,
)
from datalake_assets.storage.store import BrokenFileError
from datalake_assets_tests.collection.tables import MONDAY, bar, every, names, table
from datalake_assets_tests.lake.files import (
    alike_but_for,
    before_footer,
    flipped,
    footer_size,
    metadata,
    rewritten,
)

COLLECTED = Provenance(
    collected_at=datetime(2024, 7, 1, 20, 31, 5, 123456, tzinfo=UTC),
    source="alpaca/sip",
    listed=date(2024, 7, 2),
    run_id="7b1e",
    version="1.2.3",
    collection={"requests": 11, "retries": 0, "duration_seconds": 1.25},
)
SYMBOLS = names(1200)
LEDGER = Ledger(
    MONDAY,
    present=SYMBOLS,
    no_print=("ZA", "ZB"),
    failed={"ZC": 'HTTP 503: "busy" – überlastet'},
    pending=("ZD",),
    rejected={"ZE-1": "invalid symbol: ZE-1"},
)
WHOLE = Session(every(SYMBOLS), LEDGER, COLLECTED)
FINDINGS = audit(WHOLE.bars, LEDGER, [])
DATA = encode(WHOLE, FINDINGS)


PROVENANCE = b"datalake.provenance"


# Round trip


symbols_ = st.from_regex(r"[A-Z]{1,5}(\.[A-Z]{1,2})?", fullmatch=True)
reasons = st.text(max_size=40)
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 2**63 - 1)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    universe = draw(st.lists(symbols_, unique=True, max_size=30))
    states = {symbol: draw(st.sampled_from(State)) for symbol in universe}
    of = {state: [s for s in sorted(universe) if states[s] is state] for state in State}
    ledger = Ledger(
        MONDAY,
        present=tuple(of[State.PRESENT]),
        no_print=tuple(of[State.NO_PRINT]),
        failed={symbol: draw(reasons) for symbol in of[State.FAILED]},
        pending=tuple(of[State.PENDING]),
        rejected={symbol: draw(reasons) for symbol in of[State.REJECTED]},
    )
    prices = ("open", "high", "low", "close", "vwap")
    rows = table(
        bar(
            symbol,
            **{name: draw(numbers) for name in prices},
            volume=draw(counts),
            trade_count=draw(counts),
        )
        for symbol in ledger.present
    )
    provenance = Provenance(
        collected_at=draw(st.datetimes(timezones=st.just(UTC))),
        source=draw(st.text(max_size=20)),
        listed=draw(st.dates()),
        run_id=draw(st.text(max_size=20)),
        version=draw(st.text(max_size=8)),
        collection=draw(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=9))),
    )
    return Session(rows, ledger, provenance)


@given(sessions())
@settings(max_examples=60)
def test_what_is_encoded_is_what_is_decoded(session: Session) -> None:
    found = audit(session.bars, session.ledger, [])
    data = encode(session, found)
    again = decode(data, "here")
    assert again.bars.schema == SCHEMA
    assert again.bars.equals(session.bars)
    assert again.ledger == session.ledger
    assert again.provenance == session.provenance
    assert encode(again, found) == data


@given(sessions())
@settings(max_examples=40)
def test_the_footer_tells_what_the_whole_file_tells(session: Session) -> None:
    found = audit(session.bars, session.ledger, [])
    data = encode(session, found)
    whole = summarize(data, "here")
    assert whole.session == session.ledger.session
    assert whole.rows == session.bars.num_rows
    assert whole.counts == {state.value: n for state, n in session.ledger.counts.items()}
    assert whole.provenance == session.provenance
    assert [told["rule"] for told in whole.audit] == [finding.rule for finding in found]
    size = footer_size(data)
    for tail in (data, data[-size:], data[-size - 1 :]):
        assert summarize(tail, "here") == whole


def test_the_audit_travels_with_its_numbers() -> None:
    assert summarize(DATA, "here").audit == [
        {
            "rule": finding.rule,
            "verdict": finding.verdict.value,
            "value": finding.value,
            "threshold": finding.threshold,
            "detail": finding.detail,
        }
        for finding in FINDINGS
    ]


def test_the_ledger_travels_with_its_reasons() -> None:
    assert decode(DATA, "here").ledger == LEDGER
    assert json.loads(metadata(DATA)[b"datalake.ledger"]) == {
        "session": "2024-07-01",
        "no_print": ["ZA", "ZB"],
        "failed": {"ZC": 'HTTP 503: "busy" – überlastet'},
        "pending": ["ZD"],
        "rejected": {"ZE-1": "invalid symbol: ZE-1"},
    }


def test_a_session_without_any_bar_is_a_file_too() -> None:
    silent = Session(every(()), Ledger(MONDAY, failed={"A": "boom"}), COLLECTED)
    data = encode(silent, [])
    again = decode(data, "here")
    assert again.ledger == silent.ledger
    assert again.bars.equals(silent.bars)
    assert summarize(data, "here").counts["failed"] == 1


# The same bytes


def test_the_same_session_makes_the_same_bytes() -> None:
    assert encode(Session(every(SYMBOLS), LEDGER, COLLECTED), FINDINGS) == DATA


def chunked(bars: pa.Table, size: int) -> pa.Table:
    return pa.concat_tables([bars.slice(n, size) for n in range(0, bars.num_rows, size)])


@pytest.mark.parametrize(
    "bars",
    [
        pytest.param(chunked(WHOLE.bars, 7), id="in many pieces"),
        pytest.param(pa.concat_tables([every(("A",)), WHOLE.bars]).slice(1), id="after a piece"),
        pytest.param(
            pa.concat_tables([every(("A",)), WHOLE.bars]).combine_chunks().slice(1), id="a slice"
        ),
        pytest.param(WHOLE.bars.take(list(range(WHOLE.bars.num_rows))), id="a copy"),
        pytest.param(WHOLE.bars.replace_schema_metadata({"who": "else"}), id="with metadata"),
    ],
)
def test_how_the_bars_lie_in_memory_leaves_no_trace(bars: pa.Table) -> None:
    assert encode(replace(WHOLE, bars=bars), FINDINGS) == DATA


def test_a_ledger_given_in_another_order_makes_the_same_bytes() -> None:
    turned = Ledger(
        MONDAY,
        present=LEDGER.present[::-1],
        no_print=LEDGER.no_print[::-1],
        failed=LEDGER.failed,
        pending=LEDGER.pending,
        rejected=LEDGER.rejected,
    )
    assert encode(replace(WHOLE, ledger=turned), FINDINGS) == DATA


def test_another_collection_of_the_same_answers_differs_in_its_provenance_only() -> None:
    later = replace(
        COLLECTED,
        collected_at=COLLECTED.collected_at + timedelta(days=400),
        run_id="another, longer one",
        collection={"requests": 12},
    )
    other = encode(replace(WHOLE, provenance=later), FINDINGS)
    assert other != DATA
    assert alike_but_for(DATA, other, PROVENANCE)


def altered_files() -> dict[str, bytes]:
    """What other programs may make of the file, each whole and readable."""
    rows = WHOLE.bars.to_pylist()
    price = [row | {"close": row["close"] + 0.01} if n == 7 else row for n, row in enumerate(rows)]
    none = [row | {"vwap": None} if n == 7 else row for n, row in enumerate(rows)]

    def told(name: bytes, old: bytes, new: bytes) -> bytes:
        texts = metadata(DATA)
        assert old in texts[name]
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, SCHEMA, store_schema=False) as writer:
            writer.write_table(WHOLE.bars)
            writer.add_key_value_metadata(texts | {name: texts[name].replace(old, new)})
        return bytes(sink.getvalue())

    return {
        "a row less": rewritten(DATA, WHOLE.bars.slice(1)),
        "a row twice": rewritten(DATA, pa.concat_tables([WHOLE.bars, WHOLE.bars.slice(0, 1)])),
        "another price": rewritten(DATA, table(price)),
        "a price less": rewritten(DATA, table(none)),
        "another state": told(b"datalake.ledger", b"ZA", b"ZX"),
        "another verdict": told(b"datalake.audit", b"pass", b"fail"),
        "another source": told(PROVENANCE, b"alpaca/sip", b"alpaca/iex"),
        "no digest": told(b"datalake.digest", b"rows", b"sums"),
    }


@pytest.mark.parametrize("what", altered_files())
def test_a_file_that_another_program_changed_does_not_pass_for_what_was_written(what: str) -> None:
    data = altered_files()[what]
    with pytest.raises(BrokenFileError, match="collect the session again"):
        decode(data, "here")


def test_a_file_that_another_program_wrote_with_the_same_rows_is_the_same_session() -> None:
    again = decode(rewritten(DATA, WHOLE.bars), "here")
    assert again.bars.equals(WHOLE.bars)
    assert (again.ledger, again.provenance) == (WHOLE.ledger, WHOLE.provenance)
    assert digest(DATA, "here") == fingerprint(WHOLE.bars)


@pytest.mark.parametrize("size", [2046, 2047, 2048, 4094, 4095, 20_000])
def test_the_digest_of_texts_is_that_of_all_of_them_each_with_a_null_byte(size: int) -> None:
    more = size - len(Ledger(MONDAY, failed={"A": ""}).to_json())
    ledger = Ledger(MONDAY, failed={"A": "x" * more})
    told = metadata(encode(Session(every([]), ledger, COLLECTED), []))
    assert len(told[b"datalake.ledger"]) == size
    texts = (told[b"datalake." + name] + b"\0" for name in (b"ledger", b"audit", b"provenance"))
    found = json.loads(told[b"datalake.digest"])["texts"]
    assert found == hashlib.blake2b(b"".join(texts), digest_size=16).hexdigest()


def test_the_error_tells_how_many_rows_there_are_and_were() -> None:
    with pytest.raises(
        BrokenFileError, match="it holds 1,199 rows, .* was written with 1,200 rows"
    ):
        decode(rewritten(DATA, WHOLE.bars.slice(1)), "here")


def test_a_missing_value_is_kept_as_one_by_the_file_and_by_every_reader(tmp_path: Path) -> None:
    rows = [bar("A"), bar("B", vwap=None, trade_count=None), bar("C", vwap=0.0, trade_count=0)]
    bars = table(rows)
    ledger = Ledger(MONDAY, present=("A", "B", "C"))
    data = encode(Session(bars, ledger, COLLECTED), [])
    assert decode(data, "here").bars.equals(bars)
    path = tmp_path / "session.parquet"
    path.write_bytes(data)
    assert pl.read_parquet(path)["trade_count"].to_list()[1:] == [None, 0]
    assert pd.read_parquet(path)["vwap"].isna().tolist() == [False, True, False]
    with path.open("rb") as file:
        found = fastparquet.ParquetFile(file).to_pandas()
    assert found["vwap"].isna().tolist() == found["trade_count"].isna().tolist()
    assert found["trade_count"].isna().tolist() == [False, True, False]
    assert found["volume"].tolist() == bars["volume"].to_pylist()


def test_another_price_or_another_state_is_another_file() -> None:
    rows = WHOLE.bars.to_pylist()
    rows[600]["close"] += 0.0001
    restated = encode(replace(WHOLE, bars=table(rows)), FINDINGS)
    assert not alike_but_for(DATA, restated, PROVENANCE)
    ledger = replace(LEDGER, pending=(), no_print=(*LEDGER.no_print, "ZD"))
    repaired = encode(replace(WHOLE, ledger=ledger), FINDINGS)
    assert not alike_but_for(DATA, repaired, PROVENANCE)


# Bars and ledger can't come apart


@pytest.mark.parametrize(
    "bars",
    [
        pytest.param(every(SYMBOLS[:-1]), id="one is missing"),
        pytest.param(every((*SYMBOLS, "ZZ")), id="one too many"),
        pytest.param(WHOLE.bars.take(list(range(1199, -1, -1))), id="another order"),
        pytest.param(pa.concat_tables([WHOLE.bars, WHOLE.bars.slice(1199)]), id="one twice"),
    ],
)
def test_bars_that_are_not_the_ledgers_are_not_encoded(bars: pa.Table) -> None:
    with pytest.raises(ValueError, match="2024-07-01: the bars are not those"):
        encode(replace(WHOLE, bars=bars), FINDINGS)


# Broken files


def parquet_without(*missing: bytes) -> bytes:
    kept = {key: value for key, value in metadata(DATA).items() if key not in missing}
    return parquet(WHOLE.bars, kept)


def parquet(bars: pa.Table, told: dict[bytes, Any]) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, bars.schema, store_schema=False) as writer:
        writer.write_table(bars)
        writer.add_key_value_metadata(told)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"PAR1", id="magic only"),
        pytest.param(b"<html>not found</html>", id="something else"),
        pytest.param(DATA[:-1], id="without its last byte"),
        pytest.param(DATA[: len(DATA) // 2], id="its first half"),
        pytest.param(DATA[len(DATA) // 2 :], id="its second half"),
        pytest.param(parquet_without(b"datalake.ledger"), id="no ledger"),
        pytest.param(parquet_without(b"datalake.provenance"), id="no provenance"),
        pytest.param(
            parquet(WHOLE.bars.drop_columns(["vwap"]), metadata(DATA)), id="a column less"
        ),
        pytest.param(
            parquet(WHOLE.bars, metadata(DATA) | {b"datalake.ledger": b"{"}), id="a cut ledger"
        ),
        pytest.param(
            parquet(WHOLE.bars, metadata(DATA) | {b"datalake.ledger": b"[]"}), id="an odd ledger"
        ),
        pytest.param(
            parquet(
                WHOLE.bars,
                metadata(DATA)
                | {b"datalake.ledger": b'{"session":"2024-07-01","pending":["S00001"]}'},
            ),
            id="a symbol in two states",
        ),
        pytest.param(
            parquet(WHOLE.bars, metadata(DATA) | {b"datalake.provenance": b'{"listed":1}'}),
            id="an odd provenance",
        ),
    ],
)
def test_what_is_no_whole_session_file_is_told_with_its_place_and_what_to_do(data: bytes) -> None:
    with pytest.raises(
        BrokenFileError, match="s3://there/x.parquet is no whole.*collect"
    ) as caught:
        decode(data, "s3://there/x.parquet")
    assert caught.value.__cause__ is not None


def test_a_file_cut_anywhere_is_broken() -> None:
    small = encode(Session(every(names(3)), Ledger(MONDAY, names(3)), COLLECTED), [])
    for length in range(len(small)):
        with pytest.raises(BrokenFileError):
            decode(small[:length], "here")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100])
def test_too_short_a_tail_is_told_as_broken_so_that_more_can_be_read(length: int) -> None:
    with pytest.raises(BrokenFileError, match="here"):
        summarize(DATA[len(DATA) - length :], "here")


@given(st.integers(0, len(DATA) - 1), st.integers(0, 7))
@settings(max_examples=300)
def test_a_flipped_bit_raises_nothing_but_broken_file_error(place: int, bit: int) -> None:
    damaged = flipped(DATA, place, bit)
    for reading in (decode, summarize):
        with suppress(BrokenFileError):
            reading(damaged, "here")


@given(st.integers(4, len(before_footer(DATA)) - 1), st.integers(0, 7))
@settings(max_examples=300)
def test_a_flipped_bit_never_changes_a_bar_unnoticed(place: int, bit: int) -> None:
    with suppress(BrokenFileError, OSError):  # which of them is told by the test above
        assert decode(flipped(DATA, place, bit), "here").bars.equals(WHOLE.bars)


# Other readers


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "year=2024" / "2024-07-01.parquet"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


ROWS = WHOLE.bars.to_pylist()


def test_duckdb_reads_the_types_of_the_contract(file: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        relation = connection.sql(f"SELECT * EXCLUDE (year) FROM '{file}' ORDER BY symbol")
        kinds = [str(kind) for kind in relation.types]
        assert kinds == [
            *("VARCHAR", "DATE", "TIMESTAMP WITH TIME ZONE"),
            *("DOUBLE",) * 5,
            *("BIGINT",) * 2,
        ]
        assert relation.columns == SCHEMA.names
        told = connection.sql(
            "SELECT symbol, session, epoch_us(timestamp), open, high, low, close, vwap, volume, "
            f"trade_count FROM '{file}' ORDER BY symbol"
        ).fetchall()
    assert told == [
        tuple(
            round(value.timestamp() * 1e6) if isinstance(value, datetime) else value
            for value in row.values()
        )
        for row in ROWS
    ]


def test_polars_reads_the_types_of_the_contract(file: Path) -> None:
    frame = pl.read_parquet(file, hive_partitioning=False)
    assert frame.schema == {
        "symbol": pl.String,
        "session": pl.Date,
        "timestamp": pl.Datetime("us", "UTC"),
        **dict.fromkeys(("open", "high", "low", "close", "vwap"), pl.Float64),
        **dict.fromkeys(("volume", "trade_count"), pl.Int64),
    }
    assert frame.rows(named=True) == ROWS


def test_pandas_reads_the_types_of_the_contract(file: Path) -> None:
    frame = pd.read_parquet(io.BytesIO(file.read_bytes()))
    assert list(frame.columns) == SCHEMA.names
    assert str(frame["timestamp"].dtype) == "datetime64[us, UTC]"
    assert {str(frame[name].dtype) for name in ("open", "high", "low", "close", "vwap")} == {
        "float64"
    }
    assert {str(frame[name].dtype) for name in ("volume", "trade_count")} == {"int64"}
    assert frame["session"].tolist() == [MONDAY] * len(ROWS)
    assert frame["symbol"].tolist() == list(SYMBOLS)
    assert frame["close"].tolist() == [row["close"] for row in ROWS]
    assert frame["timestamp"].tolist() == [pd.Timestamp(row["timestamp"]) for row in ROWS]


def test_pyarrow_reads_the_types_of_the_contract(file: Path) -> None:
    read = pq.ParquetFile(file).read()
    assert [(field.name, field.type) for field in read.schema] == [
        (field.name, field.type) for field in SCHEMA
    ]
    assert read.to_pylist() == ROWS


def test_rows_are_sorted_by_symbol_and_the_file_says_so(file: Path) -> None:
    read = pq.ParquetFile(file)
    assert read.metadata.row_group(0).sorting_columns == (pq.SortingColumn(0),)
    column = read.metadata.row_group(0).column(0)
    assert (column.statistics.min, column.statistics.max) == (SYMBOLS[0], SYMBOLS[-1])


def test_a_finding_of_every_verdict_is_kept() -> None:
    told: Sequence[Finding] = [
        Finding("a", Verdict.PASS, 1.0, 0.5, "good"),
        Finding("b", Verdict.WARN, 0.0001, 0.001, "one odd", ("AAAA",)),
        Finding("c", Verdict.FAIL, None, 0.0, "not judged"),
    ]
    kept = summarize(encode(WHOLE, told), "here").audit
    assert [(each["rule"], each["verdict"], each["value"]) for each in kept] == [
        ("a", "pass", 1.0),
        ("b", "warn", 0.0001),
        ("c", "fail", None),
    ]
