"""The residual filter at work: files that came after the fit are scored and kept without optimising again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.engines import stored_parts
from assets.sections import FilterRun
from assets.stages import GPU_POOL, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.errors import StoreError
from grasp_pipeline.progress import Listener, Progress
from resources.compute import Compute
from resources.models import LoadedTokenizer, Models
from resources.notes import FilteredNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.corpus.arrivals import Arrivals
    from grasp_pipeline.corpus.files import InputFile
    from grasp_pipeline.proxy.objective import CausalLM, Parameters
    from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter, ChunkInputs
    from grasp_pipeline.selection.explanation.residual_filter import FeatureView
    from grasp_pipeline.sketch.run import SketchEngine
    from resources.delta.commits import Commit, Provenance

BOTH = (tables.FILTERED_SHARDS, tables.FILTERED_REJECTIONS)


@dataclass
class Scorer:
    """The stored filter with all that it takes to score text: tokenizer, and what its kind looks at.

    engine: sketches and losses, None for a filter of tokens alone; tuned: stacked parameters of one fine-tuned proxy,
    where the filter weighs loss reductions.
    """

    row: dict[str, Any]
    tokenizer: LoadedTokenizer
    filter: "ChunkFilter"
    view: "FeatureView"
    engine: "SketchEngine | None" = None
    objective: "CausalLM | None" = None
    tuned: "Parameters | None" = None

    @classmethod
    def load(
        cls,
        row: dict[str, Any],
        tokenizer: LoadedTokenizer,
        proxies: int,
        models: Models,
        compute: Compute,
        say: Listener,
    ) -> "Scorer":
        """Build the scorer of a row of `residual_filter`; proxies: version of `proxy_checkpoints`.

        Raises:
            StoreError: the store's tokenizer or a checkpoint is not the one that the filter was fitted with.
        """
        from assets.conditional import stored_weights
        from grasp_pipeline.proxy.training import stack

        scorer = cls(row, tokenizer, stored_filter(row), stored_view(row))
        scorer._check("tokenizer", row["tokenizer_id"], tokenizer.tokenizer_id)
        if not scorer.filter.reads_proxy:
            return scorer
        proxy = models.proxy(proxies, row["checkpoint_role"])
        scorer._check("checkpoint", row["checkpoint_id"], proxy.checkpoint_id)
        device = compute.prepare()
        parts = stored_parts(
            row["sketch_kind"],
            row["sketch_config"],
            proxy.objective,
            tokenizer.chunk_tokens,
            models.store,
            compute,
            device,
        )
        scorer.engine = parts.engine(say)
        if row["tuned_path"] is not None:
            sha256, weights = stored_weights(models.store, row["tuned_path"])
            scorer._check("fine-tuned proxy", row["tuned_sha256"], sha256)
            scorer.objective, scorer.tuned = proxy.objective, stack(weights, 1, device)
        return scorer

    @staticmethod
    def _check(what: str, fitted: str, stored: str) -> None:
        if fitted != stored:
            raise StoreError(
                f"the residual filter was fitted with the {what} {fitted[:12]}, but the store now holds "
                f"{stored[:12]}; run the job curate to fit it again"
            )

    def score(self, documents: "pl.DataFrame", progress: Progress) -> "pl.DataFrame":
        """Return the chunks of documents as rows of `filtered_shards`, scored as those of the fit were."""
        import polars as pl

        from grasp_pipeline.corpus.chunking import chunk_documents

        chunks = chunk_documents(documents, self.tokenizer.encoder, self.tokenizer.chunk_tokens)
        values = self.filter.values(self._inputs(chunks, progress))
        text = pl.col("text").str.slice(pl.col("start"), pl.col("end") - pl.col("start"))
        return (
            chunks.drop("input_ids")
            .with_columns(
                kept=pl.Series(values >= self.filter.tau, dtype=pl.Boolean),
                value=pl.Series(values, dtype=pl.Float64),
            )
            .join(
                documents.select("doc_id", "text", "origin"), on="doc_id", how="left", maintain_order="left"
            )
            .with_columns(text=pl.when("kept").then(text))
            .select(list(tables.FILTERED_SHARDS.schema))
        )

    def _inputs(self, chunks: "pl.DataFrame", progress: Progress) -> "ChunkInputs":
        """Return what the filter looks at in chunks, made as in the fit: sketches rounded as stored, with losses."""
        import numpy as np
        import polars as pl

        from assets.conditional import PASS_ROWS
        from grasp_pipeline.attribution.blocks import ArrayBlocks
        from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
        from grasp_pipeline.proxy.objective import pad_chunks
        from grasp_pipeline.selection.explanation.chunk_filter import ChunkInputs
        from grasp_pipeline.sketch.run import sketch_in_memory
        from grasp_pipeline.sketch.storage import decode, encode

        pool = TokenLists.of_column(chunks["input_ids"])
        inputs = ChunkInputs(pool)
        if self.engine is None:
            progress.advance(int(chunks["n_tokens"].sum()))
            return inputs
        ids, tokens, bos = chunks["chunk_id"].to_list(), chunks["input_ids"].to_list(), self.row["bos"]
        sketches, losses = sketch_in_memory(self.engine, tokens, ids, bos, progress.advance)
        inputs = replace(inputs, loss=losses.astype(np.float64))
        if self.filter.q is not None:
            scale = self.row["sketch_scale"]
            stored = pl.Series("sketch", encode(sketches, scale, ids), dtype=pl.Binary)
            blocks = ArrayBlocks(decode(stored, self.row["sketch_d"], scale))
            inputs = replace(inputs, features=self.view.features(blocks, inputs.tokens))
        if self.tuned is not None and self.objective is not None:
            rows, sizes = pad_chunks(tokens, bos, self.tokenizer.chunk_tokens)
            after = stacked_chunk_losses(self.objective, self.tuned, rows, sizes, PASS_ROWS)[0] / sizes
            inputs = replace(inputs, reduction=losses - after.numpy())
        return inputs


def stored_filter(row: dict[str, Any]) -> "ChunkFilter":
    """Return the filter of a row of `residual_filter`."""
    import numpy as np

    from grasp_pipeline.corpus.events import EventTable
    from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter
    from grasp_pipeline.sketch.storage import decode_vector

    events = None
    if row["event_keys"] is not None:
        events = EventTable(np.frombuffer(row["event_keys"], "<i8"), decode_vector(row["event_values"]))
    return ChunkFilter(
        row["filter_kind"],
        row["tau"],
        row["offset"],
        None if row["q"] is None else decode_vector(row["q"]),
        None if row["ngram_table"] is None else decode_vector(row["ngram_table"]),
        bool(row["per_token"]),
        row["loss_centre"],
        row["reduction_weight"],
        events=events,
    )


def stored_view(row: dict[str, Any]) -> "FeatureView":
    """Return how the features of a row of `residual_filter` are made of sketches and tokens."""
    import numpy as np

    from grasp_pipeline.corpus.ngram_features import NgramFeatures
    from grasp_pipeline.selection.explanation.residual_filter import FeatureView

    ngrams = None
    if row["ngram_idf"] is not None:
        ngrams = NgramFeatures(row["ngram_d"], np.frombuffer(row["ngram_idf"], dtype="<f8"))
    return FeatureView(tuple(row["view_factors"] or (1.0,)), ngrams)


@stage(
    group="filtering",
    kinds={"pytorch", "deltalake"},
    code_version="5",
    reads=[
        tables.RESIDUAL_FILTER,
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
        tables.TASK_DOCUMENTS,
        tables.DOCUMENTS,
    ],
    writes={
        tables.FILTERED_SHARDS: "Chunks of new files with their value under the residual filter, and the text of those "
        "worth keeping.",
        tables.FILTERED_REJECTIONS: "Rows of new files that could not be scored, each with its reason.",
    },
    pool=GPU_POOL,
)
def filtered_shards(
    context: dg.AssetExecutionContext, config: FilterRun, store: DeltaStore, models: Models, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Score file by file in order of their URIs.

    A file that was scored with this filter is not touched again, unless it lost rows as copies of rows that are gone.
    """
    from grasp_pipeline.corpus.arrivals import Arrivals
    from grasp_pipeline.corpus.contamination import held_out_texts
    from grasp_pipeline.corpus.files import resolve_inputs

    step = Step(context, store, config)
    row = step.read(tables.RESIDUAL_FILTER).collect().row(0, named=True)
    tokenizer_read, proxies = step.pin(tables.TOKENIZER), step.pin(tables.PROXY_CHECKPOINTS)
    tasks = step.read(tables.TASK_DOCUMENTS)
    documents = step.read(tables.DOCUMENTS)
    files = resolve_inputs(config, store.storage_options)
    step.say(f"scoring {len(files)} files by the filter of {row['arm']} ({row['filter_kind']})")
    if row["lower_bound"] is None:
        step.say(
            f"this filter carries no certificate: it and the corpus of {row['shipped_arm']} have "
            f"{row['agreement']:.2f} of the kept tokens in common"
        )
    arrivals = cache(
        lambda: Arrivals(config.cleaning, held_out_texts(tasks.collect()), _known(step, documents))
    )
    scorer = cache(
        lambda: Scorer.load(
            row, models.tokenizer(tokenizer_read.version), proxies.version, models, compute, step.say
        )
    )
    work = {shard_of(file): (file, _provenance(step, config, file)) for file in files}
    commits = {
        shard: step.current(tables.FILTERED_SHARDS, provenance, {"shard": shard})
        for shard, (_, provenance) in work.items()
    }
    written = 0
    for shard in _to_score(step, commits, arrivals):
        file, provenance = work[shard]
        commits[shard] = _score_file(step, config, file, scorer(), arrivals(), provenance)
        written += 1
    totals = dict.fromkeys(("documents", "rejected", "tokens", "kept_tokens", "chunks", "kept_chunks"), 0)
    for commit in filter(None, commits.values()):
        for name in totals:
            totals[name] += getattr(FilteredNote.of(commit), name)
    share = totals["kept_tokens"] / totals["tokens"] if totals["tokens"] else 0.0
    extra = {
        "files": len(files),
        "files_scored": written,
        **totals,
        "share_kept": round(share, 4),
        "tau": row["tau"],
        "filter_kind": row["filter_kind"],
        "agreement_over_kept_tokens": round(row["agreement"], 4),
        "certified": row["lower_bound"] is not None,
    }
    for table in BOTH:
        newest = step.tables.latest(table)
        assert newest is not None, "every file writes both tables"
        rows = step.rows(table, newest)
        yield step.result(table, newest, rows, extra, totals["tokens"], up_to_date=written == 0)


