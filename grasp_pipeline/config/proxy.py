"""Sections of the proxy model and its sketches."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from grasp_pipeline.section import Section, all_of, check_choices
from grasp_pipeline.sketch.kinds import KINDS


class ProxyConfig(Section):
    """The proxy language model, its reference training and the recipe of every retraining."""

    preset: Literal["tiny", "tiny-4x", "small", "gpt2-tiny", "pythia-14m", "pythia-70m", "pythia-160m"] = (
        Field(
            default="tiny",
            description="Shape of the proxy: tiny is a 0.2M-parameter Llama block stack for CPU.",
        )
    )
    checkpoint: str = Field(
        default="",
        description="Local folder or hub name of a causal LM to start from instead of a seeded preset.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code shipped with a hub model. Off unless you trust its author."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the initialisation and of the reference training's order."
    )
    reference_tokens: int = Field(
        default=1_000_000,
        ge=1_000,
        description="Tokens the reference proxy (where gradients are taken) is trained on.",
    )
    retrain_tokens: int = Field(
        default=200_000,
        ge=1_000,
        description="Tokens of every retraining on a subset, from the shared initialisation.",
    )
    batch_sequences: int = Field(default=2, ge=1, description="Sequences of L tokens per optimiser step.")
    learning_rate: float = Field(default=5e-3, gt=0, le=1.0, description="Peak learning rate of AdamW.")
    warmup_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the steps with rising learning rate."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's decoupled weight decay.")
    clip_norm: float = Field(
        default=1.0, gt=0, description="Largest gradient norm; larger gradients are scaled down."
    )
    filter_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Curation while the reference proxy trains (IIF, arXiv 2505.19281): of the sequences in a batch "
        "whose gradient goes against that of the query chunks, the share that is left out of the update. 0: off. "
        "Retrainings are never filtered, since they measure their subset.",
    )
    filter_target_rows: int = Field(
        default=16, ge=1, le=1024, description="Query chunks whose gradient a batch is compared with."
    )


class _SketchKinds(Section):
    kinds: list[str] = Field(
        default=["output", "full"],
        min_length=1,
        description=" ".join(f"`{kind.name}`: {kind.description}" for kind in KINDS),
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        check_choices("kinds", self.kinds, KINDS.names)
        return self


class _EverySketch(Section):
    pca_dim: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Dimensions to which every kind is reduced by a projection fitted on a sample of the chunks "
        "(principal components); kinds of fewer stay as they are. 0: off.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the projections and of the sample.")


class SketchConfig(_EverySketch, all_of(kind.Settings for kind in KINDS), _SketchKinds):
    """Which gradient sketches every chunk gets."""
