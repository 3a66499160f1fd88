"""Pages of the documentation that are generated from the code: configuration, tables, and what lies beside `docs/`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from grasp_pipeline import tables
from grasp_pipeline.columns import meaning

ROOT = Path(__file__).resolve().parents[1]

BESIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "data/README.md": "data.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages outside the folder of the documentation -> generated page."""

_LINK = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?\)")


def type_name(annotation: Any) -> str:
    """Return a field's type in a reader's words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(type_name(each) for each in inside if each is not NoneType)
    if origin is list:
        return f"list of {type_name(inside[0])}"
    if origin is dict:
        return f"mapping of {type_name(inside[0])} to {type_name(inside[1])}"
    known = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return known.get(annotation) or getattr(annotation, "__name__", str(annotation))


def bounds(field: FieldInfo) -> str:
    """Return what a field's value must keep to, from its metadata; empty where anything goes."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    told = [
        f"{word} {value:g}"
        for each in field.metadata
        for name, word in words.items()
        if (value := getattr(each, name, None)) is not None
    ]
    return ", ".join(told)


def default(field: FieldInfo) -> str:
    """Return a field's default as YAML would have it."""
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{json.dumps(value)}`"


def cell(text: str) -> str:
    """Return text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def field_rows(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield a row for every field of a section, those of sections inside it by dotted names."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from field_rows(kind, f"{prefix}{name}.")
            continue
        limits = bounds(field)
        told = type_name(kind) + (f", {limits}" if limits else "")
        cells = (f"`{prefix}{name}`", told, default(field), field.description or "")
        yield "| " + " | ".join(cell(each) for each in cells) + " |"


def configuration_page() -> str:
    """Return the reference of the run configuration: every step's section, every resource, every field."""
    from assets import graph as _graph  # noqa: F401  declares every stage
    from assets.stages import sections
    from resources.compute import Compute
    from resources.models import Models
    from resources.store import DeltaStore

    parts = [
        "# Configuration",
        "A run configuration is a YAML file: `ops: STEP: config: FIELD: value`, and `resources: NAME: config:` for "
        "where and how it runs. Every field has a default unless the table says otherwise; unknown fields and values "
        "out of range are refused before any work. This page is generated from the code.",
    ]
    header = "| field | value | default | what it does |\n|---|---|---|---|\n"
    for step, section in sections().items():
        rows = list(field_rows(section))
        parts.append(f"## `{step}`\n\n{header}" + "\n".join(rows))
    for name, resource in {"compute": Compute, "models": Models, "store": DeltaStore}.items():
        rows = [row for row in field_rows(resource) if not row.startswith("| `store`")]  # another resource
        if rows:
            parts.append(f"## Resource `{name}`\n\n{header}" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def tables_page() -> str:
    """Return the reference of the tables: description, key, partitions, and every column with its type and meaning."""
    parts = [
        "# Tables",
        "Delta tables below the store's folder, one folder each, readable with polars, DuckDB, Spark and all that "
        "reads Delta. Keys are unique. Every commit names run, code version, digest of the configuration and the "
        "versions of the tables that it was made from. This page is generated from the code.",
    ]
    for table in tables.ALL.values():
        about = f"Key: {', '.join(f'`{name}`' for name in table.key) or 'one row'}."
        if table.partition_by:
            about += f" Partitioned by {', '.join(f'`{name}`' for name in table.partition_by)}."
        head = "| column | type | meaning |\n|---|---|---|"
        rows = [
            f"| `{name}` | {cell(str(kind))} | {cell(meaning(table, name))} |"
            for name, kind in table.schema.items()
        ]
        parts.append("\n\n".join([f"## `{table.name}`", table.description, about, "\n".join([head, *rows])]))
    return "\n\n".join(parts) + "\n"


def out_of_the_folder(text: str) -> str:
    """Return a page whose links to files outside `docs/` lead to a generated page, or are the bare text."""

    def within(match: re.Match[str]) -> str:
        page = BESIDE.get(match[2])
        return f"](reference/{page}{match[3] or ''})" if page else f"]({match[1]}{match[2]})"

    text = _LINK.sub(within, text)
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+[^)]*\)", r"\1", text)


def beside_page(path: Path) -> str:
    """Return a page that lies outside `docs/`, its links as they are from `docs/reference/`."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\]\((?:\.\./)?docs/([^)]*)\)", r"](<docs>\1)", text)
    text = re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|<docs>|#)[^)]*\)", r"\1", text)
    return text.replace("](<docs>", "](../")


def write_reference(folder: Path) -> None:
    """Write all generated pages; those that say the same as before are left alone."""
    folder.mkdir(exist_ok=True)
    pages = {"configuration.md": configuration_page(), "tables.md": tables_page()}
    pages |= {
        name: beside_page(ROOT / source) for source, name in BESIDE.items() if (ROOT / source).is_file()
    }
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
