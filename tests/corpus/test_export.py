"""The export: every format holds every kept chunk once and in order, is complete, and says what is in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import WORDS, toy_texts

from grasp_pipeline.corpus.chunking import chunk_documents
from grasp_pipeline.corpus.export.card import Card, escape, reason_counts, render_card, source_counts
from grasp_pipeline.corpus.export.files import Counts
from grasp_pipeline.corpus.export.licences import find_licences, licence_rows
from grasp_pipeline.corpus.export.spans import LINEAGE, SPANS, KeptCorpus, span_blocks
from grasp_pipeline.corpus.export.tokens import Vocabulary
from grasp_pipeline.corpus.export.write import check_destination, finish_export, write_formats
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.errors import ConfigError, InputError, StoreError
from grasp_pipeline.tables import DOCUMENTS, DROP_REASONS, PRUNED_CORPUS, REJECTED_DOCUMENTS, Table

ENCODER = train_bpe([text for source in WORDS for text in toy_texts(source, 20)], 300)
VOCABULARY = Vocabulary(ENCODER.tokenizer_id, ENCODER.vocab_size, ENCODER.bos)
NUMBER = 7
"""Of the curation."""

LOCAL = ["parquet", "jsonl", "huggingface", "tokens"]

try:
    import streaming
except (ImportError, RuntimeError):
    streaming = None

needs_mds = pytest.mark.skipif(
    streaming is None, reason="MosaicML Streaming (the extra mds) is not installed"
)


def documents_of(texts: list[str], source: str = "s") -> pl.DataFrame:
    texts = list(dict.fromkeys(normalize_text(text) for text in texts))
    rows = [
        (document_id(t), t, source, "shard-0000", len(t.encode()), f"f#{row}", document_id(t), True)
        for row, t in enumerate(texts)
        if t
    ]
    return DOCUMENTS.conform(pl.DataFrame(rows, schema=DOCUMENTS.schema, orient="row"))


def filled(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of a table of which the export reads only some columns; the others are null."""
    return table.conform(pl.concat([table.empty(), frame], how="diagonal_relaxed"))


def kept_part(chunks: pl.DataFrame, seed: int, share: float = 0.5) -> pl.DataFrame:
    """Rows of pruned_corpus: a random part of the chunks, at least one, in a random `order`, one in five twice."""
    rng = np.random.default_rng(seed)
    mask = rng.random(chunks.height) < share
    mask[rng.integers(chunks.height)] = True
    kept = chunks.filter(pl.Series(mask)).select(
        "chunk_id", "doc_id", "source", "shard", kept_tokens="n_tokens"
    )
    order, repeats = pl.Series(rng.permutation(kept.height)), pl.Series(1 + (rng.random(kept.height) < 0.2))
    return filled(PRUNED_CORPUS, kept.with_columns(order=order, repeats=repeats, curation=pl.lit(NUMBER)))


def slow_spans(pruned: pl.DataFrame, chunks: pl.DataFrame, documents: pl.DataFrame) -> list[dict[str, Any]]:
    """The contract, chunk by chunk."""
    kept = dict(pruned.select("chunk_id", "repeats").iter_rows())
    texts = {row["doc_id"]: row for row in documents.iter_rows(named=True)}
    spans: list[dict[str, Any]] = []
    before: tuple[str, int, int] | None = None
    for chunk in chunks.sort("doc_id", "position").iter_rows(named=True):
        if chunk["chunk_id"] not in kept:
            continue
        doc_id, position = chunk["doc_id"], chunk["position"]
        document, repeats = texts[doc_id], kept[chunk["chunk_id"]]
        if before != (doc_id, position - 1, repeats):
            part = spans[-1]["part"] + 1 if spans and spans[-1]["doc_id"] == doc_id else 0
            new = {"doc_id": doc_id, "part": part, "source": document["source"], "origin": document["origin"]}
            told = {"repeats": repeats, "curation": NUMBER}
            spans.append({**new, "text": "", "n_tokens": 0, **told, "ids": []})
        spans[-1]["text"] += document["text"][chunk["start"] : chunk["end"]]
        spans[-1]["n_tokens"] += chunk["n_tokens"]
        spans[-1]["ids"] += chunk["input_ids"]
        before = (doc_id, position, repeats)
    return spans


