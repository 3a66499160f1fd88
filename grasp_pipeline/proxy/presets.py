"""Proxy language models by preset or checkpoint, built with transformers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.errors import ConfigError, InputError, StoreError, boundary
from grasp_pipeline.locations import folder_or_hub_name
from grasp_pipeline.seeds import seed_for

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_BUILDING = threading.Lock()
"""Held while a checkpoint is loaded: transformers replaces initialisation for the whole process meanwhile."""

_NAMED = 4
"""Most weights that are named in a refusal."""

# hidden size, layers, heads, intermediate size, standard deviation of the initial weights. `tiny` starts at about
# 1/sqrt(hidden size): at transformers' default of 0.02 a model this narrow spends most of a short training on scale.
# The Pythia shapes are those of arXiv 2304.01373, table 1.
# `tiny-4x` has four times the parameters of `tiny` at a vocabulary of 512.
_LLAMA_SHAPES = {
    "tiny": (64, 2, 2, 176, 0.1),
    "tiny-4x": (128, 2, 4, 440, 0.08),
    "small": (256, 6, 8, 688, 0.02),
}
_GPT2_SHAPES = {"gpt2-tiny": (64, 2, 2, 0.1)}
_NEOX_SHAPES = {
    "pythia-14m": (128, 6, 4, 512),
    "pythia-70m": (512, 6, 8, 2048),
    "pythia-160m": (768, 12, 12, 3072),
}


def preset_config(preset: str, vocab_size: int, positions: int) -> PretrainedConfig:
    """Return the transformers configuration of a preset.

    Args:
        preset: name as in `ProxyConfig.preset`.
        vocab_size: size of the tokenizer's vocabulary.
        positions: longest sequence, in tokens.
    """
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig

    if preset in _LLAMA_SHAPES:
        hidden, layers, heads, inner, spread = _LLAMA_SHAPES[preset]
        return LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=positions,
            initializer_range=spread,
            tie_word_embeddings=True,
            use_cache=False,
        )
    if preset in _GPT2_SHAPES:
        hidden, layers, heads, spread = _GPT2_SHAPES[preset]
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=positions,
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            # The same function as GPT-2's gelu_new, in one kernel.
            activation_function="gelu_pytorch_tanh",
            initializer_range=spread,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
            use_cache=False,
        )
    if preset in _NEOX_SHAPES:
        hidden, layers, heads, inner = _NEOX_SHAPES[preset]
        return GPTNeoXConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=positions,
            use_cache=False,
        )
    known = ", ".join([*_LLAMA_SHAPES, *_GPT2_SHAPES, *_NEOX_SHAPES])
    raise ConfigError(f"proxy preset {preset!r} is not known; use one of {known}")


def _prepare(model: PreTrainedModel, vocab_size: int, positions: int, name: str) -> PreTrainedModel:
    rows = int(next(model.get_input_embeddings().parameters()).shape[0])
    if rows < vocab_size:
        raise ConfigError(
            f"the checkpoint {name} has {rows} token embeddings, but the tokenizer has {vocab_size} tokens; "
            "set tokenizer.name to the tokenizer the checkpoint was trained with"
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and longest < positions:
        raise ConfigError(
            f"the checkpoint {name} takes {longest} tokens at most, but chunks need {positions}; "
            "lower tokenizer.chunk_tokens"
        )
    model.set_attn_implementation("eager")
    return model.eval()


def build_model(config: ProxyConfig, vocab_size: int, chunk_tokens: int) -> PreTrainedModel:
    """Build the proxy at its initial weights: float32, in evaluation mode (no dropout), on the CPU.

    Args:
        config: preset or checkpoint and seed.
        vocab_size: size of the tokenizer's vocabulary.
        chunk_tokens: tokens per chunk L; sequences hold one token more.

    Raises:
        ConfigError: unknown preset; a checkpoint whose vocabulary or positions do not fit.
        InputError: a checkpoint that cannot be read, or lacks weights, has ones too many or of other shapes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    positions = chunk_tokens + 1
    if config.checkpoint:
        name = folder_or_hub_name("checkpoint", config.checkpoint, "config.json and model.safetensors")
        with boundary(
            InputError,
            f"the checkpoint {config.checkpoint!r} cannot be loaded",
            "give a folder with config.json and model.safetensors, or a hub name that this machine can reach",
        ):
            model, report = _from_pretrained(name, config.trust_remote_code)
        if faults := _faults(report):
            raise InputError(
                f"the checkpoint {config.checkpoint!r} is not the whole model that its config.json describes: "
                f"{faults}. Give a complete causal language model, or correct config.json"
            )
        return _prepare(model, vocab_size, positions, config.checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("proxy", config.preset, config.seed))
        shape = preset_config(config.preset, vocab_size, max(512, positions))
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    return _prepare(model, vocab_size, positions, config.preset)


def load_model(folder: str | Path) -> PreTrainedModel:
    """Load a checkpoint that this pipeline saved (config.json and model.safetensors).

    Raises:
        StoreError: it cannot be read, or weights are missing, left over or of other shapes.
    """
    remedy = "restore the folder, or materialize proxy_checkpoints again"
    with boundary(StoreError, f"the stored checkpoint {folder} cannot be loaded", remedy):
        model, report = _from_pretrained(str(folder), trust_remote_code=False)
    if faults := _faults(report):
        raise StoreError(f"the stored checkpoint {folder} is not the whole model: {faults}; {remedy}")
    model.set_attn_implementation("eager")
    return model.eval()


def _from_pretrained(name: str, trust_remote_code: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load a causal language model in float32 and return it with the loader's report on its weights."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with _BUILDING:
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # the report is read, and told in our words
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(  # its stub knows the model alone
                name,
                dtype=torch.float32,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # so that the report names them; they are refused
                output_loading_info=True,
            )
        finally:
            logging.set_verbosity(before)
    return loaded


def _faults(report: Mapping[str, Any]) -> str:
    """Say which weights the loader did not find (and drew at random), found too many, or found in another shape.

    Tied weights count as found; so do left-over buffers that the architecture is known to have had once.
    """
    faults = []
    for key, told in (("missing_keys", "has no"), ("unexpected_keys", "has, with no place for it,")):
        if names := sorted(report[key]):
            faults.append(f"it {told} {_some(names)}")
    if shapes := sorted(report["mismatched_keys"]):
        sizes = [f"{name} ({_times(found)} instead of {_times(wanted)})" for name, found, wanted in shapes]
        faults.append(f"of another shape is {_some(sizes)}")
    return "; ".join([*faults, *report["error_msgs"]])


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def model_summary(model: PreTrainedModel) -> dict[str, Any]:
    """Return the model's shape for metadata: type, parameters, layers, hidden size, vocabulary."""
    config = model.config
    return {
        "model_type": config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
    }
