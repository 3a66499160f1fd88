"""Look back at a store, care for it, publish what it exports, and check attributions.

    python -m grasp_pipeline explain|taught|diff|groups|forgets|vacuum|push|prove|verify|advise

The store is `GRASP_STORE` (default `./store`). Only `vacuum` without `--dry-run` changes its tables; `taught` keeps an
index below the store's folder `taught`. `prove`, `verify` and `advise` read no store, but what they are given.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grasp_pipeline import tables
from grasp_pipeline.errors import ConfigError, GraspError, boundary
from grasp_pipeline.evaluation.advice import add_command
from grasp_pipeline.proof.commands import add_commands

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.lineage.curation import Curation
    from resources.delta.tables import DeltaTables
    from resources.models import Models


def store_tables() -> DeltaTables:
    """Return the tables of `GRASP_STORE`."""
    from resources.store import DeltaStore

    return DeltaStore(root=os.environ.get("GRASP_STORE", "store")).tables


def curation_rows(delta: DeltaTables) -> pl.DataFrame:
    """Return the rows of `curations`; none where the store is older than the table."""
    commit = delta.latest(tables.CURATIONS)
    if commit is None:
        return tables.CURATIONS.empty()
    return delta.read(tables.CURATIONS, commit.version).collect()


def explain(options: argparse.Namespace) -> str:
    """Return what became of a document."""
    from grasp_pipeline.lineage.curation import find_curation
    from grasp_pipeline.lineage.explain import explain, explanation_text

    delta = store_tables()
    told = explain(find_curation(curation_rows(delta), options.curation, delta), options.wanted)
    return json.dumps(told, ensure_ascii=False, indent=2) if options.json else explanation_text(told)


def sealed_losses(delta: DeltaTables, curation: Curation) -> pl.DataFrame | None:
    """Return `evaluation_losses` as measured on a curation's corpus and pick; None where it was not."""
    from assets.provenance import measured_on

    commit = measured_on(delta, tables.EVALUATION_LOSSES, curation)
    return None if commit is None else delta.read(tables.EVALUATION_LOSSES, commit.version).collect()


def diff(options: argparse.Namespace) -> str:
    """Return what two curations did otherwise; writes the page that is asked for."""
    from grasp_pipeline.lineage.compare import compare
    from grasp_pipeline.lineage.curation import find_curation
    from grasp_pipeline.lineage.page import comparison_page, comparison_text

    delta = store_tables()
    rows = curation_rows(delta)
    before, after = (find_curation(rows, number, delta) for number in (options.before, options.after))
    told = compare(before, after, {each.number: sealed_losses(delta, each) for each in (before, after)})
    if options.html is not None:
        with boundary(
            ConfigError, f"the page {options.html} cannot be written", "name a file in a writable folder"
        ):
            options.html.write_text(comparison_page(told), encoding="utf-8")
    return json.dumps(told, ensure_ascii=False, indent=2) if options.json else comparison_text(told)


def taught(options: argparse.Namespace) -> str:
    """Return which kept chunks taught a text; builds the index where there is none, or not of these tables."""
    from assets.taught import stored_index
    from grasp_pipeline.lineage.curation import find_curation
    from grasp_pipeline.lineage.taught import IndexSettings, TaughtIndex, build_index, taught, taught_text
    from resources.store import DeltaStore

    store = DeltaStore(root=options.store or os.environ.get("GRASP_STORE", "store"))
    curation = find_curation(curation_rows(store.tables), options.curation, store.tables)
    settings = IndexSettings(texts=options.texts)
    found = stored_index(store, curation, settings)
    index, place = found.index, found.place

    def say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    if index is None:
        say(f"building the index of curation {curation.number}; it is kept below {store.place}/{place}")
        with store.new_files(place) as folder:
            build_index(curation, found.proxy, settings, folder, say)
            index = TaughtIndex.load(folder)
    told = taught(curation, found.proxy, index, options.text, options.k, settings)
    return json.dumps(told, ensure_ascii=False, indent=2) if options.json else taught_text(told)


