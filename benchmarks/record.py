"""Result files: one list of figures per benchmark, and the tables that are generated from them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
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


def commit() -> str:
    """Return the commit that was measured, marked when files other than pages and results differ from it."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    code = [".", ":!*.md", ":!benchmarks/results"]
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", *code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def save(name: str, command: str, figures: Sequence[Figure]) -> Path:
    """Write `results/NAME.json` and the table in the README; returns the file."""
    return _write(name, _rows(command, figures))


def update(name: str, command: str, figures: Sequence[Figure]) -> Path:
    """Replace some figures of `results/NAME.json`, by name up to a bracket, and keep the others; returns the file.

    Every row says which commit it was measured at. A figure keeps its place, new ones come last.
    """
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else []
    measured = _rows(command, figures)
    replaced = {_plain(row) for row in measured}
    rows = [row for row in before if _plain(row) not in replaced] + measured
    places = list(dict.fromkeys(map(_plain, before + measured)))
    return _write(name, sorted(rows, key=lambda row: places.index(_plain(row))))


def _rows(command: str, figures: Sequence[Figure]) -> list[dict]:
    where = {"command": command, "machine": machine(), "commit": commit()}
    return [asdict(figure) | where for figure in figures]


def _plain(row: dict) -> str:
    return row["figure"].partition("[")[0]


def _write(name: str, rows: Sequence[dict]) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    README.write_text(with_table(README.read_text(), name, rows))
    return path


def with_table(text: str, name: str, rows: Sequence[dict]) -> str:
    """Return the text with the table of a result file between its markers."""
    return replace_between(text, name, table(rows))


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


def table(rows: Sequence[dict]) -> str:
    """Return figures as a Markdown table, with command, machines and commits above."""
    command, machines, commits = (
        list(dict.fromkeys(row[field] for row in rows)) for field in ("command", "machine", "commit")
    )
    lines = [
        f"`{command[0]}` on {'; '.join(machines)}, commit {', '.join(commits)}.",
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


def refresh() -> list[str]:
    """Write the README's tables again from the result files; returns the names of the files."""
    text, names = README.read_text(), []
    for path in sorted(RESULTS.glob("*.json")):
        text = with_table(text, path.stem, json.loads(path.read_text()))
        names.append(path.stem)
    README.write_text(text)
    return names


if __name__ == "__main__":
    print("tables of", ", ".join(refresh()))
