"""Every command and every piece of code of docs/method.md runs on a toy corpus."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_readme import place, run, toy_config, write_arrivals
from toys import write_toy_corpus

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "method.md").read_text()

__all__ = ["place"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_commands_are_the_ones_tested_here() -> None:
    assert [line for block in blocks("sh") for line in block.splitlines()] == [
        ".venv/bin/python -m assets.run apply_filter --config config/apply_filter.yaml",
        ".venv/bin/dagster job launch -w workspace.yaml -j apply_filter -c config/apply_filter.yaml",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reading_the_reasons_and_filtering_new_files(place: dict[str, str], tmp_path: Path) -> None:
    corpus, tasks = write_toy_corpus(tmp_path, 24)
    config, wanted = tmp_path / "corpus.yaml", tmp_path / "filter.yaml"
    one_thread = {"compute": {"config": {"device": "cpu", "threads": 1}}}
    config.write_text(yaml.safe_dump(toy_config(corpus, tasks) | {"resources": one_thread}))
    wanted.write_text(yaml.safe_dump(write_arrivals(tmp_path) | {"resources": one_thread}))
    store = tmp_path / "store"
    env = place | {"GRASP_STORE": str(store)}
    run(f"{sys.executable} -m assets.run curate --config {config}", env)
    told = run(f"{sys.executable} -m assets.run apply_filter --config {wanted}", env)
    assert "20 documents scored" in " ".join(told.split())
    # What `job launch` queues, the daemon executes: the same job with the same file.
    run(
        f"{Path(sys.executable).parent}/dagster job execute -m grasp_pipeline.definitions -j apply_filter -c {wanted}",
        env,
    )
    for code in blocks("python"):
        here = code.replace('"store/', f'"{store}/')
        shown = subprocess.run(
            [sys.executable, "-c", here], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert shown.stdout
