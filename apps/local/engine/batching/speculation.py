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

from apps.core.messages import JsonObject
from apps.local.engine.batching.drafting import (
    LEAST_GAIN,
    LONGEST_BESIDE_OTHERS,
    MODEL_GRADE,
    MOST_DRAFTED,
    MOST_ROWS,
    Draft,
    Drafter,
    DraftModel,
    GrammarDrafter,
    ModelDrafter,
    Odds,
    PromptLookup,
    Speculating,
    StepTimes,
)


@dataclass(slots=True)
class _Guess:
    """An answer's drafter, the model's part of it, what it proposed for the coming step, and how often it is right."""

    drafter: Drafter
    odds: Odds
    model: ModelDrafter | None = None
    draft: Draft = field(default_factory=lambda: Draft((), ()))


class Speculation:
    """Decides before each step how many drafted tokens it checks. One for a scheduler; ``model`` drafts too."""

    def __init__(self, model: DraftModel | None = None) -> None:
        self.times = StepTimes()
        self._model = model
        self.drafted = 0
        self.accepted = 0
        self._odds = Odds()
        self._guesses: dict[int, _Guess] = {}

    def plan(self, answers: Iterable[Speculating]) -> Mapping[int, Sequence[int]]:
        """The drafted tokens to check by the answers' ids, for a step in which each answer has one row of its own."""
        answers = list(answers)
        if self._model is not None and answers:
            self._model.plan(self.times, len(answers))
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
            if self._model is not None and grade >= MODEL_GRADE:
                self._model.learn(token == proposed)
        self.accepted += max(0, len(tokens) - 1)
        # it was for this step: one beside a prompt plans none, and its token is no verdict on an old draft
        guess.draft = Draft((), ())

    def forget(self, answer: Speculating) -> None:
        guess = self._guesses.pop(id(answer), None)
        if guess is not None and guess.model is not None:
            guess.model.end()

    def describe(self) -> JsonObject:
        ways = "prompt lookup, grammar" if self._model is None else "prompt lookup, grammar, a model"
        return {"speculation": ways, "drafted_tokens": self.drafted, "accepted_tokens": self.accepted}

    def close(self) -> None:
        if self._model is not None:
            self._model.close()

    def _guess(self, answer: Speculating) -> _Guess:
        guess = self._guesses.get(id(answer))
        if guess is None:
            drafter: Drafter = PromptLookup()
            model = None
            if self._model is not None:
                drafter = model = ModelDrafter(self._model, answer, drafter)
            if answer.constraint is not None:
                drafter = GrammarDrafter(answer.constraint, drafter)
            guess = self._guesses[id(answer)] = _Guess(drafter, self._odds.derived(), model)
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
