"""A world for the sensors: a clock that is set, Dagster's own records, and runs that end as told.

The sensors are the real ones, and so are the records; only the runs are not carried out.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.events import DagsterEvent, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.test_utils import create_run_for_test

from datalake_assets.automation.runs import PURPOSE
from datalake_assets.collection.clock import Clock
from datalake_assets.definitions import build_definitions
from datalake_assets.resources import LakeResource
from datalake_assets.settings import Settings

DAILY_TICKS = dg.AssetKey("daily_ticks")


class SetClock(Clock):
    """A clock that shows what it was set to."""

    def __init__(self, now: datetime) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time


@dataclass(frozen=True)
class Asked:
    """A run that a sensor asked for."""

    at: datetime
    purpose: str
    partition: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.at:%m-%d %H:%M} {self.purpose}: {self.partition}"


class World:
    """Dagster's records and the sensors, at a time that is given."""

    def __init__(
        self, folder: Path, now: datetime, environ: Mapping[str, str] | None = None
    ) -> None:
        self.clock = SetClock(now)
        self.lake = LakeResource(uri=str(folder / "lake"))
        settings = Settings.load(environ or {})
        definitions = build_definitions(settings, lake=self.lake, clock=self.clock)
        self.repository = definitions.get_repository_def()
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursors: dict[str, str | None] = {}
        self.keys: set[str] = set()
        self.skipped = ""

    def tick(self, name: str) -> list[dg.RunRequest]:
        """One evaluation of a sensor; the daemon leaves out run keys that it knows."""
        sensor = self.repository.get_sensor_def(name)
        # As they are: Dagster would make the lake's resource anew in each of thousands of ticks.
        given = {"clock": self.clock, "lake": self.lake}
        made = dg.ResourceDefinition.hardcoded_resource
        with dg.build_sensor_context(
            instance=self.instance,
            repository_def=self.repository,
            cursor=self.cursors.get(name),
            sensor_name=name,
            resources={key: made(resource) for key, resource in given.items()},
        ) as context:
            data = sensor.evaluate_tick(context)
        self.cursors[name] = data.cursor
        self.skipped = data.skip_message or ""
        new = [one for one in data.run_requests or () if one.run_key not in self.keys]
        self.keys |= {str(one.run_key) for one in new}
        return new

    def launch(self, request: dg.RunRequest, job: str) -> Asked:
        """Record the run as launched."""
        partition = str(request.partition_key)
        run = create_run_for_test(
            self.instance,
            run_id=str(uuid.uuid4()),
            job_name=job,
            status=dg.DagsterRunStatus.STARTED,
            tags={**request.tags, "dagster/partition": partition},
        )
        return Asked(self.clock.time, request.tags[PURPOSE], partition, run.run_id)

    def end(
        self,
        run_id: str,
        *,
        good: bool,
        materialized: Iterable[str | None] = (),
        asset: dg.AssetKey = DAILY_TICKS,
    ) -> None:
        """Record the end of a run, and what it materialized, at the time of the clock."""
        for partition in materialized:
            event = dg.AssetMaterialization(asset, partition=partition)
            self.log(run_id, "ASSET_MATERIALIZATION", StepMaterializationData(event))
        self.log(run_id, "PIPELINE_SUCCESS" if good else "PIPELINE_FAILURE")

    def log(self, run_id: str, kind: str, data: StepMaterializationData | None = None) -> None:
        """Record an event of a run at the time of the clock."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        self.instance.handle_new_event(
            EventLogEntry(
                error_info=None,
                level=20,
                user_message="",
                run_id=run_id,
                timestamp=self.clock.time.timestamp(),
                job_name=run.job_name,
                dagster_event=DagsterEvent(
                    event_type_value=kind, job_name=run.job_name, event_specific_data=data
                ),
            )
        )


def utc(text: str) -> datetime:
    """An instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def instants(first: str, last: str, minutes: int) -> Iterable[datetime]:
    """Every so many minutes from one instant to another."""
    now, end = utc(first), utc(last)
    while now <= end:
        yield now
        now += timedelta(minutes=minutes)


def moments(first: str, last: str, eventful: tuple[str, str]) -> Iterable[datetime]:
    """From one instant to another, every ten minutes while something can happen, else half-hourly.

    That is in the evening, after a session, and in the span `eventful`.
    """
    for now in instants(first, last, 10):
        if now.hour >= 21 or not now.minute % 30 or utc(eventful[0]) <= now < utc(eventful[1]):
            yield now
