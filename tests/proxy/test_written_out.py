"""Stacked models written out, forward and backward, against `vmap` of transformers' modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import LENGTH, VOCAB, tiny_model

from grasp_pipeline.proxy.objective import CausalLM, Parameters, mapped_hidden
from grasp_pipeline.proxy.presets import preset_config

MODELS, BATCH = 3, 2

ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
LLAMAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped queries": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "one key for all": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "wide heads": {"head_dim": 12},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "untied": {"tie_word_embeddings": False},
    "norms": {"rms_norm_eps": 0.1},
    **{name: {"rope_parameters": {"rope_theta": 500.0, **rope}} for name, rope in ROPES.items()},
}


def llama(**changes: Any) -> CausalLM:
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**shape, **changes}), dtype=torch.float32)
    model.set_attn_implementation("eager")
    return CausalLM(model.eval())


def preset(name: str) -> CausalLM:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(preset_config(name, VOCAB, 64), dtype=torch.float32)
    model.set_attn_implementation("eager")
    return CausalLM(model.eval())


def stacked_weights(objective: CausalLM) -> Parameters:
    """K different models, their parameters far enough from each other and from 0 and 1 to be told apart."""
    source = torch.Generator().manual_seed(0)
    return {
        name: (p + 0.1 * torch.randn(MODELS, *p.shape, generator=source)).requires_grad_()
        for name, p in objective.parameters().items()
    }


def token_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(1))


def hidden_and_gradients(hidden: torch.Tensor, weights: Parameters) -> tuple[torch.Tensor, Parameters]:
    pull = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(hidden, list(weights.values()), pull, allow_unused=True)
    return hidden.detach(), {n: g for n, g in zip(weights, gradients, strict=True) if g is not None}


def check(objective: CausalLM) -> None:
    weights, ids = stacked_weights(objective), token_ids(MODELS, BATCH, LENGTH)
    hidden, gradients = hidden_and_gradients(objective.stacked_hidden(weights, ids), weights)
    slow, slow_gradients = hidden_and_gradients(mapped_hidden(objective, weights, ids), weights)
    torch.testing.assert_close(hidden, slow, rtol=1e-4, atol=2e-5)
    assert gradients.keys() == slow_gradients.keys()
    for name, gradient in gradients.items():
        scale = float(slow_gradients[name].abs().max())
        torch.testing.assert_close(gradient, slow_gradients[name], rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("changes", LLAMAS.values(), ids=LLAMAS.keys())
def test_every_llama_is_that_of_transformers(changes: dict[str, Any]) -> None:
    objective = llama(**changes)
    assert objective.written_out
    check(objective)


@pytest.mark.parametrize("name", ["tiny", "tiny-4x", "small", "gpt2-tiny", "pythia-14m"])
def test_every_preset_is_that_of_transformers(name: str) -> None:
    check(preset(name))


def test_what_is_not_written_out_is_mapped() -> None:
    assert not llama(hidden_act="gelu").written_out
    assert not tiny_model("qwen2").written_out
    noisy = llama(attention_dropout=0.5)
    assert noisy.written_out
    assert not CausalLM(noisy.model.train()).written_out


@pytest.mark.parametrize("changes", [LLAMAS["plain"], LLAMAS["grouped queries"]], ids=["plain", "grouped"])
def test_inputs_of_all_models_without_gradients(changes: dict[str, Any]) -> None:
    objective, ids = llama(**changes), token_ids(BATCH, LENGTH)
    weights = stacked_weights(objective)
    with torch.no_grad():
        shared = objective.stacked_hidden(weights, ids)
        assert not shared.requires_grad
        for k in range(MODELS):
            alone = objective.hidden({name: p[k] for name, p in weights.items()}, ids)
            torch.testing.assert_close(shared[k], alone, rtol=1e-4, atol=2e-5)
