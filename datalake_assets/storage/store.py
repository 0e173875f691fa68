"""Named objects in a local folder, an S3 bucket or memory, through one interface.

Here: bytes under keys, written whole or not at all, and errors that a person can act on. Not here:
which keys exist and what is in them (the rest of `lake`).

What `obstore` guarantees, and what it doesn't:

- A folder is obstore's to list; the rest is the system's own calls (`staging`). An object is
  written in `.staging` and then renamed (`put`) or hard-linked (`create`) to its place; obstore
  would stage it beside its place, where programs that read a folder take it for data. A killed
  process leaves the old object or the new one, and maybe a file in `.staging`. Nothing is fsynced:
  after a power cut an object that was written in the last seconds may be short, which its reader
  (Parquet's footer) notices.
- S3: one signed PUT, visible when it is complete; `create` sends `If-None-Match: *`, `replace`
  sends `If-Match`. The signature covers the body's SHA-256, but not every server compares the two
  (SeaweedFS 4.48 does not): `x-amz-checksum-sha256`, which is sent too, makes it refuse a body
  that changed on its way.
- obstore sends again what failed with a 5xx, 429 or, if it may be repeated, on the network. It does
  not take a conditional write or a removal for repeatable, nor a 400 or a broken listing for
  passing. Ours are: each can tell what the lost request did.

A folder has no conditional replacement, so it is made of a lock and a comparison.

obstore's threads don't survive a fork: a child that calls it waits for ever, on S3 even with a
store of its own. It is told so instead (`require_unforked`).
"""

import builtins
import errno
import functools
import os
import random
import re
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, MemoryStore, S3Store

from datalake_assets.settings import lake_location
from datalake_assets.storage.staging import LOCK, STAGING, Staging, read_file

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import S3Config, S3Credential, S3CredentialProvider

Backend = LocalStore | MemoryStore | S3Store
Given = ParamSpec("Given")
Answer = TypeVar("Answer")

THREADS = 16
"""That read or write several objects of a store at once, where nobody says how many."""

_KEY = re.compile(r"(?!\.\.?(/|$))[A-Za-z0-9._=-]+(/(?!\.\.?(/|$))[A-Za-z0-9._=-]+)*")
_NAMED_LIKE_A_FILE = re.compile(r".+\.(parquet|json|html)")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The timeouts and retries for S3, so that a bucket that does not answer is an error.

    Args:
        connect: Seconds to connect.
        read: Seconds without a byte of the answer.
        request: Seconds of one request in all.
        retries: How often a request that failed temporarily is retried.
        retrying: Seconds from its start after which it is not retried.
        wait_initial: Seconds of the first wait, about; it doubles with each.
        wait_max: Seconds of the longest wait.
    """

    connect: float = 5.0
    read: float = 20.0
    request: float = 120.0
    retries: int = 8
    retrying: float = 60.0
    wait_initial: float = 0.3
    wait_max: float = 10.0

    def waits(self) -> Iterator[float]:
        """The waits before the retries, in seconds: exponential with full jitter."""
        for number in range(self.retries):
            yield random.random() * min(self.wait_max, self.wait_initial * 2.0**number)


TIMEOUTS = Timeouts()


@dataclass(frozen=True, slots=True)
class S3Access:
    """How another program reaches the bucket of a lake; the secret is in no `repr`.

    Args:
        endpoint: A URL.
        region: Its region.
        key_id: The access key.
        secret: The secret key.
        token: The session token of temporary credentials, which expire.
    """

    endpoint: str
    region: str
    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(repr=False)


_process: int | None = None
"""The process that used a store first; its forks inherit the number, and no thread."""


def require_unforked() -> None:
    """Refuse to wait for threads that this process was forked without.

    Raises:
        StoreError: It was forked from one that had used a store.
    """
    global _process
    if _process is None:
        _process = os.getpid()
    elif _process != os.getpid():
        raise StoreError(
            "this process was forked from one that had used a lake, and the lake's threads don't "
            "survive a fork: use multiprocessing.get_context('spawn') or threads, or open the "
            "lake only in the children"
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of an object.

    Args:
        data: The bytes.
        version: The object's version; two parts with the same are of the same object.
        size: The object's length in bytes.
    """

    data: bytes = field(repr=False)
    version: str
    size: int


