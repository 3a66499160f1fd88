"""From the chosen configuration to a certificate: finalists, the retrained shortlist, and what can be said of it."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.sections import FinalistsRun
from assets.stages import GPU_POOL, Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.config import FinalistsConfig
from grasp_pipeline.names import RANDOM
from resources.compute import Compute
from resources.models import Models
from resources.notes import CertificatesNote, FinalistsNote, UtilitiesNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from assets.data import StoredPool
    from grasp_pipeline.calibration.lcb import Configuration
    from grasp_pipeline.selection.candidates.candidate import Candidate
    from grasp_pipeline.selection.candidates.context import SelectionContext
    from grasp_pipeline.selection.candidates.judge import Judgement
    from grasp_pipeline.selection.certification.cross_fit import CrossFitResult


def selected_configuration(chosen: Mapping[str, Any]) -> "Configuration":
    """Return the configuration of the row of `selected_config`."""
    from grasp_pipeline.calibration.lcb import Configuration

    return Configuration(
        chosen["config_id"], chosen["sketch_kind"], chosen["rho"], chosen["lam"], chosen["form"]
    )


@stage(
    group="selection",
    kinds={"numpy", "deltalake"},
    code_version="10",
    reads=[
        tables.CANDIDATES,
        tables.SELECTED_CONFIG,
        tables.TOKENIZED_SHARDS,
        tables.DOCUMENTS,
        Reading(tables.TASKS, "query"),
        Reading(tables.TASKS, "judge"),
        Reading(tables.GRADIENT_SKETCHES, by="sketch_kind"),
        tables.TASK_SKETCHES,
        tables.CONDITIONAL_LOSSES,
        tables.PROXY_CHECKPOINTS,
        Reading(tables.TOKENIZER, optional=True),
        Reading(tables.SUBSETS, "calibration", optional=True),
        Reading(tables.SUBSET_UTILITIES, "calibration", optional=True),
    ],
    writes={
        tables.FINALISTS: "Candidate corpora at the budget: optimised, simple, full. A judge with evidence that no "
        "optimiser has seen decides which are retrained."
    },
)
def finalists(
    context: dg.AssetExecutionContext,
    config: FinalistsRun,
    store: DeltaStore,
    models: Models,
    compute: Compute,
) -> dg.MaterializeResult:
    """Build, judge and shortlist the candidate corpora."""
    import numpy as np

    from assets.data import load_corpus
    from assets.finalists import (
        finalist_frames,
        load_recipe,
        load_selection_context,
        load_target,
        make_feasible_sets,
    )
    from assets.learned import labels_digest, make_learned, pin_learned
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.selection.candidates.families.random import Random
    from grasp_pipeline.selection.candidates.finalists import build_finalists, shortlist
    from grasp_pipeline.selection.certification.cross_fit import PICKS, REFITS

    step = Step(context, store, config, beside=labels_digest(config))
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    chosen = step.read(tables.SELECTED_CONFIG).collect().row(0, named=True)
    corpus = load_corpus(step)
    kind, target = chosen["sketch_kind"], load_target(step, protocol)
    step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    pin_learned(step, config)
    provenance = step.provenance()
    if (commit := step.current(tables.FINALISTS, provenance)) is not None:
        return step.unchanged(tables.FINALISTS, commit)

    budget = Budget.of(protocol).resolve(corpus.total, corpus.documents)
    feasible_sets = make_feasible_sets(corpus, budget, config.constraints, config.trust_share)
    draws = [Random().draw(feasible_sets.feasible_set(), number) for number in range(config.random_draws)]
    beside = len(draws) + PICKS * config.fresh_runs + (REFITS if config.refit else 0)
    most = config.max_retrainings - beside if config.max_retrainings else None

    training_tokens, cluster_share = planned_training(config, budget)
    seen = round(training_tokens / cluster_share)
    folder = f"files/finalists/{provenance.input_digest()[:16]}"
    learned = make_learned(step, config, corpus, target, models, compute, folder)
    selection = load_selection_context(step, corpus, kind, target, feasible_sets, seen, learned)
    selected = selected_configuration(chosen)
    entries = build_finalists(selection, selected, config.optimiser_gap, config.max_passes, step.say)
    step.say(f"built {len(entries)} candidate corpora of {budget:,} tokens; judging them")
    judgement = load_judgement(step, corpus, selection, entries)
    listed = shortlist(entries, judgement.score, config.shortlist, most)
    runs = sum(listed) + beside
    step.say(retraining_cost(step, runs, training_tokens / load_recipe(step).tokens or 1.0))

    frame, subsets = finalist_frames(
        corpus,
        [*entries, *draws],
        [*judgement.score.tolist(), *[None] * len(draws)],
        [*listed, *[True] * len(draws)],
        config.constraints,
        "finalist",
    )
    step.tables.write(tables.SUBSETS, subsets, provenance, {"split": "finalist"})
    settings = config.model_dump(include=set(FinalistsNote.model_fields))
    kept = folder if learned else ""
    note = FinalistsNote(
        **settings, learned=kept, training_tokens=training_tokens, cluster_share=cluster_share
    )
    commit = step.tables.write(tables.FINALISTS, frame, provenance, statistics=note.to_json())
    extra = {
        "candidates": len(entries),
        "shortlisted": dg.MetadataValue.json(
            [entry.name for entry, on in zip(entries, listed, strict=True) if on]
        ),
        "budget_tokens": budget,
        "retrainings_ahead": runs,
        "largest_gap": float(np.max([entry.relative_gap or 0.0 for entry in entries])),
    }
    return step.result(tables.FINALISTS, commit, frame.height, extra)


def planned_training(config: FinalistsConfig, budget: int) -> tuple[int, float]:
    """Return the tokens of a finalist's retraining, 0 for the recipe's, and the share of the clusters it sees."""
    planned = round(config.training_passes * budget)
    if not config.max_training_tokens or planned <= config.max_training_tokens:
        return planned, 1.0
    share = config.max_training_tokens / planned if config.scale_model else 1.0
    return config.max_training_tokens, share


def load_judgement(
    step: Step, corpus: "StoredPool", selection: "SelectionContext", entries: "list[Candidate]"
) -> "Judgement":
    """Judge the candidates by the judge documents and, where they were measured, the conditional losses."""
    from assets.finalists import load_conditional, load_texts
    from grasp_pipeline.selection.candidates.finalists import judge_finalists

    return judge_finalists(
        selection,
        entries,
        load_texts(step, "judge", selection.target.tasks),
        load_conditional(step, corpus, "judge", selection.losses),
    )


def retraining_cost(step: Step, runs: int, times: float = 1.0) -> str:
    """Say how many retrainings are ahead, and their time at the pace of the calibration subsets.

    times: how many times as many tokens one of them sees.
    """
    own = {"split": "calibration"}
    told = [UtilitiesNote.of(c) for c in step.tables.commits(tables.SUBSET_UTILITIES) if c.partition == own]
    pace = times * sum(one.seconds for one in told) / sum(one.models for one in told)
    return (
        f"at most {runs} retrainings are ahead for the finalists, about {runs * pace / 60:.1f} minutes at the "
        f"{pace:.1f} s that one takes at the pace of the calibration subsets; finalists.max_retrainings limits them"
    )


@stage(
    group="selection",
    kinds={"pytorch", "deltalake"},
    code_version="8",
    reads=[
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
        tables.CANDIDATES,
        tables.SELECTED_CONFIG,
        tables.TOKENIZED_SHARDS,
        tables.DOCUMENTS,
        Reading(tables.TASKS, "query"),
        Reading(tables.TASKS, "calibration"),
        tables.FINALISTS,
        Reading(tables.SUBSETS, "finalist", maker="finalists"),
        Reading(tables.GRADIENT_SKETCHES, by="sketch_kind", optional=True),
        Reading(tables.TASK_SKETCHES, optional=True),
        Reading(tables.CONDITIONAL_LOSSES, optional=True),
    ],
    writes={
        tables.DOCUMENT_LOSSES: "Held-out loss per document of every shortlisted corpus, retrained at equal tokens.",
        tables.REFITTED_FINALISTS: "Corpora that the surrogate chose once more, corrected by what the finalists were "
        "really worth.",
        tables.CERTIFICATES: "Improvement of the picked corpus over random, over the best simple arm and over every "
        "comparison arm, with the two-fold cross-fitted lower bound.",
    },
    pool=GPU_POOL,
)
def certificates(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Retrain the shortlist, refit, pick on one fold, certify on the other with a fresh seed, swap, average."""
    import polars as pl

    from assets.contestants import Contestants
    from assets.data import load_corpus, load_held_out
    from assets.finalists import finalist_frames, load_finalists, load_target
    from assets.retraining import Bench
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.names import MEAN
    from grasp_pipeline.selection.certification.cross_fit import Entrants, cross_fit

    step = Step(context, store)
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    proxy = models.proxy(step.pin(tables.PROXY_CHECKPOINTS).version, "initial")
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    chosen = step.read(tables.SELECTED_CONFIG).collect().row(0, named=True)
    target = load_target(step, protocol)
    corpus = load_corpus(step)
    arms = load_finalists(step, corpus, refitted=False)
    proxy = proxy.trained_for(arms.settings.training_tokens)
    held_out = load_held_out(step, "calibration", tokenizer.encoder.bos, tokenizer.chunk_tokens)
    if arms.settings.refit:
        step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": chosen["sketch_kind"]})
        step.pin(tables.TASK_SKETCHES)
        step.pin(tables.CONDITIONAL_LOSSES)
    provenance = step.provenance()
    written = (tables.DOCUMENT_LOSSES, tables.REFITTED_FINALISTS, tables.CERTIFICATES)
    losses_commit = step.tables.latest(tables.DOCUMENT_LOSSES, {"split": "calibration"})
    done = [losses_commit, *(step.current(table, provenance) for table in written[1:])]
    if all(commit is not None for commit in done):
        for table, commit in zip(written, done, strict=True):
            assert commit is not None
            yield step.unchanged(table, commit)
        return

    listed = arms.frame.filter(pl.col("shortlisted"))
    entered = Entrants(
        compared=listed.filter(pl.col("role") != RANDOM)["arm"].to_list(),
        pickable=listed.filter(pl.col("pickable"))["arm"].to_list(),
        simple=listed.filter(pl.col("pickable"), pl.col("role").is_in(["simple", "full"]))["arm"].to_list(),
        draws=listed.filter(pl.col("role") == RANDOM)["arm"].to_list(),
    )
    share = arms.settings.cluster_share
    bench = Bench(step, provenance, "calibration", corpus, tokenizer, proxy, held_out, compute, share)
    contestants = Contestants(
        bench,
        bench.document_losses(),
        arms,
        target,
        chosen["sketch_kind"],
        arms.memberships(listed["arm"]),
    )
    tasks = list(dict.fromkeys([target.name, *target.tasks, MEAN]))
    refitting = contestants.refit if arms.settings.refit and not target.worst else None
    contest = cross_fit(
        entered,
        contestants.measure,
        target.name,
        tasks,
        proxy.recipe.tokens,
        arms.settings.confidence,
        refitting,
        arms.settings.fresh_runs,
    )

    retrained, refits = contestants.retrained, contestants.refits
    newest = step.tables.latest(tables.DOCUMENT_LOSSES, {"split": "calibration"})
    assert newest is not None, "written above"
    extra = {"models_retrained": retrained, "compute": dg.MetadataValue.json(compute.describe())}
    count = step.rows(tables.DOCUMENT_LOSSES, newest)
    tokens = retrained * proxy.recipe.tokens
    yield step.result(tables.DOCUMENT_LOSSES, newest, count, extra, tokens, up_to_date=retrained == 0)

    frame, subsets = finalist_frames(
        corpus, refits, [None] * len(refits), [True] * len(refits), arms.constraints, "refit"
    )
    step.tables.write(tables.SUBSETS, subsets, provenance, {"split": "refit"})
    commit = step.tables.write(tables.REFITTED_FINALISTS, frame, provenance)
    yield step.result(tables.REFITTED_FINALISTS, commit, frame.height)

    budget = Budget.of(protocol).resolve(corpus.total, corpus.documents)
    table = certificate_rows(contest, regime(proxy.recipe.tokens / budget, share))
    commit = step.tables.write(
        tables.CERTIFICATES,
        table,
        provenance,
        statistics=CertificatesNote(
            target=target.name, allow_uncertified=arms.settings.allow_uncertified
        ).to_json(),
    )
    head = table.row(0, named=True)
    extra = {name: head[name] for name in ("statement", "improvement", "lower_bound", "certified")}
    yield step.result(tables.CERTIFICATES, commit, table.height, extra)


