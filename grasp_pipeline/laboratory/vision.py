"""The vision corpus as a pool with tasks: an image is an example of one target, its label."""

from __future__ import annotations

import hashlib

import numpy as np

from grasp_pipeline.corpus.images import COPIES, VisionCorpus
from grasp_pipeline.laboratory.corpus import HeldOut, LabCorpus
from grasp_pipeline.proxy.images import ImageStream, image_rows
from grasp_pipeline.seeds import digest


def vision_lab_corpus(name: str, images: VisionCorpus) -> LabCorpus:
    """Return the pool of a vision corpus; every image is a document of its own, its label one token."""
    n = images.n
    rows, sizes = image_rows(np.arange(n), images.labels)
    tasks = tuple(sorted({task for task, _ in images.splits}))
    kinds = np.array(["", *COPIES[1:]])[images.copy]
    content = [hashlib.sha256(images.images.tobytes()).hexdigest(), images.labels.tolist()]
    return LabCorpus(
        name=name,
        digest=digest(name, content, {" ".join(key): where.tolist() for key, where in images.splits.items()}),
        stream=ImageStream(images.labels),
        rows=rows,
        sizes=sizes,
        source=images.source,
        document=np.arange(n),
        cluster=images.cluster,
        planted=np.where((kinds == "") & images.mislabelled, "noise", kinds),
        tasks=tasks,
        query=_held_out(images, tasks, "query"),
        judge=_held_out(images, tasks, "judge"),
        evaluation=_held_out(images, tasks, "evaluation"),
        vocabulary=int(images.labels.max()) + 1,
    )


def _held_out(images: VisionCorpus, tasks: tuple[str, ...], split: str) -> HeldOut:
    parts = [images.splits[task, split] for task in tasks]
    where = np.concatenate(parts)
    rows, sizes = image_rows(where, images.labels)
    task = np.repeat(np.arange(len(tasks)), [len(part) for part in parts])
    return HeldOut(rows, sizes, task, images.base[where])
