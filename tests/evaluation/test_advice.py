"""The advisor as a command: what it says is what the library measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from grasp_pipeline.__main__ import main
from grasp_pipeline.attribution.convex.advisor import advise, safest
from grasp_pipeline.attribution.convex.head import fit_head


def test_the_command_tells_the_advice_and_the_outlier(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(300, 4)), draw.random(300) < 0.5
    features[17] *= 12
    file = tmp_path / "head.npz"
    np.savez(file, features=features, labels=labels.astype(float))
    assert main(["advise", str(file), "--remove", "1", "20", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    advice = advise(fit_head(features, labels.astype(float), 1.0), (1, 20))
    assert told["safe"] == {str(k): safest(advice, k) or "refit" for k in (1, 20)}
    assert [each["worst"] for each in told["advice"]] == pytest.approx([each.worst for each in advice])
    assert told["outliers"][0]["row"] == 17
    assert main(["advise", str(file), "--remove", "1", "--tolerance", "1e-9"]) == 0
    said = capsys.readouterr().out
    assert "To remove 1: refit" in said
    assert "Rows of most leverage (near 1: alone decides what the head says of it): 17 (" in said


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "head.npz"
    np.savez(file, features=np.ones((3, 1)))
    assert main(["advise", str(file)]) == 1
    assert "has no array 'labels'" in capsys.readouterr().err
    assert main(["advise", str(tmp_path / "none.npz")]) == 1
    assert "cannot be read" in capsys.readouterr().err
