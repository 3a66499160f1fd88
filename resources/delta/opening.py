"""Where the tables lie, and opening one: its log must be readable, its layout today's, its files as written."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from grasp_pipeline.errors import StoreError, boundary
from grasp_pipeline.locations import is_local, local_file, local_folder, tidy_root
from grasp_pipeline.tables import Table

PATIENCE = 600.0
"""Seconds for which a commit is tried again while other writers keep being first."""

LONGEST_PAUSE = 5.0
"""Seconds between two tries at most, or eight times what the last try took; every pause is drawn from 0 on, so that
writers do not meet again and again."""

Result = TypeVar("Result")


class LostRace(Exception):
    """Another writer committed first, and what it changed is what this one was about to."""


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
        self._options = _safe_options(self.root, storage_options or {}) or None
        self._histories: dict[str, tuple[tuple[Any, ...], list[dict[str, Any]]]] = {}
        self._opened: dict[tuple[str, int], tuple[tuple[Any, ...] | None, Any]] = {}

    def uri(self, table: Table) -> str:
        """Return the table's folder or URI."""
        return f"{self.root}/{table.name}"

    def _address(self, table: Table) -> str:
        """Return what delta-rs takes: a folder's whole path, since it takes the `a:` of `a:b/c` for a scheme."""
        return os.path.abspath(self.uri(table)) if is_local(self.root) else self.uri(table)

    def exists(self, table: Table) -> bool:
        """Return whether the table was created."""
        from deltalake import DeltaTable

        if is_local(self.root) and os.path.isfile(
            os.path.join(self._address(table), "_delta_log", f"{0:020}.json")
        ):
            return True

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

    def _open_once(self, table: Table, version: int) -> Any:
        """Open a version, or give what it was opened as before: a version does not change."""
        state = self._log_state(table, version)
        known = self._opened.get((table.name, version))
        if known is None or state is None or known[0] != state:
            if len(self._opened) >= _HELD_OPEN:
                self._opened.clear()
            known = self._opened[table.name, version] = state, self._open(table, version)
        return known[1]

    def open_to_read(self, table: Table, version: int) -> Any:
        """Open a version, whose files must be there as they were written: polars would fail late, or panic.

        Where files of it are gone, a compaction that came after it stands in for it: the same rows in fewer files.

        Raises:
            StoreError: a file of a local table is missing or of another size.
        """
        opened = self._open_once(table, version)
        damage = _damage(opened)
        if damage is not None and damage[1] == "is missing":
            later = compaction_after(opened.version(), self.history(table))
            if later is not None:
                opened = self._open(table, later)
                damage = _damage(opened)
        if damage is not None:
            file, fault = damage
            raise StoreError(
                f"the file {file} of the table {table.name} {fault}; restore it, or delete {self.uri(table)} and "
                "materialize the asset that writes it"
            )
        return opened

    def history(self, table: Table) -> list[dict[str, Any]]:
        """Return the table's commits as `numbered_history` does; where the log has not grown it is not read again."""
        state = self._log_state(table)
        known = self._histories.get(table.name)
        if known is not None and state is not None and known[0] == state:
            return known[1]
        told = longer_history(self._open(table), [] if known is None else known[1])
        if state is not None and state[0] == told[0]["version"]:
            self._histories[table.name] = state, told
        return told

    def _log_state(self, table: Table, version: int | None = None) -> tuple[Any, ...] | None:
        """Return the newest version of a local table and what its log, up to a version, is known again by, else None.

        Entries older than a checkpoint are opened no more; that none is lost is seen from their number.
        """
        if not is_local(self.root):
            return None
        log = os.path.join(self._address(table), "_delta_log")
        last = "" if version is None else f"{version:020}.json"
        with suppress(OSError):
            names = (name for name in os.listdir(log) if len(name) == 25 and name.endswith(".json"))
            entries = sorted(name for name in names if not last or name <= last)
            if entries and (not last or entries[-1] == last):
                stats = (os.stat(os.path.join(log, name)) for name in entries[-_SINCE_CHECKPOINT:])
                told = [(each.st_ino, each.st_size, each.st_mtime_ns) for each in stats]
                return int(entries[-1][:20]), len(entries), *told
        return None

    def open_to_care(self, table: Table) -> Any:
        """Open the newest version, for what changes files and log but no rows."""
        return self._open(table)

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

    @staticmethod
    def lacking(table: Table, opened: Any) -> list[str]:
        """Return the added columns that an open table does not have yet."""
        stored = {column.name for column in opened.schema().fields} if table.added else set()
        return [name for name in table.added if name not in stored]

    @contextmanager
    def _racing(self, table: Table) -> Iterator[None]:
        """Around a commit, as `_writing`; one that others came before raises `LostRace`."""
        from deltalake.exceptions import CommitFailedError, DeltaError

        with self._writing(table, but=(LostRace,)):
            try:
                yield
            except DeltaError as error:
                # delta-rs has no type for a table that two writers create at once.
                if isinstance(error, CommitFailedError) or "changed since last commit" in str(error):
                    raise LostRace from error
                raise

    def _persist(self, table: Table, attempt: Callable[[], Result]) -> Result:
        """Do what may lose a race, again until it is done.

        Raises:
            StoreError: others kept being first for `PATIENCE` seconds.
        """
        begun, pause = time.monotonic(), 0.1
        while True:
            tried = time.monotonic()
            try:
                return attempt()
            except LostRace as error:
                if time.monotonic() - begun > PATIENCE:
                    raise StoreError(
                        f"another writer kept changing {table.name} for {PATIENCE:.0f} s while it was written; launch "
                        "the step again when the other run has ended"
                    ) from error
            pause = min(2 * pause, max(LONGEST_PAUSE, 8 * (time.monotonic() - tried)))
            time.sleep(random.uniform(0.0, pause))

    def _check_layout(self, table: Table, opened: Any) -> None:
        """Refuse a table that an older version laid out otherwise; delta-rs would tell it late and in its own words.

        Nothing is migrated: whether old rows can stand for new ones is for the asset to say, which writes them again.
        """
        stored = {column.name for column in opened.schema().fields}
        partitions = tuple(opened.metadata().partition_columns)
        missing = [name for name in table.schema if name not in stored and name not in table.added]
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


