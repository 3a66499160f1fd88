"""Vision: the fidelity protocol on images; everything above the classifier is the code that text goes through."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.sections import VisionRun
from assets.stages import stage
from assets.step import Step
from grasp_pipeline import tables
from resources.compute import Compute
from resources.notes import VisionNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    pass

SPLIT = "vision"
"""Split of `subset_utilities` that the retrained image classifiers are kept in."""


@stage(
    group="vision",
    kinds={"pytorch", "deltalake"},
    code_version="6",
    writes="Rank correlation of the surrogate and of the baselines with retrained image classifiers: the rows of the "
    "table `fidelity` whose corpus is the data set. The utilities are in `subset_utilities`, split vision.",
)
def vision_fidelity(
    context: dg.AssetExecutionContext, config: VisionRun, store: DeltaStore, compute: Compute
) -> dg.MaterializeResult:
    """Draw a pool of images, retrain the classifier on its subsets, and compare every method with what came out.

    The classifiers are so small that they are trained on the CPU whatever the device.
    """
    import polars as pl

    from assets.plots import fidelity_chart
    from grasp_pipeline.evaluation.experiment import SELECTED
    from grasp_pipeline.evaluation.fidelity import fidelity_rows
    from grasp_pipeline.evaluation.vision import prepare, run_vision
    from resources.runs import DeltaRuns

    step = Step(context, store, config)
    compute.prepare()
    lab = prepare(config, compute.stacked_models)
    own = {"corpus": config.data_set}
    provenance = step.provenance()
    commit = step.current(tables.FIDELITY, provenance, own)
    if commit is not None and VisionNote.of(commit).pool == lab.corpus.digest:
        step.say(f"the {config.data_set} rows of fidelity are up to date; nothing was written")
        rows = step.tables.read(tables.FIDELITY, commit.version, own).select(pl.len()).collect().item()
        return step.result(tables.FIDELITY, commit, rows, {"corpus": config.data_set}, up_to_date=True)

    kept = DeltaRuns.laboratory(step.tables, provenance, SPLIT, lab.corpus.tasks, lab.trainer.recipe.tokens)
    cell = run_vision(lab, kept, step.say)
    rows = fidelity_rows(
        cell.predictions,
        cell.utilities,
        cell.strata,
        cell.tasks,
        SELECTED,
        config.bootstrap,
        0.95,
        lab.name,
        config.data_set,
    )
    frame = pl.DataFrame(rows, schema=tables.FIDELITY.schema)
    note = VisionNote(pool=lab.corpus.digest, config=config.digest(), reason=cell.reason)
    commit = step.tables.write(tables.FIDELITY, frame, provenance, own, note.to_json())
    extra = {
        "corpus": config.data_set,
        "choice": cell.reason,
        "images": lab.corpus.n,
        "stage_seconds": dg.MetadataValue.json(
            {name: round(value, 2) for name, value in cell.seconds.items()}
        ),
        "subsets": len(cell.strata),
        "methods": dg.MetadataValue.md(fidelity_chart(frame, config.data_set)),
    }
    return step.result(tables.FIDELITY, commit, frame.height, extra)
