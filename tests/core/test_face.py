"""The public face: every name is there, nothing heavy is loaded for it, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import grasp_pipeline

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", grasp_pipeline.__all__)
def test_every_name_is_what_its_module_defines(name: str) -> None:
    found = getattr(grasp_pipeline, name)
    assert found.__name__ == name
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = grasp_pipeline.nonsense


def test_the_example_selects_a_corpus_that_beats_a_random_one() -> None:
    command = [sys.executable, "-W", "ignore", "examples/select_corpus.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    rows = re.findall(r"(\w+): predicted (\S+), loss of the other half (\S+) nats", done.stdout)
    found = {name: (float(predicted), float(loss)) for name, predicted, loss in rows}
    assert set(found) == {"selected", "random"}
    assert found["selected"][0] > found["random"][0]
    assert found["selected"][1] < found["random"][1]
