"""Text as it is searched for: one form of each character for the index and the question alike. Pure.

Unicode NFKC (UAX 15) resolves ligatures, wide and styled letters; characters that are not seen are dropped; a word
that a line end divides is joined. What is shown of a document keeps its own text.
"""

import re
import unicodedata
from collections.abc import Iterable

UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
# hyphens that NFKC leaves apart
HYPHENS = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2212": "-", "\u02d7": "-", "\ufe63": "-"})
DIVIDED = re.compile(r"(?<=[^\W\d_])-[^\S\n]*\n[^\S\n]*(?=[^\W\d_])")
# of scripts without blanks every two neighbours are a term
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
)
# a small letter before a capital one: a name in code, or two runs of a document with nothing between them
JOINED = re.compile(r"[^\W\d_]*[a-z\u00df-\u00f6\u00f8-\u00ff][A-Z\u00c0-\u00d6\u00d8-\u00de][^\W\d_]*")
INNER_BORDER = re.compile(r"(?<=[a-z\u00df-\u00f6\u00f8-\u00ff])(?=[A-Z\u00c0-\u00d6\u00d8-\u00de])")
DIVIDED_CODE = re.compile(r"(?<=\w)-[^\S\n]*\n[^\S\n]*(?=\w)")
DIVIDED_WORDS = re.compile(r"([^\W\d_]+)-[^\S\n]*\n[^\S\n]*([^\W\d_]+)")
# what each of the three above needs
LINE_END = re.compile(r"-[^\S\n]*\n")


def normalized(text: str) -> str:
    """As it is embedded."""
    return _undivided(_characters(text))


def indexed(text: str) -> str:
    """As its words are indexed.

    A word that is divided at a hyphen of its own can be found with it, too, and so can both parts of ``bothParts``.
    """
    plain = _characters(text)
    joined = _undivided(plain)
    # most texts have neither, and the patterns are slow to find that out
    kept = [f"{before}-{after}" for before, after in DIVIDED_WORDS.findall(plain)] if LINE_END.search(plain) else []
    if INNER_BORDER.search(joined):
        kept += [INNER_BORDER.sub(" ", word) for word in JOINED.findall(joined)]
    return " ".join([joined, *kept]) if kept else joined


def visible(text: str) -> bool:
    """Whether any character of it is seen."""
    return bool(UNSEEN.sub("", text).strip())


def holds_phrase(text: str, phrase: str) -> bool:
    """Whether the words of ``phrase`` stand in ``text`` as they are, one after the other, whatever their case."""
    return which_hold_phrase([text], phrase)[0]


def which_hold_phrase(texts: Iterable[str], phrase: str) -> list[bool]:
    """``holds_phrase`` of each text."""
    wanted = " ".join(normalized(phrase).split())
    # a capital after a small letter begins a word; folding the case would lose it
    pattern = re.compile(re.escape(wanted), re.IGNORECASE)
    lower = wanted.lower() if wanted.isascii() else None

    def stands(text: str) -> bool:
        if lower is not None and text.isascii() and lower not in text.lower():
            return False
        return any(_is_border(text, at.start()) and _is_border(text, at.end()) for at in pattern.finditer(text))

    return [bool(wanted) and stands(" ".join(normalized(text).split())) for text in texts]


def _is_border(text: str, at: int) -> bool:
    """Whether no word goes on across this place. Scripts without blanks have a border at every letter."""
    if not 0 < at < len(text):
        return True
    before, after = text[at - 1], text[at]
    if not (before.isalnum() and after.isalnum()) or UNSPACED.match(before) or UNSPACED.match(after):
        return True
    return before.islower() and after.isupper()


def _undivided(plain: str) -> str:
    """Words that a line end divides are whole."""
    return DIVIDED_CODE.sub("-", DIVIDED.sub(_join, plain)) if LINE_END.search(plain) else plain


def _characters(text: str) -> str:
    if text.isascii():
        return text
    # a soft hyphen before a line end divides a word there, as a hyphen does
    text = re.sub("\u00ad(?=[^\\S\n]*\n)", "-", text)
    return UNSEEN.sub("", unicodedata.normalize("NFKC", UNSEEN.sub("", text))).translate(HYPHENS)


def _join(found: "re.Match[str]") -> str:
    """Small letters go on with the word; a capital begins another one, behind its hyphen."""
    following = found.string[found.end()]
    return "" if following.islower() or not following.isupper() else "-"