def shard_of(file: "InputFile") -> str:
    """Return the name under which a file's rows are stored: its source and a digest of its URI."""
    from grasp_pipeline.seeds import digest

    return f"{file.source}-{digest(file.uri)[:12]}"


def _provenance(step: Step, config: FilterRun, file: "InputFile") -> "Provenance":
    """Return what a file's rows are made from: the filter, the rules and the file's content.

    The paths are no part of it, so another glob over the same files scores none of them again.
    """
    from grasp_pipeline.seeds import digest

    rules = config.model_dump(mode="json", exclude={"paths"})
    return replace(step.provenance(), config_digest=digest(rules, file.uri, file.fingerprint))


def _known(step: Step, documents: "pl.LazyFrame") -> dict[str, str]:
    """Return the documents of files scored before and those of the corpus: id -> shard."""
    from grasp_pipeline.corpus.arrivals import CORPUS

    known: dict[str, str] = {}
    if (commit := step.tables.latest(tables.FILTERED_SHARDS)) is not None:
        scored = step.tables.read(tables.FILTERED_SHARDS, commit.version)
        known |= scored.select("doc_id", "shard").unique().collect().iter_rows()
    own = documents.select("doc_id").collect()["doc_id"]
    return known | {doc_id.partition(":")[0]: CORPUS for doc_id in own}


