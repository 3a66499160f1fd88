"""Partitions as delta-rs and Delta predicates take them."""

from __future__ import annotations

import polars as pl

from grasp_pipeline.errors import StoreError
from grasp_pipeline.tables import Table
from resources.delta.commits import Partition

_NO_VALUE = ("", "__HIVE_DEFAULT_PARTITION__")


def sql_literal(value: str) -> str:
    """Quote a string for a Delta predicate; quotes inside are doubled."""
    return "'" + value.replace("'", "''") + "'"


def partition_predicate(partition: Partition) -> str:
    """Return the predicate that selects one partition."""
    return " AND ".join(f'"{key}" = {sql_literal(value)}' for key, value in partition.items())


def check_partition(table: Table, frame: pl.DataFrame, partition: Partition | None) -> None:
    """Refuse rows that lie outside the partition to be written, or in one that would be read back as no value.

    Raises:
        StoreError: a row's value of a partition column is empty, or Hive's name for null.
        ValueError: the table is not partitioned by a key, or a row has another value of it.
    """
    for key in table.partition_by:
        if frame.filter(pl.col(key).is_in(_NO_VALUE)).height:
            raise StoreError(
                f"rows for table {table.name} have a {key} that is empty or {_NO_VALUE[1]}, which would be read "
                f"back as none; give the {key} another name"
            )
    for key, value in (partition or {}).items():
        if key not in table.partition_by:
            raise ValueError(f"table {table.name} is not partitioned by {key}")
        if frame.filter(pl.col(key).ne_missing(value)).height:
            raise ValueError(f"rows for table {table.name} lie outside the partition {key}={value}")
