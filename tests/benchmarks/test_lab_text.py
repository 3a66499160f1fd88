"""The text pool: exact sizes and shares, draws by name alone, held-out documents apart, errors that say what to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from toys import WORDS, toy_texts

import benchmarks.laboratory.text as laboratory_text
from benchmarks.laboratory.text import MAX_COPIES, NEAR_CHANGED, SPLITS, TextPlan, build_text_corpus
from grasp_pipeline.corpus.contamination import ngram_overlap
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator

PLAN = TextPlan(
    chunks=100,
    chunk_tokens=24,
    chunks_per_document=3,
    vocab_size=300,
    tasks=3,
    query_documents=5,
    judge_documents=4,
    evaluation_documents=3,
)
DOCUMENTS = pl.DataFrame(
    [(source, text) for number, source in enumerate(WORDS) for text in toy_texts(source, 40 - 4 * number)],
    schema=["source", "text"],
    orient="row",
)


@pytest.fixture(scope="module")
def pool() -> TaskPool:
    return build_text_corpus("toy", DOCUMENTS, PLAN, 0)


def held_out(corpus: TaskPool) -> dict[str, HeldOut]:
    return {"query": corpus.query, "judge": corpus.judge, "evaluation": corpus.evaluation}


def examples(rows: np.ndarray, sizes: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(row[1 : size + 1]) for row, size in zip(rows.tolist(), sizes.tolist(), strict=True)]


def documents_of(corpus: TaskPool) -> dict[int, list[tuple[int, ...]]]:
    """Return the chunks of every document of the pool."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for code, chunk in zip(corpus.document.tolist(), examples(corpus.rows, corpus.sizes), strict=True):
        found.setdefault(code, []).append(chunk)
    return found


def is_fresh(corpus: TaskPool, document: int) -> bool:
    return bool((corpus.planted[corpus.document == document] == "").all())


def originals_of(corpus: TaskPool, kind: str) -> list[tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]:
    """Return (copy, the same chunks of its original) of every planted copy."""
    documents = documents_of(corpus)
    first = {code: i for i, code in reversed(list(enumerate(corpus.document.tolist())))}
    fresh = {int(corpus.cluster[i]): code for code, i in first.items() if corpus.planted[i] == ""}
    pairs = []
    for code, i in first.items():
        if corpus.planted[i] == kind:
            original = documents[fresh[int(corpus.cluster[i])]]
            assert corpus.source[i] == corpus.source[first[fresh[int(corpus.cluster[i])]]]
            pairs.append((documents[code], original[: len(documents[code])]))
    return pairs


def equal(one: TaskPool, other: TaskPool) -> bool:
    arrays = [
        (one.rows, other.rows),
        (one.source, other.source),
        (one.cluster, other.cluster),
        (one.planted, other.planted),
        *((held_out(one)[split].rows, held_out(other)[split].rows) for split in SPLITS),
    ]
    return one.digest == other.digest and all(np.array_equal(a, b) for a, b in arrays)


def test_sizes_and_planted_shares_are_exact(pool: TaskPool) -> None:
    assert pool.n == PLAN.chunks == pool.chunks.n == len(pool.rows)  # type: ignore[union-attr]
    assert Counter(pool.planted.tolist()) == {"": 68, "exact": 18, "near": 8, "noise": 6}
    assert pool.rows.shape[1] == PLAN.chunk_tokens + 1
    assert (pool.n_tokens == PLAN.chunk_tokens).all()
    assert max(map(len, documents_of(pool).values())) == PLAN.chunks_per_document
    assert set(pool.source.tolist()) == set(range(len(WORDS)))
    assert pool.tasks == ("code", "french", "news"), "the sources with the most documents, sorted"
    assert int(pool.rows.max()) < pool.vocabulary


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.0, 0.3, 0.2), (0.33, 0.11, 0.07)])
def test_any_shares_are_planted_exactly(shares: tuple[float, float, float]) -> None:
    exact, near, noise = shares
    corpus = build_text_corpus("toy", DOCUMENTS, replace(PLAN, exact=exact, near=near, noise=noise), 0)
    found = Counter(corpus.planted.tolist())
    expected = {"exact": round(100 * exact), "near": round(100 * near), "noise": round(100 * noise)}
    assert {kind: found[kind] for kind in expected} == expected
    assert corpus.n == 100


def test_the_views_of_the_pool_agree(pool: TaskPool) -> None:
    """rows, chunks and the training stream hold the same tokens; so do the tasks' examples and their chunks."""
    chunks = pool.chunks
    assert chunks is not None
    flat = [chunks.tokens[chunks.offsets[i] : chunks.offsets[i + 1]].tolist() for i in range(pool.n)]
    assert [tuple(chunk) for chunk in flat] == examples(pool.rows, pool.sizes)
    row = pool.stream.rows(np.array([7]), 1, PLAN.chunk_tokens, "any")[0]
    assert row.tolist() == pool.rows[7].tolist()
    for held, per_task in ((pool.query, pool.queries), (pool.judge, pool.judges)):
        assert per_task is not None
        for task, part in enumerate(per_task):
            mine = held.rows[held.task == task][:, 1:].flatten().tolist()
            assert part.tokens.tolist() == mine


