"""A small text pool with planted duplicates and noise, and held-out documents of its sources as tasks.

Real documents; what real corpora hold and a small sample would not show is planted and written down: exact copies of
documents, near copies with some tokens changed, and noise. Pool and tasks are drawn from one corpus, so the pool is
cleared of the tasks' documents by the product's own rule, and held-out documents of each other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.contamination import HeldOutGrams
from grasp_pipeline.corpus.normalize import normalize_text
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.corpus.tokenizer import TextEncoder, train_bpe
from grasp_pipeline.errors import InputError
from grasp_pipeline.proxy.objective import pad_chunks
from grasp_pipeline.proxy.packing import TextStream
from grasp_pipeline.seeds import digest, generator

MAX_COPIES = 3
"""Most copies planted of one document."""

NEAR_CHANGED = 0.08
"""Share of the tokens that a near copy changes."""

AMPLE = 2
"""Documents of a source that are considered for the pool, in units of its chunks."""

SPLITS = ("query", "judge", "evaluation")
HELD_OUT_CHUNKS = 2
"""Most chunks of a held-out document, from its start."""


@dataclass(frozen=True)
class TextPlan:
    """How a pool is drawn.

    Attributes:
        chunks: n, chunks in the pool, planted ones included.
        chunk_tokens: L, tokens per chunk.
        chunks_per_document: most chunks taken of one document.
        vocab_size: of the tokenizer trained on the pool's documents.
        tasks: sources with the most documents that become tasks.
        query_documents, judge_documents, evaluation_documents: held-out documents per task, of up to two chunks.
        exact, near, noise: shares of the pool that are planted copies and noise.
        contamination_share: documents that hold more than this share of a held-out document's word n-grams are not
            used, as in `CleaningConfig`; 1 uses all.
    """

    chunks: int = 720
    chunk_tokens: int = 64
    chunks_per_document: int = 4
    vocab_size: int = 512
    tasks: int = 8
    query_documents: int = 48
    judge_documents: int = 24
    evaluation_documents: int = 20
    exact: float = 0.18
    near: float = 0.08
    noise: float = 0.06
    contamination_share: float = CleaningConfig().contamination_share

    @property
    def splits(self) -> dict[str, slice]:
        """Which of a task's documents belong to which split."""
        ends = np.cumsum([self.query_documents, self.judge_documents, self.evaluation_documents])
        return dict(zip(SPLITS, map(slice, (0, *ends[:-1]), ends), strict=True))


@dataclass
class PoolDocument:
    """chunks: of token ids. source, cluster: codes. planted: what was planted. text: of a document that was not."""

    chunks: list[list[int]]
    source: int
    cluster: int
    planted: str
    text: str = ""


@dataclass(frozen=True)
class Drawn:
    """Documents of a pool and of its tasks.

    Attributes:
        sources: names by code; tasks: those held out from.
        held: task -> its held-out texts, the splits one after the other.
        pool: documents of n chunks in all.
        encoder: trained on what is not held out.
        contaminated: documents of those considered that were left out since they hold text of a held-out one.
    """

    sources: list[str]
    tasks: list[str]
    held: dict[str, list[str]]
    pool: list[PoolDocument]
    encoder: TextEncoder
    contaminated: int

    def held_out_texts(self, plan: TextPlan) -> list[str]:
        """Return every held-out document whole and as it is used."""
        whole = [text for texts in self.held.values() for text in texts]
        return [*whole, *(_excerpt(text, self.encoder, plan) for text in whole)]


def build_text_corpus(name: str, documents: pl.DataFrame, plan: TextPlan, seed: int) -> TaskPool:
    """Draw a pool and its tasks from documents.

    Args:
        name: of the corpus.
        documents: columns source and text; the order of the rows does not matter.
        plan: sizes and shares.
        seed: of all draws.

    Raises:
        InputError: a source has too few documents for its task, or the corpus too few for the pool.
    """
    drawn = draw_documents(name, documents, plan, seed)
    pool, tasks, encoder = drawn.pool, drawn.tasks, drawn.encoder
    held = {split: _held_out(drawn.held, tasks, encoder, plan, where) for split, where in plan.splits.items()}
    chunks = [chunk for document in pool for chunk in document.chunks]
    repeat = [len(document.chunks) for document in pool]
    rows, _ = pad_chunks(chunks, encoder.bos, plan.chunk_tokens)
    tokens = TokenLists.of(chunks)
    return TaskPool(
        name=name,
        digest=digest(name, seed, plan.__dict__, chunks, [part.rows.tolist() for part in held.values()]),
        stream=TextStream(tokens, encoder.bos),
        rows=rows,
        n_tokens=tokens.lengths,
        source=np.repeat([document.source for document in pool], repeat).astype(np.int64),
        document=np.repeat(np.arange(len(pool)), repeat).astype(np.int64),
        cluster=np.repeat([document.cluster for document in pool], repeat).astype(np.int64),
        planted=np.repeat([document.planted for document in pool], repeat),
        tasks=tuple(tasks),
        **held,
        vocabulary=encoder.vocab_size,
        chunks=tokens,
        contaminated=drawn.contaminated,
    )


