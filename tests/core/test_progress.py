"""Lines of a run in the terminal: one line each where they report progress, and no library's bar between them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from assets.run import tell
from grasp_pipeline.progress import Line, Progress


def line() -> Line:
    now = [0.0]
    progress = Progress("retraining the sealed subsets", 5_819_006, "tokens", every=1, clock=lambda: now[0])
    now[0] = 60.0
    progress.advance(2_002_951)
    return progress.line()


def test_a_line_gives_up_its_rate_first_and_is_cut_at_last() -> None:
    whole = line()
    assert whole.within(200) == whole
    assert whole.within(len(whole) - 1) == (
        "retraining the sealed subsets: 2,002,951 of 5,819,006 tokens, 1 min 54 s left"
    )
    assert whole.within(60) == "retraining the sealed subsets: 34%, 1 min 54 s left"
    assert whole.within(20) == "retraining the seal…"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [50, 60, 80, 100, 200])
def test_progress_never_wraps_and_a_sentence_stays_whole(width: int, terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False)
    tell(console, 3661, line(), 2)
    sentence = "at most 20 retrainings are ahead for the finalists; finalists.max_retrainings limits them"
    tell(console, 3662, sentence, 2)
    assert isinstance(console.file, io.StringIO)
    first, *rest = console.file.getvalue().splitlines()
    assert len(first) <= width
    assert first.startswith("  1 h 01 min    retraining")
    if terminal:
        assert max(map(len, rest)) <= width
    else:  # in a pipe or a file a sentence is a line, as who searches it wants
        assert len(rest) == 1
    assert " ".join(" ".join(rest).split()).endswith(sentence)


def test_no_bar_of_a_library_is_shown() -> None:
    """As `assets.run` starts: a model is saved and a data set mapped without a word on standard error."""
    code = """
from grasp_pipeline.progress import quiet_libraries
quiet_libraries()
import sys, tempfile, torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig
config = LlamaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(folder)
Dataset.from_dict({"x": [1, 2]}).map(lambda row: row)
list(tqdm([1, 2]))
"""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith("PROGRESS_BARS") and name != "TQDM_DISABLE"
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=clean | {"HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "it/s" not in done.stderr
    assert "%|" not in done.stderr
