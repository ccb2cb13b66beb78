"""Rules of wording: what is told apart whatever the cosine says, and what is left to it."""

import pytest

from apps.cache.wording import in_latin_script, may_mean_the_same
from eval.semantic_pairs import DIFFERENT, PARAPHRASES, generated

GENERATED = [
    pytest.param(*pair, id=f"{kind}-{at}") for kind, pairs in generated().items() for at, pair in enumerate(pairs)
]
SAME = [
    *PARAPHRASES[:6],
    ("What is Python?", "what is python"),
    ("How do I reset my password?", "How can I reset my password?"),
    ("What's the return policy?", "What is your return policy?"),
    ("a", "a"),
]


def test_there_are_two_hundred_pairs_of_every_kind() -> None:
    assert len(set(pair for pairs in generated().values() for pair in pairs)) >= 200
    assert all(len(pairs) >= 6 for pairs in generated().values())


@pytest.mark.parametrize(("one", "two"), [*DIFFERENT, *GENERATED])
def test_texts_that_differ_in_what_matters_are_not_the_same(one: str, two: str) -> None:
    told_apart = not may_mean_the_same(one, two) and not may_mean_the_same(two, one)
    assert told_apart or not (in_latin_script(one) and in_latin_script(two))


@pytest.mark.parametrize(("one", "two"), SAME)
def test_other_words_may_be_the_same(one: str, two: str) -> None:
    assert may_mean_the_same(one, two)
    assert may_mean_the_same(two, one)


@pytest.mark.parametrize(
    "text", ['"' * 4000, "(" * 4000, "a'" * 2000, "A " * 2000, "`" * 4000, "\n " * 2000, ": " * 2000, "?" * 4000 + "x"]
)
def test_the_work_grows_with_the_length_and_not_with_its_square(text: str) -> None:
    """Counted in steps of the interpreter and of regular expressions alike: by the CPU time of this thread."""
    from time import thread_time

    def seconds(of: str) -> float:
        began = thread_time()
        may_mean_the_same(of, of + "b")
        return thread_time() - began

    short = min(seconds(text[: len(text) // 8]) for _ in range(5))
    long = min(seconds(text) for _ in range(5))
    assert long < 32 * short + 0.05
