"""Uploads: each object has one result whatever happens, and an end comes when it is asked for.

Not here: the faults of one request (`test_store_faults`).
"""

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click.testing
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from datalake_assets.cli.upload import UploadDisplay
from datalake_assets.cli.upload import upload as upload_command
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.storage.staging import LOCK, STAGING
from datalake_assets.storage.store import ChangedError, StoreError, open_store
from datalake_assets.storage.upload import HOPELESS, Item, Snapshot, files, upload
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.seaweedfs import S3Server
from datalake_assets_tests.storage.s3_proxy import (
    BROKEN,
    DENIED,
    EXPIRED,
    SLOW_DOWN,
    Fault,
    S3Proxy,
    s3_proxy,
)

ROOT = Path(__file__).parents[2]
HANG = 5.0
"""Seconds after which a stop that should take one has not happened."""

QUICK = RetryPolicy(attempts=4, seconds=60, wait_initial=0.001, wait_max=0.002)


def items(number: int, size: int = 10) -> list[Item]:
    return [Item(f"data/{n:05d}", lambda n=n: bytes([n % 256]) * size) for n in range(number)]


class Server:
    """A `send` that fails by a script, and counts.

    Args:
        script: For a key and the number of its attempt, from 1, what goes wrong.
    """

    def __init__(
        self, script: Callable[[str, int], Exception | None] = lambda key, attempt: None
    ) -> None:
        self._script = script
        self._lock = threading.Lock()
        self.attempts: Counter[str] = Counter()
        self.stored: dict[str, bytes] = {}

    def __call__(self, key: str, data: bytes) -> str:
        with self._lock:
            self.attempts[key] += 1
            fault = self._script(key, self.attempts[key])
        if fault is not None:
            raise fault
        self.stored[key] = data
        return f"v-{key}"


def passing() -> StoreError:
    return StoreError("503 SlowDown", transient=True)


def refused() -> StoreError:
    return StoreError("403 AccessDenied; allow this key s3:PutObject there")


# What becomes of each


def test_every_object_arrives_whole_and_is_reported_with_its_version() -> None:
    server, what = Server(), items(50)
    report = upload(what, server, workers=7)
    assert server.stored == {item.key: item.data() for item in what}
    assert report.passed
    assert list(report.uploaded) == [item.key for item in what]
    one = report.uploaded["data/00003"]
    assert (one.key, one.size, one.version, one.attempts) == ("data/00003", 10, "v-data/00003", 1)
    assert (report.failed, report.pending, report.stopped) == ({}, (), "")
    assert (report.bytes, report.retries) == (500, 0)
    assert report.objects_per_second == pytest.approx(50 / report.seconds)


def test_nothing_to_upload_is_done_at_once() -> None:
    report = upload([], Server())
    assert report.passed
    assert report.uploaded == {}
    assert report.objects_per_second == 0 or report.seconds > 0


def test_what_passes_is_sent_again_and_each_retry_is_counted() -> None:
    server = Server(lambda key, attempt: passing() if attempt <= int(key[-1]) % 4 else None)
    report = upload(items(10), server, workers=3, policy=QUICK, clock=FakeClock())
    assert report.passed
    assert [report.uploaded[f"data/0000{n}"].attempts for n in range(4)] == [1, 2, 3, 4]
    assert report.retries == server.attempts.total() - 10 == 0 + 1 + 2 + 3 + 0 + 1 + 2 + 3 + 0 + 1


def test_what_does_not_pass_fails_alone_after_as_many_attempts_as_the_policy_allows() -> None:
    server = Server(lambda key, attempt: passing() if key == "data/00002" else None)
    report = upload(items(5), server, workers=2, policy=QUICK, clock=FakeClock())
    assert list(report.failed) == ["data/00002"]
    assert report.failed["data/00002"].startswith("503 SlowDown (gave up after 4 attempts in ")
    assert server.attempts["data/00002"] == 4
    assert len(report.uploaded) == 4
    assert not report.passed
    assert report.pending == ()


def test_what_is_refused_is_sent_once_and_fails_with_its_reason() -> None:
    server = Server(lambda key, attempt: refused() if key == "data/00002" else None)
    report = upload(items(5), server, workers=2, policy=QUICK)
    assert report.failed == {"data/00002": "403 AccessDenied; allow this key s3:PutObject there"}
    assert server.attempts["data/00002"] == 1
    assert len(report.uploaded) == 4


