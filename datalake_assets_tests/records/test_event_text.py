"""The text of a materialization is the one that Dagster writes."""

from typing import Any

import dagster as dg
import pytest
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, DagsterEventType
from dagster._core.events import StepMaterializationData as Made
from dagster._core.events.log import EventLogEntry
from dagster._serdes import serialize_value
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets.records import event_text
from datalake_assets.records.event_text import EventText

KEY = dg.AssetKey("daily_ticks")

texts = st.text(max_size=20) | st.sampled_from(['"metadata_entries": []', '\\"', "✓ \x7f\u2028"])
values = (
    st.integers()
    | st.floats()
    | texts
    | st.booleans()
    | texts.map(dg.MetadataValue.md)
    | texts.map(dg.MetadataValue.json)
    | st.lists(texts, max_size=2).map(
        lambda rows: dg.MetadataValue.table(
            [dg.TableRecord({"symbol": each}) for each in rows],
            dg.TableSchema([dg.TableColumn("symbol")]),
        )
    )
)


def entry(told: Any, kind: DagsterEventType = DagsterEventType.ASSET_MATERIALIZATION) -> Any:
    event = DagsterEvent(kind.value, "job", event_specific_data=told, step_key="step")
    return EventLogEntry(None, "debug", "", "run", 1.5, "step", "job", event)


def made(metadata: dict[str, Any], partition: str = "2024-01-02") -> EventLogEntry:
    return entry(Made(dg.AssetMaterialization(KEY, partition=partition, metadata=metadata)))


def text_of(text: EventText, event: EventLogEntry) -> str | None:
    """The text, if it is not left to Dagster."""
    parts = text.without_metadata(event)
    return parts and text.joined(serialize_value(parts[0]), parts[1])


@given(st.dictionaries(texts, values, min_size=1, max_size=6), texts)
def test_it_is_the_text_of_dagster_for_any_metadata(metadata: dict[str, Any], part: str) -> None:
    text = EventText()
    assert text_of(text, made({"first": 1})) is not None

    event = made(metadata, part)

    assert text_of(text, event) == serialize_value(event)


@pytest.mark.parametrize(
    "event",
    [
        made({}),
        entry(dg.AssetObservation(KEY, metadata={"a": 1}), DagsterEventType.ASSET_OBSERVATION),
        entry(
            AssetMaterializationPlannedData(KEY, partition="2024-01-02"),
            DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        ),
        EventLogEntry(None, "info", "told", "run", 1.5),
    ],
)
def test_other_events_are_left_to_dagster(event: EventLogEntry) -> None:
    assert EventText().without_metadata(event) is None


def test_all_events_are_left_to_a_dagster_that_writes_them_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = EventText()
    with monkeypatch.context() as patched:
        patched.setattr(event_text, "_HEAD", event_text._HEAD.replace("Event", "Another"))
        assert text.without_metadata(made({"a": 1})) is None

    assert text.without_metadata(made({"a": 1})) is None
    assert EventText().without_metadata(made({"a": 1})) is not None
