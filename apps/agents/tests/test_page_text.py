"""The text of pages: what a reader sees, and work that grows with the length of the page and no faster."""

import sys
from types import FrameType
from typing import Any

import pytest

from apps.agents.fetch import readable

PAGES = {
    "<p>one</p><p>two <b>three</b></p>": "one\ntwo three",
    "a<br>b<br/>c": "a\nb\nc",
    "<head><title>t</title></head><body>seen": "seen",
    "<script>if (a < b) { '<p>' }</script>seen": "seen",
    "<SCRIPT >x</Script >seen": "seen",
    "<style>p { }</style>seen<style>": "seen",
    "a<!-- <p>hidden</p> -->b": "ab",
    "a<!-- never ends": "a",
    "<!DOCTYPE html><?php x ?>seen": "seen",
    "1 < 2 and 3 > 2": "1 < 2 and 3 > 2",
    "a <3 b": "a <3 b",
    '<a title="x > y">seen</a>': "seen",
    "<a title='x > y' href=z>seen</a>": "seen",
    "it's <b>seen</b> it's": "it's seen it's",
    "<a b'c>seen</a>": "seen",
    "&lt;p&gt; &amp; &#65; &#x42; &eacute; &nosuch;": "<p> & A B é &nosuch;",
    "&#" + "9" * 5000 + ";": "&#" + "9" * 5000 + ";",
    "<template><p>x</p></template>y": "y",
    "</template>y": "y",
    "<noscript>x<noscript>y</noscript></noscript>z": "z",
    "<textarea><b>x</b></textarea>": "<b>x</b>",
    "": "",
}
# of what each doubles when the page does: no construct is looked for from more than one place
ENDLESS = ["<!--", "<a ", "<", "</", "<p", '<p a="', "<p a='", "<script>", "<!", "<?", "&#1", "&a", "<p>", "</p>"]
ENDLESS += [
    "<title>",
    "<style></style",
    "<script></script ",
    '="',
    '<a b="c" ',
    "\n",
    " ",
    "<!-->",
    "--",
    "<head>",
    "&",
]


@pytest.mark.parametrize("page", PAGES)
def test_the_text_is_what_a_reader_sees(page: str) -> None:
    assert readable(page) == PAGES[page]


def calls(page: str) -> tuple[int, int]:
    """Calls of functions, of Python's and of C's, and the characters that searches were given to look at."""
    count = 0

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        readable(page)
    finally:
        sys.setprofile(None)
    return count, len(page)


@pytest.mark.parametrize("piece", ENDLESS)
def test_twice_the_page_is_twice_the_work(piece: str) -> None:
    (once, _), (twice, _) = calls(piece * 2_000), calls(piece * 4_000)
    assert twice <= 2 * once + 20


class Looked(str):
    """A page that counts the characters that are searched through in it."""

    looked = 0

    def find(self, *args: Any) -> int:
        found = super().find(*args)
        start = args[1] if len(args) > 1 else 0
        self.looked += (len(self) if found < 0 else found) - start
        return found


@pytest.mark.parametrize("piece", ENDLESS)
def test_no_part_of_a_page_is_searched_through_again_and_again(piece: str) -> None:
    page = Looked(piece * 20_000)
    readable(page)
    assert page.looked <= 2 * len(page)


def test_a_megabyte_of_comments_that_do_not_end_is_nothing() -> None:
    assert readable("<!--" * 250_000) == ""
    assert readable("seen" + '<p a="' * 150_000) == "seen"