def _to_score(
    step: Step, commits: "dict[str, Commit | None]", arrivals: "Callable[[], Arrivals]"
) -> Iterator[str]:
    """Yield the shards of new and changed files, then those that lost rows to what these held before.

    What changed files held is forgotten before the first is scored, so that no row is taken for a copy of one that is
    about to go. A file that is scored again holds what it held and more, so others need not be looked at once more.

    commits: shard -> last commit of it, None where it must be scored; scored shards are entered before the next is
    asked for.
    """
    fresh = {shard: None for shard, commit in commits.items() if commit is None}
    if fresh:
        arrivals().forget(fresh)
    yield from fresh
    versions = _versions(step)
    for shard, commit in commits.items():
        rests_on = FilteredNote.of(commit).rests_on if commit is not None else {}
        if shard in fresh or all(versions.get(name) == version for name, version in rests_on.items()):
            continue
        if not arrivals().knows(_lost_as_copies(step, shard)):
            arrivals().forget([shard])
            yield shard


def _versions(step: Step) -> dict[str, int]:
    """Return the version of `filtered_shards` at which each shard was last written."""
    newest_last = reversed(step.tables.commits(tables.FILTERED_SHARDS))
    return {(commit.partition or {}).get("shard", ""): commit.version for commit in newest_last}


