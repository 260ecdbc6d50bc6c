"""The text of a CSV as spreadsheets save it: UTF-8, UTF-16, GB 18030 or the Western code page.

Nothing in a file says which of the last two it is. A Chinese character is two bytes beyond ASCII,
nearly always; a Western letter or degree sign is one, and stands alone mostly. Two small letters
that stand together, as in "Medição", would be a rare character; two capitals stand inside a word.
"""

import codecs
import re
from typing import Final

from gateway.site.complaints import Complaints

WORKBOOKS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx and .ods, .xls
UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CHINESE: Final = "gb18030"
WESTERN: Final = "cp1252"
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]+")
_WESTERN_RUN: Final = re.compile(
    rb"(?<![\x80-\xff])(?:"
    rb"[\x80-\xff](?:[\x80-\xff]{2})*"  # no whole number of Chinese characters
    rb"|[\xd8-\xff][\x80-\xff]"  # of the second level of GB 2312, and alone
    rb"|(?<=[A-Za-z])[\xc0-\xdf]{2}(?=[A-Za-z])"
    rb")(?![\x80-\xff])"
)


def text_of_csv(file: str, data: bytes, complaints: Complaints) -> str | None:
    """What the file says; None where it is told that it is no CSV."""
    if data.startswith(WORKBOOKS):
        text = "found a workbook, expected CSV: save the sheet as CSV UTF-8"
        complaints.at_line(file, 1, "", text)
        return None
    utf16 = data.startswith(UTF16)
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", _code_page(data)):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    complaints.at_line(file, 1, "", "found an unknown encoding, expected UTF-8 or GB 18030")
    return None


def guessed(data: bytes) -> str:
    """The code page that a file's letters speak for; empty for Unicode, which is sure."""
    if data.startswith(UTF16):
        return ""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return _code_page(data)
    return ""


def _code_page(data: bytes) -> str:
    runs, western = _BEYOND_ASCII.findall(data), _WESTERN_RUN.findall(data)
    return WESTERN if 2 * len(western) > len(runs) else CHINESE
