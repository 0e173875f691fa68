"""Staging: how an object is written in a local folder, whole or not at all.

Belongs here: the hidden folder at the lake's root in which a file is written before it is renamed
to its place, and what killed writers left in it. Does not belong here: keys, and errors for a
person (`store`).

Beside its place a half-written file is in a folder that others scan: pandas, pyarrow, Polars and
Spark take whatever lies there for data. In a folder with a dot in front, at the root, it is in
nobody's way, and on the same file system, so that the renaming is atomic.

A writer has a file of its own there and holds a lock on it, which the system frees when the process
ends in whatever way. Where that file can be locked, or is gone, the writer is dead, and what it
staged is litter: no clock and no process number is asked, which would lie between machines and
containers. Should the files of a living writer be taken all the same (by another machine, on a
share whose locks don't reach it), its renaming fails, and it writes again.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
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
"""How the name ends of the file that a writer holds. What it stages begins like it."""

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
        self._numbers = itertools.count()

    def __reduce__(self) -> tuple[type[Staging], tuple[Path]]:
        # Another process is another writer.
        return type(self), (self._root,)

    def put(self, backend: LocalStore, key: str, data: bytes) -> str | None:
        """Write a file, or replace it; its ETag.

        Raises:
            BaseError: What obstore says.
        """
        return self._write(backend, key, data, overwrite=True)

    def create(self, backend: LocalStore, key: str, data: bytes) -> bool:
        """Write a file unless there is one; False: there is.

        Raises:
            BaseError: What obstore says.
        """
        try:
            self._write(backend, key, data, overwrite=False)
        except AlreadyExistsError:
            return False
        return True

    def abandoned(self) -> list[Path]:
        """The files that dead writers staged, sorted."""
        return [path for path in self._of_the_dead() if not path.name.endswith(_WRITER)]

    def _write(self, backend: LocalStore, key: str, data: bytes, *, overwrite: bool) -> str | None:
        for left in reversed(range(_TRIES)):
            staged = f"{STAGING}/{self._claimed()}.{next(self._numbers)}"
            # Its ETag is made of the file's number and time, which a renaming leaves as they are.
            written = obstore.put(backend, staged, data, use_multipart=False)
            path = self._folder / staged.rpartition("/")[2]
            try:
                self._move(backend, staged, key, overwrite=overwrite)
            except BaseException:
                if left and not path.exists():  # somebody took this writer for dead
                    self._mark = None
                    continue
                self._remove(path)
                raise
            return written["e_tag"]
        raise AssertionError  # the last one was raised

    def _move(self, backend: LocalStore, staged: str, key: str, *, overwrite: bool) -> None:
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
        # What can't be removed is only litter: no reader sees it, and no write fails because of it.
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


def _held(path: Path) -> bool:
    """Does a living process hold the file?"""
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