def corpus_of(
    pruned: pl.DataFrame, chunks: pl.DataFrame, documents: pl.DataFrame, seed: int = 0
) -> KeptCorpus:
    """The tables in some order of rows."""
    return KeptCorpus(
        *(frame.sample(fraction=1, shuffle=True, seed=seed).lazy() for frame in (pruned, chunks, documents))
    )


def exported(
    corpus: KeptCorpus,
    folder: Path,
    formats: list[str],
    shard_tokens: int = 1024,
    block_bytes: int = 1000,
    vocabulary: Vocabulary = VOCABULARY,
) -> dict[str, Any]:
    blocks = span_blocks(corpus, folder, tokens=True, block_bytes=block_bytes)
    ledger = write_formats(blocks, folder, formats, vocabulary, shard_tokens)
    return finish_export(folder, ledger, "# Card\n", "# Notices\n", {"about": "test"})


def flat_sequences(folder: Path, vocabulary: Vocabulary = VOCABULARY) -> list[list[int]]:
    tokens = np.memmap(folder / "tokens" / "tokens.bin", dtype=vocabulary.dtype, mode="r")
    offsets = np.load(folder / "tokens" / "offsets.npy", mmap_mode="r")
    assert offsets.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == len(tokens)
    return [tokens[a:b].tolist() for a, b in pairwise(offsets)]


def small_corpus(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    documents = pl.concat(
        [documents_of(toy_texts("news", 40), "news"), documents_of(toy_texts("french", 40), "french")]
    )
    chunks = chunk_documents(documents, ENCODER, 16)
    return kept_part(chunks, seed), chunks, documents


@given(
    st.lists(st.text(min_size=1, max_size=120), min_size=1, max_size=8).filter(
        lambda texts: documents_of(texts).height > 0
    ),
    st.integers(1, 12),
    st.integers(0, 2**16),
    st.floats(0, 1),
    st.sampled_from([1, 50, 10_000]),
    st.sampled_from([1, 7, 1000]),
)
@settings(max_examples=40, deadline=None)
def test_every_format_holds_each_kept_chunk_once_and_in_order(
    texts: list[str], length: int, seed: int, share: float, block_bytes: int, shard_tokens: int
) -> None:
    documents = documents_of(texts)
    chunks = chunk_documents(documents, ENCODER, length)
    pruned = kept_part(chunks, seed, share)
    expected = slow_spans(pruned, chunks, documents)
    rows = [{name: span[name] for name in SPANS} for span in expected]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = exported(
            corpus_of(pruned, chunks, documents, seed), folder, LOCAL, shard_tokens, block_bytes
        )
        assert pl.read_parquet(folder / "corpus.parquet").to_dicts() == rows
        with zstandard.open(folder / "corpus.jsonl.zst", "rb") as file:
            assert [json.loads(line) for line in file.read().decode().splitlines()] == rows
        files = sorted((folder / "huggingface" / "data").iterdir())
        assert [row for path in files for row in pl.read_parquet(path).to_dicts()] == rows
        assert flat_sequences(folder) == [[ENCODER.bos, *span["ids"]] for span in expected]
        lineage = pl.read_parquet(folder / "tokens" / "sequences.parquet")
        assert lineage.to_dicts() == [{key: row[key] for key in lineage.columns} for row in rows]
    assert manifest["rows"] == len(rows)
    assert manifest["tokens"] == pruned["kept_tokens"].sum()


def test_fragments_are_left_out_and_counted(tmp_path: Path) -> None:
    """Of three documents: a short run, a long run and one whole short document; the run below 20 tokens goes."""
    long, short = toy_texts("news", 6, "fragments")[:2], documents_of(["import self"])
    documents = pl.concat([documents_of([" ".join(long), *toy_texts("french", 1)]), short])
    chunks = chunk_documents(documents, ENCODER, 16)
    most = chunks.group_by("doc_id").len().sort("len")["doc_id"][-1]
    wanted = (
        (pl.col("doc_id") == short["doc_id"][0])
        | ((pl.col("doc_id") == most) & pl.col("position").is_in([0, 2, 3]))
        | ((pl.col("doc_id") != most) & (pl.col("position") == 1))
    )
    pruned = chunks.filter(wanted).select(
        "chunk_id",
        "doc_id",
        "source",
        "shard",
        kept_tokens="n_tokens",
        order=pl.int_range(pl.len()),
        repeats=1,
    )
    corpus = corpus_of(filled(PRUNED_CORPUS, pruned), chunks, documents)
    spans = pl.concat(list(span_blocks(corpus, tmp_path, tokens=True)))
    fragments = spans.filter(pl.col("n_tokens") < 20, pl.col("doc_id") != short["doc_id"][0])
    assert fragments.height == 2
    ledger = write_formats([spans], tmp_path, LOCAL, VOCABULARY, 1024, 20)
    manifest = finish_export(tmp_path, ledger, "", "", {})
    assert manifest["left_out"] == {"rows": 2, "tokens": fragments["n_tokens"].sum()}
    assert manifest["tokens"] + manifest["left_out"]["tokens"] == pruned["kept_tokens"].sum()
    written = pl.read_parquet(tmp_path / "corpus.parquet")
    assert sorted(written.select("doc_id", "part").iter_rows()) == sorted(
        [(most, 0), (short["doc_id"][0], 0)]
    )
    assert written.filter(doc_id=short["doc_id"][0])["text"].to_list() == ["import self"]
    assert len(flat_sequences(tmp_path)) == 2
    assert ledger.documents == {"s": 2}


def test_files_do_not_depend_on_blocks_or_on_the_order_of_rows(tmp_path: Path) -> None:
    pruned, chunks, documents = small_corpus()
    manifests = []
    for number, block_bytes in enumerate((200, 3000, 10**9)):
        folder = tmp_path / str(number)
        folder.mkdir()
        corpus = corpus_of(pruned, chunks, documents, number)
        manifests.append(exported(corpus, folder, LOCAL, block_bytes=block_bytes))
    contents = [
        (
            pl.read_parquet(tmp_path / str(number) / "corpus.parquet"),
            (tmp_path / str(number) / "tokens" / "tokens.bin").read_bytes(),
            (tmp_path / str(number) / "tokens" / "offsets.npy").read_bytes(),
            {name: facts.get("rows") for name, facts in manifests[number]["files"].items()},
        )
        for number in range(3)
    ]
    for frame, *rest in contents[1:]:
        assert frame.equals(contents[0][0])
        assert rest == list(contents[0][1:])


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    corpus = corpus_of(*small_corpus())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert exported(corpus, tmp_path / "a", LOCAL) == exported(corpus, tmp_path / "b", LOCAL)


def test_datasets_opens_the_folder_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    pruned, chunks, documents = small_corpus()
    exported(corpus_of(pruned, chunks, documents), tmp_path, ["huggingface"])
    folder = tmp_path / "huggingface"
    assert len(list((folder / "data").iterdir())) > 2
    expected = [{name: span[name] for name in SPANS} for span in slow_spans(pruned, chunks, documents)]
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].to_list() == expected
    lazily = datasets.load_dataset(str(folder), split="train", streaming=True)
    assert list(lazily) == expected