def test_held_out_examples_of_every_task(pool: TaskPool) -> None:
    counts = {"query": 5, "judge": 4, "evaluation": 3}
    for split, held in held_out(pool).items():
        for task in range(len(pool.tasks)):
            per_document = Counter(held.document[held.task == task].tolist())
            assert len(per_document) == counts[split]
            assert max(per_document.values()) <= 2
        assert all(len(set(held.task[held.document == d].tolist())) == 1 for d in held.document.tolist())


def test_held_out_documents_are_apart(pool: TaskPool) -> None:
    parts = [set(examples(held.rows, held.sizes)) for held in held_out(pool).values()]
    parts.append(
        {c for c, kind in zip(examples(pool.rows, pool.sizes), pool.planted, strict=True) if kind == ""}
    )
    for i, one in enumerate(parts):
        assert one
        for other in parts[i + 1 :]:
            assert not one & other


def test_a_text_of_two_sources_is_not_both_held_out_and_trained_on() -> None:
    """Every text stands under two sources; what is held out for the one must not be trained on for the other."""
    twice = pl.concat([DOCUMENTS, DOCUMENTS.with_columns(source=pl.col("source") + "-mirror")])
    corpus = build_text_corpus("toy", twice, PLAN, 0)
    assert set(corpus.tasks) <= set(WORDS), "a text belongs to the first of its sources"
    fresh = [tuple(chunks) for code, chunks in documents_of(corpus).items() if is_fresh(corpus, code)]
    assert len(set(fresh)) == len(fresh), "a text is used once"
    trained = set(examples(corpus.rows, corpus.sizes))
    for split, held in held_out(corpus).items():
        leaked = sum(chunk in trained for chunk in examples(held.rows, held.sizes))
        assert leaked == 0, f"{leaked} of {len(held.rows)} {split} examples are in the pool"


def test_copies_share_the_cluster_of_their_original(pool: TaskPool) -> None:
    pairs = originals_of(pool, "exact")
    assert sum(len(copy) for copy, _ in pairs) == 18
    assert all(copy == original for copy, original in pairs)
    copied = Counter(
        int(pool.cluster[np.flatnonzero(pool.document == d)[0]])
        for d in set(pool.document[pool.planted == "exact"].tolist())
    )
    assert max(copied.values()) <= MAX_COPIES
    fresh = pool.planted == ""
    codes = set(zip(pool.document[fresh].tolist(), pool.cluster[fresh].tolist(), strict=True))
    assert len({cluster for _, cluster in codes}) == len(codes), "fresh documents share no cluster"


def test_near_copies_differ_a_little() -> None:
    corpus = build_text_corpus("toy", DOCUMENTS, replace(PLAN, exact=0.0, near=0.5), 0)
    changed = [
        np.mean([a != b for a, b in zip(one, other, strict=True)])
        for copy, original in originals_of(corpus, "near")
        for one, other in zip(copy, original, strict=True)
    ]
    assert len(changed) == 50
    assert 0.5 * NEAR_CHANGED < np.mean(changed) < 1.5 * NEAR_CHANGED
    assert np.max(changed) < 0.5


def test_near_copies_change_the_share_of_tokens_they_say() -> None:
    """A token is redrawn with probability NEAR_CHANGED, so a short chunk may come out as it was."""
    unigrams = np.arange(1000)
    chunk = [-1] * 400
    changed = [
        np.not_equal(laboratory_text._changed(chunk, unigrams, generator("near", seed)), chunk).mean()
        for seed in range(50)
    ]
    assert abs(np.mean(changed) - NEAR_CHANGED) < 0.01
    pairs = originals_of(build_text_corpus("toy", DOCUMENTS, replace(PLAN, exact=0.0, near=0.4), 0), "near")
    assert np.mean([copy != original for copy, original in pairs]) > 0.7


def test_noise_is_marked_and_alone(pool: TaskPool) -> None:
    where = np.flatnonzero(pool.planted == "noise")
    for i in where.tolist():
        assert (pool.cluster == pool.cluster[i]).sum() == 1
        assert (pool.document == pool.document[i]).sum() == 1
    real = {
        c for c, kind in zip(examples(pool.rows, pool.sizes), pool.planted, strict=True) if kind != "noise"
    }
    assert not real & {examples(pool.rows, pool.sizes)[i] for i in where}


def test_equal_inputs_give_equal_pools_whatever_the_order_of_rows(pool: TaskPool) -> None:
    assert equal(build_text_corpus("toy", DOCUMENTS, PLAN, 0), pool)
    shuffled = DOCUMENTS.sample(fraction=1, shuffle=True, seed=1)
    repeated = pl.concat([shuffled, shuffled[:9]]).with_columns(other=pl.lit("ignored"))
    assert equal(build_text_corpus("toy", repeated, PLAN, 0), pool)


