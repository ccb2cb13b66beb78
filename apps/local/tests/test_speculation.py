"""Speculation: what it proposes, when it pays, and that no answer depends on it."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from apps.core.messages import ChatRequest, JsonObject, user_message
from apps.core.settings import Settings
from apps.local.answer_grammar import answer_grammar, open_compiler
from apps.local.engine.batching.drafting import MOST_DRAFTED, Draft, GrammarDrafter, Odds, PromptLookup, StepTimes
from apps.local.engine.batching.opening import Caches, open_step, own_library
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.port import EngineOutput, NoKernel, Sampling
from apps.local.tokenizer import HubTokenizer
from apps.tests.support.budgets import budgeted
from apps.tests.support.tiny_checkpoint import TinyTokenizer, write_tiny_checkpoint

pytestmark = pytest.mark.local


class FreeRows(StepTimes):
    """Steps of any number of rows take the same time: everything that is proposed is checked."""

    def seconds(self, rows: int) -> float:
        return 1.0


class CostlyRows(StepTimes):
    """Each row takes as long as the first."""

    def seconds(self, rows: int) -> float:
        return float(rows)


def test_a_text_is_taken_to_go_on_as_it_did_after_the_longest_match() -> None:
    lookup = PromptLookup()
    #         a longer match       the latest, but shorter
    tokens = [1, 2, 3, 4, 5, 6, 9, 3, 4, 7, 8, 1, 2, 3, 4]
    assert list(lookup.propose(tokens, 3).tokens) == [5, 6, 9]
    assert list(lookup.propose([*tokens, 7], 9).tokens) == [8, 1, 2, 3, 4, 7]
    assert list(lookup.propose([*tokens, 7, 50], 9).tokens) == []


def test_longer_matches_are_surer() -> None:
    grades = [PromptLookup().propose([*range(40), 99, *range(20 - length, 20)], 1).grades[0] for length in range(2, 17)]
    assert grades == sorted(grades)
    assert (grades[0], grades[-1]) == (0, PromptLookup.GRADES - 1)


@pytest.mark.parametrize("tokens", [[], [5], [5, 6]])
def test_a_text_too_short_to_repeat_proposes_nothing(tokens: list[int]) -> None:
    assert not PromptLookup().propose(tokens or [1], 7).tokens


def test_odds_follow_what_is_accepted_and_forget_what_was_long_ago() -> None:
    odds = Odds()
    for _ in range(300):
        odds.learn(0, accepted=True)
    assert odds[0] > 0.97
    for _ in range(300):
        odds.learn(0, accepted=False)
    assert odds[0] < 0.03
    assert odds.derived()[0] == pytest.approx(odds[0])


def test_times_of_steps_are_learned_and_estimated_between() -> None:
    times = StepTimes()
    assert times.seconds(8) > times.seconds(1)
    times.learn(1, 0.010)
    times.learn(5, 0.030)
    assert times.seconds(3) == pytest.approx(0.020)
    assert times.seconds(9) > times.seconds(5)
    # one step that was held up counts as twice the usual at most
    times.learn(5, 10.0)
    assert times.seconds(5) < 0.037


class Told:
    """An answer as far as speculation looks at it."""

    constraint = None
    tenant = ""

    def __init__(self, tokens: Sequence[int], room: int = 100) -> None:
        self.tokens = list(tokens)
        self.room = room


REPEATING = [*range(30), *range(20)]


def speculation(times: StepTimes) -> Speculation:
    made = Speculation()
    made.times = times
    return made


def test_drafts_are_checked_where_rows_are_free_and_not_where_each_costs_a_step() -> None:
    answer = Told(REPEATING)
    assert speculation(FreeRows()).plan([answer]) == {id(answer): list(range(20, 20 + MOST_DRAFTED))}
    assert speculation(CostlyRows()).plan([answer]) == {}


def test_no_more_is_drafted_than_an_answer_may_take() -> None:
    assert len(speculation(FreeRows()).plan([answer := Told(REPEATING, room=3)])[id(answer)]) == 2
    assert speculation(FreeRows()).plan([Told(REPEATING, room=1)]) == {}


def test_drafts_that_are_never_right_are_soon_not_checked_and_are_again_once_they_are() -> None:
    steep = StepTimes()
    for rows in range(1, 17):
        for _ in range(40):
            steep.learn(rows, 1 + 0.3 * (rows - 1))
    made, answer = speculation(steep), Told(REPEATING)
    assert made.plan([answer])
    for _ in range(40):
        made.learn(answer, [77], len(made.plan([answer]).get(id(answer), ())))
    assert made.plan([answer]) == {}
    # comparing costs nothing and goes on
    for _ in range(60):
        made.plan([answer])
        made.learn(answer, [20], 0)
    assert made.plan([answer])


def test_a_step_that_was_not_planned_says_nothing_of_the_draft_before() -> None:
    made, answer = speculation(StepTimes()), Told(REPEATING)
    made.plan([answer])
    made.learn(answer, [20], 0)
    grade = PromptLookup().propose(REPEATING, 1).grades[0]
    before = made._odds[grade]
    made.learn(answer, [77], 0)
    made.learn(answer, [20], 0)
    assert made._odds[grade] == before


def test_a_step_is_not_drawn_out_where_others_wait_for_it() -> None:
    times = StepTimes()
    for rows in range(1, 17):
        times.learn(rows, 1 + 0.2 * (rows - 1))
    alone, other = Told(REPEATING), Told([1, 2, 3])
    assert len(speculation(times).plan([alone])[id(alone)]) == 7
    beside = speculation(times).plan([alone, other])
    assert 0 < len(beside[id(alone)]) <= 3
    assert id(other) not in beside


class Forcing:
    """A constraint that forces some tokens and allows only even ones."""

    finished = False

    def __init__(self, forced: Sequence[int]) -> None:
        self._forced = forced

    def forced(self) -> Sequence[int]:
        return self._forced

    def fitting(self, tokens: Sequence[int]) -> int:
        return next((at for at, token in enumerate(tokens) if token % 2), len(tokens))

    def allowed(self, remaining: int) -> Any:
        raise NotImplementedError

    def advance(self, token: int) -> None: ...


def test_forced_tokens_come_first_and_others_only_as_far_as_the_grammar_lets_them() -> None:
    text = [8, 4, 2, 6, 5, 7, 8, 4]
    assert GrammarDrafter(Forcing([1, 2, 3]), PromptLookup()).propose(text, 2) == Draft([1, 2], [6, 6])
    assert list(GrammarDrafter(Forcing([]), PromptLookup()).propose(text, 7).tokens) == [2, 6]


# --- no answer depends on it


Said = list[tuple[bytes, float | None, tuple[float | None, ...]]]


async def said(engine: BatchingEngine, prompt: Sequence[int], sampling: Sampling) -> tuple[str, Said, EngineOutput]:
    """An answer's text, its tokens with their log probabilities and the alternatives', and its last piece."""
    text, found, piece = "", Said(), EngineOutput("", 0)
    async for piece in engine.generate(prompt, sampling):
        text += piece.text
        found += [(one.raw, one.logprob, tuple(other.logprob for other in one.top)) for one in piece.logprobs]
    return text, found, piece


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


def tiny_engine(folder: Path, precision: str, slots: int, drafting: Speculation | None) -> BatchingEngine:
    try:
        library = own_library(Settings().model_cache_dir)
    except NoKernel as error:
        pytest.skip(f"no kernels here: {error}")
    step = open_step(folder, precision, folder.parent, library, Caches(256), slots)
    tokenizer = cast(HubTokenizer, TinyTokenizer())
    return BatchingEngine(step, tokenizer, 256, slots, slots + 2, {}, drafting)


@pytest.fixture(params=["int4", "fp32"])
def pair(request: pytest.FixtureRequest, tiny: Path) -> Iterator[tuple[BatchingEngine, BatchingEngine]]:
    """One engine that never speculates, one that checks every token that is proposed."""
    engines = tuple(tiny_engine(tiny, request.param, 4, made) for made in (None, speculation(FreeRows())))
    yield engines[0], engines[1]
    for engine in engines:
        engine.close()


def repeating(seed: int) -> list[int]:
    drawn = random.Random(seed)
    run = [drawn.randrange(96) for _ in range(drawn.randrange(3, 30))]
    return (run * 4)[: drawn.randrange(2, 90)]


def samplings(seed: int) -> Sampling:
    drawn = random.Random(seed)
    temperature = drawn.choice([0.0, 0.0, 0.3, 1.0])
    return Sampling(temperature, drawn.choice([0.9, 1.0]), drawn.randrange(1, 40), seed, top_logprobs=2)


@pytest.mark.long
async def test_answers_and_their_log_probabilities_have_the_same_bits_with_and_without(
    pair: tuple[BatchingEngine, BatchingEngine],
) -> None:
    plain, drafting = pair
    for seed in range(30):
        prompt, sampling = repeating(seed), samplings(seed)
        assert await said(drafting, prompt, sampling) == await said(plain, prompt, sampling)
    told = drafting.describe()
    assert 0 < told["accepted_tokens"] < told["drafted_tokens"]


async def _random_batchings(pair: tuple[BatchingEngine, BatchingEngine], count: int) -> None:
    """Answers in random company, some of whom leave, are those of the same calls alone without speculation."""
    plain, drafting = pair
    calls = [(repeating(seed), samplings(seed)) for seed in range(40)]
    alone = [(await said(plain, *call))[:2] for call in calls]

    async def leave(prompt: list[int], after: int) -> None:
        stream = drafting.generate(prompt, Sampling(0.0, 1.0, 60))
        for _ in range(after):
            await anext(stream)
        await stream.aclose()

    async def join(number: int, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        assert (await said(drafting, *calls[number]))[:2] == alone[number]

    for batching in range(count):
        drawn = random.Random(batching)
        company = [join(drawn.randrange(len(calls)), drawn.randrange(20)) for _ in range(drawn.randrange(1, 7))]
        leavers = [leave(repeating(drawn.randrange(40)), drawn.randrange(1, 5)) for _ in range(drawn.randrange(3))]
        await asyncio.gather(*company, *leavers)


@pytest.mark.long
async def test_50_random_batchings_change_no_answer(pair: tuple[BatchingEngine, BatchingEngine]) -> None:
    await _random_batchings(pair, 50)


@pytest.mark.long
async def test_many_random_batchings_change_no_answer(pair: tuple[BatchingEngine, BatchingEngine]) -> None:
    await _random_batchings(pair, budgeted(1000, 200))


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["recommended_temperature", "is_available_in_winter"],
    "properties": {
        "recommended_temperature": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_available_in_winter": {"type": "boolean"},
    },
}


@pytest.mark.long
async def test_a_schema_s_fixed_text_is_not_computed_token_by_token(packaged: Path, tokenizer: HubTokenizer) -> None:
    compiler = open_compiler(tokenizer)
    request = ChatRequest(
        user_message("Describe a swimming pool as JSON."),
        response_format={"type": "json_schema", "json_schema": {"name": "pool", "schema": SCHEMA}},
    )
    prompt, grammar = tokenizer.encode_chat(request.messages), answer_grammar(request)
    assert grammar is not None
    cache_dir = Settings().model_cache_dir
    answers: list[tuple[str, Said, EngineOutput]] = []
    told: JsonObject = {}
    try:
        for made in (None, speculation(FreeRows())):
            library = own_library(cache_dir)
            step = open_step(packaged, "int4", cache_dir, library, Caches(512), 1)
            engine = BatchingEngine(step, tokenizer, 512, 1, 2, {}, made)
            try:
                for temperature in (0.0, 1.0):
                    constraint = await compiler.compile(grammar.lark, grammar.field)
                    sampling = Sampling(temperature, 1.0, 60, 5, constraint=constraint, top_logprobs=1)
                    answers.append(await said(engine, prompt, sampling))
                told = engine.describe()
            finally:
                engine.close()
    except NoKernel as error:
        pytest.skip(f"no kernels here: {error}")
    finally:
        compiler.close()
    assert answers[:2] == answers[2:]
    assert '"recommended_temperature": ' in answers[0][0]
    tokens = sum(piece.completion_tokens for _, _, piece in answers[2:])
    assert told["accepted_tokens"] > tokens / 2
