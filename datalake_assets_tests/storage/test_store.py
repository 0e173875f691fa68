"""The same promises, kept by a folder, by a real S3 server and by memory."""

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore

from datalake_assets.storage.staging import LOCK, STAGING, Staging
from datalake_assets.storage.store import (
    ChangedError,
    S3Access,
    Store,
    StoreError,
    UnreadableError,
    open_store,
)
from datalake_assets_tests.conftest import BUCKET, S3Server
from datalake_assets_tests.rights import as_nobody

BACKENDS = ["folder", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=BACKENDS)
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "folder":
            return str(tmp_path / "lake")
        case "memory":
            return "memory://"
        case _:
            return str(request.getfixturevalue("s3_lake_uri"))


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri)


# What every store promises


def test_what_is_put_is_what_one_gets(store: Store) -> None:
    data = bytes(range(256)) * 1000
    store.put("data/a.parquet", data)
    assert store.get("data/a.parquet") == data
    assert store.size("data/a.parquet") == len(data)
    assert store.exists("data/a.parquet")


def test_an_object_may_be_empty(store: Store) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.size("empty") == 0
    assert store.tail("empty", 8) == b""


def test_an_object_of_many_megabytes_arrives_whole(store: Store) -> None:
    data = random.Random(0).randbytes(12 << 20)
    store.put("large", data)
    assert store.get("large") == data


def test_a_put_replaces_what_was_there(store: Store) -> None:
    store.put("k", b"old and longer")
    store.put("k", b"new")
    assert store.get("k") == b"new"


def test_a_copy_has_the_bytes_and_is_an_object_of_its_own(store: Store) -> None:
    data = os.urandom(3_000_000)
    store.put("a/b", data)
    store.put("c/d", b"before")
    store.copy("a/b", "c/d")
    store.copy("a/b", "e/f")
    store.put("a/b", b"after")

    assert (store.get("c/d"), store.get("e/f"), store.get("a/b")) == (data, data, b"after")
    store.delete("a/b")
    with pytest.raises(FileNotFoundError):
        store.copy("a/b", "c/d")
    assert store.get("c/d") == data
    assert store.leftovers() == []


def test_a_copy_in_a_folder_is_made_where_the_system_does_not_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: int) -> int:
        raise OSError(errno.EXDEV, "two file systems")

    store = open_store(str(tmp_path))
    store.put("a", b"bytes" * 1000)
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    store.copy("a", "b")
    monkeypatch.delattr(os, "copy_file_range")
    store.copy("a", "c")

    assert store.get("b") == store.get("c") == b"bytes" * 1000


def test_the_tail_is_the_last_bytes_and_never_more_than_there_are(store: Store) -> None:
    store.put("k", b"0123456789")
    assert store.tail("k", 1) == b"9"
    assert store.tail("k", 9) == b"123456789"
    assert store.tail("k", 10) == b"0123456789"
    assert store.tail("k", 11) == b"0123456789"
    with pytest.raises(ValueError, match="length=0"):
        store.tail("k", 0)


def test_a_part_is_so_many_bytes_from_where_it_starts_or_from_the_end(store: Store) -> None:
    store.put("k", b"0123456789")
    assert store.part("k", 3, 0).data == b"012"
    assert store.part("k", 1, 9).data == b"9"
    assert store.part("k", 5, 8).data == b"89"
    assert store.part("k", 4).data == b"6789"
    assert store.part("k", 11).data == b"0123456789"
    assert store.part("k", 1).size == store.part("k", 3, 2).size == 10
    for length, start in ((0, None), (0, 1), (1, -1)):
        with pytest.raises(ValueError, match=f"length={length}, start={start}"):
            store.part("k", length, start)


def test_parts_tell_whether_they_are_of_one_object(store: Store) -> None:
    store.put("k", b"0123456789")
    first = store.part("k", 3, 0)
    assert store.part("k", 4).version == first.version
    store.put("k", b"9876543210")
    assert store.part("k", 3, 0).version != first.version


def test_what_is_missing_is_a_file_not_found_that_says_where_it_was_looked_for(
    store: Store,
) -> None:
    store.put("there", b"1")
    parts = (lambda key: store.tail(key, 8), lambda key: store.part(key, 8, 1))
    for question in (store.get, store.size, *parts):
        with pytest.raises(FileNotFoundError) as caught:
            question("not/there")
        assert store.url("not/there") in str(caught.value)
    assert not store.exists("not/there")


def test_nothing_at_all_is_an_empty_store(store: Store) -> None:
    assert store.list("") == []
    assert store.list("data/ticks") == []
    assert not store.exists("k")
    store.delete("k")
    with pytest.raises(FileNotFoundError):
        store.get("k")


def test_create_writes_once_and_leaves_what_is_there(store: Store) -> None:
    assert store.create("_lake.json", b"first") is True
    assert store.create("_lake.json", b"second") is False
    assert store.get("_lake.json") == b"first"
    store.delete("_lake.json")
    assert store.create("_lake.json", b"third") is True
    assert store.get("_lake.json") == b"third"


