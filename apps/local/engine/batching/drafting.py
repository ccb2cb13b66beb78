"""Drafts: guesses of how an answer goes on, how sure they are, and how long steps take that check them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from apps.local.engine.port import Constraint

MOST_DRAFTED = 7
# rows of one step, drafts included: beyond that arithmetic is the limit, and every row costs its share
MOST_ROWS = 16
# a step with drafts must promise so much more than one without
LEAST_GAIN = 1.04
# how much longer a step may take for drafts where other answers wait for it
LONGEST_BESIDE_OTHERS = 1.5


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed next tokens; ``grades`` say how sure each is: an index into Odds."""

    tokens: Sequence[int]
    grades: Sequence[int]


class Drafter(Protocol):
    """Guesses how a sequence goes on. Belongs to one answer; used by the inference thread."""

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        """At most ``most`` tokens that may follow ``tokens``, which only ever grow from one call to the next."""


class PromptLookup:
    """Implements Drafter: goes on as the longest earlier text of prompt and answer that ends alike did.

    Two tokens at least must be alike.
    """

    GRADES = 6  # of a match of 2, 3, 4-5, 6-8, 9-15, 16 and more tokens
    _grade = (0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 5)
    _candidates = 12

    def __init__(self) -> None:
        self._ends: dict[tuple[int, int], list[int]] = {}
        self._indexed = 1

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        self._index(tokens)
        begin, length = self._longest(tokens)
        found = tokens[begin : begin + most] if length else ()
        top = len(self._grade) - 1
        return Draft(found, [self._grade[min(length + at, top)] for at in range(len(found))])

    def _index(self, tokens: Sequence[int]) -> None:
        """Notes where each pair ends; that of the last two tokens waits until something follows it."""
        for at in range(self._indexed, len(tokens) - 1):
            self._ends.setdefault((tokens[at - 1], tokens[at]), []).append(at + 1)
        self._indexed = max(self._indexed, len(tokens) - 1)

    def _longest(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Where the text goes on, and the length of the match before it; of equal ones the latest."""
        best, longest = 0, 0
        last, most = len(tokens), len(self._grade) - 1
        for begin in reversed(self._ends.get((tokens[-2], tokens[-1]), [])[-self._candidates :] if last > 1 else []):
            length = 2
            while length < most and length < begin and tokens[begin - 1 - length] == tokens[last - 1 - length]:
                length += 1
            if length > longest:
                best, longest = begin, length
            if longest == most:
                break
        return best, longest


class GrammarDrafter:
    """Implements Drafter: what the grammar forces comes first, then another drafter's tokens as far as they fit."""

    FORCED = PromptLookup.GRADES

    def __init__(self, constraint: Constraint, then: Drafter) -> None:
        self._constraint = constraint
        self._then = then

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        forced = self._constraint.forced()[:most]
        if forced:
            return Draft(forced, [self.FORCED] * len(forced))
        draft = self._then.propose(tokens, most)
        fitting = self._constraint.fitting(draft.tokens) if draft.tokens else 0
        return Draft(draft.tokens[:fitting], draft.grades[:fitting])


class Odds:
    """How often drafted tokens of each grade are accepted: learned, with a memory of some tens of tokens."""

    # of matches, of what a grammar forces, of a model that is so sure of its token
    _prior = (0.25, 0.4, 0.5, 0.65, 0.8, 0.9, 0.97, 0.25, 0.4, 0.6, 0.75, 0.9)
    _weight, _memory = 4.0, 64.0

    def __init__(self, prior: Sequence[float] = _prior) -> None:
        self._accepted = [self._weight * chance for chance in prior]
        self._seen = [self._weight] * len(prior)

    def __getitem__(self, grade: int) -> float:
        return self._accepted[grade] / self._seen[grade]

    def derived(self) -> "Odds":
        """For a new answer: these are what it begins with, its own tokens soon count for more."""
        return Odds([self[grade] for grade in range(len(self._seen))])

    def learn(self, grade: int, accepted: bool) -> None:
        keep = 1 - 1 / self._memory if self._seen[grade] >= self._memory else 1.0
        self._accepted[grade] = self._accepted[grade] * keep + accepted
        self._seen[grade] = self._seen[grade] * keep + 1


class StepTimes:
    """Seconds of a step by its rows, learned from steps without prompts; what was not measured is estimated."""

    # what a row is taken to cost beside the first until it is measured: rather too little, or it never would be
    _row = 0.1
    _weight, _forgotten_after = 0.2, 512

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._learned: dict[int, int] = {}
        self._steps = 0

    def learn(self, rows: int, seconds: float) -> None:
        self._steps += 1
        old = self._seconds.get(rows)
        if old is None or self._steps - self._learned[rows] > self._forgotten_after:
            self._seconds[rows] = seconds
        else:
            # a step that other processes held up says little of the next one
            self._seconds[rows] = old + self._weight * (min(seconds, 2 * old) - old)
        self._learned[rows] = self._steps

    @property
    def measured(self) -> bool:
        return bool(self._seconds)

    def seconds(self, rows: int) -> float:
        """Relative to one another only, as long as nothing was measured."""
        known = [n for n in self._seconds if self._steps - self._learned[n] <= self._forgotten_after]
        if rows in known:
            return self._seconds[rows]
        below, above = (
            max((n for n in known if n < rows), default=None),
            min((n for n in known if n > rows), default=None),
        )
        if below is not None and above is not None:
            share = (rows - below) / (above - below)
            return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])
        nearest = below if below is not None else above
        if nearest is None:
            return 1 + self._row * (rows - 1)
        return self._seconds[nearest] * (1 + self._row * (rows - 1)) / (1 + self._row * (nearest - 1))


class Speculating(Protocol):
    """What speculation knows of an answer."""

    tokens: list[int]
    tenant: str

    @property
    def constraint(self) -> Constraint | None: ...

    @property
    def room(self) -> int:
        """Tokens that it may take in one step."""
