"""The configuration sections as Dagster configs: the same fields, bounds and descriptions, in the Launchpad."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from grasp_pipeline import config


class InputRun(dg.Config, config.InputConfig):
    """Configuration of `manifest`."""


class TasksRun(dg.Config, config.TasksConfig):
    """Configuration of `task_documents`."""


class CleaningRun(dg.Config, config.CleaningConfig):
    """Configuration of `documents`."""


class TokenizerRun(dg.Config, config.TokenizerConfig):
    """Configuration of `tokenizer`."""


class TaskChunkingRun(dg.Config, config.TaskChunkingConfig):
    """Configuration of `tasks`."""


class ProxyRun(dg.Config, config.ProxyConfig):
    """Configuration of `proxy_checkpoints`."""


class SketchRun(dg.Config, config.SketchConfig):
    """Configuration of `sketchers`."""


class ProtocolRun(dg.Config, config.ProtocolConfig):
    """Configuration of `candidates`."""


class SubsetsRun(dg.Config, config.SubsetsConfig):
    """Configuration of `subsets`."""


class ConditionalRun(dg.Config, config.ConditionalConfig):
    """Configuration of `conditional_losses`."""


class ConstraintsRun(dg.Config, config.ConstraintsConfig):
    """Constraints of `finalists`."""


class FinalistsRun(dg.Config, config.FinalistsConfig):
    """Configuration of `finalists`."""

    constraints: ConstraintsRun = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=ConstraintsRun(), description=config.FinalistsConfig.model_fields["constraints"].description
    )


class FidelityRun(dg.Config, config.FidelityConfig):
    """Configuration of `sealed_evaluation`."""


class VisionRun(dg.Config, config.VisionConfigSection):
    """Configuration of `vision_fidelity`."""


class ExportRun(dg.Config, config.ExportConfig):
    """Configuration of `export`."""


class ReportRun(dg.Config, config.ReportConfig):
    """Configuration of `report`."""


class FilterRun(dg.Config, config.InputConfig):
    """Configuration of `filtered_shards`: what `manifest` has, for files that are not in the corpus."""

    paths: list[str] = Field(
        min_length=1,
        description="New files, folders, globs, object-store URIs or Hugging Face datasets to score; formats as for "
        "the corpus.",
    )
    cleaning: CleaningRun = Field(
        default=CleaningRun(),
        description="Rules for one document alone, as for `documents`: noise, languages, contamination. Exact copies "
        "are always dropped; near duplicates and query perplexity are left to the next curation.",
    )
