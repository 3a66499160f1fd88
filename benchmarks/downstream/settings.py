"""What `make benchmark-downstream` runs: corpora, targets, and the sizes of a ground."""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, model_validator

from benchmarks.laboratory.settings import read_settings
from benchmarks.laboratory.text import TextPlan
from grasp_pipeline.config import Section
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.training import Recipe


class GroundSettings(Section):
    """The sizes of one kind of ground."""

    seeds: list[int] = Field(min_length=1, description="Seeds: pool, document splits, proxy and sketches.")
    chunks: int = Field(ge=100, description="Chunks in the pool.")
    steps: int = Field(ge=10, description="Optimiser steps of every retraining.")
    calibration_documents: int = Field(ge=4, description="Documents per task that pick and certify.")
    sealed_documents: int = Field(ge=4, description="Documents per task that nothing is picked on.")
    sealed_seeds: int = Field(ge=2, description="Fresh training seeds of every arm on the sealed documents.")
    random_draws: int = Field(ge=3, description="Draws of the random arm in a contest.")
    fresh_draws: int = Field(ge=2, description="Further draws of random that the truth is taken from.")
    multiples: list[int] = Field(
        default=[], description="Multiples of the tokens that random is also retrained with."
    )
    shortlist: int = Field(
        default=0, ge=0, description="Optimised finalists retrained, the best-judged ones; 0: all of them."
    )
    extended: bool = Field(default=True, description="Also measure the candidates that the product lacks.")


class PoolSettings(Section):
    """Corpora and targets, and how a pool is drawn, its proxy trained and its finalists built."""

    corpora: dict[str, str] = Field(
        min_length=1, description="Name -> Parquet glob with columns source and text, from the root."
    )
    targets: dict[str, list[str]] = Field(description="Corpus -> its single targets, names of sources.")
    preset: str = Field(default="tiny", description="Proxy preset, as in proxy_checkpoints.preset.")
    main: GroundSettings = Field(description="Sizes for margins, correlations and regret.")
    tasks: int = Field(default=5, ge=1, description="Largest sources that hold documents out.")
    chunk_tokens: int = Field(default=64, ge=8, description="Tokens per chunk.")
    vocab_size: int = Field(default=512, ge=257, description="Vocabulary of the trained tokenizer.")
    query_documents: int = Field(default=48, ge=4, description="Documents per task that arms are built from.")
    judge_documents: int = Field(default=48, ge=4, description="Documents per task that the judge sees.")
    near_copies: float = Field(default=0.15, ge=0, lt=0.5, description="Share planted as near copies.")
    budget_fraction: float = Field(default=0.28, gt=0, lt=1, description="Share of the tokens to keep.")
    shortlist: int = Field(default=8, ge=1, description="Candidates retrained besides the simple arms.")
    batch_sequences: int = Field(default=2, ge=1, description="Sequences per step.")
    learning_rate: float = Field(default=4.5e-3, gt=0, le=1, description="Peak learning rate.")
    reference_factor: int = Field(default=2, ge=1, description="Steps of the reference over a retraining's.")
    sketch_side: int = Field(default=64, ge=1, description="Both projected sides of the output sketch.")
    rho: float = Field(default=30.0, ge=0, description="Damping of the selected configuration.")
    lam: float = Field(default=1.0, ge=0, description="Penalty of the selected configuration.")
    gap: float = Field(default=1e-3, gt=0, description="Relative duality gap at which the optimiser stops.")
    max_passes: int = Field(default=200, ge=1, description="Most optimiser passes per candidate.")
    stacked_models: int = Field(default=16, ge=1, description="Models retrained together.")

    def text_plan(self, size: GroundSettings) -> TextPlan:
        """Return how a pool is drawn: clean, as after the noise filter that all arms share, with near copies."""
        return TextPlan(
            chunks=size.chunks,
            chunk_tokens=self.chunk_tokens,
            vocab_size=self.vocab_size,
            tasks=self.tasks,
            query_documents=self.query_documents,
            judge_documents=self.judge_documents,
            evaluation_documents=size.calibration_documents + size.sealed_documents,
            exact=0.0,
            near=self.near_copies,
            noise=0.0,
        )

    def recipe(self, size: GroundSettings, factor: int = 1) -> Recipe:
        """Return the recipe of a retraining, or of `factor` times its steps."""
        return Recipe(
            factor * size.steps, self.batch_sequences, self.chunk_tokens, self.learning_rate, 0.1, 0.01, 1.0
        )


class DownstreamSettings(PoolSettings):
    """The benchmark: a ground of full size per corpus, and smaller ones on which coverage is counted."""

    coverage: GroundSettings = Field(description="Sizes for the coverage of certificates.")
    coverage_repeats: int = Field(
        default=10,
        ge=1,
        description="Contests per small ground and target, each with other documents and seeds.",
    )


class LadderSettings(PoolSettings):
    """The ladder: the same finalists retrained on scale models of several sizes and at the whole budget."""

    shares: list[float] = Field(
        min_length=1, description="Shares of the clusters of near duplicates, one scale model each."
    )
    arms: int = Field(default=10, ge=3, description="Most finalists retrained per target.")

    @model_validator(mode="after")
    def _rungs(self) -> Self:
        if wrong := [share for share in self.shares if not 0 < share < 1]:
            raise ValueError(
                f"shares has {wrong[0]}; give shares between 0 and 1 (the whole is always measured)"
            )
        if short := [share for share in self.shares if round(share * self.main.steps) < 10]:
            raise ValueError(
                f"a share of {short[0]} leaves fewer than 10 steps of {self.main.steps}; raise main.steps"
            )
        return self


Settings = TypeVar("Settings", bound=PoolSettings)


def load_downstream_settings(path: Path) -> DownstreamSettings:
    """Read settings from a YAML file.

    Raises:
        ConfigError: the file is not there or a field is wrong; the message names the field.
    """
    return with_targets(path, read_settings(path, DownstreamSettings, "downstream"))


def load_ladder_settings(path: Path) -> LadderSettings:
    """Read settings of the ladder from a YAML file; errors as in `load_downstream_settings`."""
    return with_targets(path, read_settings(path, LadderSettings, "ladder"))


def with_targets(path: Path, settings: Settings) -> Settings:
    """Return the settings of a file.

    Raises:
        ConfigError: a corpus has no targets.
    """
    without = sorted(set(settings.corpora) - set(settings.targets))
    if without:
        raise ConfigError(f"{path}: targets: corpus {without[0]!r} has none; name sources to curate for")
    return settings
