"""A row of `curations` as an object, and what reads tables at the versions that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.tables import Table


class TableReader(Protocol):
    """Reads tables at versions; `resources.delta.tables.DeltaTables` is one."""

    def read(self, table: Table, version: int) -> pl.LazyFrame:
        """Return a lazy frame of a table at a version."""
        ...


@dataclass(frozen=True)
class Curation:
    """One published or refused result.

    Attributes:
        number: from 1.
        row: of `tables.CURATIONS`.
        reader: of the tables.
    """

    number: int
    row: Mapping[str, Any]
    reader: TableReader

    @property
    def versions(self) -> dict[str, int]:
        """Table -> version that the result really read."""
        return json.loads(self.row["versions"])

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Input file -> fingerprint, rows, bytes."""
        return json.loads(self.row["inputs"])

    @property
    def certificate(self) -> list[dict[str, Any]]:
        """The rows of `tables.CERTIFICATES`."""
        return json.loads(self.row["certificate"])

    @property
    def configuration(self) -> dict[str, Any]:
        """`step.field` -> value."""
        import yaml

        flat: dict[str, Any] = {}

        def add(prefix: str, value: Any) -> None:
            if isinstance(value, dict) and value:
                for key, inside in value.items():
                    add(f"{prefix}.{key}", inside)
            else:
                flat[prefix] = value

        for step, section in yaml.safe_load(self.row["configuration"])["ops"].items():
            add(step, section["config"])
        return flat

    def read(self, table: Table) -> pl.LazyFrame:
        """Return a table as this curation read it; without rows where it did not exist then."""
        version = self.versions.get(table.name)
        return table.empty().lazy() if version is None else self.reader.read(table, version)


def find_curation(rows: pl.DataFrame, number: int | None, reader: TableReader) -> Curation:
    """Return a curation by its number; None: the newest one that was published, or refused if none was.

    Raises:
        ConfigError: there is no such curation.
    """
    if rows.is_empty():
        raise ConfigError(
            "the store has no curations yet; run the job curate or recurate, which records them"
        )
    if number is None:
        published = rows.filter(pl.col("published"))
        number = (rows if published.is_empty() else published)["curation"].max()  # type: ignore[assignment]
    found = rows.filter(pl.col("curation") == number)
    if found.is_empty():
        known = ", ".join(map(str, rows["curation"].sort().to_list()))
        raise ConfigError(f"there is no curation {number}; choose among {known}")
    row = found.row(0, named=True)
    return Curation(row["curation"], row, reader)
