"""Toys that several tests share: models, pools of chunks, a corpus on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.seeds import generator

torch.set_num_threads(2)

VOCAB, LENGTH = 61, 12


def tiny_model(kind: str = "llama") -> CausalLM:
    """Return a model of a few thousand parameters: llama (tied), gpt2 (tied), neox or qwen2 (untied)."""
    from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

    shapes = {
        "llama": lambda: LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            intermediate_size=24,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        ),
        "gpt2": lambda: GPT2Config(
            vocab_size=VOCAB,
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        ),
        "neox": lambda: GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=64,
        ),
        "qwen2": lambda: Qwen2Config(
            vocab_size=VOCAB,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=24,
            max_position_embeddings=64,
            tie_word_embeddings=False,
        ),
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(shapes[kind](), dtype=torch.float32)
    for p in model.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    model.set_attn_implementation("eager")
    return CausalLM(model.eval())


def random_pool(chunks: int, name: str = "pool") -> TokenLists:
    """Return chunks of 1 to LENGTH random tokens above 0."""
    rng = generator(name)
    sizes = rng.integers(1, LENGTH + 1, chunks)
    tokens = rng.integers(1, VOCAB, sizes.sum()).astype(np.int32)
    return TokenLists(tokens, np.concatenate([[0], np.cumsum(sizes)]))


WORDS = {
    source: text.split()
    for source, text in {
        "news": "the market council vote report minister city said growth river train people week plan",
        "code": "def return import class for in range self None value index list dict print open file",
        "french": "le la ville nord pays est dans une avec pour fleuve histoire jour ancien roi ministre",
        "junk": "win free prize click now offer cash deal !!! $$$ www casino pills limited act today",
    }.items()
}


def toy_texts(source: str, count: int, name: str = "corpus") -> list[str]:
    """Return texts of 60 to 140 words over a source's vocabulary, with a skewed distribution."""
    rng = generator("toy", name, source)
    words = WORDS[source]
    weights = 1.0 / np.arange(1, len(words) + 1)
    texts = []
    for _ in range(count):
        n = int(rng.integers(60, 140))
        drawn = rng.choice(len(words), n, p=weights / weights.sum())
        numbers = rng.integers(0, 1000, n)
        texts.append(
            " ".join(f"{words[i]}{k if k % 7 == 0 else ''}" for i, k in zip(drawn, numbers, strict=True))
        )
    return texts


def write_toy_corpus(folder: Path, documents: int = 40) -> tuple[Path, Path]:
    """Write a corpus of four sources in two Parquet files and two tasks; returns their folders."""
    corpus, tasks = folder / "corpus", folder / "tasks"
    corpus.mkdir(parents=True)
    tasks.mkdir()
    rows = [(source, text) for source in WORDS for text in toy_texts(source, documents)]
    rows += rows[:6]
    frame = pl.DataFrame(rows, schema=["origin_name", "body"], orient="row").with_row_index("key")
    frame = frame.with_columns(pl.col("key").cast(pl.String))
    frame[::2].write_parquet(corpus / "a.parquet")
    frame[1::2].write_parquet(corpus / "b.parquet")
    for task in ("news", "french"):
        texts = toy_texts(task, 80, "tasks")
        pl.DataFrame({"task": [task] * len(texts), "text": texts}).write_parquet(tasks / f"{task}.parquet")
    return corpus, tasks
