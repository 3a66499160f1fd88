"""Where the tables lie, and opening one: its log must be readable, its layout today's, its files as written."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

from grasp_pipeline.errors import StoreError, boundary
from grasp_pipeline.locations import is_local, local_file, local_folder, tidy_root
from grasp_pipeline.tables import Table


@cache
def _table_class() -> Any:
    """Return delta-rs's table, which says where its files lie in a form that polars reads back."""
    from deltalake import DeltaTable

    class PlacedTable(DeltaTable):
        """polars takes what this names for paths; delta-rs escapes the folder above the table in them."""

        def file_uris(self, *arguments: Any, **named: Any) -> list[str]:
            return [local_file(self.table_uri, uri) for uri in super().file_uris(*arguments, **named)]

    return PlacedTable


class TableFolders:
    """The folders of all tables below one root, a local folder or an object-store URI."""

    def __init__(self, root: str, storage_options: dict[str, str] | None = None) -> None:
        self.root = tidy_root(root)
        self._options = storage_options or None

    def uri(self, table: Table) -> str:
        """Return the table's folder or URI."""
        return f"{self.root}/{table.name}"

    def _address(self, table: Table) -> str:
        """Return what delta-rs takes: a folder's whole path, since it takes the `a:` of `a:b/c` for a scheme."""
        return os.path.abspath(self.uri(table)) if is_local(self.root) else self.uri(table)

    def exists(self, table: Table) -> bool:
        """Return whether the table was created."""
        from deltalake import DeltaTable

        with self._reading(table):
            return DeltaTable.is_deltatable(self._address(table), storage_options=self._options)

    def _open(self, table: Table, version: int | None = None) -> Any:
        from deltalake.exceptions import TableNotFoundError

        try:
            with self._reading(table, but=(TableNotFoundError,)):
                opened = _table_class()(self._address(table), version=version, storage_options=self._options)
        except TableNotFoundError as error:
            raise StoreError(
                f"the table {table.name} does not exist in the store {self.root}; materialize the asset that writes it"
            ) from error
        self._check_layout(table, opened)
        return opened

    def open_to_read(self, table: Table, version: int) -> Any:
        """Open a version, whose files must be there as they were written: polars would fail late, or panic.

        Raises:
            StoreError: a file of a local table is missing or of another size.
        """
        opened = self._open(table, version)
        folder = local_folder(opened.table_uri)
        for path, size in opened._table.get_add_file_sizes().items() if folder is not None else ():
            file = Path(folder or "", path)
            fault = "is missing" if not file.is_file() else "was cut or changed"
            if fault == "is missing" or file.stat().st_size != size:
                raise StoreError(
                    f"the file {file} of the table {table.name} {fault}; restore it, or delete {self.uri(table)} and "
                    "materialize the asset that writes it"
                )
        return opened

    def _reading(self, table: Table, but: tuple[type[Exception], ...] = ()) -> AbstractContextManager[None]:
        """Around a call of delta-rs that reads the table's log."""
        thing = f"the table {table.name} in the store {self.root} cannot be opened"
        if not is_local(self.root):
            return boundary(StoreError, thing, "check that the store can be reached and read", but)
        remedy = f"restore {self.uri(table)}, or delete it and materialize the asset that writes it"
        return boundary(StoreError, thing, remedy, but)

    def _writing(self, table: Table, but: tuple[type[Exception], ...] = ()) -> AbstractContextManager[None]:
        """Around a call of delta-rs that writes."""
        thing = f"the table {table.name} cannot be written to the store {self.root}"
        remedy = "make the store writable and see that it has room, or set GRASP_STORE to another"
        return boundary(StoreError, thing, remedy, but)

    def _check_layout(self, table: Table, opened: Any) -> None:
        """Refuse a table that an older version laid out otherwise; delta-rs would tell it late and in its own words.

        Nothing is migrated: whether old rows can stand for new ones is for the asset to say, which writes them again.
        """
        stored = {column.name for column in opened.schema().fields}
        partitions = tuple(opened.metadata().partition_columns)
        missing = [name for name in table.schema if name not in stored]
        unknown = sorted(stored - set(table.schema))
        if missing or unknown or partitions != table.partition_by:
            faults = [f"it has no column {name}" for name in missing]
            faults += [f"it has a column {name} that is not written any more" for name in unknown]
            if partitions != table.partition_by:
                wanted, found = (", ".join(names) or "nothing" for names in (table.partition_by, partitions))
                faults.append(f"it is partitioned by {found} instead of {wanted}")
            raise StoreError(
                f"the table {table.name} in the store {self.root} was written by another version of grasp_pipeline: "
                f"{'; '.join(faults)}. Delete {self.uri(table)} and materialize the asset that writes it again"
            )