@needs_mds
def test_mosaicml_streaming_reads_the_shards(tmp_path: Path) -> None:
    assert streaming is not None
    pruned, chunks, documents = small_corpus()
    manifest = exported(corpus_of(pruned, chunks, documents), tmp_path, ["mds"])
    shards = [name for name in manifest["files"] if name.endswith(".mds")]
    assert len(shards) > 1
    assert sum(manifest["files"][name]["tokens"] for name in shards) == manifest["tokens"]
    samples = streaming.LocalDataset(str(tmp_path / "mds"))
    spans = slow_spans(pruned, chunks, documents)
    assert len(samples) == len(spans)
    for sample, span in zip(samples, spans, strict=True):
        assert sample["tokens"].dtype == np.uint16
        assert sample["tokens"].tolist() == [ENCODER.bos, *span["ids"]]
        assert {key: sample[key] for key in sample if key != "tokens"} == {key: span[key] for key in LINEAGE}
    streamed = streaming.StreamingDataset(
        local=str(tmp_path / "mds"), remote=None, batch_size=1, shuffle=False, validate_hash="sha256"
    )
    assert [sample["tokens"].tolist() for sample in streamed] == [
        [ENCODER.bos, *span["ids"]] for span in spans
    ]


def test_without_the_library_mds_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streaming", None)
    with pytest.raises(ConfigError, match=r"mds needs MosaicML Streaming.*grasp-pipeline\[mds\]"):
        exported(corpus_of(*small_corpus()), tmp_path, ["mds"])


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    pruned, chunks, documents = small_corpus()
    raised = chunks.with_columns(pl.col("input_ids").list.eval(pl.element() + 70_000))
    vocabulary = replace(VOCABULARY, size=80_000, bos=70_000)
    exported(corpus_of(pruned, raised, documents), tmp_path, ["tokens"], vocabulary=vocabulary)
    index = json.loads((tmp_path / "tokens" / "index.json").read_text())
    assert (index["dtype"], index["bos"], index["ends_with_eos"]) == ("uint32", 70_000, False)
    expected = [[70_000, *span["ids"]] for span in slow_spans(pruned, raised, documents)]
    assert flat_sequences(tmp_path, vocabulary) == expected
    assert [replace(VOCABULARY, size=size).dtype.str for size in (65_536, 65_537)] == ["<u2", "<u4"]


