"""From the chosen configuration to the corpus that ships: finalists, their certificates, the kept and the dropped."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.common import GPU_POOL, OWNERS, Step
from assets.partitions import ONE_RUN
from assets.sections import FinalistsRun
from grasp_pipeline import tables
from grasp_pipeline.errors import ConfigError
from resources.compute import Compute
from resources.models import Models
from resources.store import DeltaStore

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from assets.data import Corpus
    from grasp_pipeline.selection.finalists import Ingredients, Rule
    from grasp_pipeline.selection.residual_filter import FeatureView

GROUP = "selection"
RANDOM = "random"
PICK_SEED, FRESH_SEED, DRAW_SEED = 100, 101, 200
"""Training seeds of the runs that pick, of the fresh runs that certify, and of the first random draw."""


def load_ingredients(step: Step, corpus: "Corpus", kind: str, target: str, budget: int) -> "Ingredients":
    """Pin and load what the arms are built from."""
    import polars as pl

    from assets.data import load_losses, load_sketches, load_task_vectors, token_pool
    from grasp_pipeline.attribution.blocks import ArrayBlocks
    from grasp_pipeline.selection.finalists import Ingredients
    from grasp_pipeline.selection.ngrams import Chunks
    from grasp_pipeline.sketch.targets import MEAN

    names, vectors = load_task_vectors(step, kind, "query")
    queries = step.read(tables.TASKS).filter(pl.col("split") == "query")
    if target != MEAN:
        queries = queries.filter(pl.col("task") == target)
    frame = queries.collect().sort("task", "chunk_id")
    query_pool = token_pool(frame)
    # Tasks count alike in the mean, tokens within a task: as in the mean sketch.
    share = pl.col("n_tokens") / pl.col("n_tokens").sum().over("task") / pl.col("task").n_unique()
    return Ingredients(
        ArrayBlocks(load_sketches(step, corpus, kind)),
        vectors[names.index(target)].astype(float),
        Chunks(corpus.pool.tokens, corpus.pool.offsets),
        Chunks(query_pool.tokens, query_pool.offsets),
        frame.select(share).to_series().to_numpy(),
        corpus.frame["survivor"].to_numpy(),
        load_losses(step, corpus, kind),
        budget,
    )


@dg.asset(
    group_name=GROUP,
    kinds={"numpy", "deltalake"},
    owners=OWNERS,
    code_version="2",
    deps=["selected_config", "candidates", "gradient_sketches", "task_sketches", "tokenized_shards", "tasks"],
    backfill_policy=ONE_RUN,
    description="Candidate corpora at the budget: optimised, simple, full. A judge with evidence that no optimiser has "
    "seen decides which are retrained.",
)
def finalists(
    context: dg.AssetExecutionContext, config: FinalistsRun, store: DeltaStore
) -> dg.MaterializeResult:
    """Build, judge and shortlist the candidate corpora."""
    import numpy as np
    import polars as pl

    from assets.data import load_corpus, load_sketch_sample, load_task_vectors, pack_membership, token_pool
    from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means
    from grasp_pipeline.calibration.budget import resolve_budget
    from grasp_pipeline.calibration.lcb import Configuration
    from grasp_pipeline.seeds import digest
    from grasp_pipeline.selection.arms import random_arm
    from grasp_pipeline.selection.bigram_likelihood import BigramLikelihood, repeat_groups
    from grasp_pipeline.selection.finalists import Finalist, build_finalists, shortlist
    from grasp_pipeline.selection.judge import LAMBDA, combine
    from grasp_pipeline.selection.ngrams import Chunks
    from grasp_pipeline.sketch.build import EARLY
    from grasp_pipeline.sketch.targets import MEAN

    step = Step(context, store, config, "2")
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    chosen = step.read(tables.SELECTED_CONFIG).collect().row(0, named=True)
    corpus = load_corpus(step)
    kind, target = chosen["sketch_kind"], protocol["target"]
    for needed in (kind, EARLY):
        step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": needed})
    step.pin(tables.TASK_SKETCHES)
    step.pin(tables.TASKS)
    provenance = step.provenance()
    if (commit := step.current(tables.FINALISTS, provenance)) is not None:
        return step.unchanged(tables.FINALISTS, commit)

    budget = resolve_budget(protocol["budget_tokens"], protocol["budget_fraction"], corpus.total)
    given = load_ingredients(step, corpus, kind, target, budget)
    selected = Configuration(chosen["config_id"], kind, chosen["rho"], chosen["lam"], chosen["form"])
    entries = build_finalists(given, selected, config.optimiser_gap, config.max_passes)
    membership = np.stack([entry.arm.membership for entry in entries])
    step.say(f"built {len(entries)} candidate corpora of {budget:,} tokens; judging them")

    judged = pl.col("split") == "judge"
    if target != MEAN:
        judged &= pl.col("task") == target
    judge_pool = token_pool(step.read(tables.TASKS).filter(judged).collect().sort("task", "chunk_id"))
    repeats = repeat_groups(corpus.codes("cluster"), corpus.frame["position"].to_numpy())
    likelihood = BigramLikelihood(given.chunks, Chunks(judge_pool.tokens, judge_pool.offsets), repeats)
    sample, early_sketches = load_sketch_sample(step, corpus, EARLY)

    def view(sketches: "NDArray[np.float32]", rows: "NDArray[np.int64]", kind: str) -> "NDArray[np.float64]":
        names, vectors = load_task_vectors(step, kind, "judge")
        means = subset_means(sketches, corpus.n_tokens[rows], membership[:, rows])
        return predict_from_means(means, vectors[names.index(target)], None, LAMBDA)[:, 0]

    everything = np.arange(corpus.pool.n)
    final = view(given.blocks.sketches, everything, kind)  # type: ignore[attr-defined]
    ranked = np.array([entry.arm.name not in ("full", "random-deduplicated") for entry in entries])
    judgement = combine(likelihood.scores(membership), view(early_sketches, sample, EARLY), final, ranked)
    retrained = shortlist(entries, judgement.score, config.shortlist)

    draws = [Finalist(random_arm(corpus.n_tokens, budget, draw), None) for draw in range(config.random_draws)]
    ids = corpus.frame["chunk_id"].to_numpy()
    rows, subset_rows = [], {}
    scores = [*judgement.score.tolist(), *[None] * len(draws)]
    for entry, score, listed in zip(
        [*entries, *draws], scores, [*retrained, *[True] * len(draws)], strict=True
    ):
        arm, rule = entry.arm, entry.rule
        subset_id = digest(ids[arm.membership].tolist())
        rows.append(
            {
                "arm": arm.name,
                "family": arm.family,
                "subset_id": subset_id,
                "role": arm.role,
                "features": rule.features if rule else None,
                "rho": rule.rho if rule else None,
                "lam": rule.lam if rule else None,
                "deduplicated": entry.deduplicated,
                "judge_score": score,
                "shortlisted": listed,
                "surrogate_value": arm.surrogate_value,
                "relative_gap": arm.relative_gap,
                "passes": arm.passes,
                "n_chunks": arm.n_chunks,
                "n_tokens": arm.n_tokens,
                "description": arm.description,
            }
        )
        subset_rows[subset_id] = {
            "subset_id": subset_id,
            "split": "finalist",
            "stratum": arm.family,
            "n_chunks": arm.n_chunks,
            "n_tokens": arm.n_tokens,
            "seed": 0,
            "pool_version": corpus.version,
            "membership": pack_membership(arm.membership),
        }
    frame = pl.DataFrame(list(subset_rows.values()), schema=tables.SUBSETS.schema)
    step.tables.write(tables.SUBSETS, frame, provenance, {"split": "finalist"})
    settings = {"confidence": config.confidence, "allow_uncertified": config.allow_uncertified}
    table = pl.DataFrame(rows, schema=tables.FINALISTS.schema)
    commit = step.tables.write(tables.FINALISTS, table, provenance, statistics=settings)
    runs = sum(retrained) + len(draws) + 2
    extra = {
        "candidates": len(entries),
        "shortlisted": dg.MetadataValue.json(
            [entry.arm.name for entry, on in zip(entries, retrained, strict=True) if on]
        ),
        "retrainings_ahead": runs,
    }
    return step.result(tables.FINALISTS, commit, len(rows), extra)


@dg.multi_asset(
    name="certificates",
    specs=[
        dg.AssetSpec(
            "document_losses",
            group_name=GROUP,
            kinds={"pytorch", "deltalake"},
            owners=OWNERS,
            code_version="2",
            deps=["finalists", "tokenized_shards", "tasks", "tokenizer", "proxy_checkpoints"],
            description="Held-out loss per document of every shortlisted corpus, retrained at equal tokens.",
        ),
        dg.AssetSpec(
            "certificates",
            group_name=GROUP,
            kinds={"numpy", "deltalake"},
            owners=OWNERS,
            code_version="2",
            deps=["document_losses", "finalists"],
            description="Improvement of the picked corpus over random, over the best simple arm and over every "
            "comparison arm, with the two-fold cross-fitted lower bound.",
        ),
    ],
    pool=GPU_POOL,
    backfill_policy=ONE_RUN,
)
def certificates(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Retrain the shortlist, pick on one fold, certify on the other with a fresh seed, swap, average."""
    import polars as pl

    from assets.data import load_corpus, load_finalists, load_held_out
    from assets.retraining import Bench, evidence
    from grasp_pipeline.selection.certificate import certify, plan_picks
    from grasp_pipeline.selection.finalists import ALWAYS

    step = Step(context, store, None, "2")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    proxy = models.proxy(step.pin(tables.PROXY_CHECKPOINTS).version, "initial")
    target = step.read(tables.CANDIDATES).select("target").collect().item(0, 0)
    corpus = load_corpus(step)
    arms = load_finalists(step, corpus)
    held_out = load_held_out(step, "calibration", tokenizer.encoder.bos, tokenizer.chunk_tokens)
    provenance = step.provenance()
    done = step.current(tables.CERTIFICATES, provenance)
    losses_commit = step.tables.latest(tables.DOCUMENT_LOSSES, {"split": "calibration"})
    if done is not None and losses_commit is not None:
        yield step.unchanged(tables.DOCUMENT_LOSSES, losses_commit)
        yield step.unchanged(tables.CERTIFICATES, done)
        return

    settings = arms.settings
    listed = arms.frame.filter(pl.col("shortlisted"))
    draws = listed.filter(pl.col("role") == "random")["arm"].to_list()
    pickable = listed.filter(pl.col("role") != "random")["arm"].to_list()
    simple = listed.filter(pl.col("role").is_in(["simple", "full"]))["arm"].to_list()
    bench = Bench(corpus, tokenizer, proxy, held_out, compute)

    def job(arm: str, seed: int):
        return bench.job(arms.subset_id(arm), arms.membership(arm), seed)

    runs = {arm: [job(arm, PICK_SEED)] for arm in pickable}
    runs[RANDOM] = [job(arm, DRAW_SEED + number) for number, arm in enumerate(draws)]
    every = [one for jobs in runs.values() for one in jobs]
    frame, first = bench.measure_documents(step, provenance, "calibration", every, "retraining finalists")
    picks = plan_picks(evidence(frame, runs), pickable, target)
    for arm, number in picks.missing:
        runs[arm].append(job(arm, FRESH_SEED + number - 1))
    every = [one for jobs in runs.values() for one in jobs]
    frame, second = bench.measure_documents(step, provenance, "calibration", every, "retraining picks afresh")
    newest = step.tables.latest(tables.DOCUMENT_LOSSES, {"split": "calibration"})
    assert newest is not None, "written above"
    extra = {"models_retrained": first + second, "compute": dg.MetadataValue.json(compute.describe())}
    count = step.rows(tables.DOCUMENT_LOSSES, newest)
    tokens = (first + second) * proxy.recipe.tokens
    yield step.result(tables.DOCUMENT_LOSSES, newest, count, extra, tokens, up_to_date=first + second == 0)

    measured = evidence(frame, runs)
    rows = []
    names = [target, *(name for name in [*held_out.task_names, "mean"] if name != target)]
    best_simple = plan_picks(measured, simple, target, fresh=0)
    several = f"the best simple arm ({' or '.join(dict.fromkeys(best_simple.by_fold))})"
    against = [
        (RANDOM, RANDOM, RANDOM),
        (best_simple, "best simple arm", several),
        *((arm, arm, arm) for arm in ALWAYS if arm in pickable and arm not in picks.by_fold),
    ]
    for task in names:
        for baseline, name, said in against:
            found = certify(
                measured, picks, baseline, proxy.recipe.tokens, task, RANDOM, settings["confidence"], said
            )
            rows.append(
                {
                    "arm": found.arm,
                    "baseline": name,
                    "task": task,
                    "tokens": found.tokens,
                    "improvement": found.improvement,
                    "lower_bound": found.lower_bound,
                    "seeds": found.seeds,
                    "degrees_of_freedom": found.degrees_of_freedom,
                    "documents": found.documents,
                    "confidence": found.confidence,
                    "fold_picks": ",".join(found.fold_picks),
                    "certified": found.certified,
                    "statement": found.statement,
                }
            )
    table = pl.DataFrame(rows, schema=tables.CERTIFICATES.schema)
    commit = step.tables.write(
        tables.CERTIFICATES,
        table,
        provenance,
        statistics={"target": target, "allow_uncertified": settings["allow_uncertified"]},
    )
    head = rows[0]
    extra = {
        "statement": head["statement"],
        "improvement": head["improvement"],
        "lower_bound": head["lower_bound"],
        "certified": head["certified"],
    }
    yield step.result(tables.CERTIFICATES, commit, table.height, extra)


