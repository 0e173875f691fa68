"""The bars of a lake as an Iceberg table.

Belongs here: the table's schema, partitions and order, the commit that replaces its files, its old
snapshots, and the catalog that it stands in by default. Does not belong here: which files show the
lake, and copying them (`registration`).

It needs PyIceberg, an extra: only `datalake register` imports this module. A registration is one
commit of one snapshot. PyIceberg's own `delete` and `add_files` would make two, of which the first
lacks the bars that are replaced, and whoever travels in time finds it. So the snapshot is made by
the class below that with which PyIceberg overwrites files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchPropertyException,
    NoSuchTableError,
    NotInstalledError,
    RESTError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestFile
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table, TableProperties
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.sorting import NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.table.update.snapshot import _OverwriteFiles
from pyiceberg.transforms import IdentityTransform, YearTransform
from pyiceberg.types import (
    DateType,
    DoubleType,
    LongType,
    NestedField,
    PrimitiveType,
    StringType,
    TimestamptzType,
)
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from datalake_assets import __version__
from datalake_assets.collection.bars import COLUMN_DESCRIPTIONS, SCHEMA
from datalake_assets.collection.clock import Clock
from datalake_assets.iceberg.registration import (
    KEEP_DAYS,
    TABLE,
    Copy,
    Registrar,
    RegistrationError,
)
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.settings import lake_location
from datalake_assets.storage import layout
from datalake_assets.storage.store import ChangedError, Store, variable

GRACE = timedelta(days=1)
"""How old a file without a snapshot must be to be removed: another registration may be about to
commit it."""

_TRIES = 5
_NAMED = 20
"""Files that a snapshot names in its summary."""
_LOCAL = Path(".datalake") / "iceberg"
"""Where the catalogs of lakes in a bucket are by default."""

_TYPES: Mapping[pa.DataType, PrimitiveType] = {
    pa.string(): StringType(),
    pa.date32(): DateType(),
    pa.timestamp("us", tz="UTC"): TimestamptzType(),
    pa.float64(): DoubleType(),
    pa.int64(): LongType(),
}
_PROPERTIES = {
    # Bounds of a file over all symbols prune nothing, but for its sessions.
    TableProperties.DEFAULT_WRITE_METRICS_MODE: "none",
    f"{TableProperties.METRICS_MODE_COLUMN_CONF_PREFIX}.symbol": "full",
    f"{TableProperties.METRICS_MODE_COLUMN_CONF_PREFIX}.session": "full",
    TableProperties.METADATA_DELETE_AFTER_COMMIT_ENABLED: "true",
}
_REFUSED = (
    NoSuchPropertyException,
    NotInstalledError,
    RESTError,
    SQLAlchemyError,
    BotoCoreError,  # of Glue and DynamoDB
    ClientError,
    OSError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Registration:
    """What registering a lake did.

    Args:
        table: The table, with its namespace.
        folder: The table's folder, where engines find it without a catalog.
        metadata: The file that describes it now.
        snapshot: Its current snapshot.
        changed: Whether it is a new one.
        sessions: How many sessions it shows.
        bars: How many bars.
        files: In how many files.
        added: Files of this snapshot that the one before did not have.
        removed: Files that this one does not have any more.
        expired: Snapshots that can't be read any more.
        deleted: Keys of files that no snapshot has and that were removed.
    """

    table: str
    folder: str
    metadata: str
    snapshot: int
    changed: bool
    sessions: int
    bars: int
    files: int
    added: int = 0
    removed: int = 0
    expired: int = 0
    deleted: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Hint:
    """What the lake says of the table's metadata: its name, and the version of the object."""

    name: str
    version: str


def bars_schema() -> Schema:
    """The columns of bars as Iceberg has them; a bar is told by its symbol and session."""
    fields = [
        NestedField(
            number,
            column.name,
            _TYPES[column.type],
            required=not column.nullable,
            doc=COLUMN_DESCRIPTIONS[column.name],
        )
        for number, column in enumerate(SCHEMA, 1)
    ]
    return Schema(*fields, identifier_field_ids=[_ids()["symbol"], _ids()["session"]])


