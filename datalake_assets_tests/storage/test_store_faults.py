"""What networks, busy servers, lapsed keys and full disks do to a store: nothing is ever torn.

Not here: what a store promises on a good day (`test_store`), and what becomes of the other objects
of an upload (`test_upload`).
"""

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datalake_assets.storage.store import ChangedError, Store, StoreError, Timeouts, open_store
from datalake_assets_tests.seaweedfs import S3Server
from datalake_assets_tests.storage.s3_proxy import (
    BROKEN,
    DENIED,
    EXPIRED,
    LOST,
    SLOW_DOWN,
    Fault,
    S3Proxy,
    s3_proxy,
)

OLD, NEW = b"old" * 5_000, b"new" * 7_000
HASTY = Timeouts(
    connect=2, read=0.4, request=2, retries=3, retrying=30, wait_initial=0.01, wait_max=0.02
)
ATTEMPTS = HASTY.retries + 1
SILENT = Fault(delay=30)
"""The request is answered long after the client has given up; the server did what it was asked."""

PASSING = {
    "a 500": BROKEN,
    "a 503 SlowDown": SLOW_DOWN,
    "a 429": Fault(429, "TooManyRequests"),
    "an answer that is lost": LOST,
    "a timeout": SILENT,
    "a reset in the middle of the request": Fault(reset="request"),
    "a reset in the middle of the answer": Fault(reset="answer"),
}
REFUSING = {
    "a 400 RequestTimeout": Fault(400, "RequestTimeout"),
    "a changed body": Fault(flipped=True),
}


class Faulty:
    """A store behind a proxy, the proxy, and the way around it to see what really stands there."""

    def __init__(self, uri: str, proxy: S3Proxy, around: Store) -> None:
        self.uri, self.proxy, self.around = uri, proxy, around
        self.store = open_store(uri, timeouts=HASTY)


