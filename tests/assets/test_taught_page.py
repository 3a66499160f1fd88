"""The page that asks which kept chunks taught a sentence: it builds nothing, and answers as the command does."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient
from workplace import Workplace

from assets.browse import make_app
from grasp_pipeline import tables
from grasp_pipeline.__main__ import main


def test_the_page_answers_as_the_command_does_once_the_index_is_there(
    copied: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    chunk = copied.read(tables.PRUNED_CORPUS).row(0, named=True)
    text = copied.read(tables.DOCUMENTS).filter(doc_id=chunk["doc_id"])["text"][0][:60]
    client = TestClient(make_app(copied.delta))
    asked = client.get("/taught")
    assert asked.status_code == 200
    assert 'name="text"' in asked.text
    before = client.get("/taught", params={"text": "it's <b>bold</b>"})
    assert "There is no index of curation 1 yet" in before.text
    assert "<b>bold" not in before.text
    assert not (copied.store / "taught").exists()

    assert main(["taught", text, "--store", str(copied.store), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = client.get("/taught", params={"text": text})
    assert found.status_code == 200
    places = [found.text.index(f"/explain?id={each['chunk_id']}") for each in told["chunks"]]
    assert places == sorted(places)
    assert f"{told['chunks'][0]['effect']:+.4f}" in found.text
    assert client.get("/taught", params={"text": text, "curation": "9"}).status_code == 400
