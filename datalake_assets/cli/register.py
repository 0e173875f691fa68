"""`datalake register`: the lake as an Iceberg table."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from datalake_assets.cli.arguments import Json, existing_lake, show_lake
from datalake_assets.cli.terminal import err, out, plain_errors, tell, working
from datalake_assets.collection.progress import many, verb
from datalake_assets.iceberg.registration import KEEP_DAYS, TABLE, RegistrationError
from datalake_assets.settings import Settings

_TABLE = re.compile(r"\w+\.\w+", re.ASCII)


def register(
    catalog: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A catalog of PyIceberg's configuration (~/.pyiceberg.yaml). Default: one in "
            "SQLite, in the lake's folder or, for a bucket, in .datalake/iceberg.",
        ),
    ] = None,
    table: Annotated[str, typer.Option(metavar="NAMESPACE.NAME", help="The table.")] = TABLE,
    keep_days: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Days for which a snapshot can be read after it was replaced."
        ),
    ] = KEEP_DAYS,
    as_json: Json = False,
) -> None:
    """Register the lake's bars as an Iceberg table, in one commit.

    The table names copies of the year files, and of the sessions that no year file has yet, so that
    its old snapshots stay what they were. Run it again after each session: only what changed is
    copied, and nothing is committed when nothing changed.
    """
    with plain_errors():
        if not _TABLE.fullmatch(table):
            raise typer.BadParameter(
                f"--table {table!r} has not the form NAMESPACE.NAME, each of letters, digits and _"
            )
        lake = existing_lake(Settings.load())
        show_lake(lake)
        with working("registering"):
            try:
                from datalake_assets.iceberg import table as iceberg
            except ImportError as error:
                raise RegistrationError(
                    f"can't register the lake: {error.name} is not installed; install PyIceberg: "
                    "pip install 'us-equity-datalake[iceberg]'"
                ) from error
            if catalog is None:
                opened, file = iceberg.default_catalog(lake.store)
                where = str(file)
            else:
                opened, where = iceberg.open_catalog(catalog), catalog
            done = iceberg.BarsTable(
                lake.store, opened, table, keep=timedelta(days=keep_days)
            ).register()
        if as_json:
            out.print_json(json.dumps(asdict(done) | {"catalog": where}))
            return
        tell(err, f"catalog: {where}")
        counts = [(done.files, "file"), (done.sessions, "session"), (done.bars, "bar")]
        what = ", ".join(many(count, thing) for count, thing in counts)
        if done.changed:
            new = f"{many(done.added, 'file')} {verb(done.added)} new"
            tell(out, f"{done.table}: snapshot {done.snapshot} has {what}")
            tell(out, f"{new}, {done.removed:,} {verb(done.removed)} no longer in it")
        else:
            tell(out, f"{done.table}: nothing changed since snapshot {done.snapshot}: {what}")
        if done.expired or done.deleted:
            were = verb(done.expired, "was", "were")
            gone = f"{many(len(done.deleted), 'file')} of no snapshot deleted"
            tell(out, f"{many(done.expired, 'old snapshot')} {were} forgotten, and {gone}")
        tell(out, f"To read it in DuckDB: FROM iceberg_scan('{done.folder}')")
