"""Mail and speeches, and the masks for personal addresses and telephone numbers."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .packages import Package
from .pages import Page, tidy

ADDRESS_TOKEN = "[email]"
PHONE_TOKEN = "[phone]"

_HOST = r"(?=\[?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*)"
_DOTTED_HOST = r"(?=[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,6}\b)"
_ADDRESS = re.compile(rf"(?<![\w.+=%'!#$*~^{{}}|-])[\w.+=%'!#$*~^{{}}|-]+@{_HOST}")
_CODED_ADDRESS = re.compile(rf"(?<![\w.+'-])[\w.+'-]+?(?P<at>%40|=40){_DOTTED_HOST}")
_PHONES = (
    re.compile(r"(?<![\w.])(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"),
    re.compile(r"(?<![\w+])\+\d{1,3}[ .-]?\(?\d[\d ().-]{6,16}\d\b"),
    re.compile(
        r"(?i)\b(?P<word>tel|telephone|fax|phone|call|cell|mobile|gsm|voice)(?P<gap>[^\w\n(+]{1,8})"
        r"[(+]?\d[\d ().-]{5,16}\d\b"
    ),
)
# Advertising for pornography and attached Windows programs are not for a demo repository.
_UNFIT = re.compile(
    r"(?i)\b(?:porn\w*|xxx+|sex|sexual\w*|sexy|nude\w*|naked|teens?|erotic\w*|horny|penis|viagra|lolita\w*"
    r"|adult|adults|hardcore|fuck\w*|pussy|sluts?|cum|incest|rape\w*|virgins?|breasts?|dick|cock)\b"
)
_PROGRAM = re.compile(r"^TV[qopr][A-Za-z0-9+/]{50}", re.M)
_CHARSET = re.compile(rb"(?i)charset=\"?([A-Za-z0-9_-]+)")


def mask_addresses(text: str) -> str:
    """The text with the local part of every e-mail address replaced."""
    text = _CODED_ADDRESS.sub(lambda match: ADDRESS_TOKEN + match["at"], text)
    return _ADDRESS.sub(f"{ADDRESS_TOKEN}@", text)


def mask_phones(text: str) -> str:
    """The text with what looks like a telephone number replaced."""
    for pattern in _PHONES[:2]:
        text = pattern.sub(PHONE_TOKEN, text)
    return _PHONES[2].sub(lambda match: match["word"] + match["gap"] + PHONE_TOKEN, text)


def mail_pages(package: Package) -> Iterator[Page]:
    """Raw messages with their headers, less those that a demo should not hold."""
    root = package.root / "package" / "data"
    for path in sorted(root.glob("*/*.txt")):
        name = f"mail/{path.parent.name}/{path.name.partition('.')[0]}"
        yield Page(name, "mail", partial(_mail_text, path))


def _mail_text(path: Path) -> str:
    """The message, masked; empty where it is unfit."""
    text = _decode(path.read_bytes())
    if _UNFIT.search(text) or _PROGRAM.search(text):
        return ""
    return mask_phones(mask_addresses(tidy(text)))


def _decode(raw: bytes) -> str:
    declared = [name.decode("ascii") for name in _CHARSET.findall(raw)[:1]]
    for charset in ("utf-8", *declared, "cp1252"):
        try:
            return raw.decode(charset)
        except (UnicodeDecodeError, LookupError):
            continue
    return raw.decode("latin-1")


def speech_pages(package: Package) -> Iterator[Page]:
    """State of the Union addresses, one a page."""
    for path in sorted((package.root / "package" / "data").glob("*.txt")):
        yield Page(f"sotu/{path.stem}", "sotu", partial(_speech_text, path))


def _speech_text(path: Path) -> str:
    return tidy(path.read_text(encoding="utf-8", errors="replace"))
