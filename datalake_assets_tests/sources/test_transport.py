"""One request over a real socket: what arrives whole, and what is told when it does not."""

import gzip
import logging
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from datalake_assets.collection.errors import TransientError
from datalake_assets.exchange.faults import Fault, FaultScript, Rule
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.sources.transport import Timeouts, Transport

KEYS = {"APCA-API-KEY-ID": "PKQ7NEVERSHOWN", "APCA-API-SECRET-KEY": "sEcReTnEvErShOwN"}
BARS = "/v2/stocks/bars"
MOST = 1 << 20
ASKED = {"timeframe": "1Day", "start": "2024-01-02", "end": "2024-06-28", "limit": "10000"}


@contextmanager
def transport(
    connections: int = 4, connect: float = 5.0, read: float = 20.0, total: float = 60.0
) -> Iterator[Transport]:
    sending = Transport(connections, Timeouts(connect, read, total))
    try:
        yield sending
    finally:
        sending.close()


@dataclass
class Peer:
    """A server that answers as told, and remembers who connected and what was asked."""

    url: str = ""
    connections: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


Answering = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def peer(answering: Answering) -> Iterator[Peer]:
    told = Peer()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with lock:
                told.connections += 1

        def do_GET(self) -> None:
            with lock:
                told.paths.append(self.path)
                told.headers.append(dict(self.headers))
            answering(self)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *args: Any) -> None:
            pass  # the client went away: that is what is tested

    with Server(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


def answer(body: bytes = b"{}", status: int = 200, **headers: str) -> Answering:
    def answering(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answering


def raw(*pieces: bytes, pause: float = 0.0) -> Answering:
    """These very bytes, then the end of the connection."""

    def answering(handler: BaseHTTPRequestHandler) -> None:
        for number, piece in enumerate(pieces):
            time.sleep(pause if number else 0)
            handler.wfile.write(piece)
            handler.wfile.flush()
        handler.close_connection = True

    return answering


def failing(url: str, path: str = BARS, **timeouts: float) -> TransientError:
    """The error of a request to `path`, which shows nothing that it should not."""
    with transport(**timeouts) as sending, pytest.raises(TransientError) as caught:
        sending.get(url + path, ASKED | {"symbols": "AAPL"}, KEYS, MOST)
    shown = str(caught.value)
    assert shown.startswith(f"GET {url.removeprefix('http://')}{path}: ")
    assert not re.search(r"0x[0-9a-f]{6,}|object at", shown)
    everything = "".join(traceback.format_exception(caught.value))
    for told in (shown, repr(caught.value), everything):
        assert not any(key in told for key in KEYS.values())
    assert caught.value.__cause__ is not None or "bytes" in shown or "whole" in shown
    return caught.value


# Failures of the network


def disturbed(exchange: ExchangeServer, kind: Any, seconds: float = 30.0) -> str:
    exchange.exchange.faults = FaultScript([Rule(Fault(kind=kind, seconds=seconds), times=None)])
    return exchange.url


def test_a_reset_connection_may_be_asked_again(exchange: ExchangeServer) -> None:
    error = failing(disturbed(exchange, "reset"))
    assert "the connection broke (" in str(error)
    assert error.retry_after is None


def test_a_body_cut_short_may_be_asked_again(exchange: ExchangeServer) -> None:
    # Small enough to come without compression, so that half of it is half of the answer.
    error = failing(disturbed(exchange, "cut"))
    assert re.search(r"\d+ of \d+ bytes|the connection broke", str(error))


def test_a_server_that_falls_silent_after_its_headers_is_left(exchange: ExchangeServer) -> None:
    error = failing(disturbed(exchange, "silence"), read=0.3)
    assert "no answer in time" in str(error)


def test_a_server_that_never_answers_is_left() -> None:
    with peer(lambda handler: time.sleep(2.0)) as silent:
        assert "no answer in time" in str(failing(silent.url, read=0.3))


def test_a_server_that_drips_its_answer_is_left_at_the_total_time(
    exchange: ExchangeServer,
) -> None:
    error = failing(disturbed(exchange, "drip", seconds=20.0), read=5.0, total=1.2)
    assert "no whole answer in 1.2 s" in str(error)


def test_a_slow_answer_within_its_times_arrives_whole(exchange: ExchangeServer) -> None:
    symbol = exchange.exchange.market.assets()[0]["symbol"]
    asked = ASKED | {"symbols": symbol}
    with transport() as sending:
        at_once = sending.get(exchange.url + BARS, asked, KEYS, MOST)
        slow = sending.get(disturbed(exchange, "drip", seconds=0.5) + BARS, asked, KEYS, MOST)
    assert slow.body == at_once.body


def test_the_total_time_counts_the_wait_for_the_headers_too() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    late = raw(b"", head + b"{}", pause=0.8)
    with peer(late) as slow:
        error = failing(slow.url, read=10.0, total=0.3)
    assert "no whole answer in 0.3 s" in str(error)


def test_nobody_listening_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failing(f"http://127.0.0.1:{port}")
    assert "no connection: is the server up" in str(error)


def test_a_host_that_takes_no_connection_is_left_at_the_connect_time() -> None:
    waiting: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        try:
            for _ in range(8):  # until its queue is full, connections are taken by the kernel
                waiting.append(caller := socket.socket())
                caller.settimeout(0.2)
                try:
                    caller.connect(address)
                except TimeoutError:
                    break
            else:
                pytest.skip("this kernel's queue of connections has no end")
            error = failing(f"http://127.0.0.1:{address[1]}", connect=0.3)
        finally:
            for caller in waiting:
                caller.close()
    assert "no connection in time" in str(error)


WHOLE = gzip.compress(b'{"bars":{},"next_page_token":null}' * 20)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(WHOLE[:-9], id="its end is missing"),
        pytest.param(WHOLE[:-4] + b"\0\0\0\0", id="another length"),
        pytest.param(WHOLE[:-8] + b"\0\0\0\0" + WHOLE[-4:], id="another checksum"),
        pytest.param(WHOLE[:20] + b"\xff\xff\xff" + WHOLE[23:], id="other bytes"),
        pytest.param(b"not gzip at all", id="no gzip"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_damaged_gzip_may_be_asked_again(damaged: bytes) -> None:
    with peer(answer(damaged, Content_Encoding="gzip")) as server:
        failing(server.url)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", id="odd length"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="no HTTP"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_answer_that_is_no_proper_http_may_be_asked_again(head: bytes) -> None:
    with peer(raw(head)) as server:
        failing(server.url)


def test_a_chunked_answer_cut_short_may_be_asked_again() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with peer(raw(head + b'10\r\n{"bars":{},"nex\r\n')) as server:
        assert "the connection broke" in str(failing(server.url))


# What arrives


def test_a_chunked_answer_arrives_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with (
        peer(raw(head, b'3\r\n{"b\r\n', b'2\r\n"}\r\n0\r\n\r\n')) as server,
        transport() as sending,
    ):
        assert sending.get(server.url, {}, {}, MOST).body == b'{"b"}'


def test_a_gzipped_answer_is_unpacked_and_asked_for() -> None:
    with peer(answer(WHOLE, Content_Encoding="gzip", X_Other="Kept")) as server:
        with transport() as sending:
            got = sending.get(server.url, {}, KEYS, MOST)
        assert got.status == 200
        assert got.body == gzip.decompress(WHOLE)
        assert got.headers["x-other"] == "Kept"
        assert server.headers[0]["Accept-Encoding"] == "gzip"
        assert server.headers[0]["APCA-API-KEY-ID"] == KEYS["APCA-API-KEY-ID"]


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 404, 422, 429, 500, 503])
def test_every_status_is_an_answer(status: int) -> None:
    body = b"" if status == 204 else b"<html>said</html>"
    with peer(answer(body, status)) as server, transport() as sending:
        got = sending.get(server.url, {}, {}, MOST)
    assert (got.status, got.body) == (status, body)


def test_five_hundred_symbols_keep_their_commas_and_make_a_short_url() -> None:
    symbols = ",".join(["BRK.B"] * 500)
    with peer(answer()) as server, transport() as sending:
        sending.get(
            server.url + BARS, {"symbols": symbols, "end": "2024-01-02T23:59:59+00:00"}, {}, MOST
        )
        (path,) = server.paths
    assert path == f"{BARS}?symbols={symbols}&end=2024-01-02T23:59:59%2B00:00"
    assert len(path) < 4096


def test_a_redirect_is_not_followed_so_the_keys_go_nowhere_else() -> None:
    with peer(answer()) as elsewhere:
        moved = answer(b"", 302, Location=f"{elsewhere.url}/v2")
        with peer(moved) as server, transport() as sending:
            got = sending.get(server.url, {}, KEYS, MOST)
            assert (got.status, len(server.paths)) == (302, 1)
        assert elsewhere.paths == []


# Connections


def test_a_connection_is_used_again() -> None:
    with peer(answer(b"x" * 100_000)) as server, transport() as sending:
        for _ in range(10):
            sending.get(server.url, {}, {}, MOST)
        assert (server.connections, len(server.paths)) == (1, 10)


def test_an_error_status_keeps_the_connection() -> None:
    with peer(answer(b"<html>busy</html>", 503)) as server, transport() as sending:
        for _ in range(5):
            sending.get(server.url, {}, {}, MOST)
        assert server.connections == 1


def test_after_a_broken_answer_the_next_request_has_a_connection_of_its_own() -> None:
    broken = threading.Event()

    def once(handler: BaseHTTPRequestHandler) -> None:
        if broken.is_set():
            answer(b"whole")(handler)
        else:
            broken.set()
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")(handler)

    with peer(once) as server, transport(connections=1) as sending:
        with pytest.raises(TransientError):
            sending.get(server.url, {}, {}, MOST)
        assert sending.get(server.url, {}, {}, MOST).body == b"whole"
        assert server.connections == 2


def test_a_connection_that_was_left_gives_its_place_in_the_pool_back() -> None:
    quick = threading.Event()

    def slow_at_first(handler: BaseHTTPRequestHandler) -> None:
        if not quick.is_set():
            time.sleep(1.0)
        answer()(handler)

    with peer(slow_at_first) as server, transport(connections=1, read=0.2) as sending:
        for _ in range(2):
            with pytest.raises(TransientError):
                sending.get(server.url, {}, {}, MOST)
        quick.set()
        assert sending.get(server.url, {}, {}, MOST).status == 200  # and no wait for a free place


@pytest.mark.parametrize(("threads", "connections"), [(20, 20), (20, 4)])
def test_threads_share_no_more_connections_than_the_pool_has_and_none_is_thrown_away(
    threads: int, connections: int, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(threads, timeout=60)

    def busy(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.01)
        answer(b"x" * 1000)(handler)

    with (
        caplog.at_level(logging.DEBUG, logger="urllib3"),
        peer(busy) as server,
        transport(connections) as sending,
        ThreadPoolExecutor(threads) as pool,
    ):

        def work(number: int) -> set[int]:
            together.wait()
            return {len(sending.get(server.url, {}, {}, MOST).body) for _ in range(5)}

        assert set().union(*pool.map(work, range(threads))) == {1000}
        assert len(server.paths) == 5 * threads
        assert server.connections <= connections
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "pool is full" not in caplog.text


def test_the_log_of_the_pool_has_no_keys(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), peer(answer()) as server, transport() as sending:
        sending.get(server.url, {}, KEYS, MOST)
    assert caplog.text
    assert not any(key in caplog.text for key in KEYS.values())


@pytest.mark.parametrize("name", ["connect", "read", "total"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_timeout_is_a_positive_time(name: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"a timeout is a positive time, not {name}="):
        Timeouts(**{name: seconds})
