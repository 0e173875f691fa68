"""Writing many objects at once: threads, retries, a result per object, and stopping.

Belongs here: the objects to write, the threads that write them, and the report of the results. Does
not belong here: the request (`store`), which objects a lake needs (`symbol_years`), drawing the
progress (the command line).
"""

from __future__ import annotations

import math
import os
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import PermanentError, StoppedError, TransientError
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.storage.staging import LOCK, STAGING
from datalake_assets.storage.store import ChangedError, StoreError, checked_key

WORKERS = 20
"""Threads, unless told otherwise. They wait for answers nearly all of their time, so the farther
the server, the more of them pay: at 60 ms a request each thread writes 16 objects a second."""

HOPELESS = 20
"""Objects in a row that the store refused, with none written in between, after which the others
are not tried: keys, bucket or server are wrong for all of them."""

_TURN = 0.1
"""Seconds between two looks at an upload that runs."""

_GRACE = 0.5
"""Seconds that threads get to end after a stop. One that waits for a silent server can't be
woken; it is a daemon thread, and what it still brings is ignored."""

Send = Callable[[str, bytes], str | None]
"""Writes one object, in one attempt: takes its key and bytes, gives its version if there is one.

It raises StoreError, whose `transient` tells whether another attempt may succeed, and is called
from several threads.
"""


@dataclass(frozen=True, slots=True)
class Item:
    """One object to write.

    Args:
        key: Where.
        data: Gives its bytes: called once, by the thread that writes them, when its turn comes.
    """

    key: str
    data: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """One object that was written.

    Args:
        key: Where.
        size: Its length in bytes.
        version: What `send` gave.
        attempts: How often it was sent; 1 when the first time was enough.
    """

    key: str
    size: int
    version: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Upload:
    """The results of an upload: each object is in exactly one of the first three, in order.

    Args:
        uploaded: By key, those that stand in the store.
        failed: By key, why it could not be written.
        pending: Keys of those not finished when the upload was stopped. One that was being sent
            then may have arrived, or may still arrive.
        stopped: Why it was stopped before its end; empty when it was not.
        bytes: Of the objects uploaded.
        seconds: What it took.
        retries: The number of retries.
    """

    uploaded: dict[str, Uploaded]
    failed: dict[str, str]
    pending: tuple[str, ...]
    stopped: str
    bytes: int
    seconds: float
    retries: int

    @property
    def passed(self) -> bool:
        """Whether every object is in the store."""
        return not self.failed and not self.pending

    @property
    def objects_per_second(self) -> float:
        """Objects uploaded, over the whole time; 0 when it took none."""
        return len(self.uploaded) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An upload at one moment.

    Args:
        objects: How many there are to upload.
        uploaded: How many of them are.
        failed: How many could not be.
        bytes: Of the objects uploaded.
        retries: The number of retries.
        seconds: Time since the start.
        final: Whether this is the end.
    """

    objects: int
    uploaded: int = 0
    failed: int = 0
    bytes: int = 0
    retries: int = 0
    seconds: float = 0.0
    final: bool = False

    @property
    def done(self) -> int:
        """Objects that are finished, uploaded or failed."""
        return self.uploaded + self.failed

    @property
    def objects_per_second(self) -> float:
        """The pace so far; 0 at the start."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The estimated time left at the pace so far; None before the first object is done."""
        if not self.done:
            return None
        return self.seconds / self.done * (self.objects - self.done)

    def __str__(self) -> str:
        text = f"{self.done:,}/{self.objects:,} objects, {self.bytes / 1e6:,.1f} MB"
        if self.seconds >= 1:
            text += f", {self.objects_per_second:,.0f} per second"
        if self.failed:
            text += f", ✗ {self.failed:,}"
        if self.retries:
            text += f", {self.retries:,} {'retry' if self.retries == 1 else 'retries'}"
        if (left := self.seconds_left) and not self.final:
            text += f", {left:,.0f} s left"
        return text


