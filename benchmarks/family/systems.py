"""One row of `docs/family.md` per system: what was claimed, which figures answer, how to run it, its limits, its use.

Words alone: what is measured stands in the result file. A system whose figures are not there has no row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class System:
    """A system as its row tells it; figures: names in `results/family.json`, the most important first."""

    name: str
    source: str
    claim: str
    figures: tuple[str, ...]
    command: str
    limits: str
    use: str


SYSTEMS: tuple[System, ...] = (
    System(
        "Rescaled influence",
        "arXiv 2506.06656",
        "dividing by 1 - leverage makes influence accurate where features outnumber rows, and shows what it misses",
        (
            "family.rif_slope",
            "family.if_slope",
            "family.rif_error_over_if",
            "family.poison_found_rif",
            "family.poison_found_if",
        ),
        "python -m grasp_pipeline advise FILE",
        "logistic regression on frozen features; sets of rows that interact need the Newton step or refitting",
        "to rank rows of a head by what their removal does, and to find rows that decide alone",
    ),
    System(
        "Accuracy of Newton step and influence",
        "arXiv 2512.12572",
        "errors grow as k d / n^2 (Newton step) and (k + d) sqrt(k d) / n^2 (between it and influence)",
        (
            "family.newton_exponent_n",
            "family.newton_exponent_k",
            "family.newton_exponent_d",
            "family.influence_exponent_n",
            "family.influence_exponent_k",
            "family.influence_exponent_d",
            "family.advisor_safe_holds",
        ),
        "python -m grasp_pipeline advise FILE",
        "exponents on Gaussian features; the advice holds for random sets of rows, not for chosen ones",
        "before trusting an estimate of a removal: which one is safe for this n, d, k and lambda",
    ),
    System(
        "Verifiable attribution",
        "arXiv 2508.10866",
        "a verifier whose cost does not depend on the number of rows rejects attributions far from the best linear one",
        (
            "family.proof_honest_accepted",
            "family.proof_halved_rejected",
            "family.proof_inflated_rejected",
            "family.proof_shuffled_rejected",
            "family.proof_boosted_rejected",
            "family.proof_pairs_8n_over_n",
        ),
        "python -m grasp_pipeline verify CLAIM",
        "convex heads that can be retrained exactly; spot checks find a tampered share, not one tampered head",
        "where credit for data is paid or disputed, and the other side must be able to check it",
    ),
    System(
        "Distilled attribution index",
        "arXiv 2511.10721",
        "a slow teacher distilled into an embedding: neighbours are the influential data, orders of magnitude faster",
        ("family.index_map_gain", "family.index_speedup", "family.index_speedup_asked"),
        'python -m grasp_pipeline taught "sentence"',
        "attribution to the proxy, by one plain ascent step; a text's first chunk alone is looked up",
        "to see which kept chunks are behind a sentence",
    ),
    System(
        "Group attribution (GGDA)",
        "arXiv 2410.09940",
        "Groups of similar examples, one gradient each, find what single gradients find at a fraction of the passes.",
        (
            "family.groups_backward_passes",
            "family.groups_speed",
            "family.groups_auc_below_pointwise",
            "family.groups_auc_above_random",
            "family.groups_speed_vectorised",
            "family.groups_speed_text",
            "family.groups_speed_text_vectorised",
        ),
        "python -m grasp_pipeline groups",
        "A group's chunks share one score. Where gradients of a whole batch come from one vectorised pass, as this "
        "pipeline's sketches do, groups save passes and no time.",
        "To see what kinds of text help or hurt before any chunk has a sketch, or with a model whose gradients come "
        "only one backward pass at a time.",
    ),
    System(
        "Per-batch influence filter (IIF)",
        "arXiv 2505.19281",
        "Records whose gradient goes against the target's, left out before each update, are the bad ones; training is "
        "faster without them.",
        (
            "family.filter_enrichment[digits]",
            "family.filter_loss[digits, end]",
            "family.filter_enrichment[random tokens]",
            "family.filter_loss[random tokens, end]",
            "family.filter_enrichment[shuffled tokens]",
            "family.filter_loss[shuffled tokens, end]",
            "family.filter_enrichment[PPO, slippery ice]",
            "family.filter_return[PPO, slippery ice]",
            "family.filter_enrichment[PPO, slippery ice, milder]",
            "family.filter_return[PPO, slippery ice, milder]",
            "family.filter_enrichment[PPO, firm ice]",
            "family.filter_return[PPO, firm ice]",
            "family.filter_enrichment[PPO, firm ice, milder]",
            "family.filter_return[PPO, firm ice, milder]",
            "family.filter_enrichment[PPO, cart and pole]",
            "family.filter_return[PPO, cart and pole]",
            "family.filter_enrichment[PPO, cart and pole, milder]",
            "family.filter_return[PPO, cart and pole, milder]",
        ),
        "proxy_checkpoints.config.filter_share: 0.5",
        "About twice the time per update. It needs examples of the target; the proxy then has seen them, so its loss "
        "on the query is no longer independent.",
        "A noisy corpus, a target with examples, and no time for a curation before training.",
    ),
    System(
        "Noise-consistent skew (MUCS)",
        "arXiv 2605.17938",
        "What a model forgets when it forgets a query is what the query came from.",
        (
            "family.skew_found[MUCS]",
            "family.skew_found[not mirrored]",
            "family.skew_found[other noise]",
            "family.skew_found[nearest neighbours]",
            "family.skew_raised_over_random[MUCS]",
            "family.skew_raised_over_random[nearest neighbours]",
            "family.skew_found[Fashion-MNIST, MUCS]",
            "family.skew_found[Fashion-MNIST, nearest neighbours]",
            "family.skew_raised_beyond[Fashion-MNIST, MUCS]",
            "family.skew_raised_beyond[Fashion-MNIST, nearest neighbours]",
            "family.skew_found_text[MUCS]",
            "family.skew_found_text[not mirrored]",
            "family.skew_found_text[shared tokens]",
        ),
        "python -m grasp_pipeline forgets SENTENCE",
        "An ascent and two readings of the pool for every query. A noisy copy is also found by its nearest neighbour.",
        "One sentence or image whose origin matters enough for a pass over the pool, where likeness is no proof.",
    ),
    System(
        "AirRep",
        "arXiv 2505.18513",
        "a representation trained on measured utilities, pooled by attention, is as good as gradients and much faster",
        (
            "family.airrep_gain[attention on]",
            "family.airrep_gain[attention off]",
            "family.airrep_gain[attention on, trained on 72]",
            "family.airrep_speedup[gradients of the pool not kept]",
            "family.airrep_speedup[gradients of the pool not kept, 64 queries together]",
        ),
        "make benchmark-family",
        "a small network on a frozen encoder; it needs hundreds of measured subsets, with dozens it gains nothing",
        "where many subsets are measured and many new queries are asked",
    ),
)
"""In the order of the table."""
