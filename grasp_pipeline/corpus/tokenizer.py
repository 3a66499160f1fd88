"""Tokenizers: a byte-level BPE trained on the corpus with `tokenizers`, or any fast Hugging Face one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from grasp_pipeline.config import TokenizerConfig
from grasp_pipeline.errors import InputError, StoreError, boundary
from grasp_pipeline.locations import folder_or_hub_name
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BEGIN = "<|endoftext|>"

_RARE = "\u16a0\ua66e\U00013000"
"""Letters that hardly any vocabulary holds: a rune, a Cyrillic O with seven eyes, a hieroglyph."""

_NO_UTF8 = {chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))}
"""Letters that stand for bytes in a byte-level vocabulary and occur in no text."""


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer with the id that separates documents.

    Text is never control: what spells a special token in a document is encoded as text.
    """

    backend: Tokenizer
    bos: int
    vocab_size: int

    def __post_init__(self) -> None:
        self.backend.encode_special_tokens = True

    @property
    def tokenizer_id(self) -> str:
        """sha-256 of the tokenizer's full definition."""
        return digest(self.backend.to_str())

    def encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
        """Yield (token ids, character offset of each token's start) per text, without any special token.

        The token for what the tokenizer does not know counts as text, unless it is the separator.

        Raises:
            InputError: the tokenizer makes a special token of text all the same.
        """
        texts = list(texts)
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            if not self._special.isdisjoint(encoding.ids):
                encoding = self._literal.encode(text, add_special_tokens=False)
                if found := (self._special - {self._unknown}) & set(encoding.ids):
                    raise InputError(
                        f"the tokenizer {self.tokenizer_id[:12]} makes its special token "
                        f"{self.backend.id_to_token(min(found))!r} of ordinary text, so documents could not be told "
                        "apart; give a tokenizer whose BOS stands for nothing else, such as a byte-level one"
                    )
            yield encoding.ids, [start for start, _ in encoding.offsets]

    @cached_property
    def _special(self) -> frozenset[int]:
        """The ids of the separator and of all special tokens."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset({self.bos, *(token_id for token_id, token in added.items() if token.special)})

    @cached_property
    def _unknown(self) -> int | None:
        """The id of the token for what the tokenizer does not know, where it is not the separator."""
        model = json.loads(self.backend.to_str())["model"]
        unknown = model.get("unk_id")
        if model.get("unk_token") is not None:
            unknown = self.backend.token_to_id(model["unk_token"])
        return None if unknown == self.bos else unknown

    @cached_property
    def _literal(self) -> Tokenizer:
        """The tokenizer with the spellings of special tokens torn apart, for models that have them among their pieces.

        Unigram and word models look pieces up in a vocabulary that holds the special tokens too. A cut after the first
        character comes last before the model, so that it moves no offset and adds no prefix.
        """
        from tokenizers import Regex, Tokenizer, pre_tokenizers

        spelled = sorted(str(self.backend.id_to_token(token_id)) for token_id in self._special)
        torn = "|".join(f"{re.escape(one[0])}(?={re.escape(one[1:])})" for one in spelled if len(one) > 1)
        split: Any = pre_tokenizers.Split(Regex(torn), "isolated")
        backend: Any = Tokenizer.from_str(self.backend.to_str())
        before = backend.pre_tokenizer
        backend.pre_tokenizer = split if before is None else pre_tokenizers.Sequence([before, split])
        backend.encode_special_tokens = True
        return backend

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))


def first_documents(documents: pl.LazyFrame, train_bytes: int) -> pl.DataFrame:
    """Return the documents that `sample_texts` looks at, and few others: (doc_id, text, n_bytes).

    Of the others neither text nor id is held, but two numbers.

    documents: columns doc_id (which begins with hexadecimal digits of a digest), text and n_bytes.
    """
    rank = pl.col("doc_id").str.head(15).str.to_integer(base=16, dtype=pl.Int64)
    sizes = documents.select(rank.alias("rank"), "n_bytes").collect(engine="streaming").sort("rank")
    before = sizes["n_bytes"].cum_sum() - sizes["n_bytes"]
    last = sizes["rank"].filter(before < train_bytes).max()
    return documents.filter(rank <= last).select("doc_id", "text", "n_bytes").collect(engine="streaming")


def sample_texts(documents: pl.DataFrame, train_bytes: int) -> list[str]:
    """Return documents in the order of their ids (a hash, so a uniform sample) up to about `train_bytes` of text."""
    ordered = documents.sort("doc_id").with_columns(before=pl.col("n_bytes").cum_sum() - pl.col("n_bytes"))
    return ordered.filter(pl.col("before") < train_bytes)["text"].to_list()


def train_bpe(texts: Sequence[str], vocab_size: int) -> TextEncoder:
    """Train a byte-level BPE; token 0 separates documents.

    Raises:
        InputError: the texts are too small for the vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer: Any = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    learned = backend.get_vocab_size()
    if learned < vocab_size:
        raise InputError(
            f"the corpus is too small for a vocabulary of {vocab_size} tokens (it gave {learned}); "
            f"set tokenizer.vocab_size to {learned} or less"
        )
    return TextEncoder(backend, 0, learned)