def upload(
    items: Sequence[Item],
    send: Send,
    *,
    workers: int = WORKERS,
    policy: RetryPolicy | None = None,
    stop: threading.Event | None = None,
    display: Callable[[Snapshot], object] | None = None,
    clock: Clock | None = None,
    draw: Callable[[], float] = random.random,
) -> Upload:
    """Writes these objects, many at a time; one that can't be written does not hold up the others.

    An object fails when its bytes can't be had (`data` raises OSError or StoreError), when `send`
    raises a StoreError that is not transient, or when it is transient too often for the policy.
    After `HOPELESS` refusals in a row the rest is left pending.

    Args:
        items: What to write, each key once.
        send: Writes one; a store's `put`, or its `replace` for a version.
        workers: Threads, so requests at a time.
        policy: How often and how long one object is tried again.
        stop: Set from outside to end early, which takes effect within a second although
            requests may hang: these are abandoned.
        display: Called several times a second from the thread that called, and at the end with
            a snapshot that is `final`.
        clock: Time to wait by.
        draw: Random numbers from 0 to below 1, for the waits.

    Raises:
        ValueError: No workers, or a key that comes twice.
        BaseException: Whatever interrupted the wait (a terminated run, Ctrl-C), or was wrong with
            the program that `data` or `send` are, after the threads were told to end.
    """
    if workers < 1:
        raise ValueError(f"an upload needs at least one thread, not {workers}")
    keys = [item.key for item in items]
    if twice := [key for key, times in Counter(keys).items() if times > 1]:
        raise ValueError(f"{twice[0]!r} occurs twice in the objects to upload")
    running = _Running(deque(items), send, workers, policy, clock or Clock(), draw)
    show = display or (lambda snapshot: None)
    try:
        running.start()
        while not running.wait(_TURN, stop):
            show(running.snapshot())
    finally:
        running.stop()
        show(running.snapshot(final=True))
    return running.report(keys)


class _NoLimit(RateLimiter):
    """A limiter that never waits: a store has no rate limit, and says if it is overloaded."""

    def __init__(self) -> None:
        super().__init__(per_minute=1e9)

    def acquire(self, stop: threading.Event, timeout: float = math.inf) -> float:
        return 0.0


@dataclass(slots=True)
class _Results:
    """What one thread did: nobody else writes here, so no thread waits for another's lock."""

    uploaded: list[Uploaded] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


