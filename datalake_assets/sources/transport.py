"""HTTP GET with limits: connections, and timeouts for connecting, reading and in total.

Belongs here: one request, its bytes, proxies and certificates, and network failures. Does not
belong here: the meaning of the status (`alpaca`), retries (`collection.retry`).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import urllib3
from isal import isal_zlib

from datalake_assets.collection.errors import PermanentError, RefusedError, TransientError
from datalake_assets.sources.text import line

_GZIP = 31  # window bits: the largest window, with a gzip header

_BROKEN = (
    urllib3.exceptions.HTTPError,
    OSError,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),  # its stub calls the class an instance
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The timeouts of one request, in seconds.

    Args:
        connect: For connecting.
        read: Between two pieces of the answer.
        total: From the first byte sent to the last one received, since a server that sends its
            answer byte by byte never exceeds `read`.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float = 90.0

    def __post_init__(self) -> None:
        for name in ("connect", "read", "total"):
            if not getattr(self, name) > 0:
                raise ValueError(f"a timeout must be positive, not {name}={getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: the status, the headers (names in lower case) and the decoded body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Pools of connections, for as many threads as connections.

    The environment configures proxies and certificates as for alpaca-py's own transport, requests:
    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, and a file or folder of certificates in
    REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE. This machine itself is never reached through a proxy,
    where its name would mean another machine.

    Args:
        connections: The size of each host's pool: the number of threads.
        timeouts: The timeouts of each request.
    """

    def __init__(self, connections: int, timeouts: Timeouts | None = None) -> None:
        self._timeouts = timeouts or Timeouts()
        self._connections = connections
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self._proxies: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()

    def get(
        self,
        url: str,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        most: int,
    ) -> Answer:
        """Send one GET.

        Args:
            url: Without a query.
            params: The query. Commas and colons are not escaped, which keeps a URL with 500
                symbols within the limits of web servers.
            headers: Sent unchanged, never shown.
            most: The most bytes of the answer, compressed and decompressed.

        Raises:
            TransientError: There is no complete answer: no connection, a reset, a timeout, a body
                truncated or damaged.
            PermanentError: The answer is larger than `most`.
            RefusedError: The environment names a proxy or certificates that can't be used.
        """
        where = urlsplit(url)
        what = f"GET {where.netloc}{where.path}"
        end = time.monotonic() + self._timeouts.total
        query = f"{url}?{urlencode(params, safe=',:')}" if params else url
        pool = self._pool(url)
        try:
            response = pool.request(
                "GET",
                query,
                headers={**headers, "Accept-Encoding": "gzip"},
                preload_content=False,
                decode_content=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=self._timeouts.connect, read=self._timeouts.read),
            )
            try:
                body = self._read(response, what, end, most)
            except BaseException:
                response.close()
                raise
            finally:
                response.release_conn()
        except _BROKEN as error:
            raise TransientError(f"{what}: {_reason(error)}") from error
        received = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, received, body)

    def _read(self, response: urllib3.BaseHTTPResponse, what: str, end: float, most: int) -> bytes:
        pieces, size = [], 0
        # read(n) would block until n bytes have arrived; read1 lets us check the time.
        while piece := response.read1(1 << 18, decode_content=False):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise _too_large(what, most)
            if time.monotonic() > end:
                raise TransientError(f"{what}: no complete answer in {self._timeouts.total:g} s")
        body = b"".join(pieces)
        promised = response.headers.get("Content-Length")
        if promised is not None and str(len(body)) != promised:
            raise TransientError(f"{what}: {len(body)} of {line(promised, 40)} bytes, then the end")
        if response.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip"):
            body = _unpacked(body, what, most)
        return body

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The connections to a host, or to the proxy through which it is reached."""
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        with self._lock:
            if host not in self._proxies:
                self._proxies[host] = _proxy(host)
            proxy = self._proxies[host]
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str | None) -> urllib3.PoolManager:
        # urllib3's own retries stay off: the collector retries, and two layers multiply.
        given: dict[str, Any] = {
            "maxsize": self._connections,
            "block": True,
            "retries": False,
            **self._certificates,
        }
        if proxy is None:
            return urllib3.PoolManager(**given)
        # Only this part of its URL is shown: the rest may be a password.
        shown = line(f"{urlsplit(proxy).scheme}://{urlsplit(proxy).hostname}", 100)
        if shown.startswith("socks"):
            if find_spec("socks") is None:
                raise RefusedError(
                    f"the environment names the proxy {shown}, and SOCKS needs a package that is "
                    "not installed: run pip install PySocks, or use an HTTP proxy"
                )
            from urllib3.contrib.socks import SOCKSProxyManager

            return SOCKSProxyManager(proxy, **given)
        try:
            from requests.utils import get_auth_from_url

            user, password = get_auth_from_url(proxy)
            login = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else None
            return urllib3.ProxyManager(proxy, proxy_headers=login, **given)
        except (ValueError, urllib3.exceptions.HTTPError):
            raise RefusedError(
                f"the environment names a proxy that can't be used ({shown}): see HTTP_PROXY, "
                "HTTPS_PROXY and ALL_PROXY"
            ) from None

    @cached_property
    def _certificates(self) -> dict[str, str]:
        """The certificates that the environment names; None for those of the system."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if named := os.environ.get(name):
                path = Path(named)
                if not path.exists():
                    raise RefusedError(f"{name} names neither a file nor a folder: {line(named)}")
                if path.is_dir():
                    return {"ca_cert_dir": named}
                try:
                    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(named)
                except OSError as error:
                    raise RefusedError(
                        f"{name} names a file that is not a bundle of certificates: {line(named)}"
                    ) from error
                return {"ca_certs": named}
        return {}


