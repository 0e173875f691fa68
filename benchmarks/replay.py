"""Recorded answers of the embedded exchange, served by a process that costs next to nothing.

The exchange makes its market anew for each request, which takes as much CPU as the client that is
measured. So it is asked once: a recording keeps its answers as they were on the wire (compressed,
with page tokens), and a replay sends them again, by the request. What was never asked is answered
with 404 and counted; while recording, it is asked of the exchange and kept.

Nothing has to be planned: whatever a program asks for is recorded by running it once against a
replay that records. Requests depend on how the program packs them, so a program that packs
otherwise is recorded anew, into the same folder or another one.

    python -m benchmarks.replay FOLDER --record [--active 5000] [--inactive 0] [--seed 7]
    python -m benchmarks.replay FOLDER [--per-minute 10000] [--latency 0.05] [--port 8800]

Both print their address as one line of JSON and serve until Ctrl-C. To collect from it:

    export ALPACA_API_KEY=any ALPACA_SECRET_KEY=any ALPACA_HISTORY_START=2011-01-03
    export ALPACA_DATA_URL=http://127.0.0.1:8800 ALPACA_TRADING_URL=http://127.0.0.1:8800
    datalake backfill --from 2023-01-03 --to 2025-12-31

Belongs here: keeping answers and serving them. Does not belong here: what is measured with them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import unquote_to_bytes
from urllib.request import urlopen

import uvloop

from datalake_assets.exchange.process import LOOPBACK, ExchangeOptions
from datalake_assets.exchange.server import Exchange, TokenBucket

NOW = b"now"
"""In a key, an `end` at the time of the recording or later: a client that asks for all that there
is until now asks another day with another time, and means the same."""

TOLD = b"/_replay/told"
"""Asked for the numbers of the replay: `Told`, as JSON."""

_INVALID = re.compile(rb'"invalid symbol: ([^"]+)"')
"""Why a request is refused that names what is no symbol."""

_SHOWN = 5  # unknown requests that are told; all of them are counted
_STARTING = 60  # seconds: an exchange that records reads its market first


class Recording:
    """Answers in a folder, by request: `answers`, one after another, and `index`.

    A line of the index is a request, the status of its answer, where that begins and how long it
    is. It is written after the answer, so an interrupted recording holds whole answers only.

    A refusal is kept for the name that is refused, and answers every request with that name in
    it. When a program has learnt of such a name, and asks without it, depends on the moment.

    Args:
        folder: Made when it is not there.
        options: The exchange that is recorded. None: the one that was.

    Attributes:
        market: Whose answers they are.

    Raises:
        ValueError: It holds answers of another market, or none at all.
    """

    def __init__(self, folder: Path, options: ExchangeOptions | None = None) -> None:
        self._about = folder / "recording.json"
        if not self._about.exists():
            if options is None:
                raise ValueError(f"{folder} holds no recording; make one with --record")
            folder.mkdir(parents=True, exist_ok=True)
            began = datetime.now(UTC).isoformat(timespec="seconds")
            told = {"market": options.market_id, "began": began}
            self._about.write_text(json.dumps(told), encoding="utf-8")
        about = json.loads(self._about.read_text(encoding="utf-8"))
        if options is not None and about["market"] != options.market_id:
            raise ValueError(
                f"{folder} holds answers of the market {about['market']}, not of "
                f"{options.market_id}: record into another folder"
            )
        began_on = datetime.fromisoformat(about["began"]).date()
        # A day earlier: the client keeps away from the last minutes, and a date has no zone.
        self._now = (began_on - timedelta(days=1)).isoformat().encode()
        self.market: str = about["market"]
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._index = (folder / "index").open("a+b")
        self._index.seek(0)
        for line in self._index.read().split(b"\n")[:-1]:  # the last one may have been cut
            key, status, at, size = line.rsplit(b" ", 3)
            self._places[key] = (int(status), int(at), int(size))
        self._answers = (folder / "answers").open("a+b")
        self._held = self._map()

    def __len__(self) -> int:
        return len(self._places)

    def key(self, target: bytes) -> bytes:
        """The target of a request, whatever the order and the spelling of its parameters."""
        path, _, query = target.partition(b"?")
        parts = sorted(unquote_to_bytes(part) for part in query.replace(b"+", b" ").split(b"&"))
        parts = [
            b"end=" + NOW if part.startswith(b"end=") and part[4:14] >= self._now else part
            for part in parts
        ]
        return path + b"?" + b"&".join(parts)

    def answer(self, key: bytes) -> tuple[int, memoryview] | None:
        """The status, and what follows its line on the wire; None: the request is unknown."""
        place = self._places.get(key) or next(
            (found for name in _symbols(key) if (found := self._places.get(b"invalid " + name))),
            None,
        )
        if place is None:
            return None
        status, at, size = place
        if at + size > len(self._held):
            self._held = self._map()
        return status, self._held[at : at + size]

    def keep(self, key: bytes, status: int, answer: bytes) -> None:
        """Add an answer; it is on disk when this returns."""
        if status == 400 and (named := _INVALID.search(answer)):
            key = b"invalid " + named[1]
        at = self._answers.seek(0, os.SEEK_END)
        self._answers.write(answer)
        self._answers.flush()
        self._index.write(b"%b %d %d %d\n" % (key, status, at, len(answer)))
        self._index.flush()
        self._places[key] = (status, at, len(answer))

    def bars(self) -> list[dict[str, str]]:
        """The parameters of each request that brought a first page of daily bars."""
        found = []
        for key, (status, _, _) in self._places.items():
            path, _, parameters = key.decode().partition("?")
            # A key is decoded already: its plus signs are no spaces.
            query = dict(part.split("=", 1) for part in parameters.split("&") if part)
            first = query.get("timeframe") == "1Day" and "page_token" not in query
            if status == 200 and first and path == "/v2/stocks/bars":
                found.append(query)
        return found

    def close(self) -> None:
        """Close the files."""
        self._index.close()
        self._answers.close()

    def _map(self) -> memoryview:
        size = os.fstat(self._answers.fileno()).st_size
        return memoryview(
            mmap.mmap(self._answers.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        )


@dataclass(frozen=True)
class Told:
    """What a replay was asked, and what it cost.

    Attributes:
        arrivals: When each request for market data came, in seconds on the monotonic clock (on
            Linux the same one for all processes).
        daily: How many of them were for daily bars.
        refused: How many of all requests were answered with 429.
        unknown: How many with 404, as they were not recorded.
        examples: The first of those.
        bytes: Sent, with headers.
        cpu: Seconds of the server's process since it can be reached.
    """

    arrivals: list[float]
    daily: int
    refused: int
    unknown: int
    examples: list[str]
    bytes: int
    cpu: float

    def require_recorded(self) -> None:
        """End the program with a message when a request was not recorded, or over the limit."""
        if self.unknown:
            sys.exit(
                f"{self.unknown} requests were not recorded, as the program asks otherwise than "
                f"the one that was: run again with --record. The first: {self.examples[0][:300]}"
            )
        if self.refused:
            sys.exit(f"{self.refused} requests were over the limit")

    def fullest(self, seconds: float = 60.0) -> int:
        """The requests of the fullest sliding window."""
        at = self.arrivals
        return max((bisect_left(at, begin + seconds) - n for n, begin in enumerate(at)), default=0)


class _Server:
    """What all connections share.

    Args:
        recording: The answers.
        per_minute: The limit of requests for market data, kept and told as Alpaca does; 0: none.
        latency: Seconds that each answer takes longer.
        exchange: Asked for what is unknown; None: that is answered with 404.
    """

    def __init__(
        self, recording: Recording, per_minute: int, latency: float, exchange: Exchange | None
    ) -> None:
        self.recording, self.latency, self.exchange = recording, latency, exchange
        self._bucket = TokenBucket(per_minute, time.monotonic)
        self._arrivals: list[float] = []
        self._daily = self._refused = self._unknown = self._bytes = 0
        self._examples: list[str] = []
        self._started = time.process_time()
        self._asking = asyncio.Lock()

    def begin(self, target: bytes) -> bytes | None:
        """Count a request; the refusal, when it is over the limit."""
        if not target.startswith((b"/v2/stocks", b"/v1/")):
            return None
        self._arrivals.append(time.monotonic())
        self._daily += b"timeframe=1Day" in target
        if self._bucket.take():
            return None
        self._refused += 1
        body = b'{"message": "too many requests."}'
        return _whole(b"429 Too Many Requests", self._limit(target), body)

    def found(self, target: bytes) -> list[bytes | memoryview] | None:
        """The pieces of a recorded answer; None: it is not recorded."""
        if target == TOLD:
            return [_whole(b"200 OK", b"", json.dumps(self._told()).encode())]
        found = self.recording.answer(self.recording.key(target))
        if found is None:
            return None
        status, answer = found
        self._bytes += len(answer)
        return [b"HTTP/1.1 %d \r\n%b" % (status, self._limit(target)), answer]

    async def asked(self, target: bytes) -> list[bytes | memoryview]:
        """The pieces of an answer that is not recorded: the exchange's, or 404."""
        if self.exchange is None:
            self._unknown += 1
            if len(self._examples) < _SHOWN:
                self._examples.append(target.decode("latin-1"))
            text = (
                "this request was not recorded; run the program once against a replay with "
                f"--record: {target.decode('latin-1')[:300]}"
            )
            body = json.dumps({"message": text}).encode()
            return [_whole(b"404 Not Found", b"", body)]
        async with self._asking:
            key = self.recording.key(target)
            if self.recording.answer(key) is None:
                self.recording.keep(key, *await _ask(self.exchange, target))
        found = self.found(target)
        assert found is not None, f"recorded and not found: {key[:300]!r}"
        return found

    def _limit(self, target: bytes) -> bytes:
        if not self._bucket.capacity or not target.startswith((b"/v2/stocks", b"/v1/")):
            return b""
        headers = self._bucket.headers(datetime.now(UTC))
        return b"".join(b"%b: %b\r\n" % header for header in headers)

    def _told(self) -> dict[str, Any]:
        return {
            "arrivals": self._arrivals,
            "daily": self._daily,
            "refused": self._refused,
            "unknown": self._unknown,
            "examples": self._examples,
            "bytes": self._bytes,
            "cpu": time.process_time() - self._started,
        }


