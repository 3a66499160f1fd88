"""What the product's contamination rule removes from the laboratories' pools, corpus by corpus and seed by seed.

    python -m benchmarks.contamination

Every pool of `config/fidelity.yaml`, `config/fidelity-fresh.yaml` and `config/downstream.yaml` is drawn with the rule
and without; nothing is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.published import ROOT, Figure, results_folder, save
from grasp_pipeline.corpus.contamination import HeldOutGrams
from grasp_pipeline.corpus.normalize import normalize_text

if TYPE_CHECKING:
    import polars as pl

    from benchmarks.laboratory.text import TextPlan

Pool = tuple[str, str, str, int, "TextPlan"]
"""Laboratory, corpus, its files, seed, plan."""


def pools() -> Iterator[Pool]:
    """Yield every pool that a laboratory draws."""
    from benchmarks.downstream.settings import load_downstream_settings
    from benchmarks.laboratory.settings import load_settings

    for name in ("fidelity", "fidelity-fresh"):
        settings = load_settings(ROOT / "config" / f"{name}.yaml")
        for corpus, files in settings.corpora.items():
            for seed in settings.seeds:
                yield "fidelity", corpus, files, seed, settings.text_plan()
    downstream = load_downstream_settings(ROOT / "config" / "downstream.yaml")
    for kind, size in (("downstream", downstream.main), ("coverage", downstream.coverage)):
        for corpus, files in downstream.corpora.items():
            for seed in size.seeds:
                yield kind, corpus, files, seed, downstream.text_plan(size)


def measure(documents: pl.DataFrame, pool: Pool) -> list[Figure]:
    """Return how much of a pool drawn without the rule is contaminated, and what the rule leaves out."""
    from benchmarks.laboratory.text import draw_documents

    laboratory, name, _, seed, plan = pool
    where = f"[{laboratory}, {name}, seed {seed}]"
    before = draw_documents(name, documents, replace(plan, contamination_share=1.0), seed)
    after = draw_documents(name, documents, plan, seed)
    held = {str(i): normalize_text(text) for i, text in enumerate(before.held_out_texts(plan))}
    texts = {
        str(document.cluster): normalize_text(document.text)
        for document in before.pool
        if not document.planted
    }
    limit = plan.contamination_share
    bad = HeldOutGrams(held).contaminated(texts.items(), limit)
    chunks = sum(len(document.chunks) for document in before.pool if str(document.cluster) in bad)
    documents_held = sum(map(len, before.held.values()))
    kept = sum(
        text in set(after.held[task]) for task, texts_of_task in before.held.items() for text in texts_of_task
    )
    total = sum(len(document.chunks) for document in before.pool)
    note = (
        f"{len(bad)} of {len(texts)} documents; of the candidates {after.contaminated} documents are left out"
    )
    return [
        Figure(f"contamination.pool_share{where}", chunks / total, "share of chunks", note=note),
        Figure(
            f"contamination.held_out_replaced{where}",
            documents_held - kept,
            "documents",
            note=f"of {documents_held}: they hold text of another one",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every pool and write results/contamination.json and its table."""
    import polars as pl

    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    results_folder()
    figures: list[Figure] = []
    read: dict[str, pl.DataFrame] = {}
    for pool in pools():
        if pool[2] not in read:
            read[pool[2]] = pl.read_parquet(ROOT / pool[2], columns=["source", "text"])
        for figure in measure(read[pool[2]], pool):
            print(f"{figure.figure}: {figure.value:.4g} {figure.unit} {figure.note}", flush=True)
            figures.append(figure)
    print(f"wrote {save('contamination', 'make benchmark-contamination', figures)}")


if __name__ == "__main__":
    main()
