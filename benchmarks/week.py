"""A week of daily recurations, simulated: every day one file of the bundled corpus comes, one changes, one goes.

python -m benchmarks.week
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.published import ROOT, Figure, published_here, replace_between, results_folder, save

CONFIG = ROOT / "config" / "week.yaml"
PAGE = ROOT / "docs" / "operations.md"
DAYS = 7
THINNED = 4
"""Of so many documents one is taken, so that the week takes minutes."""

PARTS = 3
"""Files that each of the bundled ones is cut into."""

SHOWN = ("Results", "Input files", "Documents of the corpus", "Chunks of the pruned corpus")
"""Parts of the comparison that the page shows."""


def cut(folder: Path) -> list[Path]:
    """Write documents of the bundled corpus in smaller files; returns them, the first parts of all first."""
    written: dict[tuple[int, str], Path] = {}
    for path in sorted((ROOT / "data" / "corpus").glob("*.parquet")):
        frame = pl.read_parquet(path).gather_every(THINNED)
        for part in range(PARTS):
            to = folder / f"{path.stem}-{part}.parquet"
            frame.gather_every(PARTS, part).write_parquet(to)
            written[part, path.stem] = to
    return [written[key] for key in sorted(written)]


def change(path: Path) -> None:
    """Rewrite every tenth document of a file without its last third, as an editor may shorten it."""
    frame = pl.read_parquet(path).with_row_index("number")
    shorter = pl.col("text").str.head((pl.col("text").str.len_chars() * 2 // 3).cast(pl.Int64))
    text = pl.when(pl.col("number") % 10 == 0).then(shorter).otherwise(pl.col("text"))
    frame.with_columns(text=text).drop("number").write_parquet(path)


def plan(files: list[Path]) -> list[Mapping[str, Path]]:
    """Return for every day after the first the files that come, change and go."""
    days = range(DAYS - 1)
    first = len(files) - len(days)
    return [
        {"new": files[first + day], "changed": files[2 * day], "withdrawn": files[2 * day + 1]}
        for day in days
    ]


@dataclass(frozen=True)
class Day:
    """What a run took and wrote: seconds of its process, tables and shards of the documents written anew."""

    seconds: float
    tables: int
    shards: int


def commits(store: Path) -> dict[str, set[tuple[str, str]]]:
    """Return table -> data commits, each with the partition that it wrote."""
    from grasp_pipeline.tables import ALL
    from resources.delta.tables import DeltaTables

    delta = DeltaTables(str(store))
    return {
        name: {(str(commit.version), str(commit.partition)) for commit in delta.commits(table)}
        for name, table in ALL.items()
    }


def run(place: Path, job: str) -> Day:
    """Run a job as `python -m assets.run` does, in this process.

    Raises:
        SystemExit: it failed.
    """
    from assets.run import main

    before, begun = commits(place / "store"), time.monotonic()
    if main([job, "--config", str(CONFIG)]):
        raise SystemExit(f"{job} failed")
    seconds = time.monotonic() - begun
    added = {name: found - before[name] for name, found in commits(place / "store").items()}
    return Day(seconds, sum(bool(found) for found in added.values()), len(added["documents"]))


def look(*arguments: str) -> str:
    """Return what `python -m grasp_pipeline` prints of the store."""
    from grasp_pipeline.__main__ import main

    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(arguments)
    return said.getvalue()


def excerpt(comparison: str) -> str:
    """Return the parts of a printed comparison that the page shows."""
    kept, shown = [], False
    for line in comparison.splitlines():
        if not line.startswith(" "):
            shown = line in SHOWN
        if shown:
            kept.append(line)
    return "\n".join(kept)


def simulate(place: Path) -> tuple[list[Day], Day]:
    """Curate on the first day, recurate on every other; returns the days, and a run after nothing changed."""
    corpus = place / "corpus"
    for folder in (corpus, place / "waiting", place / "home"):
        folder.mkdir(parents=True)
    shutil.copytree(ROOT / "data" / "tasks", place / "tasks")
    (place / "home" / "dagster.yaml").write_text((ROOT / ".dagster_home" / "dagster.yaml").read_text())
    files = cut(place / "waiting")
    later = plan(files)
    coming = {day["new"] for day in later}
    for path in files:
        if path not in coming:
            path.rename(corpus / path.name)
    days = [run(place, "curate")]
    for day in later:
        day["new"].rename(corpus / day["new"].name)
        change(corpus / day["changed"].name)
        (corpus / day["withdrawn"].name).unlink()
        days.append(run(place, "recurate"))
    return days, run(place, "recurate")


def main() -> None:
    """Simulate, print and store."""
    results_folder()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        os.environ |= {"GRASP_STORE": str(place / "store"), "DAGSTER_HOME": str(place / "home")}
        with contextlib.chdir(place):
            days, unchanged = simulate(place)
        told = json.loads(look("diff", "1", str(DAYS), "--json"))
        comparison = look("diff", "1", str(DAYS))
    print(comparison)
    files = 8 * PARTS - (DAYS - 1)
    figures = [
        Figure("week.first_day_seconds", days[0].seconds, "s", note=f"curate, {files} files"),
        *(
            Figure(
                f"week.seconds[day {number}]",
                day.seconds,
                "s",
                note=f"recurate; {day.shards} shards of documents and {day.tables} tables written",
            )
            for number, day in enumerate(days[1:], 2)
        ),
        Figure("week.unchanged_seconds", unchanged.seconds, "s", "under 20", note="recurate in one process"),
        Figure("week.unchanged_commits", unchanged.tables, "tables", "0", note="tables with a data commit"),
        Figure(
            "week.curations", told["after"]["curation"], "curations", str(DAYS), note="the last one's number"
        ),
        *(
            Figure(f"week.{what}[{move}]", told[what][move], what, note=f"curation {DAYS} against curation 1")
            for what in ("documents", "chunks")
            for move in ("entered", "left", "unchanged")
        ),
    ]
    path = save("week", "make benchmark-week", figures)
    print(f"wrote {path}")
    if published_here(path):
        shown = f"```\n$ python -m grasp_pipeline diff 1 {DAYS}\n{excerpt(comparison)}\n```"
        PAGE.write_text(replace_between(PAGE.read_text(), "week", shown))


if __name__ == "__main__":
    main()
