"""One run at a time in a step of a store: another one waits, and then reads what the first left."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from assets import terminal
from grasp_pipeline.seeds import digest
from resources.store import DeltaStore
from resources.turns import turns

LOCKS = ".turns"
"""Folder of a local store with the files that are locked."""


def folder(store: DeltaStore) -> Path:
    """Return where the locks of a store lie: in it, for one elsewhere in the machine's temporary folder.

    Runs of several machines on an object store do not see one another's; there the commits alone keep a table whole.
    """
    if store.is_local:
        return Path(store.place, LOCKS).absolute()
    return Path(tempfile.gettempdir(), f"grasp-turns-{digest(store.place)[:16]}")


def turn(context: Any, store: DeltaStore, by_shard: bool) -> AbstractContextManager[bool]:
    """Return what holds the turn at a step, or at the shards of it that a run makes, and says whether it waited.

    It is taken before the step pins what it reads, so whoever comes later reads what is newer.
    """
    name = context.op_execution_context.op.name
    names = [f"{name}-{shard}" for shard in context.partition_keys] if by_shard else [name]
    return turn_of(context, store, names)


def turn_of(context: Any, store: DeltaStore, names: list[str]) -> AbstractContextManager[bool]:
    """Return what holds turns by their names.

    Raises:
        StoreError: the store cannot be written.
    """
    store.check_writable()

    def waits(holder: str) -> None:
        at = context.op_execution_context.op.name
        message = f"{at} waits: {holder or 'another run'} is in this step of the same store"
        context.log.info(message)
        terminal.tell(message, 2)

    return turns(folder(store), names, f"run {context.run.run_id}", waits)
