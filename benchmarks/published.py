"""Result files: one list of figures per benchmark, and the tables that are generated from them.

Results come from clean commits: with changed or unknown files in the tree nothing is written to `benchmarks/results`.
Set `GRASP_RESULTS` to another folder to keep what such a tree measures; the pages then stay as they are. Every row
names its commit and a digest of the files that define the benchmark (`sources.py`); where these have changed since, the
table says so. `python -m benchmarks.record` (`make tables`) writes all tables again from the result files.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from benchmarks.sources import ROOT, sources_digest
from grasp_pipeline.errors import ConfigError

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
PAGES = {"reliability": ROOT / "docs" / "operations.md"}
"""Pages of the documentation that show the whole table of a result file."""

ELSEWHERE = "GRASP_RESULTS"
"""Environment variable: the folder of results that are not to be published."""

CHANGED = " with changes"
"""Ending of a commit from which the tree differs."""

START, END = "<!-- generated from results/{name}.json -->", "<!-- end of {name} -->"


@dataclass(frozen=True)
class Figure:
    """One measured figure; low and high are its interval, None where there is none."""

    figure: str
    value: float
    unit: str
    goal: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""


def machine() -> str:
    """Describe the machine: processor, cores, memory, GPU."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        name = names[0] if names else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {gpus()}"


