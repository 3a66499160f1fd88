"""One row of any table, made of what matters to a test and of blanks."""

from __future__ import annotations

from typing import Any

import polars as pl

from grasp_pipeline.tables import Table

_BLANKS: dict[Any, Any] = {pl.Int64: 0, pl.Float64: 0.0, pl.Binary: b"\x80", pl.Boolean: True}


def one_row(table: Table, **values: Any) -> pl.DataFrame:
    """Return one row of a table; a column that is not given is 0, true or empty, a string its own name."""
    unknown = set(values) - set(table.schema)
    assert not unknown, f"{table.name} has no column {', '.join(sorted(unknown))}"
    full = {
        name: values[name] if name in values else name if dtype == pl.String else _BLANKS.get(dtype, [])
        for name, dtype in table.schema.items()
    }
    return pl.DataFrame([full], schema=table.schema)


def rows(table: Table, *each: dict[str, Any]) -> pl.DataFrame:
    """Return a frame of such rows."""
    return pl.concat([table.empty(), *(one_row(table, **values) for values in each)])