@pytest.mark.parametrize(
    ("name", "plan", "seed"),
    [("toy", PLAN, 1), ("other", PLAN, 0), ("toy", replace(PLAN, near=0.1, exact=0.16), 0)],
)
def test_name_seed_and_plan_change_the_digest(pool: TaskPool, name: str, plan: TextPlan, seed: int) -> None:
    other = build_text_corpus(name, DOCUMENTS, plan, seed)
    assert other.digest != pool.digest
    assert not np.array_equal(other.rows, pool.rows)


def test_too_few_documents_for_a_task_name_the_source_and_what_to_lower() -> None:
    with pytest.raises(
        InputError, match=r"'french' of toy has 32 documents.*lower tasks \(now 3\) or query_doc"
    ):
        build_text_corpus("toy", DOCUMENTS, replace(PLAN, query_documents=10), 0)


def test_too_few_chunks_for_the_pool_say_so() -> None:
    with pytest.raises(
        InputError, match=r"gives \d+ chunks of 24 tokens; the pool needs 2720 fresh ones: lower chunks"
    ):
        build_text_corpus("toy", DOCUMENTS, replace(PLAN, chunks=4000), 0)


def contaminated_documents() -> pl.DataFrame:
    """The toy corpus, where a document in three of every source quotes most of another one of its source."""
    rows = []
    for source in WORDS:
        texts = toy_texts(source, 60)
        rows += [(source, text) for text in texts]
        rows += [
            (source, f"{source} quotes {i}: {text[: len(text) * 3 // 4]}")
            for i, text in enumerate(texts[::2])
        ]
    return pl.DataFrame(rows, schema=["source", "text"], orient="row")


def decoded(corpus: TaskPool, documents: pl.DataFrame, plan: TextPlan) -> dict[str, dict[str, str]]:
    """Return the texts that the pool and the splits were drawn from, found by their first words."""
    found: dict[str, dict[str, str]] = {"pool": {}, **{split: {} for split in SPLITS}}
    kept: dict[str, list[str]] = {}

    def watch(text: str, encoder: laboratory_text.TextEncoder, plan: TextPlan, most: int) -> list[list[int]]:
        cut = original(text, encoder, plan, most)
        kept.setdefault(str(list(cut)[:1]), []).append(text)
        return cut

    original = laboratory_text._cut
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory_text, "_cut", watch)
        again = build_text_corpus(corpus.name, documents, plan, 0)
    assert equal(again, corpus)
    parts = {"pool": documents_of(corpus).values()} | {
        split: [[chunk] for chunk in examples(held.rows, held.sizes)]
        for split, held in held_out(corpus).items()
    }
    for part, chunks in parts.items():
        for document in chunks:
            for text in kept.get(str([list(document[0])]), []):
                found[part][text] = text
    return found


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_the_pool_is_cleared_of_the_tasks_documents_by_the_products_rule(share: float) -> None:
    documents = contaminated_documents()
    plan = replace(PLAN, contamination_share=share)
    corpus = build_text_corpus("toy", documents, plan, 0)
    texts = decoded(corpus, documents, plan)
    held = {text for split in SPLITS for text in texts[split]}
    assert len(held) == 3 * 12
    pool = ngram_overlap({text: text for text in held}, texts["pool"].items())
    among = [
        o for o in ngram_overlap({t: t for t in held}, [(t, t) for t in held]) if o.held_out != o.document
    ]
    copies = [overlap for overlap in (*pool, *among) if overlap.share > 0.2]
    assert bool(copies) == (share == 1.0)
    assert (corpus.contaminated > 0) == (share < 1.0)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_what_is_held_out_counts_as_it_is_used(share: float) -> None:
    """Copies of the used beginning of a long document, which is a small share of the whole."""
    long = {text: " ".join([text, *toy_texts("news", 12, text)]) for text in toy_texts("news", 40)}
    whole = ngram_overlap({text: text for text in long.values()}, [(t, t) for t in long])
    assert max(overlap.share for overlap in whole) < 0.2
    rows = [("news", text) for text in long.values()] + [("code", text) for text in toy_texts("code", 30)]
    rows += [("mirror", text) for text in list(long)[:30]]
    documents = pl.DataFrame(rows, schema=["source", "text"], orient="row")
    plan = replace(PLAN, tasks=1, chunks=240, contamination_share=share)
    corpus = build_text_corpus("toy", documents, plan, 0)
    assert corpus.tasks == ("news",)
    used = {chunk for held in held_out(corpus).values() for chunk in examples(held.rows, held.sizes)}
    leaked = used & set(examples(corpus.rows, corpus.sizes))
    assert bool(leaked) == (share == 1.0) == (corpus.contaminated == 0)


def test_too_few_documents_that_do_not_hold_each_other_are_refused() -> None:
    text = toy_texts("news", 1)[0]
    same = [("news", f"{i} {text}") for i in range(40)]
    rows = same + [("code", text) for text in toy_texts("code", 40)]
    documents = pl.DataFrame(rows, schema=["source", "text"], orient="row")
    with pytest.raises(InputError, match="'news' of toy has 1 documents that do not hold each other's text"):
        build_text_corpus("toy", documents, replace(PLAN, tasks=2), 0)