def _safe_options(root: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the storage options with which no commit overwrites another; S3 is asked for conditional puts.

    Raises:
        StoreError: they ask for commits by renaming, which two writers can both win.
    """
    if not root.startswith(("s3://", "s3a://")):
        return dict(options)
    asked = {
        name.lower().removeprefix("aws_"): value for name, value in (*os.environ.items(), *options.items())
    }
    if asked.get("s3_allow_unsafe_rename", "").lower() in ("1", "true", "yes", "on"):
        raise StoreError(
            f"AWS_S3_ALLOW_UNSAFE_RENAME is set for the store {root}: two writers could commit the same version and "
            "one would be lost; unset it (commits are conditional puts, which S3 and MinIO know)"
        )
    locked = "conditional_put" in asked or asked.get("s3_locking_provider")
    return dict(options) | ({} if locked else {"conditional_put": "etag"})


def numbered_history(opened: Any) -> list[dict[str, Any]]:
    """Return the commits of an open table, newest first, as delta-rs tells them but under their own versions.

    delta-rs counts down from the version that was opened, though it lists what was committed since: the oldest of a log
    that nobody has shortened is version 0.
    """
    told = opened.history()
    newest = max(opened.version(), len(told) - 1)
    return [{**each, "version": newest - back} for back, each in enumerate(told)]


def longer_history(opened: Any, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what `numbered_history` does of an open table; of a log that has grown, only the new entries are read.

    known: what was returned before, of a log that may be another's; empty: nothing.
    """
    grown = opened.version() - known[0]["version"] if known else -1
    if not 0 <= grown < len(known):
        return numbered_history(opened)
    told = opened.history(grown + _OVERLAP)

    def bare(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in each.items() if name != "version"} for each in entries]

    for new in range(grown, len(told)):  # more than that many where others committed since it was opened
        if bare(told[new:]) == bare(known[: len(told) - new]):
            newest = known[0]["version"] + new
            return [{**each, "version": newest - back} for back, each in enumerate(told[:new])] + known
    return numbered_history(opened)


_SINCE_CHECKPOINT = 10
"""Entries of a log that may come after its newest checkpoint."""

_HELD_OPEN = 64
"""Versions of tables that are held open at most."""

_OVERLAP = 8
"""Entries that are read again, to see that a log is the one that was read before."""


def _damage(opened: Any) -> tuple[Path, str] | None:
    """Return a file of an open local table that is not as it was written, and what is wrong with it."""
    folder = local_folder(opened.table_uri)
    for path, size in opened._table.get_add_file_sizes().items() if folder is not None else ():
        file = Path(folder or "", path)
        if not file.is_file():
            return file, "is missing"
        if file.stat().st_size != size:
            return file, "was cut or changed"
    return None


def compaction_after(version: int, history: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the newest version that holds the rows of another one in fewer files; None where there is none.

    Args:
        version: the other one.
        history: the table's commits, as `numbered_history` tells them.
    """
    found = None
    for commit in sorted(history, key=lambda each: each["version"]):
        if commit["version"] <= version:
            continue
        if commit.get("operation") == "OPTIMIZE":
            found = int(commit["version"])
        elif "partition" in commit or commit.get("operation") not in NO_ROWS:
            break
    return found


NO_ROWS = ("WRITE", "SET TBLPROPERTIES", "VACUUM START", "VACUUM END")
"""Operations of commits that leave the rows alone where they do not name a partition: notes, and care."""
