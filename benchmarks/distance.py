"""A server that seems to be far away: what is sent to it arrives later.

Belongs here: the delay. Does not belong here: the server, or what is asked of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_PIECE = 1 << 18


@contextmanager
def distant(url: str, seconds: float) -> Iterator[str]:
    """Pass on to a server on loopback, so many seconds later, whatever is sent to it.

    Bytes are passed on as they are, the Host header included, which S3's signature covers.

    Args:
        url: The server's address.
        seconds: For each piece of a request; its answer comes back at once.

    Returns:
        The address to use in its place.
    """
    port = urlsplit(url).port
    loop, started = asyncio.new_event_loop(), threading.Event()
    address: list[str] = []

    async def passed_on(
        given: asyncio.StreamReader, taken: asyncio.StreamWriter, later: float
    ) -> None:
        while piece := await given.read(_PIECE):
            loop.call_later(later, taken.write, piece)
        loop.call_later(later, taken.close)

    async def connected(given: asyncio.StreamReader, taken: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", port)
        both = passed_on(given, requests, seconds), passed_on(answers, taken, 0.0)
        await asyncio.gather(*both, return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        address.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        started.set()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    threading.Thread(target=run, name="distance", daemon=True).start()
    started.wait()
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
