"""A mapping as people fill it in: one line for each column, saying what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from metering.sources.mapping import ColumnMapping, Taken, read_mapping

ROLES = (
    ("ignore", "is left out"),
    ("id", "is the id"),
    ("subject", "is the subject"),
    ("time", "is the time"),
    ("source", "is the source"),
    ("type", "is the type"),
    ("number", "is data, a number"),
    ("text", "is data, a text"),
)
DELIMITER_NAMES = ((",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "bar"))


class Column(NamedTuple):
    """What somebody said of a column: its role, its name in the data, and whether it is a part of each row's id.

    That is beside the role: rows without a number of their own are told apart by whose and when they are.
    """

    name: str
    role: str
    key: str
    is_in_id: bool


def mapping_of(form: Mapping[str, str], columns: Sequence[Column]) -> ColumnMapping:
    """Return the mapping of a form: what was said of each of the `columns`, and of all the rest in `form`.

    Of a file without a header (`header` is `none`) the names are those that were given to its columns, in their order.

    Raises: MappingInvalid.
    """
    by_role = {role: [column.name for column in columns if column.role == role] for role, _ in ROLES}
    spec: dict[str, Any] = {
        "id": {
            "column": _first(by_role["id"]),
            "hash_of": [column.name for column in columns if column.is_in_id],
        },
        "source": _taken(by_role["source"], form.get("source", "")),
        "type": _taken(by_role["type"], form.get("type", "")),
        "time": {
            "column": _first(by_role["time"]),
            "format": form.get("time_format", "").strip(),
            "time_zone": form.get("time_zone", "").strip(),
            "twice": form.get("twice", "refuse"),
        },
        "data": [
            {"column": column.name, "name": column.key.strip() or column.name, "kind": column.role}
            for column in columns
            if column.role in {"number", "text"}
        ],
        "delimiter": form.get("delimiter", ","),
        "decimal_comma": form.get("decimal_comma") == "1",
        "thousands": form.get("thousands", ""),
        "encoding": form.get("encoding", "utf-8"),
        "empty": [text for text in form.get("empty", "").split() if text],
        "floats": form.get("floats", "refuse"),
    }
    if form.get("header") == "none":
        spec |= {"header": False, "columns": [column.name for column in columns]}
    subject = _taken(by_role["subject"], form.get("subject", ""))
    if subject["column"] or subject["constant"]:
        spec["subject"] = subject
    return read_mapping(spec)


def lines_of(mapping: ColumnMapping) -> list[tuple[str, str]]:
    """Return a mapping in words: each part of an event, and where it comes from."""
    time = mapping.time
    zone = f", {time.time_zone}" if time.time_zone else ""
    return [
        ("id", mapping.id.column or f"hash of {', '.join(mapping.id.hash_of)}"),
        ("source", _words(mapping.source)),
        ("type", _words(mapping.type)),
        ("subject", _words(mapping.subject) if mapping.subject else "none"),
        ("time", f"{time.column} ({time.format}{zone})"),
        *((f"data: {column.key}", f"{column.column} ({column.kind})") for column in mapping.data),
    ]


def _words(taken: Taken) -> str:
    return taken.column or f"always “{taken.constant}”"


def _first(names: Sequence[str]) -> str:
    return names[0] if names else ""


def _taken(columns: Sequence[str], constant: str) -> dict[str, str]:
    return {"column": _first(columns), "constant": "" if columns else constant.strip()}