def test_of_many_who_create_the_same_object_exactly_one_wins(uri: str, store: Store) -> None:
    # SeaweedFS looks at a contended object again only after a second, so fewer there.
    writers, rounds = (3, 4) if uri.startswith("s3:") else (8, 30)
    stores = [store if uri == "memory://" else open_store(uri) for _ in range(writers)]
    start = threading.Barrier(writers, timeout=60)

    def race(number: int, key: str) -> bool:
        start.wait()
        return stores[number].create(key, f"{number}".encode())

    with ThreadPoolExecutor(writers) as pool:
        for key in (f"k{round_}" for round_ in range(rounds)):
            won = list(pool.map(race, range(writers), [key] * writers))
            assert sum(won) == 1
            assert store.get(key) == f"{won.index(True)}".encode()


def test_a_version_names_the_bytes_that_stand_there(store: Store) -> None:
    first = store.replace("a/k", b"1", None)
    assert store.get_versioned("a/k") == (b"1", first)
    assert store.versions() == {"a/k": first}
    second = store.replace("a/k", b"2", first)
    assert second != first
    assert store.get_versioned("a/k") == (b"2", second)
    store.put("a/k", b"3")
    data, third = store.get_versioned("a/k")
    assert data == b"3"
    assert third not in (first, second)
    assert store.replace("a/k", b"", third) != third
    with pytest.raises(FileNotFoundError):
        store.get_versioned("a")


def test_versions_are_those_of_all_objects_below_a_folder_ascending(store: Store) -> None:
    written = {key: store.replace(key, key.encode(), None) for key in ("b/2", "a", "b/1", "b/c/3")}
    assert store.versions() == written
    assert list(store.versions()) == sorted(written)
    assert list(store.versions("b")) == list(store.versions("b/")) == ["b/1", "b/2", "b/c/3"]
    assert store.versions("nothing") == {}


def test_sizes_are_the_bytes_of_all_objects_below_a_folder_ascending(store: Store) -> None:
    assert store.sizes() == store.sizes("a") == {}
    for key, length in (("b/k", 3), ("a/long", 70_000), ("a/empty", 0)):
        store.put(key, b"x" * length)
    assert store.sizes("a/") == {"a/empty": 0, "a/long": 70_000}
    assert list(store.sizes().items()) == [("a/empty", 0), ("a/long", 70_000), ("b/k", 3)]


def test_a_replacement_of_what_somebody_else_wrote_changes_nothing_and_says_so(
    store: Store,
) -> None:
    stale = store.replace("k", b"1", None)
    now = store.replace("k", b"2", stale)
    for version in (stale, None):
        with pytest.raises(ChangedError) as caught:
            store.replace("k", b"3", version)
        assert str(caught.value).startswith(
            f"can't write {store.url('k')}: another writer changed it"
        )
        assert not caught.value.transient
    assert store.get_versioned("k") == (b"2", now)


def test_what_was_removed_meanwhile_is_not_replaced_but_can_be_made_again(store: Store) -> None:
    version = store.replace("k", b"1", None)
    store.delete("k")
    with pytest.raises(ChangedError):
        store.replace("k", b"2", version)
    assert not store.exists("k")
    store.replace("k", b"3", None)
    assert store.get("k") == b"3"


def test_of_writers_that_replace_what_they_read_none_loses_anothers_update(
    uri: str, store: Store
) -> None:
    # As in the race to create: SeaweedFS makes those who contend wait.
    writers, rounds = (3, 4) if uri.startswith("s3:") else (4, 25)
    stores = [store if uri == "memory://" else open_store(uri) for _ in range(writers)]
    store.put("k", b"")
    start = threading.Barrier(writers, timeout=60)

    def append(number: int) -> None:
        start.wait()
        for round_ in range(rounds):
            append_line(stores[number], f"{number}-{round_}")

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(append, range(writers)))
    lines = store.get("k").decode().splitlines()
    assert sorted(lines) == sorted(f"{n}-{r}" for n in range(writers) for r in range(rounds))


def append_line(store: Store, line: str) -> None:
    """Adds a line to the object `k`, however often somebody else is faster."""
    while True:
        data, version = store.get_versioned("k")
        try:
            store.replace("k", data + f"{line}\n".encode(), version)
        except ChangedError:
            continue
        return


def test_a_reader_sees_the_old_bytes_or_the_new_while_they_are_replaced(
    uri: str, store: Store
) -> None:
    versions = [bytes([65 + number]) * (1 << 20) for number in range(4)]
    store.put("k", versions[0])
    reads, done = threading.Semaphore(0), threading.Event()

    def write() -> None:
        for number in range(1, 40):
            # A read has ended since the last write: the reader keeps up, the next one overlaps.
            assert reads.acquire(timeout=60)
            store.put("k", versions[number % 4])
        done.set()

    reader = store if uri == "memory://" else open_store(uri)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = 0
        while not done.is_set() and not writing.done():
            assert reader.get("k") in versions
            seen += 1
            reads.release()
        writing.result(timeout=60)
    assert seen >= 39


