"""Utilities flow back: the corpora that a run retrained as finalists are calibration subsets of the next choice.

The assets cannot say so: `surrogates` comes before `finalists` in a run, and after the finalists of the runs before.
So `subsets` notes, whenever it draws calibration subsets, which version of `calibration_pool` there is at that moment;
`surrogates` reads this version and names it among its reads. Within a run, and in every run after it that draws no new
calibration subsets, the version is the same: what a run measures never unsettles the choice that it was measured for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.memberships import Memberships

if TYPE_CHECKING:
    import polars as pl

    from assets.data import StoredPool
    from assets.step import Step

RETRAINED = ("finalist", "refit")
"""Splits of `subsets` that hold what a run retrains for its certificate."""

STRATUM = "finalist"
"""Stratum of the pooled subsets, which were not designed but selected."""


def mean_utilities(losses: pl.DataFrame) -> pl.DataFrame:
    """Return every subset's utilities per recipe from rows of `document_losses`.

    Utility: minus the token loss over a task's documents in nats, mean over seeds.

    Returns:
        subset_id, recipe, tasks (sorted names), utilities (one per task), seeds (their number); sorted by key.

    Raises:
        StoreError: a run of a subset lacks documents of a task that another has.
    """
    import polars as pl

    rows = [_utilities(subset, recipe, part) for (subset, recipe), part in _parts(losses)]
    schema = {name: tables.CALIBRATION_POOL.schema[name] for name in _MEASURED}
    return pl.DataFrame(rows, schema=schema).sort("subset_id", "recipe")


_MEASURED = ("subset_id", "recipe", "tasks", "utilities", "seeds")


def _parts(losses: pl.DataFrame) -> Iterator[tuple[tuple[str, str], pl.DataFrame]]:
    ordered = losses.sort("subset_id", "recipe", "task", "seed", "document")
    for key, part in ordered.group_by("subset_id", "recipe", maintain_order=True):
        yield (str(key[0]), str(key[1])), part


def _utilities(subset: str, recipe: str, part: pl.DataFrame) -> dict[str, Any]:
    """Return one row of measured utilities; sums are taken in the order of seeds and documents."""
    seeds = part["seed"].n_unique()
    tasks, utilities = [], []
    for (task,), rows in part.group_by("task", maintain_order=True):
        if rows.height % seeds or rows.group_by("document").len()["len"].n_unique() != 1:
            raise StoreError(
                f"document_losses holds {rows.height} rows of the {task} documents for {seeds} seeds of the subset "
                f"{subset[:12]}; materialize certificates again"
            )
        loss = rows["loss_sum"].to_numpy().reshape(seeds, -1).sum(axis=1)
        tokens = rows["n_tokens"].to_numpy().reshape(seeds, -1).sum(axis=1)
        tasks.append(task)
        utilities.append(-float(np.mean(loss / tokens)))
    return dict(zip(_MEASURED, (subset, recipe, tasks, utilities, seeds), strict=True))


def newest(step: Step) -> int | None:
    """Return the pool's present version, None before the first finalist was measured; not a read of the step."""
    commit = step.tables.latest(tables.CALIBRATION_POOL)
    return None if commit is None else commit.version


@dataclass(frozen=True)
class Pooled:
    """Earlier finalists as calibration subsets of the present corpus.

    membership: (k, n); utilities: (k, T) means over each one's seeds; clusters: (k,) of those that overlap, each of
    which counts as one calibration subset; left_out: reason -> number of those that cannot be used.
    """

    membership: Memberships
    utilities: NDArray[np.float64]
    clusters: NDArray[np.int64]
    left_out: dict[str, int]

    def account(self) -> str:
        """Return in a sentence how many are used, how many are left out, and why."""
        used = len(self.utilities)
        of = used + sum(self.left_out.values())
        others = [f"{count} left out: {reason}" for reason, count in self.left_out.items()]
        return "; ".join(
            [
                f"{used} of {of} earlier finalists join the calibration subsets, those that overlap as one "
                f"({int(self.clusters.max(initial=-1)) + 1} clusters)",
                *others,
            ]
        )


