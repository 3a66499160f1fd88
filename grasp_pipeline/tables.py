"""The tables: names, keys, columns and partitions of everything the pipeline stores, in one place.

Types are those that Delta can hold: no unsigned integers, no categoricals, no half floats, no fixed-size arrays.
Sketches and memberships are binary columns; their layout is written beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

TOKENS = pl.List(pl.Int32)


@dataclass(frozen=True, eq=False)
class Table:
    """One Delta table: its folder's name, unique key, columns and partition columns."""

    name: str
    key: tuple[str, ...]
    schema: dict[str, pl.DataType | type[pl.DataType]]
    partition_by: tuple[str, ...] = ()
    description: str = field(default="", compare=False)

    def empty(self) -> pl.DataFrame:
        """Return a frame with the table's columns and no rows."""
        return pl.DataFrame(schema=self.schema)

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Order and cast a frame's columns to the schema.

        Raises:
            ValueError: a column is missing or too many, a key column is null, or the key is not unique.
        """
        missing = [name for name in self.schema if name not in frame.columns]
        unknown = [name for name in frame.columns if name not in self.schema]
        if missing or unknown:
            raise ValueError(f"table {self.name}: missing columns {missing}, unknown columns {unknown}")
        frame = frame.select(pl.col(name).cast(dtype) for name, dtype in self.schema.items())
        if self.key:
            nulls = [name for name in self.key if frame[name].null_count()]
            if nulls:
                raise ValueError(f"table {self.name}: key columns {nulls} hold nulls")
            if frame.select(self.key).is_duplicated().any():
                raise ValueError(f"table {self.name}: the key ({', '.join(self.key)}) is not unique")
        return frame


MANIFEST = Table(
    "manifest",
    ("uri", "block"),
    {
        "uri": pl.String,
        "block": pl.Int64,
        "first_row": pl.Int64,
        "n_rows": pl.Int64,
        "n_bytes": pl.Int64,
        "n_faulty": pl.Int64,
        "unit": pl.String,
        "extent": pl.Int64,
        "faulty_extent": pl.Int64,
        "file_extent": pl.Int64,
        "fingerprint": pl.String,
        "shard": pl.String,
        "founding": pl.Boolean,
    },
    description="Blocks of input files in order of arrival, each assigned once to a shard. fingerprint: digest of the "
    "block's texts, by which it is known again under another file name. founding: whether the block was there when the "
    "manifest was first written; thresholds relative to the corpus are taken over those alone. n_bytes: of text that "
    "was read; n_faulty: rows that have none. extent: how much of the file the block's rows and blank lines take, in "
    "bytes of its decompressed content as UTF-8 or, where unit is row, in rows; faulty_extent: that of the faulty rows "
    "alone; file_extent: that of the whole file, counted below what cuts it into rows, in its last block alone, null "
    "where it is not known. no_document_lost compares them.",
)

DOCUMENTS = Table(
    "documents",
    ("doc_id",),
    {
        "doc_id": pl.String,
        "text": pl.String,
        "source": pl.String,
        "shard": pl.String,
        "n_bytes": pl.Int64,
        "origin": pl.String,
        "cluster": pl.String,
        "survivor": pl.Boolean,
    },
    ("shard",),
    "Normalised documents. doc_id: sha-256 of the text; origin: file#row (and the user's id); cluster: doc_id of the "
    "survivor of the near-duplicate cluster; survivor: whether this document is it.",
)

REJECTED_DOCUMENTS = Table(
    "rejected_documents",
    ("doc_id", "stage"),
    {
        "doc_id": pl.String,
        "stage": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "value": pl.Float64,
        "duplicate_of": pl.String,
        "source": pl.String,
        "shard": pl.String,
        "origin": pl.String,
        "n_bytes": pl.Int64,
    },
    ("shard",),
    "Documents and rows left out before tokenization, each with its reason and the measured value. For rows without "
    "usable text doc_id is derived from the origin; exact copies carry their origin in doc_id after a colon.",
)

TASK_DOCUMENTS = Table(
    "task_documents",
    ("task", "split", "document"),
    {
        "task": pl.String,
        "split": pl.String,
        "fold": pl.Int64,
        "document": pl.String,
        "text": pl.String,
    },
    ("task",),
    "Held-out documents of the target tasks. split: query, judge, calibration (fold 0 or 1) or evaluation.",
)

TOKENIZER = Table(
    "tokenizer",
    ("tokenizer_id",),
    {
        "tokenizer_id": pl.String,
        "path": pl.String,
        "vocab_size": pl.Int64,
        "bos": pl.Int64,
        "chunk_tokens": pl.Int64,
        "bytes_per_token": pl.Float64,
    },
    description="The tokenizer's files (path, relative to the store) and sha-256 digest.",
)

TOKENIZED_SHARDS = Table(
    "tokenized_shards",
    ("chunk_id",),
    {
        "chunk_id": pl.String,
        "doc_id": pl.String,
        "position": pl.Int64,
        "input_ids": TOKENS,
        "n_tokens": pl.Int64,
        "start": pl.Int64,
        "end": pl.Int64,
        "source": pl.String,
        "shard": pl.String,
    },
    ("shard",),
    "Chunks of L tokens; start and end are character offsets into the document's text and tile it without gaps.",
)

TASKS = Table(
    "tasks",
    ("task", "split", "chunk_id"),
    {
        "task": pl.String,
        "split": pl.String,
        "fold": pl.Int64,
        "document": pl.String,
        "chunk_id": pl.String,
        "input_ids": TOKENS,
        "n_tokens": pl.Int64,
    },
    ("task",),
    "Tokenized held-out documents.",
)

PROXY_CHECKPOINTS = Table(
    "proxy_checkpoints",
    ("checkpoint_id",),
    {
        "checkpoint_id": pl.String,
        "role": pl.String,
        "path": pl.String,
        "sha256": pl.String,
        "tokens_seen": pl.Int64,
        "train_loss": pl.Float64,
        "validation_loss": pl.Float64,
        "model_config": pl.String,
        "recipe": pl.String,
        "seconds": pl.Float64,
    },
    description="Checkpoints of the proxy: role initial, early or reference; path relative to the store.",
)

SKETCHERS = Table(
    "sketchers",
    ("sketch_kind",),
    {
        "sketch_kind": pl.String,
        "role": pl.String,
        "checkpoint_id": pl.String,
        "d": pl.Int64,
        "scale": pl.Float64,
        "share": pl.Float64,
        "settings": pl.String,
    },
    description="How each kind is computed: the checkpoint's role and id, settings as JSON (with the path in the store "
    "and the sha-256 of the fitted projection, where there is one), the power of two by which stored values are "
    "divided, and the share of the chunks that is sketched.",
)

GRADIENT_SKETCHES = Table(
    "gradient_sketches",
    ("sketch_kind", "chunk_id"),
    {
        "sketch_kind": pl.String,
        "chunk_id": pl.String,
        "sketch": pl.Binary,
        "d": pl.Int64,
        "scale": pl.Float64,
        "loss": pl.Float64,
        "norm": pl.Float64,
        "n_tokens": pl.Int64,
        "shard": pl.String,
    },
    ("sketch_kind", "shard"),
    "Sketches of descent directions: d float16 little-endian values; multiply by `scale` for the sketch itself.",
)

TASK_SKETCHES = Table(
    "task_sketches",
    ("sketch_kind", "task", "split"),
    {
        "sketch_kind": pl.String,
        "task": pl.String,
        "split": pl.String,
        "sketch": pl.Binary,
        "d": pl.Int64,
        "n_tokens": pl.Int64,
        "n_chunks": pl.Int64,
        "signal_to_noise": pl.Float64,
    },
    description="Token-weighted mean sketch of a task's query or judge chunks: d float32 little-endian values.",
)

CANDIDATES = Table(
    "candidates",
    ("config_id",),
    {
        "config_id": pl.String,
        "sketch_kind": pl.String,
        "rho": pl.Float64,
        "lam": pl.Float64,
        "form": pl.String,
        "target": pl.String,
        "task_weights": pl.String,
        "budget_tokens": pl.Int64,
        "budget_documents": pl.Int64,
        "budget_fraction": pl.Float64,
        "confidence": pl.Float64,
        "bootstrap": pl.Int64,
    },
    description="The finite grid and the protocol, written before anything is measured. rho 0: M is the identity; "
    "task_weights: JSON, empty for equal weights.",
)

SUBSETS = Table(
    "subsets",
    ("subset_id",),
    {
        "subset_id": pl.String,
        "split": pl.String,
        "stratum": pl.String,
        "n_chunks": pl.Int64,
        "n_tokens": pl.Int64,
        "seed": pl.Int64,
        "pool_version": pl.Int64,
        "membership": pl.Binary,
    },
    ("split",),
    "Designed subsets. membership: packed bits over the chunks of tokenized_shards at pool_version, by chunk_id.",
)

SUBSET_UTILITIES = Table(
    "subset_utilities",
    ("subset_id", "task", "seed"),
    {
        "subset_id": pl.String,
        "task": pl.String,
        "seed": pl.Int64,
        "split": pl.String,
        "utility": pl.Float64,
        "tokens": pl.Int64,
        "checkpoint_id": pl.String,
        "recipe": pl.String,
        "seconds": pl.Float64,
    },
    ("split",),
    "Measured utilities: minus the held-out token loss in nats. recipe: digest of the training recipe, the tokenizer "
    "and the held-out documents; a row is reused only where it agrees.",
)

DOCUMENT_LOSSES = Table(
    "document_losses",
    ("subset_id", "seed", "task", "document"),
    {
        "subset_id": pl.String,
        "seed": pl.Int64,
        "task": pl.String,
        "document": pl.String,
        "fold": pl.Int64,
        "split": pl.String,
        "loss_sum": pl.Float64,
        "n_tokens": pl.Int64,
        "recipe": pl.String,
    },
    ("split",),
    "Held-out loss per document of every finalist and final arm: the evidence behind the certificates.",
)

CALIBRATION_POOL = Table(
    "calibration_pool",
    ("subset_id", "recipe"),
    {
        "subset_id": pl.String,
        "recipe": pl.String,
        "family": pl.String,
        "n_chunks": pl.Int64,
        "n_tokens": pl.Int64,
        "pool_version": pl.Int64,
        "membership": pl.Binary,
        "tasks": pl.List(pl.String),
        "utilities": pl.List(pl.Float64),
        "seeds": pl.Int64,
    },
    description="Every finalist ever retrained: membership as in subsets; utilities per task, means over its seeds; "
    "recipe as in subset_utilities. The next choice of a configuration counts them among its calibration subsets.",
)

SURROGATES = Table(
    "surrogates",
    ("config_id",),
    {
        "config_id": pl.String,
        "sketch_kind": pl.String,
        "rho": pl.Float64,
        "lam": pl.Float64,
        "form": pl.String,
        "rank_correlation": pl.Float64,
        "lower_bound": pl.Float64,
        "paired_lower_bound": pl.Float64,
        "cost_seconds": pl.Float64,
        "rank": pl.Int64,
    },
    description="Every candidate's rank correlation on the calibration subsets, earlier finalists among them, with its "
    "simultaneous lower bound.",
)

SELECTED_CONFIG = Table(
    "selected_config",
    ("config_id",),
    {
        "config_id": pl.String,
        "sketch_kind": pl.String,
        "rho": pl.Float64,
        "lam": pl.Float64,
        "form": pl.String,
        "rank_correlation": pl.Float64,
        "lower_bound": pl.Float64,
        "paired_lower_bound": pl.Float64,
        "best_additive": pl.String,
        "candidates_version": pl.Int64,
        "reason": pl.String,
    },
    description="The chosen configuration and why.",
)

CONDITIONAL_LOSSES = Table(
    "conditional_losses",
    ("chunk_id",),
    {
        "chunk_id": pl.String,
        "query": pl.Float64,
        "judge": pl.Float64,
        "shard": pl.String,
    },
    ("shard",),
    "Mean token loss of every chunk in nats after a short fine-tuning of the reference proxy on the query chunks, and "
    "on the judge chunks, of the target; gradient_sketches has the loss before.",
)

FINALISTS = Table(
    "finalists",
    ("arm",),
    {
        "arm": pl.String,
        "family": pl.String,
        "subset_id": pl.String,
        "role": pl.String,
        "features": pl.String,
        "rho": pl.Float64,
        "lam": pl.Float64,
        "ngram_weight": pl.Float64,
        "direction": pl.Binary,
        "near_duplicates": pl.String,
        "repeats": pl.Int64,
        "constraints": pl.String,
        "pickable": pl.Boolean,
        "judge_score": pl.Float64,
        "shortlisted": pl.Boolean,
        "surrogate_value": pl.Float64,
        "relative_gap": pl.Float64,
        "passes": pl.Int64,
        "n_chunks": pl.Int64,
        "n_tokens": pl.Int64,
        "description": pl.String,
    },
    description="Candidate corpora: role candidate, simple, random or full; the judge's score says who is retrained. "
    "features, ngram_weight, rho, lam and direction (r, d float64, null for the mean of the tasks) say what a linear "
    "arm ranked by (null for draws, groups and resamples); near_duplicates: how far they were left out, none, soft or "
    "hard; repeats: times that every chunk is trained on; constraints: what every arm but `full` meets, JSON; "
    "pickable: whether the arm may be published.",
)

REFITTED_FINALISTS = Table(
    "refitted_finalists",
    FINALISTS.key,
    dict(FINALISTS.schema),
    description="More finalists, built from the losses of the first ones on one fold; columns as there.",
)

CERTIFICATES = Table(
    "certificates",
    ("arm", "baseline", "task"),
    {
        "arm": pl.String,
        "baseline": pl.String,
        "task": pl.String,
        "tokens": pl.Int64,
        "improvement": pl.Float64,
        "lower_bound": pl.Float64,
        "seeds": pl.Int64,
        "degrees_of_freedom": pl.Float64,
        "documents": pl.Int64,
        "confidence": pl.Float64,
        "fold_picks": pl.String,
        "certified": pl.Boolean,
        "statement": pl.String,
    },
    description="Improvement of the picked corpus over a baseline in nats per token, with its one-sided lower bound.",
)

PRUNED_CORPUS = Table(
    "pruned_corpus",
    ("chunk_id",),
    {
        "chunk_id": pl.String,
        "doc_id": pl.String,
        "kept_tokens": pl.Int64,
        "repeats": pl.Int64,
        "marginal_value": pl.Float64,
        "order": pl.Int64,
        "top_task": pl.String,
        "top_task_value": pl.Float64,
        "source": pl.String,
        "shard": pl.String,
    },
    ("shard",),
    "The chunks to train on, best first by `order`, each `repeats` times. marginal_value: what a token of the chunk is "
    "worth; top_task: the task t of highest <r_t, phi>_M, and that value.",
)

DROP_REASONS = Table(
    "drop_reasons",
    ("chunk_id",),
    {
        "chunk_id": pl.String,
        "reason": pl.String,
        "margin": pl.Float64,
        "value": pl.Float64,
        "threshold": pl.Float64,
        "score": pl.String,
        "alignment": pl.Float64,
        "strongest_task": pl.String,
        "strongest_value": pl.Float64,
        "weakest_task": pl.String,
        "weakest_value": pl.Float64,
        "quota": pl.String,
        "nearest_kept": pl.String,
        "similarity": pl.Float64,
        "doc_id": pl.String,
        "n_tokens": pl.Int64,
        "source": pl.String,
        "shard": pl.String,
    },
    ("shard",),
    "Why each tokenized chunk was not kept: low_alignment, redundant, quota, duplicate or noise. value and threshold: "
    "the two sides of the test that the reason names, margin their difference (null for duplicates and random draws); "
    "score: what value and threshold are of, null for duplicates: alignment, marginal_value, ngram_importance (DSIR's "
    "log importance weight, nats), loss_reduction (nats per token), blend, group_alignment, minus_loss, "
    "nearness_to_median_loss or random_draw; alignment: <r, phi>_M of the arm, or of the linear arm that kept most of "
    "the same tokens; strongest and weakest task: by <r_t, phi>_M; quota: the constraint that left no room; "
    "nearest_kept, similarity: the kept chunk of highest cosine between sketches, for a duplicate among kept copies.",
)

RESIDUAL_FILTER = Table(
    "residual_filter",
    ("config_id",),
    {
        "config_id": pl.String,
        "filter_kind": pl.String,
        "arm": pl.String,
        "shipped_arm": pl.String,
        "target": pl.String,
        "rho": pl.Float64,
        "lam": pl.Float64,
        "sketch_kind": pl.String,
        "features": pl.String,
        "d": pl.Int64,
        "q": pl.Binary,
        "ngram_table": pl.Binary,
        "per_token": pl.Boolean,
        "loss_centre": pl.Float64,
        "reduction_weight": pl.Float64,
        "tuned_path": pl.String,
        "tuned_sha256": pl.String,
        "offset": pl.Float64,
        "tau": pl.Float64,
        "agreement": pl.Float64,
        "sketch_d": pl.Int64,
        "sketch_scale": pl.Float64,
        "sketch_config": pl.String,
        "view_factors": pl.List(pl.Float64),
        "ngram_d": pl.Int64,
        "ngram_idf": pl.Binary,
        "checkpoint_id": pl.String,
        "checkpoint_role": pl.String,
        "checkpoint_path": pl.String,
        "checkpoint_sha256": pl.String,
        "tokenizer_id": pl.String,
        "tokenizer_path": pl.String,
        "bos": pl.Int64,
        "chunk_tokens": pl.Int64,
        "improvement": pl.Float64,
        "lower_bound": pl.Float64,
    },
    description="What a new chunk is worth, and from which threshold on it is kept: value = offset + <q, features> "
    "+ sum of ngram_table over its n-grams - |loss - loss_centre| + reduction_weight * loss reduction >= tau; null "
    "parts do not count. filter_kind: direction, ngram_table, loss, conditional, blend or everything. arm: whose rule "
    "it is; shipped_arm: whose corpus ships. q: d float32 values; features: gradient, or gradient+ngrams, the sketch "
    "and the hashed bigrams one after the other, each times its view_factor; the sketch is rounded to float16 at "
    "sketch_scale first. ngram_table: float32 weights by hash bucket of unigrams and bigrams, per_token: divided by "
    "the chunk's tokens. Losses in nats per token at the reference proxy; the reduction is by the proxy of tuned_path. "
    "sketch_config: the sketcher's settings, projection seed included; ngram_idf: float64 weights by hash bucket; "
    "paths are relative to the store. agreement: tokens that the filter and the pruned corpus both keep, over those of "
    "the one that keeps more. improvement, lower_bound: null unless the filter is the shipped arm's own and "
    "agrees on at least 0.9 of the kept tokens.",
)

FILTERED_SHARDS = Table(
    "filtered_shards",
    ("chunk_id",),
    {
        "chunk_id": pl.String,
        "doc_id": pl.String,
        "position": pl.Int64,
        "start": pl.Int64,
        "end": pl.Int64,
        "n_tokens": pl.Int64,
        "value": pl.Float64,
        "kept": pl.Boolean,
        "text": pl.String,
        "source": pl.String,
        "origin": pl.String,
        "shard": pl.String,
    },
    ("shard",),
    "Chunks of files that came after the fit, scored by the residual filter: value, and whether it is at least tau. "
    "text: of kept chunks alone. shard: one for each file.",
)

FILTERED_REJECTIONS = Table(
    "filtered_rejections",
    ("origin",),
    dict(REJECTED_DOCUMENTS.schema),
    ("shard",),
    "Rows of those files that could not be scored, each with its reason, as in rejected_documents; that table itself "
    "accounts for the manifest's rows and for no others.",
)

FIDELITY = Table(
    "fidelity",
    ("method", "form", "stratum", "task"),
    {
        "method": pl.String,
        "form": pl.String,
        "stratum": pl.String,
        "task": pl.String,
        "corpus": pl.String,
        "rank_correlation": pl.Float64,
        "ci_low": pl.Float64,
        "ci_high": pl.Float64,
        "paired_gain": pl.Float64,
        "paired_ci_low": pl.Float64,
        "paired_ci_high": pl.Float64,
        "n_subsets": pl.Int64,
        "noise_ceiling": pl.Float64,
    },
    ("corpus",),
    "Rank correlation of every method with the utilities of the sealed evaluation subsets. corpus: text, what curate "
    "works on, or a data set of images, whose strata are written data set/stratum.",
)

EVALUATION_LOSSES = Table(
    "evaluation_losses",
    ("arm", "task"),
    {
        "arm": pl.String,
        "task": pl.String,
        "loss": pl.Float64,
        "seed_sd": pl.Float64,
        "gain": pl.Float64,
        "gain_low": pl.Float64,
        "gain_high": pl.Float64,
        "seeds": pl.Int64,
        "tokens": pl.Int64,
    },
    description="Sealed evaluation loss of the picked corpus and the comparison arms at equal training tokens.",
)

ALL: dict[str, Table] = {
    table.name: table
    for table in (
        MANIFEST,
        DOCUMENTS,
        REJECTED_DOCUMENTS,
        TASK_DOCUMENTS,
        TOKENIZER,
        TOKENIZED_SHARDS,
        TASKS,
        PROXY_CHECKPOINTS,
        SKETCHERS,
        GRADIENT_SKETCHES,
        TASK_SKETCHES,
        CANDIDATES,
        SUBSETS,
        SUBSET_UTILITIES,
        DOCUMENT_LOSSES,
        CALIBRATION_POOL,
        SURROGATES,
        SELECTED_CONFIG,
        CONDITIONAL_LOSSES,
        FINALISTS,
        REFITTED_FINALISTS,
        CERTIFICATES,
        PRUNED_CORPUS,
        DROP_REASONS,
        RESIDUAL_FILTER,
        FILTERED_SHARDS,
        FILTERED_REJECTIONS,
        FIDELITY,
        EVALUATION_LOSSES,
    )
}

BY_SPLIT = frozenset({TASKS.name, SUBSETS.name, SUBSET_UTILITIES.name, DOCUMENT_LOSSES.name})
"""Tables that an asset reads split by split, never whole: one split of each is the sealed evaluation."""

ARRIVALS = frozenset({FILTERED_SHARDS.name, FILTERED_REJECTIONS.name})
"""Tables that the job apply_filter writes, and no other job."""