class _Connection(asyncio.Protocol):
    """One connection: GETs one after another, each answered after the latency."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._head = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._head += data
        while (end := self._head.find(b"\r\n\r\n")) >= 0:
            head, self._head = self._head[:end], self._head[end + 4 :]
            method, _, rest = head.partition(b" ")
            target = rest.partition(b" ")[0]
            if method != b"GET":
                body = b'{"message": "a replay answers GET only"}'
                self._send([_whole(b"405 Method Not Allowed", b"", body)])
                continue
            refusal = self._server.begin(target)
            pieces = [refusal] if refusal else self._server.found(target)
            if pieces is None:
                task = self._loop.create_task(self._ask(target))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._send(cast("list[bytes | memoryview]", pieces))

    async def _ask(self, target: bytes) -> None:
        self._send(await self._server.asked(target))

    def _send(self, pieces: list[bytes | memoryview]) -> None:
        if self._server.latency:
            self._loop.call_later(self._server.latency, self._transport.writelines, pieces)
        else:
            self._transport.writelines(pieces)


def _symbols(key: bytes) -> list[bytes]:
    """The symbols that a request names."""
    _, found, after = key.partition(b"&symbols=")
    return after.partition(b"&")[0].split(b",") if found else []


def _whole(status: bytes, headers: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        headers,
        len(body),
        body,
    )


async def _ask(exchange: Exchange, target: bytes) -> tuple[int, bytes]:
    """Ask the exchange in this process; its status, and the answer after its status line."""
    path, _, query = target.partition(b"?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote_to_bytes(path).decode(),
        "query_string": query,
        "headers": [
            (b"apca-api-key-id", b"any"),
            (b"apca-api-secret-key", b"any"),
            (b"accept-encoding", b"gzip"),
        ],
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    await exchange(scope, receive, send)
    start, body = sent
    headers = b"".join(b"%b: %b\r\n" % header for header in start["headers"])
    return start["status"], headers + b"\r\n" + body["body"]


class Replay:
    """A replay in a process of its own: a context manager.

    The process ends with the block, and with this process in any case.

    Args:
        folder: Of the recording.
        record: The exchange to ask for what is not recorded yet; None: nothing is added.
        per_minute, latency: As for `--per-minute` and `--latency`.
        port: 0: a free one. A lake remembers the address of its source: to collect into the same
            one again takes the same port.

    Attributes:
        url: Where it is reached.

    Raises:
        RuntimeError: It did not start, with what it said.
    """

    def __init__(
        self,
        folder: Path,
        *,
        record: ExchangeOptions | None = None,
        per_minute: int = 0,
        latency: float = 0.05,
        port: int = 0,
    ) -> None:
        self.url = ""
        self._command = [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.replay", str(folder)),
            *("--per-minute", str(per_minute), "--latency", str(latency)),
            *("--port", str(port), "--until-eof"),
        ]
        if record is not None:
            self._command += ["--record", "--seed", str(record.seed)]
            self._command += ["--active", str(record.active), "--inactive", str(record.inactive)]

    def __enter__(self) -> Self:
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,  # Ctrl-C is for this process; the other one follows it
                cwd=Path(__file__).resolve().parents[1],
            )
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            if not line:
                self._process.wait(_STARTING)
                complaints.seek(0)
                said = complaints.read()[-4_000:].decode(errors="replace").strip()
                self._close()
                raise RuntimeError(f"the replay did not start; it said: {said or 'nothing'}")
        self.url = json.loads(line)["url"]
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def told(self) -> Told:
        """What it was asked until now."""
        with urlopen(self.url + TOLD.decode()) as answer:
            return Told(**json.load(answer))


def main() -> None:
    """Serve until Ctrl-C, then say what was asked."""
    given = _arguments()
    options = ExchangeOptions(seed=given.seed, active=given.active, inactive=given.inactive)
    try:
        recording = Recording(given.folder, options if given.record else None)
    except ValueError as error:
        sys.exit(f"error: {error}")
    with closing(recording):
        exchange = options.exchange() if given.record else None
        server = _Server(recording, given.per_minute, given.latency, exchange)
        if given.until_eof:
            threading.Thread(target=_exit_at_eof, daemon=True).start()
        try:
            uvloop.run(_serve(server, given.port))
        except KeyboardInterrupt:
            print(f"\n{len(recording):,} answers are recorded", file=sys.stderr)


async def _serve(server: _Server, port: int) -> None:
    listening = await asyncio.get_running_loop().create_server(
        lambda: _Connection(server), LOOPBACK, port, backlog=1024
    )
    at = listening.sockets[0].getsockname()[1]
    told = {"url": f"http://{LOOPBACK}:{at}", "answers": len(server.recording)}
    print(json.dumps(told), flush=True)
    await listening.serve_forever()


def _exit_at_eof() -> None:
    while os.read(0, 4_096):
        pass
    os._exit(0)  # what is recorded is on disk


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the recording")
    parser.add_argument("--record", action="store_true", help="ask the exchange what is unknown")
    parser.add_argument("--seed", type=int, default=7, help="of the market that is recorded")
    parser.add_argument("--active", type=int, default=5_000, help="its listed symbols")
    parser.add_argument("--inactive", type=int, default=0, help="its delisted ones")
    parser.add_argument("--per-minute", type=int, default=0, help="the limit it keeps; 0: none")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds of each answer")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--until-eof", action="store_true", help="end with standard input")
    return parser.parse_args()


if __name__ == "__main__":
    main()
