"""The report and the browser of the store at the size of a million chunks, and a search over ten million.

python -m benchmarks.report
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assets.browse import find_rows, find_texts
from assets.id_index import IdIndex
from benchmarks.published import Figure, save
from grasp_pipeline import tables
from grasp_pipeline.lineage.curation import Curation
from grasp_pipeline.report import explore
from grasp_pipeline.report.accounts import KEPT, account
from grasp_pipeline.report.inputs import SCHEMAS, ReportInputs
from grasp_pipeline.report.page import render
from grasp_pipeline.report.samples import SampleTables, draw_samples
from grasp_pipeline.tables import Table
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables

SHARD_CHUNKS = 250_000
PER_DOCUMENT = 4
CHUNK_CHARACTERS = 400
SOURCES = 20
WORDS = 4096
MADE = Provenance("benchmark", "benchmark", "1", "")


def filled(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with a table's other columns null."""
    return frame.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in table.schema.items() if name not in frame.columns
    ).select(list(table.schema))


def shards(chunks: int, texts: bool) -> Iterator[tuple[str, dict[Table, pl.DataFrame]]]:
    """Yield the rows of every shard: documents of a few chunks, a quarter of them kept, a tenth more rejected."""
    draw = np.random.default_rng(0)
    words = np.array([f"word{i:04}" for i in range(WORDS)])
    for number in range(-(-chunks // SHARD_CHUNKS)):
        shard, n = f"shard-{number:04}", min(SHARD_CHUNKS, chunks - number * SHARD_CHUNKS)
        documents = n // PER_DOCUMENT
        doc = pl.Series("doc_id", [f"{value:032x}" for value in _keys(draw, documents)])
        source = pl.Series("source", [f"source-{value}" for value in draw.integers(0, SOURCES, documents)])
        pieces = draw.choice(words, (documents, PER_DOCUMENT * CHUNK_CHARACTERS // 9)) if texts else None
        text = [" ".join(row) for row in pieces] if pieces is not None else [""] * documents
        frame = pl.DataFrame({"doc_id": doc, "source": source, "text": text}).with_columns(
            shard=pl.lit(shard), n_bytes=pl.lit(PER_DOCUMENT * CHUNK_CHARACTERS)
        )
        position = np.tile(np.arange(PER_DOCUMENT), documents)
        cut = frame.drop("text", "n_bytes")[np.repeat(np.arange(documents), PER_DOCUMENT)].with_columns(
            position=pl.Series(position),
            chunk_id=pl.format("{}-{}", "doc_id", pl.Series(position)),
            n_tokens=pl.lit(100),
            start=pl.Series(position * CHUNK_CHARACTERS),
            end=pl.Series((position + 1) * CHUNK_CHARACTERS),
            value=pl.Series(draw.normal(size=len(position))),
        )
        kept = cut.filter(pl.col("value") > 0.67)
        dropped = cut.filter(pl.col("value") <= 0.67).with_columns(
            reason=pl.when(pl.col("value") < 0).then(pl.lit("low_alignment")).otherwise(pl.lit("redundant")),
            score=pl.lit("marginal_value"),
            threshold=pl.lit(0.67),
            strongest_task=pl.lit("task"),
            weakest_task=pl.lit("other"),
            nearest_kept=pl.Series(draw.choice(kept["chunk_id"].to_numpy(), len(cut) - len(kept))),
            similarity=pl.lit(0.5),
        )
        rejected = frame.head(documents // 10).select(
            "source", "shard", "n_bytes", "doc_id", stage=pl.lit("noise"), reason=pl.lit("too_short")
        )
        yield (
            shard,
            {
                tables.DOCUMENTS: filled(tables.DOCUMENTS, frame),
                tables.TOKENIZED_SHARDS: filled(tables.TOKENIZED_SHARDS, cut.drop("value")),
                tables.PRUNED_CORPUS: filled(
                    tables.PRUNED_CORPUS,
                    kept.select(
                        "chunk_id",
                        "doc_id",
                        "source",
                        "shard",
                        kept_tokens="n_tokens",
                        marginal_value="value",
                    ),
                ),
                tables.DROP_REASONS: filled(tables.DROP_REASONS, dropped.drop("position", "start", "end")),
                tables.REJECTED_DOCUMENTS: filled(tables.REJECTED_DOCUMENTS, rejected),
            },
        )


def _keys(draw: np.random.Generator, n: int) -> list[int]:
    return [int(value) * 2**64 + number for number, value in enumerate(draw.integers(0, 2**62, n))]


def make_store(folder: Path, chunks: int, texts: bool = True) -> Curation:
    """Write a store of synthetic tables; returns its curation."""
    delta, versions = DeltaTables(str(folder)), {}
    for shard, frames in shards(chunks, texts):
        for table, frame in frames.items():
            versions[table.name] = delta.write(table, frame, MADE, {"shard": shard}).version
    return Curation(1, {"versions": json.dumps(versions)}, delta)


def million_inputs(curation: Curation) -> ReportInputs:
    """Return what the report shows of a synthetic store, counted and drawn from its tables."""
    pruned, dropped = curation.read(tables.PRUNED_CORPUS), curation.read(tables.DROP_REASONS)
    documents, chunks = curation.read(tables.DOCUMENTS), curation.read(tables.TOKENIZED_SHARDS)
    rejected = curation.read(tables.REJECTED_DOCUMENTS)
    counts = account(
        pruned.select("source", "kept_tokens").collect(),
        dropped.select("source", "reason", "n_tokens").collect(),
    )
    kept = counts.filter(reason=KEPT).select("source", kept_tokens="tokens", kept_chunks="chunks")
    sources = (
        documents.group_by("source")
        .agg(documents=pl.len(), bytes=pl.col("n_bytes").sum())
        .collect()
        .join(chunks.group_by("source").agg(tokens=pl.col("n_tokens").sum()).collect(), on="source")
        .join(kept, on="source")
    )
    nothing: dict[str, Any] = {name: pl.DataFrame() for name in SCHEMAS}
    given: dict[str, Any] = nothing | {
        "sources": sources,
        "drop_reasons": counts.filter(pl.col("reason") != KEPT),
        "rejected": rejected.group_by("reason", "source")
        .agg(documents=pl.len(), bytes=pl.col("n_bytes").sum())
        .collect(),
        "funnel": explore.funnel(documents, rejected, pruned),
        "values": explore.value_bins(pruned, dropped),
    }
    samples = draw_samples(SampleTables(pruned, dropped, rejected, chunks, documents))
    return ReportInputs(
        **given,
        versions={},
        store="store",
        run_id="benchmark",
        target="mean",
        budget_tokens=0,
        samples=samples,
    )


def in_browser(path: Path) -> tuple[float, int]:
    """Return seconds from the navigation to the first paint, and axe-core's violations, light, dark and narrow."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    found = os.environ.get("GRASP_CHROMIUM") or shutil.which("chromium")
    violations, first = 0, []
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        shown: list[tuple[Any, int]] = [
            (scheme, width) for width in (1100, 390) for scheme in ("light", "dark")
        ]
        for scheme, width in shown:
            tab = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
            tab.goto(path.as_uri())
            painted = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            tab.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
            first.append(tab.evaluate(painted) / 1000)
            tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            violations += Axe().run(tab).violations_count
            tab.close()
        chromium.close()
    return min(first), violations


def timed(call: object, times: int = 5) -> tuple[float, float, float]:
    """Return the median, fastest and slowest seconds of a call."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        call()  # type: ignore[operator]
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds)), min(seconds), max(seconds)


def main() -> None:
    """Measure and write benchmarks/results/report.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--searched", type=int, default=10_000_000)
    options = parser.parse_args()
    figures = []
    load = f"load average of the machine {os.getloadavg()[0]:.0f} when it began"
    with tempfile.TemporaryDirectory() as scratch:
        curation = make_store(Path(scratch, "million"), options.chunks)
        begun = time.perf_counter()
        inputs = million_inputs(curation)
        page = render(replace(inputs))
        seconds = time.perf_counter() - begun
        path = Path(scratch, "report.html")
        path.write_text(page, encoding="utf-8")
        of = f"{options.chunks:,} synthetic chunks, {len(inputs.samples)} texts; {load}"
        figures += [
            Figure("report.seconds_million_chunks", round(seconds, 1), "s", "< 60", note=of),
            Figure("report.megabytes_million", round(len(page.encode()) / 1e6, 2), "MB", "< 10", note=of),
        ]
        words = next(row["text"] for row in inputs.samples if row.get("text"))[:24]
        text = timed(lambda: find_texts(curation, words, most=1), 3)
        if shutil.which("chromium") or os.environ.get("GRASP_CHROMIUM"):
            first, violations = in_browser(path)
            note = "first contentful paint of that page in headless Chromium, the best of four; " + load
            figures += [
                Figure("report.first_view_seconds", round(first, 2), "s", "< 1", note=note),
                Figure(
                    "report.axe_violations",
                    violations,
                    "violations",
                    "0",
                    note="light, dark, 1100 and 390 px",
                ),
            ]
        shutil.rmtree(Path(scratch, "million"))
        curation = make_store(Path(scratch, "ten"), options.searched, texts=False)
        one = find_rows(curation, "dropped", most=1)["chunk_id"].item()
        unindexed = timed(lambda: find_rows(curation, "dropped", identity="zz", most=1), 3)
        begun = time.perf_counter()
        index = IdIndex.of(curation.read(tables.DROP_REASONS), "chunk_id")
        reading = time.perf_counter() - begun
        by_id = timed(lambda: find_rows(curation, "dropped", identity=one, most=1, index=index))
        absent = timed(lambda: find_rows(curation, "dropped", identity="zz", most=1, index=index), 3)
        note = f"once, in the background, when the application starts; {load}"
        figures.append(Figure("browse.index_seconds_10m", round(reading, 1), "s", "", note=note))
        by_reason = timed(lambda: find_rows(curation, "dropped", source="source-3", reason="redundant"))
        for name, (middle, low, high), note in (
            ("search_seconds_10m", absent, "beginning of a chunk's id that no chunk has, by the index"),
            (
                "search_seconds_10m_unindexed",
                unindexed,
                "the same before the index is read: all ids are read",
            ),
            ("search_seconds_10m_found", by_id, "a chunk's id that there is"),
            ("search_seconds_10m_source_and_reason", by_reason, "50 rows of a source and reason"),
        ):
            figures.append(
                Figure(
                    f"browse.{name}",
                    round(middle, 2),
                    "s",
                    "< 2",
                    round(low, 2),
                    round(high, 2),
                    f"{note}; {load}",
                )
            )
        middle, low, high = text
        note = f"words in the texts of {options.chunks:,} chunks, no more than 200,000 documents are read; {load}"
        figures.append(
            Figure(
                "browse.text_search_seconds", round(middle, 2), "s", "", round(low, 2), round(high, 2), note
            )
        )
    print(save("report", "python -m benchmarks.report", figures))


if __name__ == "__main__":
    main()
