"""The sampler: what it draws, and that its numbers are those of transformers' own logits processors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from apps.core.errors import InternalError, InvalidValue
from apps.local.engine.decoding import Sampler
from apps.local.engine.port import Sampling

LOGITS = np.log(np.array([0.05, 0.5, 0.25, 0.15, 0.05])).astype(np.float32)


def drawn(temperature: float, top_p: float, seed: int = 0, count: int = 4000) -> Any:
    choice = Sampler(Sampling(temperature, top_p, 1, seed))
    return np.bincount([choice.choose(LOGITS) for _ in range(count)], minlength=5) / count


def test_temperature_0_takes_the_likeliest() -> None:
    assert drawn(0, 0.1, count=3)[1] == 1


def test_draws_follow_the_distribution() -> None:
    assert np.allclose(drawn(1, 1), np.exp(LOGITS), atol=0.03)
    hot = np.exp(LOGITS / 2)
    assert np.allclose(drawn(2, 1), hot / hot.sum(), atol=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert np.allclose(drawn(1, 0.7), [0, 2 / 3, 1 / 3, 0, 0], atol=0.03)
    assert drawn(1, 0.5, count=50)[1] == 1
    assert drawn(1, 0.0, count=50)[1] == 1
    # the third token is needed to reach 0.76
    assert drawn(1, 0.76)[3] > 0.1


def test_a_seed_draws_the_same_and_none_draws_afresh() -> None:
    wide = np.zeros(50_000, np.float32)
    first, again, other, fresh = (
        [Sampler(Sampling(1, 0.9, 1, seed)).choose(wide) for _ in range(1)] for seed in (5, 5, 6, None)
    )
    assert first == again
    assert first != other
    assert fresh != first


def test_a_tiny_temperature_does_not_overflow() -> None:
    assert drawn(1e-9, 1, count=20)[1] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    broken = LOGITS.copy()
    broken[2] = value
    for temperature in (0, 1):
        with pytest.raises(InternalError, match="not finite"):
            Sampler(Sampling(temperature, 1, 1, 0)).choose(broken)


VOCABULARY, DRAWS = 40, 2_000
CASES = [
    Sampling(1.0, 1.0, 9, 0, top_k=5),
    Sampling(0.7, 0.8, 9, 0, top_k=12, min_p=0.05),
    Sampling(1.3, 1.0, 9, 0, min_p=0.2),
    Sampling(1.0, 1.0, 9, 0, repetition_penalty=1.7),
    Sampling(1.0, 0.95, 9, 0, repetition_penalty=0.6, top_k=30),
    Sampling(1.0, 1.0, 9, 0, logit_bias={3: 4.0, 7: -100.0, 39: 2.5}),
    Sampling(0.9, 0.9, 9, 0, min_tokens=8, logit_bias={1: 9.0}, repetition_penalty=1.2),
    Sampling(1.1, 0.7, 9, 0, min_tokens=2, logit_bias={1: 9.0}),
]


@pytest.mark.local
@pytest.mark.parametrize("sampling", CASES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.long
def test_the_distribution_is_that_of_transformers_processors(sampling: Sampling, seed: int) -> None:
    """Every token that transformers would keep is drawn as often as it says, and no other ever is."""
    import torch
    from transformers.generation import logits_process as processors

    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=VOCABULARY) * 2).astype(np.float32)
    prompt, answer, ends = rng.integers(0, VOCABULARY, 6).tolist(), [4, 9, 4], [1, 2]
    steps: list[Any] = []
    if sampling.logit_bias:
        bias = [[[token], value] for token, value in sampling.logit_bias.items()]
        steps.append(processors.SequenceBiasLogitsProcessor(bias))
    if sampling.repetition_penalty != 1:
        steps.append(processors.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.min_tokens:
        steps.append(processors.MinNewTokensLengthLogitsProcessor(len(prompt), sampling.min_tokens, ends))
    steps.append(processors.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(processors.TopKLogitsWarper(sampling.top_k))
    steps.append(processors.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(processors.MinPLogitsWarper(sampling.min_p))
    scores = torch.from_numpy(logits)[None]
    for step in steps:
        scores = step(torch.tensor([[*prompt, *answer]]), scores)
    expected = torch.softmax(scores, -1)[0].numpy()

    steps_of_one = iter((np.arange(DRAWS) + 0.5) / DRAWS)
    sampler = Sampler(sampling, prompt, ends, lambda: float(next(steps_of_one)))
    for token in answer:
        sampler.advance(token)
    counts = np.zeros(VOCABULARY)
    for _ in range(DRAWS):
        counts[sampler.draw(logits)] += 1
    assert (counts[expected == 0] == 0).all()
    assert abs(counts / DRAWS - expected).max() <= 1.5 / DRAWS


def test_frequency_and_presence_penalties_are_openais() -> None:
    """logit - count * frequency - (count > 0) * presence, of the answer's tokens only."""
    sampling = Sampling(0, 1, 9, frequency_penalty=0.5, presence_penalty=0.25)
    sampler = Sampler(sampling, prompt=[0, 0, 0])
    chosen = [sampler.choose(np.array([1.0, 2.0, 0.9, 0.0], np.float32)) for _ in range(6)]
    #        1: 2.0 1.25 0.75;  0: 1.0 0.25;  2: 0.9 0.15
    assert chosen == [1, 1, 0, 2, 1, 0]


