"""The corpus builder's converters, cuts, masks and package errors, on small inputs."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPTS = str(Path(__file__).resolve().parents[2] / "scripts")


def _load(name: str) -> Any:
    sys.path.insert(0, SCRIPTS)
    try:
        return importlib.import_module(f"corpus_sources.{name}")
    finally:
        sys.path.remove(SCRIPTS)


catalogue = _load("catalogue")
correspondence = _load("correspondence")
holdout = _load("holdout")
markup = _load("markup")
packages = _load("packages")
pages = _load("pages")


def test_html_keeps_what_a_reader_sees() -> None:
    html = """<nav class="sidebar">menu</nav><div class="t-navbar"><div>more menu</div></div>
      <h2>Title <a>here</a></h2><p>One
      two&nbsp;&amp; <b>three</b>.</p><script>var x = "<p>";</script>
      <ul><li><p>first</p></li><li>second</li></ul>
      <pre>fn main() {
    run();
}</pre><table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>after"""
    assert markup.html_text(html) == (
        "## Title here\n\nOne two & three.\n\n- first\n\n- second\n\n"
        "fn main() {\n    run();\n}\n\na b\nc\n\nafter"
    )


def test_mallard_page_without_its_credits() -> None:
    xml = b"""<page xmlns="http://projectmallard.org/1.0/"><info><credit><name>A. Person</name></credit>
      <desc>In short.</desc></info><title>Set
      up</title><p>Do <gui>this</gui>:</p><steps><item><p>Click.</p></item><item><p>Wait.</p></item></steps>
      <section><title>Then</title><note><p>Mind it.</p></note><screen>$ ls
  a</screen></section></page>"""
    assert markup.mallard_text(xml) == (
        "# Set up\n\nIn short.\n\nDo this:\n\n1. Click.\n2. Wait.\n\n## Then\n\nMind it.\n\n$ ls\n  a"
    )


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("From: Ann <ann.b+x@mail.example.org>", "From: Ann <[email]@mail.example.org>"),
        ("for <me@localhost>; id x@[127.0.0.1]", "for <[email]@localhost>; id [email]@[127.0.0.1]"),
        ("bounce-me=here.org@list.net", "[email]@list.net"),
        ("http://x.org/out?who=ann%40example.org", "http://x.org/out?who=[email]%40example.org"),
        ("width=40 at 3@ each, ratio=40.5", "width=40 at 3@ each, ratio=40.5"),
    ],
)
def test_addresses_are_masked(text: str, masked: str) -> None:
    assert correspondence.mask_addresses(text) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("call 1-800-555-0199 now", "call [phone] now"),
        ("(212) 555-0123", "[phone]"),
        ("+353 1 5550 123, Dublin", "[phone], Dublin"),
        ("Tel: 020 555 0123", "Tel: [phone]"),
        ("on 2002-08-23 16:14:11 from 64.161.22.236", "on 2002-08-23 16:14:11 from 64.161.22.236"),
    ],
)
def test_telephone_numbers_are_masked(text: str, masked: str) -> None:
    assert correspondence.mask_phones(text) == masked


@given(
    text=st.text(alphabet=st.sampled_from("aé. \n#=\U0001f600"), max_size=400),
    limit=st.integers(16, 60),
)
def test_parts_fit_and_lose_nothing_but_empty_lines(text: str, limit: int) -> None:
    parts = pages.split(text, limit)
    assert all(0 < len(part.encode()) <= limit for part in parts)
    assert "".join(parts).replace("\n", "") == text.replace("\n", "")


def test_a_long_page_is_cut_at_headings() -> None:
    text = "# One\n\n" + "word " * 5 + "\n\n# Two\n\n" + "word " * 5
    assert [part[:5] for part in pages.split(text, 40)] == ["# One", "# Two"]


def test_documents_of_a_page_are_numbered() -> None:
    page = pages.Page("s/p", "s", lambda: "a" * (pages.DOCUMENT_BYTES + 1))
    assert [document.id for document in pages.documents(page)] == ["s/p", "s/p#2"]
    assert list(pages.documents(pages.Page("s/q", "s", lambda: " \n"))) == []


def test_an_excerpt_ends_at_a_border() -> None:
    text = "First sentence is here. Second one. " * 4
    assert pages.excerpt(text, 10, 60) == "First sentence is here. Second one. First sentence is here."
    assert pages.excerpt("x" * 90, 10, 60) == "x" * 60
    assert pages.excerpt("short", 10, 60) is None


def _task(number: int, text: str) -> Any:
    return pages.Document(f"s/{number}", "s", text)


def _sentence(number: int) -> str:
    return " ".join(f"w{number}x{position}" for position in range(20))


def test_hold_out_drops_copies_and_deals_out_the_splits() -> None:
    pool = holdout.Pool("t", SimpleNamespace(prefixes=("s/",), wanted=780, reserve=1000))
    pool.candidates = [_task(number, _sentence(number)) for number in range(785)]
    pool.candidates[3] = _task(3, _sentence(2) + " tail")  # a copy of the candidate before it
    corpus = [_task(9000, "before " + _sentence(7)), _task(9001, "nothing alike")]
    rows, reports = holdout.hold_out([pool], corpus)
    kept = {row.document for row in rows["t"]}
    assert len(kept) == 780
    assert kept.isdisjoint({"s/3", "s/7", "s/783"})
    assert sum(row.fold == 0 for row in rows["t"]) == sum(row.fold == 1 for row in rows["t"]) == 150
    report = reports["t"]
    assert (report.removed_for_corpus_overlap, report.removed_for_held_out_overlap) == (1, 1)
    assert (report.candidates, report.unused, report.max_overlap) == (785, 3, 0.0)


def test_hold_out_sees_copies_in_scripts_without_spaces() -> None:
    def clause(number: int) -> str:
        return "".join(chr(0x4E00 + (number * 31 + place * place) % 5000) for place in range(40))

    pool = holdout.Pool("t", SimpleNamespace(prefixes=("s/",), wanted=780, reserve=1000))
    pool.candidates = [_task(number, clause(number)) for number in range(785)]
    corpus = [_task(9000, "前文" + clause(7)[:30])]
    rows, reports = holdout.hold_out([pool], corpus)
    assert "s/7" not in {row.document for row in rows["t"]}
    assert reports["t"].removed_for_corpus_overlap == 1


def test_a_larger_corpus_loses_its_copies_of_held_out_documents() -> None:
    pool = holdout.Pool("t", SimpleNamespace(prefixes=("s/",), wanted=780, reserve=780))
    pool.candidates = [_task(number, _sentence(number)) for number in range(780)]
    rows, reports = holdout.hold_out([pool], [])
    one_run_of_eight = " ".join(_sentence(5).split()[:13])
    corpus = [_task(9000, "x " + _sentence(7)), _task(9001, one_run_of_eight), _task(9002, "y")]
    cleared, reports = holdout.clear_corpus(rows, reports, corpus)
    assert [document.id for document in cleared] == ["s/9001", "s/9002"]
    assert reports["t"].corpus_documents_removed == 1
    assert reports["t"].max_overlap == 1 / 8
    assert reports["t"].mean_overlap == pytest.approx(1 / 8 / 780)


def test_the_shards_hold_every_demo_source_once() -> None:
    slices: dict[str, list[tuple[float, float]]] = {}
    for _, parts in catalogue.SHARDS:
        for source, start, end in parts:
            slices.setdefault(source, []).append((start, end))
    assert set(slices) == {source.name for source in catalogue.SOURCES if source.demo_bytes}
    for spans in slices.values():
        borders = [0.0, *(border for span in sorted(spans) for border in span), 1.0]
        assert borders[::2] == borders[1::2]


def test_hold_out_says_when_a_task_lacks_documents() -> None:
    pool = holdout.Pool("t", SimpleNamespace(prefixes=("s/",), wanted=2, reserve=2))
    pool.candidates = [_task(1, _sentence(1)), _task(2, _sentence(1))]
    with pytest.raises(packages.CorpusError, match=r"Task t finds 1 documents .* wants 2\."):
        holdout.hold_out([pool], [])


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH, so that a test says which clients there are."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_missing_client_is_one_clear_sentence(tmp_path: Path, clients: Path) -> None:
    with pytest.raises(packages.CorpusError) as caught:
        packages.PackageStore(tmp_path).get(packages.PackageName("debian", "some-doc"))
    assert str(caught.value) == (
        "Cannot get the Debian some-doc package: `apt-get` is not installed "
        "(run `apt-get update` on a Debian 12 machine first)."
    )


def test_a_refusal_is_passed_on(tmp_path: Path, clients: Path) -> None:
    npm = clients / "npm"
    npm.write_text("#!/bin/sh\necho 'first line' >&2\necho 'npm error 404.' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(packages.CorpusError, match=r"`npm` said 'npm error 404' \(npm must be"):
        packages.PackageStore(tmp_path).get(packages.PackageName("npm", "@scope/data", "1.0.0"))
