"""What a filter keeps of new chunks, against the optimum over old and new."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.filter_agreement import filter_agreement
from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.explanation.residual_filter import kept_agreement, token_agreement
from grasp_pipeline.selection.solver.optimiser import optimise


class TestGrowth:
    """A fifth more chunks of the same clusters, a few of which serve the target."""

    DRAW = generator("growth")
    CENTRES = DRAW.standard_normal((20, 16))
    SKETCHES = (CENTRES[DRAW.integers(0, 20, 6000)] + 0.5 * DRAW.standard_normal((6000, 16))).astype(
        np.float32
    )
    TOKENS = DRAW.integers(16, 129, 6000)
    TARGET = CENTRES[:3].mean(axis=0)

    def agreement(self, lam: float, new: np.ndarray) -> float:
        old, tokens = ArrayBlocks(self.SKETCHES[:5000]), self.TOKENS
        return filter_agreement(
            old, ArrayBlocks(new), tokens[:5000], tokens[5000:], self.TARGET, 0.25, lam=lam
        ).arrivals

    @pytest.mark.parametrize("lam", [0.0, 0.4, 0.7])
    def test_the_filter_keeps_what_optimising_again_would(self, lam: float) -> None:
        assert self.agreement(lam, self.SKETCHES[5000:]) >= 0.95

    def test_arrivals_of_another_kind_are_told_by_less_agreement(self) -> None:
        flood = np.repeat(self.SKETCHES[:1] * 0 + self.CENTRES[0].astype(np.float32), 1000, axis=0)
        assert self.agreement(1.0, flood) < 0.8

    def test_it_equals_the_steps_by_hand(self) -> None:
        old, new, tokens = self.SKETCHES[:5000], self.SKETCHES[5000:], self.TOKENS
        found = filter_agreement(
            ArrayBlocks(old), ArrayBlocks(new), tokens[:5000], tokens[5000:], self.TARGET, 0.25
        )
        fit = optimise(old, tokens[:5000], self.TARGET, int(0.25 * tokens[:5000].sum()), lam=0.7)
        kept = new @ np.float32(fit.q) >= fit.tau
        again = optimise(self.SKETCHES, tokens, self.TARGET, int(0.25 * tokens.sum()), lam=0.7).membership
        assert found.filtered_tokens == tokens[5000:][kept].sum()
        assert found.optimal_tokens == tokens[5000:][again[5000:]].sum()
        both = tokens[5000:][kept & again[5000:]].sum()
        assert found.arrivals == pytest.approx(both / max(found.filtered_tokens, found.optimal_tokens))
        assert found.decisions == pytest.approx(token_agreement(kept, again[5000:], tokens[5000:]))
        grown = np.concatenate([fit.membership, kept])
        assert found.grown == pytest.approx(kept_agreement(grown, again, tokens))


def test_refusals() -> None:
    same = ArrayBlocks(np.ones((4, 2), dtype=np.float32))
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            filter_agreement(same, same, np.ones(4), np.ones(4), np.ones(2), fraction)
