"""Dagster as `deploy/` describes it, in plain processes on loopback: compose without containers.

Postgres, an S3 server, a code server over gRPC, the daemon and the webserver, with the instance
of `deploy/dagster.yaml` and generated passwords. What ends by itself is started again, as a
container is.

    python -m datalake_assets_tests.stack [--data .datalake/stack] [--port 3000]

Here: starting and ending the processes. Not here: what is asked of them (`test_stack`).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError
from urllib.request import Request, urlopen

from datalake_assets_tests.postgres import NOT_HERE, PostgresServer, binaries
from datalake_assets_tests.seaweedfs import BUCKET, S3Server, seaweedfs

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PATIENCE = 90.0
"""Seconds in which a process is ready."""

GRACE = 10.0
"""Seconds between telling a process to end and killing it, as `docker stop` gives."""

CODE_SERVER, DAEMON, WEBSERVER = "code-server", "daemon", "webserver"

LOADED = """{
  workspaceOrError { ... on Workspace { locationEntries {
    locationOrLoadError { __typename ... on PythonError { message } } } } }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } }
}"""


class Stack:
    """The processes, from entering to leaving the `with` block.

    Args:
        folder: Where all of them keep their data; what it held before is there again.
        settings: Of the program, for the code server alone: `DATALAKE_*`, `ALPACA_*`. The lake is
            in the stack's own bucket unless they say otherwise.
        port: Of the webserver; None: a free one.

    Raises:
        RuntimeError: A process did not start; its log is in the message.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        self.folder = folder.resolve()
        self.settings = {"DATALAKE_URI": f"s3://{BUCKET}/lake", **(settings or {})}
        self.port = port or _free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._code_port = _free_port()
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        found = binaries()
        if found is None:
            raise RuntimeError(NOT_HERE)
        with ExitStack() as ending:
            self.folder.mkdir(parents=True, exist_ok=True)
            password = self._password()
            self.postgres = PostgresServer(found, self.folder / "postgres", password)
            ending.callback(self.postgres.stop, signal.SIGINT)
            self._databases(password)
            self.s3: S3Server = ending.enter_context(seaweedfs(self.folder / "s3"))
            ending.callback(self._end)
            self.home = self.folder / "dagster"
            self.home.mkdir(exist_ok=True)
            for name in ("dagster.yaml", "workspace.yaml"):
                shutil.copy(DEPLOY / name, self.home)
            self._environ = {
                **{name: os.environ[name] for name in _OF_THE_SYSTEM if name in os.environ},
                "DAGSTER_HOME": str(self.home),
                "DAGSTER_PG_HOST": "127.0.0.1",
                "DAGSTER_PG_PORT": str(self.postgres.port),
                "DAGSTER_PG_DB": "dagster",
                "DAGSTER_PG_USERNAME": "dagster",
                "DAGSTER_PG_PASSWORD": password,
                "DAGSTER_LOGS_BUCKET": BUCKET,
                "CODE_SERVER_HOST": "127.0.0.1",
                "CODE_SERVER_PORT": str(self._code_port),
                "NO_PROXY": "127.0.0.1,localhost",
                "DAGSTER_DISABLE_TELEMETRY": "1",
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "ignore",
                **self.s3.environ(),
            }
            self.settings.setdefault(
                "DATALAKE_RATE_LIMIT",
                f"postgresql://dagster:{password}@127.0.0.1:{self.postgres.port}/datalake",
            )
            # In the order of compose: who asks the code server comes after it.
            for name in (CODE_SERVER, WEBSERVER, DAEMON):
                self.start(name)
            self._wait(self._all_is_well, DAEMON)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    @property
    def url(self) -> str:
        """Of the webserver."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        """Of Dagster's records."""
        return f"postgresql://dagster:{self._password()}@127.0.0.1:{self.postgres.port}/dagster"

    def environ(self) -> dict[str, str]:
        """What the code server has, and with it every run: to be used as its command line is."""
        return {**self._environ, **self.settings}

    def start(self, name: str) -> None:
        """Start a process, or start it again, and wait until it is ready.

        Raises:
            RuntimeError: It ended, or was not ready in time.
        """
        dagster = [sys.executable, "-m", "dagster"]
        workspace = ["-w", str(self.home / "workspace.yaml")]
        command = {
            CODE_SERVER: [
                *(*dagster, "code-server", "start", "-h", "127.0.0.1"),
                *("-p", str(self._code_port), "-m", "datalake_assets.definitions"),
            ],
            DAEMON: [sys.executable, "-m", "dagster._daemon", "run", *workspace],
            WEBSERVER: [
                *(sys.executable, "-m", "dagster_webserver", *workspace),
                *("-h", "127.0.0.1", "-p", str(self.port)),
            ],
        }[name]
        ready = {
            CODE_SERVER: lambda: _listens(self._code_port),
            DAEMON: lambda: True,
            WEBSERVER: lambda: _listens(self.port),
        }[name]
        with self._log(name).open("ab") as log:
            # A session of its own: it is ended as a whole, and a Ctrl-C is not meant for it.
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ() if name == CODE_SERVER else self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait(ready, name)

    def kill(self, name: str) -> None:
        """Kill a process and all that it started, as the end of its container would."""
        process = self.processes[name]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def restart_what_ended(self) -> list[str]:
        """Start again what has ended; its names."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            # What it had started, and left: a container would not have left it.
            _kill_group(self.processes[name].pid)
            self.start(name)
        return ended

    def graphql(self, query: str, **variables: Any) -> Any:
        """What the webserver answers.

        Raises:
            RuntimeError: It answered errors.
            OSError: It can't be asked.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{self.url}/graphql", body, headers), timeout=60) as answer:
            told = json.load(answer)
        if told.get("errors"):
            raise RuntimeError(f"the webserver answered {told['errors']}")
        return told["data"]

    def log_tail(self, name: str) -> str:
        """The end of what a process logged."""
        return self._log(name).read_text(encoding="utf-8", errors="replace")[-8000:]

    def _all_is_well(self) -> bool:
        try:
            told = self.graphql(LOADED)
        except (URLError, ConnectionError, TimeoutError):
            return False
        entries = told["workspaceOrError"]["locationEntries"]
        (location,) = [entry["locationOrLoadError"] or {"__typename": None} for entry in entries]
        if location["__typename"] == "PythonError":
            raise RuntimeError(f"the definitions can't be loaded: {location['message']}")
        daemons = told["instance"]["daemonHealth"]["allDaemonStatuses"]
        healthy = all(one["healthy"] for one in daemons if one["required"])
        return location["__typename"] == "RepositoryLocation" and healthy

    def _wait(self, ready: Any, name: str) -> None:
        end = time.monotonic() + PATIENCE
        while not ready():
            if self.processes[name].poll() is not None or time.monotonic() > end:
                raise RuntimeError(
                    f"the {name} did not start; its log ends:\n{self.log_tail(name)}"
                )
            time.sleep(0.1)

    def _end(self) -> None:
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        end = time.monotonic() + GRACE
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            _kill_group(process.pid)
            process.wait()

    def _password(self) -> str:
        """Made once, and kept beside the data that it opens."""
        kept = self.folder / "postgres-password"
        if not kept.exists():
            kept.touch(mode=0o600)
            kept.write_text(secrets.token_urlsafe(24), encoding="ascii")
        return kept.read_text(encoding="ascii")

    def _databases(self, password: str) -> None:
        """As docs/deploying.md makes them: Dagster's owner is no superuser."""
        if not self.postgres.run("SELECT 1 FROM pg_roles WHERE rolname = 'dagster'"):
            self.postgres.run(f"CREATE ROLE dagster LOGIN PASSWORD '{password}'")
        for name in ("dagster", "datalake"):
            if not self.postgres.run("SELECT 1 FROM pg_database WHERE datname = %s", name):
                self.postgres.run(f"CREATE DATABASE {name} OWNER dagster")

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


_OF_THE_SYSTEM = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE")


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Start the stack, tell where it is, keep it up until a Ctrl-C or a SIGTERM."""
    parser = argparse.ArgumentParser(
        description="Run Dagster as it is deployed, without containers."
    )
    parser.add_argument("--data", type=Path, default=Path(".datalake/stack"))
    parser.add_argument("--port", type=int, default=3000)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell in the background hands down an ignored SIGINT, and Dagster's processes keep to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("ALPACA_", "DATALAKE_")) and value
    }
    print(f"→ starting Postgres, S3, code server, webserver, daemon in {given.data}", flush=True)
    try:
        with Stack(given.data, settings, given.port) as stack:
            print(f"→ Dagster on {stack.url}, the lake in {stack.settings['DATALAKE_URI']}")
            print(f"→ logs: {given.data}/*.log; Ctrl-C ends it", flush=True)
            while True:
                time.sleep(1)
                for name in stack.restart_what_ended():
                    print(f"→ the {name} had ended, and was started again", flush=True)
    except KeyboardInterrupt:
        print("→ ended; its data is kept")
        return 0
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
