"""Groups of similar chunks ranked by influence, one backward pass each: a corpus seen a group at a time (GGDA).

Reads tokens and the reference proxy alone, so it answers before any chunk has a sketch: a forward pass of the corpus
for the groups, then a forward and a backward pass for their gradients. Ley et al., arXiv 2410.09940.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from grasp_pipeline.arrays import Codes, Floats, TokenLists
from grasp_pipeline.attribution.group_gradients import group_gradients
from grasp_pipeline.attribution.grouped import Groups
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.partition import kmeans_groups, random_groups
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.run import SketchEngine, Texts

By = Literal["sketches", "representations", "random"]
DIMENSION, SPARSITY, DAMPING = 1024, 4, 1.0
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class GroupRanking:
    """groups: with their gradients. worth: (G, T) influence per token of each group on each task."""

    groups: Groups
    worth: Floats


def rank_groups(
    objective: CausalLM, chunks: TokenLists, query: TokenLists, task: Codes, bos: int, size: int, by: By
) -> GroupRanking:
    """Group n chunks, take one gradient per group and score the groups by damped influence.

    objective: at the weights of the reference proxy. query, task: query chunks and their tasks' codes, 0 .. T - 1.
    size: chunks of a group, on average. by: what is alike in a group: the gradient of the output layer (`sketches`,
    from a forward pass), the mean hidden state (`representations`), or nothing.

    Raises:
        ConfigError: there are fewer than two groups.
        TrainingError: a gradient is not finite.
    """
    n = len(chunks.lengths)
    count = n // size
    if count < 2:
        raise ConfigError(f"{n} chunks make {count} groups of {size}; give a smaller --size")
    parameters, texts = objective.parameters(), Texts(chunks, bos)
    if by == "random":
        labels = random_groups(n, count)
    else:
        if by == "sketches":
            engine = SketchEngine(OutputSketcher(objective, parameters, 64, 64, 0), BATCH_TOKENS)
            features, _ = engine.sketch(texts, [str(row) for row in range(n)])
        else:
            features = representations(objective, parameters, *texts.pack(np.arange(n)))
        labels = kmeans_groups(features, count, "group ranking", normalise=True, dimension=256)
    full = FullSketcher(objective, parameters, DIMENSION, SPARSITY, 0)
    groups = group_gradients(full, texts, labels, BATCH_TOKENS)
    targets = group_gradients(full, Texts(query, bos), task, BATCH_TOKENS).sketches
    scores = DampedInfluence(groups.sketches, groups.sizes, targets, DAMPING).scores()
    return GroupRanking(groups, scores / groups.sizes[:, None])


def group_frame(ranking: GroupRanking, source: pl.Series, tasks: Sequence[str]) -> pl.DataFrame:
    """Return one row per group, best first: its size, loss, most frequent source with its share, and worth by task.

    source: (n,) of the chunks. tasks: names by code.
    """
    groups = ranking.groups
    assert groups.losses is not None, "group_gradients measures them"
    counted = (
        pl.DataFrame({"group": groups.codes, "source": source})
        .group_by("group", "source")
        .len()
        .sort("group", "len", "source", descending=[False, True, False])
        .group_by("group", maintain_order=True)
        .agg(pl.col("source").first(), (pl.col("len").first() / pl.col("len").sum()).alias("share"))
    )
    worth = {f"worth_{name}": ranking.worth[:, code] for code, name in enumerate(tasks)}
    return (
        pl.DataFrame(
            {
                "group": np.arange(len(groups.sizes)),
                "chunks": np.bincount(groups.codes),
                "tokens": groups.sizes.astype(np.int64),
                "loss": groups.losses,
                "worth": ranking.worth.mean(axis=1),
                **worth,
            }
        )
        .join(counted, on="group")
        .sort("worth", descending=True)
        .with_row_index("rank", 1)
    )


def ranking_text(frame: pl.DataFrame, passes: int, chunks: int, shown: int) -> str:
    """Return the best and the worst groups as lines."""
    unit = float(frame["worth"].abs().max() or 1)  # type: ignore[arg-type]
    lines = [f"{frame.height} groups of {chunks} chunks; {passes} backward passes", ""]
    lines.append(f"{'rank':>6} {'chunks':>7} {'tokens':>9} {'loss':>6} {'worth':>7}  most frequent source")
    few = min(shown, (frame.height + 1) // 2)
    for row in pl.concat([frame.head(few), frame.tail(min(shown, frame.height - few))]).iter_rows(named=True):
        lines.append(
            f"{row['rank']:>6} {row['chunks']:>7} {row['tokens']:>9,} {row['loss']:>6.2f} "
            f"{row['worth'] / unit:>+7.2f}  {row['source']} ({row['share']:.0%})"
        )
    lines.append("")
    lines.append(
        "worth: damped influence per token on the query chunks, mean over tasks, in units of the largest"
    )
    return "\n".join(lines)