def groups(options: argparse.Namespace) -> str:
    """Return groups of similar chunks ranked by influence; writes the file of chunks that is asked for."""
    import polars as pl

    from grasp_pipeline.arrays import TokenLists
    from grasp_pipeline.evaluation.group_ranking import group_frame, rank_groups, ranking_text

    models, delta, versions = trained_store(tables.TASKS)
    tokenizer = models.tokenizer(versions[tables.TOKENIZER.name])
    proxy = models.proxy(versions[tables.PROXY_CHECKPOINTS.name], "reference")
    corpus = chunks_of(delta, versions, "source")
    asked = delta.read(tables.TASKS, versions[tables.TASKS.name]).filter(split="query")
    asked = asked.select("task", "chunk_id", "input_ids").sort("task", "chunk_id").collect()
    names = asked["task"].unique().sort().to_list()
    ranking = rank_groups(
        proxy.objective,
        TokenLists.of_column(corpus["input_ids"]),
        TokenLists.of_column(asked["input_ids"]),
        asked["task"].rank("dense").to_numpy().astype(int) - 1,
        tokenizer.encoder.bos,
        options.size,
        options.by,
    )
    frame = group_frame(ranking, corpus["source"], names)
    if options.out is not None:
        chunks = corpus.select("chunk_id", "source").with_columns(group=pl.Series(ranking.groups.codes))
        with boundary(ConfigError, f"{options.out} cannot be written", "name a file in a writable folder"):
            chunks.join(frame.drop("source", "share", "chunks", "tokens"), on="group").write_parquet(
                options.out
            )
    return ranking_text(frame, ranking.groups.passes, corpus.height, options.shown)


def forgets(options: argparse.Namespace) -> str:
    """Return which chunks the proxy forgets with a sentence, most of all first."""
    import numpy as np

    from grasp_pipeline.attribution.skew.ascent import Ascent
    from grasp_pipeline.attribution.skew.text import text_skew
    from grasp_pipeline.proxy.objective import pad_chunks

    models, delta, versions = trained_store()
    tokenizer = models.tokenizer(versions[tables.TOKENIZER.name])
    length, bos = tokenizer.chunk_tokens, tokenizer.encoder.bos
    ((ids, _),) = tokenizer.encoder.encode([options.sentence])
    if not ids:
        raise ConfigError("the sentence has no tokens; give some text")
    version = versions[tables.PROXY_CHECKPOINTS.name]
    trained, untrained = (models.proxy(version, role).objective for role in ("reference", "initial"))
    corpus = chunks_of(delta, versions, "doc_id", "source")
    pool, query = (pad_chunks(each, bos, length) for each in (corpus["input_ids"].to_list(), [ids[:length]]))
    ascent = Ascent(steps=options.steps)
    scores, found = text_skew(trained, trained.parameters(), untrained.parameters(), pool, query, ascent)
    lines = [
        f"forgotten after {found.steps} steps: {found.query_loss:.2f} nats per token; {corpus.height} chunks",
        "",
        f"{'skew':>7}  {'chunk':<12}  {'document':<12}  source",
    ]
    for row in np.argsort(-scores, kind="stable")[: options.shown].tolist():
        chunk = corpus.row(row, named=True)
        lines.append(
            f"{scores[row]:>+7.4f}  {chunk['chunk_id'][:12]}  {chunk['doc_id'][:12]}  {chunk['source']}"
        )
    return "\n".join(lines)


def trained_store(*more: tables.Table) -> tuple[Models, DeltaTables, dict[str, int]]:
    """Return models, tables and newest versions of a store with chunks and a proxy; more: tables asked for beside.

    Raises:
        ConfigError: a table is not there.
    """
    from resources.models import Models
    from resources.store import DeltaStore

    store = DeltaStore(root=os.environ.get("GRASP_STORE", "store"))
    wanted = (tables.TOKENIZER, tables.PROXY_CHECKPOINTS, tables.TOKENIZED_SHARDS, *more)
    found = {table.name: store.tables.latest(table) for table in wanted}
    versions = {name: commit.version for name, commit in found.items() if commit is not None}
    if missing := [name for name in found if name not in versions]:
        raise ConfigError(f"the store has no table {missing[0]}; materialize it (the job curate makes all)")
    return Models(store=store), store.tables, versions


def chunks_of(delta: DeltaTables, versions: dict[str, int], *columns: str) -> pl.DataFrame:
    """Return the tokens of all chunks with some columns, in the order of their ids."""
    lazy = delta.read(tables.TOKENIZED_SHARDS, versions[tables.TOKENIZED_SHARDS.name])
    return lazy.select("chunk_id", "input_ids", *columns).sort("chunk_id").collect()