@pytest.mark.parametrize("error", [OSError("no such file"), StoreError("can't read it")])
def test_an_object_whose_bytes_can_not_be_had_fails_and_is_not_sent(error: Exception) -> None:
    def unreadable() -> bytes:
        raise error

    server = Server()
    report = upload([Item("broken", unreadable), *items(3)], server)
    assert report.failed == {"broken": str(error)}
    assert set(server.stored) == {item.key for item in items(3)}


@pytest.mark.parametrize("where", ["data", "send"])
def test_a_defect_of_the_program_stops_all_and_is_raised(where: str) -> None:
    def defect(*_: object) -> bytes:
        raise KeyError("a defect")

    what = items(2_000)
    if where == "data":
        what[5] = Item("x", defect)
    server = Server((lambda key, n: KeyError("a defect")) if where == "send" else lambda *_: None)
    with pytest.raises(KeyError, match="a defect"):
        upload(what, server, workers=2)


def test_the_bytes_are_made_when_their_turn_comes_and_by_the_thread_that_sends_them() -> None:
    made: list[tuple[str, str]] = []
    alive, most = 0, 0
    lock = threading.Lock()

    def make(key: str) -> bytes:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
            made.append((key, threading.current_thread().name))
        return b"x"

    def send(key: str, data: bytes) -> None:
        nonlocal alive
        with lock:
            assert (key, threading.current_thread().name) in made
            alive -= 1

    upload([Item(f"{n}", lambda n=n: make(f"{n}")) for n in range(200)], send, workers=3)
    assert len(made) == 200
    assert most <= 3


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_as_many_requests_run_at_a_time_as_there_are_workers(workers: int) -> None:
    together = threading.Barrier(workers, timeout=60)
    lock = threading.Lock()
    now, most = 0, 0

    def send(key: str, data: bytes) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()  # all of them are under way, or this breaks
        with lock:
            now -= 1

    assert upload(items(workers * 5), send, workers=workers).passed
    assert most == workers


def test_wrong_orders_are_refused_before_anything_is_sent() -> None:
    server = Server()
    with pytest.raises(ValueError, match="at least one thread, not 0"):
        upload(items(1), server, workers=0)
    with pytest.raises(ValueError, match="'data/00001' occurs twice"):
        upload([*items(3), items(2)[1]], server)
    assert server.stored == {}


FAULTS = st.sampled_from(["", "passes", "passes", "refused", "changed", "unreadable", "stop"])


@settings(max_examples=60)
@given(
    schedule=st.lists(st.lists(FAULTS, max_size=6), max_size=40),
    workers=st.integers(1, 6),
)
def test_each_object_ends_in_exactly_one_place_whatever_goes_wrong(
    schedule: list[list[str]], workers: int
) -> None:
    stop = threading.Event()
    faults = {f"k{number}": list(plan) for number, plan in enumerate(schedule)}

    def data(key: str) -> bytes:
        if "unreadable" in faults[key]:
            raise OSError("unreadable")
        return key.encode()

    def script(key: str, attempt: int) -> Exception | None:
        match faults[key].pop(0) if faults[key] else "":
            case "passes":
                return passing()
            case "refused":
                return refused()
            case "changed":
                return ChangedError("another writer changed it")
            case "stop":
                stop.set()
        return None

    server = Server(script)
    what = [Item(key, lambda key=key: data(key)) for key in faults]
    snapshots: list[Snapshot] = []
    report = upload(
        what,
        server,
        workers=workers,
        policy=QUICK,
        stop=stop,
        display=snapshots.append,
        draw=random.Random(0).random,
    )
    places = Counter([*report.uploaded, *report.failed, *report.pending])
    assert places == Counter(list(faults))
    assert set(report.uploaded) == set(server.stored)
    assert {key: one.attempts for key, one in report.uploaded.items()} == {
        key: server.attempts[key] for key in report.uploaded
    }
    assert report.passed == (not report.failed and not report.pending)
    assert not report.pending or report.stopped
    assert report.bytes == sum(map(len, server.stored.values()))
    ended = report.uploaded.keys() | report.failed.keys()
    sent_again = sum(max(0, server.attempts[key] - 1) for key in ended)
    assert sent_again <= report.retries <= server.attempts.total()
    assert snapshots[-1].final
    assert (snapshots[-1].uploaded, snapshots[-1].failed) == (
        len(report.uploaded),
        len(report.failed),
    )


# An early end


