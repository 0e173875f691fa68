"""Staging: atomic writes in a local folder.

Belongs here: the hidden folder at the lake's root in which a file is written before it is renamed
to its place, and the files that killed writers left there. Does not belong here: keys, and
user-facing errors (`store`).

A half-written file next to its final place would be in a folder that other programs scan: pandas,
pyarrow, Polars and Spark treat every file there as data. A hidden folder at the root avoids that,
and is on the same file system, so that the rename is atomic.

A writer has its own file there and holds a lock on it, which the system releases when the process
ends in any way. If that file can be locked, or is gone, the writer is dead and its staged files can
be removed. Clocks and process ids are not used, as they are unreliable across machines and
containers. If the files of a living writer are removed nevertheless (by another machine, on a share
without shared locks), its rename fails, and it writes again.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import secrets
import stat
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore

STAGING = ".staging"
"""The folder, at the lake's root; never listed."""

_WRITER = ".writer"
"""The suffix of a writer's lock file. Its staged files have the same prefix."""

_TRIES = 5


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
        return self._write(backend, key, data, overwrite=True)

    def create(self, backend: LocalStore, key: str, data: bytes) -> bool:
        """Write a file unless there is one; False: there is.

        Raises:
            BaseError, OSError: What obstore or the system says.
        """
        try:
            self._write(backend, key, data, overwrite=False)
        except AlreadyExistsError:
            return False
        return True

    def e_tag(self, backend: LocalStore, key: str) -> str:
        """A file's ETag, as obstore tells it: its number, time of change in µs, and size.

        Where that is how this version of obstore makes it, which is looked at once, it is not
        asked again: it would hand the question to a thread of its own.

        Raises:
            FileNotFoundError: There is no such file.
            BaseError, OSError: What obstore or the system says.
        """
        if self._as_expected:
            found = os.stat(f"{self._root}/{key}")  # noqa: PTH116
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(errno.ENOENT, "is no file", key)
            return _e_tag(found)
        told = obstore.head(backend, key)["e_tag"]
        if told is None:
            raise FileNotFoundError(errno.ENOENT, "has no ETag", key)
        if self._as_expected is None:
            self._as_expected = told == _e_tag((self._root / key).stat())
        return told

    def abandoned(self) -> list[Path]:
        """The files that dead writers staged, sorted."""
        return [path for path in self._of_the_dead() if not path.name.endswith(_WRITER)]

    def _write(self, backend: LocalStore, key: str, data: bytes, *, overwrite: bool) -> str:
        for left in reversed(range(_TRIES)):
            staged = f"{STAGING}/{self._claimed()}.{next(self._numbers)}"
            path = self._root / staged
            try:
                _write_new(path, data)
                # A renaming leaves the file's number and time as they are, and so its ETag.
                version = self.e_tag(backend, staged)
                self._move(backend, staged, key, overwrite=overwrite)
            except BaseException:
                if left and not path.exists():  # taken for a dead writer's
                    self._mark = None
                    continue
                self._remove(path)
                raise
            return version
        raise AssertionError  # unreachable: the last error was raised

    def _move(self, backend: LocalStore, staged: str, key: str, *, overwrite: bool) -> None:
        if overwrite:
            # Without handing it to one of obstore's threads, which takes as long as the renaming.
            with suppress(FileNotFoundError):  # the folder is not there yet: obstore makes it
                os.replace(f"{self._root}/{staged}", f"{self._root}/{key}")  # noqa: PTH105
                return
        obstore.rename(backend, staged, key, overwrite=overwrite)

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
    def _remove(path: Path) -> None:
        # A file that can't be removed is harmless: no reader sees it, and no write fails.
        with suppress(OSError):
            path.unlink()

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


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet.

    obstore would write it under a third name, rename it, and do both in a thread of its own.
    """
    with path.open("xb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]


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
