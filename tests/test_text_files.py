from __future__ import annotations

import codecs

import pytest

from kabench.text_files import EncodingError, without_mark


@pytest.mark.parametrize("text", ["", "a", "\u20ac\ufeff", "\ufeffa"])
def test_one_byte_order_mark_is_left_out(text: str) -> None:
    assert without_mark(text.encode("utf-8-sig")) == text.encode()


@pytest.mark.parametrize("text", [b"", b"\xff", b"\xfe\xfe", b"\0\0", b"a\xef\xbb\xbf"])
def test_other_bytes_stay_as_they_are(text: bytes) -> None:
    assert without_mark(text) == text


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
    ],
)
def test_another_encoding_is_refused_by_name(mark: bytes, encoding: str) -> None:
    with pytest.raises(EncodingError, match=f"this is {encoding}; save it as UTF-8"):
        without_mark(mark + b"a\0b\0")
