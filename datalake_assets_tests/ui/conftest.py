"""What a browser test needs: `make dev` on a lake of its own, a browser, a folder for pictures.

Not here: what is clicked and what must then be seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_SECONDS = 180
STOPPED_WITHIN_SECONDS = 60
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",  # containers run it as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class DagsterDev:
    """A running `make dev`: where it is, where its lake is, what it printed, what it runs with."""

    url: str
    lake: Path
    log: Path
    environment: Mapping[str, str]

    def last_lines(self, count: int = 40) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-count:])


@pytest.fixture(scope="session")
def dagster_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    """`make dev` with no key and no setting but the lake's place: the embedded exchange serves."""
    with make_dev(tmp_path_factory.mktemp("dev")) as running:
        yield running


@contextlib.contextmanager
def make_dev(folder: Path, **settings: str) -> Iterator[DagsterDev]:
    """`make dev` as it is in the Makefile, but for the Python: the one that runs the tests.

    Its sensors are stopped, as a person does under Automation who wants to do all by hand.

    Args:
        folder: Where its lake, its HOME (empty) and Dagster's records are.
        settings: Variables that it runs with, beside the lake's place.
    """
    (folder / "home").mkdir()
    # For make, what runs the tests is what is installed. A link, as make can't have a space in the
    # name of a target; a VENV of no use, so that no mistake here could touch the checkout's own.
    (folder / "venv").symlink_to(sys.prefix)
    (folder / "installed").touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(folder / "dagster"),
        "DATALAKE_URI": str(folder / "lake"),
        **settings,
    }
    stop_sensors(environment)
    running = DagsterDev(
        f"http://127.0.0.1:{port}", folder / "lake", folder / "dev.log", environment
    )
    command = [
        "make",
        "dev",
        f"VENV={folder / 'none'}",
        f"BIN={folder / 'venv' / 'bin'}",
        f"RUNTIME={folder / 'installed'}",
        f"DAGSTER_HOME={folder / 'dagster'}",
        f"PORT={port}",
    ]
    with running.log.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )
    try:
        _wait_until_ready(running, process)
        yield running
    finally:
        _stop(process)


STOP_SENSORS = """
from dagster._cli.sensor import _get_repo
from dagster._cli.utils import get_instance_for_cli
from dagster._cli.workspace.cli_target import RepositoryOpts, WorkspaceOpts

workspace = WorkspaceOpts(workspace=("workspace.yaml",))
with get_instance_for_cli() as records, _get_repo(workspace, RepositoryOpts(), records) as code:
    for sensor in code.get_sensors():
        records.stop_sensor(sensor.get_remote_origin_id(), sensor.selector_id, sensor)
        print("stopped", sensor.name)
"""
"""`dagster sensor stop` for all of them; the command takes one at a time, and ten seconds each."""


def stop_sensors(environment: Mapping[str, str]) -> None:
    """Stop the sensors before the daemon is up: what is clicked here must not be done already."""
    Path(environment["DAGSTER_HOME"]).mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOP_SENSORS],
        cwd=ROOT,
        env={**environment, "DAGSTER_DISABLE_TELEMETRY": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY_WITHIN_SECONDS,
        check=False,
    )
    assert "stopped new_sessions" in done.stdout, done.stdout + done.stderr


def _wait_until_ready(running: DagsterDev, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"make dev ended by itself:\n{running.last_lines()}")
        try:
            with urllib.request.urlopen(f"{running.url}/server_info", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"make dev does not answer at {running.url}:\n{running.last_lines()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for the whole group, so that Dagster ends its services; what is left is killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOPPED_WITHIN_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, or what CHROMIUM names; the tests fail, not skip, without one."""
    from playwright.sync_api import sync_playwright

    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.fail(
            "There is no Chromium here. Install it (Debian: apt-get install chromium; macOS: "
            "brew install chromium) or name one: CHROMIUM=/path/to/chrome make test-ui"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=list(CHROMIUM_ARGUMENTS)
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures go: the folder that SCREENSHOTS names, or pytest's own."""
    named = os.environ.get("SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def page(browser: Browser, dagster_dev: DagsterDev, pictures: Path) -> Iterator[Page]:
    """One tab for all tests, on the running UI. What it shows at the end is a picture, too."""
    page = browser.new_page(base_url=dagster_dev.url, viewport={"width": 1440, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    page.screenshot(path=pictures / "last.png")
    page.close()