def open_catalog(name: str) -> Catalog:
    """A catalog of PyIceberg's own configuration (`~/.pyiceberg.yaml`, `PYICEBERG_CATALOG__…`).

    Raises:
        RegistrationError: There is none of this name, or it can't be reached.
    """
    with _attempt(f"can't open the catalog {name!r}"):
        return load_catalog(name)


def default_catalog(store: Store) -> tuple[Catalog, Path]:
    """A catalog in SQLite, and its file: in the lake's folder, or for a bucket in `.datalake`.

    Raises:
        RegistrationError: It can't be made.
    """
    kind, place = lake_location(store.uri)
    properties: dict[str, str] = {}
    if kind == "memory":
        raise RegistrationError(f"can't register {store.uri}: nobody else can read it")
    if kind == "s3":
        file = _LOCAL.joinpath(*place.split("/"), "catalog.db").absolute()
        # Arrow, by which PyIceberg reads and writes, finds the keys in AWS's usual places.
        endpoint = variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        region = variable("AWS_REGION", "AWS_DEFAULT_REGION") or (endpoint and "us-east-1")
        told = {"s3.endpoint": endpoint, "s3.region": region}
        properties = {name: value for name, value in told.items() if value}
    else:
        file = Path(store.url(layout.ICEBERG_CATALOG))
    with _attempt(f"can't open the catalog {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        uri = URL.create("sqlite", database=str(file)).render_as_string()
        return load_catalog("datalake", type="sql", uri=uri, **properties), file


class BarsTable:
    """The table of a lake's bars.

    Args:
        store: Where the lake is, and the table's files.
        catalog: What names its current state.
        table: Its namespace and name; its folder has the name.
        keep: For how long a snapshot can be read after the next one took its place.
        clock: Time.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        table: str = TABLE,
        *,
        keep: timedelta = timedelta(days=KEEP_DAYS),
        clock: Clock | None = None,
    ) -> None:
        self._store, self._catalog, self._identifier = store, catalog, table
        namespace, _, name = table.rpartition(".")
        self._namespace, self._folder = namespace, layout.table_folder(name)
        self._hint_key = layout.version_hint_key(name)
        store.url(self._hint_key)  # raises ValueError for a name that is no part of a key
        self._registrar = Registrar(store, name)
        self._keep, self._clock = keep, clock or Clock()

    def register(self) -> Registration:
        """Make the table show the lake as it is now, in one commit, if it does not.

        Killed at any instant, the table is the one before or the one after, and the next
        registration removes what is left over.

        Raises:
            NotInLakeError: The lake has no session.
            RegistrationError: The table is another lake's, was changed by another catalog, or the
                catalog refused.
            BrokenFileError: A session is damaged.
            StoreError: The store did not do what it was asked.
        """
        if not layout.dated(layout.SESSIONS, self._store.list(layout.SESSIONS)):
            raise NotInLakeError(
                f"no session is published in {self._store.uri}: collect some, then register it"
            )
        fresh: list[Copy] = []
        first: Exception | None = None
        for _ in range(_TRIES):
            with _attempt(f"can't open the table {self._identifier}"):
                table, hint = self._opened()
            files = self._live(table)
            held = self._registrar.opened(files)
            choice = self._registrar.choose([*held, *fresh])
            copies = self._registrar.copied(choice.wanted)
            if copies is None:
                continue
            now = [*choice.kept, *copies]
            if not (now or files):
                raise NotInLakeError(
                    f"no session in {self._store.uri} has a bar: nothing to register"
                )
            fresh += copies  # if somebody else commits first, they need not be made again
            staying = {copy.key for copy in now}
            gone = [file for key, file in files.items() if key not in staying]
            new = [copy for copy in now if copy.key not in files]
            try:
                with _attempt(f"can't commit to the table {self._identifier}"):
                    changed = self._commit(table, new, gone)
            except (CommitFailedException, ValidationException) as error:
                first = error
                continue
            hint = self._point(table, hint)
            expired, deleted = self._clean(table, hint) if changed else (0, [])
            return self._report(table, now, changed, len(new), len(gone), expired, deleted)
        raise RegistrationError(
            f"the lake or the table {self._identifier} changed {_TRIES} times while it was "
            "registered, and the table is as it was: run it again when the others have ended"
        ) from first

    # --- the table ---

    def _opened(self) -> tuple[Table, _Hint | None]:
        """The table, made if there is none, and what the lake says of it."""
        hint = None
        with suppress(FileNotFoundError):
            data, version = self._store.get_versioned(self._hint_key)
            hint = _Hint(data.decode(), version)
        try:
            table = self._catalog.load_table(self._identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            table = self._made(hint.name if hint else None)
        place, here = table.location().rstrip("/"), self._store.url(self._folder)
        if place.removeprefix("file://") != here:
            raise RegistrationError(
                f"the table {self._identifier} lies in {place}, and this lake's table belongs in "
                f"{here}: give another --table or --catalog. An Iceberg table can't be moved: of "
                f"a lake that was, remove {self._store.url(layout.ICEBERG)} and register it again"
            )
        log = {_name(entry.metadata_file) for entry in table.metadata.metadata_log}
        if hint and hint.name not in {*log, _name(table.metadata_location)}:
            raise RegistrationError(
                f"{self._store.url(self._hint_key)} names {hint.name}, of which the catalog knows "
                "nothing: another catalog registers this lake in the same folder. Use that one, "
                f"give another --table, or drop {self._identifier} from this catalog and run it "
                "again, to go on from there"
            )
        return table, hint

    def _made(self, hint: str | None) -> Table:
        """The table, when the catalog does not know it: as it was left, or a new one."""
        with suppress(NamespaceAlreadyExistsError):
            self._catalog.create_namespace(self._namespace)
        try:
            if hint:
                place = self._store.url(f"{self._folder}/metadata/{hint}.metadata.json")
                return self._catalog.register_table(self._identifier, place)
            schema = bars_schema()
            return self._catalog.create_table(
                self._identifier,
                schema,
                location=self._store.url(self._folder),
                partition_spec=PartitionSpec(
                    PartitionField(_ids()["session"], 1000, YearTransform(), "session_year")
                ),
                sort_order=SortOrder(*(_ascending(name) for name in ("symbol", "session"))),
                # The lake's files have no field ids: readers find their columns by name.
                properties=_PROPERTIES | _mapping(schema),
            )
        except TableAlreadyExistsError:  # by another registration just now
            return self._catalog.load_table(self._identifier)

    def _live(self, table: Table) -> dict[str, DataFile]:
        """The files of the current snapshot, by their keys."""
        snapshot = table.current_snapshot()
        if snapshot is None:
            return {}
        with _attempt(f"can't read the snapshot {snapshot.snapshot_id} of {self._identifier}"):
            files = list(_files(table, snapshot.manifests(table.io)))
        found = {self._key(file.file_path): file for file in files}
        if strange := [f.file_path for k, f in found.items() if layout.registered(k) is None]:
            raise RegistrationError(
                f"the table {self._identifier} has files that were not registered here, such as "
                f"{strange[0]}: give another --table, so that no bar is in it twice"
            )
        return found

    def _key(self, path: str) -> str:
        """The key of a path of the table, whatever scheme another engine wrote it with."""
        below = path.rpartition(f"/{self._folder}/")[2]
        return f"{self._folder}/{below}"

    # --- the commit ---

    def _commit(self, table: Table, new: Sequence[Copy], gone: Sequence[DataFile]) -> bool:
        """Replace files in one snapshot; False when there is nothing to replace.

        Raises:
            CommitFailedException, ValidationException: Somebody else committed in the meantime.
        """
        lacking = set(SCHEMA.names) - set(table.schema().column_names)
        if not (new or gone or lacking):
            return False
        with table.transaction() as transaction:
            if lacking:
                with transaction.update_schema() as update:
                    # What is registered already lacks it.
                    update.union_by_name(_optional(bars_schema(), lacking))
            if new or gone:
                replacement = _Replacement(
                    operation=Operation.OVERWRITE if gone else Operation.APPEND,
                    transaction=transaction,
                    io=table.io,
                    snapshot_properties=_summary(new),
                )
                for file in gone:
                    replacement.delete_data_file(file)
                for copy in new:
                    replacement.append_data_file(self._data_file(transaction.table_metadata, copy))
                replacement.commit()
        return True

    def _data_file(self, metadata: TableMetadata, copy: Copy) -> DataFile:
        """How the table tells of a copy, by the copy's footer."""
        schema = metadata.schema()
        told = data_file_statistics_from_parquet_metadata(
            parquet_metadata=pq.read_metadata(pa.BufferReader(copy.footer)),
            stats_columns=compute_statistics_plan(schema, metadata.properties),
            parquet_column_mapping=parquet_path_to_id_mapping(schema),
        )
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self._store.url(copy.key),
            file_format=FileFormat.PARQUET,
            partition=told.partition(metadata.spec(), schema),
            file_size_in_bytes=self._store.size(copy.key),
            # A session is by symbol, a year file by symbol and session: both are in this order.
            sort_order_id=metadata.default_sort_order_id,
            spec_id=metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **told.to_serialized_dict(),
        )

    def _point(self, table: Table, hint: _Hint | None) -> _Hint:
        """Name the current metadata in the lake, for engines without a catalog."""
        name = _name(table.metadata_location)
        if hint and hint.name == name:
            return hint
        try:
            version = hint.version if hint else None
            return _Hint(name, self._store.replace(self._hint_key, name.encode(), version))
        except ChangedError as error:
            raise RegistrationError(
                f"the table {self._identifier} was registered, and meanwhile another registration "
                f"of it named other metadata in {self._store.url(self._hint_key)}: run it again"
            ) from error

    # --- what is old ---

    def _clean(self, table: Table, hint: _Hint) -> tuple[int, list[str]]:
        """Forget old snapshots, and remove the files that no snapshot has.

        Returns:
            How many snapshots, and the keys of the files.
        """
        with _attempt(f"can't expire snapshots of the table {self._identifier}"):
            if old := self._expired(table.metadata):
                try:
                    table.maintenance.expire_snapshots().by_ids(old).commit()
                except (CommitFailedException, ValidationException):
                    return 0, []  # the next registration does it
                self._point(table, hint)
            needed = self._needed(table)
        before = self._clock.now() - GRACE
        unneeded = [
            key
            for key, written in self._store.modified(self._folder).items()
            if key not in needed and written < before
        ]
        with ThreadPoolExecutor(self._store.writers()) as threads:
            list(threads.map(self._store.delete, unneeded))
        return len(old), unneeded

    def _expired(self, metadata: TableMetadata) -> list[int]:
        """The snapshots whose successor is older than they are kept, and that have no name."""
        before = (self._clock.now() - self._keep).timestamp() * 1000
        last: dict[int, int] = {}
        for entry, after in pairwise(metadata.snapshot_log):
            last[entry.snapshot_id] = max(after.timestamp_ms, last.get(entry.snapshot_id, 0))
        named = {ref.snapshot_id for ref in metadata.refs.values()}
        known = {snapshot.snapshot_id for snapshot in metadata.snapshots}
        return [n for n, until in last.items() if until < before and n in known - named]

    def _needed(self, table: Table) -> set[str]:
        """The keys of all files that a snapshot of the table has, and of what tells of them."""
        metadata = table.metadata
        needed = {table.metadata_location, *(log.metadata_file for log in metadata.metadata_log)}
        needed.update(told.statistics_path for told in metadata.statistics)
        needed.update(told.statistics_path for told in metadata.partition_statistics)
        manifests: dict[str, ManifestFile] = {}
        for snapshot in metadata.snapshots:
            needed.add(snapshot.manifest_list)
            manifests |= {each.manifest_path: each for each in snapshot.manifests(table.io)}
        needed.update(manifests)
        needed.update(file.file_path for file in _files(table, manifests.values()))
        return {self._hint_key, *map(self._key, needed)}

    def _report(
        self,
        table: Table,
        now: list[Copy],
        changed: bool,
        added: int,
        removed: int,
        expired: int,
        deleted: list[str],
    ) -> Registration:
        snapshot = table.current_snapshot()
        assert snapshot
        return Registration(
            self._identifier,
            self._store.url(self._folder),
            table.metadata_location,
            snapshot.snapshot_id,
            changed,
            sessions=sum(len(copy.made_from.sessions) for copy in now),
            bars=sum(copy.bars for copy in now),
            files=len(now),
            added=added,
            removed=removed,
            expired=expired,
            deleted=deleted,
        )