CHOSEN_ON = "The surrogate's configuration was chosen by retrainings that were scored on the same documents."
"""What every statement leaves out of its bound; see docs/selection.md."""


def regime(passes: float, cluster_share: float) -> str:
    """Say how much of the training that may be planned the retrainings stand for.

    passes: tokens of one over the budget; cluster_share: of the clusters of near duplicates that it saw.
    """
    from grasp_pipeline.report import formats

    if cluster_share < 1:
        return (
            f"Each retraining made {formats.passes(passes / cluster_share)} over a scale model: "
            f"{cluster_share:.2g} of the clusters of near duplicates, drawn anew with every seed. What only a larger "
            "corpus repeats it does not show; finalists.max_training_tokens sets its size."
        )
    if passes < 1:
        return (
            f"Each retraining saw {passes:.2g} of the budget once: a whole pass may order the corpora otherwise, and "
            "finalists.training_passes measures it."
        )
    return f"Each retraining made {formats.passes(passes)} over the budget."


def certificate_rows(contest: "CrossFitResult", measured: str) -> "pl.DataFrame":
    """Return the rows of `certificates`: the target against random first; measured: how, in words."""
    import polars as pl

    taken = [name for name in tables.CERTIFICATES.schema if name not in ("baseline", "fold_picks")]
    rows = [
        {name: getattr(found, name) for name in taken}
        | {
            "baseline": baseline,
            "fold_picks": ",".join(found.fold_picks),
            "statement": f"{found.statement} {measured} {CHOSEN_ON}",
        }
        for baseline, found in contest.certificates
    ]
    return pl.DataFrame(rows, schema=tables.CERTIFICATES.schema)


