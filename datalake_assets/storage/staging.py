"""Staging: atomic writes in a local folder.

Belongs here: the hidden folder at the lake's root in which a file is written before it is renamed
to its place, the files that killed writers left there, the lock of those who replace a file, and a
file's version. Does not belong here: keys, and user-facing errors (`store`).

A half-written file next to its final place would be in a folder that other programs scan: pandas,
pyarrow, Polars and Spark treat every file there as data. A hidden folder at the root avoids that,
and is on the same file system, so that the rename is atomic.

A writer has its own file there and holds a lock on it, which the system releases when the process
ends in any way. If that file can be locked, or is gone, the writer is dead and its staged files can
be removed. Clocks and process ids are not used, as they are unreliable across machines and
containers. If the files of a living writer are removed nevertheless (by another machine, on a share
without shared locks), its rename fails, and it writes again.

All of it is the system's own calls: obstore hands each of its own to another thread, and `pathlib`
and buffered files take longer than the calls that they make.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
import shutil
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

import obstore
from obstore.store import LocalStore

STAGING = ".staging"
"""The folder, at the lake's root; never listed."""

LOCK = ".lock"
"""The file, at the lake's root, that is held while an object is replaced or removed; never listed.
Also by those who don't look at what stands there: whoever does would replace theirs unseen."""

_WRITER = ".writer"
"""The suffix of a writer's lock file. Its staged files have the same prefix."""

_TRIES = 5


class _TakenError(Exception):
    """The place of a file is another's."""


class Staging:
    """Writes files below a folder; shared by threads.

    Its first write removes what dead writers left.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, root / STAGING
        self._claiming = threading.Lock()
        self._mark: str | None = None
        self._as_expected: bool | None = None
        self._numbers = itertools.count()

    def __reduce__(self) -> tuple[type[Staging], tuple[Path]]:
        # Another process is another writer.
        return type(self), (self._root,)

    def put(self, backend: LocalStore, key: str, data: bytes) -> str:
        """Write a file, or replace it; its ETag.

        Raises:
            BaseError, OSError: What obstore or the system says.
        """
        return self._write(backend, data, partial(self._put, key))

    def copy(self, backend: LocalStore, source: str, key: str) -> str:
        """Write a file, or replace it, with the bytes of another one; its ETag.

        It is a file of its own, no link: who writes into the other one does not change it.

        Raises:
            BaseError, OSError: What obstore or the system says.
        """
        return self._write(backend, Path(self._root, source), partial(self._put, key))

    def delete(self, key: str) -> None:
        """Remove a file.

        Raises:
            FileNotFoundError: There is none.
            OSError: What the system says.
        """
        place = f"{self._root}/{key}"
        os.stat(place)  # noqa: PTH116 - in a folder without a lake, no lock is made
        with self._locked():
            os.unlink(place)  # noqa: PTH108 - a Path takes longer than the call

    def create(self, backend: LocalStore, key: str, data: bytes) -> str | None:
        """Write a file unless there is one; its ETag, or None: there is.

        No lock is needed: the system links a file to no name that is taken. Who replaces a file
        looks whether it is there first, so the two can't meet.

        Raises:
            BaseError, OSError: What obstore or the system says.
        """

        def link(staged: str) -> None:
            try:
                self._place(os.link, key, staged)
            except FileExistsError:
                raise _TakenError from None
            self._remove(staged)

        with suppress(_TakenError):
            return self._write(backend, data, link)
        return None

    def replace(self, backend: LocalStore, key: str, data: bytes, version: str) -> str | None:
        """Write a file in the place of the one with this version.

        Returns:
            Its ETag; None when another version stands there, or none, which is left as it is.

        Raises:
            BaseError, OSError: What obstore or the system says.
        """

        def replace(staged: str) -> None:
            with self._locked():
                try:
                    now = self.e_tag(backend, key)
                except FileNotFoundError:
                    now = None
                if now != version:
                    raise _TakenError
                self._place(os.replace, key, staged)

        # Two states of a file can't have one version: a new file, so another inode, and a
        # timestamp in microseconds.
        with suppress(_TakenError):
            return self._write(backend, data, replace)
        return None

    def read(self, backend: LocalStore, key: str) -> tuple[bytes, str] | None:
        """A file's bytes and its ETag; None where obstore is to read it, or to say why not.

        Raises:
            FileNotFoundError: There is no such file.
        """
        try:
            data, found = read_file(f"{self._root}/{key}")
        except FileNotFoundError:
            raise
        except OSError:
            return None
        if self._as_expected is None:
            self.e_tag(backend, key)
        return (data, _e_tag(found)) if self._as_expected else None

    def e_tag(self, backend: LocalStore, key: str) -> str:
        """A file's ETag, as obstore tells it: its number, time of change in µs, and size.

        Where that is how this version of obstore makes it, which is looked at once, it is not
        asked again.

        Raises:
            FileNotFoundError: There is no such file.
            BaseError, OSError: What obstore or the system says.
        """
        place = f"{self._root}/{key}"
        if self._as_expected:
            found = os.stat(place)  # noqa: PTH116
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(errno.ENOENT, "is no file", key)
            return _e_tag(found)
        told = obstore.head(backend, key)["e_tag"]
        if told is None:
            raise FileNotFoundError(errno.ENOENT, "has no ETag", key)
        if self._as_expected is None:
            self._as_expected = told == _e_tag(os.stat(place))  # noqa: PTH116
        return told

    def abandoned(self) -> list[Path]:
        """The files that dead writers staged, sorted."""
        return [path for path in self._of_the_dead() if not path.name.endswith(_WRITER)]

    def _write(
        self, backend: LocalStore, data: bytes | Path, place: Callable[[str], object]
    ) -> str:
        """Stage bytes, or those of a file, and let them be brought to their place; the ETag."""
        for left in reversed(range(_TRIES)):
            name = f"{STAGING}/{self._claimed()}.{next(self._numbers)}"
            staged = f"{self._root}/{name}"
            try:
                if isinstance(data, bytes):
                    _write_new(staged, data)
                else:
                    _copy(data, staged)
                # A renaming leaves the file's number and time as they are, and so its ETag.
                version = self.e_tag(backend, name)
                place(staged)
            except FileNotFoundError:
                there = isinstance(data, bytes) or data.exists()
                if left and there and not os.path.exists(staged):  # noqa: PTH110
                    self._mark = None  # it was taken for a dead writer's
                    continue
                self._remove(staged)
                raise
            except BaseException:
                self._remove(staged)
                raise
            return version
        raise AssertionError  # unreachable: the last error was raised

    def _put(self, key: str, staged: str) -> None:
        """Rename a file to its place, but not between another's look there and its renaming."""
        with self._locked():
            self._place(os.replace, key, staged)

    def _place(self, move: Callable[[str, str], None], key: str, staged: str) -> None:
        """Rename or link a file to its place, whose folder may not be there yet."""
        place = f"{self._root}/{key}"
        try:
            move(staged, place)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
            move(staged, place)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time, of all processes that replace objects in this folder.

        The lock is taken anew each time: one that stays open would have to be compared with the
        one that lies there now, and shared by threads, which takes as long.
        """
        place = f"{self._root}/{LOCK}"
        try:
            lock = os.open(place, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _claimed(self) -> str:
        """This writer's mark, whose file it holds."""
        mark = self._mark
        if mark is None:
            with self._claiming:
                mark = self._mark
                if mark is None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    # One at a time: a mark that is not locked yet looks like a dead writer's.
                    folder = os.open(self._folder, os.O_RDONLY)
                    try:
                        fcntl.flock(folder, fcntl.LOCK_EX)
                        self._sweep()
                        mark = self._mark = self._claim()
                    finally:
                        os.close(folder)
        return mark

    def _claim(self) -> str:
        while True:
            mark = secrets.token_hex(6)
            path = self._folder / f"{mark}{_WRITER}"
            file = path.open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
            # Before it was locked, another writer may have swept it away.
            if path.exists():
                weakref.finalize(self, _leave, file, path)
                return mark
            file.close()

    def _sweep(self) -> None:
        for path in list(self._of_the_dead()):
            self._remove(path)

    @staticmethod
    def _remove(path: str | Path) -> None:
        # A file that can't be removed is harmless: no reader sees it, and no write fails.
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108

    def _of_the_dead(self) -> Iterator[Path]:
        """Every file of a dead writer, sorted."""
        try:
            found = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return
        living: dict[str, bool] = {}
        for path in found:
            mark = path.name.partition(".")[0]
            if mark not in living:
                living[mark] = _held(self._folder / f"{mark}{_WRITER}")
            if not living[mark]:
                yield path


