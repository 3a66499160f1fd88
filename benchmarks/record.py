"""Write all tables of the benchmarks again from the result files: `python -m benchmarks.record`, `make tables`."""

from __future__ import annotations

import json

from benchmarks import published
from benchmarks.family.page import write_page
from benchmarks.fidelity_tables import write_tables
from benchmarks.scale.model import write_model
from benchmarks.sketch import write_document


def refresh() -> list[str]:
    """Write all tables again from the result files; returns the names of the files."""
    text, names = published.README.read_text(), []
    for path in sorted(published.RESULTS.glob("*.json")):
        rows = json.loads(path.read_text())
        text = published.with_table(text, path.stem, rows)
        published.write_on_page(path.stem, rows)
        names.append(path.stem)
    published.README.write_text(text)
    write_tables()
    write_document(published.RESULTS / "sketch.json")
    write_page()
    write_model()
    return names


if __name__ == "__main__":
    print("tables of", ", ".join(refresh()))