@pytest.fixture
def faulty(
    s3_lake_uri: str, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faulty]:
    around = open_store(s3_lake_uri)
    around.put("k", OLD)
    with s3_proxy(seaweedfs.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        yield Faulty(s3_lake_uri, proxy, around)


def replace(faulty: Faulty) -> None:
    written = faulty.store.replace("k", NEW, faulty.around.get_versioned("k")[1])
    assert faulty.around.get_versioned("k") == (NEW, written)


def put(faulty: Faulty) -> None:
    faulty.store.put("k", NEW)
    assert faulty.around.get("k") == NEW


def create(faulty: Faulty) -> None:
    created = faulty.store.create("new", NEW)
    assert faulty.around.get("new") == NEW
    # It can't be told that what was found is one's own, when only the answer was lost.
    lost = [passed.status for passed in faulty.proxy.passed] == [200, 412]
    assert created is not lost


def delete(faulty: Faulty) -> None:
    faulty.store.delete("k")
    assert not faulty.around.exists("k")


def get(faulty: Faulty) -> None:
    assert faulty.store.get("k") == OLD


def tail(faulty: Faulty) -> None:
    assert faulty.store.tail("k", 100) == OLD[-100:]


def part(faulty: Faulty) -> None:
    assert faulty.store.part("k", 100, 7).data == OLD[7:107]


def size(faulty: Faulty) -> None:
    assert faulty.store.size("k") == len(OLD)


def listing(faulty: Faulty) -> None:
    assert faulty.store.list("") == ["k"]


WRITES = [put, create, replace]
Work = Callable[[Faulty], None]


@pytest.mark.s3
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("work", [*WRITES, delete, get, tail, part, size, listing])
def test_what_passes_is_not_noticed(faulty: Faulty, work: Work, fault: Fault) -> None:
    faulty.proxy.meet(fault)
    work(faulty)
    assert faulty.proxy.passed


@pytest.mark.s3
@pytest.mark.parametrize("fault", REFUSING.values(), ids=REFUSING)
@pytest.mark.parametrize("work", WRITES)
def test_a_body_that_came_late_or_changed_is_refused_and_sent_again(
    faulty: Faulty, work: Work, fault: Fault
) -> None:
    faulty.proxy.meet(fault, fault)
    work(faulty)
    assert [passed.status for passed in faulty.proxy.passed] in ([0, 0, 200], [400, 400, 200])


@pytest.mark.s3
@pytest.mark.parametrize("work", [*WRITES, delete, get, tail, part, size, listing])
@pytest.mark.parametrize("fault", [BROKEN, SLOW_DOWN, Fault(reset="request")], ids=repr)
def test_what_does_not_pass_is_an_error_that_says_so_and_changes_nothing_by_halves(
    faulty: Faulty, work: Work, fault: Fault
) -> None:
    faulty.proxy.meet(always=fault)
    with pytest.raises(StoreError) as caught:
        work(faulty)
    assert caught.value.transient
    assert not isinstance(caught.value, ChangedError)
    assert faulty.uri in str(caught.value)
    assert "run it again later" in str(caught.value) or "check the network" in str(caught.value)
    assert 2 <= faulty.proxy.requests <= ATTEMPTS * ATTEMPTS
    for key, data in (("k", OLD), ("new", None)):
        if faulty.around.exists(key):
            assert faulty.around.get(key) in (data, NEW)


@pytest.mark.s3
@pytest.mark.parametrize("work", WRITES)
def test_who_tries_again_himself_gets_each_failure_at_once(faulty: Faulty, work: Work) -> None:
    faulty.store = open_store(faulty.uri, retry=False, timeouts=HASTY)
    for fault in (BROKEN, Fault(reset="request"), Fault(flipped=True)):
        faulty.proxy.meet(always=fault)
        with pytest.raises(StoreError) as caught:
            work(faulty)
        assert caught.value.transient
        assert faulty.proxy.requests == 1
    assert faulty.around.get("k") == OLD
    assert faulty.around.list("") == ["k"]


@pytest.mark.s3
@pytest.mark.parametrize("work", WRITES)
def test_a_body_that_always_arrives_changed_is_never_stored(faulty: Faulty, work: Work) -> None:
    faulty.proxy.meet(always=Fault(flipped=True))
    with pytest.raises(StoreError, match="400 Bad Request, BadDigest.*changed in transit") as error:
        work(faulty)
    assert error.value.transient
    assert faulty.proxy.requests == ATTEMPTS
    assert faulty.around.get("k") == OLD
    assert faulty.around.list("") == ["k"]


@pytest.mark.s3
@pytest.mark.parametrize(
    ("fault", "code", "advice"),
    [
        (DENIED, "403 Forbidden, AccessDenied", "allow this key s3:ListBucket, s3:GetObject, s3:P"),
        (EXPIRED, "400 Bad Request, ExpiredToken", "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_"),
        (
            Fault(403, "RequestTimeTooSkewed"),
            "403 Forbidden, RequestTimeTooSkewed",
            "correct this machine's clock",
        ),
    ],
)
@pytest.mark.parametrize("work", [*WRITES, delete, get, tail, part, listing])
def test_a_refusal_is_told_at_once_with_what_to_do(
    faulty: Faulty, work: Work, fault: Fault, code: str, advice: str
) -> None:
    faulty.proxy.meet(always=fault)
    with pytest.raises(StoreError) as caught:
        work(faulty)
    assert f": {code}, scripted; {advice}" in str(caught.value)
    assert not caught.value.transient
    assert faulty.proxy.requests == 1
    assert faulty.around.get("k") == OLD
    assert faulty.around.list("") == ["k"]


@pytest.mark.s3
@pytest.mark.parametrize("fault", [DENIED, EXPIRED], ids=["denied", "expired"])
def test_a_refused_look_has_no_reason_so_the_keys_are_to_be_checked(
    faulty: Faulty, fault: Fault
) -> None:
    faulty.proxy.meet(always=fault)
    with pytest.raises(StoreError, match=f"{fault.status} .*; check AWS_ACCESS_KEY_ID"):
        faulty.store.exists("k")


@pytest.mark.s3
def test_a_token_that_expires_in_the_middle_leaves_what_was_written_and_no_more(
    faulty: Faulty,
) -> None:
    faulty.proxy.meet(Fault(), Fault(), always=EXPIRED)
    faulty.store.put("data/0", NEW)
    faulty.store.put("data/1", NEW)
    with pytest.raises(StoreError, match="ExpiredToken"):
        faulty.store.put("data/2", NEW)
    assert faulty.around.list("data") == ["data/0", "data/1"]
    assert faulty.around.get("data/1") == NEW


@pytest.mark.s3
def test_a_conflict_of_two_writers_is_one_that_can_pass(faulty: Faulty) -> None:
    faulty.proxy.meet(always=Fault(409, "ConditionalRequestConflict"))
    version = faulty.around.get_versioned("k")[1]
    with pytest.raises(StoreError, match="409 Conflict, ConditionalRequestConflict") as caught:
        faulty.store.replace("k", NEW, version)
    assert caught.value.transient
    for fault in (Fault(409, "ConditionalRequestConflict"), Fault(409, "OperationAborted")):
        faulty.proxy.meet(fault, fault)
        version = faulty.store.replace("k", NEW, version)
        faulty.proxy.meet(fault)
        assert faulty.store.create(f"new-{fault.code}", NEW)


@pytest.mark.s3
@pytest.mark.parametrize("fault", [LOST, SILENT, Fault(reset="answer")], ids=repr)
def test_an_update_of_somebody_else_is_not_taken_for_ones_own_lost_one(
    faulty: Faulty, fault: Fault
) -> None:
    version = faulty.around.get_versioned("k")[1]
    faulty.around.put("k", b"theirs")
    faulty.proxy.meet(fault)
    with pytest.raises(ChangedError):
        faulty.store.replace("k", NEW, version)
    assert faulty.around.get("k") == b"theirs"


@pytest.mark.s3
@pytest.mark.parametrize("retry", [True, False])
@pytest.mark.parametrize("work", [*WRITES, get, listing])
def test_a_silent_server_is_left_after_the_time_that_was_given(
    faulty: Faulty, work: Work, retry: bool
) -> None:
    timeouts = Timeouts(connect=2, read=0.2, retries=150, retrying=0.5, wait_max=0.05)
    faulty.store = open_store(faulty.uri, retry=retry, timeouts=timeouts)
    faulty.proxy.meet(always=SILENT)
    began = time.monotonic()
    with pytest.raises(StoreError, match="check the network") as caught:
        work(faulty)
    assert caught.value.transient
    # Fifty retries would take three times that.
    assert time.monotonic() - began < 10
    assert faulty.around.get("k") in (OLD, NEW)


@pytest.mark.s3
@pytest.mark.parametrize("work", [*WRITES, delete, get, tail, part, listing])
def test_a_missing_bucket_is_no_missing_object(faulty: Faulty, work: Work) -> None:
    # SeaweedFS answers so to reads only: a write of an administrator makes the bucket.
    faulty.proxy.meet(always=Fault(404, "NoSuchBucket"))
    with pytest.raises(StoreError, match="404 Not Found, NoSuchBucket.*; create the b") as caught:
        work(faulty)
    assert not caught.value.transient
    assert faulty.proxy.requests <= 2


@pytest.mark.s3
@pytest.mark.parametrize("part", [0, 1], ids=["id", "secret"])
def test_a_wrong_key_is_no_failure_that_passes_and_is_shown_nowhere(
    faulty: Faulty, seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    keys = list(seaweedfs.admin)
    keys[part] = "Wr0ngValue"
    for name, value in seaweedfs.environ((keys[0], keys[1])).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="check AWS_ACCESS_KEY_ID") as caught:
        open_store(faulty.uri).replace("k", NEW, None)
    assert not caught.value.transient
    shown = "".join(traceback.format_exception(caught.value))
    assert "Wr0ngValue" not in shown
    assert seaweedfs.admin[1] not in shown
    assert faulty.around.get("k") == OLD


# A local disk


FILL = """
import sys
from datalake_assets.storage.store import StoreError, open_store
store = open_store(sys.argv[1])
store.put("data/k", b"old")
version = store.get_versioned("data/k")[1]
big = b"x" * (1 << 20)
for write in (
    lambda: store.put("data/k", big),
    lambda: store.create("data/new", big),
    lambda: store.replace("data/k", big, version),
):
    try:
        write()
    except StoreError as error:
        print(error.transient, error)
assert store.get("data/k") == b"old"
assert store.list("") == ["data/k"], store.list("")
store.put("data/k", b"small")
assert store.get("data/k") == b"small"
"""


def test_a_file_that_may_not_grow_that_large_is_an_error_and_leaves_the_old_one(
    tmp_path: Path,
) -> None:
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1 << 16, 1 << 16))"
    ran = subprocess.run(
        [sys.executable, "-c", limit + FILL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("False can't ")
        assert "File too large" in line
        assert line.endswith("raise this process's limit of a file's size (ulimit -f)")


def test_a_full_disk_is_an_error_with_advice_and_leaves_the_old_object(tmp_path: Path) -> None:
    # A disk of 256 KiB that only this process sees: a user may mount it in a namespace of his own.
    mount = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    disk = f"mount -t tmpfs -o size=256k tmpfs {tmp_path}"
    try:
        subprocess.run([*mount, disk], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine lets nobody mount a small disk: {error}")
    ran = subprocess.run(
        [*mount, f'{disk} && exec "$0" -c "$1" "$2"', sys.executable, FILL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("False can't ")
        assert "No space left on device" in line
        assert line.endswith("free some space")
