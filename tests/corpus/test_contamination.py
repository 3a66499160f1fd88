"""The n-gram overlap against a slow twin, and its rules for odd input."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.corpus.contamination import HeldOutGrams, Overlap, ngram_overlap

WORDS = st.sampled_from(["a", "b", "c", "dd", "é", "x_1", "42"])
GAPS = st.sampled_from([" ", "\n", ", ", " - ", "...", "\t\u00a0"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A text over few words, so that shared runs are common."""
    return "".join(draw(WORDS) + draw(GAPS) for _ in range(draw(st.integers(0, 14))))


COLLECTIONS = st.lists(texts(), max_size=4)


def naive(held_out: dict[str, str], corpus: list[tuple[str, str]], n: int) -> list[Overlap]:
    """The definition word for word: every pair, every n-gram, by scanning lists."""
    found = []
    for document, text in corpus:
        there = [word for word in re.split(r"\W+", text.lower()) if word]
        for name, own in held_out.items():
            here = [word for word in re.split(r"\W+", own.lower()) if word]
            length = min(n, len(here))
            if not length:
                continue
            grams = {tuple(here[at : at + length]) for at in range(len(here) - length + 1)}
            windows = [tuple(there[at : at + length]) for at in range(len(there) - length + 1)]
            shared = sum(any(gram == window for window in windows) for gram in grams)
            if shared:
                found.append(Overlap(name, document, shared, shared / len(grams)))
    return found


@given(held=COLLECTIONS, documents=COLLECTIONS, n=st.integers(1, 5))
def test_agrees_with_the_slow_twin(held: list[str], documents: list[str], n: int) -> None:
    held_out = {f"h{index}": text for index, text in enumerate(held)}
    corpus = [(f"d{index}", text) for index, text in enumerate(documents)]
    assert ngram_overlap(held_out, iter(corpus), n) == naive(held_out, corpus, n)


@given(text=texts(), gap=GAPS, n=st.integers(1, 5))
def test_case_and_spacing_do_not_matter(text: str, gap: str, n: int) -> None:
    words = re.findall(r"\w+", text)
    rewritten = gap + gap.join(words).upper() + gap
    for held_out, document in ((text, rewritten), (rewritten, text)):
        pairs = ngram_overlap({"h": held_out}, [("d", document)], n)
        assert [pair.share for pair in pairs] == ([1.0] if words else [])


def test_counts_distinct_ngrams_of_the_held_out_side() -> None:
    pairs = ngram_overlap({"h": "a b c a b c d e"}, [("d", "x a b c y a b c z")], n=3)
    # abc bca cab abc bcd cde: five distinct, of which only abc is in the document
    assert pairs == [Overlap("h", "d", shared=1, share=1 / 5)]


def test_short_held_out_text_is_one_ngram_of_all_its_words() -> None:
    held_out = {"short": "Three little words", "one": "words", "empty": " ... "}
    corpus = [
        ("whole", "these three, little words!"),
        ("torn", "three words, little ones"),
        ("shorter", "three little"),
        ("empty", ""),
    ]
    assert ngram_overlap(held_out, corpus) == [
        Overlap("short", "whole", 1, 1.0),
        Overlap("one", "whole", 1, 1.0),
        Overlap("one", "torn", 1, 1.0),
    ]


def test_a_repeated_corpus_id_gives_a_pair_each_time() -> None:
    pairs = ngram_overlap({"h": "a b"}, [("d", "a b"), ("d", "x a b")], n=2)
    assert [(pair.document, pair.shared) for pair in pairs] == [("d", 1), ("d", 1)]


def test_no_held_out_documents_and_no_corpus() -> None:
    assert ngram_overlap({}, [("d", "a b c")]) == []
    assert ngram_overlap({"h": "a b c"}, []) == []


def test_an_ngram_of_no_words_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ngram_overlap({"h": "a"}, [("d", "a")], n=0)