def vacuum(options: argparse.Namespace) -> str:
    """Remove the files of versions that nobody names; returns what went, table by table."""
    from grasp_pipeline.report.formats import size
    from resources.delta.care import vacuum

    told = vacuum(store_tables(), options.horizon_days, options.dry_run, options.compact)
    went = "would go" if options.dry_run else "went"
    joined = "would be compacted" if options.dry_run else "were compacted"
    lines = [
        f"{each.table}: {f'{each.compacted} files {joined}, ' if each.compacted else ''}"
        f"{each.files} files {went}; {size(each.bytes_before)} before, {size(each.bytes_after)} after; "
        f"{each.kept_versions} versions are named and stay"
        for each in told
    ]
    before, after = (sum(getattr(each, name) for each in told) for name in ("bytes_before", "bytes_after"))
    return "\n".join([*lines, f"In all: {size(before)} before, {size(after)} after"])


def push(options: argparse.Namespace) -> str:
    """Upload the export's folder `huggingface`; returns where it is."""
    from grasp_pipeline.corpus.export.push import push
    from resources.store import DeltaStore

    store = DeltaStore(root=os.environ.get("GRASP_STORE", "store"))
    folder = Path(store.place, "export", "huggingface")
    address = push(folder, options.repository, private=not options.public, revision=options.revision)
    return f"Pushed {folder}: {address}"


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m grasp_pipeline", description="Look back at a store.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("explain", help="what became of a document or chunk at every stage")
    command.add_argument("wanted", metavar="ID|FILE#ROW", help="doc_id, chunk_id or origin of a document")
    command.add_argument("--curation", type=int, metavar="N", help="number; default: the newest published")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=explain)
    command = commands.add_parser("taught", help="which kept chunks taught this sentence")
    command.add_argument(
        "text", metavar="SENTENCE", help="its tokens up to the length of a chunk are looked up"
    )
    command.add_argument("-k", type=int, default=10, metavar="K", help="chunks to show; default: 10")
    command.add_argument("--store", metavar="PLACE", help="default: GRASP_STORE, or ./store")
    command.add_argument("--curation", type=int, metavar="N", help="number; default: the newest published")
    command.add_argument(
        "--texts",
        type=int,
        default=128,
        metavar="N",
        help="texts that the index is distilled from; default: 128",
    )
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=taught)
    command = commands.add_parser("diff", help="what one curation did otherwise than another")
    command.add_argument("before", type=int, metavar="A", help="number of a curation")
    command.add_argument("after", type=int, metavar="B", help="number of another")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page too")
    command.set_defaults(run=diff)
    command = commands.add_parser("groups", help="groups of similar chunks, ranked by influence on the tasks")
    command.add_argument(
        "--size", type=_positive, default=16, metavar="N", help="chunks of a group, on average; 16"
    )
    command.add_argument(
        "--by",
        choices=("sketches", "representations", "random"),
        default="sketches",
        help="what is alike in a group: gradients of the output layer (default), hidden states, nothing",
    )
    command.add_argument(
        "-k", type=_positive, default=10, dest="shown", metavar="K", help="groups shown at both ends"
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="also write chunks with their groups, as Parquet"
    )
    command.set_defaults(run=groups)
    command = commands.add_parser(
        "forgets", help="which chunks the proxy forgets with a sentence: where it came from"
    )
    command.add_argument(
        "sentence", metavar="SENTENCE", help="its first tokens, up to the length of a chunk, count"
    )
    command.add_argument("-k", type=_positive, default=10, dest="shown", metavar="K", help="chunks shown; 10")
    command.add_argument(
        "--steps", type=_positive, default=60, metavar="N", help="most steps of the ascent; 60"
    )
    command.set_defaults(run=forgets)
    command = commands.add_parser("vacuum", help="remove old versions that no curation names")
    command.add_argument("--horizon-days", type=int, required=True, metavar="N", help="younger versions stay")
    command.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    command.add_argument("--compact", action="store_true", help="first rewrite many small files as fewer")
    command.set_defaults(run=vacuum)
    command = commands.add_parser(
        "push", help="upload the export's folder huggingface to the Hugging Face Hub"
    )
    command.add_argument("repository", metavar="OWNER/NAME", help="data set; made where there is none")
    command.add_argument(
        "--public", action="store_true", help="make it public; default: a new one is private"
    )
    command.add_argument("--revision", default="main", metavar="BRANCH", help="branch; default: main")
    command.set_defaults(run=push)
    add_commands(commands)
    add_command(commands)
    options = parser.parse_args(arguments)
    try:
        print(options.run(options))
    except GraspError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