def gpus() -> str:
    """Return the names of the GPUs that torch can use, `no GPU` where there is none."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    return " and ".join(dict.fromkeys(names)) or "no GPU"


@cache
def commit() -> str:
    """Return the commit that is measured, marked when files other than pages, pictures and results differ from it.

    It is that of the process's first question: what is measured later is the code that was loaded then.
    """
    return _git("rev-parse", "--short", "HEAD").strip() + (CHANGED if changed_files() else "")


def changed_files() -> list[str]:
    """Return the files that are not those of the commit; pages, pictures and results do not count."""
    measured = [".", ":!*.md", ":!benchmarks/results", ":!docs/figures"]
    return [line[3:] for line in _git("status", "--porcelain", "--", *measured).splitlines()]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def results_folder() -> Path:
    """Return where results go.

    Raises:
        ConfigError: they would be published, and the tree is not that of a commit.
    """
    commit()
    elsewhere = os.environ.get(ELSEWHERE)
    if elsewhere:
        folder = Path(elsewhere).resolve()
        if folder == RESULTS or RESULTS in folder.parents:
            raise ConfigError(f"{ELSEWHERE} is {elsewhere}, where published results lie; name another folder")
        return folder
    changed = changed_files()
    if changed:
        raise ConfigError(
            f"{len(changed)} files are not those of the commit, {changed[0]} among them; commit them, or set "
            f"{ELSEWHERE} to a folder outside benchmarks/results for figures that are not published"
        )
    return RESULTS


def published_here(path: Path) -> bool:
    """Whether a result file is a published one, from which pages are written."""
    return path.parent == RESULTS


def save(name: str, command: str, figures: Sequence[Figure], measured: Sequence[Origin] = ()) -> Path:
    """Write `results/NAME.json` and the table in the README; returns the file.

    Raises:
        ConfigError: the tree is not clean, see `results_folder`, or was not when something was measured, see `stamp`.
    """
    return _write(name, _rows(name, command, figures, measured))


def update(name: str, command: str, figures: Sequence[Figure], what: str = "") -> Path:
    """Replace some figures of `results/NAME.json`, by name up to a bracket, and keep the others; returns the file.

    Every row says which commit it was measured at. A figure keeps its place, new ones come last.
    what: entry of `SOURCES` that decides these figures, where it is not the file's; all that was there of it goes.

    Raises:
        ConfigError: the tree is not clean; see `results_folder`.
    """
    path = results_folder() / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else []
    measured = [row | ({"what": what} if what else {}) for row in _rows(what or name, command, figures)]
    replaced = {_plain(row) for row in measured}
    rows = [row for row in before if not (_plain(row) in replaced or (what and row.get("what") == what))]
    rows += measured
    places = list(dict.fromkeys(map(_plain, before + measured)))
    return _write(name, sorted(rows, key=lambda row: places.index(_plain(row))))


def stamp(name: str, command: str, measured: Sequence[Origin] = ()) -> dict[str, str]:
    """Return what every row says of its origin; measured: those of what was measured before and is read here.

    Where these are of other code than the present, the row names it as its own, and its table says that it is old.

    Raises:
        ConfigError: something was measured with changes to its commit.
    """
    sources, commits = sources_digest(name), list(dict.fromkeys(each["commit"] for each in measured))
    spoiled = [each for each in commits if each.endswith(CHANGED) or not each]
    if spoiled and not os.environ.get(ELSEWHERE):
        raise ConfigError(
            f"what is to be published was measured in part with {spoiled[0] or 'a commit that it does not name'}; "
            "delete these files of the laboratory and run it again"
        )
    for each in measured:
        if each["sources"] != sources_digest(each["what"]):
            sources = each["sources"]
    made = ", ".join([*commits, *([f"published at {commit()}"] if commits not in ([], [commit()]) else [])])
    here = command.replace(f"{ROOT}/", "")  # no folder of the machine that measured is published
    return {"command": here, "machine": machine(), "commit": made or commit(), "sources": sources}


Origin = dict[str, str]
"""Of something measured: what (an entry of `SOURCES`), commit, sources."""


def origin(what: str) -> Origin:
    """Return where something that is measured now comes from; what: an entry of `SOURCES`."""
    return {"what": what, "commit": commit(), "sources": sources_digest(what)}


def _rows(name: str, command: str, figures: Sequence[Figure], measured: Sequence[Origin] = ()) -> list[dict]:
    where = stamp(name, command, measured)
    return [asdict(figure) | where for figure in figures]


def _plain(row: dict) -> str:
    return row["figure"].partition("[")[0]


def _write(name: str, rows: Sequence[dict]) -> Path:
    folder = results_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    if published_here(path):
        README.write_text(with_table(README.read_text(), name, rows))
        write_on_page(name, rows)
    return path


def write_on_page(name: str, rows: Sequence[dict]) -> None:
    """Write the table on the page of the documentation that shows it too, where there is one."""
    if page := PAGES.get(name):
        page.write_text(with_table(page.read_text(), name, rows))


def with_table(text: str, name: str, rows: Sequence[dict]) -> str:
    """Return the text with the table of a result file between its markers."""
    return replace_between(text, name, table(name, rows))


def replace_between(text: str, name: str, body: str) -> str:
    """Return the text with a body between the markers of a name.

    Raises:
        ValueError: the text lacks the markers.
    """
    start, end = START.format(name=name), END.format(name=name)
    head, found, rest = text.partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the markers {start} and {end} are not there; add them where the table belongs")
    return f"{head}{start}\n{body}\n{end}{tail}"


def source_line(rows: Sequence[dict]) -> str:
    """Return command, machines and commits of rows in words."""
    command, machines, commits = (
        list(dict.fromkeys(row[field] for row in rows)) for field in ("command", "machine", "commit")
    )
    return f"`{command[0]}` on {'; '.join(machines)}, commit {', '.join(commits)}."


def reproduced(name: str) -> dict[str, str] | None:
    """Return what the present code was found to reproduce of a result: commit, sources and words; see `reproduce`."""
    path = RESULTS / "reproduced" / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else None
    return found if found is not None and found["sources"] == sources_digest(name) else None


def age(name: str, rows: Sequence[dict]) -> str:
    """Return a sentence where rows were measured with other code than the present; empty where it is the same."""
    old = [row for row in rows if row.get("sources") != sources_digest(row.get("what", name))]
    if not old:
        return ""
    again = reproduced(name)
    if again is not None:
        return f"The code was rearranged since; at commit {again['commit']} {again['said']}."
    commits = ", ".join(dict.fromkeys(row["commit"] for row in old))
    some = "" if len(old) == len(rows) else f"{len(old)} of {len(rows)} figures: "
    return f"**{some}Measured before changes to the code that this benchmark runs (commit {commits}).**"


def table(name: str, rows: Sequence[dict]) -> str:
    """Return figures as a Markdown table, with command, machines, commits and, where it is old, that above."""
    lines = [
        " ".join(part for part in (source_line(rows), age(name, rows)) if part),
        "",
        "| figure | value | interval | unit | goal | note |",
        "|---|---:|---|---|---|---|",
    ]
    for row in rows:
        interval = "" if row["low"] is None else f"from {row['low']:.4g}"
        if row["high"] is not None:
            interval = f"[{row['low']:.4g}, {row['high']:.4g}]"
        lines.append(
            f"| {row['figure']} | {row['value']:.4g} | {interval} | {row['unit']} | {row['goal']} | {row['note']} |"
        )
    return "\n".join(lines)
