"""Every command of docs/how-to.md does what the page says, in its order, in an empty folder.

Not here: whether commands and options exist (`test_readme`), the project of one's own
(`test_downstream`).
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from datalake_assets import Lake, market_calendar
from datalake_assets.cli import app
from datalake_assets.collection.clock import Clock
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.files import LakeFiles
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.receiver import receiver
from datalake_assets_tests.exchange.calling import keys_to

PAGE = (Path(__file__).parents[1] / "docs" / "how-to.md").read_text(encoding="utf-8")
SPAN = [date(2024, 7, 1), date(2024, 7, 2), date(2024, 7, 3), date(2024, 7, 5)]
START = "2016-01-04"
"""Since when the page collects every day; here since a few sessions ago."""


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {title!r}"
    return found[1]


def python(title: str) -> str:
    """The Python of a section."""
    (snippet,) = re.findall(r"^```python\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)
    return str(snippet)


def commands(title: str) -> list[str]:
    """The commands of a section, in their order."""
    prose = re.sub(r"^```.*?^```", "", section(title), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)


@dataclass
class Reader:
    """Somebody who types what the page says.

    Args:
        patch: For what is exported.
        printed: What the commands said, by command.
    """

    patch: pytest.MonkeyPatch
    printed: dict[str, str] = field(default_factory=dict)

    def types(self, line: str) -> None:
        """Type a line; it must succeed."""
        words = shlex.split(line)
        if words[0] == "export":
            for word in words[1:]:
                name, _, value = word.partition("=")
                self.patch.setenv(name, value)
        elif words[0] == "datalake":
            result = CliRunner().invoke(app, words[1:], prog_name="datalake", terminal_width=200)
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            assert result.exit_code == 0, f"{line}\n{result.output}"
            self.printed[line] = result.output
        else:
            subprocess.run(line, shell=True, check=True)

    def follows(self, title: str) -> None:
        """Type all commands of a section."""
        for line in commands(title):
            self.types(line)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """In an empty folder, with keys to an exchange that has the names of the page."""
    with (
        ExchangeServer(Exchange(SyntheticMarket(7, 150, 40))) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = tmp_path_factory.mktemp("how-to")
        patch.chdir(folder)
        patch.setenv("DAGSTER_HOME", str(folder / ".datalake" / "dagster"))
        for name, value in keys_to(server.url).items():
            patch.setenv(name, value)
        yield Reader(patch)


def bars() -> dict[str, bytes]:
    """The bars per symbol, and the tables of securities, by their keys."""
    store = open_store("my-lake")
    tables = (layout.SECURITIES_TABLE, layout.FACTORS_TABLE, layout.CUMULATIVE_TABLE)
    return {key: store.get(key) for key in (*store.list(layout.SYMBOL_YEARS), *tables)}


def test_the_page_works_from_its_first_line_to_its_last(reader: Reader) -> None:
    reader.follows("Collect your own 50 symbols")
    lake = Lake.open("my-lake")
    assert lake.sessions() == SPAN
    assert lake.symbols() == ["AUE", "AYE", "CII"]
    assert lake.missing(["AUE", "AYE", "CII"]).num_rows == 0
    assert f"{SPAN[-1]}" in reader.printed["datalake show AUE --from 2024-07-01"]

    reader.follows("Get adjusted prices")
    assert lake.bars("AUE", adjustment="all").num_rows == len(SPAN)

    reader.follows("Add minute bars")
    assert lake.minute_sessions() == SPAN
    shown = reader.printed["datalake show AUE --minutes --session 2024-07-03"]
    assert "from 09:30 to 12:59 in New York" in shown
    read: dict[str, Any] = {}
    exec(compile(python("Add minute bars"), "how-to.md", "exec"), read)
    assert set(read["minutes"]["session"].to_pylist()) == {*SPAN[:3]}
    assert 40 <= read["five"].num_rows <= 42  # a half day

    reader.follows("Ask what was known on a day")
    snippet = python("Ask what was known on a day")
    names: dict[str, Any] = {}
    exec(compile(snippet, "how-to.md", "exec"), names)
    assert names["bars"].equals(lake.bars("AUE", adjustment="all"))
    assert set(names["listed"]["symbol"].to_pylist()) >= {"AUE", "AYE", "CII"}

    reader.follows("Read it as an Iceberg table")
    exec(compile(python("Read it as an Iceberg table"), "how-to.md", "exec"), names)
    assert names["bars"]["close"].to_pylist() == lake.bars("AUE")["close"].to_pylist()

    before, (*rebuilt, gone) = bars(), commands("Delete and rebuild")
    for line in rebuilt:
        reader.types(line)
        if line.startswith("rm"):
            assert bars_are_gone(before)
    assert bars() == before
    assert LakeFiles(lake.store).sessions() == SPAN
    reader.types(gone)
    assert {path.name for path in Path().iterdir()} == {".datalake", "symbols.txt"}


def bars_are_gone(before: dict[str, bytes]) -> bool:
    """Is one of the objects, or a session, not there?"""
    store = open_store("my-lake")
    return LakeFiles(store).sessions() != SPAN or not all(map(store.exists, before))


def test_an_alert_of_the_page_arrives(reader: Reader) -> None:
    webhook, urls, sent = commands("Be told when something is wrong")
    reader.types(webhook.replace("…", "T0/B0/x"))
    Settings.load(dict(os.environ))
    with receiver() as told:
        mine = told.address.replace("http:", "json:")
        reader.types(re.sub(r"json://\S+ [^']*", mine, urls))
        reader.patch.setenv(
            "PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )
        assert Settings.load(dict(os.environ)).alert_urls == (mine,)
        reader.types(sent)

    ((_, _, body),) = told.arrived
    assert '"It works"' in body
    table = re.findall(r"^\| \w+ \| `([^`]+)`", section("Be told when something is wrong"), re.M)
    assert [url.partition(":")[0] for url in table] == [
        "mailtos",
        "workflows",
        "pagerduty",
        "tgram",
    ]
    for variable in ("DATALAKE_ALERT_WEBHOOK", "DATALAKE_ALERT_URLS"):
        reader.patch.delenv(variable)


@pytest.mark.s3
def test_a_lake_in_s3_is_collected_there_or_uploaded(reader: Reader, s3_lake_uri: str) -> None:
    assert os.environ["AWS_ENDPOINT_URL_S3"]  # of the server that runs here, with its keys
    reader.patch.setenv("DATALAKE_SYMBOLS", "AUE,AYE")
    title = "Keep the lake in S3"
    reader.patch.setenv("DATALAKE_URI", "to-move")
    reader.types("datalake backfill --from 2024-07-01 --to 2024-07-02")

    keys, address, *lines = commands(title)
    assert re.findall(r"AWS_\w+", keys + address) == [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_ENDPOINT_URL_S3",
    ]
    for line in lines:
        line = line.replace("my-lake", "to-move").replace("s3://bucket/prefix", s3_lake_uri)
        reader.types(line.replace("s3://bucket/other", f"{s3_lake_uri}-other"))

    assert Lake.open(s3_lake_uri).sessions() == SPAN
    assert Lake.open(f"{s3_lake_uri}-other").sessions() == SPAN[:2]


def test_the_three_commands_of_cron_leave_nothing_to_do(reader: Reader) -> None:
    newest = market_calendar.latest_closed_session(Clock().now())
    since, *_ = market_calendar.previous_sessions(newest, 3)
    lines = commands("Collect every day")
    assert [line for line in lines if START in line] == [f"datalake backfill --from {START}"]
    reader.patch.setenv("DATALAKE_SYMBOLS", "AUE,AYE")
    reader.patch.setenv("DATALAKE_URI", "daily-lake")

    for _evening in range(2):
        for line in lines:
            reader.types(line.replace(START, since.isoformat()))

    assert Lake.open("daily-lake").sessions()[0] == since
    told = reader.printed["datalake status --check"]
    assert f"{newest}" in told or "nothing" in told


def test_every_section_has_commands_or_leads_to_a_page() -> None:
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)

    assert [title for title in titles if not commands(title)] == [
        "Use it in your own Dagster project"
    ]
    assert "(own-project.md)" in section("Use it in your own Dagster project")
