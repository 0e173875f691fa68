"""What a person sees in a real terminal: processes of the command line on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from datalake_assets.cli import terminal
from datalake_assets.cli.terminal import ProgressLine, fits, show_table
from datalake_assets.collection.progress import Snapshot
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import keys_to
from datalake_assets_tests.test_cli import environment

RANGE = ("--from", "2024-01-02", "--to", "2024-04-30")
"""More sessions than a window has, so that a survey is taken before them."""


@pytest.fixture
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(SyntheticMarket(7, 40, 10))) as server:
        yield server


def on_a_terminal(
    *arguments: str,
    environ: Mapping[str, str],
    folder: Path,
    columns: int = 80,
    interrupt_at: str | None = None,
) -> tuple[int, str]:
    """Run the command on a terminal of so many columns.

    Args:
        arguments: What is typed.
        environ: Beside an empty home and little else.
        folder: Where it runs.
        columns: Of the terminal.
        interrupt_at: Type Ctrl-C when this is shown.

    Returns:
        The exit code, and everything that was written to the terminal.
    """
    pid, terminal_of = pty.fork()
    if pid == 0:
        os.chdir(folder)
        command = [sys.executable, "-m", "datalake_assets", *arguments]
        os.execve(sys.executable, command, environment(TERM="xterm-256color", **environ))
    fcntl.ioctl(terminal_of, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown = b""
    while True:
        try:
            piece = os.read(terminal_of, 65_536)
        except OSError:  # as Linux tells that the other side is closed
            break
        if not piece:
            break
        shown += piece
        if interrupt_at and interrupt_at.encode() in shown:
            os.write(terminal_of, b"\x03")
            interrupt_at = None
    os.close(terminal_of)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def frames(shown: str) -> list[str]:
    """Every line that ever stood on the terminal, without colours and moves of the cursor."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


def position(lines: list[str], words: str) -> int:
    found = [number for number, line in enumerate(lines) if words in line]
    assert found, f"{words!r} was never shown"
    return found[0]


def test_a_backfill_shows_what_it_does_from_its_start_to_its_end(
    server: ExchangeServer, tmp_path: Path
) -> None:
    # Of so few symbols, three that are silent are a tenth.
    typed = ("backfill", *RANGE, "--silent-allowed", "10")
    code, shown = on_a_terminal(*typed, environ=keys_to(server.url), folder=tmp_path)

    lines = frames(shown)
    assert code == 0, shown
    assert "Traceback" not in shown
    where = [
        position(lines, words)
        for words in (
            "loading Dagster …",
            f"Collecting 2024-01-02 to 2024-04-30 from Alpaca into {tmp_path}/.datalake/lake",
            "starting the collection …",
            "fetching the list of assets",
            "years of 5",
            "2024-01-02 … 2024-04-30 ",
            "2024: reading its sessions …",
            "2024 per symbol ",
            "2024: comparing both layouts …",
            "layouts_agree",
        )
    ]
    assert where == sorted(where)
    bars = [line for line in lines if "━" in line and "chunks" in line]
    assert any("2024-01-02 … 2024-04-30" in line for line in bars), "drawn while a step runs"
    moving = [line for line in lines if line[0] in "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"]
    assert max(map(len, moving)) <= 80, "in one line, which is drawn over and over"


def test_ctrl_c_during_a_collection_is_told_once_and_says_how_to_go_on(
    server: ExchangeServer, tmp_path: Path
) -> None:
    server.exchange.latency = 1.0

    code, shown = on_a_terminal(
        "backfill",
        *RANGE,
        environ=keys_to(server.url),
        folder=tmp_path,
        interrupt_at="0/2 chunks",
    )

    assert code == 130
    after = frames(shown[shown.index("^C") :])
    assert "Traceback" not in shown
    told, advice = after[-2:]  # nothing of less weight comes after them
    assert told == "daily_ticks: interrupted"
    assert "collect --from 2024-01-02 --to 2024-04-30 --repair" in advice
    assert [line for line in after if "interrupted" in line] == [told]


def test_ctrl_c_ends_a_query_that_would_take_for_ever(
    server: ExchangeServer, tmp_path: Path
) -> None:
    environ = keys_to(server.url)
    made = on_a_terminal("collect", "--session", "2024-07-03", environ=environ, folder=tmp_path)
    assert made[0] == 0, made[1]
    of_four = ", ".join(f"range(1000000) AS r{number}" for number in range(4))

    code, shown = on_a_terminal(
        *("sql", f"SELECT count(*), r0.range FROM bars, {of_four} GROUP BY ALL"),
        environ=environ,
        folder=tmp_path,
        interrupt_at="running the query",
    )

    assert code == 130
    assert "Traceback" not in shown
    assert frames(shown)[-1].startswith("interrupted.")


def test_ctrl_c_before_anything_runs_is_told_once_too(tmp_path: Path) -> None:
    code, shown = on_a_terminal(
        "backfill", *RANGE, environ={}, folder=tmp_path, interrupt_at="loading Dagster"
    )

    assert code == 130
    assert "Traceback" not in shown
    assert frames(shown)[-1].startswith("interrupted. Published sessions stay")
    assert list(tmp_path.iterdir()) == []


# --- in little room ---

FULL = Snapshot(
    "2016-01-04 … 2026-11-27", 1_935, 1_204, 9_632_000, 12, 8_412_345, 1_301, 7, seconds=400
)


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120, 200])
def test_progress_is_one_line_in_which_nothing_is_cut(columns: int) -> None:
    text = StringIO()
    console = Console(file=text, width=columns, force_terminal=True, color_system=None)

    console.print(ProgressLine(FULL, began=0.0), end="")

    (line,) = text.getvalue().splitlines()
    assert len(line) <= columns
    assert ("…" in line.removeprefix(line[:26])) == (columns == 40), line
    if columns >= 60:
        assert "1,204/1,935 chunks" in line
    if columns >= 80:
        assert "243 s left" in line
    if columns >= 120:
        assert "✓ 9,632,000 ✗ 12" in line


def wide() -> Table:
    table = Table("session", "number of bars", "coverage", "KiB")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("2026-11-27", "5,850", "97.64%", "1,183")
    return table


@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        (50, ["session", "number of bars", "coverage", "KiB"]),
        (49, ["session", "number", "of", "bars", "coverage", "KiB"]),
        (32, ["session", "number", "of", "bars", "coverage", "KiB"]),
        (31, ["session", "number", "of", "bars", "coverage"]),
        (26, ["session", "number", "of", "bars", "coverage"]),
        (25, ["session", "number", "of", "bars"]),
    ],
)
def test_a_table_loses_columns_before_it_loses_digits(
    columns: int, kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = StringIO()
    console = Console(file=text, width=columns, force_terminal=True, color_system=None)
    monkeypatch.setattr(terminal, "out", console)

    show_table(wide(), spare=2)

    shown = text.getvalue()
    assert "…" not in shown
    assert "5,850" in shown
    assert ("1,183" in shown) == ("KiB" in kept)
    assert ("97.64%" in shown) == ("coverage" in kept)
    assert all(words in shown for words in kept)
    assert max(map(len, shown.splitlines())) <= columns


def test_a_pipe_has_room_for_every_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "out", Console(file=StringIO(), width=20))

    assert fits(wide())
    show_table(wide(), spare=2)

    assert "1,183" in capsys.readouterr().out
