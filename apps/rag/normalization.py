"""Text as it is searched for: one form of each character for the index and the question alike. Pure.

Unicode NFKC (UAX 15) resolves ligatures, wide and styled letters; characters that are not seen are dropped; a word
that a line end divides is joined. What is shown of a document keeps its own text.
"""

import re
import unicodedata

UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
# hyphens that NFKC leaves apart
HYPHENS = str.maketrans({"\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2212": "-", "\u02d7": "-", "\ufe63": "-"})
DIVIDED = re.compile(r"(?<=[^\W\d_])-[^\S\n]*\n[^\S\n]*(?=[^\W\d_])")
DIVIDED_CODE = re.compile(r"(?<=\w)-[^\S\n]*\n[^\S\n]*(?=\w)")


def normalized(text: str) -> str:
    """As it is embedded."""
    return DIVIDED_CODE.sub("-", DIVIDED.sub(_join, _characters(text)))


def indexed(text: str) -> str:
    """As its words are indexed: a word that is divided at a hyphen of its own can be found with it, too."""
    plain = _characters(text)
    joined = normalized(text)
    kept = [f"{before}-{after}" for before, after in _divided_words(plain)]
    return " ".join([joined, *kept]) if kept else joined


def _characters(text: str) -> str:
    # a soft hyphen before a line end divides a word there, as a hyphen does
    text = re.sub("\u00ad(?=[^\\S\n]*\n)", "-", text)
    return UNSEEN.sub("", unicodedata.normalize("NFKC", UNSEEN.sub("", text))).translate(HYPHENS)


def _join(found: "re.Match[str]") -> str:
    """Small letters go on with the word; a capital begins another one, behind its hyphen."""
    following = found.string[found.end()]
    return "" if following.islower() or not following.isupper() else "-"


def _divided_words(text: str) -> list[tuple[str, str]]:
    return re.findall(r"([^\W\d_]+)-[^\S\n]*\n[^\S\n]*([^\W\d_]+)", text)
