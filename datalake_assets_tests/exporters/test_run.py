"""Exports that are stopped, run again, changed and refused; by the formats that need no package."""

import fcntl
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.exporters import lean, qlib, run
from datalake_assets.exporters.folder import RECORD, STAGING, Folder, FolderError
from datalake_assets.exporters.run import TOOLS, MissingToolError, export
from datalake_assets.exporters.selection import Selection, session_on_or_after
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.exporters.market import (
    DAYS,
    DEAD,
    LATER,
    LONG,
    MERGED,
    RENAME,
    REUSED,
    SPLIT,
    lake_in,
)
from datalake_assets_tests.securities.bars import action
from datalake_assets_tests.securities.deriving import derive, say

BOTH = ("qlib", "lean")


class Stopped(Exception):  # noqa: N818 - what a kill would be
    """The run ended here."""


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of an export, with the number that a replaced file would not keep."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_ino)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != RECORD
    }


def contents(root: Path) -> dict[str, bytes]:
    return {name: data for name, (data, _) in tree(root).items()}


def stopped_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run ends before it writes its n-th file, with half of it in staging."""
    left = count
    write = Folder.write

    def written(self: Folder, name: str, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            (self.staging / "file").write_bytes(data[: len(data) // 2])
            raise Stopped
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", written)


# --- again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", BOTH)
def test_a_second_run_of_the_same_writes_and_reads_nothing(
    tool: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export(tool, lake, tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr(Selection, "read", None)

    again = export(tool, lake, tmp_path)

    assert not first.unchanged
    assert first.written == len(before)
    assert (again.unchanged, again.written, again.kept, again.removed) == (True, 0, 0, 0)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("tool", BOTH)
@pytest.mark.parametrize("count", [1, 2])
def test_what_a_killed_run_wrote_of_others_is_removed_by_the_next(
    tool: str, count: int, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_after(count, patch)
        with pytest.raises(Stopped):
            export(tool, lake, tmp_path / "killed", ["LONG"])

    export(tool, lake, tmp_path / "killed", ["THIN"])

    export(tool, lake, tmp_path / "whole", ["THIN"])
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("tool", BOTH)
@pytest.mark.parametrize("count", [0, 1, 5, 11])
def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    tool: str, count: int, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tool, lake, tmp_path / "whole")
    root = tmp_path / "killed"
    with monkeypatch.context() as patch:
        stopped_after(count, patch)
        with pytest.raises(Stopped):
            export(tool, lake, root)
    before = tree(root)
    assert len(before) == count

    export(tool, lake, root)

    assert contents(root) == contents(tmp_path / "whole")
    after = tree(root)
    assert {name: after[name] for name in before} == before  # none of them was written twice
    assert not (root / STAGING).exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from datalake_assets import Lake
from datalake_assets.exporters import run
from datalake_assets.exporters.folder import Folder

left = int(sys.argv[3])
replace = os.replace

def replaced(source, target):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    left -= Path(target).suffix == ".bin"

os.replace = replaced
run.export("qlib", Lake.open(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_process_leaves_nothing_half_written_and_no_lock(
    lake: Lake, tmp_path: Path
) -> None:
    export("qlib", lake, tmp_path / "whole")
    root = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, lake.store.uri, str(root), "21"]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()

    whole = contents(tmp_path / "whole")
    left = {n: data for n, data in contents(root).items() if not n.startswith(STAGING)}
    assert len(left) == 21
    assert left == {name: whole[name] for name in left}
    assert (root / STAGING / "file").exists()
    export("qlib", lake, root)
    assert contents(root) == whole


def test_a_run_that_goes_on_does_not_read_what_is_done(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopped_after(9, patch)  # the first security has eight files
        with pytest.raises(Stopped):
            export("qlib", lake, tmp_path)
    read: list[str] = []
    given = Selection.read

    def noted(self: Selection, groups: Any) -> Any:
        read.extend(one.id for group in groups for one in group)
        return given(self, groups)

    monkeypatch.setattr(Selection, "read", noted)
    export("qlib", lake, tmp_path)

    every = [one.id for one in Selection.of(lake, None, None, None).securities]
    assert len(every) == 7
    assert 0 < len(read) < len(every)


def test_a_record_whose_last_line_was_cut_off_is_read_without_it(
    lake: Lake, tmp_path: Path
) -> None:
    export("qlib", lake, tmp_path)
    before = tree(tmp_path)
    record = tmp_path / RECORD
    lines = record.read_text().splitlines()
    record.write_text("\n".join([*lines[:3], lines[3][:40]]))

    again = export("qlib", lake, tmp_path)

    assert (again.unchanged, again.written) == (False, 0)  # the same bytes are left alone
    assert tree(tmp_path) == before


def test_a_file_that_is_gone_is_made_again(lake: Lake, tmp_path: Path) -> None:
    export("lean", lake, tmp_path)
    whole = contents(tmp_path)
    (tmp_path / "equity" / "usa" / "daily" / "kid.zip").unlink()

    assert export("lean", lake, tmp_path).written == 1
    assert contents(tmp_path) == whole


def test_while_an_export_of_something_new_is_not_complete_qlib_finds_no_instruments(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("qlib", lake, tmp_path, end=DAYS[200])
    assert (tmp_path / "instruments" / "all.txt").exists()
    stopped_after(3, monkeypatch)
    with pytest.raises(Stopped):
        export("qlib", lake, tmp_path)

    assert not (tmp_path / "instruments" / "all.txt").exists()


@pytest.mark.s3
def test_a_lake_in_a_bucket_gives_the_same_export(
    s3_lake_uri: str, lake: Lake, tmp_path: Path
) -> None:
    export("lean", lake, tmp_path / "of a folder")
    export("lean", lake_in(open_store(s3_lake_uri)), tmp_path / "of a bucket")

    assert contents(tmp_path / "of a bucket") == contents(tmp_path / "of a folder")
    assert export("lean", Lake.open(s3_lake_uri), tmp_path / "of a bucket").unchanged


# --- something else -------------------------------------------------------------------------------


def test_the_folder_holds_exactly_what_the_last_run_was_asked_for(
    lake: Lake, tmp_path: Path
) -> None:
    for tool in BOTH:
        root = tmp_path / tool
        export(tool, lake, root)
        fewer = export(tool, lake, root, ["KID", "THIN"], DAYS[10], DAYS[220])
        export(tool, lake, tmp_path / f"{tool} anew", ["KID", "THIN"], DAYS[10], DAYS[220])

        assert fewer.removed > 0
        assert contents(root) == contents(tmp_path / f"{tool} anew")
        assert not (root / "features" / "dead").exists()


def test_newer_sessions_change_only_the_files_that_they_must(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    root = tmp_path / "lean"
    export("lean", lake_in(store, DAYS[:-5]), root)
    before = tree(root)
    lake = lake_in(store)

    newer = export("lean", lake, root)

    export("lean", lake, tmp_path / "anew")
    assert contents(root) == contents(tmp_path / "anew")
    same = [name for name, file in tree(root).items() if before.get(name) == file]
    # Map files say that the security still trades, and no action is newer.
    assert [name for name in same if "daily" in name] == []
    assert len(same) == newer.kept == 14


def test_a_decision_of_the_user_reaches_the_export(tmp_path: Path) -> None:
    lake = lake_in(open_store(str(tmp_path / "lake")))
    root = tmp_path / "lean"
    export("lean", lake, root, ["KID"])
    factors = root / "equity" / "usa" / "factor_files" / "kid.csv"
    assert factors.read_text().count("\n") == 2
    more = action("d9", "cash_dividends", "KID", DAYS[150], cash=0.2)
    say(lake.store, datetime(2024, 3, 2, tzinfo=UTC), more)
    derive(lake.store)
    lake.refresh()

    assert export("lean", lake, root, ["KID"]).written == 1
    assert factors.read_text().count("\n") == 3


# --- refusals and what is told --------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_left_alone(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")

    with pytest.raises(FolderError, match=r"is not empty and holds no export of this program"):
        export("qlib", lake, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(FolderError, match=r"mine\.txt is a file: give a folder"):
        export("qlib", lake, tmp_path / "mine.txt")


def test_a_folder_of_another_tool_is_refused(lake: Lake, tmp_path: Path) -> None:
    export("lean", lake, tmp_path, ["KID"])
    before = tree(tmp_path)

    with pytest.raises(FolderError, match="holds an export for lean: give qlib a folder"):
        export("qlib", lake, tmp_path)
    assert tree(tmp_path) == before


def test_two_exports_into_one_folder_take_no_turns(lake: Lake, tmp_path: Path) -> None:
    export("lean", lake, tmp_path, ["KID"])
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FolderError, match="another export is writing to"):
            export("lean", lake, tmp_path)
    finally:
        os.close(other)


def test_symbols_that_nobody_held_are_named_before_anything_is_written(
    lake: Lake, tmp_path: Path
) -> None:
    root = tmp_path / "export"
    with pytest.raises(NotInLakeError, match="ever held the ticker NOPE, NOT: correct --symbols"):
        export("qlib", lake, root, ["NOT", "KID", "NOPE"])
    with pytest.raises(NotInLakeError, match=r"holds 2023-03-01 to 2024-02-29, and none of them"):
        export("qlib", lake, root, None, "2022-01-03", "2022-02-01")
    with pytest.raises(NotInLakeError, match=r"these symbols have no bar from"):
        export("qlib", lake, root, ["KID"], DAYS[0], DAYS[50])
    with pytest.raises(ValueError, match="is before the start"):
        export("qlib", lake, root, None, DAYS[5], DAYS[4])
    assert not root.exists()


def test_a_lake_without_tables_of_securities_says_what_to_type(tmp_path: Path) -> None:
    lake = lake_in(open_store(str(tmp_path / "lake")))
    lake.store.delete(layout.CUMULATIVE_TABLE)

    with pytest.raises(NotInLakeError, match="derive them: datalake securities"):
        export("qlib", lake, tmp_path / "export")


@pytest.mark.parametrize(
    ("tool", "package"), [("zipline", "zipline-reloaded"), ("nautilus", "nautilus_trader")]
)
def test_without_the_tool_s_package_the_error_says_what_to_install(
    tool: str, package: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package.partition("-")[0], None)
    told = rf"{package}, which is not installed: pip install 'us-equity-datalake\[{tool}\]'"

    with pytest.raises(MissingToolError, match=told):
        export(tool, lake, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_missing_sessions_undecided_actions_and_other_holders_are_told(tmp_path: Path) -> None:
    days = [day for day in DAYS if day != DAYS[20]]
    lake = lake_in(open_store(str(tmp_path / "lake")), days)
    wrong = action("w1", "forward_splits", "KID", DAYS[150], new_rate=2.0, old_rate=1.0)
    say(lake.store, datetime(2024, 3, 2, tzinfo=UTC), wrong)
    derive(lake.store)

    told = "\n".join(export("qlib", lake, tmp_path / "some", ["KID", "LONG"], DAYS[10]).told)

    assert "1 of the sessions asked for is not in" in told
    assert f"prices contradict the forward_splits of {DAYS[150]}" in told
    assert f"LONG means LONG-{DAYS[LATER]} here" in told


# --- whom, and when -------------------------------------------------------------------------------


def test_a_symbol_means_its_holder_at_the_end_of_the_range(lake: Lake) -> None:
    def meant(symbol: str, end: date) -> list[tuple[str, str]]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = Selection.of(lake, [symbol], None, end).securities
        return [(one.id, one.symbol) for one in found]

    assert meant("LONG", DAYS[RENAME - 1]) == [(f"LONG-{DAYS[0]}", "LONG")]
    assert meant("LONG", DAYS[-1]) == [(f"LONG-{DAYS[LATER]}", "LONG")]
    assert meant("LNG.B", DAYS[-1]) == [(f"LONG-{DAYS[0]}", "LNG.B")]
    assert meant("DEAD", DAYS[REUSED - 1]) == [(f"DEAD-{DAYS[0]}", "DEAD")]


def test_securities_that_shared_a_ticker_are_written_together(lake: Lake) -> None:
    groups = Selection.of(lake, None, None, None).groups

    ids = [sorted(one.id.partition("-")[0] for one in group) for group in groups]
    assert sorted(ids) == [["DEAD", "DEAD"], ["KID"], ["LONG", "LONG"], ["ODD"], ["THIN"]]


def test_an_export_that_ends_before_an_action_knows_nothing_of_it(lake: Lake) -> None:
    selection = Selection.of(lake, ["LONG"], None, DAYS[SPLIT - 1])
    ((one,),) = selection.read(selection.groups)

    assert one.events == []
    assert (one.total_return == 1.0).all()
    assert (one.volume == 1.0).all()
    longer = Selection.of(lake, ["LONG"], None, DAYS[SPLIT])
    ((one,),) = longer.read(longer.groups)
    assert [event.session for event in one.events] == [DAYS[SPLIT]]
    assert one.total_return[0] == 0.25
    assert one.volume[0] == 4.0


def test_an_export_that_begins_on_the_day_of_an_action_has_none(lake: Lake) -> None:
    at = LONG.rows()[SPLIT]["session"]
    assert at == DAYS[SPLIT]
    selection = Selection.of(lake, ["LONG"], at, DAYS[SPLIT + 5])
    ((one,),) = selection.read(selection.groups)

    assert one.events == []
    assert one.bars["session"].to_pylist() == DAYS[SPLIT : SPLIT + 6]


@pytest.mark.parametrize(("last", "ended"), [(MERGED - 1, False), (MERGED, True)])
def test_an_end_counts_from_the_last_session_on(lake: Lake, last: int, ended: bool) -> None:
    (listed,) = Selection.of(lake, ["DEAD"], None, DAYS[last]).securities

    assert listed.ended is ended


def test_reading_in_small_pieces_gives_the_same(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = Selection.of(lake, None, None, None)

    def read() -> list[list[tuple[str, list[Any], list[float]]]]:
        return [
            [(one.listed.id, one.bars.to_pylist(), one.total_return.tolist()) for one in group]
            for group in selection.read(selection.groups)
        ]

    together = read()
    monkeypatch.setattr("datalake_assets.exporters.selection.READ_AT_ONCE", 1)
    assert read() == together
    closes = {name: [row["close"] for row in bars] for group in together for name, bars, _ in group}
    assert closes[f"DEAD-{DAYS[0]}"] == [row["close"] for row in DEAD.rows()]


@pytest.mark.parametrize(
    ("day", "session"),
    [("2024-07-03", "2024-07-03"), ("2024-07-04", "2024-07-05"), ("2024-07-06", "2024-07-08")],
)
def test_a_payment_on_a_closed_day_comes_with_the_next_session(day: str, session: str) -> None:
    assert session_on_or_after(date.fromisoformat(day)) == date.fromisoformat(session)


# --- progress -------------------------------------------------------------------------------------


class Noted(Display):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[Snapshot, bool]] = []

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        self.shown.append((snapshot, final))


def ticking() -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += 1.0


def test_progress_counts_securities_and_bars_to_the_end(lake: Lake, tmp_path: Path) -> None:
    shown = Noted()
    clock = ticking()

    outcome = export("lean", lake, tmp_path, display=shown, monotonic=lambda: next(clock))

    snapshots = [snapshot for snapshot, _ in shown.shown]
    assert [final for _, final in shown.shown] == [False] * 5 + [True]
    done = [one.chunks_done for one in snapshots]
    assert done == sorted(done)
    assert snapshots[-1].chunks_done == snapshots[-1].chunks == outcome.securities == 7
    assert snapshots[-1].bars == lake.bars().num_rows
    assert snapshots[-1].unit == "security"


def test_every_tool_has_a_module_with_a_version_and_an_export() -> None:
    assert TOOLS == ("zipline", "qlib", "lean", "nautilus")
    for module in (lean, qlib):
        assert module.version()
        assert callable(module.export)
    assert set(TOOLS) == {
        path.stem
        for path in Path(run.__file__).parent.glob("*.py")
        if path.stem not in ("__init__", "folder", "run", "selection")
    }
