"""No name that comes from outside leads out of the lake's root.

Symbols of a setting, of the source's list, of the command line; keys of an uploaded folder. The
rule itself is the store's (`lake/test_store`), the Lambda's events are in `test_lambda_handler`.
"""

import shutil
from datetime import date
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from datalake_assets.cli import app
from datalake_assets.collection.universe import askable
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.settings import Settings, SettingsError, read_symbols
from datalake_assets.storage import layout
from datalake_assets.storage.store import checked_key, open_store
from datalake_assets_tests.lake.test_reader import write

WORDS = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(["..", ".", "/", "\\", "A", "a", "%2e", "\0", " ", "~"])).map("".join),
)
DAY = date(2024, 7, 3)


def inside(key: str) -> bool:
    """Is this a key of one object below the folder of symbol-years?"""
    path = PurePosixPath(checked_key(key))
    return ".." not in path.parts and path.parts[:3] == ("data", "ticks", "daily")


@given(WORDS)
@example("../AAPL")
@example("AAPL/../../x")
@example(".")
@example("A..B")
def test_a_symbol_that_the_setting_or_the_source_may_name_is_one_folder(word: str) -> None:
    try:
        named = read_symbols(word) if not word.startswith("@") else ()
    except SettingsError:
        named = ()
    for symbol in (*named, *([word] if askable(word) else ())):
        key = layout.symbol_year_key(symbol, 2024)
        assert inside(key)
        assert layout.symbol_year(key) == (symbol, 2024)


@pytest.mark.parametrize("word", ["../AAPL", "AAPL/../MSFT", "..", "/etc/passwd", "A\0B", "a b/c"])
def test_a_symbol_with_a_path_in_it_is_refused_by_the_setting(word: str) -> None:
    with pytest.raises(SettingsError, match="not valid|must hold"):
        Settings.load({"DATALAKE_SYMBOLS": word})


@given(WORDS)
@example("a/b")
@example("a")
def test_no_key_writes_or_reads_beside_the_lake(
    tmp_path_factory: pytest.TempPathFactory, word: str
) -> None:
    around = tmp_path_factory.getbasetemp() / "confined"
    root = around / "lake"
    # A folder that another word left would be in the way of this one, if that is its name.
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (around / "secret").write_bytes(b"secret")
    store = open_store(str(root))
    try:
        store.put(word, b"bars")
    except ValueError:
        with pytest.raises(ValueError, match="is not a valid key"):
            store.get(word)
    else:
        assert (root / word).resolve().is_relative_to(root.resolve())
        store.delete(word)
    assert sorted(path.name for path in around.iterdir()) == ["lake", "secret"]
    assert (around / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("symbol", ["../x", "../../../outside", "/etc/passwd", ".."])
def test_show_reads_no_file_beside_the_lake(tmp_path: Path, symbol: str) -> None:
    lake = LakeWriter(open_store(str(tmp_path / "lake")))
    lake.claim("alpaca/sip")
    write(lake.store, DAY, ["AAPL"])
    told = CliRunner().invoke(app, ["show", symbol], env={"DATALAKE_URI": lake.store.uri})

    assert told.exit_code == 2
    assert symbol.upper() in told.output
    assert "neither" in told.output or "no symbol" in told.output
