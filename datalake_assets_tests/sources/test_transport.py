"""One request over a real socket: what arrives whole, and what is told when it does not."""

import base64
import gzip
import logging
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from datalake_assets.collection.errors import PermanentError, RefusedError, TransientError
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
    leads_to: str = ""
    status: int = 200
    connections: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


Answering = Callable[[BaseHTTPRequestHandler], None]


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Hand on bytes until one of the two ends."""
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def peer(answering: Answering, certificate: tuple[Path, Path] | None = None) -> Iterator[Peer]:
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

        def do_CONNECT(self) -> None:
            with lock:
                told.paths.append(self.path)
                told.headers.append(dict(self.headers))
            if told.status != 200:
                self.send_error(told.status)
                return
            self.send_response(200)
            self.end_headers()
            address = urlsplit(told.leads_to)
            with socket.create_connection((address.hostname, address.port)) as onward:
                back = threading.Thread(target=pump, args=(onward, self.connection))
                back.start()
                pump(self.connection, onward)
                back.join()
            self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *args: Any) -> None:
            pass  # the client went away: that is what is tested

    with Server(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_address[1]}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
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
    assert (
        caught.value.__cause__ is not None
        or "bytes" in shown
        or "complete" in shown
        or "truncated" in shown
    )
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
    assert "no complete answer in 1.2 s" in str(error)


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
    assert "no complete answer in 0.3 s" in str(error)


def test_nobody_listening_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = failing(f"http://127.0.0.1:{port}")
    assert "no connection: is the server running" in str(error)


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


# How much is taken in


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("size", "taken"), [(MOST - 1, True), (MOST, True), (MOST + 1, False)])
def test_an_answer_is_taken_in_up_to_a_bound_as_it_comes_and_as_it_unpacks(
    size: int, taken: bool, packed: bool
) -> None:
    body = b"0" * size
    sent = answer(gzip.compress(body), Content_Encoding="gzip") if packed else answer(body)
    with peer(sent) as server, transport() as sending:
        if taken:
            assert sending.get(server.url, {}, {}, MOST).body == body
        else:
            with pytest.raises(PermanentError, match="the answer is larger than 1 MiB"):
                sending.get(server.url, {}, {}, MOST)


def test_an_answer_without_an_end_is_left_at_the_bound() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:  # until the client has gone
            handler.wfile.write(b"0" * (1 << 16))

    with peer(endless) as server, transport() as sending:
        with pytest.raises(PermanentError, match="larger than 1 MiB"):
            sending.get(server.url, {}, {}, MOST)
        with pytest.raises(PermanentError, match="larger than 1 MiB"):  # and gave its place back
            sending.get(server.url, {}, {}, MOST)


def test_what_unpacks_to_a_thousand_times_its_size_is_not_unpacked() -> None:
    bomb = gzip.compress(b"0" * (64 * MOST))
    assert len(bomb) < MOST // 8
    with peer(answer(bomb, Content_Encoding="gzip")) as server, transport() as sending:
        tracemalloc.start()
        with pytest.raises(PermanentError, match="larger than 1 MiB"):
            sending.get(server.url, {}, {}, MOST)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 * MOST


# The way to a host


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE",
           "CURL_CA_BUNDLE")  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets these variables and none of the others that say how hosts are reached."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def only(**given: str) -> None:
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return only


@contextmanager
def proxy(leads_to: str = "", status: int = 200) -> Iterator[Peer]:
    """A proxy that leads every tunnel to one address, and answers what comes without one itself."""

    def answering(handler: BaseHTTPRequestHandler) -> None:
        answer(b"by the proxy", status)(handler)

    with peer(answering) as server:
        server.leads_to, server.status = leads_to, status
        yield server


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_host_is_reached_through_the_proxy_that_the_environment_names(
    name: str, environment: Callable[..., None]
) -> None:
    with proxy() as between, transport() as sending:
        environment(**{name: between.url})
        got = sending.get("http://data.example/v2/x", {"symbols": "A,B"}, KEYS, MOST)
    assert got.body == b"by the proxy"
    assert between.paths == ["http://data.example/v2/x?symbols=A,B"]
    assert between.headers[0]["Host"] == "data.example"
    assert between.headers[0]["APCA-API-KEY-ID"] == KEYS["APCA-API-KEY-ID"]
    assert "proxy-authorization" not in {name.lower() for name in between.headers[0]}


@pytest.mark.parametrize("spelt", ["{host}", "http://{host}"])
def test_a_proxy_may_be_named_with_a_login_and_without_a_scheme(
    spelt: str, environment: Callable[..., None]
) -> None:
    with proxy() as between, transport() as sending:
        host = between.url.removeprefix("http://")
        environment(HTTP_PROXY=spelt.format(host=f"user:p%40ss@{host}"))
        sending.get("http://data.example/", {}, {}, MOST)
    login = base64.b64encode(b"user:p@ss").decode()
    assert between.headers[0]["proxy-authorization"] == f"Basic {login}"


def test_hosts_of_no_proxy_are_asked_themselves(environment: Callable[..., None]) -> None:
    with proxy() as between, transport() as sending:
        environment(HTTP_PROXY=between.url, NO_PROXY="other.example,.invalid,10.0.0.0/8")
        with pytest.raises(TransientError):
            sending.get("http://data.invalid/", {}, {}, MOST)
        assert between.paths == []
        sending.get("http://data.example/", {}, {}, MOST)
        assert len(between.paths) == 1


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_this_machine_is_never_asked_through_a_proxy(
    name: str, environment: Callable[..., None]
) -> None:
    with proxy() as between, peer(answer(b"itself")) as server, transport() as sending:
        environment(HTTP_PROXY=between.url, ALL_PROXY=between.url)
        url = server.url.replace("127.0.0.1", name)
        assert sending.get(url, {}, {}, MOST).body == b"itself"
        assert between.paths == []


def test_a_proxy_that_is_not_there_may_be_tried_again(environment: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    environment(HTTP_PROXY=f"http://user:secret@127.0.0.1:{port}")
    with transport() as sending, pytest.raises(TransientError) as caught:
        sending.get("http://data.example/", {}, KEYS, MOST)
    assert "the proxy in the environment does not allow it" in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("named", ["http://user:secret@host:port", "ftp://user:secret@host:21"])
def test_a_proxy_that_can_t_be_used_is_refused_without_its_password(
    named: str, environment: Callable[..., None]
) -> None:
    environment(HTTP_PROXY=named)
    with transport() as sending, pytest.raises(RefusedError) as caught:
        sending.get("http://data.example/", {}, {}, MOST)
    assert "HTTP_PROXY, HTTPS_PROXY and ALL_PROXY" in str(caught.value)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.skipif(find_spec("socks") is not None, reason="PySocks is installed")
def test_a_socks_proxy_without_its_package_is_refused(environment: Callable[..., None]) -> None:
    environment(ALL_PROXY="socks5://user:secret@127.0.0.1:1080")
    with transport() as sending, pytest.raises(RefusedError, match="pip install PySocks") as caught:
        sending.get("http://data.example/", {}, {}, MOST)
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of data.example that no system knows, and its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("no openssl here to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    made, key = folder / "made.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=data.example", "-addext", "subjectAltName=DNS:data.example",
         "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", None])
def test_a_certificate_is_held_against_the_bundle_that_the_environment_names_through_a_tunnel(
    name: str | None, certificate: tuple[Path, Path], environment: Callable[..., None]
) -> None:
    with peer(answer(b"encrypted"), certificate) as server, proxy(server.url) as between:
        environment(HTTPS_PROXY=between.url, **({name: str(certificate[0])} if name else {}))
        with transport() as sending:
            if name is None:
                with pytest.raises(TransientError, match="certificates in REQUESTS_CA"):
                    sending.get("https://data.example/v2", {}, KEYS, MOST)
            else:
                assert sending.get("https://data.example/v2", {}, KEYS, MOST).body == b"encrypted"
                assert server.headers[0]["APCA-API-KEY-ID"] == KEYS["APCA-API-KEY-ID"]
    assert between.paths == ["data.example:443"]
    assert "APCA-API-KEY-ID" not in between.headers[0]


def test_a_proxy_that_wants_a_login_for_a_tunnel_is_told_as_such(
    environment: Callable[..., None],
) -> None:
    with proxy(status=407) as between, transport() as sending:
        environment(HTTPS_PROXY=between.url)
        with pytest.raises(TransientError, match="does not allow it .*407"):
            sending.get("https://data.example/v2", {}, KEYS, MOST)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_that_is_not_there_is_refused_by_its_variable(
    name: str, environment: Callable[..., None], tmp_path: Path
) -> None:
    environment(**{name: str(tmp_path / "none.pem")})
    with transport() as sending, pytest.raises(RefusedError, match=f"{name} names neither a file"):
        sending.get("https://data.example/", {}, {}, MOST)


def test_a_bundle_may_be_a_folder_and_one_that_can_t_be_read_is_refused(
    environment: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "odd.pem").write_text("no certificate")
    with peer(answer(b"itself")) as server:
        environment(REQUESTS_CA_BUNDLE=str(tmp_path))
        with transport() as sending:
            assert sending.get(server.url, {}, {}, MOST).body == b"itself"
        environment(REQUESTS_CA_BUNDLE=str(tmp_path / "odd.pem"), NO_PROXY="*")
        with transport() as sending, pytest.raises(RefusedError, match="REQUESTS_CA_BUNDLE"):
            sending.get(server.url.replace("http", "https"), {}, {}, MOST)


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
    with pytest.raises(ValueError, match=f"a timeout must be positive, not {name}="):
        Timeouts(**{name: seconds})
