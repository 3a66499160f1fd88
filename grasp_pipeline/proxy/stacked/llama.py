"""Hidden states of K stacked Llama models, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grasp_pipeline.proxy.stacked.layers import Backward, Layers, attention, rotary, swiglu

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StackedLlama:
    """The body of a transformers Llama (`LlamaModel`), for K sets of weights at once."""

    def __init__(self, body: PreTrainedModel) -> None:
        """Take the shape and the rotary frequencies of a body that `supported` accepts."""
        config: Any = body.config
        self._layers = int(config.num_hidden_layers)
        self._eps = float(config.rms_norm_eps)
        self._angles: Any = body.get_submodule("rotary_emb")

    @staticmethod
    def supported(body: PreTrainedModel) -> bool:
        """Whether a body is computed here: transformers' own Llama with SwiGLU and without dropout.

        Rotary settings do not matter: angles come from the body's own module.
        """
        from transformers import LlamaModel

        config = body.config
        dropout = body.training and config.attention_dropout
        return type(body) is LlamaModel and config.hidden_act == "silu" and not dropout

    def run(self, layers: Layers, inputs: Tensor, keep: bool) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Map token ids (K, B, L) to hidden states (K, B, L, H).

        Args:
            layers: the body's weights, by their names in `LlamaModel`.
            inputs: token ids.
            keep: whether backward will be called.

        Returns:
            The hidden states, and a function that takes their gradient and leaves those of the weights in `layers`.
        """
        models, batch, length = inputs.shape
        x, embedded = layers.embedding(inputs.flatten(1), "embed_tokens")
        angles = self._angles(x, torch.arange(length, device=x.device).unsqueeze(0))
        cos, sin = (half[0, :, None].chunk(2, -1)[0] for half in angles)
        blocks = []
        for index in range(self._layers):
            x, backward = self._block(layers, x, f"layers.{index}", (models * batch, length), cos, sin)
            if keep:
                blocks.append(backward)
        x, normed = layers.rms_norm(x, "norm", self._eps)

        def pull(grad: Tensor) -> None:
            grad = normed(grad.flatten(1, 2))
            while blocks:
                grad = blocks.pop()(grad)
            embedded(grad)

        return x.unflatten(1, (batch, length)), pull

    def _block(
        self, layers: Layers, x: Tensor, name: str, rows: tuple[int, int], cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Backward]:
        heads = (*rows, -1, 2 * cos.shape[-1])
        y, normed = layers.rms_norm(x, f"{name}.input_layernorm", self._eps)
        query, queried = layers.linear(y, f"{name}.self_attn.q_proj")
        key, keyed = layers.linear(y, f"{name}.self_attn.k_proj")
        value, valued = layers.linear(y, f"{name}.self_attn.v_proj")
        query, turned_query = rotary(query.view(heads), cos, sin)
        key, turned_key = rotary(key.view(heads), cos, sin)
        mixed, attended = attention(query, key, value.view(heads))
        out, projected = layers.linear(mixed.reshape(*y.shape[:2], -1), f"{name}.self_attn.o_proj")
        x = x + out
        y, normed_again = layers.rms_norm(x, f"{name}.post_attention_layernorm", self._eps)
        gate, gated = layers.linear(y, f"{name}.mlp.gate_proj")
        up, upped = layers.linear(y, f"{name}.mlp.up_proj")
        inner, multiplied = swiglu(gate, up)
        out, downed = layers.linear(inner, f"{name}.mlp.down_proj")

        def backward(grad: Tensor) -> Tensor:
            d_gate, d_up = multiplied(downed(grad.to(layers.dtype)))
            grad = normed_again(upped(d_up, gated(d_gate))).add_(grad)
            d_mixed = projected(grad.to(layers.dtype)).view(mixed.shape)
            d_query, d_key, d_value = attended(d_mixed)
            d_query, d_key = turned_query(d_query), turned_key(d_key)
            total = queried(d_query.reshape(query_shape))
            total = keyed(d_key.reshape(key_shape), total)
            return normed(valued(d_value.reshape(key_shape), total)).add_(grad)

        flat = y.shape[:2]
        query_shape, key_shape = (
            (*flat, query.shape[-2] * query.shape[-1]),
            (*flat, key.shape[-2] * key.shape[-1]),
        )
        return x + out, backward
