"""A Postgres on loopback, from the system's own binaries, with its data in a folder.

Here: finding, starting and stopping one. Not here: what is done with it.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

PATIENCE = 60.0
"""Seconds in which a server starts, or ends."""

NOT_HERE = "there is no Postgres server here (Debian, Ubuntu: apt install postgresql)"

AS_ROOT = os.geteuid() == 0
"""Postgres refuses to run as root: its processes are then those of `nobody`."""


def binaries() -> Path | None:
    """The folder of the newest Postgres here; Debian keeps it off the path."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.is_dir()]
    folders += sorted(debian, key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in folders if (path / "postgres").exists()), None)


class PostgresServer:
    """A Postgres that asks for a password, with what its folder held before.

    It has no socket in the file system, whose path would have 104 bytes at most.

    Args:
        binaries: Where its programs are.
        folder: Where its data is; as root it must be one that `nobody` may reach.
        password: Of `lake`, who may do everything; kept when the folder has data already.
        port: Where it listens; None: a free one.

    Raises:
        RuntimeError: It did not start.
    """

    def __init__(
        self, binaries: Path, folder: Path, password: str, port: int | None = None
    ) -> None:
        self._binaries, self._folder, self._password = binaries, folder, password
        self.port = port or _free_port()
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "password"
        if AS_ROOT:
            shutil.chown(folder, "nobody")
        if not (folder / "data" / "PG_VERSION").exists():
            secret.touch(mode=0o600)
            secret.write_text(password, encoding="ascii")
            if AS_ROOT:
                shutil.chown(secret, "nobody")
            self._make(secret)
        self.start()

    def _make(self, secret: Path) -> None:
        made = subprocess.run(
            [
                *(self._binaries / "initdb", "-D", self._folder / "data", "-U", "lake"),
                *("--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"),
                *("--locale=C", "--encoding=UTF8"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            **self._user,
        )
        secret.unlink()
        if made.returncode:
            raise RuntimeError(f"no Postgres could be made in {self._folder}:\n{made.stderr}")

    @property
    def _user(self) -> dict[str, Any]:
        if not AS_ROOT:
            return {}
        nobody = pwd.getpwnam("nobody")
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}

    def dsn(self, user: str = "lake", password: str | None = None, **more: str) -> str:
        """Its address for a user; `password` as it is written in an address."""
        options = "&".join(f"{name}={value}" for name, value in more.items())
        secret = quote(self._password, safe="") if password is None else password
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/postgres?{options}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._binaries / "postgres", "-D", self._folder / "data"),
                    *("-p", str(self.port), "-c", "unix_socket_directories=", "-c", "fsync=off"),
                    *("-c", "listen_addresses=127.0.0.1"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._user,
            )
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError as error:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.stop()
                    told = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
                    raise RuntimeError(f"Postgres did not start:\n{told[-4000:]}") from error
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT at once, as a crash would; SIGINT in order, with its data kept."""
        self._process.send_signal(how)
        self._process.wait(PATIENCE)

    def connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        """A connection of its own, on which each statement is a transaction."""
        return psycopg.connect(self.dsn(), autocommit=True)

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        with self.connect() as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """The server and its processes stand still: connections stay open, nobody answers."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        if not children.exists():
            pytest.skip("this system does not tell which processes are the server's")
        stopped = [self._process.pid, *map(int, children.read_text().split())]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