@pytest.mark.parametrize(
    ("failing", "sent"), [(HOPELESS - 1, 100), (HOPELESS, HOPELESS), (100, HOPELESS)]
)
@pytest.mark.parametrize("fault", [refused, passing])
def test_when_one_after_the_other_is_refused_the_rest_is_not_tried(
    failing: int, sent: int, fault: Callable[[], StoreError]
) -> None:
    server = Server(lambda key, attempt: fault() if int(key[-5:]) < failing else None)
    report = upload(items(100), server, workers=1, policy=QUICK, clock=FakeClock())
    assert len(server.attempts) == sent
    assert len(report.failed) == min(failing, HOPELESS)
    assert len(report.pending) == 100 - sent
    if sent == 100:
        assert report.stopped == ""
    else:
        reason = report.failed["data/00000"].partition(" (gave up")[0]
        assert report.stopped.startswith(f"{HOPELESS} objects in a row were refused, the last: ")
        assert reason in report.stopped


def test_failures_between_successes_stop_nothing_however_many() -> None:
    server = Server(lambda key, attempt: refused() if int(key[-1]) else None)
    report = upload(items(200), server, workers=1)
    assert len(report.failed) == 180
    assert report.pending == ()


def test_objects_that_others_changed_or_that_can_not_be_read_say_nothing_about_the_rest() -> None:
    def unreadable() -> bytes:
        raise OSError("unreadable")

    server = Server(lambda key, attempt: ChangedError("changed"))
    report = upload([*items(60), *(Item(f"u{n}", unreadable) for n in range(60))], server)
    assert len(report.failed) == 120
    assert report.pending == ()


class Hanging:
    """A `send` that never comes back for some keys, until the test is over."""

    def __init__(self, hangs: Callable[[str], bool]) -> None:
        self._hangs = hangs
        self.asked, self.over = threading.Event(), threading.Event()

    def __call__(self, key: str, data: bytes) -> None:
        if self._hangs(key):
            self.asked.set()
            self.over.wait(60)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    server = Hanging(lambda key: key >= "data/00010")
    yield server
    server.over.set()


def test_a_stop_ends_an_upload_whose_requests_hang_and_these_are_pending(hanging: Hanging) -> None:
    stop = threading.Event()
    threading.Thread(target=lambda: hanging.asked.wait(60) and stop.set()).start()
    began = time.monotonic()
    report = upload(items(1_000), hanging, workers=4, stop=stop)
    assert time.monotonic() - began < HANG
    assert list(report.uploaded) == [f"data/{n:05d}" for n in range(10)]
    assert len(report.pending) == 990
    assert report.stopped == "stopped"
    hanging.over.set()  # what comes now changes nothing
    assert len(report.pending) == 990


def test_a_stop_ends_the_wait_for_the_next_attempt() -> None:
    stop = threading.Event()

    def script(key: str, attempt: int) -> StoreError:
        stop.set()
        return passing()

    began = time.monotonic()
    policy = RetryPolicy(attempts=9, seconds=600, wait_initial=100, wait_max=100)
    report = upload(items(3), Server(script), stop=stop, policy=policy, draw=lambda: 0.9)
    assert time.monotonic() - began < HANG
    assert len(report.pending) == 3


def test_what_interrupts_the_caller_passes_through_at_once(hanging: Hanging) -> None:
    class TerminatedError(BaseException):
        pass

    def interrupt(snapshot: Snapshot) -> None:
        if hanging.asked.is_set() and not snapshot.final:
            raise TerminatedError

    began = time.monotonic()
    with pytest.raises(TerminatedError):
        upload(items(1_000), hanging, workers=4, display=interrupt)
    assert time.monotonic() - began < HANG


# Progress


def test_a_moment_of_an_upload_tells_pace_and_time_left() -> None:
    moment = Snapshot(1_000, uploaded=240, failed=10, bytes=3_600_000, retries=5, seconds=2.0)
    assert moment.done == 250
    assert moment.objects_per_second == 125
    assert moment.seconds_left == 6
    assert str(moment) == ("250/1,000 objects, 3.6 MB, 125 per second, ✗ 10, 5 retries, 6 s left")
    assert Snapshot(10).seconds_left is None
    assert str(Snapshot(10)) == "0/10 objects, 0.0 MB"


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    console = Console(width=100, force_terminal=False, record=True, file=io.StringIO())
    display = UploadDisplay(console)
    for seconds in (0.1, 4.9, 5.0, 5.1, 9.9, 10.0):
        display(Snapshot(100, uploaded=int(seconds * 2), seconds=seconds))
    display(Snapshot(100, uploaded=100, seconds=11, final=True))
    lines = console.export_text().splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["10/100", "20/100", "100/100"]