def draw_documents(name: str, documents: pl.DataFrame, plan: TextPlan, seed: int) -> Drawn:
    """Draw the documents of a pool and its tasks; arguments and errors as for `build_text_corpus`."""
    frame = (
        documents.select("source", "text")
        .sort("source", "text")
        .unique("text", keep="first")
        .sort("source", "text")
    )
    sources = frame["source"].unique().sort().to_list()
    by_source = {
        source: _shuffled(
            frame.filter(pl.col("source") == source)["text"].to_list(), ("laboratory", name, seed, source)
        )
        for source in sources
    }
    needed = plan.splits["evaluation"].stop
    counted = sorted(sources, key=lambda source: (-len(by_source[source]), source))
    tasks = sorted(counted[: plan.tasks])
    short = [source for source in tasks if len(by_source[source]) < 2 * needed]
    if short:
        raise InputError(
            f"source {short[0]!r} of {name} has {len(by_source[short[0]])} documents; a task holds out {needed} and "
            f"the pool needs as many: lower tasks (now {plan.tasks}) or query_documents"
        )
    held = _hold_out({source: by_source[source] for source in tasks}, needed, plan, name)
    taken = {source: set(texts) for source, texts in held.items()}
    rest = {
        source: [text for text in texts if text not in taken.get(source, ())]
        for source, texts in by_source.items()
    }
    # No source can give more documents than the pool has chunks, so the others need not be read.
    rest = {source: texts[: AMPLE * plan.chunks] for source, texts in rest.items()}
    before = sum(map(len, rest.values()))
    rest = _cleared(rest, [text for texts in held.values() for text in texts], plan)
    encoder = train_bpe([text[:4000] for texts in rest.values() for text in texts[:400]], plan.vocab_size)
    excerpts = [_excerpt(text, encoder, plan) for texts in held.values() for text in texts]
    rest = _cleared(rest, excerpts, plan)
    pool = _draw_pool(rest, sources, encoder, plan, ("laboratory", name, seed))
    return Drawn(sources, tasks, held, pool, encoder, before - sum(map(len, rest.values())))


def _shuffled(texts: list[str], name: tuple[str | int, ...]) -> list[str]:
    return [texts[i] for i in generator(*name, "order").permutation(len(texts))]


def _hold_out(texts: dict[str, list[str]], needed: int, plan: TextPlan, name: str) -> dict[str, list[str]]:
    """Return each task's first `needed` documents of which none holds too much of another one, of any task.

    Raises:
        InputError: a task has too few such documents among twice as many.
    """
    candidates = {
        f"{source}/{place}": text
        for source, group in texts.items()
        for place, text in enumerate(group[: 2 * needed])
    }
    normal = {key: normalize_text(text) for key, text in candidates.items()}
    close: dict[str, set[str]] = {}
    for overlap in HeldOutGrams(normal).overlaps(normal.items()):
        if overlap.share > plan.contamination_share:
            close.setdefault(overlap.held_out, set()).add(overlap.document)
            close.setdefault(overlap.document, set()).add(overlap.held_out)
    held: dict[str, list[str]] = {source: [] for source in texts}
    taken: set[str] = set()
    for key, text in candidates.items():
        mine = held[key.rpartition("/")[0]]
        if len(mine) < needed and not (close.get(key, set()) - {key}) & taken:
            mine.append(text)
            taken.add(key)
    for source, mine in held.items():
        if len(mine) < needed:
            raise InputError(
                f"source {source!r} of {name} has {len(mine)} documents that do not hold each other's text; a task "
                f"holds out {needed}: lower tasks (now {plan.tasks}) or query_documents"
            )
    return held


def _cleared(texts: dict[str, list[str]], held_out: Sequence[str], plan: TextPlan) -> dict[str, list[str]]:
    """Return the documents that do not hold too much of a held-out one."""
    grams = HeldOutGrams({str(place): normalize_text(text) for place, text in enumerate(held_out)})
    documents = (
        (f"{source}/{place}", normalize_text(text))
        for source, group in texts.items()
        for place, text in enumerate(group)
    )
    contaminated = grams.contaminated(documents, plan.contamination_share)
    return {
        source: [text for place, text in enumerate(group) if f"{source}/{place}" not in contaminated]
        for source, group in texts.items()
    }


