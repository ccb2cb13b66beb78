"""Whether two texts that are near in meaning may be the same question: cheap rules, for where cosines mislead.

A sentence encoder puts "from Paris to London" at 0.997 of its opposite. So two texts are never the same question where
their numbers differ, in value or order; where one negates more often; where they have the same words in another order;
or where all that differs is one word in its place (enable for disable, Saturday for Sunday). What is refused here is
answered anew, which is never wrong.
"""

import re

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
WORD = re.compile(r"\w+")
NEGATION = re.compile(
    r"\b(?:no|not|never|none|nobody|nothing|without|cannot|neither|nor)\b|n['\u2019]t\b", re.IGNORECASE
)


def may_mean_the_same(one: str, two: str) -> bool:
    if NUMBER.findall(one) != NUMBER.findall(two) or len(NEGATION.findall(one)) != len(NEGATION.findall(two)):
        return False
    ours, theirs = WORD.findall(one.casefold()), WORD.findall(two.casefold())
    if ours == theirs:
        return True
    if len(ours) != len(theirs):
        return True
    differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
    return differing > 1 and sorted(ours) != sorted(theirs)
