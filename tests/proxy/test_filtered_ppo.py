"""The example of reinforcement learning: its worlds, its advantages beside a slow twin, and that policies learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.family.batch_filter import _example
from grasp_pipeline.seeds import generator


@pytest.fixture(scope="module")
def ppo() -> Any:
    return _example()


def test_firm_ice_goes_where_it_was_asked_to_and_slippery_ice_goes_beside_in_two_thirds(ppo: Any) -> None:
    fields, right = np.full(9000, 5), np.full(9000, 2)
    firm = ppo.Lake(generator("firm"), slippery=False)
    assert set(firm.slide(fields, right)) == {6}
    assert set(firm.slide(np.full(4, 3), np.full(4, 2))) == {3}, "the edge holds"
    then, counts = np.unique(
        ppo.Lake(generator("ice"), slippery=True).slide(fields, right), return_counts=True
    )
    assert then.tolist() == [1, 6, 9]
    np.testing.assert_allclose(counts / 9000, 1 / 3, atol=0.02)


@pytest.mark.parametrize("name", ["slippery ice", "cart and pole"])
def test_advantages_are_discounted_sums_of_errors_up_to_the_end_of_an_episode(ppo: Any, name: str) -> None:
    """The slow twin adds the errors of one walker up to its next end, from a recording of the same round."""
    world = ppo.WORLDS[name](generator("twin"))
    world.learn(
        *((world.seen, np.ones(world.walkers)) if name == "slippery ice" else (world.seen, world.seen[:, 0]))
    )
    record: list[tuple[Any, ...]] = []
    step = world.step

    def watched(actions: np.ndarray) -> tuple[Any, ...]:
        seen, found = world.seen, step(actions)
        record.append((seen, *found))
        return found

    world.step = watched
    seen, _, advantages, _ = ppo.played(world, world.weights, generator("round"))
    slow = np.zeros((world.steps, world.walkers))
    for walker in range(world.walkers):
        for start in range(world.steps):
            for t in range(start, world.steps):
                here, then, rewards, over, ends, _ = (each[walker] for each in record[t])
                value = world.values(np.stack([here, then]))
                error = rewards + ppo.DISCOUNT * value[1] * (not over) - value[0]
                slow[start, walker] += (ppo.DISCOUNT * ppo.TRACE) ** (t - start) * error
                if ends:
                    break
    moved = np.stack([each[5] for each in record])
    assert len(seen) == moved.sum()
    np.testing.assert_allclose(advantages, slow[moved], atol=1e-6)


def test_a_cart_that_starts_again_makes_no_record(ppo: Any) -> None:
    """After the end of an episode gymnasium spends a step on the reset, whatever the action."""
    cart = ppo.Cart(generator("carts"))
    ended = np.zeros(cart.walkers, dtype=bool)
    some = False
    for _ in range(60):
        then, rewards, _, ends, moved = cart.step(np.ones(cart.walkers, dtype=np.int64))
        np.testing.assert_array_equal(moved, ~ended)
        assert (rewards[~moved] == 0).all()
        assert (np.abs(then[~moved]) <= 0.05).all()
        some |= bool((~moved).any())
        ended = ends
    assert some


def test_policies_learn_and_the_filter_finds_what_was_spoilt(
    ppo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    firm = ppo.train(0, ppo.SHARE, "firm ice")
    assert firm.returns[-10:].mean() > 0.9
    assert firm.enrichment > 1.3
    monkeypatch.setattr(ppo, "ROUNDS", 12)
    cart = ppo.train(0, 0.1, "cart and pole", 0.9)
    assert cart.returns[-3:].mean() > 2 * cart.returns[0]
    assert cart.enrichment > 1.3
    again = ppo.train(0, 0.1, "cart and pole", 0.9)
    np.testing.assert_array_equal(again.returns, cart.returns)
