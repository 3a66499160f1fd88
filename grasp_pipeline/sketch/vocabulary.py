"""The output layer's error p - e_y, projected over the vocabulary without holding the logits.

Projection. A *count sketch* (Charikar, Chen and Farach-Colton 2002; feature hashing, arXiv 0902.2206) adds the entry
of token v to bucket h(v) of a with a sign s(v): A (V, a) has one entry +-1 per row. Here the hash is *balanced*: a
seeded permutation deals the tokens out to C = 2a columns like cards, the i-th token of the permutation to column
i mod C; column c < a is the positive half of bucket c, column c >= a the negative half of bucket c - a. With the rows
of the weight in the permutation's order, A'p is a sum over rows of C contiguous logits, and a difference of halves.

Bias. For tokens u != v, with n+ and n- the tokens in the two halves of a bucket,

    E[A_u . A_v] = P(same half) - P(other half of the same bucket)
                 = sum_buckets [n+ (n+ - 1) + n- (n- - 1) - 2 n+ n-] / (V (V - 1)) = -(V - D) / (V (V - 1)) = -k,

where D = sum_buckets (n+ - n-)^2 <= a counts the buckets with uneven halves, so 0 < k <= 1 / (V - 1), and

    E <A'x, A'y> = (1 + k) <x, y> - k (sum x) (sum y).

The entries of p - e_y sum to zero: inner products of projected errors, and so of projected gradients, are unbiased
but for the common factor 1 + k = 1 + O(1/V). Their variance is that of a count sketch, about
(|x|^2 |y|^2 + <x, y>^2) / a, as it is for dense signs.

Softmax. The vocabulary is read in blocks. A softmax over all of it is a mixture of softmaxes over blocks b, with
weights exp(l_b - l), where l_b is the logsumexp of a block and l of all: a running mean in which no exponential can
overflow (online softmax, arXiv 1805.02867). l_b = max z - log max p, both over the block, as max p >= 1 / block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grasp_pipeline.seeds import seed_for

# Most tokens at once, and most logits. On a CPU a block of logits stays in the second-level cache.
_CPU_TOKENS, _CPU_LOGITS = 512, 2**17
_ACCELERATOR_TOKENS, _ACCELERATOR_LOGITS = 2**13, 2**25


class CountSketch:
    """A balanced count sketch of vectors over a vocabulary; the identity where that is not larger.

    size: V, the vocabulary. buckets: a, the coordinates. columns: C, signed halves of buckets: 2a, or V if smaller.
    order: (V,) int64, the tokens in the order of the permutation; the token at place i belongs to column i mod C.
    place: (V,) int64, the place of each token.
    """

    def __init__(self, size: int, buckets: int, *name: str | int) -> None:
        """Draw the hash, seeded by name. When buckets >= size it is the identity, with size buckets."""
        self.size = size
        self.buckets = min(buckets, size)
        self.columns = min(2 * self.buckets, size)
        if self.buckets == size:
            self.order = torch.arange(size)
        else:
            source = torch.Generator().manual_seed(seed_for("count sketch", *name))
            self.order = torch.randperm(size, generator=source)
        self.place = torch.empty_like(self.order)
        self.place[self.order] = torch.arange(size)

    def fold(self, columns: Tensor) -> Tensor:
        """Map sums per column (n, C) to buckets (n, a): positive less negative halves."""
        folded = columns[:, : self.buckets].clone()
        folded[:, : self.columns - self.buckets] -= columns[:, self.buckets :]
        return folded

    def matrix(self) -> Tensor:
        """Return A (V, a) float32, one entry +1 or -1 per row."""
        return self.fold(torch.eye(self.columns))[self.place % self.columns]


class ErrorProjector:
    """Computes A'(p - e_y) and the loss of tokens from their hidden states, at about the price of their logits.

    It holds a copy of the output weight, its rows in the sketch's order, in the weight's own dtype. Beside that a
    call needs a bounded amount of memory, whatever the vocabulary: a few MB on a CPU, some 300 MB on an accelerator.

    tokens: most tokens that one call may be given.
    """

    def __init__(self, weight: Tensor, sketch: CountSketch, tokens: int = 0, logits: int = 0) -> None:
        """Reorder the weight.

        Args:
            weight: (V, H) output weight, on the device to compute on; V as the sketch's size.
            sketch: projection A over the vocabulary.
            tokens: most tokens per call; 0: chosen for the device.
            logits: most logits held at once, if a row of C for one token is not more; 0: chosen for the device.
        """
        on_cpu = weight.device.type == "cpu"
        logits = logits or (_CPU_LOGITS if on_cpu else _ACCELERATOR_LOGITS)
        tokens = tokens or (_CPU_TOKENS if on_cpu else _ACCELERATOR_TOKENS)
        columns = sketch.columns
        self.tokens = max(1, min(tokens, logits // columns))
        self._sketch = sketch
        self._place = sketch.place.to(weight.device)
        self._weight = weight[sketch.order.to(weight.device)]
        step = max(1, logits // self.tokens // columns) * columns
        self._blocks = [slice(start, min(start + step, sketch.size)) for start in range(0, sketch.size, step)]

    def __call__(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the projected errors A'(p - e_y) (n, a) and the losses (n,) in nats, both float32.

        Args:
            states: (n, H) hidden states in the weight's dtype, n at most `tokens`.
            labels: (n,) int64 ids of the tokens to predict.
        """
        total = states.new_full((len(states), 1), -torch.inf, dtype=torch.float32)
        means = states.new_zeros(len(states), self._sketch.columns, dtype=torch.float32)
        for block in self._blocks:
            logits = states @ self._weight[block].t()
            highest = logits.amax(1, keepdim=True).float()
            # One kernel: the shift by the maximum, the exponential and the normalisation of the block.
            shares = torch.softmax(logits, dim=1, dtype=torch.float32)
            block_total = highest - shares.amax(1, keepdim=True).log()
            means.lerp_(self._column_sums(shares), torch.sigmoid(block_total - total))
            total = torch.logaddexp(total, block_total)
        place = self._place[labels]
        column = (place % self._sketch.columns).unsqueeze(1)
        means.scatter_add_(1, column, means.new_full(column.shape, -1.0))
        picked = (states.float() * self._weight[place].float()).sum(1)
        return self._sketch.fold(means), total.squeeze(1) - picked

    def _column_sums(self, shares: Tensor) -> Tensor:
        """Add a block (n, m) up by column (n, C); the last block may end within a row of C."""
        columns = self._sketch.columns
        whole = shares.shape[1] // columns * columns
        sums = shares[:, :whole].unflatten(1, (whole // columns, columns)).sum(1)
        sums[:, : shares.shape[1] - whole] += shares[:, whole:]
        return sums
