"""Column lineage: of what columns of other tables the columns of a table are made, on the way from text to corpus."""

from __future__ import annotations

_PLACE = {"source": "documents.source", "shard": "documents.shard"}
_CHUNK = {name: f"tokenized_shards.{name}" for name in ("chunk_id", "doc_id", "source", "shard")}
_GRADIENTS = "gradient_sketches.sketch task_sketches.sketch"
_MARGINS = "document_losses.loss_sum document_losses.n_tokens"

COLUMNS: dict[str, dict[str, str]] = {
    "documents": {"origin": "manifest.uri manifest.first_row", "shard": "manifest.shard"},
    "rejected_documents": {
        "origin": "manifest.uri manifest.first_row",
        "shard": "manifest.shard",
        "duplicate_of": "documents.doc_id",
        "detail": "task_documents.text",
    },
    "tokenizer": {"path": "documents.text", "bytes_per_token": "documents.text"},
    "tokenized_shards": {
        "chunk_id": "documents.doc_id",
        "doc_id": "documents.doc_id",
        "input_ids": "documents.text tokenizer.path",
        "n_tokens": "documents.text tokenizer.path",
        "start": "documents.text",
        "end": "documents.text",
        **_PLACE,
    },
    "tasks": {
        **{name: f"task_documents.{name}" for name in ("task", "split", "fold", "document")},
        "input_ids": "task_documents.text tokenizer.path",
        "n_tokens": "task_documents.text tokenizer.path",
    },
    "gradient_sketches": {
        "chunk_id": "tokenized_shards.chunk_id",
        "shard": "tokenized_shards.shard",
        "n_tokens": "tokenized_shards.n_tokens",
        "sketch_kind": "sketchers.sketch_kind",
        **dict.fromkeys(("sketch", "loss", "norm"), "tokenized_shards.input_ids proxy_checkpoints.path"),
    },
    "task_sketches": {
        "task": "tasks.task",
        "split": "tasks.split",
        "n_tokens": "tasks.n_tokens",
        "sketch_kind": "sketchers.sketch_kind",
        "sketch": "tasks.input_ids proxy_checkpoints.path",
    },
    "subsets": {"membership": "tokenized_shards.chunk_id", "n_tokens": "tokenized_shards.n_tokens"},
    "subset_utilities": {
        "subset_id": "subsets.subset_id",
        "task": "tasks.task",
        "utility": "subsets.membership tokenized_shards.input_ids tasks.input_ids proxy_checkpoints.path",
    },
    "surrogates": {
        "config_id": "candidates.config_id",
        "rank_correlation": f"subset_utilities.utility subsets.membership {_GRADIENTS}",
        "lower_bound": f"subset_utilities.utility subsets.membership {_GRADIENTS}",
    },
    "selected_config": {"config_id": "surrogates.config_id", "lower_bound": "surrogates.lower_bound"},
    "finalists": {
        "rho": "selected_config.rho",
        "n_tokens": "tokenized_shards.n_tokens",
        "judge_score": "tasks.input_ids tokenized_shards.input_ids",
    },
    "document_losses": {
        "subset_id": "finalists.subset_id",
        "task": "tasks.task",
        "document": "tasks.document",
        "loss_sum": "tasks.input_ids tokenized_shards.input_ids proxy_checkpoints.path",
        "n_tokens": "tasks.n_tokens",
    },
    "certificates": {
        "arm": "finalists.arm refitted_finalists.arm",
        **dict.fromkeys(("improvement", "lower_bound", "certified"), _MARGINS),
    },
    "pruned_corpus": {
        **_CHUNK,
        "kept_tokens": "tokenized_shards.n_tokens",
        "repeats": "finalists.repeats",
        "marginal_value": _GRADIENTS,
        "order": _GRADIENTS,
        "top_task_value": _GRADIENTS,
    },
    "drop_reasons": {
        **_CHUNK,
        "n_tokens": "tokenized_shards.n_tokens",
        "nearest_kept": "pruned_corpus.chunk_id",
        **dict.fromkeys(("value", "margin", "threshold", "alignment", "similarity"), _GRADIENTS),
    },
    "residual_filter": {
        "q": _GRADIENTS,
        "tau": _GRADIENTS,
        "agreement": "pruned_corpus.kept_tokens",
        "lower_bound": "certificates.lower_bound",
        "checkpoint_sha256": "proxy_checkpoints.sha256",
        "tokenizer_path": "tokenizer.path",
    },
    "fidelity": {"rank_correlation": f"subset_utilities.utility subsets.membership {_GRADIENTS}"},
    "evaluation_losses": {"arm": "finalists.arm", "loss": "tasks.input_ids tokenized_shards.input_ids"},
    "curations": {
        "inputs": "manifest.uri manifest.fingerprint",
        "chunks": "pruned_corpus.chunk_id",
        "tokens": "pruned_corpus.kept_tokens",
        **{
            name: f"certificates.{name}"
            for name in ("arm", "improvement", "lower_bound", "certified", "statement")
        },
    },
    "filtered_shards": {"value": "residual_filter.q", "kept": "residual_filter.tau"},
}
"""Table -> column -> the `table.column`s that its values are computed from; keys that pass through are told too."""


def column_sources(table: str) -> dict[str, list[tuple[str, str]]]:
    """Return column -> (table, column) of what its values are made of; columns that nothing is said of are left out."""
    return {
        column: [(name, part) for name, _, part in (each.partition(".") for each in text.split())]
        for column, text in COLUMNS.get(table, {}).items()
    }
