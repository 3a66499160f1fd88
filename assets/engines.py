"""Sketchers from what the tables keep of them, and the engines that run them on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grasp_pipeline.errors import StoreError
from grasp_pipeline.progress import Listener
from resources.compute import Compute
from resources.store import DeltaStore

if TYPE_CHECKING:
    import torch

    from grasp_pipeline.proxy.objective import CausalLM
    from grasp_pipeline.sketch.build import StoredSettings
    from grasp_pipeline.sketch.pca import Projection
    from grasp_pipeline.sketch.protocol import Sketcher
    from grasp_pipeline.sketch.run import SketchEngine


def stored_engine(
    kind: str,
    settings: str,
    objective: CausalLM,
    chunk_tokens: int,
    store: DeltaStore,
    compute: Compute,
    say: Listener,
    device: torch.device,
) -> SketchEngine:
    """Return the engine of a kind by its stored settings (JSON), with the stored projection where there is one.

    Raises:
        StoreError: the projection is not the one that the settings name.
    """
    import torch

    from grasp_pipeline.sketch.build import StoredSettings, build_sketcher
    from grasp_pipeline.sketch.pca import PcaSketcher

    stored = StoredSettings.model_validate_json(settings)
    sketcher: Sketcher = build_sketcher(kind, objective, stored, device, getattr(torch, compute.dtype))
    if stored.projection:
        sketcher = PcaSketcher(sketcher, load_projection(stored, store), device)
    return new_engine(sketcher, chunk_tokens, compute, say, device)


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