class _Replacement(_OverwriteFiles):
    """A snapshot in which some files take the place of others."""

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        """Leave out manifests that only tell what earlier snapshots removed.

        PyIceberg takes them along for ever: one more with each commit.
        """
        return [
            each
            for each in super()._process_manifests(manifests)
            if each.added_snapshot_id == self._snapshot_id
            or each.has_added_files()
            or each.has_existing_files()
        ]

    def _validate_concurrency(self) -> None:
        """Refuse to be put on top of another commit: what is to be replaced was chosen before it.

        PyIceberg asks only when another commit came first.
        """
        raise CommitFailedException("another commit came first")


def _files(table: Table, manifests: Iterable[ManifestFile]) -> Iterator[DataFile]:
    """The files that are in the table by these manifests."""
    for manifest in manifests:
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            yield entry.data_file


def _ids() -> dict[str, int]:
    """The ids of the columns in a new table."""
    return {name: number for number, name in enumerate(SCHEMA.names, 1)}


def _ascending(name: str) -> SortField:
    return SortField(
        source_id=_ids()[name],
        transform=IdentityTransform(),
        direction=SortDirection.ASC,
        null_order=NullOrder.NULLS_FIRST,
    )


def _mapping(schema: Schema) -> dict[str, str]:
    return {TableProperties.DEFAULT_NAME_MAPPING: schema.name_mapping.model_dump_json()}


def _optional(schema: Schema, names: Collection[str]) -> Schema:
    """These columns, which may be null."""
    return Schema(
        *(
            NestedField(field.field_id, field.name, field.field_type, doc=field.doc)
            for field in schema.fields
            if field.name in names
        )
    )


def _summary(new: Sequence[Copy]) -> dict[str, str]:
    """What a snapshot says of itself: the version of this program, and what it shows anew."""
    names = [str(copy.shown) for copy in new]
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return {"datalake.version": __version__, "datalake.added": ", ".join(names[:_NAMED] + more)}


def _name(metadata: str) -> str:
    """A metadata file's name, as `version-hint.text` has it."""
    return metadata.rpartition("/")[2].removesuffix(".metadata.json")


@contextmanager
def _attempt(what: str) -> Iterator[None]:
    """Turns errors of PyIceberg, and of what it works with, into ours."""
    try:
        yield
    except (CommitStateUnknownException, *_REFUSED) as error:
        told = re.sub(r"//[^/\s]*@", "//…@", str(error))  # a database's address has its password
        raise RegistrationError(
            f"{what}: {type(error).__name__}: {told}; check the catalog's settings "
            "(~/.pyiceberg.yaml), and run it again: it goes on from what is there"
        ) from error
