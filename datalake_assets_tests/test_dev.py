"""`datalake dev`: what it starts, with what, and what it says when it can't.

Not here: that Dagster then answers (`test_wheel`) and can be clicked (`ui`).
"""

import os
import socket
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from datalake_assets.cli import app


class StartedError(Exception):
    """In the place of Dagster, which would take this process."""


@pytest.fixture
def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that this process was replaced by, in an empty folder."""
    found: list[list[str]] = []

    def execute(program: str, words: list[str]) -> None:
        assert program == words[0] == sys.executable
        found.append(words)
        raise StartedError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "2")
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE")
    monkeypatch.setattr(os, "execv", execute)
    return found


def test_in_an_empty_folder_it_starts_dagster_with_records_and_a_workspace(
    started: list[list[str]], free: int, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["dev", "--port", str(free)])

    assert isinstance(result.exception, StartedError)
    ((*_, module, dev, _, workspace, _, host, _, port),) = started
    assert (module, dev, host, port) == ("dagster", "dev", "127.0.0.1", str(free))
    (location,) = yaml.safe_load(Path(workspace).read_text(encoding="utf-8"))["load_from"]
    assert location["python_module"]["module_name"] == "datalake_assets.definitions"
    home = tmp_path / ".datalake" / "dagster"
    assert (home / "dagster.yaml").is_file()
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "1000"
    assert f"http://127.0.0.1:{free}" in result.output


@pytest.mark.parametrize(
    "wrong",
    ["DATALAKE_ALERT_URLS=nosuchservice://pa55w0rd", "DATALAKE_MAX_WORKERS=many"],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_with_a_wrong_setting_it_starts_nothing_and_names_the_variable(
    wrong: str,
    in_file: bool,
    started: list[list[str]],
    free: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, _, value = wrong.partition("=")
    if in_file:
        (tmp_path / ".env").write_text(f"{wrong}\n")
        monkeypatch.setenv(name, "7")  # Dagster prefers what the file has
    else:
        monkeypatch.setenv(name, value)

    result = CliRunner().invoke(app, ["dev", "--port", str(free)])

    assert result.exit_code == 2
    assert name in result.output
    assert "pa55w0rd" not in result.output
    assert started == []
    assert not (tmp_path / ".datalake").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "192.0.2.1"])
def test_on_a_port_that_is_taken_or_an_address_of_another_machine_it_starts_nothing(
    host: str, started: list[list[str]], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["dev", "--port", str(port), "--host", host])

    assert result.exit_code == 2
    assert f"Port {port} of {host} is taken, or can't be used" in " ".join(result.output.split())
    assert f"datalake dev --port {port + 1}" in " ".join(result.output.split())
    assert started == []
    assert list(tmp_path.iterdir()) == []