def task_directions(
    step: Step, given: "Ingredients", rule: "Rule", making: "FeatureView", kind: str
) -> "tuple[list[str], NDArray[np.float64]]":
    """Return the tasks' names and M r_t of each as a column (d, T), in the features of a rule."""
    import numpy as np
    import polars as pl

    from assets.data import load_task_vectors, token_pool
    from grasp_pipeline.attribution.metric import apply_metric
    from grasp_pipeline.selection.ngrams import Chunks
    from grasp_pipeline.sketch.targets import MEAN

    names, vectors = load_task_vectors(step, kind, "query")
    queries = step.read(tables.TASKS).filter(pl.col("split") == "query").collect().sort("task", "chunk_id")
    tasks = [name for name in names if name != MEAN]
    means = []
    for task in tasks:
        pool = token_pool(queries.filter(pl.col("task") == task))
        means.append(making.mean(vectors[names.index(task)], Chunks(pool.tokens, pool.offsets)))
    return tasks, apply_metric(given.metric(rule.rho), np.stack(means)).T


MOST_ROWS = 200
"""Rows of a table in the event log."""


def account_table(counts: "pl.DataFrame") -> dg.TableMetadataValue:
    """Return what became of every source's chunks, the sources of most tokens first, as a table for the log."""
    import polars as pl

    largest = counts.sort(pl.col("tokens").sum().over("source"), descending=True, maintain_order=True)
    rows = largest.with_columns(pl.col("share").round(4)).head(MOST_ROWS)
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows.iter_rows(named=True)])


