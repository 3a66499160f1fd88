"""Tokenizer and proxy checkpoints as an injected resource: what their tables name, loaded from the store."""

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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

    def proxy(self, version: int, role: CheckpointRole) -> LoadedProxy:
        """Load the checkpoint with a role (initial, early, reference) at a version of `proxy_checkpoints`.

        Raises:
            StoreError: the file's digest is not the one in the table.
        """
        from grasp_pipeline.proxy.objective import CausalLM
        from grasp_pipeline.proxy.presets import load_model
        from grasp_pipeline.proxy.reference import file_digest
        from grasp_pipeline.proxy.training import Recipe

        frame = self.store.tables.read(tables.PROXY_CHECKPOINTS, version).collect()
        row = next(row for row in frame.iter_rows(named=True) if row["role"] == role)
        with self.store.files(row["path"]) as folder:
            with boundary(StoreError, f"the checkpoint {folder} cannot be read", _RESTORE):
                found = file_digest(folder / "model.safetensors")
            if found != row["sha256"]:
                raise StoreError(
                    f"the weights of checkpoint {row['checkpoint_id'][:12]} ({role}) differ from the digest in "
                    f"proxy_checkpoints; {_RESTORE}"
                )
            objective = CausalLM(load_model(folder))
        return LoadedProxy(row["checkpoint_id"], objective, Recipe(**json.loads(row["recipe"])))
