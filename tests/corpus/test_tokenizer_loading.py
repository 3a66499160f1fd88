"""Tokenizers of others: what cannot be read, or would lose text, is refused by name before anything is encoded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from toys import WORDS, toy_texts

from grasp_pipeline.config import TokenizerConfig
from grasp_pipeline.corpus.tokenizer import BEGIN, TextEncoder, load_pretrained, load_saved, train_bpe
from grasp_pipeline.errors import InputError, StoreError

TEXTS = [text for source in WORDS for text in toy_texts(source, 20)]


def load(folder: Path) -> TextEncoder:
    return load_pretrained(TokenizerConfig(name=str(folder)))


def put(folder: Path, backend: Tokenizer, end: str = "</s>") -> Path:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A whole byte-level tokenizer."""
    return put(tmp_path / "my tokenizer", train_bpe(TEXTS, 300).backend, BEGIN)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return harm


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def test_a_whole_one_is_loaded_as_it_was_saved(saved: Path) -> None:
    ours = train_bpe(TEXTS, 300)
    theirs = load(saved)
    assert (theirs.bos, theirs.vocab_size) == (ours.bos, ours.vocab_size) == (0, 300)
    assert list(theirs.encode(["a hieroglyph: \U00013000"])) == list(
        ours.encode(["a hieroglyph: \U00013000"])
    )
    put(saved, ours.backend)
    assert load_saved(saved, 0).tokenizer_id == ours.tokenizer_id


@pytest.mark.parametrize(
    "harm",
    [
        cut,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes('{"ö": 1}'.encode("latin-1")),
        edit(lambda content: content["model"].update(type="Unheard")),
        edit(lambda content: content["pre_tokenizer"].update(type="Unheard")),
        edit(lambda content: content.pop("model")),
        edit(lambda content: content["model"].update(vocab={"a": "b"})),
    ],
)
def test_a_damaged_one_is_named(saved: Path, harm: Callable[[Path], None]) -> None:
    harm(saved / "tokenizer.json")
    with pytest.raises(
        InputError, match=r"the tokenizer '.*my tokenizer' cannot be loaded \(.*\); give a folder"
    ):
        load(saved)
    with pytest.raises(
        StoreError, match=r"stored tokenizer .*tokenizer\.json cannot be read \(.*\); restore it"
    ):
        load_saved(saved, 0)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (models.WordLevel({"a": 0, "</s>": 1}), "fails at characters outside its vocabulary"),
        (models.WordLevel({"a": 0, "</s>": 1}, unk_token="[UNK]"), r"fails at .*Missing \[UNK\]"),
        (models.WordPiece({"a": 0, "</s>": 1}, unk_token="[UNK]"), r"fails at .*Missing \[UNK\]"),
        (models.Unigram([("a", -1.0), ("</s>", -2.0)]), r"fails at .*`unk_id` is missing"),
        (models.BPE({"a": 0, "</s>": 1}, []), "passes over characters outside its vocabulary"),
    ],
)
def test_one_without_a_token_for_unknown_text_is_refused(tmp_path: Path, model: Any, told: str) -> None:
    with pytest.raises(InputError, match=rf"{told}.*; give one that has an UNK token"):
        load(put(tmp_path, Tokenizer(model)))


def test_one_on_bytes_that_lacks_some_is_refused(tmp_path: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    whole = {token: index for index, token in enumerate(["</s>", *alphabet])}
    for absent, refused in (
        ("\N{LATIN SMALL LETTER O WITH STROKE}", False),
        ("\N{LATIN SMALL LETTER E}", True),
    ):
        vocabulary = {token: index for token, index in whole.items() if token != absent}
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        if refused:
            with pytest.raises(InputError, match="passes over characters outside its vocabulary"):
                load(put(tmp_path, backend))
        else:  # byte 0xF8, which no text has
            load(put(tmp_path, backend))


def test_a_vocabulary_with_gaps_counts_up_to_its_highest_id(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "a": 500}, unk_token="[UNK]"))
    encoder = load(put(tmp_path, backend))
    assert encoder.vocab_size == load_saved(tmp_path, 1).vocab_size == 501
    assert [ids for ids, _ in encoder.encode(["a", "b"])] == [[500], [0]]


def test_a_tokenizer_is_a_folder_that_exists(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is a file; give the folder that holds it"):
        load(saved / "tokenizer.json")
    with pytest.raises(InputError, match=r"does not exist; give a folder with tokenizer\.json"):
        load(saved / "nowhere")
    monkeypatch.setenv("HOME", str(saved.parent))
    load(Path("~/my tokenizer"))
