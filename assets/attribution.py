"""Attributions that others can check, of a quality head on the target's texts; a job of its own."""

import dagster as dg

from assets.launches import tell_written
from assets.stages import Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from resources.store import DeltaStore

PROOF_VERSION = "2"
MOST_TEXTS, DIRECTIONS = 100, 16
"""Query chunks that the head is fitted to, and its leading directions that are published and retrained on."""

SIZES = (1, 10)
"""Rows removed at once that the advisor is asked about."""


@stage(
    group="attribution",
    kinds={"numpy", "json"},
    code_version=PROOF_VERSION,
    reads=[tables.CANDIDATES, tables.TOKENIZED_SHARDS, Reading(tables.TASKS, "query")],
    writes="A claim that `python -m grasp_pipeline verify` checks: what every query chunk and corpus chunk adds to a "
    "quality head's margin of the target's texts, below the store's folder `proof`; beside it which estimate of a "
    "removal is safe on these features, and the rows of most leverage.",
)
def attribution_proof(context: dg.AssetExecutionContext, store: DeltaStore) -> dg.MaterializeResult:
    """Fit the head, measure the advice, fit the attributions by retraining, and publish the folder."""
    import json
    from dataclasses import asdict

    import numpy as np
    import polars as pl

    from assets.finalists import load_target
    from grasp_pipeline.arrays import TokenLists
    from grasp_pipeline.attribution.convex.advisor import advise, safest
    from grasp_pipeline.proof.claim import make_claim
    from grasp_pipeline.proof.exchange import Plan, judge
    from grasp_pipeline.seeds import digest
    from grasp_pipeline.selection.candidates.families.quality_head import BACKGROUND, fit_quality_head

    step = Step(context, store)
    target = load_target(step, step.read(tables.CANDIDATES).collect().row(0, named=True))
    queries = step.read(tables.TASKS, {"split": "query"}).filter(pl.col("task").is_in(target.counted))
    good = (
        queries.select("chunk_id", "input_ids", source="task").bottom_k(MOST_TEXTS, by="chunk_id").collect()
    )
    chunks = step.read(tables.TOKENIZED_SHARDS).select("chunk_id", "input_ids", "source")
    others = chunks.bottom_k(BACKGROUND * good.height, by="chunk_id").collect()
    location, stamp = f"{store.place}/proof", digest(step.upstream(), PROOF_VERSION)
    if store.has_file("proof/about.json"):
        with store.files("proof") as folder:
            if json.loads((folder / "about.json").read_text())["input_digest"] == stamp:
                step.say(f"{location} is up to date; nothing was written")
                return dg.MaterializeResult(metadata={"dagster/uri": location, "up_to_date": True})

    made = fit_quality_head(*(TokenLists.of_column(frame["input_ids"]) for frame in (good, others)))
    advice, leverage = advise(made.head, SIZES), made.leverage()
    rows = [*good["chunk_id"], *others["chunk_id"]]
    sources = [*good["source"], *others["source"]]
    features = made.head.features[:, :DIRECTIONS]
    query = features[: good.height].mean(axis=0)
    claim = make_claim(features, made.head.labels, made.head.damping, query)
    verdict = judge(claim, Plan.drawn(claim, 1000, seed=0))
    about = {
        "input_digest": stamp,
        "upstream": step.upstream(),
        "rows": rows,
        "advice": [asdict(each) for each in advice],
        "safe": {str(k): safest(advice, k) or "refit" for k in SIZES},
        "outliers": [
            {
                "chunk_id": rows[place],
                "leverage": float(leverage[place]),
                "label": "target" if made.head.labels[place] else "corpus",
                "source": sources[place],
            }
            for place in np.argsort(-leverage)[:10]
        ],
    }
    with store.new_files("proof") as folder:
        claim.save(folder)
        (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    tell_written(context)
    return dg.MaterializeResult(
        metadata={
            "dagster/uri": location,
            "rows": claim.n,
            "claim": claim.digest,
            "accepted": verdict.accepted,
            "excess_error": verdict.excess,
            "safe_estimator": dg.MetadataValue.json(about["safe"]),
            "highest_leverage": float(leverage.max()),
            "seconds": round(step.seconds, 2),
            "up_to_date": False,
        }
    )
