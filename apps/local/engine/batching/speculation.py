"""Speculation: draft tokens that one step checks together, where that pays. It changes no answer.

A draft is a guess of an answer's next tokens. The step computes a row for each of them beside the answer's own row, and
every row's token is chosen as ever: by the answer's own sampler, on the answer's own random numbers. As long as the
chosen token is the drafted one, the next row is right too; the first other token ends it. For a draft that proposes
single tokens this is the rejection rule of speculative sampling (Leviathan et al. 2023, Chen et al. 2023): the draft's
distribution is a point, so that "accept with p(draft), else draw from the rest" is drawing from p and comparing. So a
sampled answer is not only distributed as without speculation: it is the same answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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

    _prior = (0.25, 0.4, 0.5, 0.65, 0.8, 0.9, 0.97)
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


@dataclass(slots=True)
class _Guess:
    """An answer's drafter, what it proposed for the coming step, and how often it is right."""

    drafter: Drafter
    odds: Odds
    draft: Draft = field(default_factory=lambda: Draft((), ()))


class Speculating(Protocol):
    """What speculation knows of an answer."""

    tokens: list[int]

    @property
    def constraint(self) -> Constraint | None: ...

    @property
    def room(self) -> int:
        """Tokens that it may take in one step."""


class Speculation:
    """Decides before each step how many drafted tokens it checks. One for a scheduler."""

    def __init__(self) -> None:
        self.times = StepTimes()
        self.drafted = 0
        self.accepted = 0
        self._odds = Odds()
        self._guesses: dict[int, _Guess] = {}

    def plan(self, answers: Iterable[Speculating]) -> Mapping[int, Sequence[int]]:
        """The drafted tokens to check by the answers' ids, for a step in which each answer has one row of its own."""
        answers = list(answers)
        for answer in answers:
            guess = self._guess(answer)
            most = min(MOST_DRAFTED, answer.room - 1)
            guess.draft = guess.drafter.propose(answer.tokens, most) if most > 0 else Draft((), ())
        counts = self._counts([self._guesses[id(answer)] for answer in answers])
        return {
            id(answer): self._guesses[id(answer)].draft.tokens[:count]
            for answer, count in zip(answers, counts, strict=True)
            if count
        }

    def learn(self, answer: Speculating, tokens: Sequence[int], drafted: int) -> None:
        """``tokens`` are what the step chose for the answer, with ``drafted`` tokens checked.

        The first token of a draft that was not checked is compared too: knowing the odds then costs nothing.
        """
        guess = self._guess(answer)
        self.drafted += drafted
        for token, proposed, grade in zip(tokens, guess.draft.tokens, guess.draft.grades, strict=False):
            for odds in (guess.odds, self._odds):
                odds.learn(grade, token == proposed)
        self.accepted += max(0, len(tokens) - 1)

    def forget(self, answer: Speculating) -> None:
        self._guesses.pop(id(answer), None)

    def _guess(self, answer: Speculating) -> _Guess:
        guess = self._guesses.get(id(answer))
        if guess is None:
            drafter: Drafter = PromptLookup()
            if answer.constraint is not None:
                drafter = GrammarDrafter(answer.constraint, drafter)
            guess = self._guesses[id(answer)] = _Guess(drafter, self._odds.derived())
        return guess

    def _counts(self, guesses: Sequence[_Guess]) -> list[int]:
        """How many tokens of each draft to check: those that promise the most tokens a second together.

        The next row goes where the next token is likeliest. All numbers of rows are looked at, since a kernel's tile
        makes some of them dearer than the next one.
        """
        counts, best = [0] * len(guesses), [0] * len(guesses)
        chances = [1.0] * len(guesses)
        expected, alone = float(len(guesses)), self.times.seconds(len(guesses) or 1)
        best_rate = LEAST_GAIN * expected / alone
        for rows in range(len(guesses) + 1, MOST_ROWS + 1):
            offers = [
                (chances[at] * guess.odds[guess.draft.grades[counts[at]]], at)
                for at, guess in enumerate(guesses)
                if counts[at] < len(guess.draft.tokens)
            ]
            if not offers:
                break
            chance, at = max(offers)
            counts[at] += 1
            chances[at] = chance
            expected += chance
            seconds = self.times.seconds(rows)
            if len(guesses) > 1 and seconds > LONGEST_BESIDE_OTHERS * alone:
                continue
            if expected / seconds > best_rate:
                best, best_rate = counts.copy(), expected / seconds
        return best
