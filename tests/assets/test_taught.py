"""`python -m grasp_pipeline taught`: the kept chunks behind a sentence, from an index that knows its tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from workplace import Curated, Workplace

from grasp_pipeline import tables
from grasp_pipeline.__main__ import curation_rows, main
from grasp_pipeline.errors import InputError
from grasp_pipeline.lineage.curation import Curation, find_curation
from grasp_pipeline.lineage.taught import IndexSettings, index_key

BUILDING = "building the index of curation 1"
Captured = pytest.CaptureFixture[str]


def told(place: Workplace, capsys: Captured, text: str, *more: str) -> tuple[dict, str]:
    """Return what the command found, and what it said meanwhile."""
    assert main(["taught", text, "--store", str(place.store), "--texts", "6", "--json", *more]) == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_a_kept_text_is_found_and_the_index_is_built_once_for_its_tables(
    copied: Workplace, capsys: Captured
) -> None:
    kept = copied.read(tables.PRUNED_CORPUS)["chunk_id"].to_list()
    chunk = copied.read(tables.TOKENIZED_SHARDS).filter(chunk_id=kept[0]).row(0, named=True)
    text = copied.read(tables.DOCUMENTS).filter(doc_id=chunk["doc_id"])["text"][0][
        chunk["start"] : chunk["end"]
    ]
    found, said = told(copied, capsys, text, "-k", "5")
    assert BUILDING in said
    assert len(found["chunks"]) == 5
    assert {each["chunk_id"] for each in found["chunks"]} <= set(kept)
    assert found["chunks"][0]["text"] in text or text in found["chunks"][0]["text"]
    effects = [each["effect"] for each in found["chunks"]]
    assert effects == sorted(effects, reverse=True)
    again, said = told(copied, capsys, text, "-k", "5")
    assert again == found
    assert BUILDING not in said

    graph = copied.store / "taught" / "curation-1" / "graph.usearch"
    held = graph.read_bytes()
    graph.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    mended, said = told(copied, capsys, text, "-k", "5")
    assert BUILDING in said, "a file that differs from its digest is not read"
    assert mended == found
    assert main(["taught", text, "--store", str(copied.store), "--texts", "6", "-k", "2"]) == 0
    assert f"1. effect {found['chunks'][0]['effect']:+.4f}" in capsys.readouterr().out


def test_another_version_of_a_table_that_is_read_is_another_index(curated: Curated) -> None:
    delta = curated.place.delta
    curation = find_curation(curation_rows(delta), None, delta)
    settings = IndexSettings()

    def key(**versions: int) -> str:
        row = {**curation.row, "versions": json.dumps(curation.versions | versions)}
        return index_key(Curation(1, row, delta), settings)

    assert key() == index_key(curation, settings)
    assert key(fidelity=99) == key()
    assert len({key(), *(key(**{each: 99}) for each in ("pruned_corpus", "tasks", "proxy_checkpoints"))}) == 4
    assert index_key(curation, replace(settings, texts=7)) != key()
    with pytest.raises(InputError, match="published nothing"):
        index_key(Curation(1, {**curation.row, "published": False}, delta), settings)


def test_what_cannot_be_looked_up_is_said_in_a_sentence(
    curated: Curated, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["taught", "x", "--store", str(tmp_path)]) == 1
    assert "the store has no curations yet" in capsys.readouterr().err
    monkeypatch.setenv("GRASP_STORE", str(curated.place.store))
    assert main(["taught", "x", "--curation", "7"]) == 1
    assert "there is no curation 7" in capsys.readouterr().err
    assert not (curated.place.store / "taught").exists()
