"""The protocol: the candidates written first, subsets designed and retrained, the configuration chosen by its bound."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.common import GPU_POOL, OWNERS, Step
from assets.partitions import ONE_RUN
from assets.sections import ProtocolRun, SubsetsRun
from grasp_pipeline import tables
from resources.compute import Compute
from resources.models import Models
from resources.store import DeltaStore

GROUP = "protocol"
SPLITS = ("calibration", "evaluation")


@dg.asset(
    group_name=GROUP,
    kinds={"python", "deltalake"},
    owners=OWNERS,
    code_version="1",
    deps=["tokenized_shards", "tasks", "sketchers"],
    backfill_policy=ONE_RUN,
    description="The finite grid of surrogate configurations, the target, the budget and the error rate: written "
    "before anything is measured.",
)
def candidates(
    context: dg.AssetExecutionContext, config: ProtocolRun, store: DeltaStore
) -> dg.MaterializeResult:
    """Write the grid down; refuse a target or a budget that the data cannot meet."""
    import polars as pl

    from grasp_pipeline.calibration.budget import resolve_budget
    from grasp_pipeline.calibration.grid import build_grid
    from grasp_pipeline.errors import ConfigError
    from grasp_pipeline.sketch.targets import MEAN

    step = Step(context, store, config, "1")
    names = step.read(tables.TASKS).select("task").unique().collect()["task"].sort().to_list()
    kinds = (
        step.read(tables.SKETCHERS)
        .filter(pl.col("share") == 1)
        .select("sketch_kind")
        .collect()["sketch_kind"]
    )
    total = step.read(tables.TOKENIZED_SHARDS).select(pl.col("n_tokens").sum()).collect().item()
    if config.target not in (MEAN, *names):
        raise ConfigError(
            f"candidates.target is {config.target!r}; choose {MEAN} or one of {', '.join(names)}"
        )
    budget = resolve_budget(config.budget_tokens, config.budget_fraction, total)
    provenance = step.provenance()
    if (commit := step.current(tables.CANDIDATES, provenance)) is not None:
        return step.unchanged(tables.CANDIDATES, commit)
    grid = build_grid(kinds.to_list(), config.metrics, config.lambdas)
    frame = pl.DataFrame(
        [
            {
                **c.__dict__,
                "target": config.target,
                "budget_tokens": config.budget_tokens,
                "budget_fraction": 0.0 if config.budget_tokens else config.budget_fraction,
                "confidence": config.confidence,
                "bootstrap": config.bootstrap,
            }
            for c in grid
        ],
        schema=tables.CANDIDATES.schema,
    )
    commit = step.tables.write(tables.CANDIDATES, frame, provenance)
    extra = {"configurations": len(grid), "target": config.target, "budget_tokens_now": budget}
    return step.result(tables.CANDIDATES, commit, len(grid), extra)


@dg.asset(
    group_name=GROUP,
    kinds={"numpy", "deltalake"},
    owners=OWNERS,
    code_version="1",
    deps=["tokenized_shards", "documents", "gradient_sketches", "task_sketches", "candidates"],
    backfill_policy=ONE_RUN,
    description="Subsets to retrain, in declared strata: calibration, and evaluation subsets drawn and sealed apart.",
)
def subsets(context: dg.AssetExecutionContext, config: SubsetsRun, store: DeltaStore) -> dg.MaterializeResult:
    """Design calibration and evaluation subsets.

    The draws are named by everything this step reads, so a new grid or corpus never meets evaluation subsets that
    were measured before.
    """
    import polars as pl

    from assets.data import load_corpus, load_sketches, load_task_vectors, pack_membership
    from grasp_pipeline.calibration.budget import resolve_budget
    from grasp_pipeline.calibration.designs import design_subsets
    from grasp_pipeline.seeds import digest
    from grasp_pipeline.sketch.targets import MEAN

    step = Step(context, store, config, "1")
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    kind = protocol["sketch_kind"]
    corpus = load_corpus(step)
    names, directions = load_task_vectors(step, kind, "query")
    step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    provenance = step.provenance()
    done = [step.current(tables.SUBSETS, provenance, {"split": split}) for split in SPLITS]
    if done[0] is not None and done[1] is not None:
        return step.unchanged(tables.SUBSETS, done[1])
    columns = names if protocol["target"] == MEAN else [name for name in names if name != MEAN]
    scores = load_sketches(step, corpus, kind) @ directions[[names.index(name) for name in columns]].T
    budget = resolve_budget(protocol["budget_tokens"], protocol["budget_fraction"], corpus.total)
    draw = f"{config.seed}-{provenance.input_digest()[:16]}"
    ids = corpus.frame["chunk_id"].to_numpy()
    frames = []
    for split, count in zip(SPLITS, (config.calibration_subsets, config.evaluation_subsets), strict=True):
        designs = design_subsets(
            corpus.n_tokens,
            corpus.codes("source"),
            corpus.codes("doc_id"),
            corpus.codes("cluster"),
            scores,
            budget,
            count,
            f"{split}/{draw}",
        )
        rows = [
            {
                "subset_id": digest(ids[d.membership].tolist()),
                "split": split,
                "stratum": d.stratum,
                "n_chunks": int(d.membership.sum()),
                "n_tokens": int(corpus.n_tokens[d.membership].sum()),
                "seed": d.seed,
                "pool_version": corpus.version,
                "membership": pack_membership(d.membership),
            }
            for d in designs
        ]
        frames.append(pl.DataFrame(rows, schema=tables.SUBSETS.schema))
    seeds = {"seeds": config.seeds}
    commits = [
        step.tables.write(tables.SUBSETS, frame, provenance, {"split": split}, seeds)
        for split, frame in zip(SPLITS, frames, strict=True)
    ]
    strata = pl.concat(frames).group_by("split", "stratum").len().sort("split", "stratum")
    extra = {
        "strata": dg.MetadataValue.json(
            {f"{split}/{name}": count for split, name, count in strata.iter_rows()}
        ),
        "budget_tokens": budget,
    }
    return step.result(tables.SUBSETS, commits[-1], sum(frame.height for frame in frames), extra)


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="1",
    deps=["subsets", "candidates", "tokenized_shards", "tasks", "tokenizer", "proxy_checkpoints"],
    pool=GPU_POOL,
    backfill_policy=ONE_RUN,
    description="Held-out utility of every calibration subset, from proxies really retrained on it.",
)
def subset_utilities(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Retrain the calibration subsets that were not measured yet."""
    from assets.data import load_corpus, load_held_out, load_subsets
    from assets.retraining import Bench

    step = Step(context, store, None, "1")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    proxy = models.proxy(step.pin(tables.PROXY_CHECKPOINTS).version, "initial")
    step.pin(tables.CANDIDATES)
    corpus = load_corpus(step)
    chosen = load_subsets(step, "calibration", corpus)
    held_out = load_held_out(step, "calibration", tokenizer.encoder.bos, tokenizer.chunk_tokens)
    provenance = step.provenance()
    bench = Bench(corpus, tokenizer, proxy, held_out, compute)
    jobs = [
        bench.job(subset_id, membership, seed)
        for subset_id, membership in zip(chosen.ids, chosen.membership, strict=True)
        for seed in range(chosen.seeds)
    ]
    commit, retrained = bench.measure_utilities(
        step, provenance, "calibration", jobs, "retraining calibration subsets"
    )
    assert commit is not None, "there is at least one calibration subset"
    extra: dict[str, Any] = {"models_retrained": retrained, "models_reused": len(jobs) - retrained}
    if retrained:
        extra["compute"] = dg.MetadataValue.json(compute.describe())
    tokens = retrained * proxy.recipe.tokens
    rows = step.rows(tables.SUBSET_UTILITIES, commit)
    return step.result(tables.SUBSET_UTILITIES, commit, rows, extra, tokens, up_to_date=retrained == 0)


