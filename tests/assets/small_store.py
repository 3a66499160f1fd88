"""A store that takes seconds to make again: few documents, a proxy of one layer and 8 dimensions.

`tests/data/store.tar.xz` holds one as an earlier version of the code wrote it, with its inputs, without report, export
and scratch files.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from toys import write_toy_corpus
from workplace import Workplace

ARCHIVE = Path(__file__).resolve().parents[1] / "data" / "store.tar.xz"


def small_place(folder: Path) -> Workplace:
    """Return a folder as a workplace with the settings of a small store."""
    place = Workplace(folder)
    place.sections["proxy_checkpoints"]["checkpoint"] = "./proxy"
    place.sections["sketchers"] = {"kinds": ["output"], "output_hidden_dim": 4, "output_vocab_dim": 4}
    place.sections["conditional_losses"] = {"enabled": False}
    return place


def unpack(folder: Path) -> Workplace:
    """Return the stored one, unpacked into a folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return small_place(folder)


def write_small(folder: Path) -> Workplace:
    """Write the inputs of a small store, and the proxy that its retrainings start from."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    write_toy_corpus(folder, 11)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=340,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        use_cache=False,
        initializer_range=0.3,
    )
    AutoModelForCausalLM.from_config(shape, dtype=torch.float32).save_pretrained(folder / "proxy")
    return small_place(folder)
