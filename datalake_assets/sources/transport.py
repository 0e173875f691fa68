"""HTTP GET with bounds: connections, time to connect, time to answer, time in all.

Belongs here: one request, its bytes, and failures of the network. Does not belong here: what the
status means (`alpaca`), trying again (`collection.retry`).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlencode, urlsplit

import urllib3
from isal import isal_zlib

from datalake_assets.collection.errors import TransientError

_GZIP = 31  # window bits: the largest window, with a gzip header

_BROKEN = (
    urllib3.exceptions.HTTPError,
    OSError,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),  # its stub calls the class an instance
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one request may take, in seconds.

    Args:
        connect: Until the connection stands.
        read: Between two pieces of the answer.
        total: From the first byte sent to the last one received: a server that drips its answer
            byte by byte keeps to any `read`.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float = 90.0

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            if not getattr(self, name) > 0:
                raise ValueError(f"a timeout is a positive time, not {name}={getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the headers (names in lower case) and the decoded body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """A pool of connections, safe to use from as many threads as it has connections.

    Args:
        connections: Size of the pool for each host: the number of threads.
        timeouts: Bounds of each request.
    """

    def __init__(self, connections: int, timeouts: Timeouts | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        # urllib3's own retries stay off: the collector retries, and two layers multiply.
        self._pool = urllib3.PoolManager(maxsize=connections, block=True, retries=False)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """Send one GET.

        Args:
            url: Without a query.
            params: The query; commas and colons stay as they are, which keeps a URL with 500
                symbols within what web servers take.
            headers: Sent as they are, never shown.

        Raises:
            TransientError: There is no whole answer: no connection, a reset, a timeout, a body
                cut short or damaged.
        """
        where = urlsplit(url)
        what = f"GET {where.netloc}{where.path}"
        end = time.monotonic() + self._timeouts.total
        query = f"{url}?{urlencode(params, safe=',:')}" if params else url
        try:
            response = self._pool.request(
                "GET",
                query,
                headers={**headers, "Accept-Encoding": "gzip"},
                preload_content=False,
                decode_content=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=self._timeouts.connect, read=self._timeouts.read),
            )
            try:
                body = self._read(response, what, end)
            except BaseException:
                response.close()
                raise
            finally:
                response.release_conn()
        except _BROKEN as error:
            raise TransientError(f"{what}: {_reason(error)}") from error
        received = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, received, body)

    def _read(self, response: urllib3.BaseHTTPResponse, what: str, end: float) -> bytes:
        pieces = []
        # read(n) would block until n bytes are there; only read1 lets us look at the clock.
        while piece := response.read1(1 << 18, decode_content=False):
            pieces.append(piece)
            if time.monotonic() > end:
                raise TransientError(f"{what}: no whole answer in {self._timeouts.total:g} s")
        body = b"".join(pieces)
        promised = response.headers.get("Content-Length")
        if promised is not None and str(len(body)) != promised:
            raise TransientError(f"{what}: {len(body)} of {promised} bytes, then the end")
        if response.headers.get("Content-Encoding") == "gzip":
            body = isal_zlib.decompress(body, _GZIP)
        return body


def _reason(error: BaseException) -> str:
    """An error of the network in a line; urllib3's own texts carry objects and addresses."""
    match error:
        # Before the timeout, whose subclass it is.
        case urllib3.exceptions.NewConnectionError():
            return "no connection: is the server up, and the address right?"
        case urllib3.exceptions.ConnectTimeoutError():
            return "no connection in time"
        case urllib3.exceptions.ReadTimeoutError():
            return "no answer in time"
        case urllib3.exceptions.ProtocolError() | ConnectionError():
            return f"the connection broke ({type(error.__cause__ or error).__name__})"
        case _:
            return f"{type(error).__name__}: {error}"
