"""Presets, checkpoints on disk, and the reference training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import LENGTH, VOCAB, random_pool, tiny_model

from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.proxy.presets import build_model, load_model, model_summary
from grasp_pipeline.proxy.reference import file_digest, train_reference
from grasp_pipeline.proxy.training import Recipe


def test_tiny_has_about_two_hundred_thousand_parameters() -> None:
    assert 180_000 < model_summary(build_model(ProxyConfig(), 2048, 128))["parameters"] < 260_000


@pytest.mark.parametrize("preset", ["tiny", "gpt2-tiny", "pythia-14m"])
def test_presets_are_seeded(preset: str) -> None:
    models = [build_model(ProxyConfig(preset=preset, seed=seed), 300, 16) for seed in (0, 0, 1)]  # type: ignore[arg-type]
    first, same, other = (next(iter(model.parameters())) for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    CausalLM(models[0])


def test_building_a_model_leaves_torchs_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_model(ProxyConfig(), 300, 16)
    assert torch.equal(torch.rand(4), expected)


def test_checkpoints_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tiny_model("llama").model.save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=rf"has {VOCAB} token embeddings, but the tokenizer has 300.*tokenizer\.name"
    ):
        build_model(ProxyConfig(checkpoint=str(tmp_path)), 300, 16)
    with pytest.raises(ConfigError, match=r"takes 64 tokens at most, but chunks need 101.*chunk_tokens"):
        build_model(ProxyConfig(checkpoint=str(tmp_path)), VOCAB, 100)
    with pytest.raises(InputError, match=r"checkpoint '.*nowhere' cannot be loaded.*give a folder"):
        build_model(ProxyConfig(checkpoint=str(tmp_path / "nowhere")), 300, 16)
    assert build_model(ProxyConfig(checkpoint=str(tmp_path)), VOCAB, 16).config.vocab_size == VOCAB


def test_reference_training_saves_three_states_that_load_again(tmp_path: Path) -> None:
    objective = tiny_model("llama")
    initial = {name: p.clone() for name, p in objective.parameters().items()}
    pool = random_pool(60)
    recipe = Recipe(30, 4, LENGTH, 1e-2, 0.1, 0.0, 1.0)
    held = pad_chunks([pool.chunk(i) for i in range(8)], 0, LENGTH)
    seen: list[int] = []
    checkpoints = train_reference(
        objective.model,
        pool,
        np.arange(60),
        recipe,
        0.33,
        0,
        0,
        held,
        tmp_path,
        progress=lambda t, _: seen.append(t),
    )
    assert [c.role for c in checkpoints] == ["initial", "early", "reference"]
    assert [c.tokens_seen for c in checkpoints] == [0, 10 * 4 * LENGTH, recipe.tokens]
    assert seen[-1] == recipe.tokens
    assert checkpoints[2].validation_loss < checkpoints[0].validation_loss
    assert len({c.sha256 for c in checkpoints}) == 3
    for checkpoint in checkpoints:
        assert file_digest(checkpoint.folder / "model.safetensors") == checkpoint.sha256
        assert not list(checkpoint.folder.glob("*.bin"))
    loaded = CausalLM(load_model(tmp_path / "initial")).parameters()
    for name, value in initial.items():
        assert torch.equal(loaded[name], value)
