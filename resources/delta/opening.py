"""Where the tables lie, and opening one: its log must be readable, its layout today's, its files as written."""

from __future__ import annotations

import json
import os
import random
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from grasp_pipeline.errors import StoreError, boundary
from grasp_pipeline.locations import is_local, local_file, local_folder, tidy_root
from grasp_pipeline.tables import Table
from resources.delta.commits import Commit, commit_of
from resources.delta.history import History, compaction_after

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
        self._histories: dict[str, tuple[tuple[Any, ...] | None, History]] = {}
        self._listed: dict[str, tuple[tuple[int, int], list[str]]] = {}
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

    def history(self, table: Table) -> History:
        """Return the table's commits; of a log that has grown, what was read of it before is not read again."""
        state = self._log_state(table)
        known = self._histories.get(table.name)
        if known is not None and state is not None and known[0] == state:
            return known[1]
        if known is not None and state is not None and _only_grown(known[0], state):
            history = History(known[1].read, state[0], known[1])
        else:
            opened = self._open(table)
            read = partial(self._entries_of, table, opened)
            history = History(read, opened.version(), None if known is None else known[1])
        self._histories[table.name] = state, history
        return history

    def _entries_of(self, table: Table, opened: Any, versions: Sequence[int]) -> list[Commit | None]:
        """Return the commits of versions by their own files in the log."""
        read = partial(self._commit_at, table, opened)
        if len(versions) == 1 or is_local(self.root):
            return [read(version) for version in versions]
        with ThreadPoolExecutor(_READERS) as readers:
            return list(readers.map(read, versions))

    def _commit_at(self, table: Table, opened: Any, version: int) -> Commit | None:
        """Return the commit of a version by its own file in the log; None where there is none."""
        from deltalake.fs import DeltaStorageHandler

        with self._reading(table, but=(FileNotFoundError,)), suppress(FileNotFoundError):
            if is_local(self.root):
                content = Path(self._address(table), "_delta_log", _entry(version)).read_bytes()
            else:
                files = DeltaStorageHandler.from_table(opened._table, opened._storage_options, {})
                content = files.open_input_file(f"_delta_log/{_entry(version)}").read()
            actions = content.splitlines()
            told = (each["commitInfo"] for each in map(json.loads, actions) if "commitInfo" in each)
            return commit_of(table.name, version, next(told, {}))
        return None

    def _log_state(self, table: Table, version: int | None = None) -> tuple[Any, ...] | None:
        """Return the newest version of a local table and what its log, up to a version, is known again by, else None.

        Entries older than a checkpoint are opened no more; that none is lost is seen from their number.
        """
        if not is_local(self.root):
            return None
        log = os.path.join(self._address(table), "_delta_log")
        with suppress(OSError):
            entries = self._entries(log)
            count = len(entries) if version is None else bisect_right(entries, _entry(version))
            if count and (version is None or entries[count - 1] == _entry(version)):
                names = entries[max(0, count - _SINCE_CHECKPOINT) : count]
                stats = (os.stat(os.path.join(log, name)) for name in names)
                told = [(each.st_ino, each.st_size, each.st_mtime_ns) for each in stats]
                return int(names[-1][:20]), count, *told
        return None

    def _entries(self, log: str) -> list[str]:
        """Return the names of a local log's entries, oldest first; it is listed again only where its folder changed.

        A folder's time is coarse: that nothing was added since is seen from the next entry too.
        """
        folder = os.stat(log)
        changed = folder.st_ino, folder.st_mtime_ns
        known, entries = self._listed.get(log, (None, []))
        following = _entry(int(entries[-1][:20]) + 1) if entries else _entry(0)
        if known != changed or os.path.exists(os.path.join(log, following)):
            entries = sorted(name for name in os.listdir(log) if len(name) == 25 and name.endswith(".json"))
            self._listed[log] = changed, entries
        return entries

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


def _entry(version: int) -> str:
    return f"{version:020}.json"


def _only_grown(before: tuple[Any, ...] | None, now: tuple[Any, ...]) -> bool:
    """Whether a log in a later state holds what it held before and more; False too where that cannot be told."""
    if before is None:
        return False
    grown, (_, *old), (_, *new) = now[0] - before[0], before[1:], now[1:]
    kept = new[: len(new) - grown]
    return 0 <= grown == now[1] - before[1] and bool(kept) and kept == old[-len(kept) :]


_SINCE_CHECKPOINT = 10
"""Entries of a log that may come after its newest checkpoint."""

_READERS = 16
"""Entries of a log on an object store that are read at once."""

_HELD_OPEN = 64
"""Versions of tables that are held open at most."""


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