def _lost_as_copies(step: Step, shard: str) -> list[str]:
    """Return the documents of which a file's stored rejections are copies."""
    import polars as pl

    partition = {"shard": shard}
    read = step.tables.pin(tables.FILTERED_REJECTIONS, partition)
    rejections = step.tables.read(tables.FILTERED_REJECTIONS, read.version, partition)
    return rejections.select(pl.col("duplicate_of").drop_nulls().unique()).collect()["duplicate_of"].to_list()


def _score_file(
    step: Step,
    config: FilterRun,
    file: "InputFile",
    scorer: Scorer,
    arrivals: "Arrivals",
    provenance: "Provenance",
) -> "Commit":
    """Read, sort and score a file block by block and store it in one commit to each table.

    The commits name the files that hold what this one has copies of, with their versions (`rests_on`).

    Holds one block, and of the file the rows of both tables: numbers of every chunk, text of the kept ones.
    """
    import polars as pl

    from grasp_pipeline.corpus.manifest import describe_blocks, mostly_unreadable, passed_over
    from grasp_pipeline.corpus.readers import read_blocks

    shard = shard_of(file)
    partition = {"shard": shard}
    scored, rejected = [tables.FILTERED_SHARDS.empty()], [tables.FILTERED_REJECTIONS.empty()]
    documents, described = 0, []
    progress = Progress(f"scoring {file.uri}", (file.size or 0) / 4, "tokens", step.say)
    for block in read_blocks(file, config, step.store.storage_options):
        described.append(describe_blocks([(file, block)]))
        good, bad = arrivals.sort(block.frame, file.uri, shard)
        documents += good.height
        rejected.append(bad)
        if good.height:
            scored.append(scorer.score(good, progress))
    if described:
        whole = pl.concat(described)
        for warning in passed_over(whole) + mostly_unreadable(whole):
            step.warn(warning)
    frame, refused = pl.concat(scored).sort("chunk_id"), pl.concat(rejected)
    versions = _versions(step)
    siblings = arrivals.holders(refused["duplicate_of"].drop_nulls()) - {shard}
    kept = frame.filter("kept")
    statistics = FilteredNote(
        documents=documents,
        rejected=refused.height,
        chunks=frame.height,
        kept_chunks=kept.height,
        tokens=int(frame["n_tokens"].sum()),
        kept_tokens=int(kept["n_tokens"].sum()),
        tau=scorer.filter.tau,
        made_from=provenance.input_digest(),
        rests_on={name: versions[name] for name in sorted(siblings)},
    ).to_json()
    # The scores come last: they are what says that the file is done.
    step.tables.write(tables.FILTERED_REJECTIONS, refused, provenance, partition, statistics)
    return step.tables.write(tables.FILTERED_SHARDS, frame, provenance, partition, statistics)
