"""Jobs and the recuration schedule, which is off until switched on in the UI."""

from typing import Any

import dagster as dg

from assets.graph import curated, recurated
from assets.launches import corpus_paths, listing, request, state_of
from assets.launchpad import file_in_use
from assets.partitions import WHOLE_RANGE
from assets.stages import STAGES, check_run_config

STEPS = tuple(name for name, each in STAGES.items() if each.section and recurated().intersection(each.writes))
"""Steps of recurate that take a configuration."""


def recurate_config() -> dict[str, Any]:
    """Return what the run configuration in use says of recurate's steps.

    A schedule or sensor without it would fall back to the defaults and read another corpus.
    """
    from assets.settings import read_config

    config = read_config(file_in_use())
    ops = {name: section for name, section in config["ops"].items() if name in STEPS}
    return {**config, "ops": ops}


def recurate_tags() -> dict[str, str]:
    """Return recurate's run tags: every shard, and what GRASP_CONFIG says of the steps that it keeps."""
    from assets.settings import kept_settings, read_config

    ops = read_config(file_in_use())["ops"]
    check_run_config(ops)
    return WHOLE_RANGE | kept_settings(ops, STEPS)


curate = dg.define_asset_job(
    "curate",
    dg.AssetSelection.assets(*sorted(curated())),
    description="Everything: from raw documents to a certified pruned corpus, its evidence, export and report. Launch "
    "it from its Launchpad, which asks for no partition.",
    tags=WHOLE_RANGE,
)

recurate = dg.define_asset_job(
    "recurate",
    dg.AssetSelection.assets(*sorted(recurated())),
    description="New or changed documents only: their shards are tokenized and sketched with the stored tokenizer and "
    "proxy, and the corpus is selected and certified again under the stored choice.",
    tags=WHOLE_RANGE,
)

fidelity = dg.define_asset_job(
    "fidelity",
    dg.AssetSelection.assets("fidelity", "evaluation_losses"),
    description="The sealed evaluation alone: retrain the evaluation subsets and compare every method with them.",
)

apply_filter = dg.define_asset_job(
    "apply_filter",
    dg.AssetSelection.groups("filtering"),
    description="Score files that came after the fit by the stored residual filter and keep what is worth it, without "
    "optimising again.",
)

curate_vision = dg.define_asset_job(
    "curate_vision",
    dg.AssetSelection.groups("vision"),
    description="The same protocol on images: subsets of a pool of labelled images are really retrained, and every "
    "method is compared with what they turned out to be worth.",
)


@dg.schedule(
    name="weekly_recuration",
    job_name=recurate.name,
    cron_schedule="0 3 * * 1",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Mondays at 03:00: look for new or changed inputs and curate them, as the file GRASP_CONFIG says. A "
    "tick is skipped where neither files nor configuration nor code have changed since the last run of this store, and "
    "while one is under way. Of Hugging Face datasets and object stores that is not known before the run.",
)
def weekly_recuration(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Launch recurate with the configuration that the store was curated with, once per state and tick."""
    config = recurate_config()
    paths = corpus_paths(config)
    local = not any("://" in path for path in paths)
    asked = request(
        context.instance, config, recurate_tags(), state_of(config, listing(paths)) if local else None
    )
    return dg.SkipReason(asked) if isinstance(asked, str) else asked


prove_attribution = dg.define_asset_job(
    "prove_attribution",
    dg.AssetSelection.groups("attribution"),
    description="Publish an attribution that a third party can check, with the advice on which estimate of a removal "
    "is safe.",
)

JOBS = [curate, recurate, fidelity, apply_filter, curate_vision, prove_attribution]
SCHEDULES = [weekly_recuration]
