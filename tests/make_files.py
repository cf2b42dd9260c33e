"""Builders for usage files: a mapping of meter readings, and files as they are sent."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from accounts.access import Actor
from metering.files import usage_files
from metering.files.mappings import define_mapping
from metering.models import UsageFile, UsageFileMapping
from metering.models.files import LARGEST_PART
from metering.sources.loading import FileFormat, LoadReport, load_usage
from metering.sources.mapping import ColumnMapping, read_mapping
from tests.make_metering import GPU_USED, NOON, SYSTEM

READINGS: Mapping[str, Any] = {
    "id": {"column": "record"},
    "source": {"constant": "meters/berlin"},
    "type": {"constant": GPU_USED},
    "subject": {"column": "project"},
    "time": {"column": "at"},
    "data": [{"column": "seconds", "kind": "number"}, {"column": "region"}],
}
HEADER = "record,project,at,seconds,region"


def mapping(**changes: Any) -> ColumnMapping:
    """Return the mapping of readings, changed in these parts."""
    return read_mapping({**READINGS, **changes})


def mapping_record(name: str = "Readings", **changes: Any) -> UsageFileMapping:
    """Keep a mapping of readings under a name."""
    return define_mapping(name=name, mapping=mapping(**changes), actor=SYSTEM, at=NOON)


def reading(number: int, *, project: str = "project-1", seconds: str = "1") -> str:
    """Return one line of readings."""
    return f"r{number},{project},2026-10-15T10:30:00Z,{seconds},eu"


def readings(*lines: str, header: str = HEADER) -> bytes:
    """Return a file of such lines."""
    return "\n".join([header, *lines, ""]).encode()


def many_readings(number: int) -> bytes:
    """Return a file of so many readings of one second each."""
    return readings(*(reading(each) for each in range(number)))


def loaded(
    content: bytes,
    *,
    file_format: FileFormat = FileFormat.CSV,
    by: ColumnMapping | None = None,
    name: str = "readings.csv",
    actor: Actor = SYSTEM,
    at: datetime = NOON,
) -> LoadReport:
    """Load a file of readings."""
    return load_usage(
        stream=io.BytesIO(content), file_format=file_format, origin=name, mapping=by or mapping(), actor=actor, at=at
    )


def parts_of(content: bytes) -> Sequence[bytes]:
    """Cut a file as it is sent."""
    return [content[start : start + LARGEST_PART] for start in range(0, len(content), LARGEST_PART)]


def sent(content: bytes, *, name: str = "readings.csv", actor: Actor = SYSTEM, at: datetime = NOON) -> UsageFile:
    """Send a file as the browser does."""
    file = usage_files.receive_file(name=name, size=len(content), actor=actor, at=at)
    for number, part in enumerate(parts_of(content)):
        usage_files.receive_part(file_id=file.pk, number=number, content=part, actor=actor)
    return usage_files.finish_receiving(file_id=file.pk, actor=actor, at=at)


def ready(content: bytes, *, name: str = "readings.csv", actor: Actor = SYSTEM, at: datetime = NOON) -> UsageFile:
    """Send a file of readings and say how it is to be read."""
    file = sent(content, name=name, actor=actor, at=at)
    record = mapping_record()
    return usage_files.choose_layout(file_id=file.pk, file_format=FileFormat.CSV, mapping_id=record.pk, actor=actor)