@dg.multi_asset(
    name="pruned_corpus",
    specs=[
        dg.AssetSpec(
            name,
            group_name=GROUP,
            kinds={"numpy", "deltalake"},
            owners=OWNERS,
            code_version="2",
            deps=[
                "certificates",
                "finalists",
                "gradient_sketches",
                "task_sketches",
                "tokenized_shards",
                "candidates",
                "tasks",
                "tokenizer",
                "sketchers",
                "proxy_checkpoints",
            ],
            description=text,
        )
        for name, text in (
            ("pruned_corpus", "The chunks to train on, best first."),
            (
                "drop_reasons",
                "Why every other chunk was dropped, with the nearest kept chunk for redundant ones.",
            ),
            (
                "residual_filter",
                "One direction and one threshold that score tomorrow's shards by a dot product.",
            ),
        )
    ],
    backfill_policy=ONE_RUN,
)
def pruned_corpus(context: dg.AssetExecutionContext, store: DeltaStore) -> Iterator[dg.MaterializeResult]:
    """Publish the certified corpus, the reasons and the filter."""
    import numpy as np
    import polars as pl

    from assets.data import load_corpus, load_finalists
    from grasp_pipeline.calibration.budget import resolve_budget
    from grasp_pipeline.report.accounts import account
    from grasp_pipeline.selection.finalists import Rule, linear_view
    from grasp_pipeline.selection.reasons import drop_reasons, task_extremes
    from grasp_pipeline.selection.residual_filter import FeatureView, ResidualFilter, token_agreement
    from grasp_pipeline.sketch.storage import encode_vector

    step = Step(context, store, None, "2")
    certificate_read = step.pin(tables.CERTIFICATES)
    certificates = step.tables.read(tables.CERTIFICATES, certificate_read.version).collect()
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    chosen = step.read(tables.SELECTED_CONFIG).collect().row(0, named=True)
    target, kind = protocol["target"], chosen["sketch_kind"]
    head = certificates.filter(pl.col("task") == target, pl.col("baseline") == RANDOM).row(0, named=True)
    settings = step.tables.latest(tables.CERTIFICATES)
    assert settings is not None, "pinned above"
    if not head["certified"] and not settings.statistics["allow_uncertified"]:
        raise ConfigError(
            f"{head['statement']} Nothing is published; set finalists.allow_uncertified to publish all the same."
        )
    corpus = load_corpus(step)
    arms = load_finalists(step, corpus)
    step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    step.pin(tables.TASK_SKETCHES)
    step.pin(tables.TASKS)
    sketcher = step.read(tables.SKETCHERS).filter(pl.col("sketch_kind") == kind).collect().row(0, named=True)
    tokenizer = step.read(tables.TOKENIZER).collect().row(0, named=True)
    checkpoints = step.read(tables.PROXY_CHECKPOINTS).filter(
        pl.col("checkpoint_id") == sketcher["checkpoint_id"]
    )
    checkpoint = checkpoints.collect().row(0, named=True)
    provenance = step.provenance()
    written = (tables.PRUNED_CORPUS, tables.DROP_REASONS, tables.RESIDUAL_FILTER)
    done = [step.current(table, provenance) for table in written]
    if all(commit is not None for commit in done):
        for table, commit in zip(written, done, strict=True):
            assert commit is not None
            yield step.unchanged(table, commit)
        return

    budget = resolve_budget(protocol["budget_tokens"], protocol["budget_fraction"], corpus.total)
    given = load_ingredients(step, corpus, kind, target, budget)
    kept = arms.membership(head["arm"])
    shipped = arms.row(head["arm"])
    filter_arm = shipped if shipped["features"] else arms.best_linear()
    rule = Rule(filter_arm["features"], filter_arm["rho"], filter_arm["lam"])
    view = linear_view(given, rule, arms.membership(filter_arm["arm"]), filter_arm["deduplicated"])
    linear = filter_arm is shipped
    if linear:
        worth = view.marginal
    elif shipped["family"] == "dsir":
        worth = given.dsir
    else:
        worth = view.alignment

    making = FeatureView.of(view.blocks, given.chunks)
    task_names, directions = task_directions(step, given, rule, making, kind)
    served = task_extremes(view.blocks, directions)
    names = np.array(task_names)

    order = np.flatnonzero(kept)
    order = order[np.argsort(-worth[order], kind="stable")]
    pruned = (
        corpus.frame[order]
        .select("chunk_id", "doc_id", pl.col("n_tokens").alias("kept_tokens"), "source", "shard")
        .with_columns(
            marginal_value=pl.Series(worth[order]),
            order=pl.int_range(pl.len()),
            top_task=pl.Series(names[served.strongest[order]]),
            top_task_value=pl.Series(served.strongest_value[order]),
        )
    )
    commit = step.tables.write(tables.PRUNED_CORPUS, pruned, provenance)
    kept_tokens = int(pruned["kept_tokens"].sum())
    by_source = pruned.group_by("source").agg(pl.col("kept_tokens").sum()).sort("source")
    yield step.result(
        tables.PRUNED_CORPUS,
        commit,
        pruned.height,
        {
            "arm": head["arm"],
            "share_of_corpus": round(kept_tokens / corpus.total, 4),
            "tokens_by_source": dg.MetadataValue.json(dict(by_source.iter_rows())),
        },
        kept_tokens,
    )

    allowed = given.survivors if shipped["deduplicated"] and given.deduplicable else None
    reasons = drop_reasons(
        kept,
        view.alignment if linear else worth,
        corpus.n_tokens,
        min(budget, int(corpus.n_tokens[kept].sum())),
        view.blocks,
        marginal=view.marginal if linear else None,
        tau=view.tau if linear else None,
        clusters=corpus.codes("cluster"),
        allowed=allowed,
        random_draw=shipped["family"] == "random-deduplicated",
    )
    ids = corpus.frame["chunk_id"].to_numpy()
    nearest = [ids[row] if row >= 0 else None for row in reasons.nearest_kept]
    dropped = (
        corpus.frame[reasons.chunk]
        .select("chunk_id", "doc_id", "n_tokens", "source", "shard")
        .with_columns(
            reason=pl.Series(reasons.reason),
            margin=pl.Series(reasons.margin).fill_nan(None),
            value=pl.Series(reasons.value).fill_nan(None),
            threshold=pl.Series(reasons.threshold).fill_nan(None),
            alignment=pl.Series(reasons.alignment),
            strongest_task=pl.Series(names[served.strongest[reasons.chunk]]),
            strongest_value=pl.Series(served.strongest_value[reasons.chunk]),
            weakest_task=pl.Series(names[served.weakest[reasons.chunk]]),
            weakest_value=pl.Series(served.weakest_value[reasons.chunk]),
            quota=pl.Series([name or None for name in reasons.quota.tolist()], dtype=pl.String),
            nearest_kept=pl.Series(nearest, dtype=pl.String),
            similarity=pl.Series(reasons.similarity).fill_nan(None),
        )
    )
    commit = step.tables.write(tables.DROP_REASONS, dropped, provenance)
    counts = dict(dropped.group_by("reason").len().sort("reason").iter_rows())
    extra = {
        "reasons": dg.MetadataValue.json(counts),
        "by_source_and_reason": account_table(account(pruned, dropped)),
    }
    yield step.result(tables.DROP_REASONS, commit, dropped.height, extra)

    residual = ResidualFilter.of(view.q, view.tau)
    agreement = token_agreement(residual.apply(view.blocks), kept, corpus.n_tokens)
    row = {
        "config_id": chosen["config_id"],
        "arm": filter_arm["arm"],
        "target": target,
        "rho": rule.rho,
        "lam": rule.lam,
        "sketch_kind": kind,
        "features": rule.features,
        "d": len(residual.q),
        "q": encode_vector(residual.q),
        "tau": residual.tau,
        "agreement": agreement,
        "sketch_d": sketcher["d"],
        "sketch_scale": sketcher["scale"],
        "sketch_config": sketcher["settings"],
        "view_factors": list(making.factors),
        "ngram_d": making.ngrams.d if making.ngrams else None,
        "ngram_idf": making.ngrams.idf.astype("<f8").tobytes() if making.ngrams else None,
        "checkpoint_id": sketcher["checkpoint_id"],
        "checkpoint_role": checkpoint["role"],
        "checkpoint_path": checkpoint["path"],
        "checkpoint_sha256": checkpoint["sha256"],
        "tokenizer_id": tokenizer["tokenizer_id"],
        "tokenizer_path": tokenizer["path"],
        "bos": tokenizer["bos"],
        "chunk_tokens": tokenizer["chunk_tokens"],
        "improvement": head["improvement"],
        "lower_bound": head["lower_bound"],
    }
    commit = step.tables.write(
        tables.RESIDUAL_FILTER, pl.DataFrame([row], schema=tables.RESIDUAL_FILTER.schema), provenance
    )
    yield step.result(
        tables.RESIDUAL_FILTER, commit, 1, {"agreement_with_pruned_corpus": round(agreement, 4)}
    )
