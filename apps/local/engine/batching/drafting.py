"""Drafts: guesses of how an answer goes on, how sure they are, and how long steps take that check them.

A draft comes from the text so far, from a grammar that leaves no choice, or from a small checkpoint of the same
tokenizer, which takes its likeliest token at each position. Whether it is accepted is decided in the same way for all:
by drawing the answer's own token and comparing.
"""

import operator
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any, Protocol

import numpy as np

from apps.local.engine.batching.prefix_cache import Held, PrefixCache
from apps.local.engine.batching.step import Chunking, Step
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


# its tokens' grades by how likely it takes them to be
MODEL_GRADE = GrammarDrafter.FORCED + 1
CONFIDENCE = (0.3, 0.55, 0.8, 0.95)
# a match of six tokens and more is as good a guess, and free
SURE_MATCH = 3
# no token is drafted that will hardly be reached
LEAST_REACHED = 0.25
# where it does not pay it is tried again now and then: the text may suit it by now
TRIED_AGAIN_AFTER = 64


class DraftModel:
    """One for a scheduler; used by its thread. ``share`` is what its step costs of the large model's, until measured.

    ``vocabulary``: tokens from there on are none of the large model's. ``known``: its own embedding has rows for the
    tokens below alone, where those are fewer; models of one tokenizer pad their vocabularies to different sizes.
    """

    def __init__(
        self,
        step: Step,
        context_length: int,
        vocabulary: int,
        caches: int,
        share: float,
        clock: Callable[[], float] = time.perf_counter,
        known: int | None = None,
    ) -> None:
        self.caches = PrefixCache(step, caches)
        self.depth = 0
        self._step = step
        self._context_length = context_length
        self._vocabulary = vocabulary
        self._known = known if known is not None and known < vocabulary else None
        self._share = share
        self._clock = clock
        self._chunking = Chunking()
        self._seconds: float | None = None
        self._chance = 0.6
        self._skipped = 0
        self._beside = False
        self._saved = 0.0

    def plan(self, times: StepTimes, answers: int) -> None:
        """Decides ``depth``, the tokens that it drafts for each of ``answers`` answers before the coming step."""
        alone, measured = times.seconds(answers), times.measured and self._seconds is not None
        own = self._seconds if measured and self._seconds is not None else self._share * times.seconds(1)
        self.depth, self._saved, self._beside = 0, 0.0, answers > 1
        best = LEAST_GAIN / alone
        most = min(MOST_DRAFTED, MOST_ROWS // answers - 1)
        expected = 1.0
        for depth, chance in enumerate(accumulate(repeat(self._chance, max(most, 0)), operator.mul), 1):
            expected += chance
            seconds = times.seconds(answers * (1 + depth)) + answers * depth * own
            if self._beside and seconds > LONGEST_BESIDE_OTHERS * alone:
                break
            if expected / seconds > best:
                best, self.depth, self._saved = expected / seconds, depth, alone - seconds / expected
        self._skipped = 0 if self.depth else self._skipped + 1
        if self._skipped >= TRIED_AGAIN_AFTER and most > 0:
            self.depth, self._skipped = 1, 0

    def learn(self, accepted: bool) -> None:
        self._chance += (accepted - self._chance) / 32

    def draft(self, held: Held, tokens: Sequence[int], most: int, room: int) -> Draft:
        """At most ``most`` tokens; none while ``held`` is far behind ``tokens``, of which this call computes a part.

        None either after a token that its embedding does not have.
        """
        end = len(tokens) + most
        if self._known is not None and max(tokens[len(held.tokens) :]) >= self._known:
            return Draft((), ())
        if end > self._context_length or not self.caches.ensure(held, end) or not self._caught_up(held, tokens, room):
            return Draft((), ())
        found: list[int] = []
        grades: list[int] = []
        new, reached = tokens[len(held.tokens) :], 1.0
        while len(found) < most and reached >= LEAST_REACHED:
            logits = self._run(held, new, wanted=True)[: self._vocabulary]
            token = int(logits.argmax())
            confidence = 1 / float(np.exp(logits - logits[token]).sum(dtype=np.float64))
            reached *= confidence
            found.append(token)
            grades.append(MODEL_GRADE + bisect(CONFIDENCE, confidence))
            new = [token]
        return Draft(found, grades)

    def close(self) -> None:
        self._step.close()

    def _caught_up(self, held: Held, tokens: Sequence[int], room: int) -> bool:
        """Computes a chunk of what is missing, where the answer is long enough for that to pay."""
        behind = len(tokens) - len(held.tokens)
        if behind <= MOST_ROWS:
            return True
        if behind * self._chunking.seconds_per_row > self._saved * room:
            return False
        rows = min(behind - 1, self._chunking.rows(self._beside))
        self._run(held, tokens[len(held.tokens) : len(held.tokens) + rows], wanted=False)
        return behind - rows <= MOST_ROWS

    def _run(self, held: Held, tokens: Sequence[int], wanted: bool) -> Any:
        """The logits after ``tokens``, which follow what ``held`` holds; of no use where they are not ``wanted``."""
        start, rows = len(held.tokens), len(tokens)
        began = self._clock()
        logits = self._step.run(tokens, range(start, start + rows), [held.memory] * rows, [rows - 1] if wanted else [])
        seconds = self._clock() - began
        self._chunking.learn(rows, seconds)
        if rows == 1:
            old = seconds if self._seconds is None else self._seconds
            # a step that other processes held up says little of the next one
            self._seconds = old + 0.2 * (min(seconds, 2 * old) - old)
        held.tokens += tokens
        return logits[0] if wanted else logits


class ModelDrafter:
    """Implements Drafter for one answer: what another drafter is sure of, else what the model says."""

    def __init__(self, model: DraftModel, answer: Speculating, first: Drafter) -> None:
        self._model = model
        self._answer = answer
        self._first = first
        self._held: Held | None = None
        self._agreed = 0

    def propose(self, tokens: Sequence[int], most: int) -> Draft:
        draft = self._first.propose(tokens, most)
        if self._model.depth == 0 or (draft.grades and draft.grades[0] >= SURE_MATCH):
            return draft
        held = self._following(tokens)
        drafted = self._model.draft(held, tokens, min(most, self._model.depth), self._answer.room)
        return drafted if drafted.tokens else draft

    def end(self) -> None:
        """Gives the cache back, for the next prompt that begins alike."""
        if self._held is not None:
            self._model.caches.give_back(self._held, keep=False)
            self._held = None

    def _following(self, tokens: Sequence[int]) -> Held:
        """The model's cache without the drafted tokens that were not accepted; the last of ``tokens`` is not in it."""
        if self._held is None:
            self._held = self._model.caches.take(tokens, self._answer.tenant)
        held = self._held.tokens
        agreed = min(self._agreed, len(held))
        while agreed < min(len(held), len(tokens) - 1) and held[agreed] == tokens[agreed]:
            agreed += 1
        del held[agreed:]
        self._agreed = agreed
        return self._held
