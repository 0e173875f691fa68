"""A proxy in front of an S3 server that does to requests what networks and busy servers do.

It passes on everything as the client sent it, the Host header included, which the signature covers.
"""

import http.client
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, cast
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request.

    Args:
        status: Of the answer that comes instead of the server's; 0: the server's comes.
        code: S3's name of the error, in that answer.
        reached: Does the request reach the server all the same, so that only its answer is lost?
        delay: Seconds until the answer goes out.
        reset: The connection is reset in the middle of the request's body, or of the answer.
        flipped: One bit of the request's body arrives changed.
    """

    status: int = 0
    code: str = ""
    reached: bool = False
    delay: float = 0.0
    reset: Literal["", "request", "answer"] = ""
    flipped: bool = False

    @property
    def body(self) -> bytes:
        """The answer's body, in S3's form."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{self.code}</Code><Message>scripted</Message></Error>"
        ).encode()


BROKEN = Fault(500, "InternalError")
SLOW_DOWN = Fault(503, "SlowDown")
LOST = Fault(500, "InternalError", reached=True)
"""The server did it, and its answer was lost on its way."""
DENIED = Fault(403, "AccessDenied")
EXPIRED = Fault(400, "ExpiredToken")


@dataclass(frozen=True, slots=True)
class Passed:
    """One request that came by: `status` is the server's answer, 0 when it was not asked."""

    method: str
    path: str
    status: int


class S3Proxy:
    """The running proxy: its address, the faults to come and the requests that came by.

    `requests` counts also those of which nothing was passed on.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.passed: list[Passed] = []
        self.requests = 0
        self._next: deque[Fault] = deque()
        self._always: Fault | None = None

    def meet(self, *faults: Fault, always: Fault | None = None) -> None:
        """The next requests meet these faults, one each; all after them `always`, if any.

        What came by before is forgotten.
        """
        self.passed.clear()
        self.requests = 0
        self._next, self._always = deque(faults), always

    def fault(self) -> Fault:
        """What happens to the request that just came."""
        self.requests += 1
        try:
            return self._next.popleft()
        except IndexError:
            return self._always or Fault()


@contextmanager
def s3_proxy(upstream: str) -> Iterator[S3Proxy]:
    """A proxy in front of the server at this address, until the end of the `with`."""
    ending = threading.Event()

    class Pass(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            fault = proxy.fault()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault.reset == "request":
                self._forward(body[: len(body) // 2])
                self._reset()
                return
            if fault.flipped and body:
                body = body[:-1] + bytes([body[-1] ^ 1])
            status, headers, answer = 0, list[tuple[str, str]](), b""
            if not fault.status or fault.reached:
                status, headers, answer = self._forward(body)
            proxy.passed.append(Passed(self.command, self.path, status))
            if fault.status:
                status, answer = fault.status, fault.body
                headers = [("Content-Length", str(len(answer)))]
            if ending.wait(fault.delay):
                return
            self._answer(status, headers, b"" if self.command == "HEAD" else answer, fault)

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _pass  # noqa: N815

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """Sends the request on; half a body is sent, and then the connection is closed."""
            server = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=30)
            try:
                server.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    server.putheader(name, value)
                server.endheaders(body)
                if len(body) < int(self.headers.get("Content-Length", 0)):
                    return 0, [], b""
                answer = server.getresponse()
                data = answer.read()
                own = ("transfer-encoding", "connection", "content-length")
                kept = [(n, v) for n, v in answer.getheaders() if n.lower() not in own]
                # HEAD's says how long the object is.
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                return answer.status, [*kept, ("Content-Length", length or str(len(data)))], data
            finally:
                server.close()

        def _answer(
            self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault
        ) -> None:
            head = "".join(f"{name}: {value}\r\n" for name, value in headers)
            answer = f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode("latin-1") + body
            if fault.reset == "answer":
                answer = answer[: -len(body) // 2] if body else answer[: len(answer) // 2]
            try:
                self.wfile.write(answer)
            except OSError:
                self.close_connection = True  # the client had enough of waiting
            if fault.reset == "answer":
                self._reset()

        def _reset(self) -> None:
            """Ends the connection with an RST, as a machine does that went down and came back."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pass) as server:
        host, port = cast(tuple[str, int], server.server_address)
        proxy = S3Proxy(f"http://{host}:{port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            ending.set()
            server.shutdown()
            thread.join()
