"""A receiver of alerts on loopback, over real sockets, that answers as it is told."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "T0000/B0000/aVerySecretPath"
"""The end of its address, which nobody may repeat."""


class Receiver:
    """What arrived, and how to answer.

    Args:
        statuses: Of the first answers; all others are 200.
        seconds: How long each answer takes.
    """

    def __init__(self, statuses: list[int], seconds: float) -> None:
        self.statuses, self.seconds = statuses, seconds
        self.arrived: list[tuple[str, str, str]] = []
        self.address = ""

    @property
    def texts(self) -> list[str]:
        """The texts, as Slack would read them from the JSON."""
        return [json.loads(body)["text"] for _, _, body in self.arrived]


@contextmanager
def receiver(*statuses: int, seconds: float = 0) -> Iterator[Receiver]:
    """A receiver that is up inside the context."""
    told = Receiver(list(statuses), seconds)

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.arrived.append((self.path, self.headers["Content-Type"], body.decode()))
            time.sleep(told.seconds)
            status = told.statuses.pop(0) if told.statuses else 200
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not on the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            told.address = f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
            yield told
        finally:
            server.shutdown()
            thread.join()
