"""Proof from the tables' logs that the sealed evaluation stayed sealed until the choice was stored.

Sealed are the evaluation documents, the evaluation subsets, and whatever was measured with either. Recorded reads show
two things of them: that nothing sealed is upstream of anything that chooses, certifies or ships (at any time, through
every table in between), and that the present evaluation subsets were first opened after the choice was stored. They are
the pipeline's own record: code that reads files past `Step`, or a person who looks, leaves none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.evaluation.fidelity import TEXT
from grasp_pipeline.seeds import digest
from resources.delta.commits import Commit, Read
from resources.delta.tables import DeltaTables
from resources.notes import SealNote, SubsetsNote, TasksNote

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.tables import Table

CALIBRATION, EVALUATION = {"split": "calibration"}, {"split": "evaluation"}

SEALED: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        ("task_documents", "tasks", "subsets", "subset_utilities", "document_losses"), EVALUATION
    ),
    "fidelity": {"corpus": TEXT},
    "evaluation_losses": {},
}
"""Table -> the rows of it that are sealed; {}: all."""

EVIDENCE = frozenset({"subset_utilities", "document_losses", "fidelity", "evaluation_losses"})
"""Tables whose sealed rows are made by the sealed evaluation, which alone may read what is sealed."""

PREPARING = frozenset({"documents", "rejected_documents", "tasks", "filtered_shards", "filtered_rejections"})
"""Tables made from every task document: chunked by split, or to keep all of them out of what is trained on."""


@dataclass(frozen=True)
class Seal:
    """Faults found (none is good), and the milestones with their commit times in milliseconds since the epoch."""

    faults: list[str]
    order: dict[str, int]


def short_ids(ids: Iterable[str]) -> list[str]:
    """Return subset ids as a commit's statistics hold them: sorted, 16 characters each."""
    return sorted(subset_id[:16] for subset_id in ids)


def documents_digest(chunks: pl.DataFrame) -> str:
    """Return a digest of rows of `tasks`, whatever their order."""
    return digest(chunks.select("task", "document", "chunk_id", "input_ids").sort("task", "chunk_id").rows())


def sealed_now(delta: DeltaTables) -> SealNote:
    """Return digests of the present evaluation subsets and documents as the log tells them; no row is read.

    The choice leaves them in its commit, so that others cannot be put in their place later.

    Raises:
        StoreError: the evaluation subsets were not drawn yet.
    """
    delta.pin(tables.SUBSETS, EVALUATION)
    drawn = delta.latest(tables.SUBSETS, EVALUATION)
    assert drawn is not None, "pinned above"
    told = SubsetsNote.of(drawn)
    return SealNote(evaluation_subsets=digest(told.ids), evaluation_documents=told.evaluation_documents)


def sealed(delta: DeltaTables) -> Seal:
    """Check the order of the protocol's commits, what they read, and that the subsets and documents are the same.

    The grid must be stored before the first utility of a calibration subset that the choice rests on. The evaluation
    subsets must be drawn before the choice, and measured after it: they and no others, on the same documents. No commit
    may have read or measured any of them before the choice. Nothing sealed may be upstream of what exists now but the
    evidence itself. A read that names no split has read all of them.
    """
    log = _Log(delta)
    choice, grid = delta.latest(tables.SELECTED_CONFIG), delta.latest(tables.CANDIDATES)
    drawn = delta.latest(tables.SUBSETS, EVALUATION)
    if choice is None or grid is None or drawn is None:
        return Seal(
            ["the protocol is incomplete: candidates, subsets or selected_config was never written"], {}
        )
    faults: list[str] = []
    order = {"candidates written": grid.timestamp, "evaluation subsets drawn": drawn.timestamp}
    order["choice stored"] = choice.timestamp

    resting = list(log.measured(log.subsets_read(choice, CALIBRATION)))
    if resting:
        first = min(resting, key=lambda commit: commit.version)
        order["calibration measured"] = first.timestamp
        if first.timestamp < grid.timestamp:
            faults.append(
                f"calibration utilities (version {first.version}) were measured before the candidates were written"
            )
    else:
        faults.append("no commit measured the calibration subsets that the choice rests on")
    if drawn.timestamp > choice.timestamp:
        faults.append("the evaluation subsets were drawn after the choice; materialize surrogates again")
    if choice.reads.get("candidates") != grid.version:
        faults.append("the choice was made from an older grid; materialize surrogates again")
    faults += _exchanged(log, drawn, choice)
    faults += _opened_early(log, drawn, choice, order)
    faults += _leaks(log)
    return Seal(faults, order)


