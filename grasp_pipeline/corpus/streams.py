"""From a file's bytes to one stream of UTF-8: decompressed, decoded, and counted on the way.

What a file begins with decides before its name does, so that compressed bytes under a plain name and plain bytes
under a compressed one are read as what they are.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from grasp_pipeline.corpus.files import InputFile
from grasp_pipeline.corpus.rows import BOM, Extent
from grasp_pipeline.corpus.sniffing import binary_kind, markup_kind
from grasp_pipeline.corpus.storage import StorageOptions, file_system, path_of

_BUFFER_BYTES = 1 << 20
_CODECS = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    **{
        b"BZh%d%b" % (level, block): "bz2" for level in range(1, 10) for block in (b"1AY&SY", b"\x17rE8P\x90")
    },
}
"""What compressed files begin with, and Arrow's name of the codec."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ZEROS = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}
"""Where an encoding without a mark has its zero bytes in text that begins in ASCII (as in RFC 4627, section 3)."""


@contextmanager
def open_utf8(
    file: InputFile, options: StorageOptions | None, extent: Extent, lines: bool = False
) -> Iterator[io.BufferedReader[Any]]:
    """Open a file as a stream of UTF-8, however it is compressed and encoded; sets `extent.size` at the end.

    Args:
        file: compressed by gzip, zstd, bz2 or lz4, or not; in UTF-8, or in UTF-16 or UTF-32 that begins with a byte
            order mark or in ASCII.
        options: for object stores.
        extent: gets the bytes of the stream, where nothing is decoded those that the file system counts.
        lines: whether ``\\r`` alone ends a line too; it is given as ``\\n``, and ``\\r\\n`` as a space and ``\\n``.

    Raises:
        OSError: the file cannot be read to its end.
        UnicodeDecodeError: it ends within a character.
    """
    system = file_system(file.uri, options)
    with system.open_input_file(path_of(file.uri)) as raw:
        head = raw.read(4_096)
        raw.seek(0)
        codec = _codec(head, file)
        packed = pa.BufferedInputStream(raw, _BUFFER_BYTES)
        source = pa.CompressedInputStream(packed, codec) if codec else packed
        content = _Content(source, lines)
        with io.BufferedReader(content, _BUFFER_BYTES) as stream:
            yield stream
            while stream.read(_BUFFER_BYTES):
                pass  # whatever was not read is counted all the same
            left = raw.size() - raw.tell()
            if left:
                raise OSError(f"its last {left} bytes follow the end of what is compressed")
        extent.size = content.delivered if codec or content.encoding else raw.size()


def _codec(head: bytes, file: InputFile) -> str | None:
    for magic, codec in _CODECS.items():
        if head.startswith(magic):
            return codec
    if file.compression is None or head.removeprefix(BOM).lstrip()[:1] in (b"{", b"["):
        return None
    if not head:
        raise OSError("it has no bytes")
    if (kind := markup_kind(head) or binary_kind(head)) is not None:
        raise OSError(f"it looks like {kind}")
    return file.compression


def wide_encoding(head: bytes) -> str | None:
    """Return the name of UTF-16 or UTF-32 if text begins so, else None."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    return _ZEROS.get("".join("x" if byte else "0" for byte in head[:4]))


class _Content(io.RawIOBase):
    """The bytes of a decompressed file as UTF-8.

    encoding: that of the file where it is not UTF-8; delivered: bytes given so far.
    """

    def __init__(self, source: pa.NativeFile, lines: bool) -> None:
        self._source, self._lines = source, lines
        self._first = source.read(_BUFFER_BYTES)
        self.encoding = wide_encoding(self._first)
        decoder = codecs.getincrementaldecoder(self.encoding or "utf-8")
        self._decoder = decoder("surrogatepass") if self.encoding else None
        self._ready, self._held, self._ended = memoryview(b""), b"", False
        self.delivered = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            self._ready = memoryview(self._more())
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        self.delivered += size
        return size

    def _more(self) -> bytes:
        data, self._first = self._first or self._source.read(_BUFFER_BYTES), b""
        self._ended = not data
        if self._decoder is not None:
            data = self._decoder.decode(data, self._ended).encode("utf-8", "surrogatepass")
        if not self._lines:
            return data
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") and not self._ended else b""  # `\n` may follow
        data = data[: len(data) - len(self._held)]
        return data.replace(b"\r\n", b" \n").replace(b"\r", b"\n") if b"\r" in data else data
