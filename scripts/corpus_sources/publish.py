"""Writing the corpus: Parquet files, licences, counts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from .catalogue import Source
from .holdout import NGRAM, THRESHOLD, HeldOut, TaskReport
from .packages import Package
from .pages import DOCUMENT_BYTES, Document

_ZSTD_LEVEL = 22
_PAGE_BYTES = 8 * 2**20  # one page a column: zstd sees the whole file
_CORPUS_SCHEMA = {"id": pl.String, "source": pl.String, "text": pl.String}
_TASK_SCHEMA = {
    "task": pl.String,
    "split": pl.String,
    "fold": pl.Int8,
    "document": pl.String,
    "source": pl.String,
    "text": pl.String,
}


def write_shards(folder: Path, shards: Sequence[tuple[str, Sequence[Document]]]) -> None:
    """One Parquet file a shard, numbered in order of arrival; files of an earlier build go."""
    _clear(folder)
    for number, (name, documents) in enumerate(shards, start=1):
        frame = pl.DataFrame([asdict(doc) for doc in documents], schema=_CORPUS_SCHEMA)
        _write(frame, folder / f"{number:02d}-{name}.parquet")


def write_tasks(folder: Path, tasks: Mapping[str, Sequence[HeldOut]]) -> None:
    """One Parquet file a task."""
    _clear(folder)
    for task, rows in sorted(tasks.items()):
        frame = pl.DataFrame([asdict(row) for row in rows], schema=_TASK_SCHEMA)
        _write(frame, folder / f"{task}.parquet")


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.parquet"):
        path.unlink()


def _write(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(
        path,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        statistics=False,
        row_group_size=max(1, frame.height),
        data_page_size=_PAGE_BYTES,
    )


def write_decontamination(path: Path, reports: Mapping[str, TaskReport]) -> None:
    """The decontamination counts as JSON."""
    content = {
        "ngram_words": NGRAM,
        "threshold": THRESHOLD,
        "tasks": {
            task: {
                key: round(value, 4) if isinstance(value, float) else value
                for key, value in asdict(report).items()
            }
            for task, report in sorted(reports.items())
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_licences(path: Path, sources: Sequence[tuple[Source, Package]]) -> None:
    """Package, version, licence and attribution of every source, then the notices in full."""
    lines = [
        "# Licences of the corpus",
        "",
        "The texts below `corpus/` and `tasks/` come from public packages, under the licence of each. "
        "Changes made: a selection of the pages, in plain text, long pages cut into parts, held-out pages "
        "cut short. Written by `scripts/build_corpus.py`, which checks every licence against the package's "
        "own notice.",
        "",
        "| source | package | version | licence |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {source.name} | {source.package} | {package.version} | {source.licence.name} |"
        for source, package in sources
    ]
    lines += ["", "## Attribution", ""]
    for source, _ in sources:
        language = source.name.rpartition("-")[2]
        attribution = source.licence.attribution.replace("{language}", language)
        lines.append(f"- **{source.name}** ({source.about}): {attribution}")
    for source, package in sources:
        if notice := source.licence.verified_notice(package):
            lines += ["", f"## Notice of {source.name}", "", "```text", notice, "```"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_readme(
    path: Path,
    command: str,
    shards: Sequence[tuple[str, Sequence[Document]]],
    tasks: Mapping[str, Sequence[HeldOut]],
    reports: Mapping[str, TaskReport],
) -> None:
    """What the corpus is, how it is built, and its counts."""
    documents = [doc for _, docs in shards for doc in docs]
    total = sum(doc.size for doc in documents)
    lines = [
        "# Corpus",
        "",
        "A corpus of mixed worth, with held-out documents of three target tasks to judge it by. "
        f"{len(documents):,} documents, {_mb(total)} MB of text. `{command}` builds it, byte for byte the "
        "same from the same packages; `LICENSES.md` names them. This file is written by the script.",
        "",
        "- `corpus/NN-name.parquet`: the shards in order of arrival. Columns `id` (unique over the corpus), "
        f"`source`, `text`. A page over {DOCUMENT_BYTES // 1000} KB is cut at section borders into documents "
        "`id`, `id#2`, `id#3`...",
        "- `tasks/TASK.parquet`: the held-out documents. Columns `task`, `split` (query, judge, calibration "
        "or evaluation), `fold` (0 or 1 in calibration, else null), `document`, `source`, `text`. A held-out "
        "page is cut to about 1,500 characters, and no part of it is in the corpus.",
        "- `decontamination.json`: how held-out documents were cleared of copies.",
        "",
        "Duplicates, boilerplate, markup and junk are left as they come: untranslated help pages in several "
        "locales, stubs of old Rust books, raw mail with headers. In mail and the Jargon File the local part "
        "of e-mail addresses is masked, in mail telephone numbers too.",
        "",
        "## Corpus by source",
        "",
        "| source | documents | bytes | share |",
        "| --- | ---: | ---: | ---: |",
        *_count_rows(documents, total),
        "",
        "## Corpus by shard",
        "",
        "| shard | documents | bytes |",
        "| --- | ---: | ---: |",
    ]
    for number, (name, docs) in enumerate(shards, start=1):
        lines.append(f"| {number:02d}-{name} | {len(docs):,} | {sum(doc.size for doc in docs):,} |")
    lines += [
        "",
        "## Held-out documents by task and source",
        "",
        "| task | source | query | judge | calibration, fold 0 | calibration, fold 1 | evaluation |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    places = (("query", None), ("judge", None), ("calibration", 0), ("calibration", 1), ("evaluation", None))
    for task, rows in sorted(tasks.items()):
        for source in sorted({row.source for row in rows}):
            counts = [
                sum((row.source, row.split, row.fold) == (source, *place) for row in rows) for place in places
            ]
            lines.append(f"| {task} | {source} | {' | '.join(map(str, counts))} |")
    lines += [
        "",
        "## Decontamination",
        "",
        f"The overlap of a held-out document with another document is the share of its distinct "
        f"runs of {NGRAM} words (letters, digits and underscores without their case; single characters in "
        f"scripts without spaces) that the other one holds. Candidates over {THRESHOLD:.0%} with a document of "
        "the corpus, or with a held-out document drawn before them, are in neither. The large corpus keeps the "
        "demo's held-out documents and loses the documents that hold copies of them.",
        "",
        "| task | candidates | removed, copy in the corpus | removed, copy in the task | drawn but unused "
        "| held out | corpus documents removed | largest overlap | mean of the largest "
        "| largest within the task |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task, report in sorted(reports.items()):
        lines.append(
            f"| {task} | {report.candidates} | {report.removed_for_corpus_overlap} "
            f"| {report.removed_for_held_out_overlap} | {report.unused} | {report.held_out} "
            f"| {report.corpus_documents_removed} | {report.max_overlap:.3f} | {report.mean_overlap:.3f} "
            f"| {report.max_overlap_between_held_out:.3f} |"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _count_rows(documents: Iterable[Document], total: int) -> list[str]:
    counts: dict[str, tuple[int, int]] = {}
    for doc in documents:
        number, size = counts.get(doc.source, (0, 0))
        counts[doc.source] = (number + 1, size + doc.size)
    rows = [
        f"| {source} | {number:,} | {size:,} | {size / total:.1%} |"
        for source, (number, size) in sorted(counts.items())
    ]
    number = sum(number for number, _ in counts.values())
    return [*rows, f"| all | {number:,} | {total:,} | 100.0% |"]


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
