"""Names and values that somebody might send on purpose."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = [
    "x' OR 'a'='a",
    '"; DROP TABLE documents; --',
    "..",
    "../../etc/passwd",
    "a/../../b",
    "/etc/passwd",
    "a\nb",
    "a\r\nSet-Cookie: x",
    "a\0b",
    "\x1b[31mred\x1b[0m",
    "n" * 4096,
    "é" * 2048,
    "\u202eexe.txt",
    "\u2066rtl\u2069 עברית",
    "a\u200bb\u2060c\ufeff",
    "\U000e0041tag",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "%2e%2e%2f",
    "a=b",
    "a%20b",
    "C:\\x",
    "s3://bucket/x",
    "file:///etc/passwd",
    "__HIVE_DEFAULT_PARTITION__",
    "",
    " ",
    ".",
    "~",
    "$(id)",
    "{{7*7}}",
    "\ud800",
    "\uffff",
    "null",
    "[x]",
    "*",
]

names = st.one_of(
    st.sampled_from(NAMES),
    st.text(max_size=40),
    st.builds(lambda a, b: a + b, st.sampled_from(NAMES), st.sampled_from(NAMES)),
)

encodable = names.filter(lambda name: not any("\ud800" <= letter <= "\udfff" for letter in name))

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        names,
    ),
    lambda inside: st.one_of(st.lists(inside, max_size=3), st.dictionaries(names, inside, max_size=3)),
    max_leaves=6,
)
