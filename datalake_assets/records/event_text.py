"""Event text: the JSON of a materialization, as Dagster writes it and in under half of its time.

Belongs here: that text. Does not belong here: the row around it, and where it is stored
(`event_log`).

Most of what Dagster's serializer does for a session is the same class names around 25 numbers.
Here the event is serialized without its metadata, and each number or text is put between them.
Whether that gives what Dagster would have written is looked at with the first event of a process;
if a release of Dagster writes it otherwise, all events are left to Dagster.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import dagster as dg
from dagster._core.events import DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._serdes import serialize_value

_NONE = '"metadata_entries": []'
"""Where the metadata stand. In a text of the event its quotation marks would be escaped."""

_CLASSES: Mapping[type, tuple[str, str]] = {
    dg.IntMetadataValue: ("IntMetadataEntryData", "value"),
    dg.FloatMetadataValue: ("FloatMetadataEntryData", "value"),
    dg.MarkdownMetadataValue: ("MarkdownMetadataEntryData", "md_str"),
    dg.TextMetadataValue: ("TextMetadataEntryData", "text"),
}
"""What Dagster calls the class of a value, and the value in it; others it serializes itself."""


class EventText:
    """Serializes materializations, as long as the text is Dagster's."""

    def __init__(self) -> None:
        self._as_expected: bool | None = None

    def without_metadata(
        self, event: EventLogEntry
    ) -> tuple[EventLogEntry, Mapping[str, Any]] | None:
        """The event without its metadata, and these; None where Dagster is to serialize it."""
        if self._as_expected is False or event.dagster_event is None:
            return None
        told = event.dagster_event.event_specific_data
        kind = DagsterEventType.ASSET_MATERIALIZATION
        if event.dagster_event_type is not kind or not isinstance(told, StepMaterializationData):
            return None
        made = told.materialization
        if not made.metadata:
            return None
        bare = told._replace(materialization=made._replace(metadata={}))
        bare_event = event.dagster_event._replace(event_specific_data=bare)
        if self._as_expected is None:
            short = event._replace(dagster_event=bare_event)
            text = self.joined(serialize_value(short), made.metadata)
            self._as_expected = text == serialize_value(event)
            if not self._as_expected:
                return None
        return event._replace(dagster_event=bare_event), made.metadata

    @staticmethod
    def joined(bare: str, metadata: Mapping[str, Any]) -> str:
        """The text of an event with its metadata.

        Args:
            bare: The text without them.
            metadata: The metadata.
        """
        entries = ", ".join(
            [f"{_HEAD}{_value(value)}{_label(label)}" for label, value in metadata.items()]
        )
        return bare.replace(_NONE, f"{_NONE[:-1]}{entries}]", 1)


_HEAD = '{"__class__": "EventMetadataEntry", "description": null, "entry_data": '


@lru_cache(1024)
def _label(label: str) -> str:
    """The end of an entry: each session has the same labels."""
    return f', "label": {json.dumps(label)}}}'


def _value(value: Any) -> str:
    known = _CLASSES.get(type(value))
    if known is None:
        return serialize_value(value)
    name, field = known
    held = getattr(value, field)
    # `repr` is what json writes for these two types, and for no other.
    plain = type(held) is int or (type(held) is float and math.isfinite(held))
    return f'{{"__class__": "{name}", "{field}": {repr(held) if plain else json.dumps(held)}}}'