@pytest.mark.parametrize("wrong", [-1, ENCODER.vocab_size, ENCODER.bos])
def test_a_token_outside_the_vocabulary_is_named(tmp_path: Path, wrong: int) -> None:
    pruned, chunks, documents = small_corpus()
    victim = pruned["chunk_id"][pruned.height // 2]
    ids = [*chunks.filter(chunk_id=victim)["input_ids"][0].to_list()[:-1], wrong]
    broken = chunks.with_columns(
        input_ids=pl.when(chunk_id=victim).then(pl.lit(ids, dtype=pl.List(pl.Int32))).otherwise("input_ids")
    )
    doc_id = pruned.filter(chunk_id=victim)["doc_id"][0]
    with pytest.raises(StoreError, match=rf"{doc_id} in tokenized_shards holds the token {wrong},"):
        exported(corpus_of(pruned, broken, documents), tmp_path, ["tokens"])


def test_there_are_as_many_separators_as_documents_whatever_they_say(tmp_path: Path) -> None:
    texts = [
        f"{text[:60]}<|endoftext|>{text[60:]}" if number % 3 == 0 else text
        for number, text in enumerate(toy_texts("news", 40))
    ]
    documents = documents_of(["<|endoftext|>", "<|endoftext|>" * 3, *texts])
    chunks = chunk_documents(documents, ENCODER, 16)
    kept = kept_part(chunks, 0, share=1.0).with_columns(repeats=pl.lit(1, pl.Int64))
    exported(corpus_of(kept, chunks, documents), tmp_path, ["tokens"])
    tokens = np.memmap(tmp_path / "tokens" / "tokens.bin", dtype=VOCABULARY.dtype, mode="r")
    assert (tokens == VOCABULARY.bos).sum() == documents.height
    said = [ENCODER.backend.decode(ids[1:], skip_special_tokens=False) for ids in flat_sequences(tmp_path)]
    assert sorted(said) == sorted(documents["text"])


def test_a_kept_chunk_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    pruned, chunks, documents = small_corpus()
    victim = pruned.row(3, named=True)
    with pytest.raises(
        StoreError, match=rf"tokenized_shards does not hold the chunk_id {victim['chunk_id']}"
    ):
        exported(
            corpus_of(pruned, chunks.filter(pl.col("chunk_id") != victim["chunk_id"]), documents),
            tmp_path,
            LOCAL,
        )
    with pytest.raises(StoreError, match=rf"documents does not hold the doc_id {victim['doc_id']}"):
        exported(
            corpus_of(pruned, chunks, documents.filter(pl.col("doc_id") != victim["doc_id"])),
            tmp_path,
            ["jsonl"],
        )


def test_manifests_have_the_digest_and_rows_of_every_file(tmp_path: Path) -> None:
    manifest = exported(corpus_of(*small_corpus()), tmp_path, LOCAL)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == {name for name in found if not name.endswith("manifest.json")}
    for name, facts in manifest["files"].items():
        data = (tmp_path / name).read_bytes()
        assert facts["bytes"] == len(data)
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
    groups = [
        [name for name in manifest["files"] if name.startswith("huggingface/data/")],
        *(["corpus.parquet"], ["corpus.jsonl.zst"], ["tokens/tokens.bin"], ["tokens/sequences.parquet"]),
    ]
    for group in groups:
        for key in ("rows", "tokens"):
            assert sum(manifest["files"][name][key] for name in group) == manifest[key]
    for name in ("huggingface", "tokens"):
        own = json.loads((tmp_path / name / "manifest.json").read_text())
        assert own["files"] == {
            path.removeprefix(f"{name}/"): facts
            for path, facts in manifest["files"].items()
            if path.startswith(f"{name}/")
        }
        assert (tmp_path / name / "LICENSES.md").read_text() == "# Notices\n"
        assert (tmp_path / name / "README.md").read_text().endswith("# Card\n")


def test_files_hold_the_tokens_asked_for(tmp_path: Path) -> None:
    pruned, chunks, documents = small_corpus()
    exported(corpus_of(pruned, chunks, documents), tmp_path, ["huggingface"], shard_tokens=100)
    longest = max(span["n_tokens"] for span in slow_spans(pruned, chunks, documents))
    files = sorted((tmp_path / "huggingface" / "data").iterdir())
    tokens = [pq.read_table(path)["n_tokens"].to_numpy().sum() for path in files]
    assert [path.name for path in files] == [
        f"train-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))
    ]
    assert max(tokens) < 100 + longest
    assert len(files) <= -(-sum(tokens) // 100)


def test_nothing_but_the_files_is_left(tmp_path: Path) -> None:
    exported(corpus_of(*small_corpus()), tmp_path, ["jsonl"])
    assert {path.name for path in tmp_path.iterdir()} == {
        *("corpus.jsonl.zst", "README.md", "LICENSES.md", "manifest.json")
    }


def test_folders_need_a_local_store() -> None:
    check_destination(["parquet", "jsonl"], "s3://bucket/store")
    check_destination(LOCAL, "/srv/store")
    with pytest.raises(ConfigError, match=r"huggingface, tokens.*s3://bucket/store cannot do"):
        check_destination(LOCAL, "s3://bucket/store")


def test_the_files_open_as_the_page_says(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "exports.md"
    shown = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    opened = [block for block in shown if "StreamingDataset" not in block]
    assert len(opened) == 3
    (tmp_path / "export").mkdir()
    exported(corpus_of(*small_corpus()), tmp_path / "export", LOCAL)
    with contextlib.chdir(tmp_path):
        for block in opened:
            space: dict[str, Any] = {}
            exec(block, space)
            assert len(space["third"]) if "third" in space else space["spans"] is not None


class TestCard:
    def card(self, **changes: Any) -> Card:
        pruned, chunks, documents = small_corpus()
        dropped = chunks.join(pruned, on="chunk_id", how="anti").select(
            "chunk_id", "doc_id", "n_tokens", "source", "shard", reason=pl.lit("low_alignment")
        )
        drops = filled(DROP_REASONS, dropped).lazy()
        kept = dict(pruned.group_by("source").agg(pl.col("doc_id").n_unique()).iter_rows())
        rejected = REJECTED_DOCUMENTS.empty().lazy()
        certificate = {
            "arm": "a",
            "baseline": "random",
            "task": "mean",
            "tokens": 1000,
            "improvement": 0.25,
            "lower_bound": 0.125,
            "confidence": 0.95,
            "certified": True,
            "statement": "At 1,000 tokens the pruned corpus beats random by 0.250; 95% lower bound 0.125.",
        }
        values: dict[str, Any] = {
            "formats": [*LOCAL, "mds"],
            "sources": source_counts(pruned.lazy(), drops, documents.lazy(), rejected, kept),
            "reasons": reason_counts(drops),
            "licences": {"news": "CC0 1.0"},
            "certificates": [certificate],
            "target": "mean",
            "choice_of": "",
            "settings": {"lam": 0.4},
            "versions": {"documents": 7},
            "code": "grasp-pipeline 1",
            "vocabulary": VOCABULARY,
        }
        return Card(**{**values, **changes})

    def test_it_counts_per_source(self) -> None:
        pruned, chunks, documents = small_corpus()
        card = self.card()
        for row in card.sources.iter_rows(named=True):
            mine = chunks.filter(source=row["source"])
            kept = pruned.filter(source=row["source"])
            assert (
                row["documents_kept"] + row["documents_dropped"]
                == documents.filter(source=row["source"]).height
            )
            assert row["chunks_kept"] + row["chunks_dropped"] == mine.height
            assert row["chunks_kept"] == kept.height
            assert row["tokens_kept"] == kept["kept_tokens"].sum()
            assert row["tokens_kept"] + row["tokens_dropped"] == mine["n_tokens"].sum()
        assert card.sources["source"].to_list() == ["french", "news"]

    def test_it_says_what_a_reader_needs(self) -> None:
        text = render_card(self.card())
        row = self.card().sources.row(1)
        for part in (
            "95% lower bound 0.125",
            "| mean | random | 1,000 | 0.25 | 0.125 | 0.95 | yes |",
            f"| news | CC0 1.0 | {row[1]} |",
            "| french | unknown, see the source |",
            "| documents | 7 |",
            "| lam | 0.4 |",
            'load_dataset("huggingface"',
            'dtype="<u2"',
            "StreamingDataset(local=",
            "grasp-pipeline 1",
        ):
            assert part in text

    def test_it_counts_the_fragments_that_are_in_no_file(self) -> None:
        text = render_card(self.card(min_span_tokens=8, left_out=Counts(3, 1234)))
        assert "Of the kept tokens 1,234 are in no file: 3 fragments, spans of fewer than 8 tokens" in text
        assert "in no file" not in render_card(self.card())

    def test_values_cannot_become_markup(self) -> None:
        hostile = "a|b\n# <script>x</script> [l](http://e) `c` ![i](u) | --- |"
        clean = self.card()
        card = self.card(
            sources=clean.sources.with_columns(source=pl.lit(hostile)),
            licences={hostile: hostile},
            settings={hostile: hostile},
            versions={hostile: 1},
        )
        text = render_card(card)
        assert "<script>" not in text
        assert "](http" not in text.replace("\\]", "")
        assert text.count("\n# ") == 0
        widths = [
            len(line.replace("\\|", "").split("|")) for line in text.splitlines() if line.startswith("|")
        ]
        expected = [len(line.split("|")) for line in render_card(clean).splitlines() if line.startswith("|")]
        assert widths == expected

    @given(st.text(max_size=40))
    def test_an_escaped_value_is_one_line_without_bare_marks(self, value: str) -> None:
        written = escape(value)
        assert len(written.splitlines()) <= 1
        bare = written.replace("\\\\", "")
        for mark in "|`*[]<>":
            assert bare.count(mark) == bare.count("\\" + mark)


class TestLicences:
    TABLE = "# L\n\n| source | package | licence |\n| --- | --- | --- |\n| a | p | CC0 |\n| b | q | MIT |\n\n| x |\n"

    def test_the_table_is_read(self) -> None:
        assert licence_rows(self.TABLE) == {"a": "CC0", "b": "MIT"}
        assert licence_rows("no table") == {}

    def test_it_is_found_beside_the_files_or_above(self, tmp_path: Path) -> None:
        corpus = tmp_path / "data" / "corpus"
        corpus.mkdir(parents=True)
        uris = [str(corpus / "one.parquet"), f"file://{corpus}/two.parquet", "s3://bucket/three.parquet"]
        assert find_licences(uris).by_source == {}
        assert find_licences(uris).notices == ""
        (tmp_path / "data" / "LICENSES.md").write_text(self.TABLE)
        assert find_licences(uris).by_source == {"a": "CC0", "b": "MIT"}
        assert find_licences(uris).notices == self.TABLE
        assert find_licences(uris[2:]).by_source == {}

    def test_notices_in_another_encoding_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "LICENSES.md").write_bytes("Café".encode("latin-1"))
        with pytest.raises(InputError, match=r"LICENSES\.md' is not UTF-8 \(byte 3\); save it as UTF-8\.$"):
            find_licences([str(tmp_path / "one.parquet")])
        (tmp_path / "LICENSES.md").write_bytes(self.TABLE.encode("utf-8-sig"))
        assert find_licences([str(tmp_path / "one.parquet")]).notices == self.TABLE

    def test_the_bundled_corpus_has_one_for_every_source(self) -> None:
        root = Path(__file__).resolve().parents[2] / "data"
        paths = sorted((root / "corpus").glob("*.parquet"))
        found = find_licences(str(path) for path in paths).by_source
        sources = {source for path in paths for source in pl.read_parquet(path)["source"].unique()}
        assert sources
        assert sources <= set(found)