def load_pool(
    step: Step,
    corpus: StoredPool,
    version: int | None,
    recipe: str,
    names: list[str],
    known: list[str],
    most: int | None = None,
) -> Pooled:
    """Load the finalists of earlier runs that the present choice can use.

    Used is what was measured under the same conditions and whose chunks all exist in the present corpus. Those that
    overlap are one cluster.

    Args:
        step: the step that reads.
        corpus: the present corpus.
        version: of `calibration_pool`; None: there is none yet.
        recipe: digest of the conditions that the calibration subsets were measured under.
        names: task names, in the order of the utilities.
        known: ids of the calibration subsets, which are not taken twice.
        most: clusters that are used at most; the pool grows with every run, and what was designed must go on to decide.
    """
    import polars as pl

    from assets.data import pack_membership
    from grasp_pipeline.calibration.near_copies import overlap_clusters

    memberships: list[bytes] = []
    utilities: list[list[float]] = []
    left_out: Counter[str] = Counter()
    if version is None:
        pool = tables.CALIBRATION_POOL.empty()
    else:
        pool = step.tables.read(tables.CALIBRATION_POOL, version).collect().sort("subset_id")
    same = pool.filter(pl.col("recipe") == recipe)
    fresh = same.filter(~pl.col("subset_id").is_in(known))
    left_out["measured with another proxy, tokenizer or held-out documents"] = pool.height - same.height
    left_out["drawn as calibration subsets too"] = same.height - fresh.height
    for (old,), part in fresh.group_by("pool_version", maintain_order=True):
        mapping = _Mapping.of(step, corpus, int(old))
        if mapping is None:
            left_out[f"version {old} of tokenized_shards, which they lie in, is no longer stored"] = (
                part.height
            )
            continue
        for row in part.iter_rows(named=True):
            membership = mapping.carry(row["membership"])
            if membership is None:
                left_out["some of their chunks are no longer in the corpus"] += 1
                continue
            by_task = dict(zip(row["tasks"], row["utilities"], strict=True))
            memberships.append(pack_membership(membership))
            utilities.append([by_task[name] for name in names])
    members = Memberships.of_bytes(memberships, corpus.n)
    values = np.array(utilities, dtype=np.float64).reshape(-1, len(names))
    # In the order of subset ids, which are digests: which clusters stay says nothing of what they were worth.
    clusters = overlap_clusters(members, corpus.n_tokens)
    kept = clusters < (len(clusters) if most is None else most)
    left_out["beyond the share of the statistic that earlier finalists may have"] = int((~kept).sum())
    return Pooled(members[kept], values[kept], clusters[kept], dict(+left_out))


@dataclass(frozen=True)
class _Mapping:
    """Where the chunks of an old version are in the present corpus: rows (n_old,), -1 for those that are gone."""

    rows: NDArray[np.int64]
    n: int

    @staticmethod
    def of(step: Step, corpus: StoredPool, version: int) -> _Mapping | None:
        """Return where the chunks of a version of `tokenized_shards` are now; None where it was vacuumed."""
        from deltalake.exceptions import DeltaError

        if version == corpus.version:
            return _Mapping(np.arange(corpus.n), corpus.n)
        try:
            stored = step.tables.read(tables.TOKENIZED_SHARDS, version).select("chunk_id").collect()
        except (DeltaError, StoreError, FileNotFoundError) as error:
            why, _, _ = str(error).partition(";")  # a version that was vacuumed is nothing to mend
            step.say(f"version {version} of tokenized_shards cannot be read: {why}")
            return None
        ids: pl.Series = stored["chunk_id"].sort()
        rows = np.full(len(ids), -1, dtype=np.int64)
        found, known = corpus.keys.find(ids)
        rows[known] = found
        return _Mapping(rows, corpus.n)

    def carry(self, packed: bytes) -> NDArray[np.bool_] | None:
        """Return an old membership as one of the present corpus (n,); None when a chunk is gone."""
        from assets.data import unpack_membership

        rows = self.rows[unpack_membership(packed, len(self.rows))]
        if (rows < 0).any():
            return None
        membership = np.zeros(self.n, dtype=bool)
        membership[rows] = True
        return membership
