"""Where the CPU of a process goes: a clerk looks at every thread twenty times a second.

Each look takes the CPU seconds that a thread has used since the look before, by the kernel's own
clock of that thread, and counts them for the stage that the thread is in: that of the innermost
frame whose file belongs to one. So the stages add up to what Python's threads used, exactly; which
stage a moment belongs to is a sample. Threads without Python in them (Arrow's) are what is missing
to the CPU of the process. The looks themselves are a stage.

Belongs here: the clerk, and which file belongs to which stage. Does not belong here: what is
measured (`backfill`).
"""

from __future__ import annotations

import faulthandler
import os
import re
import threading
import time
from collections import defaultdict
from typing import Self

EVERY = 0.05  # seconds: a look takes some milliseconds

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

_THREAD = re.compile(r"(?:Thread|Current thread) 0x([0-9a-f]+)")
_FRAME = re.compile(r'  File "(.*)", line ')

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
        self._page = os.memfd_create("stacks")
        self._end = threading.Event()
        self._clerk = threading.Thread(target=self._look_on, name="clerk", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.process_time()
        for thread in threading.enumerate():  # what they used before is not counted
            if thread.native_id is not None:
                self._before[thread.native_id] = _used(thread.native_id) or 0.0
        self._clerk.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._clerk.join()
        os.close(self._page)
        self.seconds[NOT_PYTHON] = time.process_time() - self._began - sum(self.seconds.values())

    def _look_on(self) -> None:
        while not self._end.wait(EVERY):
            self._look()
        self._look()

    def _look(self) -> None:
        stacks = self._stacks()
        for thread in threading.enumerate():
            if thread.native_id is None or thread.ident is None:
                continue  # it is just being started
            used = _used(thread.native_id)
            if used is None or thread.ident not in stacks:
                continue
            since = used - self._before.get(thread.native_id, 0.0)
            self._before[thread.native_id] = used
            self.seconds[self._stage(stacks[thread.ident])] += since

    def _stacks(self) -> dict[int, list[str]]:
        """By thread, the files of its frames, the innermost first.

        `sys._current_frames` gives frames of threads that go on while they are looked at: walking
        them has crashed the process. `faulthandler` is made for crashes, and meanwhile no thread
        goes on.
        """
        os.ftruncate(self._page, 0)
        os.lseek(self._page, 0, os.SEEK_SET)
        faulthandler.dump_traceback(self._page, all_threads=True)
        told = os.pread(self._page, os.fstat(self._page).st_size, 0).decode(errors="replace")
        stacks: dict[int, list[str]] = {}
        files: list[str] = []
        for line in told.splitlines():
            if found := _THREAD.match(line):
                files = stacks[int(found[1], 16)] = []
            elif found := _FRAME.match(line):
                files.append(found[1])
        return stacks

    def _stage(self, files: list[str]) -> str:
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
