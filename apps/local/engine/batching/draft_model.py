"""A model that drafts: a small checkpoint of the same tokenizer guesses how an answer goes on, where that pays.

It takes its likeliest token at each position. Whether that is accepted is decided as for every draft: by drawing the
answer's own token and comparing.
"""

import operator
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate, repeat
from typing import Any

import numpy as np

from apps.local.engine.batching.chunking import Chunking
from apps.local.engine.batching.drafting import (
    LEAST_GAIN,
    LONGEST_BESIDE_OTHERS,
    MOST_DRAFTED,
    MOST_ROWS,
    Draft,
    Drafter,
    GrammarDrafter,
    Speculating,
    StepTimes,
)
from apps.local.engine.batching.prefix_cache import Held, PrefixCache
from apps.local.engine.batching.step import Step

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
