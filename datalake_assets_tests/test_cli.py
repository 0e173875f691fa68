"""The command line: what it takes, what it says, and its exit codes.

Not here: whether a killed one leaves the lake whole (`test_end_to_end`).
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click.testing
import dagster as dg
import pytest
from rich.console import Console
from typer.testing import CliRunner

from datalake_assets import __version__, market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.cli import app, terminal
from datalake_assets.cli.demo import DEMO_SESSIONS, MOST_SESSIONS, with_a_split
from datalake_assets.cli.terminal import TerminalDisplay
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.progress import Snapshot
from datalake_assets.exchange.faults import Fault, FaultScript, Rule
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.liveness import process_of
from datalake_assets.partitions import session_partitions
from datalake_assets.securities.derivation import read_derived
from datalake_assets.settings import Settings
from datalake_assets.sources.pages import COMPILED
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.actions.sayings import action, answer
from datalake_assets_tests.exchange.calling import keys_to

ROOT = Path(__file__).parents[1]
HELD_BACK = Fault(kind="status", status=404)
"""An answer that no second attempt changes."""


def invoke(*arguments: str) -> click.testing.Result:
    """The command in this process; a stack trace is a defect of its own."""
    result = CliRunner().invoke(app, arguments, prog_name="datalake", terminal_width=200)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def plain(text: str) -> str:
    """Without the boxes and line breaks of a terminal."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯─│]", " ", text).split())


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each command runs in an empty folder, with Dagster's records in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    # Set, so that it is set back: the command line sets it for its own process.
    monkeypatch.setenv("DAGSTER_HOME", str(folder / ".datalake" / "dagster"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return folder


def environment(**more: str) -> dict[str, str]:
    """Of a command in a process of its own: an empty home, and little else."""
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "NO_PROXY") if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | more


def datalake(
    *arguments: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person runs it."""
    return subprocess.run(
        [sys.executable, "-m", "datalake_assets", *arguments],
        env=environment(**(environ or {})),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


# --- help ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--help",), ("demo", "collect", "status", "exchange")),
        (("demo", "--help"), ("newest sessions", "Needs no API key")),
        (("collect", "--help"), ("--session", "--from", "--to", "--repair", "YYYY-MM-DD")),
        (("plan", "--help"), ("--from", "--to", "--missing", "--json", "without collecting")),
        (("status", "--help"), ("--json", "gaps")),
        (("exchange", "--help"), ("--port", "--recorded", "--latency", "--faults", "--seed")),
    ],
)
def test_every_command_tells_what_it_does(arguments: Sequence[str], told: Sequence[str]) -> None:
    result = invoke(*arguments)

    assert result.exit_code == 0
    assert [word for word in told if word not in plain(result.stdout)] == []


def test_help_needs_no_setting_and_no_dagster() -> None:
    heavy = ("dagster", "alpaca", "pandas", "pyarrow.dataset")
    report = (
        "import sys, datalake_assets.cli as cli\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )

    result = subprocess.run(
        [sys.executable, "-c", report],
        env=environment(ALPACA_API_KEY="half"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.stdout, result.stderr) == ("[]\n", "")


@pytest.mark.parametrize("command", ["", "collect", "status", "decide add"])
def test_a_short_option_shows_the_help_of_every_command(command: str) -> None:
    short = invoke(*command.split(), "-h")

    assert short.exit_code == 0
    assert "Usage: datalake" in plain(short.stdout).replace("Usage: root", "Usage: datalake")
    assert short.stdout == invoke(*command.split(), "--help").stdout


def test_the_version_is_that_of_the_package_and_names_the_decoder() -> None:
    # An editable installation has the compiled one where there was a compiler.
    decoder = "Python" if COMPILED is None else "C"

    result = invoke("--version")

    assert (result.exit_code, result.stdout) == (
        0,
        f"datalake {__version__}, decodes bars in {decoder}\n",
    )


def test_without_a_command_it_shows_its_help() -> None:
    assert "collect" in plain(invoke().output)


# --- arguments ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--session 2024-13-01", "--session takes a date as YYYY-MM-DD, not '2024-13-01'"),
        ("--session yesterday", "--session takes a date as YYYY-MM-DD, not 'yesterday'"),
        ("--session 20240703", "--session takes a date as YYYY-MM-DD, not '20240703'"),
        ("--session 2024-W27-3", "--session takes a date as YYYY-MM-DD, not '2024-W27-3'"),
        ("--from 2024-02-30 --to 2024-03-01", "--from takes a date as YYYY-MM-DD"),
        ("--from 2024-02-28 --to March", "--to takes a date as YYYY-MM-DD, not 'March'"),
        ("--session 2024-07-06", "it is not a trading session but a Saturday"),
        ("--session 2024-07-04", "it is not a trading session but a holiday"),
        ("--session 2012-10-29", "it is not a trading session but a holiday or a special closure"),
        ("--session 2010-12-31", "the first session is 2011-01-03"),
        ("--session 2035-01-02", "it has not closed. It closes at 2035-01-02 21:00 UTC"),
        ("--from 2024-07-01", "a range needs both --from and --to"),
        ("--to 2024-07-01", "a range needs both --from and --to"),
        ("--session 2024-07-01 --to 2024-07-03", "give either --session, or --from and --to"),
        ("--session 2024-07-01 --from 2024-07-01", "give either --session, or --from and --to"),
        ("", "give either --session, or --from and --to"),
        ("--repair", "give either --session, or --from and --to"),
        ("--from 2024-07-03 --to 2024-07-01", "--to 2024-07-01 is before --from 2024-07-03"),
        ("--from 2024-07-04 --to 2024-07-04", "2024-07-04 can't be collected: it is not a trading"),
        ("--from 2024-07-06 --to 2024-07-07", "no session from 2024-07-06 to"),
        ("--from 2010-01-04 --to 2010-12-31", "2010-12-31 can't be collected: the first session"),
    ],
)
def test_what_cannot_be_collected_is_refused_before_anything_is_done(
    arguments: str, told: str, empty_folder: Path
) -> None:
    result = invoke("collect", *arguments.split())

    assert result.exit_code == 2
    assert told in plain(result.stderr)
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("command", ["plan", "backfill"])
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--from 2035-01-02", "2035-01-02 can't be collected: it has not closed. It closes at"),
        ("--to 2010-12-31", "2010-12-31 can't be collected: the first session is 2011-01-03"),
    ],
)
def test_a_day_out_of_reach_is_not_held_against_one_that_nobody_typed(
    command: str, arguments: str, told: str
) -> None:
    result = invoke(command, *arguments.split())

    assert result.exit_code == 2
    assert told in plain(result.stderr)


@pytest.mark.parametrize("command", ["demo", "status", "collect --session 2024-07-03"])
@pytest.mark.parametrize(
    ("given", "missing"),
    [("ALPACA_API_KEY", "ALPACA_SECRET_KEY"), ("ALPACA_SECRET_KEY", "ALPACA_API_KEY")],
)
def test_a_half_given_pair_of_keys_names_the_missing_variable(
    command: str,
    given: str,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    empty_folder: Path,
) -> None:
    monkeypatch.setenv(given, "not-to-be-shown")

    result = invoke(*command.split())

    assert result.exit_code == 2
    assert f"{missing} is not set, but {given} is" in plain(result.stderr)
    assert "not-to-be-shown" not in result.output
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DATALAKE_MAX_WORKERS", "0", "DATALAKE_MAX_WORKERS='0'"),
        ("DATALAKE_SYMBOLS", "AAPL,BRK-B", "not valid: 'BRK-B'"),
        ("DATALAKE_URI", "ftp://somewhere", "DATALAKE_URI='ftp://somewhere'"),
        ("DATALAKE_URI", "s3:/bucket/x", "after the scheme come a colon and two slashes"),
        # Not markup of the terminal's.
        ("ALPACA_FEED", "[/bold]", "ALPACA_FEED='[/bold]'"),
        ("ALPACA_FEED", "[red]sip", "ALPACA_FEED='[red]sip'"),
    ],
)
def test_a_wrong_setting_is_told_in_a_line_without_a_stack_trace(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)

    result = invoke("collect", "--session", "2024-07-03")

    assert result.exit_code == 2
    assert told in plain(result.stderr)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "typed", ["collect --session 2024-07-03", "backfill --from 2024-07-03", "plan"]
)
def test_symbols_in_a_file_that_is_not_there_are_an_error_before_anything_is_done(
    typed: str, monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    monkeypatch.setenv("DATALAKE_SYMBOLS", f"@{empty_folder}/nowhere.txt")

    result = invoke(*typed.split())

    assert result.exit_code == 2
    assert "nowhere.txt" in result.stderr
    assert "DATALAKE_SYMBOLS" in result.stderr
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("typed", ["collect --session 2024-07-03", "plan"])
def test_a_lake_of_another_source_is_an_error_before_anything_is_done(
    typed: str, monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    lake = LakeWriter(open_store(str(empty_folder / "lake")))
    lake.claim("alpaca sip")
    monkeypatch.setenv("DATALAKE_URI", str(empty_folder / "lake"))

    result = invoke(*typed.split())

    assert result.exit_code == 2
    assert "holds bars of 'alpaca sip', and this run collects from" in plain(result.stderr)
    assert [path.name for path in empty_folder.iterdir()] == ["lake"]
    assert lake.store.list() == [layout.MARKER]


# --- collecting, from a server that speaks Alpaca's protocol ---


@dataclass
class Remote:
    """An exchange in a thread of this process, and the lake that is collected from it."""

    exchange: Exchange
    lake: LakeWriter
    url: str

    def asked(self) -> list[int]:
        """For each request for bars, how many symbols it named; and forget them."""
        counts = [r.symbols for r in self.exchange.requests if r.path == "/v2/stocks/bars"]
        self.exchange.requests.clear()
        return counts

    def hold_back(self) -> None:
        """Answer no request for bars."""
        self.exchange.faults = FaultScript([Rule(HELD_BACK, times=None, path="/v2/stocks/bars")])


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(SyntheticMarket(7, 40, 10))) as server:
        yield server


@pytest.fixture
def remote(
    server: ExchangeServer, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Remote]:
    for name, value in keys_to(server.url).items():
        monkeypatch.setenv(name, value)
    server.exchange.requests.clear()
    yield Remote(
        server.exchange, LakeWriter(open_store(str(empty_folder / ".datalake/lake"))), server.url
    )
    server.exchange.faults = None


def runs(folder: Path, job: str = "daily_ticks_job") -> list[dg.DagsterRun]:
    with dg.DagsterInstance.from_config(str(folder / ".datalake/dagster")) as instance:
        return list(instance.get_runs(dg.RunsFilter(job_name=job)))


def test_a_session_is_collected_recorded_and_told(remote: Remote, empty_folder: Path) -> None:
    result = invoke("collect", "--session", "2024-07-03")

    assert result.exit_code == 0, result.output
    stored = remote.lake.read(date(2024, 7, 3))
    told = plain(result.stdout)
    place = f"{empty_folder}/.datalake/lake"
    assert f"Collecting 2024-07-03 from Alpaca into {place}, a new lake …" in result.stdout
    assert re.search(rf"2024-07-03 {stored.bars.num_rows} ", told.replace("┃", " "))
    assert "✓" in told
    assert "success_rate" in told
    assert "1/1 chunk," in plain(result.stderr)
    (run,) = runs(empty_folder)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert run.tags["dagster/partition"] == "2024-07-03"
    assert stored.provenance.run_id == run.run_id
    (publication,) = runs(empty_folder, "symbol_year_ticks_job")
    assert publication.status is dg.DagsterRunStatus.SUCCESS
    assert publication.tags["dagster/partition"] == "2024"
    (in_one_file,) = runs(empty_folder, "year_ticks_job")
    assert in_one_file.status is dg.DagsterRunStatus.SUCCESS
    assert "layouts_agree" in told
    assert "year_file_agrees" in told
    assert SymbolYears(remote.lake.store).prove(2024).sessions.rows == stored.bars.num_rows


def test_a_range_over_a_holiday_collects_its_sessions_in_one_run(
    remote: Remote, empty_folder: Path
) -> None:
    """From a Sunday to a Saturday, with Independence Day between."""
    result = invoke("collect", "--from", "2024-06-30", "--to", "2024-07-06")

    assert result.exit_code == 0, result.output
    sessions = ["2024-07-01", "2024-07-02", "2024-07-03", "2024-07-05"]
    assert [str(day) for day in remote.lake.sessions()] == sessions
    assert len(remote.asked()) == 3, "one for all, and one for each name that is no symbol"
    assert len(runs(empty_folder)) == 1
    told = plain(result.stdout)
    assert all(day in told for day in sessions)
    assert "all 4 sessions pass" in told


def test_a_range_that_ends_in_the_future_ends_at_the_newest_session(remote: Remote) -> None:
    partitions = session_partitions(date(2024, 7, 1))
    first = partitions.get_partition_keys()[-3]

    # Of so few symbols several may be silent on the day on which this runs.
    told = invoke("collect", "--from", first, "--to", "2035-12-31", "--silent-allowed", "40")

    assert told.exit_code == 0, told.output
    assert str(remote.lake.sessions()[0]) == first
    assert str(remote.lake.sessions()[-1]) in partitions.get_partition_keys()[-2:]
    assert len(remote.lake.sessions()) >= 3


def test_symbols_that_are_typed_are_collected_instead_of_all(remote: Remote) -> None:
    invoke("collect", "--session", "2024-07-02")
    one, two, *_ = remote.lake.read(date(2024, 7, 2)).ledger.present

    given = f"{one}, {two}, XYZZY"

    result = invoke("collect", "--session", "2024-07-03", "--symbols", given)

    assert result.exit_code == 0, result.output
    assert remote.lake.read(date(2024, 7, 3)).ledger.symbols == {one, two, "XYZZY"}
    assert "XYZZY. Correct --symbols if this is a mistake" in plain(result.stdout)


def test_a_file_of_symbols_that_cannot_be_read_is_told_by_what_named_it(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = invoke("collect", "--session", "2024-07-03", "--symbols", "@nowhere")
    monkeypatch.setenv("DATALAKE_SYMBOLS", "@nowhere")
    configured = invoke("collect", "--session", "2024-07-03")

    assert (typed.exit_code, configured.exit_code) == (2, 2)
    assert "--symbols='@nowhere' names a file that can't be read" in plain(typed.stderr)
    assert "DATALAKE_SYMBOLS='@nowhere' names a file" in plain(configured.stderr)


def test_a_few_symbols_do_not_replace_a_session_of_all(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("collect", "--session", "2024-07-02")
    whole = remote.lake.read(date(2024, 7, 2)).ledger
    one = whole.present[0]

    refused = invoke("collect", "--session", "2024-07-02", "--symbols", one)

    assert refused.exit_code == 2
    told = plain(refused.stderr)
    assert f"2024-07-02 has bars of {len(whole.present)} symbols in the lake" in told
    assert f"without {len(whole.present) - 1} of them; nothing was requested" in told
    assert "Add --repair" in told
    monkeypatch.setenv("DATALAKE_SYMBOLS", one)
    assert invoke("collect", "--session", "2024-07-02").exit_code == 2
    assert remote.lake.read(date(2024, 7, 2)).ledger == whole
    monkeypatch.delenv("DATALAKE_SYMBOLS")
    repaired = invoke("collect", "--session", "2024-07-02", "--symbols", one, "--repair")
    assert repaired.exit_code == 0, repaired.output
    assert remote.lake.read(date(2024, 7, 2)).ledger == whole
    assert invoke("collect", "--session", "2024-07-02", "--symbols", " ").exit_code == 2
    one_alone = ("--session", "2024-07-02", "--symbols", one, "--max-session-loss", "1")
    assert invoke("collect", *one_alone).exit_code == 0
    assert remote.lake.read(date(2024, 7, 2)).ledger.symbols == {one}


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "--check"],
        ["doctor"],
        ["demo"],
        ["collect", "--session", "2024-07-03"],
        ["backfill", "--from", "2024-07-03", "--to", "2024-07-03"],
        ["plan", "--from", "2024-07-03", "--to", "2024-07-03"],
        ["publish", "--year", "2024"],
        ["securities"],
    ],
)
def test_an_alert_that_cannot_be_sent_is_told_before_any_work(
    command: list[str], empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_ALERT_URLS", "json://localhost PA55W0RD://token")

    result = invoke(*command)

    assert result.exit_code == 2
    told = plain(result.output)
    assert "DATALAKE_ALERT_URLS (not shown) has a URL that Apprise can't use: number 2" in told
    assert "pa55w0rd" not in told.lower()
    assert list(empty_folder.iterdir()) == []


def test_a_folder_without_a_lake_is_named_and_stays_as_it_is(
    empty_folder: Path, remote: Remote
) -> None:
    place = f"{empty_folder}/.datalake/lake"
    for typed in ("doctor", "status --check", "decide"):
        result = invoke(*typed.split())

        assert result.exit_code == 2
        assert f"there is no lake at {place}" in plain(result.stderr)
        assert "✓" not in result.output
    status = invoke("status")
    assert status.stdout.splitlines()[0] == f"{place}  no lake yet"
    for typed in ("doctor", "show AAA", "actions AAA", "publish"):
        first = invoke(*typed.split()).stderr.splitlines()[0]
        assert first == f"lake: {place} (does not exist yet)"
    assert list(empty_folder.iterdir()) == []


def test_the_check_of_the_status_tells_by_its_exit_code_what_cron_needs(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = session_partitions(date(2024, 7, 1)).get_partition_keys()[-2:]
    typed = ("collect", "--from", newest[0], "--to", newest[1], "--silent-allowed", "40")
    assert invoke(*typed).exit_code == 0

    good = invoke("status", "--check")
    assert good.exit_code == 0, good.output
    assert "missing: 3," in plain(good.stdout), "the history is listed all the same"
    assert json.loads(invoke("status", "--json").stdout)["check"] == "whole"

    remote.lake.store.delete(layout.manifest_key(int(newest[1][:4])))
    assert invoke("status", "--check").exit_code == 3
    remote.lake.store.delete(layout.session_key(date.fromisoformat(newest[1])))
    assert invoke("status", "--check").exit_code == 1
    assert invoke("status").exit_code == 0


def test_two_backfills_side_by_side_end_well(remote: Remote, empty_folder: Path) -> None:
    """From nothing: both make Dagster's records, and both publish the year."""
    typed = [sys.executable, "-m", "datalake_assets", "backfill"]
    typed += ["--from", "2024-07-01", "--to", "2024-07-05"]
    both = [
        subprocess.Popen(
            typed,
            env=environment(**keys_to(remote.url)),
            cwd=empty_folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]

    told = [process.communicate(timeout=240)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], told
    assert len(remote.lake.sessions()) == 4
    years = SymbolYears(remote.lake.store)
    assert years.manifest(2024).whole
    assert years.prove(2024).holds


def test_a_session_that_fails_is_exit_code_1_and_the_repair_that_is_told_heals_it(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("collect", "--session", "2024-07-02").exit_code == 0
    symbol = remote.lake.read(date(2024, 7, 2)).ledger.present[0]
    remote.hold_back()

    # One of so few may fail, if nobody says otherwise.
    result = invoke("collect", "--session", "2024-07-03", "--unanswered-allowed", "0")

    assert result.exit_code == 1
    assert re.search(rf"failed \(.*{symbol}.*\): .*404", result.stderr)
    assert [str(day) for day in remote.lake.sessions()] == ["2024-07-02"]
    assert [str(day) for day in remote.lake.incomplete()] == ["2024-07-03"]
    assert "✗" in result.stdout
    assert "success_rate" in result.stdout
    assert "Traceback" not in result.output
    repair = re.search(r"datalake (collect --session 2024-07-03 --repair)", result.stderr)
    assert repair, f"the command must stand in one line: {result.stderr}"
    remote.exchange.faults = None
    remote.asked()

    mended = invoke(*repair[1].split())

    assert mended.exit_code == 0, mended.output
    assert [str(day) for day in remote.lake.sessions()] == ["2024-07-02", "2024-07-03"]
    assert remote.lake.incomplete() == []
    ledger = remote.lake.read(date(2024, 7, 3)).ledger
    assert not ledger.failed
    assert symbol in ledger.present


def test_a_symbol_that_fails_is_told_with_the_sources_error_wherever_it_is_counted(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("collect", "--session", "2024-07-02").exit_code == 0
    symbol, *others = remote.lake.read(date(2024, 7, 2)).ledger.present[:3]
    monkeypatch.setenv("DATALAKE_SYMBOLS", ",".join(others))
    assert invoke("collect", "--session", "2024-07-03").exit_code == 0
    monkeypatch.setenv("DATALAKE_SYMBOLS", ",".join((symbol, *others)))
    remote.hold_back()

    result = invoke("collect", "--session", "2024-07-03", "--repair")

    assert result.exit_code == 0, result.output
    why = re.compile(rf"1 failed \({symbol}\): .*404")
    assert why.search(result.stdout)
    assert why.search(invoke("status").stdout)
    (failure,) = json.loads(invoke("status", "--json").stdout)["failures"]
    assert (failure["count"], failure["symbols"]) == (1, [symbol])
    doctor = invoke("doctor")
    assert (doctor.exit_code, bool(why.search(doctor.stdout))) == (0, True), doctor.output
    assert json.loads(invoke("doctor", "--json").stdout)["failures"] == [failure]
    assert "2024-07-03: 1 session missing (failed)" in invoke("show", symbol).stdout


def test_volumes_that_were_rounded_are_told(remote: Remote) -> None:
    odd = Fault(kind="fractional_volume")
    remote.exchange.faults = FaultScript([Rule(odd, times=None, path="/v2/stocks/bars")])
    # Sessions that are collected together share one count.
    result = invoke("collect", "--from", "2024-07-02", "--to", "2024-07-03")
    assert result.exit_code == 0, result.output
    assert "1 volume with a fraction of a share, rounded to whole shares" in result.stdout


def test_a_universe_that_grew_is_told_and_a_repair_asks_for_the_new_names_only(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("collect", "--session", "2024-07-01").exit_code == 0
    names = remote.lake.read(date(2024, 7, 1)).ledger.present[:4]
    span = ("--from", "2024-07-02", "--to", "2024-07-03")
    monkeypatch.setenv("DATALAKE_SYMBOLS", ",".join(names[:2]))
    assert invoke("collect", *span).exit_code == 0
    monkeypatch.setenv("DATALAKE_SYMBOLS", ",".join((*names, "XYZZY")))

    result = invoke("backfill", *span)

    command = "collect --from 2024-07-02 --to 2024-07-03 --repair"
    for told in (result.stdout, invoke("status").stdout):
        assert "asked for 2 of the 5 symbols of the universe" in told
        assert command in told
        assert "not on the source's list" in told
        assert "XYZZY" in told
    told = json.loads(invoke("status", "--json").stdout)
    assert told["narrow"][0] == {"session": "2024-07-02", "asked": 2, "universe": 5}
    assert told["unlisted"] == ["XYZZY"]
    remote.asked()
    assert invoke(*command.split()).exit_code == 0
    assert remote.asked() == [3]
    assert json.loads(invoke("status", "--json").stdout)["narrow"] == []
    assert remote.lake.read(date(2024, 7, 3)).ledger.symbols == {*names, "XYZZY"}


@pytest.mark.parametrize("command", ["collect", "backfill"])
@pytest.mark.parametrize(
    "option",
    [
        "--min-success-rate",
        "--min-coverage",
        "--max-invalid-bars",
        "--min-row-ratio",
        "--max-universe-loss",
        "--unanswered-allowed",
        "--silent-allowed",
        "--invalid-bars-allowed",
    ],
)
def test_a_threshold_that_cannot_be_is_refused_by_name(command: str, option: str) -> None:
    result = invoke(command, "--from", "2024-07-02", "--to", "2024-07-03", option, "-1")

    assert result.exit_code == 2
    assert option in plain(result.stderr)


def test_chosen_symbols_are_all_that_is_asked_for(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    assert invoke("collect", "--session", "2024-07-02").exit_code == 0
    chosen = remote.lake.read(date(2024, 7, 2)).ledger.present[:2]
    listed = empty_folder / "symbols.txt"
    listed.write_text("\n".join(chosen))
    for given in (",".join(chosen).lower(), f"@{listed}"):
        monkeypatch.setenv("DATALAKE_SYMBOLS", given)
        remote.asked()

        result = invoke("collect", "--session", "2024-07-03")

        assert result.exit_code == 0, result.output
        assert remote.asked() == [2]
        assert remote.lake.read(date(2024, 7, 3)).ledger.symbols == set(chosen)


def test_threads_and_rate_are_those_of_the_settings(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    monkeypatch.setenv("DATALAKE_MAX_WORKERS", "3")

    assert invoke("collect", "--session", "2024-07-03").exit_code == 0

    with dg.DagsterInstance.from_config(str(empty_folder / ".datalake/dagster")) as instance:
        (run,) = instance.get_runs(dg.RunsFilter(job_name="daily_ticks_job"))
        told = "\n".join(entry.user_message for entry in instance.all_logs(run.run_id))
    assert "at 100,000/minute, with 3 threads" in told


def test_keys_that_the_server_refuses_are_named_in_the_terminal(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.exchange.faults = FaultScript([Rule(Fault(kind="status", status=401), times=None)])

    result = invoke("collect", "--session", "2024-07-03")

    assert result.exit_code == 1
    assert "ALPACA_API_KEY and ALPACA_SECRET_KEY" in plain(result.stderr)
    assert remote.lake.sessions() == remote.lake.incomplete() == []


def test_a_lake_of_another_source_is_an_error_that_says_what_to_do(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("collect", "--session", "2024-07-03").exit_code == 0
    before = remote.lake.store.get(layout.session_key(date(2024, 7, 3)))
    monkeypatch.setenv("ALPACA_FEED", "iex")

    result = invoke("collect", "--session", "2024-07-03")

    assert result.exit_code == 2
    told = plain(result.stderr)
    assert "/sip'" in told
    assert "/iex'" in told
    assert "Set DATALAKE_URI to another place" in told
    assert remote.lake.store.get(layout.session_key(date(2024, 7, 3))) == before


def test_dagsters_home_is_made_with_its_settings_and_never_overwritten(
    remote: Remote, empty_folder: Path
) -> None:
    assert invoke("collect", "--session", "2024-07-03").exit_code == 0
    config = empty_folder / ".datalake/dagster/dagster.yaml"
    assert "telemetry" in config.read_text()
    with dg.DagsterInstance.from_config(str(config.parent)) as records:
        assert records.run_monitoring_max_runtime_seconds == 7200
        for run in records.get_runs():
            assert run.tags["dagster/max_runtime_seconds"] == "0", "somebody sees this one"
            assert process_of(run), "and whoever looks can ask whether it lives"
    config.write_text(config.read_text() + "\n# mine\n")

    assert invoke("collect", "--session", "2024-07-05").exit_code == 0

    assert config.read_text().endswith("# mine\n")


@pytest.mark.parametrize(
    ("splits", "first"),
    [
        ([], 6),
        ([11], 6),
        ([7], 6),
        ([6], 5),
        ([3], 2),
        ([1], 0),
        ([0], 6),  # with no session before it
        ([2, 8], 6),
        ([12], 6),  # announced
    ],
)
def test_the_demo_goes_back_as_far_as_it_takes_to_have_a_split(
    splits: list[int], first: int
) -> None:
    days = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 18))
    assert len(days) == MOST_SESSIONS + 1
    lake = LakeWriter(open_store("memory://"))
    told = [action(str(day), "A", days[day], kind="forward_splits") for day in splits]
    ActionLog(lake.store).append(answer(*told), datetime(2024, 7, 17, tzinfo=UTC))
    assert with_a_split(lake, days[:MOST_SESSIONS]) == days[first]


# --- in processes of their own ---


def test_demo_goes_from_an_empty_folder_and_an_empty_home_to_a_lake_and_a_first_look(
    empty_folder: Path,
) -> None:
    result = datalake("demo")

    assert result.returncode == 0, result.stderr
    lake = LakeWriter(open_store(str(empty_folder / ".datalake/embedded")))
    days = lake.sessions()
    assert DEMO_SESSIONS <= len(days) <= MOST_SESSIONS
    assert str(lake.source()).startswith("embedded exchange: ")
    newest = lake.read(days[-1])
    assert newest.bars.num_rows >= 5_000
    told = result.stdout
    assert "the embedded exchange" in told
    assert f"Most traded on {days[-1]}" in plain(told)
    assert f"{newest.bars.num_rows:,} bars of {days[-1]}" in plain(told)
    factors = read_derived(lake.store, layout.FACTORS_TABLE).to_pylist()
    split = [row for row in factors if row["adjustment"] == "split" and row["applied"]]
    assert (" and its split" in told) == bool(split)
    assert ("No security split" in told) == (not split)
    (code,) = re.findall(r'python -c "(.+)"', told)
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(str(day) in shown for day in days)
    (run,) = runs(empty_folder)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    with dg.DagsterInstance.from_config(str(empty_folder / ".datalake/dagster")) as instance:
        materialized = instance.get_materialized_partitions(dg.AssetKey("daily_ticks"))
    assert materialized == {str(day) for day in days}


def interrupted_when(
    process: subprocess.Popen[str], ready: Callable[[], bool], by: signal.Signals = signal.SIGINT
) -> str:
    """Ctrl-C, or another signal, as soon as something is so; what the process said of it."""
    try:
        for _ in range(600):
            if ready():
                break
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"it ended: {process.communicate()}")
        process.send_signal(by)
        return process.communicate(timeout=60)[1]
    finally:
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_collection_is_recorded_as_ended_and_keeps_what_it_has(
    remote: Remote, empty_folder: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C, or the stop of a container, while the second window gets no answer."""
    days = market_calendar.previous_sessions(date(2024, 7, 3), DAILY.window + 2)
    silence = Rule(
        Fault(kind="silence", seconds=60),
        times=None,
        when=lambda arrival: arrival.query.get("start", "").startswith(f"{days[DAILY.window]}"),
    )
    remote.exchange.faults = FaultScript([silence])
    settings = {name: value for name, value in os.environ.items() if name.startswith("ALPACA_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "datalake_assets"),
            *("collect", "--from", f"{days[0]}", "--to", f"{days[-1]}"),
        ],
        env=environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = interrupted_when(
        process,
        lambda: len(remote.lake.sessions() + remote.lake.incomplete()) == DAILY.window,
        number,
    )

    assert process.returncode == code
    # SQLAlchemy logs one of its own when the signal comes while it closes a connection.
    assert "datalake_assets/" not in errors, errors
    assert "daily_ticks: interrupted\n" in errors
    left = [day for day in days if day not in remote.lake.sessions()]
    assert f"datalake collect --from {left[0]} --to {left[-1]} --repair\n" in errors
    (run,) = runs(empty_folder)
    assert run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
    # In so small a universe, two symbols without a print can be too few for the audit.
    assert sorted(remote.lake.sessions() + remote.lake.incomplete()) == days[: DAILY.window]
    assert len(remote.lake.sessions()) > DAILY.window / 2


def test_an_interrupted_run_of_any_kind_ends_with_the_same_code(remote: Remote) -> None:
    remote.exchange.faults = FaultScript([Rule(Fault(kind="silence", seconds=60), times=None)])
    settings = {name: value for name, value in os.environ.items() if name.startswith("ALPACA_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "datalake_assets", "actions", "--sweep"],
        env=environment(**settings),
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = interrupted_when(process, lambda: bool(remote.exchange.requests))

    assert process.returncode == 130
    assert "corporate_actions: interrupted\nTo go on: datalake actions --sweep" in errors


def test_a_terminal_without_the_signs_gets_others_and_the_collection_its_end(
    remote: Remote,
) -> None:
    settings = {name: value for name, value in os.environ.items() if name.startswith("ALPACA_")}
    for arguments in (("collect", "--session", "2024-07-03"), ("status",)):
        result = datalake(*arguments, environ=settings | {"PYTHONIOENCODING": "ascii"})
        assert result.returncode == 0, result.stderr
        assert (result.stdout + result.stderr).isascii()
        assert "2024" in result.stdout


# --- what it would cost ---


def planned(*arguments: str) -> dict[str, Any]:
    result = invoke("plan", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def objects(lake: LakeWriter) -> list[str]:
    """What lies in the lake, without the days in the names."""
    return [re.sub(r"\d{4}-\d\d-\d\d", "DAY", key) for key in lake.store.list("")]


LONGER = ("--from", "2024-01-02", "--to", "2024-06-28")


def test_plan_of_an_empty_lake_asks_for_universe_and_survey_and_keeps_them(
    remote: Remote,
) -> None:
    told = planned(*LONGER)

    sessions = market_calendar.sessions(date(2024, 1, 2), date(2024, 6, 28))
    assert told["sessions"] == len(sessions) == 124
    assert told["objects"] == 124 + told["symbol_years"] + 1
    assert 0 < told["symbol_years"] < told["symbols"]
    assert 0 < told["bars"] < told["bars_at_most"] == told["symbols"] * 124
    assert told["requests"] == 2, "one a window"
    assert told["minutes"] == 2 / 100_000
    log = [request.path for request in remote.exchange.requests]
    assert log == ["/v2/assets", "/v2/stocks/bars"] + ["/v2/stocks/bars"] * (len(log) - 2)
    assert objects(remote.lake) == [
        "_lake.json",
        "data/universe/DAY.parquet",
        "data/universe/surveys/DAY.parquet",
    ]

    remote.exchange.requests.clear()
    assert planned(*LONGER) == told
    assert remote.exchange.requests == [], "what the lake has is not asked for again"


def test_plan_of_a_short_range_needs_no_survey(remote: Remote) -> None:
    told = planned("--from", "2024-07-01", "--to", "2024-07-03")

    assert told["bars"] == told["bars_at_most"] == 3 * told["symbols"]
    assert [request.path for request in remote.exchange.requests] == ["/v2/assets"]
    assert remote.lake.survey() is None
    shown = plain(invoke("plan", "--from", "2024-07-01", "--to", "2024-07-03").stdout)
    assert f"expected bars up to {told['bars']:,}" in shown.replace("│", " ")
    assert "The lake holds no session to estimate by" in shown


def test_plan_in_the_terminal_tells_requests_minutes_and_dollars(remote: Remote) -> None:
    result = invoke("plan", *LONGER)

    assert result.exit_code == 0
    told = plain(result.stdout).replace("┃", " ")
    for word in ("requests 2", "sessions 124", "expected bars", "PUTs on S3 $0.0008", "S3 prices"):
        assert word in " ".join(told.split()), told
    assert "up to" not in told
    assert "fetching the list of assets, as the lake has none" in plain(result.stderr)


def test_plan_of_missing_sessions_leaves_out_those_that_are_published(remote: Remote) -> None:
    assert invoke("collect", "--from", "2024-07-01", "--to", "2024-07-02").exit_code == 0

    span = ("--from", "2024-07-01", "--to", "2024-07-08")
    assert planned(*span)["sessions"] == 5
    assert planned(*span, "--missing")["sessions"] == 3
    assert planned("--from", "2024-07-01", "--to", "2024-07-02", "--missing")["requests"] == 0


def test_plan_with_the_embedded_exchange_starts_it_and_leaves_nobody_behind(
    empty_folder: Path,
) -> None:
    symbols = {"DATALAKE_SYMBOLS": "MUS,AUE"}

    result = datalake("plan", *LONGER, "--json", environ=symbols)

    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["symbols"], told["sessions"], told["requests"]) == (2, 124, 2)
    lake = LakeWriter(open_store(str(empty_folder / ".datalake/embedded")))
    assert str(lake.source()).startswith("embedded exchange: synthetic/7")
    survey = lake.survey()
    assert survey is not None
    assert set(survey.years) == {"MUS", "AUE"}
    assert lake.sessions() == []


def test_plan_expects_of_a_range_about_the_bars_that_it_has(remote: Remote) -> None:
    invoke("collect", *LONGER)  # of so few symbols, some sessions do not pass
    assert len(remote.lake.sessions()) > 100
    market = remote.exchange.market
    first = market.sessions.index(date(2024, 1, 2))
    names = sorted(row["symbol"] for row in market.assets())
    bars = len(market.bars(names, first, first + 124))

    assert planned(*LONGER)["bars"] == pytest.approx(bars, rel=0.1)


def test_a_backfill_sends_the_requests_that_were_planned(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """600 symbols over two years, a quarter of them delisted at some time.

    Counted is each page of bars that the backfill was sent. Not counted are the survey's own
    requests, which the plan has sent before (the lake keeps what they brought), and those that
    were refused for one of the two names that the exchange calls none: a few in each run, however
    long it is. The runs are whole windows.
    """
    monkeypatch.setenv("DATALAKE_SESSIONS_PER_RUN", f"{4 * DAILY.window}")
    with ExchangeServer(Exchange(SyntheticMarket(7, 450, 150))) as server:
        monkeypatch.setenv("ALPACA_DATA_URL", server.url)
        monkeypatch.setenv("ALPACA_TRADING_URL", server.url)
        span = ("--from", "2022-01-03", "--to", "2023-12-29")
        told = planned(*span)
        server.exchange.requests.clear()

        assert invoke("backfill", *span).exit_code == 0

        sent = [r.status for r in server.exchange.requests if r.path == "/v2/stocks/bars"]
    assert told["sessions"] == len(remote.lake.sessions()) == 501
    assert told["bars"] < 0.95 * told["bars_at_most"]
    assert sent.count(200) == pytest.approx(told["requests"], rel=0.02)
    assert set(sent) <= {200, 400}


def test_a_run_of_a_backfill_is_whole_windows_as_they_are_planned() -> None:
    """A session over costs a request for each 500 names: 2,334 for 15 years instead of 2,103."""
    assert Settings.load({}).sessions_per_run % DAILY.window == 0


# --- status ---


def status() -> dict[str, Any]:
    result = invoke("status", "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_status_of_an_empty_folder_says_that_all_is_missing_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    monkeypatch.setenv("DATALAKE_START_DATE", "2024-07-01")

    result = invoke("status")

    assert result.exit_code == 0
    told = plain(result.stdout)
    assert "no lake yet" in told
    assert re.search(
        r"missing: [\d,]+ sessions → datalake backfill --from 2024-07-01 --to 20", told
    )
    found = status()
    assert found["source"] is None
    assert found["sessions_published"] == found["bars"] == 0
    assert found["sessions"] == found["to_repair"] == []
    (gap,) = found["gaps"]
    assert gap["from"] == "2024-07-01"
    assert gap["sessions"] == found["sessions_expected"] > 500
    assert list(empty_folder.iterdir()) == []


def test_status_of_a_partial_lake_names_gaps_and_repairs(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPACA_HISTORY_START", "2024-07-01")
    assert invoke("collect", "--from", "2024-07-02", "--to", "2024-07-05").exit_code == 0
    remote.hold_back()
    assert invoke("collect", "--session", "2024-07-09").exit_code == 1

    result = invoke("status")

    assert result.exit_code == 0
    told = plain(result.stdout)
    assert "missing: 1 session → datalake backfill --from 2024-07-01 --to 2024-07-01" in told
    assert "missing: 1 session → datalake backfill --from 2024-07-08 --to 2024-07-08" in told
    assert invoke("status", "--check").exit_code == 1
    repair = "datalake collect --session 2024-07-09 --repair"
    assert re.search(rf"2024-07-09: \d+ failed, 0 pending → {repair}", told)
    found = status()
    assert found["sessions_published"] == 3
    assert found["to_repair"] == ["2024-07-09"]
    assert [(gap["from"], gap["to"]) for gap in found["gaps"]][:2] == [
        ("2024-07-01", "2024-07-01"),
        ("2024-07-08", "2024-07-08"),
    ]
    assert [(row["session"], row["published"]) for row in found["sessions"]] == [
        ("2024-07-02", True),
        ("2024-07-03", True),
        ("2024-07-05", True),
        ("2024-07-09", False),
    ]
    assert found["bars"] == sum(row["present"] for row in found["sessions"] if row["published"])
    lines = invoke("status").stdout.splitlines()
    assert any(line.endswith("collect --session 2024-07-09 --repair") for line in lines)


def test_every_command_that_status_tells_stands_in_one_line(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken at the terminal's edge, it can't be copied."""
    monkeypatch.setattr(terminal.out, "width", 60)
    monkeypatch.setenv("ALPACA_HISTORY_START", "2024-07-01")

    lines = invoke("status").stdout.splitlines()

    (gap,) = [line for line in lines if line.startswith("missing:")]
    assert re.search(r"backfill --from 2024-07-01 --to \d{4}-\d\d-\d\d$", gap)


def test_status_of_a_damaged_session_names_the_file_and_counts_the_others(
    remote: Remote, empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPACA_HISTORY_START", "2024-07-02")
    assert invoke("collect", "--from", "2024-07-02", "--to", "2024-07-03").exit_code == 0
    path = empty_folder / ".datalake/lake" / layout.session_key(date(2024, 7, 3))
    path.write_bytes(path.read_bytes()[:-50])

    result = invoke("status")

    assert result.exit_code == 0
    assert f"damaged: {path}" in result.stdout
    found = status()
    assert found["damaged"] == [str(path)]
    assert [row["session"] for row in found["sessions"]] == ["2024-07-02"]
    assert found["sessions_published"] == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_marker_of_the_lake_is_named(
    content: bytes, remote: Remote, empty_folder: Path
) -> None:
    marker = empty_folder / ".datalake/lake" / layout.MARKER
    marker.parent.mkdir(parents=True)
    marker.write_bytes(content)

    result = invoke("status")

    assert result.exit_code == 2
    assert layout.MARKER in plain(result.stderr)


# --- the exchange ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_exchange_prints_its_address_answers_and_ends_in_order_by_a_signal(
    number: signal.Signals,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "datalake_assets", "exchange", "--port", "0", "--seed", "3"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"(synthetic/\S*) on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line
        how = process.stdout.readline()
        assert f"ALPACA_DATA_URL={found[2]} ALPACA_TRADING_URL={found[2]}" in how
        asking = urllib.request.Request(
            f"{found[2]}/v2/clock", headers={"APCA-API-KEY-ID": "a", "APCA-API-SECRET-KEY": "b"}
        )
        with urllib.request.urlopen(asking, timeout=30) as answer:
            assert "timestamp" in json.load(answer)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()

    assert process.returncode == 0
    assert errors == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--faults", "some"), "the faults 'some' cannot be read"),
        (("--faults", '{"rate": 2}'), "rate=2"),
        (("--latency", "-1"), "latency=-1"),
        (("--recorded", "nowhere.csv"), "nowhere.csv"),
        (("--port", "99999"), "port"),
    ],
)
def test_an_exchange_that_cannot_be_says_why_in_a_line(arguments: Sequence[str], told: str) -> None:
    result = invoke("exchange", "--port", "0", *arguments)

    assert result.exit_code == 2
    assert told in plain(result.stderr)


def test_an_exchange_on_a_port_that_is_taken_says_which(server: ExchangeServer) -> None:
    port = server.url.rpartition(":")[2]

    result = invoke("exchange", "--port", port)

    assert result.exit_code == 2
    assert port in plain(result.stderr)


# --- progress ---


def told_by(display: TerminalDisplay, console: Console, *snapshots: Snapshot) -> str:
    with console.capture() as capture:
        for snapshot in snapshots[:-1]:
            display.show(snapshot, final=False)
        display.show(snapshots[-1], final=True)
    return capture.get()


def test_without_a_terminal_progress_is_a_line_now_and_then_and_one_at_the_end() -> None:
    console = Console(force_terminal=False, width=200)
    snapshots = [
        Snapshot(label="2024-07-03", chunks=100, chunks_done=tenths, seconds=tenths / 10)
        for tenths in range(101)
    ]

    told = told_by(TerminalDisplay(console), console, *snapshots)

    assert [line.split()[1] for line in told.splitlines()] == ["50/100", "100/100"]


def test_in_a_terminal_progress_is_a_bar_with_its_counts() -> None:
    console = Console(force_terminal=True, width=200)
    half = Snapshot("2024-07-03", 4, 2, 1_000, 3, 990, 2, 1, seconds=1)
    whole = Snapshot("2024-07-03", 4, 4, 2_000, 3, 1_980, 4, 1, seconds=2)

    told = plain(told_by(TerminalDisplay(console), console, half, whole))

    assert "4/4 chunks ✓ 2,000 ✗ 3 1 retry 1,980 bars 4 requests" in told


def test_each_collection_has_its_own_bar() -> None:
    console = Console(force_terminal=True, width=200)
    display = TerminalDisplay(console)

    first = told_by(display, console, Snapshot("2023", 1, 0), Snapshot("2023", 1, 1))
    second = told_by(display, console, Snapshot("2024", 1, 0), Snapshot("2024", 1, 1))

    assert "2023" in first
    assert "2024" in second
    assert "2023" not in second
