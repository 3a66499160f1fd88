"""Presets, checkpoints on disk, and the reference training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import LENGTH, VOCAB, random_pool, tiny_model

from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.errors import ConfigError, InputError, StoreError
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
    with pytest.raises(InputError, match=r"checkpoint '.*nowhere' does not exist; give a folder"):
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
        0,
        0,
        held,
        tmp_path,
        progress=lambda t, _: seen.append(t),
    )
    assert [c.role for c in checkpoints] == ["initial", "reference"]
    assert [c.tokens_seen for c in checkpoints] == [0, recipe.tokens]
    assert seen[-1] == recipe.tokens
    assert checkpoints[1].validation_loss < checkpoints[0].validation_loss
    assert len({c.sha256 for c in checkpoints}) == 2
    for checkpoint in checkpoints:
        assert file_digest(checkpoint.folder / "model.safetensors") == checkpoint.sha256
        assert not list(checkpoint.folder.glob("*.bin"))
    loaded = CausalLM(load_model(tmp_path / "initial")).parameters()
    for name, value in initial.items():
        assert torch.equal(loaded[name], value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A whole, untied checkpoint of two layers, as another program would leave it."""
    tiny_model("neox").model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def edit_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def drop(part: str) -> Callable[[Path], None]:
    """Remove the weights whose names hold a part."""

    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if part in name]:
            del weights[name]

    return lambda folder: edit_weights(folder, change)


def only_the_base_model(folder: Path) -> None:
    tiny_model("neox").model.base_model.save_pretrained(folder)


def another_shape(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"embed_out.weight": torch.zeros(VOCAB, 9)}))


def cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def not_all_shards(folder: Path) -> None:
    tiny_model("neox").model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    next(folder.glob("model-00002-*")).unlink()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (drop("layers.1."), r"has no gpt_neox\.layers\.1\.attention\.dense\.bias, .* and \d+ more"),
        (drop("embed_out"), r"has no lm_head\.weight\. "),
        (drop("embed_in"), r"has no gpt_neox\.embed_in\.weight\. "),
        (only_the_base_model, r"has no lm_head\.weight\. Give a complete causal language model"),
        (lambda folder: edit_config(folder, num_hidden_layers=3), r"has no gpt_neox\.layers\.2\."),
        (lambda folder: edit_config(folder, num_hidden_layers=1), r"no place for it, gpt_neox\.layers\.1\."),
        (another_shape, rf"another shape is lm_head\.weight \({VOCAB} x 9 instead of {VOCAB} x 16\)"),
        (lambda folder: edit_config(folder, hidden_size=8), r"another shape is .*16 instead of 8"),
        (cut("model.safetensors"), r"cannot be loaded \(.*give a folder"),
        (cut("config.json"), r"cannot be loaded \(.*give a folder"),
        (
            lambda folder: edit_config(folder, model_type="unheard"),
            r"cannot be loaded \(.*unheard.*give a folder",
        ),
        (lambda folder: edit_config(folder, num_attention_heads=0), r"cannot be loaded \(.*give a folder"),
        (lambda folder: (folder / "config.json").unlink(), r"cannot be loaded \(.*give a folder"),
        (pickled, r"cannot be loaded \(.*model\.safetensors.*give a folder"),
        (not_all_shards, r"cannot be loaded \(.*give a folder"),
    ],
)
def test_only_whole_checkpoints_are_loaded(
    saved: Path, harm: Callable[[Path], None], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Weights that are not in the file would be drawn at random, from no seed."""
    harm(saved)
    with pytest.raises(InputError, match=told) as refused:
        build_model(ProxyConfig(checkpoint=str(saved)), VOCAB, 16)
    assert f"the checkpoint '{saved}'" in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(StoreError, match=r"stored checkpoint .*; restore the folder"):
        load_model(saved)
    assert "REPORT" not in "".join(capfd.readouterr())  # transformers' own table


@pytest.mark.parametrize("kind", ["llama", "gpt2", "neox", "qwen2"])
def test_tied_weights_are_not_missing(kind: str, tmp_path: Path) -> None:
    objective = tiny_model(kind)
    objective.model.save_pretrained(tmp_path)
    built = CausalLM(build_model(ProxyConfig(checkpoint=str(tmp_path)), VOCAB, 16)).parameters()
    assert built.keys() == objective.parameters().keys()
    assert all(torch.equal(built[name], value) for name, value in objective.parameters().items())


def test_a_checkpoint_is_a_folder_that_exists(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        build_model(ProxyConfig(checkpoint=name), VOCAB, 16)

    monkeypatch.setattr(
        "transformers.AutoModelForCausalLM.from_pretrained", lambda *_, **__: pytest.fail("asked")
    )
    with pytest.raises(InputError, match=r"is a file; give the folder"):
        load(str(saved / "model.safetensors"))
    for absent in (str(saved / "nowhere"), "./nowhere", "~/no-such-model", "a/relative/folder"):
        with pytest.raises(InputError, match=f"checkpoint '{absent}' does not exist; give a folder"):
            load(absent)
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(saved.parent))
    load("~/model")