def _exchanged(log: _Log, drawn: Commit, choice: Commit) -> Iterator[str]:
    """Yield what differs between the sealed subsets and documents of the choice and the present ones."""
    noted, told = SealNote.of(choice), SubsetsNote.of(drawn)
    if log.ids(drawn.version, EVALUATION) != set(told.ids):
        yield (
            f"the evaluation subsets (version {drawn.version}) are not those that were drawn; materialize subsets "
            "again"
        )
    if noted.evaluation_subsets != digest(told.ids):
        yield "the evaluation subsets are not those that the choice was made beside; materialize surrogates again"
    documents = log.delta.latest(tables.TASKS)
    if documents is None or log.documents(documents.version) != noted.evaluation_documents:
        yield (
            "the evaluation documents are not those that the choice was made beside; materialize subsets and "
            "surrogates again"
        )


def _opened_early(log: _Log, drawn: Commit, choice: Commit, order: dict[str, int]) -> Iterator[str]:
    """Yield the commits that read or measured present evaluation subsets before the choice; others after it."""
    present, documents = log.ids(drawn.version, EVALUATION), SealNote.of(choice).evaluation_documents
    for name, commits in log.commits.items():
        for commit in commits:
            wrote = name == "subset_utilities" and _within(commit, EVALUATION)
            ids = log.subsets_read(commit, EVALUATION)
            beside_it = commit.reads.get("selected_config") == choice.version
            if not (wrote or ids) or (ids and ids.isdisjoint(present) and not beside_it):
                continue
            what = f"{name} version {commit.version}"
            if wrote:
                order["evaluation measured"] = min(
                    commit.timestamp, order.get("evaluation measured", commit.timestamp)
                )
            evidence = _is_evidence(name, commit)
            if commit.timestamp < choice.timestamp or (evidence and not beside_it):
                yield (
                    f"{what} read the evaluation subsets before the choice was stored; change subsets.seed to draw "
                    "fresh ones"
                )
            elif evidence and (ids != present or log.documents_read(commit) - {documents}):
                yield (
                    f"{what} measured other subsets or documents than those that the choice was made beside; "
                    "materialize it again"
                )


def _leaks(log: _Log) -> Iterator[str]:
    """Yield the reads of something sealed that what exists now rests on, the evidence aside."""
    leaks: dict[tuple[str, str], list[int]] = {}
    for name, commit in log.upstream_of_all():
        for label, version in commit.reads.items():
            source, rows = _parsed(label)
            if version not in log.versions.get(source, ()):
                yield f"{name} version {commit.version} read {label} at version {version}, which is not in its log"
            allowed = source == "task_documents" and name in PREPARING
            if _opens(source, rows) and not allowed:
                leaks.setdefault((name, label), []).append(commit.version)
    for (name, label), versions in sorted(leaks.items()):
        unnamed = "" if "=" in label else " and names no split"
        said = ", ".join(map(str, sorted(versions)))
        yield (
            f"{name} version {said} read {label}{unnamed}, so the sealed evaluation is upstream of it; correct the "
            f"asset, delete the table {name} and materialize it again"
        )


def _parsed(label: str) -> tuple[str, dict[str, str]]:
    """Return the table of a read's label and the first column whose value it names; {} for the whole table."""
    name, _, rows = label.partition("/")
    key, named, value = rows.partition("=")
    return name, {key: value} if named else {}


def _opens(name: str, rows: Mapping[str, str]) -> bool:
    """Return whether reading these rows of a table reads something sealed."""
    if name not in SEALED:
        return False
    return all(rows.get(key, value) == value for key, value in SEALED[name].items())


def _within(commit: Commit, rows: Mapping[str, str]) -> bool:
    """Return whether a commit wrote some of the rows."""
    return all((commit.partition or {}).get(key, value) == value for key, value in rows.items())


def _is_evidence(name: str, commit: Commit) -> bool:
    """Return whether a commit wrote sealed evidence and nothing else."""
    return name in EVIDENCE and all(
        (commit.partition or {}).get(key) == value for key, value in SEALED[name].items()
    )


