"""Section of the protocol on images."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from grasp_pipeline.section import Section, check_grid


class VisionConfigSection(Section):
    """The laboratory's protocol on images: a pool of a data set, an image classifier, and every method beside it."""

    data_set: Literal["digits", "fashion_mnist"] = Field(
        default="digits",
        description="`digits`: scikit-learn's 1,797 images of 8 x 8 pixels, always there. `fashion_mnist`: 60,000 of "
        "28 x 28 pixels, from the Debian package dataset-fashion-mnist.",
    )
    folder: str = Field(
        default="/usr/share/datasets/fashion-mnist",
        min_length=1,
        description="Folder of Fashion-MNIST's files; `digits` does not read it.",
    )
    pool: int = Field(default=800, ge=100, le=50_000, description="Images of the pool, copies among them.")
    duplicate_share: float = Field(
        default=0.2,
        ge=0,
        lt=0.9,
        description="Share of the pool that are copies, half exact and half jittered.",
    )
    copies_each: int = Field(default=4, ge=1, le=100, description="Most copies of one image.")
    label_noise: float = Field(
        default=0.1, ge=0, lt=0.9, description="Share of the pool's images with a wrong label."
    )
    query_images: int = Field(
        default=40, ge=4, le=10_000, description="Images per task that directions are taken from."
    )
    evaluation_images: int = Field(
        default=100, ge=4, le=10_000, description="Images per task that utilities are taken on."
    )
    calibration_subsets: int = Field(
        default=96,
        ge=12,
        le=10_000,
        description="Subsets that the configuration is chosen on: a third of them tilted and a third drawn towards "
        "a task, the rest uniform, half of it at a tenth of the pool.",
    )
    evaluation_subsets: int = Field(
        default=84,
        ge=12,
        le=10_000,
        description="Random subsets that methods are compared on: three in seven tilted, the rest uniform, half of it "
        "at a tenth of the pool.",
    )
    optimised_tasks: int = Field(
        default=4,
        ge=0,
        le=5,
        description="Tasks that add finalists to the evaluation, one of every selector.",
    )
    seeds: int = Field(
        default=2,
        ge=2,
        le=32,
        description="Training seeds per evaluation subset; two at least, for the ceiling.",
    )
    steps: int = Field(default=200, ge=10, le=1_000_000, description="Optimiser steps of every retraining.")
    batch_images: int = Field(default=32, ge=1, le=65_536, description="Images per optimiser step.")
    learning_rate: float = Field(default=3e-3, gt=0, le=1.0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=1.0, ge=0, description="AdamW's decoupled weight decay.")
    metrics: list[float] = Field(
        default=[1.0, 3.0, 10.0],
        min_length=1,
        description="Metrics M to try: 0 is the identity, rho > 0 whitens with damping rho * tr(C)/d.",
    )
    lambdas: list[float] = Field(
        default=[0.0, 1.0, 2.0],
        min_length=1,
        description="Weights of the quadratic penalty; 0 must be in.",
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="Family-wise one-sided confidence of the choice."
    )
    bootstrap: int = Field(
        default=2_000, ge=200, le=200_000, description="Bootstrap resamples of the subsets."
    )
    full_dim: int = Field(
        default=1024, ge=8, le=65_536, description="Dimension of the sketch of the whole gradient."
    )
    output_hidden_dim: int = Field(
        default=32, ge=1, le=512, description="Projected hidden side of the output layer's sketch."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the whole protocol: pool, initial weights, subsets, sketches."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        check_grid(self.metrics, self.lambdas)
        return self