class StoreError(RuntimeError):
    """A failed operation of the store: what was attempted, what came back, what to do.

    Attributes:
        transient: Whether a retry may succeed: the store was overloaded, down, or did not answer.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class ChangedError(StoreError):
    """Another writer changed the object in the meantime; it was not overwritten."""


class BrokenFileError(RuntimeError):
    """An object could be read, but its content is damaged."""


class UnreadableError(StoreError, BrokenFileError):
    """A file of a local folder can't be read for lack of permission.

    Other objects are not affected, so code that skips broken files skips this one as well.

    Attributes:
        repair: The command that grants the permission.
    """

    def __init__(self, message: str, *, repair: str) -> None:
        super().__init__(message)
        self.repair = repair


def _sent_again(
    method: Callable[Concatenate["Store", Given], Answer],
) -> Callable[Concatenate["Store", Given], Answer]:
    """Retries what obstore does not, within the store's `Timeouts`."""

    @functools.wraps(method)
    def patient(store: "Store", /, *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        until = time.monotonic() + store.timeouts.retrying
        for wait in store.timeouts.waits():
            try:
                return method(store, *args, **kwargs)
            except StoreError as error:
                sent_again = not _NOT_SENT_AGAIN.search(str(error))
                if not error.transient or sent_again or time.monotonic() > until:
                    raise
            time.sleep(wait)
        return method(store, *args, **kwargs)

    return patient


class Store:
    """Objects under keys like `data/ticks/x.parquet`; made by `open_store`, shared by threads.

    A key is relative: segments of A-Z, a-z, 0-9 and `._=-` between single slashes, none of them
    `.` or `..`. Any other raises ValueError before the store is touched.

    Every method raises StoreError when the store refuses or can't be reached.
    """

    def __init__(
        self,
        uri: str,
        *,
        base: str,
        backend: Backend | None = None,
        root: Path | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.uri = uri
        self.timeouts = timeouts or Timeouts(retries=0)
        self._base = base
        self._backend = backend
        self._root = root  # of a local folder, which the first write makes
        self._staging = Staging(root) if root else None

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    @property
    def near(self) -> bool:
        """Whether it is a folder: nobody waits for an answer, and no request costs anything."""
        return self._root is not None

    def readers(self, most: int = THREADS) -> int:
        """Threads that read it fastest, of so many at most.

        Over a network they wait side by side. In a folder nobody waits: more than four only take
        Python's lock from each other, and 32 take half as long again.
        """
        return min(most, 4) if self.near else most

    def writers(self, most: int = THREADS) -> int:
        """Threads that write small objects to it at the least cost, of so many at most.

        As for `readers`; in a folder two of them take a quarter more than one, and as long.
        """
        return min(most, 1) if self.near else most

    def get(self, key: str) -> bytes:
        """The object's bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._attempt("read", key) as backend:
            found = self._from_file(key)
            return obstore.get(backend, key).bytes().to_bytes() if found is None else found

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """The object's bytes, and its version, which changes when they do.

        On S3 the version is the ETag.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._attempt("read", key) as backend:
            if self._staging and isinstance(backend, LocalStore):
                read = self._staging.read(backend, key)
                if read is not None:
                    return read
            found = obstore.get(backend, key)
            return found.bytes().to_bytes(), _version(found.meta["e_tag"], key)

    def tail(self, key: str, length: int) -> bytes:
        """The object's last `length` bytes (all of them when it is shorter), in one request.

        Raises:
            FileNotFoundError: there is none.
        """
        if length < 1:
            raise ValueError(f"length={length}: at least one byte")
        with self._attempt("read the end of", key) as backend:
            if (end := self._from_file(key, length)) is not None:
                return end
            try:
                found = obstore.get(backend, key, options={"range": {"suffix": length}})
                return found.bytes().to_bytes()
            except BaseError as error:
                # S3 answers 416 when there is no last byte to give.
                if "416 Range Not Satisfiable" in str(error):
                    return b""
                raise

    def part(self, key: str, length: int, start: int | None = None) -> Part:
        """Some bytes of the object, in one request, and the version that they are of.

        Between two requests the object may be replaced, so who puts parts together compares their
        versions. They are of parts alone: `versions` of a folder tells others.

        Args:
            key: Which object.
            length: How many bytes, at least one; fewer come where the object ends.
            start: The first of them, inside the object; None: they are the last ones.

        Raises:
            FileNotFoundError: there is none.
        """
        if length < 1 or (start is not None and start < 0):
            raise ValueError(f"length={length}, start={start}: at least one byte, from 0 on")
        with self._attempt("read a part of", key) as backend:
            if self._root is not None:
                data, told = read_file(self._base + checked_key(key), length, start)
                return Part(data, f"{told.st_ino}-{told.st_mtime_ns}-{told.st_size}", told.st_size)
            ask: GetOptions = {
                "range": {"suffix": length} if start is None else (start, start + length)
            }
            found = obstore.get(backend, key, options=ask)
            version = _version(found.meta["e_tag"], key)
            return Part(found.bytes().to_bytes(), version, found.meta["size"])

    def size(self, key: str) -> int:
        """The object's length in bytes.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._attempt("look up", key) as backend:
            return obstore.head(backend, key)["size"]

    def exists(self, key: str) -> bool:
        """Whether there is such an object.

        S3's answer has no body, so a bucket that is missing looks like an object that is missing.
        """
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    @_sent_again
    def put(self, key: str, data: bytes) -> None:
        """Writes the object, or replaces it: readers see the old bytes or the new, never a mix."""
        with self._attempt("write", key, making=True) as backend:
            if self._staging and isinstance(backend, LocalStore):
                self._staging.put(backend, key, data)
            else:
                obstore.put(backend, key, data, use_multipart=False)

    @_sent_again
    def copy(self, source: str, key: str) -> None:
        """Writes an object's bytes under another key, or replaces what is there, in one step.

        On S3 the server does it, in one request. Either object can be replaced or removed without
        the other. A source that is replaced meanwhile is copied as it was, or as it is then.

        Raises:
            FileNotFoundError: there is no source.
        """
        with self._attempt("copy", source, making=True) as backend:
            if self._staging and isinstance(backend, LocalStore):
                self._staging.copy(backend, checked_key(source), checked_key(key))
            else:
                obstore.copy(backend, source, checked_key(key))

    @_sent_again
    def create(self, key: str, data: bytes) -> bool:
        """Writes the object unless there is one; of several writers exactly one gets True.

        False: there is one already, and it was left as it is. On S3 a lost answer is asked for
        again, so one's own object may be what was found: who must know compares the bytes.
        """
        with self._attempt("create", key, making=True) as backend:
            if self._staging and isinstance(backend, LocalStore):
                return self._staging.create(backend, key, data) is not None
            try:
                obstore.put(backend, key, data, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                # Somebody else was writing or removing it: it may not be there after all.
                if _CONFLICT.search(str(error)):
                    raise
                return False
        return True

    @_sent_again
    def replace(self, key: str, data: bytes, version: str | None) -> str:
        """Writes the object if nobody else did: readers see the old bytes or the new, never a mix.

        Args:
            key: Which object.
            data: Its new bytes.
            version: What it is to replace, as `get_versioned`, `versions` or `replace` told it;
                None: there must be no such object.

        Returns:
            The version that was written.

        Raises:
            ChangedError: The object has another version, or other bytes where none were expected.
                The same bytes, whoever wrote them, are no change.
        """
        with self._attempt("write", key, making=True) as backend:
            if self._staging and isinstance(backend, LocalStore):
                if version is None:
                    told = self._staging.create(backend, key, data)
                else:
                    told = self._staging.replace(backend, key, data, version)
                if told is None:
                    raise ChangedError(_changed(self.url(key)))
                return told
            try:
                written = obstore.put(
                    backend,
                    key,
                    data,
                    mode="create" if version is None else {"e_tag": version},
                    use_multipart=False,
                )
                return _version(written["e_tag"], key)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                pass
        # A lost answer is asked for again, so it may be one's own object that stands there.
        with suppress(FileNotFoundError):
            found, now = self.get_versioned(key)
            if found == data:
                return now
        raise ChangedError(_changed(self.url(key)))

    @_sent_again
    def delete(self, key: str) -> None:
        """Removes the object; it is fine when there is none."""
        try:
            with self._attempt("delete", key) as backend:
                if self._staging:
                    self._staging.delete(key)
                else:
                    obstore.delete(backend, key)
        except FileNotFoundError:
            return

    def list(self, prefix: str = "") -> builtins.list[str]:
        """The keys below the folder `prefix` and its folders, sorted; "" means everything."""
        return [found["path"] for found in self._listed(prefix)]

    def modified(self, prefix: str = "") -> dict[str, datetime]:
        """The keys below the folder `prefix` and its folders, and when each was written (UTC).

        By the store's clock, on S3 in whole seconds.
        """
        return {found["path"]: found["last_modified"] for found in self._listed(prefix)}

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The keys below the folder `prefix` and its folders, ascending, and their bytes."""
        return {found["path"]: found["size"] for found in self._listed(prefix)}

    def versions(self, prefix: str = "") -> dict[str, str]:
        """The keys below the folder `prefix` and its folders, ascending, and their versions."""
        return {found["path"]: _version(found["e_tag"], prefix) for found in self._listed(prefix)}

    def url(self, key: str) -> str:
        """Where a person finds the object: a path, or `s3://…`."""
        return self._base + checked_key(key)

    def foreign(self, prefix: str = "") -> builtins.list[str]:
        """Names below the folder `prefix` that stand in the way and are no objects, sorted.

        Files whose names are no keys; in a folder also links that lead nowhere, pipes, and folders
        that are named like a file. What is in such a folder is not named besides.
        """
        folder = prefix.removesuffix("/")
        if self._root is None:
            return [found["path"] for found in self._everything(prefix) if not _is_key(found)]
        if folder:
            checked_key(folder)
        if not self._root.is_dir():
            return []
        with self._attempt("list", folder or None):
            return sorted(_strangers(self._root / folder, f"{folder}/" if folder else ""))

    def leftovers(self) -> builtins.list[str]:
        """Where files lie that killed writers staged, sorted; only a local folder can hold such.

        The next writer of the lake removes them.
        """
        if self._root is None or self._staging is None or not self._root.is_dir():
            return []
        with self._attempt("list", STAGING):
            return [str(path) for path in self._staging.abandoned()]

    def place(self, name: str) -> str:
        """Where a person finds what has this name, which may be no key: as `foreign` gave it."""
        return self._base + name

    def s3_access(self) -> S3Access:
        """How another program reaches the bucket, with what this one was given or found.

        Raises:
            ValueError: The store is no bucket.
            StoreError: The credentials can't be had.
        """
        bucket = self._backend
        if not isinstance(bucket, S3Store):
            raise ValueError(f"{self.uri} is no bucket")
        config = dict[str, Any](bucket.config)  # with the names that obstore gives it
        with self._attempt("find credentials for", None):
            found: Any = bucket.credential_provider() if bucket.credential_provider else {}
        return S3Access(
            config["endpoint_url_s3"],
            config["region"],
            found["access_key_id"],
            found["secret_access_key"],
            found.get("token"),
        )

    def _listed(self, prefix: str) -> "builtins.list[ObjectMeta]":
        return [entry for entry in self._everything(prefix) if _is_key(entry)]

    @_sent_again
    def _everything(self, prefix: str) -> "builtins.list[ObjectMeta]":
        folder = prefix.removesuffix("/")
        try:
            with self._attempt("list", folder or None) as backend:
                pages = obstore.list(backend, folder or None, chunk_size=1000)
                found = [entry for page in pages for entry in page]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda entry: entry["path"])

    def _from_file(self, key: str, length: int | None = None) -> bytes | None:
        """A file, or its last `length` bytes; None where obstore reads it, or says why not.

        obstore hands every read to a thread of its own, and a small file takes three times as long.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if self._root is None:
            return None
        try:
            return read_file(self._base + key, length)[0]
        except FileNotFoundError:
            raise
        except OSError:
            return None

    @contextmanager
    def _attempt(self, verb: str, key: str | None, *, making: bool = False) -> Iterator[Backend]:
        """Gives the backend, and turns its errors into ours."""
        require_unforked()
        place = self.uri if key is None else self.url(key)
        try:
            if self._backend is None:
                # LocalStore demands that its root exists; reading must not make it.
                if not making and self._root is not None and not self._root.is_dir():
                    raise FileNotFoundError(f"can't {verb} {place}: there is no such folder")
                self._backend = LocalStore(self._root, mkdir=making)
            yield self._backend
        except FileNotFoundError as error:
            what = _what_came_back(error)
            if "NoSuchBucket" in what:
                raise StoreError(_message(verb, place, what)) from _without_body(error)
            raise FileNotFoundError(f"can't {verb} {place}: it does not exist") from (
                _without_body(error)
            )
        except (BaseError, OSError) as error:
            what = _what_came_back(error)
            if self._root is not None and key is not None and verb.startswith("read"):
                self._demand_the_right_to_read(key, what, error)
            raise StoreError(
                _message(verb, place, what), transient=_TRANSIENT.search(what) is not None
            ) from _without_body(error)

    def _demand_the_right_to_read(self, key: str, what: str, cause: Exception) -> None:
        """Tell apart one file that may not be read from a store that can't be."""
        place = self.url(key)
        # isfile() says no where a folder above may not be looked into.
        if re.search(r"os error (1|13)\)", what) and os.path.isfile(place):  # noqa: PTH113
            raise UnreadableError(
                f"can't read {place}: {os.strerror(errno.EACCES)}; give this user the right to "
                "read it",
                repair=f"chmod u+r {shlex.quote(place)}",
            ) from _without_body(cause)


def open_store(uri: str, *, retry: bool = True, timeouts: Timeouts = TIMEOUTS) -> Store:
    """The store at `uri`: a local path, `file:///path`, `s3://bucket/prefix` or `memory://`.

    Nothing is made and no object is asked for until a method is called. A relative path means the
    folder it means now. Each `memory://` is a new, empty store. S3 follows AWS's standard chain:
    its variables, then profile, shared files and what the machine provides.

    Args:
        uri: Where.
        retry: Whether a request to S3 that failed in a way that can pass is sent again, for a
            minute at most; False for callers who do so themselves.
        timeouts: How long S3 is waited for.

    Raises:
        ValueError: `uri` names no place that a lake can be in.
        StoreError: S3 without usable credentials.
    """
    try:
        kind, place = lake_location(uri)
    except ValueError as error:
        raise ValueError(f"can't open a lake: its URI {error}") from None
    match kind:
        case "path":
            root = Path(place).expanduser().resolve()
            shown = uri if uri.startswith("file:") else str(root)
            return Store(shown, base=f"{root}/", root=root)
        case "memory":
            return Store(uri, base="memory:///", backend=MemoryStore())
        case "s3":
            timeouts = timeouts if retry else replace(timeouts, retries=0)
            backend = _open_s3(place, timeouts)
            return Store(f"s3://{place}", base=f"s3://{place}/", backend=backend, timeouts=timeouts)


def _open_s3(place: str, timeouts: Timeouts) -> S3Store:
    bucket, _, prefix = place.partition("/")
    uri = f"s3://{place}"
    # Everything is handed over by name: obstore also reads the environment, but there an empty
    # variable (compose files are full of them) is a value to it, on which it panics.
    access_key, secret_key = variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")
    endpoint = variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    region = variable("AWS_REGION", "AWS_DEFAULT_REGION")
    profile = variable("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
    if access_key and secret_key and not profile and (region or endpoint):
        provider = _static(access_key, secret_key, variable("AWS_SESSION_TOKEN"))
        region = region or "us-east-1"
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = endpoint or f"https://s3.{region}.{domain}"
    else:
        provider, region, endpoint = _aws_chain(uri, region)
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StoreError(
            f"can't open {uri}: its endpoint, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, must be"
            " a URL like https://host:9000"
        )
    config: S3Config = {
        "region": region,
        "aws_endpoint_url_s3": endpoint,
        "disable_bulk_delete": True,  # which some S3-compatible servers lack
        "checksum_algorithm": variable("AWS_CHECKSUM_ALGORITHM") or "sha256",
    }
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={
                "connect_timeout": timedelta(seconds=timeouts.connect),
                "read_timeout": timedelta(seconds=timeouts.read),
                "timeout": timedelta(seconds=timeouts.request),
                "allow_http": parts.scheme == "http",
            },
            retry_config={
                "max_retries": timeouts.retries,
                "retry_timeout": timedelta(seconds=timeouts.retrying),
                "backoff": {
                    "init_backoff": timedelta(seconds=timeouts.wait_initial),
                    "max_backoff": timedelta(seconds=timeouts.wait_max),
                    "base": 2,
                },
            },
            credential_provider=provider,
        )
    except BaseError as error:  # of another AWS_* variable that obstore reads
        raise StoreError(_message("open", uri, _what_came_back(error))) from error


def variable(*names: str) -> str | None:
    """The first of these variables of the environment that is set and not empty."""
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _static(access_key: str, secret_key: str, token: str | None) -> "S3CredentialProvider":
    def provide() -> "S3Credential":
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": token,
            "expires_at": None,
        }

    return provide