@dataclass(frozen=True)
class _Log:
    """The commits of all tables, and the subsets and documents at their versions."""

    delta: DeltaTables
    _ids: dict[tuple[int, str], set[str]] = field(default_factory=dict)
    _stood: dict[tuple[str, int], list[Commit]] = field(default_factory=dict)

    @cached_property
    def commits(self) -> dict[str, list[Commit]]:
        """Commits by table, newest first."""
        return {name: self.delta.commits(table) for name, table in tables.ALL.items()}

    @cached_property
    def versions(self) -> dict[str, set[int]]:
        """Versions of the commits by table."""
        return {name: {commit.version for commit in commits} for name, commits in self.commits.items()}

    def ids(self, version: int, split: Mapping[str, str]) -> set[str]:
        """Return the short ids of a split of `subsets` at a version; from the log where the rows were vacuumed."""
        key = version, split["split"]
        if key not in self._ids:
            rows = self._rows(tables.SUBSETS, version, split)
            if rows is not None:
                self._ids[key] = set(short_ids(rows["subset_id"]))
            else:
                told = [c for c in self.commits["subsets"] if c.version <= version and _within(c, split)]
                self._ids[key] = set(SubsetsNote.of(told[0]).ids) if told else set()
        return self._ids[key]

    def documents(self, version: int) -> str:
        """Return the digest of the evaluation documents at a version of `tasks`; from the log where it was vacuumed."""
        rows = self._rows(tables.TASKS, version, EVALUATION)
        if rows is not None:
            return documents_digest(rows)
        told = [commit for commit in self.commits["tasks"] if commit.version <= version]
        return TasksNote.of(told[0]).evaluation_documents if told else ""

    def documents_read(self, commit: Commit) -> set[str]:
        """Return the digests of the evaluation documents that a commit read."""
        reads = [(_parsed(label), version) for label, version in commit.reads.items()]
        return {self.documents(v) for (name, rows), v in reads if name == "tasks" and _opens(name, rows)}

    def _rows(self, table: Table, version: int, rows: Mapping[str, str]) -> pl.DataFrame | None:
        from deltalake.exceptions import DeltaError
        from polars.exceptions import PolarsError

        try:
            return self.delta.rows(Read(table.name, version, tuple(rows.items()))).collect()
        except (DeltaError, PolarsError, StoreError, OSError):
            return None

    def subsets_read(self, commit: Commit, split: Mapping[str, str]) -> set[str]:
        """Return the ids of a split's subsets that a commit read, by whatever label."""
        found: set[str] = set()
        for label, version in commit.reads.items():
            name, rows = _parsed(label)
            if name == "subsets" and rows.items() <= split.items():
                found |= self.ids(version, split)
        return found

    def measured(self, calibration: set[str]) -> Iterator[Commit]:
        """Yield the commits that measured some of the calibration subsets, or do not say which ones they did."""
        for commit in self.commits["subset_utilities"]:
            ids = self.subsets_read(commit, CALIBRATION)
            if _within(commit, CALIBRATION) and not (ids and ids.isdisjoint(calibration)):
                yield commit

    def upstream_of_all(self) -> Iterator[tuple[str, Commit]]:
        """Yield every commit that what exists now was made from, at the versions read; not the sealed evidence."""
        todo = [
            (name, commit)
            for name, commits in self.commits.items()
            if commits
            for commit in self._standing(name, commits[0].version)
        ]
        seen: set[tuple[str, int]] = set()
        while todo:
            name, commit = todo.pop()
            if (name, commit.version) in seen or _is_evidence(name, commit):
                continue
            seen.add((name, commit.version))
            yield name, commit
            for label, version in commit.reads.items():
                source, rows = _parsed(label)
                rows = rows if source in SEALED else {}
                todo += [(source, one) for one in self._standing(source, version) if _within(one, rows)]

    def _standing(self, name: str, version: int) -> list[Commit]:
        """Return the commits whose rows are in a table at a version: those that no later one replaced."""
        if (name, version) not in self._stood:
            found: list[Commit] = []
            replaced: list[dict[str, str]] = []
            for commit in self.commits.get(name, ()):
                partition = commit.partition or {}
                if commit.version > version or any(old.items() <= partition.items() for old in replaced):
                    continue
                found.append(commit)
                if commit.metadata.get("operation") != "MERGE":
                    replaced.append(partition)
            self._stood[name, version] = found
        return self._stood[name, version]
