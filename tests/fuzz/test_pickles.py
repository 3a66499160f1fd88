"""Folders with pickled files are refused before anything in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from cases import CASES
from toys import tiny_model

from grasp_pipeline.config import ProxyConfig, TokenizerConfig
from grasp_pipeline.corpus.tokenizer import load_pretrained
from grasp_pipeline.errors import GraspError
from grasp_pipeline.proxy.presets import build_model, load_model

pytestmark = pytest.mark.slow


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple:
        return Path.touch, (self.sprung,)


@pytest.fixture
def trapped(tmp_path: Path) -> tuple[Path, Path]:
    """A folder as a model's or a tokenizer's, with pickles in the place of data; and what they would leave."""
    folder, sprung = tmp_path / "folder", tmp_path / "sprung"
    model = tiny_model("llama").model
    model.config.save_pretrained(folder)
    for name in ("pytorch_model.bin", "model.safetensors", "tokenizer.json", "tokenizer.model", "vocab.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(sprung)))
    torch.save({"weights": Trap(sprung)}, folder / "model.pt")
    return folder, sprung


def test_a_checkpoint_folder_of_pickles_is_refused(trapped: tuple[Path, Path]) -> None:
    folder, sprung = trapped
    for name in ("model.safetensors", None):
        with pytest.raises(GraspError):
            load_model(folder)
        with pytest.raises(GraspError):
            build_model(ProxyConfig(checkpoint=str(folder)), 61, 12)
        if name is not None:
            (folder / name).unlink()  # then the pickled weights alone are left
    assert not sprung.exists()


def test_a_tokenizer_folder_of_pickles_is_refused(trapped: tuple[Path, Path]) -> None:
    folder, sprung = trapped
    with pytest.raises(GraspError):
        load_pretrained(TokenizerConfig(name=str(folder)))
    assert not sprung.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_ten_thousand_cases_are_generated() -> None:
    assert sum(CASES.values()) >= 10_000