def test_deleting_is_final_and_may_be_repeated(store: Store) -> None:
    store.put("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")
    assert store.list("") == []


def test_a_listing_is_sorted_and_goes_into_folders_but_not_into_neighbours(store: Store) -> None:
    keys = ["b/z", "b/a/2", "b/a/1", "ba/x", "a", "b/year=2024/2024-01-02.parquet", "_lake.json"]
    for key in keys:
        store.put(key, b"1")
    assert store.list("") == sorted(keys)
    below = ["b/a/1", "b/a/2", "b/year=2024/2024-01-02.parquet", "b/z"]
    assert store.list("b") == below
    assert store.list("b/") == below
    assert store.list("b/a") == ["b/a/1", "b/a/2"]
    assert store.list("b/nothing") == []


@pytest.mark.parametrize("prefix", ["b/z", "_lake.json"])
def test_a_prefix_is_a_folder_so_an_object_of_that_name_is_not_below_it(
    store: Store, prefix: str
) -> None:
    store.put(prefix, b"1")
    assert store.list(prefix) == []


def test_a_listing_of_more_than_a_page_is_complete(store: Store) -> None:
    keys = [f"s/{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert store.list("s") == keys


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../x",
        "a/..",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "a b",
        "a\\b",
        "a#1",
        "a%2e%2e",
        "a?b",
        "ü",
        "a\n",
        "a\0",
        "~",
        "s3://x",
    ],
)
def test_a_key_that_is_none_is_refused_by_every_method(store: Store, key: str) -> None:
    methods: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.tail(key, 1),
        lambda: store.size(key),
        lambda: store.exists(key),
        lambda: store.put(key, b"1"),
        lambda: store.create(key, b"1"),
        lambda: store.replace(key, b"1", None),
        lambda: store.get_versioned(key),
        lambda: store.delete(key),
        lambda: store.url(key),
    ]
    if key not in ("", "/", "a/"):  # as a folder these are everything, and `a`
        methods += [
            lambda: store.list(key),
            lambda: store.versions(key),
            lambda: store.foreign(key),
        ]
    for method in methods:
        with pytest.raises(ValueError, match="is not a valid key"):
            method()


# A local folder


@given(st.text(alphabet="abAB01./_=-\\~ #", max_size=20))
def test_no_key_leads_out_of_the_lake(key: str) -> None:
    store = open_store("/lake/root")
    try:
        url = store.url(key)
    except ValueError:
        return
    assert os.path.normpath(url) == url
    assert url.startswith("/lake/root/")


