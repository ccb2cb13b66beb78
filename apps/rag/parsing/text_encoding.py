"""The bytes of a text file as text: by its byte order mark, its declaration, as UTF-8, or in the likeliest encoding."""

import codecs
import re
from collections.abc import Iterable

from apps.rag.parsing.formats import unreadable
from apps.rag.parsing.sections import Warn

BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DECLARED = re.compile(
    rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{2,40})|<meta[^>]{0,500}?charset\s*=\s*["']?\s*([\w.:-]{2,40})""",
    re.IGNORECASE,
)
DECLARATION_WITHIN = 4096
# what browsers read under these labels (WHATWG Encoding Standard)
LABELS = {
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "latin1": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "iso-8859-9": "cp1254",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "tis-620": "cp874",
    "x-mac-roman": "mac_roman",
    "macintosh": "mac_roman",
}
CANDIDATES = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "cp874"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949", "mac_roman", "cp437", "cp850"),
)
# texts in these alphabets are distinguished by their letters; among the rest, the commonest is right most often
DISTINCT = frozenset(
    ("cp1251", "cp1253", "cp1255", "cp1256", "koi8_r", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949")
)
LATIN = {
    "cp1252": "äöüßéèàçñáíóúêôîâûãõåæøœÄÖÜÉÅØëïùìò",
    "cp1250": "ąćęłńóśźżčďěňřšťůžáéíýúőűöüăâîşţČŘŠŽŁŚŻ",
    "cp1254": "ğışçöüİĞŞÇÖÜ",
    "iso8859-2": "ąćęłńóśźżčďěňřšťůžáéíýúőűöüăâîşţČŘŠŽŁŚŻ",
    "mac_roman": "äöüßéèàçñáíóúêôîâûãõåæøœÄÖÜÉÅØëïùìò",
    "cp850": "äöüßéèàçñáíóúêôîâûãõåæøÄÖÜÉÅØëïùìò",
}
"""Encodings of Latin letters, the commonest first, with the letters that their languages have often."""
BETWEEN_LETTERS = re.compile(r"[^\W\d_][^\w\s.,;:!?'\u2019\-/()&@%+\"][^\W\d_]|[a-z][À-ÞŠŒŽŸ][a-z]")
ESCAPES = re.compile(rb"\x1b(?:\$[@B]|\([BJ])")
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
DAMAGED_SHARE = 0.02
"""Of the bytes beyond ASCII, so many may be wrong in a text that is UTF-8 all the same."""
MOST_CONTROLS = 0.005
SAMPLE = 65_536


def decoded(data: bytes, warn: Warn, *, declares: bool = False) -> str:
    """The text with \\n for every line end.

    ``declares`` is for HTML and XML, which may name their encoding. Raises InvalidValue for what is no text.
    """
    text = _decoded(data, warn, declares)
    if "\0" in text or len(CONTROL.findall(text)) > 3 + MOST_CONTROLS * len(text):
        raise unreadable("It is neither text nor a format that is known here")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, warn: Warn, declares: bool) -> str:
    for mark, encoding in BOMS.items():
        if data.startswith(mark):
            return _strictly_or_replaced(data, encoding, warn)
    wide = _wide(data)
    if wide is not None:
        return _strictly_or_replaced(data, wide, warn)
    if ESCAPES.search(data) and (text := _strictly(data, "iso2022_jp")) is not None:
        return text
    text = _strictly(data, "utf-8")
    if text is not None:
        return text
    declared = _declared(data) if declares else None
    if declared and declared != "utf-8":
        return _strictly_or_replaced(data, declared, warn)
    if _is_damaged_utf8(data):
        return _strictly_or_replaced(data, "utf-8", warn)
    return _strictly_or_replaced(data, _guessed(data), warn)


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _strictly_or_replaced(data: bytes, encoding: str, warn: Warn) -> str:
    text = _strictly(data, encoding)
    if text is None:
        text = data.decode(encoding, "replace")
        warn(f"{text.count(chr(0xFFFD))} places could not be decoded as {encoding}")
    return text


def _declared(data: bytes) -> str | None:
    found = DECLARED.search(data[:DECLARATION_WITHIN])
    if found is None:
        return None
    label = (found[1] or found[2]).decode("ascii").lower()
    try:
        name = codecs.lookup(LABELS.get(label, label)).name
    except LookupError:
        return None
    # a declaration in ASCII is no UTF-16 (WHATWG, too); and what decodes to bytes is no encoding of texts
    return None if name.startswith(("utf-16", "utf-32", "utf-7")) or name not in _texts() else name


def _texts() -> frozenset[str]:
    names = (*CANDIDATES, "utf-8", "iso2022_jp", "euc_kr", "koi8_u", "cp1257", "cp1258", "cp866", "cp852", "hz")
    numbered = (f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16))
    return frozenset(codecs.lookup(name).name for name in (*names, *numbered))


def _wide(data: bytes) -> str | None:
    """UTF-16 without a mark: in most alphabets every second byte is zero."""
    sample = data[:2048]
    if len(sample) < 4 or b"\0" not in sample:
        return None
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if odd > 0.4 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.4 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _is_damaged_utf8(data: bytes) -> bool:
    text = data.decode("utf-8", "replace")
    wrong = text.count("\ufffd")
    right = sum(1 for char in text if char > "\x7f") - wrong
    return right > 0 and wrong <= max(1, DAMAGED_SHARE * right) and right > 2 * wrong


def _guessed(data: bytes) -> str:
    """The likeliest legacy encoding, by charset-normalizer where the alphabet tells."""
    from charset_normalizer import from_bytes  # 50 ms, and few files need it

    sample = _around_what_is_not_ascii(data)
    best = from_bytes(sample, cp_isolation=list(CANDIDATES), enable_fallback=False).best()
    if best is not None and codecs.lookup(best.encoding).name in _names(DISTINCT):
        return best.encoding
    readable = [(name, text) for name in LATIN if (text := _strictly(sample, name)) is not None]
    if readable:
        return max(readable, key=lambda pair: _latin_score(*pair))[0]
    return best.encoding if best is not None else "cp1252"


def _latin_score(encoding: str, text: str) -> int:
    """Letters that are common there, less what does not stand inside a word."""
    beyond = [char for char in text if char > "\x7f"]
    common = sum(char in LATIN[encoding] for char in beyond)
    odd = sum("\x80" <= char <= "\x9f" for char in beyond)
    return common - 3 * (len(BETWEEN_LETTERS.findall(text)) + odd)


def _names(encodings: Iterable[str]) -> set[str]:
    return {codecs.lookup(name).name for name in encodings}


def _around_what_is_not_ascii(data: bytes) -> bytes:
    """Whole lines: a long file may begin with many that say nothing about its encoding."""
    if len(data) <= SAMPLE:
        return data
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    return b"\n".join(lines)[:SAMPLE]