@dg.multi_asset(
    name="surrogates",
    specs=[
        dg.AssetSpec(
            "surrogates",
            group_name=GROUP,
            kinds={"numpy", "deltalake"},
            owners=OWNERS,
            code_version="2",
            deps=[
                "subset_utilities",
                "subsets",
                "gradient_sketches",
                "task_sketches",
                "candidates",
                "tokenized_shards",
            ],
            description="Every candidate's rank correlation with the measured utilities and its lower bound.",
        ),
        dg.AssetSpec(
            "selected_config",
            group_name=GROUP,
            kinds={"numpy", "deltalake"},
            owners=OWNERS,
            code_version="2",
            deps=["subset_utilities", "candidates"],
            description="The configuration with the highest lower bound that beats additive attribution, and why.",
        ),
    ],
    backfill_policy=ONE_RUN,
)
def surrogates(context: dg.AssetExecutionContext, store: DeltaStore) -> Iterator[dg.MaterializeResult]:
    """Fit all candidates on the calibration subsets and choose by the lower confidence bound."""
    import polars as pl

    from assets.data import load_corpus, load_subsets, load_utilities, predict_grid
    from assets.plots import bounds_chart
    from grasp_pipeline.calibration.lcb import Configuration, choose_configuration

    step = Step(context, store, None, "2")
    candidates_read = step.pin(tables.CANDIDATES)
    grid = step.tables.read(tables.CANDIDATES, candidates_read.version).collect()
    corpus = load_corpus(step)
    calibration = load_subsets(step, "calibration", corpus)
    step.pin(tables.SUBSET_UTILITIES, {"split": "calibration"})
    step.pin(tables.TASK_SKETCHES)
    for kind in grid["sketch_kind"].unique().sort():
        step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    provenance = step.provenance()
    done = [step.current(table, provenance) for table in (tables.SURROGATES, tables.SELECTED_CONFIG)]
    if done[0] is not None and done[1] is not None:
        yield step.unchanged(tables.SURROGATES, done[0])
        yield step.unchanged(tables.SELECTED_CONFIG, done[1])
        return
    configurations = [
        Configuration(row["config_id"], row["sketch_kind"], row["rho"], row["lam"], row["form"])
        for row in grid.iter_rows(named=True)
    ]
    names, utilities = load_utilities(step, calibration, "calibration")
    predictions = predict_grid(step, corpus, calibration.membership, configurations, names)
    seconds = {kind: step.tables.sketch_seconds(kind) for kind in grid["sketch_kind"].unique()}
    cost = [seconds[c.sketch_kind] for c in configurations]
    choice = choose_configuration(
        configurations,
        predictions,
        utilities.mean(axis=2),
        cost,
        grid["confidence"][0],
        grid["bootstrap"][0],
        f"surrogates/{candidates_read.version}",
        calibration.strata,
    )
    frame = pl.DataFrame(
        [
            {
                **c.__dict__,
                "rank_correlation": choice.rank_correlation[k],
                "lower_bound": choice.lower_bound[k],
                "paired_lower_bound": choice.paired_lower_bound[k],
                "cost_seconds": cost[k],
                "rank": choice.rank[k],
            }
            for k, c in enumerate(configurations)
        ],
        schema=tables.SURROGATES.schema,
    )
    commit = step.tables.write(tables.SURROGATES, frame, provenance)
    yield step.result(
        tables.SURROGATES,
        commit,
        frame.height,
        {"bounds": dg.MetadataValue.md(bounds_chart(frame)), "bootstrap_resamples": choice.resamples},
    )
    row = frame.drop("cost_seconds", "rank").row(choice.chosen, named=True) | {
        "best_additive": configurations[choice.best_additive].config_id,
        "candidates_version": candidates_read.version,
        "reason": choice.reason,
    }
    selected = pl.DataFrame([row], schema=tables.SELECTED_CONFIG.schema)
    commit = step.tables.write(tables.SELECTED_CONFIG, selected, provenance)
    yield step.result(
        tables.SELECTED_CONFIG,
        commit,
        1,
        {
            "configuration": str(configurations[choice.chosen]),
            "reason": choice.reason,
            "rank_correlation": float(choice.rank_correlation[choice.chosen]),
            "lower_bound": float(choice.lower_bound[choice.chosen]),
        },
    )