def _e_tag(found: os.stat_result) -> str:
    return f'"{found.st_ino:x}-{found.st_mtime_ns // 1000:x}-{found.st_size:x}"'


def read_file(
    path: str, length: int | None = None, start: int | None = None
) -> tuple[bytes, os.stat_result]:
    """A file's bytes, or some of them, and what the system says of it.

    Args:
        path: The file.
        length: How many bytes; None: all.
        start: The first of them; None: they are the last ones of the file.

    Raises:
        OSError: What the system says.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        rest = found.st_size if length is None else min(length, found.st_size)
        if start is not None:
            os.lseek(file, start, os.SEEK_SET)
            rest = max(0, min(rest, found.st_size - start))
        elif rest < found.st_size:
            os.lseek(file, -rest, os.SEEK_END)
        data = os.read(file, rest)
        while len(data) < rest and (more := os.read(file, rest - len(data))):
            data += more
        return data, found
    finally:
        os.close(file)


def _write_new(path: str, data: bytes) -> None:
    """Write a file that is not there yet."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
    finally:
        os.close(file)


def _copy(source: Path, path: str) -> None:
    """Write a file that is not there yet, with the bytes of another one.

    The system copies them where it can: on Btrfs and XFS both share what is on the disk until one
    of them is written to.
    """
    with source.open("rb") as given, open(path, "xb", buffering=0) as made:  # noqa: PTH123
        if copying := getattr(os, "copy_file_range", None):  # Linux has it
            try:
                while copying(given.fileno(), made.fileno(), 1 << 30):
                    pass
                return
            except OSError:  # two kinds of file systems, or a kernel that can't
                given.seek(0)
                made.seek(0)
        shutil.copyfileobj(given, made, 1 << 20)


def _held(path: Path) -> bool:
    """Whether a living process holds the file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it does, or nobody can tell
        return True
    return False


def _leave(file: IO[bytes], path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    file.close()
