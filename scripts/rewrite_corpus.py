"""Rewrites a corpus several times, so that a benchmark has one of any size without near duplicates of its documents.

In every rewrite a share of the words of a document gives way to words drawn from its file, so sizes, languages, lines
and markup stay as they are. Two rewrites share few of their word 5-grams (a 5-gram stays with probability .65^5 = .12,
in both of two rewrites with .013), far below any threshold of near duplicates. A rewrite follows from its number and
the file's name and content alone.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from grasp_pipeline.seeds import generator

REPLACED = 0.35
_WORD = re.compile(r"[^\W\d_]{2,}")
_LICENCES = "LICENSES.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status is 1 where there is nothing to rewrite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/large/corpus"), help="folder (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("data/large/rewritten/corpus"), help="folder (%(default)s)"
    )
    parser.add_argument("--times", type=int, default=10, help="rewrites (%(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="of each file's documents (%(default)s)")
    options = parser.parse_args(arguments)
    files = sorted(options.corpus.glob("*.parquet"))
    if not files or options.times < 1 or not 0 < options.share <= 1:
        print(
            f"rewrite_corpus: {options.corpus} holds no Parquet files, or --times or --share is out of range; run "
            "`make corpus-large` first, give 1 or more times and a share of at most 1",
            file=sys.stderr,
        )
        return 1
    size = sum(rewrite(files, options.out, options.times, options.share))
    print(f"{size:,} bytes of text in {options.out}", file=sys.stderr)
    return 0


def rewrite(files: Sequence[Path], out: Path, times: int, share: float = 1.0) -> Iterator[int]:
    """Writes the rewrites of every file; yields the bytes of text of each."""
    out.mkdir(parents=True, exist_ok=True)
    for path in out.glob("*.parquet"):
        path.unlink()
    for path in files:
        frame = pl.read_parquet(path)
        frame = frame.head(max(1, round(share * frame.height)))
        parsed = _Parsed(frame["text"].to_list())
        for number in range(times):
            texts = pl.Series("text", parsed.rewritten(generator("rewrite", number, path.stem)))
            name = f"{number:03d}-{path.name}"
            ids = pl.col("id") + f"~{number}"
            frame.with_columns(ids, texts).write_parquet(out / name, compression="zstd", statistics=False)
            yield int(texts.str.len_bytes().sum())
    notices = files[0].parent.parent / _LICENCES
    if notices.is_file():
        (out.parent / _LICENCES).write_bytes(notices.read_bytes())


class _Parsed:
    """The words of a file's documents and what stands between them."""

    def __init__(self, texts: Sequence[str]) -> None:
        found = [list(_WORD.finditer(text)) for text in texts]
        self._between = [
            [
                text[a:b]
                for a, b in zip(
                    [0, *(m.end() for m in words)], [*(m.start() for m in words), len(text)], strict=True
                )
            ]
            for text, words in zip(texts, found, strict=True)
        ]
        self._words = np.array([m.group() for words in found for m in words], dtype=object)
        self._ends = np.cumsum([len(words) for words in found])

    def rewritten(self, draw: np.random.Generator) -> list[str]:
        """Returns the texts with a share of their words replaced by words of the file."""
        n = len(self._words)
        places = np.where(draw.random(n) < REPLACED, draw.integers(0, max(1, n), n), np.arange(n))
        words = self._words[places].tolist()
        texts, start = [], 0
        for between, end in zip(self._between, self._ends.tolist(), strict=True):
            pieces = [""] * (2 * len(between) - 1)
            pieces[::2] = between
            pieces[1::2] = words[start:end]
            texts.append("".join(pieces))
            start = end
        return texts


if __name__ == "__main__":
    sys.exit(main())