CHINESE = (
    "数据管道的第一步是把原始文件读入内存并检查每一行是否完整。如果某一行缺少文本字段,就把它连同原因一起写入拒绝表,"
    "这样以后可以查到它为什么没有被采用。接下来对文本做规范化处理,去掉控制字符,然后计算摘要。"
)
JAPANESE = (
    "この地方では冬になると雪が深く積もり、人々は家の中で長い夜を過ごす。囲炉裏のまわりに集まって昔話を語り、"
    "ｶﾞﾗｽの窓をたたく風の音を聞きながら、春が来るのを静かに待っているのである。"
)
THAI = "เมื่อฝนตกหนักในภูเขาน้ำในแม่น้ำก็ไหลเชี่ยวและชาวบ้านต้องรอจนกว่าน้ำจะลดลงจึงจะข้ามไปยังอีกฝั่งหนึ่งได้"


@pytest.mark.parametrize("held_out", [CHINESE, JAPANESE, THAI])
def test_half_a_text_without_spaces_inside_another_is_found(held_out: str) -> None:
    other = {CHINESE: JAPANESE, JAPANESE: CHINESE, THAI: CHINESE}[held_out]
    half = held_out[: len(held_out) // 2]
    # Split before whole letters only: a Thai vowel of category Lo, too, belongs to the letter before it.
    spaced = re.sub("(?=[\u0e01-\u0e2e\u3041-\u9fff])", "\n", half)
    corpus = [("inside", "Before it " + half + other), ("spaced", spaced), ("apart", other)]
    found = {pair.document: pair.share for pair in ngram_overlap({"h": held_out}, corpus)}
    assert set(found) == {"inside", "spaced"}
    assert all(0.35 < share < 0.55 for share in found.values())


def test_full_width_forms_and_spaces_do_not_hide_a_copy() -> None:
    held_out = "GPU 2026 で学習した model の loss は 3.25 まで下がった。ガイドを参照。"
    hidden = "ＧＰＵ ２０２６で学習した ｍｏｄｅｌ の ｌｏｓｓ は ３．２５まで下がった。ｶﾞｲﾄﾞを参照。"
    pairs = ngram_overlap({"h": held_out}, [("d", hidden)])
    assert [pair.share for pair in pairs] == [1.0]


def test_ngrams_do_not_reach_across_documents() -> None:
    corpus = [("one", "a b"), ("two", "c d"), ("empty", ""), ("three", "a b c")]
    pairs = ngram_overlap({"h": "a b c d"}, corpus, n=3)
    assert [(pair.document, pair.shared) for pair in pairs] == [("three", 1)]


@given(held=COLLECTIONS, documents=COLLECTIONS)
def test_batches_of_documents_change_nothing(held: list[str], documents: list[str]) -> None:
    held_out = {f"h{index}": text for index, text in enumerate(held)}
    corpus = [(f"d{index}", text) for index, text in enumerate(documents)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grasp_pipeline.corpus.contamination._BATCH_CHARACTERS", 1)
        single = ngram_overlap(held_out, corpus, n=2)
    assert single == ngram_overlap(held_out, corpus, n=2)


def test_the_worst_overlap_above_the_limit_counts_and_of_equal_ones_the_first_name() -> None:
    grams = HeldOutGrams({"b": "x y z", "a": "x y z", "c": "x y q r"}, n=2)
    found = grams.contaminated([("d", "x y z"), ("e", "x y")], 0.5)
    assert {name: (pair.held_out, pair.share) for name, pair in found.items()} == {"d": ("a", 1.0)}


def test_reads_three_megabytes_against_many_held_out_documents_quickly() -> None:
    filler = " ".join(f"w{index % 9973}" for index in range(30_000))
    held_out = {
        f"h{index}": f"start{index} {filler[index * 100 : index * 100 + 1000]}" for index in range(1000)
    }
    corpus = ((f"d{index}", filler) for index in range(16))
    started = time.process_time()
    pairs = ngram_overlap(held_out, corpus)
    assert time.process_time() - started < 15
    assert len(pairs) == 16 * len(held_out)