def test_progress_on_a_terminal_is_a_bar_that_ends() -> None:
    console = Console(width=120, force_terminal=True, record=True, file=io.StringIO())
    display = UploadDisplay(console)
    display(Snapshot(100, uploaded=40, seconds=2.0))
    display(Snapshot(100, uploaded=100, seconds=5.0, final=True))
    text = console.export_text()
    assert re.search(r"0\.0 MB ━+─+ 40/100 objects 3 s left", text)
    assert re.search(r"0\.0 MB ━+ 100/100 objects", text)


# Files of a folder


def write(folder: Path, *keys: str) -> None:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(key.encode())


def test_the_files_of_a_folder_are_its_objects_sorted_and_read_late(tmp_path: Path) -> None:
    write(tmp_path, "b/2.parquet", "b/1.parquet", "a", "b/year=2024/x", "c")
    found = files(tmp_path)
    assert [item.key for item in found] == ["a", "b/1.parquet", "b/2.parquet", "b/year=2024/x", "c"]
    (tmp_path / "a").write_bytes(b"later")
    assert found[0].data() == b"later"


def test_a_local_lake_is_uploaded_without_what_its_store_keeps_for_itself(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.replace("data/k", b"1", None)
    store.put("_lake.json", b"{}")
    write(tmp_path, f"{STAGING}/1-1", "data/.lock")
    assert (tmp_path / LOCK).exists()
    assert [item.key for item in files(tmp_path)] == ["_lake.json", "data/.lock", "data/k"]


@pytest.mark.parametrize("name", ["a b", "ü", "x?y", "data/~"])
def test_a_name_that_is_no_key_is_told_before_work_starts(tmp_path: Path, name: str) -> None:
    write(tmp_path, "fine", name)
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is not a valid key")):
        files(tmp_path)


def test_links_out_of_the_folder_and_to_folders_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(tmp_path, "secret", "elsewhere/x", "folder/data")
    (folder / "same").symlink_to(folder / "data")
    assert [(item.key, item.data()) for item in files(folder)] == [
        ("data", b"folder/data"),
        ("same", b"folder/data"),
    ]
    for name, target, told in (
        ("link", tmp_path / "secret", "is a link out of"),
        ("folders", tmp_path / "elsewhere", "is a link to a folder"),
        ("loop", folder, "is a link to a folder"),
        ("dangling", folder / "nothing", "is neither a file nor a folder"),
        ("circle", folder / "circle", "is neither a file nor a folder"),
    ):
        (folder / name).symlink_to(target)
        with pytest.raises(ValueError, match=f"{name} {told}"):
            files(folder)
        (folder / name).unlink()


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither a file nor a folder"):
        files(tmp_path)


def test_a_folder_that_is_not_there_or_is_none_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "file")
    with pytest.raises(FileNotFoundError, match="nothing"):
        files(tmp_path / "nothing")
    with pytest.raises(NotADirectoryError, match="file"):
        files(tmp_path / "file")


# The command


app = typer.Typer()
app.command()(upload_command)


def invoke(*arguments: str) -> click.testing.Result:
    result = CliRunner().invoke(app, arguments, prog_name="upload", terminal_width=200)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "what", *(f"data/{n:03d}" for n in range(60)))
    return tmp_path / "what"