def test_a_bias_moves_the_greedy_token_and_of_no_token_beyond_the_row() -> None:
    row = np.array([1.0, 2.0, 0.9, 0.0], np.float32)
    assert Sampler(Sampling(0, 1, 9, logit_bias={3: 5.0, 4000: 100.0})).choose(row) == 3
    assert Sampler(Sampling(0, 1, 9, logit_bias={1: -100.0})).choose(row) == 0
    assert row.tolist() == [1.0, 2.0, pytest.approx(0.9), 0.0]


def test_no_end_token_comes_before_min_tokens_and_none_at_all_with_ignore_eos() -> None:
    row = np.array([1.0, 9.0, 8.0], np.float32)
    sampler = Sampler(Sampling(0, 1, 9, min_tokens=2), end_tokens=[1, 2])
    assert [sampler.choose(row) for _ in range(3)] == [0, 0, 1]
    sampler = Sampler(Sampling(0, 1, 9, ignore_eos=True), end_tokens=[1, 2])
    assert [sampler.choose(row) for _ in range(5)] == [0] * 5


ROW = np.array([1.0, 9.0, 8.0, 7.0], np.float32)


def test_stop_tokens_end_as_end_tokens_do_and_ignore_eos_does_not_ignore_them() -> None:
    sampler = Sampler(Sampling(0, 1, 9, min_tokens=1, stop_tokens=frozenset({2})), end_tokens=[1])
    assert [sampler.choose(ROW) for _ in range(2)] == [3, 1]
    sampler = Sampler(Sampling(0, 1, 9, ignore_eos=True, stop_tokens=frozenset({2})), end_tokens=[1, 2])
    assert sampler.choose(ROW) == 2


def test_only_allowed_tokens_come_and_none_beyond_the_row() -> None:
    assert Sampler(Sampling(0, 1, 9, allowed_tokens=(0, 3, 4000)), end_tokens=[1]).choose(ROW) == 3
    hot = Sampler(Sampling(2.0, 1, 9, 0, allowed_tokens=(0, 3)))
    assert {hot.choose(ROW) for _ in range(200)} == {0, 3}
    with pytest.raises(InvalidValue, match="leave no token") as refused:
        Sampler(Sampling(0, 1, 9, allowed_tokens=(4000,))).choose(ROW)
    assert refused.value.field == "allowed_token_ids"


def test_the_last_token_of_a_bad_word_does_not_come_behind_its_others() -> None:
    sampler = Sampler(Sampling(0, 1, 9, bad_sequences=((2,), (1, 1, 1), (3, 1))))
    assert [sampler.choose(ROW) for _ in range(6)] == [1, 1, 3, 3, 3, 3]
    with pytest.raises(InvalidValue) as refused:
        Sampler(Sampling(0, 1, 9, bad_sequences=((0,), (1,), (2,), (3,)))).choose(ROW)
    assert refused.value.field == "bad_words"


def test_top_k_1_is_greedy() -> None:
    sampler = Sampler(Sampling(2.0, 1, 9, 0, top_k=1))
    assert {sampler.choose(LOGITS) for _ in range(50)} == {1}


class EndsOnly:
    """A grammar that is complete: only the end token may come."""

    finished = False

    def allowed(self, remaining: int) -> Any:
        return np.array([False, True, False])

    def forced(self) -> Sequence[int]:
        return ()

    def fitting(self, tokens: Sequence[int]) -> int:
        return 0

    def advance(self, token: int) -> None:
        raise AssertionError("an end token is not a part of the text")


def test_a_grammar_that_must_end_ends_before_min_tokens() -> None:
    sampler = Sampler(Sampling(0, 1, 9, min_tokens=5, constraint=EndsOnly()), end_tokens=[1])
    assert sampler.choose(np.array([5.0, 0.0, 5.0], np.float32)) == 1
