"""Sketchers from what the tables keep of them, and the engines that run them on a device."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.progress import Listener, Progress
from resources.compute import Compute
from resources.models import LoadedTokenizer, Models
from resources.store import DeltaStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl
    import torch

    from grasp_pipeline.proxy.objective import CausalLM
    from grasp_pipeline.sketch.build import StoredSettings
    from grasp_pipeline.sketch.making import Chunks, EngineParts
    from grasp_pipeline.sketch.pca import Projection
    from grasp_pipeline.sketch.protocol import Sketcher
    from grasp_pipeline.sketch.run import Sketched, SketchEngine


def stored_parts(
    kind: str,
    settings: str,
    objective: CausalLM,
    chunk_tokens: int,
    store: DeltaStore,
    compute: Compute,
    device: torch.device,
) -> EngineParts:
    """Return what the engine of a kind is made of by its stored settings (JSON), the stored projection included.

    Raises:
        StoreError: the projection is not the one that the settings name.
    """
    from grasp_pipeline.sketch.build import StoredSettings
    from grasp_pipeline.sketch.making import EngineParts

    stored = StoredSettings.model_validate_json(settings)
    projection = load_projection(stored, store) if stored.projection else None
    return EngineParts(
        kind,
        objective,
        stored,
        projection,
        chunk_tokens,
        compute.sketch_batch_tokens,
        compute.dtype,
        device,
    )


def new_engine(
    sketcher: Sketcher, chunk_tokens: int, compute: Compute, say: Listener, device: torch.device
) -> SketchEngine:
    """Return an engine with the batch size that the configuration asks for, or one chosen for the device."""
    from grasp_pipeline.sketch.batch_size import automatic_batch_tokens
    from grasp_pipeline.sketch.run import SketchEngine

    tokens = compute.sketch_batch_tokens or automatic_batch_tokens(sketcher, chunk_tokens, device)
    return SketchEngine(sketcher, tokens, say, device)


def load_projection(stored: StoredSettings, store: DeltaStore) -> Projection:
    """Read the projection that some settings name.

    Raises:
        StoreError: it is missing, or its digest is another one.
    """
    from grasp_pipeline.proxy.reference import file_digest
    from grasp_pipeline.sketch.pca import FILE, Projection

    with store.files(stored.projection) as folder:
        if file_digest(folder / FILE) != stored.projection_sha256:
            raise StoreError(
                f"the projection {stored.projection} differs from the digest in the table sketchers; restore the file, "
                "or delete its folder and run the job curate"
            )
        return Projection.load(folder)


@dataclass
class KindEngines:
    """One row of `sketchers`, and what engines on each device are made of: a current shard loads no model."""

    row: dict[str, Any]
    proxy_version: int
    tokenizer: LoadedTokenizer
    models: Models
    compute: Compute
    say: Listener
    devices: list[torch.device]

    @property
    def name(self) -> str:
        return self.row["sketch_kind"]

    def made_from(self, *tokens: str) -> str:
        """Return the digest of all that sketches depend on: checkpoint, this kind's settings and what is sketched."""
        from grasp_pipeline.seeds import digest
        from grasp_pipeline.sketch.build import StoredSettings

        settings = StoredSettings.model_validate_json(self.row["settings"]).of_kind(self.name)
        row = {name: value for name, value in self.row.items() if name != "settings"}
        return digest(row, settings, self.tokenizer.tokenizer_id, self.tokenizer.encoder.bos, tokens)

    def parts(self, worker: int = 0) -> EngineParts:
        """Return what an engine on a device, by its number, is made of; its model is used by no other."""
        proxy = self.models.proxy(self.proxy_version, self.row["role"])
        return stored_parts(
            self.name,
            self.row["settings"],
            proxy.objective,
            self.tokenizer.chunk_tokens,
            self.models.store,
            self.compute,
            self.devices[worker],
        )

    def blocks(self, frames: Iterable[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, Chunks]]:
        """Cut frames with columns chunk_id and input_ids into groups: the rows, and what a worker sketches."""
        from grasp_pipeline.arrays import TokenLists
        from grasp_pipeline.sketch.making import Chunks
        from grasp_pipeline.sketch.storage import group_rows, in_groups

        for rows in in_groups(frames, group_rows(self.row["d"])):
            tokens = TokenLists.of_column(rows["input_ids"])
            yield rows, Chunks(self.name, rows["chunk_id"].to_list(), tokens)

    def sketch(self, what: str, tokens: float, frames: Iterable[pl.DataFrame]) -> Iterator[Sketched]:
        """Sketch frames group by group in this process, showing progress towards `tokens`."""
        from grasp_pipeline.sketch.run import sketch_stream

        progress = Progress(f"sketching {what} ({self.name})", tokens, "tokens", self.say)
        engine = replace(self.parts(), device=self.compute.prepare()).engine(self.say)
        return sketch_stream(engine, frames, self.tokenizer.encoder.bos, progress.advance)


def kind_engines(step: Step, models: Models, compute: Compute) -> list[KindEngines]:
    """Return every kind that the store sketches by, sorted."""
    rows = step.read(tables.SKETCHERS).collect().sort("sketch_kind")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    version = step.pin(tables.PROXY_CHECKPOINTS).version
    devices, say = compute.worker_devices(), _one_at_a_time(step.say)
    return [
        KindEngines(row, version, tokenizer, models, compute, say, devices)
        for row in rows.iter_rows(named=True)
    ]


def _one_at_a_time(say: Listener) -> Listener:
    """Return a listener that several threads may tell things at once."""
    lock = threading.Lock()

    def told(message: str) -> None:
        with lock:
            say(message)

    return told
