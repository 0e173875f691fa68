"""Where the CPU of a backfill goes, by the clocks of the threads in which its stages run.

The functions that stages begin with are wrapped while the block lasts. What a function calls that
is a stage itself counts there and not here. What no stage covers, Arrow's own threads included, is
the rest of the process's CPU. A profiler that looks at threads from outside is no help: it needs
Python's lock, gets it where a thread gives it up, and blames what happens there.

Belongs here: which function begins which stage, and the counting. Does not belong here: what is
measured (`backfill`).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, Self

IMPORTS = "imports of all but alpaca-py"

STAGES = {
    "list of assets, and the import of alpaca-py": ("sources.alpaca", "AlpacaSource.assets"),
    "planning": ("pipeline.publication", "Publication.__init__"),
    "HTTP and gunzip": ("sources.transport", "Transport.get"),
    "decoding": ("sources.alpaca", "decode_regular"),
    "decoding, in Python": ("sources.alpaca", "decode"),
    "what was asked for": ("collection.collect", "Collection._asked_for"),
    "requests, retries, limit": ("collection.collect", "Collection._collect"),
    "order, one row for a symbol, split": ("collection.collect", "ordered"),
    "audit": ("pipeline.publication", "Publication._audit"),
    "audit: rows of a window": ("pipeline.publication", "sound"),
    "session file: digest": ("pipeline.publication", "hash_rows"),
    "session file: digest of one": ("lake.session_file", "fingerprint"),
    "session file: Parquet and JSON": ("lake.session_file", "encode"),
    "look for what is published": ("lake.writer", "LakeWriter._prepared"),
    "write files": ("lake.writer", "LakeWriter.publish"),
    "describe sessions for Dagster": ("assets.session_ticks", "_materialization"),
    "Dagster's step: events of sessions": ("assets.session_ticks", "_Materializations.log"),
    "Dagster's records: plan of the run": ("records.sqlite", "SqliteEventLog.store_event_batch"),
    "Dagster's records: sessions": ("records.sqlite", "SqliteEventLog._write"),
}
"""By stage the module, below `datalake_assets`, and the function that begins it."""

REST = "the rest: Dagster's instance, run and plan, ledgers, progress, Arrow's threads"


class Stages:
    """Counts the CPU seconds of this process by stage: a context manager.

    Attributes:
        seconds: CPU seconds by stage, when the block is over.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        self._began = time.process_time()
        import_module("datalake_assets.definitions")
        import_module("datalake_assets.cli.runs")
        for stage, (module, name) in STAGES.items():
            holder: Any = import_module(f"datalake_assets.{module}")
            *path, name = name.split(".")
            for part in path:
                holder = getattr(holder, part)
            self._undo.append((holder, name, getattr(holder, name)))
            setattr(holder, name, self._counted(stage, getattr(holder, name)))
        self.seconds[IMPORTS] = time.process_time() - self._began
        return self

    def __exit__(self, *error: object) -> None:
        for holder, name, function in self._undo:
            setattr(holder, name, function)
        self.seconds[REST] = time.process_time() - self._began - sum(self.seconds.values())

    def _counted(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            outside = getattr(self._thread, "inside", 0.0)
            self._thread.inside, began = 0.0, time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                used = time.thread_time() - began
                with self._lock:
                    self.seconds[stage] += used - self._thread.inside
                self._thread.inside = outside + used

        return counted