def test_opening_and_reading_make_nothing_on_disk(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a" / "lake"))
    assert store.list("") == []
    assert not store.exists("k")
    store.delete("k")
    assert store.foreign() == store.leftovers() == []
    assert list(tmp_path.iterdir()) == []
    store.put("k", b"1")
    assert (tmp_path / "a" / "lake" / "k").read_bytes() == b"1"


def test_a_folder_that_was_removed_meanwhile_is_empty_and_can_be_written_again(
    tmp_path: Path,
) -> None:
    store = open_store(str(tmp_path / "lake"))
    store.put("a/k", b"1")
    shutil.rmtree(tmp_path / "lake")
    assert store.list("") == []
    assert not store.exists("a/k")
    store.put("a/k", b"2")
    assert store.get("a/k") == b"2"


def test_a_relative_path_means_the_folder_it_meant_when_the_store_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("lake")
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put("k", b"1")
    assert store.uri == str((tmp_path / "lake").resolve())
    assert store.url("k") == str((tmp_path / "lake" / "k").resolve())
    assert (tmp_path / "lake" / "k").read_bytes() == b"1"


def test_a_file_uri_and_a_home_path_lead_to_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("~/lake 1").put("k", b"1")
    store = open_store((tmp_path / "lake 1").as_uri())
    assert store.get("k") == b"1"
    assert store.url("k") == str((tmp_path / "lake 1" / "k").resolve())


WRITER = """
import sys
from datalake_assets.storage.store import open_store
store = open_store(sys.argv[1])
versions = [bytes([65 + number]) * (1 << 20) for number in range(4)]
print("writing", flush=True)
number = 0
while True:
    store.put("data/k", versions[number % 4])
    store.delete("data/new")
    store.create("data/new", versions[number % 4])
    number += 1
"""


def test_a_writer_killed_at_any_moment_leaves_whole_objects_and_no_visible_litter(
    tmp_path: Path,
) -> None:
    root = tmp_path / "lake"
    store = open_store(str(root))
    moments = random.Random(2024)
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            time.sleep(moments.uniform(0, 0.02))
            writer.kill()
        keys = store.list("")
        assert set(keys) <= {"data/k", "data/new"}
        for key in keys:
            data = store.get(key)
            assert len(data) == 1 << 20
            assert data == data[:1] * len(data)
    assert store.list("") != []


APPENDER = """
import sys
from datalake_assets.storage.store import open_store
from datalake_assets_tests.storage.test_store import append_line
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    append_line(store, f"{sys.argv[2]}-{number}")
"""


class Contended(Staging):
    """Where a file is about to be brought to its place, another writer has half a second."""

    def __init__(self, root: Path, other: Callable[[], object]) -> None:
        super().__init__(root)
        self.told: list[object] = []
        self.writer = threading.Thread(target=lambda: self.told.append(other()))

    def _place(self, move: Callable[[str, str], None], key: str, staged: str) -> None:
        # Without a lock, the other one needs far less than this time.
        self.writer.start()
        self.writer.join(0.5)
        super()._place(move, key, staged)


@pytest.mark.parametrize(
    ("other", "left"),
    [
        (lambda store: store.put("k", b"theirs"), b"theirs"),
        (lambda store: store.copy("source", "k"), b"source"),
        (lambda store: store.delete("k"), None),
    ],
    ids=["put", "copy", "delete"],
)
def test_nobody_writes_between_the_look_and_the_renaming_of_one_who_replaces(
    other: Callable[[Store], object], left: bytes | None, tmp_path: Path
) -> None:
    store, another = open_store(str(tmp_path)), open_store(str(tmp_path))
    another.put("source", b"source")
    version = store.replace("k", b"before", None)
    store._staging = staging = Contended(tmp_path, lambda: other(another))
    store.replace("k", b"ours", version)
    staging.writer.join()
    assert (another.get("k") if another.exists("k") else None) == left


@pytest.mark.parametrize(
    ("other", "told", "left"),
    [
        (lambda store: store.put("k", b"theirs"), None, b"theirs"),
        (lambda store: store.copy("source", "k"), None, b"source"),
        (lambda store: store.create("k", b"theirs"), True, b"theirs"),
        (lambda store: bool(store.replace("k", b"theirs", None)), True, b"theirs"),
    ],
    ids=["put", "copy", "create", "replace nothing"],
)
def test_who_writes_where_nothing_was_is_told_of_one_who_came_first(
    other: Callable[[Store], object], told: bool | None, left: bytes, tmp_path: Path
) -> None:
    store, another = open_store(str(tmp_path)), open_store(str(tmp_path))
    another.put("source", b"source")
    store._staging = staging = Contended(tmp_path, lambda: other(another))
    with pytest.raises(ChangedError, match="another writer changed it"):
        store.replace("k", b"ours", None)
    staging.writer.join()
    assert (staging.told, another.get("k")) == ([told], left)
    assert not list((tmp_path / ".staging").glob("*[0-9]")), "nothing staged is left"


def test_processes_that_replace_one_object_in_a_folder_lose_no_update(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("k", b"")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(tmp_path), str(number), "40"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    lines = store.get("k").decode().splitlines()
    assert sorted(lines) == sorted(f"{n}-{r}" for n in range(3) for r in range(40))


def test_the_lock_of_a_folder_is_no_object_and_is_freed_by_a_killed_holder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.replace("k", b"2", store.replace("k", b"1", None))
    assert (tmp_path / LOCK).exists()
    assert store.list() == list(store.versions()) == ["k"]
    hold = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'wb'); "
        "fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / LOCK)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(store.put, "k", b"3")
            with pytest.raises(TimeoutError):
                writing.result(timeout=0.2)
            assert store.get("k") == b"2"
            store.create("new", b"1")  # which needs no lock
            holder.kill()
            writing.result(timeout=60)
    assert store.get("k") == b"3"


STAGER = """
import sys, time
from pathlib import Path
from obstore.exceptions import BaseError
from obstore.store import LocalStore
from datalake_assets.storage.staging import STAGING, Staging
staging = Staging(Path(sys.argv[1]))
mark = staging._claimed()
Path(sys.argv[1], STAGING, f"{mark}.0").write_bytes(b"half an obj")
print("staged", flush=True)
time.sleep(600)
"""


@contextmanager
def staging_writer(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has staged a file and not yet put it in its place."""
    command = [sys.executable, "-c", STAGER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"staged\n"
        try:
            yield writer
        finally:
            writer.kill()


def replace_nothing(store: Store, key: str, data: bytes) -> str:
    return store.replace(key, data, None)


@pytest.mark.parametrize("write", [Store.put, Store.create, replace_nothing])
def test_a_writer_sweeps_what_dead_writers_staged_and_harms_no_living_one(
    tmp_path: Path, write: Callable[[Store, str, bytes], object]
) -> None:
    with staging_writer(tmp_path) as living, staging_writer(tmp_path) as dead:
        dead.kill()
        dead.wait()
        store = open_store(str(tmp_path))
        (left,) = store.leftovers()
        assert Path(left).parent == tmp_path / STAGING
        assert store.list() == list(store.versions()) == store.foreign() == []
        write(store, "data/k", b"1")
        assert store.leftovers() == []
        living.kill()
        living.wait()
        assert len(store.leftovers()) == 1
    assert store.list() == ["data/k"]
    del store
    open_store(str(tmp_path)).put("k", b"2")
    assert list((tmp_path / STAGING).iterdir()) == []


class TakenForDead(Staging):
    """Of a writer whose staged file others remove so often."""

    times = 0

    def _place(self, move: Callable[[str, str], None], key: str, staged: str) -> None:
        if self.times:
            self.times -= 1
            for path in self._folder.iterdir():
                path.unlink()
        super()._place(move, key, staged)


def test_a_writer_that_was_taken_for_dead_writes_again(tmp_path: Path) -> None:
    staging, backend = TakenForDead(tmp_path), LocalStore(tmp_path)
    staging.times = 4
    staging.put(backend, "a/k", b"1")
    assert (tmp_path / "a/k").read_bytes() == b"1"
    staging.times = 4
    assert staging.create(backend, "a/new", b"2")
    assert staging.create(backend, "a/new", b"3") is None
    staging.times = 4
    version = staging.create(backend, "a/other", b"5")
    staging.times = 4
    assert staging.replace(backend, "a/other", b"6", version)
    assert (tmp_path / "a/other").read_bytes() == b"6"
    staging.times = 5
    with pytest.raises(FileNotFoundError, match="No such file"):
        staging.put(backend, "a/k", b"4")
    assert (tmp_path / "a/k").read_bytes() == b"1"
    assert (tmp_path / "a/new").read_bytes() == b"2"


class Interrupted(Staging):
    """Of a writer whom Ctrl-C meets right after a file came to its place."""

    def _place(self, move: Callable[[str, str], None], key: str, staged: str) -> None:
        super()._place(move, key, staged)
        raise KeyboardInterrupt


@pytest.mark.parametrize("write", [Staging.put, Staging.create])
def test_an_interruption_is_not_taken_for_a_file_that_others_removed(
    tmp_path: Path, write: Callable[[Staging, LocalStore, str, bytes], object]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(Interrupted(tmp_path), LocalStore(tmp_path), "a/k", b"1")
    assert (tmp_path / "a/k").read_bytes() == b"1"
    assert list((tmp_path / STAGING).glob("*.[0-9]*")) == []


def test_a_replacement_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    written = store.replace("k", b"1", None)
    for version in (None, written + "0"):
        with pytest.raises(ChangedError, match="another writer changed it"):
            store.replace("k", b"2", version)
    with pytest.raises(ChangedError):
        store.replace("new", b"2", written)
    assert store.versions() == {"k": written}
    assert store.get("k") == b"1"
    assert {path.suffix for path in (tmp_path / STAGING).iterdir()} == {".writer"}


def test_writers_at_work_sweep_nothing_of_each_other(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for round_ in range(50):
            open_store(str(tmp_path)).put(f"{number}/{round_}", f"{round_}".encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    store = open_store(str(tmp_path))
    assert len(store.list()) == 8 * 50
    assert all(store.get(key).decode() == key.partition("/")[2] for key in store.list())
    assert list((tmp_path / STAGING).iterdir()) == []


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "k").mkdir()
    with pytest.raises(StoreError, match="Is a directory .*something else is there"):
        store.put("k", b"1")
    assert store.create("k", b"1") is False
    assert {path.suffix for path in (tmp_path / STAGING).iterdir()} == {".writer"}


def test_the_version_of_a_file_is_the_one_that_a_listing_tells(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    written = store.replace("a/k", b"1", None)
    assert store.versions() == {"a/k": written}
    assert store.get_versioned("a/k") == (b"1", written)
    # As obstore makes it of a file that it wrote itself.
    told = obstore.put(LocalStore(tmp_path), "a/k", b"22", use_multipart=False)
    assert store.replace("a/k", b"333", told["e_tag"]) == store.versions()["a/k"]


def test_the_version_of_a_file_is_what_another_obstore_tells(tmp_path: Path) -> None:
    def other(backend: LocalStore, key: str) -> dict[str, str]:
        return {"e_tag": f"W/{(tmp_path / key).stat().st_ino}"}

    store = open_store(str(tmp_path))
    with patch.object(obstore, "head", other):
        written = store.replace("k", b"1", None)
        assert written.startswith("W/")
        assert store.replace("k", b"2", written).startswith("W/")
        with pytest.raises(ChangedError):
            store.replace("k", b"3", written)


STRANGE = ["a (1).parquet", "a~", "é.parquet", "a b", "a#1"]


@pytest.mark.parametrize("name", STRANGE)
def test_names_that_are_no_keys_are_not_listed_and_can_be_asked_for(
    uri: str, store: Store, tmp_path: Path, name: str
) -> None:
    store.put("data/k", b"1")
    if store.uri.startswith("/"):
        (tmp_path / "lake" / "data" / name).write_bytes(b"")
    else:
        assert store._backend is not None
        obstore.put(store._backend, f"data/{name}", b"")
    assert store.list() == list(store.versions()) == list(store.modified()) == ["data/k"]
    assert store.foreign() == store.foreign("data") == [f"data/{name}"]
    assert store.place(f"data/{name}").endswith(f"/data/{name}")


def test_what_is_no_file_in_a_folder_is_foreign(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("data/k.parquet", b"1")
    (tmp_path / "data/a.parquet").mkdir()
    (tmp_path / "data/a.parquet/part-0.parquet").write_bytes(b"")
    (tmp_path / "data/link.parquet").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data/loop")
    os.mkfifo(tmp_path / "data/pipe")
    found = ["data/a.parquet", "data/link.parquet", "data/loop", "data/pipe"]
    assert store.foreign("data/") == found
    assert store.foreign("other") == []


def test_a_file_that_may_not_be_read_is_told_with_the_right_to_read(
    folder_of_nobody: Path,
) -> None:
    root = folder_of_nobody / "lake"
    store = open_store(str(root))
    store.put("a/k", b"1")
    store.put("a/other", b"2")
    (root / "a/k").chmod(0)
    place = root / "a/k"
    with as_nobody():
        for read in (store.get, store.get_versioned, lambda key: store.tail(key, 4)):
            with pytest.raises(UnreadableError) as caught:
                read("a/k")
            told = f"can't read {place}: Permission denied; give this user the right to read it"
            assert str(caught.value) == told
            assert caught.value.repair == f"chmod u+r {place}"
            assert not caught.value.transient
        assert store.get("a/other") == b"2"
        assert store.list() == ["a/k", "a/other"]


def test_a_folder_that_may_not_be_read_is_no_matter_of_one_file(folder_of_nobody: Path) -> None:
    root = folder_of_nobody / "lake"
    store = open_store(str(root))
    store.put("a/k", b"1")
    (root / "a").chmod(0)
    with as_nobody():
        for look in (store.list, store.foreign, lambda: store.get("a/k")):
            with pytest.raises(StoreError, match=r"give this user the right to read it") as caught:
                look()
            assert not isinstance(caught.value, UnreadableError)


@pytest.mark.parametrize(
    ("root", "reason"), [("file", "File exists"), ("file/lake", "Not a directory")]
)
def test_a_folder_that_can_not_be_made_is_an_error_with_its_reason_and_a_way_out(
    tmp_path: Path, root: str, reason: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        open_store(str(tmp_path / root)).put("k", b"1")
    assert str(caught.value).startswith(f"can't write {tmp_path / root}/k: ")
    assert reason in str(caught.value)
    assert "choose another folder" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_an_object_can_not_stand_where_a_folder_is(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"1")
    with pytest.raises(StoreError, match=r"can't write .*/a/b: .*Not a directory"):
        store.put("a/b", b"1")


@pytest.mark.parametrize("read", [Store.get, lambda store, key: store.tail(key, 1)])
def test_what_in_a_folder_is_no_file_to_read_is_told_with_its_place(
    tmp_path: Path, read: Callable[[Store, str], bytes]
) -> None:
    store = open_store(str(tmp_path))
    store.put("a/b", b"1")
    with pytest.raises(FileNotFoundError, match=f"can't read .*{tmp_path}/a: it does not exist"):
        read(store, "a")
    with pytest.raises(StoreError, match=f"can't read .*{tmp_path}/a/b/c: .*os error 20.*move it"):
        read(store, "a/b/c")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreError, match=f"can't read .*{tmp_path}/loop: .*os error 40"):
        read(store, "loop")


@pytest.mark.parametrize(("most", "in_folder"), [(3, 3), (4, 4), (5, 4), (32, 4)])
def test_a_folder_is_read_by_few_threads(tmp_path: Path, most: int, in_folder: int) -> None:
    assert open_store(str(tmp_path)).readers(most) == in_folder
    assert open_store("memory://").readers(most) == most


@pytest.mark.parametrize("most", [1, 2, 20])
def test_a_folder_is_written_by_one_thread(tmp_path: Path, most: int) -> None:
    assert open_store(str(tmp_path)).writers(most) == 1
    assert open_store("memory://").writers(most) == most


# URIs


@pytest.mark.parametrize(
    "uri", ["s3://", "gs://bucket", "https://bucket.s3.amazonaws.com", "s3://b?x"]
)
def test_a_uri_that_names_no_store_is_refused_with_what_is_legal(uri: str) -> None:
    with pytest.raises(ValueError, match="must be a local path, file:///path, s3://bucket/prefix"):
        open_store(uri)


def test_each_store_in_memory_is_a_new_one() -> None:
    store = open_store("memory://")
    store.put("k", b"1")
    assert store.url("k") == "memory:///k"
    assert open_store("memory://").list("") == []


# S3


@pytest.mark.s3
def test_an_object_in_a_bucket_is_found_by_its_s3_address(s3_lake_uri: str) -> None:
    store = open_store(s3_lake_uri + "/")
    assert store.uri == s3_lake_uri
    assert store.url("a/k") == f"{s3_lake_uri}/a/k"
    store.put("a/k", b"1")
    assert open_store(f"{s3_lake_uri}/a").get("k") == b"1"


@pytest.mark.s3
def test_a_missing_bucket_is_named_with_what_to_do(s3_lake_uri: str) -> None:
    store = open_store("s3://no-such-bucket/lake")
    for question in (lambda: store.get("k"), lambda: store.tail("k", 8), lambda: store.list("")):
        with pytest.raises(StoreError) as caught:
            question()
        assert "s3://no-such-bucket/lake" in str(caught.value)
        assert "404 Not Found, NoSuchBucket" in str(caught.value)
        assert str(caught.value).endswith(
            "create the bucket, or correct the lake's URI (DATALAKE_URI)"
        )


@pytest.mark.s3
@pytest.mark.parametrize(
    ("variable", "code"),
    [
        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
    ],
)
def test_a_wrong_key_is_told_apart_and_shown_nowhere(
    s3_lake_uri: str,
    seaweedfs: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    code: str,
) -> None:
    monkeypatch.setenv(variable, "Wr0ngValue")
    with pytest.raises(StoreError) as caught:
        open_store(s3_lake_uri).put("k", b"1")
    shown = "".join(traceback.format_exception(caught.value))
    assert f"can't write {s3_lake_uri}/k: 403 Forbidden, {code}, " in shown
    assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in shown
    assert "Wr0ngValue" not in shown
    assert seaweedfs.admin[1] not in shown


@pytest.mark.s3
def test_a_key_that_may_not_write_is_told_which_rights_it_needs(
    s3_lake_uri: str, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(s3_lake_uri).put("k", b"1")
    for name, value in seaweedfs.environ(seaweedfs.reader).items():
        monkeypatch.setenv(name, value)
    store = open_store(s3_lake_uri)
    assert store.get("k") == b"1"
    assert store.list("") == ["k"]
    for write in (
        lambda: store.put("k", b"2"),
        lambda: store.create("new", b"2"),
        lambda: store.replace("k", b"2", store.get_versioned("k")[1]),
        lambda: store.delete("k"),
    ):
        with pytest.raises(StoreError, match=r"403 Forbidden, AccessDenied.*s3:PutObject"):
            write()
    assert store.get("k") == b"1"


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "NoCredentials"),
        ({"AWS_ACCESS_KEY_ID": "AKID"}, "missing: AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "nobody"}, "ProfileNotFound.*nobody"),
    ],
)
def test_s3_without_usable_credentials_says_which_ones_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], reason: str
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=rf"can't open s3://bars/lake: .*{reason}.*AWS_PROFILE"):
        open_store("s3://bars/lake")


@pytest.mark.s3
@pytest.mark.parametrize("profile", ["default", "analyst"])
def test_a_profile_gives_keys_region_and_endpoint(
    seaweedfs: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    access_key, secret_key = seaweedfs.admin
    credentials, config = tmp_path / "credentials", tmp_path / "config"
    credentials.write_text(
        f"[{profile}]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
    )
    section = profile if profile == "default" else f"profile {profile}"
    config.write_text(f"[{section}]\nregion = us-east-1\nendpoint_url = {seaweedfs.endpoint}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    if profile != "default":
        monkeypatch.setenv("AWS_PROFILE", profile)
    store = open_store(f"s3://{BUCKET}/of-{profile}")
    store.put("k", b"1")
    assert store.list("") == ["k"]


Answer = tuple[int, str]


@contextmanager
def scripted_s3(*answers: Answer, **environ: str) -> Iterator[list[dict[str, str]]]:
    """A server that gives these answers in turn, then 200; yields the headers of each request."""
    waiting, requests = list(answers), []

    class Script(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append({name.lower(): value for name, value in self.headers.items()})
            status, body = waiting.pop(0) if waiting else (200, "")
            self.send_response(status)
            if status == 200:
                self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Script) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": "S3cretKey",
            "AWS_SESSION_TOKEN": "S3ssionToken",
        }
        for name, value in (variables | environ).items():
            patch.setenv(name, value)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield requests
        finally:
            server.shutdown()
            thread.join()


def error(code: str, message: str, more: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    )


def test_what_passes_is_tried_again_and_a_create_stays_conditional() -> None:
    busy = (503, error("SlowDown", "Please reduce your request rate."))
    with scripted_s3(busy, (500, ""), busy) as requests:
        assert open_store("s3://bars/lake").create("k", b"1") is True
    assert [request["if-none-match"] for request in requests] == ["*"] * 4


def test_the_session_token_of_temporary_keys_is_sent() -> None:
    with scripted_s3() as requests:
        open_store("s3://bars/lake").put("k", b"1")
    assert [request["x-amz-security-token"] for request in requests] == ["S3ssionToken"]


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-west-2"}, "eu-west-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "us-west-2"}, "us-west-2"),
        ({"AWS_PROFILE": "default", "AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_PROFILE": "default", "AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
    ],
)
def test_requests_are_signed_for_the_region_that_the_environment_names(
    environ: dict[str, str], region: str, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\n")
    with scripted_s3(AWS_CONFIG_FILE=str(tmp_path / "config"), **environ) as requests:
        open_store("s3://bars/lake").put("k", b"1")
    assert f"/{region}/s3/aws4_request" in requests[0]["authorization"]


def test_empty_aws_variables_count_as_not_set() -> None:
    empty = dict.fromkeys(
        ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_PROFILE"), ""
    )
    with scripted_s3(**empty) as requests:
        open_store("s3://bars/lake").put("k", b"1")
    assert "x-amz-security-token" not in requests[0]


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "https://", "host"])
@pytest.mark.parametrize("profile", ["", "default"])
def test_an_endpoint_that_is_no_address_names_its_variable(
    endpoint: str, profile: str, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\n")
    environ = {"AWS_PROFILE": profile, "AWS_CONFIG_FILE": str(tmp_path / "config")}
    with (
        scripted_s3(AWS_ENDPOINT_URL_S3=endpoint, **environ),
        pytest.raises(StoreError, match=r"can't open s3://bars/lake: .*AWS_ENDPOINT_URL"),
    ):
        open_store("s3://bars/lake")


def test_an_aws_variable_of_the_client_that_it_can_not_use_is_an_error_of_the_store() -> None:
    with (
        scripted_s3(AWS_CHECKSUM_ALGORITHM="crc7"),
        pytest.raises(StoreError, match=r"can't open s3://bars/lake: .*crc7.*checksum"),
    ):
        open_store("s3://bars/lake")


def test_a_server_that_is_not_there_is_named_with_what_to_check() -> None:
    with scripted_s3() as requests:
        gone = os.environ["AWS_ENDPOINT_URL"]
        store = open_store("s3://bars/lake")
    with pytest.raises(StoreError) as caught:
        store.put("k", b"1")
    assert requests == []
    assert str(caught.value).startswith("can't write s3://bars/lake/k: ")
    assert gone in str(caught.value)
    assert str(caught.value).endswith("check the network, AWS_ENDPOINT_URL_S3 and AWS_REGION")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            (
                400,
                error("InvalidToken", "The token is malformed.", "<Token-0>S3ssionToken</Token-0>"),
            ),
            "400 Bad Request, InvalidToken, The token is malformed.; check AWS_ACCESS_KEY_ID",
        ),
        (
            (
                403,
                error(
                    "SignatureDoesNotMatch",
                    "No match.",
                    "<CanonicalRequest>x-amz-security-token:S3ssionToken</CanonicalRequest>",
                ),
            ),
            "403 Forbidden, SignatureDoesNotMatch, No match.; check AWS_ACCESS_KEY_ID",
        ),
        (
            (404, error("NoSuchBucket", "The bucket does not exist")),
            "404 Not Found, NoSuchBucket, The bucket does not exist; create the bucket",
        ),
        (
            (400, error("AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong")),
            "AuthorizationHeaderMalformed, the region 'us-east-1' is wrong; set AWS_REGION",
        ),
        ((301, error("PermanentRedirect", "elsewhere")), "region; set AWS_REGION to the bucket's"),
        ((403, "<html>S3ssionToken</html>"), "403 Forbidden; check AWS_ACCESS_KEY_ID"),
    ],
)
def test_an_answer_of_s3_becomes_its_gist_and_advice_without_what_it_repeats_of_us(
    answer: Answer, expected: str
) -> None:
    with scripted_s3(answer) as requests, pytest.raises(StoreError) as caught:
        open_store("s3://bars/lake").put("k", b"1")
    shown = "".join(traceback.format_exception(caught.value))
    assert "can't write s3://bars/lake/k: " in shown
    assert expected in shown
    assert "S3ssionToken" not in shown
    assert "S3cretKey" not in shown
    assert len(requests) == 1


def test_importing_the_store_loads_no_heavy_library() -> None:
    program = (
        "import sys; from datalake_assets.storage.store import open_store; open_store('lake');"
        "print([n for n in ('boto3', 'botocore', 'pandas', 'pyarrow', 'dagster')"
        " if n in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.strip() == "[]"


def test_another_program_gets_the_access_of_the_variables_or_of_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    told = open_store("s3://bucket/prefix").s3_access()
    assert told == S3Access("https://s3.eu-west-1.amazonaws.com", "eu-west-1", "a", "hidden", None)
    assert "hidden" not in repr(told)

    shared = tmp_path / "credentials"
    keys = "aws_access_key_id = b\naws_secret_access_key = c\naws_session_token = d"
    shared.write_text(f"[someone]\n{keys}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    monkeypatch.setenv("AWS_PROFILE", "someone")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    found = open_store("s3://bucket/prefix").s3_access()
    assert (found.key_id, found.secret, found.token) == ("b", "c", "d")
    assert (found.endpoint.startswith("https://"), found.region) == (True, "eu-west-1")