def _aws_chain(uri: str, region: str | None) -> "tuple[S3CredentialProvider, str, str]":
    """Credentials, region and endpoint, as AWS's own tools would find them.

    From boto3, whose import costs half a second.
    """
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session(region_name=region)  # it reads AWS_DEFAULT_REGION only
        found = session.get_credentials()
        endpoint: str = session.client("s3").meta.endpoint_url
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no address
        raise StoreError(_message("open", uri, f"{type(error).__name__}: {error}")) from error
    if found is None:
        raise StoreError(_message("open", uri, "NoCredentials: AWS's chain found none"))
    return Boto3CredentialProvider(session), session.region_name or "us-east-1", endpoint


def checked_key(key: str) -> str:
    """The key, if it is one.

    Raises:
        ValueError: It is none.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"{key!r} is not a valid key: segments of A-Z, a-z, 0-9 and ._=- between single "
            "slashes, none of them . or .."
        )
    return key


def _is_key(entry: "ObjectMeta") -> bool:
    """Is it an object of the lake, and nothing that the store keeps for itself?"""
    path = entry["path"]
    return _KEY.fullmatch(path) is not None and not _own(path)


def _own(name: str) -> bool:
    return name in (LOCK, STAGING) or name.startswith(f"{STAGING}/")


def _strangers(folder: Path, below: str) -> Iterator[str]:
    """What is no object in a folder whose names begin with `below`, and in its folders."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        name = below + entry.name
        if _own(name):
            continue
        try:
            mode = entry.stat().st_mode
        except OSError:  # a link to nothing, or to itself
            mode = 0
        if stat.S_ISDIR(mode) and not _NAMED_LIKE_A_FILE.fullmatch(entry.name):
            yield from _strangers(Path(entry.path), f"{name}/")
        elif not stat.S_ISREG(mode) or not _KEY.fullmatch(name):
            yield name


