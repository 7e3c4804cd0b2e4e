"""Lists and tables as people and spreadsheets write them: any Unicode form, commas, semicolons or tabs.

This small file stands in each of the three script folders, which do not import one another. What it takes and what it
refuses is docs/on_disk.md.
"""

import codecs
import contextlib
import os
import re
from pathlib import Path

from command import UserError

MOST_TEXT = 1 << 28  # bytes
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
SEPARATORS = (",", ";", "\t")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def decode_text(data: bytes, name: str) -> str:
    """UTF-8 or UTF-16, with or without a byte-order mark (without: it must begin in ASCII), or Windows-1252, as
    spreadsheets write; without control characters. Raises UserError."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS.get(mark) or ("utf-16-le" if data[1:2] == b"\0" else "utf-16-be" if data[:1] == b"\0" else "utf-8")
    text = None
    for attempt in (encoding, "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            text = data[len(mark) :].decode(attempt)
            break
    if text is None or CONTROL.search(text):
        raise UserError(f"{name} is no text")
    return text


def read_text(path: Path) -> str:
    """The text in a file. Raises UserError for what cannot be read, or is none."""
    try:
        if os.path.getsize(path) > MOST_TEXT:
            raise UserError(f"{path} has {os.path.getsize(path)} bytes: texts of more than {MOST_TEXT} are not read")
        return decode_text(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def read_list(path: Path) -> list[str]:
    """The words of a text, whatever stands between them: blanks, ends of lines, commas, semicolons, quotes."""
    return re.findall(r"[^\s,;\"']+", read_text(path))


def with_decimal_point(field: str) -> str:
    """`field`, with a point where it is a number with a decimal comma."""
    return field.replace(",", ".") if DECIMAL_COMMA.fullmatch(field) else field
