"""Lambda's API on loopback: `Invoke`, by which the real handler runs in this process.

Belongs here: what boto3 and a function see of Lambda. Does not belong here: events and answers.
A process is used again, as a warm one is; what is written to stderr is the function's log.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
"""

import base64
import contextlib
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

TAIL = 4096
"""Bytes of the log that an answer brings."""

Function = Callable[[Any, Any], Any]


@dataclass
class Context:
    """What Lambda tells a function of its invocation.

    Attributes:
        seconds: The function's timeout.
        memory_limit_in_mb: Its memory.
    """

    seconds: float = 900.0
    memory_limit_in_mb: int | str = 1024
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    def get_remaining_time_in_millis(self) -> int:
        return int((self.seconds - (time.monotonic() - self._began)) * 1000)


@dataclass
class Invocation:
    """One that has ended.

    Attributes:
        event: What the function was given.
        log: What it wrote, with Lambda's own lines.
        answer: What it gave back, or the error that it died of.
    """

    event: Mapping[str, Any]
    log: str
    answer: Any


class LambdaApi:
    """The API with some functions: a context manager.

    Args:
        functions: By their names.
        context: Makes the context of each invocation.

    Attributes:
        url: Where it is reached, for `AWS_ENDPOINT_URL_LAMBDA`.
        invocations: What was invoked, in order.
    """

    def __init__(
        self, functions: Mapping[str, Function], context: Callable[[], Context] = Context
    ) -> None:
        self.functions, self.context = functions, context
        self.invocations: list[Invocation] = []
        self.url = ""

    def __enter__(self) -> Self:
        api = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, answer = api.invoke(self.path, self.headers, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Requests are not printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def invoke(
        self, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Run a function.

        Args:
            path: `/2015-03-31/functions/NAME/invocations`.
            headers: Of the request.
            body: The event.

        Returns:
            Status, headers and body of the answer.
        """
        _, version, functions, name, invocations = unquote(path).split("/")
        assert (version, functions, invocations) == ("2015-03-31", "functions", "invocations")
        assert headers["X-Amz-Invocation-Type"] == "RequestResponse"
        assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
        if name not in self.functions:
            told = json.dumps({"Type": "User", "Message": f"Function not found: {name}"})
            return 404, {"X-Amzn-ErrorType": "ResourceNotFoundException"}, told.encode()
        event, context, log = json.loads(body), self.context(), io.StringIO()
        log.write(f"START RequestId: {context.aws_request_id} Version: $LATEST\n")
        found: dict[str, str] = {}
        with contextlib.redirect_stderr(log):
            try:
                answer = self.functions[name](event, context)
            except Exception as error:  # noqa: BLE001 - Lambda's runtime reports any error this way
                found["X-Amz-Function-Error"] = "Unhandled"
                answer = {"errorMessage": str(error), "errorType": type(error).__name__}
        log.write(
            f"END RequestId: {context.aws_request_id}\n"
            f"REPORT RequestId: {context.aws_request_id}\tDuration: 123456.78 ms\tBilled Duration: "
            "123457 ms\tMemory Size: 1024 MB\tMax Memory Used: 312 MB\tInit Duration: 1234.56 ms\n"
        )
        self.invocations.append(Invocation(event, log.getvalue(), answer))
        if headers.get("X-Amz-Log-Type") == "Tail":
            tail = log.getvalue().encode()[-TAIL:]
            found["X-Amz-Log-Result"] = base64.b64encode(tail).decode()
        return 200, found, json.dumps(answer).encode()
