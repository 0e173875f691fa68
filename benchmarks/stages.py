"""Where the CPU of a process goes: a clerk looks at every thread a hundred times a second.

Each look takes the CPU seconds that a thread has used since the look before, by the kernel's own
clock of that thread, and counts them for the stage that the thread is in: that of the innermost
frame whose file belongs to one. So the stages add up to what Python's threads used, exactly; which
stage a moment belongs to is a sample. Threads without Python in them (Arrow's) are what is missing
to the CPU of the process. The looks themselves are a stage.

Belongs here: the clerk, and which file belongs to which stage. Does not belong here: what is
measured (`backfill`).
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from itertools import accumulate, repeat
from types import FrameType, TracebackType
from typing import Self

EVERY = 0.01  # seconds

STAGES = {
    "/datalake_assets/sources/pages": "decoding",
    "/datalake_assets/sources/transport": "HTTP and gunzip",
    "/datalake_assets/sources/": "requests",
    "/datalake_assets/collection/audit": "audit",
    "/datalake_assets/collection/report": "ledger",
    "/datalake_assets/collection/": "plan, collect, combine, split",
    "/datalake_assets/lake/session_file": "Parquet",
    "/datalake_assets/lake/": "lake",
    "/datalake_assets/storage/": "store",
    "/datalake_assets/publication": "publication",
    "/datalake_assets/assets/": "assets: materializations and checks",
    "/datalake_assets/records/": "Dagster's records",
    "/datalake_assets/": "settings, definitions and the rest",
    "/dagster": "Dagster's records",
    "/sqlalchemy/": "Dagster's records",
    "/urllib3/": "HTTP and gunzip",
    "/http/client": "HTTP and gunzip",
    "/alpaca/": "requests",
    "/benchmarks/stages": "these looks",
}
"""The stage of a file, by the first of these that its path contains."""

IMPORTS = "imports"
"""Whatever runs below an import statement, in any file."""

_IMPORTING = "<frozen importlib._bootstrap>"

OTHER = "other"
NOT_PYTHON = "threads without Python (Arrow, the store)"


class Stages:
    """Counts the CPU seconds of this process by stage: a context manager.

    Attributes:
        seconds: CPU seconds by stage, when the block is over.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._known: dict[str, str | None] = {}
        self._before: dict[int, float] = {}
        self._end = threading.Event()
        self._clerk = threading.Thread(target=self._look_on, name="clerk", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.process_time()
        for thread in threading.enumerate():  # what they used before is not counted
            if thread.native_id is not None:
                self._before[thread.native_id] = _used(thread.native_id) or 0.0
        self._clerk.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._clerk.join()
        self.seconds[NOT_PYTHON] = time.process_time() - self._began - sum(self.seconds.values())

    def _look_on(self) -> None:
        while not self._end.wait(EVERY):
            self._look()
        self._look()

    def _look(self) -> None:
        frames = sys._current_frames()
        for thread in threading.enumerate():
            if thread.native_id is None or thread.ident is None:
                continue  # it is just being started
            used = _used(thread.native_id)
            if used is None:
                continue
            since = used - self._before.get(thread.native_id, 0.0)
            if since > 0 and (frame := frames.get(thread.ident)) is not None:
                self._before[thread.native_id] = used
                self.seconds[self._stage(frame)] += since

    def _stage(self, frame: FrameType) -> str:
        stack: deque[FrameType | None] = deque()
        # One call from the innermost frame to the outermost, which ends at its None: between two
        # steps in Python the other thread may go on, and its frames are then another call's.
        with suppress(AttributeError):
            stack.extend(accumulate(repeat("f_back"), getattr, initial=frame))
        files = [each.f_code.co_filename for each in stack if each is not None]
        if _IMPORTING in files:
            return IMPORTS
        return next((stage for file in files if (stage := self._of_file(file))), OTHER)

    def _of_file(self, name: str) -> str | None:
        if name not in self._known:
            self._known[name] = next((told for part, told in STAGES.items() if part in name), None)
        return self._known[name]


def _used(thread: int) -> float | None:
    """CPU seconds of a thread, by its kernel id; None when it has ended.

    The number of a thread's clock is made of its id as the kernel does it; asked through
    `pthread_getcpuclockid`, a thread that has just ended would crash the process.
    https://github.com/torvalds/linux/blob/v6.6/include/linux/posix-timers_types.h
    """
    try:
        return time.clock_gettime((~thread << 3) | 6)
    except OSError:
        return None
