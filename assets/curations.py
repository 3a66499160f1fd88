"""The curation's name: one row for every published or refused result, with all that it follows from."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.stages import APART, STAGES, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.lineage.curation import Curation
from grasp_pipeline.lineage.fates import fates
from grasp_pipeline.names import RANDOM
from resources.notes import CertificatesNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.tables import Table
    from resources.delta.commits import Commit
    from resources.delta.tables import DeltaTables

VERSION = "1"

SAME = ("configuration", "inputs", "versions", "certificate")
"""A result that has all of these of an earlier one is that one."""

PACKAGES = (
    *("grasp-pipeline", "dagster", "deltalake", "numpy", "polars", "scipy", "tokenizers", "torch"),
    "transformers",
)
"""Those whose versions are kept."""

PUBLISHED = (tables.PRUNED_CORPUS, tables.DROP_REASONS, tables.RESIDUAL_FILTER)


@stage(
    group="publication",
    kinds={"polars", "deltalake"},
    code_version=VERSION,
    reads=[
        tables.PRUNED_CORPUS,
        tables.DROP_REASONS,
        tables.RESIDUAL_FILTER,
        tables.CERTIFICATES,
        tables.CANDIDATES,
        tables.MANIFEST,
    ],
    writes={
        tables.CURATIONS: "Every published or refused result by its number, with configuration, inputs and certificate."
    },
)
def curations(context: dg.AssetExecutionContext, store: DeltaStore) -> dg.MaterializeResult:
    """Give what was published its number; an unchanged result keeps the one it has."""
    step = Step(context, store)
    shipped = step.tables.standing(tables.PRUNED_CORPUS)
    assert shipped is not None, "pinned"
    row = described(step.tables, shipped)
    number = known(recorded(step.tables), row)
    if number is None:
        number = next_number(step.tables)
        for table in PUBLISHED:
            step.tables.stamp(table, number)
        shipped = step.tables.standing(tables.PRUNED_CORPUS)
        row = described(step.tables, shipped)
    number, added = record(step, row)
    for table in PUBLISHED:
        if step.tables.curation(table) != number:
            step.tables.number(table, number, step.provenance())
    commit = step.tables.latest(tables.CURATIONS)
    assert commit is not None, "written before"
    step.say(f"this is curation {number}" + ("" if added else ", which is recorded already"))
    told = fates(Curation(number, row, step.tables))
    return step.result(
        tables.CURATIONS,
        commit,
        step.rows(tables.CURATIONS, commit),
        {
            "curation": number,
            "fates": dg.MetadataValue.table(
                [
                    dg.TableRecord({name: "" if value is None else value for name, value in fate.items()})
                    for fate in told.iter_rows(named=True)
                ],
                dg.TableSchema([dg.TableColumn(name, str(dtype)) for name, dtype in told.schema.items()]),
            ),
            "explain": f"python -m grasp_pipeline explain FILE#ROW --curation {number}",
        },
        up_to_date=not added,
    )


def record_refusal(step: Step) -> int:
    """Record a result that is not published for want of a certificate; returns its number."""
    number, _ = record(step, described(step.tables, None), own=False)
    return number


def record(step: Step, row: Mapping[str, Any], own: bool = True) -> tuple[int, bool]:
    """Add a row unless the result is recorded already; returns its number, and whether it is new.

    own: whether the stage `curations` records it; else its reads are those of the versions that the row names.
    """
    import polars as pl

    from resources.delta.commits import Provenance, Read

    run = step.context.run.run_id

    def new(before: "pl.DataFrame") -> "pl.DataFrame":
        if known(before, row) is not None:
            return tables.CURATIONS.empty()
        number = (before["curation"].max() or 0) + 1  # type: ignore[operator]
        told = {"curation": number, "time": datetime.now(UTC).isoformat(timespec="seconds"), "run_id": run}
        return pl.DataFrame([told | dict(row)], schema=tables.CURATIONS.schema)

    if own:
        provenance = step.provenance()
    else:
        read = (tables.CERTIFICATES.name, tables.CANDIDATES.name, tables.MANIFEST.name)
        versions = json.loads(row["versions"])
        reads = tuple(Read(name, versions[name]) for name in read if name in versions)
        provenance = Provenance(run, tables.CURATIONS.name, VERSION, "", reads)
    rows, added = step.tables.add_row(tables.CURATIONS, new, provenance)
    number = known(rows, row)
    assert number is not None, "added"
    return number, added


def recorded(delta: "DeltaTables") -> "pl.DataFrame":
    """Return the rows of `curations`."""
    last = delta.latest(tables.CURATIONS)
    return tables.CURATIONS.empty() if last is None else delta.read(tables.CURATIONS, last.version).collect()


def next_number(delta: "DeltaTables") -> int:
    """Return the number of the next result that is none of those recorded."""
    return (recorded(delta)["curation"].max() or 0) + 1  # type: ignore[operator]


def known(rows: "pl.DataFrame", row: Mapping[str, Any]) -> int | None:
    """Return the number of the newest row of the same outcome where it is this result, else None."""
    import polars as pl

    last = rows.filter(pl.col("published") == row["published"]).sort("curation").tail(1)
    same = last.filter(*(pl.col(name) == row[name] for name in SAME))
    return same["curation"].item() if same.height else None


def described(delta: "DeltaTables", shipped: "Commit | None") -> dict[str, Any]:
    """Return a row of `curations` but for number, time and run.

    shipped: the standing commit of `pruned_corpus`; None: nothing was published, the newest certificate is told.
    """
    import polars as pl
    import yaml

    from grasp_pipeline.calibration.budget import Budget

    certified = (
        delta.latest(tables.CERTIFICATES) if shipped is None else delta.beside(shipped, tables.CERTIFICATES)
    )
    assert certified is not None, "read before"
    versions = read_versions(delta, shipped or certified)

    def read(table: "Table") -> "pl.LazyFrame":
        return delta.read(table, versions[table.name])

    certificates = read(tables.CERTIFICATES).collect()
    protocol = read(tables.CANDIDATES).collect().row(0, named=True)
    head = certificates.filter(baseline=RANDOM, task=CertificatesNote.of(certified).target).row(0, named=True)
    chunks = read(tables.TOKENIZED_SHARDS).select("doc_id", "n_tokens")
    sums = chunks.select(pl.col("n_tokens").sum(), pl.col("doc_id").n_unique()).collect(engine="streaming")
    arms = pl.concat(
        read(table).select("arm", "n_chunks", "n_tokens")
        for table in (tables.FINALISTS, tables.REFITTED_FINALISTS)
        if table.name in versions
    ).filter(pl.col("arm") == head["arm"])
    arm = arms.head(1).collect()
    documents, n_chunks, tokens = None, arm["n_chunks"].item(), arm["n_tokens"].item()
    if shipped is not None:
        kept = read(tables.PRUNED_CORPUS).select(
            pl.col("doc_id").n_unique(), pl.len().alias("chunks"), pl.col("kept_tokens").sum()
        )
        documents, n_chunks, tokens = kept.collect(engine="streaming").row(0)
    return {
        "published": shipped is not None,
        "configuration": yaml.safe_dump({"ops": configuration(delta)}, allow_unicode=True),
        "inputs": json.dumps(input_files(read(tables.MANIFEST)), ensure_ascii=False, sort_keys=True),
        "packages": json.dumps(package_versions(), sort_keys=True),
        "versions": json.dumps(versions, sort_keys=True),
        "target": protocol["target"],
        "budget_tokens": Budget.of(protocol).resolve(*(int(value) for value in sums.row(0))),
        "arm": head["arm"],
        "documents": documents,
        "chunks": n_chunks,
        "tokens": tokens,
        **{name: head[name] for name in ("improvement", "lower_bound", "certified", "statement")},
        "certificate": json.dumps(certificates.sort("arm", "baseline", "task").to_dicts(), sort_keys=True),
    }


def read_versions(delta: "DeltaTables", root: "Commit") -> dict[str, int]:
    """Return table -> version of all that a commit follows from, itself included; the nearest read counts.

    What it does not follow from is told at the version that belongs to it: what its step wrote beside it, and rejected
    documents, at the newest of its time.
    """
    versions = {root.table: root.version}
    level = [root]
    while level:
        found: dict[str, int] = {}
        for commit in level:
            for label, version in commit.reads.items():
                name = label.split("/")[0]
                if name not in versions and name in tables.ALL:
                    found[name] = max(version, found.get(name, version))
        versions |= found
        read = (delta.at(tables.ALL[name], version) for name, version in found.items())
        level = [commit for commit in read if commit is not None]
    beside = [tables.REJECTED_DOCUMENTS]
    if root.table == tables.PRUNED_CORPUS.name:
        beside += [tables.DROP_REASONS, tables.RESIDUAL_FILTER]
    for table in beside:
        seen = delta.latest(table)
        if seen is not None:
            versions.setdefault(table.name, seen.version)
    return versions


def configuration(delta: "DeltaTables") -> dict[str, Any]:
    """Return step -> its values (`config`), of every step of a curation whose table is in the store."""
    from assets.settings import LAST

    told: dict[str, Any] = {}
    for name, each in STAGES.items():
        if each.section is None or each.group in APART or name in LAST or name not in tables.ALL:
            continue
        settings = delta.settings(tables.ALL[name], name)
        if settings is not None:
            told[name] = {"config": settings.values or {}}
    return told


def input_files(manifest: "pl.LazyFrame") -> dict[str, dict[str, Any]]:
    """Return input file -> fingerprint of its blocks, rows and bytes of text; no credentials of a URI."""
    import polars as pl

    from grasp_pipeline.report.formats import public_location
    from grasp_pipeline.seeds import digest

    files = (
        manifest.sort("uri", "block")
        .group_by("uri", maintain_order=True)
        .agg(pl.col("fingerprint"), rows=pl.col("n_rows").sum(), bytes=pl.col("n_bytes").sum())
        .collect()
    )
    return {
        public_location(row["uri"]): {
            "fingerprint": digest(row["fingerprint"]),
            "rows": row["rows"],
            "bytes": row["bytes"],
        }
        for row in files.iter_rows(named=True)
    }


def package_versions() -> dict[str, str]:
    """Return package -> version, of those that decide what is computed; none for one that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