class _Running:
    """One upload under way."""

    def __init__(
        self,
        queue: deque[Item],
        send: Send,
        workers: int,
        policy: RetryPolicy | None,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._queue, self._send, self._clock = queue, send, clock
        self._objects = len(queue)
        self._results = [_Results() for _ in range(min(workers, len(queue)))]
        self._working = len(self._results)
        self._stop, self._idle, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._caller = Caller(_NoLimit(), policy, stop=self._stop, clock=clock, draw=draw)
        self._refused_in_a_row = 0
        self._stopped = ""
        self._defect: BaseException | None = None
        self._began = self._clock.seconds()

    def start(self) -> None:
        if not self._working:
            self._idle.set()
        for number, results in enumerate(self._results):
            threading.Thread(
                target=self._work, args=(results,), name=f"upload-{number}", daemon=True
            ).start()

    def wait(self, seconds: float, stop: threading.Event | None) -> bool:
        """Waits in short turns that let a signal in; True at the end."""
        if self._idle.wait(seconds) or self._stop.is_set():
            return True
        if stop is not None and stop.is_set():
            self._stopped = "stopped"
            return True
        return False

    def stop(self) -> None:
        self._stop.set()
        if self._working:
            self._idle.wait(_GRACE)

    def snapshot(self, *, final: bool = False) -> Snapshot:
        return Snapshot(
            objects=self._objects,
            uploaded=sum(len(results.uploaded) for results in self._results),
            failed=sum(len(results.failed) for results in self._results),
            bytes=sum(results.bytes for results in self._results),
            retries=self._caller.retries,
            seconds=self._clock.seconds() - self._began,
            final=final,
        )

    def report(self, keys: list[str]) -> Upload:
        if self._defect is not None:
            raise self._defect
        uploaded: dict[str, Uploaded] = {}
        failed: dict[str, str] = {}
        for results in self._results:
            # Copies: an abandoned thread may still write to its own.
            uploaded |= {one.key: one for one in tuple(results.uploaded)}
            failed |= results.failed.copy()
        return Upload(
            uploaded={key: uploaded[key] for key in keys if key in uploaded},
            failed={key: failed[key] for key in keys if key in failed},
            pending=tuple(key for key in keys if key not in uploaded and key not in failed),
            stopped=self._stopped,
            bytes=sum(one.size for one in uploaded.values()),
            seconds=self._clock.seconds() - self._began,
            retries=self._caller.retries,
        )

    def _work(self, results: _Results) -> None:
        """One thread: object after object, until none is left or it is told to stop."""
        try:
            while not self._stop.is_set():
                try:
                    item = self._queue.popleft()
                except IndexError:
                    break
                self._upload(item, results)
        except StoppedError:
            pass  # its object stays pending
        except BaseException as error:  # noqa: BLE001 - `report` raises it again
            with self._lock:
                self._defect = self._defect or error
            self._stop.set()
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self._idle.set()

    def _upload(self, item: Item, results: _Results) -> None:
        attempts = 0

        def attempt() -> str | None:
            nonlocal attempts
            attempts += 1
            try:
                return self._send(item.key, data)
            except StoreError as error:
                if error.transient:
                    raise TransientError(str(error)) from error
                raise

        try:
            data = item.data()
        except (StoreError, OSError) as error:
            results.failed[item.key] = str(error)
            return
        try:
            version = self._caller.call(attempt)
        except (ChangedError, OSError) as error:
            results.failed[item.key] = str(error)  # which does not affect the next object
        except (StoreError, PermanentError) as error:
            results.failed[item.key] = str(error)
            self._count_refusal(str(error))
        else:
            results.uploaded.append(Uploaded(item.key, len(data), version, attempts))
            results.bytes += len(data)
            self._refused_in_a_row = 0

    def _count_refusal(self, reason: str) -> None:
        with self._lock:
            self._refused_in_a_row += 1
            if self._refused_in_a_row == HOPELESS and self._queue:
                self._stopped = f"{HOPELESS} objects in a row were refused, the last: {reason}"
                self._stop.set()


def files(folder: Path) -> list[Item]:
    """The files of a folder and its folders, ascending by key: their paths below it.

    What a store keeps there for itself (its lock, files that are being written) is left out.

    Raises:
        OSError: The folder, or one in it, is not there or can't be read.
        ValueError: Something in it can't be an object: a name that is no key, a link that leads
            out of the folder or to a folder, a pipe.
    """
    root = folder.resolve(strict=True)
    found = {item.key: item for item in _files(root, str(root), "")}
    return [found[key] for key in sorted(found)]


def _files(root: Path, folder: str, below: str) -> Iterator[Item]:
    """The files of one of the folders, whose path below the root is `below`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            key = below + entry.name
            if key in (LOCK, STAGING):
                continue
            if entry.is_symlink():
                _demand_a_link_within(Path(entry.path), root)
            if entry.is_dir(follow_symlinks=False):
                yield from _files(root, entry.path, f"{key}/")
            elif _is_file(entry):
                yield Item(checked_key(key), partial(_read, entry.path))
            else:
                raise ValueError(f"{entry.path} is neither a file nor a folder: move it elsewhere")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False


def _read(path: str) -> bytes:
    # Without pathlib's layers and a buffer: of a small file they are half the reading.
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.readall()


def _demand_a_link_within(link: Path, root: Path) -> None:
    if link.is_dir():
        raise ValueError(
            f"{link} is a link to a folder, which is not followed: upload that folder separately, "
            "or remove the link"
        )
    # realpath() takes a link to itself as it is; resolve() raises RuntimeError, before Python 3.13.
    if not Path(os.path.realpath(link)).is_relative_to(root):
        raise ValueError(
            f"{link} is a link out of {root}, which is not followed: copy what it points to, or "
            "remove the link"
        )
