"""The whole project in a folder whose name is no URI: jobs, exports, and what the README reads."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import polars as pl
import pytest
from toys import write_toy_corpus
from workplace import Workplace

from grasp_pipeline import tables
from resources.sketches import SketchReader

README = Path(__file__).resolve().parents[2] / "README.md"
ODD = "/".join(["my folder", "100%", "größe", unicodedata.normalize("NFD", "größe"), "it's {語}, a:b +&;~"])


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_every_job_runs_in_a_folder_of_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ODD
    folder.mkdir(parents=True)
    write_toy_corpus(folder, 24)
    place = Workplace(folder)
    place.sections["export"] = {"formats": ["parquet", "jsonl", "huggingface", "tokens"]}
    assert place.run_in_terminal() == 0
    told = capsys.readouterr().out
    printed = re.search(r"report  (file://.*report\.html)", told)
    assert printed is not None
    report = Path(url2pathname(urlsplit(printed[1]).path))
    assert report == place.store / "report" / "report.html"
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert f"tables  {place.store}" in told
    assert [path.name for path in tmp_path.iterdir()] == ["my folder"]

    pruned = place.read(tables.PRUNED_CORPUS)
    version = place.delta.pin(tables.GRADIENT_SKETCHES).version
    assert SketchReader(place.delta, version, "output").n > pruned.height
    exported = pl.read_parquet(place.store / "export" / "corpus.parquet", glob=False)
    fragments = json.loads((place.store / "export" / "manifest.json").read_text(encoding="utf-8"))["left_out"]
    assert exported["n_tokens"].sum() + fragments["tokens"] == pruned["kept_tokens"].sum()

    monkeypatch.chdir(folder)
    snippet = re.search(
        r"```python\n(import polars as pl.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert snippet is not None
    read: dict[str, object] = {}
    exec(snippet[1], read)  # the README's own words
    assert isinstance(kept := read["kept"], pl.DataFrame)
    assert kept.sort("chunk_id").equals(pruned.sort("chunk_id").select(kept.columns))

    for job in ("recurate", "fidelity"):
        assert place.run_in_terminal(job=job) == 0
