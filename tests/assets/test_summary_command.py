"""`python -m assets.run summary`: the answer of a store, without a run; `--json` for machines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from workplace import Curated

from assets import run
from grasp_pipeline import tables
from grasp_pipeline.progress import Line


@pytest.mark.usefixtures("home")
def test_the_answer_is_told_without_a_run(
    curated: Curated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, path = curated.place, tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"resources": {"store": {"config": {"root": str(place.store)}}}}))
    before = place.delta_versions()
    assert run.main(["summary", "--json", "--config", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    head = place.read(tables.CERTIFICATES).row(0, named=True)
    assert told["shipped"]["arm"] == head["arm"]
    assert told["statement"] == head["statement"]
    assert told["kept"]["tokens"] == place.read(tables.PRUNED_CORPUS)["kept_tokens"].sum()
    assert told["curation"] == 1
    assert told["measured_with"]["architecture"] == "llama"
    assert told["measured_with"]["parameters"] > 10_000
    assert told["report"] == (place.store / "report/report.html").as_uri()
    assert run.main(["summary", "--config", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.split("\n")[1] in ("CERTIFIED", "NOT CERTIFIED")
    assert told["report"] in text
    assert place.delta_versions() == before


def test_in_a_pipe_a_message_is_one_line() -> None:
    console = Console(file=io.StringIO(), width=40)
    run.tell(console, 65, "a long sentence " * 20, 2)
    run.tell(console, 66, Line("progress: 3 of 4 " * 10), 2)
    assert isinstance(console.file, io.StringIO)
    assert len(console.file.getvalue().splitlines()) == 2
