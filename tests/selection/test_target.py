"""What a corpus is selected for."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.target import Target


def test_a_task_the_mean_and_the_worst() -> None:
    names = ["b", "mean", "a"]
    vectors = np.array([[0.0, 4.0], [9.0, 9.0], [2.0, 0.0]])
    one = Target.of("b", names)
    assert (one.tasks, one.counted, one.worst, one.shares()) == (("a", "b"), ["b"], False, {})
    np.testing.assert_array_equal(one.direction(names, vectors), [0, 4])
    mean = Target.of("mean", names)
    assert (mean.counted, mean.shares()) == (["a", "b"], {})
    np.testing.assert_array_equal(mean.direction(names, vectors), [1, 2])
    worst = Target.of("worst", names, {"a": 3, "b": 1})
    assert worst.worst
    assert worst.shares() == {"a": 0.75, "b": 0.25}
    np.testing.assert_array_equal(worst.rows(names, vectors), [[2, 0], [0, 4]])
    assert Target.of("mean", names, {"a": 1}).counted == ["a"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="which is no task; choose among a, b, mean, worst"):
        Target.of("c", ["a", "b"])
    with pytest.raises(ConfigError, match="task_weights names c, which is no task; choose among a, b"):
        Target.of("mean", ["a", "b"], {"c": 1})
