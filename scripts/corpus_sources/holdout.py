"""Held-out documents of the target tasks: drawing, decontamination, splits and folds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grasp_pipeline.corpus.contamination import Overlap, ngram_overlap

from .catalogue import Stratum
from .packages import CorpusError
from .pages import Document, Page, excerpt

NGRAM = 13
THRESHOLD = 0.2  # largest share of a held-out document's n-grams that one other document may hold
_SHORTEST, _LONGEST = 250, 1_500  # characters
_SPLIT_SIZES = {"query": 160, "judge": 120, "calibration": 300, "evaluation": 200}
_FOLDS = 2


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One row of a task file."""

    task: str
    split: str
    fold: int | None
    document: str
    source: str
    text: str


@dataclass
class Pool:
    """Candidate documents of a stratum in the order of their draw."""

    task: str
    stratum: Stratum
    candidates: list[Document] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TaskReport:
    """How a task's held-out documents were cleared of copies."""

    candidates: int
    removed_for_corpus_overlap: int
    removed_for_held_out_overlap: int
    unused: int
    held_out: int
    corpus_documents_removed: int
    max_overlap: float
    mean_overlap: float
    max_overlap_between_held_out: float


def draw_candidates(task: str, stratum: Stratum, ranked: Iterable[Page]) -> Pool:
    """The first usable pages of a stratum; a page too short to use stays with the corpus."""
    pool = Pool(task, stratum)
    for page in ranked:
        if len(pool.candidates) == stratum.reserve:
            break
        if page.id.startswith(stratum.prefixes) and (text := excerpt(page.load(), _SHORTEST, _LONGEST)):
            pool.candidates.append(Document(page.id, page.source, text))
    return pool


def hold_out(
    pools: Sequence[Pool], corpus: Sequence[Document]
) -> tuple[dict[str, list[HeldOut]], dict[str, TaskReport]]:
    """Every task's held-out documents, none with a near copy in the corpus or among the others."""
    texts = {document.id: document.text for pool in pools for document in pool.candidates}
    in_corpus = _largest(ngram_overlap(texts, ((document.id, document.text) for document in corpus), NGRAM))
    between = defaultdict(dict[str, float])
    for pair in ngram_overlap(texts, texts.items(), NGRAM):
        if pair.held_out != pair.document:
            between[pair.held_out][pair.document] = pair.share
            other = between[pair.document].get(pair.held_out, 0.0)
            between[pair.document][pair.held_out] = max(other, pair.share)

    rows: dict[str, list[HeldOut]] = {}
    reports: dict[str, TaskReport] = {}
    for task in sorted({pool.task for pool in pools}):
        chosen: list[Document] = []
        clear_of_corpus = clear = total = 0
        for pool in (pool for pool in pools if pool.task == task):
            fresh = [doc for doc in pool.candidates if in_corpus.get(doc.id, 0.0) <= THRESHOLD]
            apart: list[Document] = []
            for doc in fresh:
                if all(between[doc.id].get(kept.id, 0.0) <= THRESHOLD for kept in (*chosen, *apart)):
                    apart.append(doc)
            if len(apart) < pool.stratum.wanted:
                raise CorpusError(
                    f"Task {task} finds {len(apart)} documents without copies below "
                    f"{', '.join(pool.stratum.prefixes)} where it wants {pool.stratum.wanted}."
                )
            total += len(pool.candidates)
            clear_of_corpus += len(fresh)
            clear += len(apart)
            chosen += apart[: pool.stratum.wanted]
        rows[task] = _split(task, chosen)
        ids = {doc.id for doc in chosen}
        remaining = [in_corpus.get(doc.id, 0.0) for doc in chosen]
        reports[task] = TaskReport(
            candidates=total,
            removed_for_corpus_overlap=total - clear_of_corpus,
            removed_for_held_out_overlap=clear_of_corpus - clear,
            unused=clear - len(chosen),
            held_out=len(chosen),
            corpus_documents_removed=0,
            max_overlap=max(remaining),
            mean_overlap=sum(remaining) / len(remaining),
            max_overlap_between_held_out=max(
                (share for doc in chosen for other, share in between[doc.id].items() if other in ids),
                default=0.0,
            ),
        )
    return rows, reports


def clear_corpus(
    tasks: Mapping[str, Sequence[HeldOut]], reports: Mapping[str, TaskReport], corpus: Sequence[Document]
) -> tuple[list[Document], dict[str, TaskReport]]:
    """The corpus without copies of held-out documents, and the reports as they are then.

    For a corpus larger than the one that the tasks were drawn for, so that both share the tasks.
    """
    texts = {row.document: row.text for rows in tasks.values() for row in rows}
    pairs = ngram_overlap(texts, ((document.id, document.text) for document in corpus), NGRAM)
    copies = {pair.document for pair in pairs if pair.share > THRESHOLD}
    remaining = _largest(pair for pair in pairs if pair.document not in copies)
    cleared: dict[str, TaskReport] = {}
    for task, rows in tasks.items():
        own = {row.document for row in rows}
        shares = [remaining.get(document, 0.0) for document in own]
        cleared[task] = replace(
            reports[task],
            corpus_documents_removed=len(
                {p.document for p in pairs if p.share > THRESHOLD and p.held_out in own}
            ),
            max_overlap=max(shares),
            mean_overlap=sum(sorted(shares)) / len(shares),
        )
    return [document for document in corpus if document.id not in copies], cleared


def _largest(pairs: Iterable[Overlap]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for pair in pairs:
        worst[pair.held_out] = max(worst.get(pair.held_out, 0.0), pair.share)
    return worst


def _split(task: str, chosen: list[Document]) -> list[HeldOut]:
    """Splits dealt out evenly along the draw, so that each has its share of every source.

    The draw orders pages by hash, so within a source the splits and folds are random.
    """
    if len(chosen) != sum(_SPLIT_SIZES.values()):
        raise CorpusError(f"Task {task} has {len(chosen)} documents for {sum(_SPLIT_SIZES.values())} places.")
    places = sorted(
        ((place + 0.5) / size, split) for split, size in _SPLIT_SIZES.items() for place in range(size)
    )
    rows = []
    calibration = 0
    for (_, split), doc in zip(places, chosen, strict=True):
        fold = None
        if split == "calibration":
            fold, calibration = calibration % _FOLDS, calibration + 1
        rows.append(HeldOut(task, split, fold, doc.id, doc.source, doc.text))
    return sorted(rows, key=lambda row: (row.split, row.document))