def _excerpt(text: str, encoder: TextEncoder, plan: TextPlan) -> str:
    """Return the part of a held-out document that is used."""
    return encoder.backend.decode([i for chunk in _cut(text, encoder, plan, HELD_OUT_CHUNKS) for i in chunk])


def _cut(text: str, encoder: TextEncoder, plan: TextPlan, most: int) -> list[list[int]]:
    """Return up to `most` full chunks from the text's start; a text below one chunk gives its only, shorter one."""
    limit = 16 * most * plan.chunk_tokens
    ids = next(encoder.encode([text[:limit]]))[0]
    cut = [ids[i : i + plan.chunk_tokens] for i in range(0, len(ids), plan.chunk_tokens)][:most]
    return [chunk for chunk in cut if len(chunk) == plan.chunk_tokens] or cut[:1]


def _draw_pool(
    texts: dict[str, list[str]],
    sources: Sequence[str],
    encoder: TextEncoder,
    plan: TextPlan,
    name: tuple[str | int, ...],
) -> list[PoolDocument]:
    """Return documents of n chunks in all: fresh ones in turn from every source, then copies and noise."""
    planted = {"exact": plan.exact, "near": plan.near, "noise": plan.noise}
    room = {kind: round(share * plan.chunks) for kind, share in planted.items()}
    fresh = plan.chunks - sum(room.values())
    waiting = {source: iter(texts[source]) for source in sources}
    pool: list[PoolDocument] = []
    count = 0
    while count < fresh and waiting:
        for source in list(waiting):
            text = next(waiting[source], None)
            if text is None:
                del waiting[source]
                continue
            cut = _cut(text, encoder, plan, min(plan.chunks_per_document, fresh - count))
            if cut and count < fresh:
                pool.append(PoolDocument(cut, sources.index(source), len(pool), "", text))
                count += len(cut)
    if count < fresh:
        raise InputError(
            f"the corpus gives {count} chunks of {plan.chunk_tokens} tokens; the pool needs {fresh} fresh ones: "
            "lower chunks"
        )
    rng = generator(*name, "plant")
    originals = list(pool)
    unigrams = np.concatenate([np.asarray(chunk) for document in originals for chunk in document.chunks])
    order = rng.permutation(len(originals))
    at = 0
    for kind in ("exact", "near"):
        while room[kind] > 0:
            original = originals[order[at % len(order)]]
            at += 1
            for _ in range(int(rng.integers(1, MAX_COPIES + 1))):
                copy = [list(chunk) for chunk in original.chunks[: room[kind]]]
                if not copy:
                    break
                if kind == "near":
                    copy = [_changed(chunk, unigrams, rng) for chunk in copy]
                pool.append(PoolDocument(copy, original.source, original.cluster, kind))
                room[kind] -= len(copy)
    for _ in range(room["noise"]):
        salad = rng.choice(unigrams, plan.chunk_tokens).tolist()
        if rng.random() < 0.5:
            period = int(rng.integers(1, 5))
            salad = (salad[:period] * plan.chunk_tokens)[: plan.chunk_tokens]
        pool.append(PoolDocument([salad], int(rng.integers(len(sources))), len(pool), "noise"))
    return pool


def _changed(chunk: list[int], unigrams: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """Return the chunk with some tokens redrawn; a chunk of n tokens stays as it is once in about 1.09^n draws."""
    change = rng.random(len(chunk)) < NEAR_CHANGED
    return np.where(change, rng.choice(unigrams, len(chunk)), chunk).tolist()


def _held_out(
    texts: dict[str, list[str]], tasks: Sequence[str], encoder: TextEncoder, plan: TextPlan, where: slice
) -> HeldOut:
    chunks: list[list[int]] = []
    task: list[int] = []
    document: list[int] = []
    for code, name in enumerate(tasks):
        for number, text in enumerate(texts[name][where]):
            for chunk in _cut(text, encoder, plan, HELD_OUT_CHUNKS):
                chunks.append(chunk)
                task.append(code)
                document.append(code * len(texts[name]) + number)
    rows, sizes = pad_chunks(chunks, encoder.bos, plan.chunk_tokens)
    return HeldOut(rows, sizes, np.asarray(task, dtype=np.int64), np.asarray(document, dtype=np.int64))
