"""Sections of the proxy model and its sketches."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from grasp_pipeline.config.base import Section, check_choices


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
    early_fraction: float = Field(
        default=0.33,
        gt=0,
        lt=1,
        description="Share of the reference training after which the early checkpoint is kept.",
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


class SketchConfig(Section):
    """Which gradient sketches every chunk gets."""

    kinds: list[str] = Field(
        default=["output", "full"],
        min_length=1,
        description="`output`: output layer, forward pass only. `full`: whole gradient, sparse JL projection. "
        "`layers`: every linear layer and embedding, projected on both sides, one block per layer.",
    )
    output_hidden_dim: int = Field(default=64, ge=1, le=512, description="Projected hidden side of `output`.")
    output_vocab_dim: int = Field(
        default=64, ge=1, le=4096, description="Projected vocabulary side of `output`."
    )
    full_dim: int = Field(default=1024, ge=8, le=65_536, description="Dimension of `full`.")
    full_sparsity: int = Field(
        default=4, ge=1, le=64, description="Non-zeros per parameter in the sparse JL."
    )
    layers_input_dim: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Projected input side of each layer of `layers`. Its dimension is the number of layers times "
        "both sides: 1,024 for the preset tiny.",
    )
    layers_output_dim: int = Field(
        default=8, ge=1, le=64, description="Projected output side of each layer of `layers`."
    )
    pca_dim: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Dimensions to which every kind is reduced by a projection fitted on a sample of the chunks "
        "(principal components); kinds of fewer stay as they are. 0: off.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the projections and of the sample.")
    early_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of the chunks (by hash) sketched at the early checkpoint, for the judge.",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        check_choices("kinds", self.kinds, ("output", "full", "layers"))
        return self
