"""The text of an HTML page, read once from its beginning to its end: linear in its length, whatever is in it.

html.parser of the standard library looks for the end of each construct anew, so a page of 80 kB of ``<!--`` takes it
half a minute. Here a construct without an end goes on to the end of the page, as the HTML standard has it, so nothing
is looked for twice.
"""

import re
from html import unescape

UNSEEN = frozenset({"head", "template", "noscript"})
RAW = frozenset({"script", "style", "textarea", "title", "iframe", "noembed", "noframes", "xmp"})
SHOWN_RAW = frozenset({"textarea", "xmp"})
BLOCKS = frozenset({"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "pre"})

NAME = re.compile(r"[a-zA-Z][^\s/>]{0,63}")
IN_TAG = re.compile(r"""=\s*["']|>""")
# digits without an end are no character, and Python reads no number of thousands of them
REFERENCE = re.compile(
    r"&(?:#[0-9]{1,7}(?![0-9]);?|#[xX][0-9a-fA-F]{1,6}(?![0-9a-fA-F]);?|[a-zA-Z][a-zA-Z0-9]{1,31};?)"
)


def readable(page: str) -> str:
    """The text without markup, scripts and styles: a line a block, runs of white space as one blank."""
    text = REFERENCE.sub(lambda found: unescape(found[0]), "".join(_Text(page).parts()))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


class _Text:
    """``at`` only ever grows, and each search begins where the last one ended."""

    def __init__(self, page: str) -> None:
        self._page = page
        self._at = 0
        self._unseen = 0
        self._parts: list[str] = []

    def parts(self) -> list[str]:
        page = self._page
        while self._at < len(page):
            opened = page.find("<", self._at)
            if opened < 0:
                opened = len(page)
            self._show(self._at, opened)
            self._at = opened
            if opened < len(page):
                self._markup()
        return self._parts

    def _show(self, start: int, end: int) -> None:
        if end > start and not self._unseen:
            self._parts.append(self._page[start:end])

    def _markup(self) -> None:
        page, at = self._page, self._at
        following = page[at + 1 : at + 2]
        if page.startswith("<!--", at):
            self._skip_to("-->", at + 4)
        elif following in ("!", "?"):
            self._skip_to(">", at + 2)
        elif following == "/" and (name := NAME.match(page, at + 2)):
            self._tag(name[0].lower(), name.end(), closing=True)
        elif name := NAME.match(page, at + 1):
            self._tag(name[0].lower(), name.end(), closing=False)
        else:
            self._show(at, at + 1)
            self._at = at + 1

    def _skip_to(self, end: str, start: int) -> None:
        found = self._page.find(end, start)
        self._at = len(self._page) if found < 0 else found + len(end)

    def _tag(self, name: str, at: int, *, closing: bool) -> None:
        """Past its attributes, of which a quoted one may hold a ``>``; then what the tag means."""
        page = self._page
        while (found := IN_TAG.search(page, at)) and found[0] != ">":
            quoted = page.find(found[0][-1], found.end())
            if quoted < 0:
                found = None
                break
            at = quoted + 1
        if found is None:
            self._at = len(page)
            return
        self._at = found.end()
        if name in BLOCKS:
            self._parts.append("\n")
        if name in UNSEEN:
            self._unseen = max(0, self._unseen + (-1 if closing else 1))
        elif name in RAW and not closing:
            self._raw(name)

    def _raw(self, name: str) -> None:
        """The content of an element in which nothing is markup but its own end."""
        start = self._at
        end = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(self._page, start)
        self._at = len(self._page) if end is None else end.start()
        if name in SHOWN_RAW:
            self._show(start, self._at)
