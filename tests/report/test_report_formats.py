"""Numbers and names as readers see them."""

import pytest

from grasp_pipeline.report import formats


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (formats.number(0.94249), "0.942"),
        (formats.number(0.0564, signed=True), "+0.056"),
        (formats.number(-0.0001), "0.000"),
        (formats.number(None), "-"),
        (formats.number(float("nan")), "-"),
        (formats.interval(0.942, 0.91, 0.95), "0.942 [0.910, 0.950]"),
        (formats.interval(-0.01, -0.04, 0.02, signed=True), "-0.010 [-0.040, +0.020]"),
        (formats.interval(4.561, None, None), "4.561"),
        (formats.count(1_234_567), "1,234,567"),
        (formats.count(None), "-"),
        (formats.share(28, 100), "28.0%"),
        (formats.share(1, 100_000), "<0.1%"),
        (formats.share(0, 10), "0.0%"),
        (formats.share(0, 0), "-"),
        (formats.size(0), "0 B"),
        (formats.size(999), "999 B"),
        (formats.size(1_579_991), "1.58 MB"),
        (formats.size(999_900), "1.00 MB"),
        (formats.size(21_000_000), "21.0 MB"),
        (formats.compact(1_500_000), "1.5M"),
        (formats.compact(999_999), "1M"),
        (formats.compact(250), "250"),
    ],
)
def test_numbers(given: str, expected: str) -> None:
    assert given == expected


def test_names_are_one_visible_line() -> None:
    assert formats.plain(" a\n\tb ") == "a b"
    assert formats.plain("a\x1b[31mb\x00\u202ec") == "a�[31mb��c"
    assert formats.plain("données 日本 𝔘") == "données 日本 𝔘"


def test_long_names_keep_both_ends() -> None:
    short = formats.shorten("a" * 40 + "-end", 20)
    assert len(short) == 20
    assert short.startswith("aaa")
    assert short.endswith("-end")
    assert formats.shorten("as it is", 20) == "as it is"


def test_locations_show_no_secret() -> None:
    assert formats.public_location("s3://key:secret@bucket/store") == "s3://bucket/store"
    assert formats.public_location("az://container/store?sig=secret#x") == "az://container/store"
    assert formats.public_location("/data/user@host/store#1") == "/data/user@host/store#1"