def load_pretrained(config: TokenizerConfig) -> TextEncoder:
    """Load a Hugging Face tokenizer by name or folder.

    Raises:
        InputError: it cannot be loaded, is not a fast tokenizer, or names no document separator.
    """
    from transformers import AutoTokenizer

    name = folder_or_hub_name("tokenizer", config.name, "tokenizer.json and tokenizer_config.json")
    with boundary(
        InputError,
        f"the tokenizer {config.name!r} cannot be loaded",
        "give a folder with tokenizer.json or a hub name that this machine can reach",
    ):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=config.trust_remote_code)
    if not tokenizer.is_fast:
        raise InputError(f"the tokenizer {config.name!r} has no fast form; give one with a tokenizer.json")
    separator = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if separator is None:
        raise InputError(
            f"the tokenizer {config.name!r} has neither a BOS nor an EOS token; give one that has"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    _check_coverage(backend, config.name)
    return TextEncoder(backend, int(separator), _vocab_size(backend))


def _check_coverage(backend: Tokenizer, name: str) -> None:
    """Refuse a tokenizer that fails at characters outside its vocabulary, or passes over them in silence.

    Raises:
        InputError: it has no token for one of a few letters of rare scripts, or works on bytes and lacks some of those
            that UTF-8 has.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    remedy = "give one that has an UNK token in its vocabulary, or works on bytes and has them all"
    with boundary(InputError, f"the tokenizer {name!r} fails at characters outside its vocabulary", remedy):
        lost = [letter for letter in _RARE if not backend.encode(letter, add_special_tokens=False).ids]
    definition = json.loads(backend.to_str())
    first = json.dumps([definition["normalizer"], definition["pre_tokenizer"]])
    if '"ByteLevel"' in first and definition["model"].get("unk_token") is None:
        lost += set(ByteLevel.alphabet()) - _NO_UTF8 - backend.get_vocab().keys()
    if lost:
        raise InputError(f"the tokenizer {name!r} passes over characters outside its vocabulary; {remedy}")


def _vocab_size(backend: Tokenizer) -> int:
    """Return the number of ids up to the highest; a vocabulary may have gaps."""
    return max(backend.get_vocab(with_added_tokens=True).values()) + 1


def load_saved(folder: Path, bos: int) -> TextEncoder:
    """Load a tokenizer that `TextEncoder.save` wrote.

    Raises:
        StoreError: the file is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    with boundary(
        StoreError,
        f"the stored tokenizer {path} cannot be read",
        "restore it, or materialize tokenizer again",
    ):
        backend = Tokenizer.from_file(str(path))
    return TextEncoder(backend, bos, _vocab_size(backend))