@stage(
    group="selection",
    kinds={"polars", "deltalake"},
    code_version="1",
    reads=[
        Reading(tables.SUBSETS, "finalist", maker="finalists"),
        Reading(tables.SUBSETS, "refit", maker="refitted_finalists"),
        Reading(tables.DOCUMENT_LOSSES, "calibration"),
    ],
    writes={
        tables.CALIBRATION_POOL: "Every finalist ever retrained, with its measured utilities: calibration subsets of "
        "the next choice. surrogates reads the version that subsets found when it drew; the graph does not show it, "
        "for it leads back."
    },
)
def calibration_pool(context: dg.AssetExecutionContext, store: DeltaStore) -> dg.MaterializeResult:
    """Add the finalists that were retrained, certified or not; those of earlier runs stay."""
    from assets.pool import RETRAINED, mean_utilities

    step = Step(context, store)
    subsets = step.read_splits(tables.SUBSETS, RETRAINED)
    losses = step.read(tables.DOCUMENT_LOSSES, {"split": "calibration"})
    provenance = step.provenance()
    if (commit := step.current(tables.CALIBRATION_POOL, provenance)) is not None:
        return step.unchanged(tables.CALIBRATION_POOL, commit)
    kept = ("subset_id", "n_chunks", "n_tokens", "pool_version", "membership")
    about = subsets.select(*kept, family="stratum").unique("subset_id", keep="first", maintain_order=True)
    about = about.collect()
    measured = mean_utilities(losses.collect().join(about, on="subset_id", how="semi"))
    commit = step.tables.upsert(tables.CALIBRATION_POOL, measured.join(about, on="subset_id"), provenance)
    rows = step.rows(tables.CALIBRATION_POOL, commit)
    return step.result(tables.CALIBRATION_POOL, commit, rows, {"of_this_run": measured.height})