_CHECK_KEYS = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, with temporary keys, AWS_SESSION_TOKEN;"
    " or AWS_PROFILE and the files it refers to"
)
_CONFLICT = re.compile(r"ConditionalRequestConflict|OperationAborted")
_TRANSIENT = re.compile(
    rf"SlowDown|RequestTimeout|BadDigest|{_CONFLICT.pattern}"
    r"|^(408|429|5[0-9][0-9]) |HTTP error"
)
_NOT_SENT_AGAIN = re.compile(
    rf"RequestTimeout|BadDigest|{_CONFLICT.pattern}"
    r"|^(?!.* after [0-9]+ retries).*HTTP error"
)

_ADVICE = (
    (r"NoSuchBucket", "create the bucket, or correct the lake's URI (DATALAKE_URI)"),
    (
        r"SignatureDoesNotMatch|InvalidAccessKeyId|Token|[Cc]redentials|ProfileNotFound|^401 ",
        _CHECK_KEYS,
    ),
    (r"RequestTimeTooSkewed", "correct this machine's clock"),
    (
        r"redirect|AuthorizationHeaderMalformed",
        "set AWS_REGION to the bucket's region",
    ),
    (
        r"AccessDenied",
        "allow this key s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject there",
    ),
    (r"^40[03] [^,]*$", _CHECK_KEYS),  # a HEAD's answer, which has no body that says more
    (r"^403 ", _CHECK_KEYS),
    (r"BadDigest", "the object was changed in transit: run it again"),
    (r"SlowDown|^429 |^5[0-9][0-9] ", "the server is overloaded or down: run it again later"),
    (r"HTTP error|Invalid endpoint", "check the network, AWS_ENDPOINT_URL_S3 and AWS_REGION"),
    (
        r"^can't (read|look up|list) .*os error (1|13)\)",
        "give this user the right to read it (chmod u+r, for a folder u+rx)",
    ),
    (r"os error (1|13|30)\)", "give this user the right to write there"),
    (
        r"os error 18\)",
        "the lake's folder and a folder in it are on two file systems: put all of it on one",
    ),
    (r"os error (28|122)\)", "free some space"),
    (r"os error 27\)", "raise this process's limit of a file's size (ulimit -f)"),
    (r"os error (2|17|20|21)\)", "something else is there: move it, or choose another folder"),
)


