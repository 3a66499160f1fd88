"""The tables: names, keys, columns and partitions of everything the pipeline stores, in one place.

Types are those that Delta can hold: no unsigned integers, no categoricals, no half floats, no fixed-size arrays.
Sketches and memberships are binary columns; their layout is written beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

TOKENS = pl.List(pl.Int32)

Columns = dict[str, pl.DataType | type[pl.DataType]]


def _of(dtype: type[pl.DataType]) -> Callable[..., Columns]:
    return lambda *names: dict.fromkeys(names, dtype)


_text, _integer, _real, _flag, _bytes = map(_of, (pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.Binary))


@dataclass(frozen=True, eq=False)
class Table:
    """One Delta table: its folder's name, unique key, columns and partition columns.

    added: columns that tables of earlier versions of the code lack; there they are null.
    """

    name: str
    key: tuple[str, ...]
    schema: Columns
    partition_by: tuple[str, ...] = ()
    description: str = field(default="", compare=False)
    added: tuple[str, ...] = ()

    def empty(self) -> pl.DataFrame:
        """Return a frame with the table's columns and no rows."""
        return pl.DataFrame(schema=self.schema)

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Order and cast a frame's columns to the schema; added columns may be missing and are null then.

        Raises:
            ValueError: a column is missing or too many, a key column is null, or the key is not unique.
        """
        frame = frame.with_columns(
            pl.lit(None).alias(name) for name in self.added if name not in frame.columns
        )
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
    _text("uri")
    | _integer("block", "first_row", "n_rows", "n_bytes", "n_faulty")
    | _text("unit")
    | _integer("extent", "faulty_extent", "file_extent")
    | _text("fingerprint", "shard")
    | _flag("founding"),
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
    _text("doc_id", "text", "source", "shard")
    | _integer("n_bytes")
    | _text("origin", "cluster")
    | _flag("survivor"),
    ("shard",),
    "Normalised documents. doc_id: sha-256 of the text; origin: file#row (and the user's id); cluster: doc_id of the "
    "survivor of the near-duplicate cluster; survivor: whether this document is it.",
)

REJECTED_DOCUMENTS = Table(
    "rejected_documents",
    ("doc_id", "stage"),
    _text("doc_id", "stage", "reason", "detail")
    | _real("value")
    | _text("duplicate_of", "source", "shard", "origin")
    | _integer("n_bytes"),
    ("shard",),
    "Documents and rows left out before tokenization, each with its reason and the measured value. For rows without "
    "usable text doc_id is derived from the origin; exact copies carry their origin in doc_id after a colon.",
)

TASK_DOCUMENTS = Table(
    "task_documents",
    ("task", "split", "document"),
    _text("task", "split") | _integer("fold") | _text("document", "text"),
    ("task",),
    "Held-out documents of the target tasks. split: query, judge, calibration (fold 0 or 1) or evaluation.",
)

TOKENIZER = Table(
    "tokenizer",
    ("tokenizer_id",),
    _text("tokenizer_id", "path") | _integer("vocab_size", "bos", "chunk_tokens") | _real("bytes_per_token"),
    description="The tokenizer's files (path, relative to the store) and sha-256 digest.",
)

TOKENIZED_SHARDS = Table(
    "tokenized_shards",
    ("chunk_id",),
    _text("chunk_id", "doc_id")
    | _integer("position")
    | {"input_ids": TOKENS}
    | _integer("n_tokens", "start", "end")
    | _text("source", "shard"),
    ("shard",),
    "Chunks of L tokens; start and end are character offsets into the document's text and tile it without gaps.",
)

TASKS = Table(
    "tasks",
    ("task", "split", "chunk_id"),
    _text("task", "split")
    | _integer("fold")
    | _text("document", "chunk_id")
    | {"input_ids": TOKENS}
    | _integer("n_tokens"),
    ("task",),
    "Tokenized held-out documents.",
)

PROXY_CHECKPOINTS = Table(
    "proxy_checkpoints",
    ("checkpoint_id",),
    _text("checkpoint_id", "role", "path", "sha256")
    | _integer("tokens_seen")
    | _real("train_loss", "validation_loss")
    | _text("model_config", "recipe")
    | _real("seconds"),
    description="Checkpoints of the proxy: role initial or reference; path relative to the store.",
)

SKETCHERS = Table(
    "sketchers",
    ("sketch_kind",),
    _text("sketch_kind", "role", "checkpoint_id") | _integer("d") | _real("scale") | _text("settings"),
    description="How each kind is computed: the checkpoint's role and id, settings as JSON (with the path in the store "
    "and the sha-256 of the fitted projection, where there is one), and the power of two by which stored "
    "values are divided.",
)

GRADIENT_SKETCHES = Table(
    "gradient_sketches",
    ("sketch_kind", "chunk_id"),
    _text("sketch_kind", "chunk_id")
    | _bytes("sketch")
    | _integer("d")
    | _real("scale", "loss", "norm")
    | _integer("n_tokens")
    | _text("shard"),
    ("sketch_kind", "shard"),
    "Sketches of descent directions: d float16 little-endian values; multiply by `scale` for the sketch itself.",
)

TASK_SKETCHES = Table(
    "task_sketches",
    ("sketch_kind", "task", "split"),
    _text("sketch_kind", "task", "split")
    | _bytes("sketch")
    | _integer("d", "n_tokens", "n_chunks")
    | _real("signal_to_noise"),
    description="Token-weighted mean sketch of a task's query or judge chunks: d float32 little-endian values.",
)

CANDIDATES = Table(
    "candidates",
    ("config_id",),
    _text("config_id", "sketch_kind")
    | _real("rho", "lam")
    | _text("form", "target", "task_weights")
    | _integer("budget_tokens", "budget_documents")
    | _real("budget_fraction", "confidence")
    | _integer("bootstrap"),
    description="The finite grid and the protocol, written before anything is measured. rho 0: M is the identity; "
    "task_weights: JSON, empty for equal weights.",
)

SUBSETS = Table(
    "subsets",
    ("subset_id",),
    _text("subset_id", "split", "stratum")
    | _integer("n_chunks", "n_tokens", "seed", "pool_version")
    | _bytes("membership"),
    ("split",),
    "Designed subsets. membership: packed bits over the chunks of tokenized_shards at pool_version, by chunk_id.",
)

SUBSET_UTILITIES = Table(
    "subset_utilities",
    ("subset_id", "task", "seed"),
    _text("subset_id", "task")
    | _integer("seed")
    | _text("split")
    | _real("utility")
    | _integer("tokens")
    | _text("checkpoint_id", "recipe")
    | _real("seconds"),
    ("split",),
    "Measured utilities: minus the held-out token loss in nats. recipe: digest of the training recipe, the tokenizer "
    "and the held-out documents; a row is reused only where it agrees.",
)

DOCUMENT_LOSSES = Table(
    "document_losses",
    ("subset_id", "seed", "task", "document"),
    _text("subset_id")
    | _integer("seed")
    | _text("task", "document")
    | _integer("fold")
    | _text("split")
    | _real("loss_sum")
    | _integer("n_tokens")
    | _text("recipe"),
    ("split",),
    "Held-out loss per document of every finalist and final arm: the evidence behind the certificates.",
)

CALIBRATION_POOL = Table(
    "calibration_pool",
    ("subset_id", "recipe"),
    _text("subset_id", "recipe", "family")
    | _integer("n_chunks", "n_tokens", "pool_version")
    | _bytes("membership")
    | {"tasks": pl.List(pl.String)}
    | {"utilities": pl.List(pl.Float64)}
    | _integer("seeds"),
    description="Every finalist ever retrained: membership as in subsets; utilities per task, means over its seeds; "
    "recipe as in subset_utilities. The next choice of a configuration counts them among its calibration subsets.",
)

SURROGATES = Table(
    "surrogates",
    ("config_id",),
    _text("config_id", "sketch_kind")
    | _real("rho", "lam")
    | _text("form")
    | _real("rank_correlation", "lower_bound", "paired_lower_bound", "cost_seconds")
    | _integer("rank"),
    description="Every candidate's rank correlation on the calibration subsets, earlier finalists among them, with its "
    "simultaneous lower bound.",
)

SELECTED_CONFIG = Table(
    "selected_config",
    ("config_id",),
    _text("config_id", "sketch_kind")
    | _real("rho", "lam")
    | _text("form")
    | _real("rank_correlation", "lower_bound", "paired_lower_bound")
    | _text("best_additive")
    | _integer("candidates_version")
    | _text("reason"),
    description="The chosen configuration and why.",
)

CONDITIONAL_LOSSES = Table(
    "conditional_losses",
    ("chunk_id",),
    _text("chunk_id") | _real("query", "judge") | _text("shard"),
    ("shard",),
    "Mean token loss of every chunk in nats after a short fine-tuning of the reference proxy on the query chunks, and "
    "on the judge chunks, of the target; gradient_sketches has the loss before.",
)

FINALISTS = Table(
    "finalists",
    ("arm",),
    _text("arm", "family", "subset_id", "role", "features")
    | _real("rho", "lam", "ngram_weight")
    | _bytes("direction")
    | _text("near_duplicates")
    | _integer("repeats")
    | _text("constraints")
    | _flag("pickable")
    | _real("judge_score")
    | _flag("shortlisted")
    | _real("surrogate_value", "relative_gap")
    | _integer("passes", "n_chunks", "n_tokens")
    | _text("description"),
    description="Candidate corpora: role candidate, simple, random or full; the judge's score says who is "
    "retrained. features, ngram_weight, rho, lam and direction (r, d float64, null for the mean of the "
    "tasks) say what a linear arm ranked by (null for others, but for the smoothing rho of log- "
    "coverage); near_duplicates: how far they were left out, none, soft or hard; repeats: times that "
    "every chunk is trained on; constraints: what every arm but `full` meets, JSON; pickable: whether "
    "the arm may be published.",
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
    _text("arm", "baseline", "task")
    | _integer("tokens")
    | _real("improvement", "lower_bound")
    | _integer("seeds")
    | _real("degrees_of_freedom")
    | _integer("documents")
    | _real("confidence")
    | _text("fold_picks")
    | _flag("certified")
    | _text("statement"),
    description="Improvement of the picked corpus over a baseline in nats per token, with its one-sided lower bound.",
)

PRUNED_CORPUS = Table(
    "pruned_corpus",
    ("chunk_id",),
    _text("chunk_id", "doc_id")
    | _integer("kept_tokens", "repeats")
    | _real("marginal_value")
    | _integer("order")
    | _text("top_task")
    | _real("top_task_value")
    | _text("source", "shard")
    | _integer("curation"),
    ("shard",),
    "The chunks to train on, best first by `order`, each `repeats` times. marginal_value: what a token of the chunk is "
    "worth; top_task: the task t of highest <r_t, phi>_M, and that value.",
    added=("curation",),
)

DROP_REASONS = Table(
    "drop_reasons",
    ("chunk_id",),
    _text("chunk_id", "reason")
    | _real("margin", "value", "threshold")
    | _text("score")
    | _real("alignment")
    | _text("strongest_task")
    | _real("strongest_value")
    | _text("weakest_task")
    | _real("weakest_value")
    | _text("quota", "nearest_kept")
    | _real("similarity")
    | _text("doc_id")
    | _integer("n_tokens")
    | _text("source", "shard")
    | _integer("curation"),
    ("shard",),
    "Why each tokenized chunk was not kept: low_alignment, redundant, quota, duplicate or noise. value and "
    "threshold: the two sides of the test that the reason names, margin their difference (null for duplicates and "
    "random draws); score: what value and threshold are of, null for duplicates: alignment, marginal_value, "
    "ngram_importance (DSIR's log importance weight, nats), event_coverage, loss_reduction (nats per token), "
    "quality_log_odds (nats), trained_similarity, "
    "blend, group_alignment, minus_loss, nearness_to_median_loss or random_draw; alignment: <r, phi>_M of the arm, "
    "or of the linear arm that kept most of the same tokens; strongest and weakest task: by <r_t, phi>_M, of log- "
    "coverage by the task's own; quota: the constraint that left no room; nearest_kept, similarity: the kept chunk "
    "of highest cosine between sketches, for a duplicate among kept copies.",
    added=("curation",),
)

RESIDUAL_FILTER = Table(
    "residual_filter",
    ("config_id",),
    _text("config_id", "filter_kind", "arm", "shipped_arm", "target")
    | _real("rho", "lam")
    | _text("sketch_kind", "features")
    | _integer("d")
    | _bytes("q", "ngram_table")
    | _flag("per_token")
    | _real("loss_centre", "reduction_weight")
    | _text("tuned_path", "tuned_sha256")
    | _real("offset", "tau", "agreement")
    | _integer("sketch_d")
    | _real("sketch_scale")
    | _text("sketch_config")
    | {"view_factors": pl.List(pl.Float64)}
    | _integer("ngram_d")
    | _bytes("ngram_idf")
    | _text(
        "checkpoint_id",
        "checkpoint_role",
        "checkpoint_path",
        "checkpoint_sha256",
        "tokenizer_id",
        "tokenizer_path",
    )
    | _integer("bos", "chunk_tokens")
    | _real("improvement", "lower_bound")
    | _bytes("event_keys", "event_values")
    | _integer("curation"),
    description="What a new chunk is worth, and from which threshold on it is kept: value = offset + <q, features> "
    "+ sum of ngram_table over its n-grams + mean of event_values over its tokens - |loss - "
    "loss_centre| + reduction_weight * loss reduction >= tau; null parts do not count. filter_kind: "
    "direction, ngram_table, event_table, loss, conditional, blend or everything. arm: whose rule it "
    "is; shipped_arm: whose corpus ships. q: d float32 values; features: gradient, or gradient+ngrams, "
    "the sketch and the hashed bigrams one after the other, each times its view_factor; the sketch is "
    "rounded to float16 at sketch_scale first. ngram_table: float32 weights by hash bucket of unigrams "
    "and bigrams, per_token: divided by the chunk's tokens. event_values: float32, of the pairs of "
    "neighbouring tokens with codes event_keys (int64: the first token times 2^32, plus the second). "
    "Losses in nats per token at the reference proxy; the reduction is by the proxy of tuned_path. "
    "sketch_config: the sketcher's settings, projection seed included; ngram_idf: float64 weights by "
    "hash bucket; paths are relative to the store. agreement: tokens that the filter and the pruned "
    "corpus both keep, over those of the one that keeps more. improvement, lower_bound: null unless "
    "the filter is the shipped arm's own and agrees on at least 0.9 of the kept tokens.",
    added=("curation",),
)

FILTERED_SHARDS = Table(
    "filtered_shards",
    ("chunk_id",),
    _text("chunk_id", "doc_id")
    | _integer("position", "start", "end", "n_tokens")
    | _real("value")
    | _flag("kept")
    | _text("text", "source", "origin", "shard"),
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
    _text("method", "form", "stratum", "task", "corpus")
    | _real("rank_correlation", "ci_low", "ci_high", "paired_gain", "paired_ci_low", "paired_ci_high")
    | _integer("n_subsets")
    | _real("noise_ceiling"),
    ("corpus",),
    "Rank correlation of every method with the utilities of the sealed evaluation subsets. corpus: text, what curate "
    "works on, or a data set of images, whose strata are written data set/stratum.",
)

EVALUATION_LOSSES = Table(
    "evaluation_losses",
    ("arm", "task"),
    _text("arm", "task")
    | _real("loss", "seed_sd", "gain", "gain_low", "gain_high")
    | _integer("seeds", "tokens"),
    description="Sealed evaluation loss of the picked corpus and the comparison arms at equal training tokens.",
)

CURATIONS = Table(
    "curations",
    ("curation",),
    _integer("curation")
    | _text("time", "run_id")
    | _flag("published")
    | _text("configuration", "inputs", "packages", "versions", "target")
    | _integer("budget_tokens")
    | _text("arm")
    | _integer("documents", "chunks", "tokens")
    | _real("improvement", "lower_bound")
    | _flag("certified")
    | _text("certificate", "statement"),
    description="One row per published or refused result, numbered from 1; rows are added, never changed. time: UTC, "
    "ISO 8601; configuration: YAML of the values that every step's table holds under; inputs: JSON, file -> "
    "fingerprint, rows and bytes; packages: JSON, package -> version; versions: JSON, table -> Delta version, as the "
    "result really read it; arm, documents, chunks, tokens: what ships, or would have; improvement, lower_bound, "
    "certified, statement: over random on the target; certificate: JSON, the rows of certificates.",
)

ALL: dict[str, Table] = {each.name: each for each in tuple(globals().values()) if isinstance(each, Table)}

BY_SPLIT = frozenset({TASKS.name, SUBSETS.name, SUBSET_UTILITIES.name, DOCUMENT_LOSSES.name})
"""Tables that an asset reads split by split, never whole: one split of each is the sealed evaluation."""
