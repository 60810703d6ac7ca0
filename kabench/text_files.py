"""Byte order marks: Windows programs begin a text in UTF-8 with one, and write UTF-16 where nobody asked for it."""

from __future__ import annotations

import codecs

_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class EncodingError(ValueError):
    """A text is not in UTF-8."""


def without_mark(text: bytes) -> bytes:
    """Return a text in UTF-8 without its byte order mark. Raises `EncodingError` if it has that of another encoding."""
    for mark, encoding in _OTHER_ENCODINGS.items():
        if text.startswith(mark):
            raise EncodingError(f"this is {encoding}; save it as UTF-8")
    return text.removeprefix(codecs.BOM_UTF8)
