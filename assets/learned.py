"""What the finalists are built from beside the tables: asked for, kept in the store, and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline import tables

if TYPE_CHECKING:
    from assets.data import StoredPool
    from assets.step import Step
    from grasp_pipeline.arrays import Floats, TokenLists
    from grasp_pipeline.attribution.methods.airrep import Encoder
    from grasp_pipeline.config import FinalistsConfig
    from grasp_pipeline.selection.candidates.learned import Learned
    from grasp_pipeline.selection.target import Target
    from resources.compute import Compute
    from resources.models import LoadedTokenizer, Models

Features = Callable[["TokenLists"], NDArray[np.float32]]


def labels_digest(config: FinalistsConfig) -> str:
    """Return the digest of the file of labels, "" for none: what stands in it decides, not its name.

    Raises:
        InputError: it cannot be read.
    """
    from pathlib import Path

    from grasp_pipeline.errors import InputError, boundary
    from grasp_pipeline.proxy.reference import file_digest

    if not config.quality_labels:
        return ""
    remedy = "correct finalists.quality_labels"
    with boundary(InputError, f"the labels {config.quality_labels} cannot be read", remedy):
        return file_digest(Path(config.quality_labels))


def check_learned(config: FinalistsConfig) -> None:
    """Refuse labels that cannot be used and an encoder that is not there, before anything is computed."""
    from grasp_pipeline.attribution.sentences import sentence_files
    from grasp_pipeline.selection.candidates.learned import label_frame

    if config.quality_labels:
        label_frame(config.quality_labels)
    if config.airrep == "sentences":
        sentence_files()


def pin_learned(step: Step, config: FinalistsConfig) -> None:
    """Pin what is read only where it is asked for."""
    if config.airrep != "off" or config.quality_labels:
        step.pin(tables.TOKENIZER)
    if config.airrep != "off":
        step.pin(tables.SUBSETS, {"split": "calibration"})
        step.pin(tables.SUBSET_UTILITIES, {"split": "calibration"})


def make_learned(
    step: Step,
    config: FinalistsConfig,
    corpus: StoredPool,
    target: Target,
    models: Models,
    compute: Compute,
    folder: str,
) -> Learned | None:
    """Train and read what was asked for, and keep it in a folder of the store; None where nothing was."""
    from grasp_pipeline.selection.candidates.learned import Learned, read_labels

    if config.airrep == "off" and not config.quality_labels:
        return None
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    labels = None
    if config.quality_labels:
        encode = tokenizer.encoder.encode
        labels = read_labels(config.quality_labels, lambda texts: (ids for ids, _ in encode(list(texts))))
    similarity = encoder = None
    if config.airrep != "off":
        features = _features(step, config.airrep, models, compute, tokenizer)
        similarity, encoder = _similarity(step, corpus, target, features)
    made = Learned(similarity, encoder, labels)
    with step.store.new_files(folder) as new:
        made.save(new)
    return made


def load_learned(step: Step, folder: str) -> Learned | None:
    """Return what the finalists were built with.

    Raises:
        StoreError: the folder is missing from the store.
    """
    from grasp_pipeline.selection.candidates.learned import Learned

    if not folder:
        return None
    with step.store.files(folder) as stored:
        return Learned.load(stored)


def _similarity(step: Step, corpus: StoredPool, target: Target, features: Features) -> tuple[Floats, Encoder]:
    """Return the similarity of every chunk to the target and the encoder: trained, or that of the last finalists.

    Raises:
        ConfigError: the corpus has changed since the subsets were drawn, and the last finalists had no such encoder.
    """
    from assets.data import load_subsets, load_utilities
    from assets.finalists import load_texts
    from grasp_pipeline.attribution.methods.airrep import Task, train_encoder
    from grasp_pipeline.selection.candidates.families.airrep import similarity

    queries = load_texts(step, "query", target.tasks)
    tokens = np.concatenate([each.lengths for each in queries]).astype(np.float64)
    task = np.repeat(np.arange(len(queries)), [each.n for each in queries])
    shares = (task == np.arange(len(queries))[:, None]) * tokens
    shares /= shares.sum(axis=1, keepdims=True)
    step.say(f"encoding {corpus.n:,} chunks for the trained similarity")
    chunks, asked = features(corpus.text), np.concatenate([features(each) for each in queries])
    none = np.empty((0, corpus.n), dtype=np.bool_), np.empty((0, len(queries)))
    frame = step.read(tables.SUBSETS, {"split": "calibration"}).select("pool_version").unique().collect()
    if frame["pool_version"].to_list() != [corpus.version]:
        made = Task(chunks, asked, shares, corpus.n_tokens, *none)
        encoder = _last_encoder(step, chunks.shape[1])
        return similarity(encoder, made, target.weights), encoder
    subsets = load_subsets(step, "calibration", corpus)
    measured = load_utilities(step, subsets, step.pin(tables.SUBSET_UTILITIES, {"split": "calibration"}))
    columns = [measured.names.index(name) for name in target.tasks]
    utilities = measured.values.mean(axis=2)[:, columns]
    made = Task(chunks, asked, shares, corpus.n_tokens, np.asarray(subsets.membership), utilities)
    encoder = train_encoder(made, attention=False)
    return similarity(encoder, made, target.weights), encoder


def _last_encoder(step: Step, width: int) -> Encoder:
    """Return the encoder of the newest finalists that had one for features of some width."""
    from grasp_pipeline.errors import ConfigError
    from resources.notes import FinalistsNote

    last = step.tables.latest(tables.FINALISTS)
    found = load_learned(step, FinalistsNote.of(last).learned) if last is not None else None
    if found is None or found.encoder is None or len(found.encoder.centre) != width:
        raise ConfigError(
            "the corpus has changed since the calibration subsets were measured, and the last finalists had no such "
            "similarity; run the job curate, or set finalists.airrep to off"
        )
    return found.encoder


def _features(
    step: Step, encoder: str, models: Models, compute: Compute, tokenizer: LoadedTokenizer
) -> Features:
    """Return what gives features (k, h) of chunks."""
    from functools import partial

    from assets.data import hidden_states

    device = compute.prepare()
    if encoder == "proxy":
        version = step.pin(tables.PROXY_CHECKPOINTS).version
        return partial(
            hidden_states,
            step,
            objective=models.proxy(version, "reference").objective,
            bos=tokenizer.encoder.bos,
            chunk_tokens=tokenizer.chunk_tokens,
            device=device,
        )
    from grasp_pipeline.attribution.sentences import SentenceEncoder

    model, decode = SentenceEncoder.load(device), tokenizer.encoder.backend.decode
    return lambda chunks: model([decode(chunks.chunk(row)) for row in range(chunks.n)])
