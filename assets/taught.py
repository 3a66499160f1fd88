"""The index of a curation as the store holds it, and the page that asks it: which kept chunks taught this?"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grasp_pipeline import tables
from grasp_pipeline.report.markup import Column, Html, element, named, table

if TYPE_CHECKING:
    from grasp_pipeline.lineage.curation import Curation
    from grasp_pipeline.lineage.taught import IndexSettings, Proxy, TaughtIndex
    from resources.store import DeltaStore

SHOWN = 10
"""Chunks of an answer of the page."""


@dataclass(frozen=True)
class StoredIndex:
    """A curation's proxy, and its index below the folder `place` of the store, None where none is current."""

    proxy: Proxy
    index: TaughtIndex | None
    place: str


def stored_index(store: DeltaStore, curation: Curation, settings: IndexSettings) -> StoredIndex:
    """Return the proxy of a curation, and its index where the store holds one of these tables and settings.

    Raises:
        InputError: the curation published nothing.
        StoreError: the proxy or the tokenizer cannot be read.
    """
    from grasp_pipeline.lineage.taught import MANIFEST, Proxy, TaughtIndex, index_key, is_current
    from resources.models import Models

    key, models = index_key(curation, settings), Models(store=store)
    tokenizer = models.tokenizer(curation.versions[tables.TOKENIZER.name])
    checkpoint = models.proxy(curation.versions[tables.PROXY_CHECKPOINTS.name], "reference")
    proxy = Proxy(checkpoint.objective, tokenizer.encoder, tokenizer.chunk_tokens)
    place, index = f"taught/curation-{curation.number}", None
    if store.has_file(f"{place}/{MANIFEST}"):
        with store.files(place) as folder:
            index = TaughtIndex.load(folder) if is_current(folder, key) else None
    return StoredIndex(proxy, index, place)


def taught_parts(
    store: DeltaStore,
    curation: Curation,
    asked: Mapping[str, str],
    form: Callable[..., Html],
    control: Callable[..., Html],
) -> list[Html]:
    """Return the form and the answer of the page; form, control: as the other pages make them.

    The page writes nothing: where there is no index it says which command builds it.
    """
    from urllib.parse import quote

    from grasp_pipeline.lineage.taught import IndexSettings, taught

    text, settings = asked.get("text", "").strip(), IndexSettings()
    parts = [
        element(
            "p",
            "Which kept chunks taught this? The first chunk's length of a text is looked up.",
            class_="note",
        ),
        form(
            "/taught",
            "Look up",
            control("Sentence", "text", asked, wide=True),
            control("Curation", "curation", asked),
        ),
    ]
    if not text:
        return parts
    found = stored_index(store, curation, settings)
    if found.index is None:
        command = f"python -m grasp_pipeline taught {shlex.quote(text)} --curation {curation.number}"
        told = f"There is no index of curation {curation.number} yet. This builds it, once: "
        return [*parts, element("p", told, element("code", command), role="status")]
    told = taught(curation, found.proxy, found.index, text, SHOWN, settings)
    rows = [
        [
            f"{chunk['effect']:+.4f}",
            f"{chunk['similarity']:.3f}",
            element("a", chunk["chunk_id"][:16], href=f"/explain?id={quote(chunk['chunk_id'])}"),
            str(chunk["origin"]),
            str(chunk["source"]),
            named(" ".join(chunk["text"].split())),
        ]
        for chunk in told["chunks"]
    ]
    columns = [Column("effect", numeric=True), Column("cosine", numeric=True)]
    columns += [Column(name) for name in ("chunk", "origin", "source", "text")]
    caption = (
        f"Kept chunks that taught it most ({told['tokens']} tokens were looked up). Effect: nats per token by which a "
        "chunk's loss rises when the proxy unlearns the text"
    )
    return [*parts, table(caption, columns, rows)]
