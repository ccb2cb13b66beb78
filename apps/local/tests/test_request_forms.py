"""What a request may ask of the local model beyond a chat, from the real packaged model, on each engine."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.core.deltas import Answer, collect
from apps.core.errors import InvalidValue
from apps.core.messages import ChatRequest, Message, user_message
from apps.core.settings import Settings
from apps.local.checkpoint import Report
from apps.local.loading import Loaded, load_local
from apps.local.model import LocalModel
from apps.local.tokenizer import HubTokenizer

pytestmark = pytest.mark.local
QUESTION = user_message("What is Python?")
RAW = user_message("The capital of France is")


@pytest.fixture(scope="module", params=[pytest.param("plain", marks=pytest.mark.long), "batching"])
def model(request: pytest.FixtureRequest, packaged: Path) -> Iterator[LocalModel]:
    def load_plain(settings: Settings, report: Report) -> Loaded:
        from apps.local.engine.plain.engine import load_plain_engine

        tokenizer = HubTokenizer(packaged)
        return Loaded("smol", load_plain_engine(packaged, tokenizer, "fp32", settings.local_slots), tokenizer)

    async def started(model: LocalModel) -> LocalModel:
        await model.start()
        assert (await model.settled()).state == "ready"
        return model

    batching = request.param == "batching"
    settings = Settings(
        _env_file=None,
        local_model=str(packaged),
        local_precision="fp32",
        model_cache_dir=Settings().model_cache_dir,
    )
    model = asyncio.run(started(LocalModel(settings, load_local if batching else load_plain)))
    yield model
    asyncio.run(model.aclose())


async def ask(model: LocalModel, messages: tuple[Message, ...] = QUESTION, **fields: Any) -> Answer:
    fields = {"max_tokens": 12, "temperature": 0.0, **fields}
    return await collect(model.stream(ChatRequest(messages, **fields)))


@pytest.mark.long
async def test_a_regex_a_choice_and_a_grammar_hold_the_answer(model: LocalModel) -> None:
    answer = await ask(model, answer_regex=r"^\d{3}/[a-c]+\.$", max_tokens=40)
    assert re.fullmatch(r"\d{3}/[a-c]+\.", answer.text)
    assert (await ask(model, answer_choices=("schön", 'a "b"'))).text in ("schön", 'a "b"')
    assert (await ask(model, answer_grammar='start: "x" NUMBER\nNUMBER: /[0-9]{2}/')).text[0] == "x"
    gbnf = 'root ::= "yes" | "no"'
    assert (await ask(model, answer_grammar=gbnf)).text in ("yes", "no")
    wrong: list[dict[str, Any]] = [{"answer_regex": "("}, {"answer_grammar": "start: nonsense"}, {"answer_regex": " "}]
    for fields in wrong:
        with pytest.raises(InvalidValue) as refused:
            await ask(model, **fields)
        assert refused.value.field == "structured_outputs"
    with pytest.raises(InvalidValue):
        await ask(model, answer_regex="a", response_format={"type": "json_object"})


async def test_a_prefilled_answer_goes_on(model: LocalModel) -> None:
    begun = (*QUESTION, Message("assistant", "Python is a high-level"))
    answer = await ask(model, begun, continue_final_message=True)
    assert answer.text.startswith(" programming") or answer.text.startswith(",")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_thoughts_are_as_long_as_their_budget(model: LocalModel, temperature: float) -> None:
    begun = (*QUESTION, Message("assistant", "<think>"))
    fields: dict[str, Any] = {"continue_final_message": True, "max_tokens": 24, "token_ids": True, "seed": 1}
    fields["temperature"] = temperature
    free = await ask(model, begun, **fields)
    assert (free.text, free.usage and free.usage.reasoning_tokens) == ("", 24)
    bounded = await ask(model, begun, thinking_tokens=6, **fields)
    mark = await model.tokenize(ChatRequest(user_message("</think>"), raw=True), special=False)
    assert bounded.tokens[:6] == free.tokens[:6]
    assert bounded.tokens[6 : 6 + len(mark)] == mark
    assert bounded.reasoning == await model.detokenize(bounded.tokens[:6]) and bounded.text
    assert bounded.usage is not None and bounded.usage.reasoning_tokens == 6 + len(mark)
    # a model that does not think has nothing to bound
    fields["continue_final_message"] = False
    plain = [await ask(model, thinking_tokens=budget, **fields) for budget in (None, 0)]
    assert plain[0].text == plain[1].text


async def test_tokens_are_told_and_prompts_are_cut(model: LocalModel) -> None:
    request = ChatRequest(QUESTION, max_tokens=4, temperature=0.0, token_ids=True, prompt_logprobs=1)
    deltas = [delta async for delta in model.stream(request)]
    prompt = deltas[0].prompt
    assert prompt is not None and [delta.prompt for delta in deltas[1:]] == [None] * (len(deltas) - 1)
    assert list(prompt.tokens) == await model.tokenize(request)
    assert (await model.detokenize(prompt.tokens)).endswith("What is Python?<|im_end|>\n<|im_start|>assistant\n")
    tokens = [token for delta in deltas for token in delta.tokens]
    assert len(tokens) == 4 and await model.detokenize(tokens) == "".join(delta.text for delta in deltas)
    assert [entry.id for entry in prompt.logprobs] == list(prompt.tokens)
    assert prompt.logprobs[0].logprob is None
    for entry in prompt.logprobs[1:]:
        likeliest = entry.top[0]
        assert len(entry.top) == 1 and (entry.rank == 1) == (likeliest.id == entry.id)
    cut = ChatRequest(QUESTION, truncate_prompt=5)
    assert await model.tokenize(cut) == list(prompt.tokens[-5:])
    assert await model.tokenize(ChatRequest(QUESTION, truncate_prompt=5, truncate_right=True)) == list(
        prompt.tokens[:5]
    )
    whole = (*QUESTION, Message("assistant", "A language"))
    open_turn = await model.tokenize(ChatRequest(whole, continue_final_message=True))
    closed = await model.tokenize(ChatRequest(whole, generation_prompt=False))
    assert (await model.detokenize(closed)).removesuffix("<|im_end|>\n") == await model.detokenize(open_turn)
    echoed = await ask(model, whole, continue_final_message=True, echo=True, max_tokens=2)
    assert echoed.text.startswith("A language") and len(echoed.text) > len("A language")


async def test_a_prompt_is_cut_to_leave_room_for_the_answer(model: LocalModel) -> None:
    window = (await model.window(ChatRequest(QUESTION))).tokens
    long = user_message("word " * window)
    asked = ChatRequest(long, truncate_prompt=-1, max_tokens=7)
    assert len(await model.tokenize(asked)) == window - 7


@pytest.mark.long
async def test_token_prompts_are_the_texts_they_stand_for(model: LocalModel) -> None:
    tokens = await model.tokenize(ChatRequest(RAW, raw=True))
    assert await model.detokenize(tokens) == RAW[0].content
    text = await ask(model, RAW, raw=True)
    assert (await ask(model, (), raw=True, prompt_tokens=tuple(tokens))).text == text.text
    for wrong in ((), (-1,), (49152,)):
        with pytest.raises(InvalidValue) as refused:
            await ask(model, (), raw=True, prompt_tokens=wrong)
        assert refused.value.field == "prompt"


@pytest.mark.long
async def test_echo_says_the_prompt_first_with_its_log_probabilities(model: LocalModel) -> None:
    plain = await ask(model, RAW, raw=True, top_logprobs=2)
    for _ in range(2):
        # also where a cache could hold the prompt
        echoed = await ask(model, RAW, raw=True, echo=True, top_logprobs=2)
        assert echoed.text == f"{RAW[0].content}{plain.text}"
        tokens = await model.tokenize(ChatRequest(RAW, raw=True))
        prompt, answer = echoed.logprobs[: len(tokens)], echoed.logprobs[len(tokens) :]
        assert "".join(entry.token for entry in prompt) == RAW[0].content
        assert prompt[0].logprob is None and all(entry.logprob is not None for entry in prompt[1:])
        assert [entry.raw for entry in answer] == [entry.raw for entry in plain.logprobs]
    # what scores texts asks for no answer at all
    scored = await ask(model, RAW, raw=True, echo=True, top_logprobs=0, max_tokens=0)
    assert (scored.text, scored.finish_reason) == (RAW[0].content, "length")
    assert [entry.logprob for entry in scored.logprobs[1:]] == pytest.approx(
        [entry.logprob for entry in prompt[1:]], abs=1e-3
    )


@pytest.mark.long
async def test_prompt_log_probabilities_are_transformers(model: LocalModel, packaged: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokens = await model.tokenize(ChatRequest(RAW, raw=True))
    theirs = AutoModelForCausalLM.from_pretrained(packaged, dtype=torch.float32)
    with torch.inference_mode():
        rows = torch.log_softmax(theirs(torch.tensor([tokens])).logits[0], -1)
    expected = [float(rows[i, token]) for i, token in enumerate(tokens[1:])]
    answer = await ask(model, RAW, raw=True, echo=True, top_logprobs=0, max_tokens=0)
    assert [entry.logprob for entry in answer.logprobs[1:]] == pytest.approx(expected, abs=2e-3)


@pytest.mark.long
async def test_samplers_are_each_answers_own_in_a_batch(model: LocalModel) -> None:
    plain = await ask(model)
    tokens = await model.tokenize(ChatRequest(user_message(plain.text), raw=True))
    calls: list[dict[str, Any]] = [
        {},
        {"logit_bias": {tokens[0]: -100.0}},
        {"repetition_penalty": 1.8},
        {"frequency_penalty": 1.5, "presence_penalty": 1.5, "max_tokens": 30},
        {"temperature": 1.0, "seed": 5, "top_k": 3},
        {"temperature": 1.0, "seed": 5, "min_p": 0.4},
        {"temperature": 1.5, "top_k": 1},
    ]
    alone = [(await ask(model, **call)).text for call in calls]
    assert [answer.text for answer in await asyncio.gather(*(ask(model, **call) for call in calls))] == alone
    assert alone[0] == alone[6] == plain.text
    assert not alone[1].startswith(plain.text[:6])
    assert len(set(alone[:4])) == 4


@pytest.mark.long
async def test_min_tokens_and_ignore_eos(model: LocalModel) -> None:
    short = user_message("What is the capital of France? Answer with one word.")
    natural = await ask(model, short, max_tokens=40)
    assert natural.usage is not None and natural.finish_reason == "stop" and natural.usage.completion_tokens < 30
    longer = await ask(model, short, max_tokens=40, min_tokens=30)
    assert longer.usage is not None and longer.usage.completion_tokens >= 30
    endless = await ask(model, short, max_tokens=40, ignore_eos=True)
    assert (endless.finish_reason, endless.usage and endless.usage.completion_tokens) == ("length", 40)


async def test_tokens_that_stop_that_are_allowed_and_words_that_are_not_written(model: LocalModel) -> None:
    plain = await ask(model, token_ids=True)
    stopped = await ask(model, stop_tokens=(plain.tokens[4],), token_ids=True)
    assert (stopped.finish_reason, stopped.stopped_by) == ("stop", plain.tokens[4])
    assert plain.text.startswith(stopped.text) and plain.stopped_by is None
    assert (await ask(model, stop=(plain.text[4:8], "nowhere"))).stopped_by == plain.text[4:8]
    # told of as an end token is: among the tokens, and no part of the text
    assert stopped.tokens == plain.tokens[: plain.tokens.index(plain.tokens[4]) + 1]
    entries = (await ask(model, stop_tokens=(plain.tokens[4],), top_logprobs=0)).logprobs
    assert [entry.id for entry in entries] == stopped.tokens[:-1]
    entries = (await ask(model, stop_tokens=(plain.tokens[4],), top_logprobs=0, token_ids=True)).logprobs
    assert [entry.id for entry in entries] == stopped.tokens
    few = await ask(model, allowed_tokens=plain.tokens[:2], token_ids=True)
    assert set(few.tokens) <= set(plain.tokens[:2]) and few.finish_reason == "length"
    word = plain.text.split()[0]
    assert not re.match(rf"\s*{re.escape(word)}\b", (await ask(model, bad_words=(word,))).text)
    scored = await ask(model, scored_tokens=(5, 6), allowed_tokens=(7,), top_logprobs=3, max_tokens=1)
    assert {entry.id for entry in scored.logprobs[0].top} == {5, 6, 7}
    wrong: dict[str, Any] = {
        "logprob_token_ids": {"scored_tokens": (10**9,), "top_logprobs": 0},
        "stop_token_ids": {"stop_tokens": (10**9,)},
        "logit_bias": {"logit_bias": {5: 1.0, 10**9: 1.0}},
        "allowed_token_ids": {"allowed_tokens": (10**9,)},
    }
    for field, fields in wrong.items():
        with pytest.raises(InvalidValue, match="must be of the model's 49152 tokens: 1000000000 is none") as refused:
            await ask(model, **fields)
        assert refused.value.field == field


async def test_a_required_call_is_the_end_of_the_answer(model: LocalModel) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"city": {"type": "string"}}}}}
    answer = await ask(model, user_message("Weather in Paris?"), tools=(tool,), tool_choice="required", max_tokens=300)
    assert answer.finish_reason == "tool_calls" and len(answer.tool_calls) == 1
    assert set(re.findall(r'"(\w+)":', answer.tool_calls[0].arguments)) <= {"city"}
