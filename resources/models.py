"""Tokenizer and proxy checkpoints as an injected resource: what their tables name, loaded from the store."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError, boundary
from grasp_pipeline.names import CheckpointRole
from resources.store import DeltaStore

if TYPE_CHECKING:
    from grasp_pipeline.corpus.tokenizer import TextEncoder
    from grasp_pipeline.proxy.objective import CausalLM
    from grasp_pipeline.proxy.training import Recipe

_RESTORE = "restore the file or materialize proxy_checkpoints again"


@dataclass(frozen=True)
class LoadedTokenizer:
    """The tokenizer in memory, its id and the chunk length L stored beside it."""

    tokenizer_id: str
    encoder: "TextEncoder"
    chunk_tokens: int


@dataclass(frozen=True)
class LoadedProxy:
    """A checkpoint in memory with its id, the file's digest and the retraining recipe stored beside it."""

    checkpoint_id: str
    objective: "CausalLM"
    recipe: "Recipe"

    def trained_for(self, tokens: int) -> "LoadedProxy":
        """Return it with a recipe of another length in training tokens; 0 leaves the length."""
        return replace(self, recipe=self.recipe.spending(tokens)) if tokens else self


class Models(dg.ConfigurableResource):
    """Loads the tokenizer and the proxy at the versions that a step has pinned."""

    store: dg.ResourceDependency[DeltaStore]

    def tokenizer(self, version: int) -> LoadedTokenizer:
        """Load the tokenizer that the `tokenizer` table names at a version."""
        from grasp_pipeline.corpus.tokenizer import load_saved

        row = self.store.tables.read(tables.TOKENIZER, version).collect().row(0, named=True)
        with self.store.files(row["path"]) as folder:
            encoder = load_saved(folder, row["bos"])
        return LoadedTokenizer(row["tokenizer_id"], encoder, row["chunk_tokens"])

    def checkpoints_whole(self, version: int) -> bool:
        """Return whether the files of all checkpoints at a version are there as they were written."""
        try:
            for row in (
                self.store.tables.read(tables.PROXY_CHECKPOINTS, version).collect().iter_rows(named=True)
            ):
                with self._checkpoint(row):
                    pass
        except StoreError:
            return False
        return True

    def tokenizer_whole(self, version: int) -> bool:
        """Return whether the tokenizer at a version can be loaded."""
        try:
            self.tokenizer(version)
        except StoreError:
            return False
        return True

    def proxy(self, version: int, role: CheckpointRole) -> LoadedProxy:
        """Load the checkpoint with a role (initial, reference) at a version of `proxy_checkpoints`.

        Raises:
            StoreError: the file's digest is not the one in the table.
        """
        from grasp_pipeline.proxy.objective import CausalLM
        from grasp_pipeline.proxy.presets import load_model
        from grasp_pipeline.proxy.training import Recipe

        frame = self.store.tables.read(tables.PROXY_CHECKPOINTS, version).collect()
        row = next(row for row in frame.iter_rows(named=True) if row["role"] == role)
        with self._checkpoint(row) as folder:
            objective = CausalLM(load_model(folder))
        return LoadedProxy(row["checkpoint_id"], objective, Recipe(**json.loads(row["recipe"])))

    @contextmanager
    def _checkpoint(self, row: dict[str, Any]) -> Iterator[Path]:
        """Give the folder of a checkpoint, whose files must be those that its row tells of."""
        from grasp_pipeline.proxy.reference import file_digest, shape_json

        with self.store.files(row["path"]) as folder:
            with boundary(StoreError, f"the checkpoint {folder} cannot be read", _RESTORE):
                found, shape = file_digest(folder / "model.safetensors"), shape_json(folder)
            for what, differs in (
                ("weights", found != row["sha256"]),
                ("shape", shape != row["model_config"]),
            ):
                if differs:
                    raise StoreError(
                        f"the {what} of checkpoint {row['checkpoint_id'][:12]} ({row['role']}) differ from what "
                        f"proxy_checkpoints says; {_RESTORE}"
                    )
            yield folder
