"""Running an exchange: in the foreground, in a thread, or in a process of its own.

Here belongs what has to do with uvicorn, sockets and processes. What is answered belongs in
`server`.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO, Self

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from datalake_assets.exchange import synthetic
from datalake_assets.exchange.errata import read_errata
from datalake_assets.exchange.faults import read_faults
from datalake_assets.exchange.market import Market
from datalake_assets.exchange.server import TRANSPORT, Exchange

LOOPBACK = "127.0.0.1"


class ExchangeError(RuntimeError):
    """An exchange that did not start; the message tells what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeOptions:
    """Which exchange to run.

    Attributes:
        seed: Of the synthetic market.
        active: How many symbols of it are listed.
        inactive: How many are not, any more.
        recorded: A CSV or Parquet file to replay instead (`RecordedMarket` says which).
        actions: A CSV file of the recording's corporate actions.
        names: A CSV file of its renames.
        requests_per_minute: The data API's rate limit; 0: none.
        trading_requests_per_minute: The trading API's; 0: none.
        latency: Seconds that each answer takes longer.
        faults: As JSON (`read_faults` says how); empty: none.
        errata: Mistakes about actions and bars, as JSON (`read_errata` says how); empty: none.
        closures: Days on which it stayed closed after all, separated by commas; empty: none.
    """

    seed: int = 7
    active: int = 6_000
    inactive: int = 2_000
    recorded: Path | None = None
    actions: Path | None = None
    names: Path | None = None
    requests_per_minute: int = 0
    trading_requests_per_minute: int = 0
    latency: float = 0.0
    faults: str = ""
    errata: str = ""
    closures: str = ""

    @property
    def market_id(self) -> str:
        """The name of the market, without making it. `OSError` when a recording is not there."""
        if self.recorded is None:
            return synthetic.market_id(self.seed, self.active, self.inactive)
        from datalake_assets.exchange import recorded  # brings pyarrow: only when it is needed

        return recorded.market_id(self.recorded, self.actions, self.names)

    def market(self) -> Market:
        """The market itself.

        Raises:
            ValueError: actions or names without a recording, or a file that cannot be replayed.
        """
        if self.recorded is None:
            if self.actions is not None or self.names is not None:
                raise ValueError(
                    "actions and names belong to recorded bars; give the recording, too"
                )
            return synthetic.SyntheticMarket(self.seed, self.active, self.inactive)
        from datalake_assets.exchange import recorded

        return recorded.RecordedMarket(self.recorded, self.actions, self.names)

    def exchange(self) -> Exchange:
        """The exchange over that market.

        Raises:
            ValueError: an option makes no sense.
            OSError: the recording cannot be opened.
        """
        return Exchange(
            self.market(),
            requests_per_minute=self.requests_per_minute,
            trading_requests_per_minute=self.trading_requests_per_minute,
            latency=self.latency,
            faults=read_faults(self.faults) if self.faults else None,
            errata=read_errata(self.errata) if self.errata else None,
            closures=[date.fromisoformat(day) for day in self.closures.split(",") if day],
        )

    def arguments(self) -> list[str]:
        """The command line of `python -m datalake_assets.exchange` that means the same."""
        return [
            f"--{name.replace('_', '-')}={getattr(self, name)}"
            for name in type(self).__slots__
            if getattr(self, name) not in (None, "")
        ]


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, showing the application its transport."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}


class _Server(uvicorn.Server):
    """uvicorn's server, ending at once: a fault may hold a connection open for minutes."""

    def __init__(self, exchange: Exchange, announce: Callable[[], object]) -> None:
        super().__init__(
            uvicorn.Config(
                exchange,
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=600,
            )
        )
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def serve(
    exchange: Exchange,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    announce: Callable[[str], object] = lambda url: None,
    until_eof: bool = False,
) -> None:
    """Serves in this thread until it is interrupted (Ctrl-C) or terminated.

    Args:
        exchange: What to serve.
        host: The address to listen on.
        port: The port; 0: a free one.
        announce: Called with the URL when the exchange can be reached.
        until_eof: End, too, at the end of standard input: when the process that holds its other
            end is gone, however that happened.

    Raises:
        OSError: the address is not free.
    """
    with _listen(host, port) as listener:
        server = _Server(exchange, lambda: announce(_url(listener)))
        if until_eof:
            threading.Thread(target=_exit_at_eof, daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
            server.run(sockets=[listener])


class ExchangeServer:
    """An exchange served by a thread of this process: a context manager.

    Attributes:
        exchange: The exchange, with its log in `exchange.requests`.
        url: Where it is reached.
    """

    def __init__(self, exchange: Exchange, *, host: str = LOOPBACK, port: int = 0) -> None:
        self.exchange = exchange
        self._host, self._port = host, port
        self.url = ""

    def __enter__(self) -> Self:
        listener = _listen(self._host, self._port)
        started = threading.Event()
        self._server = _Server(self.exchange, started.set)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="exchange", daemon=True
        )
        self._thread.start()
        if not started.wait(30):
            raise ExchangeError("the exchange's thread did not start within 30 s")
        self.url = _url(listener)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def _run(self, listener: socket.socket) -> None:
        with listener:
            self._server.run(sockets=[listener])


class EmbeddedExchange:
    """An exchange in a process of its own: a context manager.

    The process ends with the block, and with this process in any case: it holds the end of a pipe
    whose other end is here, and exits when that closes, even after a SIGKILL.

    Attributes:
        options: What it runs with.
        url: Where it is reached, once started.
    """

    def __init__(self, options: ExchangeOptions | None = None) -> None:
        self.options = options or ExchangeOptions()
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def market_id(self) -> str:
        """Which market it serves; known without starting it."""
        return self.options.market_id

    @property
    def pid(self) -> int:
        """The process."""
        return self._running.pid

    def start(self) -> Self:
        """Starts the process; returns when it can be reached.

        Raises:
            ExchangeError: it could not be, with what it said; or it is running already.
        """
        if self._process is not None:
            raise ExchangeError(f"the embedded exchange is running already, at {self.url}")
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "datalake_assets.exchange"),
                    *("--port=0", "--until-eof"),
                    *self.options.arguments(),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for this process; the other one follows it
            )
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            try:
                self.url = json.loads(line)["url"]
            except ValueError as error:
                self.stop()
                raise ExchangeError(
                    f"the embedded exchange did not start ({' '.join(self.options.arguments())}); "
                    f"it said: {_read(complaints) or 'nothing'}"
                ) from error
        return self

    def stop(self) -> None:
        """Ends the process, if there is one, and waits for it."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise ExchangeError("the embedded exchange is not running; start it first")
        return self._process


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise OSError(
            error.errno, f"the exchange cannot listen on {host}:{port}: {error.strerror}"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


def _exit_at_eof() -> None:
    while os.read(0, 4_096):
        pass
    os._exit(0)  # there is nothing to save, and nobody left to wait for


def _environment() -> dict[str, str]:
    """This process's environment without what the exchange has no need to know."""
    secret = ("ALPACA_", "APCA_", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(secret)}
    # Wherever this process has the package from, the other one finds it there too.
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths)}


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read()[-4_000:].decode(errors="replace").strip()
