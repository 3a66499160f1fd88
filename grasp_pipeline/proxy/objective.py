"""What an example is, what its loss is, and how parameters enter: the seam between data and everything above.

`Objective` is what training, evaluation and sketching need to know; `CausalLM` is its form for language models.
An example is one chunk: `[BOS, token_1 .. token_n]`, padded on the right to `L + 1` tokens; its loss is the mean
cross-entropy of the n tokens, in nats per token. With causal attention padding on the right changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.stacked import stacked_body, stacked_hidden

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Parameters = dict[str, Tensor]

_FUSED = "fused_causal"


class Objective(Protocol):
    """A model family with its loss, as pure functions of parameters."""

    def parameters(self) -> Parameters:
        """Return the current parameters by name, tied ones once."""
        ...

    def hidden(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """Map inputs (B, L) to the representations (B, L, H) that the output layer reads."""
        ...

    def stacked_hidden(self, weights: Parameters, inputs: Tensor) -> Tensor:
        """Map inputs (K, B, L), or (B, L) for all, to (K, B, L, H) under K stacked models: `hidden` of each."""
        ...

    def output_weight(self, parameters: Parameters) -> Tensor:
        """Return the output layer's weight (V, H): one of the parameters, possibly the input embedding too."""
        ...


def mapped_hidden(objective: Objective, weights: Parameters, inputs: Tensor) -> Tensor:
    """Return `Objective.stacked_hidden` by `vmap` of `Objective.hidden`: right for every objective."""
    return vmap(objective.hidden, in_dims=(0, None if inputs.dim() == 2 else 0))(weights, inputs)


class CausalLM:
    """A transformers causal language model as an `Objective`."""

    def __init__(self, model: PreTrainedModel) -> None:
        head = model.get_output_embeddings()
        prefix = model.base_model_prefix
        if head is None or getattr(head, "bias", None) is not None or not hasattr(model, prefix):
            raise ConfigError(
                f"models of type {model.config.model_type!r} are not supported as a proxy: the output layer must be "
                "linear without bias on top of a base model; use a GPT-2, Llama, GPT-NeoX or Qwen-like one"
            )
        self.model = model
        self._body = getattr(model, prefix)
        self._prefix = prefix + "."
        self._stacked = stacked_body(self._body)
        self._can_fuse = model._supports_sdpa and model._supports_attention_backend
        names = {id(p): name for name, p in model.named_parameters()}
        self.output_name = names[id(head.weight)]
        self.vocab_size = int(head.weight.shape[0])
        self.hidden_size = int(head.weight.shape[1])

    @property
    def tied(self) -> bool:
        """Whether the output weight is the input embedding too."""
        embedding = self.model.get_input_embeddings().get_parameter("weight")
        return embedding is self.model.get_parameter(self.output_name)

    @property
    def written_out(self) -> bool:
        """Whether stacked hidden states have a written-out form, or are mapped."""
        return self._stacked is not None

    def parameters(self) -> Parameters:
        """Return the model's parameters, detached; tied ones once."""
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def hidden(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """Map token ids (B, L) to final hidden states (B, L, H).

        Under `torch.func` attention is the model's own with an explicit mask, since vmap has no rule for fused
        attention; elsewhere it is fused where the model allows it, which is the same but for rounding.
        """
        batch, length = inputs.shape
        arguments: dict[str, Any] = {
            "input_ids": inputs,
            "position_ids": torch.arange(length, device=inputs.device).unsqueeze(0),
            "use_cache": False,
        }
        body = self._body_of(parameters)
        if self._can_fuse and not torch._C._are_functorch_transforms_active():
            with _fused_attention(self.model.config):
                return functional_call(self._body, body, (), arguments).last_hidden_state
        dtype = parameters[self.output_name].dtype
        blocked = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype, device=inputs.device)
        arguments["attention_mask"] = torch.triu(blocked, diagonal=1).expand(batch, 1, length, length)
        return functional_call(self._body, body, (), arguments).last_hidden_state

    def stacked_hidden(self, weights: Parameters, inputs: Tensor) -> Tensor:
        """Map token ids (K, B, L), or (B, L) for all, to (K, B, L, H): written out for Llama, else by `vmap`."""
        if self._stacked is None:
            return mapped_hidden(self, weights, inputs)
        models = weights[self.output_name].shape[0]
        return stacked_hidden(
            self._stacked, self._body_of(weights), inputs.expand(models, *inputs.shape[-2:])
        )

    def _body_of(self, parameters: Parameters) -> Parameters:
        cut = len(self._prefix)
        return {name[cut:]: p for name, p in parameters.items() if name.startswith(self._prefix)}

    def output_weight(self, parameters: Parameters) -> Tensor:
        """Return the output embedding (V, H)."""
        return parameters[self.output_name]


@contextmanager
def _fused_attention(config: PretrainedConfig) -> Iterator[None]:
    """Let a model compute causal attention by torch's fused kernels while the body runs."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Under a name without a mask function transformers makes no mask, and fused attention is causal without one.
    # Under its own name, "sdpa", it would look for packed sequences first, and wait for the device.
    AttentionInterface.register(_FUSED, sdpa_attention_forward)
    before = config._attn_implementation
    config._attn_implementation = _FUSED
    try:
        yield
    finally:
        config._attn_implementation = before


def pad_chunks(chunks: list[list[int]], bos: int, length: int) -> tuple[Tensor, Tensor]:
    """Lay chunks out for `Objective`: rows `[BOS, tokens..., 0...]` of `length + 1` and token counts.

    Returns:
        (B, length + 1) int64 and (B,) int64.
    """
    rows = torch.zeros((len(chunks), length + 1), dtype=torch.int64)
    rows[:, 0] = bos
    sizes = torch.tensor([len(chunk) for chunk in chunks], dtype=torch.int64)
    for row, chunk in enumerate(chunks):
        rows[row, 1 : 1 + len(chunk)] = torch.tensor(chunk, dtype=torch.int64)
    return rows, sizes