def _changed(place: str) -> str:
    return (
        f"can't write {place}: another writer changed it in the meantime, and that version was "
        "kept; run this again to start from it"
    )


def _version(e_tag: str | None, key: str) -> str:
    if e_tag is None:
        raise StoreError(
            f"the store returned no ETag for {key!r}, which is needed to detect concurrent "
            "writers: use a store that has ETags"
        )
    return e_tag


def _message(verb: str, place: str, what: str) -> str:
    told = f"can't {verb} {place}: {what}"
    for pattern, advice in _ADVICE:
        # What was attempted decides only where a pattern names it: a place may hold any text.
        if re.search(pattern, told if pattern.startswith("^can't") else what):
            return f"{told}; {advice}"
    return told


def _what_came_back(error: Exception) -> str:
    """The gist of an obstore error: S3's status, code and message, or the system's own words.

    Never the response as a whole: to a wrong signature or token S3 answers with the request's
    headers, session token included.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return f"{os.strerror(error.errno)} (os error {error.errno})"
    text = str(error).partition("\n\nDebug source")[0]
    if status := re.search(r"status code: ([0-9]{3}[^:\n]*)", text):
        code = re.search(r"<Code>([^<]*)</Code>", text)
        message = re.search(r"<Message>([^<]*)</Message>", text)
        parts = [status[1], *(found[1] for found in (code, message) if found)]
        return ", ".join(parts)
    # An endpoint may have been given with a password.
    return re.sub(r"//[^/\s]*@", "//…@", text).strip()


def _without_body(error: Exception) -> Exception:
    """The cause to keep of an obstore error, for the same reason without S3's response."""
    return type(error)(_what_came_back(error))
