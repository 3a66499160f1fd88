"""What the laboratory runs: corpora times proxies times seeds, and the sizes of a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from benchmarks.laboratory.text import TextPlan
from grasp_pipeline.calibration.strata import OPTIMISED, RANDOM_STRATA
from grasp_pipeline.config import Section, check_grid
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.experiment import Protocol
from grasp_pipeline.evaluation.proxies import TEXT_KINDS, SketchPlan
from grasp_pipeline.proxy.training import Recipe

STRATA = (*RANDOM_STRATA, OPTIMISED)


class LaboratorySettings(Section):
    """A matrix of cells; every cell is one corpus, one proxy preset and one seed of the whole protocol."""

    corpora: dict[str, str] = Field(
        min_length=1,
        description="Name -> Parquet glob with columns source and text, from the repository's root.",
    )
    presets: list[str] = Field(min_length=1, description="Proxy presets, as in proxy_checkpoints.preset.")
    seeds: list[int] = Field(
        min_length=1, description="Seeds of the whole protocol: pool, proxy, subsets, sketches."
    )
    chunks: int = Field(default=720, ge=100, description="Chunks in the pool, planted ones included.")
    chunk_tokens: int = Field(default=64, ge=8, description="Tokens per chunk.")
    vocab_size: int = Field(
        default=512, ge=257, description="Vocabulary of the tokenizer trained on the pool."
    )
    tasks: int = Field(
        default=8, ge=1, description="Sources that become tasks, those with the most documents."
    )
    query_documents: int = Field(
        default=48, ge=4, description="Documents per task that directions are taken from."
    )
    judge_documents: int = Field(default=24, ge=4, description="Documents per task for the judge.")
    evaluation_documents: int = Field(
        default=20, ge=4, description="Documents per task that utilities are taken on."
    )
    exact_copies: float = Field(
        default=0.18, ge=0, lt=0.5, description="Share of the pool planted as exact copies."
    )
    near_copies: float = Field(
        default=0.08, ge=0, lt=0.5, description="Share of the pool planted as near copies."
    )
    noise: float = Field(default=0.06, ge=0, lt=0.5, description="Share of the pool planted as noise.")
    steps: int = Field(default=360, ge=10, description="Optimiser steps of every retraining.")
    batch_sequences: int = Field(default=2, ge=1, description="Sequences per step.")
    learning_rate: float = Field(default=4.5e-3, gt=0, le=1, description="Peak learning rate.")
    reference_factor: int = Field(
        default=2, ge=1, description="Steps of the reference over those of a retraining."
    )
    calibration: dict[str, int] = Field(
        default={"uniform": 8, "fixed_size": 8, "tilted": 16, OPTIMISED: 16},
        description="Calibration subsets per stratum.",
    )
    evaluation: dict[str, int] = Field(
        default={"uniform": 24, "fixed_size": 24, "tilted": 36, OPTIMISED: 4},
        description="Evaluation subsets per stratum; task_optimised: tasks, each with one finalist per selector.",
    )
    calibration_seeds: int = Field(default=1, ge=1, description="Training seeds per calibration subset.")
    evaluation_seeds: int = Field(default=2, ge=2, description="Training seeds per evaluation subset.")
    full_dim: int = Field(default=2048, ge=64, description="Dimension of the full-gradient sketch.")
    output_hidden_dim: int = Field(
        default=64, ge=1, description="Projected hidden side of the output sketch."
    )
    output_vocab_dim: int = Field(
        default=64, ge=1, description="Projected vocabulary side of the output sketch."
    )
    candidates: list[str] = Field(
        default=["output", "ngrams", "output+early+ngrams"],
        min_length=1,
        description="Sketch kinds that the configuration is chosen among; all kinds are compared.",
    )
    metrics: list[float] = Field(
        default=[30.0], min_length=1, description="Dampings rho of the grid; 0 is M = I."
    )
    lambdas: list[float] = Field(default=[0.0, 0.5, 1.0], min_length=1, description="Penalties of the grid.")
    stacked_models: int = Field(default=32, ge=1, description="Models retrained together.")
    transfer_subsets: int = Field(
        default=48,
        ge=0,
        description="Evaluation subsets that are also retrained on other proxies; 0: no transfer.",
    )
    transfer_preset: str = Field(default="tiny-4x", description="Larger proxy of the transfer.")
    transfer_learning_rate: float = Field(
        default=3e-3, gt=0, le=1, description="Peak learning rate of the larger proxy."
    )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for field in ("calibration", "evaluation"):
            counts: dict[str, int] = getattr(self, field)
            unknown = sorted(set(counts) - set(STRATA))
            if unknown or min(counts.values(), default=0) < 0 or not sum(counts.values()):
                raise ValueError(
                    f"{field} is {counts}; give a number of subsets, 0 or more, for some of {', '.join(STRATA)}"
                )
        check_grid(self.metrics, self.lambdas)
        unknown = sorted(set(self.candidates) - set(TEXT_KINDS))
        if unknown:
            raise ValueError(f"candidates names {unknown[0]!r}; give some of {', '.join(TEXT_KINDS)}")
        if self.exact_copies + self.near_copies + self.noise > 0.8:
            raise ValueError(
                "exact_copies, near_copies and noise leave less than a fifth of the pool; lower them"
            )
        return self

    def text_plan(self) -> TextPlan:
        """Return how pools are drawn."""
        return TextPlan(
            chunks=self.chunks,
            chunk_tokens=self.chunk_tokens,
            vocab_size=self.vocab_size,
            tasks=self.tasks,
            query_documents=self.query_documents,
            judge_documents=self.judge_documents,
            evaluation_documents=self.evaluation_documents,
            exact=self.exact_copies,
            near=self.near_copies,
            noise=self.noise,
        )

    def recipe(self, factor: int = 1) -> Recipe:
        """Return the recipe of a retraining, or of `factor` times its steps."""
        return Recipe(
            factor * self.steps, self.batch_sequences, self.chunk_tokens, self.learning_rate, 0.1, 0.01, 1.0
        )

    def protocol(self) -> Protocol:
        """Return the numbers of subsets."""
        return Protocol(
            self.calibration,
            self.evaluation,
            self.calibration_seeds,
            self.evaluation_seeds,
            candidates=tuple(self.candidates),
            metrics=tuple(self.metrics),
            lambdas=tuple(self.lambdas),
            queries=True,
        )

    def sketches(self) -> SketchPlan:
        """Return the dimensions of the views."""
        return SketchPlan(
            hidden_dim=self.output_hidden_dim, vocab_dim=self.output_vocab_dim, full_dim=self.full_dim
        )


Settings = TypeVar("Settings", bound=Section)


def load_settings(path: Path) -> LaboratorySettings:
    """Read a matrix's settings; errors as in `read_settings`."""
    return read_settings(path, LaboratorySettings, "laboratory")


def read_settings(path: Path, section: type[Settings], what: str) -> Settings:
    """Read settings from a YAML file; what: of, for the message.

    Raises:
        ConfigError: the file is not there or a field is wrong; the message names the field.
    """
    import yaml

    try:
        return section.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give a YAML file of {what} settings") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from error
