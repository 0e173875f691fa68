"""A server that takes PUTs and keeps nothing: what an uploader can do when the store is no limit.

It answers each request `--latency` seconds after its last byte. Several processes share the port,
each with a protocol on raw bytes, so that the client is what is measured. `benchmarks.upload`
starts it by itself; alone it is for trying another client:

    python -m benchmarks.sink [--latency 0.06] [--processes 2]

It checks no signature and stores nothing; it counts the objects and their bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import SynchronizedArray
from typing import cast

import uvloop

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# No MD5, with which rclone would compare the file's.
STORED = b'HTTP/1.1 200 OK\r\nETag: "taken-1"\r\nContent-Length: 0\r\n\r\n'
EMPTY = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
LISTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (
    len(EMPTY),
    EMPTY,
)
ABSENT = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
EXPECTS = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


@dataclass(frozen=True)
class Sink:
    """A running sink, and what it has taken."""

    url: str
    counts: SynchronizedArray[int]

    def taken(self) -> tuple[int, int]:
        """Objects and bytes since it started."""
        return sum(self.counts[0::2]), sum(self.counts[1::2])


@contextmanager
def sink(latency: float, processes: int = 2) -> Iterator[Sink]:
    """A sink on a free port of loopback, in processes of its own."""
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2 * processes)
    # Holds the port, without listening: else it would be given connections that nobody accepts.
    with _bound(0) as reserved:
        port = reserved.getsockname()[1]
        servers = [
            context.Process(target=_serve, args=(port, latency, counts, index), daemon=True)
            for index in range(processes)
        ]
        for server in servers:
            server.start()
        try:
            _wait(port, processes)
            yield Sink(f"http://127.0.0.1:{port}", counts)
        finally:
            for server in servers:
                server.terminate()
                server.join()


class _Put(asyncio.Protocol):
    """One connection: requests one after another, each answered after the latency."""

    def __init__(self, latency: float, counts: SynchronizedArray[int], index: int) -> None:
        self.latency = latency
        self.counts = counts.get_obj()  # a process writes only its own two numbers
        self.objects, self.bytes = 2 * index, 2 * index + 1
        self.head = b""
        self.missing = 0  # bytes of a body that are still to come; -1: until its last chunk
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        if self.missing > 0:
            self.missing -= len(data)
        elif self.missing < 0:
            self.tail = (self.tail + data)[-7:]
            if self.tail.endswith(b"\r\n0\r\n\r\n"):
                self.missing = 0
        else:
            self.head += data
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, body = self.head[: end + 2], self.head[end + 4 :]
            if not head.startswith(b"PUT "):
                self.head = b""
                self._answer(ABSENT if head.startswith(b"HEAD ") else LISTED)
                return
            length = LENGTH.search(head)
            size = int(length[1]) if length else 0
            self.head = head  # remembered until its body is here
            self.counts[self.bytes] += size
            if EXPECTS.search(head) and not body:
                self.transport.write(CONTINUE)
            if CHUNKED.search(head):
                self.tail = body[-7:]
                self.missing = 0 if self.tail.endswith(b"\r\n0\r\n\r\n") else -1
            else:
                self.missing = size - len(body)
        if not self.missing:
            self.head = b""
            self.counts[self.objects] += 1
            self._answer(STORED)

    def _answer(self, answer: bytes) -> None:
        if self.latency:
            self.loop.call_later(self.latency, self.transport.write, answer)
        else:
            self.transport.write(answer)


def _serve(port: int, latency: float, counts: SynchronizedArray[int], index: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Put(latency, counts, index), sock=_bound(port), backlog=1024
        )
        await server.serve_forever()

    uvloop.run(run())


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _wait(port: int, processes: int) -> None:
    """Until connections are taken, a second longer for the processes that come after the first."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(1 if processes > 1 else 0)
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} after 30 seconds")


def main() -> None:
    """Serve until Ctrl-C, then say how many objects came."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--latency", type=float, default=0.06, help="seconds")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with sink(given.latency, given.processes) as server:
        print(f"taking PUTs on {server.url}; Ctrl-C ends it", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            objects, size = server.taken()
            print(f"\n{objects:,} objects, {size:,} bytes")


if __name__ == "__main__":
    main()