@pytest.fixture
def proxy(
    s3_lake_uri: str, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Proxy]:
    with s3_proxy(seaweedfs.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield proxy


def shown(result: click.testing.Result) -> dict[str, str]:
    """The summary's table."""
    rows = re.findall(r"│ ([^│]+?) +│ +([^│]+?) │", result.stdout)
    return dict(rows)


@pytest.mark.s3
def test_the_command_uploads_a_folder_and_exits_with_0(s3_lake_uri: str, folder: Path) -> None:
    result = invoke(str(folder), s3_lake_uri, "--workers", "8")
    assert result.exit_code == 0
    store = open_store(s3_lake_uri)
    assert store.list("") == [f"data/{n:03d}" for n in range(60)]
    assert store.get("data/007") == b"data/007"
    table = shown(result)
    assert (table["objects uploaded"], table["failed"], table["not uploaded"]) == ("60", "0", "0")
    assert int(table["objects per second"].replace(",", "")) > 0
    assert "60/60 objects" in result.stderr


@pytest.mark.s3
def test_of_a_lake_the_command_tells_how_its_symbol_years_are_proved_where_they_are_now(
    s3_lake_uri: str, folder: Path
) -> None:
    write(folder, "_lake.json")
    told = invoke(str(folder), s3_lake_uri).stdout
    assert f"DATALAKE_URI={s3_lake_uri} datalake publish" in told
    assert "This is a lake" not in invoke(str(folder / "data"), s3_lake_uri).stdout


@pytest.mark.s3
def test_the_command_sends_again_what_passes_and_tells_how_often(
    s3_lake_uri: str, folder: Path, proxy: S3Proxy
) -> None:
    proxy.meet(BROKEN, SLOW_DOWN, Fault(reset="request"), Fault(flipped=True))
    result = invoke(str(folder), s3_lake_uri, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["uploaded"] == 60
    assert told["retries"] == 4
    assert told["bytes"] == 60 * len("data/000")
    assert told["to"] == s3_lake_uri
    assert (told["failed"], told["pending"], told["stopped"]) == ({}, [], "")
    assert len(open_store(s3_lake_uri).list("")) == 60


@pytest.mark.s3
def test_the_command_exits_with_1_and_tells_reasons_when_some_failed(
    s3_lake_uri: str, folder: Path, proxy: S3Proxy
) -> None:
    proxy.meet(DENIED, DENIED)
    result = invoke(str(folder), s3_lake_uri, "--workers", "2")
    assert result.exit_code == 1
    assert shown(result)["objects uploaded"] == "58"
    failures = [line for line in result.stderr.splitlines() if line.startswith("✗ ")]
    assert len(failures) == 2
    assert all("403 Forbidden, AccessDenied" in line for line in failures)
    assert len(open_store(s3_lake_uri).list("")) == 58


@pytest.mark.s3
def test_an_expired_token_ends_the_upload_early_and_the_same_command_completes_it(
    s3_lake_uri: str, folder: Path, proxy: S3Proxy
) -> None:
    proxy.meet(*[Fault()] * 10, always=EXPIRED)
    result = invoke(str(folder), s3_lake_uri, "--workers", "1")
    assert result.exit_code == 1
    table = shown(result)
    assert (table["objects uploaded"], table["failed"], table["not uploaded"]) == ("10", "20", "30")
    assert f"{HOPELESS} objects in a row were refused" in result.stderr
    assert "ExpiredToken" in result.stderr
    proxy.meet()
    assert invoke(str(folder), s3_lake_uri).exit_code == 0
    assert len(open_store(s3_lake_uri).list("")) == 60


@pytest.mark.s3
def test_a_key_that_may_not_write_uploads_nothing_and_says_why(
    s3_lake_uri: str, folder: Path, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.environ(seaweedfs.reader).items():
        monkeypatch.setenv(name, value)
    result = invoke(str(folder), s3_lake_uri, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["uploaded"] == 0
    assert HOPELESS <= len(told["failed"]) < 60
    assert len(told["failed"]) + len(told["pending"]) == 60
    assert "AccessDenied" in told["stopped"]
    assert open_store(s3_lake_uri).list("") == []


def test_wrong_input_is_told_before_anything_is_sent(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path, "odd/a b")
    for arguments, told in (
        ((str(tmp_path / "nothing"), "s3://bucket/x"), "No such file or directory"),
        ((str(tmp_path / "empty"), "s3://bucket/x"), "has no files"),
        ((str(tmp_path / "odd"), "s3://bucket/x"), "is not a valid key"),
        ((str(folder), "gs://bucket/x"), "no other scheme"),
        ((str(folder), "memory://"), "is not persistent"),
        ((str(folder), "s3://bucket/x"), "NoCredentials"),
        ((str(folder), str(tmp_path / "out"), "--workers", "0"), "--workers"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
        assert told in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_command_at_once_with_a_summary_though_the_server_hangs(
    folder: Path, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AWS_ACCESS_KEY_ID": "AKID",
            "AWS_SECRET_ACCESS_KEY": "S3cretKey",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        program = (
            "import typer; from datalake_assets.cli.upload import upload;"
            "app = typer.Typer(); app.command()(upload); app()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(folder), "s3://bars/lake", "--json"],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            connection, _ = silent.accept()  # the first request is under way, and stays so
            with connection:
                began = time.monotonic()
                process.send_signal(number)
                answer, errors = process.communicate(timeout=60)
                assert time.monotonic() - began < HANG
    assert process.returncode == 1, errors
    told = json.loads(answer)
    assert told["uploaded"] == 0
    assert len(told["pending"]) == 60
    assert told["stopped"] == "stopped"