def _proxy(host: str) -> str | None:
    """The proxy for a host, from the environment, if any."""
    name = urlsplit(host).hostname or ""
    try:
        if ipaddress.ip_address(name).is_loopback:
            return None
    except ValueError:
        if name == "localhost" or name.endswith(".localhost"):
            return None
    # Imported here, as alpaca-py loads it anyway and `dagster dev` does not need it.
    from requests.utils import get_environ_proxies, select_proxy

    found = select_proxy(host, get_environ_proxies(host))
    return found if not found or "://" in found else f"http://{found}"


def _unpacked(body: bytes, what: str, most: int) -> bytes:
    packed = isal_zlib.decompressobj(_GZIP)
    found = packed.decompress(body, most + 1)
    if len(found) > most:
        raise _too_large(what, most)
    if not packed.eof:
        raise TransientError(f"{what}: a truncated gzip answer")
    return found


def _too_large(what: str, most: int) -> PermanentError:
    return PermanentError(
        f"{what}: the answer is larger than {most >> 20} MiB, the limit for such answers; it "
        "was not read completely"
    )


def _reason(error: BaseException) -> str:
    """A network error in one line; urllib3's own texts contain objects and addresses."""
    match error:
        case urllib3.exceptions.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return (
                f"its certificate is not accepted ({line(str(error), 100)}); behind a proxy that "
                "inspects TLS, name the proxy's certificates in REQUESTS_CA_BUNDLE"
            )
        case urllib3.exceptions.ProxyError():
            why = error.original_error
            said = f" ({line(str(why), 100)})" if type(why) is OSError else ""
            return f"the proxy in the environment does not allow it{said}"
        # Before the timeout, whose subclass it is.
        case urllib3.exceptions.NewConnectionError():
            return "no connection: is the server running, and the address right?"
        case urllib3.exceptions.ConnectTimeoutError():
            return "no connection in time"
        case urllib3.exceptions.ReadTimeoutError():
            return "no answer in time"
        case urllib3.exceptions.ProtocolError() | ConnectionError():
            return f"the connection broke ({type(error.__cause__ or error).__name__})"
        case _:
            return line(f"{type(error).__name__}: {error}", 200)
