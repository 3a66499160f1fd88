"""Rewrites of a corpus: of its size, the same in every run, and no near duplicates of each other."""

import importlib
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from toys import toy_texts

from grasp_pipeline.corpus.duplicates import near_duplicate_clusters

SCRIPTS = str(Path(__file__).resolve().parents[2] / "scripts")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    yield importlib.import_module("rewrite_corpus")
    sys.modules.pop("rewrite_corpus", None)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "large" / "corpus"
    folder.mkdir(parents=True)
    for source in ("news", "code"):
        texts = [f"{text}\n\n- 1,5 é_x {text}" for text in toy_texts(source, 12)]
        frame = pl.DataFrame({"id": [f"{source}/{i}" for i in range(12)], "source": source, "text": texts})
        frame.write_parquet(folder / f"01-{source}.parquet")
    (folder.parent / "LICENSES.md").write_text("| source | licence |")
    return folder


def test_rewrites_are_new_texts_of_the_same_size(script: Any, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "corpus"
    arguments = ["--corpus", str(corpus), "--out", str(out), "--times", "3"]
    assert script.main(arguments) == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(first) == 6
    written = pl.concat([pl.read_parquet(path) for path in sorted(out.iterdir())])
    given = pl.concat([pl.read_parquet(path) for path in sorted(corpus.iterdir())])
    assert written["id"].n_unique() == written.height == 3 * given.height
    size, before = (sum(map(len, frame["text"])) for frame in (written, given))
    assert 0.9 * 3 * before < size < 1.1 * 3 * before
    assert written["text"].str.contains("\n\n- 1,5 é_x ", literal=True).all()
    texts = [*given["text"], *written["text"]]
    assert (near_duplicate_clusters(texts, 0.5).survivor == range(len(texts))).all()
    assert (out.parent / "LICENSES.md").is_file()
    assert script.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_a_share_and_a_missing_corpus(
    script: Any, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert script.main(["--corpus", str(corpus), "--out", str(out), "--times", "1", "--share", "0.5"]) == 0
    assert sum(pl.read_parquet(path).height for path in out.glob("*.parquet")) == 12
    assert script.main(["--corpus", str(tmp_path / "none")]) == 1
    assert "holds no Parquet files" in capsys.readouterr().err
